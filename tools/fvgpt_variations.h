/* Settings that a row of the table has for itself, where the options or the published recipe say
   something else; and --choose, which tries several of them and keeps the best on val. */
#ifndef FVGPT_VARIATIONS_H
#define FVGPT_VARIATIONS_H

#include "fvgpt_options.h"

/* A setting by its name, and its value: one of training, of FVG-PT, or an option of a method. */
enum { SETTING_BYTES = 32 };
typedef struct variation {
  char name[SETTING_BYTES];
  double value;
} variation;

enum { MAX_VARIATIONS = 4 };
typedef struct variations {
  variation item[MAX_VARIATIONS];
  int n;
} variations;

/* The value of that name; NULL: the row has none of its own. */
const double *varied(const variations *x, const char *name);
/* Adds a value, which there must be room for. */
void vary(variations *x, const char *name, double value);
/* "NAME=VALUE,NAME=VALUE": for messages, marks and names of folders. */
enum { VARIATIONS_BYTES = MAX_VARIATIONS * (SETTING_BYTES + 16) };
void print_variations(const variations *x, char text[VARIATIONS_BYTES]);

/* What a setting belongs to. */
typedef enum setting_kind {
  SETTING_OF_METHOD,                 /* no name below, so perhaps an option of a method          */
  SETTING_OF_TRAINING,               /* lr, epochs, batch: of every stage that trains            */
  SETTING_OF_FVGPT                   /* lambda_base, sizes of adapters and gates                 */
} setting_kind;
setting_kind kind_of_setting(const char *name);

/* ---- --choose NAME=VALUE,VALUE,... ---- */
enum { MAX_VALUES = 12, MAX_CANDIDATES = 64, CHOICE_BYTES = 200 };    /* of the text as given  */
typedef struct choice_option {
  char name[SETTING_BYTES];
  double value[MAX_VALUES];
  int n;
} choice_option;

typedef struct choose_options {
  choice_option item[MAX_VARIATIONS];
  int n;
  const char *text[MAX_VARIATIONS];  /* as given                                                 */
} choose_options;
void add_choose_option(option_table *t, choose_options *o);

/* Candidate i of 0, 1, ...: every combination of the values of the choices that are `wanted`
   (those whose bit is set), the first choice changing slowest.  0: there are no more. */
int candidate(const choose_options *o, unsigned wanted, int i, variations *x);

#endif
