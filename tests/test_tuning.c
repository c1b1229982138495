/* Chapters 32 to 37 of fvgpt_clip.h: views of pictures and masks, training, calibration, DPC, classifiers,
   checkpoints.  Run from the repository root; writes small pictures and checkpoints under build/test-tuning. */
#define FVGPT_PTHREADS
#define FVGPT_IMPLEMENTATION
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int unreadable;                                 /* 1: no file can be read */
#define fread(to, size, n, file) (unreadable ? 0 : fread(to, size, n, file))
#include "../fvgpt_clip.h"
#include "shorthand.h"
#include <sys/stat.h>

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }
static void need(int ok, const char *what) { if (!ok) check(0, what); }  /* to get on; not counted */


/* A learner, its views and the pictures that its classes are calibrated on. */
typedef struct pictures_of {
  fvg_learner *learner;
  fvg_views *views;
  const fvg_items *items;
  const char *const *class_name;
  int n_class;
} pictures_of;

/* The same as the library takes them; NULL stays NULL. */
static const fvg_calibration_source *sources_of(const pictures_of *in, int n) {
  static fvg_calibration_source out[4];
  static fvg_task task[4];
  for (int i = 0; in && i < n; i++) {
    memset(&task[i], 0, sizeof task[i]);
    if (in[i].items) task[i].items = *in[i].items;
    task[i].class_name = in[i].class_name;
    task[i].n_class = in[i].n_class;
    out[i].learner = in[i].learner;
    out[i].views = in[i].views;
    out[i].task = &task[i];
  }
  return in ? out : NULL;
}

static fvg_status calibrate(fvg_fvgpt *f, const pictures_of *source, int n, const fvg_train_desc *desc) {
  return fvg_fvgpt_calibrate(f, sources_of(source, n), n, desc);
}

static fvg_status evidence_of(double *evidence, const pictures_of *source, int n, const char *prompt_template) {
  return fvg_calibration_evidence(evidence, sources_of(source, n), n, prompt_template);
}

static int one_line(fvg_ctx *c, const char *a, const char *b) {  /* the last message is a line with both parts */
  const char *e = fvg_error(c);
  int ok = strstr(e, a) && strstr(e, b) && !strchr(e, '\n');
  if (!ok) printf("  message: %s\n  wanted:  %s / %s\n", e, a, b);
  return ok;
}

static int needs_argument(fvg_ctx *c, fvg_status s, const char *who, const char *what) {
  int ok = s == FVG_E_ARG && one_line(c, who, what) && strstr(fvg_error(c), "must be given") != NULL;
  c->message[0] = 0;
  return ok;
}

#define ROOT "build/test-tuning"
enum {
  WIDTH = 24, HEIGHT = 20, BASE = 3, CLASSES = 5, SHOTS = 6, N = BASE * SHOTS, D = 32, IMAGE = 16,
  PIXELS = 3 * IMAGE * IMAGE
};
static const char *const names[CLASSES] = {"red", "green \"\\\x01 \xC3\xA9", "dark_blue", "grey", "pink"};

/* ---- a small CLIP of random weights, in memory ---- */
enum { VISION = 64, MAX_TENSORS = 80, CONTEXT = 24, LONG_CONTEXT = 64, VOCAB = 512 + 4 + 2 };
static const char merges[] = "#version: 0.2\np h\no t\nph ot\nphot o</w>\n";
typedef struct model {
  fvg_named_tensor tensor[MAX_TENSORS];
  char name[MAX_TENSORS][80], bytes[1 << 20];
  float pool[1 << 18];
  size_t used, n_bytes;
  int n;
  fvg_rng rng;
} model;
static model standard, narrow, wide_text;  /* features of 32, of 16; text width 64, 128 */
static model long_text;                 /* standard's sizes, and room for PromptSRC's sentences */

static void draw(model *m, const char *name, int n_dim, int d0, int d1, int d2, double mean, double deviation) {
  fvg_tensor *x = &m->tensor[m->n].tensor;
  float *data = m->pool + m->used;
  snprintf(m->name[m->n], sizeof m->name[0], "%s", name);
  m->tensor[m->n].name = m->name[m->n];
  x->n_dim = n_dim;
  x->dim[0] = d0;
  x->dim[1] = d1;
  x->dim[2] = x->dim[3] = d2;
  x->data = data;
  m->used += fvg_tensor_count(x);
  for (; data < m->pool + m->used; data++) *data = (float)(mean + deviation * fvg_rng_normal(&m->rng));
  m->n++;
}

static void draw_pair(model *m, const char *prefix, const char *leaf, int rows, int cols) {  /* cols 0: a norm */
  char name[80];
  snprintf(name, sizeof name, "%s%s.weight", prefix, leaf);
  draw(m, name, cols ? 2 : 1, rows, cols, 0, cols ? 0 : 1, cols ? 1.2 / sqrt((double)cols) : 0.2);
  snprintf(name, sizeof name, "%s%s.bias", prefix, leaf);
  draw(m, name, 1, rows, 0, 0, 0, 0.2);
}

static void draw_block(model *m, const char *prefix, int w) {
  static const char *const square[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                       "self_attn.out_proj"};
  int k;
  for (k = 0; k < 4; k++) draw_pair(m, prefix, square[k], w, w);
  draw_pair(m, prefix, "layer_norm1", w, 0);
  draw_pair(m, prefix, "layer_norm2", w, 0);
  draw_pair(m, prefix, "mlp.fc1", w, w);
  draw_pair(m, prefix, "mlp.fc2", w, w);
}

static int append(void *user, const void *from, size_t n) {
  model *m = (model *)user;
  if (n > sizeof m->bytes - m->n_bytes) return 1;
  memcpy(m->bytes + m->n_bytes, from, n);
  m->n_bytes += n;
  return 0;
}

static void draw_text_model(fvg_ctx *c, model *m, int embed, int text, int context) {
  fvg_rng_seed(&m->rng, 11, 0);
  draw(m, "logit_scale", 0, 0, 0, 0, 3, 0);
  draw(m, "text_model.embeddings.token_embedding.weight", 2, VOCAB, text, 0, 0, 1);
  draw(m, "text_model.embeddings.position_embedding.weight", 2, context, text, 0, 0, 0.5);
  draw_pair(m, "text_model.", "final_layer_norm", text, 0);
  draw_block(m, "text_model.encoder.layers.0.", text);
  draw(m, "text_projection.weight", 2, embed, text, 0, 0, 0.1);
  need(!fvg_safetensors_write(c, append, m, m->tensor, m->n, NULL, 0), "a text model in memory");
}

static void draw_model(fvg_ctx *c, model *m, int embed, int text, int context) {
  fvg_rng_seed(&m->rng, 11, 0);
  draw(m, "logit_scale", 0, 0, 0, 0, 3, 0);
  draw(m, "vision_model.embeddings.patch_embedding.weight", 4, VISION, 3, 4, 0, 0.2);
  draw(m, "vision_model.embeddings.class_embedding", 1, VISION, 0, 0, 0, 1);
  draw(m, "vision_model.embeddings.position_embedding.weight", 2, 17, VISION, 0, 0, 0.5);
  draw_pair(m, "vision_model.", "pre_layrnorm", VISION, 0);
  draw_pair(m, "vision_model.", "post_layernorm", VISION, 0);
  draw_block(m, "vision_model.encoder.layers.0.", VISION);
  draw(m, "visual_projection.weight", 2, embed, VISION, 0, 0, 0.1);
  draw(m, "text_model.embeddings.token_embedding.weight", 2, VOCAB, text, 0, 0, 1);
  draw(m, "text_model.embeddings.position_embedding.weight", 2, context, text, 0, 0, 0.5);
  draw_pair(m, "text_model.", "final_layer_norm", text, 0);
  draw_block(m, "text_model.encoder.layers.0.", text);
  draw(m, "text_projection.weight", 2, embed, text, 0, 0, 0.1);
  need(!fvg_safetensors_write(c, append, m, m->tensor, m->n, NULL, 0), "a model in memory");
}

static fvg_status load_clip(fvg_ctx *c, const model *x, fvg_clip **m) {
  fvg_source source = fvg_source_memory(x->bytes, x->n_bytes, "tiny.safetensors");
  fvg_weights *w;
  fvg_status s = fvg_weights_open(c, &w, &source);
  *m = NULL;
  if (s) return s;
  s = fvg_clip_load(c, m, w, NULL, FVG_F32);
  fvg_weights_close(w);
  if (s) return s;
  source = fvg_source_memory(merges, sizeof merges - 1, "merges");
  s = fvg_tokenizer_open(c, &(*m)->tokenizer, &source, VOCAB);
  if (s) { fvg_clip_free(*m); *m = NULL; }
  return s;
}

/* ---- pictures: a rectangle of the class's colour on noise, and what is rectangle is white in the mask ---- */
enum { NO_MASK = 1, WHITE = 2, OTHER_SIZE = 3, BLACK = 4 };             /* the pictures whose masks are special */
static char path[CLASSES * SHOTS][32];
static fvg_item item[CLASSES * SHOTS];

static int is_inside(int x, int y) { return x >= 0 && x < 14 && y >= 0 && y < 12; }

static void write_picture(fvg_ctx *c, int i) {
  static const int colour[CLASSES][3] = {
      {220, 40, 30}, {40, 200, 60}, {30, 40, 160}, {120, 120, 120}, {240, 150, 170}};
  uint8_t pixels[3 * WIDTH * HEIGHT], cover[4 * WIDTH * HEIGHT];
  fvg_image picture, mask;
  char name[100];
  fvg_rng rng;
  int x, y, k, left, top, scale = i == OTHER_SIZE ? 2 : 1;
  fvg_rng_seed(&rng, 21, (uint64_t)i);
  left = (int)fvg_rng_below(&rng, 8);
  top = (int)fvg_rng_below(&rng, 6);
  picture.width = WIDTH;
  picture.height = HEIGHT;
  picture.channels = 3;
  picture.pixels = pixels;
  for (y = 0; y < HEIGHT; y++)
    for (x = 0; x < WIDTH; x++) {
      int inside = is_inside(x - left, y - top);
      for (k = 0; k < 3; k++)
        pixels[(y * WIDTH + x) * 3 + k] = (uint8_t)(inside ? colour[i / SHOTS][k] : (int)fvg_rng_below(&rng, 256));
    }
  mask.width = scale * WIDTH;
  mask.height = scale * HEIGHT;
  mask.channels = 1;
  mask.pixels = cover;
  for (y = 0; y < mask.height; y++)
    for (x = 0; x < mask.width; x++)
      cover[y * mask.width + x] =
        i != BLACK && (i == WHITE || is_inside(x / scale - left, y / scale - top)) ? 255 : 0;
  snprintf(name, sizeof name, ROOT "/%s", path[i]);
  need(!fvg_image_save(c, &picture, name), "a picture is written");
  snprintf(name, sizeof name, ROOT "/mask/%d/%d.pgm", i / SHOTS, i % SHOTS);
  if (i == NO_MASK) remove(name);
  else need(!fvg_image_save(c, &mask, name), "a mask is written");
}

static void write_pictures(fvg_ctx *c) {
  char name[64];
  int i;
  mkdir("build", 0777);
  mkdir(ROOT, 0777);
  mkdir(ROOT "/mask", 0777);
  for (i = 0; i < CLASSES; i++) {
    snprintf(name, sizeof name, ROOT "/%d", i);
    mkdir(name, 0777);
    snprintf(name, sizeof name, ROOT "/mask/%d", i);
    mkdir(name, 0777);
  }
  for (i = 0; i < CLASSES * SHOTS; i++) {
    snprintf(path[i], sizeof path[i], "%d/%d.ppm", i / SHOTS, i % SHOTS);
    item[i].path = path[i];
    item[i].label = i / SHOTS;
    write_picture(c, i);
  }
}

/* ---- a context with everything that tuning needs ---- */
typedef struct world { fvg_ctx *c; fvg_clip *m; fvg_dataset set; fvg_items train, all; } world;
static char root[] = ROOT;

static fvg_status world_open_on(world *w, const fvg_desc *d, const model *m) {
  fvg_status s;
  memset(w, 0, sizeof *w);
  s = fvg_init(&w->c, d);
  if (s) return s;
  w->set.ctx = w->c;
  w->set.root = root;
  w->train.item = w->all.item = item;
  w->train.n = N;
  w->all.n = CLASSES * SHOTS;
  return load_clip(w->c, m, &w->m);
}

static fvg_status world_open(world *w, const fvg_desc *d) { return world_open_on(w, d, &standard); }

static void world_close(world *w) {
  fvg_clip_free(w->m);
  check(fvg_mem_used(w->c) == 0 || w->c->desc.n_threads > 1, "no memory stays");
  fvg_free(w->c);
}

/* ---- views ---- */
typedef struct view { float f[D], f_fg[D], area; } view;
static int same(const void *a, const void *b, size_t n) { return !memcmp(a, b, n); }

static fvg_views *new_views(world *w, fvg_augment augment, int n_crops, uint64_t seed, int fill_black) {
  fvg_views_desc d;
  fvg_views *v;
  memset(&d, 0, sizeof d);
  d.augment = augment;
  d.n_crops = n_crops;
  d.seed = seed;
  d.fill_black = fill_black;
  if (fvg_views_new(w->m, &v, &w->set, &d)) { printf("FAILED fvg_views_new: %s\n", fvg_error(w->c)); exit(1); }
  return v;
}

/* Views of all training items in one epoch. */
static void all_views(fvg_views *v, const fvg_items *items, int epoch, view *out) {
  float f[N * D], f_fg[N * D], area[N];
  int index[N], i;
  for (i = 0; i < items->n; i++) index[i] = i;
  if (fvg_views_get(v, f, f_fg, area, items, index, items->n, epoch)) { check(0, fvg_error(v->clip->ctx)); return; }
  for (i = 0; i < items->n; i++) {
    memcpy(out[i].f, f + i * D, sizeof out[i].f);
    memcpy(out[i].f_fg, f_fg + i * D, sizeof out[i].f_fg);
    out[i].area = area[i];
  }
}

static fvg_status augment(world *w, fvg_augment how, const fvg_image *in, const fvg_crop *crop, fvg_filter filter,
                          fvg_image *out) {
  fvg_preprocess p = fvg_preprocess_defaults(IMAGE);
  p.filter = filter;
  if (how == FVG_AUGMENT_NONE) return fvg_image_test_transform(w->c, out, in, &p);
  if (how == FVG_AUGMENT_SQUASH) return fvg_image_resize(w->c, out, in, IMAGE, IMAGE, filter);
  return fvg_image_resized_crop(w->c, out, in, crop, IMAGE, filter);
}

static fvg_learner *learner_of(world *w, const char *method, int n_class);

/* One view from public parts: the same crop for picture and mask, the product after normalisation. */
static void view_by_hand(world *w, const fvg_item *it, fvg_augment how, double least,
                         uint64_t seed, int epoch, int fill_black, view *out) {
  static float x[PIXELS], fg[PIXELS], black[PIXELS];
  static uint8_t zeros[PIXELS];
  fvg_preprocess clip_way = fvg_preprocess_defaults(IMAGE);
  fvg_image picture, mask, a, b, dark;
  fvg_crop crop;
  fvg_rng rng;
  int i, inside = 0, ok;
  memset(out, 0, sizeof *out);
  memset(&b, 0, sizeof b);
  ok = !fvg_dataset_load(&w->set, &picture, &mask, it, 0.5f);
  fvg_rng_seed(&rng, seed, fvg__path_hash(it->path) + (uint64_t)epoch);
  crop = fvg_crop_random(&rng, picture.width, picture.height, least, 1);
  ok = ok && !augment(w, how, &picture, &crop, FVG_BICUBIC, &a) && !fvg_image_normalize(w->c, x, &a,
                                                                                        &clip_way);
  out->area = -1;
  memcpy(fg, x, sizeof fg);
  if (ok && mask.pixels) {
    dark = a;
    dark.pixels = zeros;
    ok = !augment(w, how, &mask, &crop, FVG_NEAREST, &b) && !fvg_image_normalize(w->c, black, &dark,
                                                                                 &clip_way);
    for (i = 0; ok && i < PIXELS; i++) {
      int white = b.pixels[i % (IMAGE * IMAGE)] == 255;
      fg[i] = white ? x[i] : fill_black ? black[i] : 0;
      inside += i < IMAGE * IMAGE && white;
    }
    out->area = (float)inside / (IMAGE * IMAGE);
  }
  need(ok && !fvg_clip_encode_images(w->m, out->f, x, 1) && !fvg_clip_encode_images(w->m, out->f_fg,
                                                                                    fg, 1),
       "a view by hand");
  fvg_normalize_rows(out->f, 1, D);
  fvg_normalize_rows(out->f_fg, 1, D);
  fvg_image_free(w->c, &picture);
  fvg_image_free(w->c, &mask);
  fvg_image_free(w->c, &a);
  fvg_image_free(w->c, &b);
}

static void test_view_kinds(world *w) {
  static const char *const what[] = {"crop", "fixed crops", "none", "squash"};
  static view got[N], again[N], expected;
  int how, fill, epoch, i;
  for (how = FVG_AUGMENT_CROP; how <= FVG_AUGMENT_SQUASH; how++)
    for (fill = 0; fill < 2; fill++) {
      fvg_views *v = new_views(w, (fvg_augment)how, 2, 3, fill);
      int ok = 1, differs = 0;
      for (epoch = 0; epoch < 3; epoch++) {
        all_views(v, &w->train, epoch, got);
        for (i = 0; i < N; i++) {
          view_by_hand(w, &item[i], (fvg_augment)how, 0.08f, 3,
                       how == FVG_AUGMENT_FIXED_CROPS ? epoch % 2 : epoch,
                       fill, &expected);
          ok = ok && same(&got[i], &expected, sizeof expected);
        }
        if (epoch == 0) memcpy(again, got, sizeof got);
        else differs |= (epoch == 1) & !same(again, got, sizeof got);
      }
      check(ok, what[how]);
      check(differs == (how < FVG_AUGMENT_NONE), "crops differ from epoch to epoch, whole pictures do not");
      check(got[NO_MASK].area == -1 && same(got[NO_MASK].f, got[NO_MASK].f_fg, sizeof got->f),
            "no mask: area -1, and the foreground is the picture");
      check(got[WHITE].area == 1 && same(got[WHITE].f, got[WHITE].f_fg, sizeof got->f),
            "a white mask changes nothing");
      check(got[BLACK].area == 0 && !same(got[BLACK].f, got[BLACK].f_fg, sizeof got->f),
            "a black mask leaves nothing");
      check(got[OTHER_SIZE].area > 0 && got[OTHER_SIZE].area <= 1, "a mask of another size");
      fvg_views_free(v);
    }
  check(fabs((double)got[0].area - 14.0 * 12 / (WIDTH * HEIGHT)) < 0.05,
        "a squashed picture keeps its share of foreground");
}

static void test_view_order(world *w) {
  static view a[N], b[N];
  fvg_item shuffled[N];
  fvg_items items;
  int how, i, ok;
  items.item = shuffled;
  for (how = FVG_AUGMENT_CROP; how <= FVG_AUGMENT_SQUASH; how++) {
    fvg_views *v = new_views(w, (fvg_augment)how, 2, 3, 0), *u = new_views(w, (fvg_augment)how, 2, 3, 0),
              *other = new_views(w, (fvg_augment)how, 2, 4, 0);
    items.n = N;
    for (i = 0; i < N; i++) shuffled[i] = item[N - 1 - i];
    all_views(v, &w->train, 1, a);
    check(!fvg_views_load(u, &items), "views are loaded");
    all_views(u, &items, 1, b);
    for (ok = 1, i = 0; i < N; i++) ok = ok && same(&a[i], &b[N - 1 - i], sizeof *a);
    check(ok, "an item's views do not depend on its place in the list");
    items.n = 1;
    shuffled[0] = item[7];
    all_views(other, &w->train, 1, b);
    check(same(a, b, sizeof a) == (how >= FVG_AUGMENT_NONE), "another seed, other crops");
    all_views(u, &items, 1, b);
    check(same(b, a + 7, sizeof *b), "nor on the list");
    fvg_views_free(v);
    fvg_views_free(u);
    fvg_views_free(other);
  }
}

/* Inverted masks are what the data set's own reading makes of them, also where crops cut them; the picture without a
   mask has none still. */
static void test_inverted_masks(world *w) {
  static view got[N], expected[N], upright[N];
  for (int k = 0; k < 2; k++) {
    const fvg_augment how = k ? FVG_AUGMENT_CROP : FVG_AUGMENT_NONE;
    fvg_views_desc d;
    fvg_views *v = NULL;
    memset(&d, 0, sizeof d);
    d.augment = how;
    d.seed = 3;
    d.invert_masks = 1;
    need(!fvg_views_new(w->m, &v, &w->set, &d), "views of inverted masks");
    all_views(v, &w->train, 1, got);
    fvg_views_free(v);
    v = new_views(w, how, 0, 3, 0);
    all_views(v, &w->train, 1, upright);
    w->set.mask_reading = FVG_MASK_INVERTED;
    if (!k) { fvg_views_free(v); v = new_views(w, how, 0, 3, 0); }
    all_views(v, &w->train, 1, expected);
    w->set.mask_reading = FVG_MASK_AUTO;
    fvg_views_free(v);
    int turned = 1;
    for (int i = 0; i < N; i++)
      turned &= i == NO_MASK ? got[i].area == -1 : fabs((double)(got[i].area + upright[i].area) - 1) < 1e-6;
    check(same(got, expected, sizeof got) && !same(got, upright, sizeof got), "inverted masks");
    check(turned, "cover what the others leave");
  }
}

/* Crops keep the least share of the picture that is asked for. */
static void test_crop_scale(world *w) {
  static view got[N], expected;
  static const float least[] = {0.5f, 0.9f};
  int k, i, ok = 1;
  for (k = 0; k < 2; k++) {
    fvg_views_desc d;
    fvg_views *v = NULL;
    memset(&d, 0, sizeof d);
    d.seed = 3;
    d.crop_scale_min = least[k];
    check(!fvg_views_new(w->m, &v, &w->set, &d), "views of large crops");
    all_views(v, &w->train, 1, got);
    for (i = 0; i < N; i++) {
      view_by_hand(w, &item[i], FVG_AUGMENT_CROP, (double)least[k], 3, 1, 0, &expected);
      ok = ok && same(&got[i], &expected, sizeof expected);
    }
    fvg_views_free(v);
  }
  check(ok, "are crops of at least that share");
}

/* Pixels of fixed crops begin anew where the features do. */
static void test_view_pixels(world *w) {
  enum { ALL = N * PIXELS };
  static float pixels[3][ALL], fg[3][ALL], f[N * D], encoded[N * D];
  fvg_views *v = new_views(w, FVG_AUGMENT_FIXED_CROPS, 2, 3, 0);
  int index[N], epoch, i;
  for (i = 0; i < N; i++) index[i] = i;
  for (epoch = 0; epoch < 3; epoch++) {
    check(!fvg_views_pixels(v, pixels[epoch], fg[epoch], &w->train, index, N, epoch), "pixels");
    need(!fvg_views_get(v, f, NULL, NULL, &w->train, index, N, epoch), "features");
    need(!fvg_learner_encode_images(w->m, NULL, encoded, pixels[epoch], N),
         "features of the pixels");
    check(same(f, encoded, sizeof f), "are what the features were made of");
  }
  check(same(pixels[0], pixels[2], sizeof *pixels) && same(fg[0], fg[2], sizeof *fg),
        "of two crops the third epoch has the first again");
  check(!same(pixels[0], pixels[1], sizeof *pixels) && !same(fg[0], fg[1], sizeof *fg),
        "and the second another");
  fvg_views_free(v);
}

/* Memory for pictures that helpers decode counts toward the peak. */
static void test_helpers_peak(void) {
  enum { SIDE = 1200 };
  char name[] = "large.ppm";
  fvg_item large;
  fvg_items items;
  fvg_image picture;
  fvg_views_desc vd;
  fvg_views *v = NULL;
  fvg_desc d;
  world w;
  int index = 0, threads;
  float pixels[PIXELS];
  memset(&picture, 0, sizeof picture);
  memset(&d, 0, sizeof d);
  memset(&vd, 0, sizeof vd);
  vd.no_foreground = 1;
  picture.width = picture.height = SIDE;
  picture.channels = 3;
  picture.pixels = (uint8_t *)calloc(3 * SIDE, SIDE);
  large.path = name;
  large.label = 0;
  items.item = &large;
  items.n = 1;
  for (threads = 1; threads <= 2; threads++) {
    size_t before;
    d.n_threads = threads;
    if (world_open(&w, &d)) { check(0, "a world with a large picture"); break; }
    need(threads > 1 || !fvg_image_save(w.c, &picture, ROOT "/large.ppm"), "a large picture");
    need(!fvg_views_new(w.m, &v, &w.set, &vd), "views");
    before = fvg_mem_used(w.c);
    check(fvg_mem_peak(w.c) < before + 3 * SIDE * SIDE,
          "a picture that is larger than what was there");
    check(!fvg_views_pixels(v, pixels, NULL, &items, &index, 1, 0) &&
              fvg_mem_peak(w.c) >= before + 3 * SIDE * SIDE, "is in the peak");
    fvg_views_free(v);
    world_close(&w);
  }
  remove(ROOT "/large.ppm");
  free(picture.pixels);
}

static void test_view_rest(world *w) {
  static float f[CLASSES * SHOTS * D];
  static view a[N];
  fvg_item twice[4];
  fvg_items items;
  fvg_views_desc d;
  fvg_views *v;
  int index[2] = {0, 1}, i, ok = 1;
  size_t used = fvg_mem_used(w->c);
  check(!fvg_encode_task(w->m, NULL, f, task_of(&w->set, &w->all)), "fvg_encode_items");
  v = new_views(w, FVG_AUGMENT_NONE, 0, 0, 0);
  all_views(v, &w->train, 0, a);
  for (i = 0; i < N; i++) ok = ok && same(a[i].f, f + i * D, sizeof a[i].f);
  check(ok, "sees the test transform");
  check(!fvg_views_get(v, f, NULL, NULL, &w->train, index, 2, 0) && same(f, a[0].f, sizeof a[0].f), "f alone");
  index[1] = N;
  check(fvg_views_get(v, f, NULL, NULL, &w->train, index, 2, 0) == FVG_E_ARG && one_line(w->c, "18", "images"),
        "an index beyond the list");
  index[1] = -1;
  check(fvg_views_get(v, f, NULL, NULL, &w->train, index, 2, 0) == FVG_E_ARG, "a negative index");
  index[1] = 1;
  check(fvg_views_get(v, f, NULL, NULL, &w->train, index, 2, -1) == FVG_E_ARG && one_line(w->c, "epoch -1", ""),
        "a negative epoch");
  fvg_views_free(v);
  for (i = 0; i < 2; i++) {                                             /* kept and not */
    float area[2] = {9, 9}, again[2] = {9, 9};
    v = new_views(w, i ? FVG_AUGMENT_CROP : FVG_AUGMENT_NONE, 0, 3, 0);
    check(!fvg_views_get(v, f, NULL, area, &w->train, index, 2, 0) &&
              !fvg_views_get(v, f, f + N * D, again, &w->train, index, 2, 0) && same(area, again, sizeof area) &&
              area[0] > 0 && area[NO_MASK] == -1,
          "the area without the foreground's features");
    fvg_views_free(v);
  }

  for (i = 0; i < 4; i++) twice[i] = item[i / 2];
  items.item = twice;
  items.n = 4;
  v = new_views(w, FVG_AUGMENT_NONE, 0, 0, 0);
  check(!fvg_views_load(v, &items) && !fvg_views_load(v, &w->train) && !fvg_views_load(v, &items),
        "a list that names a picture twice");
  fvg_views_free(v);
  check(fvg_mem_used(w->c) == used, "no memory stays after views");

  memset(&d, 0, sizeof d);
  d.no_foreground = 1;
  d.augment = FVG_AUGMENT_NONE;
  if (fvg_views_new(w->m, &v, &w->set, &d)) { check(0, fvg_error(w->c)); return; }
  index[1] = 1;
  check(fvg_views_get(v, f, f + N * D, NULL, &w->train, index, 2, 0) == FVG_E_ARG &&
            one_line(w->c, "without the foreground", ""),
        "no foreground where none was wanted");
  check(fvg_views_get(v, f, NULL, f + N * D, &w->train, index, 2, 0) == FVG_E_ARG &&
            one_line(w->c, "without the foreground", ""), "and no area");
  check(!fvg_views_get(v, f, NULL, NULL, &w->train, index, 2, 0) && same(f, a[0].f, sizeof a[0].f), "but the same f");
  fvg_views_free(v);
  for (i = 0; i < 2; i++) {                                             /* kept and not */
    char gone[] = "0/gone.ppm", bad[] = "0/bad.ppm";
    v = new_views(w, i ? FVG_AUGMENT_CROP : FVG_AUGMENT_NONE, 0, 0, 0);
    used = fvg_mem_used(w->c);
    twice[2].path = gone;
    index[0] = 2;
    check(fvg_views_get(v, f, f + D, f + 2 * D, &items, index, 1, 0) == FVG_E_IO &&
              one_line(w->c, ROOT "/0/gone.ppm", ""),
          "a picture that is gone");
    twice[2].path = bad;
    need(!fvg_file_save(w->c, ROOT "/0/bad.ppm", "P6\n9 9\n255\n", 11) &&
             !fvg_file_save(w->c, ROOT "/mask/0/bad.pgm", "P5", 2),
         "a bad picture");
    check(fvg_views_get(v, f, f + D, f + 2 * D, &items, index, 1, 0) == FVG_E_FORMAT &&
              one_line(w->c, ROOT "/0/bad.ppm", ""),
          "a picture that is cut off");
    need(!fvg_file_save(w->c, ROOT "/0/bad.ppm", "P6\n1 1\n255\nabc", 14), "a good picture");
    check(fvg_views_get(v, f, f + D, f + 2 * D, &items, index, 1, 0) == FVG_E_FORMAT &&
              one_line(w->c, ROOT "/mask/0/bad.pgm", ""),
          "a bad mask");
    check(!fvg_views_get(v, f, NULL, NULL, &items, index, 0, 0), "no views");
    if (i) check(fvg_mem_used(w->c) == used, "no memory stays after bad pictures");
    fvg_views_free(v);
  }
  w->m->has_vision = 0;
  check(fvg_views_new(w->m, &v, &w->set, NULL) == FVG_E_ARG && !v && one_line(w->c, "image tower", ""),
        "a model without an image tower");
  w->m->has_vision = 1;
}

/* ---- features in a store ---- */
enum { SHELF = 400 };
typedef struct shelf {
  uint64_t key[SHELF][2];
  float row[SHELF][D + 1];
  int length[SHELF], n, n_asked, n_found;
  int is_spoilt;                      /* 1: rows that are found hold what is no number */
  int is_full;                        /* 1: nothing more is kept */
  uint8_t *edited;                    /* a pixel that changes when the shelf is next asked; NULL: none does */
} shelf;

static int find_on_shelf(void *user, const uint64_t key[2], float *row, int n) {
  shelf *x = (shelf *)user;
  x->n_asked++;
  if (x->edited) *x->edited ^= 1;
  x->edited = NULL;
  for (int i = 0; i < x->n; i++) {
    if (memcmp(x->key[i], key, sizeof x->key[i]) || x->length[i] != n) continue;
    memcpy(row, x->row[i], (size_t)n * sizeof *row);
    if (x->is_spoilt) row[n / 2] = (float)NAN;
    x->n_found++;
    return 1;
  }
  return 0;
}

static void keep_on_shelf(void *user, const uint64_t key[2], const float *row, int n) {
  shelf *x = (shelf *)user;
  if (x->n == SHELF || x->is_full) return;
  memcpy(x->key[x->n], key, sizeof x->key[0]);
  memcpy(x->row[x->n], row, (size_t)n * sizeof *row);
  x->length[x->n++] = n;
}

/* Views of all training pictures in two epochs, from views that are made for it. */
static void fresh_views(world *w, const fvg_views_desc *d, view *out) {
  fvg_views *v = NULL;
  need(!fvg_views_new(w->m, &v, &w->set, d), "views");
  for (int epoch = 0; v && epoch < 2; epoch++) all_views(v, &w->train, epoch, out + epoch * N);
  fvg_views_free(v);
}

/* With a store that is empty, and then has everything, views have the bits that they have without. */
static void test_store_hits(world *w, const fvg_store *store, shelf *x) {
  static const char *const name[] = {"fixed crops", "the test transform", "squashed"};
  static view without[2 * N], first[2 * N], again[2 * N];
  for (int how = FVG_AUGMENT_FIXED_CROPS; how <= FVG_AUGMENT_SQUASH; how++) {
    fvg_views_desc d;
    memset(&d, 0, sizeof d);
    memset(x, 0, sizeof *x);
    d.augment = (fvg_augment)how;
    d.n_crops = 2;
    d.seed = 3;
    const int n_view = how == FVG_AUGMENT_FIXED_CROPS ? 2 : 1;
    need(!fvg_clip_set_store(w->m, NULL), "no store");
    fresh_views(w, &d, without);
    need(!fvg_clip_set_store(w->m, store), "a store");
    fresh_views(w, &d, first);
    check(x->n == n_view * (2 * N - 1) && !x->n_found, name[how - 1]);   /* one picture has no mask */
    fresh_views(w, &d, again);
    check(x->n_found == x->n && x->n == n_view * (2 * N - 1), "all are found the second time");
    check(same(without, first, sizeof first) && same(without, again, sizeof again), "and have the same bits");
  }
}

/* Runs views on a shelf that has those of the test transform; how many of their rows are new.  -1: they are not what they
   are without a store. */
static int new_rows(world *w, const fvg_store *store, const fvg_views_desc *d) {
  static view without[2 * N], with[2 * N];
  static shelf before;
  shelf *x = (shelf *)store->user;
  before = *x;
  need(!fvg_clip_set_store(w->m, NULL), "no store");
  fresh_views(w, d, without);
  need(!fvg_clip_set_store(w->m, store), "a store");
  fresh_views(w, d, with);
  const int n = x->n - before.n;
  *x = before;
  return same(without, with, sizeof with) ? n : -1;
}

/* Everything that a row depends on is in its key, and nothing else.  One picture has no mask.  A foreground that is
   missing is encoded with its picture, so that both are offered. */
static void test_store_keys(world *w, const fvg_store *store, shelf *x) {
  enum { ALL = 2 * N - 1, MASKED = 2 * (N - 1) };
  fvg_views_desc usual, d;
  memset(&usual, 0, sizeof usual);
  memset(x, 0, sizeof *x);
  usual.augment = FVG_AUGMENT_NONE;
  check(new_rows(w, store, &usual) == ALL, "an empty store");
  static view out[2 * N];
  fresh_views(w, &usual, out);
  check(new_rows(w, store, &usual) == 0, "a full one");

  d = usual;
  d.seed = 9;
  check(new_rows(w, store, &d) == 0, "without crops the seed does not matter");
  d = usual;
  d.augment = FVG_AUGMENT_SQUASH;
  check(new_rows(w, store, &d) == ALL, "another transform");
  d.augment = FVG_AUGMENT_FIXED_CROPS;
  d.n_crops = 1;
  check(new_rows(w, store, &d) == ALL, "crops");
  d = usual;
  d.fill_black = 1;
  check(new_rows(w, store, &d) == MASKED, "another fill");
  d = usual;
  d.invert_masks = 1;
  check(new_rows(w, store, &d) == MASKED, "inverted masks");
  d = usual;
  d.mask_threshold = 0.25f;
  check(new_rows(w, store, &d) == MASKED, "another threshold");
  d = usual;
  d.no_masks = 1;
  check(new_rows(w, store, &d) == 0, "pictures without their masks");
  w->set.mask_reading = FVG_MASK_INVERTED;
  check(new_rows(w, store, &usual) == MASKED, "masks that are read in another way");
  w->set.mask_reading = FVG_MASK_AUTO;
  w->set.exif_rotate = 1;
  check(new_rows(w, store, &usual) == ALL, "pictures that are turned by EXIF");
  w->set.exif_rotate = 0;

  const fvg_preprocess own = w->m->preprocess;
  w->m->preprocess.mean[1] += 0.01f;
  check(new_rows(w, store, &usual) == ALL, "another mean");
  w->m->preprocess = own;
  w->m->preprocess.filter = FVG_BILINEAR;
  check(new_rows(w, store, &usual) == ALL, "another filter");
  w->m->preprocess = own;
  float *weight = (float *)w->m->vision.class_embedding.data + 5;
  const float before = *weight;
  *weight += 0.5f;
  check(new_rows(w, store, &usual) == ALL, "another weight");
  *weight = before;
  check(new_rows(w, store, &usual) == 0, "and all as it was");
}

/* Crops of another seed, number or least share are others. */
static void test_store_crops(world *w, const fvg_store *store, shelf *x) {
  enum { ALL = 2 * N - 1 };
  static view out[2 * N];
  fvg_views_desc usual, d;
  memset(&usual, 0, sizeof usual);
  memset(x, 0, sizeof *x);
  usual.augment = FVG_AUGMENT_FIXED_CROPS;
  usual.n_crops = 1;
  usual.seed = 4;
  fresh_views(w, &usual, out);
  d = usual;
  d.n_crops = 2;
  check(new_rows(w, store, &usual) == 0 && new_rows(w, store, &d) == ALL, "the second crop is new");
  d = usual;
  d.seed = 5;
  check(new_rows(w, store, &d) == ALL, "another seed");
  d = usual;
  d.crop_scale_min = 0.5f;
  check(new_rows(w, store, &d) == ALL, "another least share");
  d = usual;
  d.augment = FVG_AUGMENT_CROP;
  x->n_asked = 0;
  check(new_rows(w, store, &d) == 0 && !x->n_asked, "new crops in every epoch are not asked for");
}

/* A picture or a mask whose bytes have changed is another one. */
static void test_store_files(world *w, const fvg_store *store, shelf *x) {
  static view out[2 * N];
  uint8_t *bytes = NULL, cover[WIDTH * HEIGHT];
  size_t n = 0;
  fvg_source file;
  fvg_views_desc d;
  memset(&d, 0, sizeof d);
  memset(x, 0, sizeof *x);
  d.augment = FVG_AUGMENT_NONE;
  need(!fvg_clip_set_store(w->m, store), "a store");
  fresh_views(w, &d, out);
  need(!fvg_source_file(w->c, &file, ROOT "/0/2.ppm") && !fvg_source_read_all(w->c, &bytes, &n, &file), "a picture");
  fvg_source_close(&file);
  bytes[n - 1] ^= 1;
  need(!fvg_file_save(w->c, ROOT "/0/2.ppm", bytes, n), "the picture with another last bit");
  check(new_rows(w, store, &d) == 2, "a picture that was edited is new, and its foreground");
  bytes[n - 1] ^= 1;
  need(!fvg_file_save(w->c, ROOT "/0/2.ppm", bytes, n), "the picture");
  fvg_bytes_free(w->c, bytes);
  check(new_rows(w, store, &d) == 0, "and known again when it is as before");

  fvg_image mask;
  memset(&mask, 0, sizeof mask);
  memset(cover, 255, sizeof cover);
  mask.width = WIDTH;
  mask.height = HEIGHT;
  mask.channels = 1;
  mask.pixels = cover;
  need(!fvg_image_save(w->c, &mask, ROOT "/mask/0/1.pgm"), "a mask where there was none");
  check(new_rows(w, store, &d) == 2, "a picture that has a mask now");
  remove(ROOT "/mask/0/1.pgm");
}

/* A store that fails is as good as none. */
static void test_store_failures(world *w, const fvg_store *store, shelf *x) {
  static view out[2 * N];
  fvg_views_desc d;
  memset(&d, 0, sizeof d);
  memset(x, 0, sizeof *x);
  d.augment = FVG_AUGMENT_NONE;
  x->is_full = 1;
  check(new_rows(w, store, &d) == 0, "a store that keeps nothing");
  x->is_full = 0;
  fresh_views(w, &d, out);
  x->is_spoilt = 1;
  check(new_rows(w, store, &d) == 2 * N - 1, "rows that are not finite are none");

  fvg_store half = *store;
  half.keep = NULL;
  check(needs_argument(w->c, fvg_clip_set_store(w->m, &half), "fvg_clip_set_store", "both functions") &&
            fvg_clip_set_store(NULL, store) == FVG_E_ARG, "a store without keep");
  uint64_t key[2];
  check(needs_argument(w->c, fvg_clip_image_key(w->m, NULL), "fvg_clip_image_key", "a place") &&
            fvg_clip_image_key(NULL, key) == FVG_E_ARG, "a key of nothing");
}

/* fvg_encode_task and fvg_clip_encode_files share their rows; towers with prompts have no part in it. */
static void test_store_tasks(world *w, const fvg_store *store, shelf *x) {
  static float f[N * D], raw[N * D], one[D], many[N * 3 * D];
  char name[N][64];
  const char *file[N];
  for (int i = 0; i < N; i++) {
    snprintf(name[i], sizeof name[i], ROOT "/%s", path[i]);
    file[i] = name[i];
  }
  memset(x, 0, sizeof *x);
  need(!fvg_clip_set_store(w->m, store), "a store");
  check(!fvg_clip_encode_files(w->m, raw, file, N, 0) && x->n == N, "files");
  check(!fvg_encode_task(w->m, NULL, f, task_of(&w->set, &w->train)) && x->n_found == N && x->n == N,
        "are not encoded again as a task");
  fvg_learner *l = NULL, *deep = NULL;
  fvg_learner_desc prompted;
  memset(&prompted, 0, sizeof prompted);
  prompted.method = fvg_method_find("MMRL");
  need(!fvg_learner_new(w->m, &l, names, BASE, NULL) && !fvg_learner_new(w->m, &deep, names, BASE, &prompted), "learners");
  check(!fvg_encode_task(w->m, l, many, task_of(&w->set, &w->train)) && same(f, many, sizeof f) && x->n_found == 2 * N,
        "nor for a learner that leaves the tower alone");
  x->n_asked = 0;
  check(!fvg_encode_task(w->m, deep, many, task_of(&w->set, &w->train)) && !x->n_asked, "others do not ask");
  fvg_learner_free(deep);
  fvg_learner_free(l);

  need(!fvg_clip_set_store(w->m, NULL), "no store");
  int alone = 1;
  for (int i = 0; i < N; i++)
    alone &= !fvg_clip_encode_files(w->m, one, file + i, 1, 0) && same(one, raw + i * D, sizeof one);
  check(alone, "a picture has the same feature alone and among others");
  fvg_normalize_rows(raw, N, D);
  check(same(raw, f, sizeof f), "a task's are those of the files, of unit length");

  file[1] = ROOT "/no such picture.ppm";
  check(fvg_clip_encode_files(w->m, raw, file, N, 0) == FVG_E_IO && one_line(w->c, file[1], "") &&
            !strstr(fvg_error(w->c), "skip-bad"), "a file that is not there");
  check(fvg_clip_encode_files(w->m, NULL, file, N, 0) == FVG_E_ARG && fvg_clip_encode_files(w->m, raw, file, -1, 0) == FVG_E_ARG &&
            !fvg_clip_encode_files(w->m, NULL, NULL, 0, 0), "arguments");
}

/* Pictures in memory are known by their pixels and their masks' pixels. */
static void test_store_memory(world *w, const fvg_store *store, shelf *x) {
  static view got[2 * N], first[2 * N];
  const world on_disk = *w;
  fvg_picture picture[4];
  fvg_dataset memory;
  fvg_views_desc d;
  memset(&d, 0, sizeof d);
  memset(x, 0, sizeof *x);
  memset(picture, 0, sizeof picture);
  d.augment = FVG_AUGMENT_NONE;
  for (int i = 0; i < 4; i++)
    need(!fvg_dataset_load(&w->set, &picture[i].image, i == NO_MASK ? NULL : &picture[i].mask, &item[i], 0), "a picture");
  for (int changed = 0; changed < 4; changed++) {
    if (changed == 1) picture[3].image.pixels[7] ^= 1;
    if (changed == 2) picture[0].mask.pixels[7] ^= 255;
    need(!fvg_dataset_of_pictures(w->c, &memory, picture, 4, names, BASE), "pictures in memory");
    if (changed == 3)
      need(!fvg_dataset_set_mask(&memory, memory.train.item[2].path, &picture[0].mask), "another mask for one");
    w->set = memory;
    w->train = memory.train;
    need(!fvg_clip_set_store(w->m, store), "a store");
    const int before = x->n;
    fresh_views(w, &d, got);
    if (!changed) memcpy(first, got, sizeof got);
    check(x->n - before == (changed ? 2 : 7), changed ? "one that has changed is new" : "pictures in memory are kept");
    fresh_views(w, &d, got);
    check(x->n - before == (changed ? 2 : 7), "and found again");
    if (!changed) check(same(first, got, sizeof got), "with the same bits");
    fvg_dataset_free(&memory);
    w->set = on_disk.set;
    w->train = on_disk.train;
  }
  memset(x, 0, sizeof *x);
  x->edited = &picture[0].image.pixels[7];
  need(!fvg_dataset_of_pictures(w->c, &memory, picture, 4, names, BASE), "pictures in memory");
  w->set = memory;
  w->train = memory.train;
  fresh_views(w, &d, got);
  check(x->n == 5, "a picture that changes between its key and its encoding is not kept");
  fvg_dataset_free(&memory);
  w->set = on_disk.set;
  w->train = on_disk.train;
  for (int i = 0; i < 4; i++) {
    fvg_image_free(w->c, &picture[i].image);
    fvg_image_free(w->c, &picture[i].mask);
  }
}

static void test_store(world *w) {
  static shelf x;
  const fvg_store store = {find_on_shelf, keep_on_shelf, &x};
  test_store_hits(w, &store, &x);
  test_store_keys(w, &store, &x);
  test_store_crops(w, &store, &x);
  test_store_files(w, &store, &x);
  test_store_failures(w, &store, &x);
  test_store_tasks(w, &store, &x);
  test_store_memory(w, &store, &x);
  need(!fvg_clip_set_store(w->m, NULL), "no store");
}

/* The key of a model is that of its weights, wherever they lie. */
static void test_image_key(world *w) {
  fvg_ctx *c;
  fvg_clip *twin, *other, *shared;
  shelf *none = NULL;
  const fvg_store store = {find_on_shelf, keep_on_shelf, none};
  uint64_t key[5][2];
  need(!fvg_init(&c, NULL) && !load_clip(w->c, &standard, &twin) && !load_clip(w->c, &narrow, &other), "models");
  check(!fvg_clip_image_key(w->m, key[0]) && !fvg_clip_image_key(twin, key[1]) && same(key[0], key[1], sizeof *key),
        "the same model, the same key");
  check(!fvg_clip_image_key(other, key[2]) && key[0][0] != key[2][0] && key[0][1] != key[2][1], "another model, another key");
  check(!fvg_clip_set_store(twin, &store) && !fvg_clip_share(c, &shared, twin) && shared->store == NULL,
        "a store is not shared");
  fvg_clip_free(shared);
  fvg_clip_free(twin);
  need(!load_clip(w->c, &standard, &twin) && !fvg_clip_image_key(twin, key[3]) && !fvg_clip_unpack(twin), "in rows");
  check(!fvg_clip_image_key(twin, key[4]) && !same(key[3], key[4], sizeof *key), "matrices in rows are another model");
  fvg_clip_free(twin);
  fvg_clip_free(other);
  fvg_free(c);
}

/* ---- the hash ---- */
static void hash_of(uint64_t key[2], const void *bytes, size_t n) {
  fvg_hash h = fvg_hash_begin();
  fvg_hash_add(&h, bytes, n);
  fvg_hash_end(&h, key);
}

static int bits_of(uint64_t x) {
  int n = 0;
  for (; x; x &= x - 1) n++;
  return n;
}

/* Whatever bit of a text changes, each bit of the key changes in half of the cases. */
static void test_avalanche(void) {
  enum { LONGEST = 40, TRIALS = 24 };
  static long turned[128];
  fvg_rng rng;
  long n = 0, bits = 0;
  int least = 128;
  fvg_rng_seed(&rng, 5, 0);
  memset(turned, 0, sizeof turned);
  for (int trial = 0; trial < TRIALS; trial++)
    for (int length = 1; length <= LONGEST; length++) {
      uint8_t text[LONGEST];
      uint64_t key[2], other[2];
      for (int i = 0; i < length; i++) text[i] = trial ? (uint8_t)fvg_rng_below(&rng, 256) : 0;
      hash_of(key, text, (size_t)length);
      for (int bit = 0; bit < 8 * length; bit++, n++) {
        text[bit / 8] ^= (uint8_t)(1 << bit % 8);
        hash_of(other, text, (size_t)length);
        text[bit / 8] ^= (uint8_t)(1 << bit % 8);
        const int differing = bits_of(key[0] ^ other[0]) + bits_of(key[1] ^ other[1]);
        bits += differing;
        if (differing < least) least = differing;
        for (int k = 0; k < 128; k++) turned[k] += (long)((key[k / 64] ^ other[k / 64]) >> k % 64 & 1);
      }
    }
  double worst = 0;
  for (int k = 0; k < 128; k++) worst = fmax(worst, fabs((double)turned[k] / (double)n - 0.5));
  printf("hash: of 128 bits %.3f turn, at least %d; a bit is off one half by %.4f at most (%ld cases)\n",
         (double)bits / (double)n, least, worst, n);
  check(fabs((double)bits / (double)n - 64) < 0.1, "half of the bits turn");
  check(least > 30 && worst < 5 * 0.5 / sqrt((double)n), "whichever bit of the text and of the key it is");
}

static int compare_words(const void *a, const void *b) {
  const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

/* Texts that are much alike: zeros of every length, and two bits set anywhere among zeros. */
static void test_similar(void) {
  enum { BYTES = 64, BITS = 8 * BYTES, MOST = BYTES + 1 + BITS * (BITS - 1) / 2 };
  static uint64_t half[2][MOST];
  uint8_t text[BYTES];
  uint64_t key[2];
  int n = 0;
  memset(text, 0, sizeof text);
  for (int length = 0; length <= BYTES; length++, n++) {
    hash_of(key, text, (size_t)length);
    half[0][n] = key[0], half[1][n] = key[1];
  }
  for (int a = 0; a < BITS; a++)
    for (int b = 0; b < a; b++, n++) {
      text[a / 8] ^= (uint8_t)(1 << a % 8);
      text[b / 8] ^= (uint8_t)(1 << b % 8);
      hash_of(key, text, sizeof text);
      half[0][n] = key[0], half[1][n] = key[1];
      memset(text, 0, sizeof text);
    }
  int twice = 0;
  for (int k = 0; k < 2; k++) {
    qsort(half[k], (size_t)n, sizeof half[k][0], compare_words);
    for (int i = 1; i < n; i++) twice += half[k][i] == half[k][i - 1];
  }
  check(!twice, "130,881 texts that are much alike differ in either half of the key");

  fvg_hash apart = fvg_hash_begin(), together = fvg_hash_begin(), other = fvg_hash_begin();
  fvg_hash_add(&apart, "ab", 2);
  fvg_hash_add(&apart, "c", 1);
  fvg_hash_add(&other, "a", 1);
  fvg_hash_add(&other, "bc", 2);
  fvg_hash_add(&together, "abc", 3);
  check(!same(&apart, &other, sizeof apart) && !same(&apart, &together, sizeof apart), "where a call ends counts");
}

/* ---- training ---- */
typedef struct diary {
  int n, n_bad;
  long cancel_at;
  const char *what;
  double first_epoch, last_epoch, losses[32], top_rate;
  int n_epochs;
  fvg_optimizer_desc schedule;
} diary;

static int note(void *user, const fvg_progress *p) {
  diary *d = (diary *)user;
  if (d->what && strcmp(p->what, d->what)) return 0;
  if (d->n < 32) d->losses[d->n] = p->loss;
  d->n++;
  d->n_epochs = p->n_epochs;
  d->top_rate = fmax(d->top_rate, p->lr);
  if (p->n_epochs) {
    int per_epoch = (int)(p->n_steps / p->n_epochs);
    d->n_bad += p->step != d->n || p->epoch != (d->n - 1) / per_epoch ||
                p->lr != fvg_learning_rate(&d->schedule, p->epoch) || !(p->loss > 0);
    if (p->epoch == 0) d->first_epoch += p->loss / per_epoch;
    if (p->epoch == p->n_epochs - 1) d->last_epoch += p->loss / per_epoch;
  }
  return d->n == d->cancel_at;
}

static fvg_train_desc train_desc(int epochs) {
  fvg_train_desc d;
  memset(&d, 0, sizeof d);
  d.optimizer.epochs = epochs;
  d.optimizer.lr = 0.01f;
  d.seed = 5;
  return d;
}

static fvg_fvgpt_desc fvgpt_desc(void) {
  fvg_fvgpt_desc d;
  memset(&d, 0, sizeof d);
  d.width = D;
  d.fdc_hidden = 16;
  d.gate_hidden = 8;
  d.logit_scale = 20;
  d.seed = 6;
  return d;
}

/* Both stages. The views are cropped anew in stage 1 and kept in stage 2. */
static fvg_status tune(world *w, const fvg_items *items, int epochs, const fvg_fvgpt_desc *fd, fvg_learner **p,
                       fvg_fvgpt **f) {
  fvg_views_desc vd;
  fvg_views *v = NULL, *kept = NULL;
  fvg_train_desc d = train_desc(epochs);
  fvg_status s;
  *p = NULL;
  *f = NULL;
  memset(&vd, 0, sizeof vd);
  vd.seed = 9;
  s = fvg_learner_new(w->m, p, names, BASE, NULL);
  if (!s) s = fvg_fvgpt_new(w->c, f, fd);
  if (!s) s = fvg_views_new(w->m, &v, &w->set, &vd);
  if (!s) s = fvg_learner_train(*p, v, task_of(NULL, items), &d);
  vd.augment = FVG_AUGMENT_FIXED_CROPS;
  vd.n_crops = 3;
  if (!s) s = fvg_views_new(w->m, &kept, &w->set, &vd);
  if (!s) s = fvg_fvgpt_train(*f, *p, kept, task_of(NULL, items), &d);
  fvg_views_free(v);
  fvg_views_free(kept);
  if (s) {
    fvg_learner_free(*p);
    fvg_fvgpt_free(*f);
    *p = NULL;
    *f = NULL;
  }
  return s;
}

static void test_training(world *w, diary *notes) {
  static const char *const what[] = {"CoOp", "FVGPT_CoOp", "encode"};
  static const int wanted[] = {24, 24, 3};  /* 4 steps of 4 in 6 epochs; 18 pictures by 8s */
  fvg_fvgpt_desc fd = fvgpt_desc();
  fvg_fvgpt *f;
  fvg_learner *p;
  size_t used = fvg_mem_used(w->c);
  int i, stop;
  for (i = 0; i < 3; i++) {
    for (stop = 0; stop < 2; stop++) {
      fvg_status s;
      fvg_train_desc d = train_desc(6);
      memset(notes, 0, sizeof *notes);
      notes->what = what[i];
      notes->cancel_at = stop * (i == 2 ? 2 : 9);
      notes->schedule = fvg_optimizer_defaults(&d.optimizer);
      s = tune(w, &w->train, 6, &fd, &p, &f);
      check(s == (stop ? FVG_E_CANCELLED : FVG_OK), stop ? "cancelled" : "tuned");
      if (stop) check(one_line(w->c, what[i], "cancelled at step") && notes->n == notes->cancel_at, "at once");
      else {
        check(notes->n == wanted[i] && !notes->n_bad, "every step is reported, with its epoch, rate and loss");
        if (i < 2)
          printf("%s: loss %.3f in the first epoch, %.3f in the last\n", what[i], notes->first_epoch,
                 notes->last_epoch);
        check(i == 2 || notes->last_epoch < 0.9 * notes->first_epoch, "the loss falls");
      }
      fvg_learner_free(p);
      fvg_fvgpt_free(f);
      check(fvg_mem_used(w->c) == used, "no memory stays after training");
    }
  }
  memset(notes, 0, sizeof *notes);
}

/* At a rate of nothing an epoch's losses tell its batches: each picture once, in an order of its own. */
static void test_order(world *w, diary *notes) {
  fvg_views *v = new_views(w, FVG_AUGMENT_NONE, 0, 0, 0);
  fvg_train_desc d = train_desc(3);
  double sum[3] = {0, 0, 0};
  fvg_learner *p;
  int i, moved = 0;
  d.batch = 3;
  d.optimizer.lr = 1e-20f;
  d.optimizer.warmup_epochs = -1;
  if (fvg_learner_new(w->m, &p, names, BASE, NULL)) { check(0, fvg_error(w->c)); return; }
  memset(notes, 0, sizeof *notes);
  notes->what = "CoOp";
  check(!fvg_learner_train(p, v, task_of(NULL, &w->train), &d) && notes->n == 18, "three epochs of six batches");
  for (i = 0; i < 18; i++) {
    sum[i / 6] += notes->losses[i];
    moved += i >= 6 && notes->losses[i] != notes->losses[i - 6];
  }
  check(fabs(sum[0] - sum[1]) < 1e-4 && fabs(sum[0] - sum[2]) < 1e-4, "every epoch shows every picture once");
  check(moved == 12, "in a new order each time");
  fvg_learner_free(p);
  fvg_views_free(v);
  memset(notes, 0, sizeof *notes);
}

/* Without settings stage 1 trains as the method does, and stage 2 by FVG-PT's own recipe: MaPLe 5
   epochs, then 10. */
static void test_schedules(world *w, diary *notes) {
  static const struct { const char *method, *what; int epochs, steps; double rate; } stage[] = {
    {"MaPLe", "MaPLe", 5, N / 4, 0.0035}, {"MaPLe", "FVGPT_MaPLe", 10, N / 4, 0.0035},
    {"PromptSRC", "FVGPT_PromptSRC", 10, 1, 0.0025}, {"MMRL", "FVGPT_MMRL", 10, N / 4, 0.001},
    {"MMRLpp", "FVGPT_MMRLpp", 10, N / 4, 0.001}, {"DePT_CoOp", "DePT_CoOp", 10, N / 4, 0.0035},
    {"DePT_PromptSRC", "FVGPT_DePT_PromptSRC", 10, N / 4, 0.0025}};
  size_t i;
  for (i = 0; i < sizeof stage / sizeof *stage; i++) {
    fvg_fvgpt_desc fd = fvgpt_desc();
    fvg_learner *l = learner_of(w, stage[i].method, BASE);
    fvg_fvgpt *f = NULL;
    fvg_views_desc vd;
    fvg_views *v = NULL;
    fvg_status s;
    int stage_2 = strcmp(stage[i].method, stage[i].what) != 0;
    memset(&vd, 0, sizeof vd);
    vd.augment = FVG_AUGMENT_NONE;
    vd.learner = stage_2 ? l : NULL;
    need(!fvg_views_new(w->m, &v, &w->set, &vd) && !fvg_fvgpt_new(w->c, &f, &fd),
         "views and modules");
    memset(notes, 0, sizeof *notes);
    notes->what = stage[i].what;
    s = stage_2 ? fvg_fvgpt_train(f, l, v, task_of(NULL, &w->train), NULL) :
        fvg_learner_train(l, v, task_of(NULL, &w->train), NULL);
    check(!s && notes->n_epochs == stage[i].epochs &&
          notes->n == stage[i].epochs * stage[i].steps &&
              fabs(notes->top_rate - stage[i].rate) < 1e-8, stage[i].what);
    fvg_views_free(v);
    fvg_fvgpt_free(f);
    fvg_learner_free(l);
  }
  {                                              /* of a published set the task is known by its card */
    fvg_fvgpt_desc fd = fvgpt_desc();
    fvg_learner *l = learner_of(w, "CoOp", BASE);
    fvg_fvgpt *f = NULL;
    fvg_views *v = new_views(w, FVG_AUGMENT_NONE, 0, 0, 0);
    fvg_dataset eurosat = w->set;
    eurosat.card = fvg_dataset_card_find("eurosat");
    need(!fvg_fvgpt_new(w->c, &f, &fd), "modules");
    notes->what = "FVGPT_CoOp";
    for (i = 0; i < 2; i++) {
      notes->n = 0;
      fvg_status s = fvg_fvgpt_train(f, l, v, task_of(i ? &eurosat : &w->set, &w->train), NULL);
      check(!s && notes->n_epochs == (i ? 20 : 10), i ? "EuroSAT's own epochs" : "a plain set's");
    }
    fvg_views_free(v);
    fvg_fvgpt_free(f);
    fvg_learner_free(l);
  }
  memset(notes, 0, sizeof *notes);
}

static void test_training_rest(world *w) {
  fvg_train_desc d = train_desc(1);
  fvg_fvgpt_desc fd = fvgpt_desc();
  fvg_items few = w->train, none = w->train, bare;
  fvg_views *v = new_views(w, FVG_AUGMENT_NONE, 0, 0, 0);
  float after[2][4 * 64];
  const float *ctx;
  double far = 0;
  fvg_fvgpt *f;
  fvg_learner *p;
  int i;
  size_t used;
  few.n = 3;
  none.n = 0;
  for (i = 0; i < 3; i++) {
    if (fvg_learner_new(w->m, &p, names, BASE, NULL)) { check(0, fvg_error(w->c)); return; }
    d.batch = i == 2 ? 4 : 18;                                          /* one step; the order then does not matter */
    d.seed = (uint64_t)i;
    need(!fvg_learner_train(p, v, task_of(NULL, &w->train), &d), "trained");
    ctx = (const float *)fvg_learner_parameter(p, "ctx")->value.data;
    if (i < 2) memcpy(after[i], ctx, sizeof after[i]);
    else check(!same(after[0], ctx, sizeof after[0]), "smaller batches, another result");
    if (i < 2) fvg_learner_free(p);
  }
  for (i = 0; i < 4 * 64; i++) far = fmax(far, fabs((double)after[0][i] - (double)after[1][i]));
  check(far < 1e-6, "one batch of all, in another order: nearly the same result");
  check(!fvg_learner_train(p, v, task_of(NULL, &few), &d), "fewer images than a batch");
  check(!fvg_learner_train(p, v, task_of(NULL, &few), NULL), "no settings: the defaults");
  used = fvg_mem_used(w->c);
  check(fvg_learner_train(p, v, task_of(NULL, &none), &d) == FVG_E_ARG && one_line(w->c, "no images", ""), "no images");
  check(fvg_learner_train(p, v, task_of(NULL, &w->all), &d) == FVG_E_ARG && one_line(w->c, "3/0.ppm: label 3", "3 classes"),
        "stage 1: a label beyond the classes");
  fd.width = D + 1;
  if (fvg_fvgpt_new(w->c, &f, &fd)) { check(0, fvg_error(w->c)); return; }
  check(fvg_fvgpt_train(f, p, v, task_of(NULL, &w->train), &d) == FVG_E_SHAPE && one_line(w->c, "33", "32"),
        "modules of another width");
  check(fvg_fvgpt_train(f, p, v, task_of(NULL, &w->all), &d) == FVG_E_ARG && one_line(w->c, "3/0.ppm: label 3", "3 classes"),
        "stage 2: a label beyond the classes");
  fvg_fvgpt_free(f);
  fd.width = D;
  if (fvg_fvgpt_new(w->c, &f, &fd)) { check(0, fvg_error(w->c)); return; }
  check(fvg_fvgpt_train(f, p, v, task_of(NULL, &w->train), with_template(&d, "no hole")) == FVG_E_ARG && one_line(w->c, "no hole", "{}"),
        "a template without {}");
  bare.item = &item[NO_MASK];
  bare.n = 1;
  check(fvg_fvgpt_train(f, p, v, task_of(NULL, &bare), &d) == FVG_E_IO && one_line(w->c, "/mask", "no mask"), "no masks");
  fvg_fvgpt_free(f);
  fd.no_frg = fd.no_fdc = 1;
  if (fvg_fvgpt_new(w->c, &f, &fd)) { check(0, fvg_error(w->c)); return; }
  check(!fvg_fvgpt_train(f, p, v, task_of(NULL, &bare), &d), "calibration alone needs none");
  fvg_fvgpt_free(f);
  check(fvg_mem_used(w->c) == used, "no memory stays after training that cannot be");
  fvg_learner_free(p);
  fvg_views_free(v);
}

static void backwards(void *user, void (*job)(void *arg, int index), void *arg, int n) {
  (void)user;
  while (n--) job(arg, n);
}

static size_t read_file(const char *name, char *bytes, size_t capacity) {
  FILE *file = fopen(name, "rb");
  size_t n = file ? fread(bytes, 1, capacity, file) : 0;
  if (file) fclose(file);
  return n;
}

static void test_threads(void) {
  static char first[1 << 18], other[1 << 18];
  static const int threads[] = {1, 2, 5, 0};
  size_t n = 0;
  int i;
  for (i = 0; i < 4; i++) {
    fvg_fvgpt_desc fd = fvgpt_desc();
    fvg_fvgpt *f;
    fvg_learner *p;
    fvg_desc d;
    world w;
    memset(&d, 0, sizeof d);
    d.n_threads = threads[i];
    if (!threads[i]) d.parallel = backwards;
    if (world_open(&w, &d) || tune(&w, &w.train, 2, &fd, &p, &f)) { check(0, "tuned with threads"); return; }
    check(!fvg_checkpoint_save(p, f, ROOT "/threads.safetensors", NULL, 0), "saved");
    if (i == 0) n = read_file(ROOT "/threads.safetensors", first, sizeof first);
    else
      check(n > 1000 && n < sizeof first && read_file(ROOT "/threads.safetensors", other, sizeof other) == n &&
                same(first, other, n),
            "any number of threads, jobs in any order: the same checkpoint, byte for byte");
    fvg_learner_free(p);
    fvg_fvgpt_free(f);
    world_close(&w);
  }
}

/* ---- classifiers; what each branch depends on ---- */
typedef struct scores { float zero_shot[N * BASE], tuned[N * BASE], base[N * BASE], new_[N * 2], b[N]; } scores;

static int score(fvg_clip *m, fvg_branch branch, fvg_learner *p, fvg_fvgpt *f, int first, int n_class, const float *x,
                 float *logits, float *b) {
  fvg_classifier *k;
  fvg_status s = new_classifier(m, &k, branch, p, f, NULL, names + first, n_class);
  if (!s) s = fvg_classifier_logits(k, logits, b, x, N);
  if (s) printf("  %s\n", fvg_error(m->ctx));
  fvg_classifier_free(k);
  return !s;
}

static void all_scores(fvg_clip *m, fvg_learner *p, fvg_fvgpt *f, const float *x, scores *z) {
  float b[N];
  int i, ok = 1;
  memset(z, 0, sizeof *z);
  memset(b, 1, sizeof b);
  check(score(m, FVG_ZERO_SHOT, NULL, NULL, 0, BASE, x, z->zero_shot, NULL) &&
            score(m, FVG_TUNED, p, NULL, 0, BASE, x, z->tuned, b) &&
            score(m, FVG_BRANCH_BASE, p, f, 0, BASE, x, z->base, NULL) &&
            score(m, FVG_BRANCH_NEW, p, f, BASE, 2, x, z->new_, z->b),
        "four classifiers");
  for (i = 0; i < N; i++) ok = ok && b[i] == 0 && z->b[i] > 0 && z->b[i] < 1;
  check(ok, "b is between 0 and 1 in the new branch, else 0");
}

static void test_branches(world *w, fvg_learner *p, fvg_fvgpt *f, const float *x) {
  float g[BASE * D], g_clip[BASE * D], z[N * BASE], b[N];
  fvg_classifier *k;
  scores s;
  double zero_shot = 0, tuned = 0;
  int i, j, e;
  all_scores(w->m, p, f, x, &s);
  need(!fvg_learner_text_features(p, g, names, BASE) && !fvg_clip_encode_classes(w->m, g_clip, NULL,
                                                                                 names, BASE),
       "text features");
  for (i = 0; i < N; i++)
    for (j = 0; j < BASE; j++) {
      double a = 0, t = 0;
      for (e = 0; e < D; e++) {
        a += (double)x[i * D + e] * (double)g_clip[j * D + e];
        t += (double)x[i * D + e] * (double)g[j * D + e];
      }
      zero_shot = fmax(zero_shot, fabs(a * (double)w->m->logit_scale - (double)s.zero_shot[i * BASE + j]));
      tuned = fmax(tuned, fabs(t * (double)w->m->logit_scale - (double)s.tuned[i * BASE + j]));
    }
  check(zero_shot < 1e-4 && tuned < 1e-4, "zero-shot and tuned are s f g^T");
  check(!base_logits(f, x, N, g, BASE, z) && same(z, s.base, sizeof s.base), "the base branch is z_FDC");
  check(!fvg_learner_text_features(p, g, names + BASE, 2) &&
            !fvg_clip_encode_classes(w->m, g_clip, NULL, names + BASE, 2) &&
            !new_logits(f, x, NULL, N, g, g_clip, 2, z, b) && same(z, s.new_, sizeof s.new_) &&
            same(b, s.b, sizeof b),
        "the new branch is z_PC");
  check(new_classifier(w->m, &k, FVG_TUNED, NULL, f, NULL, names, BASE) == FVG_E_ARG && !k &&
            one_line(w->c, "tuned prompts", ""),
        "tuned without prompts");
  check(new_classifier(w->m, &k, FVG_BRANCH_BASE, p, NULL, NULL, names, BASE) == FVG_E_ARG && !k &&
            one_line(w->c, "FVG-PT", ""),
        "base without modules");
  check(new_classifier(w->m, &k, FVG_ZERO_SHOT, NULL, NULL, NULL, names, 0) == FVG_E_ARG && !k,
        "no classes, zero-shot");
  check(new_classifier(w->m, &k, FVG_TUNED, p, NULL, NULL, names, 0) == FVG_E_ARG && !k, "no classes, tuned");
}

/* The modules share nothing, so one's settings leave the other's results alone, bit for bit. */
static void test_independence(world *w, const float *x) {
  fvg_fvgpt_desc d[8];
  scores first, s;
  int i;
  for (i = 0; i < 8; i++) d[i] = fvgpt_desc();
  d[1].lambda_new = -1;
  d[2].lambda_new = 3;
  d[3].no_kl = 1;
  d[4].lambda_base = -1;
  d[5].lambda_rg = 4;
  d[6].fdc_hidden = 24;
  d[7].area_rule = FVG_AREA_IGNORE;
  for (i = 0; i < 8; i++) {
    fvg_fvgpt *f;
    fvg_learner *p;
    if (tune(w, &w->train, 2, &d[i], &p, &f)) { check(0, fvg_error(w->c)); continue; }
    all_scores(w->m, p, f, x, &s);
    if (i == 0) first = s;
    if (i == 1 || i == 2 || i == 3)
      check(same(s.base, first.base, sizeof s.base) && !same(s.new_, first.new_, sizeof s.new_),
            "PC's settings change the new branch only");
    if (i == 4 || i == 6)
      check(same(s.new_, first.new_, sizeof s.new_) && !same(s.base, first.base, sizeof s.base),
            "FDC's settings change the base branch only");
    if (i == 5 || i == 7)
      check(same(s.new_, first.new_, sizeof s.new_), "FRG's settings do not change the new branch");
    check(same(s.tuned, first.tuned, sizeof s.tuned), "nor stage 2 the tuned prompts");
    fvg_learner_free(p);
    fvg_fvgpt_free(f);
  }
}

/* ---- checkpoints ---- */
static const char *const keys[] = {"format",         "trainer",   "classes",    "class_token_position", "n_ctx",
                                   "class_specific", "embed_dim", "fdc_hidden", "gate_hidden",          "gate_layers",
                                   "logit_scale",    "tau",       "dataset",    "no_frg",               "no_fdc",
                                   "no_pc",          "area_rule", "area_min",   "area_max",             "ctx_words",
                                   "normalise_entropy", "prompt_template", "distill", "frg_without", "brg_without"};
enum { N_KEYS = sizeof keys / sizeof *keys };
#define GOOD ROOT "/good.safetensors"
#define BAD ROOT "/bad.safetensors"

/* GOOD as BAD, without tensor `drop`, with another first dimension of `grow`, with key = value (NULL: without it). */
static void spoil(fvg_ctx *c, const char *drop, const char *grow, const char *key, const char *value) {
  static float zeros[10000];
  fvg_named_tensor tensor[32];
  fvg_metadata metadata[N_KEYS];
  fvg_source source;
  fvg_weights *w;
  int i, n = 0, n_metadata = 0;
  if (fvg_source_file(c, &source, GOOD) || fvg_weights_open(c, &w, &source)) { check(0, fvg_error(c)); return; }
  for (i = 0; i < fvg_weights_count(w); i++) {
    const char *name = fvg_weights_name(w, i);
    if (drop && !strcmp(name, drop)) continue;
    tensor[n].name = name;
    need(!fvg_weights_get(w, &tensor[n].tensor, name, FVG_F32), "a tensor of the checkpoint");
    if (grow && !strcmp(name, grow)) {
      fvg_tensor_free(c, &tensor[n].tensor);
      need(fvg_weights_info(w, &tensor[n].tensor, name) == 1, "a shape of the checkpoint");
      tensor[n].tensor.dim[0]++;
      tensor[n].tensor.data = zeros;
    }
    n++;
  }
  for (i = 0; i < N_KEYS; i++) {
    metadata[n_metadata].key = keys[i];
    metadata[n_metadata].value = key && !strcmp(keys[i], key) ? value : fvg_weights_metadata(w, keys[i]);
    if (metadata[n_metadata].value) n_metadata++;
  }
  need(!fvg_safetensors_save(c, BAD, tensor, n, metadata, n_metadata), "a spoiled checkpoint is written");
  for (i = 0; i < n; i++) if (tensor[i].tensor.data != zeros) fvg_tensor_free(c, &tensor[i].tensor);
  fvg_weights_close(w);
}

/* Loading `file` fails (FVG_OK: somehow) with one line that names it and what is wrong, and leaves nothing behind. */
static int refused(fvg_clip *m, const char *file, fvg_status status, const char *a) {
  size_t used = fvg_mem_used(m->ctx);
  fvg_weights *settings;
  fvg_learner *p;
  fvg_fvgpt *f;
  fvg_status s = fvg_checkpoint_load(m, &p, &f, &settings, file);
  int ok = s && (s == status || status == FVG_OK) && !p && !f && !settings && fvg_mem_used(m->ctx) == used &&
           one_line(m->ctx, file, a);
  if (!ok)
    printf("  %s: %s, wanted %s: %s\n", a, fvg_status_name(s), fvg_status_name(status), s ? fvg_error(m->ctx) : "");
  fvg_learner_free(p);
  fvg_fvgpt_free(f);
  fvg_weights_close(settings);
  return ok;
}

/* Class names become a list in JSON that reads back as they were, control characters and all. */
static void test_names_in_json(world *w) {
  static const char *const odd[4] = {"tab\t, line\n, escape\033 and \037", "\"quotes\" \\ slash /",
                                     "caf\303\251", ""};
  char copy[4][64], *name[4], *text;
  fvg_json j;
  int right = 0;
  for (int i = 0; i < 4; i++) name[i] = strcpy(copy[i], odd[i]);
  text = fvg__names_json(w->c, (const char *const *)name, 4);
  if (!text || fvg_json_parse(w->c, &j, text, strlen(text), "names")) {
    check(0, "names are JSON");
    fvg_release(w->c, text);
    return;
  }
  int at = j.value[0].first;
  for (int i = 0; i < 4 && at >= 0; i++, at = j.value[at].next)
    right += !strcmp(j.value[at].string, odd[i]);
  check(right == 4 && j.value[0].n_child == 4, "names come back from JSON as they were");
  fvg_json_free(w->c, &j);
  fvg_release(w->c, text);
}

static void test_spoiled(world *w) {
  static const struct { const char *key, *value, *says; } bad[] = {
    {"classes", "[\"a\", ", "JSON"}, {"classes", "[1, 2, 3]", "classes"}, {"classes", "[]", "classes"},
    {"classes", "{\"a\": \"b\"}", "classes"}, {"classes", NULL, "classes"},
    {"class_token_position", NULL, "class_token_position"}, {"class_token_position", "sideways", "sideways"},
    {"n_ctx", "5", "ctx has shape [4, 64]"}, {"n_ctx", "200", "200 context vectors"}, {"n_ctx", "-1", "n_ctx"},
    {"n_ctx", "1e300", "n_ctx"}, {"embed_dim", "1000", "of width 1000"},
    {"trainer", "CoOp", "belongs to nothing that the settings name"},
    {"n_ctx", "4.5", "n_ctx"}, {"n_ctx", NULL, "n_ctx"}, {"class_specific", "1", "ctx"}, {"embed_dim", "31", "31"},
    {"embed_dim", NULL, ""}, {"format", "fvgpt 2", "fvgpt 2"}, {"format", NULL, "not a checkpoint"},
    {"fdc_hidden", "17", "fdc_image.down.weight"}, {"fdc_hidden", "65000", "fdc_image.down.weight"},
    {"fdc_hidden", "1e300", "fdc_hidden"}, {"gate_hidden", "9", "frg.fc1.weight"},
    {"gate_hidden", "65000", "frg.fc1.weight"}, {"gate_layers", "7", "gate_layers"},
    {"gate_layers", "3", "frg.fc2.weight"}, {"tau", "-1", "tau"}, {"tau", "nan", "tau"}, {"tau", NULL, "tau"},
    {"logit_scale", "-5", "logit_scale"}, {"logit_scale", "1e300", "logit_scale"}, {"no_frg", "yes", "no_frg"},
    {"no_fdc", "-1", "no_fdc"}, {"no_pc", "0.5", "no_pc"},
    {"trainer", NULL, "trainer"}, {"trainer", "CLIP", "CLIP"}, {"trainer", "FVGPT_", "FVGPT_"},
    {"trainer", "FVGPT_KgCoOp", "no setting W"}, {"area_rule", "7", "area_rule"}, {"area_max", NULL, "area_max"},
    {"area_min", "0.99", "area_min 0.99, area_max 0.98"},
    {"area_max", "0.01", "area_min 0.02, area_max 0.01"},
    {"area_min", "-0.1", "area_min -0.1"}, {"area_max", "1.5", "area_max 1.5"},
    {"distill", "often", "distill \"often\""}, {"distill", "", "distill \"\""},
    {"frg_without", "8", "frg_without is 8"}, {"brg_without", "-1", "brg_without"},
    {"normalise_entropy", "maybe", "normalise_entropy"}, {"ctx_words", "a", "ctx has shape [4, 64]"},
    {"ctx_words", "1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3", "23 tokens"}
  };
  fvg_fvgpt *f;
  fvg_learner *p;
  char name[64][40];
  fvg_source source;
  fvg_weights *x;
  size_t i, peak;
  int n, k, missing = 1, misshapen = 1;
  if (fvg_source_file(w->c, &source, GOOD) || fvg_weights_open(w->c, &x, &source)) {
    check(0, fvg_error(w->c));
    return;
  }
  n = fvg_weights_count(x);
  for (k = 0; k < n; k++) snprintf(name[k], sizeof name[k], "%s", fvg_weights_name(x, k));
  fvg_weights_close(x);
  check(n == 17, "seventeen tensors");
  for (k = 0; k < n; k++) {
    size_t used = fvg_mem_used(w->c);
    spoil(w->c, name[k], NULL, NULL, NULL);
    missing &= refused(w->m, BAD, FVG_E_FORMAT, name[k]);
    need(fvg_mem_used(w->c) == used, "no memory stays");
    spoil(w->c, NULL, name[k], NULL, NULL);
    misshapen &= refused(w->m, BAD, FVG_E_SHAPE, name[k]);
  }
  check(missing, "each tensor missing in turn");
  check(misshapen, "each tensor misshapen in turn");
  peak = fvg_mem_peak(w->c);
  for (i = 0; i < sizeof bad / sizeof *bad; i++) {
    spoil(w->c, NULL, NULL, bad[i].key, bad[i].value);
    check(refused(w->m, BAD, FVG_OK, bad[i].says), bad[i].key);
  }
  check(fvg_mem_peak(w->c) < peak + 1000000, "a number in a checkpoint does not make a large allocation");
  for (i = 0; i < 7; i++) {
    static const char *const later[] = {"no_frg",    "no_fdc",            "no_pc",          "area_rule",
                                        "ctx_words", "normalise_entropy", "prompt_template"};
    spoil(w->c, NULL, NULL, later[i], NULL);
    check(!fvg_checkpoint_load(w->m, &p, &f, NULL, BAD) && f && !f->desc.no_frg && !f->desc.no_fdc &&
              !f->desc.no_pc && !f->desc.area_rule && !f->desc.normalise_entropy,
          "checkpoints from before there were switches have all modules");
    fvg_learner_free(p);
    fvg_fvgpt_free(f);
  }
  spoil(w->c, NULL, NULL, "dataset", NULL);
  check(!fvg_checkpoint_load(w->m, &p, &f, NULL, BAD) && p && f, "the program's own settings may be missing");
  fvg_learner_free(p);
  fvg_fvgpt_free(f);
}

static void test_other_files(world *w) {
  static char bytes[1 << 18];
  size_t n = read_file(GOOD, bytes, sizeof bytes), cut;
  fvg_clip *m;
  int ok = 1;
  for (cut = 0; cut < n; cut += cut < 2000 ? 61 : 1999) {
    need(!fvg_file_save(w->c, BAD, bytes, cut), "a truncated checkpoint is written");
    ok &= refused(w->m, BAD, FVG_E_FORMAT, "");
  }
  check(ok && !fvg_file_save(w->c, BAD, bytes, n - 1) && refused(w->m, BAD, FVG_E_FORMAT, ""),
        "a checkpoint cut off anywhere");
  check(!fvg_file_save(w->c, BAD, standard.bytes, standard.n_bytes) &&
            refused(w->m, BAD, FVG_E_FORMAT, "not a checkpoint"),
        "a model is no checkpoint");
  check(!fvg_file_save(w->c, BAD, "hello, world", 12) && refused(w->m, BAD, FVG_E_FORMAT, ""), "nor is a text");
  check(refused(w->m, ROOT "/none.safetensors", FVG_E_IO, ""), "nor is nothing");
  check(!load_clip(w->c, &narrow, &m) && refused(m, GOOD, FVG_E_SHAPE, "width 32, this one has 16"),
        "a CLIP of another width");
  fvg_clip_free(m);
  check(!load_clip(w->c, &wide_text, &m) && refused(m, GOOD, FVG_E_SHAPE, "ctx has shape [4, 64]"),
        "a CLIP with a wider text tower");
  fvg_clip_free(m);
}

static void test_round_trip(world *w, fvg_learner *p, fvg_fvgpt *f, const float *x) {
  static const fvg_metadata settings[] = {{"dataset", "t\xC3\xADny \"set\"\n\\"}, {"shots", "6"}},
                            twice[] = {{"tau", "3"}};
  fvg_metadata many[100];
  char key[100][16];
  fvg_weights *open = NULL;
  fvg_fvgpt *g = NULL;
  fvg_learner *q = NULL;
  scores before, after;
  int i, n;
  const char *const *kept;
  all_scores(w->m, p, f, x, &before);
  check(!fvg_checkpoint_save(p, f, GOOD, settings, 2) && !fvg_checkpoint_load(w->m, &q, &g, &open,
                                                                              GOOD) && q && g &&
            open,
        "saved and loaded");
  if (!q || !g || !open) { printf("  %s\n", fvg_error(w->c)); return; }
  check(!strcmp(fvg_weights_metadata(open, "dataset"), settings[0].value) &&
            !strcmp(fvg_weights_metadata(open, "shots"), "6"),
        "with its settings");
  kept = fvg_learner_class_names(q, &n);
  for (i = 0; i < BASE; i++) check(n == BASE && !strcmp(kept[i], names[i]), "and class names of all kinds");
  all_scores(w->m, q, g, x, &after);
  check(same(&before, &after, sizeof before), "a loaded checkpoint gives the same logits, bit for bit");
  fvg_weights_close(open);
  fvg_learner_free(q);
  fvg_fvgpt_free(g);
  check(!fvg_checkpoint_save(p, NULL, BAD, NULL, 0) && !fvg_checkpoint_load(w->m, &q, &g, NULL,
                                                                            BAD) && q && !g,
        "prompts alone");
  fvg_learner_free(q);
  check(fvg_checkpoint_save(p, f, BAD, twice, 1) == FVG_E_ARG && one_line(w->c, BAD, "tau"),
        "a setting must not be one of ours");
  for (i = 0; i < 100; i++) { snprintf(key[i], sizeof key[i], "key %d", i); many[i].key = many[i].value = key[i]; }
  check(fvg_checkpoint_save(p, f, BAD, many, 100) == FVG_E_ARG && one_line(w->c, BAD, "100 settings"),
        "too many settings are an error, not a loss");
  check(fvg_checkpoint_save(p, f, ROOT "/no/folder.safetensors", NULL, 0) == FVG_E_IO &&
            one_line(w->c, ROOT "/no/folder", ""),
        "a folder that is not there");
}

/* Class-specific prompts in another position, and gates of three layers. */
static void test_other_shapes(world *w, const float *x) {
  float before[2][N * BASE], after[2][N * BASE];
  fvg_fvgpt_desc fd = fvgpt_desc();
  fvg_learner_desc cd;
  fvg_fvgpt *f = NULL, *g = NULL;
  fvg_learner *p = NULL, *q = NULL;
  memset(&cd, 0, sizeof cd);
  cd.n_ctx = 3;
  cd.class_specific = 1;
  cd.class_token_position = FVG_MIDDLE;
  fd.gate_layers = 3;
  fd.fdc_init_scale = 0.1f;
  fd.tau = 1.3f;
  fd.logit_scale = 33.3f;
  check(!fvg_learner_new(w->m, &p, names, BASE, &cd) && !fvg_fvgpt_new(w->c, &f, &fd), "other shapes");
  check(!fvg_checkpoint_save(p, f, BAD, NULL, 0) && !fvg_checkpoint_load(w->m, &q, &g, NULL, BAD),
        "saved and loaded");
  check(score(w->m, FVG_BRANCH_BASE, p, f, 0, BASE, x, before[0], NULL) &&
            score(w->m, FVG_BRANCH_NEW, p, f, 0, BASE, x, before[1], NULL) &&
            score(w->m, FVG_BRANCH_BASE, q, g, 0, BASE, x, after[0], NULL) &&
            score(w->m, FVG_BRANCH_NEW, q, g, 0, BASE, x, after[1], NULL) && same(before, after, sizeof before),
        "class-specific prompts in the middle and three layers: the same logits");
  fvg_learner_free(p);
  fvg_learner_free(q);
  fvg_fvgpt_free(f);
  fvg_fvgpt_free(g);
}

/* Every setting that matters after training comes back from the file. */
static void test_kept_settings(world *w) {
  static const fvg_area_rule rule[] = {FVG_AREA_ZERO_R, FVG_AREA_CLAMP, FVG_AREA_IGNORE};
  int i;
  for (i = 0; i < 3; i++) {
    fvg_fvgpt_desc d = fvgpt_desc();
    fvg_fvgpt *f = NULL, *g = NULL;
    fvg_learner *p = learner_of(w, "CoOp", BASE), *q = NULL;
    d.area_rule = rule[i];
    d.area_min = 0.125f;
    d.area_max = 0.75f;
    d.tau = 1.5f;
    d.logit_scale = 33;
    d.gate_layers = 1 + i;
    d.gate_hidden = 9;
    d.fdc_hidden = 11;
    d.normalise_entropy = i == 1;
    d.distill = i == 2 ? FVG_DISTILL_STABLE : FVG_DISTILL_PUBLISHED;
    d.frg_without = i == 1 ? FVG_U_AREA : 0;
    d.brg_without = i == 2 ? FVG_V_ALL : 0;
    need(!fvg_fvgpt_new(w->c, &f, &d), "modules");
    check(!fvg_checkpoint_save(p, f, BAD, NULL, 0) &&
          !fvg_checkpoint_load(w->m, &q, &g, NULL, BAD) && g,
          "settings are saved and loaded");
    check(g && g->desc.area_rule == rule[i] && g->desc.area_min == 0.125f &&
          g->desc.area_max == 0.75f &&
              g->desc.tau == 1.5f && g->desc.logit_scale == 33 && g->desc.gate_layers == 1 + i &&
              g->desc.gate_hidden == 9 && g->desc.fdc_hidden == 11 &&
              g->desc.normalise_entropy == (i == 1) && g->desc.distill == d.distill &&
              g->desc.frg_without == d.frg_without && g->desc.brg_without == d.brg_without,
          "and are the same");
    fvg_source source;
    fvg_weights *saved;
    if (fvg_source_file(w->c, &source, BAD) || fvg_weights_open(w->c, &saved, &source)) { check(0, "saved"); continue; }
    const char *distill = fvg_weights_metadata(saved, "distill");
    check(i == 2 ? distill && !strcmp(distill, "stable") : !distill, "published distillation is not mentioned");
    fvg_weights_close(saved);
    fvg_learner_free(p);
    fvg_learner_free(q);
    fvg_fvgpt_free(f);
    fvg_fvgpt_free(g);
  }
}

/* Each module left out, alone: the file remembers, and the loaded model scores with the same bits. */
static void test_switches(world *w, const float *x) {
  int i;
  for (i = 0; i < 3; i++) {
    fvg_fvgpt_desc d = fvgpt_desc();
    fvg_fvgpt *f, *g = NULL;
    fvg_learner *p, *q = NULL;
    scores before, after;
    float b[N];
    *(i == 0 ? &d.no_frg : i == 1 ? &d.no_fdc : &d.no_pc) = 1;
    if (tune(w, &w->train, 1, &d, &p, &f)) { check(0, fvg_error(w->c)); continue; }
    check(!fvg_checkpoint_save(p, f, BAD, NULL, 0) && !fvg_checkpoint_load(w->m, &q, &g, NULL, BAD) && q && g &&
              g->desc.no_frg == (i == 0) && g->desc.no_fdc == (i == 1) && g->desc.no_pc == (i == 2),
          "a module left out stays out when loaded");
    memset(&before, 0, sizeof before);
    memset(&after, 0, sizeof after);
    check(score(w->m, FVG_TUNED, p, NULL, 0, BASE, x, before.tuned, NULL) &&
              score(w->m, FVG_BRANCH_BASE, p, f, 0, BASE, x, before.base, NULL) &&
              score(w->m, FVG_BRANCH_NEW, p, f, 0, BASE, x, before.zero_shot, before.b) &&
              score(w->m, FVG_BRANCH_BASE, q, g, 0, BASE, x, after.base, NULL) &&
              score(w->m, FVG_BRANCH_NEW, q, g, 0, BASE, x, after.zero_shot, b),
          "both branches before and after");
    check(same(before.base, after.base, sizeof before.base) &&
              same(before.zero_shot, after.zero_shot, sizeof before.zero_shot) && same(before.b, b, sizeof b),
          "and gives the same logits");
    if (i == 2)
      check(same(after.base, after.zero_shot, sizeof after.base) && b[0] == 0 && b[N - 1] == 0,
            "without PC both branches are one");
    fvg_learner_free(p);
    fvg_learner_free(q);
    fvg_fvgpt_free(f);
    fvg_fvgpt_free(g);
  }
}

/* ---- memory that runs out ---- */
static long until_failure, n_live;
static void *failing_alloc(void *user, size_t n) {
  void *p;
  (void)user;
  if (until_failure-- == 0) return NULL;
  p = malloc(n);
  n_live += p != NULL;
  return p;
}
static void failing_release(void *user, void *p, size_t n) { (void)user; (void)n; n_live--; free(p); }

static fvg_status everything(void) {
  float z[2 * BASE], x[2 * D];
  fvg_fvgpt_desc fd = fvgpt_desc();
  fvg_classifier *k = NULL;
  fvg_weights *settings = NULL;
  fvg_fvgpt *f = NULL;
  fvg_learner *p = NULL, *copy = NULL;
  fvg_views_desc vd;
  fvg_views *v = NULL;
  fvg_train_desc t = train_desc(1);
  fvg_items two;
  fvg_desc d;
  fvg_status s;
  world w;
  memset(&vd, 0, sizeof vd);
  memset(&d, 0, sizeof d);
  d.allocator.alloc = failing_alloc;
  d.allocator.release = failing_release;
  two.item = item;
  two.n = 2;
  s = world_open(&w, &d);
  if (!s) s = tune(&w, &two, 1, &fd, &p, &f);
  if (!s) s = fvg_checkpoint_save(p, f, ROOT "/memory.safetensors", NULL, 0);
  fvg_learner_free(p);
  fvg_fvgpt_free(f);
  p = NULL;
  f = NULL;
  if (!s) s = fvg_checkpoint_load(w.m, &p, &f, &settings, ROOT "/memory.safetensors");
  if (!s) s = fvg_encode_task(w.m, NULL, x, task_of(&w.set, &two));
  if (!s) s = new_classifier(w.m, &k, FVG_BRANCH_NEW, p, f, NULL, names, BASE);
  if (!s) s = fvg_classifier_logits(k, z, NULL, x, 2);
  if (!s) s = fvg_learner_copy(&copy, p);
  if (!s) s = fvg_views_new(w.m, &v, &w.set, &vd);
  if (!s) s = fvg_dpc_train(copy, p, v, task_of(NULL, &two), NULL, &t);
  fvg_views_free(v);
  fvg_learner_free(copy);
  fvg_classifier_free(k);
  fvg_learner_free(p);
  fvg_fvgpt_free(f);
  fvg_weights_close(settings);
  fvg_clip_free(w.m);
  fvg_free(w.c);
  return s;
}

static void test_allocation_failures(void) {
  fvg_status s;
  int ok = 1;
  long k;
  for (k = 0;; k++) {
    until_failure = k;
    s = everything();
    if (n_live) printf("  allocation %ld fails: %ld blocks stay\n", k, n_live);
    ok = ok && n_live == 0;
    n_live = 0;
    if (until_failure >= 0) break;
    if (s != FVG_E_NOMEM) printf("  allocation %ld fails: %s\n", k, fvg_status_name(s));
    ok = ok && s == FVG_E_NOMEM;
  }
  printf("%ld allocations made to fail\n", k);
  check(ok && s == FVG_OK && k > 100, "each allocation failing in turn: an error, and no memory stays");
}

/* ---- runs that are cut off ---- */
#define STATE ROOT "/state"

static int count_down(void *user, const fvg_progress *p) {
  int *left = (int *)user;
  return p->n_epochs > 0 && --*left == 0;        /* encoding has no epochs                                          */
}

/* Four epochs of a method and of FVG-PT on it, each with a state file; every stop takes `steps` more steps. */
static fvg_status run_with_state(world *w, const char *method, int *left, int steps, fvg_learner **l, fvg_fvgpt **f,
                                 double *loss, const char *mark) {
  static const fvg_option every_epoch[] = {{"gpa_mean", 2}, {"gpa_std", 2}};
  fvg_learner_desc d;
  fvg_fvgpt_desc fd;
  fvg_views_desc vd;
  fvg_views *v = NULL, *own = NULL;
  fvg_train_desc t = train_desc(4);
  fvg_status s;
  memset(&d, 0, sizeof d);
  memset(&fd, 0, sizeof fd);
  memset(&vd, 0, sizeof vd);
  d.method = fvg_method_find(method);
  d.n_ctx = !strcmp(method, "DePT_CoOp") ? 4 : 0;
  if (strstr(method, "PromptSRC")) {             /* an average to which every epoch adds */
    d.option = every_epoch;
    d.n_option = 2;
  }
  fd.width = D;
  vd.augment = FVG_AUGMENT_FIXED_CROPS;
  vd.n_crops = 2;
  memset(&t.optimizer, 0, sizeof t.optimizer);  /* the method's own kind and rate                                 */
  t.optimizer.epochs = 4;
  t.state = mark ? STATE : NULL;
  t.state_mark = mark;
  t.epoch_loss = loss;
  *left = steps;
  *f = NULL;
  s = fvg_learner_new(w->m, l, names, BASE, &d);
  if (!s) s = fvg_views_new(w->m, &v, &w->set, &vd);
  if (!s) s = fvg_learner_train(*l, v, task_of(NULL, &w->train), &t);
  vd.learner = *l;
  t.state = mark ? STATE "-2" : NULL;
  t.epoch_loss = loss + 4;
  if (!s) s = fvg_fvgpt_new(w->c, f, &fd);
  if (!s) s = fvg_views_new(w->m, &own, &w->set, &vd);
  if (!s) s = fvg_fvgpt_train(*f, *l, own, task_of(NULL, &w->train), &t);
  fvg_views_free(v);
  fvg_views_free(own);
  return s;
}

static int same_parameters(fvg_parameter *const *a, fvg_parameter *const *b, int n) {
  int i, ok = 1;
  for (i = 0; i < n; i++) ok = ok && same(a[i]->value.data, b[i]->value.data, fvg_tensor_count(&a[i]->value) * 4);
  return ok;
}

static int exists(const char *name) {
  FILE *file = fopen(name, "rb");
  if (file) fclose(file);
  return file != NULL;
}

static void test_resume(void) {
  static const char *const method[] = {"CoOp", "MaPLe", "MMRL", "PromptSRC", "MMRLpp", "DePT_CoOp", "DePT_PromptSRC"};
  world w;
  fvg_desc d;
  fvg_learner *whole, *cut;
  fvg_fvgpt *f_whole, *f_cut;
  double loss[8], again[8];
  int i, left, steps, n;
  memset(&d, 0, sizeof d);
  d.progress = count_down;
  d.user = &left;
  remove(STATE);
  for (i = 0; i < 7; i++) {
    if (world_open_on(&w, &d, strstr(method[i], "PromptSRC") ? &long_text : &standard)) {
      check(0, "a world to stop in");
      return;
    }
    need(!run_with_state(&w, method[i], &left, 100000, &whole, &f_whole, loss, NULL), fvg_error(w.c));
    steps = N / 4 * 3 / 2;                       /* one and a half epochs                                           */
    if (i == 3) steps = 2;          /* its epochs have one step each: one is whole, one cut off */
    check(run_with_state(&w, method[i], &left, steps, &cut, &f_cut, again, "a") == FVG_E_CANCELLED, "cancelled");
    check(exists(STATE), "its state stays");
    fvg_learner_free(cut);
    check(run_with_state(&w, method[i], &left, 100000, &cut, &f_cut, again, "b") == FVG_E_ARG &&
              one_line(w.c, STATE, "other settings"), "another mark is refused");
    fvg_learner_free(cut);
    check(!run_with_state(&w, method[i], &left, 100000, &cut, &f_cut, again, "a"), "it goes on");
    n = whole->n_param;
    check(same_parameters(whole->param, cut->param, n), "to the same parameters, bit for bit");
    check(same_parameters(f_whole->params, f_cut->params, f_whole->n_params), "and so does what follows");
    check(same(loss, again, sizeof loss), "and the same losses");
    check(exists(STATE) && exists(STATE "-2"), "and its states stay until what was trained is saved");
    fvg_learner_free(cut);
    fvg_fvgpt_free(f_cut);
    check(!run_with_state(&w, method[i], &left, 1, &cut, &f_cut, again, "a") &&
              same_parameters(whole->param, cut->param, n) &&
              same_parameters(f_whole->params, f_cut->params, f_whole->n_params) && same(loss, again, sizeof loss),
          "from them the finished run comes back without a step");
    remove(STATE);
    remove(STATE "-2");
    fvg_learner_free(cut);
    fvg_fvgpt_free(f_cut);
    fvg_learner_free(whole);
    fvg_fvgpt_free(f_whole);
    world_close(&w);
  }
}

/* A state that was spoiled costs the epochs in it, and a warning, never the run. */
static char warned[600];
static void keep_warning(void *user, int level, const char *message) {
  (void)user;
  if (level == 0) snprintf(warned, sizeof warned, "%s", message);
}

static fvg_status one_stage(world *w, fvg_views *v, int *left, int steps, fvg_learner **l, const char *mark) {
  fvg_train_desc t = train_desc(4);
  fvg_learner_desc d;
  fvg_status s;
  memset(&d, 0, sizeof d);
  d.method = fvg_method_find("CoOp");
  t.state = STATE;
  t.state_mark = mark;
  *left = steps;
  warned[0] = 0;
  s = fvg_learner_new(w->m, l, names, BASE, &d);
  return s ? s : fvg_learner_train(*l, v, task_of(NULL, &w->train), &t);
}

static int is_file(world *w, const char *name, const uint8_t *bytes, size_t n) {
  fvg_source s;
  uint8_t *own = NULL;
  size_t n_own = 0;
  need(!fvg_source_file(w->c, &s, name) && !fvg_source_read_all(w->c, &own, &n_own, &s), "a file to compare");
  fvg_source_close(&s);
  int is_same = n == n_own && same(own, bytes, n);
  fvg_bytes_free(w->c, own);
  return is_same;
}

/* Says yes once, when it is asked for the k-th time. */
static int polls_left;
static int cancel_once(void *user) {
  (void)user;
  return --polls_left == 0;
}

/* Stops a run at its first poll, its second, ...; 1 if it ended and did not begin anew. */
static int stop_at_each_poll(world *w, fvg_views *v, int *left) {
  int ok = 1;
  for (int k = 1; k <= 12; k++) {
    fvg_learner *l = NULL;
    w->c->desc.cancelled = cancel_once;
    polls_left = k;
    fvg_status s = one_stage(w, v, left, 2, &l, "a");
    w->c->desc.cancelled = NULL;
    ok = ok && s == FVG_E_CANCELLED && !warned[0];
    fvg_learner_free(l);
  }
  return ok;
}

static void test_spoiled_states(void) {
  static const char *const what[] = {
    "empty", "cut at half", "one bit of a number flipped", "one bit of the header flipped", "another program's text",
    "a checkpoint that an older version was writing"};
  enum { N_WAYS = sizeof what / sizeof *what };
  world w;
  fvg_desc d;
  fvg_views *v;
  fvg_learner *whole, *l = NULL;
  fvg_source s;
  uint8_t *bytes = NULL;
  size_t n = 0;
  int left, i;
  memset(&d, 0, sizeof d);
  d.progress = count_down;
  d.log = keep_warning;
  d.user = &left;
  if (world_open(&w, &d)) { check(0, "a world to spoil"); return; }
  v = new_views(&w, FVG_AUGMENT_FIXED_CROPS, 2, 1, 0);
  remove(STATE);
  check(!one_stage(&w, v, &left, 100000, &whole, "a") && !warned[0], fvg_error(w.c));
  remove(STATE);
  check(one_stage(&w, v, &left, N / 4 * 5 / 2, &l, "a") == FVG_E_CANCELLED && exists(STATE), "one that was stopped");
  fvg_learner_free(l);
  need(!fvg_source_file(w.c, &s, STATE) && !fvg_source_read_all(w.c, &bytes, &n, &s), "its state");
  fvg_source_close(&s);
  for (i = 0; i < N_WAYS; i++) {
    fvg_metadata old = {"trainer", "PromptSRC"};
    size_t place = i == 2 ? n - 2 : 40;
    if (i == 2 || i == 3) bytes[place] ^= 4;
    if (i < 4) need(!fvg_file_save(w.c, STATE, bytes, i == 0 ? 0 : i == 1 ? n / 2 : n), "a spoiled state");
    if (i == 2 || i == 3) bytes[place] ^= 4;
    if (i == 4) need(!fvg_file_save(w.c, STATE, "hello", 5), "a text");
    if (i == 5) need(!fvg_safetensors_save(w.c, STATE, NULL, 0, &old, 1), "a checkpoint");
    check(!one_stage(&w, v, &left, 100000, &l, "a") && strstr(warned, STATE) && strstr(warned, "begins anew"),
          what[i]);
    check(same_parameters(whole->param, l->param, l->n_param), "it ends as it should");
    fvg_learner_free(l);
  }
  need(!fvg_file_save(w.c, STATE, bytes, n), "the whole state");
  unreadable = 1;
  check(one_stage(&w, v, &left, 100000, &l, "a") == FVG_E_IO && !warned[0], "a state that cannot be read now ends the run");
  unreadable = 0;
  check(is_file(&w, STATE, bytes, n), "and stays");
  fvg_learner_free(l);
  check(stop_at_each_poll(&w, v, &left) && is_file(&w, STATE, bytes, n), "so does one whose reading was stopped");
  check(one_stage(&w, v, &left, 100000, &l, "b") == FVG_E_ARG && one_line(w.c, STATE, "other settings"),
        "a whole state of other settings is left alone");
  fvg_learner_free(l);
  check(!one_stage(&w, v, &left, N / 4 * 2 + 1, &l, "a") && !warned[0] &&
        same_parameters(whole->param, l->param, l->n_param), "and gone on with by its own run");
  fvg_learner_free(l);
  fvg_learner_free(whole);
  fvg_bytes_free(w.c, bytes);
  fvg_views_free(v);
  remove(STATE);
  world_close(&w);
}

/* Options come back as the doubles that they were; those of few digits are written in few. */
static void test_exact_options(world *w) {
  static const struct { double value; const char *text; } given[] = {
    {1.0 / 3, "0.33333333333333331"}, {(double)0.1f, "0.10000000149011612"}, {3.9634806967355276, NULL}, {8, "8"},
    {0.1, "0.1"}, {2.5e-5, "2.5e-05"}, {7.0e-9 / 3, NULL}};
  for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
    fvg_learner_desc d;
    fvg_option option;
    fvg_learner *l = NULL, *back = NULL;
    fvg_fvgpt *f = NULL;
    fvg_weights *settings = NULL;
    double low, high;
    memset(&d, 0, sizeof d);
    d.method = fvg_method_find("KgCoOp");
    d.option = &option;
    d.n_option = 1;
    need(fvg_method_option(d.method, &option, &low, &high, 0), "an option");
    option.value = given[i].value;
    need(!fvg_learner_new(w->m, &l, names, BASE, &d) &&
             !fvg_checkpoint_save(l, NULL, ROOT "/exact.safetensors", NULL, 0) &&
             !fvg_checkpoint_load(w->m, &back, &f, &settings, ROOT "/exact.safetensors"), fvg_error(w->c));
    check(back && !fvg_learner_difference(back, l) && back->option[0] == given[i].value, "an option comes back exactly");
    const char *text = fvg_weights_metadata(settings, option.name);
    check(text && (!given[i].text || !strcmp(text, given[i].text)), "in as many digits as that takes");
    fvg_weights_close(settings);
    fvg_learner_free(back);
    fvg_learner_free(l);
  }
}

/* A learner that began without words is made again without words, and its copy too. */
static void test_made_from(world *w) {
  fvg_learner_desc d, again;
  fvg_option option[FVG_RECIPE_OPTIONS];
  fvg_learner *l = NULL, *back = NULL;
  memset(&d, 0, sizeof d);
  d.method = fvg_method_find("KgCoOp");
  d.ctx_init = "";
  d.n_ctx = 3;
  need(!fvg_learner_new(w->m, &l, names, BASE, &d), "a learner without words");
  fvg_learner_made_from(l, &again, option);
  check(!fvg_learner_new(w->m, &back, names, BASE, &again) && !fvg_learner_difference(back, l) && back->desc.n_ctx == 3,
        "made again without words");
  fvg_learner_free(back);
  check(!fvg_learner_copy(&back, l) && !fvg_learner_difference(back, l), "and copied");
  fvg_learner_free(back);
  fvg_learner_free(l);
}

/* PromptSRC does not read the template, whether or not it has been trained; KgCoOp does. */
static void test_template_differs(world *w) {
  static const char *const method[] = {"PromptSRC", "DePT_PromptSRC", "KgCoOp"};
  static const char *const brief[] = {"a", "b", "c", "d", "e", "f", "g", "h"};      /* the sentences are long */
  fvg_views *v = new_views(w, FVG_AUGMENT_FIXED_CROPS, 2, 1, 0);
  fvg_train_desc t = train_desc(1);
  for (size_t i = 0; i < sizeof method / sizeof *method; i++) {
    fvg_learner_desc d;
    fvg_learner *l[2] = {NULL, NULL};
    memset(&d, 0, sizeof d);
    d.method = fvg_method_find(method[i]);
    for (int k = 0; k < 2; k++) {
      d.prompt_template = k ? "art of {}." : "a photo of a {}.";
      need(!fvg_learner_new(w->m, &l[k], brief, BASE, &d), "two templates");
    }
    for (int k = 0; k < 2; k++) {
      const char *why = fvg_learner_difference(l[0], l[1]);
      check(i < 2 ? !why : why && !strcmp(why, "with another template"), k ? "trained" : "not trained");
      if (!k) need(!fvg_learner_train(l[1], v, task_of(NULL, &w->train), &t), fvg_error(w->c));
    }
    fvg_learner_free(l[0]);
    fvg_learner_free(l[1]);
  }
  fvg_views_free(v);
}

/* Rates that no training survives: the message says where, and what to try, and nothing is saved. */
static void test_divergence(void) {
  static const char *const method[] = {"CoOp", "MaPLe", "MMRL"};
  enum { N_METHODS = sizeof method / sizeof *method };
  world w;
  fvg_views *v;
  fvg_learner *l, *tuned;
  fvg_fvgpt_desc fd = fvgpt_desc();
  fvg_fvgpt *f = NULL;
  fvg_train_desc t = train_desc(3);
  int i;
  if (world_open(&w, NULL)) { check(0, "a world to diverge in"); return; }
  v = new_views(&w, FVG_AUGMENT_FIXED_CROPS, 2, 1, 0);
  t.state = STATE;
  t.optimizer.warmup_epochs = -1;
  for (i = 0; i < N_METHODS; i++) {
    fvg_status s;
    t.optimizer.lr = 1e38f;
    remove(STATE);
    l = learner_of(&w, method[i], BASE);
    s = fvg_learner_train(l, v, task_of(NULL, &w.train), &t);
    check(s == FVG_E_NUMERIC && one_line(w.c, method[i], ", epoch 1 of 3, step ") && one_line(w.c, "lower rate", ""),
          "a rate far too high");
    check(!exists(STATE), "and no state is left that could not be read");
    fvg_learner_free(l);
  }

  l = learner_of(&w, "CoOp", BASE);                    /* one step, whose loss is finite: what it leaves is not     */
  t.optimizer.lr = HUGE_VALF;
  t.optimizer.epochs = 1;
  t.batch = N;
  check(fvg_learner_train(l, v, task_of(NULL, &w.train), &t) == FVG_E_NUMERIC && one_line(w.c, "CoOp", "ctx has become") &&
            one_line(w.c, "epoch 1 of 1, step 1 of 1", ""), "the last step");
  check(!exists(STATE), "is not kept");
  check(fvg_checkpoint_save(l, NULL, ROOT "/none.safetensors", NULL, 0) == FVG_E_NUMERIC &&
            one_line(w.c, ROOT "/none.safetensors", "ctx has become") && !exists(ROOT "/none.safetensors"),
        "nor saved");
  fvg_learner_free(l);

  tuned = learner_of(&w, "CoOp", BASE);
  t = train_desc(2);
  t.optimizer.lr = 1e38f;
  t.optimizer.warmup_epochs = -1;
  need(!fvg_fvgpt_new(w.c, &f, &fd), "modules");
  check(fvg_fvgpt_train(f, tuned, v, task_of(NULL, &w.train), &t) == FVG_E_NUMERIC &&
            one_line(w.c, "FVGPT_CoOp, epoch 1 of 2, step", "lower rate"), "FVG-PT's stage");
  fvg_fvgpt_free(f);
  need(!fvg_learner_copy(&l, tuned), "a copy");
  check(fvg_dpc_train(l, tuned, v, task_of(NULL, &w.train), NULL, &t) == FVG_E_NUMERIC &&
            one_line(w.c, "DPC_CoOp, epoch 1 of 2, step", "lower rate"), "DPC's");
  fvg_learner_free(l);
  fvg_learner_free(tuned);
  fvg_views_free(v);
  world_close(&w);
}

static fvg_learner *learner_of(world *w, const char *method, int n_class) {
  fvg_learner_desc d;
  fvg_learner *l = NULL;
  memset(&d, 0, sizeof d);
  d.method = fvg_method_find(method);
  d.n_ctx = !strcmp(method, "DePT_CoOp") ? 4 : 0;      /* its 16 are too many for this model                     */
  d.seed = 3;
  need(!fvg_learner_new(w->m, &l, names, n_class, &d), fvg_error(w->c));
  return l;
}

/* How surely CLIP beats a learner, counted from both classifiers' answers. */
static double evidence_by_hand(world *w, const pictures_of *source, int n_source) {
  int n[2] = {0, 0}, h, i;
  for (h = 0; h < n_source; h++) {
    static float f[3 * N * D];
    float logits[2][N * BASE];
    fvg_classifier *k;
    int side;
    for (side = 0; side < 2; side++) {           /* each by the features of its own image tower */
      fvg_learner *l = side ? source[h].learner : NULL;
      need(!fvg_encode_task(w->m, l, f, task_of(&w->set, source[h].items)), "features");
      need(!new_classifier(w->m, &k, side ? FVG_TUNED_NEW : FVG_ZERO_SHOT, l, NULL, NULL,
                           source[h].class_name, source[h].n_class), "a classifier");
      need(!fvg_classifier_logits(k, logits[side], NULL, f, source[h].items->n), "scores");
      fvg_classifier_free(k);
    }
    for (i = 0; i < source[h].items->n; i++) {
      int right[2], c;
      for (side = 0; side < 2; side++) {
        const float *z = logits[side] + i * source[h].n_class;
        int best = 0;
        for (c = 1; c < source[h].n_class; c++) if (z[c] > z[best]) best = c;
        right[side] = best == source[h].items->item[i].label;
      }
      n[0] += right[0] && !right[1];
      n[1] += right[1] && !right[0];
    }
  }
  printf("CLIP alone is right on %d pictures, the learners alone on %d\n", n[0], n[1]);
  return n[0] + n[1] ? (n[0] - n[1]) / sqrt((double)(n[0] + n[1])) : 0;
}

/* The gate from halves of the base classes, and from these and all of them: nothing but the gate changes.  From all
   of them alone it is the gate of stage 2. */
static void test_calibration(world *w, fvg_learner *p, fvg_fvgpt *f) {
  static float logits[N * CLASSES], rows[CLASSES * SHOTS * D];
  fvg_learner *l[2];
  fvg_views *views = new_views(w, FVG_AUGMENT_NONE, 0, 0, 0);
  pictures_of source[3];
  fvg_fvgpt *g;
  fvg_fvgpt_desc d = f->desc;
  fvg_items half[2];
  fvg_item items[2][N];
  const char *half_name[2][BASE];
  fvg_classifier *k;
  fvg_score score;
  fvg_train_desc t = train_desc(2);
  float b[2][N];
  int n[2] = {0, 0}, i, h, n_source, ok, first = f->n_params - 2 * f->brg.n_layer;
  half[0].n = half[1].n = 0;
  for (i = 0; i < BASE; i++) half_name[i % 2][n[i % 2]++] = names[i];
  for (i = 0; i < N; i++) {
    h = item[i].label % 2;
    items[h][half[h].n] = item[i];
    items[h][half[h].n++].label = item[i].label / 2;
  }
  for (h = 0; h < 2; h++) {
    half[h].item = items[h];
    need(!fvg_learner_new(w->m, &l[h], half_name[h], n[h], NULL), "a learner of a half");
    source[h].learner = l[h];                    /* it sees the other half's pictures                               */
    source[h].views = views;
    source[h].items = &half[1 - h];
    source[h].class_name = half_name[1 - h];
    source[h].n_class = n[1 - h];
  }
  source[2].learner = p;
  source[2].views = views;
  source[2].items = &w->train;
  source[2].class_name = names;
  source[2].n_class = BASE;
  need(!fvg_encode_task(w->m, NULL, rows, task_of(&w->set, &w->train)), "features");
  for (n_source = 2; n_source <= 3; n_source++) {
    need(!fvg_fvgpt_new(w->c, &g, &d), "modules");
    for (i = 0; i < f->n_params; i++)
      memcpy(g->params[i]->value.data, f->params[i]->value.data, fvg_tensor_count(&f->params[i]->value) * 4);
    check(!calibrate(g, source, n_source, &t), fvg_error(w->c));
    check(same_parameters(g->params, f->params, first), "calibration touches the gate alone");
    check(!same_parameters(g->params + first, f->params + first, f->n_params - first), "and does");
    need(!new_classifier(w->m, &k, FVG_BRANCH_NEW, p, g, NULL, names, BASE), "a classifier");
    check(!fvg_classifier_logits(k, logits, b[n_source - 2], rows, N), "its weights of plain CLIP");
    check(!fvg_classifier_test(k, &score, task_of(&w->set, &w->train)) && score.n == N, "fvg_classifier_test");
    for (ok = 0, i = 0; i < N; i++) {
      int best = 0, c;
      for (c = 1; c < BASE; c++) if (logits[i * BASE + c] > logits[i * BASE + best]) best = c;
      ok += best == item[i].label;
    }
    check(score.n_correct == ok, "counts as by hand");
    fvg_classifier_free(k);
    fvg_fvgpt_free(g);
  }
  check(!same(b[0], b[1], sizeof b[0]), "a third source makes another gate");
  for (n_source = 0; n_source <= 3; n_source++) {
    double evidence = 9;
    check(!evidence_of(&evidence, source, n_source, NULL) &&
              fabs(evidence - evidence_by_hand(w, source, n_source)) < 1e-12, "evidence as by hand");
  }
  {
    fvg_fvgpt *stage_2;
    fvg_fvgpt_desc next = d;
    next.seed++;                                 /* calibration begins with another gate than the one it replaces   */
    need(!fvg_fvgpt_new(w->c, &g, &d) && !fvg_fvgpt_new(w->c, &stage_2, &next), "modules");
    check(!calibrate(g, source + 2, 1, &t) &&
              !fvg_fvgpt_train(stage_2, p, views, task_of(NULL, &w->train), &t), fvg_error(w->c));
    check(same_parameters(g->params + first, stage_2->params + first, f->n_params - first),
          "from the published source it is the published gate");
    check(calibrate(g, source, 0, &t) == FVG_E_ARG && one_line(w->c, "0 sources", ""), "no source");
    source[1].n_class = 1;
    check(calibrate(g, source, 2, &t) == FVG_E_ARG && one_line(w->c, "label 1", ""),
          "labels beyond the classes");
    source[1].n_class = n[0];
    source[1].learner = learner_of(w, "KgCoOp", BASE);
    check(calibrate(g, source, 2, &t) == FVG_E_ARG && one_line(w->c, "one method", ""),
          "learners of two methods");
    fvg_learner_free(source[1].learner);
    fvg_fvgpt_free(g);
    fvg_fvgpt_free(stage_2);
  }
  fvg_views_free(views);
  for (h = 0; h < 2; h++) fvg_learner_free(l[h]);
}

/* ---- DPC ---- */
static void nudge(fvg_learner *l, uint64_t seed) {
  fvg_rng rng;
  int i;
  fvg_rng_seed(&rng, seed, 0);
  for (i = 0; i < l->n_param; i++) {
    float *x = (float *)l->param[i]->value.data;
    size_t k;
    for (k = 0; k < fvg_tensor_count(&l->param[i]->value); k++) x[k] += (float)(0.05 * fvg_rng_normal(&rng));
  }
}

/* ---- FVG-PT on features of three parts: f, plain CLIP's, and what scores base classes ---- */
static double largest_gap(const float *a, const float *b, int n) {
  double worst = 0;
  int i;
  for (i = 0; i < n; i++) worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
  return worst;
}

static fvg_learner *far_mmrl(world *w) {         /* an MMRL that sees otherwise than plain CLIP */
  fvg_learner *l = learner_of(w, "MMRL", BASE);
  nudge(l, 8);
  nudge(l, 9);
  return l;
}

static fvg_views *whole_views(world *w, fvg_learner *l) {
  fvg_views_desc d;
  fvg_views *v = NULL;
  memset(&d, 0, sizeof d);
  d.augment = FVG_AUGMENT_NONE;
  d.learner = l;
  need(!fvg_views_new(w->m, &v, &w->set, &d), fvg_error(w->c));
  return v;
}

/* One step of stage 2 is fvg_fvgpt_step with each part of the features in its place. */
static void test_parts_in_training(world *w) {
  enum { PARTS = 3 };
  static float row[2][PARTS * N * D], part[2][PARTS][N * D], plain[N * D];
  fvg_learner *l = far_mmrl(w);
  fvg_views *v = whole_views(w, l);
  fvg_train_desc t = train_desc(1);
  fvg_fvgpt_desc fd = fvgpt_desc();
  fvg_fvgpt *f = NULL, *by_hand = NULL, *other = NULL;
  fvg_optimizer *o = NULL, *o_other = NULL;
  fvg_fvgpt_batch x;
  fvg_fvgpt_report report;
  float g[BASE * D], g_clip[BASE * D], area[N];
  int index[N], label[N], i, k, side;
  double loss = 0, worst = 0, moved = 0;
  memset(&x, 0, sizeof x);
  memset(&report, 0, sizeof report);
  fd.fdc_init_scale = 0.2f;
  t.batch = N;
  t.optimizer.warmup_epochs = -1;
  t.epoch_loss = &loss;
  for (i = 0; i < N; i++) { index[i] = i; label[i] = item[i].label; }
  need(!fvg_fvgpt_new(w->c, &f, &fd) && !fvg_fvgpt_new(w->c, &by_hand, &fd) &&
       !fvg_fvgpt_new(w->c, &other, &fd) &&
           !fvg_optimizer_new(w->c, &o, by_hand->params, by_hand->n_params, &t.optimizer) &&
           !fvg_optimizer_new(w->c, &o_other, other->params, other->n_params, &t.optimizer),
       "three models");
  check(fvg_learner_feature_width(w->m, l) == PARTS * D &&
            !fvg_views_get(v, row[0], row[1], area, &w->train, index, N, 0),
        "MMRL's features have three parts");
  for (side = 0; side < 2; side++)
    for (k = 0; k < PARTS; k++)
      for (i = 0; i < N; i++)
        memcpy(part[side][k] + i * D, row[side] + (i * PARTS + k) * D, D * sizeof **row);
  need(!fvg_encode_task(w->m, NULL, plain, task_of(&w->set, &w->train)), "plain features");
  check(same(plain, part[0][1], sizeof plain) && largest_gap(part[0][0], plain, N * D) > 0.05 &&
            largest_gap(part[0][2], part[0][0], N * D) > 0.05,
        "the second is plain CLIP's, and all differ");
  need(!fvg_learner_text_features(l, g, names, BASE) &&
       !fvg_clip_encode_classes(w->m, g_clip, NULL, names, BASE),
       "text features");
  x.n = N;
  x.n_class = BASE;
  x.f = part[0][0];
  x.f_fg = part[1][0];
  x.f_clip = part[0][1];
  x.f_score = part[0][2];
  x.f_score_fg = part[1][2];
  x.g = g;
  x.g_clip = g_clip;
  x.area = area;
  x.label = label;
  check(!fvg_fvgpt_train(f, l, v, task_of(NULL, &w->train), &t), fvg_error(w->c));
  check(!fvg_fvgpt_step(by_hand, &report, o, (double)t.optimizer.lr, &x), fvg_error(w->c));
  check(fabs(loss - (double)report.loss) < 1e-5 * (1 + loss),
        "the step's loss is that of the parts by hand");
  for (i = 0; i < f->n_params; i++)
    worst = fmax(worst, largest_gap((float *)f->params[i]->value.data,
                                    (float *)by_hand->params[i]->value.data,
                                    (int)fvg_tensor_count(&f->params[i]->value)));
  check(worst < 2e-6, "and leads to the same parameters");
  for (k = 0; k < 5; k++) {                      /* a part in a wrong place is seen */
    fvg_fvgpt_batch wrong = x;
    fvg_tape *tape = fvg_tape_new(w->c);
    if (k == 0) wrong.f_score_fg = x.f_score;
    if (k == 1) wrong.f_fg = x.f;                /* which the mix of the foreground stands for */
    if (k == 2) wrong.f_clip = x.f;
    if (k == 3) wrong.f_score = x.f;
    if (k == 4) wrong.f = x.f_score;
    need(fvg_fvgpt_loss(other, tape, &report, &wrong) != NULL, "a loss");
    moved = fabs((double)report.loss - loss);
    check(k == 1 ? moved < 1e-5 * (1 + loss) : moved > 1e-4 * (1 + loss),
          "each part matters but f_fg");
    fvg_tape_free(tape);
  }
  fvg_optimizer_free(o);
  fvg_optimizer_free(o_other);
  fvg_fvgpt_free(f);
  fvg_fvgpt_free(by_hand);
  fvg_fvgpt_free(other);
  fvg_views_free(v);
  fvg_learner_free(l);
}

/* Each branch reads its own part of the features: base classes by the mix, new ones by f. */
static void test_parts_in_branches(world *w) {
  enum { PARTS = 3, EACH = N * BASE };
  static float row[PARTS * N * D], part[PARTS][N * D];
  fvg_learner *l = far_mmrl(w);
  float g[BASE * D], g_clip[BASE * D], got[EACH], expected[EACH], b[N], b_got[N];
  int i, k, j, module;
  need(!fvg_encode_task(w->m, l, row, task_of(&w->set, &w->train)), "features");
  for (k = 0; k < PARTS; k++)
    for (i = 0; i < N; i++) memcpy(part[k] + i * D, row + (i * PARTS + k) * D, D * sizeof *row);
  need(!fvg_learner_text_features(l, g, names, BASE) &&
       !fvg_clip_encode_classes(w->m, g_clip, NULL, names, BASE),
       "text features");
  for (module = 0; module < 3; module++) {       /* all of FVG-PT, without FDC, without PC */
    static const char *const what[] = {"zero-shot", "tuned", "tuned, new classes", "base branch",
                                       "new branch"};
    fvg_fvgpt_desc fd = fvgpt_desc();
    fvg_fvgpt *f = NULL;
    int branch;
    fd.fdc_init_scale = 0.2f;
    fd.logit_scale = 17;                         /* not the model's */
    fd.no_fdc = module == 1;
    fd.no_pc = module == 2;
    need(!fvg_fvgpt_new(w->c, &f, &fd), "modules");
    for (branch = FVG_ZERO_SHOT; branch <= FVG_BRANCH_NEW; branch++) {
      const float *x = part[branch == FVG_ZERO_SHOT ? 1 : branch == FVG_TUNED_NEW ? 0 : 2];
      double scale = branch == FVG_BRANCH_BASE ? 17 : (double)w->m->logit_scale;
      memset(b, 0, sizeof b);
      for (i = 0; i < N; i++)
        for (k = 0; k < BASE; k++) {
          double sum = 0;
          for (j = 0; j < D; j++)
            sum += (double)x[i * D + j] * (double)(branch == FVG_ZERO_SHOT ? g_clip : g)[k * D + j];
          expected[i * BASE + k] = (float)(scale * sum);
        }
      if (branch == FVG_BRANCH_BASE && !fd.no_fdc)
        need(!base_logits(f, part[0], N, g, BASE, expected), "z_FDC");
      if (branch == FVG_BRANCH_NEW)
        need(!new_logits(f, part[0], part[1], N, g, g_clip, BASE, expected, b), "z_PC");
      check(score(w->m, (fvg_branch)branch, l, f, 0, BASE, row, got, b_got) &&
                largest_gap(got, expected, EACH) < 2e-5 && same(b, b_got, sizeof b), what[branch]);
    }
    fvg_fvgpt_free(f);
  }
  fvg_learner_free(l);
}

/* Evidence compares plain CLIP, by its own features, with the learner by the tuned ones. */
static void test_parts_in_evidence(world *w) {
  fvg_learner *l = far_mmrl(w);
  fvg_views *v = whole_views(w, l);
  pictures_of source;
  double evidence = 9, by_hand, wrong;
  static float row[3 * N * D];
  float z[2][N * BASE];
  int i, k, n[2] = {0, 0};
  fvg_classifier *plain = NULL, *tuned = NULL;
  source.learner = l;
  source.views = v;
  source.items = &w->train;
  source.class_name = names;
  source.n_class = BASE;
  by_hand = evidence_by_hand(w, &source, 1);
  check(!evidence_of(&evidence, &source, 1, NULL) && fabs(evidence - by_hand) < 1e-12,
        "MMRL's evidence as by hand");
  need(!fvg_encode_task(w->m, l, row, task_of(&w->set, &w->train)) &&
           !new_classifier(w->m, &plain, FVG_ZERO_SHOT, NULL, NULL, NULL, names, BASE) &&
           !new_classifier(w->m, &tuned, FVG_TUNED_NEW, l, NULL, NULL, names, BASE),
       "classifiers");
  for (i = 0; i < N; i++) {                      /* plain CLIP's classes with the tuned f */
    int right[2], side, c;
    need(!fvg_classifier_logits(plain, z[0], NULL, row + i * 3 * D, 1) &&
             !fvg_classifier_logits(tuned, z[1], NULL, row + i * 3 * D, 1), "scores");
    for (side = 0; side < 2; side++) {
      for (k = 0, c = 1; c < BASE; c++) if (z[side][c] > z[side][k]) k = c;
      right[side] = k == item[i].label;
    }
    n[0] += right[0] && !right[1];
    n[1] += right[1] && !right[0];
  }
  wrong = n[0] + n[1] ? (n[0] - n[1]) / sqrt((double)(n[0] + n[1])) : 0;
  check(fabs(wrong - by_hand) > 0.1, "which the tuned feature would change");
  fvg_classifier_free(plain);
  fvg_classifier_free(tuned);
  fvg_views_free(v);
  fvg_learner_free(l);
}

/* At a rate of nothing two sources of the same pictures show them in two orders. */
static void test_source_orders(world *w, diary *notes) {
  fvg_learner *l = learner_of(w, "CoOp", BASE);
  fvg_views *v = new_views(w, FVG_AUGMENT_NONE, 0, 0, 0);
  fvg_fvgpt_desc fd = fvgpt_desc();
  fvg_fvgpt *f = NULL;
  pictures_of source[2];
  fvg_train_desc t = train_desc(1);
  double sum[2] = {0, 0};
  int i, apart = 0;
  t.batch = 3;
  t.optimizer.lr = 1e-20f;
  t.optimizer.warmup_epochs = -1;
  for (i = 0; i < 2; i++) {
    source[i].learner = l;
    source[i].views = v;
    source[i].items = &w->train;
    source[i].class_name = names;
    source[i].n_class = BASE;
  }
  need(!fvg_fvgpt_new(w->c, &f, &fd), "modules");
  memset(notes, 0, sizeof *notes);
  notes->what = "calibrate";
  check(!calibrate(f, source, 2, &t) && notes->n == 2 * N / 3,
        "one epoch of two sources");
  for (i = 0; i < N / 3; i++) {
    sum[0] += notes->losses[i];
    sum[1] += notes->losses[N / 3 + i];
    apart += notes->losses[i] != notes->losses[N / 3 + i];
  }
  check(fabs(sum[0] - sum[1]) < 1e-4 && apart == N / 3, "of the same pictures in another order");
  memset(notes, 0, sizeof *notes);
  fvg_fvgpt_free(f);
  fvg_views_free(v);
  fvg_learner_free(l);
}

/* (CE of the rows + CE of the columns) / 2 of the scores of M pictures and M texts, row i belonging to column i. */
static double contrast(const float *f, const float *g, const int *label, int n, double scale) {
  double sum = 0;
  int i, k, j, side;
  for (side = 0; side < 2; side++)
    for (i = 0; i < n; i++) {
      double all = 0, own = 0;
      for (k = 0; k < n; k++) {
        const float *a = f + (side ? k : i) * D, *b = g + label[side ? i : k] * D;
        double z = 0;
        for (j = 0; j < D; j++) z += scale * (double)a[j] * (double)b[j];
        all += exp(z);
        if (k == i) own = z;
      }
      sum += log(all) - own;
    }
  return sum / (2 * n);
}

/* What a batch of two pictures of one class brings, against the rule applied by hand. */
static void test_dpc_batch(world *w) {
  static float f[CLASSES * SHOTS * D];
  fvg_learner *tuned = learner_of(w, "CoOp", CLASSES), *l = NULL;
  fvg__train_set x;
  fvg__dpc d;
  int index[2] = {2, 4}, top_k, i, k, brought[CLASSES];
  need(!fvg_encode_task(w->m, NULL, f, task_of(&w->set, &w->all)), "features");
  need(!fvg_learner_copy(&l, tuned), "a copy");
  memset(&x, 0, sizeof x);
  memset(&d, 0, sizeof d);
  x.learner = l;
  x.items = &w->all;
  x.n_class = CLASSES;
  d.tuned = tuned;
  d.top_k = CLASSES + 1;                         /* room for the greatest                                           */
  need(!fvg__dpc_new(&d, l, 2), fvg_error(w->c));
  for (top_k = 1; top_k <= CLASSES + 1; top_k++) {
    int wanted[2 * CLASSES + 2], n = 0, drawn[2 * CLASSES + 2], here, ok = 1, left;
    float rows[2 * D];
    for (i = 0; i < 2; i++) {                    /* the pictures themselves, of class 0, come first                 */
      memcpy(rows + i * D, f + index[i] * D, D * sizeof *rows);
      drawn[n] = 0;
      wanted[n++] = 0;
    }
    memset(brought, 0, sizeof brought);
    brought[0] = 1;
    left = CLASSES - 1;
    for (i = 0; i < 2; i++) {
      double score[CLASSES];
      for (k = 0; k < CLASSES; k++) {
        int j;
        for (score[k] = 0, j = 0; j < D; j++) score[k] += (double)rows[i * D + j] * (double)d.g[k * D + j];
      }
      for (here = 0, k = 0; k < top_k && k < CLASSES; k++) {
        int best = 0, j;
        for (j = 1; j < CLASSES; j++) if (score[j] > score[best]) best = j;
        score[best] = -1e9;
        if (brought[best]) continue;
        brought[best] = 1;
        drawn[n] = 0;
        wanted[n++] = best;
        here++;
        left--;
      }
      for (; here < 2 && left > 0; here++, left--) { drawn[n] = 1; wanted[n++] = -1; }
    }
    d.top_k = top_k;
    fvg__dpc_grow(&d, &x, index, 2, rows, D, 7);
    ok = d.n == n && d.index[0] == index[0] && d.index[1] == index[1];
    memset(brought, 0, sizeof brought);
    for (i = 0; i < d.n && i < n && !drawn[i]; i++)        /* behind a draw everything depends on it                */
      ok = ok && d.label[i] == wanted[i];
    for (i = 0; i < d.n; i++) {
      ok = ok && item[d.index[i]].label == d.label[i];
      if (i >= 2) ok = ok && d.label[i] && !brought[d.label[i]]++;
    }
    check(ok, "a batch brings each picture's best classes, or two drawn ones, and none twice");
    k = d.n;
    fvg__dpc_grow(&d, &x, index, 2, rows, D, 7);
    check(k == d.n, "and the same again");
  }
  {                                             /* the drawn pictures are others in every epoch */
    int first[2 * CLASSES + 2], epoch, differs = 0, n;
    d.top_k = CLASSES;
    fvg__dpc_grow(&d, &x, index, 2, f, D, 0);
    n = d.n;
    memcpy(first, d.index, (size_t)n * sizeof *first);
    for (epoch = 1; epoch <= 8; epoch++) {
      fvg__dpc_grow(&d, &x, index, 2, f, D, epoch);
      differs += d.n == n && memcmp(first + 2, d.index + 2, (size_t)(n - 2) * sizeof *first) != 0;
    }
    check(n == 2 + CLASSES - 1 && differs >= 6, "each epoch draws other pictures of the classes");
  }
  x.items = &w->train;                           /* classes 3 and 4 have no pictures                                */
  d.top_k = CLASSES;
  fvg__dpc_grow(&d, &x, index, 2, f, D, 7);
  check(d.n == 2 + BASE - 1, "a class without pictures is not brought");
  fvg__dpc_free(w->c, &d);
  fvg_learner_free(l);
  fvg_learner_free(tuned);
}

/* A step's loss by hand and its gradient by differences, in Q. */
static void test_dpc_step(world *w, const char *method) {
  static float f[N * D], g[CLASSES * D];
  fvg_learner *tuned = learner_of(w, method, BASE), *l = NULL;
  fvg_views *v = new_views(w, FVG_AUGMENT_NONE, 0, 0, 0);
  fvg_optimizer_desc od;
  fvg__train_set source;
  fvg__trainer t;
  fvg__dpc d;
  int index[4] = {1, 7, 8, 14}, i, k, bad = 0;
  float loss = 0, *grown;
  double by_hand;
  need(!fvg_learner_copy(&l, tuned), "a copy");
  check(same_parameters(l->param, tuned->param, l->n_param), "a copy has the same parameters");
  nudge(l, 8);
  memset(&t, 0, sizeof t);
  memset(&d, 0, sizeof d);
  memset(&od, 0, sizeof od);
  t.stage = FVG__DPC;
  t.clip = w->m;
  t.dpc = &d;
  t.batch = 4;
  fvg__set_source(&t, &source, l, v, &w->train);
  d.tuned = tuned;
  d.weight = 0.25f;
  d.top_k = 2;
  need(!fvg__dpc_new(&d, l, 4) && !fvg_optimizer_new(w->c, &t.optimizer, l->param, l->n_param, &od), "a trainer");
  check(!fvg__dpc_step(&t, &source, index, 0, 0, &loss), fvg_error(w->c));
  {
    fvg_learner *sharp = NULL;                   /* P' itself                                                       */
    fvg_items items;
    fvg_item few[N];
    int width = fvg_learner_feature_width(w->m, l);
    need(!fvg_learner_copy(&sharp, l) && !fvg_dpc_reweigh(sharp, tuned, 0.25f, 1), "P'");
    need(!fvg_learner_text_features(sharp, g, names, BASE), "texts");
    grown = (float *)calloc((size_t)d.n * (size_t)width, sizeof *grown);
    items.item = few;
    items.n = d.n;
    for (i = 0; i < d.n; i++) few[i] = item[d.index[i]];
    need(grown && !fvg_encode_task(w->m, sharp, grown, task_of(&w->set, &items)), "pictures");
    for (i = 0; i < d.n; i++) memcpy(f + i * D, grown + i * width, D * sizeof *f);
    free(grown);
    fvg_learner_free(sharp);
  }
  by_hand = contrast(f, g, d.label, d.n, (double)w->m->logit_scale);
  check(fabs((double)loss - by_hand) < 1e-4 * (1 + by_hand), "the loss by hand");
  for (i = 0; i < l->n_param; i++) {
    float *q = (float *)l->param[i]->value.data;
    for (k = 0; k < (int)fvg_tensor_count(&l->param[i]->value); k += 17) {
      float kept = q[k], gradient = l->param[i]->grad[k], low = 0, high = 0;
      q[k] = kept + 2e-3f;
      need(!fvg__dpc_step(&t, &source, index, 0, 0, &high), "a step");
      q[k] = kept - 2e-3f;
      need(!fvg__dpc_step(&t, &source, index, 0, 0, &low), "a step");
      q[k] = kept;
      need(!fvg__dpc_step(&t, &source, index, 0, 0, &loss), "a step");
      if (fabs((double)gradient - (double)(high - low) / 4e-3) > 2e-3 + 0.03 * fabs((double)gradient)) bad++;
    }
  }
  check(!bad, "the gradient of Q by differences");
  fvg_optimizer_free(t.optimizer);
  fvg__dpc_free(w->c, &d);
  fvg_views_free(v);
  fvg_learner_free(l);
  fvg_learner_free(tuned);
}

/* ---- arguments that are missing, and the parts of a row of features ---- */
static void test_missing_arguments(world *w, fvg_learner *l, fvg_fvgpt *f) {
  static float x[2 * PIXELS];
  fvg_views *v = new_views(w, FVG_AUGMENT_NONE, 0, 0, 0), *no_views = NULL;
  pictures_of source;
  fvg_item nowhere = {"0/nowhere.ppm", 0};
  fvg_items empty = w->train, lost = {&nowhere, 1};
  fvg_train_desc t = train_desc(1);
  fvg_classifier *k;
  fvg_score result;
  fvg_ctx *c = w->c;
  double evidence;
  int index[1] = {0};
  size_t used = fvg_mem_used(c);
  check(needs_argument(c, fvg_views_new(NULL, &no_views, &w->set, NULL), "fvg_views_new", "CLIP") && !no_views &&
            needs_argument(c, fvg_views_new(w->m, NULL, &w->set, NULL), "fvg_views_new", "place") &&
            needs_argument(c, fvg_views_new(w->m, &no_views, NULL, NULL), "fvg_views_new", "data set") && !no_views,
        "fvg_views_new without an argument");
  check(fvg_views_new(NULL, NULL, NULL, NULL) == FVG_E_ARG && fvg_views_load(NULL, &w->train) == FVG_E_ARG &&
            fvg_views_get(NULL, x, NULL, NULL, &w->train, index, 1, 0) == FVG_E_ARG &&
            fvg_views_pixels(NULL, x, NULL, &w->train, index, 1, 0) == FVG_E_ARG,
        "no views, and no context for a message");
  check(needs_argument(c, fvg_views_load(v, NULL), "fvg_views_load", "items") &&
            needs_argument(c, fvg_views_get(v, x, NULL, NULL, NULL, index, 1, 0), "fvg_views_get", "items") &&
            needs_argument(c, fvg_views_get(v, x, NULL, NULL, &w->train, NULL, 1, 0), "fvg_views_get", "numbers") &&
            needs_argument(c, fvg_views_get(v, NULL, NULL, NULL, &w->train, index, 1, 0), "fvg_views_get", "place") &&
            needs_argument(c, fvg_views_pixels(v, x, NULL, NULL, index, 1, 0), "fvg_views_pixels", "items") &&
            needs_argument(c, fvg_views_pixels(v, x, NULL, &w->train, NULL, 1, 0), "fvg_views_pixels", "numbers") &&
            needs_argument(c, fvg_views_pixels(v, NULL, NULL, &w->train, index, 1, 0), "fvg_views_pixels", "place"),
        "fvg_views_* without an argument");
  check(fvg_encode_task(NULL, l, x, task_of(&w->set, &w->train)) == FVG_E_ARG &&
            needs_argument(c, fvg_encode_task(w->m, l, x, task_of(NULL, &w->train)), "fvg_encode_task", "data set") &&
            needs_argument(c, fvg_encode_task(w->m, l, x, NULL), "fvg_encode_task", "a task") &&
            needs_argument(c, fvg_encode_task(w->m, l, NULL, task_of(&w->set, &w->train)), "fvg_encode_task", "place"),
        "fvg_encode_task without an argument");
  empty.item = NULL;
  check(needs_argument(c, fvg_learner_train(NULL, v, task_of(NULL, &w->train), &t), "fvg_learner_train", "a learner") &&
            needs_argument(c, fvg_learner_train(l, NULL, task_of(NULL, &w->train), &t), "fvg_learner_train", "views") &&
            fvg_learner_train(NULL, NULL, task_of(NULL, &w->train), &t) == FVG_E_ARG &&
            fvg_learner_train(l, v, NULL, &t) == FVG_E_ARG && one_line(c, "no images", "") &&
            fvg_learner_train(l, v, task_of(NULL, &empty), &t) == FVG_E_ARG && one_line(c, "no images", ""),
        "fvg_learner_train without an argument");
  check(needs_argument(c, fvg_fvgpt_train(NULL, l, v, task_of(NULL, &w->train), &t), "fvg_fvgpt_train", "modules") &&
            needs_argument(c, fvg_fvgpt_train(f, NULL, v, task_of(NULL, &w->train), &t), "fvg_fvgpt_train", "a learner") &&
            needs_argument(c, fvg_fvgpt_train(f, l, NULL, task_of(NULL, &w->train), &t), "fvg_fvgpt_train", "views") &&
            fvg_fvgpt_train(f, l, v, NULL, &t) == FVG_E_ARG && one_line(c, "no images", ""),
        "fvg_fvgpt_train without an argument");
  memset(&source, 0, sizeof source);
  source.n_class = BASE;
  check(calibrate(NULL, &source, 1, &t) == FVG_E_ARG &&
            evidence_of(&evidence, NULL, 1, NULL) == FVG_E_ARG &&
            evidence_of(NULL, &source, 1, NULL) == FVG_E_ARG &&
            needs_argument(c, calibrate(f, NULL, 1, &t), "calibration", "sources") &&
            needs_argument(c, calibrate(f, &source, 1, &t), "calibration", "learner"),
        "calibration without sources");
  source.learner = l;
  check(needs_argument(c, calibrate(f, &source, 1, &t), "calibration", "views") &&
            needs_argument(c, evidence_of(&evidence, &source, 1, NULL), "calibration", "views"),
        "or without their views");
  source.views = v;
  check(needs_argument(c, calibrate(f, &source, 1, &t), "calibration", "the task"),
        "or without their classes");
  source.class_name = names;
  check(calibrate(f, &source, 1, &t) == FVG_E_ARG && one_line(c, "no images", "") &&
            evidence_of(&evidence, &source, 1, NULL) == FVG_E_ARG && one_line(c, "no images", ""),
        "or without their pictures");
  check(needs_argument(c, new_classifier(NULL, &k, FVG_TUNED, l, NULL, NULL, names, BASE), "fvg_classifier_new",
                       "CLIP") && !k &&
            needs_argument(c, new_classifier(w->m, NULL, FVG_TUNED, l, NULL, NULL, names, BASE),
                           "fvg_classifier_new", "place") &&
            needs_argument(c, new_classifier(w->m, &k, FVG_TUNED, l, NULL, NULL, NULL, BASE),
                           "fvg_classifier_new", "class names") && !k,
        "fvg_classifier_new without an argument");
  need(!new_classifier(w->m, &k, FVG_TUNED, l, NULL, NULL, names, BASE), "a classifier");
  check(fvg_classifier_logits(NULL, x, NULL, x, 1) == FVG_E_ARG &&
            needs_argument(c, fvg_classifier_logits(k, x, NULL, NULL, 1), "fvg_classifier_logits", "features") &&
            needs_argument(c, fvg_classifier_logits(k, NULL, NULL, x, 1), "fvg_classifier_logits", "place") &&
            fvg_classifier_logits(k, x, NULL, x, -1) == FVG_E_ARG && one_line(c, "-1 images", "") &&
            fvg_classifier_test(NULL, &result, task_of(&w->set, &w->train)) == FVG_E_ARG &&
            needs_argument(c, fvg_classifier_test(k, &result, task_of(NULL, &w->train)), "fvg_classifier_test", "data set") &&
            needs_argument(c, fvg_classifier_test(k, &result, NULL), "fvg_classifier_test", "a task") &&
            needs_argument(c, fvg_classifier_test(k, NULL, task_of(&w->set, &w->train)), "fvg_classifier_test", "place"),
        "a classifier's functions without an argument");
  memset(&result, 1, sizeof result);
  check(fvg_classifier_test(k, &result, task_of(&w->set, &lost)) == FVG_E_IO && !result.n && result.accuracy == 0,
        "after a failure the score is zero");
  fvg_classifier_free(k);
  check(fvg_mem_used(c) == used, "no memory stays");
  fvg_views_free(v);
}

static int refuse_bytes(void *user, const void *bytes, size_t n) { (void)user; (void)bytes; (void)n; return 1; }

/* Whatever else is NULL where something is needed is FVG_E_ARG. */
static void test_null_arguments(world *w, fvg_learner *l, fvg_fvgpt *f) {
  static float x[3 * D * BASE];
  static const char *const hole[2] = {"red", NULL};
  fvg_ctx *c = w->c;
  fvg_image image, out;
  fvg_source source = fvg_source_memory(standard.bytes, standard.n_bytes, "model");
  fvg_preprocess how = fvg_preprocess_defaults(IMAGE);
  fvg_learner *l2;
  fvg_fvgpt *f2;
  fvg_weights *weights;
  fvg_clip *m2;
  fvg_items items;
  fvg_dataset set;
  fvg_dataset_desc where;
  fvg_score score;
  fvg_base_to_new accuracies;
  fvg_foreground *foreground;
  fvg_dataset empty;
  fvg_task task;
  fvg_picture picture;
  uint8_t *bytes, pixel[3] = {1, 2, 3};
  size_t n_bytes, used;
  int match, label = 0;
  char *text;
  memset(&image, 0, sizeof image);
  memset(&where, 0, sizeof where);
  memset(&picture, 0, sizeof picture);
  memset(&empty, 0, sizeof empty);
  image.width = image.height = 1;
  image.channels = 3;
  image.pixels = pixel;
  picture.image = image;
  where.root = ROOT;
  need(!fvg_weights_open(c, &weights, &source), "weights");
  used = fvg_mem_used(c);
  const struct { const char *what; fvg_status status; } call[] = {
    {"fvg_match_names match", fvg_match_names(c, NULL, names, 1, names, 1)},
    {"fvg_match_names name", fvg_match_names(c, &match, NULL, 1, names, 1)},
    {"fvg_match_names among", fvg_match_names(c, &match, names, 1, NULL, 1)},
    {"fvg_image_upright", fvg_image_upright(c, NULL, "x", 0)},
    {"fvg_image_encode_png bytes", fvg_image_encode_png(c, NULL, &n_bytes, &image)},
    {"fvg_image_encode_png n", fvg_image_encode_png(c, &bytes, NULL, &image)},
    {"fvg_image_encode_png image", fvg_image_encode_png(c, &bytes, &n_bytes, NULL)},
    {"fvg_image_resize out", fvg_image_resize(c, NULL, &image, 2, 2, FVG_BICUBIC)},
    {"fvg_image_resize in", fvg_image_resize(c, &out, NULL, 2, 2, FVG_BICUBIC)},
    {"fvg_image_test_transform", fvg_image_test_transform(c, &out, &image, NULL)},
    {"fvg_image_resized_crop", fvg_image_resized_crop(c, &out, &image, NULL, 1, FVG_BICUBIC)},
    {"fvg_image_normalize chw", fvg_image_normalize(c, NULL, &image, &how)},
    {"fvg_image_normalize p", fvg_image_normalize(c, x, &image, NULL)},
    {"fvg_clip_load out", fvg_clip_load(c, NULL, weights, NULL, FVG_F32)},
    {"fvg_clip_load weights", fvg_clip_load(c, &m2, NULL, NULL, FVG_F32)},
    {"fvg_clip_open out", fvg_clip_open(c, NULL, "examples/tiny-clip", NULL, FVG_F32)},
    {"fvg_clip_open path", fvg_clip_open(c, &m2, NULL, NULL, FVG_F32)},
    {"fvg_clip_encode_images features", fvg_clip_encode_images(w->m, NULL, x, 1)},
    {"fvg_clip_encode_images images", fvg_clip_encode_images(w->m, x, NULL, 1)},
    {"fvg_clip_encode_texts features", fvg_clip_encode_texts(w->m, NULL, names, 1)},
    {"fvg_clip_encode_texts texts", fvg_clip_encode_texts(w->m, x, NULL, 1)},
    {"fvg_clip_encode_texts a text", fvg_clip_encode_texts(w->m, x, hole, 2)},
    {"fvg_clip_encode_classes features", fvg_clip_encode_classes(w->m, NULL, NULL, names, 1)},
    {"fvg_clip_encode_classes names", fvg_clip_encode_classes(w->m, x, NULL, NULL, 1)},
    {"fvg_clip_encode_classes a name", fvg_clip_encode_classes(w->m, x, NULL, hole, 2)},
    {"fvg_learner_new out", fvg_learner_new(w->m, NULL, names, BASE, NULL)},
    {"fvg_learner_new names", fvg_learner_new(w->m, &l2, NULL, BASE, NULL)},
    {"fvg_learner_new a name", fvg_learner_new(w->m, &l2, hole, 2, NULL)},
    {"fvg_learner_copy out", fvg_learner_copy(NULL, l)},
    {"fvg_learner_copy l", fvg_learner_copy(&l2, NULL)},
    {"fvg_learner_step batch", fvg_learner_step(l, NULL, NULL, 1, NULL)},
    {"fvg_learner_text_features g", fvg_learner_text_features(l, NULL, names, BASE)},
    {"fvg_learner_text_features names", fvg_learner_text_features(l, x, NULL, BASE)},
    {"fvg_learner_encode_images features", fvg_learner_encode_images(w->m, l, NULL, x, 1)},
    {"fvg_learner_encode_images images", fvg_learner_encode_images(w->m, l, x, NULL, 1)},
    {"fvg_list_pictures out", fvg_list_pictures(c, NULL, ROOT)},
    {"fvg_dataset_open out", fvg_dataset_open(c, NULL, &where)},
    {"fvg_dataset_open desc", fvg_dataset_open(c, &set, NULL)},
    {"fvg_dataset_of_pictures a name", fvg_dataset_of_pictures(c, &set, &picture, 1, hole + 1, 1)},
    {"fvg_dataset_check", fvg_dataset_check(NULL, 1, 0)},
    {"fvg_dataset_load set", fvg_dataset_load(NULL, &out, NULL, item, 0)},
    {"fvg_dataset_load item", fvg_dataset_load(&w->set, &out, NULL, NULL, 0)},
    {"fvg_dataset_mask_path set", fvg_dataset_mask_path(NULL, &text, "x")},
    {"fvg_dataset_mask_path out", fvg_dataset_mask_path(&w->set, NULL, "x")},
    {"fvg_dataset_mask_path path", fvg_dataset_mask_path(&w->set, &text, NULL)},
    {"fvg_dataset_check_masks set", fvg_dataset_check_masks(NULL, &w->train)},
    {"fvg_dataset_check_masks items", fvg_dataset_check_masks(&w->set, NULL)},
    {"fvg_dataset_survey_masks items", fvg_dataset_survey_masks(&w->set, NULL)},
    {"fvg_items_group out", fvg_items_group(c, NULL, &w->train, BASE, FVG_ALL)},
    {"fvg_items_group in", fvg_items_group(c, &items, NULL, BASE, FVG_ALL)},
    {"fvg_items_few_shot out", fvg_items_few_shot(c, NULL, NULL, &w->train, BASE, 1, 1)},
    {"fvg_items_few_shot in", fvg_items_few_shot(c, &items, NULL, NULL, BASE, 1, 1)},
    {"fvg_items_few_shot_val out", fvg_items_few_shot_val(c, NULL, &w->train, &w->train, BASE, 1, 1)},
    {"fvg_score_of out", fvg_score_of(c, NULL, x, &label, 1, 1)},
    {"fvg_score_of scores", fvg_score_of(c, &score, NULL, &label, 1, 1)},
    {"fvg_score_of labels", fvg_score_of(c, &score, x, NULL, 1, 1)},
    {"fvg_dpc_train tuned", fvg_dpc_train(l, NULL, NULL, NULL, NULL, NULL)},
    {"fvg_dpc_train l", fvg_dpc_train(NULL, l, NULL, NULL, NULL, NULL)},
    {"fvg_dpc_train both", fvg_dpc_train(NULL, NULL, NULL, NULL, NULL, NULL)},
    {"fvg_dpc_reweigh tuned", fvg_dpc_reweigh(l, NULL, 1, 1)},
    {"fvg_dpc_reweigh l", fvg_dpc_reweigh(NULL, l, 1, 1)},
    {"fvg_test_base_to_new m", fvg_test_base_to_new(NULL, &accuracies, &w->set, NULL, NULL, NULL)},
    {"fvg_test_base_to_new out", fvg_test_base_to_new(w->m, NULL, &w->set, NULL, NULL, NULL)},
    {"fvg_test_base_to_new set", fvg_test_base_to_new(w->m, &accuracies, NULL, NULL, NULL, NULL)},
    {"fvg_checkpoint_save l", fvg_checkpoint_save(NULL, f, ROOT "/null.safetensors", NULL, 0)},
    {"fvg_checkpoint_write l", fvg_checkpoint_write(NULL, NULL, refuse_bytes, NULL, NULL, 0)},
    {"fvg_clip_encode_files a path", fvg_clip_encode_files(w->m, x, hole, 2, 0)},
    {"fvg_foreground_new m", fvg_foreground_new(NULL, &foreground, names, BASE, NULL)},
    {"fvg_foreground_map x", fvg_foreground_map(NULL, x, NULL, &image, 0)},
    {"fvg_foreground_mask x", fvg_foreground_mask(NULL, &out, NULL, &image, 0)},
    {"fvg_foreground_mask_items x", fvg_foreground_mask_items(NULL, &w->set, &w->train)},
    {"a data set that is all zero: fvg_task_draw", fvg_task_draw(&task, &empty, NULL)},
    {"fvg_dataset_load", fvg_dataset_load(&empty, &out, NULL, item, 0)},
    {"fvg_dataset_check", fvg_dataset_check(&empty, 1, 0)},
    {"fvg_dataset_mask_path", fvg_dataset_mask_path(&empty, &text, "x")},
    {"fvg_dataset_set_mask", fvg_dataset_set_mask(&empty, "x", NULL)},
    {"fvg_dataset_check_masks", fvg_dataset_check_masks(&empty, &w->train)},
    {"fvg_dataset_survey_masks", fvg_dataset_survey_masks(&empty, &w->train)},
    {"fvg_checkpoint_save settings", fvg_checkpoint_save(l, f, ROOT "/null.safetensors", NULL, 1)},
    {"fvg_checkpoint_load l", fvg_checkpoint_load(w->m, NULL, &f2, NULL, "x")},
    {"fvg_checkpoint_load f", fvg_checkpoint_load(w->m, &l2, NULL, NULL, "x")},
    {"fvg_checkpoint_read l", fvg_checkpoint_read(w->m, NULL, &f2, NULL, &source)},
    {"fvg_checkpoint_read f", fvg_checkpoint_read(w->m, &l2, NULL, NULL, &source)}
  };
  for (size_t i = 0; i < sizeof call / sizeof *call; i++) check(call[i].status == FVG_E_ARG, call[i].what);
  check(!fvg_path_join(c, NULL, "x") && !fvg_path_join(c, "x", NULL), "fvg_path_join");

  fvg_recipe recipe;
  fvg_option option;
  double low, high;
  check(!fvg_method_find(NULL) && !strcmp(fvg_method_name(NULL), "") && !fvg_method_needs(NULL) &&
            !fvg_method_optimizer(NULL, &match).epochs && !match && fvg_method_crop_scale(NULL) == 0.08f &&
            !fvg_method_template(NULL, fvg_dataset_cards(NULL)) && !fvg_method_option(NULL, &option, &low, &high, 0) &&
            !fvg_dpc_knows(NULL),
        "no method");
  memset(&recipe, 1, sizeof recipe);
  fvg_method_recipe(NULL, &recipe, FVG_FORK, FVG_BASE_TO_NEW, NULL, 0);
  check(!recipe.batch && !recipe.n_option, "has no recipe");
  memset(&recipe, 1, sizeof recipe);
  fvg_method_recipe(fvg_method_find("CoOp"), &recipe, (fvg_preset)77, FVG_BASE_TO_NEW, NULL, 0);
  check(!recipe.batch, "nor has a preset that does not exist");
  fvg_items_free(c, NULL);
  fvg_names_free(c, NULL);
  check(fvg_mem_used(c) == used, "no memory stays");
  fvg_weights_close(weights);
}

/* Settings that are none. */
static void test_nonsense(world *w) {
  static const float scale[] = {2, -1, HUGE_VALF, (float)NAN};
  fvg_ctx *c = w->c;
  const size_t used = fvg_mem_used(c);
  fvg_views_desc vd;
  fvg_foreground_desc fd;
  fvg_dataset_desc where;
  fvg_dataset set;
  fvg_views *v = NULL;
  fvg_foreground *x = NULL;
  for (int i = 0; i < 5; i++) {
    memset(&vd, 0, sizeof vd);
    if (i < 4) vd.crop_scale_min = scale[i];
    else vd.augment = (fvg_augment)77;
    check(fvg_views_new(w->m, &v, &w->set, &vd) == FVG_E_ARG && !v && one_line(c, "views", i < 4 ? "crop_scale_min" : "augment 77"),
          "views");
  }
  for (int i = 0; i < 4; i++) {
    memset(&fd, 0, sizeof fd);
    if (i == 0) fd.attention = (fvg_self_attention)9;
    if (i == 1) fd.contrast = (fvg_contrast)3;
    if (i == 2) fd.centre_prior = (float)NAN;
    if (i == 3) fd.colour_weight = (float)NAN;
    check(fvg_foreground_new(w->m, &x, names, BASE, &fd) == FVG_E_ARG && !x && one_line(c, "foreground", ""), "masks");
  }
  for (int i = 0; i < 2; i++) {
    memset(&where, 0, sizeof where);
    where.root = ROOT;
    if (i) where.mask_reading = (fvg_mask_reading)77;
    else where.val_percent = 101;
    check(fvg_dataset_open(c, &set, &where) == FVG_E_ARG && one_line(c, "data set", i ? "mask_reading 77" : "101") && !set.root,
          "a data set");
  }
  check(fvg_mem_used(c) == used, "no memory stays");
}

/* Views of one data set do not go with a task of another; a copy of the set is the same one. */
static void test_other_set(world *w, fvg_learner *l, fvg_fvgpt *f) {
  static char elsewhere[] = ROOT "/elsewhere";
  fvg_views *v = new_views(w, FVG_AUGMENT_NONE, 0, 1, 0);
  fvg_dataset other = w->set, same_set = w->set;
  fvg_train_desc t = train_desc(1);
  fvg_learner *copy = NULL;
  fvg_head *h = NULL;
  fvg_head_task x;
  const char *words = "of another data set than the task";
  other.root = elsewhere;
  need(!fvg_learner_copy(&copy, l), "a copy");
  const fvg_task *task = task_of(&other, &w->train);
  check(fvg_learner_train(copy, v, task, &t) == FVG_E_ARG && one_line(w->c, words, ""), "stage 1");
  check(fvg_fvgpt_train(f, l, v, task, &t) == FVG_E_ARG && one_line(w->c, words, ""), "stage 2");
  fvg_task named = *task;
  named.class_name = names;
  named.n_class = BASE;
  fvg_calibration_source source = {l, v, &named};
  double evidence;
  check(fvg_fvgpt_calibrate(f, &source, 1, &t) == FVG_E_ARG && one_line(w->c, words, ""), "calibration");
  check(fvg_calibration_evidence(&evidence, &source, 1, NULL) == FVG_E_ARG && one_line(w->c, words, ""), "its evidence");
  memset(&x, 0, sizeof x);
  x.train = &named;
  x.views = v;
  check(fvg_head_fit_task(w->m, &h, FVG_GDA, &x, NULL) == FVG_E_ARG && one_line(w->c, words, ""), "a head");
  check(!fvg_learner_train(copy, v, task_of(&same_set, &w->train), &t), "a copy of the data set is the same set");
  fvg_learner_free(copy);

  fvg_clip *twin = NULL;
  fvg_views *v_there = NULL;
  need(!load_clip(w->c, &standard, &twin) && !fvg_views_new(twin, &v_there, &w->set, NULL), "another model");
  x.views = v_there;
  named.dataset = &w->set;
  check(fvg_head_fit_task(w->m, &h, FVG_GDA, &x, NULL) == FVG_E_ARG && one_line(w->c, "another model", ""),
        "a head on views of another model");
  fvg_views_free(v_there);
  fvg_clip_free(twin);
  fvg_views_free(v);

  fvg_learner *coop[2] = {learner_of(w, "CoOp", BASE), NULL};
  need(!fvg_learner_copy(&coop[1], coop[0]), "a copy");
  v = new_views(w, FVG_AUGMENT_NONE, 0, 1, 0);
  check(fvg_dpc_train(coop[1], coop[0], v, task_of(&other, &w->train), NULL, &t) == FVG_E_ARG && one_line(w->c, words, ""), "DPC");
  fvg_learner_free(coop[0]);
  fvg_learner_free(coop[1]);
  fvg_views_free(v);
}

/* A source that cannot be read, because there is no place for what is in it, is closed all the same. */
static void add_close(void *user) { ++*(int *)user; }

static void test_unread_sources(world *w) {
  int closed = 0;
  fvg_source s = fvg_source_memory(standard.bytes, standard.n_bytes, "model");
  fvg_learner *l;
  fvg_fvgpt *f;
  s.user = &closed;
  s.close = add_close;
  s.read = NULL;                                 /* is not asked for a byte                                        */
  check(fvg_checkpoint_read(w->m, NULL, &f, NULL, &s) == FVG_E_ARG && closed == 1 && one_line(w->c, "checkpoint", "places"),
        "no place for a learner");
  check(fvg_checkpoint_read(w->m, &l, NULL, NULL, &s) == FVG_E_ARG && closed == 2, "no place for FVG-PT");
  check(fvg_head_checkpoint_read(w->m, NULL, &s) == FVG_E_ARG && closed == 3 && one_line(w->c, "head checkpoint", "a place"),
        "no place for a head");
  check(fvg_learner_read(NULL, &s) == FVG_E_ARG && closed == 4, "no learner");
  check(fvg_learner_load(NULL, "x") == FVG_E_ARG, "no learner for a file");
  fvg_head_checkpoint head;
  memset(&head, 0, sizeof head);
  check(fvg_checkpoint_read(NULL, &l, &f, NULL, &s) == FVG_E_ARG && closed == 5, "no model");
  check(fvg_head_checkpoint_save(NULL, "x", &head, NULL, 0) == FVG_E_ARG &&
            fvg_head_checkpoint_write(NULL, refuse_bytes, NULL, &head, NULL, 0) == FVG_E_ARG, "no model for a head");
}

/* What was made on one model is refused by everything of another, even of the same sizes. */
static void test_two_models(world *w, fvg_learner *here, fvg_fvgpt *f) {
  static float x[PIXELS + 3 * D * N];
  fvg_ctx *c = w->c;
  fvg_views_desc vd;
  fvg_clip *twin = NULL, *thin = NULL;
  fvg_learner *there = NULL, *copy = NULL;
  fvg_views *v = new_views(w, FVG_AUGMENT_NONE, 0, 0, 0), *v_there = NULL, *no_views = NULL;
  fvg_classifier *k = NULL;
  fvg_train_desc t = train_desc(1);
  pictures_of mixed[2];
  double evidence = 9;
  memset(&vd, 0, sizeof vd);
  need(!load_clip(c, &standard, &twin) && !load_clip(c, &narrow, &thin) &&
           !fvg_learner_new(twin, &there, names, BASE, NULL) && !fvg_learner_copy(&copy, here) &&
           !fvg_views_new(twin, &v_there, &w->set, NULL), "another model");
  size_t used = fvg_mem_used(c);
  vd.learner = there;
  for (int i = 0; i < 2; i++) {
    mixed[i].learner = i ? there : here;
    mixed[i].views = i ? v_there : v;
    mixed[i].items = &w->train;
    mixed[i].class_name = names;
    mixed[i].n_class = BASE;
  }
  pictures_of other_views = mixed[0];
  other_views.views = v_there;
  const fvg_task *task = task_of(&w->set, &w->train);
  const struct { const char *what; fvg_status status; } call[] = {
    {"views", fvg_views_new(w->m, &no_views, &w->set, &vd)},
    {"encoding a task", fvg_encode_task(w->m, there, x, task)},
    {"encoding pictures", fvg_learner_encode_images(w->m, there, x + PIXELS, x, 1)},
    {"stage 1", fvg_learner_train(here, v_there, task, &t)},
    {"stage 2", fvg_fvgpt_train(f, here, v_there, task, &t)},
    {"calibration on other views", calibrate(f, &other_views, 1, &t)},
    {"calibration on two models", calibrate(f, mixed, 2, &t)},
    {"evidence from other views", evidence_of(&evidence, &other_views, 1, NULL)},
    {"evidence from two models", evidence_of(&evidence, mixed, 2, NULL)},
    {"DPC on other views", fvg_dpc_train(copy, here, v_there, task, NULL, &t)},
    {"DPC of another learner", fvg_dpc_train(copy, there, v, task, NULL, &t)},
    {"another weight", fvg_dpc_reweigh(copy, there, 1, 0.5f)},
    {"a tuned classifier", new_classifier(w->m, &k, FVG_TUNED, there, NULL, NULL, names, BASE)},
    {"a zero-shot one", new_classifier(w->m, &k, FVG_ZERO_SHOT, there, NULL, NULL, names, BASE)},
    {"one of another width", new_classifier(thin, &k, FVG_TUNED, here, NULL, NULL, names, BASE)}
  };
  for (size_t i = 0; i < sizeof call / sizeof *call; i++) check(call[i].status == FVG_E_ARG, call[i].what);
  check(!no_views && !k && evidence == 0, "nothing was made");
  fvg_classifier_free(k);
  check(new_classifier(w->m, &k, FVG_TUNED, there, NULL, NULL, names, BASE) == FVG_E_ARG &&
            one_line(c, "learner", "another model") &&
            fvg_learner_train(here, v_there, task, &t) == FVG_E_ARG && one_line(c, "views", "another model"),
        "and the message says so");
  check(fvg_mem_used(c) == used, "no memory stays");

  fvg_learner *slim = NULL;
  need(!fvg_learner_new(thin, &slim, names, BASE, NULL), "a learner of another width");
  check(fvg_checkpoint_save(slim, f, ROOT "/mixed.safetensors", NULL, 0) == FVG_E_SHAPE &&
            one_line(thin->ctx, "32", "16"), "modules of another width are not saved beside a learner");
  fvg_learner_free(slim);
  fvg_views_free(v);
  fvg_views_free(v_there);
  fvg_learner_free(there);
  fvg_learner_free(copy);
  fvg_clip_free(thin);
  fvg_clip_free(twin);
}

/* Modules in a context of their own: each context gets back what it gave. */
static void test_two_contexts(world *w, fvg_learner *l) {
  fvg_views *v = new_views(w, FVG_AUGMENT_NONE, 0, 0, 0);
  fvg_fvgpt_desc fd = fvgpt_desc();
  fvg_train_desc t = train_desc(1);
  pictures_of source;
  fvg_fvgpt *f = NULL;
  fvg_ctx *c;
  source.learner = l;
  source.views = v;
  source.items = &w->train;
  source.class_name = names;
  source.n_class = BASE;
  need(!fvg_init(&c, NULL) && !fvg_fvgpt_new(c, &f, &fd) && !calibrate(f, &source, 1, &t), "a context of its own");
  size_t used = fvg_mem_used(c), used_there = fvg_mem_used(w->c);
  check(!calibrate(f, &source, 1, &t) && fvg_mem_used(c) == used && fvg_mem_used(w->c) == used_there,
        "calibration gives every block back to its own context");
  fvg_fvgpt_free(f);
  check(fvg_mem_used(c) == 0, "and none too many");
  fvg_free(c);
  fvg_views_free(v);
}

/* A method of somebody else's whose function returns nothing and says nothing: an error that names the method. */
static fvg_status silent_init(fvg_learner *l) { (void)l; return FVG_E_NOMEM; }
static fvg_node *silent_vectors(fvg_learner *l, fvg_tape *t, fvg__tower tower) {
  (void)l;
  (void)t;
  (void)tower;
  return NULL;
}

static void test_silent_methods(world *w) {
  fvg_method method = *fvg_method_find("CoOp");
  fvg_learner_desc d;
  fvg_learner *l = NULL;
  fvg_optimizer *o = NULL;
  fvg_optimizer_desc rate = fvg_method_optimizer(&method, NULL);
  static float f[D], g[BASE * D];
  int label = 0;
  fvg_batch batch;
  memset(&d, 0, sizeof d);
  memset(&batch, 0, sizeof batch);
  d.method = &method;
  f[0] = 1;
  batch.n = 1;
  batch.label = &label;
  batch.f_clip = f;
  w->c->status = FVG_OK;
  method.name = "Silent";
  need(!fvg_learner_new(w->m, &l, names, BASE, &d) &&
           !fvg_optimizer_new(w->c, &o, l->param, l->n_param, &rate), "a method of one's own");
  method.vectors = silent_vectors;
  check(fvg_learner_step(l, NULL, o, 1, &batch) == FVG_E_SHAPE && one_line(w->c, "shapes", ""), "a step without its vectors");
  w->c->status = FVG_OK;
  check(fvg_learner_text_features(l, g, names, BASE) == FVG_E_ARG && one_line(w->c, "Silent", ""),
        "vectors that are not there");
  fvg_optimizer_free(o);
  fvg_learner_free(l);
  w->c->status = FVG_OK;
  method.init = silent_init;
  check(fvg_learner_new(w->m, &l, names, BASE, &d) == FVG_E_ARG && !l && one_line(w->c, "Silent", ""),
        "an init that fails");
}

/* What was left unchecked stays, once each; bad pictures that were found are gone. */
static int stop_at_once(void *user, const fvg_progress *p) { (void)p; return *(int *)user; }

static void test_stopped_check(void) {
  char gone[] = "0/nowhere.ppm";
  fvg_item own[N];
  fvg_dataset set;
  fvg_desc d;
  world w;
  int stop = 1, ok = 1;
  memset(&d, 0, sizeof d);
  d.progress = stop_at_once;
  d.user = &stop;
  if (world_open(&w, &d)) { check(0, "a world to check"); return; }
  memcpy(own, item, sizeof own);
  own[1].path = gone;
  set = w.set;
  set.train.item = own;
  set.train.n = N;
  check(fvg_dataset_check(&set, FVG_CHECK_TRAIN, 1) == FVG_E_CANCELLED && set.train.n == N - 1, "a check that was stopped");
  for (int i = 0; i < set.train.n; i++) ok = ok && own[i].path == item[i < 1 ? i : i + 1].path;
  check(ok, "loses no picture and doubles none");
  stop = 0;
  check(!fvg_dataset_check(&set, FVG_CHECK_TRAIN, 1) && set.train.n == N - 1, "and can be made again");
  fvg_items empty;
  memset(&empty, 0, sizeof empty);
  check(fvg_dataset_check_masks(&w.set, &empty) == FVG_E_ARG && one_line(w.c, "no images", ""), "masks of no pictures");
  world_close(&w);
}

/* Notes that come once for a context. */
static char noted[4][600];
static int n_noted;
static void keep_notes(void *user, int level, const char *message) {
  (void)user;
  if (level == 1 && n_noted < 4) snprintf(noted[n_noted++], sizeof noted[0], "%s", message);
}

static void test_notes(void) {
  fvg_fvgpt_desc fd = fvgpt_desc();
  fvg_train_desc t = train_desc(1);
  fvg_classifier *k = NULL;
  fvg_fvgpt *f = NULL;
  fvg_desc d;
  world w;
  memset(&d, 0, sizeof d);
  d.log = keep_notes;
  if (world_open_on(&w, &d, &long_text)) { check(0, "a world with notes"); return; }
  fvg_learner *l = learner_of(&w, "CoOp", BASE), *dapt = learner_of(&w, "DAPT", BASE);
  fvg_views *v = new_views(&w, FVG_AUGMENT_NONE, 0, 0, 0);
  for (int i = 0; i < 3; i++) {                  /* the model's own scale, another in a classifier, and in training */
    fd.logit_scale = i ? 40 : w.m->logit_scale;
    w.c->said = 0;
    n_noted = 0;
    need(!fvg_fvgpt_new(w.c, &f, &fd), "modules");
    for (int twice = 0; twice < 2; twice++) {
      fvg_status s = i == 2 ? fvg_fvgpt_train(f, l, v, task_of(NULL, &w.train), &t)
                            : new_classifier(w.m, &k, FVG_BRANCH_NEW, l, f, NULL, names, BASE);
      need(!s, fvg_error(w.c));
      fvg_classifier_free(k);
      k = NULL;
    }
    check(i ? n_noted == 1 && strstr(noted[0], "40") && strstr(noted[0], "logit_scale") : n_noted == 0,
          "another logit scale is noted once");
    fvg_fvgpt_free(f);
  }
  n_noted = 0;
  for (int twice = 0; twice < 2; twice++) need(!fvg_learner_train(dapt, v, task_of(NULL, &w.train), &t), fvg_error(w.c));
  check(n_noted == 1 && strstr(noted[0], "DAPT: 1 of 18") && strstr(noted[0], "blank"),
        "what DAPT makes of pictures without a mask is noted once");
  fvg_views_free(v);
  fvg_learner_free(dapt);
  fvg_learner_free(l);
  world_close(&w);
}

/* ---- the guard: have the adapters done harm? ---- */
/* The mean cross-entropy of the training pictures in double: by l alone, or by FVG-PT's base branch. */
static double training_entropy(world *w, fvg_learner *l, fvg_fvgpt *f, const float *x) {
  float z[N * BASE];
  double mean = 0;
  check(score(w->m, f ? FVG_BRANCH_BASE : FVG_TUNED, l, f, 0, BASE, x, z, NULL), "scores of training pictures");
  for (int i = 0; i < N; i++) {
    double sum = 0;
    for (int k = 0; k < BASE; k++) sum += exp((double)z[i * BASE + k] - (double)z[i * BASE + item[i].label]);
    mean += log(sum) / N;
  }
  return mean;
}

/* Stage two at a rate; x: the training pictures' features under the test transform.  harm: 1 if the rate is too high
   for the adapters, which is told; a guard then leaves them out, in the saved file as well, and else does nothing. */
static void test_guard_at(world *w, fvg_learner *l, fvg_augment how, fvg_distill distill, float rate, int harm,
                          const float *x) {
  fvg_fvgpt_desc fd = fvgpt_desc();
  fvg_train_desc t = train_desc(2);
  float plain[N * BASE], base[2][N * BASE], new_[2][N * 2], again[N * BASE];
  double ce[2][2];
  fd.logit_scale = w->m->logit_scale;
  fd.distill = distill;
  t.optimizer.lr = rate;
  check(score(w->m, FVG_TUNED, l, NULL, 0, BASE, x, plain, NULL), "the backbone's scores");
  for (int guard = 0; guard < 2; guard++) {
    fvg_fvgpt *f = NULL, *g = NULL;
    fvg_learner *p = NULL;
    fvg_views *v = NULL;
    fvg_views_desc look;
    memset(&look, 0, sizeof look);
    look.augment = how;
    look.seed = 1;
    if (fvg_learner_feature_width(w->m, l) > D) look.learner = l;
    need(!fvg_views_new(w->m, &v, &w->set, &look), "views");
    t.guard = guard;
    t.cross_entropy = ce[guard];
    warned[0] = 0;
    need(!fvg_fvgpt_new(w->c, &f, &fd), "modules");
    check(!fvg_fvgpt_train(f, l, v, task_of(NULL, &w->train), &t), "stage two");
    check(harm ? strstr(warned, fvg_learner_method(l)) && strstr(warned, "cross-entropy") &&
                     strstr(warned, guard ? "keep the backbone" : distill ? "lower rate" : "--distill stable")
               : !warned[0], "adapters that do harm are told of, and no others");
    check(harm == (ce[guard][1] > ce[guard][0]) && f->desc.no_fdc == (harm && guard), "and with a guard left out");
    check(fabs(training_entropy(w, l, NULL, x) - ce[guard][0]) < 1e-5, "the backbone's cross-entropy");
    if (!f->desc.no_fdc)
      check(fabs(training_entropy(w, l, f, x) - ce[guard][1]) < 1e-5 * (1 + ce[guard][1]), "and the adapters'");
    check(score(w->m, FVG_BRANCH_BASE, l, f, 0, BASE, x, base[guard], NULL) &&
              score(w->m, FVG_BRANCH_NEW, l, f, BASE, 2, x, new_[guard], NULL), "both branches");
    check(!fvg_checkpoint_save(l, f, BAD, NULL, 0) && !fvg_checkpoint_load(w->m, &p, &g, NULL, BAD) &&
              score(w->m, FVG_BRANCH_BASE, p, g, 0, BASE, x, again, NULL) && same(again, base[guard], sizeof again),
          "the saved modules score as these");
    fvg_learner_free(p);
    fvg_fvgpt_free(g);
    fvg_fvgpt_free(f);
    fvg_views_free(v);
  }
  check(same(ce[0], ce[1], sizeof ce[0]), "the cross-entropies are those before the guard acts");
  check(!same(base[0], plain, sizeof plain), "adapters score otherwise than the backbone");
  check(same(base[1], harm ? plain : base[0], sizeof plain), "a guarded one as the backbone, bit for bit, where it must");
  check(same(new_[0], new_[1], sizeof new_[0]), "new classes are scored alike");
}

/* Of two crops of each picture, both count. */
static void test_guard_on_crops(world *w, fvg_learner *l) {
  static view crop[2][N];
  static float x[N * D];
  fvg_fvgpt_desc fd = fvgpt_desc();
  fvg_train_desc t = train_desc(2);
  fvg_fvgpt *f = NULL;
  fvg_views *v = new_views(w, FVG_AUGMENT_FIXED_CROPS, 2, 1, 0);
  double ce[2] = {-1, -1}, by_hand[2] = {0, 0};
  fd.logit_scale = w->m->logit_scale;
  t.cross_entropy = ce;
  need(!fvg_fvgpt_new(w->c, &f, &fd), "modules");
  check(!fvg_fvgpt_train(f, l, v, task_of(NULL, &w->train), &t), "stage two on two crops");
  for (int k = 0; k < 2; k++) {
    all_views(v, &w->train, k, crop[k]);
    for (int i = 0; i < N; i++) memcpy(x + i * D, crop[k][i].f, sizeof crop[k][i].f);
    by_hand[0] += training_entropy(w, l, NULL, x) / 2;
    by_hand[1] += training_entropy(w, l, f, x) / 2;
  }
  check(fabs(by_hand[0] - ce[0]) < 1e-5 && fabs(by_hand[1] - ce[1]) < 1e-5, "the mean is over both crops");
  fvg_fvgpt_free(f);

  fd.no_fdc = 1;
  ce[0] = -1;
  warned[0] = 0;
  need(!fvg_fvgpt_new(w->c, &f, &fd), "modules without adapters");
  check(!fvg_fvgpt_train(f, l, v, task_of(NULL, &w->train), &t) && ce[0] == -1 && !warned[0],
        "without adapters nothing is compared");
  fvg_fvgpt_free(f);
  fvg_views_free(v);
}

static void test_guard(void) {
  static float x[3 * N * D];
  int told = 1;                                  /* that a picture has no mask                                     */
  fvg_desc d;
  world w;
  memset(&d, 0, sizeof d);
  d.log = keep_warning;
  if (world_open(&w, &d)) { check(0, "a world to guard"); return; }
  w.set.masks_told = &told;
  fvg_learner *l = learner_of(&w, "CoOp", BASE);
  need(!fvg_encode_task(w.m, NULL, x, task_of(&w.set, &w.train)), "features");
  test_guard_at(&w, l, FVG_AUGMENT_NONE, FVG_DISTILL_STABLE, 0.001f, 0, x);
  test_guard_at(&w, l, FVG_AUGMENT_NONE, FVG_DISTILL_STABLE, 0.01f, 1, x);
  test_guard_at(&w, l, FVG_AUGMENT_NONE, FVG_DISTILL_PUBLISHED, 0.01f, 1, x);
  test_guard_at(&w, l, FVG_AUGMENT_CROP, FVG_DISTILL_STABLE, 0.01f, 1, x);
  test_guard_on_crops(&w, l);
  fvg_learner_free(l);

  l = learner_of(&w, "MMRL", BASE);              /* whose base classes are scored by another feature               */
  need(!fvg_encode_task(w.m, l, x, task_of(&w.set, &w.train)), "features of MMRL");
  test_guard_at(&w, l, FVG_AUGMENT_NONE, FVG_DISTILL_STABLE, 0.01f, 0, x);
  test_guard_at(&w, l, FVG_AUGMENT_CROP, FVG_DISTILL_STABLE, 0.01f, 0, x);
  fvg_learner_free(l);
  world_close(&w);
}

/* A long list of classes is short in the file and long in memory: it can be loaded all the same. */
static void test_many_classes(void) {
  enum { MANY = 9000, WIDE = 2048 };
  static model wide;
  static char name[MANY][8];
  static const char *list[MANY];
  world w;
  fvg_learner_desc d;
  fvg_learner *l = NULL, *back = NULL;
  fvg_fvgpt *f = NULL;
  memset(&d, 0, sizeof d);
  d.method = fvg_method_find("KgCoOp");
  for (int i = 0; i < MANY; i++) {
    snprintf(name[i], sizeof name[i], "%d", i);
    list[i] = name[i];
  }
  fvg_ctx *c;
  need(!fvg_init(&c, NULL), "a context");
  draw_text_model(c, &wide, WIDE, 64, CONTEXT);
  fvg_free(c);
  if (world_open_on(&w, NULL, &wide)) { check(0, "a wide model"); return; }
  check(!fvg_learner_new(w.m, &l, list, MANY, &d) &&
            !fvg_checkpoint_save(l, NULL, ROOT "/many.safetensors", NULL, 0) &&
            !fvg_checkpoint_load(w.m, &back, &f, NULL, ROOT "/many.safetensors") && back->n_class == MANY,
        fvg_error(w.c));
  fvg_learner_free(back);
  fvg_learner_free(l);
  world_close(&w);
}

/* Each branch scores the part that is meant, also where pictures come in more than one portion. */
/* DePT's 0.3 z + 0.7 z_h of class k; raw NULL: there is no head. */
static double with_head(const fvg_learner *l, const float *raw, int k, double z) {
  double z_h;
  int e;
  if (!raw) return z;
  z_h = (double)((float *)fvg_learner_parameter(l, "linear_probe_proj.bias")->value.data)[k];
  for (e = 0; e < D; e++)
    z_h += (double)((float *)fvg_learner_parameter(l, "linear_probe_proj.weight")->value.data)[k * D + e] *
           ((double)((float *)fvg_learner_parameter(l, "film_lp_img.scale")->value.data)[e] * (double)raw[e] +
            (double)((float *)fvg_learner_parameter(l, "film_lp_img.bias")->value.data)[e]);
  return 0.3 * z + 0.7 * z_h;
}

/* FVG-PT sees of DePT what its prompts score: a step of stage 2 is that of f, f_fg and plain CLIP's features. */
static void test_head_in_training(world *w, const char *method) {
  enum { PARTS = 3 };
  static float row[2][PARTS * N * D], part[2][2][N * D];
  fvg_learner *l = learner_of(w, method, BASE);
  fvg_views *v;
  fvg_train_desc t = train_desc(1);
  fvg_fvgpt_desc fd = fvgpt_desc();
  fvg_fvgpt *f = NULL, *by_hand = NULL;
  fvg_optimizer *o = NULL;
  fvg_fvgpt_batch x;
  fvg_fvgpt_report report;
  float g[BASE * D], g_clip[BASE * D], area[N];
  int index[N], label[N], i, k, side;
  double worst = 0;
  memset(&x, 0, sizeof x);
  memset(&report, 0, sizeof report);
  nudge(l, 8);
  v = whole_views(w, l);
  t.batch = N;
  t.optimizer.warmup_epochs = -1;
  for (i = 0; i < N; i++) { index[i] = i; label[i] = item[i].label; }
  need(!fvg_fvgpt_new(w->c, &f, &fd) && !fvg_fvgpt_new(w->c, &by_hand, &fd) &&
           !fvg_optimizer_new(w->c, &o, by_hand->params, by_hand->n_params, &t.optimizer) &&
           !fvg_views_get(v, row[0], row[1], area, &w->train, index, N, 0) &&
           !fvg_learner_text_features(l, g, names, BASE) &&
           !fvg_clip_encode_classes(w->m, g_clip, NULL, names, BASE), "modules and features");
  for (side = 0; side < 2; side++)
    for (k = 0; k < 2; k++)
      for (i = 0; i < N; i++)
        memcpy(part[side][k] + i * D, row[side] + (i * PARTS + k) * D, D * sizeof **row);
  x.n = N;
  x.n_class = BASE;
  x.f = part[0][0];
  x.f_fg = part[1][0];
  x.f_clip = part[0][1];
  x.g = g;
  x.g_clip = g_clip;
  x.area = area;
  x.label = label;
  check(!fvg_fvgpt_train(f, l, v, task_of(NULL, &w->train), &t) &&
            !fvg_fvgpt_step(by_hand, &report, o, (double)t.optimizer.lr, &x), fvg_error(w->c));
  for (i = 0; i < f->n_params; i++)
    worst = fmax(worst, largest_gap((float *)f->params[i]->value.data, (float *)by_hand->params[i]->value.data,
                                    (int)fvg_tensor_count(&f->params[i]->value)));
  check(worst < 2e-6, method);
  fvg_optimizer_free(o);
  fvg_fvgpt_free(f);
  fvg_fvgpt_free(by_hand);
  fvg_views_free(v);
  fvg_learner_free(l);
}

static void test_parts(world *w, const char *method) {
  enum { COPIES = 2100 };
  fvg_learner *l = learner_of(w, method, BASE);
  int width = fvg_learner_feature_width(w->m, l), i, e, bad = 0;
  float *rows = (float *)calloc((size_t)COPIES * (size_t)width, sizeof *rows);
  float *z[4], g[BASE * D], g_clip[BASE * D];
  fvg_fvgpt_desc fd = fvgpt_desc();
  fvg_fvgpt *f = NULL;
  fvg_features of;
  for (i = 0; i < 4; i++) z[i] = (float *)calloc(COPIES * BASE, sizeof **z);
  if (!rows || !z[0] || !z[1] || !z[2] || !z[3]) { check(0, "memory"); return; }
  need(!fvg_encode_task(w->m, l, rows, task_of(&w->set, &w->train)), "features");
  for (i = N; i < COPIES; i++) memcpy(rows + i * width, rows + i % N * width, (size_t)width * sizeof *rows);
  of = fvg_learner_features(w->m, l, rows);
  check(of.f == rows && of.f_clip == rows + (width > D ? D : 0) &&
            of.f_score == rows + (width > 2 * D && !fvg_learner_has_head(l) ? 2 * D : 0) &&
            of.f_raw == (fvg_learner_has_head(l) ? rows + 2 * D : NULL), "the parts of a row");
  of = fvg_learner_features(w->m, NULL, rows);
  check(of.f == rows && of.f_clip == rows && of.f_score == rows && !of.f_raw, "plain CLIP has one");
  fd.no_fdc = 1;
  fd.logit_scale = 2 * w->m->logit_scale;
  need(!fvg_fvgpt_new(w->c, &f, &fd) && !fvg_learner_text_features(l, g, names, BASE) &&
           !fvg_clip_encode_classes(w->m, g_clip, NULL, names, BASE), "modules and texts");
  for (i = 0; i < 4; i++) {
    static const fvg_branch branch[] = {FVG_ZERO_SHOT, FVG_TUNED, FVG_TUNED_NEW, FVG_BRANCH_BASE};
    fvg_classifier *k;
    need(!new_classifier(w->m, &k, branch[i], l, f, NULL, names, BASE), "a classifier");
    check(!fvg_classifier_logits(k, z[i], NULL, rows, COPIES), fvg_error(w->c));
    fvg_classifier_free(k);
  }
  for (i = 0; i < COPIES * BASE; i++) {
    double scale = (double)w->m->logit_scale, sum[4] = {0, 0, 0, 0};
    const float *g_i = g + i % BASE * D;
    of = fvg_learner_features(w->m, l, rows + i / BASE * width);
    for (e = 0; e < D; e++) {
      sum[0] += scale * (double)of.f_clip[e] * (double)g_clip[i % BASE * D + e];
      sum[1] += scale * (double)of.f_score[e] * (double)g_i[e];
      sum[2] += scale * (double)of.f[e] * (double)g_i[e];
      sum[3] += 2 * scale * (double)of.f_score[e] * (double)g_i[e];
    }
    sum[1] = with_head(l, of.f_raw, i % BASE, sum[1]);
    sum[3] = with_head(l, of.f_raw, i % BASE, sum[3]);
    for (e = 0; e < 4; e++) bad += fabs(sum[e] - (double)z[e][i]) > 2e-4;
  }
  check(!bad, "every branch scores its part, without adapters the base branch at FVG-PT's own scale");
  for (i = 0; i < 4; i++) free(z[i]);
  free(rows);
  fvg_fvgpt_free(f);
  fvg_learner_free(l);
}

/* Without settings a picture looks at the 8 best of ten classes, and P' weighs one half. */
static void test_dpc_defaults(world *w) {
  enum { TEN = 10, RUNS = 5 };
  static const char *const ten_names[TEN] = {"red", "green", "blue", "grey", "pink", "tan", "teal",
                                             "lime", "navy", "sky"};
  static const fvg_dpc_desc setting[RUNS] = {{0, 0}, {0.5f, 8}, {0.5f, 7}, {0.5f, 9}, {0.4f, 8}};
  fvg_learner_desc ld;
  fvg_learner *tuned = NULL, *l[RUNS];
  fvg_views *v = new_views(w, FVG_AUGMENT_NONE, 0, 0, 0);
  fvg_train_desc t = train_desc(1);
  fvg_items items;
  fvg_item ten[TEN];
  int i;
  memset(&ld, 0, sizeof ld);
  ld.method = fvg_method_find("CoOp");
  ld.seed = 3;
  t.batch = 1;
  t.optimizer.warmup_epochs = -1;
  items.item = ten;
  items.n = TEN;
  for (i = 0; i < TEN; i++) { ten[i] = item[3 * i]; ten[i].label = i; }
  need(!fvg_learner_new(w->m, &tuned, ten_names, TEN, &ld), fvg_error(w->c));
  for (i = 0; i < RUNS; i++) {
    l[i] = NULL;
    need(!fvg_learner_copy(&l[i], tuned), "a copy");
    check(!fvg_dpc_train(l[i], tuned, v, task_of(NULL, &items), i ? &setting[i] : NULL, &t), fvg_error(w->c));
  }
  check(same_parameters(l[0]->param, l[1]->param, 1), "DPC's defaults are k 8 and w 0.5");
  for (i = 2; i < RUNS; i++) check(!same_parameters(l[0]->param, l[i]->param, 1), "and no others");
  for (i = 0; i < RUNS; i++) fvg_learner_free(l[i]);
  fvg_learner_free(tuned);
  fvg_views_free(v);
}

/* Two prompts, mixed: P comes back whole, the loss falls, a run that was cut off ends as if it had not been. */
static void test_dpc_training(void) {
  world w;
  fvg_desc d;
  fvg_train_desc t = train_desc(20);
  fvg_dpc_desc dpc;
  fvg_learner *tuned, *whole = NULL, *cut = NULL;
  fvg_views *v;
  double loss[20], again[20], first = 0, last = 0;
  int left = 100000, i;
  memset(&d, 0, sizeof d);
  memset(&dpc, 0, sizeof dpc);
  d.progress = count_down;
  d.user = &left;
  if (world_open(&w, &d)) { check(0, "a world for DPC"); return; }
  v = new_views(&w, FVG_AUGMENT_FIXED_CROPS, 2, 1, 0);
  tuned = learner_of(&w, "CoOp", BASE);
  t.epoch_loss = loss;
  need(!fvg_learner_copy(&whole, tuned) && !fvg_learner_copy(&cut, tuned), "copies");
  check(!fvg_dpc_train(whole, tuned, v, task_of(NULL, &w.train), &dpc, &t), fvg_error(w.c));
  for (i = 0; i < 5; i++) {
    first += loss[i] / 5;
    last += loss[15 + i] / 5;
  }
  printf("DPC_CoOp: loss %.3f in the first 5 epochs, %.3f in the last\n", first, last);
  check(last < 0.95 * first, "the loss falls");
  check(!same_parameters(whole->param, tuned->param, 1), "what trains is not the tuned prompt");
  t.epoch_loss = again;
  t.state = STATE;
  left = N / 4 * 3 / 2;
  check(fvg_dpc_train(cut, tuned, v, task_of(NULL, &w.train), &dpc, &t) == FVG_E_CANCELLED && exists(STATE), "cancelled");
  fvg_learner_free(cut);
  left = 100000;
  need(!fvg_learner_copy(&cut, tuned), "a copy");
  check(!fvg_dpc_train(cut, tuned, v, task_of(NULL, &w.train), &dpc, &t) && exists(STATE), "it goes on");
  remove(STATE);
  check(same_parameters(whole->param, cut->param, 1) && same(loss, again, sizeof loss),
        "to the same end, bit for bit");
  check(!fvg_dpc_reweigh(cut, tuned, 0.5f, 0) && same_parameters(cut->param, tuned->param, 1),
        "with no weight new classes keep the tuned prompt, bit for bit");
  {
    const float *p = (const float *)tuned->param[0]->value.data, *q = (const float *)whole->param[0]->value.data;
    const float *r = (const float *)cut->param[0]->value.data;
    size_t k, ok = 0, n = fvg_tensor_count(&tuned->param[0]->value);
    memcpy(cut->param[0]->value.data, q, n * sizeof *q);
    need(!fvg_dpc_reweigh(cut, tuned, 0.5f, 0.2f), "another weight");
    for (k = 0; k < n; k++)                      /* 0.2 P' + 0.8 P,  P' = 2 Q - P                                   */
      ok += fabs((double)r[k] - (0.2 * (2 * (double)q[k] - (double)p[k]) + 0.8 * (double)p[k])) < 1e-6;
    check(ok == n, "the mixture for new classes");
  }
  check(fvg_dpc_reweigh(cut, tuned, 0, 1) == FVG_E_ARG && one_line(w.c, "weight", ""), "no weight to come from");
  check(fvg_dpc_train(tuned, tuned, v, task_of(NULL, &w.train), NULL, &t) == FVG_E_ARG && one_line(w.c, "a copy", ""), "no copy");
  dpc.weight = -1;
  check(fvg_dpc_train(cut, tuned, v, task_of(NULL, &w.train), &dpc, &t) == FVG_E_ARG && one_line(w.c, "above 0", ""), "weight -1");
  check(fvg_dpc_train(cut, tuned, v, task_of(NULL, &w.all), NULL, &t) == FVG_E_ARG && one_line(w.c, "label 3", ""), "labels 3, 4");
  fvg_learner_free(cut);
  fvg_learner_free(whole);
  fvg_learner_free(tuned);
  tuned = learner_of(&w, "MaPLe", BASE);
  need(!fvg_learner_copy(&cut, tuned), "a copy");
  check(fvg_dpc_train(cut, tuned, v, task_of(NULL, &w.train), NULL, &t) == FVG_E_UNSUPPORTED && one_line(w.c, "DPC_MaPLe", "alone"),
        "MaPLe learns layers too");
  fvg_learner_free(cut);
  fvg_learner_free(tuned);
  fvg_views_free(v);
  world_close(&w);
}

/* ---- checkpoints in memory ---- */
/* Bytes that a checkpoint is written to; `left` writes succeed. */
typedef struct memory {
  char bytes[1 << 18];
  size_t n;
  int left;
} memory;

static int write_memory(void *user, const void *bytes, size_t n) {
  memory *m = (memory *)user;
  if (m->left-- == 0 || n > sizeof m->bytes - m->n) return 1;
  memcpy(m->bytes + m->n, bytes, n);
  m->n += n;
  return 0;
}

/* A source that counts how often it is closed. */
typedef struct counted {
  const char *bytes;
  int closed;
} counted;

static int counted_read(void *user, void *dst, uint64_t offset, size_t n) {
  memcpy(dst, ((counted *)user)->bytes + offset, n);
  return 0;
}

static void counted_close(void *user) { ((counted *)user)->closed++; }

static fvg_source counted_source(counted *x, const char *bytes, size_t n) {
  fvg_source s;
  memset(&s, 0, sizeof s);
  x->bytes = bytes;
  x->closed = 0;
  s.read = counted_read;
  s.close = counted_close;
  s.user = x;
  s.size = n;
  s.name = "in memory";
  return s;
}

/* Reading the first n bytes fails, with one line, an open source and no memory left behind. */
static int cut_is_refused(world *w, fvg_learner *like, const char *bytes, size_t n) {
  size_t used = fvg_mem_used(w->c);
  fvg_weights *settings;
  fvg_learner *p;
  fvg_fvgpt *f;
  counted x, y;
  fvg_source source = counted_source(&x, bytes, n);
  int ok = fvg_checkpoint_read(w->m, &p, &f, &settings, &source) == FVG_E_FORMAT &&
           one_line(w->c, "in memory", "") && !p && !f && !settings && x.closed == 1;
  source = counted_source(&y, bytes, n);
  ok = ok && fvg_learner_read(like, &source) == FVG_E_FORMAT && y.closed == 1;
  return ok && fvg_mem_used(w->c) == used;
}

static void test_in_memory(world *w, fvg_learner *p, fvg_fvgpt *f, const float *x) {
  static const fvg_metadata settings[] = {{"dataset", "t\xC3\xADny \"set\"\n\\"}, {"shots", "6"}};
  static memory made;
  static char file[sizeof made.bytes];
  size_t n, cut, used = fvg_mem_used(w->c);
  scores before, after;
  fvg_weights *open;
  fvg_learner *q, *like;
  fvg_fvgpt *g;
  fvg_source source;
  counted kept;
  int i, ok = 1;

  made.left = -1;
  all_scores(w->m, p, f, x, &before);
  need(!fvg_checkpoint_save(p, f, GOOD, settings, 2), "saved");
  n = read_file(GOOD, file, sizeof file);
  check(!fvg_checkpoint_write(p, f, write_memory, &made, settings, 2) && made.n == n && same(made.bytes, file, n),
        "a checkpoint in memory has a file's bytes");

  source = counted_source(&kept, made.bytes, n);
  check(!fvg_checkpoint_read(w->m, &q, &g, &open, &source) && q && g && open && kept.closed == 0, "and is read");
  if (!q || !g || !open) { printf("  %s\n", fvg_error(w->c)); return; }
  check(!strcmp(fvg_weights_metadata(open, "shots"), "6"), "with its settings");
  fvg_weights_close(open);
  check(kept.closed == 1, "which close the source");
  all_scores(w->m, q, g, x, &after);
  check(same(&before, &after, sizeof before), "it gives the same logits, bit for bit");
  fvg_learner_free(q);
  fvg_fvgpt_free(g);
  source = counted_source(&kept, made.bytes, n);
  check(!fvg_checkpoint_read(w->m, &q, &g, NULL, &source) && kept.closed == 1, "without settings it is closed at once");
  fvg_learner_free(q);
  fvg_fvgpt_free(g);

  like = learner_of(w, p->method->name, BASE);
  nudge(like, 3);
  source = counted_source(&kept, made.bytes, n);
  check(!fvg_learner_read(like, &source) && kept.closed == 1 && same_parameters(like->param, p->param, p->n_param),
        "a learner's values from memory");
  nudge(like, 3);
  check(!fvg_learner_load(like, GOOD) && same_parameters(like->param, p->param, p->n_param), "and from the file");
  for (cut = 0; cut < n; cut += cut < 2000 ? 61 : 1999) ok &= cut_is_refused(w, like, made.bytes, cut);
  check(ok && cut_is_refused(w, like, made.bytes, n - 1), "cut off anywhere");
  check(same_parameters(like->param, p->param, p->n_param), "and the learner stays as it was");

  ok = 1;
  for (i = 0; i < 5; i++) {
    made.n = 0;
    made.left = i;
    ok &= fvg_checkpoint_write(p, f, write_memory, &made, NULL, 0) == FVG_E_IO && one_line(w->c, "callback", "");
  }
  check(ok, "a callback that fails");

  check(fvg_checkpoint_write(p, f, NULL, NULL, NULL, 0) == FVG_E_ARG && one_line(w->c, "checkpoint", "write"),
        "no callback");
  check(fvg_checkpoint_save(p, f, NULL, NULL, 0) == FVG_E_ARG && one_line(w->c, "checkpoint", "no path"), "no path");
  open = (fvg_weights *)(void *)&made;
  q = p;
  g = f;
  check(fvg_checkpoint_load(w->m, &q, &g, &open, NULL) == FVG_E_ARG && one_line(w->c, "checkpoint", "no path") &&
            !q && !g && !open,
        "no path to load from");
  check(fvg_checkpoint_read(w->m, &q, &g, &open, NULL) == FVG_E_ARG && one_line(w->c, "the source", "must be given"),
        "no source");
  check(fvg_learner_load(like, NULL) == FVG_E_ARG && one_line(w->c, p->method->name, "no path"), "no path for values");
  check(fvg_learner_read(like, NULL) == FVG_E_ARG && one_line(w->c, "the source", "must be given"),
        "no source for values");
  fvg_learner_free(like);
  check(fvg_mem_used(w->c) == used, "no memory stays");
}

int main(void) {
  static float x[CLASSES * SHOTS * D];
  fvg_fvgpt_desc fd = fvgpt_desc();
  fvg_fvgpt *f;
  fvg_learner *p;
  diary notes;
  fvg_desc d;
  fvg_ctx *c;
  world w;
  if (fvg_init(&c, NULL)) return 1;
  draw_model(c, &standard, D, 64, CONTEXT);
  draw_model(c, &narrow, 16, 64, CONTEXT);
  draw_model(c, &wide_text, D, 128, CONTEXT);
  draw_model(c, &long_text, D, 64, LONG_CONTEXT);
  write_pictures(c);
  check(fvg_mem_used(c) == 0, "no memory stays after writing");
  fvg_free(c);
  memset(&notes, 0, sizeof notes);
  memset(&d, 0, sizeof d);
  d.progress = note;
  d.user = &notes;
  if (world_open(&w, &d)) { printf("FAILED: %s\n", w.c ? fvg_error(w.c) : "no context"); return 1; }
  test_view_kinds(&w);
  test_view_order(&w);
  test_inverted_masks(&w);
  test_crop_scale(&w);
  test_view_pixels(&w);
  test_view_rest(&w);
  test_store(&w);
  test_image_key(&w);
  test_avalanche();
  test_similar();
  test_training(&w, &notes);
  test_order(&w, &notes);
  test_schedules(&w, &notes);
  test_training_rest(&w);
  if (fvg_encode_task(w.m, NULL, x, task_of(&w.set, &w.train)) || tune(&w, &w.train, 2, &fd, &p, &f)) {
    printf("FAILED: %s\n", fvg_error(w.c));
    return 1;
  }
  test_branches(&w, p, f, x);
  test_independence(&w, x);
  test_round_trip(&w, p, f, x);
  test_in_memory(&w, p, f, x);
  test_other_shapes(&w, x);
  test_switches(&w, x);
  test_kept_settings(&w);
  test_names_in_json(&w);
  test_spoiled(&w);
  test_other_files(&w);
  test_calibration(&w, p, f);
  test_missing_arguments(&w, p, f);
  test_null_arguments(&w, p, f);
  test_unread_sources(&w);
  test_nonsense(&w);
  test_other_set(&w, p, f);
  test_two_models(&w, p, f);
  test_two_contexts(&w, p);
  test_silent_methods(&w);
  test_exact_options(&w);
  test_made_from(&w);
  test_template_differs(&w);
  test_parts(&w, "CoOp");
  test_parts(&w, "PromptSRC");
  test_parts(&w, "MMRL");
  test_parts(&w, "MMRLpp");
  test_parts(&w, "DePT_CoOp");
  test_parts(&w, "DePT_PromptSRC");
  test_head_in_training(&w, "DePT_CoOp");
  test_head_in_training(&w, "DePT_PromptSRC");
  test_parts_in_training(&w);
  test_parts_in_branches(&w);
  test_parts_in_evidence(&w);
  test_source_orders(&w, &notes);
  test_dpc_batch(&w);
  test_dpc_step(&w, "CoOp");
  test_dpc_step(&w, "PromptSRC");
  test_dpc_defaults(&w);
  fvg_learner_free(p);
  fvg_fvgpt_free(f);
  world_close(&w);
  test_helpers_peak();
  test_resume();
  test_spoiled_states();
  test_stopped_check();
  test_notes();
  test_guard();
  test_many_classes();
  test_divergence();
  test_dpc_training();
  test_threads();
  test_allocation_failures();
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
