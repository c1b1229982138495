/* fvgpt classify. */
#include "fvgpt_classify.h"

#include <stdio.h>
#include <string.h>

#include "fvgpt_checks.h"
#include "fvgpt_learners.h"
#include "fvgpt_pictures.h"
#include "fvgpt_print.h"

typedef struct classify_options {
  common_options common;
  learner_options learner;
  const char *checkpoint, *classes;  /* NULL: not given                                          */
  int top;                           /* names that are printed for each picture                  */
  int exif_rotate;
  text_list files;
} classify_options;

static void declare(option_table *t, void *options) {
  classify_options *o = (classify_options *)options;
  o->top = 5;
  add_common(t, &o->common);
  add_learner_options(t, &o->learner);
  add_text(t, "--checkpoint", &o->checkpoint);
  add_text(t, "--classes", &o->classes);
  add_whole(t, "--top", &o->top, 1, 100000);
  add_flag(t, "--exif-rotate", &o->exif_rotate);
  add_files(t, &o->files, NULL);
}

/* ---- the names of --classes ---- */
typedef struct name_list {
  char *text;                        /* their storage                                            */
  const char **name;
  int n;
} name_list;

static void name_list_free(fvg_ctx *c, name_list *x) {
  fvg_release(c, (void *)x->name);
  fvg_release(c, x->text);
}

/* Cuts names out of a list in place; a comma behind a backslash belongs to the name.  Returns how
   many there are. */
static int cut_names(char *list, const char **name) {
  int n = 0;
  char *at = list;
  int is_last = 0;
  while (!is_last) {
    char *start = at;
    char *to = at;
    while (*at && *at != ',') {
      if (at[0] == '\\' && at[1] == ',') at++;
      *to++ = *at++;
    }
    is_last = !*at;
    at++;
    *to = 0;
    fvg_tidy_name(start);
    name[n++] = start;
  }
  return n;
}

static fvg_status check_no_name_is_empty(fvg_ctx *c, const char *classes, const name_list *x) {
  const char *const empty = "";
  int first = -1;
  fvg_status s = fvg_match_names(c, &first, &empty, 1, x->name, x->n);
  if (s || first < 0) return s;
  return fvg_fail(c, FVG_E_ARG,
                  "--classes %.200s: name %d of %d is empty (a comma inside a name is written \\,)",
                  classes, first + 1, x->n);
}

static fvg_status check_names_differ(fvg_ctx *c, const name_list *x) {
  int *match = FVG_NEW_ARRAY(c, int, (size_t)x->n);
  if (!match) return FVG_E_NOMEM;
  fvg_status s = fvg_match_names(c, match, x->name, x->n, x->name, x->n);
  for (int i = 0; !s && i < x->n; i++) {
    if (match[i] == i) continue;
    s = fvg_fail(c, FVG_E_ARG,
                 "--classes: name %d \"%.80s\" means the same as name %d \"%.80s\"; leave one out",
                 i + 1, x->name[i], match[i] + 1, x->name[match[i]]);
  }
  fvg_release(c, match);
  return s;
}

static fvg_status names_given(fvg_ctx *c, const char *classes, name_list *x) {
  x->text = fvg_copy_string(c, classes);
  x->name = FVG_NEW_ARRAY(c, const char *, strlen(classes) + 1);
  if (!x->text || !x->name) return FVG_E_NOMEM;
  x->n = cut_names(x->text, x->name);
  fvg_status s = check_no_name_is_empty(c, classes, x);
  return s ? s : check_names_differ(c, x);
}

/* ---- scores ---- */
/* What every picture is scored with. */
typedef struct scorer {
  fvg_clip *m;
  fvg_learner *l;                    /* NULL: plain CLIP                                         */
  fvg_classifier *k;
  fvg_tape *tape;                    /* for the softmax                                          */
  const char *const *name;
  int n, top;
} scorer;

/* Prints the `top` best names; p [n] is spoilt. */
static void print_scores(const scorer *x, const char *file, float *p, float b) {
  print(stdout, "%s\n", file);
  for (int shown = 0; shown < x->n && shown < x->top; shown++) {
    int best = 0;
    for (int i = 1; i < x->n; i++) {
      if (p[i] > p[best]) best = i;
    }
    print(stdout, "  %6.2f %%  %s\n", 100 * (double)p[best], x->name[best]);
    p[best] = -1;
  }
  if (b > 0) printf("  weight of plain CLIP b = %.3f\n", (double)b);
}

static fvg_status softmax(const scorer *x, const float *logits, float *p) {
  fvg_node *node = fvg_softmax(fvg_const(x->tape, 1, x->n, logits), 1);
  if (node) memcpy(p, fvg_value(node), (size_t)x->n * sizeof *p);
  fvg_tape_clear(x->tape);
  return node ? FVG_OK : fvg_last_status(x->m->ctx);
}

/* Scores one view, and prints what came of it; row: room for its features, z [2 n] for scores. */
static fvg_status score_view(const scorer *x, const char *file, const float *chw, float *row,
                             float *z) {
  float b = 0;
  fvg_status s = fvg_learner_encode_images(x->m, x->l, row, chw, 1);
  if (!s) s = fvg_classifier_logits(x->k, z, &b, row, 1);
  if (!s) s = softmax(x, z, z + x->n);
  if (!s) print_scores(x, file, z + x->n, b);
  return s;
}

/* Scores the good ones of some pictures, and prints each at once. */
static fvg_status score_pictures(scorer *x, picture_list *pictures) {
  fvg_ctx *c = x->m->ctx;
  const size_t size = (size_t)x->m->vision.image_size;
  float *chw = FVG_NEW_ARRAY(c, float, 3 * size * size);
  float *row = FVG_NEW_ARRAY(c, float, (size_t)fvg_learner_feature_width(x->m, x->l));
  float *z = FVG_NEW_ARRAY(c, float, 2 * (size_t)x->n);
  x->tape = fvg_tape_new(c);
  fvg_status s = chw && row && z && x->tape ? FVG_OK : FVG_E_NOMEM;

  for (int i = 0; !s && i < pictures->n; i++) {
    fvg_image view;
    s = load_view(x->m, pictures, i, &view, chw);
    fvg_image_free(c, &view);
    if (s) s = step_over(c, s, pictures);
    else s = score_view(x, pictures->file[i], chw, row, z);
  }
  if (!s) s = end_pictures(c, pictures);
  fvg_tape_free(x->tape);
  fvg_release(c, z);
  fvg_release(c, row);
  fvg_release(c, chw);
  return s;
}

/* Opens the checkpoint, if there is one, and classifies by the names given or by those tuned on. */
static fvg_status classify(fvg_clip *m, const classify_options *o, picture_list *pictures) {
  fvg_ctx *c = m->ctx;
  name_list given = {NULL, NULL, 0};
  tuned_model tuned = {NULL, NULL, NULL};
  fvg_group half = FVG_BASE;
  scorer x;
  memset(&x, 0, sizeof x);
  x.m = m;
  x.top = o->top;

  fvg_status s = o->classes ? names_given(c, o->classes, &given) : FVG_OK;
  x.name = given.name;
  x.n = given.n;
  if (!s && o->checkpoint) {
    s = open_checkpoint(m, &o->learner, o->checkpoint, o->exif_rotate, NULL, x.name, x.n, &tuned);
    if (!s && !o->classes) x.name = fvg_learner_class_names(tuned.l, &x.n);
  }
  if (!s) s = half_of_names(c, &o->learner, &tuned, x.name, x.n, &half);

  x.l = tuned.l;
  if (!s) {
    const char *prompt_template = template_of(o->learner.prompt_template, tuned.settings);
    s = classifier_of(m, &x.k, branch_of(&tuned, half), tuned.l, tuned.f, prompt_template, x.name,
                      x.n);
  }
  if (!s) s = score_pictures(&x, pictures);
  fvg_classifier_free(x.k);
  tuned_model_free(&tuned);
  name_list_free(c, &given);
  return s;
}

static fvg_status run(fvg_ctx *c, const void *options) {
  const classify_options *o = (const classify_options *)options;
  const int has_names = o->classes || (o->checkpoint && !o->learner.trainer);
  if (!o->files.n || !has_names) {
    return fvg_fail(c, FVG_E_ARG,
                    "classify needs pictures, and --classes A,B,C or a --checkpoint that tune "
                    "made");
  }
  picture_list pictures;
  fvg_clip *m = NULL;
  fvg_status s = gather_pictures(c, &o->files, o->exif_rotate, &pictures);
  if (!s) s = open_image_model(c, &o->common, &m);
  if (!s) s = classify(m, o, &pictures);
  pictures_free(c, &pictures);
  fvg_clip_free(m);
  return s;
}

const fvgpt_command classify_command = {"classify", sizeof(classify_options), declare, run};
