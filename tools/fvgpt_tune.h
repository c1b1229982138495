/* fvgpt tune, and its steps for a command that makes rows of its own. */
#ifndef FVGPT_TUNE_H
#define FVGPT_TUNE_H

#include "fvgpt_tune_list.h"

extern const fvgpt_command tune_command;

/* A run without rows yet; o must live longer. */
fvg_status tuning_new(fvg_ctx *c, tuning **out, const tune_options *o);
/* Trains and tests all rows on all entries, and writes their tables.  The model and the data sets
   stay open.  A shard may come to its end before others do; only with has_means 1 there are means
   of all rows. */
fvg_status tuning_run(tuning *t);
/* NULL is allowed. */
void tuning_free(tuning *t);

#endif
