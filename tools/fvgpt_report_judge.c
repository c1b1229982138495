/* Predictions and pictures; see fvgpt_report_judge.h. */
#include "fvgpt_report_judge.h"

#include <math.h>
#include <string.h>

#include "fvgpt_report_measure.h"

/* ---- predictions ---- */
static int best_of(const float *z, int n) {
  int best = 0;
  for (int i = 1; i < n; i++) {
    if (z[i] > z[best]) best = i;
  }
  return best;
}

/* The softmax of class i, in percent. */
static double percent(const float *z, int n, int i) {
  const int best = best_of(z, n);
  double sum = 0;
  for (int k = 0; k < n; k++) sum += exp((double)z[k] - (double)z[best]);
  return 100 * exp((double)z[i] - (double)z[best]) / sum;
}

long largest(const long *count, int n) {
  long most = 0;
  for (int i = 0; i < n; i++) {
    if (count[i] > most) most = count[i];
  }
  return most;
}

static fvg_status count_predictions(study *x, model *w, int at, const float *z, int run) {
  const fvg_task *task = &x->group[at].task;
  const int n_class = task->n_class;
  result *r = &w->on[at];
  if (!r->confusion) {
    r->confusion = FVG_NEW_ARRAY(x->m->ctx, long, (size_t)n_class * (size_t)n_class);
    if (!r->confusion) return FVG_E_NOMEM;
  }

  int n_right = 0;
  for (int i = 0; i < task->items.n; i++) {
    const int label = task->items.item[i].label;
    const int guess = best_of(z + (size_t)i * (size_t)n_class, n_class);
    r->confusion[(size_t)label * (size_t)n_class + (size_t)guess]++;
    n_right += guess == label;
  }
  set_measure(&r->accuracy, run, 100.0 * n_right / task->items.n);
  return FVG_OK;
}

static void count_b(model *w, int at, const float *b, int n, int run) {
  double mean = 0;
  for (int i = 0; i < n; i++) {
    mean += (double)b[i] / n;
    w->b_bin[at][b[i] < 1 ? (int)(b[i] * N_BIN) : N_BIN - 1]++;
  }
  set_measure(&w->b[at], run, mean);
}

/* ---- mistakes ---- */
/* A large picture is shown at half its size: the page stays small, and it reads as well. */
static fvg_status page_image(fvg_ctx *c, fvg_image *out, const fvg_image *in, fvg_filter filter) {
  const int by = in->width >= 128 ? 2 : 1;
  return fvg_image_resize(c, out, in, in->width / by, in->height / by, filter);
}

static fvg_status page_map(fvg_ctx *c, fvg_image *out, const fvg_image *view, const float *map) {
  fvg_image overlay;
  fvg_status s = fvg_image_overlay(c, &overlay, view, map);
  if (!s) s = page_image(c, out, &overlay, FVG_BICUBIC);
  fvg_image_free(c, &overlay);
  return s;
}

/* Keeps a mistake if it is among the worst: those of the greatest p_guess - p_label, in order. */
static void keep_worst(result *r, const mistake *one) {
  int at = r->n_worst;
  while (at && one->p_guess - one->p_label > r->worst[at - 1].p_guess - r->worst[at - 1].p_label)
    at--;
  if (at == MOST_MISTAKES) return;
  if (r->n_worst < MOST_MISTAKES) r->n_worst++;
  for (int i = r->n_worst - 1; i > at; i--) r->worst[i] = r->worst[i - 1];
  r->worst[at] = *one;
}

static void find_mistakes(result *r, const fvg_task *task, const float *logits) {
  const int n_class = task->n_class;
  for (int i = 0; i < task->items.n; i++) {
    const float *z = logits + (size_t)i * (size_t)n_class;
    mistake one;
    memset(&one, 0, sizeof one);
    one.path = task->items.item[i].path;
    one.label = task->items.item[i].label;
    one.guess = best_of(z, n_class);
    if (one.guess == one.label) continue;
    one.p_label = percent(z, n_class, one.label);
    one.p_guess = percent(z, n_class, one.guess);
    keep_worst(r, &one);
  }
}

static fvg_status draw_mistake(study *x, mistake *one, const panel *q) {
  fvg_ctx *c = x->m->ctx;
  const size_t size = (size_t)x->m->vision.image_size;
  float *chw = FVG_NEW_ARRAY(c, float, 4 * size * size);
  if (!chw) return FVG_E_NOMEM;
  float *map = chw + 3 * size * size;
  fvg_item item;
  memset(&item, 0, sizeof item);
  item.path = one->path;

  fvg_image view, mask;
  fvg_status s = load_pair(x, &item, &view, &mask, chw);
  if (!s) s = page_image(c, &one->picture, &view, FVG_BICUBIC);
  if (!s) s = make_map(q->k, map, chw, one->label, RELEVANCE);
  if (!s) s = page_map(c, &one->for_label, &view, map);
  if (!s) s = make_map(q->k, map, chw, one->guess, RELEVANCE);
  if (!s) s = page_map(c, &one->for_guess, &view, map);
  fvg_image_free(c, &view);
  fvg_image_free(c, &mask);
  fvg_release(c, chw);
  return s;
}

/* Features of a group's pictures by the model's tower; they belong to the group if that is plain
   CLIP's. */
static fvg_status encode_group(study *x, group *g, fvg_learner *l, float **f) {
  fvg_ctx *c = x->m->ctx;
  const size_t width = (size_t)fvg_learner_feature_width(x->m, l);
  const int is_plain = width == (size_t)x->m->embed_dim;
  *f = is_plain ? g->f : NULL;
  if (*f) return FVG_OK;
  *f = FVG_NEW_ARRAY(c, float, (size_t)g->task.items.n * width);
  if (is_plain) g->f = *f;
  return *f ? fvg_encode_task(x->m, l, *f, &g->task) : FVG_E_NOMEM;
}

fvg_status judge_group(study *x, model *w, int at, const panel *q, int run) {
  fvg_ctx *c = x->m->ctx;
  group *g = &x->group[at];
  const int n = g->task.items.n;
  float *f = NULL;
  fvg_status s = encode_group(x, g, q->tuned->l, &f);
  float *z = FVG_NEW_ARRAY(c, float, (size_t)n * (size_t)g->task.n_class + (size_t)n);
  if (!s && !z) s = FVG_E_NOMEM;
  float *b = z ? z + (size_t)n * (size_t)g->task.n_class : NULL;

  if (!s && q->gate) s = fvg_classifier_logits(q->gate, z, b, f, n);
  if (!s && q->gate) count_b(w, at, b, n, run);
  if (!s) s = fvg_classifier_logits(q->k, z, NULL, f, n);
  if (!s) s = count_predictions(x, w, at, z, run);
  if (!s && run == 0) {
    result *r = &w->on[at];
    find_mistakes(r, &g->task, z);
    for (int i = 0; !s && i < r->n_worst; i++) s = draw_mistake(x, &r->worst[i], q);
  }
  if (f != g->f) fvg_release(c, f);
  fvg_release(c, z);
  return s ? s : advance(x);
}

/* ---- pictures that are shown ---- */
/* The class's first test picture with a mask, else its first; NULL: it has none. */
static const fvg_item *first_of_class(const group *g, int label) {
  for (int i = 0; i < g->masked.n; i++) {
    if (g->masked.item[i].label == label) return &g->masked.item[i];
  }
  for (int i = 0; i < g->task.items.n; i++) {
    if (g->task.items.item[i].label == label) return &g->task.items.item[i];
  }
  return NULL;
}

/* Adds pictures of n evenly spaced classes of a group. */
static void choose_of_group(study *x, int at, int n) {
  const group *g = &x->group[at];
  const int n_class = g->task.n_class;
  if (n > n_class) n = n_class;
  for (int i = 0; i < n; i++) {
    const fvg_item *item = first_of_class(g, (int)((double)i * n_class / n));
    if (!item) continue;
    shown *p = &x->shown[x->n_shown++];
    p->item = item;
    p->group = at;
  }
}

fvg_status choose_shown(study *x, int n) {
  x->shown = FVG_NEW_ARRAY(x->m->ctx, shown, (size_t)n + 2);
  if (!x->shown) return FVG_E_NOMEM;
  choose_of_group(x, 0, n);
  if (x->n_group > 1) choose_of_group(x, 1, 2);
  return FVG_OK;
}

/* How far FVG-PT trusts the picture's mask; row: the picture's features, and behind them those of
   its foreground. */
static fvg_status ask_trust(const study *x, look *by, const panel *q, const group *g,
                            const float *row, size_t width, float area) {
  const size_t d = (size_t)x->m->embed_dim;
  float *text = FVG_NEW_ARRAY(x->m->ctx, float, (size_t)g->task.n_class * d);
  if (!text) return FVG_E_NOMEM;
  fvg_status s = fvg_learner_text_features(q->tuned->l, text, g->task.class_name,
                                           g->task.n_class);
  const fvg_features whole = fvg_learner_features(x->m, q->tuned->l, row);
  const fvg_features fg = fvg_learner_features(x->m, q->tuned->l, row + width);
  fvg_fvgpt_batch batch;
  memset(&batch, 0, sizeof batch);
  batch.n = 1;
  batch.n_class = g->task.n_class;
  batch.f = whole.f;
  batch.f_fg = fg.f;
  if (whole.f_score != whole.f) {
    batch.f_score = whole.f_score;
    batch.f_score_fg = fg.f_score;
  }
  batch.g = text;
  batch.area = &area;
  float r;
  if (!s) s = fvg_fvgpt_trust(q->tuned->f, &r, &batch);
  if (!s) by->r = (double)r;
  fvg_release(x->m->ctx, text);
  return s;
}

/* What the model takes the picture for, and its gates; chw [6, size, size]: the picture, and room
   for its foreground. */
static fvg_status ask(const study *x, shown *p, look *by, const panel *q, float *chw,
                      const fvg_image *mask) {
  fvg_ctx *c = x->m->ctx;
  const group *g = &x->group[p->group];
  const size_t size = (size_t)x->m->vision.image_size;
  const size_t width = (size_t)fvg_learner_feature_width(x->m, q->tuned->l);
  float *row = FVG_NEW_ARRAY(c, float, 2 * width);
  float *z = FVG_NEW_ARRAY(c, float, (size_t)g->task.n_class);
  fvg_status s = row && z ? FVG_OK : FVG_E_NOMEM;

  float area = -1;
  if (!s && p->has_mask) {
    const fvg_preprocess *black = q->fill_black ? &x->m->preprocess : NULL;
    area = fvg_foreground_view(chw + 3 * size * size, chw, mask, black);
  }
  if (!s) s = fvg_learner_encode_images(x->m, q->tuned->l, row, chw, p->has_mask ? 2 : 1);
  float b = -1;
  if (!s && q->gate) s = fvg_classifier_logits(q->gate, z, &b, row, 1);
  if (!s) s = fvg_classifier_logits(q->k, z, NULL, row, 1);
  if (!s) {
    const int guess = best_of(z, g->task.n_class);
    by->guess = g->task.class_name[guess];
    by->right = guess == p->item->label;
    by->b = (double)b;
    by->r = -1;
    if (q->tuned_k && p->has_mask) s = ask_trust(x, by, q, g, row, width, area);
  }
  fvg_release(c, row);
  fvg_release(c, z);
  return s;
}

static fvg_status draw_maps(const study *x, const shown *p, look *by, const panel *q,
                            const float *chw, const fvg_image *view, const fvg_image *mask,
                            float *map) {
  fvg_status s = FVG_OK;
  for (int kind = 0; !s && kind < N_MAP; kind++) {
    if (kind == ATTENTION && !by->has_attention) continue;
    s = make_map(q->k, map, chw, p->item->label, kind);
    if (!s) measure_map(map, mask, by->measure[kind]);
    if (!s) s = page_map(x->m->ctx, &by->overlay[kind], view, map);
  }
  return s;
}

static fvg_status look_at(study *x, int number, shown *p, const panel *q) {
  fvg_ctx *c = x->m->ctx;
  const size_t size = (size_t)x->m->vision.image_size;
  float *chw = FVG_NEW_ARRAY(c, float, 7 * size * size);       /* two views and a map            */
  if (!chw) return FVG_E_NOMEM;
  fvg_image view, mask;
  look *by = &p->by[number];
  fvg_status s = load_pair(x, p->item, &view, &mask, chw);

  if (!s) {
    p->has_mask = mask.pixels != NULL;
    by->has_attention = number == 0 || x->model[number].prompts_image;
  }
  if (!s && number == 0) s = page_image(c, &p->picture, &view, FVG_BICUBIC);
  if (!s && number == 0 && p->has_mask) s = page_image(c, &p->mask, &mask, FVG_NEAREST);
  if (!s) s = draw_maps(x, p, by, q, chw, &view, &mask, chw + 6 * size * size);
  if (!s) s = ask(x, p, by, q, chw, &mask);
  fvg_image_free(c, &view);
  fvg_image_free(c, &mask);
  fvg_release(c, chw);
  return s;
}

fvg_status look_at_shown(study *x, int number, int at, const panel *q) {
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < x->n_shown; i++) {
    if (x->shown[i].group == at) s = look_at(x, number, &x->shown[i], q);
  }
  return s;
}
