/* Reading JSON files; see fvgpt_json.h. */
#include "fvgpt_json.h"

#include <stdio.h>
#include <string.h>

fvg_status load_json(fvg_ctx *c, fvg_json *j, const char *path) {
  memset(j, 0, sizeof *j);
  fvg_source source;
  fvg_status s = fvg_source_file(c, &source, path);
  if (s) return s;
  uint8_t *bytes = NULL;
  size_t n;
  s = fvg_source_read_all(c, &bytes, &n, &source);
  if (!s) s = fvg_json_parse(c, j, (const char *)bytes, n, path);
  fvg_bytes_free(c, bytes);
  fvg_source_close(&source);
  return s;
}

int json_number(const fvg_json *j, int object, const char *key, double *out) {
  const int at = fvg_json_find(j, object, key);
  if (at < 0 || j->value[at].type != FVG_JSON_NUMBER) return 0;
  *out = j->value[at].number;
  return 1;
}

int json_first(const fvg_json *j, int object, const char *key) {
  const int list = fvg_json_find(j, object, key);
  return list < 0 ? -1 : j->value[list].first;
}

int json_text(const fvg_json *j, int object, const char *key, char *to, size_t size) {
  const int at = fvg_json_find(j, object, key);
  if (at < 0 || j->value[at].type != FVG_JSON_STRING) return 0;
  return snprintf(to, size, "%s", j->value[at].string) < (int)size;
}
