/* fvgpt eval: how well a checkpoint does on the test pictures of a data set. */
#ifndef FVGPT_EVAL_H
#define FVGPT_EVAL_H

#include "fvgpt_options.h"

extern const fvgpt_command eval_command;

#endif
