/* fvgpt paper. */
#ifndef FVGPT_PAPER_H
#define FVGPT_PAPER_H

#include "fvgpt_options.h"

extern const fvgpt_command paper_command;

#endif
