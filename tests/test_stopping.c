/* A context that is told to stop (fvg_desc.cancelled), at every moment at which it asks, during everything that takes
   time: the call fails with "stopped", gives everything back, and does the same as ever when it is called again.
   Run from the repository root. */
#define FVGPT_PTHREADS
#define FVGPT_IMPLEMENTATION
#include "../tools/world.h"
#include "shorthand.h"
#include <pthread.h>
#include <sys/stat.h>

#define MODEL "examples/tiny-clip"
#define ROOT  "build/test-stopping"
#define STATE ROOT "/state"
enum { CLASSES = 4, EACH = 2, PICTURES = CLASSES * EACH, ASKED_AT_LEAST = 20, MOMENTS = 12 };

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

/* ---- who asks when ---- */
static long asked, stop_at, strangers;                   /* stop_at 0: never */
static pthread_t caller;

static int cancelled(void *user) {
  (void)user;
  strangers += !pthread_equal(pthread_self(), caller);
  asked++;
  return stop_at && asked >= stop_at;
}

/* ---- a world of a few pictures ---- */
static const char *const names[CLASSES] = {"hammer", "star", "key", "ladder"};
static fvg_item item[PICTURES];
static char path[PICTURES][32];
static fvg_dataset dataset;
static fvg_items items;

static void make_pictures(fvg_ctx *c) {
  uint8_t rgb[3 * WORLD_SIDE * WORLD_SIDE], mask[WORLD_SIDE * WORLD_SIDE];
  fvg_image image = {WORLD_SIDE, WORLD_SIDE, 3, NULL, 0}, cover = {WORLD_SIDE, WORLD_SIDE, 1, NULL, 0};
  char file[80];
  int i, ok = 1;
  mkdir("build", 0777);
  mkdir(ROOT, 0777);
  mkdir(ROOT "/mask", 0777);
  image.pixels = rgb;
  cover.pixels = mask;
  for (i = 0; i < PICTURES; i++) {
    world_scene s;
    fvg_rng r;
    fvg_rng_seed(&r, (uint64_t)i, 7);
    s = world_scene_draw(&r);
    s.thing = i / EACH;
    s.count = 1;
    world_render(&s, &r, rgb, mask);
    snprintf(path[i], sizeof path[i], "%d.ppm", i);
    snprintf(file, sizeof file, ROOT "/%d.ppm", i);
    ok &= !fvg_image_save(c, &image, file);
    snprintf(file, sizeof file, ROOT "/mask/%d.pgm", i);
    ok &= !fvg_image_save(c, &cover, file);
    item[i].path = path[i];
    item[i].label = i / EACH;
  }
  check(ok, "pictures are written");
  items.item = item;
  items.n = PICTURES;
  dataset.ctx = c;
  dataset.root = (char *)(uintptr_t)ROOT;
}

/* ---- what takes time: each fills `out` with numbers that depend on all of it ---- */
enum { OUT = 4096 };
typedef struct work { fvg_ctx *c; fvg_clip *m; int n_threads; float out[OUT]; } work;

static fvg_status load_model(work *w) {
  fvg_clip *m = NULL;
  fvg_status s = fvg_clip_open(w->c, &m, MODEL, NULL, FVG_F32);
  if (!s) w->out[0] = (float)fvg_clip_parameter_count(m) + m->logit_scale;
  fvg_clip_free(m);
  return s;
}

static fvg_status encode_pictures(work *w) { return fvg_encode_task(w->m, NULL, w->out,
                                                                    task_of(&dataset, &items)); }

static fvg_status classify(work *w) {
  fvg_classifier *k = NULL;
  fvg_status s = new_classifier(w->m, &k, FVG_ZERO_SHOT, NULL, NULL, "a photo of a {}.", names,
                                CLASSES);
  if (!s) s = encode_pictures(w);
  if (!s) s = fvg_classifier_logits(k, w->out + OUT / 2, NULL, w->out, PICTURES);
  fvg_classifier_free(k);
  return s;
}

static fvg_status map_attention(work *w) {
  float chw[3 * WORLD_SIDE * WORLD_SIDE];
  fvg_classifier *k = NULL;
  size_t i;
  fvg_status s = new_classifier(w->m, &k, FVG_ZERO_SHOT, NULL, NULL, "a photo of a {}.", names,
                                CLASSES);
  for (i = 0; i < sizeof chw / sizeof *chw; i++) chw[i] = (float)(i % 97) / 97;
  if (!s) s = fvg_attention_map(k, w->out, chw, 1, FVG_GRAD_CAM);
  fvg_classifier_free(k);
  return s;
}

/* A method with its own image tower in every step, or FVG-PT on CoOp; state: kept in a file after each epoch. */
static fvg_status train(work *w, const char *method, int fvgpt, const char *state) {
  fvg_learner_desc ld;
  fvg_train_desc td;
  fvg_views_desc vd;
  fvg_fvgpt_desc fd;
  fvg_learner *l = NULL;
  fvg_fvgpt *f = NULL;
  fvg_views *v = NULL;
  fvg_status s;
  memset(&ld, 0, sizeof ld);
  memset(&td, 0, sizeof td);
  memset(&vd, 0, sizeof vd);
  memset(&fd, 0, sizeof fd);
  ld.method = fvg_method_find(method);
  vd.augment = FVG_AUGMENT_NONE;
  td.optimizer.epochs = 2;
  td.batch = 4;
  td.state = state;
  s = fvg_learner_new(w->m, &l, names, CLASSES, &ld);
  if (!s) s = fvg_views_new(w->m, &v, &dataset, &vd);
  if (!s && !fvgpt) s = fvg_learner_train(l, v, task_of(NULL, &items), &td);
  if (!s && fvgpt) {
    fd.width = w->m->embed_dim;
    fd.logit_scale = w->m->logit_scale;
    s = fvg_fvgpt_new(w->c, &f, &fd);
    if (!s) s = fvg_fvgpt_train(f, l, v, task_of(NULL, &items), &td);
  }
  if (!s) s = fvg_learner_text_features(l, w->out, names, CLASSES);
  if (!s && fvgpt) {
    int n;
    fvg_parameter *const *list = fvg_fvgpt_parameters(f, &n);
    memcpy(w->out + OUT / 2, list[0]->value.data, 64 * sizeof(float));
  }
  fvg_fvgpt_free(f);
  fvg_views_free(v);
  fvg_learner_free(l);
  return s;
}

static fvg_status train_coop(work *w) { return train(w, "CoOp", 0, NULL); }
static fvg_status train_promptsrc(work *w) { return train(w, "PromptSRC", 0, NULL); }
static fvg_status train_fvgpt(work *w) { return train(w, "CoOp", 1, NULL); }

/* ---- stopped at any moment ---- */
static void stop_everywhere(work *w, const char *what, fvg_status (*run)(work *w)) {
  static float whole[OUT];
  char label[80];
  size_t before;
  long n, at;
  int i, kinds = 1, returned = 1, same = 1;
  memset(w->out, 0, sizeof w->out);
  asked = stop_at = 0;
  check(run(w) == FVG_OK, what);
  memcpy(whole, w->out, sizeof whole);
  n = asked;
  before = fvg_mem_used(w->c);
  snprintf(label, sizeof label, "%s asks often", what);
  check(n >= ASKED_AT_LEAST, label);
  for (i = 0; i <= MOMENTS; i++) {
    fvg_status s;
    at = 1 + (n - 1) * i / MOMENTS;                      /* the first, the last, and some between */
    if (w->n_threads > 1 && i == MOMENTS) at = n - n / 4;      /* how often threads leave a job to the caller is chance */
    asked = 0;
    stop_at = at;
    s = run(w);
    if (w->n_threads == 1 || s) kinds &= s == FVG_E_CANCELLED && !strcmp(fvg_error(w->c), "stopped");
    returned &= fvg_mem_used(w->c) <= before;
  }
  stop_at = 0;
  memset(w->out, 0, sizeof w->out);
  same = !run(w) && !memcmp(whole, w->out, sizeof whole);
  snprintf(label, sizeof label, "%s is stopped, and says so", what);
  check(kinds, label);
  snprintf(label, sizeof label, "%s gives all memory back", what);
  check(returned, label);
  snprintf(label, sizeof label, "%s can be done again", what);
  check(same, label);
}

/* A run with a state is stopped again and again, each time later, and ends with the same numbers. */
static void test_going_on(work *w) {
  static float whole[OUT];
  long step;
  int times = 0;
  fvg_status s = FVG_E_CANCELLED;
  stop_at = asked = 0;
  remove(STATE);
  memset(w->out, 0, sizeof w->out);
  check(!train(w, "CoOp", 0, STATE), "a run with a state");
  memcpy(whole, w->out, sizeof whole);
  step = asked / 5;
  remove(STATE);
  for (stop_at = step; s == FVG_E_CANCELLED && times < 50; stop_at += step, times++) {
    asked = 0;
    memset(w->out, 0, sizeof w->out);
    s = train(w, "CoOp", 0, STATE);
  }
  stop_at = 0;
  check(s == FVG_OK && times > 2 && !memcmp(whole, w->out, sizeof whole), "stopped again and again, it ends the same");
  remove(STATE);
}

/* One product of large matrices, and rows, and attention: asked often within each, and no node comes out. */
static void test_operations(fvg_ctx *c) {
  enum { N = 2000, K = 256 };
  static float x[N * K], weight[K * K];
  fvg_segment all = {0, N, 0, N, 0, 0, 0};
  fvg_tape *t = fvg_tape_new(c);
  int i;
  for (i = 0; i < N * K; i++) x[i] = (float)(i % 11) - 5;
  for (i = 0; i < K * K; i++) weight[i] = (float)(i % 7) - 3;
  for (i = 0; t && i < 3; i++) {
    static const char *const what[] = {"a product", "rows", "attention"};
    char label[80];
    long n = 0;
    int k, stopped = 1;
    for (k = 0; k < 3; k++) {                            /* whole, then stopped at once, then half way */
      fvg_node *a, *b, *y;
      stop_at = 0;
      fvg_tape_clear(t);
      a = fvg_const(t, N, K, x);
      b = fvg_const(t, K, K, weight);
      asked = 0;
      stop_at = k == 0 ? 0 : k == 1 ? 2 : n / 2;
      y = i == 0 ? fvg_linear(a, b, NULL) : i == 1 ? fvg_gelu(a) : fvg_attention(a, a, a, 16, &all, 1);
      if (k == 0) n = asked;
      else stopped &= !y && fvg_last_status(c) == FVG_E_CANCELLED;
    }
    stop_at = 0;
    snprintf(label, sizeof label, "%s asks while it works", what[i]);
    check(n >= 8, label);
    snprintf(label, sizeof label, "%s that is stopped is no node", what[i]);
    check(stopped, label);
  }
  stop_at = 0;
  fvg_tape_clear(t);
  {
    fvg_node *y = fvg_const(t, 1, 3, x);
    asked = 0;
    for (i = 0; i < 50; i++) y = fvg_scale(y, 1);
    check(y && asked >= 50, "before each node, however small");
    stop_at = 1;
    check(!fvg_scale(y, 1), "and makes none");
  }
  stop_at = 0;
  fvg_tape_free(t);
}

/* A `parallel` of the caller's own; a job may run in any thread, but none of them asks. */
static void in_turn(void *user, void (*job)(void *arg, int index), void *arg, int n) {
  (void)user;
  while (n--) job(arg, n);
}

int main(void) {
  static work w;
  static const char *const way[] = {"one thread", "three threads", "the caller's own parallel"};
  int k;
  caller = pthread_self();
  for (k = 0; k < 3; k++) {
    fvg_desc d;
    memset(&d, 0, sizeof d);
    d.cancelled = cancelled;
    w.n_threads = k == 1 ? 3 : 1;
    d.n_threads = w.n_threads;
    d.parallel = k == 2 ? in_turn : NULL;
    stop_at = 0;
    if (fvg_init(&w.c, &d) || fvg_clip_open(w.c, &w.m, MODEL, NULL, FVG_F32)) { printf("0 passed, 1 failed\n"); return 1; }
    make_pictures(w.c);
    if (k == 0) test_operations(w.c);
    stop_everywhere(&w, "loading a model", load_model);
    stop_everywhere(&w, "encoding pictures", encode_pictures);
    stop_everywhere(&w, "classifying", classify);
    stop_everywhere(&w, "an attention map", map_attention);
    stop_everywhere(&w, "CoOp", train_coop);
    if (k < 2) stop_everywhere(&w, "PromptSRC", train_promptsrc);
    stop_everywhere(&w, "FVG-PT", train_fvgpt);
    test_going_on(&w);
    check(strangers == 0, way[k]);
    fvg_clip_free(w.m);
    fvg_free(w.c);
  }
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
