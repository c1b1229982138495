/* What tune left; see fvgpt_report_runs.h. */
#include "fvgpt_report_runs.h"

#include <stdio.h>
#include <string.h>

/* ---- results.json ---- */
fvg_status load_json(fvg_ctx *c, fvg_json *j, const char *path) {
  memset(j, 0, sizeof *j);
  fvg_source source;
  fvg_status s = fvg_source_file(c, &source, path);
  if (s) return s;
  uint8_t *bytes = NULL;
  size_t n;
  s = fvg_source_read_all(c, &bytes, &n, &source);
  if (!s) s = fvg_json_parse(c, j, (const char *)bytes, n, path);
  fvg_bytes_free(c, bytes);
  fvg_source_close(&source);
  return s;
}

static int json_number(const fvg_json *j, int object, const char *key, double *out) {
  const int at = fvg_json_find(j, object, key);
  if (at < 0 || j->value[at].type != FVG_JSON_NUMBER) return 0;
  *out = j->value[at].number;
  return 1;
}

/* The first value of a list; -1: there is none. */
static int json_first(const fvg_json *j, int object, const char *key) {
  const int list = fvg_json_find(j, object, key);
  return list < 0 ? -1 : j->value[list].first;
}

/* The method that an object names; -1: none that is reported. */
static int json_method(const fvg_json *j, int object) {
  const int at = fvg_json_find(j, object, "method");
  for (int i = 0; at >= 0 && i < N_METHOD; i++) {
    if (!strcmp(j->value[at].string, method_name[i])) return i;
  }
  return -1;
}

/* The number of a seed in the study; n_seed: it is none of them. */
static int run_of_seed(const study *x, double seed) {
  int run = 0;
  while (run < x->n_seed && x->seed[run] != seed) run++;
  return run;
}

static fvg_status read_curves(study *x, const fvg_json *j) {
  for (int at = json_first(j, 0, "curves"); at >= 0; at = j->value[at].next) {
    const int method = json_method(j, at);
    const int loss = fvg_json_find(j, at, "loss");
    double seed = -1;
    json_number(j, at, "seed", &seed);
    const int run = run_of_seed(x, seed);
    if (method < COOP || loss < 0 || run == x->n_seed) continue;
    curve *to = &x->loss[method][run];
    if (to->loss) continue;

    to->loss = FVG_NEW_ARRAY(x->m->ctx, double, (size_t)j->value[loss].n_child + 1);
    if (!to->loss) return FVG_E_NOMEM;
    for (int k = j->value[loss].first; k >= 0; k = j->value[k].next)
      to->loss[to->n++] = j->value[k].number;
  }
  return FVG_OK;
}

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

/* Returns the name of what is missing or not a number, NULL when all is there.  Only H's deviation
   may be missing, because older versions did not write it. */
static const char *read_scores(study *x, const fvg_json *j) {
  double shots;
  if (!json_number(j, 0, "shots", &shots) || !(shots >= 1 && shots <= 100000)) return "shots";
  x->shots = (int)shots;
  if (!read_seeds(x, j)) return "seeds";

  int seen = 0;
  for (int at = json_first(j, 0, "mean"); at >= 0; at = j->value[at].next) {
    const int method = json_method(j, at);
    if (method < 0) continue;
    for (int k = 0; k < N_SCORE; k++) {
      double *score = &x->score[method][k];
      if (json_number(j, at, score_key[k], score)) continue;
      if (k != H_STD) return score_key[k];
      *score = -1;
    }
    seen |= 1 << method;
  }
  return seen == 7 ? NULL : "mean of zero_shot, CoOp and FVGPT_CoOp";
}

/* A file that is there but lacks something is told of by the name of what it lacks. */
fvg_status read_runs(study *x) {
  fvg_ctx *c = x->m->ctx;
  char path[1200];
  snprintf(path, sizeof path, "%s/results.json", x->runs);
  if (!fvg_file_exists(path)) {
    return fvg_fail(c, FVG_E_IO,
                    "%s: no such file; --runs takes the --out folder of a finished tune "
                    "--trainer FVGPT_CoOp",
                    path);
  }

  fvg_json j;
  fvg_status s = load_json(c, &j, path);
  const char *missing = s ? NULL : read_scores(x, &j);
  if (missing) {
    s = fvg_fail(c, FVG_E_FORMAT, "%s: no %s; run tune --trainer FVGPT_CoOp --out %s again", path,
                 missing, x->runs);
  }
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
fvg_status average_curves(study *x, int method) {
  const curve *of_seed = x->loss[method];
  curve *mean = &x->mean_loss[method];
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
  choose_ticks(&x->loss_ticks[method], top, 0);
  choose_epochs(&x->epoch_ticks[method], mean->n);
  return FVG_OK;
}
