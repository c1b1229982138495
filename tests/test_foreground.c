/* Chapter 39: masks made by CLIP itself.  The pieces against plain ones, then examples/tiny-clip on pictures whose exact
   mask is known.  Run from the repository root. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_PTHREADS
#include "../tools/world.h"

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

#define MODEL "examples/tiny-clip"
enum { PICTURES = 48, AREA = WORLD_SIDE * WORLD_SIDE };

static fvg_ctx *c;
static fvg_clip *m;
static fvg_image picture[PICTURES], mask[PICTURES];
static int label[PICTURES];
static const char *name[WORLD_THINGS], *ground[WORLD_GROUNDS];

/* One thing a picture, before any background, without others beside it. */
static void draw_pictures(void) {
  fvg_rng r;
  int i;
  fvg_rng_seed(&r, 36, 1);
  for (i = 0; i < PICTURES; i++) {
    world_scene scene = world_scene_draw(&r);
    scene.thing = label[i] = i % WORLD_THINGS;
    scene.count = 1;
    scene.large = 1;
    scene.n_distractor = 0;
    memset(&picture[i], 0, sizeof picture[i]);
    memset(&mask[i], 0, sizeof mask[i]);
    fvg__image_new(c, &picture[i], WORLD_SIDE, WORLD_SIDE, 3);
    fvg__image_new(c, &mask[i], WORLD_SIDE, WORLD_SIDE, 1);
    world_render(&scene, &r, picture[i].pixels, mask[i].pixels);
  }
  for (i = 0; i < WORLD_THINGS; i++) name[i] = world_things[i].name;
  for (i = 0; i < WORLD_GROUNDS; i++) ground[i] = world_grounds[i];
}

static fvg_foreground_desc world_desc(void) {
  fvg_foreground_desc d;
  memset(&d, 0, sizeof d);
  d.background = ground;
  d.n_background = WORLD_GROUNDS;
  d.background_template = "a photo {}.";
  return d;
}

/* ---- the pieces ---- */
static void test_positions(void) {
  const int n = m->vision.image_size / m->vision.patch_size, w = m->vision.width;
  const float *learned = (const float *)m->vision.position_embedding.data;
  const fvg__grid same = {n, n}, finer = {2 * n, n};
  float *out = (float *)malloc(sizeof(float) * (size_t)(1 + 2 * n * n) * (size_t)w);
  double weight[4], sum = 0;
  int i, ok = 1;
  fvg__resize_positions(&m->vision, same, out);
  for (i = 0; i < (1 + n * n) * w; i++) ok &= fabs((double)out[i] - (double)learned[i]) < 1e-6;
  check(ok, "a grid of the learned form has the learned positions");
  fvg__resize_positions(&m->vision, finer, out);
  check(!memcmp(out, learned, (size_t)w * sizeof *out), "the class token keeps its own");
  fvg__cubic_weights(0.3, weight);
  for (i = 0; i < 4; i++) sum += weight[i];
  check(fabs(sum - 1) < 1e-12, "cubic weights sum to 1");
  fvg__cubic_weights(0, weight);
  check(fabs(weight[1] - 1) < 1e-12 && fabs(weight[0]) + fabs(weight[2]) + fabs(weight[3]) < 1e-12, "at a sample only it counts");
  free(out);
}

static void test_grids(void) {
  fvg_image wide, tall, thin;
  memset(&wide, 0, sizeof wide);
  wide.width = 400, wide.height = 100;
  tall = wide, thin = wide;
  tall.width = 100, tall.height = 400;
  thin.width = 1, thin.height = 30000;
  check(fvg__grid_of(m, &wide).rows == 4 && fvg__grid_of(m, &wide).cols == 16, "a wide picture has a wide grid");
  check(fvg__grid_of(m, &tall).rows == 16 && fvg__grid_of(m, &tall).cols == 4, "a tall one a tall grid");
  check(fvg__grid_of(m, &thin).rows == 64 && fvg__grid_of(m, &thin).cols == 1, "no grid has more patches than that");
}

static void test_walk(void) {
  enum { N = 7 };
  float a[N * N], map[N], flat[N], next[N], before[N * N];
  fvg_rng r;
  double w[N * N];
  int i, j, ok = 1;
  fvg_rng_seed(&r, 5, 5);
  for (i = 0; i < N * N; i++) before[i] = a[i] = (float)fvg_rng_uniform(&r);
  for (i = 0; i < N; i++) map[i] = (float)fvg_rng_uniform(&r), flat[i] = 2.5f;
  for (i = 0; i < N; i++) {                                            /* W of (5) in double */
    double sum = 0;
    for (j = 0; j < N; j++) sum += (double)before[i * N + j];
    for (j = 0; j < N; j++) w[i * N + j] = (double)before[i * N + j] / sum;
  }
  {
    double both[N * N], expected[N] = {0};
    for (i = 0; i < N; i++) for (j = 0; j < N; j++) both[i * N + j] = w[i * N + j] + w[j * N + i];
    for (i = 0; i < N; i++) {
      double sum = 0;
      for (j = 0; j < N; j++) sum += both[i * N + j];
      for (j = 0; j < N; j++) expected[i] += both[i * N + j] / sum * (double)map[j];
    }
    fvg__random_walk(a, map, next, N, 1);
    for (i = 0; i < N; i++) ok &= fabs((double)map[i] - expected[i]) < 1e-5;
  }
  check(ok, "a step of the walk is that of the formula");
  memcpy(a, before, sizeof a);
  fvg__random_walk(a, flat, next, N, 4);
  for (i = 0, ok = 1; i < N; i++) ok &= fabsf(flat[i] - 2.5f) < 1e-5f;
  check(ok, "a map that is the same everywhere stays so");
}

static void test_threshold(void) {
  float x[60], same[3] = {4, 4, 4};
  int i;
  for (i = 0; i < 60; i++) x[i] = i < 20 ? 0.1f + 0.001f * (float)i : 0.7f + 0.001f * (float)i;
  check(fvg__best_threshold(x, 60) > 0.119f && fvg__best_threshold(x, 60) < 0.72f, "the threshold parts two heaps");
  check(fvg__best_threshold(same, 3) == 4, "equal values have none but their own");
}

/* The guided filter keeps what is linear in the colours, and its windows are means over what lies inside. */
static void test_guided_filter(void) {
  const fvg__grid size = {20, 30};
  fvg__canvas x;
  fvg_image small;
  fvg_rng r;
  float box[600];
  int i, y, col, ok = 1;
  memset(&small, 0, sizeof small);
  fvg__image_new(c, &small, 30, 20, 3);
  fvg_rng_seed(&r, 9, 9);
  for (i = 0; i < 1800; i++) small.pixels[i] = (uint8_t)fvg_rng_below(&r, 256);
  memset(&x, 0, sizeof x);
  check(!fvg__canvas_resize(c, &x, size), "a canvas");
  fvg__lay_guide(&x, &small, 3);
  for (i = 0; i < 600; i++) x.p[i] = (float)fvg_rng_uniform(&r);
  fvg__box_means(&x, x.p, box, 3);
  for (y = 0; y < 20; y++)
    for (col = 0; col < 30; col++) {
      double sum = 0;
      int n = 0, dy, dx;
      for (dy = -3; dy <= 3; dy++)
        for (dx = -3; dx <= 3; dx++)
          if (y + dy >= 0 && y + dy < 20 && col + dx >= 0 && col + dx < 30) sum += (double)x.p[(y + dy) * 30 + col + dx], n++;
      ok &= fabs(sum / n - (double)box[y * 30 + col]) < 1e-5;
    }
  check(ok, "box means are means over the window inside the picture");
  for (i = 0; i < 600; i++) x.p[i] = 0.2f + 0.5f * x.guide[0][i] - 0.1f * x.guide[2][i];
  fvg__fit_lines(&x, 3);
  for (i = 0, ok = 1; i < 600; i++) {
    float p = x.offset[i] + x.slope[0][i] * x.guide[0][i] + x.slope[1][i] * x.guide[1][i] + x.slope[2][i] * x.guide[2][i];
    ok &= fabsf(p - (0.2f + 0.5f * x.guide[0][i] - 0.1f * x.guide[2][i])) < 0.03f;
  }
  check(ok, "the guided filter keeps what is linear in the colours");
  {
    double sum = 0;
    for (i = 0; i < 600; i++) x.p[i] = (float)fvg_rng_uniform(&r);
    fvg__count_colours(&x);
    for (i = 0; i < FVG__COLOUR_BINS * FVG__COLOUR_BINS * FVG__COLOUR_BINS; i++) sum += (double)x.inside[i];
    check(sum > 0.5 && sum < 1.5, "a histogram sums to about 1");
  }
  fvg__canvas_free(c, &x);
  fvg_image_free(c, &small);
}

/* A class that is nearer at the hottest patch, or almost as near, is a rival; one that is nearer elsewhere is not. */
static void test_contrast(void) {
  fvg_foreground x;
  fvg_clip clip = *m;
  float map[4], only[4];
  /* classes: own, one that is nearer on the same patches, one on another thing; then one background */
  static const float cosine[16] = {.5f, .3f, .1f, .1f, .6f, .6f, .1f, .1f, .1f, .1f, .1f, .9f, .2f, .2f, .2f, .2f};
  memset(&x, 0, sizeof x);
  clip.logit_scale = 40;
  x.clip = &clip;
  x.n_class = 3;
  x.n_background = 1;
  fvg__contrast_map(&x, cosine, 4, 0, map);
  check(fabsf(map[0] - (.3f + .4f)) < 1e-6f && fabsf(map[1] - (.1f + .4f)) < 1e-6f, "a rival adds to its own class");
  check(fabsf(map[3] - (-.1f - .1f)) < 1e-6f, "another thing does not");
  x.desc.contrast = FVG_OWN_CLASS;
  fvg__contrast_map(&x, cosine, 4, 0, only);
  check(fabsf(only[1] - .1f) < 1e-6f && fabsf(only[3] + .1f) < 1e-6f, "the class alone");
  x.desc.contrast = FVG_OWN_AND_RIVALS;
  fvg__contrast_map(&x, cosine, 4, -1, map);
  check(fabsf(map[3] - .7f) < 1e-6f && fabsf(map[1] - .4f) < 1e-6f, "without a label any class counts");
}

/* (7) of a small map: half of it sharp, and a border of which a part is foreground. */
static void test_confidence(void) {
  static const float sure[6] = {0, 1, 0, 0, 1, 0}, unsure[6] = {.5f, .5f, .5f, .5f, .5f, .5f}, half[6] = {1, 1, 1, 0.75f, 0, 0};
  check(fabsf(fvg__map_confidence(sure, 2, 3) - (1 - 0.2f / 2)) < 1e-6f, "two of ten places of the border");
  check(fvg__map_confidence(unsure, 2, 3) == 0, "a map that knows nothing");
  check(fabsf(fvg__map_confidence(half, 2, 3) - (5.5f / 6) * (1 - 0.7f / 2)) < 1e-6f, "four corners and edges count twice");
}

/* ---- a learner's prompts ---- */
/* A square picture of the tower's size enters it as it is: what is then before the last block must be what chapter 38
   computes for the same learner, and so must the patches' features be. */
static void test_learner(const char *method) {
  const int n_patch = m->vision.n_token - 1, d = m->embed_dim;
  fvg_learner_desc desc;
  fvg_foreground_desc how = world_desc();
  fvg_learner *l = NULL;
  fvg_foreground *x = NULL;
  fvg__foreground_pass pass;
  fvg__last_block last;
  fvg_tape *t = fvg_tape_new(c);
  float *chw = (float *)malloc(sizeof(float) * 3 * AREA), *cosine = (float *)malloc(sizeof(float) * (size_t)((WORLD_THINGS + WORLD_GROUNDS) * n_patch));
  int i, k, ok = 1;
  memset(&desc, 0, sizeof desc);
  desc.method = fvg_method_find(method);
  check(!fvg_learner_new(m, &l, name, WORLD_THINGS, &desc), method);
  how.learner = l;
  check(!fvg_foreground_new(m, &x, name, WORLD_THINGS, &how), "foreground of a learner");
  memset(&pass, 0, sizeof pass);
  memset(&last, 0, sizeof last);
  pass.foreground = x;
  pass.grid = fvg__grid_of(m, &picture[1]);
  pass.cosine = cosine;
  check(!fvg__run_pass(&pass, fvg__clip_tape(m), &picture[1]), "a pass with prompts");
  fvg_tape_clear(m->tape);
  check(!fvg_image_normalize(c, chw, &picture[1], &m->preprocess) && !fvg__reach_last_block(t, m, l, chw, &last), "chapter 38");
  {
    fvg_node *f = fvg__foreground_features(m, last.x, n_patch, FVG_KEY_KEY);
    check(f != NULL && last.n_prompt == (fvg__learner_parts(l) > 1 ? last.x->rows - 1 - n_patch : 0), "features");
    for (i = 0; f && i < WORLD_THINGS; i++)
      for (k = 0; k < n_patch; k++) {
        double sum = 0;
        int j;
        for (j = 0; j < d; j++) sum += (double)x->text[i * d + j] * (double)fvg_value(f)[k * d + j];
        ok &= fabs(sum - (double)cosine[i * n_patch + k]) < 2e-5;
      }
  }
  check(ok, "the same features as through chapter 38");
  {
    fvg_image made;
    float *g = (float *)malloc(sizeof(float) * (size_t)(WORLD_THINGS * d));
    check(!fvg_learner_text_features(l, g, name, WORLD_THINGS) && !memcmp(g, x->text, sizeof(float) * (size_t)(WORLD_THINGS * d)),
          "the learner's texts");
    check(!fvg_foreground_mask(x, &made, NULL, &picture[1], label[1]) && made.width == WORLD_SIDE, "a mask by a learner, with a walk");
    fvg_image_free(c, &made);
    free(g);
  }
  fvg_tape_free(t);
  fvg_foreground_free(x);
  fvg_learner_free(l);
  free(chw);
  free(cosine);
}

static void test_learners(void) {
  fvg_learner_desc desc;
  fvg_foreground_desc how = world_desc();
  fvg_learner *l = NULL;
  fvg_foreground *x;
  test_learner("CoOp");
  test_learner("PromptSRC");
  test_learner("MaPLe");
  test_learner("MMRL");
  test_learner("MMRLpp");
  test_learner("DePT_CoOp");
  memset(&desc, 0, sizeof desc);
  desc.method = fvg_method_find("CoCoOp");
  check(!fvg_learner_new(m, &l, name, 3, &desc), "CoCoOp");
  how.learner = l;
  check(fvg_foreground_new(m, &x, name, 3, &how) == FVG_E_UNSUPPORTED && !x, "CoCoOp has no texts of classes alone");
  fvg_learner_free(l);
}

/* ---- masks for training ---- */
static void test_items(void) {
  static fvg_picture from[6];
  fvg_foreground_desc d = world_desc();
  fvg_foreground *x = NULL;
  fvg_dataset set;
  fvg_image own, image, kept, narrow;
  fvg_item far;
  char *path = NULL;
  int i, ok = 1;
  for (i = 0; i < 6; i++) {
    from[i].image = picture[i];
    from[i].label = label[i];
  }
  check(!fvg_dataset_of_pictures(c, &set, from, 6, name, WORLD_THINGS), "a data set without masks");
  check(!fvg_foreground_new(m, &x, name, WORLD_THINGS, &d) && !fvg_foreground_mask_items(x, &set, &set.train), "gets its masks");
  for (i = 0; i < set.train.n; i++) {
    check(!fvg_dataset_load(&set, &image, &kept, &set.train.item[i], 0) &&
              !fvg_foreground_mask(x, &own, NULL, &image, set.train.item[i].label), "one of them");
    ok &= kept.pixels && fvg_mask_iou(&own, &kept) == 1;
    fvg_image_free(c, &own);
    fvg_image_free(c, &kept);
    fvg_image_free(c, &image);
  }
  check(ok, "the masks are those that are made one by one");
  check(!fvg_dataset_check_masks(&set, &set.train), "training may begin");
  check(!fvg_dataset_mask_path(&set, &path, set.train.item[2].path) && path, "a mask is there");
  fvg_release(c, path);
  check(!fvg_dataset_set_mask(&set, set.train.item[2].path, NULL) &&
            !fvg_dataset_load(&set, &image, &kept, &set.train.item[2], 0) && !kept.pixels, "and can be taken back");
  fvg_image_free(c, &image);
  check(!fvg_dataset_set_mask(&set, "nobody", NULL), "one that is not there, too");
  check(!fvg_dataset_set_mask(&set, set.train.item[2].path, &mask[2]) &&
            !fvg_dataset_load(&set, NULL, &kept, &set.train.item[2], 0) && fvg_mask_iou(&kept, &mask[2]) == 1, "and set again");
  fvg_image_free(c, &kept);
  memset(&narrow, 0, sizeof narrow);
  fvg__image_new(c, &narrow, 5, 7, 1);
  check(fvg_dataset_set_mask(&set, set.train.item[0].path, &narrow) == FVG_E_ARG && strstr(fvg_error(c), "5 x 7"),
        "a mask of another size");
  check(fvg_dataset_set_mask(&set, "#6", &mask[2]) == FVG_E_ARG && strstr(fvg_error(c), "no picture #6"), "of no picture");
  fvg_dataset files = set;                                             /* sizes are known when pictures are loaded */
  files.picture = NULL;
  check(!fvg_dataset_set_mask(&files, set.train.item[0].path, &narrow) &&
            fvg_dataset_load(&set, &image, &kept, &set.train.item[0], 0) == FVG_E_ARG && !image.pixels && !kept.pixels &&
            strstr(fvg_error(c), "5 x 7"), "a mask of another size is an error when it is used");
  const int width = narrow.width;
  narrow.width = 0;
  check(fvg_dataset_set_mask(&files, set.train.item[0].path, &narrow) == FVG_E_ARG && strstr(fvg_error(c), "0 x 7"),
        "a mask without pixels");
  narrow.width = width;
  fvg_image_free(c, &narrow);
  check(fvg_dataset_set_mask(&set, set.train.item[0].path, &picture[0]) == FVG_E_ARG, "three channels are no mask");
  check(fvg_dataset_set_mask(&set, NULL, &mask[0]) == FVG_E_ARG && fvg_dataset_set_mask(NULL, "x", NULL) == FVG_E_ARG, "NULL");
  check(fvg_foreground_mask_items(x, NULL, &set.train) == FVG_E_ARG && fvg_foreground_mask_items(x, &set, NULL) == FVG_E_ARG, "nothing");
  far = set.train.item[1];
  far.label = WORLD_THINGS;
  {
    fvg_items one = {&far, 1};
    check(fvg_foreground_mask_items(x, &set, &one) == FVG_E_ARG, "a label that is none");
  }
  for (i = 0, ok = 1; i < 3000; i++) {                                  /* the table grows and finds all */
    char many[32];
    snprintf(many, sizeof many, "picture %d", i);
    ok &= !fvg_dataset_set_mask(&files, many, &mask[i % 2]);
  }
  for (i = 0; i < 3000; i++) {
    char many[32];
    const fvg__set_mask *found;
    snprintf(many, sizeof many, "picture %d", i);
    found = fvg__mask_given(&set, many);
    ok &= found && !strcmp(found->path, many);
  }
  check(ok, "thousands of masks");
  fvg_foreground_free(x);
  fvg_dataset_free(&set);
}

/* DAPT-G: the learner makes the masks anew after every epoch, which changes what it learns. */
static void test_dapt_g(void) {
  static fvg_picture from[8];
  fvg_foreground_desc how = world_desc();
  fvg_learner *l[2] = {NULL, NULL};
  fvg_views *v = NULL;
  fvg_views_desc views;
  fvg_train_desc train;
  fvg_learner_desc desc;
  fvg_dataset set;
  fvg_task task;
  double loss[2][3] = {{0}};
  int i;
  for (i = 0; i < 8; i++) {
    from[i].image = picture[i % 4];
    from[i].label = i % 4;
  }
  memset(&views, 0, sizeof views);
  memset(&train, 0, sizeof train);
  memset(&desc, 0, sizeof desc);
  views.augment = FVG_AUGMENT_NONE;
  desc.method = fvg_method_find("DAPT");
  train.optimizer.epochs = 3;
  train.optimizer.lr = 0.05f;
  train.optimizer.warmup_epochs = -1;
  check(!fvg_dataset_of_pictures(c, &set, from, 8, name, 4) && !fvg_task_draw(&task, &set, NULL) &&
            !fvg_views_new(m, &v, &set, &views), "a task");
  for (i = 0; i < 2; i++) {
    train.epoch_loss = loss[i];
    train.own_masks = i ? NULL : &how;
    check(!fvg_learner_new(m, &l[i], name, 4, &desc), "DAPT");
    if (i == 1) {                                                      /* the masks of the start, kept */
      fvg_foreground *x = NULL;
      how.learner = l[1];
      check(!fvg_foreground_new(m, &x, name, 4, &how) && !fvg_foreground_mask_items(x, &set, &task.items), "masks of the start");
      fvg_foreground_free(x);
    }
    check(!fvg_learner_train(l[i], v, &task, &train), "trained");
  }
  check(loss[0][0] == loss[1][0], "the first epoch has the masks of the start");
  check(loss[0][1] != loss[1][1] && loss[0][2] != loss[1][2], "later ones have other masks");

  /* Not yet told how the files' masks are read; and a data set in a context of its own. */
  fvg_ctx *there = NULL;
  fvg_dataset far;
  fvg_task far_task;
  fvg_views *far_views = NULL;
  fvg_foreground *x = NULL;
  how.learner = NULL;
  train.own_masks = &how;
  train.optimizer.epochs = 1;
  check(!fvg_init(&there, NULL) && !fvg_dataset_of_pictures(there, &far, from, 8, name, 4) &&
            !fvg_task_draw(&far_task, &far, NULL) && !fvg_views_new(m, &far_views, &far, &views) &&
            !fvg_foreground_new(m, &x, name, 4, &how), "a data set in another context");
  *far.masks_told = 0;
  const size_t used = fvg_mem_used(c), used_there = fvg_mem_used(there);
  check(!fvg_learner_train(l[0], far_views, &far_task, &train) && fvg_mem_used(c) == used &&
            fvg_mem_used(there) == used_there, "masks of its own go back to the context they came from");
  check(!*far.masks_told, "and say nothing of those in files");
  check(!fvg_foreground_mask_items(x, &far, &far_task.items), "masks of a data set in another context");
  const size_t after = fvg_mem_used(c);          /* with the room that the next picture uses again */
  check(!fvg_foreground_mask_items(x, &far, &far_task.items) && fvg_mem_used(c) == after,
        "pictures go back to the context they came from");
  fvg_foreground_free(x);
  fvg_views_free(far_views);
  fvg_task_free(&far_task);
  fvg_dataset_free(&far);
  check(fvg_mem_used(there) == 0, "and so do the masks that the data set keeps");
  fvg_free(there);
  fvg_learner_free(l[0]);
  fvg_learner_free(l[1]);
  fvg_views_free(v);
  fvg_task_free(&task);
  fvg_dataset_free(&set);
}

/* ---- the whole ---- */
static double mean_iou(fvg_foreground *x, int known, int *n_bad) {
  double sum = 0;
  int i;
  *n_bad = 0;
  for (i = 0; i < PICTURES; i++) {
    fvg_image own;
    float confidence = -1;
    double iou = 0;
    if (!fvg_foreground_mask(x, &own, &confidence, &picture[i], known ? label[i] : -1)) iou = fvg_mask_iou(&own, &mask[i]);
    *n_bad += iou < 0.3 || !(confidence >= 0 && confidence <= 1);
    sum += iou;
    fvg_image_free(c, &own);
  }
  return 100 * sum / PICTURES;
}

static void test_masks(void) {
  fvg_foreground_desc d = world_desc();
  fvg_foreground *x, *plain;
  int bad;
  double with_colours, without, any;
  check(!fvg_foreground_new(m, &x, name, WORLD_THINGS, &d), "made");
  with_colours = mean_iou(x, 1, &bad);
  any = mean_iou(x, 0, &bad);
  d.colour_weight = -1;
  check(!fvg_foreground_new(m, &plain, name, WORLD_THINGS, &d), "without colours");
  without = mean_iou(plain, 1, &bad);
  printf("one thing in a picture: IoU %.1f, without its class %.1f, by patches alone %.1f\n", with_colours, any, without);
  check(with_colours > 55, "masks of known things");
  /* The tiny CLIP takes backgrounds for things, too: a quarter is what it can do without the class. */
  check(any > 20, "and of things that are not told");
  check(without < with_colours - 5, "colours and edges help");
  fvg_foreground_free(x);
  fvg_foreground_free(plain);
  fvg_foreground_free(NULL);

  /* Without a prior a map that hardly prefers the centre is what remains; a prior of -1 must not prefer the edge. */
  {
    static float none[AREA], little[AREA];
    double apart = 0;
    int i;
    d.centre_prior = -1;
    check(!fvg_foreground_new(m, &x, name, WORLD_THINGS, &d) && !fvg_foreground_map(x, none, NULL, &picture[5], label[5]),
          "no prior");
    fvg_foreground_free(x);
    d.centre_prior = 1e-6f;
    check(!fvg_foreground_new(m, &x, name, WORLD_THINGS, &d) && !fvg_foreground_map(x, little, NULL, &picture[5], label[5]),
          "next to no prior");
    fvg_foreground_free(x);
    for (i = 0; i < AREA; i++) apart = fmax(apart, fabs((double)none[i] - (double)little[i]));
    check(apart < 1e-3, "a negative prior is none");
  }
}

/* Pictures of any sides, and of one colour, have masks. */
static void test_odd_pictures(void) {
  static const int side[5][2] = {{1, 1}, {1, 300}, {700, 2}, {3, 3}, {64, 1}};
  fvg_foreground_desc d = world_desc();
  fvg_foreground *x = NULL;
  int i;
  check(!fvg_foreground_new(m, &x, name, WORLD_THINGS, &d), "made");
  for (i = 0; i < 5; i++) {
    fvg_image odd, made;
    float confidence = -1;
    memset(&odd, 0, sizeof odd);
    fvg__image_new(c, &odd, side[i][0], side[i][1], 3);
    memset(odd.pixels, 200, (size_t)side[i][0] * (size_t)side[i][1] * 3);
    check(!fvg_foreground_mask(x, &made, &confidence, &odd, i % 2 ? 3 : -1) && made.width == side[i][0] && made.height == side[i][1] &&
              confidence >= 0 && confidence <= 1, "an odd picture");
    fvg_image_free(c, &made);
    fvg_image_free(c, &odd);
  }
  fvg_foreground_free(x);
}

/* The same bytes for any number of threads, and at every SIMD level nearly the same mask. */
static void test_threads(void) {
  fvg_foreground_desc d = world_desc();
  static uint8_t bytes[4][AREA];
  int threads;
  for (threads = 1; threads <= 3; threads++) {
    fvg_desc with;
    fvg_ctx *own;
    fvg_clip *clip = NULL;
    fvg_foreground *x = NULL;
    fvg_image made;
    size_t used;
    memset(&with, 0, sizeof with);
    with.n_threads = threads;
    memset(&made, 0, sizeof made);
    if (fvg_init(&own, &with)) { check(0, "a context"); return; }
    used = fvg_mem_used(own);
    check(!fvg_clip_open(own, &clip, MODEL, NULL, FVG_F32) &&
              !fvg_foreground_new(clip, &x, name, WORLD_THINGS, &d) &&
              !fvg_foreground_mask(x, &made, NULL, &picture[3], label[3]), "threads");
    if (made.pixels) memcpy(bytes[threads], made.pixels, AREA);
    fvg_image_free(own, &made);
    fvg_foreground_free(x);
    fvg_clip_free(clip);
    check(fvg_mem_used(own) == used, "nothing is left");
    fvg_free(own);
  }
  check(!memcmp(bytes[1], bytes[2], AREA) && !memcmp(bytes[1], bytes[3], AREA), "the same bytes for 1, 2 and 3 threads");
}

static void test_errors(void) {
  fvg_foreground_desc d = world_desc();
  fvg_foreground *x = NULL;
  fvg_image grey, out, other;
  float map[AREA];
  check(fvg_foreground_new(m, NULL, name, 1, NULL) == FVG_E_ARG, "no place");
  check(fvg_foreground_new(m, &x, NULL, 1, NULL) == FVG_E_ARG && !x, "no names");
  check(fvg_foreground_new(m, &x, name, 0, NULL) == FVG_E_ARG && !x, "no class");
  d.background = NULL;
  check(fvg_foreground_new(m, &x, name, 1, &d) == FVG_E_ARG && !x, "no background words");
  check(!fvg_foreground_new(m, &x, name, 2, NULL), "the words for photographs");
  memset(&grey, 0, sizeof grey);
  fvg__image_new(c, &grey, 8, 8, 1);
  check(fvg_foreground_map(x, map, NULL, &grey, 0) == FVG_E_ARG, "a grey picture");
  check(fvg_foreground_map(x, NULL, NULL, &picture[0], 0) == FVG_E_ARG, "no map");
  check(fvg_foreground_map(x, map, NULL, &picture[0], 2) == FVG_E_ARG && strstr(fvg_error(c), "label 2 among 2"), "a label");
  check(fvg_foreground_mask(x, NULL, NULL, &picture[0], 0) == FVG_E_ARG, "no mask");
  check(fvg_foreground_mask(x, &out, NULL, NULL, 0) == FVG_E_ARG && !out.pixels, "no picture");
  check(!fvg_foreground_map(x, map, NULL, &picture[0], -1), "a label is not needed");
  check(fvg_mask_iou(&mask[0], &mask[0]) == 1 && fvg_mask_iou(&mask[0], &grey) == -1 && fvg_mask_iou(NULL, &grey) == -1, "IoU");
  memset(&other, 0, sizeof other);
  fvg__image_new(c, &other, 8, 8, 1);
  memset(grey.pixels, 0, 64);
  memset(other.pixels, 0, 64);
  check(fvg_mask_iou(&grey, &other) == 1, "two empty masks are the same");
  memset(grey.pixels, 1, 32);
  memset(other.pixels + 16, 255, 32);
  check(fabs(fvg_mask_iou(&grey, &other) - 1.0 / 3) < 1e-12, "a third");
  fvg_image_free(c, &grey);
  fvg_image_free(c, &other);
  fvg_foreground_free(x);
}

int main(void) {
  int i;
  if (fvg_init(&c, NULL) || fvg_clip_open(c, &m, MODEL, NULL, FVG_F32)) {
    printf("FAILED %s: %s\n0 passed, 1 failed\n", MODEL, fvg_error(c));
    return 1;
  }
  draw_pictures();
  test_positions();
  test_grids();
  test_walk();
  test_threshold();
  test_guided_filter();
  test_contrast();
  test_confidence();
  test_learners();
  test_items();
  test_dapt_g();
  test_masks();
  test_odd_pictures();
  test_threads();
  test_errors();
  for (i = 0; i < PICTURES; i++) fvg_image_free(c, &picture[i]), fvg_image_free(c, &mask[i]);
  fvg_clip_free(m);
  check(fvg_mem_used(c) == 0, "all memory is given back");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
