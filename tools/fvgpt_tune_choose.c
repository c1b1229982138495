/* Choosing settings on val; see fvgpt_tune_choose.h. */
#include "fvgpt_tune_choose.h"

#include <stdio.h>
#include <string.h>

#include "fvgpt_print.h"
#include "fvgpt_tune_marks.h"

/* What a stage makes. */
typedef struct trained {
  fvg_learner *l;                    /* of a method or of DPC; NULL for FVG-PT                   */
  fvg_fvgpt *f;                      /* FVG-PT; else NULL                                        */
  char *curve;
} trained;

static void trained_free(fvg_ctx *c, trained *x) {
  fvg_learner_free(x->l);
  fvg_fvgpt_free(x->f);
  fvg_release(c, x->curve);
  memset(x, 0, sizeof *x);
}

/* Trains a row once; tuned: the learner below it, NULL for a method. */
static fvg_status train(tuning *t, const table_row *r, const seed_run *run, fvg_learner *tuned,
                        trained *x) {
  if (r->backbone < 0) return train_method(t, r, run, &x->l, &x->curve);
  if (r->dpc) return train_dpc(t, r, run, tuned, &x->l, &x->curve);
  return train_fvgpt(t, r, run, tuned, &x->f, &x->curve);
}

/* ---- val ---- */
fvg_status make_val(tuning *t, const seed_run *run) {
  if (t->val.task.dataset) return FVG_OK;
  fvg_task_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.split = FVG_VAL;
  desc.group = t->train_half;
  desc.shots = t->at->shots;
  desc.seed = (uint64_t)run->seed;
  fvg_task task;
  fvg_status s = fvg_task_draw(&task, t->d, &desc);
  if (!s && !task.items.n) {
    fvg_task_free(&task);
    s = fvg_fail(t->m->ctx, FVG_E_ARG,
                 "%s: settings are chosen on val pictures, and none of them is of these classes",
                 t->d->root);
  }
  return s ? s : test_of_task(t->c, &t->val, &task);
}

static fvg_status judge(tuning *t, fvg_learner *tuned, const trained *x, fvg_score *score) {
  fvg_learner *l = x->l ? x->l : tuned;
  const fvg_branch branch = x->f ? FVG_BRANCH_BASE : FVG_TUNED;
  float *f = NULL;
  fvg_status s = features_of(t->m, l, &t->val, &f);
  if (!s) s = score_set(t->m, &t->val, f, branch, l, x->f, t->o->learner.prompt_template, score);
  if (f != t->val.f) fvg_release(t->m->ctx, f);
  return s;
}

/* More pictures right, or as many with a smaller cross-entropy; of equal ones the first stays. */
static int is_better(const fvg_score *a, const fvg_score *b) {
  if (a->n_correct != b->n_correct) return a->n_correct > b->n_correct;
  return a->cross_entropy < b->cross_entropy;
}

/* ---- the candidates ---- */
/* All choices that are settings of the row, as they were given, with blanks between them. */
static void print_choices(const tuning *t, unsigned wanted, char *text, size_t size) {
  size_t at = 0;
  text[0] = 0;
  for (int i = 0; i < t->o->choose.n; i++) {
    if (!(wanted >> i & 1) || at >= size) continue;
    at += (size_t)snprintf(text + at, size - at, "%s%s", at ? " " : "", t->o->choose.text[i]);
  }
}

/* What lies in the row's folder must be of the same choice: nothing is lost in silence. */
static fvg_status check_earlier(tuning *t, const char *path, const char *choices) {
  fvg_ctx *c = t->m->ctx;
  if (!fvg_file_exists(path)) return FVG_OK;
  fvg_source source;
  fvg_weights *w = NULL;
  fvg_status s = fvg_source_file(c, &source, path);
  if (!s) s = fvg_weights_open(c, &w, &source);
  const char *before = s ? NULL : fvg_weights_metadata(w, "choose");
  if (!s && (!before || strcmp(before, choices))) {
    s = fvg_fail(c, FVG_E_ARG, "%s was tuned %s%.100s; choose another --out or remove it", path,
                 before ? "with --choose " : "without --choose", before ? before : "");
  }
  fvg_weights_close(w);
  return s;
}

/* Saves the best candidate as the row's own checkpoint. */
static fvg_status save_best(tuning *t, const table_row *best, const seed_run *run,
                            fvg_learner *tuned, const trained *x, const char *choices,
                            const fvg_score *score, const char *path) {
  description about;
  fvg_settings *settings = &about.settings;
  describe(t, best, run->number, run->task, &about);
  fvg_settings_set(settings, "choose", choices);
  fvg_settings_set_number(settings, "val_accuracy", score->accuracy);
  fvg_settings_set_number(settings, "val_cross_entropy", score->cross_entropy);
  if (x->curve) fvg_settings_set(settings, "epoch_loss", x->curve);
  fvg_status s = check_claim(t->c);
  if (s) return s;
  return fvg_checkpoint_save(x->l ? x->l : tuned, x->f, path, settings->entry, settings->n);
}

static void tell_best(const table_row *r, const seed_run *run, const chosen *x) {
  char text[VARIATIONS_BYTES];
  print_variations(&x->what, text);
  print(stdout, "%-11s seed %-3d  chose %s: val %6.2f, cross entropy %.4f\n", r->name, run->seed,
        text, x->val.accuracy, x->val.cross_entropy);
  fflush(stdout);
}

/* Trains every candidate and keeps the best in *best and t->chosen. */
static fvg_status try_all(tuning *t, int row, const seed_run *run, fvg_learner *tuned,
                          unsigned wanted, trained *best) {
  chosen *found = &t->chosen[row][run->number];
  fvg_status s = make_val(t, run);
  for (int i = 0; !s; i++) {
    table_row r = t->row[row];
    r.is_candidate = 1;
    if (!candidate(&t->o->choose, wanted, i, &r.own)) break;

    trained x = {NULL, NULL, NULL};
    fvg_score score;
    s = train(t, &r, run, tuned, &x);
    if (!s) s = judge(t, tuned, &x, &score);
    if (!s && (!found->what.n || is_better(&score, &found->val))) {
      found->what = r.own;
      found->val = score;
      const trained last_best = *best;
      *best = x;
      x = last_best;
    }
    trained_free(t->m->ctx, &x);
  }
  return s;
}

static fvg_status choose(tuning *t, int row, const seed_run *run, fvg_learner *tuned,
                         unsigned wanted, trained *best) {
  char folder[140], path[1600], choices[MAX_VARIATIONS * CHOICE_BYTES];
  table_row r = t->row[row];
  snprintf(folder, sizeof folder, "%s/seed%d", r.name, run->seed);
  print_choices(t, wanted, choices, sizeof choices);
  fvg_status s = prepare_folder(t, folder, path, sizeof path);
  if (!s) s = check_earlier(t, path, choices);
  memset(&t->chosen[row][run->number], 0, sizeof t->chosen[row][run->number]);
  if (!s) s = try_all(t, row, run, tuned, wanted, best);
  if (s) return s;

  const chosen *found = &t->chosen[row][run->number];
  r.own = found->what;
  tell_best(&r, run, found);
  return save_best(t, &r, run, tuned, best, choices, &found->val, path);
}

/* ---- before a run ---- */
/* FVG-PT and DPC on a learner that is still to be chosen cannot be looked at yet, nor can their own
   candidates. */
fvg_status check_earlier_row(tuning *t, int row, const seed_run *run) {
  char path[1600], choices[MAX_VARIATIONS * CHOICE_BYTES];
  table_row r = t->row[row];
  const unsigned wanted = choices_of(t->o, &r);
  if (r.backbone >= 0 && choices_of(t->o, &t->row[r.backbone])) return FVG_OK;
  if (!wanted) return check_stage(t, &r, run);

  snprintf(path, sizeof path, "%s/%s/seed%d/checkpoint.safetensors", t->out, r.name, run->seed);
  print_choices(t, wanted, choices, sizeof choices);
  fvg_status s = check_earlier(t, path, choices);
  for (int i = 0; !s; i++) {
    r = t->row[row];
    r.is_candidate = 1;
    if (!candidate(&t->o->choose, wanted, i, &r.own)) break;
    s = check_stage(t, &r, run);
  }
  return s;
}

/* ---- stages ---- */
static fvg_status stage(tuning *t, int row, const seed_run *run, fvg_learner *tuned, trained *x) {
  const unsigned wanted = choices_of(t->o, &t->row[row]);
  memset(x, 0, sizeof *x);
  fvg_status s = wanted ? choose(t, row, run, tuned, wanted, x)
                        : train(t, &t->row[row], run, tuned, x);
  t->curve[row][run->number] = x->curve;
  return s;
}

fvg_status stage_method(tuning *t, int row, const seed_run *run, fvg_learner **l) {
  trained x;
  fvg_status s = stage(t, row, run, NULL, &x);
  *l = x.l;
  return s;
}

fvg_status stage_fvgpt(tuning *t, int row, const seed_run *run, fvg_learner *l, fvg_fvgpt **f) {
  trained x;
  fvg_status s = stage(t, row, run, l, &x);
  *f = x.f;
  return s;
}

fvg_status stage_dpc(tuning *t, int row, const seed_run *run, fvg_learner *tuned,
                     fvg_learner **base, fvg_learner **for_new) {
  trained x;
  fvg_status s = stage(t, row, run, tuned, &x);
  *base = x.l;
  return s ? s : save_dpc_for_new(t, &t->row[row], run, tuned, *base, for_new);
}
