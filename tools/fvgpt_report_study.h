/* A study: everything that the report says about one data set and one run of tune on it.  It is
   measured first, and then printed as a page and as results.json. */
#ifndef FVGPT_REPORT_STUDY_H
#define FVGPT_REPORT_STUDY_H

#include "fvgpt_checks.h"
#include "fvgpt_learners.h"
#include "fvgpt_sets.h"

typedef struct report_options {
  common_options common;
  data_options data;
  text_list runs;                    /* one for each data set                                    */
  const char *out;                   /* NULL: not given                                          */
  const char *prompt_template;       /* NULL: not given                                          */
  contrast_options contrast;         /* of relevance maps                                        */
  int pictures;                      /* of base classes that are shown                           */
  int measured;                      /* masked pictures of a group that are measured, at most    */
} report_options;

enum { MOST_SETS = 32, MOST_ROWS = 96, MOST_TESTS = 17, MOST_SEEDS = 64, MOST_MODELS = 8 };
enum { N_BIN = 10, MOST_TICKS = 12, MOST_MISTAKES = 3, ROW_BYTES = 96, SETTINGS_BYTES = 400 };

enum { RELEVANCE, GRAD_CAM, ATTENTION, N_MAP };
enum { INSIDE, HOTTEST, IOU, N_MEASURE };
enum { TRUST_GOOD, TRUST_BAD, TRUST_AUC, TARGET_AUC, N_TRUST };

/* A number for each seed, and their mean; n: the seeds that have one. */
typedef struct measure {
  double seed[MOST_SEEDS], mean;
  int has[MOST_SEEDS], n;
} measure;

typedef struct ticks {
  double at[MOST_TICKS];
  int n;
} ticks;

typedef struct curve {
  double *loss;                      /* [n] of each epoch                                        */
  int n;
} curve;

/* ---- what tune wrote ---- */
/* A row of its table; column n_test is H. */
typedef struct score_row {
  char name[ROW_BYTES];
  double mean[MOST_TESTS + 1], deviation[MOST_TESTS + 1];    /* deviation -1: not written        */
} score_row;

/* ---- what is measured ---- */
/* Classes that are told apart among themselves: the base classes and the new ones, or all. */
enum { MOST_GROUPS = 2 };
typedef struct group {
  const char *name;
  fvg_group half;
  int seen;                          /* 1: the methods were tuned on these classes               */
  fvg_task task;                     /* all test pictures                                        */
  float *f;                          /* [task.items.n, embed_dim] plain CLIP's features          */
  fvg_items masked;                  /* those that have a mask and are measured                  */
  float *views;                      /* [3, masked.n, embed_dim] plain CLIP's features of the
                                        picture, of its foreground, of its background; NULL: not
                                        yet made                                                 */
  float *area;                       /* [masked.n] share of the picture that is object           */
  double mean_area;                  /* percent                                                  */
} group;

typedef struct mistake {
  const char *path;
  int label, guess;
  double p_label, p_guess;           /* percent                                                  */
  fvg_image picture, for_label, for_guess;       /* relevance of both                            */
} mistake;

/* A model on a group. */
typedef struct result {
  long *confusion;                   /* [n_class, n_class], all seeds: rows are the true classes */
  measure accuracy, map[N_MAP][N_MEASURE], shift;
  mistake worst[MOST_MISTAKES];      /* of the first seed                                        */
  int n_worst;
} result;

/* One of the rows whose checkpoints are looked at. */
typedef struct model {
  char name[ROW_BYTES];              /* as tune writes it                                        */
  char title[ROW_BYTES];             /* as the page writes it                                    */
  int is_tuned, has_fvgpt;
  int prompts_image;                 /* 1: its image tower is not plain CLIP's                   */
  char settings[SETTINGS_BYTES];     /* of the first seed's checkpoint                           */
  curve loss[MOST_SEEDS], mean_loss;
  ticks epoch_ticks, loss_ticks;
  result on[MOST_GROUPS];
  measure trust[N_TRUST];
  long r_bin[2][N_BIN];              /* counts of r, of true and of inverted masks, all seeds    */
  long b_bin[MOST_GROUPS][N_BIN];    /* counts of b                                              */
  measure b[MOST_GROUPS];
  ticks r_ticks, b_ticks;
} model;

/* A model's view of a picture of "Where do they look?" */
typedef struct look {
  const char *guess;
  int right, has_attention;
  double measure[N_MAP][N_MEASURE];  /* percent                                                  */
  double r, b;                       /* the gates; -1: there is none                             */
  fvg_image overlay[N_MAP];          /* of the attention only where the tower is another one     */
} look;

typedef struct shown {
  const fvg_item *item;              /* of the group's task                                      */
  int group, has_mask;
  fvg_image picture, mask;
  look by[MOST_MODELS];
} shown;

typedef struct study {
  fvg_clip *m;
  const report_options *o;
  const char *runs;                  /* the folder                                               */
  char name[KEY_BYTES];              /* the data set's                                           */
  char trainer[256];
  fvg_dataset d;
  int shots, seed[MOST_SEEDS], n_seed;

  char test[MOST_TESTS][KEY_BYTES];
  int n_test, has_h;
  score_row row[MOST_ROWS];
  int n_row;

  group group[MOST_GROUPS];
  int n_group;
  model *model;                      /* [n_model]; the first is zero-shot CLIP                   */
  int n_model, n_left_out;           /* n_left_out: further rows with checkpoints                */
  double worst_difference;           /* percent points between results.json and the checkpoints  */

  shown *shown;
  int n_shown;
  fvg_progress progress;
} study;

/* Opens run i of the options and its data set; both are looked through before anything is
   measured. */
fvg_status study_open(study *x, fvg_clip *m, const report_options *o, int i);
/* Measures everything. */
fvg_status study_measure(study *x);
void study_free(fvg_ctx *c, study *x);

/* Adds a step of progress. */
fvg_status advance(study *x);
/* Sets a seed's number. */
void set_measure(measure *m, int run, double value);
double deviation_of(const measure *m, int n_seed);

#endif
