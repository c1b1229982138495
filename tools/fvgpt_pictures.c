/* Pictures that arguments name; see fvgpt_pictures.h. */
#include "fvgpt_pictures.h"

#include <string.h>

#include "fvgpt_lines.h"
#include "fvgpt_print.h"
#include "fvgpt_system.h"

/* ---- options ---- */
void add_picture_options(option_table *t, picture_options *o, const char *quoted) {
  add_files(t, &o->argument, quoted);
  add_text(t, "--files-from", &o->list);
}

int names_pictures(const picture_options *o) { return o->argument.n || o->list; }

/* ---- pictures ---- */
void pictures_free(fvg_ctx *c, picture_list *x) {
  for (int i = 0; i < x->n; i++) {
    fvg_release(c, x->file[i]);
    fvg_release(c, x->fault[i]);
  }
  fvg_release(c, x->file);
  fvg_release(c, x->fault);
  memset(x, 0, sizeof *x);
}

/* Makes room for one more. */
static fvg_status reserve(fvg_ctx *c, picture_list *x) {
  if (x->n < x->size) return FVG_OK;
  const int size = 2 * x->size + 64;
  const size_t used = (size_t)x->n * sizeof *x->file;
  char **file = FVG_NEW_ARRAY(c, char *, (size_t)size);
  char **fault = FVG_NEW_ARRAY(c, char *, (size_t)size);
  if (!file || !fault) {
    fvg_release(c, file);
    fvg_release(c, fault);
    return FVG_E_NOMEM;
  }

  if (x->n) memcpy(file, x->file, used);
  if (x->n) memcpy(fault, x->fault, used);
  fvg_release(c, x->file);
  fvg_release(c, x->fault);
  x->file = file;
  x->fault = fault;
  x->size = size;
  return FVG_OK;
}

/* Adds a path to the list, which becomes its owner; NULL: there was no memory for it. */
static fvg_status add_picture(fvg_ctx *c, picture_list *x, char *path) {
  if (path && !reserve(c, x)) {
    x->file[x->n++] = path;
    return FVG_OK;
  }
  fvg_release(c, path);
  return FVG_E_NOMEM;
}

/* Adds the pictures of a folder, sorted.  None is a mistake, because somebody expects some. */
static fvg_status add_folder(fvg_ctx *c, picture_list *x, const char *folder) {
  fvg_names names;
  fvg_status s = fvg_list_pictures(c, &names, folder);
  if (!s && !names.n) s = fvg_fail(c, FVG_E_IO, "%s: no pictures in this folder", folder);
  if (is_its_own(s)) {
    s = add_picture(c, x, fvg_copy_string(c, folder));
    if (!s) x->fault[x->n - 1] = fvg_copy_string(c, fvg_error(c));
  }
  for (int i = 0; !s && i < names.n; i++)
    s = add_picture(c, x, fvg_path_join(c, folder, names.name[i]));
  fvg_names_free(c, &names);
  return s;
}

static fvg_status add_path(fvg_ctx *c, picture_list *x, const char *path) {
  if (is_folder(path)) return add_folder(c, x, path);
  return add_picture(c, x, fvg_copy_string(c, path));
}

static fvg_status add_listed(fvg_ctx *c, picture_list *x, const char *path) {
  line_list list;
  fvg_status s = read_lines(c, path, &list);
  for (int i = 0; !s && i < list.n; i++) s = add_path(c, x, list.line[i]);
  line_list_free(c, &list);
  return s;
}

fvg_status gather_pictures(fvg_ctx *c, const picture_options *o, int exif_rotate,
                           picture_list *x) {
  memset(x, 0, sizeof *x);
  x->exif_rotate = exif_rotate;
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < o->argument.n; i++) {
    const char *path = o->argument.item[i];
    s = strcmp(path, "-") ? add_path(c, x, path) : add_listed(c, x, path);
  }
  if (!s && o->list) s = add_listed(c, x, o->list);
  return s;
}

fvg_status load_view(fvg_clip *m, const picture_list *x, int i, fvg_image *view, float *chw) {
  fvg_ctx *c = m->ctx;
  memset(view, 0, sizeof *view);
  if (x->fault[i]) return fvg_fail(c, FVG_E_IO, "%s", x->fault[i]);
  fvg_image image;
  fvg_status s = fvg_image_load(c, &image, x->file[i], 3);
  if (!s) s = fvg_image_upright(c, &image, x->file[i], x->exif_rotate);
  if (!s) s = fvg_image_test_transform(c, view, &image, &m->preprocess);
  if (!s) s = fvg_image_normalize(c, chw, view, &m->preprocess);
  if (s) fvg_image_free(c, view);
  fvg_image_free(c, &image);
  return s;
}

int is_its_own(fvg_status s) {
  return s == FVG_E_IO || s == FVG_E_FORMAT || s == FVG_E_UNSUPPORTED;
}

fvg_status step_over(fvg_ctx *c, fvg_status s, picture_list *x) {
  if (!is_its_own(s) || x->n == 1) return s;
  fvg_log(c, 0, "%s", fvg_error(c));
  x->n_bad++;
  return FVG_OK;
}

fvg_status tell_done(fvg_ctx *c, const picture_list *x, const char *command, int i) {
  const fvg_status s = check_output(c);
  if (s || x->n == 1) return s;
  fvg_progress progress;
  memset(&progress, 0, sizeof progress);
  progress.what = command;
  progress.step = i + 1;
  progress.n_steps = x->n;
  return fvg_report_progress(c, &progress);
}

fvg_status end_pictures(fvg_ctx *c, const picture_list *x) {
  if (!x->n_bad) return FVG_OK;
  return fvg_fail(c, FVG_E_IO, "%d of %d pictures could not be read, as said above", x->n_bad,
                  x->n);
}
