/* fvgpt masks: a mask for every picture of a data set, made by CLIP itself. */
#ifndef FVGPT_MASKS_H
#define FVGPT_MASKS_H

#include "fvgpt_options.h"

extern const fvgpt_command masks_command;

#endif
