/* Images: files, bytes that Pillow computed, geometry, masks, hostile input, failing allocators, golden cases. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

static int says(const fvg_ctx *c, const char *a, const char *b) {
  int ok = strstr(fvg_error(c), a) && strstr(fvg_error(c), b);
  if (!ok) printf("  the message was \"%s\"\n", fvg_error(c));
  return ok;
}

static fvg_image make(fvg_ctx *c, int width, int height, int channels, int constant) {
  fvg_image image;
  int x, y, k;
  if (fvg__image_new(c, &image, width, height, channels)) return image;
  for (y = 0; y < height; y++)
    for (x = 0; x < width; x++)
      for (k = 0; k < channels; k++)
        image.pixels[(y * width + x) * channels + k] =
          (uint8_t)(constant >= 0 ? constant : (x * 37 + y * 71 + k * 113 + x * y * 29) % 256);
  return image;
}

/* CLIP's own way to `size`, with another filter. */
static fvg_status transform(fvg_ctx *c, fvg_image *out, const fvg_image *in, int size, fvg_filter filter) {
  fvg_preprocess p = fvg_preprocess_defaults(size);
  p.filter = filter;
  return fvg_image_test_transform(c, out, in, &p);
}

static fvg_status normalize(fvg_ctx *c, const fvg_image *in, float *chw) {
  fvg_preprocess p = fvg_preprocess_defaults(in->width);
  return fvg_image_normalize(c, chw, in, &p);
}

static int same(const fvg_image *a, const fvg_image *b) {
  return a->width == b->width && a->height == b->height && a->channels == b->channels && a->pixels && b->pixels
         && !memcmp(a->pixels, b->pixels, (size_t)a->width * (size_t)a->height * (size_t)a->channels);
}

static int holds(const fvg_image *a, int width, int height, int channels, const uint8_t *pixels) {
  return a->width == width && a->height == height && a->channels == channels && a->pixels
         && !memcmp(a->pixels, pixels, (size_t)width * (size_t)height * (size_t)channels);
}

static fvg_status decode(fvg_ctx *c, fvg_image *out, const void *bytes, size_t n, int channels) {
  fvg_source s = fvg_source_memory(bytes, n, "picture.ppm");
  return fvg_image_decode(c, out, &s, channels);
}

static fvg_status decode_text(fvg_ctx *c, fvg_image *out, const char *text, int channels) {
  return decode(c, out, text, strlen(text), channels);
}

/* ---- PNM ---- */
static void test_pnm(fvg_ctx *c) {
  static const uint8_t bits[6] = {255, 0, 255, 0, 255, 0}, scaled[4] = {0, 26, 76, 255}, wide[2] = {255, 128};
  static const uint8_t colours[6] = {1, 2, 3, 4, 5, 6}, spread[6] = {9, 9, 9, 7, 7, 7}, grey[2] = {2, 5};
  static const uint8_t rounded[4] = {1, 2, 85, 170};
  fvg_image a;
  check(!decode_text(c, &a, "P1 # c\n# d\n3\n2 010\n#x\n1 0 1", 0) && holds(&a, 3, 2, 1, bits), "P1 with comments");
  fvg_image_free(c, &a);
  check(!decode(c, &a, "P4 3 2\n\x5F\xBF", 9, 0) && holds(&a, 3, 2, 1, bits), "P4, rows of whole bytes");
  fvg_image_free(c, &a);
  check(!decode_text(c, &a, "P2\n4 1\n10\n0 1 3 10\n", 0) && holds(&a, 4, 1, 1, scaled), "P2 scaled, halves to even");
  fvg_image_free(c, &a);
  check(!decode_text(c, &a, "P3 2 1 255 1 2 3\n4 5 6", 3) && holds(&a, 2, 1, 3, colours), "P3");
  fvg_image_free(c, &a);
  check(!decode(c, &a, "P5 2 1 65535 \xFF\xFF\x80\x00", 17, 0) && holds(&a, 2, 1, 1, wide), "P5 of 16 bits");
  fvg_image_free(c, &a);
  check(!decode(c, &a, "P6 2 1 255#end\n\1\2\3\4\5\6", 21, 0) && holds(&a, 2, 1, 3, colours), "P6");
  fvg_image_free(c, &a);
  check(!decode(c, &a, "P6 2 1 255\n\1\2\3\4\5\6", 17, 1) && holds(&a, 2, 1, 1, grey), "RGB to grey");
  fvg_image_free(c, &a);
  check(!decode(c, &a, "P6 4 1 255\n\1\1\2\1\2\2\377\1\0\0\377\377", 23, 1) &&
            holds(&a, 4, 1, 1, rounded),
        "RGB to grey, rounded to the nearest");
  fvg_image_free(c, &a);
  check(!decode(c, &a, "P5 2 1 255\n\11\7", 13, 3) && holds(&a, 2, 1, 3, spread), "grey to RGB");
  fvg_image_free(c, &a);
}

static int fails(fvg_ctx *c, const char *text, fvg_status status, const char *message) {
  fvg_image a;
  memset(&a, 77, sizeof a);
  return decode_text(c, &a, text, 3) == status && !a.pixels && !a.width && says(c, "picture.ppm", message);
}

static void test_bad_pnm(fvg_ctx *c) {
  static const char good[] = "P6\n# c\n3 2\n255\nabcdefghijklmnopqr";
  char copy[sizeof good];
  fvg_image a;
  size_t n, bad = 0;
  check(fails(c, "P8\n1 1\n", FVG_E_FORMAT, "neither PNM"), "unknown format");
  check(fails(c, "", FVG_E_FORMAT, "0 bytes"), "empty file");
  check(fails(c, "P5 0 3 255 aaa", FVG_E_FORMAT, "usable size"), "no width");
  check(fails(c, "P5 99999999999 3 255 aaa", FVG_E_FORMAT, "usable size"), "huge width");
  check(fails(c, "P5 1000000 1000000 255 aaa", FVG_E_FORMAT, "usable size"), "too many pixels");
  check(fails(c, "P5 2 1 0 aa", FVG_E_FORMAT, "largest value"), "largest value 0");
  check(fails(c, "P5 2 1 65536 aa", FVG_E_FORMAT, "largest value"), "largest value 65536");
  check(fails(c, "P5 2 1 255aa", FVG_E_FORMAT, "white space"), "no blank before the pixels");
  check(fails(c, "P2 2 1 9 10 1", FVG_E_FORMAT, "value 1 of 2"), "text value too large");
  check(fails(c, "P2 2 1 9 1 ##", FVG_E_FORMAT, "value 2 of 2"), "text value missing");
  check(fails(c, "P1 2 1 12", FVG_E_FORMAT, "value 2 of 2"), "a bit of 2");
  check(fails(c, "P6 11000 11000 255 abc", FVG_E_FORMAT, "363000000 bytes"), "pixels that are not there");
  check(fvg_mem_peak(c) < 100000, "no memory for pixels that are not there");
  check(fails(c, "P5 3 2 65535 abcdefghijk", FVG_E_FORMAT,
              "need at least 12 bytes after the PNM header, not 11"),
        "16-bit grey, one byte short");
  check(fails(c, "P6 2 1 256 abcdefghijk", FVG_E_FORMAT,
              "need at least 12 bytes after the PNM header, not 11"),
        "16-bit RGB, one byte short");
  for (n = 0; n + 1 < sizeof good; n++) {
    memcpy(copy, good, n);
    if (decode(c, &a, copy, n, 3) != FVG_E_FORMAT || a.pixels) bad++;
  }
  check(!bad, "truncation at every byte");
  check(decode_text(c, &a, good, 2) == FVG_E_ARG && says(c, "picture.ppm", "2 channels"), "2 channels asked for");
}

/* ---- PNG and JPEG ---- */
/* A reader of our own for what the writer may write: one IDAT, one block with the fixed codes, four kinds of rows. */
typedef struct reader { const uint8_t *bytes; size_t n, at; int bit, failed; } reader;

static unsigned read_bit(reader *r) {
  unsigned bit;
  if (r->at == r->n) { r->failed = 1; return 0; }
  bit = r->bytes[r->at] >> r->bit & 1u;
  r->bit = (r->bit + 1) % 8;
  r->at += r->bit == 0;
  return bit;
}

static unsigned read_number(reader *r, int n) {
  unsigned x = 0;
  int i;
  for (i = 0; i < n; i++) x |= read_bit(r) << i;
  return x;
}

static unsigned read_code(reader *r, int n, unsigned before) {
  while (n--) before = before << 1 | read_bit(r);
  return before;
}

static unsigned read_symbol(reader *r) {                                      /* the table of RFC 1951, 3.2.6      */
  unsigned x = read_code(r, 7, 0);
  if (x < 24) return 256 + x;
  x = read_code(r, 1, x);
  if (x < 192) return x - 48;
  if (x < 200) return 280 + x - 192;
  return 144 + read_code(r, 1, x) - 400;
}

/* The zlib stream -> exactly n bytes; 0 if it holds something else. */
static int inflate(reader *r, uint8_t *out, size_t n) {
  static const int length_of[29] = {3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83,
                                    99, 115, 131, 163, 195, 227, 258};
  static const int distance_of[30] = {1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769,
                                      1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
  size_t at = 0;
  uint32_t a = 1, b = 0, wanted = 0;
  int i;
  if (read_number(r, 8) != 0x78 || read_number(r, 8) != 0x01 || read_number(r, 3) != 3) return 0;
  for (;;) {
    unsigned x = read_symbol(r), d;
    size_t length, distance;
    if (r->failed || x > 285) return 0;
    if (x == 256) break;
    if (x < 256) {
      if (at == n) return 0;
      out[at++] = (uint8_t)x;
      continue;
    }
    length = (size_t)length_of[x - 257] + read_number(r, x < 265 || x == 285 ? 0 : (int)(x - 261) / 4);
    d = read_code(r, 5, 0);
    if (d > 29) return 0;
    distance = (size_t)distance_of[d] + read_number(r, d < 4 ? 0 : (int)d / 2 - 1);
    if (distance > at || length > n - at) return 0;
    for (; length; length--, at++) out[at] = out[at - distance];
  }
  r->at += r->bit != 0;
  r->bit = 0;
  for (i = 0; i < 4; i++) wanted = wanted << 8 | read_number(r, 8);
  for (at = 0; at < n; at++) {
    a = (a + out[at]) % 65521;
    b = (b + a) % 65521;
  }
  return wanted == (b << 16 | a) && !r->failed && r->at == r->n;
}

static int paeth(int a, int b, int c) {
  int p = a + b - c, pa = p > a ? p - a : a - p, pb = p > b ? p - b : b - p, pc = p > c ? p - c : c - p;
  return pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
}

/* Does the file hold these pixels? `kinds` receives the filters seen, a bit each. */
static int png_holds(const uint8_t *png, size_t n, const fvg_image *image, unsigned *kinds) {
  size_t bpp = (size_t)image->channels, row = (size_t)image->width * bpp, raw = (row + 1) * (size_t)image->height, k;
  uint8_t *rows = (uint8_t *)malloc(raw);
  reader r;
  int y, ok;
  memset(&r, 0, sizeof r);
  r.bytes = png + 8 + 25 + 8;
  r.n = n - (8 + 25 + 8) - 4 - 12;
  ok = rows && n > 57 && inflate(&r, rows, raw);
  for (y = 0; ok && y < image->height; y++) {
    const uint8_t *line = rows + (size_t)y * (row + 1), *want = image->pixels + (size_t)y * row;
    *kinds |= 1u << line[0];
    for (k = 0; k < row; k++) {                                               /* neighbours of the true pixels     */
      int left = k < bpp ? 0 : want[k - bpp], up = y ? want[(long)k - (long)row] : 0;
      int corner = y && k >= bpp ? want[(long)k - (long)row - (long)bpp] : 0;
      int guess = line[0] == 0 ? 0 : line[0] == 1 ? left : line[0] == 2 ? up : paeth(left, up, corner);
      ok &= line[0] <= 4 && line[0] != 3 && (uint8_t)(line[k + 1] + guess) == want[k];
    }
  }
  free(rows);
  return ok;
}

/* 0 constant, 1 smooth, 2 noise, 3 tiles that repeat after 300 rows, beyond the window */
static fvg_image draw(fvg_ctx *c, int width, int height, int channels, int kind) {
  fvg_image image = make(c, width, height, channels, 7);
  size_t k, n = (size_t)width * (size_t)height * (size_t)channels, row = (size_t)width * (size_t)channels;
  uint32_t noise = 1;
  for (k = 0; k < n && kind; k++) {
    noise = noise * 1664525u + 1013904223u;
    if (kind == 1) image.pixels[k] = (uint8_t)(k % row / 3 + k / row / 2);
    if (kind == 2) image.pixels[k] = (uint8_t)(noise >> 24);
    if (kind == 3) image.pixels[k] = k < 300 * row ? (uint8_t)(noise >> 24) : image.pixels[k - 300 * row];
  }
  return image;
}

static void test_png_writer(fvg_ctx *c) {
  static const int size[6][2] = {{1, 1}, {1, 9}, {2, 1}, {33, 20}, {224, 224}, {120, 700}};
  unsigned kinds = 0;
  size_t n, drawn[4] = {0, 0, 0, 0};
  int i, channels, kind, bad = 0;
  for (i = 0; i < 6; i++)
    for (channels = 1; channels <= 4; channels++)
      for (kind = 0; kind < 4; kind++) {
        fvg_image image = draw(c, size[i][0], size[i][1], channels, kind);
        uint8_t *bytes;
        bad += fvg_image_encode_png(c, &bytes, &n, &image) || !png_holds(bytes, n, &image, &kinds);
        if (i == 4 && channels == 3) drawn[kind] = n;
        fvg_release(c, bytes);
        fvg_image_free(c, &image);
      }
  check(!bad, "PNG: 96 pictures come back from deflate and filters");
  check(kinds == 23, "PNG: all four filters are used");
  check(drawn[0] < 2000 && drawn[1] < 5000, "PNG: what repeats takes next to nothing");
  check(drawn[2] < 224 * (3 * 224 + 1) * 9 / 8 + 80, "PNG: noise grows by an eighth at most");
}

/* The CRC of the chunk at `at`, bit by bit, so that damage of another kind is found behind it. */
static void put_crc(uint8_t *png, size_t at) {
  size_t n = 4 + (((size_t)png[at] << 24) | ((size_t)png[at + 1] << 16) | ((size_t)png[at + 2] << 8) | png[at + 3]), i;
  uint32_t crc = 0xFFFFFFFFu;
  int k;
  for (i = 0; i < n; i++)
    for (crc ^= png[at + 4 + i], k = 0; k < 8; k++) crc = crc & 1 ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
  crc ^= 0xFFFFFFFFu;
  for (k = 0; k < 4; k++) png[at + 4 + n + (size_t)k] = (uint8_t)(crc >> (24 - 8 * k));
}

static void test_png(fvg_ctx *c) {
  fvg_image image = make(c, 7, 5, 3, -1), back;
  uint8_t *bytes;
  size_t n, k, peak, bad = 0;
  fvg_status s;
  check(!fvg_image_encode_png(c, &bytes, &n, &image) && n > 8 + 25 + 12 + 12 && n < 8 + 25 + 12 + 110 * 9 / 8 + 9 + 12,
        "size of a PNG");
  s = decode(c, &back, bytes, n, 3);
#ifdef FVGPT_STB_IMAGE
  check(!s && same(&image, &back), "PNG round trip");
  fvg_image_free(c, &back);
  for (k = 0; k < n; k++)
    if (decode(c, &back, bytes, k, 0) != FVG_E_FORMAT || back.pixels) bad++;
  check(!bad, "PNG truncated at every byte");
  bytes[16 + 2] = 255;                                                        /* width 65287                       */
  put_crc(bytes, 8);
  peak = fvg_mem_peak(c);
  check(decode(c, &back, bytes, n, 0) == FVG_E_FORMAT && says(c, "picture.ppm", "65287 x 5"), "PNG bomb");
  check(fvg_mem_peak(c) == peak && peak < 500000, "no memory for a PNG bomb");
  fvg_release(c, bytes);
  fvg_image_free(c, &image);
  image = make(c, 300, 250, 4, -1);
  check(!fvg_image_encode_png(c, &bytes, &n, &image) && !decode(c, &back, bytes, n, 0) && same(&image, &back),
        "PNG, a larger one with alpha");
#else
  (void)k; (void)bad; (void)peak;
  check(s == FVG_E_UNSUPPORTED && says(c, "picture.ppm", "FVGPT_STB_IMAGE"), "PNG without stb_image");
#endif
  fvg_image_free(c, &back);
  fvg_image_free(c, &image);
  fvg_release(c, bytes);
}

static void test_jpeg(fvg_ctx *c) {
  static const uint8_t jpeg[160] = {                                          /* 8 x 8 pixels of grey 200          */
    0xFF, 0xD8, 0xFF, 0xE0, 0x00, 0x10, 0x4A, 0x46, 0x49, 0x46, 0x00, 0x01, 0x01, 0x00, 0x00, 0x01, 0x00, 0x01,
    0x00, 0x00, 0xFF, 0xDB, 0x00, 0x43, 0x00, 0x03, 0x02, 0x02, 0x03, 0x02, 0x02, 0x03, 0x03, 0x03, 0x03, 0x04,
    0x03, 0x03, 0x04, 0x05, 0x08, 0x05, 0x05, 0x04, 0x04, 0x05, 0x0A, 0x07, 0x07, 0x06, 0x08, 0x0C, 0x0A, 0x0C,
    0x0C, 0x0B, 0x0A, 0x0B, 0x0B, 0x0D, 0x0E, 0x12, 0x10, 0x0D, 0x0E, 0x11, 0x0E, 0x0B, 0x0B, 0x10, 0x16, 0x10,
    0x11, 0x13, 0x14, 0x15, 0x15, 0x15, 0x0C, 0x0F, 0x17, 0x18, 0x16, 0x14, 0x18, 0x12, 0x14, 0x15, 0x14, 0xFF,
    0xC0, 0x00, 0x0B, 0x08, 0x00, 0x08, 0x00, 0x08, 0x01, 0x01, 0x11, 0x00, 0xFF, 0xC4, 0x00, 0x14, 0x00, 0x01,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x08, 0xFF, 0xC4,
    0x00, 0x14, 0x10, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0xFF, 0xDA, 0x00, 0x08, 0x01, 0x01, 0x00, 0x00, 0x3F, 0x00, 0x60, 0x3F, 0xFF, 0xD9 };
  fvg_image image;
  fvg_status s = decode(c, &image, jpeg, sizeof jpeg, 3);
#ifdef FVGPT_STB_IMAGE
  fvg_image wanted = make(c, 8, 8, 3, 200);
  uint8_t copy[160], big[104 + 0x1003 + 36];
  size_t n, bad = 0;
  check(!s && same(&image, &wanted), "JPEG");
  fvg_image_free(c, &image);
  fvg_image_free(c, &wanted);
  for (n = 0; n < sizeof jpeg; n++)
    if (decode(c, &image, jpeg, n, 0) != FVG_E_FORMAT || image.pixels) bad++;
  check(!bad, "JPEG truncated at every byte");
  memset(big, 0, sizeof big);                                                 /* a table of 16 x 255 symbols       */
  memcpy(big, jpeg, 104);
  big[104] = 0x10;
  big[105] = 0x03;
  memset(big + 107, 255, 16);
  memcpy(big + 104 + 0x1003, jpeg + 124, 36);
  check(decode(c, &image, big, sizeof big, 0) == FVG_E_FORMAT && says(c, "picture.ppm", "Huffman table at byte 102"),
        "JPEG with a Huffman table of too many symbols");
  memcpy(copy, jpeg, sizeof copy);
  copy[94] = copy[96] = 16;                                                   /* 4104 x 4104 pixels                */
  check(decode(c, &image, copy, sizeof copy, 0) == FVG_E_FORMAT && says(c, "picture.ppm", "4104 x 4104"),
        "JPEG bomb");
#else
  check(s == FVG_E_UNSUPPORTED && says(c, "picture.ppm", "libstb-dev"), "JPEG without stb_image");
#endif
}

static void test_files(fvg_ctx *c) {
  static const char *const names[] = {"test_images.tmp.ppm", "test_images.tmp.PGM", "test_images.tmp.pnm"};
  fvg_image grey = make(c, 7, 5, 1, -1), rgb = make(c, 7, 5, 3, -1), back;
  int i;
  for (i = 0; i < 3; i++) {
    const fvg_image *image = i == 1 ? &grey : &rgb;
    check(!fvg_image_save(c, image, names[i]) && !fvg_image_load(c, &back, names[i], 0) && same(image, &back),
          names[i]);
    fvg_image_free(c, &back);
    check(fvg_image_save(c, i == 1 ? &rgb : &grey, names[i]) == (i == 2 ? FVG_OK : FVG_E_ARG),
          "channels a format lacks");
    remove(names[i]);
  }
  check(fvg_image_save(c, &rgb, "picture.tiff") == FVG_E_UNSUPPORTED && says(c, "picture.tiff", ".png"),
        "no such format");
  check(fvg_image_load(c, &back, "no/such/picture.ppm", 3) == FVG_E_IO && !back.pixels
        && says(c, "no/such/picture.ppm", ""), "no such file");
  fvg_image_free(c, &grey);
  fvg_image_free(c, &rgb);
}

/* What a caller forgot to fill in is an error that names the function, and the image is empty. */
static void test_nothing_given(fvg_ctx *c) {
  fvg_source source = fvg_source_memory("P5 1 1 255 x", 12, "picture.pgm");
  fvg_image grey = make(c, 7, 5, 1, -1), back;
  fvg_preprocess p = fvg_preprocess_defaults(4);
  size_t used = fvg_mem_used(c);
  memset(&back, 1, sizeof back);
  check(fvg_image_load(c, &back, NULL, 3) == FVG_E_ARG && !back.pixels && says(c, "fvg_image_load", "path"), "no path");
  memset(&back, 1, sizeof back);
  check(fvg_image_decode(c, &back, NULL, 3) == FVG_E_ARG && !back.pixels && says(c, "fvg_image_decode", "source"),
        "no source");
  check(fvg_image_load(c, NULL, "picture.ppm", 3) == FVG_E_ARG && says(c, "fvg_image_load", "image")
        && fvg_image_decode(c, NULL, &source, 3) == FVG_E_ARG && says(c, "fvg_image_decode", "image"),
        "no place for the image");
  check(fvg_image_save(c, &grey, NULL) == FVG_E_ARG && says(c, "fvg_image_save", "path"), "no path to save at");
  check(fvg_image_save(c, NULL, "picture.png") == FVG_E_ARG && says(c, "picture.png", "NULL"), "no image to save");
  check(fvg_image_resize(c, &back, NULL, 4, 4, FVG_BICUBIC) == FVG_E_ARG && !back.pixels && says(c, "resize", "NULL")
        && fvg_image_test_transform(c, &back, NULL, &p) == FVG_E_ARG && !back.pixels
        && fvg_image_turn(c, NULL, 6) == FVG_E_ARG && fvg_image_binarise(c, NULL, 0) == FVG_E_ARG, "no image to resize");
  check(fvg_mem_used(c) == used, "nothing given, nothing taken");
  fvg_image_free(c, &grey);
}

/* ---- resizing: literals are Pillow 9.4's ---- */
static void test_pillow_bytes(fvg_ctx *c) {
  static const uint8_t shrunk[36] = {
    44, 157, 94, 106, 147, 92, 189, 43, 156, 150, 187, 113, 89, 115, 161, 139, 95, 134,
    166, 143, 129, 122, 112, 117, 129, 121, 120, 112, 104, 161, 155, 153, 124, 110, 115, 169 };
  static const uint8_t mixed[54] = {
    67, 172, 121, 105, 184, 101, 133, 161, 92, 123, 129, 113, 80, 139, 156, 81, 114, 128,
    120, 82, 109, 175, 66, 135, 215, 70, 186, 133, 140, 187, 151, 125, 147, 148, 125, 111,
    136, 130, 106, 148, 111, 126, 135, 133, 155, 78, 169, 134, 95, 134, 128, 193, 38, 159 };
  static const uint8_t shrunk_bilinear[36] = {
    56, 155, 94, 105, 143, 102, 181, 52, 151, 145, 180, 115, 98, 116, 154, 139, 97, 132,
    161, 142, 131, 124, 116, 119, 130, 119, 123, 117, 111, 156, 150, 143, 132, 111, 118, 163 };
  static const uint8_t mixed_bilinear[54] = {
    71, 172, 122, 107, 178, 104, 128, 158, 98, 122, 132, 115, 83, 138, 158, 89, 117, 127,
    121, 89, 117, 167, 70, 137, 211, 68, 181, 132, 140, 183, 144, 130, 141, 144, 127, 114,
    137, 128, 110, 143, 116, 124, 131, 131, 148, 93, 153, 134, 106, 126, 131, 189, 46, 159 };
  static const uint8_t centre[27] = {52, 166, 100, 102, 164, 103, 109, 101, 115, 168, 184, 125, 140, 115,
                                     129, 77, 120, 147, 121, 105, 174, 146, 128, 105, 137, 157, 136};
  static const uint8_t crop[12] = {82, 116, 133, 140, 135, 153, 107, 129, 117, 142, 126, 112};
  static const uint8_t nearest[23] = {0, 2, 3, 4, 6, 7, 9, 10, 11, 13, 14, 15,
                                      17, 18, 20, 21, 22, 24, 25, 27, 28, 29, 31};
  fvg_crop box = {1, 1, 3, 5, 1};
  fvg_image in = make(c, 7, 5, 3, -1), line = make(c, 32, 1, 1, 0), a;
  int i;
  for (i = 0; i < 32; i++) line.pixels[i] = (uint8_t)i;
  check(!fvg_image_resize(c, &a, &in, 3, 4, FVG_BICUBIC) && holds(&a, 3, 4, 3, shrunk), "bicubic 7 x 5 to 3 x 4");
  fvg_image_free(c, &a);
  check(!fvg_image_resize(c, &a, &in, 9, 2, FVG_BICUBIC) && holds(&a, 9, 2, 3, mixed), "bicubic 7 x 5 to 9 x 2");
  fvg_image_free(c, &a);
  check(!fvg_image_resize(c, &a, &in, 3, 4, FVG_BILINEAR) && holds(&a, 3, 4, 3, shrunk_bilinear),
        "bilinear 7 x 5 to 3 x 4");
  fvg_image_free(c, &a);
  check(!fvg_image_resize(c, &a, &in, 9, 2, FVG_BILINEAR) && holds(&a, 9, 2, 3, mixed_bilinear),
        "bilinear 7 x 5 to 9 x 2");
  fvg_image_free(c, &a);
  check(!transform(c, &a, &in, 3, FVG_BICUBIC) && holds(&a, 3, 3, 3, centre), "test transform");
  fvg_image_free(c, &a);
  check(!fvg_image_resized_crop(c, &a, &in, &box, 2, FVG_BICUBIC) && holds(&a, 2, 2, 3, crop), "flipped crop");
  fvg_image_free(c, &a);
  check(!fvg_image_resize(c, &a, &line, 23, 1, FVG_NEAREST) && holds(&a, 23, 1, 1, nearest),
        "nearest sums its steps");
  fvg_image_free(c, &a);
  fvg_image_free(c, &in);
  fvg_image_free(c, &line);
}

/* Keys' cubic with a = -1/2. */
static double keys_by_hand(double x) {
  x = fabs(x);
  if (x < 1) return 1.5 * x * x * x - 2.5 * x * x + 1;
  return x < 2 ? -0.5 * x * x * x + 2.5 * x * x - 4 * x + 2 : 0;
}

/* Weights are the kernel's share in units of 2^-22, rounded to the nearest, those below 0 too. */
static void test_weights(fvg_ctx *c) {
  static const int size[][2] = {{7, 3}, {7, 9}, {500, 224}, {37, 224}, {224, 223}, {3000, 32}};
  size_t k;
  int bad = 0, below = 0, i, j, x;
  for (k = 0; k < sizeof size / sizeof *size; k++) {
    double ratio = (double)size[k][0] / size[k][1], stretch = ratio > 1 ? ratio : 1;
    fvg__taps t;
    if (fvg__taps_new(c, &t, FVG_BICUBIC, size[k][0], size[k][1], 0, size[k][1])) {
      check(0, fvg_error(c));
      return;
    }
    for (i = 0; i < t.n; i++) {
      double centre = (i + 0.5) * ratio, sum = 0;
      for (x = 0; x < size[k][0]; x++) sum += keys_by_hand((x + 0.5 - centre) / stretch);
      for (j = 0; j < t.count[i]; j++) {
        double w = keys_by_hand((t.first[i] + j + 0.5 - centre) / stretch) / sum * 4194304;
        below += w < -0.5;
        bad += !(fabs(w - t.weight[i * t.stride + j]) < 0.5 + 1e-5);
      }
    }
    fvg_release(c, t.first);
  }
  check(!bad && below > 1000, "weights of the bicubic filter, rounded to the nearest");
}

/* The centre computed as a window equals the centre cut out of the whole. */
static int window_equals_whole(fvg_ctx *c, int width, int height, int channels, int size, fvg_filter filter) {
  fvg_image in = make(c, width, height, channels, -1), whole, cut, a;
  int w = width < height ? size : (int)((double)size * width / height);
  int h = width < height ? (int)((double)size * height / width) : size;
  fvg_crop box = {0, 0, size, size, 0};
  int ok;
  box.left = (w - size) / 2 + ((w - size) % 4 == 3);
  box.top = (h - size) / 2 + ((h - size) % 4 == 3);
  ok = !fvg_image_resize(c, &whole, &in, w, h, filter) && !fvg_image_resized_crop(c, &cut, &whole, &box, size, filter)
       && !transform(c, &a, &in, size, filter) && same(&a, &cut);
  fvg_image_free(c, &in);
  fvg_image_free(c, &whole);
  fvg_image_free(c, &cut);
  fvg_image_free(c, &a);
  return ok;
}

/* The weights of a resize are Pillow's: the kernel's shares of 2^22, rounded to the nearest whole
   number whatever their sign. */
static double cubic(double x) {
  x = fabs(x);
  if (x >= 2) return 0;
  return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : ((-0.5 * x + 2.5) * x - 4) * x + 2;
}

static void test_weight_sums(fvg_ctx *c) {
  static const int sizes[5][2] = {{7, 3}, {640, 224}, {50, 224}, {333, 224}, {100, 100}};
  int bad = 0, n_negative = 0;
  for (int k = 0; k < 5; k++) {
    const int n_in = sizes[k][0], n_out = sizes[k][1];
    double ratio = (double)n_in / n_out, stretch = ratio > 1 ? ratio : 1;
    fvg__taps t;
    if (fvg__taps_new(c, &t, FVG_BICUBIC, n_in, n_out, 0, n_out)) { check(0, "weights"); return; }
    for (int i = 0; i < n_out; i++) {
      double sum = 0;
      for (int x = 0; x < n_in; x++) sum += cubic((x + 0.5 - (i + 0.5) * ratio) / stretch);
      for (int j = 0; j < t.count[i]; j++) {
        double share = cubic((t.first[i] + j + 0.5 - (i + 0.5) * ratio) / stretch) / sum;
        double off = (double)t.weight[i * t.stride + j] - share * 4194304;
        bad += !(fabs(off) < 0.5 + 1e-5);
        n_negative += share < 0;
      }
    }
    fvg_release(c, t.first);
  }
  check(bad == 0 && n_negative > 1000,
        "bicubic weights are rounded to the nearest, negative ones too");
}

static void test_geometry(fvg_ctx *c) {
  fvg_image in = make(c, 40, 30, 3, -1), flat = make(c, 41, 23, 3, 181), a, b;
  fvg_crop all = {0, 0, 30, 30, 1};
  int i, n, bad = 0;
  check(!fvg_image_resize(c, &a, &in, 40, 30, FVG_BICUBIC) && same(&a, &in), "the same size is a copy");
  fvg_image_free(c, &a);
  check(!fvg_image_resize(c, &a, &in, 40, 30, FVG_NEAREST) && same(&a, &in), "the same size is a copy, nearest");
  fvg_image_free(c, &a);
  check(!fvg_image_resize(c, &a, &flat, 97, 11, FVG_BICUBIC), "constant image");
  for (i = 0, n = 97 * 11 * 3; i < n; i++) bad += a.pixels[i] != 181;
  check(!bad, "a constant image stays constant");
  fvg_image_free(c, &a);
  check(!fvg_image_resized_crop(c, &a, &in, &all, 30, FVG_BICUBIC), "flip");
  for (i = 0; i < 30; i++) bad += memcmp(a.pixels + 3 * i, in.pixels + 3 * (29 - i), 3) != 0;
  check(!bad, "a flip turns the row around");
  all.height = 30;
  check(!fvg_image_resized_crop(c, &b, &a, &all, 30, FVG_BICUBIC), "flip again");
  for (i = 0; i < 30; i++) bad += memcmp(b.pixels + 90 * i, in.pixels + 120 * i, 90) != 0;
  check(!bad, "two flips are none");
  fvg_image_free(c, &a);
  fvg_image_free(c, &b);
  check(window_equals_whole(c, 57, 31, 3, 16, FVG_BICUBIC), "window: wide, shrinking");
  check(window_equals_whole(c, 31, 58, 1, 45, FVG_BICUBIC), "window: tall, growing, grey");
  check(window_equals_whole(c, 50, 33, 4, 33, FVG_BICUBIC), "window: short side fits already, four channels");
  check(window_equals_whole(c, 71, 64, 3, 19, FVG_NEAREST), "window: nearest");
  fvg_image_free(c, &in);
  fvg_image_free(c, &flat);
}

/* ---- every SIMD level gives the bytes of plain C ---- */
static fvg_image patterned(fvg_ctx *c, int width, int height, int channels, int pattern) {
  fvg_image image = make(c, width, height, channels, -1);
  size_t i, n = (size_t)width * (size_t)height * (size_t)channels;
  fvg_rng r;
  fvg_rng_seed(&r, (uint64_t)width * 1000 + (uint64_t)height, (uint64_t)pattern);
  for (i = 0; pattern && i < n; i++) {
    int pixel = (int)(i / (size_t)channels), x = pixel % width, y = pixel / width;
    double u = fvg_rng_uniform(&r);
    image.pixels[i] = (uint8_t)(pattern == 1 ? 255 * (u < 0.5)                      /* black or white at random */
                                : pattern == 2 ? 255 * ((x / 3 + y / 2 + (int)(i % 3)) % 2)  /* overshooting tiles  */
                                : pattern == 3 ? 255 : (int)(256 * u));
  }
  return image;
}

/* Samples along a side are white where the low 16 bits of their weights for output 0 of n are positive. */
static fvg_image low_digits(fvg_ctx *c, int width, int height, int channels, int n) {
  fvg_image image = make(c, width, height, channels, 0);
  int side = width > height ? width : height, x, y;
  fvg__taps t;
  if (fvg__taps_new(c, &t, FVG_BICUBIC, side, n, 0, 1)) return image;
  for (y = 0; y < height; y++)
    for (x = 0; x < width; x++) {
      int k = width > height ? x : y;
      if (k < t.count[0] && (t.weight[k] & 0x8000) == 0)
        memset(image.pixels + ((size_t)y * (size_t)width + (size_t)x) * (size_t)channels, 255, (size_t)channels);
    }
  fvg_release(c, t.first);
  return image;
}

/* The view of `in` from left, top on, in a block that ends with its last pixel, so that a checker of memory sees a
   read behind it; the result, too, in a block of its size. */
static uint8_t *resampled(fvg_ctx *c, const fvg_image *in, int left, int top, int width, int height,
                          const fvg__window *w, fvg_filter filter) {
  size_t n = (size_t)in->width * (size_t)in->height * (size_t)in->channels;
  uint8_t *exact = (uint8_t *)malloc(n), *dst = (uint8_t *)malloc((size_t)w->width * (size_t)w->height
                                                                  * (size_t)in->channels);
  fvg_image copy = *in;
  fvg__view view;
  if (!exact || !dst) exit(1);
  memcpy(exact, in->pixels, n);
  copy.pixels = exact;
  view = fvg__image_view(&copy, left, top, in->width - left, in->height - top);
  if (fvg__two_passes(c, dst, &view, width, height, w, filter)) { free(dst); dst = NULL; }
  free(exact);
  return dst;
}

static int level_differs(fvg_ctx *plain, fvg_ctx *c, const fvg_image *in, int left, int top, int width, int height,
                         const fvg__window *w, fvg_filter filter) {
  uint8_t *a = resampled(plain, in, left, top, width, height, w, filter);
  uint8_t *b = resampled(c, in, left, top, width, height, w, filter);
  int differs = !a || !b || memcmp(a, b, (size_t)w->width * (size_t)w->height * (size_t)in->channels);
  if (differs)
    printf("  level %d: %d x %d x %d from %d, %d on, to %d x %d, window %d, %d, %d x %d\n", fvg_simd_level(c),
           in->width, in->height, in->channels, left, top, width, height, w->left, w->top, w->width, w->height);
  free(a);
  free(b);
  return differs;
}

static void test_simd_levels(void) {
  static const int side[22] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 16, 17, 21, 31, 33, 50, 64, 97, 151, 200};
  fvg_ctx *plain, *c;
  fvg_desc desc;
  fvg_rng r;
  int level, trial, channels, cases = 0, bad = 0;
  memset(&desc, 0, sizeof desc);
  desc.simd = FVG_SIMD_SCALAR;
  if (fvg_init(&plain, &desc)) { check(0, "a context"); return; }
  check(fvg_simd_level(plain) == FVG_SIMD_SCALAR, "plain C on demand");
  for (level = FVG_SIMD_BEST; level < 16; level++) {                            /* a level the CPU lacks falls back */
    desc.simd = (fvg_simd)level;
    if (level == FVG_SIMD_SCALAR || fvg_init(&c, &desc)) continue;
    if (level != FVG_SIMD_BEST && fvg_simd_level(c) != level) { fvg_free(c); continue; }
    fvg_rng_seed(&r, 11, 0);
    for (trial = 0; trial < 900 && bad < 10; trial++)
      for (channels = 1; channels <= 4; channels++) {
        int in_w = side[(int)(22 * fvg_rng_uniform(&r))], in_h = side[(int)(22 * fvg_rng_uniform(&r))];
        int width = side[(int)(22 * fvg_rng_uniform(&r))], height = side[(int)(22 * fvg_rng_uniform(&r))];
        int left = (int)(fvg_rng_uniform(&r) * in_w / 2), top = (int)(fvg_rng_uniform(&r) * in_h / 2);
        fvg_image in = patterned(c, in_w, in_h, channels, trial % 5);
        fvg__window w;
        w.left = w.top = 0;
        w.width = width;
        w.height = height;
        bad += level_differs(plain, c, &in, left, top, width, height, &w, trial % 3 ? FVG_BICUBIC : FVG_BILINEAR);
        w.left = (int)(fvg_rng_uniform(&r) * width);
        w.top = (int)(fvg_rng_uniform(&r) * height);
        w.width = 1 + (int)(fvg_rng_uniform(&r) * (width - w.left));
        w.height = 1 + (int)(fvg_rng_uniform(&r) * (height - w.top));
        bad += level_differs(plain, c, &in, 0, 0, width, height, &w, trial % 3 ? FVG_BILINEAR : FVG_BICUBIC);
        cases += 2;
        fvg_image_free(c, &in);
      }
    for (channels = 1; channels <= 4 && bad < 10; channels++) {       /* sums of low digits that leave 32 bits      */
      fvg_image wide = low_digits(c, 6000, 6, channels, 2), tall = low_digits(c, 33, 6000, channels, 2);
      fvg__window w = {0, 0, 2, 3};
      bad += level_differs(plain, c, &wide, 0, 0, 2, 3, &w, FVG_BICUBIC);
      w.width = 33;
      w.height = 2;
      bad += level_differs(plain, c, &tall, 0, 0, 33, 2, &w, FVG_BICUBIC);
      fvg_image_free(c, &wide);
      fvg_image_free(c, &tall);
    }
    fvg_free(c);
  }
  check(cases && !bad, "every SIMD level resizes to the bytes of plain C");
  fvg_free(plain);
}

static void test_extremes(fvg_ctx *c) {
  fvg_image thin = make(c, 1, 10000, 3, 9), line = make(c, 1 << 20, 1, 1, 0), a;
  size_t before = fvg_mem_used(c);
  check(!transform(c, &a, &thin, 224, FVG_BICUBIC) && a.width == 224 && a.height == 224
        && a.pixels[9] == 9, "1 x 10000 pixels");
  fvg_image_free(c, &a);
  check(fvg_mem_peak(c) - before < 1000000, "1 x 10000 pixels take little memory");
  check(transform(c, &a, &line, 224, FVG_BICUBIC) == FVG_E_ARG && says(c, "1048576 x 1", "234881024"),
        "too long for a test transform");
  check(fvg_image_resize(c, &a, &line, 1, 1 << 20, FVG_BICUBIC) == FVG_OK, "a line turned to a column");
  fvg_image_free(c, &a);
  check(fvg_image_resize(c, &a, &line, 2000000, 1, FVG_BICUBIC) == FVG_E_ARG && says(c, "2000000 x 1", "at most"),
        "a side too long");
  fvg_image_free(c, &line);
  line = make(c, 1, 1 << 20, 1, 0);
  check(fvg_image_resize(c, &a, &line, 1 << 20, 1, FVG_BICUBIC) == FVG_E_UNSUPPORTED && !a.pixels
        && says(c, "1 x 1048576 to 1048576 x 1", "between the passes"), "too much between the passes");
  fvg_image_free(c, &line);
  fvg_image_free(c, &thin);
}

static void test_bad_arguments(fvg_ctx *c) {
  static const fvg_crop boxes[5] = {{0, 0, 6, 1, 0}, {-1, 0, 2, 2, 0}, {0, 7, 1, 1, 0}, {0, 0, 0, 1, 0},
                                    {2147483647, 1, 1, 1, 0}};
  fvg_image in = make(c, 7, 5, 3, -1), empty, a;
  float chw[3];
  int i, bad = 0;
  memset(&empty, 0, sizeof empty);
  check(fvg_image_resize(c, &a, &in, 0, 4, FVG_BICUBIC) == FVG_E_ARG && says(c, "7 x 5", "0 x 4"),
        "resize to nothing");
  check(fvg_image_resize(c, &a, &in, 2, 2, (fvg_filter)9) == FVG_E_ARG && says(c, "filter", "9"), "unknown filter");
  check(fvg_image_resize(c, &in, &in, 2, 2, FVG_BICUBIC) == FVG_E_ARG && in.width == 7, "resize in place");
  check(fvg_image_resize(c, &a, &empty, 2, 2, FVG_BICUBIC) == FVG_E_ARG && says(c, "not an image", "0 x 0"),
        "no image");
  check(transform(c, &a, &in, -3, FVG_BICUBIC) == FVG_E_ARG && says(c, "7 x 5", "-3"),
        "negative size");
  for (i = 0; i < 5; i++)
    bad += fvg_image_resized_crop(c, &a, &in, &boxes[i], 4, FVG_BICUBIC) != FVG_E_ARG || a.pixels;
  check(!bad && says(c, "top 2147483647", "7 x 5"), "boxes outside the image");
  in.channels = 1;
  check(normalize(c, &in, chw) == FVG_E_SHAPE && says(c, "[3, 5, 7]", "1 channels"),
        "normalize a grey image");
  in.channels = 3;
  check(fvg_image_binarise(c, &in, 128) == FVG_E_ARG && says(c, "128", "below 1") && in.channels == 3,
        "threshold 128");
  fvg_image_free(c, &in);
  fvg_image_free(c, &in);
}

/* ---- masks, crops, numbers ---- */
static void test_masks(fvg_ctx *c) {
  static const uint8_t mean[4] = {0, 255, 255, 0}, above_zero[4] = {255, 255, 255, 0};
  static const uint8_t colours[12] = {127, 128, 127, 127, 128, 128, 255, 255, 0, 0, 0, 0};
  fvg_image a = make(c, 4, 1, 3, 0), mask = make(c, 60, 44, 1, 0), rgb = make(c, 60, 44, 3, 0), m, x;
  fvg_rng r;
  int i, trial, differ = 0;
  memcpy(a.pixels, colours, 12);
  check(!fvg_image_binarise(c, &a, 0) && holds(&a, 4, 1, 1, mean), "mean of the channels above one half");
  fvg_image_free(c, &a);
  a = make(c, 4, 1, 3, 0);
  memcpy(a.pixels, colours, 12);
  check(!fvg_image_binarise(c, &a, -1) && holds(&a, 4, 1, 1, above_zero), "a negative threshold is zero");
  for (i = 0; i < 60 * 44; i++) mask.pixels[i] = i % 60 > 13 && i % 60 < 40 && i / 60 > 10 ? 255 : 0;
  fvg__convert_pixels(rgb.pixels, 3, mask.pixels, 1, 60 * 44);
  fvg_rng_seed(&r, 5, 0);
  for (trial = 0; trial < 20; trial++) {                                      /* an image equal to its own mask    */
    fvg_crop box = fvg_crop_random(&r, 60, 44, 0.3, 1);
    if (fvg_image_resized_crop(c, &m, &mask, &box, 64, FVG_NEAREST)
        || fvg_image_resized_crop(c, &x, &rgb, &box, 64, FVG_BICUBIC)
        || fvg_image_binarise(c, &x, 0)) { differ = 1 << 20; break; }
    for (i = 0; i < 64 * 64; i++) {
      differ += m.pixels[i] != x.pixels[i];
      if (m.pixels[i] != 0 && m.pixels[i] != 255) differ = 1 << 20;
    }
    fvg_image_free(c, &m);
    fvg_image_free(c, &x);
  }
  check(differ < 20 * 64 * 3, "image and mask keep step, edges apart");
  fvg_image_free(c, &a);
  fvg_image_free(c, &mask);
  fvg_image_free(c, &rgb);
}

static void test_random_crops(void) {
  fvg_rng r;
  fvg_crop box;
  int i, flips = 0, outside = 0;
  double area = 0, share, ratio;
  fvg_rng_seed(&r, 1, 2);
  for (i = 0; i < 4000; i++) {
    box = fvg_crop_random(&r, 500, 375, 0.08, 1);
    share = (double)box.width * box.height / (500 * 375);
    ratio = (double)box.width / box.height;
    outside += box.left < 0 || box.top < 0 || box.left + box.width > 500 || box.top + box.height > 375;
    outside += share < 0.079 || share > 1 || ratio < 0.74 || ratio > 1.35;
    area += share / 4000;
    flips += box.flip;
  }
  check(!outside, "crops within the image, the scale and the ratio");
  check(area > 0.40 && area < 0.47, "mean area of the crops");                 /* 0.434 with torchvision's rule     */
  check(flips > 1850 && flips < 2150, "half of them mirrored");
  box = fvg_crop_random(&r, 300, 10, 1, 1);
  check(box.width == 13 && box.height == 10 && box.left == 143 && box.top == 0, "fallback, wide");
  box = fvg_crop_random(&r, 10, 300, 1, 1);
  check(box.width == 10 && box.height == 13 && box.left == 0 && box.top == 143, "fallback, tall");
  box = fvg_crop_random(&r, 0, 300, 1, 1);
  check(!box.width && !box.height, "no image, no crop");
  fvg_rng_seed(&r, 7, 0);
  box = fvg_crop_random(&r, 640, 480, 0.08, 1);
  check(box.top == 118 && box.left == 353 && box.height == 294 && box.width == 282 && box.flip == 0,
        "seed 7 gives this box");
  check(fabs(fvg__exact_exp(0.28768207245178093) - 4.0 / 3) < 1e-15 && fabs(fvg__exact_exp(-0.5) - exp(-0.5)) < 1e-15,
        "exp");
}

static void test_normalize(fvg_ctx *c) {
  fvg_image in = make(c, 2, 1, 3, 0);
  float chw[6];
  in.pixels[0] = 255;
  check(!normalize(c, &in, chw), "normalize");
  check(fabs(chw[0] - 1.93033624f) < 1e-6 && fabs(chw[1] + 1.79226253f) < 1e-6, "red");
  check(fabs(chw[2] + 1.75209713f) < 1e-6 && chw[3] == chw[2] && fabs(chw[4] + 1.48021984f) < 1e-6, "green and blue");
  fvg_image_free(c, &in);
}

/* ---- every allocation fails once ---- */
typedef struct fragile { int left; long blocks; } fragile;
static void *fragile_alloc(void *user, size_t bytes) {
  fragile *f = (fragile *)user;
  if (f->left-- <= 0) return NULL;
  f->blocks++;
  return malloc(bytes);
}
static void fragile_release(void *user, void *block, size_t bytes) {
  (void)bytes;
  ((fragile *)user)->blocks--;
  free(block);
}

static fvg_status whole_path(fvg_ctx *c) {
  fvg_crop box = {1, 1, 3, 5, 1};
  fvg_image a, b, d, e;
  uint8_t *bytes = NULL;
  size_t n;
  fvg_status s = decode(c, &a, "P5 7 5 255 aAbBcCdDeEfFgGhHiIjJkKlLmMnNoOpPqQr", 46, 3);
  memset(&b, 0, sizeof b);
  memset(&d, 0, sizeof d);
  memset(&e, 0, sizeof e);
  if (!s) s = fvg_image_resize(c, &b, &a, 9, 4, FVG_BICUBIC);
  if (!s) s = transform(c, &d, &b, 3, FVG_NEAREST);
  if (!s) s = fvg_image_resized_crop(c, &e, &a, &box, 6, FVG_BICUBIC);
  if (!s) s = fvg_image_encode_png(c, &bytes, &n, &e);
  fvg_release(c, bytes);
  fvg_image_free(c, &a);
  fvg_image_free(c, &b);
  fvg_image_free(c, &d);
  fvg_image_free(c, &e);
  return s;
}

static void test_failing_allocator(void) {
  fragile f;
  fvg_desc desc;
  fvg_ctx *c;
  int n, bad = 0;
  fvg_status s = FVG_E_NOMEM;
  memset(&desc, 0, sizeof desc);
  desc.allocator.alloc = fragile_alloc;
  desc.allocator.release = fragile_release;
  desc.allocator.user = &f;
  for (n = 0; n < 100 && s; n++) {
    f.left = 1000;
    f.blocks = 0;
    if (fvg_init(&c, &desc)) { check(0, "a context"); return; }
    f.left = n;
    s = whole_path(c);
    bad += (s && s != FVG_E_NOMEM) || fvg_mem_used(c) != 0;
    fvg_free(c);
    bad += f.blocks != 0;
  }
  check(!s && n > 10 && !bad, "every failing allocation is reported and leaves nothing");
}

/* ---- Pillow's results on photographs ---- */
#ifdef FVGPT_STB_IMAGE
static double number(const fvg_json *j, int object, const char *key) {
  int at = fvg_json_find(j, object, key);
  return at < 0 ? -1 : j->value[at].number;
}

static int load_golden(fvg_ctx *c, fvg_image *out, const char *folder, const fvg_json *j, int object,
                       const char *key, int ch) {
  char path[1024];
  int at = fvg_json_find(j, object, key);
  memset(out, 0, sizeof *out);
  if (at < 0) return 0;
  snprintf(path, sizeof path, "%s/golden/preprocess/%s", folder, j->value[at].string);
  if (!fvg_image_load(c, out, path, ch)) return 1;
  printf("  %s\n", fvg_error(c));
  return 0;
}

static int golden_case(fvg_ctx *c, const char *folder, const fvg_json *j, int object, int mask) {
  int op = fvg_json_find(j, object, "op"), size = (int)number(j, object, "size"), ok;
  fvg_crop box;
  fvg_image in, wanted, got;
  box.top = (int)number(j, object, "top");
  box.left = (int)number(j, object, "left");
  box.height = (int)number(j, object, "height");
  box.width = (int)number(j, object, "width");
  box.flip = (int)number(j, object, "flip");
  ok = load_golden(c, &in, folder, j, object, mask ? "mask_in" : "in", mask ? 1 : 3);
  ok &= load_golden(c, &wanted, folder, j, object, mask ? "mask_out" : "out", mask ? 1 : 3);
  memset(&got, 0, sizeof got);
  if (op < 0 || !ok) ok = 0;
  else if (!strcmp(j->value[op].string, "clip_test")) ok = !transform(c, &got, &in, size, FVG_BICUBIC);
  else ok = !fvg_image_resized_crop(c, &got, &in, &box, size, mask ? FVG_NEAREST : FVG_BICUBIC);
  ok = ok && same(&got, &wanted);
  fvg_image_free(c, &in);
  fvg_image_free(c, &wanted);
  fvg_image_free(c, &got);
  return ok;
}
#endif

static void test_golden(fvg_ctx *c) {
#ifndef FVGPT_STB_IMAGE
  (void)c;
  printf("skipped: golden/preprocess needs FVGPT_STB_IMAGE\n");
#else
  const char *folder = getenv("FVGPT_SHARED");
  char path[1024];
  fvg_source s;
  fvg_json j;
  uint8_t *bytes;
  size_t n;
  int at, cases = 0, bad = 0;
  if (!folder) folder = "../shared";
  snprintf(path, sizeof path, "%s/golden/preprocess/cases.json", folder);
  if (fvg_source_file(c, &s, path)) { printf("skipped: %s\n", fvg_error(c)); return; }
  check(!fvg_source_read_all(c, &bytes, &n, &s), "read cases.json");
  fvg_source_close(&s);
  check(!fvg_json_parse(c, &j, (const char *)bytes, n, path), "parse cases.json");
  for (at = j.n ? j.value[0].first : -1; at >= 0; at = j.value[at].next) {
    int mask;
    for (mask = 0; mask <= (fvg_json_find(&j, at, "mask_in") >= 0); mask++) {
      cases++;
      if (!golden_case(c, folder, &j, at, mask)) { bad++; printf("  case %d, mask %d\n", cases, mask); }
    }
  }
  check(cases > 100 && !bad, "golden cases equal to Pillow's, byte by byte");
  fvg_json_free(c, &j);
  fvg_bytes_free(c, bytes);
#endif
}

int main(void) {
  fvg_ctx *c;
  if (fvg_init(&c, NULL)) return 1;
  test_pnm(c);
  test_bad_pnm(c);
  test_png(c);
  test_png_writer(c);
  test_jpeg(c);
  test_files(c);
  test_nothing_given(c);
  test_pillow_bytes(c);
  test_weights(c);
  test_weight_sums(c);
  test_geometry(c);
  test_simd_levels();
  test_masks(c);
  test_random_crops();
  test_normalize(c);
  test_bad_arguments(c);
  test_extremes(c);
  test_failing_allocator();
  test_golden(c);
  check(fvg_mem_used(c) == 0, "no memory stays");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
