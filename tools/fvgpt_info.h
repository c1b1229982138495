/* fvgpt info and fvgpt tokenize: what a model is, and the tokens that it makes of texts. */
#ifndef FVGPT_INFO_H
#define FVGPT_INFO_H

#include "fvgpt_options.h"

extern const fvgpt_command info_command;
extern const fvgpt_command tokenize_command;

#endif
