/* Chapters 8 to 13 of fvgpt_clip.h: CLIP from HF's and OpenAI's names, its features, towers that train whole, files
   that are not what they should be, memory that runs out, the golden features.  Run from the repository root;
   writes under build/test-clip. */
#include "random_model.h"
#include <sys/stat.h>

/* ---- names, sizes, configuration, storage ---- */
static const char config[] =
  "{\"vision_config\": {\"hidden_size\": 128, \"num_hidden_layers\": 2, \"num_attention_heads\": 2, "
  "\"image_size\": 12, \"patch_size\": 4, \"hidden_act\": \"quick_gelu\", \"layer_norm_eps\": 1e-05}, "
  "\"text_config\": {\"hidden_size\": 64, \"num_hidden_layers\": 3, \"num_attention_heads\": 1, "
  "\"max_position_embeddings\": 20, \"vocab_size\": 519, \"hidden_act\": \"quick_gelu\"}}";

static void test_names(features *plain) {
  fvg_clip *m[2];
  features f;
  size_t count = 0;
  int i, ok = 1;
  m[0] = must_load(&hf, NULL, FVG_F32);
  m[1] = must_load(&openai, NULL, FVG_F32);
  for (i = 0; i < hf.n; i++) count += fvg_tensor_count(&hf.tensor[i].tensor);
  for (i = 0; i < 2; i++) {
    const fvg_vision_tower *v = &m[i]->vision;
    const fvg_text_tower *x = &m[i]->text;
    ok = ok && m[i]->has_vision && m[i]->has_text && m[i]->embed_dim == EMBED &&
         fvg_clip_parameter_count(m[i]) == count;
    ok = ok && v->width == VISION && v->image_size == IMAGE && v->patch_size == PATCH && v->n_token == TOKENS;
    ok = ok && v->transformer.n_layer == VISION_LAYERS && v->transformer.n_head == 2;
    ok = ok && x->width == TEXT && x->context_length == CONTEXT && x->vocab_size == VOCAB;
    ok = ok && x->transformer.n_layer == TEXT_LAYERS && x->transformer.n_head == 1;
    ok = ok && v->transformer.activation == FVG_QUICK_GELU && fabs((double)m[i]->logit_scale - exp(3.0)) < 1e-4;
  }
  check(ok, "sizes, heads and parameter count from the shapes, in both names");
  encode(m[0], plain);
  encode(m[1], &f);
  check(same_images(&f, plain) && same_texts(&f, plain), "HF's and OpenAI's names give the same bits");
  fvg_clip_free(m[0]);
  fvg_clip_free(m[1]);
  encode_once(&hf, config, &f);
  check(same_images(&f, plain) && same_texts(&f, plain),
        "a configuration that says what the shapes say changes nothing");
}

static void test_config(const features *plain) {
  features f, gelu, heads;
  encode_once(&hf, "{\"vision_config\": {\"num_attention_heads\": 2}, "
              "\"text_config\": {\"num_attention_heads\": 1, \"hidden_act\": \"gelu\"}}", &f);
  check(same_images(&f, plain) && !same_texts(&f, plain), "hidden_act gelu of the text tower alone");
  encode_once(&hf, "{\"vision_config\": {\"num_attention_heads\": 2, \"hidden_act\": \"gelu\"}, "
              "\"text_config\": {\"num_attention_heads\": 1}}", &gelu);
  check(!same_images(&gelu, plain) && same_texts(&gelu, plain), "hidden_act gelu of the image tower alone");
  check(difference(gelu.image, plain->image, IMAGES * EMBED) < 0.1, "gelu is near quick_gelu");
  memcpy(gelu.text, f.text, sizeof f.text);
  encode_once(&openai, "{\"model_cfg\": {\"embed_dim\": 40, \"text_cfg\": {\"heads\": 1}}}", &f);
  check(same_images(&f, &gelu) && same_texts(&f, &gelu), "open_clip's configuration means gelu");
  encode_once(&openai, "{\"model_cfg\": {\"quick_gelu\": true, \"text_cfg\": {\"heads\": 1}}}", &f);
  check(same_images(&f, plain) && same_texts(&f, plain), "unless it says quick_gelu");
  encode_once(&openai, "{\"model_cfg\": {\"quick_gelu\": false, \"text_cfg\": {\"heads\": 1}}}",
              &f);
  check(same_images(&f, &gelu) && same_texts(&f, &gelu), "and says it with true, not false");
  encode_once(&hf, "{\"vision_config\": {\"num_attention_heads\": 8}, "
              "\"text_config\": {\"num_attention_heads\": 1, \"layer_norm_eps\": 0.5}}", &heads);
  check(!same_images(&heads, plain) && !same_texts(&heads, plain),
        "heads and layer_norm_eps are taken from the configuration");
}

static void test_storage(const features *plain) {
  static const fvg_dtype type[] = {FVG_F16, FVG_BF16};
  static const double limit[] = {4e-3, 3e-2};
  size_t empty = fvg_mem_used(c), full;
  features f;
  fvg_clip *m = must_load(&hf, NULL, FVG_F32);
  int i;
  full = fvg_mem_used(c) - empty;
  fvg_clip_free(m);
  for (i = 0; i < 2; i++) {
    double image, text;
    m = must_load(&openai, NULL, type[i]);
    check((double)(fvg_mem_used(c) - empty) < 0.65 * (double)full, "halves take little more than half the memory");
    encode(m, &f);
    image = difference(f.image, plain->image, IMAGES * EMBED);
    text = difference(f.text, plain->text, TEXTS * EMBED);
    printf("kept as %s: images off by %.1e, texts by %.1e\n", i ? "bf16" : "f16", image, text);
    check(image > 0 && text > 0 && image < limit[i] && text < limit[i], "halves give features close to f32's");
    fvg_clip_free(m);
  }
  check(load(&m, hf.tensor, hf.n, NULL, FVG_I32) == FVG_E_ARG && !m && one_line("tiny.safetensors", "F16"),
        "not as integers");
}

static int is_vision(const char *name) { return !strncmp(name, "vis", 3); }

static void test_towers(const features *plain) {
  const model *all[2];
  fvg_named_tensor part[MAX_TENSORS];
  features f;
  fvg_clip *m;
  fvg_status s;
  int i, k, vision, n;
  all[0] = &hf;
  all[1] = &openai;
  for (k = 0; k < 2; k++)
    for (vision = 0; vision < 2; vision++) {
      for (i = n = 0; i < all[k]->n; i++) if (is_vision(all[k]->name[i]) == vision) part[n++] = all[k]->tensor[i];
      if (load(&m, part, n, NULL, FVG_F32)) { check(0, fvg_error(c)); continue; }
      check(m->has_vision == vision && m->has_text == !vision && m->embed_dim == EMBED, "one tower alone");
      check(!vision || m->logit_scale == 100, "without logit_scale s is 100");
      encode(m, &f);
      check(vision ? same_images(&f, plain) : same_texts(&f, plain), "one tower alone has the features of both");
      s = vision ? fvg_clip_encode_texts(m, f.text, texts, 1) : fvg_clip_encode_images(m, f.image,
                                                                                       images, 1);
      check(s == FVG_E_ARG && one_line("tower", vision ? "text" : "image"), "the other tower is missed");
      fvg_clip_free(m);
    }
  for (i = n = 0; i < hf.n; i++)
    if (strncmp(hf.name[i], "vision_model", 12) && strncmp(hf.name[i], "text_model", 10)) part[n++] = hf.tensor[i];
  check(load(&m, part, n, NULL, FVG_F32) == FVG_E_FORMAT && !m && one_line("tiny.safetensors", ""), "neither tower");
  check(load(&m, hf.tensor, 0, NULL, FVG_F32) == FVG_E_FORMAT && one_line("tiny.safetensors", "no CLIP in"),
        "no tensors at all");
}

/* ---- one image, one text, without packing, batches or kept rows ---- */
static void image_by_hand(const fvg_clip *m, const float *image, float *f) {
  const fvg_vision_tower *v = &m->vision;
  const float *weight = (const float *)v->patch_weight.data, *position = (const float *)v->position_embedding.data;
  fvg_tape *t = fvg_tape_new(c);
  fvg_node *x = fvg_zeros(t, TOKENS, VISION);
  fvg_segment s;
  int token, k, i, channel, row, col, grid = IMAGE / PATCH, first = 0;
  memset(&s, 0, sizeof s);
  s.n_query = s.n_key = TOKENS;
  for (token = 0; token < TOKENS; token++)
    for (k = 0; k < VISION; k++) {
      double sum = token ? 0 : (double)((const float *)v->class_embedding.data)[k];
      for (i = 0; token && i < 3 * PATCH * PATCH; i++) {
        channel = i / (PATCH * PATCH);
        row = (token - 1) / grid * PATCH + i / PATCH % PATCH;
        col = (token - 1) % grid * PATCH + i % PATCH;
        sum += (double)weight[k * 3 * PATCH * PATCH + i] * (double)image[(channel * IMAGE + row) * IMAGE + col];
      }
      fvg_fill(x)[token * VISION + k] = (float)(sum + (double)position[token * VISION + k]);
    }
  x = fvg_layer_norm(x, fvg_frozen(t, &v->ln_pre_weight), fvg_frozen(t, &v->ln_pre_bias), 1e-5f);
  x = fvg_gather(fvg_transform(x, &v->transformer, &s, 1, NULL, 0), &first, 1);
  x = fvg_layer_norm(x, fvg_frozen(t, &v->ln_post_weight), fvg_frozen(t, &v->ln_post_bias), 1e-5f);
  x = fvg_linear(x, fvg_frozen(t, &v->projection), NULL);
  need(x != NULL, "an image by hand");
  if (x) memcpy(f, fvg_value(x), EMBED * sizeof *f);
  fvg_tape_free(t);
}

static void text_by_hand(const fvg_clip *m, const char *text, float *f) {
  const fvg_text_tower *x = &m->text;
  fvg_tape *t = fvg_tape_new(c);
  int id[CONTEXT], n = 0, i, k, end;
  fvg_segment s;
  fvg_node *y;
  need(!fvg_tokenize(m->tokenizer, id + 1, CONTEXT - 2, &n, text), "tokens");
  id[0] = VOCAB - 2;
  id[n + 1] = VOCAB - 1;
  end = n + 1;
  memset(&s, 0, sizeof s);
  s.n_query = s.n_key = n + 2;
  s.causal = 1;
  y = fvg_zeros(t, n + 2, TEXT);
  for (i = 0; i < n + 2; i++)
    for (k = 0; k < TEXT; k++)
      fvg_fill(y)[i * TEXT + k] = ((const float *)x->token_embedding.data)[id[i] * TEXT + k] +
                                  ((const float *)x->position_embedding.data)[i * TEXT + k];
  y = fvg_gather(fvg_transform(y, &x->transformer, &s, 1, NULL, 0), &end, 1);
  y = fvg_layer_norm(y, fvg_frozen(t, &x->ln_final_weight), fvg_frozen(t, &x->ln_final_bias), 1e-5f);
  y = fvg_linear(y, fvg_frozen(t, &x->projection), NULL);
  need(y != NULL, "a text by hand");
  if (y) memcpy(f, fvg_value(y), EMBED * sizeof *f);
  fvg_tape_free(t);
}

/* What encoding takes is bounded by what fvg_clip_image_bytes says, and does not grow with the number of images. */
static void test_image_memory(void) {
  static float many[40 * PIXELS], f[40 * EMBED];
  int n, i;
  size_t grown = 0;
  for (i = 0; i < 40; i++) memcpy(many + i * PIXELS, images, PIXELS * sizeof *images);
  for (n = 1; n <= 40; n = n < 8 ? 2 * n : n + 16) {
    fvg_clip *m = must_load(&hf, NULL, FVG_F32);
    size_t before = fvg_mem_used(c), used;
    need(!fvg_clip_encode_images(m, f, many, n), "images");
    used = fvg_mem_used(c) - before;
    check(used <= fvg_clip_image_bytes(m, n), "fvg_clip_image_bytes is a bound");
    if (n == 8) grown = used;
    if (n > 8) check(used == grown && fvg_clip_image_bytes(m, n) == fvg_clip_image_bytes(m, 8),
                     "40 images take the memory of 8");
    fvg_clip_free(m);
  }
}

/* The same bound for a tower whose numbers outweigh what is allowed beside them.  Each of its
   matrices, 7208 rows of 320 numbers, is a little longer than half a chunk of the tape, so that a
   chunk holds one. */
enum {
  WIDE = 320, WIDE_MLP = 64, WIDE_PATCH = 8, WIDE_IMAGE = 240, WIDE_TOKENS = 901,
  WIDE_PIXELS = 3 * WIDE_IMAGE * WIDE_IMAGE
};

static void test_large_image_memory(void) {
  static float pixels[8 * WIDE_PIXELS], f[8 * EMBED];
  static float numbers[3 * WIDE * WIDE];               /* the data of every tensor */
  static const struct { const char *name; int dim[4]; } shape[] = {
    {"visual.conv1.weight", {WIDE, 3, WIDE_PATCH, WIDE_PATCH}}, {"visual.class_embedding", {WIDE}},
    {"visual.positional_embedding", {WIDE_TOKENS, WIDE}}, {"visual.ln_pre.weight", {WIDE}},
    {"visual.ln_pre.bias", {WIDE}}, {"visual.ln_post.weight", {WIDE}},
    {"visual.ln_post.bias", {WIDE}},
    {"visual.proj", {WIDE, EMBED}},
    {"visual.transformer.resblocks.0.attn.in_proj_weight", {3 * WIDE, WIDE}},
    {"visual.transformer.resblocks.0.attn.in_proj_bias", {3 * WIDE}},
    {"visual.transformer.resblocks.0.attn.out_proj.weight", {WIDE, WIDE}},
    {"visual.transformer.resblocks.0.attn.out_proj.bias", {WIDE}},
    {"visual.transformer.resblocks.0.ln_1.weight", {WIDE}},
    {"visual.transformer.resblocks.0.ln_1.bias", {WIDE}},
    {"visual.transformer.resblocks.0.ln_2.weight", {WIDE}},
    {"visual.transformer.resblocks.0.ln_2.bias", {WIDE}},
    {"visual.transformer.resblocks.0.mlp.c_fc.weight", {WIDE_MLP, WIDE}},
    {"visual.transformer.resblocks.0.mlp.c_fc.bias", {WIDE_MLP}},
    {"visual.transformer.resblocks.0.mlp.c_proj.weight", {WIDE, WIDE_MLP}},
    {"visual.transformer.resblocks.0.mlp.c_proj.bias", {WIDE}}
  };
  enum { N = sizeof shape / sizeof *shape };
  fvg_named_tensor tensor[N];
  fvg_rng rng;
  memset(tensor, 0, sizeof tensor);
  fvg_rng_seed(&rng, 8, 0);
  for (int i = 0; i < 3 * WIDE * WIDE; i++) numbers[i] = (float)(0.05 * fvg_rng_normal(&rng));
  for (int i = 0; i < N; i++) {
    fvg_tensor *x = &tensor[i].tensor;
    tensor[i].name = shape[i].name;
    x->data = numbers;
    for (; x->n_dim < 4 && shape[i].dim[x->n_dim]; x->n_dim++)
      x->dim[x->n_dim] = shape[i].dim[x->n_dim];
  }
  fvg_clip *m = NULL;
  if (load(&m, tensor, N, NULL, FVG_F32)) { check(0, fvg_error(c)); return; }
  size_t before = fvg_mem_used(c), bound = fvg_clip_image_bytes(m, 8);
  need(!fvg_clip_encode_images(m, f, pixels, 8), "images of a larger tower");
  size_t used = fvg_mem_used(c) - before;
  printf("8 images of a larger tower: %.1f MB, at most %.1f\n", 1e-6 * (double)used,
         1e-6 * (double)bound);
#ifdef __SANITIZE_ADDRESS__                              /* then every tensor is a block of its own */
  int blocks_apart = 1;
#else
  int blocks_apart = 0;
#endif
  check(used <= bound && (blocks_apart || bound <= 3 * used),
        "the bound of a larger tower");
  fvg_clip_free(m);
}

static void test_by_hand(const features *plain) {
  fvg_clip *m = must_load(&hf, NULL, FVG_F32);
  double image = 0, text = 0;
  float f[EMBED];
  int i;
  need(!fvg_clip_unpack(m), "a model in rows");
  for (i = 0; i < IMAGES; i++) {
    image_by_hand(m, images + i * PIXELS, f);
    image = fmax(image, difference(plain->image + i * EMBED, f, EMBED));
  }
  for (i = 0; i < TEXTS; i++) {
    text_by_hand(m, texts[i], f);
    text = fmax(text, difference(plain->text + i * EMBED, f, EMBED));
  }
  printf("by hand: images off by %.1e, texts by %.1e\n", image, text);
  check(image < 1e-5, "images: patches, class token, positions, norms, projection");
  check(text < 1e-5, "texts: start, tokens, end, positions, norm, projection");
  fvg_clip_free(m);
}

/* ---- texts and batches ---- */
static void test_texts(const features *plain) {
  static const char *const names[] = {"cat", "c_ab"}, *const full[] = {"a photo of a cat.", "a photo of a c ab."},
                           *const photo[] = {"photo"};
  static const char *const long_text = "a b c d e f g h i j k l m n o p q r s";  /* 19 tokens and two marks */
  static const char *const same_twice[] = {"of", "of"};
  static const char *const longest = "a b c d e f g h i j k l m n o p q r";
  static char many[5001];
  fvg_clip *m = must_load(&hf, NULL, FVG_F32);
  const char *reversed[TEXTS], *too_long[2];
  float f[TEXTS * EMBED], g[TEXTS * EMBED], backwards[IMAGES * PIXELS], h[IMAGES * EMBED];
  double alone = 0, turned = 0, norm2;
  int i, ok = 1;
  size_t used;
  for (i = 0; i < TEXTS; i++) {
    need(!fvg_clip_encode_texts(m, f, &texts[i], 1), "a text alone");
    alone = fmax(alone, difference(f, plain->text + i * EMBED, EMBED));
    reversed[i] = texts[TEXTS - 1 - i];
  }
  need(!fvg_clip_encode_texts(m, g, reversed, TEXTS) && !fvg_clip_encode_texts(m, f, texts, 2),
       "texts in other company");
  for (i = 0; i < TEXTS; i++)
    turned = fmax(turned, difference(g + (TEXTS - 1 - i) * EMBED, plain->text + i * EMBED, EMBED));
  printf("texts: alone %.1e, reversed %.1e, with a longer shared prefix %.1e\n", alone, turned,
         difference(f, plain->text, 2 * EMBED));
  check(alone < 2e-6 && turned < 2e-6 && difference(f, plain->text, 2 * EMBED) < 2e-6,
        "a text's feature does not depend on its company");
  for (i = 0; i < IMAGES; i++)
    memcpy(backwards + i * PIXELS, images + (IMAGES - 1 - i) * PIXELS, PIXELS * sizeof *images);
  check(fvg_clip_encode_images(m, h, images, -1) == FVG_E_ARG && one_line("-1 images", ""), "fewer than no images");
  check(!fvg_clip_encode_images(m, h, images, 0), "no images");
  need(!fvg_clip_encode_images(m, h, backwards, IMAGES), "images backwards");
  for (i = 0; i < IMAGES; i++) ok = ok && same(h + i * EMBED, plain->image + (IMAGES - 1 - i) * EMBED, EMBED);
  check(ok && !fvg_clip_encode_images(m, h, images + 3 * PIXELS, 1) && same(h, plain->image + 3 * EMBED, EMBED),
        "an image's feature has the same bits wherever it stands, and alone");

  check(!fvg_clip_encode_classes(m, f, NULL, names, 2) && !fvg_clip_encode_texts(m, g, full, 2),
        "class names in the usual template");
  fvg_normalize_rows(g, 2, EMBED);
  for (norm2 = 0, i = 0; i < EMBED; i++) norm2 += (double)f[i] * (double)f[i];
  check(same(f, g, 2 * EMBED) && fabs(norm2 - 1) < 1e-6, "are texts, normalised");
  check(!fvg_clip_encode_classes(m, f, "a {} of a c ab.", photo, 1) &&
            !fvg_clip_encode_classes(m, g, "{}", full + 1, 1) && same(f, g, EMBED),
        "other templates");
  check(fvg_clip_encode_classes(m, f, "a photo", names, 2) == FVG_E_ARG && one_line("a photo", "{}"),
        "a template without {}");
  for (i = 0; i < 4; i++) {
    static const char *const nothing[] = {"", " \t", "__", "\xC2\xA0\xEF\xBB\xBF\r"};
    too_long[0] = "cat";
    too_long[1] = nothing[i];
    check(fvg_clip_encode_classes(m, f, NULL, too_long, 2) == FVG_E_ARG && one_line("class 2 of 2", "empty"),
          "a class without a name");
  }
  check(fvg_clip_encode_classes(m, f, NULL, names, 0) == FVG_E_ARG &&
            fvg_clip_encode_texts(m, f, texts, 0) == FVG_E_ARG,
        "no texts");
  check(!fvg_clip_encode_texts(m, f, same_twice, 2) && same(f, f + EMBED, EMBED) &&
            difference(f, plain->text + 2 * EMBED, EMBED) < 2e-6,
        "a text twice");
  check(!fvg_clip_encode_texts(m, f, &longest, 1), "a text that fills the context");
  too_long[0] = longest;
  too_long[1] = long_text;
  check(fvg_clip_encode_texts(m, f, too_long, 2) == FVG_E_ARG && one_line(long_text, "19 tokens") &&
            one_line("context of 20", "room for 18"),
        "a text that does not fit is an error with its number of tokens");
  for (i = 0; i < 5000; i++) many[i] = i % 2 ? ' ' : 'q';
  too_long[0] = many;
  check(fvg_clip_encode_classes(m, f, NULL, too_long, 1) == FVG_E_ARG && one_line("...", "2505 tokens"),
        "so is a very long class name");
  too_long[0] = "ab\xFF";
  check(fvg_clip_encode_texts(m, f, too_long, 1) == FVG_E_FORMAT, "bytes that are not UTF-8");
  used = fvg_mem_used(c);
  for (i = 0; i < 3; i++) need(!fvg_clip_encode_texts(m, f, &longest, 1), "the longest text again");
  check(fvg_mem_used(c) == used, "encoding again takes no more memory");
  fvg_tokenizer_free(m->tokenizer);
  m->tokenizer = NULL;
  check(fvg_clip_encode_texts(m, f, texts, 1) == FVG_E_ARG && one_line("vocabulary", "merges.txt"), "no vocabulary");
  fvg_clip_free(m);
}

/* ---- whole towers train ---- */
enum { PAIRS = 4, MAX_TRAINED = 128 };
typedef struct training {
  fvg_clip *m;
  fvg_parameter parameter[MAX_TRAINED], *list[MAX_TRAINED];
  char name[MAX_TRAINED][40];
  fvg_parameter scale;
  int n;
} training;

static void add_trained(training *x, const char *tower, int layer, const char *name, const fvg_tensor *tensor) {
  fvg_parameter *p = &x->parameter[x->n];
  snprintf(x->name[x->n], sizeof x->name[0], "%s %d %s", tower, layer, name);
  need(!fvg_parameter_new(c, p, x->name[x->n], tensor->n_dim, tensor->dim), "a parameter");
  fvg_release(c, p->value.data);                                       /* it lies in the clip's own tensor */
  p->value.data = tensor->data;
  x->list[x->n++] = p;
}

static void list_trained(training *x, fvg_clip *m) {                    /* the matrices in rows, not in panels */
  static const char *const leaf[16] = {"ln_1 weight", "ln_1 bias", "q weight", "q bias", "k weight", "k bias",
                                       "v weight", "v bias", "out weight", "out bias", "ln_2 weight", "ln_2 bias",
                                       "fc weight", "fc bias", "proj weight", "proj bias"};
  const fvg_vision_tower *v = &m->vision;
  const fvg_text_tower *t = &m->text;
  int i, k, tower;
  memset(x, 0, sizeof *x);
  x->m = m;
  need(!fvg_clip_unpack(m), "a model in rows");
  add_trained(x, "image", 0, "patch weight", &v->patch_weight);
  add_trained(x, "image", 0, "class embedding", &v->class_embedding);
  add_trained(x, "image", 0, "position embedding", &v->position_embedding);
  add_trained(x, "image", 0, "ln_pre weight", &v->ln_pre_weight);
  add_trained(x, "image", 0, "ln_pre bias", &v->ln_pre_bias);
  add_trained(x, "image", 0, "ln_post weight", &v->ln_post_weight);
  add_trained(x, "image", 0, "ln_post bias", &v->ln_post_bias);
  add_trained(x, "image", 0, "projection", &v->projection);
  add_trained(x, "text", 0, "token embedding", &t->token_embedding);
  add_trained(x, "text", 0, "position embedding", &t->position_embedding);
  add_trained(x, "text", 0, "ln_final weight", &t->ln_final_weight);
  add_trained(x, "text", 0, "ln_final bias", &t->ln_final_bias);
  add_trained(x, "text", 0, "projection", &t->projection);
  for (tower = 0; tower < 2; tower++) {
    const fvg_transformer *f = tower ? &t->transformer : &v->transformer;
    for (i = 0; i < f->n_layer; i++)
      for (k = 0; k < 16; k++) add_trained(x, tower ? "text" : "image", i, leaf[k], &f->block[i].ln_1_weight + k);
  }
  need(!fvg_parameter_new(c, &x->scale, "scale", 0, NULL), "the scale");
  *(float *)x->scale.value.data = 0.7f;                                 /* e^0.7 keeps the softmax soft */
}

/* CLIP's own loss of four pictures and four texts. */
static fvg_node *contrastive(fvg_tape *t, training *x) {
  static const int label[PAIRS] = {0, 1, 2, 3};
  fvg_node *f = fvg_normalize(fvg_clip_image_features(t, x->m, images, PAIRS));
  fvg_node *g = fvg_normalize(fvg_clip_text_features(t, x->m, texts, PAIRS)), *s = fvg_exp(fvg_param(t, &x->scale));
  return fvg_add(fvg_cross_entropy(fvg_mul(fvg_linear(f, g, NULL), s), label),
                 fvg_cross_entropy(fvg_mul(fvg_linear(g, f, NULL), s), label));
}

static int learn(fvg_tape *t, training *x) {                            /* gradients, from zero */
  int i;
  for (i = 0; i < x->n; i++)
    memset(x->parameter[i].grad, 0, fvg_tensor_count(&x->parameter[i].value) * sizeof(float));
  *x->scale.grad = 0;
  fvg_tape_clear(t);
  return fvg_backward(contrastive(t, x)) == FVG_OK;
}

/* Along a direction of ones and minus ones, all elements of a tensor are seen at once, and what one misses shows: the
   difference of a central quotient and the gradient's own slope, in units of the gradient's length. */
static double slope_error(fvg_tape *t, training *x, fvg_parameter *p, fvg_rng *rng) {
  static float saved[MAX_TRAINED * 1024];
  static signed char sign[MAX_TRAINED * 1024];
  float *w = (float *)p->value.data;
  size_t count = fvg_tensor_count(&p->value), k;
  double step = 2e-3, slope = 0, length = 0, loss[2];
  int side;
  memcpy(saved, w, count * sizeof *w);
  for (k = 0; k < count; k++) {
    sign[k] = fvg_rng_below(rng, 2) ? 1 : -1;
    slope += (double)p->grad[k] * sign[k];
    length += (double)p->grad[k] * (double)p->grad[k];
  }
  for (side = 0; side < 2; side++) {
    fvg_node *y;
    for (k = 0; k < count; k++) w[k] = (float)((double)saved[k] + (side ? -step : step) * sign[k]);
    fvg_tape_clear(t);
    y = contrastive(t, x);
    loss[side] = y ? (double)fvg_value(y)[0] : NAN;
  }
  memcpy(w, saved, count * sizeof *w);
  return length > 0 ? fabs((loss[0] - loss[1]) / (2 * step) - slope) / sqrt(length) : 1;
}

static int is_zero(const float *x, size_t n) {
  size_t i;
  for (i = 0; i < n; i++) if (x[i] != 0) return 0;
  return 1;
}

static void test_tower_gradients(void) {
  static training x;
  static float before[MAX_TRAINED][4];
  fvg_clip *m = must_load(&hf, NULL, FVG_F32);
  fvg_tape *t = fvg_tape_new(c);
  double worst = 0, h = 5e-3, up, down;
  fvg_parameter *left_out;
  fvg_rng rng;
  int i, k, ok = 1, same_bits = 1;
  fvg_rng_seed(&rng, 6, 0);
  list_trained(&x, m);
  check(x.n == 13 + 16 * (VISION_LAYERS + TEXT_LAYERS), "every tensor of both towers");
  fvg_tape_train(t, x.list, x.n);
  check(learn(t, &x), "a contrastive loss has gradients");
  for (i = 0; i < x.n; i++) {
    double error = 0;
    if (strstr(x.name[i], "k bias")) continue;                          /* moves all scores alike: no gradient */
    for (k = 0; k < 2; k++) error = fmax(error, slope_error(t, &x, x.list[i], &rng));
    worst = fmax(worst, error);
    if (!(error < 0.02)) printf("  %s: gradient off by %.2e\n", x.name[i], error);
    ok &= error < 0.02;
  }
  printf("gradients of %d tensors of both towers: off by %.1e of their length\n", x.n, worst);
  check(ok, "gradients of both towers against central differences");
  for (k = 0; k < 2; k++) {
    fvg_node *y;
    *(float *)x.scale.value.data = (float)(0.7 + (k ? -h : h));
    fvg_tape_clear(t);
    y = contrastive(t, &x);
    *(k ? &down : &up) = y ? (double)fvg_value(y)[0] : NAN;
  }
  *(float *)x.scale.value.data = 0.7f;
  check(fabs((up - down) / (2 * h) - (double)*x.scale.grad) < 0.01 * fabs((double)*x.scale.grad),
        "and of the scale that fvg_exp is taken of");
  for (ok = 1, i = 0; i < VOCAB; i++)                                   /* "x y z" has an x, no text has a q */
    if (i == 'q' - 33 || i == 'q' - 33 + 256) ok &= is_zero(x.parameter[8].grad + i * TEXT, TEXT);
  check(ok && !is_zero(x.parameter[8].grad + (VOCAB - 1) * TEXT, TEXT) &&
            is_zero(x.parameter[9].grad + (CONTEXT - 1) * TEXT, TEXT) && !is_zero(x.parameter[9].grad, TEXT),
        "embeddings of tokens and places that no text has get none");

  for (i = 0; i < x.n; i++) memcpy(before[i], x.parameter[i].grad, sizeof before[i]);
  left_out = x.list[0];
  x.list[0] = x.list[--x.n];                                            /* all but the patches train */
  fvg_tape_train(t, x.list, x.n);
  memset(left_out->grad, 0, fvg_tensor_count(&left_out->value) * sizeof(float));
  check(learn(t, &x) && is_zero(left_out->grad, fvg_tensor_count(&left_out->value)), "a tensor left out gets none");
  for (i = 1; i < x.n; i++) same_bits &= same(before[i], x.parameter[i].grad, 4);
  check(same_bits, "and changes nothing for the others");
  fvg_tape_train(t, NULL, 0);
  x.n++;
  ok = learn(t, &x);
  for (i = 0; i < x.n; i++) ok &= is_zero(x.parameter[i].grad, fvg_tensor_count(&x.parameter[i].value));
  check(ok && *x.scale.grad != 0, "without a list nothing but parameters proper");
  fvg_tape_free(t);
  for (i = 0; i < x.n; i++) { x.parameter[i].value.data = NULL; fvg_parameter_free(c, &x.parameter[i]); }
  fvg_parameter_free(c, &x.scale);
  fvg_clip_free(m);
}

/* The nodes hold what the encoders return, on a tape that trains and on one that does not. */
static void test_feature_nodes(const features *plain) {
  static training x;
  fvg_clip *m = must_load(&hf, NULL, FVG_F32);
  fvg_tape *t = fvg_tape_new(c);
  fvg_node *f, *g;
  const char *long_text = "a b c d e f g h i j k l m n o p q r s t u v";
  int train, i;
  list_trained(&x, m);
  for (train = 0; train < 2; train++) {
    if (train) fvg_tape_train(t, x.list, x.n);
    f = fvg_clip_image_features(t, m, images, 5);
    g = fvg_clip_text_features(t, m, texts, TEXTS);
    check(f && fvg_rows(f) == 5 && fvg_cols(f) == EMBED && same(fvg_value(f), plain->image, 5 * EMBED),
          "image features as a node");
    check(g && fvg_rows(g) == TEXTS && fvg_cols(g) == EMBED && same(fvg_value(g), plain->text, TEXTS * EMBED),
          "text features as a node");
  }
  check(!fvg_clip_text_features(t, m, &long_text, 1) && one_line("22 tokens", "context of 20"),
        "a text that is too long");
  fvg_tape_clear(t);
  check(!fvg_clip_text_features(t, m, texts, 0) && fvg_last_status(c) == FVG_E_ARG, "no texts");
  fvg_tape_clear(t);
  m->has_vision = 0;
  check(!fvg_clip_image_features(t, m, images, 1) && one_line("image tower", ""), "no image tower");
  m->has_vision = 1;
  m->has_text = 0;
  check(!fvg_clip_text_features(t, m, texts, 1) && one_line("text tower", ""), "no text tower");
  m->has_text = 1;
  fvg_tape_free(t);
  for (i = 0; i < x.n; i++) { x.parameter[i].value.data = NULL; fvg_parameter_free(c, &x.parameter[i]); }
  fvg_parameter_free(c, &x.scale);
  fvg_clip_free(m);
}

/* ---- files ---- */
static void write_model(const char *folder, const char *file, const model *x, const char *words,
                        const char *json_name, const char *json) {
  char path[200];
  mkdir("build", 0777);
  mkdir("build/test-clip", 0777);
  mkdir(folder, 0777);
  snprintf(path, sizeof path, "%s/%s", folder, file);
  need(!x || !fvg_safetensors_save(c, path, x->tensor, x->n, NULL, 0), "a model is written");
  snprintf(path, sizeof path, "%s/%s", folder, words ? words : "");
  need(!words || !fvg_file_save(c, path, merges, sizeof merges - 1), "a vocabulary is written");
  snprintf(path, sizeof path, "%s/%s", folder, json_name ? json_name : "");
  need(!json_name || !fvg_file_save(c, path, json, strlen(json)), "a configuration is written");
}

static int opens_as(const char *path, const char *words, const features *expected) {
  features f;
  fvg_clip *m;
  if (fvg_clip_open(c, &m, path, words, FVG_F32)) { printf("  %s: %s\n", path, fvg_error(c)); return 0; }
  memset(&f, 0, sizeof f);
  if (fvg_clip_encode_images(m, f.image, images, IMAGES) || fvg_clip_encode_texts(m, f.text, texts,
                                                                                  TEXTS))
    printf("  %s\n", fvg_error(c));
  fvg_clip_free(m);
  return same_images(&f, expected) && same_texts(&f, expected);
}

/* Marks that a text holds: the end mark ends it, the start mark is a token like others. */
static void test_marks_in_text(void) {
  static const char *const held[] = {"photo of <|endoftext|> a cat", "<|EndOfText|>", "photo <|startoftext|>of",
                                     "<|endoftext|> of <|endoftext|> photo"};
  static const char *const cut[] = {"photo of", "", "photo of", ""};
  static const char *const name[] = {"photo<|endoftext|>of"}, *const short_name[] = {"photo"};
  fvg_clip *m = must_load(&hf, NULL, FVG_F32);
  float f[4 * EMBED], g[4 * EMBED];
  fvg_tape *t = fvg_tape_new(c);
  fvg_node *node;
  need(!fvg_clip_encode_texts(m, f, held, 4) && !fvg_clip_encode_texts(m, g, cut, 4), "texts with marks");
  check(difference(f, g, 2 * EMBED) < 2e-6 && difference(f + 3 * EMBED, g + 3 * EMBED, EMBED) < 2e-6,
        "a text's feature is read at its first end mark");
  check(difference(f + 2 * EMBED, g + 2 * EMBED, EMBED) > 1e-3, "a start mark is a token of the text");
  need(!fvg_clip_encode_classes(m, f, "a {} of", name, 1) && !fvg_clip_encode_classes(m, g, "a {}",
                                                                                      short_name,
                                                                                      1),
       "classes with marks");
  check(difference(f, g, EMBED) < 2e-6, "and so is a class's");
  node = fvg_clip_text_features(t, m, held, 1);
  need(!fvg_clip_encode_texts(m, g, cut, 1), "the text without its end");
  check(node && difference(fvg_value(node), g, EMBED) < 2e-6, "and a text's that trains");
  fvg_tape_free(t);
  fvg_clip_free(m);
}

static const char *with_ids(const char *ids) {
  static char json[300];
  snprintf(json, sizeof json, "{\"text_config\": {\"num_attention_heads\": 1, \"hidden_act\": \"quick_gelu\", "
           "\"vocab_size\": %d%s}, \"vision_config\": {\"num_attention_heads\": 2, \"hidden_act\": "
           "\"quick_gelu\"}}", VOCAB + 3, ids);
  return json;
}

/* Three rows behind the end mark, as textual inversion adds them; the vocabulary knows nothing of them. */
static void test_added_tokens(const features *plain) {
  static float rows[(VOCAB + 3) * TEXT];
  static const char folder[] = "build/test-clip/added";
  model added = hf;
  size_t i;
  int k;
  fvg_clip *m;
  for (k = 0; strcmp(added.tensor[k].name, "text_model.embeddings.token_embedding.weight"); k++) {}
  memcpy(rows, added.tensor[k].tensor.data, VOCAB * TEXT * sizeof *rows);
  for (i = VOCAB * TEXT; i < (VOCAB + 3) * TEXT; i++) rows[i] = 9;
  added.tensor[k].tensor.data = rows;
  added.tensor[k].tensor.dim[0] = VOCAB + 3;

  write_model(folder, "model.safetensors", &added, "merges.txt", "config.json",
              with_ids(", \"bos_token_id\": 517, \"eos_token_id\": 518"));
  check(opens_as(folder, NULL, plain), "rows added behind the marks that config.json tells");
  need(!fvg_clip_open(c, &m, folder, NULL, FVG_F32), "the model with added rows");
  check(m->text.vocab_size == VOCAB + 3 && m->text.end_token == VOCAB - 1 &&
            fvg_tokenizer_vocab_size(m->tokenizer) == VOCAB,
        "do not move them");
  fvg_clip_free(m);

  for (k = 0; k < 5; k++) {                      /* nothing that marks could be: the vocabulary is short of merges */
    static const char *const ids[] = {"", ", \"bos_token_id\": 0, \"eos_token_id\": 2", ", \"bos_token_id\": 518, "
      "\"eos_token_id\": 517", ", \"bos_token_id\": 521, \"eos_token_id\": 522",
      ", \"bos_token_id\": \"517\", \"eos_token_id\": [518]"};
    write_model(folder, "model.safetensors", &added, "merges.txt", "config.json", with_ids(ids[k]));
    check(fvg_clip_open(c, &m, folder, NULL, FVG_F32) == FVG_E_FORMAT && !m && one_line("merges.txt", "needs 8"),
          k ? ids[k] : "without ids the file must have a merge for every row");
  }
}

static void test_files(const features *plain) {
  static const char gelu_json[] =
      "{\"vision_config\": {\"hidden_act\": \"gelu\", \"num_attention_heads\": 2}, "
      "\"text_config\": {\"hidden_act\": \"gelu\", \"num_attention_heads\": 1}}";
  size_t used = fvg_mem_used(c);
  features gelu, f;
  fvg_clip *m;
  encode_once(&hf, gelu_json, &gelu);
  write_model("build/test-clip/hf", "model.safetensors", &hf, "merges.txt", "config.json", gelu_json);
  write_model("build/test-clip/openai", "open_clip_model.safetensors", &openai, "bpe_simple_vocab_16e6.txt",
              "open_clip_config.json", "{\"model_cfg\": {\"quick_gelu\": true, \"text_cfg\": {\"heads\": 1}}}");
  write_model("build/test-clip/single", "vit.safetensors", &openai, NULL, NULL, NULL);
  write_model("build/test-clip/empty", "", NULL, NULL, "config.json", config);
  write_model("build/test-clip/broken", "model.safetensors", &hf, NULL, "config.json",
              "{\"vision_config\": {\"hidden_size\": 128");
  check(opens_as("build/test-clip/hf", NULL, &gelu), "a folder with model.safetensors, config.json, merges.txt");
  check(opens_as("build/test-clip/openai", NULL, plain), "a folder with open_clip's files");
  check(opens_as("build/test-clip/single/vit.safetensors", "build/test-clip/hf/merges.txt", plain),
        "a single file, the vocabulary given");
  check(!fvg_clip_open(c, &m, "build/test-clip/single/vit.safetensors", NULL, FVG_F32),
        "a single file without a vocabulary opens");
  if (m)
    check(fvg_clip_encode_texts(m, f.text, texts, 1) == FVG_E_ARG && one_line("vocabulary", ""),
          "but encodes no text");
  fvg_clip_free(m);
  check(fvg_clip_open(c, &m, "build/test-clip/empty", NULL, FVG_F32) == FVG_E_IO && !m &&
            one_line("build/test-clip/empty", "model.safetensors"),
        "a folder without weights");
  check(fvg_clip_open(c, &m, "build/test-clip/broken", NULL, FVG_F32) == FVG_E_FORMAT && !m &&
            one_line("config.json", "JSON"),
        "a configuration that is cut off");
  check(fvg_clip_open(c, &m, "build/test-clip/no.safetensors", NULL, FVG_F32) == FVG_E_IO && !m &&
            one_line("no.safetensors", ""),
        "no such file");
  check(fvg_clip_open(c, &m, "build/test-clip/hf", "build/test-clip/no.txt", FVG_F32) == FVG_E_IO && !m &&
            one_line("no.txt", ""),
        "no such vocabulary");
  check(fvg_clip_open(c, &m, "build/test-clip/hf", "build/test-clip/hf/config.json", FVG_F32) == FVG_E_FORMAT && !m &&
            one_line("hf/config.json", ""),
        "a vocabulary that is none");
  check(fvg_mem_used(c) == used, "no memory stays after files that do and do not open");
}

/* ---- files that are not what they should be ---- */
enum { MISSING, MISSHAPEN, NOT_A_NUMBER };

/* The model with tensor i spoiled. Where the tensor gives a size the message may name a neighbour. */
static int spoiled(const model *x, int i, int how, const char *json) {
  static const char *const kind[] = {"without", "misshapen", "NaN in"};
  fvg_named_tensor part[MAX_TENSORS];
  fvg_tensor *t = &part[i].tensor;
  size_t used = fvg_mem_used(c), middle = fvg_tensor_count(&x->tensor[i].tensor) / 2;
  int n = x->n, gives_size = how == MISSHAPEN &&
                             (strstr(x->name[i], "token_embedding") || !strcmp(x->name[i], "text_projection"));
  float *data = (float *)x->tensor[i].tensor.data + middle, saved = *data;
  fvg_clip *m;
  fvg_status s, wanted = how == MISSING ? FVG_E_FORMAT : how == MISSHAPEN ? FVG_E_SHAPE : FVG_E_NUMERIC;
  memcpy(part, x->tensor, sizeof part);
  if (how == MISSING) memmove(part + i, part + i + 1, (size_t)(--n - i) * sizeof *part);
  if (how == MISSHAPEN && t->n_dim == 0) t->dim[t->n_dim++] = 2;
  else if (how == MISSHAPEN) t->dim[t->n_dim - 1]++;
  if (how == NOT_A_NUMBER) *data = NAN;
  s = load(&m, part, n, json, FVG_F32);
  *data = saved;
  if (s == wanted && !m && fvg_mem_used(c) == used &&
      one_line("tiny.safetensors", gives_size ? "has shape" : x->name[i]))
    return 1;
  printf("  %s %s: %s, %s\n", kind[how], x->name[i], fvg_status_name(s), s ? fvg_error(c) : "");
  fvg_clip_free(m);
  return 0;
}

static void test_spoiled(void) {
  static const char *const what[] = {"each tensor missing in turn", "each tensor misshapen in turn",
                                     "a NaN in each tensor in turn"};
  int i, k, how, ok;
  for (how = MISSING; how <= NOT_A_NUMBER; how++)
    for (k = 0; k < 2; k++) {
      const model *x = k ? &openai : &hf;
      for (ok = 1, i = 0; i < x->n; i++) {
        if (x->tensor[i].tensor.type == FVG_I64 || (how == MISSING && !strcmp(x->name[i], "logit_scale"))) continue;
        ok &= spoiled(x, i, how, NULL);
      }
      check(ok, what[how]);
    }
}

/* Finite weights, but infinite features that hold no NaN: the error names the picture or text. */
static void test_infinite_features(void) {
  static const char *const gain[2] = {"vision_model.post_layernorm.weight",
                                      "text_model.final_layer_norm.weight"};
  static const char *const bias[2] = {"vision_model.post_layernorm.bias",
                                      "text_model.final_layer_norm.bias"};
  static const char *const projection[2] = {"visual_projection.weight", "text_projection.weight"};
  static const char *const says[2] = {"the feature of image 0 of 2 is inf",
                                      "the feature of text 0 of 2 is inf"};
  features f;
  for (int tower = 0; tower < 2; tower++) {
    static float zeros[VISION], ones[VISION], large[EMBED * VISION];
    fvg_named_tensor part[MAX_TENSORS];
    int n_changed = 0;
    fvg_clip *m;
    memcpy(part, hf.tensor, sizeof part);
    for (int i = 0; i < VISION; i++) ones[i] = 1;
    large[5] = large[6] = 3e38f;
    for (int i = 0; i < hf.n; i++) {
      float *data = NULL;
      if (!strcmp(hf.name[i], gain[tower])) data = zeros;
      if (!strcmp(hf.name[i], bias[tower])) data = ones;
      if (!strcmp(hf.name[i], projection[tower])) data = large;
      if (data) { part[i].tensor.data = data; n_changed++; }
    }
    if (load(&m, part, hf.n, NULL, FVG_F32)) { check(0, fvg_error(c)); return; }
    fvg_status s = tower ? fvg_clip_encode_texts(m, f.text, texts, 2)
                         : fvg_clip_encode_images(m, f.image, images, 2);
    check(n_changed == 3 && s == FVG_E_NUMERIC && one_line(says[tower], ""), says[tower]);
    fvg_clip_free(m);
  }
}

static void lie(const char *json, fvg_status status, const char *a, const char *b) {
  size_t used = fvg_mem_used(c);
  fvg_clip *m;
  fvg_status s = load(&m, hf.tensor, hf.n, json, FVG_F32);
  check(s == status && !m && one_line("tiny.safetensors", a) && one_line(a, b) && fvg_mem_used(c) == used, json);
  fvg_clip_free(m);
}

static void test_lies(void) {
  size_t n, used = fvg_mem_used(c);
  fvg_clip *m;
  int ok = 1;
  char cut[sizeof config];
  lie("{\"vision_config\": {\"hidden_size\": 256}}", FVG_E_SHAPE, "hidden_size = 128", "says 256");
  lie("{\"vision_config\": {\"num_attention_heads\": 2}, \"text_config\": {\"hidden_size\": 128}}",
      FVG_E_SHAPE,
      "hidden_size = 64", "says 128");
  lie("{\"vision_config\": {\"num_hidden_layers\": 1}}",
      FVG_E_SHAPE, "num_hidden_layers = 2", "says 1");
  lie("{\"vision_config\": {\"num_attention_heads\": 2}, \"text_config\": {\"num_hidden_layers\": 12}}",
      FVG_E_SHAPE, "num_hidden_layers = 3", "says 12");
  lie("{\"vision_config\": {\"image_size\": 224}}", FVG_E_SHAPE, "image_size = 12", "says 224");
  lie("{\"vision_config\": {\"patch_size\": 3}}", FVG_E_SHAPE, "patch_size = 4", "says 3");
  lie("{\"vision_config\": {\"num_attention_heads\": 2}, \"text_config\": {\"vocab_size\": 49408}}",
      FVG_E_SHAPE, "vocab_size = 519", "says 49408");
  lie("{\"vision_config\": {\"num_attention_heads\": 2}, \"text_config\": {\"max_position_embeddings\": 77}}",
      FVG_E_SHAPE, "max_position_embeddings = 20", "says 77");
  lie("{\"vision_config\": {\"num_attention_heads\": 3}}", FVG_E_SHAPE, "width 128", "3 heads");
  lie("{\"vision_config\": {\"num_attention_heads\": 1e300}}",
      FVG_E_FORMAT, "num_attention_heads", "whole number");
  lie("{\"vision_config\": {\"num_attention_heads\": 2}, \"text_config\": {\"num_attention_heads\": -2}}",
      FVG_E_FORMAT, "num_attention_heads", "whole number");
  lie("{\"vision_config\": {\"num_attention_heads\": 2}, \"text_config\": {\"num_attention_heads\": 0.5}}",
      FVG_E_FORMAT, "num_attention_heads", "whole number");
  lie("{\"vision_config\": {\"num_attention_heads\": 2}, \"text_config\": {\"hidden_act\": \"relu\"}}",
      FVG_E_UNSUPPORTED, "hidden_act", "relu");
  lie("{\"vision_config\": {\"num_attention_heads\": 2}, \"text_config\": {\"hidden_act\": 3}}",
      FVG_E_UNSUPPORTED, "hidden_act", "");
  lie("", FVG_E_FORMAT, "config.json", "JSON");
  for (n = 0; n + 1 < sizeof config; n++) {
    memcpy(cut, config, n);
    cut[n] = 0;
    ok = ok && load(&m, hf.tensor, hf.n, cut, FVG_F32) == FVG_E_FORMAT && !m && fvg_mem_used(c) == used;
  }
  check(ok, "a configuration cut off anywhere");
  lie("[{\"vision_config\": 3}]", FVG_E_FORMAT, "config.json", "says nothing of a CLIP");
  lie("{\"vision_config\": 3}", FVG_E_FORMAT, "config.json", "vision_config");
}

/* ---- memory that runs out ---- */
static long until_failure, n_live;
static int stays_failed;
static void *failing_alloc(void *user, size_t n) {
  void *p;
  (void)user;
  if (until_failure <= 0 && (stays_failed || until_failure == 0)) { until_failure--; return NULL; }
  until_failure--;
  p = malloc(n);
  n_live += p != NULL;
  return p;
}
static void failing_release(void *user, void *p, size_t n) { (void)user; (void)n; n_live--; free(p); }

static fvg_status load_and_encode(const buffer *b, features *f) {
  static const char *const names[] = {"cat", "cab"};
  fvg_desc d;
  fvg_ctx *k;
  fvg_clip *m = NULL;
  fvg_status s;
  memset(&d, 0, sizeof d);
  d.allocator.alloc = failing_alloc;
  d.allocator.release = failing_release;
  s = fvg_init(&k, &d);
  if (s) return s;
  s = load_bytes(k, &m, b, config, FVG_F32);
  if (!s) s = fvg_clip_encode_images(m, f->image, images, 2);
  if (!s) s = fvg_clip_encode_texts(m, f->text, texts, TEXTS);
  if (!s) s = fvg_clip_encode_classes(m, f->text, NULL, names, 2);
  fvg_clip_free(m);
  if (s && !strstr(fvg_error(k), "out of memory")) { printf("  message: %s\n", fvg_error(k)); s = FVG_E_ARG; }
  fvg_free(k);
  return s;
}

static void test_allocation_failures(void) {
  buffer b = {NULL, 0, 0};
  fvg_status s;
  features f;
  long k, n_failed;
  int ok;
  need(!fvg_safetensors_write(c, append, &b, openai.tensor, openai.n, NULL, 0), "the model in memory");
  for (stays_failed = 0; stays_failed < 2; stays_failed++) {
    for (ok = 1, n_failed = k = 0;; k++) {
      until_failure = k;
      s = load_and_encode(&b, &f);
      if (n_live) printf("  allocation %ld fails: %ld blocks stay\n", k, n_live);
      ok = ok && n_live == 0;
      n_live = 0;
      if (until_failure >= 0) break;                                    /* it was not reached */
      if (s != FVG_E_NOMEM) printf("  allocation %ld fails: %s\n", k, fvg_status_name(s));
      ok = ok && s == FVG_E_NOMEM;
      n_failed++;
    }
    printf("%ld allocations made to fail%s\n", n_failed, stays_failed ? " with all after" : "");
    check(ok && s == FVG_OK && n_failed > 100, "each allocation failing in turn: an error, and no memory stays");
  }
  free(b.bytes);
}

/* ---- golden features ---- */
static const char *shared(void) { const char *path = getenv("FVGPT_SHARED"); return path ? path : "../shared"; }

static void golden(const char *model_path, const char *recording) {
  char path[600], what[700];
  fvg_tensor x, image_features, text_features;
  const char *list[32];
  fvg_source source;
  fvg_weights *w = NULL;
  fvg_clip *m = NULL;
  fvg_json j;
  float *f;
  double image, text;
  int i, n = 0, d, ok;
  snprintf(path, sizeof path, "%s/golden/%s.safetensors", shared(), recording);
  if (!fvg_file_exists(path)) { printf("skipped: %s is not there\n", path); return; }
  ok = !fvg_source_file(c, &source, path) && !fvg_weights_open(c, &w, &source);
  snprintf(path, sizeof path, "%s/%s", shared(), model_path);
  ok = ok && !fvg_clip_open(c, &m, path, NULL, FVG_F32) && !fvg_weights_get(w, &x, "images",
                                                                            FVG_F32) &&
       !fvg_weights_get(w, &image_features, "image_features", FVG_F32) &&
       !fvg_weights_get(w, &text_features, "text_features", FVG_F32) &&
       !fvg_json_parse(c, &j, fvg_weights_metadata(w, "texts"), strlen(fvg_weights_metadata(w, "texts")), recording);
  if (!ok) { check(0, fvg_error(c)); return; }
  for (i = j.value[0].first; i >= 0 && n < 32; i = j.value[i].next) list[n++] = j.value[i].string;
  d = m->embed_dim;
  f = (float *)malloc((size_t)(x.dim[0] + n) * (size_t)d * sizeof *f);
  ok = f && d == text_features.dim[1] && n == text_features.dim[0] &&
       !fvg_clip_encode_images(m, f, (const float *)x.data, x.dim[0]) &&
       !fvg_clip_encode_texts(m, f + x.dim[0] * d, list, n);
  image = ok ? difference(f, (const float *)image_features.data, x.dim[0] * d) : NAN;
  text = ok ? difference(f + x.dim[0] * d, (const float *)text_features.data, n * d) : NAN;
  snprintf(what, sizeof what, "golden %s: %d images off by %.1e, %d texts by %.1e", recording, x.dim[0], image, n,
           text);
  puts(what);
  check(image < 2e-4 && text < 2e-4, what);
  free(f);
  fvg_json_free(c, &j);
  fvg_tensor_free(c, &x);
  fvg_tensor_free(c, &image_features);
  fvg_tensor_free(c, &text_features);
  fvg_clip_free(m);
  fvg_weights_close(w);
}

int main(void) {
  features plain;
  if (fvg_init(&c, NULL)) return 1;
  make_random_model();
  test_names(&plain);
  test_config(&plain);
  test_storage(&plain);
  test_towers(&plain);
  test_by_hand(&plain);
  test_image_memory();
  test_large_image_memory();
  test_texts(&plain);
  test_feature_nodes(&plain);
  test_tower_gradients();
  test_marks_in_text();
  test_files(&plain);
  test_added_tokens(&plain);
  test_spoiled();
  test_infinite_features();
  test_lies();
  test_allocation_failures();
  golden("model/lit-vit-ti16", "lit_encode");
  golden("golden/backbones", "backbones/encode");
  check(fvg_mem_used(c) == 0, "no memory stays");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
