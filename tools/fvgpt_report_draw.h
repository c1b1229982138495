/* Drawings of the report's page: charts as SVG, pictures as data URIs. */
#ifndef FVGPT_REPORT_DRAW_H
#define FVGPT_REPORT_DRAW_H

#include "fvgpt_print.h"
#include "fvgpt_report_study.h"

/* Loss by epoch: thin lines of single seeds, a thick one of their mean. */
void put_curves_chart(document *t, const study *x, const model *w);
/* Two bars for each tenth from 0 to 1: of `first`, and of `second` beside it unless that is NULL.
   below: what runs from left to right. */
void put_histogram(document *t, const long *first, const long *second, const ticks *counts,
                   const char *below, const char *first_name, const char *second_name);
/* Rows are the true classes, columns what they are taken for, numbered from 1. */
void put_confusion(document *t, const long *count, int n_class, const char *title);
/* An image as a data URI; kind and name say what it shows. */
void put_image(document *t, const fvg_image *image, const char *kind, const char *name);
/* The colours of a map from 0 to 1 over a grey picture. */
void put_heat_scale(document *t);

#endif
