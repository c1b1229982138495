/* Shorthand that several tests share: the library's descs and batches from a list of arguments.  To be included behind
   fvgpt.h or fvgpt_clip.h; what needs the second is there only with it. */
#ifndef SHORTHAND_H
#define SHORTHAND_H

/* What the base branch and the new branch say of n pictures among n_class classes. */
static inline fvg_status base_logits(fvg_fvgpt *m, const float *f, int n, const float *g, int n_class, float *logits) {
  fvg_fvgpt_batch x;
  memset(&x, 0, sizeof x);
  x.n = n;
  x.n_class = n_class;
  x.f = f;
  x.g = g;
  return fvg_fvgpt_score_base(m, logits, &x);
}

static inline fvg_status new_logits(fvg_fvgpt *m, const float *f, const float *f_clip, int n, const float *g,
                             const float *g_clip, int n_class, float *logits, float *b) {
  fvg_fvgpt_batch x;
  memset(&x, 0, sizeof x);
  x.n = n;
  x.n_class = n_class;
  x.f = f;
  x.f_clip = f_clip;
  x.g = g;
  x.g_clip = g_clip;
  return fvg_fvgpt_score_new(m, logits, b, &x);
}

#ifdef FVGPT_CLIP_H
/* A task of these pictures; it holds until eight more are made. */
static inline const fvg_task *task_of(const fvg_dataset *d, const fvg_items *in) {
  static fvg_task task[8];
  static int at;
  fvg_task *x = &task[at++ % 8];
  memset(x, 0, sizeof *x);
  x->dataset = d;
  x->items = *in;
  return x;
}

/* The same settings with another template for plain CLIP's class names. */
static inline const fvg_train_desc *with_template(const fvg_train_desc *desc, const char *prompt_template) {
  static fvg_train_desc x;
  x = *desc;
  x.prompt_template = prompt_template;
  return &x;
}

/* A classifier of these names; learner, modules and template may be NULL. */
static inline fvg_status new_classifier(fvg_clip *m, fvg_classifier **out, fvg_branch branch, fvg_learner *l, fvg_fvgpt *f,
                                 const char *prompt_template, const char *const *name, int n) {
  fvg_classifier_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.branch = branch;
  desc.learner = l;
  desc.fvgpt = f;
  desc.prompt_template = prompt_template;
  return fvg_classifier_new(m, out, name, n, &desc);
}
#endif
#endif
