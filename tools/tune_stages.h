/* fvgpt tune, second part: a stage of training, from its checkpoint if it is finished, from its last epoch if it was
   cut off.  Whatever determines a stage is kept in its checkpoint and marks its state, and another value is an error:
   nothing is lost.  A state is removed only when the checkpoint is on the disk. */

/* ---- what determines a stage ---- */
/* A short mark of what was tuned on what, wherever the files lie:
   the projections' bytes, and the images' paths and labels. */
static const uint64_t mark_start = 14695981039346656037u;

static uint64_t mark_bytes(uint64_t h, const void *bytes, size_t n) {
  const unsigned char *b = (const unsigned char *)bytes;
  for (; n; n--, b++) h = (h ^ *b) * 1099511628211u;
  return h;
}

static void set_mark(fvg_settings *x, const char *key, uint64_t h) {
  snprintf(x->text[x->n], sizeof x->text[0], "%08lx%08lx",
           (unsigned long)(h >> 32), (unsigned long)(h & 0xffffffffu));
  fvg_settings_set(x, key, x->text[x->n]);
}

static void set_model(fvg_settings *x, const fvg_clip *m) {
  const fvg_tensor *vision = &m->vision.projection, *text = &m->text.projection;
  const fvg_preprocess *p = &m->preprocess, usual = fvg_preprocess_defaults(p->size);
  uint64_t h = mark_bytes(mark_start, vision->data, fvg_tensor_count(vision) * sizeof(float));
  h = mark_bytes(h, text->data, fvg_tensor_count(text) * sizeof(float));

  /* CLIP's own way to pixels leaves the mark as it was before there were others. */
  if (p->resize != usual.resize || p->resize_mode != usual.resize_mode || p->filter != usual.filter ||
      memcmp(p->mean, usual.mean, sizeof p->mean) || memcmp(p->std, usual.std, sizeof p->std)) {
    const int way[3] = {p->resize, (int)p->resize_mode, (int)p->filter};
    h = mark_bytes(h, way, sizeof way);
    h = mark_bytes(h, p->mean, sizeof p->mean);
    h = mark_bytes(h, p->std, sizeof p->std);
  }
  set_mark(x, "model", h);
}

/* Rate, epochs, warm-up and batch: as asked, else as the recipe of the row's stage has them. */
static fvg_train_desc train_desc_of(const tuning *t, const table_row *r, int seed) {
  fvg_train_desc d;
  fvg_recipe recipe;
  memset(&d, 0, sizeof d);
  if (r->backbone < 0) recipe_of(t->o, r->method, t->d.card, t->at->shots, &recipe);
  else fvg_fvgpt_recipe(r->method, &recipe, t->d.card);
  d.optimizer = recipe.optimizer;
  d.batch = recipe.batch;
  if (r->dpc) d.optimizer = fvg_dpc_optimizer(&d.batch);
  if (t->o->lr > 0) d.optimizer.lr = (float)t->o->lr;
  if (t->o->epochs) d.optimizer.epochs = t->o->epochs;
  if (t->o->batch) d.batch = t->o->batch;
  d.seed = (uint64_t)seed + (r->backbone >= 0 ? 1000000u : 0u);        /* not stage 1's order again */
  return d;
}

/* One line for each row that trains: what with.  Options that a recipe or --set changes are
   named. */
static fvg_status print_settings(tuning *t) {
  static const char *const protocol[] = {"base to new", "few-shot", "cross-data"};
  int row, i;
  for (row = 1; row < t->n_row; row++) {
    const table_row *r = &t->row[row];
    fvg_train_desc d = train_desc_of(t, r, 0);
    fvg_option option[MAX_OPTIONS];
    fvg_learner_desc desc;
    char more[400] = "";
    size_t at = 0;
    fvg_status s = learner_desc(t->m->ctx, t->o, r->method, t->d.card, t->at->shots, option, &desc);
    if (s) return s;
    if (d.optimizer.warmup_epochs < 0) at += (size_t)snprintf(more, sizeof more, ", no warm-up");
    if (r->backbone < 0 && desc.n_ctx)
      at += (size_t)snprintf(more + at, sizeof more - at, ", n_ctx %d", desc.n_ctx);
    for (i = 0; r->backbone < 0 && i < desc.n_option && at < sizeof more - 60; i++)
      at += (size_t)snprintf(more + at, sizeof more - at, ", %.30s %g", option[i].name, option[i].value);
    printf("settings    %s: preset %s, %s, %s, lr %g, %d epochs, batch %d%s\n", r->name,
           r->backbone < 0 ? preset_name[t->o->preset] : r->dpc ? "DPC's" : "FVG-PT's",
           protocol[protocol_of(t->o)], d.optimizer.kind == FVG_ADAMW ? "AdamW" : "SGD", (double)d.optimizer.lr,
           d.optimizer.epochs, d.batch, more);
  }
  fflush(stdout);
  return FVG_OK;
}

/* Whatever has a part in the image and text features: norms, biases, positions, heads and activation.  (The matrices
   lie in panels, in another order on other CPUs; who tunes them tunes these as well.) */
static uint64_t mark_tensor(uint64_t h, const fvg_tensor *x) {
  return x->type == FVG_F32 && x->n_dim ? mark_bytes(h, x->data, fvg_tensor_count(x) * sizeof(float)) : h;
}

static uint64_t mark_tower(uint64_t h, const fvg_transformer *t) {
  const int shape[3] = {t->n_layer, t->n_head, (int)t->activation};
  int i;
  h = mark_bytes(h, shape, sizeof shape);
  h = mark_bytes(h, &t->eps, sizeof t->eps);
  for (i = 0; i < t->n_layer; i++) {
    const fvg_tensor *x = &t->block[i].ln_1_weight, *end = &t->block[i].proj_bias + 1;
    for (; x < end; x++) if (x->n_dim == 1) h = mark_tensor(h, x);
  }
  return h;
}

static void set_towers(fvg_settings *x, const fvg_clip *m) {
  const fvg_tensor *first = &m->vision.class_embedding, *end = &m->vision.ln_post_bias + 1;
  uint64_t h = mark_tower(mark_start, &m->vision.transformer);
  for (; first < end; first++) h = mark_tensor(h, first);
  h = mark_tower(h, &m->text.transformer);
  h = mark_tensor(h, &m->text.position_embedding);
  h = mark_tensor(h, &m->text.ln_final_weight);
  set_mark(x, "towers", mark_tensor(h, &m->text.ln_final_bias));
}

/* What the masks say, in whatever way it is written.  A file that cannot be read is told of elsewhere. */
static void set_masks(fvg_settings *x, const fvg_dataset *d, const fvg_items *items) {
  const int inverted = d->mask_reading == FVG_MASK_INVERTED;
  uint64_t h = mark_start;
  int i;
  for (i = 0; i < items->n; i++) {
    fvg__mask_facts facts;
    fvg_image m;
    char *path = NULL;
    int lossy, is_16_bit;
    memset(&m, 0, sizeof m);
    memset(&facts, 0, sizeof facts);
    if (!fvg_dataset_mask_path(d, &path, items->item[i].path) && path &&
        !fvg__load_channels(d->ctx, &m, path, &lossy, &is_16_bit) &&
        !fvg__choose_reading(&m, d->mask_reading, lossy, &facts) &&
        !fvg__apply_reading(d->ctx, &m, facts.reading, 0, inverted))
      h = mark_bytes(h, m.pixels, (size_t)m.width * (size_t)m.height);
    h = mark_bytes(h, &m.width, sizeof m.width);
    h = mark_bytes(h, &m.height, sizeof m.height);
    fvg_image_free(d->ctx, &m);
    fvg_release(d->ctx, path);
  }
  set_mark(x, "masks", h);
}

static int needs_masks(const table_row *r);

/* Files of before have no setting of this name: what they were made with. */
static const char *value_before(const char *key) { return !strcmp(key, "warmup") ? "1" : NULL; }

/* Marks that older files lack altogether, which then say nothing. */
static int is_newer_mark(const char *key) { return !strcmp(key, "towers") || !strcmp(key, "masks"); }

static void describe(const tuning *t, const table_row *r, int seed, const fvg_items *items, fvg_settings *x) {
  const options *o = t->o;
  fvg_train_desc d = train_desc_of(t, r, seed);
  uint64_t h = mark_start;
  int i;
  x->n = 0;
  set_model(x, t->m);
  for (i = 0; i < items->n; i++) {
    h = mark_bytes(h, items->item[i].path, strlen(items->item[i].path) + 1);
    h = mark_bytes(h, &items->item[i].label, sizeof items->item[i].label);
  }
  set_mark(x, "images", h);
  fvg_settings_set_number(x, "seed", seed);
  fvg_settings_set_number(x, "shots", t->at->shots);
  fvg_settings_set_number(x, "epochs", d.optimizer.epochs);
  fvg_settings_set_number(x, "lr", (double)d.optimizer.lr);
  fvg_settings_set_number(x, "batch", d.batch);
  fvg_settings_set_number(x, "warmup", d.optimizer.warmup_epochs < 0 ? 0 : d.optimizer.warmup_epochs);
  fvg_settings_set(x, "augment", o->augment);
  fvg_settings_set(x, "ctx_init", o->ctx_init ? o->ctx_init : "");
  if (o->exif_rotate) fvg_settings_set(x, "exif_rotate", "on");                /* unset in older checkpoints too */
  set_towers(x, t->m);
  if (needs_masks(r)) set_masks(x, &t->d, items);
  if (r->backbone < 0) return;
  if (r->dpc) {
    fvg_settings_set_number(x, "dpc_weight", o->dpc_weight);
    fvg_settings_set_number(x, "dpc_top_k", o->dpc_top_k);
    return;
  }
  fvg_settings_set_number(x, "lambda_base", o->lambda_base);
  fvg_settings_set_number(x, "lambda_new", o->lambda_new);
  fvg_settings_set(x, "template", o->prompt_template ? o->prompt_template : "a photo of a {}.");
  fvg_settings_set(x, "fill", o->fill_black ? "black" : "mean");
  fvg_settings_set(x, "calibration", calibration_name[calibration_of(o, r)]);
  fvg_settings_set(x, "entropy", normalised_of(o, r) ? "normalised" : "raw");
}

/* Of all this, of the learner and of the modules, for the state of a stage that may be cut off. */
static void mark_of(const fvg_settings *x, const fvg_learner *l, const table_row *r, char mark[32]) {
  uint64_t h = mark_start;
  int i, number[7];
  for (i = 0; i < x->n; i++) {
    const char *before = value_before(x->entry[i].key);
    if (before && !strcmp(before, x->entry[i].value)) continue; /* states of before stay valid */
    h = mark_bytes(h, x->entry[i].key, strlen(x->entry[i].key) + 1);
    h = mark_bytes(h, x->entry[i].value, strlen(x->entry[i].value) + 1);
  }
  h = mark_bytes(h, l->method->name, strlen(l->method->name) + 1);
  if (l->words && l->method->start == FVG__LAST_SLOTS) /* ProGrad once started from noise */
    h = mark_bytes(h, l->words, strlen(l->words) + 1);
  h = mark_bytes(h, l->prompt_template, strlen(l->prompt_template) + 1);
  for (i = 0; l->method->option[i].name; i++) h = mark_bytes(h, &l->option[i], sizeof l->option[i]);
  number[0] = l->desc.n_ctx;
  number[1] = l->desc.class_specific;
  number[2] = (int)l->desc.class_token_position;
  number[3] = r->dpc;
  number[4] = r->no_frg;
  number[5] = r->no_fdc;
  number[6] = r->no_pc;
  h = mark_bytes(h, number, sizeof number);
  snprintf(mark, 32, "%08lx%08lx", (unsigned long)(h >> 32), (unsigned long)(h & 0xffffffffu));
}

static fvg_status other_settings(fvg_ctx *c, const char *path, const char *what) {
  return fvg_fail(c, FVG_E_ARG, "%s was tuned %s; choose another --out or remove it", path, what);
}

/* What another value of a mark means, whose digits would tell nobody anything; NULL: it is no mark. */
static const char *of_mark(const char *key) {
  static const char *const mark[][2] = {
    {"model", "on another model"}, {"towers", "on another model"}, {"images", "on other pictures"},
    {"masks", "with other masks or another --masks"}
  };
  size_t i;
  for (i = 0; i < sizeof mark / sizeof *mark; i++) if (!strcmp(mark[i][0], key)) return mark[i][1];
  return NULL;
}

/* Is the learner in the checkpoint the one we would tune? */
static fvg_status check_same(fvg_ctx *c, const char *path, const fvg_learner *have, const fvg_learner *want) {
  int i;
  if (have->method != want->method) return other_settings(c, path, "by another method");
  for (i = 0; i < want->n_class; i++)
    if (have->n_class != want->n_class || !fvg_same_name(c, have->class_name[i], want->class_name[i]))
      return other_settings(c, path, "on other classes");
  if (have->desc.n_ctx != want->desc.n_ctx || have->desc.class_specific != want->desc.class_specific ||
      have->desc.class_token_position != want->desc.class_token_position || have->n_fixed != want->n_fixed)
    return other_settings(c, path, "with another shape of context");
  if (strcmp(have->words ? have->words : "", want->words ? want->words : ""))
    return other_settings(c, path, "from other words");
  if ((want->g_clip || !want->method->n_ctx) && strcmp(have->prompt_template, want->prompt_template))
    return other_settings(c, path, "with another template");
  for (i = 0; want->method->option[i].name; i++)
    if (have->option[i] != want->option[i]) return other_settings(c, path, "with other options of the method");
  return FVG_OK;
}

/* A finished checkpoint made with the same settings, and its curve, or nothing; other settings are an error, so that
   nothing is lost. */
static fvg_status reuse(tuning *t, const char *path, const fvg_settings *x, fvg_learner *like, fvg_learner **l,
                        fvg_fvgpt **f, char **curve) {
  fvg_ctx *c = t->m->ctx;
  fvg_weights *w;
  int i;
  fvg_status s;
  *l = NULL;
  *f = NULL;
  if (!fvg_file_exists(path)) return FVG_OK;
  s = fvg_checkpoint_load(t->m, l, f, &w, path);
  if (s) return s;
  s = check_same(c, path, *l, like);
  for (i = 0; !s && i < x->n; i++) {
    const char *value = fvg_weights_metadata(w, x->entry[i].key);
    if (!value && is_newer_mark(x->entry[i].key)) continue;
    if (!value) value = value_before(x->entry[i].key);
    if (value && strcmp(value, x->entry[i].value) && of_mark(x->entry[i].key))
      s = other_settings(c, path, of_mark(x->entry[i].key));
    else if (!value || strcmp(value, x->entry[i].value))
      s = fvg_fail(c, FVG_E_ARG, "%s was tuned with %s %s, not %s; choose another --out or remove it",
                   path, x->entry[i].key, value ? value : "unset", x->entry[i].value);
  }
  if (!s && !t->o->exif_rotate && fvg_weights_metadata(w, "exif_rotate"))
    s = other_settings(c, path, "with --exif-rotate");
  if (!s && curve && fvg_weights_metadata(w, "epoch_loss")) {
    *curve = fvg_copy_string(c, fvg_weights_metadata(w, "epoch_loss"));
    if (!*curve) s = FVG_E_NOMEM;
  }
  fvg_weights_close(w);
  if (s) { fvg_learner_free(*l); fvg_fvgpt_free(*f); *l = NULL; *f = NULL; }
  return s;
}

/* What a killed run left of files that it was writing; nobody else writes to these folders. */
#ifdef FVGPT_DIRENT
static void remove_if_temporary(void *folder, const char *name, int is_folder) {
  char path[1400];
  int n = snprintf(path, sizeof path, "%s/%s", (const char *)folder, name);
  if (!is_folder && fvg_file_is_temporary(name) && n > 0 && (size_t)n < sizeof path) remove(path);
}

static void remove_temporaries(const char *folder) {
  (void)fvg_list_folder(NULL, folder, remove_if_temporary, (void *)folder);
}
#else
static void remove_temporaries(const char *folder) { (void)folder; }
#endif

static fvg_status checkpoint_path(const tuning *t, const char *name, int seed, char *path, size_t n) {
  char folder[1180];
  fvg_status s;
  snprintf(folder, sizeof folder, "%s/%s/seed%d", t->out, name, seed);
  s = make_folders(t->m->ctx, folder);
  if (!s) remove_temporaries(folder);
  path_in(folder, path, n);
  return s;
}

/* FVG-PT's foreground modules, and methods that train on the foreground. */
static int needs_masks(const table_row *r) {
  if (r->backbone >= 0) return !r->dpc && (!r->no_frg || !r->no_fdc);
  return r->method && (fvg_method_needs(r->method) & FVG_NEEDS_FOREGROUND);
}

/* Of a run's stages, in which pictures are cropped differently. */
enum { STAGE_1 = 1, STAGE_2, STAGE_HALF_1, STAGE_HALF_2, STAGE_DPC };

/* Views of plain CLIP for a method's training, and for stage 2 on backbones that leave the image tower alone; else of
   the learner.  New crops in every epoch come from the run's seed; everything else is the same for all seeds.  To be
   given back. */
static fvg_status views_for(tuning *t, int seed, int stage, fvg_learner *l, fvg_views **views) {
  fvg_views_desc desc = t->augment;
  int trains = stage == STAGE_1 || stage == STAGE_DPC, i;
  int plain = trains || fvg_learner_feature_width(t->m, l) == t->m->embed_dim;
  fvg_status s;
  desc.crop_scale_min = fvg_method_crop_scale(fvg_method_find(fvg_learner_method(l)));
  desc.no_foreground = trains && !(fvg_learner_needs(l) & FVG_NEEDS_FOREGROUND);
  if (!plain) desc.learner = l;
  if (plain && desc.augment == FVG_AUGMENT_FIXED_CROPS && desc.crop_scale_min > 0.1f)      /* crops of its own      */
    return fvg_views_new(t->m, views, &t->d, &desc);
  *views = t->views;
  if (plain && t->views) return FVG_OK;
  if (desc.augment == FVG_AUGMENT_CROP) {
    desc.seed = (uint64_t)seed + 1000000u * (uint64_t)stage;
    return fvg_views_new(t->m, views, &t->d, &desc);
  }
  if (!plain && stage != STAGE_2) return fvg_views_new(t->m, views, &t->d, &desc);
  if (!plain) {
    s = t->own_views ? FVG_OK : fvg_views_new(t->m, &t->own_views, &t->d, &desc);
    *views = t->own_views;
    return s;
  }
  desc.no_foreground = 1;                           /* shared by all rows                                          */
  for (i = 0; i < t->n_row; i++) if (needs_masks(&t->row[i])) desc.no_foreground = 0;
  s = fvg_views_new(t->m, &t->views, &t->d, &desc);
  *views = t->views;
  return s;
}

static void views_done(const tuning *t, fvg_views *views) {
  if (views != t->views && views != t->own_views) fvg_views_free(views);
}

/* The losses of the stage that has just trained become its curve and, behind the settings that count, metadata. */
static fvg_status keep_curve(tuning *t, const double *loss, int n, fvg_settings *x, char **curve) {
  document d;
  int i;
  memset(&d, 0, sizeof d);
  d.c = t->m->ctx;
  for (i = 0; i < n; i++) put(&d, i ? " %.6g" : "%.6g", loss[i]);
  *curve = d.text;
  if (!d.status) fvg_settings_set(x, "epoch_loss", *curve);
  return d.status;
}

/* ---- the stages ---- */
static fvg_status learner_for(tuning *t, const table_row *r, const char *const *name, int n_class, int seed,
                              fvg_learner **l) {
  fvg_learner_desc desc;
  fvg_option option[MAX_OPTIONS];
  fvg_status s = learner_desc(t->m->ctx, t->o, r->method, t->d.card, t->at->shots, option, &desc);
  desc.seed = (uint64_t)seed;
  return s ? s : fvg_learner_new(t->m, l, name, n_class, &desc);
}

/* A stage at work: its checkpoint, its state while it lasts, that of the cross-fitted gate, and what determines it. */
typedef struct stage {
  fvg_settings settings;
  char path[1280], state[1300], gate_state[1300], mark[32];
  fvg_train_desc desc;
} stage;

static void remove_states(const stage *g) {
  remove(g->state);
  remove(g->gate_state);
}

/* Its finished result in *l and *f, or both NULL and `g` ready to train.  like: the learner that it should be. */
static fvg_status stage_begin(tuning *t, stage *g, const table_row *r, const char *name, int seed,
                              const fvg_items *items, fvg_learner *like, fvg_learner **l, fvg_fvgpt **f,
                              char **curve) {
  fvg_status s = checkpoint_path(t, name, seed, g->path, sizeof g->path);
  *l = NULL;
  *f = NULL;
  g->desc = train_desc_of(t, r, seed);
  describe(t, r, seed, items, &g->settings);
  mark_of(&g->settings, like, r, g->mark);
  if (!s) s = reuse(t, g->path, &g->settings, like, l, f, curve);
  if (s) return s;
  snprintf(g->state, sizeof g->state, "%s.part", g->path);
  snprintf(g->gate_state, sizeof g->gate_state, "%s.gate.part", g->path);
  if (*l) {
    remove_states(g);                               /* the run may have ended between the checkpoint and this        */
    print(stderr, "%-10s seed %d: reusing %s\n", name, seed, g->path);
    return FVG_OK;
  }
  g->desc.state = g->state;
  g->desc.state_mark = g->mark;
  g->desc.epoch_loss = (double *)fvg_alloc_array(t->m->ctx, (size_t)g->desc.optimizer.epochs, sizeof(double));
  return g->desc.epoch_loss ? FVG_OK : FVG_E_NOMEM;
}

/* s: how training went. */
static fvg_status stage_end(tuning *t, stage *g, fvg_status s, fvg_learner *l, fvg_fvgpt *f, char **curve) {
  if (!s) s = keep_curve(t, g->desc.epoch_loss, g->desc.optimizer.epochs, &g->settings, curve);
  fvg_settings_set(&g->settings, "preset", preset_name[t->o->preset]); /* told, not compared: the numbers count */
  if (!s) s = fvg_checkpoint_save(l, f, g->path, g->settings.entry, g->settings.n);
  if (!s) remove_states(g);
  fvg_release(t->m->ctx, g->desc.epoch_loss);
  return s;
}

/* Stage 1 of `name` on some pictures, or its finished result. */
static fvg_status stage_1(tuning *t, const table_row *r, const char *name, int seed, const fvg_items *items,
                          const char *const *class_name, int n_class, fvg_learner **l, char **curve) {
  stage g;
  fvg_views *views = NULL;
  fvg_learner *done = NULL;
  fvg_fvgpt *none = NULL;
  fvg_status s = learner_for(t, r, class_name, n_class, seed, l);
  if (!s) s = stage_begin(t, &g, r, name, seed, items, *l, &done, &none, curve);
  fvg_fvgpt_free(none);
  if (s) return s;
  if (done) {
    fvg_learner_free(*l);
    *l = done;
    return FVG_OK;
  }
  s = views_for(t, seed, STAGE_1, *l, &views);
  if (!s) {
    const fvg_task task = {NULL, *items, class_name, n_class, 0};
    s = fvg_learner_train(*l, views, &task, &g.desc);
  }
  views_done(t, views);
  return stage_end(t, &g, s, *l, NULL, curve);
}

/* Pictures of every other class of `items`, from class `first` on, their labels counted anew. */
static fvg_status every_other(fvg_ctx *c, const fvg_items *items, int first, fvg_items *out) {
  int i;
  out->item = (fvg_item *)fvg_alloc_array(c, (size_t)items->n, sizeof *out->item);
  out->n = 0;
  if (!out->item) return FVG_E_NOMEM;
  for (i = 0; i < items->n; i++)
    if (items->item[i].label % 2 == first) {
      out->item[out->n] = items->item[i];
      out->item[out->n++].label /= 2;
    }
  return FVG_OK;
}

/* One time in a hundred chance alone gives such evidence (fvg_calibration_evidence). */
static const double guard = 2.33;

/* The backbone gate of f once more, on classes that its prompts have not seen: the method is tuned on each half of
   the classes, and the gate learns from the other half.  Guarded, it does so only if plain CLIP scores these pictures
   better than the halves' learners, by more than chance explains. */
static fvg_status calibrate(tuning *t, const table_row *r, int seed, const fvg_items *items, fvg_learner *tuned,
                            fvg_fvgpt *f, const stage *g) {
  fvg_ctx *c = t->m->ctx;
  const table_row *backbone = &t->row[r->backbone];
  fvg_train_desc desc = train_desc_of(t, r, seed);
  fvg_calibration_source source[2];
  fvg_task task[2];
  fvg_items half[2];
  fvg_learner *l[2] = {NULL, NULL};
  fvg_views *v[2] = {NULL, NULL};
  const char **name[2];
  double evidence = HUGE_VAL;
  int n[2], i;
  fvg_status s = FVG_OK;
  desc.state = g->gate_state;
  desc.state_mark = g->mark;
  memset(half, 0, sizeof half);
  for (i = 0; i < 2; i++) {
    name[i] = (const char **)fvg_alloc_array(c, (size_t)tuned->n_class, sizeof *name[i]);
    n[i] = 0;
    if (!name[i]) s = FVG_E_NOMEM;
  }
  for (i = 0; !s && i < tuned->n_class; i++) name[i % 2][n[i % 2]++] = tuned->class_name[i];
  for (i = 0; !s && i < 2; i++) s = every_other(c, items, i, &half[i]);
  for (i = 0; !s && i < 2; i++) {
    char part[96], *curve = NULL;
    snprintf(part, sizeof part, "%s.half%d", backbone->name, i + 1);
    s = stage_1(t, backbone, part, seed, &half[i], name[i], n[i], &l[i], &curve);
    fvg_release(c, curve);
    if (!s) s = views_for(t, seed, i ? STAGE_HALF_2 : STAGE_HALF_1, l[i], &v[i]);
  }
  for (i = 0; i < 2; i++) {
    source[i].learner = l[i];
    source[i].views = v[i];
    memset(&task[i], 0, sizeof task[i]);
    task[i].items = half[1 - i];
    task[i].class_name = name[1 - i];
    task[i].n_class = n[1 - i];
    source[i].task = &task[i];
  }
  if (!s && t->o->calibration == GUARDED) {
    s = fvg_calibration_evidence(&evidence, source, 2, t->o->prompt_template);
    if (!s)
      fvg_log(c, 0, "%s seed %d: on unseen classes CLIP is better by %.2f deviations; the %s gate is taken", r->name,
              seed, evidence, evidence > guard ? "cross-fitted" : "published");
  }
  desc.prompt_template = t->o->prompt_template;
  if (!s && evidence > guard) s = fvg_fvgpt_calibrate(f, source, 2, &desc);
  for (i = 0; i < 2; i++) {
    views_done(t, v[i]);
    fvg_learner_free(l[i]);
    fvg_items_free(c, &half[i]);
    fvg_release(c, name[i]);
  }
  return s;
}

/* FVG-PT on the tuned learner, or its finished result. */
static fvg_status stage_fvgpt(tuning *t, int row, int run, const fvg_items *items, fvg_learner *l, fvg_fvgpt **f) {
  const table_row *r = &t->row[row];
  int seed = t->seed[run];
  stage g;
  fvg_fvgpt_desc modules;
  fvg_views *views = NULL;
  fvg_learner *done = NULL;
  fvg_status s = stage_begin(t, &g, r, r->name, seed, items, l, &done, f, &t->curve[row][run]);
  fvg_learner_free(done);
  if (s || *f) return s;
  memset(&modules, 0, sizeof modules);
  modules.width = t->m->embed_dim;
  modules.logit_scale = t->m->logit_scale;
  modules.lambda_base = t->o->lambda_base > 0 ? (float)t->o->lambda_base : -1;
  modules.lambda_new = t->o->lambda_new > 0 ? (float)t->o->lambda_new : -1;
  modules.no_frg = r->no_frg;
  modules.no_fdc = r->no_fdc;
  modules.no_pc = r->no_pc;
  modules.normalise_entropy = normalised_of(t->o, r);
  modules.seed = (uint64_t)seed;
  s = fvg_fvgpt_new(t->m->ctx, f, &modules);
  if (!s) s = views_for(t, seed, STAGE_2, l, &views);
  g.desc.prompt_template = t->o->prompt_template;
  if (!s) {
    const fvg_task task = {NULL, *items, NULL, 0, 0};
    s = fvg_fvgpt_train(*f, l, views, &task, &g.desc);
  }
  if (!s && calibration_of(t->o, r) != PUBLISHED) s = calibrate(t, r, seed, items, l, *f, &g);
  views_done(t, views);
  return stage_end(t, &g, s, l, *f, &t->curve[row][run]);
}

/* DPC on the tuned learner, or its finished result: the learners for base and for new classes, the second with a
   checkpoint of its own in the folder `new`. */
static fvg_status stage_dpc(tuning *t, int row, int run, const fvg_items *items, fvg_learner *tuned,
                            fvg_learner **base, fvg_learner **for_new) {
  const table_row *r = &t->row[row];
  int seed = t->seed[run];
  stage g;
  char folder[1180], path[1280];
  fvg_dpc_desc dpc;
  fvg_views *views = NULL;
  fvg_fvgpt *none = NULL;
  fvg_status s = stage_begin(t, &g, r, r->name, seed, items, tuned, base, &none, &t->curve[row][run]);
  fvg_fvgpt_free(none);
  if (s) return s;
  memset(&dpc, 0, sizeof dpc);
  dpc.weight = (float)t->o->dpc_weight;
  dpc.top_k = t->o->dpc_top_k;
  if (!*base) {
    s = fvg_learner_copy(base, tuned);
    if (!s) s = views_for(t, seed, STAGE_DPC, tuned, &views);
    if (!s) {
      const fvg_task task = {NULL, *items, NULL, 0, 0};
      s = fvg_dpc_train(*base, tuned, views, &task, &dpc, &g.desc);
    }
    views_done(t, views);
    s = stage_end(t, &g, s, *base, NULL, &t->curve[row][run]);
  }
  if (!s) s = fvg_learner_copy(for_new, *base);
  if (!s) s = fvg_dpc_reweigh(*for_new, tuned, dpc.weight, (float)t->o->dpc_weight_for_new);
  snprintf(folder, sizeof folder, "%s/%s/seed%d/new", t->out, r->name, seed);
  path_in(folder, path, sizeof path);
  if (!s) s = make_folders(t->m->ctx, folder);
  if (!s) remove_temporaries(folder);
  fvg_settings_set_number(&g.settings, "dpc_weight_for_new", t->o->dpc_weight_for_new);
  return s ? s : fvg_checkpoint_save(*for_new, NULL, path, g.settings.entry, g.settings.n);
}
