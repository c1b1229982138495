/* All pictures and folds of them; see fvgpt_tune_all.h. */
#include "fvgpt_tune_all.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { USUAL_FOLDS = 5 };

/* ---- options ---- */
fvg_status check_all_options(fvg_ctx *c, const tune_options *o) {
  const learner_options *l = &o->learner;
  if (!l->all) {
    if (o->folds < 0) return FVG_OK;
    return fvg_fail(c, FVG_E_ARG, "--folds says how --all is tested; give --all too");
  }

  const struct { int given; const char *why; } useless[] = {
    {l->few_shot, "--few-shot: --all tunes all classes as it does, but on all pictures"},
    {l->transfer_to != NULL, "--transfer-to: --all has no test pictures"},
    {o->calibration != PUBLISHED, "--calibration: it is for new classes, and --all has none"},
    {o->choose.n, "--choose: it needs val pictures, and --all trains on them"},
    {o->data.val >= 0, "--val: --all trains on val and test too"},
  };
  for (size_t i = 0; i < sizeof useless / sizeof *useless; i++) {
    if (useless[i].given)
      return fvg_fail(c, FVG_E_ARG, "%s; leave out one of the two", useless[i].why);
  }
  if (o->folds == 1)
    return fvg_fail(c, FVG_E_ARG, "--folds 1: 2 to 20 are expected, or 0 for no estimate");
  return FVG_OK;
}

fvg_status add_fold_runs(tuning *t, fvg_ctx *c) {
  if (!t->o->learner.all) return FVG_OK;
  t->n_fold = t->o->folds < 0 ? USUAL_FOLDS : t->o->folds;
  const int n_seed = t->n_seed;
  if (n_seed * (1 + t->n_fold) > MAX_SEEDS) {
    return fvg_fail(c, FVG_E_ARG, "%d seeds with %d folds each are more than %d runs", n_seed,
                    t->n_fold, MAX_SEEDS);
  }

  int seed[MAX_SEEDS];
  memcpy(seed, t->seed, sizeof seed);
  t->n_seed = 0;
  for (int i = 0; i < n_seed; i++) {
    for (int fold = 0; fold <= t->n_fold; fold++) {
      t->seed[t->n_seed] = seed[i];
      t->fold[t->n_seed++] = fold;
    }
  }
  return FVG_OK;
}

/* ---- all pictures ---- */
static int compare_places(const void *a, const void *b) {
  const fvg_item *x = (const fvg_item *)a;
  const fvg_item *y = (const fvg_item *)b;
  if (x->label != y->label) return x->label < y->label ? -1 : 1;
  return strcmp(x->path, y->path);
}

/* The order does not tell the splits, so that it is the same however a folder was cut. */
fvg_status join_splits(fvg_dataset *d) {
  fvg_items *part[3] = {&d->train, &d->val, &d->test};
  fvg_items all = {NULL, 0};
  const size_t n = (size_t)d->train.n + (size_t)d->val.n + (size_t)d->test.n;
  all.item = FVG_NEW_ARRAY(d->ctx, fvg_item, n);
  if (!all.item) return FVG_E_NOMEM;
  for (int k = 0; k < 3; k++) {
    for (int i = 0; i < part[k]->n; i++) all.item[all.n++] = part[k]->item[i];
    fvg_items_free(d->ctx, part[k]);
  }

  qsort(all.item, (size_t)all.n, sizeof *all.item, compare_places);
  int kept = 0;
  for (int i = 0; i < all.n; i++) {
    if (!kept || compare_places(&all.item[i], &all.item[kept - 1])) all.item[kept++] = all.item[i];
  }
  all.n = kept;
  d->train = all;
  fvg_log(d->ctx, 1, "%.200s: with --all, all %d pictures of its %d class%s train", d->root, all.n,
          d->n_class, d->n_class == 1 ? "" : "es");
  return FVG_OK;
}

/* ---- folds ---- */
/* Deals the pictures of a task: fold [task->items.n] from 1, or 0 for a picture that is the only
   one of its class.  Classes follow each other in the deal, so that folds are of one size, and of
   one class as far as that goes. */
static fvg_status deal(const fvg_task *task, int seed, int n_fold, int *fold) {
  fvg_ctx *c = task->dataset->ctx;
  const fvg_item *item = task->items.item;
  int *of_class = FVG_NEW_ARRAY(c, int, (size_t)task->items.n);
  if (!of_class) return FVG_E_NOMEM;
  int n_dealt = 0;
  for (int label = 0; label < task->n_class; label++) {
    int n = 0;
    for (int i = 0; i < task->items.n; i++) {
      if (item[i].label == label) of_class[n++] = i;
    }
    fvg_rng rng;
    fvg_rng_seed(&rng, (uint64_t)seed, 1000000u + (uint64_t)label);
    fvg_rng_permute(&rng, of_class, n);
    for (int i = 0; i < n; i++) fold[of_class[i]] = n < 2 ? 0 : 1 + n_dealt++ % n_fold;
  }
  fvg_release(c, of_class);
  return FVG_OK;
}

/* Counts the pictures of the class that has the fewest. */
static int fewest_of(const fvg_task *task, int *poorest) {
  int fewest = task->items.n;
  for (int label = 0; label < task->n_class; label++) {
    int n = 0;
    for (int i = 0; i < task->items.n; i++) n += task->items.item[i].label == label;
    if (n >= fewest) continue;
    fewest = n;
    *poorest = label;
  }
  return fewest;
}

fvg_status take_fold(const tuning *t, int run, fvg_task *task, fvg_task *test) {
  fvg_ctx *c = t->c;
  fvg_items *train = &task->items;
  int *fold = FVG_NEW_ARRAY(c, int, (size_t)train->n);
  *test = *task;
  test->items.n = 0;
  test->items.item = FVG_NEW_ARRAY(c, fvg_item, (size_t)train->n);
  fvg_status s = fold && test->items.item ? deal(task, t->seed[run], t->n_fold, fold)
                                          : FVG_E_NOMEM;
  const int n = train->n;
  train->n = 0;
  for (int i = 0; !s && i < n; i++) {
    fvg_items *to = fold[i] == t->fold[run] ? &test->items : train;
    to->item[to->n++] = train->item[i];
  }
  int poorest;
  task->fewest = fewest_of(task, &poorest);
  test->fewest = fewest_of(test, &poorest);
  if (s) fvg_task_free(test);
  fvg_release(c, fold);
  return s;
}

fvg_status check_folds(const tuning *t, const fvg_task *task) {
  const char *root = task->dataset->root;
  const int n_fold = t->n_fold;
  int *fold = FVG_NEW_ARRAY(t->c, int, (size_t)task->items.n);
  fvg_status s = fold ? deal(task, t->seed[0], n_fold, fold) : FVG_E_NOMEM;
  int n_dealt = 0;
  for (int i = 0; !s && i < task->items.n; i++) n_dealt += fold[i] > 0;
  fvg_release(t->c, fold);
  if (s) return s;

  if (n_dealt < n_fold) {
    return fvg_fail(t->c, FVG_E_ARG,
                    "%.200s: --folds %d: %d pictures are in classes of two or more, which is too "
                    "few to test; give --folds 0",
                    root, n_fold, n_dealt);
  }
  int poorest = 0;
  const int fewest = fewest_of(task, &poorest);
  if (fewest == 1) {
    fvg_log(t->c, 0,
            "%.200s: \"%.60s\" has one picture; such classes are tuned on and not tested",
            root, task->class_name[poorest]);
  } else if (fewest < n_fold) {
    fvg_log(t->c, 0, "%.200s: \"%.60s\" has %d pictures, which only %d of the %d folds test", root,
            task->class_name[poorest], fewest, fewest, n_fold);
  }
  return FVG_OK;
}
