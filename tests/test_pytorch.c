/* Chapters 4 and 5 of fvgpt.h: PyTorch's zip archives and pickles, written here byte by byte. Needs no Python. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

static fvg_ctx *c;
static int says(const char *words) { return strstr(fvg_error(c), words) != NULL; }

/* ---- a zip archive ---- */
typedef struct bytes { uint8_t data[400000]; size_t n; } bytes;
typedef struct archive { bytes file, directory; int n, zip64, method, flags; const char *folder, *comment; } archive;

static void put(bytes *b, const void *data, size_t n) { memcpy(b->data + b->n, data, n); b->n += n; }
static void put_number(bytes *b, uint64_t x, int n) { for (; n; n--, x >>= 8) b->data[b->n++] = (uint8_t)(x & 255); }

/* Member `name` below the folder; as PyTorch does, an extra field moves its bytes to a multiple of 64. */
static void add(archive *a, const char *name, const void *data, size_t n) {
  const char *folder = a->folder ? a->folder : "model/";
  size_t length = strlen(folder) + strlen(name), at = a->file.n, padding = 64 - (at + 34 + length) % 64;
  put_number(&a->file, 0x04034b50, 4);
  put_number(&a->file, 0, 22);                       /* sizes may be 0 here: only the directory counts             */
  put_number(&a->file, length, 2);
  put_number(&a->file, padding + 4, 2);
  put(&a->file, folder, strlen(folder));
  put(&a->file, name, strlen(name));
  put_number(&a->file, 0x4246, 2);
  put_number(&a->file, padding, 2);
  put_number(&a->file, 0, (int)padding);
  put(&a->file, data, n);
  put_number(&a->directory, 0x02014b50, 4);
  put_number(&a->directory, 0, 4);
  put_number(&a->directory, (uint64_t)a->flags, 2);
  put_number(&a->directory, (uint64_t)a->method, 2);
  put_number(&a->directory, 0, 8);
  put_number(&a->directory, a->zip64 ? 0xFFFFFFFFu : n, 4);
  put_number(&a->directory, a->zip64 ? 0xFFFFFFFFu : n, 4);
  put_number(&a->directory, length, 2);
  put_number(&a->directory, a->zip64 ? 34 : 0, 2);
  put_number(&a->directory, 0, 8);
  put_number(&a->directory, 0, 2);
  put_number(&a->directory, a->zip64 ? 0xFFFFFFFFu : at, 4);
  put(&a->directory, folder, strlen(folder));
  put(&a->directory, name, strlen(name));
  if (a->zip64) {
    put(&a->directory, "xx\2\0..\1\0\30\0", 10);     /* a field of another kind first                              */
    put_number(&a->directory, n, 8);
    put_number(&a->directory, n, 8);
    put_number(&a->directory, at, 8);
  }
  a->n++;
}

static void finish(archive *a) {
  size_t at = a->file.n, record;
  put(&a->file, a->directory.data, a->directory.n);
  record = a->file.n;
  if (a->zip64) {
    put_number(&a->file, 0x06064b50, 4);
    put_number(&a->file, 44, 8);
    put_number(&a->file, 0, 12);
    put_number(&a->file, (uint64_t)a->n, 8);
    put_number(&a->file, (uint64_t)a->n, 8);
    put_number(&a->file, a->directory.n, 8);
    put_number(&a->file, at, 8);
    put_number(&a->file, 0x07064b50, 4);
    put_number(&a->file, 0, 4);
    put_number(&a->file, record, 8);
    put_number(&a->file, 1, 4);
  }
  put_number(&a->file, 0x06054b50, 4);
  put_number(&a->file, 0, 4);
  put_number(&a->file, a->zip64 ? 0xFFFF : (uint64_t)a->n, 2);
  put_number(&a->file, a->zip64 ? 0xFFFF : (uint64_t)a->n, 2);
  put_number(&a->file, a->zip64 ? 0xFFFFFFFFu : a->directory.n, 4);
  put_number(&a->file, a->zip64 ? 0xFFFFFFFFu : at, 4);
  put_number(&a->file, a->comment ? strlen(a->comment) : 0, 2);
  if (a->comment) put(&a->file, a->comment, strlen(a->comment));
}

static fvg_status open_bytes(fvg_weights **w, const void *data, size_t n) {
  fvg_source s = fvg_source_memory(data, n, "model.pt");
  return fvg_weights_open_any(c, w, &s);
}

/* ---- pickles: a literal with its length, and its parts ---- */
#define P(literal) literal, sizeof literal - 1
#define U1(s) "X\001\000\000\000" s
#define U4(s) "X\004\000\000\000" s
#define U6(s) "X\006\000\000\000" s
#define STORAGE(kind, key, count) "(X\007\000\000\000storagectorch\n" kind "Storage\n" U1(key) \
                                  "X\003\000\000\000cpuK" count "tQ"
#define ORDERED_DICT "ccollections\nOrderedDict\n)R"
#define REBUILD "ctorch._utils\n_rebuild_tensor_v2\n"
/* offset and count are one byte, shape and strides instructions that make a tuple */
#define TENSOR(kind, key, count, offset, shape, strides) \
  REBUILD "(" STORAGE(kind, key, count) "K" offset shape strides "\211" ORDERED_DICT "tR"
#define FLOATS(offset, shape, strides) TENSOR("Float", "0", "\006", offset, shape, strides)
#define ROW(n) "K" n "\205"
#define PAIR(n, m) "K" n "K" m "\206"
#define LINE FLOATS("\000", ROW("\006"), ROW("\001"))          /* all of storage 0           */

static const float six[6] = {1, -2, 3.5f, 0.25f, 5, 6};

/* Its bytes in a file, which is little-endian on every machine. */
static void add_six(archive *a) {
  bytes *b = (bytes *)malloc(sizeof *b);
  if (!b) exit(1);
  b->n = 0;
  for (int i = 0; i < 6; i++) {
    uint32_t bits;
    memcpy(&bits, &six[i], sizeof bits);
    put_number(b, bits, 4);
  }
  add(a, "data/0", b->data, b->n);
  free(b);
}

/* data.pkl, storage 0 = six, storage 1 = n_more bytes */
static void make(archive *a, const void *pickle, size_t n, const void *more, size_t n_more) {
  add(a, "data.pkl", pickle, n);
  add_six(a);
  if (n_more) add(a, "data/1", more, n_more);
  finish(a);
}

static archive *fresh(void) {
  static archive a;
  memset(&a, 0, sizeof a);
  return &a;
}

/* A file that must be good; if it is not, one without tensors. */
static fvg_weights *opened(const void *pickle, size_t n, const void *more, size_t n_more) {
  archive *a = fresh();
  fvg_weights *w = NULL;
  make(a, pickle, n, more, n_more);
  if (open_bytes(&w, a->file.data, a->file.n) == FVG_OK) return w;
  check(0, fvg_error(c));
  return opened(P("\200\002N."), NULL, 0);
}

static int same(fvg_weights *w, const char *name, fvg_dtype as, int n_dim, int a, int b, const void *data) {
  fvg_tensor x;
  int ok = w && fvg_weights_get(w, &x, name, as) == FVG_OK;
  if (!ok) { printf("  %s: %s\n", name, fvg_error(c)); return 0; }
  ok = x.n_dim == n_dim && (n_dim < 1 || x.dim[0] == a) && (n_dim < 2 || x.dim[1] == b) && x.type == as &&
       !memcmp(x.data, data, fvg_tensor_count(&x) * fvg_dtype_size(as));
  fvg_tensor_free(c, &x);
  return ok;
}

static int metadata(const fvg_weights *w, const char *key, const char *value) {
  const char *found = w ? fvg_weights_metadata(w, key) : NULL;
  int ok = found && value ? !strcmp(found, value) : found == value;
  if (!ok) printf("  %s is %s\n", key, found ? found : "absent");
  return ok;
}

/* ---- good files ---- */
static const uint16_t halves_bits[4] = {0x3C00, 0xC000, 0x0001, 0x7BFF};
static const uint8_t halves[8] = {0x00, 0x3C, 0x00, 0xC0, 0x01, 0x00, 0xFF, 0x7B};      /* as a file has them */
static const float halves_float[4] = {1, -2, 1.0f / 16777216, 65504};

/* A trainer's checkpoint: state, epoch, an optimiser by number and one as a live object. */
#define PARAMETER "ctorch._utils\n_rebuild_parameter\n(" TENSOR("Half", "1", "\004", "\000", PAIR("\002", "\002"), \
                  PAIR("\002", "\001")) "\210" ORDERED_DICT "tR"
#define CHECKPOINT "\200\002}q\000(X\012\000\000\000state_dict" ORDERED_DICT "q\001(" U4("ctx0") LINE "q\002" \
  "X\014\000\000\000module.gamma" PARAMETER U4("tied") "h\002u}X\011\000\000\000_metadata" ORDERED_DICT "sb" \
  "X\005\000\000\000epochK\007" \
  "X\011\000\000\000optimizer}U\005state}K\000}" U1("m") LINE "sss" \
  "X\011\000\000\000scheduler}(" U6("lr_now") "G\077\271\231\231\231\231\231\232" \
  "X\011\000\000\000successorctorch.optim.lr_scheduler\nCosineAnnealingLR\n)\201}" U4("opti") \
  "ctorch.optim.sgd\nSGD\n)\201}" U4("stat") "ccollections\ndefaultdict\nc__builtin__\ndict\n\205R" \
  PARAMETER "}ssbsbu" \
  "X\012\000\000\000val_resultG@U\053\205\036\270\121\354" U4("none") "N" U4("np64") \
  "cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n" "(U\002f8\211\210tR(K\003NtbC\01012345678\206R" "u."

static void test_checkpoint(void) {
  fvg_weights *w = opened(P(CHECKPOINT), halves, sizeof halves);
  fvg_tensor x;
  check(fvg_weights_count(w) == 3 && !strcmp(fvg_weights_name(w, 0), "ctx0") &&
        !strcmp(fvg_weights_name(w, 1), "gamma") && !strcmp(fvg_weights_name(w, 2), "tied"),
        "a checkpoint's state by name, without state_dict., module. and the optimiser");
  check(same(w, "ctx0", FVG_F32, 1, 6, 0, six) && same(w, "tied", FVG_F32, 1, 6, 0, six), "its numbers, shared ones");
  check(same(w, "gamma", FVG_F16, 2, 2, 2, halves_bits) && same(w, "gamma", FVG_F32, 2, 2, 2, halves_float),
        "a parameter in halves");
  check(fvg_weights_info(w, &x, "gamma") == 1 && x.type == FVG_F16 && !x.data && !fvg_weights_info(w,
                                                                                                   NULL,
                                                                                                   "m"),
        "info");
  check(metadata(w, "epoch", "7") && metadata(w, "val_result", "84.68") && metadata(w, "none", NULL) &&
        metadata(w, "state_dict", NULL) && metadata(w, "np64", NULL), "numbers beside it are metadata");
  check(!strcmp(fvg_weights_file(w), "model.pt"), "the file's name");
  fvg_weights_close(w);
}

/* A TorchScript archive: objects of compiled classes, code that is compressed, constants in a folder of their own. */
#define MODULE(name) "c__torch__.torch.nn." name "\n)\201}("
#define MODULES "\200\002" MODULE("___torch_mangle_1\nCLIP") \
  "X\006\000\000\000visual" MODULE("x\nVisual") U1("0") TENSOR("Half", "1", "\004", "\001", "(K\003t", "(K\001t") \
  "X\010\000\000\000training\210ub" "X\010\000\000\000training\211" U4("size") "K\004" \
  U4("list") "ctorch.jit._pickle\nbuild_intlist\n(](K\001K\002etR" "X\013\000\000\000logit_scale" \
  FLOATS("\002", ")", ")") U4("noth") "Nub."

static void test_modules(void) {
  archive *a = fresh();
  fvg_weights *w = NULL;
  a->folder = "ViT-B-32/";
  add_six(a);
  add(a, "data/1", halves, sizeof halves);
  add(a, "data.pkl", P(MODULES));
  a->method = 8;
  add(a, "code/__torch__.py", "compressed", 10);
  a->method = 0;
  add(a, "constants/0", "abcd", 4);
  add(a, "constants.pkl", "\200\002).", 4);
  add(a, "byteorder", "little", 6);
  finish(a);
  check(open_bytes(&w, a->file.data, a->file.n) == FVG_OK && fvg_weights_count(w) == 2, "a TorchScript archive");
  check(same(w, "visual.0", FVG_F32, 1, 3, 0, halves_float + 1) && same(w, "logit_scale", FVG_F32, 0, 0, 0, six + 2),
        "modules are the path to their tensors; a storage's offset; a scalar");
  check(metadata(w, "size", "4") && metadata(w, "training", "0"), "attributes that are numbers");
  fvg_weights_close(w);
}

static void test_strides(void) {
  static const float turned[6] = {1, 0.25f, -2, 5, 3.5f, 6}, every_second[3] = {1, 3.5f, 5}, column[2] = {-2, 5},
                     repeated[6] = {3.5f, 3.5f, 3.5f, 0.25f, 0.25f, 0.25f}, cube[4] = {1, 3.5f, -2, 0.25f},
                     overlapping[4] = {1, -2, -2, 3.5f};
  const float bent[6] = {0};
  fvg_weights *w = opened(P("\200\002}("
    U1("t") FLOATS("\000", PAIR("\003", "\002"), PAIR("\001", "\003"))
    U1("s") FLOATS("\000", ROW("\003"), ROW("\002"))
    U1("c") FLOATS("\001", PAIR("\002", "\001"), PAIR("\003", "\001"))
    U1("r") FLOATS("\002", PAIR("\002", "\003"), PAIR("\001", "\000"))
    U1("q") FLOATS("\000", "K\002K\001K\002\207", "K\001K\377K\002\207")
    U1("o") FLOATS("\000", PAIR("\002", "\002"), PAIR("\001", "\001"))
    U1("e") FLOATS("\063", PAIR("\000", "\003"), PAIR("\003", "\001"))
    U1("n") FLOATS("\000", PAIR("\001", "\006"), PAIR("\011", "\001")) "u."), NULL, 0);
  check(same(w, "t", FVG_F32, 2, 3, 2, turned), "a transposed matrix");
  check(same(w, "s", FVG_F32, 1, 3, 0, every_second) && same(w, "c", FVG_F32, 2, 2, 1, column), "slices");
  check(same(w, "r", FVG_F32, 2, 2, 3, repeated), "a stride of 0 repeats");
  check(same(w, "q", FVG_F32, 3, 2, 1, cube), "three dimensions, one of them 1 with any stride");
  check(same(w, "o", FVG_F32, 2, 2, 2, overlapping), "rows that overlap");
  check(same(w, "e", FVG_F32, 2, 0, 3, bent) && same(w, "n", FVG_F32, 2, 1, 6, six), "no elements; one row");
  fvg_weights_close(w);
}

/* More elements than are converted at a time, transposed: 400 by 300 of the 120000 halves of storage 1. */
#define LARGE "\200\002}" U1("t") REBUILD "((U\007storagectorch\nHalfStorage\n" U1("1") \
              "U\003cpuJ\300\324\001\000tQK\000M\220\001M\054\001\206K\001M\220\001\206\211NtRs."
static void test_large_transpose(void) {
  static uint8_t half[300 * 400][2];
  archive *a = fresh();
  fvg_weights *w = NULL;
  fvg_tensor x;
  int i, k, ok;
  for (i = 0; i < 300 * 400; i++) {
    const uint16_t x = fvg_float_to_half((float)(i % 2039));
    half[i][0] = (uint8_t)(x & 255);
    half[i][1] = (uint8_t)(x >> 8);
  }
  make(a, P(LARGE), half, sizeof half);
  ok = open_bytes(&w, a->file.data, a->file.n) == FVG_OK && fvg_weights_get(w, &x, "t", FVG_F32) == FVG_OK;
  for (i = 0; ok && i < 400; i++)
    for (k = 0; k < 300; k++) ok &= ((float *)x.data)[i * 300 + k] == (float)((k * 400 + i) % 2039);
  check(ok, "a transposed matrix longer than a chunk, converted");
  if (w) fvg_tensor_free(c, &x);
  fvg_weights_close(w);
  for (i = 0; i < 300 * 400; i++) if (!half[i][0] && !half[i][1]) half[i][1] = 0x7C;
  a = fresh();
  w = NULL;
  make(a, P(LARGE), half, sizeof half);
  check(open_bytes(&w, a->file.data, a->file.n) == FVG_OK && fvg_weights_get(w, &x, "t", FVG_F32) == FVG_E_NUMERIC &&
        says("tensor t") && says("element 0 is inf") && !x.data, "infinity in it is found");
  fvg_weights_close(w);
}

static void test_dtypes(void) {
  static const uint8_t raw[16] = {0x80, 0x3F, 0, 0, 0xFE, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0, 0, 0, 0, 0x40};
  const float bfloat[2] = {1, 0};
  static const int32_t ints[2] = {0x3F80, -2};
  static const int64_t longs[1] = {-2 * 4294967296 + 0x3F80};
  fvg_weights *w = opened(P("\200\002}("
    U1("b") TENSOR("BFloat16", "1", "\002", "\000", ROW("\002"), ROW("\001"))
    U1("i") TENSOR("Int", "1", "\002", "\000", ROW("\002"), ROW("\001"))
    U1("l") TENSOR("Long", "1", "\002", "\000", ROW("\001"), ROW("\001"))
    U1("u") TENSOR("Byte", "1", "\020", "\000", ROW("\020"), ROW("\001"))
    U1("d") TENSOR("Double", "1", "\002", "\000", ROW("\001"), ROW("\001"))
    U1("s") TENSOR("Short", "1", "\002", "\000", ROW("\001"), ROW("\001"))
    U1("c") TENSOR("Char", "1", "\002", "\000", ROW("\001"), ROW("\001"))
    U1("B") TENSOR("Bool", "1", "\002", "\000", PAIR("\001", "\002"), PAIR("\001", "\000")) "u."), raw, sizeof raw);
  static const char *const foreign[] = {"d", "F64", "s", "I16", "c", "I8", "B", "BOOL"};
  int i, ok = 1;
  fvg_tensor x;
  check(same(w, "b", FVG_F32, 1, 2, 0, bfloat) && same(w, "i", FVG_I32, 1, 2, 0, ints) &&
        same(w, "u", FVG_U8, 1, 16, 0, raw) && same(w, "l", FVG_I64, 1, 1, 0, longs), "dtypes that can be read");
  for (i = 0; i < 8; i += 2)
    ok &= fvg_weights_info(w, NULL, foreign[i]) == (foreign[i][0] == 'c' ? 1 : 2) &&   /* I8 is read as I8 alone */
          fvg_weights_get(w, &x, foreign[i], FVG_F32) == FVG_E_UNSUPPORTED && says(foreign[i + 1]) && !x.data;
  check(ok, "dtypes that cannot, as in safetensors");
  fvg_weights_close(w);
}

/* Protocol 4, as pickle_protocol=4 gives it, and every instruction that has not been met above. */
static void test_instructions(void) {
  fvg_weights *w = opened(P("\200\004\225\020\000\000\000\000\000\000\000}\224("
    "\214\001a\214\014torch._utils\224\214\022_rebuild_tensor_v2\224\223\224"
    "((\214\007storage\224\214\005torch\214\014FloatStorage\223\214\0010\214\003cpuK\006t\224Q"
    "K\000K\006\205K\001\205\211\214\013collections\214\013OrderedDict\223)Rt\224R\224"
    "\215\001\000\000\000\000\000\000\000b" "j\007\000\000\000" "r\063\000\000\000"
    "\214\001cK\001K\0020h\063" "0"
    "\214\001d(K\001K\0021T\002\000\000\000xy"
    "\214\001eJ\376\377\377\377"
    "\214\001f\212\003\000\000\200"
    "\214\001g\212\011\000\000\000\000\000\000\000\000\001"
    "\214\001h\213\002\000\000\000\000\200"
    "\214\001iM\001\002" "\214\001j\212\000"
    "\214\001kG\177\360\000\000\000\000\000\000"
    "\214\001lG?\271\231\231\231\231\231\232"
    "\214\001mB\002\000\000\000\000\377" "\214\001n\216\001\000\000\000\000\000\000\000z"
    "\214\002\303\251\214\002\303\274" "K\021K\022"
    "\214\001o" "X\000\000\000\000u."), NULL, 0);
  check(same(w, "a", FVG_F32, 1, 6, 0, six) && same(w, "b", FVG_F32, 1, 6, 0, six) && fvg_weights_count(w) == 2,
        "a pickle of protocol 4");
  check(metadata(w, "c", "1") && metadata(w, "d", "xy") && metadata(w, "e", "-2") && metadata(w, "f", "-8388608") &&
        metadata(w, "g", NULL) && metadata(w, "h", "-32768") && metadata(w, "i", "513") && metadata(w, "j", "0") &&
        metadata(w, "k", "inf") && metadata(w, "l", "0.1") && metadata(w, "m", NULL) &&
        metadata(w, "\303\251", "\303\274") && metadata(w, "17", "18") && metadata(w, "o", ""), "numbers and words");
  fvg_weights_close(w);

  w = opened(P("\200\002](" LINE "K\005]" LINE "a(" LINE "2te."), NULL, 0);
  check(fvg_weights_count(w) == 4 && same(w, "0", FVG_F32, 1, 6, 0, six) && same(w, "2.0", FVG_F32, 1, 6, 0, six) &&
        same(w, "3.1", FVG_F32, 1, 6, 0, six), "lists and tuples count");
  fvg_weights_close(w);
  w = opened(P("\200\002" LINE "."), NULL, 0);
  check(fvg_weights_count(w) == 1 && same(w, "tensor", FVG_F32, 1, 6, 0, six), "a tensor alone");
  fvg_weights_close(w);
  w = opened(P("\200\002N."), NULL, 0);
  check(fvg_weights_count(w) == 0 && !fvg_weights_info(w, NULL, "tensor") && !fvg_weights_metadata(w, "a"),
        "nothing");
  fvg_weights_close(w);
  w = opened(P("\200\002ctorch\nSize\n(K\001K\002\206tR."), NULL, 0);
  check(fvg_weights_count(w) == 0, "a size alone");
  fvg_weights_close(w);
  w = opened(P("\200\002}(" U1("a") REBUILD "(" STORAGE("Float", "0", "\006") "K\000ctorch\nSize\n"
               PAIR("\002", "\003") "\205R" PAIR("\003", "\001") "\211NtR"
               U6("optimi") LINE "X\011\000\000\000optimizer" LINE "u."), NULL, 0);
  check(fvg_weights_count(w) == 3 && same(w, "a", FVG_F32, 2, 2, 3, six) && fvg_weights_info(w,
                                                                                             NULL,
                                                                                             "optimizer"),
        "torch.Size; without a state_dict nothing is left out");
  fvg_weights_close(w);
}

static void test_archives(void) {
  static const char header[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}";
  archive *a;
  fvg_weights *w = NULL;
  uint8_t *large;
  int i, ok = 1;
  for (i = 0; i < 4; i++) {
    a = fresh();
    a->zip64 = i & 1;
    a->comment = i & 2 ? "a comment with PK\005\006 in it, and something like a record" : NULL;
    a->folder = i ? "a b/" : "archive/";
    add(a, "version", "3\n", 2);
    make(a, P("\200\002}" U1("a") LINE "s."), NULL, 0);
    ok &= open_bytes(&w, a->file.data, a->file.n) == FVG_OK && same(w, "a", FVG_F32, 1, 6, 0, six);
    if (!w) printf("  %d: %s\n", i, fvg_error(c));
    fvg_weights_close(w);
  }
  check(ok, "archives with and without zip64 and comment, whatever the folder's name");

  memset(a, 0, sizeof *a);
  put_number(&a->file, 640, 8);                    /* 0x0280: the first bytes of a pickle                         */
  put(&a->file, header, sizeof header - 1);
  while (a->file.n < 648) put(&a->file, " ", 1);
  put(&a->file, "xyz", 3);
  check(open_bytes(&w, a->file.data, a->file.n) == FVG_OK && same(w, "a", FVG_U8, 1, 3, 0, "xyz"),
        "safetensors, told apart from pickles");
  fvg_weights_close(w);
  large = (uint8_t *)calloc(0x04034b50 + 16, 1);
  if (!large) return;
  memset(large, ' ', 0x04034b50 + 16);
  memcpy(large, "PK\003\004\0\0\0\0", 8);
  memcpy(large + 8, header, sizeof header - 1);
  check(open_bytes(&w, large, 0x04034b50 + 8 + 3) == FVG_OK && fvg_weights_count(w) == 1,
        "and from zip, where the header's length reads PK");
  fvg_weights_close(w);
  free(large);
}

/* ---- files that are refused ---- */
typedef struct hostile { const char *pickle; size_t n; fvg_status status; const char *words, *what; } hostile;

#define A "\200\002}" U1("a")
#define BAD(pickle, words, what) {P(pickle), FVG_E_FORMAT, words, what}

static void test_hostile_pickles(void) {
  static const hostile h[] = {
    BAD("\200\002cos\nsystem\nU\010rm -rf /\205R.", "model.pt: the pickle asks for os.system; only tensors",
        "a call of os.system"),
    BAD("\200\004\214\002os\214\006system\223U\001x\205R.", "asks for os.system;", "the same in protocol 4"),
    BAD("\200\002c__builtin__\neval\n.", "__builtin__.eval", "eval without a call"),
    BAD(A "ctorch\nQUInt8Storage\ns.", "torch.QUInt8Storage", "a storage of unknown kind"),
    BAD("\200\002ccollections\nOrderedDict.\n.", "OrderedDict.", "a name that begins like a known one"),
    BAD("\200\002c\001\377x\ny\n.", "??x.y", "a name that cannot be printed"),
    BAD("\200\002cabc", "without an end", "a name without an end"),
    BAD("\200\002cabc\ndef", "without an end", "half a name"),
    BAD("\200\002K\001K\002\223.", "not a string", "a name of numbers"),
    BAD("\200\002ctorch\nFloatStorage\n)R.", "storage", "a call of a storage"),
    BAD("\200\002ctorch\nSize\n)R.", "without arguments", "a call without arguments"),
    BAD("\200\002ctorch\nSize\nK\001R.", "without a tuple", "a call with a number"),
    BAD("\200\002K\001)R.", "a known name", "a call of a number"),
    BAD("\200\002ccollections\nOrderedDict\n](K\001K\002e\205R.", "dictionary", "a dictionary made from a list"),
    BAD("", "protocol", "an empty pickle"),
    BAD("}.", "protocol", "a pickle of protocol 0"),
    BAD("\200\001}.", "protocol", "protocol 1"),
    BAD("\200\006}.", "protocol", "protocol 6"),
    BAD("\200\002}", "ends too early", "no end"),
    BAD("\200\002K", "ends too early", "half an instruction"),
    BAD("\200\002X\004\000\000\000abc", "longer than the pickle", "a string that is cut off"),
    BAD("\200\002\215\377\377\377\377\377\377\377\377.", "longer than the pickle", "a string of 2^64 bytes"),
    BAD("\200\002I5\n.", "0x49", "an instruction of text pickles"),
    BAD("\200\002\000.", "0x00", "an instruction 0"),
    BAD("\200\002.", "too little on the stack", "nothing to give back"),
    BAD("\200\0020.", "too little", "pop of nothing"),
    BAD("\200\002K\001(0.", "too little", "pop of a mark"),
    BAD("\200\002NN(0.", "too little", "pop of a value below the mark"),
    BAD("\200\002}K\001(K\002s.", "too little", "a key below the mark for a value above it"),
    BAD("\200\002K\001R.", "too little", "a call of nothing"),
    BAD("\200\002K\001a.", "too little", "append to nothing"),
    BAD("\200\002(K\001e.", "too little", "appends to nothing"),
    BAD("\200\002]((e.", "too little", "items beyond a mark"),
    BAD("\200\002]te.", "no mark", "no mark"),
    BAD("\200\002}](K\001K\002u.", "no container of their kind", "pairs for a list"),
    BAD("\200\002}K\001a.", "no container of their kind", "append to a dictionary"),
    BAD("\200\002}(K\001u.", "key without a value", "a key without a value"),
    BAD("\200\002h\000.", "holds nothing there", "an empty place of the memo"),
    BAD("\200\002Kzq\377.", "fewer places", "a place beyond the memo"),
    BAD("\200\002K\001q\004.", "fewer places", "the place behind the last: four instructions"),
    BAD("\200\002j\377\377\377\377.", "holds nothing there", "a place far beyond the memo"),
    BAD("\200\002Kzr\377\377\377\377.", "fewer places", "and one to put something"),
    BAD("\200\002}(" U1("a") LINE U1("a") LINE "u.", "tensor a appears twice", "a name given twice"),
    BAD("\200\002}(" U1("a") LINE "X\010\000\000\000module.a" LINE "u.", "tensor a appears twice",
        "a name given twice, once with module."),
    BAD("\200\002}N" LINE "s.", "neither a string nor a whole number", "a tensor whose key is None"),
    BAD("\200\002}U\001\377" LINE "s.", "not UTF-8", "a name that is not UTF-8"),
    BAD("\200\002}U\003a\000b" LINE "s.", "zero", "a name with a zero"),
    BAD("\200\002}U\001aU\001\377s.", "not UTF-8", "metadata that are not UTF-8"),
    BAD(A TENSOR("Float", "2", "\006", "\000", ROW("\006"), ROW("\001")) "s.", "no data/2", "an absent storage"),
    BAD(A TENSOR("Float", "0", "\007", "\000", ROW("\006"), ROW("\001")) "s.", "of 7 F32", "a short storage"),
    BAD(A FLOATS("\001", ROW("\006"), ROW("\001")) "s.", "leaves its storage of 6",
        "an offset that is too large"),
    BAD(A TENSOR("Float", "0", "\005", "\000", ROW("\006"), ROW("\001")) "s.", "leaves its storage of 5",
        "a tensor larger than its storage"),
    BAD(A FLOATS("\000", PAIR("\002", "\003"), PAIR("\004", "\001")) "s.", "leaves its storage",
        "strides that leave the storage"),
    BAD(A FLOATS("\006", ")", ")") "s.", "leaves its storage", "a scalar outside"),
    BAD(A TENSOR("Float", "0", "\000", "\000", ")", ")") "s.", "leaves its storage", "a scalar of nothing"),
    BAD(A FLOATS("\000", PAIR("\002", "\002"),
                 "\212\010\377\377\377\377\377\377\377\177K\001\206") "s.", "leaves its storage", "a stride of 2^63"),
    BAD(A FLOATS("\000", ROW("\005"), "\212\010\000\000\000\000\000\000\000\100\205") "s.",
        "leaves its storage", "four steps of 2^62, which wrap around to 0"),
    BAD(A FLOATS("\001", PAIR("\005", "\005"),
                 "\212\010\000\000\000\000\000\000\000\100K\001\206") "s.",
        "leaves its storage", "and beside a stride that fits"),
    BAD(A FLOATS("\000", "J\377\377\377\177J\377\377\377\177J\377\377\377\177\207",
                 "K\000K\000K\000\207") "s.", "too large", "a shape that overflows"),
    BAD(A FLOATS("\000", ROW("\006"), PAIR("\001", "\001")) "s.", "one length",
        "more strides than dimensions"),
    BAD(A FLOATS("\000", "J\376\377\377\377\205", ROW("\001")) "s.", "dimension 0",
        "a negative dimension"),
    BAD(A FLOATS("\000", "\212\005\000\000\000\000\001\205", ROW("\001")) "s.", "dimension 0",
        "a dimension of 2^32"),
    BAD(A FLOATS("\000", ROW("\006"), "J\377\377\377\377\205") "s.", "dimension 0",
        "a negative stride"),
    BAD(A FLOATS("\000", "U\001x\205", ROW("\001")) "s.", "dimension 0", "a dimension in words"),
    BAD(A FLOATS("\000", "K\006", ROW("\001")) "s.", "two tuples", "a shape that is a number"),
    BAD(A REBUILD "(K\001K\000)))NtRs.", "its storage is not", "a storage that is a number"),
    BAD(A REBUILD ")Rs.", "its storage is not", "a tensor of nothing"),
    BAD(A REBUILD "(K\001QK\000))NNtRs.", "its storage is not", "a storage made of a number"),
    BAD(A REBUILD "(" STORAGE("Float", "0", "\006") "U\001x))NNtRs.", "offset", "an offset in words"),
    BAD(A REBUILD "((U\007modulesctorch\nFloatStorage\n" U1("0") "U\003cpuK\006tQK\000))NNtRs.", "its storage is not",
        "a persistent module"),
    {P(A FLOATS("\000", "(K\001K\001K\001K\001K\001K\001K\001t", "(K\001K\001K\001K\001K\001K\001"
       "K\001t") "s."), FVG_E_UNSUPPORTED, "7 dimensions", "too many dimensions"},
    {P(A FLOATS("\000", "J\000\000\000\020\205", "K\000\205") "s."), FVG_E_UNSUPPORTED,
     "more bytes than the file", "one element repeated 2^28 times"}};
  size_t i;
  for (i = 0; i < sizeof h / sizeof *h; i++) {
    archive *a = fresh();
    fvg_weights *w = NULL;
    fvg_status s;
    size_t used = fvg_mem_used(c);
    make(a, h[i].pickle, h[i].n, NULL, 0);
    s = open_bytes(&w, a->file.data, a->file.n);
    check(s == h[i].status && !w && says("model.pt: ") && says(h[i].words) && fvg_mem_used(c) == used, h[i].what);
    if (s != h[i].status || !says(h[i].words)) printf("  %d %s\n", (int)s, fvg_error(c));
    fvg_weights_close(w);
  }
}

/* Nets that unfold into too much, or never end; they must be refused at once. */
static void test_bombs(void) {
  static char p[80000];                            /* more than any of them takes                                */
  size_t n, i, large;
  fvg_weights *w = NULL;
  fvg_status s;
  archive *a;
  const char *what[8] = {"200 lists in one another",
                         "60 levels of doubling", "a list within itself",
                         "an object that is its own attributes", "a long name shared by many tensors",
                         "a name of 600 bytes", "a name of 513 bytes in two parts",
                         "a long name shared by tensors, and many instructions that do nothing"};
  int kind, ok;
  for (kind = 0; kind < 8; kind++) {
    memcpy(p, "\200\002", 2);
    n = 2;
    if (kind == 0) {
      memset(p + n, ']', 200), n += 200;
      memset(p + n, 'a', 199), n += 199;
    }
    if (kind == 1) {
      p[n++] = ']', p[n++] = 'q', p[n++] = 0;
      for (i = 1; i < 60; i++) {
        memcpy(p + n, "](h\000h\000eq\000", 9);
        p[n + 3] = p[n + 5] = (char)(i - 1);
        p[n + 8] = (char)i;
        n += 9;
      }
    }
    if (kind == 2) { memcpy(p + n, "]q\000h\000aN0", 8); n += 8; }
    if (kind == 3) { memcpy(p + n, "c__torch__\nA\n)\201q\000h\000b", 20); n += 20; }
    if (kind == 4) {                                   /* 3000 tensors in a list that 20 names of 400 bytes lead to */
      memcpy(p + n, "](" LINE "q\000", sizeof "](" LINE "q\000" - 1), n += sizeof "](" LINE "q\000" - 1;
      for (i = 0; i < 3000; i++) { p[n++] = 'h'; p[n++] = 0; }
      p[n++] = 'e', p[n++] = 'q', p[n++] = 1, p[n++] = '}', p[n++] = '(';
      for (i = 0; i < 20; i++) {
        memcpy(p + n, "X\220\001\000\000", 5);
        memset(p + n + 5, (int)('a' + i), 400);
        memcpy(p + n + 405, "h\001", 2);
        n += 407;
      }
      p[n++] = 'u';
    }
    if (kind == 5) {
      memcpy(p + n, "}X\130\002\000\000", 6);
      memset(p + n + 6, 'x', 600);
      memcpy(p + n + 606, LINE "s", sizeof LINE "s" - 1), n += 606 + sizeof LINE "s" - 1;
    }
    if (kind == 6) {                                   /* a dot stands between 256 and 256 bytes */
      for (i = 0; i < 2; i++) {
        memcpy(p + n, "}X\000\001\000\000", 6);
        memset(p + n + 6, (int)('x' + i), 256);
        n += 262;
      }
      memcpy(p + n, LINE "ss", sizeof LINE "ss" - 1), n += sizeof LINE "ss" - 1;
    }
    if (kind == 7) {
      static const char shared[] = "](" LINE "q\000";
      memcpy(p + n, shared, sizeof shared - 1);
      n += sizeof shared - 1;
      for (i = 0; i < 400; i++) { p[n++] = 'h'; p[n++] = 0; }
      p[n++] = 'e', p[n++] = 'q', p[n++] = 1, p[n++] = '}';
      memcpy(p + n, "X\220\001\000\000", 5);
      memset(p + n + 5, 'x', 400);
      memcpy(p + n + 405, "h\001s", 3);
      n += 408;
      for (i = 0; i < 1500; i++) p[n++] = i % 2 ? '0' : 'N';
    }
    p[n++] = '.';
    a = fresh();
    make(a, p, n, NULL, 0);
    large = fvg_mem_used(c);
    s = open_bytes(&w, a->file.data, a->file.n);
    ok = s == FVG_E_FORMAT && !w &&
         says(kind == 5 || kind == 6 ? "longer than 512" : "too often") && fvg_mem_used(c) == large;
    check(ok, what[kind]);
    if (!ok) printf("  %d %s\n", (int)s, fvg_error(c));
    fvg_weights_close(w);
  }
}

static void overwrite(archive *a, size_t at, uint64_t x, int n) {
  for (; n; n--, x >>= 8) a->file.data[at++] = (uint8_t)(x & 255);
}

static archive *plain(int zip64) {                     /* data.pkl and data/0                                     */
  archive *a = fresh();
  a->zip64 = zip64;
  make(a, P(A LINE "s."), NULL, 0);
  return a;
}

/* A file with a bit of everything. */
static void small(archive *a, int zip64) {
  a->zip64 = zip64;
  a->comment = "?";
  add(a, "data.pkl", P("\200\002}(X\012\000\000\000state_dict" ORDERED_DICT "(" U1("a")
      FLOATS("\000", PAIR("\003", "\002"), PAIR("\001", "\003"))
      U1("h") "ctorch._utils\n_rebuild_parameter\n("
      TENSOR("Half", "1", "\004", "\001", ROW("\003"), ROW("\001")) "\210NtRu"
      "U\005epochK\003U\004name\214\002xyU\001mc__torch__\nM\n)\201}U\001w](N" LINE "esbu."));
  add_six(a);
  add(a, "data/1", halves, sizeof halves);
  add(a, "byteorder", "little", 6);
  finish(a);
}

static int refuses(const archive *a, fvg_status status, const char *words) {
  fvg_weights *w = NULL;
  fvg_status s = open_bytes(&w, a->file.data, a->file.n);
  int ok = s == status && !w && says("model.pt") && says(words);
  if (!ok) printf("  %d %s\n", (int)s, fvg_error(c));
  fvg_weights_close(w);
  return ok;
}

static void test_hostile_archives(void) {
  static const uint8_t old[15] = {0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, '.'};
  archive *a = fresh();
  size_t end, directory, second;
  put(&a->file, old, 15);
  put(&a->file, "\200\002M\351\003.", 6);
  check(refuses(a, FVG_E_UNSUPPORTED, "torch.save(torch.load("), "the format of before 1.6");
  a->file.n = 14;
  check(refuses(a, FVG_E_UNSUPPORTED, "Python pickle"), "and a part of its magic number");

  a = fresh();
  a->method = 8;
  make(a, P(A LINE "s."), NULL, 0);
  check(refuses(a, FVG_E_UNSUPPORTED, "model/data.pkl is compressed"), "a compressed pickle");
  a = fresh();
  add(a, "data.pkl", P(A LINE "s."));
  a->method = 8;
  add_six(a);
  finish(a);
  check(refuses(a, FVG_E_UNSUPPORTED, "model/data/0 is compressed"), "a compressed storage");
  a = fresh();
  a->flags = 1;
  make(a, P(A LINE "s."), NULL, 0);
  check(refuses(a, FVG_E_UNSUPPORTED, "encrypted"), "an encrypted pickle");
  a = fresh();
  add(a, "byteorder", "big", 3);
  make(a, P(A LINE "s."), NULL, 0);
  check(refuses(a, FVG_E_UNSUPPORTED, "little-endian"), "big-endian numbers");
  a = fresh();
  add(a, "byteorder", "", 0);
  make(a, P(A LINE "s."), NULL, 0);
  check(refuses(a, FVG_E_UNSUPPORTED, "little-endian"), "numbers of no order");
  a = fresh();
  add(a, "x/data.pkl", P(A LINE "s."));
  add(a, "constants.pkl", "\200\002).", 4);
  finish(a);
  check(refuses(a, FVG_E_FORMAT, "not a PyTorch file"), "no pickle one folder deep");
  a = fresh();
  add(a, "data.pkl", P(A LINE "s."));
  a->folder = "other/";
  add(a, "data.pkl", P(A LINE "s."));
  finish(a);
  check(refuses(a, FVG_E_FORMAT, "two folders"), "two pickles");
  a = fresh();
  add_six(a);
  make(a, P(A LINE "s."), NULL, 0);
  check(refuses(a, FVG_E_FORMAT, "model/data/0 appears twice"), "two members of one name");

  a = plain(0);
  end = a->file.n - 22;
  directory = end - a->directory.n;
  second = directory + 46 + strlen("model/data.pkl");
  overwrite(a, directory + 20, sizeof A LINE "s.", 4);          /* its length and one byte more */
  overwrite(a, directory + 24, sizeof A LINE "s.", 4);
  check(refuses(a, FVG_E_FORMAT, "data.pkl and model/data/0 overlap"), "members that share a byte");
  a = plain(0);
  overwrite(a, second + 42, 0, 4);
  check(refuses(a, FVG_E_FORMAT, "overlap at byte 0"), "members that overlap");
  overwrite(a, second + 42, 1, 4);
  check(refuses(a, FVG_E_FORMAT, "are not there"), "a member without a header");
  overwrite(a, second + 42, 0xFFFFFFF0u, 4);
  check(refuses(a, FVG_E_FORMAT, "ends after"), "a member beyond the file");
  overwrite(a, second + 42, 0xFFFFFFFFu, 4);
  check(refuses(a, FVG_E_FORMAT, "directory is broken"), "an offset in a zip64 field that is not there");
  a = plain(0);
  overwrite(a, second + 20, 25, 4);
  check(refuses(a, FVG_E_FORMAT, "are not there"), "packed and unpacked sizes that differ");
  overwrite(a, second + 24, 25, 4);
  check(refuses(a, FVG_E_FORMAT, "are not there"), "a member that reaches into the directory");
  a = plain(0);
  overwrite(a, directory + 28, 0xFFFF, 2);
  check(refuses(a, FVG_E_FORMAT, "directory is broken"), "a name that leaves the directory");
  int right = 1;
  for (int more = 1; more <= 46; more++) {           /* 46 bytes are the fixed part of an entry */
    static const int field[3] = {28, 30, 32};        /* lengths of name, extra fields, comment */
    for (int i = 0; i < 3 && right; i++) {
      const int length = i == 0 ? (int)strlen("model/data/0") : 0;
      a = plain(0);
      overwrite(a, second + (size_t)field[i], (uint64_t)(length + more), 2);
      right = refuses(a, FVG_E_FORMAT, "directory is broken");
    }
  }
  check(right, "a last entry that reaches 1 to 46 bytes too far");
  a = plain(0);
  overwrite(a, directory, 0, 1);
  check(refuses(a, FVG_E_FORMAT, "directory is broken"), "an entry without its mark");
  a = fresh();
  small(a, 0);
  overwrite(a, a->file.n - 23 + 10, 5, 2);
  check(refuses(a, FVG_E_FORMAT, "directory is broken"), "a fifth entry of four");
  a = plain(0);
  overwrite(a, end + 10, 60000, 2);
  check(refuses(a, FVG_E_FORMAT, "60000 entries"), "a directory of 60000 entries in 130 bytes");
  overwrite(a, end + 10, 0xFFFF, 2);
  check(refuses(a, FVG_E_FORMAT, "zip64 record"), "a zip64 record that is not there");
  a = plain(0);
  overwrite(a, end + 16, directory + 1, 4);
  check(refuses(a, FVG_E_FORMAT, "does not fit"), "a directory that ends too late");
  a->file.data[a->file.n++] = 'x';
  check(refuses(a, FVG_E_FORMAT, "last record is missing"), "a byte too many");

  a = plain(1);
  overwrite(a, a->file.n - 22 - 20 + 8, UINT64_MAX, 8);
  check(refuses(a, FVG_E_FORMAT, "ends after"), "a zip64 record at 2^64");
  a = plain(1);
  overwrite(a, a->file.n - 22 - 20 - 8, UINT64_MAX - 5, 8);
  check(refuses(a, FVG_E_FORMAT, "does not fit"), "a directory at 2^64");
  a = plain(1);
  overwrite(a, a->file.n - 22 - 20 - 24, UINT64_MAX, 8);
  check(refuses(a, FVG_E_FORMAT, "does not fit"), "2^64 entries");
  a = plain(1);
  directory = a->file.n - 22 - 20 - 56 - a->directory.n;
  overwrite(a, directory + 46 + strlen("model/data.pkl") + 10, UINT64_MAX, 8);
  check(refuses(a, FVG_E_FORMAT, "are not there"), "a member of 2^64 bytes");
  a = plain(1);
  overwrite(a, directory + 46 + strlen("model/data.pkl") + 26, UINT64_MAX - 10, 8);
  check(refuses(a, FVG_E_FORMAT, "ends after"), "a member at 2^64");
  a = plain(1);
  overwrite(a, directory + 46 + strlen("model/data.pkl") + 8, 16, 2);
  check(refuses(a, FVG_E_FORMAT, "directory is broken"), "a zip64 field that is too short");
  overwrite(a, directory + 46 + strlen("model/data.pkl") + 8, 25, 2);
  check(refuses(a, FVG_E_FORMAT, "directory is broken"), "a zip64 field that is too long");
  overwrite(a, directory + 46 + strlen("model/data.pkl") + 2, 99, 2);
  check(refuses(a, FVG_E_FORMAT, "directory is broken"), "another field that is too long");
}

/* ---- every cut, every wrong byte, every allocation ---- */
/* Opens what a block of its own holds, so that a sanitizer sees the first byte too far, and reads every tensor. */
static fvg_status read_all(fvg_ctx *context, const uint8_t *data, size_t n, int *wrong) {
  uint8_t *copy = (uint8_t *)malloc(n ? n : 1);
  size_t used = fvg_mem_used(context);
  fvg_weights *w = NULL;
  fvg_status status = FVG_E_NOMEM, s;
  fvg_source source;
  fvg_tensor x;
  int i;
  if (!copy) return status;
  memcpy(copy, data, n);
  source = fvg_source_memory(copy, n, "model.pt");
  status = fvg_weights_open_any(context, &w, &source);
  *wrong += (status == FVG_OK) != (w != NULL) || (status && !fvg_error(context)[0]);
  for (i = 0; w && i < fvg_weights_count(w); i++) {
    *wrong += !fvg_weights_info(w, &x, fvg_weights_name(w, i));
    s = fvg_weights_get(w, &x, fvg_weights_name(w, i), FVG_F32);
    *wrong += (s == FVG_OK) != (x.data != NULL);
    if (s == FVG_E_NOMEM) status = s;
    fvg_tensor_free(context, &x);
  }
  if (w) fvg_weights_metadata(w, "epoch");
  fvg_weights_close(w);
  *wrong += fvg_mem_used(context) != used;
  free(copy);
  return status;
}

static void test_damaged(void) {
  static const uint8_t change[] = {1, 2, 4, 8, 16, 32, 64, 128, 255, 0x5A};
  static archive good;
  size_t cut, at, k;
  int wrong = 0, read = 0, zip64;
  fvg_ctx *own;
  if (fvg_init(&own, NULL)) { check(0, "context"); return; }
  for (zip64 = 0; zip64 < 2; zip64++) {
    memset(&good, 0, sizeof good);
    small(&good, zip64);
    check(read_all(own, good.file.data, good.file.n, &wrong) == FVG_OK && !wrong, "a small file");
    for (cut = 0; cut < good.file.n; cut++) {
      read += read_all(own, good.file.data, cut, &wrong) != FVG_E_FORMAT;
      if (read && read < 3) printf("  cut at %d: %s\n", (int)cut, fvg_error(own));
    }
    check(!read && !wrong, "a file cut at any byte is refused");
    for (at = 0; at < good.file.n; at++) {
      uint8_t byte = good.file.data[at];
      for (k = 0; k < sizeof change; k++) {
        good.file.data[at] = (uint8_t)(byte ^ change[k]);
        read_all(own, good.file.data, good.file.n, &wrong);
      }
      good.file.data[at] = byte;
    }
    check(!wrong, "any byte may be wrong");
  }
  check(fvg_mem_peak(own) < 200000 + 100 * good.file.n, "no damage costs memory");
  fvg_free(own);
}

static int countdown;
static void *scarce_alloc(void *user, size_t n) { (void)user; return countdown-- > 0 ? malloc(n) : NULL; }
static void scarce_release(void *user, void *p, size_t n) { (void)user; (void)n; free(p); }

static void test_out_of_memory(void) {
  static archive good;
  fvg_ctx *scarce;
  fvg_desc d;
  int k, wrong = 0, done = 0;
  small(&good, 0);
  memset(&d, 0, sizeof d);
  d.allocator.alloc = scarce_alloc;
  d.allocator.release = scarce_release;
  countdown = 1;
  if (fvg_init(&scarce, &d)) { check(0, "context"); return; }
  for (k = 0; k < 60 && !done; k++) {
    countdown = k;
    done = read_all(scarce, good.file.data, good.file.n, &wrong) == FVG_OK;
    wrong += !done && (fvg_last_status(scarce) != FVG_E_NOMEM || !strstr(fvg_error(scarce), "out of memory"));
  }
  check(done && !wrong && k > 20, "each allocation may fail");
  check(fvg_mem_peak(scarce) < 200000 + 100 * good.file.n, "memory in proportion to the file");
  fvg_free(scarce);
}

/* Each reading fails in turn; the source is closed once whatever happens. */
typedef struct failing { const archive *a; int reads, closed; } failing;
static int failing_read(void *user, void *dst, uint64_t offset, size_t n) {
  failing *f = (failing *)user;
  if (f->reads-- <= 0) return 1;
  memcpy(dst, f->a->file.data + offset, n);
  return 0;
}
static void failing_close(void *user) { ((failing *)user)->closed++; }

static void test_reading_fails(void) {
  static archive good;
  failing f;
  fvg_source s;
  fvg_weights *w;
  fvg_status status = FVG_E_IO;
  int k, ok = 1;
  small(&good, 0);
  for (k = 0; k < 60 && status; k++) {
    memset(&f, 0, sizeof f);
    memset(&s, 0, sizeof s);
    f.a = &good;
    f.reads = k;
    s.read = failing_read;
    s.close = failing_close;
    s.user = &f;
    s.size = good.file.n;
    s.name = "model.pt";
    status = fvg_weights_open_any(c, &w, &s);
    ok &= status == FVG_OK ? w && !f.closed : status == FVG_E_IO && !w && f.closed == 1 && says("model.pt");
    if (!status) {
      fvg_tensor x;
      f.reads = 0;
      ok &= fvg_weights_get(w, &x, "a", FVG_F32) == FVG_E_IO && !x.data;
      fvg_weights_close(w);
      ok &= f.closed == 1;
    }
  }
  check(ok && !status && k > 6, "each reading may fail");
}

int main(void) {
  if (fvg_init(&c, NULL)) return 1;
  test_checkpoint();
  test_modules();
  test_strides();
  test_large_transpose();
  test_dtypes();
  test_instructions();
  test_archives();
  test_hostile_pickles();
  test_bombs();
  test_hostile_archives();
  test_damaged();
  test_out_of_memory();
  test_reading_fails();
  check(fvg_mem_used(c) == 0, "no memory stays");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
