/* What determines a stage; see fvgpt_tune_marks.h.  Values that are kept in checkpoints must never
   change, so that runs of older versions go on. */
#include "fvgpt_tune_marks.h"

#include <stdio.h>
#include <string.h>

fvg_train_desc train_desc_of(const tuning *t, const table_row *r, int seed) {
  const int is_alone = r->backbone < 0;
  const fvg_dataset_card *card = t->d->card;
  fvg_recipe recipe;
  if (is_alone) recipe_of(&t->o->learner, r->method, card, t->at->shots, &recipe);
  else fvg_fvgpt_recipe(r->method, &recipe, card);

  fvg_train_desc d;
  memset(&d, 0, sizeof d);
  d.optimizer = recipe.optimizer;
  d.batch = recipe.batch;
  if (r->dpc) d.optimizer = fvg_dpc_optimizer(&d.batch);
  if (t->o->lr > 0) d.optimizer.lr = (float)t->o->lr;
  if (t->o->epochs) d.optimizer.epochs = t->o->epochs;
  if (t->o->batch) d.batch = t->o->batch;

  const double *lr = varied(&r->own, "lr");
  const double *epochs = varied(&r->own, "epochs");
  const double *batch = varied(&r->own, "batch");
  if (lr) d.optimizer.lr = (float)*lr;
  if (epochs) d.optimizer.epochs = (int)*epochs;
  if (batch) d.batch = (int)*batch;

  /* The second stage must not see the pictures in the order of the first one again. */
  d.seed = (uint64_t)seed + (is_alone ? 0 : 1000000u);
  return d;
}

/* ---- marks: FNV-1a hashes ---- */
const uint64_t mark_start = 14695981039346656037u;

uint64_t mark_bytes(uint64_t h, const void *bytes, size_t n) {
  const unsigned char *b = (const unsigned char *)bytes;
  for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * 1099511628211u;
  return h;
}

uint64_t mark_text(uint64_t h, const char *text) {
  return mark_bytes(h, text, strlen(text) + 1);
}

void print_mark(char *text, size_t size, uint64_t h) {
  const unsigned long high = (unsigned long)(h >> 32);
  const unsigned long low = (unsigned long)(h & 0xffffffffu);
  snprintf(text, size, "%08lx%08lx", high, low);
}

static void set_mark(fvg_settings *x, const char *key, uint64_t h) {
  char *text = x->text[x->n];
  print_mark(text, sizeof x->text[0], h);
  fvg_settings_set(x, key, text);
}

/* ---- the model ---- */
static uint64_t mark_values(uint64_t h, const fvg_tensor *x) {
  return mark_bytes(h, x->data, fvg_tensor_count(x) * sizeof(float));
}

static int is_usual(const fvg_preprocess *p) {
  const fvg_preprocess usual = fvg_preprocess_defaults(p->size);
  if (p->resize != usual.resize || p->resize_mode != usual.resize_mode) return 0;
  if (p->filter != usual.filter) return 0;
  return !memcmp(p->mean, usual.mean, sizeof p->mean) && !memcmp(p->std, usual.std, sizeof p->std);
}

/* The mark is that of the projections' bytes.  CLIP's own way to pixels leaves it as it was before
   there were others, and so do weights in f32. */
static uint64_t mark_of_model(const fvg_clip *m, fvg_dtype kept_as) {
  const fvg_preprocess *p = &m->preprocess;
  uint64_t h = mark_values(mark_start, &m->vision.projection);
  h = mark_values(h, &m->text.projection);
  if (!is_usual(p)) {
    const int way[3] = {p->resize, (int)p->resize_mode, (int)p->filter};
    h = mark_bytes(h, way, sizeof way);
    h = mark_bytes(h, p->mean, sizeof p->mean);
    h = mark_bytes(h, p->std, sizeof p->std);
  }
  if (kept_as == FVG_Q8) h = mark_text(h, "q8");
  if (kept_as == FVG_Q8_IMAGES) h = mark_text(h, "q8, texts f32");
  if (kept_as == FVG_BF16) h = mark_text(h, "bf16");
  return h;
}

void set_model(fvg_settings *x, const fvg_clip *m) {
  set_mark(x, "model", mark_of_model(m, m->kept_as));
}

static uint64_t mark_tensor(uint64_t h, const fvg_tensor *x) {
  return x->type == FVG_F32 && x->n_dim ? mark_values(h, x) : h;
}

static uint64_t mark_tower(uint64_t h, const fvg_transformer *t) {
  const int shape[3] = {t->n_layer, t->n_head, (int)t->activation};
  h = mark_bytes(h, shape, sizeof shape);
  h = mark_bytes(h, &t->eps, sizeof t->eps);
  for (int i = 0; i < t->n_layer; i++) {
    const fvg_tensor *end = &t->block[i].proj_bias + 1;
    for (const fvg_tensor *x = &t->block[i].ln_1_weight; x < end; x++) {
      if (x->n_dim == 1) h = mark_tensor(h, x);
    }
  }
  return h;
}

/* Sets the mark of whatever else has a part in the features: norms, biases, positions, heads and
   activation.  The matrices lie in panels, in another order on other CPUs, and have no part in it:
   whoever tunes them tunes these as well. */
static void set_towers(fvg_settings *x, const fvg_clip *m) {
  uint64_t h = mark_tower(mark_start, &m->vision.transformer);
  const fvg_tensor *end = &m->vision.ln_post_bias + 1;
  for (const fvg_tensor *w = &m->vision.class_embedding; w < end; w++) h = mark_tensor(h, w);

  h = mark_tower(h, &m->text.transformer);
  h = mark_tensor(h, &m->text.position_embedding);
  h = mark_tensor(h, &m->text.ln_final_weight);
  set_mark(x, "towers", mark_tensor(h, &m->text.ln_final_bias));
}

uint64_t mark_model(uint64_t h, const fvg_clip *m) {
  fvg_settings x;
  x.n = 0;
  set_model(&x, m);
  set_towers(&x, m);
  for (int i = 0; i < x.n; i++) h = mark_text(h, x.entry[i].value);
  return h;
}

/* Does the checkpoint have the mark that the model has with its weights kept so? */
static int has_mark_of(const fvg_clip *m, const char *mark, fvg_dtype kept_as) {
  char text[MARK_BYTES];
  print_mark(text, sizeof text, mark_of_model(m, kept_as));
  return !strcmp(text, mark);
}

static int has_other_towers(const fvg_clip *m, const fvg_weights *w) {
  const char *mark = fvg_weights_metadata(w, "towers");
  fvg_settings mine;
  mine.n = 0;
  set_towers(&mine, m);
  return mark && strcmp(mark, mine.entry[0].value);
}

/* Projections are f32 however the towers' matrices are kept, so the marks of one model with all
   kinds of weights can be told from each other, and from those of other models. */
model_match compare_model(const fvg_clip *m, const fvg_weights *w) {
  static const fvg_dtype kind[] = {FVG_F32, FVG_BF16, FVG_Q8, FVG_Q8_IMAGES};
  const char *mark = w ? fvg_weights_metadata(w, "model") : NULL;
  if (!mark) return SAME_MODEL;
  if (has_other_towers(m, w)) return OTHER_MODEL;
  if (has_mark_of(m, mark, m->kept_as)) return SAME_MODEL;
  for (size_t i = 0; i < sizeof kind / sizeof *kind; i++) {
    if (has_mark_of(m, mark, kind[i])) return OTHER_WEIGHTS;
  }
  return OTHER_MODEL;
}

/* ---- the pictures ---- */
uint64_t mark_items(uint64_t h, const fvg_items *items) {
  for (int i = 0; i < items->n; i++) {
    const fvg_item *item = &items->item[i];
    h = mark_text(h, item->path);
    h = mark_bytes(h, &item->label, sizeof item->label);
  }
  return h;
}

static void set_images(fvg_settings *x, const fvg_items *items) {
  set_mark(x, "images", mark_items(mark_start, items));
}

/* What the masks say, in whatever way it is written.  A file that cannot be read is told of
   elsewhere. */
static uint64_t mark_masks(const fvg_task *task) {
  const fvg_dataset *d = task->dataset;
  uint64_t h = mark_start;
  for (int i = 0; i < task->items.n; i++) {
    fvg_image mask;
    if (!fvg_dataset_load(d, NULL, &mask, &task->items.item[i], 0) && mask.pixels)
      h = mark_bytes(h, mask.pixels, (size_t)mask.width * (size_t)mask.height);
    h = mark_bytes(h, &mask.width, sizeof mask.width);
    h = mark_bytes(h, &mask.height, sizeof mask.height);
    fvg_image_free(d->ctx, &mask);
  }
  return h;
}

/* The masks of the seed at work are read once. */
static void set_masks(fvg_settings *x, tuning *t, const fvg_task *task) {
  const int is_known = task == &t->task && t->has_mask_mark;
  const uint64_t h = is_known ? t->mask_mark : mark_masks(task);
  if (task == &t->task) {
    t->mask_mark = h;
    t->has_mask_mark = 1;
  }
  set_mark(x, "masks", h);
}

/* How masks are made, but for the model and the classes. */
static uint64_t mark_foreground(uint64_t h, const foreground_options *o) {
  for (int i = 0; i < o->background.n; i++) h = mark_text(h, o->background.item[i]);
  h = mark_text(h, o->background_template ? o->background_template : "");
  return mark_bytes(h, &o->quick, sizeof o->quick);
}

void mark_of_masks(const tuning *t, int set, const fvg_task *task, char mark[MARK_BYTES]) {
  uint64_t h = mark_model(mark_foreground(mark_start, &t->o->foreground), t->m);
  for (int i = 0; i < task->n_class; i++) h = mark_text(h, task->class_name[i]);
  h = mark_text(h, t->set[set].root);
  h = mark_bytes(h, &t->o->data.exif_rotate, sizeof t->o->data.exif_rotate);
  print_mark(mark, MARK_BYTES, h);
}

/* Sets what takes the place of the data set's masks: nothing, or masks that the learner makes while
   it trains. */
static void set_masks_made(fvg_settings *x, const tuning *t, const table_row *r) {
  const int renews_masks = r->renews_masks && r->backbone < 0;
  fvg_settings_set(x, "masks", renews_masks ? "renewed" : "none");
  if (renews_masks) set_mark(x, "own_masks", mark_foreground(mark_start, &t->o->foreground));
}

/* ---- all settings of a stage ---- */
static void describe_fvgpt(const tune_options *o, const table_row *r, fvg_settings *x) {
  const char *given = o->learner.prompt_template;
  fvg_settings_set_number(x, "lambda_base", lambda_base_of(o, r));
  fvg_settings_set_number(x, "lambda_new", o->lambda_new);
  fvg_settings_set(x, "template", template_of(given, NULL));
  fvg_settings_set(x, "fill", o->fill_black ? "black" : "mean");
  fvg_settings_set(x, "calibration", calibration_name[calibration_of(o, r)]);
  fvg_settings_set(x, "entropy", normalised_of(o, r) ? "normalised" : "raw");

  /* Older checkpoints have none of these either. */
  if (distill_of(r)) fvg_settings_set(x, "distillation", "stable");
  if (r->invert_masks) fvg_settings_set(x, "invert_masks", "on");
  if (guard_of(o, r)) fvg_settings_set(x, "guard", "on");
}

/* Settings of a row's own, and those that --choose has found for the learner below it. */
static void describe_variations(const tuning *t, const table_row *r, int run, description *d) {
  if (r->own.n) {
    print_variations(&r->own, d->own);
    fvg_settings_set(&d->settings, "variation", d->own);
  }
  if (r->backbone >= 0 && t->chosen[r->backbone][run].what.n) {
    print_variations(&t->chosen[r->backbone][run].what, d->backbone);
    fvg_settings_set(&d->settings, "backbone", d->backbone);
  }
}

void describe(tuning *t, const table_row *r, int run, const fvg_task *task,
              description *about) {
  fvg_settings *x = &about->settings;
  const int seed = t->seed[run];
  const tune_options *o = t->o;
  const fvg_train_desc d = train_desc_of(t, r, seed);
  const int warmup = d.optimizer.warmup_epochs;
  x->n = 0;
  set_model(x, t->m);
  set_images(x, &task->items);
  fvg_settings_set_number(x, "seed", seed);
  fvg_settings_set_number(x, "shots", t->at->shots);
  fvg_settings_set_number(x, "epochs", d.optimizer.epochs);
  fvg_settings_set_number(x, "lr", (double)d.optimizer.lr);
  fvg_settings_set_number(x, "batch", d.batch);
  fvg_settings_set_number(x, "warmup", warmup < 0 ? 0 : warmup);
  fvg_settings_set(x, "augment", o->augment);
  fvg_settings_set(x, "ctx_init", o->learner.ctx_init ? o->learner.ctx_init : "");

  /* Older checkpoints have no such setting either. */
  if (o->data.exif_rotate) fvg_settings_set(x, "exif_rotate", "on");
  if (o->learner.all) fvg_settings_set(x, "pictures", "all");
  set_towers(x, t->m);
  if (needs_masks(t, r)) set_masks(x, t, task);
  else if (needs_foregrounds(r)) set_masks_made(x, t, r);

  if (r->dpc) {
    fvg_settings_set_number(x, "dpc_weight", o->dpc_weight);
    fvg_settings_set_number(x, "dpc_top_k", o->dpc_top_k);
  } else if (r->backbone >= 0) {
    describe_fvgpt(o, r, x);
  }
  describe_variations(t, r, run, about);
}

/* What older files, which have no setting of this name, were made with; NULL: nobody can tell. */
static const char *value_before(const char *key) { return !strcmp(key, "warmup") ? "1" : NULL; }

/* Older files lack these marks altogether, which then say nothing. */
static int is_newer_mark(const char *key) {
  return !strcmp(key, "towers") || !strcmp(key, "masks");
}

/* What fvg_learner_new makes a learner from. */
static uint64_t mark_learner(uint64_t h, const fvg_learner *l, const table_row *r) {
  fvg_option option[FVG_RECIPE_OPTIONS];
  fvg_learner_desc desc;
  fvg_learner_made_from(l, &desc, option);
  const char *method = fvg_learner_method(l);
  h = mark_text(h, method);

  /* ProGrad once started from noise, so its words have a part in the mark. */
  if (desc.ctx_init[0] && !strcmp(method, "ProGrad")) h = mark_text(h, desc.ctx_init);
  h = mark_text(h, desc.prompt_template);
  for (int i = 0; i < desc.n_option; i++)
    h = mark_bytes(h, &option[i].value, sizeof option[i].value);

  const int number[7] = {
    desc.n_ctx, desc.class_specific, (int)desc.class_token_position,
    r->dpc, r->no_frg, r->no_fdc, r->no_pc,
  };
  return mark_bytes(h, number, sizeof number);
}

/* A setting that has the value of older files leaves the mark as they have it. */
void mark_of(const fvg_settings *x, const fvg_learner *l, const table_row *r,
             char mark[MARK_BYTES]) {
  uint64_t h = mark_start;
  for (int i = 0; i < x->n; i++) {
    const fvg_metadata *entry = &x->entry[i];
    const char *before = value_before(entry->key);
    if (before && !strcmp(before, entry->value)) continue;
    h = mark_text(h, entry->key);
    h = mark_text(h, entry->value);
  }
  print_mark(mark, MARK_BYTES, mark_learner(h, l, r));
}

void describe_head(tuning *t, const table_row *r, int run, const fvg_task *task, description *d) {
  fvg_settings *x = &d->settings;
  x->n = 0;
  set_model(x, t->m);
  set_images(x, &task->items);
  set_towers(x, t->m);
  fvg_settings_set(x, "row", r->name);
  fvg_settings_set_number(x, "seed", t->seed[run]);
  fvg_settings_set_number(x, "shots", t->at->shots);
  fvg_settings_set(x, "augment", t->o->augment);
  fvg_settings_set(x, "template", template_of(plain_template(t, t->d), NULL));
  fvg_settings_set(x, "fitted_on", t->train_half == FVG_BASE ? "base" : "all");
  set_mark(x, "val", mark_items(mark_start, &t->d->val));
  if (t->o->learner.all) fvg_settings_set(x, "pictures", "all");
  if (t->o->data.exif_rotate) fvg_settings_set(x, "exif_rotate", "on");
}

static uint64_t mark_settings(uint64_t h, const fvg_settings *x) {
  for (int i = 0; i < x->n; i++) {
    h = mark_text(h, x->entry[i].key);
    h = mark_text(h, x->entry[i].value);
  }
  return h;
}

void mark_of_result(tuning *t, const table_row *r, int run, const fvg_task *task,
                    char mark[MARK_BYTES]) {
  description about;
  uint64_t h = mark_model(mark_text(mark_start, r->name), t->m);
  if (r->method) describe(t, r, run, task, &about);
  else describe_head(t, r, run, task, &about);
  if (r->method || r->head) h = mark_settings(h, &about.settings);
  if (r->backbone >= 0) {
    describe(t, &t->row[r->backbone], run, task, &about);
    h = mark_settings(h, &about.settings);
  }
  print_mark(mark, MARK_BYTES, h);
}

/* ---- checking ---- */
static fvg_status other_settings(fvg_ctx *c, const char *path, const char *what) {
  return fvg_fail(c, FVG_E_ARG, "%s was tuned %s; choose another --out or remove it", path, what);
}

/* What another value of a mark means, whose digits would tell nobody anything; NULL: it is no
   mark. */
static const char *meaning_of_mark(const char *key) {
  static const char *const mark[][2] = {
    {"model", "on another model, or with other --weights"},
    {"towers", "on another model"},
    {"images", "on other pictures"},
    {"masks", "with other masks or another --masks"},
    {"val", "with other val pictures"},
    {"own_masks", "with another --background, --background-template or --quick"},
  };
  for (size_t i = 0; i < sizeof mark / sizeof *mark; i++) {
    if (!strcmp(mark[i][0], key)) return mark[i][1];
  }
  return NULL;
}

static fvg_status check_setting(fvg_ctx *c, const char *path, const fvg_weights *w,
                                const fvg_metadata *want) {
  const char *value = fvg_weights_metadata(w, want->key);
  if (!value && is_newer_mark(want->key)) return FVG_OK;
  if (!value) value = value_before(want->key);
  if (value && !strcmp(value, want->value)) return FVG_OK;

  const char *meaning = meaning_of_mark(want->key);
  if (value && meaning) return other_settings(c, path, meaning);
  return fvg_fail(c, FVG_E_ARG,
                  "%s was tuned with %s %s, not %s; choose another --out or remove it", path,
                  want->key, value ? value : "unset", want->value);
}

/* Was the checkpoint made with a setting that only unusual runs have, and this one has not? */
static fvg_status check_unusual(fvg_ctx *c, const char *path, const fvg_weights *w,
                                const fvg_settings *x) {
  static const char *const unusual[][2] = {
    {"exif_rotate", "with --exif-rotate"},
    {"pictures", "with --all"},
    {"distillation", "with --distill stable"},
    {"invert_masks", "with inverted masks"},
    {"guard", "with --guard"},
    {"variation", "with other settings"},
    {"backbone", "on a learner that --choose found"},
    {"choose", "with --choose"},
  };
  for (size_t i = 0; i < sizeof unusual / sizeof *unusual; i++) {
    int asked = 0;
    for (int k = 0; k < x->n; k++) asked |= !strcmp(x->entry[k].key, unusual[i][0]);
    if (!asked && fvg_weights_metadata(w, unusual[i][0]))
      return other_settings(c, path, unusual[i][1]);
  }
  return FVG_OK;
}

fvg_status check_settings(const tuning *t, const char *path, const fvg_weights *w,
                          const fvg_settings *x, const fvg_learner *have,
                          const fvg_learner *want) {
  fvg_ctx *c = t->m->ctx;
  const char *difference = fvg_learner_difference(have, want);
  if (difference) return other_settings(c, path, difference);
  for (int i = 0; i < x->n; i++) {
    fvg_status s = check_setting(c, path, w, &x->entry[i]);
    if (s) return s;
  }
  return check_unusual(c, path, w, x);
}

fvg_status check_head_settings(fvg_ctx *c, const char *path, const fvg_head_checkpoint *have,
                               const fvg_settings *x, const fvg_task *task) {
  const fvg_weights *w = have->settings;
  int is_same = have->n_class == task->n_class;
  for (int i = 0; is_same && i < task->n_class; i++)
    is_same = fvg_same_name(c, have->class_name[i], task->class_name[i]);
  fvg_status s = is_same ? FVG_OK : other_settings(c, path, "on other classes");
  for (int i = 0; !s && i < x->n; i++) s = check_setting(c, path, w, &x->entry[i]);
  return s ? s : check_unusual(c, path, w, x);
}
