/* A study: everything that the report says about one data set and its runs.  It is measured first,
   and then printed as a page and as results.json. */
#ifndef FVGPT_REPORT_STUDY_H
#define FVGPT_REPORT_STUDY_H

#include "fvgpt_sets.h"

typedef struct report_options {
  common_options common;
  data_options data;
  text_list runs;                    /* one for each of data.data                                */
  const char *out;                   /* NULL: not given                                          */
  const char *prompt_template;       /* NULL: not given                                          */
  int pictures;                      /* of base classes that are shown                           */
} report_options;

/* The methods that the report shows, and its maps: one of each method, then the attention. */
enum { ZERO_SHOT, COOP, FVGPT_COOP, N_METHOD };
enum { ATTENTION = N_METHOD, N_MAP };
extern const char *const method_name[N_METHOD];

enum { TRUST_GOOD, TRUST_BAD, TRUST_AUC, N_TRUST };
enum { N_BIN = 10, MOST_TICKS = 12, MOST_SEEDS = 64 };

/* The temperature of the foreground-shift index, as in FVG-PT. */
#define REPORT_TAU 2.0

typedef struct measure {
  double seed[MOST_SEEDS], mean;
} measure;

typedef struct ticks {
  double at[MOST_TICKS];
  int n;
} ticks;

typedef struct curve {
  double *loss;                      /* [n] of each epoch                                        */
  int n;
} curve;

/* Base, new, H: each a mean and its deviation over the seeds. */
enum { N_SCORE = 6, H_STD = 5 };
extern const char *const score_key[N_SCORE];

/* One picture of "Where does it look?" */
typedef struct shown {
  const char *path, *truth;
  const char *guess[N_METHOD];
  int right[N_METHOD];
  int is_new, has_mask;
  double share[N_MAP];               /* percent of each map that lies on the object              */
  double r, b;                       /* the gates; r -1: not computed                            */
  fvg_image picture, mask, overlay[N_MAP];
} shown;

typedef struct study {
  fvg_clip *m;
  const char *runs;                  /* the folder                                               */
  char name[256];                    /* the last part of the data set's path                     */
  fvg_dataset d;
  int n_base, n_new, shots;
  int seed[MOST_SEEDS], n_seed;
  int fill_black;                    /* 1: background is black in foreground views               */
  double score[N_METHOD][N_SCORE];   /* H_STD -1: results of an older tune                       */
  curve loss[N_METHOD][MOST_SEEDS], mean_loss[N_METHOD];
  ticks epoch_ticks[N_METHOD], loss_ticks[N_METHOD], count_ticks;

  fvg_items items;                   /* base-class test pictures that are measured               */
  float *f, *f_fg, *f_bg;            /* their features: whole, foreground, background            */
  float *area;                       /* [items.n] share of the picture that is object            */
  double mean_area;                  /* percent                                                  */
  measure share[N_MAP], shift[N_METHOD], trust[N_TRUST];
  int bin[2][N_BIN];                 /* counts of r, of good and of bad masks, all seeds         */

  shown *shown;
  int n_shown;
  fvg_progress progress;
} study;

/* Opens run i of the options and its data set; both are looked through before anything is
   measured. */
fvg_status study_open(study *x, fvg_clip *m, const report_options *o, int i);
/* Measures everything. */
fvg_status study_measure(study *x, const report_options *o);
void study_free(fvg_ctx *c, study *x);


#endif
