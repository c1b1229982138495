/* The page of a report; see fvgpt_report_page.h. */
#include "fvgpt_report_page.h"

#include <math.h>
#include <string.h>

#include "fvgpt_report_draw.h"

/* In two parts, because C99 does not promise strings of more than 4095 letters. */
static const char head_1[] =
  "<!DOCTYPE html>\n"
  "<html lang=\"en\">\n"
  "<head>\n"
  "<meta charset=\"utf-8\">\n"
  "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
  "<meta name=\"color-scheme\" content=\"light dark\">\n"
  "<title>fvgpt report</title>\n"
  "<link rel=\"icon\" href=\"data:,\">\n"
  "<style>\n"
  ":root{--page:#fbfbfa;--card:#fff;--ink:#1c2127;--soft:#59626d;--line:#dde1e6;"
  "--blue:#0a65b0;--orange:#b65200}\n"
  "@media(prefers-color-scheme:dark){:root{--page:#14171b;--card:#1b1f24;"
  "--ink:#e5e8eb;--soft:#9ea8b3;\n"
  "--line:#30363e;--blue:#69b1ff;--orange:#ffa04d}}\n"
  "*{box-sizing:border-box}\n"
  "body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 "
  "system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}\n"
  "main{max-width:1120px;margin:0 auto;padding:1.6rem 1.1rem 3rem}\n"
  "h1{font-size:1.8rem;line-height:1.2;margin:0 0 .5rem}\n"
  "h2{font-size:1.45rem;margin:2.8rem 0 .2rem;padding-top:1.2rem;border-top:2px "
  "solid var(--line)}\n"
  "h3{font-size:1.12rem;margin:2.2rem 0 .4rem}h4{font-size:1rem;margin:1.1rem 0 "
  ".3rem}\n"
  "p{margin:.35rem 0 .7rem;max-width:48rem}.note,figcaption{color:var(--soft);"
  "font-size:.88rem}\n"
  "nav{display:flex;flex-wrap:wrap;gap:.2rem .9rem;font-size:.92rem;margin:.5rem "
  "0 1rem}\n"
  ".scroll{overflow-x:auto;margin:.5rem 0}\n"
  "table{border-collapse:collapse;font-variant-numeric:tabular-nums;"
  "font-size:.95rem}\n"
  "th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid "
  "var(--line)}\n"
  "td,tbody th{white-space:nowrap}th{font-weight:600}\n"
  "tbody th,th:first-child,.left{text-align:left;padding-left:0}\n"
  ".left{white-space:normal}thead th{color:var(--soft);font-size:.86rem;"
  "vertical-align:bottom}\n"
  "td small{color:var(--soft)}td b{color:var(--blue)}\n"
  "figure{margin:0;min-width:0}\n"
  "svg{display:block;width:100%;height:auto;font:11px system-ui,sans-serif}svg "
  "text{fill:var(--soft)}\n"
  ".axis{stroke:var(--line);fill:none}\n"
  ".seed{stroke:var(--blue);fill:none;stroke-width:1;opacity:.45}\n"
  ".mean{stroke:var(--blue);fill:none;stroke-width:2.6;stroke-linejoin:round}"
  ".dot{fill:var(--blue)}\n"
  ".good{fill:var(--blue)}.miss{fill:var(--orange)}\n"
  ".bad{fill:var(--orange);fill-opacity:.3;stroke:var(--orange)}\n"
  "svg.matrix{font-size:5.5px}svg.matrix .count{fill:var(--ink);font-size:5px}\n";
static const char head_2[] =
  ".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,"
  "19rem),1fr));gap:1.3rem}\n"
  ".charts>figure{max-width:30rem}\n"
  ".card{background:var(--card);border:1px solid var(--line);border-radius:10px;"
  "padding:.8rem .9rem 1rem;margin:.8rem 0}\n"
  ".card>p{display:flex;flex-wrap:wrap;gap:.1rem .9rem;max-width:none;"
  "align-items:baseline;margin:0 0 .5rem}\n"
  ".path{color:var(--soft);font-size:.82rem;overflow-wrap:anywhere}\n"
  ".looks{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,"
  "20rem),1fr));gap:1rem 1.2rem}\n"
  ".looks h4{margin:0 0 .25rem;font-size:.93rem}.looks h4 small{font-weight:400;"
  "color:var(--soft)}\n"
  ".three{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:.5rem}\n"
  "img{display:block;width:100%;height:auto;border-radius:5px}\n"
  ".three figcaption{font-size:.78rem;line-height:1.35;padding-top:.25rem;"
  "overflow-wrap:anywhere}\n"
  "figcaption b{color:var(--ink);font-weight:600}.small{"
  "image-rendering:pixelated}\n"
  ".none{aspect-ratio:1;border:1px dashed var(--line);border-radius:5px;"
  "display:grid;place-items:center;text-align:center;color:var(--soft);"
  "font-size:.78rem}\n"
  ".yes{color:var(--blue)}.no{color:var(--orange)}\n"
  ".scale{display:flex;gap:.6rem;align-items:center;color:var(--soft);"
  "font-size:.86rem}\n"
  ".scale img{width:9rem;height:.9rem;border-radius:3px;image-rendering:auto}\n"
  "summary{cursor:pointer;color:var(--blue)}\n"
  "footer{margin-top:3rem;padding-top:1rem;border-top:1px solid var(--line);"
  "color:var(--soft);font-size:.87rem}\n"
  "code{font:.93em ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}"
  "a{color:var(--blue)}\n"
  "@media(max-width:700px){tbody th{white-space:normal;overflow-wrap:anywhere;"
  "min-width:6.4rem}h1{font-size:1.45rem}th,td{padding:.28rem .4rem}table{"
  "font-size:.88rem}\n"
  "td small{display:block}.card{padding:.6rem .6rem .8rem}main{padding:1rem "
  ".8rem 2rem}}\n"
  "</style>\n"
  "</head>\n"
  "<body>\n"
  "<main>\n";

static const char *const map_title[N_MAP] = {"Relevance", "Grad-CAM", "CLS attention"};

/* ---- small things ---- */
/* Puts a number in its cell, bold when it is the best, with its deviation unless that is
   negative. */
static void put_cell(document *t, double value, double deviation, int digits, int best) {
  if (value != value) put(t, "<td>–");
  else put(t, best ? "<td><b>%.*f</b>" : "<td>%.*f", digits, value);
  if (deviation >= 0) put(t, " <small>± %.*f</small>", digits, deviation);
  put(t, "</td>");
}

/* A measure with its deviation over the seeds, or a dash. */
static void put_measure(document *t, const study *x, const measure *m, int digits) {
  if (m->n) put_cell(t, m->mean, m->n > 1 ? deviation_of(m, x->n_seed) : -1, digits, 0);
  else put(t, "<td>–</td>");
}

static void put_name(document *t, const char *before, const char *name, const char *after) {
  put(t, "%s", before);
  put_escaped(t, name, 1);
  put(t, "%s", after);
}

static const char *half_name(const group *g) {
  if (g->half == FVG_ALL) return "all classes";
  return g->half == FVG_BASE ? "base classes" : "new classes";
}

/* "16 base classes", or of a group of all classes "16 classes". */
static void put_class_count(document *t, const group *g) {
  const int n = g->task.n_class;
  put(t, "%d %s%s", n, g->half == FVG_ALL ? "" : g->half == FVG_BASE ? "base " : "new ",
      n == 1 ? "class" : "classes");
}

static int has_masks(const study *x) {
  int n = 0;
  for (int i = 0; i < x->n_group; i++) n += x->group[i].masked.n;
  return n > 0;
}

static int any_fvgpt(const study *x) {
  int n = 0;
  for (int i = 0; i < x->n_model; i++) n += x->model[i].has_fvgpt;
  return n > 0;
}

/* A heading that links of study `number` lead to. */
static void put_heading(document *t, int number, const char *id, const char *text) {
  put(t, "<h3 id=\"set%d-%s\">%s</h3>\n", number, id, text);
}

/* ---- accuracy ---- */
static double rounded(double score) { return floor(100 * score + 0.5); }

/* Is no other row's score better, as it is printed? */
static int is_best(const study *x, int row, int column) {
  if (isnan(x->row[row].mean[column])) return 0;
  const double own = rounded(x->row[row].mean[column]);
  for (int i = 0; i < x->n_row; i++) {
    if (!isnan(x->row[i].mean[column]) && rounded(x->row[i].mean[column]) > own) return 0;
  }
  return 1;
}

static const char *title_of(const study *x, const char *name) {
  for (int i = 0; i < x->n_model; i++) {
    if (!strcmp(x->model[i].name, name)) return x->model[i].title;
  }
  return name;
}

static void put_seeds(document *t, const study *x) {
  put(t, "seed%s", x->n_seed > 1 ? "s" : "");
  for (int i = 0; i < x->n_seed; i++) put(t, i ? ", %d" : " %d", x->seed[i]);
}

static void put_score_note(document *t, const study *x) {
  put(t, "<p class=\"note\">%s", x->n_seed > 1 ? "Mean and deviation over " : "A run of ");
  put_seeds(t, x);
  for (int i = 0; i < x->n_group; i++) {
    put(t, "%s %d test pictures of ", i ? "," : ";", x->group[i].task.items.n);
    put_class_count(t, &x->group[i]);
  }
  put(t, ".%s The best of a column is bold. From <code>",
      x->has_h ? " H is the harmonic mean of the two means." : "");
  put_name(t, "", x->runs, "/results.json</code>");
  put(t, "; the checkpoints, tested again, give the same within %.*f points.", SCORE_DIGITS,
      x->worst_difference);
  if (x->n_test > x->n_group)
    put(t, " Of the sets that were transferred to, this report has the accuracies alone.");
  put(t, "</p>\n");
}

static void put_scores(document *t, const study *x, int number) {
  put_heading(t, number, "accuracy", "Accuracy");
  put(t, "<div class=\"scroll\"><table><thead><tr><th>Accuracy, %%</th>");
  for (int k = 0; k < x->n_test; k++) put_name(t, "<th>", x->test[k], "</th>");
  put(t, x->has_h ? "<th>H</th></tr></thead><tbody>\n" : "</tr></thead><tbody>\n");
  for (int i = 0; i < x->n_row; i++) {
    const score_row *row = &x->row[i];
    put_name(t, "<tr><th>", title_of(x, row->name), "</th>");
    for (int k = 0; k < x->n_test + x->has_h; k++) {
      const double deviation = x->n_seed > 1 ? row->deviation[k] : -1;
      put_cell(t, row->mean[k], deviation, SCORE_DIGITS, is_best(x, i, k));
    }
    put(t, "</tr>\n");
  }
  put(t, "</tbody></table></div>\n");
  put_score_note(t, x);
}

/* ---- training ---- */
static void put_training(document *t, const study *x, int number) {
  put_heading(t, number, "training", "Training");
  put(t, "<div class=\"charts\">\n");
  for (int i = 1; i < x->n_model; i++) {
    const model *w = &x->model[i];
    put(t, "<figure>");
    if (w->mean_loss.n) put_curves_chart(t, x, w);
    else put(t, "<div class=\"none\">no losses were kept</div>");
    put_name(t, "<figcaption><b>", w->title, "</b></figcaption></figure>\n");
  }
  put(t, "</div>\n<p class=\"note\">Mean loss of each epoch%s. The losses of different methods "
         "are different sums; their heights cannot be compared.</p>\n",
      x->n_seed > 1 ? "; thin: one seed, thick: their mean" : "");
}

/* ---- classes ---- */
enum { MOST_CLASSES_OPEN = 25, MOST_CONFUSIONS = 3 };

/* The share of a class's pictures that the model knows, in percent, over all seeds. */
static double class_accuracy(const result *r, int n_class, int label) {
  const long *row = r->confusion + (size_t)label * (size_t)n_class;
  long sum = 0;
  for (int i = 0; i < n_class; i++) sum += row[i];
  return sum ? 100.0 * (double)row[label] / (double)sum : 0;
}

static int pictures_of(const group *g, int label) {
  int n = 0;
  for (int i = 0; i < g->task.items.n; i++) n += g->task.items.item[i].label == label;
  return n;
}

static void put_class_table(document *t, const study *x, int at) {
  const group *g = &x->group[at];
  const int n_class = g->task.n_class;
  put(t, "<div class=\"scroll\"><table><thead><tr><th>Accuracy, %%</th><th>Pictures</th>");
  for (int i = 0; i < x->n_model; i++) put_name(t, "<th>", x->model[i].title, "</th>");
  put(t, "</tr></thead><tbody>\n");
  for (int label = 0; label < n_class; label++) {
    put(t, "<tr><th>%d ", label + 1);
    put_name(t, "", g->task.class_name[label], "</th>");
    put(t, "<td>%d</td>", pictures_of(g, label));
    for (int i = 0; i < x->n_model; i++)
      put_cell(t, class_accuracy(&x->model[i].on[at], n_class, label), -1, SHARE_DIGITS, 0);
    put(t, "</tr>\n");
  }
  put(t, "</tbody></table></div>\n");
}

/* The class pair that is confused most often but for those that came before: fewer than `below`
   times, or as often and later.  Its place in the matrix; -1: there is none. */
static long next_confusion(const long *count, int n_class, long after) {
  const long n = (long)n_class * n_class;
  long best = -1;
  for (long i = 0; i < n; i++) {
    if (i / n_class == i % n_class || !count[i]) continue;
    const int came = after >= 0 && (count[i] > count[after] ||
                                    (count[i] == count[after] && i <= after));
    if (!came && (best < 0 || count[i] > count[best])) best = i;
  }
  return best;
}

static void put_confusions(document *t, const group *g, const long *count) {
  const int n_class = g->task.n_class;
  long at = next_confusion(count, n_class, -1);
  put(t, at < 0 ? "<br>No mistake." : "<br>Most often: ");
  for (int i = 0; at >= 0 && i < MOST_CONFUSIONS; i++) {
    put_name(t, i ? "; " : "", g->task.class_name[at / n_class], " taken for ");
    put_name(t, "", g->task.class_name[at % n_class], "");
    put(t, " (%ld)", count[at]);
    at = next_confusion(count, n_class, at);
  }
}

static void put_group_classes(document *t, const study *x, int at) {
  const group *g = &x->group[at];
  const int n_class = g->task.n_class;
  const int is_long = n_class > MOST_CLASSES_OPEN;
  put(t, "<h4>");
  put_class_count(t, g);
  put(t, "</h4>\n");
  if (is_long) put(t, "<details><summary>Accuracy of every class</summary>\n");
  put_class_table(t, x, at);
  if (is_long) put(t, "</details>\n");

  put(t, "<div class=\"charts\">\n");
  for (int i = 0; i < x->n_model; i++) {
    const model *w = &x->model[i];
    const long *count = w->on[at].confusion;
    put(t, "<figure>");
    put_confusion(t, count, n_class, w->title);
    put_name(t, "<figcaption><b>", w->title, "</b>");
    put_confusions(t, g, count);
    put(t, "</figcaption></figure>\n");
  }
  put(t, "</div>\n");
}

static void put_classes(document *t, const study *x, int number) {
  put_heading(t, number, "classes", "Classes and confusions");
  put(t, "<p>Test pictures of all seeds together. In a matrix, rows are the true classes and "
         "columns what a model takes them for, numbered as in the table; blue is right, orange "
         "wrong, and the darker a field, the larger its share of the row.</p>\n");
  for (int at = 0; at < x->n_group; at++) put_group_classes(t, x, at);
}

/* ---- mistakes ---- */
static void put_figure(document *t, const fvg_image *image, const char *kind, const char *name) {
  put(t, "<figure>");
  put_image(t, image, kind, name);
  put(t, "<figcaption>%s ", kind);
  put_name(t, "<b>", name, "</b></figcaption></figure>\n");
}

static void put_mistake(document *t, const group *g, const mistake *one) {
  const char *label = g->task.class_name[one->label];
  const char *guess = g->task.class_name[one->guess];
  put_name(t, "<div class=\"mistake\"><p class=\"path\">", one->path, "</p><div class=\"three\">");
  put(t, "<figure>");
  put_image(t, &one->picture, "Picture", label);
  put_name(t, "<figcaption><b>", label, "</b>");
  put(t, " %.*f\xc2\xa0%%<br>", SHARE_DIGITS, one->p_label);
  put_name(t, "taken for <b>", guess, "</b>");
  put(t, " %.*f\xc2\xa0%%</figcaption></figure>\n", SHARE_DIGITS, one->p_guess);
  put_figure(t, &one->for_label, "speaks for", label);
  put_figure(t, &one->for_guess, "speaks for", guess);
  put(t, "</div></div>\n");
}

static void put_mistakes(document *t, const study *x, int number) {
  put_heading(t, number, "mistakes", "The worst mistakes");
  put(t, "<p>Where a model of the first seed, %d, is surest of the wrong class. Beside the "
         "picture, with the model’s probabilities, are the relevance maps of the true class and "
         "of the one it was taken for.</p>\n", x->seed[0]);
  for (int i = 0; i < x->n_model; i++) {
    const model *w = &x->model[i];
    for (int at = 0; at < x->n_group; at++) {
      const result *r = &w->on[at];
      if (!r->n_worst) continue;
      put_name(t, "<div class=\"card\"><p><strong>", w->title, "</strong>");
      put(t, " <span>%s</span></p><div class=\"looks\">\n", half_name(&x->group[at]));
      for (int k = 0; k < r->n_worst; k++) put_mistake(t, &x->group[at], &r->worst[k]);
      put(t, "</div></div>\n");
    }
  }
}

/* ---- maps ---- */
static void put_map(document *t, const shown *p, const look *by, int kind, const char *name) {
  put(t, "<figure>");
  if (by->overlay[kind].pixels) put_image(t, &by->overlay[kind], map_title[kind], name);
  else put(t, "<div class=\"none\">as zero-shot CLIP’s</div>");
  put(t, "<figcaption><b>%s</b>", map_title[kind]);
  if (p->has_mask && by->overlay[kind].pixels) {
    const double *m = by->measure[kind];
    put(t, "<br>%.*f %% inside<br>hottest %s<br>IoU %.*f", SHARE_DIGITS, m[INSIDE],
        m[HOTTEST] > 0 ? "inside" : "outside", SHARE_DIGITS, m[IOU]);
  }
  put(t, "</figcaption></figure>\n");
}

static void put_look(document *t, const study *x, const shown *p, int number, const char *truth) {
  const look *by = &p->by[number];
  put_name(t, "<section><h4>", x->model[number].title, "");
  put(t, by->right ? " <span class=\"yes\">✓ " : " <span class=\"no\">✗ ");
  put_name(t, "", by->guess, "</span>");
  if (by->r >= 0) put(t, " <small>r %.*f</small>", GATE_DIGITS, by->r);
  if (by->b >= 0) put(t, " <small>b %.*f</small>", GATE_DIGITS, by->b);
  put(t, "</h4><div class=\"three\">");
  for (int kind = 0; kind < N_MAP; kind++) put_map(t, p, by, kind, truth);
  put(t, "</div></section>\n");
}

static void put_shown(document *t, const study *x, const shown *p) {
  const group *g = &x->group[p->group];
  const char *truth = g->task.class_name[p->item->label];
  put_name(t, "<div class=\"card shot\"><p><strong>", truth, "</strong>");
  put(t, " <span>%s</span>", half_name(g));
  put_name(t, "<span class=\"path\">", p->item->path, "</span></p><div class=\"looks\">\n");

  put(t, "<section><h4>Picture</h4><div class=\"three\"><figure>");
  put_image(t, &p->picture, "Picture", truth);
  put(t, "</figure><figure>");
  if (p->has_mask) put_image(t, &p->mask, "Mask", truth);
  else put(t, "<div class=\"none\">no mask</div>");
  put(t, "</figure></div></section>\n");
  for (int i = 0; i < x->n_model; i++) put_look(t, x, p, i, truth);
  put(t, "</div></div>\n");
}

static void put_maps(document *t, const study *x, int number) {
  put_heading(t, number, "maps", "Where do they look?");
  put(t, "<p>Test pictures, models of seed %d, maps of the <em>true</em> class. <b>Relevance</b>: "
         "each patch is scored by itself as the model scores pictures; the heat is how much "
         "likelier it is of the class than of %s. <b>Grad-CAM</b>: the last block’s channels, "
         "weighed with the gradient of the class’s score. <b>CLS attention</b>: what the image "
         "tower attends to, whatever the class.%s</p>\n",
      x->seed[0],
      x->o->contrast.against == AGAINST_CLASSES ? "the other classes" : "a background",
      any_fvgpt(x) ? " r is how far FVG-PT trusts the mask, b how much of plain CLIP it mixes in "
                     "for new classes, both from 0 to 1." : "");
  put_heat_scale(t);
  for (int i = 0; i < x->n_shown; i++) put_shown(t, x, &x->shown[i]);
}

/* ---- measures ---- */
static void put_map_rows(document *t, const study *x, const model *w, int at) {
  for (int kind = 0; kind < N_MAP; kind++) {
    put(t, "<tr>");
    if (!kind) put_name(t, "<th rowspan=\"3\">", w->title, "</th>");
    put(t, "<td class=\"left\">%s</td>", map_title[kind]);
    for (int i = 0; i < N_MEASURE; i++)
      put_measure(t, x, &w->on[at].map[kind][i], SHARE_DIGITS);
    put(t, "</tr>\n");
  }
}

static void put_measure_tables(document *t, const study *x, int at) {
  const group *g = &x->group[at];
  put(t, "<h4>%d masked test pictures of %s</h4>\n", g->masked.n, half_name(g));
  put(t, "<p class=\"note\">The object covers %.*f %% of the average picture: even heat would "
         "have as much inside.</p>\n<div class=\"scroll\"><table><thead><tr><th>%%</th><th></th>"
         "<th>Inside</th><th>Hottest inside</th><th>IoU</th></tr></thead><tbody>\n",
      SHARE_DIGITS, g->mean_area);
  for (int i = 0; i < x->n_model; i++) put_map_rows(t, x, &x->model[i], at);
  put(t, "</tbody></table></div>\n<div class=\"scroll\"><table><thead><tr><th></th>"
         "<th>Foreground shift</th></tr></thead><tbody>\n");
  for (int i = 0; i < x->n_model; i++) {
    put_name(t, "<tr><th>", x->model[i].title, "</th>");
    put_measure(t, x, &x->model[i].on[at].shift, SHIFT_DIGITS);
    put(t, "</tr>\n");
  }
  put(t, "</tbody></table></div>\n");
}

static void put_measures(document *t, const study *x, int number) {
  put_heading(t, number, "measures", "How much lies on the object?");
  if (!has_masks(x)) {
    put(t, "<p>No test picture has a mask in <code>");
    put_name(t, "", x->d.root, "/mask</code>, so nothing can be said about the object.</p>\n");
    return;
  }
  put(t, "<p><b>Inside</b>: the share of a map’s heat that lies inside the mask. <b>Hottest "
         "inside</b>: the share of pictures in which its greatest value does. <b>IoU</b>: "
         "intersection over union of the mask and of what lies above the threshold that divides "
         "the map best (Otsu’s). <b>Foreground shift</b>: the mean KL divergence between the "
         "predictions for the whole picture and for the object alone, at temperature %g; 0 if a "
         "prediction does not depend on the surroundings. Means over pictures%s.</p>\n",
      SHIFT_TAU, x->n_seed > 1 ? ", with the deviation of these over the seeds" : "");
  for (int at = 0; at < x->n_group; at++) {
    if (x->group[at].masked.n) put_measure_tables(t, x, at);
  }
}

/* ---- gates ---- */
static void put_trust_table(document *t, const study *x) {
  put(t, "<div class=\"scroll\"><table><thead><tr><th></th><th>Mean r, true masks</th><th>Mean r, "
         "inverted</th><th>AUC, true against inverted</th><th>AUC of r against r*</th></tr>"
         "</thead><tbody>\n");
  for (int i = 0; i < x->n_model; i++) {
    const model *w = &x->model[i];
    if (!w->has_fvgpt) continue;
    put_name(t, "<tr><th>", w->title, "</th>");
    for (int k = 0; k < N_TRUST; k++) put_measure(t, x, &w->trust[k], GATE_DIGITS);
    put(t, "</tr>\n");
  }
  put(t, "</tbody></table></div>\n");
}

/* What of the prompts' and plain CLIP's mixture is plain CLIP's. */
static void put_b_chart(document *t, const study *x, const model *w) {
  put(t, "<figure>");
  put_histogram(t, w->b_bin[0], w->b_bin[1], &w->b_ticks, "share b of plain CLIP", "base classes",
                "new classes");
  put_name(t, "<figcaption><b>", w->title, "</b>");
  for (int at = 0; at < x->n_group; at++)
    put(t, "%s %s %.*f", at ? "," : ": mean b", x->group[at].name, GATE_DIGITS, w->b[at].mean);
  put(t, "</figcaption></figure>\n");
}

static void put_gates(document *t, const study *x, int number) {
  if (!any_fvgpt(x)) return;
  put_heading(t, number, "gates", "FVG-PT’s gates");
  if (x->group[0].masked.n) {
    put(t, "<p>The trust r in a mask, for %d test pictures of %s with their masks as they are and "
           "inverted, so that only the background is left. An <b>AUC</b> is how often, of two "
           "pictures, the one that deserves it has the greater r: 0.5 is chance, 1 always. The "
           "first is of true masks against inverted ones. The second is of r against its target "
           "r*, which is 1 where the masked picture has the lower cross entropy by the prompts "
           "alone, and 0 elsewhere; masks outside 2 to 98 %% of the picture are left out.</p>\n",
        x->group[0].masked.n, half_name(&x->group[0]));
    put_trust_table(t, x);
  } else {
    put(t, "<p>The trust r needs masks, and no test picture of these classes has one.</p>\n");
  }

  put(t, "<div class=\"charts\">\n");
  for (int i = 0; i < x->n_model; i++) {
    const model *w = &x->model[i];
    if (!w->has_fvgpt) continue;
    if (x->group[0].masked.n) {
      put(t, "<figure>");
      put_histogram(t, w->r_bin[0], w->r_bin[1], &w->r_ticks, "trust r", "true masks",
                    "inverted masks");
      put_name(t, "<figcaption><b>", w->title, "</b>, all seeds together</figcaption></figure>\n");
    }
    if (x->n_group > 1) put_b_chart(t, x, w);
  }
  put(t, "</div>\n");
  if (x->n_group > 1) {
    put(t, "<p class=\"note\">b is used where classes are new; for base classes it is shown for "
           "comparison. %d and %d test pictures, all seeds together.</p>\n",
        x->group[0].task.items.n, x->group[1].task.items.n);
  }
}

/* ---- settings ---- */
static void put_settings(document *t, const study *x, int number) {
  put_heading(t, number, "settings", "Settings");
  put(t, "<div class=\"scroll\"><table><tbody>\n");
  for (int i = 1; i < x->n_model; i++) {
    put_name(t, "<tr><th>", x->model[i].title, "</th>");
    put_name(t, "<td class=\"left\">", x->model[i].settings, "</td></tr>\n");
  }
  put(t, "</tbody></table></div>\n<p class=\"note\">As the first checkpoint of each has them. "
         "<code>tune --trainer ");
  put_name(t, "", x->trainer, "</code>, data <code>");
  put_name(t, "", x->d.root, "</code>.");
  if (x->n_left_out) put(t, " %d more rows have checkpoints; the first %d are looked at.",
                         x->n_left_out, x->n_model);
  put(t, "</p>\n");
}

/* ---- the page ---- */
static void put_link(document *t, int number, const char *id, const char *text) {
  put(t, "<a href=\"#set%d-%s\">%s</a>\n", number, id, text);
}

static void put_study(document *t, const study *x, int number) {
  put(t, "<h2 id=\"set%d\">", number);
  put_name(t, "", x->name, "</h2>\n");
  put(t, "<p class=\"note\">up to %d shot%s a class, ", x->shots, plural(x->shots));
  put_seeds(t, x);
  put(t, "; %s</p>\n<nav>\n",
      x->n_group > 1 ? "from base to new classes" : "trained and tested on all classes");
  put_link(t, number, "accuracy", "Accuracy");
  put_link(t, number, "training", "Training");
  put_link(t, number, "classes", "Classes and confusions");
  put_link(t, number, "mistakes", "Worst mistakes");
  put_link(t, number, "maps", "Where they look");
  put_link(t, number, "measures", "On the object");
  if (any_fvgpt(x)) put_link(t, number, "gates", "Gates");
  put_link(t, number, "settings", "Settings");
  put(t, "<a href=\"#top\">Top</a>\n</nav>\n");

  put_scores(t, x, number);
  put_training(t, x, number);
  put_classes(t, x, number);
  put_mistakes(t, x, number);
  put_maps(t, x, number);
  put_measures(t, x, number);
  put_gates(t, x, number);
  put_settings(t, x, number);
}

void put_page(document *t, const study *x, int n, const colophon *by) {
  put(t, "%s%s", head_1, head_2);
  put(t, "<h1 id=\"top\">Tuned prompts: how well, and by looking where?</h1>\n<p>Tests of tuned "
         "models, and maps of what in a picture speaks for its class. All numbers are also in "
         "<a href=\"results.json\">results.json</a>.</p>\n<nav>\n");
  for (int i = 0; i < n; i++) {
    put(t, "<a href=\"#set%d\">", i + 1);
    put_name(t, "", x[i].name, "</a>\n");
  }
  put_name(t, "</nav>\n<p class=\"note\">Model: ", by->model, ".");
  put(t, " Report of %s, %.1f s.</p>\n", by->date, by->seconds);
  for (int i = 0; i < n; i++) put_study(t, &x[i], i + 1);
  put_name(t, "<footer>Made by <code>", by->command, "</code></footer>\n");
  put(t, "</main>\n</body>\n</html>\n");
}
