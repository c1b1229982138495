/* Options that need others; see fvgpt_needs.h. */
#include "fvgpt_needs.h"

#include <string.h>

/* ---- options that need an option ---- */
/* The commands stand with blanks around each.  How a learner is made matters to the files of
   published trainers only: a checkpoint of tune tells it itself. */
#define TESTERS " eval classify attend "
#define DATA_USERS " eval attend masks tune paper report "
typedef struct need {
  const char *commands, *option;
  const char *partner, *or_partner;  /* one of them must be given; or_partner may be NULL        */
  int excludes;                      /* 1: partner must not be given                             */
} need;
static const need needs[] = {
  {TESTERS, "--trainer", "--checkpoint", NULL, 0},
  {TESTERS, "--ctx-init", "--trainer", NULL, 0},
  {TESTERS, "--class-token-position", "--trainer", NULL, 0},
  {TESTERS, "--n-ctx", "--trainer", NULL, 0},
  {TESTERS, "--set", "--trainer", NULL, 0},
  {TESTERS, "--preset", "--trainer", NULL, 0},
  {TESTERS, "--few-shot", "--trainer", NULL, 0},
  {TESTERS, "--transfer-to", "--trainer", NULL, 0},
  {TESTERS, "--shots", "--trainer", NULL, 0},
  {DATA_USERS, "--data", "--dataset-root", NULL, 1},
  {DATA_USERS, "--dataset", "--dataset-root", NULL, 0},
  {DATA_USERS, "--dataset-root", "--dataset", NULL, 0},
  {" attend ", "--template", "--checkpoint", NULL, 0},
  {" attend ", "--split", "--data", "--dataset-root", 0},
  {" attend ", "--masks", "--data", "--dataset-root", 0},
  {" attend ", "--val", "--data", "--dataset-root", 0},
  {" attend ", "--skip-bad", "--data", "--dataset-root", 0},
  {" masks ", "--any-class", "--text", NULL, 1},
};

static int is_of(const need *x, const char *command) {
  const size_t n = strlen(command);
  for (const char *at = strstr(x->commands, command); at; at = strstr(at + 1, command)) {
    if (at[-1] == ' ' && at[n] == ' ') return 1;
  }
  return 0;
}

static fvg_status check_need(fvg_ctx *c, const common_options *o, const need *x) {
  if (!is_of(x, o->command) || !is_given(o, x->option)) return FVG_OK;
  const int has_partner =
      is_given(o, x->partner) || (x->or_partner && is_given(o, x->or_partner));
  if (has_partner != x->excludes) return FVG_OK;
  if (x->excludes)
    return fvg_fail(c, FVG_E_ARG, "%s and %s: give one of them", x->option, x->partner);
  return fvg_fail(c, FVG_E_ARG, "%s goes with %s%s%s", x->option, x->partner,
                  x->or_partner ? " or " : "", x->or_partner ? x->or_partner : "");
}

fvg_status check_needs(fvg_ctx *c, const common_options *o) {
  fvg_status s = FVG_OK;
  for (size_t i = 0; !s && i < sizeof needs / sizeof *needs; i++) s = check_need(c, o, &needs[i]);
  return s;
}

/* ---- options that need a row ---- */
typedef enum row_kind { ROW_OF_METHOD, ROW_OF_FVGPT, ROW_OF_DPC, ROW_WITH_FOREGROUNDS } row_kind;

static int is_row_of(const table_row *r, row_kind kind) {
  switch (kind) {
    case ROW_OF_METHOD: return r->method != NULL;
    case ROW_OF_FVGPT: return r->backbone >= 0 && !r->dpc;
    case ROW_OF_DPC: return r->dpc;
    case ROW_WITH_FOREGROUNDS: return needs_foregrounds(r);
  }
  return 0;
}

static int has_row_of(const tuning *t, row_kind kind) {
  for (int i = 0; i < t->n_row; i++) {
    if (is_row_of(&t->row[i], kind)) return 1;
  }
  return 0;
}

/* Rows of any kind can do with the masks that are there, or with none. */
static int asks_for_masks(const tuning *t) {
  const int masks = t->o->data.masks;
  return masks != MASKS_AUTO && masks != MASKS_GIVEN && masks != MASKS_NONE;
}

fvg_status check_needs_of_rows(const tuning *t) {
  static const struct { const char *option; row_kind kind; } taken[] = {
    {"--set", ROW_OF_METHOD}, {"--n-ctx", ROW_OF_METHOD}, {"--ctx-init", ROW_OF_METHOD},
    {"--class-token-position", ROW_OF_METHOD}, {"--preset", ROW_OF_METHOD},
    {"--ablate", ROW_OF_FVGPT}, {"--distill", ROW_OF_FVGPT}, {"--guard", ROW_OF_FVGPT},
    {"--lambda-base", ROW_OF_FVGPT}, {"--lambda-new", ROW_OF_FVGPT},
    {"--calibration", ROW_OF_FVGPT}, {"--entropy", ROW_OF_FVGPT},
    {"--dpc-weight", ROW_OF_DPC}, {"--dpc-weight-for-new", ROW_OF_DPC},
    {"--dpc-top-k", ROW_OF_DPC},
    {"--masks", ROW_WITH_FOREGROUNDS}, {"--background", ROW_WITH_FOREGROUNDS},
    {"--background-template", ROW_WITH_FOREGROUNDS}, {"--quick", ROW_WITH_FOREGROUNDS},
    {"--fill-black", ROW_WITH_FOREGROUNDS},
  };
  for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
    const char *option = taken[i].option;
    if (!is_given(&t->o->common, option) || has_row_of(t, taken[i].kind)) continue;
    if (!strcmp(option, "--masks") && !asks_for_masks(t)) continue;
    return fvg_fail(t->c, FVG_E_ARG, "%s: none of the trainers takes it", option);
  }
  return FVG_OK;
}
