/* What the paper's tables have besides accuracy: what tuning costs, and how far predictions hang on
   the surroundings. */
#ifndef FVGPT_PAPER_MEASURE_H
#define FVGPT_PAPER_MEASURE_H

#include "fvgpt_paper_items.h"

/* Fills the first N_COST columns of Table 7, on the first entry and seed of a finished run. */
fvg_status measure_costs(tuning *t, const paper_plan *p, paper_table *out);
/* Fills the D_fg column of every entry; the cells stay empty for data sets without masks. */
fvg_status measure_shifts(tuning *t, const paper_plan *p, paper_table *out);

#endif
