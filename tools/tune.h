/* fvgpt tune: the protocols, in which lists of methods, data sets and seeds are trained and tested.  What is finished
   lies in --out as checkpoints and is used again.  The list, the stages and the tables have files of their own. */
#include "tune_list.h"
#include "tune_stages.h"
#include "tune_table.h"

/* ---- a seed ---- */
static fvg_branch branch_for(const table_row *r, int seen) {
  if (!r->method) return FVG_ZERO_SHOT;
  if (r->backbone < 0) return seen ? FVG_TUNED : FVG_TUNED_NEW;
  return seen ? FVG_BRANCH_BASE : FVG_BRANCH_NEW;
}

static void print_row(const tuning *t, int row, int run) {
  const double *result = t->result[row][run];
  int i;
  print(stdout, "%-11s seed %-3d", t->row[row].name, t->seed[run]);
  for (i = 0; i < t->n_test; i++) print(stdout, "  %s %6.2f", t->test[i].name, result[i]);
  if (t->train_half == FVG_BASE) printf("  H %6.2f", fvg_harmonic_mean(result[0], result[1]));
  printf("\n");
  fflush(stdout);
}

/* f: for each test set, its features by the row's learner. */
static fvg_status test_row(tuning *t, int row, int run, float *const *f, fvg_learner *l, fvg_fvgpt *modules) {
  const table_row *r = &t->row[row];
  double *result = t->result[row][run];
  fvg_score score;
  fvg_status s = FVG_OK;
  int i;
  for (i = 0; !s && i < t->n_test; i++) {
    const fvg_dataset_card *card = t->test[i].d->card;
    const char *prompt_template = t->o->prompt_template;
    if (!r->method && !prompt_template && card) prompt_template = card->prompt_template;  /* zero-shot: hand-made */
    s = score_set(t->m, &t->test[i], f[i], branch_for(r, t->test[i].seen), l, modules, prompt_template, &score);
    if (!s) result[i] = score.accuracy;
  }
  if (!s) print_row(t, row, run);
  return s;
}

/* DPC has a learner for base classes and one for new ones, each with features of its own. */
static fvg_status test_dpc(tuning *t, int row, int run, fvg_learner *base, fvg_learner *for_new) {
  fvg_score score;
  fvg_status s = FVG_OK;
  int i;
  for (i = 0; !s && i < t->n_test; i++) {
    fvg_learner *l = t->test[i].seen ? base : for_new;
    float *f = NULL;
    s = features_of(t->m, l, &t->test[i], &f);
    if (!s) s = score_set(t->m, &t->test[i], f, FVG_TUNED, l, NULL, t->o->prompt_template, &score);
    if (!s) t->result[row][run][i] = score.accuracy;
    if (f != t->test[i].f) fvg_release(t->m->ctx, f);
  }
  if (!s) print_row(t, row, run);
  return s;
}

static fvg_status run_dpc(tuning *t, int row, int run, const fvg_items *items, fvg_learner *tuned) {
  fvg_learner *base = NULL, *for_new = NULL;
  fvg_status s = stage_dpc(t, row, run, items, tuned, &base, &for_new);
  if (!s) s = test_dpc(t, row, run, base, for_new);
  fvg_learner_free(base);
  fvg_learner_free(for_new);
  return s;
}

/* A method, and FVG-PT on it as often as the table wants it, and DPC. */
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
    if (t->row[k].dpc) { s = run_dpc(t, k, run, items, l); continue; }
    s = stage_fvgpt(t, k, run, items, l, &modules);
    if (!s) s = test_row(t, k, run, f, l, modules);
    fvg_fvgpt_free(modules);
    modules = NULL;
  }
  for (i = 0; i < t->n_test; i++) if (f[i] != t->test[i].f) fvg_release(t->m->ctx, f[i]);
  fvg_views_free(t->own_views);
  t->own_views = NULL;
  fvg_learner_free(l);
  return s;
}

/* The pictures that a seed trains on: the draw of all classes, and of it those of the half that
   is tuned. */
static fvg_status draw(const tuning *t, const fvg_dataset *d, int shots, int seed,
                       fvg_items *items) {
  fvg_ctx *c = t->m->ctx;
  fvg_items few;
  fvg_status s = fvg_items_few_shot(c, &few, NULL, &d->train, d->n_class, shots, (uint64_t)seed);
  memset(items, 0, sizeof *items);
  if (!s) s = fvg_items_group(c, items, &few, d->n_class, t->train_half);
  fvg_items_free(c, &few);
  return s;
}

static fvg_status run_seed(tuning *t, int run) {
  fvg_ctx *c = t->m->ctx;
  int first, n_class = fvg_group_classes(t->d.n_class, t->train_half, &first), row, i;
  const char *const *class_name = (const char *const *)t->d.class_name + first;
  float *plain[MAX_TESTS];
  fvg_items items;
  fvg_status s = draw(t, &t->d, t->at->shots, t->seed[run], &items);
  for (i = 0; i < t->n_test; i++) plain[i] = t->test[i].f;
  if (!s) s = test_row(t, 0, run, plain, NULL, NULL);
  for (row = 1; !s && row < t->n_row; row++)
    if (t->row[row].backbone < 0) s = run_backbone(t, row, run, &items, class_name, n_class);
  fvg_items_free(c, &items);
  return s;
}

/* ---- what is checked before the first picture is encoded ---- */
/* Fewer images than shots are used as they are; a class without any cannot be learned. */
static fvg_status check_shots(const tuning *t, const table_entry *e, const fvg_items *items,
                              int warn) {
  fvg_ctx *c = t->m->ctx;
  const fvg_dataset *d = &t->set[e->set];
  int label, i, first, n_class = fvg_group_classes(d->n_class, t->train_half, &first);
  int fewest = e->shots, poorest = 0;
  for (label = 0; label < n_class; label++) {
    int n = 0;
    for (i = 0; i < items->n; i++) n += items->item[i].label == label;
    if (n < fewest) { fewest = n; poorest = label; }
  }
  if (fewest == 0)
    return fvg_fail(c, FVG_E_ARG, "%s: class \"%s\" has no training images", d->root,
                    d->class_name[first + poorest]);
  if (fewest < e->shots && warn)
    fvg_log(c, 0, "%s: class \"%s\" has only %d training images for %d shots; all of them are used",
            d->root, d->class_name[first + poorest], fewest, e->shots);
  if (t->o->calibration && n_class < 4)
    return fvg_fail(c, FVG_E_ARG,
                    "--calibration crossfit and guarded need two classes in each half of the base "
                    "classes; there are %d",
                    n_class);
  return FVG_OK;
}

/* Adds the items of `more` to `all`. */
static fvg_status add_items(fvg_ctx *c, fvg_items *all, const fvg_items *more) {
  fvg_item *item = (fvg_item *)fvg_alloc_array(c, (size_t)all->n + (size_t)more->n, sizeof *item);
  if (!item) return FVG_E_NOMEM;
  if (all->n) memcpy(item, all->item, (size_t)all->n * sizeof *item);
  if (more->n) memcpy(item + all->n, more->item, (size_t)more->n * sizeof *item);
  fvg_release(c, all->item);
  all->item = item;
  all->n += more->n;
  return FVG_OK;
}

static int compare_items(const void *a, const void *b) {
  return strcmp(((const fvg_item *)a)->path, ((const fvg_item *)b)->path);
}

/* Class counts of everything that trains on a data set, and the masks of all of it, each once. */
static fvg_status check_draws(const tuning *t, int set, findings *f) {
  fvg_ctx *c = t->m->ctx;
  fvg_items all, items;
  int e, run, row, masks = 0, i, kept = 0;
  fvg_status s = FVG_OK;
  memset(&all, 0, sizeof all);
  for (row = 0; row < t->n_row; row++) masks |= needs_masks(&t->row[row]);
  for (e = 0; !s && e < t->n_entry; e++) {
    if (t->entry[e].set != set) continue;
    for (run = 0; !s && run < t->n_seed; run++) {
      s = draw(t, &t->set[set], t->entry[e].shots, t->seed[run], &items);
      if (!s && run == 0) s = found(c, f, check_shots(t, &t->entry[e], &items, 1));
      if (!s) s = add_items(c, &all, &items);
      fvg_items_free(c, &items);
    }
  }
  if (!s && all.n) qsort(all.item, (size_t)all.n, sizeof *all.item, compare_items);
  for (i = 0; i < all.n; i++)
    if (!kept || strcmp(all.item[i].path, all.item[kept - 1].path)) all.item[kept++] = all.item[i];
  all.n = kept;
  if (!s && masks && all.n) s = found(c, f, fvg_dataset_check_masks(&t->set[set], &all));
  fvg_items_free(c, &all);
  return s;
}

/* The folders of an entry's rows and seeds. */
static fvg_status check_outputs(const tuning *t, findings *f) {
  char path[1300];
  int e, row, run;
  fvg_status s = found(t->m->ctx, f, check_out_folder(t->m->ctx, t->o->out));
  if (s || f->status) return s;
  for (e = 0; e < t->n_entry; e++)
    for (row = 1; row < t->n_row; row++)
      for (run = 0; !s && run < t->n_seed; run++) {
        snprintf(path, sizeof path, "%s%s%s/%s/seed%d", t->o->out, t->n_entry > 1 ? "/" : "",
                 t->n_entry > 1 ? t->entry[e].key : "", t->row[row].name, t->seed[run]);
        s = found(t->m->ctx, f, check_out_folder(t->m->ctx, path));
      }
  return s;
}

/* Classes that --skip-bad leaves without a picture to test are named: their accuracy would be missing in silence. */
static void tell_untested(fvg_ctx *c, const fvg_dataset *d) {
  int label, i, n = 0, first = 0;
  for (label = 0; label < d->n_class; label++) {
    for (i = 0; i < d->test.n && d->test.item[i].label != label; i++) {}
    if (i < d->test.n) continue;
    if (!n++) first = label;
  }
  if (n)
    fvg_log(c, 0, "%.200s: %d of %d classes have no test picture left, such as \"%.60s\"; accuracy is that of the others",
            d->root, n, d->n_class, d->class_name[first]);
}

/* Everything cheap, all of it even when some is wrong: a run takes hours, and its files are
   mended in one go. */
static fvg_status check_run(tuning *t) {
  fvg_ctx *c = t->m->ctx;
  int row, masks = 0, i;
  findings f;
  fvg_status s;
  memset(&f, 0, sizeof f);
  for (row = 0; row < t->n_row; row++) if (needs_masks(&t->row[row])) masks = FVG_CHECK_MASKS;
  s = check_outputs(t, &f);
  for (i = 0; !s && i < t->n_set; i++) {
    fvg_status files = fvg_dataset_check(&t->set[i], FVG_CHECK_TRAIN | masks, t->o->skip_bad);
    s = found(c, &f, files);
    if (!s)
      s = found(c, &f,
                fvg_dataset_check(&t->set[i], FVG_CHECK_VAL | FVG_CHECK_TEST, t->o->skip_bad));
    if (!s && !files) s = check_draws(t, i, &f);
    if (!s && t->o->skip_bad) tell_untested(c, &t->set[i]);
  }
  for (i = 0; !s && i < t->n_target; i++)
    s = found(c, &f, fvg_dataset_check(&t->target[i], FVG_CHECK_TEST, t->o->skip_bad));
  return s ? s : end_findings(c, &f);
}

/* ---- tune ---- */
static fvg_status add_test(tuning *t, const fvg_dataset *d, fvg_group half, const char *name, int seen) {
  fvg_status s;
  if (t->n_test == MAX_TESTS) return fvg_fail(t->m->ctx, FVG_E_ARG, "more than %d test sets", MAX_TESTS);
  s = test_new(t->m, &t->test[t->n_test], d, half, name, seen);
  if (!s) t->n_test++;
  return s;
}

/* The data sets of --transfer-to: roots, or names under --dataset-root. */
static fvg_status open_targets(tuning *t) {
  const char *at = t->o->transfer_to;
  fvg_status s = FVG_OK;
  while (!s && at && *at) {
    char name[1000];
    size_t n = strcspn(at, ",");
    fvg_dataset *d = &t->target[t->n_target];
    if (n >= sizeof name || t->n_target == MAX_TESTS - 1)
      return fvg_fail(t->m->ctx, FVG_E_ARG, "--transfer-to: up to %d data sets with commas are expected",
                      MAX_TESTS - 1);
    memcpy(name, at, n);
    name[n] = 0;
    key_of_path(name, t->target_name[t->n_target], KEY_BYTES);
    s = t->o->dataset_root ? open_root(t->m->ctx, t->o, t->o->dataset_root, name, d) :
                             open_root(t->m->ctx, t->o, name, NULL, d);
    if (!s) t->n_target++;
    at += n + (at[n] == ',');
  }
  return s;
}

/* All data sets of the run, each once. */
static fvg_status open_sets(tuning *t) {
  fvg_status s = FVG_OK;
  int e;
  for (e = 0; !s && e < t->n_entry; e++) {
    if (t->entry[e].set < t->n_set) continue;
    s = open_root(t->m->ctx, t->o, t->entry[e].root, t->entry[e].dataset, &t->set[t->n_set]);
    if (!s) t->n_set++;
  }
  return s ? s : open_targets(t);
}

static void close_sets(tuning *t) {
  int i;
  for (i = 0; i < t->n_target; i++) fvg_dataset_free(&t->target[i]);
  for (i = 0; i < t->n_set; i++) fvg_dataset_free(&t->set[i]);
}

static fvg_status open_entry(tuning *t, const table_entry *e) {
  fvg_status s;
  int i;
  t->at = e;
  t->d = t->set[e->set];
  if (t->n_entry > 1) snprintf(t->out, sizeof t->out, "%s/%s", t->o->out, e->key);
  else snprintf(t->out, sizeof t->out, "%s", t->o->out);
  s = make_folders(t->m->ctx, t->out);
  if (!s) remove_temporaries(t->out);
  if (!s && t->train_half == FVG_BASE) {
    s = add_test(t, &t->d, FVG_BASE, "base", 1);
    if (!s) s = add_test(t, &t->d, FVG_NEW, "new", 0);
  } else if (!s) {
    s = add_test(t, &t->d, FVG_ALL, t->o->transfer_to ? "source" : "all", 1);
    for (i = 0; !s && i < t->n_target; i++)
      s = add_test(t, &t->target[i], FVG_ALL, t->target_name[i], 0);
  }
  return s;
}

static void close_entry(tuning *t) {
  fvg_ctx *c = t->m->ctx;
  int i, k;
  fvg_views_free(t->views);
  t->views = NULL;
  for (i = 0; i < t->n_test; i++) test_free(c, &t->test[i]);
  for (i = 0; i < t->n_row; i++)
    for (k = 0; k < t->n_seed; k++) {
      fvg_release(c, t->curve[i][k]);
      t->curve[i][k] = NULL;
    }
}

/* --out, and in a list the folder of every entry, which may be another run's --out. */
static fvg_status lock_out(tuning *t, fvg_ctx *c) {
  char folder[1100];
  fvg_status s = make_folders(c, t->o->out);
  int e;
  if (!s) s = lock_folder(c, &t->lock[0], t->o->out);
  for (e = 0; !s && t->n_entry > 1 && e < t->n_entry; e++) {
    snprintf(folder, sizeof folder, "%s/%s", t->o->out, t->entry[e].key);
    s = make_folders(c, folder);
    if (!s) s = lock_folder(c, &t->lock[e + 1], folder);
  }
  return s;
}

static fvg_status tune_all(tuning *t) {
  fvg_status s = FVG_OK;
  int e, run;
  for (e = 0; !s && e < t->n_entry; e++) {
    t->n_test = 0;
    s = open_entry(t, &t->entry[e]);
    if (!s) s = print_settings(t);
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
  int e;
  if (!o->trainer || !*o->trainer || !o->out || !*o->out)
    return fvg_fail(c, FVG_E_ARG, "tune needs --trainer NAME,... and --out DIR");
  if (strlen(o->out) > 900) return fvg_fail(c, FVG_E_ARG, "--out: the path is too long");
  if (o->csc)
    return fvg_fail(c, FVG_E_UNSUPPORTED, "--csc: class-specific context cannot name new classes, so it has no "
                                          "base-to-new result; use the library (fvg_learner_desc)");
  t = (tuning *)fvg_alloc(c, sizeof *t);
  if (!t) return FVG_E_NOMEM;
  t->o = o;
  t->train_half = o->few_shot || o->transfer_to ? FVG_ALL : FVG_BASE;
  s = parse_trainers(t, c);
  if (!s) s = parse_seeds(t, c, o->seeds);
  if (!s) s = parse_augment(t, c, o->augment);
  if (!s) s = parse_position(c, o->position, &position);
  if (!s) s = check_set(t, c);
  if (!s) s = parse_entries(t, c);
  if (!s) s = lock_out(t, c);
  if (!s) s = open_model(c, o, &t->m);
  if (!s) s = open_sets(t);
  if (!s) s = check_run(t);
  if (!s) remove_temporaries(o->out);
  if (!s) s = tune_all(t);
  close_sets(t);
  for (e = 0; e <= MAX_ENTRIES; e++) unlock_folder(&t->lock[e]);
  fvg_clip_free(t->m);
  fvg_release(c, t);
  return s;
}
