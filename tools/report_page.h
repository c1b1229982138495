/* fvgpt report, second part: the page and results.json, printed from the studies of report.h.  Both print a number
   with the same digits, so that whatever stands on the page stands in the file, figure by figure.  The page needs
   nothing but itself: drawings are SVG, pictures are data URIs, and both colour schemes come from CSS. */

enum { SCORE_DIGITS = 2, SHARE_DIGITS = 1, GATE_DIGITS = 3, SHIFT_DIGITS = 4 };
static const char *const map_key[N_MAP] = {"zero_shot", "CoOp", "FVGPT_CoOp", "attention"};
static const char *const map_title[N_MAP] = {"Zero-shot CLIP", "CoOp", "FVG-PT", "CLS attention"};
static const char *const trust_key[N_TRUST] = {"mean_good", "mean_bad", "auc"};
static const char *const trust_title[N_TRUST] = {"Mean r, good masks", "Mean r, bad masks", "AUC, good against bad"};

static const char page_head[] =
  "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
  "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" "
  "content=\"light dark\">\n"
  "<title>Where do tuned prompts look?</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>\n"
  ":root{--page:#fbfbfa;--card:#fff;--ink:#1c2127;--soft:#59626d;--line:#dde1e6;--blue:#0a65b0;--orange:#b65200}\n"
  "@media(prefers-color-scheme:dark){:root{--page:#14171b;--card:#1b1f24;--ink:#e5e8eb;--soft:#9ea8b3;--line:#30363e;"
  "--blue:#69b1ff;--orange:#ffa04d}}\n"
  "*{box-sizing:border-box}\n"
  "body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,'Segoe "
  "UI',Roboto,sans-serif}\n"
  "main{max-width:1080px;margin:0 auto;padding:2.2rem 1.2rem 3rem}\n"
  "h1{font-size:1.9rem;line-height:1.2;margin:0 0 .7rem}h2{font-size:1.45rem;margin:3.2rem 0 "
  ".2rem;padding-top:1.4rem;"
  "border-top:1px solid var(--line)}h3{font-size:1.08rem;margin:2.2rem 0 .5rem}\n"
  "p{margin:.4rem 0 .8rem;max-width:46rem}.note,figcaption{color:var(--soft);font-size:.88rem}\n"
  ".scroll{overflow-x:auto;margin:.6rem 0}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\n"
  "th,td{padding:.34rem .8rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}\n"
  "th{font-weight:600}tbody th,th:first-child{text-align:left;padding-left:0}thead "
  "th{color:var(--soft);font-size:.88rem}\n"
  "th[colspan]{text-align:center}td small{color:var(--soft)}td b{color:var(--blue)}\n"
  "figure{margin:0}svg{display:block;width:100%;height:auto;font:11px system-ui,sans-serif}svg "
  "text{fill:var(--soft)}\n"
  ".axis{stroke:var(--line);fill:none}.seed{stroke:var(--blue);fill:none;stroke-width:1;opacity:.45}\n"
  ".mean{stroke:var(--blue);fill:none;stroke-width:2.6;stroke-linejoin:round}.dot{fill:var(--blue)}\n"
  ".good{fill:var(--blue)}.bad{fill:var(--orange);fill-opacity:.3;stroke:var(--orange)}\n"
  ".pair{display:grid;grid-template-columns:1fr 1fr;gap:1.6rem}.one{max-width:560px}\n"
  ".shot{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.8rem .9rem "
  "1rem;margin:.8rem 0}\n"
  ".shot p{display:flex;flex-wrap:wrap;gap:.1rem 1rem;max-width:none;align-items:baseline;margin:0 0 .5rem}\n"
  ".path{color:var(--soft);font-size:.82rem;overflow-wrap:anywhere}\n"
  ".strip{display:grid;grid-template-columns:repeat(6,1fr);gap:.7rem}.strip "
  "img{display:block;width:100%;height:auto;border-radius:5px}\n"
  ".strip figcaption{font-size:.8rem;line-height:1.35;padding-top:.3rem;overflow-wrap:anywhere}\n"
  "figcaption b{color:var(--ink);font-weight:600}.small{image-rendering:pixelated}.none{aspect-ratio:1;border:1px "
  "dashed var(--line);"
  "border-radius:5px;display:grid;place-items:center;color:var(--soft);font-size:.8rem}\n"
  ".yes{color:var(--blue)}.no{color:var(--orange)}\n"
  "footer{margin-top:3rem;padding-top:1rem;border-top:1px solid var(--line);color:var(--soft);font-size:.85rem}\n"
  "code{font:.95em ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}a{color:var(--blue)}\n"
  "@media(max-width:700px){.pair{grid-template-columns:1fr}.strip{grid-template-columns:repeat(3,1fr)}"
  "h1{font-size:1.5rem}th,td{padding:.34rem .5rem}"
  "thead th{white-space:normal}tr+tr th{white-space:nowrap}td small{display:block}}\n"
  "</style>\n</head>\n<body>\n<main>\n";

/* ---- words and numbers ---- */
static void put_string(document *t, const char *key, const char *value) {
  put(t, "\"%s\": \"", key);
  put_escaped(t, value, 0);
  put(t, "\"");
}

static void put_numbers(document *t, const char *key, const double *x, int n, int digits) {
  int i;
  put(t, "\"%s\": [", key);
  for (i = 0; i < n; i++) put(t, "%s%.*f", i ? ", " : "", digits, x[i]);
  put(t, "]");
}

static void put_ticks(document *t, const char *key, const ticks *x) {
  int i;
  put(t, "\"%s\": [", key);
  for (i = 0; i < x->n; i++) put(t, i ? ", %g" : "%g", x->at[i]);
  put(t, "]");
}

static void put_base64(document *t, const uint8_t *bytes, size_t n) {
  static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  char *to = room_for(t, (n + 2) / 3 * 4);
  size_t i;
  if (!to) return;
  for (i = 0; i < n; i += 3, to += 4) {
    unsigned long three = (unsigned long)bytes[i] << 16;
    if (i + 1 < n) three |= (unsigned long)bytes[i + 1] << 8;
    if (i + 2 < n) three |= bytes[i + 2];
    to[0] = digit[three >> 18];
    to[1] = digit[three >> 12 & 63];
    to[2] = i + 1 < n ? digit[three >> 6 & 63] : '=';
    to[3] = i + 2 < n ? digit[three & 63] : '=';
  }
  *to = 0;
  t->n = (size_t)(to - t->text);
}

/* ---- tables ---- */
static int is_best(const study *x, int method, int column) {
  int i;
  for (i = 0; i < N_METHOD; i++)
    if (floor(100 * x->score[i][column] + 0.5) > floor(100 * x->score[method][column] + 0.5)) return 0;
  return 1;
}

/* A number in its cell, bold when it is the best, with its deviation unless that is negative. */
static void put_cell(document *t, double value, double deviation, int digits, int best) {
  put(t, best ? "<td><b>%.*f</b>" : "<td>%.*f", digits, value);
  if (deviation >= 0) put(t, " <small>± %.*f</small>", digits, deviation);
  put(t, "</td>");
}

static void put_score_table(document *t, const study *x) {
  int method, k;
  put(t, "<div class=\"scroll\"><table><thead><tr><th>Accuracy, %%</th><th>Base classes</th><th>New "
         "classes</th><th>H</th></tr></thead><tbody>\n");
  for (method = 0; method < N_METHOD; method++) {
    put(t, "<tr><th>%s</th>", map_title[method]);
    for (k = 0; k < 6; k += 2)
      put_cell(t, x->score[method][k], x->score[method][k + 1], SCORE_DIGITS, is_best(x, method, k));
    put(t, "</tr>\n");
  }
  put(t, "</tbody></table></div>\n<p class=\"note\">Mean and deviation over the seeds; H is the harmonic mean of "
         "the two means. Best in bold.</p>\n");
}

static void put_measure_table(document *t, const study *x, const char *head, const char *const *row,
                              const measure *m, int n, int digits, const char *caption) {
  int i, run;
  put(t, "<div class=\"scroll\"><table><thead><tr><th>%s</th><th>Mean</th>", head);
  for (run = 0; x->n_seed > 1 && run < x->n_seed; run++) put(t, "<th>Seed %d</th>", x->seed[run]);
  put(t, "</tr></thead><tbody>\n");
  for (i = 0; i < n; i++) {
    put(t, "<tr><th>%s</th><td>%.*f</td>", row[i], digits, m[i].mean);
    for (run = 0; x->n_seed > 1 && run < x->n_seed; run++) put(t, "<td>%.*f</td>", digits, m[i].seed[run]);
    put(t, "</tr>\n");
  }
  put(t, "</tbody></table></div>\n<p class=\"note\">%s</p>\n", caption);
}

/* ---- drawings: a frame 400 wide, the plot in it from (46, 12) to (390, 192) ---- */
typedef struct plot { double x0, x1, y1; } plot;    /* values at the plot's left, right and top; its bottom is 0    */

static double across(const plot *p, double x) { return 46 + 344 * (p->x1 > p->x0 ? (x - p->x0) / (p->x1 - p->x0)
                                                                   : 0.5); }
static double down(const plot *p, double y) { return 192 - 180 * y / p->y1; }

static void put_frame(document *t, const plot *p, const ticks *x, const ticks *y, const char *beside,
                      const char *below, const char *title) {
  int i;
  put(t, "<svg viewBox=\"0 -18 400 248\" role=\"img\" aria-label=\"%s\">\n<text x=\"6\" y=\"-6\">%s</text>\n", title,
      beside);
  for (i = 0; i < y->n; i++)
    put(t, "<path class=\"axis\" d=\"M46 %.1fH390\"/><text x=\"40\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
        down(p, y->at[i]),
        down(p, y->at[i]) + 4, y->at[i]);
  for (i = 0; i < x->n; i++) put(t, "<text x=\"%.1f\" y=\"208\" text-anchor=\"middle\">%g</text>\n",
                                 across(p, x->at[i]), x->at[i]);
  put(t, "<text x=\"218\" y=\"225\" text-anchor=\"middle\">%s</text>\n", below);
}

static void put_line(document *t, const plot *p, const curve *line, const char *kind) {
  int k;
  put(t, "<polyline class=\"%s\" points=\"", kind);
  for (k = 0; k < line->n; k++) put(t, "%.1f,%.1f ", across(p, k + 1), down(p, line->loss[k]));
  put(t, "\"/>\n");
}

static void put_curve_panel(document *t, const study *x, int method) {
  const curve *mean = &x->mean_loss[method];
  const ticks *y = &x->loss_ticks[method];
  plot p;
  int run;
  if (!mean->n) {
    put(t, "<p class=\"note\">%s: no curve. These checkpoints come from an older version, which did not keep the "
           "losses.</p>\n", map_title[method]);
    return;
  }
  p.x0 = 1;
  p.x1 = mean->n;
  p.y1 = y->at[y->n - 1];
  put(t, "<figure>");
  put_frame(t, &p, &x->epoch_ticks[method], y, "loss", "epoch", "Mean loss per epoch");
  for (run = 0; run < x->n_seed; run++) put_line(t, &p, &x->loss[method][run], "seed");
  put_line(t, &p, mean, "mean");
  put(t, "<circle class=\"dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"/></svg>", across(&p, mean->n),
      down(&p, mean->loss[mean->n - 1]));
  put(t, "<figcaption><b>%s</b>: mean loss of each epoch. Thin: one seed; thick: their "
         "mean.</figcaption></figure>\n", map_title[method]);
}

static void put_histogram(document *t, const study *x) {
  static const ticks edges = {{0, 0.2, 0.4, 0.6, 0.8, 1}, 6};
  plot p;
  int bin, bad;
  p.x0 = 0;
  p.x1 = 1;
  p.y1 = x->count_ticks.at[x->count_ticks.n - 1];
  put(t, "<figure class=\"one\">");
  put_frame(t, &p, &edges, &x->count_ticks, "pictures", "trust r", "Histogram of the trust r in good and bad masks");
  for (bin = 0; bin < N_BIN; bin++)
    for (bad = 0; bad < 2; bad++)
      put(t, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"13\" height=\"%.1f\"/>\n", bad ? "bad" : "good",
          across(&p, (double)bin / N_BIN) + 3 + 14.5 * bad,
          down(&p, x->bin[bad][bin]), 192 - down(&p, x->bin[bad][bin]));
  put(t, "<rect class=\"good\" x=\"150\" y=\"-15\" width=\"11\" height=\"9\"/><text x=\"166\" y=\"-6\">good "
         "masks</text>"
         "<rect class=\"bad\" x=\"255\" y=\"-15\" width=\"11\" height=\"9\"/><text x=\"271\" y=\"-6\">bad masks "
         "(inverted)</text></svg>"
         "<figcaption>How many pictures get which trust r, all seeds together.</figcaption></figure>\n");
}

/* ---- pictures ---- */
static void put_image(document *t, const fvg_image *image, const char *kind, const char *name) {
  uint8_t *bytes;
  size_t n;
  fvg_status s = t->status ? t->status : fvg_image_encode_png(t->c, &bytes, &n, image);
  if (s) { t->status = s; return; }
  put(t, "<img%s width=\"%d\" height=\"%d\" alt=\"%s, ", image->width < 100 ? " class=\"small\"" : "", image->width,
      image->height, kind);
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
  int i;
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
  for (i = 0; i < N_METHOD; i++) put_map(t, p, i);
  put(t, "</div></div>\n");
}

/* ---- the page ---- */
static void put_look(document *t, const study *x) {
  int i;
  put(t, "<h3>Where does it look?</h3>\n<p>Test pictures of the first seed’s model. The heat shows which parts of "
         "the picture speak for its <em>true</em> class "
         "(Grad-CAM), and, under CLS attention, what the image tower attends to whatever the class. “Inside” is the "
         "share of the heat that lies on the object. "
         "r is how far FVG-PT trusts the mask, b how much it mixes plain CLIP in where a class is new, both from 0 "
         "to 1.</p>\n");
  for (i = 0; i < x->n_shown; i++) put_shown(t, &x->shown[i]);
}

static void put_share(document *t, const study *x) {
  put(t, "<h3>How much lies on the object?</h3>\n<p>Over %d base-class test pictures with a mask. The object covers "
         "%.*f %% of the average picture: heat spread "
         "evenly would score that much.</p>\n<div class=\"pair\"><div>", x->items.n, SHARE_DIGITS, x->mean_area);
  put_measure_table(t, x, "Inside the mask, %", map_title, x->share, N_MAP, SHARE_DIGITS,
                    "Mean foreground share of Grad-CAM and of the CLS attention. The attention is the same for all "
                    "three methods, because the image tower is frozen.");
  put(t, "</div><div>");
  put_measure_table(t, x, "Foreground shift", map_title, x->shift, N_METHOD, SHIFT_DIGITS,
                    "Mean KL divergence between the prediction for the whole picture and for the object alone, "
                    "logits softened by a temperature of "
                    "2. The less a prediction hangs on the surroundings, the smaller.");
  put(t, "</div></div>\n");
}

static void put_trust(document *t, const study *x) {
  put(t, "<h3>Does it know a bad mask?</h3>\n<p>The same pictures, once with their masks and once with the masks "
         "inverted, so that only the background is left. "
         "A useful gate gives the first more trust.</p>\n");
  put_histogram(t, x);
  put_measure_table(t, x, "Trust r", trust_title, x->trust, N_TRUST, GATE_DIGITS,
                    "AUC: how often a good mask is trusted more than a bad one; 0.5 is chance.");
}

static void put_study(document *t, const study *x) {
  int i;
  put(t, "<h2>");
  put_escaped(t, x->name, 1);
  put(t, "</h2>\n<p class=\"note\">%d base and %d new classes, %d shots a class, seed%s", x->n_base, x->n_new,
      x->shots, x->n_seed > 1 ? "s" : "");
  for (i = 0; i < x->n_seed; i++) put(t, i ? ", %d" : " %d", x->seed[i]);
  put(t, "</p>\n");
  put_score_table(t, x);
  put(t, "<h3>Training</h3>\n<div class=\"pair\">\n");
  put_curve_panel(t, x, COOP);
  put_curve_panel(t, x, FVGPT_COOP);
  put(t, "</div>\n<p class=\"note\">The two losses are different sums; their heights cannot be compared.</p>\n");
  put_look(t, x);
  put_share(t, x);
  put_trust(t, x);
}

static void put_summary(document *t, const study *x, int n) {
  int i, method;
  put(t, "<div class=\"scroll\"><table><thead><tr><th rowspan=\"2\">Data set</th><th colspan=\"3\">H, %%</th><th "
         "colspan=\"3\">Grad-CAM inside the mask, %%</th></tr>"
         "<tr><th style=\"text-align:right\">Zero-shot<br>CLIP</th><th>CoOp</th>"
         "<th>FVG-PT</th><th style=\"text-align:right\">Zero-shot<br>CLIP</th><th>CoOp</th><th>FVG-PT</th></tr>"
         "</thead><tbody>\n");
  for (i = 0; i < n; i++) {
    put(t, "<tr><th>");
    put_escaped(t, x[i].name, 1);
    put(t, "</th>");
    for (method = 0; method < N_METHOD; method++)
      put_cell(t, x[i].score[method][4], -1, SCORE_DIGITS, is_best(&x[i], method, 4));
    for (method = 0; method < N_METHOD; method++) put_cell(t, x[i].share[method].mean, -1, SHARE_DIGITS, 0);
    put(t, "</tr>\n");
  }
  put(t, "</tbody></table></div>\n<p class=\"note\">H is the harmonic mean of the accuracies on base and on new "
         "classes. All numbers are also in "
         "<a href=\"results.json\">results.json</a>.</p>\n");
}

static void put_page(document *t, const study *x, int n, const char *command) {
  int i;
  put(t, "%s<h1>Where do tuned prompts look?</h1>\n", page_head);
  put(t, "<p>Learning a prompt for CLIP from a few pictures (CoOp) makes it better at the classes it was tuned on, "
         "but lets its attention slip from the object to "
         "the surroundings, and classes it has never seen suffer. FVG-PT leaves the tuned model as it is and adds "
         "small parts that bring the attention back: "
         "adapters that follow the object’s mask as far as a gate r trusts it, and a gate b that mixes plain CLIP "
         "in for new classes. Look for FVG-PT keeping "
         "CoOp’s accuracy on base classes, regaining plain CLIP’s on new ones, and putting more of its heat inside "
         "the mask.</p>\n");
  put_summary(t, x, n);
  for (i = 0; i < n; i++) put_study(t, &x[i]);
  put(t, "<footer>Made by <code>");
  put_escaped(t, command, 1);
  put(t, "</code></footer>\n</main>\n</body>\n</html>\n");
}

/* ---- results.json ---- */
static void put_json_scores(document *t, const study *x) {
  int method, k;
  put(t, "   \"results\": [\n");
  for (method = 0; method < N_METHOD; method++) {
    put(t, "    {\"method\": \"%s\"", method_name[method]);
    for (k = 0; k < 6; k++)
      if (x->score[method][k] >= 0) put(t, ", \"%s\": %.*f", score_key[k], SCORE_DIGITS, x->score[method][k]);
    put(t, method < N_METHOD - 1 ? "},\n" : "}\n");
  }
  put(t, "   ],\n");
}

static void put_json_curves(document *t, const study *x) {
  int method, run;
  put(t, "   \"curves\": [\n");
  for (method = COOP; method < N_METHOD; method++) {
    put(t, "    {\"method\": \"%s\", ", method_name[method]);
    put_ticks(t, "epoch_ticks", &x->epoch_ticks[method]);
    put(t, ", ");
    put_ticks(t, "loss_ticks", &x->loss_ticks[method]);
    put(t, ",\n     ");
    put_numbers(t, "mean", x->mean_loss[method].loss, x->mean_loss[method].n, 4);
    put(t, ", \"seeds\": [");
    for (run = 0; run < x->n_seed; run++) {
      put(t, "%s\n      {\"seed\": %d, ", run ? "," : "", x->seed[run]);
      put_numbers(t, "loss", x->loss[method][run].loss, x->loss[method][run].n, 4);
      put(t, "}");
    }
    put(t, method < N_METHOD - 1 ? "]},\n" : "]}\n");
  }
  put(t, "   ],\n");
}

static void put_json_shown(document *t, const shown *p) {
  int i;
  put(t, "    {");
  put_string(t, "path", p->path);
  put(t, ", ");
  put_string(t, "class", p->truth);
  put(t, ", \"half\": \"%s\", \"b\": %.*f", p->is_new ? "new" : "base", GATE_DIGITS, p->b);
  if (p->r >= 0) put(t, ", \"r\": %.*f", GATE_DIGITS, p->r);
  put(t, ",\n     \"foreground_share\": {");
  for (i = 0; p->has_mask && i < N_MAP; i++)
    put(t, "%s\"%s\": %.*f", i ? ", " : "", map_key[i], SHARE_DIGITS, p->share[i]);
  put(t, "},\n     \"predictions\": {");
  for (i = 0; i < N_METHOD; i++) {
    put(t, i ? ", " : "");
    put_string(t, method_name[i], p->guess[i]);
  }
  put(t, "}}");
}

static void put_json_measures(document *t, const study *x, const char *key, const char *const *name,
                              const measure *m, int n, int digits) {
  int i;
  put(t, "   \"%s\": {", key);
  for (i = 0; i < n; i++) {
    put(t, "%s\n    \"%s\": {\"mean\": %.*f, ", i ? "," : "", name[i], digits, m[i].mean);
    put_numbers(t, "seeds", m[i].seed, x->n_seed, digits);
    put(t, "}");
  }
  put(t, "\n   },\n");
}

static void put_json_study(document *t, const study *x) {
  double edge[N_BIN + 1], count[N_BIN];
  int i, bad;
  put(t, "  {");
  put_string(t, "name", x->name);
  put(t, ", ");
  put_string(t, "data", x->d.root);
  put(t, ", ");
  put_string(t, "runs", x->runs);
  put(t, ",\n   \"base_classes\": %d, \"new_classes\": %d, \"shots\": %d, \"seeds\": [", x->n_base, x->n_new,
      x->shots);
  for (i = 0; i < x->n_seed; i++) put(t, i ? ", %d" : "%d", x->seed[i]);
  put(t, "],\n");
  put_json_scores(t, x);
  put_json_curves(t, x);
  put(t, "   \"pictures\": [\n");
  for (i = 0; i < x->n_shown; i++) {
    put_json_shown(t, &x->shown[i]);
    put(t, i < x->n_shown - 1 ? ",\n" : "\n");
  }
  put(t, "   ],\n   \"measured_pictures\": %d, \"mask_area\": %.*f,\n", x->items.n, SHARE_DIGITS, x->mean_area);
  put_json_measures(t, x, "foreground_share", map_key, x->share, N_MAP, SHARE_DIGITS);
  put_json_measures(t, x, "foreground_shift", map_key, x->shift, N_METHOD, SHIFT_DIGITS);
  put_json_measures(t, x, "trust", trust_key, x->trust, N_TRUST, GATE_DIGITS);
  for (i = 0; i <= N_BIN; i++) edge[i] = (double)i / N_BIN;
  put(t, "   \"trust_histogram\": {");
  put_numbers(t, "edges", edge, N_BIN + 1, 1);
  for (bad = 0; bad < 2; bad++) {
    for (i = 0; i < N_BIN; i++) count[i] = x->bin[bad][i];
    put(t, ", ");
    put_numbers(t, bad ? "bad" : "good", count, N_BIN, 0);
  }
  put(t, ", ");
  put_ticks(t, "count_ticks", &x->count_ticks);
  put(t, "}}");
}

static void put_json(document *t, const study *x, int n, const char *command) {
  int i;
  put(t, "{\n ");
  put_string(t, "command", command);
  put(t, ",\n \"temperature\": %g, \"chance_auc\": 0.5, \"gate_range\": [0, 1],\n \"sets\": [\n", report_tau);
  for (i = 0; i < n; i++) {
    put_json_study(t, &x[i]);
    put(t, i < n - 1 ? ",\n" : "\n");
  }
  put(t, " ]\n}\n");
}

/* ---- the command ---- */
/* The command line as a shell would read it. */
static void put_command(document *t, const options *o) {
  static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-+=./,:@%";
  const char *at;
  int i;
  put(t, "fvgpt");
  for (i = 1; i < o->argc; i++) {
    if (*o->argv[i] && strspn(o->argv[i], plain) == strlen(o->argv[i])) { put(t, " %s", o->argv[i]); continue; }
    put(t, " '");
    for (at = o->argv[i]; *at; at++) {
      if (*at == '\'') put(t, "'\\''");
      else put(t, "%c", *at);
    }
    put(t, "'");
  }
}

/* A folder with the results of tune in it keeps them. */
static fvg_status check_out(fvg_ctx *c, const char *path) {
  fvg_json j;
  int theirs;
  if (!fvg_file_exists(path)) return FVG_OK;
  theirs = load_json(c, &j, path) || fvg_json_find(&j, 0, "sets") < 0;
  fvg_json_free(c, &j);
  if (!theirs) return FVG_OK;
  return fvg_fail(c, FVG_E_ARG, "%s is not a report's and would be overwritten; choose another --out", path);
}

static fvg_status write_report(fvg_ctx *c, const options *o, const study *x, const char *json) {
  document command, page, numbers;
  char path[1200];
  fvg_status s;
  memset(&command, 0, sizeof command);
  command.c = c;
  page = numbers = command;
  put_command(&command, o);
  if (!command.status) put_page(&page, x, o->n_runs, command.text);
  if (!command.status) put_json(&numbers, x, o->n_runs, command.text);
  s = command.status ? command.status : numbers.status;
  fvg_release(c, command.text);
  snprintf(path, sizeof path, "%s/index.html", o->out);
  if (s) page.status = s;
  s = save_document(&page, path);
  if (s) numbers.status = s;
  return save_document(&numbers, json);
}

/* The page's tables in short, for the terminal; "seen" is the share of the Grad-CAM that lies inside the mask. */
static void print_summary(const study *x, int n) {
  int i, method;
  printf("\n%-14s %-11s %6s %6s   %6s %6s   %6s %6s   %5s\n", "", "", "base", "+-", "new", "+-", "H", "+-", "seen");
  for (i = 0; i < n; i++)
    for (method = 0; method < N_METHOD; method++) {
      const double *score = x[i].score[method];
      print(stdout, "%-14s %-11s %6.2f %6.2f   %6.2f %6.2f   %6.2f %6.2f   %5.1f\n", method ? "" : x[i].name,
             method_name[method], score[0], score[1], score[2], score[3], score[4], score[5] < 0 ? 0 : score[5],
             x[i].share[method].mean);
    }
  printf("\nbase, new: accuracy in %%, mean and deviation over the seeds; H: harmonic mean of the two means.\n"
         "seen: %% of the Grad-CAM that lies on the object.\n"
         "Look for CoOp losing `seen` and `new` against zero_shot: it learns the surroundings with the classes.\n"
         "Then for FVGPT_CoOp keeping base and bringing both back.\n");
}

static fvg_status report(fvg_ctx *c, const options *o) {
  char json[1200];
  folder_lock lock;
  fvg_clip *m = NULL;
  study *x;
  findings f;
  fvg_status s;
  int i;
  memset(&f, 0, sizeof f);
  if (!o->n_data || !o->n_runs || !o->out || !*o->out)
    return fvg_fail(c, FVG_E_ARG, "report needs --data ROOT, --runs RUNS and --out DIR");
  if (o->n_data != o->n_runs)
    return fvg_fail(c, FVG_E_ARG, "%d --data but %d --runs; give one --runs for each --data, in the same order",
                    o->n_data, o->n_runs);
  for (i = 0; i < o->n_runs; i++)
    if (strlen(o->runs[i]) > 1000) return fvg_fail(c, FVG_E_ARG, "--runs: the path is too long");
  if (strlen(o->out) > 1000) return fvg_fail(c, FVG_E_ARG, "--out: the path is too long");
  snprintf(json, sizeof json, "%s/results.json", o->out);
  s = check_out(c, json);
  memset(&lock, 0, sizeof lock);
  if (!s && is_folder(o->out)) s = lock_folder(c, &lock, o->out);      /* a tune may be at work there               */
  if (s) return s;
  x = (study *)fvg_alloc_array(c, (size_t)o->n_runs, sizeof *x);
  s = x ? open_model(c, o, &m) : FVG_E_NOMEM;
  if (!s && !(m->has_vision && m->has_text))
    s = fvg_fail(c, FVG_E_ARG, "%s: report needs a model with both towers", o->model);
  if (!s) s = found(c, &f, check_out_folder(c, o->out));
  for (i = 0; !s && i < o->n_runs; i++) s = found(c, &f, study_open(&x[i], m, o, i));
  if (!s) s = end_findings(c, &f);
  for (i = 0; !s && i < o->n_runs; i++) s = study_new(&x[i], m, o);
  if (!s) s = make_folders(c, o->out);
  if (!s && !lock.file) s = lock_folder(c, &lock, o->out);
  if (!s) s = write_report(c, o, x, json);
  unlock_folder(&lock);
  if (!s) print_summary(x, o->n_runs);
  if (!s) print(stdout, "\n%s/index.html\n", o->out);
  for (i = 0; x && i < o->n_runs; i++) study_free(c, &x[i]);
  fvg_clip_free(m);
  fvg_release(c, x);
  return s;
}
