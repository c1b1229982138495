/* Chapters 2 and 3 of fvgpt.h: number formats, sources, JSON, safetensors, saving. Leaves no file behind. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

static fvg_ctx *c;
static int says(const char *words) { return strstr(fvg_error(c), words) != NULL; }

/* ---- number formats ---- */
static float bits_float(uint32_t u) { float x; memcpy(&x, &u, sizeof x); return x; }

static void test_half(void) {
  uint32_t h;
  int round_trip = 1, ties = 1, brain = 1;
  for (h = 0; h < 65536; h++) {
    uint16_t x = (uint16_t)h;
    int nan = (h & 0x7FFF) > 0x7C00, bfloat_nan = (h & 0x7FFF) > 0x7F80;
    round_trip &= fvg_float_to_half(fvg_half_to_float(x)) == (nan ? (x | 0x200) : x);
    brain &= fvg_float_to_bfloat(fvg_bfloat_to_float(x)) == (bfloat_nan ? (x | 0x40) : x);
    if (h < 0x7BFF) {                               /* halfway to the next: to the even one; a bit less or more    */
      float low = fvg_half_to_float(x), high = fvg_half_to_float((uint16_t)(h + 1)), middle = low + (high - low) / 2;
      uint32_t u;
      memcpy(&u, &middle, sizeof u);
      ties &= fvg_float_to_half(middle) == h + (h & 1) && fvg_float_to_half(-middle) == (h + (h & 1)) + 0x8000;
      ties &= fvg_float_to_half(bits_float(u - 1)) == h && fvg_float_to_half(bits_float(u + 1)) == h + 1;
    }
  }
  check(round_trip, "65536 halves survive the way to float and back");
  check(brain, "65536 bfloats survive the way to float and back");
  check(ties, "float to half rounds to nearest, ties to even, subnormals included");
  check(fvg_half_to_float(0x3C00) == 1 && fvg_half_to_float(0xC000) == -2 && fvg_half_to_float(0x7BFF) == 65504 &&
        fvg_half_to_float(1) == 1.0f / 16777216, "half values known by heart");
  check(fvg_float_to_half(65519.99f) == 0x7BFF && fvg_float_to_half(65520) == 0x7C00 &&
        fvg_float_to_half(1e38f) == 0x7C00,
        "half overflow starts at 65520");
  check(fvg_float_to_bfloat(bits_float(0x3F808000)) == 0x3F80 &&
        fvg_float_to_bfloat(bits_float(0x3F818000)) == 0x3F82 &&
        fvg_float_to_bfloat(bits_float(0x3F808001)) == 0x3F81 &&
        fvg_float_to_bfloat(bits_float(0x7F7FFFFF)) == 0x7F80,
        "float to bfloat rounds to nearest even");
}

/* ---- JSON ---- */
static fvg_status json(fvg_json *j, const char *text) { return fvg_json_parse(c, j, text, strlen(text), "t.json"); }

static int json_fails(const char *text, const char *words) {
  fvg_json j;
  fvg_status s = json(&j, text);
  if (s == FVG_OK) fvg_json_free(c, &j);
  else if (j.value || j.strings || !says("t.json") || !says(words)) s = FVG_OK;
  if (s != FVG_E_FORMAT) printf("  %s -> %s\n", text, fvg_error(c));
  return s == FVG_E_FORMAT;
}

static double json_number(const char *text) {
  fvg_json j;
  double x = -777;
  if (json(&j, text) == FVG_OK) x = j.value[0].number;
  fvg_json_free(c, &j);
  return x;
}

/* On x87 a constant has more digits than a double, until it is an argument. */
static int reads_as(const char *text, double expected) { return json_number(text) == expected; }

static void test_json_values(void) {
  fvg_json j;
  const char *text = " {\"a\" : [1, -2.5e1 ,true,false,null,\"x\"], \"b\":{} ,"
                     "\"\\u00e9\\ud83d\\ude00\\n\\/\":\"q\xC3\xA9\"}\r\n\t";
  int a, i;
  check(json(&j, text) == FVG_OK && j.n == 10, "a JSON text with everything in it");
  a = fvg_json_find(&j, 0, "a");
  check(a > 0 && j.value[a].type == FVG_JSON_ARRAY && j.value[a].n_child == 6, "array of six");
  if (a > 0) {
    const double expect[] = {1, -25, 1, 0, 0, 0};
    int ok = 1, n = 0, k;
    for (k = j.value[a].first; k >= 0; k = j.value[k].next) ok &= n < 6 && j.value[k].number == expect[n++];
    check(ok && n == 6, "its members in order");
  }
  i = fvg_json_find(&j, 0, "\xC3\xA9\xF0\x9F\x98\x80\n/");
  check(i > 0 && strcmp(j.value[i].string, "q\xC3\xA9") == 0, "escapes and surrogates become UTF-8");
  check(fvg_json_find(&j, 0, "zz") == -1 && fvg_json_find(&j, a, "a") == -1 && fvg_json_find(&j, -1, "a") == -1,
        "find says -1 for what is not there");
  fvg_json_free(c, &j);
  check(reads_as("0.1", 0.1) && reads_as("1e-5", 1e-5) && reads_as("-0", 0) && reads_as("2.6592", 2.6592) &&
        reads_as("9007199254740991", 9007199254740991.0) && reads_as("1E+22", 1e22) &&
        reads_as("123456789e-10", 123456789e-10),
        "numbers round exactly");
  check(reads_as("1e-99999999999999999999", 0) && reads_as("0e999999999", 0), "hopelessly small numbers are 0");
  check(fabs(json_number("0.12345678901234567890123") / 0.12345678901234567890123 - 1) < 1e-15 &&
        reads_as("1.7976931348623157e308", 1.7976931348623157e308) && reads_as("5e-324", 5e-324) &&
        reads_as("2e-324", 0) && reads_as("9007199254740993", 9007199254740992.0), "long, large and small numbers");
}

/* Numbers of up to 18 digits are read as strtod reads them, and 17 digits give a double back. */
static void test_read_numbers(void) {
  static const char *const none[] = {"", " 1", "1x", "1.", ".5", "+1", "e5", "-", "infinity", "nano", "0x10", "1,5"};
  fvg_rng r;
  fvg_rng_seed(&r, 5, 0);
  int back = 1, near = 1, refused = 1;
  for (int i = 0; i < 2000; i++) {
    uint64_t bits = fvg_rng_next(&r);
    double x, y = 0;
    if ((bits >> 52 & 0x7FF) == 0x7FF) bits ^= (uint64_t)1 << 60;
    memcpy(&x, &bits, sizeof x);
    char text[64];
    sprintf(text, "%.17g", x);
    back &= fvg__read_number(text, &y) && memcmp(&x, &y, sizeof x) == 0;

    sprintf(text, "%.0f.%06de%d", fvg_rng_uniform(&r) * 1e11, (int)(fvg_rng_uniform(&r) * 1e6),
            (int)(fvg_rng_uniform(&r) * 660) - 345);
    x = strtod(text, NULL);
    if (x <= DBL_MAX) near &= fvg__read_number(text, &y) && memcmp(&x, &y, sizeof x) == 0;
  }
  check(back, "17 digits come back as the double that they were");
  check(near, "18 digits are the nearest double");

  double x = 0;
  for (size_t i = 0; i < sizeof none / sizeof *none; i++) refused &= !fvg__read_number(none[i], &x) && x == 0;
  check(refused, "what is no number is not read");
  check(fvg__read_number("-inf 3", &x) && x == -HUGE_VAL && fvg__read_number("nan", &x) && x != x &&
        fvg__read_number("2.5 7", &x) && x == 2.5, "infinities, NaN, and the first of several");
}

static void test_json_errors(void) {
  static const char *bad[][2] = {
    {"", "byte 0"}, {"  ", "byte 2"}, {"[1,2", "byte 4"}, {"[1,]", "byte 3"}, {"[1 2]", "byte 3"}, {"{\"a\"}",
    "byte 4"},
    {"{\"a\":1,}", "byte 7"}, {"{a:1}", "byte 1"}, {"[1]x", "byte 3"}, {"nul", "byte 0"}, {"NaN", "byte 0"},
    {"01", "byte 1"}, {"1.", "byte 2"}, {".5", "byte 0"}, {"+1", "byte 0"}, {"-", "byte 1"}, {"1e", "byte 2"},
    {"1e+", "byte 3"}, {"1e999", "too large"}, {"\"abc", "closing quote"}, {"\"\\x\"", "escape"}, {"\"\\u12g4\"",
    "escape"},
    {"\"\\u0000\"", "u0000"}, {"\"\\ud800\"", "surrogate"}, {"\"\\ud800\\u0041\"", "surrogate"}, {"\"\\udc00\"",
    "surrogate"}, {"\"\\ud800\\ue000\"", "surrogate"}, {"\"\\ud800\\udbff\"", "surrogate"},
    {"\"\n\"", "control"}, {"\"\\", "escape"}, {"\"\xFF\"", "UTF-8"}, {"\"\xC0\x80\"", "UTF-8"}, {"\"\xED\xA0\x80\"",
    "UTF-8"},
    {"\"\xE2\x82", "UTF-8"}, {"\xEF\xBB\xBF{}", "byte 0"}, {"]", "byte 0"}, {"[1}", "byte 2"}, {"'a'", "byte 0"}};
  char deep[140];
  fvg_json j;
  size_t i, ok = 0, n = sizeof bad / sizeof *bad;
  for (i = 0; i < n; i++) ok += (size_t)json_fails(bad[i][0], bad[i][1]);
  check(ok == n && n == 38, "38 wrong JSON texts are refused, file and place named");
  check(fvg_json_parse(c, &j, "1\0", 2, "t.json") == FVG_E_FORMAT && says("byte 1"), "a zero byte after the value");
  memset(deep, '[', 70);
  memset(deep + 70, ']', 70);
  check(fvg_json_parse(c, &j, deep, 140, "t.json") == FVG_E_FORMAT && says("deep"), "70 levels are too deep");
  check(fvg_json_parse(c, &j, deep + 5, 130, "t.json") == FVG_E_FORMAT && says("deep"),
        "65 levels are too deep");
  check(fvg_json_parse(c, &j, deep + 6, 128, "t.json") == FVG_OK && j.n == 64, "64 levels are allowed");
  fvg_json_free(c, &j);
}

/* A list as large as the split file of ImageNet, 40 MB: must take no more than a moment. */
static void test_json_large(void) {
  const char *item = "[\"n01440764/n01440764_10026.JPEG\", 17, \"tench\"],";
  size_t n = 40000000 / strlen(item), length = strlen(item), i;
  char *text = (char *)malloc(n * length + 1);
  fvg_json j;
  if (!text) { printf("skipped: no memory for a large JSON text\n"); return; }
  for (i = 0; i < n; i++) memcpy(text + 1 + i * length, item, length);
  text[0] = '[';
  text[n * length] = ']';
  check(fvg_json_parse(c, &j, text, n * length + 1, "t.json") == FVG_OK && j.value[0].n_child == (int)n,
        "40 MB of JSON");
  fvg_json_free(c, &j);
  memset(text, '[', n * length);
  check(fvg_json_parse(c, &j, text, n * length, "t.json") == FVG_E_FORMAT, "40 MB of opening brackets");
  free(text);
}

/* ---- safetensors in memory ---- */
typedef struct bytes { uint8_t data[8192]; size_t n; int fail_at; } bytes;

static int append(void *user, const void *data, size_t n) {
  bytes *b = (bytes *)user;
  if (b->fail_at && --b->fail_at == 0) return 1;
  if (n > sizeof b->data - b->n) return 1;
  memcpy(b->data + b->n, data, n);
  b->n += n;
  return 0;
}

/* A file made by hand: header text and n data bytes, value `fill`. */
static bytes file_of(const char *header, size_t n, int fill) {
  bytes b;
  size_t length = strlen(header);
  int i;
  memset(&b, 0, sizeof b);
  for (i = 0; i < 8; i++) b.data[i] = (uint8_t)((uint64_t)length >> 8 * i & 255);
  memcpy(b.data + 8, header, length);
  memset(b.data + 8 + length, fill, n);
  b.n = 8 + length + n;
  return b;
}

static fvg_status open_bytes(fvg_weights **w, const void *data, size_t n) {
  fvg_source s = fvg_source_memory(data, n, "m.safetensors");
  return fvg_weights_open(c, w, &s);
}

static int refused(const char *header, size_t n, const char *words) {
  bytes b = file_of(header, n, 0);
  fvg_weights *w = NULL;
  fvg_status s = open_bytes(&w, b.data, b.n);
  int ok = s != FVG_OK && w == NULL && says("m.safetensors") && says(words);
  if (!ok) printf("  %s -> %d %s\n", header, (int)s, fvg_error(c));
  fvg_weights_close(w);
  return ok;
}

static fvg_named_tensor named(const char *name, fvg_dtype type, void *data, int n_dim, int a, int b) {
  fvg_named_tensor t;
  memset(&t, 0, sizeof t);
  t.name = name;
  t.tensor.data = data;
  t.tensor.n_dim = n_dim;
  t.tensor.dim[0] = a;
  t.tensor.dim[1] = b;
  t.tensor.type = type;
  return t;
}

static float f32[6] = {0, -1.5f, 3e-39f, 65504, 1e30f, 0.1f};
static uint16_t f16[3] = {0x3C00, 0x0001, 0xFBFF}, bf16[3] = {0x3F80, 0x0001, 0xFF7F};
static int32_t i32[2] = {-2147483647 - 1, 2147483647};
static int64_t i64[2] = {-5, 1099511627776};
static uint8_t u8[5] = {0, 1, 2, 254, 255};

static fvg_status write_sample(bytes *b) {
  fvg_named_tensor t[8];
  fvg_metadata m[2];
  t[0] = named("text.\"weight\"\n", FVG_F32, f32, 2, 2, 3);
  t[1] = named("half", FVG_F16, f16, 1, 3, 0);
  t[2] = named("bfloat", FVG_BF16, bf16, 1, 3, 0);
  t[3] = named("u8", FVG_U8, u8, 2, 1, 5);
  t[4] = named("i32", FVG_I32, i32, 1, 2, 0);
  t[5] = named("i64", FVG_I64, i64, 1, 2, 0);
  t[6] = named("empty", FVG_F32, NULL, 2, 0, 7);
  t[7] = named("scalar", FVG_F32, f32 + 5, 0, 0, 0);
  m[0].key = "format"; m[0].value = "fvgpt \\ \"1\"";
  m[1].key = "caf\xC3\xA9"; m[1].value = "";
  return fvg_safetensors_write(c, append, b, t, 8, m, 2);
}

static int same(fvg_weights *w, const char *name, fvg_dtype as, const void *data, size_t n) {
  fvg_tensor x;
  int ok = fvg_weights_get(w, &x, name, as) == FVG_OK && x.type == as &&
  fvg_tensor_count(&x) * fvg_dtype_size(as) == n;
  ok = ok && memcmp(x.data, data, n) == 0;
  fvg_tensor_free(c, &x);
  return ok && x.data == NULL;
}

static void test_round_trip(void) {
  static bytes b, again;
  fvg_weights *w = NULL;
  fvg_tensor x;
  float half[3] = {1, 1.0f / 16777216, -65504}, back[3];
  int64_t wide[2] = {-2147483647 - 1, 2147483647};
  int32_t u8_wide[5] = {0, 1, 2, 254, 255};
  int i;
  check(write_sample(&b) == FVG_OK && write_sample(&again) == FVG_OK && b.n == again.n && !memcmp(b.data, again.data,
        b.n),
        "writing twice gives the same bytes");
  check(b.data[0] % 8 == 0 && memcmp(b.data + 8, "{\"__metadata__\":{\"format\":", 25) == 0,
        "data starts at a multiple of 8");
  check(open_bytes(&w, b.data, b.n) == FVG_OK && fvg_weights_count(w) == 8, "what was written can be opened");
  if (!w) return;
  check(!strcmp(fvg_weights_file(w), "m.safetensors") && !strcmp(fvg_weights_name(w, 1), "half") &&
        !strcmp(fvg_weights_name(w, 0), "text.\"weight\"\n") && !fvg_weights_name(w, 8),
        "names in the order of writing");
  check(same(w, "text.\"weight\"\n", FVG_F32, f32, 24) && same(w, "half", FVG_F16, f16, 6) && same(w, "u8", FVG_U8,
        u8, 5) &&
        same(w, "bfloat", FVG_BF16, bf16, 6) && same(w, "i32", FVG_I32, i32, 8) && same(w, "i64", FVG_I64, i64, 16) &&
        same(w, "empty", FVG_F32, "", 0) && same(w, "scalar", FVG_F32, f32 + 5, 4),
        "every dtype comes back bit for bit");
  for (i = 0; i < 3; i++) back[i] = fvg_bfloat_to_float(bf16[i]);
  check(same(w, "half", FVG_F32, half, 12) && same(w, "bfloat", FVG_F32, back, 12), "F16 and BF16 read as F32");
  check(same(w, "u8", FVG_I32, u8_wide, 20) && same(w, "i32", FVG_I64, wide, 16), "whole numbers widen");
  check(fvg_weights_get(w, &x, "i64", FVG_I32) == FVG_E_FORMAT && says("i64") && says("element 1") && !x.data,
        "an I64 too large for I32");
  check(fvg_weights_get(w, &x, "text.\"weight\"\n", FVG_F16) == FVG_E_NUMERIC && says("element 4") && !x.data,
        "an F32 too large for F16");
  check(fvg_weights_get(w, &x, "u8", FVG_F32) == FVG_E_UNSUPPORTED && says("U8") && says("F32"), "U8 is not F32");
  check(fvg_weights_get(w, &x, "i32", FVG_U8) == FVG_E_UNSUPPORTED, "I32 is not U8");
  check(fvg_weights_get(w, &x, "nobody", FVG_F32) == FVG_E_FORMAT && !strcmp(fvg_error(c),
        "m.safetensors: no tensor nobody") &&
        !x.data, "a tensor that is not there");
  check(fvg_weights_info(w, &x, "u8") == 1 && x.n_dim == 2 && x.dim[1] == 5 && x.type == FVG_U8 && !x.data &&
        fvg_weights_info(w, &x, "nobody") == 0 && fvg_weights_info(w, NULL, "u8") == 1, "info");
  check(!strcmp(fvg_weights_metadata(w, "format"), "fvgpt \\ \"1\"") && !strcmp(fvg_weights_metadata(w,
        "caf\xC3\xA9"), "") &&
        !fvg_weights_metadata(w, "other"), "metadata");
  fvg_weights_close(w);
}

/* More elements than one chunk holds, through the converting path. */
static void test_chunks(void) {
  const int n = 100003;
  uint8_t *file = (uint8_t *)malloc((size_t)n * 2 + 256);
  bytes b = file_of("{\"a\":{\"dtype\":\"F16\",\"shape\":[100003],\"data_offsets\":[0,200006]}}", 0, 0);
  fvg_weights *w = NULL;
  fvg_tensor x;
  int i, ok;
  if (!file) return;
  memcpy(file, b.data, b.n);
  for (i = 0; i < n; i++) {
    const uint16_t h = fvg_float_to_half((float)(i % 2048));
    file[b.n + 2 * (size_t)i] = (uint8_t)(h & 255);
    file[b.n + 2 * (size_t)i + 1] = (uint8_t)(h >> 8);
  }
  ok = open_bytes(&w, file, b.n + (size_t)n * 2) == FVG_OK && fvg_weights_get(w, &x, "a", FVG_F32) == FVG_OK;
  for (i = 0; ok && i < n; i++) ok = ((float *)x.data)[i] == (float)(i % 2048);
  check(ok, "a tensor longer than a chunk is converted");
  if (ok) fvg_tensor_free(c, &x);
  file[b.n + 2 * 70000 + 1] = 0x7C;
  check(w && fvg_weights_get(w, &x, "a", FVG_F32) == FVG_E_NUMERIC && says("m.safetensors") && says("tensor a") &&
        says("element 70000"), "infinity in the third chunk is found and named");
  check(w && fvg_weights_get(w, &x, "a", FVG_F16) == FVG_E_NUMERIC && says("element 70000"),
        "and without conversion as well");
  fvg_weights_close(w);
  free(file);
}

#define T(dtype, shape, offsets) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define A "{\"a\":"

typedef struct hostile { const char *header; size_t n; const char *words, *what; } hostile;

static void test_hostile(void) {
  static const hostile h[] = {
    {A T("F32", "[2]", "[0,4]") "}", 8, "shape [2] takes 8 bytes, data_offsets give 4", "shape and offsets differ"},
    {A T("F64", "[2]", "[0,8]") "}", 8, "takes 16 bytes", "sizes of other dtypes are checked"},
    {A T("F32", "[2]", "[0,8]") "}", 7, "[0, 8], but the file holds 7", "data beyond the end of the file"},
    {A T("F32", "[2]", "[8,0]") "}", 8, "[8, 0]", "offsets back to front"},
    {A T("F32", "[2]", "[0,9007199254740993]") "}", 8, "data_offsets", "an offset beyond 2^53"},
    {A T("F32", "[2]", "[-8,0]") "}", 8, "data_offsets", "a negative offset"},
    {A T("F32", "[2]", "[0.5,8.5]") "}", 9, "data_offsets", "broken offsets"},
    {A T("F32", "[2]", "[0,4,8]") "}", 8, "data_offsets", "three offsets"},
    {A T("F32", "[2]", "[0]") "}", 8, "data_offsets", "one offset"},
    {A T("F32", "[2]", "[0,\"8\"]") "}", 8, "data_offsets", "an offset in quotes"},
    {A T("U8", "[4]", "[0,4]") ",\"b\":" T("U8", "[4]", "[3,7]") "}", 8, "a and b overlap at byte", "overlap"},
    {A T("U8", "[2]", "[3,5]") ",\"b\":" T("U8", "[8]", "[0,8]") "}", 8, "overlap", "one tensor inside another"},
    {A T("U8", "[1]", "[0,1]") ",\"b\":" T("U8", "[1]", "[1,2]") ",\"a\":" T("U8", "[1]", "[2,3]") "}", 3,
     "tensor a appears twice", "a name given twice"},
    {A T("F32", "[2147483647,2147483647,2147483647]", "[0,4]") "}", 8, "too large", "a shape that overflows"},
    {A T("F32", "[65536,65536,65536,65536]", "[0,0]") "}", 8, "too large", "a shape that overflows to exactly 0"},
    {A T("U8", "[4294967300]", "[0,4]") "}", 8, "dimension 0", "a dimension beyond int"},
    {A T("U8", "[2,-2]", "[0,4]") "}", 8, "dimension 1", "a negative dimension"},
    {A T("U8", "[1.5]", "[0,4]") "}", 8, "dimension 0", "a broken dimension"},
    {A T("U8", "[1,1,1,1,1,1,1]", "[0,1]") "}", 1, "7 dimensions", "too many dimensions"},
    {A "{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "tensor a", "no data_offsets"},
    {A "{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "tensor a", "a dtype that is a number"},
    {A "7}", 1, "tensor a", "an entry that is a number"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__", "metadata that is no string"},
    {"{\"__metadata__\":[]}", 0, "__metadata__", "metadata that is a list"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "twice", "metadata given twice"},
    {"[]", 0, "object", "a header that is a list"},
    {"", 0, "byte 8", "a header of no bytes"},
    {"{} {", 0, "byte 11", "something after the header"}};
  size_t i;
  for (i = 0; i < sizeof h / sizeof *h; i++) check(refused(h[i].header, h[i].n, h[i].words), h[i].what);
}

/* Files that open, or nearly, and what is said when their tensors are asked for. */
static void test_other_dtypes_and_nan(void) {
  fvg_weights *w = NULL;
  fvg_tensor x;
  fvg_ctx *fresh;
  fvg_source s;
  bytes b = file_of(A T("F64", "[1]", "[0,8]") ",\"b\":" T("F4_NEW", "[3]", "[8,10]") ",\"c\":"
                    T("U8", "[1]", "[15,16]")
                    "}   ", 16, 0);
  check(open_bytes(&w, b.data, b.n) == FVG_OK && fvg_weights_info(w, &x, "a") == 2 &&
        fvg_weights_info(w, &x, "c") == 1 && fvg_weights_count(w) == 3, "other dtypes are kept");
  check(w && fvg_weights_get(w, &x, "a", FVG_F32) == FVG_E_UNSUPPORTED && says("m.safetensors") && says("F64") &&
        !x.data && fvg_weights_get(w, &x, "b", FVG_U8) == FVG_E_UNSUPPORTED && says("F4_NEW"),
        "and refused when asked for");
  fvg_weights_close(w);

  b = file_of(A T("F32", "[2]", "[0,8]") "}", 8, 0xFF);
  check(open_bytes(&w, b.data, b.n) == FVG_OK && fvg_weights_get(w, &x, "a", FVG_F32) == FVG_E_NUMERIC &&
        says("m.safetensors") && says("tensor a") && says("element 0") && !x.data, "NaN is refused");
  fvg_weights_close(w);

  b.data[7] = 0x7F;
  check(open_bytes(&w, b.data, b.n) == FVG_E_FORMAT && says("not a safetensors file"), "a header of 2^63 bytes");
  memcpy(b.data, "\x80\x4A\x5D\x05\0\0\0", 8);                     /* 90 000 000                                  */
  s = fvg_source_memory(b.data, b.n, "m");
  if (fvg_init(&fresh, NULL)) return;
  check(fvg_weights_open(fresh, &w, &s) == FVG_E_FORMAT && fvg_mem_peak(fresh) < 10000,
        "a header of 90 MB in a small file costs no memory");
  fvg_free(fresh);
}

/* Every cut of a good file, in a block of its own so that a sanitizer sees the first byte too far. */
/* A file of 200 MB whose header claims 150 of them is refused by the limit, before memory is
   allocated for it. */
static uint64_t bytes_asked;
static int read_claim(void *user, void *dst, uint64_t offset, size_t n) {
  static const uint8_t begin[9] = {0x80, 0xD1, 0xF0, 0x08, 0, 0, 0, 0, '{'};  /* 150 000 000 */
  uint8_t *to = (uint8_t *)dst;
  size_t i;
  (void)user;
  bytes_asked += n;
  for (i = 0; i < n; i++) to[i] = offset + i < sizeof begin ? begin[offset + i] : ' ';
  return 0;
}

static void test_header_limit(void) {
  fvg_weights *w = NULL;
  fvg_ctx *fresh;
  fvg_source s;
  memset(&s, 0, sizeof s);
  s.read = read_claim;
  s.size = 200000000;
  s.name = "m";
  if (fvg_init(&fresh, NULL)) { check(0, "a context"); return; }
  bytes_asked = 0;
  check(fvg_weights_open(fresh, &w, &s) == FVG_E_FORMAT && !w &&
        strstr(fvg_error(fresh), "header of 150000000 bytes in a file of 200000000"),
        "a header of 150 MB is refused");
  check(bytes_asked < 1000 && fvg_mem_peak(fresh) < 10000, "before it is read");
  fvg_weights_close(w);
  fvg_free(fresh);
}

static void test_truncated(void) {
  static bytes b;
  size_t cut, wrong = 0;
  if (!b.n) write_sample(&b);
  for (cut = 0; cut < b.n; cut++) {
    uint8_t *part = (uint8_t *)malloc(cut ? cut : 1);
    fvg_weights *w = NULL;
    if (!part) return;
    memcpy(part, b.data, cut);
    wrong += open_bytes(&w, part, cut) != FVG_E_FORMAT || w;
    fvg_weights_close(w);
    free(part);
  }
  check(wrong == 0, "a file cut at any byte is refused");
}

/* Many names in an order that is bad for simple sorting; and a small file must not cost much memory. */
static void test_many_names(void) {
  const int n = 20000;
  char *text = (char *)malloc((size_t)n * 80), name[32];
  fvg_weights *w = NULL;
  size_t at = 9, used = fvg_mem_used(c), length;
  int i, ok;
  if (!text) return;
  text[8] = '{';
  for (i = 0; i < n; i++)
    at += (size_t)sprintf(text + at, "%s\"block.%d\":" T("U8", "[0]", "[0,0]"), i ? "," : "", i < n / 2 ?
    n - i : i - n / 2);
  text[at++] = '}';
  length = at - 8;
  for (i = 0; i < 8; i++) text[i] = (char)((uint64_t)length >> 8 * i & 255);
  ok = open_bytes(&w, text, at) == FVG_OK;
  for (i = 0; ok && i <= n; i++) {
    sprintf(name, "block.%d", i);
    ok = fvg_weights_info(w, NULL, name) == (i < n / 2 || i > n / 2);
  }
  check(ok, "20000 names are all found");
  check(fvg_mem_used(c) - used < 20 * at, "memory in proportion to the header");
  fvg_weights_close(w);
  free(text);
}

static int no_read(void *user, void *dst, uint64_t offset,
size_t n) { (void)user; (void)dst; (void)offset; (void)n; return 1; }
static void count_close(void *user) { ++*(int *)user; }

static void test_sources(void) {
  fvg_source s = fvg_source_memory("abc", 3, NULL);
  fvg_weights *w;
  uint8_t *all = NULL;
  size_t n = 0;
  int closed = 0;
  check(fvg_source_read_all(c, &all, &n, &s) == FVG_OK && n == 3 && !memcmp(all, "abc", 4),
        "read_all appends a zero");
  fvg_bytes_free(c, all);
  s.read = no_read;
  s.close = count_close;
  s.user = &closed;
  s.size = 100;
  s.name = "broken";
  check(fvg_source_read_all(c, &all, &n, &s) == FVG_E_IO && says("broken") && !all && !n, "a read that fails");
  s.size = UINT64_MAX;
  check(fvg_source_read_all(c, &all, &n, &s) == FVG_E_NOMEM && says("broken") && !all,
        "a source as large as the world");
  check(fvg_weights_open(c, &w, &s) == FVG_E_IO && !w && closed == 1, "open closes the source when it fails");
  fvg_source_close(&s);
  fvg_source_close(&s);
  check(closed == 2, "closing twice closes once");
}

/* ---- NULL where something is needed: an argument error that says where, and what was handed over is closed ---- */
static int argument_error(fvg_status s, const char *words) { return s == FVG_E_ARG && says(words); }

static void test_null_arguments(void) {
  char text[] = "text";
  int closed = 0;
  fvg_source none;
  memset(&none, 0, sizeof none);
  fvg_source s = fvg_source_memory(text, 4, "four");
  s.close = count_close;
  s.user = &closed;
  fvg_weights *w = NULL, *part[1] = {NULL};
  uint8_t *all = NULL;
  size_t n = 0;

  check(argument_error(fvg_weights_open(c, &w, NULL), "NULL") && !w, "weights from no source");
  check(argument_error(fvg_weights_open_any(c, &w, NULL), "NULL") && !w, "weights of any kind from no source");
  check(argument_error(fvg_weights_open(c, NULL, &s), "NULL") && closed == 1, "weights to nowhere: the source is closed");
  check(argument_error(fvg_weights_open_any(c, NULL, &s), "NULL") && closed == 2, "weights of any kind to nowhere");
  check(fvg_weights_open(NULL, &w, &s) == FVG_E_ARG && closed == 3, "weights without a context");
  check(argument_error(fvg_weights_join(c, &w, part, 1, "joined"), "NULL") && !w, "a part that is missing");
  check(argument_error(fvg_weights_join(c, &w, NULL, 1, "joined"), "NULL"), "parts that are missing");
  check(argument_error(fvg_source_read_all(c, &all, &n, NULL), "NULL"), "all bytes of no source");
  all = (uint8_t *)text;
  n = 4;
  check(argument_error(fvg_source_read_all(c, &all, &n, NULL), "NULL") && !all && !n, "then there are no bytes");
  none.size = 4;
  check(argument_error(fvg_source_read_all(c, &all, &n, &none), "source") && !all, "a source that cannot read");
  none = fvg_source_memory(NULL, 4, "nothing");
  check(argument_error(fvg_source_read_all(c, &all, &n, &none), "nothing") && !all, "memory that is not there");
  check(argument_error(fvg_safetensors_write(c, NULL, NULL, NULL, 0, NULL, 0), "NULL"), "no write function");
  check(argument_error(fvg_source_file(c, &none, NULL), "path") && !none.read, "a source without a path");
  check(argument_error(fvg_source_file(c, NULL, "x"), "NULL"), "a source to nowhere");
  check(fvg_source_file(NULL, &none, "x") == FVG_E_ARG, "a source without a context");
  check(argument_error(fvg_safetensors_save(c, NULL, NULL, 0, NULL, 0), "path"), "safetensors without a path");
  check(argument_error(fvg_file_save(c, NULL, text, 4), "path"), "a file without a path");
  check(argument_error(fvg_file_save(c, "x", NULL, 4), "bytes") && !strchr(fvg_error(c), '\n'), "a file without bytes");
  check(!fvg_file_is_temporary(NULL) && !fvg_file_exists(NULL), "no name is no file's");

  fvg_json j;
  check(argument_error(fvg_json_parse(c, NULL, "{}", 2, "x"), "result"), "JSON to nowhere");
  check(argument_error(fvg_json_parse(c, &j, NULL, 2, "x"), "text") && !j.value, "JSON without text");
  check(argument_error(fvg_json_parse(c, &j, "{}", 2, NULL), "name") && !j.value, "JSON without a file's name");
  check(!fvg_json_parse(c, &j, "{\"a\":1}", 7, "x") && fvg_json_find(&j, 0, NULL) == -1, "no key is found");
  fvg_json_free(c, &j);
  fvg_json_free(c, NULL);
}

/* Questions without a name, and one file given twice, which must be closed once. */
static void test_no_names_and_twice(void) {
  static const char bytes[] = "\x35\0\0\0\0\0\0\0" "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}" "\7";
  fvg_weights *w = NULL, *joined = NULL, *part[3];
  fvg_tensor x;
  int closed = 0;
  fvg_source s = fvg_source_memory(bytes, sizeof bytes - 1, "one");
  check(!fvg_weights_open(c, &w, &s), "one tensor");
  if (!w) { printf("  %s\n", fvg_error(c)); return; }
  check(argument_error(fvg_weights_get(w, NULL, "a", FVG_U8), "result"), "a tensor to nowhere");
  check(argument_error(fvg_weights_get(w, &x, NULL, FVG_U8), "name") && !x.data, "a tensor without a name");
  check(fvg_weights_info(w, &x, NULL) == 0 && !fvg_weights_metadata(w, NULL), "no name, nothing");
  w->source.close = count_close;
  w->source.user = &closed;
  part[0] = part[1] = part[2] = w;
  check(argument_error(fvg_weights_join(c, &joined, part, 3, "all"), "twice") && !joined && closed == 1,
        "a file that is given twice is closed once");
}

static void test_write_errors(void) {
  static bytes b;
  fvg_named_tensor t[2];
  fvg_metadata m;
  int i, ok = 1;
  t[0] = t[1] = named("a", FVG_U8, u8, 1, 5, 0);
  check(fvg_safetensors_write(c, append, &b, t, 2, NULL, 0) == FVG_E_ARG && says("twice") && b.n == 0,
        "a name given twice");
  t[1] = named("b", FVG_U8, u8, 1, -5, 0);
  check(fvg_safetensors_write(c, append, &b, t, 2, NULL, 0) == FVG_E_ARG && says("tensor b") && says("[-5]"),
        "negative dimension");
  t[1] = named("b", FVG_F32, NULL, 1, 2, 0);
  check(fvg_safetensors_write(c, append, &b, t, 2, NULL, 0) == FVG_E_ARG && says("no data"), "no data");
  t[1] = named("__metadata__", FVG_U8, u8, 1, 5, 0);
  check(fvg_safetensors_write(c, append, &b, t, 2, NULL, 0) == FVG_E_ARG, "a reserved name");
  t[1] = named("\xFF", FVG_U8, u8, 1, 5, 0);
  check(fvg_safetensors_write(c, append, &b, t, 2, NULL, 0) == FVG_E_ARG && says("UTF-8"),
        "a name that is not UTF-8");
  m.key = "k";
  m.value = "\xFF";
  check(fvg_safetensors_write(c, append, &b, t, 1, &m, 1) == FVG_E_ARG && says("UTF-8"), "a value that is not UTF-8");
  check(b.n == 0, "nothing is written before the arguments are checked");
  for (i = 1; i <= 3; i++) {
    b.fail_at = i;
    ok &= fvg_safetensors_write(c, append, &b, t, 1, NULL, 0) == FVG_E_IO;
  }
  check(ok, "failing of each write is reported");
  memset(&b, 0, sizeof b);
  check(fvg_safetensors_write(c, append, &b, NULL, 0, NULL, 0) == FVG_OK && b.n == 16 && !memcmp(b.data + 8,
        "{}      ", 8),
        "an empty file");
}

/* Each allocation fails in turn: no crash, no leak, and the same result as before when none fails. */
static int countdown;
static void *scarce_alloc(void *user, size_t n) { (void)user; return countdown-- > 0 ? malloc(n) : NULL; }
static void scarce_release(void *user, void *p, size_t n) { (void)user; (void)n; free(p); }

static void test_out_of_memory(void) {
  static bytes b;
  fvg_ctx *scarce;
  fvg_desc d;
  int k, ok = 1, done = 0;
  if (!b.n) write_sample(&b);
  memset(&d, 0, sizeof d);
  d.allocator.alloc = scarce_alloc;
  d.allocator.release = scarce_release;
  countdown = 1;
  if (fvg_init(&scarce, &d)) { check(0, "context"); return; }
  for (k = 0; k < 20 && !done; k++) {
    fvg_source s = fvg_source_memory(b.data, b.n, "m");
    fvg_weights *w = NULL;
    fvg_tensor x;
    fvg_status status;
    countdown = k;
    memset(&x, 0, sizeof x);
    status = fvg_weights_open(scarce, &w, &s);
    if (!status) status = fvg_weights_get(w, &x, "half", FVG_F32);
    ok &= status == FVG_E_NOMEM ? !x.data && strstr(fvg_error(scarce), "out of memory") != NULL : status == FVG_OK;
    done = status == FVG_OK;
    fvg_tensor_free(scarce, &x);
    fvg_weights_close(w);
    ok &= fvg_mem_used(scarce) == 0;
  }
  check(ok && done && k > 6, "each allocation may fail");
  fvg_free(scarce);
}

/* ---- files ---- */
static char path[1024], part[1040];
static int exists(const char *name) { FILE *f = fopen(name, "rb"); if (f) fclose(f); return f != NULL; }

static void test_stdio(void) {
  fvg_source s;
  fvg_weights *w = NULL;
  fvg_named_tensor t = named("a", FVG_F32, f32, 2, 3, 2);
  fvg_metadata m;
  uint8_t *all = NULL;
  size_t n = 0;
  char name[1024];
  m.key = "method"; m.value = "CoOp";
  check(fvg_safetensors_save(c, path, &t, 1, &m, 1) == FVG_OK && !exists(part), "save");
  strcpy(name, path);
  check(fvg_source_file(c, &s, name) == FVG_OK && fvg_weights_open(c, &w, &s) == FVG_OK, "open what was saved");
  memset(name, '?', sizeof name - 1);
  check(w && !strcmp(fvg_weights_file(w), path) && same(w, "a", FVG_F32, f32, 24) && !strcmp(fvg_weights_metadata(w,
        "method"), "CoOp"),
        "its contents, and the name is a copy");
  fvg_weights_close(w);
  t.tensor.dim[0] = -1;
  check(fvg_safetensors_save(c, path, &t, 1, NULL, 0) == FVG_E_ARG && says(path) && !exists(part) && exists(path),
        "a failed save names the file and keeps the old one");
  check(fvg_file_save(c, path, "new", 3) == FVG_OK && fvg_source_file(c, &s, path) == FVG_OK &&
        fvg_source_read_all(c, &all, &n, &s) == FVG_OK, "save bytes over an old file");
  check(n == 3 && !memcmp(all, "new", 4), "and read them");
  fvg_bytes_free(c, all);
  fvg_source_close(&s);
  check(fvg_file_save(c, path, NULL, 0) == FVG_OK && fvg_source_file(c, &s, path) == FVG_OK && s.size == 0,
        "an empty file");
  check(fvg_weights_open(c, &w, &s) == FVG_E_FORMAT && says(path), "is no safetensors file");
  remove(path);
}

/* What is written to a link goes where it leads, and the link stays; a pipe gets the bytes; no temporary file stays. */
#ifdef FVG__POSIX_FILES
#include <dirent.h>
#include <pthread.h>
int symlink(const char *target, const char *link_path);
int mkfifo(const char *fifo, mode_t mode);

static int temporaries(const char *folder) {
  DIR *d = opendir(folder);
  struct dirent *e;
  int n = 0;
  while (d && (e = readdir(d)) != NULL) n += fvg_file_is_temporary(e->d_name) && strstr(e->d_name, "test_files") != NULL;
  if (d) closedir(d);
  return n;
}

static int holds(const char *name, const char *text) {
  fvg_source s;
  uint8_t *all = NULL;
  size_t n = 0;
  int ok = !fvg_source_file(c, &s, name) && !fvg_source_read_all(c, &all, &n, &s) && n == strlen(text) &&
           !memcmp(all, text, n);
  fvg_bytes_free(c, all);
  fvg_source_close(&s);
  return ok;
}

static int is_link(const char *name) { char to[8]; return readlink(name, to, sizeof to) > 0; }

typedef struct pipe_reader { const char *name; char got[64]; size_t n; } pipe_reader;
static void *read_pipe(void *user) {
  pipe_reader *r = (pipe_reader *)user;
  FILE *f = fopen(r->name, "rb");
  if (f) { r->n = fread(r->got, 1, sizeof r->got, f); fclose(f); }
  return NULL;
}

static void test_links(const char *folder) {
  char link_1[1040], link_2[1040], to[1040];
  const char *base = strrchr(path, '/') + 1;
  sprintf(link_1, "%s.link-1", path);
  sprintf(link_2, "%s.link-2", path);
  sprintf(to, "%s.link-2", base);                    /* the first relative, the second absolute                     */
  remove(link_1);
  remove(link_2);
  remove(path);
  check(!symlink(to, link_1) && !symlink(path[0] == '/' ? path : base, link_2), "two links in a row");
  check(!fvg_file_save(c, link_1, "one", 3) && is_link(link_1) && is_link(link_2) && holds(path, "one"),
        "through two links to a file that was not there: the links stay");
  check(!fvg_file_save(c, link_1, "two", 3) && is_link(link_1) && is_link(link_2) && holds(path, "two"),
        "and to one that is");
  remove(link_2);
  check(!symlink(strrchr(link_1, '/') + 1, link_2) && fvg_file_save(c, link_1, "three", 5) == FVG_E_IO &&
        says(link_1) && is_link(link_1) && is_link(link_2), "links in a circle are refused");
  remove(link_1);
  remove(link_2);
  check(temporaries(folder) == 0, "no temporary file stays");
}

/* A file hands on its permissions to the one that replaces it; a name that no file can have is no file's. */
static void test_permissions(void) {
  char name[300];
  struct stat x;
  memset(&x, 0, sizeof x);
  memset(name, 'a', sizeof name);
  name[sizeof name - 1] = 0;
  remove(path);
  check(!fvg_file_save(c, path, "one", 3) && !chmod(path, 0640) && !fvg_file_save(c, path, "two", 3) &&
        !stat(path, &x) && (x.st_mode & 0777) == 0640 && holds(path, "two"), "permissions stay");
  check(!fvg_file_exists(name), "a name that is too long is no file's");
  remove(path);
  check(!symlink(strrchr(path, '/') + 1, path) && !fvg_file_exists(path), "nor is a link to itself");
  remove(path);
}

static void test_pipe(const char *folder) {
  pipe_reader r;
  pthread_t thread;
  fvg_source s;
  fvg_named_tensor t = named("a", FVG_F32, f32, 2, 3, 2);
  struct stat x;
  memset(&r, 0, sizeof r);
  r.name = part;
  remove(part);
  check(!mkfifo(part, 0600), "a pipe with a name");
  check(fvg_source_file(c, &s, part) == FVG_E_IO && says(part) && says("not a plain file"),
        "it is not read from, and nobody waits for it");
  if (pthread_create(&thread, NULL, read_pipe, &r)) { check(0, "a thread"); return; }
  check(!fvg_file_save(c, part, "through the pipe", 16), "written to");
  pthread_join(thread, NULL);
  check(r.n == 16 && !memcmp(r.got, "through the pipe", 16), "the other end has the bytes");
  check(!stat(part, &x) && S_ISFIFO(x.st_mode), "and it is a pipe still");
  if (pthread_create(&thread, NULL, read_pipe, &r)) { check(0, "a thread"); return; }
  check(!fvg_safetensors_save(c, part, &t, 1, NULL, 0), "so are safetensors");
  pthread_join(thread, NULL);
  check(r.n == 64 && !memcmp(r.got + 8, "{\"a\"", 4) && !stat(part, &x) && S_ISFIFO(x.st_mode), "and it stays");
  remove(part);
  check(temporaries(folder) == 0, "no temporary file stays");
}

/* Stands in for the system's, and counts. */
static int syncs;
int fsync(int file) { (void)file; syncs++; return 0; }

static void test_sync(const char *folder) {
  fvg_ctx *careless;
  fvg_desc d;
  syncs = 0;
  check(!fvg_file_save(c, path, "precious", 8) && syncs == 2, "a file is forced onto the disk, and its folder");
  memset(&d, 0, sizeof d);
  d.no_sync = 1;
  if (fvg_init(&careless, &d)) { check(0, "context"); return; }
  check(!fvg_file_save(careless, path, "another", 7) && syncs == 2 && holds(path, "another"), "no_sync: it is not");
  check(temporaries(folder) == 0, "no temporary file stays");
  fvg_free(careless);
  remove(path);
}

/* A disk that fills up when the last bytes are flushed: the save fails, and the old file stays. */
#include <signal.h>
#include <sys/resource.h>
#ifndef SIGXFSZ
#define SIGXFSZ 25
#endif
static void test_full_disk(const char *folder) {
  struct rlimit before, low;
  void (*handler)(int);
  fvg_status s;
  remove(path);
  check(!fvg_file_save(c, path, "precious", 8), "a file that must stay");
  if (getrlimit(RLIMIT_FSIZE, &before)) { check(0, "the limit of a file's length"); return; }
  low = before;
  low.rlim_cur = 4;
  fflush(stdout);                                  /* nothing may be printed under the limit */
  handler = signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &low);
  s = fvg_file_save(c, path, "0123456789", 10);
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  check(s == FVG_E_IO && says(path) && says("cannot write"), "ten bytes where four have room");
  check(holds(path, "precious"), "do not take the old file's place");
  check(temporaries(folder) == 0, "no temporary file stays");
  remove(path);
}

/* Somebody who knows the names of temporary files lays a link there: they are opened only where nothing is. */
static void test_no_link_is_followed(void) {
  char victim[1040];
  FILE *f;
  sprintf(victim, "%s.victim", path);
  check(!fvg_file_save(c, victim, "precious", 8), "a file that must stay");
  remove(part);
  check(!symlink(path[0] == '/' ? victim : strrchr(victim, '/') + 1, part), "a link to it");
  f = fopen(part, FVG__CREATE);
  check(!f && errno == EEXIST && holds(victim, "precious"), "a temporary file is never opened through a link");
  if (f) fclose(f);
  remove(part);
  remove(victim);
}
#endif

/* Several writers of one file at once: each whole file that is seen there is one of theirs. */
static void test_names_differ(void) {
  fvg__output one, two;
  memset(&one, 0, sizeof one);
  check(!fvg__output_open(c, &one, path) && !fvg__output_open(c, &two, path) && strcmp(one.temporary, two.temporary),
        "two writers of one file have two temporary files");
  check(fvg_file_is_temporary(one.temporary) && strcmp(one.temporary, part) && !fvg_file_is_temporary(path) &&
        !fvg_file_is_temporary(part) && !fvg_file_is_temporary("x.tmp-0123456") && !fvg_file_is_temporary("x.tmp-0123456g"),
        "whose names are known by their look");
  check(!fvg__output_write(&one, "11", 2) && !fvg__output_write(&two, "2", 1) &&
        !fvg__output_close(c, &one, path, FVG_OK) && !fvg__output_close(c, &two, path, FVG_OK), "both are written");
  remove(path);
}

/* A file of floats with settings, then each of its bits flipped. */
static void test_checksum(void) {
  static bytes b;
  fvg_named_tensor t[2];
  fvg_metadata m[3];
  char sum[FVG__CHECKSUM_TEXT], again[FVG__CHECKSUM_TEXT];
  fvg_weights *w = NULL;
  size_t at, silent = 0, harmless = 0;
  t[0] = named("a", FVG_F32, f32, 2, 2, 3);
  t[1] = named("half", FVG_F16, f16, 1, 3, 0);
  m[0].key = "trainer"; m[0].value = "CoOp";
  m[1].key = "n_ctx"; m[1].value = "4";
  fvg__checksum(t, 2, m, 2, sum);
  m[2].key = FVG__CHECKSUM; m[2].value = sum;
  memset(&b, 0, sizeof b);
  check(!fvg_safetensors_write(c, append, &b, t, 2, m, 3) && !open_bytes(&w, b.data, b.n) && !fvg__weights_verify(w),
        "a checksum fits its file");
  fvg_weights_close(w);
  fvg__checksum(t, 2, m, 3, again);
  check(!strcmp(sum, again), "and does not count itself");
  for (at = 0; at < 8 * b.n; at++) {
    fvg_status s;
    b.data[at / 8] = (uint8_t)(b.data[at / 8] ^ 1u << at % 8);
    w = NULL;
    s = open_bytes(&w, b.data, b.n);
    if (!s) s = fvg__weights_verify(w);
    if (!s && fvg_weights_metadata(w, "trainer") && !strcmp(fvg_weights_metadata(w, "trainer"), "CoOp") &&
        fvg_weights_metadata(w, "n_ctx") && !strcmp(fvg_weights_metadata(w, "n_ctx"), "4") &&
        same(w, "a", FVG_F32, f32, 24) && same(w, "half", FVG_F16, f16, 6)) harmless++;
    else if (!s) silent++;
    fvg_weights_close(w);
    b.data[at / 8] = (uint8_t)(b.data[at / 8] ^ 1u << at % 8);
  }
  printf("%lu single bits flipped, %lu without effect (the word checksum itself)\n", (unsigned long)(8 * b.n),
         (unsigned long)harmless);
  fvg_weights *part[2] = {NULL, NULL}, *joined = NULL;
  bytes *second = (bytes *)calloc(1, sizeof *second);
  fvg_named_tensor other = named("other", FVG_F32, f32, 2, 2, 3);
  check(!fvg_safetensors_write(c, append, second, &other, 1, NULL, 0) && !open_bytes(&part[0], b.data, b.n) &&
        !open_bytes(&part[1], second->data, second->n) && !fvg_weights_join(c, &joined, part, 2, "joined") &&
        !fvg__weights_verify(joined), "files that are joined are checked one by one");
  fvg_weights_close(joined);
  part[0] = part[1] = joined = NULL;
  b.data[b.n - 1]++;
  check(!open_bytes(&part[0], second->data, second->n) && !open_bytes(&part[1], b.data, b.n) &&
        !fvg_weights_join(c, &joined, part, 2, "joined") && fvg__weights_verify(joined) == FVG_E_FORMAT &&
        says("damaged"), "and a damaged one is found");
  fvg_weights_close(joined);
  b.data[b.n - 1]--;
  free(second);
  check(silent == 0 && harmless <= 64, "each flipped bit is found, or changes nothing");
  b.data[b.n - 1]++;
  check(!open_bytes(&w, b.data, b.n) && fvg__weights_verify(w) == FVG_E_FORMAT && says("m.safetensors: damaged"),
        "and the message names the file");
  fvg_weights_close(w);
}

/* A file of more than 2 and of more than 4 GB, almost all of it holes. */
static void test_long_file(void) {
  const uint64_t place[3] = {2147483647u, 2147483648u, 4294967296u + 12345u};
  FILE *f = fopen(path, "wb");
  fvg_source s;
  uint8_t got[4] = {0};
  int i, ok = f != NULL;
  for (i = 0; ok && i < 3; i++)
    ok = !fvg__file_seek(f, place[i]) && fwrite("mark", 1, i == 2 ? 4 : 1, f) == (i == 2 ? 4u : 1u);
  if (f && fclose(f)) ok = 0;
  if (!ok) printf("skipped: no file of 4 GB can be made here\n");
  else if (fvg_source_file(c, &s, path)) check(0, fvg_error(c));
  else {
    check(s.size == place[2] + 4, "the size of a file of 4 GB");
#ifndef FVG__WINDOWS_FILES
    check(fvg__long_size((FILE *)s.user) == s.size, "and found by trying, as where a long has 32 bits");
#endif
    check(!fvg__source_read(c, &s, got, place[2], 4) && !memcmp(got, "mark", 4), "its end");
    check(!fvg__source_read(c, &s, got, place[1], 2) && got[0] == 'm' && got[1] == 0, "what lies beyond 2 GB");
    check(!fvg__source_read(c, &s, got, place[0] - 1, 3) && got[0] == 0 && got[1] == 'm' && got[2] == 'm',
          "across 2 GB");
    check(fvg__source_read(c, &s, got, place[2] + 1, 4) == FVG_E_FORMAT, "and nothing behind its end");
    fvg_source_close(&s);
  }
  remove(path);
}

static void test_stdio_errors(void) {
  fvg_source s;
  check(fvg_source_file(c, &s, "no/such/file.x") == FVG_E_IO && says("no/such/file.x: ") && !s.read,
        "a file that is not there");
  check(fvg_source_file(c, &s, ".") == FVG_E_IO && says(".: cannot"), "a folder is not a file");
  check(fvg_file_save(c, "no/such/folder.x", "a", 1) == FVG_E_IO && says("no/such/folder.x") &&
        !exists("no/such/folder.x"),
        "a folder that is not there");
  check(fvg_file_save(c, ".", "a", 1) == FVG_E_IO && says(".: cannot write") && !exists("..part"),
        "a place where a folder is");
}

/* A real model when it is there: names, shapes, and every tensor finite. */
static void test_shared_model(void) {
  const char *root = getenv("FVGPT_SHARED");
  char name[1024];
  fvg_source s;
  fvg_weights *w;
  int i, ok = 1;
  if (!root) root = "../shared";
  if (strlen(root) > 900) return;
  sprintf(name, "%s/golden/backbones/model.safetensors", root);
  if (!exists(name)) { printf("skipped: %s is absent\n", name); return; }
  check(fvg_source_file(c, &s, name) == FVG_OK && fvg_weights_open(c, &w, &s) == FVG_OK && fvg_weights_count(w) > 50,
        "the golden model");
  for (i = 0; i < fvg_weights_count(w) && ok; i++) {
    fvg_tensor x;
    fvg_weights_info(w, &x, fvg_weights_name(w, i));
    ok = fvg_weights_get(w, &x, fvg_weights_name(w, i), x.type) == FVG_OK;
    fvg_tensor_free(c, &x);
  }
  check(ok, "each of its tensors is read");
  if (!ok) printf("  %s\n", fvg_error(c));
  fvg_weights_close(w);
}

int main(void) {
  const char *folder = getenv("TMPDIR");
  if (!folder || strlen(folder) > 900) folder = ".";
  sprintf(path, "%s/test_files.scratch", folder);
  sprintf(part, "%s.part", path);
  if (fvg_init(&c, NULL)) return 1;
  test_half();
  test_json_values();
  test_read_numbers();
  test_json_errors();
  test_json_large();
  test_round_trip();
  test_chunks();
  test_hostile();
  test_other_dtypes_and_nan();
  test_header_limit();
  test_truncated();
  test_many_names();
  test_sources();
  test_null_arguments();
  test_no_names_and_twice();
  test_write_errors();
  test_out_of_memory();
  test_stdio();
  test_stdio_errors();
#ifdef FVG__POSIX_FILES
  test_links(folder);
  test_permissions();
  test_pipe(folder);
  test_sync(folder);
  test_full_disk(folder);
  test_no_link_is_followed();
#endif
  test_names_differ();
  test_long_file();
  test_checksum();
  test_shared_model();
  check(fvg_mem_used(c) == 0, "no memory stays");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
