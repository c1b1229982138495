/* random_clip SIZE NAMES OUT.safetensors - a CLIP of real size with random weights in half precision, to measure and
   to test loading with.  SIZE: b32, b16, l14; NAMES: hf, openai.  All tensors are read from one block of noise, so
   that making a large model needs little memory; the numbers mean nothing. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"

enum { VOCAB = 49408, CONTEXT = 77, MAX_TENSORS = 1024 };

typedef struct maker {
  fvg_named_tensor tensor[MAX_TENSORS];
  char name[MAX_TENSORS][96];
  uint16_t *noise, *ones;                           /* +-0.03, and 1 for the gains of the norms                     */
  int n, openai;
} maker;

static void add(maker *k, const char *prefix, const char *name, uint16_t *data, int n_dim, int d0, int d1) {
  fvg_tensor *x = &k->tensor[k->n].tensor;
  snprintf(k->name[k->n], sizeof k->name[0], "%s%s", prefix, name);
  k->tensor[k->n].name = k->name[k->n];
  x->type = FVG_F16;
  x->data = data;
  x->n_dim = n_dim;
  x->dim[0] = d0;
  x->dim[1] = d1;
  k->n++;
}

static void add_linear(maker *k, const char *prefix, const char *name, const char *dot, int rows, int cols) {
  char leaf[64];
  snprintf(leaf, sizeof leaf, "%s%sweight", name, dot);
  add(k, prefix, leaf, k->noise, 2, rows, cols);
  snprintf(leaf, sizeof leaf, "%s%sbias", name, dot);
  add(k, prefix, leaf, k->noise + 7, 1, rows, 0);
}

static void add_norm(maker *k, const char *prefix, const char *name, int width) {
  char leaf[64];
  snprintf(leaf, sizeof leaf, "%s.weight", name);
  add(k, prefix, leaf, k->ones, 1, width, 0);
  snprintf(leaf, sizeof leaf, "%s.bias", name);
  add(k, prefix, leaf, k->noise + 3, 1, width, 0);
}

static void add_blocks(maker *k, const char *tower, int layers, int w) {
  static const char *const square[] = {"self_attn.q_proj", "self_attn.k_proj",
                                       "self_attn.v_proj", "self_attn.out_proj"};
  char prefix[64];
  int i, j;
  for (i = 0; i < layers; i++) {
    snprintf(prefix, sizeof prefix, "%s%d.", tower, i);
    if (k->openai) {
      add_linear(k, prefix, "attn.in_proj", "_", 3 * w, w);
      add_linear(k, prefix, "attn.out_proj", ".", w, w);
    } else {
      for (j = 0; j < 4; j++) add_linear(k, prefix, square[j], ".", w, w);
    }
    add_norm(k, prefix, k->openai ? "ln_1" : "layer_norm1", w);
    add_norm(k, prefix, k->openai ? "ln_2" : "layer_norm2", w);
    add_linear(k, prefix, k->openai ? "mlp.c_fc" : "mlp.fc1", ".", 4 * w, w);
    add_linear(k, prefix, k->openai ? "mlp.c_proj" : "mlp.fc2", ".", w, 4 * w);
  }
}

static void add_vision(maker *k, int w, int layers, int patch, int tokens, int d) {
  const char *p = k->openai ? "visual." : "vision_model.";
  fvg_tensor *conv;
  add(k, p, k->openai ? "conv1.weight" : "embeddings.patch_embedding.weight", k->noise, 4, w, 3);
  conv = &k->tensor[k->n - 1].tensor;
  conv->dim[2] = conv->dim[3] = patch;
  add(k, p, k->openai ? "class_embedding" : "embeddings.class_embedding", k->noise, 1, w, 0);
  add(k, p, k->openai ? "positional_embedding" : "embeddings.position_embedding.weight", k->noise + 11, 2, tokens, w);
  add_norm(k, p, k->openai ? "ln_pre" : "pre_layrnorm", w);
  add_norm(k, p, k->openai ? "ln_post" : "post_layernorm", w);
  add_blocks(k, k->openai ? "visual.transformer.resblocks." : "vision_model.encoder.layers.", layers, w);
  if (k->openai) add(k, "", "visual.proj", k->noise, 2, w, d);
  else add(k, "", "visual_projection.weight", k->noise, 2, d, w);
}

static void add_text(maker *k, int w, int layers, int d) {
  const char *p = k->openai ? "" : "text_model.";
  add(k, p, k->openai ? "token_embedding.weight" : "embeddings.token_embedding.weight", k->noise, 2, VOCAB, w);
  add(k, p, k->openai ? "positional_embedding" : "embeddings.position_embedding.weight", k->noise + 5, 2, CONTEXT, w);
  add_norm(k, p, k->openai ? "ln_final" : "final_layer_norm", w);
  add_blocks(k, k->openai ? "transformer.resblocks." : "text_model.encoder.layers.", layers, w);
  if (k->openai) add(k, "", "text_projection", k->noise, 2, w, d);
  else add(k, "", "text_projection.weight", k->noise, 2, d, w);
  add(k, "", "logit_scale", k->ones, 0, 0, 0);
}

int main(int argc, char **argv) {
  static const struct { const char *name; int vision, layers, patch, tokens, text, d; } size[] = {
    {"b32", 768, 12, 32, 50, 512, 512}, {"b16", 768, 12, 16, 197, 512, 512}, {"l14", 1024, 24, 14, 257, 768, 768}
  };
  static maker k;
  size_t i, s = 0, count;
  fvg_status status;
  fvg_ctx *c;
  fvg_rng rng;
  while (argc == 4 && s < 3 && strcmp(argv[1], size[s].name)) s++;
  if (argc != 4 || s == 3 || (strcmp(argv[2], "hf") && strcmp(argv[2], "openai"))) {
    fprintf(stderr, "usage: random_clip b32|b16|l14 hf|openai OUT.safetensors\n");
    return 1;
  }
  if (fvg_init(&c, NULL)) return 1;
  count = (size_t)VOCAB * (size_t)size[s].text + 64;
  k.openai = argv[2][0] == 'o';
  k.noise = (uint16_t *)fvg_alloc_array(c, count, sizeof *k.noise);
  k.ones = (uint16_t *)fvg_alloc_array(c, 4096, sizeof *k.ones);
  if (!k.noise || !k.ones) { fprintf(stderr, "random_clip: %s\n", fvg_error(c)); fvg_free(c); return 1; }
  fvg_rng_seed(&rng, 1, 0);
  /* 1/64 .. 1/32, either sign */
  for (i = 0; i < count; i++) k.noise[i] = (uint16_t)((fvg_rng_next(&rng) & 0x83ff) | 0x2400);
  for (i = 0; i < 4096; i++) k.ones[i] = 0x3c00;
  add_vision(&k, size[s].vision, size[s].layers, size[s].patch, size[s].tokens, size[s].d);
  add_text(&k, size[s].text, 12, size[s].d);
  status = fvg_safetensors_save(c, argv[3], k.tensor, k.n, NULL, 0);
  if (status) fprintf(stderr, "random_clip: %s\n", fvg_error(c));
  fvg_release(c, k.ones);
  fvg_release(c, k.noise);
  fvg_free(c);
  return status != FVG_OK;
}
