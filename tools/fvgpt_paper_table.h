/* A table or a figure of the paper, measured: rows with numbers in columns, some of them published
   ones, which stand beside ours and say so. */
#ifndef FVGPT_PAPER_TABLE_H
#define FVGPT_PAPER_TABLE_H

#include "fvgpt_print.h"
#include "fvgpt_sets.h"

enum { MAX_LINES = 24, MAX_COLUMNS = 4 * 68 };

/* A number; NaN: there is none. */
typedef struct paper_cell {
  double value, deviation;           /* deviation: over the seeds                                */
} paper_cell;

/* One measure on one data set, on the average of all, or as published. */
typedef struct paper_column {
  char set[KEY_BYTES + 16];          /* "" where the measure is of no data set                   */
  const char *measure;               /* "base", "new", "H", ...                                  */
  int digits;                        /* behind the point                                         */
  int is_published;                  /* 1: not measured here                                     */
} paper_column;

typedef enum paper_chart { CHART_NONE, CHART_LINE, CHART_BARS } paper_chart;

typedef struct paper_table {
  const char *name;                  /* "Table 3"                                                */
  const char *title, *note;
  const char *over;                  /* what the lines are, the head of their column             */
  paper_chart chart;                 /* of the column `drawn`, and of the published one behind   */
  int drawn, drawn_published;        /* columns; -1: none                                        */
  char line[MAX_LINES][96];
  double x[MAX_LINES];               /* of CHART_LINE                                            */
  paper_column column[MAX_COLUMNS];
  paper_cell cell[MAX_LINES][MAX_COLUMNS];
  int n_line, n_column;
} paper_table;

/* To stdout. */
void print_paper_table(const paper_table *t);
/* One line for each number: table, row, data set, measure, mean, deviation, source. */
void put_paper_csv(document *d, const paper_table *t);
void put_paper_json(document *d, const paper_table *t);
/* A section of a page: the chart, and the table. */
void put_paper_section(document *d, const paper_table *t);

#endif
