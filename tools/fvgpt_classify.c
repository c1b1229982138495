/* fvgpt classify. */
#include "fvgpt_classify.h"

#include <stdlib.h>
#include <string.h>

#include "fvgpt_checks.h"
#include "fvgpt_learners.h"
#include "fvgpt_lines.h"
#include "fvgpt_pictures.h"
#include "fvgpt_scores.h"
#include "fvgpt_system.h"

typedef struct classify_options {
  common_options common;
  learner_options learner;
  const char *checkpoint;            /* NULL: not given                                          */
  const char *classes, *classes_file;
  int top;                           /* names that are printed for each picture                  */
  int exif_rotate;
  format_options format;
  picture_options pictures;
} classify_options;

/* A whole number, or all. */
static int take_top(void *to, const char *value) {
  char *end;
  const long n = strtol(value, &end, 10);
  const int is_all = !strcmp(value, "all");
  if (is_all || (*value && !*end && n >= 1 && n <= ALL_CLASSES)) {
    *(int *)to = is_all ? ALL_CLASSES : (int)n;
    return 1;
  }
  print(stderr, "fvgpt: --top %s: a whole number from 1 on, or all, is expected\n", value);
  return 0;
}

static void declare(option_table *t, void *options) {
  classify_options *o = (classify_options *)options;
  o->top = 5;
  add_common(t, &o->common);
  add_learner_options(t, &o->learner);
  add_text(t, "--checkpoint", &o->checkpoint);
  add_text(t, "--classes", &o->classes);
  add_text(t, "--classes-file", &o->classes_file);
  add_taken(t, "--top", take_top, &o->top);
  add_flag(t, "--exif-rotate", &o->exif_rotate);
  add_format_options(t, &o->format);
  add_picture_options(t, &o->pictures, NULL);
}

/* ---- the names of --classes and --classes-file ---- */
typedef struct name_list {
  char *text;                        /* the storage of --classes' names                          */
  line_list lines;                   /* that of --classes-file's                                 */
  const char **name;
  int n;
} name_list;

static void name_list_free(fvg_ctx *c, name_list *x) {
  fvg_release(c, (void *)x->name);
  fvg_release(c, x->text);
  line_list_free(c, &x->lines);
}

/* A name without the white space around it, cut in place; all else is printed as it was given.  The
   library takes underscores for blanks where it makes a text of a name. */
static char *trim(char *name) {
  static const char space[] = " \t\r\n\v\f";
  name += strspn(name, space);
  size_t n = strlen(name);
  while (n && strchr(space, name[n - 1])) n--;
  name[n] = 0;
  return name;
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
    name[n++] = trim(start);
  }
  return n;
}

/* where: the option, or the file, that the names come from. */
static fvg_status check_no_name_is_empty(fvg_ctx *c, const char *where, const name_list *x) {
  const char *const empty = "";
  int first = -1;
  fvg_status s = fvg_match_names(c, &first, &empty, 1, x->name, x->n);
  if (s || first < 0) return s;
  const char *advice = x->text ? " (a comma inside a name is written \\,)" : "";
  return fvg_fail(c, FVG_E_ARG, "%.300s: name %d of %d is empty%s", where, first + 1, x->n,
                  advice);
}

static fvg_status check_names_differ(fvg_ctx *c, const char *where, const name_list *x) {
  int *match = FVG_NEW_ARRAY(c, int, (size_t)x->n);
  if (!match) return FVG_E_NOMEM;
  fvg_status s = fvg_match_names(c, match, x->name, x->n, x->name, x->n);
  for (int i = 0; !s && i < x->n; i++) {
    if (match[i] == i) continue;
    s = fvg_fail(c, FVG_E_ARG,
                 "%.200s: name %d \"%.80s\" means the same as name %d \"%.80s\"; leave one out",
                 where, i + 1, x->name[i], match[i] + 1, x->name[match[i]]);
  }
  fvg_release(c, match);
  return s;
}

static fvg_status check_names(fvg_ctx *c, const char *where, const name_list *x) {
  for (int i = 0; i < x->n; i++) {
    if (is_utf8(x->name[i])) continue;
    return fvg_fail(c, FVG_E_ARG, "%.300s: name %d \"%.80s\" is not UTF-8; write it in UTF-8",
                    where, i + 1, x->name[i]);
  }
  fvg_status s = check_no_name_is_empty(c, where, x);
  return s ? s : check_names_differ(c, where, x);
}

static fvg_status names_given(fvg_ctx *c, const char *classes, name_list *x) {
  x->text = fvg_copy_string(c, classes);
  x->name = FVG_NEW_ARRAY(c, const char *, strlen(classes) + 1);
  if (!x->text || !x->name) return FVG_E_NOMEM;
  x->n = cut_names(x->text, x->name);
  char where[240];
  snprintf(where, sizeof where, "--classes %.200s", classes);
  return check_names(c, where, x);
}

/* A name stands on a line of its own. */
static fvg_status names_in(fvg_ctx *c, const char *file, name_list *x) {
  fvg_status s = read_lines(c, file, &x->lines);
  if (s) return s;
  x->n = x->lines.n;
  x->name = FVG_NEW_ARRAY(c, const char *, (size_t)x->n);
  if (!x->name) return FVG_E_NOMEM;
  for (int i = 0; i < x->n; i++) x->name[i] = trim(x->lines.line[i]);
  return check_names(c, list_name(file), x);
}

/* No names, n = 0, if neither option is given. */
static fvg_status names_of(fvg_ctx *c, const classify_options *o, name_list *x) {
  if (o->classes) return names_given(c, o->classes, x);
  return o->classes_file ? names_in(c, o->classes_file, x) : FVG_OK;
}

/* ---- scores ---- */
/* What every picture is scored with. */
typedef struct scorer {
  fvg_clip *m;
  fvg_learner *l;                    /* NULL: plain CLIP                                         */
  fvg_classifier *k;
  fvg_tape *tape;                    /* for the softmax                                          */
  const char *const *name;
  int n;
  score_writer writer;
} scorer;

static fvg_status softmax(const scorer *x, const float *logits, float *p) {
  fvg_node *node = fvg_softmax(fvg_const(x->tape, 1, x->n, logits), 1);
  if (node) memcpy(p, fvg_value(node), (size_t)x->n * sizeof *p);
  fvg_tape_clear(x->tape);
  return node ? FVG_OK : fvg_last_status(x->m->ctx);
}

static fvg_status check_numbers(fvg_ctx *c, const char *file, const float *p, int n) {
  for (int i = 0; i < n; i++) {
    if (p[i] >= 0) continue;
    return fvg_fail(c, FVG_E_NUMERIC, "%.300s: its scores are no numbers; is the model damaged?",
                    file);
  }
  return FVG_OK;
}

/* Scores one view, and prints what came of it; row: room for its features, z [2 n] for scores. */
static fvg_status score_view(scorer *x, const char *file, const float *chw, float *row, float *z) {
  float *p = z + x->n;
  float b = 0;
  fvg_status s = fvg_learner_encode_images(x->m, x->l, row, chw, 1);
  if (!s) s = fvg_classifier_logits(x->k, z, &b, row, 1);
  if (!s) s = softmax(x, z, p);
  if (!s) s = check_numbers(x->m->ctx, file, p, x->n);
  if (!s) s = write_scores(&x->writer, file, x->name, p, x->n, b);
  return s;
}

/* A picture could not be read: that has its place among the others' scores. */
static fvg_status note_fault(scorer *x, fvg_status fault, picture_list *pictures, int i) {
  fvg_ctx *c = x->m->ctx;
  if (!is_its_own(fault)) return fault;
  fvg_status s = write_fault(&x->writer, pictures->file[i], fvg_error(c));
  return s ? s : step_over(c, fault, pictures);
}

/* Scores the good ones of some pictures, and prints each at once. */
static fvg_status score_all(scorer *x, picture_list *pictures, float *chw, float *row, float *z) {
  fvg_ctx *c = x->m->ctx;
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < pictures->n; i++) {
    fvg_image view;
    s = load_view(x->m, pictures, i, &view, chw);
    fvg_image_free(c, &view);
    if (s) s = note_fault(x, s, pictures, i);
    else s = score_view(x, pictures->file[i], chw, row, z);
    if (!s) s = tell_done(c, pictures, "classify", i);
  }
  if (!s || is_its_own(s)) end_scores(&x->writer);
  return s ? s : end_pictures(c, pictures);
}

static fvg_status score_pictures(scorer *x, const classify_options *o, picture_list *pictures) {
  fvg_ctx *c = x->m->ctx;
  const size_t size = (size_t)x->m->vision.image_size;
  float *chw = FVG_NEW_ARRAY(c, float, 3 * size * size);
  float *row = FVG_NEW_ARRAY(c, float, (size_t)fvg_learner_feature_width(x->m, x->l));
  float *z = FVG_NEW_ARRAY(c, float, 2 * (size_t)x->n);
  x->tape = fvg_tape_new(c);
  fvg_status s = chw && row && z && x->tape ? FVG_OK : FVG_E_NOMEM;
  if (!s) s = begin_scores(&x->writer, c, &o->format, o->top, x->n);
  if (!s) s = score_all(x, pictures, chw, row, z);
  score_writer_free(&x->writer);
  fvg_tape_free(x->tape);
  fvg_release(c, z);
  fvg_release(c, row);
  fvg_release(c, chw);
  return s;
}

/* Opens the checkpoint, if there is one, and classifies by the names given or by those tuned on. */
static fvg_status classify(fvg_clip *m, const classify_options *o, picture_list *pictures) {
  fvg_ctx *c = m->ctx;
  name_list given;
  memset(&given, 0, sizeof given);
  tuned_model tuned;
  memset(&tuned, 0, sizeof tuned);
  fvg_group half = FVG_BASE;
  scorer x;
  memset(&x, 0, sizeof x);
  x.m = m;

  fvg_status s = names_of(c, o, &given);
  x.name = given.name;
  x.n = given.n;
  if (!s && o->checkpoint) {
    s = open_checkpoint(m, &o->learner, o->checkpoint, o->exif_rotate, NULL, x.name, x.n, &tuned);
    if (!s && !given.n) x.name = tuned_names(&tuned, &x.n);
  }
  if (!s) s = choose_half(m, &o->learner, o->checkpoint, &tuned, x.name, x.n, &half);

  x.l = tuned.l;
  if (!s)
    s = tuned_classifier(m, &x.k, &tuned, half, o->learner.prompt_template, x.name, x.n,
                         &usual_contrast);
  if (!s) s = score_pictures(&x, o, pictures);
  fvg_classifier_free(x.k);
  tuned_model_free(m, &tuned);
  name_list_free(c, &given);
  return s;
}

static fvg_status check_options(fvg_ctx *c, const classify_options *o) {
  if (o->classes && o->classes_file)
    return fvg_fail(c, FVG_E_ARG, "--classes and --classes-file: give one of them");
  if (!names_pictures(&o->pictures))
    return fvg_fail(c, FVG_E_ARG, "classify needs pictures: files, folders or --files-from LIST");
  if (o->classes || o->classes_file) return check_format(c, &o->format);
  if (!o->checkpoint) {
    return fvg_fail(c, FVG_E_ARG,
                    "classify needs names: --classes A,B,C or --classes-file F, or a --checkpoint "
                    "that tune made");
  }
  if (!o->learner.trainer) return check_format(c, &o->format);
  return fvg_fail(c, FVG_E_ARG,
                  "classify needs --classes or --classes-file with --trainer: a published file "
                  "does not tell its classes");
}

static fvg_status run(fvg_ctx *c, const void *options) {
  const classify_options *o = (const classify_options *)options;
  fvg_status s = check_options(c, o);
  if (s) return s;
  picture_list pictures;
  fvg_clip *m = NULL;
  s = gather_pictures(c, &o->pictures, o->exif_rotate, &pictures);
  if (!s) s = open_image_model(c, &o->common, &m);
  if (!s) s = classify(m, o, &pictures);
  pictures_free(c, &pictures);
  fvg_clip_free(m);
  return s;
}

const fvgpt_command classify_command = {"classify", sizeof(classify_options), declare, run};
