/* fvgpt encode: features of pictures and texts, into a safetensors file. */
#ifndef FVGPT_ENCODE_H
#define FVGPT_ENCODE_H

#include "fvgpt_options.h"

extern const fvgpt_command encode_command;

#endif
