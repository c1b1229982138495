/* Measurements for the paper's tables; see fvgpt_paper_measure.h. */
#include "fvgpt_paper_measure.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fvgpt_checks.h"
#include "fvgpt_system.h"
#include "fvgpt_tune_check.h"
#include "fvgpt_tune_marks.h"

/* ---- finished rows ---- */
/* Opens what a row was tuned to with a seed; nothing for zero-shot CLIP. */
static fvg_status open_row(tuning *t, fvg_clip *m, int entry, int row, int seed, tuned_model *x) {
  memset(x, 0, sizeof *x);
  if (!t->row[row].method) return FVG_OK;
  char folder[1300];
  const char *key = t->n_entry > 1 ? t->entry[entry].key : "";
  snprintf(folder, sizeof folder, "%s%s%s/%s/seed%d", t->o->out, *key ? "/" : "", key,
           t->row[row].name, seed);
  return open_tuned(m, folder, x);
}

/* A classifier of the base classes as the row scores them. */
static fvg_status classifier_of_row(const tuning *t, fvg_clip *m, const tuned_model *x,
                                    const fvg_task *task, fvg_classifier **k) {
  const fvg_branch branch = x->l ? branch_of(x, FVG_BASE) : FVG_ZERO_SHOT;
  const char *prompt_template = template_of(t->o->learner.prompt_template, x->settings);
  return classifier_of(m, k, branch, x->l, x->f, prompt_template, task->class_name, task->n_class);
}

/* ---- costs ---- */
static double count_values(fvg_parameter *const *p, int n) {
  double sum = 0;
  for (int i = 0; i < n; i++) sum += (double)fvg_tensor_count(&p[i]->value);
  return sum;
}

static double count_parameters(const tuned_model *x) {
  int n;
  fvg_parameter *const *p =
      x->f ? fvg_fvgpt_parameters(x->f, &n) : fvg_learner_parameters(x->l, &n);
  return count_values(p, n);
}

static int is_stopped(void *user) {
  (void)user;
  return stopped_by() != 0;
}

/* Another context with a model of the same weights, so that its peak is that of the work alone. */
static fvg_status open_beside(const tuning *t, fvg_ctx **c, fvg_clip **m) {
  fvg_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.n_threads = t->o->common.threads ? t->o->common.threads : default_threads();
  desc.simd = fvg_simd_level(t->m->ctx);
  desc.cancelled = is_stopped;
  if (fvg_init(c, &desc)) return FVG_E_NOMEM;
  return fvg_clip_share(*c, m, t->m);
}

/* Trains a tuned row for one epoch more, which takes as long as any other. */
static fvg_status train_an_epoch(const tuning *t, fvg_clip *m, const table_row *r,
                                 const fvg_task *task, const tuned_model *x) {
  fvg_views_desc desc = t->augment;
  fvg_views *views = NULL;
  const int has_own_tower = fvg_learner_feature_width(m, x->l) != m->embed_dim;
  desc.crop_scale_min = fvg_method_crop_scale(r->method);
  desc.no_foreground = !x->f && !(fvg_learner_needs(x->l) & FVG_NEEDS_FOREGROUND);
  if (x->f && has_own_tower) desc.learner = x->l;

  fvg_train_desc train = train_desc_of(t, r, t->seed[0]);
  train.optimizer.epochs = 1;
  fvg_status s = fvg_views_new(m, &views, task->dataset, &desc);
  if (!s && x->f) s = fvg_fvgpt_train(x->f, x->l, views, task, &train);
  else if (!s) s = fvg_learner_train(x->l, views, task, &train);
  fvg_views_free(views);
  return s;
}

/* Pictures a second of the test of base classes. */
static fvg_status time_test(const tuning *t, fvg_clip *m, const fvg_dataset *d,
                            const tuned_model *x, double *rate) {
  fvg_task task;
  fvg_classifier *k = NULL;
  fvg_score score;
  fvg_status s = test_task(d, t->train_half, &task);
  if (s) return s;
  s = classifier_of_row(t, m, x, &task, &k);
  const double start = now();
  if (!s) s = fvg_classifier_test(k, &score, &task);
  *rate = task.items.n / (now() - start);
  fvg_classifier_free(k);
  fvg_task_free(&task);
  return s;
}

/* The costs of one row. */
static fvg_status measure_cost(tuning *t, int row, double cost[N_COST]) {
  fvg_ctx *c = NULL;
  fvg_clip *m = NULL;
  fvg_task task;
  tuned_model x;
  memset(&x, 0, sizeof x);
  memset(&task, 0, sizeof task);
  fvg_status s = open_beside(t, &c, &m);
  fvg_dataset d = t->set[t->entry[0].set];
  d.ctx = c;
  if (!s) s = open_row(t, m, 0, row, t->seed[0], &x);
  if (!s) s = draw(t, &d, t->entry[0].shots, t->seed[0], &task);
  if (!s) s = time_test(t, m, &d, &x, &cost[COST_TESTING]);

  const double start = now();
  if (!s) s = train_an_epoch(t, m, &t->row[row], &task, &x);
  cost[COST_TUNING] = task.items.n / (now() - start);
  if (!s) cost[COST_PARAMETERS] = count_parameters(&x);
  cost[COST_MEMORY] = c ? (double)fvg_mem_peak(c) / 1e6 : 0;
  if (s && c) fvg_fail(t->m->ctx, s, "%s", fvg_error(c));
  fvg_task_free(&task);
  tuned_model_free(t->m, &x);
  fvg_clip_free(m);
  fvg_free(c);
  return s;
}

fvg_status measure_costs(tuning *t, const paper_plan *p, paper_table *out) {
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < p->n; i++) {
    double cost[N_COST] = {0};
    s = measure_cost(t, p->line[i].row, cost);
    for (int k = 0; k < N_COST; k++) out->cell[i][k].value = cost[k];
  }
  return s;
}

/* ---- foreground shift ---- */
/* The rows of features of n pictures and of their foregrounds, and the shares of foreground. */
typedef struct masked_views {
  float *f, *f_fg, *area;
  int n;
} masked_views;

static void masked_views_free(fvg_ctx *c, masked_views *v) {
  fvg_release(c, v->f);
  fvg_release(c, v->f_fg);
  fvg_release(c, v->area);
}

static fvg_status encode_masked(tuning *t, const fvg_task *task, fvg_learner *l, masked_views *v) {
  fvg_ctx *c = t->m->ctx;
  const int n = task->items.n;
  const size_t width = (size_t)fvg_learner_feature_width(t->m, l);
  v->n = n;
  v->f = FVG_NEW_ARRAY(c, float, (size_t)n * width);
  v->f_fg = FVG_NEW_ARRAY(c, float, (size_t)n * width);
  v->area = FVG_NEW_ARRAY(c, float, (size_t)n);
  int *index = FVG_NEW_ARRAY(c, int, (size_t)n);
  fvg_status s = v->f && v->f_fg && v->area && index ? FVG_OK : FVG_E_NOMEM;
  for (int i = 0; !s && i < n; i++) index[i] = i;

  fvg_views_desc desc;
  fvg_views *views = NULL;
  memset(&desc, 0, sizeof desc);
  desc.augment = FVG_AUGMENT_NONE;
  desc.learner = l;
  if (!s) s = fvg_views_new(t->m, &views, task->dataset, &desc);
  if (!s) s = fvg_views_get(views, v->f, v->f_fg, v->area, &task->items, index, n, 0);
  fvg_views_free(views);
  fvg_release(c, index);
  return s;
}

/* D_fg of one row and seed; NaN: no picture has a mask. */
static fvg_status measure_shift(tuning *t, const tuned_model *x, const fvg_task *task,
                                double *d_fg) {
  fvg_ctx *c = t->m->ctx;
  const size_t size = (size_t)task->items.n * (size_t)task->n_class;
  masked_views v = {NULL, NULL, NULL, 0};
  fvg_classifier *k = NULL;
  float *p = FVG_NEW_ARRAY(c, float, size);
  float *q = FVG_NEW_ARRAY(c, float, size);
  fvg_status s = p && q ? encode_masked(t, task, x->l, &v) : FVG_E_NOMEM;
  if (!s) s = classifier_of_row(t, t->m, x, task, &k);
  if (!s) s = fvg_classifier_logits(k, p, NULL, v.f, v.n);
  if (!s) s = fvg_classifier_logits(k, q, NULL, v.f_fg, v.n);

  double sum = 0;
  int n = 0;
  for (int i = 0; !s && i < v.n; i++) {
    if (!(v.area[i] > 0)) continue;
    const size_t at = (size_t)i * (size_t)task->n_class;
    sum += foreground_shift(p + at, q + at, task->n_class);
    n++;
  }
  *d_fg = n ? sum / n : NAN;
  fvg_classifier_free(k);
  masked_views_free(c, &v);
  fvg_release(c, p);
  fvg_release(c, q);
  return s;
}

/* The mean over the seeds, and their deviation. */
static fvg_status measure_shift_of_row(tuning *t, int entry, int row, const fvg_task *task,
                                       paper_cell *cell) {
  const int n = t->row[row].method ? t->n_seed : 1;      /* CLIP is the same for all seeds       */
  double sum = 0;
  double squares = 0;
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < n; i++) {
    double d_fg = 0;
    tuned_model x;
    s = open_row(t, t->m, entry, row, t->seed[i], &x);
    if (!s) s = measure_shift(t, &x, task, &d_fg);
    tuned_model_free(t->m, &x);
    sum += d_fg;
    squares += d_fg * d_fg;
  }
  if (s) return s;
  const double mean = sum / n;
  cell->value = mean;
  if (n > 1) cell->deviation = sqrt(fmax(squares / n - mean * mean, 0));
  return FVG_OK;
}

fvg_status measure_shifts(tuning *t, const paper_plan *p, paper_table *out) {
  fvg_status s = FVG_OK;
  for (int e = 0; !s && e < t->n_entry; e++) {
    fvg_task task;
    s = test_task(&t->set[t->entry[e].set], t->train_half, &task);
    if (s) return s;
    for (int i = 0; !s && i < p->n; i++)
      s = measure_shift_of_row(t, e, p->line[i].row, &task, &out->cell[i][2 * e + SHIFT_D_FG]);
    fvg_task_free(&task);
  }
  return s;
}
