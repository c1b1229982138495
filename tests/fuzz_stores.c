/* Fuzzer for files of features (tools/fvgpt_cache.c), the programs' memory from run to run.  A file is taken if at
   least one of its rows is; a row that is taken stands in the file behind its key, and nothing else is made of it.  (That
   its check is right says nothing here: libFuzzer watches comparisons and writes the right check behind rows of its own.) */
#define FVGPT_DIRENT
#define FVGPT_IMPLEMENTATION
#include "../tools/fvgpt_system.c"

#include "../tools/fvgpt_cache.c"

#include "fuzz_model.h"

#define ROOT "build/fuzz-stores"
enum { ROWS = 3 };
static common_options options;
static char features[1200];                            /* the file in the model's folder                          */

/* Options are not read here. */
void add_text(option_table *t, const char *name, const char **to) { (void)t; (void)name; (void)to; }

static void key_of(int i, uint64_t key[2]) {
  key[0] = 1000 + (uint64_t)i;
  key[1] = 77;
}

static void begin(void) {
  feature_cache *x;
  make_good_model();
  mkdir("build", 0777);
  options.cache = ROOT;
  if (open_cache(good_clip, &options, &x) || !x) fault("no folder of features");
  snprintf(features, sizeof features, "%s/fuzz.features", x->folder);
  remove(features);
  close_cache(x);
}

/* Is the row of a key, with its check, in the file? */
static int stands_in(const uint8_t *data, size_t n, const uint64_t key[2], const float *row) {
  static uint8_t record[MOST_RECORD];
  const size_t bytes = record_bytes(W);
  size_t at;
  write_record(record, key, row, W);
  for (at = sizeof our_head; at + bytes <= n; at++)
    if (!memcmp(data + at, record, bytes)) return 1;
  return 0;
}

static int take(const uint8_t *data, size_t n) {
  feature_cache *x;
  float row[W];
  int taken = 0, i;
  fuzz_write_file(features, data, n);
  if (open_cache(good_clip, &options, &x) || !x) fault("no folder of features");
  for (i = 0; i < ROWS; i++) {
    uint64_t key[2];
    key_of(i, key);
    if (!good_clip->store->find(good_clip->store->user, key, row, W)) continue;
    if (!stands_in(data, n, key, row)) fault("a row that does not stand in the file");
    taken = 1;
  }
  close_cache(x);
  remove(features);
  return taken;
}

static int seed(fuzz_input *to, int i) {
  static uint8_t record[MOST_RECORD];
  float row[W];
  int r, k;
  if (i >= 2) return 0;
  append(to, &our_head, sizeof our_head);
  for (r = 0; r < (i ? 1 : ROWS); r++) {
    uint64_t key[2];
    key_of(r, key);
    for (k = 0; k < W; k++) row[k] = (float)(10 * r + k);
    write_record(record, key, row, W);
    append(to, record, record_bytes(W));
  }
  return 1;
}

static const char *const word[] = {"fvgpt features\n", "\x04\x03\x02\x01", "\xFF\xFF\xFF\xFF", "\x08", "\x80\x3F", NULL};

static const fuzz_target target = {300, begin, take, seed, NULL, word, NULL};
