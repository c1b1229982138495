/* A long run: 100,000 training steps of a method, or of FVG-PT on CoOp, on a CLIP of 8 columns.  Memory must be the
   same after the first hundred steps and after the last, every loss finite, and a step must take as long in the second
   half as in the first (processor time of the fastest tenth of the run in each).
     cc -O2 tests/soak.c -o build/soak -lm
     build/soak [STEPS [METHOD...]]       100000 steps of CoOp, then of FVG-PT */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"

#include <time.h>
#include "small_model.h"

enum { SIDE = 4, CLASSES = 4, BATCH = 4, PICTURES = 16, PARTS = 10 };
static const char *const class_name[CLASSES] = {"cat", "dog", "a bird", "a fish"};
static float pixels[PICTURES][3 * SIDE * SIDE], feature[PICTURES * W], foreground[PICTURES * W], area[PICTURES];
static int label[PICTURES];

static void need(fvg_status s, const fvg_ctx *c) {
  if (!s) return;
  printf("FAILED %s\n0 passed, 1 failed\n", fvg_error(c));
  exit(1);
}

/* ---- a model and pictures ---- */
typedef struct bytes { uint8_t data[1 << 16]; size_t n; } bytes;
static int append(void *user, const void *from, size_t n) {
  bytes *to = (bytes *)user;
  if (n > sizeof to->data - to->n) return 1;
  memcpy(to->data + to->n, from, n);
  to->n += n;
  return 0;
}

static fvg_clip *open_model(fvg_ctx *c) {
  static bytes file;
  fvg_source s;
  fvg_weights *w = NULL;
  fvg_clip *m = NULL;
  make_model(c, append, &file);
  s = fvg_source_memory(file.data, file.n, "model");
  need(fvg_weights_open(c, &w, &s), c);
  need(fvg_clip_load(c, &m, w, config, FVG_F32), c);
  fvg_weights_close(w);
  s = fvg_source_memory(merges, sizeof merges - 1, "merges");
  need(fvg_clip_set_vocabulary(m, &s), c);
  m->logit_scale = 20;
  return m;
}

/* Noise around a mean of each class. */
static void draw_pictures(fvg_clip *m) {
  fvg_rng r;
  int i, k;
  fvg_rng_seed(&r, 8, 0);
  for (i = 0; i < PICTURES; i++) {
    label[i] = i % CLASSES;
    area[i] = 0.5f;
    for (k = 0; k < 3 * SIDE * SIDE; k++)
      pixels[i][k] = (float)fvg_rng_normal(&r) + (k % CLASSES == label[i] ? 2.0f : 0.0f);
  }
  need(fvg_clip_encode_images(m, feature, pixels[0], PICTURES), m->ctx);
  for (i = 0; i < PICTURES * W; i++) foreground[i] = feature[i] + 0.1f * (float)fvg_rng_normal(&r);
  fvg_normalize_rows(feature, PICTURES, W);
  fvg_normalize_rows(foreground, PICTURES, W);
}

/* ---- one step of either kind ---- */
typedef struct run {
  fvg_learner *l;
  fvg_fvgpt *f;                                          /* NULL: the learner is trained                              */
  fvg_optimizer *o;
  float g[CLASSES * W], g_clip[CLASSES * W];
  double lr;
} run;

static fvg_status take_step(run *x, float *loss, long step) {
  const int at = (int)(step * BATCH % PICTURES);
  fvg_batch b;
  fvg_fvgpt_batch fb;
  fvg_fvgpt_report report;
  fvg_status s;
  memset(&report, 0, sizeof report);
  if (!x->f) {
    memset(&b, 0, sizeof b);
    b.n = BATCH;
    b.label = label + at;
    b.f_clip = feature + at * W;
    b.pixels = b.pixels_fg = pixels[at];
    return fvg_learner_step(x->l, loss, x->o, x->lr, &b);
  }
  memset(&fb, 0, sizeof fb);
  fb.n = BATCH;
  fb.n_class = CLASSES;
  fb.f = fb.f_clip = feature + at * W;
  fb.f_fg = foreground + at * W;
  fb.g = x->g;
  fb.g_clip = x->g_clip;
  fb.area = area + at;
  fb.label = label + at;
  s = fvg_fvgpt_step(x->f, &report, x->o, x->lr, &fb);
  *loss = (float)report.loss;
  return s;
}

/* ---- many steps ---- */
/* 1 if all is well. */
static int soak(fvg_ctx *c, run *x, const char *name, long steps) {
  double second, fastest[2] = {1e30, 1e30}, first_loss = 0, last_loss = 0, sum = 0;
  size_t used = 0, peak = 0;
  long step;
  int part, finite = 1, steady, constant;
  for (part = 0, step = 0; part < PARTS; part++) {
    const clock_t from = clock();
    const long end = steps * (part + 1) / PARTS;
    sum = 0;
    for (; step < end; step++) {
      float loss = 0;
      need(take_step(x, &loss, step), c);
      finite &= loss - loss == 0;
      sum += loss;
      if (step == 99) {
        used = fvg_mem_used(c);
        peak = fvg_mem_peak(c);
      }
    }
    second = (double)(clock() - from) / CLOCKS_PER_SEC;
    if (second < fastest[2 * part / PARTS]) fastest[2 * part / PARTS] = second;
    sum /= (double)(steps / PARTS);
    if (part == 0) first_loss = sum;
    last_loss = sum;
  }
  steady = fvg_mem_used(c) == used && fvg_mem_peak(c) == peak;
  constant = fastest[1] < 1.25 * fastest[0] + 0.02;
  printf("%-14s %ld steps: %.1f us a step in the first half, %.1f in the second; loss %.4f, %.4f; %lu bytes, peak %lu%s%s%s\n",
         name, steps, 1e6 * fastest[0] * PARTS / (double)steps, 1e6 * fastest[1] * PARTS / (double)steps, first_loss,
         last_loss, (unsigned long)used, (unsigned long)peak, steady ? "" : "  FAILED: memory grows",
         finite ? "" : "  FAILED: a loss that is no number", constant ? "" : "  FAILED: steps become slower");
  return steady && finite && constant && last_loss < first_loss;
}

static int soak_method(fvg_clip *m, const char *name, long steps) {
  const int with_fvgpt = !strcmp(name, "FVG-PT");
  fvg_learner_desc ld;
  fvg_fvgpt_desc fd;
  fvg_optimizer_desc od;
  fvg_parameter *const *p;
  run x;
  int n, ok;
  memset(&x, 0, sizeof x);
  memset(&ld, 0, sizeof ld);
  memset(&fd, 0, sizeof fd);
  memset(&od, 0, sizeof od);
  ld.method = fvg_method_find(with_fvgpt ? "CoOp" : name);
  if (!ld.method) return 0;
  need(fvg_learner_new(m, &x.l, class_name, CLASSES, &ld), m->ctx);
  p = fvg_learner_parameters(x.l, &n);
  if (with_fvgpt) {
    fd.width = W;
    fd.logit_scale = m->logit_scale;
    need(fvg_fvgpt_new(m->ctx, &x.f, &fd), m->ctx);
    p = fvg_fvgpt_parameters(x.f, &n);
    need(fvg_learner_text_features(x.l, x.g, class_name, CLASSES), m->ctx);
    need(fvg_clip_encode_classes(m, x.g_clip, NULL, class_name, CLASSES), m->ctx);
  }
  od.lr = 0.001;
  x.lr = 0.001;
  need(fvg_optimizer_new(m->ctx, &x.o, p, n, &od), m->ctx);
  ok = soak(m->ctx, &x, name, steps);
  fvg_optimizer_free(x.o);
  fvg_fvgpt_free(x.f);
  fvg_learner_free(x.l);
  return ok;
}

int main(int argc, char **argv) {
  static const char *const usual[] = {"CoOp", "FVG-PT"};
  const long steps = argc > 1 ? strtol(argv[1], NULL, 10) : 100000;
  const int n = argc > 2 ? argc - 2 : 2;
  int i, passed = 0;
  fvg_ctx *c;
  fvg_clip *m;
  if (steps < 1000 || fvg_init(&c, NULL)) return 1;
  m = open_model(c);
  draw_pictures(m);
  for (i = 0; i < n; i++) passed += soak_method(m, argc > 2 ? argv[2 + i] : usual[i], steps);
  fvg_clip_free(m);
  passed += fvg_mem_used(c) == 0;
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, n + 1 - passed);
  return passed != n + 1;
}
