/* fvgpt table; see fvgpt_table.h. */
#include "fvgpt_table.h"

#include <stdio.h>
#include <string.h>

#include "fvgpt_results.h"
#include "fvgpt_tune_table.h"

/* ---- what is missing ---- */
enum { MOST_TOLD = 20 };

/* Tells of a missing result, and who has claimed it. */
static void tell_missing(const tuning *t, int entry, int row, int run) {
  char folder[1280], holder[HOLDER_BYTES], name[RUN_BYTES];
  const int backbone = t->row[row].backbone;
  claim_holder h;
  result_folder(t, entry, backbone >= 0 ? backbone : row, run, folder, sizeof folder);
  look_at_claim(folder, &t->who, &h);
  describe_holder(&h, holder);
  name_run(t, run, name);
  fvg_log(t->c, 0, "missing: %s, %s of %.80s (%s%s)", t->row[row].name, name, t->entry[entry].key,
          h.generation < 0 ? "nobody" : holder,
          h.generation < 0 ? " is at work on it" : "");
}

static fvg_status load_entry(tuning *t, int entry, int *n_missing) {
  fvg_status s = FVG_OK;
  forget_results(t);
  t->at = &t->entry[entry];
  entry_folder(t, entry, t->out, sizeof t->out);
  for (int run = 0; !s && run < t->n_seed; run++) {
    for (int row = 0; !s && row < t->n_row; row++) {
      s = read_result(t, entry, row, run);
      if (s || t->has_result[row][run]) continue;
      ++*n_missing;
      if (*n_missing <= MOST_TOLD) tell_missing(t, entry, row, run);
    }
  }
  return s;
}

/* ---- tables ---- */
fvg_status write_all_tables(tuning *t) {
  int n_missing = 0;
  fvg_status s = FVG_OK;
  for (int e = 0; !s && e < t->n_entry; e++) s = load_entry(t, e, &n_missing);
  if (!s && n_missing) {
    s = fvg_fail(t->c, FVG_E_IO,
                 "%s: %d of %d results %s missing; wait for the shards that are at work, or give "
                 "tune's command again",
                 t->o->out, n_missing, t->n_entry * t->n_seed * t->n_row,
                 n_missing == 1 ? "is" : "are");
  }
  for (int e = 0; !s && e < t->n_entry; e++) {
    s = load_entry(t, e, &n_missing);
    if (!s) s = write_results(t, e);
  }
  if (!s && t->n_entry > 1) s = write_table(t);
  t->has_means = !s;
  forget_results(t);
  return s;
}

/* ---- the command ---- */
typedef struct table_options {
  common_options common;
  text_list runs;
  double claim_expires;
} table_options;

static void declare(option_table *t, void *options) {
  table_options *o = (table_options *)options;
  o->claim_expires = 600;
  add_common(t, &o->common);
  add_number(t, "--claim-expires", &o->claim_expires, 1, 1e6);
  add_files(t, &o->runs, NULL);
}

/* What read_plan fills. */
typedef struct table_run {
  tuning t;
  tune_options o;
  char trainer[TRAINER_BYTES];
} table_run;

static fvg_status run(fvg_ctx *c, const void *options) {
  const table_options *o = (const table_options *)options;
  if (o->runs.n != 1) return fvg_fail(c, FVG_E_ARG, "table needs the --out folder of a tune");
  if (strlen(o->runs.item[0]) > 900) return fvg_fail(c, FVG_E_ARG, "table: the path is too long");
  table_run *x = FVG_NEW(c, table_run);
  if (!x) return FVG_E_NOMEM;
  x->o.out = o->runs.item[0];
  x->t.c = c;
  x->t.who.expires = o->claim_expires;
  x->t.csv = new_document(c);
  fvg_status s = read_plan(&x->t, &x->o, x->trainer);
  if (!s) s = write_all_tables(&x->t);
  fvg_release(c, x->t.csv.text);
  fvg_release(c, x);
  return s;
}

const fvgpt_command table_command = {"table", sizeof(table_options), declare, run};
