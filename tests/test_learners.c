/* Chapters 13 (where prompts stand) to 24 of fvgpt_clip.h: the methods of prompt tuning.  Both towers are laid out
   once more by hand, row by row and without packing, with the prompts where the papers have them; the losses are
   written down again in double precision, and numeric derivatives of those are the judges of the gradients.
   Run from the repository root; writes checkpoints under build/test-learners. */
#define FVGPT_PTHREADS
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"
#include "shorthand.h"
#include <sys/stat.h>

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }
static void check_of(int ok, const char *method, const char *what) {
  char line[200];
  snprintf(line, sizeof line, "%s: %s", method, what);
  check(ok, line);
}

static void need(int ok, const char *what) { if (!ok) check(0, what); }  /* to get on; not counted */

static fvg_ctx *c;
static int one_line(const char *a, const char *b) {  /* the last message is a line with both parts */
  const char *e = fvg_error(c);
  int ok = strstr(e, a) && strstr(e, b) && !strchr(e, '\n');
  if (!ok) printf("  message: %s\n  wanted:  %s / %s\n", e, a, b);
  return ok;
}

static double difference(const float *got, const float *expected, size_t n) {
  double worst = 0;
  size_t i;
  for (i = 0; i < n; i++) {
    double e = fabs((double)got[i] - (double)expected[i]);
    if (!(e <= worst)) worst = e;                /* a NaN is the worst                                             */
  }
  return worst;
}

/* The difference in units of the greatest number expected. */
static double relative(const float *got, const float *expected, size_t n) {
  double size = 1e-30;
  size_t i;
  for (i = 0; i < n; i++) size = fmax(size, fabs((double)expected[i]));
  return difference(got, expected, n) / size;
}

/* ---- a small CLIP of random weights, in memory, whose towers have nothing in common ---- */
enum {
  GRID = 3, PATCH = 4, SIZE = GRID * PATCH, PIXELS = 3 * SIZE * SIZE, TOKENS = 1 + GRID * GRID, CONTEXT = 48,
  VOCAB = 512 + 6 + 2, TEXT = 32, TEXT_LAYERS = 3, IMAGE = 48, IMAGE_LAYERS = 4, D = 20, MAX_TENSORS = 140
};
static const char merges[] = "#version: 0.2\np h\no t\nph ot\nphot o</w>\no f</w>\n. .</w>\n";
static const char config[] = "{\"text_config\": {\"num_attention_heads\": 2}, "
                             "\"vision_config\": {\"num_attention_heads\": 4}}";
typedef struct sizes { int text, text_layers, image, image_layers, d; } sizes;      /* widths; layers 0: no tower */
typedef struct model {
  fvg_named_tensor tensor[MAX_TENSORS];
  char name[MAX_TENSORS][80], bytes[1 << 20];
  float pool[1 << 18];
  size_t used, n_bytes;
  int n;
  fvg_rng rng;
} model;
static model standard, text_only, image_only, wide_text, other_width;

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

static void draw_block(model *m, const char *tower, int layer, int w) {
  static const char *const square[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                       "self_attn.out_proj"};
  char prefix[64];
  int k;
  snprintf(prefix, sizeof prefix, "%s.encoder.layers.%d.", tower, layer);
  for (k = 0; k < 4; k++) draw_pair(m, prefix, square[k], w, w);
  draw_pair(m, prefix, "layer_norm1", w, 0);
  draw_pair(m, prefix, "layer_norm2", w, 0);
  draw_pair(m, prefix, "mlp.fc1", w + 8, w);
  draw_pair(m, prefix, "mlp.fc2", w, w + 8);
}

static int append(void *user, const void *from, size_t n) {
  model *m = (model *)user;
  if (n > sizeof m->bytes - m->n_bytes) return 1;
  memcpy(m->bytes + m->n_bytes, from, n);
  m->n_bytes += n;
  return 0;
}

static void draw_model(model *m, sizes s) {
  int i;
  fvg_rng_seed(&m->rng, 11, 0);
  draw(m, "logit_scale", 0, 0, 0, 0, 2, 0);
  if (s.image_layers) {
    draw(m, "vision_model.embeddings.patch_embedding.weight", 4, s.image, 3, PATCH, 0, 0.2);
    draw(m, "vision_model.embeddings.class_embedding", 1, s.image, 0, 0, 0, 1);
    draw(m, "vision_model.embeddings.position_embedding.weight", 2, TOKENS, s.image, 0, 0, 0.5);
    draw_pair(m, "vision_model.", "pre_layrnorm", s.image, 0);
    draw_pair(m, "vision_model.", "post_layernorm", s.image, 0);
    for (i = 0; i < s.image_layers; i++) draw_block(m, "vision_model", i, s.image);
    draw(m, "visual_projection.weight", 2, s.d, s.image, 0, 0, 0.2);
  }
  if (s.text_layers) {
    draw(m, "text_model.embeddings.token_embedding.weight", 2, VOCAB, s.text, 0, 0, 1);
    draw(m, "text_model.embeddings.position_embedding.weight", 2, CONTEXT, s.text, 0, 0, 0.5);
    draw_pair(m, "text_model.", "final_layer_norm", s.text, 0);
    for (i = 0; i < s.text_layers; i++) draw_block(m, "text_model", i, s.text);
    draw(m, "text_projection.weight", 2, s.d, s.text, 0, 0, 0.2);
  }
  need(!fvg_safetensors_write(c, append, m, m->tensor, m->n, NULL, 0), "a model in memory");
}

static fvg_clip *load(fvg_ctx *k, const model *x) {
  fvg_source source = fvg_source_memory(x->bytes, x->n_bytes, "tiny.safetensors");
  fvg_clip *m = NULL;
  fvg_weights *w;
  fvg_status s = fvg_weights_open(k, &w, &source);
  if (!s) s = fvg_clip_load(k, &m, w, config, FVG_F32);
  fvg_weights_close(w);
  source = fvg_source_memory(merges, sizeof merges - 1, "merges");
  if (!s && m->has_text) s = fvg_tokenizer_open(k, &m->tokenizer, &source, VOCAB);
  if (s) { printf("FAILED to load: %s\n", fvg_error(k)); exit(1); }
  return m;
}

/* ---- a problem: classes, pictures, their foreground ---- */
enum { CLASSES = 3, N = 3, METHODS = 11, MANY = 32 };
static const char *const method_names[METHODS] = {"CoOp", "KgCoOp", "ProGrad", "CoCoOp", "PromptSRC", "MaPLe", "DAPT",
                                                  "MMRL", "MMRLpp", "DePT_CoOp", "DePT_PromptSRC"};
static const char *const names[CLASSES] = {"cat", "c_ab", "st."}, *const new_names[] = {"photo", "z"};
static fvg_clip *m;
static float pixels[N * PIXELS], pixels_fg[N * PIXELS], pixels_bg[N * PIXELS], plain[N * D];
static const int label[N] = {0, 2, 1};

static void draw_pictures(void) {
  fvg_rng rng;
  int i;
  fvg_rng_seed(&rng, 29, 0);
  for (i = 0; i < N * PIXELS; i++) {
    int inside = i % SIZE < SIZE / 2 + i / PIXELS;                  /* the left half, and more of later pictures */
    pixels[i] = (float)fvg_rng_normal(&rng);
    pixels_fg[i] = inside ? pixels[i] : 0;
    pixels_bg[i] = inside ? 0 : pixels[i];
  }
  need(!fvg_learner_encode_images(m, NULL, plain, pixels, N), "plain features");
}

static fvg_batch batch_of(int epoch) {
  fvg_batch b;
  memset(&b, 0, sizeof b);
  b.n = N;
  b.epoch = epoch;
  b.label = label;
  b.f_clip = plain;
  b.pixels = pixels;
  b.pixels_fg = pixels_fg;
  return b;
}

static fvg_learner_desc desc_of(const char *method) {
  fvg_learner_desc d;
  memset(&d, 0, sizeof d);
  d.method = fvg_method_find(method);
  d.seed = 7;
  return d;
}

static fvg_learner *learner_of(const fvg_learner_desc *d) {
  fvg_learner *l;
  if (fvg_learner_new(m, &l, names, CLASSES, d)) { printf("FAILED fvg_learner_new: %s\n", fvg_error(c)); exit(1); }
  return l;
}

/* Prompts of 0.02 are so short that a layer norm makes them hard to differentiate by differences: noise of 0.2. */
static void shake(fvg_learner *l) {
  fvg_rng rng;
  size_t k;
  int i;
  fvg_rng_seed(&rng, 3, 0);
  for (i = 0; i < l->n_param; i++)
    for (k = 0; k < fvg_tensor_count(&l->param[i]->value); k++)
      ((float *)l->param[i]->value.data)[k] += (float)(0.2 * fvg_rng_normal(&rng));
}

/* The options that make a method small, and its prompts shaken. */
static fvg_learner *small_learner(const char *method, int chunk_rows, int recompute) {
  static const fvg_option mmrl[] = {{"rep_dim", 12}, {"n_rep_tokens", 3}, {"first_layer", 2}, {"beta", 0.6},
                                    {"res_lora_dim", 2}, {"proj_lora_dim", 6}},
                          src[] = {{"n_ctx_vision", 2}, {"depth_text", 2}, {"depth_vision", 3}};
  fvg_learner_desc d = desc_of(method);
  fvg_learner *l;
  d.chunk_rows = chunk_rows;
  d.recompute = recompute;
  if (!strncmp(method, "MMRL", 4)) { d.option = mmrl; d.n_option = method[4] ? 6 : 3; }
  if (strstr(method, "PromptSRC")) { d.option = src; d.n_option = 3; }
  l = learner_of(&d);
  shake(l);
  return l;
}

static double option_of(const fvg_learner *l, const char *name) {
  int i;
  for (i = 0; l->method->option[i].name; i++) if (!strcmp(l->method->option[i].name, name)) return l->option[i];
  return NAN;
}
static void set_option(fvg_learner *l, const char *name, double value) {
  int i;
  for (i = 0; l->method->option[i].name; i++) if (!strcmp(l->method->option[i].name, name)) l->option[i] = value;
}
static int is(const fvg_learner *l, const char *method) { return !strcmp(fvg_learner_method(l), method); }
static int is_mmrl(const fvg_learner *l) { return is(l, "MMRL") || is(l, "MMRLpp"); }
static int is_src(const fvg_learner *l) { return is(l, "PromptSRC") || is(l, "DePT_PromptSRC"); }
static int has_head(const fvg_learner *l) { return is(l, "DePT_CoOp") || is(l, "DePT_PromptSRC"); }
static int reads_pixels(const fvg_learner *l) { return (fvg_learner_needs(l) & FVG_NEEDS_PIXELS) != 0; }
static int prompts_image(const fvg_learner *l) { return reads_pixels(l) && !is(l, "DePT_CoOp"); }

/* ---- the towers by hand ---- */
enum { ROWS = 80, WIDE = 64 };
static const fvg_parameter *parameter(const fvg_learner *l, const char *form, int i) {
  char name[120];
  snprintf(name, sizeof name, form, i);
  return fvg_learner_parameter(l, name);
}

static const float *values(const fvg_parameter *p) { return (const float *)p->value.data; }

static void layer_by_hand(const float *x, int n, const fvg_parameter *weight, const fvg_parameter *bias, float *y) {
  int n_out = weight->value.dim[0], n_in = weight->value.dim[1], i, j, k;
  for (i = 0; i < n; i++)
    for (j = 0; j < n_out; j++) {
      double sum = (double)values(bias)[j];
      for (k = 0; k < n_in; k++) sum += (double)values(weight)[j * n_in + k] * (double)x[i * n_in + k];
      y[i * n_out + j] = (float)sum;
    }
}

/* MMRL's first block of a tower, from 0. */
static int first_block(const fvg_learner *l, int image) {
  int asked = (int)option_of(l, "first_layer"),
      first = (asked ? asked : (image ? IMAGE_LAYERS : TEXT_LAYERS) / 2) - 1;
  return first < 0 ? 0 : first;
}

/* MMRL++'s tokens of block i: R (A + U V)^T + b. */
static int aligned_by_hand(const fvg_learner *l, int image, int i, float *rows) {
  const char *form[] = {"representation_learner.srra_r2tproj.srra.%d.A", "representation_learner.srra_r2tproj.srra.%d.B",
                        "representation_learner.srra_r2tproj.srra.%d.bias",
                        "representation_learner.srra_r2vproj.srra.%d.A", "representation_learner.srra_r2vproj.srra.%d.B",
                        "representation_learner.srra_r2vproj.srra.%d.bias"};
  const fvg_parameter *R = parameter(l, "representation_learner.compound_rep_tokens", 0),
                      *A = parameter(l, image ? "representation_learner.srra_r2vproj.weight" :
                                                "representation_learner.srra_r2tproj.weight", 0),
                      *U = parameter(l, form[3 * image], i), *V = parameter(l, form[3 * image + 1], i),
                      *b = parameter(l, form[3 * image + 2], i);
  int w = A->value.dim[0], D_r = A->value.dim[1], rank = U->value.dim[1], K = R->value.dim[0], row, j, k, q;
  for (row = 0; row < K; row++)
    for (j = 0; j < w; j++) {
      double sum = (double)values(b)[j];
      for (k = 0; k < D_r; k++) {
        double weight = (double)values(A)[j * D_r + k];
        for (q = 0; q < rank; q++) weight += (double)values(U)[j * rank + q] * (double)values(V)[q * D_r + k];
        sum += weight * (double)values(R)[row * D_r + k];
      }
      rows[row * w + j] = (float)sum;
    }
  return K;
}

/* The prompts that stand before a block, by their published names; the number of them. */
static int prompts_by_hand(const fvg_learner *l, int image, int layer, float *rows) {
  const fvg_parameter *p = NULL, *weight = NULL, *bias = NULL;
  if (is(l, "MMRLpp")) {
    int i = layer - first_block(l, image);
    return i < 0 ? 0 : aligned_by_hand(l, image, i, rows);
  }
  if (is(l, "MMRL")) {
    int i = layer - first_block(l, image);
    p = parameter(l, "representation_learner.compound_rep_tokens", 0);
    weight = parameter(l, image ? "representation_learner.compound_rep_tokens_r2vproj.%d.weight" :
                                  "representation_learner.compound_rep_tokens_r2tproj.%d.weight", i);
    bias = parameter(l, image ? "representation_learner.compound_rep_tokens_r2vproj.%d.bias" :
                                "representation_learner.compound_rep_tokens_r2tproj.%d.bias", i);
    if (i < 0) return 0;
    need(weight && bias, "an aligner for every block");
  } else if (is(l, "MaPLe") || is(l, "DAPT")) {
    p = layer ? parameter(l, "prompt_learner.compound_prompts_text.%d", layer - 1) :
                parameter(l, "prompt_learner.ctx", 0);
    if (image && p) {
      weight = layer ? parameter(l, "prompt_learner.compound_prompt_projections.%d.weight", layer - 1) :
                       parameter(l, "prompt_learner.proj.weight", 0);
      bias = layer ? parameter(l, "prompt_learner.compound_prompt_projections.%d.bias", layer - 1) :
                     parameter(l, "prompt_learner.proj.bias", 0);
    }
  } else if (is_src(l)) {
    if (image) p = layer ? parameter(l, "image_encoder.transformer.resblocks.%d.VPT_shallow", layer) :
                           parameter(l, "image_encoder.VPT", 0);
    else p = layer ? parameter(l, "text_encoder.transformer.resblocks.%d.VPT_shallow", layer) :
                     parameter(l, "prompt_learner.ctx", 0);
  } else if (!image && !layer) {
    p = l->param[0];
  }
  if (!p) return 0;
  if (weight) layer_by_hand(values(p), p->value.dim[0], weight, bias, rows);
  else memcpy(rows, values(p), fvg_tensor_count(&p->value) * sizeof *rows);
  return p->value.dim[0];
}

static void block_by_hand(const fvg_transformer *t, int layer, float *x, int n, int w, int causal) {
  fvg_tape *tape = fvg_tape_new(c);
  fvg_segment s;
  fvg_node *y;
  memset(&s, 0, sizeof s);
  s.n_query = s.n_key = n;
  s.causal = causal;
  y = fvg__block_forward(fvg_const(tape, n, w, x), t, &t->block[layer], &s, 1, NULL, 0);
  need(y != NULL, "a block");
  if (y) memcpy(x, fvg_value(y), (size_t)n * (size_t)w * sizeof *x);
  fvg_tape_free(tape);
}

/* k rows take the place of those that are there; of MMRL++ only a part, for it mixes them. */
static void replace_by_hand(const fvg_learner *l, float *x, const float *rows, int k, int w) {
  double beta = is(l, "MMRLpp") ? option_of(l, "beta") : 1;
  int i;
  for (i = 0; i < k * w; i++) x[i] = (float)(beta * (double)rows[i] + (1 - beta) * (double)x[i]);
}

/* K rows come in behind row 0. */
static int insert_by_hand(float *x, int n, int w, const float *rows, int k) {
  memmove(x + (1 + k) * w, x + w, (size_t)((n - 1) * w) * sizeof *x);
  memcpy(x + w, rows, (size_t)(k * w) * sizeof *x);
  return n + k;
}

/* LN of a row, times a projection [d,w], normalised; raw: before that, the last one. */
static float raw[D];
static void head_by_hand(const float *x, int w, const fvg_tensor *gain, const fvg_tensor *bias,
                         const fvg_tensor *projection, float *f) {
  fvg_tape *t = fvg_tape_new(c);
  fvg_node *y = fvg_linear(fvg__norm(fvg_const(t, 1, w, x), gain, bias, 1e-5f), fvg_frozen(t, projection), NULL);
  need(y != NULL, "a head");
  if (y) memcpy(f, fvg_value(y), D * sizeof *f);
  memcpy(raw, f, sizeof raw);
  fvg_normalize_rows(f, 1, D);
  fvg_tape_free(t);
}

/* A text of symbols, token ids or -1 - i for context vector i -> its feature; more [TEXT] is added to the vectors. */
static void text_by_hand(const fvg_learner *l, const int *symbol, int n, const float *more, float *g) {
  static float x[ROWS * WIDE], rows[ROWS * WIDE];
  const fvg_text_tower *t = &m->text;
  int i, j, layer, k = prompts_by_hand(l, 0, 0, rows);
  for (i = 0; i < n; i++)
    for (j = 0; j < TEXT; j++)
      x[i * TEXT + j] = ((const float *)t->position_embedding.data)[i * TEXT + j] +
                        (symbol[i] >= 0 ? ((const float *)t->token_embedding.data)[symbol[i] * TEXT + j]
                                        : rows[(-1 - symbol[i]) * TEXT + j] + (more ? more[j] : 0));
  for (layer = 0; layer < TEXT_LAYERS; layer++) {
    if (layer || is_mmrl(l)) {
      k = prompts_by_hand(l, 0, layer, rows);
      if (k && is_mmrl(l) && layer == first_block(l, 0)) n = insert_by_hand(x, n, TEXT, rows, k);
      else replace_by_hand(l, x + TEXT, rows, k, TEXT);
    }
    block_by_hand(&t->transformer, layer, x, n, TEXT, 1);
  }
  head_by_hand(x + (n - 1) * TEXT, TEXT, &t->ln_final_weight, &t->ln_final_bias, &t->projection, g);
}

static int tokens_by_hand(const char *text, int *symbol, int at) {
  char clean[100];
  int n = 0, i;
  for (i = 0; text[i] && i < 99; i++) clean[i] = (char)(text[i] == '_' ? ' ' : text[i]);
  clean[i] = 0;
  need(!fvg_tokenize(m->tokenizer, symbol + at, CONTEXT - at, &n, clean), "tokens");
  return at + n;
}

/* [SOT] ctx, what is left of the method's words, name and dot [EOT]; or the sentence. */
static void class_by_hand(const fvg_learner *l, const char *form, const char *name, const float *more, float *g) {
  int symbol[2 * CONTEXT], word[CONTEXT], n = 1, i, n_ctx = l->desc.n_ctx, n_word;
  char text[100], dotted[60];
  symbol[0] = VOCAB - 2;
  if (form) {
    const char *hole = strstr(form, "{}");
    snprintf(text, sizeof text, "%.*s%s%s", (int)(hole - form), form, name, hole + 2);
    n = tokens_by_hand(text, symbol, n);
  } else {
    for (i = 0; i < n_ctx; i++) symbol[n++] = -1 - i;
    n_word = l->method->ctx_init ? tokens_by_hand(l->method->ctx_init, word, 0) : 0;
    for (i = n_ctx; i < n_word; i++) symbol[n++] = word[i];
    snprintf(dotted, sizeof dotted, "%s.", name);
    n = tokens_by_hand(dotted, symbol, n);
  }
  symbol[n++] = VOCAB - 1;
  text_by_hand(l, symbol, n, more, g);
}

static void classes_by_hand(const fvg_learner *l, const char *const *name, int n, float *g) {
  int i;
  for (i = 0; i < n; i++) class_by_hand(l, is_mmrl(l) ? "a photo of a {}." : NULL, name[i], NULL, g + i * D);
}

/* What the tokens' mean [IMAGE] is multiplied by: element j, i of P_r [IMAGE, D]. */
static double projection_by_hand(const fvg_learner *l, int j, int i) {
  const fvg_parameter *P = fvg_learner_parameter(l, "image_encoder.proj_rep"),
                      *U = fvg_learner_parameter(l, "image_encoder.A"), *V = fvg_learner_parameter(l, "image_encoder.B");
  static float own[D * IMAGE];
  double sum;
  int q, rank;
  if (P) return (double)values(P)[j * D + i];
  if (!own[0]) {                                 /* CLIP's own, out of its panels                                   */
    fvg_tape *t = fvg_tape_new(c);
    float one[IMAGE];
    int row, k;
    for (row = 0; row < IMAGE; row++) {
      fvg_node *y;
      for (k = 0; k < IMAGE; k++) one[k] = (float)(k == row);
      y = fvg_linear(fvg_const(t, 1, IMAGE, one), fvg_frozen(t, &m->vision.projection), NULL);
      need(y != NULL, "a projection");
      for (k = 0; y && k < D; k++) own[k * IMAGE + row] = fvg_value(y)[k];
    }
    fvg_tape_free(t);
  }
  sum = (double)own[i * IMAGE + j];
  rank = U->value.dim[1];
  for (q = 0; q < rank; q++) sum += (double)values(U)[j * rank + q] * (double)values(V)[q * D + i];
  return sum;
}

/* A picture -> f, and MMRL's f_r.  Prompts that are there from the start stand behind the patches, as published. */
static void picture_by_hand(const fvg_learner *l, const float *image, float *f, float *f_r) {
  static float x[ROWS * WIDE], rows[ROWS * WIDE], cut[GRID * GRID * 3 * PATCH * PATCH];
  const fvg_vision_tower *v = &m->vision;
  fvg_tape *t = fvg_tape_new(c);
  fvg_node *y;
  int n = TOKENS, i, j, layer, k = is_mmrl(l) ? 0 : prompts_by_hand(l, 1, 0, rows);
  for (i = 0; i < GRID * GRID; i++)
    for (j = 0; j < 3 * PATCH * PATCH; j++)
      cut[i * 3 * PATCH * PATCH + j] = image[j / PATCH / PATCH * SIZE * SIZE +
                                             (i / GRID * PATCH + j / PATCH % PATCH) * SIZE + i % GRID * PATCH +
                                             j % PATCH];
  y = fvg_linear(fvg_const(t, GRID * GRID, 3 * PATCH * PATCH, cut), fvg_frozen(t, &v->patch_weight), NULL);
  memcpy(x, v->class_embedding.data, IMAGE * sizeof *x);
  memcpy(x + IMAGE, fvg_value(y), GRID * GRID * IMAGE * sizeof *x);
  for (i = 0; i < TOKENS * IMAGE; i++) x[i] += ((const float *)v->position_embedding.data)[i];
  memcpy(x + n * IMAGE, rows, (size_t)(k * IMAGE) * sizeof *x);
  n += k;
  y = fvg__norm(fvg_const(t, n, IMAGE, x), &v->ln_pre_weight, &v->ln_pre_bias, 1e-5f);
  memcpy(x, fvg_value(y), (size_t)(n * IMAGE) * sizeof *x);
  for (layer = 0; layer < IMAGE_LAYERS; layer++) {
    if (layer || is_mmrl(l)) {
      k = prompts_by_hand(l, 1, layer, rows);
      if (!is_mmrl(l)) memcpy(x + (n - k) * IMAGE, rows, (size_t)(k * IMAGE) * sizeof *x);
      else if (k && layer == first_block(l, 1)) n = insert_by_hand(x, n, IMAGE, rows, k);
      else replace_by_hand(l, x + IMAGE, rows, k, IMAGE);
    }
    block_by_hand(&v->transformer, layer, x, n, IMAGE, 0);
  }
  head_by_hand(x, IMAGE, &v->ln_post_weight, &v->ln_post_bias, &v->projection, f);
  if (f_r) {
    double mean[IMAGE], sum;
    y = fvg__norm(fvg_const(t, k, IMAGE, x + IMAGE), &v->ln_post_weight, &v->ln_post_bias, 1e-5f);
    for (j = 0; j < IMAGE; j++)
      for (mean[j] = 0, i = 0; i < k; i++) mean[j] += (double)fvg_value(y)[i * IMAGE + j] / k;
    for (i = 0; i < D; i++) {
      for (sum = 0, j = 0; j < IMAGE; j++) sum += mean[j] * projection_by_hand(l, j, i);
      f_r[i] = (float)sum;
    }
    fvg_normalize_rows(f_r, 1, D);
  }
  fvg_tape_free(t);
}

static void test_towers(void) {
  float g[CLASSES * D], expected[CLASSES * D], f[3 * N * D], f_hand[D], f_r[D], mixed[D];
  double worst_g = 0, worst_f = 0;
  int i, k, j;
  for (i = 0; i < METHODS; i++) {
    fvg_learner *l = small_learner(method_names[i], 0, 0);
    int width = fvg_learner_feature_width(m, l), parts = width / D;
    if (!is(l, "CoCoOp")) {
      classes_by_hand(l, names, CLASSES, expected);
      worst_g = fvg_learner_text_features(l, g, names, CLASSES) ? NAN : difference(g, expected, CLASSES * D);
      check_of(worst_g < 2e-6, method_names[i], "text features are those of rows laid down by hand");
      classes_by_hand(l, new_names, 2, expected);
      worst_g = fvg_learner_text_features(l, g, new_names, 2) ? NAN : difference(g, expected, 2 * D);
      check_of(worst_g < 2e-6, method_names[i], "and of new names");
      worst_g = fvg_learner_text_features(l, g, new_names, 1) ? NAN : difference(g, expected, D);
      check_of(worst_g < 2e-6, method_names[i], "and of a single class, which shares no prefix");
    }
    check_of(parts == (is_mmrl(l) || has_head(l) ? 3 : prompts_image(l) ? 2 : 1), method_names[i],
             "width of features");
    if (fvg_learner_encode_images(m, l, f, pixels, N)) check(0, fvg_error(c));
    for (k = 0, worst_f = 0; k < N; k++) {
      picture_by_hand(l, pixels + k * PIXELS, f_hand, is_mmrl(l) ? f_r : NULL);
      worst_f = fmax(worst_f, difference(f + k * width, f_hand, D));
      if (parts > 1) worst_f = fmax(worst_f, difference(f + k * width + D, plain + k * D, D));
      for (j = 0; j < D; j++) mixed[j] = has_head(l) ? raw[j] : 0.7f * f_hand[j] + 0.3f * f_r[j];
      if (parts > 2) worst_f = fmax(worst_f, difference(f + k * width + 2 * D, mixed, D));
    }
    check_of(worst_f < 2e-6, method_names[i], "image features are those of prompts laid down by hand");
    fvg_learner_free(l);
  }
}

/* ---- the losses by hand, in double precision ---- */
typedef struct problem {
  fvg_learner *l;
  int epoch, prior;                              /* prior: ProGrad's other loss                                    */
  float g0[CLASSES * D];                         /* plain CLIP's, or PromptSRC's mean over sentences               */
  float f_fg[N * D], f_bg[N * D];                /* DAPT: constants, as of the prompts where the problem was made  */
} problem;

static double dot(const float *x, const float *y) {
  double sum = 0;
  int i;
  for (i = 0; i < D; i++) sum += (double)x[i] * (double)y[i];
  return sum;
}

static void scores(const float *f, const float *g, int n, double *z) {
  int k;
  for (k = 0; k < n; k++) z[k] = (double)m->logit_scale * dot(f, g + k * D);
}

/* softmax in place; the logarithm of the sum of exponentials */
static double probabilities(double *z, int n) {
  double most = z[0], sum = 0;
  int k;
  for (k = 1; k < n; k++) most = fmax(most, z[k]);
  for (k = 0; k < n; k++) sum += exp(z[k] - most);
  for (k = 0; k < n; k++) z[k] = exp(z[k] - most) / sum;
  return most + log(sum);
}

static double cross_entropy(const float *f, const float *g, int n, int y) {
  double z[MANY + CLASSES], own;
  scores(f, g, n, z);
  own = z[y];
  return probabilities(z, n) - own;
}

static double distance(const float *x, const float *y) {
  double sum = 0;
  int i;
  for (i = 0; i < D; i++) sum += ((double)x[i] - (double)y[i] + 1e-6) * ((double)x[i] - (double)y[i] + 1e-6);
  return sqrt(sum);
}

static double mean_distance(const float *x, const float *y, int n) {
  double sum = 0;
  int i;
  for (i = 0; i < n; i++) sum += fabs((double)x[i] - (double)y[i]) / n;
  return sum;
}

/* KL of plain CLIP's probabilities and the learner's; without its constant, -sum p0 ln p, when cross */
static double prior_loss(const problem *x, const float *f, const float *g, int i, int cross) {
  double p0[CLASSES], p[CLASSES], sum = 0;
  int k;
  scores(plain + i * D, x->g0, CLASSES, p0);
  scores(f, g, CLASSES, p);
  probabilities(p0, CLASSES);
  probabilities(p, CLASSES);
  for (k = 0; k < CLASSES; k++) sum += p0[k] * ((cross ? 0 : log(p0[k])) - log(p[k]));
  return sum;
}

static double dapt_loss(const problem *x, int i, const float *f, const float *g, const float *g_b) {
  const fvg_learner *l = x->l;
  float all[(CLASSES + MANY) * D], now[D];
  int released = option_of(l, "released_slicing") != 0, left = released ? 7 : 0, n = CLASSES + left, k, best = 0;
  double loss, z[MANY];
  memcpy(all, g, CLASSES * D * sizeof *all);
  memcpy(all + CLASSES * D, g_b, MANY * D * sizeof *all);
  loss = cross_entropy(f, all, n, label[i]);
  if (x->epoch < (int)option_of(l, "second_phase"))
    return loss + option_of(l, "pull_push_weight") * fmax(0, distance(f, x->f_fg + i * D) -
                                                             distance(f, x->f_bg + i * D) + option_of(l, "margin"));
  loss += option_of(l, "foreground_weight") * cross_entropy(x->f_fg + i * D, all, n, label[i]);
  picture_by_hand(l, pixels_bg + i * PIXELS, now, NULL);
  scores(now, g_b + left * D, MANY - left, z);
  for (k = 1; k < MANY - left; k++) if (z[k] > z[best]) best = k;
  return loss + option_of(l, "background_weight") * cross_entropy(now, g_b + left * D, MANY - left, best);
}

/* CoCoOp's classes for one picture */
static void classes_for(const fvg_learner *l, const float *f, float *g) {
  float hidden[D], pi[TEXT];
  int k, n = l->param[1]->value.dim[0];
  layer_by_hand(f, 1, l->param[1], l->param[2], hidden);
  for (k = 0; k < n; k++) hidden[k] = hidden[k] > 0 ? hidden[k] : 0;
  layer_by_hand(hidden, 1, l->param[3], l->param[4], pi);
  for (k = 0; k < CLASSES; k++) class_by_hand(l, NULL, names[k], pi, g + k * D);
}

/* z_h of DePT's head for one raw feature, whose scale and shift are those of `channels`. */
static void head_scores(const fvg_learner *l, const float *x, const char *channels, double *z) {
  char scale[60], shift[60];
  const fvg_parameter *W = fvg_learner_parameter(l, "linear_probe_proj.weight"),
                      *b = fvg_learner_parameter(l, "linear_probe_proj.bias");
  int k, j;
  snprintf(scale, sizeof scale, "%s.scale", channels);
  snprintf(shift, sizeof shift, "%s.bias", channels);
  for (k = 0; k < CLASSES; k++)
    for (z[k] = (double)values(b)[k], j = 0; j < D; j++)
      z[k] += (double)values(W)[k * D + j] * ((double)values(fvg_learner_parameter(l, scale))[j] * (double)x[j] +
                                              (double)values(fvg_learner_parameter(l, shift))[j]);
}

static double head_cross_entropy(const fvg_learner *l, const float *x, const char *channels, int y) {
  double z[CLASSES], own;
  head_scores(l, x, channels, z);
  own = z[y];
  return probabilities(z, CLASSES) - own;
}

static double loss_by_hand(const problem *x) {
  const fvg_learner *l = x->l;
  float g[CLASSES * D], g_b[MANY * D], f[N * D], f_r[D], g_raw[CLASSES * D];
  double weight = has_head(l) ? option_of(l, "lp_weight") : 0;
  double loss = 0, cosine_g = 0, alpha = option_of(l, "alpha"), lambda = option_of(l, "reg_weight");
  int i, k;
  if (!is(l, "CoCoOp")) classes_by_hand(l, names, CLASSES, g);
  for (k = 0; is(l, "DAPT") && k < MANY; k++)
    class_by_hand(l, "a clean origami {}.", fvg__background[k], NULL, g_b + k * D);
  for (k = 0; has_head(l) && k < CLASSES; k++) {
    class_by_hand(l, NULL, names[k], NULL, g + k * D);
    memcpy(g_raw + k * D, raw, sizeof raw);
  }
  for (k = 0; k < CLASSES; k++) cosine_g += dot(g + k * D, x->g0 + k * D) / CLASSES;
  memcpy(f, plain, sizeof f);
  for (i = 0; i < N; i++) {
    if (reads_pixels(l)) picture_by_hand(l, pixels + i * PIXELS, f + i * D, is_mmrl(l) ? f_r : NULL);
    if (has_head(l))
      loss += weight * (head_cross_entropy(l, raw, "film_lp_img", label[i]) +
                        head_cross_entropy(l, g_raw + label[i] * D, "film_lp_text", label[i])) / (2 * N);
    if (is(l, "CoCoOp")) classes_for(l, f + i * D, g);
    if (x->prior) loss += prior_loss(x, f + i * D, g, i, 1) / N;
    else if (is(l, "DAPT")) loss += dapt_loss(x, i, f + i * D, g, g_b) / N;
    else if (is_mmrl(l))
      loss += (alpha * cross_entropy(f + i * D, g, CLASSES, label[i]) +
               (1 - alpha) * cross_entropy(f_r, g, CLASSES, label[i]) + lambda * (1 - dot(f + i * D, plain + i * D)) +
               lambda * (1 - cosine_g)) / N;
    else loss += (1 - weight) * cross_entropy(f + i * D, g, CLASSES, label[i]) / N;
    if (is_src(l)) loss += prior_loss(x, f + i * D, g, i, 0) / (N * CLASSES);
  }
  if (is(l, "KgCoOp")) loss += option_of(l, "W") * (1 - cosine_g);
  if (is_src(l))
    loss += option_of(l, "text_loss_weight") * mean_distance(g, x->g0, CLASSES * D) +
            option_of(l, "image_loss_weight") * mean_distance(f, plain, N * D);
  return loss;
}

/* Every sentence's features, averaged before they are normalised. */
static void mean_of_sentences(float *g0) {
  double mean[CLASSES * D];
  float one[CLASSES * D];
  const char *text[CLASSES];
  char filled[CLASSES][100];
  int i, k;
  memset(mean, 0, sizeof mean);
  check(FVG__N_SENTENCE == 60, "sixty sentences");
  for (i = 0; i < 60; i++) {
    const char *form = fvg__sentence[i], *hole = strstr(form, "{}");
    for (k = 0; k < CLASSES; k++) {
      snprintf(filled[k], sizeof filled[k], "%.*s%s%s", (int)(hole - form), form, k == 1 ? "c ab" : names[k],
               hole + 2);
      text[k] = filled[k];
    }
    need(!fvg_clip_encode_texts(m, one, text, CLASSES), "a sentence");
    for (k = 0; k < CLASSES * D; k++) mean[k] += (double)one[k] / 60;
  }
  for (k = 0; k < CLASSES * D; k++) g0[k] = (float)mean[k];
  fvg_normalize_rows(g0, CLASSES, D);
}

static problem problem_of(const char *method, int epoch) {
  problem x;
  int i;
  memset(&x, 0, sizeof x);
  x.l = small_learner(method, 0, 0);
  x.epoch = epoch;
  if (strstr(method, "PromptSRC")) mean_of_sentences(x.g0);
  else need(!fvg_clip_encode_classes(m, x.g0, NULL, names, CLASSES), "zero-shot features");
  for (i = 0; i < N; i++) {
    picture_by_hand(x.l, pixels_fg + i * PIXELS, x.f_fg + i * D, NULL);
    picture_by_hand(x.l, pixels_bg + i * PIXELS, x.f_bg + i * D, NULL);
  }
  return x;
}

static fvg_node *build(fvg_tape *t, void *user) {
  const problem *x = (const problem *)user;
  fvg_batch b = batch_of(x->epoch);
  return fvg_learner_loss(x->l, t, &b);
}

static double value_along(problem *x, fvg_parameter *p, const float *start, const double *direction, double step) {
  size_t k;
  for (k = 0; k < fvg_tensor_count(&p->value); k++)
    ((float *)p->value.data)[k] = (float)((double)start[k] + step * direction[k]);
  return loss_by_hand(x);
}

/* Parameter by parameter, along its gradient and a random part: |numeric - analytic| / |analytic|, the worst.  The
   loss is the one by hand, in which constants are constant. */
static double error_along(problem *x) {
  static float start[4096];
  static double direction[4096];
  const double h = 0.005;
  double worst = 0;
  fvg_rng rng;
  int i;
  fvg_rng_seed(&rng, 2, 0);
  for (i = 0; i < x->l->n_param; i++) {
    fvg_parameter *p = x->l->param[i];
    size_t n = fvg_tensor_count(&p->value), k;
    double analytic = 0, size = 0, one, two, error;
    need(n <= 4096, "room for a parameter");
    memcpy(start, p->value.data, n * sizeof *start);
    for (k = 0; k < n; k++) size += (double)p->grad[k] * (double)p->grad[k];
    size = sqrt(size) + 1e-12;
    for (k = 0; k < n; k++) {
      direction[k] = (double)p->grad[k] / size + 0.3 * fvg_rng_normal(&rng) / sqrt((double)n);
      analytic += direction[k] * (double)p->grad[k];
    }
    one = (value_along(x, p, start, direction, h) - value_along(x, p, start, direction, -h)) / (2 * h);
    two = (value_along(x, p, start, direction, 2 * h) - value_along(x, p, start, direction, -2 * h)) / (4 * h);
    memcpy(p->value.data, start, n * sizeof *start);
    error = fabs((4 * one - two) / 3 - analytic) / (fabs(analytic) + 1e-2);
    if (!(error < 5e-3)) printf("  %s: numeric %g, analytic %g\n", p->name, (4 * one - two) / 3, analytic);
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

static void gradients_of(problem *x, const char *what) {
  fvg_learner *l = x->l;
  fvg_tape *t = fvg_tape_new(c);
  fvg_node *y;
  double expected = loss_by_hand(x), along;
  int i;
  for (i = 0; i < l->n_param; i++)
    memset(l->param[i]->grad, 0, fvg_tensor_count(&l->param[i]->value) * sizeof(float));
  y = build(t, x);
  check_of(!fvg_backward(y) && fabs((double)fvg_value(y)[0] - expected) < 1e-5 * (1 + fabs(expected)), what,
           "the loss is the paper's");
  fvg_tape_free(t);
  along = error_along(x);
  check_of(along < 5e-3, what, "the gradient of every parameter, along a direction");
  printf("%-34s loss %.6f, gradient off by %.1e", what, expected, along);
}

/* What has no constants made of parameters can be checked element by element as well. */
static void elements_of(problem *x, const char *what) {
  float step = is_src(x->l) ? 1e-2f : is(x->l, "MMRLpp") ? 8e-2f : 4e-2f;           /* |x - y| has corners          */
  double error = fvg_gradient_check(c, build, x, x->l->param, x->l->n_param, 12, step);
  check_of(error >= 0 && error < 0.2, what, "fvg_gradient_check");  /* f32 noise where it is small; a wrong sign: 1 */
  printf(", fvg_gradient_check %.1e\n", error);
}

static void test_gradients(void) {
  problem x;
  int i;
  for (i = 0; i < METHODS; i++) {
    if (!strcmp(method_names[i], "DAPT")) continue;
    x = problem_of(method_names[i], 0);
    gradients_of(&x, method_names[i]);
    elements_of(&x, method_names[i]);
    fvg_learner_free(x.l);
  }
  for (i = 0; i < 4; i++) {                      /* f_F and f_B are constants, though made of the prompts          */
    static const char *const what[] = {"DAPT, first phase", "DAPT, second phase", "DAPT, first, released slicing",
                                       "DAPT, second, released slicing"};
    x = problem_of("DAPT", i % 2 ? 7 : 6);
    set_option(x.l, "released_slicing", i / 2);
    gradients_of(&x, what[i]);
    set_option(x.l, "pull_push_weight", 0);
    set_option(x.l, "foreground_weight", 0);
    elements_of(&x, what[i]);
    fvg_learner_free(x.l);
  }
  x = problem_of("DAPT", 0);
  set_option(x.l, "margin", 0);                  /* here and there the foreground is nearer, and nothing pulls     */
  set_option(x.l, "pull_push_weight", 5);
  gradients_of(&x, "DAPT, without a margin");
  printf("\n");
  fvg_learner_free(x.l);
}

/* ---- ProGrad's projection ---- */
static double product(const float *a, const float *b, size_t n) {
  double sum = 0;
  size_t k;
  for (k = 0; k < n; k++) sum += (double)a[k] * (double)b[k];
  return sum;
}

static void prograd_case(int conflict, double lambda) {
  static float g_ce[4096], g_kl[4096], expected[4096];
  problem x = problem_of("ProGrad", 0);
  fvg_learner *l = x.l;
  fvg_parameter *p = l->param[0];
  size_t n = fvg_tensor_count(&p->value), k;
  fvg_batch b = batch_of(0);
  fvg_optimizer *o = NULL;
  fvg_tape *t = fvg_tape_new(c);
  fvg_node *f, *z, *y;
  double z0[CLASSES], along, factor, error;
  int chosen[N], i, j;
  float loss = 0;
  set_option(l, "lambda", lambda);
  for (i = 0; i < N; i++) {                      /* labels that plain CLIP believes in most, or least              */
    scores(plain + i * D, x.g0, CLASSES, z0);
    for (chosen[i] = 0, j = 1; j < CLASSES; j++)
      if (conflict ? z0[j] < z0[chosen[i]] : z0[j] > z0[chosen[i]]) chosen[i] = j;
  }
  b.label = chosen;
  memset(p->grad, 0, n * sizeof *g_ce);
  y = fvg_learner_loss(l, t, &b);
  need(!fvg_backward(y), "CE");
  memcpy(g_ce, p->grad, n * sizeof *g_ce);
  fvg_tape_clear(t);
  memset(p->grad, 0, n * sizeof *g_ce);
  f = fvg_const(t, N, D, plain);
  z = fvg_scale(fvg_linear(f, fvg__learner_texts(l, t, &l->packed), NULL), m->logit_scale);
  y = fvg_softmax(fvg_scale(fvg_linear(f, fvg_const(t, CLASSES, D, x.g0), NULL), m->logit_scale), 1);
  need(!fvg_backward(fvg_mean(fvg_kl_rows(y, z, 1))), "KL");
  memcpy(g_kl, p->grad, n * sizeof *g_kl);
  fvg_tape_free(t);
  x.prior = 1;
  error = error_along(&x);                       /* of p->grad, which is g_kl                                      */
  check(error < 5e-3, "ProGrad: g_kl is the gradient of -sum p0 ln p");
  along = product(g_ce, g_kl, n);
  check(conflict ? along < 0 : along >= 0, conflict ? "the two gradients disagree" : "the two gradients agree");
  factor = along < 0 ? lambda * along / product(g_kl, g_kl, n) : 0;
  for (k = 0; k < n; k++) expected[k] = (float)((double)g_ce[k] - factor * (double)g_kl[k]);
  check(!fvg_optimizer_new(c, &o, l->param, l->n_param, NULL) && !fvg_learner_step(l, &loss, o, 0,
                                                                                   &b),
        "ProGrad's step");
  check(relative(p->grad, expected, n) < 1e-5, "ProGrad: g = g_ce - lambda (g_ce . n) n where they disagree");
  if (conflict && lambda == 1)
    check(fabs(product(p->grad, g_kl, n)) < 1e-5 * sqrt(product(g_kl, g_kl, n) * product(g_ce, g_ce, n)),
          "nothing is left against plain CLIP");
  fvg_optimizer_free(o);
  fvg_learner_free(l);
}

/* ---- what every implementation should pass: counts and identities ---- */
/* The numbers of parameters for ViT-B/16: init makes them before it needs any weight; the vocabulary is missing, so
   methods that then encode sentences stop there. */
static void test_counts(void) {
  static const long expected[METHODS] = {2048, 2048, 8192, 35360, 46080, 3555072, 3555072, 4992256,
                                          813312, 8192 + 27698, 46080 + 27698};
  int i, k;
  for (i = 0; i < METHODS; i++) {
    fvg_clip *vit = (fvg_clip *)fvg_alloc(c, sizeof *vit);
    fvg_learner *l = (fvg_learner *)fvg_alloc(c, sizeof *l);
    long count = 0;
    fvg_status s;
    if (!vit || !l) { check(0, "memory"); return; }
    vit->ctx = c;
    vit->has_text = vit->has_vision = 1;
    vit->embed_dim = vit->text.width = 512;
    vit->vision.width = 768;
    vit->text.context_length = 77;
    vit->text.transformer.n_layer = vit->vision.transformer.n_layer = 12;
    l->clip = vit;
    l->method = fvg_method_find(method_names[i]);
    l->desc.n_ctx = l->method->n_ctx;
    l->n_class = i < 9 ? 0 : 50;                 /* a head has a row for each                                       */
    l->prompt_template = fvg_copy_string(c, "a photo of a {}.");
    for (k = 0; l->method->option[k].name; k++) l->option[k] = l->method->option[k].published;
    s = l->method->init(l);
    for (k = 0; k < l->n_param; k++) count += (long)fvg_tensor_count(&l->param[k]->value);
    l->n_class = 0;                              /* they have no names                                              */
    check_of(count == expected[i] && (!s || s == FVG_E_ARG), method_names[i], "parameters for ViT-B/16");
    if (count != expected[i]) printf("  %ld, expected %ld\n", count, expected[i]);
    fvg_learner_free(l);
    fvg_release(c, vit);
  }
}

static void test_identities(void) {
  static const fvg_option shallow[] = {{"depth_text", 1}, {"depth_vision", 1}}, late[] = {{"rep_dim", 8}};
  fvg_learner_desc d;
  fvg_learner *l, *coop;
  float g[CLASSES * D], expected[CLASSES * D], f[3 * N * D], turned[N * PIXELS], f_turned[3 * N * D];
  int i, k, width;
  need(!fvg_clip_encode_classes(m, expected, NULL, names, CLASSES), "zero-shot features");
  for (i = 0; i < 3; i++) {
    static const char *const what[] = {"CoOp", "KgCoOp", "PromptSRC"};
    d = desc_of(what[i]);
    d.ctx_init = i ? NULL : "a photo of a";
    if (i == 2) { d.option = shallow; d.n_option = 2; }
    l = learner_of(&d);
    check_of(!fvg_learner_text_features(l, g, names, CLASSES) && !memcmp(g, expected, sizeof g), what[i],
             "the embeddings of \"a photo of a\" give the zero-shot features, bit for bit");
    fvg_learner_free(l);
  }
  d = desc_of("PromptSRC");
  d.option = shallow;
  d.n_option = 2;
  d.n_ctx = 3;                                   /* the fourth word stays: not CoOp's sentence                     */
  d.ctx_init = "";
  l = learner_of(&d);
  check(l->n_param == 2, "depth 1: the vectors at the start and no others");
  d = desc_of("CoOp");
  d.n_ctx = 3;
  coop = learner_of(&d);
  memcpy(coop->param[0]->value.data, l->param[0]->value.data, 3 * TEXT * sizeof(float));
  check(!fvg_learner_text_features(l, g, names, CLASSES) &&
            !fvg_learner_text_features(coop, expected, names, CLASSES) && !memcmp(g, expected, sizeof g),
        "depth 1 of the text tower is CoOp");
  fvg_learner_free(coop);
  fvg_learner_free(l);
  for (i = 4; i < METHODS; i++) {                /* pictures in another order                                      */
    l = small_learner(method_names[i], 0, 0);
    width = fvg_learner_feature_width(m, l);
    for (k = 0; k < N; k++) memcpy(turned + k * PIXELS, pixels + (N - 1 - k) * PIXELS, PIXELS * sizeof *turned);
    need(!fvg_learner_encode_images(m, l, f, pixels, N) && !fvg_learner_encode_images(m, l,
                                                                                      f_turned,
                                                                                      turned, N),
         "features");
    for (k = 0; k < N; k++)
      check_of(difference(f + k * width, f_turned + (N - 1 - k) * width, (size_t)width) < 1e-6, method_names[i],
               "a picture's feature does not depend on its place");
    check_of(fvg_learner_encode_images(m, l, f, pixels, -1) == FVG_E_ARG, method_names[i], "fewer than no images");
    fvg_learner_free(l);
  }
  {                                              /* what is put in late but attended to by none changes nothing    */
    fvg_clip *deaf = load(c, &standard);
    need(!fvg_clip_unpack(deaf), "matrices in rows");
    for (k = 0; k < IMAGE_LAYERS; k++) {
      fvg_block *b = &deaf->vision.transformer.block[k];
      memset(b->out_weight.data, 0, IMAGE * IMAGE * sizeof(float));
      memset(b->out_bias.data, 0, IMAGE * sizeof(float));
      if (k >= TEXT_LAYERS) continue;
      b = &deaf->text.transformer.block[k];
      memset(b->out_weight.data, 0, TEXT * TEXT * sizeof(float));
      memset(b->out_bias.data, 0, TEXT * sizeof(float));
    }
    d = desc_of("MMRL");
    d.option = late;
    d.n_option = 1;
    if (fvg_learner_new(deaf, &l, names, CLASSES, &d)) { check(0, fvg_error(c)); return; }
    check(l->packed.splicing.moved_to[1] == 6 &&
              l->packed.end_row[0] == l->packed.segment[0].n_key + l->packed.segment[1].n_key - 1 + 5,
          "MMRL: the end marks move by five rows");
    check(!fvg_learner_text_features(l, g, names, CLASSES) &&
              !fvg_clip_encode_classes(deaf, expected, NULL, names, CLASSES) && !memcmp(g, expected, sizeof g),
          "MMRL: a text tower that attends to nothing gives plain CLIP's features");
    check(!fvg_learner_encode_images(deaf, l, f, pixels, N) && difference(f, f + D, D) < 1e-6 &&
              difference(f + 3 * D, f + 4 * D, D) < 1e-6,
          "MMRL: so does the image tower");
    fvg_learner_free(l);
    fvg_clip_free(deaf);
  }
}

/* ---- the same by other ways ---- */
static float *all_gradients(const fvg_learner *l, size_t *n) {
  float *all;
  int i;
  for (*n = 0, i = 0; i < l->n_param; i++) *n += fvg_tensor_count(&l->param[i]->value);
  all = (float *)malloc(*n * sizeof *all);
  for (*n = 0, i = 0; all && i < l->n_param; i++) {
    memcpy(all + *n, l->param[i]->grad, fvg_tensor_count(&l->param[i]->value) * sizeof *all);
    *n += fvg_tensor_count(&l->param[i]->value);
  }
  return all;
}

static void test_ways(void) {
  int i, way, epoch;
  for (i = 0; i < METHODS; i++)
    for (epoch = 0; epoch < (strcmp(method_names[i], "DAPT") ? 1 : 8); epoch += 7) {
      float loss[3], *grad[3], g[3][CLASSES * D];
      size_t n = 0;
      for (way = 0; way < 3; way++) {            /* as it is; blocks recomputed; a class a part                    */
        fvg_learner *l = small_learner(method_names[i], way == 2 ? 1 : 0, way == 1);
        fvg_batch b = batch_of(epoch);
        fvg_optimizer *o = NULL;
        check_of((l->packed.next != NULL) == (way == 2), method_names[i], "parts");
        check_of(!fvg_optimizer_new(c, &o, l->param, l->n_param, NULL) &&
                     !fvg_learner_step(l, &loss[way], o, 0, &b), method_names[i], "a step");
        memset(g[way], 0, sizeof g[way]);
        if (!is(l, "CoCoOp")) need(!fvg_learner_text_features(l, g[way], names, CLASSES), "features");
        grad[way] = all_gradients(l, &n);
        fvg_optimizer_free(o);
        fvg_learner_free(l);
      }
      check_of(loss[1] == loss[0] && relative(grad[1], grad[0], n) < 1e-6, method_names[i],
               "recompute changes neither loss nor gradient");
      check_of(fabs((double)loss[2] / (double)loss[0] - 1) < 1e-5 && relative(grad[2], grad[0], n) < 1e-4 &&
                   difference(g[2], g[0], CLASSES * D) < 2e-6, method_names[i], "nor do parts");
      for (way = 0; way < 3; way++) free(grad[way]);
    }
}

/* ---- PromptSRC's average ---- */
static double average_of(fvg_learner *l, int epochs) {
  int e;
  for (e = 0; e < epochs; e++) {
    ((float *)l->param[0]->value.data)[5] = (float)(e + 1);
    ((float *)l->param[l->n_param - 1]->value.data)[0] = (float)(1 - e);
    need(!fvg_learner_epoch(l, e, epochs), "an epoch");
  }
  check(fabs((double)values(l->param[l->n_param - 1])[0] - (2 - (double)values(l->param[0])[5])) < 1e-4,
        "every parameter is averaged");
  return (double)values(l->param[0])[5];
}

static void test_average(void) {
  fvg_learner *l = small_learner("PromptSRC", 0, 0);
  double sum = 0, mean = 0, w[20];
  int e;
  check(fabs(fvg__average_weight(l, 8, 10) - 0.00407) < 5e-6 && fabs(fvg__average_weight(l, 9, 10) - 0.995924) < 5e-7,
        "10 epochs: the last weighs 0.995924, the one before 0.00407");
  check(fabs(average_of(l, 10) - (10 - 0.00407 - 2 * 6.1e-6)) < 1e-4, "the sum over 10 epochs");
  check(fabs(average_of(l, 10) - (10 - 0.00407 - 2 * 6.1e-6)) < 1e-4, "and of a second run");
  for (e = 1; e <= 20; e++) sum += w[e - 1] = exp(-(e - 15.0) * (e - 15.0) / 2);
  for (e = 1; e <= 20; e++) mean += e * w[e - 1] / sum;
  check(fabs(average_of(l, 20) - mean) < 1e-4, "20 epochs");
  check(fabs(average_of(l, 200) - 15) < 1e-4, "200 epochs");
  check(average_of(l, 1) == 1, "one epoch");
  set_option(l, "gpa_mean", 30);
  set_option(l, "gpa_std", 30);
  for (sum = mean = 0, e = 1; e <= 50; e++) sum += exp(-(e - 30.0) * (e - 30.0) / 1800);
  for (e = 1; e <= 50; e++) mean += e * exp(-(e - 30.0) * (e - 30.0) / 1800) / sum;
  check(fabs(average_of(l, 50) - mean) < 1e-4, "the few-shot setting");
  set_option(l, "gpa_mean", -1e6);
  set_option(l, "gpa_std", 1e-3);
  check(average_of(l, 5) == 1, "a mean far off");
  fvg_learner_free(l);
}

/* ---- classifiers ---- */
static void test_mmrl_scores(const char *method) {
  fvg_learner *l = small_learner(method, 0, 0);
  fvg_classifier *base = NULL, *fresh = NULL;
  float row[3 * N * D], z[2][N * CLASSES], g[CLASSES * D], f[D], f_r[D];
  double worst = 0;
  int i, k;
  check(!new_classifier(m, &base, FVG_TUNED, l, NULL, NULL, names, CLASSES) &&
            !new_classifier(m, &fresh, FVG_TUNED_NEW, l, NULL, NULL, names, CLASSES) &&
            !fvg_learner_encode_images(m, l, row, pixels, N) && !fvg_classifier_logits(base, z[0],
                                                                                       NULL, row,
                                                                                       N) &&
            !fvg_classifier_logits(fresh, z[1], NULL, row, N) && !fvg_learner_text_features(l, g,
                                                                                            names,
                                                                                            CLASSES),
        "two classifiers");
  for (i = 0; i < N; i++) {
    picture_by_hand(l, pixels + i * PIXELS, f, f_r);
    for (k = 0; k < CLASSES; k++) {
      double own = (double)m->logit_scale * dot(f, g + k * D), rep = (double)m->logit_scale * dot(f_r, g + k * D);
      worst = fmax(worst, fabs((double)z[0][i * CLASSES + k] - 0.7 * own - 0.3 * rep));
      worst = fmax(worst, fabs((double)z[1][i * CLASSES + k] - own));
    }
  }
  check_of(worst < 3e-5, method, "base classes by alpha z + (1 - alpha) z_r, new ones by z");
  fvg_classifier_free(base);
  fvg_classifier_free(fresh);
  fvg_learner_free(l);
}

/* MMRL++ with beta 1 and no corrections is MMRL with one layer in every block and CLIP's own projection. */
static void test_mmrlpp_is_mmrl(void) {
  static const fvg_option small[] = {{"rep_dim", 12}, {"n_rep_tokens", 3}, {"first_layer", 2}, {"beta", 1}};
  static const char *const layers[] = {"v", "t"};
  fvg_learner_desc d = desc_of("MMRLpp"), d_of = desc_of("MMRL");
  fvg_learner *pp, *of;
  float g[2][CLASSES * D], f[2][3 * N * D];
  int tower, i, j;
  d.option = d_of.option = small;
  d.n_option = 4;
  d_of.n_option = 3;
  pp = learner_of(&d);
  of = learner_of(&d_of);
  for (i = 0; i < 2; i++) {
    const fvg_parameter *b[2], *V = parameter(pp, "representation_learner.srra_r2vproj.srra.%d.B", i);
    float zeros[2 * IMAGE];
    memset(zeros, 0, sizeof zeros);
    for (j = 0; j < 2; j++) b[j] = parameter(pp, i ? "representation_learner.srra_r2tproj.srra.%d.bias" :
                                                    "representation_learner.srra_r2vproj.srra.%d.bias", j);
    check(!memcmp(values(b[0]), values(b[1]), (i ? TEXT : IMAGE) * sizeof(float)) && values(b[0])[0] != 0 &&
              !memcmp(values(V), zeros, fvg_tensor_count(&V->value) * sizeof(float)),
          "MMRL++: all blocks start alike, and without a correction");
  }
  memcpy(of->param[0]->value.data, pp->param[0]->value.data, fvg_tensor_count(&pp->param[0]->value) * sizeof(float));
  for (tower = 0; tower < 2; tower++)
    for (i = 0; i < of->plan[tower ? FVG__TEXT : FVG__IMAGE].n_layer; i++)
      for (j = 0; j < 2; j++) {
        char to[100], from[100];
        snprintf(to, sizeof to, "representation_learner.compound_rep_tokens_r2%sproj.%d.%s", layers[tower], i,
                 j ? "bias" : "weight");
        snprintf(from, sizeof from, j ? "representation_learner.srra_r2%sproj.srra.%d.bias" :
                                        "representation_learner.srra_r2%sproj.weight", layers[tower], i);
        memcpy(fvg_learner_parameter(of, to)->value.data, fvg_learner_parameter(pp, from)->value.data,
               fvg_tensor_count(&fvg_learner_parameter(of, to)->value) * sizeof(float));
      }
  for (i = 0; i < IMAGE; i++)
    for (j = 0; j < D; j++)
      ((float *)fvg_learner_parameter(of, "image_encoder.proj_rep")->value.data)[i * D + j] =
          (float)projection_by_hand(pp, i, j);
  for (i = 0; i < 2; i++)
    check(!fvg_learner_text_features(i ? of : pp, g[i], names, CLASSES) &&
              !fvg_learner_encode_images(m, i ? of : pp, f[i], pixels, N), "features of both");
  check(!memcmp(g[0], g[1], sizeof g[0]) && difference(f[0], f[1], 3 * N * D) < 1e-6, "MMRL++ with beta 1 is MMRL");
  fvg_learner_free(pp);
  fvg_learner_free(of);
}

/* ---- DePT's head ---- */
/* Base classes, in any order, get (1 - lambda) z + lambda z_h, z being s f g^T or FVG-PT's z_FDC; new ones z. */
static void test_dept_scores(const char *method) {
  static const char *const turned[] = {"St.", "cat"}, *const strange[] = {"cat", "photo"};
  static const int at[] = {2, 0};
  fvg_learner *l = small_learner(method, 0, 0);
  fvg_fvgpt_desc fd;
  fvg_fvgpt *modules = NULL;
  float row[3 * N * D], part[3 * N * D], z[4][N * CLASSES], g[CLASSES * D], f[D], z_fdc[N * CLASSES];
  double worst[4] = {0, 0, 0, 0}, z_h[CLASSES], lambda;
  fvg_fvgpt_batch b;
  fvg_classifier *k = NULL;
  int i, j;
  set_option(l, "lp_weight", 0.6);
  lambda = 0.6;
  memset(&fd, 0, sizeof fd);
  fd.width = D;
  fd.logit_scale = m->logit_scale;
  fd.fdc_init_scale = 0.5f;
  need(!fvg_fvgpt_new(c, &modules, &fd) && !fvg_learner_encode_images(m, l, row, pixels, N), "modules and features");
  for (i = 0; i < 4; i++) {
    static const fvg_branch branch[] = {FVG_TUNED, FVG_TUNED_NEW, FVG_BRANCH_BASE, FVG_TUNED};
    check_of(!new_classifier(m, &k, branch[i], l, i == 2 ? modules : NULL, NULL, i == 3 ? turned : names,
                             i == 3 ? 2 : CLASSES) && !fvg_classifier_logits(k, z[i], NULL, row, N), method, "scores");
    fvg_classifier_free(k);
    k = NULL;
  }
  need(!fvg_learner_text_features(l, g, names, CLASSES), "texts");
  memset(&b, 0, sizeof b);
  b.n = N;
  b.n_class = CLASSES;
  b.f = fvg__feature_matrices(m, l, row, N, part).f;
  b.g = g;
  need(!fvg_fvgpt_score_base(modules, z_fdc, &b), "z_FDC");
  for (i = 0; i < N; i++) {
    picture_by_hand(l, pixels + i * PIXELS, f, NULL);
    head_scores(l, raw, "film_lp_img", z_h);
    for (j = 0; j < CLASSES; j++) {
      double own = (double)m->logit_scale * dot(f, g + j * D);
      worst[0] = fmax(worst[0], fabs((double)z[0][i * CLASSES + j] - (1 - lambda) * own - lambda * z_h[j]));
      worst[1] = fmax(worst[1], fabs((double)z[1][i * CLASSES + j] - own));
      worst[2] = fmax(worst[2], fabs((double)z[2][i * CLASSES + j] - (1 - lambda) * (double)z_fdc[i * CLASSES + j] -
                                     lambda * z_h[j]));
      if (j < 2)
        worst[3] = fmax(worst[3], fabs((double)z[3][i * 2 + j] - (double)z[0][i * CLASSES + at[j]]));
    }
  }
  check_of(worst[0] < 3e-5, method, "base classes by (1 - lambda) z + lambda z_h");
  check_of(worst[1] < 3e-5, method, "new ones by z");
  check_of(worst[2] < 3e-5, method, "FVG-PT's base classes by (1 - lambda) z_FDC + lambda z_h");
  check_of(worst[3] < 1e-5, method, "some of the classes, in another order");
  for (i = 0; i < 2; i++)
    check_of(new_classifier(m, &k, i ? FVG_BRANCH_BASE : FVG_TUNED, l, i ? modules : NULL, NULL, strange, 2) ==
                 FVG_E_UNSUPPORTED && !k && one_line("\"photo\"", "as new classes"), method, "a class it has no row of");
  fvg_fvgpt_free(modules);
  fvg_learner_free(l);
}

/* The head learns at 6.5 times the rate of the prompts, but not while they warm up. */
static void test_dept_rates(void) {
  fvg_learner *l = small_learner("DePT_CoOp", 0, 0);
  static float before[2][CLASSES * D + 16 * TEXT];
  int epoch, i;
  for (epoch = 0; epoch < 2; epoch++) {
    fvg_optimizer *o = NULL;
    fvg_batch b = batch_of(epoch);
    fvg_parameter *p[2];
    double worst = 0;
    p[0] = l->param[0];
    p[1] = fvg_learner_parameter(l, "linear_probe_proj.weight");
    for (i = 0; i < 2; i++) memcpy(before[i], values(p[i]), fvg_tensor_count(&p[i]->value) * sizeof(float));
    need(!fvg_optimizer_new(c, &o, l->param, l->n_param, NULL) && !fvg_learner_step(l, NULL, o, 0.01, &b), "a step");
    for (i = 0; i < 2; i++) {
      double lr = i && epoch ? 0.065 : 0.01;
      size_t k;
      for (k = 0; k < fvg_tensor_count(&p[i]->value); k++) {
        double w = (double)before[i][k], step = lr * ((double)p[i]->grad[k] + 5e-4 * w);
        worst = fmax(worst, fabs((double)values(p[i])[k] - w + step) / (1e-3 + fabs(step)));
      }
    }
    check(worst < 1e-3, epoch ? "DePT: the head at 6.5 times the rate" : "DePT: one rate in the warm-up");
    fvg_optimizer_free(o);
  }
  fvg_learner_free(l);
}

static void test_cocoop_scores(void) {
  fvg_learner *l = small_learner("CoCoOp", 0, 0);
  fvg_classifier *k = NULL;
  fvg_tape *t = fvg_tape_new(c);
  float z[N * CLASSES], g[CLASSES * D];
  double worst = 0;
  fvg_node *y;
  int i, j;
  check(!new_classifier(m, &k, FVG_TUNED, l, NULL, NULL, names, CLASSES) &&
            !fvg_classifier_logits(k, z, NULL, plain, N), "CoCoOp's classifier");
  y = l->method->scores(l, t, &l->packed, fvg_const(t, N, D, plain), NULL);
  check(y && difference(z, fvg_value(y), N * CLASSES) < 1e-5, "CoCoOp: its logits are those of the training step");
  for (i = 0; i < N; i++) {
    classes_for(l, plain + i * D, g);
    for (j = 0; j < CLASSES; j++)
      worst = fmax(worst, fabs((double)z[i * CLASSES + j] -
                               (double)m->logit_scale * dot(plain + i * D, g + j * D)));
  }
  check(worst < 3e-5, "CoCoOp: words of each picture's own");

  classes_for(l, plain + D, g);
  y = l->method->scores(l, t, &l->packed, fvg_const(t, N, D, plain), fvg_const(t, 1, D, plain + D));
  for (worst = 0, i = 0; y && i < N; i++)
    for (j = 0; j < CLASSES; j++)
      worst = fmax(worst, fabs((double)fvg_value(y)[i * CLASSES + j] -
                               (double)m->logit_scale * dot(plain + i * D, g + j * D)));
  check(y && worst < 3e-5, "CoCoOp: all in the words of one picture");
  check(fvg_learner_text_features(l, g, names, CLASSES) == FVG_E_UNSUPPORTED && one_line("CoCoOp", "every picture"),
        "CoCoOp has no text features");
  fvg_tape_free(t);
  fvg_classifier_free(k);
  fvg_learner_free(l);
}

/* ---- attention maps ---- */
static void need_maps(fvg_classifier *a, fvg_classifier *b) {
  float map[SIZE * SIZE];
  check(!fvg_attention_map(a, map, pixels, 1, FVG_RELEVANCE) && !fvg_attention_map(b, map, pixels, 1, FVG_RELEVANCE),
        "relevance maps");
}

static void test_maps(void) {
  int i, kind, k, tuned, width = SIZE * SIZE;
  for (i = 0; i < METHODS; i++) {
    fvg_learner *l = small_learner(method_names[i], 0, 0);
    fvg_classifier *k_plain = NULL, *k_tuned = NULL;
    float map[2][SIZE * SIZE], *before, *after, most = 0;
    size_t n, used;
    check(!new_classifier(m, &k_plain, FVG_ZERO_SHOT, l, NULL, NULL, names, CLASSES) &&
              !new_classifier(m, &k_tuned, FVG_TUNED, l, NULL, NULL, names, CLASSES), "classifiers");
    before = all_gradients(l, &n);
    need_maps(k_plain, k_tuned);                 /* they keep the words for backgrounds */
    used = fvg_mem_used(c);
    for (kind = FVG_GRAD_CAM; kind <= FVG_RELEVANCE; kind++) {
      for (tuned = 0; tuned < 2; tuned++)
        check_of(!fvg_attention_map(tuned ? k_tuned : k_plain, map[tuned], pixels, 1,
                                    (fvg_map_kind)kind),
                 method_names[i], "a map");
      for (most = 0, k = 0; k < width; k++) if (map[1][k] > most) most = map[1][k];
      check_of(most == 1 || most == 0, method_names[i], "its greatest value is 1, or all are 0");
      if (prompts_image(l) || kind != FVG_CLS_ATTENTION)         /* a head may move a map by little                  */
        check_of(difference(map[0], map[1], (size_t)width) > 1e-4, method_names[i], "another than plain CLIP's");
      else check_of(!memcmp(map[0], map[1], sizeof map[0]), method_names[i], "the image tower attends as before");
    }
    after = all_gradients(l, &n);
    check_of(!memcmp(before, after, n * sizeof *before), method_names[i], "maps leave gradients alone");
    check_of(fvg_mem_used(c) == used, method_names[i], "and no memory");
    free(before);
    free(after);
    fvg_classifier_free(k_plain);
    fvg_classifier_free(k_tuned);
    fvg_learner_free(l);
  }
}

/* ---- what cannot be ---- */
static void refuse(fvg_clip *k, const fvg_learner_desc *d, const char *const *name, int n, const char *a,
                   const char *b) {
  size_t used;
  fvg_learner *l;
  fvg_tape_free(k->tape);
  k->tape = NULL;
  used = fvg_mem_used(c);
  check(fvg_learner_new(k, &l, name, n, d) == FVG_E_ARG && !l && one_line(a, b), a);
  fvg_tape_free(k->tape);
  k->tape = NULL;
  check(fvg_mem_used(c) == used, "and no memory stays");
}

static void refuse_option(const char *method, const char *option, double value, const char *a, const char *b) {
  fvg_learner_desc d = desc_of(method);
  fvg_option o;
  o.name = option;
  o.value = value;
  d.option = &o;
  d.n_option = 1;
  refuse(m, &d, names, CLASSES, a, b);
}

static fvg_status fails_in_silence(fvg_learner *l) { (void)l; return FVG_E_ARG; }

static void test_refused(void) {
  fvg_clip *words = load(c, &text_only), *pictures = load(c, &image_only);
  fvg_learner_desc d;
  fvg_option option;
  fvg_classifier *k;
  double low, high;
  float g[CLASSES * D];
  int i, j, batch;
  refuse_option("CoOp", "depth", 3, "CoOp has no option depth", "");
  refuse_option("PromptSRC", "depth_text", 0, "depth_text is 0", "from 1 to 1000");
  refuse_option("PromptSRC", "gpa_std", 0, "gpa_std", "from 0.001");
  refuse_option("MMRL", "alpha", 1.5, "alpha is 1.5", "from 0 to 1");
  refuse_option("MMRL", "alpha", NAN, "alpha is", "nan");
  refuse_option("MMRL", "first_layer", 5, "first_layer is 5", "a tower has 4");
  refuse_option("MMRL", "first_layer", 4, "first_layer is 4", "a tower has 3");
  refuse_option("MMRLpp", "first_layer", 4, "MMRLpp: first_layer is 4", "a tower has 3");
  refuse_option("MMRLpp", "beta", 1.5, "beta is 1.5", "from 0 to 1");
  for (i = 0; i < METHODS; i++) {
    d = desc_of(method_names[i]);
    refuse(m, &d, names, 0, "0 classes", method_names[i]);
    refuse(pictures, &d, names, CLASSES, "text tower", method_names[i]);
    if (i >= 4) refuse(words, &d, names, CLASSES, "image tower", method_names[i]);    /* DePT_CoOp reads f_raw */
    else {
      fvg_learner *l = NULL;
      check_of(!fvg_learner_new(words, &l, names, CLASSES, &d), method_names[i], "needs no image tower");
      fvg_learner_free(l);
    }
    d.chunk_rows = -1;
    refuse(m, &d, names, CLASSES, "chunks of -1", method_names[i]);
    d.chunk_rows = 0;
    d.class_token_position = (fvg_position)7;
    refuse(m, &d, names, CLASSES, "no class_token_position 7", method_names[i]);
    d.class_token_position = FVG_END;
    if (i >= 4 && i != 9) {
      d.class_specific = 1;
      refuse(m, &d, names, CLASSES, "its context is shared", method_names[i]);
      d.class_specific = 0;
      d.class_token_position = FVG_FRONT;
      refuse(m, &d, names, CLASSES, "stands before the name", method_names[i]);
    }
    if (i < 7 || i > 8) {
      d = desc_of(method_names[i]);
      d.n_ctx = CONTEXT;
      refuse(m, &d, names, CLASSES, "48 context vectors", "1 to 45");
    }
  }
  d = desc_of("MMRL");
  d.prompt_template = "a photo";
  refuse(m, &d, names, CLASSES, "must hold {} once", "a photo");
  d.prompt_template = "a {} photo of a {}.";
  refuse(m, &d, names, CLASSES, "must hold {} once", "a {} photo");
  d = desc_of("KgCoOp");
  d.n_ctx = -3;
  refuse(m, &d, names, CLASSES, "-3 context vectors", "KgCoOp");
  d = desc_of("MMRL");
  d.n_option = 1;
  refuse(m, &d, names, CLASSES, "an option's name", "MMRL");
  option.name = NULL;
  option.value = 0;
  d.option = &option;
  refuse(m, &d, names, CLASSES, "an option's name", "MMRL");
  {
    fvg_method silent = *fvg_method_find("CoOp");     /* its init fails without a word, after another failure     */
    silent.init = fails_in_silence;
    d = desc_of("CoOp");
    d.method = &silent;
    fvg_fail(c, FVG_E_IO, "an earlier failure");
    refuse(m, &d, names, CLASSES, "did not say why", "CoOp");
  }
  d = desc_of("CoCoOp");                         /* class-specific words know their classes                        */
  d.class_specific = 1;
  {
    fvg_learner *l = learner_of(&d);
    check(new_classifier(m, &k, FVG_TUNED, l, NULL, NULL, new_names, 2) == FVG_E_UNSUPPORTED &&
              one_line("class-specific", "photo"), "CoCoOp with CSC has no new classes");
    check(!new_classifier(m, &k, FVG_TUNED, l, NULL, NULL, names, CLASSES), "but its own");
    fvg_classifier_free(k);
    fvg_learner_free(l);
  }
  for (i = 0; i < METHODS; i++) {                /* steps without what they need                                   */
    fvg_learner *l = small_learner(method_names[i], 0, 0);
    fvg_optimizer *o = NULL;
    int missing, far_label[N] = {0, 3, 1};
    if (fvg_optimizer_new(c, &o, l->param, l->n_param, NULL)) { check(0, fvg_error(c)); return; }
    for (missing = 0; missing < 5; missing++) {
      static const char *const what[] = {"pictures", "labels", "features", "pixels", "foreground"};
      fvg_batch b = batch_of(0);
      fvg_tape *t = fvg_tape_new(c);
      if (missing == 0) b.n = 0;
      if (missing == 1) b.label = NULL;
      if (missing == 2) b.f_clip = NULL;
      if (missing == 3) b.pixels = NULL;
      if (missing == 4) b.pixels_fg = NULL;
      if ((missing == 2 && !(fvg_learner_needs(l) & FVG_NEEDS_FEATURES)) ||
          (missing == 3 && !reads_pixels(l)) ||
          (missing == 4 && !(fvg_learner_needs(l) & FVG_NEEDS_FOREGROUND))) {
        check_of(!fvg_learner_step(l, NULL, o, 0, &b), method_names[i], "does without");
      } else {
        check_of(fvg_learner_step(l, NULL, o, 0, &b) == FVG_E_ARG && one_line("a step without", what[missing]),
                 method_names[i], what[missing]);
        check_of(!fvg_learner_loss(l, t, &b) && one_line("a step without", what[missing]), method_names[i],
                 "nor is there a loss");
      }
      fvg_tape_free(t);
    }
    {
      fvg_batch b = batch_of(0);
      b.label = far_label;
      check_of(fvg_learner_step(l, NULL, o, 0, &b) == FVG_E_ARG && one_line("label 3", ""), method_names[i],
               "a label beyond the classes");
    }
    check_of(!fvg_learner_loss(l, NULL, NULL), method_names[i], "no tape, no loss");
    if (i != 3) check_of(fvg_learner_text_features(l, g, names, 0) == FVG_E_ARG, method_names[i], "0 classes");
    fvg_optimizer_free(o);
    fvg_learner_free(l);
  }
  {                                              /* depths beyond the towers are those of the towers               */
    fvg_learner *l;
    d = desc_of("PromptSRC");
    l = learner_of(&d);
    check(l->n_param == TEXT_LAYERS + IMAGE_LAYERS, "PromptSRC: depth 9 is all of a small tower");
    fvg_learner_free(l);
    d = desc_of("MaPLe");
    l = learner_of(&d);
    check(l->n_param == 3 * TEXT_LAYERS, "MaPLe: as deep as the lower tower");
    fvg_learner_free(l);
  }
  check(!fvg_method_find("CoOP") && !fvg_method_find("") && !fvg_method_at(METHODS) && !fvg_method_at(-1),
        "there is no such method");
  for (i = 0; i < METHODS; i++) {
    static const int published[METHODS] = {4, 4, 32, 1, 32, 4, 4, 4, 4, 4, 4};
    const fvg_method *method = fvg_method_at(i);
    fvg_optimizer_desc o = fvg_method_optimizer(method, &batch);
    check(!strcmp(fvg_method_name(method), method_names[i]) && fvg_method_find(method_names[i]) == method &&
              batch == published[i] && o.kind == (i == 7 || i == 8 ? FVG_ADAMW : FVG_SGD), method_names[i]);
    for (j = 0; fvg_method_option(method, &option, &low, &high, j); j++)
      check_of(low <= option.value && option.value <= high, method_names[i], option.name);
    check_of(!fvg_method_option(method, &option, &low, &high, -1) &&
                 !fvg_method_option(method, &option, &low, &high, 1000), method_names[i], "no such option");
  }
  fvg_clip_free(words);
  fvg_clip_free(pictures);
}

/* ---- memory that runs out ---- */
static long until_failure;
static void *failing_alloc(void *user, size_t n) {
  (void)user;
  return until_failure-- == 0 ? NULL : malloc(n);
}
static void failing_release(void *user, void *p, size_t n) { (void)user; (void)n; free(p); }

/* A learner, a step in the second phase, a classifier, a picture. */
static fvg_status everything(fvg_clip *k, const char *method) {
  static const fvg_option mmrl[] = {{"rep_dim", 4}, {"n_rep_tokens", 2}, {"proj_lora_dim", 3}}, deep[] = {{"depth_text", 2},
                                                                                  {"depth_vision", 2}};
  fvg_learner_desc d = desc_of(method);
  fvg_learner *l = NULL;
  fvg_optimizer *o = NULL;
  fvg_classifier *tuned = NULL;
  fvg_batch b = batch_of(7);
  float g[2 * D], f[3 * D], z[2];
  fvg_status s;
  b.n = 1;
  d.recompute = !strcmp(method, "MaPLe");
  d.chunk_rows = !strncmp(method, "MMRL", 4) ? 1 : 0;
  if (!strncmp(method, "MMRL", 4)) { d.option = mmrl; d.n_option = method[4] ? 3 : 2; }
  if (strstr(method, "PromptSRC")) { d.option = deep; d.n_option = 2; }
  s = fvg_learner_new(k, &l, names, 2, &d);
  if (!s) s = fvg_optimizer_new(k->ctx, &o, l->param, l->n_param, NULL);
  if (!s) s = fvg_learner_step(l, NULL, o, 0.01, &b);
  if (!s) s = fvg_learner_epoch(l, 0, 1);
  if (!s && strcmp(method, "CoCoOp")) s = fvg_learner_text_features(l, g, new_names, 2);
  if (!s) s = fvg_learner_encode_images(k, l, f, pixels, 1);
  if (!s) s = new_classifier(k, &tuned, FVG_TUNED, l, NULL, NULL, has_head(l) ? names : new_names, 2);
  if (!s) s = fvg_classifier_logits(tuned, z, NULL, f, 1);
  fvg_classifier_free(tuned);
  fvg_optimizer_free(o);
  fvg_learner_free(l);
  return s;
}

static void test_allocation_failures(void) {
  fvg_desc d;
  fvg_ctx *own;
  fvg_clip *k;
  long n, total = 0;
  int i;
  memset(&d, 0, sizeof d);
  d.allocator.alloc = failing_alloc;
  d.allocator.release = failing_release;
  until_failure = -1;
  if (fvg_init(&own, &d)) { check(0, "a context"); return; }
  k = load(own, &standard);
  for (i = 0; i < METHODS; i++) {
    size_t used = fvg_mem_used(own);
    int ok = 1;
    int repeats = strstr(method_names[i], "PromptSRC") != NULL;         /* sixty sentences, all alike              */
    for (n = 0;; n += FVG__SEPARATE_BLOCKS ? 1 + n / 8 : repeats && n > 90 && n < 450 ? 5 : 1) {
      fvg_status s;
      own->status = FVG_OK;
      until_failure = n;
      s = everything(k, method_names[i]);
      fvg_tape_free(k->tape);
      k->tape = NULL;
      if (fvg_mem_used(own) != used || own->status != s) {
        printf("  allocation %ld fails: %s, %.0f bytes stay\n", n, fvg_status_name(s),
               (double)fvg_mem_used(own) - (double)used);
        ok = 0;
        break;
      }
      total++;
      if (until_failure >= 0) { ok = ok && !s && n > 50; break; }
      if (s != FVG_E_NOMEM) { printf("  allocation %ld fails: %s\n", n, fvg_status_name(s)); ok = 0; break; }
    }
    check_of(ok, method_names[i], "allocations failing in turn: an error, and no memory stays");
  }
  until_failure = -1;
  fvg_clip_free(k);
  check(fvg_mem_used(own) == 0, "none at all");
  fvg_free(own);
  printf("%ld allocations made to fail\n", total);
}

/* ---- checkpoints ---- */
#define FILE_NAME "build/test-learners/learner.safetensors"
static int scores_of(fvg_learner *l, fvg_fvgpt *f, float *z) {
  static float row[3 * N * D];
  int branch, ok = !fvg_learner_encode_images(m, l, row, pixels, N);
  for (branch = FVG_TUNED; ok && branch <= (f ? FVG_BRANCH_NEW : FVG_TUNED_NEW); branch++) {
    fvg_classifier *k = NULL;
    ok = !new_classifier(m, &k, (fvg_branch)branch, l, f, NULL, names, CLASSES) &&
         !fvg_classifier_logits(k, z, NULL, row, N);
    fvg_classifier_free(k);
    z += N * CLASSES;
  }
  return ok;
}

static void refuse_file(fvg_clip *k, fvg_status status, const char *a, const char *b, const char *what) {
  fvg_learner *l;
  fvg_fvgpt *f;
  check(fvg_checkpoint_load(k, &l, &f, NULL, FILE_NAME) == status && !l && !f && one_line(a, b), what);
  fvg_learner_free(l);
  fvg_fvgpt_free(f);
}

/* The file once more with one setting changed, or without it (NULL). */
static void save_changed(const char *key, const char *value) {
  fvg_weights *w = NULL;
  fvg_source source;
  fvg_named_tensor tensor[80];
  fvg_metadata meta[60];
  static const char *const keys[] = {"format", "trainer", "classes", "class_token_position", "prompt_template",
                                     "ctx_words", "n_ctx", "class_specific", "embed_dim", "n_ctx_vision",
                                     "depth_text", "depth_vision", "text_loss_weight", "image_loss_weight",
                                     "gpa_mean", "gpa_std", "prompt_depth", "W", "lambda", "ctx_fixed"};
  enum { N_KEYS = (int)(sizeof keys / sizeof *keys) };
  int i, n = 0, k = 0;
  memset(tensor, 0, sizeof tensor);
  need(!fvg_source_file(c, &source, FILE_NAME) && !fvg_weights_open(c, &w, &source), "a checkpoint");
  for (i = 0; i < N_KEYS; i++)
    if (fvg_weights_metadata(w, keys[i]) && (value || strcmp(keys[i], key))) {
      meta[k].key = keys[i];
      meta[k++].value = strcmp(keys[i], key) ? fvg_weights_metadata(w, keys[i]) : value;
    }
  for (i = 0; i < fvg_weights_count(w) && n < 80; i++, n++) {
    tensor[n].name = fvg_weights_name(w, i);
    need(!fvg_weights_get(w, &tensor[n].tensor, tensor[n].name, FVG_F32), "a tensor");
  }
  need(!fvg_safetensors_save(c, "build/test-learners/changed.safetensors", tensor, n, meta, k), "a changed file");
  for (i = 0; i < n; i++) fvg_tensor_free(c, &tensor[i].tensor);
  fvg_weights_close(w);
  remove(FILE_NAME);
  need(!rename("build/test-learners/changed.safetensors", FILE_NAME), "its name");
}

/* ---- words to start from ---- */
/* Row `row` of a shared context: 0 zeros, 1 + t the embedding of token t, -1 anything else. */
static int start_of(const fvg_learner *l, int row) {
  const float *x = values(l->param[0]) + row * TEXT;
  int token, k, zeros = 0;
  for (k = 0; k < TEXT; k++) zeros += x[k] == 0;
  if (zeros == TEXT) return 0;
  for (token = 0; token < VOCAB; token++) {
    for (k = 0; k < TEXT && x[k] == fvg__token_embedding(m, token, (size_t)k); k++) {}
    if (k == TEXT) return 1 + token;
  }
  return -1;
}

/* How each method takes words, as its published code does; all but "photo" and "of" are letters here. */
static const struct {
  const char *method, *init, *form;
  int n_ctx, want, fixed;                        /* asked; made, and tokens that stay words                         */
  const char *start;                             /* a row of the context each: 0, a word's token, or - for noise    */
  const char *says;                              /* or refused                                                      */
} word_case[] = {
  {"CoOp", "a cat photo", NULL, 0, 3, 2, "a c a", NULL},
  {"CoOp", "a cat photo", NULL, 9, 3, 2, "a c a", NULL},
  {"CoOp", "a {} photo", NULL, 0, 0, 0, NULL, "holds {}"},
  {"CoOp", "", NULL, 0, 4, 0, "- - - -", NULL},
  {"KgCoOp", NULL, NULL, 0, 4, 0, "a photo of a", NULL},
  {"KgCoOp", "a cat photo", NULL, 0, 3, 2, "a c a", NULL},
  {"KgCoOp", NULL, NULL, 3, 3, 1, "a photo of", NULL},
  {"KgCoOp", NULL, NULL, 6, 6, 0, "- - - - - -", NULL},
  {"CoCoOp", "of cat", NULL, 0, 2, 2, "of c", NULL},
  {"PromptSRC", "a cat photo", NULL, 0, 4, 1, "a c a t", NULL},
  {"PromptSRC", "a cat photo", NULL, 5, 5, 0, "- - - - -", NULL},
  {"PromptSRC", "photo of", NULL, 0, 0, 0, NULL, "2 tokens for 4 context vectors"},
  {"MaPLe", NULL, NULL, 0, 2, 2, "a photo", NULL},
  {"MaPLe", "cat photo", NULL, 0, 2, 2, "c a", NULL},
  {"MaPLe", "cat photo", NULL, 3, 3, 1, "c a t", NULL},
  {"DAPT", "photo", NULL, 0, 0, 0, NULL, "1 tokens for 2 context vectors"},
  {"ProGrad", NULL, NULL, 0, 16, 0, "0 0 0 0 0 0 0 0 0 0 0 0 a photo of a", NULL},
  {"ProGrad", NULL, "of a cat, a photo of {}.", 7, 7, 3, "0 of a c a t ,", NULL},
  {"ProGrad", NULL, "of a cat, a photo of {}.", 5, 0, 0, NULL, "6 words for 5 context vectors"},
  {"ProGrad", NULL, "{} photo.", 2, 2, 0, "- -", NULL},
  {"ProGrad", "", NULL, 2, 2, 0, "- -", NULL},
  {"ProGrad", "a cat photo", NULL, 5, 5, 2, "0 0 a c a", NULL},
  {"ProGrad", "a cat photo", NULL, 2, 0, 0, NULL, "3 words for 2 context vectors"}
};

static int starts_as(const fvg_learner *l, const char *start) {
  int row, ok = 1;
  for (row = 0; *start; row++) {
    size_t n = strcspn(start, " ");
    char piece[20];
    int token = -1, count = 1, found = start_of(l, row), k = 0;
    snprintf(piece, sizeof piece, "%.*s", (int)n, start);
    /* A letter in the middle of a word is another token than the letter alone. */
    if (strcmp(piece, "0") && strcmp(piece, "-")) need(!fvg_tokenize(m->tokenizer, &token, 1,
                                                                     &count, piece), piece);
    if (!strcmp(piece, "0")) ok &= found == 0;
    else if (!strcmp(piece, "-")) ok &= found == -1;
    else {
      int next[CONTEXT];
      for (k = 0; k < l->n_word && k < CONTEXT; k++) next[k] = l->word[k];
      ok &= found > 0 && count == 1 &&
            (found - 1 == token || found - 1 == token - 256) &&
            found - 1 == next[row - (l->desc.n_ctx - (l->n_word - l->n_fixed))];
    }
    start += n + (start[n] == ' ');
  }
  return ok && row == l->desc.n_ctx;
}

static int same_features(fvg_learner *a, fvg_learner *b) {
  float g[2][CLASSES * D], z[2][N * CLASSES];
  fvg_node *x;
  int i;
  fvg_learner *l[2];
  l[0] = a;
  l[1] = b;
  for (i = 0; i < 2; i++) {
    if (!l[i]->method->scores) {
      if (fvg_learner_text_features(l[i], g[i], names, CLASSES)) return 0;
      continue;
    }
    fvg_tape_clear(l[i]->tape);
    x = l[i]->method->scores(l[i], l[i]->tape, &l[i]->packed, fvg_const(l[i]->tape, N, D, plain), NULL);
    if (!x) return 0;
    memcpy(z[i], fvg_value(x), sizeof z[i]);
  }
  return a->method->scores ? !memcmp(z[0], z[1], sizeof z[0]) : !memcmp(g[0], g[1], sizeof g[0]);
}

/* The rules, then copies and checkpoints with words that stay. */
static void test_words(void) {
  size_t i;
  mkdir("build", 0777);
  mkdir("build/test-learners", 0777);
  for (i = 0; i < sizeof word_case / sizeof *word_case; i++) {
    fvg_learner_desc d = desc_of(word_case[i].method);
    fvg_learner *l = NULL, *copy = NULL, *again = NULL;
    fvg_fvgpt *none = NULL;
    char what[100];
    snprintf(what, sizeof what, "\"%s\", %d vectors", word_case[i].init ? word_case[i].init : "its own",
             word_case[i].n_ctx);
    d.ctx_init = word_case[i].init;
    d.n_ctx = word_case[i].n_ctx;
    d.prompt_template = word_case[i].form;
    if (word_case[i].says) {
      check_of(fvg_learner_new(m, &l, names, CLASSES, &d) == FVG_E_ARG && !l &&
                   one_line(word_case[i].says, word_case[i].method), word_case[i].method, what);
      continue;
    }
    l = learner_of(&d);
    check_of(l->desc.n_ctx == word_case[i].want && l->n_fixed == word_case[i].fixed &&
                 starts_as(l, word_case[i].start), word_case[i].method, what);
    shake(l);
    check_of(!fvg_learner_copy(&copy, l) && copy->n_fixed == l->n_fixed && same_features(l, copy),
             word_case[i].method, "copied");
    check_of(!fvg_checkpoint_save(l, NULL, FILE_NAME, NULL, 0) &&
                 !fvg_checkpoint_load(m, &again, &none, NULL, FILE_NAME) && again->n_fixed == l->n_fixed &&
                 same_features(l, again), word_case[i].method, "saved and loaded");
    fvg_learner_free(l);
    fvg_learner_free(copy);
    fvg_learner_free(again);
  }
}

/* Files of before say nothing of fixed words: KgCoOp's and MaPLe's own words kept what came after n_ctx tokens, CoOp's
   were all learned. */
static void test_old_words(void) {
  static const struct { const char *method, *init; int n_ctx; const char *words; } old[] = {
    {"MaPLe", NULL, 2, NULL}, {"KgCoOp", NULL, 3, NULL}, {"PromptSRC", NULL, 4, NULL}, {"CoOp", "", 5, "a cat photo"},
    {"ProGrad", "", 5, "a cat photo"}
  };
  fvg_learner_desc d;
  fvg_learner *l, *again = NULL;
  fvg_fvgpt *none = NULL;
  size_t i;
  for (i = 0; i < sizeof old / sizeof *old; i++) {
    d = desc_of(old[i].method);
    d.ctx_init = old[i].init;
    d.n_ctx = old[i].n_ctx;
    l = learner_of(&d);
    shake(l);
    need(!fvg_checkpoint_save(l, NULL, FILE_NAME, NULL, 0), "a checkpoint");
    save_changed("ctx_fixed", NULL);
    if (old[i].words) save_changed("ctx_words", old[i].words);
    check_of(!fvg_checkpoint_load(m, &again, &none, NULL, FILE_NAME) && same_features(l, again), old[i].method,
             "a file of before");
    if (!again) printf("  %s\n", fvg_error(c));
    fvg_learner_free(again);
    again = NULL;
    fvg_learner_free(l);
  }
  d = desc_of("KgCoOp");
  d.n_ctx = 3;
  d.class_token_position = FVG_MIDDLE;
  l = learner_of(&d);
  need(!fvg_checkpoint_save(l, NULL, FILE_NAME, NULL, 0), "a checkpoint");
  check(!fvg_checkpoint_load(m, &again, &none, NULL, FILE_NAME) && same_features(l, again), "words in the middle");
  fvg_learner_free(again);
  save_changed("ctx_fixed", "7");
  refuse_file(m, FVG_E_FORMAT, "ctx_fixed is 7", "4 tokens", "more fixed tokens than there are");
  save_changed("ctx_fixed", "-1");
  refuse_file(m, FVG_E_FORMAT, "ctx_fixed", "whole number", "fewer than none");
  save_changed("ctx_fixed", NULL);
  refuse_file(m, FVG_E_UNSUPPORTED, "not at the end", "a photo of a", "an order that has changed");
  fvg_learner_free(l);
}

/* ---- settings as published ---- */
/* Written down from the publications once more, apart from the table of chapter 33. */
static const struct {
  const char *method;
  fvg_preset preset;
  fvg_protocol protocol;
  const char *set;
  int shots, batch, epochs;
  double lr;
  int warmup, n_ctx, n_option;
  fvg_option option[4];
} recipe_case[] = {
  {"CoOp", FVG_FORK, FVG_BASE_TO_NEW, NULL, 16, 4, 10, 0.0035, 1, 0, 0, {{NULL, 0}}},
  {"CoOp", FVG_FORK, FVG_BASE_TO_NEW, "eurosat", 16, 4, 20, 0.002, 1, 0, 0, {{NULL, 0}}},
  {"CoOp", FVG_FORK, FVG_FEW_SHOT, NULL, 1, 4, 10, 0.0035, 1, 0, 0, {{NULL, 0}}},
  {"CoOp", FVG_ORIGINAL, FVG_BASE_TO_NEW, "oxford_pets", 16, 32, 200, 0.002, 1, 0, 0, {{NULL, 0}}},
  {"CoOp", FVG_ORIGINAL, FVG_BASE_TO_NEW, "imagenet", 16, 32, 50, 0.002, 1, 0, 0, {{NULL, 0}}},
  {"CoOp", FVG_ORIGINAL, FVG_CROSS_DATA, "imagenet", 0, 32, 50, 0.002, 1, 0, 0, {{NULL, 0}}},
  {"CoOp", FVG_ORIGINAL, FVG_FEW_SHOT, NULL, 1, 32, 50, 0.002, 1, 16, 0, {{NULL, 0}}},
  {"CoOp", FVG_ORIGINAL, FVG_FEW_SHOT, NULL, 2, 32, 100, 0.002, 1, 16, 0, {{NULL, 0}}},
  {"CoOp", FVG_ORIGINAL, FVG_FEW_SHOT, "eurosat", 4, 32, 100, 0.002, 1, 16, 0, {{NULL, 0}}},
  {"CoOp", FVG_ORIGINAL, FVG_FEW_SHOT, NULL, 8, 32, 200, 0.002, 1, 16, 0, {{NULL, 0}}},
  {"KgCoOp", FVG_FORK, FVG_BASE_TO_NEW, "dtd", 16, 4, 10, 0.0035, 1, 0, 0, {{NULL, 0}}},
  {"KgCoOp", FVG_FORK, FVG_BASE_TO_NEW, "eurosat", 16, 4, 20, 0.0035, 1, 0, 0, {{NULL, 0}}},
  {"KgCoOp", FVG_ORIGINAL, FVG_BASE_TO_NEW, "eurosat", 16, 128, 100, 0.002, 1, 0, 1, {{"W", 8}}},
  {"KgCoOp", FVG_ORIGINAL, FVG_CROSS_DATA, NULL, 4, 128, 100, 0.002, 1, 0, 1, {{"W", 8}}},
  {"ProGrad", FVG_FORK, FVG_BASE_TO_NEW, NULL, 16, 32, 100, 0.002, 1, 0, 0, {{NULL, 0}}},
  {"ProGrad", FVG_ORIGINAL, FVG_BASE_TO_NEW, "imagenet", 4, 32, 50, 0.002, 1, 0, 0, {{NULL, 0}}},
  {"ProGrad", FVG_FORK, FVG_FEW_SHOT, "dtd", 4, 32, 100, 0.002, 1, 0, 0, {{NULL, 0}}},
  {"ProGrad", FVG_FORK, FVG_FEW_SHOT, "dtd", 8, 32, 200, 0.002, 1, 0, 1, {{"lambda", 0.8}}},
  {"ProGrad", FVG_ORIGINAL, FVG_FEW_SHOT, "sun397", 16, 32, 200, 0.002, 1, 0, 0, {{NULL, 0}}},
  {"ProGrad", FVG_ORIGINAL, FVG_FEW_SHOT, NULL, 1, 32, 50, 0.002, 1, 0, 0, {{NULL, 0}}},
  {"CoCoOp", FVG_FORK, FVG_BASE_TO_NEW, NULL, 16, 1, 10, 0.002, 1, 0, 0, {{NULL, 0}}},
  {"CoCoOp", FVG_ORIGINAL, FVG_CROSS_DATA, "imagenet", 16, 1, 10, 0.002, 1, 0, 0, {{NULL, 0}}},
  {"PromptSRC", FVG_FORK, FVG_BASE_TO_NEW, NULL, 16, 32, 10, 0.0025, 1, 0, 0, {{NULL, 0}}},
  {"PromptSRC", FVG_FORK, FVG_BASE_TO_NEW, "eurosat", 16, 32, 20, 0.0025, 1, 0, 0, {{NULL, 0}}},
  {"PromptSRC", FVG_ORIGINAL, FVG_BASE_TO_NEW, "ucf101", 16, 4, 20, 0.0025, 1, 0, 0, {{NULL, 0}}},
  {"PromptSRC", FVG_FORK, FVG_FEW_SHOT, "ucf101", 4, 8, 50, 0.005, 1, 0, 2, {{"gpa_mean", 30}, {"gpa_std", 30}}},
  {"PromptSRC", FVG_FORK, FVG_FEW_SHOT, "eurosat", 4, 8, 50, 0.005, 1, 0, 2, {{"gpa_mean", 45}, {"gpa_std", 5}}},
  {"PromptSRC", FVG_ORIGINAL, FVG_FEW_SHOT, NULL, 4, 4, 50, 0.0025, 1, 0, 2, {{"gpa_mean", 30}, {"gpa_std", 30}}},
  {"PromptSRC", FVG_FORK, FVG_CROSS_DATA, "imagenet", 16, 4, 5, 0.0035, 1, 0, 4,
   {{"depth_text", 3}, {"depth_vision", 3}, {"gpa_mean", 6}, {"gpa_std", 10}}},
  {"PromptSRC", FVG_ORIGINAL, FVG_CROSS_DATA, "imagenet", 16, 4, 20, 0.0025, 1, 0, 4,
   {{"depth_text", 3}, {"depth_vision", 3}, {"gpa_mean", 6}, {"gpa_std", 10}}},
  {"MaPLe", FVG_FORK, FVG_BASE_TO_NEW, "eurosat", 16, 4, 5, 0.0035, 1, 0, 0, {{NULL, 0}}},
  {"MaPLe", FVG_ORIGINAL, FVG_CROSS_DATA, "imagenet", 16, 4, 2, 0.0026, 1, 0, 1, {{"prompt_depth", 3}}},
  {"DAPT", FVG_FORK, FVG_BASE_TO_NEW, NULL, 16, 4, 10, 0.0035, 1, 0, 0, {{NULL, 0}}},
  {"DAPT", FVG_ORIGINAL, FVG_BASE_TO_NEW, NULL, 16, 1, 5, 0.0035, 1, 0, 0, {{NULL, 0}}},
  {"DAPT", FVG_ORIGINAL, FVG_FEW_SHOT, NULL, 16, 4, 10, 0.0035, 1, 0, 0, {{NULL, 0}}},
  {"DAPT", FVG_FORK, FVG_CROSS_DATA, NULL, 16, 4, 10, 0.0026, 1, 0, 0, {{NULL, 0}}},
  {"MMRL", FVG_FORK, FVG_BASE_TO_NEW, "oxford_pets", 16, 4, 10, 0.001, 1, 0, 0, {{NULL, 0}}},
  {"MMRL", FVG_FORK, FVG_BASE_TO_NEW, "eurosat", 16, 4, 20, 0.001, 1, 0, 0, {{NULL, 0}}},
  {"MMRL", FVG_FORK, FVG_BASE_TO_NEW, "imagenet", 16, 32, 5, 0.001, 1, 0, 0, {{NULL, 0}}},
  {"MMRL", FVG_FORK, FVG_FEW_SHOT, "dtd", 16, 32, 50, 0.001, 1, 0, 1, {{"reg_weight", 0.5}}},
  {"MMRL", FVG_FORK, FVG_CROSS_DATA, "imagenet", 16, 32, 5, 0.001, 0, 0, 1, {{"reg_weight", 0.2}}},
  {"MMRL", FVG_ORIGINAL, FVG_BASE_TO_NEW, NULL, 16, 4, 10, 0.001, 1, 0, 0, {{NULL, 0}}},
  {"MMRL", FVG_ORIGINAL, FVG_BASE_TO_NEW, "stanford_cars", 16, 4, 10, 0.001, 1, 0, 1, {{"reg_weight", 7}}},
  {"MMRL", FVG_ORIGINAL, FVG_BASE_TO_NEW, "fgvc_aircraft", 16, 4, 10, 0.001, 1, 0, 1, {{"reg_weight", 6}}},
  {"MMRL", FVG_ORIGINAL, FVG_BASE_TO_NEW, "sun397", 16, 4, 10, 0.001, 1, 0, 1, {{"reg_weight", 6}}},
  {"MMRL", FVG_ORIGINAL, FVG_BASE_TO_NEW, "dtd", 16, 4, 10, 0.001, 1, 0, 1, {{"reg_weight", 6}}},
  {"MMRL", FVG_ORIGINAL, FVG_BASE_TO_NEW, "food101", 16, 4, 10, 0.001, 1, 0, 1, {{"reg_weight", 5}}},
  {"MMRL", FVG_ORIGINAL, FVG_BASE_TO_NEW, "flowers102", 16, 4, 10, 0.001, 1, 0, 1, {{"reg_weight", 4}}},
  {"MMRL", FVG_ORIGINAL, FVG_BASE_TO_NEW, "ucf101", 16, 4, 10, 0.001, 1, 0, 1, {{"reg_weight", 3}}},
  {"MMRL", FVG_ORIGINAL, FVG_BASE_TO_NEW, "imagenet", 16, 32, 5, 0.001, 1, 0, 1, {{"reg_weight", 0.5}}},
  {"MMRL", FVG_ORIGINAL, FVG_BASE_TO_NEW, "caltech101", 16, 4, 10, 0.001, 1, 0, 1, {{"reg_weight", 0.5}}},
  {"MMRL", FVG_ORIGINAL, FVG_BASE_TO_NEW, "oxford_pets", 16, 4, 10, 0.001, 1, 0, 1, {{"reg_weight", 0.2}}},
  {"MMRL", FVG_ORIGINAL, FVG_BASE_TO_NEW, "eurosat", 16, 4, 10, 0.001, 1, 0, 2,
   {{"reg_weight", 0.01}, {"rep_dim", 2048}}},
  {"MMRL", FVG_ORIGINAL, FVG_FEW_SHOT, "stanford_cars", 16, 32, 50, 0.001, 1, 0, 1, {{"reg_weight", 7}}},
  {"MMRL", FVG_ORIGINAL, FVG_FEW_SHOT, NULL, 16, 32, 50, 0.001, 1, 0, 1, {{"reg_weight", 0.5}}},
  {"MMRL", FVG_ORIGINAL, FVG_CROSS_DATA, NULL, 16, 32, 1, 0.001, 0, 0, 1, {{"reg_weight", 0.2}}},
  {"MMRLpp", FVG_FORK, FVG_BASE_TO_NEW, NULL, 16, 4, 10, 0.001, 1, 0, 0, {{NULL, 0}}},
  {"MMRLpp", FVG_ORIGINAL, FVG_BASE_TO_NEW, "oxford_pets", 16, 4, 10, 0.001, 1, 0, 2,
   {{"reg_weight", 0.01}, {"beta", 0.7}}},
  {"MMRLpp", FVG_FORK, FVG_BASE_TO_NEW, "caltech101", 16, 4, 10, 0.001, 1, 0, 2, {{"reg_weight", 3}, {"beta", 0.6}}},
  {"MMRLpp", FVG_FORK, FVG_BASE_TO_NEW, "stanford_cars", 16, 4, 10, 0.001, 1, 0, 2, {{"reg_weight", 6}, {"beta", 0.7}}},
  {"MMRLpp", FVG_FORK, FVG_BASE_TO_NEW, "sun397", 16, 4, 10, 0.001, 1, 0, 2, {{"reg_weight", 3}, {"beta", 0.5}}},
  {"MMRLpp", FVG_FORK, FVG_BASE_TO_NEW, "flowers102", 16, 4, 10, 0.001, 1, 0, 2, {{"reg_weight", 7}, {"beta", 0.4}}},
  {"MMRLpp", FVG_FORK, FVG_BASE_TO_NEW, "eurosat", 16, 4, 10, 0.001, 1, 0, 2, {{"reg_weight", 0.01}, {"beta", 0.2}}},
  {"MMRLpp", FVG_FORK, FVG_BASE_TO_NEW, "food101", 16, 4, 10, 0.001, 1, 0, 2, {{"reg_weight", 1}, {"beta", 0.1}}},
  {"MMRLpp", FVG_FORK, FVG_BASE_TO_NEW, "fgvc_aircraft", 16, 4, 10, 0.001, 1, 0, 1, {{"reg_weight", 2}}},
  {"MMRLpp", FVG_FORK, FVG_BASE_TO_NEW, "ucf101", 16, 4, 10, 0.001, 1, 0, 1, {{"reg_weight", 3}}},
  {"MMRLpp", FVG_FORK, FVG_BASE_TO_NEW, "dtd", 16, 4, 10, 0.001, 1, 0, 1, {{"reg_weight", 7}}},
  {"MMRLpp", FVG_FORK, FVG_BASE_TO_NEW, "imagenet", 16, 32, 5, 0.001, 1, 0, 1, {{"reg_weight", 0.2}}},
  {"MMRLpp", FVG_FORK, FVG_FEW_SHOT, "imagenet", 16, 32, 5, 0.001, 1, 0, 1, {{"reg_weight", 0.2}}},
  {"MMRLpp", FVG_ORIGINAL, FVG_FEW_SHOT, "dtd", 4, 32, 100, 0.002, 1, 0, 1, {{"reg_weight", 7}}},
  {"MMRLpp", FVG_FORK, FVG_CROSS_DATA, "imagenet", 16, 32, 1, 0.001, 0, 0, 1, {{"reg_weight", 0.1}}},
  {"MMRLpp", FVG_FORK, FVG_CROSS_DATA, NULL, 16, 32, 1, 0.001, 0, 0, 1, {{"reg_weight", 0.2}}},
  {"DePT_CoOp", FVG_FORK, FVG_BASE_TO_NEW, "eurosat", 16, 4, 10, 0.0035, 1, 0, 0, {{NULL, 0}}},
  {"DePT_PromptSRC", FVG_ORIGINAL, FVG_BASE_TO_NEW, NULL, 16, 4, 20, 0.0025, 1, 0, 0, {{NULL, 0}}}
};

static int recipe_is(const fvg_recipe *r, int batch, int epochs, double lr, int warmup, int n_ctx) {
  int w = r->optimizer.warmup_epochs;
  return r->batch == batch && r->optimizer.epochs == epochs && fabs((double)r->optimizer.lr - lr) < 1e-8 &&
         (w < 0 ? 0 : w) == warmup && r->n_ctx == n_ctx;
}

/* Every row of the tables names a method, and sets that there are. */
static void check_scope(const fvg__recipe_scope *x) {
  const char *at = x->sets;
  char key[40];
  check_of(fvg_method_find(x->method) != NULL, x->method, "a row of the table");
  for (; at && *at; at += strcspn(at, " "), at += *at == ' ') {
    snprintf(key, sizeof key, "%.*s", (int)strcspn(at, " "), at);
    check_of(fvg_dataset_card_find(key) && !strcmp(fvg_dataset_card_find(key)->key, key), x->method, key);
  }
}

static void test_recipes(void) {
  static const struct { const char *method, *set; int batch, epochs; double lr; } stage_2[] = {
    {"CoOp", NULL, 4, 10, 0.0035}, {"CoOp", "eurosat", 4, 20, 0.002}, {"KgCoOp", "eurosat", 4, 20, 0.0035},
    {"PromptSRC", NULL, 32, 10, 0.0025}, {"MMRL", "imagenet", 4, 10, 0.001}, {"MaPLe", NULL, 4, 10, 0.0035},
    {"ProGrad", NULL, 4, 10, 0.002}, {"MMRLpp", "imagenet", 4, 10, 0.001}, {"DePT_CoOp", NULL, 4, 10, 0.0035},
    {"DePT_PromptSRC", NULL, 4, 10, 0.0025}
  };
  fvg_recipe r;
  fvg_option known;
  double low, high;
  size_t i;
  int k, j, method, found;
  for (i = 0; i < sizeof recipe_case / sizeof *recipe_case; i++) {
    const fvg_dataset_card *card = fvg_dataset_card_find(recipe_case[i].set);
    char what[100];
    need(!recipe_case[i].set || card, "a card");
    fvg_method_recipe(fvg_method_find(recipe_case[i].method), &r, recipe_case[i].preset,
                      recipe_case[i].protocol, card, recipe_case[i].shots);
    snprintf(what, sizeof what, "recipe %d, %s, batch %d, %d epochs, %g", (int)i,
             recipe_case[i].set ? recipe_case[i].set : "any set", r.batch, r.optimizer.epochs,
             (double)r.optimizer.lr);
    found = recipe_is(&r, recipe_case[i].batch, recipe_case[i].epochs, recipe_case[i].lr, recipe_case[i].warmup,
                      recipe_case[i].n_ctx) && r.n_option == recipe_case[i].n_option;
    for (k = 0; found && k < r.n_option; k++) {
      for (j = 0; j < r.n_option && strcmp(r.option[k].name, recipe_case[i].option[j].name); j++) {}
      found = j < r.n_option && r.option[k].value == recipe_case[i].option[j].value;
    }
    check_of(found, recipe_case[i].method, what);
  }
  for (i = 0; i < sizeof stage_2 / sizeof *stage_2; i++) {
    fvg_fvgpt_recipe(fvg_method_find(stage_2[i].method), &r, fvg_dataset_card_find(stage_2[i].set));
    check_of(recipe_is(&r, stage_2[i].batch, stage_2[i].epochs, stage_2[i].lr, 1, 0), stage_2[i].method, "stage 2");
  }
  for (i = 0; i < (size_t)FVG__N_RECIPE; i++) check_scope(&fvg__recipe[i].scope);
  for (i = 0; i < (size_t)FVG__N_RECIPE_OPTIONS; i++) {
    const fvg_option *option = &fvg__recipe_options[i].option;
    const char *name = fvg__recipe_options[i].scope.method;
    const fvg_method *of = fvg_method_find(name);
    check_scope(&fvg__recipe_options[i].scope);
    for (j = 0; fvg_method_option(of, &known, &low, &high, j) && strcmp(known.name, option->name); j++) {}
    check_of(fvg_method_option(of, &known, &low, &high, j) && option->value >= low && option->value <= high, name,
             option->name);
  }
  for (method = 0; method < METHODS; method++) {
    int batch;
    fvg_optimizer_desc o = fvg_method_optimizer(fvg_method_at(method), &batch);
    fvg_method_recipe(fvg_method_at(method), &r, FVG_FORK, FVG_BASE_TO_NEW, NULL, 0);
    check_of(recipe_is(&r, batch, o.epochs, (double)o.lr, o.warmup_epochs, 0) && !r.n_option, method_names[method],
             "the default is the fork, base to new");
    check_of(fvg_method_crop_scale(fvg_method_at(method)) ==
               (strncmp(method_names[method], "MMRL", 4) ? 0.08f : 0.5f),
             method_names[method], "the least share of a picture in a crop");
  }
  check(!fvg__among("dtd", "dt") && !fvg__among("dtd eurosat", "euro") && fvg__among("dtd eurosat", "eurosat") &&
            fvg__among("dtd eurosat", "dtd"), "whole words among words");
  check(!fvg_method_template(fvg_method_find("CoOp"), NULL) &&
            !strcmp(fvg_method_template(fvg_method_find("ProGrad"), fvg_dataset_card_find("dtd")), "a texture of {}.") &&
            !strcmp(fvg_method_template(fvg_method_find("ProGrad"), fvg_dataset_card_find("food101")),
                    "a type of food, a photo of {}.") &&
            !strcmp(fvg_method_template(fvg_method_find("KgCoOp"), fvg_dataset_card_find("dtd")),
                    "a photo of a {}, a type of texture.") &&
            !strcmp(fvg_method_template(fvg_method_find("MMRL"), fvg_dataset_card_find("dtd")), "{} texture."),
        "each method's own templates");
}

/* ---- r in the loss and r told ---- */
/* The gate reads what scores base classes: of MMRL the mix of both features, not f. */
static void test_trust(void) {
  static const float area[N] = {0.3f, 0.5f, 0.7f};
  static float rows[2][3 * N * D], room[2][3 * N * D];
  int i, n;
  for (i = 0; i < METHODS; i++) {
    fvg_learner *l = small_learner(method_names[i], 0, 0);
    float g[CLASSES * D], g_clip[CLASSES * D], r[N], trust[N], other[N];
    fvg_fvgpt_desc fd;
    fvg_features x, x_fg;
    fvg_fvgpt_batch b;
    fvg_fvgpt_report report;
    fvg_fvgpt *f = NULL;
    fvg_tape *t = fvg_tape_new(c);
    if (l->method->scores) { fvg_learner_free(l); fvg_tape_free(t); continue; }
    n = fvg__learner_parts(l);
    memset(&fd, 0, sizeof fd);
    fd.width = D;
    fd.logit_scale = m->logit_scale;
    need(!fvg_fvgpt_new(c, &f, &fd) && !fvg_learner_text_features(l, g, names, CLASSES) &&
             !fvg_clip_encode_classes(m, g_clip, NULL, names, CLASSES) &&
             !fvg_learner_encode_images(m, l, rows[0], pixels, N) &&
             !fvg_learner_encode_images(m, l, rows[1], pixels_fg, N), "features");
    x = fvg__feature_matrices(m, l, rows[0], N, room[0]);
    x_fg = fvg__feature_matrices(m, l, rows[1], N, room[1]);
    memset(&b, 0, sizeof b);
    b.n = N;
    b.n_class = CLASSES;
    b.f = x.f;
    b.f_fg = x_fg.f;
    if (n > 1) b.f_clip = x.f_clip;
    if (is_mmrl(l)) { b.f_score = x.f_score; b.f_score_fg = x_fg.f_score; }
    b.g = g;
    b.g_clip = g_clip;
    b.area = area;
    b.label = label;
    memset(&report, 0, sizeof report);
    report.r = r;
    check_of(fvg_fvgpt_loss(f, t, &report, &b) && !fvg_fvgpt_trust(f, trust, &b) && !memcmp(r, trust, sizeof r),
             method_names[i], "trust is the loss's r, bit for bit");
    b.f_score = b.f_score_fg = NULL;
    check_of(!fvg_fvgpt_trust(f, other, &b) && is_mmrl(l) == (memcmp(r, other, sizeof r) != 0), method_names[i],
             "which reads what scores base classes");
    fvg_fvgpt_free(f);
    fvg_tape_free(t);
    fvg_learner_free(l);
  }
}

static void test_checkpoints(void) {
  fvg_clip *wide = load(c, &wide_text), *narrow = load(c, &other_width);
  int i, with, k;
  mkdir("build", 0777);
  mkdir("build/test-learners", 0777);
  for (i = 0; i < METHODS; i++)
    for (with = 0; with < 2; with++) {
      fvg_learner *l = small_learner(method_names[i], 0, 0), *again = NULL;
      fvg_fvgpt *f = NULL, *f_again = NULL;
      fvg_fvgpt_desc fd;
      fvg_weights *settings = NULL;
      fvg_metadata own;
      float z[2][4 * N * CLASSES];
      memset(&fd, 0, sizeof fd);
      memset(z, 0, sizeof z);
      fd.width = D;
      own.key = "remark";
      own.value = "of mine";
      if (with) need(!fvg_fvgpt_new(c, &f, &fd), "modules");
      check_of(!fvg_checkpoint_save(l, f, FILE_NAME, &own, 1), method_names[i], "a checkpoint is saved");
      check_of(!fvg_checkpoint_load(m, &again, &f_again, &settings, FILE_NAME) && !f_again == !f, method_names[i],
               "and loaded");
      if (!again) { printf("  %s\n", fvg_error(c)); fvg_learner_free(l); fvg_fvgpt_free(f); continue; }
      check_of(!strcmp(fvg_weights_metadata(settings, "remark"), "of mine"), method_names[i], "with its settings");
      check_of(is(again, method_names[i]) && !memcmp(again->option, l->option, sizeof l->option) &&
                   again->n_param == l->n_param, method_names[i], "the same method with the same options");
      if (!with || strcmp(method_names[i], "CoCoOp"))      /* FVG-PT wants text features of classes alone           */
        check_of(scores_of(l, f, z[0]) && scores_of(again, f_again, z[1]) && !memcmp(z[0], z[1], sizeof z[0]),
                 method_names[i], "the same logits");
      fvg_weights_close(settings);
      refuse_file(narrow, FVG_E_SHAPE, "width 20", "24", "a CLIP of another width");
      if (!with) {
        if (i < 3) refuse_file(wide, FVG_E_SHAPE, "ctx has shape [", "40]", "a CLIP of wider text");
        else refuse_file(wide, FVG_E_SHAPE, is_mmrl(l) ? "r2tproj" : "has shape", "this model needs", method_names[i]);
      }
      fvg_learner_free(l);
      fvg_learner_free(again);
      fvg_fvgpt_free(f);
      fvg_fvgpt_free(f_again);
    }
  for (k = 0; k < 7; k++) {
    static const struct { const char *key, *value; fvg_status status; const char *a, *b; } wrong[] = {
      {"trainer", "CoOP", FVG_E_FORMAT, "trainer \"CoOP\"", "not known"},
      {"trainer", "MaPLe", FVG_E_FORMAT, "prompt_depth", "no setting"},
      {"trainer", "KgCoOp", FVG_E_FORMAT, "no setting", "W"},
      {"depth_text", "3", FVG_E_FORMAT, "no tensor", "resblocks.2.VPT_shallow"},
      {"depth_text", "0", FVG_E_ARG, "depth_text is 0", "1 to 1000"},
      {"n_ctx", "3", FVG_E_SHAPE, "[4, 32]", "[3, 32]"},
      {"class_specific", "1", FVG_E_ARG, "its context is shared", "PromptSRC"}};
    fvg_learner *l = small_learner("PromptSRC", 0, 0);
    need(!fvg_checkpoint_save(l, NULL, FILE_NAME, NULL, 0), "a checkpoint");
    fvg_learner_free(l);
    save_changed(wrong[k].key, wrong[k].value);
    refuse_file(m, wrong[k].status, wrong[k].a, wrong[k].b, wrong[k].value);
  }
  {                                              /* class-specific vectors, fewer names than vectors               */
    fvg_learner_desc d = desc_of("CoOp");
    fvg_learner *l;
    d.class_specific = 1;
    l = learner_of(&d);
    need(!fvg_checkpoint_save(l, NULL, FILE_NAME, NULL, 0), "a checkpoint");
    fvg_learner_free(l);
    save_changed("classes", "[\"cat\", \"dog\"]");
    refuse_file(m, FVG_E_SHAPE, "[3, 4, 32]", "[2, 4, 32]", "a wrong number of classes");
  }
  remove(FILE_NAME);
  fvg_clip_free(wide);
  fvg_clip_free(narrow);
}

/* A file whose last tensor is missing or misshapen changes nothing, and a whole one all. */
static void test_loading(void) {
  enum { MISSING, MISSHAPEN, WHOLE, WAYS };
  int i, way, k;
  for (i = 0; i < METHODS; i++)
    for (way = 0; way < WAYS; way++) {
      static float zeros[5000];
      fvg_learner *from = small_learner(method_names[i], 0, 0),
          *to = small_learner(method_names[i], 0, 0);
      fvg_named_tensor tensor[40];
      int n = from->n_param, kept = 1, taken = 1;
      float *before;
      size_t count, at = 0;
      fvg_status s;
      need(n <= 40, "room for the tensors");
      shake(from);                               /* other values than `to` has */
      for (k = 0; k < n; k++) {
        tensor[k].name = from->param[k]->name;
        tensor[k].tensor = from->param[k]->value;
      }
      if (way == MISSHAPEN) {
        tensor[n - 1].tensor.dim[0]++;
        tensor[n - 1].tensor.data = zeros;
        need(fvg_tensor_count(&tensor[n - 1].tensor) <= sizeof zeros / sizeof *zeros,
             "room for one of another shape");
      }
      need(!fvg_safetensors_save(c, FILE_NAME, tensor, way == MISSING ? n - 1 : n, NULL, 0),
           "a file");
      for (count = 0, k = 0; k < n; k++) count += fvg_tensor_count(&to->param[k]->value);
      before = (float *)malloc(count * sizeof *before);
      for (k = 0; k < n; at += fvg_tensor_count(&to->param[k++]->value))
        memcpy(before + at, to->param[k]->value.data,
               fvg_tensor_count(&to->param[k]->value) * sizeof *before);
      s = fvg_learner_load(to, FILE_NAME);
      for (at = 0, k = 0; k < n; at += fvg_tensor_count(&to->param[k++]->value)) {
        size_t bytes = fvg_tensor_count(&to->param[k]->value) * sizeof *before;
        kept = kept && !memcmp(before + at, to->param[k]->value.data, bytes);
        taken = taken && !memcmp(from->param[k]->value.data, to->param[k]->value.data, bytes);
      }
      if (way == WHOLE)
        check_of(!s && taken && !kept, method_names[i], "a learner takes all of a file");
      else check_of(s == (way == MISSING ? FVG_E_FORMAT : FVG_E_SHAPE) && kept, method_names[i],
                    "or, where one tensor is bad, nothing");
      free(before);
      fvg_learner_free(from);
      fvg_learner_free(to);
    }
  remove(FILE_NAME);
}

/* ---- training ---- */
/* DAPT's background must be the mean colour, as what is left of a picture without its foreground
   is: black is refused before a picture is read, and the mean colour gets as far as the pictures,
   which are not there. */
static void test_black_background(void) {
  static char root[] = "build/test-learners", gone[] = "gone.ppm";
  int i, black;
  for (i = 0; i < METHODS; i++)
    for (black = 0; black < 2; black++) {
      fvg_learner *l = small_learner(method_names[i], 0, 0);
      fvg_dataset set;
      fvg_views_desc d;
      fvg_views *v = NULL;
      fvg_item item;
      fvg_items items;
      fvg_status s;
      memset(&set, 0, sizeof set);
      memset(&d, 0, sizeof d);
      set.ctx = c;
      set.root = root;
      d.fill_black = black;
      item.path = gone;
      item.label = 0;
      items.item = &item;
      items.n = 1;
      need(!fvg_views_new(m, &v, &set, &d), "views");
      s = fvg_learner_train(l, v, task_of(NULL, &items), NULL);
      if (black && is(l, "DAPT"))
        check(s == FVG_E_ARG && one_line("DAPT", "background of 0"), "DAPT refuses black");
      else check_of(s == FVG_E_IO, method_names[i], "trains with it, or would");
      fvg_views_free(v);
      fvg_learner_free(l);
    }
}

static void test_training(void) {
  int i, step;
  for (i = 0; i < METHODS; i++) {
    fvg_learner *l[2];
    float first = 0, last[2] = {0, 0};
    int run;
    for (run = 0; run < 2; run++) {
      fvg_learner_desc d = desc_of(method_names[i]);
      fvg_optimizer *o = NULL;
      fvg_batch b = batch_of(0);
      l[run] = learner_of(&d);
      need(!fvg_optimizer_new(c, &o, l[run]->param, l[run]->n_param, NULL), "an optimiser");
      for (step = 0; step < 12; step++) {
        fvg_status s = fvg_learner_step(l[run], &last[run], o, 0.002, &b);
        if (s) { check_of(0, method_names[i], fvg_error(c)); break; }
        if (!step) first = last[run];
      }
      fvg_optimizer_free(o);
    }
    check_of(last[0] < first, method_names[i], "the loss falls");
    check_of(last[0] == last[1], method_names[i], "one seed, one result");
    fvg_learner_free(l[0]);
    fvg_learner_free(l[1]);
  }
}

int main(void) {
  static const sizes normal = {TEXT, TEXT_LAYERS, IMAGE, IMAGE_LAYERS, D}, words = {TEXT, TEXT_LAYERS, 0, 0, D},
                     pictures = {0, 0, IMAGE, IMAGE_LAYERS, D},
                     wide = {TEXT + 8, TEXT_LAYERS, IMAGE, IMAGE_LAYERS, D},
                     other = {TEXT, TEXT_LAYERS, IMAGE, IMAGE_LAYERS, D + 4};
  if (fvg_init(&c, NULL)) return 1;
  draw_model(&standard, normal);
  draw_model(&text_only, words);
  draw_model(&image_only, pictures);
  draw_model(&wide_text, wide);
  draw_model(&other_width, other);
  m = load(c, &standard);
  draw_pictures();
  test_counts();
  test_towers();
  test_gradients();
  prograd_case(0, 1);
  prograd_case(1, 1);
  prograd_case(1, 0.8);
  test_identities();
  test_ways();
  test_average();
  test_mmrl_scores("MMRL");
  test_mmrl_scores("MMRLpp");
  test_mmrlpp_is_mmrl();
  test_dept_scores("DePT_CoOp");
  test_dept_scores("DePT_PromptSRC");
  test_dept_rates();
  test_cocoop_scores();
  test_maps();
  test_refused();
  test_words();
  test_old_words();
  test_recipes();
  test_trust();
  test_checkpoints();
  test_loading();
  test_black_background();
  test_training();
  fvg_clip_free(m);
  check(fvg_mem_used(c) == 0, "no memory stays");
  fvg_free(c);
  test_allocation_failures();
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
