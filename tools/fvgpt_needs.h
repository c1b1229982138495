/* Options that do nothing without others: they are refused instead of being passed over. */
#ifndef FVGPT_NEEDS_H
#define FVGPT_NEEDS_H

#include "fvgpt_tune_list.h"

/* Do the options that a command was given go together?  FVG_E_ARG names those that do not. */
fvg_status check_needs(fvg_ctx *c, const common_options *o);
/* Does one of tune's rows, at least, take each option that is meant for some of them only? */
fvg_status check_needs_of_rows(const tuning *t);

#endif
