/* Measurements; see fvgpt_report_measure.h. */
#include "fvgpt_report_measure.h"

#include <math.h>
#include <string.h>

enum { MOST_MEASURED = 200 };

fvg_status advance(study *x) {
  x->progress.step++;
  return fvg_report_progress(x->m->ctx, &x->progress);
}

/* ---- pictures ---- */
fvg_status load_pair(const study *x, const fvg_item *item, fvg_image *view, fvg_image *mask,
                     float *chw) {
  fvg_ctx *c = x->m->ctx;
  memset(view, 0, sizeof *view);
  memset(mask, 0, sizeof *mask);
  fvg_image whole, whole_mask;
  fvg_status s = fvg_dataset_load(&x->d, &whole, &whole_mask, item, 0.5f);
  if (s) return s;

  const fvg_preprocess *p = &x->m->preprocess;
  fvg_preprocess for_mask = *p;
  for_mask.filter = FVG_NEAREST;
  s = fvg_image_test_transform(c, view, &whole, p);
  if (!s && whole_mask.pixels) s = fvg_image_test_transform(c, mask, &whole_mask, &for_mask);
  if (!s) s = fvg_image_normalize(c, chw, view, p);
  fvg_image_free(c, &whole);
  fvg_image_free(c, &whole_mask);
  if (s) {
    fvg_image_free(c, view);
    fvg_image_free(c, mask);
  }
  return s;
}

/* Leaves the items that have a mask. */
static fvg_status leave_masked(const study *x, fvg_items *items) {
  fvg_ctx *c = x->m->ctx;
  int n = 0;
  for (int i = 0; i < items->n; i++) {
    char *path;
    fvg_status s = fvg_dataset_mask_path(&x->d, &path, items->item[i].path);
    if (s) return s;
    if (path) items->item[n++] = items->item[i];
    fvg_release(c, path);
  }
  items->n = n;
  if (n) return FVG_OK;
  return fvg_fail(c, FVG_E_IO,
                  "%s/mask: no mask for any base-class test picture; report measures what lies "
                  "inside",
                  x->d.root);
}

fvg_status choose_items(study *x) {
  fvg_items *items = &x->items;
  fvg_status s = fvg_items_group(x->m->ctx, items, &x->d.test, x->d.n_class, FVG_BASE);
  if (!s) s = leave_masked(x, items);
  if (s) return s;
  const int n = items->n;
  const int kept = n < MOST_MEASURED ? n : MOST_MEASURED;
  for (int i = 0; i < kept; i++) items->item[i] = items->item[(int)((double)i * n / kept)];
  items->n = kept;
  return FVG_OK;
}

/* ---- maps ---- */
fvg_status map_share(fvg_classifier *k, const float *chw, int label, fvg_map_kind kind,
                     const fvg_image *mask, float *map, double *share) {
  fvg_status s = fvg_attention_map(k, map, chw, label, kind);
  if (!s) *share = 100 * fvg_foreground_share(map, mask);
  return s;
}

/* Encodes picture i, its foreground and its background; chw [3, 3, size, size] holds the picture.
   The mask comes back inverted. */
static fvg_status encode_three(study *x, int i, float *chw, fvg_image *mask) {
  const fvg_preprocess *black = x->fill_black ? &x->m->preprocess : NULL;
  const size_t size = (size_t)x->m->vision.image_size;
  const size_t one = 3 * size * size;
  const size_t d = (size_t)x->m->embed_dim;
  float *three = FVG_NEW_ARRAY(x->m->ctx, float, 3 * d);
  if (!three) return FVG_E_NOMEM;

  x->area[i] = fvg_foreground_view(chw + one, chw, mask, black);
  for (size_t at = 0; at < size * size; at++) mask->pixels[at] = (uint8_t)~mask->pixels[at];
  fvg_foreground_view(chw + 2 * one, chw, mask, black);

  fvg_status s = fvg_clip_encode_images(x->m, three, chw, 3);
  fvg_normalize_rows(three, 3, x->m->embed_dim);
  float *const to[3] = {x->f, x->f_fg, x->f_bg};
  for (int k = 0; k < 3; k++)
    memcpy(to[k] + (size_t)i * d, three + (size_t)k * d, d * sizeof *three);
  fvg_release(x->m->ctx, three);
  return s;
}

/* One of the maps whose shares are summed up. */
typedef struct map_sum {
  fvg_classifier *k;
  fvg_map_kind kind;
  double *share;                     /* the mean over the pictures                               */
} map_sum;

/* Adds picture i to both means; chw [10, size, size]: room for three views and a map. */
static fvg_status measure_picture(study *x, int i, const map_sum sum[2], float *chw,
                                  int encodes) {
  fvg_ctx *c = x->m->ctx;
  const size_t size = (size_t)x->m->vision.image_size;
  const fvg_item *item = &x->items.item[i];
  float *map = chw + 9 * size * size;
  fvg_image view, mask;
  fvg_status s = load_pair(x, item, &view, &mask, chw);
  if (s) return s;

  for (int k = 0; !s && k < 2; k++) {
    double share = 0;
    s = map_share(sum[k].k, chw, item->label, sum[k].kind, &mask, map, &share);
    *sum[k].share += share / x->items.n;
  }
  if (!s && encodes) {
    s = encode_three(x, i, chw, &mask);
    x->mean_area += 100 * (double)x->area[i] / x->items.n;
  }
  fvg_image_free(c, &view);
  fvg_image_free(c, &mask);
  return s ? s : advance(x);
}

static fvg_status measure_maps(study *x, const map_sum sum[2], int encodes) {
  fvg_ctx *c = x->m->ctx;
  const size_t size = (size_t)x->m->vision.image_size;
  float *chw = FVG_NEW_ARRAY(c, float, 10 * size * size);
  fvg_status s = chw ? FVG_OK : FVG_E_NOMEM;
  for (int i = 0; !s && i < x->items.n; i++) s = measure_picture(x, i, sum, chw, encodes);
  fvg_release(c, chw);
  return s;
}

fvg_status measure_two_maps(study *x, fvg_classifier *a, fvg_classifier *b, double *share_a,
                            double *share_b) {
  const map_sum sum[2] = {{a, FVG_GRAD_CAM, share_a}, {b, FVG_GRAD_CAM, share_b}};
  return measure_maps(x, sum, 0);
}

fvg_status measure_and_encode(study *x, fvg_classifier *k, double *share, double *attention) {
  const map_sum sum[2] = {{k, FVG_GRAD_CAM, share}, {k, FVG_CLS_ATTENTION, attention}};
  return measure_maps(x, sum, 1);
}

/* ---- shift ---- */
static double greatest(const float *x, int n) {
  double most = (double)x[0];
  for (int i = 1; i < n; i++) {
    if ((double)x[i] > most) most = (double)x[i];
  }
  return most;
}

/* The sum of exp((x_i - most) / tau). */
static double sum_of_exp(const float *x, int n, double most) {
  double sum = 0;
  for (int i = 0; i < n; i++) sum += exp(((double)x[i] - most) / REPORT_TAU);
  return sum;
}

/* KL(softmax(p / tau) || softmax(q / tau)) of two rows of logits. */
static double shift_of(const float *p, const float *q, int n) {
  const double max_p = greatest(p, n);
  const double max_q = greatest(q, n);
  const double ln_sum_p = log(sum_of_exp(p, n, max_p));
  const double ln_sum_q = log(sum_of_exp(q, n, max_q));
  double kl = 0;
  for (int i = 0; i < n; i++) {
    const double ln_p = ((double)p[i] - max_p) / REPORT_TAU - ln_sum_p;
    const double ln_q = ((double)q[i] - max_q) / REPORT_TAU - ln_sum_q;
    kl += exp(ln_p) * (ln_p - ln_q);
  }
  return kl;
}

fvg_status measure_shift(study *x, fvg_classifier *k, int n_class, double *shift) {
  fvg_ctx *c = x->m->ctx;
  const size_t n = (size_t)n_class;
  const size_t values = (size_t)x->items.n * n;
  float *whole = FVG_NEW_ARRAY(c, float, 2 * values);
  if (!whole) return FVG_E_NOMEM;
  float *foreground = whole + values;

  fvg_status s = fvg_classifier_logits(k, whole, NULL, x->f, x->items.n);
  if (!s) s = fvg_classifier_logits(k, foreground, NULL, x->f_fg, x->items.n);
  for (size_t i = 0; !s && i < (size_t)x->items.n; i++)
    *shift += shift_of(whole + i * n, foreground + i * n, n_class) / x->items.n;
  fvg_release(c, whole);
  return s;
}

/* ---- trust ---- */
/* How often a good mask is trusted more than a bad one, a tie counting half. */
static double auc(const float *good, const float *bad, int n) {
  double sum = 0;
  for (int i = 0; i < n; i++) {
    for (int k = 0; k < n; k++) {
      if (good[i] > bad[k]) sum += 1;
      else if (!(good[i] < bad[k])) sum += 0.5;
    }
  }
  return sum / n / n;
}

/* Turns shares of foreground into those of background, and back. */
static void invert_areas(study *x) {
  for (int i = 0; i < x->items.n; i++) x->area[i] = 1 - x->area[i];
}

/* Counts the trust r [items.n] in good or bad masks. */
static void count_trust(study *x, const float *r, int is_bad, int run) {
  double *mean = &x->trust[is_bad ? TRUST_BAD : TRUST_GOOD].seed[run];
  for (int i = 0; i < x->items.n; i++) {
    *mean += (double)r[i] / x->items.n;
    const int bin = r[i] < 1 ? (int)(r[i] * N_BIN) : N_BIN - 1;
    x->bin[is_bad][bin]++;
  }
}

/* Inverted masks are bad ones: their foreground is the background, whose features are known. */
fvg_status measure_trust(study *x, fvg_fvgpt *f, const float *g, int n_class, int run) {
  fvg_ctx *c = x->m->ctx;
  const int n = x->items.n;
  float *r = FVG_NEW_ARRAY(c, float, 2 * (size_t)n);
  if (!r) return FVG_E_NOMEM;

  fvg_fvgpt_batch batch;
  memset(&batch, 0, sizeof batch);
  batch.n = n;
  batch.n_class = n_class;
  batch.f = x->f;
  batch.f_fg = x->f_fg;
  batch.g = g;
  batch.area = x->area;
  fvg_status s = fvg_fvgpt_trust(f, r, &batch);
  if (!s) {
    count_trust(x, r, 0, run);
    batch.f_fg = x->f_bg;
    invert_areas(x);
    s = fvg_fvgpt_trust(f, r + n, &batch);
    invert_areas(x);
  }
  if (!s) {
    count_trust(x, r + n, 1, run);
    x->trust[TRUST_AUC].seed[run] = auc(r, r + n, n);
  }
  fvg_release(c, r);
  return s;
}
