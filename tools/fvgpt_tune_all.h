/* fvgpt tune --all, for whoever has one folder of pictures and wants a model of all of them: train,
   val and test are one again, every class is tuned, and the checkpoint of OUT/TRAINER/seedN is of
   every picture.  Nothing is left to test that with, so --folds K says how good it is: the pictures
   of each class are dealt to K folds, and K further models, in OUT/TRAINER/seedN/foldIofK, are each
   tuned without a fold and tested on it.  They see fewer pictures than the model that is kept.

   So a seed has 1 + K runs, the first of which has no test.  Everything else, from units of shards
   to results, takes runs as they come. */
#ifndef FVGPT_TUNE_ALL_H
#define FVGPT_TUNE_ALL_H

#include "fvgpt_tune_list.h"

/* Options that --all has no use for, and --folds without --all, are errors. */
fvg_status check_all_options(fvg_ctx *c, const tune_options *o);
/* Puts the runs of every seed's folds behind that of the seed. */
fvg_status add_fold_runs(tuning *t, fvg_ctx *c);

/* Makes val and test parts of train, each picture once. */
fvg_status join_splits(fvg_dataset *d);
/* Takes the pictures of a run's fold out of the task of all, into *test.  A picture that is the
   only one of its class stays. */
fvg_status take_fold(const tuning *t, int run, fvg_task *task, fvg_task *test);
/* Are there pictures for every fold, of all that a task has?  Classes that have fewer than there
   are folds are told of. */
fvg_status check_folds(const tuning *t, const fvg_task *task);

#endif
