/* fvgpt tune and eval: the protocols, in which lists of methods, data sets and seeds are trained and tested.  What is
   finished lies in --out as checkpoints and is used again; a stage that was cut off goes on from its last epoch. */

enum { MAX_SEEDS = 64, MAX_ROWS = 96, MAX_TESTS = 16, MAX_ENTRIES = 64, KEY_BYTES = 80 };

/* ---- data sets and test sets ---- */
static fvg_status open_root(fvg_ctx *c, const options *o, const char *root, const char *dataset, fvg_dataset *d) {
  fvg_dataset_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.root = root;
  desc.dataset = dataset;
  desc.split = o->split;
  return fvg_dataset_open(c, d, &desc);
}

static fvg_status open_data(fvg_ctx *c, const options *o, fvg_dataset *d) {
  if (o->dataset_root && o->dataset) return open_root(c, o, o->dataset_root, o->dataset, d);
  if (!o->data)
    return fvg__fail(c, FVG_E_ARG, "%s needs --data ROOT, or --dataset-root DATA --dataset NAME", o->command);
  return open_root(c, o, o->data, NULL, d);
}

/* The test pictures of a half; none is an error. */
static fvg_status test_items(fvg_ctx *c, const fvg_dataset *d, fvg_half half, fvg_items *items) {
  fvg_status s = fvg_items_half(c, items, &d->test, d->n_class, half);
  if (!s && items->n < 1)
    s = fvg__fail(c, FVG_E_ARG, "%s: no test images of %s classes", d->root, half == FVG_NEW ? "new" : "these");
  return s;
}

typedef struct test_set {                           /* test pictures of some classes, and plain CLIP's features */
  char name[KEY_BYTES];
  const fvg_dataset *d;
  fvg_half half;
  int seen;                                         /* the methods have been trained on these classes */
  fvg_items items;
  const char *const *class_name;
  int n_class, *label;
  float *f;
} test_set;

static void test_free(fvg_ctx *c, test_set *x) {
  fvg_items_free(c, &x->items);
  fvg__release(c, x->label);
  fvg__release(c, x->f);
  memset(x, 0, sizeof *x);
}

static fvg_status test_new(fvg_clip *m, test_set *x, const fvg_dataset *d, fvg_half half, const char *name,
                           int seen) {
  fvg_ctx *c = m->ctx;
  int first, i;
  fvg_status s;
  memset(x, 0, sizeof *x);
  snprintf(x->name, sizeof x->name, "%s", name);
  x->d = d;
  x->half = half;
  x->seen = seen;
  x->n_class = fvg_half_classes(d->n_class, half, &first);
  x->class_name = (const char *const *)d->class_name + first;
  s = test_items(c, d, half, &x->items);
  if (!s) {
    x->label = (int *)fvg__alloc_array(c, (size_t)x->items.n, sizeof *x->label);
    x->f = (float *)fvg__alloc_array(c, (size_t)x->items.n * (size_t)m->embed_dim, sizeof *x->f);
    if (!x->label || !x->f) s = FVG_E_NOMEM;
  }
  for (i = 0; !s && i < x->items.n; i++) x->label[i] = x->items.item[i].label;
  if (!s) s = fvg_encode_items(m, NULL, d, &x->items, x->f);
  if (s) test_free(c, x);
  return s;
}

/* f: the test set's features as learner l makes them. */
static fvg_status score_set(fvg_clip *m, const test_set *x, const float *f, fvg_branch branch, fvg_learner *l,
                            fvg_fvgpt *modules, const char *prompt_template, fvg_score *score) {
  fvg_ctx *c = m->ctx;
  float *logits = (float *)fvg__alloc_array(c, (size_t)x->items.n * (size_t)x->n_class, sizeof *logits);
  fvg_classifier *k = NULL;
  fvg_status s = logits ? fvg_classifier_new(m, &k, branch, l, modules, prompt_template, x->class_name, x->n_class)
                        : FVG_E_NOMEM;
  if (!s) s = fvg_classifier_logits(k, f, x->items.n, logits, NULL);
  if (!s) s = fvg_score_of(c, score, logits, x->label, x->items.n, x->n_class);
  fvg_classifier_free(k);
  fvg__release(c, logits);
  return s;
}

/* Features of a test set by l's tower, to be released; *f is x->f where l leaves the tower alone. */
static fvg_status features_of(fvg_clip *m, fvg_learner *l, const test_set *x, float **f) {
  size_t width = (size_t)fvg_learner_feature_width(m, l);
  *f = x->f;
  if (width == (size_t)m->embed_dim) return FVG_OK;
  *f = (float *)fvg__alloc_array(m->ctx, (size_t)x->items.n * width, sizeof **f);
  return *f ? fvg_encode_items(m, l, x->d, &x->items, *f) : FVG_E_NOMEM;
}

/* ---- eval ---- */
static fvg_status eval(fvg_ctx *c, const options *o) {
  fvg_clip *m = NULL;
  fvg_learner *l = NULL;
  fvg_fvgpt *f = NULL;
  fvg_weights *settings = NULL;
  fvg_classifier *k = NULL;
  const char *const *class_name = NULL;
  fvg_dataset d;
  fvg_items items;
  fvg_score score;
  fvg_half half = FVG_ALL;
  int first, n_class = 0;
  fvg_status s;
  if (!o->checkpoint || !o->half)
    return fvg__fail(c, FVG_E_ARG, "eval needs --checkpoint DIR and --split-half base|new|all");
  if (!strcmp(o->half, "base")) half = FVG_BASE;
  else if (!strcmp(o->half, "new")) half = FVG_NEW;
  else if (strcmp(o->half, "all"))
    return fvg__fail(c, FVG_E_ARG, "--split-half %s: base, new or all is expected", o->half);
  memset(&d, 0, sizeof d);
  memset(&items, 0, sizeof items);
  s = open_model(c, o, &m);
  if (!s) s = open_data(c, o, &d);
  if (!s) s = test_items(c, &d, half, &items);
  if (!s) {
    n_class = fvg_half_classes(d.n_class, half, &first);
    class_name = (const char *const *)d.class_name + first;
    s = open_checkpoint(m, o, class_name, n_class, &l, &f, &settings);
  }
  if (!s)
    s = fvg_classifier_new(m, &k, branch_of(l, f, half), l, f, template_of(o, settings), class_name, n_class);
  if (!s) s = fvg_classifier_test(k, &d, &items, &score);
  if (!s)
    printf("%s classes %d  images %d  correct %d  accuracy %.2f  error %.2f  macro_f1 %.2f\n", o->half, n_class,
           score.n, score.n_correct, score.accuracy, 100 - score.accuracy, score.macro_f1);
  fvg_classifier_free(k);
  fvg_items_free(c, &items);
  fvg_dataset_free(&d);
  fvg_weights_close(settings);
  fvg_fvgpt_free(f);
  fvg_learner_free(l);
  fvg_clip_free(m);
  return s;
}

/* ---- the rows of the table ---- */
/* Zero-shot CLIP, a method alone, or FVG-PT on it, whole or with modules left out (the paper's Table 3). */
typedef struct table_row {
  char name[64];
  const fvg_method *method;                         /* NULL: zero-shot */
  int backbone;                                     /* of FVG-PT: the row whose learner it sits on; else -1 */
  int no_frg, no_fdc, no_pc;
} table_row;

/* What is trained and tested together: a data set and a number of shots. */
typedef struct table_entry {
  char key[KEY_BYTES + 16];                         /* its folder in --out when there are several */
  const char *root, *dataset;
  int shots;
} table_entry;

typedef struct tuning {
  const options *o;
  fvg_clip *m;
  table_row row[MAX_ROWS];
  table_entry entry[MAX_ENTRIES];
  int n_row, n_entry, seed[MAX_SEEDS], n_seed;
  fvg_option option[32];
  int n_option;
  fvg_views_desc augment;
  /* of the entry at work */
  char out[1100];
  const table_entry *at;
  fvg_dataset d, target[MAX_TESTS];
  test_set test[MAX_TESTS];
  int n_test, n_target;
  fvg_half train_half;
  double result[MAX_ROWS][MAX_SEEDS][MAX_TESTS];
  char *curve[MAX_ROWS][MAX_SEEDS];                 /* losses per epoch as text: numbers with blanks between */
  fvg_views *views;                                 /* plain CLIP's, shared by seeds and stages, unless every epoch
                                                       crops anew */
  fvg_views *own_views;                             /* likewise those of the backbone at work, if it has its own    */
  /* of all entries: mean over seeds */
  double mean[MAX_ENTRIES][MAX_ROWS][MAX_TESTS];
} tuning;

static int row_named(const tuning *t, const char *name) {
  int i;
  for (i = 0; i < t->n_row && strcmp(t->row[i].name, name); i++) {}
  return i < t->n_row ? i : -1;
}

/* The row's number, or -1 when there is no more room. */
static int add_row(tuning *t, const char *name, const fvg_method *method, int backbone) {
  int at = row_named(t, name);
  if (at >= 0 || t->n_row == MAX_ROWS) return at;
  snprintf(t->row[t->n_row].name, sizeof t->row[0].name, "%s", name);
  t->row[t->n_row].method = method;
  t->row[t->n_row].backbone = backbone;
  return t->n_row++;
}

/* CoOp's ablation rows bear the modules' names alone, others' the method's as well. */
static void add_ablation(tuning *t, const fvg_method *method, int backbone) {
  static const struct { const char *name; int no_frg, no_fdc, no_pc; } part[] = {
    {"FDC", 1, 0, 1}, {"PC", 0, 1, 0}, {"FRG+FDC", 0, 0, 1}, {"FDC+PC", 1, 0, 0}
  };
  size_t i;
  for (i = 0; i < sizeof part / sizeof *part; i++) {
    char name[64];
    int at;
    snprintf(name, sizeof name, "%s%s%s", strcmp(fvg_method_name(method), "CoOp") ? fvg_method_name(method) : "",
             strcmp(fvg_method_name(method), "CoOp") ? "_" : "", part[i].name);
    at = add_row(t, name, method, backbone);
    if (at < 0) return;
    t->row[at].no_frg = part[i].no_frg;
    t->row[at].no_fdc = part[i].no_fdc;
    t->row[at].no_pc = part[i].no_pc;
  }
}

static fvg_status parse_trainers(tuning *t, fvg_ctx *c) {
  static const char *const calibration[] = {"", "+crossfit", "+constant"};
  const char *at = t->o->trainer;
  add_row(t, "zero_shot", NULL, -1);
  while (*at) {
    const fvg_method *method;
    char name[64], full[96];
    size_t n = strcspn(at, ",");
    int fvgpt = !strncmp(at, "FVGPT_", 6), backbone;
    if (n >= sizeof name) n = sizeof name - 1;
    memcpy(name, at, n);
    name[n] = 0;
    method = fvg_method_named(fvgpt ? name + 6 : name);
    if (!method)
      return fvg__fail(c, FVG_E_ARG, "--trainer %s: CoOp, KgCoOp, ProGrad, CoCoOp, PromptSRC, MaPLe, DAPT, MMRL, or "
                                     "one of them behind FVGPT_ is expected", name);
    if (fvgpt && !strcmp(fvg_method_name(method), "CoCoOp"))
      return fvg__fail(c, FVG_E_UNSUPPORTED, "FVGPT_CoCoOp: CoCoOp has no text features of classes alone, which "
                                             "FVG-PT adapts");
    backbone = add_row(t, fvg_method_name(method), method, -1);
    if (fvgpt) {
      snprintf(full, sizeof full, "%s%s%s", name, calibration[t->o->crossfit], t->o->normalised ? "+normalised" : "");
      add_row(t, full, method, backbone);
      if (t->o->ablate) add_ablation(t, method, backbone);
    }
    at += strcspn(at, ",");
    at += *at == ',';
  }
  return t->n_row > 1 ? FVG_OK : fvg__fail(c, FVG_E_ARG, "--trainer: no trainer is named");
}

static fvg_status parse_seeds(tuning *t, fvg_ctx *c, const char *text) {
  const char *all = text;
  char *end;
  do {
    long seed = strtol(text, &end, 10);
    if (end == text || seed < 0 || seed > 2147483647L || (*end && *end != ',') || t->n_seed == MAX_SEEDS)
      return fvg__fail(c, FVG_E_ARG, "--seeds %s: up to %d whole numbers with commas are expected", all, MAX_SEEDS);
    t->seed[t->n_seed++] = (int)seed;
    text = end + 1;
  } while (*end);
  return FVG_OK;
}

static fvg_status parse_augment(tuning *t, fvg_ctx *c, const char *text) {
  char tail;
  if (!strcmp(text, "crop")) t->augment.augment = FVG_AUGMENT_CROP;
  else if (!strcmp(text, "none")) t->augment.augment = FVG_AUGMENT_NONE;
  else if (!strcmp(text, "squash")) t->augment.augment = FVG_AUGMENT_SQUASH;
  else if (sscanf(text, "crop:%d%c", &t->augment.n_crops, &tail) == 1 &&
           t->augment.n_crops >= 1 && t->augment.n_crops <= 10000)
    t->augment.augment = FVG_AUGMENT_FIXED_CROPS;
  else return fvg__fail(c, FVG_E_ARG, "--augment %s: crop, none, squash or crop:K is expected", text);
  t->augment.fill_black = t->o->fill_black;
  return FVG_OK;
}

static fvg_status parse_position(fvg_ctx *c, const char *text, fvg_position *out) {
  static const char *const name[] = {"end", "middle", "front"};
  int i;
  for (i = 0; i < 3; i++)
    if (!strcmp(text, name[i])) { *out = (fvg_position)i; return FVG_OK; }
  return fvg__fail(c, FVG_E_ARG, "--class-token-position %s: end, middle or front is expected", text);
}

/* --set NAME=VALUE, which one of the trainers at least must know. */
static fvg_status parse_options_of_methods(tuning *t, fvg_ctx *c) {
  int i, r, k;
  for (i = 0; i < t->o->n_set; i++) {
    const char *text = t->o->set[i], *equals = strchr(text, '=');
    double low, high;
    fvg_option known;
    char *end;
    int found = 0;
    if (!equals || i == (int)(sizeof t->option / sizeof *t->option))
      return fvg__fail(c, FVG_E_ARG, "--set %s: NAME=VALUE is expected, at most 32 times", text);
    t->option[i].value = strtod(equals + 1, &end);
    if (end == equals + 1 || *end) return fvg__fail(c, FVG_E_ARG, "--set %s: %s is not a number", text, equals + 1);
    for (r = 0; r < t->n_row && !found; r++)
      for (k = 0; t->row[r].method && fvg_method_option(t->row[r].method, k, &known, &low, &high); k++)
        if (strlen(known.name) == (size_t)(equals - text) && !strncmp(known.name, text, (size_t)(equals - text))) {
          t->option[i].name = known.name;
          found = 1;
        }
    if (!found) return fvg__fail(c, FVG_E_ARG, "--set %s: none of the trainers has this option", text);
    t->n_option++;
  }
  return FVG_OK;
}

/* The last name of a path. */
static void key_of_path(const char *path, char *key, size_t size) {
  const char *end = path + strlen(path), *begin;
  while (end > path && (end[-1] == '/' || end[-1] == '\\')) end--;
  for (begin = end; begin > path && begin[-1] != '/' && begin[-1] != '\\'; begin--) {}
  snprintf(key, size, "%.*s", (int)(end - begin), begin);
}

static fvg_status add_entry(tuning *t, fvg_ctx *c, const char *root, const char *dataset, int shots) {
  table_entry *e = &t->entry[t->n_entry];
  char key[KEY_BYTES];
  int i;
  if (t->n_entry == MAX_ENTRIES) return fvg__fail(c, FVG_E_ARG, "more than %d data sets times shots", MAX_ENTRIES);
  if (dataset) snprintf(key, sizeof key, "%s", dataset);
  else key_of_path(root, key, sizeof key);
  if (t->o->n_shots > 1) snprintf(e->key, sizeof e->key, "%s-shots%d", key, shots);
  else snprintf(e->key, sizeof e->key, "%s", key);
  e->root = root;
  e->dataset = dataset;
  e->shots = shots;
  for (i = 0; i < t->n_entry; i++)
    if (!strcmp(t->entry[i].key, e->key))
      return fvg__fail(c, FVG_E_ARG, "two data sets are called %s; their folders in --out would be the same", e->key);
  t->n_entry++;
  return FVG_OK;
}

/* Every data set with every number of shots. */
static fvg_status parse_entries(tuning *t, fvg_ctx *c) {
  const options *o = t->o;
  fvg_status s = FVG_OK;
  int i, k;
  if (o->dataset_root ? !o->n_dataset : !o->n_data)
    return fvg__fail(c, FVG_E_ARG, "tune needs --data ROOT, or --dataset-root DATA --dataset NAME,...");
  for (i = 0; i < (o->dataset_root ? o->n_dataset : o->n_data); i++)
    for (k = 0; !s && k < o->n_shots; k++)
      s = add_entry(t, c, o->dataset_root ? o->dataset_root : o->all_data[i],
                    o->dataset_root ? o->all_dataset[i] : NULL, o->all_shots[k]);
  return s;
}

/* ---- what determines a stage ---- */
/* A short mark of what was tuned on what, wherever the files lie:
   the projections' bytes, and the images' paths and labels. */
static const uint64_t mark_start = 14695981039346656037u;

static uint64_t mark_bytes(uint64_t h, const void *bytes, size_t n) {
  const unsigned char *b = (const unsigned char *)bytes;
  for (; n; n--, b++) h = (h ^ *b) * 1099511628211u;
  return h;
}

static void set_mark(fvg__settings *x, const char *key, uint64_t h) {
  snprintf(x->text[x->n], sizeof x->text[0], "%08lx%08lx",
           (unsigned long)(h >> 32), (unsigned long)(h & 0xffffffffu));
  fvg__set(x, key, x->text[x->n]);
}

static void set_model(fvg__settings *x, const fvg_clip *m) {
  const fvg_tensor *vision = &m->vision.projection, *text = &m->text.projection;
  uint64_t h = mark_bytes(mark_start, vision->data, fvg_tensor_count(vision) * sizeof(float));
  set_mark(x, "model", mark_bytes(h, text->data, fvg_tensor_count(text) * sizeof(float)));
}

/* Rate, epochs and batch: as asked, else the method's own; FVG-PT has ten epochs on every backbone. */
static fvg_train_desc train_desc_of(const tuning *t, const table_row *r, int seed) {
  fvg_train_desc d;
  memset(&d, 0, sizeof d);
  d.optimizer = fvg_method_optimizer(r->method, &d.batch);
  if (r->backbone >= 0) d.optimizer.epochs = 10;
  if (t->o->lr > 0) d.optimizer.lr = (float)t->o->lr;
  if (t->o->epochs) d.optimizer.epochs = t->o->epochs;
  if (t->o->batch) d.batch = t->o->batch;
  d.seed = (uint64_t)seed + (r->backbone >= 0 ? 1000000u : 0u);        /* not stage 1's order again */
  return d;
}

static const char *template_for(const tuning *t) {
  if (t->o->prompt_template) return t->o->prompt_template;
  return t->d.card ? t->d.card->prompt_template : "a photo of a {}.";
}

static void describe(const tuning *t, const table_row *r, int seed, const fvg_items *items, fvg__settings *x) {
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
  fvg__set_number(x, "seed", seed);
  fvg__set_number(x, "shots", t->at->shots);
  fvg__set_number(x, "epochs", d.optimizer.epochs);
  fvg__set_number(x, "lr", (double)d.optimizer.lr);
  fvg__set_number(x, "batch", d.batch);
  fvg__set(x, "augment", o->augment);
  fvg__set(x, "ctx_init", o->ctx_init ? o->ctx_init : "");
  if (r->backbone < 0) return;
  fvg__set_number(x, "lambda_base", o->lambda_base);
  fvg__set_number(x, "lambda_new", o->lambda_new);
  fvg__set(x, "template", o->prompt_template ? o->prompt_template : "a photo of a {}.");
  fvg__set(x, "fill", o->fill_black ? "black" : "mean");
  if (o->crossfit) fvg__set(x, "calibration", o->crossfit == 2 ? "constant" : "crossfit");
}

/* All of it in one line, for the state of a stage that may be cut off. */
static void mark_of(const fvg__settings *x, char *mark, size_t size) {
  size_t at = 0;
  int i;
  mark[0] = 0;
  for (i = 0; i < x->n && at < size; i++)
    at += (size_t)snprintf(mark + at, size - at, "%s=%s;", x->entry[i].key, x->entry[i].value);
}

static fvg_status other_settings(fvg_ctx *c, const char *path, const char *what) {
  return fvg__fail(c, FVG_E_ARG, "%s was tuned %s; choose another --out or remove it", path, what);
}

/* Is the learner in the checkpoint the one we would tune? */
static fvg_status check_same(fvg_ctx *c, const char *path, const fvg_learner *have, const fvg_learner *want) {
  int i;
  if (have->method != want->method) return other_settings(c, path, "by another method");
  for (i = 0; i < want->n_class; i++)
    if (have->n_class != want->n_class || strcmp(have->class_name[i], want->class_name[i]))
      return other_settings(c, path, "on other classes");
  if (have->desc.n_ctx != want->desc.n_ctx || have->desc.class_specific != want->desc.class_specific ||
      have->desc.class_token_position != want->desc.class_token_position)
    return other_settings(c, path, "with another shape of context");
  if ((want->g_clip || !want->method->n_ctx) && strcmp(have->prompt_template, want->prompt_template))
    return other_settings(c, path, "with another template");
  for (i = 0; want->method->option[i].name; i++)
    if (have->option[i] != want->option[i]) return other_settings(c, path, "with other options of the method");
  return FVG_OK;
}

/* A finished checkpoint made with the same settings, and its curve, or nothing; other settings are an error, so that
   nothing is lost. */
static fvg_status reuse(tuning *t, const char *path, const fvg__settings *x, fvg_learner *like, fvg_learner **l,
                        fvg_fvgpt **f, char **curve) {
  fvg_ctx *c = t->m->ctx;
  fvg_weights *w;
  int i;
  fvg_status s;
  *l = NULL;
  *f = NULL;
  if (!fvg__file_exists(path)) return FVG_OK;
  s = fvg_checkpoint_load(t->m, path, l, f, &w);
  if (s) return s;
  s = check_same(c, path, *l, like);
  for (i = 0; !s && i < x->n; i++) {
    const char *value = fvg_weights_metadata(w, x->entry[i].key);
    if (!value || strcmp(value, x->entry[i].value))
      s = fvg__fail(c, FVG_E_ARG, "%s was tuned with %s %s, not %s; choose another --out or remove it",
                    path, x->entry[i].key, value ? value : "unset", x->entry[i].value);
  }
  if (!s && curve && fvg_weights_metadata(w, "epoch_loss")) {
    *curve = fvg__copy_string(c, fvg_weights_metadata(w, "epoch_loss"));
    if (!*curve) s = FVG_E_NOMEM;
  }
  fvg_weights_close(w);
  if (s) { fvg_learner_free(*l); fvg_fvgpt_free(*f); *l = NULL; *f = NULL; }
  return s;
}

static fvg_status checkpoint_path(const tuning *t, const char *name, int seed, char *path, size_t n) {
  char folder[1180];
  snprintf(folder, sizeof folder, "%s/%s/seed%d", t->out, name, seed);
  snprintf(path, n, "%s/checkpoint.safetensors", folder);
  return make_folders(t->m->ctx, folder);
}

/* Views of plain CLIP for stage 1 and for backbones that leave the image tower alone, else of the learner.  New crops
   in every epoch come from the run's seed; everything else is the same for all seeds.  To be given back. */
static fvg_status views_for(tuning *t, int seed, int stage, fvg_learner *l, fvg_views **views) {
  fvg_views_desc desc = t->augment;
  int plain = stage == 1 || fvg_learner_feature_width(t->m, l) == t->m->embed_dim, i;
  int cropped = desc.augment == FVG_AUGMENT_CROP || desc.augment == FVG_AUGMENT_FIXED_CROPS;
  fvg_status s;
  desc.crop_scale_min = fvg_method_crop_scale(fvg_method_named(fvg_learner_method(l)));
  if (!plain) desc.learner = l;
  if (plain && cropped && desc.crop_scale_min > 0.1f && desc.augment != FVG_AUGMENT_CROP)   /* crops of its own     */
    return fvg_views_new(t->m, views, &t->d, &desc);
  *views = t->views;
  if (plain && t->views) return FVG_OK;
  if (desc.augment == FVG_AUGMENT_CROP) {
    desc.seed = (uint64_t)seed + 1000000u * (uint64_t)stage;
    desc.no_foreground = stage == 1 && !(fvg_learner_needs(l) & FVG_NEEDS_FOREGROUND);
    return fvg_views_new(t->m, views, &t->d, &desc);
  }
  if (!plain && stage > 2) return fvg_views_new(t->m, views, &t->d, &desc);
  if (!plain) {
    s = t->own_views ? FVG_OK : fvg_views_new(t->m, &t->own_views, &t->d, &desc);
    *views = t->own_views;
    return s;
  }
  desc.no_foreground = 1;
  for (i = 0; i < t->n_row; i++)
    if (t->row[i].backbone >= 0 || (t->row[i].method && !strcmp(t->row[i].name, "DAPT"))) desc.no_foreground = 0;
  s = fvg_views_new(t->m, &t->views, &t->d, &desc);
  *views = t->views;
  return s;
}

static void views_done(const tuning *t, fvg_views *views) {
  if (views != t->views && views != t->own_views) fvg_views_free(views);
}

/* The losses of the stage that has just trained become its curve and, behind the settings that count, metadata. */
static fvg_status keep_curve(tuning *t, const double *loss, int n, fvg__settings *x, char **curve) {
  document d;
  int i;
  memset(&d, 0, sizeof d);
  d.c = t->m->ctx;
  for (i = 0; i < n; i++) put(&d, i ? " %.6g" : "%.6g", loss[i]);
  *curve = d.text;
  if (!d.status) fvg__set(x, "epoch_loss", *curve);
  return d.status;
}

/* ---- the stages ---- */
static fvg_status learner_for(tuning *t, const table_row *r, const char *const *name, int n_class, int seed,
                              fvg_learner **l) {
  fvg_learner_desc desc;
  fvg_option option[32];
  int i, k;
  memset(&desc, 0, sizeof desc);
  desc.method = r->method;
  desc.n_ctx = t->o->n_ctx;
  desc.ctx_init = t->o->ctx_init;
  desc.seed = (uint64_t)seed;
  desc.prompt_template = template_for(t);
  if (t->d.card && !t->o->prompt_template && !strcmp(fvg_method_name(r->method), "KgCoOp"))
    desc.prompt_template = t->d.card->kgcoop_template;
  desc.option = option;
  for (i = 0; i < t->n_option; i++) {               /* those that this method has */
    fvg_option known;
    double low, high;
    for (k = 0; fvg_method_option(r->method, k, &known, &low, &high); k++)
      if (!strcmp(known.name, t->option[i].name)) option[desc.n_option++] = t->option[i];
  }
  if (parse_position(t->m->ctx, t->o->position, &desc.class_token_position)) return t->m->ctx->status;
  return fvg_learner_new(t->m, l, &desc, name, n_class);
}

/* Stage 1 of `name` on some pictures, or its finished result. */
static fvg_status stage_1(tuning *t, const table_row *r, const char *name, int seed, const fvg_items *items,
                          const char *const *class_name, int n_class, fvg_learner **l, char **curve) {
  fvg_train_desc desc = train_desc_of(t, r, seed);
  double *loss = NULL;
  fvg__settings x;
  char path[1280], state[1300], mark[1024];
  fvg_views *views = NULL;
  fvg_learner *done = NULL;
  fvg_fvgpt *none = NULL;
  fvg_status s = learner_for(t, r, class_name, n_class, seed, l);
  describe(t, r, seed, items, &x);
  mark_of(&x, mark, sizeof mark);
  if (!s) s = checkpoint_path(t, name, seed, path, sizeof path);
  if (!s) s = reuse(t, path, &x, *l, &done, &none, curve);
  fvg_fvgpt_free(none);
  if (s) return s;
  if (done) {
    fprintf(stderr, "%-10s seed %d: reusing %s\n", name, seed, path);
    fvg_learner_free(*l);
    *l = done;
    return FVG_OK;
  }
  snprintf(state, sizeof state, "%s.part", path);
  loss = (double *)fvg__alloc_array(t->m->ctx, (size_t)desc.optimizer.epochs, sizeof *loss);
  desc.epoch_loss = loss;
  desc.state = state;
  desc.state_mark = mark;
  s = loss ? views_for(t, seed, 1, *l, &views) : FVG_E_NOMEM;
  if (!s) s = fvg_learner_train(*l, views, items, &desc);
  if (!s) s = keep_curve(t, loss, desc.optimizer.epochs, &x, curve);
  if (!s) s = fvg_checkpoint_save(path, *l, NULL, x.entry, x.n);
  views_done(t, views);
  fvg__release(t->m->ctx, loss);
  return s;
}

/* Pictures of every other class of `items`, from class `first` on, their labels counted anew. */
static fvg_status every_other(fvg_ctx *c, const fvg_items *items, int first, fvg_items *out) {
  int i;
  out->item = (fvg_item *)fvg__alloc_array(c, (size_t)items->n, sizeof *out->item);
  out->n = 0;
  if (!out->item) return FVG_E_NOMEM;
  for (i = 0; i < items->n; i++)
    if (items->item[i].label % 2 == first) {
      out->item[out->n] = items->item[i];
      out->item[out->n++].label /= 2;
    }
  return FVG_OK;
}

/* The backbone gate of f once more, on classes that its prompts have not seen: the method is tuned on each half of
   the classes, and the gate learns from the other half. */
static fvg_status crossfit(tuning *t, const table_row *r, int seed, const fvg_items *items,
                           const char *const *class_name, int n_class, fvg_fvgpt *f) {
  fvg_ctx *c = t->m->ctx;
  const table_row *backbone = &t->row[r->backbone];
  fvg_train_desc desc = train_desc_of(t, r, seed);
  fvg_items half[2], other[2];
  fvg_learner *l[2] = {NULL, NULL};
  fvg_views *v[2] = {NULL, NULL};
  const char **name[2];
  const char *const *seen[2];
  int n[2], i;
  fvg_status s = FVG_OK;
  memset(half, 0, sizeof half);
  memset(other, 0, sizeof other);
  for (i = 0; i < 2; i++) {
    name[i] = (const char **)fvg__alloc_array(c, (size_t)n_class, sizeof *name[i]);
    n[i] = 0;
    if (!name[i]) s = FVG_E_NOMEM;
  }
  if (!s && n_class < 4)
    s = fvg__fail(c, FVG_E_ARG, "crossfit needs two classes in each half, there are %d", n_class);
  for (i = 0; !s && i < n_class; i++) name[i % 2][n[i % 2]++] = class_name[i];
  for (i = 0; !s && i < 2; i++) s = every_other(c, items, i, &half[i]);
  for (i = 0; !s && i < 2; i++) {
    char part[96], *curve = NULL;
    snprintf(part, sizeof part, "%s.half%d", backbone->name, i + 1);
    s = stage_1(t, backbone, part, seed, &half[i], name[i], n[i], &l[i], &curve);
    fvg__release(c, curve);
    if (!s) s = views_for(t, seed, 3 + i, l[i], &v[i]);
  }
  if (!s) {
    int n_other[2];
    for (i = 0; i < 2; i++) {
      other[i] = half[1 - i];
      seen[i] = name[1 - i];
      n_other[i] = n[1 - i];
    }
    s = fvg_fvgpt_crossfit(f, l, v, other, seen, n_other, t->o->prompt_template, t->o->crossfit == 2, &desc);
  }
  for (i = 0; i < 2; i++) {
    views_done(t, v[i]);
    fvg_learner_free(l[i]);
    fvg_items_free(c, &half[i]);
    fvg__release(c, name[i]);
  }
  return s;
}

/* FVG-PT on the tuned learner, or its finished result. */
static fvg_status stage_2(tuning *t, int row, int run, const fvg_items *items, fvg_learner *l, fvg_fvgpt **f) {
  const table_row *r = &t->row[row];
  int seed = t->seed[run];
  fvg_train_desc desc = train_desc_of(t, r, seed);
  double *loss = NULL;
  fvg__settings x;
  char path[1280], state[1300], mark[1024];
  fvg_fvgpt_desc modules;
  fvg_views *views = NULL;
  fvg_learner *done;
  fvg_status s;
  describe(t, r, seed, items, &x);
  mark_of(&x, mark, sizeof mark);
  s = checkpoint_path(t, r->name, seed, path, sizeof path);
  if (!s) s = reuse(t, path, &x, l, &done, f, &t->curve[row][run]);
  if (s) return s;
  fvg_learner_free(done);
  if (*f) {
    fprintf(stderr, "%-10s seed %d: reusing %s\n", r->name, seed, path);
    return FVG_OK;
  }
  memset(&modules, 0, sizeof modules);
  modules.width = t->m->embed_dim;
  modules.logit_scale = t->m->logit_scale;
  modules.lambda_base = t->o->lambda_base > 0 ? (float)t->o->lambda_base : -1;
  modules.lambda_new = t->o->lambda_new > 0 ? (float)t->o->lambda_new : -1;
  modules.no_frg = r->no_frg;
  modules.no_fdc = r->no_fdc;
  modules.no_pc = r->no_pc;
  modules.normalise_entropy = t->o->normalised;
  modules.seed = (uint64_t)seed;
  snprintf(state, sizeof state, "%s.part", path);
  loss = (double *)fvg__alloc_array(t->m->ctx, (size_t)desc.optimizer.epochs, sizeof *loss);
  desc.epoch_loss = loss;
  desc.state = state;
  desc.state_mark = mark;
  s = loss ? fvg_fvgpt_new(t->m->ctx, f, &modules) : FVG_E_NOMEM;
  if (!s) s = views_for(t, seed, 2, l, &views);
  if (!s) s = fvg_fvgpt_train(*f, l, views, items, t->o->prompt_template, &desc);
  views_done(t, views);
  if (!s && t->o->crossfit && !r->no_pc)
    s = crossfit(t, r, seed, items, (const char *const *)l->class_name, l->n_class, *f);
  if (!s) s = keep_curve(t, loss, desc.optimizer.epochs, &x, &t->curve[row][run]);
  if (!s) s = fvg_checkpoint_save(path, l, *f, x.entry, x.n);
  fvg__release(t->m->ctx, loss);
  return s;
}

/* ---- a seed ---- */
static fvg_branch branch_for(const table_row *r, int seen) {
  if (!r->method) return FVG_ZERO_SHOT;
  if (r->backbone < 0) return seen ? FVG_TUNED : FVG_TUNED_NEW;
  return seen ? FVG_BRANCH_BASE : FVG_BRANCH_NEW;
}

/* f: for each test set, its features by the row's learner. */
static fvg_status test_row(tuning *t, int row, int run, float *const *f, fvg_learner *l, fvg_fvgpt *modules) {
  const table_row *r = &t->row[row];
  double *result = t->result[row][run];
  fvg_score score;
  fvg_status s = FVG_OK;
  int i;
  for (i = 0; !s && i < t->n_test; i++) {
    s = score_set(t->m, &t->test[i], f[i], branch_for(r, t->test[i].seen), l, modules, t->o->prompt_template, &score);
    if (!s) result[i] = score.accuracy;
  }
  if (s) return s;
  printf("%-11s seed %-3d", r->name, t->seed[run]);
  for (i = 0; i < t->n_test; i++) printf("  %s %6.2f", t->test[i].name, result[i]);
  if (t->train_half == FVG_BASE) printf("  H %6.2f", fvg_harmonic_mean(result[0], result[1]));
  printf("\n");
  fflush(stdout);
  return FVG_OK;
}

/* A method, and FVG-PT on it as often as the table wants it. */
static fvg_status run_backbone(tuning *t, int row, int run, const fvg_items *items, const char *const *class_name,
                               int n_class) {
  float *f[MAX_TESTS];
  fvg_learner *l = NULL;
  fvg_fvgpt *modules = NULL;
  fvg_status s = stage_1(t, &t->row[row], t->row[row].name, t->seed[run], items, class_name, n_class, &l,
                         &t->curve[row][run]);
  int i, k;
  memset(f, 0, sizeof f);
  for (i = 0; !s && i < t->n_test; i++) s = features_of(t->m, l, &t->test[i], &f[i]);
  if (!s) s = test_row(t, row, run, f, l, NULL);
  for (k = 0; !s && k < t->n_row; k++) {
    if (t->row[k].backbone != row) continue;
    s = stage_2(t, k, run, items, l, &modules);
    if (!s) s = test_row(t, k, run, f, l, modules);
    fvg_fvgpt_free(modules);
    modules = NULL;
  }
  for (i = 0; i < t->n_test; i++) if (f[i] != t->test[i].f) fvg__release(t->m->ctx, f[i]);
  fvg_views_free(t->own_views);
  t->own_views = NULL;
  fvg_learner_free(l);
  return s;
}

/* Fewer images than shots are used as they are; a class without any cannot be learned. */
static fvg_status check_shots(tuning *t, const fvg_items *items, const char *const *class_name, int n_class,
                              int warn) {
  fvg_ctx *c = t->m->ctx;
  int label, i, fewest = t->at->shots, poorest = 0;
  for (label = 0; label < n_class; label++) {
    int n = 0;
    for (i = 0; i < items->n; i++) n += items->item[i].label == label;
    if (n < fewest) { fewest = n; poorest = label; }
  }
  if (fewest == 0)
    return fvg__fail(c, FVG_E_ARG, "%s: class \"%s\" has no training images", t->d.root, class_name[poorest]);
  if (fewest < t->at->shots && warn)
    fvg__log(c, 0, "%s: class \"%s\" has only %d training images for %d shots; all of them are used",
             t->d.root, class_name[poorest], fewest, t->at->shots);
  return FVG_OK;
}

static fvg_status run_seed(tuning *t, int run) {
  fvg_ctx *c = t->m->ctx;
  int fewest, first, n_class = fvg_half_classes(t->d.n_class, t->train_half, &first), row, masks = 0;
  const char *const *class_name = (const char *const *)t->d.class_name + first;
  float *plain[MAX_TESTS];
  fvg_items few, items;
  fvg_status s;
  memset(&few, 0, sizeof few);
  memset(&items, 0, sizeof items);
  for (row = 0; row < t->n_test; row++) plain[row] = t->test[row].f;
  for (row = 0; row < t->n_row; row++) masks |= t->row[row].backbone >= 0;
  s = fvg_items_few_shot(c, &few, &t->d.train, t->d.n_class, t->at->shots, (uint64_t)t->seed[run], &fewest);
  if (!s) s = fvg_items_half(c, &items, &few, t->d.n_class, t->train_half);
  if (!s) s = check_shots(t, &items, class_name, n_class, run == 0);
  if (!s && masks) s = fvg__check_masks(&t->d, &items);                /* before stage 1's work, not after it */
  if (!s) s = test_row(t, 0, run, plain, NULL, NULL);
  for (row = 1; !s && row < t->n_row; row++)
    if (t->row[row].backbone < 0) s = run_backbone(t, row, run, &items, class_name, n_class);
  fvg_items_free(c, &items);
  fvg_items_free(c, &few);
  return s;
}

/* ---- an entry's results ---- */
/* Mean and deviation (of the population, as the published result parser) of a test; column n_test: H. */
static double mean_of(const tuning *t, int row, int column, double *deviation) {
  double x[MAX_SEEDS], mean = 0, var = 0;
  int i;
  for (i = 0; i < t->n_seed; i++) {
    const double *r = t->result[row][i];
    x[i] = column < t->n_test ? r[column] : fvg_harmonic_mean(r[0], r[1]);
    mean += x[i] / t->n_seed;
  }
  for (i = 0; i < t->n_seed; i++) var += (x[i] - mean) * (x[i] - mean) / t->n_seed;
  *deviation = sqrt(var);
  return mean;
}

static void put_rows(document *d, const tuning *t) {
  int row, i, k;
  put(d, " \"rows\": [\n");
  for (i = 0; i < t->n_seed; i++)
    for (row = 0; row < t->n_row; row++) {
      const double *r = t->result[row][i];
      put(d, "  {\"method\": \"%s\", \"seed\": %d", t->row[row].name, t->seed[i]);
      for (k = 0; k < t->n_test; k++) put(d, ", \"%s\": %.4f", t->test[k].name, r[k]);
      if (t->train_half == FVG_BASE) put(d, ", \"H\": %.4f", fvg_harmonic_mean(r[0], r[1]));
      put(d, "}%s\n", i == t->n_seed - 1 && row == t->n_row - 1 ? "" : ",");
    }
  put(d, " ],\n");
}

/* A curve comes from a checkpoint's text, so nothing but numbers is passed on; none: one of an older version. */
static void put_curves(document *d, const tuning *t) {
  int row, i, k;
  put(d, " \"curves\": [\n");
  for (i = 0; i < t->n_seed; i++)
    for (row = 1; row < t->n_row; row++) {
      const char *at = t->curve[row][i] ? t->curve[row][i] : "";
      char *end;
      put(d, "  {\"method\": \"%s\", \"seed\": %d, \"loss\": [", t->row[row].name, t->seed[i]);
      for (k = 0; *at; k++, at = end) {
        double loss = strtod(at, &end);
        if (end == at || !(fabs(loss) < 1e30)) break;
        put(d, k ? ", %.6g" : "%.6g", loss);
      }
      put(d, "]}%s\n", i == t->n_seed - 1 && row == t->n_row - 1 ? "" : ",");
    }
  put(d, " ],\n");
}

static fvg_status write_results(tuning *t, int entry) {
  char path[1200];
  double deviation;
  document d;
  int row, i, h = t->train_half == FVG_BASE;
  memset(&d, 0, sizeof d);
  d.c = t->m->ctx;
  put(&d, "{\n \"trainer\": \"%s\",\n \"shots\": %d,\n \"seeds\": [", t->o->trainer, t->at->shots);
  for (i = 0; i < t->n_seed; i++) put(&d, i ? ", %d" : "%d", t->seed[i]);
  put(&d, "],\n");
  put_rows(&d, t);
  put_curves(&d, t);
  put(&d, " \"mean\": [\n");
  printf("\n%-24s", t->at->key);
  for (i = 0; i < t->n_test; i++) printf(" %6.6s %6s", t->test[i].name, "+-");
  printf("%s   mean of %d seed%s%s\n", h ? "      H" : "", t->n_seed, t->n_seed > 1 ? "s" : "",
         h ? ", H of the means" : "");
  for (row = 0; row < t->n_row; row++) {
    double *mean = t->mean[entry][row];
    put(&d, "  {\"method\": \"%s\"", t->row[row].name);
    printf("%-24s", t->row[row].name);
    for (i = 0; i < t->n_test; i++) {
      mean[i] = mean_of(t, row, i, &deviation);
      put(&d, ", \"%s\": %.4f, \"%s_std\": %.4f", t->test[i].name, mean[i], t->test[i].name, deviation);
      printf(" %6.2f %6.2f", mean[i], deviation);
    }
    if (h) {
      mean_of(t, row, t->n_test, &deviation);
      put(&d, ", \"H\": %.4f, \"H_std\": %.4f", fvg_harmonic_mean(mean[0], mean[1]), deviation);
      printf(" %6.2f", fvg_harmonic_mean(mean[0], mean[1]));
    }
    put(&d, "}%s\n", row == t->n_row - 1 ? "" : ",");
    printf("\n");
  }
  put(&d, " ]\n}\n");
  printf("\n");
  snprintf(path, sizeof path, "%s/results.json", t->out);
  return save_document(&d, path);
}

/* ---- the table of all entries ---- */
/* Columns: the tests of every entry (and H), then their averages; H of the averages, as published.  With data sets to
   transfer to, the average is over those. */
static fvg_status write_table(tuning *t) {
  int h = t->train_half == FVG_BASE, row, e, i, first = t->n_target ? 1 : 0, width = h ? 20 : 7 * t->n_test - 1;
  char path[1200];
  document d;
  memset(&d, 0, sizeof d);
  d.c = t->m->ctx;
  put(&d, "{\n \"trainer\": \"%s\",\n \"seeds\": [", t->o->trainer);
  for (i = 0; i < t->n_seed; i++) put(&d, i ? ", %d" : "%d", t->seed[i]);
  put(&d, "],\n \"table\": [\n");
  printf("%-24s", "");
  for (e = 0; e < t->n_entry; e++) printf(" %-*.*s", width, width, t->entry[e].key);
  printf(" average\n");
  for (row = 0; row < t->n_row; row++) {
    double average[MAX_TESTS] = {0};
    put(&d, "  {\"method\": \"%s\"", t->row[row].name);
    printf("%-24s", t->row[row].name);
    for (e = 0; e < t->n_entry; e++) {
      const double *mean = t->mean[e][row];
      put(&d, ", \"%s\": {", t->entry[e].key);
      for (i = 0; i < t->n_test; i++) {
        average[i] += mean[i] / t->n_entry;
        put(&d, "%s\"%s\": %.4f", i ? ", " : "", t->test[i].name, mean[i]);
        printf(" %6.2f", mean[i]);
      }
      if (h) put(&d, ", \"H\": %.4f", fvg_harmonic_mean(mean[0], mean[1]));
      if (h) printf(" %6.2f", fvg_harmonic_mean(mean[0], mean[1]));
      put(&d, "}");
    }
    put(&d, ", \"average\": {");
    if (h) {
      put(&d, "\"base\": %.4f, \"new\": %.4f, \"H\": %.4f", average[0], average[1],
          fvg_harmonic_mean(average[0], average[1]));
      printf(" %6.2f %6.2f %6.2f", average[0], average[1], fvg_harmonic_mean(average[0], average[1]));
    } else {
      double sum = 0;
      for (i = first; i < t->n_test; i++) sum += average[i] / (t->n_test - first);
      put(&d, "\"accuracy\": %.4f", sum);
      printf(" %6.2f", sum);
    }
    put(&d, "}}%s\n", row == t->n_row - 1 ? "" : ",");
    printf("\n");
  }
  put(&d, " ]\n}\n");
  snprintf(path, sizeof path, "%s/results.json", t->o->out);
  return save_document(&d, path);
}

/* ---- tune ---- */
static fvg_status add_test(tuning *t, const fvg_dataset *d, fvg_half half, const char *name, int seen) {
  fvg_status s;
  if (t->n_test == MAX_TESTS) return fvg__fail(t->m->ctx, FVG_E_ARG, "more than %d test sets", MAX_TESTS);
  s = test_new(t->m, &t->test[t->n_test], d, half, name, seen);
  if (!s) t->n_test++;
  return s;
}

/* The data sets of --transfer-to: roots, or names under --dataset-root. */
static fvg_status add_targets(tuning *t) {
  const char *at = t->o->transfer_to;
  fvg_status s = FVG_OK;
  while (!s && at && *at) {
    char name[1000], key[KEY_BYTES];
    size_t n = strcspn(at, ",");
    fvg_dataset *d = &t->target[t->n_target];
    if (n >= sizeof name || t->n_target == MAX_TESTS - 1)
      return fvg__fail(t->m->ctx, FVG_E_ARG, "--transfer-to: up to %d data sets with commas are expected",
                       MAX_TESTS - 1);
    memcpy(name, at, n);
    name[n] = 0;
    key_of_path(name, key, sizeof key);
    s = t->o->dataset_root ? open_root(t->m->ctx, t->o, t->o->dataset_root, name, d) :
                             open_root(t->m->ctx, t->o, name, NULL, d);
    if (!s) t->n_target++;
    if (!s) s = add_test(t, d, FVG_ALL, key, 0);
    at += n + (at[n] == ',');
  }
  return s;
}

static fvg_status open_entry(tuning *t, const table_entry *e) {
  fvg_ctx *c = t->m->ctx;
  fvg_status s;
  t->at = e;
  if (t->n_entry > 1) snprintf(t->out, sizeof t->out, "%s/%s", t->o->out, e->key);
  else snprintf(t->out, sizeof t->out, "%s", t->o->out);
  s = open_root(c, t->o, e->root, e->dataset, &t->d);
  if (!s) s = make_folders(c, t->out);
  if (!s && t->train_half == FVG_BASE) {
    s = add_test(t, &t->d, FVG_BASE, "base", 1);
    if (!s) s = add_test(t, &t->d, FVG_NEW, "new", 0);
  } else if (!s) {
    s = add_test(t, &t->d, FVG_ALL, t->o->transfer_to ? "source" : "all", 1);
    if (!s) s = add_targets(t);
  }
  return s;
}

static void close_entry(tuning *t) {
  fvg_ctx *c = t->m->ctx;
  int i, k;
  fvg_views_free(t->views);
  t->views = NULL;
  for (i = 0; i < t->n_test; i++) test_free(c, &t->test[i]);
  for (i = 0; i < t->n_target; i++) fvg_dataset_free(&t->target[i]);
  fvg_dataset_free(&t->d);
  memset(&t->d, 0, sizeof t->d);
  for (i = 0; i < t->n_row; i++)
    for (k = 0; k < t->n_seed; k++) {
      fvg__release(c, t->curve[i][k]);
      t->curve[i][k] = NULL;
    }
}

static fvg_status tune_all(tuning *t) {
  fvg_status s = FVG_OK;
  int e, run;
  for (e = 0; !s && e < t->n_entry; e++) {
    t->n_test = t->n_target = 0;
    s = open_entry(t, &t->entry[e]);
    for (run = 0; !s && run < t->n_seed; run++) s = run_seed(t, run);
    if (!s) s = write_results(t, e);
    if (!s && e == t->n_entry - 1 && t->n_entry > 1) s = write_table(t);
    close_entry(t);
  }
  return s;
}

static fvg_status tune(fvg_ctx *c, const options *o) {
  tuning *t;
  fvg_position position;
  fvg_status s;
  if (!o->trainer || !*o->trainer || !o->out || !*o->out)
    return fvg__fail(c, FVG_E_ARG, "tune needs --trainer NAME,... and --out DIR");
  if (strlen(o->out) > 900) return fvg__fail(c, FVG_E_ARG, "--out: the path is too long");
  if (o->csc)
    return fvg__fail(c, FVG_E_UNSUPPORTED, "--csc: class-specific context cannot name new classes, so it has no "
                                           "base-to-new result; use the library (fvg_learner_desc)");
  t = (tuning *)fvg__alloc(c, sizeof *t);
  if (!t) return FVG_E_NOMEM;
  t->o = o;
  t->train_half = o->few_shot || o->transfer_to ? FVG_ALL : FVG_BASE;
  s = parse_trainers(t, c);
  if (!s) s = parse_seeds(t, c, o->seeds);
  if (!s) s = parse_augment(t, c, o->augment);
  if (!s) s = parse_position(c, o->position, &position);
  if (!s) s = parse_options_of_methods(t, c);
  if (!s) s = parse_entries(t, c);
  if (!s) s = open_model(c, o, &t->m);
  if (!s) s = make_folders(c, o->out);
  if (!s) s = tune_all(t);
  fvg_clip_free(t->m);
  fvg__release(c, t);
  return s;
}
