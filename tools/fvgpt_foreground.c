/* Masks that CLIP makes itself; see fvgpt_foreground.h. */
#include "fvgpt_foreground.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvgpt_system.h"

/* ---- options ---- */
void add_foreground_options(option_table *t, foreground_options *o) {
  add_list(t, "--background", &o->background);
  add_text(t, "--background-template", &o->background_template);
  add_flag(t, "--quick", &o->quick);
}

fvg_foreground_desc foreground_desc(const foreground_options *o) {
  fvg_foreground_desc d;
  memset(&d, 0, sizeof d);
  d.n_background = o->background.n;
  if (d.n_background) d.background = o->background.item;
  d.background_template = o->background_template;
  d.quick = o->quick;
  return d;
}

/* ---- files ---- */
/* The path below the folder of a published set, of which the masks' folder is a part. */
static const char *path_in_set(const fvg_dataset *d, const char *path) {
  const char *folder = d->card ? d->card->folder : "";
  const size_t n = strlen(folder);
  return n && !strncmp(path, folder, n) && path[n] == '/' ? path + n + 1 : path;
}

/* The bytes of a path before its ending. */
static size_t stem_of(const char *path) {
  const char *dot = strrchr(path, '.');
  const char *slash = strrchr(path, '/');
  return dot && (!slash || dot > slash) ? (size_t)(dot - path) : strlen(path);
}

static int has_same_stem(const char *a, const char *b) {
  const size_t n = stem_of(a);
  return n == stem_of(b) && !strncmp(a, b, n);
}

/* By stem, and of one stem by path. */
static int compare_stems(const void *a, const void *b) {
  const char *x = *(const char *const *)a;
  const char *y = *(const char *const *)b;
  const size_t n = stem_of(x);
  const size_t m = stem_of(y);
  const int by_stem = strncmp(x, y, n < m ? n : m);
  if (by_stem) return by_stem;
  if (n != m) return n < m ? -1 : 1;
  return strcmp(x, y);
}

static fvg_status same_mask(const fvg_dataset *d, const char *folder, const char *a,
                            const char *b) {
  char *file;
  fvg_status s = mask_file(d, folder, a, &file);
  if (!s) {
    s = fvg_fail(d->ctx, FVG_E_ARG,
                 "%.150s: %.80s and %.80s would have the same mask, %.150s; rename one", d->root, a,
                 b, file);
  }
  fvg_release(d->ctx, file);
  return s;
}

fvg_status check_mask_names(const fvg_dataset *d, const char *folder, const fvg_items *const *list,
                            int n) {
  size_t n_path = 0;
  for (int i = 0; i < n; i++) n_path += (size_t)list[i]->n;
  const char **path = FVG_NEW_ARRAY(d->ctx, const char *, n_path + 1);
  fvg_status s = path ? FVG_OK : FVG_E_NOMEM;
  size_t at = 0;
  for (int i = 0; !s && i < n; i++) {
    for (int k = 0; k < list[i]->n; k++) path[at++] = list[i]->item[k].path;
  }
  if (!s) qsort((void *)path, n_path, sizeof *path, compare_stems);
  for (size_t i = 1; !s && i < n_path; i++) {
    if (strcmp(path[i - 1], path[i]) && has_same_stem(path[i - 1], path[i]))
      s = same_mask(d, folder, path[i - 1], path[i]);
  }
  fvg_release(d->ctx, (void *)path);
  return s;
}

fvg_status mask_file(const fvg_dataset *d, const char *folder, const char *path, char **file) {
#ifdef FVGPT_STB_IMAGE
  static const char suffix[] = ".png";
#else
  static const char suffix[] = ".pgm";
#endif
  fvg_ctx *c = d->ctx;
  *file = NULL;
  char *whole = fvg_path_join(c, folder, path_in_set(d, path));
  if (!whole) return FVG_E_NOMEM;
  const size_t length = strlen(whole) + sizeof suffix;
  char *name = FVG_NEW_ARRAY(c, char, length);
  if (name) {
    strcpy(name, whole);
    strcpy(name + stem_of(name), suffix);
  }
  fvg_release(c, whole);
  *file = name;
  return name ? FVG_OK : FVG_E_NOMEM;
}

fvg_status load_picture(const fvg_dataset *d, const fvg_item *item, int skip_bad,
                        fvg_image *picture) {
  fvg_status s = fvg_dataset_load(d, picture, NULL, item, 0);
  if (skip_bad || (s != FVG_E_IO && s != FVG_E_FORMAT && s != FVG_E_UNSUPPORTED)) return s;
  char why[400];
  snprintf(why, sizeof why, "%s", fvg_error(d->ctx));
  return fvg_fail(d->ctx, s, "%s; --skip-bad goes on without such pictures", why);
}

fvg_status enter_folder(fvg_ctx *c, mask_writer *w, const char *file) {
  const char *slash = strrchr(file, '/');
  const size_t n = slash ? (size_t)(slash - file) : 0;
  if (n >= sizeof w->folder) return fvg_fail(c, FVG_E_ARG, "%.100s...: the path is too long", file);
  if (!n || (!strncmp(w->folder, file, n) && !w->folder[n])) return FVG_OK;
  memcpy(w->folder, file, n);
  w->folder[n] = 0;
  fvg_status s = make_folders(c, w->folder);
  if (!s && !w->is_shared) remove_temporaries(w->folder);
  return s;
}

fvg_status save_mask(fvg_ctx *c, mask_writer *w, const fvg_image *mask, const char *file) {
  fvg_status s = enter_folder(c, w, file);
  return s ? s : fvg_image_save(c, mask, file);
}
