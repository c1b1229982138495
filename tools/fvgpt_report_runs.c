/* What tune left; see fvgpt_report_runs.h. */
#include "fvgpt_report_runs.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fvgpt_json.h"

/* ---- models ---- */
/* Rows of --ablate, FRG+FDC or MMRL_FDC+PC, are in the table alone: they are parts of a model that
   is looked at, or what becomes of it without distillation or on inverted masks. */
static int is_ablation(const char *name) {
  if (strstr(name, "+no_distillation") || strstr(name, "+inverted_masks")) return 1;
  const char *method_end = strrchr(name, '_');
  const char *part = method_end ? method_end + 1 : name;
  if (!strncmp(part, "FRG+", 4) || !strncmp(part, "FDC", 3)) return 1;
  return !strncmp(part, "PC", 2) && (!part[2] || part[2] == '+');
}

/* "FVG-PT on MMRL, crossfit" for FVGPT_MMRL+crossfit. */
static void set_title(model *w) {
  const char *at = w->name;
  const char *lead = "";
  if (!strcmp(at, "zero_shot")) at = "Zero-shot CLIP";
  if (!strncmp(at, "FVGPT_", 6)) lead = "FVG-PT on ";
  if (!strncmp(at, "DPC_", 4)) lead = "DPC on ";
  if (*lead) at = strchr(at, '_') + 1;
  const int n = (int)strcspn(at, "+");
  const char *more = at[n] ? at + n + 1 : "";
  snprintf(w->title, sizeof w->title, "%s%.*s%s%.40s", lead, n, at, *more ? ", " : "", more);
}

/* Heads, and zero-shot CLIP with other words, have accuracies in the table and nothing else: no
   prompts, no gates, no masks. */
static int is_baseline(const char *name) {
  return fvg_head_find(name) >= 0 || !strcmp(name, "zero_shot_ensemble");
}

/* The rows that have checkpoints are looked at, as many as there is room for. */
static fvg_status list_models(study *x) {
  x->model = FVG_NEW_ARRAY(x->m->ctx, model, MOST_MODELS);
  if (!x->model) return FVG_E_NOMEM;
  for (int i = 0; i < x->n_row; i++) {
    const char *name = x->row[i].name;
    if (is_ablation(name) || is_baseline(name)) continue;
    if (x->n_model == MOST_MODELS) {
      x->n_left_out++;
      continue;
    }
    model *w = &x->model[x->n_model++];
    snprintf(w->name, sizeof w->name, "%s", name);
    w->is_tuned = strcmp(name, "zero_shot") != 0;
    w->has_fvgpt = !strncmp(name, "FVGPT_", 6);
    set_title(w);
  }
  return FVG_OK;
}

static model *model_named(const study *x, const fvg_json *j, int object) {
  char name[ROW_BYTES];
  if (!json_text(j, object, "method", name, sizeof name)) return NULL;
  for (int i = 0; i < x->n_model; i++) {
    if (!strcmp(x->model[i].name, name)) return &x->model[i];
  }
  return NULL;
}

/* ---- curves ---- */
/* The number of a seed in the study; n_seed: it is none of them. */
static int run_of_seed(const study *x, double seed) {
  int run = 0;
  while (run < x->n_seed && x->seed[run] != seed) run++;
  return run;
}

static fvg_status read_curves(study *x, const fvg_json *j) {
  for (int at = json_first(j, 0, "curves"); at >= 0; at = j->value[at].next) {
    model *w = model_named(x, j, at);
    const int loss = fvg_json_find(j, at, "loss");
    double seed = -1;
    json_number(j, at, "seed", &seed);
    const int run = run_of_seed(x, seed);
    if (!w || loss < 0 || run == x->n_seed) continue;
    curve *to = &w->loss[run];
    if (to->loss) continue;

    to->loss = FVG_NEW_ARRAY(x->m->ctx, double, (size_t)j->value[loss].n_child + 1);
    if (!to->loss) return FVG_E_NOMEM;
    for (int k = j->value[loss].first; k >= 0; k = j->value[k].next)
      to->loss[to->n++] = j->value[k].number;
  }
  return FVG_OK;
}

/* ---- scores ---- */
/* 0: they are not there, or make no sense. */
static int read_seeds(study *x, const fvg_json *j) {
  for (int at = json_first(j, 0, "seeds"); at >= 0; at = j->value[at].next) {
    const double seed = j->value[at].number;
    const int is_seed = j->value[at].type == FVG_JSON_NUMBER && seed >= 0 && seed <= 2147483647;
    if (!is_seed || x->n_seed == MOST_SEEDS) return 0;
    x->seed[x->n_seed++] = (int)seed;
  }
  return x->n_seed > 0;
}

/* The tests are what a row of means has deviations of, NAME_std, but for H, of which older versions
   wrote none.  The first test is that of the classes that the methods were tuned on. */
static void read_tests(study *x, const fvg_json *j, int row) {
  for (int at = j->value[row].first; at >= 0; at = j->value[at].next) {
    const char *key = j->value[at].key;
    const size_t n = key ? strlen(key) : 0;
    if (key && !strcmp(key, "H")) x->has_h = 1;
    if (n < 5 || strcmp(key + n - 4, "_std") || !strcmp(key, "H_std")) continue;
    if (n - 4 >= KEY_BYTES || x->n_test == MOST_TESTS) continue;
    snprintf(x->test[x->n_test++], KEY_BYTES, "%.*s", (int)n - 4, key);
  }
}

/* A number, or NaN for null, which a head has where it knows no classes. */
static int read_mean(const fvg_json *j, int object, const char *name, double *out) {
  const int at = fvg_json_find(j, object, name);
  if (at >= 0 && j->value[at].type == FVG_JSON_NULL) {
    *out = NAN;
    return 1;
  }
  return json_number(j, object, name, out);
}

/* Returns the name of the test that is missing, NULL when all are there. */
static const char *read_row(const study *x, const fvg_json *j, int at, score_row *row) {
  for (int k = 0; k < x->n_test + x->has_h; k++) {
    const char *name = k < x->n_test ? x->test[k] : "H";
    if (!read_mean(j, at, name, &row->mean[k])) return name;
    char key[KEY_BYTES + 8];
    snprintf(key, sizeof key, "%s_std", name);
    if (!json_number(j, at, key, &row->deviation[k])) row->deviation[k] = -1;
  }
  return NULL;
}

/* Returns the name of what is missing or not a number, NULL when all is there. */
static const char *read_scores(study *x, const fvg_json *j) {
  double shots;
  if (!json_number(j, 0, "shots", &shots) || !(shots >= 1 && shots <= 100000)) return "shots";
  x->shots = (int)shots;
  if (!read_seeds(x, j)) return "seeds";
  json_text(j, 0, "trainer", x->trainer, sizeof x->trainer);

  const int first = json_first(j, 0, "mean");
  if (first >= 0) read_tests(x, j, first);
  if (!x->n_test) return "mean";
  for (int at = first; at >= 0; at = j->value[at].next) {
    if (x->n_row == MOST_ROWS) break;
    score_row *row = &x->row[x->n_row++];
    if (!json_text(j, at, "method", row->name, sizeof row->name)) return "method of a mean";
    const char *missing = read_row(x, j, at, row);
    if (missing) return missing;
  }
  return strcmp(x->row[0].name, "zero_shot") ? "mean of zero_shot" : NULL;
}

/* A file that is there but lacks something is told of by the name of what it lacks.  The file of a
   list of runs has a table in their place. */
fvg_status read_runs(study *x) {
  fvg_ctx *c = x->m->ctx;
  char path[1200];
  snprintf(path, sizeof path, "%s/results.json", x->runs);
  if (!fvg_file_exists(path)) {
    return fvg_fail(c, FVG_E_IO,
                    "%s: no such file; --runs takes the --out folder of a finished tune", path);
  }

  fvg_json j;
  fvg_status s = load_json(c, &j, path);
  if (!s && fvg_json_find(&j, 0, "table") >= 0) {
    s = fvg_fail(c, FVG_E_ARG,
                 "%s: there are several runs in this folder; give a --data and a --runs for each, "
                 "its own folder inside",
                 path);
  }
  if (!s && fvg_json_find(&j, 0, "folds") >= 0) {
    s = fvg_fail(c, FVG_E_ARG,
                 "%s: tune --all has no test pictures, which a report is about; tune without --all",
                 path);
  }
  const char *missing = s ? NULL : read_scores(x, &j);
  if (missing) {
    s = fvg_fail(c, FVG_E_FORMAT, "%s: no %s; run tune --out %s again", path, missing, x->runs);
  }
  if (!s) s = list_models(x);
  if (!s) s = read_curves(x, &j);
  fvg_json_free(c, &j);
  return s;
}

/* ---- charts ---- */
void choose_ticks(ticks *t, double most, double least_step) {
  static const double factor[] = {1, 2, 5, 10};
  if (!(most > 1e-300)) most = 1;
  double power = 1;
  while (power > most / 4) power /= 10;
  while (power * 10 <= most / 4) power *= 10;
  int i = 0;
  while (i < 3 && power * factor[i] < most / 4) i++;

  double step = power * factor[i];
  if (step < least_step) step = least_step;
  t->n = 0;
  double last;
  do {
    last = t->n * step;
    t->at[t->n++] = last;
  } while (last < most * 0.9999 && t->n < MOST_TICKS);
}

/* Epochs count from 1, and none comes after the last. */
static void choose_epochs(ticks *t, int n_epoch) {
  choose_ticks(t, n_epoch, 1);
  if (t->at[t->n - 1] > n_epoch) t->n--;
  t->at[0] = 1;
  if (t->n > 1 && t->at[1] <= 1) {
    t->n--;
    memmove(t->at, t->at + 1, (size_t)t->n * sizeof *t->at);
  }
}

/* Curves of older runs may be shorter or missing; each epoch's mean is over those that have it. */
fvg_status average_curves(study *x, model *w) {
  const curve *of_seed = w->loss;
  curve *mean = &w->mean_loss;
  for (int run = 0; run < x->n_seed; run++) {
    if (of_seed[run].n > mean->n) mean->n = of_seed[run].n;
  }
  mean->loss = FVG_NEW_ARRAY(x->m->ctx, double, (size_t)mean->n + 1);
  if (!mean->loss) return FVG_E_NOMEM;

  double top = 0;
  for (int k = 0; k < mean->n; k++) {
    int n = 0;
    for (int run = 0; run < x->n_seed; run++) {
      if (k >= of_seed[run].n) continue;
      const double loss = of_seed[run].loss[k];
      mean->loss[k] += loss;
      if (loss > top) top = loss;
      n++;
    }
    mean->loss[k] /= n;
  }
  choose_ticks(&w->loss_ticks, top, 0);
  choose_epochs(&w->epoch_ticks, mean->n);
  return FVG_OK;
}
