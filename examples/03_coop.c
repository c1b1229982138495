/* 03 - CoOp: four vectors take the place of "a photo of a", learned from 16 pictures a class.
        cc -O2 -I.. 03_coop.c -o coop -lm && ./coop tiny-clip ../build/demo/things          (after make demo)

   To learn here: what prompt tuning is, and the base-to-new protocol that measures it.  The vectors are tuned on the
   first half of the classes.  Then both halves are tested, and the second one was never seen: H is the harmonic mean. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_DIRENT                             /* list folders through <dirent.h> */
#include "fvgpt_clip.h"

/* learner NULL: CLIP as it is. */
static fvg_status print_row(fvg_clip *m, const char *name, const fvg_dataset *d, fvg_learner *learner) {
  fvg_base_to_new score;
  fvg_status s = fvg_test_base_to_new(m, &score, d, learner, NULL, NULL);
  if (!s) printf("%-10s base %6.2f   new %6.2f   H %6.2f\n", name, score.base, score.new_, score.h);
  return s;
}

static fvg_status tune_and_test(fvg_clip *m, const fvg_task *task) {
  fvg_learner *coop = NULL;                      /* holds what is learned; NULL: the published settings */
  fvg_status s = fvg_learner_new(m, &coop, task->class_name, task->n_class, NULL);

  fvg_views_desc plain;                          /* how training sees a picture: */
  memset(&plain, 0, sizeof plain);
  plain.augment = FVG_AUGMENT_NONE;              /* as the test will, without random crops, */
  plain.no_foreground = 1;                       /* and without its mask */
  fvg_views *v = NULL;
  if (!s) s = fvg_views_new(m, &v, task->dataset, &plain);

  if (!s) s = fvg_learner_train(coop, v, task, NULL);
  if (!s) s = print_row(m, "CoOp", task->dataset, coop);
  fvg_views_free(v);
  fvg_learner_free(coop);
  return s;
}

static fvg_status run(fvg_ctx *c, const char *model, const char *root) {
  const fvg_task_desc sixteen = {FVG_TRAIN, FVG_BASE, 16, 1};     /* pictures of each base class, drawn by seed 1 */
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

  if (!s) printf("%d pictures of %d classes, %s to %s\n", task.items.n, task.n_class, task.class_name[0],
                 task.class_name[task.n_class - 1]);
  if (!s) s = print_row(m, "zero-shot", &d, NULL);
  if (!s) s = tune_and_test(m, &task);

  fvg_task_free(&task);
  fvg_dataset_free(&d);
  fvg_clip_free(m);
  return s;
}

int main(int argc, char **argv) {
  if (argc != 3) return fprintf(stderr, "usage: coop MODEL_DIR DATA_ROOT\n"), 1;
  fvg_ctx *c;
  if (fvg_init(&c, NULL)) return 1;
  fvg_status s = run(c, argv[1], argv[2]);
  if (s) fprintf(stderr, "%s\n", fvg_error(c));
  fvg_free(c);
  return s != FVG_OK;
}
