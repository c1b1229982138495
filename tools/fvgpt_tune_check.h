/* What `fvgpt tune` looks through before it encodes the first picture. */
#ifndef FVGPT_TUNE_CHECK_H
#define FVGPT_TUNE_CHECK_H

#include "fvgpt_tune_list.h"

/* The pictures that a seed trains on, in the half of the classes that is tuned. */
fvg_status draw(const tuning *t, const fvg_dataset *d, int shots, int seed, fvg_task *task);
/* All pictures that the run trains on from one of its data sets, each once; to be freed. */
fvg_status draw_all(const tuning *t, int set, fvg_items *all);
/* Everything cheap, all of it even when some is wrong: a run takes hours, and its files are mended
   in one go. */
fvg_status check_run(tuning *t);

#endif
