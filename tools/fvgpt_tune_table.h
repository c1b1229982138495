/* What `fvgpt tune` prints, and the files results.json. */
#ifndef FVGPT_TUNE_TABLE_H
#define FVGPT_TUNE_TABLE_H

#include "fvgpt_print.h"
#include "fvgpt_tune_list.h"

/* One line for each row that trains: what it trains with. */
fvg_status print_settings(const tuning *t);
/* A row's accuracies with one seed. */
void print_row(const tuning *t, int row, int run);
/* The losses of a curve, with commas. */
void put_losses(document *d, const char *curve);
/* The entry's means, printed and as results.json in its folder. */
fvg_status write_results(tuning *t, int entry);
/* The table of all entries, printed and as results.json in --out. */
fvg_status write_table(const tuning *t);

/* Puts what --choose has found, and how good it is on val. */
void put_chosen(document *d, const chosen *x);

#endif
