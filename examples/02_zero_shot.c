/* 02 - zero-shot: which of these words fits the picture?
        cc -O2 -I.. 02_zero_shot.c -o zero_shot -lm           (for JPEG and PNG add -DFVGPT_STB_IMAGE)
        ./zero_shot tiny-clip ../build/demo/things/images/mug/024.ppm mug key house         (after make demo)

   An image feature is compared with the text feature of "a photo of a WORD." for every word. */
#define FVGPT_IMPLEMENTATION
#include "fvgpt_clip.h"

static fvg_status picture_feature(fvg_clip *m, const char *path, float *f) {
  fvg_ctx *c = m->ctx;
  int size = m->vision.image_size;
  float *pixels = (float *)malloc(3 * (size_t)size * (size_t)size * sizeof *pixels);
  fvg_image picture, view;
  fvg_status s;
  memset(&view, 0, sizeof view);
  s = fvg_image_load(c, &picture, path, 3);
  if (!s) s = fvg_image_test_transform(c, &view, &picture, &m->preprocess);
  if (!s) s = fvg_image_normalize(c, pixels, &view, &m->preprocess);
  if (!s) s = fvg_clip_encode_images(m, f, pixels, 1);
  if (!s) fvg_normalize_rows(f, 1, m->embed_dim);
  fvg_image_free(c, &view);
  fvg_image_free(c, &picture);
  free(pixels);
  return s;
}

int main(int argc, char **argv) {
  const char *const *word = (const char *const *)argv + 3;
  int n = argc - 3, i, k;
  float *f, *g, *p;
  fvg_clip *m = NULL;
  fvg_status s;
  fvg_ctx *c;
  if (n < 1) { fprintf(stderr, "usage: zero_shot MODEL_DIR PICTURE WORD...\n"); return 1; }
  if (fvg_init(&c, NULL)) return 1;
  s = fvg_clip_open(c, &m, argv[1], NULL, FVG_F32);
  if (s) { fprintf(stderr, "%s\n", fvg_error(c)); return 1; }
  f = (float *)malloc((size_t)m->embed_dim * sizeof *f);
  g = (float *)malloc((size_t)n * (size_t)m->embed_dim * sizeof *g);
  p = (float *)malloc((size_t)n * sizeof *p);
  s = picture_feature(m, argv[2], f);
  if (!s) s = fvg_clip_encode_classes(m, g, "a photo of a {}.", word, n);
  if (!s) {
    float sum = 0;
    for (i = 0; i < n; i++) {
      float cosine = 0;
      for (k = 0; k < m->embed_dim; k++) cosine += f[k] * g[i * m->embed_dim + k];
      sum += p[i] = expf(m->logit_scale * (cosine - 1));                 /* softmax; cosine - 1 keeps exp small     */
    }
    for (i = 0; i < n; i++) printf("%6.2f %%  %s\n", 100 * p[i] / sum, word[i]);
  }
  if (s) fprintf(stderr, "%s\n", fvg_error(c));
  free(p);
  free(g);
  free(f);
  fvg_clip_free(m);
  fvg_free(c);
  return s != FVG_OK;
}
