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

/* Each puts the losses of its epochs, as text, into *curve, which is the caller's then. */
/* Stage 1 of a row: a method. */
fvg_status train_method(tuning *t, const table_row *r, const seed_run *run, fvg_learner **l,
                        char **curve);
/* FVG-PT on the tuned learner. */
fvg_status train_fvgpt(tuning *t, const table_row *r, const seed_run *run, fvg_learner *l,
                       fvg_fvgpt **f, char **curve);
/* DPC on the tuned learner: the learner for base classes. */
fvg_status train_dpc(tuning *t, const table_row *r, const seed_run *run, fvg_learner *tuned,
                     fvg_learner **base, char **curve);

/* Makes DPC's learner for new classes from the one for base classes, and saves it in the row's
   folder `new`. */
fvg_status save_dpc_for_new(tuning *t, const table_row *r, const seed_run *run, fvg_learner *tuned,
                            fvg_learner *base, fvg_learner **for_new);

/* Is what lies in a row's folder, a checkpoint or a state that was cut off, of this run's settings?
   Nothing is written.  FVG_E_ARG tells what differs. */
fvg_status check_stage(tuning *t, const table_row *r, const seed_run *run);

/* Makes a folder inside the entry's, and writes the path of the checkpoint in it. */
fvg_status prepare_folder(const tuning *t, const char *folder, char *path, size_t size);

/* Frees the views of the backbone at work, and those that the entry's stages share. */
void free_backbone_views(tuning *t);
void free_entry_views(tuning *t);

#endif
