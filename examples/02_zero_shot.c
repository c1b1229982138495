/* 02 - zero-shot: which of these words suits a picture?
        cc -O2 -I.. 02_zero_shot.c -o zero_shot -lm                    (for PNG and JPEG add -DFVGPT_STB_IMAGE)
        ./zero_shot tiny-clip ../build/demo/things/images/mug/024.ppm mug key house         (after make demo)

   To learn here: the answer takes three calls, fvg_open, fvg_classify_file and fvg_close.  Then comes what they do:
   words become tokens, words and picture become features, and the cosine of two features says how well they suit. */
#define FVGPT_IMPLEMENTATION
#include "fvgpt_clip.h"

/* Step 1: every word becomes a sentence, the sentence tokens, and the tokens row i of g [n, embed_dim]. */
static fvg_status encode_words(fvg_clip *m, float *g, const char *const *word, int n) {
  enum { MOST = 77 };                            /* tokens that CLIP reads at once */
  for (int i = 0; i < n; i++) {
    char text[200];
    snprintf(text, sizeof text, "a photo of a %.150s.", word[i]);

    int id[MOST], n_id;
    fvg_status s = fvg_tokenize(m->tokenizer, id, MOST, &n_id, text);
    if (s) return s;
    printf("%s  tokens", text);
    for (int k = 0; k < n_id && k < MOST; k++) printf(" %d", id[k]);
    printf("\n");

    const char *one = text;
    s = fvg_clip_encode_texts(m, g + i * m->embed_dim, &one, 1);
    if (s) return s;
  }
  fvg_normalize_rows(g, n, m->embed_dim);        /* from now on a dot product is a cosine */
  return FVG_OK;
}

/* Step 2: the picture is resized and cut to a square, becomes floats, and then the feature f [embed_dim]. */
static fvg_status encode_picture(fvg_clip *m, float *f, const char *path) {
  fvg_image picture, view;
  memset(&view, 0, sizeof view);
  size_t side = (size_t)m->preprocess.size;
  float *pixels = FVG_NEW_ARRAY(m->ctx, float, 3 * side * side);
  fvg_status s = fvg_image_load(m->ctx, &picture, path, 3);
  if (!s) s = fvg_image_test_transform(m->ctx, &view, &picture, &m->preprocess);
  if (!s) s = pixels ? fvg_image_normalize(m->ctx, pixels, &view, &m->preprocess) : FVG_E_NOMEM;
  if (!s) s = fvg_clip_encode_images(m, f, pixels, 1);
  if (!s) fvg_normalize_rows(f, 1, m->embed_dim);

  fvg_image_free(m->ctx, &view);
  fvg_image_free(m->ctx, &picture);
  fvg_release(m->ctx, pixels);
  return s;
}

/* Step 3: the logit of a word is s cos(f, g), and softmax makes probabilities of logits. */
static fvg_status step_by_step(fvg_clip *m, const char *path, const char *const *word, int n) {
  int d = m->embed_dim;
  float *f = FVG_NEW_ARRAY(m->ctx, float, (size_t)d);
  float *g = FVG_NEW_ARRAY(m->ctx, float, (size_t)n * (size_t)d);
  fvg_status s = f && g ? encode_words(m, g, word, n) : FVG_E_NOMEM;
  if (!s) s = encode_picture(m, f, path);

  double sum = 0;
  for (int pass = 0; !s && pass < 2; pass++) {   /* the first pass adds up what the second divides by */
    for (int i = 0; i < n; i++) {
      double cosine = 0;
      for (int k = 0; k < d; k++) cosine += (double)(f[k] * g[i * d + k]);
      double e = exp((double)m->logit_scale * (cosine - 1));      /* without the -1 it might overflow */
      if (pass == 0) sum += e;
      else printf("%6.2f %%  %s, cosine %.4f\n", 100 * e / sum, word[i], cosine);
    }
  }
  fvg_release(m->ctx, g);
  fvg_release(m->ctx, f);
  return s;
}

int main(int argc, char **argv) {
  if (argc < 4) return fprintf(stderr, "usage: zero_shot MODEL_DIR PICTURE WORD...\n"), 1;
  const char *const *word = (const char *const *)argv + 3;
  int n = argc - 3;
  float *probability = (float *)malloc((size_t)n * sizeof *probability);
  if (!probability) return 1;

  fvg_clip *m = fvg_open(argv[1]);
  int best = fvg_classify_file(m, probability, argv[2], word, n);
  if (best >= 0) printf("%s, with probability %.2f %%\n\n", word[best], 100 * (double)probability[best]);

  fvg_status s = best < 0 ? (fvg_status)best : step_by_step(m, argv[2], word, n);
  if (s) fprintf(stderr, "%s\n", fvg_clip_error(m));
  free(probability);
  return fvg_close(m) != FVG_OK;
}
