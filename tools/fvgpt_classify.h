/* fvgpt classify: which of some names suits each picture best. */
#ifndef FVGPT_CLASSIFY_H
#define FVGPT_CLASSIFY_H

#include "fvgpt_options.h"

extern const fvgpt_command classify_command;

#endif
