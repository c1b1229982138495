/* Learners as the options describe them, the checkpoints that tune made of them, and which of some
   class names they were tuned on. */
#ifndef FVGPT_LEARNERS_H
#define FVGPT_LEARNERS_H

#include "fvgpt_checks.h"
#include "fvgpt_options.h"
#include "fvgpt_variations.h"

enum { MAX_SET = 32 };                               /* times that --set is taken                */
enum { MAX_OPTIONS = MAX_SET + FVG_RECIPE_OPTIONS }; /* of a learner: --set's and its preset's   */

/* ---- options ---- */
typedef struct set_options {
  const char *item[MAX_SET];         /* NAME=VALUE each                                          */
  int n;
} set_options;

enum { MAX_SHOTS = 16 };
typedef struct shots_option {
  int item[MAX_SHOTS];               /* item[0]: the default if none is given                    */
  int n;                             /* 0: none is given                                         */
} shots_option;

/* How a learner is made. */
typedef struct learner_options {
  const char *trainer;               /* NULL: not given                                          */
  const char *ctx_init, *position, *prompt_template;
  int n_ctx;                         /* 0: the method's                                          */
  set_options set;
  int preset;                        /* fvg_preset                                               */
  int few_shot;
  int all;                           /* tune --all: on all pictures                             */
  const char *transfer_to;           /* data sets with commas; NULL: not given                   */
  shots_option shots;
} learner_options;
void add_learner_options(option_table *t, learner_options *o);

/* fvg_preset as words. */
extern const char *const preset_name[2];
fvg_protocol protocol_of(const learner_options *o);
fvg_status parse_position(fvg_ctx *c, const char *text, fvg_position *out);
/* Does one of the n methods have the option that text, NAME=VALUE of --set, names, and lies the
   value within the bounds of all that have it? */
fvg_status check_set_option(fvg_ctx *c, const char *text, const fvg_method *const *method, int n);
/* Has the method, which may be NULL, an option of that name? */
int has_option(const fvg_method *method, const char *name);

/* ---- learners ---- */
/* What the method trains with: the preset's recipe for the protocol, the published set (card; NULL:
   none) and the shots, under what the command line says itself. */
void recipe_of(const learner_options *o, const fvg_method *method, const fvg_dataset_card *card,
               int shots, fvg_recipe *r);
/* option: room for desc->option; --set's values go before the recipe's. */
fvg_status learner_desc(fvg_ctx *c, const learner_options *o, const fvg_method *method,
                        const fvg_dataset_card *card, int shots, fvg_option option[MAX_OPTIONS],
                        fvg_learner_desc *desc);

/* Sets those of a row's own settings that are options of its method; `option` as above. */
void vary_learner(const fvg_method *method, const variations *own, fvg_option option[MAX_OPTIONS],
                  fvg_learner_desc *desc);

/* A trainer's name as its folder has it: MMRL++, also behind FVGPT_ or DPC_, becomes MMRLpp. */
void spell_trainer(char *name);

/* ---- checkpoints ---- */
/* What --checkpoint holds; f is NULL without an FVG-PT part, and all are NULL without
   --checkpoint. */
typedef struct tuned_model {
  fvg_learner *l;
  fvg_fvgpt *f;
  fvg_weights *settings;             /* NULL for a published trainer's file                      */
  fvg_head_checkpoint head;          /* of a head; l and f are NULL then                         */
  fvg_head *for_new;                 /* the head for the new classes that are being scored       */
} tuned_model;
void tuned_model_free(fvg_clip *m, tuned_model *x);

/* The path of the checkpoint in a folder that tune made. */
void checkpoint_in(const char *folder, char *path, size_t size);
fvg_status open_tuned(fvg_clip *m, const char *folder, tuned_model *x);
/* Such a folder or the file in it, or, with --trainer, a file of the published trainers; its
   classes are then `name`, of a published set if card is not NULL. */
fvg_status open_checkpoint(fvg_clip *m, const learner_options *o, const char *checkpoint,
                           int exif_rotate, const fvg_dataset_card *card, const char *const *name,
                           int n, tuned_model *x);
fvg_branch branch_of(const tuned_model *x, fvg_group half);
/* The template that a checkpoint was tuned with goes before the default, and --template (NULL: not
   given) before both. */
const char *template_of(const char *given, const fvg_weights *settings);

/* A classifier of n names by what was tuned, or by zero-shot CLIP where nothing was.  A head knows
   its own list of classes; for new ones it is made anew, if its kind can. */
fvg_status tuned_classifier(fvg_clip *m, fvg_classifier **out, tuned_model *x, fvg_group half,
                            const char *prompt_template, const char *const *name, int n,
                            const contrast_options *contrast);

/* ---- class names ---- */
/* The names that a checkpoint was tuned on. */
const char *const *tuned_names(const tuned_model *x, int *n);
/* FVG_BASE if all of n names are among those that the learner was tuned on, else FVG_NEW; a note
   says which are which.  A published trainer's file does not tell its classes, nor does plain
   CLIP: there *half stays as it is.  DPC has another learner for new classes, in a folder of its
   own beside --checkpoint; it takes the place of x's. */
fvg_status choose_half(fvg_clip *m, const learner_options *o, const char *checkpoint,
                       tuned_model *x, const char *const *name, int n, fvg_group *half);

#endif
