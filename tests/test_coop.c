/* Chapters 13 to 15 of fvgpt_clip.h: where CoOp's vectors stand, their gradient, training, new names, the golden
   trajectories.  Run from the repository root. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"
#include "shorthand.h"

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

static double difference(const float *got, const float *expected, size_t n, int relative) {
  double worst = 0, size = 1e-30;
  size_t i;
  for (i = 0; i < n; i++) {
    double e = fabs((double)got[i] - (double)expected[i]);
    if (!(e <= worst)) worst = e;
    size = fmax(size, fabs((double)expected[i]));
  }
  return relative ? worst / size : worst;
}

/* ---- a text tower of random weights ---- */
enum { W = 64, MLP = 128, LAYERS = 2, CONTEXT = 16, VOCAB = 512 + 6 + 2, EMBED = 24, MAX_TENSORS = 64 };
static const char merges[] = "#version: 0.2\np h\no t\nph ot\nphot o</w>\no f</w>\n. .</w>\n";
static char bytes[1 << 20];
static size_t n_bytes;
static int append(void *user, const void *from, size_t n) {
  (void)user;
  if (n > sizeof bytes - n_bytes) return 1;
  memcpy(bytes + n_bytes, from, n);
  n_bytes += n;
  return 0;
}

typedef struct model { fvg_named_tensor tensor[MAX_TENSORS]; char name[MAX_TENSORS][80]; int n; } model;
static model tower;
static float pool[200000];
static size_t pool_used;

static void draw(const char *name, int rows, int cols, double mean, double deviation) {
  static fvg_rng rng;
  fvg_tensor *x = &tower.tensor[tower.n].tensor;
  float *data = pool + pool_used;
  if (!tower.n) fvg_rng_seed(&rng, 5, 0);
  snprintf(tower.name[tower.n], sizeof tower.name[0], "%s", name);
  tower.tensor[tower.n].name = tower.name[tower.n];
  x->n_dim = cols ? 2 : rows ? 1 : 0;
  x->dim[0] = rows;
  x->dim[1] = cols;
  x->data = data;
  pool_used += fvg_tensor_count(x);
  for (; data < pool + pool_used; data++) *data = (float)(mean + deviation * fvg_rng_normal(&rng));
  tower.n++;
}

static void draw_pair(const char *prefix, const char *leaf, int rows, int cols) {  /* cols 0: a layer norm */
  char name[80];
  snprintf(name, sizeof name, "%s%s.weight", prefix, leaf);
  draw(name, rows, cols, cols ? 0 : 1, cols ? 1.2 / sqrt((double)cols) : 0.2);
  snprintf(name, sizeof name, "%s%s.bias", prefix, leaf);
  draw(name, rows, 0, 0, 0.2);
}

static void write_tower(void) {
  static const char *const square[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                       "self_attn.out_proj"};
  char prefix[64];
  int i, k;
  draw("logit_scale", 0, 0, 2.5, 0);
  draw("text_model.embeddings.token_embedding.weight", VOCAB, W, 0, 1);
  draw("text_model.embeddings.position_embedding.weight", CONTEXT, W, 0, 0.5);
  draw("text_projection.weight", EMBED, W, 0, 0.1);
  draw_pair("text_model.", "final_layer_norm", W, 0);
  for (i = 0; i < LAYERS; i++) {
    snprintf(prefix, sizeof prefix, "text_model.encoder.layers.%d.", i);
    for (k = 0; k < 4; k++) draw_pair(prefix, square[k], W, W);
    draw_pair(prefix, "layer_norm1", W, 0);
    draw_pair(prefix, "layer_norm2", W, 0);
    draw_pair(prefix, "mlp.fc1", MLP, W);
    draw_pair(prefix, "mlp.fc2", W, MLP);
  }
  need(!fvg_safetensors_write(c, append, NULL, tower.tensor, tower.n, NULL, 0), "the model in memory");
}

static fvg_status load(fvg_ctx *k, fvg_clip **m, fvg_dtype keep_as) {
  fvg_source source = fvg_source_memory(bytes, n_bytes, "tiny.safetensors");
  fvg_weights *w;
  fvg_status s = fvg_weights_open(k, &w, &source);
  *m = NULL;
  if (s) return s;
  s = fvg_clip_load(k, m, w, NULL, keep_as);
  fvg_weights_close(w);
  if (s) return s;
  source = fvg_source_memory(merges, sizeof merges - 1, "merges");
  s = fvg_tokenizer_open(k, &(*m)->tokenizer, &source, VOCAB);
  if (s) { fvg_clip_free(*m); *m = NULL; }
  return s;
}

static fvg_clip *m;
enum { CLASSES = 3 };
static const char *const names[CLASSES] = {"cat", "c_ab", "st."}, *const other[] = {"photo", "z"};

static fvg_learner_desc desc_of(int n_ctx, int class_specific, int position, const char *ctx_init) {
  fvg_learner_desc d;
  memset(&d, 0, sizeof d);
  d.n_ctx = n_ctx;
  d.class_specific = class_specific;
  d.class_token_position = (fvg_position)position;
  d.ctx_init = ctx_init;
  d.seed = 7;
  return d;
}

static fvg_parameter *ctx_of(const fvg_learner *p) { return fvg_learner_parameter(p, "ctx"); }

static fvg_batch batch_of(const float *f, const int *label, int n) {
  fvg_batch b;
  memset(&b, 0, sizeof b);
  b.f_clip = f;
  b.label = label;
  b.n = n;
  return b;
}

static fvg_learner *new_coop(const fvg_learner_desc *d) {
  fvg_learner *p;
  if (fvg_learner_new(m, &p, names, CLASSES, d)) { printf("FAILED fvg_learner_new: %s\n", fvg_error(c)); exit(1); }
  return p;
}

/* ---- where the vectors stand ---- */
static void test_zero_shot(void) {
  static const fvg_dtype type[] = {FVG_F32, FVG_F16, FVG_BF16};
  float g[CLASSES * EMBED], expected[CLASSES * EMBED];
  int i, csc;
  for (i = 0; i < 3; i++)
    for (csc = 0; csc < 2; csc++) {
      fvg_learner_desc d = desc_of(9, csc, FVG_END, "a photo of a");       /* four words, whatever n_ctx says */
      fvg_clip *k;
      fvg_learner *p = NULL;
      int ok = !load(c, &k, type[i]) && !fvg_learner_new(k, &p, names, CLASSES, &d);
      ok = ok && fvg_tensor_count(&ctx_of(p)->value) == (csc ? CLASSES : 1) * 4 * W;
      ok = ok && !fvg_learner_text_features(p, g, names, CLASSES) &&
           !fvg_clip_encode_classes(k, expected, NULL, names, CLASSES);
      check(ok && (csc ? difference(g, expected, CLASSES * EMBED, 0) < 1e-6 : !memcmp(g, expected, sizeof g)),
            "the embeddings of \"a photo of a\" give the features of \"a photo of a {}.\", bit for bit when shared");
      fvg_learner_free(p);
      fvg_clip_free(k);
    }
}

/* The feature of one prompt: rows laid down by hand, every token and every vector at its place, no packing. */
static void by_hand(const int *token, const float *const *vector, int n, float *g) {
  fvg_tape *t = fvg_tape_new(c);
  fvg_node *x = fvg_zeros(t, n, W), *y;
  fvg_segment s;
  int i, k, end = n - 1;
  memset(&s, 0, sizeof s);
  s.n_query = s.n_key = n;
  s.causal = 1;
  for (i = 0; i < n; i++)
    for (k = 0; k < W; k++)
      fvg_fill(x)[i * W + k] = (vector[i] ? vector[i][k]
                                          : ((const float *)m->text.token_embedding.data)[token[i] * W + k]) +
                               ((const float *)m->text.position_embedding.data)[i * W + k];
  y = fvg_gather(fvg_transform(x, &m->text.transformer, &s, 1, NULL, 0), &end, 1);
  y = fvg_layer_norm(y, fvg_frozen(t, &m->text.ln_final_weight), fvg_frozen(t, &m->text.ln_final_bias), 1e-5f);
  y = fvg_normalize(fvg_linear(y, fvg_frozen(t, &m->text.projection), NULL));
  need(y != NULL, "a prompt by hand");
  if (y) memcpy(g, fvg_value(y), EMBED * sizeof *g);
  fvg_tape_free(t);
}

static void lay(int *token, const float **vector, int *at, int id, const float *v) {
  token[*at] = id;
  vector[(*at)++] = v;
}

/* [SOT] with the name after, among or before the vectors; the name is counted without its dot. */
static void prompt_by_hand(const char *name, const float *ctx, int n_ctx, int position, float *g) {
  int before = position == FVG_END ? n_ctx : position == FVG_MIDDLE ? n_ctx / 2 : 0;
  int token[CONTEXT], id[CONTEXT], at = 0, i, n_name, n;
  const float *vector[CONTEXT];
  char plain[40];
  for (i = 0; name[i]; i++) plain[i] = (char)(name[i] == '_' ? ' ' : name[i]);
  plain[i] = 0;
  need(!fvg_tokenize(m->tokenizer, NULL, 0, &n_name, plain), "a name alone");
  strcpy(plain + i, ".");
  need(!fvg_tokenize(m->tokenizer, id, CONTEXT, &n, plain), "a name with its dot");
  lay(token, vector, &at, VOCAB - 2, NULL);
  for (i = 0; i < before; i++) lay(token, vector, &at, 0, ctx + i * W);
  for (i = 0; i < n_name; i++) lay(token, vector, &at, id[i], NULL);
  for (i = before; i < n_ctx; i++) lay(token, vector, &at, 0, ctx + i * W);
  for (i = n_name; i < n; i++) lay(token, vector, &at, id[i], NULL);
  lay(token, vector, &at, VOCAB - 1, NULL);
  by_hand(token, vector, at, g);
}

static void test_positions(void) {
  static const char *const what[] = {"end", "middle", "front"};
  float g[CLASSES * EMBED], expected[CLASSES * EMBED];
  double worst;
  int position, csc, n_ctx, i;
  for (position = FVG_END; position <= FVG_FRONT; position++)
    for (csc = 0; csc < 2; csc++)
      for (n_ctx = 3; n_ctx <= 4; n_ctx++) {
        fvg_learner_desc d = desc_of(n_ctx, csc, position, NULL);
        fvg_learner *p = new_coop(&d);
        const float *ctx = (const float *)ctx_of(p)->value.data;
        check(fvg_tensor_count(&ctx_of(p)->value) == (size_t)((csc ? CLASSES : 1) * n_ctx * W),
              "number of parameters");
        for (i = 0; i < CLASSES; i++)
          prompt_by_hand(names[i], ctx + (csc ? i * n_ctx * W : 0), n_ctx, position, expected + i * EMBED);
        worst = fvg_learner_text_features(p, g, names, CLASSES) ? NAN : difference(g, expected, CLASSES * EMBED, 0);
        check(worst < 1e-6, what[position]);
        if (!csc) {
          for (i = 0; i < 2; i++) prompt_by_hand(other[i], ctx, n_ctx, position, expected + i * EMBED);
          worst = fvg_learner_text_features(p, g, other, 2) ? NAN : difference(g, expected, 2 * EMBED, 0);
          check(worst < 1e-6, "new names with the same vectors");
        }
        fvg_learner_free(p);
      }
}

/* A name that makes fewer tokens with its dot than without: no more than all of them stand before
   the vectors. */
static void test_merged_dot(void) {
  static const char merging[] = "#version: 0.2\np h\no t\n- !\n-! .</w>\nph ot\nphot o</w>\n";
  static const char *const odd[] = {"-!"};
  fvg_source source = fvg_source_memory(merging, sizeof merging - 1, "merges");
  fvg_tokenizer *before = m->tokenizer, *t = NULL;
  float g[EMBED], expected[EMBED];
  int position, alone = 0, dotted = 0, i;
  check(!fvg_tokenizer_open(c, &t, &source, VOCAB), "a tokenizer that merges a name with its dot");
  if (!t) return;
  m->tokenizer = t;
  check(!fvg_tokenize(t, NULL, 0, &alone, "-!") && !fvg_tokenize(t, NULL, 0, &dotted, "-!.") &&
            alone == 2 && dotted == 1,
        "two tokens, with the dot one");
  for (position = FVG_END; position <= FVG_FRONT; position++) {
    fvg_learner_desc d = desc_of(4, 0, position, NULL);
    fvg_learner *p = new_coop(&d);
    const float *ctx = (const float *)ctx_of(p)->value.data, *vector[CONTEXT];
    int ahead = position == FVG_END ? 4 : position == FVG_MIDDLE ? 2 : 0;
    int token[CONTEXT], at = 0, id;
    need(!fvg_tokenize(t, &id, 1, &dotted, "-!."), "the one token");
    lay(token, vector, &at, VOCAB - 2, NULL);
    for (i = 0; i < ahead; i++) lay(token, vector, &at, 0, ctx + i * W);
    lay(token, vector, &at, id, NULL);
    for (i = ahead; i < 4; i++) lay(token, vector, &at, 0, ctx + i * W);
    lay(token, vector, &at, VOCAB - 1, NULL);
    by_hand(token, vector, at, expected);
    check(!fvg_learner_text_features(p, g, odd, 1) && difference(g, expected, EMBED, 0) < 1e-6,
          "the text has that token alone");
    fvg_learner_free(p);
  }
  fvg_tokenizer_free(t);
  m->tokenizer = before;
}

/* [SOT] and the vectors; behind these the words' tokens that are left over, the name and the dot, of which as many as
   the name has tokens stand before the second half, or before all, of the vectors. */
static void words_by_hand(const char *words, int n_words, const char *name, const float *ctx, int position, float *g) {
  int before = position == FVG_END ? n_words : position == FVG_MIDDLE ? n_words / 2 : 0;
  int token[CONTEXT + 8], id[2 * CONTEXT], at = 0, n_word, n_name, n, i;
  const float *vector[CONTEXT + 8];
  char plain[60];
  need(!fvg_tokenize(m->tokenizer, id, CONTEXT, &n_word, words), "the words");
  for (i = n_words; i < n_word; i++) id[i - n_words] = id[i];
  snprintf(plain, sizeof plain, "%s", name);
  for (i = 0; plain[i]; i++) if (plain[i] == '_') plain[i] = ' ';
  need(!fvg_tokenize(m->tokenizer, NULL, 0, &n_name, plain), "a name alone");
  strcpy(plain + i, ".");
  need(!fvg_tokenize(m->tokenizer, id + n_word - n_words, CONTEXT, &n, plain), "a name with its dot");
  n += n_word - n_words;
  if (position == FVG_END) n_name = 0;
  lay(token, vector, &at, VOCAB - 2, NULL);
  for (i = 0; i < before; i++) lay(token, vector, &at, 0, ctx + i * W);
  for (i = 0; i < n_name; i++) lay(token, vector, &at, id[i], NULL);
  for (i = before; i < n_words; i++) lay(token, vector, &at, 0, ctx + i * W);
  for (i = n_name; i < n; i++) lay(token, vector, &at, id[i], NULL);
  lay(token, vector, &at, VOCAB - 1, NULL);
  by_hand(token, vector, at, g);
}

/* Words of several tokens: as many vectors as words, from the first tokens; the others stay behind them.  Only "photo",
   "of" and ". ." are merged here, every other letter is a token. */
static void test_words(void) {
  static const struct { const char *init, *plain; int n_words, n_tokens; } x[] = {
    {"a photo of a", "a photo of a", 4, 4},
    {"cat photo of a", "cat photo of a", 4, 6},                          /* at the beginning                       */
    {"a cat of a", "a cat of a", 4, 6},                                  /* in the middle                          */
    {"photo of xyz", "photo of xyz", 3, 5},                              /* at the end                             */
    {"a c-d, photo", "a c-d, photo", 3, 6},                              /* signs inside and after a word          */
    {"a , photo", "a , photo", 3, 3},                                    /* a sign that is a word                  */
    {"  a_cat\t photo_of ", "a cat photo of", 4, 6}                      /* other blanks                           */
  };
  float g[CLASSES * EMBED], expected[CLASSES * EMBED];
  char form[60], what[100];
  size_t k;
  int position, csc, i, n;
  for (k = 0; k < sizeof x / sizeof *x; k++)
    for (position = FVG_END; position <= FVG_FRONT; position++)
      for (csc = 0; csc < 2; csc++) {
        fvg_learner_desc d = desc_of(csc ? 5 : 0, csc, position, x[k].init);
        fvg_learner *p = new_coop(&d);
        float *ctx = (float *)ctx_of(p)->value.data;
        snprintf(what, sizeof what, "\"%s\", position %d, csc %d", x[k].init, position, csc);
        check(!fvg_tokenize(m->tokenizer, NULL, 0, &n, x[k].plain) && n == x[k].n_tokens &&
                  fvg_tensor_count(&ctx_of(p)->value) == (size_t)((csc ? CLASSES : 1) * x[k].n_words * W), what);
        snprintf(form, sizeof form, "%s {}.", x[k].plain);
        if (position == FVG_END)
          check(!fvg_learner_text_features(p, g, names, CLASSES) &&
                    !fvg_clip_encode_classes(m, expected, form, names, CLASSES) &&
                    difference(g, expected, CLASSES * EMBED, 0) < 1e-6, "untrained it is the sentence");
        for (i = 0; i < (csc ? CLASSES : 1) * x[k].n_words * W; i++) ctx[i] += (float)(0.3 * sin(i));
        for (i = 0; i < CLASSES; i++)
          words_by_hand(x[k].plain, x[k].n_words, names[i], ctx + (csc ? i * x[k].n_words * W : 0), position,
                        expected + i * EMBED);
        check(!fvg_learner_text_features(p, g, names, CLASSES) && difference(g, expected, CLASSES * EMBED, 0) < 1e-6,
              what);
        fvg_learner_free(p);
      }
}

static void test_start(void) {
  fvg_learner_desc d = desc_of(10, 1, FVG_END, NULL);
  const float *a, *b;
  fvg_learner *p, *q;
  double mean = 0, square = 0;
  int i, n;
  const char *const *kept;
  p = new_coop(&d);
  q = new_coop(&d);
  a = (const float *)ctx_of(p)->value.data;
  b = (const float *)ctx_of(q)->value.data;
  n = CLASSES * 10 * W;
  for (i = 0; i < n; i++) { mean += (double)a[i] / n; square += (double)a[i] * (double)a[i] / n; }
  check(fabs(mean) < 4 * 0.02 / sqrt(n) && fabs(sqrt(square) - 0.02) < 4 * 0.02 / sqrt(2.0 * n),
        "vectors start as N(0, 0.02^2)");
  check(!memcmp(a, b, (size_t)n * sizeof *a), "one seed, one start");
  fvg_learner_free(q);
  d.seed++;
  q = new_coop(&d);
  check(memcmp(a, ctx_of(q)->value.data, (size_t)n * sizeof *a), "another seed, another start");
  fvg_learner_free(q);
  kept = fvg_learner_class_names(p, &n);
  check(n == CLASSES && kept[1] != names[1] && !strcmp(kept[1], names[1]), "class names are copied");
  fvg_learner_free(p);
  if (fvg_learner_new(m, &p, names, CLASSES, NULL)) { check(0, "no desc"); return; }
  check(ctx_of(p)->value.n_dim == 2 && ctx_of(p)->value.dim[0] == 4 &&
            !strcmp(ctx_of(p)->name, "ctx"),
        "four shared vectors by default");
  fvg_learner_free(p);
}

/* ---- loss, gradient, steps ---- */
enum { N = 5 };
static float f[N * EMBED];
static const int label[N] = {0, 2, 1, 1, 0};

typedef struct problem { fvg_learner *p; } problem;
static fvg_node *build(fvg_tape *t, void *user) {
  fvg_batch b = batch_of(f, label, N);
  return fvg_learner_loss(((problem *)user)->p, t, &b);
}

static double loss_by_hand(const float *g) {
  double loss = 0;
  int i, j, k;
  for (i = 0; i < N; i++) {
    double z[CLASSES], sum = 0;
    for (j = 0; j < CLASSES; j++) {
      for (z[j] = 0, k = 0; k < EMBED; k++) z[j] += (double)f[i * EMBED + k] * (double)g[j * EMBED + k];
      sum += exp(z[j] *= (double)m->logit_scale);
    }
    loss += (log(sum) - z[label[i]]) / N;
  }
  return loss;
}

static double value_of(problem *x, const float *start, const float *direction, double step) {
  fvg_tape *t = fvg_tape_new(c);
  fvg_tensor *ctx = &ctx_of(x->p)->value;
  size_t i, n = fvg_tensor_count(ctx);
  const float *loss;
  double value;
  for (i = 0; i < n; i++) ((float *)ctx->data)[i] = (float)((double)start[i] + step * (double)direction[i]);
  loss = fvg_value(build(t, x));
  value = loss ? (double)loss[0] : NAN;
  fvg_tape_free(t);
  return value;
}

/* Along a random direction, where no part is small: |numeric - analytic| / |analytic|. */
static double directional_error(problem *x) {
  fvg_parameter *ctx = ctx_of(x->p);
  static float start[CLASSES * 4 * W], direction[CLASSES * 4 * W];
  size_t i, n = fvg_tensor_count(&ctx->value);
  double analytic = 0, one, two, worst = 0;
  fvg_rng rng;
  int k;
  memcpy(start, ctx->value.data, n * sizeof *start);
  fvg_rng_seed(&rng, 2, 0);
  for (k = 0; k < 4; k++, analytic = 0) {
    for (i = 0; i < n; i++) {                                           /* with a part along the gradient */
      direction[i] = (float)(0.1 * fvg_rng_normal(&rng)) + ctx->grad[i];
      analytic += (double)direction[i] * (double)ctx->grad[i];
    }
    one = (value_of(x, start, direction, 0.03) - value_of(x, start, direction, -0.03)) / 0.06;
    two = (value_of(x, start, direction, 0.06) - value_of(x, start, direction, -0.06)) / 0.12;
    worst = fmax(worst, fabs((4 * one - two) / 3 / analytic - 1));
  }
  memcpy(ctx->value.data, start, n * sizeof *start);
  return worst;
}

static void test_gradient(void) {
  double worst = 0, worst_along = 0, error, along;
  int position, csc;
  for (position = FVG_END; position <= FVG_FRONT; position++)
    for (csc = 0; csc < 2; csc++) {
      fvg_learner_desc d = desc_of(4, csc, position, NULL);
      problem x;
      fvg_parameter *ctx;
      fvg_tape *t = fvg_tape_new(c);
      fvg_node *loss;
      float g[CLASSES * EMBED];
      x.p = new_coop(&d);
      ctx = ctx_of(x.p);
      loss = build(t, &x);
      check(loss && !fvg_learner_text_features(x.p, g, names, CLASSES) &&
                fabs((double)fvg_value(loss)[0] - loss_by_hand(g)) < 1e-5,
            "the loss is CE(s f g^T, y)");
      fvg_tape_free(t);
      error = fvg_gradient_check(c, build, &x, &ctx, 1, 64, 6e-2f);     /* leaves the gradient */
      along = directional_error(&x);
      check(error >= 0 && error < 0.1, "fvg_gradient_check");  /* f32 noise where it is small; a wrong sign gives 1 */
      check(along < 1e-3, "the derivative along a direction");
      worst = fmax(worst, error);
      worst_along = fmax(worst_along, along);
      fvg_learner_free(x.p);
    }
  printf("every position, shared and class-specific: fvg_gradient_check %.1e, along directions %.1e\n", worst,
         worst_along);
}

static fvg_status train(fvg_learner *p, int steps, float *losses) {
  fvg_parameter *ctx = ctx_of(p);
  fvg_optimizer *o;
  fvg_batch b = batch_of(f, label, N);
  fvg_status s = fvg_optimizer_new(p->clip->ctx, &o, &ctx, 1, NULL);
  int i;
  for (i = 0; !s && i < steps; i++) s = fvg_learner_step(p, &losses[i], o, 0.002, &b);
  fvg_optimizer_free(o);
  return s;
}

/* Class by class or all at once: the same loss and gradient, up to rounding. */
static void test_chunks(void) {
  static float whole[CLASSES * 4 * W], g[2][CLASSES * EMBED];
  double loss = 0, worst;
  int csc, rows;
  for (csc = 0; csc < 2; csc++)
    for (rows = 0; rows < 9; rows += 4) {                               /* one chunk, a class each, about two */
      fvg_learner_desc d = desc_of(4, csc, FVG_END, NULL);
      fvg_tape *t = fvg_tape_new(c);
      fvg_parameter *ctx;
      fvg_node *l;
      problem x;
      size_t n;
      d.chunk_rows = rows;
      x.p = new_coop(&d);
      ctx = ctx_of(x.p);
      n = fvg_tensor_count(&ctx->value);
      l = build(t, &x);
      check(!fvg_backward(l) && !fvg_learner_text_features(x.p, g[rows > 0], names, CLASSES), "a step in chunks");
      if (!rows) { loss = (double)fvg_value(l)[0]; memcpy(whole, ctx->grad, n * sizeof *whole); }
      else {
        worst = difference(ctx->grad, whole, n, 1);
        check(x.p->packed.next != NULL, "there are chunks");
        check(fabs((double)fvg_value(l)[0] - loss) < 1e-5 && worst < 1e-4, "chunks change neither loss nor gradient");
        check(difference(g[1], g[0], CLASSES * EMBED, 1) < 1e-5, "nor the features");
      }
      fvg_tape_free(t);
      fvg_learner_free(x.p);
    }
}

static void test_training(void) {
  static const int bad[N] = {0, 2, 3, 1, 0}, negative[N] = {0, 2, 1, -1, 0};
  fvg_batch good = batch_of(f, label, N), too_large = batch_of(f, bad, N), too_small = batch_of(f, negative, N);
  float losses[2][30], g[CLASSES * EMBED], kept[4 * W];
  fvg_parameter *ctx;
  fvg_optimizer *o;
  fvg_learner *p[2];
  size_t used;
  int i;
  for (i = 0; i < 2; i++) {
    p[i] = new_coop(NULL);
    check(!train(p[i], 30, losses[i]), "thirty steps");
  }
  check(losses[0][29] < 0.9 * losses[0][0], "the loss falls");
  check(!memcmp(losses[0], losses[1], sizeof losses[0]) &&
            !memcmp(ctx_of(p[0])->value.data, ctx_of(p[1])->value.data, 4 * W * sizeof(float)),
        "one seed, one result");
  check(!fvg_learner_text_features(p[0], g, names, CLASSES) && fabs(loss_by_hand(g) - (double)losses[0][29]) < 0.2,
        "the features are those of the trained vectors");
  ctx = ctx_of(p[0]);
  memcpy(kept, ctx->value.data, sizeof kept);
  if (fvg_optimizer_new(c, &o, &ctx, 1, NULL)) { check(0, fvg_error(c)); return; }
  used = fvg_mem_used(c);
  check(fvg_learner_step(p[0], NULL, o, 0.1, &too_large) == FVG_E_ARG && one_line("label 3", "3"),
        "a label beyond the classes");
  check(fvg_learner_step(p[0], NULL, o, 0.1, &too_small) == FVG_E_ARG && one_line("label -1", ""),
        "a negative label");
  check(!memcmp(kept, ctx->value.data, sizeof kept), "a failed step changes nothing");
  for (i = 0; i < 3; i++)
    check(!fvg_learner_step(p[0], NULL, o, 0.1, &good), "a step that does not ask for its loss");
  check(fvg_mem_used(c) == used, "further steps take no further memory");
  fvg_optimizer_free(o);
  for (i = 0; i < 2; i++) fvg_learner_free(p[i]);
}

/* ---- what cannot be ---- */
static void refuse(const fvg_learner_desc *d, const char *const *name, int n, fvg_status status, const char *a,
                   const char *b) {
  size_t used = fvg_mem_used(c);
  fvg_learner *p;
  check(fvg_learner_new(m, &p, name, n, d) == status && !p && one_line(a, b) && fvg_mem_used(c) == used, a);
  fvg_learner_free(p);
}

static void test_refused(void) {
  static const char *const long_name[] = {"cat", "abcdefghijk"}, *const no_text[] = {"a\xFF"},
                           *const swapped[] = {"c_ab", "cat", "st."}, *const no_name[] = {"cat", " _\r"},
                           *const respelt[] = {" Cat\r", "c  AB", "_st.\t"};
  fvg_learner_desc d = desc_of(4, 1, FVG_END, NULL), shared = desc_of(4, 0, FVG_END, NULL);
  fvg_text_tower saved = m->text;
  fvg_learner *p = new_coop(&d);
  float g[CLASSES * EMBED], h[CLASSES * EMBED];
  check(!fvg_learner_text_features(p, g, names, CLASSES), "class-specific vectors know their classes");
  check(fvg_learner_text_features(p, g, other, 2) == FVG_E_UNSUPPORTED && one_line("class-specific", "photo"),
        "but no others");
  check(fvg_learner_text_features(p, g, swapped, CLASSES) == FVG_E_UNSUPPORTED && one_line("class-specific", "c_ab"),
        "nor in another order");
  check(fvg_learner_text_features(p, g, names, 2) == FVG_E_UNSUPPORTED, "nor fewer");
  check(!fvg_learner_text_features(p, h, respelt, CLASSES) && !memcmp(g, h, sizeof g),
        "names that mean the same are the same classes");
  check(fvg_learner_text_features(p, g, names, 0) == FVG_E_ARG, "no classes to encode");
  fvg_learner_free(p);
  p = new_coop(&shared);
  check(fvg_learner_text_features(p, g, long_name, 2) == FVG_E_ARG && one_line("abcdefghijk", "12 tokens"),
        "a new name that does not fit");
  fvg_learner_free(p);
  refuse(&shared, names, 0, FVG_E_ARG, "0 classes", "CoOp");
  refuse(&shared, long_name, 2, FVG_E_ARG, "12 tokens", "room for 10");
  refuse(&shared, no_text, 1, FVG_E_FORMAT, "UTF-8", "");
  refuse(&shared, no_name, 2, FVG_E_ARG, "class 2 of 2 is empty", "CoOp");
  shared.n_ctx = CONTEXT - 2;
  refuse(&shared, names, CLASSES, FVG_E_ARG, "14 context vectors", "1 to 13");
  shared.n_ctx = -1;
  refuse(&shared, names, CLASSES, FVG_E_ARG, "-1 context vectors", "1 to 13");
  shared.ctx_init = "a b c d e f g h i j k l m n";
  refuse(&shared, names, CLASSES, FVG_E_ARG, "14 tokens", "room for 13");
  shared.n_ctx = 0;
  shared.ctx_init = " ";
  refuse(&shared, names, CLASSES, FVG_E_ARG, "0 context vectors", "1 to 13");
  m->has_text = 0;
  memset(&m->text, 0, sizeof m->text);
  refuse(NULL, names, CLASSES, FVG_E_ARG, "text tower", "CoOp");
  m->has_text = 1;
  m->text = saved;
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

static void test_allocation_failures(void) {
  fvg_status s;
  float losses[2], g[2 * EMBED];
  int ok = 1;
  long k;
  for (k = 0;; k++) {
    fvg_clip *clip = NULL;
    fvg_learner *p = NULL;
    fvg_desc d;
    fvg_ctx *own;
    memset(&d, 0, sizeof d);
    d.allocator.alloc = failing_alloc;
    d.allocator.release = failing_release;
    until_failure = k;
    s = fvg_init(&own, &d);
    if (!s) s = load(own, &clip, FVG_F32);
    if (!s) {
      fvg_learner_desc desc = desc_of(4, 0, FVG_MIDDLE, k % 2 ? "a photo" : NULL);
      s = fvg_learner_new(clip, &p, names, CLASSES, &desc);
    }
    if (!s) s = train(p, 2, losses);
    if (!s) s = fvg_learner_text_features(p, g, other, 2);
    fvg_learner_free(p);
    fvg_clip_free(clip);
    fvg_free(own);
    if (n_live) printf("  allocation %ld fails: %ld blocks stay\n", k, n_live);
    ok = ok && n_live == 0;
    n_live = 0;
    if (until_failure >= 0) break;
    if (s != FVG_E_NOMEM) printf("  allocation %ld fails: %s\n", k, fvg_status_name(s));
    ok = ok && s == FVG_E_NOMEM;
  }
  printf("%ld allocations made to fail\n", k);
  check(ok && s == FVG_OK && k > 50, "each allocation failing in turn: an error, and no memory stays");
}

/* ---- golden trajectories ---- */
typedef struct golden {
  fvg_weights *w;
  fvg_tensor images, labels, init, grad0, final, losses, test_images, test_logits;
} golden;

static int has(const golden *x, const char *key, const char *value) {
  const char *found = fvg_weights_metadata(x->w, key);
  return found && !strcmp(found, value);
}

static int golden_read(golden *x) {
  const char *const name[] = {"images",    "labels", "init.ctx",    "grad0.ctx",
                              "final.ctx", "losses", "test_images", "test_logits"};
  fvg_tensor *t = &x->images;
  int i;
  for (i = 0; i < 8; i++) if (fvg_weights_get(x->w, t + i, name[i], i == 1 ? FVG_I32 : FVG_F32)) return 0;
  return 1;
}

static void golden_free(golden *x) {
  fvg_tensor *t = &x->images;
  int i;
  for (i = 0; i < 8; i++) fvg_tensor_free(c, t + i);
  fvg_weights_close(x->w);
}

static void golden_run(const golden *x, fvg_clip *clip, fvg_learner *p, const char *what) {
  fvg_parameter *ctx = ctx_of(p);
  fvg_optimizer *o = NULL;
  fvg_classifier *k = NULL;
  int i, steps = x->labels.dim[0], batch = x->labels.dim[1], n = steps * batch, d = clip->embed_dim, ok;
  int n_test = x->test_images.dim[0], n_class = x->test_logits.dim[1];
  double loss = 0, grad = NAN, last, logits;
  float *feature = (float *)malloc((size_t)(n + n_test) * (size_t)d * sizeof *feature), step_loss;
  float *z = (float *)malloc((size_t)(n_test * n_class) * sizeof *z);
  memcpy(ctx->value.data, x->init.data, fvg_tensor_count(&x->init) * sizeof(float));
  ok = !fvg_clip_encode_images(clip, feature, (const float *)x->images.data, n) &&
       !fvg_optimizer_new(c, &o, &ctx, 1, NULL) &&
       !fvg_clip_encode_images(clip, feature + n * d, (const float *)x->test_images.data, n_test);
  fvg_normalize_rows(feature, n + n_test, d);
  for (i = 0; ok && i < steps; i++) {
    fvg_batch b = batch_of(feature + i * batch * d, (const int *)x->labels.data + i * batch, batch);
    ok = !fvg_learner_step(p, &step_loss, o, atof(fvg_weights_metadata(x->w, "lr")), &b);
    loss = fmax(loss, fabs((double)step_loss / (double)((const float *)x->losses.data)[i] - 1));
    if (i == 0) grad = difference(ctx->grad, (const float *)x->grad0.data, fvg_tensor_count(&x->grad0), 1);
  }
  last = difference((const float *)ctx->value.data, (const float *)x->final.data, fvg_tensor_count(&x->final), 0);
  ok = ok &&
       !new_classifier(clip, &k, FVG_TUNED, p, NULL, NULL, (const char *const *)p->class_name,
                       p->n_class) &&
       !fvg_classifier_logits(k, z, NULL, feature + n * d, n_test);
  logits = ok ? difference(z, (const float *)x->test_logits.data, (size_t)(n_test * n_class), 1) : NAN;
  printf("golden %s: losses off by %.1e, grad0 %.1e, final %.1e, logits %.1e\n", what, loss, grad, last, logits);
  check(ok && loss < 1e-4, what);
  check(grad < 2e-4, what);
  check(last < 2e-5, what);
  check(logits < 3e-4, what);
  fvg_classifier_free(k);
  fvg_optimizer_free(o);
  free(feature);
  free(z);
}

static void test_golden(void) {
  static const char *const file[] = {"coop_end", "coop_end_csc", "coop_middle", "coop_front"};
  const char *shared = getenv("FVGPT_SHARED");
  fvg_clip *clip = NULL;
  char path[600];
  int i, n, k, position;
  snprintf(path, sizeof path, "%s/golden/backbones", shared ? shared : "../shared");
  if (fvg_clip_open(c, &clip, path, NULL, FVG_F32)) { printf("skipped: %s\n", fvg_error(c)); return; }
  check(clip->tokenizer != NULL, "the vocabulary is found from golden/backbones");
  for (i = 0; clip->tokenizer && i < 4; i++) {
    fvg_source source;
    fvg_learner_desc d;
    const char *name[16];
    fvg_json j;
    fvg_learner *p = NULL;
    golden x;
    memset(&x, 0, sizeof x);
    snprintf(path, sizeof path, "%s/golden/backbones/%s.safetensors", shared ? shared : "../shared", file[i]);
    if (fvg_source_file(c, &source, path) || fvg_weights_open(c, &x.w, &source) || !golden_read(&x) ||
        fvg_json_parse(c, &j, fvg_weights_metadata(x.w, "classes"), strlen(fvg_weights_metadata(x.w, "classes")),
                       path)) {
      check(0, fvg_error(c));
      continue;
    }
    for (n = 0, k = j.value[0].first; k >= 0 && n < 16; k = j.value[k].next) name[n++] = j.value[k].string;
    position = has(&x, "class_token_position", "middle") ? FVG_MIDDLE : FVG_END;
    if (has(&x, "class_token_position", "front")) position = FVG_FRONT;
    d = desc_of(atoi(fvg_weights_metadata(x.w, "n_ctx")), has(&x, "csc", "True"), position, NULL);
    if (fvg_learner_new(clip, &p, name, n, &d)) check(0, fvg_error(c));
    else golden_run(&x, clip, p, file[i]);
    fvg_learner_free(p);
    fvg_json_free(c, &j);
    golden_free(&x);
  }
  fvg_clip_free(clip);
}

int main(void) {
  fvg_rng rng;
  int i;
  if (fvg_init(&c, NULL)) return 1;
  fvg_rng_seed(&rng, 8, 0);
  for (i = 0; i < N * EMBED; i++) f[i] = (float)fvg_rng_normal(&rng);
  fvg_normalize_rows(f, N, EMBED);
  write_tower();
  if (load(c, &m, FVG_F32)) { printf("FAILED to load: %s\n", fvg_error(c)); return 1; }
  test_zero_shot();
  test_positions();
  test_merged_dot();
  test_words();
  test_start();
  test_gradient();
  test_chunks();
  test_training();
  test_refused();
  test_allocation_failures();
  test_golden();
  fvg_clip_free(m);
  check(fvg_mem_used(c) == 0, "no memory stays");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
