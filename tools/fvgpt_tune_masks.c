/* Masks that CLIP makes; see fvgpt_tune_masks.h. */
#include "fvgpt_tune_masks.h"

#include <stdio.h>
#include <string.h>

#include "fvgpt_print.h"
#include "fvgpt_tune_check.h"
#include "fvgpt_tune_marks.h"

/* The folder of a set's masks in --out.  Behind the set's name stands a mark of all that they
   depend on, so that no others are taken for them. */
static void name_folder(const tuning *t, int set, const fvg_task *task, char *folder,
                        size_t size) {
  const char *key = "";
  for (int e = 0; e < t->n_entry; e++) {
    if (t->entry[e].set == set) key = *t->entry[e].dataset ? t->entry[e].dataset : t->entry[e].root;
  }
  char name[KEY_BYTES], mark[MARK_BYTES];
  key_of_path(key, name, sizeof name);
  mark_of_masks(t, set, task, mark);
  snprintf(folder, size, "%.900s/masks/%s-%.8s", t->o->out, name, mark);
}

/* The mask of a picture, from its file or, if there is none, made. */
static fvg_status own_mask(tuning *t, int set, fvg_foreground *x, const fvg_item *item,
                           const char *folder, mask_writer *w, int *n_made) {
  fvg_ctx *c = t->m->ctx;
  fvg_dataset *d = &t->set[set];
  char *file = NULL;
  fvg_image picture, mask;
  memset(&picture, 0, sizeof picture);
  memset(&mask, 0, sizeof mask);
  fvg_status s = mask_file(d, folder, item->path, &file);
  const int is_there = !s && fvg_file_exists(file);
  if (is_there) {
    s = fvg_image_load(c, &mask, file, 1);
  } else {
    if (!s) s = load_picture(d, item, t->o->data.skip_bad, &picture);
    if (!s) s = fvg_foreground_mask(x, &mask, NULL, &picture, item->label);
    if (!s) s = save_mask(c, w, &mask, file);
    ++*n_made;
  }
  if (!s) s = fvg_dataset_set_mask(d, item->path, &mask);
  fvg_image_free(c, &mask);
  fvg_image_free(c, &picture);
  fvg_release(c, file);
  return s;
}

static fvg_status mask_items(tuning *t, int set, fvg_foreground *x, const fvg_items *all,
                             const char *folder) {
  fvg_progress progress;
  memset(&progress, 0, sizeof progress);
  progress.what = "masks";
  progress.n_steps = all->n;
  mask_writer w;
  memset(&w, 0, sizeof w);
  int n_made = 0;
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < all->n; i++) {
    s = own_mask(t, set, x, &all->item[i], folder, &w, &n_made);
    progress.step++;
    if (!s) s = fvg_report_progress(t->m->ctx, &progress);
  }
  if (!s) {
    print(stdout, "masks       %s: made by CLIP itself, %d now, %d already there, in %s\n",
          t->set[set].root, n_made, all->n - n_made, folder);
  }
  return s;
}

/* ---- masks that shards share ---- */
static fvg_status count_missing(const tuning *t, int set, const fvg_items *all, const char *folder,
                                int *n) {
  *n = 0;
  for (int i = 0; i < all->n; i++) {
    char *file;
    fvg_status s = mask_file(&t->set[set], folder, all->item[i].path, &file);
    if (s) return s;
    *n += !fvg_file_exists(file);
    fvg_release(t->c, file);
  }
  return FVG_OK;
}

/* Makes the masks that are missing, if no other shard does; *is_ours tells whose they are. */
static fvg_status claim_masks(tuning *t, int set, fvg_foreground *x, const fvg_items *all,
                              const char *folder, int *is_ours, claim_holder *h) {
  fvg_status s = make_folders(t->c, folder);
  if (!s) s = take_claim(t->c, folder, &t->who, is_ours, h);
  if (s || !*is_ours) return s;
  s = mask_items(t, set, x, all, folder);

  /* Whoever took them over makes them, and we wait for him. */
  const int is_lost = s && !stopped_by() && check_claim(t->c);
  release_claim();
  if (is_lost) *is_ours = 0;
  return is_lost ? FVG_OK : s;
}

/* One shard makes the masks, and the others wait for them, since a stage cannot begin without. */
static fvg_status share_masks(tuning *t, int set, fvg_foreground *x, const fvg_items *all,
                              const char *folder) {
  int n_missing, is_ours = 0;
  int is_told = 0;
  fvg_status s = count_missing(t, set, all, folder, &n_missing);
  while (!s && n_missing) {
    claim_holder h;
    s = claim_masks(t, set, x, all, folder, &is_ours, &h);
    if (s || is_ours) return s;
    char holder[HOLDER_BYTES];
    describe_holder(&h, holder);
    if (!is_told) fvg_log(t->c, 1, "%s: waiting for the masks of %s", folder, holder);
    is_told = 1;
    pause_for(0.5);
    if (stopped_by()) return fvg_fail(t->c, FVG_E_CANCELLED, "stopped");
    s = count_missing(t, set, all, folder, &n_missing);
  }
  return s ? s : mask_items(t, set, x, all, folder);
}

/* The classes are those that are trained on; the names of new ones are not looked at. */
static fvg_status mask_set(tuning *t, int set) {
  fvg_ctx *c = t->m->ctx;
  fvg_items all;
  fvg_task task;
  fvg_foreground *x = NULL;
  char folder[1100];
  fvg_status s = draw_all(t, set, &all);
  if (!s) s = draw(t, &t->set[set], 1, t->seed[0], &task);
  if (!s) {
    name_folder(t, set, &task, folder, sizeof folder);
    const fvg_foreground_desc desc = foreground_desc(&t->o->foreground);
    s = fvg_foreground_new(t->m, &x, task.class_name, task.n_class, &desc);
    const int is_shared = t->o->shard.number > 0;
    if (!s && !is_shared) sweep_claims(folder);
    if (!s) s = (is_shared ? share_masks : mask_items)(t, set, x, &all, folder);
    if (!s) s = fvg_dataset_check_masks(&t->set[set], &all);
    fvg_foreground_free(x);
    fvg_task_free(&task);
  }
  fvg_items_free(c, &all);
  return s;
}

/* Entries of one set follow each other; the first one gives it its masks. */
fvg_status make_own_masks(tuning *t) {
  const int set = t->at->set;
  if (!t->own_masks[set] || !any_needs_masks(t)) return FVG_OK;
  t->own_masks[set] = 0;
  return mask_set(t, set);
}
