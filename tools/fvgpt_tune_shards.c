/* Shards; see fvgpt_tune_shards.h. */
#include "fvgpt_tune_shards.h"

#include <stdio.h>
#include <string.h>

#include "fvgpt_print.h"
#include "fvgpt_results.h"
#include "fvgpt_table.h"
#include "fvgpt_tune_units.h"

typedef struct shard_run {
  tuning *t;
  int n, first, end;                 /* units in all; those of this shard's own share            */
  char *is_done;                     /* [n]                                                      */
  int entry, run;                    /* those that are open; -1: none                            */
  int n_left;                        /* units that the last round found with others              */
  char left[3 * (HOLDER_BYTES + 200)];       /* the first of them                                */
} shard_run;

/* The number of the step-th unit that this shard looks at: first its own share, then backwards,
   from the ends of the others' shares, which their owners reach last. */
static int unit_number(const shard_run *x, int step) {
  const int n_own = x->end - x->first;
  if (step < n_own) return x->first + step;
  return (x->first + x->n - 1 - (step - n_own)) % x->n;
}

static fvg_status is_finished(tuning *t, const tune_unit *u, int *answer) {
  fvg_status s = FVG_OK;
  *answer = 1;
  for (int row = u->row; !s && *answer && row < t->n_row; row++) {
    if (!is_of_unit(t, row, u->row)) continue;
    s = read_result(t, u->entry, row, u->run);
    *answer = t->has_result[row][u->run];
  }
  return s;
}

static fvg_status go_to(shard_run *x, const tune_unit *u) {
  fvg_status s = FVG_OK;
  if (x->entry != u->entry) {
    if (x->entry >= 0) close_entry(x->t);
    x->entry = u->entry;
    x->run = -1;
    s = open_entry(x->t, u->entry);
  }
  if (!s && x->run != u->run) s = open_seed(x->t, u->run);
  x->run = u->run;
  return s;
}

/* Remembers who has a unit, for the last line. */
static void note_left(shard_run *x, const tune_unit *u, const claim_holder *h) {
  const tuning *t = x->t;
  const size_t n = strlen(x->left);
  char holder[HOLDER_BYTES], name[RUN_BYTES];
  describe_holder(h, holder);
  name_run(t, u->run, name);
  x->n_left++;
  if (x->n_left > 3) return;
  snprintf(x->left + n, sizeof x->left - n, "%s%s %s of %.80s (%s)", n ? ", " : "",
           t->row[u->row].name, name, t->entry[u->entry].key, holder);
}

/* What became of the work on a claimed unit, s.  That somebody took it over is no error, unless it
   is a shard of our number: two of them would take everything from each other for ever. */
static fvg_status after_work(shard_run *x, const char *folder, fvg_status s) {
  tuning *t = x->t;
  if (!s || stopped_by() || !check_claim(t->c)) return s;
  claim_holder h;
  look_at_claim(folder, &t->who, &h);
  const int is_same = h.shard.number == t->o->shard.number && h.shard.count == t->o->shard.count;
  if (h.generation >= 0 && is_same) {
    char holder[HOLDER_BYTES];
    h.is_dead = 0;
    describe_holder(&h, holder);
    return fvg_fail(t->c, FVG_E_ARG, "%s: there is another %s; this one stops", t->o->out, holder);
  }
  fvg_log(t->c, 1, "%s", fvg_error(t->c));
  return FVG_OK;
}

/* A unit, unless it is finished or with somebody who lives. */
static fvg_status work_on(shard_run *x, int number) {
  tuning *t = x->t;
  const tune_unit u = unit_at(t, number);
  const int is_own = number >= x->first && number < x->end;
  char folder[1280];
  claim_holder h;
  int is_ours = 0;
  int is_there;
  result_folder(t, u.entry, u.row, u.run, folder, sizeof folder);
  fvg_status s = is_finished(t, &u, &is_there);
  x->is_done[number] = (char)(!s && is_there && !is_own);
  if (s || x->is_done[number]) return s;

  look_at_claim(folder, &t->who, &h);
  const int is_free = h.generation < 0 || h.is_dead;
  if (is_free) s = share_plan(t);
  if (!s && is_free) s = go_to(x, &u);
  if (!s && is_free) s = make_folders(t->c, folder);
  if (!s && is_free) s = take_claim(t->c, folder, &t->who, &is_ours, &h);
  if (s) return s;
  if (!is_ours) {
    note_left(x, &u, &h);
    return FVG_OK;
  }

  if (!u.row) remove_temporaries(folder);
  s = finish_unit(t, u.row, u.run);
  x->is_done[number] = !s;
  s = after_work(x, folder, s);
  release_claim();
  if (!s && !x->is_done[number]) {
    look_at_claim(folder, &t->who, &h);
    note_left(x, &u, &h);
  }
  return s;
}

/* All units once; *n_done: those that are finished now and were not before. */
static fvg_status work_round(shard_run *x, int *n_done) {
  fvg_status s = FVG_OK;
  *n_done = 0;
  x->n_left = 0;
  x->left[0] = 0;
  for (int step = 0; !s && step < x->n; step++) {
    const int number = unit_number(x, step);
    if (x->is_done[number]) continue;
    s = work_on(x, number);
    *n_done += x->is_done[number];
  }
  return s;
}

/* ---- the end ---- */
/* Whoever finds everything finished removes what dead shards left and writes the tables. */
static fvg_status end_run(shard_run *x) {
  tuning *t = x->t;
  claim_holder h;
  int is_ours;
  fvg_status s = take_claim(t->c, t->o->out, &t->who, &is_ours, &h);
  if (!s && !is_ours) {
    char holder[HOLDER_BYTES];
    describe_holder(&h, holder);
    print(stdout, "all is finished; the tables are written by %s\n", holder);
  }
  if (s || !is_ours) return s;
  remove_outer_temporaries(t);
  for (int i = 0; i < x->n; i++) {
    const tune_unit u = unit_at(t, i);
    char folder[1280];
    result_folder(t, u.entry, u.row, u.run, folder, sizeof folder);
    sweep_claims(folder);
  }
  s = write_all_tables(t);
  release_claim();
  return s;
}

static fvg_status run_rounds(shard_run *x) {
  int n_done;
  fvg_status s;
  do s = work_round(x, &n_done);
  while (!s && n_done && x->n_left);
  if (x->entry >= 0) close_entry(x->t);
  if (s) return s;
  if (!x->n_left) return end_run(x);
  print(stdout, "%d of %d pieces of work are still with others: %s%s; next: fvgpt table %s\n",
        x->n_left, x->n, x->left, x->n_left > 3 ? ", ..." : "", x->t->o->out);
  return FVG_OK;
}

fvg_status run_shard(tuning *t) {
  shard_run *x = FVG_NEW(t->c, shard_run);
  if (!x) return FVG_E_NOMEM;
  x->t = t;
  x->n = count_units(t);
  x->entry = -1;
  x->is_done = FVG_NEW_ARRAY(t->c, char, (size_t)x->n);
  share_of(&t->o->shard, x->n, &x->first, &x->end);
  fvg_status s = x->is_done ? share_plan(t) : FVG_E_NOMEM;
  if (!s) s = run_rounds(x);
  fvg_release(t->c, x->is_done);
  fvg_release(t->c, x);
  return s;
}
