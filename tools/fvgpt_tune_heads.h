/* Rows that train no prompts: classifiers on features of zero-shot CLIP (chapters 15 to 21 of
   fvgpt.h), and zero-shot CLIP with an ensemble of templates. */
#ifndef FVGPT_TUNE_HEADS_H
#define FVGPT_TUNE_HEADS_H

#include "fvgpt_tune_stages.h"

/* Fits a head, or takes its checkpoint if it is finished, and tests it.  Where its kind has no rule
   for new classes, the result is NaN. */
fvg_status run_head(tuning *t, int row, const seed_run *run);
/* check_stage for a head. */
fvg_status check_earlier_head(tuning *t, int row, const seed_run *run);
/* Tests zero-shot CLIP with the seven templates that CLIP's authors selected and the data set's
   own. */
fvg_status run_ensemble(tuning *t, int row, int run);

/* How many crops of each picture heads learn from: as --augment says, and ten of crop. */
int head_crops(const tuning *t);

#endif
