/* fvgpt paper: the tables and figures of arXiv 2603.08708 on any list of data sets.  What they are
   made of are runs of tune, which are finished once and used by every table. */
#include "fvgpt_paper.h"

#include <stdio.h>
#include <string.h>

#include "fvgpt_hints.h"
#include "fvgpt_html.h"
#include "fvgpt_paper_items.h"
#include "fvgpt_paper_measure.h"
#include "fvgpt_tune.h"

typedef struct paper_options {
  tune_options tune;
  int wanted[N_ITEM];                /* 1: it is asked for                                       */
  const char *backbone;              /* names with commas between; NULL: the paper's             */
} paper_options;

/* ---- options ---- */
static int take_one_of(int *wanted, const char *option, const char *value,
                       const char *const *name, const int *item, int n) {
  for (int i = 0; i < n; i++) {
    if (strcmp(name[i], value)) continue;
    wanted[item[i]] = 1;
    return 1;
  }
  char words[100] = "";
  for (int i = 0; i < n; i++) {
    const size_t at = strlen(words);
    snprintf(words + at, sizeof words - at, "%s%s", i ? " " : "", name[i]);
  }
  tell_words(option, value, words);
  return 0;
}

static int take_table(void *to, const char *value) {
  static const char *const name[] = {"1", "2", "3", "4", "5", "6", "7", "D_fg"};
  static const int item[] = {TABLE_1, TABLE_2, TABLE_3, TABLE_4,
                             TABLE_5, TABLE_6, TABLE_7, TABLE_SHIFT};
  return take_one_of((int *)to, "--table", value, name, item, 8);
}

static int take_figure(void *to, const char *value) {
  static const char *const name[] = {"4a", "4b"};
  static const int item[] = {FIGURE_4A, FIGURE_4B};
  return take_one_of((int *)to, "--figure", value, name, item, 2);
}

static void declare(option_table *t, void *options) {
  paper_options *o = (paper_options *)options;
  declare_tune(t, &o->tune);
  add_taken(t, "--table", take_table, o->wanted);
  add_taken(t, "--figure", take_figure, o->wanted);
  add_text(t, "--backbone", &o->backbone);
}

enum { MAX_BACKBONES = 7, NAME_BYTES = 40 };
typedef struct backbones {
  char text[MAX_BACKBONES][NAME_BYTES];
  const char *name[MAX_BACKBONES];
  int n;
} backbones;

/* --backbone, or the paper's four. */
static fvg_status list_backbones(fvg_ctx *c, const char *given, backbones *x) {
  const char *list = given ? given : "CoOp,KgCoOp,PromptSRC,MMRL";
  char name[NAME_BYTES];
  x->n = 0;
  for (int is_whole; (is_whole = next_item(&list, name, sizeof name)) != 0;) {
    if (x->n == MAX_BACKBONES || !*name || is_whole < 0)
      return fvg_fail(c, FVG_E_ARG, "--backbone %s: up to %d methods with commas are expected",
                      given, MAX_BACKBONES);
    spell_trainer(name);
    if (!fvg_method_find(name) && strcmp(name, "DAPT_G")) {
      char advice[HINT_BYTES];
      const guess g = guess_method(name);
      return fvg_fail(c, FVG_E_ARG, "--backbone %s: no such method%s", name, hint(&g, advice));
    }
    strcpy(x->text[x->n], name);
    x->name[x->n] = x->text[x->n];
    x->n++;
  }
  return FVG_OK;
}

/* ---- what is written ---- */
/* The tables of one command, in three files that hold all of them. */
typedef struct paper {
  fvg_ctx *c;
  const paper_options *o;
  backbones backbone;
  document csv, json, page;
  int n;                             /* tables put                                               */
  int is_open;                       /* 1: other shards are still at work                        */
} paper;

static void put_table(paper *x, const paper_table *t) {
  print_paper_table(t);
  put_paper_csv(&x->csv, t);
  put(&x->json, x->n ? ",\n" : "");
  put_paper_json(&x->json, t);
  put_paper_section(&x->page, t);
  x->n++;
}

/* Of one table or figure files have its name, else "paper". */
static const char *key_of(const paper *x) {
  const char *key = "paper";
  int n = 0;
  for (int i = 0; i < N_ITEM; i++) {
    if (!x->o->wanted[i]) continue;
    key = item_key((paper_item)i);
    n++;
  }
  return n == 1 ? key : "paper";
}

static fvg_status save_one(const paper *x, document *d, const char *ending) {
  char path[1200];
  snprintf(path, sizeof path, "%s/%s.%s", x->o->tune.out, key_of(x), ending);
  return save_document(d, path);
}

static void begin(paper *x) {
  x->csv = new_document(x->c);
  x->json = new_document(x->c);
  x->page = new_document(x->c);
  put(&x->csv, "table,row,set,measure,mean,deviation,source\n");
  put(&x->json, "{\n \"tables\": [\n");
  put_page_start(&x->page, "Tables of FVG-PT",
                 ".published{color:var(--orange)}circle.published{fill:var(--orange)}"
                 ".line{fill:none;stroke:var(--blue);stroke-width:2}"
                 ".line.published{stroke:var(--orange);stroke-dasharray:4 3}"
                 ".ours{fill:var(--blue);color:var(--blue)}.value{fill:var(--ink)}"
                 "figure{max-width:34rem}");
  put(&x->page,
      "<h1>Tables of FVG-PT</h1>\n<p>The tables and figures of <a "
      "href=\"https://arxiv.org/abs/2603.08708\">arXiv 2603.08708</a>, measured on the data sets "
      "named in them. <span class=\"published\">Published numbers</span> are the paper's own, of "
      "its model and data sets; they are not comparable digit by digit.</p>\n");
}

/* The page comes last: where it is, all is. */
static fvg_status end(paper *x) {
  put(&x->json, "\n ]\n}\n");
  put(&x->page, "<footer>Made by fvgpt " FVGPT_VERSION ".</footer>\n");
  put_page_end(&x->page);
  fvg_status s = save_one(x, &x->csv, "csv");
  if (s) x->json.status = s;
  s = save_one(x, &x->json, "json");
  if (s) x->page.status = s;
  return save_one(x, &x->page, "html");
}

/* Nothing is written after a failure, nor by a shard that others still work with. */
static void leave(paper *x) {
  fvg_release(x->c, x->csv.text);
  fvg_release(x->c, x->json.text);
  fvg_release(x->c, x->page.text);
}

/* ---- runs ---- */
/* Plans the items of one protocol, runs all their rows at once, and puts their tables. */
static fvg_status run_items(paper *x, const tune_options *o, const int *wanted) {
  fvg_ctx *c = x->c;
  tuning *t;
  paper_plan *plan = FVG_NEW_ARRAY(c, paper_plan, N_ITEM);
  paper_table *table = FVG_NEW(c, paper_table);
  fvg_status s = tuning_new(c, &t, o);
  if (!plan || !table) s = FVG_E_NOMEM;
  for (int i = 0; !s && i < N_ITEM; i++) {
    if (!wanted[i]) continue;
    s = plan_item(t, c, &plan[i], (paper_item)i, x->backbone.name, x->backbone.n,
                  x->o->backbone != NULL);
  }
  if (!s) s = tuning_run(t);
  const int is_open = !s && !t->has_means;
  x->is_open |= is_open;
  for (int i = 0; !s && !is_open && i < N_ITEM; i++) {
    if (!wanted[i]) continue;
    fill_table(t, &plan[i], table);
    if (i == TABLE_7) s = measure_costs(t, &plan[i], table);
    if (i == TABLE_SHIFT) s = measure_shifts(t, &plan[i], table);
    if (!s) put_table(x, table);
  }
  tuning_free(t);
  fvg_release(c, plan);
  fvg_release(c, table);
  return s;
}

/* All but Table 2 are tuned on base classes; their runs lie in OUT/base-to-new. */
static fvg_status run_base_to_new(paper *x) {
  int wanted[N_ITEM], any = 0;
  memcpy(wanted, x->o->wanted, sizeof wanted);
  wanted[TABLE_2] = 0;
  for (int i = 0; i < N_ITEM; i++) any |= wanted[i];
  if (!any) return FVG_OK;
  char out[1000];
  snprintf(out, sizeof out, "%s/base-to-new", x->o->tune.out);
  tune_options o = x->o->tune;
  o.out = out;
  o.learner.trainer = "paper";
  return run_items(x, &o, wanted);
}

/* Adds ",NAME" to a text of `size` bytes; 0: there is no room. */
static int add_name(char *text, size_t size, const char *name) {
  const size_t at = strlen(text);
  const int n = snprintf(text + at, size - at, "%s%s", at ? "," : "", name);
  return (size_t)n < size - at;
}

/* Table 2: the first data set is the source, the others are where it is transferred to. */
static fvg_status run_cross_data(paper *x) {
  enum { LIST_BYTES = 8000 };
  int wanted[N_ITEM] = {0};
  if (!x->o->wanted[TABLE_2]) return FVG_OK;
  wanted[TABLE_2] = 1;
  tune_options o = x->o->tune;
  data_options *d = &o.data;
  char out[1000], targets[LIST_BYTES] = "", source[200] = "";
  int fits = 1;
  snprintf(out, sizeof out, "%s/cross-data", o.out);
  o.out = out;
  o.learner.trainer = "paper";

  if (d->dataset_root && d->dataset) {
    const size_t n = strcspn(d->dataset, ",");
    snprintf(source, sizeof source, "%.*s", (int)n, d->dataset);
    if (d->dataset[n]) fits = add_name(targets, sizeof targets, d->dataset + n + 1);
    d->dataset = source;
  } else {
    for (int i = 1; i < d->data.n; i++)
      fits &= !strchr(d->data.item[i], ',') && add_name(targets, sizeof targets, d->data.item[i]);
    if (d->data.n > 1) d->data.n = 1;
  }
  if (!*targets || !fits)
    return fvg_fail(x->c, FVG_E_ARG,
                    "--table 2 needs the data set to tune on and then others to test on, each "
                    "--data without a comma in its path");
  o.learner.transfer_to = targets;
  return run_items(x, &o, wanted);
}

static fvg_status check_options(fvg_ctx *c, const paper_options *o) {
  const learner_options *l = &o->tune.learner;
  int any = 0;
  for (int i = 0; i < N_ITEM; i++) any |= o->wanted[i];
  if (!any || !o->tune.out || !*o->tune.out)
    return fvg_fail(c, FVG_E_ARG, "paper needs --table N or --figure N, and --out DIR");
  if (strlen(o->tune.out) > 850) return fvg_fail(c, FVG_E_ARG, "--out: the path is too long");
  const int is_all = l->all || o->tune.folds >= 0;
  if (l->trainer || l->few_shot || l->transfer_to || o->tune.ablate || l->shots.n > 1 || is_all)
    return fvg_fail(c, FVG_E_ARG,
                    "paper: --trainer, --few-shot, --transfer-to, --ablate, --all and several "
                    "--shots are for tune; the tables say what they need, and --backbone names "
                    "other methods");
  return FVG_OK;
}

static fvg_status run(fvg_ctx *c, const void *options) {
  const paper_options *o = (const paper_options *)options;
  paper x;
  memset(&x, 0, sizeof x);
  x.c = c;
  x.o = o;
  fvg_status s = check_options(c, o);
  if (!s) s = list_backbones(c, o->backbone, &x.backbone);
  if (s) return s;

  begin(&x);
  s = run_base_to_new(&x);
  if (!s) s = run_cross_data(&x);
  if (!s && !x.is_open) return end(&x);

  leave(&x);
  if (!s) {
    print(stdout,
          "other shards are still at work, so %s has no new tables of the paper yet; next: this "
          "command without --shard, when they are done\n",
          o->tune.out);
  }
  return s;
}

const fvgpt_command paper_command = {"paper", sizeof(paper_options), declare, run};
