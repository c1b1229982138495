/* tuned_files.c - the other half of test_no_training.c: checkpoints of every method and head, written by the whole
   library, with the scores that it gives a picture. Values are drawn, not trained: they only have to differ from those
   that a new learner starts with. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"
#include "tuned_files.h"

const char *const tuned_names[N_NAMES] = {"red circle", "green square", "blue star", "yellow ring"};
unsigned char tuned_pixels[SIDE * SIDE * 3];

/* An fvg_write_fn that appends to a tuned_file. */
static int append(void *user, const void *bytes, size_t n) {
  tuned_file *to = (tuned_file *)user;
  unsigned char *longer = (unsigned char *)realloc(to->bytes, to->n + n);
  if (!longer) return 1;
  memcpy(longer + to->n, bytes, n);
  to->bytes = longer;
  to->n += n;
  return 0;
}

static void draw_picture(void) {
  for (int i = 0; i < SIDE * SIDE * 3; i++) {
    int x = i / 3 % SIDE, y = i / 3 / SIDE;
    int inside = (x - 20) * (x - 20) + (y - 20) * (y - 20) < 150;
    tuned_pixels[i] = (unsigned char)(inside ? (i % 3 == 0 ? 230 : 20 + x) : 120 + y);
  }
}

/* Adds noise of this deviation to every value. */
static void disturb(fvg_parameter *const *list, int n, double deviation) {
  fvg_rng rng;
  fvg_rng_seed(&rng, 5, 5);
  for (int i = 0; i < n; i++) {
    float *x = (float *)list[i]->value.data;
    for (size_t k = 0; k < fvg_tensor_count(&list[i]->value); k++)
      x[k] += (float)(deviation * fvg_rng_normal(&rng));
  }
}

/* Scores the picture as desc says. */
static int scored(fvg_clip *m, float *probability, const fvg_classifier_desc *desc) {
  const fvg_image image = tuned_picture();
  fvg_classifier *k = NULL;
  int ok = !fvg_classifier_new(m, &k, tuned_names, N_NAMES, desc);
  if (ok) ok = fvg_classifier_image(k, probability, &image) >= 0;
  fvg_classifier_free(k);
  return ok;
}

/* Disturbs the learner and FVG-PT, writes them, and scores the picture by every branch that they have. */
static int write_and_score(tuned_file *out, fvg_clip *m, fvg_learner *l, fvg_fvgpt *f) {
  fvg_classifier_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.learner = l;
  desc.fvgpt = f;
  int n;
  fvg_parameter *const *list = fvg_learner_parameters(l, &n);
  disturb(list, n, 0.02);
  if (f) list = fvg_fvgpt_parameters(f, &n);
  if (f) disturb(list, n, 0.05);

  out->has_fvgpt = f != NULL;
  int ok = !fvg_checkpoint_write(l, f, append, out, NULL, 0);
  int n_branch = f ? N_BRANCHES : FVG_TUNED_NEW + 1;
  for (int b = 0; ok && b < n_branch; b++) {
    desc.branch = (fvg_branch)b;
    ok = scored(m, out->probability[b], &desc);
  }
  return ok;
}

int tuned_method(tuned_file *out, const char *model, int i) {
  memset(out, 0, sizeof *out);
  const fvg_method *method = fvg_method_at(i);
  if (!method) return 0;
  draw_picture();
  fvg_clip *m = fvg_open(model);
  fvg_learner_desc ld;
  fvg_fvgpt_desc fd;
  fvg_learner *l = NULL;
  fvg_fvgpt *f = NULL;
  memset(&ld, 0, sizeof ld);
  memset(&fd, 0, sizeof fd);
  ld.method = method;
  ld.n_ctx = 4;                       /* the small model has room for few tokens */
  fd.width = m->embed_dim;
  fd.logit_scale = m->logit_scale;

  int ok = !fvg_learner_new(m, &l, tuned_names, N_NAMES, &ld);
  int has_texts = strcmp(fvg_method_name(method), "CoCoOp") != 0;       /* FVG-PT wants texts of classes alone */
  if (ok && has_texts) ok = !fvg_fvgpt_new(m->ctx, &f, &fd);
  if (ok) ok = write_and_score(out, m, l, f);
  if (!ok) printf("%s: %s\n", fvg_method_name(method), fvg_clip_error(m));
  fvg_fvgpt_free(f);
  fvg_learner_free(l);
  fvg_close(m);
  return ok;
}

/* Rows [n, d] of unit length. */
static float *unit_rows(fvg_rng *rng, int n, int d) {
  float *x = (float *)malloc((size_t)n * (size_t)d * sizeof *x);
  for (int i = 0; x && i < n * d; i++) x[i] = (float)fvg_rng_normal(rng);
  if (x) fvg_normalize_rows(x, n, d);
  return x;
}

int tuned_head(tuned_file *out, const char *model, int i) {
  enum { SHOTS = 3 };
  int label[N_NAMES * SHOTS];
  memset(out, 0, sizeof *out);
  draw_picture();
  fvg_clip *m = fvg_open(model);
  fvg_rng rng;
  fvg_rng_seed(&rng, 3, (uint64_t)i);

  fvg_head_data data;
  fvg_head_desc desc;
  fvg_head_checkpoint file;
  fvg_classifier_desc scores;
  memset(&data, 0, sizeof data);
  memset(&desc, 0, sizeof desc);
  memset(&file, 0, sizeof file);
  memset(&scores, 0, sizeof scores);
  for (int k = 0; k < N_NAMES * SHOTS; k++) label[k] = k % N_NAMES;
  float *f = unit_rows(&rng, N_NAMES * SHOTS, m->embed_dim), *text = unit_rows(&rng, N_NAMES, m->embed_dim);
  data.width = m->embed_dim;
  data.n_class = N_NAMES;
  data.n = N_NAMES * SHOTS;
  data.f = f;
  data.label = label;
  data.text = text;
  data.logit_scale = m->logit_scale;
  desc.epochs = 2;

  int ok = f && text && !fvg_head_fit(m->ctx, &file.head, (fvg_head_kind)i, &data, &desc);
  file.class_name = tuned_names;
  file.n_class = N_NAMES;
  if (ok) ok = !fvg_head_checkpoint_write(m, append, out, &file, NULL, 0);
  scores.head = file.head;
  if (ok) ok = scored(m, out->probability[0], &scores);
  if (!ok) printf("head %d: %s\n", i, fvg_clip_error(m));
  fvg_head_free(file.head);
  free(f);
  free(text);
  fvg_close(m);
  return ok;
}
