/* fvgpt tune.  What is finished lies in --out as checkpoints and is used again. */
#include "fvgpt_tune.h"

#include <stdio.h>
#include <string.h>

#include "fvgpt_checks.h"
#include "fvgpt_tune_check.h"
#include "fvgpt_tune_list.h"
#include "fvgpt_tune_masks.h"
#include "fvgpt_tune_stages.h"
#include "fvgpt_tune_table.h"

/* ---- a seed ---- */
static fvg_branch branch_for(const table_row *r, int seen) {
  if (!r->method) return FVG_ZERO_SHOT;
  if (r->backbone < 0) return seen ? FVG_TUNED : FVG_TUNED_NEW;
  return seen ? FVG_BRANCH_BASE : FVG_BRANCH_NEW;
}

/* Tests a row; f: for each test set, its features by the row's learner.  Zero-shot CLIP has the
   published set's hand-made template. */
static fvg_status test_row(tuning *t, int row, int run, float *const *f, fvg_learner *l,
                           fvg_fvgpt *modules) {
  const table_row *r = &t->row[row];
  for (int i = 0; i < t->n_test; i++) {
    const test_set *x = &t->test[i];
    const fvg_dataset_card *card = x->task.dataset->card;
    const char *prompt_template = t->o->learner.prompt_template;
    if (!r->method && !prompt_template && card) prompt_template = card->prompt_template;
    fvg_score score;
    fvg_status s = score_set(t->m, x, f[i], branch_for(r, x->seen), l, modules, prompt_template,
                             &score);
    if (s) return s;
    t->result[row][run][i] = score.accuracy;
  }
  print_row(t, row, run);
  return FVG_OK;
}

/* DPC has a learner for base classes and one for new ones, each with features of its own. */
static fvg_status test_dpc(tuning *t, int row, int run, fvg_learner *base, fvg_learner *for_new) {
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < t->n_test; i++) {
    const test_set *x = &t->test[i];
    fvg_learner *l = x->seen ? base : for_new;
    float *f = NULL;
    fvg_score score;
    s = features_of(t->m, l, x, &f);
    if (!s) s = score_set(t->m, x, f, FVG_TUNED, l, NULL, t->o->learner.prompt_template, &score);
    if (!s) t->result[row][run][i] = score.accuracy;
    if (f != x->f) fvg_release(t->m->ctx, f);
  }
  if (!s) print_row(t, row, run);
  return s;
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

/* A method, and FVG-PT on it as often as the table wants it, and DPC. */
static fvg_status run_backbone(tuning *t, int row, const seed_run *run) {
  fvg_learner *l = NULL;
  float *f[MAX_TESTS] = {NULL};
  fvg_status s = stage_method(t, row, run, &l);
  for (int i = 0; !s && i < t->n_test; i++) s = features_of(t->m, l, &t->test[i], &f[i]);
  if (!s) s = test_row(t, row, run->number, f, l, NULL);

  for (int k = 0; !s && k < t->n_row; k++) {
    if (t->row[k].backbone != row) continue;
    if (t->row[k].dpc) s = run_dpc(t, k, run, l);
    else s = run_fvgpt(t, k, run, f, l);
  }
  for (int i = 0; i < t->n_test; i++) {
    if (f[i] != t->test[i].f) fvg_release(t->m->ctx, f[i]);
  }
  free_backbone_views(t);
  fvg_learner_free(l);
  return s;
}

static fvg_status run_seed(tuning *t, int number) {
  float *plain[MAX_TESTS];
  for (int i = 0; i < t->n_test; i++) plain[i] = t->test[i].f;
  fvg_task task;
  const seed_run run = {number, t->seed[number], &task};
  fvg_status s = draw(t, t->d, t->at->shots, run.seed, &task);
  if (s) return s;

  s = test_row(t, 0, number, plain, NULL, NULL);
  for (int row = 1; !s && row < t->n_row; row++) {
    if (t->row[row].backbone < 0) s = run_backbone(t, row, &run);
  }
  fvg_task_free(&task);
  return s;
}

/* ---- data sets ---- */
/* Results are kept under the names of their data sets. */
static fvg_status check_target_name(const tuning *t) {
  const char *name = t->target_name[t->n_target];
  int is_taken = !strcmp(name, "source");
  for (int i = 0; i < t->n_target; i++) is_taken |= !strcmp(t->target_name[i], name);
  if (!is_taken) return FVG_OK;
  return fvg_fail(t->m->ctx, FVG_E_ARG,
                  "--transfer-to: two data sets would be called %s in the table; rename a folder",
                  name);
}

/* Opens the data sets of --transfer-to: roots, or names under --dataset-root. */
static fvg_status open_targets(tuning *t) {
  fvg_ctx *c = t->m->ctx;
  const data_options *o = &t->o->data;
  const char *at = t->o->learner.transfer_to;
  while (at && *at) {
    char name[1000];
    const size_t n = strcspn(at, ",");
    if (n >= sizeof name || t->n_target == MAX_TESTS - 1) {
      return fvg_fail(c, FVG_E_ARG, "--transfer-to: up to %d data sets with commas are expected",
                      MAX_TESTS - 1);
    }
    snprintf(name, sizeof name, "%.*s", (int)n, at);
    key_of_path(name, t->target_name[t->n_target], KEY_BYTES);
    fvg_status s = check_target_name(t);
    if (s) return s;

    fvg_dataset *d = &t->target[t->n_target];
    s = o->dataset_root ? open_root(c, o, o->dataset_root, name, d)
                        : open_root(c, o, name, NULL, d);
    if (s) return s;
    t->n_target++;
    at += n;
    if (*at) at++;
  }
  return FVG_OK;
}

/* Opens all data sets of the run, each once. */
static fvg_status open_sets(tuning *t) {
  for (int e = 0; e < t->n_entry; e++) {
    const table_entry *entry = &t->entry[e];
    if (entry->set < t->n_set) continue;
    const char *dataset = *entry->dataset ? entry->dataset : NULL;
    fvg_status s = open_root(t->m->ctx, &t->o->data, entry->root, dataset, &t->set[t->n_set]);
    if (s) return s;
    t->n_set++;
  }
  return open_targets(t);
}

static void close_sets(tuning *t) {
  for (int i = 0; i < t->n_target; i++) fvg_dataset_free(&t->target[i]);
  for (int i = 0; i < t->n_set; i++) fvg_dataset_free(&t->set[i]);
}

/* ---- an entry ---- */
static fvg_status add_test(tuning *t, const fvg_dataset *d, fvg_group half, const char *name,
                           int seen) {
  if (t->n_test == MAX_TESTS)
    return fvg_fail(t->m->ctx, FVG_E_ARG, "more than %d test sets", MAX_TESTS);
  fvg_status s = test_new(t->m, &t->test[t->n_test], d, half, name, seen);
  if (!s) t->n_test++;
  return s;
}

/* The test sets of an entry: both halves of its classes, or all classes and those of the data sets
   to transfer to. */
static fvg_status add_tests(tuning *t) {
  if (t->train_half == FVG_BASE) {
    fvg_status s = add_test(t, t->d, FVG_BASE, "base", 1);
    return s ? s : add_test(t, t->d, FVG_NEW, "new", 0);
  }
  const char *name = t->o->learner.transfer_to ? "source" : "all";
  fvg_status s = add_test(t, t->d, FVG_ALL, name, 1);
  for (int i = 0; !s && i < t->n_target; i++)
    s = add_test(t, &t->target[i], FVG_ALL, t->target_name[i], 0);
  return s;
}

static fvg_status open_entry(tuning *t, const table_entry *e) {
  t->at = e;
  t->d = &t->set[e->set];
  t->n_test = 0;
  if (t->n_entry > 1) snprintf(t->out, sizeof t->out, "%s/%s", t->o->out, e->key);
  else snprintf(t->out, sizeof t->out, "%s", t->o->out);
  fvg_status s = make_folders(t->m->ctx, t->out);
  if (s) return s;
  remove_temporaries(t->out);
  return add_tests(t);
}

static void close_entry(tuning *t) {
  fvg_ctx *c = t->m->ctx;
  free_entry_views(t);
  for (int i = 0; i < t->n_test; i++) test_free(c, &t->test[i]);
  for (int row = 0; row < t->n_row; row++) {
    for (int run = 0; run < t->n_seed; run++) {
      fvg_release(c, t->curve[row][run]);
      t->curve[row][run] = NULL;
    }
  }
}

static fvg_status run_entry(tuning *t, int entry) {
  fvg_status s = open_entry(t, &t->entry[entry]);
  if (!s) s = make_own_masks(t);
  if (!s) s = print_settings(t);
  for (int run = 0; !s && run < t->n_seed; run++) s = run_seed(t, run);
  if (!s) s = write_results(t, entry);

  const int is_last_of_several = t->n_entry > 1 && entry == t->n_entry - 1;
  if (!s && is_last_of_several) s = write_table(t);
  close_entry(t);
  return s;
}

/* ---- the command ---- */
/* Locks --out, and in a list the folder of every entry, which may be another run's --out. */
static fvg_status lock_out(tuning *t, fvg_ctx *c) {
  fvg_status s = make_folders(c, t->o->out);
  if (!s) s = lock_folder(c, &t->lock[0], t->o->out);
  for (int e = 0; !s && t->n_entry > 1 && e < t->n_entry; e++) {
    char folder[1100];
    snprintf(folder, sizeof folder, "%s/%s", t->o->out, t->entry[e].key);
    s = make_folders(c, folder);
    if (!s) s = lock_folder(c, &t->lock[e + 1], folder);
  }
  return s;
}

/* Everything that can be wrong is looked for before the first entry begins. */
static fvg_status run(fvg_ctx *c, const void *options) {
  const tune_options *o = (const tune_options *)options;
  const char *trainer = o->learner.trainer;
  if (!trainer || !*trainer || !o->out || !*o->out)
    return fvg_fail(c, FVG_E_ARG, "tune needs --trainer NAME,... and --out DIR");
  if (strlen(o->out) > 900) return fvg_fail(c, FVG_E_ARG, "--out: the path is too long");
  tuning *t = FVG_NEW(c, tuning);
  if (!t) return FVG_E_NOMEM;

  const fvg_protocol protocol = protocol_of(&o->learner);
  t->o = o;
  t->train_half = protocol == FVG_BASE_TO_NEW ? FVG_BASE : FVG_ALL;
  fvg_status s = parse_lists(t, c);
  if (!s) s = lock_out(t, c);
  if (!s) s = open_model(c, &o->common, &t->m);
  if (!s) s = open_sets(t);
  if (!s) s = check_run(t);
  if (!s) remove_temporaries(o->out);
  for (int e = 0; !s && e < t->n_entry; e++) s = run_entry(t, e);
  close_sets(t);
  for (int e = 0; e <= MAX_ENTRIES; e++) unlock_folder(&t->lock[e]);
  fvg_clip_free(t->m);
  fvg_release(c, t);
  return s;
}

const fvgpt_command tune_command = {"tune", sizeof(tune_options), declare_tune, run};
