/* The tables of fvgpt tune; see fvgpt_tune_table.h. */
#include "fvgpt_tune_table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvgpt_columns.h"
#include "fvgpt_print.h"
#include "fvgpt_tune_heads.h"
#include "fvgpt_tune_marks.h"

/* Tests on base and on new classes have a harmonic mean. */
static int has_h(const tuning *t) { return t->train_half == FVG_BASE; }

/* Columns of numbers are as wide as their names, so that no two names look alike. */
enum { NUMBER_COLUMNS = 6 };
static int test_width(const tuning *t, int test) {
  return column_width(NUMBER_COLUMNS, t->test[test].name);
}

/* The numbers of an entry in the table of all, and the column that its name may widen. */
static int numbers_width(const tuning *t) {
  const int n = has_h(t) ? 3 : t->n_test;
  return n * (NUMBER_COLUMNS + 1) - 1;
}

static int entry_width(const tuning *t, int entry) {
  return column_width(numbers_width(t), t->entry[entry].key);
}

/* The width of the column of rows' names, which an entry's name stands above. */
static int name_width(const tuning *t) {
  int width = column_width(24, t->at->key);
  for (int row = 0; row < t->n_row; row++) width = column_width(width, t->row[row].name);
  return width;
}

/* A head that has no rule for new classes has no number there: NaN. */
static int is_there(double value) { return value == value; }

/* Prints a number in so many columns, or a dash where there is none. */
static void print_number(double value, int width) {
  if (is_there(value)) printf(" %*.2f", width, value);
  else printf(" %*s", width, "-");
}

/* ---- lines while it works ---- */
/* Appends ", NAME VALUE" to a text that has `size` bytes. */
static void append(char *text, size_t size, const char *name, double value) {
  const size_t at = strlen(text);
  snprintf(text + at, size - at, ", %.30s %g", name, value);
}

/* What is not the method's usual way: warm-up, context, and options that a recipe or --set
   changes. */
static void list_unusual(const tuning *t, const table_row *r, const fvg_learner_desc *desc,
                         const fvg_train_desc *train, char *text, size_t size) {
  text[0] = 0;
  if (train->optimizer.warmup_epochs < 0) snprintf(text, size, ", no warm-up");
  if (distill_of(r)) append(text, size, "lambda-base", lambda_base_of(t->o, r));
  if (r->backbone >= 0) return;
  if (desc->n_ctx && !desc->ctx_init) append(text, size, "n_ctx", desc->n_ctx);
  for (int i = 0; i < desc->n_option && strlen(text) < size - 60; i++)
    append(text, size, desc->option[i].name, desc->option[i].value);
}

/* With --ctx-init the words decide how many vectors a method learns, so a learner of two classes is
   asked.  Appends words and place where they are not the usual ones. */
static fvg_status list_context(const tuning *t, const table_row *r, const fvg_learner_desc *desc,
                               char *text, size_t size) {
  const learner_options *o = &t->o->learner;
  const int is_usual = !o->ctx_init && !strcmp(o->position, "end");
  if (r->backbone >= 0 || is_usual) return FVG_OK;
  fvg_learner *l = NULL;
  mute_log(1);
  fvg_status s = fvg_learner_new(t->m, &l, (const char *const *)t->d->class_name,
                                 t->d->n_class < 2 ? 1 : 2, desc);
  mute_log(0);
  if (s) return s;
  fvg_learner_desc made;
  fvg_learner_made_from(l, &made, NULL);
  if (o->ctx_init && made.ctx_init) {
    append(text, size, "n_ctx", made.n_ctx);
    const size_t at = strlen(text);
    snprintf(text + at, size - at, ", ctx-init \"%.100s\"", made.ctx_init);
  }
  const size_t at = strlen(text);
  if (strcmp(o->position, "end"))
    snprintf(text + at, size - at, ", class-token-position %s", o->position);
  fvg_learner_free(l);
  return FVG_OK;
}

/* Appends what --choose will try for the row. */
static void list_choices(const tuning *t, const table_row *r, char *text, size_t size) {
  const unsigned wanted = choices_of(t->o, r);
  for (int i = 0; i < t->o->choose.n; i++) {
    const size_t at = strlen(text);
    if (wanted >> i & 1)
      snprintf(text + at, size - at, "%s %.100s", at ? "" : "; chosen on val:",
               t->o->choose.text[i]);
  }
}

/* What a row without prompts is made of. */
static void print_untuned_setting(const tuning *t, const table_row *r) {
  if (r->ensemble) {
    print(stdout,
          "settings    %s: the 7 templates that CLIP's authors selected, and the set's own\n",
          r->name);
    return;
  }
  const int n = head_crops(t);
  const char *way = t->d->val.n ? ", settings chosen on val"
                                : "; no val pictures, so settings are as published";
  print(stdout, "settings    %s: on %d view%s of each picture%s\n", r->name, n, n > 1 ? "s" : "",
        way);
}

static fvg_status print_setting(const tuning *t, const table_row *r) {
  static const char *const protocol[] = {"base to new", "few-shot", "cross-data"};
  const learner_options *o = &t->o->learner;
  if (!r->method) {
    print_untuned_setting(t, r);
    return FVG_OK;
  }
  fvg_option option[MAX_OPTIONS];
  fvg_learner_desc desc;
  fvg_status s =
      learner_desc(t->c, o, r->method, t->d->card, t->at->shots, option, &desc);
  if (s) return s;
  vary_learner(r->method, &r->own, option, &desc);

  const fvg_train_desc d = train_desc_of(t, r, 0);
  const char *which = o->all ? "all pictures" : protocol[protocol_of(o)];
  const char *preset = preset_name[o->preset];
  if (r->backbone >= 0) preset = r->dpc ? "DPC's" : "FVG-PT's";
  char unusual[400], choices[500] = "";
  list_unusual(t, r, &desc, &d, unusual, sizeof unusual);
  s = list_context(t, r, &desc, unusual, sizeof unusual);
  if (s) return s;
  list_choices(t, r, choices, sizeof choices);
  print(stdout, "settings    %s: preset %s, %s, %s, lr %g, %d epoch%s, batch %d%s%s\n", r->name,
        preset, which, d.optimizer.kind == FVG_ADAMW ? "AdamW" : "SGD",
        (double)d.optimizer.lr, d.optimizer.epochs, plural(d.optimizer.epochs), d.batch, unusual,
        choices);
  return FVG_OK;
}

fvg_status print_settings(const tuning *t) {
  fvg_status s = FVG_OK;
  for (int row = 1; !s && row < t->n_row; row++) s = print_setting(t, &t->row[row]);
  fflush(stdout);
  return s;
}

/* Has the row a checkpoint?  CLIP as it was has none.  The plan of a run tells names alone. */
static int is_tuned(const table_row *r) { return strncmp(r->name, "zero_shot", 9) != 0; }

static void print_untested(const tuning *t, int row, int run) {
  char folder[RUN_BYTES];
  run_folder(t, run, folder);
  print(stdout, "  tuned on all %d pictures: %s/%s/%s", t->task.items.n, t->out, t->row[row].name,
        folder);
}

void print_row(const tuning *t, int row, int run) {
  const double *result = t->result[row][run];
  const int n_test = count_tests(t, run);
  char name[RUN_BYTES];
  name_run(t, run, name);
  if (!n_test && !is_tuned(&t->row[row])) return;
  print(stdout, "%-11s %-*s", t->row[row].name, t->n_fold ? 14 : 8, name);
  if (!n_test) print_untested(t, row, run);
  for (int i = 0; i < n_test; i++) {
    print(stdout, "  %s", t->test[i].name);
    print_number(result[i], 6);
  }
  if (has_h(t)) {
    printf("  H");
    print_number(fvg_harmonic_mean(result[0], result[1]), 6);
  }
  printf("\n");
  fflush(stdout);
}

/* ---- an entry's results ---- */
/* How many runs have a test? */
static int count_tested(const tuning *t) {
  int n = 0;
  for (int run = 0; run < t->n_seed; run++) n += count_tests(t, run) > 0;
  return n;
}

/* A single run deviates from nothing. */
static int has_deviation(const tuning *t) { return count_tested(t) > 1; }

/* Mean and deviation of a test over the runs; column n_test: H.  The deviation is that of the
   population, as in the published result parser. */
static double mean_of(const tuning *t, int row, int column, double *deviation) {
  double x[MAX_SEEDS];
  double mean = 0;
  int n = 0;
  const int n_tested = count_tested(t);
  for (int run = 0; run < t->n_seed; run++) {
    const double *r = t->result[row][run];
    if (!count_tests(t, run)) continue;
    x[n] = column < t->n_test ? r[column] : fvg_harmonic_mean(r[0], r[1]);
    mean += x[n++] / n_tested;
  }
  double var = 0;
  for (int i = 0; i < n; i++) var += (x[i] - mean) * (x[i] - mean) / n;
  *deviation = sqrt(var);
  return mean;
}

/* Puts "NAME": VALUE behind `lead`.  Names of data sets are names of folders, which may hold
   anything. */
static void put_number(document *d, const char *lead, const char *name, const char *suffix,
                       double value) {
  put(d, "%s\"", lead);
  put_escaped(d, name, 0);
  if (is_there(value)) put(d, "%s\": %.4f", suffix, value);
  else put(d, "%s\": null", suffix);
}

/* Is there no further row of this or another seed? */
static int is_last(const tuning *t, int run, int row) {
  return run == t->n_seed - 1 && row == t->n_row - 1;
}

void put_chosen(document *d, const chosen *x) {
  if (!x->what.n) return;
  put(d, ", \"val\": %.4f, \"chosen\": {", x->val.accuracy);
  for (int i = 0; i < x->what.n; i++)
    put(d, "%s\"%s\": %g", i ? ", " : "", x->what.item[i].name, x->what.item[i].value);
  put(d, "}");
}

void put_run(document *d, const tuning *t, int run) {
  put(d, "\"seed\": %d", t->seed[run]);
  if (t->fold[run]) put(d, ", \"fold\": %d", t->fold[run]);
}

static void put_row(document *d, const tuning *t, int row, int run) {
  const double *r = t->result[row][run];
  if (!count_tests(t, run)) return;
  put(d, "  {\"method\": \"%s\", ", t->row[row].name);
  put_run(d, t, run);
  for (int k = 0; k < t->n_test; k++) put_number(d, ", ", t->test[k].name, "", r[k]);
  if (has_h(t)) put_number(d, ", ", "H", "", fvg_harmonic_mean(r[0], r[1]));
  put_chosen(d, &t->chosen[row][run]);
  put(d, "}%s\n", is_last(t, run, row) ? "" : ",");
}

static void put_rows(document *d, const tuning *t) {
  put(d, " \"rows\": [\n");
  for (int run = 0; run < t->n_seed; run++) {
    for (int row = 0; row < t->n_row; row++) put_row(d, t, row, run);
  }
  put(d, " ],\n");
}

/* A curve comes from a checkpoint's text, so nothing but numbers is passed on.  Checkpoints of
   older versions have none. */
void put_losses(document *d, const char *curve) {
  const char *at = curve ? curve : "";
  int is_first = 1;
  while (*at) {
    char *end;
    const double loss = strtod(at, &end);
    if (end == at || !(fabs(loss) < 1e30)) break;
    put(d, is_first ? "%.6g" : ", %.6g", loss);
    is_first = 0;
    at = end;
  }
}

static void put_curve(document *d, const tuning *t, int row, int run) {
  put(d, "  {\"method\": \"%s\", ", t->row[row].name);
  put_run(d, t, run);
  put(d, ", \"loss\": [");
  put_losses(d, t->curve[row][run]);
  put(d, "]}%s\n", is_last(t, run, row) ? "" : ",");
}

static void put_curves(document *d, const tuning *t) {
  put(d, " \"curves\": [\n");
  for (int run = 0; run < t->n_seed; run++) {
    for (int row = 1; row < t->n_row; row++) put_curve(d, t, row, run);
  }
  put(d, " ],\n");
}

void put_seeds(document *d, const tuning *t) {
  put(d, " \"seeds\": [");
  for (int i = 0; i < t->n_seed; i++) {
    if (!t->fold[i]) put(d, i ? ", %d" : "%d", t->seed[i]);
  }
  put(d, "],\n");
  if (t->o->learner.all) put(d, " \"folds\": %d,\n", t->n_fold);
}

/* ---- every accuracy, for other programs ---- */
/* A method that has no rule for new classes has no number there. */
static void put_csv_rows(document *d, const tuning *t, int row, int run) {
  for (int i = 0; i < count_tests(t, run); i++) {
    put_csv_field(d, t->at->key);
    put(d, ",%d,", t->at->shots);
    put_csv_field(d, t->row[row].name);
    put(d, t->fold[run] ? ",%d,%d," : ",%d,,", t->seed[run], t->fold[run]);
    put_csv_field(d, t->test[i].name);
    put(d, ",");
    if (is_there(t->result[row][run][i])) put_real(d, t->result[row][run][i]);
    put(d, "\n");
  }
}

static fvg_status save_csv(fvg_ctx *c, const char *folder, const char *rows) {
  char path[1200];
  snprintf(path, sizeof path, "%.1100s/results.csv", folder);
  document d = new_document(c);
  put(&d, "data,shots,method,seed,fold,test,accuracy\n%s", rows ? rows : "");
  return save_document(&d, path);
}

/* The rows stay in t->csv, for the file of all entries. */
static fvg_status write_csv(tuning *t) {
  document *all = &t->csv;
  const size_t first = all->n;
  for (int run = 0; run < t->n_seed; run++) {
    for (int row = 0; row < t->n_row; row++) put_csv_rows(all, t, row, run);
  }
  if (all->status) return all->status;
  return save_csv(t->c, t->out, all->text ? all->text + first : NULL);
}

/* ---- means ---- */
/* Prints and puts the means of one row, and keeps them for the table of all entries. */
static void write_means(document *d, tuning *t, int entry, int row) {
  double *mean = t->mean[entry][row];
  double *deviation = t->deviation[entry][row];
  put(d, "  {\"method\": \"%s\"", t->row[row].name);
  print(stdout, "%-*s", name_width(t), t->row[row].name);

  for (int i = 0; i < t->n_test; i++) {
    mean[i] = mean_of(t, row, i, &deviation[i]);
    put_number(d, ", ", t->test[i].name, "", mean[i]);
    put_number(d, ", ", t->test[i].name, "_std", deviation[i]);
    print_number(mean[i], test_width(t, i));
    if (has_deviation(t)) print_number(deviation[i], 6);
  }
  if (has_h(t)) {
    const double h = fvg_harmonic_mean(mean[0], mean[1]);
    mean_of(t, row, t->n_test, &deviation[t->n_test]);
    put_number(d, ", ", "H", "", h);
    put_number(d, ", ", "H", "_std", deviation[t->n_test]);
    print_number(h, 6);
  }
  put(d, "}%s\n", row == t->n_row - 1 ? "" : ",");
  printf("\n");
}

/* Prints what --choose has found for a row with each seed. */
static void print_chosen(const tuning *t, int row) {
  for (int i = 0; i < t->n_seed; i++) {
    const chosen *x = &t->chosen[row][i];
    char text[VARIATIONS_BYTES];
    if (!x->what.n) continue;
    print_variations(&x->what, text);
    print(stdout, "%-*s seed %-3d chose %s on val: %.2f\n", name_width(t), t->row[row].name,
          t->seed[i], text, x->val.accuracy);
  }
}

static void print_head(const tuning *t) {
  print_left(t->at->key, name_width(t));
  for (int i = 0; i < t->n_test; i++) {
    printf(" ");
    print_right(t->test[i].name, test_width(t, i));
    if (has_deviation(t)) printf(" %6s", "+-");
  }
  const int n = count_tested(t);
  printf("%s   mean of %d %s%s%s\n", has_h(t) ? "      H" : "", n, t->n_fold ? "fold" : "seed",
         n > 1 ? "s" : "", has_h(t) ? ", H of the means" : "");
}

/* With --all: what comes next, with the method that the folds, if there are any, found the best.
   Nobody should tune for nothing, so CLIP itself is named where it is as good. */
static void print_next(const tuning *t, int entry) {
  int best = 0;
  for (int row = 1; row < t->n_row; row++) {
    if (!is_tuned(&t->row[row])) continue;
    if (!best || t->mean[entry][row][0] >= t->mean[entry][best][0]) best = row;
  }
  if (!best) return;
  if (t->n_fold && t->mean[entry][0][0] >= t->mean[entry][best][0])
    print(stdout, "zero_shot, which is CLIP as it was, is as good as what was tuned\n");
  char folder[RUN_BYTES];
  run_folder(t, 0, folder);
  char checkpoint[1300];
  snprintf(checkpoint, sizeof checkpoint, "%.1100s/%s/%s", t->out, t->row[best].name, folder);
  print(stdout, "next: fvgpt classify --model DIR --checkpoint ");
  print_shell_word(stdout, checkpoint);
  print(stdout, " PICTURE...\n");
}

/* The file holds every result; what is printed is the means. */
fvg_status write_results(tuning *t, int entry) {
  document d = new_document(t->c);
  put(&d, "{\n \"trainer\": \"%s\",\n", t->o->learner.trainer);
  put(&d, " \"shots\": %d,\n", t->at->shots);
  put_seeds(&d, t);
  put_rows(&d, t);
  put_curves(&d, t);

  print(stdout, "\n");
  if (t->n_test) print_head(t);
  put(&d, " \"mean\": [\n");
  for (int row = 0; t->n_test && row < t->n_row; row++) write_means(&d, t, entry, row);
  put(&d, " ]\n}\n");
  if (t->o->learner.all) print_next(t, entry);
  for (int row = 1; row < t->n_row; row++) print_chosen(t, row);
  printf("\n");

  char path[1200];
  snprintf(path, sizeof path, "%s/results.json", t->out);
  fvg_status s = save_document(&d, path);
  return s ? s : write_csv(t);
}

/* ---- the table of all entries ---- */
/* Prints and puts an entry's columns of a row: its tests, and H. */
static void write_columns(document *d, const tuning *t, int entry, const double *mean) {
  put(d, ", \"");
  put_escaped(d, t->entry[entry].key, 0);
  put(d, "\": {");
  for (int i = 0; i < t->n_test; i++) {
    put_number(d, i ? ", " : "", t->test[i].name, "", mean[i]);
    print_number(mean[i], 6);
  }
  if (has_h(t)) {
    const double h = fvg_harmonic_mean(mean[0], mean[1]);
    put_number(d, ", ", "H", "", h);
    print_number(h, 6);
  }
  put(d, "}");
  printf("%*s", entry_width(t, entry) - numbers_width(t), "");
}

/* Prints and puts the averages of a row.  H is that of the averages, as published.  With data sets
   to transfer to, the average is over those. */
static void write_averages(document *d, const tuning *t, const double *average) {
  put(d, ", \"average\": {");
  if (has_h(t)) {
    const double base = average[0];
    const double new_ = average[1];
    const double h = fvg_harmonic_mean(base, new_);
    put_number(d, "", "base", "", base);
    put_number(d, ", ", "new", "", new_);
    put_number(d, ", ", "H", "", h);
    print_number(base, 6);
    print_number(new_, 6);
    print_number(h, 6);
  } else {
    const int first = t->n_target ? 1 : 0;
    double sum = 0;
    for (int i = first; i < t->n_test; i++) sum += average[i] / (t->n_test - first);
    put_number(d, "", "accuracy", "", sum);
    print_number(sum, 6);
  }
  put(d, "}");
}

static void write_table_row(document *d, const tuning *t, int row) {
  double average[MAX_TESTS] = {0};
  put(d, "  {\"method\": \"%s\"", t->row[row].name);
  printf("%-*s", name_width(t), t->row[row].name);
  for (int e = 0; e < t->n_entry; e++) {
    const double *mean = t->mean[e][row];
    for (int i = 0; i < t->n_test; i++) average[i] += mean[i] / t->n_entry;
    write_columns(d, t, e, mean);
  }
  write_averages(d, t, average);
  put(d, "}%s\n", row == t->n_row - 1 ? "" : ",");
  printf("\n");
}

static void print_table_head(const tuning *t) {
  printf("%-*s", name_width(t), "");
  for (int e = 0; e < t->n_entry; e++) {
    printf(" ");
    print_left(t->entry[e].key, entry_width(t, e));
  }
  printf(" average\n");
}

fvg_status write_table(tuning *t) {
  document d = new_document(t->c);
  put(&d, "{\n \"trainer\": \"%s\",\n", t->o->learner.trainer);
  put_seeds(&d, t);
  put(&d, " \"table\": [\n");
  if (t->n_test) print_table_head(t);
  for (int row = 0; t->n_test && row < t->n_row; row++) write_table_row(&d, t, row);
  put(&d, " ]\n}\n");

  char path[1200];
  snprintf(path, sizeof path, "%s/results.json", t->o->out);
  fvg_status s = save_document(&d, path);
  return s ? s : save_csv(t->c, t->o->out, t->csv.text);
}
