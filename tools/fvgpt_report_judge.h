/* What the models take the test pictures for, and the pictures that the page shows. */
#ifndef FVGPT_REPORT_JUDGE_H
#define FVGPT_REPORT_JUDGE_H

#include "fvgpt_report_study.h"

/* A model on one group, ready to be asked. */
typedef struct panel {
  fvg_classifier *k;                 /* of the group's branch                                    */
  fvg_classifier *gate;              /* the one that tells b; NULL: there is no b                */
  fvg_classifier *tuned_k;           /* the prompts alone, for FVG-PT's r; NULL: no r            */
  const tuned_model *tuned;          /* l NULL: zero-shot CLIP                                   */
  int fill_black;
} panel;

/* Predicts all of a group's test pictures: confusion, accuracy, b, and the worst mistakes of the
   first seed. */
fvg_status judge_group(study *x, model *w, int group, const panel *q, int run);

/* Chooses the pictures that are shown: of n base classes, and of two new ones. */
fvg_status choose_shown(study *x, int n);
/* What the model says to those of one group. */
fvg_status look_at_shown(study *x, int model, int group, const panel *q);

/* The largest count of n. */
long largest(const long *count, int n);

#endif
