/* What a report measures on the pictures that have a mask: where the maps lie, how much predictions
   hang on the surroundings, and which masks the gate trusts. */
#ifndef FVGPT_REPORT_MEASURE_H
#define FVGPT_REPORT_MEASURE_H

#include "fvgpt_report_study.h"

/* Finds the test pictures of a group that have a mask, --measured at most, evenly spaced. */
fvg_status choose_masked(study *x, group *g);
/* The test transform of a picture and of its mask (no pixels: it has none), and the picture's
   floats [3, size, size]. */
fvg_status load_pair(const study *x, const fvg_item *item, fvg_image *view, fvg_image *mask,
                     float *chw);
/* A map [size, size] of a classifier, `kind` being RELEVANCE, ... */
fvg_status make_map(fvg_classifier *k, float *map, const float *chw, int label, int kind);
/* Its three measures in percent; mask without pixels: they stay as they are. */
void measure_map(const float *map, const fvg_image *mask, double out[N_MEASURE]);

/* The measures of all maps of a model on a group's masked pictures.  The attention is that of model
   `plain`, if that is not NULL: its image tower is the same. */
fvg_status measure_maps(study *x, model *w, int group, fvg_classifier *k, int run,
                        const model *plain);

/* Features [3, masked.n, feature width of l] of pictures, foregrounds and backgrounds.  They belong
   to the group if l's tower is plain CLIP's; else they are to be released. */
fvg_status encode_views(study *x, group *g, fvg_learner *l, int fill_black, float **rows);
/* Mean KL divergence between the prediction for the whole picture and for its foreground. */
fvg_status measure_shift(study *x, model *w, int group, fvg_classifier *k, const float *rows,
                         int run);
/* The trust in masks as they are and in their opposites; tuned: the backbone's classifier. */
fvg_status measure_trust(study *x, model *w, const group *g, const tuned_model *tuned,
                         fvg_classifier *tuned_k, const float *rows, int run);

#endif
