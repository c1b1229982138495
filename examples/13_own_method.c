/* 13 - your own method: LASP, written on top of the library, beside CoOp.
        cc -O2 -I.. 13_own_method.c -o own_method -lm && ./own_method tiny-clip ../build/demo/things    (after make demo)

   To learn here: a method is a loss over tape nodes and a loop around an optimiser; no function of the library needs
   to know it.  CoOp may turn the vectors before a class name into anything that fits 16 pictures a class.  LASP
   (Bulat and Tzimiropoulos, CVPR 2023, arXiv 2210.01115) also asks that sentences which people would write, h, are
   still recognised among the learned prompts g, and it may ask that of names without a picture, too:

       loss = CE(s f g^T, class of the picture) + W CE(s h g^T, class in the sentence)

   This is LASP with one group of prompts and nothing trained but them.  W = 0 leaves CoOp, so the table shows what the
   second term does: on this small world next to nothing, for CoOp has not forgotten its new classes here.  The method itself is about 80 lines, up to train(). */
#define FVGPT_IMPLEMENTATION
#define FVGPT_DIRENT                             /* list folders through <dirent.h> */
#include "fvgpt_clip.h"

enum { N_CTX = 4, CLASSES = 100, LONGEST = 77, ROWS = CLASSES * LONGEST, BATCH = 32 };
static const char *const written[] = {"a photo of a {}.", "a picture of a {}.", "a {}.", "a small {}.", "a large {}."};
enum { WRITTEN = sizeof written / sizeof *written };

/* The prompts of n classes as rows for the text tower, one class after the other. */
typedef struct prompts {
  int n, n_row;
  int id[ROWS], source[ROWS], place[ROWS];       /* of each row: token, row of [tokens; ctx], place in its sentence */
  fvg_segment segment[CLASSES];                  /* which rows are a sentence */
  int end[CLASSES];                              /* the row of [EOT], where the feature is read */
} prompts;

/* Lays out [SOT] a photo of a NAME . [EOT] for each class; vectors of ctx stand in for the first four words. */
static fvg_status lay_out(const fvg_clip *m, prompts *p, const char *const *name, int n) {
  const int end_token = fvg_tokenizer_vocab_size(m->tokenizer) - 1;
  memset(p, 0, sizeof *p);
  if (n > CLASSES) return fvg_fail(m->ctx, FVG_E_ARG, "%d classes, and there is room for %d", n, CLASSES);
  for (p->n = 0; p->n < n; p->n++) {
    char text[200];
    snprintf(text, sizeof text, "a photo of a %.150s.", name[p->n]);
    int first = p->n_row, *id = p->id + first, length;
    fvg_status s = fvg_tokenize(m->tokenizer, id + 1, LONGEST - 2, &length, text);
    if (s) return s;
    length += 2;
    if (length > LONGEST || length > m->text.context_length) return fvg_fail(m->ctx, FVG_E_ARG, "%s is too long", text);

    id[0] = end_token - 1;
    id[length - 1] = end_token;
    for (int i = 0; i < length; i++) p->place[first + i] = i;
    const fvg_segment sentence = {first, length, first, length, 0, 0, 1};         /* causal: words see those before */
    p->segment[p->n] = sentence;
    p->end[p->n] = first + length - 1;
    p->n_row += length;
  }
  for (int i = 0; i < p->n_row; i++) {
    int k = p->place[i] - 1;
    p->source[i] = k >= 0 && k < N_CTX ? p->n_row + k : i;
  }
  return FVG_OK;
}

/* g [n, d]: the text tower on those rows.  A NULL on the way is passed on, and the caller sees it at the end. */
static fvg_node *text_features(fvg_tape *t, const fvg_clip *m, const prompts *p, fvg_parameter *ctx) {
  const fvg_text_tower *tower = &m->text;
  fvg_node *token = fvg_gather(fvg_frozen(t, &tower->token_embedding), p->id, p->n_row);
  fvg_node *x = fvg_gather(fvg_concat(token, fvg_param(t, ctx)), p->source, p->n_row);
  x = fvg_add(x, fvg_gather(fvg_frozen(t, &tower->position_embedding), p->place, p->n_row));
  x = fvg_transform(x, &tower->transformer, p->segment, p->n, p->end, p->n);
  x = fvg_layer_norm(x, fvg_frozen(t, &tower->ln_final_weight), fvg_frozen(t, &tower->ln_final_bias),
                     tower->transformer.eps);
  return fvg_normalize(fvg_linear(x, fvg_frozen(t, &tower->projection), NULL));
}

/* s f g^T [n, classes]. */
static fvg_node *scores(const fvg_clip *m, const float *f, int n, fvg_node *g, fvg_tape *t) {
  return fvg_scale(fvg_linear(fvg_const(t, n, m->embed_dim, f), g, NULL), m->logit_scale);
}

/* What is trained, and on what. */
typedef struct lasp {
  fvg_clip *m;
  const fvg_task *task;                          /* pictures of base classes */
  const float *f, *h;                            /* their features; sentences [WRITTEN * all classes, d] */
  prompts all;                                   /* base classes, then new ones */
  fvg_parameter ctx;                             /* [N_CTX, width] */
  float weight;                                  /* W */
} lasp;

static fvg_node *loss(const lasp *l, fvg_tape *t, fvg_parameter *ctx, const int *picture, int n) {
  int label[BATCH], base[CLASSES], sentence[WRITTEN * CLASSES], d = l->m->embed_dim;
  fvg_node *f = fvg_zeros(t, n, d);
  for (int i = 0; f && i < n; i++) {
    memcpy(fvg_fill(f) + i * d, l->f + picture[i] * d, (size_t)d * sizeof *l->f);
    label[i] = l->task->items.item[picture[i]].label;
  }
  for (int i = 0; i < l->task->n_class; i++) base[i] = i;
  for (int i = 0; i < WRITTEN * l->all.n; i++) sentence[i] = i % l->all.n;

  fvg_node *g = text_features(t, l->m, &l->all, ctx);
  fvg_node *seen = scores(l->m, fvg_value(f), n, fvg_gather(g, base, l->task->n_class), t);
  fvg_node *read = scores(l->m, l->h, WRITTEN * l->all.n, g, t);
  return fvg_add(fvg_cross_entropy(seen, label), fvg_scale(fvg_cross_entropy(read, sentence), l->weight));
}

static fvg_status train(lasp *l, fvg_tape *t, fvg_optimizer *o, const fvg_optimizer_desc *desc) {
  fvg_rng order;
  int picture[ROWS], n = l->task->items.n;
  fvg_rng_seed(&order, 1, 0);
  for (int i = 0; i < n; i++) picture[i] = i;
  for (int epoch = 0; epoch < desc->epochs; epoch++) {
    fvg_rng_permute(&order, picture, n);
    for (int i = 0; i < n; i += BATCH) {
      fvg_tape_clear(t);
      fvg_optimizer_zero_grad(o);
      fvg_status s = fvg_backward(loss(l, t, &l->ctx, picture + i, n - i < BATCH ? n - i : BATCH));
      if (s) return s;
      fvg_optimizer_step(o, fvg_learning_rate(desc, epoch));
    }
  }
  return FVG_OK;
}

/* Percent of the test pictures of a group of classes that the prompts tell apart. */
static fvg_status test(const lasp *l, fvg_tape *t, double *accuracy, fvg_group group) {
  static prompts p;
  fvg_task_desc which = {FVG_TEST, FVG_ALL, 0, 0};
  which.group = group;
  fvg_task task;
  fvg_score score;
  fvg_status s = fvg_task_draw(&task, l->task->dataset, &which);
  int n = task.items.n, label[ROWS];
  float *f = FVG_NEW_ARRAY(l->m->ctx, float, (size_t)n * (size_t)l->m->embed_dim);
  for (int i = 0; i < n; i++) label[i] = task.items.item[i].label;
  if (!s) s = f ? fvg_encode_task(l->m, NULL, f, &task) : FVG_E_NOMEM;
  if (!s) s = lay_out(l->m, &p, task.class_name, task.n_class);
  fvg_tape_clear(t);
  const float *z = s ? NULL : fvg_value(scores(l->m, f, n, text_features(t, l->m, &p, (fvg_parameter *)&l->ctx), t));
  if (!s) s = z ? fvg_score_of(l->m->ctx, &score, z, label, n, task.n_class) : fvg_last_status(l->m->ctx);
  if (!s) *accuracy = score.accuracy;
  fvg_release(l->m->ctx, f);
  fvg_task_free(&task);
  return s;
}

static fvg_status tune_and_test(lasp *l, fvg_tape *t, float weight) {
  static const int words[N_CTX] = {1, 2, 3, 4};  /* rows of "a photo of a" in the first prompt */
  const fvg_optimizer_desc desc = fvg_method_optimizer(fvg_method_find("CoOp"), NULL);
  fvg_parameter *all[1] = {&l->ctx};
  fvg_optimizer *o = NULL;
  fvg_status s = fvg_optimizer_new(l->m->ctx, &o, all, 1, &desc);
  fvg_tape_clear(t);
  int id[N_CTX];
  for (int i = 0; i < N_CTX; i++) id[i] = l->all.id[words[i]];
  const float *start = fvg_value(fvg_gather(fvg_frozen(t, &l->m->text.token_embedding), id, N_CTX));
  if (!s && !start) s = fvg_last_status(l->m->ctx);
  if (!s) memcpy(l->ctx.value.data, start, N_CTX * (size_t)l->m->text.width * sizeof *start);
  l->weight = weight;
  double base = 0, new_ = 0;
  if (!s) s = train(l, t, o, &desc);
  if (!s) s = test(l, t, &base, FVG_BASE);
  if (!s) s = test(l, t, &new_, FVG_NEW);
  if (!s) printf("W = %-4g base %6.2f   new %6.2f   H %6.2f\n", (double)weight, base, new_, fvg_harmonic_mean(base, new_));
  fvg_optimizer_free(o);
  return s;
}

static fvg_status run(lasp *l, fvg_tape *t, const char *root) {
  static fvg_dataset_desc where;
  static fvg_dataset d;
  static fvg_task task;
  const fvg_task_desc sixteen = {FVG_TRAIN, FVG_BASE, 16, 1};
  const int shape[2] = {N_CTX, l->m->text.width}, width = l->m->embed_dim;
  where.root = root;
  fvg_status s = fvg_parameter_new(l->m->ctx, &l->ctx, "ctx", 2, shape);
  if (!s) s = fvg_dataset_open(l->m->ctx, &d, &where);
  if (!s) s = fvg_task_draw(&task, &d, &sixteen);
  if (!s) s = lay_out(l->m, &l->all, (const char *const *)d.class_name, d.n_class);
  float *f = FVG_NEW_ARRAY(l->m->ctx, float, (size_t)task.items.n * (size_t)width);
  float *h = FVG_NEW_ARRAY(l->m->ctx, float, (size_t)WRITTEN * (size_t)d.n_class * (size_t)width);
  if (!s) s = f && h ? fvg_encode_task(l->m, NULL, f, &task) : FVG_E_NOMEM;
  for (int i = 0; !s && i < WRITTEN; i++)
    s = fvg_clip_encode_classes(l->m, h + i * d.n_class * width, written[i], (const char *const *)d.class_name, d.n_class);
  l->task = &task;
  l->f = f;
  l->h = h;
  fvg_base_to_new plain;
  if (!s) s = fvg_test_base_to_new(l->m, &plain, &d, NULL, NULL, NULL);
  if (!s) printf("zero-shot base %6.2f   new %6.2f   H %6.2f\n", plain.base, plain.new_, plain.h);
  if (!s) s = tune_and_test(l, t, 0);
  if (!s) s = tune_and_test(l, t, 5);
  fvg_release(l->m->ctx, h);
  fvg_release(l->m->ctx, f);
  fvg_task_free(&task);
  fvg_dataset_free(&d);
  fvg_parameter_free(l->m->ctx, &l->ctx);
  return s;
}

int main(int argc, char **argv) {
  static lasp l;
  if (argc != 3) return fprintf(stderr, "usage: own_method MODEL_DIR DATA_ROOT\n"), 1;
  l.m = fvg_open(argv[1]);
  fvg_status s = l.m ? l.m->failed : FVG_E_NOMEM;
  fvg_tape *t = s ? NULL : fvg_tape_new(l.m->ctx);
  if (!s) s = run(&l, t, argv[2]);
  if (s) fprintf(stderr, "%s\n", fvg_clip_error(l.m));
  fvg_tape_free(t);
  fvg_close(l.m);
  return s != FVG_OK;
}
