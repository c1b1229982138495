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
/* Takes the line of progress off the terminal, where other text would be written into it.  print
   does so. */
void erase_progress(void);
/* Prints a path as a word of a command that a shell reads: in quotes where it needs them. */
void print_shell_word(FILE *to, const char *path);
/* Could what was printed so far be written?  FVG_E_IO: no, as far as it has left the buffer. */
fvg_status check_output(fvg_ctx *c);
/* Closes stdout: what was printed has arrived only then.  0 if it has not, after a message, unless
   check_output has said so. */
int finish_output(void);

/* ---- progress ---- */
/* Progress is one line, which is written anew several times a second on a terminal, whatever takes
   how long.  Elsewhere it is a line every ten percent or half minute. */
enum { WORK_BYTES = 60, LINE_BYTES = 240 };
typedef struct display {
  int terminal;                      /* stderr is one                                            */
  int quiet;                         /* neither progress nor notes                               */
  char what[WORK_BYTES];             /* the piece of work; "": between two of them               */
  fvg_progress at;                   /* what was told last, and when                             */
  double stepped;
  double start;                      /* of the piece of work, as now() counts                    */
  long first, last_tenth;            /* its first step, and tenths that were shown               */
  double shown;                      /* when the last line was                                   */
} display;
display new_display(void);
/* For fvg_desc, with a display as its user. */
int show_progress(void *user, const fvg_progress *p);
void show_log(void *user, int level, const char *message);
/* 1: show_log says nothing, while something is tried that will be done again. */
void mute_log(int on);
/* To be called often while nothing is told. */
void keep_showing(display *d);

/* What an English noun has behind it: "s", or "" after 1. */
const char *plural(int n);

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
/* A text out of a file, inside quotes of JSON or in HTML.  What is not UTF-8 becomes U+FFFD;
   control characters are written as escapes, or in HTML, which has none, as U+FFFD too. */
void put_escaped(document *t, const char *text, int html);
/* A string of JSON with its quotes. */
void put_json_string(document *t, const char *text);
/* A field of CSV (RFC 4180), in quotes where it needs them.  Its bytes stay as they are. */
void put_csv_field(document *t, const char *text);
/* The shortest number that reads back as the same double, or the same float. */
void put_real(document *t, double x);
void put_real32(document *t, float x);
/* One line of data for stdout, with its end: the bytes as they are, but on a terminal through
   print.  The text is then empty again. */
fvg_status print_document(document *t);
/* Writes the text to a file, or reports what went wrong before, and gives the memory back. */
fvg_status save_document(document *t, const char *path);

#endif
