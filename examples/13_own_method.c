/* 13 - your own method: LASP, written on top of the library, beside CoOp.
        cc -O2 -I.. 13_own_method.c -o own_method -lm
        ./own_method tiny-clip ../build/demo/things                                   (after make demo)

   To learn here: a method is a loss of tape nodes and a loop around an optimiser, and what the
   library has may be put together anew.  CoOp may turn ctx, the vectors before a class name, into
   anything that fits 16 pictures a class.  LASP (Bulat and Tzimiropoulos, CVPR 2023, arXiv
   2210.01115) also asks that sentences which people would write, h, are still recognised among the
   learned prompts g, those of names without a picture, too:

       loss = CE(s f g^T, class of the picture) + W CE(s h g^T, class in the sentence)

   Both terms are CoOp's loss: of pictures among base classes, and of sentences among all classes.
   So two learners have the same ctx.  This is LASP with one group of prompts and nothing trained but
   them; W = 0 is CoOp.  On this small world, with one seed, it does not pay: CoOp has not forgotten
   its new classes, W = 1 takes three points from them, and W = 20 stays near zero-shot CLIP. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_DIRENT                             /* list folders through <dirent.h> */
#include "fvgpt_clip.h"

enum { MOST = 1000, WRITTEN = 5, WIDTH = 96, VALUES = 4 * WIDTH };       /* of the tiny CLIP, and of ctx */
static const char *const written[WRITTEN] = {
  "a photo of a {}.", "a picture of a {}.", "a {}.", "a small {}.", "a large {}."
};

/* A learner, and what it is to recognise: features of pictures, or of sentences. */
typedef struct part {
  fvg_learner *learner;
  int n, label[MOST];
  float f[MOST * WIDTH];
} part;

static fvg_status part_new(part *x, fvg_clip *m, const char *const *name, int n_name, int n) {
  static fvg_learner_desc words;                 /* static: zero, and that stands for CoOp, among others */
  words.ctx_init = "a photo of a";
  x->n = n;
  if (n > MOST) return fvg_fail(m->ctx, FVG_E_ARG, "there is room for %d pictures or sentences", MOST);
  return fvg_learner_new(m, &x->learner, name, n_name, &words);
}

/* CoOp's loss, of n rows of x. */
static fvg_node *coop_loss(const part *x, fvg_tape *t, const float *f, const int *label, int n) {
  fvg_batch batch;
  memset(&batch, 0, sizeof batch);
  batch.n = n;
  batch.f_clip = f;
  batch.label = label;
  return fvg_learner_loss(x->learner, t, &batch);
}

/* The gradient of the loss above, in the ctx of `seen`, for n of its pictures. */
static fvg_status gradient(const part *seen, const part *read, fvg_tape *t, const int *picture, int n, float weight) {
  static float f[MOST * WIDTH];
  int label[MOST];
  for (int i = 0; i < n; i++) {
    memcpy(f + i * WIDTH, seen->f + picture[i] * WIDTH, WIDTH * sizeof *f);
    label[i] = seen->label[picture[i]];
  }
  fvg_parameter *ctx = fvg_learner_parameter(seen->learner, "ctx"), *same = fvg_learner_parameter(read->learner, "ctx");
  memcpy(same->value.data, ctx->value.data, VALUES * sizeof(float));
  memset(same->grad, 0, VALUES * sizeof(float));

  fvg_tape_clear(t);
  fvg_node *of_pictures = coop_loss(seen, t, f, label, n);
  fvg_node *of_sentences = coop_loss(read, t, read->f, read->label, read->n);
  fvg_status s = fvg_backward(fvg_add(of_pictures, fvg_scale(of_sentences, weight)));
  for (int i = 0; !s && i < VALUES; i++) ctx->grad[i] += same->grad[i];
  return s;
}

/* Trains the ctx of `seen`, with the library's settings for CoOp. */
static fvg_status train(fvg_ctx *c, const part *seen, const part *read, fvg_tape *t, float weight) {
  int batch, n_parameter, picture[MOST];
  const fvg_optimizer_desc published = fvg_method_optimizer(fvg_method_find("CoOp"), &batch);
  fvg_parameter *const *parameter = fvg_learner_parameters(seen->learner, &n_parameter);
  fvg_optimizer *o = NULL;
  fvg_status s = fvg_optimizer_new(c, &o, parameter, n_parameter, &published);
  fvg_rng order;
  fvg_rng_seed(&order, 1, 0);
  for (int i = 0; i < seen->n; i++) picture[i] = i;

  for (int epoch = 0; !s && epoch < published.epochs; epoch++) {
    fvg_rng_permute(&order, picture, seen->n);
    for (int i = 0; !s && i < seen->n; i += batch) {
      fvg_optimizer_zero_grad(o);
      s = gradient(seen, read, t, picture + i, seen->n - i < batch ? seen->n - i : batch, weight);
      if (!s) fvg_optimizer_step(o, fvg_learning_rate(&published, epoch));
    }
  }
  fvg_optimizer_free(o);
  return s;
}

static fvg_status print_row(fvg_clip *m, const char *name, const fvg_dataset *d, fvg_learner *l) {
  fvg_base_to_new score;
  fvg_status s = fvg_test_base_to_new(m, &score, d, l, NULL, NULL);
  if (!s) printf("%-14s base %6.2f   new %6.2f   H %6.2f\n", name, score.base, score.new_, score.h);
  return s;
}

/* Learners from "a photo of a", trained with this weight. */
static fvg_status tune_and_test(fvg_clip *m, fvg_tape *t, const fvg_task *task, const char *name, float weight) {
  const fvg_dataset *d = task->dataset;
  const char *const *all = (const char *const *)d->class_name;
  static part seen, read;
  seen.learner = read.learner = NULL;
  fvg_status s = part_new(&seen, m, task->class_name, task->n_class, task->items.n);
  if (!s) s = part_new(&read, m, all, d->n_class, WRITTEN * d->n_class);
  if (!s) s = fvg_encode_task(m, NULL, seen.f, task);
  for (int i = 0; !s && i < seen.n; i++) seen.label[i] = task->items.item[i].label;
  for (int i = 0; !s && i < read.n; i++) read.label[i] = i % d->n_class;
  for (int i = 0; !s && i < WRITTEN; i++)
    s = fvg_clip_encode_classes(m, read.f + i * d->n_class * WIDTH, written[i], all, d->n_class);

  if (!s) s = train(m->ctx, &seen, &read, t, weight);
  if (!s) s = print_row(m, name, d, seen.learner);
  fvg_learner_free(read.learner);
  fvg_learner_free(seen.learner);
  return s;
}

static fvg_status run(fvg_clip *m, const char *root) {
  static fvg_dataset_desc where;
  static fvg_dataset d;
  static fvg_task task;
  const fvg_task_desc sixteen = {FVG_TRAIN, FVG_BASE, 16, 1};
  where.root = root;
  if (m->embed_dim != WIDTH || m->text.width != WIDTH) return fvg_fail(m->ctx, FVG_E_SHAPE, "not the tiny CLIP");
  fvg_tape *t = fvg_tape_new(m->ctx);
  fvg_status s = t ? fvg_dataset_open(m->ctx, &d, &where) : FVG_E_NOMEM;
  if (!s) s = fvg_task_draw(&task, &d, &sixteen);
  if (!s) s = print_row(m, "zero-shot", &d, NULL);
  if (!s) s = tune_and_test(m, t, &task, "CoOp (W = 0)", 0);
  if (!s) s = tune_and_test(m, t, &task, "LASP, W = 1", 1);
  if (!s) s = tune_and_test(m, t, &task, "LASP, W = 20", 20);
  fvg_task_free(&task);
  fvg_dataset_free(&d);
  fvg_tape_free(t);
  return s;
}

int main(int argc, char **argv) {
  if (argc != 3) return fprintf(stderr, "usage: own_method MODEL_DIR DATA_ROOT\n"), 1;
  fvg_clip *m = fvg_open(argv[1]);
  fvg_status s = m ? m->failed : FVG_E_NOMEM;
  if (!s) s = run(m, argv[2]);
  if (s) fprintf(stderr, "%s\n", fvg_clip_error(m));
  fvg_close(m);
  return s != FVG_OK;
}
