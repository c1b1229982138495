/* Fuzzing fvg_image_decode.  With libFuzzer: clang -fsanitize=fuzzer,address,undefined -DFVG_LIBFUZZER.  Without it
   the program changes small valid files at random, argv[1] times, and must neither crash nor lose memory. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
  fvg_source s = fvg_source_memory(bytes, n, "fuzz");
  fvg_image image, small;
  fvg_ctx *c;
  size_t i;
  unsigned sum = 0;
  int bad = 0;
  if (fvg_init(&c, NULL)) return 0;
  if (fvg_image_decode(c, &image, &s, n % 2 ? 3 : 0)) {
    bad = image.pixels || !fvg_error(c)[0];
  } else {
    for (i = 0; i < (size_t)image.width * (size_t)image.height * (size_t)image.channels; i++) sum += image.pixels[i];
    bad = image.width < 1 || image.height < 1 || image.channels < 1 || image.channels > 4 || sum > 255u * i;
    fvg_preprocess way = fvg_preprocess_defaults(8);
    way.filter = (fvg_filter)(n % 3);
    way.resize_mode = n % 5 ? FVG_RESIZE_SHORTEST : FVG_RESIZE_SQUASH;
    if (!fvg_image_test_transform(c, &small, &image, &way)) fvg_image_free(c, &small);
  }
  fvg_image_free(c, &image);
  if (fvg_mem_used(c)) bad = 1;
  fvg_free(c);
#ifdef FVG_LIBFUZZER
  if (bad) *(volatile int *)0 = 0;
  return 0;
#else
  return bad;
#endif
}

#ifndef FVG_LIBFUZZER
#define N_SEED 9
#define ROOM 512

/* An 8 x 8 JPEG, grey, one scan. */
static const uint8_t jpeg[160] = {
  0xFF, 0xD8, 0xFF, 0xE0, 0x00, 0x10, 0x4A, 0x46, 0x49, 0x46, 0x00, 0x01, 0x01, 0x00, 0x00, 0x01, 0x00, 0x01,
  0x00, 0x00, 0xFF, 0xDB, 0x00, 0x43, 0x00, 0x03, 0x02, 0x02, 0x03, 0x02, 0x02, 0x03, 0x03, 0x03, 0x03, 0x04,
  0x03, 0x03, 0x04, 0x05, 0x08, 0x05, 0x05, 0x04, 0x04, 0x05, 0x0A, 0x07, 0x07, 0x06, 0x08, 0x0C, 0x0A, 0x0C,
  0x0C, 0x0B, 0x0A, 0x0B, 0x0B, 0x0D, 0x0E, 0x12, 0x10, 0x0D, 0x0E, 0x11, 0x0E, 0x0B, 0x0B, 0x10, 0x16, 0x10,
  0x11, 0x13, 0x14, 0x15, 0x15, 0x15, 0x0C, 0x0F, 0x17, 0x18, 0x16, 0x14, 0x18, 0x12, 0x14, 0x15, 0x14, 0xFF,
  0xC0, 0x00, 0x0B, 0x08, 0x00, 0x08, 0x00, 0x08, 0x01, 0x01, 0x11, 0x00, 0xFF, 0xC4, 0x00, 0x14, 0x00, 0x01,
  0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x08, 0xFF, 0xC4,
  0x00, 0x14, 0x10, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
  0x00, 0x00, 0xFF, 0xDA, 0x00, 0x08, 0x01, 0x01, 0x00, 0x00, 0x3F, 0x00, 0x60, 0x3F, 0xFF, 0xD9 };

typedef struct seed { uint8_t bytes[ROOM]; size_t n; } seed;

static void seed_text(seed *s, const char *text) {
  s->n = strlen(text);
  memcpy(s->bytes, text, s->n);
}

static int seed_png(seed *s, int channels) {
  fvg_image image;
  fvg_ctx *c;
  uint8_t *bytes;
  size_t i;
  if (fvg_init(&c, NULL)) return 1;
  if (fvg__image_new(c, &image, 6, 4, channels)) return 1;
  for (i = 0; i < 24u * (size_t)channels; i++) image.pixels[i] = (uint8_t)(i * 7);
  if (fvg__png_encode(c, &image, &bytes, &s->n) || s->n > ROOM) return 1;
  memcpy(s->bytes, bytes, s->n);
  fvg__release(c, bytes);
  fvg_image_free(c, &image);
  fvg_free(c);
  return 0;
}

/* Some of: other bytes, other bits, a stretch copied, a cut at the end, digits, bytes that mean something. */
static void change(seed *s, fvg_rng *r) {
  static const uint8_t telling[8] = {0, 255, 127, 128, '9', '#', '\n', 0xC4};
  int rounds = 1 + (int)fvg_rng_below(r, 4);
  while (rounds-- > 0 && s->n) {
    size_t at = fvg_rng_below(r, (uint32_t)s->n), from = fvg_rng_below(r, (uint32_t)s->n);
    size_t k = 1 + fvg_rng_below(r, 8);
    switch (fvg_rng_below(r, 7)) {
      case 0: s->bytes[at] = (uint8_t)fvg_rng_below(r, 256); break;
      case 1: s->bytes[at] = (uint8_t)(s->bytes[at] ^ (1u << fvg_rng_below(r, 8))); break;
      case 2: s->bytes[at] = telling[fvg_rng_below(r, 8)]; break;
      case 3: s->bytes[at] = (uint8_t)('0' + fvg_rng_below(r, 10)); break;
      case 4: if (at + k <= s->n && from + k <= s->n) memmove(s->bytes + at, s->bytes + from, k); break;
      case 5:
        if (s->n + k > ROOM) break;
        memmove(s->bytes + at + k, s->bytes + at, s->n - at);
        s->n += k;
        break;
      default: if (fvg_rng_below(r, 8) == 0) s->n = at; break;
    }
  }
}

int main(int argc, char **argv) {
  static seed seeds[N_SEED];
  long i, n = argc > 1 ? strtol(argv[1], NULL, 10) : 20000;
  int bad = 0;
  fvg_rng r;
  seed_text(&seeds[0], "P1\n# bits\n4 3\n0110 1001 1111\n");
  seed_text(&seeds[1], "P2 3 2 15 1 2 3 15 0 7\n");
  seed_text(&seeds[2], "P3\n2 2\n255\n1 2 3 40 50 60 # x\n70 80 90 100 200 255\n");
  seed_text(&seeds[3], "P4 9 3\nabcdef");
  seed_text(&seeds[4], "P5 4 3 200\nabcdefghijkl");
  seed_text(&seeds[5], "P6 2 2 65535\nabcdefghijklmnopqrstuvwx");
  if (seed_png(&seeds[6], 1) || seed_png(&seeds[7], 3)) return 1;
  memcpy(seeds[8].bytes, jpeg, sizeof jpeg);
  seeds[8].n = sizeof jpeg;
  fvg_rng_seed(&r, 1, 0);
  for (i = 0; i < n; i++) {
    seed s = seeds[i % N_SEED];
    change(&s, &r);
    if (LLVMFuzzerTestOneInput(s.bytes, s.n)) { bad = 1; printf("FAILED at iteration %ld\n", i); break; }
  }
  printf("%d passed, %d failed\n", !bad, bad);
  return bad;
}
#endif
