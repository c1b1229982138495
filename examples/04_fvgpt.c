/* 04 - FVG-PT on pictures with masks: CoOp, then FVG-PT; base, new, H; and whom the gate trusts.
        cc -O2 -I.. 04_fvgpt.c -o fvgpt -lm && ./fvgpt tiny-clip ../build/demo/things        (after make demo)
   Equations (1) to (9) are in the last chapter of fvgpt.h. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_DIRENT                             /* list folders through <dirent.h> */
#include "fvgpt_clip.h"

static fvg_status print_row(fvg_clip *m, const char *name, const fvg_dataset *d, fvg_learner *l, fvg_fvgpt *f) {
  fvg_base_to_new score;
  fvg_status s = fvg_test_base_to_new(m, &score, d, l, f, NULL);
  if (!s) printf("%-10s base %6.2f   new %6.2f   H %6.2f\n", name, score.base, score.new_, score.h);
  return s;
}

/* f [2,d]: the features of the picture and of its foreground view; *area: how much of the picture that is. */
static fvg_status both_views(fvg_clip *m, float *f, float *area, const fvg_image *picture, const fvg_image *mask,
                             int invert) {
  fvg_preprocess nearest = m->preprocess;        /* a mask takes the way of its picture, without mixing pixels */
  nearest.filter = FVG_NEAREST;
  size_t pixels = (size_t)m->preprocess.size * (size_t)m->preprocess.size;
  float *x = FVG_NEW_ARRAY(m->ctx, float, 2 * 3 * pixels);
  fvg_image view, view_mask;
  memset(&view, 0, sizeof view);
  memset(&view_mask, 0, sizeof view_mask);
  fvg_status s = x ? fvg_image_test_transform(m->ctx, &view, picture, &m->preprocess) : FVG_E_NOMEM;
  if (!s) s = fvg_image_test_transform(m->ctx, &view_mask, mask, &nearest);
  if (!s) s = fvg_image_normalize(m->ctx, x, &view, &m->preprocess);

  if (!s) {
    for (size_t i = 0; invert && i < pixels; i++) view_mask.pixels[i] ^= 255;
    *area = fvg_foreground_view(x + 3 * pixels, x, &view_mask, NULL);
    s = fvg_clip_encode_images(m, f, x, 2);
  }
  if (!s) fvg_normalize_rows(f, 2, m->embed_dim);
  fvg_image_free(m->ctx, &view);
  fvg_image_free(m->ctx, &view_mask);
  fvg_release(m->ctx, x);
  return s;
}

/* The mean trust r over the task's pictures: with their masks, with other pictures' masks, and with inverted ones. */
static fvg_status print_trust(fvg_clip *m, const fvg_task *task, fvg_learner *l, fvg_fvgpt *fvgpt) {
  static const char *const kind[] = {"its own mask", "another picture's mask", "its mask inverted"};
  const fvg_item *item = task->items.item;
  int n = task->items.n, d = m->embed_dim;
  float *g = FVG_NEW_ARRAY(m->ctx, float, (size_t)(task->n_class * d));
  float *f = FVG_NEW_ARRAY(m->ctx, float, (size_t)(2 * d)), area, r = 0;
  fvg_status s = g && f ? fvg_learner_text_features(l, g, task->class_name, task->n_class) : FVG_E_NOMEM;
  const fvg_fvgpt_batch one = {1, task->n_class, f, f + d, NULL, NULL, NULL, g, NULL, &area, NULL};

  for (int k = 0; !s && k < 3; k++) {
    double sum = 0;
    for (int i = 0; !s && i < n; i++) {
      fvg_image picture, mask;
      s = fvg_dataset_load(task->dataset, &picture, &mask, &item[k == 1 ? (i + n / 2) % n : i], 0);
      fvg_image_free(m->ctx, &picture);
      if (!s) s = fvg_dataset_load(task->dataset, &picture, NULL, &item[i], 0);
      if (!s) s = both_views(m, f, &area, &picture, &mask, k == 2);
      if (!s) s = fvg_fvgpt_trust(fvgpt, &r, &one);
      sum += (double)r;
      fvg_image_free(m->ctx, &picture);
      fvg_image_free(m->ctx, &mask);
    }
    if (!s) printf("trust r = %.2f with %s\n", sum / n, kind[k]);
  }
  fvg_release(m->ctx, g);
  fvg_release(m->ctx, f);
  return s;
}

static fvg_status run(fvg_ctx *c, const char *model, const char *root) {
  static fvg_dataset_desc where;                 /* static: zero, and zero is the published default */
  static fvg_dataset d;
  static fvg_task base;
  const fvg_task_desc sixteen = {FVG_TRAIN, FVG_BASE, 16, 1};                  /* shots a class, seed 1 */
  fvg_clip *m = NULL;
  where.root = root;
  fvg_status s = fvg_clip_open(c, &m, model, NULL, FVG_F32);
  if (!s) s = fvg_dataset_open(c, &d, &where);
  if (!s) s = fvg_task_draw(&base, &d, &sixteen);

  static fvg_views_desc plain;                   /* pictures and masks as they are, without random crops */
  static fvg_learner_desc words;                 /* stage 1: CoOp learns the four words before a class name */
  fvg_learner *coop = NULL;
  fvg_views *v = NULL;
  plain.augment = FVG_AUGMENT_NONE;
  words.ctx_init = "a photo of a";
  if (!s) s = fvg_learner_new(m, &coop, base.class_name, base.n_class, &words);
  if (!s) s = fvg_views_new(m, &v, &d, &plain);
  if (!s) s = fvg_learner_train(coop, v, &base, NULL);

  static fvg_fvgpt_desc modules;                 /* stage 2: FVG-PT's gates and adapters, CoOp frozen */
  fvg_fvgpt *fvgpt = NULL;
  modules.width = m ? m->embed_dim : 0;
  modules.logit_scale = m ? m->logit_scale : 0;
  if (!s) s = fvg_fvgpt_new(c, &fvgpt, &modules);
  if (!s) s = fvg_fvgpt_train(fvgpt, coop, v, &base, NULL);

  if (!s) s = print_row(m, "zero-shot", &d, NULL, NULL);
  if (!s) s = print_row(m, "CoOp", &d, coop, NULL);
  if (!s) s = print_row(m, "FVG-PT", &d, coop, fvgpt);
  if (!s) s = print_trust(m, &base, coop, fvgpt);
  fvg_fvgpt_free(fvgpt);
  fvg_views_free(v);
  fvg_learner_free(coop);
  fvg_task_free(&base);
  fvg_dataset_free(&d);
  fvg_clip_free(m);
  return s;
}

int main(int argc, char **argv) {
  fvg_ctx *c;
  if (argc != 3) return fprintf(stderr, "usage: fvgpt MODEL_DIR DATA_ROOT\n"), 1;
  if (fvg_init(&c, NULL)) return 1;
  fvg_status s = run(c, argv[1], argv[2]);
  if (s) fprintf(stderr, "%s\n", fvg_error(c));
  fvg_free(c);
  return s != FVG_OK;
}
