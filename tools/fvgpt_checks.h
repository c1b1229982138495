/* What can be known before the work begins, and opening the model. */
#ifndef FVGPT_CHECKS_H
#define FVGPT_CHECKS_H

#include "fvgpt_options.h"

fvg_status open_model(fvg_ctx *c, const common_options *o, fvg_clip **m);
/* The same for commands that tune, and that test what was tuned: with --weights q8 the text tower
   stays in f32. */
fvg_status open_tuned_model(fvg_ctx *c, const common_options *o, fvg_clip **m);
/* The same for commands that look at pictures: a model without an image tower is an error. */
fvg_status open_image_model(fvg_ctx *c, const common_options *o, fvg_clip **m);

/* Checks go on after one has failed: its message is shown when the next one fails, and the last
   remains the error. */
typedef struct findings {
  fvg_status status;
  char message[512];
} findings;
/* Keeps the outcome s of a check.  FVG_OK, or s where no further check makes sense. */
fvg_status found(fvg_ctx *c, findings *f, fvg_status s);
fvg_status end_findings(fvg_ctx *c, const findings *f);

/* Can this folder be written to, or made?  Nothing is made: the deepest part that exists
   decides. */
fvg_status check_out_folder(fvg_ctx *c, const char *path);

/* Is what lies at --out, if there is something, a safetensors file that this command may have made?
   Anything else would be lost.  is_ours: does the open file look so?  what: what it would hold. */
typedef int (*is_ours_fn)(const fvg_weights *w);
fvg_status check_out_file(fvg_ctx *c, const char *path, is_ours_fn is_ours, const char *what);

/* A classifier of these names; l, f and prompt_template may be NULL. */
fvg_status classifier_of(fvg_clip *m, fvg_classifier **out, fvg_branch branch, fvg_learner *l,
                         fvg_fvgpt *f, const char *prompt_template, const char *const *name,
                         int n);

/* What relevance maps compare a class with: the words of --background, the library's words for
   backgrounds, or (--against classes) the other classes. */
enum { AGAINST_BACKGROUND, AGAINST_CLASSES };
typedef struct contrast_options {
  int against;
  text_list background;
} contrast_options;
void add_contrast_options(option_table *t, contrast_options *o);
extern const contrast_options usual_contrast;
/* A classifier whose relevance maps have this contrast. */
fvg_status map_classifier(fvg_clip *m, fvg_classifier **out, fvg_branch branch, fvg_learner *l,
                          fvg_fvgpt *f, const char *prompt_template, const char *const *name,
                          int n, const contrast_options *contrast);

#endif
