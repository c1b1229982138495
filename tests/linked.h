/* For test programs that call public functions alone: included before all else, it leaves the bodies
   of both headers out, which the program then takes from build/tools/fvgpt_library.o. */
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
