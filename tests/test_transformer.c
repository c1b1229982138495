/* Chapter 11 of fvgpt.h: the block against naive double code; packing, kept rows, inference, threads. */
#ifndef __EMSCRIPTEN__                          /* whose threads need a build of their own */
#define FVGPT_PTHREADS
#endif
#define FVGPT_IMPLEMENTATION
#include "../fvgpt.h"

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

enum { WIDTH = 24, HIDDEN = 96, HEADS = 3, LAYERS = 12, MAX_ROWS = 400 };

static fvg_ctx *c;
static fvg_rng rng;
static fvg_block block[LAYERS], half_block[LAYERS], rounded_block[LAYERS];
static fvg_transformer model;

/* ---- random weights; the same rounded to f16, stored as f16 and as f32 ---- */
static fvg_tensor tensor(int rows, int cols, double centre, double spread) {
  fvg_tensor x;
  size_t i, n;
  memset(&x, 0, sizeof x);
  x.n_dim = cols ? 2 : 1;
  x.dim[0] = rows;
  x.dim[1] = cols;
  n = fvg_tensor_count(&x);
  x.data = malloc(n * sizeof(float));
  for (i = 0; i < n; i++) ((float *)x.data)[i] = (float)(centre + spread * fvg_rng_normal(&rng));
  return x;
}

static void round_to_half(const fvg_tensor *x, fvg_tensor *half, fvg_tensor *rounded) {
  size_t i, n = fvg_tensor_count(x);
  *half = *rounded = *x;
  half->type = FVG_F16;
  half->data = malloc(n * sizeof(uint16_t));
  rounded->data = malloc(n * sizeof(float));
  for (i = 0; i < n; i++) {
    ((uint16_t *)half->data)[i] = fvg_float_to_half(((const float *)x->data)[i]);
    ((float *)rounded->data)[i] = fvg_half_to_float(((uint16_t *)half->data)[i]);
  }
}

static void make_model(void) {
  int i, k;
  for (i = 0; i < LAYERS; i++) {
    fvg_block *b = &block[i], *h = &half_block[i], *r = &rounded_block[i];
    fvg_tensor *matrix[6], *half[6], *rounded[6];
    b->ln_1_weight = tensor(WIDTH, 0, 1, 0.2);
    b->ln_1_bias = tensor(WIDTH, 0, 0, 0.2);
    b->q_weight = tensor(WIDTH, WIDTH, 0, 0.3);
    b->q_bias = tensor(WIDTH, 0, 0, 0.2);
    b->k_weight = tensor(WIDTH, WIDTH, 0, 0.3);
    b->k_bias = tensor(WIDTH, 0, 0, 0.2);
    b->v_weight = tensor(WIDTH, WIDTH, 0, 0.2);
    b->v_bias = tensor(WIDTH, 0, 0, 0.2);
    b->out_weight = tensor(WIDTH, WIDTH, 0, 0.2);
    b->out_bias = tensor(WIDTH, 0, 0, 0.2);
    b->ln_2_weight = tensor(WIDTH, 0, 1, 0.2);
    b->ln_2_bias = tensor(WIDTH, 0, 0, 0.2);
    b->fc_weight = tensor(HIDDEN, WIDTH, 0, 0.2);
    b->fc_bias = tensor(HIDDEN, 0, 0, 0.2);
    b->proj_weight = tensor(WIDTH, HIDDEN, 0, 0.1);
    b->proj_bias = tensor(WIDTH, 0, 0, 0.2);
    *h = *r = *b;
    matrix[0] = &b->q_weight;
    matrix[1] = &b->k_weight;
    matrix[2] = &b->v_weight;
    matrix[3] = &b->out_weight;
    matrix[4] = &b->fc_weight;
    matrix[5] = &b->proj_weight;
    half[0] = &h->q_weight;
    half[1] = &h->k_weight;
    half[2] = &h->v_weight;
    half[3] = &h->out_weight;
    half[4] = &h->fc_weight;
    half[5] = &h->proj_weight;
    rounded[0] = &r->q_weight;
    rounded[1] = &r->k_weight;
    rounded[2] = &r->v_weight;
    rounded[3] = &r->out_weight;
    rounded[4] = &r->fc_weight;
    rounded[5] = &r->proj_weight;
    for (k = 0; k < 6; k++) round_to_half(matrix[k], half[k], rounded[k]);
  }
  model.block = block;
  model.n_layer = 3;
  model.n_head = HEADS;
  model.eps = 1e-5f;
}

static void free_model(void) {
  int i, k;
  for (i = 0; i < LAYERS; i++) {
    fvg_tensor *all = &block[i].ln_1_weight, *half = &half_block[i].ln_1_weight,
               *rounded = &rounded_block[i].ln_1_weight;
    for (k = 0; k < 16; k++) {
      if (half[k].data != all[k].data) { free(half[k].data); free(rounded[k].data); }
      free(all[k].data);
    }
  }
}

/* ---- the same in double, without any cleverness ---- */
static double number(const fvg_tensor *x, int i) { return (double)((const float *)x->data)[i]; }

static void naive_linear(const double *x, int rows, int in, const fvg_tensor *w, const fvg_tensor *bias, int out,
                         double *y) {
  int i, j, k;
  for (i = 0; i < rows; i++)
    for (j = 0; j < out; j++)
      for (y[i * out + j] = number(bias, j), k = 0; k < in; k++)
        y[i * out + j] += x[i * in + k] * number(w, j * in + k);
}

static void naive_norm(const double *x, int rows, const fvg_tensor *gain, const fvg_tensor *bias, double *y) {
  int i, j;
  for (i = 0; i < rows; i++) {
    double mean = 0, var = 0;
    for (j = 0; j < WIDTH; j++) mean += x[i * WIDTH + j] / WIDTH;
    for (j = 0; j < WIDTH; j++) var += (x[i * WIDTH + j] - mean) * (x[i * WIDTH + j] - mean) / WIDTH;
    for (j = 0; j < WIDTH; j++)
      y[i * WIDTH + j] = (x[i * WIDTH + j] - mean) / sqrt(var + 1e-5) * number(gain, j) + number(bias, j);
  }
}

static void naive_block(const fvg_block *b, fvg_activation activation, int rows, int causal, double *x) {
  static double n[MAX_ROWS * WIDTH], q[MAX_ROWS * WIDTH], k[MAX_ROWS * WIDTH], v[MAX_ROWS * WIDTH],
      a[MAX_ROWS * WIDTH], f[MAX_ROWS * HIDDEN];
  int i, j, h, e, d = WIDTH / HEADS;
  naive_norm(x, rows, &b->ln_1_weight, &b->ln_1_bias, n);
  naive_linear(n, rows, WIDTH, &b->q_weight, &b->q_bias, WIDTH, q);
  naive_linear(n, rows, WIDTH, &b->k_weight, &b->k_bias, WIDTH, k);
  naive_linear(n, rows, WIDTH, &b->v_weight, &b->v_bias, WIDTH, v);
  for (i = 0; i < rows; i++)
    for (h = 0; h < HEADS; h++) {
      double p[MAX_ROWS], sum = 0;
      int keys = causal ? i + 1 : rows;
      for (j = 0; j < keys; j++) {
        for (p[j] = 0, e = h * d; e < h * d + d; e++) p[j] += q[i * WIDTH + e] * k[j * WIDTH + e];
        sum += p[j] = exp(p[j] / sqrt((double)d));
      }
      for (e = h * d; e < h * d + d; e++)
        for (a[i * WIDTH + e] = 0, j = 0; j < keys; j++) a[i * WIDTH + e] += p[j] / sum * v[j * WIDTH + e];
    }
  naive_linear(a, rows, WIDTH, &b->out_weight, &b->out_bias, WIDTH, n);
  for (i = 0; i < rows * WIDTH; i++) x[i] += n[i];
  naive_norm(x, rows, &b->ln_2_weight, &b->ln_2_bias, n);
  naive_linear(n, rows, WIDTH, &b->fc_weight, &b->fc_bias, HIDDEN, f);
  for (i = 0; i < rows * HIDDEN; i++)
    f[i] *= activation == FVG_GELU ? 0.5 * erfc(-f[i] / sqrt(2.0)) : 1 / (1 + exp(-1.702 * f[i]));
  naive_linear(f, rows, HIDDEN, &b->proj_weight, &b->proj_bias, WIDTH, n);
  for (i = 0; i < rows * WIDTH; i++) x[i] += n[i];
}

/* ---- inputs ---- */
static float input[MAX_ROWS * WIDTH];

static fvg_segment segment(int row, int rows, int prefix_rows, int causal) {
  fvg_segment s;
  s.query = s.key = row;
  s.n_query = s.n_key = rows;
  s.prefix = 0;
  s.n_prefix = prefix_rows;
  s.causal = causal;
  return s;
}

/* Largest difference, in units of the largest expected number. */
static double difference(const float *got, const float *expected, int n) {
  double worst = 0, size = 1e-30;
  int i;
  for (i = 0; i < n; i++) {
    double e = fabs((double)got[i] - (double)expected[i]);
    if (!(e <= worst)) worst = e;
    size = fmax(size, fabs((double)expected[i]));
  }
  return worst / size;
}

static void test_against_naive(void) {
  static double x[MAX_ROWS * WIDTH];
  static float expected[MAX_ROWS * WIDTH];
  static const int lengths[3] = {1, 7, 70};
  double worst = 0;
  int i, k, layer, causal, activation;
  for (activation = 0; activation < 2; activation++)
    for (causal = 0; causal < 2; causal++) {
      fvg_tape *t = fvg_tape_new(c);
      fvg_segment s[3];
      int row = 0;
      fvg_node *y;
      model.activation = (fvg_activation)activation;
      for (i = 0; i < 3; i++) {
        for (k = 0; k < lengths[i] * WIDTH; k++) x[k] = (double)input[row * WIDTH + k];
        for (layer = 0; layer < model.n_layer; layer++)
          naive_block(&block[layer], model.activation, lengths[i], causal, x);
        for (k = 0; k < lengths[i] * WIDTH; k++) expected[row * WIDTH + k] = (float)x[k];
        s[i] = segment(row, lengths[i], 0, causal);
        row += lengths[i];
      }
      y = fvg_transform(fvg_const(t, row, WIDTH, input), &model, s, 3, NULL, 0);
      check(y && fvg_rows(y) == row && fvg_cols(y) == WIDTH, "transform: shape");
      if (y) worst = fmax(worst, difference(fvg_value(y), expected, row * WIDTH));
      fvg_tape_free(t);
    }
  model.activation = FVG_QUICK_GELU;
  printf("three blocks against double arithmetic: %.2e of the largest\n", worst);
  check(worst < 2e-6, "transform: as naive double code, causal and not, gelu and quick_gelu");
}

/* ---- packed texts with a shared prefix are the texts one by one ---- */
enum { PREFIX = 4, TEXTS = 5 };
static const int own[TEXTS] = {3, 1, 9, 2, 40};

static fvg_node *weigh(fvg_node *y, int salt) {
  fvg_node *w = y ? fvg_zeros(y->tape, y->rows, y->cols) : NULL;
  int i;
  for (i = 0; w && i < y->rows * y->cols; i++) fvg_fill(w)[i] = (float)cos(1.3 * i + salt);
  return y ? fvg_sum(fvg_mul(y, w)) : NULL;
}

static void test_packing(void) {
  fvg_tape *t = fvg_tape_new(c);
  fvg_parameter x;
  fvg_segment s[TEXTS + 1], alone;
  fvg_node *packed, *loss = NULL, *y;
  static float packed_grad[MAX_ROWS * WIDTH], packed_value[MAX_ROWS * WIDTH];
  int i, k, row = PREFIX, total = PREFIX, dim[2], rows[MAX_ROWS];
  double values = 0, gradients;
  s[0] = segment(0, PREFIX, 0, 1);
  for (i = 0; i < TEXTS; i++) { s[i + 1] = segment(total, own[i], PREFIX, 1); total += own[i]; }
  dim[0] = total;
  dim[1] = WIDTH;
  if (fvg_parameter_new(c, &x, "x", 2, dim)) { check(0, fvg_error(c)); return; }
  memcpy(x.value.data, input, (size_t)(total * WIDTH) * 4);
  packed = fvg_transform(fvg_param(t, &x), &model, s, TEXTS + 1, NULL, 0);
  for (i = 0; i < TEXTS; i++) { /* every text's own rows and, once, the prefix's */
    for (k = 0; k < own[i]; k++) rows[k] = row + k;
    y = weigh(fvg_gather(packed, rows, own[i]), i);
    loss = loss ? fvg_add(loss, y) : y;
    row += own[i];
  }
  check(fvg_backward(loss) == FVG_OK, "packed texts: backward");
  memcpy(packed_grad, x.grad, (size_t)(total * WIDTH) * 4);
  memcpy(packed_value, fvg_value(packed), (size_t)(total * WIDTH) * 4);
  memset(x.grad, 0, (size_t)(total * WIDTH) * 4);
  for (i = 0, row = PREFIX; i < TEXTS; row += own[i++]) {
    fvg_tape_clear(t);
    for (k = 0; k < PREFIX; k++) rows[k] = k;
    for (k = 0; k < own[i]; k++) rows[PREFIX + k] = row + k;
    alone = segment(0, PREFIX + own[i], 0, 1);
    y = fvg_transform(fvg_gather(fvg_param(t, &x), rows, PREFIX + own[i]), &model, &alone, 1, NULL, 0);
    if (y) values = fmax(values, difference(fvg_value(y), packed_value, PREFIX * WIDTH));
    if (y)
      values = fmax(values, difference(fvg_value(y) + PREFIX * WIDTH, packed_value + row * WIDTH, own[i] * WIDTH));
    for (k = 0; k < own[i]; k++) rows[k] = PREFIX + k;
    check(fvg_backward(weigh(fvg_gather(y, rows, own[i]), i)) == FVG_OK, "a text alone: backward");
  }
  gradients = difference(packed_grad, x.grad, PREFIX * WIDTH);
  printf("packed texts against each alone: values %.2e, gradient of the prefix %.2e, of the rest %.2e\n", values,
         gradients, difference(packed_grad, x.grad, total * WIDTH));
  check(values < 2e-6, "packed texts with a shared prefix have the values of each alone");
  check(gradients < 5e-6 && difference(packed_grad, x.grad, total * WIDTH) < 5e-6,
        "and the gradients, added up in the prefix");
  fvg_parameter_free(c, &x);
  fvg_tape_free(t);
}

/* ---- kept rows ---- */
static void keep_case(const fvg_segment *s, int n, int total, const int *keep, int n_keep, const char *what) {
  fvg_tape *t = fvg_tape_new(c);
  fvg_parameter x;
  fvg_node *full, *kept;
  int dim[2], ok;
  dim[0] = total;
  dim[1] = WIDTH;
  if (fvg_parameter_new(c, &x, "x", 2, dim)) { check(0, fvg_error(c)); return; }
  memcpy(x.value.data, input, (size_t)(total * WIDTH) * 4);
  kept = fvg_transform(fvg_const(t, total, WIDTH, input), &model, s, n, keep, n_keep);
  full = fvg_gather(fvg_transform(fvg_const(t, total, WIDTH, input), &model, s, n, NULL, 0), keep, n_keep);
  ok = kept && full && fvg_rows(kept) == n_keep &&
       !memcmp(fvg_value(kept), fvg_value(full), (size_t)(n_keep * WIDTH) * 4);
  check(ok, what);
  if (ok) {
    static float grad[MAX_ROWS * WIDTH];
    fvg_tape_clear(t);
    ok = fvg_backward(weigh(fvg_transform(fvg_param(t, &x), &model, s, n, keep, n_keep), 1)) == FVG_OK;
    memcpy(grad, x.grad, (size_t)(total * WIDTH) * 4);
    memset(x.grad, 0, (size_t)(total * WIDTH) * 4);
    fvg_tape_clear(t);
    ok &= fvg_backward(weigh(fvg_gather(fvg_transform(fvg_param(t, &x), &model, s, n, NULL, 0), keep, n_keep), 1)) ==
          FVG_OK;
    check(ok && difference(grad, x.grad, total * WIDTH) < 2e-6, "kept rows: the same gradient");
  }
  fvg_parameter_free(c, &x);
  fvg_tape_free(t);
}

static void refused(const fvg_segment *s, int n, int total, const int *keep, int n_keep, const char *what) {
  fvg_tape *t = fvg_tape_new(c);
  c->message[0] = 0;
  check(!fvg_transform(fvg_const(t, total, WIDTH, input), &model, s, n, keep, n_keep) && fvg_error(c)[0], what);
  fvg_tape_free(t);
}

static void test_keep(void) {
  fvg_segment image[3], text[4];
  static const int first[3] = {0, 50, 100}, some[4] = {0, 3, 60, 149}, last[3] = {5, 6, 20},
                   tails[6] = {2, 4, 5, 6, 19, 20};
  static const int not_last[3] = {5, 6, 19}, unordered[2] = {20, 6}, hole[3] = {3, 3, 5}, beyond[2] = {6, 21},
                   negative[1] = {-1};
  int i;
  for (i = 0; i < 3; i++) image[i] = segment(50 * i, 50, 0, 0);
  text[0] = segment(0, 3, 0, 1);
  text[1] = segment(3, 3, 3, 1);
  text[2] = segment(6, 1, 3, 1);
  text[3] = segment(7, 14, 3, 1);
  keep_case(image, 3, 150, first, 3, "keep the class token of each image: bits of the full result");
  keep_case(image, 3, 150, some, 4, "keep some rows of some images");
  keep_case(text, 4, 21, last, 3, "keep the end of each text after a shared prefix");
  keep_case(text, 4, 21, tails, 6, "keep several last rows, and one of the prefix");
  refused(text, 4, 21, not_last, 3, "keeping a row that is not a text's last is an error");
  refused(text, 4, 21, unordered, 2, "keeping rows out of order is an error");
  refused(text, 4, 21, hole, 3, "keeping a row twice in a causal segment is an error");
  refused(text, 4, 21, beyond, 2, "keeping a row beyond the end is an error");
  refused(text, 4, 21, negative, 1, "keeping a negative row is an error");
  refused(text, 4, 21, last, 0, "keeping no row is an error");
}

/* Splices that no block would take are an error, not left out. */
static void test_splices(void) {
  static const int layer[4][2] = {{1, 0}, {2, 2}, {3, LAYERS}, {-1, 3}};
  static int row[50];
  int i, k;
  fvg_segment s = segment(0, 50, 0, 0);
  for (i = 0; i < 50; i++) row[i] = i == 7 ? 50 : i;
  for (i = 0; i < 5; i++) {
    fvg_tape *t = fvg_tape_new(c);
    fvg_splice splice[2];
    fvg_prompts prompts;
    memset(splice, 0, sizeof splice);
    memset(&prompts, 0, sizeof prompts);
    for (k = 0; k < 2; k++) {
      splice[k].layer = i < 4 ? layer[i][k] : 1 + k;
      splice[k].row = row;
      splice[k].n_row = 50;
    }
    prompts.vectors = fvg_const(t, 1, WIDTH, input);
    prompts.splice = splice;
    prompts.n_splice = 2;
    fvg_node *y = fvg_transform_prompted(fvg_const(t, 50, WIDTH, input), &model, &s, 1, NULL, 0, &prompts);
    if (i == 4) check(y != NULL, "splices in ascending order");
    else check(!y && fvg_last_status(c) == FVG_E_ARG && strstr(fvg_error(c), "ascending"), "splices that no block takes");
    fvg_tape_free(t);
  }
}

/* ---- inference ---- */
static void test_inference(void) {
  fvg_tape *t = fvg_tape_new(c);
  fvg_parameter x;
  fvg_segment s = segment(0, 300, 0, 0);
  fvg_node *training;
  size_t position[2], held[2];
  int i, dim[2] = {300, WIDTH};
  if (fvg_parameter_new(c, &x, "x", 2, dim)) { check(0, fvg_error(c)); return; }
  memcpy(x.value.data, input, sizeof input * 300 / MAX_ROWS);
  training = fvg_transform(fvg_param(t, &x), &model, &s, 1, NULL, 0);
  {
    fvg_tape *u = fvg_tape_new(c);
    fvg_node *inference = fvg_transform(fvg_const(u, 300, WIDTH, input), &model, &s, 1, NULL, 0);
    check(training && inference && !memcmp(fvg_value(training), fvg_value(inference), 300 * WIDTH * 4),
          "inference and training give the same bits");
    fvg_tape_free(u);
  }
  fvg_tape_free(t);
  for (i = 0; i < 2; i++) {
    size_t before = fvg_mem_used(c);
    t = fvg_tape_new(c);
    model.n_layer = i ? LAYERS : 2;
    check(fvg_transform(fvg_const(t, 300, WIDTH, input), &model, &s, 1, NULL, 0) != NULL, "transform");
    position[i] = fvg_tape_mark(t).position;
    held[i] = fvg_mem_used(c) - before;
    fvg_tape_free(t);
  }
  model.n_layer = 3;
  check(position[0] == position[1] && held[0] == held[1], "in inference the tape does not grow with the layers");
  if (position[0] != position[1])
    printf("  tape position after 2 layers %lu, after 12 %lu\n", (unsigned long)position[0],
           (unsigned long)position[1]);
  fvg_parameter_free(c, &x);
}

static void test_half_weights(void) {
  fvg_tape *t = fvg_tape_new(c);
  fvg_transformer m = model;
  fvg_segment s = segment(0, 33, 0, 1);
  fvg_node *half, *rounded;
  m.block = half_block;
  half = fvg_transform(fvg_const(t, 33, WIDTH, input), &m, &s, 1, NULL, 0);
  m.block = rounded_block;
  rounded = fvg_transform(fvg_const(t, 33, WIDTH, input), &m, &s, 1, NULL, 0);
  check(half && rounded && !memcmp(fvg_value(half), fvg_value(rounded), 33 * WIDTH * 4),
        "f16 storage gives the bits of the rounded f32 weights");
  fvg_tape_free(t);
}

/* ---- threads ---- */
static void forward_and_back(int n_threads, float *value, float *grad) {
  fvg_ctx *k;
  fvg_desc d;
  fvg_tape *t;
  fvg_parameter x;
  fvg_segment s[4];
  fvg_node *y;
  int i, dim[2] = {MAX_ROWS, WIDTH};
  memset(&d, 0, sizeof d);
  d.n_threads = n_threads;
  if (fvg_init(&k, &d) || fvg_parameter_new(k, &x, "x", 2, dim)) { check(0, "init with threads"); return; }
  t = fvg_tape_new(k);
  memcpy(x.value.data, input, sizeof input);
  for (i = 0; i < 4; i++) s[i] = segment(100 * i, 100, i ? 100 : 0, i > 1);
  y = fvg_transform(fvg_param(t, &x), &model, s, 4, NULL, 0);
  check(fvg_backward(weigh(y, 3)) == FVG_OK, "transform with threads");
  memcpy(value, fvg_value(y), sizeof input);
  memcpy(grad, x.grad, sizeof input);
  fvg_parameter_free(k, &x);
  fvg_tape_free(t);
  check(fvg_mem_used(k) == 0 || n_threads > 1, "no memory stays");
  fvg_free(k);
}

static void test_threads(void) {
  static float value[2][MAX_ROWS * WIDTH], grad[2][MAX_ROWS * WIDTH];
  int n;
  forward_and_back(1, value[0], grad[0]);
  for (n = 2; n <= 5; n++) {
    forward_and_back(n, value[1], grad[1]);
    check(!memcmp(value[0], value[1], sizeof value[0]) && !memcmp(grad[0], grad[1], sizeof grad[0]),
          "threads change no bit of values and gradients");
  }
}

int main(void) {
  int i;
  fvg_rng_seed(&rng, 6, 6);
  if (fvg_init(&c, NULL)) return 1;
  for (i = 0; i < MAX_ROWS * WIDTH; i++) input[i] = (float)fvg_rng_normal(&rng);
  make_model();
  test_against_naive();
  test_packing();
  test_keep();
  test_splices();
  test_inference();
  test_half_weights();
  test_threads();
  free_model();
  check(fvg_mem_used(c) == 0, "no memory stays");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
