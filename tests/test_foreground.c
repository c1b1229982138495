/* Chapter 36: masks made by CLIP itself.  The pieces against plain ones, then examples/tiny-clip on pictures whose exact
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
  check(!fvg__canvas_new(c, &x, size), "a canvas");
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
  fvg_release(c, x.memory);
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

/* ---- the whole ---- */
static double mean_iou(fvg_foreground *x, int known, int *n_bad) {
  double sum = 0;
  int i;
  *n_bad = 0;
  for (i = 0; i < PICTURES; i++) {
    fvg_image own;
    float agreement = -1;
    double iou = 0;
    if (!fvg_foreground_mask(x, &own, &agreement, &picture[i], known ? label[i] : -1)) iou = fvg_mask_iou(&own, &mask[i]);
    *n_bad += iou < 0.3 || !(agreement >= 0 && agreement <= 1);
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
  test_masks();
  test_threads();
  test_errors();
  for (i = 0; i < PICTURES; i++) fvg_image_free(c, &picture[i]), fvg_image_free(c, &mask[i]);
  fvg_clip_free(m);
  check(fvg_mem_used(c) == 0, "all memory is given back");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
