/* web.c - what the page of `make web` calls: the library and the small world, compiled to WebAssembly.

   The worker of the page (worker.js) calls the functions below that are marked WEB, one after the other:

     web_begin, web_open        a context, and a model from the files of a folder
     web_begin_world ...        pictures of the small world, or
     web_new_set ...            pictures of the visitor's own, in classes that they name
     web_measure                features of the test pictures, once for a set
     web_tune, web_slice        CoOp, then FVG-PT on it, an epoch a call, so that the page can show what has come of it
                                and can be told to stop
     web_score, web_classify, web_look
                                accuracies, one picture, where a classifier looks

   There are two sets at a time, the world's and the visitor's own, each with what was tuned on it.  A set of the world
   has base classes, which prompts are tuned on, and new ones; one's own pictures are all of base classes.  Functions
   return an fvg_status, or NULL where they return a place; web_error tells why. */
#define FVGPT_IMPLEMENTATION
#include "../world_sets.h"
#include <emscripten.h>

#define WEB EMSCRIPTEN_KEEPALIVE

/* What the worker is told while a call runs. */
EM_JS(void, tell_progress, (const char *what, double step, double n_steps, int epoch, double loss), {
  Module.progress(UTF8ToString(what), step, n_steps, epoch, loss);
});
EM_JS(void, tell_note, (int level, const char *text), { Module.note(level, UTF8ToString(text)); });

enum { WORLD, OWN, SETS };
enum { PLAIN, COOP, FVGPT };                               /* who classifies                                         */
enum { LOOK_VIEW, LOOK_RELEVANCE, LOOK_GIVEN_MASK, LOOK_OWN_MASK };
enum { TRAIN_PICTURES = 24, TEST_PICTURES = 20 };          /* of a class of the world, as build/world draws them     */
#define STATE "/state"                                     /* the run between two slices, in a file in memory        */

typedef struct picture_set {
  char **name; int n_class, most_classes;                  /* [n_class]                                              */
  fvg_picture *picture; int n_picture, most_pictures;      /* [n_picture]                                            */
  int world_set;                                           /* the set of the world that was drawn, counted from 1    */
  world_draw_desc how;                                     /* and how                                                */
  fvg_dataset data;
  fvg_task test[2]; float *f[2]; int n_group;              /* base classes; new ones, if there are any               */

  fvg_task train;
  fvg_views *views;
  fvg_learner *coop;
  fvg_fvgpt *fvgpt;
  int who, epoch, n_epochs, seed;                          /* what is being tuned, and epochs done                   */
  double loss_sum; long n_losses;                          /* of the epoch                                           */
} picture_set;

static struct {
  fvg_ctx *c;
  fvg_clip *m;
  int is_tiny;                                             /* the model of this world, not a visitor's               */
  picture_set set[SETS];
  fvg_image held;                                          /* a picture that belongs to no set                       */
  fvg_image shown;                                         /* what web_look made                                     */
  int epoch_is_over;                                       /* a slice has done its epoch: the call shall return      */
  picture_set *tuning;
  double number[WORLD_CLASSES];                            /* what the last call has to tell                         */
} web;

/* ---- context and model ---- */
static void on_note(void *user, int level, const char *message) {
  (void)user;
  tell_note(level, message);
}

/* Progress is told before an epoch's state is saved, so the call ends at the first node of the next epoch. */
static int on_progress(void *user, const fvg_progress *p) {
  picture_set *x = web.tuning;
  (void)user;
  tell_progress(p->what, (double)p->step, (double)p->n_steps, p->epoch, p->loss);
  if (!x || !p->n_epochs) return 0;

  x->n_epochs = p->n_epochs;
  x->loss_sum += p->loss;
  x->n_losses++;
  if (p->step != p->n_steps / p->n_epochs * (p->epoch + 1)) return 0;
  x->epoch = p->epoch + 1;
  web.epoch_is_over = x->epoch < p->n_epochs;
  return 0;
}

static int on_cancelled(void *user) {
  (void)user;
  return web.epoch_is_over;
}

WEB int web_begin(void) {
  fvg_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.log = on_note;
  desc.progress = on_progress;
  desc.cancelled = on_cancelled;
  return fvg_init(&web.c, &desc);
}

WEB const char *web_error(void) { return fvg_error(web.c); }
WEB const char *web_simd(void) { return fvg_simd_name(fvg_simd_level(web.c)); }

/* emcc's file system keeps each file that another has taken the place of, and brings it back when that one goes. */
static void remove_state(void) {
  while (!remove(STATE)) {}
}

static void forget_tuning(picture_set *x) {
  fvg_fvgpt_free(x->fvgpt);
  fvg_learner_free(x->coop);
  fvg_views_free(x->views);
  fvg_task_free(&x->train);
  x->fvgpt = NULL;
  x->coop = NULL;
  x->views = NULL;
  memset(&x->train, 0, sizeof x->train);
  remove_state();
}

static void forget_set(picture_set *x) {
  int i;
  forget_tuning(x);
  for (i = 0; i < 2; i++) {
    fvg_release(web.c, x->f[i]);
    fvg_task_free(&x->test[i]);
  }
  fvg_dataset_free(&x->data);
  for (i = 0; i < x->n_picture; i++) {
    fvg_image_free(web.c, &x->picture[i].image);
    fvg_image_free(web.c, &x->picture[i].mask);
  }
  for (i = 0; i < x->n_class; i++) fvg_release(web.c, x->name[i]);
  fvg_release(web.c, x->picture);
  fvg_release(web.c, x->name);
  memset(x, 0, sizeof *x);
}

/* Opens the model in a folder and forgets the one before, with all that was tuned on it.  bits: what its weights are kept
   in, 32, 16 or 8.  A file with weights of eight bits keeps them, though 32 be asked for. */
WEB int web_open(const char *folder, int is_tiny, int bits) {
  fvg_dtype keep_as = bits == 8 ? FVG_Q8 : bits == 16 ? FVG_F16 : FVG_F32;
  int i;
  for (i = 0; i < SETS; i++) forget_set(&web.set[i]);
  fvg_clip_free(web.m);
  web.m = NULL;
  web.is_tiny = is_tiny;
  return fvg_clip_open(web.c, &web.m, folder, NULL, keep_as);
}

/* What there is to say about the model: weights, pixels a side, width, bits of a weight. */
WEB const double *web_model(void) {
  web.number[0] = (double)fvg_clip_parameter_count(web.m);
  web.number[1] = web.m->preprocess.size;
  web.number[2] = web.m->embed_dim;
  web.number[3] = web.m->kept_as == FVG_Q8 ? 8 : web.m->kept_as == FVG_F32 ? 32 : 16;
  return web.number;
}

/* ---- sets ---- */
/* An empty set with room for classes and pictures. */
WEB int web_new_set(int which, int n_class, int n_picture) {
  picture_set *x = &web.set[which];
  forget_set(x);
  if (n_class > WORLD_CLASSES)
    return fvg_fail(web.c, FVG_E_ARG, "%d classes; this page has room for %d", n_class, WORLD_CLASSES);
  x->name = FVG_NEW_ARRAY(web.c, char *, (size_t)n_class);
  x->picture = FVG_NEW_ARRAY(web.c, fvg_picture, (size_t)n_picture + 1);
  if (!x->name || !x->picture) return FVG_E_NOMEM;
  x->most_classes = n_class;
  x->most_pictures = n_picture;
  return FVG_OK;
}

WEB int web_name_class(int which, const char *name) {
  picture_set *x = &web.set[which];
  char *copy = x->n_class < x->most_classes ? fvg_copy_string(web.c, name) : NULL;
  if (!copy) return FVG_E_NOMEM;
  fvg_tidy_name(copy);
  x->name[x->n_class++] = copy;
  return FVG_OK;
}

static int new_image(fvg_image *out, int width, int height, int channels) {
  memset(out, 0, sizeof *out);
  out->pixels = FVG_NEW_ARRAY(web.c, uint8_t, (size_t)width * (size_t)height * (size_t)channels);
  out->width = width;
  out->height = height;
  out->channels = channels;
  return out->pixels ? FVG_OK : FVG_E_NOMEM;
}

static fvg_picture *add_picture(picture_set *x, int width, int height, int label, fvg_split split) {
  fvg_picture *p = x->picture + x->n_picture;
  if (x->n_picture == x->most_pictures || new_image(&p->image, width, height, 3)) return NULL;
  x->n_picture++;
  memset(&p->mask, 0, sizeof p->mask);
  p->label = label;
  p->split = split;
  return p;
}

/* A new picture of the set: the place of its [height, width, 3] bytes. */
WEB uint8_t *web_add_picture(int which, int width, int height, int label, int is_test) {
  fvg_picture *p = add_picture(&web.set[which], width, height, label, is_test ? FVG_TEST : FVG_TRAIN);
  return p ? p->image.pixels : NULL;
}

static int new_world(int set, const world_class *of) {
  const int per_class = TRAIN_PICTURES + TEST_PICTURES;
  picture_set *x = &web.set[WORLD];
  int label, i, s = web_new_set(WORLD, WORLD_CLASSES, WORLD_CLASSES * per_class);
  for (label = 0; !s && label < WORLD_CLASSES; label++) s = web_name_class(WORLD, of[label].name);
  for (i = 0; !s && i < WORLD_CLASSES * per_class; i++) {
    int is_test = i % per_class >= TRAIN_PICTURES;
    fvg_picture *p = add_picture(x, WORLD_SIDE, WORLD_SIDE, i / per_class, is_test ? FVG_TEST : FVG_TRAIN);
    s = p ? new_image(&p->mask, WORLD_SIDE, WORLD_SIDE, 1) : FVG_E_NOMEM;
  }
  x->world_set = set + 1;
  return s;
}

/* Draws one picture of the world's set. */
WEB void web_draw_picture(int i) {
  picture_set *x = &web.set[WORLD];
  const fvg_picture *p = &x->picture[i];
  const int set = x->world_set - 1, index = i % (TRAIN_PICTURES + TEST_PICTURES);
  char caption[WORLD_CAPTION];
  world_class of[WORLD_CLASSES];
  world_choose_classes(set, of);
  world_set_picture(&x->how, set, &of[p->label], p->label, index, p->image.pixels, p->mask.pixels, caption, NULL);
}

/* Begins the set that `build/world --set ... --strength ...` writes, with its pictures in the order of its lists; they
   are drawn by web_draw_picture, or all by web_measure.  Of a set that is there already only the training pictures
   change; what is known of the others stays. */
WEB int web_begin_world(int set, double strength) {
  const world_draw_desc how = {strength, TRAIN_PICTURES, 1, 0};
  picture_set *x = &web.set[WORLD];
  world_class of[WORLD_CLASSES];
  int s = FVG_OK;
  world_choose_classes(set, of);
  forget_tuning(x);
  if (x->world_set != set + 1) s = new_world(set, of);
  x->how = how;
  return s;
}

WEB const char *web_class_name(int which, int label) { return web.set[which].name[label]; }
WEB int web_classes(int which) { return web.set[which].n_class; }
WEB int web_count(int which) { return web.set[which].n_picture; }
WEB const uint8_t *web_picture(int which, int i) { return web.set[which].picture[i].image.pixels; }

/* ---- classifiers ---- */
static void names_of(const picture_set *x, fvg_group group, const char *const **name, int *n) {
  int first = 0, is_world = x == &web.set[WORLD];
  *n = is_world ? fvg_group_classes(x->n_class, group, &first) : x->n_class;
  *name = (const char *const *)x->name + first;
}

static fvg_status new_classifier(const picture_set *x, int who, fvg_group group, fvg_classifier **out) {
  static const fvg_branch branch[3][2] = {{FVG_ZERO_SHOT, FVG_ZERO_SHOT}, {FVG_TUNED, FVG_TUNED_NEW},
                                          {FVG_BRANCH_BASE, FVG_BRANCH_NEW}};
  const char *const *name;
  fvg_classifier_desc desc;
  int n;
  names_of(x, group, &name, &n);
  memset(&desc, 0, sizeof desc);
  desc.branch = branch[who][group == FVG_NEW];
  if (who != PLAIN) desc.learner = x->coop;
  if (who == FVGPT) desc.fvgpt = x->fvgpt;
  desc.n_background = web.is_tiny ? -1 : 0;                /* the tiny model knows no photographs' backgrounds       */
  return fvg_classifier_new(web.m, out, name, n, &desc);
}

/* ---- accuracies ---- */
static int has_test_pictures(const picture_set *x) {
  int i;
  for (i = 0; i < x->n_picture; i++)
    if (x->picture[i].split == FVG_TEST) return 1;
  return 0;
}

static fvg_status encode_group(picture_set *x, int i, fvg_split split) {
  const fvg_group group = x == &web.set[OWN] ? FVG_ALL : i ? FVG_NEW : FVG_BASE;
  const fvg_task_desc desc = {split, group, 0, 0};
  fvg_status s = fvg_task_draw(&x->test[i], &x->data, &desc);
  if (s) return s;
  x->f[i] = FVG_NEW_ARRAY(web.c, float, (size_t)x->test[i].items.n * (size_t)web.m->embed_dim);
  return x->f[i] ? fvg_encode_task(web.m, NULL, x->f[i], &x->test[i]) : FVG_E_NOMEM;
}

/* Encodes what a set is tested on: without test pictures, those that it is tuned on. */
WEB int web_measure(int which) {
  picture_set *x = &web.set[which];
  const fvg_split split = has_test_pictures(x) ? FVG_TEST : FVG_TRAIN;
  int i, n_group = which == WORLD ? 2 : 1;
  fvg_status s;
  for (i = 0; which == WORLD && i < x->n_picture; i++)
    if (!x->n_group || x->picture[i].split == FVG_TRAIN) web_draw_picture(i);
  if (x->n_group) return FVG_OK;
  s = fvg_dataset_of_pictures(web.c, &x->data, x->picture, x->n_picture, (const char *const *)x->name, x->n_class);
  for (i = 0; !s && i < n_group; i++) s = encode_group(x, i, split);
  if (!s) x->n_group = n_group;
  return s;
}

static fvg_status score_group(const picture_set *x, int who, int i, double *accuracy) {
  const fvg_task *task = &x->test[i];
  const int n = task->items.n;
  float *logits = FVG_NEW_ARRAY(web.c, float, (size_t)n * (size_t)task->n_class);
  int *label = FVG_NEW_ARRAY(web.c, int, (size_t)n), k;
  fvg_classifier *classifier = NULL;
  fvg_score score;
  fvg_status s = logits && label ? new_classifier(x, who, i ? FVG_NEW : FVG_BASE, &classifier) : FVG_E_NOMEM;
  for (k = 0; !s && k < n; k++) label[k] = task->items.item[k].label;
  if (!s) s = fvg_classifier_logits(classifier, logits, NULL, x->f[i], n);
  if (!s) s = fvg_score_of(web.c, &score, logits, label, n, task->n_class);
  if (!s) *accuracy = score.accuracy;
  fvg_classifier_free(classifier);
  fvg_release(web.c, label);
  fvg_release(web.c, logits);
  return s;
}

/* Base, new and H, in percent; of one's own pictures there is base alone. */
WEB const double *web_score(int which, int who) {
  const picture_set *x = &web.set[which];
  fvg_status s = FVG_OK;
  int i;
  web.number[1] = -1;
  for (i = 0; !s && i < x->n_group; i++) s = score_group(x, who, i, &web.number[i]);
  web.number[2] = x->n_group == 2 ? fvg_harmonic_mean(web.number[0], web.number[1]) : -1;
  return s ? NULL : web.number;
}

/* ---- tuning ---- */
static fvg_status new_foreground(const picture_set *x, fvg_foreground **out, fvg_group group) {
  const char *const *name;
  fvg_foreground_desc words;
  int n;
  names_of(x, group, &name, &n);
  memset(&words, 0, sizeof words);
  if (web.is_tiny) {
    words.background = world_grounds;
    words.n_background = WORLD_GROUNDS;
    words.background_template = "a photo {}.";
  }
  return fvg_foreground_new(web.m, out, name, n, &words);
}

/* Nobody has drawn masks of a visitor's pictures, so CLIP makes them. */
static fvg_status make_masks(picture_set *x) {
  fvg_foreground *maker = NULL;
  fvg_status s = new_foreground(x, &maker, FVG_BASE);
  if (!s) s = fvg_foreground_mask_items(maker, &x->data, &x->train.items);
  fvg_foreground_free(maker);
  return s;
}

static fvg_status new_learners(picture_set *x, double lambda_base) {
  fvg_learner_desc words;
  fvg_fvgpt_desc modules;
  fvg_status s;
  memset(&words, 0, sizeof words);
  memset(&modules, 0, sizeof modules);
  words.ctx_init = "a photo of a";
  words.seed = (uint64_t)x->seed;
  modules.width = web.m->embed_dim;
  modules.logit_scale = web.m->logit_scale;
  modules.lambda_base = lambda_base > 0 ? (float)lambda_base : -1;
  modules.seed = (uint64_t)x->seed;
  s = fvg_learner_new(web.m, &x->coop, x->train.class_name, x->train.n_class, &words);
  return s ? s : fvg_fvgpt_new(web.c, &x->fvgpt, &modules);
}

/* Begins to tune CoOp, and FVG-PT on it, as `fvgpt tune --trainer FVGPT_CoOp --ctx-init "a photo of a" --augment none`
   does with this seed. */
WEB int web_tune(int which, int shots, int seed, double lambda_base) {
  picture_set *x = &web.set[which];
  const fvg_task_desc wanted = {FVG_TRAIN, which == WORLD ? FVG_BASE : FVG_ALL, shots, (uint64_t)seed};
  fvg_views_desc plain;
  fvg_status s;
  memset(&plain, 0, sizeof plain);
  plain.augment = FVG_AUGMENT_NONE;
  forget_tuning(x);
  x->who = COOP;
  x->epoch = 0;
  x->seed = seed;
  s = fvg_task_draw(&x->train, &x->data, &wanted);
  if (!s) s = fvg_views_new(web.m, &x->views, &x->data, &plain);
  if (!s) s = new_learners(x, lambda_base);
  return s;
}

static fvg_status train_slice(picture_set *x) {
  fvg_train_desc desc;
  memset(&desc, 0, sizeof desc);
  /* The second stage must not see the pictures in the order of the first one again. */
  desc.seed = (uint64_t)x->seed + (x->who == FVGPT ? 1000000u : 0);
  desc.state = STATE;
  return x->who == COOP ? fvg_learner_train(x->coop, x->views, &x->train, &desc) :
                          fvg_fvgpt_train(x->fvgpt, x->coop, x->views, &x->train, &desc);
}

/* Trains one epoch.  *number becomes who was tuned, epochs done and in all, and the epoch's mean loss; NULL: it failed.
   After the last epoch of FVG-PT the next call would begin CoOp anew. */
WEB const double *web_slice(int which) {
  picture_set *x = &web.set[which];
  fvg_status s = FVG_OK;
  x->loss_sum = 0;
  x->n_losses = 0;
  web.tuning = x;
  if (which == OWN && x->who == COOP && !x->epoch) s = make_masks(x);
  if (!s) s = train_slice(x);
  web.tuning = NULL;
  if (s == FVG_E_CANCELLED && web.epoch_is_over) s = FVG_OK;
  web.epoch_is_over = 0;
  if (s) return NULL;

  web.number[0] = x->who;
  web.number[1] = x->epoch;
  web.number[2] = x->n_epochs;
  web.number[3] = x->loss_sum / (double)x->n_losses;
  if (x->epoch == x->n_epochs) {
    remove_state();
    x->who = x->who == COOP ? FVGPT : COOP;
    x->epoch = 0;
  }
  return web.number;
}

/* ---- one picture ---- */
/* The place of the [height, width, 3] bytes of a picture outside the sets, whose number is -1. */
WEB uint8_t *web_hold(int width, int height) {
  fvg_image_free(web.c, &web.held);
  return new_image(&web.held, width, height, 3) ? NULL : web.held.pixels;
}

static const fvg_image *image_of(const picture_set *x, int i) { return i < 0 ? &web.held : &x->picture[i].image; }

/* Pictures of new classes are classified among the new classes. */
static fvg_group group_of(const picture_set *x, int i) {
  int n = fvg_group_classes(x->n_class, FVG_BASE, NULL);
  return x == &web.set[WORLD] && i >= 0 && x->picture[i].label >= n ? FVG_NEW : FVG_BASE;
}

/* The probability of each class of the picture's group. */
WEB const double *web_classify(int which, int i, int who) {
  const picture_set *x = &web.set[which];
  float *probability = FVG_NEW_ARRAY(web.c, float, (size_t)x->n_class);
  fvg_classifier *classifier = NULL;
  int k, best = probability ? new_classifier(x, who, group_of(x, i), &classifier) : FVG_E_NOMEM;
  if (!best) best = fvg_classifier_image(classifier, probability, image_of(x, i));
  for (k = 0; best >= 0 && k < x->n_class; k++) web.number[k] = (double)probability[k];
  fvg_classifier_free(classifier);
  fvg_release(web.c, probability);
  return best < 0 ? NULL : web.number;
}

/* The view in white where the mask is not. */
static fvg_status show_masked(const fvg_image *mask) {
  fvg_preprocess nearest = web.m->preprocess;
  fvg_image view;
  fvg_status s;
  int i;
  nearest.filter = FVG_NEAREST;
  s = fvg_image_test_transform(web.c, &view, mask, &nearest);
  for (i = 0; !s && i < view.width * view.height; i++)
    if (!view.pixels[i]) memset(web.shown.pixels + 3 * i, 255, 3);
  if (!s) fvg_image_free(web.c, &view);
  return s;
}

static fvg_status show_own_mask(const picture_set *x, const fvg_image *picture, fvg_group group, int label) {
  fvg_foreground *maker = NULL;
  fvg_image mask;
  fvg_status s = new_foreground(x, &maker, group);
  if (!s) s = fvg_foreground_mask(maker, &mask, NULL, picture, label);
  fvg_foreground_free(maker);
  if (s) return s;
  s = show_masked(&mask);
  fvg_image_free(web.c, &mask);
  return s;
}

static fvg_status show_relevance(const picture_set *x, int who, fvg_group group, int label) {
  const size_t n = (size_t)web.shown.width * (size_t)web.shown.height;
  float *chw = FVG_NEW_ARRAY(web.c, float, 3 * n), *map = FVG_NEW_ARRAY(web.c, float, n);
  fvg_classifier *classifier = NULL;
  fvg_image heat;
  fvg_status s = chw && map ? fvg_image_normalize(web.c, chw, &web.shown, &web.m->preprocess) : FVG_E_NOMEM;
  if (!s) s = new_classifier(x, who, group, &classifier);
  if (!s) s = fvg_attention_map(classifier, map, chw, label, FVG_RELEVANCE);
  if (!s) s = fvg_image_overlay(web.c, &heat, &web.shown, map);
  if (!s) {
    fvg_image_free(web.c, &web.shown);
    web.shown = heat;
  }
  fvg_classifier_free(classifier);
  fvg_release(web.c, map);
  fvg_release(web.c, chw);
  return s;
}

/* A picture as the model sees it, [size, size, 3], with what `what` (LOOK_...) says drawn on it.  label counts within
   the picture's group. */
WEB const uint8_t *web_look(int which, int i, int who, int what, int label) {
  const picture_set *x = &web.set[which];
  const fvg_group group = group_of(x, i);
  fvg_status s;
  fvg_image_free(web.c, &web.shown);
  s = fvg_image_test_transform(web.c, &web.shown, image_of(x, i), &web.m->preprocess);
  if (!s && what == LOOK_RELEVANCE) s = show_relevance(x, who, group, label);
  if (!s && what == LOOK_GIVEN_MASK) s = show_masked(&x->picture[i].mask);
  if (!s && what == LOOK_OWN_MASK) s = show_own_mask(x, image_of(x, i), group, label);
  return s ? NULL : web.shown.pixels;
}
