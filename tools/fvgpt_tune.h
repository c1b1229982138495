/* fvgpt tune: the protocols, in which lists of methods, data sets and seeds are trained and
   tested. */
#ifndef FVGPT_TUNE_H
#define FVGPT_TUNE_H

#include "fvgpt_options.h"

extern const fvgpt_command tune_command;

#endif
