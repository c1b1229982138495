/* test_at_once.c - chapters 12, 26 and 37 of fvgpt_clip.h: shared models, tasks, and calls that go from a file to an
   answer.  Each is compared with the long way through the chapters before it.  Run from the repository root; writes
   small files below build/test-at-once.

     build/test_at_once [threads]          threads: only what several threads do at once, for -fsanitize=thread */
#define FVGPT_IMPLEMENTATION
#include <stdlib.h>

/* How many blocks of the heap a thread that counts them has. */
static long heap_blocks;
static int heap_counts;
static void *heap_alloc(size_t bytes) {
  if (heap_counts) heap_blocks++;
  return malloc(bytes);
}
static void heap_free(void *block) {
  if (heap_counts && block) heap_blocks--;
  free(block);
}
#define malloc heap_alloc
#define free heap_free
#include "../fvgpt_clip.h"
#include <pthread.h>
#include <sys/stat.h>

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

#define MODEL "examples/tiny-clip"
#define WORK "build/test-at-once"
enum { SIDE = 70, CLASSES = 5, TRAIN = 6, VAL = 5, TEST = 4, PICTURES = TRAIN + VAL + TEST, MOST = 400 };

/* What the tiny CLIP knows well, an odd number of classes: 3 base ones and 2 new ones. */
static const char *const colour_name[CLASSES] = {"red_square", "green_square", "blue_square", "yellow_square",
                                                 "white_square"};
static const uint8_t colour[CLASSES][3] = {{200, 30, 30}, {30, 160, 50}, {40, 60, 200}, {230, 200, 40},
                                           {240, 240, 240}};
static const char *const some_name[3] = {"red square", "green disc", "blue star"};

/* ---- pictures, and a data set with a split file ---- */
static void write_picture(fvg_ctx *c, const char *path, int label, int number) {
  static uint8_t pixels[3 * SIDE * (SIDE + 9)];
  fvg_image image = {SIDE, SIDE + 9, 3, pixels, 1};
  fvg_rng r;
  fvg_rng_seed(&r, (uint64_t)number, (uint64_t)label);
  int x0 = 15 + (int)fvg_rng_below(&r, 10), y0 = 15 + (int)fvg_rng_below(&r, 10), size = 25 + number % 7;
  for (int y = 0; y < image.height; y++) {
    for (int x = 0; x < SIDE; x++) {
      int inside = x >= x0 && x < x0 + size && y >= y0 && y < y0 + size;
      for (int k = 0; k < 3; k++)
        pixels[3 * (y * SIDE + x) + k] = (uint8_t)(inside ? colour[label][k] : 100 + fvg_rng_below(&r, 20));
    }
  }
  if (fvg_image_save(c, &image, path)) printf("cannot write %s: %s\n", path, fvg_error(c));
}

/* Class k has one picture less for training than class k + 1, so that `fewest` and short classes are tested. */
static void write_part(FILE *f, const char *part, int first, int n, const char *end) {
  fprintf(f, "\"%s\": [", part);
  const char *comma = "";
  for (int i = 0; i < n; i++) {
    for (int label = 0; label < CLASSES; label++) {
      if (!strcmp(part, "train") && i > label + 1) continue;
      fprintf(f, "%s[\"%d-%d.ppm\", %d, \"%s\"]", comma, label, first + i, label, colour_name[label]);
      comma = ",\n";
    }
  }
  fprintf(f, "]%s", end);
}

static void write_data(void) {
  fvg_ctx *c;
  if (fvg_init(&c, NULL)) return;
  mkdir("build", 0777);
  mkdir(WORK, 0777);
  for (int label = 0; label < CLASSES; label++) {
    for (int i = 0; i < PICTURES; i++) {
      char path[100];
      snprintf(path, sizeof path, WORK "/%d-%d.ppm", label, i);
      write_picture(c, path, label, i);
    }
  }
  FILE *f = fopen(WORK "/split.json", "w");
  if (f) {
    fprintf(f, "{");
    write_part(f, "train", 0, TRAIN, ",\n");
    write_part(f, "val", TRAIN, VAL, ",\n");
    write_part(f, "test", TRAIN + VAL, TEST, "}\n");
    fclose(f);
  }
  f = fopen(WORK "/text.ppm", "w");
  if (f) {
    fprintf(f, "this is no picture\n");
    fclose(f);
  }
  fvg_free(c);
}

static fvg_status open_data(fvg_ctx *c, fvg_dataset *d) {
  fvg_dataset_desc where;
  memset(&where, 0, sizeof where);
  where.root = WORK;
  where.split = "split.json";
  return fvg_dataset_open(c, d, &where);
}

/* ---- the long way ---- */
static float *long_features(fvg_clip *m, fvg_learner *l, const char *path) {
  size_t side = (size_t)m->preprocess.size;
  float *x = FVG_NEW_ARRAY(m->ctx, float, 3 * side * side);
  float *f = FVG_NEW_ARRAY(m->ctx, float, (size_t)fvg_learner_feature_width(m, l));
  fvg_image picture, view;
  memset(&view, 0, sizeof view);
  fvg_status s = fvg_image_load(m->ctx, &picture, path, 3);
  if (!s) s = fvg_image_test_transform(m->ctx, &view, &picture, &m->preprocess);
  if (!s) s = fvg_image_normalize(m->ctx, x, &view, &m->preprocess);
  if (!s) s = l ? fvg_learner_encode_images(m, l, f, x, 1) : fvg_clip_encode_images(m, f, x, 1);
  if (!s && !l) fvg_normalize_rows(f, 1, m->embed_dim);
  check(s == FVG_OK, "the long way to features works");
  fvg_image_free(m->ctx, &view);
  fvg_image_free(m->ctx, &picture);
  fvg_release(m->ctx, x);
  return f;
}

/* probability [n] from logits [n], in double; returns the first greatest. */
static int long_softmax(double *probability, const float *logits, int n) {
  int best = 0;
  double sum = 0;
  for (int i = 1; i < n; i++) if (logits[i] > logits[best]) best = i;
  for (int i = 0; i < n; i++) sum += probability[i] = exp((double)logits[i] - (double)logits[best]);
  for (int i = 0; i < n; i++) probability[i] /= sum;
  return best;
}

static double far_apart(const float *got, const double *expected, int n) {
  double worst = 0;
  for (int i = 0; i < n; i++) worst = fmax(worst, fabs((double)got[i] - expected[i]));
  return worst;
}

static int same_floats(const float *a, const float *b, int n) { return !memcmp(a, b, (size_t)n * sizeof *a); }

/* ---- fvg_open, fvg_close, one picture ---- */
static void test_open(void) {
  fvg_clip *m = fvg_open(MODEL);
  check(m != NULL && fvg_clip_error(m)[0] == 0, "a good folder opens without a message");
  if (!m) return;
  float p[3], f[MOST];
  check(fvg_classify_file(m, p, WORK "/0-0.ppm", some_name, 3) == 0, "a red square is told from a disc and a star");
  check(fabs((double)(p[0] + p[1] + p[2]) - 1) < 1e-5, "probabilities add up to 1");
  check(fvg_encode_file(m, f, WORK "/0-0.ppm") == FVG_OK, "its feature can be had");
  check(fvg_close(m) == FVG_OK, "fvg_close returns FVG_OK when nothing failed");

  m = fvg_open(MODEL);
  check(fvg_classify_file(m, NULL, WORK "/none.ppm", some_name, 3) == FVG_E_IO, "a missing picture is FVG_E_IO");
  check(strstr(fvg_clip_error(m), "none.ppm") != NULL, "and the message names it");
  check(fvg_classify_file(m, NULL, WORK "/text.ppm", some_name, 3) < 0, "a text is no picture");
  check(fvg_encode_file(m, f, WORK "/text.ppm") < 0, "and has no feature");
  check(fvg_classify_file(m, NULL, WORK "/0-0.ppm", some_name, 0) < 0, "there must be a name");
  check(fvg_classify_file(m, NULL, WORK "/0-0.ppm", NULL, 3) == FVG_E_ARG, "names NULL are FVG_E_ARG");
  check(fvg_classify_file(m, NULL, NULL, some_name, 3) == FVG_E_ARG, "path NULL is FVG_E_ARG");
  check(fvg_classify_image(m, NULL, NULL, some_name, 3) == FVG_E_ARG, "picture NULL is FVG_E_ARG");
  check(fvg_encode_image(m, f, NULL) == FVG_E_ARG, "for the feature, too");
  check(fvg_encode_file(m, NULL, WORK "/0-0.ppm") == FVG_E_ARG, "feature NULL is FVG_E_ARG");
  uint8_t grey[64] = {0};
  fvg_image one_channel = {8, 8, 1, grey, 1};
  check(fvg_encode_image(m, f, &one_channel) < 0, "a picture of one channel is refused");
  check(fvg_classify_file(m, NULL, WORK "/0-0.ppm", some_name, 3) == 0, "after all that it still works");
  check(fvg_close(m) < 0, "fvg_close returns the last failure");
}

static void test_open_and_free(void) {
  heap_counts = 1;
  for (int i = 0; i < 2; i++) {
    fvg_clip *m = fvg_open(i ? "nowhere" : MODEL);
    check(m && heap_blocks > 0, "a model of fvg_open");
    fvg_clip_free(m);
    check(heap_blocks == 0, "goes with its context by fvg_clip_free too");
  }
  heap_counts = 0;
}

static void test_open_missing(void) {
  fvg_clip *m = fvg_open(WORK "/no-model");
  check(m != NULL, "a missing model is not NULL");
  char why[400];
  snprintf(why, sizeof why, "%s", fvg_clip_error(m));
  check(strstr(why, "no-model") != NULL, "its message names the folder");

  float f[MOST];
  fvg_status first = fvg_last_status(m->ctx);
  fvg_image nothing;
  memset(&nothing, 0, sizeof nothing);
  check(first < 0 && fvg_classify_file(m, NULL, WORK "/0-0.ppm", some_name, 3) == (int)first, "classify_file: same failure");
  check(fvg_classify_file(m, NULL, WORK "/none.ppm", some_name, 3) == (int)first, "whatever the picture");
  check(fvg_classify_image(m, NULL, &nothing, some_name, 3) == (int)first, "classify_image: same failure");
  check(fvg_encode_file(m, f, WORK "/none.ppm") == first, "encode_file: same failure");
  check(fvg_encode_image(m, f, &nothing) == first, "encode_image: same failure");
  check(!strcmp(fvg_clip_error(m), why), "and the message is still the first one");

  fvg_ctx *c;
  fvg_clip *shared = m;
  check(!fvg_init(&c, NULL), "a context");
  check(fvg_clip_share(c, &shared, m) == first && !shared && !strcmp(fvg_error(c), why),
        "a model that could not be opened cannot be shared, for the same reason");
  fvg_free(c);
  check(fvg_close(m) == first, "fvg_close returns it");

  m = fvg_open(NULL);
  check(m && fvg_clip_error(m)[0] && fvg_close(m) < 0, "fvg_open(NULL) fails with a message");
  check(fvg_close(NULL) == FVG_E_NOMEM && fvg_clip_error(NULL)[0], "NULL is a model that memory was out for");
  check(fvg_classify_file(NULL, NULL, WORK "/0-0.ppm", some_name, 3) == FVG_E_NOMEM &&
        fvg_classify_image(NULL, NULL, &nothing, some_name, 3) == FVG_E_NOMEM &&
        fvg_encode_file(NULL, f, "x") == FVG_E_NOMEM && fvg_encode_image(NULL, f, &nothing) == FVG_E_NOMEM,
        "and all calls take it");
  check(fvg_classifier_image(NULL, NULL, &nothing) == FVG_E_ARG && fvg_classifier_file(NULL, NULL, "x") == FVG_E_ARG,
        "a classifier NULL is FVG_E_ARG");
}

static void test_features(fvg_clip *m) {
  float at_once[MOST], again[MOST];
  float *f = long_features(m, NULL, WORK "/2-1.ppm");
  check(!fvg_encode_file(m, at_once, WORK "/2-1.ppm") && same_floats(at_once, f, m->embed_dim),
        "fvg_encode_file has the bits of the long way");
  fvg_image picture;
  fvg_status s = fvg_image_load(m->ctx, &picture, WORK "/2-1.ppm", 3);
  if (!s) s = fvg_encode_image(m, again, &picture);
  check(!s && same_floats(again, f, m->embed_dim), "fvg_encode_image has them, too");

  float from_file[3], from_image[3], logits[3] = {0, 0, 0};
  double expected[3];
  fvg_classifier *k = NULL;
  s = fvg_classifier_new(m, &k, some_name, 3, NULL);
  if (!s) s = fvg_classifier_logits(k, logits, NULL, f, 1);
  int best = long_softmax(expected, logits, 3);
  check(!s && fvg_classify_file(m, from_file, WORK "/2-1.ppm", some_name, 3) == best, "fvg_classify_file: same answer");
  check(far_apart(from_file, expected, 3) < 1e-6, "fvg_classify_file: same probabilities");
  check(fvg_classify_image(m, from_image, &picture, some_name, 3) == best && same_floats(from_image, from_file, 3),
        "fvg_classify_image says the same of the same picture");

  size_t used = fvg_mem_used(m->ctx);
  fvg_classify_file(m, NULL, WORK "/2-1.ppm", some_name, 3);
  fvg_classify_file(m, NULL, WORK "/text.ppm", some_name, 3);
  check(fvg_mem_used(m->ctx) == used, "a call leaves no memory behind, whether it works or not");
  fvg_classifier_free(k);
  fvg_image_free(m->ctx, &picture);
  fvg_release(m->ctx, f);
}

/* Classifiers of every branch; MMRL has rows of three features. */
static void test_classifiers(fvg_clip *m) {
  fvg_learner_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.method = fvg_method_find("MMRL");
  fvg_fvgpt_desc modules;
  memset(&modules, 0, sizeof modules);
  modules.width = m->embed_dim;
  modules.logit_scale = m->logit_scale;
  fvg_learner *mmrl = NULL;
  fvg_fvgpt *fvgpt = NULL;
  check(!fvg_learner_new(m, &mmrl, some_name, 3, &desc) && !fvg_fvgpt_new(m->ctx, &fvgpt, &modules), "MMRL and FVG-PT");
  float *f = long_features(m, mmrl, WORK "/1-1.ppm"), *f_clip = long_features(m, NULL, WORK "/1-1.ppm");
  fvg_image picture;
  check(!fvg_image_load(m->ctx, &picture, WORK "/1-1.ppm", 3), "a picture");

  for (int branch = FVG_ZERO_SHOT; branch <= FVG_BRANCH_NEW; branch++) {
    fvg_classifier_desc which = {(fvg_branch)branch, mmrl, fvgpt, NULL};
    if (branch == FVG_ZERO_SHOT) which.learner = NULL;
    float logits[3], from_file[3], from_image[3];
    double expected[3];
    fvg_classifier *k = NULL;
    fvg_status s = fvg_classifier_new(m, &k, some_name, 3, &which);
    if (!s) s = fvg_classifier_logits(k, logits, NULL, which.learner ? f : f_clip, 1);
    int best = s ? -1 : long_softmax(expected, logits, 3);
    check(!s && fvg_classifier_file(k, from_file, WORK "/1-1.ppm") == best && far_apart(from_file, expected, 3) < 1e-6,
          "fvg_classifier_file is the long way, in every branch");
    check(fvg_classifier_image(k, from_image, &picture) == best && same_floats(from_image, from_file, 3),
          "and fvg_classifier_image says the same");
    check(fvg_classifier_file(k, NULL, WORK "/1-1.ppm") == best, "probabilities need not be wanted");
    check(fvg_classifier_file(k, NULL, WORK "/none.ppm") == FVG_E_IO, "a missing file is FVG_E_IO");
    check(fvg_classifier_image(k, NULL, NULL) == FVG_E_ARG, "no picture is FVG_E_ARG");
    fvg_classifier_free(k);
  }
  fvg_image_free(m->ctx, &picture);
  fvg_release(m->ctx, f_clip);
  fvg_release(m->ctx, f);
  fvg_fvgpt_free(fvgpt);
  fvg_learner_free(mmrl);
}

/* ---- tasks ---- */
static int same_items(const fvg_items *a, const fvg_items *b) {
  if (a->n != b->n) return 0;
  for (int i = 0; i < a->n; i++)
    if (a->item[i].label != b->item[i].label || strcmp(a->item[i].path, b->item[i].path)) return 0;
  return 1;
}

static int long_fewest(const fvg_items *items, int n_class) {
  int fewest = items->n;
  for (int k = 0; k < n_class; k++) {
    int n = 0;
    for (int i = 0; i < items->n; i++) n += items->item[i].label == k;
    if (n < fewest) fewest = n;
  }
  return fewest;
}

static void test_task(const fvg_dataset *d, const fvg_task_desc *desc) {
  const fvg_items *part = desc->split == FVG_TRAIN ? &d->train : desc->split == FVG_VAL ? &d->val : &d->test;
  fvg_items drawn = {NULL, 0}, expected = {NULL, 0};
  fvg_status s;
  if (desc->shots == 0) s = fvg_items_group(d->ctx, &drawn, part, d->n_class, FVG_ALL);
  else if (desc->split == FVG_VAL)
    s = fvg_items_few_shot_val(d->ctx, &drawn, &d->train, &d->val, d->n_class, desc->shots, desc->seed);
  else s = fvg_items_few_shot(d->ctx, &drawn, NULL, part, d->n_class, desc->shots, desc->seed);
  if (!s) s = fvg_items_group(d->ctx, &expected, &drawn, d->n_class, desc->group);

  size_t used = fvg_mem_used(d->ctx);
  int first, n = fvg_group_classes(d->n_class, desc->group, &first);
  fvg_task task;
  check(!s && !fvg_task_draw(&task, d, desc), "a task can be drawn");
  check(task.dataset == d && same_items(&task.items, &expected), "it has the pictures of the long way");
  check(task.n_class == n && task.class_name == (const char *const *)d->class_name + first, "it has its group's names");
  check(task.fewest == long_fewest(&expected, n), "it knows how many pictures its smallest class has");
  fvg_task_free(&task);
  check(!task.items.item && !task.items.n && fvg_mem_used(d->ctx) == used, "freed, it leaves nothing behind");
  fvg_task_free(&task);
  fvg_items_free(d->ctx, &expected);
  fvg_items_free(d->ctx, &drawn);
}

static void test_tasks(const fvg_dataset *d) {
  const int shots[4] = {0, 1, 3, 100};
  for (int part = FVG_TRAIN; part <= FVG_TEST; part++)
    for (int group = FVG_ALL; group <= FVG_NEW; group++)
      for (int i = 0; i < 4; i++)
        for (uint64_t seed = 1; seed <= 2; seed++) {
          fvg_task_desc desc = {(fvg_split)part, (fvg_group)group, shots[i], seed};
          test_task(d, &desc);
        }

  fvg_task task;
  check(!fvg_task_draw(&task, d, NULL) && same_items(&task.items, &d->train) && task.n_class == CLASSES,
        "desc NULL is the whole train part");
  check(task.fewest == 2, "whose smallest class has two pictures");
  fvg_task_free(&task);
  fvg_task_free(NULL);
  check(fvg_task_draw(NULL, d, NULL) == FVG_E_ARG, "a task needs a place");
  check(fvg_task_draw(&task, NULL, NULL) == FVG_E_ARG && !task.items.item, "and a data set");

  fvg_dataset one = *d;                          /* with one class there are no new ones */
  one.n_class = 1;
  const fvg_task_desc no_class = {FVG_TEST, FVG_NEW, 0, 0};
  check(fvg_task_draw(&task, &one, &no_class) == FVG_E_ARG && strstr(fvg_error(d->ctx), "new") && !task.items.item,
        "a group without a class is FVG_E_ARG");
  fvg_task_free(&task);
}

/* ---- base to new ---- */
/* The accuracy on one half, picture by picture. */
static double long_accuracy(fvg_clip *m, const fvg_dataset *d, fvg_group half, const fvg_classifier_desc *desc) {
  int first, n_class = fvg_group_classes(d->n_class, half, &first);
  fvg_items items;
  fvg_classifier *k = NULL;
  fvg_status s = fvg_items_group(m->ctx, &items, &d->test, d->n_class, half);
  if (!s) s = fvg_classifier_new(m, &k, (const char *const *)d->class_name + first, n_class, desc);

  float *logits = FVG_NEW_ARRAY(m->ctx, float, (size_t)(items.n * n_class));
  int *label = FVG_NEW_ARRAY(m->ctx, int, (size_t)items.n);
  for (int i = 0; !s && i < items.n; i++) {
    char *path = fvg_path_join(m->ctx, d->root, items.item[i].path);
    float *f = long_features(m, desc->learner, path);
    label[i] = items.item[i].label;
    s = fvg_classifier_logits(k, logits + i * n_class, NULL, f, 1);
    fvg_release(m->ctx, f);
    fvg_release(m->ctx, path);
  }
  fvg_score score;
  memset(&score, 0, sizeof score);
  if (!s) s = fvg_score_of(m->ctx, &score, logits, label, items.n, n_class);
  check(!s, "the long way to an accuracy works");
  fvg_release(m->ctx, label);
  fvg_release(m->ctx, logits);
  fvg_classifier_free(k);
  fvg_items_free(m->ctx, &items);
  return score.accuracy;
}

static void compare_base_to_new(fvg_clip *m, const fvg_dataset *d, fvg_learner *l, fvg_fvgpt *f, const char *what) {
  fvg_classifier_desc base = {f ? FVG_BRANCH_BASE : l ? FVG_TUNED : FVG_ZERO_SHOT, l, f, NULL};
  fvg_classifier_desc new_ = {f ? FVG_BRANCH_NEW : l ? FVG_TUNED_NEW : FVG_ZERO_SHOT, l, f, NULL};
  double b = long_accuracy(m, d, FVG_BASE, &base), n = long_accuracy(m, d, FVG_NEW, &new_);
  fvg_base_to_new score;
  check(!fvg_test_base_to_new(m, &score, d, l, f, NULL), what);
  check(score.base == b && score.new_ == n && score.h == fvg_harmonic_mean(b, n), what);
}

static void test_base_to_new(fvg_clip *m, const fvg_dataset *d) {
  fvg_task_desc all_base = {FVG_TRAIN, FVG_BASE, 0, 0};
  fvg_learner_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.method = fvg_method_find("MMRL");
  fvg_fvgpt_desc modules;
  memset(&modules, 0, sizeof modules);
  modules.width = m->embed_dim;
  modules.logit_scale = m->logit_scale;

  fvg_task base;
  fvg_learner *mmrl = NULL, *coop = NULL;
  fvg_fvgpt *fvgpt = NULL;
  fvg_status s = fvg_task_draw(&base, d, &all_base);
  if (!s) s = fvg_learner_new(m, &coop, base.class_name, base.n_class, NULL);
  if (!s) s = fvg_learner_new(m, &mmrl, base.class_name, base.n_class, &desc);
  if (!s) s = fvg_fvgpt_new(m->ctx, &fvgpt, &modules);
  check(!s, "learners for the base classes");

  size_t used = fvg_mem_used(m->ctx);
  compare_base_to_new(m, d, NULL, NULL, "base to new by plain CLIP");
  compare_base_to_new(m, d, coop, NULL, "base to new by CoOp");
  compare_base_to_new(m, d, coop, fvgpt, "base to new by FVG-PT on CoOp");
  compare_base_to_new(m, d, mmrl, NULL, "base to new by MMRL, whose halves are scored in two ways");
  compare_base_to_new(m, d, mmrl, fvgpt, "base to new by FVG-PT on MMRL");
  fvg_base_to_new score;
  fvg_test_base_to_new(m, &score, d, NULL, NULL, NULL);
  size_t settled = fvg_mem_used(m->ctx);
  fvg_test_base_to_new(m, &score, d, coop, fvgpt, NULL);
  check(fvg_mem_used(m->ctx) == settled && settled >= used, "testing leaves no memory behind but the tape's");

  fvg_dataset one = *d;                          /* one class, and its one picture that comes first in the list */
  one.n_class = 1;
  one.test.n = 1;
  check(fvg_test_base_to_new(m, &score, &one, NULL, NULL, NULL) == FVG_E_ARG && score.base == 0 && score.h == 0,
        "without new classes it is FVG_E_ARG, and no accuracy stays");
  check(fvg_test_base_to_new(m, &score, d, coop, fvgpt, "no place") == FVG_E_ARG && strstr(fvg_error(m->ctx), "no place"),
        "a template for plain CLIP's class names");
  fvg_classifier_desc told = {FVG_ZERO_SHOT, NULL, NULL, "no {} at all."};
  check(!fvg_test_base_to_new(m, &score, d, NULL, NULL, told.prompt_template) &&
        score.base == long_accuracy(m, d, FVG_BASE, &told) && score.new_ == long_accuracy(m, d, FVG_NEW, &told),
        "is the one they are written into");
  fvg_fvgpt_free(fvgpt);
  fvg_learner_free(mmrl);
  fvg_learner_free(coop);
  fvg_task_free(&base);
}

/* ---- sharing ---- */
/* Counts what is given out, and can refuse the n-th block from now on. */
typedef struct counter { long blocks, until_refusal; } counter;

static void *counted_alloc(void *user, size_t bytes) {
  counter *x = (counter *)user;
  if (x->until_refusal > 0 && --x->until_refusal == 0) return NULL;
  void *block = malloc(bytes);
  if (block) x->blocks++;
  return block;
}

static void counted_release(void *user, void *block, size_t bytes) {
  (void)bytes;
  if (block) ((counter *)user)->blocks--;
  free(block);
}

/* The same from blocks that are aligned to nothing. */
static void *odd_alloc(void *user, size_t bytes) {
  char *block = (char *)counted_alloc(user, bytes + 1);
  return block ? block + 1 : NULL;
}

static void odd_release(void *user, void *block, size_t bytes) {
  counted_release(user, (char *)block - 1, bytes + 1);
}

static void test_odd_allocator(void) {
  counter count = {0, 0};
  fvg_desc desc;
  fvg_ctx *c = NULL, *other = NULL;
  fvg_clip *m = NULL, *shared = NULL;
  float f[MOST];
  memset(&desc, 0, sizeof desc);
  desc.allocator.alloc = odd_alloc;
  desc.allocator.release = odd_release;
  desc.allocator.user = &count;
  fvg_status s = fvg_init(&c, &desc);
  if (!s) s = fvg_init(&other, NULL);
  if (!s) s = fvg_clip_open(c, &m, MODEL, NULL, FVG_F32);
  if (!s) s = fvg_clip_share(other, &shared, m);
  check(!s && (uintptr_t)m->shared % sizeof(void *) == 0, "an allocator may give blocks of any alignment");
  fvg_clip_free(m);
  check(!s && !fvg_encode_file(shared, f, WORK "/0-0.ppm"), "and the other model works");
  fvg_clip_free(shared);
  fvg_free(c);
  fvg_free(other);
  check(!count.blocks, "all of them went back");
}

static fvg_ctx *counted_context(counter *x) {
  fvg_desc desc;
  fvg_ctx *c;
  memset(&desc, 0, sizeof desc);
  desc.allocator.alloc = counted_alloc;
  desc.allocator.release = counted_release;
  desc.allocator.user = x;
  return fvg_init(&c, &desc) ? NULL : c;
}

/* Three models, freed in the order that `order` says, their contexts one step later: weights outlive their context. */
static void free_in_order(const int order[3], const float *expected) {
  counter count[3];
  memset(count, 0, sizeof count);
  fvg_ctx *c[3];
  fvg_clip *m[3];
  size_t used[3];
  for (int i = 0; i < 3; i++) {
    c[i] = counted_context(&count[i]);
    used[i] = fvg_mem_used(c[i]);
  }
  fvg_status s = fvg_clip_open(c[0], &m[0], MODEL, NULL, FVG_F32);
  size_t model = fvg_mem_used(c[0]) - used[0];
  if (!s) s = fvg_clip_share(c[1], &m[1], m[0]);
  if (!s) s = fvg_clip_share(c[2], &m[2], m[1]);             /* of a model that is shared already */
  check(!s, "a model can be shared, and so can the other one");
  if (s) return;
  size_t counted = fvg_mem_used(c[0]) - used[0];
  check(counted >= model && counted < model + model / 100, "the first context still counts the weights");
  check(fvg_mem_used(c[1]) - used[1] < model / 20, "the others count only what is their own");

  for (int step = 0; step < 3; step++) {
    int gone = order[step];
    for (int i = step; i < 3; i++) {
      float f[MOST];
      fvg_clip *left = m[order[i]];
      check(!fvg_encode_file(left, f, WORK "/3-0.ppm") && same_floats(f, expected, left->embed_dim),
            "shared models give the same bits, whoever is gone");
      check(fvg_classify_file(left, NULL, WORK "/0-0.ppm", some_name, 3) == 0, "and know the same words");
    }
    fvg_clip_free(m[gone]);
    check(fvg_mem_used(c[gone]) == used[gone], "after its model a context counts what it did before");
    if (gone != 0) {                             /* the allocator of the weights must stay, their context need not */
      check(count[gone].blocks == 1, "a context of a shared model has nothing left but itself");
    }
    fvg_free(c[gone]);
  }
  check(!count[0].blocks && !count[1].blocks && !count[2].blocks, "all blocks went back where they came from");
}

static void test_share(fvg_clip *m) {
  static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
  float expected[MOST];
  check(!fvg_encode_file(m, expected, WORK "/3-0.ppm"), "a feature to compare with");
  for (int i = 0; i < 6; i++) free_in_order(orders[i], expected);
}

static void test_shared_models_work(fvg_clip *m) {
  fvg_ctx *c;
  fvg_clip *other = NULL;
  check(!fvg_init(&c, NULL), "a context");
  fvg_clip *source = fvg_open(MODEL);
  check(!fvg_clip_share(c, &other, source), "a model of fvg_open can be shared");
  check(fvg_close(source) == FVG_OK, "and closed before the other");

  fvg_learner_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.method = fvg_method_find("PromptSRC");
  desc.seed = 3;
  float g[3 * MOST], h[3 * MOST];
  fvg_learner *here = NULL, *there = NULL;
  check(!fvg_learner_new(m, &here, some_name, 3, &desc) && !fvg_learner_new(other, &there, some_name, 3, &desc) &&
        !fvg_learner_text_features(here, g, some_name, 3) && !fvg_learner_text_features(there, h, some_name, 3) &&
        same_floats(g, h, 3 * m->embed_dim), "learners on a shared model are those on a model of its own");
  fvg_learner_free(here);
  fvg_learner_free(there);

  other->preprocess.mean[0] = 0.9f;
  float f[MOST], again[MOST];
  fvg_clip *third = NULL;
  check(!fvg_encode_file(m, f, WORK "/0-0.ppm") && !fvg_encode_file(other, again, WORK "/0-0.ppm") &&
        !same_floats(f, again, m->embed_dim), "preprocessing is each model's own");
  check(!fvg_clip_share(c, &third, m), "two models can live in one context");
  check(fvg_close(other) == FVG_OK && !fvg_encode_file(third, f, WORK "/0-0.ppm"),
        "fvg_close leaves a context that fvg_open did not make");
  other = m;
  check(fvg_clip_share(c, &other, third) == FVG_E_ARG && !other && strstr(fvg_error(c), "in this context"),
        "a model is not shared with its own context, which might go with it");
  fvg_clip_free(third);
  fvg_free(c);
}

static void test_share_refused(void) {
  size_t room = (size_t)64 << 20;
  void *memory = malloc(room);
  fvg_desc desc;
  fvg_ctx *plain, *arena, *slow;
  memset(&desc, 0, sizeof desc);
  desc.simd = FVG_SIMD_SCALAR;
  fvg_status s = fvg_init(&plain, NULL);
  if (!s) s = fvg_init(&slow, &desc);
  memset(&desc, 0, sizeof desc);
  desc.arena = memory;
  desc.arena_bytes = room;
  if (!s) s = fvg_init(&arena, &desc);
  fvg_clip *m = NULL, *in_arena = NULL, *out;
  if (!s) s = fvg_clip_open(plain, &m, MODEL, NULL, FVG_F32);
  if (!s) s = fvg_clip_open(arena, &in_arena, MODEL, NULL, FVG_F32);
  check(!s, "models in memory and in an arena");
  if (s) return;

  out = m;
  check(fvg_clip_share(arena, &out, m) == FVG_E_ARG && !out && strstr(fvg_error(arena), "arena"),
        "a context with an arena is refused");
  out = m;
  check(fvg_clip_share(plain, &out, in_arena) == FVG_E_ARG && !out, "a model in an arena is refused");
  check(fvg_clip_share(plain, &out, NULL) == FVG_E_ARG && !out, "no model is refused");
  check(fvg_clip_share(plain, NULL, m) == FVG_E_ARG, "no place for the model is refused");
  if (fvg_simd_level(plain) != FVG_SIMD_SCALAR) {
    out = m;
    check(fvg_clip_share(slow, &out, m) == FVG_E_ARG && !out && strstr(fvg_error(slow), "scalar"),
          "another SIMD level is refused by name");
  }

  check(!fvg_clip_unpack(m), "what was refused does not count as sharing");
  fvg_clip_free(m);
  s = fvg_clip_open(plain, &m, MODEL, NULL, FVG_F32);
  fvg_ctx *other;
  if (!s) s = fvg_init(&other, NULL);
  if (!s) s = fvg_clip_share(other, &out, m);
  check(!s && fvg_clip_unpack(m) < 0 && fvg_clip_unpack(out) < 0, "weights that are shared cannot be unpacked");
  float f[MOST];
  check(!fvg_encode_file(m, f, WORK "/0-0.ppm") && !fvg_encode_file(out, f, WORK "/0-0.ppm"), "and both still work");
  fvg_clip_free(m);
  check(fvg_clip_unpack(out) < 0, "also when the first model is gone");
  fvg_clip_free(out);
  fvg_clip_free(in_arena);
  fvg_free(other);
  fvg_free(arena);
  fvg_free(slow);
  fvg_free(plain);
  free(memory);
}

/* Sharing with the n-th block of either allocator refused: nothing is left behind, and the first model lives on. */
static void test_share_without_memory(void) {
  for (int which = 0; which < 2; which++) {
    for (long n = 1; n <= 4; n++) {
      counter count[2];
      memset(count, 0, sizeof count);
      fvg_ctx *c[2] = {counted_context(&count[0]), counted_context(&count[1])};
      fvg_clip *m = NULL, *other = NULL;
      float f[MOST];
      check(!fvg_clip_open(c[0], &m, MODEL, NULL, FVG_F32), "a model to share");
      size_t used = fvg_mem_used(c[1]);
      count[which].until_refusal = n;
      fvg_status s = fvg_clip_share(c[1], &other, m);
      count[which].until_refusal = 0;
      check(s ? s == FVG_E_NOMEM && !other && fvg_error(c[1])[0] : other != NULL, "too little memory is FVG_E_NOMEM");
      check(!s || fvg_mem_used(c[1]) == used, "and leaves nothing behind");
      check(!fvg_encode_file(m, f, WORK "/0-0.ppm"), "the first model works all the same");
      fvg_clip_free(other);
      fvg_clip_free(m);
      fvg_free(c[0]);
      fvg_free(c[1]);
      check(!count[0].blocks && !count[1].blocks, "all blocks went back");
    }
  }
}

/* ---- threads ---- */
enum { THREADS = 4, ROUNDS = 5 };
typedef struct worker {
  pthread_t thread;
  fvg_ctx *ctx;
  fvg_clip *clip;
  float feature[CLASSES][MOST];
  int best[CLASSES];
} worker;

/* Works, and then frees its model while others still work. */
static void *work(void *arg) {
  worker *w = (worker *)arg;
  for (int round = 0; round < ROUNDS; round++) {
    for (int label = 0; label < CLASSES; label++) {
      char path[100];
      snprintf(path, sizeof path, WORK "/%d-0.ppm", label);
      if (fvg_encode_file(w->clip, w->feature[label], path)) memset(w->feature[label], 0, sizeof w->feature[label]);
      w->best[label] = fvg_classify_file(w->clip, NULL, path, colour_name, CLASSES);
    }
  }
  fvg_clip_free(w->clip);
  fvg_free(w->ctx);
  return NULL;
}

static void test_threads(void) {
  static worker w[THREADS];
  static worker alone;
  check(!fvg_init(&alone.ctx, NULL) && !fvg_clip_open(alone.ctx, &alone.clip, MODEL, NULL, FVG_F32), "one model alone");
  work(&alone);

  fvg_clip *m = fvg_open(MODEL);
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < THREADS; i++) {
    s = fvg_init(&w[i].ctx, NULL);
    if (!s) s = fvg_clip_share(w[i].ctx, &w[i].clip, m);
  }
  check(!s, "one model for four threads");
  if (s) return;
  int n = 0;
  while (n < THREADS && !pthread_create(&w[n].thread, NULL, work, &w[n])) n++;
  check(fvg_close(m) == FVG_OK, "the first model is closed while threads use its weights");
  for (int i = 0; i < n; i++) pthread_join(w[i].thread, NULL);
  check(n == THREADS, "four threads");

  for (int i = 0; i < n; i++) {
    check(!memcmp(w[i].feature, alone.feature, sizeof alone.feature), "every thread has the features of one alone");
    check(!memcmp(w[i].best, alone.best, sizeof alone.best), "and its answers");
  }
}

int main(int argc, char **argv) {
  write_data();
  if (argc > 1 && !strcmp(argv[1], "threads")) test_threads();
  else {
    test_open();
    test_open_missing();

    fvg_dataset d;
    fvg_clip *m = fvg_open(MODEL);
    fvg_status s = open_data(m->ctx, &d);
    check(!s && d.n_class == CLASSES, "a small data set");
    if (!s) {
      test_features(m);
      test_classifiers(m);
      test_tasks(&d);
      test_base_to_new(m, &d);
      test_share(m);
      test_shared_models_work(m);
    }
    fvg_dataset_free(&d);
    fvg_close(m);
    test_share_refused();
    test_share_without_memory();
    test_odd_allocator();
    test_open_and_free();
    test_threads();
  }
  printf("%d passed, %d failed\n", passed, failed);
  return failed > 0;
}
