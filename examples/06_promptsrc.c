/* 06 - PromptSRC: vectors deep in both towers.
        cc -O2 -I.. 06_promptsrc.c -o promptsrc -lm && ./promptsrc tiny-clip ../build/demo/things    (after make demo)

   To learn here: what exactly is trained, tensor by tensor, and how a program watches the loss.  A method that prompts
   the image tower needs the pixels at every step, and its gradients run through the whole tower; the calls are the same. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_DIRENT                             /* list folders through <dirent.h> */
#include "fvgpt_clip.h"

static fvg_status print_row(fvg_clip *m, const char *name, const fvg_dataset *d, fvg_learner *learner) {
  fvg_base_to_new score;
  fvg_status s = fvg_test_base_to_new(m, &score, d, learner, NULL, NULL);
  if (!s) printf("%-10s base %6.2f   new %6.2f   H %6.2f\n", name, score.base, score.new_, score.h);
  return s;
}

/* Everything that takes long calls this after each step; a result other than 0 would stop it. */
static int print_epoch(void *user, const fvg_progress *p) {
  (void)user;
  int is_training = p->n_epochs > 0;             /* testing, for one, has no epochs */
  if (is_training && p->step == p->n_steps / p->n_epochs * (p->epoch + 1))
    printf("epoch %2d  loss %.4f  rate %.2g\n", p->epoch + 1, p->loss, p->lr);
  return 0;
}

static void print_parameters(fvg_learner *l) {
  int n;
  fvg_parameter *const *parameter = fvg_learner_parameters(l, &n);
  for (int i = 0; i < n; i++) {
    const fvg_tensor *x = &parameter[i]->value;
    printf("%-58s [%d, %d]\n", parameter[i]->name, x->dim[0], x->dim[1]);
  }
}

static fvg_status tune_and_test(fvg_clip *m, const fvg_task *task) {
  fvg_learner_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.method = fvg_method_find("PromptSRC");
  fvg_views_desc plain;
  memset(&plain, 0, sizeof plain);
  plain.augment = FVG_AUGMENT_NONE;
  plain.no_foreground = 1;

  fvg_learner *promptsrc = NULL;
  fvg_views *v = NULL;
  fvg_status s = fvg_learner_new(m, &promptsrc, task->class_name, task->n_class, &desc);
  if (!s) print_parameters(promptsrc);
  if (!s) s = fvg_views_new(m, &v, task->dataset, &plain);
  if (!s) s = fvg_learner_train(promptsrc, v, task, NULL);
  if (!s) s = print_row(m, "PromptSRC", task->dataset, promptsrc);
  fvg_views_free(v);
  fvg_learner_free(promptsrc);
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
  if (!s) s = tune_and_test(m, &task);
  fvg_task_free(&task);
  fvg_dataset_free(&d);
  fvg_clip_free(m);
  return s;
}

int main(int argc, char **argv) {
  if (argc != 3) return fprintf(stderr, "usage: promptsrc MODEL_DIR DATA_ROOT\n"), 1;
  fvg_ctx *c;
  fvg_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.progress = print_epoch;
  if (fvg_init(&c, &desc)) return 1;
  fvg_status s = run(c, argv[1], argv[2]);
  if (s) fprintf(stderr, "%s\n", fvg_error(c));
  fvg_free(c);
  return s != FVG_OK;
}
