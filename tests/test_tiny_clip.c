/* The whole way with real weights: examples/tiny-clip knows pictures it has never seen, CoOp and FVG-PT train on it.
   Run from the repository root. */
#define FVGPT_IMPLEMENTATION
#include "../tools/world.h"
#include "shorthand.h"

/* Percent.  Chance is 2.5 among 40 things and 1.25 among 80 pairs of colour and thing, but 12.5 for one who knows the
   colours only. */
static const double THINGS_AT_LEAST = 75, HELD_OUT_AT_LEAST = 85;
/* Of the largest number in a feature; the scalar and the vector kernels add in another order. */
static const double KERNELS_AT_MOST = 1e-5, COMPANY_AT_MOST = 1e-5;

#define MODEL "examples/tiny-clip"
enum { AREA = WORLD_SIDE * WORLD_SIDE, PAIRS = WORLD_THINGS * WORLD_COLOURS / 5, MOST = 400, BASE = 8, SHOTS = 6 };

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

static fvg_ctx *c;
static fvg_clip *m;
static float *new_floats(size_t n) {
  float *x = (float *)calloc(n, sizeof *x);
  if (!x) { printf("FAILED: out of memory\n0 passed, 1 failed\n"); exit(1); }
  return x;
}

static size_t width(void) { return (size_t)m->embed_dim; }
static size_t pixels(void) { return 3 * (size_t)m->vision.image_size * (size_t)m->vision.image_size; }

static double difference(const float *got, const float *expected, size_t n) {
  double worst = 0, size = 1e-30;
  size_t i;
  for (i = 0; i < n; i++) {
    double e = fabs((double)got[i] - (double)expected[i]);
    if (!(e <= worst)) worst = e;
    size = fmax(size, fabs((double)expected[i]));
  }
  return worst / size;
}

/* ---- pictures ---- */
typedef struct class_of { int thing, colour; char name[40]; } class_of;                /* colour -1: any */
static class_of thing_class[WORLD_THINGS], pair_class[PAIRS];

static void list_classes(void) {
  int thing, k, n = 0;
  for (thing = 0; thing < WORLD_THINGS; thing++) {
    thing_class[thing].thing = thing;
    thing_class[thing].colour = -1;
    snprintf(thing_class[thing].name, sizeof thing_class[0].name, "%s", world_things[thing].name);
    for (k = 0; k < WORLD_COLOURS && n < PAIRS; k++)
      if (world_held_out_colour(thing, k)) {
        pair_class[n].thing = thing;
        pair_class[n].colour = k;
        snprintf(pair_class[n++].name, sizeof pair_class[0].name, "%s_%s", world_colours[k].name,
                 world_things[thing].name);
      }
  }
}

/* A picture of the class as the image tower wants it, and its foreground view when foreground is not NULL. */
static fvg_status draw(const class_of *x, int number, float *chw, float *foreground, float *area) {
  uint8_t rgb[3 * AREA], mask[AREA];
  fvg_image image = {WORLD_SIDE, WORLD_SIDE, 3, NULL, 0}, cover = {WORLD_SIDE, WORLD_SIDE, 1, NULL, 0}, view, inside;
  size_t i, n = pixels() / 3;
  fvg_preprocess for_mask;
  world_scene s;
  fvg_status status;
  fvg_rng r;
  fvg_rng_seed(&r, (uint64_t)number, 4242);                            /* streams that pretrain does not use */
  s = world_scene_draw(&r);
  s.thing = x->thing;
  if (x->colour >= 0) s.colour = x->colour;
  s.count = 1;
  world_render(&s, &r, rgb, mask);
  image.pixels = rgb;
  cover.pixels = mask;
  memset(&view, 0, sizeof view);
  memset(&inside, 0, sizeof inside);
  status = fvg_image_test_transform(c, &view, &image, &m->preprocess);
  for_mask = m->preprocess;
  for_mask.filter = FVG_NEAREST;
  if (!status) status = fvg_image_test_transform(c, &inside, &cover, &for_mask);
  if (!status) status = fvg_image_normalize(c, chw, &view, &m->preprocess);
  if (!status && foreground) {
    *area = 0;
    for (i = 0; i < n; i++) *area += inside.pixels[i] ? 1.0f / (float)n : 0;
    for (i = 0; i < 3 * n; i++) foreground[i] = inside.pixels[i % n] ? chw[i] : 0;
  }
  fvg_image_free(c, &view);
  fvg_image_free(c, &inside);
  return status;
}

/* Normalised features of `each` pictures of every class, picture j of class i from chance first + i * each + j. */
static fvg_status encode(const class_of *x, int n_class, int each, int first, float *f, float *f_fg, float *area,
                         int *label) {
  float *chw = new_floats(2 * pixels());
  fvg_status s = FVG_OK;
  int i;
  for (i = 0; !s && i < n_class * each; i++) {
    s = draw(&x[i / each], first + i, chw, f_fg ? chw + pixels() : NULL, area ? area + i : NULL);
    if (!s) s = fvg_clip_encode_images(m, f + (size_t)i * width(), chw, 1);
    if (!s && f_fg) s = fvg_clip_encode_images(m, f_fg + (size_t)i * width(), chw + pixels(), 1);
    label[i] = i / each;
  }
  fvg_normalize_rows(f, n_class * each, m->embed_dim);
  if (f_fg) fvg_normalize_rows(f_fg, n_class * each, m->embed_dim);
  free(chw);
  return s;
}

/* ---- what it knows ---- */
static double zero_shot(const class_of *x, int n_class, int each) {
  const char *name[PAIRS];
  float *f = new_floats(MOST * width()), *z = new_floats((size_t)MOST * (size_t)n_class);
  int label[MOST], n = n_class * each, i;
  fvg_classifier *k = NULL;
  fvg_score score = {0, 0, NAN, NAN};
  fvg_status s;
  for (i = 0; i < n_class; i++) name[i] = x[i].name;
  s = new_classifier(m, &k, FVG_ZERO_SHOT, NULL, NULL, NULL, name, n_class);
  if (!s) s = encode(x, n_class, each, 0, f, NULL, NULL, label);
  if (!s) s = fvg_classifier_logits(k, z, NULL, f, n);
  if (!s) s = fvg_score_of(c, &score, z, label, n, n_class);
  if (s) printf("  %s\n", fvg_error(c));
  fvg_classifier_free(k);
  free(f);
  free(z);
  return s ? -1 : score.accuracy;
}

static void test_zero_shot(void) {
  double things = zero_shot(thing_class, WORLD_THINGS, 5), pairs = zero_shot(pair_class, PAIRS, 3);
  printf("zero-shot: %.1f %% of 40 things, %.1f %% of %d held-out pairs of colour and thing\n", things, pairs,
         PAIRS);
  check(things >= THINGS_AT_LEAST, "things are recognised");
  check(pairs >= HELD_OUT_AT_LEAST, "so are held-out pairs of colour and thing");
}

static void test_model(void) {
  char caption[WORLD_CAPTION];
  int i, n, longest = 0, words = 1;
  check(m->has_vision && m->has_text && m->tokenizer && m->embed_dim > 0, "both towers and a vocabulary");
  check(m->logit_scale > 1 && m->logit_scale < 101, "a scale that was learned");
  for (i = 0; i < WORLD_THINGS; i++)
    words &= !fvg_tokenize(m->tokenizer, NULL, 0, &n, world_things[i].name) && n == 1;
  for (i = 0; i < WORLD_COLOURS; i++)
    words &= !fvg_tokenize(m->tokenizer, NULL, 0, &n, world_colours[i].name) && n == 1;
  check(words, "every thing and every colour is one token");
  for (i = 0; i < 5000; i++) {
    fvg_rng r;
    world_scene s;
    fvg_rng_seed(&r, (uint64_t)i, 4243);
    s = world_scene_draw(&r);
    world_caption(&s, &r, caption);
    if (fvg_tokenize(m->tokenizer, NULL, 0, &n, caption)) n = 999;
    if (n > longest) longest = n;
  }
  check(longest <= m->text.context_length - 2, "every caption fits the context");
}

/* ---- the same features another way ---- */
static void test_kernels(void) {
  enum { N = 4 };
  static const char *const text[N] = {"a photo of a red disc.", "two teal moons on the sand.", "a ladder.", "a star"};
  float *chw = new_floats(N * pixels()), *f[2], *g[2];
  fvg_ctx *scalar = NULL;
  fvg_clip *plain = NULL;
  fvg_desc d;
  double image, words;
  int i, ok = 1;
  memset(&d, 0, sizeof d);
  d.simd = FVG_SIMD_SCALAR;
  for (i = 0; i < 2; i++) { f[i] = new_floats(N * width()); g[i] = new_floats(N * width()); }
  for (i = 0; i < N; i++) ok &= !draw(&pair_class[7 * i], 9000 + i, chw + (size_t)i * pixels(), NULL, NULL);
  ok = ok && !fvg_clip_encode_images(m, f[0], chw, N) && !fvg_clip_encode_texts(m, g[0], text, N);
  ok = ok && !fvg_init(&scalar, &d) && !fvg_clip_open(scalar, &plain, MODEL, NULL, FVG_F32);
  ok = ok && !fvg_clip_encode_images(plain, f[1], chw, N) && !fvg_clip_encode_texts(plain, g[1],
                                                                                    text, N);
  check(ok, "features by both kinds of kernels");
  image = difference(f[0], f[1], N * width());
  words = difference(g[0], g[1], N * width());
  printf("%s and scalar kernels: images %.1e apart, texts %.1e\n", fvg_simd_name(fvg_simd_level(c)), image, words);
  check(image <= KERNELS_AT_MOST && words <= KERNELS_AT_MOST, "features do not depend on the kernels");
  ok = 1;
  for (i = 1; i < N; i++)
    ok &= difference(f[1], f[1] + (size_t)i * width(), width()) > 0.01 &&
          difference(g[1], g[1] + (size_t)i * width(), width()) > 0.01;
  check(ok, "but on the picture and the text");
  fvg_clip_free(plain);
  fvg_free(scalar);
  for (i = 0; i < 2; i++) { free(f[i]); free(g[i]); }
  free(chw);
}

/* Texts that share a beginning are packed and cut to it; each must come out as when it is alone. */
static void test_packing(void) {
  enum { N = 6 };
  static const char *const text[N] = {
    "a photo of a red disc.", "a photo of a red disc on the sand.", "a photo of a moth.",
    "a photo of two brown moths in the snow.", "a picture of a flag.", "two cacti."};
  float *together = new_floats(N * width()), *alone = new_floats(width()), *three = new_floats(3 * width());
  double worst = 0;
  int i, ok = !fvg_clip_encode_texts(m, together, text, N) && !fvg_clip_encode_texts(m, three, text,
                                                                                     3);
  for (i = 0; i < N; i++) {
    ok &= !fvg_clip_encode_texts(m, alone, text + i, 1);
    worst = fmax(worst, difference(together + (size_t)i * width(), alone, width()));
    if (i < 3) worst = fmax(worst, difference(three + (size_t)i * width(), alone, width()));
  }
  printf("texts alone and in company: %.1e apart\n", worst);
  check(ok && worst <= COMPANY_AT_MOST, "a text's feature does not depend on its company");
  free(together);
  free(alone);
  free(three);
}

/* ---- training ---- */
typedef struct lesson {
  float *f, *f_fg, area[BASE * SHOTS];
  int label[BASE * SHOTS];
  const char *name[BASE];
} lesson;

static double coop_loss(fvg_learner *p, const lesson *l) {
  fvg_tape *t = fvg_tape_new(c);
  fvg_node *loss;
  fvg_batch batch;
  double x;
  memset(&batch, 0, sizeof batch);
  batch.n = BASE * SHOTS;
  batch.label = l->label;
  batch.f_clip = l->f;
  loss = fvg_learner_loss(p, t, &batch);
  x = loss ? (double)fvg_value(loss)[0] : NAN;
  fvg_tape_free(t);
  return x;
}

/* Two epochs of batches of four, each with a picture of another class. */
static fvg_status train_coop(fvg_learner *p, const lesson *l) {
  fvg_parameter *ctx = fvg_learner_parameter(p, "ctx");
  fvg_optimizer *o;
  fvg_status s = fvg_optimizer_new(c, &o, &ctx, 1, NULL);
  float *f = new_floats(4 * width()), loss;
  int epoch, step, i, label[4];
  fvg_batch batch;
  memset(&batch, 0, sizeof batch);
  batch.n = 4;
  batch.label = label;
  batch.f_clip = f;
  for (epoch = 0; epoch < 2; epoch++)
    for (step = 0; !s && step < BASE * SHOTS / 4; step++) {
      for (i = 0; i < 4; i++) {
        int k = (step * 4 + i) % BASE * SHOTS + (step * 4 + i) / BASE;
        memcpy(f + (size_t)i * width(), l->f + (size_t)k * width(), width() * sizeof *f);
        label[i] = l->label[k];
      }
      s = fvg_learner_step(p, &loss, o, 0.001, &batch);
    }
  fvg_optimizer_free(o);
  free(f);
  return s;
}

static void test_fvgpt(fvg_learner *p, const lesson *l) {
  float *g = new_floats(BASE * width()), *g_clip = new_floats(BASE * width());
  fvg_fvgpt_report first, last;
  fvg_fvgpt_batch x;
  fvg_fvgpt_desc d;
  fvg_fvgpt *f = NULL;
  fvg_optimizer *o = NULL;
  fvg_parameter *const *list = NULL;
  float *before[32], r[BASE * SHOTS], b[BASE * SHOTS];
  int i, n = 0, step, ok, moved = 1, gates = 1, n_usable = 0;
  memset(&d, 0, sizeof d);
  memset(&x, 0, sizeof x);
  memset(&last, 0, sizeof last);
  d.width = m->embed_dim;
  d.logit_scale = m->logit_scale;
  x.n = BASE * SHOTS;
  x.n_class = BASE;
  x.f = l->f;
  x.f_fg = l->f_fg;
  x.g = g;
  x.g_clip = g_clip;
  x.area = l->area;
  x.label = l->label;
  last.r = r;
  last.b = b;
  ok = !fvg_learner_text_features(p, g, l->name, BASE) && !fvg_clip_encode_classes(m, g_clip, NULL,
                                                                                   l->name, BASE) &&
       !fvg_fvgpt_new(c, &f, &d);
  if (ok) list = fvg_fvgpt_parameters(f, &n);
  ok = ok && !fvg_optimizer_new(c, &o, list, n, NULL);
  for (i = 0; ok && i < n; i++) {
    before[i] = new_floats(fvg_tensor_count(&list[i]->value));
    memcpy(before[i], list[i]->value.data, fvg_tensor_count(&list[i]->value) * sizeof(float));
  }
  first = last;
  for (step = 0; ok && step < 30; step++) {
    ok = !fvg_fvgpt_step(f, &last, o, 0.0035, &x);
    if (step == 0) first = last;
  }
  check(ok, "thirty steps of FVG-PT");
  printf("FVG-PT: loss %.4f, then %.4f; gate %.4f, then %.4f\n", (double)first.loss, (double)last.loss,
         (double)first.frg, (double)last.frg);
  check(last.loss < first.loss && last.frg < first.frg &&
            last.ce_fdc + 10 * last.dist < first.ce_fdc + 10 * first.dist,
        "lower the loss, with the adapters' and the gate's part");
  for (i = 0; ok && i < n; i++) {
    moved &= memcmp(before[i], list[i]->value.data, fvg_tensor_count(&list[i]->value) * sizeof(float)) != 0;
    free(before[i]);
  }
  for (i = 0; ok && i < x.n; i++) {
    int usable = l->area[i] >= 0.02f && l->area[i] <= 0.98f;
    gates &= r[i] >= 0 && r[i] < 1 && (r[i] > 0) == usable && b[i] > 0 && b[i] < 1;
    n_usable += usable;
  }
  check(moved, "move every parameter of the modules");
  check(gates && n_usable > x.n / 2, "and leave both gates between 0 and 1, r where the mask is of use");
  fvg_optimizer_free(o);
  fvg_fvgpt_free(f);
  free(g);
  free(g_clip);
}

static void test_training(void) {
  lesson l;
  fvg_learner *p = NULL;
  fvg_learner_desc d;
  class_of base[BASE];
  double before, after;
  size_t n = BASE * SHOTS;
  int i, ok, inside = 1;
  memset(&d, 0, sizeof d);
  d.seed = 1;
  l.f = new_floats(n * width());
  l.f_fg = new_floats(n * width());
  for (i = 0; i < BASE; i++) {
    base[i] = pair_class[i * (PAIRS / BASE)];
    l.name[i] = base[i].name;
  }
  ok = !encode(base, BASE, SHOTS, 20000, l.f, l.f_fg, l.area, l.label) && !fvg_learner_new(m, &p,
                                                                                           l.name,
                                                                                           BASE,
                                                                                           &d);
  check(ok, "features of eight base classes, and prompts");
  for (i = 0; i < BASE * SHOTS; i++) inside &= l.area[i] > 0.002f && l.area[i] < 0.6f;
  check(inside && difference(l.f, l.f_fg, n * width()) > 0.01, "the foreground is another view");
  if (ok) {
    before = coop_loss(p, &l);
    check(!train_coop(p, &l), "two epochs of CoOp");
    after = coop_loss(p, &l);
    printf("CoOp: loss %.4f, then %.4f\n", before, after);
    check(after < before, "lower its loss");
    test_fvgpt(p, &l);
  }
  fvg_learner_free(p);
  free(l.f);
  free(l.f_fg);
}

/* Its towers are 96 wide, so heads of 64 columns would be wrong: only config.json tells how many there are. */
static void test_without_configuration(void) {
  fvg_source source;
  fvg_weights *w = NULL;
  fvg_clip *k = NULL;
  fvg_status s = fvg_source_file(c, &source, MODEL "/model.safetensors");
  if (!s) s = fvg_weights_open(c, &w, &source);
  check(!s, "the weights open");
  check(fvg_clip_load(c, &k, w, NULL, FVG_F32) == FVG_E_SHAPE && !k && strstr(fvg_error(c), "a head has 64 columns"),
        "and no number of heads is made up for them");
  fvg_weights_close(w);
}

int main(void) {
  if (fvg_init(&c, NULL)) return 1;
  check(!fvg_clip_open(c, &m, MODEL, NULL, FVG_F32), MODEL " opens");
  if (!m) printf("  %s\n", fvg_error(c));
  else {
    list_classes();
    test_model();
    test_zero_shot();
    test_kernels();
    test_packing();
    test_training();
  }
  fvg_clip_free(m);
  test_without_configuration();
  check(fvg_mem_used(c) == 0, "no memory stays");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
