/* What classify and eval print: text for people, or JSON or CSV for programs. */
#ifndef FVGPT_SCORES_H
#define FVGPT_SCORES_H

#include "fvgpt_options.h"
#include "fvgpt_print.h"

/* ---- formats ---- */
typedef struct format_options {
  int json, csv;
} format_options;
void add_format_options(option_table *t, format_options *o);
/* Both at once are an error. */
fvg_status check_format(fvg_ctx *c, const format_options *o);

/* ---- the scores of pictures ---- */
enum { ALL_CLASSES = 2147483647 };
typedef struct score_writer {
  fvg_ctx *c;
  format_options format;
  int top;                           /* how many of the best classes are printed, or ALL_CLASSES */
  int n_pictures;                    /* printed so far                                           */
  struct ranked_class *rank;         /* room for all classes                                     */
} score_writer;
fvg_status begin_scores(score_writer *w, fvg_ctx *c, const format_options *format, int top,
                        int n_class);
/* A picture's probabilities p [n_class].  b is the weight of plain CLIP; 0: there is none. */
fvg_status write_scores(score_writer *w, const char *file, const char *const *name, const float *p,
                        int n_class, float b);
/* Why a picture has none: an entry of JSON or CSV; text has it on stderr alone. */
fvg_status write_fault(score_writer *w, const char *file, const char *message);
/* Without it, because something else went wrong, what was printed is no JSON. */
void end_scores(score_writer *w);
void score_writer_free(score_writer *w);

#endif
