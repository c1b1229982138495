/* Masks that CLIP makes for `fvgpt tune`, where a data set has none. */
#ifndef FVGPT_TUNE_MASKS_H
#define FVGPT_TUNE_MASKS_H

#include "fvgpt_tune_list.h"

/* Gives the training pictures of the set at work theirs, if it is to have own masks.  They are kept
   as files in --out, and made only once. */
fvg_status make_own_masks(tuning *t);

#endif
