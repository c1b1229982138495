/* fvgpt report - one page on finished runs of `tune`: tables, curves, and where the tuned classifiers look.
   Part of fvgpt.c, whose helpers it uses.  For each data set everything is measured into a `study` here, and printed
   from it by report_page.h. */

/* The methods that the report shows. */
enum { ZERO_SHOT, COOP, FVGPT_COOP, N_METHOD };
static const char *const method_name[N_METHOD] = {"zero_shot", "CoOp", "FVGPT_CoOp"};
enum { ATTENTION = N_METHOD, N_MAP };               /* maps: one of each method, then the attention        */
enum { N_BIN = 10, MOST_MEASURED = 200, MOST_TICKS = 12 };
enum { TRUST_GOOD, TRUST_BAD, TRUST_AUC, N_TRUST };
static const double report_tau = 2;                 /* of the foreground-shift index, as in FVG-PT                  */
static const char *const score_key[6] = {"base", "base_std", "new", "new_std", "H", "H_std"};

typedef struct measure { double seed[MAX_SEEDS], mean; } measure;
typedef struct ticks { double at[MOST_TICKS]; int n; } ticks;
typedef struct curve { double *loss; int n; } curve;

typedef struct shown {                              /* one picture of "Where does it look?"                         */
  const char *path, *truth, *guess[N_METHOD];
  int is_new, right[N_METHOD], has_mask;
  double share[N_MAP], r, b;
  fvg_image picture, mask, overlay[N_MAP];
} shown;

typedef struct study {                              /* one data set and its runs                                    */
  fvg_clip *m;
  const char *runs;
  char name[256];                                   /* the last part of the data set's path                         */
  fvg_dataset d;
  int n_base, n_new, shots, seed[MAX_SEEDS], n_seed, fill_black;
  double score[N_METHOD][6];                        /* as score_key; H_std -1: results of an older tune    */
  curve loss[N_METHOD][MAX_SEEDS], mean_loss[N_METHOD];
  ticks epoch_ticks[N_METHOD], loss_ticks[N_METHOD], count_ticks;
  fvg_items items;                                  /* base-class test pictures that are measured                   */
  float *f, *f_fg, *f_bg, *area;                    /* their features: whole, foreground, background                */
  double mean_area;
  measure share[N_MAP], shift[N_METHOD], trust[N_TRUST];
  int bin[2][N_BIN];                                /* r of good and bad masks, all seeds                           */
  shown *shown;
  int n_shown;
  fvg_progress progress;
} study;

/* ---- what tune left ---- */
static int json_number(const fvg_json *j, int object, const char *key, double *out) {
  int at = fvg_json_find(j, object, key);
  if (at < 0 || j->value[at].type != FVG_JSON_NUMBER) return 0;
  *out = j->value[at].number;
  return 1;
}

static int json_method(const fvg_json *j, int object) {
  int at = fvg_json_find(j, object, "method"), method = at < 0 ? -1 : N_METHOD - 1;
  while (method >= 0 && strcmp(j->value[at].string, method_name[method])) method--;
  return method;
}

static fvg_status load_json(fvg_ctx *c, fvg_json *j, const char *path) {
  fvg_source source;
  uint8_t *bytes = NULL;
  size_t n;
  fvg_status s = fvg_source_file(c, &source, path);
  memset(j, 0, sizeof *j);
  if (s) return s;
  s = fvg_source_read_all(c, &bytes, &n, &source);
  if (!s) s = fvg_json_parse(c, j, (const char *)bytes, n, path);
  fvg_bytes_free(c, bytes);
  fvg_source_close(&source);
  return s;
}

static fvg_status read_curves(study *x, const fvg_json *j) {
  int list = fvg_json_find(j, 0, "curves"), at, run, k;
  for (at = list < 0 ? -1 : j->value[list].first; at >= 0; at = j->value[at].next) {
    int method = json_method(j, at), loss = fvg_json_find(j, at, "loss");
    double seed = -1;
    curve *to;
    json_number(j, at, "seed", &seed);
    for (run = 0; run < x->n_seed && x->seed[run] != seed; run++) {}
    if (method < COOP || loss < 0 || run == x->n_seed || x->loss[method][run].loss) continue;
    to = &x->loss[method][run];
    to->loss = (double *)fvg_alloc_array(x->m->ctx, (size_t)j->value[loss].n_child + 1, sizeof *to->loss);
    if (!to->loss) return FVG_E_NOMEM;
    for (k = j->value[loss].first; k >= 0; k = j->value[k].next) to->loss[to->n++] = j->value[k].number;
  }
  return FVG_OK;
}

/* Returns the name of what is missing or not a number, NULL when all is there. */
static const char *read_scores(study *x, const fvg_json *j) {
  int seeds = fvg_json_find(j, 0, "seeds"), list = fvg_json_find(j, 0, "mean"), at, k, seen = 0;
  double shots;
  if (!json_number(j, 0, "shots", &shots) || !(shots >= 1 && shots <= 100000)) return "shots";
  x->shots = (int)shots;
  for (at = seeds < 0 ? -1 : j->value[seeds].first; at >= 0; at = j->value[at].next) {
    double seed = j->value[at].number;
    if (x->n_seed == MAX_SEEDS || j->value[at].type != FVG_JSON_NUMBER || !(seed >= 0 && seed <= 2147483647))
      return "seeds";
    x->seed[x->n_seed++] = (int)seed;
  }
  if (!x->n_seed) return "seeds";
  for (at = list < 0 ? -1 : j->value[list].first; at >= 0; at = j->value[at].next) {
    int method = json_method(j, at);
    if (method < 0) continue;
    for (k = 0; k < 6; k++)
      if (!json_number(j, at, score_key[k], &x->score[method][k])) {
        if (k < 5) return score_key[k];
        x->score[method][k] = -1;
      }
    seen |= 1 << method;
  }
  return seen == 7 ? NULL : "mean of zero_shot, CoOp and FVGPT_CoOp";
}

static fvg_status read_runs(study *x) {
  fvg_ctx *c = x->m->ctx;
  const char *missing;
  char path[1200];
  fvg_json j;
  fvg_status s;
  snprintf(path, sizeof path, "%s/results.json", x->runs);
  if (!fvg_file_exists(path))
    return fvg_fail(c, FVG_E_IO, "%s: no such file; --runs takes the --out folder of a finished tune --trainer "
                    "FVGPT_CoOp", path);
  s = load_json(c, &j, path);
  if (!s && (missing = read_scores(x, &j)) != NULL)
    s = fvg_fail(c, FVG_E_FORMAT, "%s: no %s; run tune --trainer FVGPT_CoOp --out %s again", path, missing, x->runs);
  if (!s) s = read_curves(x, &j);
  fvg_json_free(c, &j);
  return s;
}

/* Round steps from 0 until `most` is covered, four or so. */
static void choose_ticks(ticks *t, double most, double least_step) {
  static const double factor[] = {1, 2, 5, 10};
  double power = 1, step;
  int i = 0;
  if (!(most > 1e-300)) most = 1;
  while (power > most / 4) power /= 10;
  while (power * 10 <= most / 4) power *= 10;
  while (i < 3 && power * factor[i] < most / 4) i++;
  step = power * factor[i] < least_step ? least_step : power * factor[i];
  t->n = 0;
  do t->at[t->n] = t->n * step; while (t->at[t->n++] < most * 0.9999 && t->n < MOST_TICKS);
}

/* Epochs count from 1, and none comes after the last. */
static void choose_epochs(ticks *t, int n_epoch) {
  choose_ticks(t, n_epoch, 1);
  if (t->at[t->n - 1] > n_epoch) t->n--;
  t->at[0] = 1;
  if (t->n > 1 && t->at[1] <= 1) memmove(t->at, t->at + 1, (size_t)--t->n * sizeof *t->at);
}

/* Mean over the seeds, and the chart's ticks. */
static fvg_status average_curves(study *x, int method) {
  curve *mean = &x->mean_loss[method];
  double top = 0;
  int run, k;
  for (run = 0; run < x->n_seed; run++) if (x->loss[method][run].n > mean->n) mean->n = x->loss[method][run].n;
  mean->loss = (double *)fvg_alloc_array(x->m->ctx, (size_t)mean->n + 1, sizeof *mean->loss);
  if (!mean->loss) return FVG_E_NOMEM;
  for (k = 0; k < mean->n; k++) {
    int n = 0;
    for (run = 0; run < x->n_seed; run++)
      if (k < x->loss[method][run].n) {
        mean->loss[k] += x->loss[method][run].loss[k];
        top = x->loss[method][run].loss[k] > top ? x->loss[method][run].loss[k] : top;
        n++;
      }
    mean->loss[k] /= n;
  }
  choose_ticks(&x->loss_ticks[method], top, 0);
  choose_epochs(&x->epoch_ticks[method], mean->n);
  return FVG_OK;
}

/* ---- what is measured here ---- */
static fvg_status advance(study *x) {
  x->progress.step++;
  return fvg_report_progress(x->m->ctx, &x->progress);
}

/* The test transform of a picture and of its mask (no pixels: it has none), and the picture's numbers. */
static fvg_status load_pair(const study *x, const fvg_item *item, fvg_image *view, fvg_image *mask, float *chw) {
  fvg_ctx *c = x->m->ctx;
  fvg_image whole, whole_mask;
  const fvg_preprocess *p = &x->m->preprocess;
  fvg_preprocess for_mask = *p;
  fvg_status s = fvg_dataset_load(&x->d, &whole, &whole_mask, item, 0.5f);
  memset(view, 0, sizeof *view);
  memset(mask, 0, sizeof *mask);
  if (s) return s;
  for_mask.filter = FVG_NEAREST;
  s = fvg_image_test_transform(c, view, &whole, p);
  if (!s && whole_mask.pixels) s = fvg_image_test_transform(c, mask, &whole_mask, &for_mask);
  if (!s) s = fvg_image_normalize(c, chw, view, p);
  fvg_image_free(c, &whole);
  fvg_image_free(c, &whole_mask);
  if (s) { fvg_image_free(c, view); fvg_image_free(c, mask); }
  return s;
}

/* Base-class test pictures that have a mask, at most MOST_MEASURED of them, evenly spaced. */
static fvg_status choose_items(study *x) {
  fvg_ctx *c = x->m->ctx;
  fvg_items base;
  int i, n = 0, kept;
  fvg_status s = fvg_items_group(c, &base, &x->d.test, x->d.n_class, FVG_BASE);
  if (s) return s;
  x->items.item = (fvg_item *)fvg_alloc_array(c, (size_t)base.n + 1, sizeof *x->items.item);
  if (!x->items.item) s = FVG_E_NOMEM;
  for (i = 0; !s && i < base.n; i++) {
    char *path;
    s = fvg_dataset_mask_path(&x->d, &path, base.item[i].path);
    if (!s && path) x->items.item[n++] = base.item[i];
    if (!s) fvg_release(c, path);
  }
  fvg_items_free(c, &base);
  if (!s && !n)
    s = fvg_fail(c, FVG_E_IO, "%s/mask: no mask for any base-class test picture; report measures what lies inside",
                 x->d.root);
  kept = n < MOST_MEASURED ? n : MOST_MEASURED;
  for (i = 0; !s && i < kept; i++) x->items.item[i] = x->items.item[(int)((double)i * n / kept)];
  x->items.n = kept;
  return s;
}

static fvg_status map_share(fvg_classifier *k, const float *chw, int label, fvg_map_kind kind, const fvg_image *mask,
                            float *map, double *share) {
  fvg_status s = fvg_attention_map(k, map, chw, label, kind);
  if (!s) *share = 100 * fvg_foreground_share(map, mask);
  return s;
}

/* Features of picture i, of its foreground and of its background; the mask comes back inverted. */
static fvg_status encode_three(study *x, int i, float *chw, fvg_image *mask) {
  size_t d = (size_t)x->m->embed_dim, size = (size_t)x->m->vision.image_size, one = 3 * size * size, at;
  float *f[3], *three = (float *)fvg_alloc_array(x->m->ctx, 3 * d, sizeof *three);
  fvg_status s;
  int k;
  if (!three) return FVG_E_NOMEM;
  f[0] = x->f;
  f[1] = x->f_fg;
  f[2] = x->f_bg;
  x->area[i] = fvg_foreground_view(chw + one, chw, mask, x->fill_black ? &x->m->preprocess : NULL);
  for (at = 0; at < size * size; at++) mask->pixels[at] = (uint8_t)~mask->pixels[at];
  fvg_foreground_view(chw + 2 * one, chw, mask, x->fill_black ? &x->m->preprocess : NULL);
  s = fvg_clip_encode_images(x->m, three, chw, 3);
  fvg_normalize_rows(three, 3, x->m->embed_dim);
  for (k = 0; k < 3; k++) memcpy(f[k] + (size_t)i * d, three + (size_t)k * d, d * sizeof *three);
  fvg_release(x->m->ctx, three);
  return s;
}

/* Shares of one or two Grad-CAMs (b NULL: of the Grad-CAM of a and of the attention) of all measured pictures; with
   `encode`, their features too. */
static fvg_status measure_maps(study *x, fvg_classifier *a, fvg_classifier *b, double *share_a, double *share_b,
                               int encode) {
  fvg_ctx *c = x->m->ctx;
  size_t size = (size_t)x->m->vision.image_size;
  float *chw = (float *)fvg_alloc_array(c, 10 * size * size, sizeof *chw);         /* three views and a map        */
  fvg_status s = chw ? FVG_OK : FVG_E_NOMEM;
  fvg_image view, mask;
  int i;
  for (i = 0; !s && i < x->items.n; i++) {
    const fvg_item *item = &x->items.item[i];
    float *map = chw ? chw + 9 * size * size : NULL;
    double share = 0;
    s = load_pair(x, item, &view, &mask, chw);
    if (s) break;
    s = map_share(a, chw, item->label, FVG_GRAD_CAM, &mask, map, &share);
    *share_a += share / x->items.n;
    if (!s) s = map_share(b ? b : a, chw, item->label, b ? FVG_GRAD_CAM : FVG_CLS_ATTENTION, &mask, map, &share);
    *share_b += share / x->items.n;
    if (!s && encode) s = encode_three(x, i, chw, &mask);
    x->mean_area += !s && encode ? 100 * (double)x->area[i] / x->items.n : 0;
    fvg_image_free(c, &view);
    fvg_image_free(c, &mask);
    if (!s) s = advance(x);
  }
  fvg_release(c, chw);
  return s;
}

/* KL(softmax(p/tau) || softmax(q/tau)) of two rows of logits */
static double shift_of(const float *p, const float *q, int n) {
  double max_p = (double)p[0], max_q = (double)q[0], sum_p = 0, sum_q = 0, kl = 0;
  int i;
  for (i = 1; i < n; i++) {
    max_p = (double)p[i] > max_p ? (double)p[i] : max_p;
    max_q = (double)q[i] > max_q ? (double)q[i] : max_q;
  }
  for (i = 0; i < n; i++) {
    sum_p += exp(((double)p[i] - max_p) / report_tau);
    sum_q += exp(((double)q[i] - max_q) / report_tau);
  }
  for (i = 0; i < n; i++) {
    double ln_p = ((double)p[i] - max_p) / report_tau - log(sum_p);
    double ln_q = ((double)q[i] - max_q) / report_tau - log(sum_q);
    kl += exp(ln_p) * (ln_p - ln_q);
  }
  return kl;
}

static fvg_status measure_shift(study *x, fvg_classifier *k, double *shift) {
  fvg_ctx *c = x->m->ctx;
  size_t n = (size_t)k->n_class, values = (size_t)x->items.n * n;
  float *z = (float *)fvg_alloc_array(c, 2 * values, sizeof *z);
  fvg_status s = z ? fvg_classifier_logits(k, z, NULL, x->f, x->items.n) : FVG_E_NOMEM;
  int i;
  if (!s) s = fvg_classifier_logits(k, z + values, NULL, x->f_fg, x->items.n);
  for (i = 0; !s && i < x->items.n; i++)
    *shift += shift_of(z + (size_t)i * n, z + values + (size_t)i * n, k->n_class) / x->items.n;
  fvg_release(c, z);
  return s;
}

/* How often a good mask is trusted more than a bad one, a tie counting half. */
static double auc(const float *good, const float *bad, int n) {
  double sum = 0;
  int i, k;
  for (i = 0; i < n; i++)
    for (k = 0; k < n; k++) sum += good[i] > bad[k] ? 1 : good[i] < bad[k] ? 0 : 0.5;
  return sum / n / n;
}

/* Trust in the masks as they are and in their opposites. */
static fvg_status measure_trust(study *x, fvg_fvgpt *f, const fvg_classifier *tuned, int run) {
  fvg_ctx *c = x->m->ctx;
  int n = x->items.n, i, bad;
  float *r = (float *)fvg_alloc_array(c, 2 * (size_t)n, sizeof *r);
  fvg_fvgpt_batch batch;
  fvg_status s = r ? FVG_OK : FVG_E_NOMEM;
  memset(&batch, 0, sizeof batch);
  batch.n = n;
  batch.n_class = tuned->n_class;
  batch.f = x->f;
  batch.g = tuned->g;
  batch.area = x->area;
  for (bad = 0; !s && bad < 2; bad++) {
    batch.f_fg = bad ? x->f_bg : x->f_fg;
    for (i = 0; bad && i < n; i++) x->area[i] = 1 - x->area[i];
    s = fvg_fvgpt_trust(f, r + bad * n, &batch);
    for (i = 0; bad && i < n; i++) x->area[i] = 1 - x->area[i];
    for (i = 0; !s && i < n; i++) {
      float r_i = r[bad * n + i];
      x->trust[bad ? TRUST_BAD : TRUST_GOOD].seed[run] += (double)r_i / n;
      x->bin[bad][r_i < 1 ? (int)(r_i * N_BIN) : N_BIN - 1]++;
    }
  }
  if (!s) x->trust[TRUST_AUC].seed[run] = auc(r, r + n, n);
  fvg_release(c, r);
  return s;
}

/* ---- the pictures ---- */
/* The four classifiers that a picture of one half meets; the last tells b. */
typedef struct panel { fvg_classifier *k[N_METHOD], *gate; const char *const *name; } panel;

static void panel_free(panel *q) {
  int i;
  for (i = 0; i < N_METHOD; i++) fvg_classifier_free(q->k[i]);
  if (q->gate != q->k[FVGPT_COOP]) fvg_classifier_free(q->gate);
  memset(q, 0, sizeof *q);
}

static fvg_status panel_new(study *x, panel *q, fvg_group half, fvg_learner *p, fvg_fvgpt *f,
                            const char *prompt_template) {
  const fvg_branch branch[N_METHOD] = {FVG_ZERO_SHOT, FVG_TUNED, half == FVG_BASE ? FVG_BRANCH_BASE : FVG_BRANCH_NEW};
  int i, first, n = fvg_group_classes(x->d.n_class, half, &first);
  fvg_status s = FVG_OK;
  memset(q, 0, sizeof *q);
  q->name = (const char *const *)x->d.class_name + first;
  for (i = 0; !s && i < N_METHOD; i++)
    s = classifier_of(x->m, &q->k[i], branch[i], p, f, prompt_template, q->name, n);
  q->gate = q->k[FVGPT_COOP];
  if (!s && half == FVG_BASE)
    s = classifier_of(x->m, &q->gate, FVG_BRANCH_NEW, p, f, prompt_template, q->name, n);
  return s;
}

/* A large picture is shown at half its size: the page stays small, and it reads as well. */
static fvg_status page_image(fvg_ctx *c, fvg_image *out, const fvg_image *in, fvg_filter filter) {
  int half = in->width >= 128;
  return fvg_image_resize(c, out, in, half ? in->width / 2 : in->width, half ? in->height / 2 : in->height, filter);
}

static fvg_status judge(study *x, shown *p, const panel *q, fvg_fvgpt *f, int label, float *chw,
                        const fvg_image *mask) {
  fvg_ctx *c = x->m->ctx;
  size_t size = (size_t)x->m->vision.image_size, d = (size_t)x->m->embed_dim;
  int n = q->gate->n_class, method, i, best;
  float area = -1, r, b, *z = (float *)fvg_alloc_array(c, (size_t)n + 2 * d, sizeof *z), *feature = z ? z + n : NULL;
  fvg_fvgpt_batch batch;
  fvg_status s = z ? FVG_OK : FVG_E_NOMEM;
  if (!s && mask->pixels)
    area = fvg_foreground_view(chw + 3 * size * size, chw, mask,
                               x->fill_black ? &x->m->preprocess : NULL);
  if (!s) s = fvg_clip_encode_images(x->m, feature, chw, mask->pixels ? 2 : 1);
  if (!s) fvg_normalize_rows(feature, mask->pixels ? 2 : 1, x->m->embed_dim);
  for (method = 0; !s && method < N_METHOD; method++) {
    s = fvg_classifier_logits(q->k[method], z, NULL, feature, 1);
    for (best = 0, i = 1; i < n; i++) if (z[i] > z[best]) best = i;
    p->guess[method] = q->name[best];
    p->right[method] = best == label;
  }
  if (!s) s = fvg_classifier_logits(q->gate, z, &b, feature, 1);
  if (!s) p->b = (double)b;
  memset(&batch, 0, sizeof batch);
  batch.n = 1;
  batch.n_class = n;
  batch.f = feature;
  batch.f_fg = feature + d;
  batch.g = q->gate->g;
  batch.area = &area;
  if (!s && !p->is_new && mask->pixels) s = fvg_fvgpt_trust(f, &r, &batch);
  if (!s && !p->is_new && mask->pixels) p->r = (double)r;
  fvg_release(c, z);
  return s;
}

static fvg_status show(study *x, shown *p, const panel *q, fvg_fvgpt *f, const fvg_item *item, int label) {
  fvg_ctx *c = x->m->ctx;
  size_t size = (size_t)x->m->vision.image_size;
  float *chw = (float *)fvg_alloc_array(c, 7 * size * size, sizeof *chw);           /* two views, a map      */
  fvg_image view, mask, overlay;
  fvg_status s = chw ? load_pair(x, item, &view, &mask, chw) : FVG_E_NOMEM;
  int i;
  if (s) { fvg_release(c, chw); return s; }
  p->path = item->path;
  p->truth = x->d.class_name[item->label];
  p->has_mask = mask.pixels != NULL;
  p->r = -1;
  s = page_image(c, &p->picture, &view, FVG_BICUBIC);
  if (!s && p->has_mask) s = page_image(c, &p->mask, &mask, FVG_NEAREST);
  for (i = 0; !s && i < N_MAP; i++) {
    float *map = chw + 6 * size * size;
    fvg_map_kind kind = i < N_METHOD ? FVG_GRAD_CAM : FVG_CLS_ATTENTION;
    s = map_share(q->k[i < N_METHOD ? i : 0], chw, label, kind, &mask, map, &p->share[i]);
    if (!s) s = fvg_image_overlay(c, &overlay, &view, map);
    if (s) break;
    s = page_image(c, &p->overlay[i], &overlay, FVG_BICUBIC);
    fvg_image_free(c, &overlay);
  }
  if (!s) s = judge(x, p, q, f, label, chw, &mask);
  fvg_image_free(c, &view);
  fvg_image_free(c, &mask);
  fvg_release(c, chw);
  return s ? s : advance(x);
}

/* The class's first test picture with a mask, else its first; NULL: it has none. */
static const fvg_item *first_of_class(const study *x, int label, fvg_status *s) {
  const fvg_item *first = NULL;
  int i, has_mask;
  for (i = 0; !*s && i < x->d.test.n; i++) {
    const fvg_item *item = &x->d.test.item[i];
    char *path = NULL;
    if (item->label != label) continue;
    *s = fvg_dataset_mask_path(&x->d, &path, item->path);
    has_mask = path != NULL;
    fvg_release(x->m->ctx, path);
    if (has_mask) return item;
    if (!first) first = item;
  }
  return first;
}

/* Pictures of evenly spaced classes of one half. */
static fvg_status show_half(study *x, fvg_group half, int n, fvg_learner *p, fvg_fvgpt *f,
                            const char *prompt_template) {
  int first, i, n_class = fvg_group_classes(x->d.n_class, half, &first);
  panel q;
  fvg_status s = panel_new(x, &q, half, p, f, prompt_template);
  if (n > n_class) n = n_class;
  for (i = 0; !s && i < n; i++) {
    int label = (int)((double)i * n_class / n);
    const fvg_item *item = first_of_class(x, first + label, &s);
    if (s || !item) continue;
    x->shown[x->n_shown].is_new = half == FVG_NEW;
    s = show(x, &x->shown[x->n_shown++], &q, f, item, label);
  }
  panel_free(&q);
  return s;
}

/* ---- one data set ---- */
static fvg_status check_checkpoint(const study *x, const fvg_learner *p, const fvg_fvgpt *f, const fvg_weights *w) {
  const char *model = fvg_weights_metadata(w, "model");
  fvg_ctx *c = x->m->ctx;
  const char *const *name;
  fvg_settings mine;
  int i, n, same;
  mine.n = 0;
  set_model(&mine, x->m);
  name = fvg_learner_class_names(p, &n);
  for (i = 0, same = n == x->n_base; same && i < n; i++) same = fvg_same_name(c, name[i], x->d.class_name[i]);
  if (strcmp(fvg_learner_method(p), "CoOp"))
    return fvg_fail(c, FVG_E_ARG, "%s: tuned with %s, the report compares CoOp", fvg_weights_file(w),
                    fvg_learner_method(p));
  if (!f) return fvg_fail(c, FVG_E_ARG, "%s: no FVG-PT part; tune with --trainer FVGPT_CoOp", fvg_weights_file(w));
  if (!same)
    return fvg_fail(c, FVG_E_ARG, "%s: tuned on other classes than the base classes of %s; give --data and --runs "
                    "in the same order", fvg_weights_file(w), x->d.root);
  if (model && strcmp(model, mine.text[0]))
    return fvg_fail(c, FVG_E_ARG, "%s: tuned on another model; name that one with --model", fvg_weights_file(w));
  return FVG_OK;
}

static fvg_status study_seed(study *x, const options *o, int run) {
  const char *fill, *prompt_template;
  char folder[1100];
  fvg_learner *p = NULL;
  fvg_fvgpt *f = NULL;
  fvg_weights *w = NULL;
  panel q;
  int i;
  fvg_status s;
  memset(&q, 0, sizeof q);
  snprintf(folder, sizeof folder, "%s/FVGPT_CoOp/seed%d", x->runs, x->seed[run]);
  s = open_tuned(x->m, folder, &p, &f, &w);
  if (!s) s = check_checkpoint(x, p, f, w);
  fill = w ? fvg_weights_metadata(w, "fill") : NULL;
  x->fill_black = fill && !strcmp(fill, "black");
  prompt_template = template_of(o, w);
  if (!s) s = panel_new(x, &q, FVG_BASE, p, f, prompt_template);
  if (!s && run == 0) {                             /* what the seeds share                                         */
    s = measure_maps(x, q.k[ZERO_SHOT], NULL, &x->share[ZERO_SHOT].seed[0], &x->share[ATTENTION].seed[0], 1);
    if (!s) s = show_half(x, FVG_BASE, o->pictures, p, f, prompt_template);
    if (!s) s = show_half(x, FVG_NEW, 2, p, f, prompt_template);
  }
  x->share[ZERO_SHOT].seed[run] = x->share[ZERO_SHOT].seed[0];
  x->share[ATTENTION].seed[run] = x->share[ATTENTION].seed[0];
  if (!s)
    s = measure_maps(x, q.k[COOP], q.k[FVGPT_COOP], &x->share[COOP].seed[run], &x->share[FVGPT_COOP].seed[run], 0);
  for (i = 0; !s && i < N_METHOD; i++) s = measure_shift(x, q.k[i], &x->shift[i].seed[run]);
  if (!s) s = measure_trust(x, f, q.k[COOP], run);
  panel_free(&q);
  fvg_weights_close(w);
  fvg_fvgpt_free(f);
  fvg_learner_free(p);
  return s;
}

static void average(measure *m, int n_measure, int n_seed) {
  int i, run;
  for (i = 0; i < n_measure; i++)
    for (run = 0; run < n_seed; run++) m[i].mean += m[i].seed[run] / n_seed;
}

static void name_study(study *x) {
  const char *root = x->d.root, *end = root + strlen(root), *start;
  while (end > root + 1 && end[-1] == '/') end--;
  for (start = end; start > root && start[-1] != '/'; start--) {}
  snprintf(x->name, sizeof x->name, "%.*s", (int)(end - start), start);
}

/* The runs and their data set, both looked through before anything is measured. */
static fvg_status study_open(study *x, fvg_clip *m, const options *o, int i) {
  options one = *o;
  fvg_status s;
  one.data = o->all_data[i];
  x->m = m;
  x->runs = o->runs[i];
  s = read_runs(x);
  if (!s) s = open_data(m->ctx, &one, &x->d);
  return s ? s : fvg_dataset_check(&x->d, FVG_CHECK_TEST | FVG_CHECK_MASKS, o->skip_bad);
}

static fvg_status study_new(study *x, fvg_clip *m, const options *o) {
  fvg_ctx *c = m->ctx;
  size_t values;
  int run, bin, most = 0;
  fvg_status s;
  name_study(x);
  x->n_base = fvg_group_classes(x->d.n_class, FVG_BASE, &run);
  x->n_new = x->d.n_class - x->n_base;
  s = choose_items(x);
  if (!s) s = fvg_dataset_survey_masks(&x->d, &x->items);
  values = (size_t)x->items.n * (size_t)m->embed_dim;
  x->f = (float *)fvg_alloc_array(c, 3 * values + (size_t)x->items.n, sizeof *x->f);
  x->shown = (shown *)fvg_alloc_array(c, (size_t)o->pictures + 2, sizeof *x->shown);
  if (!s && (!x->f || !x->shown)) s = FVG_E_NOMEM;
  if (s) return s;
  x->f_fg = x->f + values;
  x->f_bg = x->f_fg + values;
  x->area = x->f_bg + values;
  x->progress.what = "report";
  x->progress.n_steps = (long)x->items.n * (x->n_seed + 1) + (x->n_new < 2 ? x->n_new : 2);
  x->progress.n_steps += o->pictures < x->n_base ? o->pictures : x->n_base;
  for (run = 0; !s && run < x->n_seed; run++) s = study_seed(x, o, run);
  for (run = COOP; !s && run < N_METHOD; run++) s = average_curves(x, run);
  average(x->share, N_MAP, x->n_seed);
  average(x->shift, N_METHOD, x->n_seed);
  average(x->trust, N_TRUST, x->n_seed);
  for (bin = 0; bin < 2 * N_BIN; bin++)
    if (x->bin[bin / N_BIN][bin % N_BIN] > most) most = x->bin[bin / N_BIN][bin % N_BIN];
  choose_ticks(&x->count_ticks, most, 1);
  return s;
}

static void study_free(fvg_ctx *c, study *x) {
  int i, k;
  for (i = 0; i < N_METHOD; i++) {
    for (k = 0; k < x->n_seed; k++) fvg_release(c, x->loss[i][k].loss);
    fvg_release(c, x->mean_loss[i].loss);
  }
  for (i = 0; i < x->n_shown; i++) {
    fvg_image_free(c, &x->shown[i].picture);
    fvg_image_free(c, &x->shown[i].mask);
    for (k = 0; k < N_MAP; k++) fvg_image_free(c, &x->shown[i].overlay[k]);
  }
  fvg_release(c, x->shown);
  fvg_release(c, x->f);
  fvg_release(c, x->items.item);
  fvg_dataset_free(&x->d);
}
