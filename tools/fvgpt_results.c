/* Plans and results; see fvgpt_results.h. */
#include "fvgpt_results.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvgpt_json.h"
#include "fvgpt_print.h"
#include "fvgpt_tune_all.h"
#include "fvgpt_tune_marks.h"
#include "fvgpt_tune_table.h"

/* ---- marks ---- */
/* Options that the plan lists otherwise, and those that leave every number as it is. */
static const char *const not_a_setting[] = {
  "--trainer", "--ablate", "--seeds", "--shots", "--transfer-to", "--data", "--dataset-root",
  "--dataset", "--model", "--out", "--threads", "--shard", "--claim-expires", "--table",
  "--figure", "--backbone", "--cache", "--quiet", NULL,
};

static void mark_option(void *mark, const char *name, const char *value) {
  uint64_t *h = (uint64_t *)mark;
  *h = mark_text(mark_text(*h, name), value);
}

/* All pictures and classes of a data set, wherever it lies. */
static uint64_t mark_dataset(uint64_t h, const fvg_dataset *d) {
  h = mark_text(h, d->card ? d->card->folder : "");
  h = mark_items(h, &d->train);
  h = mark_items(h, &d->val);
  h = mark_items(h, &d->test);
  for (int i = 0; i < d->n_class; i++) h = mark_text(h, d->class_name[i]);
  return h;
}

static void mark_entries(tuning *t) {
  uint64_t all = mark_model(mark_text(mark_start, FVGPT_VERSION), t->m);
  visit_given(&t->o->common, not_a_setting, mark_option, &all);
  for (int i = 0; i < t->n_target; i++) all = mark_dataset(all, &t->target[i]);
  for (int e = 0; e < t->n_entry; e++) {
    uint64_t h = mark_dataset(all, &t->set[t->entry[e].set]);
    h = mark_bytes(h, &t->entry[e].shots, sizeof t->entry[e].shots);
    print_mark(t->run_mark[e], sizeof t->run_mark[e], h);
  }
}

/* ---- writing the plan ---- */
static const char *const protocol_name[4] = {"base to new", "few-shot", "cross-data", "all"};
enum { ALL_PICTURES = 3 };

static const char *name_protocol(const tuning *t) {
  const learner_options *o = &t->o->learner;
  return protocol_name[o->all ? ALL_PICTURES : (int)protocol_of(o)];
}

/* Options on their way into the plan; the values of one that was given several times become one
   text. */
typedef struct option_writer {
  document *d;
  const char *name;                  /* of the option whose text is not yet ended; NULL: none    */
} option_writer;

static void put_option(void *to, const char *name, const char *value) {
  option_writer *w = (option_writer *)to;
  if (w->name && !strcmp(w->name, name)) put(w->d, " ");
  else put(w->d, "%s,\n  \"%s\": \"", w->name ? "\"" : "", name);
  put_escaped(w->d, value, 0);
  w->name = name;
}

static void put_plan_settings(document *d, const tuning *t) {
  char mark[MARK_BYTES];
  print_mark(mark, sizeof mark, mark_model(mark_start, t->m));
  put(d, " \"settings\": {\n  \"version\": \"%s\",\n  \"model\": \"%s\"", FVGPT_VERSION, mark);
  option_writer w = {d, NULL};
  visit_given(&t->o->common, not_a_setting, put_option, &w);
  put(d, "%s\n },\n", w.name ? "\"" : "");
}

static void put_plan_rows(document *d, const tuning *t) {
  put(d, " \"rows\": [\n");
  for (int i = 0; i < t->n_row; i++) {
    const int backbone = t->row[i].backbone;
    put(d, "  {\"method\": \"%s\"", t->row[i].name);
    if (backbone >= 0) put(d, ", \"on\": \"%s\"", t->row[backbone].name);
    put(d, i < t->n_row - 1 ? "},\n" : "}\n ],\n");
  }
}

static void put_plan_entries(document *d, const tuning *t) {
  put(d, " \"entries\": [\n");
  for (int e = 0; e < t->n_entry; e++) {
    put(d, "  {\"key\": \"");
    put_escaped(d, t->entry[e].key, 0);
    put(d, "\", \"shots\": %d, \"mark\": \"%s\"}%s\n", t->entry[e].shots, t->run_mark[e],
        e < t->n_entry - 1 ? "," : "");
  }
  put(d, " ]\n");
}

fvg_status make_plan(tuning *t) {
  mark_entries(t);
  name_tests(t);
  document d = new_document(t->c);
  put(&d, "{\n \"trainer\": \"");
  put_escaped(&d, t->o->learner.trainer, 0);
  put(&d, "\",\n \"protocol\": \"%s\",\n", name_protocol(t));
  put_plan_settings(&d, t);
  put_seeds(&d, t);
  put(&d, " \"tests\": [");
  for (int i = 0; i < t->n_test; i++) {
    put(&d, i ? ", \"" : "\"");
    put_escaped(&d, t->test[i].name, 0);
    put(&d, "\"");
  }
  put(&d, "],\n");
  put_plan_rows(&d, t);
  put_plan_entries(&d, t);
  put(&d, "}\n");
  t->plan = d.text;
  return d.status;
}

static void plan_path(const tuning *t, char *path, size_t size) {
  snprintf(path, size, "%.900s/run.json", t->o->out);
}

/* Tells if the plan that is there has rows that this run has not.  One that cannot be read says
   nothing. */
static void tell_lost_rows(const tuning *t, const char *path) {
  fvg_json theirs;
  if (!fvg_file_exists(path)) return;
  if (!load_json(t->c, &theirs, path)) {
    for (int at = json_first(&theirs, 0, "rows"); at >= 0; at = theirs.value[at].next) {
      char name[sizeof t->row[0].name];
      if (!json_text(&theirs, at, "method", name, sizeof name) || find_row(t, name) >= 0) continue;
      fvg_log(t->c, 1,
              "%.900s: the tables of this run take the place of those that had %s; its files stay, "
              "and another --out keeps both tables",
              t->o->out, name);
      break;
    }
  }
  fvg_json_free(t->c, &theirs);
}

fvg_status write_plan(tuning *t) {
  char path[1000];
  plan_path(t, path, sizeof path);
  tell_lost_rows(t, path);
  fvg_status s = fvg_file_save(t->c, path, t->plan, strlen(t->plan));
  t->has_plan = !s;
  return s;
}

/* ---- comparing plans ---- */
/* Is this value, with all below it, another one?  -1: there is none. */
static int differs(const fvg_json *a, int at_a, const fvg_json *b, int at_b) {
  if (at_a < 0 || at_b < 0) return at_a != at_b;
  const fvg_json_value *x = &a->value[at_a];
  const fvg_json_value *y = &b->value[at_b];
  if (x->type != y->type || strcmp(x->string, y->string) || x->number != y->number) return 1;
  int i = x->first;
  int k = y->first;
  while (i >= 0 && k >= 0) {
    if (differs(a, i, b, k)) return 1;
    i = a->value[i].next;
    k = b->value[k].next;
  }
  return i != k;
}

static const char *text_of(const fvg_json *j, int at) {
  return at < 0 ? "not given" : j->value[at].string;
}

/* Finds a setting of a that b has not, or has otherwise; -1: there is none. */
static int other_setting(const fvg_json *a, const fvg_json *b) {
  const int in_b = fvg_json_find(b, 0, "settings");
  for (int i = json_first(a, 0, "settings"); i >= 0; i = a->value[i].next) {
    if (differs(a, i, b, fvg_json_find(b, in_b, a->value[i].key))) return i;
  }
  return -1;
}

/* What the plan of the folder has, and this shard has not. */
static fvg_status tell_difference(fvg_ctx *c, const char *path, const fvg_json *theirs,
                                  const fvg_json *ours) {
  static const char *const member[][2] = {
    {"trainer", "--trainer"}, {"protocol", "--few-shot, --transfer-to or --all"},
    {"seeds", "--seeds"}, {"tests", "--transfer-to"},
    {"rows", "--ablate, --table, --figure or --backbone"},
    {"entries", "data sets, shots or pictures"},
  };
  static const char way_out[] =
      "give all shards the same options, choose another --out, or remove this file if none is at "
      "work";
  const int theirs_has = other_setting(theirs, ours);
  const int ours_has = other_setting(ours, theirs);
  if (theirs_has >= 0 || ours_has >= 0) {
    const char *key = theirs_has >= 0 ? theirs->value[theirs_has].key : ours->value[ours_has].key;
    const int a = fvg_json_find(theirs, fvg_json_find(theirs, 0, "settings"), key);
    const int b = fvg_json_find(ours, fvg_json_find(ours, 0, "settings"), key);
    if (!strcmp(key, "model"))
      return fvg_fail(c, FVG_E_ARG,
                      "%s: is of a run on another model, or with other --weights; %s", path,
                      way_out);
    return fvg_fail(c, FVG_E_ARG, "%s: is of a run with %s %s, and here it is %s; %s", path, key,
                    text_of(theirs, a), text_of(ours, b), way_out);
  }
  for (size_t i = 0; i < sizeof member / sizeof *member; i++) {
    const char *key = member[i][0];
    if (!differs(theirs, fvg_json_find(theirs, 0, key), ours, fvg_json_find(ours, 0, key)))
      continue;
    return fvg_fail(c, FVG_E_ARG, "%s: is of a run with other %s; %s", path, member[i][1],
                    way_out);
  }
  return FVG_OK;
}

/* The shards of a run write the same bytes, so it does not matter which of them does. */
fvg_status share_plan(tuning *t) {
  char path[1000];
  plan_path(t, path, sizeof path);
  if (!fvg_file_exists(path)) {
    fvg_status s = write_plan(t);
    if (s) return s;
  }
  fvg_json theirs, ours;
  memset(&ours, 0, sizeof ours);
  fvg_status s = load_json(t->c, &theirs, path);
  if (!s) s = fvg_json_parse(t->c, &ours, t->plan, strlen(t->plan), path);
  if (!s) s = tell_difference(t->c, path, &theirs, &ours);
  fvg_json_free(t->c, &theirs);
  fvg_json_free(t->c, &ours);
  return s;
}

/* ---- reading a plan ---- */
/* The following four return the name of what is missing; NULL: all is there. */
static const char *read_plan_rows(tuning *t, const fvg_json *j) {
  for (int at = json_first(j, 0, "rows"); at >= 0; at = j->value[at].next) {
    if (t->n_row == MAX_ROWS) return "rows";
    table_row *r = &t->row[t->n_row++];
    char on[sizeof r->name];
    r->backbone = -1;
    if (!json_text(j, at, "method", r->name, sizeof r->name)) return "method of a row";
    if (!json_text(j, at, "on", on, sizeof on)) continue;
    for (int i = 0; i < t->n_row; i++) {
      if (!strcmp(t->row[i].name, on)) r->backbone = i;
    }
  }
  return t->n_row ? NULL : "rows";
}

static const char *read_plan_entries(tuning *t, const fvg_json *j) {
  for (int at = json_first(j, 0, "entries"); at >= 0; at = j->value[at].next) {
    if (t->n_entry == MAX_ENTRIES) return "entries";
    table_entry *e = &t->entry[t->n_entry];
    char *mark = t->run_mark[t->n_entry++];
    double shots;
    if (!json_text(j, at, "key", e->key, sizeof e->key)) return "key of an entry";
    if (!json_text(j, at, "mark", mark, sizeof t->run_mark[0])) return "mark of an entry";
    if (!json_number(j, at, "shots", &shots)) return "shots of an entry";
    e->shots = (int)shots;
  }
  return t->n_entry ? NULL : "entries";
}

static const char *read_plan_lists(tuning *t, const fvg_json *j) {
  for (int at = json_first(j, 0, "seeds"); at >= 0; at = j->value[at].next) {
    if (t->n_seed == MAX_SEEDS) return "seeds";
    t->seed[t->n_seed++] = (int)j->value[at].number;
  }
  for (int at = json_first(j, 0, "tests"); at >= 0; at = j->value[at].next) {
    if (t->n_test == MAX_TESTS) return "tests";
    test_set *x = &t->test[t->n_test++];
    snprintf(x->name, sizeof x->name, "%s", j->value[at].string);
  }
  const int has_tests = t->n_test || t->o->learner.all;
  return !t->n_seed ? "seeds" : !has_tests ? "tests" : NULL;
}

static const char *read_plan_parts(tuning *t, tune_options *o, char *trainer, const fvg_json *j) {
  char protocol[20];
  if (!json_text(j, 0, "trainer", trainer, TRAINER_BYTES)) return "trainer";
  if (!json_text(j, 0, "protocol", protocol, sizeof protocol)) return "protocol";
  o->learner.trainer = trainer;
  if (!strcmp(protocol, protocol_name[ALL_PICTURES])) {
    double folds;
    if (!json_number(j, 0, "folds", &folds)) return "folds";
    o->learner.all = 1;
    o->folds = (int)folds;
  }
  const char *missing = read_plan_rows(t, j);
  if (!missing) missing = read_plan_entries(t, j);
  if (!missing) missing = read_plan_lists(t, j);
  t->train_half = !strcmp(protocol, protocol_name[0]) ? FVG_BASE : FVG_ALL;
  if (!missing && t->train_half == FVG_BASE && t->n_test != 2) return "tests";
  t->n_target = !strcmp(protocol, protocol_name[2]) ? t->n_test - 1 : 0;
  if (!missing && add_fold_runs(t, t->c)) return "seeds";
  return missing;
}

fvg_status read_plan(tuning *t, tune_options *o, char trainer[TRAINER_BYTES]) {
  char path[1000];
  t->o = o;
  plan_path(t, path, sizeof path);
  if (!fvg_file_exists(path)) {
    return fvg_fail(t->c, FVG_E_IO, "%s: no such file; table takes the --out folder of a tune",
                    path);
  }
  fvg_json j;
  fvg_status s = load_json(t->c, &j, path);
  const char *missing = s ? NULL : read_plan_parts(t, o, trainer, &j);
  if (missing) s = fvg_fail(t->c, FVG_E_FORMAT, "%s: no %s; run tune again", path, missing);
  fvg_json_free(t->c, &j);
  return s;
}

/* ---- results ---- */
void result_folder(const tuning *t, int entry, int row, int run, char *folder, size_t size) {
  char out[1100], of_run[RUN_BYTES];
  entry_folder(t, entry, out, sizeof out);
  run_folder(t, run, of_run);
  snprintf(folder, size, "%s/%s/%s", out, t->row[row].name, of_run);
}

static void result_path(const tuning *t, int entry, int row, int run, char *path, size_t size) {
  char folder[1280];
  result_folder(t, entry, row, run, folder, sizeof folder);
  snprintf(path, size, "%s/result.json", folder);
}

/* Accuracies are strings with 17 digits, which strtod reads back exactly; readers of JSON need not
   read numbers so.  "none" stands where a row has no rule for such classes. */
fvg_status write_result(tuning *t, int row, int run) {
  char path[1300], mark[MARK_BYTES];
  const int entry = (int)(t->at - t->entry);
  mark_of_result(t, &t->row[row], run, &t->task, mark);
  document d = new_document(t->c);
  put(&d, "{\n \"method\": \"%s\", ", t->row[row].name);
  put_run(&d, t, run);
  put(&d, ",\n");
  put(&d, " \"run\": \"%s\", \"stage\": \"%s\",\n \"accuracy\": {", t->run_mark[entry], mark);
  for (int i = 0; i < count_tests(t, run); i++) {
    put(&d, i ? ", \"" : "\"");
    put_escaped(&d, t->test[i].name, 0);
    const double accuracy = t->result[row][run][i];
    if (accuracy == accuracy) put(&d, "\": \"%.17g\"", accuracy);
    else put(&d, "\": \"none\"");
  }
  put(&d, "},\n \"loss\": [");
  put_losses(&d, t->curve[row][run]);
  put(&d, "]");
  put_chosen(&d, &t->chosen[row][run]);
  put(&d, "\n}\n");
  result_folder(t, entry, row, run, path, sizeof path);
  fvg_status s = make_folders(t->c, path);
  if (!s) s = check_claim(t->c);
  result_path(t, entry, row, run, path, sizeof path);
  if (s) d.status = s;
  s = save_document(&d, path);
  if (!s) t->has_result[row][run] = 1;
  return s;
}

/* 0: they are not all there. */
static int read_accuracies(tuning *t, const fvg_json *j, int row, int run) {
  int at = json_first(j, 0, "accuracy");
  for (int i = 0; i < count_tests(t, run); i++) {
    if (at < 0) return 0;
    const char *text = j->value[at].string;
    const int is_none = !strcmp(text, "none");
    char *end;
    t->result[row][run][i] = is_none ? NAN : strtod(text, &end);
    if (!is_none && (end == text || *end)) return 0;
    at = j->value[at].next;
  }
  return at < 0;
}

static fvg_status read_losses(tuning *t, const fvg_json *j, int row, int run) {
  document d = new_document(t->c);
  for (int at = json_first(j, 0, "loss"); at >= 0; at = j->value[at].next)
    put(&d, d.n ? " %.6g" : "%.6g", j->value[at].number);
  t->curve[row][run] = d.text;
  return d.status;
}

/* What --choose had found. */
static void read_chosen(tuning *t, const fvg_json *j, int row, int run) {
  chosen *x = &t->chosen[row][run];
  memset(x, 0, sizeof *x);
  json_number(j, 0, "val", &x->val.accuracy);
  for (int at = json_first(j, 0, "chosen"); at >= 0; at = j->value[at].next) {
    if (x->what.n < MAX_VARIATIONS) vary(&x->what, j->value[at].key, j->value[at].number);
  }
}

static int is_marked(const fvg_json *j, const char *key, const char *mark) {
  char text[MARK_BYTES];
  return json_text(j, 0, key, text, sizeof text) && !strcmp(text, mark);
}

static void forget_result(tuning *t, int row, int run) {
  fvg_release(t->c, t->curve[row][run]);
  t->curve[row][run] = NULL;
  t->has_result[row][run] = 0;
  memset(&t->chosen[row][run], 0, sizeof t->chosen[row][run]);
}

/* stage: the mark that the result must have; NULL: any.  A file that is no JSON is as good as
   none. */
static fvg_status read_marked(tuning *t, int entry, int row, int run, const char *stage) {
  char path[1300];
  fvg_json j;
  forget_result(t, row, run);
  result_path(t, entry, row, run, path, sizeof path);
  if (!fvg_file_exists(path)) return FVG_OK;
  fvg_status s = load_json(t->c, &j, path);
  if (s == FVG_E_FORMAT) return FVG_OK;
  const int is_ours = !s && is_marked(&j, "run", t->run_mark[entry]) &&
                      (!stage || is_marked(&j, "stage", stage));
  if (is_ours && read_accuracies(t, &j, row, run)) {
    s = read_losses(t, &j, row, run);
    read_chosen(t, &j, row, run);
    t->has_result[row][run] = !s;
  }
  fvg_json_free(t->c, &j);
  return s;
}

fvg_status read_result(tuning *t, int entry, int row, int run) {
  return read_marked(t, entry, row, run, NULL);
}

static int has_checkpoint(const tuning *t, int entry, int row, int run) {
  const table_row *r = &t->row[row];
  char folder[1280], path[1400];
  result_folder(t, entry, row, run, folder, sizeof folder);
  checkpoint_in(folder, path, sizeof path);
  if ((r->method || r->head) && !fvg_file_exists(path)) return 0;
  if (!r->dpc) return 1;
  snprintf(folder + strlen(folder), sizeof folder - strlen(folder), "/new");
  checkpoint_in(folder, path, sizeof path);
  return fvg_file_exists(path);
}

fvg_status reuse_result(tuning *t, int row, int run) {
  const int entry = (int)(t->at - t->entry);
  char path[1300], mark[MARK_BYTES];
  forget_result(t, row, run);
  result_path(t, entry, row, run, path, sizeof path);
  if (!fvg_file_exists(path) || !has_checkpoint(t, entry, row, run)) return FVG_OK;
  mark_of_result(t, &t->row[row], run, &t->task, mark);
  fvg_status s = read_marked(t, entry, row, run, mark);
  const int is_stage = t->row[row].method || t->row[row].head;
  if (!s && is_stage && t->has_result[row][run]) {
    char name[RUN_BYTES];
    name_run(t, run, name);
    fvg_log(t->c, 1, "%s %s: reusing %s", t->row[row].name, name, path);
  }
  return s;
}

void forget_results(tuning *t) {
  for (int row = 0; row < t->n_row; row++) {
    for (int run = 0; run < t->n_seed; run++) forget_result(t, row, run);
  }
}
