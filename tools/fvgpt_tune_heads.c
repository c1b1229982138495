/* Heads as rows of the table; see fvgpt_tune_heads.h. */
#include "fvgpt_tune_heads.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fvgpt_checks.h"
#include "fvgpt_results.h"
#include "fvgpt_tune_choose.h"
#include "fvgpt_tune_marks.h"

static fvg_head_kind kind_of(const table_row *r) { return (fvg_head_kind)(r->head - 1); }

/* ---- training features ---- */
int head_crops(const tuning *t) {
  const int usual_crops = 10;
  switch (t->augment.augment) {
    case FVG_AUGMENT_CROP: return usual_crops;
    case FVG_AUGMENT_FIXED_CROPS: return t->augment.n_crops;
    case FVG_AUGMENT_NONE: case FVG_AUGMENT_SQUASH: break;
  }
  return 1;
}

/* Views that are the same for all heads and seeds: crops of at least half the picture, as GDA was
   published. */
static fvg_status views_of_heads(tuning *t) {
  if (t->head_views) return FVG_OK;
  fvg_views_desc desc = t->augment;
  desc.no_foreground = 1;
  desc.crop_scale_min = 0.5f;
  if (desc.augment == FVG_AUGMENT_CROP) {
    desc.augment = FVG_AUGMENT_FIXED_CROPS;
    desc.n_crops = head_crops(t);
  }
  return fvg_views_new(t->m, &t->head_views, t->d, &desc);
}

/* ---- fitting ---- */
/* Settings are chosen on val where there are pictures of it. */
static fvg_status fit(tuning *t, const table_row *r, const seed_run *run, fvg_head **h) {
  fvg_head_task x;
  fvg_head_desc desc;
  memset(&x, 0, sizeof x);
  memset(&desc, 0, sizeof desc);
  desc.gda_rule = t->train_half == FVG_BASE ? FVG_GDA_BASE_TO_NEW : FVG_GDA_FEW_SHOT;
  desc.seed = (uint64_t)run->seed;
  fvg_status s = views_of_heads(t);
  if (!s && t->d->val.n) s = make_val(t, run);
  if (!s && t->val.task.items.n) {
    s = test_encode(t->m, &t->val);
    x.val = &t->val.task;
    x.f_val = t->val.f;
  }
  x.train = run->task;
  x.views = t->head_views;
  x.n_view = head_crops(t);
  x.prompt_template = plain_template(t, t->d);
  return s ? s : fvg_head_fit_task(t->m, h, kind_of(r), &x, &desc);
}

/* The head of a finished checkpoint; *h stays NULL if there is none.  Other settings are an
   error. */
static fvg_status reuse_head(tuning *t, const char *path, const description *about,
                             const fvg_task *task, fvg_head **h) {
  if (!fvg_file_exists(path)) return FVG_OK;
  fvg_head_checkpoint x;
  fvg_status s = fvg_head_checkpoint_load(t->m, &x, path);
  if (!s) s = check_head_settings(t->c, path, &x, &about->settings, task);
  if (!s) {
    *h = x.head;
    x.head = NULL;
  }
  fvg_head_checkpoint_free(t->m, &x);
  return s;
}

fvg_status check_earlier_head(tuning *t, int row, const seed_run *run) {
  char folder[1280], path[1400];
  description about;
  fvg_head *h = NULL;
  result_folder(t, (int)(t->at - t->entry), row, run->number, folder, sizeof folder);
  checkpoint_in(folder, path, sizeof path);
  describe_head(t, &t->row[row], run->number, run->task, &about);
  fvg_status s = reuse_head(t, path, &about, run->task, &h);
  fvg_head_free(h);
  return s;
}

static fvg_status save_head(tuning *t, const char *path, const description *about,
                            const seed_run *run, fvg_head *h) {
  fvg_head_checkpoint x;
  memset(&x, 0, sizeof x);
  x.head = h;
  x.class_name = run->task->class_name;
  x.n_class = run->task->n_class;
  x.prompt_template = template_of(plain_template(t, t->d), NULL);
  fvg_status s = check_claim(t->c);
  if (s) return s;
  return fvg_head_checkpoint_save(t->m, path, &x, about->settings.entry, about->settings.n);
}

/* Is it a setting that val chooses, and not one that is fixed or follows from others? */
static int is_chosen(const char *name) {
  static const char *const known[] = {"c", "ratio", "alpha", "beta", "epoch"};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    if (!strcmp(known[i], name)) return 1;
  }
  return 0;
}

/* What val has chosen, for the table. */
static void keep_choice(tuning *t, int row, int run, const fvg_head *h) {
  chosen *x = &t->chosen[row][run];
  const char *name;
  double value;
  int chose = 0;
  memset(x, 0, sizeof *x);
  for (int i = 0; fvg_head_choice(h, i, &name, &value); i++) {
    if (!strcmp(name, "val_accuracy")) {
      x->val.accuracy = value;
      chose = 1;
    }
    if (is_chosen(name) && x->what.n < MAX_VARIATIONS) vary(&x->what, name, value);
  }
  if (!chose) x->what.n = 0;
}

static fvg_status make_head(tuning *t, int row, const seed_run *run, fvg_head **h) {
  const table_row *r = &t->row[row];
  char folder[160], path[1600], of_run[RUN_BYTES], name[RUN_BYTES];
  description about;
  *h = NULL;
  name_run(t, run->number, name);
  run_folder(t, run->number, of_run);
  snprintf(folder, sizeof folder, "%s/%s", r->name, of_run);
  describe_head(t, r, run->number, run->task, &about);
  fvg_status s = prepare_folder(t, folder, path, sizeof path);
  if (!s) s = reuse_head(t, path, &about, run->task, h);
  if (s) return s;
  if (*h) {
    fvg_log(t->c, 1, "%s %s: reusing %s", r->name, name, path);
  } else {
    s = fit(t, r, run, h);
    if (!s) s = save_head(t, path, &about, run, *h);
  }
  if (!s) keep_choice(t, row, run->number, *h);
  return s;
}

/* ---- testing ---- */
/* The accuracy of a classifier of plain CLIP's features. */
static fvg_status test_by(tuning *t, const fvg_classifier_desc *desc, test_set *x,
                          double *accuracy) {
  fvg_classifier *k = NULL;
  fvg_score score;
  fvg_status s = test_encode(t->m, x);
  if (!s) s = fvg_classifier_new(t->m, &k, x->task.class_name, x->task.n_class, desc);
  if (!s) s = score_by(t->c, x, x->f, k, &score);
  if (!s) *accuracy = score.accuracy;
  fvg_classifier_free(k);
  return s;
}

/* The accuracy of a head on a test set whose classes are its own. */
static fvg_status test_head(tuning *t, fvg_head *h, test_set *x, double *accuracy) {
  fvg_classifier_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.head = h;
  return test_by(t, &desc, x, accuracy);
}

/* The same for classes that it has seen no pictures of; NaN if it has no rule for them. */
static fvg_status test_new_classes(tuning *t, fvg_head *h, test_set *x, double *accuracy) {
  *accuracy = NAN;
  if (!fvg_head_knows_new(fvg_head_is(h))) return FVG_OK;
  const fvg_task *task = &x->task;
  const size_t size = (size_t)task->n_class * (size_t)t->m->embed_dim;
  float *text = FVG_NEW_ARRAY(t->c, float, size);
  fvg_head *for_new = NULL;
  fvg_status s = FVG_E_NOMEM;
  if (text) {
    s = fvg_clip_encode_classes(t->m, text, plain_template(t, task->dataset), task->class_name,
                                task->n_class);
  }
  if (!s) s = fvg_head_for_new(h, &for_new, text, task->n_class);
  if (!s) s = test_head(t, for_new, x, accuracy);
  fvg_head_free(for_new);
  fvg_release(t->c, text);
  return s;
}

fvg_status run_head(tuning *t, int row, const seed_run *run) {
  fvg_head *h;
  fvg_status s = make_head(t, row, run, &h);
  for (int i = 0; !s && i < count_tests(t, run->number); i++) {
    test_set *x = &t->test[i];
    double *accuracy = &t->result[row][run->number][i];
    s = x->seen ? test_head(t, h, x, accuracy) : test_new_classes(t, h, x, accuracy);
  }
  fvg_head_free(h);
  return s;
}

/* ---- zero-shot CLIP with an ensemble of templates ---- */
static fvg_status test_ensemble(tuning *t, test_set *x, double *accuracy) {
  fvg_classifier_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.ensemble = fvg_template_list(FVG_TEMPLATES_SELECTED, &desc.n_ensemble);
  desc.prompt_template = template_of(plain_template(t, x->task.dataset), NULL);
  return test_by(t, &desc, x, accuracy);
}

fvg_status run_ensemble(tuning *t, int row, int run) {
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < count_tests(t, run); i++)
    s = test_ensemble(t, &t->test[i], &t->result[row][run][i]);
  return s;
}
