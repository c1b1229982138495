/* Data sets as the options describe them, and test sets, which eval and tune share. */
#ifndef FVGPT_SETS_H
#define FVGPT_SETS_H

#include "fvgpt_options.h"

typedef struct data_options {
  text_list data;                    /* roots                                                    */
  const char *dataset_root, *dataset;        /* of published sets; NULL: not given               */
  const char *split;                 /* NULL: the one that is found                              */
  int val;                           /* percent; -1: not given                                   */
  int masks;                         /* fvg_mask_reading, or one of MASKS_GIVEN ...              */
  int skip_bad, exif_rotate;
} data_options;
/* What --masks may say: how the masks of files are read, and with MASKS_FROM which masks at all. */
#define MASKS_AS_GIVEN "auto grey inverted labels trimap alpha"
#define MASKS_FROM MASKS_AS_GIVEN " given own none"
enum { MASKS_AUTO = FVG_MASK_AUTO, MASKS_GIVEN = FVG_MASK_ALPHA + 1, MASKS_OWN, MASKS_NONE };

/* masks: one of the lists above. */
void add_data_options(option_table *t, data_options *o, const char *masks);

/* dataset: a published set below root; NULL: root itself is one. */
fvg_status open_root(fvg_ctx *c, const data_options *o, const char *root, const char *dataset,
                     fvg_dataset *d);
/* The data set of --dataset-root and --dataset, else that of root. */
fvg_status open_data(fvg_ctx *c, const data_options *o, const char *root, fvg_dataset *d);

/* The test pictures of a half; none is an error. */
fvg_status test_task(const fvg_dataset *d, fvg_group half, fvg_task *task);

enum { KEY_BYTES = 80 };

/* Test pictures of some classes, and plain CLIP's features of them. */
typedef struct test_set {
  char name[KEY_BYTES];
  int seen;                          /* 1: the methods have been trained on these classes        */
  fvg_task task;
  int *label;                        /* [task.items.n]                                           */
  float *f;                          /* [task.items.n, embed_dim]; NULL: not yet encoded         */
} test_set;
/* The test pictures of a half, for a set that has its name. */
fvg_status test_new(fvg_ctx *c, test_set *x, const fvg_dataset *d, fvg_group half);
/* The pictures of any task, which x then owns, also after a failure. */
fvg_status test_of_task(fvg_ctx *c, test_set *x, const fvg_task *task);
/* Encodes its pictures by plain CLIP, if that is still to be done. */
fvg_status test_encode(fvg_clip *m, test_set *x);
/* Its name stays. */
/* Class names become texts, so they must be UTF-8; FVG_E_ARG names the folder of one that is
   not. */
fvg_status check_class_names(const fvg_dataset *d);
/* A warning where n_class is 1: whatever is tested, all is right. */
void tell_one_class(fvg_ctx *c, const char *root, int n_class);
void test_free(fvg_ctx *c, test_set *x);

/* Features of a test set by l's tower, to be released unless they are x->f, which they are where l
   leaves the tower alone. */
fvg_status features_of(fvg_clip *m, fvg_learner *l, test_set *x, float **f);
/* Scores a test set, f being its features as learner l makes them. */
fvg_status score_set(fvg_clip *m, const test_set *x, const float *f, fvg_branch branch,
                     fvg_learner *l, fvg_fvgpt *modules, const char *prompt_template,
                     fvg_score *score);

/* The same by a classifier that is there. */
fvg_status score_by(fvg_ctx *c, const test_set *x, const float *f, fvg_classifier *k,
                    fvg_score *score);

/* The cross-entropy of a row of n logits. */
double row_cross_entropy(const float *z, int n, int label);
/* How far a classifier's prediction for a picture, logits p, is from that for its foreground, q: a
   term of the paper's D_fg, KL(softmax(p / tau) || softmax(q / tau)), tau being FVG-PT's. */
#define SHIFT_TAU 2.0
double foreground_shift(const float *p, const float *q, int n);

#endif
