/* Units of work of fvgpt tune; see fvgpt_tune_units.h. */
#include "fvgpt_tune_units.h"

#include <stdio.h>
#include <string.h>

#include "fvgpt_checks.h"
#include "fvgpt_results.h"
#include "fvgpt_tune_all.h"
#include "fvgpt_tune_check.h"
#include "fvgpt_tune_choose.h"
#include "fvgpt_tune_heads.h"
#include "fvgpt_tune_masks.h"
#include "fvgpt_tune_table.h"

/* ---- the list ---- */
int begins_unit(const tuning *t, int row) { return t->row[row].backbone < 0; }

int is_of_unit(const tuning *t, int row, int unit_row) {
  return row == unit_row || t->row[row].backbone == unit_row;
}

static int units_of_seed(const tuning *t) {
  int n = 0;
  for (int row = 0; row < t->n_row; row++) n += begins_unit(t, row);
  return n;
}

int count_units(const tuning *t) { return t->n_entry * t->n_seed * units_of_seed(t); }

tune_unit unit_at(const tuning *t, int number) {
  const int n = units_of_seed(t);
  tune_unit u = {number / (n * t->n_seed), number / n % t->n_seed, 0};
  int left = number % n;
  while (left || !begins_unit(t, u.row)) {
    left -= begins_unit(t, u.row);
    u.row++;
  }
  return u;
}

/* ---- rows ---- */
static fvg_branch branch_for(const table_row *r, int seen) {
  if (!r->method) return FVG_ZERO_SHOT;
  if (r->backbone < 0) return seen ? FVG_TUNED : FVG_TUNED_NEW;
  return seen ? FVG_BRANCH_BASE : FVG_BRANCH_NEW;
}

static fvg_status keep_row(tuning *t, int row, int run) {
  fvg_status s = write_result(t, row, run);
  if (!s) print_row(t, row, run);
  return s;
}

/* Tests a row; f: for each test set, its features by the row's learner.  Zero-shot CLIP has the
   published set's hand-made template. */
static fvg_status test_row(tuning *t, int row, int run, float *const *f, fvg_learner *l,
                           fvg_fvgpt *modules) {
  const table_row *r = &t->row[row];
  for (int i = 0; i < count_tests(t, run); i++) {
    const test_set *x = &t->test[i];
    const char *prompt_template = r->method ? t->o->learner.prompt_template
                                            : plain_template(t, x->task.dataset);
    fvg_score score;
    fvg_status s = score_set(t->m, x, f[i], branch_for(r, x->seen), l, modules, prompt_template,
                             &score);
    if (s) return s;
    t->result[row][run][i] = score.accuracy;
  }
  return keep_row(t, row, run);
}

/* DPC has a learner for base classes and one for new ones, each with features of its own. */
static fvg_status test_dpc(tuning *t, int row, int run, fvg_learner *base, fvg_learner *for_new) {
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < count_tests(t, run); i++) {
    test_set *x = &t->test[i];
    fvg_learner *l = x->seen ? base : for_new;
    float *f = NULL;
    fvg_score score;
    s = features_of(t->m, l, x, &f);
    if (!s) s = score_set(t->m, x, f, FVG_TUNED, l, NULL, t->o->learner.prompt_template, &score);
    if (!s) t->result[row][run][i] = score.accuracy;
    if (f != x->f) fvg_release(t->m->ctx, f);
  }
  return s ? s : keep_row(t, row, run);
}

static fvg_status run_dpc(tuning *t, int row, const seed_run *run, fvg_learner *tuned) {
  fvg_learner *base = NULL;
  fvg_learner *for_new = NULL;
  fvg_status s = stage_dpc(t, row, run, tuned, &base, &for_new);
  if (!s) s = test_dpc(t, row, run->number, base, for_new);
  fvg_learner_free(base);
  fvg_learner_free(for_new);
  return s;
}

static fvg_status run_fvgpt(tuning *t, int row, const seed_run *run, float *const *f,
                            fvg_learner *l) {
  fvg_fvgpt *modules = NULL;
  fvg_status s = stage_fvgpt(t, row, run, l, &modules);
  if (!s) s = test_row(t, row, run->number, f, l, modules);
  fvg_fvgpt_free(modules);
  return s;
}

/* Tests a row of a unit, l being its backbone's learner, unless its result is there. */
static fvg_status run_row(tuning *t, int row, const seed_run *run, float *const *f,
                          fvg_learner *l) {
  if (t->has_result[row][run->number]) {
    print_row(t, row, run->number);
    return FVG_OK;
  }
  if (t->row[row].dpc) return run_dpc(t, row, run, l);
  if (t->row[row].backbone >= 0) return run_fvgpt(t, row, run, f, l);
  return test_row(t, row, run->number, f, l, NULL);
}

/* ---- a unit ---- */
/* A row without prompts. */
static fvg_status run_untuned(tuning *t, int row, const seed_run *run) {
  const table_row *r = &t->row[row];
  const int number = run->number;
  float *plain[MAX_TESTS];
  fvg_status s = FVG_OK;
  if (r->head) s = run_head(t, row, run);
  else if (r->ensemble) s = run_ensemble(t, row, number);
  if (r->head || r->ensemble) return s ? s : keep_row(t, row, number);

  for (int i = 0; !s && i < count_tests(t, number); i++) {
    s = test_encode(t->m, &t->test[i]);
    plain[i] = t->test[i].f;
  }
  return s ? s : test_row(t, row, number, plain, NULL, NULL);
}

/* A method, and FVG-PT on it as often as the table wants it, and DPC. */
static fvg_status run_backbone(tuning *t, int row, const seed_run *run) {
  fvg_learner *l = NULL;
  float *f[MAX_TESTS] = {NULL};
  char **curve = &t->curve[row][run->number];

  /* The stage brings its curve along. */
  fvg_release(t->c, *curve);
  *curve = NULL;
  fvg_status s = stage_method(t, row, run, &l);
  const int n_test = count_tests(t, run->number);
  for (int i = 0; !s && i < n_test; i++) s = features_of(t->m, l, &t->test[i], &f[i]);
  for (int k = row; !s && k < t->n_row; k++) {
    if (is_of_unit(t, k, row)) s = run_row(t, k, run, f, l);
  }
  for (int i = 0; i < n_test; i++) {
    if (f[i] != t->test[i].f) fvg_release(t->c, f[i]);
  }
  free_backbone_views(t);
  fvg_learner_free(l);
  return s;
}

fvg_status finish_unit(tuning *t, int unit_row, int number) {
  int n_missing = 0;
  fvg_status s = FVG_OK;
  for (int row = unit_row; !s && row < t->n_row; row++) {
    if (!is_of_unit(t, row, unit_row)) continue;
    s = reuse_result(t, row, number);
    n_missing += !t->has_result[row][number];
  }
  if (s) return s;

  const seed_run run = {number, t->seed[number], &t->task};
  if (n_missing && t->row[unit_row].method) return run_backbone(t, unit_row, &run);
  if (n_missing) return run_untuned(t, unit_row, &run);
  for (int row = unit_row; row < t->n_row; row++) {
    if (is_of_unit(t, row, unit_row)) print_row(t, row, number);
  }
  return FVG_OK;
}

/* ---- a seed ---- */
fvg_status open_seed(tuning *t, int number) {
  close_seed(t);
  fvg_status s = draw(t, t->d, t->at->shots, t->seed[number], &t->task);
  if (s || !t->fold[number]) return s;
  fvg_task fold;
  s = take_fold(t, number, &t->task, &fold);
  test_free(t->c, &t->test[0]);
  return s ? s : test_of_task(t->c, &t->test[0], &fold);
}

void close_seed(tuning *t) {
  test_free(t->c, &t->val);
  fvg_task_free(&t->task);
  t->has_mask_mark = 0;
}

/* ---- an entry ---- */
void free_tests(tuning *t) {
  for (int i = 0; i < t->n_test; i++) test_free(t->c, &t->test[i]);
  t->tests_of = 0;
}

/* The test pictures of an entry stay for the next one, if that is of the same data set. */
static fvg_status open_tests(tuning *t) {
  const int set = t->at->set;
  if (t->tests_of == set + 1) return FVG_OK;
  free_tests(t);
  name_tests(t);
  t->tests_of = set + 1;
  if (t->o->learner.all) return FVG_OK;
  if (t->train_half == FVG_BASE) {
    fvg_status s = test_new(t->c, &t->test[0], t->d, FVG_BASE);
    return s ? s : test_new(t->c, &t->test[1], t->d, FVG_NEW);
  }
  fvg_status s = test_new(t->c, &t->test[0], t->d, FVG_ALL);
  for (int i = 0; !s && i < t->n_target; i++)
    s = test_new(t->c, &t->test[i + 1], &t->target[i], FVG_ALL);
  return s;
}

fvg_status open_entry(tuning *t, int entry) {
  t->at = &t->entry[entry];
  t->d = &t->set[t->at->set];
  entry_folder(t, entry, t->out, sizeof t->out);
  fvg_status s = make_folders(t->c, t->out);
  if (!s) s = open_tests(t);
  if (!s) s = make_own_masks(t);
  if (!s) s = print_settings(t);
  return s;
}

void remove_outer_temporaries(const tuning *t) {
  remove_temporaries(t->o->out);
  for (int e = 0; e < t->n_entry; e++) {
    char folder[1100];
    entry_folder(t, e, folder, sizeof folder);
    remove_temporaries(folder);
  }
}

void close_entry(tuning *t) {
  close_seed(t);
  free_entry_views(t);
  forget_results(t);
}

/* ---- before a run ---- */
/* A result that bears this run's mark was made with its options and pictures. */
static fvg_status check_earlier_result(tuning *t, int row, const seed_run *run) {
  fvg_status s = read_result(t, (int)(t->at - t->entry), row, run->number);
  if (s || t->has_result[row][run->number]) return s;
  if (t->row[row].head) return check_earlier_head(t, row, run);
  return t->row[row].method ? check_earlier_row(t, row, run) : FVG_OK;
}

static fvg_status check_earlier_seed(tuning *t, int number) {
  fvg_status s = open_seed(t, number);
  const seed_run run = {number, t->seed[number], &t->task};
  for (int row = 1; !s && row < t->n_row; row++) s = check_earlier_result(t, row, &run);
  close_seed(t);
  return s;
}

fvg_status check_earlier_runs(tuning *t) {
  fvg_status s = FVG_OK;
  for (int e = 0; !s && e < t->n_entry; e++) {
    t->at = &t->entry[e];
    t->d = &t->set[t->at->set];
    entry_folder(t, e, t->out, sizeof t->out);
    for (int run = 0; !s && run < t->n_seed; run++) s = check_earlier_seed(t, run);
    forget_results(t);
  }
  free_tests(t);
  return s;
}
