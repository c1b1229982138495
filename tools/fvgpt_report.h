/* fvgpt report: one page on finished runs of `tune`, with tables, curves, and where the tuned
   classifiers look. */
#ifndef FVGPT_REPORT_H
#define FVGPT_REPORT_H

#include "fvgpt_options.h"

extern const fvgpt_command report_command;

#endif
