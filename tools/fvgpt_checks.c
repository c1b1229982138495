/* What most commands begin with; see fvgpt_checks.h. */
#include "fvgpt_checks.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fvgpt_system.h"

/* Opens the model, with weights of eight bits as q8. */
static fvg_status open_kept_as(fvg_ctx *c, const common_options *o, fvg_dtype q8, fvg_clip **m) {
  *m = NULL;
  if (!o->model) return fvg_fail(c, FVG_E_ARG, "%s needs --model DIR", o->command);
  const char *weights = o->weights ? o->weights : "f32";
  const fvg_dtype kind = weights[0] == 'q' ? q8 : weights[0] == 'b' ? FVG_BF16 : FVG_F32;
  fvg_status s = fvg_clip_open(c, m, o->model, o->merges, kind);
  if (s || !o->weights || kind == q8 || (*m)->kept_as == kind) return s;

  fvg_clip_free(*m);
  *m = NULL;
  return fvg_fail(c, FVG_E_ARG, "--weights %s: %s holds eight-bit weights", weights, o->model);
}

fvg_status open_model(fvg_ctx *c, const common_options *o, fvg_clip **m) {
  return open_kept_as(c, o, FVG_Q8, m);
}

fvg_status open_tuned_model(fvg_ctx *c, const common_options *o, fvg_clip **m) {
  return open_kept_as(c, o, FVG_Q8_IMAGES, m);
}

fvg_status open_image_model(fvg_ctx *c, const common_options *o, fvg_clip **m) {
  fvg_status s = open_model(c, o, m);
  if (s || (*m)->has_vision) return s;
  return fvg_fail(c, FVG_E_ARG, "%s: this model has no image tower", o->model);
}

fvg_status found(fvg_ctx *c, findings *f, fvg_status s) {
  if (!s || s == FVG_E_NOMEM || s == FVG_E_CANCELLED) return s;
  if (f->status) fvg_log(c, 0, "%s", f->message);
  snprintf(f->message, sizeof f->message, "%s", fvg_error(c));
  f->status = s;
  return FVG_OK;
}

fvg_status end_findings(fvg_ctx *c, const findings *f) {
  return f->status ? fvg_fail(c, f->status, "%s", f->message) : FVG_OK;
}

fvg_status check_out_folder(fvg_ctx *c, const char *path) {
  char part[1300];
  snprintf(part, sizeof part, "%s", path);
  size_t n = strlen(part);
  while (n && is_absent(part)) {
    while (n && !is_slash(part[n - 1])) n--;
    while (n > 1 && is_slash(part[n - 1])) n--;
    part[n] = 0;
  }
  if (!n) snprintf(part, sizeof part, ".");

  if (!is_folder(part))
    return fvg_fail(c, FVG_E_IO, "%s: cannot make this folder: %s is a file", path, part);
  if (!can_write(part))
    return fvg_fail(c, FVG_E_IO, "%s: cannot write here: %s", part, strerror(errno));
  return FVG_OK;
}

/* An empty file has nothing to lose, and what is no plain file cannot be replaced. */
fvg_status check_out_file(fvg_ctx *c, const char *path, is_ours_fn is_ours, const char *what) {
  fvg_source source;
  fvg_weights *w = NULL;
  if (!fvg_file_exists(path) || fvg_source_file(c, &source, path)) return FVG_OK;
  const int is_empty = !source.size;
  fvg_status s = fvg_weights_open(c, &w, &source);
  if (s == FVG_E_NOMEM) return s;
  const int may_go = is_empty || (!s && is_ours(w));
  fvg_weights_close(w);
  if (may_go) return FVG_OK;
  return fvg_fail(c, FVG_E_ARG, "--out %s: is there and holds no %s; choose another one", path,
                  what);
}

const contrast_options usual_contrast = {AGAINST_BACKGROUND, {NULL, 0}};

fvg_status classifier_of(fvg_clip *m, fvg_classifier **out, fvg_branch branch, fvg_learner *l,
                         fvg_fvgpt *f, const char *prompt_template, const char *const *name,
                         int n) {
  return map_classifier(m, out, branch, l, f, prompt_template, name, n, &usual_contrast);
}

void add_contrast_options(option_table *t, contrast_options *o) {
  add_word(t, "--against", &o->against, "background classes");
  add_list(t, "--background", &o->background);
}

fvg_status map_classifier(fvg_clip *m, fvg_classifier **out, fvg_branch branch, fvg_learner *l,
                          fvg_fvgpt *f, const char *prompt_template, const char *const *name,
                          int n, const contrast_options *contrast) {
  const int by_classes = contrast->against == AGAINST_CLASSES;
  if (by_classes && contrast->background.n)
    return fvg_fail(m->ctx, FVG_E_ARG, "--background: --against classes looks at no words");
  fvg_classifier_desc desc;
  memset(&desc, 0, sizeof desc);
  if (contrast->background.n) desc.background = contrast->background.item;
  desc.n_background = by_classes ? -1 : contrast->background.n;
  desc.branch = branch;
  desc.learner = l;
  desc.fvgpt = f;
  desc.prompt_template = prompt_template;
  return fvg_classifier_new(m, out, name, n, &desc);
}
