/* fvgpt preprocess: a picture as CLIP sees it, into a file. */
#ifndef FVGPT_PREPROCESS_H
#define FVGPT_PREPROCESS_H

#include "fvgpt_options.h"

extern const fvgpt_command preprocess_command;

#endif
