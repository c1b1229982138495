/* What a run of tune keeps beside its checkpoints: OUT/run.json, the plan, and in the folder of
   each row and seed result.json, the accuracies.  What is finished is neither trained nor tested
   again, and the tables can be written without any model.

   The same options give the same plan, from a run alone and from all shards of a run.  It holds
   what the tables need, and a mark for each entry: of the options, the model and the pictures.  A
   result bears the mark of its entry, so that none of another run is taken for it. */
#ifndef FVGPT_RESULTS_H
#define FVGPT_RESULTS_H

#include "fvgpt_tune_list.h"

/* ---- the plan ---- */
/* Makes t->plan and t->run_mark.  The data sets must be open. */
fvg_status make_plan(tuning *t);
/* Writes the plan; the whole folder is ours. */
fvg_status write_plan(tuning *t);
/* Writes it if no other shard has; if one has, it must be the same, and FVG_E_ARG names the
   setting that is not. */
fvg_status share_plan(tuning *t);
/* Reads the plan of the folder o->out, and from it rows, entries, seeds and tests.  The trainers'
   names live in `trainer`. */
enum { TRAINER_BYTES = 4000 };
fvg_status read_plan(tuning *t, tune_options *o, char trainer[TRAINER_BYTES]);

/* ---- results ---- */
/* The folder of a row and a seed. */
void result_folder(const tuning *t, int entry, int row, int run, char *folder, size_t size);
/* Keeps a row's accuracies of the entry at work, and its curve. */
fvg_status write_result(tuning *t, int row, int run);
/* Takes the result of a row if it is there and is of this run: t->has_result tells. */
fvg_status read_result(tuning *t, int entry, int row, int run);
/* The same for a row that could be trained and tested now: its checkpoint must be there as well,
   and what determines its training be the same. */
fvg_status reuse_result(tuning *t, int row, int run);
/* Forgets results, before another entry. */
void forget_results(tuning *t);

#endif
