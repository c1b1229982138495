/* Fuzzer for fvg_image_decode and what is done with a decoded picture; PNG, JPEG, BMP and GIF with FVGPT_STB_IMAGE. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"

#include "fuzzing.h"
#include "make_pictures.h"

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

/* 1 if it is a picture; everything that is said of it must make sense. */
static int decode(const uint8_t *bytes, size_t n, int channels) {
  fvg_source s = fvg_source_memory(bytes, n, "fuzz");
  fvg_image image, small;
  fvg_ctx *c = fuzz_context();
  const fvg_status status = fvg_image_decode(c, &image, &s, channels);
  size_t i;
  unsigned sum = 0;
  if (status) {
    check_refusal(c, status);
    if (image.pixels) fault("pixels of no picture");
  } else {
    fvg_preprocess way = fvg_preprocess_defaults(8);
    way.filter = (fvg_filter)(n % 3);
    way.resize_mode = n % 5 ? FVG_RESIZE_SHORTEST : FVG_RESIZE_SQUASH;
    for (i = 0; i < (size_t)image.width * (size_t)image.height * (size_t)image.channels; i++) sum += image.pixels[i];
    if (image.width < 1 || image.height < 1 || image.channels < 1 || image.channels > 4 || sum > 255u * i ||
        image.orientation < 0 || image.orientation > 8)
      fault("no form for a picture");
    if (!fvg_image_test_transform(c, &small, &image, &way)) fvg_image_free(c, &small);
    if (fvg_image_turn(c, &image, image.orientation)) fault(fvg_error(c));
  }
  fvg_image_free(c, &image);
  fvg_free(c);
  return !status;
}

/* Decodes a copy in a block of exactly its length, so that a sanitizer sees a read beyond it. */
static int decode_alone(const uint8_t *bytes, size_t n, int channels) {
  uint8_t *block = (uint8_t *)malloc(n ? n : 1);
  int taken;
  if (!block) fault("no memory");
  memcpy(block, bytes, n);
  taken = decode(block, n, channels);
  free(block);
  return taken;
}

/* The pixels of a file as one number, 1 if there are none; 64 bytes `behind` follow the file. */
static unsigned pixels_before(const uint8_t *bytes, size_t n, int behind) {
  static uint8_t block[sizeof((made *)0)->bytes + 64];
  fvg_source s = fvg_source_memory(block, n, "fuzz");
  fvg_image image;
  fvg_ctx *c = fuzz_context();
  size_t i;
  unsigned sum = 1;
  memcpy(block, bytes, n);
  memset(block + n, behind, 64);
  if (!fvg_image_decode(c, &image, &s, 0))
    for (i = 0; i < (size_t)image.width * (size_t)image.height * (size_t)image.channels; i++)
      sum = sum * 31 + image.pixels[i];
  fvg_image_free(c, &image);
  fvg_free(c);
  return sum;
}

/* Where no sanitizer looks: what lies behind a file must not change what is read from it. */
static void check_reads(const uint8_t *bytes, size_t n) {
  if (n > sizeof((made *)0)->bytes) return;
  if (pixels_before(bytes, n, 0) != pixels_before(bytes, n, 0xA5)) fault("a picture is read beyond its end");
}

/* The input as a file; as a PNG with its checksums mended; and as what a PNG is built of. */
static int take(const uint8_t *bytes, size_t n) {
  static made m;
  const int channels = n % 2 ? 3 : 0, taken = decode_alone(bytes, n, channels);
  check_reads(bytes, n);
  if (n > 8 && n <= sizeof m.bytes && !memcmp(bytes, "\x89PNG", 4)) {
    memcpy(m.bytes, bytes, n);
    repair_png(m.bytes, n);
    decode_alone(m.bytes, n, channels);
  }
  if (n > 6) {
    build_png(&m, bytes, n);
    decode_alone(m.bytes, m.n, channels);
  }
  return taken;
}

enum { N_SEED = 20 };

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
  c = fuzz_context();
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

/* Without stb_image only the first six are taken. */
static int seed(fuzz_input *to, int i) {
  static made seeds[N_SEED];
#ifdef FVGPT_STB_IMAGE
  const int n = N_SEED;
#else
  const int n = 6;
#endif
  if (!seeds[0].n && make_seeds(seeds)) fault("a picture cannot be made");
  return i < n && !append(to, seeds[i].bytes, seeds[i].n);
}

static const char *const word[] = {
  "\xFF\xD8\xFF\xE0", "\xFF\xC0", "\xFF\xC2", "\xFF\xC4", "\xFF\xDA", "\xFF\xDB", "\xFF\xDD", "\xFF\xD0", "\xFF\xD9", "\xFF\xEE", "Adobe", "Exif", "MM",
  "II*", "IHDR", "IDAT", "IEND", "PLTE", "tRNS", "eXIf", "acTL", "GIF87a", "GIF89a", "\x21\xF9\x04", "\x2C", "\x3B", "BM", "P1\n", "P2 ",
  "P5\n", "P6\n", "65535", "#\n", "\xFF", "\x7F", "\x80", "9", NULL};

static const fuzz_target target = {6000, NULL, take, seed, NULL, word, NULL};
