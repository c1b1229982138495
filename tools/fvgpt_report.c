/* fvgpt report. */
#include "fvgpt_report.h"

#include <stdio.h>
#include <string.h>

#include "fvgpt_checks.h"
#include "fvgpt_print.h"
#include "fvgpt_report_page.h"
#include "fvgpt_report_runs.h"
#include "fvgpt_report_study.h"
#include "fvgpt_system.h"

static void declare(option_table *t, void *options) {
  report_options *o = (report_options *)options;
  o->pictures = 6;
  add_common(t, &o->common);
  add_data_options(t, &o->data, MASKS_AS_GIVEN);
  add_list(t, "--runs", &o->runs);
  add_text(t, "--out", &o->out);
  add_text(t, "--template", &o->prompt_template);
  add_whole(t, "--pictures", &o->pictures, 1, 100);
}

static fvg_status check_options(fvg_ctx *c, const report_options *o) {
  const int n_data = o->data.data.n;
  if (!n_data || !o->runs.n || !o->out || !*o->out)
    return fvg_fail(c, FVG_E_ARG, "report needs --data ROOT, --runs RUNS and --out DIR");
  if (n_data != o->runs.n) {
    return fvg_fail(c, FVG_E_ARG,
                    "%d --data but %d --runs; give one --runs for each --data, in the same order",
                    n_data, o->runs.n);
  }
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

/* Writes the page and then the numbers; json: the path of results.json. */
static fvg_status write_report(fvg_ctx *c, const report_options *o, const study *x,
                               const char *json) {
  const int n = o->runs.n;
  document command = new_document(c);
  document page = new_document(c);
  document numbers = new_document(c);
  put_command(&command, &o->common);
  if (!command.status) {
    put_page(&page, x, n, command.text);
    put_json(&numbers, x, n, command.text);
  }
  fvg_status s = command.status ? command.status : numbers.status;
  fvg_release(c, command.text);

  /* Either both files are written or none; saving also gives the memory back. */
  char path[1200];
  snprintf(path, sizeof path, "%s/index.html", o->out);
  if (s) page.status = s;
  s = save_document(&page, path);
  if (s) numbers.status = s;
  return save_document(&numbers, json);
}

/* Prints the page's tables in short; "seen" is the share of the Grad-CAM that lies inside the
   mask. */
static void print_summary(const study *x, int n) {
  printf("\n%-14s %-11s %6s %6s   %6s %6s   %6s %6s   %5s\n", "", "", "base", "+-", "new", "+-",
         "H", "+-", "seen");
  for (int i = 0; i < n; i++) {
    for (int method = 0; method < N_METHOD; method++) {
      const double *score = x[i].score[method];
      const double h_std = score[H_STD] < 0 ? 0 : score[H_STD];
      print(stdout, "%-14s %-11s ", method ? "" : x[i].name, method_name[method]);
      printf("%6.2f %6.2f   %6.2f %6.2f   ", score[0], score[1], score[2], score[3]);
      printf("%6.2f %6.2f   %5.1f\n", score[4], h_std, x[i].share[method].mean);
    }
  }
  printf("\nbase, new: accuracy in %%, mean and deviation over the seeds; H: harmonic mean of the "
         "two means.\n"
         "seen: %% of the Grad-CAM that lies on the object.\n"
         "Look for CoOp losing `seen` and `new` against zero_shot: it learns the surroundings with "
         "the classes.\n"
         "Then for FVGPT_CoOp keeping base and bringing both back.\n");
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
  fvg_clip *m = NULL;
  study *x = FVG_NEW_ARRAY(c, study, (size_t)n);
  fvg_status s = x ? open_model(c, &o->common, &m) : FVG_E_NOMEM;

  if (!s) s = open_studies(m, o, x);
  for (int i = 0; !s && i < n; i++) s = study_measure(&x[i], o);
  if (!s) s = make_folders(c, o->out);
  if (!s && !lock->file) s = lock_folder(c, lock, o->out);
  if (!s) s = write_report(c, o, x, json);
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
