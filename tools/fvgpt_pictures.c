/* Pictures that arguments name; see fvgpt_pictures.h. */
#include "fvgpt_pictures.h"

#include <string.h>

#include "fvgpt_system.h"

void pictures_free(fvg_ctx *c, picture_list *x) {
  for (int i = 0; i < x->n; i++) fvg_release(c, x->file[i]);
  fvg_release(c, x->file);
  memset(x, 0, sizeof *x);
}

/* Adds a path to the list, which becomes its owner; NULL: there was no memory for it. */
static fvg_status add_picture(fvg_ctx *c, picture_list *x, char *path) {
  if (!path) return FVG_E_NOMEM;
  if (x->n == x->size) {
    const int size = 2 * x->size + 64;
    char **more = FVG_NEW_ARRAY(c, char *, (size_t)size);
    if (!more) {
      fvg_release(c, path);
      return FVG_E_NOMEM;
    }
    if (x->n) memcpy(more, x->file, (size_t)x->n * sizeof *more);
    fvg_release(c, x->file);
    x->file = more;
    x->size = size;
  }
  x->file[x->n++] = path;
  return FVG_OK;
}

/* Adds the pictures of a folder, sorted.  None is an error, because somebody expects some. */
static fvg_status add_folder(fvg_ctx *c, picture_list *x, const char *folder) {
  fvg_names names;
  fvg_status s = fvg_list_pictures(c, &names, folder);
  if (s) return s;
  if (!names.n) s = fvg_fail(c, FVG_E_IO, "%s: no pictures in this folder", folder);
  for (int i = 0; !s && i < names.n; i++)
    s = add_picture(c, x, fvg_path_join(c, folder, names.name[i]));
  fvg_names_free(c, &names);
  return s;
}

static fvg_status tell_bad(fvg_ctx *c, fvg_status s, picture_list *x, int is_alone) {
  const int its_own = s == FVG_E_IO || s == FVG_E_FORMAT || s == FVG_E_UNSUPPORTED;
  if (!its_own || is_alone) return s;
  fvg_log(c, 0, "%s", fvg_error(c));
  x->n_bad++;
  return FVG_OK;
}

fvg_status gather_pictures(fvg_ctx *c, const text_list *argument, int exif_rotate,
                           picture_list *x) {
  memset(x, 0, sizeof *x);
  x->exif_rotate = exif_rotate;
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < argument->n; i++) {
    const char *path = argument->item[i];
    if (is_folder(path)) s = tell_bad(c, add_folder(c, x, path), x, argument->n == 1);
    else s = add_picture(c, x, fvg_copy_string(c, path));
  }
  x->n_empty = x->n_bad;
  return s;
}

fvg_status load_view(fvg_clip *m, const picture_list *x, int i, fvg_image *view, float *chw) {
  fvg_ctx *c = m->ctx;
  memset(view, 0, sizeof *view);
  fvg_image image;
  fvg_status s = fvg_image_load(c, &image, x->file[i], 3);
  if (!s) s = fvg_image_upright(c, &image, x->file[i], x->exif_rotate);
  if (!s) s = fvg_image_test_transform(c, view, &image, &m->preprocess);
  if (!s) s = fvg_image_normalize(c, chw, view, &m->preprocess);
  if (s) fvg_image_free(c, view);
  fvg_image_free(c, &image);
  return s;
}

fvg_status step_over(fvg_ctx *c, fvg_status s, picture_list *x) {
  return tell_bad(c, s, x, x->n + x->n_empty == 1);
}

fvg_status end_pictures(fvg_ctx *c, const picture_list *x) {
  if (!x->n_bad) return FVG_OK;
  return fvg_fail(c, FVG_E_IO, "%d of %d pictures could not be read, as said above", x->n_bad,
                  x->n + x->n_empty);
}
