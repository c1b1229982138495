/* fvgpt tune, first part: what a command asks for, as lists of rows (methods, FVG-PT on them, its ablations), entries
   (data sets times shots) and seeds.  Part of fvgpt.c. */

enum { MAX_SEEDS = 64, MAX_ROWS = 96, MAX_TESTS = 16, MAX_ENTRIES = 64 };

/* ---- the rows of the table ---- */
/* Zero-shot CLIP, a method alone, DPC on it, or FVG-PT on it, whole or with modules left out (its Table 3). */
typedef struct table_row {
  char name[64];
  const fvg_method *method;                         /* NULL: zero-shot                                            */
  int backbone;                                     /* of FVG-PT and DPC: the row whose learner it sits on; else -1 */
  int dpc, no_frg, no_fdc, no_pc;
} table_row;

/* What is trained and tested together: a data set and a number of shots. */
typedef struct table_entry {
  char key[KEY_BYTES + 16];                         /* its folder in --out when there are several */
  const char *root, *dataset;
  int set;                                    /* its number in tuning.set; shots share a data set */
  int shots;
} table_entry;

typedef struct tuning {
  const options *o;
  fvg_clip *m;
  table_row row[MAX_ROWS];
  table_entry entry[MAX_ENTRIES];
  int n_row, n_entry, seed[MAX_SEEDS], n_seed;
  folder_lock lock[MAX_ENTRIES + 1];
  fvg_views_desc augment;
  fvg_dataset set[MAX_ENTRIES],
      target[MAX_TESTS]; /* open and checked before the first entry begins */
  char target_name[MAX_TESTS][KEY_BYTES];
  int n_set, n_target;
  /* of the entry at work */
  char out[1100];
  const table_entry *at;
  fvg_dataset d;                                    /* one of set, which keeps what it owns */
  test_set test[MAX_TESTS];
  int n_test;
  fvg_group train_half;
  double result[MAX_ROWS][MAX_SEEDS][MAX_TESTS];
  char *curve[MAX_ROWS][MAX_SEEDS];                 /* losses per epoch as text: numbers with blanks between */
  fvg_views *views;                                 /* plain CLIP's, shared by seeds and stages, unless every epoch
                                                       crops anew */
  fvg_views *own_views;                             /* likewise those of the backbone at work, if it has its own    */
  /* of all entries: mean over seeds */
  double mean[MAX_ENTRIES][MAX_ROWS][MAX_TESTS];
} tuning;

/* --calibration, in the order of its words. */
enum { PUBLISHED, CROSSFIT, GUARDED };
static const char *const calibration_name[] = {"published", "crossfit", "guarded"};

/* What a row has of the settings of gates: PC's calibration, and the entropies that both gates see. */
static int calibration_of(const options *o, const table_row *r) { return r->no_pc ? PUBLISHED : o->calibration; }
static int normalised_of(const options *o, const table_row *r) { return o->normalised && !(r->no_frg && r->no_pc); }

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

/* FVG-PT on a backbone, whole or without some of its modules.  Behind the name stand settings of its gates that are
   not the published ones, so that each has a folder of its own. */
static void add_fvgpt(tuning *t, const char *name, const table_row *like) {
  const int calibration = calibration_of(t->o, like);
  char full[96];
  int at;
  snprintf(full, sizeof full, "%s%s%s%s", name, calibration ? "+" : "",
           calibration ? calibration_name[calibration] : "", normalised_of(t->o, like) ? "+normalised" : "");
  at = add_row(t, full, like->method, like->backbone);
  if (at < 0) return;
  t->row[at].no_frg = like->no_frg;
  t->row[at].no_fdc = like->no_fdc;
  t->row[at].no_pc = like->no_pc;
}

/* CoOp's ablation rows bear the modules' names alone, others' the method's as well. */
static void add_ablation(tuning *t, const fvg_method *method, int backbone) {
  static const struct { const char *name; int no_frg, no_fdc, no_pc; } part[] = {
    {"FDC", 1, 0, 1}, {"PC", 1, 1, 0}, {"FRG+FDC", 0, 0, 1}, {"FDC+PC", 1, 0, 0}
  };
  const int is_coop = !strcmp(fvg_method_name(method), "CoOp");
  size_t i;
  for (i = 0; i < sizeof part / sizeof *part; i++) {
    table_row row;
    char name[64];
    memset(&row, 0, sizeof row);
    row.method = method;
    row.backbone = backbone;
    row.no_frg = part[i].no_frg;
    row.no_fdc = part[i].no_fdc;
    row.no_pc = part[i].no_pc;
    snprintf(name, sizeof name, "%s%s%s", is_coop ? "" : fvg_method_name(method), is_coop ? "" : "_", part[i].name);
    add_fvgpt(t, name, &row);
  }
}

static fvg_status parse_trainers(tuning *t, fvg_ctx *c) {
  const char *at = t->o->trainer;
  add_row(t, "zero_shot", NULL, -1);
  while (*at) {
    const fvg_method *method;
    table_row whole;
    char name[64];
    size_t n = strcspn(at, ",");
    int fvgpt = !strncmp(at, "FVGPT_", 6), dpc = !strncmp(at, "DPC_", 4), backbone, row;
    if (n >= sizeof name) n = sizeof name - 1;
    memcpy(name, at, n);
    name[n] = 0;
    method = fvg_method_find(fvgpt ? name + 6 : dpc ? name + 4 : name);
    if (!method)
      return fvg_fail(c, FVG_E_ARG, "--trainer %s: CoOp, KgCoOp, ProGrad, CoCoOp, PromptSRC, MaPLe, DAPT, MMRL, or "
                                    "one of them behind FVGPT_ or DPC_ is expected", name);
    if (dpc && !fvg_dpc_knows(method))
      return fvg_fail(c, FVG_E_UNSUPPORTED, "%s: DPC mixes prompts, and %s does not learn these alone", name,
                      fvg_method_name(method));
    if (fvgpt && !strcmp(fvg_method_name(method), "CoCoOp"))
      return fvg_fail(c, FVG_E_UNSUPPORTED, "FVGPT_CoCoOp: CoCoOp has no text features of classes alone, which "
                                            "FVG-PT adapts");
    backbone = add_row(t, fvg_method_name(method), method, -1);
    if (dpc && (row = add_row(t, name, method, backbone)) >= 0) t->row[row].dpc = 1;
    if (fvgpt) {
      memset(&whole, 0, sizeof whole);
      whole.method = method;
      whole.backbone = backbone;
      add_fvgpt(t, name, &whole);
      if (t->o->ablate) add_ablation(t, method, backbone);
    }
    at += strcspn(at, ",");
    at += *at == ',';
  }
  return t->n_row > 1 ? FVG_OK : fvg_fail(c, FVG_E_ARG, "--trainer: no trainer is named");
}

static fvg_status parse_seeds(tuning *t, fvg_ctx *c, const char *text) {
  const char *all = text;
  char *end;
  do {
    long seed = strtol(text, &end, 10);
    if (end == text || seed < 0 || seed > 2147483647L || (*end && *end != ',') || t->n_seed == MAX_SEEDS)
      return fvg_fail(c, FVG_E_ARG, "--seeds %s: up to %d whole numbers with commas are expected", all, MAX_SEEDS);
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
  else return fvg_fail(c, FVG_E_ARG, "--augment %s: crop, none, squash or crop:K is expected", text);
  t->augment.fill_black = t->o->fill_black;
  return FVG_OK;
}

/* --set NAME=VALUE, which one of the trainers at least must know. */
static fvg_status check_set(const tuning *t, fvg_ctx *c) {
  fvg_option known;
  int i, r;
  for (i = 0; i < t->o->n_set; i++) {
    for (r = 0; r < t->n_row && !option_named(t->row[r].method, t->o->set[i], &known); r++) {}
    if (r == t->n_row)
      return fvg_fail(c, FVG_E_ARG, "--set %s: none of the trainers has this option", t->o->set[i]);
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
  if (t->n_entry == MAX_ENTRIES) return fvg_fail(c, FVG_E_ARG, "more than %d data sets times shots", MAX_ENTRIES);
  if (dataset) snprintf(key, sizeof key, "%s", dataset);
  else key_of_path(root, key, sizeof key);
  if (t->o->n_shots > 1) snprintf(e->key, sizeof e->key, "%s-shots%d", key, shots);
  else snprintf(e->key, sizeof e->key, "%s", key);
  e->root = root;
  e->dataset = dataset;
  e->shots = shots;
  if (t->n_entry) e->set = e[-1].set + (e[-1].root != root || e[-1].dataset != dataset);
  for (i = 0; i < t->n_entry; i++)
    if (!strcmp(t->entry[i].key, e->key))
      return fvg_fail(c, FVG_E_ARG, "two data sets are called %s; their folders in --out would be the same", e->key);
  t->n_entry++;
  return FVG_OK;
}

/* Every data set with every number of shots. */
static fvg_status parse_entries(tuning *t, fvg_ctx *c) {
  const options *o = t->o;
  fvg_status s = FVG_OK;
  int i, k;
  if (o->dataset_root ? !o->n_dataset : !o->n_data)
    return fvg_fail(c, FVG_E_ARG, "tune needs --data ROOT, or --dataset-root DATA --dataset NAME,...");
  for (i = 0; i < (o->dataset_root ? o->n_dataset : o->n_data); i++)
    for (k = 0; !s && k < o->n_shots; k++)
      s = add_entry(t, c, o->dataset_root ? o->dataset_root : o->all_data[i],
                    o->dataset_root ? o->all_dataset[i] : NULL, o->all_shots[k]);
  return s;
}
