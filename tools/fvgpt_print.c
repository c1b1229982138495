/* Printing; see fvgpt_print.h. */
#include "fvgpt_print.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "fvgpt_system.h"

/* Progress on the terminal whose line is not ended.  There is one terminal, whoever prints. */
static int line_is_open;

void erase_progress(void) {
  if (line_is_open) fputs("\r\033[K", stderr);
  line_is_open = 0;
}

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
  erase_progress();
  print_clean(to, whole ? whole : brief);
  free(whole);
}

/* 1: that standard output cannot be written has been told of. */
static int output_is_told;

fvg_status check_output(fvg_ctx *c) {
  if (!ferror(stdout)) return FVG_OK;
  output_is_told = 1;
  return fvg_fail(c, FVG_E_IO, "standard output: cannot write");
}

void print_shell_word(FILE *to, const char *path) {
  static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                              "/._-+=,:@%";
  if (*path && !path[strspn(path, plain)]) {
    print(to, "%s", path);
    return;
  }
  print(to, "'");
  for (const char *at = path; *at;) {
    const size_t n = strcspn(at, "'");
    print(to, "%.*s%s", (int)n, at, at[n] ? "'\\''" : "");
    at += n + (at[n] != 0);
  }
  print(to, "'");
}

int finish_output(void) {
  erase_progress();
  int failed = ferror(stdout);
  int reason = 0;
  errno = 0;
  if (fclose(stdout)) {
    failed = 1;
    reason = errno;
  }
  if (!failed) return 1;
  if (output_is_told) return 0;
  print(stderr, "fvgpt: standard output: cannot write%s%s\n", reason ? ": " : "",
        reason ? strerror(reason) : "");
  return 0;
}

/* ---- progress ---- */
/* As people say it: 12 s, 3 min 20 s, 2 h 05 min. */
static void duration(char text[40], double seconds) {
  const long s = (long)(seconds + 0.5);
  if (s < 60) snprintf(text, 40, "%ld s", s);
  else if (s < 3600) snprintf(text, 40, "%ld min %02ld s", s / 60, s % 60);
  else snprintf(text, 40, "%ld h %02ld min", s / 3600, s / 60 % 60);
}

/* Appends to a line; what does not fit is cut. */
static void append(char line[LINE_BYTES], const char *format, ...) {
  const size_t at = strlen(line);
  va_list list;
  va_start(list, format);
  vsnprintf(line + at, LINE_BYTES - at, format, list);
  va_end(list);
}

/* The rate is that of the steps since the first one that was told of, because nobody knows when
   that one began.  The time that is left also runs down while a step takes its time. */
static void append_times(char line[LINE_BYTES], const display *d) {
  const double spent = d->stepped - d->start;
  const long n_done = d->at.step - d->first;
  if (spent < 0.1 || n_done <= 0) return;
  const double rate = (double)n_done / spent;
  append(line, rate < 10 ? "  %.2g/s" : "  %.0f/s", rate);

  const long n_left = d->at.n_steps - d->at.step;
  if (!n_left) return;
  const double left = (double)n_left / rate - (now() - d->stepped);
  char text[40];
  duration(text, fmax(left, 0));
  append(line, "  %s left", text);
}

/* What is at work, in one line; between pieces of work nobody tells what is. */
static void describe_work(char line[LINE_BYTES], const display *d) {
  line[0] = 0;
  if (!d->what[0]) {
    char text[40];
    duration(text, now() - d->start);
    append(line, "%-10s %s", "working", text);
    return;
  }
  append(line, "%-10s %ld/%ld", d->what, d->at.step, d->at.n_steps);
  append_times(line, d);
  if (d->at.n_epochs) {
    append(line, "  epoch %d/%d  loss %.4f  lr %.2g", d->at.epoch + 1, d->at.n_epochs, d->at.loss,
           d->at.lr);
  }
}

/* A terminal's line must not be longer than the terminal is wide: nothing could take it back. */
static void draw(display *d, int is_last) {
  enum { TERMINAL_COLUMNS = 79 };
  char line[LINE_BYTES];
  describe_work(line, d);
  erase_progress();
  if (d->terminal) fprintf(stderr, "%.*s", TERMINAL_COLUMNS, line);
  else fputs(line, stderr);

  line_is_open = d->terminal && !is_last;
  if (!line_is_open) fputc('\n', stderr);
  d->shown = now();
}

static void begin_work(display *d, const char *what) {
  snprintf(d->what, sizeof d->what, "%s", what);
  d->start = now();
  d->last_tenth = 0;
  if (!d->terminal) d->shown = d->start;
}

display new_display(void) {
  display d;
  memset(&d, 0, sizeof d);
  d.terminal = is_terminal(stderr);
  begin_work(&d, "");
  return d;
}

/* Every third of a second on a terminal; elsewhere every half minute, and when a tenth more is done
   and a second has passed. */
static int is_due(const display *d, int is_tenth) {
  const double since = now() - d->shown;
  if (d->terminal) return since >= 1.0 / 3;
  return since >= 30 || (is_tenth && since >= 1);
}

/* Work is new if it is another, or begins anew.  Its last step is always shown. */
int show_progress(void *user, const fvg_progress *p) {
  display *d = (display *)user;
  if (d->quiet) return 0;
  const int is_new_work = strncmp(p->what, d->what, sizeof d->what - 1) || p->step <= d->at.step;
  if (is_new_work) {
    begin_work(d, p->what);
    d->first = p->step;
  }
  d->at = *p;
  d->stepped = now();

  const long tenth = p->n_steps ? p->step * 10 / p->n_steps : 10;
  const int is_last = p->step == p->n_steps;
  if (is_last || is_due(d, tenth != d->last_tenth)) {
    draw(d, is_last);
    d->last_tenth = tenth;
  }
  if (is_last) begin_work(d, "");
  return 0;
}

static int is_muted;

void mute_log(int on) { is_muted = on; }

void keep_showing(display *d) {
  if (d->quiet) return;
  const int has_just_begun = !d->what[0] && now() - d->start < 0.5;
  if (!has_just_begun && is_due(d, 0)) draw(d, 0);
}

void show_log(void *user, int level, const char *message) {
  const display *d = (const display *)user;
  if (is_muted || (level && d->quiet)) return;
  print(stderr, "fvgpt: %s%s\n", level ? "note: " : "", message);
}

const char *plural(int n) { return n == 1 ? "" : "s"; }

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
    const uint32_t ch = n ? fvg_utf8_read(at, n) : 0xFFFD;
    const char *other = html ? html_of(ch) : NULL;

    if (other) put(t, "%s", other);
    else if (fvg_is_control(ch)) put(t, "\\u%04x", (unsigned)ch);
    else if (!html && (ch == '"' || ch == '\\')) put(t, "\\%c", (int)ch);
    else if (n) put(t, "%.*s", (int)n, (const char *)at);
    else put(t, html ? "&#xFFFD;" : "\\ufffd");

    const size_t step = n ? n : 1;
    at += step;
    left -= step;
  }
}

void put_json_string(document *t, const char *text) {
  put(t, "\"");
  put_escaped(t, text, 0);
  put(t, "\"");
}

void put_csv_field(document *t, const char *text) {
  const size_t n = strlen(text);
  const int has_blank_end = n && (text[0] == ' ' || text[n - 1] == ' ');
  if (!has_blank_end && !strpbrk(text, ",\"\r\n")) {
    put(t, "%s", text);
    return;
  }
  put(t, "\"");
  for (const char *at = text; *at; at++) put(t, *at == '"' ? "\"\"" : "%c", *at);
  put(t, "\"");
}

/* Seventeen digits tell any double, nine any float.  80 is not written 8e+01. */
static void put_shortest(document *t, double x, int is_float) {
  const int most = is_float ? 9 : 17;
  char text[40];
  int reads_back = 0;
  for (int n_digits = 1; n_digits <= most && !reads_back; n_digits++) {
    snprintf(text, sizeof text, "%.*g", n_digits, x);
    const double back = strtod(text, NULL);
    reads_back = is_float ? (float)back == (float)x : back == x;
    if (strstr(text, "e+") && back < 1e9) reads_back = 0;
  }
  put(t, "%s", text);
}

void put_real(document *t, double x) { put_shortest(t, x, 0); }
void put_real32(document *t, float x) { put_shortest(t, (double)x, 1); }

fvg_status print_document(document *t) {
  if (!t->status && t->n && is_terminal(stdout)) print(stdout, "%s", t->text);
  else if (!t->status && t->n) fwrite(t->text, 1, t->n, stdout);
  const fvg_status s = t->status ? t->status : check_output(t->c);
  fvg_release(t->c, t->text);
  *t = new_document(t->c);
  return s;
}

fvg_status save_document(document *t, const char *path) {
  fvg_status s = t->status;
  if (!s) s = fvg_file_save(t->c, path, t->text, t->n);
  fvg_release(t->c, t->text);
  memset(t, 0, sizeof *t);
  return s;
}
