/* Units of work of fvgpt tune: of one entry and one seed, zero-shot CLIP, or a method with every
   row that sits on it.  They depend on nothing but the data, so any process may do any of them, in
   any order. */
#ifndef FVGPT_TUNE_UNITS_H
#define FVGPT_TUNE_UNITS_H

#include "fvgpt_tune_list.h"

typedef struct tune_unit {
  int entry, run, row;               /* run: the seed's place in tuning.seed; row: its first     */
} tune_unit;
/* Units in the order of a run alone: by entry, seed and row. */
int count_units(const tuning *t);
tune_unit unit_at(const tuning *t, int number);
/* Is this row the first of a unit?  Does it belong to the unit that begins with unit_row? */
int begins_unit(const tuning *t, int row);
int is_of_unit(const tuning *t, int row, int unit_row);

/* Opens an entry: its folder, its test sets, its masks if CLIP is to make them.  Then a seed of
   it. */
fvg_status open_entry(tuning *t, int entry);
fvg_status open_seed(tuning *t, int number);
void close_seed(tuning *t);
void close_entry(tuning *t);
/* Removes what killed writers left in --out and in the entries' folders. */
void remove_outer_temporaries(const tuning *t);
/* Frees the pictures that the tests have, which close_entry leaves for further entries. */
void free_tests(tuning *t);

/* Trains, tests and prints what is not finished of a unit of the seed that is open, and prints what
   is. */
fvg_status finish_unit(tuning *t, int unit_row, int number);

/* Looks at what lies in --out before anything is written there: a checkpoint of other settings is
   an error, and the run that made it stays whole. */
fvg_status check_earlier_runs(tuning *t);

#endif
