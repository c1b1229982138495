/* Chapter 1 of fvgpt.h: allocator, arena, failing allocations, messages, random numbers. */
#include <stdlib.h>
static long heap_calls;
static void *counted_malloc(size_t n) { heap_calls++; return malloc(n); }
static void counted_free(void *p) { if (p) heap_calls++; free(p); }
#define malloc counted_malloc
#define free counted_free
#include <errno.h>
#include <pthread.h>
static int threads_left = 1000;                        /* so many are still given                                   */
static int limited_create(pthread_t *thread, const pthread_attr_t *attr, void *(*f)(void *), void *arg) {
  if (threads_left <= 0) return EAGAIN;
  threads_left--;
  return pthread_create(thread, attr, f, arg);
}
#define pthread_create limited_create
#define FVGPT_PTHREADS
#define FVGPT_IMPLEMENTATION
#include "../fvgpt.h"
#include "shorthand.h"
#undef pthread_create
#undef malloc
#undef free

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

/* ---- an allocator that counts, remembers sizes, and fails on demand ---- */
typedef struct allocator_log { long n_alloc, fail_at, fail_from, live, wrong_size; size_t live_bytes; } allocator_log;

static void *logged_alloc(void *user, size_t bytes) {
  allocator_log *a = (allocator_log *)user;
  size_t *p;
  a->n_alloc++;
  if (a->n_alloc == a->fail_at || (a->fail_from && a->n_alloc >= a->fail_from)) return NULL;
  p = (size_t *)malloc(bytes + sizeof(size_t) + 1);
  *p = bytes;
  a->live++;
  a->live_bytes += bytes;
  return (char *)(p + 1) + 1;                                        /* an odd address: any alignment must do */
}

static void logged_release(void *user, void *block, size_t bytes) {
  allocator_log *a = (allocator_log *)user;
  size_t *p = (size_t *)(void *)((char *)block - 1) - 1;
  a->live--;
  a->live_bytes -= bytes;
  if (*p != bytes) a->wrong_size++;
  free(p);
}

static fvg_desc logged_desc(allocator_log *a) {
  fvg_desc d;
  memset(&d, 0, sizeof d);
  memset(a, 0, sizeof *a);
  d.allocator.alloc = logged_alloc;
  d.allocator.release = logged_release;
  d.allocator.user = a;
  return d;
}

/* ---- everything once, in small: an FVG-PT step, its two inferences, attention forward and back ---- */
static fvg_status attend(fvg_ctx *c) {
  static const fvg_segment segment = {0, 4, 0, 1500, 0, 0, 0};        /* its scratch exceeds a chunk of the tape */
  fvg_parameter q, kv;
  fvg_tape *t = fvg_tape_new(c);
  int i, q_dim[2] = {4, 8}, kv_dim[2] = {1500, 8};
  fvg_status s = t ? FVG_OK : FVG_E_NOMEM;
  memset(&q, 0, sizeof q);
  memset(&kv, 0, sizeof kv);
  if (!s) s = fvg_parameter_new(c, &q, "q", 2, q_dim);
  if (!s) s = fvg_parameter_new(c, &kv, "kv", 2, kv_dim);
  if (!s) {
    fvg_node *k, *loss;
    for (i = 0; i < 32; i++) ((float *)q.value.data)[i] = (float)i * 0.1f;
    for (i = 0; i < 12000; i++) ((float *)kv.value.data)[i] = (float)(i % 13) * 0.1f;
    k = fvg_param(t, &kv);
    loss = fvg_sum(fvg_attention(fvg_param(t, &q), k, k, 8, &segment, 1));
    s = loss ? fvg_backward(loss) : FVG_E_NOMEM;
  }
  if (!s) { /* an "ok" must mean that the gradient is there */
    float largest = 0;
    for (i = 0; i < 32; i++) largest = fabsf(q.grad[i]) > largest ? fabsf(q.grad[i]) : largest;
    if (!(largest > 0)) s = FVG_E_NUMERIC;
  }
  fvg_parameter_free(c, &q);
  fvg_parameter_free(c, &kv);
  fvg_tape_free(t);
  return s;
}

static fvg_status whole_step(const fvg_desc *desc, float result[5], size_t *left) {
  static const int label[3] = {0, 2, 1};
  static const float area[3] = {0.5f, 0.3f, -1};
  float f[24], f_fg[24], g[32], g_clip[32], logits[12], b[3];
  fvg_ctx *c;
  fvg_fvgpt *m = NULL;
  fvg_optimizer *o = NULL;
  fvg_parameter *const *p;
  fvg_fvgpt_desc d;
  fvg_optimizer_desc od;
  fvg_fvgpt_batch x;
  fvg_fvgpt_report report;
  fvg_status s = fvg_init(&c, desc);
  int i, n;
  if (s) return c ? FVG_OK : s;                                       /* a failed init must leave NULL */
  memset(&d, 0, sizeof d);
  memset(&od, 0, sizeof od);
  memset(&x, 0, sizeof x);
  memset(&report, 0, sizeof report);
  for (i = 0; i < 24; i++) { f[i] = (float)sin(i); f_fg[i] = (float)sin(i + 0.1 * i); }
  for (i = 0; i < 32; i++) { g[i] = (float)cos(3 * i) * 0.2f; g_clip[i] = (float)cos(3.1 * i) * 0.2f; }
  x.n = 3;
  x.n_class = 4;
  x.f = f;
  x.f_fg = f_fg;
  x.g = g;
  x.g_clip = g_clip;
  x.area = area;
  x.label = label;
  d.width = 8;
  d.fdc_hidden = 4;
  d.logit_scale = 5;
  od.kind = FVG_ADAMW;
  s = fvg_fvgpt_new(c, &m, &d);
  if (!s) { p = fvg_fvgpt_parameters(m, &n); s = fvg_optimizer_new(c, &o, p, n, &od); }
  if (!s) s = fvg_fvgpt_step(m, &report, o, 0.01, &x);
  if (!s) s = base_logits(m, f, 3, g, 4, logits);
  if (!s) { result[0] = report.loss; result[1] = report.dist; result[2] = logits[5]; }
  if (!s) s = new_logits(m, f, NULL, 3, g, g_clip, 4, logits, b);
  if (!s) { result[3] = logits[7]; result[4] = b[2]; }
  if (!s) s = attend(c);
  if (s && !fvg_error(c)[0]) s = FVG_OK;                              /* a failure must leave a message */
  fvg_optimizer_free(o);
  fvg_fvgpt_free(m);
  *left = fvg_mem_used(c);
  if (c->desc.arena && (!c->arena_free || c->arena_free->next)) *left = 1;      /* released blocks must merge */
  fvg_free(c);
  return s;
}

static void test_allocation_failures(float result[5]) {
  allocator_log a;
  fvg_desc d = logged_desc(&a);
  float again[5];
  size_t left;
  long n, k, silent = 0, leaks = 0, wrong = 0, other = 0;
  check(whole_step(&d, result, &left) == FVG_OK && left == 0, "a whole step succeeds and leaves nothing");
  check(a.live == 0 && a.live_bytes == 0 && a.wrong_size == 0, "every block goes back, with its size");
  check(heap_calls == 0, "with an allocator given, malloc is not called");
  for (n = a.n_alloc, k = 1; k <= 2 * n; k++) {
    fvg_status s;
    d = logged_desc(&a);
    if (k <= n) a.fail_at = k; else a.fail_from = k - n;              /* one failure, or all from there on */
    s = whole_step(&d, again, &left);
    silent += s == FVG_OK;
    other += s != FVG_OK && s != FVG_E_NOMEM;
    leaks += a.live != 0;
    wrong += a.wrong_size != 0;
  }
  printf("injected failures: %ld allocations, each failing alone and from there on\n", n);
  check(silent == 0, "every failed allocation gives an error and a message");
  check(other == 0, "the error is FVG_E_NOMEM");
  check(leaks == 0 && wrong == 0, "no failed allocation leaks");
}

static void test_arena(const float expected[5]) {
  size_t total = (size_t)24 << 20, bytes, left = 0;
  char *arena = (char *)malloc(total);
  int fitted = 0, bad = 0, silent = 0;
  fvg_desc d;
  heap_calls = 0;
  for (bytes = 0; bytes + 3 <= total; bytes = bytes < 4096 ? bytes + 61 : bytes + bytes / 5) {
    float result[5] = {0};
    fvg_status s;
    memset(&d, 0, sizeof d);
    memset(arena, 0x5A, bytes + 64);
    d.arena = arena + 3;                                              /* not aligned */
    d.arena_bytes = bytes;
    s = whole_step(&d, result, &left);
    if (s == FVG_OK) {
      fitted = 1;
      if (memcmp(result, expected, sizeof result) || left != 0) bad = 1;
    } else if (fitted || s != FVG_E_NOMEM) bad = 1;
    if (s != FVG_OK && fitted) silent = 1;
    if (arena[3 + bytes] != 0x5A) bad = 1;
  }
  check(fitted && !silent, "arena: too small is an error, and from some size on the step succeeds");
  check(!bad, "arena: same bits as with the heap, nothing left, blocks merged, nothing written behind it");
  check(heap_calls == 0, "arena: malloc and free are never called");
  free(arena);
}

/* Random blocks of an arena: disjoint, kept intact, and one piece again at the end. */
static void test_arena_blocks(void) {
  size_t bytes = 200000, before, size[64];
  void *arena = malloc(bytes);
  unsigned char *block[64];
  fvg_desc d;
  fvg_ctx *c;
  fvg_rng r;
  int i, round, bad = 0, refused = 0;
  memset(&d, 0, sizeof d);
  memset(block, 0, sizeof block);
  d.arena = arena;
  d.arena_bytes = bytes;
  fvg_rng_seed(&r, 1, 1);
  check(fvg_init(&c, &d) == FVG_OK, "init in an arena");
  before = c->arena_free->bytes;
  for (round = 0; round < 5000; round++) {
    size_t k;
    i = (int)fvg_rng_below(&r, 64);
    if (block[i]) {
      for (k = 0; k < size[i]; k++) if (block[i][k] != (unsigned char)(i + 1)) bad = 1;
      fvg_release(c, block[i]);
      block[i] = NULL;
    } else {
      size[i] = fvg_rng_below(&r, 12000);
      block[i] = (unsigned char *)fvg_alloc(c, size[i]);
      if (!block[i]) { refused++; continue; }
      if ((uintptr_t)block[i] % 64) bad = 1;
      for (k = 0; k < size[i]; k++) if (block[i][k]) bad = 1;
      memset(block[i], i + 1, size[i]);
    }
  }
  for (i = 0; i < 64; i++) fvg_release(c, block[i]);
  check(!bad && refused > 0, "arena blocks are zeroed, aligned and keep their bytes, also when it runs full");
  check(c->used == 0 && c->arena_free->bytes == before && !c->arena_free->next, "arena blocks merge into one again");
  check(fvg_alloc(c, (size_t)-1 - 100) == NULL && fvg_alloc_array(c, (size_t)-1 / 4, 8) == NULL,
        "absurd sizes are refused");
  check(fvg_alloc_array(c, (size_t)-1 / 8 + 2, 8) == NULL &&
            strstr(fvg_error(c), "elements of 8 bytes") != NULL,
        "a product of count and size that wraps around to 8 bytes is refused");
  check(c->arena_free->bytes == before && strstr(fvg_error(c), "out of memory") != NULL,
        "and leave the arena as it was");
  fvg_free(c);
  free(arena);
}

static void test_counting(void) {
  fvg_ctx *c;
  void *x, *y;
  size_t one;
  check(fvg_init(&c, NULL) == FVG_OK && fvg_mem_used(c) == 0 && fvg_mem_peak(c) == 0, "init with NULL");
  x = fvg_alloc(c, 1000);
  one = fvg_mem_used(c);
  y = fvg_alloc(c, 5000);
  check(one >= 1000 && one < 1200 && fvg_mem_used(c) >= one + 5000, "fvg_mem_used counts");
  check((uintptr_t)x % 64 == 0 && (uintptr_t)y % 64 == 0, "blocks are aligned to 64 bytes");
  fvg_release(c, y);
  check(fvg_mem_used(c) == one && fvg_mem_peak(c) >= one + 5000, "fvg_mem_peak remembers");
  fvg_release(c, x);
  fvg_release(c, NULL);
  check(fvg_mem_used(c) == 0 && fvg_error(c)[0] == 0, "all released, no message");
  fvg_free(c);
  fvg_free(NULL);
}

/* ---- messages and callbacks ---- */
static char logged[64];
static int reported_steps;
static void log_line(void *user, int level, const char *message) {
  (void)user;
  snprintf(logged, sizeof logged, "%d %s", level, message);
}
static int stop_at_three(void *user, const fvg_progress *p) { (void)user; reported_steps++; return p->step >= 3; }

/* What a terminal would obey, or cannot show, becomes question marks, byte by byte; everything else stays. */
static void test_harmless(fvg_ctx *c) {
  static const struct { const char *what, *name, *shown; } x[] = {
    {"letters of all kinds", "red \xC3\xA9 \xE7\x8C\xAB \xF0\x9F\x90\x88 ~", "red \xC3\xA9 \xE7\x8C\xAB \xF0\x9F\x90\x88 ~"},
    {"ESC and BEL", "a\x1B[31mb\x07", "a?[31mb?"}, {"line ends and tabs", "a\nb\rc\td", "a?b?c?d"},
    {"DEL", "a\x7F" "b", "a?b"}, {"C1, which begins with C2", "a\xC2\x9B" "31m \xC2\xA0", "a??31m \xC2\xA0"},
    {"a C1 byte alone", "a\x9B" "31m", "a?31m"}, {"marks of direction", "a\xE2\x80\x8F\xE2\x80\x8E\xD8\x9C", "a????????"},
    {"embeddings and overrides", "\xE2\x80\xAA\xE2\x80\xAE.", "??????."}, {"isolates", "\xE2\x81\xA6\xE2\x81\xA9", "??????"},
    {"separators of lines", "\xE2\x80\xA8\xE2\x80\xA9", "??????"}, {"neighbours of those", "\xE2\x80\xA7\xE2\x80\xAF\xE2\x81\xA5\xE2\x81\xAA",
     "\xE2\x80\xA7\xE2\x80\xAF\xE2\x81\xA5\xE2\x81\xAA"}, {"Latin-1", "caf\xE9 x", "caf? x"},
    {"overlong ESC", "\xC0\x9B", "??"}, {"a surrogate", "\xED\xA0\x80", "???"}, {"a letter that is cut off", "a\xE7\x8C", "a??"}
  };
  char expected[64];
  size_t i;
  for (i = 0; i < sizeof x / sizeof *x; i++) {
    fvg_fail(c, FVG_E_IO, "%s", x[i].name);
    check(!strcmp(fvg_error(c), x[i].shown), x[i].what);
    fvg_log(c, 1, "%s", x[i].name);
    snprintf(expected, sizeof expected, "1 %s", x[i].shown);
    check(!strcmp(logged, expected), x[i].what);
  }
}

static void test_messages(void) {
  fvg_ctx *c;
  fvg_desc d;
  fvg_progress p;
  int s, named = 0;
  memset(&d, 0, sizeof d);
  memset(&p, 0, sizeof p);
  d.log = log_line;
  d.progress = stop_at_three;
  check(fvg_init(&c, &d) == FVG_OK, "init with callbacks");
  fvg_log(c, 0, "%d classes", 7);
  check(!strcmp(logged, "0 7 classes"), "log callback");
  p.what = "encode";
  p.n_steps = 5;
  for (p.step = 1; p.step < 5 && fvg_report_progress(c, &p) == FVG_OK; p.step++) {}
  check(p.step == 3 && reported_steps == 3 && strstr(fvg_error(c), "encode") && strstr(fvg_error(c), "3 of 5"),
        "progress cancels, by name and step");
  for (s = FVG_E_CANCELLED; s <= FVG_OK; s++) named += strcmp(fvg_status_name((fvg_status)s), "unknown status") != 0;
  check(named == 9 && !strcmp(fvg_status_name((fvg_status)5), "unknown status"), "every status has a name");
  check(fvg_fail(c, FVG_E_IO, "%0700d", 1) == FVG_E_IO && strlen(fvg_error(c)) < 512, "a long message is cut");
  check(fvg_error(NULL) != NULL, "fvg_error accepts NULL");
  check(fvg_init(NULL, &d) == FVG_E_ARG && fvg_init(NULL, NULL) == FVG_E_ARG, "a context to nowhere is an argument error");
  test_harmless(c);
  fvg_free(c);
}

/* ---- random numbers: the expected values come from an independent implementation in Python ---- */
/* On x87 a constant has more digits than a double, until it is an argument, and logarithms differ in their last bits
   (the manual, section 5). */
static int is(double x, double expected) {
  return x == expected || (FVG__X87 && fabs(x - expected) < 1e-14);
}

static void test_rng_values(void) {
  static const uint64_t expected[2][4] = {
      {0xef75d62a19ba94edu, 0x8e9490536375f270u, 0xc05630b1c614195du, 0x66daa2d5136a8f29u},
      {0x24bfb39aeb008c15u, 0xd858489e7fc02496u, 0x3deebe24036964f3u, 0x532b7127a28f00a1u}};
  static const uint64_t published[5] = {11520, 0, 1509978240, 1215971899390074240u, 1216172134540287360u};
  static const uint32_t below10[12] = {7, 5, 1, 1, 6, 5, 4, 9, 1, 1, 5, 0},
                        below3e9[3] = {2798134626u, 1949116990u, 2931247661u};
  static const double normal[5] = {-2.085501773986383, -0.17619133358053915, 0.37719866702847366, 0.5871022892885955,
                                   0.3058871922577239};
  static const int order[10] = {5, 0, 8, 4, 2, 1, 9, 7, 3, 6};
  fvg_rng r;
  uint64_t bits, hash = 0;
  double z = 0;
  int i, index[10], same = 1;
  for (fvg_rng_seed(&r, 1, 0), i = 0; i < 4; i++) same &= fvg_rng_next(&r) == expected[0][i];
  for (fvg_rng_seed(&r, 42, 7), i = 0; i < 4; i++) same &= fvg_rng_next(&r) == expected[1][i];
  fvg_rng_seed(&r, UINT64_MAX, 3);
  check(same && fvg_rng_next(&r) == 0x19b71738009a8f02u, "rng: sequences of three seeds");
  for (i = 0; i < 4; i++) r.s[i] = (uint64_t)i + 1;
  for (same = 1, i = 0; i < 5; i++) same &= fvg_rng_next(&r) == published[i];
  check(same, "rng: the published sequence of xoshiro256** from the state 1 2 3 4");
  fvg_rng_seed(&r, 5, 1);
  check(is(fvg_rng_uniform(&r), 0.9719990596957837) && is(fvg_rng_uniform(&r), 0.01395869186181542), "rng: uniform");
  fvg_rng_seed(&r, 7, 2);
  for (same = 1, i = 0; i < 12; i++) same &= fvg_rng_below(&r, 10) == below10[i];
  for (i = 0; i < 3; i++) same &= fvg_rng_below(&r, 3000000000u) == below3e9[i];
  check(same, "rng: below");
  /* The root of 2435 in 64 binary digits lies in the middle between two doubles; rounded twice, it is another one. */
  check(is(fvg__exact_sqrt(2435), 49.345719165901308) && is(fvg__exact_sqrt(860.66666666666663), 29.337120967584166) &&
        is(fvg__exact_sqrt(2), 1.4142135623730951) && is(fvg__exact_sqrt(0.25), 0.5) &&
        is(fvg__exact_sqrt(1e-300), 1e-150), "rng: roots are rounded once");
  fvg_rng_seed(&r, 3, 4);
  for (same = 1, i = 0; i < 5; i++) same &= is(fvg_rng_normal(&r), normal[i]);
  for (i = 0; i < 100000; i++) {
    z = fvg_rng_normal(&r);
    memcpy(&bits, &z, sizeof bits);
    hash = hash * 31 + bits;
  }
  check(same && is(z, 0.6246430544880942) && (hash == 0x85bd0903d0438d5eu || FVG__X87),
        "rng: 100,005 normal deviates to the last bit");
  for (i = 0; i < 10; i++) index[i] = i;
  fvg_rng_seed(&r, 9, 9);
  fvg_rng_permute(&r, index, 10);
  check(!memcmp(index, order, sizeof order), "rng: permute");
}

static void test_rng_statistics(void) {
  enum { N = 400000 };
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0, root = sqrt((double)N);
  int i, tail = 0, low = 0, count[7] = {0}, orders[6] = {0}, even = 1;
  fvg_rng r;
  fvg_rng_seed(&r, 11, 0);
  for (i = 0; i < N; i++) {
    double z = fvg_rng_normal(&r);
    m1 += z / N;
    m2 += z * z / N;
    m3 += z * z * z / N;
    m4 += z * z * z * z / N;
    tail += fabs(z) > 1.959963985;
  }
  check(fabs(m1) < 4 / root && fabs(m2 - 1) < 4 * sqrt(2.0) / root, "rng: mean and variance of normals");
  check(fabs(m3) < 4 * sqrt(15.0) / root && fabs(m4 - 3) < 4 * sqrt(96.0) / root,
        "rng: skewness and kurtosis of normals");
  check(fabs(tail - 0.05 * N) < 4 * sqrt(0.05 * 0.95) * root, "rng: 5% of the normals beyond 1.96");
  for (i = 0; i < 70000; i++) count[fvg_rng_below(&r, 7)]++;
  for (i = 0; i < 7; i++) even &= abs(count[i] - 10000) < 4 * 93;
  for (i = 0; i < 40000; i++) low += fvg_rng_below(&r, 3u << 30) < 1u << 30; /* x % n alone would give 1/2, not 1/3 */
  check(even && abs(low - 13333) < 4 * 95, "rng: below is even and has no modulo bias");
  check(fvg_rng_below(&r, 1) == 0 && fvg_rng_below(&r, 0) == 0, "rng: below 1 and 0");
  for (i = 0; i < 60000; i++) {
    int p[3] = {0, 1, 2};
    fvg_rng_permute(&r, p, 3);
    orders[2 * p[0] + (p[1] > p[2])]++;
  }
  for (even = 1, i = 0; i < 6; i++) even &= abs(orders[i] - 10000) < 4 * 92;
  check(even, "rng: all six orders of three are equally likely");
}

/* ---- a system that gives few threads ---- */
static char warning[200];
static int n_warning;
static void keep_warning(void *user, int level, const char *message) {
  (void)user;
  if (level == 0) n_warning++;
  snprintf(warning, sizeof warning, "%s", message);
}
static void square(void *arg, int i) { ((int *)arg)[i] = i * i; }

static void test_few_threads(void) {
  static const int given[] = {0, 1, 2, 7};
  int i, k;
  for (i = 0; i < 4; i++) {
    int result[100], ok = 1;
    fvg_desc d;
    fvg_ctx *c;
    memset(&d, 0, sizeof d);
    d.n_threads = 8;
    d.log = keep_warning;
    threads_left = given[i];
    n_warning = 0;
    warning[0] = 0;
    if (fvg_init(&c, &d)) { check(0, "a context with fewer threads than were asked for"); continue; }
    memset(result, 0, sizeof result);
    fvg_parallel(c, square, result, 100);
    for (k = 0; k < 100; k++) ok = ok && result[k] == k * k;
    check(ok && (c->pool ? c->pool->n_thread : 0) == given[i], "it works with those it got");
    check(n_warning == (given[i] < 7) && (given[i] == 7 || strstr(warning, "of 8 threads")), "and says so once");
    fvg_free(c);
  }
  threads_left = 1000;
}

/* ---- fvg_parallel inside a job, and its arguments ---- */
static fvg_ctx *nested;
static int inner[64 * 10];
static void count_inner(void *arg, int i) { ((int *)arg)[i]++; }
static void outer_job(void *arg, int i) {
  fvg_status s = fvg_parallel(nested, count_inner, inner + i * 10, 10);
  ((int *)arg)[i] = s == FVG_OK;
}
static void backwards(void *user, void (*job)(void *arg, int index), void *arg, int n) {
  (void)user;
  while (n--) job(arg, n);
}

static void test_nested_jobs(void) {
  int threads, round, i;
  for (threads = 0; threads < 5; threads++) {                        /* 0: the caller's own way to run jobs */
    int outer[64], ok = 1;
    fvg_desc d;
    memset(&d, 0, sizeof d);
    d.n_threads = threads;
    if (!threads) d.parallel = backwards;
    if (fvg_init(&nested, &d)) { check(0, "a context"); continue; }
    memset(inner, 0, sizeof inner);
    for (round = 1; round <= 50; round++) {
      memset(outer, 0, sizeof outer);
      ok = ok && fvg_parallel(nested, outer_job, outer, 64) == FVG_OK;
      for (i = 0; i < 64; i++) ok = ok && outer[i];
      for (i = 0; i < 640; i++) ok = ok && inner[i] == round;
    }
    check(ok, "a job's own jobs run once each, in its thread");
    check(fvg_parallel(nested, NULL, outer, 3) == FVG_E_ARG && strstr(fvg_error(nested), "the job must be given"), "no job");
    check(fvg_report_progress(nested, NULL) == FVG_E_ARG, "no progress");
    fvg_free(nested);
  }
}

/* ---- the memory of tapes beside the budget of a file ---- */
static void test_budget(void) {
  const size_t mib = (size_t)1 << 20;
  allocator_log log;
  fvg_desc d = logged_desc(&log);
  fvg_ctx *c;
  int round;
  if (fvg_init(&c, &d)) { check(0, "a context"); return; }
  for (round = 0; round < 4; round++) {
    fvg_tape *t = fvg_tape_new(c);
    void *much, *more = NULL;
    if (round == 1) fvg_zeros(t, 1, 20 << 20);                       /* a tape that is there before, and goes */
    fvg__budget before;
    fvg__budget_begin(c, &before, "a file", 0);
    if (round == 2) fvg_zeros(t, 1, 20 << 20);                       /* one that grows, and stays */
    if (round == 3) {                                                /* one that cannot grow */
      log.fail_from = log.n_alloc + 2;
      check(!fvg_zeros(t, 1, 20 << 20), "no memory for a tape");
      log.fail_from = 0;
    }
    if (round == 1 || round == 3) { fvg_tape_free(t); t = NULL; }
    much = fvg_alloc(c, 63 * mib);
    check(much != NULL, "a file has its 64 MiB, however large the tapes are");
    if (much) more = fvg_alloc(c, 2 * mib);
    check(!more && strstr(fvg_error(c), "a file: "), "and no more, whatever tapes did meanwhile");
    fvg__budget_end(c, &before);
    fvg_release(c, more);
    fvg_release(c, much);
    fvg_tape_free(t);
    check(fvg_mem_used(c) == 0 && c->tape_bytes == 0,
          "tapes leave nothing in the account");
  }
  fvg_free(c);
}

/* ---- printing: the same as libc's ---- */
static int as_libc(const char *format, ...) {
  char got[1500], want[1500];
  va_list args;
  va_start(args, format);
  int n = vsnprintf(want, sizeof want, format, args);
  va_end(args);
  va_start(args, format);
  int m = fvg__vprint(got, sizeof got, format, args);
  va_end(args);
  int ok = n == m && strcmp(got, want) == 0;
  if (!ok) printf("  %s: \"%s\", but libc has \"%s\"\n", format, got, want);
  return ok;
}

static double any_double(fvg_rng *r) {                               /* any bits of a finite one */
  uint64_t bits = fvg_rng_next(r);
  double x;
  if ((bits >> 52 & 0x7FF) == 0x7FF) bits ^= (uint64_t)1 << 60;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static void test_printed_reals(void) {
  static const char *const format[] = {"%g", "%.9g", "%.17g", "%.15g", "%.0f", "%.2f", "%f", "%e", "%.3e", "%.0e", "%.0g",
                                       "%.1g", "%12.4f|", "%-12g|", "%012.3e", "%+.4g", "% 9.1f", "%020.3f", "%-020.3f|"};
  static const double special[] = {0, -0.0, 0.5, 1.5, 2.5, 0.125, 0.375, 9.5, 9.96, 99.5, 0.05, 999999.5, 9999995, 0.00009999995,
                                   1e-4, 1e-5, 123456, 1234567, 1e22, 1e23, 5e-324, 2.2250738585072014e-308,
                                   1.7976931348623157e308, 0.1, 1.0 / 3, -2.0 / 3, 1e15, 1e16, 1e17, 4.35, 0.045};
  fvg_rng r;
  fvg_rng_seed(&r, 1, 2);
  for (size_t i = 0; i < sizeof format / sizeof *format; i++) {
    int ok = as_libc(format[i], HUGE_VAL) && as_libc(format[i], -HUGE_VAL);
    for (size_t k = 0; k < sizeof special / sizeof *special; k++) ok &= as_libc(format[i], special[k]);
    for (int k = 0; k < 200; k++) {
      ok &= as_libc(format[i], any_double(&r));
      ok &= as_libc(format[i], floor(fvg_rng_uniform(&r) * 2e6) / 64);   /* many lie between two that can be printed */
    }
    check(ok, format[i]);
  }
  check(as_libc("%.*g", 12, 1.0 / 3) && as_libc("%*.*f|", 12, 3, 2.0 / 3) && as_libc("%*d|%-*d|", -8, 5, 6, 7) &&
        as_libc("%.400f", 1.0 / 3) && as_libc("%.1100f", 5e-324) && as_libc("%700.3f", 1.0) && as_libc("%0700d", 7),
        "widths, precisions and arguments for them");
}

static void test_printed_words(void) {
  check(as_libc("%d %i %5d|%-5d|%05d|%+d|% d|%.3d", 0, -1, INT_MIN, INT_MAX, -42, 42, 42, 7) &&
        as_libc("%u %x %X %08x %02X %.0d|", UINT_MAX, 48879u, 48879u, 48879u, 7u, 0), "whole numbers");
  check(as_libc("%ld %lu %lx %08lx", LONG_MIN, ULONG_MAX, ULONG_MAX, 255ul) && as_libc("%lld %llu", LLONG_MIN, ULLONG_MAX) &&
        as_libc("%zu", (size_t)-1) && as_libc("%hd", 7), "of every length");
  check(as_libc("%s|%5s|%-5s|%.2s|%5.1s|%.*s|%05.2f%%", "word", "ab", "ab", "word", "word", 3, "word", 2.5) &&
        as_libc("%c%5c|%-3c|", 'a', 'b', 'c') && as_libc("") && as_libc("100 %%"), "texts and letters");

  int ok = 1;
  for (size_t size = 0; size < 24; size++) {                         /* what does not fit is cut off, and counted */
    char got[32], want[32];
    memset(got, 'x', sizeof got);
    memset(want, 'x', sizeof want);
    int n = snprintf(want, size, "%5d|%06.2f|%-4s|", 42, -1.5, "ab");
    ok &= n == fvg__print(got, size, "%5d|%06.2f|%-4s|", 42, -1.5, "ab") && memcmp(got, want, size) == 0 && got[size] == 'x';
  }
  check(ok, "at every size of the place");
  char text[32];
  const char *unknown = "%p %y %", *unknown_length = "%l";
  char *four = (char *)malloc(4);                      /* without a closing 0: no more may be read */
  if (four) memcpy(four, "abcd", 4);
  check(four && fvg__print(text, sizeof text, "%.*s", 4, four) == 4 && strcmp(text, "abcd") == 0, "four letters of four");
  free(four);
  check(fvg__print(text, sizeof text, unknown) == 7 && strcmp(text, "%p %y %") == 0 &&
        fvg__print(text, sizeof text, unknown_length) == 1, "what is not known stands there as it is");
}

int main(void) {
  float result[5];
  test_counting();
  heap_calls = 0;
  test_allocation_failures(result);
  test_arena(result);
  test_arena_blocks();
  test_messages();
  test_printed_reals();
  test_printed_words();
  test_rng_values();
  test_rng_statistics();
  test_few_threads();
  test_nested_jobs();
  test_budget();
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
