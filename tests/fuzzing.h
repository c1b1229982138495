/* What the fuzzers share.  Each defines `target` behind this header, and one source makes two programs:

     cc fuzz_NAME.c -lm                                       changes good inputs at random
       fuzz_NAME                                              as often as the target says: part of `make test`
       fuzz_NAME N                                            N times
       fuzz_NAME 0 FOLDER                                     writes them to FOLDER, and the words to FOLDER.dict
     clang -fsanitize=fuzzer -DFVG_LIBFUZZER fuzz_NAME.c -lm  libFuzzer, which begins with those

   A fault is a sanitizer's report, memory that stays, an answer that contradicts itself, and memory out of
   proportion: n bytes of input must never have more than 64 n + 64 MiB. */
#ifndef FUZZING_H
#define FUZZING_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { FUZZ_BYTES = 1 << 16 };                         /* the longest good input                                  */
typedef struct fuzz_input { uint8_t data[FUZZ_BYTES]; size_t n; } fuzz_input;

typedef struct fuzz_target {
  long changes;                                        /* how many main makes unless it is told otherwise         */
  void (*begin)(void);                                 /* is called once, before all else; may be NULL            */
  int (*take)(const uint8_t *data, size_t n);          /* 1: the parser took this input; 0: it refused it         */
  int (*seed)(fuzz_input *to, int i);                  /* good input i, of which all are taken; 0: there is none  */
  void (*change)(fvg_rng *r, fuzz_input *x);           /* a change that knows the form of the input; may be NULL  */
  const char *const *word;                             /* what means something to the parser; ends with NULL      */
  void (*also)(void);                                  /* what main tries besides; may be NULL                    */
} fuzz_target;

static void fault(const char *what) { printf("FAILED %s\n", what); fflush(stdout); abort(); }

/* ---- an allocator that counts ---- */
typedef struct fuzz_counter { size_t live, most, allowed; } fuzz_counter;
static fuzz_counter memory = {0, 0, (size_t)-1};

static void *fuzz_alloc(void *user, size_t bytes) {
  fuzz_counter *k = (fuzz_counter *)user;
  if (bytes > k->allowed || k->live > k->allowed - bytes) fault("more memory than 64 n + 64 MiB is asked for");
  k->live += bytes;
  if (k->live > k->most) k->most = k->live;
  return malloc(bytes);
}

static void fuzz_release(void *user, void *block, size_t bytes) {
  ((fuzz_counter *)user)->live -= bytes;
  free(block);
}

static inline fvg_desc fuzz_desc(void) {
  fvg_desc d;
  memset(&d, 0, sizeof d);
  d.allocator.alloc = fuzz_alloc;
  d.allocator.release = fuzz_release;
  d.allocator.user = &memory;
  return d;
}

static inline fvg_ctx *fuzz_context(void) {
  const fvg_desc d = fuzz_desc();
  fvg_ctx *c;
  if (fvg_init(&c, &d)) fault("no context");
  return c;
}

/* A refusal has a status of its own and a message of one line. */
static inline void check_refusal(const fvg_ctx *c, fvg_status s) {
  if (s != fvg_last_status(c) || !fvg_error(c)[0] || strchr(fvg_error(c), '\n')) fault("a refusal without a reason");
}

/* ---- inputs ---- */
static inline int append(void *user, const void *bytes, size_t n) {
  fuzz_input *to = (fuzz_input *)user;
  if (n > sizeof to->data - to->n) return 1;
  if (n) memcpy(to->data + to->n, bytes, n);
  to->n += n;
  return 0;
}

/* Text i of a list that ends with NULL, as a good input; 0 behind its end. */
static inline int seed_of_text(fuzz_input *to, const char *const *text, int i) {
  int k;
  for (k = 0; k < i; k++)
    if (!text[k]) return 0;
  return text[i] && !append(to, text[i], strlen(text[i]));
}

/* Calls the checksum of a safetensors file something else, so that what is changed in the file is looked at. */
static inline void hide_checksum(fuzz_input *x) {
  static const char name[] = "\"checksum\"";
  size_t i;
  for (i = 0; i + sizeof name < x->n; i++)
    if (!memcmp(x->data + i, name, sizeof name - 1)) {
      memcpy(x->data + i, "\"otherone\"", sizeof name - 1);
      return;
    }
  fault("a file without a checksum");
}

/* Input as a string, for free. */
static inline char *fuzz_text(const uint8_t *data, size_t n) {
  char *text = (char *)malloc(n + 1);
  if (!text) fault("no memory");
  if (n) memcpy(text, data, n);
  text[n] = 0;
  return text;
}

static inline void fuzz_write_file(const char *path, const uint8_t *data, size_t n) {
  FILE *f = fopen(path, "wb");
  if (!f || (n && fwrite(data, 1, n, f) != n) || fclose(f)) fault(path);
}

static const fuzz_target target;                       /* the fuzzer's own, which is defined behind this header   */

static void fuzz_begin(void) {
  static int has_begun;
  if (!has_begun && target.begin) target.begin();
  has_begun = 1;
}

static int fuzz_take(const uint8_t *data, size_t n) {
  const size_t before = memory.live;
  int taken;
  memory.allowed = before + 64 * n + ((size_t)64 << 20);
  taken = target.take(data, n);
  memory.allowed = (size_t)-1;
  if (memory.live != before) fault("memory stays");
  return taken;
}

/* ---- changes ---- */
/* Puts n bytes in the place of the `old` at `at`, if they fit. */
static inline void fuzz_replace(fuzz_input *x, size_t at, size_t old, const void *bytes, size_t n) {
  if (at > x->n || old > x->n - at || x->n - old + n > sizeof x->data) return;
  memmove(x->data + at + n, x->data + at + old, x->n - at - old);
  if (n) memcpy(x->data + at, bytes, n);
  x->n = x->n - old + n;
}

/* Another number, some of them absurd, for one that is written there in digits. */
static inline void change_number(fvg_rng *r, fuzz_input *x, size_t from, size_t to) {
  static const char *const number[] = {"0", "1", "2", "3", "7", "64", "65536", "65535", "1000000", "2147483647",
                                       "4294967296", "9007199254740991", "1e300", "-1", "0.5", "33554432"};
  const char *other = number[fvg_rng_below(r, 16)];
  size_t at = from + fvg_rng_below(r, (uint32_t)(to - from)), n = 0;
  while (at < to && (x->data[at] < '0' || x->data[at] > '9')) at++;
  while (at + n < to && x->data[at + n] >= '0' && x->data[at + n] <= '9') n++;
  if (n) fuzz_replace(x, at, n, other, strlen(other));
}

/* One change of any input: another byte, another bit, a word, a stretch copied or cut out, a number, an early end. */
static inline void change_anything(fvg_rng *r, fuzz_input *x) {
  const uint32_t size = (uint32_t)x->n;
  size_t at, from, length, n_word = 0;
  uint8_t byte = (uint8_t)fvg_rng_next(r), copy[64];
  if (!size) return;
  at = fvg_rng_below(r, size);
  from = fvg_rng_below(r, size);
  length = 1 + fvg_rng_below(r, 32);
  if (length > size - from) length = size - from;
  memcpy(copy, x->data + from, length);
  while (target.word && target.word[n_word]) n_word++;
  switch (fvg_rng_below(r, 12)) {
    case 0: x->data[at] = byte; return;
    case 1: x->data[at] = (uint8_t)(x->data[at] ^ (1u << byte % 8)); return;
    case 2: x->data[at] = (uint8_t)"0123456789{}[]\",:.-eE\\u \n\x80\xED\x01"[byte % 28]; return;
    case 3: fuzz_replace(x, at, 0, copy, length); return;
    case 4: fuzz_replace(x, at, length < size - at ? length : size - at, copy, length); return;
    case 5: fuzz_replace(x, from, length, NULL, 0); return;
    case 6: if (byte % 4 == 0) x->n = at; return;
    case 7: case 8: change_number(r, x, 0, size); return;
    default:
      if (n_word) {
        const char *word = target.word[fvg_rng_below(r, (uint32_t)n_word)];
        fuzz_replace(x, at, byte % 2 ? 0 : (strlen(word) < size - at ? strlen(word) : size - at), word, strlen(word));
      }
  }
}

/* The length of the header of a safetensors file that stands `from` bytes behind the start; 0: it is no longer whole. */
static inline size_t header_of(const fuzz_input *x, size_t from) {
  size_t header;
  if (x->n < from + 40) return 0;
  header = (size_t)x->data[from] | (size_t)x->data[from + 1] << 8;
  return from + 8 + header > x->n ? 0 : header;
}

static inline void set_header(fuzz_input *x, size_t from, size_t header) {
  size_t i;
  for (i = 0; i < 8; i++) x->data[from + i] = (uint8_t)((uint64_t)header >> 8 * i & 255);
}

/* Another number in that header, whose length is mended. */
static inline void change_header_number(fvg_rng *r, fuzz_input *x, size_t from) {
  const size_t header = header_of(x, from), before = x->n;
  if (!header) return;
  change_number(r, x, from + 8, from + 8 + header);
  set_header(x, from, header + x->n - before);
}

/* Another value of one of the metadata, which is there. */
static inline void change_setting(fuzz_input *x, size_t from, const char *key, const char *value) {
  const size_t header = header_of(x, from), before = x->n;
  char name[80];
  const size_t n = (size_t)snprintf(name, sizeof name, "\"%s\":\"", key);
  size_t at = from + 8, length = 0;
  while (at + n < from + 8 + header && memcmp(x->data + at, name, n)) at++;
  if (at + n >= from + 8 + header) fault("a setting that is missing");
  at += n;
  while (x->data[at + length] != '"') length++;
  fuzz_replace(x, at, length, value, strlen(value));
  set_header(x, from, header + x->n - before);
}

#ifdef FVG_LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  fuzz_begin();
  (void)fuzz_take(data, n);
  return 0;
}
#else
/* ---- main ---- */
/* The good inputs as files, and the words in the form of libFuzzer's dictionaries. */
static void write_seeds(const char *folder) {
  static fuzz_input x;
  char path[1024];
  FILE *f;
  size_t i, k;
  for (i = 0; x.n = 0, target.seed(&x, (int)i); i++) {
    snprintf(path, sizeof path, "%s/seed%d", folder, (int)i);
    fuzz_write_file(path, x.data, x.n);
  }
  snprintf(path, sizeof path, "%s.dict", folder);
  f = fopen(path, "wb");
  for (i = 0; f && target.word && target.word[i]; i++) {
    fputc('"', f);
    for (k = 0; target.word[i][k]; k++) fprintf(f, "\\x%02X", (unsigned)(uint8_t)target.word[i][k]);
    fputs("\"\n", f);
  }
  if (!f || fclose(f)) fault(path);
}

int main(int argc, char **argv) {
  static fuzz_input good, x;
  const long n = argc > 1 ? strtol(argv[1], NULL, 10) : target.changes;
  long i, taken = 0;
  int n_good = 0;
  fvg_rng r;
  fuzz_begin();
  for (; good.n = 0, target.seed(&good, n_good); n_good++) {
    if (fuzz_take(good.data, good.n)) continue;
    printf("good input %d\n", n_good);
    fault("refused");
  }
  if (argc > 2) write_seeds(argv[2]);
  if (n && target.also) target.also();
  fvg_rng_seed(&r, 1, 0);
  for (i = 0; i < n; i++) {
    int changes = 1 + (int)fvg_rng_below(&r, i % 2 ? 6 : 2);
    uint8_t *exact;
    x.n = 0;
    target.seed(&x, (int)(i % n_good));
    while (changes--)
      if (target.change && fvg_rng_below(&r, 2)) target.change(&r, &x);
      else change_anything(&r, &x);
    exact = (uint8_t *)malloc(x.n ? x.n : 1);          /* exactly as many bytes, for the sanitizer's sake         */
    if (!exact) fault("no memory");
    memcpy(exact, x.data, x.n);
    taken += fuzz_take(exact, x.n);
    free(exact);
  }
  printf("%d good inputs; %ld of %ld changed ones are taken\n", n_good, taken, n);
  printf("1 passed, 0 failed\n");
  return 0;
}
#endif
#endif
