/* Drawings; see fvgpt_report_draw.h. */
#include "fvgpt_report_draw.h"

#include <math.h>
#include <string.h>

#include "fvgpt_html.h"

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

void put_curves_chart(document *t, const study *x, const model *w) {
  const curve *mean = &w->mean_loss;
  const ticks *y = &w->loss_ticks;
  const plot p = {1, mean->n, y->at[y->n - 1]};
  put_frame(t, &p, &w->epoch_ticks, y, "loss", "epoch", "Mean loss per epoch");
  for (int run = 0; x->n_seed > 1 && run < x->n_seed; run++) put_line(t, &p, &w->loss[run], "seed");
  put_line(t, &p, mean, "mean");
  put(t, "<circle class=\"dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"/></svg>\n", across(&p, mean->n),
      down(&p, mean->loss[mean->n - 1]));
}

/* One bar of a histogram, the `which`-th of `of`. */
static void put_bar(document *t, const plot *p, int bin, long count, int which, int of) {
  const double width = of > 1 ? 13 : 27;
  const double left = across(p, (double)bin / N_BIN) + 3 + 14.5 * which;
  const double top = down(p, (double)count);
  put(t, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.0f\" height=\"%.1f\"/>\n",
      which ? "bad" : "good", left, top, width, 192 - top);
}

void put_histogram(document *t, const long *first, const long *second, const ticks *counts,
                   const char *below, const char *first_name, const char *second_name) {
  static const ticks edges = {{0, 0.2, 0.4, 0.6, 0.8, 1}, 6};
  const plot p = {0, 1, counts->at[counts->n - 1]};
  const int of = second ? 2 : 1;
  put_frame(t, &p, &edges, counts, "pictures", below, below);
  for (int bin = 0; bin < N_BIN; bin++) {
    put_bar(t, &p, bin, first[bin], 0, of);
    if (second) put_bar(t, &p, bin, second[bin], 1, of);
  }
  if (second) {
    put(t, "<rect class=\"good\" x=\"130\" y=\"-15\" width=\"11\" height=\"9\"/>"
           "<text x=\"146\" y=\"-6\">%s</text>"
           "<rect class=\"bad\" x=\"265\" y=\"-15\" width=\"11\" height=\"9\"/>"
           "<text x=\"281\" y=\"-6\">%s</text>",
        first_name, second_name);
  }
  put(t, "</svg>\n");
}

/* ---- confusion ---- */
/* A matrix is drawn in units of a tenth of a field, and shown with up to 3 pixels for each. */
enum { CELL = 10, MOST_NUMBERED = 25, MOST_COUNTED = 15, MOST_WIDE = 340 };

static void put_numbers_of_classes(document *t, int n_class) {
  for (int i = 0; i < n_class && n_class <= MOST_NUMBERED; i++) {
    const double middle = CELL * i + 0.5 * CELL;
    put(t, "<text x=\"-3\" y=\"%.1f\" text-anchor=\"end\">%d</text>", middle + 2, i + 1);
    put(t, "<text x=\"%.1f\" y=\"-4\" text-anchor=\"middle\">%d</text>\n", middle, i + 1);
  }
}

static void put_cell_of(document *t, int row, int col, long count, long of, int n_class) {
  const char *kind = row == col ? "good" : "miss";
  put(t, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" "
         "fill-opacity=\"%.2f\"/>",
      kind, CELL * col, CELL * row, CELL, CELL, 0.15 + 0.6 * (double)count / (double)of);
  if (n_class <= MOST_COUNTED) {
    put(t, "<text class=\"count\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%ld</text>",
        CELL * (col + 0.5), CELL * (row + 0.5) + 1.7, count);
  }
  put(t, "\n");
}

void put_confusion(document *t, const long *count, int n_class, const char *title) {
  const int side = CELL * n_class;
  const int width = 3 * (side + 18) < MOST_WIDE ? 3 * (side + 18) : MOST_WIDE;
  put(t, "<svg class=\"matrix\" style=\"max-width:%dpx\" viewBox=\"-16 -16 %d %d\" role=\"img\" "
         "aria-label=\"Confusion matrix of %s\">\n<rect class=\"axis\" width=\"%d\" "
         "height=\"%d\"/>\n",
      width, side + 18, side + 18, title, side, side);
  put_numbers_of_classes(t, n_class);
  for (int row = 0; row < n_class; row++) {
    const long *of_row = count + (size_t)row * (size_t)n_class;
    long sum = 0;
    for (int col = 0; col < n_class; col++) sum += of_row[col];
    for (int col = 0; col < n_class; col++) {
      if (of_row[col]) put_cell_of(t, row, col, of_row[col], sum, n_class);
    }
  }
  put(t, "</svg>\n");
}

/* ---- pictures ---- */
void put_image(document *t, const fvg_image *image, const char *kind, const char *name) {
  put(t, "<img%s width=\"%d\" height=\"%d\" alt=\"%s, ",
      image->width < 100 ? " class=\"small\"" : "", image->width, image->height, kind);
  put_escaped(t, name, 1);
  put(t, "\" src=\"");
  put_picture_data(t, image);
  put(t, "\">");
}

void put_heat_scale(document *t) {
  enum { STEPS = 64 };
  uint8_t grey[STEPS];
  float map[STEPS];
  memset(grey, 150, sizeof grey);
  for (int i = 0; i < STEPS; i++) map[i] = (float)i / (STEPS - 1);
  fvg_image image, scale;
  image.width = STEPS;
  image.height = 1;
  image.channels = 1;
  image.pixels = grey;
  if (t->status) return;
  t->status = fvg_image_overlay(t->c, &scale, &image, map);
  put(t, "<p class=\"scale\"><span>nothing</span>");
  if (!t->status) put_image(t, &scale, "Scale of heat", "from nothing to the map's greatest");
  put(t, "<span>the map’s greatest value</span></p>\n");
  fvg_image_free(t->c, &scale);
}
