/* Stages of training; see fvgpt_tune_stages.h. */
#include "fvgpt_tune_stages.h"

#include <stdio.h>
#include <string.h>

#include "fvgpt_print.h"
#include "fvgpt_tune_marks.h"

/* ---- folders ---- */
/* A row's folder in that of the entry: NAME/seedN (run_folder); of a learner of half the classes
   NAME.halfI/seedN, and of a candidate of --choose there NAME=VALUE,... */
enum { ROW_FOLDER_BYTES = 96 + 8 + RUN_BYTES + VARIATIONS_BYTES };
static void row_folder(const tuning *t, const table_row *r, const char *half, int run,
                       char folder[ROW_FOLDER_BYTES]) {
  char of_run[RUN_BYTES];
  run_folder(t, run, of_run);
  char own[VARIATIONS_BYTES] = "";
  if (r->is_candidate) print_variations(&r->own, own);
  snprintf(folder, ROW_FOLDER_BYTES, "%s%s/%s%s%s", r->name, half, of_run, *own ? "/" : "", own);
}

fvg_status prepare_folder(const tuning *t, const char *folder, char *path, size_t size) {
  char whole[1100 + ROW_FOLDER_BYTES];
  snprintf(whole, sizeof whole, "%s/%s", t->out, folder);
  fvg_status s = make_folders(t->m->ctx, whole);
  if (!s) remove_temporaries(whole);
  checkpoint_in(whole, path, size);
  return s;
}

/* ---- views ---- */
/* Stages in which pictures are cropped differently. */
typedef enum view_stage { STAGE_1 = 1, STAGE_2, STAGE_HALF_1, STAGE_HALF_2, STAGE_DPC } view_stage;

/* Gives back the views that stages have asked for since there were n of them. */
static void return_views(tuning *t, int n) {
  while (t->n_stage_views > n) {
    t->n_stage_views--;
    fvg_views_free(t->stage_views[t->n_stage_views]);
    t->stage_views[t->n_stage_views] = NULL;
  }
}

void free_backbone_views(tuning *t) {
  fvg_views_free(t->backbone_views);
  t->backbone_views = NULL;
}

void free_entry_views(tuning *t) {
  fvg_views_free(t->plain_views);
  fvg_views_free(t->inverted_views);
  fvg_views_free(t->head_views);
  t->head_views = NULL;
  t->plain_views = NULL;
  t->inverted_views = NULL;
}

/* Views of plain CLIP for a method's training, and for stage 2 on backbones that leave the image
   tower alone; else of the learner.  New crops in every epoch come from the run's seed; everything
   else is the same for all seeds, and kept where another stage will want it.  The tuning owns all
   views: those of this stage alone go back with return_views.  invert: the masks are inverted. */
static fvg_status views_for(tuning *t, int seed, view_stage stage, int invert, fvg_learner *l,
                            fvg_views **out) {
  const int trains = stage == STAGE_1 || stage == STAGE_DPC;
  const int is_plain = trains || fvg_learner_feature_width(t->m, l) == t->m->embed_dim;
  const fvg_method *method = fvg_method_find(fvg_learner_method(l));
  fvg_views_desc desc = t->augment;
  desc.crop_scale_min = fvg_method_crop_scale(method);
  desc.no_foreground = trains && !(fvg_learner_needs(l) & FVG_NEEDS_FOREGROUND);
  desc.invert_masks = invert;
  if (!is_plain) desc.learner = l;

  const int fixed = desc.augment == FVG_AUGMENT_FIXED_CROPS;
  const int has_own_crops = fixed && desc.crop_scale_min > 0.1f;
  fvg_views **place = &t->stage_views[t->n_stage_views];
  if (desc.augment == FVG_AUGMENT_CROP) {
    desc.seed = (uint64_t)seed + 1000000u * (uint64_t)stage;
  } else if (is_plain && !has_own_crops) {
    place = invert ? &t->inverted_views : &t->plain_views;
    desc.no_foreground = !any_needs_foregrounds(t);
  } else if (!is_plain && stage == STAGE_2 && !invert) {
    place = &t->backbone_views;
  }

  fvg_status s = *place ? FVG_OK : fvg_views_new(t->m, place, t->d, &desc);
  if (!s && place == &t->stage_views[t->n_stage_views]) t->n_stage_views++;
  *out = *place;
  return s;
}

/* ---- a stage at work ---- */
/* Its checkpoint, its state while it lasts, that of the cross-fitted gate, and what determines
   it. */
typedef struct stage {
  description about;
  char path[1600], state[1620], gate_state[1620], mark[MARK_BYTES];
  fvg_train_desc desc;
  int n_views;                       /* tuning.n_stage_views when it began                       */
} stage;

static void remove_states(const stage *g) {
  remove(g->state);
  remove(g->gate_state);
}

/* Loads a finished checkpoint made with the same settings, and its curve; nothing if there is none.
   Other settings are an error. */
static fvg_status reuse(tuning *t, const stage *g, const fvg_learner *like, fvg_learner **l,
                        fvg_fvgpt **f, char **curve) {
  if (!fvg_file_exists(g->path)) return FVG_OK;
  fvg_ctx *c = t->m->ctx;
  fvg_weights *w;
  fvg_status s = fvg_checkpoint_load(t->m, l, f, &w, g->path);
  if (s) return s;

  s = check_settings(t, g->path, w, &g->about.settings, *l, like);
  const char *losses = fvg_weights_metadata(w, "epoch_loss");
  if (!s && losses) {
    *curve = fvg_copy_string(c, losses);
    if (!*curve) s = FVG_E_NOMEM;
  }
  fvg_weights_close(w);
  if (s) {
    fvg_learner_free(*l);
    fvg_fvgpt_free(*f);
    *l = NULL;
    *f = NULL;
  }
  return s;
}

/* The stage's finished result in *l and *f, or both NULL and g ready to train.  half: behind the
   name of its folder; like: the learner that the result should be. */
static fvg_status stage_begin(tuning *t, stage *g, const table_row *r, const char *half,
                              const seed_run *run, fvg_learner *like, fvg_learner **l,
                              fvg_fvgpt **f, char **curve) {
  *l = NULL;
  *f = NULL;
  g->n_views = t->n_stage_views;
  g->desc = train_desc_of(t, r, run->seed);
  char folder[ROW_FOLDER_BYTES];
  row_folder(t, r, half, run->number, folder);
  fvg_status s = prepare_folder(t, folder, g->path, sizeof g->path);
  snprintf(g->state, sizeof g->state, "%s.part", g->path);
  snprintf(g->gate_state, sizeof g->gate_state, "%s.gate.part", g->path);

  describe(t, r, run->number, run->task, &g->about);
  mark_of(&g->about.settings, like, r, g->mark);
  if (!s) s = reuse(t, g, like, l, f, curve);
  if (s) return s;
  if (*l) {
    /* The run may have ended between the checkpoint and the removal of its states. */
    remove_states(g);
    char name[RUN_BYTES];
    name_run(t, run->number, name);
    fvg_log(t->m->ctx, 1, "%s %s: reusing %s", r->name, name, g->path);
    return FVG_OK;
  }

  const size_t n_epoch = (size_t)g->desc.optimizer.epochs;
  g->desc.state = g->state;
  g->desc.state_mark = g->mark;
  g->desc.epoch_loss = FVG_NEW_ARRAY(t->m->ctx, double, n_epoch);
  return g->desc.epoch_loss ? FVG_OK : FVG_E_NOMEM;
}

/* Makes the losses of the stage that has just trained its curve and, behind the settings that
   count, metadata. */
static fvg_status keep_curve(tuning *t, stage *g, char **curve) {
  document d = new_document(t->m->ctx);
  for (int i = 0; i < g->desc.optimizer.epochs; i++)
    put(&d, i ? " %.6g" : "%.6g", g->desc.epoch_loss[i]);
  *curve = d.text;
  if (!d.status) fvg_settings_set(&g->about.settings, "epoch_loss", *curve);
  return d.status;
}

/* Saves what was trained, s being how training went, and gives back the stage's views. */
static fvg_status stage_end(tuning *t, stage *g, fvg_status s, fvg_learner *l, fvg_fvgpt *f,
                            char **curve) {
  return_views(t, g->n_views);
  if (!s) s = keep_curve(t, g, curve);

  /* The preset is told and not compared, because only its numbers count. */
  fvg_settings_set(&g->about.settings, "preset", preset_name[t->o->learner.preset]);
  if (!s) s = check_claim(t->c);
  if (!s) s = fvg_checkpoint_save(l, f, g->path, g->about.settings.entry, g->about.settings.n);
  if (!s) remove_states(g);
  fvg_release(t->m->ctx, g->desc.epoch_loss);
  return s;
}

/* ---- stage 1 ---- */
static fvg_status learner_for(tuning *t, const table_row *r, const fvg_task *task, int seed,
                              fvg_learner **l) {
  fvg_option option[MAX_OPTIONS];
  fvg_learner_desc desc;
  fvg_status s = learner_desc(t->m->ctx, &t->o->learner, r->method, t->d->card, t->at->shots,
                              option, &desc);
  vary_learner(r->method, &r->own, option, &desc);
  desc.seed = (uint64_t)seed;
  return s ? s : fvg_learner_new(t->m, l, task->class_name, task->n_class, &desc);
}

/* A method on a run's task. */
static fvg_status stage_1(tuning *t, const table_row *r, const char *half, const seed_run *run,
                          fvg_learner **l, char **curve) {
  stage g;
  fvg_learner *done = NULL;
  fvg_fvgpt *none = NULL;
  fvg_status s = learner_for(t, r, run->task, run->seed, l);
  if (!s) s = stage_begin(t, &g, r, half, run, *l, &done, &none, curve);
  fvg_fvgpt_free(none);
  if (s) return s;
  if (done) {
    fvg_learner_free(*l);
    *l = done;
    return FVG_OK;
  }

  fvg_views *views;
  s = views_for(t, run->seed, STAGE_1, 0, *l, &views);
  const fvg_foreground_desc own_masks = foreground_desc(&t->o->foreground);
  if (r->renews_masks) g.desc.own_masks = &own_masks;
  if (!s) s = fvg_learner_train(*l, views, run->task, &g.desc);
  return stage_end(t, &g, s, *l, NULL, curve);
}

fvg_status train_method(tuning *t, const table_row *r, const seed_run *run, fvg_learner **l,
                        char **curve) {
  return stage_1(t, r, "", run, l, curve);
}

/* ---- before a run ---- */
static void leave_out(fvg_settings *x, const char *key) {
  int kept = 0;
  for (int i = 0; i < x->n; i++) {
    if (strcmp(x->entry[i].key, key)) x->entry[kept++] = x->entry[i];
  }
  x->n = kept;
}

static fvg_status check_state(const tuning *t, const char *path, const char *mark) {
  fvg_ctx *c = t->m->ctx;
  fvg_source source;
  fvg_weights *w = NULL;
  fvg_status s = fvg_source_file(c, &source, path);
  if (!s) s = fvg_weights_open(c, &w, &source);
  const char *theirs = s ? NULL : fvg_weights_metadata(w, "mark");
  if (theirs && strcmp(theirs, mark)) {
    s = fvg_fail(c, FVG_E_ARG,
                 "%s: a run with other settings was begun there; remove it to begin anew", path);
  }
  fvg_weights_close(w);
  return s;
}

static fvg_status check_checkpoint(const tuning *t, const char *path, const fvg_settings *x,
                                   const fvg_learner *want) {
  fvg_learner *have = NULL;
  fvg_fvgpt *f = NULL;
  fvg_weights *w = NULL;
  mute_log(1);
  fvg_status s = fvg_checkpoint_load(t->m, &have, &f, &w, path);
  mute_log(0);
  if (!s) s = check_settings(t, path, w, x, have, want);
  fvg_weights_close(w);
  fvg_fvgpt_free(f);
  fvg_learner_free(have);
  return s;
}

/* Masks that CLIP is still to make have no mark yet, so they are compared later, and so is a state,
   whose mark has theirs in it. */
fvg_status check_stage(tuning *t, const table_row *r, const seed_run *run) {
  char folder[ROW_FOLDER_BYTES], whole[1100 + ROW_FOLDER_BYTES], path[1600], state[1620];
  char mark[MARK_BYTES];
  row_folder(t, r, "", run->number, folder);
  snprintf(whole, sizeof whole, "%s/%s", t->out, folder);
  checkpoint_in(whole, path, sizeof path);
  snprintf(state, sizeof state, "%s.part", path);
  const int is_finished = fvg_file_exists(path);
  if (!is_finished && !fvg_file_exists(state)) return FVG_OK;

  description about;
  fvg_learner *want = NULL;
  const int lacks_masks = needs_masks(t, r) && t->own_masks[t->at->set];
  const table_row *method = r->backbone >= 0 ? &t->row[r->backbone] : r;
  mute_log(1);
  fvg_status s = learner_for(t, method, run->task, run->seed, &want);
  mute_log(0);
  if (!s) {
    describe(t, r, run->number, run->task, &about);
    if (lacks_masks) leave_out(&about.settings, "masks");
    mark_of(&about.settings, want, r, mark);
    if (is_finished) s = check_checkpoint(t, path, &about.settings, want);
    else if (!lacks_masks) s = check_state(t, state, mark);
  }
  fvg_learner_free(want);
  return s;
}

/* ---- cross-fitted gates ---- */
/* Every other class of the base classes: the method is tuned on them, and its views are of the
   classes between. */
typedef struct half_run {
  fvg_task task;
  const char **name;                 /* task.class_name                                          */
  fvg_learner *l;
  fvg_views *views;
} half_run;

static void half_free(fvg_ctx *c, half_run *x) {
  fvg_learner_free(x->l);
  fvg_items_free(c, &x->task.items);
  fvg_release(c, (void *)x->name);
}

/* Takes the classes first, first + 2, ... of a task, their labels counted anew. */
static fvg_status half_new(fvg_ctx *c, half_run *x, const fvg_task *task, int first) {
  fvg_items *items = &x->task.items;
  x->name = FVG_NEW_ARRAY(c, const char *, (size_t)task->n_class);
  items->item = FVG_NEW_ARRAY(c, fvg_item, (size_t)task->items.n);
  if (!x->name || !items->item) return FVG_E_NOMEM;
  x->task.dataset = task->dataset;
  x->task.class_name = x->name;
  for (int i = first; i < task->n_class; i += 2) {
    x->name[x->task.n_class] = task->class_name[i];
    x->task.n_class++;
  }

  for (int i = 0; i < task->items.n; i++) {
    const fvg_item *item = &task->items.item[i];
    if (item->label % 2 != first) continue;
    items->item[items->n] = *item;
    items->item[items->n].label /= 2;
    items->n++;
  }
  return FVG_OK;
}

/* Tunes the backbone on half i of the classes, with the settings that --choose has found for all of
   them. */
static fvg_status tune_half(tuning *t, int row, const seed_run *run, int i, half_run *x) {
  table_row backbone = t->row[row];
  const variations *found = &t->chosen[row][run->number].what;
  if (found->n) {
    backbone.own = *found;
    backbone.is_candidate = 1;
  }

  char *curve = NULL;
  const seed_run of_half = {run->number, run->seed, &x->task};
  fvg_status s = half_new(t->m->ctx, x, run->task, i);
  if (!s) s = stage_1(t, &backbone, i ? ".half2" : ".half1", &of_half, &x->l, &curve);
  fvg_release(t->m->ctx, curve);
  if (!s) s = views_for(t, run->seed, i ? STAGE_HALF_2 : STAGE_HALF_1, 0, x->l, &x->views);
  return s;
}

/* Is the cross-fitted gate to be taken?  Guarded, it is taken only if plain CLIP scores the unseen
   classes better than the halves' learners, by more than chance explains. */
static fvg_status is_warranted(tuning *t, const table_row *r, int seed,
                               const fvg_calibration_source source[2], int *answer) {
  /* Chance alone gives such evidence one time in a hundred (fvg_calibration_evidence). */
  const double guard = 2.33;
  *answer = 1;
  if (t->o->calibration != GUARDED) return FVG_OK;
  double evidence;
  fvg_status s = fvg_calibration_evidence(&evidence, source, 2, t->o->learner.prompt_template);
  if (s) return s;
  *answer = evidence > guard;
  fvg_log(t->m->ctx, 0,
          "%s seed %d: on unseen classes CLIP is better by %.2f deviations; the %s gate is taken",
          r->name, seed, evidence, *answer ? "cross-fitted" : "published");
  return FVG_OK;
}

/* Finds the backbone gate of f once more, on classes that its prompts have not seen: the method is
   tuned on each half of the classes, and the gate learns from the other half. */
static fvg_status calibrate(tuning *t, const table_row *r, const seed_run *run, fvg_fvgpt *f,
                            const stage *g) {
  const int n_views = t->n_stage_views;
  half_run half[2];
  memset(half, 0, sizeof half);
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < 2; i++) s = tune_half(t, r->backbone, run, i, &half[i]);

  fvg_calibration_source source[2];
  for (int i = 0; i < 2; i++) {
    source[i].learner = half[i].l;
    source[i].views = half[i].views;
    source[i].task = &half[1 - i].task;
  }
  int warranted = 0;
  if (!s) s = is_warranted(t, r, run->seed, source, &warranted);
  if (!s && warranted) {
    fvg_train_desc desc = train_desc_of(t, r, run->seed);
    desc.state = g->gate_state;
    desc.state_mark = g->mark;
    desc.prompt_template = t->o->learner.prompt_template;
    s = fvg_fvgpt_calibrate(f, source, 2, &desc);
  }
  return_views(t, n_views);
  for (int i = 0; i < 2; i++) half_free(t->m->ctx, &half[i]);
  return s;
}

/* ---- stage 2 ---- */
/* A whole number of the row's own, or 0 for the default. */
static int own_whole(const table_row *r, const char *name) {
  const double *own = varied(&r->own, name);
  return own ? (int)*own : 0;
}

/* The modules as the options and the row have them.  In the desc 0 stands for the usual weight of a
   loss, and a negative number for none. */
static fvg_status new_modules(const tuning *t, const table_row *r, int seed, fvg_fvgpt **f) {
  const tune_options *o = t->o;
  const double lambda_base = lambda_base_of(o, r);
  fvg_fvgpt_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.width = t->m->embed_dim;
  desc.logit_scale = t->m->logit_scale;
  desc.distill = (fvg_distill)distill_of(r);
  desc.lambda_base = lambda_base > 0 ? (float)lambda_base : -1;
  desc.lambda_new = o->lambda_new > 0 ? (float)o->lambda_new : -1;
  desc.no_frg = r->no_frg;
  desc.no_fdc = r->no_fdc;
  desc.no_pc = r->no_pc;
  desc.normalise_entropy = normalised_of(o, r);
  desc.fdc_hidden = own_whole(r, "fdc_hidden");
  desc.gate_hidden = own_whole(r, "gate_hidden");
  desc.gate_layers = own_whole(r, "gate_layers");
  desc.frg_without = own_whole(r, "frg_without");
  desc.brg_without = own_whole(r, "brg_without");
  desc.seed = (uint64_t)seed;
  return fvg_fvgpt_new(t->m->ctx, f, &desc);
}

fvg_status train_fvgpt(tuning *t, const table_row *r, const seed_run *run, fvg_learner *l,
                       fvg_fvgpt **f, char **curve) {
  stage g;
  fvg_learner *done = NULL;
  fvg_status s = stage_begin(t, &g, r, "", run, l, &done, f, curve);
  fvg_learner_free(done);
  if (s || *f) return s;

  fvg_views *views;
  s = new_modules(t, r, run->seed, f);
  if (!s) s = views_for(t, run->seed, STAGE_2, r->invert_masks, l, &views);
  g.desc.prompt_template = t->o->learner.prompt_template;
  g.desc.guard = guard_of(t->o, r);
  if (!s) s = fvg_fvgpt_train(*f, l, views, run->task, &g.desc);
  if (!s && calibration_of(t->o, r) != PUBLISHED) s = calibrate(t, r, run, *f, &g);
  return stage_end(t, &g, s, l, *f, curve);
}

/* ---- DPC ---- */
fvg_status train_dpc(tuning *t, const table_row *r, const seed_run *run, fvg_learner *tuned,
                     fvg_learner **base, char **curve) {
  stage g;
  fvg_fvgpt *none = NULL;
  fvg_status s = stage_begin(t, &g, r, "", run, tuned, base, &none, curve);
  fvg_fvgpt_free(none);
  if (s || *base) return s;

  fvg_dpc_desc dpc;
  memset(&dpc, 0, sizeof dpc);
  dpc.weight = (float)t->o->dpc_weight;
  dpc.top_k = t->o->dpc_top_k;
  fvg_views *views;
  s = fvg_learner_copy(base, tuned);
  if (!s) s = views_for(t, run->seed, STAGE_DPC, 0, tuned, &views);
  if (!s) s = fvg_dpc_train(*base, tuned, views, run->task, &dpc, &g.desc);
  return stage_end(t, &g, s, *base, NULL, curve);
}

fvg_status save_dpc_for_new(tuning *t, const table_row *r, const seed_run *run, fvg_learner *tuned,
                            fvg_learner *base, fvg_learner **for_new) {
  const float from = (float)t->o->dpc_weight;
  const float to = (float)t->o->dpc_weight_for_new;
  fvg_status s = fvg_learner_copy(for_new, base);
  if (!s) s = fvg_dpc_reweigh(*for_new, tuned, from, to);
  if (s) return s;

  description about;
  char folder[ROW_FOLDER_BYTES], path[1600], of_run[RUN_BYTES];
  run_folder(t, run->number, of_run);
  snprintf(folder, sizeof folder, "%s/%s/new", r->name, of_run);
  s = prepare_folder(t, folder, path, sizeof path);
  describe(t, r, run->number, run->task, &about);
  fvg_settings_set_number(&about.settings, "dpc_weight_for_new", t->o->dpc_weight_for_new);
  if (!s) s = check_claim(t->c);
  return s ? s
           : fvg_checkpoint_save(*for_new, NULL, path, about.settings.entry, about.settings.n);
}
