/* What a report measures on the pictures of a data set: where the maps lie, how much predictions
   hang on the surroundings, and which masks the gate trusts. */
#ifndef FVGPT_REPORT_MEASURE_H
#define FVGPT_REPORT_MEASURE_H

#include "fvgpt_report_study.h"

/* Base-class test pictures that have a mask, 200 at most, evenly spaced, into x->items. */
fvg_status choose_items(study *x);
/* Adds a step of progress. */
fvg_status advance(study *x);
/* The test transform of a picture and of its mask (no pixels: it has none), and the picture's
   floats [3, size, size]. */
fvg_status load_pair(const study *x, const fvg_item *item, fvg_image *view, fvg_image *mask,
                     float *chw);
/* The map [size, size] of a classifier, and the percentage of it that lies inside the mask. */
fvg_status map_share(fvg_classifier *k, const float *chw, int label, fvg_map_kind kind,
                     const fvg_image *mask, float *map, double *share);

/* Mean shares of the Grad-CAMs of two classifiers over all measured pictures. */
fvg_status measure_two_maps(study *x, fvg_classifier *a, fvg_classifier *b, double *share_a,
                            double *share_b);
/* The same of one classifier's Grad-CAM and of the attention; all pictures are encoded as well. */
fvg_status measure_and_encode(study *x, fvg_classifier *k, double *share, double *attention);
/* Mean KL divergence between the prediction for the whole picture and for its foreground. */
fvg_status measure_shift(study *x, fvg_classifier *k, int n_class, double *shift);
/* Trust in the masks as they are and in their opposites; g [n_class, embed_dim]: tuned text
   features. */
fvg_status measure_trust(study *x, fvg_fvgpt *f, const float *g, int n_class, int run);

#endif
