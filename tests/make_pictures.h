/* Small PNG, BMP, GIF and JPEG files of every form, byte by byte, for test_formats.c and fuzz_images.c. */

typedef struct made { uint8_t bytes[4096]; size_t n; } made;

static void put_bytes(made *m, const void *bytes, size_t n) {
  if (n > sizeof m->bytes - m->n) exit(1);
  if (n) memcpy(m->bytes + m->n, bytes, n);
  m->n += n;
}

static void put_big(made *m, uint32_t value, int n) {
  while (n--) {
    uint8_t byte = (uint8_t)(value >> (8 * n));
    put_bytes(m, &byte, 1);
  }
}

static void put_little(made *m, uint32_t value, int n) {
  for (; n; n--, value >>= 8) put_big(m, value & 255, 1);
}

/* ---- PNG ---- */
static uint32_t plain_crc(const uint8_t *bytes, size_t n) {                   /* bit by bit, by the definition     */
  uint32_t crc = 0xFFFFFFFFu;
  int k;
  for (; n; n--)
    for (crc ^= *bytes++, k = 0; k < 8; k++) crc = crc & 1 ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
  return crc ^ 0xFFFFFFFFu;
}

static void png_chunk(made *m, const char *type, const void *data, size_t n) {
  size_t at;
  put_big(m, (uint32_t)n, 4);
  at = m->n;
  put_bytes(m, type, 4);
  put_bytes(m, data, n);
  put_big(m, plain_crc(m->bytes + at, n + 4), 4);
}

static void png_begin(made *m, int width, int height, int depth, int colour, int interlaced) {
  made head;
  m->n = head.n = 0;
  put_bytes(m, "\x89PNG\r\n\x1A\n", 8);
  put_big(&head, (uint32_t)width, 4);
  put_big(&head, (uint32_t)height, 4);
  put_big(&head, (uint32_t)depth, 1);
  put_big(&head, (uint32_t)colour, 1);
  put_big(&head, 0, 2);
  put_big(&head, (uint32_t)interlaced, 1);
  png_chunk(m, "IHDR", head.bytes, head.n);
}

/* The rows, filters included, as one stored block; adler: what is added to the right checksum. */
static void png_end(made *m, const void *rows, size_t n, uint32_t adler) {
  const uint8_t *byte = (const uint8_t *)rows;
  uint32_t a = 1, b = 0;
  made z;
  size_t i;
  z.n = 0;
  put_bytes(&z, "\x78\x01\x01", 3);
  put_little(&z, (uint32_t)n, 2);
  put_little(&z, (uint32_t)n ^ 0xFFFF, 2);
  put_bytes(&z, rows, n);
  for (i = 0; i < n; i++) {
    a = (a + byte[i]) % 65521;
    b = (b + a) % 65521;
  }
  put_big(&z, (b << 16 | a) + adler, 4);
  png_chunk(m, "IDAT", z.bytes, z.n / 2);                                     /* in two chunks                     */
  png_chunk(m, "IDAT", z.bytes + z.n / 2, z.n - z.n / 2);
  png_chunk(m, "IEND", "", 0);
}

/* EXIF data with an orientation behind two other fields; type 3: 16 bits, 4: 32. */
static void make_exif(made *m, int big, int orientation, int type) {
  void (*put)(made *, uint32_t, int) = big ? put_big : put_little;
  m->n = 0;
  put_bytes(m, big ? "MM" : "II", 2);
  put(m, 42, 2);
  put(m, 10, 4);
  put_bytes(m, "??", 2);
  put(m, 3, 2);
  put(m, 0x010F, 2); put(m, 2, 2); put(m, 4, 4); put_bytes(m, "cam", 4);
  put(m, 0x0111, 2); put(m, 3, 2); put(m, 1, 4); put(m, 5, 2); put(m, 0, 2);
  put(m, 0x0112, 2); put(m, (uint32_t)type, 2); put(m, 1, 4);
  if (type == 3) { put(m, (uint32_t)orientation, 2); put(m, 0, 2); } else put(m, (uint32_t)orientation, 4);
  put(m, 0, 4);
}

/* ---- BMP ---- */
static void make_bmp(made *m, int header, int width, int height, int bits, int compression, const uint32_t *mask,
                     const void *palette, size_t n_palette, const void *data, size_t n) {
  size_t start = 14 + (size_t)header, i, masks = mask && header == 40 ? 12 : 0;
  m->n = 0;
  put_bytes(m, "BM", 2);
  put_little(m, (uint32_t)(start + masks + n_palette + n), 4);
  put_little(m, 0, 4);
  put_little(m, (uint32_t)(start + masks + n_palette), 4);
  put_little(m, (uint32_t)header, 4);
  put_little(m, (uint32_t)width, header == 12 ? 2 : 4);
  put_little(m, (uint32_t)height, header == 12 ? 2 : 4);
  put_little(m, 1, 2);
  put_little(m, (uint32_t)bits, 2);
  if (header > 12) put_little(m, (uint32_t)compression, 4);
  while (m->n < 54 && header > 12) put_little(m, 0, 1);
  for (i = 0; mask && i < (header == 40 ? 3u : 4u); i++) put_little(m, mask[i], 4);
  while (m->n < start) put_little(m, 0, 1);
  put_bytes(m, palette, n_palette);
  put_bytes(m, data, n);
}

/* ---- GIF ---- */
static void put_code(made *m, uint32_t code, int n, uint32_t *bits, int *n_bits) {
  *bits |= code << *n_bits;
  for (*n_bits += n; *n_bits >= 8; *n_bits -= 8, *bits >>= 8) put_little(m, *bits & 255, 1);
}

/* Four colours; a picture of columns x rows at left, top on a screen.  LZW without copies: a clear code before every
   second number keeps all codes at three bits. */
static void make_gif(made *m, int width, int height, int left, int top, int columns, int rows, int interlaced,
                     int transparent, const char *numbers) {
  static const uint8_t palette[12] = {10, 20, 30, 255, 0, 0, 0, 255, 0, 0, 0, 255};
  uint32_t bits = 0;
  int n_bits = 0, i;
  made codes;
  m->n = codes.n = 0;
  put_bytes(m, "GIF89a", 6);
  put_little(m, (uint32_t)width, 2);
  put_little(m, (uint32_t)height, 2);
  put_bytes(m, "\x81\3\0", 3);                                                /* four colours, the ground is no. 3 */
  put_bytes(m, palette, 12);
  if (transparent >= 0) {
    put_bytes(m, "\x21\xF9\4\1\0\0", 6);
    put_little(m, (uint32_t)transparent, 1);
    put_bytes(m, "\0\x21\xFE\2hi\0", 7);
  }
  put_bytes(m, ",", 1);
  put_little(m, (uint32_t)left, 2);
  put_little(m, (uint32_t)top, 2);
  put_little(m, (uint32_t)columns, 2);
  put_little(m, (uint32_t)rows, 2);
  put_little(m, interlaced ? 64 : 0, 1);
  put_little(m, 2, 1);
  for (i = 0; numbers[i]; i++) {
    if (i % 2 == 0) put_code(&codes, 4, 3, &bits, &n_bits);
    put_code(&codes, (uint32_t)(numbers[i] - '0'), 3, &bits, &n_bits);
  }
  put_code(&codes, 5, 3, &bits, &n_bits);
  put_code(&codes, 0, 7, &bits, &n_bits);
  put_little(m, (uint32_t)(codes.n / 2), 1);                                  /* in two blocks                     */
  put_bytes(m, codes.bytes, codes.n / 2);
  put_little(m, (uint32_t)(codes.n - codes.n / 2), 1);
  put_bytes(m, codes.bytes + codes.n / 2, codes.n - codes.n / 2);
  put_bytes(m, "\0;", 2);
}

/* ---- JPEG ---- */
typedef struct jpeg_form {
  int n_part, n_unit;                      /* components; 8 x 8 blocks side by side                                */
  const char *level;                       /* of each component: '+' 200, '-' 56                                   */
  const char *names;                       /* of the components; NULL: 1, 2, 3, 4                                  */
  int jfif, adobe;                         /* JFIF segment; 1 + Adobe's transform, 0: no segment                   */
  int interval, extra, lost;               /* restart interval; bytes too many before RST0; 1: RST0 is left out    */
  int marker, bits, width;                 /* of the frame; 0: SOF0, 8 bits, 8 n_unit                              */
  int no_huffman, no_quantisation;
  const made *exif;
} jpeg_form;

static void jpeg_segment(made *m, int marker, const made *data) {
  put_big(m, 0xFF00u + (uint32_t)marker, 2);
  put_big(m, (uint32_t)data->n + 2, 2);
  put_bytes(m, data->bytes, data->n);
}

static void put_stuffed(made *m, uint32_t value, int n, uint32_t *bits, int *n_bits) {
  *bits = *bits << n | value;
  for (*n_bits += n; *n_bits >= 8; *n_bits -= 8) {
    uint32_t byte = *bits >> (*n_bits - 8) & 255;
    put_big(m, byte, 1);
    if (byte == 255) put_big(m, 0, 1);
  }
}

static void jpeg_header(made *m, const jpeg_form *f) {
  made d;
  int i;
  d.n = 0;
  put_big(m, 0xFFD8, 2);
  if (f->jfif) { put_bytes(&d, "JFIF\0\1\1\0\0\1\0\1\0\0", 14); jpeg_segment(m, 0xE0, &d); }
  d.n = 0;
  if (f->exif) { put_bytes(&d, "Exif\0\0", 6); put_bytes(&d, f->exif->bytes, f->exif->n); jpeg_segment(m, 0xE1, &d); }
  d.n = 0;
  if (f->adobe) {
    put_bytes(&d, "Adobe\0\x64\0\0\0\0", 11);
    put_big(&d, (uint32_t)f->adobe - 1, 1);
    jpeg_segment(m, 0xEE, &d);
  }
  d.n = 0;
  put_big(&d, 0, 1);
  for (i = 0; i < 64; i++) put_big(&d, 3, 1);
  if (!f->no_quantisation) jpeg_segment(m, 0xDB, &d);
  d.n = 0;
  put_big(&d, (uint32_t)(f->bits ? f->bits : 8), 1);
  put_big(&d, 8, 2);
  put_big(&d, (uint32_t)(f->width ? f->width : 8 * f->n_unit), 2);
  put_big(&d, (uint32_t)f->n_part, 1);
  for (i = 0; i < f->n_part; i++) { put_big(&d, f->names ? (uint32_t)f->names[i] : (uint32_t)i + 1, 1); put_big(&d, 0x1100, 2); }
  jpeg_segment(m, f->marker ? f->marker : 0xC0, &d);
  d.n = 0;                                   /* DC: code 0 for a difference of 0, 10 for one of 8 bits; AC: 0, the end */
  put_bytes(&d, "\0\1\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\10", 19);
  put_bytes(&d, "\20\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 18);
  if (!f->no_huffman) jpeg_segment(m, 0xC4, &d);
  d.n = 0;
  put_big(&d, (uint32_t)f->interval, 2);
  if (f->interval) jpeg_segment(m, 0xDD, &d);
}

static void make_jpeg(made *m, const jpeg_form *f) {
  uint32_t bits = 0;
  int n_bits = 0, i, unit;
  made d;
  m->n = 0;
  jpeg_header(m, f);
  d.n = 0;
  put_big(&d, (uint32_t)f->n_part, 1);
  for (i = 0; i < f->n_part; i++) { put_big(&d, f->names ? (uint32_t)f->names[i] : (uint32_t)i + 1, 1); put_big(&d, 0, 1); }
  put_big(&d, 0x003F00, 3);
  jpeg_segment(m, 0xDA, &d);
  for (unit = 0; unit < f->n_unit; unit++) {
    int fresh = !unit || (f->interval && unit % f->interval == 0);
    if (fresh && unit) {
      if (n_bits) put_stuffed(m, (1u << (8 - n_bits)) - 1, 8 - n_bits, &bits, &n_bits);
      for (i = 0; unit == f->interval && i < f->extra; i++) put_big(m, 0x55, 1);
      if (!f->lost || unit > f->interval) put_big(m, 0xFFD0u + (uint32_t)(unit / f->interval - 1) % 8, 2);
    }
    for (i = 0; i < f->n_part; i++) {        /* 192 or -192, times 3, over 8: 72 or -72 */
      if (fresh) put_stuffed(m, 2, 2, &bits, &n_bits);
      if (fresh) put_stuffed(m, f->level[i] == '+' ? 192 : 63, 8, &bits, &n_bits);
      put_stuffed(m, 0, fresh ? 1 : 2, &bits, &n_bits);
    }
  }
  if (n_bits) put_stuffed(m, (1u << (8 - n_bits)) - 1, 8 - n_bits, &bits, &n_bits);
  put_big(m, 0xFFD9, 2);
}
