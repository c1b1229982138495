/* bench [--case NAME,...] [--threads N] [--simd LEVEL] [--rounds N] [--json FILE|-] [--serve]

   How long the library's work takes, and what share of the processor it uses.  Cases: by default those in `cases`
   below; any numbers may stand in their places (gemm_MxNxK, image_b16_N or b32, text_N, METHOD_step_N and fvg_step_N
   from 12 classes on, preprocess_WxH).  image_..._q8 and image_..._bf16 keep the weights in that form.  Each case runs in a
   process of its own, so that its peak memory is its own.
   Weights are noise at the real sizes of ViT-B/32 and ViT-B/16, read from a source that makes them up: no file is
   needed, and no copy of one counts as memory.  --json - prints JSON and no table.

     ms       median of a step's time after one step to warm up; --rounds steps, by default what 2 seconds hold
     gflops   multiplications and additions asked for, over that time:
                gemm    2 M N K
                image   patches, blocks and projection of the whole ViT, attention 4 T T w a block; the library leaves
                        out rows of the last block that nobody reads, 7 % of this: share counts them as done
                text    each prompt up to its end mark, causal attention, all blocks in full: a library that also
                        shares the prompts' common start does less still, and share may exceed 1
                coop    text, and backward to the input: matrices twice, attention three times
                other steps, preprocess   0: not counted
     share    gflops / peak, where peak is what as many threads do in multiply-adds between registers, measured for a
              few ms before and after every 20 ms of steps: on a shared machine both rise and fall together.  (Above
              1 at level scalar: the peak's chains stay scalar, while a compiler may make vectors of plain C.)  For _q8
              and _bf16 these are dot products of eight bits or bfloat16 where the library takes them at that level,
              else multiply-adds of floats.
     peak_mb  the largest resident set of the case's process

   --case NAME --serve: prints "ready", then for each line of stdin runs one step, or K if the line is a number K,
   and prints the milliseconds of a step; tools/bench_peers.py takes turns with other programs that way. */
#define _POSIX_C_SOURCE 200809L
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__)) && !defined(__TINYC__)
#define X86
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
#define ARM
#include <arm_neon.h>
#endif

static const char *const cases[] = {
  "gemm_197x768x768", "gemm_197x3072x768", "gemm_50x3072x768", "gemm_77x512x512", "gemm_1540x2048x512",
  "gemm_1024x1024x1024", "image_b32_1", "image_b32_8", "image_b16_1", "image_b16_8", "text_20", "text_50",
  "coop_step_20", "coop_step_50", "fvg_step_20", "fvg_step_50", "preprocess_1200x900", "image_b32_1_q8", "image_b16_1_q8",
  "image_b32_1_bf16", "image_b16_1_bf16", "cocoop_step_20", "promptsrc_step_20", "maple_step_20", "mmrl_step_20"
};
enum { N_CASES = (int)(sizeof cases / sizeof *cases), MAX_CASES = 64, MAX_ROUNDS = 2000, MAX_THREADS = 256 };
enum { IMAGE = 224, IMAGE_WIDTH = 768, TEXT_WIDTH = 512, EMBED = 512, LAYERS = 12, VOCAB = 49408, CONTEXT = 77,
       N_CTX = 4, BATCH = 4, NOISE = 65521 };            /* a prime: rows of a matrix are no copies */

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static double median(double *x, int n) {
  qsort(x, (size_t)n, sizeof *x, by_size);
  return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

/* ---- the peak: 12 chains of multiply-adds ----
   More than latency times units, which is 8 to 10 on x86; a core with four units of latency 4 wants 16 and shows a
   share too high.  Chains that start alike would be computed once, hence different starts; the empty asm keeps a
   compiler from joining scalar chains to vectors. */
enum { CHAINS = 12 };
#define EACH(X, set, fma) X(0, set, fma) X(1, set, fma) X(2, set, fma) X(3, set, fma) X(4, set, fma) X(5, set, fma) \
  X(6, set, fma) X(7, set, fma) X(8, set, fma) X(9, set, fma) X(10, set, fma) X(11, set, fma)
#define START(k, set, fma) r##k = set(x + 0.01f * (float)k);
#define CHAIN(k, set, fma) r##k = fma(r##k, a, b); KEEP(r##k)
#define ADD(k, set, fma) r0 = fma(r##k, a, r0);
#define PEAK(name, type, set, fma) static float name(long n, float x) { \
  type a = set(0.999f), b = set(0.001f), r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11; \
  EACH(START, set, fma) \
  while (n-- > 0) { EACH(CHAIN, set, fma) } \
  EACH(ADD, set, fma) \
  memcpy(&x, &r0, sizeof x); \
  return x; \
}
#define SAME(x) (x)
#define SCALAR_FMA(x, y, z) ((x) * (y) + (z))
/* Dot products add to the chain itself; what they multiply does not matter. */
#define SET_BYTES_512(x) _mm512_set1_epi8((char)(x))
#define SET_BYTES_256(x) _mm256_set1_epi8((char)(x))
#define DOT_BYTES_512(x, y, z) _mm512_dpbusd_epi32(x, y, z)
#define DOT_BYTES_256(x, y, z) _mm256_dpbusd_avx_epi32(x, y, z)
#define DOT_BFLOAT(x, y, z) _mm512_dpbf16_ps(x, (__m512bh)(y), (__m512bh)(z))
#ifdef X86
#define KEEP(r) __asm__ volatile("" : "+v"(r));
#define SSE_FMA(x, y, z) _mm_add_ps(_mm_mul_ps(x, y), z)
__attribute__((target("avx512f"))) PEAK(peak_avx512, __m512, _mm512_set1_ps, _mm512_fmadd_ps)
__attribute__((target("avx2,fma"))) PEAK(peak_avx2, __m256, _mm256_set1_ps, _mm256_fmadd_ps)
PEAK(peak_sse2, __m128, _mm_set1_ps, SSE_FMA)
#if __GNUC__ >= 11 || (defined(__clang__) && __clang_major__ >= 12)
#define DOTS
__attribute__((target("avx512f,avx512vnni"))) PEAK(peak_bytes_512, __m512i, SET_BYTES_512, DOT_BYTES_512)
__attribute__((target("avx2,avxvnni"))) PEAK(peak_bytes_256, __m256i, SET_BYTES_256, DOT_BYTES_256)
__attribute__((target("avx512f,avx512bf16"))) PEAK(peak_bfloat, __m512, _mm512_set1_ps, DOT_BFLOAT)
#endif
#else
#define peak_avx512 peak_scalar
#define peak_avx2 peak_scalar
#define peak_sse2 peak_scalar
#endif
#ifdef ARM
#define KEEP(r) __asm__ volatile("" : "+w"(r));
#define NEON_FMA(x, y, z) vfmaq_f32(z, x, y)
PEAK(peak_neon, float32x4_t, vdupq_n_f32, NEON_FMA)
#else
#define peak_neon peak_scalar
#endif
#ifndef KEEP
#define KEEP(r)
#endif
PEAK(peak_scalar, float, SAME, SCALAR_FMA)

/* `lanes` multiply-adds an instruction. */
static const struct level { const char *name; int simd, lanes; float (*peak)(long n, float x); } levels[] = {
  {"scalar", FVG_SIMD_SCALAR, 1, peak_scalar},
  {"sse2", FVG_SIMD_SSE2, 4, peak_sse2},
  {"avx2", FVG_SIMD_AVX2, 8, peak_avx2},
  {"avx512", FVG_SIMD_AVX512, 16, peak_avx512},
  {"neon", FVG_SIMD_NEON, 4, peak_neon}
};
enum { N_LEVELS = (int)(sizeof levels / sizeof *levels) };

/* What multiplies weights that are kept so at a level: dot products where the processor has them and is fast at them. */
static const struct level *level_of(const struct level *l, fvg_dtype weights) {
#ifdef DOTS
  static const struct level bytes_512 = {"avx512 bytes", FVG_SIMD_AVX512, 64, peak_bytes_512};
  static const struct level bytes_256 = {"avx2 bytes", FVG_SIMD_AVX2, 32, peak_bytes_256};
  static const struct level bfloats = {"avx512 bfloat16", FVG_SIMD_AVX512, 32, peak_bfloat};
  unsigned a, b, c = 0, d = 0, e, more = 0;           /* leaf 7 of cpuid says in c, d and `more` what there is      */
  int floats_are_faster;                              /* Intel from Sapphire Rapids on: fvgpt.h, chapter 8          */
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !__get_cpuid_count(7, 1, &more, &a, &b, &e)) return l;
  floats_are_faster = __builtin_cpu_is("intel") && d >> 23 & 1;
  if (weights == FVG_Q8 && l->simd == FVG_SIMD_AVX512 && c >> 11 & 1) return &bytes_512;
  if (weights == FVG_Q8 && l->simd == FVG_SIMD_AVX2 && more >> 4 & 1) return &bytes_256;
  if (weights == FVG_BF16 && l->simd == FVG_SIMD_AVX512 && more >> 5 & 1 && !floats_are_faster) return &bfloats;
#endif
  (void)weights;
  return l;
}

typedef struct burst { const struct level *level; long n; float start, sum; double ms; } burst;

static void *run_burst(void *arg) {
  burst *b = (burst *)arg;
  double from = now_ms();
  b->sum = b->level->peak(b->n, b->start);
  b->ms = now_ms() - from;
  return NULL;
}

/* GFLOP/s of n multiply-adds in each chain of each thread. */
static double burst_gflops(const struct level *level, int threads, long n) {
  static volatile float start = 1, sink;              /* the compiler must not know what goes in nor what comes out */
  pthread_t thread[MAX_THREADS];
  burst b[MAX_THREADS];
  static const struct timespec pause = {0, 300000};
  double sum = 0;
  int i, started = 1;
  nanosleep(&pause, NULL);                            /* the library's threads look for work before they sleep      */
  for (i = 0; i < threads; i++) {
    b[i].level = level;
    b[i].n = n;
    b[i].start = start;
  }
  while (started < threads && !pthread_create(&thread[started], NULL, run_burst, &b[started])) started++;
  run_burst(&b[0]);
  for (i = 1; i < started; i++) pthread_join(thread[i], NULL);
  for (i = 0; i < started; i++) {
    sink = b[i].sum;
    sum += 2.0 * CHAINS * (double)level->lanes * (double)n / (b[i].ms * 1e6);
  }
  (void)sink;
  return sum;
}

/* ---- noise ---- */
static float noise[NOISE], ones[4096];                /* standard deviation 0.025; gains of norms                   */

static void make_noise(void) {
  fvg_rng rng;
  int i;
  fvg_rng_seed(&rng, 1, 0);
  for (i = 0; i < NOISE; i++) noise[i] = (float)(0.025 * fvg_rng_normal(&rng));
  for (i = 0; i < 4096; i++) ones[i] = 1;
}

/* n numbers of noise times scale, NULL when out of memory; never freed: the process ends with its case. */
static float *random_floats(size_t n, float scale, size_t from) {
  float *x = (float *)malloc(n * sizeof *x);
  size_t i;
  for (i = 0; x && i < n; i++) x[i] = scale * noise[(from + i) % NOISE];
  return x;
}

static float *random_features(int n, size_t from) {
  float *x = random_floats((size_t)n * EMBED, 1, from);
  if (x) fvg_normalize_rows(x, n, EMBED);
  return x;
}

/* ---- a model as a safetensors file that exists only while it is read ----
   Its header, then the gains of all norms, 1, then all the rest, noise. */
typedef struct model_file {
  char header[1 << 16];
  size_t n;                                           /* bytes of the header, with its length                       */
  uint64_t gains, gain_at, noise_at;                  /* bytes of gains; where the next tensor of each kind starts  */
} model_file;

/* Entry of a tensor [d0], [d0,d1] or, for patches, [d0,d1,d2,d2]; names that end in "norm*.weight" are gains. */
static void add(model_file *f, const char *prefix, const char *leaf, int d0, int d1, int d2) {
  size_t tail = strlen(leaf) > 7 ? strlen(leaf) - 7 : 0;
  int gain = strstr(leaf, "norm") != NULL && !strcmp(leaf + tail, ".weight");
  uint64_t *at = gain ? &f->gain_at : &f->noise_at;
  uint64_t bytes = 4 * (uint64_t)d0 * (uint64_t)(d1 ? d1 : 1) * (uint64_t)(d2 ? d2 * d2 : 1);
  char shape[64];
  if (d2) snprintf(shape, sizeof shape, "%d,%d,%d,%d", d0, d1, d2, d2);
  else if (d1) snprintf(shape, sizeof shape, "%d,%d", d0, d1);
  else snprintf(shape, sizeof shape, "%d", d0);
  f->n += (size_t)snprintf(f->header + f->n, sizeof f->header - f->n,
                           "%c\"%s%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%.0f,%.0f]}",
                           f->n == 8 ? '{' : ',', prefix, leaf, shape, (double)*at, (double)(*at + bytes));
  *at += bytes;
}

/* What both towers have, named by `prefix`: embeddings of w numbers for each of n positions, blocks, a projection. */
static void add_tower(model_file *f, const char *prefix, const char *projection, int n, int w) {
  static const struct { const char *leaf; int rows, cols; } block[] = {      /* in widths                           */
    {"self_attn.q_proj.weight", 1, 1}, {"self_attn.q_proj.bias", 1, 0}, {"self_attn.k_proj.weight", 1, 1},
    {"self_attn.k_proj.bias", 1, 0}, {"self_attn.v_proj.weight", 1, 1}, {"self_attn.v_proj.bias", 1, 0},
    {"self_attn.out_proj.weight", 1, 1}, {"self_attn.out_proj.bias", 1, 0}, {"layer_norm1.weight", 1, 0},
    {"layer_norm1.bias", 1, 0}, {"layer_norm2.weight", 1, 0}, {"layer_norm2.bias", 1, 0},
    {"mlp.fc1.weight", 4, 1}, {"mlp.fc1.bias", 4, 0}, {"mlp.fc2.weight", 1, 4}, {"mlp.fc2.bias", 1, 0}
  };
  char path[64];
  int i, k;
  add(f, prefix, "embeddings.position_embedding.weight", n, w, 0);
  for (i = 0; i < LAYERS; i++) {
    snprintf(path, sizeof path, "%sencoder.layers.%d.", prefix, i);
    for (k = 0; k < (int)(sizeof block / sizeof *block); k++)
      add(f, path, block[k].leaf, w * block[k].rows, w * block[k].cols, 0);
  }
  add(f, "", projection, EMBED, w, 0);
}

static void add_vision(model_file *f, int patch) {
  const char *p = "vision_model.";
  int w = IMAGE_WIDTH, grid = IMAGE / patch;
  add_tower(f, p, "visual_projection.weight", grid * grid + 1, w);
  add(f, p, "embeddings.patch_embedding.weight", w, 3, patch);
  add(f, p, "embeddings.class_embedding", w, 0, 0);
  add(f, p, "pre_layrnorm.weight", w, 0, 0);
  add(f, p, "pre_layrnorm.bias", w, 0, 0);
  add(f, p, "post_layernorm.weight", w, 0, 0);
  add(f, p, "post_layernorm.bias", w, 0, 0);
}

static void add_text(model_file *f) {
  const char *p = "text_model.";
  add_tower(f, p, "text_projection.weight", CONTEXT, TEXT_WIDTH);
  add(f, p, "embeddings.token_embedding.weight", VOCAB, TEXT_WIDTH, 0);
  add(f, p, "final_layer_norm.weight", TEXT_WIDTH, 0, 0);
  add(f, p, "final_layer_norm.bias", TEXT_WIDTH, 0, 0);
}

/* Up to n bytes at `at` of a table that repeats itself; returns how many. */
static size_t copy_from(void *dst, size_t n, const void *table, size_t size, uint64_t at) {
  size_t first = (size_t)(at % size);
  if (n > size - first) n = size - first;
  memcpy(dst, (const char *)table + first, n);
  return n;
}

static int read_model(void *user, void *dst, uint64_t offset, size_t n) {
  const model_file *f = (const model_file *)user;
  char *to = (char *)dst;
  while (n > 0) {
    uint64_t data = offset - f->n, end = offset < f->n ? f->n : data < f->gains ? f->n + f->gains : offset + n;
    size_t part = n < end - offset ? n : (size_t)(end - offset);
    if (offset < f->n) part = copy_from(to, part, f->header, f->n, offset);
    else if (data < f->gains) part = copy_from(to, part, ones, sizeof ones, data);
    else part = copy_from(to, part, noise, sizeof noise, data);
    to += part;
    offset += part;
    n -= part;
  }
  return 0;
}

/* The gains of a tower of width w: two norms a block, and others. */
static uint64_t gain_bytes(int w, int others) { return (uint64_t)(2 * LAYERS + others) * (uint64_t)w * sizeof(float); }

/* The image tower with patches of that size (0: none), and the text tower if that is wanted. */
static fvg_status load_model(fvg_ctx *c, fvg_clip **m, int patch, int text, fvg_dtype weights_as) {
  static model_file f;
  fvg_weights *weights;
  fvg_source source;
  fvg_status s;
  int i;
  f.n = 8;
  f.gain_at = 0;
  f.gains = f.noise_at = (patch ? gain_bytes(IMAGE_WIDTH, 2) : 0) + (text ? gain_bytes(TEXT_WIDTH, 1) : 0);
  if (patch) add_vision(&f, patch);
  if (text) add_text(&f);
  f.header[f.n++] = '}';
  while (f.n % 8) f.header[f.n++] = ' ';
  for (i = 0; i < 8; i++) f.header[i] = (char)((f.n - 8) >> 8 * i);
  memset(&source, 0, sizeof source);
  source.read = read_model;
  source.user = &f;
  source.size = f.n + f.noise_at;
  source.name = "noise";
  s = fvg_weights_open(c, &weights, &source);
  if (s) return s;
  s = fvg_clip_load(c, m, weights, NULL, weights_as);
  fvg_weights_close(weights);
  return s;
}

/* ---- words: syllables of one token, and those of the prompt ---- */
static void syllable(char *out, int i) {
  out[0] = "bcdfghjklmnpqrstvwxyz"[i % 21];
  out[1] = "aeiou"[i / 21 % 5];
  out[2] = 0;
}

/* Class names of one token, seven in ten, two and three. */
static void class_name(char *out, int i) {
  int k, words = i % 10 < 7 ? 1 : i % 10 < 9 ? 2 : 3;
  for (k = 0; k < words; k++) {
    if (k) out[3 * k - 1] = ' ';
    syllable(out + 3 * k, (k + 1) * i + k);
  }
}

/* Byte symbols that are no small letters: ASCII, and U+00AE to U+0143, two bytes in UTF-8. */
enum { SYMBOLS = 214 };
static char *put_symbol(char *at, int i) {
  int code = i < 64 ? '!' + i : 0xAE + i - 64;
  if (code >= 128) *at++ = (char)(0xC0 | code >> 6);
  *at++ = (char)(code < 128 ? code : (0x80 | (code & 63)));
  return at;
}

/* Merges of the syllables, of "photo" and "of", and pairs of other symbols that fill the vocabulary. */
static fvg_status open_tokenizer(fvg_ctx *c, fvg_tokenizer **out) {
  enum { SYLLABLES = 105, FILLERS = VOCAB - 514 - SYLLABLES - 4 };
  char *text = (char *)malloc((size_t)VOCAB * 16), *at = text, word[3];
  fvg_source source;
  fvg_status s;
  int i;
  if (!text) return FVG_E_NOMEM;
  at += sprintf(at, "#version: 0.2\n");
  for (i = 0; i < SYLLABLES; i++) {
    syllable(word, i);
    at += sprintf(at, "%c %c</w>\n", word[0], word[1]);
  }
  at += sprintf(at, "p h\nph o\npho to</w>\no f</w>\n");
  for (i = 0; i < FILLERS; i++) {
    at = put_symbol(at, i % SYMBOLS);
    *at++ = ' ';
    at = put_symbol(at, i / SYMBOLS % SYMBOLS);
    at += sprintf(at, "%s\n", i / SYMBOLS / SYMBOLS ? "</w>" : "");
  }
  source = fvg_source_memory(text, (size_t)(at - text), "syllables");
  s = fvg_tokenizer_open(c, out, &source, VOCAB);
  fvg_source_close(&source);
  free(text);
  return s;
}

/* ---- cases ---- */
typedef struct job {
  fvg_ctx *c;
  int number[3];                                      /* those in the case's name                                   */
  fvg_dtype kept;                                     /* the weights                                                */
  fvg_status (*step)(struct job *j);
  double gflop;                                       /* of a step                                                  */
  fvg_tape *tape;
  fvg_parameter weights;                              /* the value, in panels, is used; peak_mb has a gradient too  */
  fvg_clip *m;
  const char **name;
  int n;                                              /* images or classes                                          */
  float *x, *y, *pixels;
  fvg_learner *learner;
  fvg_fvgpt *fvgpt;
  fvg_fvgpt_batch batch;
  fvg_optimizer *optimizer;
  fvg_image image;
} job;

static fvg_status step_gemm(job *j) {
  fvg_node *y;
  fvg_tape_clear(j->tape);
  y = fvg_linear(fvg_const(j->tape, j->number[0], j->number[2], j->x), fvg_frozen(j->tape, &j->weights.value), NULL);
  return y ? FVG_OK : fvg_last_status(j->c);
}

static fvg_status setup_gemm(job *j) {
  int m = j->number[0], n = j->number[1], k = j->number[2], dim[2];
  size_t i;
  dim[0] = n;
  dim[1] = k;
  j->step = step_gemm;
  j->gflop = 2e-9 * m * n * k;
  j->tape = fvg_tape_new(j->c);
  j->x = random_floats((size_t)m * (size_t)k, 40, 0);
  if (!j->tape || !j->x || fvg_parameter_new(j->c, &j->weights, "weights", 2, dim)) return FVG_E_NOMEM;
  for (i = 0; i < (size_t)n * (size_t)k; i++) ((float *)j->weights.value.data)[i] = noise[(7 + i) % NOISE];
  return fvg_tensor_pack(j->c, &j->weights.value);
}

static fvg_status step_image(job *j) { return fvg_clip_encode_images(j->m, j->y, j->x, j->n); }

static fvg_status setup_image(job *j) {
  int patch = j->number[0], grid = IMAGE / patch;
  double w = IMAGE_WIDTH, patches = (double)grid * grid, tokens = patches + 1;
  j->step = step_image;
  j->n = j->number[1];
  j->gflop = 1e-9 * j->n * (LAYERS * (24 * w * w * tokens + 4 * w * tokens * tokens)
                            + 2 * patches * w * 3 * patch * patch + 2 * w * EMBED);
  j->x = random_floats((size_t)j->n * 3 * IMAGE * IMAGE, 40, 0);
  j->y = random_floats((size_t)j->n * EMBED, 1, 0);
  return j->x && j->y ? load_model(j->c, &j->m, patch, 0, j->kept) : FVG_E_NOMEM;
}

/* GFLOP of one text: `linear` times its matrices, `attention` times the causal attention. */
static double text_gflop(double tokens, double linear, double attention) {
  double w = TEXT_WIDTH;
  return 1e-9 * (LAYERS * (linear * 24 * w * w * tokens + attention * 2 * w * tokens * (tokens + 1))
                 + linear * 2 * w * EMBED);
}

static fvg_status setup_image_q8(job *j) {
  j->kept = FVG_Q8;
  return setup_image(j);
}

static fvg_status setup_image_bf16(job *j) {
  j->kept = FVG_BF16;
  return setup_image(j);
}

/* The text tower, the image tower if `patch` is not 0, and class names; the arithmetic of prompts of which `form` is the
   part that has the name, and that have `more` tokens besides. */
static fvg_status setup_towers(job *j, int patch, const char *form, int more, double linear, double attention) {
  char *names, text[64];
  fvg_status s;
  int i, tokens;
  j->n = j->number[0];
  names = (char *)malloc((size_t)j->n * 16);
  j->name = (const char **)malloc((size_t)j->n * sizeof *j->name);
  if (!names || !j->name) return FVG_E_NOMEM;
  s = load_model(j->c, &j->m, patch, 1, j->kept);
  if (!s) s = open_tokenizer(j->c, &j->m->tokenizer);
  for (i = 0; !s && i < j->n; i++) {
    j->name[i] = names + 16 * i;
    class_name(names + 16 * i, i);
    snprintf(text, sizeof text, form, j->name[i]);
    s = fvg_tokenize(j->m->tokenizer, NULL, 0, &tokens, text);
    j->gflop += text_gflop(tokens + more, linear, attention);
  }
  return s;
}

static fvg_status step_text(job *j) { return fvg_clip_encode_classes(j->m, j->y, NULL, j->name,
                                                                     j->n); }

static fvg_status setup_text(job *j) {
  j->step = step_text;
  j->y = random_floats((size_t)j->number[0] * EMBED, 1, 0);
  return j->y ? setup_towers(j, 0, "a photo of a %s.", 2, 1, 1) : FVG_E_NOMEM;
}

enum { MIN_CLASSES = 12 };
static const int labels[BATCH] = {3, 11, 7, 0};

static fvg_status step_learner(job *j) {
  fvg_batch batch;
  float loss;
  memset(&batch, 0, sizeof batch);
  batch.n = j->number[1];
  batch.label = labels;
  batch.f_clip = j->x;
  batch.pixels = j->pixels;
  return fvg_learner_step(j->learner, &loss, j->optimizer, 0.0035, &batch);
}

/* A learner with the towers that its method needs; steps of so many pictures. */
static fvg_status setup_learner(job *j, const char *method, int pictures) {
  fvg_parameter *const *params;
  fvg_learner_desc desc;
  fvg_optimizer_desc optimizer;
  fvg_status s;
  int n_params, pixels;
  memset(&desc, 0, sizeof desc);
  desc.method = fvg_method_find(method);
  if (!desc.method) return FVG_E_ARG;
  pixels = (fvg_method_needs(desc.method) & FVG_NEEDS_PIXELS) != 0;
  s = setup_towers(j, pixels ? 16 : 0, "%s.", 2 + N_CTX, 2, 3);
  j->step = step_learner;
  j->number[1] = pictures;
  j->x = random_features(pictures, 0);
  if (pixels) j->pixels = random_floats((size_t)pictures * 3 * IMAGE * IMAGE, 40, 0);
  if (!s && (!j->x || (pixels && !j->pixels))) s = FVG_E_NOMEM;
  if (!s) s = fvg_learner_new(j->m, &j->learner, j->name, j->n, &desc);
  if (s) return s;
  params = fvg_learner_parameters(j->learner, &n_params);
  optimizer = fvg_method_optimizer(desc.method, NULL);
  return fvg_optimizer_new(j->c, &j->optimizer, params, n_params, &optimizer);
}

static fvg_status setup_coop(job *j) { return setup_learner(j, "CoOp", BATCH); }

/* Its arithmetic is not counted: pictures are encoded as well, and tokens differ from method to method. */
static fvg_status setup_uncounted(job *j, const char *method, int pictures) {
  fvg_status s = setup_learner(j, method, pictures);
  j->gflop = 0;
  return s;
}

static fvg_status setup_cocoop(job *j) { return setup_uncounted(j, "CoCoOp", 1); }
static fvg_status setup_promptsrc(job *j) { return setup_uncounted(j, "PromptSRC", BATCH); }
static fvg_status setup_maple(job *j) { return setup_uncounted(j, "MaPLe", BATCH); }
static fvg_status setup_mmrl(job *j) { return setup_uncounted(j, "MMRL", BATCH); }

static fvg_status step_fvg(job *j) { return fvg_fvgpt_step(j->fvgpt, NULL, j->optimizer, 0.0035,
                                                           &j->batch); }

static fvg_status setup_fvg(job *j) {
  static const float area[BATCH] = {0.3f, 0.5f, 0.2f, 0.4f};
  fvg_parameter *const *params;
  fvg_fvgpt_desc desc;
  fvg_status s;
  int n_params;
  j->step = step_fvg;
  j->batch.n = BATCH;
  j->batch.n_class = j->number[0];
  j->batch.f = random_features(BATCH, 0);
  j->batch.f_fg = random_features(BATCH, 1000);
  j->batch.g = random_features(j->number[0], 2000);
  j->batch.g_clip = random_features(j->number[0], 3000);
  j->batch.area = area;
  if (!j->batch.f || !j->batch.f_fg || !j->batch.g || !j->batch.g_clip) return FVG_E_NOMEM;
  memset(&desc, 0, sizeof desc);
  desc.width = EMBED;
  s = fvg_fvgpt_new(j->c, &j->fvgpt, &desc);
  if (s) return s;
  params = fvg_fvgpt_parameters(j->fvgpt, &n_params);
  return fvg_optimizer_new(j->c, &j->optimizer, params, n_params, NULL);
}

static fvg_status step_preprocess(job *j) {
  fvg_preprocess p = fvg_preprocess_defaults(IMAGE);
  fvg_image view;
  fvg_status s = fvg_image_test_transform(j->c, &view, &j->image, &p);
  if (!s) fvg_image_free(j->c, &view);
  return s;
}

static fvg_status setup_preprocess(job *j) {
  size_t i, n = 3 * (size_t)j->number[0] * (size_t)j->number[1];
  j->step = step_preprocess;
  j->image.width = j->number[0];
  j->image.height = j->number[1];
  j->image.channels = 3;
  j->image.pixels = (uint8_t *)malloc(n);
  if (!j->image.pixels) return FVG_E_NOMEM;
  for (i = 0; i < n; i++) j->image.pixels[i] = (uint8_t)(128 + (int)(1000 * noise[i % NOISE]) % 128);
  return FVG_OK;
}

static const struct kind { const char *pattern; fvg_status (*setup)(job *j); } kinds[] = {    /* #: a number        */
  {"gemm_#x#x#", setup_gemm}, {"image_b#_#", setup_image},
  {"image_b#_#_q8", setup_image_q8}, {"image_b#_#_bf16", setup_image_bf16}, {"cocoop_step_#", setup_cocoop},
  {"promptsrc_step_#", setup_promptsrc}, {"maple_step_#", setup_maple}, {"mmrl_step_#", setup_mmrl},
  {"text_#", setup_text}, {"coop_step_#", setup_coop},
  {"fvg_step_#", setup_fvg}, {"preprocess_#x#", setup_preprocess}
};
enum { N_KINDS = (int)(sizeof kinds / sizeof *kinds) };

static int matches(const char *name, const char *pattern, int *number) {
  char *end;
  for (; *pattern; pattern++) {
    if (*pattern != '#') {
      if (*name++ != *pattern) return 0;
      continue;
    }
    if (*name < '1' || *name > '9' || strspn(name, "0123456789") > 5) return 0;
    *number++ = (int)strtol(name, &end, 10);
    name = end;
  }
  return !*name;
}

static const struct kind *find_kind(const char *name, int number[3]) {
  int i;
  for (i = 0; i < N_KINDS && !matches(name, kinds[i].pattern, number); i++) {}
  if (i == N_KINDS) return NULL;
  if (!strncmp(name, "image", 5) && number[0] != 16 && number[0] != 32) return NULL;
  if (strstr(name, "_step_") && number[0] < MIN_CLASSES) return NULL;
  return &kinds[i];
}

/* ---- measuring ---- */
typedef struct options {
  const char *name[MAX_CASES], *json;
  int n, threads, rounds, serve;
  const struct level *level;                          /* the one in use                                             */
  int simd;                                           /* the one asked for                                          */
} options;

typedef struct result { double ms, gflops, peak, peak_mb; char error[512]; } result;

/* Sets the case up and runs a first step. */
static fvg_status prepare(job *j, const options *o, const char *name, char error[512]) {
  const struct kind *kind = find_kind(name, j->number);
  fvg_desc desc;
  fvg_status s;
  memset(&desc, 0, sizeof desc);
  desc.n_threads = o->threads;
  desc.simd = o->simd;
  make_noise();
  j->batch.label = labels;
  s = fvg_init(&j->c, &desc);
  if (!s) s = kind->setup(j);
  if (!s) s = j->step(j);
  if (s) snprintf(error, 512, "%s", j->c && fvg_error(j->c)[0] ? fvg_error(j->c) : fvg_status_name(s));
  return s;
}

static void measure(const options *o, const char *name, result *r) {
  double step[MAX_ROUNDS], peak[2 * MAX_ROUNDS + 1], start, from;
  int n = 0, n_peak = 0, least = o->rounds ? o->rounds : 5, most = o->rounds ? o->rounds : MAX_ROUNDS;
  long burst_steps = 100000;
  struct rusage usage;
  const struct level *level;
  job j;
  memset(&j, 0, sizeof j);
  memset(r, 0, sizeof *r);
  if (prepare(&j, o, name, r->error)) return;
  level = level_of(o->level, j.kept);
  burst_gflops(level, o->threads, burst_steps);                                     /* wakes the processor          */
  burst_steps = (long)(3e6 * burst_gflops(level, 1, burst_steps) / (2.0 * CHAINS * level->lanes));          /* 3 ms */
  start = now_ms();
  while (n < least || (n < most && now_ms() - start < 2000)) {
    peak[n_peak++] = burst_gflops(level, o->threads, burst_steps);
    from = now_ms();
    do {
      double before = now_ms();
      if (j.step(&j)) { snprintf(r->error, sizeof r->error, "%s", fvg_error(j.c)); return; }
      step[n++] = now_ms() - before;
    } while (n < most && now_ms() - from < 20);
  }
  peak[n_peak++] = burst_gflops(level, o->threads, burst_steps);
  r->ms = median(step, n);
  r->gflops = j.gflop / r->ms * 1e3;
  r->peak = median(peak, n_peak);
  getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
  r->peak_mb = (double)usage.ru_maxrss / 1048576;
#else
  r->peak_mb = (double)usage.ru_maxrss / 1024;
#endif
}

/* measure in a process of its own */
static void measure_apart(const options *o, const char *name, result *r) {
  int ends[2];
  pid_t child;
  memset(r, 0, sizeof *r);
  snprintf(r->error, sizeof r->error, "its process ended early");
  fflush(NULL);
  if (pipe(ends) || (child = fork()) < 0) { snprintf(r->error, sizeof r->error, "no process could be made"); return; }
  if (!child) {
    measure(o, name, r);
    _exit(write(ends[1], r, sizeof *r) != (ssize_t)sizeof *r);      /* fits into a pipe: whole or not at all        */
  }
  close(ends[1]);
  if (read(ends[0], r, sizeof *r) < 0) snprintf(r->error, sizeof r->error, "its process cannot be heard");
  close(ends[0]);
  waitpid(child, NULL, 0);
}

static int serve(const options *o) {
  char line[64], error[512];
  job j;
  memset(&j, 0, sizeof j);
  if (prepare(&j, o, o->name[0], error)) return fprintf(stderr, "bench: case %s: %s\n", o->name[0], error), 1;
  printf("ready\n");
  fflush(stdout);
  while (fgets(line, sizeof line, stdin)) {
    long k = strtol(line, NULL, 10), i;
    double start = now_ms();
    if (k < 1) k = 1;
    for (i = 0; i < k; i++)
      if (j.step(&j)) return fprintf(stderr, "bench: case %s: %s\n", o->name[0], fvg_error(j.c)), 1;
    printf("%.6f\n", (now_ms() - start) / (double)k);
    fflush(stdout);
  }
  return 0;
}

/* ---- results ---- */
static void print_row(const char *name, const result *r) {
  printf("%-22s %10.3f", name, r->ms);
  if (r->gflops > 0) printf(" %10.1f %10.1f %7.3f", r->gflops, r->peak, r->gflops / r->peak);
  else printf(" %10s %10s %7s", "", "", "");
  printf(" %9.1f\n", r->peak_mb);
  fflush(stdout);
}

static int write_json(const options *o, const result *r) {
  FILE *f = strcmp(o->json, "-") ? fopen(o->json, "w") : stdout;
  int i, failed;
  if (!f) return fprintf(stderr, "bench: %s: cannot be written\n", o->json), 1;
  fprintf(f, "{\"threads\":%d,\"simd\":\"%s\",\"cases\":[", o->threads, o->level->name);
  for (i = 0; i < o->n; i++)
    fprintf(f, "%s{\"name\":\"%s\",\"ms\":%.4f,\"gflops\":%.2f,\"peak_gflops\":%.1f,\"share\":%.4f,\"peak_mb\":%.1f}",
            i ? "," : "", o->name[i], r[i].ms, r[i].gflops, r[i].peak, r[i].gflops / r[i].peak, r[i].peak_mb);
  fprintf(f, "]}\n");
  failed = ferror(f);
  if (f != stdout) failed |= fclose(f) != 0;
  return failed ? fprintf(stderr, "bench: %s: cannot be written\n", o->json), 1 : 0;
}

static int measure_all(const options *o) {
  static result r[MAX_CASES];
  int table = !o->json || strcmp(o->json, "-"), i;
  if (table) printf("%-22s %10s %10s %10s %7s %9s\n", "case", "ms", "gflops", "peak", "share", "peak_mb");
  for (i = 0; i < o->n; i++) {
    measure_apart(o, o->name[i], &r[i]);
    if (r[i].error[0]) return fprintf(stderr, "bench: case %s: %s\n", o->name[i], r[i].error), 1;
    if (table) print_row(o->name[i], &r[i]);
  }
  if (table) printf("%d thread%s, %s\n", o->threads, o->threads > 1 ? "s" : "", o->level->name);
  return o->json ? write_json(o, r) : 0;
}

/* ---- the command line ---- */
static int parse_whole(const char *option, const char *text, int most, int *out) {
  char *end;
  long x = strtol(text, &end, 10);
  if (*text < '0' || *text > '9' || *end || x < 1 || x > most)
    return fprintf(stderr, "bench: %s %s: a number from 1 to %d is expected\n", option, text, most), 1;
  *out = (int)x;
  return 0;
}

static int parse_cases(options *o, char *list) {
  int number[3];
  char *name;
  for (name = strtok(list, ","); name; name = strtok(NULL, ",")) {
    if (!find_kind(name, number)) return fprintf(stderr, "bench: --case %s: there is no such case\n", name), 1;
    if (o->n == MAX_CASES) return fprintf(stderr, "bench: --case %s: more than %d cases\n", name, MAX_CASES), 1;
    o->name[o->n++] = name;
  }
  return 0;
}

static int parse_level(options *o, const char *name) {
  int i;
  for (i = 0; i < N_LEVELS && strcmp(levels[i].name, name); i++) {}
  if (i == N_LEVELS)
    return fprintf(stderr, "bench: --simd %s: scalar, sse2, avx2, avx512 or neon is expected\n", name), 1;
  o->simd = levels[i].simd;
  return 0;
}

/* The level that a context really has: a processor may lack the one asked for. */
static int find_level(options *o) {
  fvg_desc desc;
  fvg_ctx *c;
  int i, simd;
  memset(&desc, 0, sizeof desc);
  desc.simd = o->simd;
  if (fvg_init(&c, &desc)) return fprintf(stderr, "bench: no context: out of memory\n"), 1;
  simd = fvg_simd_level(c);
  fvg_free(c);
  for (i = 0; i < N_LEVELS && levels[i].simd != simd; i++) {}
  if (i == N_LEVELS) return fprintf(stderr, "bench: level %d of fvgpt.h is missing in `levels`\n", simd), 1;
  o->level = &levels[i];
  if (o->simd == FVG_SIMD_BEST || o->simd == simd) return 0;
  return fprintf(stderr, "bench: --simd: this processor has no more than %s\n", levels[i].name), 1;
}

static int parse(options *o, int argc, char **argv) {
  int i, bad = 0;
  for (i = 1; i < argc && !bad; i++) {
    char *option = argv[i], *value = argv[i + 1];
    int known = !strcmp(option, "--case") || !strcmp(option, "--threads") || !strcmp(option, "--simd") ||
                !strcmp(option, "--rounds") || !strcmp(option, "--json");
    if (!strcmp(option, "--serve")) { o->serve = 1; continue; }
    if (!known || !value)
      return fprintf(stderr, "bench: %s: %s; the options are --case, --threads, --simd, --rounds, --json, --serve\n",
                     option, known ? "needs a value" : "no such option"), 1;
    if (!strcmp(option, "--case")) bad = parse_cases(o, value);
    else if (!strcmp(option, "--threads")) bad = parse_whole(option, value, MAX_THREADS, &o->threads);
    else if (!strcmp(option, "--simd")) bad = parse_level(o, value);
    else if (!strcmp(option, "--rounds")) bad = parse_whole(option, value, MAX_ROUNDS, &o->rounds);
    else o->json = value;
    i++;
  }
  if (!bad && o->serve && o->n != 1) return fprintf(stderr, "bench: --serve: needs --case with one name\n"), 1;
  return bad;
}

int main(int argc, char **argv) {
  static options o;
  int i;
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  o.threads = cores < 1 ? 1 : cores > MAX_THREADS ? MAX_THREADS : (int)cores;
  if (parse(&o, argc, argv) || find_level(&o)) return 1;
  for (i = 0; !o.n && i < N_CASES; i++) o.name[i] = cases[i];
  if (!o.n) o.n = N_CASES;
  return o.serve ? serve(&o) : measure_all(&o);
}
