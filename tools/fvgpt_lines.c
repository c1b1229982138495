/* Lists in files; see fvgpt_lines.h. */
#include "fvgpt_lines.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fvgpt_print.h"

const char *list_name(const char *path) { return strcmp(path, "-") ? path : "standard input"; }

static fvg_status cannot_read(fvg_ctx *c, const char *path) {
  return fvg_fail(c, FVG_E_IO, "%s: cannot be read: %s", list_name(path), strerror(errno));
}

/* Reads a stream to its end. */
static fvg_status read_all(fvg_ctx *c, FILE *f, const char *path, document *d) {
  enum { PIECE = 1 << 16 };
  size_t n = 1;
  while (n) {
    char *at = room_for(d, PIECE);
    if (!at) return FVG_E_NOMEM;
    errno = 0;
    n = fread(at, 1, PIECE, f);
    d->n += n;
  }
  d->text[d->n] = 0;
  return ferror(f) ? cannot_read(c, path) : FVG_OK;
}

static fvg_status read_list(fvg_ctx *c, const char *path, document *d) {
  const int is_stdin = !strcmp(path, "-");
  FILE *f = is_stdin ? stdin : fopen(path, "rb");
  if (!f) return cannot_read(c, path);
  fvg_status s = read_all(c, f, path, d);
  if (!is_stdin) fclose(f);
  return s;
}

/* A byte order mark before the first line and a carriage return behind each are not part of it. */
static char *strip(char *line, int is_first, char separator) {
  if (is_first && !strncmp(line, "\xEF\xBB\xBF", 3)) line += 3;
  const size_t n = strlen(line);
  if (separator == '\n' && n && line[n - 1] == '\r') line[n - 1] = 0;
  return line;
}

/* Cuts the n bytes of the list's text in place. */
static fvg_status cut(fvg_ctx *c, line_list *x, size_t n) {
  const char separator = memchr(x->text, 0, n) ? 0 : '\n';
  size_t most = 1;
  for (size_t i = 0; i < n; i++) most += x->text[i] == separator;
  x->line = FVG_NEW_ARRAY(c, char *, most);
  if (!x->line) return FVG_E_NOMEM;

  size_t at = 0;
  while (at < n) {
    char *start = x->text + at;
    char *end = (char *)memchr(start, separator, n - at);
    if (end) *end = 0;
    at = end ? (size_t)(end - x->text) + 1 : n;
    char *line = strip(start, start == x->text, separator);
    if (*line) x->line[x->n++] = line;
  }
  return FVG_OK;
}

fvg_status read_lines(fvg_ctx *c, const char *path, line_list *x) {
  memset(x, 0, sizeof *x);
  document d = new_document(c);
  fvg_status s = read_list(c, path, &d);
  x->text = d.text;
  if (!s && d.n > 1u << 30) s = fvg_fail(c, FVG_E_ARG, "%s: the list is too long", list_name(path));
  if (!s) s = cut(c, x, d.n);
  if (!s && !x->n) s = fvg_fail(c, FVG_E_ARG, "%s: this list is empty", list_name(path));
  return s;
}

void line_list_free(fvg_ctx *c, line_list *x) {
  fvg_release(c, x->line);
  fvg_release(c, x->text);
  memset(x, 0, sizeof *x);
}
