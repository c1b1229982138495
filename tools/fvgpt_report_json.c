/* results.json of a report; see fvgpt_report_page.h. */
#include "fvgpt_report_page.h"

#include <math.h>

static const char *const map_key[N_MAP] = {"relevance", "gradcam", "attention"};
static const char *const measure_key[N_MEASURE] = {"inside", "hottest", "iou"};
static const char *const trust_key[N_TRUST] = {"mean_good", "mean_bad", "auc", "auc_target"};

/* ---- values ---- */
static void put_string(document *t, const char *key, const char *value) {
  put(t, "\"%s\": \"", key);
  put_escaped(t, value, 0);
  put(t, "\"");
}

static void put_numbers(document *t, const char *key, const double *x, int n, int digits) {
  put(t, "\"%s\": [", key);
  for (int i = 0; i < n; i++) put(t, "%s%.*f", i ? ", " : "", digits, x[i]);
  put(t, "]");
}

static void put_ticks(document *t, const char *key, const ticks *x) {
  put(t, "\"%s\": [", key);
  for (int i = 0; i < x->n; i++) put(t, i ? ", %g" : "%g", x->at[i]);
  put(t, "]");
}

static void put_counts(document *t, const char *key, const long *count, int n) {
  put(t, "\"%s\": [", key);
  for (int i = 0; i < n; i++) put(t, i ? ", %ld" : "%ld", count[i]);
  put(t, "]");
}

/* null: it could not be measured. */
static void put_measure(document *t, const study *x, const char *key, const measure *m,
                        int digits) {
  put(t, "\"%s\": ", key);
  if (!m->n) {
    put(t, "null");
    return;
  }
  put(t, "{\"mean\": %.*f, \"std\": %.*f, \"seeds\": [", digits, m->mean, digits,
      deviation_of(m, x->n_seed));
  for (int run = 0; run < x->n_seed; run++) {
    if (m->has[run]) put(t, "%s%.*f", run ? ", " : "", digits, m->seed[run]);
    else if (m->n > 1) put(t, "%snull", run ? ", " : "");
  }
  put(t, "]}");
}

/* ---- what tune wrote ---- */
static void put_scores(document *t, const study *x) {
  put(t, "   \"results\": [\n");
  for (int i = 0; i < x->n_row; i++) {
    const score_row *row = &x->row[i];
    put(t, "    {");
    put_string(t, "method", row->name);
    for (int k = 0; k < x->n_test + x->has_h; k++) {
      put(t, ", \"");
      put_escaped(t, k < x->n_test ? x->test[k] : "H", 0);
      if (isnan(row->mean[k])) put(t, "\": null");
      else put(t, "\": %.*f", SCORE_DIGITS, row->mean[k]);
      if (row->deviation[k] < 0) continue;
      put(t, ", \"");
      put_escaped(t, k < x->n_test ? x->test[k] : "H", 0);
      put(t, "_std\": %.*f", SCORE_DIGITS, row->deviation[k]);
    }
    put(t, i < x->n_row - 1 ? "},\n" : "}\n");
  }
  put(t, "   ],\n");
}

/* Mean and single curves, with the ticks of their charts. */
static void put_curves(document *t, const study *x, const model *w) {
  put(t, "     \"curves\": {");
  put_ticks(t, "epoch_ticks", &w->epoch_ticks);
  put(t, ", ");
  put_ticks(t, "loss_ticks", &w->loss_ticks);
  put(t, ", ");
  put_numbers(t, "mean", w->mean_loss.loss, w->mean_loss.n, 4);
  put(t, ", \"seeds\": [");
  for (int run = 0; run < x->n_seed; run++) {
    put(t, "%s\n      {\"seed\": %d, ", run ? "," : "", x->seed[run]);
    put_numbers(t, "loss", w->loss[run].loss, w->loss[run].n, 4);
    put(t, "}");
  }
  put(t, "]},\n");
}

/* ---- groups ---- */
static void put_group(document *t, const group *g) {
  const int n_class = g->task.n_class;
  put(t, "    {\"name\": \"%s\", \"pictures\": %d, \"masked_pictures\": %d, ", g->name,
      g->task.items.n, g->masked.n);
  put(t, "\"mask_area\": %.*f, \"n_class\": %d, \"classes\": [", SHARE_DIGITS, g->mean_area,
      n_class);
  for (int label = 0; label < n_class; label++) {
    int n = 0;
    for (int i = 0; i < g->task.items.n; i++) n += g->task.items.item[i].label == label;
    put(t, "%s\n     {\"number\": %d, ", label ? "," : "", label + 1);
    put_string(t, "name", g->task.class_name[label]);
    put(t, ", \"pictures\": %d}", n);
  }
  put(t, "]}");
}

static void put_mistake(document *t, const group *g, const mistake *one) {
  put(t, "{");
  put_string(t, "path", one->path);
  put(t, ", ");
  put_string(t, "class", g->task.class_name[one->label]);
  put(t, ", ");
  put_string(t, "guess", g->task.class_name[one->guess]);
  put(t, ", \"p_class\": %.*f, \"p_guess\": %.*f}", SHARE_DIGITS, one->p_label, SHARE_DIGITS,
      one->p_guess);
}

/* Rows of the confusion matrix, each with its class's accuracy. */
static void put_confusion(document *t, const long *count, int n_class) {
  put(t, "\"confusion\": [");
  for (int row = 0; row < n_class; row++) {
    const long *of_row = count + (size_t)row * (size_t)n_class;
    long sum = 0;
    for (int col = 0; col < n_class; col++) sum += of_row[col];
    put(t, "%s\n       {\"accuracy\": %.*f, ", row ? "," : "", SHARE_DIGITS,
        sum ? 100.0 * (double)of_row[row] / (double)sum : 0);
    put_counts(t, "guesses", of_row, n_class);
    put(t, "}");
  }
  put(t, "],\n");
}

static void put_result(document *t, const study *x, const group *g, const result *r) {
  put(t, "      \"%s\": {", g->name);
  put_measure(t, x, "accuracy", &r->accuracy, SCORE_DIGITS);
  put(t, ",\n       ");
  put_confusion(t, r->confusion, g->task.n_class);
  put(t, "       \"maps\": {");
  for (int kind = 0; kind < N_MAP; kind++) {
    put(t, "%s\n        \"%s\": {", kind ? "," : "", map_key[kind]);
    for (int i = 0; i < N_MEASURE; i++) {
      put(t, "%s", i ? ", " : "");
      put_measure(t, x, measure_key[i], &r->map[kind][i], SHARE_DIGITS);
    }
    put(t, "}");
  }
  put(t, "},\n       ");
  put_measure(t, x, "foreground_shift", &r->shift, SHIFT_DIGITS);
  put(t, ",\n       \"mistakes\": [");
  for (int i = 0; i < r->n_worst; i++) {
    put(t, i ? ", " : "");
    put_mistake(t, g, &r->worst[i]);
  }
  put(t, "]}");
}

/* ---- models ---- */
static void put_gates(document *t, const study *x, const model *w) {
  put(t, ",\n     \"trust\": {");
  for (int k = 0; k < N_TRUST; k++) {
    put(t, k ? ", " : "");
    put_measure(t, x, trust_key[k], &w->trust[k], GATE_DIGITS);
  }
  put(t, ", ");
  put_counts(t, "good", w->r_bin[0], N_BIN);
  put(t, ", ");
  put_counts(t, "bad", w->r_bin[1], N_BIN);
  put(t, ", ");
  put_ticks(t, "count_ticks", &w->r_ticks);
  put(t, "},\n     \"b\": {");
  for (int at = 0; at < x->n_group; at++) {
    put_measure(t, x, x->group[at].name, &w->b[at], GATE_DIGITS);
    put(t, ", ");
  }
  for (int at = 0; at < x->n_group; at++) {
    put_counts(t, at ? "new_counts" : "base_counts", w->b_bin[at], N_BIN);
    put(t, ", ");
  }
  put_ticks(t, "count_ticks", &w->b_ticks);
  put(t, "}");
}

static void put_model(document *t, const study *x, const model *w) {
  put(t, "    {");
  put_string(t, "method", w->name);
  put(t, ", ");
  put_string(t, "settings", w->settings);
  put(t, ",\n");
  if (w->is_tuned) put_curves(t, x, w);
  put(t, "     \"on\": {\n");
  for (int at = 0; at < x->n_group; at++) {
    put_result(t, x, &x->group[at], &w->on[at]);
    put(t, at < x->n_group - 1 ? ",\n" : "}");
  }
  if (w->has_fvgpt) put_gates(t, x, w);
  put(t, "}");
}

/* ---- pictures ---- */
static void put_look(document *t, const shown *p, const model *w, const look *by) {
  put(t, "      {");
  put_string(t, "method", w->name);
  put(t, ", ");
  put_string(t, "guess", by->guess);
  if (by->r >= 0) put(t, ", \"r\": %.*f", GATE_DIGITS, by->r);
  if (by->b >= 0) put(t, ", \"b\": %.*f", GATE_DIGITS, by->b);
  for (int kind = 0; p->has_mask && kind < N_MAP; kind++) {
    const double *m = by->measure[kind];
    if (!by->overlay[kind].pixels) continue;
    put(t, ", \"%s\": {\"inside\": %.*f, \"hottest\": %d, \"iou\": %.*f}", map_key[kind],
        SHARE_DIGITS, m[INSIDE], m[HOTTEST] > 0, SHARE_DIGITS, m[IOU]);
  }
  put(t, "}");
}

static void put_shown(document *t, const study *x, const shown *p) {
  const group *g = &x->group[p->group];
  put(t, "    {");
  put_string(t, "path", p->item->path);
  put(t, ", ");
  put_string(t, "class", g->task.class_name[p->item->label]);
  put(t, ", \"group\": \"%s\", \"models\": [\n", g->name);
  for (int i = 0; i < x->n_model; i++) {
    put_look(t, p, &x->model[i], &p->by[i]);
    put(t, i < x->n_model - 1 ? ",\n" : "]}");
  }
}

/* ---- a study ---- */
/* The share of each model's Grad-CAM inside the masks of the first group, for readers of older
   reports. */
static void put_shares(document *t, const study *x) {
  put(t, "   \"foreground_share\": {");
  for (int i = 0; i < x->n_model; i++) {
    put(t, i ? ",\n    " : "\n    ");
    put_measure(t, x, x->model[i].name, &x->model[i].on[0].map[GRAD_CAM][INSIDE], SHARE_DIGITS);
  }
  put(t, "},\n");
}

static void put_study(document *t, const study *x) {
  double edge[N_BIN + 1];
  for (int i = 0; i <= N_BIN; i++) edge[i] = (double)i / N_BIN;
  put(t, "  {");
  put_string(t, "name", x->name);
  put(t, ", ");
  put_string(t, "data", x->d.root);
  put(t, ", ");
  put_string(t, "runs", x->runs);
  put(t, ", ");
  put_string(t, "trainer", x->trainer);
  put(t, ",\n   \"shots\": %d, \"models\": %d, \"left_out\": %d, \"seeds\": [", x->shots,
      x->n_model, x->n_left_out);
  for (int i = 0; i < x->n_seed; i++) put(t, i ? ", %d" : "%d", x->seed[i]);
  put(t, "], \"difference_from_runs\": %.*f, ", SCORE_DIGITS, x->worst_difference);
  put_numbers(t, "gate_edges", edge, N_BIN + 1, 1);
  put(t, ",\n   \"groups\": [\n");
  for (int at = 0; at < x->n_group; at++) {
    put_group(t, &x->group[at]);
    put(t, at < x->n_group - 1 ? ",\n" : "],\n");
  }
  put_scores(t, x);
  put_shares(t, x);

  put(t, "   \"model\": [\n");
  for (int i = 0; i < x->n_model; i++) {
    put_model(t, x, &x->model[i]);
    put(t, i < x->n_model - 1 ? ",\n" : "],\n");
  }
  put(t, "   \"pictures\": [\n");
  for (int i = 0; i < x->n_shown; i++) {
    put_shown(t, x, &x->shown[i]);
    put(t, i < x->n_shown - 1 ? ",\n" : "\n");
  }
  put(t, "   ]}");
}

void put_json(document *t, const study *x, int n, const colophon *by) {
  put(t, "{\n ");
  put_string(t, "command", by->command);
  put(t, ",\n ");
  put_string(t, "clip", by->model);
  put(t, ",\n ");
  put_string(t, "date", by->date);
  put(t, ", \"seconds\": %.1f,\n", by->seconds);
  put(t, " \"temperature\": %g, \"chance_auc\": 0.5, \"gate_range\": [0, 1],\n"
         " \"usable_mask_area\": [2, 98],\n \"sets\": [\n", SHIFT_TAU);
  for (int i = 0; i < n; i++) {
    put_study(t, &x[i]);
    put(t, i < n - 1 ? ",\n" : "\n");
  }
  put(t, " ]\n}\n");
}
