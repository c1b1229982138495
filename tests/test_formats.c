/* What picture files hold: every form of PNG, BMP, GIF and JPEG, damage, EXIF, and files that are none.  Expected values
   are Pillow 9.4's convert("RGB"), unless a comment says otherwise. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"
#ifdef FVGPT_STB_IMAGE
#include "make_pictures.h"
#endif

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

static int logged;
static char last_log[512];
static void keep_log(void *user, int level, const char *text) {
  (void)user; (void)level;
  logged++;
  snprintf(last_log, sizeof last_log, "%s", text);
}

static fvg_status decode(fvg_ctx *c, fvg_image *out, const void *bytes, size_t n, int channels) {
  fvg_source s = fvg_source_memory(bytes, n, "some.file");
  return fvg_image_decode(c, out, &s, channels);
}

/* Is it refused with this status and a message of one line that names the file and says `text`? */
static int refused(fvg_ctx *c, const void *bytes, size_t n, fvg_status status, const char *text) {
  fvg_image a;
  fvg_status s = decode(c, &a, bytes, n, 3);
  int ok = s == status && !a.pixels && strstr(fvg_error(c), "some.file") && strstr(fvg_error(c), text)
           && !strchr(fvg_error(c), '\n');
  if (!ok) printf("  status %d: %s\n  wanted: %s\n", (int)s, s ? fvg_error(c) : "", text);
  fvg_image_free(c, &a);
  return ok;
}

/* ---- kinds ---- */
typedef struct foreign { const char *bytes; size_t n; const char *says; } foreign;
#define FOREIGN(bytes, says) {bytes, sizeof bytes - 1, says}

static void test_kinds(fvg_ctx *c) {
  static const foreign file[] = {
    FOREIGN("RIFF\x24\0\0\0WEBPVP8 ", "WebP"), FOREIGN("\0\0\0\x1C" "ftypavif\0\0\0\0", "AVIF"),
    FOREIGN("\0\0\0\x18" "ftypheic\0\0\0\0", "HEIC"), FOREIGN("\0\0\0\x18" "ftypmif1\0\0\0\0", "HEIC"),
    FOREIGN("\0\0\0\x18" "ftypisom\0\0\0\0", "video"), FOREIGN("II*\0\x08\0\0\0", "TIFF"),
    FOREIGN("MM\0*\0\0\0\x08", "TIFF"), FOREIGN("\0\0\0\x0CjP  \r\n\x87\n", "JPEG 2000"),
    FOREIGN("\xFF\x4F\xFF\x51\0\0", "JPEG 2000"), FOREIGN("\xFF\x0A\xFA\x1F", "JPEG XL"),
    FOREIGN("\0\0\0\x0CJXL \r\n\x87\n", "JPEG XL"), FOREIGN("\0\0\1\0\1\0\x10\x10", "ICO"),
    FOREIGN("8BPS\0\1\0\0", "PSD"), FOREIGN("%PDF-1.7\n", "PDF"), FOREIGN("qoif\0\0\0\1", "QOI"),
    FOREIGN("<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    FOREIGN("\xEF\xBB\xBF<?xml version='1.0'?>\n<!-- drawn -->\n<SVG/>", "SVG"),
    FOREIGN("\n<!DOCTYPE HTML>\n<title>404</title>", "HTML"), FOREIGN("<html><head>", "HTML"),
    FOREIGN("version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
    FOREIGN("\x89PNG\n\x1A\n\0\0\0\rIHDR", "line ends"), FOREIGN("\x89PNG\r\r\n\x1A\r\n\0\0\0", "line ends"),
    FOREIGN("\0\5\x16\7\0\2\0\0Mac OS X", "macOS"), FOREIGN("PK\3\4\x14\0", "ZIP"), FOREIGN("\x1F\x8B\x08\0", "gzip"),
    FOREIGN("P7\nWIDTH 1\n", "PAM"), FOREIGN("8BIM??", "neither PNM"), FOREIGN("", "empty file"),
    FOREIGN("\0\0\0\0\0\0\0\0\0", "a file of zeros (9 bytes)"), FOREIGN("Dear sir,", "neither PNM")
  };
  static const struct { const char *name, *kind; } ending[] = {
    {"a.JPG", "JPEG"}, {"b/c.d/e.jpeg", "JPEG"}, {"x.Webp", NULL}, {"x.bmp", "BMP"}, {"x.gif", "GIF"}, {"y.heic", NULL},
    {"x.pgm", "PNM"}, {"x.tar.png", "PNG"}, {"png", NULL}, {"x.txt", NULL}, {"x.pn", NULL}, {"x.", NULL}, {".d/png", NULL}
  };
  size_t i;
  for (i = 0; i < sizeof file / sizeof *file; i++)
    check(refused(c, file[i].bytes, file[i].n, i < 26 ? FVG_E_UNSUPPORTED : FVG_E_FORMAT, file[i].says), file[i].says);
  for (i = 0; i < sizeof ending / sizeof *ending; i++) {
    const fvg__image_kind *kind = fvg__image_kind_of_name(ending[i].name);
    check(kind ? ending[i].kind && !strcmp(kind->name, ending[i].kind) : !ending[i].kind, ending[i].name);
  }
}

#ifndef FVGPT_STB_IMAGE
/* What a build without stb_image says of every kind. */
static void test_without_stb(fvg_ctx *c) {
  static const foreign file[4] = {FOREIGN("\x89PNG\r\n\x1A\n", "PNG needs a build with FVGPT_STB_IMAGE"),
    FOREIGN("\xFF\xD8\xFF\xE0", "JPEG needs a build with FVGPT_STB_IMAGE"), FOREIGN("GIF89a", "GIF needs a build with FVGPT_STB_IMAGE"),
    FOREIGN("BM\0\0\0\0\0\0\0\0\0\0\0\0\x28\0\0\0", "BMP needs a build with FVGPT_STB_IMAGE")};
  int i;
  for (i = 0; i < 4; i++) check(refused(c, file[i].bytes, file[i].n, FVG_E_UNSUPPORTED, file[i].says), file[i].says);
}
#else
/* Does the file hold exactly these pixels of 3 channels (channels 0: as in the file)? */
static int holds(fvg_ctx *c, const made *m, int channels, int width, int height, int found, const uint8_t *pixels) {
  fvg_image a;
  int ok = !decode(c, &a, m->bytes, m->n, channels) && a.width == width && a.height == height && a.channels == found
           && !memcmp(a.pixels, pixels, (size_t)(width * height * found));
  size_t i;
  if (!ok && !a.pixels) printf("  %s\n", fvg_error(c));
  for (i = 0; !ok && a.pixels && i < (size_t)a.width * (size_t)a.height * (size_t)a.channels; i++)
    printf("%s%d", i ? " " : "  got ", a.pixels[i]);
  if (!ok) printf("\n");
  fvg_image_free(c, &a);
  return ok;
}

/* Cut off anywhere, it is refused. */
static int refused_short(fvg_ctx *c, const made *m) {
  fvg_image a;
  size_t n;
  int bad = 0;
  for (n = 0; n < m->n; n++) {
    bad += !decode(c, &a, m->bytes, n, 0) || a.pixels;
    fvg_image_free(c, &a);
  }
  return !bad;
}

/* ---- PNG ---- */
static void test_png(fvg_ctx *c) {
  static const uint8_t bits[9] = {255, 255, 255, 0, 0, 0, 255, 255, 255}, quarters[6] = {0, 0, 85, 255, 170, 255};
  static const uint8_t indexed[12] = {9, 8, 7, 255, 6, 5, 4, 0, 2, 2, 2, 255};
  static const uint8_t high[6] = {0x12, 0x56, 0x9A, 0xFF, 0x00, 0x7F}, grey16[2] = {0x12, 0xFE};
  static const uint8_t filtered[18] = {10, 20, 30, 15, 25, 35, 15, 30, 45, 22, 37, 52, 31, 50, 60, 40, 60, 71};
  made m;
  png_begin(&m, 3, 1, 1, 0, 0);
  png_end(&m, "\0\xA0", 2, 0);
  check(holds(c, &m, 3, 3, 1, 3, bits), "PNG: one bit");
  png_begin(&m, 3, 1, 2, 0, 0);
  png_chunk(&m, "tRNS", "\0\0", 2);
  png_end(&m, "\0\x18", 2, 0);
  check(holds(c, &m, 0, 3, 1, 2, quarters), "PNG: two bits, black is transparent");
  png_begin(&m, 3, 1, 4, 3, 0);
  png_chunk(&m, "PLTE", "\x09\x08\x07\x06\x05\x04", 6);
  png_chunk(&m, "tRNS", "\xFF\0", 2);
  png_end(&m, "\0\x01\x20", 3, 0);
  check(holds(c, &m, 0, 3, 1, 4, indexed), "PNG: a palette that is too short");
  png_begin(&m, 2, 1, 16, 2, 0);
  png_end(&m, "\0\x12\x34\x56\x78\x9A\xBC\xFF\xFF\x00\xFF\x7F\x00", 13, 0);
  check(holds(c, &m, 3, 2, 1, 3, high), "PNG: the high byte of RGB of 16 bits");
  logged = 0;
  png_begin(&m, 2, 1, 16, 0, 0);
  png_end(&m, "\0\x12\x34\xFE\xDC", 5, 0);
  check(holds(c, &m, 0, 2, 1, 1, grey16) && holds(c, &m, 0, 2, 1, 1, grey16), "PNG: the high byte of grey (not Pillow's)");
  check(logged == 1 && strstr(last_log, "16 bits") && strstr(last_log, "some.file"), "PNG: which is said once");
  png_begin(&m, 1, 6, 8, 2, 0);
  png_chunk(&m, "gAMA", "\0\0\xFF\0", 4);
  png_end(&m, "\0\x0A\x14\x1E\2\5\5\5\1\x0F\x1E\x2D\4\7\7\7\3\x14\x20\x22\3\x19\x23\x29", 24, 0);
  check(holds(c, &m, 3, 1, 6, 3, filtered), "PNG: all five filters");
}

/* Filters look at a pixel to the left only from the second one on. */
static void test_filters_across(fvg_ctx *c) {
  static const uint8_t want[9] = {11, 12, 14, 12, 20, 30, 13, 25, 31};
  made m;
  png_begin(&m, 3, 3, 8, 0, 0);
  png_end(&m, "\3\x0B\7\x08\4\1\x08\x0A\3\7\x09\x04", 12, 0);
  check(holds(c, &m, 0, 3, 3, 1, want), "PNG: average and Paeth across a row");
}

static void test_interlaced(fvg_ctx *c) {                                     /* 5 x 5, a pixel is its place       */
  static const uint8_t rows[] = {0, 0, 0, 4, 0, 20, 24, 0, 2, 0, 22, 0, 10, 12, 14, 0, 1, 3, 0, 11, 13, 0, 21, 23,
                                 0, 5, 6, 7, 8, 9, 0, 15, 16, 17, 18, 19};
  uint8_t want[25];
  made m;
  int i;
  for (i = 0; i < 25; i++) want[i] = (uint8_t)i;
  png_begin(&m, 5, 5, 8, 0, 1);
  png_end(&m, rows, sizeof rows, 0);
  check(holds(c, &m, 0, 5, 5, 1, want), "PNG: interlaced");
}

/* Every bit of a file turned, one at a time: never pixels, and nothing kept. */
static void test_png_damage(fvg_ctx *c) {
  made m, copy;
  size_t i, before = fvg_mem_used(c);
  int bit, bad = 0;
  fvg_image a;
  png_begin(&m, 2, 2, 8, 2, 0);
  png_chunk(&m, "tEXt", "Title\0x", 7);
  png_end(&m, "\0abcdef\1ghijkl", 14, 0);
  check(refused_short(c, &m), "PNG: cut off anywhere");
  for (i = 0; i < m.n; i++)
    for (bit = 0; bit < 8; bit++) {
      copy = m;
      copy.bytes[i] = (uint8_t)(copy.bytes[i] ^ 1 << bit);
      bad += !decode(c, &a, copy.bytes, copy.n, 0) || a.pixels;
    }
  check(!bad && fvg_mem_used(c) == before, "PNG: every single bit turned is found");
  copy = m;
  copy.bytes[70] ^= 1;
  check(refused(c, copy.bytes, copy.n, FVG_E_FORMAT, "CRC of PNG chunk IDAT at byte 52"), "PNG: a CRC names its chunk");
  copy = m;
  copy.bytes[45] ^= 1;
  check(refused(c, copy.bytes, copy.n, FVG_E_FORMAT, "CRC of PNG chunk tEXt at byte 33"), "PNG: also that of a text");
  png_begin(&m, 2, 2, 8, 2, 0);
  png_end(&m, "\0abcdef\1ghijkl", 14, 1);
  check(holds(c, &m, 3, 2, 2, 3, (const uint8_t *)"abcdefghi\xD1\xD3\xD5"), "PNG: with right CRCs, Adler-32 is not looked at");
  png_begin(&m, 2, 2, 8, 2, 0);
  png_end(&m, "\0abcdef\1ghijk", 13, 0);
  check(refused(c, m.bytes, m.n, FVG_E_FORMAT, "not enough pixels"), "PNG: a byte too few");
  png_begin(&m, 2, 2, 8, 2, 0);
  png_end(&m, "\0abcdef\1ghijklm", 15, 0);
  check(holds(c, &m, 3, 2, 2, 3, (const uint8_t *)"abcdefghi\xD1\xD3\xD5"), "PNG: a byte too many");
  png_begin(&m, 2, 2, 8, 2, 0);
  png_end(&m, "\0abcdef\5ghijkl", 14, 0);
  check(refused(c, m.bytes, m.n, FVG_E_FORMAT, "invalid filter"), "PNG: a filter that is none");
  png_begin(&m, 2, 2, 4, 2, 0);
  png_end(&m, "\0abc\0def", 8, 0);
  check(refused(c, m.bytes, m.n, FVG_E_FORMAT, "header"), "PNG: RGB of 4 bits");
  png_begin(&m, 2, 2, 12, 0, 0);
  png_end(&m, "\0abc\0def", 8, 0);
  check(refused(c, m.bytes, m.n, FVG_E_FORMAT, "header that no PNG has"), "PNG: grey of 12 bits");
  png_begin(&m, 2, 2, 8, 3, 0);
  png_end(&m, "\0ab\0cd", 6, 0);
  check(refused(c, m.bytes, m.n, FVG_E_FORMAT, "palette"), "PNG: no palette");
  png_begin(&m, 2, 1, 8, 0, 0);
  png_chunk(&m, "CgBI", "\0\0\0\0", 4);
  png_end(&m, "\0ab", 3, 0);
  check(refused(c, m.bytes, m.n, FVG_E_UNSUPPORTED, "CgBI"), "PNG: a chunk that matters and is not known");
  png_begin(&m, 20000, 6000, 8, 2, 0);
  png_end(&m, "\0abcdef", 7, 0);
  check(refused(c, m.bytes, m.n, FVG_E_FORMAT, "cannot come from 18 bytes"), "PNG: pixels that are not there");
}

/* ---- BMP ---- */
static void test_bmp(fvg_ctx *c) {
  static const uint32_t mask565[4] = {0xF800, 0x7E0, 0x1F, 0}, mask_argb[4] = {0xFF0000, 0xFF00, 0xFF, 0xFF000000};
  static const uint32_t torn[4] = {0xF0F0, 0x0F00, 0x000F, 0};
  static const uint8_t palette[64] = {1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0, 10, 11, 12, 0};
  static const uint8_t two[6] = {6, 5, 4, 3, 2, 1}, upright[6] = {6, 5, 4, 3, 2, 1}, flipped[6] = {3, 2, 1, 6, 5, 4};
  static const uint8_t p565[6] = {255, 0, 0, 8, 12, 24}, p555[6] = {255, 0, 8, 131, 0, 8}, alpha[4] = {30, 20, 10, 77};
  static const uint8_t beyond[9] = {6, 5, 4, 3, 2, 1, 200, 200, 200};
  made m;
  make_bmp(&m, 40, 2, 1, 1, 0, NULL, palette, 8, "\x80\0\0\0", 4);
  check(holds(c, &m, 3, 2, 1, 3, two), "BMP: one bit");
  make_bmp(&m, 40, 2, 1, 4, 0, NULL, palette, 64, "\x10\0\0\0", 4);
  check(holds(c, &m, 3, 2, 1, 3, two), "BMP: four bits");
  make_bmp(&m, 12, 2, 1, 24, 0, NULL, NULL, 0, "\4\5\6\1\2\3\0\0", 8);
  check(refused(c, m.bytes, m.n, FVG_E_UNSUPPORTED, "OS/2"), "BMP: OS/2's header");
  make_bmp(&m, 64, 2, 1, 4, 0, NULL, palette, 8, "\x10\0\0\0", 4);
  check(holds(c, &m, 3, 2, 1, 3, two), "BMP: a header of 64 bytes");
  make_bmp(&m, 56, 2, 1, 16, 3, mask565, NULL, 0, "\x00\xF8\x63\x08", 4);
  check(holds(c, &m, 3, 2, 1, 3, p565), "BMP: masks in a header of 56 bytes");
  make_bmp(&m, 40, 2, 1, 24, 0, NULL, palette, 12, "\4\5\6\1\2\3\0\0", 8);
  check(holds(c, &m, 3, 2, 1, 3, two), "BMP: a palette that 24 bits do not use");
  make_bmp(&m, 40, 3, 1, 8, 0, NULL, palette, 8, "\1\0\xC8\0", 4);
  check(holds(c, &m, 3, 3, 1, 3, beyond), "BMP: numbers beyond the palette are greys");
  make_bmp(&m, 40, 1, 2, 8, 0, NULL, palette, 16, "\0\0\0\0\1\0\0\0", 8);
  check(holds(c, &m, 3, 1, 2, 3, upright), "BMP: from the bottom up");
  make_bmp(&m, 124, 1, -2, 8, 0, NULL, palette, 16, "\0\0\0\0\1\0\0\0", 8);
  check(holds(c, &m, 3, 1, 2, 3, flipped), "BMP: from the top down");
  make_bmp(&m, 40, 2, 1, 16, 3, mask565, NULL, 0, "\x00\xF8\x63\x08", 4);
  check(holds(c, &m, 3, 2, 1, 3, p565), "BMP: 16 bits under masks");
  make_bmp(&m, 40, 2, 1, 16, 0, NULL, NULL, 0, "\x01\x7C\x01\x40", 4);
  check(holds(c, &m, 3, 2, 1, 3, p555), "BMP: 16 bits without");
  make_bmp(&m, 108, 1, 1, 32, 3, mask_argb, NULL, 0, "\x0A\x14\x1E\x4D", 4);
  check(holds(c, &m, 0, 1, 1, 4, alpha), "BMP: 32 bits with alpha");
  make_bmp(&m, 40, 2, 2, 8, 1, NULL, palette, 16, "\0\2\2\3\0\0\2\1\0\1", 10);
  check(refused(c, m.bytes, m.n, FVG_E_UNSUPPORTED, "run lengths"), "BMP: run lengths of 8 bits");
  make_bmp(&m, 40, 3, 1, 4, 2, NULL, palette, 64, "\0\3\x12\x10\0\1", 6);
  check(refused(c, m.bytes, m.n, FVG_E_UNSUPPORTED, "run lengths"), "BMP: run lengths of 4 bits");
  make_bmp(&m, 40, 2, 2, 24, 0, NULL, NULL, 0, "abcdef..ghijkl", 14);
  check(refused_short(c, &m), "BMP: cut off anywhere");
  make_bmp(&m, 40, 2, 1, 16, 3, torn, NULL, 0, "abcd", 4);
  check(refused(c, m.bytes, m.n, FVG_E_UNSUPPORTED, "masks"), "BMP: a mask in two pieces");
  make_bmp(&m, 40, 2, 1, 24, 4, NULL, NULL, 0, "\xFF\xD8\xFF\xE0", 4);
  check(refused(c, m.bytes, m.n, FVG_E_UNSUPPORTED, "JPEG or PNG within"), "BMP: a JPEG within");
  make_bmp(&m, 40, 2, 1, 2, 0, NULL, palette, 16, "abcd", 4);
  check(refused(c, m.bytes, m.n, FVG_E_UNSUPPORTED, "1, 4, 8, 16"), "BMP: two bits");
  make_bmp(&m, 40, 30000, 4000, 8, 0, NULL, palette, 16, "\0\1", 2);
  check(refused(c, m.bytes, m.n, FVG_E_FORMAT, "30000 x 4000"), "BMP: pixels that are not there");
}

/* ---- GIF ---- */
static void test_gif(fvg_ctx *c) {
  static const uint8_t colour[4][3] = {{10, 20, 30}, {255, 0, 0}, {0, 255, 0}, {0, 0, 255}};
  static const char plain[] = "000000" "001230" "012310" "000000", woven[] = "222222" "201232" "223012" "222222";
  static const char lines[] = "0011223300";                       /* rows 0, 4, 2, 1, 3 as they are stored          */
  uint8_t want[4 * 24];
  made m;
  int i, k;
  for (i = 0; i < 24; i++) memcpy(want + 3 * i, colour[plain[i] - '0'], 3);
  make_gif(&m, 6, 4, 1, 1, 4, 2, 0, -1, "01231231");
  for (i = 0; i < 4; i++) for (k = 0; k < 2; k++) memcpy(want + 3 * (6 * (1 + k) + 1 + i), colour[("01231231"[4 * k + i]) - '0'], 3);
  check(holds(c, &m, 3, 6, 4, 3, want), "GIF: a picture within the screen");
  for (i = 0; i < 24; i++) memcpy(want + 3 * i, colour[woven[i] - '0'], 3);
  make_gif(&m, 6, 4, 1, 1, 4, 2, 0, 2, "01232301");
  check(holds(c, &m, 0, 6, 4, 3, want), "GIF: what is transparent has its colour, and so has the ground");
  make_gif(&m, 2, 5, 0, 0, 2, 5, 1, -1, lines);
  for (i = 0; i < 10; i++) {
    static const int stored[5] = {0, 3, 2, 4, 1};
    memcpy(want + 3 * i, colour[lines[2 * stored[i / 2]] - '0'], 3);
  }
  check(holds(c, &m, 3, 2, 5, 3, want), "GIF: interlaced");
  make_gif(&m, 1, 1, 1, 0, 1, 1, 0, -1, "3");
  memcpy(want, colour[0], 3);
  memcpy(want + 3, colour[3], 3);
  check(holds(c, &m, 3, 2, 1, 3, want), "GIF: a picture beside the screen");
  make_gif(&m, 4, 1, 0, 0, 4, 1, 0, -1, "3210");
  m.bytes[10] = 0;
  memmove(m.bytes + 13, m.bytes + 25, m.n - 25);
  m.n -= 12;
  for (i = 0; i < 12; i++) want[i] = (uint8_t)(3 - i / 3);
  check(holds(c, &m, 3, 4, 1, 3, want), "GIF: no palette, so numbers are greys");
  make_gif(&m, 4, 2, 0, 0, 4, 2, 0, -1, "0123012");
  check(refused(c, m.bytes, m.n, FVG_E_FORMAT, "lacks 1 of its 4 x 2 pixels"), "GIF: a pixel too few");
  make_gif(&m, 4, 2, 0, 0, 4, 2, 0, -1, "01237012");
  check(refused(c, m.bytes, m.n, FVG_E_FORMAT, "illegal code"), "GIF: a code that is not in use");
  make_gif(&m, 65000, 2000, 0, 0, 4, 2, 0, -1, "01230123");
  check(refused(c, m.bytes, m.n, FVG_E_FORMAT, "65000 x 2000"), "GIF: a screen out of proportion");
  make_gif(&m, 4, 2, 0, 0, 4, 2, 0, 1, "01230123");
  m.bytes[m.n - 1] = ';';
  m.n -= 6;                                                        /* within the last block of codes                */
  check(refused(c, m.bytes, m.n, FVG_E_FORMAT, "truncated"), "GIF: cut off within the codes");
  m.n = 25;
  check(refused_short(c, &m), "GIF: cut off within the header");
  m.bytes[25] = ';';
  m.n = 26;
  check(refused(c, m.bytes, m.n, FVG_E_FORMAT, "no picture"), "GIF: no picture");
  make_gif(&m, 4, 2, 0, 0, 4, 2, 0, -1, "01230123");
  m.n--;                                                            /* the file's end mark is not missed            */
  check(refused_short(c, &m), "GIF: cut off anywhere");
}

/* ---- JPEG ---- */
static int jpeg_is(fvg_ctx *c, const jpeg_form *f, int red, int green, int blue) {
  uint8_t want[64 * 3];
  made m;
  int i;
  make_jpeg(&m, f);
  for (i = 0; i < 64; i++) {
    want[3 * i] = (uint8_t)red;
    want[3 * i + 1] = (uint8_t)green;
    want[3 * i + 2] = (uint8_t)blue;
  }
  return holds(c, &m, 3, 8, 8, 3, want);
}

static int jpeg_refused(fvg_ctx *c, const jpeg_form *f, fvg_status status, const char *text) {
  made m;
  make_jpeg(&m, f);
  return refused(c, m.bytes, m.n, status, text);
}

static void test_jpeg_colours(fvg_ctx *c) {
  const jpeg_form three = {3, 1, "+-+", NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL};
  const jpeg_form four = {4, 1, "+-++", NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL};
  jpeg_form f;
  check(jpeg_is(c, &four, 157, 44, 157), "JPEG: four components without a marker are CMYK");
  f = four; f.adobe = 1;
  check(jpeg_is(c, &f, 157, 44, 157), "JPEG: Adobe's CMYK");
  f.adobe = 2;
  check(jpeg_is(c, &f, 0, 64, 144), "JPEG: transform 1 of four components is YCCK");
  f.adobe = 3;
  check(jpeg_is(c, &f, 0, 64, 144), "JPEG: Adobe's YCCK");
  check(jpeg_is(c, &three, 255, 173, 72), "JPEG: three components are YCbCr");
  f = three; f.adobe = 1;
  check(jpeg_is(c, &f, 200, 56, 200), "JPEG: Adobe's RGB");
  f.jfif = 1;
  check(jpeg_is(c, &f, 255, 173, 72), "JPEG: JFIF goes before Adobe");
  f = three; f.names = "RGB";
  check(jpeg_is(c, &f, 200, 56, 200), "JPEG: components called R, G, B");
  f.jfif = 1;
  check(jpeg_refused(c, &f, FVG_E_UNSUPPORTED, "JFIF"), "JPEG: R, G, B and JFIF");
}

static void test_jpeg_refusals(fvg_ctx *c) {
  static const struct { int marker; const char *name; } frame[] = {{0xC3, "lossless"}, {0xC5, "hierarchical"},
    {0xC9, "arithmetic"}, {0xCA, "arithmetic"}, {0xCB, "arithmetic"}, {0xF7, "JPEG-LS"}};
  const jpeg_form grey = {1, 4, "-", NULL, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, NULL};
  jpeg_form f = grey;
  fvg_image a;
  size_t i;
  made m;
  make_jpeg(&m, &f);
  check(!decode(c, &a, m.bytes, m.n, 0) && a.width == 32 && a.pixels[0] == 56 && a.pixels[255] == 56, "JPEG: restart markers");
  fvg_image_free(c, &a);
  check(refused_short(c, &m), "JPEG: cut off anywhere");
  put_bytes(&m, "garbage", 7);
  check(!decode(c, &a, m.bytes, m.n, 0) && a.pixels[255] == 56, "JPEG: bytes behind the end");
  fvg_image_free(c, &a);
  for (i = 0; i < sizeof frame / sizeof *frame; i++) {
    f = grey;
    f.marker = frame[i].marker;
    check(jpeg_refused(c, &f, FVG_E_UNSUPPORTED, frame[i].name), frame[i].name);
  }
  f = grey; f.extra = 9;
  check(jpeg_refused(c, &f, FVG_E_FORMAT, "before a restart marker"), "JPEG: bytes before a restart marker");
  f = grey; f.lost = 1;
  check(jpeg_refused(c, &f, FVG_E_FORMAT, "RST1"), "JPEG: a restart marker lost");
  f = grey; f.width = 40;
  check(jpeg_refused(c, &f, FVG_E_FORMAT, "3 restart markers in place of 4"), "JPEG: too few restart markers");
  f = grey; f.bits = 12;
  check(jpeg_refused(c, &f, FVG_E_UNSUPPORTED, "12-bit"), "JPEG: 12 bits");
  f = grey; f.no_huffman = 1;
  check(jpeg_refused(c, &f, FVG_E_UNSUPPORTED, "Huffman tables"), "JPEG: no Huffman tables");
  f = grey; f.no_quantisation = 1;
  check(jpeg_refused(c, &f, FVG_E_FORMAT, "quantisation table 0"), "JPEG: no quantisation table");
  f = grey; f.n_part = 2; f.level = "--";
  check(jpeg_refused(c, &f, FVG_E_UNSUPPORTED, "2 components"), "JPEG: two components");

  /* A scan of the first component alone, in the place of one of all three. */
  f = grey; f.n_part = 3; f.level = "+-+"; f.interval = 0; f.n_unit = 1;
  make_jpeg(&m, &f);
  for (i = 0; m.bytes[i] != 0xFF || m.bytes[i + 1] != 0xDA; i++) {}
  m.bytes[i + 3] = 8;
  m.bytes[i + 4] = 1;
  memmove(m.bytes + i + 7, m.bytes + i + 11, m.n - i - 11);
  m.n -= 4;
  check(refused(c, m.bytes, m.n, FVG_E_FORMAT, "component of the colours has no scan"), "JPEG: colours without a scan");
}

/* ---- a program that has pictures read upside down, for itself ---- */
static void test_flip(fvg_ctx *c) {
  static uint8_t pixels[6] = {10, 20, 30, 200, 210, 220};
  fvg_image x, a;
  uint8_t *png = NULL;
  size_t n = 0;
  int flip;
  memset(&x, 0, sizeof x);
  x.width = 1;
  x.height = 2;
  x.channels = 3;
  x.pixels = pixels;
  check(!fvg_image_encode_png(c, &png, &n, &x), "a picture of two rows");
  for (flip = 0; png && flip < 2; flip++) {
    stbi_set_flip_vertically_on_load(flip);
    check(!decode(c, &a, png, n, 3) && !memcmp(a.pixels, pixels, sizeof pixels), "the first row is the upper one");
    fvg_image_free(c, &a);
  }
  stbi_set_flip_vertically_on_load(0);
  fvg_bytes_free(c, png);
}

/* ---- EXIF ---- */
static int orientation_of(fvg_ctx *c, const made *m) {
  fvg_image a;
  int orientation = decode(c, &a, m->bytes, m->n, 3) ? -1 : a.orientation;
  fvg_image_free(c, &a);
  return orientation;
}

static void png_with(made *m, const made *exif, int behind) {
  png_begin(m, 2, 1, 8, 0, 0);
  if (!behind) png_chunk(m, "eXIf", exif->bytes, exif->n);
  png_end(m, "\0ab", 3, 0);
  if (behind) { m->n -= 12; png_chunk(m, "eXIf", exif->bytes, exif->n); png_chunk(m, "IEND", "", 0); }
}

static void test_exif(fvg_ctx *c) {
  made e, m;
  size_t n;
  int big, o, bad = 0;
  for (big = 0; big < 2; big++)
    for (o = 0; o <= 9; o++) {
      make_exif(&e, big, o, o % 2 ? 3 : 4);
      png_with(&m, &e, o % 3 == 0);
      bad += orientation_of(c, &m) != (o < 9 ? o : 0);
      {
        jpeg_form f = {1, 1, "-", NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL};
        f.exif = &e;
        f.jfif = big;
        make_jpeg(&m, &f);
        bad += orientation_of(c, &m) != (o < 9 ? o : 0);
      }
    }
  check(!bad, "EXIF: the orientation in both byte orders");
  make_exif(&e, 1, 6, 3);
  for (n = 0; n < e.n; n++) {                                      /* cut off, or with a list that is elsewhere     */
    made part = e;
    part.n = n;
    png_with(&m, &part, 0);
    bad += orientation_of(c, &m) != 0 && n < 48;
    part = e;
    memset(part.bytes + 4, (int)n, 4);
    png_with(&m, &part, 0);
    bad += orientation_of(c, &m) < 0;
  }
  check(!bad, "EXIF: damaged data tell nothing");
}

/* ---- every allocation fails once ---- */
static int left;
static void *fragile_alloc(void *user, size_t bytes) { (void)user; return left-- > 0 ? malloc(bytes) : NULL; }
static void fragile_release(void *user, void *block, size_t bytes) { (void)user; (void)bytes; free(block); }

static void test_no_memory(void) {
  static const uint8_t palette[16] = {1, 2, 3, 0, 4, 5, 6};
  made m[4];
  fvg_desc desc;
  fvg_ctx *c;
  fvg_image a;
  int k, n, bad = 0, tries = 0;
  fvg_status s;
  png_begin(&m[0], 2, 2, 8, 6, 0);
  png_end(&m[0], "\0abcdefgh\0ijklmnop", 18, 0);
  make_bmp(&m[1], 40, 2, 2, 8, 0, NULL, palette, 16, "\2\1\0\1\0\0\0\0", 8);
  make_gif(&m[2], 4, 2, 0, 0, 4, 2, 0, 1, "01230123");
  {
    jpeg_form f = {4, 1, "+-++", NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL};
    make_jpeg(&m[3], &f);
  }
  memset(&desc, 0, sizeof desc);
  desc.allocator.alloc = fragile_alloc;
  desc.allocator.release = fragile_release;
  for (k = 0; k < 4; k++)
    for (s = FVG_E_NOMEM, n = 1; s == FVG_E_NOMEM && n < 100; n++) {
      left = n;
      if (fvg_init(&c, &desc)) continue;
      s = decode(c, &a, m[k].bytes, m[k].n, 1);
      if (!s) s = fvg_image_turn(c, &a, 6);
      fvg_image_free(c, &a);
      bad += (s && s != FVG_E_NOMEM) || fvg_mem_used(c);
      tries++;
      fvg_free(c);
    }
  check(!bad && tries > 20, "no memory: every allocation may fail, nothing stays");
}
#endif

static void test_turn(fvg_ctx *c) {
  /* 1 2 3 / 4 5 6 as ImageOps.exif_transpose turns it */
  static const struct { int width; const char *pixels; } want[9] = {{3, "123456"}, {3, "123456"}, {3, "321654"},
    {3, "654321"}, {3, "456123"}, {2, "142536"}, {2, "415263"}, {2, "635241"}, {2, "362514"}};
  fvg_image a;
  int o, bad = 0;
  for (o = 0; o <= 8; o++) {
    check(!decode(c, &a, "P5 3 2 255\n123456", 17, 0), "six pixels");
    bad += fvg_image_turn(c, &a, o) != FVG_OK || a.width != want[o].width || memcmp(a.pixels, want[o].pixels, 6)
           || a.orientation != 1;
    fvg_image_free(c, &a);
  }
  check(!bad, "turn: all eight orientations");
  check(!decode(c, &a, "P6 1 2 255\nabcdef", 17, 0) && !fvg_image_turn(c, &a, 6) && a.width == 2
        && !memcmp(a.pixels, "defabc", 6), "turn: RGB");
  check(fvg_image_turn(c, &a, 9) == FVG_E_ARG && strstr(fvg_error(c), "9") && a.width == 2, "turn: no such orientation");
  fvg_image_free(c, &a);
}

/* ---- what helpers have to say ---- */
static void test_log_once(fvg_ctx *c) {
  fvg_ctx helper[3];
  int i;
  c->said = 0;
  logged = 0;
  for (i = 0; i < 3; i++) {
    helper[i] = fvg__helper_context(c);
    fvg__log_once(&helper[i], i < 2 ? 1u : 2u, 1, "picture %d", i);
  }
  check(!logged, "a helper says nothing itself");
  for (i = 0; i < 3; i++) fvg__helper_done(c, &helper[i]);
  check(logged == 2 && !strcmp(last_log, "picture 2") && c->said == 3, "each thing is said once, by the first in turn");
  fvg__log_once(c, 2, 1, "picture 3");
  check(logged == 2, "and not again");
}

int main(void) {
  fvg_desc desc;
  fvg_ctx *c;
  memset(&desc, 0, sizeof desc);
  desc.log = keep_log;
  if (fvg_init(&c, &desc)) return 1;
  test_kinds(c);
#ifndef FVGPT_STB_IMAGE
  test_without_stb(c);
#else
  test_png(c);
  test_filters_across(c);
  test_interlaced(c);
  test_png_damage(c);
  test_bmp(c);
  test_gif(c);
  test_jpeg_colours(c);
  test_jpeg_refusals(c);
  test_flip(c);
  test_exif(c);
  test_no_memory();
#endif
  test_turn(c);
  test_log_once(c);
  check(fvg_mem_used(c) == 0, "no memory stays");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
