/* 05 - KgCoOp: how near to plain CLIP should learned words stay?
        cc -O2 -I.. 05_kgcoop.c -o kgcoop -lm && ./kgcoop tiny-clip ../build/demo/things    (after make demo)

   To learn here: how a method other than CoOp is chosen, and how its own numbers are set.  CoOp may move the text
   feature of a class wherever 16 pictures lead it.  KgCoOp pays W times the squared distance from plain CLIP's feature
   of "a photo of a {}.".  Three values of W give three trades of base against new classes. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_DIRENT                             /* list folders through <dirent.h> */
#include "fvgpt_clip.h"

static fvg_status print_row(fvg_clip *m, const char *name, const fvg_dataset *d, fvg_learner *learner) {
  fvg_base_to_new score;
  fvg_status s = fvg_test_base_to_new(m, &score, d, learner, NULL, NULL);
  if (!s) printf("%-10s base %6.2f   new %6.2f   H %6.2f\n", name, score.base, score.new_, score.h);
  return s;
}

/* One row of the table.  The views can be shared: plain CLIP's features of a picture do not depend on W. */
static fvg_status tune_and_test(fvg_clip *m, const fvg_task *task, fvg_views *v, double weight) {
  const fvg_option option = {"W", weight};       /* fvg_method_option lists what a method has, and its bounds */
  fvg_learner_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.method = fvg_method_find("KgCoOp");
  desc.option = &option;
  desc.n_option = 1;

  char name[32];
  snprintf(name, sizeof name, "W = %g", weight);
  fvg_learner *kgcoop = NULL;
  fvg_status s = fvg_learner_new(m, &kgcoop, task->class_name, task->n_class, &desc);
  if (!s) s = fvg_learner_train(kgcoop, v, task, NULL);
  if (!s) s = print_row(m, name, task->dataset, kgcoop);
  fvg_learner_free(kgcoop);
  return s;
}

static fvg_status run(fvg_ctx *c, const char *model, const char *root) {
  const double weight[3] = {0, 2, 8};            /* free as CoOp; as in FVG-PT's fork; as in KgCoOp's own scripts */
  const fvg_task_desc sixteen = {FVG_TRAIN, FVG_BASE, 16, 1};
  fvg_dataset_desc where;
  memset(&where, 0, sizeof where);
  where.root = root;
  fvg_views_desc plain;
  memset(&plain, 0, sizeof plain);
  plain.augment = FVG_AUGMENT_NONE;
  plain.no_foreground = 1;

  fvg_clip *m = NULL;
  fvg_views *v = NULL;
  fvg_dataset d;
  fvg_task task;
  memset(&d, 0, sizeof d);
  memset(&task, 0, sizeof task);
  fvg_status s = fvg_clip_open(c, &m, model, NULL, FVG_F32);
  if (!s) s = fvg_dataset_open(c, &d, &where);
  if (!s) s = fvg_task_draw(&task, &d, &sixteen);
  if (!s) s = fvg_views_new(m, &v, &d, &plain);

  if (!s) s = print_row(m, "zero-shot", &d, NULL);
  for (int i = 0; !s && i < 3; i++) s = tune_and_test(m, &task, v, weight[i]);

  fvg_views_free(v);
  fvg_task_free(&task);
  fvg_dataset_free(&d);
  fvg_clip_free(m);
  return s;
}

int main(int argc, char **argv) {
  if (argc != 3) return fprintf(stderr, "usage: kgcoop MODEL_DIR DATA_ROOT\n"), 1;
  fvg_ctx *c;
  if (fvg_init(&c, NULL)) return 1;
  fvg_status s = run(c, argv[1], argv[2]);
  if (s) fprintf(stderr, "%s\n", fvg_error(c));
  fvg_free(c);
  return s != FVG_OK;
}
