/* fvgpt tune, third part: results as results.json and as printed tables. */

/* ---- an entry's results ---- */
/* Mean and deviation (of the population, as the published result parser) of a test; column n_test: H. */
static double mean_of(const tuning *t, int row, int column, double *deviation) {
  double x[MAX_SEEDS], mean = 0, var = 0;
  int i;
  for (i = 0; i < t->n_seed; i++) {
    const double *r = t->result[row][i];
    x[i] = column < t->n_test ? r[column] : fvg_harmonic_mean(r[0], r[1]);
    mean += x[i] / t->n_seed;
  }
  for (i = 0; i < t->n_seed; i++) var += (x[i] - mean) * (x[i] - mean) / t->n_seed;
  *deviation = sqrt(var);
  return mean;
}

/* "NAME": VALUE behind `lead`; names of data sets are names of folders, which may hold anything. */
static void put_number(document *d, const char *lead, const char *name, const char *suffix, double value) {
  put(d, "%s\"", lead);
  put_escaped(d, name, 0);
  put(d, "%s\": %.4f", suffix, value);
}

static void put_rows(document *d, const tuning *t) {
  int row, i, k;
  put(d, " \"rows\": [\n");
  for (i = 0; i < t->n_seed; i++)
    for (row = 0; row < t->n_row; row++) {
      const double *r = t->result[row][i];
      put(d, "  {\"method\": \"%s\", \"seed\": %d", t->row[row].name, t->seed[i]);
      for (k = 0; k < t->n_test; k++) put_number(d, ", ", t->test[k].name, "", r[k]);
      if (t->train_half == FVG_BASE) put(d, ", \"H\": %.4f", fvg_harmonic_mean(r[0], r[1]));
      put(d, "}%s\n", i == t->n_seed - 1 && row == t->n_row - 1 ? "" : ",");
    }
  put(d, " ],\n");
}

/* A curve comes from a checkpoint's text, so nothing but numbers is passed on; none: one of an older version. */
static void put_curves(document *d, const tuning *t) {
  int row, i, k;
  put(d, " \"curves\": [\n");
  for (i = 0; i < t->n_seed; i++)
    for (row = 1; row < t->n_row; row++) {
      const char *at = t->curve[row][i] ? t->curve[row][i] : "";
      char *end;
      put(d, "  {\"method\": \"%s\", \"seed\": %d, \"loss\": [", t->row[row].name, t->seed[i]);
      for (k = 0; *at; k++, at = end) {
        double loss = strtod(at, &end);
        if (end == at || !(fabs(loss) < 1e30)) break;
        put(d, k ? ", %.6g" : "%.6g", loss);
      }
      put(d, "]}%s\n", i == t->n_seed - 1 && row == t->n_row - 1 ? "" : ",");
    }
  put(d, " ],\n");
}

static fvg_status write_results(tuning *t, int entry) {
  char path[1200];
  double deviation;
  document d;
  int row, i, h = t->train_half == FVG_BASE;
  memset(&d, 0, sizeof d);
  d.c = t->m->ctx;
  put(&d, "{\n \"trainer\": \"%s\",\n \"shots\": %d,\n \"seeds\": [", t->o->trainer, t->at->shots);
  for (i = 0; i < t->n_seed; i++) put(&d, i ? ", %d" : "%d", t->seed[i]);
  put(&d, "],\n");
  put_rows(&d, t);
  put_curves(&d, t);
  put(&d, " \"mean\": [\n");
  print(stdout, "\n%-24s", t->at->key);
  for (i = 0; i < t->n_test; i++) print(stdout, " %6.6s %6s", t->test[i].name, "+-");
  printf("%s   mean of %d seed%s%s\n", h ? "      H" : "", t->n_seed, t->n_seed > 1 ? "s" : "",
         h ? ", H of the means" : "");
  for (row = 0; row < t->n_row; row++) {
    double *mean = t->mean[entry][row];
    put(&d, "  {\"method\": \"%s\"", t->row[row].name);
    printf("%-24s", t->row[row].name);
    for (i = 0; i < t->n_test; i++) {
      mean[i] = mean_of(t, row, i, &deviation);
      put_number(&d, ", ", t->test[i].name, "", mean[i]);
      put_number(&d, ", ", t->test[i].name, "_std", deviation);
      printf(" %6.2f %6.2f", mean[i], deviation);
    }
    if (h) {
      mean_of(t, row, t->n_test, &deviation);
      put(&d, ", \"H\": %.4f, \"H_std\": %.4f", fvg_harmonic_mean(mean[0], mean[1]), deviation);
      printf(" %6.2f", fvg_harmonic_mean(mean[0], mean[1]));
    }
    put(&d, "}%s\n", row == t->n_row - 1 ? "" : ",");
    printf("\n");
  }
  put(&d, " ]\n}\n");
  printf("\n");
  snprintf(path, sizeof path, "%s/results.json", t->out);
  return save_document(&d, path);
}

/* ---- the table of all entries ---- */
/* Columns: the tests of every entry (and H), then their averages; H of the averages, as published.  With data sets to
   transfer to, the average is over those. */
static fvg_status write_table(tuning *t) {
  int h = t->train_half == FVG_BASE, row, e, i, first = t->n_target ? 1 : 0, width = h ? 20 : 7 * t->n_test - 1;
  char path[1200];
  document d;
  memset(&d, 0, sizeof d);
  d.c = t->m->ctx;
  put(&d, "{\n \"trainer\": \"%s\",\n \"seeds\": [", t->o->trainer);
  for (i = 0; i < t->n_seed; i++) put(&d, i ? ", %d" : "%d", t->seed[i]);
  put(&d, "],\n \"table\": [\n");
  printf("%-24s", "");
  for (e = 0; e < t->n_entry; e++) print(stdout, " %-*.*s", width, width, t->entry[e].key);
  printf(" average\n");
  for (row = 0; row < t->n_row; row++) {
    double average[MAX_TESTS] = {0};
    put(&d, "  {\"method\": \"%s\"", t->row[row].name);
    printf("%-24s", t->row[row].name);
    for (e = 0; e < t->n_entry; e++) {
      const double *mean = t->mean[e][row];
      put(&d, ", \"");
      put_escaped(&d, t->entry[e].key, 0);
      put(&d, "\": {");
      for (i = 0; i < t->n_test; i++) {
        average[i] += mean[i] / t->n_entry;
        put_number(&d, i ? ", " : "", t->test[i].name, "", mean[i]);
        printf(" %6.2f", mean[i]);
      }
      if (h) put(&d, ", \"H\": %.4f", fvg_harmonic_mean(mean[0], mean[1]));
      if (h) printf(" %6.2f", fvg_harmonic_mean(mean[0], mean[1]));
      put(&d, "}");
    }
    put(&d, ", \"average\": {");
    if (h) {
      put(&d, "\"base\": %.4f, \"new\": %.4f, \"H\": %.4f", average[0], average[1],
          fvg_harmonic_mean(average[0], average[1]));
      printf(" %6.2f %6.2f %6.2f", average[0], average[1], fvg_harmonic_mean(average[0], average[1]));
    } else {
      double sum = 0;
      for (i = first; i < t->n_test; i++) sum += average[i] / (t->n_test - first);
      put(&d, "\"accuracy\": %.4f", sum);
      printf(" %6.2f", sum);
    }
    put(&d, "}}%s\n", row == t->n_row - 1 ? "" : ",");
    printf("\n");
  }
  put(&d, " ]\n}\n");
  snprintf(path, sizeof path, "%s/results.json", t->o->out);
  return save_document(&d, path);
}
