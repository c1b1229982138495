/* Studies of runs; see fvgpt_report_study.h. */
#include "fvgpt_report_study.h"

#include <stdio.h>
#include <string.h>

#include "fvgpt_checks.h"
#include "fvgpt_learners.h"
#include "fvgpt_report_measure.h"
#include "fvgpt_report_runs.h"
#include "fvgpt_tune_marks.h"

const char *const method_name[N_METHOD] = {"zero_shot", "CoOp", "FVGPT_CoOp"};
const char *const score_key[N_SCORE] = {"base", "base_std", "new", "new_std", "H", "H_std"};

/* ---- the classifiers that a picture of one half meets ---- */
typedef struct panel {
  fvg_classifier *k[N_METHOD];
  fvg_classifier *gate;              /* the one that tells b                                     */
  const char *const *name;
  int n_class;
  fvg_fvgpt *f;
  float *g;                          /* [n_class, embed_dim] tuned text features                 */
} panel;

static void panel_free(fvg_ctx *c, panel *q) {
  if (q->gate != q->k[FVGPT_COOP]) fvg_classifier_free(q->gate);
  for (int i = 0; i < N_METHOD; i++) fvg_classifier_free(q->k[i]);
  fvg_release(c, q->g);
  memset(q, 0, sizeof *q);
}

/* Only FVG-PT's branch for new classes has a b, so base classes need one more classifier. */
static fvg_status panel_new(study *x, panel *q, fvg_group half, const tuned_model *tuned,
                            const char *prompt_template) {
  const int is_base = half == FVG_BASE;
  const fvg_branch branch[N_METHOD] = {FVG_ZERO_SHOT, FVG_TUNED,
                                       is_base ? FVG_BRANCH_BASE : FVG_BRANCH_NEW};
  memset(q, 0, sizeof *q);
  int first;
  q->n_class = fvg_group_classes(x->d.n_class, half, &first);
  q->name = (const char *const *)x->d.class_name + first;
  q->f = tuned->f;
  q->g = FVG_NEW_ARRAY(x->m->ctx, float, (size_t)q->n_class * (size_t)x->m->embed_dim);
  if (!q->g) return FVG_E_NOMEM;

  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < N_METHOD; i++) {
    s = classifier_of(x->m, &q->k[i], branch[i], tuned->l, tuned->f, prompt_template, q->name,
                      q->n_class);
  }
  q->gate = q->k[FVGPT_COOP];
  if (!s && is_base) {
    s = classifier_of(x->m, &q->gate, FVG_BRANCH_NEW, tuned->l, tuned->f, prompt_template, q->name,
                      q->n_class);
  }
  if (!s) s = fvg_learner_text_features(tuned->l, q->g, q->name, q->n_class);
  return s;
}

/* ---- the pictures that are shown ---- */
/* A large picture is shown at half its size: the page stays small, and it reads as well. */
static fvg_status page_image(fvg_ctx *c, fvg_image *out, const fvg_image *in, fvg_filter filter) {
  const int by = in->width >= 128 ? 2 : 1;
  return fvg_image_resize(c, out, in, in->width / by, in->height / by, filter);
}

/* What each method takes the picture for; feature [embed_dim]. */
static fvg_status guess(shown *p, const panel *q, const float *feature, int label, float *logits) {
  for (int method = 0; method < N_METHOD; method++) {
    fvg_status s = fvg_classifier_logits(q->k[method], logits, NULL, feature, 1);
    if (s) return s;
    int best = 0;
    for (int i = 1; i < q->n_class; i++) {
      if (logits[i] > logits[best]) best = i;
    }
    p->guess[method] = q->name[best];
    p->right[method] = best == label;
  }
  float b;
  fvg_status s = fvg_classifier_logits(q->gate, logits, &b, feature, 1);
  if (!s) p->b = (double)b;
  return s;
}

/* How far FVG-PT trusts the mask; feature [2, embed_dim]: of the picture and of its foreground. */
static fvg_status ask_trust(const study *x, shown *p, const panel *q, const float *feature,
                            float area) {
  fvg_fvgpt_batch batch;
  memset(&batch, 0, sizeof batch);
  batch.n = 1;
  batch.n_class = q->n_class;
  batch.f = feature;
  batch.f_fg = feature + x->m->embed_dim;
  batch.g = q->g;
  batch.area = &area;
  float r;
  fvg_status s = fvg_fvgpt_trust(q->f, &r, &batch);
  if (!s) p->r = (double)r;
  return s;
}

/* What the methods and the gates say to the picture; chw [6, size, size]: it, and room for its
   foreground view. */
static fvg_status judge(study *x, shown *p, const panel *q, int label, float *chw,
                        const fvg_image *mask) {
  fvg_ctx *c = x->m->ctx;
  const size_t size = (size_t)x->m->vision.image_size;
  const int n_view = p->has_mask ? 2 : 1;
  float *logits = FVG_NEW_ARRAY(c, float, (size_t)q->n_class);
  float *feature = FVG_NEW_ARRAY(c, float, 2 * (size_t)x->m->embed_dim);
  fvg_status s = logits && feature ? FVG_OK : FVG_E_NOMEM;

  float area = -1;
  if (!s && p->has_mask) {
    const fvg_preprocess *black = x->fill_black ? &x->m->preprocess : NULL;
    area = fvg_foreground_view(chw + 3 * size * size, chw, mask, black);
  }
  if (!s) s = fvg_clip_encode_images(x->m, feature, chw, n_view);
  if (!s) fvg_normalize_rows(feature, n_view, x->m->embed_dim);
  if (!s) s = guess(p, q, feature, label, logits);
  if (!s && p->has_mask && !p->is_new) s = ask_trust(x, p, q, feature, area);
  fvg_release(c, feature);
  fvg_release(c, logits);
  return s;
}

/* All maps of a view, drawn over it; map [size, size]: room for their values. */
static fvg_status draw_maps(study *x, shown *p, const panel *q, int label, const float *chw,
                            const fvg_image *view, const fvg_image *mask, float *map) {
  fvg_ctx *c = x->m->ctx;
  for (int i = 0; i < N_MAP; i++) {
    const int is_method = i < N_METHOD;
    fvg_classifier *k = q->k[is_method ? i : 0];
    const fvg_map_kind kind = is_method ? FVG_GRAD_CAM : FVG_CLS_ATTENTION;
    fvg_status s = map_share(k, chw, label, kind, mask, map, &p->share[i]);
    if (s) return s;
    fvg_image overlay;
    s = fvg_image_overlay(c, &overlay, view, map);
    if (!s) s = page_image(c, &p->overlay[i], &overlay, FVG_BICUBIC);
    fvg_image_free(c, &overlay);
    if (s) return s;
  }
  return FVG_OK;
}

/* Fills p; label: that of the item within the panel's classes. */
static fvg_status show(study *x, shown *p, const panel *q, const fvg_item *item, int label) {
  fvg_ctx *c = x->m->ctx;
  const size_t size = (size_t)x->m->vision.image_size;
  float *chw = FVG_NEW_ARRAY(c, float, 7 * size * size);       /* two views and a map            */
  if (!chw) return FVG_E_NOMEM;
  fvg_image view, mask;
  fvg_status s = load_pair(x, item, &view, &mask, chw);
  if (s) {
    fvg_release(c, chw);
    return s;
  }

  p->path = item->path;
  p->truth = x->d.class_name[item->label];
  p->has_mask = mask.pixels != NULL;
  p->r = -1;
  s = page_image(c, &p->picture, &view, FVG_BICUBIC);
  if (!s && p->has_mask) s = page_image(c, &p->mask, &mask, FVG_NEAREST);
  if (!s) s = draw_maps(x, p, q, label, chw, &view, &mask, chw + 6 * size * size);
  if (!s) s = judge(x, p, q, label, chw, &mask);
  fvg_image_free(c, &view);
  fvg_image_free(c, &mask);
  fvg_release(c, chw);
  return s ? s : advance(x);
}

/* The class's first test picture with a mask, else its first; NULL: it has none. */
static fvg_status first_of_class(const study *x, int label, const fvg_item **out) {
  *out = NULL;
  for (int i = 0; i < x->d.test.n; i++) {
    const fvg_item *item = &x->d.test.item[i];
    if (item->label != label) continue;
    char *path = NULL;
    fvg_status s = fvg_dataset_mask_path(&x->d, &path, item->path);
    if (s) return s;
    const int has_mask = path != NULL;
    fvg_release(x->m->ctx, path);
    if (has_mask || !*out) *out = item;
    if (has_mask) return FVG_OK;
  }
  return FVG_OK;
}

/* Shows pictures of n evenly spaced classes of one half. */
static fvg_status show_half(study *x, fvg_group half, int n, const tuned_model *tuned,
                            const char *prompt_template) {
  int first;
  const int n_class = fvg_group_classes(x->d.n_class, half, &first);
  if (n > n_class) n = n_class;
  panel q;
  fvg_status s = panel_new(x, &q, half, tuned, prompt_template);
  for (int i = 0; !s && i < n; i++) {
    const int label = (int)((double)i * n_class / n);
    const fvg_item *item;
    s = first_of_class(x, first + label, &item);
    if (s || !item) continue;
    shown *p = &x->shown[x->n_shown++];
    p->is_new = half == FVG_NEW;
    s = show(x, p, &q, item, label);
  }
  panel_free(x->m->ctx, &q);
  return s;
}

/* ---- a seed ---- */
static int has_base_classes(const study *x, const fvg_learner *l) {
  int n;
  const char *const *name = fvg_learner_class_names(l, &n);
  if (n != x->n_base) return 0;
  for (int i = 0; i < n; i++) {
    if (!fvg_same_name(x->m->ctx, name[i], x->d.class_name[i])) return 0;
  }
  return 1;
}

/* Was it made with CoOp and FVG-PT, on this model and these classes? */
static fvg_status check_checkpoint(const study *x, const tuned_model *tuned) {
  fvg_ctx *c = x->m->ctx;
  const char *file = fvg_weights_file(tuned->settings);
  const char *method = fvg_learner_method(tuned->l);
  if (strcmp(method, "CoOp"))
    return fvg_fail(c, FVG_E_ARG, "%s: tuned with %s, the report compares CoOp", file, method);
  if (!tuned->f) {
    return fvg_fail(c, FVG_E_ARG, "%s: no FVG-PT part; tune with --trainer FVGPT_CoOp", file);
  }
  if (!has_base_classes(x, tuned->l)) {
    return fvg_fail(c, FVG_E_ARG,
                    "%s: tuned on other classes than the base classes of %s; give --data and "
                    "--runs in the same order",
                    file, x->d.root);
  }

  const char *model = fvg_weights_metadata(tuned->settings, "model");
  fvg_settings mine;
  mine.n = 0;
  set_model(&mine, x->m);
  if (model && strcmp(model, mine.text[0])) {
    return fvg_fail(c, FVG_E_ARG, "%s: tuned on another model; name that one with --model", file);
  }
  return FVG_OK;
}

/* What is the same for all seeds: plain CLIP's maps, and the pictures that are shown. */
static fvg_status measure_first(study *x, const report_options *o, const panel *q,
                                const tuned_model *tuned, const char *prompt_template) {
  fvg_status s = measure_and_encode(x, q->k[ZERO_SHOT], &x->share[ZERO_SHOT].seed[0],
                                    &x->share[ATTENTION].seed[0]);
  if (!s) s = show_half(x, FVG_BASE, o->pictures, tuned, prompt_template);
  if (!s) s = show_half(x, FVG_NEW, 2, tuned, prompt_template);
  return s;
}

static fvg_status measure_panel(study *x, const panel *q, int run) {
  fvg_status s = measure_two_maps(x, q->k[COOP], q->k[FVGPT_COOP], &x->share[COOP].seed[run],
                                  &x->share[FVGPT_COOP].seed[run]);
  for (int i = 0; !s && i < N_METHOD; i++)
    s = measure_shift(x, q->k[i], q->n_class, &x->shift[i].seed[run]);
  return s ? s : measure_trust(x, q->f, q->g, q->n_class, run);
}

/* Measures one seed's checkpoint; the first one also measures what the seeds share. */
static fvg_status study_seed(study *x, const report_options *o, int run) {
  char folder[1100];
  snprintf(folder, sizeof folder, "%s/FVGPT_CoOp/seed%d", x->runs, x->seed[run]);
  tuned_model tuned = {NULL, NULL, NULL};
  panel q;
  memset(&q, 0, sizeof q);
  fvg_status s = open_tuned(x->m, folder, &tuned);
  if (!s) s = check_checkpoint(x, &tuned);

  if (!s) {
    const char *fill = fvg_weights_metadata(tuned.settings, "fill");
    const char *prompt_template = template_of(o->prompt_template, tuned.settings);
    x->fill_black = fill && !strcmp(fill, "black");
    s = panel_new(x, &q, FVG_BASE, &tuned, prompt_template);
    if (!s && run == 0) s = measure_first(x, o, &q, &tuned, prompt_template);
  }
  x->share[ZERO_SHOT].seed[run] = x->share[ZERO_SHOT].seed[0];
  x->share[ATTENTION].seed[run] = x->share[ATTENTION].seed[0];
  if (!s) s = measure_panel(x, &q, run);
  panel_free(x->m->ctx, &q);
  tuned_model_free(&tuned);
  return s;
}

/* ---- a study ---- */
static void average(measure *m, int n_measure, int n_seed) {
  for (int i = 0; i < n_measure; i++) {
    for (int run = 0; run < n_seed; run++) m[i].mean += m[i].seed[run] / n_seed;
  }
}

static void name_study(study *x) {
  const char *root = x->d.root;
  const char *end = root + strlen(root);
  while (end > root + 1 && end[-1] == '/') end--;
  const char *start = end;
  while (start > root && start[-1] != '/') start--;
  snprintf(x->name, sizeof x->name, "%.*s", (int)(end - start), start);
}

fvg_status study_open(study *x, fvg_clip *m, const report_options *o, int i) {
  x->m = m;
  x->runs = o->runs.item[i];
  fvg_status s = read_runs(x);
  if (!s) s = open_data(m->ctx, &o->data, o->data.data.item[i], &x->d);
  if (!s) s = fvg_dataset_check(&x->d, FVG_CHECK_TEST | FVG_CHECK_MASKS, o->data.skip_bad);
  return s;
}

/* The memory of features and pictures. */
static fvg_status make_room(study *x, int n_shown) {
  fvg_ctx *c = x->m->ctx;
  const size_t n = (size_t)x->items.n;
  const size_t values = n * (size_t)x->m->embed_dim;
  x->f = FVG_NEW_ARRAY(c, float, 3 * values + n);
  x->shown = FVG_NEW_ARRAY(c, shown, (size_t)n_shown);
  if (!x->f || !x->shown) return FVG_E_NOMEM;
  x->f_fg = x->f + values;
  x->f_bg = x->f_fg + values;
  x->area = x->f_bg + values;
  return FVG_OK;
}

/* Both halves of the pictures that are shown count as steps. */
static void begin_progress(study *x, int n_base_shown) {
  const int n_base = n_base_shown < x->n_base ? n_base_shown : x->n_base;
  const int n_new = x->n_new < 2 ? x->n_new : 2;
  x->progress.what = "report";
  x->progress.n_steps = (long)x->items.n * (x->n_seed + 1) + n_base + n_new;
}

static int largest_bin(const study *x) {
  int most = 0;
  for (int i = 0; i < 2 * N_BIN; i++) {
    const int count = x->bin[i / N_BIN][i % N_BIN];
    if (count > most) most = count;
  }
  return most;
}

fvg_status study_measure(study *x, const report_options *o) {
  int first;
  name_study(x);
  x->n_base = fvg_group_classes(x->d.n_class, FVG_BASE, &first);
  x->n_new = x->d.n_class - x->n_base;
  fvg_status s = choose_items(x);
  if (!s) s = fvg_dataset_survey_masks(&x->d, &x->items);
  if (!s) s = make_room(x, o->pictures + 2);
  if (s) return s;

  begin_progress(x, o->pictures);
  for (int run = 0; !s && run < x->n_seed; run++) s = study_seed(x, o, run);
  for (int method = COOP; !s && method < N_METHOD; method++) s = average_curves(x, method);
  average(x->share, N_MAP, x->n_seed);
  average(x->shift, N_METHOD, x->n_seed);
  average(x->trust, N_TRUST, x->n_seed);
  choose_ticks(&x->count_ticks, largest_bin(x), 1);
  return s;
}

void study_free(fvg_ctx *c, study *x) {
  for (int i = 0; i < N_METHOD; i++) {
    for (int run = 0; run < x->n_seed; run++) fvg_release(c, x->loss[i][run].loss);
    fvg_release(c, x->mean_loss[i].loss);
  }
  for (int i = 0; i < x->n_shown; i++) {
    shown *p = &x->shown[i];
    fvg_image_free(c, &p->picture);
    fvg_image_free(c, &p->mask);
    for (int k = 0; k < N_MAP; k++) fvg_image_free(c, &p->overlay[k]);
  }
  fvg_release(c, x->shown);
  fvg_release(c, x->f);
  fvg_items_free(c, &x->items);
  fvg_dataset_free(&x->d);
}
