/* A CLIP of 8 columns for pictures of 4 x 4 pixels, for tests that need very many of them.  To be included behind
   fvgpt_clip.h. */
#ifndef SMALL_MODEL_H
#define SMALL_MODEL_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { W = 8, CONTEXT = 64, VOCAB = 515 };
static const char config[] = "{\"vision_config\": {\"num_attention_heads\": 2, \"image_size\": 4}, \"text_config\": "
                             "{\"num_attention_heads\": 2, \"hidden_act\": \"gelu\"}}";
static const char merges[] = "#version: 0.2\na b\n";
static float values[VOCAB * W];
static char names[64][80];
static fvg_named_tensor tensors[64];
static int n_tensor;

static void add(const char *prefix, const char *name, int n_dim, int d0, int d1, int d2) {
  fvg_named_tensor *t = &tensors[n_tensor];
  snprintf(names[n_tensor], sizeof names[0], "%s%s", prefix, name);
  t->name = names[n_tensor++];
  memset(&t->tensor, 0, sizeof t->tensor);
  t->tensor.data = values;
  t->tensor.n_dim = n_dim;
  t->tensor.dim[0] = d0;
  t->tensor.dim[1] = d1;
  t->tensor.dim[2] = t->tensor.dim[3] = d2;
}

static void add_layer(const char *prefix, const char *name, int rows, int cols) {
  char full[80];
  snprintf(full, sizeof full, "%s.weight", name);
  add(prefix, full, cols ? 2 : 1, rows, cols, 0);
  snprintf(full, sizeof full, "%s.bias", name);
  add(prefix, full, 1, rows, 0, 0);
}

static void add_tower(const char *prefix) {
  static const char *const leaf[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj",
                                     "mlp.fc1", "mlp.fc2", "layer_norm1", "layer_norm2"};
  char full[80];
  int i;
  snprintf(full, sizeof full, "%sencoder.layers.0.", prefix);
  for (i = 0; i < 8; i++) add_layer(full, leaf[i], W, i < 6 ? W : 0);
}

/* Writes the model as a safetensors file. */
static void make_model(fvg_ctx *c, fvg_write_fn write, void *user) {
  size_t i;
  for (i = 0; i < sizeof values / sizeof *values; i++) values[i] = (float)((i * 37 + i / 7) % 101) / 100 - 0.5f;
  add("", "logit_scale", 0, 0, 0, 0);
  add("vision_model.embeddings.", "patch_embedding.weight", 4, W, 3, 2);
  add("vision_model.embeddings.", "class_embedding", 1, W, 0, 0);
  add("vision_model.embeddings.", "position_embedding.weight", 2, 5, W, 0);
  add_layer("vision_model.", "pre_layrnorm", W, 0);
  add_layer("vision_model.", "post_layernorm", W, 0);
  add_tower("vision_model.");
  add("", "visual_projection.weight", 2, W, W, 0);
  add("text_model.embeddings.", "token_embedding.weight", 2, VOCAB, W, 0);
  add("text_model.embeddings.", "position_embedding.weight", 2, CONTEXT, W, 0);
  add_layer("text_model.", "final_layer_norm", W, 0);
  add_tower("text_model.");
  add("", "text_projection.weight", 2, W, W, 0);
  if (fvg_safetensors_write(c, write, user, tensors, n_tensor, NULL, 0)) abort();
}
#endif
