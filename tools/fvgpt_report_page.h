/* The page and results.json of a report, printed from its studies.  Both print a number with the
   same digits, so that whatever stands on the page stands in the file, figure by figure. */
#ifndef FVGPT_REPORT_PAGE_H
#define FVGPT_REPORT_PAGE_H

#include "fvgpt_print.h"
#include "fvgpt_report_study.h"

enum { SCORE_DIGITS = 2, SHARE_DIGITS = 1, GATE_DIGITS = 3, SHIFT_DIGITS = 4 };

/* The page of n studies; command: the command line that made it.  It needs nothing but itself:
   drawings are SVG, pictures are data URIs, and both colour schemes come from CSS. */
void put_page(document *t, const study *x, int n, const char *command);
/* results.json (fvgpt_report_json.c). */
void put_json(document *t, const study *x, int n, const char *command);

#endif
