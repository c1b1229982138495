/* Variations of rows; see fvgpt_variations.h. */
#include "fvgpt_variations.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvgpt_print.h"

/* The settings that are no options of methods, with the bounds of their values. */
static const struct {
  const char *name;
  setting_kind kind;
  double low, high;
  int is_whole;
} known[] = {
  {"lr", SETTING_OF_TRAINING, 1e-9, 1e3, 0},
  {"epochs", SETTING_OF_TRAINING, 1, 65536, 1},
  {"batch", SETTING_OF_TRAINING, 1, 100000, 1},
  {"lambda_base", SETTING_OF_FVGPT, 0, 1e6, 0},
  {"fdc_hidden", SETTING_OF_FVGPT, 1, 65536, 1},
  {"gate_hidden", SETTING_OF_FVGPT, 1, 65536, 1},
  {"gate_layers", SETTING_OF_FVGPT, 1, 3, 1},
  {"frg_without", SETTING_OF_FVGPT, 0, FVG_U_ALL, 1},
  {"brg_without", SETTING_OF_FVGPT, 0, FVG_V_ALL, 1},
};
enum { N_KNOWN = sizeof known / sizeof *known };

static int find_known(const char *name) {
  for (int i = 0; i < N_KNOWN; i++) {
    if (!strcmp(known[i].name, name)) return i;
  }
  return -1;
}

setting_kind kind_of_setting(const char *name) {
  const int i = find_known(name);
  return i < 0 ? SETTING_OF_METHOD : known[i].kind;
}

/* ---- a row's own settings ---- */
const double *varied(const variations *x, const char *name) {
  for (int i = 0; i < x->n; i++) {
    if (!strcmp(x->item[i].name, name)) return &x->item[i].value;
  }
  return NULL;
}

void vary(variations *x, const char *name, double value) {
  variation *item = &x->item[x->n++];
  snprintf(item->name, sizeof item->name, "%s", name);
  item->value = value;
}

void print_variations(const variations *x, char text[VARIATIONS_BYTES]) {
  size_t at = 0;
  text[0] = 0;
  for (int i = 0; i < x->n; i++) {
    const int n = snprintf(text + at, VARIATIONS_BYTES - at, "%s%s=%g", i ? "," : "",
                           x->item[i].name, x->item[i].value);
    at += (size_t)n;
  }
}

/* ---- --choose ---- */
static int tell_bad_choice(const char *text) {
  print(stderr,
        "fvgpt: --choose %s: NAME=VALUE,VALUE,... with 2 to %d numbers in at most %d bytes is "
        "expected, for at most %d names\n",
        text, MAX_VALUES, CHOICE_BYTES - 1, MAX_VARIATIONS);
  return 0;
}

/* 0: the setting cannot have that value, after a message. */
static int is_possible(const choice_option *x, double value) {
  const int i = find_known(x->name);
  if (i < 0) return 1;
  const int is_whole = value == (double)(long)value;
  if (value >= known[i].low && value <= known[i].high && (is_whole || !known[i].is_whole))
    return 1;
  print(stderr, "fvgpt: --choose %s: %g is not possible; a %snumber from %g to %g is expected\n",
        x->name, value, known[i].is_whole ? "whole " : "", known[i].low, known[i].high);
  return 0;
}

/* Reads the numbers behind NAME=. */
static int take_values(choice_option *x, const char *text, const char *whole) {
  int is_last = 0;
  while (!is_last) {
    char *end;
    const double value = strtod(text, &end);
    const int is_number = end != text && value - value == 0 && (!*end || *end == ',');
    if (!is_number || x->n == MAX_VALUES) return tell_bad_choice(whole);
    if (!is_possible(x, value)) return 0;
    x->value[x->n++] = value;
    is_last = !*end;
    text = end + 1;
  }
  return x->n > 1 ? 1 : tell_bad_choice(whole);
}

static int take_choose(void *to, const char *text) {
  choose_options *o = (choose_options *)to;
  const char *equals = strchr(text, '=');
  const size_t n = equals ? (size_t)(equals - text) : 0;
  const int fits = n < SETTING_BYTES && strlen(text) < CHOICE_BYTES && o->n < MAX_VARIATIONS;
  if (!n || !fits) return tell_bad_choice(text);

  choice_option *x = &o->item[o->n];
  memset(x, 0, sizeof *x);
  memcpy(x->name, text, n);
  for (int i = 0; i < o->n; i++) {
    if (strcmp(o->item[i].name, x->name)) continue;
    print(stderr, "fvgpt: --choose %s: %s is given twice\n", text, x->name);
    return 0;
  }
  if (!take_values(x, equals + 1, text)) return 0;
  o->text[o->n++] = text;

  int n_candidates = 1;
  for (int i = 0; i < o->n; i++) n_candidates *= o->item[i].n;
  if (n_candidates <= MAX_CANDIDATES) return 1;
  print(stderr, "fvgpt: --choose: %d combinations; at most %d are possible\n", n_candidates,
        MAX_CANDIDATES);
  return 0;
}

void add_choose_option(option_table *t, choose_options *o) {
  add_taken(t, "--choose", take_choose, o);
}

int candidate(const choose_options *o, unsigned wanted, int i, variations *x) {
  int place[MAX_VARIATIONS] = {0};
  for (int k = o->n - 1; k >= 0; k--) {
    if (!(wanted >> k & 1)) continue;
    place[k] = i % o->item[k].n;
    i /= o->item[k].n;
  }
  if (i) return 0;
  for (int k = 0; k < o->n; k++) {
    if (wanted >> k & 1) vary(x, o->item[k].name, o->item[k].value[place[k]]);
  }
  return 1;
}
