/* Chapters 9 and 10 of fvgpt.h and the attention of 11: values against double code, gradients against differences,
   wrong use. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt.h"

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

static fvg_ctx *c;
static fvg_tape *t;
static fvg_rng rng;
static float uniform(double low, double high) { return (float)(low + (high - low) * fvg_rng_uniform(&rng)); }

/* ---- parameters that the tests share ---- */
enum { A, B, ROW, COL, ONE, W, BIAS, GAIN, SHIFT, Q, K, V, N_PARAMS };
static fvg_parameter p[N_PARAMS], *list[N_PARAMS];
static const int shape[N_PARAMS][2] = {{5, 6}, {5, 6}, {1, 6}, {5, 1}, {1, 1}, {4, 6},
                                       {1, 4}, {1, 6}, {1, 6}, {6, 8}, {6, 8}, {6, 8}};
static float *data_of(int i) { return (float *)p[i].value.data; }
static fvg_node *param(fvg_tape *tape, int i) { return fvg_param(tape, &p[i]); }

static void make_parameters(void) {
  static const char *const name[N_PARAMS] = {"a",    "b",    "row",   "col", "one", "w",
                                             "bias", "gain", "shift", "q",   "k",   "v"};
  int i, j;
  for (i = 0; i < N_PARAMS; i++) {
    check(fvg_parameter_new(c, &p[i], name[i], 2, shape[i]) == FVG_OK, "a parameter");
    list[i] = &p[i];
    for (j = 0; j < shape[i][0] * shape[i][1]; j++) {
      float x = uniform(-1, 1);
      data_of(i)[j] = x < 0 ? x - 0.05f : x + 0.05f;                  /* away from relu's corner */
    }
  }
}

/* A scalar in which every element of y counts differently. */
static fvg_node *weigh(fvg_node *y) {
  static float weight[4096];
  int i;
  if (weight[0] == 0) for (i = 0; i < 4096; i++) weight[i] = (float)sin(0.7 * i + 1) + 0.3f;
  return y ? fvg_sum(fvg_mul(y, fvg_const(y->tape, y->rows, y->cols, weight))) : NULL;
}

/* ---- gradients: one function of the parameters per case ---- */
static const int labels[5] = {0, 5, 2, 2, 4}, repeated[7] = {3, 0, 3, 3, 4, 0, 1};
static const float teacher[30] = {1,  -2, 3, 0, 1, 2, 2, -1, 0, 1, 3, 1, 0,  0, 1,
                                  -1, 2,  0, 1, 1, 0, 2, -2, 1, 0, 3, 1, -1, 0, 2};
static const float targets[5] = {1, 0, 1, 0, 1}, weights[5] = {1, 0, 0.5f, 1, 1};
static const fvg_segment whole[] = {{0, 6, 0, 6, 0, 0, 0}};
static const fvg_segment causal[] = {{0, 4, 0, 4, 0, 0, 1}, {4, 2, 4, 2, 0, 0, 1}};
static const fvg_segment shared_prefix[] = {{0, 2, 0, 2, 0, 0, 1}, {2, 1, 2, 1, 0, 2, 1}, {3, 3, 3, 3, 0, 2, 1}};
static const fvg_segment shared_whole[] = {{0, 2, 0, 2, 0, 0, 0}, {2, 1, 2, 1, 0, 2, 0}, {3, 3, 3, 3, 0, 2, 0}};
static const fvg_segment partial[] = {{0, 2, 2, 4, 0, 2, 1}, {2, 4, 1, 3, 0, 0, 0}};

static fvg_node *attend(fvg_tape *tape, int heads, const fvg_segment *s, int n) {
  return weigh(fvg_attention(param(tape, Q), param(tape, K), param(tape, V), heads, s, n));
}

/* A few nodes with inputs of their own, to be made twice. */
static fvg_node *some_function(fvg_tape *tape, fvg_node *x, void *user) {
  (void)user;
  x = fvg_gelu(fvg_add(x, param(tape, ROW)));
  return fvg_mul(fvg_layer_norm(x, param(tape, GAIN), param(tape, SHIFT), 1e-5f), param(tape, COL));
}

static fvg_node *outer_function(fvg_tape *tape, fvg_node *x, void *user) {
  (void)tape;
  return fvg_scale(fvg_recompute(x, some_function, user), 2);
}

static fvg_node *build(fvg_tape *tape, void *user) {
  fvg_node *a = param(tape, A), *b = param(tape, B), *x = param(tape, Q);
  switch (*(int *)user) {
    case 0:  return weigh(fvg_add(a, b));
    case 1:  return weigh(fvg_add(a, param(tape, ROW)));
    case 2:  return weigh(fvg_add(a, param(tape, COL)));
    case 3:  return weigh(fvg_add(a, param(tape, ONE)));
    case 4:  return weigh(fvg_mul(a, b));
    case 5:  return weigh(fvg_mul(a, param(tape, ROW)));
    case 6:  return weigh(fvg_mul(a, param(tape, COL)));
    case 7:  return weigh(fvg_mul(a, param(tape, ONE)));
    case 8:  return weigh(fvg_scale(a, -2.5f));
    case 9:  return weigh(fvg_linear(a, param(tape, W), param(tape, BIAS)));
    case 10: return weigh(fvg_linear(a, param(tape, W), NULL));
    case 11: return weigh(fvg_linear(a, a, NULL));
    case 12: return weigh(fvg_layer_norm(a, param(tape, GAIN), param(tape, SHIFT), 1e-5f));
    case 13: return weigh(fvg_relu(a));
    case 14: return weigh(fvg_gelu(a));
    case 15: return weigh(fvg_quick_gelu(a));
    case 16: return weigh(fvg_sigmoid(a));
    case 17: return weigh(fvg_softmax(a, 0.5f));
    case 18: return weigh(fvg_normalize(a));
    case 19: return weigh(fvg_concat(a, b));
    case 20: return weigh(fvg_concat(a, a));
    case 21: return weigh(fvg_gather(a, repeated, 7));
    case 22: return weigh(fvg_lerp(a, b, param(tape, COL)));
    case 23: return fvg_mean(fvg_mul(a, a));
    case 24: return fvg_sum(fvg_mul(a, a));
    case 25: return fvg_cross_entropy(fvg_scale(a, 3), labels);
    case 26: return weigh(fvg_kl_rows(fvg_softmax(fvg_const(tape, 5, 6, teacher), 1), a, 2));
    case 27: return fvg_bce_with_logits(param(tape, COL), targets, weights);
    case 28: return attend(tape, 1, whole, 1);
    case 29: return attend(tape, 4, causal, 2);
    case 30: return attend(tape, 2, shared_prefix, 3);
    case 31: return attend(tape, 2, shared_whole, 3);
    case 32: return attend(tape, 2, partial, 2);
    case 33: return weigh(fvg_attention(x, x, x, 2, shared_prefix, 3));
    case 34: x = fvg_mul(a, a); return weigh(fvg_add(fvg_mul(x, x), fvg_add(x, a))); /* nodes with several users */
    case 35:
      return fvg_mean(fvg_kl_rows(fvg_softmax(fvg_const(tape, 5, 5, teacher), 2),
                                  fvg_linear(fvg_normalize(a), fvg_normalize(b), NULL), 0.7f));
    case 36: return weigh(fvg_exp(a));
    case 37: return weigh(fvg_mul(a, fvg_exp(param(tape, ONE))));                    /* as CLIP learns its scale */
    case 38: return weigh(fvg_linear_add(a, param(tape, W), param(tape, BIAS), fvg_linear(b, param(tape, W), NULL)));
    case 39: return weigh(fvg_recompute(a, some_function, NULL));
    case 40: x = fvg_recompute(a, some_function, NULL);             /* one within another, and used twice */
      return weigh(fvg_mul(x, fvg_recompute(x, outer_function, NULL)));
  }
  return NULL;
}

static void test_gradients(void) {
  static const char *const name[] = {
    "add", "add [1,d]", "add [n,1]", "add [1,1]", "mul", "mul [1,d]", "mul [n,1]", "mul [1,1]", "scale",
    "linear", "linear without bias", "linear of a node by itself", "layer_norm", "relu", "gelu", "quick_gelu",
    "sigmoid", "softmax", "normalize", "concat", "concat of a node with itself", "gather with repeated rows",
    "lerp", "mean", "sum", "cross_entropy", "kl_rows", "bce_with_logits", "attention, one head",
    "attention, causal", "attention, causal with a shared prefix", "attention, shared prefix",
    "attention, partial queries", "attention of a node by itself", "shared nodes",
    "KL of two normalised inputs", "exp", "exp of a scale", "linear onto another", "recompute",
    "recompute within recompute"
  };
  int i;
  double worst = 0;
  for (i = 0; i < (int)(sizeof name / sizeof *name); i++) {
    char line[120];
    double error = fvg_gradient_check(c, build, &i, list, N_PARAMS, 48, 1e-2f);
    int k, touched = 0;
    for (k = 0; k < 30; k++)
      touched |= data_of(A)[k] != 0 && (p[A].grad[k] != 0 || p[COL].grad[k % 5] != 0 || p[Q].grad[k] != 0);
    if (error > worst) worst = error;
    snprintf(line, sizeof line, "gradient of %s: error %.2g", name[i], error);
    /* attention's smallest gradients drown in f32 noise here: test_attention has the exact comparison */
    check(error >= 0 && error < (i >= 28 && i <= 32 ? 3e-2 : 1e-2) && touched, line);
  }
  printf("gradient checks: worst error %.2e\n", worst);
}

static int nan_at, calls;
static fvg_node *sometimes_nan(fvg_tape *tape, void *user) {
  (void)user;
  return fvg_scale(fvg_sum(param(tape, A)), ++calls == nan_at ? NAN : 1);
}

static void test_gradient_check_itself(void) {
  int none = 999;
  check(fvg_gradient_check(c, build, &none, list, N_PARAMS, 4, 1e-2f) < 0,
        "gradient_check is negative when the function fails");
  for (nan_at = 1; nan_at <= 4; nan_at++) {
    double error = (calls = 0, fvg_gradient_check(c, sometimes_nan, NULL, list, 1, 4, 1e-2f));
    check(!(error >= 0 && error < 1), "gradient_check: a NaN is not forgotten");
  }
}

/* ---- values against double arithmetic ---- */
static double value_error;
static void near(const fvg_node *y, int rows, int cols, double (*expected)(int i, int j), double tolerance,
                 const char *what) {
  double worst = 0;
  int i, j;
  if (fvg_rows(y) != rows || fvg_cols(y) != cols) { check(0, what); return; }
  for (i = 0; i < rows; i++)
    for (j = 0; j < cols; j++) {
      double e = fabs((double)fvg_value(y)[i * cols + j] - expected(i, j));
      if (!(e <= worst)) worst = e;
    }
  if (worst > value_error) value_error = worst;
  check(worst < tolerance, what);
}

static double at(int which, int i, int j) {                           /* with broadcasting */
  return (double)data_of(which)[(shape[which][0] == 1 ? 0 : i) * shape[which][1] + (shape[which][1] == 1 ? 0 : j)];
}
static double row_sum(int which, int i, double (*f)(double x)) {
  double sum = 0;
  int j;
  for (j = 0; j < shape[which][1]; j++) sum += f(at(which, i, j));
  return sum;
}
static double same(double x) { return x; }
static double square(double x) { return x * x; }
static double exp2x(double x) { return exp(2 * x); }
static double phi(double x) { return 0.5 * erfc(-x / sqrt(2.0)); }

static double e_add(int i, int j) { return at(A, i, j) + at(B, i, j); }
static double e_add_row(int i, int j) { return at(A, i, j) + at(ROW, i, j); }
static double e_add_col(int i, int j) { return at(A, i, j) + at(COL, i, j); }
static double e_add_one(int i, int j) { return at(A, i, j) + at(ONE, i, j); }
static double e_mul(int i, int j) { return at(A, i, j) * at(B, i, j); }
static double e_mul_row(int i, int j) { return at(A, i, j) * at(ROW, i, j); }
static double e_mul_col(int i, int j) { return at(A, i, j) * at(COL, i, j); }
static double e_mul_one(int i, int j) { return at(A, i, j) * at(ONE, i, j); }
static double e_scale(int i, int j) { return -2.5 * at(A, i, j); }
static double e_linear(int i, int j) {
  double s = at(BIAS, 0, j);
  int k;
  for (k = 0; k < 6; k++) s += at(A, i, k) * at(W, j, k);
  return s;
}
static double e_norm(int i, int j) {
  double m = row_sum(A, i, same) / 6, v = row_sum(A, i, square) / 6 - m * m;
  return (at(A, i, j) - m) / sqrt(v + 1e-5) * at(GAIN, 0, j) + at(SHIFT, 0, j);
}
static double e_relu(int i, int j) { return at(A, i, j) > 0 ? at(A, i, j) : 0; }
static double e_exp(int i, int j) { return exp(at(A, i, j)); }
static double e_gelu(int i, int j) { return at(A, i, j) * phi(at(A, i, j)); }
static double e_quick(int i, int j) { return at(A, i, j) / (1 + exp(-1.702 * at(A, i, j))); }
static double e_sigmoid(int i, int j) { return 1 / (1 + exp(-at(A, i, j))); }
static double e_softmax(int i, int j) { return exp(2 * at(A, i, j)) / row_sum(A, i, exp2x); }
static double e_unit(int i, int j) { return at(A, i, j) / sqrt(row_sum(A, i, square)); }
static double e_concat(int i, int j) { return i < 5 ? at(A, i, j) : at(B, i - 5, j); }
static double e_gather(int i, int j) { return at(A, repeated[i], j); }
static double e_lerp(int i, int j) { return (1 - at(COL, i, 0)) * at(A, i, j) + at(COL, i, 0) * at(B, i, j); }
static double e_sum(int i, int j) {
  double s = 0;
  (void)j;
  for (i = 0; i < 5; i++) s += row_sum(A, i, same);
  return s;
}
static double e_mean(int i, int j) { return e_sum(i, j) / 30; }
static double e_ce(int i, int j) {
  double s = 0;
  (void)j;
  for (i = 0; i < 5; i++) s += log(row_sum(A, i, exp)) - at(A, i, labels[i]);
  return s / 5;
}
static double e_kl(int i, int j) {
  double s = 0, pb, qa, sum = row_sum(A, i, exp2x);
  for (j = 0; j < 6; j++) {
    pb = exp(at(B, i, j)) / row_sum(B, i, exp);
    qa = exp(2 * at(A, i, j)) / sum;
    s += pb * log(pb / qa);
  }
  return s;
}
static double e_bce(int i, int j) {
  double s = 0, w = 0;
  (void)j;
  for (i = 0; i < 5; i++) {
    double r = 1 / (1 + exp(-at(COL, i, 0)));
    s -= (double)weights[i] * (targets[i] > 0 ? log(r) : log(1 - r));
    w += (double)weights[i];
  }
  return s / w;
}

static void test_values(void) {
  fvg_node *a = param(t, A), *b = param(t, B);
  near(fvg_add(a, b), 5, 6, e_add, 1e-6, "add");
  near(fvg_add(a, param(t, ROW)), 5, 6, e_add_row, 1e-6, "add [1,d]");
  near(fvg_add(a, param(t, COL)), 5, 6, e_add_col, 1e-6, "add [n,1]");
  near(fvg_add(a, param(t, ONE)), 5, 6, e_add_one, 1e-6, "add [1,1]");
  near(fvg_mul(a, b), 5, 6, e_mul, 1e-6, "mul");
  near(fvg_mul(a, param(t, ROW)), 5, 6, e_mul_row, 1e-6, "mul [1,d]");
  near(fvg_mul(a, param(t, COL)), 5, 6, e_mul_col, 1e-6, "mul [n,1]");
  near(fvg_mul(a, param(t, ONE)), 5, 6, e_mul_one, 1e-6, "mul [1,1]");
  near(fvg_scale(a, -2.5f), 5, 6, e_scale, 1e-6, "scale");
  near(fvg_linear(a, param(t, W), param(t, BIAS)), 5, 4, e_linear, 2e-6, "linear");
  near(fvg_layer_norm(a, param(t, GAIN), param(t, SHIFT), 1e-5f), 5, 6, e_norm, 3e-6, "layer_norm");
  near(fvg_relu(a), 5, 6, e_relu, 1e-7, "relu");
  near(fvg_exp(a), 5, 6, e_exp, 1e-6, "exp");
  near(fvg_gelu(a), 5, 6, e_gelu, 1e-6, "gelu");
  near(fvg_quick_gelu(a), 5, 6, e_quick, 1e-6, "quick_gelu");
  near(fvg_sigmoid(a), 5, 6, e_sigmoid, 1e-6, "sigmoid");
  near(fvg_softmax(a, 0.5f), 5, 6, e_softmax, 1e-6, "softmax");
  near(fvg_normalize(a), 5, 6, e_unit, 1e-6, "normalize");
  near(fvg_concat(a, b), 10, 6, e_concat, 1e-9, "concat");
  near(fvg_gather(a, repeated, 7), 7, 6, e_gather, 1e-9, "gather");
  near(fvg_lerp(a, b, param(t, COL)), 5, 6, e_lerp, 1e-6, "lerp");
  near(fvg_sum(a), 1, 1, e_sum, 3e-6, "sum");
  near(fvg_mean(a), 1, 1, e_mean, 1e-6, "mean");
  near(fvg_cross_entropy(a, labels), 1, 1, e_ce, 1e-6, "cross_entropy");
  near(fvg_kl_rows(fvg_softmax(b, 1), a, 0.5f), 5, 1, e_kl, 2e-6, "kl_rows");
  near(fvg_bce_with_logits(param(t, COL), targets, weights), 1, 1, e_bce, 1e-6, "bce_with_logits");
  printf("values: worst error %.2e\n", value_error);
}

/* A temperature that cannot be divided by is an argument that makes no sense, not a row of NaN. */
static void test_temperatures(void) {
  static const float x[4] = {1, 2, 3, 4}, bad[4] = {0, -1, NAN, 1e-39f};
  int i;
  for (i = 0; i < 4; i++) {
    fvg_tape_clear(t);
    check(!fvg_softmax(fvg_const(t, 1, 4, x), bad[i]) && fvg_last_status(c) == FVG_E_ARG &&
              strstr(fvg_error(c), "temperature"), "softmax by no temperature");
    fvg_tape_clear(t);
    check(!fvg_kl_rows(fvg_const(t, 1, 4, x), fvg_const(t, 1, 4, x), bad[i]) && fvg_last_status(c) == FVG_E_ARG,
          "nor kl_rows");
  }
  fvg_tape_clear(t);
}

/* Rows of any length but zero become unit vectors, even where their squares are no normal floats. */
static void test_normalize_extremes(void) {
  static const float x[7][2] = {{3e20f, 4e20f}, {3e-24f, 4e-24f}, {6e-23f, -8e-23f}, {0, 1e-44f}, {3e38f, 3e38f},
                                {0, 0}, {0, INFINITY}};
  static const double want[7][2] = {{0.6, 0.8}, {0.6, 0.8}, {0.6, -0.8}, {0, 1}, {0.70710678, 0.70710678}, {0, 0}};
  fvg_tape_clear(t);
  const float *y = fvg_value(fvg_normalize(fvg_const(t, 7, 2, &x[0][0])));
  int right = y != NULL;
  for (int i = 0; right && i < 12; i++) right = fabs((double)y[i] - want[i / 2][i % 2]) < 1e-6;
  check(right && isnan(y[13]), "normalize: very long and very short rows, zeros, an infinity");
  fvg_tape_clear(t);
}

static void test_special_values(void) {
  const float steep[3] = {-200, 200, -INFINITY};   /* not static: to tcc, this is no constant */
  static const float nan_row[3] = {1, NAN, 2}, zeros[3] = {0, 0, 0}, sharp[2] = {1, 0}, far[2] = {200, -200},
                     q[4] = {500, -500, 500, -500};
  static const float target[4] = {1, 0, 0, 1}, weight[4] = {1, 1, 1, 1};
  fvg_node *x = fvg_const(t, 1, 3, nan_row), *y;
  int i, all = 1;
  check(isnan(fvg_value(fvg_relu(x))[1]) && fvg_value(fvg_relu(x))[0] == 1, "relu of NaN is NaN");
  check(isnan(fvg_value(fvg_sigmoid(x))[1]) && isnan(fvg_value(fvg_gelu(x))[1]) &&
            isnan(fvg_value(fvg_quick_gelu(x))[1]),
        "activations of NaN");
  y = fvg_exp(fvg_const(t, 1, 3, steep));
  check(isnan(fvg_value(fvg_exp(x))[1]) && fvg_value(y)[0] == 0 && isinf(fvg_value(y)[1]) && fvg_value(y)[2] == 0,
        "exp of NaN, of what is too large, and of minus infinity");
  for (i = 0; i < 3; i++) all &= isnan(fvg_value(fvg_softmax(x, 1))[i]) && isnan(fvg_value(fvg_normalize(x))[i]);
  check(all, "softmax and normalize of a row with NaN");
  check(isnan(fvg_value(fvg_sum(x))[0]) && isnan(fvg_value(fvg_cross_entropy(x, labels))[0]),
        "sum and cross entropy of NaN");
  check(isnan(fvg_value(fvg_kl_rows(x, fvg_const(t, 1, 3, zeros), 1))[0]), "KL from a teacher with NaN is NaN");
  y = fvg_normalize(fvg_const(t, 1, 3, zeros));
  check(fvg_value(y)[0] == 0 && fvg_value(y)[2] == 0, "a row of zeros stays zero");
  y = fvg_kl_rows(fvg_const(t, 1, 2, sharp), fvg_const(t, 1, 2, far), 2);
  check(fabsf(fvg_value(y)[0]) < 1e-5f, "KL of equal sharp distributions is 0: 0 ln 0 = 0");
  y = fvg_kl_rows(fvg_const(t, 1, 2, sharp), fvg_scale(fvg_const(t, 1, 2, far), -1), 2);
  check(fabsf(fvg_value(y)[0] - 200) < 1e-3f, "KL of opposite sharp distributions is finite and right");
  y = fvg_bce_with_logits(fvg_const(t, 4, 1, q), target, weight);
  check(fvg_value(y)[0] == 250, "BCE of logits +-500 neither overflows nor loses");
  y = fvg_bce_with_logits(fvg_const(t, 3, 1, q), target, zeros);
  check(fvg_value(y)[0] == 0, "BCE without weights is 0");
}

/* ---- attention against plain double code: values, and gradients by differences of that ---- */
static void plain_attention(const double *q, const double *k, const double *v, int width, int n_head,
                            const fvg_segment *s, int n, double *out) {
  int d = width / n_head, i, j, h, row, e;
  double score[512];
  for (i = 0; i < n; i++)
    for (row = 0; row < s[i].n_query; row++)
      for (h = 0; h < n_head; h++) {
        const double *x = q + (s[i].query + row) * width + h * d;
        int own = s[i].causal ? s[i].n_key - s[i].n_query + row + 1 : s[i].n_key, keys = s[i].n_prefix + own;
        double sum = 0, *o = out + (s[i].query + row) * width + h * d;
        for (e = 0; e < d; e++) o[e] = 0;
        for (j = 0; j < keys; j++) {
          const double *y = k + (j < s[i].n_prefix ? s[i].prefix + j : s[i].key + j - s[i].n_prefix) * width + h * d;
          for (score[j] = 0, e = 0; e < d; e++) score[j] += x[e] * y[e] / sqrt((double)d);
          sum += score[j] = exp(score[j]);
        }
        for (j = 0; j < keys; j++)
          for (e = 0; e < d; e++)
            o[e] += score[j] / sum *
                    v[(j < s[i].n_prefix ? s[i].prefix + j : s[i].key + j - s[i].n_prefix) * width + h * d + e];
      }
}

enum { MAX_ATTENTION = 4096 };
static double attention_worst, attention_gradient_worst;

static void test_attention(int q_rows, int k_rows, int width, int n_head, const fvg_segment *s, int n,
                           const char *what) {
  static double x[3][MAX_ATTENTION], out[MAX_ATTENTION], mirror[MAX_ATTENTION];
  fvg_parameter in[3];
  fvg_node *y;
  double worst = 0, gradient = 0, largest = 0;
  int i, j, count = q_rows * width, dim[2];
  dim[0] = q_rows;
  dim[1] = width;
  for (i = 0; i < 3; i++, dim[0] = k_rows) {
    if (fvg_parameter_new(c, &in[i], "x", 2, dim)) { check(0, what); return; }
    for (j = 0; j < dim[0] * width; j++) x[i][j] = (double)(((float *)in[i].value.data)[j] = uniform(-2, 2));
  }
  fvg_tape_clear(t);
  y = fvg_attention(fvg_param(t, &in[0]), fvg_param(t, &in[1]), fvg_param(t, &in[2]), n_head, s, n);
  check(fvg_backward(weigh(y)) == FVG_OK, what);
  plain_attention(x[0], x[1], x[2], width, n_head, s, n, out);
  for (i = 0; i < count; i++) worst = fmax(worst, fabs((double)fvg_value(y)[i] - out[i]));
  for (i = 0; i < 3; i++) {
    int size = (i ? k_rows : q_rows) * width, stride = 1 + size / 41;
    for (j = 0; j < size; j++) largest = fmax(largest, fabs((double)in[i].grad[j]));
    for (j = 0; j < size; j += stride) {
      double h = 1e-5, difference = 0;
      int e;
      x[i][j] += h;
      plain_attention(x[0], x[1], x[2], width, n_head, s, n, out);
      x[i][j] -= 2 * h;
      plain_attention(x[0], x[1], x[2], width, n_head, s, n, mirror);
      x[i][j] += h;
      for (e = 0; e < count; e++)
        difference += (double)((float)sin(0.7 * e + 1) + 0.3f) * (out[e] - mirror[e]) / (2 * h);
      gradient = fmax(gradient, fabs(difference - (double)in[i].grad[j]));
    }
  }
  attention_worst = fmax(attention_worst, worst);
  attention_gradient_worst = fmax(attention_gradient_worst, gradient / largest);
  check(worst < 5e-6 && gradient < 5e-6 * largest, what);
  for (i = 0; i < 3; i++) fvg_parameter_free(c, &in[i]);
}

static void test_attentions(void) {
  static const fvg_segment lengths[] = {{0, 50, 0, 50, 0, 0, 0}, {50, 33, 50, 33, 0, 0, 0}, {83, 1, 83, 1, 0, 0, 0}};
  static const fvg_segment large[] = {{0, 40, 20, 280, 0, 20, 0},
                                      {40, 37, 20, 280, 0, 10, 1}}; /* beyond 32 queries, 256 keys */
  fvg_segment many[40];
  int i;
  for (i = 0; i < 40; i++) {                                          /* a prefix of 5, then 39 texts of 2 rows */
    many[i].query = many[i].key = i ? 3 + 2 * i : 0;
    many[i].n_query = many[i].n_key = i ? 2 : 5;
    many[i].prefix = 0;
    many[i].n_prefix = i ? 5 : 0;
    many[i].causal = 1;
  }
  test_attention(6, 6, 8, 2, whole, 1, "attention: whole");
  test_attention(6, 6, 8, 4, causal, 2, "attention: causal");
  test_attention(6, 6, 8, 2, shared_prefix, 3, "attention: causal with a shared prefix");
  test_attention(6, 6, 12, 3, shared_whole, 3, "attention: shared prefix, not causal");
  test_attention(6, 6, 8, 1, partial, 2, "attention: partial queries and more queries than keys");
  test_attention(84, 84, 14, 2, lengths, 3, "attention: three lengths");
  test_attention(77, 300, 6, 3, large, 2, "attention: many queries and keys");
  test_attention(83, 83, 10, 5, many, 40, "attention: many texts after one prefix");
  printf("attention: worst value %.2e, worst gradient %.2e of the largest\n", attention_worst,
         attention_gradient_worst);
}

/* ---- wrong use ---- */
static fvg_mark before_refusal;

static void refused(const fvg_node *y, const char *one, const char *other, const char *what) {
  int ok = y == NULL && strstr(fvg_error(c), one) && strstr(fvg_error(c), other) && !strchr(fvg_error(c), '\n');
  check(ok, what);
  if (!ok) printf("  message: %s\n", fvg_error(c));
  c->message[0] = 0;
  fvg_tape_reset(t, before_refusal);             /* a tape on which a node has failed makes no more until then      */
}

static void test_wrong_shapes(void) {
  fvg_node *a = param(t, A), *w = param(t, W), *q = param(t, Q), *k = param(t, K), *col = param(t, COL),
           *row = param(t, ROW);
  fvg_segment s = {0, 6, 0, 6, 0, 0, 0};
  int rows[2] = {1, 5}, bad_label[5] = {0, 1, 2, 3, 6}, negative[5] = {0, 0, -1, 0, 0};
  fvg_node *bias = param(t, BIAS);
  before_refusal = fvg_tape_mark(t);
  refused(fvg_add(a, w), "[5,6]", "[4,6]", "add refuses other shapes");
  refused(fvg_add(row, a), "[1,6]", "[5,6]", "add does not broadcast its first operand");
  refused(fvg_mul(a, q), "[5,6]", "[6,8]", "mul refuses other shapes");
  refused(fvg_linear(a, q, NULL), "[5,6]", "[6,8]", "linear refuses other widths");
  refused(fvg_linear(a, w, row), "[4,6]", "[1,6]", "linear refuses a bias of another size");
  refused(fvg_layer_norm(a, bias, row, 1e-5f), "[5,6]", "[1,4]", "layer_norm refuses a gain of another size");
  refused(fvg_layer_norm(a, row, bias, 1e-5f), "[5,6]", "[1,4]", "layer_norm refuses a bias of another size");
  refused(fvg_concat(a, q), "[5,6]", "[6,8]", "concat refuses other widths");
  refused(fvg_lerp(a, w, col), "[5,6]", "[4,6]", "lerp refuses other shapes");
  refused(fvg_lerp(a, a, row), "[5,6]", "[1,6]", "lerp refuses a weight that is no column");
  refused(fvg_kl_rows(a, w, 1), "[5,6]", "[4,6]", "kl_rows refuses other shapes");
  refused(fvg_bce_with_logits(a, targets, weights), "[n,1]", "[5,6]", "bce_with_logits refuses a matrix");
  refused(fvg_gather(a, rows, 2), "row 5", "5 rows", "gather refuses a row beyond the end");
  refused(fvg_gather(a, negative, 5), "row -1", "5 rows", "gather refuses a negative row");
  refused(fvg_gather(a, rows, 0), "[0,6]", "no elements", "gather of no rows");
  refused(fvg_cross_entropy(a, bad_label), "label 6", "6 classes",
          "cross_entropy refuses a label beyond the classes");
  refused(fvg_cross_entropy(a, negative), "label -1", "6 classes", "cross_entropy refuses a negative label");
  refused(fvg_attention(q, a, a, 2, &s, 1), "[6,8]", "[5,6]", "attention refuses other widths");
  refused(fvg_attention(q, k, a, 2, &s, 1), "[6,8]", "[5,6]", "attention refuses values of another shape");
  refused(fvg_attention(q, k, k, 3, &s, 1), "width 8", "3 heads",
          "attention refuses heads that do not divide the width");
  s.n_key = 7;
  refused(fvg_attention(q, k, k, 2, &s, 1), "keys 0+7", "6 key rows", "attention refuses keys beyond the end");
  s.n_key = 6;
  s.prefix = 2147483647;
  s.n_prefix = 1;
  refused(fvg_attention(q, k, k, 2, &s, 1), "prefix 2147483647+1", "6 key rows",
          "attention refuses a prefix beyond the end");
  s.prefix = s.n_prefix = 0;
  s.n_query = 5;
  refused(fvg_attention(q, k, k, 2, &s, 1), "5 queries", "6 rows", "attention refuses queries without a segment");
  refused(fvg_attention(q, k, k, 2, &s, 0), "0 queries", "6 rows", "attention refuses to have no segments");
  s.n_query = 6;
  s.n_key = 4;
  s.causal = 1;
  refused(fvg_attention(q, k, k, 2, &s, 1), "queries 0+6", "keys 0+4",
          "causal attention refuses more queries than keys");
  s.n_key = 5;
  refused(fvg_attention(q, k, k, 2, &s, 1), "queries 0+6", "keys 0+5", "even one query more");
  {
    static const fvg_segment gap[3] = {{0, 2, 0, 6, 0, 0, 0}, {4, 2, 0, 6, 0, 0, 0},
                                       {4, 2, 0, 6, 0, 0, 0}};
    refused(fvg_attention(q, k, k, 2, gap, 3), "segment 1 starts at query 4", "ended at 2",
            "attention refuses a gap between segments, though their lengths add up");
  }
  refused(fvg_zeros(t, 0, 3), "[0,3]", "no elements", "zeros refuses no rows");
  check(fvg_backward(a) == FVG_E_SHAPE && strstr(fvg_error(c), "[5,6]"),
        "backward refuses what is no scalar, with its shape");
}

static void test_nothing_from_nothing(void) {
  fvg_node *a = param(t, A);
  check(!fvg_add(NULL, a) && !fvg_add(a, NULL) && !fvg_mul(NULL, a) && !fvg_scale(NULL, 1) &&
            !fvg_linear(NULL, a, NULL) && !fvg_linear(a, NULL, NULL) && !fvg_layer_norm(NULL, a, a, 1) &&
            !fvg_layer_norm(a, a, NULL, 1) && !fvg_relu(NULL) && !fvg_gelu(NULL) && !fvg_quick_gelu(NULL) &&
            !fvg_sigmoid(NULL) && !fvg_softmax(NULL, 1) && !fvg_normalize(NULL) && !fvg_concat(a, NULL) &&
            !fvg_concat(NULL, a) && !fvg_gather(NULL, labels, 1) && !fvg_lerp(a, a, NULL) && !fvg_lerp(NULL, a, a) &&
            !fvg_mean(NULL) && !fvg_sum(NULL) && !fvg_detach(NULL) && !fvg_cross_entropy(NULL, labels) &&
            !fvg_kl_rows(NULL, a, 1) && !fvg_kl_rows(a, NULL, 1) && !fvg_bce_with_logits(NULL, targets, weights) &&
            !fvg_attention(a, NULL, a, 1, whole, 1) && !fvg_const(NULL, 1, 1, targets) && !fvg_zeros(NULL, 1, 1) &&
            !fvg_param(NULL, &p[A]) && fvg_rows(NULL) == 0 && fvg_cols(NULL) == 0 && !fvg_value(NULL) &&
            !fvg_grad(NULL) && !fvg_fill(NULL),
        "NULL in, NULL out");
  check(fvg_backward(NULL) != FVG_OK, "backward of NULL is an error");
}

/* Bytes that attention over 12 heads takes in a context that asks for this many threads. */
static size_t attention_peak(int n_threads) {
  static float x[300 * 24];
  static const fvg_segment all = {0, 300, 0, 300, 0, 0, 0};
  fvg_desc d;
  fvg_ctx *k;
  memset(&d, 0, sizeof d);
  d.n_threads = n_threads;
  if (fvg_init(&k, &d)) return 0;
  fvg_tape *own = fvg_tape_new(k);
  fvg_node *q = fvg_const(own, 300, 24, x);
  check(fvg_attention(q, q, q, 12, &all, 1) != NULL, "attention");
  size_t peak = fvg_mem_peak(k);
  fvg_tape_free(own);
  fvg_free(k);
  return peak;
}

/* This program has no pool of threads, so asking for some must not cost their scratch memory. */
static void test_scratch_without_threads(void) {
  check(attention_peak(1) > 0 && attention_peak(8) == attention_peak(1), "scratch memory for the threads that exist");
}

/* A NULL operand beside one that is not, and an array that is missing, leave a message; but if the NULL comes from a
   failure, the message of that failure stays. */
static int says(const fvg_node *y, const char *text) {
  int ok = !y && fvg_last_status(c) == FVG_E_ARG && strstr(fvg_error(c), text) != NULL;
  if (!ok) printf("  %s: %s\n", text, fvg_error(c));
  fvg_tape_clear(t);
  return ok;
}

static void test_null_operands(void) {
#define NODE param(t, A)
  fvg_transformer none;
  fvg_tensor deep;
  static float x[2] = {1, 2};
  memset(&none, 0, sizeof none);
  memset(&deep, 0, sizeof deep);
  deep.data = x;
  fvg_tape_clear(t);
  check(says(fvg_add(NULL, NODE), "add: operand 1 is NULL") && says(fvg_add(NODE, NULL), "add: operand 2 is NULL"), "add");
  check(says(fvg_mul(NULL, NODE), "mul: operand 1") && says(fvg_mul(NODE, NULL), "mul: operand 2"), "mul");
  check(says(fvg_linear(NULL, NODE, NULL), "linear: operand 1") && says(fvg_linear(NODE, NULL, NULL), "linear: operand 2"),
        "linear");
  check(says(fvg_layer_norm(NODE, NULL, NODE, 1), "layer_norm: operand 2") &&
            says(fvg_layer_norm(NULL, NULL, NODE, 1), "layer_norm: operand 1") &&
            says(fvg_layer_norm(NODE, NODE, NULL, 1), "layer_norm: operand 3"), "layer_norm");
  check(says(fvg_concat(NODE, NULL), "concat: operand 2") && says(fvg_concat(NULL, NODE), "concat: operand 1"), "concat");
  check(says(fvg_lerp(NODE, NODE, NULL), "lerp: operand 3"), "lerp");
  check(says(fvg_kl_rows(NODE, NULL, 1), "kl_rows: operand 2") && says(fvg_kl_rows(NULL, NODE, 1), "kl_rows: operand 1"),
        "kl_rows");
  check(says(fvg_attention(NODE, NULL, NODE, 1, whole, 1), "attention: operand 2"), "attention");
  check(says(fvg_attention(NODE, NODE, NODE, 1, NULL, 1), "the list of segments must be given"), "no segments");
  check(says(fvg_const(t, 1, 1, NULL), "the array of values must be given"), "no values");
  check(says(fvg_frozen(t, NULL), "the tensor must be given") && says(fvg_param(t, NULL), "the parameter must be given"), "no tensor");
  check(says(fvg_recompute(NODE, NULL, NULL), "the function must be given"), "no function");
  check(says(fvg_gather(NODE, NULL, 1), "the list of rows must be given"), "no rows");
  check(says(fvg_cross_entropy(NODE, NULL), "the list of labels must be given"), "no labels");
  check(says(fvg_bce_with_logits(NODE, NULL, weights), "the target must be given") &&
            says(fvg_bce_with_logits(NODE, targets, NULL), "the weight must be given"), "no targets or weights");
  check(says(fvg_transform(NODE, NULL, whole, 1, NULL, 0), "the transformer must be given") &&
            says(fvg_transform(NODE, &none, NULL, 1, NULL, 0), "the list of segments must be given"), "no transformer");
  deep.n_dim = FVG_MAX_DIM + 1;
  check(!fvg_frozen(t, &deep) && fvg_last_status(c) == FVG_E_SHAPE && strstr(fvg_error(c), "7 dimensions"), "7 dimensions");
  fvg_tape_clear(t);
  if (sizeof(size_t) > 4) {                                          /* with 32 bits no such node can be made */
    const int many = INT_MAX / 2 + 1;                                /* values that are never read */
    check(!fvg_concat(fvg_const(t, many, 1, x), fvg_const(t, many, 1, x)) && fvg_last_status(c) == FVG_E_SHAPE,
          "rows that no int can count");
    fvg_tape_clear(t);
  }
  check(!fvg_add(NODE, fvg_softmax(NODE, -1)) && strstr(fvg_error(c), "temperature"), "the first failure's message stays");
  fvg_tape_clear(t);
#undef NODE
}

/* The functions that return a status, with NULL where something is needed. */
static void test_null_arguments(void) {
  fvg_parameter made;
  fvg_parameter *list[2] = {NULL, NULL};
  fvg_optimizer *o = (fvg_optimizer *)&made;
  const int dim = 2;
  int i;
  list[0] = &p[A];
  const struct { fvg_status status; const char *what; } call[] = {
    {fvg_parameter_new(c, NULL, "x", 1, &dim), "a parameter to nowhere"},
    {fvg_parameter_new(c, &made, "x", 1, NULL), "a parameter without a shape"},
    {fvg_copy_string(c, NULL) ? FVG_OK : fvg_last_status(c), "no text to copy"},
    {fvg_tensor_pack(c, NULL), "no tensor to pack"},
    {fvg_tensor_unpack(c, NULL), "no tensor to unpack"},
    {fvg_optimizer_new(c, NULL, list, 1, NULL), "an optimiser to nowhere"},
    {fvg_optimizer_new(c, &o, NULL, 1, NULL), "an optimiser without a list"},
    {fvg_optimizer_new(c, &o, list, 2, NULL), "an optimiser without its second parameter"},
    {fvg_backward(NULL), "no loss"},
    {fvg_gradient_check(c, NULL, NULL, list, 1, 1, 1) < 0 ? FVG_E_ARG : FVG_OK, "no function to check"},
  };
  for (i = 0; i < (int)(sizeof call / sizeof *call); i++) check(call[i].status == FVG_E_ARG, call[i].what);
  check(!made.value.data && !made.grad && !o, "what was to be made is zero");
  check(!fvg_parameter_new(c, &made, NULL, 1, &dim) && !strcmp(made.name, "parameter"), "a parameter without a name");
  fvg_parameter_free(c, &made);
  fvg_parameter_free(c, NULL);
  fvg_optimizer_free(NULL);
  fvg_tape_free(NULL);
  fvg_tensor_free(c, NULL);
}

/* A bias that could not be built must not be taken for "no bias": the failure has to reach the end of the chain. */
static void test_failed_bias(void) {
  fvg_node *a = param(t, A), *w = param(t, W);
  fvg_mark mark = fvg_tape_mark(t);
  check(fvg_linear(a, w, fvg_add(param(t, BIAS), a)) == NULL, "linear with a bias that failed is NULL");
  fvg_tape_reset(t, mark);
  check(fvg_linear(a, w, NULL) != NULL, "linear without a bias works, also after a failure that was reset");
}

static void test_half_weights(void) {
  static uint16_t half[60]; /* twice what is needed: an unchecked read stays inside */
  float x[6], w[30], expected[4];
  fvg_tensor f16, bias;
  fvg_node *a, *y, *frozen;
  double worst = 0;
  int i, k;
  memset(&f16, 0, sizeof f16);
  f16.data = half;
  f16.n_dim = 2;
  f16.dim[0] = 4;
  f16.dim[1] = 6;
  f16.type = FVG_F16;
  for (i = 0; i < 24; i++) { half[i] = fvg_float_to_half(uniform(-1, 1)); w[i] = fvg_half_to_float(half[i]); }
  for (i = 0; i < 6; i++) x[i] = uniform(-1, 1);
  y = fvg_linear(a = fvg_const(t, 1, 6, x), frozen = fvg_frozen(t, &f16), NULL);
  for (i = 0; i < 4; i++) for (expected[i] = 0, k = 0; k < 6; k++) expected[i] += x[k] * w[i * 6 + k];
  for (i = 0; y && i < 4; i++) worst = fmax(worst, fabs((double)(fvg_value(y)[i] - expected[i])));
  check(y && worst < 1e-6, "f16 weights in linear");
  y = fvg_sum(fvg_mul(fvg_linear(param(t, A), frozen, NULL), fvg_linear(param(t, A), frozen, NULL)));
  check(fvg_backward(y) == FVG_OK, "a gradient passes through f16 weights");
  before_refusal = fvg_tape_mark(t);
  refused(fvg_add(fvg_zeros(t, 4, 6), frozen), "F16", "linear", "add refuses f16");
  refused(fvg_mul(fvg_zeros(t, 4, 6), frozen), "F16", "linear", "mul refuses f16");
  refused(fvg_relu(frozen), "F16", "linear", "relu refuses f16");
  refused(fvg_concat(frozen, frozen), "F16", "linear", "concat refuses f16");
  refused(fvg_softmax(fvg_detach(frozen), 1), "F16", "linear", "softmax refuses f16");
  bias = f16;
  bias.n_dim = 1;
  bias.dim[0] = 4;
  refused(fvg_linear(a, frozen, fvg_frozen(t, &bias)), "F16", "linear", "an f16 bias is refused");
  f16.type = FVG_I32;
  refused(fvg_frozen(t, &f16), "floats", "frozen", "an integer tensor is refused");
}

/* Rows stored in halves come out of gather as floats, and gradients pass them by. */
static void test_half_rows(void) {
  static const int row[6] = {3, 0, 3, 1, 3, 2}, beyond[1] = {4};
  static uint16_t half[2][24];
  fvg_tensor x;
  fvg_node *y, *rows;
  int type, i, k, ok;
  memset(&x, 0, sizeof x);
  x.n_dim = 2;
  x.dim[0] = 4;
  x.dim[1] = 6;
  for (i = 0; i < 24; i++) {
    half[0][i] = fvg_float_to_half(uniform(-1, 1));
    half[1][i] = fvg_float_to_bfloat(uniform(-1, 1));
  }
  for (type = 0; type < 2; type++) {
    x.data = half[type];
    x.type = type ? FVG_BF16 : FVG_F16;
    y = fvg_gather(rows = fvg_frozen(t, &x), row, 6);
    check(y && fvg_rows(y) == 6 && fvg_cols(y) == 6, type ? "gather from bf16" : "gather from f16");
    for (ok = 1, i = 0; y && i < 36; i++) {
      uint16_t h = half[type][row[i / 6] * 6 + i % 6];
      ok &= fvg_value(y)[i] == (type ? fvg_bfloat_to_float(h) : fvg_half_to_float(h));
    }
    check(y && ok, "gives the rows' values exactly");
    memset(p[A].grad, 0, 30 * sizeof(float));
    ok = fvg_backward(fvg_sum(fvg_mul(fvg_gather(param(t, A), repeated, 6), y))) == FVG_OK && !fvg_grad(rows);
    for (i = 0; ok && i < 30; i++) {
      float expected = 0;
      for (k = 0; k < 6; k++) if (repeated[k] == i / 6) expected += fvg_value(y)[k * 6 + i % 6];
      ok &= fabsf(p[A].grad[i] - expected) < 1e-6f;
    }
    check(ok, "and the other operand its gradient");
    before_refusal = fvg_tape_mark(t);
    refused(fvg_gather(rows, beyond, 1), "gather", "4", "a row beyond the halves");
  }
}

/* ---- gradients: who gets one ---- */
static void test_who_gets_a_gradient(void) {
  fvg_node *a, *frozen, *hidden, *x;
  float *grad = p[A].grad;
  int i, ok = 1;
  for (i = 0; i < N_PARAMS; i++) memset(p[i].grad, 0, (size_t)(shape[i][0] * shape[i][1]) * 4);
  a = param(t, A);
  frozen = fvg_frozen(t, &p[B].value);
  hidden = fvg_relu(frozen);
  x = fvg_sum(fvg_mul(fvg_add(a, hidden), frozen));
  check(fvg_backward(x) == FVG_OK && !fvg_grad(frozen) && !fvg_grad(hidden),
        "frozen inputs and what follows from them get no gradient");
  for (i = 0; i < 30; i++) ok &= grad[i] == data_of(B)[i];
  check(ok && fvg_grad(a) == grad, "the parameter's gradient is in p->grad and in fvg_grad");
  check(fvg_backward(fvg_sum(fvg_mul(param(t, A), frozen))) == FVG_OK && grad[7] == 2 * data_of(B)[7],
        "a second backward adds to p->grad");
  memset(grad, 0, 120);
  a = param(t, A);
  check(fvg_backward(fvg_sum(fvg_mul(fvg_detach(a), a))) == FVG_OK && grad[3] == data_of(A)[3],
        "detach stops the gradient");
  memset(grad, 0, 120);
  check(fvg_backward(fvg_sum(fvg_add(param(t, A), param(t, A)))) == FVG_OK && grad[0] == 2 && grad[29] == 2,
        "two nodes of one parameter add up");
  check(fvg_backward(fvg_sum(frozen)) == FVG_E_ARG, "a loss without parameters is an error");
  check(fvg_backward(fvg_scale(fvg_sum(param(t, A)), NAN)) == FVG_E_NUMERIC, "a NaN loss is an error");
  check(fvg_backward(fvg_scale(fvg_sum(param(t, A)), INFINITY)) == FVG_E_NUMERIC, "an infinite loss is an error");
  memset(grad, 0, 120);
  memset(data_of(A), 0, 24);
  check(
      fvg_backward(weigh(fvg_normalize(param(t, A)))) == FVG_OK && grad[0] == 0 && grad[6] != 0 && isfinite(grad[5]),
      "a row of zeros passes no gradient");
}

/* ---- the tape's memory ---- */
static long allocations;
static void *count_alloc(void *user, size_t n) { (void)user; allocations++; return malloc(n); }
static void count_release(void *user, void *x, size_t n) { (void)user; (void)n; free(x); }

static void training_pass(fvg_tape *tape, fvg_parameter *w) {
  fvg_mark mark;
  fvg_node *x;
  int i;
  fvg_tape_clear(tape);
  x = fvg_zeros(tape, 700, 300);                                      /* 840 kB each: several chunks, some overlong */
  for (i = 0; i < 6; i++) {
    mark = fvg_tape_mark(tape);
    x = fvg_tape_keep(tape, mark, fvg_add(fvg_concat(x, x), fvg_concat(x, x)));
    x = fvg_gather(x, labels, 5);
    x = fvg_concat(fvg_concat(x, x), fvg_zeros(tape, 690 - 100 * i, 300));
  }
  x = fvg_linear(x, fvg_param(tape, w), NULL);
  check(fvg_backward(fvg_sum(fvg_mul(x, x))) == FVG_OK, "a training pass");
}

static void test_tape_memory(void) {
  fvg_desc d;
  fvg_ctx *k;
  fvg_tape *tape;
  fvg_parameter w;
  long first;
  size_t used;
  int i, dim[2] = {40, 300};
  memset(&d, 0, sizeof d);
  d.allocator.alloc = count_alloc;
  d.allocator.release = count_release;
  check(fvg_init(&k, &d) == FVG_OK && fvg_parameter_new(k, &w, "w", 2, dim) == FVG_OK, "init");
  tape = fvg_tape_new(k);
  training_pass(tape, &w);
  training_pass(tape, &w); /* keep and long nodes: settled after two passes */
  first = allocations;
  used = fvg_mem_used(k);
  for (i = 0; i < 4; i++) training_pass(tape, &w);
  check(FVG__SEPARATE_BLOCKS || allocations == first, "a training loop soon allocates nothing");
  check(fvg_mem_used(k) == used, "and holds the same memory");
  fvg_tape_free(tape);
  fvg_parameter_free(k, &w);
  check(fvg_mem_used(k) == 0, "free gives all back");
  fvg_free(k);
}

static void test_keep_and_reset(void) {
  static float numbers[300000];
  fvg_mark mark, start = fvg_tape_mark(t);
  fvg_node *x, *y, *kept;
  int i, ok = 1;
  for (i = 0; i < 300000; i++) numbers[i] = (float)i;
  x = fvg_const(t, 3, 100000, numbers);
  mark = fvg_tape_mark(t);
  for (y = x, i = 0; i < 5; i++) y = fvg_scale(y, 2);
  kept = fvg_tape_keep(t, mark, y);
  for (i = 0; i < 300000; i++) ok &= fvg_value(kept)[i] == 32 * numbers[i];
  check(ok && fvg_rows(kept) == 3 && fvg_cols(kept) == 100000, "keep saves a large result over what made it");
  kept = fvg_tape_keep(t, mark, fvg_scale(kept, 0.5f));
  for (i = 0; i < 300000; i++) ok &= fvg_value(kept)[i] == 16 * numbers[i];
  kept = fvg_tape_keep(t, mark, fvg_scale(fvg_gather(kept, labels, 1), 2));
  for (i = 0; i < 100000; i++) ok &= fvg_value(kept)[i] == 32 * numbers[i];
  check(ok, "keep again, and a smaller result");
  mark = fvg_tape_mark(t);
  y = fvg_scale(param(t, A), 3);
  check(fvg_tape_keep(t, mark, y) == y && fvg_tape_keep(t, mark, NULL) == NULL,
        "keep leaves alone what a gradient passes through");
  check(fvg_backward(fvg_sum(y)) == FVG_OK, "and backward still works there");
  y = fvg_zeros(t, 2, 2);
  fvg_fill(y)[3] = 4;
  check(fvg_value(y)[3] == 4 && fvg_value(y)[0] == 0 && !fvg_fill(x) && !fvg_fill(fvg_scale(y, 2)),
        "fill is for nodes of zeros only");
  fvg_tape_reset(t, start);
  check(t->last == start.last && fvg_tape_mark(t).position == start.position, "reset returns to the mark");
}

/* A node that is told to keep its gradient has it after backward, whatever else asks for memory of
   that size; another node has given its gradient away. */
static void test_keep_grad(void) {
  fvg_mark start = fvg_tape_mark(t);
  fvg_node *x = param(t, A), *kept, *passing, *y;
  const float *g;
  int i, ok = 1;
  kept = fvg_mul(x, fvg_const(t, 5, 6, teacher));
  passing = fvg_scale(kept, 2);
  y = fvg_scale(fvg_mul(passing, passing), 0.5f);
  fvg_keep_grad(kept);
  check(fvg_backward(fvg_sum(y)) == FVG_OK, "backward past a node that keeps its gradient");
  g = fvg_grad(kept);
  for (i = 0; g && i < 30; i++) {
    double expected = 4 * (double)teacher[i] * (double)data_of(A)[i];   /* d/dk of (2 k)^2 / 2 */
    ok &= fabs((double)g[i] - expected) <= 1e-5 * (1 + fabs(expected));
  }
  check(g && ok, "the gradient that was kept is right");
  check(!fvg_grad(passing), "a node that was not told to keep its gradient has none afterwards");
  fvg_tape_reset(t, start);
}

/* After a failure a tape makes no node, also when fvg_tape_keep has returned to an earlier mark. */
static void test_keep_after_failure(void) {
  static const float numbers[6] = {1, 2, 3, 4, 5, 6};
  fvg_mark start = fvg_tape_mark(t), mark;
  fvg_node *x, *y, *kept;
  x = fvg_const(t, 2, 3, numbers);
  mark = fvg_tape_mark(t);
  y = fvg_scale(x, 2);
  check(!fvg_linear(x, x, x) && fvg_last_status(c) == FVG_E_SHAPE, "a failure");
  kept = fvg_tape_keep(t, mark, y);
  check(!fvg_scale(x, 3) && (!kept || fvg_backward(fvg_sum(kept)) != FVG_OK),
        "a tape that has failed has still failed after fvg_tape_keep");
  fvg_tape_reset(t, start);
  check(fvg_scale(fvg_const(t, 2, 3, numbers), 3) != NULL, "until it is reset");
  fvg_tape_reset(t, start);
}

/* Recomputing changes neither value nor gradient by a bit, and keeps less. */
static fvg_node *five_gelus(fvg_tape *tape, fvg_node *x, void *user) {
  int i;
  (void)tape;
  (void)user;
  for (i = 0; i < 5; i++) x = fvg_gelu(fvg_scale(x, 1.5f));
  return x;
}

static int other_shape;
static fvg_node *identity(fvg_tape *tape, fvg_node *x, void *user) { (void)tape; (void)user; return x; }
static fvg_node *nothing_at_all(fvg_tape *tape, fvg_node *x, void *user) {
  (void)tape;
  (void)x;
  (void)user;
  return NULL;
}
static fvg_node *changing(fvg_tape *tape, fvg_node *x, void *user) {
  int first = 0;
  (void)tape;
  return (*(int *)user)++ ? fvg_gather(x, &first, 1) : fvg_gelu(x);
}

/* Nothing inside a recomputed function needs a gradient at first, not even what a parameter that it
   takes from outside is added to; so only the result stays on the tape. */
static fvg_node *added_to_parameter(fvg_tape *tape, fvg_node *x, void *user) {
  static float weight[50 * 50];
  for (int i = 0; i < 50 * 50; i++) weight[i] = (float)(0.01 * (i % 7));
  for (int i = 0; i < 4; i++) {
    fvg_node *r = fvg_param(tape, (fvg_parameter *)user);
    x = fvg_linear_add(x, fvg_const(tape, 50, 50, weight), NULL, r);
  }
  return x;
}

/* A node from outside that needs a gradient could not get it; one that needs none may be used. */
static fvg_node *uses_outside(fvg_tape *tape, fvg_node *x, void *user) {
  (void)tape;
  return fvg_mul(x, (fvg_node *)user);
}

static fvg_node *adds_outside(fvg_tape *tape, fvg_node *x, void *user) {
  static const float square[6 * 6] = {1, 2, 3};
  return fvg_linear_add(x, fvg_const(tape, 6, 6, square), NULL, (fvg_node *)user);
}

static fvg_node *nested_outside(fvg_tape *tape, fvg_node *x, void *user) {
  (void)tape;
  (void)user;
  return fvg_recompute(x, uses_outside, fvg_gelu(x));
}

static void test_recompute_from_outside(void) {
  for (int i = 0; i < 4; i++) {
    fvg_tape_clear(t);
    fvg_node *a = fvg_gelu(param(t, A)), *outside = i == 2 ? fvg_detach(fvg_gelu(a)) : fvg_gelu(a), *y;
    if (i == 1) y = fvg_recompute(a, adds_outside, outside);
    else y = fvg_recompute(a, i == 3 ? nested_outside : uses_outside, outside);
    if (i == 2) check(y && !fvg_backward(fvg_sum(y)), "a node from outside that needs no gradient may be used");
    else if (i == 3) check(y != NULL, "without gradients nothing is from outside yet");
    else check(!y && fvg_last_status(c) == FVG_E_ARG && strstr(fvg_error(c), "from outside"), "a node from outside is refused");
    if (i == 3) check(fvg_backward(fvg_sum(y)) == FVG_E_ARG && strstr(fvg_error(c), "from outside"), "nor one of the function around");
  }
  fvg_tape_clear(t);
}

static void test_recompute_with_parameter(void) {
  static float numbers[40 * 50];
  size_t height[2];
  int dim[2] = {40, 50};
  fvg_parameter r;
  if (fvg_parameter_new(c, &r, "r", 2, dim)) { check(0, "a parameter"); return; }
  for (int again = 0; again < 2; again++) {
    fvg_tape_clear(t);
    fvg_node *x = fvg_const(t, 40, 50, numbers);
    fvg_mark start = fvg_tape_mark(t);
    fvg_node *y = again ? fvg_recompute(x, added_to_parameter, &r) : added_to_parameter(t, x, &r);
    height[again] = fvg_tape_mark(t).position - start.position;
    check(y != NULL, "a function that adds to a parameter");
  }
  check(FVG__SEPARATE_BLOCKS || height[1] * 3 < height[0], "recomputed, it keeps only its result");
  fvg_tape_clear(t);
  fvg_parameter_free(c, &r);
}

static void test_recompute(void) {
  static float numbers[40 * 50], plain_value[2000], plain_grad[2000];
  size_t height[2];
  fvg_mark start;
  int i, again, same = 1, dim[2] = {40, 50};
  fvg_parameter big;
  for (i = 0; i < 2000; i++) numbers[i] = (float)(0.01 * (i % 301) - 1.5);
  if (fvg_parameter_new(c, &big, "big", 2, dim)) { check(0, "a parameter"); return; }
  memcpy(big.value.data, numbers, sizeof numbers);
  for (again = 0; again < 2; again++) {
    fvg_node *x, *y;
    fvg_tape_clear(t);
    memset(big.grad, 0, sizeof numbers);
    x = fvg_param(t, &big);
    start = fvg_tape_mark(t);
    y = again ? fvg_recompute(x, five_gelus, NULL) : five_gelus(t, x, NULL);
    height[again] = fvg_tape_mark(t).position - start.position;
    check(fvg_backward(fvg_sum(y)) == FVG_OK, "backward");
    if (!again) {
      memcpy(plain_value, fvg_value(y), sizeof plain_value);
      memcpy(plain_grad, big.grad, sizeof plain_grad);
    } else {
      same = !memcmp(plain_value, fvg_value(y), sizeof plain_value) &&
             !memcmp(plain_grad, big.grad, sizeof plain_grad);
    }
  }
  check(same, "a recomputed function has the same value and gradient, bit for bit");
  check(FVG__SEPARATE_BLOCKS || height[1] * 5 < height[0], "and keeps only its result");
  fvg_tape_clear(t);
  check(!fvg_recompute(NULL, five_gelus, NULL), "recompute of a failure is a failure");
  fvg_tape_clear(t);
  memset(big.grad, 0, sizeof numbers);
  check(fvg_backward(fvg_sum(fvg_recompute(fvg_param(t, &big), identity, NULL))) == FVG_OK && big.grad[7] == 1,
        "a function that returns its argument passes the gradient on");
  fvg_tape_clear(t);
  check(!fvg_recompute(fvg_param(t, &big), nothing_at_all, NULL) && fvg_last_status(c) == FVG_E_ARG, "no node");
  fvg_tape_clear(t);
  other_shape = 0;
  check(fvg_backward(fvg_sum(fvg_recompute(fvg_param(t, &big), changing, &other_shape))) == FVG_E_ARG &&
            strstr(fvg_error(c), "the same node"), "a function that makes something else the second time");
  fvg_tape_clear(t);
  fvg_parameter_free(c, &big);
}

/* Panels give the values and gradients of rows; what needs rows says so. */
static void test_panels(void) {
  enum { M = 33, N = 71, K = 52 };
  static float x[M * K], rows_value[M * N], rows_grad[M * K];
  int dim[2] = {N, K}, x_dim[2] = {M, K}, i, packed, row = 0;
  double value = 0, gradient = 0;
  fvg_parameter w, input;
  fvg_tensor vector;
  if (fvg_parameter_new(c, &w, "w", 2, dim) || fvg_parameter_new(c, &input, "x", 2, x_dim)) {
    check(0, "memory");
    return;
  }
  for (i = 0; i < N * K; i++) ((float *)w.value.data)[i] = uniform(-1, 1);
  for (i = 0; i < M * K; i++) x[i] = ((float *)input.value.data)[i] = uniform(-1, 1);
  for (packed = 0; packed < 2; packed++) {
    fvg_node *y;
    fvg_tape_clear(t);
    memset(input.grad, 0, sizeof x);
    if (packed) check(!fvg_tensor_pack(c, &w.value) && w.value.type == FVG_F32_PANELS, "pack");
    y = fvg_linear(fvg_param(t, &input), fvg_frozen(t, &w.value), NULL);
    check(fvg_backward(fvg_sum(fvg_mul(y, y))) == FVG_OK, "backward through frozen weights");
    for (i = 0; i < M * N; i++) {
      if (!packed) rows_value[i] = fvg_value(y)[i];
      else value = fmax(value, fabs((double)fvg_value(y)[i] - (double)rows_value[i]));
    }
    for (i = 0; i < M * K; i++) {
      if (!packed) rows_grad[i] = input.grad[i];
      else gradient = fmax(gradient, fabs((double)input.grad[i] - (double)rows_grad[i]));
    }
  }
  check(value < 2e-5 && gradient < 2e-4, "weights in panels are the weights in rows, forward and back");
  fvg_tape_clear(t);
  check(!fvg_gather(fvg_frozen(t, &w.value), &row, 1) && strstr(fvg_error(c), "F32_PANELS"), "rows of panels");
  fvg_tape_clear(t);
  check(!fvg_linear(fvg_frozen(t, &w.value), fvg_param(t, &input), NULL), "panels as the left operand");
  fvg_tape_clear(t);
  check(!fvg_param(t, &w) && strstr(fvg_error(c), "unpack"), "a parameter in panels");
  fvg_tape_clear(t);
  check(!fvg_tensor_unpack(c, &w.value) && w.value.type == FVG_F32 && fvg_panel_width(c) > 0, "unpack");
  fvg_rng_seed(&rng, 3, 3);
  vector = input.value;
  vector.n_dim = 1;
  check(fvg_tensor_pack(c, &vector) == FVG_E_ARG && strstr(fvg_error(c), "matrix"), "a vector has no panels");
  vector.n_dim = 2;
  vector.dim[0] = 0;
  check(fvg_tensor_pack(c, &vector) == FVG_E_ARG, "nor has a matrix without rows");
  fvg_parameter_free(c, &w);
  fvg_parameter_free(c, &input);
}

int main(void) {
  size_t used;
  int i;
  fvg_rng_seed(&rng, 3, 3);
  if (fvg_init(&c, NULL)) return 1;
  t = fvg_tape_new(c);
  make_parameters();
  test_gradients();
  test_gradient_check_itself();
  test_values();
  test_special_values();
  test_temperatures();
  test_normalize_extremes();
  test_attentions();
  test_wrong_shapes();
  fvg_tape_clear(t);
  test_nothing_from_nothing();
  test_null_operands();
  test_scratch_without_threads();
  test_null_arguments();
  test_failed_bias();
  fvg_tape_clear(t);
  test_half_weights();
  fvg_tape_clear(t);
  test_half_rows();
  fvg_tape_clear(t);
  test_who_gets_a_gradient();
  test_keep_and_reset();
  test_keep_grad();
  test_keep_after_failure();
  test_tape_memory();
  test_recompute();
  test_recompute_with_parameter();
  test_recompute_from_outside();
  test_panels();
  fvg_tape_free(t);
  used = fvg_mem_used(c);
  for (i = 0; i < N_PARAMS; i++) fvg_parameter_free(c, &p[i]);
  check(used > 0 && fvg_mem_used(c) == 0, "no memory stays");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
