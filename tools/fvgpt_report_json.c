/* results.json of a report; see fvgpt_report_page.h. */
#include "fvgpt_report_page.h"

static const char *const map_key[N_MAP] = {"zero_shot", "CoOp", "FVGPT_CoOp", "attention"};
static const char *const trust_key[N_TRUST] = {"mean_good", "mean_bad", "auc"};

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

/* ---- a study ---- */
static void put_scores(document *t, const study *x) {
  put(t, "   \"results\": [\n");
  for (int method = 0; method < N_METHOD; method++) {
    const double *score = x->score[method];
    put(t, "    {\"method\": \"%s\"", method_name[method]);
    for (int k = 0; k < N_SCORE; k++) {
      if (score[k] >= 0) put(t, ", \"%s\": %.*f", score_key[k], SCORE_DIGITS, score[k]);
    }
    put(t, method < N_METHOD - 1 ? "},\n" : "}\n");
  }
  put(t, "   ],\n");
}

/* Mean and single curves of both methods that are trained, with the ticks of their charts. */
static void put_curves(document *t, const study *x) {
  put(t, "   \"curves\": [\n");
  for (int method = COOP; method < N_METHOD; method++) {
    const curve *mean = &x->mean_loss[method];
    put(t, "    {\"method\": \"%s\", ", method_name[method]);
    put_ticks(t, "epoch_ticks", &x->epoch_ticks[method]);
    put(t, ", ");
    put_ticks(t, "loss_ticks", &x->loss_ticks[method]);
    put(t, ",\n     ");
    put_numbers(t, "mean", mean->loss, mean->n, 4);

    put(t, ", \"seeds\": [");
    for (int run = 0; run < x->n_seed; run++) {
      const curve *one = &x->loss[method][run];
      put(t, "%s\n      {\"seed\": %d, ", run ? "," : "", x->seed[run]);
      put_numbers(t, "loss", one->loss, one->n, 4);
      put(t, "}");
    }
    put(t, method < N_METHOD - 1 ? "]},\n" : "]}\n");
  }
  put(t, "   ],\n");
}

static void put_shown(document *t, const shown *p) {
  put(t, "    {");
  put_string(t, "path", p->path);
  put(t, ", ");
  put_string(t, "class", p->truth);
  put(t, ", \"half\": \"%s\", \"b\": %.*f", p->is_new ? "new" : "base", GATE_DIGITS, p->b);
  if (p->r >= 0) put(t, ", \"r\": %.*f", GATE_DIGITS, p->r);
  put(t, ",\n     \"foreground_share\": {");
  for (int i = 0; p->has_mask && i < N_MAP; i++)
    put(t, "%s\"%s\": %.*f", i ? ", " : "", map_key[i], SHARE_DIGITS, p->share[i]);
  put(t, "},\n     \"predictions\": {");
  for (int i = 0; i < N_METHOD; i++) {
    put(t, i ? ", " : "");
    put_string(t, method_name[i], p->guess[i]);
  }
  put(t, "}}");
}

static void put_measures(document *t, const study *x, const char *key, const char *const *name,
                         const measure *m, int n, int digits) {
  put(t, "   \"%s\": {", key);
  for (int i = 0; i < n; i++) {
    put(t, "%s\n    \"%s\": {\"mean\": %.*f, ", i ? "," : "", name[i], digits, m[i].mean);
    put_numbers(t, "seeds", m[i].seed, x->n_seed, digits);
    put(t, "}");
  }
  put(t, "\n   },\n");
}

static void put_histogram(document *t, const study *x) {
  double edge[N_BIN + 1];
  for (int i = 0; i <= N_BIN; i++) edge[i] = (double)i / N_BIN;
  put(t, "   \"trust_histogram\": {");
  put_numbers(t, "edges", edge, N_BIN + 1, 1);
  for (int bad = 0; bad < 2; bad++) {
    double count[N_BIN];
    for (int i = 0; i < N_BIN; i++) count[i] = x->bin[bad][i];
    put(t, ", ");
    put_numbers(t, bad ? "bad" : "good", count, N_BIN, 0);
  }
  put(t, ", ");
  put_ticks(t, "count_ticks", &x->count_ticks);
  put(t, "}");
}

/* Everything on one data set. */
static void put_study(document *t, const study *x) {
  put(t, "  {");
  put_string(t, "name", x->name);
  put(t, ", ");
  put_string(t, "data", x->d.root);
  put(t, ", ");
  put_string(t, "runs", x->runs);
  put(t, ",\n   \"base_classes\": %d, \"new_classes\": %d, \"shots\": %d, \"seeds\": [", x->n_base,
      x->n_new, x->shots);
  for (int i = 0; i < x->n_seed; i++) put(t, i ? ", %d" : "%d", x->seed[i]);
  put(t, "],\n");
  put_scores(t, x);
  put_curves(t, x);

  put(t, "   \"pictures\": [\n");
  for (int i = 0; i < x->n_shown; i++) {
    put_shown(t, &x->shown[i]);
    put(t, i < x->n_shown - 1 ? ",\n" : "\n");
  }
  put(t, "   ],\n   \"measured_pictures\": %d, \"mask_area\": %.*f,\n", x->items.n, SHARE_DIGITS,
      x->mean_area);
  put_measures(t, x, "foreground_share", map_key, x->share, N_MAP, SHARE_DIGITS);
  put_measures(t, x, "foreground_shift", map_key, x->shift, N_METHOD, SHIFT_DIGITS);
  put_measures(t, x, "trust", trust_key, x->trust, N_TRUST, GATE_DIGITS);
  put_histogram(t, x);
  put(t, "}");
}

void put_json(document *t, const study *x, int n, const char *command) {
  put(t, "{\n ");
  put_string(t, "command", command);
  put(t, ",\n \"temperature\": %g, \"chance_auc\": 0.5, \"gate_range\": [0, 1],\n \"sets\": [\n",
      REPORT_TAU);
  for (int i = 0; i < n; i++) {
    put_study(t, &x[i]);
    put(t, i < n - 1 ? ",\n" : "\n");
  }
  put(t, " ]\n}\n");
}
