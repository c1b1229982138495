/* What the manual says about methods, which it has from the library. */
#ifndef FVGPT_MANUAL_METHODS_H
#define FVGPT_MANUAL_METHODS_H

#include "../fvgpt_clip.h"
#include "fvgpt_hints.h"

/* The names of all methods, with commas, in lines that begin with so many blanks. */
void print_method_names(int indent);
/* The options of all methods, and their usual values. */
void print_all_sets(void);
/* The options of one, its published settings, and those of FVG-PT on it. */
void print_method(const fvg_method *method);
void try_methods(guess *g);

#endif
