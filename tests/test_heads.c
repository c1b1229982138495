/* Chapters 14 to 21 of fvgpt.h: each head against its formulas in plain double code, what val chooses, new classes, files,
   lack of memory, stopping, and the same bits for any number of threads. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_PTHREADS
#include "../fvgpt.h"

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

static fvg_ctx *c;
static double larger(double a, double b) { return !(b <= a) ? b : a; }               /* a NaN is the largest */

/* ---- pictures: every class has a direction of its own, crops and texts lie around it ---- */
enum { MAX_D = 80, MAX_C = 8, MAX_N = 64, MAX_CROP = 192, MAX_VAL = 40 };
static float f[MAX_CROP * MAX_D], text[MAX_C * MAX_D], text_new[MAX_C * MAX_D], f_val[MAX_VAL * MAX_D];
static int label[MAX_N], label_val[MAX_VAL];

static void unit(float *x, int d) {
  double square = 0;
  for (int k = 0; k < d; k++) square += (double)x[k] * (double)x[k];
  for (int k = 0; k < d; k++) x[k] = (float)((double)x[k] / sqrt(square));
}

static void near_to(fvg_rng *r, float *x, const float *centre, double spread, int d) {
  for (int k = 0; k < d; k++) x[k] = centre[k] + (float)(spread * fvg_rng_normal(r));
  unit(x, d);
}

/* All directions share a part, as CLIP's features do. */
static fvg_head_data make(int d, int n_class, int n, int n_view, int n_val, double spread, uint64_t seed) {
  fvg_rng r;
  float centre[MAX_C * MAX_D];
  float shared[MAX_D];
  fvg_rng_seed(&r, seed, 1);
  for (int k = 0; k < d; k++) shared[k] = (float)fvg_rng_normal(&r);
  unit(shared, d);
  for (int i = 0; i < n_class; i++) near_to(&r, centre + i * d, shared, 0.9 / sqrt(d), d);
  for (int i = 0; i < n_class; i++) near_to(&r, text + i * d, centre + i * d, 0.7 / sqrt(d), d);
  for (int i = 0; i < n_class; i++) near_to(&r, text_new + i * d, shared, 0.8 / sqrt(d), d);
  for (int i = 0; i < n; i++) {
    label[i] = i % n_class;
    for (int v = 0; v < n_view; v++)
      near_to(&r, f + (i * n_view + v) * d, centre + label[i] * d, spread / sqrt(d), d);
  }
  for (int i = 0; i < n_val; i++) {
    label_val[i] = i % n_class;
    near_to(&r, f_val + i * d, centre + label_val[i] * d, spread / sqrt(d), d);
  }

  fvg_head_data x;
  memset(&x, 0, sizeof x);
  x.width = d;
  x.n_class = n_class;
  x.n = n;
  x.n_view = n_view;
  x.f = f;
  x.label = label;
  x.text = text;
  x.n_val = n_val;
  x.f_val = f_val;
  x.label_val = label_val;
  x.logit_scale = 30;
  return x;
}

static fvg_head *fit(fvg_head_kind kind, const fvg_head_data *x, const fvg_head_desc *d) {
  fvg_head *h;
  if (fvg_head_fit(c, &h, kind, x, d)) { printf("%s\n", fvg_error(c)); check(0, "a head can be fitted"); exit(1); }
  return h;
}

static double choice(const fvg_head *h, const char *wanted) {
  const char *name;
  double value;
  for (int i = 0; fvg_head_choice(h, i, &name, &value); i++)
    if (!strcmp(name, wanted)) return value;
  return -1;
}

/* The greatest difference to what is expected, as a share of the greatest expected logit. */
static double off(fvg_head *h, const double *expected, const float *of, int n) {
  static float z[MAX_VAL * MAX_C];
  double most = 0, largest = 1e-300;
  int count = n * fvg_head_classes(h);
  if (fvg_head_logits(h, z, of, n)) return HUGE_VAL;
  for (int i = 0; i < count; i++) {
    most = larger(most, fabs((double)z[i] - expected[i]));
    largest = larger(largest, fabs(expected[i]));
  }
  return most / largest;
}

/* ---- verdicts, as the header describes choice ---- */
typedef struct verdict { int correct; double loss; } verdict;

static double row_loss(const double *z, int n, int y) {
  double max = z[0], sum = 0;
  for (int i = 1; i < n; i++) max = z[i] > max ? z[i] : max;
  for (int i = 0; i < n; i++) sum += exp(z[i] - max);
  return max + log(sum) - z[y];
}

static verdict judge(const double *z, const fvg_head_data *x) {
  verdict v = {0, 0};
  for (int i = 0; i < x->n_val; i++) {
    const double *z_i = z + i * x->n_class;
    int best = 0;
    for (int k = 1; k < x->n_class; k++) if (z_i[k] > z_i[best]) best = k;
    v.correct += best == x->label_val[i];
    v.loss += row_loss(z_i, x->n_class, x->label_val[i]);
  }
  return v;
}

static int better(verdict a, verdict b) { return a.correct > b.correct || (a.correct == b.correct && a.loss < b.loss); }

static void text_scores(double *z, const fvg_head_data *x, const float *of, int n, double s, const float *t, int n_class) {
  for (int i = 0; i < n; i++)
    for (int k = 0; k < n_class; k++) {
      double sum = 0;
      for (int j = 0; j < x->width; j++) sum += (double)of[i * x->width + j] * (double)t[k * x->width + j];
      z[i * n_class + k] = s * sum;
    }
}

/* ---- pseudo-inverse by Jacobi's rotations ---- */
static double lambda_largest;
static void pseudo_inverse(double *out, const double *in, int d, double share) {
  static double a[MAX_D * MAX_D], u[MAX_D * MAX_D];
  for (int i = 0; i < d * d; i++) { a[i] = in[i]; u[i] = i % (d + 1) == 0; out[i] = 0; }
  for (int sweep = 0; sweep < 60; sweep++)
    for (int p = 0; p < d; p++)
      for (int q = p + 1; q < d; q++) {
        if (fabs(a[p * d + q]) < 1e-300) continue;
        double angle = 0.5 * atan2(2 * a[p * d + q], a[q * d + q] - a[p * d + p]), co = cos(angle), si = sin(angle);
        for (int k = 0; k < d; k++) {
          double x = a[k * d + p], y = a[k * d + q];
          a[k * d + p] = co * x - si * y;
          a[k * d + q] = si * x + co * y;
          x = u[k * d + p]; y = u[k * d + q];
          u[k * d + p] = co * x - si * y;
          u[k * d + q] = si * x + co * y;
        }
        for (int k = 0; k < d; k++) {
          double x = a[p * d + k], y = a[q * d + k];
          a[p * d + k] = co * x - si * y;
          a[q * d + k] = si * x + co * y;
        }
      }
  lambda_largest = 0;
  for (int k = 0; k < d; k++) lambda_largest = larger(lambda_largest, fabs(a[k * d + k]));
  for (int k = 0; k < d; k++) {
    if (fabs(a[k * d + k]) <= share * lambda_largest) continue;
    for (int i = 0; i < d; i++)
      for (int j = 0; j < d; j++) out[i * d + j] += u[i * d + k] * u[j * d + k] / a[k * d + k];
  }
}

/* ---- GDA ---- */
/* s f t + alpha (f P mu - mu P mu / 2 - ln C) */
static void gda_scores(double *z, const fvg_head_data *x, const double *p, const double *mu, double alpha, const float *of,
                       int n, const float *t, int n_class) {
  int d = x->width;
  text_scores(z, x, of, n, (double)x->logit_scale, t, n_class);
  for (int k = 0; k < n_class; k++) {
    double w[MAX_D], b = -log((double)n_class);
    for (int i = 0; i < d; i++) {
      w[i] = 0;
      for (int j = 0; j < d; j++) w[i] += p[i * d + j] * mu[k * d + j];
      b -= w[i] * mu[k * d + i] / 2;
    }
    for (int i = 0; i < n; i++) {
      double sum = b;
      for (int j = 0; j < d; j++) sum += w[j] * (double)of[i * d + j];
      z[i * n_class + k] += alpha * sum;
    }
  }
}

static void gda_means(double *mu, int *count, const fvg_head_data *x) {
  for (int i = 0; i < x->n_class * x->width; i++) mu[i] = 0;
  for (int i = 0; i < x->n_class; i++) count[i] = 0;
  for (int i = 0; i < x->n * x->n_view; i++) {
    int y = x->label[i / x->n_view];
    count[y]++;
    for (int k = 0; k < x->width; k++) mu[y * x->width + k] += (double)x->f[i * x->width + k];
  }
  for (int i = 0; i < x->n_class; i++)
    for (int k = 0; k < x->width; k++) mu[i * x->width + k] /= count[i];
}

/* P of (4) or (5), with whole covariances */
static void gda_p(double *p, const double *mu, const int *count, const fvg_head_data *x, fvg_gda_rule rule) {
  static double sigma[MAX_D * MAX_D];
  int d = x->width, n = x->n * x->n_view;
  for (int i = 0; i < d * d; i++) sigma[i] = 0;
  for (int i = 0; i < n; i++) {
    int y = x->label[i / x->n_view];
    double share = rule == FVG_GDA_FEW_SHOT ? 1.0 / (n - 1) : 1.0 / x->n_class / (count[y] - 1);
    for (int a = 0; a < d; a++)
      for (int b = 0; b < d; b++)
        sigma[a * d + b] += share * ((double)x->f[i * d + a] - mu[y * d + a]) * ((double)x->f[i * d + b] - mu[y * d + b]);
  }
  if (rule == FVG_GDA_BASE_TO_NEW) { pseudo_inverse(p, sigma, d, d * 1.1920928955078125e-7); return; }
  double trace = 0;
  for (int i = 0; i < d; i++) trace += sigma[i * d + i];
  for (int i = 0; i < d * d; i++) sigma[i] = (n - 1) * sigma[i] + (i % (d + 1) ? 0 : trace);
  pseudo_inverse(p, sigma, d, 0);
  for (int i = 0; i < d * d; i++) p[i] *= d;
}

/* (6) and (7), with whole inverses */
static void gda_new(double *p, double *mu, const fvg_head_data *x, const float *t, int n_class, int k, int copies) {
  static double sigma[MAX_D * MAX_D], inverse[MAX_D * MAX_D];
  int d = x->width, n = x->n * x->n_view;
  for (int i = 0; i < d * d; i++) p[i] = 0;
  for (int y = 0; y < n_class; y++) {
    int taken[MAX_CROP] = {0};
    for (int i = 0; i < d * d; i++) sigma[i] = 0;
    for (int i = 0; i < d; i++) mu[y * d + i] = copies * (double)t[y * d + i];
    for (int turn = 0; turn < k; turn++) {
      int best = -1;
      double most = -HUGE_VAL;
      for (int i = 0; i < n; i++) {
        double product = 0;
        for (int j = 0; j < d; j++) product += (double)x->f[i * d + j] * (double)t[y * d + j];
        if (!taken[i] && product > most) { most = product; best = i; }
      }
      taken[best] = 1;
      for (int a = 0; a < d; a++) {
        mu[y * d + a] += (double)x->f[best * d + a];
        for (int b = 0; b < d; b++)
          sigma[a * d + b] += ((double)x->f[best * d + a] - (double)t[y * d + a]) *
                              ((double)x->f[best * d + b] - (double)t[y * d + b]) / (k - 1);
      }
    }
    double trace = 0;
    for (int i = 0; i < d; i++) { mu[y * d + i] /= k + copies; trace += sigma[i * d + i]; }
    for (int i = 0; i < d * d; i++) sigma[i] = (k - 1) * sigma[i] + (i % (d + 1) ? 0 : trace);
    pseudo_inverse(inverse, sigma, d, 0);
    for (int i = 0; i < d * d; i++) p[i] += d * inverse[i] / n_class;
  }
}

static void test_gda_of(fvg_head_data x, fvg_gda_rule rule, const char *what) {
  static double p[MAX_D * MAX_D], mu[MAX_C * MAX_D], z[MAX_VAL * MAX_C];
  static const double alpha[] = {1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100};
  int count[MAX_C], best = 0;
  fvg_head_desc d;
  memset(&d, 0, sizeof d);
  d.gda_rule = rule;
  d.neighbours = 9;
  d.copies = 5;
  gda_means(mu, count, &x);
  gda_p(p, mu, count, &x, rule);

  verdict most = {-1, 0};
  for (int i = 0; i < 7; i++) {
    gda_scores(z, &x, p, mu, alpha[i], f_val, x.n_val, text, x.n_class);
    verdict v = judge(z, &x);
    if (better(v, most)) { most = v; best = i; }
  }
  fvg_head *h = fit(FVG_GDA, &x, &d);
  gda_scores(z, &x, p, mu, alpha[best], f_val, x.n_val, text, x.n_class);
  check(off(h, z, f_val, x.n_val) < 1e-5, what);
  check(fabs(choice(h, "alpha") / alpha[best] - 1) < 1e-6, "GDA: val chooses alpha");
  check(fabs(choice(h, "val_accuracy") - 100.0 * most.correct / x.n_val) < 1e-4, "GDA: the accuracy on val");
  check(fabs(choice(h, "val_cross_entropy") - most.loss / x.n_val) < 1e-5, "GDA: the cross-entropy on val");

  fvg_head *new_;
  int n_new = x.n_class - 1;
  check(!fvg_head_for_new(h, &new_, text_new, n_new), "GDA: a head for new classes");
  gda_new(p, mu, &x, text_new, n_new, 9, 5);
  gda_scores(z, &x, p, mu, alpha[best], f_val, x.n_val, text_new, n_new);
  check(off(new_, z, f_val, x.n_val) < 1e-5, "GDA: new classes by the nearest crops");
  check(fvg_head_classes(new_) == n_new && choice(new_, "alpha") == choice(h, "alpha"), "GDA: the alpha of base classes");
  fvg_head_free(new_);
  fvg_head_free(h);

  /* Without val alpha is 0.1; a fixed alpha is kept. */
  x.n_val = 0;
  h = fit(FVG_GDA, &x, &d);
  gda_means(mu, count, &x);
  gda_p(p, mu, count, &x, rule);
  gda_scores(z, &x, p, mu, 0.1, f_val, 5, text, x.n_class);
  check(off(h, z, f_val, 5) < 1e-5 && choice(h, "val_accuracy") == -1, "GDA: alpha without val");
  fvg_head_free(h);
}

static void test_gda(void) {
  test_gda_of(make(7, 3, 24, 2, 15, 0.8, 1), FVG_GDA_FEW_SHOT, "GDA: few shots, more crops than dimensions");
  test_gda_of(make(40, 4, 12, 1, 20, 0.8, 2), FVG_GDA_FEW_SHOT, "GDA: few shots, fewer crops than dimensions");
  test_gda_of(make(7, 3, 24, 2, 15, 0.8, 3), FVG_GDA_BASE_TO_NEW, "GDA: base to new, a full covariance");
  test_gda_of(make(40, 4, 12, 1, 20, 0.8, 4), FVG_GDA_BASE_TO_NEW, "GDA: base to new, a pseudo-inverse");
  test_gda_of(make(70, 5, 60, 3, 20, 1.2, 5), FVG_GDA_BASE_TO_NEW, "GDA: base to new, 70 dimensions");
  test_gda_of(make(1, 2, 10, 1, 6, 0.8, 6), FVG_GDA_FEW_SHOT, "GDA: one dimension");

  /* One crop a class: no spread at all, so the head is zero-shot CLIP but for a constant. */
  fvg_head_data x = make(9, 3, 3, 1, 9, 0.5, 7);
  double z[MAX_VAL * MAX_C];
  fvg_head *h = fit(FVG_GDA, &x, NULL);
  text_scores(z, &x, f_val, 9, 30, text, 3);
  for (int i = 0; i < 27; i++) z[i] -= choice(h, "alpha") * log(3.0);
  check(off(h, z, f_val, 9) < 1e-5, "GDA: one crop a class leaves zero-shot CLIP");
  fvg_head_free(h);
}

/* ---- Tip-Adapter ---- */
static void tip_keys(double *keys, const fvg_head_data *x) {
  int d = x->width;
  for (int i = 0; i < x->n; i++) {
    double square = 0;
    for (int k = 0; k < d; k++) {
      keys[i * d + k] = 0;
      for (int v = 0; v < x->n_view; v++) keys[i * d + k] += (double)x->f[(i * x->n_view + v) * d + k] / x->n_view;
      square += keys[i * d + k] * keys[i * d + k];
    }
    for (int k = 0; k < d; k++) keys[i * d + k] /= sqrt(square);
  }
}

static void tip_scores(double *z, const fvg_head_data *x, const double *keys, double alpha, double beta, const float *of, int n) {
  text_scores(z, x, of, n, (double)x->logit_scale, x->text, x->n_class);
  for (int i = 0; i < n; i++)
    for (int k = 0; k < x->n; k++) {
      double affinity = 0;
      for (int j = 0; j < x->width; j++) affinity += (double)of[i * x->width + j] * keys[k * x->width + j];
      z[i * x->n_class + x->label[k]] += alpha * exp(-beta * (1 - affinity));
    }
}

static void tip_choose(double *alpha, double *beta, verdict *most, const fvg_head_data *x, const double *keys) {
  static double z[MAX_VAL * MAX_C];
  most->correct = -1;
  for (int i = 0; i < 200; i++)
    for (int j = 0; j < 20; j++) {
      tip_scores(z, x, keys, 0.1 + 4.9 * j / 20, 0.1 + 11.9 * i / 200, x->f_val, x->n_val);
      verdict v = judge(z, x);
      if (better(v, *most)) { *most = v; *alpha = 0.1 + 4.9 * j / 20; *beta = 0.1 + 11.9 * i / 200; }
    }
}

/* AdamW on the keys, all pictures in one batch, so that their order does not matter. */
static void tip_train(double *keys, const fvg_head_data *x, int epochs, double lr0) {
  static double m[MAX_N * MAX_D], v[MAX_N * MAX_D], g[MAX_N * MAX_D], z[MAX_N * MAX_C];
  int d = x->width;
  for (int k = 0; k < x->n * d; k++) m[k] = v[k] = 0;
  for (int step = 1; step <= epochs; step++) {
    double lr = lr0 / 2 * (1 + cos(3.14159265358979323846 * (step - 1) / epochs));
    for (int k = 0; k < x->n * d; k++) g[k] = 0;
    tip_scores(z, x, keys, 3, 1, x->f, x->n);
    for (int i = 0; i < x->n; i++) {
      double *z_i = z + i * x->n_class, loss = row_loss(z_i, x->n_class, x->label[i]);
      for (int k = 0; k < x->n; k++) {
        double affinity = 0;
        for (int j = 0; j < d; j++) affinity += (double)x->f[i * d + j] * keys[k * d + j];
        int y = x->label[k];
        double p = exp(z_i[y] - (loss + z_i[x->label[i]]));
        double slope = (p - (y == x->label[i])) / x->n * 3 * exp(-(1 - affinity));
        for (int j = 0; j < d; j++) g[k * d + j] += slope * (double)x->f[i * d + j];
      }
    }
    for (int k = 0; k < x->n * d; k++) {
      keys[k] *= 1 - lr * 0.01;
      m[k] = 0.9 * m[k] + 0.1 * g[k];
      v[k] = 0.999 * v[k] + 0.001 * g[k] * g[k];
      keys[k] -= lr * (m[k] / (1 - pow(0.9, step))) / (sqrt(v[k] / (1 - pow(0.999, step))) + 1e-4);
    }
  }
}

static void test_tip_of(fvg_head_data x, fvg_head_kind kind, const char *what) {
  static double keys[MAX_N * MAX_D], z[MAX_VAL * MAX_C];
  double alpha = 0, beta = 0;
  verdict most;
  tip_keys(keys, &x);
  if (kind == FVG_TIP_ADAPTER_F) tip_train(keys, &x, 20, 1e-3);
  tip_choose(&alpha, &beta, &most, &x, keys);

  fvg_head *h = fit(kind, &x, NULL);
  tip_scores(z, &x, keys, alpha, beta, f_val, x.n_val);
  check(off(h, z, f_val, x.n_val) < 1e-4, what);
  check(fabs(choice(h, "alpha") - alpha) < 1e-5 && fabs(choice(h, "beta") - beta) < 1e-5, "Tip-Adapter: val chooses both");
  check(fabs(choice(h, "val_accuracy") - 100.0 * most.correct / x.n_val) < 1e-4, "Tip-Adapter: the accuracy on val");
  fvg_head_free(h);

  fvg_head_desc d;
  memset(&d, 0, sizeof d);
  d.alpha = 2;
  d.beta = 4;
  if (kind == FVG_TIP_ADAPTER) {
    h = fit(kind, &x, &d);
    tip_scores(z, &x, keys, 2, 4, f_val, x.n_val);
    check(off(h, z, f_val, x.n_val) < 1e-5, "Tip-Adapter: fixed settings");
    fvg_head_free(h);
  } else {                                                               /* at a greater rate eps counts */
    d.alpha = 3;
    d.beta = 1;
    d.lr = 0.03f;
    d.epochs = 12;
    tip_keys(keys, &x);
    tip_train(keys, &x, 12, 0.03);
    h = fit(kind, &x, &d);
    tip_scores(z, &x, keys, 3, 1, f_val, x.n_val);
    check(off(h, z, f_val, x.n_val) < 1e-4, "Tip-Adapter-F: another rate and length");
    fvg_head_free(h);
    tip_keys(keys, &x);
    tip_train(keys, &x, 20, 1e-3);
  }
  x.n_val = 0;
  h = fit(kind, &x, NULL);
  tip_scores(z, &x, keys, 3, 1, f_val, 5);
  check(off(h, z, f_val, 5) < 1e-4, "Tip-Adapter: settings without val");
  fvg_head_free(h);
}

/* e^beta is no float any more, e^(-beta (1 - f k)) is. */
static void test_great_beta(void) {
  static double keys[MAX_N * MAX_D], z[MAX_VAL * MAX_C];
  fvg_head_data x = make(7, 3, 12, 2, 15, 1.2, 11);
  fvg_head_desc d;
  memset(&d, 0, sizeof d);
  d.alpha = 5;
  d.beta = 200;
  tip_keys(keys, &x);
  fvg_head *h = fit(FVG_TIP_ADAPTER, &x, &d);
  tip_scores(z, &x, keys, 5, 200, f, 5);
  check(off(h, z, f, 5) < 1e-5, "Tip-Adapter: a great beta");
  fvg_head_free(h);
}

static void test_tip(void) {
  test_tip_of(make(7, 3, 12, 2, 15, 1.2, 11), FVG_TIP_ADAPTER, "Tip-Adapter: logits");
  test_tip_of(make(20, 5, 30, 1, 25, 1.5, 12), FVG_TIP_ADAPTER, "Tip-Adapter: logits of 30 keys");
  test_tip_of(make(7, 3, 12, 1, 15, 1.2, 13), FVG_TIP_ADAPTER_F, "Tip-Adapter-F: 20 steps of AdamW");
  test_great_beta();
}

/* ---- CLIP-Adapter ---- */
enum { MAX_H = 16 };
typedef struct adapter { double down[MAX_H * MAX_D], up[MAX_D * MAX_H]; int h; double a; } adapter;

/* f~ of (2) and what the gradient needs of it. */
static void adapter_row(double *out, double *hidden, double *lifted, double *length, const adapter *w, const float *row, int d) {
  double square = 0;
  for (int i = 0; i < w->h; i++) {
    hidden[i] = 0;
    for (int j = 0; j < d; j++) hidden[i] += w->down[i * d + j] * (double)row[j];
    hidden[i] = hidden[i] > 0 ? hidden[i] : 0;
  }
  for (int i = 0; i < d; i++) {
    lifted[i] = 0;
    for (int j = 0; j < w->h; j++) lifted[i] += w->up[i * w->h + j] * hidden[j];
    lifted[i] = lifted[i] > 0 ? lifted[i] : 0;
    out[i] = w->a * lifted[i] + (1 - w->a) * (double)row[i];
    square += out[i] * out[i];
  }
  *length = sqrt(square);
  for (int i = 0; i < d; i++) out[i] /= *length;
}

static void adapter_scores(double *z, const fvg_head_data *x, const adapter *w, const float *of, int n) {
  double out[MAX_D], hidden[MAX_H], lifted[MAX_D], length;
  for (int i = 0; i < n; i++) {
    adapter_row(out, hidden, lifted, &length, w, of + i * x->width, x->width);
    for (int k = 0; k < x->n_class; k++) {
      z[i * x->n_class + k] = 0;
      for (int j = 0; j < x->width; j++)
        z[i * x->n_class + k] += (double)x->logit_scale * out[j] * (double)x->text[k * x->width + j];
    }
  }
}

static void adapter_start(adapter *w, int h, int d, double a, uint64_t seed) {
  fvg_rng r;
  w->h = h;
  w->a = a;
  fvg_rng_seed(&r, seed, 200);
  for (int i = 0; i < h * d; i++) w->down[i] = (double)(float)((2 * fvg_rng_uniform(&r) - 1) / sqrt((double)d));
  fvg_rng_seed(&r, seed, 201);
  for (int i = 0; i < h * d; i++) w->up[i] = (double)(float)((2 * fvg_rng_uniform(&r) - 1) / sqrt((double)h));
}

/* SGD with momentum, all pictures in one batch. */
static void adapter_train(adapter *w, const fvg_head_data *x, int epochs) {
  static double g_down[MAX_H * MAX_D], g_up[MAX_D * MAX_H], v_down[MAX_H * MAX_D], v_up[MAX_D * MAX_H];
  int d = x->width, n = w->h * d;
  fvg_optimizer_desc schedule;
  memset(&schedule, 0, sizeof schedule);
  schedule.lr = 0.002f;
  schedule.epochs = epochs;
  for (int k = 0; k < n; k++) v_down[k] = v_up[k] = 0;
  for (int epoch = 0; epoch < epochs; epoch++) {
    double lr = fvg_learning_rate(&schedule, epoch);
    for (int k = 0; k < n; k++) g_down[k] = g_up[k] = 0;
    for (int i = 0; i < x->n; i++) {
      const float *row = x->f + i * d;
      double out[MAX_D], hidden[MAX_H], lifted[MAX_D], length, z[MAX_C], back[MAX_D], along = 0;
      adapter_scores(z, x, w, row, 1);
      adapter_row(out, hidden, lifted, &length, w, row, d);
      double loss = row_loss(z, x->n_class, x->label[i]);
      for (int j = 0; j < d; j++) {
        back[j] = 0;
        for (int k = 0; k < x->n_class; k++) {
          double p = exp(z[k] - loss - z[x->label[i]]);
          back[j] += (double)x->logit_scale / x->n * (p - (k == x->label[i])) * (double)x->text[k * d + j];
        }
        along += back[j] * out[j];
      }
      for (int j = 0; j < d; j++) back[j] = lifted[j] > 0 ? w->a * (back[j] - along * out[j]) / length : 0;
      for (int k = 0; k < w->h; k++) {
        double sum = 0;
        for (int j = 0; j < d; j++) {
          g_up[j * w->h + k] += back[j] * hidden[k];
          sum += back[j] * w->up[j * w->h + k];
        }
        for (int j = 0; j < d && hidden[k] > 0; j++) g_down[k * d + j] += sum * (double)row[j];
      }
    }
    for (int k = 0; k < n; k++) {
      v_down[k] = 0.9 * v_down[k] + g_down[k] + 5e-4 * w->down[k];
      v_up[k] = 0.9 * v_up[k] + g_up[k] + 5e-4 * w->up[k];
      w->down[k] -= lr * v_down[k];
      w->up[k] -= lr * v_up[k];
    }
  }
}

static void test_adapter(void) {
  static adapter w;
  static double z[MAX_VAL * MAX_C];
  fvg_head_data x = make(20, 3, 12, 1, 15, 1.5, 21);
  fvg_head_desc d;
  memset(&d, 0, sizeof d);
  d.seed = 5;

  /* 4 pictures a class: 100 epochs; d/4 = 5 hidden */
  verdict most = {-1, 0};
  double best = 0;
  for (int i = 1; i <= 5; i++) {
    adapter_start(&w, 5, 20, (double)(0.2f * (float)i), 5);
    adapter_train(&w, &x, 100);
    adapter_scores(z, &x, &w, f_val, 15);
    verdict v = judge(z, &x);
    if (better(v, most)) { most = v; best = w.a; }
    d.ratio = 0.2f * (float)i;
    fvg_head *one = fit(FVG_CLIP_ADAPTER, &x, &d);
    check(off(one, z, f_val, 15) < 2e-4, "CLIP-Adapter: 100 steps of SGD");
    fvg_head_free(one);
  }
  d.ratio = 0;
  fvg_head *h = fit(FVG_CLIP_ADAPTER, &x, &d);
  adapter_start(&w, 5, 20, best, 5);
  adapter_train(&w, &x, 100);
  adapter_scores(z, &x, &w, f_val, 15);
  check(off(h, z, f_val, 15) < 2e-4 && fabs(choice(h, "ratio") - best) < 1e-6, "CLIP-Adapter: val chooses the ratio");
  check(fabs(choice(h, "val_accuracy") - 100.0 * most.correct / 15) < 1e-4, "CLIP-Adapter: the accuracy on val");
  fvg_head_free(h);

  /* Without val 0.2; other sizes; one picture a class: 50 epochs */
  x.n_val = 0;
  x.n = 3;
  d.hidden = 7;
  h = fit(FVG_CLIP_ADAPTER, &x, &d);
  adapter_start(&w, 7, 20, (double)0.2f, 5);
  adapter_train(&w, &x, 50);
  adapter_scores(z, &x, &w, f_val, 15);
  check(off(h, z, f_val, 15) < 2e-4, "CLIP-Adapter: without val, one shot");
  fvg_head_free(h);
}

/* ---- LP++ ---- */
static double lp_w[MAX_C * MAX_D], lp_b[MAX_C], lp_alpha[MAX_C];

static void lp_scores(double *z, const fvg_head_data *x, const float *of, int n) {
  text_scores(z, x, of, n, 1, x->text, x->n_class);
  for (int i = 0; i < n; i++)
    for (int k = 0; k < x->n_class; k++) {
      double sum = lp_alpha[k] * z[i * x->n_class + k] + lp_b[k];
      for (int j = 0; j < x->width; j++) sum += lp_w[k * x->width + j] * (double)of[i * x->width + j];
      z[i * x->n_class + k] = sum;
    }
}

static void test_lp(void) {
  static double gram[MAX_D * MAX_D], unused[MAX_D * MAX_D], z[MAX_CROP * MAX_C], t[MAX_CROP * MAX_C], kept[MAX_VAL * MAX_C];
  static double v_w[MAX_C * MAX_D], v_b[MAX_C];
  fvg_head_data x = make(11, 3, 18, 2, 15, 1.6, 31);
  int d = 11, n = 36, n_class = 3, best = 0;
  text_scores(t, &x, f, n, 1, text, n_class);
  for (int i = 0; i < n; i++)
    for (int a = 0; a < d; a++)
      for (int b = 0; b < d; b++) gram[a * d + b] += (double)f[i * d + a] * (double)f[i * d + b];
  pseudo_inverse(unused, gram, d, 0);
  double rate = 4 * n / lambda_largest, rate_alpha = 0, start = 0;
  for (int k = 0; k < n_class; k++) {
    double own = 0, squares = 0;
    int count = 0;
    for (int i = 0; i < n; i++) {
      squares += t[i * n_class + k] * t[i * n_class + k];
      if (label[i / 2] != k) continue;
      own += t[i * n_class + k];
      count++;
      for (int j = 0; j < d; j++) lp_w[k * d + j] += (double)f[i * d + j] / 2;
    }
    start += 250 * own / count / n_class;
    rate_alpha = larger(rate_alpha, 4 * squares / n);
  }
  for (int k = 0; k < n_class; k++) lp_alpha[k] = start;

  verdict most = {-1, 0};
  for (int epoch = 1; epoch <= 300; epoch++) {
    double g_w[MAX_C * MAX_D] = {0}, g_b[MAX_C] = {0}, g_alpha[MAX_C] = {0};
    lp_scores(z, &x, f, n);
    for (int i = 0; i < n; i++) {
      int y = label[i / 2];
      double loss = row_loss(z + i * n_class, n_class, y);
      for (int k = 0; k < n_class; k++) {
        double slope = (exp(z[i * n_class + k] - loss - z[i * n_class + y]) - (k == y)) / n;
        for (int j = 0; j < d; j++) g_w[k * d + j] += slope * (double)f[i * d + j];
        g_b[k] += slope;
        g_alpha[k] += slope * t[i * n_class + k];
      }
    }
    for (int k = 0; k < n_class * d; k++) { v_w[k] = 0.9 * v_w[k] + g_w[k]; lp_w[k] -= rate * v_w[k]; }
    for (int k = 0; k < n_class; k++) { v_b[k] = 0.9 * v_b[k] + g_b[k]; lp_b[k] -= rate * v_b[k]; }
    for (int k = 0; k < n_class && epoch % 10 == 0; k++) lp_alpha[k] -= g_alpha[k] / rate_alpha;
    lp_scores(z, &x, f_val, 15);
    verdict v = judge(z, &x);
    if (!better(v, most)) continue;
    most = v;
    best = epoch;
    memcpy(kept, z, sizeof kept);
  }
  fvg_head *h = fit(FVG_LP_PLUS_PLUS, &x, NULL);
  check((int)choice(h, "epoch") == best, "LP++: val chooses the epoch");
  check(off(h, kept, f_val, 15) < 1e-4, "LP++: the chosen epoch's logits");
  check(fabs(choice(h, "val_accuracy") - 100.0 * most.correct / 15) < 1e-4, "LP++: the accuracy on val");
  fvg_head_free(h);
  x.n_val = 0;
  h = fit(FVG_LP_PLUS_PLUS, &x, NULL);
  check(off(h, z, f_val, 15) < 1e-3 && choice(h, "epoch") == 300, "LP++: without val the last epoch");
  fvg_head_free(h);
}

/* ---- files in memory ---- */
typedef struct bytes { uint8_t data[1 << 17]; size_t n; } bytes;
static int keep_bytes(void *user, const void *from, size_t n) {
  bytes *b = (bytes *)user;
  if (n > sizeof b->data - b->n) return 1;
  memcpy(b->data + b->n, from, n);
  b->n += n;
  return 0;
}

static fvg_status read_head(fvg_ctx *in, fvg_head **h, const uint8_t *data, size_t n) {
  fvg_source source = fvg_source_memory(data, n, "head.safetensors");
  fvg_weights *w;
  *h = NULL;
  fvg_status s = fvg_weights_open(in, &w, &source);
  if (!s) s = fvg_head_read(in, h, w);
  fvg_weights_close(w);
  return s;
}

/* ---- the linear probe ---- */
/* The greatest element of the gradient of (2), from the weights in the head's file. */
static double probe_slope(fvg_head *h, const fvg_head_data *x) {
  static bytes b;
  double most = 0, g[MAX_C * MAX_D], g_b[MAX_C] = {0}, c_now = choice(h, "c");
  int d = x->width, n = x->n * x->n_view;
  fvg_tensor w, bias;
  fvg_weights *file;
  b.n = 0;
  fvg_source source = fvg_source_memory(b.data, 0, NULL);
  if (fvg_head_write(h, keep_bytes, &b, NULL, 0)) return HUGE_VAL;
  source = fvg_source_memory(b.data, b.n, NULL);
  if (fvg_weights_open(c, &file, &source)) return HUGE_VAL;
  if (fvg_weights_get(file, &w, "weight", FVG_F32) || fvg_weights_get(file, &bias, "bias", FVG_F32)) return HUGE_VAL;
  const float *w_k = (const float *)w.data;
  for (int k = 0; k < x->n_class * d; k++) g[k] = (double)w_k[k] / (n * c_now);
  for (int i = 0; i < n; i++) {
    double z[MAX_C];
    int y = x->label[i / x->n_view];
    for (int k = 0; k < x->n_class; k++) {
      z[k] = (double)((const float *)bias.data)[k];
      for (int j = 0; j < d; j++) z[k] += (double)w_k[k * d + j] * (double)x->f[i * d + j];
    }
    double loss = row_loss(z, x->n_class, y);
    for (int k = 0; k < x->n_class; k++) {
      double slope = (exp(z[k] - loss - z[y]) - (k == y)) / n;
      g_b[k] += slope;
      for (int j = 0; j < d; j++) g[k * d + j] += slope * (double)x->f[i * d + j];
    }
  }
  for (int k = 0; k < x->n_class * d; k++) most = larger(most, fabs(g[k]));
  for (int k = 0; k < x->n_class; k++) most = larger(most, fabs(g_b[k]));
  fvg_tensor_free(c, &w);
  fvg_tensor_free(c, &bias);
  fvg_weights_close(file);
  return most;
}

static verdict probe_verdict(const fvg_head_data *x, double log_c) {
  static float z[MAX_VAL * MAX_C];
  static double exact[MAX_VAL * MAX_C];
  fvg_head_data quiet = *x;
  fvg_head_desc d;
  memset(&d, 0, sizeof d);
  d.c = (float)pow(10, log_c);
  quiet.n_val = 0;
  if (d.c > 1e6f) d.c = 1e6f;
  fvg_head *h = fit(FVG_LINEAR_PROBE, &quiet, &d);
  fvg_head_logits(h, z, x->f_val, x->n_val);
  for (int i = 0; i < x->n_val * x->n_class; i++) exact[i] = (double)z[i];
  fvg_head_free(h);
  return judge(exact, x);
}

/* Pairs of a quadratic, one without curvature among them: those that stay are pairs of their own rho. */
static void test_pairs(void) {
  enum { N = 3, STEPS = 2 * FVG__LBFGS_PAIRS };
  static double room[4 * N + 2 * FVG__LBFGS_PAIRS * N];
  fvg__lbfgs b;
  int i, k, right = 1;
  memset(&b, 0, sizeof b);
  b.n = N;
  b.x = room;
  b.g = room + N;
  b.x_next = room + 2 * N;
  b.g_next = room + 3 * N;
  b.s = room + 4 * N;
  b.y = b.s + FVG__LBFGS_PAIRS * N;
  for (i = 0; i < STEPS; i++) {
    int is_flat = i == FVG__LBFGS_PAIRS + 3;
    for (k = 0; k < N; k++) {
      b.x_next[k] = b.x[k] + 1 + (i + k) % 4;
      b.g_next[k] = b.g[k] + (is_flat ? -1 : 2) * (b.x_next[k] - b.x[k]);
    }
    fvg__lbfgs_accept(&b, 0);
    for (k = 1; k <= b.n_pair; k++) {
      int at = (b.next - k + FVG__LBFGS_PAIRS) % FVG__LBFGS_PAIRS;
      right &= fabs(b.rho[at] * fvg__dot(b.s + at * N, b.y + at * N, N) - 1) < 1e-12;
    }
    if (is_flat) check(b.n_pair == FVG__LBFGS_PAIRS - 1, "L-BFGS: a pair without curvature costs the oldest one");
  }
  check(right && b.n_pair == FVG__LBFGS_PAIRS, "L-BFGS: every pair that is kept has its own curvature");
}

static void test_probe(void) {
  static const float strength[] = {1e-4f, 0.1f, 1, 31.6f, 1e3f};
  fvg_head_data x = make(13, 4, 20, 2, 20, 2.0, 41);
  fvg_head_desc d;
  memset(&d, 0, sizeof d);
  for (int i = 0; i < 5; i++) {
    d.c = strength[i];
    fvg_head *h = fit(FVG_LINEAR_PROBE, &x, &d);
    check(probe_slope(h, &x) < 5e-7, "LinearProbe: the gradient is zero");
    fvg_head_free(h);
  }

  /* The search, by fits of single candidates. */
  verdict most = {-1, 0}, v, right_v;
  double best = 0;
  for (int i = 0; i < 7; i++) {
    v = probe_verdict(&x, 2 * i - 6);
    if (better(v, most)) { most = v; best = 2 * i - 6; }
  }
  double left = best - 1, right = best + 1;
  for (int i = 0; i < 8; i++) {
    v = probe_verdict(&x, left);
    right_v = probe_verdict(&x, right);
    if (better(v, most)) { most = v; best = left; }
    if (better(right_v, most)) { most = right_v; best = right; }
    if (better(right_v, v)) left = (left + right) / 2; else right = (left + right) / 2;
  }
  fvg_head *h = fit(FVG_LINEAR_PROBE, &x, NULL);
  check(fabs(log10(choice(h, "c")) - best) < 1e-3, "LinearProbe: val chooses c");
  check(fabs(choice(h, "val_accuracy") - 100.0 * most.correct / x.n_val) < 1e-4, "LinearProbe: the accuracy on val");
  check(fabs(choice(h, "val_cross_entropy") - most.loss / x.n_val) < 1e-4, "LinearProbe: the cross-entropy on val");
  fvg_head_free(h);
  x.n_val = 0;
  h = fit(FVG_LINEAR_PROBE, &x, NULL);
  check(fabs(choice(h, "c") - 31.6) < 1e-5 && probe_slope(h, &x) < 5e-7, "LinearProbe: c without val");
  fvg_head_free(h);
}

/* ---- what all heads share ---- */
static void test_names(void) {
  static const char *const name[] = {"LinearProbe", "LP++", "CLIP-Adapter", "Tip-Adapter", "Tip-Adapter-F", "GDA"};
  for (int i = 0; i < 6; i++) {
    check(fvg_head_find(name[i]) == i && !strcmp(fvg_head_name((fvg_head_kind)i), name[i]), "names of heads");
    check(fvg_head_knows_new((fvg_head_kind)i) == (i == FVG_GDA), "GDA alone knows new classes");
  }
  check(fvg_head_find("gda") == -1 && fvg_head_find(NULL) == -1 && !fvg_head_name((fvg_head_kind)6), "no other names");
}

/* Few epochs, so that much can be tried. */
static fvg_head_desc quick(void) {
  fvg_head_desc d;
  memset(&d, 0, sizeof d);
  d.epochs = 3;
  d.batch = 4;
  d.neighbours = 8;
  d.seed = 9;
  return d;
}

/* ---- eigenvalues of matrices that would be too small for their squares, or are singular ---- */
enum { MAX_E = 64 };

/* The greatest error of U^T diag(lambda) U = A, as a share of A's greatest element, and of U U^T = I. */
static double eigen_off(double (*element)(int, int), double factor, int n) {
  static double a[MAX_E * MAX_E], left[MAX_E * MAX_E], u[MAX_E * MAX_E], lambda[MAX_E];
  double most = 0, largest = 0;
  memset(u, 0, sizeof u);
  for (int i = 0; i < n * n; i++) left[i] = a[i] = factor * element(i / n, i % n);
  if (fvg__eigen(c, lambda, u, left, n)) return HUGE_VAL;
  for (int i = 0; i < n * n; i++) largest = larger(largest, fabs(a[i]));
  for (int i = 0; i < n; i++)
    for (int j = 0; j < n; j++) {
      double back = 0, product = 0;
      for (int k = 0; k < n; k++) {
        back += u[k * n + i] * (lambda[k] / largest) * u[k * n + j];
        product += u[i * n + k] * u[j * n + k];
      }
      most = larger(most, fabs(back - a[i * n + j] / largest));
      most = larger(most, fabs(product - (i == j)));
    }
  return most;
}

static double same_element(int i, int j) { (void)i; (void)j; return 1; }
static double unit_element(int i, int j) { return i == j; }
static double steep_element(int i, int j) { return pow(10, -2.0 * (i + j)); }
static double hilbert_element(int i, int j) { return 1.0 / (i + j + 1); }

static void test_eigen(void) {
  double (*const element[])(int, int) = {same_element, unit_element, steep_element, hilbert_element};
  static const char *const name[] = {"ones", "the identity", "a steep one", "Hilbert's"};
  static const double factor[] = {1, 1e-160, 1e-300, 1e150};
  static const int n[] = {1, 2, 17, MAX_E};
  for (int i = 0; i < 4; i++) {
    double most = 0;
    for (int k = 0; k < 16; k++) most = larger(most, eigen_off(element[i], factor[k / 4], n[k % 4]));
    char what[64];
    snprintf(what, sizeof what, "eigenvalues: %s", name[i]);
    check(most < 1e-12, what);
  }
}

/* ---- hardly any pictures ---- */

/* Scores that a head gives to the first pictures; 0 if there are none. */
static int scored(float *z, fvg_head_kind kind, const fvg_head_data *x, const fvg_head_desc *d, int n) {
  fvg_head *h;
  if (fvg_head_fit(c, &h, kind, x, d)) return 0;
  fvg_status s = fvg_head_logits(h, z, f, n);
  fvg_head_free(h);
  return !s;
}

static void test_few(void) {
  float z[4 * MAX_C];
  fvg_head_desc d = quick();
  int one = 1, same = 1;
  for (int kind = 0; kind <= FVG_GDA; kind++) {
    fvg_head_data x = make(12, 1, 1, 1, 1, 1, 31);                       /* one class, one picture */
    one = one && scored(z, (fvg_head_kind)kind, &x, &d, 1);
    x = make(12, 3, 12, 1, 0, 1, 32);                                    /* the pictures of a class are one picture */
    for (int i = 0; i < 12; i++) memcpy(f + i * 12, f + (i % 3) * 12, 12 * sizeof *f);
    same = same && scored(z, (fvg_head_kind)kind, &x, &d, 4) && !memcmp(z, z + 9, 3 * sizeof *z);
  }
  check(one, "one picture of one class is enough for every head");
  check(same, "and so are equal pictures, which have equal logits");

  /* Without any spread GDA is zero-shot CLIP, by either rule. */
  double expected[4 * MAX_C];
  for (int rule = 0; rule < 2; rule++) {
    fvg_head_data x = make(12, 3, 12, 1, 0, 1, 32);
    for (int i = 0; i < 12; i++) memcpy(f + i * 12, f + (i % 3) * 12, 12 * sizeof *f);
    text_scores(expected, &x, f, 4, 30, text, 3);
    for (int i = 0; i < 12; i++) expected[i] -= 0.1 * log(3.0);
    d.gda_rule = (fvg_gda_rule)rule;
    fvg_head *h = fit(FVG_GDA, &x, &d);
    check(off(h, expected, f, 4) < 1e-6, "GDA: pictures without spread");
    fvg_head_free(h);
  }
}

static void test_threads(void) {
  static float z[3][MAX_VAL * MAX_C];
  fvg_ctx *usual = c;
  fvg_head_data x = make(70, 5, 40, 2, 25, 1.6, 51);
  fvg_head_desc d = quick();
  for (int kind = 0; kind <= FVG_GDA; kind++)
    for (int rule = 0; rule < (kind == FVG_GDA ? 2 : 1); rule++) {
      d.gda_rule = (fvg_gda_rule)rule;
      for (int n = 1; n <= 3; n++) {
        fvg_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.n_threads = n;
        if (fvg_init(&c, &desc)) exit(1);
        size_t before = fvg_mem_used(c);
        fvg_head *h = fit((fvg_head_kind)kind, &x, &d), *new_ = NULL;
        fvg_head_logits(h, z[n - 1], f_val, 25);
        if (kind == FVG_GDA && !fvg_head_for_new(h, &new_, text_new, 2)) fvg_head_logits(new_, z[n - 1], f_val, 20);
        fvg_head_free(new_);
        fvg_head_free(h);
        check(fvg_mem_used(c) == before, "nothing stays in memory");
        fvg_free(c);
      }
      check(!memcmp(z[0], z[1], sizeof z[0]) && !memcmp(z[0], z[2], sizeof z[0]), "the same bits for 1 to 3 threads");
    }
  c = usual;
}

static void test_files(void) {
  static bytes b, again;
  static float z[MAX_VAL * MAX_C], z_read[MAX_VAL * MAX_C];
  static const fvg_metadata said[] = {{"classes", "[\"a\"]"}};
  fvg_head_data x = make(6, 3, 9, 1, 6, 1.2, 61);
  fvg_head_desc d = quick();
  for (int kind = 0; kind <= FVG_GDA; kind++) {
    fvg_head *h = fit((fvg_head_kind)kind, &x, &d), *r;
    b.n = again.n = 0;
    check(!fvg_head_write(h, keep_bytes, &b, said, 1), "a head is written");
    check(!read_head(c, &r, b.data, b.n), "a head is read");
    if (!r) exit(1);
    check((int)fvg_head_is(r) == kind && fvg_head_width(r) == 6 && fvg_head_classes(r) == 3, "the same kind and sizes");
    fvg_head_logits(h, z, f_val, 6);
    fvg_head_logits(r, z_read, f_val, 6);
    check(!memcmp(z, z_read, 18 * sizeof *z), "the same logits");
    check(choice(h, "val_accuracy") == choice(r, "val_accuracy"), "the same choice");
    check(!fvg_head_write(r, keep_bytes, &again, said, 1) && again.n == b.n && !memcmp(again.data, b.data, b.n), "the same file");
    fvg_head *new_ = NULL;
    fvg_status s = fvg_head_for_new(r, &new_, text_new, 2);
    check(kind == FVG_GDA ? !s : s == FVG_E_UNSUPPORTED && strstr(fvg_error(c), "no rule for new classes") != NULL, "new classes");
    fvg_head_free(new_);
    fvg_head_free(r);
    fvg_head_free(h);

    /* Every cut is refused; no wrong byte does harm, and what is read can be used. */
    int refused = 1;
    size_t before = fvg_mem_used(c);
    for (size_t n = 0; n < b.n; n++) refused = refused && read_head(c, &r, b.data, n) && !r;
    check(refused, "every cut of a file is refused");
    int usable = 1;
    for (size_t at = 0; at < b.n; at++)
      for (int bit = 0; bit < 8; bit += 7) {
        b.data[at] = (uint8_t)(b.data[at] ^ 1u << bit);
        if (!read_head(c, &r, b.data, b.n) && fvg_head_width(r) == 6 && fvg_head_classes(r) <= MAX_C) {
          fvg_status scored = fvg_head_logits(r, z, f_val, 6);
          usable = usable && (!scored || scored == FVG_E_NUMERIC);
          if (!fvg_head_for_new(r, &new_, text_new, 2)) fvg_head_free(new_);
        }
        fvg_head_free(r);
        b.data[at] = (uint8_t)(b.data[at] ^ 1u << bit);
      }
    check(usable, "a file that is read can be used");
    check(fvg_mem_used(c) == before, "nothing of a bad file stays");
  }
}

/* A file of these tensors. */
static fvg_status read_made(const char *kind, const fvg_named_tensor *t, int n) {
  static bytes b;
  fvg_metadata m;
  fvg_head *h;
  m.key = "head";
  m.value = kind;
  b.n = 0;
  if (fvg_safetensors_write(c, keep_bytes, &b, t, n, &m, kind ? 1 : 0)) return FVG_E_ARG;
  fvg_status s = read_head(c, &h, b.data, b.n);
  fvg_head_free(h);
  return s;
}

static fvg_named_tensor tensor_of(const char *name, void *data, int n_dim, int a, int b, fvg_dtype type) {
  fvg_named_tensor t;
  memset(&t, 0, sizeof t);
  t.name = name;
  t.tensor.data = data;
  t.tensor.n_dim = n_dim;
  t.tensor.dim[0] = a;
  t.tensor.dim[1] = b;
  t.tensor.type = type;
  return t;
}

static void test_bad_files(void) {
  float values[7] = {1, 2, 0, -1, 0, 30, 0}, x[64] = {0};
  int labels[4] = {0, 1, 1, 0};
  fvg_named_tensor t[6];
  t[0] = tensor_of("text", x, 2, 2, 5, FVG_F32);
  t[1] = tensor_of("keys", x, 2, 4, 5, FVG_F32);
  t[2] = tensor_of("label", labels, 1, 4, 0, FVG_I32);
  t[3] = tensor_of("values", values, 1, 6, 0, FVG_F32);
  t[4] = tensor_of("more", values, 1, 6, 0, FVG_F32);
  check(read_made("Tip-Adapter", t, 4) == FVG_OK, "a file made by hand");
  check(read_made("Tip-Adapter", t, 5) == FVG_E_FORMAT, "a tensor too many");
  check(read_made("Tip-Adapter", t, 3) == FVG_E_FORMAT, "no values");
  check(read_made("Tip-adapter", t, 4) == FVG_E_FORMAT && strstr(fvg_error(c), "Tip-adapter"), "an unknown head");
  check(read_made(NULL, t, 4) == FVG_E_FORMAT && strstr(fvg_error(c), "not the file of a head"), "no head at all");
  check(read_made("GDA", t, 4) == FVG_E_FORMAT, "tensors of another kind");
  labels[2] = 2;
  check(read_made("Tip-Adapter", t, 4) == FVG_E_FORMAT && strstr(fvg_error(c), "label 2 is 2 among 2"), "a label too great");
  labels[2] = -1;
  check(read_made("Tip-Adapter", t, 4) == FVG_E_FORMAT, "a negative label");
  labels[2] = 1;
  t[1].tensor.dim[1] = 4;
  check(read_made("Tip-Adapter", t, 4) == FVG_E_SHAPE && strstr(fvg_error(c), "keys"), "keys of another width");
  t[1].tensor.dim[1] = 5;
  t[2].tensor.dim[0] = 3;
  check(read_made("Tip-Adapter", t, 4) == FVG_E_SHAPE, "fewer labels than keys");
  t[2].tensor.dim[0] = 4;
  t[3].tensor.dim[0] = 5;
  check(read_made("Tip-Adapter", t, 4) == FVG_E_SHAPE, "fewer values");
  t[3].tensor.dim[0] = 6;
  values[5] = 0;
  check(read_made("Tip-Adapter", t, 4) == FVG_E_FORMAT, "a logit scale of 0");
  values[5] = 30;
  values[1] = 1e10f;
  check(read_made("Tip-Adapter", t, 4) == FVG_E_FORMAT, "a beta beyond all bounds");
  values[1] = 2;
  x[3] = (float)HUGE_VAL;
  check(read_made("Tip-Adapter", t, 4) == FVG_E_NUMERIC, "a feature that is infinite");
}

/* Each kind is refused with its own message. */
static void refuse(const fvg_head_data *x, const fvg_head_desc *d, fvg_head_kind kind, fvg_status wanted, const char *message) {
  fvg_head *h = (fvg_head *)1;
  fvg_status s = fvg_head_fit(c, &h, kind, x, d);
  int ok = s == wanted && !h && strstr(fvg_error(c), message);
  if (!ok) printf("got %d: %s\n", s, fvg_error(c));
  check(ok, message);
}

static void test_arguments(void) {
  fvg_head_data good = make(6, 3, 9, 1, 6, 1.2, 71), x = good;
  fvg_head_desc d = quick();
  check(fvg_head_fit(c, NULL, FVG_GDA, &x, NULL) == FVG_E_ARG, "no place for the head");
  refuse(NULL, NULL, FVG_GDA, FVG_E_ARG, "the data");
  refuse(&x, NULL, (fvg_head_kind)17, FVG_E_ARG, "there is no head number 17");
  x.f = NULL; refuse(&x, NULL, FVG_GDA, FVG_E_ARG, "it needs f, label and text"); x = good;
  x.f_val = NULL; refuse(&x, NULL, FVG_GDA, FVG_E_ARG, "with val pictures f_val"); x = good;
  x.n = 0; refuse(&x, NULL, FVG_GDA, FVG_E_ARG, "0 pictures"); x = good;
  x.n_view = 1000000000; refuse(&x, NULL, FVG_GDA, FVG_E_ARG, "are too many"); x = good;
  x.logit_scale = -1; refuse(&x, NULL, FVG_GDA, FVG_E_ARG, "logit_scale is -1"); x = good;
  label[4] = 3; refuse(&x, NULL, FVG_GDA, FVG_E_ARG, "picture 4 has label 3 among 3 classes"); label[4] = 1;
  label_val[2] = -1; refuse(&x, NULL, FVG_GDA, FVG_E_ARG, "val picture 2 has label -1"); label_val[2] = 2;
  f[7] += 1; refuse(&x, NULL, FVG_GDA, FVG_E_ARG, "features must have length 1"); f[7] -= 1;
  float kept = text[3];
  text[3] = (float)HUGE_VAL; refuse(&x, NULL, FVG_GDA, FVG_E_NUMERIC, "text 0 is not finite"); text[3] = kept;
  d.ratio = 1.5f; refuse(&x, &d, FVG_CLIP_ADAPTER, FVG_E_ARG, "ratio is 1.5"); d = quick();
  d.beta = -1; refuse(&x, &d, FVG_TIP_ADAPTER, FVG_E_ARG, "beta is -1"); d = quick();
  d.epochs = -1; refuse(&x, &d, FVG_LP_PLUS_PLUS, FVG_E_ARG, "epochs is -1"); d = quick();
  d.gda_rule = (fvg_gda_rule)2; refuse(&x, &d, FVG_GDA, FVG_E_ARG, "there is no gda_rule 2"); d = quick();
  x.n = 3; d.gda_rule = FVG_GDA_BASE_TO_NEW; refuse(&x, &d, FVG_GDA, FVG_E_ARG, "no class has two crops"); x = good;
  x.n = 2; d = quick(); refuse(&x, &d, FVG_GDA, FVG_E_ARG, "class 2 of 3 has no picture"); x = good;

  fvg_head *h = fit(FVG_GDA, &x, &d), *new_;
  check(fvg_head_for_new(h, &new_, text_new, 0) == FVG_E_ARG && !new_, "no new class");
  check(fvg_head_for_new(h, &new_, NULL, 1) == FVG_E_ARG && fvg_head_for_new(h, NULL, text_new, 1) == FVG_E_ARG, "nothing given");
  check(fvg_head_logits(h, NULL, f, 1) == FVG_E_ARG && fvg_head_logits(h, text_new, f, -1) == FVG_E_ARG, "no logits");
  check(!fvg_head_choice(h, 5, NULL, NULL) && fvg_head_choice(h, 4, NULL, NULL) && !fvg_head_choice(h, -1, NULL, NULL), "choices end");
  fvg_head_free(h);
  fvg_head_free(NULL);
}

/* ---- stopping and lack of memory ---- */
typedef struct stopper { int left, calls; } stopper;
static int stop_after(void *user, const fvg_progress *p) {
  stopper *s = (stopper *)user;
  (void)p;
  s->calls++;
  return s->left-- <= 0;
}

typedef struct miser { int left; } miser;
static void *miser_alloc(void *user, size_t n) { miser *m = (miser *)user; return m->left-- > 0 ? malloc(n) : NULL; }
static void miser_release(void *user, void *block, size_t n) { (void)user; (void)n; free(block); }

static fvg_status everything(fvg_ctx *in, const fvg_head_data *x, const fvg_head_desc *d, fvg_head_kind kind) {
  static bytes b;
  static float z[MAX_VAL * MAX_C];
  fvg_head *h, *r = NULL, *new_ = NULL;
  fvg_status s = fvg_head_fit(in, &h, kind, x, d);
  b.n = 0;
  if (!s) s = fvg_head_logits(h, z, f_val, 6);
  if (!s && kind == FVG_GDA) s = fvg_head_for_new(h, &new_, text_new, 2);
  if (!s) s = fvg_head_write(h, keep_bytes, &b, NULL, 0);
  if (!s) s = read_head(in, &r, b.data, b.n);
  fvg_head_free(r);
  fvg_head_free(new_);
  fvg_head_free(h);
  return s;
}

static void test_no_memory(void) {
  fvg_head_data x = make(6, 3, 9, 1, 6, 1.2, 81);
  fvg_head_desc d = quick();
  d.c = 1e-3f;                                       /* few steps, for each of them may allocate under AddressSanitizer */
  for (int kind = 0; kind <= FVG_GDA; kind++)
    for (int rule = 0; rule < (kind == FVG_GDA ? 2 : 1); rule++) {
      fvg_status s = FVG_E_NOMEM;
      int ok = 1, n;
      d.gda_rule = (fvg_gda_rule)rule;
      for (n = 1; n < 3000 && s; n++) {
        miser m = {n};
        fvg_ctx *in;
        fvg_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.allocator.alloc = miser_alloc;
        desc.allocator.release = miser_release;
        desc.allocator.user = &m;
        if (fvg_init(&in, &desc)) continue;
        s = everything(in, &x, &d, (fvg_head_kind)kind);
        if ((s && (s != FVG_E_NOMEM || !strstr(fvg_error(in), "out of memory"))) || fvg_mem_used(in)) ok = 0;
        fvg_free(in);
      }
      check(ok && !s && n > 10, "no memory: every allocation may fail, nothing stays");
    }
  d.c = 0;
}

static void test_stopping(void) {
  fvg_head_data x = make(6, 3, 9, 1, 6, 1.2, 91);
  fvg_head_desc d = quick();
  for (int kind = 0; kind <= FVG_GDA; kind++) {
    stopper s = {1000000, 0};
    fvg_desc desc;
    fvg_ctx *in;
    fvg_head *h;
    memset(&desc, 0, sizeof desc);
    desc.progress = stop_after;
    desc.user = &s;
    if (fvg_init(&in, &desc)) exit(1);
    check(!fvg_head_fit(in, &h, (fvg_head_kind)kind, &x, &d) && s.calls >= 3, "progress is told");
    fvg_head_free(h);
    int calls = s.calls;
    for (int at = 0; at < calls; at += 1 + calls / 7) {
      s.left = at;
      check(fvg_head_fit(in, &h, (fvg_head_kind)kind, &x, &d) == FVG_E_CANCELLED && !h && !fvg_mem_used(in), "stopped");
    }
    fvg_free(in);
  }
}

int main(void) {
  if (fvg_init(&c, NULL)) return 1;
  test_names();
  test_gda();
  test_tip();
  test_adapter();
  test_lp();
  test_pairs();
  test_probe();
  test_eigen();
  test_few();
  test_threads();
  test_files();
  test_bad_files();
  test_arguments();
  test_no_memory();
  test_stopping();
  check(fvg_mem_used(c) == 0, "all memory was given back");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
