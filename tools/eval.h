/* fvgpt eval, and the test sets that tune shares with it.  Part of fvgpt.c, whose helpers it uses. */

enum { KEY_BYTES = 80 };

/* ---- data sets and test sets ---- */
static fvg_status open_root(fvg_ctx *c, const options *o, const char *root, const char *dataset, fvg_dataset *d) {
  fvg_dataset_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.root = root;
  desc.dataset = dataset;
  desc.split = o->split;
  desc.val_percent = o->val ? o->val : -1;
  if (o->val < 0) desc.val_percent = 0;
  desc.mask_reading = (fvg_mask_reading)o->masks;
  desc.exif_rotate = o->exif_rotate;
  return fvg_dataset_open(c, d, &desc);
}

static fvg_status open_data(fvg_ctx *c, const options *o, fvg_dataset *d) {
  if (o->dataset_root && o->dataset) return open_root(c, o, o->dataset_root, o->dataset, d);
  if (!o->data)
    return fvg_fail(c, FVG_E_ARG, "%s needs --data ROOT, or --dataset-root DATA --dataset NAME", o->command);
  return open_root(c, o, o->data, NULL, d);
}

/* The test pictures of a half; none is an error. */
static fvg_status test_items(fvg_ctx *c, const fvg_dataset *d, fvg_group half, fvg_items *items) {
  fvg_status s = fvg_items_group(c, items, &d->test, d->n_class, half);
  if (!s && items->n < 1)
    s = fvg_fail(c, FVG_E_ARG, "%s: no test images of %s classes", d->root, half == FVG_NEW ? "new" : "these");
  return s;
}

typedef struct test_set {                           /* test pictures of some classes, and plain CLIP's features */
  char name[KEY_BYTES];
  const fvg_dataset *d;
  fvg_group half;
  int seen;                                         /* the methods have been trained on these classes */
  fvg_items items;
  const char *const *class_name;
  int n_class, *label;
  float *f;
} test_set;

static void test_free(fvg_ctx *c, test_set *x) {
  fvg_items_free(c, &x->items);
  fvg_release(c, x->label);
  fvg_release(c, x->f);
  memset(x, 0, sizeof *x);
}

static fvg_status test_new(fvg_clip *m, test_set *x, const fvg_dataset *d, fvg_group half, const char *name,
                           int seen) {
  fvg_ctx *c = m->ctx;
  int first, i;
  fvg_status s;
  memset(x, 0, sizeof *x);
  snprintf(x->name, sizeof x->name, "%s", name);
  x->d = d;
  x->half = half;
  x->seen = seen;
  x->n_class = fvg_group_classes(d->n_class, half, &first);
  x->class_name = (const char *const *)d->class_name + first;
  s = test_items(c, d, half, &x->items);
  if (!s) {
    x->label = (int *)fvg_alloc_array(c, (size_t)x->items.n, sizeof *x->label);
    x->f = (float *)fvg_alloc_array(c, (size_t)x->items.n * (size_t)m->embed_dim, sizeof *x->f);
    if (!x->label || !x->f) s = FVG_E_NOMEM;
  }
  for (i = 0; !s && i < x->items.n; i++) x->label[i] = x->items.item[i].label;
  if (!s) {
    const fvg_task task = {d, x->items, x->class_name, x->n_class, 0};
    s = fvg_encode_task(m, NULL, x->f, &task);
  }
  if (s) test_free(c, x);
  return s;
}

/* f: the test set's features as learner l makes them. */
static fvg_status score_set(fvg_clip *m, const test_set *x, const float *f, fvg_branch branch, fvg_learner *l,
                            fvg_fvgpt *modules, const char *prompt_template, fvg_score *score) {
  fvg_ctx *c = m->ctx;
  float *logits = (float *)fvg_alloc_array(c, (size_t)x->items.n * (size_t)x->n_class, sizeof *logits);
  fvg_classifier *k = NULL;
  fvg_status s = logits ? classifier_of(m, &k, branch, l, modules, prompt_template, x->class_name, x->n_class)
                        : FVG_E_NOMEM;
  if (!s) s = fvg_classifier_logits(k, logits, NULL, f, x->items.n);
  if (!s) s = fvg_score_of(c, score, logits, x->label, x->items.n, x->n_class);
  fvg_classifier_free(k);
  fvg_release(c, logits);
  return s;
}

/* Features of a test set by l's tower, to be released; *f is x->f where l leaves the tower alone. */
static fvg_status features_of(fvg_clip *m, fvg_learner *l, const test_set *x, float **f) {
  size_t width = (size_t)fvg_learner_feature_width(m, l);
  *f = x->f;
  if (width == (size_t)m->embed_dim) return FVG_OK;
  *f = (float *)fvg_alloc_array(m->ctx, (size_t)x->items.n * width, sizeof **f);
  if (!*f) return FVG_E_NOMEM;
  const fvg_task task = {x->d, x->items, x->class_name, x->n_class, 0};
  return fvg_encode_task(m, l, *f, &task);
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
  fvg_group half = FVG_ALL;
  int first, n_class = 0;
  fvg_status s;
  if (!o->checkpoint || !o->half)
    return fvg_fail(c, FVG_E_ARG, "eval needs --checkpoint DIR and --split-half base|new|all");
  if (!strcmp(o->half, "base")) half = FVG_BASE;
  else if (!strcmp(o->half, "new")) half = FVG_NEW;
  else if (strcmp(o->half, "all"))
    return fvg_fail(c, FVG_E_ARG, "--split-half %s: base, new or all is expected", o->half);
  memset(&d, 0, sizeof d);
  memset(&items, 0, sizeof items);
  s = open_model(c, o, &m);
  if (!s) s = open_data(c, o, &d);
  if (!s) s = fvg_dataset_check(&d, FVG_CHECK_TEST, o->skip_bad);
  if (!s) s = test_items(c, &d, half, &items);
  if (!s) {
    n_class = fvg_group_classes(d.n_class, half, &first);
    class_name = (const char *const *)d.class_name + first;
    s = open_checkpoint(m, o, d.card, class_name, n_class, &l, &f, &settings);
  }
  if (!s)
    s = half_of_names(c, o, l, class_name, n_class, &half);
  if (!s)
    s = classifier_of(m, &k, branch_of(l, f, half), l, f, template_of(o, settings), class_name, n_class);
  if (!s) {
    const fvg_task task = {&d, items, class_name, n_class, 0};
    s = fvg_classifier_test(k, &score, &task);
  }
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
