/* The stages of a row as the table wants them: trained once, or with --choose once for every
   combination of values, of which the best on val is kept. */
#ifndef FVGPT_TUNE_CHOOSE_H
#define FVGPT_TUNE_CHOOSE_H

#include "fvgpt_tune_stages.h"

/* Makes tuning.val, the val pictures of the published few-shot lists: min(shots, 4) of each class
   that the methods train on. */
fvg_status make_val(tuning *t, const seed_run *run);

/* check_stage for a row, or for all its candidates. */
fvg_status check_earlier_row(tuning *t, int row, const seed_run *run);

/* Stage 1 of a row: a method. */
fvg_status stage_method(tuning *t, int row, const seed_run *run, fvg_learner **l);
/* FVG-PT on the tuned learner. */
fvg_status stage_fvgpt(tuning *t, int row, const seed_run *run, fvg_learner *l, fvg_fvgpt **f);
/* DPC on the tuned learner: the learners for base and for new classes, the second with a checkpoint
   of its own in the folder `new`. */
fvg_status stage_dpc(tuning *t, int row, const seed_run *run, fvg_learner *tuned,
                     fvg_learner **base, fvg_learner **for_new);

#endif
