/* The tables and figures of arXiv 2603.08708: which rows of tune each needs, and what the paper has
   there. */
#ifndef FVGPT_PAPER_ITEMS_H
#define FVGPT_PAPER_ITEMS_H

#include "fvgpt_paper_table.h"
#include "fvgpt_tune_list.h"

typedef enum paper_item {
  TABLE_1,                           /* base to new                                              */
  TABLE_2,                           /* cross-data                                               */
  TABLE_3,                           /* modules                                                  */
  TABLE_4,                           /* hidden widths                                            */
  TABLE_5,                           /* layers of the gates                                      */
  TABLE_6,                           /* indicators of the gates                                  */
  TABLE_7,                           /* cost                                                     */
  TABLE_SHIFT,                       /* D_fg, of the paper's appendix                            */
  FIGURE_4A,                         /* beside other methods                                     */
  FIGURE_4B,                         /* lambda_base                                              */
  N_ITEM
} paper_item;

/* A line of an item: a row of tune, or what one row is better than another. */
typedef struct paper_line {
  char label[96];
  int row;                           /* of the tuning                                            */
  int minus;                         /* >= 0: the row whose numbers are taken away               */
  double x;                          /* of a line chart                                          */
  double published[5];               /* in the item's columns; NaN: not known                    */
} paper_line;

typedef struct paper_plan {
  paper_item item;
  paper_line line[MAX_LINES];
  int n;
} paper_plan;

/* Adds the item's rows to the tuning, and says which line is which.  backbone: the methods that
   Tables 1 and 2 have; the other items take the first of them, Table 7 only if it is `given`. */
fvg_status plan_item(tuning *t, fvg_ctx *c, paper_plan *p, paper_item item,
                     const char *const *backbone, int n_backbone, int given);
/* The item's table, with the means of a finished run; cells of other measures stay empty. */
void fill_table(const tuning *t, const paper_plan *p, paper_table *out);

/* "table3", "figure4b": for the names of files. */
const char *item_key(paper_item item);

/* Columns of TABLE_7 and TABLE_SHIFT that are measured after the run. */
enum { COST_PARAMETERS, COST_TUNING, COST_MEMORY, COST_TESTING, N_COST };
enum { SHIFT_ACCURACY, SHIFT_D_FG };

#endif
