/* For programs that call public functions alone: included before all else, it leaves the bodies of
   both headers out, which the program then takes from build/tools/fvgpt_library.o.  POSIX has to be
   asked for before the first header. */
#define _POSIX_C_SOURCE 200809L
#define FVG__PART_ONE
#define FVG__PART_TWO
#define FVG__PART_THREE
#define FVG__CLIP_IMPLEMENTED

#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
