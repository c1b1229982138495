/* fvgpt quantise: a model's weights in eight bits, written once. */
#ifndef FVGPT_QUANTISE_H
#define FVGPT_QUANTISE_H

#include "fvgpt_options.h"

extern const fvgpt_command quantise_command;

#endif
