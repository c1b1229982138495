/* A stage of training: from its checkpoint if it is finished, from its last epoch if it was cut
   off, else from its beginning.  A state is removed only when the checkpoint is on the disk. */
#ifndef FVGPT_TUNE_STAGES_H
#define FVGPT_TUNE_STAGES_H

#include "fvgpt_tune_list.h"

/* A seed of the run, with the pictures that it trains on. */
typedef struct seed_run {
  int number;                        /* its place in tuning.seed                                 */
  int seed;
  const fvg_task *task;
} seed_run;

/* Stage 1 of a row: a method. */
fvg_status stage_method(tuning *t, int row, const seed_run *run, fvg_learner **l);
/* FVG-PT on the tuned learner. */
fvg_status stage_fvgpt(tuning *t, int row, const seed_run *run, fvg_learner *l, fvg_fvgpt **f);
/* DPC on the tuned learner: the learners for base and for new classes, the second with a checkpoint
   of its own in the folder `new`. */
fvg_status stage_dpc(tuning *t, int row, const seed_run *run, fvg_learner *tuned,
                     fvg_learner **base, fvg_learner **for_new);

/* Frees the views of the backbone at work, and those that the entry's stages share. */
void free_backbone_views(tuning *t);
void free_entry_views(tuning *t);

#endif
