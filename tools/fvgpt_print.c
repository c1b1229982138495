/* Printing; see fvgpt_print.h. */
#include "fvgpt_print.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "fvgpt_system.h"

/* Prints a text of one line; the line ends before and behind it are the caller's own. */
static void print_clean(FILE *to, char *text) {
  char *first = text;
  while (*first == '\n') {
    fputc('\n', to);
    first++;
  }
  char *end = first + strlen(first);
  while (end > first && end[-1] == '\n') end--;
  const size_t n_end = strlen(end);
  *end = 0;

  fvg_printable(first);
  fputs(first, to);
  for (size_t i = 0; i < n_end; i++) fputc('\n', to);
}

void print(FILE *to, const char *format, ...) {
  char brief[1000];
  va_list list;
  va_start(list, format);
  const int n = vsnprintf(brief, sizeof brief, format, list);
  va_end(list);

  /* Without memory for a long text its beginning is printed. */
  char *whole = n >= (int)sizeof brief ? (char *)malloc((size_t)n + 1) : NULL;
  if (whole) {
    va_start(list, format);
    vsnprintf(whole, (size_t)n + 1, format, list);
    va_end(list);
  }
  print_clean(to, whole ? whole : brief);
  free(whole);
}

int finish_output(void) {
  int failed = ferror(stdout);
  int reason = 0;
  errno = 0;
  if (fclose(stdout)) {
    failed = 1;
    reason = errno;
  }
  if (!failed) return 1;
  print(stderr, "fvgpt: standard output: cannot write%s%s\n", reason ? ": " : "",
        reason ? strerror(reason) : "");
  return 0;
}

/* ---- progress ---- */
int show_progress(void *user, const fvg_progress *p) {
  display *d = (display *)user;
  const int is_new_work = p->what != d->what || p->step <= d->last;
  if (is_new_work) {
    d->what = p->what;
    d->start = now();
    d->first = p->step;
    d->last_tenth = 0;
  }
  d->last = p->step;

  const long tenth = p->n_steps ? p->step * 10 / p->n_steps : 10;
  const int is_last = p->step == p->n_steps;
  const int is_due = d->terminal ? p->step % 20 == 0 || is_last : tenth != d->last_tenth;
  if (!is_due) return 0;
  d->last_tenth = tenth;

  if (d->terminal) fprintf(stderr, "\r\033[K");
  fprintf(stderr, "%-10s %ld/%ld", p->what, p->step, p->n_steps);
  if (p->n_epochs) {
    fprintf(stderr, "  epoch %d/%d  loss %.4f  lr %.2g", p->epoch + 1, p->n_epochs, p->loss,
            p->lr);
  }
  const double spent = now() - d->start;
  const double rate = spent > 0 ? (double)(p->step - d->first) / spent : 0;
  if (rate > 0)
    fprintf(stderr, "  %.0f/s  %.0f s left", rate, (double)(p->n_steps - p->step) / rate);

  d->open_line = d->terminal && !is_last;
  if (!d->open_line) fputc('\n', stderr);
  return 0;
}

static int is_muted;

void mute_log(int on) { is_muted = on; }

void show_log(void *user, int level, const char *message) {
  display *d = (display *)user;
  if (is_muted) return;
  print(stderr, "%sfvgpt: %s%s\n", d->open_line ? "\n" : "", level ? "note: " : "", message);
  d->open_line = 0;
}

/* ---- texts that grow ---- */
document new_document(fvg_ctx *c) {
  document t;
  memset(&t, 0, sizeof t);
  t.c = c;
  return t;
}

char *room_for(document *t, size_t n) {
  if (!t->status && t->n + n + 1 > t->size) {
    const size_t size = 2 * (t->n + n) + 4096;
    char *more = (char *)fvg_alloc(t->c, size);
    if (!more) {
      t->status = FVG_E_NOMEM;
      return NULL;
    }
    if (t->n) memcpy(more, t->text, t->n);
    fvg_release(t->c, t->text);
    t->text = more;
    t->size = size;
  }
  return t->status ? NULL : t->text + t->n;
}

void put(document *t, const char *format, ...) {
  va_list list;
  va_start(list, format);
  const int n = vsnprintf(NULL, 0, format, list);
  va_end(list);
  char *at = n > 0 ? room_for(t, (size_t)n) : NULL;
  if (!at) return;

  va_start(list, format);
  vsnprintf(at, (size_t)n + 1, format, list);
  va_end(list);
  t->n += (size_t)n;
}

/* A character as HTML writes it; 0: it stands for itself. */
static const char *html_of(uint32_t ch) {
  if (ch == '<') return "&lt;";
  if (ch == '>') return "&gt;";
  if (ch == '&') return "&amp;";
  if (ch == '"') return "&quot;";
  if (ch == '\n' || ch == '\t') return " ";
  return fvg_is_control(ch) ? "&#xFFFD;" : NULL;
}

void put_escaped(document *t, const char *text, int html) {
  const unsigned char *at = (const unsigned char *)text;
  size_t left = strlen(text);
  while (left) {
    const size_t n = fvg_utf8_length(at, left);
    const uint32_t ch = n ? fvg_utf8_read(at, n) : '?';
    const char *other = html ? html_of(ch) : NULL;

    if (other) put(t, "%s", other);
    else if (fvg_is_control(ch)) put(t, "\\u%04x", (unsigned)ch);
    else if (!html && (ch == '"' || ch == '\\')) put(t, "\\%c", (int)ch);
    else if (n) put(t, "%.*s", (int)n, (const char *)at);
    else put(t, "?");

    const size_t step = n ? n : 1;
    at += step;
    left -= step;
  }
}

void put_json_string(document *t, const char *text) {
  const unsigned char *p = (const unsigned char *)text;
  put(t, "\"");
  while (*p) {
    const size_t n = fvg_utf8_length(p, strlen((const char *)p));
    if (!n) put(t, "\\ufffd");
    else if (*p < 32 || *p == '"' || *p == '\\') put(t, "\\u%04x", *p);
    else put(t, "%.*s", (int)n, (const char *)p);
    p += n ? n : 1;
  }
  put(t, "\"");
}

fvg_status save_document(document *t, const char *path) {
  fvg_status s = t->status;
  if (!s) s = fvg_file_save(t->c, path, t->text, t->n);
  fvg_release(t->c, t->text);
  memset(t, 0, sizeof *t);
  return s;
}
