/* Fuzzing fvg_image_decode.  With libFuzzer: clang -fsanitize=fuzzer,address,undefined -DFVG_LIBFUZZER.  Without it
   the program changes small valid files at random, argv[1] times, and must neither crash nor lose memory. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"
#include "make_pictures.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

/* Chunks get their right CRC, or nothing behind it would ever be tried. */
static void repair_png(uint8_t *png, size_t n) {
  size_t at = 8, length;
  while (n >= 12 && at <= n - 12) {
    length = (size_t)png[at] << 24 | (size_t)png[at + 1] << 16 | (size_t)png[at + 2] << 8 | png[at + 3];
    if (length > n - at - 12) return;
    fvg__put_u32(png + at + 8 + length, plain_crc(png + at + 4, length + 4));
    at += length + 12;
  }
}

/* A PNG whose rows, palette and kind are the input's: its checksums are right, so that the rows are taken apart. */
static void build_png(made *m, const uint8_t *bytes, size_t n) {
  uint8_t rest[1024];
  size_t k = n - 6 < sizeof rest ? n - 6 : sizeof rest;
  memset(rest, 0, sizeof rest);
  memcpy(rest, bytes + 6, k);
  png_begin(m, bytes[1] % 40, bytes[2] % 20, 1 << bytes[3] % 6, bytes[4] % 8, bytes[5] & 1);
  if (bytes[5] & 2) png_chunk(m, "PLTE", rest, bytes[3]);
  if (bytes[5] & 4) png_chunk(m, "tRNS", rest, bytes[5] & 8 ? 6 : bytes[5] & 16 ? 2 : bytes[2]);
  if (bytes[5] & 32) png_chunk(m, "eXIf", rest, k);
  png_end(m, rest, (size_t)bytes[0] * 4, 0);
}

static int decode(const uint8_t *bytes, size_t n, int channels) {
  fvg_source s = fvg_source_memory(bytes, n, "fuzz");
  fvg_image image, small;
  fvg_ctx *c;
  size_t i;
  unsigned sum = 0;
  int bad = 0;
  if (fvg_init(&c, NULL)) return 0;
  if (fvg_image_decode(c, &image, &s, channels)) {
    bad = image.pixels || !fvg_error(c)[0] || strchr(fvg_error(c), '\n');
  } else {
    for (i = 0; i < (size_t)image.width * (size_t)image.height * (size_t)image.channels; i++) sum += image.pixels[i];
    bad = image.width < 1 || image.height < 1 || image.channels < 1 || image.channels > 4 || sum > 255u * i;
    fvg_preprocess way = fvg_preprocess_defaults(8);
    way.filter = (fvg_filter)(n % 3);
    way.resize_mode = n % 5 ? FVG_RESIZE_SHORTEST : FVG_RESIZE_SQUASH;
    if (!fvg_image_test_transform(c, &small, &image, &way)) fvg_image_free(c, &small);
    bad |= image.orientation < 0 || image.orientation > 8;
    if (fvg_image_turn(c, &image, image.orientation)) bad = 1;
  }
  fvg_image_free(c, &image);
  if (fvg_mem_used(c)) bad = 1;
  fvg_free(c);
  return bad;
}

/* Decodes a copy in a block of exactly its length, so that a sanitizer sees a read beyond it. */
static int decode_alone(const uint8_t *bytes, size_t n, int channels) {
  uint8_t *block = (uint8_t *)malloc(n ? n : 1);
  int bad;
  if (!block) return 0;
  memcpy(block, bytes, n);
  bad = decode(block, n, channels);
  free(block);
  return bad;
}

/* The pixels of a file as one number, 1 if there are none; 64 bytes `behind` follow the file. */
static unsigned pixels_before(const uint8_t *bytes, size_t n, int behind) {
  static uint8_t block[sizeof((made *)0)->bytes + 64];
  fvg_source s = fvg_source_memory(block, n, "fuzz");
  fvg_image image;
  fvg_ctx *c;
  size_t i;
  unsigned sum = 1;
  memcpy(block, bytes, n);
  memset(block + n, behind, 64);
  if (fvg_init(&c, NULL)) return 0;
  if (!fvg_image_decode(c, &image, &s, 0))
    for (i = 0; i < (size_t)image.width * (size_t)image.height * (size_t)image.channels; i++)
      sum = sum * 31 + image.pixels[i];
  fvg_image_free(c, &image);
  fvg_free(c);
  return sum;
}

/* Where no sanitizer looks: what lies behind a file must not change what is read from it. */
static int reads_too_far(const uint8_t *bytes, size_t n) {
  if (n > sizeof((made *)0)->bytes) return 0;
  return pixels_before(bytes, n, 0) != pixels_before(bytes, n, 0xA5);
}

/* The input as a file; as a PNG with its checksums mended; and as what a PNG is built of. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
  static made m;
  int bad = decode_alone(bytes, n, n % 2 ? 3 : 0) || reads_too_far(bytes, n);
  if (n > 8 && n <= sizeof m.bytes && !memcmp(bytes, "\x89PNG", 4)) {
    memcpy(m.bytes, bytes, n);
    repair_png(m.bytes, n);
    bad |= decode_alone(m.bytes, n, n % 2 ? 3 : 0);
  }
  if (n > 6) {
    build_png(&m, bytes, n);
    bad |= decode_alone(m.bytes, m.n, n % 2 ? 3 : 0);
  }
#ifdef FVG_LIBFUZZER
  if (bad) *(volatile int *)0 = 0;
  return 0;
#else
  return bad;
#endif
}

#ifndef FVG_LIBFUZZER
#define N_SEED 20

static void seed_text(made *s, const char *text) {
  s->n = strlen(text);
  memcpy(s->bytes, text, s->n);
}

/* Deflate's fixed codes, and as large a file as is quick to try. */
static int seed_png(made *s, int channels) {
  fvg_image image;
  fvg_ctx *c;
  uint8_t *bytes;
  size_t i;
  if (fvg_init(&c, NULL)) return 1;
  if (fvg__image_new(c, &image, 6, 4, channels)) return 1;
  for (i = 0; i < 24u * (size_t)channels; i++) image.pixels[i] = (uint8_t)(i * 7);
  if (fvg_image_encode_png(c, &bytes, &s->n, &image) || s->n > sizeof s->bytes) return 1;
  memcpy(s->bytes, bytes, s->n);
  fvg_release(c, bytes);
  fvg_image_free(c, &image);
  fvg_free(c);
  return 0;
}

/* Dynamic codes: a row of 60 pixels of two kinds, as zlib writes it when it looks for no copies. */
static void seed_dynamic(made *s) {
  static const uint8_t z[] = {
    0x78, 0x01, 0x05, 0xC1, 0x31, 0x01, 0x00, 0x00, 0x00, 0xC2, 0x20, 0xBF, 0xF5, 0x6F, 0x45, 0x2C,
    0x61, 0x95, 0xA8, 0x40, 0x81, 0xAA, 0x52, 0x02, 0x22, 0x00, 0x09, 0x1C, 0x22, 0x19, 0x1E, 0x4B };
  png_begin(s, 60, 1, 8, 0, 0);
  png_chunk(s, "IDAT", z, sizeof z);
  png_chunk(s, "IEND", "", 0);
}

static void seed_jpeg(made *s, int n_part, int n_unit, int adobe, int interval, const made *exif) {
  jpeg_form f = {0, 0, "+-++", NULL, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL};
  f.n_part = n_part;
  f.n_unit = n_unit;
  f.adobe = adobe;
  f.interval = interval;
  f.exif = exif;
  make_jpeg(s, &f);
}

static int make_seeds(made *s) {
  static const uint32_t mask[4] = {0xF800, 0x7E0, 0x1F, 0};
  static const uint8_t palette[64] = {1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9};
  made exif;
  seed_text(&s[0], "P1\n# bits\n4 3\n0110 1001 1111\n");
  seed_text(&s[1], "P2 3 2 15 1 2 3 15 0 7\n");
  seed_text(&s[2], "P3\n2 2\n255\n1 2 3 40 50 60 # x\n70 80 90 100 200 255\n");
  seed_text(&s[3], "P4 9 3\nabcdef");
  seed_text(&s[4], "P5 4 3 200\nabcdefghijkl");
  seed_text(&s[5], "P6 2 2 65535\nabcdefghijklmnopqrstuvwx");
  if (seed_png(&s[6], 1) || seed_png(&s[7], 3)) return 1;
  seed_dynamic(&s[8]);
  make_exif(&exif, 0, 6, 3);
  png_begin(&s[9], 5, 1, 4, 3, 1);
  png_chunk(&s[9], "PLTE", palette, 48);
  png_chunk(&s[9], "eXIf", exif.bytes, exif.n);
  png_end(&s[9], "\0\x10\0\x30\1\x20\4\x12", 8, 0);
  make_bmp(&s[10], 40, 9, 2, 4, 0, NULL, palette, 64, "abcd....efgh....", 16);
  make_bmp(&s[11], 40, 2, 2, 16, 3, mask, NULL, 0, "abcdefgh", 8);
  make_bmp(&s[12], 108, 2, 2, 32, 3, mask, NULL, 0, "abcdefghijklmnop", 16);
  make_bmp(&s[13], 64, 3, -2, 4, 0, NULL, palette, 16, "\x12\x30..\x32\x10..", 8);
  make_gif(&s[14], 6, 5, 1, 1, 4, 3, 0, -1, "012301230123");
  make_gif(&s[15], 6, 5, 1, 1, 4, 3, 1, 2, "012301230123");
  seed_jpeg(&s[16], 1, 1, 0, 0, NULL);
  seed_jpeg(&s[17], 3, 2, 2, 0, &exif);
  seed_jpeg(&s[18], 4, 1, 0, 0, NULL);
  seed_jpeg(&s[19], 1, 3, 0, 1, NULL);
  return 0;
}

/* Some of: other bytes, other bits, a stretch copied, a cut at the end, digits, bytes that mean something. */
static void change(made *s, fvg_rng *r) {
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
        if (s->n + k > sizeof s->bytes) break;
        memmove(s->bytes + at + k, s->bytes + at, s->n - at);
        s->n += k;
        break;
      default: if (fvg_rng_below(r, 8) == 0) s->n = at; break;
    }
  }
}

/* argv[1]: how many; argv[2]: a folder to which the seeds are written, for libFuzzer. */
int main(int argc, char **argv) {
  static made seeds[N_SEED];
  long i, n = argc > 1 ? strtol(argv[1], NULL, 10) : 20000;
  int bad = 0;
  fvg_rng r;
  if (make_seeds(seeds)) return 1;
  for (i = 0; argc > 2 && i < N_SEED; i++) {
    char path[500];
    FILE *f;
    snprintf(path, sizeof path, "%s/seed%ld", argv[2], i);
    f = fopen(path, "wb");
    if (!f || fwrite(seeds[i].bytes, 1, seeds[i].n, f) != seeds[i].n || fclose(f)) return 1;
  }
  for (i = 0; !bad && i < N_SEED; i++) {
    fvg_source s = fvg_source_memory(seeds[i].bytes, seeds[i].n, "seed");
    fvg_image image;
    fvg_ctx *c;
    if (fvg_init(&c, NULL)) return 1;
    if (fvg_image_decode(c, &image, &s, 3)) {
      bad = !strstr(fvg_error(c), "FVGPT_STB_IMAGE");
      if (bad) printf("FAILED seed %ld: %s\n", i, fvg_error(c));
    }
    fvg_image_free(c, &image);
    fvg_free(c);
  }
  fvg_rng_seed(&r, 1, 0);
  for (i = 0; !bad && i < n; i++) {
    made s = seeds[i % N_SEED];
    change(&s, &r);
    bad = LLVMFuzzerTestOneInput(s.bytes, s.n);
    if (bad) printf("FAILED at iteration %ld\n", i);
  }
  printf("%d passed, %d failed\n", !bad, bad);
  return bad;
}
#endif
