/* What determines a stage of training.  It is kept in the stage's checkpoint as settings and marks,
   and another value is an error: nothing is lost. */
#ifndef FVGPT_TUNE_MARKS_H
#define FVGPT_TUNE_MARKS_H

#include "fvgpt_tune_list.h"

/* Rate, epochs, warm-up and batch: as asked, else as the recipe of the row's stage has them. */
fvg_train_desc train_desc_of(const tuning *t, const table_row *r, int seed);

/* The mark "model": of what makes features of pictures and texts in the end. */
void set_model(fvg_settings *x, const fvg_clip *m);
/* Was the checkpoint w tuned on this model?  One that does not tell, or is NULL, counts as such. */
typedef enum model_match { SAME_MODEL, OTHER_WEIGHTS, OTHER_MODEL } model_match;
model_match compare_model(const fvg_clip *m, const fvg_weights *w);
/* The values of its marks, for a mark of more (see below). */
uint64_t mark_model(uint64_t h, const fvg_clip *m);
/* All settings and marks of a row's stage, and the texts among them that are made here. */
typedef struct description {
  fvg_settings settings;
  char own[VARIATIONS_BYTES], backbone[VARIATIONS_BYTES];
} description;
/* Describes a row's stage on a task; run: the place of its seed. */
void describe(tuning *t, const table_row *r, int run, const fvg_task *task, description *d);

/* Marks are FNV-1a hashes, begun with mark_start and printed with 16 digits. */
extern const uint64_t mark_start;
uint64_t mark_bytes(uint64_t h, const void *bytes, size_t n);
/* A text with its closing 0. */
uint64_t mark_text(uint64_t h, const char *text);
/* The paths and labels of pictures, wherever the files lie. */
uint64_t mark_items(uint64_t h, const fvg_items *items);
enum { MARK_BYTES = 32 };
void print_mark(char *text, size_t size, uint64_t h);
/* One mark of all this, of the learner and of the modules, for the state of a stage that may be cut
   off. */
void mark_of(const fvg_settings *x, const fvg_learner *l, const table_row *r,
             char mark[MARK_BYTES]);

/* A mark of all that determines the accuracies of a row, but for the test pictures and the options
   of the command line. */
void mark_of_result(tuning *t, const table_row *r, int seed, const fvg_task *task,
                    char mark[MARK_BYTES]);

/* The mark of the masks that CLIP makes for a set, and of the classes of the task. */
void mark_of_masks(const tuning *t, int set, const fvg_task *task, char mark[MARK_BYTES]);

/* Was the checkpoint w, which holds the learner `have`, made with these settings, and is it the
   learner `want` that was to be tuned?  FVG_E_ARG tells what differs. */
fvg_status check_settings(const tuning *t, const char *path, const fvg_weights *w,
                          const fvg_settings *x, const fvg_learner *have,
                          const fvg_learner *want);

/* The same for heads; of the task the names of its classes are compared. */
void describe_head(tuning *t, const table_row *r, int run, const fvg_task *task, description *d);
fvg_status check_head_settings(fvg_ctx *c, const char *path, const fvg_head_checkpoint *have,
                               const fvg_settings *x, const fvg_task *task);

#endif
