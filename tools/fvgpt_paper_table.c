/* Tables of the paper, written in four forms; see fvgpt_paper_table.h. */
#include "fvgpt_paper_table.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static int is_there(double x) { return x == x; }

/* "oxford_pets H" or "published H" */
static void name_column(const paper_column *x, char *text, size_t size) {
  const char *set = x->is_published ? "published" : x->set;
  snprintf(text, size, "%s%s%s", set, *set ? " " : "", x->measure);
}

/* A number as the tables have it; "-" where there is none.  With a deviation "71.20 +- 0.31". */
static void name_cell(const paper_column *x, const paper_cell *cell, char *text, size_t size) {
  if (!is_there(cell->value)) snprintf(text, size, "-");
  else if (!is_there(cell->deviation)) snprintf(text, size, "%.*f", x->digits, cell->value);
  else {
    snprintf(text, size, "%.*f +- %.*f", x->digits, cell->value, x->digits, cell->deviation);
  }
}

/* ---- text ---- */
static int wider(int width, const char *text) {
  const int n = (int)strlen(text);
  return n > width ? n : width;
}

void print_paper_table(const paper_table *t) {
  char text[KEY_BYTES + 40];
  int first = (int)strlen(t->over);
  for (int i = 0; i < t->n_line; i++) first = wider(first, t->line[i]);
  print(stdout, "\n%s: %s\n", t->name, t->title);
  print(stdout, "%-*s", first, t->over);

  int width[MAX_COLUMNS] = {0};
  for (int k = 0; k < t->n_column; k++) {
    name_column(&t->column[k], text, sizeof text);
    width[k] = wider(0, text);
    print(stdout, "  %s", text);
    for (int i = 0; i < t->n_line; i++) {
      name_cell(&t->column[k], &t->cell[i][k], text, sizeof text);
      width[k] = wider(width[k], text);
    }
    name_column(&t->column[k], text, sizeof text);
    print(stdout, "%*s", width[k] - (int)strlen(text), "");
  }
  print(stdout, "\n");

  for (int i = 0; i < t->n_line; i++) {
    print(stdout, "%-*s", first, t->line[i]);
    for (int k = 0; k < t->n_column; k++) {
      name_cell(&t->column[k], &t->cell[i][k], text, sizeof text);
      print(stdout, "  %*s", width[k], text);
    }
    print(stdout, "\n");
  }
  if (t->note) print(stdout, "%s\n", t->note);
}

/* ---- CSV and JSON ---- */
static void put_csv_number(document *d, double x) {
  if (is_there(x)) put(d, ",%.6g", x);
  else put(d, ",");
}

void put_paper_csv(document *d, const paper_table *t) {
  for (int i = 0; i < t->n_line; i++) {
    for (int k = 0; k < t->n_column; k++) {
      const paper_cell *cell = &t->cell[i][k];
      if (!is_there(cell->value)) continue;
      put_csv_field(d, t->name);
      put(d, ",");
      put_csv_field(d, t->line[i]);
      put(d, ",");
      put_csv_field(d, t->column[k].set);
      put(d, ",%s", t->column[k].measure);
      put_csv_number(d, cell->value);
      put_csv_number(d, cell->deviation);
      put(d, ",%s\n", t->column[k].is_published ? "published" : "measured");
    }
  }
}

static void put_json_number(document *d, const char *name, double x) {
  if (is_there(x)) put(d, ", \"%s\": %.6g", name, x);
  else put(d, ", \"%s\": null", name);
}

static void put_json_line(document *d, const paper_table *t, int i) {
  put(d, "   {\"row\": ");
  put_json_string(d, t->line[i]);
  put(d, ", \"cells\": [");
  for (int k = 0; k < t->n_column; k++) {
    put(d, "%s\n    {\"set\": ", k ? "," : "");
    put_json_string(d, t->column[k].set);
    put(d, ", \"measure\": \"%s\"", t->column[k].measure);
    put_json_number(d, "mean", t->cell[i][k].value);
    put_json_number(d, "deviation", t->cell[i][k].deviation);
    put(d, ", \"source\": \"%s\"}", t->column[k].is_published ? "published" : "measured");
  }
  put(d, "]}");
}

void put_paper_json(document *d, const paper_table *t) {
  put(d, "  {\"name\": \"%s\", \"title\": ", t->name);
  put_json_string(d, t->title);
  put(d, ", \"rows\": [\n");
  for (int i = 0; i < t->n_line; i++) {
    put_json_line(d, t, i);
    put(d, i == t->n_line - 1 ? "\n" : ",\n");
  }
  put(d, "  ]}");
}

/* ---- a page ---- */
/* The least and the greatest of a column that is drawn, and of the published one. */
static void range_of(const paper_table *t, double *low, double *high) {
  *low = INFINITY;
  *high = -INFINITY;
  for (int i = 0; i < t->n_line; i++) {
    const double value = t->cell[i][t->drawn].value;
    const double published = t->drawn_published < 0 ? NAN : t->cell[i][t->drawn_published].value;
    if (value < *low) *low = value;
    if (value > *high) *high = value;
    if (published < *low) *low = published;
    if (published > *high) *high = published;
  }
}

/* Where the chart's axis begins and ends, and its steps: whole ones, or halves where the values are
   close together. */
typedef struct axis {
  double low, high, step;
} axis;

static axis axis_of(const paper_table *t) {
  axis y;
  range_of(t, &y.low, &y.high);
  const double span = y.high > y.low ? y.high - y.low : 1;
  y.step = span <= 2 ? 0.5 : span <= 5 ? 1 : span <= 12 ? 2 : span <= 30 ? 5 : 10;
  y.low = floor(y.low / y.step - 0.5) * y.step;
  y.high = ceil(y.high / y.step + 0.1) * y.step;
  return y;
}

/* Places in a drawing 480 wide, whose plot goes from (46, 14) to (470, 214). */
static double height_of(const axis *y, double value) {
  return 214 - 200 * (value - y->low) / (y->high - y->low);
}

/* A line's place from left to right: by its number, or of lambda by the logarithm. */
static double place_of(const paper_table *t, int i) {
  if (t->chart == CHART_BARS) return 46 + 424 * (i + 0.5) / t->n_line;
  const double first = log(t->x[0]);
  const double last = log(t->x[t->n_line - 1]);
  return last > first ? 66 + 384 * (log(t->x[i]) - first) / (last - first) : 258;
}

static void put_axis(document *d, const paper_table *t, const axis *y) {
  for (double at = y->low; at <= y->high + 1e-9; at += y->step) {
    put(d, "<path class=\"axis\" d=\"M46 %.1fH470\"/>", height_of(y, at));
    put(d, "<text x=\"40\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", height_of(y, at) + 4, at);
  }
  for (int i = 0; i < t->n_line; i++) {
    put(d, "<text x=\"%.1f\" y=\"231\" text-anchor=\"middle\">", place_of(t, i));
    put_escaped(d, t->line[i], 1);
    put(d, "</text>\n");
  }
  put(d, "<text x=\"258\" y=\"248\" text-anchor=\"middle\">%s</text>\n", t->over);
  put(d, "<text x=\"6\" y=\"6\">%s</text>\n", t->column[t->drawn].measure);
}

static void put_points(document *d, const paper_table *t, const axis *y, int column,
                       const char *kind) {
  put(d, "<polyline class=\"line %s\" points=\"", kind);
  for (int i = 0; i < t->n_line; i++) {
    const double value = t->cell[i][column].value;
    if (is_there(value)) put(d, "%.1f,%.1f ", place_of(t, i), height_of(y, value));
  }
  put(d, "\"/>\n");
  for (int i = 0; i < t->n_line; i++) {
    const paper_cell *cell = &t->cell[i][column];
    if (!is_there(cell->value)) continue;
    put(d, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"><title>", kind, place_of(t, i),
        height_of(y, cell->value));
    put_escaped(d, t->line[i], 1);
    put(d, ": %.2f</title></circle>\n", cell->value);
  }
}

static void put_bars(document *d, const paper_table *t, const axis *y) {
  for (int i = 0; i < t->n_line; i++) {
    const paper_cell *cell = &t->cell[i][t->drawn];
    if (!is_there(cell->value)) continue;
    const double top = height_of(y, cell->value);
    put(d, "<rect class=\"ours\" x=\"%.1f\" y=\"%.1f\" width=\"44\" height=\"%.1f\"/>",
        place_of(t, i) - 22, top, 214 - top);
    put(d, "<text class=\"value\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%.2f</text>\n",
        place_of(t, i), top - 4, cell->value);
  }
}

static void put_chart(document *d, const paper_table *t) {
  const axis y = axis_of(t);
  put(d, "<figure><svg viewBox=\"0 -8 480 262\" role=\"img\" aria-label=\"");
  put_escaped(d, t->title, 1);
  put(d, "\">\n");
  put_axis(d, t, &y);
  if (t->chart == CHART_BARS) {
    put_bars(d, t, &y);
  } else {
    if (t->drawn_published >= 0) put_points(d, t, &y, t->drawn_published, "published");
    put_points(d, t, &y, t->drawn, "ours");
  }
  put(d, "</svg>");
  if (t->chart == CHART_LINE && t->drawn_published >= 0)
    put(d, "<figcaption><span class=\"ours\">●</span> measured here, <span "
           "class=\"published\">●</span> published</figcaption>");
  put(d, "</figure>\n");
}

static void put_page_line(document *d, const paper_table *t, int i) {
  put(d, "<tr><th scope=\"row\">");
  put_escaped(d, t->line[i], 1);
  put(d, "</th>");
  for (int k = 0; k < t->n_column; k++) {
    const paper_column *column = &t->column[k];
    const paper_cell *cell = &t->cell[i][k];
    put(d, column->is_published ? "<td class=\"published\">" : "<td>");
    if (!is_there(cell->value)) put(d, "–");
    else put(d, "%.*f", column->digits, cell->value);
    if (is_there(cell->deviation))
      put(d, " <small>± %.*f</small>", column->digits, cell->deviation);
    put(d, "</td>");
  }
  put(d, "</tr>\n");
}

void put_paper_section(document *d, const paper_table *t) {
  put(d, "<h2>%s</h2>\n<p>", t->name);
  put_escaped(d, t->title, 1);
  put(d, "</p>\n");
  if (t->chart != CHART_NONE && is_there(t->cell[0][t->drawn].value)) put_chart(d, t);
  put(d, "<div class=\"scroll\"><table><thead><tr><th>%s</th>", t->over);
  for (int k = 0; k < t->n_column; k++) {
    char text[KEY_BYTES + 40];
    name_column(&t->column[k], text, sizeof text);
    put(d, "<th scope=\"col\">");
    put_escaped(d, text, 1);
    put(d, "</th>");
  }
  put(d, "</tr></thead><tbody>\n");
  for (int i = 0; i < t->n_line; i++) put_page_line(d, t, i);
  put(d, "</tbody></table></div>\n");
  if (!t->note) return;
  put(d, "<p class=\"note\">");
  put_escaped(d, t->note, 1);
  put(d, "</p>\n");
}
