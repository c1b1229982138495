/* Measurements; see fvgpt_report_measure.h. */
#include "fvgpt_report_measure.h"

#include <math.h>
#include <string.h>

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
  return FVG_OK;
}

fvg_status choose_masked(study *x, group *g) {
  fvg_ctx *c = x->m->ctx;
  const fvg_items *all = &g->task.items;
  fvg_items *items = &g->masked;
  items->item = FVG_NEW_ARRAY(c, fvg_item, (size_t)all->n);
  if (!items->item) return FVG_E_NOMEM;
  memcpy(items->item, all->item, (size_t)all->n * sizeof *items->item);
  items->n = all->n;
  fvg_status s = leave_masked(x, items);
  if (s) return s;

  const int n = items->n;
  const int kept = n < x->o->measured ? n : x->o->measured;
  for (int i = 0; i < kept; i++) items->item[i] = items->item[(int)((double)i * n / kept)];
  items->n = kept;
  if (kept) s = fvg_dataset_survey_masks(&x->d, items);
  return s;
}

/* ---- maps ---- */
fvg_status make_map(fvg_classifier *k, float *map, const float *chw, int label, int kind) {
  static const fvg_map_kind of[N_MAP] = {FVG_RELEVANCE, FVG_GRAD_CAM, FVG_CLS_ATTENTION};
  return fvg_attention_map(k, map, chw, label, of[kind]);
}

void measure_map(const float *map, const fvg_image *mask, double out[N_MEASURE]) {
  if (!mask->pixels) return;
  out[INSIDE] = 100 * fvg_foreground_share(map, mask);
  out[HOTTEST] = 100 * fvg_hottest_inside(map, mask);
  out[IOU] = 100 * fvg_map_iou(map, mask);
}

/* Adds the measures of one picture's maps to their sums; chw [4, size, size]: room for it and for a
   map. */
static fvg_status measure_picture(study *x, const fvg_item *item, fvg_classifier *k, int n_map,
                                  float *chw, double sum[N_MAP][N_MEASURE]) {
  fvg_ctx *c = x->m->ctx;
  const size_t size = (size_t)x->m->vision.image_size;
  float *map = chw + 3 * size * size;
  fvg_image view, mask;
  fvg_status s = load_pair(x, item, &view, &mask, chw);
  if (s) return s;

  for (int kind = 0; !s && kind < n_map; kind++) {
    double one[N_MEASURE] = {0};
    s = make_map(k, map, chw, item->label, kind);
    if (!s) measure_map(map, &mask, one);
    for (int i = 0; i < N_MEASURE; i++) sum[kind][i] += one[i];
  }
  fvg_image_free(c, &view);
  fvg_image_free(c, &mask);
  return s ? s : advance(x);
}

fvg_status measure_maps(study *x, model *w, int at, fvg_classifier *k, int run,
                        const model *plain) {
  fvg_ctx *c = x->m->ctx;
  const fvg_items *items = &x->group[at].masked;
  const size_t size = (size_t)x->m->vision.image_size;
  const int n_map = plain ? ATTENTION : N_MAP;           /* the attention comes last             */
  double sum[N_MAP][N_MEASURE] = {{0}};
  float *chw = FVG_NEW_ARRAY(c, float, 4 * size * size);
  fvg_status s = chw ? FVG_OK : FVG_E_NOMEM;
  for (int i = 0; !s && i < items->n; i++)
    s = measure_picture(x, &items->item[i], k, n_map, chw, sum);
  fvg_release(c, chw);

  for (int i = 0; !s && items->n && i < N_MAP * N_MEASURE; i++) {
    const int kind = i / N_MEASURE;
    const int which = i % N_MEASURE;
    const double own = sum[kind][which] / items->n;
    const double value = kind < n_map ? own : plain->on[at].map[kind][which].seed[0];
    set_measure(&w->on[at].map[kind][which], run, value);
  }
  return s;
}

/* ---- views ---- */
/* Encodes picture i, its foreground and its background into their places in rows. */
static fvg_status encode_three(study *x, group *g, int i, fvg_learner *l, int fill_black,
                               float *chw, float *rows) {
  fvg_ctx *c = x->m->ctx;
  const fvg_preprocess *black = fill_black ? &x->m->preprocess : NULL;
  const size_t size = (size_t)x->m->vision.image_size;
  const size_t width = (size_t)fvg_learner_feature_width(x->m, l);
  const size_t n = (size_t)g->masked.n;
  float *three = FVG_NEW_ARRAY(c, float, 3 * width);
  if (!three) return FVG_E_NOMEM;

  fvg_image view, mask;
  fvg_status s = load_pair(x, &g->masked.item[i], &view, &mask, chw);
  if (!s) {
    g->area[i] = fvg_foreground_view(chw + 3 * size * size, chw, &mask, black);
    for (size_t at = 0; at < size * size; at++) mask.pixels[at] = (uint8_t)~mask.pixels[at];
    fvg_foreground_view(chw + 6 * size * size, chw, &mask, black);
    s = fvg_learner_encode_images(x->m, l, three, chw, 3);
    fvg_image_free(c, &view);
    fvg_image_free(c, &mask);
  }
  for (size_t k = 0; !s && k < 3; k++)
    memcpy(rows + (k * n + (size_t)i) * width, three + k * width, width * sizeof *rows);
  fvg_release(c, three);
  return s;
}

fvg_status encode_views(study *x, group *g, fvg_learner *l, int fill_black, float **rows) {
  fvg_ctx *c = x->m->ctx;
  const size_t size = (size_t)x->m->vision.image_size;
  const size_t width = (size_t)fvg_learner_feature_width(x->m, l);
  const int is_plain = width == (size_t)x->m->embed_dim;
  const int n = g->masked.n;
  *rows = is_plain ? g->views : NULL;
  if (*rows || !n) return FVG_OK;

  float *chw = FVG_NEW_ARRAY(c, float, 9 * size * size);
  float *made = FVG_NEW_ARRAY(c, float, 3 * (size_t)n * width);
  if (!g->area) g->area = FVG_NEW_ARRAY(c, float, (size_t)n);
  fvg_status s = chw && made && g->area ? FVG_OK : FVG_E_NOMEM;
  for (int i = 0; !s && i < n; i++) s = encode_three(x, g, i, l, fill_black, chw, made);
  fvg_release(c, chw);
  if (s) {
    fvg_release(c, made);
    return s;
  }
  g->mean_area = 0;
  for (int i = 0; i < n; i++) g->mean_area += 100 * (double)g->area[i] / n;
  *rows = made;
  if (is_plain) g->views = made;
  return FVG_OK;
}

/* ---- shift ---- */
fvg_status measure_shift(study *x, model *w, int at, fvg_classifier *k, const float *rows,
                         int run) {
  fvg_ctx *c = x->m->ctx;
  const group *g = &x->group[at];
  const int n = g->masked.n;
  const size_t n_class = (size_t)g->task.n_class;
  float *whole = FVG_NEW_ARRAY(c, float, 2 * (size_t)n * n_class);
  if (!whole) return FVG_E_NOMEM;
  const float *foreground = whole + (size_t)n * n_class;

  /* The first two views are the picture and its foreground. */
  double shift = 0;
  fvg_status s = fvg_classifier_logits(k, whole, NULL, rows, 2 * n);
  for (size_t i = 0; !s && i < (size_t)n; i++)
    shift += foreground_shift(whole + i * n_class, foreground + i * n_class, (int)n_class) / n;
  if (!s) set_measure(&w->on[at].shift, run, shift);
  fvg_release(c, whole);
  return s;
}

/* ---- trust ---- */
/* How often one of the first has a greater number than one of the second, a tie counting half; -1:
   one of the two is empty. */
static double auc(const float *first, int n_first, const float *second, int n_second) {
  double sum = 0;
  for (int i = 0; i < n_first; i++) {
    for (int k = 0; k < n_second; k++) {
      if (first[i] > second[k]) sum += 1;
      else if (!(first[i] < second[k])) sum += 0.5;
    }
  }
  return n_first && n_second ? sum / n_first / n_second : -1;
}

/* FVG-PT's bounds: a mask that covers less or more of the picture says nothing. */
static int is_usable(float area) { return area >= 0.02f && area <= 0.98f; }

/* How well r tells masks that help the backbone (r* = 1: the foreground's cross entropy is the
   lower one) from those that do not. */
static fvg_status measure_target(study *x, model *w, const group *g, fvg_classifier *tuned_k,
                                 const float *rows, const float *r, int run) {
  fvg_ctx *c = x->m->ctx;
  const int n = g->masked.n;
  const int n_class = g->task.n_class;
  float *z = FVG_NEW_ARRAY(c, float, 2 * (size_t)n * (size_t)n_class);
  float *sorted = FVG_NEW_ARRAY(c, float, 2 * (size_t)n);
  fvg_status s = z && sorted ? FVG_OK : FVG_E_NOMEM;
  if (!s) s = fvg_classifier_logits(tuned_k, z, NULL, rows, 2 * n);

  int n_help = 0;
  int n_harm = 0;
  for (int i = 0; !s && i < n; i++) {
    const float *z_full = z + (size_t)i * (size_t)n_class;
    const float *z_fg = z_full + (size_t)n * (size_t)n_class;
    const int label = g->masked.item[i].label;
    if (!is_usable(g->area[i])) continue;
    const int helps =
        row_cross_entropy(z_fg, n_class, label) < row_cross_entropy(z_full, n_class, label);
    if (helps) sorted[n_help++] = r[i];
    else sorted[n + n_harm++] = r[i];
  }
  const double value = s ? -1 : auc(sorted, n_help, sorted + n, n_harm);
  if (value >= 0) set_measure(&w->trust[TARGET_AUC], run, value);
  fvg_release(c, z);
  fvg_release(c, sorted);
  return s;
}

/* Turns shares of foreground into those of background, and back. */
static void invert_areas(const group *g) {
  for (int i = 0; i < g->masked.n; i++) g->area[i] = 1 - g->area[i];
}

/* Counts the trust r [n] in true or in inverted masks. */
static void count_trust(model *w, const float *r, int n, int is_bad, int run) {
  double mean = 0;
  for (int i = 0; i < n; i++) {
    mean += (double)r[i] / n;
    const int bin = r[i] < 1 ? (int)(r[i] * N_BIN) : N_BIN - 1;
    w->r_bin[is_bad][bin]++;
  }
  set_measure(&w->trust[is_bad ? TRUST_BAD : TRUST_GOOD], run, mean);
}

/* Copies one part of n rows into a matrix [n, d]. */
static void take_part(const float *rows, int n, size_t width, int part, size_t d, float *to) {
  for (size_t i = 0; i < (size_t)n; i++)
    memcpy(to + i * d, rows + i * width + (size_t)part * d, d * sizeof *to);
}

/* Asks the gate about the masks that left view `view` of the pictures. */
static fvg_status ask_gate(study *x, const group *g, const tuned_model *tuned, const float *text,
                           const float *rows, int view, float *room, float *r) {
  const size_t d = (size_t)x->m->embed_dim;
  const size_t width = (size_t)fvg_learner_feature_width(x->m, tuned->l);
  const int n = g->masked.n;
  const float *other = rows + (size_t)view * (size_t)n * width;
  const size_t values = (size_t)n * d;
  fvg_fvgpt_batch batch;
  memset(&batch, 0, sizeof batch);
  batch.n = n;
  batch.n_class = g->task.n_class;
  batch.g = text;
  batch.area = g->area;
  take_part(rows, n, width, 0, d, room);
  take_part(other, n, width, 0, d, room + values);
  batch.f = room;
  batch.f_fg = room + values;
  const fvg_features row = fvg_learner_features(x->m, tuned->l, rows);
  if (row.f_score != row.f) {
    take_part(rows, n, width, 2, d, room + 2 * values);
    take_part(other, n, width, 2, d, room + 3 * values);
    batch.f_score = room + 2 * values;
    batch.f_score_fg = room + 3 * values;
  }
  return fvg_fvgpt_trust(tuned->f, r, &batch);
}

/* Inverted masks are wrong ones: their foreground is the background, whose features are known. */
fvg_status measure_trust(study *x, model *w, const group *g, const tuned_model *tuned,
                         fvg_classifier *tuned_k, const float *rows, int run) {
  fvg_ctx *c = x->m->ctx;
  const size_t d = (size_t)x->m->embed_dim;
  const int n = g->masked.n;
  float *r = FVG_NEW_ARRAY(c, float, 2 * (size_t)n);
  float *text = FVG_NEW_ARRAY(c, float, (size_t)g->task.n_class * d);
  float *room = FVG_NEW_ARRAY(c, float, 4 * (size_t)n * d);
  fvg_status s = r && text && room ? FVG_OK : FVG_E_NOMEM;
  if (!s) s = fvg_learner_text_features(tuned->l, text, g->task.class_name, g->task.n_class);
  if (!s) s = ask_gate(x, g, tuned, text, rows, 1, room, r);
  if (!s) s = measure_target(x, w, g, tuned_k, rows, r, run);
  if (!s) {
    invert_areas(g);
    s = ask_gate(x, g, tuned, text, rows, 2, room, r + n);
    invert_areas(g);
  }
  if (!s) {
    count_trust(w, r, n, 0, run);
    count_trust(w, r + n, n, 1, run);
    set_measure(&w->trust[TRUST_AUC], run, auc(r, n, r + n, n));
  }
  fvg_release(c, room);
  fvg_release(c, text);
  fvg_release(c, r);
  return s;
}
