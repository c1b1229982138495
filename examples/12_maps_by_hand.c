/* 12 - maps by hand: Grad-CAM and relevance, from the values and gradients of a tape.
        cc -O2 -I.. 12_maps_by_hand.c -o maps_by_hand -lm
        ./maps_by_hand tiny-clip ../build/demo/things/images/mug/024.ppm               (after make demo)

   To learn here: any point of the image tower can be read, and a gradient can be had there by making
   it a parameter.  Here that point is A, the rows that enter the attention of the last block: one
   for the class token, and one for each patch.  The equations: fvgpt_clip.h, chapter 38.

   The program draws both maps and says by how much the library's own differ.  The mug is in the
   middle: so small a CLIP tells it by what is around it, and neither map finds it. */
#define FVGPT_IMPLEMENTATION
#include "fvgpt_clip.h"

enum { SIDE = 8, PATCHES = SIDE * SIDE, ROWS = 1 + PATCHES, SIZE = 64, WIDTH = 96, HEADS = 3, LAYERS = 4, WORDS = 4 };
static const char *const word[WORDS] = {"mug", "key", "house", "bell"};          /* the first is what is looked for */
static const fvg_segment all = {0, ROWS, 0, ROWS, 0, 0, 0};                      /* every row sees every row */
static fvg_tape *t;                              /* all nodes below are on it */
static const fvg_block *b;                       /* the last block */

static fvg_node *norm(fvg_node *x, const fvg_tensor *gain, const fvg_tensor *bias) {
  return fvg_layer_norm(x, fvg_frozen(t, gain), fvg_frozen(t, bias), 1e-5f);
}

static fvg_node *linear(fvg_node *x, const fvg_tensor *weight, const fvg_tensor *bias) {
  return fvg_linear(x, fvg_frozen(t, weight), bias ? fvg_frozen(t, bias) : NULL);
}

/* Cuts the picture [3, SIZE, SIZE] into rows of one patch each. */
static fvg_node *patches(const float *picture) {
  fvg_node *x = fvg_zeros(t, PATCHES, 3 * 8 * 8);
  float *out = x ? fvg_fill(x) : NULL;
  for (int p = 0; out && p < PATCHES; p++)
    for (int row = 0; row < 3 * 8; row++, out += 8)
      memcpy(out, picture + (row / 8 * SIZE + p / SIDE * 8 + row % 8) * SIZE + p % SIDE * 8, 8 * sizeof *out);
  return x;
}

static fvg_node *below_last_block(const fvg_vision_tower *v, const float *picture) {
  fvg_transformer below = v->transformer;
  below.n_layer = LAYERS - 1;
  fvg_node *x = linear(patches(picture), &v->patch_weight, NULL);
  x = fvg_add(fvg_concat(fvg_frozen(t, &v->class_embedding), x), fvg_frozen(t, &v->position_embedding));
  return fvg_transform(norm(x, &v->ln_pre_weight, &v->ln_pre_bias), &below, &all, 1, NULL, 0);
}

/* The last block's attention: the rows a ask by their keys, or by their queries as usual. */
static fvg_node *attend(fvg_node *a, int by_keys) {
  fvg_node *k = linear(a, &b->k_weight, &b->k_bias);
  fvg_node *q = by_keys ? k : linear(a, &b->q_weight, &b->q_bias);
  fvg_node *v = linear(a, &b->v_weight, &b->v_bias);
  return linear(fvg_attention(q, k, v, HEADS, &all, 1), &b->out_weight, &b->out_bias);
}

/* The scores [rows, n] of what leaves the last block, against n texts g. */
static fvg_node *scores(const fvg_clip *m, fvg_node *x, const float *g, int n) {
  x = norm(x, &m->vision.ln_post_weight, &m->vision.ln_post_bias);
  fvg_node *f = fvg_normalize(linear(x, &m->vision.projection, NULL));
  return fvg_scale(fvg_linear(f, fvg_const(t, n, m->embed_dim, g), NULL), m->logit_scale);
}

/* Grad-CAM, (1): A's channels, weighed by how much they raise the score of text 0. */
static fvg_status grad_cam(const fvg_clip *m, float *map, fvg_parameter *a, fvg_node *x, const float *g) {
  const int class_token = 0;
  x = fvg_add(x, attend(fvg_param(t, a), 0));
  fvg_node *y = linear(norm(x, &b->ln_2_weight, &b->ln_2_bias), &b->fc_weight, &b->fc_bias);
  x = fvg_add(x, linear(fvg_quick_gelu(y), &b->proj_weight, &b->proj_bias));
  fvg_status s = fvg_backward(scores(m, fvg_gather(x, &class_token, 1), g, 1));

  const float *value = (const float *)a->value.data;
  for (int j = 0; !s && j < WIDTH; j++) {
    float weight = 0;
    for (int p = 1; p < ROWS; p++) weight += a->grad[p * WIDTH + j] / PATCHES;
    for (int p = 1; p < ROWS; p++) map[p - 1] += weight * value[p * WIDTH + j];
  }
  return s;
}

/* Relevance, (2) to (4): what each patch by itself would be taken for, if it looked at those like it. */
static fvg_status relevance(const fvg_clip *m, float *map, fvg_node *a, const float *g) {
  const float *z = fvg_value(scores(m, attend(a, 1), g, WORDS));
  if (!z) return fvg_last_status(m->ctx);
  float mean = 0, mean_square = 0;
  for (int p = 0; p < PATCHES; p++) {
    float others = 0;                            /* text 0 against all the others */
    z += WORDS;
    for (int i = 1; i < WORDS; i++) others += expf(z[i] - z[0]);
    map[p] = -logf(others);
    mean += map[p] / PATCHES;
    mean_square += map[p] * map[p] / PATCHES;
  }
  for (int p = 0; p < PATCHES; p++) map[p] += sqrtf(mean_square - mean * mean) / 2 - mean;
  return FVG_OK;
}

/* A map ends at 0, and 1 is its greatest value.  The library has patch (r, c) at pixel (9 r, 9 c). */
static fvg_status compare(fvg_classifier *k, float *map, const float *picture, fvg_map_kind kind) {
  static float its[SIZE * SIZE];
  float most = 1e-9f, difference = 0;
  fvg_status s = fvg_attention_map(k, its, picture, 0, kind);
  for (int p = 0; p < PATCHES; p++) most = fmaxf(most, map[p]);
  for (int p = 0; p < PATCHES; p++) {
    map[p] = fmaxf(0, map[p]) / most;
    difference = fmaxf(difference, fabsf(map[p] - its[9 * (p / SIDE) * SIZE + 9 * (p % SIDE)]));
  }
  if (!s) printf("%s; the library's differs by %.4f\n", kind ? "relevance" : "Grad-CAM", (double)difference);
  for (int p = 0; !s && p < PATCHES; p++)
    printf("%c%c", ".-+*#@"[(int)(5.99f * map[p])], p % SIDE == SIDE - 1 ? '\n' : ' ');
  return s;
}

static fvg_status run(fvg_clip *m, const char *path) {
  static float picture[3 * SIZE * SIZE], map[2][PATCHES], g[WORDS * WIDTH];
  if (m->vision.n_token != ROWS || m->vision.width != WIDTH) return fvg_fail(m->ctx, FVG_E_ARG, "not the tiny CLIP");
  static fvg_classifier_desc zero_shot;
  zero_shot.n_background = -1;                   /* relevance is against the other words */
  fvg_classifier *k = NULL;
  static fvg_image file;
  fvg_parameter a;
  const int shape[2] = {ROWS, WIDTH};
  fvg_status s = fvg_parameter_new(m->ctx, &a, "A", 2, shape);
  if (!s) s = fvg_clip_encode_classes(m, g, NULL, word, WORDS);
  if (!s) s = fvg_classifier_new(m, &k, word, WORDS, &zero_shot);
  if (!s) s = fvg_image_load(m->ctx, &file, path, 3);
  if (!s) s = fvg_image_normalize(m->ctx, picture, &file, &m->preprocess);
  b = &m->vision.transformer.block[LAYERS - 1];
  fvg_node *x = s ? NULL : below_last_block(&m->vision, picture);
  fvg_node *rows = x ? norm(x, &b->ln_1_weight, &b->ln_1_bias) : NULL;
  if (!s && !rows) s = fvg_last_status(m->ctx);
  if (!s) memcpy(a.value.data, fvg_value(rows), (size_t)ROWS * WIDTH * sizeof(float));
  if (!s) s = grad_cam(m, map[0], &a, x, g);
  if (!s) s = relevance(m, map[1], rows, g);
  if (!s) s = compare(k, map[0], picture, FVG_GRAD_CAM);
  if (!s) s = compare(k, map[1], picture, FVG_RELEVANCE);
  fvg_image_free(m->ctx, &file);
  fvg_classifier_free(k);
  fvg_parameter_free(m->ctx, &a);
  return s;
}

int main(int argc, char **argv) {
  if (argc != 3) return fprintf(stderr, "usage: maps_by_hand MODEL_DIR PICTURE\n"), 1;
  fvg_clip *m = fvg_open(argv[1]);
  fvg_status s = m ? m->failed : FVG_E_NOMEM;
  t = s ? NULL : fvg_tape_new(m->ctx);
  if (!s) s = run(m, argv[2]);
  if (s) fprintf(stderr, "%s\n", fvg_clip_error(m));
  fvg_tape_free(t);
  fvg_close(m);
  return s != FVG_OK;
}
