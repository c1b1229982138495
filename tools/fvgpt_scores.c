/* Scores as text, JSON and CSV; see fvgpt_scores.h. */
#include "fvgpt_scores.h"

#include <stdlib.h>
#include <string.h>

/* ---- formats ---- */
void add_format_options(option_table *t, format_options *o) {
  add_flag(t, "--json", &o->json);
  add_flag(t, "--csv", &o->csv);
}

fvg_status check_format(fvg_ctx *c, const format_options *o) {
  if (!o->json || !o->csv) return FVG_OK;
  return fvg_fail(c, FVG_E_ARG, "--json and --csv: only one of them can be printed");
}

/* ---- the scores of pictures ---- */
typedef struct ranked_class {
  float p;
  int index;
} ranked_class;

/* The most probable comes first; of equal ones, the first in the list. */
static int compare_ranks(const void *a, const void *b) {
  const ranked_class *x = (const ranked_class *)a;
  const ranked_class *y = (const ranked_class *)b;
  if (x->p != y->p) return x->p > y->p ? -1 : 1;
  return x->index < y->index ? -1 : 1;
}

/* ---- text ---- */
static void print_text(const score_writer *w, const char *file, const char *const *name, float b) {
  print(stdout, "%s\n", file);
  for (int i = 0; i < w->top; i++) {
    const ranked_class *r = &w->rank[i];
    print(stdout, "  %6.2f %%  %s\n", 100 * (double)r->p, name[r->index]);
  }
  if (b > 0) printf("  weight of plain CLIP b = %.3f\n", (double)b);
}

/* ---- JSON ---- */
/* An entry is a line of its own, so that other programs can take it while we work on the next. */
static void begin_entry(document *d, score_writer *w, const char *file) {
  put(d, w->n_pictures++ ? ",{\"file\": " : " {\"file\": ");
  put_json_string(d, file);
}

static fvg_status print_json(score_writer *w, const char *file, const char *const *name, float b) {
  document d = new_document(w->c);
  begin_entry(&d, w, file);
  put(&d, ", \"classes\": [");
  for (int i = 0; i < w->top; i++) {
    put(&d, i ? ", {\"name\": " : "{\"name\": ");
    put_json_string(&d, name[w->rank[i].index]);
    put(&d, ", \"probability\": ");
    put_real32(&d, w->rank[i].p);
    put(&d, "}");
  }
  put(&d, "], \"b\": ");
  if (b > 0) put_real32(&d, b);
  else put(&d, "null");
  put(&d, "}\n");
  return print_document(&d);
}

static fvg_status print_json_fault(score_writer *w, const char *file, const char *message) {
  document d = new_document(w->c);
  begin_entry(&d, w, file);
  put(&d, ", \"error\": ");
  put_json_string(&d, message);
  put(&d, "}\n");
  return print_document(&d);
}

/* ---- CSV ---- */
static fvg_status print_csv(const score_writer *w, const char *file, const char *const *name,
                            float b) {
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < w->top; i++) {
    document d = new_document(w->c);
    put_csv_field(&d, file);
    put(&d, ",%d,", i + 1);
    put_csv_field(&d, name[w->rank[i].index]);
    put(&d, ",");
    put_real32(&d, w->rank[i].p);
    put(&d, ",");
    if (b > 0) put_real32(&d, b);
    put(&d, ",\n");
    s = print_document(&d);
  }
  return s;
}

static fvg_status print_csv_fault(const score_writer *w, const char *file, const char *message) {
  document d = new_document(w->c);
  put_csv_field(&d, file);
  put(&d, ",,,,,");
  put_csv_field(&d, message);
  put(&d, "\n");
  return print_document(&d);
}

/* ---- any of them ---- */
fvg_status begin_scores(score_writer *w, fvg_ctx *c, const format_options *format, int top,
                        int n_class) {
  memset(w, 0, sizeof *w);
  w->c = c;
  w->format = *format;
  w->top = top < n_class ? top : n_class;
  w->rank = FVG_NEW_ARRAY(c, ranked_class, (size_t)n_class);
  if (!w->rank) return FVG_E_NOMEM;
  if (format->json) print(stdout, "[\n");
  if (format->csv) print(stdout, "file,rank,class,probability,b,error\n");
  return FVG_OK;
}

fvg_status write_scores(score_writer *w, const char *file, const char *const *name, const float *p,
                        int n_class, float b) {
  for (int i = 0; i < n_class; i++) {
    w->rank[i].p = p[i];
    w->rank[i].index = i;
  }
  qsort(w->rank, (size_t)n_class, sizeof *w->rank, compare_ranks);

  fvg_status s = FVG_OK;
  if (w->format.json) s = print_json(w, file, name, b);
  else if (w->format.csv) s = print_csv(w, file, name, b);
  else print_text(w, file, name, b);
  fflush(stdout);
  return s;
}

fvg_status write_fault(score_writer *w, const char *file, const char *message) {
  if (w->format.json) return print_json_fault(w, file, message);
  return w->format.csv ? print_csv_fault(w, file, message) : FVG_OK;
}

void end_scores(score_writer *w) {
  if (w->format.json) print(stdout, "]\n");
}

void score_writer_free(score_writer *w) {
  if (w->c) fvg_release(w->c, w->rank);
  memset(w, 0, sizeof *w);
}
