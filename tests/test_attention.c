/* Chapter 38 of fvgpt_clip.h: attention maps.  Grad-CAM is compared, for each branch, with a map whose gradient comes
   from central differences of a last block computed in double precision.  Writes nothing. */
#define FVGPT_PTHREADS
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"
#include "shorthand.h"

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }
static void need(int ok, const char *what) { if (!ok) check(0, what); }  /* to get on; not counted */

static int one_line(fvg_ctx *c, const char *a, const char *b) {  /* the last message is a line with both parts */
  const char *e = fvg_error(c);
  int ok = strstr(e, a) && strstr(e, b) && !strchr(e, '\n');
  if (!ok) printf("  message: %s\n  wanted:  %s / %s\n", e, a, b);
  return ok;
}

/* ---- a small CLIP of random weights, in memory ---- */
enum {
  W = 64, HEADS = 4, HEAD = W / HEADS, MLP = 48, GRID = 3, PATCHES = GRID * GRID, T = 1 + PATCHES, PATCH = 4,
  SIZE = GRID * PATCH, PIXELS = SIZE * SIZE, D = 32, CLASSES = 5, BASE = 3, HIDDEN = 64,
  CONTEXT = 24, VOCAB = 512 + 4 + 2, MAX_TENSORS = 80, TOKENS = 3, MOST = T + TOKENS
};
static const char merges[] = "#version: 0.2\np h\no t\nph ot\nphot o</w>\n";
static const char config[] = "{\"vision_config\": {\"num_attention_heads\": 4}}";
static const char *const names[CLASSES] = {"red", "green", "dark_blue", "grey", "pink"};
typedef struct model {
  fvg_named_tensor tensor[MAX_TENSORS];
  char name[MAX_TENSORS][80], bytes[1 << 20];
  float pool[1 << 18];
  size_t used, n_bytes;
  int n;
  fvg_rng rng;
} model;
static model two_layers, one_layer, no_vision;
static float picture[3 * PIXELS];

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

static void draw_block(model *m, const char *tower, int layer) {
  static const char *const square[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                       "self_attn.out_proj"};
  char prefix[64];
  int k;
  snprintf(prefix, sizeof prefix, "%s.encoder.layers.%d.", tower, layer);
  for (k = 0; k < 4; k++) draw_pair(m, prefix, square[k], W, W);
  draw_pair(m, prefix, "layer_norm1", W, 0);
  draw_pair(m, prefix, "layer_norm2", W, 0);
  draw_pair(m, prefix, "mlp.fc1", MLP, W);
  draw_pair(m, prefix, "mlp.fc2", W, MLP);
}

static int append(void *user, const void *from, size_t n) {
  model *m = (model *)user;
  if (n > sizeof m->bytes - m->n_bytes) return 1;
  memcpy(m->bytes + m->n_bytes, from, n);
  m->n_bytes += n;
  return 0;
}

static void draw_model(fvg_ctx *c, model *m, int vision_layers) {
  int i;
  fvg_rng_seed(&m->rng, 11, 0);
  draw(m, "logit_scale", 0, 0, 0, 0, 3, 0);
  if (vision_layers) {
    draw(m, "vision_model.embeddings.patch_embedding.weight", 4, W, 3, PATCH, 0, 0.2);
    draw(m, "vision_model.embeddings.class_embedding", 1, W, 0, 0, 0, 1);
    draw(m, "vision_model.embeddings.position_embedding.weight", 2, T, W, 0, 0, 0.5);
    draw_pair(m, "vision_model.", "pre_layrnorm", W, 0);
    draw_pair(m, "vision_model.", "post_layernorm", W, 0);
    for (i = 0; i < vision_layers; i++) draw_block(m, "vision_model", i);
    draw(m, "visual_projection.weight", 2, D, W, 0, 0, 0.1);
  }
  draw(m, "text_model.embeddings.token_embedding.weight", 2, VOCAB, W, 0, 0, 1);
  draw(m, "text_model.embeddings.position_embedding.weight", 2, CONTEXT, W, 0, 0, 0.5);
  draw_pair(m, "text_model.", "final_layer_norm", W, 0);
  draw_block(m, "text_model", 0);
  draw(m, "text_projection.weight", 2, D, W, 0, 0, 0.1);
  need(!fvg_safetensors_write(c, append, m, m->tensor, m->n, NULL, 0), "a model in memory");
}

static int in_rows = 1;                          /* as the products by hand read the weights; 0: as loaded */
static fvg_clip *load(fvg_ctx *c, const model *x, fvg_dtype keep_as) {
  fvg_source source = fvg_source_memory(x->bytes, x->n_bytes, "tiny.safetensors");
  fvg_clip *m = NULL;
  fvg_weights *w;
  fvg_status s = fvg_weights_open(c, &w, &source);
  if (!s) s = fvg_clip_load(c, &m, w, config, keep_as);
  if (!s && in_rows) s = fvg_clip_unpack(m);
  fvg_weights_close(w);
  source = fvg_source_memory(merges, sizeof merges - 1, "merges");
  if (!s) s = fvg_tokenizer_open(c, &m->tokenizer, &source, VOCAB);
  if (s) { printf("FAILED to load: %s\n", fvg_error(c)); exit(1); }
  return m;
}

/* ---- a model with prompts, modules and a classifier for each branch ---- */
enum { BRANCHES = FVG_BRANCH_NEW + 1 };
static const char *const branch_name[BRANCHES] = {"zero-shot", "tuned", "tuned, new", "base branch", "new branch"};
typedef struct world {
  fvg_ctx *c;
  fvg_clip *m;
  fvg_learner *p;
  fvg_fvgpt *f;
  fvg_classifier *k[BRANCHES];
} world;

/* Learners that prompt the image tower have parameters far from their start, so that they see what
   CLIP does not. */
static void shake(fvg_learner *l) {
  fvg_rng rng;
  size_t k;
  int i;
  fvg_rng_seed(&rng, 3, 0);
  for (i = 0; i < l->n_param; i++)
    for (k = 0; k < fvg_tensor_count(&l->param[i]->value); k++)
      ((float *)l->param[i]->value.data)[k] += (float)(0.2 * fvg_rng_normal(&rng));
}

static void world_open_with(world *w, fvg_ctx *c, const model *x, fvg_dtype keep_as,
                            const char *method, int no_fdc, int no_pc) {
  static const fvg_option mmrl[] = {{"rep_dim", 12}, {"n_rep_tokens", TOKENS}, {"first_layer", 1}, {"beta", 0.6}},
                          src[] = {{"n_ctx_vision", TOKENS}};
  fvg_learner_desc cd;
  fvg_fvgpt_desc fd;
  int i, ok;
  memset(w, 0, sizeof *w);
  memset(&cd, 0, sizeof cd);
  memset(&fd, 0, sizeof fd);
  w->c = c;
  cd.method = fvg_method_find(method);
  if (!strncmp(method, "MMRL", 4)) { cd.option = mmrl; cd.n_option = method[4] ? 4 : 3; }
  if (strstr(method, "PromptSRC")) { cd.option = src; cd.n_option = 1; }
  fd.no_fdc = no_fdc;
  fd.no_pc = no_pc;
  w->m = load(c, x, keep_as);
  fd.width = D;
  fd.fdc_init_scale = 0.3f;                      /* adapters that do something                                     */
  fd.logit_scale = 17;                           /* not the model's                                                */
  fd.seed = 5;
  /* A head scores only the classes that it was made for. */
  ok = !fvg_learner_new(w->m, &w->p, names, strncmp(method, "DePT", 4) ? BASE : CLASSES, &cd) && !fvg_fvgpt_new(c, &w->f, &fd);
  if (ok && fvg__learner_parts(w->p) > 1) shake(w->p);
  for (i = 0; ok && i < BRANCHES; i++)
    ok = !new_classifier(w->m, &w->k[i], (fvg_branch)i, w->p, w->f, NULL, names, CLASSES);
  if (!ok) { printf("FAILED %s\n", fvg_error(c)); exit(1); }
}

static void world_open(world *w, fvg_ctx *c, const model *x, fvg_dtype keep_as) {
  world_open_with(w, c, x, keep_as, "CoOp", 0, 0);
}

static void world_close(world *w) {
  int i;
  for (i = 0; i < BRANCHES; i++) fvg_classifier_free(w->k[i]);
  fvg_fvgpt_free(w->f);
  fvg_learner_free(w->p);
  fvg_clip_free(w->m);
}

/* ---- the last block, the head and the scores in plain double ---- */
/* The n rows of the last block: class token, prompts, and behind these the patches. */
typedef struct exact {
  int n;
  double x[MOST][W], a[MOST][W];                 /* the last block's input, and LN_1 of it */
  double key[MOST][W], value[MOST][W];           /* of a */
} exact;

static const fvg_block *last_block(const fvg_clip *m) {
  return &m->vision.transformer.block[m->vision.transformer.n_layer - 1];
}

static void norm(const double *x, const fvg_tensor *gain, const fvg_tensor *bias, double *y) {
  double mean = 0, var = 0;
  int j;
  for (j = 0; j < W; j++) mean += x[j] / W;
  for (j = 0; j < W; j++) var += (x[j] - mean) * (x[j] - mean) / W;
  for (j = 0; j < W; j++)
    y[j] = (x[j] - mean) / sqrt(var + 1e-5) * (double)((float *)gain->data)[j] + (double)((float *)bias->data)[j];
}

static void linear(const double *x, int n_in, const fvg_tensor *weight, const fvg_tensor *bias, int n_out,
                   double *y) {
  const float *w = (const float *)weight->data;
  int i, j;
  for (i = 0; i < n_out; i++) {
    y[i] = bias ? (double)((const float *)bias->data)[i] : 0;
    for (j = 0; j < n_in; j++) y[i] += (double)w[i * n_in + j] * x[j];
  }
}

static void unit(double *x, int n) {
  double square = 0;
  int j;
  for (j = 0; j < n; j++) square += x[j] * x[j];
  for (j = 0; j < n; j++) x[j] /= sqrt(square);
}

static void project(const fvg_clip *m, exact *e, int row) {         /* after a[row] has changed */
  const fvg_block *b = last_block(m);
  linear(e->a[row], W, &b->k_weight, &b->k_bias, W, e->key[row]);
  linear(e->a[row], W, &b->v_weight, &b->v_bias, W, e->value[row]);
}

static int is_prompted(const fvg_learner *l) { return l && fvg__learner_parts(l) > 1; }

/* What enters the last block, from the library's blocks before it; l: the learner, NULL for plain
   CLIP's tower. */
static void enter(world *w, fvg_learner *l, exact *e) {
  fvg_transformer below = w->m->vision.transformer;
  fvg_tape *t = fvg_tape_new(w->c);
  fvg__last_block last;
  fvg__image_rows rows;
  fvg_node *x = NULL;
  int i, j;
  if (is_prompted(l)) {
    if (!fvg__reach_last_block(t, w->m, l, picture, &last)) x = last.x;
  } else if (!fvg__image_rows_new(w->m, &rows, 1, NULL)) {
    x = fvg__vision_embed(t, &rows, picture, NULL);
    below.n_layer -= 1;
    if (below.n_layer) x = fvg_transform(x, &below, rows.segment, 1, NULL, 0);
    fvg__image_rows_free(&rows);
  }
  need(x && (is_prompted(l) ? fvg_rows(x) > T && fvg_rows(x) <= MOST : fvg_rows(x) == T) &&
       fvg_cols(x) == W,
       "the last block's input");
  e->n = x ? fvg_rows(x) : 0;
  for (i = 0; i < e->n; i++) {
    for (j = 0; j < W; j++) e->x[i][j] = (double)fvg_value(x)[i * W + j];
    norm(e->x[i], &last_block(w->m)->ln_1_weight, &last_block(w->m)->ln_1_bias, e->a[i]);
    project(w->m, e, i);
  }
  fvg_tape_free(t);
}

/* softmax(q_row K^T / sqrt d) of each head */
static void attention_of(const fvg_clip *m, const exact *e, int row, double p[HEADS][MOST]) {
  const fvg_block *b = last_block(m);
  double q[W], sum;
  int h, i, j;
  linear(e->a[row], W, &b->q_weight, &b->q_bias, W, q);
  for (h = 0; h < HEADS; h++) {
    for (sum = 0, i = 0; i < e->n; i++) {
      for (p[h][i] = 0, j = h * HEAD; j < (h + 1) * HEAD; j++) p[h][i] += q[j] * e->key[i][j];
      sum += p[h][i] = exp(p[h][i] / sqrt((double)HEAD));
    }
    for (i = 0; i < e->n; i++) p[h][i] /= sum;
  }
}

/* LN_post of one row behind the last block. */
static void leave(const fvg_clip *m, const exact *e, int row, double n[W]) {
  const fvg_block *b = last_block(m);
  double p[HEADS][MOST], o[W], x[W], hidden[MLP];
  int i, j;
  attention_of(m, e, row, p);
  for (j = 0; j < W; j++)
    for (o[j] = 0, i = 0; i < e->n; i++) o[j] += p[j / HEAD][i] * e->value[i][j];
  linear(o, W, &b->out_weight, &b->out_bias, W, x);
  for (j = 0; j < W; j++) x[j] += e->x[row][j];
  norm(x, &b->ln_2_weight, &b->ln_2_bias, n);
  linear(n, W, &b->fc_weight, &b->fc_bias, MLP, hidden);
  for (j = 0; j < MLP; j++) hidden[j] /= 1 + exp(-1.702 * hidden[j]);
  linear(hidden, MLP, &b->proj_weight, &b->proj_bias, W, o);
  for (j = 0; j < W; j++) x[j] += o[j];
  norm(x, &m->vision.ln_post_weight, &m->vision.ln_post_bias, n);
}

static void raw_feature(const fvg_clip *m, const exact *e, double f[D]) {
  double n[W];
  leave(m, e, 0, n);
  linear(n, W, &m->vision.projection, NULL, D, f);
}

static void feature(const fvg_clip *m, const exact *e, double f[D]) {
  raw_feature(m, e, f);
  unit(f, D);
}

/* P_r [W, D] of MMRL, or P + U V of MMRL++; 0: it is neither. */
static int projection_of(const world *w, double *P_r) {
  const fvg_parameter *P = fvg_learner_parameter(w->p, "image_encoder.proj_rep"),
                      *U = fvg_learner_parameter(w->p, "image_encoder.A"),
                      *V = fvg_learner_parameter(w->p, "image_encoder.B");
  int i, j, q, rank = U ? U->value.dim[1] : 0;
  for (j = 0; (P || U) && j < W; j++)
    for (i = 0; i < D; i++) {
      double sum = P ? (double)((const float *)P->value.data)[j * D + i]
                     : (double)((const float *)w->m->vision.projection.data)[i * W + j];
      for (q = 0; q < rank; q++)
        sum += (double)((const float *)U->value.data)[j * rank + q] * (double)((const float *)V->value.data)[q * D + i];
      P_r[j * D + i] = sum;
    }
  return P || U;
}

/* (1 - lambda) z + lambda z_h where a head scores what the learner was tuned on; raw [D]: f before it got unit
   length. */
static double with_head(const world *w, int branch, int label, const double *raw, double z) {
  const float *scale, *shift, *W_c, *b;
  double z_h;
  int j;
  if (!fvg_learner_has_head(w->p) || (branch != FVG_TUNED && branch != FVG_BRANCH_BASE)) return z;
  scale = (const float *)fvg_learner_parameter(w->p, "film_lp_img.scale")->value.data;
  shift = (const float *)fvg_learner_parameter(w->p, "film_lp_img.bias")->value.data;
  W_c = (const float *)fvg_learner_parameter(w->p, "linear_probe_proj.weight")->value.data + label * D;
  b = (const float *)fvg_learner_parameter(w->p, "linear_probe_proj.bias")->value.data;
  for (z_h = (double)b[label], j = 0; j < D; j++) z_h += (double)W_c[j] * ((double)scale[j] * raw[j] + (double)shift[j]);
  return 0.3 * z + 0.7 * z_h;
}

/* What scores MMRL's and MMRL++'s base classes: 0.7 f + 0.3 norm(mean of the tokens' rows P_r); of other
   learners f. */
static void mixed_feature(const world *w, const exact *e, double f[D]) {
  double n[W], mean[W], f_r[D], p_r[W * D];
  int i, j;
  feature(w->m, e, f);
  if (!projection_of(w, p_r)) return;
  memset(mean, 0, sizeof mean);
  for (i = 1; i <= TOKENS; i++) {
    leave(w->m, e, i, n);
    for (j = 0; j < W; j++) mean[j] += n[j] / TOKENS;
  }
  for (i = 0; i < D; i++)
    for (f_r[i] = 0, j = 0; j < W; j++) f_r[i] += mean[j] * p_r[j * D + i];
  unit(f_r, D);
  for (i = 0; i < D; i++) f[i] = 0.7 * f[i] + 0.3 * f_r[i];
}

static void adapt(const fvg__adapter *a, double f[D]) {
  double hidden[HIDDEN], y[D];
  int j;
  linear(f, D, &a->down_weight.value, &a->down_bias.value, HIDDEN, hidden);
  for (j = 0; j < HIDDEN; j++) hidden[j] = hidden[j] > 0 ? hidden[j] : 0;
  linear(hidden, HIDDEN, &a->up_weight.value, &a->up_bias.value, D, y);
  for (j = 0; j < D; j++) f[j] += y[j];
  unit(f, D);
}

static double along(const double *f, const float *g) {
  double sum = 0;
  int j;
  for (j = 0; j < D; j++) sum += f[j] * (double)g[j];
  return sum;
}

/* The label's logit; b is given, since Grad-CAM takes it for a constant, as it does plain CLIP's
   feature of a picture that the learner sees otherwise. */
static double prompts_score(const world *w, int branch, int label, double b, const float *f_clip,
                            const exact *e) {
  const fvg_classifier *k = w->k[branch];
  const float *g = k->g + label * D, *g_clip = k->g_clip + label * D;
  const fvg_fvgpt_desc *d = &w->f->desc;
  double f[D], text[D], clip, sum = 0;
  int j;
  feature(w->m, e, f);
  if (branch == FVG_ZERO_SHOT) return (double)w->m->logit_scale * along(f, g_clip);
  if (branch == FVG_TUNED_NEW) return (double)w->m->logit_scale * along(f, g);
  if (branch == FVG_BRANCH_NEW && !d->no_pc) {
    for (clip = 0, j = 0; j < D; j++) clip += (double)f_clip[j] * (double)g_clip[j];
    if (!is_prompted(w->p)) clip = along(f, g_clip);
    return 17 * ((1 - b) * along(f, g) + b * clip);
  }
  if (branch == FVG_TUNED || (branch == FVG_BRANCH_BASE && d->no_fdc)) mixed_feature(w, e, f);
  if (branch == FVG_TUNED) return (double)w->m->logit_scale * along(f, g);
  if (d->no_fdc) return 17 * along(f, g);
  for (j = 0; j < D; j++) text[j] = (double)g[j];
  adapt(&w->f->fdc_image, f);
  adapt(&w->f->fdc_text, text);
  for (j = 0; j < D; j++) sum += f[j] * text[j];
  return 17 * sum;
}

static double score(const world *w, int branch, int label, double b, const float *f_clip, const exact *e) {
  double raw[D];
  raw_feature(w->m, e, raw);
  return with_head(w, branch, label, raw, prompts_score(w, branch, label, b, f_clip, e));
}

/* grid -> map of greatest value 1, as chapter 38's story has it */
static void spread(const double grid[PATCHES], double map[PIXELS]) {
  double max = 0, u, v;
  int x, y, i, j;
  for (y = 0; y < SIZE; y++)
    for (x = 0; x < SIZE; x++) {
      v = (double)y * (GRID - 1) / (SIZE - 1);
      u = (double)x * (GRID - 1) / (SIZE - 1);
      map[y * SIZE + x] = 0;
      for (i = 0; i < GRID; i++)                 /* a tent over each patch                                         */
        for (j = 0; j < GRID; j++)
          map[y * SIZE + x] += fmax(0, 1 - fabs(v - i)) * fmax(0, 1 - fabs(u - j)) * grid[i * GRID + j];
      max = fmax(max, map[y * SIZE + x]);
    }
  for (i = 0; i < PIXELS; i++) map[i] = max > 0 ? map[i] / max : 0;
}

static double furthest(const float *map, const double *expected, int n) {
  double worst = 0;
  int i;
  for (i = 0; i < n; i++) {
    double e = fabs((double)map[i] - expected[i]);
    if (!(e <= worst)) worst = e;                /* a NaN is the worst                                             */
  }
  return worst;
}

/* ---- Grad-CAM ---- */
static double numeric_gradient[MOST][W];
static void differentiate(const world *w, int branch, int label, double b, const float *f_clip,
                          exact *e) {
  const double h = 1e-4;
  int i, j;
  for (i = 0; i < e->n; i++) {
    for (j = 0; j < W; j++) {
      double a = e->a[i][j], up;
      e->a[i][j] = a + h;
      project(w->m, e, i);
      up = score(w, branch, label, b, f_clip, e);
      e->a[i][j] = a - h;
      project(w->m, e, i);
      numeric_gradient[i][j] = (up - score(w, branch, label, b, f_clip, e)) / (2 * h);
      e->a[i][j] = a;
    }
    project(w->m, e, i);
  }
}

/* The library's own gradient at LN_1's output against the numeric one. */
static double gradient_error(const world *w, int branch, int label, const float *f_clip, int n) {
  fvg_learner *l = branch == FVG_ZERO_SHOT ? NULL : w->p;
  fvg_tape *t = fvg_tape_new(w->c);
  fvg__last_block last;
  fvg__step step;
  double worst = 0, largest = 0;
  int i;
  fvg_status s = fvg__reach_last_block(t, w->m, l, picture, &last);
  if (!s) s = fvg__feature_from(w->m, &last, &step);
  if (!s) s = fvg_backward(fvg__class_score(w->k[branch], &step, is_prompted(l) ? f_clip : NULL,
                                            label));
  for (i = 0; !s && i < n * W; i++) {
    largest = fmax(largest, fabs(numeric_gradient[i / W][i % W]));
    worst = fmax(worst, fabs((double)fvg_grad(last.a)[i] - numeric_gradient[i / W][i % W]));
  }
  fvg_tape_free(t);
  return s ? INFINITY : worst / largest;
}

/* Maps of branches from..to against central differences, for so many labels. */
static void test_grad_cam(world *w, int from, int to, int n_label) {
  double grid[PATCHES], expected[PIXELS], alpha, b;
  float map[PIXELS], other[PIXELS], f[3 * D], f_clip[D], logits[CLASSES], weight;
  static exact e;
  int branch, label, i, j, first, n_lit = 0, n_dark = 0;
  need(!fvg_learner_encode_images(w->m, NULL, f_clip, picture, 1) &&
           !fvg_learner_encode_images(w->m, w->p, f, picture, 1), "features");
  for (branch = from; branch <= to; branch++) {
    enter(w, branch == FVG_ZERO_SHOT ? NULL : w->p, &e);
    first = e.n - PATCHES;
    need(!fvg_classifier_logits(w->k[branch], logits, &weight, f, 1), "logits");
    b = (double)weight;
    for (label = 0; label < n_label; label++) {
      check(fabs(score(w, branch, label, b, f_clip, &e) - (double)logits[label]) < 1e-4,
            branch_name[branch]);
      differentiate(w, branch, label, b, f_clip, &e);
      check(gradient_error(w, branch, label, f_clip, e.n) < 1e-4,
            "dz / dA against central differences");
      memset(grid, 0, sizeof grid);
      for (j = 0; j < W; j++) {
        for (alpha = 0, i = first; i < e.n; i++) alpha += numeric_gradient[i][j] / PATCHES;
        for (i = first; i < e.n; i++) grid[i - first] += alpha * e.a[i][j];
      }
      for (i = 0; i < PATCHES; i++) {
        n_dark += grid[i] < 0;
        n_lit += grid[i] > 0;
        grid[i] = fmax(grid[i], 0);
      }
      spread(grid, expected);
      check(!fvg_attention_map(w->k[branch], map, picture, label, FVG_GRAD_CAM) &&
                furthest(map, expected, PIXELS) < 1e-3,
            "Grad-CAM is relu(A alpha), spread and divided by its greatest");
      check(!fvg_attention_map(w->k[branch], other, picture, label, FVG_GRAD_CAM) &&
                !memcmp(map, other, sizeof map),
            "and the same each time");
    }
  }
  check(from == to || (n_lit > 0 && n_dark > 0), "patches speak for and against");
}

/* Learners that prompt the image tower: their tokens stand between class token and patches, each
   branch reads its own part of the features, and a module that is left out gives way as it does in
   the scores. */
static void test_prompted(fvg_ctx *c) {
  static const struct { const char *method; int no_fdc, no_pc, from, to; } x[] = {
    {"MMRL", 0, 0, FVG_ZERO_SHOT, FVG_BRANCH_NEW}, {"MMRL", 1, 0, FVG_BRANCH_BASE, FVG_BRANCH_BASE},
    {"MMRL", 0, 1, FVG_BRANCH_NEW, FVG_BRANCH_NEW}, {"MMRL", 1, 1, FVG_BRANCH_NEW, FVG_BRANCH_NEW},
    {"MMRLpp", 0, 0, FVG_TUNED, FVG_BRANCH_NEW}, {"DePT_PromptSRC", 0, 0, FVG_TUNED, FVG_BRANCH_NEW},
    {"MaPLe", 0, 0, FVG_TUNED, FVG_BRANCH_NEW}, {"CoOp", 1, 0, FVG_BRANCH_BASE, FVG_BRANCH_BASE}};
  static exact e;
  size_t i;
  for (i = 0; i < sizeof x / sizeof *x; i++) {
    float f[3 * D], f_clip[D];
    double apart = 0;
    world w;
    int j, k;
    world_open_with(&w, c, &two_layers, FVG_F32, x[i].method, x[i].no_fdc, x[i].no_pc);
    need(!fvg_learner_encode_images(w.m, NULL, f_clip, picture, 1) &&
             !fvg_learner_encode_images(w.m, w.p, f, picture, 1), "features");
    for (j = 0; j < D; j++) apart = fmax(apart, fabs((double)f[j] - (double)f_clip[j]));
    check((apart > 0.05) == is_prompted(w.p), "a prompted tower sees otherwise than plain CLIP");
    /* R A^T + b of the last block stand behind the class token */
    if (!strcmp(x[i].method, "MMRL")) {
      const fvg_parameter *r =
        fvg_learner_parameter(w.p, "representation_learner.compound_rep_tokens");
      const fvg_parameter *a =
        fvg_learner_parameter(w.p, "representation_learner.compound_rep_tokens_r2vproj.1.weight");
      const fvg_parameter *bias =
        fvg_learner_parameter(w.p, "representation_learner.compound_rep_tokens_r2vproj.1.bias");
      double row[W], token[12], worst = r && a && bias ? 0 : INFINITY;
      enter(&w, w.p, &e);
      for (k = 0; k < TOKENS && worst < 1; k++) {
        for (j = 0; j < 12; j++) token[j] = (double)((const float *)r->value.data)[k * 12 + j];
        linear(token, 12, &a->value, &bias->value, W, row);
        for (j = 0; j < W; j++) worst = fmax(worst, fabs(row[j] - e.x[1 + k][j]));
      }
      check(e.n == T + TOKENS && worst < 1e-5, "MMRL's tokens stand behind the class token");
    }
    test_grad_cam(&w, x[i].from, x[i].to, 1);
    world_close(&w);
  }
}

/* Weights in panels give the maps of weights in rows. */
static void test_panels(fvg_ctx *c, const world *rows) {
  float map[PIXELS], expected[PIXELS];
  world w;
  int branch, i;
  in_rows = 0;
  world_open(&w, c, &two_layers, FVG_F32);
  in_rows = 1;
  for (branch = 0; branch < BRANCHES; branch++) {
    double worst = 0;
    check(!fvg_attention_map(rows->k[branch], expected, picture, 1, FVG_GRAD_CAM) &&
          !fvg_attention_map(w.k[branch], map, picture, 1, FVG_GRAD_CAM), "maps of both");
    for (i = 0; i < PIXELS; i++) worst = fmax(worst, fabs((double)map[i] - (double)expected[i]));
    check(worst < 1e-4, "weights in panels and in rows give one map");
  }
  world_close(&w);
}

/* Without a way from the patches to the class token there is no gradient, and a map without heat is 0, not NaN. */
static void test_no_gradient(fvg_ctx *c) {
  float map[PIXELS];
  world w;
  fvg_block *b;
  int branch, i;
  world_open(&w, c, &two_layers, FVG_F32);
  b = &w.m->vision.transformer.block[1];
  memset(b->out_weight.data, 0, W * W * sizeof(float));
  memset(b->proj_weight.data, 0, W * MLP * sizeof(float));
  for (branch = 0; branch < BRANCHES; branch++) {
    memset(map, 1, sizeof map);
    check(!fvg_attention_map(w.k[branch], map, picture, 1, FVG_GRAD_CAM), "a map without gradient");
    for (i = 0; i < PIXELS && map[i] == 0; i++) {}
    check(i == PIXELS, "is 0 everywhere");
  }
  check(!fvg_attention_map(w.k[0], map, picture, 1, FVG_CLS_ATTENTION) && map[0] > 0,
        "attention is there all the same");
  world_close(&w);
}

/* Half-precision matrices and several threads. */
static void test_variants(fvg_ctx *c) {
  static const fvg_dtype half[] = {FVG_F16, FVG_BF16};
  float map[BRANCHES][PIXELS], other[PIXELS];
  double expected[PIXELS];
  fvg_ctx *many;
  fvg_desc d;
  world w;
  int branch, i, kind;
  world_open(&w, c, &two_layers, FVG_F32);
  for (branch = 0; branch < BRANCHES; branch++)
    need(!fvg_attention_map(w.k[branch], map[branch], picture, 2, FVG_GRAD_CAM), "a map");
  world_close(&w);
  for (kind = 0; kind < 2; kind++) {
    world_open(&w, c, &two_layers, half[kind]);
    for (branch = 0; branch < BRANCHES; branch++) {
      for (i = 0; i < PIXELS; i++) expected[i] = (double)map[branch][i];
      check(!fvg_attention_map(w.k[branch], other, picture, 2, FVG_GRAD_CAM) &&
                furthest(other, expected, PIXELS) < 0.15,
            "matrices of half precision give nearly the same map");
    }
    world_close(&w);
  }
  memset(&d, 0, sizeof d);
  d.n_threads = 3;
  if (fvg_init(&many, &d)) { check(0, "threads"); return; }
  world_open(&w, many, &two_layers, FVG_F32);
  for (branch = 0; branch < BRANCHES; branch++)
    check(!fvg_attention_map(w.k[branch], other, picture, 2, FVG_GRAD_CAM) &&
              !memcmp(other, map[branch], sizeof other),
          "threads change no bit");
  world_close(&w);
  fvg_free(many);
}

/* ---- attention of the class token ---- */
static void test_attention(world *w) {
  double p[HEADS][MOST], grid[PATCHES], expected[PIXELS], whole = 0, own = 0;
  float map[PIXELS], other[PIXELS], raw[PATCHES];
  fvg_tape *t = fvg_tape_new(w->c);
  fvg__last_block l;
  static exact e;
  int branch, h, i;
  enter(w, NULL, &e);
  attention_of(w->m, &e, 0, p);
  memset(grid, 0, sizeof grid);
  memset(raw, 0, sizeof raw);
  for (h = 0; h < HEADS; h++) {
    own += p[h][0] / HEADS;
    for (i = 1; i < T; i++) grid[i - 1] += p[h][i] / HEADS;
  }
  check(!fvg__reach_last_block(t, w->m, NULL, picture, &l) && !fvg__cls_attention(w->m, &l, raw),
        "the class token's attention");
  check(furthest(raw, grid, PATCHES) < 1e-6, "is the mean over heads of softmax(q_cls K^T / sqrt d)");
  for (i = 0; i < PATCHES; i++) whole += (double)raw[i];
  check(fabs(whole + own - 1) < 1e-5, "and with the class token's own column sums to 1");
  fvg_tape_free(t);
  spread(grid, expected);
  check(!fvg_attention_map(w->k[0], map, picture, 0, FVG_CLS_ATTENTION) && furthest(map, expected, PIXELS) < 1e-5,
        "spread and divided by its greatest");
  for (branch = 1; branch < BRANCHES; branch++)
    check(!fvg_attention_map(w->k[branch], other, picture, -7, FVG_CLS_ATTENTION) &&
              !memcmp(map, other, sizeof map),
          "the same for any branch and label");
}

/* ---- relevance ---- */
static int refused(world *w, fvg_classifier *k, const float *x, int label, int kind, float *map, fvg_status expected,
                   const char *a, const char *b);

/* A patch's row of what the learner reads of a picture: f and, if there is such a part, f_score or f_raw, from
   y = W_out [softmax(K K^T / sqrt d) V] at row `at`. */
static void patch_row(const world *w, const exact *e, int at, float *f, float *third) {
  const fvg_block *b = last_block(w->m);
  double p[MOST], y[W], x[W], n[W], out[D], rep_out[D], P_r[W * D];
  int h, i, j;
  for (h = 0; h < HEADS; h++) {
    double sum = 0;
    for (i = 0; i < e->n; i++) {
      for (p[i] = 0, j = h * HEAD; j < (h + 1) * HEAD; j++) p[i] += e->key[at][j] * e->key[i][j];
      sum += p[i] = exp(p[i] / sqrt((double)HEAD));
    }
    for (j = h * HEAD; j < (h + 1) * HEAD; j++)
      for (y[j] = 0, i = 0; i < e->n; i++) y[j] += p[i] / sum * e->value[i][j];
  }
  linear(y, W, &b->out_weight, &b->out_bias, W, x);
  norm(x, &w->m->vision.ln_post_weight, &w->m->vision.ln_post_bias, n);
  linear(n, W, &w->m->vision.projection, NULL, D, out);
  for (j = 0; j < D; j++) third[j] = (float)out[j];
  unit(out, D);
  for (j = 0; j < D; j++) f[j] = (float)out[j];
  if (!projection_of(w, P_r)) return;
  for (j = 0; j < D; j++)
    for (rep_out[j] = 0, i = 0; i < W; i++) rep_out[j] += n[i] * P_r[i * D + j];
  unit(rep_out, D);
  for (j = 0; j < D; j++) third[j] = (float)(0.7 * out[j] + 0.3 * rep_out[j]);
}

/* ln sum exp but for one number; -1: of all */
static double log_sum(const double *z, int n, int without) {
  double sum = 0;
  int i;
  for (i = 0; i < n; i++) if (i != without) sum += exp(z[i]);
  return log(sum);
}

/* The relevance map of each branch against one whose patches the public scores have judged, as if each were a
   picture; n_word 0: against the other classes. */
static void test_relevance(world *w, const char *const *word, int n_word, int from, int to) {
  static exact own, clip;
  float map[PIXELS], other[PIXELS], row[3 * D], f_score[D], g[4 * D], logits[CLASSES];
  double o[PATCHES], expected[PIXELS], z[CLASSES];
  int branch, p, i, label = 1;
  need(!n_word || !fvg_clip_encode_classes(w->m, g, NULL, word, n_word), "words");
  enter(w, NULL, &clip);
  for (branch = from; branch <= to; branch++) {
    fvg_classifier_desc d;
    fvg_classifier *k = NULL;
    double mean = 0, square = 0;
    memset(&d, 0, sizeof d);
    d.branch = (fvg_branch)branch;
    d.learner = w->p;
    d.fvgpt = w->f;
    d.background = word;
    d.n_background = n_word ? n_word : -1;
    need(!fvg_classifier_new(w->m, &k, names, CLASSES, &d), "a classifier");
    enter(w, branch == FVG_ZERO_SHOT ? NULL : w->p, &own);
    for (p = 0; p < PATCHES; p++) {
      float unused[D];
      memset(row, 0, sizeof row);
      patch_row(w, &own, own.n - PATCHES + p, row, f_score);
      if (is_prompted(w->p)) patch_row(w, &clip, 1 + p, row + D, unused);
      if (fvg_learner_feature_width(w->m, w->p) == 3 * D) memcpy(row + 2 * D, f_score, sizeof f_score);
      need(!fvg_classifier_logits(k, logits, NULL, row, 1), "a patch's scores");
      for (i = 0; i < CLASSES; i++) z[i] = (double)logits[i];
      o[p] = z[label] - log_sum(z, CLASSES, label);
      for (i = 0; i < n_word; i++) {
        double f[D];
        int j;
        for (j = 0; j < D; j++) f[j] = (double)row[j];
        z[i] = (double)w->m->logit_scale * along(f, g + i * D);
      }
      if (n_word) o[p] = (double)logits[label] - log_sum(z, n_word, -1);
      mean += o[p] / PATCHES;
    }
    for (p = 0; p < PATCHES; p++) square += (o[p] - mean) * (o[p] - mean) / PATCHES;
    for (p = 0; p < PATCHES; p++) o[p] = fmax(0, o[p] - mean + sqrt(square) / 2);
    spread(o, expected);
    check(!fvg_attention_map(k, map, picture, label, FVG_RELEVANCE) && furthest(map, expected, PIXELS) < 1e-3,
          branch_name[branch]);
    check(!fvg_attention_map(k, other, picture, label, FVG_RELEVANCE) && !memcmp(map, other, sizeof map),
          "the same each time");
    check(!fvg_attention_map(k, other, picture, 0, FVG_RELEVANCE) && memcmp(map, other, sizeof map),
          "another class, another map");
    fvg_classifier_free(k);
  }
}

static void test_relevances(fvg_ctx *c) {
  static const char *const word[] = {"sky", "sea", "red", "a"};
  static const char *const method[] = {"CoOp", "MMRL", "MaPLe", "MMRLpp", "DePT_PromptSRC"};
  int i, threads;
  float map[4][PIXELS];
  world w;
  for (i = 0; i < 5; i++) {
    world_open_with(&w, c, &two_layers, FVG_F32, method[i], 0, 0);
    test_relevance(&w, word, 4, FVG_ZERO_SHOT + (i > 0), FVG_BRANCH_NEW);
    test_relevance(&w, NULL, 0, FVG_TUNED, FVG_BRANCH_BASE);
    world_close(&w);
  }
  /* A class alone, against the words of photographs. */
  world_open(&w, c, &two_layers, FVG_F32);
  {
    fvg_classifier *k = NULL;
    need(!new_classifier(w.m, &k, FVG_ZERO_SHOT, NULL, NULL, NULL, names, 1), "one class");
    check(!fvg_attention_map(k, map[0], picture, 0, FVG_RELEVANCE), "one class has a map");
    check(refused(&w, k, picture, 1, FVG_RELEVANCE, map[0], FVG_E_ARG, "label 1", "1 classes"), "and no second");
    fvg_classifier_free(k);
  }
  world_close(&w);

  for (threads = 1; threads <= 3; threads++) {
    fvg_desc d;
    fvg_ctx *many;
    memset(&d, 0, sizeof d);
    d.n_threads = threads;
    if (fvg_init(&many, &d)) { check(0, "threads"); return; }
    world_open_with(&w, many, &two_layers, FVG_F32, "MaPLe", 0, 0);
    need(!fvg_attention_map(w.k[FVG_BRANCH_NEW], map[threads], picture, 2, FVG_RELEVANCE), "a map");
    world_close(&w);
    fvg_free(many);
  }
  check(!memcmp(map[1], map[2], sizeof map[1]) && !memcmp(map[1], map[3], sizeof map[1]), "threads change no bit");
}

/* ---- spreading a grid ---- */
static void test_spread(void) {
  static const float two[4] = {0, 1, 2, 4}, three[9] = {3, 1, 4, 1, 5, 9, 2, 6, 5};
  static const double by_halves[9] = {0, 0.5, 1, 1, 1.75, 2.5, 2, 3, 4};
  static const double by_thirds[16] = {0, 1 / 3.0, 2 / 3.0, 1, 2 / 3.0, 10 / 9.0, 14 / 9.0, 2,
                                       4 / 3.0, 17 / 9.0, 22 / 9.0, 3, 2, 8 / 3.0, 10 / 3.0, 4};
  double same[9];
  float map[224 * 224];
  int i, ok = 1;
  fvg__spread(two, 2, map, 3);
  check(furthest(map, by_halves, 9) == 0, "2 x 2 to 3 x 3");
  fvg__spread(two, 2, map, 4);
  check(furthest(map, by_thirds, 16) < 1e-6, "2 x 2 to 4 x 4");
  for (i = 0; i < 9; i++) same[i] = (double)three[i];
  fvg__spread(three, 3, map, 3);
  check(furthest(map, same, 9) == 0, "to the grid's own size: the same");
  fvg__spread(three, 3, map, 224);
  check(map[0] == 3 && map[223] == 4 && map[223 * 224] == 2 && map[224 * 224 - 1] == 5, "corners stay corners");
  for (i = 0; i < 224 * 224; i++) ok = ok && map[i] >= 1 && map[i] <= 9;
  check(ok, "nothing beyond what was there");
  fvg__spread(three, 1, map, 4);
  for (i = 0; i < 16; i++) ok = ok && map[i] == 3;
  check(ok, "one patch is everywhere");
  fvg__spread(two, 2, map, 1);
  check(map[0] == 0, "one pixel");
}

/* ---- share and overlay ---- */
static fvg_image image_of(uint8_t *pixels, int width, int height, int channels) {
  fvg_image x;
  x.width = width;
  x.height = height;
  x.channels = channels;
  x.pixels = pixels;
  return x;
}

static void test_share(void) {
  float map[12] = {0, 0.5f, 1, 0.25f, 0, 0, 0.125f, 0, 1, 0, 0, 0.125f}, empty[12] = {0};
  uint8_t ones[12], some[12], rest[12];
  fvg_image all, part, complement, colour, lower;
  int i;
  for (i = 0; i < 12; i++) { ones[i] = 255; some[i] = i % 3 ? 255 : 0; rest[i] = (uint8_t)(255 - some[i]); }
  all = image_of(ones, 4, 3, 1);
  part = image_of(some, 4, 3, 1);
  complement = image_of(rest, 4, 3, 1);
  colour = image_of(ones, 2, 2, 3);
  lower = image_of(some + 6, 3, 2, 1);
  check(fvg_foreground_share(map, &all) == 1, "everything is foreground: 1");
  check(fabs(fvg_foreground_share(map, &part) - 2.625 / 3) < 1e-12, "a part");
  check(fabs(fvg_foreground_share(map, &part) + fvg_foreground_share(map, &complement) - 1) < 1e-12,
        "the rest is the rest");
  check(fvg_foreground_share(empty, &all) == 0, "an empty map: 0");
  check(fvg_foreground_share(map, &colour) == -1 && fvg_foreground_share(map, NULL) == -1, "not a mask: -1");

  /* The greatest value comes first at 2, and in the lower half at 8; `some` holds both. */
  check(fvg_hottest_inside(map, &part) == 1 && fvg_hottest_inside(map, &complement) == 0, "the hottest point");
  check(fvg_hottest_inside(map + 6, &lower) == 1 && fvg_hottest_inside(empty, &all) == 0, "elsewhere; none");
  check(fvg_hottest_inside(map, &colour) == -1 && fvg_hottest_inside(NULL, &part) == -1, "not a mask: -1");
  /* Otsu cuts between 1/4 and 1/2: 1, 2 and 8 are hot, and two of them are among the 8 inside. */
  check(fabs(fvg_map_iou(map, &part) - 3.0 / 8) < 1e-12,
        "IoU of a map");
  check(fvg_map_iou(empty, &all) == 0 && fvg_map_iou(map, NULL) == -1 && fvg_map_iou(map, &colour) == -1,
        "an empty map: 0; not a mask: -1");
  memset(ones, 0, sizeof ones);
  check(fvg_map_iou(empty, &all) == 1, "nothing and nothing are the same");
}

static void test_overlay(fvg_ctx *c) {
  float map[6] = {0, 0, 1, 0.5f, -3, NAN}, beyond[6] = {1, 2, 1, 1, 0, 0};
  uint8_t pixels[18] = {10, 20, 30, 200, 200, 201, 128, 128, 128, 128, 128, 128, 90, 60, 30, 7, 7, 7};
  uint8_t grey[6] = {1, 1};
  fvg_image in = image_of(pixels, 3, 2, 3), out, one = image_of(grey, 3, 2, 1), none = image_of(NULL, 3, 2, 3);
  const uint8_t *p;
  check(!fvg_image_overlay(c, &out, &in, map) && out.width == 3 && out.height == 2 && out.channels == 3,
        "an overlay has the picture's size");
  p = out.pixels;
  check(p[0] == 20 && p[1] == 20 && p[2] == 20 && p[3] == 200 && p[5] == 200, "no heat: the grey picture");
  check(p[6] > 200 && p[7] > 180 && p[8] < 100, "greatest heat: yellow");
  check(p[9] > 150 && p[10] < 90 && p[11] < 90, "middle heat: red");
  check(p[12] == 60 && p[14] == 60 && p[15] == 7 && p[17] == 7, "below 0 and NaN are 0");
  fvg_image_free(c, &out);
  check(!fvg_image_overlay(c, &out, &one, beyond) && out.channels == 3 && out.pixels[0] > 180 &&
            !memcmp(out.pixels, out.pixels + 3, 3) && out.pixels[12] == 0,
        "a grey picture; above 1 is 1");
  fvg_image_free(c, &out);
  check(fvg_image_overlay(c, &in, &in, map) == FVG_E_ARG && one_line(c, "overlay", "replace"), "not in place");
  check(fvg_image_overlay(c, &out, &none, map) == FVG_E_ARG && one_line(c, "overlay", "3 x 2") && !out.pixels,
        "no picture");
  check(fvg_image_overlay(c, &out, &in, NULL) == FVG_E_ARG && one_line(c, "overlay", "map") && !out.pixels,
        "no map");
}

/* ---- errors, and what must not change ---- */
static int refused(world *w, fvg_classifier *k, const float *x, int label, int kind, float *map, fvg_status expected,
                   const char *a, const char *b) {
  return fvg_attention_map(k, map, x, label, (fvg_map_kind)kind) == expected && one_line(w->c, a, b);
}

static void test_errors(world *w) {
  float map[PIXELS], bad[3 * PIXELS];
  fvg_classifier *k = w->k[FVG_BRANCH_NEW], *blind = NULL;
  fvg_clip *m;
  memcpy(bad, picture, sizeof bad);
  bad[17] = NAN;
  check(fvg_attention_map(NULL, map, picture, 0, FVG_GRAD_CAM) == FVG_E_ARG, "no classifier");
  check(refused(w, k, picture, -1, FVG_GRAD_CAM, map, FVG_E_ARG, "label -1", "5 classes"), "label below");
  check(refused(w, k, picture, 5, FVG_GRAD_CAM, map, FVG_E_ARG, "label 5", "5 classes"), "label beyond");
  check(refused(w, k, picture, 0, 3, map, FVG_E_ARG, "kind 3", ""), "no such kind");
  check(refused(w, k, NULL, 0, FVG_GRAD_CAM, map, FVG_E_ARG, "no picture", ""), "no picture");
  check(refused(w, k, picture, 0, FVG_GRAD_CAM, NULL, FVG_E_ARG, "no place", ""), "no place for the map");
  check(refused(w, k, bad, 0, FVG_GRAD_CAM, map, FVG_E_NUMERIC, "nan", ""), "NaN in the picture");
  check(refused(w, k, bad, 0, FVG_CLS_ATTENTION, map, FVG_E_NUMERIC, "nan", ""), "for both kinds");
  check(refused(w, k, bad, 0, FVG_RELEVANCE, map, FVG_E_NUMERIC, "nan", ""), "and the third");
  check(!fvg_attention_map(k, map, picture, 0, FVG_GRAD_CAM), "a failure spoils nothing");
  m = load(w->c, &no_vision, FVG_F32);
  need(!new_classifier(m, &blind, FVG_ZERO_SHOT, NULL, NULL, NULL, names, 2), "texts alone");
  check(refused(w, blind, picture, 0, FVG_GRAD_CAM, map, FVG_E_ARG, "no image tower", ""), "no image tower");
  fvg_classifier_free(blind);
  fvg_clip_free(m);
}

/* Every gradient of the modules holds a number of its own; the adapters, which come first, have their values
   copied. */
static void test_undisturbed(world *w) {
  enum { COUNT = 2 * (2 * HIDDEN * D + HIDDEN + D) };
  static float values[COUNT];
  float map[PIXELS];
  int n, i, branch, ok = 1;
  size_t j, at, used = fvg_mem_used(w->c);
  fvg_parameter *const *p = fvg_fvgpt_parameters(w->f, &n);
  for (at = 0, i = 0; i < n; i++)
    for (j = 0; j < fvg_tensor_count(&p[i]->value); j++, at++) {
      p[i]->grad[j] = (float)at;
      if (at < COUNT) values[at] = ((float *)p[i]->value.data)[j];
    }
  need(at > COUNT, "more than the adapters");
  for (branch = 0; branch < BRANCHES; branch++)
    check(!fvg_attention_map(w->k[branch], map, picture, 1, FVG_GRAD_CAM), "a map between backward and step");
  for (at = 0, i = 0; i < n; i++)
    for (j = 0; j < fvg_tensor_count(&p[i]->value); j++, at++)
      ok = ok && p[i]->grad[j] == (float)at && (at >= COUNT || ((float *)p[i]->value.data)[j] == values[at]);
  check(ok, "leaves parameters and their gradients as they were");
  check(fvg_mem_used(w->c) == used, "and no memory behind");
}

/* ---- memory that runs out ---- */
static long until_failure;
static void *failing_alloc(void *user, size_t n) {
  (void)user;
  return until_failure-- == 0 ? NULL : malloc(n);
}
static void failing_release(void *user, void *p, size_t n) { (void)user; (void)n; free(p); }

static void test_allocation_failures(void) {
  uint8_t pixels[3 * PIXELS] = {0};
  fvg_image view = image_of(pixels, SIZE, SIZE, 3), out;
  float map[PIXELS];
  fvg_desc d;
  fvg_ctx *c;
  world w;
  int branch, ok = 1;
  size_t used;
  long k;
  memset(&d, 0, sizeof d);
  d.allocator.alloc = failing_alloc;
  d.allocator.release = failing_release;
  until_failure = -1;
  if (fvg_init(&c, &d)) { check(0, "a context"); return; }
  world_open(&w, c, &two_layers, FVG_F32);
  used = fvg_mem_used(c);
  for (branch = 0; branch < BRANCHES; branch++)
    for (k = 0;; k++) {
      fvg_status s;
      until_failure = k;
      s = fvg_attention_map(w.k[branch], map, picture, 0, FVG_GRAD_CAM);
      if (!s) s = fvg_attention_map(w.k[branch], map, picture, 0, FVG_CLS_ATTENTION);
      if (!s) s = fvg_image_overlay(c, &out, &view, map);
      if (!s) fvg_image_free(c, &out);
      ok = ok && fvg_mem_used(c) == used;
      if (until_failure >= 0) { ok = ok && !s && k > 5; break; }
      ok = ok && s == FVG_E_NOMEM;
    }
  until_failure = -1;
  check(ok, "each allocation failing in turn: an error, and no memory stays");

  /* The first relevance map keeps the words for backgrounds, unless it fails. */
  for (branch = 0; branch < BRANCHES; branch += FVG_BRANCH_NEW)
    for (k = 0;; k++) {
      fvg_status s;
      until_failure = k;
      s = fvg_attention_map(w.k[branch], map, picture, 0, FVG_RELEVANCE);
      if (until_failure >= 0) { ok = ok && !s && k > 5; break; }
      ok = ok && s == FVG_E_NOMEM;
    }
  until_failure = -1;
  check(ok, "and for relevance maps");
  world_close(&w);
  check(fvg_mem_used(c) == 0, "none at all");
  fvg_free(c);
}

int main(void) {
  fvg_ctx *c;
  fvg_rng rng;
  world w, shallow;
  int i;
  if (fvg_init(&c, NULL)) return 1;
  draw_model(c, &two_layers, 2);
  draw_model(c, &one_layer, 1);
  draw_model(c, &no_vision, 0);
  fvg_rng_seed(&rng, 29, 0);
  for (i = 0; i < 3 * PIXELS; i++) picture[i] = (float)fvg_rng_normal(&rng);
  world_open(&w, c, &two_layers, FVG_F32);
  world_open(&shallow, c, &one_layer, FVG_F32);
  test_grad_cam(&w, FVG_ZERO_SHOT, FVG_BRANCH_NEW, 2);
  test_grad_cam(&shallow, FVG_ZERO_SHOT, FVG_BRANCH_NEW, 1);
  test_attention(&w);
  test_attention(&shallow);
  test_undisturbed(&w);
  test_errors(&w);
  test_panels(c, &w);
  world_close(&shallow);
  world_close(&w);
  test_prompted(c);
  test_relevances(c);
  test_no_gradient(c);
  test_variants(c);
  test_spread();
  test_share();
  test_overlay(c);
  check(fvg_mem_used(c) == 0, "no memory stays");
  fvg_free(c);
  test_allocation_failures();
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
