/* 07 - MMRL: two features of every picture, and when to believe which.
        cc -O2 -I.. 07_mmrl.c -o mmrl -lm && ./mmrl tiny-clip ../build/demo/things          (after make demo)

   To learn here: a task, a branch and a classifier are all that a test is made of.  MMRL's representation tokens learn
   the base classes, while its class feature stays near CLIP.  So base classes are scored by a mix of both, and new ones
   by the class feature alone.  Each half is scored in both ways, to see why. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_DIRENT                             /* list folders through <dirent.h> */
#include "fvgpt_clip.h"

static fvg_status test(fvg_clip *m, double *accuracy, const fvg_task *task, fvg_branch branch, fvg_learner *learner) {
  fvg_classifier_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.branch = branch;
  desc.learner = learner;

  fvg_classifier *k = NULL;
  fvg_score score;
  fvg_status s = fvg_classifier_new(m, &k, task->class_name, task->n_class, &desc);
  if (!s) s = fvg_classifier_test(k, &score, task);
  if (!s) *accuracy = score.accuracy;
  fvg_classifier_free(k);
  return s;
}

static fvg_status print_half(fvg_clip *m, const char *name, const fvg_dataset *d, fvg_group half, fvg_learner *mmrl) {
  fvg_task_desc which = {FVG_TEST, FVG_ALL, 0, 0};               /* 0 shots: all pictures */
  which.group = half;
  fvg_task task;
  double plain = 0, mixed = 0, alone = 0;
  fvg_status s = fvg_task_draw(&task, d, &which);
  if (!s) s = test(m, &plain, &task, FVG_ZERO_SHOT, NULL);
  if (!s) s = test(m, &mixed, &task, FVG_TUNED, mmrl);
  if (!s) s = test(m, &alone, &task, FVG_TUNED_NEW, mmrl);
  if (!s) printf("%s classes   zero-shot %6.2f   both features %6.2f   class feature %6.2f\n", name, plain, mixed, alone);
  fvg_task_free(&task);
  return s;
}

static fvg_status tune_and_test(fvg_clip *m, const fvg_task *task) {
  fvg_learner_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.method = fvg_method_find("MMRL");
  fvg_views_desc plain;
  memset(&plain, 0, sizeof plain);
  plain.augment = FVG_AUGMENT_NONE;
  plain.no_foreground = 1;

  fvg_learner *mmrl = NULL;
  fvg_views *v = NULL;
  fvg_status s = fvg_learner_new(m, &mmrl, task->class_name, task->n_class, &desc);
  if (!s) s = fvg_views_new(m, &v, task->dataset, &plain);
  if (!s) s = fvg_learner_train(mmrl, v, task, NULL);
  if (!s) s = print_half(m, "base", task->dataset, FVG_BASE, mmrl);
  if (!s) s = print_half(m, "new ", task->dataset, FVG_NEW, mmrl);
  fvg_views_free(v);
  fvg_learner_free(mmrl);
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
  if (!s) s = tune_and_test(m, &task);
  fvg_task_free(&task);
  fvg_dataset_free(&d);
  fvg_clip_free(m);
  return s;
}

int main(int argc, char **argv) {
  if (argc != 3) return fprintf(stderr, "usage: mmrl MODEL_DIR DATA_ROOT\n"), 1;
  fvg_ctx *c;
  if (fvg_init(&c, NULL)) return 1;
  fvg_status s = run(c, argv[1], argv[2]);
  if (s) fprintf(stderr, "%s\n", fvg_error(c));
  fvg_free(c);
  return s != FVG_OK;
}
