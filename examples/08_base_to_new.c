/* 08 - the base-to-new protocol for every method there is, in one table.
        cc -O2 -I.. 08_base_to_new.c -o base_to_new -lm && ./base_to_new tiny-clip ../build/demo/things

   (After make demo; it takes some minutes.)  To learn here: all methods have the same calls.  The loop knows none of
   them by name, but asks the library for its list.  One seed, 16 pictures a class, no random crops; `fvgpt tune` does
   the same with several seeds and data sets, with checkpoints, and with FVG-PT on top. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_DIRENT                             /* list folders through <dirent.h> */
#include "fvgpt_clip.h"

static fvg_status print_row(fvg_clip *m, const char *name, const fvg_dataset *d, fvg_learner *learner) {
  fvg_base_to_new score;
  fvg_status s = fvg_test_base_to_new(m, &score, d, learner, NULL, NULL);
  if (!s) printf("%-10s base %6.2f   new %6.2f   H %6.2f\n", name, score.base, score.new_, score.h);
  fflush(stdout);                                /* the next row takes a while */
  return s;
}

static fvg_status tune_and_test(fvg_clip *m, const fvg_task *task, const fvg_method *method) {
  fvg_learner_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.method = method;
  fvg_views_desc plain;                          /* with foreground views, because DAPT learns from them */
  memset(&plain, 0, sizeof plain);
  plain.augment = FVG_AUGMENT_NONE;

  fvg_learner *learner = NULL;
  fvg_views *v = NULL;
  fvg_status s = fvg_learner_new(m, &learner, task->class_name, task->n_class, &desc);
  if (!s) s = fvg_views_new(m, &v, task->dataset, &plain);
  if (!s) s = fvg_learner_train(learner, v, task, NULL);         /* NULL: as the method's authors train it */
  if (!s) s = print_row(m, fvg_method_name(method), task->dataset, learner);
  fvg_views_free(v);
  fvg_learner_free(learner);
  return s;
}

static fvg_status run(fvg_ctx *c, const char *model, const char *root) {
  const fvg_task_desc sixteen = {FVG_TRAIN, FVG_BASE, 16, 1};
  fvg_dataset_desc where;
  memset(&where, 0, sizeof where);
  where.root = root;

  fvg_clip *m = NULL;
  fvg_dataset d;
  fvg_task task;
  memset(&d, 0, sizeof d);
  memset(&task, 0, sizeof task);
  fvg_status s = fvg_clip_open(c, &m, model, NULL, FVG_F32);
  if (!s) s = fvg_dataset_open(c, &d, &where);
  if (!s) s = fvg_task_draw(&task, &d, &sixteen);

  if (!s) s = print_row(m, "zero-shot", &d, NULL);
  for (int i = 0; !s && fvg_method_at(i); i++) s = tune_and_test(m, &task, fvg_method_at(i));
  fvg_task_free(&task);
  fvg_dataset_free(&d);
  fvg_clip_free(m);
  return s;
}

int main(int argc, char **argv) {
  if (argc != 3) return fprintf(stderr, "usage: base_to_new MODEL_DIR DATA_ROOT\n"), 1;
  fvg_ctx *c;
  if (fvg_init(&c, NULL)) return 1;
  fvg_status s = run(c, argv[1], argv[2]);
  if (s) fprintf(stderr, "%s\n", fvg_error(c));
  fvg_free(c);
  return s != FVG_OK;
}
