/* Both headers without files and without a heap (FVGPT_NO_STDIO, FVGPT_NO_MALLOC): a model, a tuned learner with FVG-PT
   and its checkpoint live in an arena.  What needs files or a heap says so. */
#include <stdio.h>
#include <stdlib.h>
#define FVGPT_NO_STDIO
#define FVGPT_NO_MALLOC
#undef FVGPT_STB_IMAGE                                   /* which uses malloc */
#include "random_model.h"

static const char *const names[] = {"cat", "cab", "photo"};
enum { N_NAMES = sizeof names / sizeof *names };

static void test_checkpoint(fvg_clip *m) {
  static float before[N_NAMES * EMBED], after[N_NAMES * EMBED];
  fvg_learner_desc ld;
  fvg_fvgpt_desc fd;
  fvg_learner *l, *again = NULL;
  fvg_fvgpt *f, *f_again = NULL;
  buffer written;
  memset(&ld, 0, sizeof ld);
  memset(&fd, 0, sizeof fd);
  memset(&written, 0, sizeof written);
  fd.width = EMBED;
  ld.n_ctx = 2;
  need(!fvg_learner_new(m, &l, names, N_NAMES, &ld) && !fvg_fvgpt_new(c, &f, &fd), "a learner with FVG-PT");
  need(!fvg_learner_text_features(l, before, names, N_NAMES), "its texts");

  check(!fvg_checkpoint_write(l, f, append, &written, NULL, 0), "written");
  fvg_source source = fvg_source_memory(written.bytes, written.n, "memory");
  check(!fvg_checkpoint_read(m, &again, &f_again, NULL, &source) && again && f_again, "and read");
  check(!fvg_learner_text_features(again, after, names, N_NAMES) && same(before, after, N_NAMES * EMBED),
        "with the same features, bit for bit");
  check(!fvg_learner_read(again, &source), "values alone");

  source = fvg_source_memory(written.bytes, written.n - 1, "memory");
  check(fvg_learner_read(again, &source) == FVG_E_FORMAT && one_line("memory", ""), "cut off");
  fvg_learner_free(l);
  fvg_learner_free(again);
  fvg_fvgpt_free(f);
  fvg_fvgpt_free(f_again);
  free(written.bytes);
}

static void test_refusals(void) {
  fvg_dataset_desc desc;
  fvg_dataset d;
  memset(&desc, 0, sizeof desc);
  check(fvg_dataset_open(c, &d, &desc) == FVG_E_ARG && one_line("data set", "root"), "no root");
  desc.root = "pictures";
  check(fvg_dataset_open(c, &d, &desc) == FVG_E_UNSUPPORTED && one_line("pictures", "FVGPT_NO_STDIO"), "no files");

  static uint8_t pixels[3];
  fvg_picture picture;
  memset(&picture, 0, sizeof picture);
  picture.image.width = picture.image.height = 1;
  picture.image.channels = 3;
  picture.image.pixels = pixels;
  check(fvg_dataset_check(NULL, FVG_CHECK_TRAIN, 0) == FVG_E_ARG, "no data set to check");
  check(!fvg_dataset_of_pictures(c, &d, &picture, 1, names, 1) && !fvg_dataset_check(&d, FVG_CHECK_TRAIN, 0),
        "pictures in memory are checked already");
  fvg_dataset_free(&d);
}

static void test_no_heap(void) {
  fvg_desc desc;
  memset(&desc, 0, sizeof desc);
  check(fvg_init(&c, NULL) == FVG_E_ARG && !c && fvg_init(&c, &desc) == FVG_E_ARG && !c, "neither allocator nor arena");
  check(strstr(fvg_error(NULL), "FVGPT_NO_MALLOC") != NULL && !fvg_open("tiny-clip") &&
        strstr(fvg_clip_error(NULL), "FVGPT_NO_MALLOC"), "and the message says what is missing");
}

int main(void) {
  static double arena[1 << 20];
  fvg_clip *m;
  fvg_desc desc;
  test_no_heap();
  memset(&desc, 0, sizeof desc);
  desc.arena = arena;
  desc.arena_bytes = sizeof arena;
  if (fvg_init(&c, &desc)) return 1;
  make_random_model();
  m = must_load(&hf, NULL, FVG_F32);
  test_checkpoint(m);
  test_refusals();
  fvg_clip_free(m);
  check(fvg_mem_used(c) == 0, "no memory stays");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
