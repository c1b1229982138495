/* The lists of fvgpt tune; see fvgpt_tune_list.h. */
#include "fvgpt_tune_list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvgpt_cache.h"
#include "fvgpt_hints.h"
#include "fvgpt_tune_all.h"

const char *const calibration_name[3] = {"published", "crossfit", "guarded"};

/* The options and their defaults. */
void declare_tune(option_table *t, void *options) {
  tune_options *o = (tune_options *)options;
  o->augment = "crop";
  o->folds = -1;
  o->lambda_base = -1;
  o->lambda_new = 1;
  o->dpc_weight = 0.5;
  o->dpc_top_k = 8;
  o->claim_expires = 600;

  add_common(t, &o->common);
  add_cache(t, &o->common);
  add_learner_options(t, &o->learner);
  add_data_options(t, &o->data, MASKS_FROM);
  add_foreground_options(t, &o->foreground);
  add_text(t, "--out", &o->out);
  add_text(t, "--augment", &o->augment);
  add_text(t, "--seeds", &o->seeds);
  add_flag(t, "--all", &o->learner.all);
  add_whole(t, "--folds", &o->folds, 0, 20);
  add_whole(t, "--epochs", &o->epochs, 1, 65536);
  add_whole(t, "--batch", &o->batch, 1, 100000);
  add_number(t, "--lr", &o->lr, 1e-9, 1e3);
  add_flag(t, "--fill-black", &o->fill_black);
  add_flag(t, "--ablate", &o->ablate);
  add_word(t, "--entropy", &o->normalised, "raw normalised");
  add_word(t, "--calibration", &o->calibration, "published crossfit guarded");
  add_word(t, "--distill", &o->distill, "published stable");
  add_flag(t, "--guard", &o->guard);
  add_number(t, "--lambda-base", &o->lambda_base, 0, 1e6);
  add_number(t, "--lambda-new", &o->lambda_new, 0, 1e6);
  add_number(t, "--dpc-weight", &o->dpc_weight, 1e-3, 1);
  add_number(t, "--dpc-weight-for-new", &o->dpc_weight_for_new, 0, 1);
  add_whole(t, "--dpc-top-k", &o->dpc_top_k, 1, 10000);
  add_choose_option(t, &o->choose);
  add_shard_option(t, &o->shard);
  add_number(t, "--claim-expires", &o->claim_expires, 1, 1e6);
}

/* ---- the rows of the table ---- */
int calibration_of(const tune_options *o, const table_row *r) {
  return r->no_pc ? PUBLISHED : o->calibration;
}

int normalised_of(const tune_options *o, const table_row *r) {
  const int has_gate = !r->no_frg || !r->no_pc;
  return o->normalised && has_gate;
}

int distill_of(const table_row *r) { return r->no_fdc ? FVG_DISTILL_PUBLISHED : r->distill; }

int guard_of(const tune_options *o, const table_row *r) { return o->guard && !r->no_fdc; }

/* --lambda-base is meant for the distillation that --distill names, not for the other one, which
   --ablate sets beside it. */
double lambda_base_of(const tune_options *o, const table_row *r) {
  const double *own = varied(&r->own, "lambda_base");
  if (r->no_distill) return 0;
  if (own) return *own;
  if (o->lambda_base >= 0 && (r->no_fdc || r->distill == o->distill)) return o->lambda_base;
  return distill_of(r) == FVG_DISTILL_STABLE ? 0.1 : 10;
}

static int is_choice_of(const char *name, const table_row *r) {
  switch (kind_of_setting(name)) {
    case SETTING_OF_TRAINING: return r->method != NULL;
    case SETTING_OF_FVGPT: return r->backbone >= 0 && !r->dpc;
    case SETTING_OF_METHOD: return r->backbone < 0 && has_option(r->method, name);
  }
  return 0;
}

unsigned choices_of(const tune_options *o, const table_row *r) {
  unsigned bits = 0;
  for (int i = 0; i < o->choose.n; i++) {
    if (is_choice_of(o->choose.item[i].name, r)) bits |= 1u << i;
  }
  return bits;
}

int needs_foregrounds(const table_row *r) {
  if (r->backbone >= 0) return !r->dpc && (!r->no_frg || !r->no_fdc);
  return r->method && (fvg_method_needs(r->method) & FVG_NEEDS_FOREGROUND);
}

int any_needs_foregrounds(const tuning *t) {
  for (int i = 0; i < t->n_row; i++) {
    if (needs_foregrounds(&t->row[i])) return 1;
  }
  return 0;
}

int needs_masks(const tuning *t, const table_row *r) {
  if (t->o->data.masks == MASKS_NONE) return 0;
  return needs_foregrounds(r) && !(r->renews_masks && r->backbone < 0);
}

int any_needs_masks(const tuning *t) {
  for (int i = 0; i < t->n_row; i++) {
    if (needs_masks(t, &t->row[i])) return 1;
  }
  return 0;
}

int find_row(const tuning *t, const char *name) {
  for (int i = 0; i < t->n_row; i++) {
    if (!strcmp(t->row[i].name, name)) return i;
  }
  return -1;
}

/* The row of that name, which is made if there is none; NULL when there is no more room. */
static table_row *add_row(tuning *t, const char *name, const fvg_method *method, int backbone) {
  const int known = find_row(t, name);
  if (known >= 0) return &t->row[known];
  if (t->n_row == MAX_ROWS) {
    t->lacks_room = 1;
    return NULL;
  }
  table_row *r = &t->row[t->n_row++];
  snprintf(r->name, sizeof r->name, "%s", name);
  r->method = method;
  r->backbone = backbone;
  return r;
}

int add_fvgpt(tuning *t, const char *name, const table_row *like) {
  const int calibration = calibration_of(t->o, like);
  char own[VARIATIONS_BYTES];
  char full[160 + VARIATIONS_BYTES];
  print_variations(&like->own, own);
  snprintf(full, sizeof full, "%s%s%s%s%s%s%s%s%s%s", name, calibration ? "+" : "",
           calibration ? calibration_name[calibration] : "",
           normalised_of(t->o, like) ? "+normalised" : "", distill_of(like) ? "+stable" : "",
           like->no_distill ? "+no_distillation" : "", like->invert_masks ? "+inverted_masks" : "",
           guard_of(t->o, like) ? "+guard" : "", *own ? "+" : "", own);
  table_row *r = add_row(t, full, like->method, like->backbone);
  if (!r) return -1;
  r->no_frg = like->no_frg;
  r->no_fdc = like->no_fdc;
  r->no_pc = like->no_pc;
  r->distill = like->distill;
  r->no_distill = like->no_distill;
  r->invert_masks = like->invert_masks;
  r->own = like->own;
  return (int)(r - t->row);
}

/* Adds the whole of FVG-PT, trained in other ways than it is published. */
static void add_other_ways(tuning *t, const char *name, const table_row *whole) {
  table_row row = *whole;
  row.distill = FVG_DISTILL_STABLE;
  add_fvgpt(t, name, &row);

  row.distill = FVG_DISTILL_PUBLISHED;
  row.no_distill = 1;
  add_fvgpt(t, name, &row);

  row.no_distill = 0;
  row.invert_masks = 1;
  add_fvgpt(t, name, &row);
}

/* CoOp's ablation rows bear the modules' names alone, others' the method's as well. */
void add_ablation(tuning *t, int backbone) {
  static const struct { const char *name; int no_frg, no_fdc, no_pc; } part[] = {
    {"FDC", 1, 0, 1},
    {"PC", 1, 1, 0},
    {"FRG+FDC", 0, 0, 1},
    {"FDC+PC", 1, 0, 0},
  };
  const table_row *alone = &t->row[backbone];
  const char *method_name = alone->name;
  const int is_coop = !strcmp(method_name, "CoOp");

  for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
    table_row row;
    memset(&row, 0, sizeof row);
    row.method = alone->method;
    row.backbone = backbone;
    row.no_frg = part[i].no_frg;
    row.no_fdc = part[i].no_fdc;
    row.no_pc = part[i].no_pc;
    row.distill = t->o->distill;
    char name[112];
    snprintf(name, sizeof name, "%s%s%s", is_coop ? "" : method_name, is_coop ? "" : "_",
             part[i].name);
    add_fvgpt(t, name, &row);
  }
}

static void try_baselines(guess *g) {
  static const char *const others[] = {"DAPT_G", "zero_shot_ensemble", "baselines"};
  for (int i = 0; i < 3; i++) try_name(g, others[i], strlen(others[i]));
  for (int kind = 0; fvg_head_name((fvg_head_kind)kind); kind++) {
    const char *name = fvg_head_name((fvg_head_kind)kind);
    try_name(g, name, strlen(name));
  }
}

/* The method that a trainer's name ends with; the name may begin with FVGPT_ or DPC_.  DAPT_G is
   DAPT, which then makes its own masks. */
static fvg_status check_trainer(fvg_ctx *c, const char *name, int is_fvgpt, int is_dpc,
                                const fvg_method **method, int *renews_masks) {
  const char *end = is_fvgpt ? name + 6 : is_dpc ? name + 4 : name;
  *renews_masks = !strcmp(end, "DAPT_G");
  *method = fvg_method_find(*renews_masks ? "DAPT" : end);
  if (!*method) {
    char advice[HINT_BYTES];
    guess g = guess_method(end);
    try_baselines(&g);
    return fvg_fail(c, FVG_E_ARG,
                    "--trainer %s: CoOp, KgCoOp, ProGrad, CoCoOp, PromptSRC, MaPLe, DAPT, DAPT_G, "
                    "MMRL, MMRLpp, DePT_CoOp, DePT_PromptSRC, or one of them behind FVGPT_ or "
                    "DPC_, or LinearProbe, LP++, CLIP-Adapter, Tip-Adapter, Tip-Adapter-F, GDA, "
                    "zero_shot_ensemble or baselines is expected%s",
                    name, hint(&g, advice));
  }

  const char *method_name = fvg_method_name(*method);
  if (is_dpc && !fvg_dpc_knows(*method)) {
    return fvg_fail(c, FVG_E_UNSUPPORTED,
                    "%s: DPC mixes prompts, and %s does not learn these alone", name, method_name);
  }
  if (is_fvgpt && !strcmp(method_name, "CoCoOp")) {
    return fvg_fail(c, FVG_E_UNSUPPORTED,
                    "FVGPT_CoCoOp: CoCoOp has no text features of classes alone, which FVG-PT "
                    "adapts");
  }
  return FVG_OK;
}

/* Zero-shot CLIP with several templates, heads, and all of them as "baselines"; 0: the name is none
   of these. */
static int add_baseline(tuning *t, const char *name) {
  const int is_all = !strcmp(name, "baselines");
  const int is_ensemble = !strcmp(name, "zero_shot_ensemble");
  int n_added = 0;
  if (is_all || is_ensemble) {
    table_row *r = add_row(t, "zero_shot_ensemble", NULL, -1);
    if (r) r->ensemble = 1;
    n_added++;
  }
  for (int kind = 0; fvg_head_name((fvg_head_kind)kind); kind++) {
    const char *head_name = fvg_head_name((fvg_head_kind)kind);
    if (!is_all && strcmp(head_name, name)) continue;
    table_row *r = add_row(t, head_name, NULL, -1);
    if (r) r->head = 1 + kind;
    n_added++;
  }
  return n_added;
}

fvg_status add_trainer(tuning *t, fvg_ctx *c, const char *name) {
  if (add_baseline(t, name)) return FVG_OK;
  const int is_fvgpt = !strncmp(name, "FVGPT_", 6);
  const int is_dpc = !strncmp(name, "DPC_", 4);
  const fvg_method *method;
  int renews_masks = 0;
  fvg_status s = check_trainer(c, name, is_fvgpt, is_dpc, &method, &renews_masks);
  if (s) return s;

  table_row *alone = add_row(t, renews_masks ? "DAPT_G" : fvg_method_name(method), method, -1);
  if (alone) alone->renews_masks = renews_masks;
  const int backbone = alone ? (int)(alone - t->row) : -1;
  if (is_dpc) {
    table_row *r = add_row(t, name, method, backbone);
    if (r) r->dpc = 1;
  }
  if (is_fvgpt) {
    table_row whole;
    memset(&whole, 0, sizeof whole);
    whole.method = method;
    whole.backbone = backbone;
    whole.distill = t->o->distill;
    add_fvgpt(t, name, &whole);
    if (t->o->ablate && alone) add_ablation(t, backbone);
    if (t->o->ablate) add_other_ways(t, name, &whole);
  }
  return FVG_OK;
}

void add_zero_shot(tuning *t) { add_row(t, "zero_shot", NULL, -1); }

fvg_status parse_trainers(tuning *t, fvg_ctx *c) {
  add_zero_shot(t);
  const char *list = t->o->learner.trainer;
  char name[64];
  while (next_item(&list, name, sizeof name)) {
    spell_trainer(name);
    fvg_status s = add_trainer(t, c, name);
    if (s) return s;
  }
  if (t->n_row > 1) return FVG_OK;
  return fvg_fail(c, FVG_E_ARG, "--trainer: no trainer is named");
}

/* ---- seeds, crops, options of methods ---- */
static fvg_status parse_seeds(tuning *t, fvg_ctx *c, const char *text) {
  const char *at = text;
  int is_last = 0;
  while (!is_last) {
    char *end;
    const long seed = strtol(at, &end, 10);
    const int is_number = end != at && (!*end || *end == ',');
    if (!is_number || seed < 0 || seed > 2147483647L || t->n_seed == MAX_SEEDS) {
      return fvg_fail(c, FVG_E_ARG, "--seeds %s: up to %d whole numbers with commas are expected",
                      text, MAX_SEEDS);
    }
    for (int i = 0; i < t->n_seed; i++) {
      if (t->seed[i] == seed)
        return fvg_fail(c, FVG_E_ARG, "--seeds %s: %ld is given twice", text, seed);
    }
    t->seed[t->n_seed++] = (int)seed;
    is_last = !*end;
    at = end + 1;
  }
  return FVG_OK;
}

/* crop:K, K from 1 to 10000; 0: it is something else. */
static int is_fixed_crops(const char *text, int *n_crops) {
  char tail;
  if (sscanf(text, "crop:%d%c", n_crops, &tail) != 1) return 0;
  return *n_crops >= 1 && *n_crops <= 10000;
}

static fvg_status parse_augment(tuning *t, fvg_ctx *c, const char *text) {
  fvg_views_desc *x = &t->augment;
  x->fill_black = t->o->fill_black;
  x->no_masks = t->o->data.masks == MASKS_NONE;
  if (!strcmp(text, "crop")) x->augment = FVG_AUGMENT_CROP;
  else if (!strcmp(text, "none")) x->augment = FVG_AUGMENT_NONE;
  else if (!strcmp(text, "squash")) x->augment = FVG_AUGMENT_SQUASH;
  else if (is_fixed_crops(text, &x->n_crops)) x->augment = FVG_AUGMENT_FIXED_CROPS;
  else {
    return fvg_fail(c, FVG_E_ARG, "--augment %s: crop, none, squash or crop:K is expected", text);
  }
  return FVG_OK;
}

/* --set NAME=VALUE, which one of the trainers at least must know. */
static fvg_status check_set(const tuning *t, fvg_ctx *c) {
  const set_options *set = &t->o->learner.set;
  const fvg_method *method[MAX_ROWS];
  int n = 0;
  for (int i = 0; i < t->n_row; i++) {
    if (t->row[i].method && t->row[i].backbone < 0) method[n++] = t->row[i].method;
  }
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < set->n; i++) s = check_set_option(c, set->item[i], method, n);
  return s;
}

/* The values of a choice must be possible for a method that has such an option. */
static fvg_status check_values(fvg_ctx *c, const choice_option *x, const fvg_method *method) {
  fvg_option known;
  double low, high;
  for (int k = 0; fvg_method_option(method, &known, &low, &high, k); k++) {
    if (strcmp(known.name, x->name)) continue;
    for (int i = 0; i < x->n; i++) {
      if (x->value[i] >= low && x->value[i] <= high) continue;
      return fvg_fail(c, FVG_E_ARG, "--choose %s: %g is not possible; %s expects from %g to %g",
                      x->name, x->value[i], fvg_method_name(method), low, high);
    }
  }
  return FVG_OK;
}

/* Each choice must be a setting of one of the rows at least. */
static fvg_status check_choices(const tuning *t, fvg_ctx *c) {
  const choose_options *o = &t->o->choose;
  unsigned used = 0;
  for (int i = 0; i < t->n_row; i++) {
    const table_row *r = &t->row[i];
    const unsigned wanted = choices_of(t->o, r);
    used |= wanted;
    for (int k = 0; k < o->n && r->backbone < 0; k++) {
      fvg_status s = wanted >> k & 1 ? check_values(c, &o->item[k], r->method) : FVG_OK;
      if (s) return s;
    }
  }
  for (int i = 0; i < o->n; i++) {
    if (used >> i & 1) continue;
    return fvg_fail(c, FVG_E_ARG,
                    "--choose %s: none of the trainers has this setting; all have lr, epochs and "
                    "batch, FVG-PT has lambda_base, fdc_hidden, gate_hidden and gate_layers too, "
                    "and a method its own options",
                    o->text[i]);
  }
  return FVG_OK;
}

/* ---- entries ---- */
static int separates(char ch) { return ch == '/' || ch == '\\'; }

void key_of_path(const char *path, char *key, size_t size) {
  const char *end = path + strlen(path);
  while (end > path && separates(end[-1])) end--;
  const char *begin = end;
  while (begin > path && !separates(begin[-1])) begin--;
  snprintf(key, size, "%.*s", (int)(end - begin), begin);
}

/* Adds a data set with every number of shots; dataset "": root is one itself. */
static fvg_status add_set(tuning *t, fvg_ctx *c, const char *root, const char *dataset) {
  const learner_options *o = &t->o->learner;
  const int n_shots = o->shots.n ? o->shots.n : 1;
  const int set = t->n_entry ? t->entry[t->n_entry - 1].set + 1 : 0;
  char key[KEY_BYTES];
  if (*dataset) snprintf(key, sizeof key, "%s", dataset);
  else key_of_path(root, key, sizeof key);

  for (int k = 0; k < n_shots; k++) {
    if (t->n_entry == MAX_ENTRIES)
      return fvg_fail(c, FVG_E_ARG, "more than %d data sets times shots", MAX_ENTRIES);
    table_entry *e = &t->entry[t->n_entry];
    e->root = root;
    snprintf(e->dataset, sizeof e->dataset, "%s", dataset);
    e->set = set;
    e->shots = o->all && !o->shots.n ? 0 : o->shots.item[k];
    snprintf(e->key, sizeof e->key, "%s", key);
    if (n_shots > 1) snprintf(e->key, sizeof e->key, "%s-shots%d", key, e->shots);

    for (int i = 0; i < t->n_entry; i++) {
      if (strcmp(t->entry[i].key, e->key)) continue;
      return fvg_fail(c, FVG_E_ARG,
                      "two data sets are called %s; their folders in --out would be the same",
                      e->key);
    }
    t->n_entry++;
  }
  return FVG_OK;
}

/* Adds the published sets of --dataset NAME,... */
static fvg_status add_published(tuning *t, fvg_ctx *c) {
  const data_options *o = &t->o->data;
  const char *list = o->dataset ? o->dataset : "";
  char name[DATASET_BYTES];
  while (next_item(&list, name, sizeof name)) {
    fvg_status s = *name ? add_set(t, c, o->dataset_root, name) : FVG_OK;
    if (s) return s;
  }
  return FVG_OK;
}

/* In the table of several entries a row has these names beside those of the entries. */
static fvg_status check_keys(const tuning *t, fvg_ctx *c) {
  for (int i = 0; t->n_entry > 1 && i < t->n_entry; i++) {
    const char *key = t->entry[i].key;
    if (strcmp(key, "method") && strcmp(key, "average")) continue;
    return fvg_fail(c, FVG_E_ARG,
                    "--data: a set called %s has no place in the table of several; rename its "
                    "folder",
                    key);
  }
  return FVG_OK;
}

static fvg_status parse_entries(tuning *t, fvg_ctx *c) {
  const data_options *o = &t->o->data;
  fvg_status s = FVG_OK;
  if (o->dataset_root) s = add_published(t, c);
  for (int i = 0; !s && !o->dataset_root && i < o->data.n; i++)
    s = add_set(t, c, o->data.item[i], "");
  if (!s) s = check_keys(t, c);
  if (s || t->n_entry) return s;
  return fvg_fail(c, FVG_E_ARG,
                  "tune needs --data ROOT, or --dataset-root DATA --dataset NAME,...");
}

void entry_folder(const tuning *t, int entry, char *folder, size_t size) {
  const int is_alone = t->n_entry == 1;
  snprintf(folder, size, "%.900s%s%s", t->o->out, is_alone ? "" : "/",
           is_alone ? "" : t->entry[entry].key);
}

static void name_test(tuning *t, const char *name, int seen) {
  test_set *x = &t->test[t->n_test++];
  snprintf(x->name, sizeof x->name, "%s", name);
  x->seen = seen;
}

void name_tests(tuning *t) {
  t->n_test = 0;
  if (t->o->learner.all) {
    if (t->n_fold) name_test(t, "accuracy", 1);
    return;
  }
  if (t->train_half == FVG_BASE) {
    name_test(t, "base", 1);
    name_test(t, "new", 0);
    return;
  }
  name_test(t, t->o->learner.transfer_to ? "source" : "all", 1);
  for (int i = 0; i < t->n_target; i++) name_test(t, t->target_name[i], 0);
}

const char *plain_template(const tuning *t, const fvg_dataset *d) {
  if (t->o->learner.prompt_template) return t->o->learner.prompt_template;
  return d->card ? d->card->prompt_template : NULL;
}

/* ---- runs ---- */
void name_run(const tuning *t, int run, char text[RUN_BYTES]) {
  const int fold = t->fold[run];
  const int n = snprintf(text, RUN_BYTES, "seed %d", t->seed[run]);
  if (fold) snprintf(text + n, RUN_BYTES - (size_t)n, " fold %d", fold);
}

void run_folder(const tuning *t, int run, char text[RUN_BYTES]) {
  const int fold = t->fold[run];
  const int n = snprintf(text, RUN_BYTES, "seed%d", t->seed[run]);
  if (fold) snprintf(text + n, RUN_BYTES - (size_t)n, "/fold%dof%d", fold, t->n_fold);
}

int count_tests(const tuning *t, int run) {
  return t->o->learner.all && !t->fold[run] ? 0 : t->n_test;
}

/* ---- all lists ---- */
fvg_status parse_lists(tuning *t, fvg_ctx *c) {
  fvg_position position;
  if (t->lacks_room) {
    return fvg_fail(c, FVG_E_ARG,
                    "--trainer: these are more than %d rows; give some of them to another run with "
                    "another --out",
                    MAX_ROWS);
  }
  const char *seeds = t->o->seeds;
  if (!seeds) seeds = t->o->learner.all ? "1" : "1,2,3";
  fvg_status s = check_all_options(c, t->o);
  if (!s) s = parse_seeds(t, c, seeds);
  if (!s) s = add_fold_runs(t, c);
  if (!s) s = parse_augment(t, c, t->o->augment);
  if (!s) s = parse_position(c, t->o->learner.position, &position);
  if (!s) s = check_set(t, c);
  if (!s) s = check_choices(t, c);
  if (!s) s = parse_entries(t, c);
  return s;
}
