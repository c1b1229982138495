/* A small CLIP of random weights, in Hugging Face's names and in OpenAI's, for the tests of models and towers. */
#ifndef RANDOM_MODEL_H
#define RANDOM_MODEL_H
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }
static void need(int ok, const char *what) { if (!ok) check(0, what); }  /* to get on; not counted */

static fvg_ctx *c;
static int one_line(const char *a, const char *b) {  /* the last message is a line with both parts */
  const char *e = fvg_error(c);
  int ok = strstr(e, a) && strstr(e, b) && !strchr(e, '\n');
  if (!ok) printf("  message: %s\n  wanted:  %s / %s\n", e, a, b);
  return ok;
}

/* Largest difference in units of the largest expected number; a NaN is the worst. */
static double difference(const float *got, const float *expected, int n) {
  double worst = 0, size = 1e-30;
  int i;
  for (i = 0; i < n; i++) {
    double e = fabs((double)got[i] - (double)expected[i]);
    if (!(e <= worst)) worst = e;
    size = fmax(size, fabs((double)expected[i]));
  }
  return worst / size;
}

/* ---- a small CLIP of random weights, in HF's names and in OpenAI's ---- */
enum {
  VISION = 128, VISION_MLP = 96, VISION_LAYERS = 2, PATCH = 4, IMAGE = 12, TOKENS = 10, PIXELS = 3 * IMAGE * IMAGE,
  TEXT = 64, TEXT_MLP = 160, TEXT_LAYERS = 3, CONTEXT = 20, VOCAB = 512 + 5 + 2, EMBED = 40, MAX_TENSORS = 100
};
static const char merges[] = "#version: 0.2\np h\no t\nph ot\nphot o</w>\no f</w>\n";
typedef struct model { fvg_named_tensor tensor[MAX_TENSORS]; char name[MAX_TENSORS][96]; int n; } model;
static model hf, openai;
static float pool[1000000];
static size_t pool_used;

static float *add(model *m, const char *name, int n_dim, int d0, int d1, int d2, int d3) {
  fvg_tensor *x = &m->tensor[m->n].tensor;
  float *data = pool + pool_used;
  snprintf(m->name[m->n], sizeof m->name[0], "%s", name);
  m->tensor[m->n].name = m->name[m->n];
  x->n_dim = n_dim;
  x->dim[0] = d0;
  x->dim[1] = d1;
  x->dim[2] = d2;
  x->dim[3] = d3;
  x->data = data;
  pool_used += fvg_tensor_count(x);
  m->n++;
  return data;
}

static void draw(const char *name, int n_dim, int d0, int d1, int d2, int d3, double mean, double deviation) {
  static fvg_rng rng;
  float *x = add(&hf, name, n_dim, d0, d1, d2, d3);
  if (hf.n == 1) fvg_rng_seed(&rng, 3, 0);
  for (; x < pool + pool_used; x++) *x = (float)(mean + deviation * fvg_rng_normal(&rng));
}

static void draw_pair(const char *prefix, const char *leaf, int rows, int cols) {  /* cols 0: a layer norm */
  char name[96];
  snprintf(name, sizeof name, "%s%s.weight", prefix, leaf);
  draw(name, cols ? 2 : 1, rows, cols, 0, 0, cols ? 0 : 1, cols ? 1.5 / sqrt((double)cols) : 0.2);
  snprintf(name, sizeof name, "%s%s.bias", prefix, leaf);
  draw(name, 1, rows, 0, 0, 0, 0, 0.2);
}

static void draw_blocks(const char *tower, int layers, int w, int mlp) {
  static const char *const square[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                       "self_attn.out_proj"};
  char prefix[64];
  int i, k;
  for (i = 0; i < layers; i++) {
    snprintf(prefix, sizeof prefix, "%s.encoder.layers.%d.", tower, i);
    for (k = 0; k < 4; k++) draw_pair(prefix, square[k], w, w);
    draw_pair(prefix, "layer_norm1", w, 0);
    draw_pair(prefix, "layer_norm2", w, 0);
    draw_pair(prefix, "mlp.fc1", mlp, w);
    draw_pair(prefix, "mlp.fc2", w, mlp);
  }
}

static void draw_model(void) {
  draw("logit_scale", 0, 0, 0, 0, 0, 3, 0);
  draw("vision_model.embeddings.patch_embedding.weight", 4, VISION, 3, PATCH, PATCH, 0, 0.2);
  draw("vision_model.embeddings.class_embedding", 1, VISION, 0, 0, 0, 0, 1);
  draw("vision_model.embeddings.position_embedding.weight", 2, TOKENS, VISION, 0, 0, 0, 0.5);
  draw_pair("vision_model.", "pre_layrnorm", VISION, 0);
  draw_pair("vision_model.", "post_layernorm", VISION, 0);
  draw_blocks("vision_model", VISION_LAYERS, VISION, VISION_MLP);
  draw("visual_projection.weight", 2, EMBED, VISION, 0, 0, 0, 0.1);
  draw("text_model.embeddings.token_embedding.weight", 2, VOCAB, TEXT, 0, 0, 0, 1);
  draw("text_model.embeddings.position_embedding.weight", 2, CONTEXT, TEXT, 0, 0, 0, 0.5);
  draw_pair("text_model.", "final_layer_norm", TEXT, 0);
  draw_blocks("text_model", TEXT_LAYERS, TEXT, TEXT_MLP);
  draw("text_projection.weight", 2, EMBED, TEXT, 0, 0, 0, 0.1);
}

/* `name` with the first rule that fits applied, then the second kind of rules for what stands in the middle. */
static void openai_name(const char *name, char *out, size_t size) {
  static const char *const rule[][2] = {
    {"vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"},
    {"vision_model.embeddings.class_embedding", "visual.class_embedding"},
    {"vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"},
    {"vision_model.pre_layrnorm", "visual.ln_pre"}, {"vision_model.post_layernorm", "visual.ln_post"},
    {"vision_model.encoder.layers", "visual.transformer.resblocks"}, {"visual_projection.weight", "visual.proj"},
    {"text_model.embeddings.token_embedding", "token_embedding"},
    {"text_model.embeddings.position_embedding.weight", "positional_embedding"},
    {"text_model.final_layer_norm", "ln_final"}, {"text_model.encoder.layers", "transformer.resblocks"},
    {"text_projection.weight", "text_projection"}, {"self_attn.q_proj.", "attn.in_proj_"},
    {"self_attn.out_proj", "attn.out_proj"}, {"layer_norm1", "ln_1"}, {"layer_norm2", "ln_2"},
    {"mlp.fc1", "mlp.c_fc"}, {"mlp.fc2", "mlp.c_proj"}
  };
  char rest[96];
  size_t i;
  snprintf(out, size, "%s", name);
  for (i = 0; i < sizeof rule / sizeof *rule; i++) {
    char *at = strstr(out, rule[i][0]);
    if (!at) continue;
    snprintf(rest, sizeof rest, "%s", at + strlen(rule[i][0]));
    snprintf(at, size - (size_t)(at - out), "%s%s", rule[i][1], rest);
  }
}

/* The same numbers as OpenAI keeps them: q, k, v below one another, projections turned, three scalars besides. */
static void convert_model(void) {
  static int64_t scalar[3] = {IMAGE, CONTEXT, VOCAB};
  static const char *const scalar_name[] = {"input_resolution", "context_length", "vocab_size"};
  char name[96];
  int i, k, row, col;
  for (i = 0; i < hf.n; i++) {
    const fvg_tensor *x = &hf.tensor[i].tensor;
    const float *from = (const float *)x->data;
    size_t count = fvg_tensor_count(x);
    int rows = x->dim[0], cols = x->dim[1];
    float *to;
    if (strstr(hf.name[i], "k_proj") || strstr(hf.name[i], "v_proj")) continue;
    openai_name(hf.name[i], name, sizeof name);
    if (strstr(hf.name[i], "q_proj")) {                                 /* order: q weight, q bias, k weight, ... */
      to = add(&openai, name, x->n_dim, 3 * rows, cols, 0, 0);
      for (k = 0; k < 3; k++) memcpy(to + (size_t)k * count, hf.tensor[i + 2 * k].tensor.data, count * sizeof *to);
    } else if (strstr(hf.name[i], "projection")) {
      to = add(&openai, name, 2, cols, rows, 0, 0);
      for (row = 0; row < rows; row++) for (col = 0; col < cols; col++) to[col * rows + row] = from[row * cols + col];
    } else {
      memcpy(add(&openai, name, x->n_dim, rows, cols, x->dim[2], x->dim[3]), from, count * sizeof *to);
    }
  }
  for (i = 0; i < 3; i++) {
    add(&openai, scalar_name[i], 0, 0, 0, 0, 0);
    openai.tensor[openai.n - 1].tensor.type = FVG_I64;
    openai.tensor[openai.n - 1].tensor.data = &scalar[i];
  }
}

/* ---- from numbers to a loaded model, in memory ---- */
typedef struct buffer { char *bytes; size_t n, capacity; } buffer;

static int append(void *user, const void *bytes, size_t n) {
  buffer *b = (buffer *)user;
  if (b->n + n > b->capacity) {
    char *more = (char *)realloc(b->bytes, b->capacity = 2 * (b->n + n));
    if (!more) return 1;
    b->bytes = more;
  }
  memcpy(b->bytes + b->n, bytes, n);
  b->n += n;
  return 0;
}

static fvg_status load_bytes(fvg_ctx *k, fvg_clip **m, const buffer *b, const char *config, fvg_dtype keep_as) {
  fvg_source source = fvg_source_memory(b->bytes, b->n, "tiny.safetensors");
  fvg_weights *w;
  fvg_status s = fvg_weights_open(k, &w, &source);
  *m = NULL;
  if (s) return s;
  s = fvg_clip_load(k, m, w, config, keep_as);
  fvg_weights_close(w);
  if (s || !(*m)->has_text) return s;
  source = fvg_source_memory(merges, sizeof merges - 1, "merges");
  s = fvg_tokenizer_open(k, &(*m)->tokenizer, &source, (*m)->text.vocab_size);
  if (s) { fvg_clip_free(*m); *m = NULL; }
  return s;
}

static fvg_status load(fvg_clip **m, const fvg_named_tensor *tensor, int n, const char *config, fvg_dtype keep_as) {
  static buffer b;
  fvg_status s;
  b.n = 0;
  *m = NULL;
  s = fvg_safetensors_write(c, append, &b, tensor, n, NULL, 0);
  return s ? s : load_bytes(c, m, &b, config, keep_as);
}

static fvg_clip *must_load(const model *x, const char *config, fvg_dtype keep_as) {
  fvg_clip *m;
  if (load(&m, x->tensor, x->n, config, keep_as)) { printf("FAILED to load: %s\n", fvg_error(c)); exit(1); }
  return m;
}

enum { IMAGES = 11, TEXTS = 4 };                                        /* more images than pass the tower at once */
static float images[IMAGES * PIXELS];
static const char *const texts[TEXTS] = {"a photo of a cat.", "a photo of a cab.", "of", "x y z"};
typedef struct features { float image[IMAGES * EMBED], text[TEXTS * EMBED]; } features;

static void encode(fvg_clip *m, features *f) {
  memset(f, 0, sizeof *f);
  need(!m->has_vision || !fvg_clip_encode_images(m, f->image, images, IMAGES), "images are encoded");
  need(!m->has_text || !fvg_clip_encode_texts(m, f->text, texts, TEXTS), "texts are encoded");
}

static void encode_once(const model *x, const char *config, features *f) {
  fvg_clip *m = must_load(x, config, FVG_F32);
  encode(m, f);
  fvg_clip_free(m);
}

static int same(const float *a, const float *b, int n) { return !memcmp(a, b, (size_t)n * sizeof *a); }
static int same_images(const features *a, const features *b) { return same(a->image, b->image, IMAGES * EMBED); }
static int same_texts(const features *a, const features *b) { return same(a->text, b->text, TEXTS * EMBED); }

/* Fills hf, openai and images. */
static void make_random_model(void) {
  fvg_rng rng;
  int i;
  fvg_rng_seed(&rng, 4, 0);
  for (i = 0; i < IMAGES * PIXELS; i++) images[i] = (float)fvg_rng_normal(&rng);
  draw_model();
  convert_model();
}
#endif
