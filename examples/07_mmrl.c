/* 07 - MMRL: two features of every picture, and when to believe which.
        cc -O2 -I.. 07_mmrl.c -o mmrl -lm && ./mmrl tiny-clip ../build/demo/things

   MMRL's representation tokens learn the base classes; its class feature stays near CLIP.  Base classes are scored by
   a mix of both, new ones by the class feature alone.  Here each half is scored both ways, to see why. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_DIRENT                                          /* list folders through <dirent.h>                    */
#include "fvgpt_clip.h"

/* Accuracy in percent of a learner (NULL: zero-shot CLIP) on one half of the test images. */
static fvg_status test(fvg_clip *m, const fvg_dataset *d, fvg_group half, fvg_branch branch, fvg_learner *l,
                       double *accuracy) {
  int first, n_class = fvg_group_classes(d->n_class, half, &first);
  fvg_classifier *k = NULL;
  fvg_items items;
  fvg_score score;
  fvg_status s = fvg_items_group(m->ctx, &items, &d->test, d->n_class, half);
  if (!s) s = fvg_classifier_new(m, &k, branch, l, NULL, NULL, (const char *const *)d->class_name + first, n_class);
  if (!s) s = fvg_classifier_test(k, &score, d, &items);
  if (!s) *accuracy = score.accuracy;
  fvg_classifier_free(k);
  fvg_items_free(m->ctx, &items);
  return s;
}

static fvg_status report(fvg_clip *m, const fvg_dataset *d, const char *name, fvg_learner *l) {
  double base, new_;
  fvg_status s = test(m, d, FVG_BASE, l ? FVG_TUNED : FVG_ZERO_SHOT, l, &base);
  if (!s) s = test(m, d, FVG_NEW, l ? FVG_TUNED_NEW : FVG_ZERO_SHOT, l, &new_);
  if (!s) printf("%-12s base %6.2f  new %6.2f  H %6.2f\n", name, base, new_, fvg_harmonic_mean(base, new_));
  return s;
}

static fvg_status tune(fvg_clip *m, const fvg_dataset *d, const fvg_items *base) {
  int first, n_base = fvg_group_classes(d->n_class, FVG_BASE, &first), half;
  double mix, alone;
  fvg_learner *l = NULL;
  fvg_views *v = NULL;
  fvg_learner_desc desc;
  fvg_views_desc views;
  fvg_status s;
  memset(&desc, 0, sizeof desc);
  memset(&views, 0, sizeof views);
  desc.method = fvg_method_find("MMRL");
  views.augment = FVG_AUGMENT_NONE;
  views.no_foreground = 1;
  s = fvg_learner_new(m, &l, (const char *const *)d->class_name + first, n_base, &desc);
  if (!s) s = fvg_views_new(m, &v, d, &views);
  if (!s) s = fvg_learner_train(l, v, base, NULL);
  for (half = FVG_BASE; !s && half <= FVG_NEW; half++) {
    s = test(m, d, (fvg_group)half, FVG_TUNED, l, &mix);
    if (!s) s = test(m, d, (fvg_group)half, FVG_TUNED_NEW, l, &alone);
    if (!s)
      printf("%-4s classes   both features %6.2f   class feature %6.2f\n", half == FVG_BASE ? "base" : "new", mix,
             alone);
  }
  if (!s) s = report(m, d, "MMRL", l);
  fvg_views_free(v);
  fvg_learner_free(l);
  return s;
}

static fvg_status run(fvg_ctx *c, const char *model, const char *root) {
  fvg_clip *m = NULL;
  fvg_dataset d;
  fvg_dataset_desc where;
  fvg_items few, base;
  int fewest;
  fvg_status s;
  memset(&d, 0, sizeof d);
  memset(&where, 0, sizeof where);
  memset(&few, 0, sizeof few);
  memset(&base, 0, sizeof base);
  where.root = root;
  s = fvg_clip_open(c, &m, model, NULL, FVG_F32);
  if (!s) s = fvg_dataset_open(c, &d, &where);
  if (!s) s = fvg_items_few_shot(c, &few, &fewest, &d.train, d.n_class, 16, 1);        /* 16 a class, seed 1        */
  if (!s) s = fvg_items_group(c, &base, &few, d.n_class, FVG_BASE);
  if (!s) s = report(m, &d, "zero-shot", NULL);
  if (!s) s = tune(m, &d, &base);
  fvg_items_free(c, &base);
  fvg_items_free(c, &few);
  fvg_dataset_free(&d);
  fvg_clip_free(m);
  return s;
}

int main(int argc, char **argv) {
  fvg_status s;
  fvg_ctx *c;
  if (argc != 3) { fprintf(stderr, "usage: mmrl MODEL_DIR DATA_ROOT\n"); return 1; }
  if (fvg_init(&c, NULL)) return 1;
  s = run(c, argv[1], argv[2]);
  if (s) fprintf(stderr, "%s\n", fvg_error(c));
  fvg_free(c);
  return s != FVG_OK;
}
