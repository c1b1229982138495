/* Chapter 8 of fvgpt.h: every kernel of eight-bit weights gives the bits of the one in plain C, with errors that theory
   bounds; bfloat16 on its own instruction and widened; gradients; models in eight bits and the files that hold them.
   Run from the repository root; writes under build/test-quantised. */
#ifndef __EMSCRIPTEN__                          /* whose threads need a build of their own */
#define FVGPT_PTHREADS
#endif
#include "random_model.h"
#include <sys/stat.h>

static fvg_rng rng;
static double largest(double a, double b) { return !(b <= a) ? b : a; }             /* a NaN is the largest */

/* ---- kernels ---- */
enum { MAX_FORMATS = 8 };
static struct { const char *name; const fvg__narrow *format; } formats[MAX_FORMATS];
static int n_formats;

/* Those of this build that the CPU can run; the first is that of plain C. */
static void find_formats(void) {
#define RUNS(text, f) formats[n_formats].name = text, formats[n_formats++].format = &f
  RUNS("scalar", fvg__q8_scalar);
#ifdef FVG__X86_SIMD
  int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  int has_avx512 = __builtin_cpu_supports("avx512f") && fvg__has_feature(0, 1, 30);
  RUNS("SSE2", fvg__q8_format_sse2);
  if (has_avx2) RUNS("AVX2", fvg__q8_format_avx2);
#ifdef FVG__HAS_AVX_VNNI
  if (has_avx2 && fvg__has_feature(1, 0, 4)) RUNS("AVX-VNNI", fvg__q8_format_avx_vnni);
#endif
#ifndef __OPTIMIZE_SIZE__
  if (has_avx512) RUNS("AVX-512", fvg__q8_format_avx512);
#endif
  if (has_avx512 && fvg__has_feature(0, 2, 11)) RUNS("AVX-512 VNNI", fvg__q8_format_avx512_vnni);
#elif defined(FVG__NEON_SIMD)
  RUNS(fvg__q8_format_neon.group == 4 ? "NEON, dot product" : "NEON", fvg__q8_format_neon);
#elif defined(FVG__WASM_SIMD)
  RUNS("WASM", fvg__q8_format_wasm);
#endif
}

enum { SPACE = 1 << 18 };
static float A[SPACE], W[SPACE], BIAS[4096], FROM[SPACE], OUT[SPACE], REFERENCE[SPACE];

static void fill(float *x, size_t n, double deviation) {
  for (size_t i = 0; i < n; i++) x[i] = (float)(deviation * fvg_rng_normal(&rng));
}

static fvg_tensor matrix_of(fvg_ctx *k, const float *x, int rows, int cols) {
  fvg_tensor t;
  memset(&t, 0, sizeof t);
  t.n_dim = 2;
  t.dim[0] = rows;
  t.dim[1] = cols;
  t.data = fvg_alloc_array(k, fvg_tensor_count(&t), sizeof *x);
  memcpy(t.data, x, fvg_tensor_count(&t) * sizeof *x);
  return t;
}

static fvg_tensor matrix(const float *x, int rows, int cols) { return matrix_of(c, x, rows, cols); }

/* out [m, n] = A W^T, on the threads of k; rows of out are n + 3 apart. */
static void multiply(fvg_ctx *k, const fvg_tensor *w, int m, const float *bias, const float *from, float *out) {
  int n = w->dim[0], depth = w->dim[1];
  fvg__product p;
  memset(&p, 0, sizeof p);
  p.m = m;
  p.n = n;
  p.k = depth;
  p.a = fvg__matrix(A, depth, 1);
  p.b = fvg__matrix((const float *)w->data, 1, depth);
  p.b.type = w->type;
  p.bias = bias;
  p.from = from;
  p.out = out;
  p.ld_from = p.ld_out = n + 3;
  float *room = (float *)malloc(sizeof(float) * fvg__narrow_floats(((fvg__narrow_matrix *)w->data)->format, m, depth));
  need(!fvg__narrow_product(k, &p, room), "a product");
  free(room);
}

/* The product by kernel number f; OUT outside of it must stay as it is. */
static void product_of(fvg_ctx *k, int f, int m, int n, int depth, int mode, float *out) {
  const fvg__narrow *usual = c->q8;
  fvg_tensor w = matrix(W, n, depth);
  c->q8 = formats[f].format;
  need(!fvg_tensor_quantise(c, &w), "weights are quantised");
  c->q8 = usual;
  for (int i = 0; i < m * (n + 3); i++) out[i] = -7.5f;
  multiply(k, &w, m, mode & 1 ? BIAS : NULL, mode & 2 ? FROM : NULL, out);
  fvg_tensor_free(c, &w);
}

static void test_kernels(fvg_ctx *threads) {
  static const int odd[][3] = {{1, 1, 1}, {1, 33, 2}, {2, 31, 3}, {3, 65, 4}, {13, 17, 5}, {15, 64, 63}, {29, 7, 130},
                               {50, 100, 771}, {113, 40, 64}, {197, 96, 256}, {961, 33, 15}, {1, 40, 5000}};
  int different[MAX_FORMATS] = {0}, outside = 0, n_odd = sizeof odd / sizeof *odd;
  for (int i = 0; i < 60 + n_odd; i++) {
    int m = 1 + (int)fvg_rng_below(&rng, 40), n = 1 + (int)fvg_rng_below(&rng, 80), k = 1 + (int)fvg_rng_below(&rng, 200);
    if (i >= 60) { m = odd[i - 60][0]; n = odd[i - 60][1]; k = odd[i - 60][2]; }
    size_t bytes = sizeof(float) * (size_t)(m * (n + 3));
    fill(A, (size_t)(m * k), i % 3 ? 1 : 1e-5);
    fill(W, (size_t)(n * k), i % 4 ? 0.05 : 300);
    fill(FROM, (size_t)(m * (n + 3)), 1);
    product_of(NULL, 0, m, n, k, i, REFERENCE);
    for (int r = 0; r < m; r++) for (int j = n; j < n + 3; j++) outside += REFERENCE[r * (n + 3) + j] != -7.5f;
    for (int f = 0; f < n_formats; f++) {
      product_of(i % 2 ? threads : NULL, f, m, n, k, i, OUT);
      different[f] += memcmp(OUT, REFERENCE, bytes) != 0;
    }
  }
  for (int f = 0; f < n_formats; f++) {
    if (different[f]) printf("  %s: %d of %d products\n", formats[f].name, different[f], 60 + n_odd);
    check(!different[f], "a kernel of eight bits gives the bits of plain C");
  }
  check(!outside, "and nothing beyond the result");
}

/* Numbers where a kernel that saturates, or rounds otherwise, would give itself away. */
static void test_extremes(void) {
  enum { M = 15, N = 37, K = 4099 };
  static const float halves[9] = {127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 3.4999998f, 63.5f, -127};
  for (int mode = 0; mode < 5; mode++) {
    int same_bits = 1;
    for (int i = 0; i < M * K; i++) {
      float sign = mode == 2 && i % 2 ? -1.0f : 1.0f;
      A[i] = mode == 3 ? halves[i % K % 9] : mode == 4 ? 1e-31f : sign * (i / K % 2 ? 1.0f : -3e5f);
    }
    for (int i = 0; i < N * K; i++) W[i] = mode == 2 && i % 3 ? 1.0f : i / K % 3 ? -1.0f : 1.0f;
    product_of(NULL, 0, M, N, K, 0, REFERENCE);
    for (int f = 1; f < n_formats; f++) {
      product_of(NULL, f, M, N, K, 0, OUT);
      same_bits &= !memcmp(OUT, REFERENCE, sizeof(float) * M * (N + 3));
    }
    check(same_bits, "127 and -127 everywhere, ties and tiny numbers: the bits of plain C");
    if (mode == 0) check(fabs((double)REFERENCE[0] / (-3e5 * K) - 1) < 1e-6, "whose sums are right");
    if (mode == 4) check(REFERENCE[0] == 0 && REFERENCE[M] == 0, "rows below 1e-30 are zeros");
  }
}

/* The most k that is allowed, with all words and weights at their ends: sums still fit in 32 bits. */
static void test_widest(void) {
  enum { M = 2, N = 3, K = 65536 };
  for (int i = 0; i < M * K; i++) A[i] = i < K ? 3.0f : -3.0f;
  for (int i = 0; i < N * K; i++) W[i] = i / K % 2 ? -1.0f : 1.0f;
  for (int f = 0; f < n_formats; f++) {
    double off = 0;
    product_of(NULL, f, M, N, K, 0, OUT);
    for (int i = 0; i < M; i++)
      for (int j = 0; j < N; j++) {
        double y = 3.0 * K * ((i + j) % 2 ? -1 : 1);
        off = largest(off, fabs((double)OUT[i * (N + 3) + j] / y - 1));
      }
    check(off < 1e-6, "the widest rows are summed without overflow");
  }
}

/* |error| <= sum_k (t |q| s + s |p - z| t) / 2 + k t s / 4, and what F32 itself rounds. */
static double share_of_bound(const float *x, const float *w, int n, float got) {
  double low = 0, high = 0, s = 0, y = 0, bound = 0;
  for (int k = 0; k < n; k++) {
    low = fmin(low, (double)x[k]);
    high = fmax(high, (double)x[k]);
    s = fmax(s, fabs((double)w[k]) / 127);
  }
  double t = (high - low) / 254;
  for (int k = 0; k < n; k++) {
    y += (double)x[k] * (double)w[k];
    bound += t * fabs(rint((double)w[k] / s)) * s / 2 + s * fabs(rint((double)x[k] / t)) * t / 2 + t * s / 4;
  }
  return fabs((double)got - y) / bound;
}

/* Rows about 0, on one side of it, and behind gelu. */
static void test_bound(void) {
  enum { M = 32, N = 29, K = 300 };
  double worst = 0, share = 0;
  fill(A, M * K, 1);
  fill(W, N * K, 0.1);
  for (int i = 0; i < M * K; i++) {
    if (i / K % 4 == 1) A[i] = fabsf(A[i]) + 1;
    if (i / K % 4 == 2) A[i] = -fabsf(A[i]);
    if (i / K % 4 == 3) A[i] = A[i] * 0.5f * (1 + erff(A[i] * 0.70710678f));
  }
  product_of(NULL, n_formats - 1, M, N, K, 0, OUT);
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) {
      double part = share_of_bound(A + i * K, W + j * K, K, OUT[i * (N + 3) + j]);
      worst = largest(worst, part);
      share += part / (M * N);
    }
  printf("eight bits: error at most %.3f of its bound, %.4f on average\n", worst, share);
  check(worst < 1 && share > 0, "the error is within its bound");
}

/* Weights that are the identity give x as it was rounded.  Behind gelu it lies between -0.17 and the largest, and a scale
   for -max .. max would be nearly twice as large. */
static void test_one_sided(void) {
  enum { M = 32, K = 256 };
  double ours = 0, symmetric = 0;
  fill(A, M * K, 2);
  for (int i = 0; i < M * K; i++) A[i] = A[i] * 0.5f * (1 + erff(A[i] * 0.70710678f));
  for (int i = 0; i < K * K; i++) W[i] = i / K == i % K ? 127.0f : 0.0f;
  product_of(NULL, n_formats - 1, M, K, K, 0, OUT);
  for (int r = 0; r < M; r++) {
    const float *x = A + r * K;
    double max = 0;
    for (int k = 0; k < K; k++) max = fmax(max, fabs((double)x[k]));
    for (int k = 0; k < K; k++) {
      double rounded = rint((double)x[k] / max * 127) * max / 127;
      symmetric += (rounded - (double)x[k]) * (rounded - (double)x[k]);
      double off = (double)OUT[r * (K + 3) + k] / 127 - (double)x[k];
      ours += off * off;
    }
  }
  printf("behind gelu: error %.3f times smaller than with symmetric ranges\n", sqrt(symmetric / ours));
  check(sqrt(symmetric / ours) > 1.8, "a row on one side of zero has all integers for itself");
}

static void test_not_finite(void) {
  enum { M = 6, N = 5, K = 70 };
  for (int f = 0; f < n_formats; f++) {
    int right = 1;
    fill(A, M * K, 1);
    fill(W, N * K, 1);
    A[K + 69] = NAN;
    A[3 * K] = INFINITY;
    A[4 * K + 33] = -INFINITY;
    product_of(NULL, f, M, N, K, 3, OUT);
    for (int i = 0; i < M; i++)
      for (int j = 0; j < N; j++) right &= isnan(OUT[i * (N + 3) + j]) == (i == 1 || i == 3 || i == 4);
    check(right, "rows with a NaN or an infinity give NaN, and no others");
  }
}

/* Rows of bfloat16, and the floats that they stand for in W. */
static fvg_tensor bfloats(fvg_ctx *of, int n, int k) {
  for (int i = 0; i < n * k; i++) W[i] = fvg_bfloat_to_float(fvg_float_to_bfloat((float)fvg_rng_normal(&rng)));
  fvg_tensor w = matrix_of(of, W, n, k);
  w.type = FVG_BF16;
  for (int i = 0; i < n * k; i++) ((uint16_t *)w.data)[i] = fvg_float_to_bfloat(W[i]);
  return w;
}

/* The instruction for bfloat16, wherever there is one: also where it is slow and not taken. */
static void test_bfloat(void) {
#ifdef FVG__HAS_AVX512_BF16
  enum { M = 29, N = 45, K = 301 };
  int has_bytes = __builtin_cpu_supports("avx512f") && fvg__has_feature(0, 1, 30);
  if (!has_bytes || !fvg__has_feature(1, 0, 5)) {
    printf("bfloat16: this CPU has no instruction for it\n");
    return;
  }
  const fvg__narrow *usual = c->bf16;
  fvg_tensor w = bfloats(c, N, K);
  double worst = 0;
  fill(A, M * K, 1);
  A[2 * K] = NAN;
  c->bf16 = &fvg__bf16_format_avx512;
  check(!fvg_tensor_pack(c, &w) && w.type == FVG_BF16_PANELS, "bfloat16 in panels");
  multiply(NULL, &w, M, NULL, NULL, OUT);
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) {
      double y = 0, size = 0;
      for (int k = 0; k < K; k++) {
        double xy = (double)fvg_bfloat_to_float(fvg_float_to_bfloat(A[i * K + k])) * (double)W[j * K + k];
        y += xy;
        size += fabs(xy);
      }
      if (i == 2) worst = isnan(OUT[i * (N + 3) + j]) ? worst : 1e9;
      else worst = largest(worst, fabs((double)OUT[i * (N + 3) + j] - y) / size);
    }
  check(worst < 301 * 6e-8, "bfloat16 of rounded numbers, summed in F32");
  c->bf16 = usual;
  fvg_tensor_free(c, &w);
#endif
}

/* Weights that are widened give the bits of F32 in rows: y and dx of x [m,k] and w [n,k], and of bfloat16 y without a
   gradient. */
static int widened_is_right(fvg_ctx *of, fvg_dtype type, int m, int n, int k) {
  static float y[2][29 * 300];
  const size_t x_bytes = sizeof *A * (size_t)(m * k), y_bytes = sizeof **y * (size_t)(m * n);
  const int dim[2] = {m, k}, last = n - 1;
  fvg_parameter x[2];
  fvg_tensor w[2];
  fvg_tape *t = fvg_tape_new(of);
  fill(A, (size_t)(m * k), 1);
  w[0] = bfloats(of, n, k);
  w[1] = matrix_of(of, W, n, k);
  if (type == FVG_Q8) {
    fvg_tensor_free(of, &w[0]);
    w[0] = matrix_of(of, W, n, k);
    need(!fvg_tensor_quantise(of, &w[0]) && !fvg_tensor_quantise(of, &w[1]) && !fvg_tensor_unpack(of, &w[1]), "weights");
  } else {
    need(!fvg_tensor_pack(of, &w[0]) && w[0].type == FVG_BF16_PANELS, "weights");
  }

  for (int f = 0; f < 2; f++) {
    need(!fvg_parameter_new(of, &x[f], "x", 2, dim), "a parameter");
    memcpy(x[f].value.data, A, x_bytes);
    fvg_node *out = fvg_linear(fvg_param(t, &x[f]), fvg_frozen(t, &w[f]), NULL);
    memcpy(y[f], fvg_value(out), y_bytes);
    need(!fvg_backward(fvg_sum(fvg_mul(out, out))), "backward");
    fvg_tape_clear(t);
  }
  int right = !memcmp(y[0], y[1], y_bytes) && !memcmp(x[0].grad, x[1].grad, x_bytes);

  fvg_node *frozen = fvg_frozen(t, &w[0]);
  if (type != FVG_Q8) right &= !memcmp(fvg_value(fvg_linear(fvg_const(t, m, k, A), frozen, NULL)), y[1], y_bytes);
  right &= !memcmp(fvg_value(fvg_gather(frozen, &last, 1)), (float *)w[1].data + last * k, sizeof *W * (size_t)k);

  fvg_tape_free(t);
  for (int f = 0; f < 2; f++) {
    fvg_parameter_free(of, &x[f]);
    fvg_tensor_free(of, &w[f]);
  }
  return right;
}

static void test_widened(int simd) {
  static const int sizes[][3] = {{29, 45, 301}, {1, 1, 1}, {3, 1, 300}, {5, 70, 1}, {15, 33, 530}, {4, 290, 31}};
  fvg_desc desc;
  fvg_ctx *of;
  memset(&desc, 0, sizeof desc);
  desc.simd = simd;
  need(!fvg_init(&of, &desc), "a context");
  if ((int)of->kernels->level != simd) {                      /* the CPU has not got it */
    fvg_free(of);
    return;
  }
  of->bf16 = &fvg__bf16_widened[of->kernels->tile_cols / 16];
  for (int i = 0; i < (int)(sizeof sizes / sizeof *sizes); i++) {
    const int *size = sizes[i];
    int eight_bits = 1;
    check(widened_is_right(of, FVG_BF16, size[0], size[1], size[2]), "widened bfloat16 gives the bits of F32, forward and back");
    for (int f = 0; f < n_formats; f++) {
      of->q8 = formats[f].format;
      eight_bits &= widened_is_right(of, FVG_Q8, size[0], size[1], size[2]);
    }
    check(eight_bits, "and so do eight bits, whatever their order");
  }
  fvg_free(of);
}

/* ---- on a tape ---- */
static int close_to(const float *a, const float *b, int n) { return difference(a, b, n) < 2e-6; }

static fvg_node *linear_of(fvg_tape *t, fvg_node *x, void *w) { return fvg_linear(x, fvg_frozen(t, (fvg_tensor *)w), NULL); }

/* Where a gradient goes through x, weights are those that the integers stand for, forward and back. */
static void test_gradients(void) {
  enum { M = 9, N = 70, K = 300 };
  static float plain[M * N], wide[M * N], rows[N * K], gathered[3 * K], quick[M * N];
  const int dim[2] = {M, K}, pick[3] = {69, 0, 33};
  fvg_parameter x[2];
  fvg_tape *t = fvg_tape_new(c);
  fill(W, N * K, 1);
  fill(A, M * K, 1);
  for (int kind = 0; kind < 2; kind++) {
    fvg_tensor w = matrix(W, N, K), widened;
    need(!fvg_tensor_quantise(c, &w) && w.type == FVG_Q8, "weights are quantised");
    for (int j = 0; j < N; j++) fvg__narrow_widen((const fvg__narrow_matrix *)w.data, j, 0, K, rows + j * K, 1);
    widened = matrix(rows, N, K);
    for (int i = 0; i < 2; i++) {
      need(!fvg_parameter_new(c, &x[i], "x", 2, dim), "a parameter");
      memcpy(x[i].value.data, A, sizeof(float) * M * K);
      fvg_node *y = kind ? fvg_recompute(fvg_param(t, &x[i]), linear_of, i ? &widened : &w)
                         : linear_of(t, fvg_param(t, &x[i]), i ? &widened : &w);
      memcpy(i ? plain : wide, fvg_value(y), sizeof plain);
      need(!fvg_backward(fvg_sum(fvg_mul(y, y))), "backward");
      fvg_tape_clear(t);
    }
    check(close_to(wide, plain, M * N), "with a gradient, forward is that of widened weights");
    check(close_to(x[0].grad, x[1].grad, M * K), "and so is the gradient");
    fvg_node *y = linear_of(t, fvg_const(t, M, K, A), &w);
    memcpy(quick, fvg_value(y), sizeof quick);
    check(!close_to(quick, plain, M * N) && difference(quick, plain, M * N) < 0.02, "without one, x is rounded too");
    memcpy(gathered, fvg_value(fvg_gather(fvg_frozen(t, &w), pick, 3)), sizeof gathered);
    check(!memcmp(gathered, rows + 69 * K, K * 4) && !memcmp(gathered + 2 * K, rows + 33 * K, K * 4), "rows are gathered");
    check(!fvg_tensor_unpack(c, &w) && w.type == FVG_F32 && !memcmp(w.data, rows, sizeof rows), "and unpacked");
    fvg_tape_clear(t);
    for (int i = 0; i < 2; i++) fvg_parameter_free(c, &x[i]);
    fvg_tensor_free(c, &w);
    fvg_tensor_free(c, &widened);
  }
  fvg_tape_free(t);
}

/* x needs no gradient, but is multiplied by a parameter behind the weights. */
enum { TWICE_M = 5, TWICE_N = 33, TWICE_K = 200 };
typedef struct seen { fvg_tensor *w; fvg_parameter *p; int n; float y[2][TWICE_M * TWICE_N]; } seen;

static fvg_node *linear_seen(fvg_tape *t, fvg_node *x, void *user) {
  seen *k = (seen *)user;
  fvg_node *y = linear_of(t, x, k->w);
  if (y && k->n < 2) memcpy(k->y[k->n++], fvg_value(y), sizeof k->y[0]);
  return fvg_mul(y, fvg_param(t, k->p));
}

/* What is run twice has the same values both times, and without gradients nothing is widened. */
static void test_twice(void) {
  static seen k;
  static float quick[TWICE_M * TWICE_N];
  const int dim[2] = {TWICE_M, TWICE_N};
  fvg_parameter p;
  fvg_tape *t = fvg_tape_new(c);
  fill(W, TWICE_N * TWICE_K, 1);
  fill(A, TWICE_M * TWICE_K, 1);
  fvg_tensor w = matrix(W, TWICE_N, TWICE_K);
  need(!fvg_tensor_quantise(c, &w) && !fvg_parameter_new(c, &p, "p", 2, dim), "weights and a parameter");
  for (int i = 0; i < TWICE_M * TWICE_N; i++) ((float *)p.value.data)[i] = 1;

  memcpy(quick, fvg_value(linear_of(t, fvg_const(t, TWICE_M, TWICE_K, A), &w)), sizeof quick);
  t->no_grad++;
  fvg_node *y = linear_of(t, fvg_const(t, TWICE_M, TWICE_K, A), &w);
  t->no_grad--;
  check(y && !memcmp(fvg_value(y), quick, sizeof quick), "without gradients, x is rounded");

  k.w = &w;
  k.p = &p;
  y = fvg_recompute(fvg_const(t, TWICE_M, TWICE_K, A), linear_seen, &k);
  need(y && !fvg_backward(fvg_sum(y)), "backward through what is run twice");
  check(k.n == 2 && !memcmp(k.y[0], k.y[1], sizeof k.y[0]), "the same values both times");
  check(!memcmp(p.grad, k.y[0], sizeof k.y[0]), "and the gradient is theirs");
  fvg_tape_free(t);
  fvg_parameter_free(c, &p);
  fvg_tensor_free(c, &w);
}

static void test_refused(void) {
  fvg_tensor w = matrix(W, 2, 65537), small = matrix(W, 4, 6);
  fvg_tape *t = fvg_tape_new(c);
  fvg_parameter p;
  fvg_parameter *list = &p;
  check(fvg_tensor_quantise(c, &w) == FVG_E_UNSUPPORTED && one_line("65537", "32 bits") && w.type == FVG_F32, "too wide");
  check(fvg_tensor_quantise(c, NULL) == FVG_E_ARG, "no tensor");
  ((float *)small.data)[7] = NAN;
  check(fvg_tensor_quantise(c, &small) == FVG_E_NUMERIC && one_line("row 1", "finite") && small.type == FVG_F32, "NaN");
  ((float *)small.data)[7] = 0;
  check(!fvg_tensor_quantise(c, &small) && !fvg_tensor_quantise(c, &small), "quantised twice is quantised once");
  check(fvg_tensor_pack(c, &small) == FVG_E_ARG && small.type == FVG_Q8, "eight bits are no F32");
  check(!fvg_add(fvg_zeros(t, 4, 6), fvg_frozen(t, &small)) && one_line("Q8", "linear"), "nor an operand like others");
  memset(&p, 0, sizeof p);
  p.name = "p";
  p.value = small;
  fvg_tape_clear(t);
  fvg_tape_train(t, &list, 1);
  check(!fvg_frozen(t, &small) && one_line("few bits", ""), "nor anything to train");
  fvg_tape_free(t);
  fvg_tensor_free(c, &w);
  fvg_tensor_free(c, &small);
}

/* ---- models ---- */
static double cosine(const float *a, const float *b, int n, int width) {
  double worst = 1;
  for (int i = 0; i < n; i++, a += width, b += width) {
    double aa = 0, bb = 0, ab = 0;
    for (int k = 0; k < width; k++) {
      aa += (double)a[k] * (double)a[k];
      bb += (double)b[k] * (double)b[k];
      ab += (double)a[k] * (double)b[k];
    }
    worst = fmin(worst, ab / sqrt(aa * bb));
  }
  return worst;
}

static void test_models(features *q8) {
  static const fvg_dtype kind[3] = {FVG_F32, FVG_BF16, FVG_Q8};
  features f[3], other;
  uint64_t key[3][2];
  for (int i = 0; i < 3; i++) {
    fvg_clip *m = must_load(&hf, NULL, kind[i]);
    encode(m, &f[i]);
    need(!fvg_clip_image_key(m, key[i]), "a key");
    check(m->kept_as == kind[i], "a model knows how it is kept");
    fvg_clip_free(m);
    double image = cosine(f[0].image, f[i].image, IMAGES, EMBED), text = cosine(f[0].text, f[i].text, TEXTS, EMBED);
    printf("%s: cosine with f32 %.6f, texts %.6f\n", fvg__dtype_name(kind[i]), image, text);
    check(image > (i < 2 ? 0.9995 : 0.99) && text > (i < 2 ? 0.9995 : 0.99), "features are near those of f32");
  }
  check(memcmp(key[0], key[1], sizeof *key) && memcmp(key[0], key[2], sizeof *key) && memcmp(key[1], key[2], sizeof *key),
        "and have keys of their own");
  fvg_clip *m = must_load(&openai, NULL, FVG_Q8);
  encode(m, &other);
  check(same_images(&other, &f[2]) && same_texts(&other, &f[2]), "OpenAI's names, with q, k and v in one, give the same bits");
  fvg_clip_free(m);
  *q8 = f[2];
}

static const char folder[] = "build/test-quantised", path[] = "build/test-quantised/model.safetensors";

static fvg_status open_q8(fvg_clip **m, fvg_dtype keep_as) { return fvg_clip_open(c, m, path, NULL, keep_as); }

static double size_of(const char *file) {
  fvg_source source;
  need(!fvg_source_file(c, &source, file), "a file");
  double size = (double)source.size;
  fvg_source_close(&source);
  return size;
}

/* Writes both models, reads them back, and has them computed with. */
static void test_files(const features *q8) {
  const model *both[2] = {&hf, &openai};
  mkdir("build", 0777);
  mkdir(folder, 0777);
  need(!fvg_file_save(c, "build/test-quantised/merges.txt", merges, sizeof merges - 1), "a vocabulary");
  for (int i = 0; i < 2; i++) {
    features f;
    fvg_clip *m = NULL;
    const char plain[] = "build/test-quantised/plain.safetensors";
    need(!fvg_safetensors_save(c, plain, both[i]->tensor, both[i]->n, NULL, 0), "a model is written");
    check(!fvg_clip_quantise(c, plain, path), "a model is quantised");
    check(size_of(path) < 0.36 * size_of(plain), "and much smaller");
    for (int as = 0; as < 2; as++) {
      check(!open_q8(&m, as ? FVG_Q8 : FVG_F32) && m->kept_as == FVG_Q8, "it is eight bits whatever was asked for");
      encode(m, &f);
      check(same_images(&f, q8) && same_texts(&f, q8), "and gives the bits of a model that is quantised when loaded");
      fvg_clip_free(m);
    }
    check(open_q8(&m, FVG_BF16) == FVG_E_UNSUPPORTED && !m && one_line("eight-bit", "BF16"), "but never other bits");
    check(fvg_clip_quantise(c, path, "build/test-quantised/twice") == FVG_E_UNSUPPORTED && one_line("already", "") &&
          !fvg_file_exists("build/test-quantised/twice"), "and is not quantised again");
  }
  check(fvg_clip_quantise(c, path, NULL) == FVG_E_ARG, "a file is needed");
}

/* The image tower in eight bits, the text tower as it is; a file of eight bits has them in both. */
static void test_images_alone(const features *q8) {
  features f32, f;
  fvg_clip *m = must_load(&hf, NULL, FVG_F32);
  encode(m, &f32);
  fvg_clip_free(m);
  for (int i = 0; i < 2; i++) {
    m = must_load(i ? &openai : &hf, NULL, FVG_Q8_IMAGES);
    encode(m, &f);
    check(m->kept_as == FVG_Q8_IMAGES && m->text.token_embedding.type == FVG_F32, "texts are kept in f32");
    check(same_images(&f, q8), "images are those of eight bits");
    check(same_texts(&f, &f32) && !same_texts(&f, q8), "and texts those of f32");
    fvg_clip_free(m);
  }
  check(!open_q8(&m, FVG_Q8_IMAGES) && m->kept_as == FVG_Q8, "a file of eight bits stays what it is");
  encode(m, &f);
  check(same_images(&f, q8) && same_texts(&f, q8), "in both towers");
  fvg_clip_free(m);
}

/* The quantised file with one tensor changed: what a name, a type, a shape and a number must be. */
typedef enum damage { NO_SCALE, FEW_SCALES, NEGATIVE, NOT_A_NUMBER, TOO_LOW, BYTES, N_DAMAGES } damage;

static fvg_status open_damaged(damage what) {
  static fvg_named_tensor list[2 * MAX_TENSORS];
  static const char weight[] = "vision_model.encoder.layers.1.mlp.fc1.weight";
  fvg_source source;
  fvg_weights *w;
  fvg_clip *m = NULL;
  int n = 0;
  need(!fvg_source_file(c, &source, path) && !fvg_weights_open(c, &w, &source), "the file is open");
  for (int i = 0; i < fvg_weights_count(w); i++) {
    fvg_tensor *x = &list[n].tensor, shape;
    list[n].name = fvg_weights_name(w, i);
    fvg_weights_info(w, &shape, list[n].name);
    need(!fvg_weights_get(w, x, list[n].name, shape.type), "a tensor is read");
    n++;
    if (strncmp(list[n - 1].name, weight, sizeof weight - 1)) continue;
    int is_scale = list[n - 1].name[sizeof weight - 1] != 0;
    if (is_scale && what == NO_SCALE) fvg_tensor_free(c, &list[--n].tensor);
    else if (is_scale && what == FEW_SCALES) x->dim[0]--;
    else if (is_scale && what == NEGATIVE) ((float *)x->data)[3] = -0.25f;
    else if (is_scale && what == NOT_A_NUMBER) ((float *)x->data)[3] = NAN;
    else if (!is_scale && what == TOO_LOW) ((int8_t *)x->data)[2 * VISION + 5] = -128;
    else if (!is_scale && what == BYTES) x->type = FVG_U8;
  }
  need(!fvg_safetensors_save(c, "build/test-quantised/bad.safetensors", list, n, NULL, 0), "it is written");
  fvg_weights_close(w);
  for (int i = 0; i < n; i++) fvg_tensor_free(c, &list[i].tensor);
  fvg_status s = fvg_clip_open(c, &m, "build/test-quantised/bad.safetensors", NULL, FVG_F32);
  need(!m, "no model");
  fvg_clip_free(m);
  return s;
}

static void test_damaged(void) {
  const char plain[] = "build/test-quantised/plain.safetensors";
  need(!fvg_safetensors_save(c, plain, hf.tensor, hf.n, NULL, 0) && !fvg_clip_quantise(c, plain, path), "a file");
  check(open_damaged(NO_SCALE) == FVG_E_FORMAT && one_line("fc1.weight_scale", "mean nothing"), "without a scale");
  check(open_damaged(FEW_SCALES) == FVG_E_SHAPE && one_line("fc1.weight_scale", "expected [96, 1]"), "a scale too few");
  check(open_damaged(NEGATIVE) == FVG_E_FORMAT && one_line("row 3", "-0.25"), "a negative scale");
  check(open_damaged(NOT_A_NUMBER) == FVG_E_NUMERIC && one_line("fc1.weight_scale", "nan"), "a scale that is none");
  check(open_damaged(TOO_LOW) == FVG_E_FORMAT && one_line("fc1.weight", "-128 in row 2"), "-128");
  check(open_damaged(BYTES) == FVG_E_UNSUPPORTED && one_line("fc1.weight", "U8"), "bytes without a sign");
}

int main(void) {
  fvg_ctx *threads;
  fvg_desc desc;
  features q8;
  memset(&desc, 0, sizeof desc);
  desc.n_threads = 3;
  if (fvg_init(&c, NULL) || fvg_init(&threads, &desc)) return 1;
  fvg_rng_seed(&rng, 8, 0);
  fill(BIAS, 4096, 1);
  find_formats();
  for (int i = 0; i < n_formats; i++) printf("%s%s", i ? ", " : "kernels: ", formats[i].name);
  printf("\n");
  test_kernels(threads);
  test_extremes();
  test_widest();
  test_bound();
  test_one_sided();
  test_not_finite();
  test_bfloat();
  for (int simd = FVG_SIMD_SCALAR; simd <= FVG_SIMD_WASM; simd++) test_widened(simd);
  test_gradients();
  test_twice();
  test_refused();
  make_random_model();
  test_models(&q8);
  test_files(&q8);
  test_images_alone(&q8);
  test_damaged();
  fvg_free(threads);
  size_t left = fvg_mem_used(c);
  fvg_free(c);
  printf("%lu bytes in use at the end\n%d passed, %d failed\n", (unsigned long)left, passed, failed);
  return failed != 0;
}
