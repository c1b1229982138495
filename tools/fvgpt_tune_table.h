/* What `fvgpt tune` prints, and the files results.json and results.csv. */
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
/* Seeds, and folds if there are any, as members of a list of JSON; and the run of an object. */
void put_seeds(document *d, const tuning *t);
void put_run(document *d, const tuning *t, int run);
/* The entry's means, printed and as results.json in its folder; results.csv has every accuracy. */
fvg_status write_results(tuning *t, int entry);
/* The table of all entries, printed and as results.json in --out; results.csv has that of each. */
fvg_status write_table(tuning *t);

/* Puts what --choose has found, and how good it is on val. */
void put_chosen(document *d, const chosen *x);

#endif
