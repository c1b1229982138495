/* The manual of methods; see fvgpt_manual_methods.h. */
#include "fvgpt_manual_methods.h"

#include <stdio.h>
#include <string.h>

#include "fvgpt_columns.h"

/* ---- names ---- */
void print_method_names(int indent) {
  word_lines x = begin_words(indent);
  printf("%*s", indent, "");
  for (int i = 0; fvg_method_at(i); i++) print_word(&x, fvg_method_name(fvg_method_at(i)));
  printf("\n");
}

void try_methods(guess *g) {
  for (int i = 0; fvg_method_at(i); i++) {
    const char *name = fvg_method_name(fvg_method_at(i));
    try_name(g, name, strlen(name));
  }
}

/* ---- options ---- */
static void print_sets(const fvg_method *method) {
  word_lines x = begin_words(14);
  fvg_option option;
  double low, high;
  for (int k = 0; fvg_method_option(method, &option, &low, &high, k); k++) {
    char word[80];
    snprintf(word, sizeof word, "%s=%g", option.name, option.value);
    if (!k) printf("  %-11s ", fvg_method_name(method));
    print_word(&x, word);
  }
  if (x.n) printf("\n");
}

void print_all_sets(void) {
  printf("--set NAME=VALUE changes a setting of a method's own\n\n");
  for (int i = 0; fvg_method_at(i); i++) print_sets(fvg_method_at(i));
  printf("\n  Others have none.  The values are the usual ones; some published settings have\n"
         "  others: fvgpt help METHOD has them, and bounds\n");
}

static void print_options(const fvg_method *method) {
  fvg_option option;
  double low, high;
  int k = 0;
  for (; fvg_method_option(method, &option, &low, &high, k); k++) {
    if (!k) printf("  --set NAME=VALUE        usually  at least   at most\n");
    printf("    %-18s %9g %9g %9g\n", option.name, option.value, low, high);
  }
  if (!k) printf("  It has no options for --set.\n");
}

/* ---- published settings ---- */
static void print_recipe(const char *what, const fvg_recipe *r) {
  printf("  %-21s %-5s %6g %4d %3d", what, r->optimizer.kind == FVG_ADAMW ? "AdamW" : "SGD",
         (double)r->optimizer.lr, r->optimizer.epochs, r->batch);
  if (r->n_ctx || r->n_option) printf("  ");
  word_lines x = begin_words(47);
  char word[80];
  snprintf(word, sizeof word, "n-ctx %d", r->n_ctx);
  if (r->n_ctx) print_word(&x, word);
  for (int i = 0; i < r->n_option; i++) {
    snprintf(word, sizeof word, "%s=%g", r->option[i].name, r->option[i].value);
    print_word(&x, word);
  }
  printf("\n");
}

/* A line for each preset and protocol, as on a data set that is no published one. */
void print_method(const fvg_method *method) {
  static const char *const preset[2] = {"fork", "original"};
  static const char *const protocol[3] = {"base to new", "few-shot", "cross-data"};
  printf("%s, a method of tune: --trainer %s\n\n", fvg_method_name(method),
         fvg_method_name(method));
  print_options(method);

  printf("\n  published settings           lr epochs batch\n");
  fvg_recipe r;
  for (int p = 0; p < 2; p++) {
    for (int k = 0; k < 3; k++) {
      char what[40];
      snprintf(what, sizeof what, "%s, %s", preset[p], protocol[k]);
      fvg_method_recipe(method, &r, (fvg_preset)p, (fvg_protocol)k, NULL, 16);
      print_recipe(what, &r);
    }
  }
  fvg_fvgpt_recipe(method, &r, NULL);
  print_recipe("FVG-PT on it", &r);
  printf("\n  For 16 shots; some published sets have their own (fvgpt help settings).\n");
}
