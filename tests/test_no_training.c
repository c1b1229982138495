/* test_no_training.c - both headers without training (FVGPT_NO_TRAINING): the checkpoints of all methods and heads that
   the whole library has written (tests/tuned_files.c) are read, and give a picture the same scores, bit for bit. */
#define FVGPT_NO_TRAINING
#define FVGPT_IMPLEMENTATION
#ifndef FVGPT_STATIC
#define FVGPT_STATIC                  /* the other half has functions of the same names */
#endif
#include "../fvgpt_clip.h"
#include "tuned_files.h"

static const char model[] = "examples/tiny-clip";
static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

/* The probabilities of the picture's classes, as desc says; 0 if they cannot be had, or are not those expected. */
static int same_scores(fvg_clip *m, const fvg_classifier_desc *desc, const float *expected) {
  float got[N_NAMES];
  const fvg_image image = tuned_picture();
  fvg_classifier *k = NULL;
  int ok = !fvg_classifier_new(m, &k, tuned_names, N_NAMES, desc);
  int best = ok ? fvg_classifier_image(k, got, &image) : -1;
  ok = ok && best >= 0 && memcmp(got, expected, sizeof got) == 0;
  for (int i = 0; ok && i < N_NAMES; i++) ok = got[i] <= got[best];
  if (!ok) printf("branch %d: %g, not %g; %s\n", (int)desc->branch, (double)got[0], (double)expected[0], fvg_clip_error(m));
  fvg_classifier_free(k);
  return ok;
}

static void test_methods(void) {
  for (int i = 0; fvg_method_at(i); i++) {
    const char *name = fvg_method_name(fvg_method_at(i));
    tuned_file file;
    fvg_clip *m = fvg_open(model);
    fvg_learner *l = NULL;
    fvg_fvgpt *f = NULL;
    check(tuned_method(&file, model, i), name);
    fvg_source source = fvg_source_memory(file.bytes, file.n, name);
    check(!fvg_checkpoint_read(m, &l, &f, NULL, &source) && l && !f == !file.has_fvgpt, name);

    fvg_classifier_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.learner = l;
    desc.fvgpt = f;
    int ok = l != NULL;
    for (int b = 0; ok && b < (f ? N_BRANCHES : FVG_TUNED_NEW + 1); b++) {
      desc.branch = (fvg_branch)b;
      ok = same_scores(m, &desc, file.probability[b]);
    }
    check(ok, name);
    if (!ok) printf("%s: %s\n", name, fvg_clip_error(m));

    fvg_fvgpt_free(f);
    fvg_learner_free(l);
    fvg_close(m);
    free(file.bytes);
  }
}

static void test_heads(void) {
  for (int i = 0; i < N_HEADS; i++) {
    const char *name = fvg_head_name((fvg_head_kind)i);
    tuned_file file;
    fvg_clip *m = fvg_open(model);
    fvg_head_checkpoint head;
    fvg_classifier_desc desc;
    memset(&desc, 0, sizeof desc);
    check(tuned_head(&file, model, i), name);
    fvg_source source = fvg_source_memory(file.bytes, file.n, name);
    int ok = !fvg_head_checkpoint_read(m, &head, &source);
    desc.head = head.head;
    ok = ok && same_scores(m, &desc, file.probability[0]);
    check(ok, name);
    if (!ok) printf("%s: %s\n", name, fvg_clip_error(m));

    fvg_head_checkpoint_free(m, &head);
    fvg_close(m);
    free(file.bytes);
  }
}

/* A checkpoint that is cut off is refused here as everywhere. */
static void test_damage(void) {
  tuned_file file;
  fvg_clip *m = fvg_open(model);
  fvg_learner *l = NULL;
  fvg_fvgpt *f = NULL;
  check(tuned_method(&file, model, 0), "a checkpoint to damage");
  fvg_source source = fvg_source_memory(file.bytes, file.n - 1, "cut off");
  check(fvg_checkpoint_read(m, &l, &f, NULL, &source) == FVG_E_FORMAT && !l && !f, "cut off");
  check(strstr(fvg_clip_error(m), "cut off") != NULL, "the message names the file");
  check(fvg_close(m) == FVG_E_FORMAT, "the kind of the failure");
  free(file.bytes);
}

int main(void) {
  test_methods();
  test_heads();
  test_damage();
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
