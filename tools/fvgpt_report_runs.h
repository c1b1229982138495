/* What `tune` left of the runs that a report is about: scores and curves, with the ticks of the
   charts. */
#ifndef FVGPT_REPORT_RUNS_H
#define FVGPT_REPORT_RUNS_H

#include "fvgpt_report_study.h"

/* Reads RUNS/results.json: shots, seeds, scores and curves; and makes the list of models. */
fvg_status read_runs(study *x);
/* The mean of a model's curves over the seeds, and its chart's ticks. */
fvg_status average_curves(study *x, model *w);
/* Round steps from 0 until `most` is covered, four or so. */
void choose_ticks(ticks *t, double most, double least_step);

#endif
