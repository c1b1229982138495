/* The bodies of the two headers, compiled once for the whole program. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"
