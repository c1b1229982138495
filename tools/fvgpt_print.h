/* What the program says: to the terminal line by line, and into files as texts that grow. */
#ifndef FVGPT_PRINT_H
#define FVGPT_PRINT_H

#include <stdio.h>

#include "../fvgpt_clip.h"

#if defined(__GNUC__) || defined(__clang__)
#define FORMATTED(form, values) __attribute__((format(printf, form, values)))
#else
#define FORMATTED(form, values)
#endif

/* What holds names goes to stdout and stderr through here: names come out of files and may hold
   characters that a terminal obeys (fvg_printable).  Line ends at the beginning and at the end of
   the text are kept. */
void print(FILE *to, const char *format, ...) FORMATTED(2, 3);
/* Closes stdout: what was printed has arrived only then.  0 if it has not, after a message. */
int finish_output(void);

/* ---- progress ---- */
/* Progress is one line that is rewritten on a terminal, and a line every ten percent elsewhere. */
typedef struct display {
  double start;                      /* of the piece of work, as now() counts                    */
  long first, last, last_tenth;      /* its first step, its last, and tenths that were shown     */
  int terminal;                      /* stderr is one                                            */
  int open_line;                     /* the line on the terminal is not ended                    */
  const char *what;                  /* the piece of work                                        */
} display;
/* For fvg_desc, with a display as its user. */
int show_progress(void *user, const fvg_progress *p);
void show_log(void *user, int level, const char *message);
/* 1: show_log says nothing, while something is tried that will be done again. */
void mute_log(int on);

/* ---- texts that grow ---- */
/* Running out of memory is remembered in status until the end. */
typedef struct document {
  fvg_ctx *c;
  char *text;
  size_t n, size;                    /* bytes used, bytes there                                  */
  fvg_status status;
} document;
document new_document(fvg_ctx *c);
/* Room for n more bytes and a closing 0; NULL: none.  The caller adds to t->n what he uses. */
char *room_for(document *t, size_t n);
void put(document *t, const char *format, ...);
/* A text out of a file, inside quotes of JSON or in HTML.  What is not UTF-8 becomes a question
   mark; control characters are written as escapes, or in HTML, which has none, as U+FFFD. */
void put_escaped(document *t, const char *text, int html);
/* A string of JSON with its quotes; bytes that are not UTF-8, which file names may hold, become
   U+FFFD. */
void put_json_string(document *t, const char *text);
/* Writes the text to a file, or reports what went wrong before, and gives the memory back. */
fvg_status save_document(document *t, const char *path);

#endif
