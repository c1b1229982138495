/* Chapter 12 of fvgpt.h: SGD and AdamW as PyTorch defines them, the schedule as Dassl does. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt.h"

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

static fvg_ctx *c;

static fvg_optimizer_desc optimizer(fvg_optimizer_kind kind, double momentum, double beta1, double beta2, double eps,
                                    double weight_decay) {
  fvg_optimizer_desc d;
  memset(&d, 0, sizeof d);
  d.kind = kind;
  d.momentum = (float)momentum;
  d.beta1 = (float)beta1;
  d.beta2 = (float)beta2;
  d.eps = (float)eps;
  d.weight_decay = (float)weight_decay;
  return d;
}

/* Five steps of w = 1 with given gradients and rates; the expected numbers come from PyTorch's formulas in Python. */
static void one_weight(fvg_optimizer_desc d, const double expected[5], const char *what) {
  static const double grad[5] = {0.5, -1.0, 0.25, 2.0, -0.125}, lr[5] = {0.1, 0.1, 0.05, 0.02, 0.2};
  fvg_parameter p, *list = &p;
  fvg_optimizer *o;
  double worst = 0;
  int i, dim = 1;
  if (fvg_parameter_new(c, &p, "w", 1, &dim) || fvg_optimizer_new(c, &o, &list, 1, &d)) { check(0, what); return; }
  ((float *)p.value.data)[0] = 1;
  for (i = 0; i < 5; i++) {
    double e;
    fvg_optimizer_zero_grad(o);
    p.grad[0] += (float)grad[i];
    fvg_optimizer_step(o, lr[i]);
    e = fabs((double)((float *)p.value.data)[0] - expected[i]);
    if (!(e <= worst)) worst = e;
  }
  check(worst < 3e-7, what);
  if (!(worst < 3e-7)) printf("  error %g\n", worst);
  fvg_optimizer_free(o);
  fvg_parameter_free(c, &p);
}

static void test_one_weight(void) {
  static const double sgd[5] = {0.94995, 1.0048575025, 1.0170407571874374, 0.981416558467343, 0.6857006283306469};
  static const double plain[5] = {0.95, 1.05, 1.0375, 0.9975, 1.0225};
  static const double heavy[5] = {0.94, 1.0006, 0.998247, 0.955779906, 0.74932883788};
  static const double adamw[5] = {0.899950002, 0.9365153567404654, 0.9433264769057522, 0.934341402020173,
                                  0.8644073065000699};
  static const double other[5] = {0.9019607843137255, 0.9432851044635834, 0.9503319727942134, 0.9400033695512208,
                                  0.8650657596879303};
  static const double decayed[5] = {0.8919607843137255, 0.9243654966204461, 0.9267905374679739, 0.9146083531500453,
                                    0.8213785762237539};
  one_weight(optimizer(FVG_SGD, 0, 0, 0, 0, 0), sgd, "SGD with the published defaults");
  one_weight(optimizer(FVG_SGD, -1, 0, 0, 0, -1), plain, "SGD without momentum and decay");
  one_weight(optimizer(FVG_SGD, 0.5, 0, 0, 0, 0.1), heavy, "SGD with momentum 0.5 and decay 0.1");
  one_weight(optimizer(FVG_ADAMW, 0, 0, 0, 0, 0), adamw, "AdamW with the published defaults");
  one_weight(optimizer(FVG_ADAMW, 0, 0.8, 0.95, 1e-2, -1), other, "AdamW with other betas, a large eps and no decay");
  one_weight(optimizer(FVG_ADAMW, 0, 0.8, 0.95, 1e-2, 0.1), decayed, "AdamW's decay is decoupled");
}

/* Many weights in two tensors, 50 steps, against the same formulas in double. */
static void test_many_weights(fvg_optimizer_kind kind) {
  enum { N = 60, STEPS = 50 };
  fvg_parameter p[2], *list[2];
  fvg_optimizer_desc d = optimizer(kind, 0, 0, 0, 0, 0);
  fvg_optimizer *o;
  double w[2][N], m[2][N] = {{0}}, v[2][N] = {{0}}, worst = 0;
  int i, k, step, dim[2] = {6, 10};
  for (i = 0; i < 2; i++) {
    list[i] = &p[i];
    if (fvg_parameter_new(c, &p[i], "w", 2, dim)) { check(0, fvg_error(c)); return; }
    for (k = 0; k < N; k++) w[i][k] = (double)(((float *)p[i].value.data)[k] = (float)sin(3 * i + k));
  }
  check(fvg_optimizer_new(c, &o, list, 2, &d) == FVG_OK, "an optimiser of two tensors");
  for (step = 1; step <= STEPS; step++) {
    double lr = 0.01 / step;
    for (i = 0; i < 2; i++)
      for (k = 0; k < N; k++) {
        double g = (double)(p[i].grad[k] = (float)cos(step * (k + 1) + i));
        if (kind == FVG_SGD) {
          m[i][k] = 0.9 * m[i][k] + g + 5e-4 * w[i][k];
          w[i][k] -= lr * m[i][k];
        } else {
          w[i][k] *= 1 - lr * 5e-4;
          m[i][k] = 0.9 * m[i][k] + 0.1 * g;
          v[i][k] = 0.999 * v[i][k] + 0.001 * g * g;
          w[i][k] -= lr * m[i][k] / (1 - pow(0.9, step)) / (sqrt(v[i][k] / (1 - pow(0.999, step))) + 1e-8);
        }
      }
    fvg_optimizer_step(o, lr);
  }
  for (i = 0; i < 2; i++)
    for (k = 0; k < N; k++) worst = fmax(worst, fabs(w[i][k] - (double)((float *)p[i].value.data)[k]));
  printf("%s: %.1e away from double after %d steps\n", kind == FVG_SGD ? "SGD" : "AdamW", worst, STEPS);
  check(worst < 2e-6, kind == FVG_SGD ? "SGD, 120 weights, 50 steps" : "AdamW, 120 weights, 50 steps");
  fvg_optimizer_zero_grad(o);
  for (k = 0, worst = 0; k < N; k++) worst = fmax(worst, fabs((double)p[0].grad[k]) + fabs((double)p[1].grad[k]));
  check(worst == 0, "zero_grad");
  fvg_optimizer_free(o);
  for (i = 0; i < 2; i++) fvg_parameter_free(c, &p[i]);
}

/* Moments and the number of steps are all there is: an optimiser that is given them goes on with the same bits. */
static void test_going_on(fvg_optimizer_kind kind) {
  enum { N = 12, STEPS = 20, STOP = 7 };
  fvg_optimizer_desc d = optimizer(kind, 0, 0, 0, 0, 0);
  fvg_parameter p[2], *list[2];
  fvg_optimizer *o;
  float result[2][2][N], moment[2][2][N];
  long steps;
  int stop, i, k, which, step, dim[2] = {3, 4}, n_moment = kind == FVG_ADAMW ? 2 : 1;
  for (i = 0; i < 2; i++) list[i] = &p[i];
  for (stop = 0; stop < 2; stop++) {
    for (i = 0; i < 2; i++) {
      if (fvg_parameter_new(c, &p[i], "w", 2, dim)) { check(0, fvg_error(c)); return; }
      for (k = 0; k < N; k++) ((float *)p[i].value.data)[k] = (float)sin(3 * i + k);
    }
    check(!fvg_optimizer_new(c, &o, list, 2, &d) && *fvg_optimizer_steps(o) == 0, "no step yet");
    for (step = 0; step < STEPS; step++) {
      for (i = 0; i < 2; i++) for (k = 0; k < N; k++) p[i].grad[k] = (float)cos((step + 1) * (k + 1) + i);
      fvg_optimizer_step(o, 0.1 / (step + 1));
      if (!stop || step != STOP) continue;
      steps = *fvg_optimizer_steps(o);
      check(steps == STOP + 1, "steps are counted");
      for (i = 0; i < 2; i++)
        for (which = 0; which < n_moment; which++)
          memcpy(moment[i][which], fvg_optimizer_moment(o, i, which), sizeof moment[i][which]);
      if (n_moment == 1)
        check(!fvg_optimizer_moment(o, 0, 1) && !fvg_optimizer_moment(o, 1, 1),
              "SGD has no second moment");
      else check(fvg_optimizer_moment(o, 0, 1) && fvg_optimizer_moment(o, 1, 1), "AdamW has one");
      fvg_optimizer_free(o);
      check(!fvg_optimizer_new(c, &o, list, 2, &d), "another optimiser");
      *fvg_optimizer_steps(o) = steps;
      for (i = 0; i < 2; i++)
        for (which = 0; which < n_moment; which++)
          memcpy(fvg_optimizer_moment(o, i, which), moment[i][which], sizeof moment[i][which]);
    }
    check(*fvg_optimizer_steps(o) == STEPS, "all steps are counted");
    for (i = 0; i < 2; i++) {
      memcpy(result[stop][i], p[i].value.data, sizeof result[stop][i]);
      fvg_parameter_free(c, &p[i]);
    }
    fvg_optimizer_free(o);
  }
  check(!memcmp(result[0], result[1], sizeof result[0]),
        kind == FVG_SGD ? "SGD goes on with the same bits" : "AdamW goes on with the same bits");
}

static void test_defaults(void) {
  fvg_optimizer_desc d = fvg_optimizer_defaults(NULL), again;
  check(d.lr == 0.0035f && d.kind == FVG_SGD && d.momentum == 0.9f && d.weight_decay == 5e-4f && d.beta1 == 0.9f &&
            d.beta2 == 0.999f && d.eps == 1e-8f && d.epochs == 10 && d.warmup_epochs == 1 && d.warmup_lr == 1e-5f,
        "the published defaults");
  d.momentum = -1;
  d.weight_decay = -1;
  d.warmup_epochs = -1;
  again = fvg_optimizer_defaults(&d);
  check(again.momentum == -1 && again.weight_decay == -1 && again.warmup_epochs == -1, "negative wishes are kept");
  fvg_optimizer_free(NULL);
}

/* ---- schedule ---- */
static void test_schedule(void) {
  static const double published[10] = {1e-5,      .0035,  .00341435, .00316578,  .00277862,
                                       .00229078, .00175, .00120922, .000721376, .00033422};
  fvg_optimizer_desc d = fvg_optimizer_defaults(NULL);
  double worst = 0;
  int e;
  for (e = 0; e < 10; e++) worst = fmax(worst, fabs(fvg_learning_rate(NULL, e) / published[e] - 1));
  check(worst < 2e-6, "the ten published rates");
  d.warmup_epochs = -1;
  check(fabs(fvg_learning_rate(&d, 0) - 0.0035) < 1e-9 && fabs(fvg_learning_rate(&d, 5) - 0.00175) < 1e-9,
        "no warm-up");
  d.warmup_epochs = 3;
  d.epochs = 8;
  check(fvg_learning_rate(&d, 2) == (double)d.warmup_lr && fabs(fvg_learning_rate(&d, 3) - 0.0035) < 1e-9 &&
        fabs(fvg_learning_rate(&d, 7) - 0.00175) < 1e-9, "a longer warm-up is counted apart");
}

static double number_after(const char *text, const char *key) {
  const char *at = strstr(text, key);
  return at ? strtod(at + strlen(key), NULL) : NAN;
}

static void test_golden_schedule(void) {
  const char *shared = getenv("FVGPT_SHARED");
  char path[600];
  fvg_source s;
  uint8_t *bytes;
  size_t n;
  char *at;
  int settings = 0;
  snprintf(path, sizeof path, "%s/golden/schedule.json", shared ? shared : "../shared");
  if (fvg_source_file(c, &s, path)) { printf("skipped: %s is not there\n", path); return; }
  if (fvg_source_read_all(c, &bytes, &n, &s)) { check(0, "read the golden schedule"); return; }
  fvg_source_close(&s);
  for (at = (char *)bytes; (at = strstr(at, "\"epochs\"")) != NULL; settings++) {
    fvg_optimizer_desc d;
    double worst = 0;
    int e;
    memset(&d, 0, sizeof d);
    d.epochs = (int)number_after(at, "\"epochs\":");
    d.warmup_epochs = (int)number_after(at, "\"warmup_epochs\":");
    d.lr = (float)number_after(at, "\"lr\":");
    d.warmup_lr = (float)number_after(at, "\"warmup_lr\":");
    if (d.warmup_epochs == 0) d.warmup_epochs = -1;
    at = strstr(at, "\"lr_per_epoch\"");
    if (at) at = strchr(at, '[');
    if (!at) break;
    for (e = 0; e < d.epochs; e++) worst = fmax(worst, fabs(fvg_learning_rate(&d, e) - strtod(at + 1, &at)));
    check(worst < 1e-9, "a golden schedule");
  }
  check(settings == 7, "seven golden schedules");
  fvg_bytes_free(c, bytes);
}

int main(void) {
  if (fvg_init(&c, NULL)) return 1;
  test_one_weight();
  test_many_weights(FVG_SGD);
  test_many_weights(FVG_ADAMW);
  test_going_on(FVG_SGD);
  test_going_on(FVG_ADAMW);
  test_defaults();
  test_schedule();
  test_golden_schedule();
  check(fvg_mem_used(c) == 0, "no memory stays");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
