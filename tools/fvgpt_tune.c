/* fvgpt tune.  What is finished lies in --out as checkpoints and results, and is used again. */
#include "fvgpt_tune.h"

#include <stdio.h>
#include <string.h>

#include "fvgpt_cache.h"
#include "fvgpt_checks.h"
#include "fvgpt_needs.h"
#include "fvgpt_results.h"
#include "fvgpt_tune_all.h"
#include "fvgpt_tune_check.h"
#include "fvgpt_tune_list.h"
#include "fvgpt_tune_shards.h"
#include "fvgpt_tune_table.h"
#include "fvgpt_tune_units.h"

/* ---- data sets ---- */
/* Results are kept under the names of their data sets, beside the others of a row. */
static int is_of_row(const char *name) {
  static const char *const others[] = {"method", "seed", "fold", "H", "val", "chosen"};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
    if (!strcmp(others[i], name)) return 1;
  }
  const size_t n = strlen(name);
  return n >= 4 && !strcmp(name + n - 4, "_std");
}

static fvg_status check_target_name(const tuning *t) {
  const char *name = t->target_name[t->n_target];
  if (is_of_row(name)) {
    return fvg_fail(t->m->ctx, FVG_E_ARG,
                    "--transfer-to: a set called %s has no place in the table, where %s is "
                    "something else; rename its folder",
                    name, name);
  }
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
  const char *list = t->o->learner.transfer_to;
  char name[1000];
  for (int is_whole; list && (is_whole = next_item(&list, name, sizeof name)) != 0;) {
    if (is_whole < 0 || t->n_target == MAX_TESTS - 1) {
      return fvg_fail(c, FVG_E_ARG, "--transfer-to: up to %d data sets with commas are expected",
                      MAX_TESTS - 1);
    }
    key_of_path(name, t->target_name[t->n_target], KEY_BYTES);
    fvg_status s = check_target_name(t);
    if (s) return s;

    fvg_dataset *d = &t->target[t->n_target];
    s = o->dataset_root ? open_root(c, o, o->dataset_root, name, d)
                        : open_root(c, o, name, NULL, d);
    if (s) return s;
    t->n_target++;
    s = check_class_names(d);
    if (s) return s;
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
    if (!s && t->o->learner.all) s = join_splits(&t->set[t->n_set]);
    if (s) return s;
    t->n_set++;
    s = check_class_names(&t->set[t->n_set - 1]);
    if (s) return s;
  }
  return open_targets(t);
}

static void close_sets(tuning *t) {
  for (int i = 0; i < t->n_target; i++) fvg_dataset_free(&t->target[i]);
  for (int i = 0; i < t->n_set; i++) fvg_dataset_free(&t->set[i]);
}

/* ---- a run alone ---- */
/* The plan comes behind the first unit, so that a run that cannot begin leaves nothing. */
static fvg_status run_seed(tuning *t, int number) {
  fvg_status s = open_seed(t, number);
  for (int row = 0; !s && row < t->n_row; row++) {
    if (begins_unit(t, row)) s = finish_unit(t, row, number);
    if (!s && !t->has_plan) s = write_plan(t);
  }
  return s;
}

static fvg_status run_entry(tuning *t, int entry) {
  fvg_status s = open_entry(t, entry);
  for (int run = 0; !s && run < t->n_seed; run++) s = run_seed(t, run);
  if (!s) s = write_results(t, entry);

  const int is_last_of_several = t->n_entry > 1 && entry == t->n_entry - 1;
  if (!s && is_last_of_several) s = write_table(t);
  close_entry(t);
  return s;
}

/* Removes what shards and killed runs left behind. */
static fvg_status tidy(tuning *t) {
  fvg_status s = clear_claims(t->c, t->o->out, &t->who, t->o->out);
  if (s) return s;
  remove_outer_temporaries(t);
  const int n = count_units(t);
  for (int i = 0; !s && i < n; i++) {
    const tune_unit u = unit_at(t, i);
    char folder[1280];
    result_folder(t, u.entry, u.row, u.run, folder, sizeof folder);
    s = clear_claims(t->c, folder, &t->who, t->o->out);
    if (!s) remove_temporaries(folder);
  }
  return s;
}

static fvg_status run_alone(tuning *t) {
  fvg_status s = tidy(t);
  for (int e = 0; !s && e < t->n_entry; e++) s = run_entry(t, e);
  t->has_means = !s;
  return s;
}

/* ---- the command ---- */
/* Locks --out, and in a list the folder of every entry, which may be another run's --out.  Shards
   have these locks together. */
static fvg_status lock_out(tuning *t) {
  fvg_status (*const lock)(fvg_ctx *, folder_lock *, const char *) =
      t->o->shard.number ? share_folder : lock_folder;
  fvg_status s = make_folders(t->c, t->o->out);
  if (!s) s = lock(t->c, &t->lock[0], t->o->out);
  for (int e = 0; !s && t->n_entry > 1 && e < t->n_entry; e++) {
    char folder[1100];
    entry_folder(t, e, folder, sizeof folder);
    s = make_folders(t->c, folder);
    if (!s) s = lock(t->c, &t->lock[e + 1], folder);
  }
  return s;
}

fvg_status tuning_new(fvg_ctx *c, tuning **out, const tune_options *o) {
  tuning *t = FVG_NEW(c, tuning);
  *out = t;
  if (!t) return FVG_E_NOMEM;
  t->c = c;
  t->o = o;
  t->who.shard = o->shard;
  t->who.expires = o->claim_expires;
  t->csv = new_document(c);
  t->train_half = protocol_of(&o->learner) == FVG_BASE_TO_NEW ? FVG_BASE : FVG_ALL;
  return FVG_OK;
}

/* Everything that can be wrong is looked for before the first entry begins. */
fvg_status tuning_run(tuning *t) {
  fvg_status s = parse_lists(t, t->c);
  if (!s) s = lock_out(t);
  if (!s) s = open_tuned_model(t->c, &t->o->common, &t->m);
  if (!s) s = open_sets(t);
  if (!s) s = check_run(t);
  if (!s) s = make_plan(t);
  if (!s && !t->o->shard.number) s = check_earlier_runs(t);
  if (!s) s = open_cache(t->m, &t->o->common, &t->cache);
  if (!s) s = t->o->shard.number ? run_shard(t) : run_alone(t);
  return s;
}

void tuning_free(tuning *t) {
  if (!t) return;
  fvg_ctx *c = t->c;
  free_tests(t);
  close_cache(t->cache);
  close_sets(t);
  for (int e = 0; e <= MAX_ENTRIES; e++) unlock_folder(&t->lock[e]);
  fvg_clip_free(t->m);
  fvg_release(c, t->csv.text);
  fvg_release(c, t->plan);
  fvg_release(c, t);
}

static fvg_status run(fvg_ctx *c, const void *options) {
  const tune_options *o = (const tune_options *)options;
  const char *trainer = o->learner.trainer;
  if (!trainer || !*trainer || !o->out || !*o->out)
    return fvg_fail(c, FVG_E_ARG, "tune needs --trainer NAME,... and --out DIR");
  if (strlen(o->out) > 900) return fvg_fail(c, FVG_E_ARG, "--out: the path is too long");

  tuning *t;
  fvg_status s = tuning_new(c, &t, o);
  if (!s) s = parse_trainers(t, c);
  if (!s) s = check_needs_of_rows(t);
  if (!s) s = tuning_run(t);
  tuning_free(t);
  return s;
}

const fvgpt_command tune_command = {"tune", sizeof(tune_options), declare_tune, run};
