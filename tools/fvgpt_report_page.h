/* The page and results.json of a report, printed from its studies.  Both print a number with the
   same digits, so that whatever stands on the page stands in the file, figure by figure. */
#ifndef FVGPT_REPORT_PAGE_H
#define FVGPT_REPORT_PAGE_H

#include "fvgpt_print.h"
#include "fvgpt_report_study.h"

enum { SCORE_DIGITS = 2, SHARE_DIGITS = 1, GATE_DIGITS = 3, SHIFT_DIGITS = 4 };

/* What is said about the report itself. */
typedef struct colophon {
  const char *command;               /* the command line that made it                            */
  const char *model;                 /* what is known of the CLIP                                */
  char date[40];                     /* in UTC                                                   */
  double seconds;                    /* that measuring took                                      */
} colophon;

/* The page of n studies.  It needs nothing but itself: drawings are SVG, pictures are data URIs,
   and both colour schemes come from CSS. */
void put_page(document *t, const study *x, int n, const colophon *by);
/* results.json (fvgpt_report_json.c). */
void put_json(document *t, const study *x, int n, const colophon *by);

#endif
