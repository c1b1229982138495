/* The paper's items; see fvgpt_paper_items.h. */
#include "fvgpt_paper_items.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct { const char *key, *name, *title, *over, *note; } card[N_ITEM] = {
  {"table1", "Table 1", "Base-to-new generalisation: FVG-PT on its backbones", "method",
   "Published: ViT-B/16 of OpenAI, 16 shots, mean of 11 data sets (CLIP's are from other papers)."},
  {"table2", "Table 2", "Cross-data generalisation: tuned on the first data set, tested on all",
   "method", "Published: ViT-B/16 of OpenAI, ImageNet, and the mean of 10 other data sets."},
  {"table3", "Table 3", "Modules of FVG-PT", "modules",
   "Published: ViT-B/16 of OpenAI, mean of 11 data sets.  The last two lines are not in the "
   "paper."},
  {"table4", "Table 4", "Hidden widths of the adapters (FDC) and of the gates", "hidden width",
   "Published: ViT-B/16 of OpenAI, mean of 11 data sets."},
  {"table5", "Table 5", "Layers of the gates", "layers",
   "Published: ViT-B/16 of OpenAI, mean of 11 data sets."},
  {"table6", "Table 6", "Gates that are trained without one of their indicators", "indicators",
   "Published: each costs 0.03 to 0.16 of H."},
  {"table7", "Table 7", "What tuning costs", "method",
   "Pictures a second, over one epoch of tuning and over the test of base classes, on this "
   "machine; memory beside the weights.  Published: on a graphics card, with the weights."},
  {"d_fg", "D_fg", "Foreground shift: how far predictions for foregrounds are from those for whole "
   "pictures", "method",
   "Mean KL divergence over test pictures of base classes that have a mask; lower is better."},
  {"figure4a", "Figure 4a", "Beside other methods of prompt tuning", "method", NULL},
  {"figure4b", "Figure 4b", "The weight of distillation", "lambda_base",
   "Published: ViT-B/16 of OpenAI, mean of 11 data sets."},
};

const char *item_key(paper_item item) { return card[item].key; }

/* ---- lines ---- */
static paper_line *add_line(paper_plan *p, int row, const char *label) {
  paper_line *x = &p->line[p->n++];
  snprintf(x->label, sizeof x->label, "%s", label);
  x->row = row;
  x->minus = -1;
  x->x = NAN;
  for (int i = 0; i < 5; i++) x->published[i] = NAN;
  return x;
}

static void set_published(paper_line *x, double base, double new_, double h) {
  x->published[0] = base;
  x->published[1] = new_;
  x->published[2] = h;
}

/* ---- rows ---- */
/* The row of FVG-PT on a backbone as the options have it; all else is made from it. */
static int whole_fvgpt(const tuning *t, int backbone) {
  for (int i = 0; i < t->n_row; i++) {
    const table_row *r = &t->row[i];
    const int is_whole = !r->no_frg && !r->no_fdc && !r->no_pc && !r->no_distill &&
                         !r->invert_masks && !r->own.n && r->distill == t->o->distill;
    if (r->backbone == backbone && !r->dpc && is_whole) return i;
  }
  return -1;
}

/* The rows of a method and of FVG-PT on it. */
static fvg_status add_both(tuning *t, fvg_ctx *c, const char *method, int *alone, int *whole) {
  char name[64];
  snprintf(name, sizeof name, "FVGPT_%.50s", method);
  fvg_status s = add_trainer(t, c, name);
  *alone = find_row(t, method);
  *whole = whole_fvgpt(t, *alone);
  return s;
}

/* FVG-PT as in `like`, a copy of the whole one that was changed. */
static int add_changed(tuning *t, const table_row *like) {
  char name[64];
  snprintf(name, sizeof name, "FVGPT_%.50s", t->row[like->backbone].name);
  return add_fvgpt(t, name, like);
}

/* FVG-PT with another value of a setting, whose own value is `usual`. */
static int add_with(tuning *t, int whole, const char *setting, double value, double usual) {
  table_row like = t->row[whole];
  if (value == usual) return whole;
  vary(&like.own, setting, value);
  return add_changed(t, &like);
}

/* ---- Tables 1 and 2 ---- */
typedef struct pair_card {
  const char *method;
  double alone[3], with[3];
} pair_card;

static const pair_card published_1[] = {
  {"CoOp", {80.94, 70.03, 75.09}, {82.40, 73.62, 77.76}},
  {"KgCoOp", {NAN, NAN, 76.88}, {NAN, NAN, 78.10}},
  {"PromptSRC", {NAN, NAN, 77.24}, {NAN, NAN, 77.89}},
  {"MMRL", {NAN, NAN, 80.10}, {NAN, NAN, 80.75}},
};
static const pair_card published_2[] = {
  {"CoOp", {71.55, 64.57, NAN}, {72.09, 65.72, NAN}},
  {"KgCoOp", {71.20, 65.41, NAN}, {72.17, 65.82, NAN}},
  {"PromptSRC", {72.43, 64.76, NAN}, {72.86, 65.03, NAN}},
  {"MMRL", {73.70, 66.47, NAN}, {73.91, 66.99, NAN}},
};

static void copy_published(paper_line *alone, paper_line *with, const pair_card *known,
                           const char *method) {
  for (int i = 0; i < 4; i++) {
    if (strcmp(known[i].method, method)) continue;
    memcpy(alone->published, known[i].alone, sizeof known[i].alone);
    memcpy(with->published, known[i].with, sizeof known[i].with);
  }
}

/* A method, FVG-PT on it, and the difference. */
static fvg_status plan_pair(tuning *t, fvg_ctx *c, paper_plan *p, const char *method,
                            const pair_card *known) {
  int alone, whole;
  char label[96];
  fvg_status s = add_both(t, c, method, &alone, &whole);
  if (s) return s;
  if (p->n + 3 > MAX_LINES) return fvg_fail(c, FVG_E_ARG, "--backbone: too many methods");

  paper_line *first = add_line(p, alone, method);
  snprintf(label, sizeof label, "%.50s + FVG-PT", method);
  paper_line *second = add_line(p, whole, label);
  copy_published(first, second, known, method);
  paper_line *gain = add_line(p, whole, "  gain");
  gain->minus = alone;
  for (int i = 0; i < 3; i++) gain->published[i] = second->published[i] - first->published[i];
  return FVG_OK;
}

static fvg_status plan_backbones(tuning *t, fvg_ctx *c, paper_plan *p, const char *const *backbone,
                                 int n_backbone, const pair_card *known) {
  paper_line *clip = add_line(p, 0, "CLIP");
  if (known == published_1) set_published(clip, 69.34, 74.22, 71.70);
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < n_backbone; i++) s = plan_pair(t, c, p, backbone[i], known);
  return s;
}

/* ---- Table 3 ---- */
static fvg_status plan_modules(tuning *t, fvg_ctx *c, paper_plan *p, const char *backbone) {
  static const struct {
    const char *label;
    int no_frg, no_fdc, no_pc;
    double published[3];
  } part[] = {
    {"FDC", 1, 0, 1, {81.04, 63.14, 70.98}},
    {"PC", 1, 1, 0, {80.94, 73.62, 77.11}},
    {"FRG + FDC", 0, 0, 1, {82.40, 63.45, 71.69}},
    {"FDC + PC", 1, 0, 0, {81.04, 73.62, 77.15}},
    {"FRG + FDC + PC", 0, 0, 0, {82.40, 73.62, 77.76}},
  };
  const int is_published = !strcmp(backbone, "CoOp");
  int alone, whole;
  fvg_status s = add_both(t, c, backbone, &alone, &whole);
  if (s) return s;
  add_ablation(t, alone);

  paper_line *none = add_line(p, alone, "none");
  if (is_published) set_published(none, 80.94, 70.03, 75.09);
  for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
    int row = 0;
    while (t->row[row].backbone != alone || t->row[row].no_frg != part[i].no_frg ||
           t->row[row].no_fdc != part[i].no_fdc || t->row[row].no_pc != part[i].no_pc ||
           t->row[row].own.n || t->row[row].no_distill || t->row[row].invert_masks)
      row++;
    paper_line *x = add_line(p, row, part[i].label);
    if (is_published) memcpy(x->published, part[i].published, sizeof part[i].published);
  }

  table_row like = t->row[whole];
  like.no_distill = 1;
  add_line(p, add_changed(t, &like), "all, without distillation");
  like.no_distill = 0;
  like.invert_masks = 1;
  add_line(p, add_changed(t, &like), "all, masks inverted");
  return FVG_OK;
}

/* ---- Tables 4 and 5, Figure 4b: a setting with several values ---- */
typedef struct sweep_card {
  double value, published_h;
} sweep_card;

static void plan_sweep(tuning *t, paper_plan *p, int whole, const char *setting,
                       const char *label, double usual, const sweep_card *at, int n) {
  const int is_published = !strcmp(t->row[t->row[whole].backbone].name, "CoOp");
  for (int i = 0; i < n; i++) {
    char text[96];
    snprintf(text, sizeof text, label, at[i].value);
    paper_line *x = add_line(p, add_with(t, whole, setting, at[i].value, usual), text);
    x->x = at[i].value;
    if (is_published) x->published[2] = at[i].published_h;
  }
}

static void plan_sweeps(tuning *t, paper_plan *p, int whole) {
  static const sweep_card adapters[] = {{16, 77.50}, {32, 77.53}, {64, 77.76}, {128, 77.62}};
  static const sweep_card gates[] = {{16, 77.68}, {32, 77.76}, {64, 77.58}, {128, 77.63}};
  static const sweep_card layers[] = {{1, 77.48}, {2, 77.76}, {3, 77.68}};
  static const sweep_card lambda[] = {{1, 77.50}, {3, NAN}, {10, 77.76}, {30, NAN}, {50, 77.60}};
  if (p->item == TABLE_4) {
    plan_sweep(t, p, whole, "fdc_hidden", "adapters %g", 64, adapters, 4);
    plan_sweep(t, p, whole, "gate_hidden", "gates %g", 32, gates, 4);
  } else if (p->item == TABLE_5) {
    plan_sweep(t, p, whole, "gate_layers", "%g", 2, layers, 3);
  } else {
    const double usual = lambda_base_of(t->o, &t->row[whole]);
    plan_sweep(t, p, whole, "lambda_base", "%g", usual, lambda, 5);
  }
}

/* ---- Table 6 ---- */
static void plan_indicators(tuning *t, paper_plan *p, int whole) {
  static const struct { const char *label, *setting; int without; } part[] = {
    {"FRG without entropies", "frg_without", FVG_U_ENTROPY},
    {"FRG without cosine", "frg_without", FVG_U_COSINE},
    {"FRG without area", "frg_without", FVG_U_AREA},
    {"BRG without the tuned entropy", "brg_without", FVG_V_TUNED_ENTROPY},
    {"BRG without CLIP's entropy", "brg_without", FVG_V_CLIP_ENTROPY},
    {"BRG without cosine", "brg_without", FVG_V_COSINE},
  };
  paper_line *all = add_line(p, whole, "all");
  if (!strcmp(t->row[t->row[whole].backbone].name, "CoOp")) all->published[2] = 77.76;
  for (size_t i = 0; i < sizeof part / sizeof *part; i++)
    add_line(p, add_with(t, whole, part[i].setting, part[i].without, 0), part[i].label);
}

/* ---- Table 7, D_fg, Figure 4a ---- */
static fvg_status plan_cost(tuning *t, fvg_ctx *c, paper_plan *p, const char *backbone) {
  static const double published[2][5] = {{4.99e6, 87.52, 2009.9, 610.6, 80.10},
                                         {0.13e6, 153.36, 808.4, 847.6, 80.75}};
  int alone, whole;
  char label[96];
  fvg_status s = add_both(t, c, backbone, &alone, &whole);
  if (s) return s;
  snprintf(label, sizeof label, "FVG-PT on %.50s", backbone);
  add_line(p, alone, backbone);
  add_line(p, whole, label);
  for (int i = 0; i < 2 && !strcmp(backbone, "MMRL"); i++)
    memcpy(p->line[i].published, published[i], sizeof published[i]);
  return FVG_OK;
}

static fvg_status plan_shift(tuning *t, fvg_ctx *c, paper_plan *p, const char *backbone) {
  add_line(p, 0, "CLIP");
  return plan_cost(t, c, p, backbone);
}

static fvg_status plan_beside(tuning *t, fvg_ctx *c, paper_plan *p, const char *backbone) {
  int alone, whole;
  char label[96];
  fvg_status s = add_both(t, c, backbone, &alone, &whole);
  if (!s) s = add_trainer(t, c, "ProGrad");
  if (!s) s = add_trainer(t, c, "DAPT");
  if (s) return s;
  add_line(p, alone, backbone);
  add_line(p, find_row(t, "ProGrad"), "ProGrad");
  add_line(p, find_row(t, "DAPT"), "DAPT-S");
  snprintf(label, sizeof label, "FVG-PT");
  add_line(p, whole, label);
  return FVG_OK;
}

/* ---- all ---- */
fvg_status plan_item(tuning *t, fvg_ctx *c, paper_plan *p, paper_item item,
                     const char *const *backbone, int n_backbone, int given) {
  memset(p, 0, sizeof *p);
  p->item = item;
  add_zero_shot(t);
  switch (item) {
    case TABLE_1: return plan_backbones(t, c, p, backbone, n_backbone, published_1);
    case TABLE_2: return plan_backbones(t, c, p, backbone, n_backbone, published_2);
    case TABLE_3: return plan_modules(t, c, p, backbone[0]);
    case TABLE_7: return plan_cost(t, c, p, given ? backbone[0] : "MMRL");
    case TABLE_SHIFT: return plan_shift(t, c, p, backbone[0]);
    case FIGURE_4A: return plan_beside(t, c, p, backbone[0]);
    case TABLE_4: case TABLE_5: case TABLE_6: case FIGURE_4B: case N_ITEM: break;
  }

  int alone, whole;
  fvg_status s = add_both(t, c, backbone[0], &alone, &whole);
  if (s) return s;
  if (item == TABLE_6) plan_indicators(t, p, whole);
  else plan_sweeps(t, p, whole);
  return FVG_OK;
}

/* ---- tables ---- */
static int add_column(paper_table *t, const char *set, const char *measure, int digits,
                      int is_published) {
  paper_column *x = &t->column[t->n_column];
  snprintf(x->set, sizeof x->set, "%s", set);
  x->measure = measure;
  x->digits = digits;
  x->is_published = is_published;
  for (int i = 0; i < t->n_line; i++) {
    t->cell[i][t->n_column].value = NAN;
    t->cell[i][t->n_column].deviation = NAN;
  }
  return t->n_column++;
}

/* Adds a published column unless nothing of it is known. */
static int add_published(paper_table *out, const paper_plan *p, const char *measure, int digits,
                         int which) {
  int known = 0;
  for (int i = 0; i < p->n; i++) known |= !isnan(p->line[i].published[which]);
  if (!known) return -1;
  const int k = add_column(out, "", measure, digits, 1);
  for (int i = 0; i < p->n; i++) out->cell[i][k].value = p->line[i].published[which];
  return k;
}

/* A mean of entry e; test n_test is H.  Entry n_entry is the average of all. */
static double mean_at(const tuning *t, int e, int row, int test) {
  if (test == t->n_test) {
    const double base = mean_at(t, e, row, 0);
    return fvg_harmonic_mean(base, mean_at(t, e, row, 1));
  }
  if (e < t->n_entry) return t->mean[e][row][test];
  double sum = 0;
  for (int i = 0; i < t->n_entry; i++) sum += t->mean[i][row][test] / t->n_entry;
  return sum;
}

/* Fills a column with a test of an entry. */
static void fill_column(const tuning *t, const paper_plan *p, paper_table *out, int k, int e,
                        int test) {
  for (int i = 0; i < p->n; i++) {
    const paper_line *line = &p->line[i];
    paper_cell *cell = &out->cell[i][k];
    cell->value = mean_at(t, e, line->row, test);
    if (line->minus >= 0) cell->value -= mean_at(t, e, line->minus, test);
    else if (e < t->n_entry && t->n_seed > 1) cell->deviation = t->deviation[e][line->row][test];
  }
}

/* base, new and H of every data set, their averages, and what was published.  drawn: H alone is
   what counts, that of the average if there are several sets. */
static void fill_base_to_new(const tuning *t, const paper_plan *p, paper_table *out) {
  static const char *const measure[] = {"base", "new", "H"};
  const int last = t->n_entry > 1 ? t->n_entry : 0;
  for (int e = 0; e <= last; e++) {
    const char *set = e < t->n_entry ? t->entry[e].key : "average";
    for (int test = 0; test <= t->n_test; test++) {
      out->drawn = add_column(out, set, measure[test], 2, 0);
      fill_column(t, p, out, out->drawn, e, test);
    }
  }
  for (int i = 0; i < 3; i++) out->drawn_published = add_published(out, p, measure[i], 2, i);
}

/* The source, the targets, and their mean. */
static void fill_cross_data(const tuning *t, const paper_plan *p, paper_table *out) {
  for (int test = 0; test < t->n_test; test++) {
    const char *set = test ? t->target_name[test - 1] : t->entry[0].key;
    const int k = add_column(out, set, test ? "accuracy" : "source", 2, 0);
    fill_column(t, p, out, k, 0, test);
  }
  const int k = add_column(out, "targets", "mean", 2, 0);
  for (int i = 0; i < p->n; i++) {
    double sum = 0;
    for (int test = 1; test < t->n_test; test++) sum += out->cell[i][test].value;
    out->cell[i][k].value = sum / (t->n_test - 1);
  }
  add_published(out, p, "source", 2, 0);
  add_published(out, p, "mean", 2, 1);
}

static void fill_cost(const tuning *t, const paper_plan *p, paper_table *out) {
  static const char *const name[N_COST] = {"parameters", "tuned pictures/s", "MB",
                                           "tested pictures/s"};
  static const int digits[N_COST] = {0, 1, 1, 1};
  for (int i = 0; i < N_COST; i++) add_column(out, "", name[i], digits[i], 0);
  const int last = t->n_entry > 1 ? t->n_entry : 0;
  const int k = add_column(out, last ? "average" : t->entry[0].key, "H", 2, 0);
  fill_column(t, p, out, k, last, t->n_test);
  for (int i = 0; i < N_COST; i++) add_published(out, p, name[i], digits[i], i);
  add_published(out, p, "H", 2, N_COST);
}

void fill_table(const tuning *t, const paper_plan *p, paper_table *out) {
  memset(out, 0, sizeof *out);
  out->name = card[p->item].name;
  out->title = card[p->item].title;
  out->over = card[p->item].over;
  out->note = card[p->item].note;
  out->drawn_published = -1;
  out->n_line = p->n;
  for (int i = 0; i < p->n; i++) {
    snprintf(out->line[i], sizeof out->line[i], "%s", p->line[i].label);
    out->x[i] = p->line[i].x;
  }

  if (p->item == TABLE_2) {
    fill_cross_data(t, p, out);
  } else if (p->item == TABLE_7) {
    fill_cost(t, p, out);
  } else if (p->item == TABLE_SHIFT) {
    for (int e = 0; e < t->n_entry; e++) {
      const int k = add_column(out, t->entry[e].key, "base", 2, 0);
      fill_column(t, p, out, k, e, 0);
      add_column(out, t->entry[e].key, "D_fg", 4, 0);
    }
  } else {
    fill_base_to_new(t, p, out);
  }
  if (p->item == FIGURE_4A) out->chart = CHART_BARS;
  if (p->item == FIGURE_4B) out->chart = CHART_LINE;
}
