/* fvgpt attend: where a classifier looks in each picture, drawn over it. */
#ifndef FVGPT_ATTEND_H
#define FVGPT_ATTEND_H

#include "fvgpt_options.h"

extern const fvgpt_command attend_command;

#endif
