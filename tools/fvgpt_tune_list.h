/* What `fvgpt tune` is asked for: lists of rows (methods, FVG-PT on them, its ablations), entries
   (data sets times shots) and seeds; and the state of the run, which the stages and the tables
   share. */
#ifndef FVGPT_TUNE_LIST_H
#define FVGPT_TUNE_LIST_H

#include "fvgpt_claim.h"
#include "fvgpt_foreground.h"
#include "fvgpt_learners.h"
#include "fvgpt_print.h"
#include "fvgpt_sets.h"
#include "fvgpt_system.h"
#include "fvgpt_variations.h"

/* ---- options ---- */
typedef struct tune_options {
  common_options common;
  learner_options learner;
  data_options data;
  foreground_options foreground;
  const char *out;                   /* NULL: not given                                          */
  const char *augment;
  const char *seeds;                 /* NULL: not given                                          */
  int folds;                         /* of --all; -1: not given                                  */
  int epochs, batch;                 /* 0: the recipe's                                          */
  double lr;                         /* 0: the recipe's                                          */
  int fill_black, ablate;
  int normalised;                    /* --entropy: 1: divided by that of chance                  */
  int calibration;                   /* PUBLISHED, ...                                           */
  int distill;                       /* fvg_distill                                              */
  int guard;
  double lambda_base;                /* negative: as published for the distillation              */
  double lambda_new;
  double dpc_weight, dpc_weight_for_new;
  int dpc_top_k;
  choose_options choose;
  shard_option shard;
  double claim_expires;              /* seconds                                                  */
} tune_options;
void declare_tune(option_table *t, void *options);

/* --calibration, in the order of its words. */
enum { PUBLISHED, CROSSFIT, GUARDED };
extern const char *const calibration_name[3];

/* ---- lists ---- */
enum { DATASET_BYTES = 100 };        /* of a published set's name; longer ones are unknown        */
enum { MAX_SEEDS = 64, MAX_ROWS = 96, MAX_TESTS = 16, MAX_ENTRIES = 64, MAX_STAGE_VIEWS = 4 };

/* A row of the table: zero-shot CLIP, a method alone, DPC on it, or FVG-PT on it, whole or with
   modules left out (its Table 3), or trained otherwise. */
typedef struct table_row {
  char name[96];
  const fvg_method *method;          /* NULL: zero-shot, or a head                               */
  int head;                          /* 1 + fvg_head_kind; 0: none                               */
  int ensemble;                      /* zero-shot CLIP with several templates                    */
  int backbone;                      /* of FVG-PT and DPC: the row whose learner it sits on;
                                        else -1                                                  */
  int dpc, no_frg, no_fdc, no_pc;
  int renews_masks;                  /* DAPT-G: its own masks, anew after every epoch             */
  int distill;                       /* of FVG-PT: fvg_distill                                   */
  int no_distill;                    /* its adapters train without the distillation loss         */
  int invert_masks;                  /* it trains on masks whose two sides are swapped           */
  variations own;                    /* settings that differ from the options'                   */
  int is_candidate;                  /* these are one of the combinations of --choose            */
} table_row;

/* What --choose has found for a row and a seed. */
typedef struct chosen {
  variations what;                   /* what.n 0: nothing was to be chosen                       */
  fvg_score val;                     /* of the row with these settings on the val pictures       */
} chosen;

/* What is trained and tested together: a data set and a number of shots. */
typedef struct table_entry {
  char key[KEY_BYTES + 16];          /* its folder in --out when there are several               */
  const char *root;
  char dataset[DATASET_BYTES];       /* a published set below root; "": root itself is the set   */
  int set;                           /* its number in tuning.set; shots share a data set         */
  int shots;                         /* 0: all pictures                                          */
} table_entry;

typedef struct tuning {
  fvg_ctx *c;
  const tune_options *o;
  fvg_clip *m;
  struct feature_cache *cache;       /* NULL: none                                               */
  table_row row[MAX_ROWS];
  table_entry entry[MAX_ENTRIES];
  int seed[MAX_SEEDS];               /* of each run                                              */
  int fold[MAX_SEEDS];               /* of each run with --all: from 1; 0: it has all pictures   */
  int n_row, n_entry, n_seed;        /* n_seed: runs, one for a seed but with --all              */
  int n_fold;                        /* of a seed                                                */
  int lacks_room;                    /* 1: there are more rows than MAX_ROWS                     */
  claimant who;                      /* of --shard                                               */
  fvg_group train_half;
  fvg_views_desc augment;
  folder_lock lock[MAX_ENTRIES + 1]; /* of --out, and of the entries' folders                    */

  /* Data sets, which are opened and checked before the first entry begins. */
  fvg_dataset set[MAX_ENTRIES], target[MAX_TESTS];
  char target_name[MAX_TESTS][KEY_BYTES];
  int n_set, n_target;
  int own_masks[MAX_ENTRIES];        /* 1: the set's masks are still to be made by CLIP itself   */

  /* The plan (fvgpt_results.h), and of each entry the mark that its results bear. */
  char *plan;
  int has_plan;                      /* 1: it has been written                                   */
  char run_mark[MAX_ENTRIES][20];

  /* The seed at work: its pictures, and the mark of their masks, which all rows share. */
  fvg_task task;
  uint64_t mask_mark;
  int has_mask_mark;

  /* The entry at work. */
  const table_entry *at;
  fvg_dataset *d;                    /* one of set                                               */
  char out[1100];
  test_set test[MAX_TESTS];
  int n_test;
  int tests_of;                      /* 1 + the number of the set whose pictures they have; 0:
                                        they have none                                           */
  double result[MAX_ROWS][MAX_SEEDS][MAX_TESTS];
  int has_result[MAX_ROWS][MAX_SEEDS];
  char *curve[MAX_ROWS][MAX_SEEDS];  /* losses per epoch as text: numbers with blanks between    */
  chosen chosen[MAX_ROWS][MAX_SEEDS];
  test_set val;                      /* of the seed at work, if it is needed                     */
  document csv;                      /* results.csv of all entries that have been written        */

  /* Views; all that are there belong to the tuning (fvgpt_tune_stages.h). */
  fvg_views *plain_views;            /* plain CLIP's, shared by the entry's seeds and stages     */
  fvg_views *head_views;             /* shared by its heads                                      */
  fvg_views *inverted_views;         /* the same with inverted masks                             */
  fvg_views *backbone_views;         /* of the backbone at work, if it has its own image tower   */
  fvg_views *stage_views[MAX_STAGE_VIEWS];         /* each of the stage that asked for them      */
  int n_stage_views;

  /* Of all entries, means over the seeds, and their deviations; the last of these is that of H.  A
     shard that ends before the others has none. */
  int has_means;
  double mean[MAX_ENTRIES][MAX_ROWS][MAX_TESTS];
  double deviation[MAX_ENTRIES][MAX_ROWS][MAX_TESTS + 1];
} tuning;

/* --trainer into rows, and with --ablate further ones. */
fvg_status parse_trainers(tuning *t, fvg_ctx *c);
/* The rows of one trainer, such as FVGPT_CoOp: the method, and DPC or FVG-PT on it.  Row 0 must be
   there: zero-shot CLIP. */
fvg_status add_trainer(tuning *t, fvg_ctx *c, const char *name);
void add_zero_shot(tuning *t);
/* Adds FVG-PT on a backbone, whole or changed as in `like`.  Behind the name stand settings that
   are not the published ones, so that each has a folder of its own.  Returns the row's number; -1:
   there is no more room. */
int add_fvgpt(tuning *t, const char *name, const table_row *like);
/* The rows of the paper's Table 3 on the method of row `backbone`. */
void add_ablation(tuning *t, int backbone);
/* The row of that name; -1: there is none. */
int find_row(const tuning *t, const char *name);

/* --seeds, --augment, --set, --choose, and the data sets into the lists. */
fvg_status parse_lists(tuning *t, fvg_ctx *c);
/* The last name of a path. */
void key_of_path(const char *path, char *key, size_t size);

/* The folder of an entry: --out itself if there is only one. */
void entry_folder(const tuning *t, int entry, char *folder, size_t size);
/* Names the test sets of every entry, in t->test: both halves of the classes, or all classes and
   those of the data sets to transfer to; with --all the fold, if there are folds. */
void name_tests(tuning *t);

/* ---- runs ---- */
enum { RUN_BYTES = 48 };
/* "seed 1", or of a fold "seed 1 fold 2"; and its folder in that of a row: seed1, or
   seed1/fold2of5. */
void name_run(const tuning *t, int run, char text[RUN_BYTES]);
void run_folder(const tuning *t, int run, char text[RUN_BYTES]);
/* How many of the tests a run has; with --all, those on all pictures have none. */
int count_tests(const tuning *t, int run);

/* What plain CLIP's class names of a data set are put into: --template, or the published set's own;
   NULL: the library's. */
const char *plain_template(const tuning *t, const fvg_dataset *d);

/* What a row has of the settings of gates: PC's calibration, and whether the entropies that both
   gates see are normalised. */
int calibration_of(const tune_options *o, const table_row *r);
int normalised_of(const tune_options *o, const table_row *r);
/* What a row has of the settings of adapters: how they are distilled (fvg_distill), the weight of
   that, and whether they are guarded. */
int distill_of(const table_row *r);
double lambda_base_of(const tune_options *o, const table_row *r);
int guard_of(const tune_options *o, const table_row *r);
/* Which of the choices of --choose are settings of the row; a bit for each. */
unsigned choices_of(const tune_options *o, const table_row *r);
/* Does the row train on views of foregrounds?  FVG-PT's foreground modules do, and some methods. */
int needs_foregrounds(const table_row *r);
int any_needs_foregrounds(const tuning *t);
/* Does it read the data set's masks for them?  DAPT-G, which makes its own, does not, and with
   --masks none nothing does. */
int needs_masks(const tuning *t, const table_row *r);
int any_needs_masks(const tuning *t);

#endif
