/* Data sets and test sets; see fvgpt_sets.h. */
#include "fvgpt_sets.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fvgpt_checks.h"
#include "fvgpt_system.h"

void add_data_options(option_table *t, data_options *o, const char *masks) {
  o->val = -1;
  add_list(t, "--data", &o->data);
  add_text(t, "--dataset-root", &o->dataset_root);
  add_text(t, "--dataset", &o->dataset);
  add_text(t, "--split", &o->split);
  add_whole(t, "--val", &o->val, 0, 60);
  add_word(t, "--masks", &o->masks, masks);
  add_flag(t, "--skip-bad", &o->skip_bad);
  add_flag(t, "--exif-rotate", &o->exif_rotate);
}

fvg_status open_root(fvg_ctx *c, const data_options *o, const char *root, const char *dataset,
                     fvg_dataset *d) {
  fvg_dataset_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.root = root;
  desc.dataset = dataset;
  desc.split = o->split;
  desc.mask_reading = o->masks < MASKS_GIVEN ? (fvg_mask_reading)o->masks : FVG_MASK_AUTO;
  desc.exif_rotate = o->exif_rotate;

  /* In the desc 0 stands for the usual share, and a negative number for none. */
  if (o->val == 0) desc.val_percent = -1;
  else if (o->val > 0) desc.val_percent = o->val;
  return fvg_dataset_open(c, d, &desc);
}

fvg_status open_data(fvg_ctx *c, const data_options *o, const char *root, fvg_dataset *d) {
  if (o->dataset_root && o->dataset) return open_root(c, o, o->dataset_root, o->dataset, d);
  return open_root(c, o, root, NULL, d);
}

/* The path of a picture of a class; "" if it has none. */
static const char *path_of_class(const fvg_dataset *d, int label) {
  const fvg_items *const part[3] = {&d->train, &d->val, &d->test};
  for (int k = 0; k < 3; k++) {
    for (int i = 0; i < part[k]->n; i++) {
      if (part[k]->item[i].label == label) return part[k]->item[i].path;
    }
  }
  return "";
}

fvg_status check_class_names(const fvg_dataset *d) {
  for (int i = 0; i < d->n_class; i++) {
    if (is_utf8(d->class_name[i])) continue;
    return fvg_fail(d->ctx, FVG_E_ARG,
                    "%.200s: the name of class \"%.60s\" (%.120s) is not UTF-8; rename its folder, "
                    "or correct the split file",
                    d->root, d->class_name[i], path_of_class(d, i));
  }
  return FVG_OK;
}

void tell_one_class(fvg_ctx *c, const char *root, int n_class) {
  if (n_class != 1) return;
  fvg_log(c, 0, "%.300s: the test is of one class only, so accuracy is 100 %% whatever is tested",
          root);
}

fvg_status test_task(const fvg_dataset *d, fvg_group half, fvg_task *task) {
  fvg_task_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.split = FVG_TEST;
  desc.group = half;
  fvg_status s = fvg_task_draw(task, d, &desc);
  if (s || task->items.n) return s;
  fvg_task_free(task);
  return fvg_fail(d->ctx, FVG_E_ARG, "%s: no test images of %s classes", d->root,
                  half == FVG_NEW ? "new" : "these");
}

void test_free(fvg_ctx *c, test_set *x) {
  fvg_task_free(&x->task);
  fvg_release(c, x->label);
  fvg_release(c, x->f);
  memset(&x->task, 0, sizeof x->task);
  x->label = NULL;
  x->f = NULL;
}

fvg_status test_of_task(fvg_ctx *c, test_set *x, const fvg_task *task) {
  fvg_status s = FVG_OK;
  x->task = *task;

  const size_t n = (size_t)x->task.items.n;
  x->label = FVG_NEW_ARRAY(c, int, n);
  if (!x->label) s = FVG_E_NOMEM;
  for (size_t i = 0; !s && i < n; i++) x->label[i] = x->task.items.item[i].label;
  if (s) test_free(c, x);
  return s;
}

fvg_status test_new(fvg_ctx *c, test_set *x, const fvg_dataset *d, fvg_group half) {
  fvg_task task;
  fvg_status s = test_task(d, half, &task);
  return s ? s : test_of_task(c, x, &task);
}

fvg_status test_encode(fvg_clip *m, test_set *x) {
  if (x->f) return FVG_OK;
  x->f = FVG_NEW_ARRAY(m->ctx, float, (size_t)x->task.items.n * (size_t)m->embed_dim);
  fvg_status s = x->f ? fvg_encode_task(m, NULL, x->f, &x->task) : FVG_E_NOMEM;
  if (s) {
    fvg_release(m->ctx, x->f);
    x->f = NULL;
  }
  return s;
}

fvg_status features_of(fvg_clip *m, fvg_learner *l, test_set *x, float **f) {
  const size_t width = (size_t)fvg_learner_feature_width(m, l);
  if (width == (size_t)m->embed_dim) {
    fvg_status s = test_encode(m, x);
    *f = x->f;
    return s;
  }
  *f = FVG_NEW_ARRAY(m->ctx, float, (size_t)x->task.items.n * width);
  return *f ? fvg_encode_task(m, l, *f, &x->task) : FVG_E_NOMEM;
}

fvg_status score_by(fvg_ctx *c, const test_set *x, const float *f, fvg_classifier *k,
                    fvg_score *score) {
  const int n = x->task.items.n;
  const int n_class = x->task.n_class;
  float *logits = FVG_NEW_ARRAY(c, float, (size_t)n * (size_t)n_class);
  fvg_status s = logits ? fvg_classifier_logits(k, logits, NULL, f, n) : FVG_E_NOMEM;
  if (!s) s = fvg_score_of(c, score, logits, x->label, n, n_class);
  fvg_release(c, logits);
  return s;
}

fvg_status score_set(fvg_clip *m, const test_set *x, const float *f, fvg_branch branch,
                     fvg_learner *l, fvg_fvgpt *modules, const char *prompt_template,
                     fvg_score *score) {
  const fvg_task *task = &x->task;
  fvg_classifier *k = NULL;
  fvg_status s = classifier_of(m, &k, branch, l, modules, prompt_template, task->class_name,
                               task->n_class);
  if (!s) s = score_by(m->ctx, x, f, k, score);
  fvg_classifier_free(k);
  return s;
}

/* ---- rows of logits ---- */
/* ln of the sum of exp(z_i / tau) */
static double ln_sum_exp(const float *z, int n, double tau) {
  double most = (double)z[0];
  for (int i = 1; i < n; i++) {
    if ((double)z[i] > most) most = (double)z[i];
  }
  double sum = 0;
  for (int i = 0; i < n; i++) sum += exp(((double)z[i] - most) / tau);
  return most / tau + log(sum);
}

double row_cross_entropy(const float *z, int n, int label) {
  return ln_sum_exp(z, n, 1) - (double)z[label];
}

double foreground_shift(const float *p, const float *q, int n) {
  const double sum_p = ln_sum_exp(p, n, SHIFT_TAU);
  const double sum_q = ln_sum_exp(q, n, SHIFT_TAU);
  double kl = 0;
  for (int i = 0; i < n; i++) {
    const double ln_p = (double)p[i] / SHIFT_TAU - sum_p;
    const double ln_q = (double)q[i] / SHIFT_TAU - sum_q;
    kl += exp(ln_p) * (ln_p - ln_q);
  }
  return kl;
}
