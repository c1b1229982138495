/* Chapters 6 and 7 of fvgpt.h: every SIMD level of this CPU against double arithmetic and the scalar kernels;
   threads change no bit. */
#ifndef __EMSCRIPTEN__                          /* whose threads need a build of their own */
#define FVGPT_PTHREADS
#endif
#define FVGPT_IMPLEMENTATION
#include "../fvgpt.h"

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

static const char *const level_name[] = {"best", "scalar", "SSE2", "AVX2", "AVX-512", "NEON", "WASM"};
static const fvg__kernels *now;                                       /* the level under test */
static const fvg__gradient_kernels *gradients;                         /* and its kernels for gradients */
static void check_level(int ok, const char *what) {
  char line[200];
  snprintf(line, sizeof line, "%s: %s", level_name[now->level], what);
  check(ok, line);
}

static fvg_rng rng;
static float uniform(double low, double high) { return (float)(low + (high - low) * fvg_rng_uniform(&rng)); }
static double largest(double a, double b) { return !(b <= a) ? b : a; }             /* a NaN is the largest */

/* ---- matrix product ---- */
#define GUARD (-7.5f)
typedef enum orientation { FORWARD, BACK_TO_INPUT, BACK_TO_WEIGHT } orientation;

/* Weights [rows, cols] in the panels of the level under test. */
static float *panels_of(const float *w, int rows, int cols) {
  int width = now->tile_cols, p, j, i;
  float *panels = (float *)calloc((size_t)((rows + width - 1) / width * width) * (size_t)cols, sizeof *panels);
  for (p = 0; p * width < rows; p++)
    for (j = 0; j < cols; j++)
      for (i = 0; i < width && p * width + i < rows; i++)
        panels[((size_t)p * (size_t)cols + (size_t)j) * (size_t)width + (size_t)i] =
            w[(size_t)(p * width + i) * (size_t)cols + (size_t)j];
  return panels;
}

enum { PLAIN = 0, ACCUMULATE = 1, BIAS = 2, TILED = 4 };

/* Worst error of one product in units of 2^-24 sum |a b|; huge if anything outside the result was written. */
static double gemm_error(int m, int n, int k, orientation o, fvg_dtype type, int mode, int offset) {
  size_t na = (size_t)m * (size_t)k, nb = (size_t)k * (size_t)n, ld = (size_t)n + 3, no = (size_t)m * ld, i;
  float *block_a = (float *)malloc((na + 8) * 4), *block_b = (float *)malloc((nb + 8) * 4),
        *block_o = (float *)malloc((no + 8) * 4), *bias = (float *)malloc((size_t)n * 4), *panels = NULL, *tiles;
  float *a = block_a + offset, *b = block_b + offset, *out = block_o + offset;
  uint16_t *b16 = (uint16_t *)(void *)block_b + offset;
  fvg__product p;
  double worst = 0;
  int r, c, j, half = type == FVG_F16 || type == FVG_BF16;
  for (i = 0; i < na; i++) a[i] = uniform(-1, 1);
  for (i = 0; i < nb; i++) {
    float x = uniform(-1, 1);
    if (!half) b[i] = x;
    else b16[i] = type == FVG_F16 ? fvg_float_to_half(x) : fvg_float_to_bfloat(x);
  }
  for (i = 0; i < no; i++) out[i] = GUARD;
  for (c = 0; c < n; c++) bias[c] = uniform(-1, 1);
  memset(&p, 0, sizeof p);
  p.kernels = now;
  p.m = m;
  p.n = n;
  p.k = k;
  p.a = fvg__matrix(a, o == BACK_TO_WEIGHT ? 1 : k, o == BACK_TO_WEIGHT ? m : 1);
  p.b = fvg__matrix(b, o == FORWARD ? 1 : n, o == FORWARD ? k : 1);
  if (half) p.b.data = b16;
  if (type == FVG_F32_PANELS) p.b.data = panels = o == FORWARD ? panels_of(b, n, k) : panels_of(b, k, n);
  p.b.type = type;
  p.out = out;
  p.ld_out = p.ld_from = (ptrdiff_t)ld;
  if (mode & ACCUMULATE) p.from = out;
  if (mode & BIAS) p.bias = bias;
  tiles = (float *)malloc((fvg__tiled_floats(now, m, k) + 1) * 4);
  if (mode & TILED) p.tiled_a = tiles;
  fvg__gemm(NULL, &p);
  for (r = 0; r < m; r++)
    for (c = 0; c < (int)ld; c++) {
      double sum = mode & ACCUMULATE ? (double)GUARD : 0, size = fabs(sum),
             got = (double)out[(size_t)r * ld + (size_t)c];
      if (c >= n) { if (out[(size_t)r * ld + (size_t)c] != GUARD) worst = 1e9; continue; }
      if (mode & BIAS) { sum += (double)bias[c]; size += fabs((double)bias[c]); }
      for (j = 0; j < k; j++) {
        ptrdiff_t at = j * p.b.row + c * p.b.col;
        double y = (double)(!half ? b[at] : type == FVG_F16 ? fvg_half_to_float(b16[at])
                                                            : fvg_bfloat_to_float(b16[at]));
        double x = (double)a[r * p.a.row + j * p.a.col];
        sum += x * y;
        size += fabs(x * y);
      }
      worst = largest(worst, fabs(got - sum) / (size * ldexp(1, -24)));
    }
  free(block_a);
  free(block_b);
  free(block_o);
  free(bias);
  free(panels);
  free(tiles);
  return worst;
}

static void test_gemm(void) {
  static const int crossing[][3] = {{1, 1, 255}, {3, 33, 256}, {2, 31, 257}, {7, 16, 513}, {13, 65, 1025},
                                    {479, 5, 9}, {480, 33, 4}, {481, 31, 3}, {961, 17, 2}, {960, 1, 1},
                                    {111, 3, 1024}, {113, 67, 3}, {225, 35, 7}, {897, 33, 2}, {15, 130, 1100}};
  static const fvg_dtype types[4] = {FVG_F32, FVG_F16, FVG_BF16, FVG_F32_PANELS};
  double worst = 0, crossed = 0;
  int i, size;
  for (size = 1; size <= 70; size++)
    for (i = 0; i < 24; i++) { /* three orientations, four storages, eight modes */
      int m = i % 2 ? size : 1 + (int)fvg_rng_below(&rng, 20),
          n = i % 4 < 2 ? size : 1 + (int)fvg_rng_below(&rng, 70);
      int k = i % 8 < 4 ? size : 1 + (int)fvg_rng_below(&rng, 70), mode = (int)fvg_rng_below(&rng, 8);
      orientation o = (orientation)(i % 3);
      fvg_dtype type = types[i / 3 % 4];
      if (type == FVG_F32_PANELS && o == BACK_TO_WEIGHT) type = FVG_F32;     /* dW reads activations, not weights */
      worst = largest(worst, gemm_error(m, n, k, o, type, mode, (size + i) % 4));
    }
  check_level(worst < 8, "matrix products of sizes 1..70, three orientations, f32/f16/bf16/panels, all modes");
  for (size = 0; size < 15; size++)
    for (i = 0; i < 12; i++) {
      orientation o = (orientation)(i % 3);
      fvg_dtype type = types[i / 3];
      if (type == FVG_F32_PANELS && o == BACK_TO_WEIGHT) o = FORWARD;
      crossed = largest(crossed, gemm_error(crossing[size][0], crossing[size][1], crossing[size][2], o, type,
                                            (size + i) % 8, 1));
    }
  check_level(crossed < 16, "matrix products that cross a panel's depth or a job's rows");
  printf("%-8s gemm: error <= %.2f (sizes to 70), %.2f (larger) x 2^-24 sum|ab|\n", level_name[now->level], worst,
         crossed);
}

/* A row's sum must not depend on the rows around it, or on where A is read. */
static void test_gemm_rows_alone(void) {
  enum { M = 50, N = 40, K = 300 };
  static float a[M * K], b[N * K], all[M * N], one[N], tiles[80 * K];
  fvg__product p;
  int i, same = 1;
  for (i = 0; i < M * K; i++) a[i] = uniform(-1, 1);
  for (i = 0; i < N * K; i++) b[i] = uniform(-1, 1);
  memset(&p, 0, sizeof p);
  p.kernels = now;
  p.m = M;
  p.n = N;
  p.k = K;
  p.a = fvg__matrix(a, K, 1);
  p.b = fvg__matrix(b, 1, K);
  p.out = all;
  p.ld_out = N;
  p.tiled_a = tiles;
  fvg__gemm(NULL, &p);
  for (i = 0; i < M; i++) {
    p.m = 1;
    p.a = fvg__matrix(a + i * K, K, 1);
    p.out = one;
    p.tiled_a = NULL;
    fvg__gemm(NULL, &p);
    same &= !memcmp(one, all + i * N, sizeof one);
  }
  check_level(same, "a row of a product has the same bits alone and among others, copied into tiles or not");
}

/* Where k is taken in parts, sums go on with the same bits; one column less, and it is taken at once. */
static void test_gemm_parts(void) {
  enum { M = 113, N = 2 * FVG__PANEL_COLS, K = 3100 };
  static float a[M * K], b[N * K], from[M * N], bias[N], in_parts[M * N], at_once[M * N];
  static const int rows[3] = {1, 15, M}, depths[3] = {FVG__PART_DEPTH, FVG__PART_DEPTH + 1, K};
  int n = 2 * now->tile_cols, i, mode, r, same = 1, parts = 1;
  for (i = 0; i < M * K; i++) a[i] = uniform(-1, 1);
  for (i = 0; i < N * K; i++) b[i] = uniform(-1, 1);
  for (i = 0; i < M * N; i++) from[i] = uniform(-1, 1);
  for (i = 0; i < N; i++) bias[i] = uniform(-1, 1);
  for (i = 0; i < 9; i++)
    for (mode = 0; mode < 4; mode++) {
      int m = rows[i / 3], k = depths[i % 3];
      float *panels = panels_of(b, n, k);
      fvg__product p;
      memset(&p, 0, sizeof p);
      p.kernels = now;
      p.m = m;
      p.k = k;
      p.a = fvg__matrix(a, k, 1);
      p.b = fvg__matrix(panels, 1, k);
      p.b.type = FVG_F32_PANELS;
      if (mode & ACCUMULATE) p.from = from;
      if (mode & BIAS) p.bias = bias;
      p.ld_out = p.ld_from = N;
      p.n = n;
      p.out = in_parts;
      parts &= fvg__parts_of_k(&p) == (FVG__FOR_SIZE ? 1 : 1 + (k > FVG__PART_DEPTH) + (k > 2 * FVG__PART_DEPTH));
      fvg__gemm(NULL, &p);
      p.n = n - 1;
      p.out = at_once;
      parts &= fvg__parts_of_k(&p) == 1;
      fvg__gemm(NULL, &p);
      for (r = 0; r < m; r++) same &= !memcmp(in_parts + r * N, at_once + r * N, (size_t)(n - 1) * sizeof *at_once);
      p.n = n;
      p.out = from;                 /* here out holds what is added at the end */
      if (p.from == p.out) parts &= fvg__parts_of_k(&p) == 1;
      free(panels);
    }
  check_level(same, "a product over parts of k has the bits of one over all of k");
  check_level(parts, "k is taken in parts of FVG__PART_DEPTH where whole panels of out are free for sums");
}

static void test_transpose_and_add(void) {
  float from[20 * 23], to[20 * 23 + 2], y[40], x[40];
  int rows, cols, i, j, right = 1;
  for (i = 0; i < 20 * 23; i++) from[i] = (float)i;
  for (rows = 1; rows <= 19; rows++)
    for (cols = 1; cols <= 21; cols++) {
      for (i = 0; i < 20 * 23 + 2; i++) to[i] = GUARD;
      now->transpose(rows, cols, from, 23, to + 1, 20);
      for (j = 0; j < 21; j++)
        for (i = 0; i < 20; i++) right &= to[1 + j * 20 + i] == (i < rows && j < cols ? from[i * 23 + j] : GUARD);
      right &= to[0] == GUARD;
    }
  check_level(right, "transposition of 1..19 by 1..21, nothing else written");
  for (right = 1, cols = 1; cols < 39; cols++) {
    for (i = 0; i < 40; i++) { x[i] = (float)i; y[i] = 0.5f; }
    now->add(cols, x, y);
    for (i = 0; i < 40; i++) right &= y[i] == (i < cols ? (float)i + 0.5f : 0.5f);
  }
  check_level(right, "addition of 1..38 numbers, nothing else written");
}

static void test_layer_norm_backward(void) {
  float x[80], gain[80], dy[80], dx[80];
  double worst = 0;
  int n, i, outside = 0;
  for (n = 1; n <= 70; n++) {
    double mean = (double)uniform(-1, 1), rstd = (double)uniform(0.5, 2), g = 0, gn = 0;
    for (i = 0; i < 80; i++) {
      x[i] = uniform(-3, 3);
      gain[i] = uniform(-2, 2);
      dy[i] = uniform(-1, 1);
      dx[i] = GUARD;
    }
    mean = (double)(float)mean;
    rstd = (double)(float)rstd;
    for (i = 0; i < n; i++) {
      g += (double)dy[i] * (double)gain[i] / n;
      gn += (double)dy[i] * (double)gain[i] * ((double)x[i] - mean) * rstd / n;
    }
    gradients->layer_norm_backward(n, x, gain, dy, (float)mean, (float)rstd, dx);
    for (i = 0; i < n; i++)
      worst = largest(worst, fabs((double)dx[i] - (double)GUARD - rstd * ((double)dy[i] * (double)gain[i] - g -
                                                                        ((double)x[i] - mean) * rstd * gn)));
    for (; i < 80; i++) outside += dx[i] != GUARD;
  }
  check_level(worst < 2e-5 && !outside, "layer norm's gradient of 1..70 numbers");
}

/* ---- functions of a row ---- */
static double exact_cdf(double x) { return 0.5 * erfc(-x / sqrt(2.0)); }
static double exact_pdf(double x) { return exp(-0.5 * x * x) / sqrt(2 * 3.14159265358979323846); }
static double exact_sigmoid(double x) { return 1 / (1 + exp(-x)); }

static void test_exp(void) {
  enum { N = 200001 };
  static float x[N], y[N];
  float low[3] = {-90, -1e30f, -INFINITY}, out[3], bad;
  double worst = 0;
  int i;
  for (i = 0; i < N; i++) x[i] = (float)(-87 + 175.0 * i / (N - 1));
  gradients->exp_scaled(N, x, 1, 0, y);
  for (i = 0; i < N; i++) worst = largest(worst, fabs((double)y[i] / exp((double)x[i]) - 1));
  check_level(worst < 2e-7, "exp on [-87, 88]: relative error below 2e-7");
  printf("%-8s exp: relative error <= %.2e\n", level_name[now->level], worst);
  gradients->exp_scaled(3, low, 1, 0, out);
  check_level(out[0] < 2e-38f && out[1] < 2e-38f && out[2] < 2e-38f && out[2] >= 0, "exp far below is nearly 0");
  bad = NAN;
  gradients->exp_scaled(1, &bad, 1, 0, out);
  check_level(isnan(out[0]), "exp of NaN");
  x[0] = 0;
  gradients->exp_scaled(1, x, 3, 0, out);
  check_level(out[0] == 1, "exp(0) = 1");
}

static void test_activations(void) {
  enum { N = 240001 };
  static float x[N], y[N], ones[N], dx[N], quick[N], quick_dx[N];
  double phi = 0, gelu = 0, gelu_slope = 0, quick_value = 0, quick_slope = 0;
  float odd[6] = {NAN, 0, -0.0f, 1e10f, -1e10f, -30}, out[6], slope[6] = {0}, one[6] = {1, 1, 1, 1, 1, 1}, q[6],
        q_slope[6] = {0};
  int i;
  for (i = 0; i < N; i++) { x[i] = (float)(-12 + 24.0 * i / (N - 1)); ones[i] = 1; dx[i] = quick_dx[i] = 0.25f; }
  now->gelu(N, x, y);
  gradients->gelu_backward(N, x, ones, dx);
  now->quick_gelu(N, x, quick);
  gradients->quick_gelu_backward(N, x, ones, quick_dx);
  for (i = 0; i < N; i++) {
    double v = (double)x[i], s = exact_sigmoid(1.702 * v);
    if (fabs(v) > 1e-3) phi = largest(phi, fabs((double)y[i] / v - exact_cdf(v)));
    gelu = largest(gelu, fabs((double)y[i] - v * exact_cdf(v)) / (1 + fabs(v)));
    gelu_slope = largest(gelu_slope, fabs((double)dx[i] - 0.25 - (exact_cdf(v) + v * exact_pdf(v))) / (1 + fabs(v)));
    quick_value = largest(quick_value, fabs((double)quick[i] - v * s) / (1 + fabs(v)));
    quick_slope =
        largest(quick_slope, fabs((double)quick_dx[i] - 0.25 - s * (1 + 1.702 * v * (1 - s))) / (1 + fabs(v)));
  }
  printf("%-8s Phi: %.2e absolute; gelu %.2e, slope %.2e, quick_gelu %.2e, slope %.2e, all times (1+|x|)\n",
         level_name[now->level], phi, gelu, gelu_slope, quick_value, quick_slope);
  check_level(phi < 3e-7, "Phi: absolute error below 3e-7");
  check_level(gelu < 3e-7 && gelu_slope < 3e-7, "gelu and its slope");
  check_level(quick_value < 3e-7 && quick_slope < 3e-7, "quick_gelu and its slope");
  now->gelu(6, odd, out);
  gradients->gelu_backward(6, odd, one, slope);
  now->quick_gelu(6, odd, q);
  gradients->quick_gelu_backward(6, odd, one, q_slope);
  check_level(isnan(out[0]) && isnan(slope[0]) && isnan(q[0]) && isnan(q_slope[0]), "gelu of NaN is NaN");
  check_level(out[1] == 0 && out[2] == 0 && out[3] == 1e10f && fabsf(out[4]) < 1e-20f && fabsf(out[5]) < 1e-30f,
              "gelu far out");
  check_level(q[1] == 0 && q[2] == 0 && q[3] == 1e10f && fabsf(q[4]) < 1e-20f && fabsf(q[5]) < 1e-20f,
              "quick_gelu far out");
  check_level(fabsf(slope[3] - 1) < 1e-6f && fabsf(slope[4]) < 1e-6f && fabsf(q_slope[3] - 1) < 1e-6f &&
                  fabsf(q_slope[4]) < 1e-6f,
              "slopes far out");
}

/* Row functions at sizes 1..70 and odd addresses: right, and nothing beyond the row touched. */
static void test_rows(void) {
  float block_x[80], block_y[80], block_g[80], block_b[80];
  double p_error = 0, ln_error = 0, norm_error = 0, dot_error = 0, tail_error = 0;
  int n, i, offset, outside = 0, in_place = 1;
  for (n = 1; n <= 70; n++)
    for (offset = 0; offset < 4; offset++) {
      float *x = block_x + offset, *y = block_y + offset, *gain = block_g + offset, *bias = block_b + offset,
            scale = uniform(0.1, 3), ln_sum, mean, rstd, dot;
      double max = -1e300, sum = 0, ln, m = 0, v = 0, xy = 0, size = 0;
      for (i = 0; i < 80; i++) {
        block_x[i] = uniform(-8, 8);
        block_g[i] = uniform(-2, 2);
        block_b[i] = uniform(-2, 2);
        block_y[i] = GUARD;
      }
      ln_sum = now->softmax(n, x, scale, y);
      for (i = 0; i < n; i++) max = largest(max, (double)x[i] * (double)scale);
      for (i = 0; i < n; i++) sum += exp((double)x[i] * (double)scale - max);
      ln = max + log(sum);
      ln_error = largest(ln_error, fabs((double)ln_sum - ln) / (1 + fabs(ln)));
      for (i = 0; i < n; i++)
        p_error = largest(p_error, fabs((double)y[i] / exp((double)x[i] * (double)scale - ln) - 1));
      for (i = 0; i < 80; i++) outside += (i < offset || i >= offset + n) && block_y[i] != GUARD;
      {
        float copy[80];
        memcpy(copy, block_x, sizeof copy);
        now->softmax(n, copy + offset, scale, copy + offset);
        in_place &= !memcmp(copy + offset, y, (size_t)n * 4);
      }

      now->layer_norm(n, x, gain, bias, 1e-5f, y, &mean, &rstd);
      for (i = 0; i < n; i++) m += (double)x[i] / n;
      for (i = 0; i < n; i++) v += ((double)x[i] - m) * ((double)x[i] - m) / n;
      if (n > 1)
        for (i = 0; i < n; i++)
          norm_error =
              largest(norm_error,
                      fabs((double)y[i] - (((double)x[i] - m) / sqrt(v + 1e-5) * (double)gain[i] + (double)bias[i])));
      for (i = 0; i < 80; i++) outside += (i < offset || i >= offset + n) && block_y[i] != GUARD;

      dot = now->dot(n, x, gain);
      for (i = 0; i < n; i++) { xy += (double)x[i] * (double)gain[i]; size += fabs((double)x[i] * (double)gain[i]); }
      dot_error = largest(dot_error, fabs((double)dot - xy) / size);

      now->gelu(n, x, y);
      for (i = 0; i < n; i++)
        tail_error = largest(tail_error, fabs((double)y[i] - (double)x[i] * exact_cdf((double)x[i])));
      for (i = 0; i < 80; i++) outside += (i < offset || i >= offset + n) && block_y[i] != GUARD;
      for (i = 0; i < n; i++) y[i] = 0.25f;
      gradients->gelu_backward(n, x, gain, y);
      for (i = 0; i < n; i++) {
        double u = (double)x[i];
        tail_error = largest(tail_error, fabs((double)y[i] - 0.25 -
                                              (double)gain[i] * (exact_cdf(u) + u * exact_pdf(u))));
        y[i] = 0.25f;
      }
      gradients->quick_gelu_backward(n, x, gain, y);
      for (i = 0; i < n; i++) {
        double u = (double)x[i], s = exact_sigmoid(1.702 * u);
        double slope = s * (1 + 1.702 * u * (1 - s));
        tail_error = largest(tail_error, fabs((double)y[i] - 0.25 - (double)gain[i] * slope));
      }
      now->quick_gelu(n, x, y);
      for (i = 0; i < n; i++)
        tail_error = largest(tail_error, fabs((double)y[i] - (double)x[i] * exact_sigmoid(1.702 * (double)x[i])));
      gradients->exp_scaled(n, x, scale, 2, y);
      for (i = 0; i < n; i++)
        tail_error = largest(tail_error, 1e-1 * fabs((double)y[i] / exp((double)x[i] * (double)scale - 2) - 1));
      for (i = 0; i < 80; i++) outside += (i < offset || i >= offset + n) && block_y[i] != GUARD;
    }
  printf("%-8s softmax: p %.2e relative, ln sum %.2e (1+|.|); layer norm %.2e; dot %.2e sum|xy|\n",
         level_name[now->level], p_error, ln_error, norm_error, dot_error);
  check_level(p_error < 4e-6 && ln_error < 1e-6, "softmax of 1..70 numbers");
  check_level(in_place, "softmax in place gives the same bits");
  check_level(norm_error < 2e-5, "layer norm of 2..70 numbers");
  check_level(dot_error < 1e-6, "dot of 1..70 numbers");
  check_level(tail_error < 3e-6, "gelu, quick_gelu and exp at every tail length");
  check_level(outside == 0, "no kernel writes outside of its row");
}

static void test_softmax_extremes(void) {
  static const int where[4] = {0, 5, 17, 36}; /* first, in a vector, in the second, in the tail */
  float x[37], p[37], sum;
  int i, j, nan_kept = 1;
  for (i = 0; i < 37; i++) x[i] = i == 20 ? 3e38f : -3e38f;
  check_level(fabsf(now->softmax(37, x, 1, p) - 3e38f) < 1e32f && p[20] == 1 && p[0] < 1e-37f && p[36] < 1e-37f,
              "softmax of +-3e38");
  for (i = 0; i < 37; i++) x[i] = 1e30f;
  now->softmax(37, x, 1, p);
  for (sum = 0, i = 0; i < 37; i++) sum += fabsf(p[i] - 1.0f / 37);
  check_level(sum < 1e-6f, "softmax of equal huge numbers is uniform");
  for (i = 0; i < 37; i++) x[i] = i % 2 ? -INFINITY : 1;
  now->softmax(37, x, 1, p);
  for (sum = 0, i = 0; i < 37; i++) sum += fabsf(p[i] - (i % 2 ? 0 : 1.0f / 19));
  check_level(sum < 1e-6f, "softmax with masked entries of -inf");
  for (j = 0; j < 4; j++) {
    float gain[37], bias[37], mean, rstd;
    for (i = 0; i < 37; i++) { x[i] = (float)i; gain[i] = bias[i] = 1; }
    x[where[j]] = NAN;
    if (!isnan(now->softmax(37, x, 1, p))) nan_kept = 0;
    for (i = 0; i < 37; i++) if (!isnan(p[i])) nan_kept = 0;
    now->layer_norm(37, x, gain, bias, 1e-5f, p, &mean, &rstd);
    for (i = 0; i < 37; i++) if (!isnan(p[i])) nan_kept = 0;
    if (!isnan(now->dot(37, x, gain))) nan_kept = 0;
  }
  check_level(nan_kept, "one NaN makes the whole row NaN: softmax, layer norm, dot");
  for (i = 0; i < 37; i++) x[i] = 1000 + (float)(i % 5) * 1e-3f;      /* large mean: two passes lose nothing */
  {
    float gain[37], bias[37], mean, rstd;
    double m = 0, v = 0;
    for (i = 0; i < 37; i++) { gain[i] = 1; bias[i] = 0; m += (double)x[i] / 37; }
    for (i = 0; i < 37; i++) v += ((double)x[i] - m) * ((double)x[i] - m) / 37;
    now->layer_norm(37, x, gain, bias, 0, p, &mean, &rstd);
    check_level(fabs((double)rstd * sqrt(v) - 1) < 2e-2, "layer norm's deviation beside a large mean");
  }
}

/* ---- threads: every parallel operation, forward and back, must give the same bits ---- */
static void backwards(void *user, void (*job)(void *arg, int index), void *arg, int n) {
  (*(int *)user)++;
  while (n-- > 0) job(arg, n);
}

#ifdef FVG_BRIEF                                                       /* for emulators: tests/platforms.sh */
enum { POOLS = 1, TENTH = 20, CALLS = 1 };
#else
enum { POOLS = 4, TENTH = 50, CALLS = 6 };
#endif
enum { ROWS = 10 * TENTH, WIDTH = 70, OUT = 2 * (ROWS * WIDTH + WIDTH * WIDTH) };

static void parallel_work(fvg_ctx *c, float *out) {
  fvg_tape *t = fvg_tape_new(c);
  fvg_parameter x, w;
  fvg_segment s[3] = {{0, 6 * TENTH, 0, 6 * TENTH, 0, 0, 0},
                      {6 * TENTH, 3 * TENTH, 6 * TENTH, 3 * TENTH, 0, TENTH, 1},
                      {9 * TENTH, TENTH, 9 * TENTH, TENTH, 0, TENTH, 1}};
  fvg_node *h, *a, *ones;
  float bias[WIDTH], gain[WIDTH];
  int i, x_dim[2] = {ROWS, WIDTH}, w_dim[2] = {WIDTH, WIDTH};
  fvg_parameter_new(c, &x, "x", 2, x_dim);
  fvg_parameter_new(c, &w, "w", 2, w_dim);
  fvg_rng_seed(&rng, 4, 4);
  for (i = 0; i < ROWS * WIDTH; i++) ((float *)x.value.data)[i] = uniform(-1, 1);
  for (i = 0; i < WIDTH * WIDTH; i++) ((float *)w.value.data)[i] = uniform(-0.3, 0.3);
  for (i = 0; i < WIDTH; i++) { bias[i] = uniform(-1, 1); gain[i] = uniform(0.5, 2); }
  ones = fvg_const(t, 1, WIDTH, bias);
  h = fvg_linear(fvg_param(t, &x), fvg_param(t, &w), ones);
  h = fvg_gelu(fvg_layer_norm(h, fvg_const(t, 1, WIDTH, gain), ones, 1e-5f));
  a = fvg_attention(h, fvg_linear(h, fvg_param(t, &w), NULL), h, 7, s, 3);
  a = fvg_quick_gelu(fvg_add(a, fvg_relu(fvg_sigmoid(h))));
  check(fvg_backward(fvg_mean(fvg_mul(a, a))) == FVG_OK, "parallel work runs");
  memcpy(out, fvg_value(a), ROWS * WIDTH * 4);
  memcpy(out + ROWS * WIDTH, x.grad, ROWS * WIDTH * 4);
  memcpy(out + 2 * ROWS * WIDTH, w.grad, WIDTH * WIDTH * 4);
  fvg_parameter_free(c, &x);
  fvg_parameter_free(c, &w);
  fvg_tape_free(t);
}

static void test_threads(int simd) {
  static float expected[OUT], result[OUT];
  static const int threads[] = {3, 2, 5, 1};
  fvg_desc d;
  fvg_ctx *c;
  int i, calls = 0;
  memset(&d, 0, sizeof d);
  d.simd = simd;
  check(fvg_init(&c, &d) == FVG_OK && fvg_simd_level(c) == simd, "fvg_simd_level tells the level asked for");
  parallel_work(c, expected);
  fvg_free(c);
  for (i = 0; i < POOLS; i++) {
    d.n_threads = threads[i];
    if (fvg_init(&c, &d)) { check(0, "init with threads"); continue; }
    parallel_work(c, result);
    parallel_work(c, result);
    check_level(!memcmp(result, expected, sizeof result), "2, 3, 5 and 1 threads give the same bits");
    fvg_free(c);
  }
  d.n_threads = 4;                                                    /* the callback has precedence over the pool */
  d.parallel = backwards;
  d.user = &calls;
  check(fvg_init(&c, &d) == FVG_OK, "init with a parallel callback");
  parallel_work(c, result);
  check_level(!memcmp(result, expected, sizeof result) && calls >= CALLS,
              "jobs in reverse order by a callback give the same bits");
  fvg_free(c);
}

/* ---- the upper halves of AVX's registers ---- */
#ifdef FVG__X86_SIMD
/* Not 0 while the upper halves of registers are in use: bit 2 stands for those of ymm0 to 15, bit 6 for those of
   zmm0 to 15.  Those of zmm16 to 31, which SSE does not have, stay in use. */
static unsigned upper_halves(void) {
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1) : "memory");
  return low & 0x44;
}

/* Does this CPU have AVX2 and tell what is in use (leaf 13, part 1, bit 2 of eax)?  Leaves the upper halves clear. */
static int tells_upper_halves(void) {
  unsigned a, b, c, d, used, cleared;
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__get_cpuid_count(13, 1, &a, &b, &c, &d) || !(a & 4)) return 0;
  __asm__ volatile("vpcmpeqd %%ymm0, %%ymm0, %%ymm0" : : : "xmm0");
  used = upper_halves();
  __asm__ volatile("vzeroupper");
  cleared = upper_halves();
  return used && !cleared;
}

/* Tiles of every size, all kernels of rows and those of narrow weights leave the upper halves clear. */
static void test_upper_halves(int simd) {
  static float x[32 * 32], y[32 * 32], z[32], ones[32], mean, rstd;
  static int32_t words[32 * 32], sums[32];
  static fvg__row_scale scale[32];
  const fvg__narrow *narrow[2];
  fvg__tile t;
  unsigned used = 0, used_by_tiles = 0, used_by_narrow = 0;
  int n, i;
  for (i = 0; i < 32; i++) ones[i] = 1;
  memset(&t, 0, sizeof t);
  t.a_row = t.ld_out = t.ld_from = 32;
  t.a_k = 1;
  t.depth = 32;
  t.a = t.panel = t.ahead = x;
  t.out = y;
  for (t.rows = 1; t.rows <= now->tile_rows; t.rows++)
    for (t.cols = 1; t.cols <= now->tile_cols; t.cols++)
      for (i = 0; i < 3; i++) {
        t.bias = i == 1 ? ones : NULL;
        t.from = i == 2 ? y : NULL;
        now->gemm_tile(&t);
        used_by_tiles |= upper_halves();
      }
  check_level(!used_by_tiles, "a tile leaves the upper halves clear");

#define THEN_ASK(call) (call, used |= upper_halves())
  for (n = 1; n <= 32; n++) {
    THEN_ASK(now->softmax(n, x, 1, y));
    THEN_ASK(now->layer_norm(n, x, ones, z, 1e-5f, y, &mean, &rstd));
    THEN_ASK(now->add(n, x, y));
    THEN_ASK(now->gelu(n, x, y));
    THEN_ASK(now->quick_gelu(n, x, y));
    THEN_ASK(now->dot(n, x, y));
    THEN_ASK(now->transpose(n, 32, x, 32, y, 32));
    THEN_ASK(gradients->exp_scaled(n, x, 1, 0, y));
    THEN_ASK(gradients->layer_norm_backward(n, x, ones, y, 0, 1, z));
    THEN_ASK(gradients->gelu_backward(n, x, y, z));
    THEN_ASK(gradients->quick_gelu_backward(n, x, y, z));
  }
  THEN_ASK(now->widen_pairs(now->tile_cols, (const uint16_t *)(const void *)words, x, y));
#undef THEN_ASK
  check_level(!used, "a kernel of rows leaves the upper halves clear");

  narrow[0] = fvg__choose_q8(simd);
  narrow[1] = fvg__choose_bf16(now);
  for (i = 0; i < 2; i++) {
    fvg__narrow_tile w;
    if (!narrow[i]->tile) continue;
    memset(&w, 0, sizeof w);
    w.steps = 4;
    w.a_row = w.ld_out = w.ld_from = 32;
    w.a = words;
    w.panel = w.ahead = (const uint8_t *)words;
    w.row = scale;
    w.scale = ones;
    w.sum = sums;
    w.out = y;
    for (w.rows = 1; w.rows <= narrow[i]->tile_rows; w.rows++)
      for (w.cols = 1; w.cols <= 2 * narrow[i]->lanes; w.cols++) {
        narrow[i]->tile(&w);
        used_by_narrow |= upper_halves();
      }
    for (n = 1; n <= 32; n++) {
      narrow[i]->convert(n, x, 0, words, scale);
      used_by_narrow |= upper_halves();
    }
  }
  check_level(!used_by_narrow, "the kernels of narrow weights leave the upper halves clear");
}
#endif

/* ---- the choice of a level ---- */
/* Levels that this CPU has and this build could hold, lowest first. */
static int levels_here(int *level) {
  int n = 0;
  level[n++] = FVG_SIMD_SCALAR;
#ifdef FVG__X86_SIMD
  __builtin_cpu_init();
  level[n++] = FVG_SIMD_SSE2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) level[n++] = FVG_SIMD_AVX2;
  if (__builtin_cpu_supports("avx512f")) level[n++] = FVG_SIMD_AVX512;
#elif defined(FVG__NEON_SIMD)
  level[n++] = FVG_SIMD_NEON;
#elif defined(FVG__WASM_SIMD)
  level[n++] = FVG_SIMD_WASM;
#endif
  return n;
}

/* Who asks for a level of this CPU gets it, and who asks for one that the CPU lacks gets the next
   below; the best level is the highest. */
static void test_choice(const int *level, int n) {
  int i, got, right = 1;
  for (i = 0; i < n; i++)
    right &= fvg__choose_kernels(level[i], &got)->level == level[i] && got == level[i];
  check(right, "each level of this CPU is there for the asking");
  check(fvg__choose_kernels(FVG_SIMD_BEST, &got)->level == level[n - 1] && got == level[n - 1],
        "the best level is the highest of this CPU");
#ifdef FVG__X86_SIMD
  for (i = FVG_SIMD_SCALAR; i <= FVG_SIMD_AVX512; i++) {
    int below = n - 1;
    while (level[below] > i) below--;
    right &= fvg__choose_kernels(i, &got)->level == level[below] && got == level[below];
  }
  check(right, "a level that this CPU lacks gives the next below");
#endif
}

int main(void) {
  static const int levels[] = {FVG_SIMD_SCALAR, FVG_SIMD_SSE2, FVG_SIMD_AVX2, FVG_SIMD_AVX512, FVG_SIMD_NEON,
                               FVG_SIMD_WASM};
  enum { CHECKS_OF_A_LEVEL = 35 + 3 * POOLS };
  int i, level, before, here[6], n_here = levels_here(here), n_tested = 0;
  fvg_rng_seed(&rng, 2, 2);
  test_choice(here, n_here);
  for (i = 0; i < 6; i++) {
    now = fvg__choose_kernels(levels[i], &level);
    gradients = fvg__gradient_kernels_of(now);
    if (level != levels[i]) { printf("%s: not on this CPU or in this build\n", level_name[levels[i]]); continue; }
    before = passed + failed;
    test_gemm();
    test_gemm_rows_alone();
    test_gemm_parts();
    test_transpose_and_add();
    test_layer_norm_backward();
    test_exp();
    test_activations();
    test_rows();
    test_softmax_extremes();
    test_threads(level);
    check_level(passed + failed - before == CHECKS_OF_A_LEVEL, "no check is left out");
#ifdef FVG__X86_SIMD
    if (level >= FVG_SIMD_AVX2) {
      if (tells_upper_halves()) test_upper_halves(level);
      else printf("%s: this CPU does not tell which halves of registers are in use\n", level_name[level]);
    }
#endif
    n_tested++;
  }
  check(n_tested == n_here, "every level of this CPU was tested");
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
