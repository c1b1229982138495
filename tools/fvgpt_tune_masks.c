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
    if (!s) s = fvg_dataset_load(d, &picture, NULL, item, 0);
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
    print(stdout, "masks       %s: made by CLIP itself, %d now, %d were there, in %s\n",
          t->set[set].root, n_made, all->n - n_made, folder);
  }
  return s;
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
    if (!s) s = mask_items(t, set, x, &all, folder);
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
