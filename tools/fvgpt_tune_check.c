/* Checks before a run; see fvgpt_tune_check.h. */
#include "fvgpt_tune_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvgpt_checks.h"
#include "fvgpt_print.h"
#include "fvgpt_results.h"
#include "fvgpt_tune_all.h"

fvg_status draw(const tuning *t, const fvg_dataset *d, int shots, int seed, fvg_task *task) {
  fvg_task_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.split = FVG_TRAIN;
  desc.group = t->train_half;
  desc.shots = shots;
  desc.seed = (uint64_t)seed;
  return fvg_task_draw(task, d, &desc);
}

/* ---- the draws ---- */
static int count_label(const fvg_items *items, int label) {
  int n = 0;
  for (int i = 0; i < items->n; i++) n += items->item[i].label == label;
  return n;
}

/* Fewer images than shots are used as they are; a class without any cannot be learned. */
static fvg_status check_shots(const tuning *t, const table_entry *e, const fvg_task *task) {
  fvg_ctx *c = t->m->ctx;
  const char *root = task->dataset->root;
  int fewest = e->shots ? e->shots : task->items.n;
  int poorest = 0;
  for (int label = 0; label < task->n_class; label++) {
    const int n = count_label(&task->items, label);
    if (n >= fewest) continue;
    fewest = n;
    poorest = label;
  }

  const char *name = task->class_name[poorest];
  if (fewest == 0)
    return fvg_fail(c, FVG_E_ARG, "%s: class \"%s\" has no training images", root, name);
  if (fewest < e->shots) {
    fvg_log(c, 0,
            "%s: class \"%s\" has only %d training image%s for %d shots; all of them are used",
            root, name, fewest, plural(fewest), e->shots);
  }
  if (t->o->calibration && task->n_class < 4) {
    return fvg_fail(c, FVG_E_ARG,
                    "--calibration crossfit and guarded need two classes in each half of the base "
                    "classes; there are %d",
                    task->n_class);
  }
  return FVG_OK;
}

/* Adds the items of `more` to `all`. */
static fvg_status add_items(fvg_ctx *c, fvg_items *all, const fvg_items *more) {
  fvg_item *item = FVG_NEW_ARRAY(c, fvg_item, (size_t)all->n + (size_t)more->n);
  if (!item) return FVG_E_NOMEM;
  if (all->n) memcpy(item, all->item, (size_t)all->n * sizeof *item);
  if (more->n) memcpy(item + all->n, more->item, (size_t)more->n * sizeof *item);
  fvg_release(c, all->item);
  all->item = item;
  all->n += more->n;
  return FVG_OK;
}

static int compare_items(const void *a, const void *b) {
  const fvg_item *x = (const fvg_item *)a;
  const fvg_item *y = (const fvg_item *)b;
  return strcmp(x->path, y->path);
}

/* Sorts items by their paths and leaves each path once. */
static void leave_each_once(fvg_items *all) {
  if (!all->n) return;
  qsort(all->item, (size_t)all->n, sizeof *all->item, compare_items);
  int kept = 1;
  for (int i = 1; i < all->n; i++) {
    if (!strcmp(all->item[i].path, all->item[kept - 1].path)) continue;
    all->item[kept++] = all->item[i];
  }
  all->n = kept;
}

fvg_status draw_all(const tuning *t, int set, fvg_items *all) {
  fvg_status s = FVG_OK;
  memset(all, 0, sizeof *all);
  for (int i = 0; !s && i < t->n_entry * t->n_seed; i++) {
    const table_entry *e = &t->entry[i / t->n_seed];
    if (e->set != set) continue;
    fvg_task task;
    s = draw(t, &t->set[set], e->shots, t->seed[i % t->n_seed], &task);
    if (!s) s = add_items(t->m->ctx, all, &task.items);
    fvg_task_free(&task);
  }
  leave_each_once(all);
  return s;
}

static fvg_status count_masks(const fvg_dataset *d, const fvg_items *items, int *n) {
  *n = 0;
  for (int i = 0; i < items->n; i++) {
    char *path;
    fvg_status s = fvg_dataset_mask_path(d, &path, items->item[i].path);
    if (s) return s;
    *n += path != NULL;
    fvg_release(d->ctx, path);
  }
  return FVG_OK;
}

/* What those without a mask among masked pictures are trained as.  How many they are is told
   elsewhere. */
static void tell_unmasked(const fvg_dataset *d) {
  fvg_log(d->ctx, 1,
          "%.200s: FVG-PT trusts no foreground of a picture without a mask, and others take all of "
          "it for foreground; run fvgpt masks again, which makes those that are missing, or use "
          "--masks own",
          d->root);
}

/* Decides where the masks of a set come from, and checks those of files. */
static fvg_status check_masks(tuning *t, int set, findings *f) {
  fvg_ctx *c = t->m->ctx;
  const fvg_dataset *d = &t->set[set];
  fvg_items all;
  int n_masked = 0;
  fvg_status s = draw_all(t, set, &all);
  if (!s && all.n && any_needs_masks(t)) s = count_masks(d, &all, &n_masked);
  t->own_masks[set] =
      t->o->data.masks == MASKS_OWN || (t->o->data.masks == MASKS_AUTO && !n_masked);
  if (!s && all.n && any_needs_masks(t) && !t->own_masks[set]) {
    s = found(c, f, fvg_dataset_check_masks(d, &all));
    if (!s && n_masked && n_masked < all.n) tell_unmasked(d);
  }

  /* Other seeds, which may come later, find the same files. */
  if (!s && any_needs_masks(t) && t->own_masks[set]) {
    const fvg_items *const train = &d->train;
    char folder[1000];
    snprintf(folder, sizeof folder, "%.900s/masks", t->o->out);
    s = found(c, f, check_mask_names(d, folder, &train, 1));
  }
  fvg_items_free(c, &all);
  return s;
}

/* --choose needs pictures to choose by. */
static fvg_status check_val(const tuning *t, const fvg_dataset *d) {
  if (!t->o->choose.n || d->val.n) return FVG_OK;
  return fvg_fail(t->m->ctx, FVG_E_ARG,
                  "%s: --choose needs val pictures, and there are none; --val 20 keeps some where "
                  "class folders are cut",
                  d->root);
}

/* Checks the class counts of everything that trains on a data set. */
static fvg_status check_draws(const tuning *t, int set, findings *f) {
  fvg_status s = FVG_OK;
  for (int e = 0; !s && e < t->n_entry; e++) {
    if (t->entry[e].set != set) continue;
    fvg_task task;
    s = draw(t, &t->set[set], t->entry[e].shots, t->seed[0], &task);
    if (!s) s = found(t->m->ctx, f, check_shots(t, &t->entry[e], &task));
    if (!s && t->n_fold) s = found(t->m->ctx, f, check_folds(t, &task));
    fvg_task_free(&task);
  }
  return s;
}

/* ---- the run ---- */
/* The folders of all entries, rows and seeds. */
static fvg_status check_outputs(const tuning *t, findings *f) {
  fvg_ctx *c = t->m->ctx;
  fvg_status s = found(c, f, check_out_folder(c, t->o->out));
  if (s || f->status) return s;
  for (int e = 0; e < t->n_entry; e++) {
    for (int i = 0; !s && i < (t->n_row - 1) * t->n_seed; i++) {
      char path[1280];
      result_folder(t, e, 1 + i / t->n_seed, i % t->n_seed, path, sizeof path);
      s = found(c, f, check_out_folder(c, path));
    }
  }
  return s;
}

/* Names classes that --skip-bad leaves without a picture to test, whose accuracy would be missing
   in silence. */
static void tell_untested(fvg_ctx *c, const fvg_dataset *d) {
  int n = 0;
  int first = 0;
  for (int label = 0; label < d->n_class; label++) {
    if (count_label(&d->test, label)) continue;
    if (!n) first = label;
    n++;
  }
  if (!n) return;
  fvg_log(c, 0,
          "%.200s: %d of %d classes %s no test picture left, such as \"%.60s\"; accuracy is that "
          "of the others",
          d->root, n, d->n_class, n == 1 ? "has" : "have", d->class_name[first]);
}

/* With one class there is nothing to tell it from.  One class in a half makes every accuracy of
   that half 100 %, which looks like success. */
static fvg_status check_classes(const tuning *t, const fvg_dataset *d) {
  fvg_ctx *c = t->m->ctx;
  if (d->n_class < 2) {
    return fvg_fail(c, FVG_E_ARG,
                    "%.300s: there is one class only, so nothing can be learned; it needs a folder "
                    "of pictures for each of two classes at least",
                    d->root);
  }
  if (t->train_half != FVG_BASE || d->n_class > 3) return FVG_OK;
  fvg_log(c, 0,
          "%.300s: %s half has one class only, so its accuracy is 100 %% whatever is tuned; use "
          "--few-shot or --all",
          d->root, d->n_class == 2 ? "either" : "the new");
  return FVG_OK;
}

/* The files of a data set that is trained on. */
static fvg_status check_set_files(tuning *t, int set, findings *f) {
  fvg_ctx *c = t->m->ctx;
  fvg_dataset *d = &t->set[set];
  const int skip_bad = t->o->data.skip_bad;
  const int reads_masks = any_needs_masks(t) && t->o->data.masks != MASKS_OWN;
  const int masks = reads_masks ? FVG_CHECK_MASKS : 0;
  const fvg_status train = fvg_dataset_check(d, FVG_CHECK_TRAIN | masks, skip_bad);
  fvg_status s = found(c, f, train);
  if (!s) s = found(c, f, check_classes(t, d));
  if (!s) s = found(c, f, fvg_dataset_check(d, FVG_CHECK_VAL | FVG_CHECK_TEST, skip_bad));
  if (!s && !train && d->n_class > 1) s = check_draws(t, set, f);
  if (!s) s = found(c, f, check_val(t, d));
  if (!s && !train) s = check_masks(t, set, f);
  if (!s && skip_bad && !t->o->learner.all) tell_untested(c, d);
  return s;
}

/* Makes a learner of each method, of two classes, to see whether its options make sense
   together.  Heads have no options. */
static fvg_status check_learners(const tuning *t, findings *f) {
  fvg_ctx *c = t->m->ctx;
  const fvg_dataset *d = &t->set[0];
  const char *const *name = (const char *const *)d->class_name;
  fvg_status s = FVG_OK;
  for (int row = 1; !s && row < t->n_row; row++) {
    const table_row *r = &t->row[row];
    if (r->backbone >= 0 || !r->method) continue;
    fvg_option option[MAX_OPTIONS];
    fvg_learner_desc desc;
    fvg_learner *l = NULL;
    const int shots = t->entry[0].shots;
    s = learner_desc(c, &t->o->learner, r->method, d->card, shots, option, &desc);
    mute_log(1);
    const fvg_status made =
        s ? s : fvg_learner_new(t->m, &l, name, d->n_class < 2 ? 1 : 2, &desc);
    mute_log(0);
    fvg_learner_free(l);
    s = found(c, f, made);
  }
  return s;
}

/* Is there a picture to test a half of the classes with? */
static fvg_status check_test(fvg_ctx *c, const fvg_dataset *d, fvg_group half, findings *f) {
  fvg_task task;
  const fvg_status s = test_task(d, half, &task);
  if (!s) fvg_task_free(&task);
  return found(c, f, s);
}

static fvg_status check_tests(tuning *t, findings *f) {
  fvg_ctx *c = t->m->ctx;
  const int halves = t->train_half == FVG_BASE;
  fvg_status s = FVG_OK;
  if (t->o->learner.all) return FVG_OK;
  for (int i = 0; !s && i < t->n_set; i++) {
    s = check_test(c, &t->set[i], t->train_half, f);
    if (!s && halves) s = check_test(c, &t->set[i], FVG_NEW, f);
  }
  for (int i = 0; !s && i < t->n_target; i++) {
    s = check_test(c, &t->target[i], FVG_ALL, f);
    tell_one_class(c, t->target[i].root, t->target[i].n_class);
  }
  return s;
}

fvg_status check_run(tuning *t) {
  fvg_ctx *c = t->m->ctx;
  findings f;
  memset(&f, 0, sizeof f);
  fvg_status s = check_outputs(t, &f);
  if (!s) s = check_learners(t, &f);
  for (int i = 0; !s && i < t->n_set; i++) s = check_set_files(t, i, &f);
  for (int i = 0; !s && i < t->n_target; i++)
    s = found(c, &f, fvg_dataset_check(&t->target[i], FVG_CHECK_TEST, t->o->data.skip_bad));
  if (!s && !f.status) s = check_tests(t, &f);
  return s ? s : end_findings(c, &f);
}
