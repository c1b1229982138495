/* 12 - maps by hand: Grad-CAM and relevance, from the values and gradients of a tape.
        cc -O2 -I.. 12_maps_by_hand.c -o maps_by_hand -lm
        ./maps_by_hand tiny-clip ../build/demo/things/images/mug/024.ppm mug key house bell     (after make demo)

   To learn here: the image tower is a page of tape operations, any point of it can be read, and a gradient can be had
   there by making it a parameter.  Here that point is A, what the last block's first layer norm gives: a row for the
   class token, and one for each patch.  Chapter 38 of fvgpt_clip.h has the equations of both maps; their numbers are
   quoted below.  In the end both are compared with the library's own maps, and drawn in letters. */
#define FVGPT_IMPLEMENTATION
#include "fvgpt_clip.h"

enum { PATCHES = 64, PIXELS = 64 * 64 };         /* of the tiny CLIP, which sees 64 x 64 pixels in 8 x 8 patches */

static fvg_node *norm(fvg_node *x, const fvg_tensor *gain, const fvg_tensor *bias, float eps, fvg_tape *t) {
  return fvg_layer_norm(x, fvg_frozen(t, gain), fvg_frozen(t, bias), eps);
}

static fvg_node *linear(fvg_node *x, const fvg_tensor *weight, const fvg_tensor *bias, fvg_tape *t) {
  return fvg_linear(x, fvg_frozen(t, weight), fvg_frozen(t, bias));
}

/* Cuts the picture [3, size, size] into rows of one patch each. */
static fvg_node *patches(fvg_tape *t, const fvg_vision_tower *v, const float *picture) {
  int side = v->patch_size, across = v->image_size / side, width = 3 * side * side;
  fvg_node *x = fvg_zeros(t, across * across, width);
  for (int i = 0; x && i < across * across * width; i++) {
    int patch = i / width, channel = i % width / (side * side), in = i % (side * side);
    int row = patch / across * side + in / side, column = patch % across * side + in % side;
    fvg_fill(x)[i] = picture[(channel * v->image_size + row) * v->image_size + column];
  }
  return x;
}

/* The tower up to its last block: x [1 + PATCHES, width], the class token first. */
static fvg_node *below_last_block(fvg_tape *t, const fvg_vision_tower *v, const float *picture) {
  const fvg_segment all = {0, v->n_token, 0, v->n_token, 0, 0, 0};               /* every row sees every row */
  fvg_transformer below = v->transformer;
  below.n_layer--;
  fvg_node *x = fvg_linear(patches(t, v, picture), fvg_frozen(t, &v->patch_weight), NULL);
  x = fvg_concat(fvg_frozen(t, &v->class_embedding), x);
  x = fvg_add(x, fvg_frozen(t, &v->position_embedding));
  x = norm(x, &v->ln_pre_weight, &v->ln_pre_bias, v->transformer.eps, t);
  return fvg_transform(x, &below, &all, 1, NULL, 0);
}

/* Rows of the last block's output become features [n, d] of unit length. */
static fvg_node *head(fvg_tape *t, const fvg_vision_tower *v, fvg_node *x) {
  x = norm(x, &v->ln_post_weight, &v->ln_post_bias, v->transformer.eps, t);
  return fvg_normalize(fvg_linear(x, fvg_frozen(t, &v->projection), NULL));
}

/* The feature f of the picture, from A and the rows x that pass the block by.  Only the class token asks. */
static fvg_node *feature(fvg_tape *t, const fvg_vision_tower *v, fvg_node *a, fvg_node *x) {
  const fvg_block *b = &v->transformer.block[v->transformer.n_layer - 1];
  const fvg_segment one = {0, 1, 0, v->n_token, 0, 0, 0};
  const int class_token = 0;
  fvg_node *q = linear(fvg_gather(a, &class_token, 1), &b->q_weight, &b->q_bias, t);
  fvg_node *k = linear(a, &b->k_weight, &b->k_bias, t);
  fvg_node *seen = fvg_attention(q, k, linear(a, &b->v_weight, &b->v_bias, t), v->transformer.n_head, &one, 1);
  x = fvg_add(linear(seen, &b->out_weight, &b->out_bias, t), fvg_gather(x, &class_token, 1));

  fvg_node *y = linear(norm(x, &b->ln_2_weight, &b->ln_2_bias, v->transformer.eps, t), &b->fc_weight, &b->fc_bias, t);
  y = v->transformer.activation == FVG_GELU ? fvg_gelu(y) : fvg_quick_gelu(y);
  return head(t, v, fvg_add(linear(y, &b->proj_weight, &b->proj_bias, t), x));
}

/* Grad-CAM, (1): A's channels, weighed by how much they raise the score s f g_label; g [1, d]. */
static fvg_status grad_cam(fvg_tape *t, const fvg_clip *m, float *map, fvg_parameter *a, fvg_node *x, const float *g) {
  fvg_node *f = feature(t, &m->vision, fvg_param(t, a), x);
  fvg_node *z = fvg_scale(fvg_linear(f, fvg_const(t, 1, m->embed_dim, g), NULL), m->logit_scale);
  fvg_status s = fvg_backward(z);
  int w = m->vision.width;
  const float *value = (const float *)a->value.data + w, *gradient = a->grad + w;    /* without the class token */
  for (int p = 0; !s && p < PATCHES; p++) {
    double sum = 0;
    for (int j = 0; j < w; j++) {
      double alpha = 0;
      for (int i = 0; i < PATCHES; i++) alpha += (double)gradient[i * w + j] / PATCHES;
      sum += alpha * (double)value[p * w + j];
    }
    map[p] = sum > 0 ? (float)sum : 0;
  }
  return s;
}

/* Relevance, (2) to (4): what each patch would be taken for.  g [n, d]. */
static fvg_status relevance(fvg_tape *t, const fvg_clip *m, float *map, fvg_node *a, const float *g, int n, int label) {
  const fvg_vision_tower *v = &m->vision;
  const fvg_block *b = &v->transformer.block[v->transformer.n_layer - 1];
  const fvg_segment all = {0, v->n_token, 0, v->n_token, 0, 0, 0};
  int patch[PATCHES];
  for (int p = 0; p < PATCHES; p++) patch[p] = 1 + p;
  fvg_node *k = linear(a, &b->k_weight, &b->k_bias, t);                          /* patches look at those like them */
  fvg_node *y = fvg_attention(k, k, linear(a, &b->v_weight, &b->v_bias, t), v->transformer.n_head, &all, 1);
  fvg_node *f = head(t, v, fvg_gather(linear(y, &b->out_weight, &b->out_bias, t), patch, PATCHES));
  const float *z = fvg_value(fvg_scale(fvg_linear(f, fvg_const(t, n, m->embed_dim, g), NULL), m->logit_scale));
  if (!z) return fvg_last_status(m->ctx);

  double mean = 0, variance = 0;
  for (int p = 0; p < PATCHES; p++) {
    double others = 0;                           /* the score of the class, less that of all others */
    for (int i = 0; i < n; i++) others += i == label ? 0 : exp((double)(z[p * n + i] - z[p * n + label]));
    map[p] = (float)-log(others);
    mean += (double)map[p] / PATCHES;
  }
  for (int p = 0; p < PATCHES; p++) variance += pow((double)map[p] - mean, 2) / PATCHES;
  for (int p = 0; p < PATCHES; p++) map[p] = (float)fmax(0, (double)map[p] - mean + sqrt(variance) / 2);
  return FVG_OK;
}

/* The library spreads its map [64, 64] over the picture, with the corners of the grid on its corners: patch (r, c)
   lies at pixel (9 r, 9 c).  It also divides by the greatest value. */
static fvg_status compare(fvg_classifier *k, float *map, const float *picture, int label, fvg_map_kind kind) {
  static float its[PIXELS];
  float most = 0, difference = 0;
  fvg_status s = fvg_attention_map(k, its, picture, label, kind);
  for (int p = 0; p < PATCHES; p++) most = map[p] > most ? map[p] : most;
  for (int p = 0; !s && p < PATCHES; p++) {
    if (most > 0) map[p] /= most;
    difference = fmaxf(difference, fabsf(map[p] - its[9 * (p / 8) * 64 + 9 * (p % 8)]));
  }
  if (!s) printf("%s: the library's map differs by %.4f at most\n", kind ? "relevance" : "Grad-CAM ", (double)difference);
  return s;
}

static fvg_status run(fvg_clip *m, fvg_tape *t, const char *path, const char *const *word, int n) {
  static float picture[3 * PIXELS], map[2][PATCHES];
  int shape[2] = {m->vision.n_token, m->vision.width}, d = m->embed_dim, label = 0;
  if (shape[0] != 1 + PATCHES) return fvg_fail(m->ctx, FVG_E_ARG, "this program is written for the tiny CLIP");
  fvg_classifier_desc zero_shot;
  memset(&zero_shot, 0, sizeof zero_shot);
  zero_shot.n_background = -1;                   /* relevance is against the other words */
  fvg_classifier *k = NULL;
  fvg_image file, view;
  memset(&view, 0, sizeof view);
  memset(&file, 0, sizeof file);
  fvg_parameter a;
  float *g = FVG_NEW_ARRAY(m->ctx, float, (size_t)n * (size_t)d);
  fvg_status s = fvg_parameter_new(m->ctx, &a, "A", 2, shape);
  if (!s) s = g ? fvg_clip_encode_classes(m, g, NULL, word, n) : FVG_E_NOMEM;
  if (!s) s = fvg_classifier_new(m, &k, word, n, &zero_shot);
  if (!s) s = fvg_image_load(m->ctx, &file, path, 3);
  if (!s) s = fvg_image_test_transform(m->ctx, &view, &file, &m->preprocess);
  if (!s) s = fvg_image_normalize(m->ctx, picture, &view, &m->preprocess);

  const fvg_block *b = &m->vision.transformer.block[m->vision.transformer.n_layer - 1];
  fvg_node *x = s ? NULL : below_last_block(t, &m->vision, picture);
  fvg_node *values = norm(x, &b->ln_1_weight, &b->ln_1_bias, m->vision.transformer.eps, t);
  if (!s && !values) s = fvg_last_status(m->ctx);
  if (!s) memcpy(a.value.data, fvg_value(values), (size_t)(shape[0] * shape[1]) * sizeof(float));
  if (!s) s = grad_cam(t, m, map[0], &a, x, g + label * d);
  if (!s) s = relevance(t, m, map[1], values, g, n, label);
  if (!s) s = compare(k, map[0], picture, label, FVG_GRAD_CAM);
  if (!s) s = compare(k, map[1], picture, label, FVG_RELEVANCE);
  for (int p = 0; !s && p < 2 * PATCHES; p++) {  /* a row of the one, a row of the other */
    float heat = map[p / 8 % 2][p / 16 * 8 + p % 8];
    printf("%c%c%s", ".-+*#@"[(int)(5.99f * heat)], ' ', p % 16 == 15 ? "\n" : p % 8 == 7 ? "     " : "");
  }
  fvg_image_free(m->ctx, &view);
  fvg_image_free(m->ctx, &file);
  fvg_classifier_free(k);
  fvg_parameter_free(m->ctx, &a);
  fvg_release(m->ctx, g);
  return s;
}

int main(int argc, char **argv) {
  if (argc < 5) return fprintf(stderr, "usage: maps_by_hand MODEL_DIR PICTURE CLASS OTHER_WORD...\n"), 1;
  fvg_clip *m = fvg_open(argv[1]);
  fvg_status s = m ? m->failed : FVG_E_NOMEM;
  fvg_tape *t = s ? NULL : fvg_tape_new(m->ctx);
  if (!s) s = run(m, t, argv[2], (const char *const *)argv + 3, argc - 3);
  if (s) fprintf(stderr, "%s\n", fvg_clip_error(m));
  fvg_tape_free(t);
  fvg_close(m);
  return s != FVG_OK;
}
