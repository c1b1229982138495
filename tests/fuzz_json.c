/* Fuzzer for fvg_json_parse: what it takes is a tree in which everything can be reached once. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt.h"

#include "fuzzing.h"

static fvg_ctx *own;

static void begin(void) { own = fuzz_context(); }

static void check_text(const char *text) {
  size_t left = strlen(text), length;
  for (; left; left -= length, text += length) {
    length = fvg_utf8_length((const uint8_t *)text, left);
    if (!length) fault("a string that is not UTF-8");
  }
}

/* The number of values at and below `at`. */
static int count_values(const fvg_json *j, int at) {
  const fvg_json_value *v = &j->value[at];
  int n = 1, n_child = 0, child;
  if (at < 0 || at >= j->n || !v->string) fault("a value that is none");
  check_text(v->string);
  if (v->string[0] && v->type != FVG_JSON_STRING) fault("a string of a value that is none");
  if (v->first >= 0 && v->type != FVG_JSON_ARRAY && v->type != FVG_JSON_OBJECT) fault("children of a leaf");
  for (child = v->first; child >= 0; child = j->value[child].next, n_child++) {
    const char *key = j->value[child].key;
    if (!key != (v->type == FVG_JSON_ARRAY)) fault("keys are for members of objects alone");
    if (key && !j->value[fvg_json_find(j, at, key)].key) fault("a member that is not found");
    if (key) check_text(key);
    n += count_values(j, child);
    if (n > j->n) fault("more values than there are");
  }
  if (n_child != v->n_child) fault("children that are not counted");
  return n;
}

static int take(const uint8_t *data, size_t n) {
  fvg_json j;
  const fvg_status status = fvg_json_parse(own, &j, (const char *)data, n, "fuzz");
  if (status) check_refusal(own, status);
  else if (count_values(&j, 0) != j.n) fault("values that cannot be reached");
  fvg_json_free(own, &j);
  return !status;
}

static int seed(fuzz_input *to, int i) {
  static const char *const text[] = {
    "{\"a\": [1, -2.5e-3, true, false, null], \"b\": {\"c\": \"x\\n\\u00e9\\ud83d\\ude00\"}, \"a\": \"\"}",
    " [ [ [ ] , { } ] , 0 , 1E+2 , \"\\\"\\\\\\/\\b\\f\\r\\t\" ] ", "\"caf\xC3\xA9\"", "-0.0", NULL};
  return seed_of_text(to, text, i);
}

static const char *const word[] = {"[", "]", "{", "}", ",", ":", "\"", "true", "false", "null", "\\u", "\\ud83d", "\\ude00", "\\u0000",
                                   "\\\\", "\\\"", "1e308", "1e309", "-0", "0.1", "E-400", "[[[[[[[[", "{\"a\":", "\xEF\xBB\xBF", NULL};

static const fuzz_target target = {50000, begin, take, seed, NULL, word, NULL};
