/* Fuzzer for files of features (tools/fvgpt_cache.c), the programs' memory from run to run.  A file is taken if at
   least one of its rows is; a row that is taken has the bits that were written. */
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

static int take(const uint8_t *data, size_t n) {
  feature_cache *x;
  float row[W];
  int taken = 0, i, k;
  fuzz_write_file(features, data, n);
  if (open_cache(good_clip, &options, &x) || !x) fault("no folder of features");
  for (i = 0; i < ROWS; i++) {
    uint64_t key[2];
    key_of(i, key);
    if (!good_clip->store->find(good_clip->store->user, key, row, W)) continue;
    for (k = 0; k < W; k++)
      if (row[k] != (float)(10 * i + k)) fault("a row that nobody has written");
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
