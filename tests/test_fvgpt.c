/* Chapter 13 of fvgpt.h: FVG-PT against plain double code, its identities, and the golden trajectories. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt.h"
#include "shorthand.h"

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

static fvg_ctx *c;
static fvg_rng rng;
static double larger(double a, double b) { return !(b <= a) ? b : a; }               /* a NaN is the largest */

/* ---- a small batch: masks of all kinds, among them none at all ---- */
enum { D = 6, N = 6, CLASSES = 4, MAX_PARAMS = 20 };
static float f[N * D], f_fg[N * D], f_clip[N * D], g[CLASSES * D], g_clip[CLASSES * D];
static const float area[N] = {0.5f, 0.01f, 0.99f, 0.3f, -1, 0.7f};
static const int label[N] = {0, 3, 1, 2, 2, 0};

static void unit_rows(float *x, int rows, int d) {
  int i, j;
  for (i = 0; i < rows; i++) {
    double norm = 0;
    for (j = 0; j < d; j++) {
      x[i * d + j] = (float)fvg_rng_normal(&rng);
      norm += (double)x[i * d + j] * (double)x[i * d + j];
    }
    for (j = 0; j < d; j++) x[i * d + j] = (float)((double)x[i * d + j] / sqrt(norm));
  }
}

static fvg_fvgpt_batch small_batch(void) {
  fvg_fvgpt_batch x;
  memset(&x, 0, sizeof x);
  x.n = N;
  x.n_class = CLASSES;
  x.f = f;
  x.f_fg = f_fg;
  x.f_clip = f_clip;
  x.g = g;
  x.g_clip = g_clip;
  x.area = area;
  x.label = label;
  return x;
}

static fvg_fvgpt_desc small_desc(void) {
  fvg_fvgpt_desc d;
  memset(&d, 0, sizeof d);
  d.width = D;
  d.fdc_hidden = 5;
  d.gate_hidden = 7;
  d.fdc_init_scale = 0.3f;
  d.logit_scale = 10;
  d.seed = 1;
  return d;
}

static fvg_fvgpt *new_model(const fvg_fvgpt_desc *d) {
  fvg_fvgpt *m;
  if (fvg_fvgpt_new(c, &m, d)) { check(0, fvg_error(c)); exit(1); }
  return m;
}

/* ---- the whole loss in double, from the formulas of fvgpt.h, chapter 13 ---- */
typedef struct naive_loss {
  double loss, ce_fdc, frg, dist, ce_pc, kl_pc, r[N], target[N], b[N];
  double base[N][CLASSES], news[N][CLASSES];         /* z_FDC, z_PC, as the switches leave them */
} naive_loss;

/* What a setting of 0 stands for, as the header's comments have it. */
static fvg_fvgpt_desc naive_defaults(const fvg_fvgpt_desc *desc) {
  fvg_fvgpt_desc d = *desc;
  if (!d.fdc_hidden) d.fdc_hidden = 64;
  if (!d.gate_hidden) d.gate_hidden = 32;
  if (!d.gate_layers) d.gate_layers = 2;
  if (d.fdc_init_scale == 0) d.fdc_init_scale = 1e-3f;
  if (d.logit_scale == 0) d.logit_scale = 100;
  if (d.tau == 0) d.tau = 2;
  if (d.lambda_base == 0) d.lambda_base = d.distill == FVG_DISTILL_STABLE ? 0.1f : 10;
  if (d.lambda_new == 0) d.lambda_new = 1;
  if (d.lambda_rg == 0) d.lambda_rg = 1;
  if (d.area_min == 0) d.area_min = 0.02f;
  if (d.area_max == 0) d.area_max = 0.98f;
  return d;
}

static double naive_softmax(const double *z, double tau, double *p) { /* returns ln sum exp (z / tau) */
  double max = z[0], sum = 0;
  int i;
  for (i = 1; i < CLASSES; i++) max = fmax(max, z[i]);
  for (i = 0; i < CLASSES; i++) sum += exp((z[i] - max) / tau);
  for (i = 0; i < CLASSES; i++) p[i] = exp((z[i] - max) / tau) / sum;
  return max / tau + log(sum);
}
static double naive_ce(const double *z, int y) { double p[CLASSES]; return naive_softmax(z, 1, p) - z[y]; }
static double naive_kl(const double *p, const double *z, double tau) {
  double q[CLASSES], sum = 0;
  int i;
  naive_softmax(z, tau, q);
  for (i = 0; i < CLASSES; i++) sum += p[i] * log(p[i] / q[i]);
  return sum;
}
static double entropy(const fvg_fvgpt_desc *d, const double *p) {
  double s = 0;
  int i;
  for (i = 0; i < CLASSES; i++) s -= p[i] * log(p[i]);
  return d->normalise_entropy ? s / log((double)CLASSES) : s;
}
static double cosine(const double *p, const double *q) {
  double pq = 0, pp = 0, qq = 0;
  int i;
  for (i = 0; i < CLASSES; i++) { pq += p[i] * q[i]; pp += p[i] * p[i]; qq += q[i] * q[i]; }
  return pq / sqrt(pp * qq);
}

static double naive_gate(double *const *w, int layers, int hidden, const double u[3]) {
  double x[32], y[32];
  int i, j, k, in = 3;
  memcpy(x, u, 3 * sizeof *u);
  for (i = 0; i < layers; i++) {
    int out = i == layers - 1 ? 1 : hidden;
    for (j = 0; j < out; j++) {
      for (y[j] = w[2 * i + 1][j], k = 0; k < in; k++) y[j] += w[2 * i][j * in + k] * x[k];
      if (i < layers - 1 && y[j] < 0) y[j] = 0;
    }
    memcpy(x, y, (size_t)out * sizeof *y);
    in = out;
  }
  return x[0];
}

static void naive_adapt(double *const *w, int hidden, const float *x, double *y) { /* norm(x + up relu(down x)) */
  double h[64], norm = 0;
  int i, j;
  for (i = 0; i < hidden; i++) {
    for (h[i] = w[1][i], j = 0; j < D; j++) h[i] += w[0][i * D + j] * (double)x[j];
    if (h[i] < 0) h[i] = 0;
  }
  for (j = 0; j < D; j++) {
    for (y[j] = (double)x[j] + w[3][j], i = 0; i < hidden; i++) y[j] += w[2][j * hidden + i] * h[i];
    norm += y[j] * y[j];
  }
  for (j = 0; j < D; j++) y[j] /= sqrt(norm);
}

/* fixed_r: the r that L_dist sees, NULL: the gate's own (attached). */
static naive_loss naive(const fvg_fvgpt_desc *desc, double *const *w, const fvg_fvgpt_batch *x,
                        const double *fixed_r) {
  fvg_fvgpt_desc d = naive_defaults(desc);
  naive_loss out;
  double tau = (double)d.tau, s = (double)d.logit_scale, factor = d.kl_tau2 ? tau * tau : 1, used = 0, frg = 0;
  const float *clip = x->f_clip ? x->f_clip : x->f, *score = x->f_score ? x->f_score : x->f,
              *score_fg = x->f_score_fg ? x->f_score_fg : x->f_fg;
  int i, k, j;
  memset(&out, 0, sizeof out);
  for (i = 0; i < N; i++) {
    double z[CLASSES], zf[CLASSES], zg[CLASSES], zc[CLASSES], zt[CLASSES], zp[CLASSES], p[CLASSES], pf[CLASSES],
        pg[CLASSES], pc[CLASSES], u[3], ft[D], gt[D], q, r, a = (double)x->area[i];
    int counts = a >= 0;
    naive_adapt(w, d.fdc_hidden, x->f + i * D, ft);
    for (k = 0; k < CLASSES; k++) {
      z[k] = zf[k] = zg[k] = zc[k] = zt[k] = 0;
      naive_adapt(w + 4, d.fdc_hidden, x->g + k * D, gt);
      for (j = 0; j < D; j++) {
        z[k] += s * (double)x->f[i * D + j] * (double)x->g[k * D + j];                /* of new classes        */
        zf[k] += s * (double)score[i * D + j] * (double)x->g[k * D + j];
        zg[k] += s * (double)score_fg[i * D + j] * (double)x->g[k * D + j];
        zc[k] += s * (double)clip[i * D + j] * (double)x->g_clip[k * D + j];
        zt[k] += s * ft[j] * gt[j];
      }
    }
    naive_softmax(z, tau, p);
    naive_softmax(zf, tau, pf);
    naive_softmax(zg, tau, pg);
    naive_softmax(zc, tau, pc);
    if (d.area_rule == FVG_AREA_ZERO_R) counts = counts && x->area[i] >= d.area_min && x->area[i] <= d.area_max;
    if (d.area_rule == FVG_AREA_CLAMP && counts) a = fmin(fmax(a, (double)d.area_min), (double)d.area_max);
    u[0] = entropy(&d, pf) - entropy(&d, pg);
    u[1] = cosine(pf, pg);
    u[2] = a;
    for (k = 0; k < 3; k++) if (d.frg_without >> k & 1) u[k] = 0;
    q = naive_gate(w + 8, d.gate_layers, d.gate_hidden, u);
    r = out.r[i] = !counts ? 0 : d.no_frg ? 1 : 1 / (1 + exp(-q));
    out.target[i] = naive_ce(zg, x->label[i]) < naive_ce(zf, x->label[i]) - (double)d.delta;
    if (counts) { frg += log(1 + exp(q)) - out.target[i] * q; used++; }
    if (fixed_r) r = fixed_r[i];
    if (d.distill == FVG_DISTILL_STABLE) r = counts ? out.target[i] : 0;
    out.ce_fdc += naive_ce(zt, x->label[i]) / N;
    out.dist += factor * (r * naive_kl(pg, zt, tau) + (1 - r) * naive_kl(pf, zt, tau)) / N;
    u[0] = entropy(&d, p);
    u[1] = entropy(&d, pc);
    u[2] = cosine(p, pc);
    for (k = 0; k < 3; k++) if (d.brg_without >> k & 1) u[k] = 0;
    out.b[i] = 1 / (1 + exp(-naive_gate(w + 8 + 2 * d.gate_layers, d.gate_layers, d.gate_hidden, u)));
    for (k = 0; k < CLASSES; k++) {
      zp[k] = (1 - out.b[i]) * z[k] + out.b[i] * zc[k];
      out.base[i][k] = d.no_fdc ? z[k] : zt[k];
      out.news[i][k] = d.no_pc ? out.base[i][k] : zp[k];
    }
    out.ce_pc += naive_ce(zp, x->label[i]) / N;
    if (!d.no_kl) out.kl_pc += factor * naive_kl(pc, zp, tau) / N;
  }
  out.frg = used > 0 ? frg / used : 0;
  if (!d.no_fdc) out.loss += out.ce_fdc + fmax((double)d.lambda_base, 0) * out.dist;
  if (!d.no_frg) out.loss += fmax((double)d.lambda_rg, 0) * out.frg;
  if (!d.no_pc) out.loss += fmax((double)d.lambda_new, 0) * (out.ce_pc + out.kl_pc);
  for (i = 0; d.no_pc && i < N; i++) out.b[i] = 0;                    /* as the new branch then has it */
  return out;
}

static double off(float got, double expected) { return fabs((double)got - expected) / (1 + fabs(expected)); }

/* The test-time scores and b of the model against the double code. */
static double score_error(fvg_fvgpt *m, const fvg_fvgpt_batch *x, const naive_loss *e) {
  float base[N * CLASSES], news[N * CLASSES], b[N];
  double worst = 0;
  int i, k;
  if (base_logits(m, x->f, N, x->g, CLASSES, base) ||
      new_logits(m, x->f, x->f_clip, N, x->g, x->g_clip, CLASSES, news, b))
    return INFINITY;
  for (i = 0; i < N; i++) {
    worst = larger(worst, off(b[i], e->b[i]));
    for (k = 0; k < CLASSES; k++) {
      worst = larger(worst, off(base[i * CLASSES + k], e->base[i][k]));
      worst = larger(worst, off(news[i * CLASSES + k], e->news[i][k]));
    }
  }
  return worst;
}

/* Values, scores and all gradients of one variant against the double code. */
static double value_worst, gradient_worst;
static void variant(const fvg_fvgpt_desc *d, const fvg_fvgpt_batch *x, const char *what) {
  fvg_fvgpt *m = new_model(d);
  fvg_tape *t = fvg_tape_new(c);
  int n, i, k;
  fvg_parameter *const *p = fvg_fvgpt_parameters(m, &n);
  double *w[MAX_PARAMS], values = 0, gradients = 0;
  float r[N], target[N], b[N], trust[N];
  fvg_fvgpt_report report;
  naive_loss e;
  for (i = 0; i < n; i++) {
    int count = (int)fvg_tensor_count(&p[i]->value);
    w[i] = (double *)malloc((size_t)count * sizeof(double));
    for (k = 0; k < count; k++) {                                     /* no parameter may stay zero */
      if (((float *)p[i]->value.data)[k] == 0) ((float *)p[i]->value.data)[k] = (float)(0.1 * fvg_rng_normal(&rng));
      w[i][k] = (double)((float *)p[i]->value.data)[k];
    }
  }
  report.r = r;
  report.r_target = target;
  report.b = b;
  check(fvg_backward(fvg_fvgpt_loss(m, t, &report, x)) == FVG_OK, what);
  e = naive(d, w, x, NULL);
  values = larger(off(report.loss, e.loss), larger(off(report.ce_fdc, e.ce_fdc), off(report.frg, e.frg)));
  values = larger(values,
                  larger(off(report.dist, e.dist), larger(off(report.ce_pc, e.ce_pc), off(report.kl_pc, e.kl_pc))));
  for (i = 0; i < N; i++)
    values = larger(values, larger(off(r[i], e.r[i]), larger(off(b[i], e.b[i]), off(target[i], e.target[i]))));
  for (i = 0; i < n; i++) {
    int count = (int)fvg_tensor_count(&p[i]->value);
    double largest = 1e-6; /* a parameter without influence has no gradient */
    for (k = 0; k < count; k++) largest = fmax(largest, fabs((double)p[i]->grad[k]));
    for (k = 0; k < count; k++) {
      double h = 1e-6, saved = w[i][k], up, down;
      w[i][k] = saved + h;
      up = naive(d, w, x, d->attach_r ? NULL : e.r).loss;
      w[i][k] = saved - h;
      down = naive(d, w, x, d->attach_r ? NULL : e.r).loss;
      w[i][k] = saved;
      gradients = larger(gradients, fabs((up - down) / (2 * h) - (double)p[i]->grad[k]) / largest);
    }
  }
  for (i = 0; i < n; i++) free(w[i]);
  value_worst = larger(value_worst, values);
  gradient_worst = larger(gradient_worst, gradients);
  check(values < 3e-6, what);
  check(gradients < 2e-5, what);
  if (!(values < 3e-6) || !(gradients < 2e-5)) printf("  values %g, gradients %g\n", values, gradients);
  check(fvg_fvgpt_trust(m, trust, x) == FVG_OK && !memcmp(trust, r, sizeof r), "trust is the report's r");
  check(score_error(m, x, &e) < 3e-6, "the scores of base and new classes, and b");
  fvg_tape_free(t);
  fvg_fvgpt_free(m);
}

static void test_variants(void) {
  fvg_fvgpt_batch x = small_batch();
  fvg_fvgpt_desc d = small_desc();
  variant(&d, &x, "defaults");
  x.f_clip = NULL;
  variant(&d, &x, "CoOp: f_clip is f");
  x = small_batch();
  d = small_desc(); d.attach_r = 1;
  variant(&d, &x, "attach_r");
  d = small_desc(); d.kl_tau2 = 1;
  variant(&d, &x, "kl_tau2");
  d = small_desc(); d.no_kl = 1;
  variant(&d, &x, "no_kl");
  d = small_desc(); d.area_rule = FVG_AREA_CLAMP; d.area_min = 0.1f; d.area_max = 0.6f;
  variant(&d, &x, "area clamped");
  d = small_desc(); d.area_rule = FVG_AREA_IGNORE;
  variant(&d, &x, "area bounds ignored");
  d = small_desc(); d.area_min = 1e-6f; d.area_max = 1;
  variant(&d, &x, "wide area bounds");
  d = small_desc(); d.area_min = area[3]; d.area_max = area[5];
  variant(&d, &x, "areas that are just the bounds");
  d = small_desc(); d.normalise_entropy = 1;
  variant(&d, &x, "entropies as shares of ln C");
  for (int k = 0; k < 3; k++) {
    d = small_desc(); d.frg_without = 1 << k; d.brg_without = FVG_V_ALL - d.frg_without;
    variant(&d, &x, "gates without indicators");
  }
  d = small_desc(); d.gate_layers = 1;
  variant(&d, &x, "gates of one layer");
  d = small_desc(); d.gate_layers = 3; d.attach_r = 1;
  variant(&d, &x, "gates of three layers");
  d = small_desc(); d.delta = 0.5f; d.tau = 0.7f;
  variant(&d, &x, "delta and tau");
  d = small_desc(); d.delta = -1;
  variant(&d, &x, "negative delta");
  d = small_desc(); d.lambda_base = 3; d.lambda_new = 0.3f; d.lambda_rg = 7;
  variant(&d, &x, "other lambdas");
  d = small_desc(); d.lambda_base = d.lambda_new = -1;
  variant(&d, &x, "negative lambdas are 0");
  d = small_desc(); d.attach_r = d.kl_tau2 = 1; d.area_rule = FVG_AREA_IGNORE;
  variant(&d, &x, "several options at once");
  d = small_desc(); d.distill = FVG_DISTILL_STABLE;
  variant(&d, &x, "stable distillation");
  d.attach_r = 1;
  variant(&d, &x, "whose r has no gradient to attach");
  d.lambda_base = 4; d.kl_tau2 = 1; d.delta = -0.3f; d.area_rule = FVG_AREA_IGNORE;
  variant(&d, &x, "with another weight and margin, area bounds ignored");
  d = small_desc(); d.distill = FVG_DISTILL_STABLE; d.no_frg = 1;
  variant(&d, &x, "without a gate, which it does not need");
  d = small_desc(); d.no_frg = 1;
  variant(&d, &x, "no_frg");
  d.area_rule = FVG_AREA_IGNORE; d.attach_r = 1;
  variant(&d, &x, "no_frg, r attached, area bounds ignored");
  d = small_desc(); d.no_fdc = 1;
  variant(&d, &x, "no_fdc");
  d = small_desc(); d.no_pc = 1;
  variant(&d, &x, "no_pc");
  d.no_frg = d.no_fdc = 1;
  variant(&d, &x, "no module at all");
  d = small_desc();                              /* MMRL: base classes are scored by other vectors than f          */
  x.f_score = x.f_clip;
  x.f_score_fg = x.f_fg;
  variant(&d, &x, "another vector scores the picture");
  x.f_score_fg = x.f;
  variant(&d, &x, "and another its foreground");
  d.no_frg = 1;
  variant(&d, &x, "without a gate");
  d = small_desc(); d.area_rule = FVG_AREA_IGNORE;
  x.f_score = x.f;
  variant(&d, &x, "the foreground alone has another vector");
  printf("loss against double: values %.2e, gradients %.2e of the largest\n", value_worst, gradient_worst);
}

static int same_desc(const fvg_fvgpt_desc *a, const fvg_fvgpt_desc *b) {
  return a->width == b->width && a->fdc_hidden == b->fdc_hidden &&
         a->gate_hidden == b->gate_hidden &&
         a->gate_layers == b->gate_layers && a->fdc_init_scale == b->fdc_init_scale &&
         a->logit_scale == b->logit_scale && a->tau == b->tau && a->lambda_base == b->lambda_base &&
         a->lambda_new == b->lambda_new && a->lambda_rg == b->lambda_rg && a->delta == b->delta &&
         a->area_min == b->area_min && a->area_max == b->area_max && a->area_rule == b->area_rule &&
         a->distill == b->distill &&
         a->attach_r == b->attach_r && a->kl_tau2 == b->kl_tau2 && a->no_kl == b->no_kl &&
         a->normalise_entropy == b->normalise_entropy && a->no_frg == b->no_frg &&
         a->no_fdc == b->no_fdc &&
         a->no_pc == b->no_pc && a->frg_without == b->frg_without && a->brg_without == b->brg_without &&
         a->seed == b->seed;
}

/* A model that is told its width alone has the documented settings, and its loss has them. */
static void test_defaults(void) {
  static const float bounds[N] = {0.5f, 0.019f, 0.98f, 0.02f, 0.981f, 0.7f};
  fvg_fvgpt_desc width_only, expected, given = small_desc(), filled;
  fvg_fvgpt_batch x = small_batch();
  fvg_fvgpt_report report;
  fvg_fvgpt *m;
  fvg_tape *t = fvg_tape_new(c);
  fvg_parameter *const *p;
  float r[N];
  double *w[MAX_PARAMS], worst = 0;
  naive_loss e;
  int i, k, n;
  memset(&width_only, 0, sizeof width_only);
  memset(&report, 0, sizeof report);
  width_only.width = D;
  expected = naive_defaults(&width_only);
  filled = fvg_fvgpt_defaults(&width_only);
  check(same_desc(&filled, &expected), "the defaults are the documented ones");
  width_only.distill = expected.distill = FVG_DISTILL_STABLE;
  expected.lambda_base = 0.1f;
  filled = fvg_fvgpt_defaults(&width_only);
  check(same_desc(&filled, &expected), "stable distillation weighs a tenth");
  width_only.distill = FVG_DISTILL_PUBLISHED;
  given.lambda_base = given.lambda_new = given.lambda_rg = 0.5f;
  given.area_min = 0.1f;
  given.area_max = 0.9f;
  given.gate_layers = 3;
  given.tau = 3;
  filled = fvg_fvgpt_defaults(&given);
  check(same_desc(&filled, &given), "and change nothing that is given");
  x.area = bounds;
  report.r = r;
  m = new_model(&width_only);
  p = fvg_fvgpt_parameters(m, &n);
  for (i = 0; i < n; i++) {
    int count = (int)fvg_tensor_count(&p[i]->value);
    w[i] = (double *)malloc((size_t)count * sizeof(double));
    for (k = 0; k < count; k++) w[i][k] = (double)((float *)p[i]->value.data)[k];
  }
  e = naive(&width_only, w, &x, NULL);
  check(fvg_fvgpt_loss(m, t, &report, &x) != NULL, "a loss with the defaults");
  worst = larger(off(report.loss, e.loss),
                 larger(off(report.frg, e.frg), off(report.dist, e.dist)));
  for (i = 0; i < N; i++) worst = larger(worst, off(r[i], e.r[i]));
  check(worst < 3e-5, "is the one of the double code");
  check(score_error(m, &x, &e) < 3e-5, "and so are the scores");
  for (i = 0; i < n; i++) free(w[i]);
  fvg_tape_free(t);
  fvg_fvgpt_free(m);
}

/* The public gradient check on the same function. */
typedef struct loss_of { fvg_fvgpt *m; fvg_fvgpt_batch x; } loss_of;
static fvg_node *build_loss(fvg_tape *t, void *user) {
  loss_of *l = (loss_of *)user;
  return fvg_fvgpt_loss(l->m, t, NULL, &l->x);
}

static void test_gradient_check(void) {
  fvg_fvgpt_desc d = small_desc();
  loss_of l;
  double error;
  int n;
  fvg_parameter *const *p;
  d.attach_r = 1;
  d.area_rule = FVG_AREA_IGNORE;
  l.m = new_model(&d);
  l.x = small_batch();
  p = fvg_fvgpt_parameters(l.m, &n);
  error = fvg_gradient_check(c, build_loss, &l, p, n, 20, 1e-2f);
  check(error >= 0 && error < 0.1, "fvg_gradient_check of the whole loss"); /* f32 noise; a wrong sign gives 1 */
  printf("fvg_gradient_check of the whole loss: %.2e\n", error);
  fvg_fvgpt_free(l.m);
}

/* ---- sizes, names, start ---- */
static void test_parameters(void) {
  static const char *const name[16] = {
      "fdc_image.down.weight", "fdc_image.down.bias", "fdc_image.up.weight", "fdc_image.up.bias",
      "fdc_text.down.weight",  "fdc_text.down.bias",  "fdc_text.up.weight",  "fdc_text.up.bias",
      "frg.fc1.weight",        "frg.fc1.bias",        "frg.fc2.weight",      "frg.fc2.bias",
      "brg.fc1.weight",        "brg.fc1.bias",        "brg.fc2.weight",      "brg.fc2.bias"};
  fvg_fvgpt_desc d;
  fvg_fvgpt *m, *same, *other;
  fvg_parameter *const *p, *const *q, *const *o;
  size_t count = 0, k;
  double mean2 = 0, low = 0, bound = 1 / sqrt(512.0);
  int i, n, equal = 1, names = 1, differs = 1;
  memset(&d, 0, sizeof d);
  d.width = 512;
  d.seed = 5;
  m = new_model(&d);
  same = new_model(&d);
  d.seed = 6;
  other = new_model(&d);
  p = fvg_fvgpt_parameters(m, &n);
  q = fvg_fvgpt_parameters(same, &n);
  o = fvg_fvgpt_parameters(other, &n);
  for (i = 0; i < n; i++) {
    size_t bytes = fvg_tensor_count(&p[i]->value) * 4;
    count += bytes / 4;
    names &= !strcmp(p[i]->name, name[i]);
    equal &= !memcmp(p[i]->value.data, q[i]->value.data, bytes);
    if (i != 3 && i != 7) differs &= memcmp(p[i]->value.data, o[i]->value.data, bytes) != 0;
  }
  check(n == 16 && names && count == 132546, "132,546 parameters at width 512, with the golden names");
  check(equal && differs, "one seed gives one start, another seed another");
  for (k = 0; k < 512 * 64; k++) {
    double x = fabs((double)((float *)p[0]->value.data)[k]), u = (double)((float *)p[2]->value.data)[k];
    low = fmax(low, x);
    mean2 += u * u / (512 * 64);
  }
  check(low <= bound && low > 0.99 * bound, "down weights start uniform in +-1/sqrt d");
  check(fabs(sqrt(mean2) / 1e-3 - 1) < 0.02, "up weights start normal with deviation 1e-3");
  for (low = 0, k = 0; k < 512; k++) low = fmax(low, fabs((double)((float *)p[3]->value.data)[k]));
  check(low == 0, "up biases start at 0");
  for (low = 0, k = 0; k < 96; k++) low = fmax(low, fabs((double)((float *)p[8]->value.data)[k]));
  check(low <= 1 / sqrt(3.0) && low > 0.4, "gates start like PyTorch's linear layers");
  check(
      memcmp(p[0]->value.data, p[4]->value.data, 4096) != 0 && memcmp(p[8]->value.data, p[12]->value.data, 384) != 0,
      "the modules start differently");
  fvg_fvgpt_free(m);
  fvg_fvgpt_free(same);
  fvg_fvgpt_free(other);
  d.width = 768;
  m = new_model(&d);
  p = fvg_fvgpt_parameters(m, &n);
  for (count = 0, i = 0; i < n; i++) count += fvg_tensor_count(&p[i]->value);
  check(count == 198594, "198,594 parameters at width 768");
  fvg_fvgpt_free(m);
}

/* ---- the start, the limits, the independence of the modules ---- */
static float *values_of(fvg_fvgpt *m, const char *name) {
  int i, n;
  fvg_parameter *const *p = fvg_fvgpt_parameters(m, &n);
  for (i = 0; i < n; i++) if (!strcmp(p[i]->name, name)) return (float *)p[i]->value.data;
  return NULL;
}

/* s x y^T in double */
static double logit(const float *x, const float *y, double s) {
  double z = 0;
  int j;
  for (j = 0; j < D; j++) z += s * (double)x[j] * (double)y[j];
  return z;
}

static void test_start_and_limits(void) {
  fvg_fvgpt_desc d;
  fvg_fvgpt *m;
  fvg_fvgpt_batch x = small_batch();
  float z[N * CLASSES], z_full[N * CLASSES], b[N], r[N];
  fvg_fvgpt_report report;
  fvg_tape *t = fvg_tape_new(c);
  double worst = 0, expected = 0;
  int i, k, zero = 1, one = 1;
  memset(&d, 0, sizeof d);
  memset(&report, 0, sizeof report);
  d.width = D;
  m = new_model(&d);
  for (i = 0; i < N; i++)
    for (k = 0; k < CLASSES; k++) z_full[i * CLASSES + k] = (float)logit(f + i * D, g + k * D, 100);
  check(base_logits(m, f, N, g, CLASSES, z) == FVG_OK, "base logits");
  for (i = 0; i < N * CLASSES; i++) worst = fmax(worst, fabs((double)(z[i] - z_full[i])));
  printf("z_FDC at the start: at most %.3f from z_full\n", worst);
  check(worst > 0 && worst < 3, "z_FDC starts near z_full");
  memset(values_of(m, "fdc_image.up.weight"), 0, D * 64 * 4);
  memset(values_of(m, "fdc_text.up.weight"), 0, D * 64 * 4);
  check(base_logits(m, f, N, g, CLASSES, z) == FVG_OK, "base logits");
  for (worst = 0, i = 0; i < N * CLASSES; i++) worst = fmax(worst, fabs((double)(z[i] - z_full[i])));
  check(worst < 1e-4, "with the up layers 0, z_FDC is z_full");
  report.r = r;
  check(fvg_fvgpt_loss(m, t, &report, &x) != NULL, "loss");
  for (i = 0; i < N; i++) {
    double zf[CLASSES], zg[CLASSES], p[CLASSES];
    for (k = 0; k < CLASSES; k++) {
      zf[k] = logit(f + i * D, g + k * D, 100);
      zg[k] = logit(f_fg + i * D, g + k * D, 100);
    }
    naive_softmax(zg, 2, p);
    for (k = 0; k < CLASSES; k++) p[k] = fmax(p[k], 1e-300);
    expected += (double)r[i] * naive_kl(p, zf, 2) / N;
  }
  check(off(report.dist, expected) < 1e-4, "and L_dist is r KL(p_fg || p_full)");

  values_of(m, "brg.fc2.bias")[0] = -1e4f;                            /* b = 0 */
  check(new_logits(m, f, f_clip, N, g, g_clip, CLASSES, z, b) == FVG_OK, "new logits");
  for (i = 0; i < N; i++)
    for (k = 0; k < CLASSES; k++)
      zero &= b[i] == 0 && off(z[i * CLASSES + k], (double)z_full[i * CLASSES + k]) < 1e-6;
  values_of(m, "brg.fc2.bias")[0] = 1e4f;
  check(new_logits(m, f, f_clip, N, g, g_clip, CLASSES, z, NULL) == FVG_OK, "new logits without b");
  for (i = 0; i < N; i++)
    for (k = 0; k < CLASSES; k++) one &= off(z[i * CLASSES + k], logit(f_clip + i * D, g_clip + k * D, 100)) < 1e-6;
  check(zero && one, "b = 0 gives z_full, b = 1 gives z_CLIP");
  fvg_tape_free(t);
  fvg_fvgpt_free(m);
}

/* An image that is all foreground: u = [0, 1, 1], no foreground shift, no reason to prefer the foreground. */
static void test_all_foreground(void) {
  fvg_fvgpt_desc d = small_desc();
  fvg_fvgpt *m;
  fvg_fvgpt_batch x = small_batch();
  float ones[N] = {1, 1, 1, 1, 1, 1}, r[N], target[N];
  double *w[MAX_PARAMS], u[3] = {0, 1, 1};
  fvg_fvgpt_report report;
  fvg_parameter *const *p;
  fvg_tape *t = fvg_tape_new(c);
  int i, k, n, ok = 1;
  memset(&report, 0, sizeof report);
  d.area_rule = FVG_AREA_IGNORE;
  x.f_fg = x.f;
  x.area = ones;
  report.r = r;
  report.r_target = target;
  m = new_model(&d);
  p = fvg_fvgpt_parameters(m, &n);
  check(fvg_fvgpt_loss(m, t, &report, &x) != NULL, "loss");
  for (i = 0; i < n; i++) {
    w[i] = (double *)malloc(fvg_tensor_count(&p[i]->value) * sizeof(double));
    for (k = 0; k < (int)fvg_tensor_count(&p[i]->value); k++) w[i][k] = (double)((float *)p[i]->value.data)[k];
  }
  for (i = 0; i < N; i++) ok &= target[i] == 0 && off(r[i], 1 / (1 + exp(-naive_gate(w + 8, 2, 7, u)))) < 1e-6;
  check(ok, "a mask of ones: u = [0,1,1] and the target is 0 (ties are 0)");
  for (i = 0; i < n; i++) free(w[i]);
  fvg_tape_free(t);
  fvg_fvgpt_free(m);
}

/* r* does not change when a constant is added to all logits of an image. */
static void test_target_shift(void) {
  fvg_fvgpt_desc d = small_desc();
  fvg_fvgpt *m = new_model(&d);
  fvg_tape *t = fvg_tape_new(c);
  fvg_fvgpt_batch x = small_batch();
  float shifted[N * D], text[CLASSES * D], areas[N] = {0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f}, before[N], after[N];
  fvg_fvgpt_report report;
  int i, wins = 0;
  memset(&report, 0, sizeof report);
  memcpy(text, g, sizeof g);
  for (i = 0; i < CLASSES; i++) text[i * D] = 0.5f;                   /* all classes share the first component ... */
  memcpy(shifted, f_fg, sizeof shifted);
  for (i = 0; i < N; i++)
    shifted[i * D] += 0.7f * (float)(i - 2); /* ... so this adds a constant to each row of z_fg */
  x.g = text;
  x.area = areas;
  report.r_target = before;
  check(fvg_fvgpt_loss(m, t, &report, &x) != NULL, "loss");
  x.f_fg = shifted;
  report.r_target = after;
  check(fvg_fvgpt_loss(m, t, &report, &x) != NULL, "loss");
  for (i = 0; i < N; i++) wins += before[i] == 1;
  check(!memcmp(before, after, sizeof before) && wins > 0 && wins < N,
        "r* is invariant to a constant added to the logits");
  fvg_tape_free(t);
  fvg_fvgpt_free(m);
}

/* r KL(a||q) + (1-r) KL(b||q) has the gradient of KL(r a + (1-r) b || q). */
static void test_mixture(void) {
  fvg_parameter z;
  fvg_tape *t = fvg_tape_new(c);
  float r[N], first[N * CLASSES];
  double worst = 0;
  fvg_node *a, *b, *w;
  int i, dim[2] = {N, CLASSES};
  if (fvg_parameter_new(c, &z, "z", 2, dim)) { check(0, fvg_error(c)); return; }
  for (i = 0; i < N; i++) r[i] = (float)fvg_rng_uniform(&rng);
  for (i = 0; i < N * CLASSES; i++) ((float *)z.value.data)[i] = (float)fvg_rng_normal(&rng);
  a = fvg_softmax(fvg_const(t, N, CLASSES, f), 0.3f);
  b = fvg_softmax(fvg_const(t, N, CLASSES, f_fg), 0.3f);
  w = fvg_const(t, N, 1, r);
  check(fvg_backward(fvg_mean(
            fvg_lerp(fvg_kl_rows(b, fvg_param(t, &z), 2), fvg_kl_rows(a, fvg_param(t, &z), 2), w))) == FVG_OK,
        "two KLs");
  memcpy(first, z.grad, sizeof first);
  memset(z.grad, 0, sizeof first);
  check(fvg_backward(fvg_mean(fvg_kl_rows(fvg_lerp(b, a, w), fvg_param(t, &z), 2))) == FVG_OK, "one KL");
  for (i = 0; i < N * CLASSES; i++) worst = larger(worst, fabs((double)(first[i] - z.grad[i])));
  check(worst < 1e-6, "the distillation is one KL to the mixture");
  fvg_parameter_free(c, &z);
  fvg_tape_free(t);
}

/* ---- training ---- */
static fvg_optimizer *optimizer_of(fvg_fvgpt *m, fvg_optimizer_kind kind) {
  fvg_optimizer_desc d;
  fvg_optimizer *o;
  int n;
  fvg_parameter *const *p = fvg_fvgpt_parameters(m, &n);
  memset(&d, 0, sizeof d);
  d.kind = kind;
  if (fvg_optimizer_new(c, &o, p, n, &d)) exit(1);
  return o;
}

static void train(const fvg_fvgpt_desc *d, float *base, float *z_new, double *first, double *last) {
  fvg_fvgpt *m = new_model(d);
  fvg_optimizer *o = optimizer_of(m, FVG_SGD);
  fvg_fvgpt_batch x = small_batch();
  fvg_fvgpt_report report;
  int i, ok = 1;
  memset(&report, 0, sizeof report);
  for (i = 0; i < 40; i++) {
    ok &= fvg_fvgpt_step(m, &report, o, 0.01, &x) == FVG_OK;
    if (i == 0) *first = (double)report.loss;
  }
  *last = (double)report.loss;
  ok &= base_logits(m, f, N, g, CLASSES, base) == FVG_OK &&
        new_logits(m, f, f_clip, N, g, g_clip, CLASSES, z_new, NULL) == FVG_OK;
  check(ok, "forty steps and both logits");
  fvg_optimizer_free(o);
  fvg_fvgpt_free(m);
}

static void test_independence(void) {
  enum { BYTES = N * CLASSES * 4 };
  float base[4][N * CLASSES], news[4][N * CLASSES];
  fvg_fvgpt_desc d = small_desc();
  double first, last, ignored;
  train(&d, base[0], news[0], &first, &last);
  check(last < first, "forty steps lower the loss");
  train(&d, base[1], news[1], &ignored, &ignored);
  check(!memcmp(base[0], base[1], BYTES) && !memcmp(news[0], news[1], BYTES), "the same seed gives the same bits");
  d.lambda_new = -1;
  train(&d, base[2], news[2], &ignored, &ignored);
  check(!memcmp(base[0], base[2], BYTES) && memcmp(news[0], news[2], BYTES),
        "base logits have the same bits without PC");
  d = small_desc();
  d.lambda_base = d.lambda_rg = -1;
  train(&d, base[3], news[3], &ignored, &ignored);
  check(memcmp(base[0], base[3], BYTES) && !memcmp(news[0], news[3], BYTES),
        "new logits have the same bits without FRG and FDC's distillation");
}

/* The paper's ablation: what a module that is left out leaves alone, and what takes its place. */
static void test_ablation(void) {
  enum { ALL, NO_PC, NO_FRG, NO_FDC, NO_FRG_FDC, NONE, OTHER_SEED, RUNS, BYTES = N * CLASSES * 4 };
  static const int off[RUNS][3] = {{0, 0, 0}, {0, 0, 1}, {1, 0, 0}, {0, 1, 0}, {1, 1, 0}, {1, 1, 1}, {1, 1, 1}};
  float base[RUNS][N * CLASSES], news[RUNS][N * CLASSES], mixed[N * CLASSES], b[N], r[N], step_r[N];
  fvg_fvgpt_batch x = small_batch();
  fvg_fvgpt_report report;
  double first, last, full = 0;
  int i, k, ok = 1, zero = 1;
  for (i = 0; i < RUNS; i++) {
    fvg_fvgpt_desc d = small_desc();
    d.no_frg = off[i][0];
    d.no_fdc = off[i][1];
    d.no_pc = off[i][2];
    if (i == OTHER_SEED) d.seed = 99;
    train(&d, base[i], news[i], &first, &last);
    check(i >= NONE ? last == 0 && first == 0 : last < first, "what is left of the loss falls");
  }
  check(!memcmp(base[NO_PC], base[ALL], BYTES), "base logits have the same bits whether PC is there or not");
  check(!memcmp(news[NO_FRG], news[ALL], BYTES) && !memcmp(news[NO_FDC], news[ALL], BYTES) &&
            !memcmp(news[NO_FRG_FDC], news[ALL], BYTES),
        "new logits whether FRG and FDC are or not");
  check(memcmp(base[NO_FRG], base[ALL], BYTES) && memcmp(base[NO_FDC], base[ALL], BYTES) &&
            memcmp(news[NO_PC], news[ALL], BYTES),
        "each module matters where it works");
  check(!memcmp(base[NO_FDC], base[NO_FRG_FDC], BYTES) && !memcmp(base[NO_FDC], base[OTHER_SEED], BYTES),
        "without FDC base logits depend on no module");
  for (i = 0; i < N; i++)
    for (k = 0; k < CLASSES; k++)
      full = larger(full, fabs((double)base[NO_FDC][i * CLASSES + k] - logit(f + i * D, g + k * D, 10)));
  check(full < 1e-5, "they are z_full");
  check(!memcmp(news[NO_PC], base[NO_PC], BYTES), "without PC new classes are scored as base classes are");
  check(!memcmp(news[NONE], base[NO_FDC], BYTES), "by z_full without any module");

  for (i = 0; i < 2; i++) {                                             /* b and r, which the runs do not show */
    fvg_fvgpt_desc d = small_desc();
    fvg_fvgpt *m;
    fvg_tape *t = fvg_tape_new(c);
    d.no_pc = d.no_frg = 1;
    if (i) d.area_rule = FVG_AREA_IGNORE;
    m = new_model(&d);
    memset(b, 1, sizeof b);
    memset(&report, 0, sizeof report);
    report.r = step_r;
    ok &= !new_logits(m, f, f_clip, N, g, g_clip, CLASSES, mixed, b) &&
          !base_logits(m, f, N, g, CLASSES, base[0]) && !memcmp(mixed, base[0], BYTES);
    ok &= !fvg_fvgpt_trust(m, r, &x) && fvg_fvgpt_loss(m, t, &report, &x) != NULL;
    for (k = 0; k < N; k++) {
      float expected = area[k] >= (i ? 0 : 0.02f) && area[k] <= (i ? 1 : 0.98f);
      zero &= b[k] == 0;
      ok &= r[k] == expected && step_r[k] == expected;
    }
    fvg_tape_free(t);
    fvg_fvgpt_free(m);
  }
  check(zero, "without PC b is 0");
  check(ok, "without FRG r is 1 where the mask is of use, else 0");
}

/* ---- stable distillation ---- */
/* Two classes, three pictures, numbers that can be computed by hand: s = 1, tau = 1, and adapters that leave z_FDC
   at z_full.  z is (cos, sin) of the picture's angle, so that z_full of picture 0 is (0.6, 0.8). */
static void test_stable_by_hand(void) {
  static const float whole[6] = {0.6f, 0.8f, 0.6f, 0.8f, 0.6f, 0.8f};
  static const float front[6] = {0.8f, 0.6f, 0.8f, 0.6f, 0.8f, 0.6f};
  static const float text[4] = {1, 0, 0, 1}, share[3] = {0.5f, 0.5f, 0.99f};
  static const int truth[3] = {0, 1, 0};         /* the front favours class 0; the third mask is nearly everything    */
  const double p = 1 / (1 + exp(-0.2)), q = 1 - p;                     /* p_fg of class 0 and 1; p_full of 1 and 0 */
  const double kl = p * log(p / q) + q * log(q / p);                   /* KL(p_fg || p_full)                       */
  fvg_fvgpt_desc d;
  fvg_fvgpt_batch x;
  fvg_fvgpt_report report;
  float r[3];
  memset(&d, 0, sizeof d);
  memset(&x, 0, sizeof x);
  memset(&report, 0, sizeof report);
  d.width = 2;
  d.fdc_init_scale = -1;
  d.logit_scale = d.tau = 1;
  d.lambda_rg = d.lambda_new = -1;
  d.distill = FVG_DISTILL_STABLE;
  x.n = 3;
  x.n_class = 2;
  x.f = whole;
  x.f_fg = front;
  x.g = x.g_clip = text;
  x.area = share;
  x.label = truth;
  report.r = r;
  fvg_fvgpt *m = new_model(&d);
  fvg_tape *t = fvg_tape_new(c);
  check(fvg_fvgpt_loss(m, t, &report, &x) != NULL, "a loss of three pictures");
  check(off(report.dist, kl / 3) < 1e-6, "one of three pictures learns from its foreground");
  const double ce = (-2 * log(q) - log(p)) / 3;
  check(off(report.ce_fdc, ce) < 1e-6 && off(report.loss, ce + 0.1 * kl / 3) < 1e-6, "with a weight of a tenth");
  check(r[0] > 0 && r[0] < 1 && r[1] > 0 && r[1] < 1 && r[2] == 0, "the report's r is the gate's");
  fvg_tape_free(t);
  fvg_fvgpt_free(m);
}

/* What distillation is has no part in PC, nor in the gate's own training: their bits are the same. */
static void test_stable_alone(void) {
  enum { BYTES = N * CLASSES * 4 };
  float base[3][N * CLASSES], news[3][N * CLASSES];
  double first, last;
  fvg_fvgpt_desc d = small_desc();
  for (int i = 0; i < 3; i++) {
    d.distill = i ? FVG_DISTILL_STABLE : FVG_DISTILL_PUBLISHED;
    d.no_frg = i == 2;
    train(&d, base[i], news[i], &first, &last);
  }
  check(!memcmp(news[0], news[1], BYTES), "new logits have the same bits however the adapters are distilled");
  check(memcmp(base[0], base[1], BYTES) && !memcmp(base[1], base[2], BYTES),
        "stable base logits are others, and need no gate");
}

/* ---- errors ---- */
/* What fvg_checkpoint_load would refuse is refused when the modules are made. */
static void test_impossible_descs(void) {
  enum { CASES = 18 };
  fvg_fvgpt_desc d[CASES];
  static const char *const says[CASES] = {
      "area_min -0.1", "area_max 1.5", "area_min 0.5", "nan, area_max", "area_rule 3", "area_rule -1", "tau is 1e+06",
      "logit_scale 1e+06", "below 1e6", "fdc_hidden is 65537", "gate_hidden 65537", "positive", "positive", "positive",
      "distill is 2", "distill is -1", "frg_without is 8", "brg_without -1"};
  int i;
  for (i = 0; i < CASES; i++) d[i] = small_desc();
  d[0].area_min = -0.1f;
  d[1].area_max = 1.5f;
  d[2].area_min = 0.5f, d[2].area_max = 0.4f;
  d[3].area_min = NAN;
  d[4].area_rule = (fvg_area_rule)3;
  d[5].area_rule = (fvg_area_rule)-1;
  d[6].tau = 1e6f;
  d[7].logit_scale = 1e6f;
  d[8].tau = INFINITY;
  d[9].fdc_hidden = 65537;
  d[10].gate_hidden = 65537;
  d[11].tau = NAN;
  d[12].logit_scale = NAN;
  d[13].logit_scale = -1;
  d[14].distill = (fvg_distill)2;
  d[15].distill = (fvg_distill)-1;
  d[16].frg_without = 8;
  d[17].brg_without = -1;
  for (i = 0; i < CASES; i++) {
    fvg_fvgpt *m = (fvg_fvgpt *)&d;
    fvg_status s = fvg_fvgpt_new(c, &m, &d[i]);
    check(s == FVG_E_ARG && !m && strstr(fvg_error(c), says[i]), says[i]);
  }
}

/* Arguments that are NULL where something is needed, and calls that fail: a message, and nothing is written. */
static void test_nothing_is_written(void) {
  fvg_fvgpt_desc d = small_desc();
  fvg_fvgpt *m = new_model(&d), *plain;
  fvg_optimizer *o;
  fvg_fvgpt_batch x = small_batch(), half = small_batch(), none = small_batch(), nan = small_batch();
  fvg_fvgpt_report report, untouched;
  static float bad[N * D];
  float z[N * CLASSES], b[N], r[N];
  fvg_tape *t = fvg_tape_new(c);
  int i, kept = 1;
  d.no_pc = 1;
  plain = new_model(&d);
  int n_params;
  fvg_parameter *const *params = fvg_fvgpt_parameters(m, &n_params);
  if (fvg_optimizer_new(c, &o, params, n_params, NULL)) exit(1);
  memset(&report, 0, sizeof report);
  report.loss = 7;
  report.r = r;
  report.b = b;
  untouched = report;
  for (i = 0; i < N * CLASSES; i++) z[i] = 7;
  for (i = 0; i < N; i++) b[i] = r[i] = 7;
  for (i = 0; i < N * D; i++) bad[i] = NAN;
  half.f_score = f;
  none.f = NULL;
  nan.f = bad;
  {
    const struct { fvg_status status; const char *what; } call[] = {
      {fvg_fvgpt_new(c, NULL, &d), "new: the result"},
      {fvg_fvgpt_score_base(m, NULL, &x), "score_base: logits"},
      {fvg_fvgpt_score_base(m, z, NULL), "score_base: the batch"},
      {fvg_fvgpt_score_new(m, NULL, b, &x), "score_new: logits"},
      {fvg_fvgpt_score_new(m, z, b, NULL), "score_new: the batch"},
      {fvg_fvgpt_score_new(plain, NULL, b, &x), "score_new without PC: logits"},
      {fvg_fvgpt_score_new(plain, z, b, NULL), "score_new without PC: the batch"},
      {fvg_fvgpt_score_new(plain, z, b, &none), "score_new without PC: f"},
      {fvg_fvgpt_score_new(m, z, b, &none), "score_new: f"},
      {fvg_fvgpt_trust(m, NULL, &x), "trust: r"},
      {fvg_fvgpt_trust(m, r, NULL), "trust: the batch"},
      {fvg_fvgpt_trust(m, r, &half), "trust: f_score without f_score_fg"},
      {fvg_fvgpt_step(m, &report, o, 0.1, NULL), "step: the batch"},
      {fvg_fvgpt_step(m, &report, o, 0.1, &half), "step: f_score without f_score_fg"},
    };
    for (i = 0; i < (int)(sizeof call / sizeof *call); i++) check(call[i].status == FVG_E_ARG, call[i].what);
  }
  check(!fvg_fvgpt_loss(m, t, &report, NULL) && strstr(fvg_error(c), "the batch must be given"), "loss: the batch");
  half.f_score = NULL;
  half.f_score_fg = f_fg;
  fvg_tape_clear(t);
  check(!fvg_fvgpt_loss(m, t, &report, &half) && strstr(fvg_error(c), "only one is given"), "f_score_fg alone");
  check(fvg_fvgpt_step(m, &report, o, 0.1, &nan) == FVG_E_NUMERIC, "a step whose loss is NaN fails");
  for (i = 0; i < N * CLASSES; i++) kept &= z[i] == 7;
  for (i = 0; i < N; i++) kept &= b[i] == 7 && r[i] == 7;
  check(kept && !memcmp(&report, &untouched, sizeof report), "and nothing is written");
  check(!fvg_fvgpt_parameters(m, NULL), "no place for the number of parameters");
  fvg_tape_free(t);
  fvg_optimizer_free(o);
  fvg_fvgpt_free(m);
  fvg_fvgpt_free(plain);
  fvg_fvgpt_free(NULL);
}

static void test_errors(void) {
  fvg_fvgpt_desc d = small_desc();
  fvg_fvgpt *m;
  fvg_optimizer *o;
  fvg_fvgpt_batch x = small_batch();
  fvg_fvgpt_report report;
  float z[N * CLASSES], r[N], bad[N * D], before;
  const float none[N] = {-1, -1, -1, 0, 1, 0.999f};
  static const int wrong[N] = {0, 1, 2, 4, 0, 0};
  fvg_status s;
  int i, nan_ok = 1;
  size_t used = fvg_mem_used(c);
  memset(&report, 0, sizeof report);
  d.width = 0;
  check(fvg_fvgpt_new(c, &m, &d) == FVG_E_ARG && !m && strstr(fvg_error(c), "width is 0"), "width 0 is an error");
  check(fvg_fvgpt_new(c, &m, NULL) == FVG_E_ARG && !m, "a NULL desc has no width");
  d.width = D;
  d.gate_layers = 4;
  check(fvg_fvgpt_new(c, &m, &d) == FVG_E_ARG && !m && strstr(fvg_error(c), "gate_layers is 4"),
        "four gate layers are an error");
  d.gate_layers = 2;
  d.tau = -1;
  check(fvg_fvgpt_new(c, &m, &d) == FVG_E_ARG && !m, "a negative temperature is an error");
  check(fvg_mem_used(c) == used, "a refused model holds nothing");

  d = small_desc();
  m = new_model(&d);
  o = optimizer_of(m, FVG_ADAMW);
  before = values_of(m, "frg.fc1.weight")[0];
  x.label = wrong;
  check(fvg_fvgpt_step(m, NULL, o, 0.01, &x) == FVG_E_ARG && strstr(fvg_error(c), "image 3 has label 4 among 4"),
        "a label beyond the classes is named");
  x = small_batch();
  x.n = 0;
  check(fvg_fvgpt_step(m, NULL, o, 0.01, &x) == FVG_E_ARG, "an empty batch is an error");
  s = base_logits(m, f, 0, g, CLASSES, z);
  check(s == FVG_E_ARG || s == FVG_E_SHAPE, "base logits of no images: not called out of memory");
  s = new_logits(m, f, NULL, N, g, g_clip, 0, z, NULL);
  check(s == FVG_E_ARG || s == FVG_E_SHAPE, "new logits of no classes: not called out of memory");
  s = fvg_fvgpt_trust(m, r, &x);
  check(s == FVG_E_ARG || s == FVG_E_SHAPE, "trust of no images: not called out of memory");
  for (i = 0; i < 4; i++) {                                           /* a NaN in any input must be noticed */
    x = small_batch();
    memcpy(bad, f, sizeof bad);
    bad[7] = NAN;
    if (i == 0) x.f = bad;
    if (i == 1) x.f_fg = bad;
    if (i == 2) x.f_clip = bad;
    if (i == 3) x.g = bad;
    nan_ok &= fvg_fvgpt_step(m, NULL, o, 0.01, &x) == FVG_E_NUMERIC;
  }
  check(nan_ok, "a NaN in f, f_fg, f_clip or g is FVG_E_NUMERIC");
  check(values_of(m, "frg.fc1.weight")[0] == before, "a failed step leaves the parameters");
  x = small_batch();
  x.area = none;
  report.r = r;
  check(fvg_fvgpt_step(m, &report, o, 0.01, &x) == FVG_OK && report.frg == 0 && r[0] == 0 && r[3] == 0 && r[5] == 0,
        "a batch without a usable mask trains, with r = 0");
  x = small_batch();
  x.label = NULL;
  check(fvg_fvgpt_trust(m, r, &x) == FVG_OK, "trust needs no labels");
  fflush(stdout);
  check(fvg_fvgpt_step(m, NULL, o, 0.01, &x) == FVG_E_ARG, "a step without labels is an error");
  fvg_optimizer_free(o);
  fvg_fvgpt_free(m);
  fvg_fvgpt_free(NULL);
}

/* ---- golden trajectories ---- */
static fvg_tensor get(fvg_weights *w, const char *prefix, const char *name, fvg_dtype as) {
  fvg_tensor x;
  char full[100];
  snprintf(full, sizeof full, "%s%s", prefix, name);
  if (fvg_weights_get(w, &x, full, as)) { printf("%s\n", fvg_error(c)); exit(1); }
  return x;
}

/* Largest difference, in units of `unit`, or of the largest expected number where unit is 0. */
static double apart(const float *got, const fvg_tensor *expected, double unit) {
  const float *e = (const float *)expected->data;
  size_t i, n = fvg_tensor_count(expected);
  double worst = 0, size = 1e-30;
  for (i = 0; i < n; i++) {
    worst = larger(worst, fabs((double)got[i] - (double)e[i]));
    size = fmax(size, fabs((double)e[i]));
  }
  return worst / (unit > 0 ? unit : size);
}

static void golden(const char *file, fvg_optimizer_kind kind, double final_tolerance) {
  enum { TENSORS = 16 };
  static const char *const names[TENSORS] = {
      "f",          "f_fg",   "f_clip",     "area", "labels",   "g", "g_clip",           "g_new",
      "g_clip_new", "losses", "loss_parts", "r",    "r_target", "b", "test_base_logits", "test_new_logits"};
  fvg_tensor x[TENSORS], e;
  const char *shared = getenv("FVGPT_SHARED");
  char path[600];
  fvg_source source;
  fvg_weights *w;
  fvg_fvgpt_desc d;
  fvg_fvgpt *m;
  fvg_optimizer *o;
  fvg_parameter *const *p;
  fvg_fvgpt_report report;
  float r[64], target[64], b[64], *logits, parts[5];
  double losses = 0, part = 0, gates = 0, grad0 = 0, final = 0, targets = 0, base, news, lr;
  int i, k, n, step, steps, batch, width;
  snprintf(path, sizeof path, "%s/golden/fvgpt/%s", shared ? shared : "../shared", file);
  if (fvg_source_file(c, &source, path)) { printf("skipped: %s is not there\n", path); return; }
  if (fvg_weights_open(c, &w, &source)) { check(0, fvg_error(c)); return; }
  for (i = 0; i < TENSORS; i++) x[i] = get(w, "", names[i], i == 4 ? FVG_I32 : FVG_F32);
  steps = x[0].dim[0];
  batch = x[0].dim[1];
  width = x[0].dim[2];
  memset(&d, 0, sizeof d);
  d.width = width;
  m = new_model(&d);
  o = optimizer_of(m, kind);
  p = fvg_fvgpt_parameters(m, &n);
  lr = strtod(fvg_weights_metadata(w, "lr"), NULL);
  for (i = 0; i < n; i++) {
    e = get(w, "init.", p[i]->name, FVG_F32);
    memcpy(p[i]->value.data, e.data, fvg_tensor_count(&e) * 4);
    fvg_tensor_free(c, &e);
  }
  report.r = r;
  report.r_target = target;
  report.b = b;
  for (step = 0; step < steps; step++) {
    fvg_fvgpt_batch now;
    memset(&now, 0, sizeof now);
    now.n = batch;
    now.n_class = x[5].dim[0];
    now.f = (float *)x[0].data + step * batch * width;
    now.f_fg = (float *)x[1].data + step * batch * width;
    now.f_clip = (float *)x[2].data + step * batch * width;
    now.area = (float *)x[3].data + step * batch;
    now.label = (int *)x[4].data + step * batch;
    now.g = (float *)x[5].data;
    now.g_clip = (float *)x[6].data;
    if (fvg_fvgpt_step(m, &report, o, lr, &now)) { check(0, fvg_error(c)); return; }
    losses = larger(losses, fabs((double)report.loss / (double)((float *)x[9].data)[step] - 1));
    parts[0] = report.ce_fdc;
    parts[1] = report.frg;
    parts[2] = report.dist;
    parts[3] = report.ce_pc;
    parts[4] = report.kl_pc;
    for (k = 0; k < 5; k++) part = larger(part, off(parts[k], (double)((float *)x[10].data)[step * 5 + k]));
    for (k = 0; k < batch; k++) {
      gates = larger(gates, fabs((double)(r[k] - ((float *)x[11].data)[step * batch + k])));
      gates = larger(gates, fabs((double)(b[k] - ((float *)x[13].data)[step * batch + k])));
      targets = larger(targets, fabs((double)(target[k] - ((float *)x[12].data)[step * batch + k])));
    }
    for (i = 0; step == 0 && i < n; i++) {
      e = get(w, "grad0.", p[i]->name, FVG_F32);
      grad0 = larger(grad0, apart(p[i]->grad, &e, 0));
      fvg_tensor_free(c, &e);
    }
  }
  for (i = 0; i < n; i++) {
    e = get(w, "final.", p[i]->name, FVG_F32);
    final = larger(final, apart((float *)p[i]->value.data, &e, 1));
    fvg_tensor_free(c, &e);
  }
  logits = (float *)malloc((fvg_tensor_count(&x[14]) + fvg_tensor_count(&x[15])) * 4);
  check(base_logits(m, (float *)x[0].data, batch, (float *)x[5].data, x[5].dim[0], logits) == FVG_OK,
        "golden base logits");
  base = apart(logits, &x[14], 0);
  check(new_logits(m, (float *)x[0].data, (float *)x[2].data, batch, (float *)x[7].data, (float *)x[8].data,
                             x[7].dim[0], logits, NULL) == FVG_OK,
        "golden new logits");
  news = apart(logits, &x[15], 0);
  printf("%s: loss %.1e, parts %.1e, r and b %.1e, grad0 %.1e, final %.1e, base logits %.1e, new logits %.1e\n", file,
         losses, part, gates, grad0, final, base, news);
  check(losses < 1e-4, "golden losses");
  check(part < 1e-4, "golden parts of the loss");
  check(targets == 0 && gates < 1e-4, "golden r, r* and b");
  check(grad0 < 2e-4, "golden first gradient");
  check(final < final_tolerance, "golden final parameters");
  check(base < 3e-4 && news < 3e-4, "golden test logits");
  free(logits);
  for (i = 0; i < TENSORS; i++) fvg_tensor_free(c, &x[i]);
  fvg_optimizer_free(o);
  fvg_fvgpt_free(m);
  fvg_weights_close(w);
}

int main(void) {
  if (fvg_init(&c, NULL)) return 1;
  fvg_rng_seed(&rng, 8, 8);
  unit_rows(f, N, D);
  unit_rows(f_fg, N, D);
  unit_rows(f_clip, N, D);
  unit_rows(g, CLASSES, D);
  unit_rows(g_clip, CLASSES, D);
  test_variants();
  test_defaults();
  test_gradient_check();
  test_stable_by_hand();
  test_stable_alone();
  test_parameters();
  test_start_and_limits();
  test_all_foreground();
  test_target_shift();
  test_mixture();
  test_independence();
  test_ablation();
  golden("fvgpt_sgd.safetensors", FVG_SGD, 2e-5);
  golden("fvgpt_adamw.safetensors", FVG_ADAMW, 5e-4);
  test_impossible_descs();
  test_nothing_is_written();
  test_errors();
  check(fvg_mem_used(c) == 0, "no memory stays");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
