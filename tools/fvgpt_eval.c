/* fvgpt eval. */
#include "fvgpt_eval.h"

#include <string.h>

#include "fvgpt_cache.h"
#include "fvgpt_checks.h"
#include "fvgpt_learners.h"
#include "fvgpt_scores.h"
#include "fvgpt_sets.h"

typedef struct eval_options {
  common_options common;
  learner_options learner;
  data_options data;
  const char *checkpoint, *half;     /* NULL: not given                                          */
  format_options format;
} eval_options;

static void declare(option_table *t, void *options) {
  eval_options *o = (eval_options *)options;
  add_common(t, &o->common);
  add_cache(t, &o->common);
  add_learner_options(t, &o->learner);
  add_data_options(t, &o->data, MASKS_AS_GIVEN);
  add_text(t, "--checkpoint", &o->checkpoint);
  add_text(t, "--split-half", &o->half);
  add_format_options(t, &o->format);
}

static fvg_status parse_half(fvg_ctx *c, const char *text, fvg_group *half) {
  if (!strcmp(text, "base")) *half = FVG_BASE;
  else if (!strcmp(text, "new")) *half = FVG_NEW;
  else if (!strcmp(text, "all")) *half = FVG_ALL;
  else return fvg_fail(c, FVG_E_ARG, "--split-half %s: base, new or all is expected", text);
  return FVG_OK;
}

static fvg_status open_only_data(fvg_ctx *c, const data_options *o, fvg_dataset *d) {
  const int n = o->data.n;
  const int has_published = o->dataset_root && o->dataset;
  if (!n && !has_published) {
    return fvg_fail(c, FVG_E_ARG,
                    "eval needs --data ROOT, or --dataset-root DATA --dataset NAME");
  }
  if (n > 1) return fvg_fail(c, FVG_E_ARG, "eval takes one --data, there are %d", n);
  return open_data(c, o, n ? o->data.item[0] : NULL, d);
}

/* ---- the result ---- */
static fvg_status print_json(fvg_ctx *c, const char *half, int n_class, const fvg_score *x) {
  document d = new_document(c);
  put(&d, "{\"half\": \"%s\", \"classes\": %d, \"images\": %d, \"correct\": %d, \"accuracy\": ",
      half, n_class, x->n, x->n_correct);
  put_real(&d, x->accuracy);
  put(&d, ", \"error\": ");
  put_real(&d, 100 - x->accuracy);
  put(&d, ", \"macro_f1\": ");
  put_real(&d, x->macro_f1);
  put(&d, "}\n");
  return print_document(&d);
}

static fvg_status print_csv(fvg_ctx *c, const char *half, int n_class, const fvg_score *x) {
  print(stdout, "half,classes,images,correct,accuracy,error,macro_f1\n");
  document d = new_document(c);
  put(&d, "%s,%d,%d,%d,", half, n_class, x->n, x->n_correct);
  put_real(&d, x->accuracy);
  put(&d, ",");
  put_real(&d, 100 - x->accuracy);
  put(&d, ",");
  put_real(&d, x->macro_f1);
  put(&d, "\n");
  return print_document(&d);
}

static fvg_status print_score(fvg_ctx *c, const eval_options *o, int n_class,
                              const fvg_score *x) {
  if (o->format.json) return print_json(c, o->half, n_class, x);
  if (o->format.csv) return print_csv(c, o->half, n_class, x);
  print(stdout,
        "%s classes %d  images %d  correct %d  accuracy %.2f  error %.2f  macro_f1 %.2f\n",
        o->half, n_class, x->n, x->n_correct, x->accuracy, 100 - x->accuracy, x->macro_f1);
  return FVG_OK;
}

/* ---- testing ---- */
/* Tests what --checkpoint holds on a task, and prints how well it does. */
static fvg_status test_checkpoint(fvg_clip *m, const eval_options *o, fvg_group half,
                                  const fvg_task *task) {
  fvg_ctx *c = m->ctx;
  const fvg_dataset_card *card = task->dataset->card;
  const char *const *name = task->class_name;
  tuned_model tuned;
  memset(&tuned, 0, sizeof tuned);
  fvg_status s = open_checkpoint(m, &o->learner, o->checkpoint, o->data.exif_rotate, card, name,
                                 task->n_class, &tuned);
  if (!s) s = choose_half(m, &o->learner, o->checkpoint, &tuned, name, task->n_class, &half);
  const fvg_weights *settings = tuned.head.head ? tuned.head.settings : tuned.settings;
  if (!s && settings && fvg_weights_metadata(settings, "pictures")) {
    fvg_log(c, 0,
            "%s was tuned with --all; of a data set that it was tuned on, the test pictures were "
            "among the training pictures, and this accuracy says nothing",
            o->checkpoint);
  }

  fvg_classifier *k = NULL;
  if (!s)
    s = tuned_classifier(m, &k, &tuned, half, o->learner.prompt_template, name, task->n_class,
                         &usual_contrast);
  fvg_score score;
  if (!s) s = fvg_classifier_test(k, &score, task);
  if (!s) s = print_score(c, o, task->n_class, &score);
  fvg_classifier_free(k);
  tuned_model_free(m, &tuned);
  return s;
}

/* Tests the checkpoint on the test pictures of the half that is asked for. */
static fvg_status run(fvg_ctx *c, const void *options) {
  const eval_options *o = (const eval_options *)options;
  if (!o->checkpoint || !o->half) {
    return fvg_fail(c, FVG_E_ARG, "eval needs --checkpoint PATH and --split-half base|new|all");
  }
  fvg_group half = FVG_ALL;
  fvg_status s = parse_half(c, o->half, &half);
  if (s) return s;

  fvg_clip *m = NULL;
  feature_cache *cache = NULL;
  fvg_dataset d;
  fvg_task task;
  memset(&d, 0, sizeof d);
  memset(&task, 0, sizeof task);
  s = check_format(c, &o->format);
  if (!s) s = open_tuned_model(c, &o->common, &m);
  if (!s) s = open_only_data(c, &o->data, &d);
  if (!s) s = check_class_names(&d);
  if (!s) s = fvg_dataset_check(&d, FVG_CHECK_TEST, o->data.skip_bad);
  if (!s) s = test_task(&d, half, &task);
  if (!s) tell_one_class(c, d.root, task.n_class);
  if (!s) s = open_cache(m, &o->common, &cache);
  if (!s) s = test_checkpoint(m, o, half, &task);
  close_cache(cache);
  fvg_task_free(&task);
  fvg_dataset_free(&d);
  fvg_clip_free(m);
  return s;
}

const fvgpt_command eval_command = {"eval", sizeof(eval_options), declare, run};
