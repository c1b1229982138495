/* Fuzzer for fvg_weights_open_any, safetensors and PyTorch's zip and pickle alike, and fvg_weights_get.
   With libFuzzer:  clang -g -fsanitize=fuzzer,address,undefined -DFVG_LIBFUZZER fuzz_safetensors.c -lm
   Without it, main mutates two good files argv[1] times (default 20000).  A fault is a sanitizer's report, memory
   that stays, or memory out of proportion to the input: no more than 64 n + 64 MiB are ever asked for. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fault(const char *what) { printf("FAILED %s\n", what); fflush(stdout); abort(); }

#ifdef __cplusplus
extern "C"
#endif
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void *count_alloc(void *user, size_t bytes) {
  if (bytes > *(size_t *)user) fault("more than 64 n + 64 MiB is asked for");
  return malloc(bytes);
}
static void count_release(void *user, void *block, size_t bytes) { (void)user; (void)bytes; free(block); }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const fvg_dtype types[] = {FVG_F32, FVG_F16, FVG_I32, FVG_U8};
  fvg_source s = fvg_source_memory(data, size, "fuzz");
  fvg_weights *w;
  fvg_tensor x;
  fvg_ctx *c;
  size_t allowed = 64 * size + ((size_t)64 << 20);
  fvg_desc d;
  int i, k, opened;
  memset(&d, 0, sizeof d);
  d.allocator.alloc = count_alloc;
  d.allocator.release = count_release;
  d.allocator.user = &allowed;
  if (fvg_init(&c, &d)) return 0;
  opened = fvg_weights_open_any(c, &w, &s) == FVG_OK;
  if (opened != (w != NULL)) fault("status and result disagree");
  for (i = 0; w && i < fvg_weights_count(w); i++) {
    const char *name = fvg_weights_name(w, i);
    if (!fvg_weights_info(w, &x, name)) fault("a tensor that is listed cannot be found");
    for (k = 0; k < 4; k++) {
      if (!fvg_weights_get(w, &x, name, types[k]) == !x.data) fault("status and data disagree");
      fvg_tensor_free(c, &x);
    }
  }
  if (w) fvg_weights_metadata(w, "format");
  fvg_weights_close(w);
  if (fvg_mem_used(c) != 0) fault("memory stays");
  if (fvg_mem_peak(c) > 200000 + 100 * size) fault("memory out of proportion");
  fvg_free(c);
  return 0;
}

#ifndef FVG_LIBFUZZER
typedef struct sample { uint8_t data[4096]; size_t n; } sample;

static int append(void *user, const void *bytes, size_t n) {
  sample *s = (sample *)user;
  if (n > sizeof s->data - s->n) return 1;
  memcpy(s->data + s->n, bytes, n);
  s->n += n;
  return 0;
}

static int make_sample(sample *s) {
  static float value[12] = {1, 2, 3};
  fvg_named_tensor t[5];
  fvg_metadata m;
  fvg_ctx *c;
  int i, status;
  memset(t, 0, sizeof t);
  for (i = 0; i < 5; i++) {
    static const char *name[] = {"a.weight", "a.bias", "ids", "mask", "\xC3\xA9\n"};
    static const fvg_dtype type[] = {FVG_F32, FVG_F16, FVG_I64, FVG_U8, FVG_BF16};
    t[i].name = name[i];
    t[i].tensor.type = type[i];
    t[i].tensor.data = value;
    t[i].tensor.n_dim = i % 3;
    t[i].tensor.dim[0] = 2;
    t[i].tensor.dim[1] = i + 1;
  }
  m.key = "format";
  m.value = "pt";
  if (fvg_init(&c, NULL)) return 1;
  status = fvg_safetensors_write(c, append, s, t, 5, &m, 1);
  fvg_free(c);
  return status;
}

static void put(sample *s, const void *bytes, size_t n) { memcpy(s->data + s->n, bytes, n); s->n += n; }
static void put_number(sample *s, uint32_t x, int n) { for (; n; n--, x >>= 8) s->data[s->n++] = (uint8_t)(x & 255); }

/* A checkpoint: a transposed tensor of floats, a parameter of halves, an object, numbers. */
static void make_archive(sample *s) {
  static const char pickle[] = "\200\002}(X\012\0\0\0state_dictccollections\nOrderedDict\n)R(X\001\0\0\0a"
    "ctorch._utils\n_rebuild_tensor_v2\nq\0((U\007storagectorch\nFloatStorage\nU\0010U\003cpuK\006tQK\0K\003K\002\206"
    "K\001K\003\206\211NtRq\001U\001bctorch._utils\n_rebuild_parameter\n(h\0((U\007storagectorch\nHalfStorage\nU\0011"
    "U\003cpuK\004tQK\001K\003\205K\001\205\211NtR\210NtRuU\005epochK\003U\002lrG?\271\231\231\231\231\231\232"
    "U\001cc__torch__\nM\n)\201}U\001w](h\001Nh\001esbU\001d\214\001xu.";
  static const char *const name[4] = {"m/data.pkl", "m/data/0", "m/data/1", "m/byteorder"};
  const void *content[4] = {pickle, "0000111122223333444455556666", "00112233", "little"};
  const uint32_t size[4] = {sizeof pickle - 1, 24, 8, 6};
  uint32_t at[4], directory;
  int i;
  for (i = 0; i < 4; i++) {
    at[i] = (uint32_t)s->n;
    put(s, "PK\003\004", 4);
    put_number(s, 0, 22);
    put_number(s, (uint32_t)strlen(name[i]), 4);
    put(s, name[i], strlen(name[i]));
    put(s, content[i], size[i]);
  }
  directory = (uint32_t)s->n;
  for (i = 0; i < 4; i++) {
    put(s, "PK\001\002", 4);
    put_number(s, 0, 16);
    put_number(s, size[i], 4);
    put_number(s, size[i], 4);
    put_number(s, (uint32_t)strlen(name[i]), 4);
    put_number(s, 0, 10);
    put_number(s, at[i], 4);
    put(s, name[i], strlen(name[i]));
  }
  at[0] = (uint32_t)s->n - directory;
  put(s, "PK\005\006\0\0\0\0\004\0\004\0", 12);
  put_number(s, at[0], 4);
  put_number(s, directory, 4);
  put_number(s, 0, 2);
}

/* One change: a byte, a letter that means something in JSON, a cut, a copied stretch, or a new header length. */
static size_t mutate(fvg_rng *r, uint8_t *b, size_t n) {
  static const char letters[] = "0123456789{}[]\",:.-eE\\u \x80\xED\x01";
  size_t at, from, length;
  if (n == 0) return 0;
  at = fvg_rng_below(r, (uint32_t)n);
  from = fvg_rng_below(r, (uint32_t)n);
  length = fvg_rng_below(r, 40);
  switch (fvg_rng_below(r, 16)) {
    case 0: return at;
    case 1: b[fvg_rng_below(r, 8) % n] = (uint8_t)fvg_rng_next(r); return n;
    case 2: case 3:
      if (length > n - at) length = n - at;
      if (length > n - from) length = n - from;
      memmove(b + at, b + from, length);
      return n;
    case 4: case 5: case 6: b[at] = (uint8_t)fvg_rng_next(r); return n;
    case 7: if (n > 8) b[0] = (uint8_t)(b[0] + (int)fvg_rng_below(r, 9) - 4); return n;
    default: b[at] = (uint8_t)letters[fvg_rng_below(r, sizeof letters - 1)]; return n;
  }
}

int main(int argc, char **argv) {
  long i, iterations = argc > 1 ? strtol(argv[1], NULL, 10) : 20000;
  static sample samples[2];
  fvg_rng r;
  if (make_sample(&samples[0])) fault("the sample cannot be written");
  make_archive(&samples[1]);
  for (i = 0; i < 2; i++) {
    fvg_source s = fvg_source_memory(samples[i].data, samples[i].n, "sample");
    fvg_weights *w = NULL;
    fvg_ctx *c;
    if (fvg_init(&c, NULL)) fault("out of memory");
    if (fvg_weights_open_any(c, &w, &s) || fvg_weights_count(w) < 4) fault(fvg_error(c));
    fvg_weights_close(w);
    fvg_free(c);
    LLVMFuzzerTestOneInput(samples[i].data, samples[i].n);
  }
  fvg_rng_seed(&r, 1, 0);
  for (i = 0; i < iterations; i++) {
    const sample *good = &samples[i / 2 % 2];
    size_t n = good->n;
    int changes = 1 + (int)fvg_rng_below(&r, i % 2 ? 8 : 2);
    uint8_t *b = (uint8_t *)malloc(n), *exact;
    if (!b) fault("out of memory");
    memcpy(b, good->data, n);
    while (changes--) n = mutate(&r, b, n);
    exact = (uint8_t *)realloc(b, n ? n : 1);          /* exactly n bytes, for the sanitizer's sake             */
    if (!exact) fault("out of memory");
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
  }
  printf("1 passed, 0 failed\n");
  return 0;
}
#endif
