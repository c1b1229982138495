/* fvgpt report. */
#include "fvgpt_report.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "fvgpt_cache.h"
#include "fvgpt_checks.h"
#include "fvgpt_columns.h"
#include "fvgpt_json.h"
#include "fvgpt_print.h"
#include "fvgpt_report_page.h"
#include "fvgpt_report_runs.h"
#include "fvgpt_report_study.h"
#include "fvgpt_system.h"

static void declare(option_table *t, void *options) {
  report_options *o = (report_options *)options;
  o->pictures = 6;
  o->measured = 200;
  add_common(t, &o->common);
  add_cache(t, &o->common);
  add_data_options(t, &o->data, MASKS_AS_GIVEN);
  add_list(t, "--runs", &o->runs);
  add_text(t, "--out", &o->out);
  add_text(t, "--template", &o->prompt_template);
  add_contrast_options(t, &o->contrast);
  add_whole(t, "--pictures", &o->pictures, 1, 100);
  add_whole(t, "--measured", &o->measured, 1, 1000000);
}

/* How many data sets there are: those of --dataset below --dataset-root, or of --data. */
static int n_sets(const report_options *o) {
  if (!o->data.dataset_root) return o->data.data.n;
  const char *at = o->data.dataset;
  int n = at && *at;
  for (; at && *at; at++) n += *at == ',';
  return n;
}

static fvg_status check_options(fvg_ctx *c, const report_options *o) {
  const int n = n_sets(o);
  if (!n || !o->runs.n || !o->out || !*o->out) {
    return fvg_fail(c, FVG_E_ARG,
                    "report needs --data ROOT (or --dataset-root DATA --dataset NAME,...), --runs "
                    "RUNS and --out DIR");
  }
  if (n != o->runs.n) {
    return fvg_fail(c, FVG_E_ARG,
                    "%d data sets but %d --runs; give one --runs for each, in the same order", n,
                    o->runs.n);
  }
  if (n > MOST_SETS)
    return fvg_fail(c, FVG_E_ARG, "%d data sets; a report takes %d at most", n, MOST_SETS);
  for (int i = 0; i < o->runs.n; i++) {
    if (strlen(o->runs.item[i]) > 1000)
      return fvg_fail(c, FVG_E_ARG, "--runs: the path is too long");
  }
  if (strlen(o->out) > 1000) return fvg_fail(c, FVG_E_ARG, "--out: the path is too long");
  return FVG_OK;
}

/* ---- writing ---- */
/* Puts the command line as a shell would read it. */
static void put_command(document *t, const common_options *o) {
  static const char plain[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-+=./,:@%";
  put(t, "fvgpt");
  for (int i = 1; i < o->argc; i++) {
    const char *argument = o->argv[i];
    if (*argument && strspn(argument, plain) == strlen(argument)) {
      put(t, " %s", argument);
      continue;
    }
    put(t, " '");
    for (const char *at = argument; *at; at++) {
      if (*at == '\'') put(t, "'\\''");
      else put(t, "%c", *at);
    }
    put(t, "'");
  }
}

/* A folder with the results of tune in it keeps them. */
static fvg_status check_out(fvg_ctx *c, const char *path) {
  if (!fvg_file_exists(path)) return FVG_OK;
  fvg_json j;
  const int is_ours = !load_json(c, &j, path) && fvg_json_find(&j, 0, "sets") >= 0;
  fvg_json_free(c, &j);
  if (is_ours) return FVG_OK;
  return fvg_fail(c, FVG_E_ARG,
                  "%s is not a report's and would be overwritten; choose another --out", path);
}

/* What is known of the CLIP. */
static void describe_model(document *t, const fvg_clip *m, const char *path) {
  put(t, "%s, image tower of %d blocks %d wide, pictures of %d and patches of %d pixels", path,
      m->vision.transformer.n_layer, m->vision.width, m->vision.image_size, m->vision.patch_size);
  put(t, ", text tower of %d blocks %d wide", m->text.transformer.n_layer, m->text.width);
}

/* Writes the page and then the numbers; json: the path of results.json. */
static fvg_status write_report(const fvg_clip *m, const report_options *o, const study *x,
                               double seconds, const char *json) {
  fvg_ctx *c = m->ctx;
  const int n = o->runs.n;
  document command = new_document(c);
  document clip = new_document(c);
  document page = new_document(c);
  document numbers = new_document(c);
  put_command(&command, &o->common);
  describe_model(&clip, m, o->common.model);
  fvg_status s = command.status ? command.status : clip.status;

  if (!s) {
    colophon by;
    const time_t moment = time(NULL);
    by.command = command.text;
    by.model = clip.text;
    by.seconds = seconds;
    strftime(by.date, sizeof by.date, "%Y-%m-%d %H:%M UTC", gmtime(&moment));
    put_page(&page, x, n, &by);
    put_json(&numbers, x, n, &by);
    s = numbers.status;
  }
  fvg_release(c, command.text);
  fvg_release(c, clip.text);

  /* Either both files are written or none; saving also gives the memory back. */
  char path[1200];
  snprintf(path, sizeof path, "%s/index.html", o->out);
  if (s) page.status = s;
  s = save_document(&page, path);
  if (s) numbers.status = s;
  return save_document(&numbers, json);
}

/* The width of a test's column; test n_test is H. */
static int test_width(const study *x, int test) {
  return column_width(8, test < x->n_test ? x->test[test] : "H");
}

/* Prints the page's tables in short. */
static void print_study(const study *x) {
  print(stdout, "\n%-24s", x->name);
  for (int k = 0; k < x->n_test; k++) {
    printf(" ");
    print_right(x->test[k], test_width(x, k));
  }
  printf("%s   relevance map: inside hottest    IoU\n", x->has_h ? "        H" : "");
  for (int i = 0; i < x->n_model; i++) {
    const model *w = &x->model[i];
    const score_row *row = x->row;
    while (strcmp(row->name, w->name)) row++;
    print(stdout, "%-24s", w->name);
    for (int k = 0; k < x->n_test + x->has_h; k++) printf(" %*.2f", test_width(x, k), row->mean[k]);
    printf("                 ");
    const measure *of = w->on[0].map[RELEVANCE];
    for (int k = 0; k < N_MEASURE && of[k].n; k++) printf(" %6.1f ", of[k].mean);
    printf("\n");
  }
}

static void print_summary(const study *x, int n) {
  for (int i = 0; i < n; i++) print_study(&x[i]);
  printf("\nAccuracies in %%, means over the seeds.  Relevance maps of base (or all) classes, in "
         "%%: inside the mask,\nhottest point inside, intersection over union.  The page has all "
         "the rest.\n");
}

/* ---- the command ---- */
/* Opens all studies before any is measured. */
static fvg_status open_studies(fvg_clip *m, const report_options *o, study *x) {
  fvg_ctx *c = m->ctx;
  if (!m->has_vision || !m->has_text) {
    return fvg_fail(c, FVG_E_ARG, "%s: report needs a model with both towers", o->common.model);
  }
  findings f;
  memset(&f, 0, sizeof f);
  fvg_status s = found(c, &f, check_out_folder(c, o->out));
  for (int i = 0; !s && i < o->runs.n; i++) s = found(c, &f, study_open(&x[i], m, o, i));
  return s ? s : end_findings(c, &f);
}

/* Measures all data sets, and then writes the report; `lock` may hold the folder already. */
static fvg_status report(fvg_ctx *c, const report_options *o, const char *json,
                         folder_lock *lock) {
  const int n = o->runs.n;
  const double start = now();
  fvg_clip *m = NULL;
  study *x = FVG_NEW_ARRAY(c, study, (size_t)n);
  fvg_status s = x ? open_tuned_model(c, &o->common, &m) : FVG_E_NOMEM;

  feature_cache *cache = NULL;
  if (!s) s = open_studies(m, o, x);
  if (!s) s = open_cache(m, &o->common, &cache);
  for (int i = 0; !s && i < n; i++) s = study_measure(&x[i]);
  close_cache(cache);
  if (!s) s = make_folders(c, o->out);
  if (!s && !lock->file) s = lock_folder(c, lock, o->out);
  if (!s) s = write_report(m, o, x, now() - start, json);
  unlock_folder(lock);
  if (!s) {
    print_summary(x, n);
    print(stdout, "\n%s/index.html\n", o->out);
  }
  for (int i = 0; x && i < n; i++) study_free(c, &x[i]);
  fvg_clip_free(m);
  fvg_release(c, x);
  return s;
}

static fvg_status run(fvg_ctx *c, const void *options) {
  const report_options *o = (const report_options *)options;
  fvg_status s = check_options(c, o);
  if (s) return s;
  char json[1200];
  snprintf(json, sizeof json, "%s/results.json", o->out);
  s = check_out(c, json);

  /* A tune may be at work in the folder. */
  folder_lock lock;
  memset(&lock, 0, sizeof lock);
  if (!s && is_folder(o->out)) s = lock_folder(c, &lock, o->out);
  return s ? s : report(c, o, json, &lock);
}

const fvgpt_command report_command = {"report", sizeof(report_options), declare, run};
