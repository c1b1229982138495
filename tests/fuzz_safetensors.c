/* Fuzzer for fvg_weights_open_any, safetensors and PyTorch's zip and pickle alike, and fvg_weights_get. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt.h"

#include "fuzzing.h"

static int take(const uint8_t *data, size_t size) {
  static const fvg_dtype types[] = {FVG_F32, FVG_F16, FVG_I32, FVG_U8, FVG_I8};
  fvg_source s = fvg_source_memory(data, size, "fuzz");
  fvg_ctx *c = fuzz_context();
  fvg_weights *w;
  fvg_tensor x;
  const fvg_status status = fvg_weights_open_any(c, &w, &s);
  int i, k;
  if (!status != (w != NULL)) fault("status and result disagree");
  if (status) check_refusal(c, status);
  for (i = 0; w && i < fvg_weights_count(w); i++) {
    const char *name = fvg_weights_name(w, i);
    if (!fvg_weights_info(w, &x, name)) fault("a tensor that is listed cannot be found");
    for (k = 0; k < 5; k++) {
      if (!fvg_weights_get(w, &x, name, types[k]) == !x.data) fault("status and data disagree");
      fvg_tensor_free(c, &x);
    }
  }
  if (w) fvg_weights_metadata(w, "format");
  fvg_weights_close(w);
  if (fvg_mem_peak(c) > 200000 + 100 * size) fault("memory out of proportion");
  fvg_free(c);
  return !status;
}

/* Tensors of every type that is written, one of them a scalar. */
static void make_safetensors(fuzz_input *s) {
  static float value[12] = {1, 2, 3};
  fvg_named_tensor t[5];
  fvg_metadata m;
  fvg_ctx *c;
  int i;
  memset(t, 0, sizeof t);
  for (i = 0; i < 5; i++) {
    static const char *name[] = {"a.weight", "a.bias", "ids", "mask", "\xC3\xA9\n"};
    static const fvg_dtype type[] = {FVG_F32, FVG_F16, FVG_I64, FVG_I8, FVG_BF16};
    t[i].name = name[i];
    t[i].tensor.type = type[i];
    t[i].tensor.data = value;
    t[i].tensor.n_dim = i % 3;
    t[i].tensor.dim[0] = 2;
    t[i].tensor.dim[1] = i + 1;
  }
  m.key = "format";
  m.value = "pt";
  c = fuzz_context();
  if (fvg_safetensors_write(c, append, s, t, 5, &m, 1)) fault(fvg_error(c));
  fvg_free(c);
}

static void put(fuzz_input *s, const void *bytes, size_t n) { memcpy(s->data + s->n, bytes, n); s->n += n; }
static void put_number(fuzz_input *s, uint32_t x, int n) { for (; n; n--, x >>= 8) s->data[s->n++] = (uint8_t)(x & 255); }

/* A checkpoint: a transposed tensor of floats, a parameter of halves, an object, numbers. */
static void make_archive(fuzz_input *s) {
  static const char pickle[] = "\200\002}(X\012\0\0\0state_dictccollections\nOrderedDict\n)R(X\001\0\0\0a"
    "ctorch._utils\n_rebuild_tensor_v2\nq\0((U\007storagectorch\nFloatStorage\nU\0010U\003cpuK\006tQK\0K\003K\002\206"
    "K\001K\003\206\211NtRq\001U\001bctorch._utils\n_rebuild_parameter\n(h\0((U\007storagectorch\nHalfStorage\nU\0011"
    "U\003cpuK\004tQK\001K\003\205K\001\205\211NtR\210NtRuU\005epochK\003U\002lrG?\271\231\231\231\231\231\232"
    "U\001cc__torch__\nM\n)\201}U\001w](h\001Nh\001esbU\001d\214\001xu.";
  static const char *const name[4] = {"m/data.pkl", "m/data/0", "m/data/1", "m/byteorder"};
  const void *content[4] = {pickle, "0000111122223333444455556666", "00112233", "little"};
  const uint32_t size[4] = {sizeof pickle - 1, 24, 8, 6};
  uint32_t at[4], directory;
  int i;
  for (i = 0; i < 4; i++) {
    at[i] = (uint32_t)s->n;
    put(s, "PK\003\004", 4);
    put_number(s, 0, 22);
    put_number(s, (uint32_t)strlen(name[i]), 4);
    put(s, name[i], strlen(name[i]));
    put(s, content[i], size[i]);
  }
  directory = (uint32_t)s->n;
  for (i = 0; i < 4; i++) {
    put(s, "PK\001\002", 4);
    put_number(s, 0, 16);
    put_number(s, size[i], 4);
    put_number(s, size[i], 4);
    put_number(s, (uint32_t)strlen(name[i]), 4);
    put_number(s, 0, 10);
    put_number(s, at[i], 4);
    put(s, name[i], strlen(name[i]));
  }
  at[0] = (uint32_t)s->n - directory;
  put(s, "PK\005\006\0\0\0\0\004\0\004\0", 12);
  put_number(s, at[0], 4);
  put_number(s, directory, 4);
  put_number(s, 0, 2);
}

static int seed(fuzz_input *to, int i) {
  if (i == 0) make_safetensors(to);
  if (i == 1) make_archive(to);
  return i < 2;
}

static const char *const word[] = {
  "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", "\"__metadata__\":{", "\"dtype\":", "\"shape\":[", "\"data_offsets\":[",
  "\"F64\"", "\"F32\"", "\"F16\"", "\"BF16\"", "\"I64\"", "\"I32\"", "\"I16\"", "\"I8\"", "\"U8\"", "\"BOOL\"", "\\u0041", "\\ud83d\\ude00", "\\\"",
  "-1.5e-3", "1e300", "PK\003\004", "PK\001\002", "PK\005\006", "PK\006\006", "PK\006\007", "cpu", "storage",
  "ctorch._utils\n_rebuild_tensor_v2\n", "ctorch._utils\n_rebuild_parameter\n", "ccollections\nOrderedDict\n", "ctorch\nFloatStorage\n",
  "ctorch\nHalfStorage\n", "ctorch\nBFloat16Storage\n", "ctorch\nLongStorage\n", "\200\002", "\205", "\206", "\207", "\211N", "(K", "}(X", ")R", "tRq", "NtR",
  "Q", "h\001", "state_dict", "module.", "\x8A\x08", "]\x94", "\x8C\x03", NULL};

static const fuzz_target target = {20000, NULL, take, seed, NULL, word, NULL};
