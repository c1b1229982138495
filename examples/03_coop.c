/* 03 - CoOp: learn four context vectors from 16 pictures a class, then name classes that training never saw.
        cc -O2 -I.. 03_coop.c -o coop -lm                     (for JPEG and PNG add -DFVGPT_STB_IMAGE)
        ./coop tiny-clip ../build/demo/things                  (after make demo; or any CLIP and data set)

   The base-to-new protocol in one page: tune on the first half of the classes, test on both halves. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_DIRENT                                          /* list folders through <dirent.h>                    */
#include "fvgpt_clip.h"

/* Accuracy in percent of a learner (NULL: zero-shot CLIP) on one half of the test images. */
static fvg_status test(fvg_clip *m, const fvg_dataset *d, fvg_group half, fvg_learner *l, double *accuracy) {
  int first, n_class = fvg_group_classes(d->n_class, half, &first);
  fvg_branch branch = !l ? FVG_ZERO_SHOT : half == FVG_BASE ? FVG_TUNED : FVG_TUNED_NEW;
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

static fvg_status report(fvg_clip *m, const fvg_dataset *d, const char *name, fvg_learner *p) {
  double base, new_;
  fvg_status s = test(m, d, FVG_BASE, p, &base);
  if (!s) s = test(m, d, FVG_NEW, p, &new_);
  if (!s) printf("%-10s base %6.2f  new %6.2f  H %6.2f\n", name, base, new_, fvg_harmonic_mean(base, new_));
  return s;
}

static fvg_status run(fvg_ctx *c, const char *model, const char *root) {
  fvg_clip *m = NULL;
  fvg_learner *p = NULL;
  fvg_views *v = NULL;
  fvg_dataset d;
  fvg_dataset_desc where;
  fvg_views_desc views;
  fvg_train_desc train;
  fvg_items few, base;
  int first, fewest, n_base;
  fvg_status s;
  memset(&d, 0, sizeof d);
  memset(&where, 0, sizeof where);
  memset(&views, 0, sizeof views);
  memset(&train, 0, sizeof train);                             /* zeros: the published settings                      */
  memset(&few, 0, sizeof few);
  memset(&base, 0, sizeof base);
  where.root = root;
  views.augment = FVG_AUGMENT_NONE;
  views.no_foreground = 1;
  s = fvg_clip_open(c, &m, model, NULL, FVG_F32);
  if (!s) s = fvg_dataset_open(c, &d, &where);
  if (!s) s = report(m, &d, "zero-shot", NULL);
  if (!s) s = fvg_items_few_shot(c, &few, &fewest, &d.train, d.n_class, 16, 1);
  if (!s) s = fvg_items_group(c, &base, &few, d.n_class, FVG_BASE);
  if (!s) n_base = fvg_group_classes(d.n_class, FVG_BASE, &first);
  if (!s) s = fvg_learner_new(m, &p, (const char *const *)d.class_name + first, n_base, NULL);
  if (!s) s = fvg_views_new(m, &v, &d, &views);
  if (!s) s = fvg_learner_train(p, v, &base, &train);
  if (!s) s = report(m, &d, "CoOp", p);
  fvg_views_free(v);
  fvg_learner_free(p);
  fvg_items_free(c, &base);
  fvg_items_free(c, &few);
  fvg_dataset_free(&d);
  fvg_clip_free(m);
  return s;
}

int main(int argc, char **argv) {
  fvg_status s;
  fvg_ctx *c;
  if (argc != 3) { fprintf(stderr, "usage: coop MODEL_DIR DATA_ROOT\n"); return 1; }
  if (fvg_init(&c, NULL)) return 1;
  s = run(c, argv[1], argv[2]);
  if (s) fprintf(stderr, "%s\n", fvg_error(c));
  fvg_free(c);
  return s != FVG_OK;
}
