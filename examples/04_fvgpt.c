/* 04 - FVG-PT on features: no pictures, no CLIP, only the method.      cc -O2 -I.. 04_fvgpt.c -o fvgpt -lm && ./fvgpt

   A toy of the paper's situation.  An image feature is object + surroundings; the foreground view keeps the object, but a
   quarter of the masks is bad and shows something else.  The tuned text features lean toward the surroundings that went
   with each class in training.  FVG-PT learns whom to trust; the adapters turn back to the object. */
#define FVGPT_IMPLEMENTATION
#include "fvgpt.h"

enum { D = 32, CLASSES = 8, BATCH = 4, STEPS = 2000, TESTS = 400 };

typedef struct world { fvg_rng rng; float object[CLASSES][D], scene[CLASSES][D], g[CLASSES * D], g_clip[CLASSES * D]; } world;

static void unit(float *x) {
  float norm = 0;
  int k;
  for (k = 0; k < D; k++) norm += x[k] * x[k];
  for (k = 0; k < D; k++) x[k] /= sqrtf(norm);
}

static void random_unit(fvg_rng *rng, float *x) {
  int k;
  for (k = 0; k < D; k++) x[k] = (float)fvg_rng_normal(rng);
  unit(x);
}

static void mix(const float *a, float wa, const float *b, float wb, fvg_rng *rng, float noise, float *out) {
  int k;
  for (k = 0; k < D; k++) out[k] = wa * a[k] + wb * b[k] + noise * (float)fvg_rng_normal(rng);
  unit(out);
}

static void make_world(world *w) {
  int c;
  fvg_rng_seed(&w->rng, 1, 0);
  for (c = 0; c < CLASSES; c++) { random_unit(&w->rng, w->object[c]); random_unit(&w->rng, w->scene[c]); }
  for (c = 0; c < CLASSES; c++) {
    mix(w->object[c], 1, w->scene[c], 0.9f, &w->rng, 0.03f, w->g + c * D);       /* tuned: has learnt the scenery   */
    mix(w->object[c], 1, w->scene[c], 0, &w->rng, 0.09f, w->g_clip + c * D);     /* plain CLIP: the name alone      */
  }
}

/* An image of class y before the scenery of class `scene`; returns whether its mask is good. */
static int draw(world *w, int y, int scene, float *f, float *f_fg) {
  int good = fvg_rng_below(&w->rng, 4) != 0;
  mix(w->object[y], 1, w->scene[scene], 1, &w->rng, 0.08f, f);
  mix(good ? w->object[y] : w->scene[fvg_rng_below(&w->rng, CLASSES)], 1, f, 0.1f, &w->rng, 0.08f, f_fg);
  return good;
}

/* Accuracy on images whose scenery is that of another class; FVG-PT's base branch, or the tuned model when m is NULL. */
static double test(world *w, fvg_fvgpt *m) {
  float f[D], f_fg[D], z[CLASSES];
  int i, c, k, right = 0;
  for (i = 0; i < TESTS; i++) {
    int y = i % CLASSES, best = 0;
    draw(w, y, (int)fvg_rng_below(&w->rng, CLASSES), f, f_fg);
    if (m) fvg_fvgpt_score_base(m, z, &x);
    else for (c = 0; c < CLASSES; c++) for (z[c] = 0, k = 0; k < D; k++) z[c] += f[k] * w->g[c * D + k];
    for (c = 1; c < CLASSES; c++) if (z[c] > z[best]) best = c;
    right += best == y;
  }
  return 100.0 * right / TESTS;
}

int main(void) {
  static world w;
  float f[BATCH * D], f_fg[BATCH * D], area[BATCH], r[BATCH];
  double trust[2] = {0, 0}, count[2] = {0, 0};
  int label[BATCH], good[BATCH], step, i, n;
  fvg_fvgpt_desc desc;
  fvg_fvgpt_batch batch;
  fvg_fvgpt_report report;
  fvg_optimizer *optimizer;
  fvg_fvgpt *m;
  fvg_ctx *c;
  fvg_parameter *const *params;
  make_world(&w);
  memset(&desc, 0, sizeof desc);
  memset(&batch, 0, sizeof batch);
  memset(&report, 0, sizeof report);
  desc.width = D;
  desc.logit_scale = 20;
  if (fvg_init(&c, NULL)) return 1;
  if (fvg_fvgpt_new(c, &m, &desc)) { fprintf(stderr, "%s\n", fvg_error(c)); return 1; }
  params = fvg_fvgpt_parameters(m, &n);
  if (fvg_optimizer_new(c, &optimizer, NULL, params, n)) { fprintf(stderr, "%s\n", fvg_error(c)); return 1; }
  printf("base accuracy before other scenery: tuned model %.1f %%\n", test(&w, NULL));
  batch.n = BATCH;
  batch.n_class = CLASSES;
  batch.f = f;
  batch.f_fg = f_fg;
  batch.g = w.g;
  batch.g_clip = w.g_clip;
  batch.area = area;
  batch.label = label;
  report.r = r;
  for (step = 0; step < STEPS; step++) {
    for (i = 0; i < BATCH; i++) {
      label[i] = (int)fvg_rng_below(&w.rng, CLASSES);
      good[i] = draw(&w, label[i], fvg_rng_below(&w.rng, 3) ? label[i] : (int)fvg_rng_below(&w.rng, CLASSES), f + i * D, f_fg + i * D);
      area[i] = good[i] ? 0.3f : 0.1f;
    }
    if (fvg_fvgpt_step(m, &report, optimizer, 0.0035, &batch)) { fprintf(stderr, "%s\n", fvg_error(c)); return 1; }
    if (step % 500 == 499) printf("step %4d  loss %.3f  of it distillation %.3f\n", step + 1, report.loss, report.dist);
    for (i = 0; i < BATCH && step >= STEPS / 2; i++) { trust[good[i]] += r[i]; count[good[i]]++; }
  }
  printf("foreground trust r: %.2f on good masks, %.2f on bad ones\n", trust[1] / count[1], trust[0] / count[0]);
  printf("base accuracy before other scenery: FVG-PT %.1f %%\n", test(&w, m));
  fvg_optimizer_free(optimizer);
  fvg_fvgpt_free(m);
  fvg_free(c);
  return 0;
}
