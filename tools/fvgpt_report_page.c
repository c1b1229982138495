/* The page of a report; see fvgpt_report_page.h. */
#include "fvgpt_report_page.h"

#include <math.h>

static const char *const map_title[N_MAP] = {"Zero-shot CLIP", "CoOp", "FVG-PT", "CLS attention"};
static const char *const trust_title[N_TRUST] = {"Mean r, good masks", "Mean r, bad masks",
                                                 "AUC, good against bad"};

static const char page_head[] =
  "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
  "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta "
  "name=\"color-scheme\" "
  "content=\"light dark\">\n"
  "<title>Where do tuned prompts look?</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>\n"
  ":root{--page:#fbfbfa;--card:#fff;--ink:#1c2127;--soft:#59626d;--line:#dde1e6;--blue:#0a65b0;"
  "--orange:#b65200}\n"
  "@media(prefers-color-scheme:dark){:root{--page:#14171b;--card:#1b1f24;--ink:#e5e8eb;"
  "--soft:#9ea8b3;--line:#30363e;"
  "--blue:#69b1ff;--orange:#ffa04d}}\n"
  "*{box-sizing:border-box}\n"
  "body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 "
  "system-ui,-apple-system,'Segoe "
  "UI',Roboto,sans-serif}\n"
  "main{max-width:1080px;margin:0 auto;padding:2.2rem 1.2rem 3rem}\n"
  "h1{font-size:1.9rem;line-height:1.2;margin:0 0 .7rem}h2{font-size:1.45rem;margin:3.2rem 0 "
  ".2rem;padding-top:1.4rem;"
  "border-top:1px solid var(--line)}h3{font-size:1.08rem;margin:2.2rem 0 .5rem}\n"
  "p{margin:.4rem 0 .8rem;max-width:46rem}.note,figcaption{color:var(--soft);font-size:.88rem}\n"
  ".scroll{overflow-x:auto;margin:.6rem 0}table{border-collapse:collapse;"
  "font-variant-numeric:tabular-nums}\n"
  "th,td{padding:.34rem .8rem;text-align:right;border-bottom:1px solid var(--line);"
  "white-space:nowrap}\n"
  "th{font-weight:600}tbody th,th:first-child{text-align:left;padding-left:0}thead "
  "th{color:var(--soft);font-size:.88rem}\n"
  "th[colspan]{text-align:center}td small{color:var(--soft)}td b{color:var(--blue)}\n"
  "figure{margin:0}svg{display:block;width:100%;height:auto;font:11px system-ui,sans-serif}svg "
  "text{fill:var(--soft)}\n"
  ".axis{stroke:var(--line);fill:none}.seed{stroke:var(--blue);fill:none;stroke-width:1;"
  "opacity:.45}\n"
  ".mean{stroke:var(--blue);fill:none;stroke-width:2.6;stroke-linejoin:round}.dot{"
  "fill:var(--blue)}\n"
  ".good{fill:var(--blue)}.bad{fill:var(--orange);fill-opacity:.3;stroke:var(--orange)}\n"
  ".pair{display:grid;grid-template-columns:1fr 1fr;gap:1.6rem}.one{max-width:560px}\n"
  ".shot{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.8rem "
  ".9rem "
  "1rem;margin:.8rem 0}\n"
  ".shot p{display:flex;flex-wrap:wrap;gap:.1rem 1rem;max-width:none;align-items:baseline;"
  "margin:0 0 .5rem}\n"
  ".path{color:var(--soft);font-size:.82rem;overflow-wrap:anywhere}\n"
  ".strip{display:grid;grid-template-columns:repeat(6,1fr);gap:.7rem}.strip "
  "img{display:block;width:100%;height:auto;border-radius:5px}\n"
  ".strip figcaption{font-size:.8rem;line-height:1.35;padding-top:.3rem;overflow-wrap:anywhere}\n"
  "figcaption b{color:var(--ink);font-weight:600}.small{image-rendering:pixelated}.none{"
  "aspect-ratio:1;border:1px "
  "dashed var(--line);"
  "border-radius:5px;display:grid;place-items:center;color:var(--soft);font-size:.8rem}\n"
  ".yes{color:var(--blue)}.no{color:var(--orange)}\n"
  "footer{margin-top:3rem;padding-top:1rem;border-top:1px solid var(--line);color:var(--soft);"
  "font-size:.85rem}\n"
  "code{font:.95em ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}a{"
  "color:var(--blue)}\n"
  "@media(max-width:700px){.pair{grid-template-columns:1fr}.strip{"
  "grid-template-columns:repeat(3,1fr)}"
  "h1{font-size:1.5rem}th,td{padding:.34rem .5rem}"
  "thead th{white-space:normal}tr+tr th{white-space:nowrap}td small{display:block}}\n"
  "</style>\n</head>\n<body>\n<main>\n";

/* ---- tables ---- */
static double rounded(double score) { return floor(100 * score + 0.5); }

/* Is no other method's score better, as it is printed? */
static int is_best(const study *x, int method, int column) {
  const double own = rounded(x->score[method][column]);
  for (int i = 0; i < N_METHOD; i++) {
    if (rounded(x->score[i][column]) > own) return 0;
  }
  return 1;
}

/* Puts a number in its cell, bold when it is the best, with its deviation unless that is
   negative. */
static void put_cell(document *t, double value, double deviation, int digits, int best) {
  put(t, best ? "<td><b>%.*f</b>" : "<td>%.*f", digits, value);
  if (deviation >= 0) put(t, " <small>± %.*f</small>", digits, deviation);
  put(t, "</td>");
}

static void put_score_table(document *t, const study *x) {
  put(t, "<div class=\"scroll\"><table><thead><tr><th>Accuracy, %%</th><th>Base classes</th>"
         "<th>New classes</th><th>H</th></tr></thead><tbody>\n");
  for (int method = 0; method < N_METHOD; method++) {
    const double *score = x->score[method];
    put(t, "<tr><th>%s</th>", map_title[method]);
    for (int k = 0; k < N_SCORE; k += 2)
      put_cell(t, score[k], score[k + 1], SCORE_DIGITS, is_best(x, method, k));
    put(t, "</tr>\n");
  }
  put(t, "</tbody></table></div>\n<p class=\"note\">Mean and deviation over the seeds; H is the "
         "harmonic mean of the two means. Best in bold.</p>\n");
}

/* A row for each of n measures, with a column for each seed where there are several. */
static void put_measure_table(document *t, const study *x, const char *head,
                              const char *const *row, const measure *m, int n, int digits,
                              const char *caption) {
  const int n_seed = x->n_seed > 1 ? x->n_seed : 0;
  put(t, "<div class=\"scroll\"><table><thead><tr><th>%s</th><th>Mean</th>", head);
  for (int run = 0; run < n_seed; run++) put(t, "<th>Seed %d</th>", x->seed[run]);
  put(t, "</tr></thead><tbody>\n");
  for (int i = 0; i < n; i++) {
    put(t, "<tr><th>%s</th><td>%.*f</td>", row[i], digits, m[i].mean);
    for (int run = 0; run < n_seed; run++) put(t, "<td>%.*f</td>", digits, m[i].seed[run]);
    put(t, "</tr>\n");
  }
  put(t, "</tbody></table></div>\n<p class=\"note\">%s</p>\n", caption);
}

/* ---- drawings: a frame 400 wide, the plot in it from (46, 12) to (390, 192) ---- */
/* The values at the plot's left, right and top; at its bottom is 0. */
typedef struct plot {
  double x0, x1, y1;
} plot;

static double across(const plot *p, double x) {
  const double part = p->x1 > p->x0 ? (x - p->x0) / (p->x1 - p->x0) : 0.5;
  return 46 + 344 * part;
}

static double down(const plot *p, double y) { return 192 - 180 * y / p->y1; }

static void put_frame(document *t, const plot *p, const ticks *x, const ticks *y,
                      const char *beside, const char *below, const char *title) {
  put(t, "<svg viewBox=\"0 -18 400 248\" role=\"img\" aria-label=\"%s\">\n", title);
  put(t, "<text x=\"6\" y=\"-6\">%s</text>\n", beside);
  for (int i = 0; i < y->n; i++) {
    const double at = down(p, y->at[i]);
    put(t, "<path class=\"axis\" d=\"M46 %.1fH390\"/>", at);
    put(t, "<text x=\"40\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", at + 4, y->at[i]);
  }
  for (int i = 0; i < x->n; i++) {
    put(t, "<text x=\"%.1f\" y=\"208\" text-anchor=\"middle\">%g</text>\n", across(p, x->at[i]),
        x->at[i]);
  }
  put(t, "<text x=\"218\" y=\"225\" text-anchor=\"middle\">%s</text>\n", below);
}

static void put_line(document *t, const plot *p, const curve *line, const char *kind) {
  put(t, "<polyline class=\"%s\" points=\"", kind);
  for (int k = 0; k < line->n; k++)
    put(t, "%.1f,%.1f ", across(p, k + 1), down(p, line->loss[k]));
  put(t, "\"/>\n");
}

static void put_curve_panel(document *t, const study *x, int method) {
  const curve *mean = &x->mean_loss[method];
  if (!mean->n) {
    put(t, "<p class=\"note\">%s: no curve. These checkpoints come from an older version, which "
           "did not keep the losses.</p>\n", map_title[method]);
    return;
  }
  const ticks *y = &x->loss_ticks[method];
  const plot p = {1, mean->n, y->at[y->n - 1]};
  put(t, "<figure>");
  put_frame(t, &p, &x->epoch_ticks[method], y, "loss", "epoch", "Mean loss per epoch");
  for (int run = 0; run < x->n_seed; run++) put_line(t, &p, &x->loss[method][run], "seed");
  put_line(t, &p, mean, "mean");
  put(t, "<circle class=\"dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"/></svg>", across(&p, mean->n),
      down(&p, mean->loss[mean->n - 1]));
  put(t, "<figcaption><b>%s</b>: mean loss of each epoch. Thin: one seed; thick: their "
         "mean.</figcaption></figure>\n", map_title[method]);
}

/* Two bars for each tenth of r: pictures with good and with bad masks. */
static void put_histogram(document *t, const study *x) {
  static const ticks edges = {{0, 0.2, 0.4, 0.6, 0.8, 1}, 6};
  const ticks *y = &x->count_ticks;
  const plot p = {0, 1, y->at[y->n - 1]};

  put(t, "<figure class=\"one\">");
  put_frame(t, &p, &edges, y, "pictures", "trust r",
            "Histogram of the trust r in good and bad masks");
  for (int i = 0; i < 2 * N_BIN; i++) {
    const int bin = i / 2;
    const int bad = i % 2;
    const double left = across(&p, (double)bin / N_BIN) + 3 + 14.5 * bad;
    const double top = down(&p, x->bin[bad][bin]);
    put(t, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\"", bad ? "bad" : "good", left, top);
    put(t, " width=\"13\" height=\"%.1f\"/>\n", 192 - top);
  }
  put(t, "<rect class=\"good\" x=\"150\" y=\"-15\" width=\"11\" height=\"9\"/>"
         "<text x=\"166\" y=\"-6\">good masks</text>"
         "<rect class=\"bad\" x=\"255\" y=\"-15\" width=\"11\" height=\"9\"/>"
         "<text x=\"271\" y=\"-6\">bad masks (inverted)</text></svg>"
         "<figcaption>How many pictures get which trust r, all seeds together."
         "</figcaption></figure>\n");
}

/* ---- pictures ---- */
static void put_base64(document *t, const uint8_t *bytes, size_t n) {
  static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  char *to = room_for(t, (n + 2) / 3 * 4);
  if (!to) return;
  for (size_t i = 0; i < n; i += 3) {
    unsigned long three = (unsigned long)bytes[i] << 16;
    if (i + 1 < n) three |= (unsigned long)bytes[i + 1] << 8;
    if (i + 2 < n) three |= bytes[i + 2];
    to[0] = digit[three >> 18];
    to[1] = digit[three >> 12 & 63];
    to[2] = i + 1 < n ? digit[three >> 6 & 63] : '=';
    to[3] = i + 2 < n ? digit[three & 63] : '=';
    to += 4;
  }
  *to = 0;
  t->n = (size_t)(to - t->text);
}

static void put_image(document *t, const fvg_image *image, const char *kind, const char *name) {
  if (t->status) return;
  uint8_t *bytes;
  size_t n;
  t->status = fvg_image_encode_png(t->c, &bytes, &n, image);
  if (t->status) return;
  put(t, "<img%s width=\"%d\" height=\"%d\" alt=\"%s, ",
      image->width < 100 ? " class=\"small\"" : "", image->width, image->height, kind);
  put_escaped(t, name, 1);
  put(t, "\" src=\"data:image/png;base64,");
  put_base64(t, bytes, n);
  put(t, "\">");
  fvg_release(t->c, bytes);
}

static void put_map(document *t, const shown *p, int i) {
  put(t, "<figure>");
  put_image(t, &p->overlay[i], map_title[i], p->truth);
  put(t, "<figcaption><b>%s</b>", map_title[i]);
  if (p->has_mask) put(t, "<br>%.*f %% inside", SHARE_DIGITS, p->share[i]);
  if (i < N_METHOD) {
    put(t, p->right[i] ? "<br><span class=\"yes\">✓ " : "<br><span class=\"no\">✗ ");
    put_escaped(t, p->guess[i], 1);
    put(t, "</span>");
  }
  put(t, "</figcaption></figure>\n");
}

static void put_shown(document *t, const shown *p) {
  put(t, "<div class=\"shot\"><p><strong>");
  put_escaped(t, p->truth, 1);
  put(t, "</strong> <span>%s class</span>", p->is_new ? "new" : "base");
  if (p->r >= 0) put(t, "<span>r = %.*f</span>", GATE_DIGITS, p->r);
  put(t, "<span>b = %.*f</span><span class=\"path\">", GATE_DIGITS, p->b);
  put_escaped(t, p->path, 1);
  put(t, "</span></p><div class=\"strip\"><figure>");
  put_image(t, &p->picture, "Picture", p->truth);
  put(t, "<figcaption><b>Picture</b></figcaption></figure>\n<figure>");
  if (p->has_mask) put_image(t, &p->mask, "Mask", p->truth);
  else put(t, "<div class=\"none\">none</div>");
  put(t, "<figcaption><b>Mask</b></figcaption></figure>\n");
  put_map(t, p, ATTENTION);
  for (int i = 0; i < N_METHOD; i++) put_map(t, p, i);
  put(t, "</div></div>\n");
}

/* ---- the page ---- */
static void put_look(document *t, const study *x) {
  put(t, "<h3>Where does it look?</h3>\n<p>Test pictures of the first seed’s model. The heat shows "
         "which parts of the picture speak for its <em>true</em> class (Grad-CAM), and, under CLS "
         "attention, what the image tower attends to whatever the class. “Inside” is the share of "
         "the heat that lies on the object. r is how far FVG-PT trusts the mask, b how much it "
         "mixes plain CLIP in where a class is new, both from 0 to 1.</p>\n");
  for (int i = 0; i < x->n_shown; i++) put_shown(t, &x->shown[i]);
}

static void put_share(document *t, const study *x) {
  put(t, "<h3>How much lies on the object?</h3>\n<p>Over %d base-class test pictures with a mask. "
         "The object covers %.*f %% of the average picture: heat spread evenly would score that "
         "much.</p>\n<div class=\"pair\"><div>", x->items.n, SHARE_DIGITS, x->mean_area);
  put_measure_table(t, x, "Inside the mask, %", map_title, x->share, N_MAP, SHARE_DIGITS,
                    "Mean foreground share of Grad-CAM and of the CLS attention. The attention is "
                    "the same for all three methods, because the image tower is frozen.");
  put(t, "</div><div>");
  put_measure_table(t, x, "Foreground shift", map_title, x->shift, N_METHOD, SHIFT_DIGITS,
                    "Mean KL divergence between the prediction for the whole picture and for the "
                    "object alone, logits softened by a temperature of 2. The less a prediction "
                    "hangs on the surroundings, the smaller.");
  put(t, "</div></div>\n");
}

static void put_trust(document *t, const study *x) {
  put(t, "<h3>Does it know a bad mask?</h3>\n<p>The same pictures, once with their masks and once "
         "with the masks inverted, so that only the background is left. A useful gate gives the "
         "first more trust.</p>\n");
  put_histogram(t, x);
  put_measure_table(t, x, "Trust r", trust_title, x->trust, N_TRUST, GATE_DIGITS,
                    "AUC: how often a good mask is trusted more than a bad one; 0.5 is chance.");
}

static void put_study(document *t, const study *x) {
  put(t, "<h2>");
  put_escaped(t, x->name, 1);
  put(t, "</h2>\n<p class=\"note\">%d base and %d new classes, %d shots a class, seed%s",
      x->n_base, x->n_new, x->shots, x->n_seed > 1 ? "s" : "");
  for (int i = 0; i < x->n_seed; i++) put(t, i ? ", %d" : " %d", x->seed[i]);
  put(t, "</p>\n");
  put_score_table(t, x);
  put(t, "<h3>Training</h3>\n<div class=\"pair\">\n");
  put_curve_panel(t, x, COOP);
  put_curve_panel(t, x, FVGPT_COOP);
  put(t, "</div>\n<p class=\"note\">The two losses are different sums; their heights cannot be "
         "compared.</p>\n");
  put_look(t, x);
  put_share(t, x);
  put_trust(t, x);
}

/* One row for each data set: H, and how much of the heat lies on the object. */
static void put_summary(document *t, const study *x, int n) {
  put(t, "<div class=\"scroll\"><table><thead><tr><th rowspan=\"2\">Data set</th>"
         "<th colspan=\"3\">H, %%</th><th colspan=\"3\">Grad-CAM inside the mask, %%</th></tr>"
         "<tr><th style=\"text-align:right\">Zero-shot<br>CLIP</th><th>CoOp</th>"
         "<th>FVG-PT</th><th style=\"text-align:right\">Zero-shot<br>CLIP</th>"
         "<th>CoOp</th><th>FVG-PT</th></tr></thead><tbody>\n");

  for (int i = 0; i < n; i++) {
    put(t, "<tr><th>");
    put_escaped(t, x[i].name, 1);
    put(t, "</th>");
    for (int method = 0; method < N_METHOD; method++)
      put_cell(t, x[i].score[method][4], -1, SCORE_DIGITS, is_best(&x[i], method, 4));
    for (int method = 0; method < N_METHOD; method++)
      put_cell(t, x[i].share[method].mean, -1, SHARE_DIGITS, 0);
    put(t, "</tr>\n");
  }
  put(t, "</tbody></table></div>\n<p class=\"note\">H is the harmonic mean of the accuracies on "
         "base and on new classes. All numbers are also in <a href=\"results.json\">"
         "results.json</a>.</p>\n");
}

void put_page(document *t, const study *x, int n, const char *command) {
  put(t, "%s<h1>Where do tuned prompts look?</h1>\n", page_head);
  put(t, "<p>Learning a prompt for CLIP from a few pictures (CoOp) makes it better at the classes "
         "it was tuned on, but lets its attention slip from the object to the surroundings, and "
         "classes it has never seen suffer. FVG-PT leaves the tuned model as it is and adds small "
         "parts that bring the attention back: adapters that follow the object’s mask as far as a "
         "gate r trusts it, and a gate b that mixes plain CLIP in for new classes. Look for FVG-PT "
         "keeping CoOp’s accuracy on base classes, regaining plain CLIP’s on new ones, and putting "
         "more of its heat inside the mask.</p>\n");
  put_summary(t, x, n);
  for (int i = 0; i < n; i++) put_study(t, &x[i]);
  put(t, "<footer>Made by <code>");
  put_escaped(t, command, 1);
  put(t, "</code></footer>\n</main>\n</body>\n</html>\n");
}
