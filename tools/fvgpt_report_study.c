/* Studies of runs; see fvgpt_report_study.h. */
#include "fvgpt_report_study.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvgpt_report_judge.h"
#include "fvgpt_report_measure.h"
#include "fvgpt_report_runs.h"
#include "fvgpt_tune_marks.h"

/* ---- numbers ---- */
void set_measure(measure *m, int run, double value) {
  m->seed[run] = value;
  m->has[run] = 1;
  m->n = 0;
  m->mean = 0;
  for (int i = 0; i < MOST_SEEDS; i++) m->n += m->has[i];
  for (int i = 0; i < MOST_SEEDS; i++) {
    if (m->has[i]) m->mean += m->seed[i] / m->n;
  }
}

double deviation_of(const measure *m, int n_seed) {
  double sum = 0;
  for (int i = 0; i < n_seed; i++) {
    if (m->has[i]) sum += (m->seed[i] - m->mean) * (m->seed[i] - m->mean);
  }
  return m->n ? sqrt(sum / m->n) : 0;
}

fvg_status advance(study *x) {
  x->progress.step++;
  return fvg_report_progress(x->m->ctx, &x->progress);
}

/* ---- a model's checkpoint ---- */
/* DPC has a learner of its own for new classes. */
static void folder_of(const study *x, const model *w, int run, int is_new, char *path,
                      size_t size) {
  snprintf(path, size, "%s/%s/seed%d%s", x->runs, w->name, x->seed[run], is_new ? "/new" : "");
}

static int is_dpc(const model *w) { return !strncmp(w->name, "DPC_", 4); }

static int has_classes(const study *x, const fvg_learner *l) {
  const fvg_task *task = &x->group[0].task;
  int n;
  const char *const *name = fvg_learner_class_names(l, &n);
  if (n != task->n_class) return 0;
  for (int i = 0; i < n; i++) {
    if (!fvg_same_name(x->m->ctx, name[i], task->class_name[i])) return 0;
  }
  return 1;
}

/* Was it tuned on this model and these classes, and is FVG-PT in it where its name says so? */
static fvg_status check_checkpoint(const study *x, const model *w, const tuned_model *tuned) {
  fvg_ctx *c = x->m->ctx;
  const char *file = fvg_weights_file(tuned->settings);
  if (w->has_fvgpt && !tuned->f)
    return fvg_fail(c, FVG_E_ARG, "%s: no FVG-PT part; tune %s again", file, w->name);
  if (!has_classes(x, tuned->l)) {
    return fvg_fail(c, FVG_E_ARG,
                    "%s: tuned on other classes than those of %s; give --data and --runs in the "
                    "same order",
                    file, x->d.root);
  }

  const model_match match = compare_model(x->m, tuned->settings);
  if (match == OTHER_WEIGHTS)
    return fvg_fail(c, FVG_E_ARG, "%s: tuned with other --weights; give those of the run", file);
  if (match == OTHER_MODEL)
    return fvg_fail(c, FVG_E_ARG, "%s: tuned on another model; name that one with --model", file);
  return FVG_OK;
}

/* What the checkpoint says about its training, but for marks. */
static void list_settings(model *w, const fvg_weights *settings) {
  static const char *const key[] = {
    "shots", "epochs", "lr", "batch", "warmup", "augment", "ctx_init", "lambda_base", "lambda_new",
    "calibration", "entropy", "distill", "template", "fill", "dpc_weight", "dpc_top_k",
    "exif_rotate"
  };
  size_t at = 0;
  for (size_t i = 0; i < sizeof key / sizeof *key; i++) {
    const char *value = fvg_weights_metadata(settings, key[i]);
    if (!value || !*value || at + strlen(key[i]) + strlen(value) + 4 > sizeof w->settings) continue;

    /* A number is kept with all the digits of its type. */
    char *end;
    const double number = strtod(value, &end);
    char text[32];
    snprintf(text, sizeof text, "%.4g", number);
    at += (size_t)snprintf(w->settings + at, sizeof w->settings - at, "%s%s %s", at ? ", " : "",
                           key[i], *end ? value : text);
  }
}

/* ---- panels ---- */
static void panel_free(panel *q) {
  fvg_classifier_free(q->k);
  fvg_classifier_free(q->gate);
  fvg_classifier_free(q->tuned_k);
  memset(q, 0, sizeof *q);
}

static fvg_branch branch_for(const model *w, int seen) {
  if (!w->is_tuned) return FVG_ZERO_SHOT;
  if (w->has_fvgpt) return seen ? FVG_BRANCH_BASE : FVG_BRANCH_NEW;
  return seen || is_dpc(w) ? FVG_TUNED : FVG_TUNED_NEW;
}

/* The classifiers of a model on a group.  Zero-shot CLIP has the published set's template, as in
   tune's table. */
static fvg_status panel_new(study *x, const model *w, int at, const tuned_model *tuned, panel *q) {
  const group *g = &x->group[at];
  const fvg_task *task = &g->task;
  const char *given = x->o->prompt_template;
  const char *own = template_of(given, tuned->settings);
  if (!w->is_tuned && !given && x->d.card) own = x->d.card->prompt_template;
  const char *fill = tuned->settings ? fvg_weights_metadata(tuned->settings, "fill") : NULL;
  memset(q, 0, sizeof *q);
  q->tuned = tuned;
  q->fill_black = fill && !strcmp(fill, "black");

  fvg_fvgpt *f = w->has_fvgpt ? tuned->f : NULL;
  fvg_status s = map_classifier(x->m, &q->k, branch_for(w, g->seen), tuned->l, f, own,
                                task->class_name, task->n_class, &x->o->contrast);
  if (!s && f && x->n_group > 1) {
    s = classifier_of(x->m, &q->gate, FVG_BRANCH_NEW, tuned->l, f, own, task->class_name,
                      task->n_class);
  }
  if (!s && f && at == 0) {
    const fvg_branch prompts = fvg_learner_has_head(tuned->l) ? FVG_TUNED_NEW : FVG_TUNED;
    s = classifier_of(x->m, &q->tuned_k, prompts, tuned->l, NULL, own, task->class_name,
                      task->n_class);
  }
  return s;
}

/* ---- measuring a model ---- */
/* What its predictions and r say about the object. */
static fvg_status measure_views(study *x, model *w, int at, const panel *q, int run) {
  group *g = &x->group[at];
  float *rows = NULL;
  fvg_status s = encode_views(x, g, q->tuned->l, q->fill_black, &rows);
  if (!s && rows) s = measure_shift(x, w, at, q->k, rows, run);
  if (!s && rows && q->tuned_k)
    s = measure_trust(x, w, g, q->tuned, q->tuned_k, rows, run);
  if (rows != g->views) fvg_release(x->m->ctx, rows);
  return s;
}

static fvg_status measure_group(study *x, int number, int at, const tuned_model *tuned, int run) {
  model *w = &x->model[number];
  const int own_tower = number == 0 || w->prompts_image;
  panel q;
  fvg_status s = panel_new(x, w, at, tuned, &q);
  if (!s) s = judge_group(x, w, at, &q, run);
  if (!s) s = measure_maps(x, w, at, q.k, run, own_tower ? NULL : &x->model[0]);
  if (!s) s = measure_views(x, w, at, &q, run);
  if (!s && run == 0) s = look_at_shown(x, number, at, &q);
  panel_free(&q);
  return s;
}

static fvg_status measure_zero_shot(study *x) {
  tuned_model nothing;
  memset(&nothing, 0, sizeof nothing);
  fvg_status s = FVG_OK;
  for (int at = 0; !s && at < x->n_group; at++) s = measure_group(x, 0, at, &nothing, 0);
  return s;
}

/* Measures one seed of a model. */
static fvg_status measure_seed(study *x, int number, int run) {
  model *w = &x->model[number];
  fvg_status s = FVG_OK;
  for (int at = 0; !s && at < x->n_group; at++) {
    const int is_other = at > 0 && is_dpc(w);
    char folder[1100];
    tuned_model tuned;
    memset(&tuned, 0, sizeof tuned);
    folder_of(x, w, run, is_other, folder, sizeof folder);
    s = open_tuned(x->m, folder, &tuned);
    if (!s) s = check_checkpoint(x, w, &tuned);
    if (!s) {
      w->prompts_image = fvg_learner_feature_width(x->m, tuned.l) > x->m->embed_dim;
      if (run == 0 && at == 0) list_settings(w, tuned.settings);
      s = measure_group(x, number, at, &tuned, run);
    }
    tuned_model_free(x->m, &tuned);
  }
  return s;
}

/* The largest difference between what tune wrote and what the checkpoints give now. */
static void compare_with_runs(study *x) {
  for (int i = 0; i < x->n_model; i++) {
    const score_row *row = x->row;
    while (strcmp(row->name, x->model[i].name)) row++;
    for (int at = 0; at < x->n_group; at++) {
      const double apart = fabs(row->mean[at] - x->model[i].on[at].accuracy.mean);
      if (apart > x->worst_difference) x->worst_difference = apart;
    }
  }
}

static void choose_histogram_ticks(model *w) {
  const long r = largest(w->r_bin[0], 2 * N_BIN);
  const long b = largest(w->b_bin[0], MOST_GROUPS * N_BIN);
  choose_ticks(&w->r_ticks, (double)r, 1);
  choose_ticks(&w->b_ticks, (double)b, 1);
}

/* ---- a study ---- */
/* The test sets of tune's table on this data set: both halves of the classes, or all. */
static fvg_status list_groups(study *x) {
  const int is_halved = !strcmp(x->test[0], "base");
  x->n_group = is_halved ? 2 : 1;
  x->group[0].name = is_halved ? "base" : "all";
  x->group[0].half = is_halved ? FVG_BASE : FVG_ALL;
  x->group[0].seen = 1;
  x->group[1].name = "new";
  x->group[1].half = FVG_NEW;
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < x->n_group; i++)
    s = test_task(&x->d, x->group[i].half, &x->group[i].task);
  return s;
}

/* The data set of run i: one of --data, or of --dataset below --dataset-root. */
static fvg_status open_set(study *x, int i) {
  const data_options *o = &x->o->data;
  const char *list = o->dataset_root ? o->dataset : NULL;
  if (!list) {
    key_of_path(o->data.item[i], x->name, sizeof x->name);
    return open_root(x->m->ctx, o, o->data.item[i], NULL, &x->d);
  }
  for (int k = 0; k <= i; k++) (void)next_item(&list, x->name, sizeof x->name);
  return open_root(x->m->ctx, o, o->dataset_root, x->name, &x->d);
}

/* What is wrong with the checkpoints is told before the work begins: are all there, and is the
   first one of this model and these classes? */
static fvg_status look_for_checkpoints(study *x, const model *w) {
  fvg_ctx *c = x->m->ctx;
  char folder[1100], file[1200];
  for (int run = 0; run < x->n_seed; run++) {
    folder_of(x, w, run, 0, folder, sizeof folder);
    checkpoint_in(folder, file, sizeof file);
    if (!fvg_file_exists(file)) return fvg_fail(c, FVG_E_IO, "%s: no such file", file);
  }

  folder_of(x, w, 0, 0, folder, sizeof folder);
  tuned_model tuned;
  memset(&tuned, 0, sizeof tuned);
  fvg_status s = open_tuned(x->m, folder, &tuned);
  if (!s) s = check_checkpoint(x, w, &tuned);
  tuned_model_free(x->m, &tuned);
  return s;
}

fvg_status study_open(study *x, fvg_clip *m, const report_options *o, int i) {
  x->m = m;
  x->o = o;
  x->runs = o->runs.item[i];
  fvg_status s = read_runs(x);
  if (!s) s = open_set(x, i);
  if (!s) s = fvg_dataset_check(&x->d, FVG_CHECK_TEST | FVG_CHECK_MASKS, o->data.skip_bad);
  if (!s) s = list_groups(x);

  for (int k = 1; !s && k < x->n_model; k++) s = look_for_checkpoints(x, &x->model[k]);
  return s;
}

/* Pictures of a group that are looked at count as a step for each model and seed. */
static void begin_progress(study *x) {
  long steps = 0;
  for (int i = 0; i < x->n_group; i++) steps += x->group[i].masked.n + 1;
  x->progress.what = "report";
  x->progress.n_steps = steps * (1 + (long)(x->n_model - 1) * x->n_seed);
}

fvg_status study_measure(study *x) {
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < x->n_group; i++) s = choose_masked(x, &x->group[i]);
  if (!s) s = choose_shown(x, x->o->pictures);
  if (s) return s;

  begin_progress(x);
  s = measure_zero_shot(x);
  for (int i = 1; !s && i < x->n_model; i++) {
    for (int run = 0; !s && run < x->n_seed; run++) s = measure_seed(x, i, run);
    if (!s) s = average_curves(x, &x->model[i]);
    choose_histogram_ticks(&x->model[i]);
  }
  if (!s) compare_with_runs(x);
  return s;
}

/* ---- giving back ---- */
static void model_free(fvg_ctx *c, model *w, int n_seed) {
  for (int run = 0; run < n_seed; run++) fvg_release(c, w->loss[run].loss);
  fvg_release(c, w->mean_loss.loss);
  for (int at = 0; at < MOST_GROUPS; at++) {
    result *r = &w->on[at];
    fvg_release(c, r->confusion);
    for (int i = 0; i < r->n_worst; i++) {
      fvg_image_free(c, &r->worst[i].picture);
      fvg_image_free(c, &r->worst[i].for_label);
      fvg_image_free(c, &r->worst[i].for_guess);
    }
  }
}

static void shown_free(fvg_ctx *c, shown *p) {
  fvg_image_free(c, &p->picture);
  fvg_image_free(c, &p->mask);
  for (int i = 0; i < MOST_MODELS * N_MAP; i++)
    fvg_image_free(c, &p->by[i / N_MAP].overlay[i % N_MAP]);
}

void study_free(fvg_ctx *c, study *x) {
  for (int i = 0; i < x->n_model; i++) model_free(c, &x->model[i], x->n_seed);
  for (int i = 0; i < x->n_shown; i++) shown_free(c, &x->shown[i]);
  for (int i = 0; i < MOST_GROUPS; i++) {
    group *g = &x->group[i];
    fvg_release(c, g->f);
    fvg_release(c, g->views);
    fvg_release(c, g->area);
    fvg_items_free(c, &g->masked);
    fvg_task_free(&g->task);
  }
  fvg_release(c, x->model);
  fvg_release(c, x->shown);
  fvg_dataset_free(&x->d);
}
