/* fvgpt preprocess. */
#include "fvgpt_preprocess.h"

#include <stdio.h>
#include <string.h>

#include "fvgpt_checks.h"
#include "fvgpt_system.h"

typedef struct preprocess_options {
  common_options common;
  int size;                          /* 0: not given                                             */
  const char *crop;                  /* TOP,LEFT,HEIGHT,WIDTH; NULL: the test transform          */
  int flip, nearest, exif_rotate;
  text_list files;                   /* IN and OUT                                               */
} preprocess_options;

static void declare(option_table *t, void *options) {
  preprocess_options *o = (preprocess_options *)options;
  add_common(t, &o->common);
  add_whole(t, "--size", &o->size, 1, 4096);
  add_text(t, "--crop", &o->crop);
  add_flag(t, "--flip", &o->flip);
  add_flag(t, "--nearest", &o->nearest);
  add_flag(t, "--exif-rotate", &o->exif_rotate);
  add_files(t, &o->files, NULL);
}

/* The way to pixels: the model's, or CLIP's own for --size. */
static fvg_status choose_way(fvg_ctx *c, const preprocess_options *o, fvg_preprocess *way) {
  *way = fvg_preprocess_defaults(o->size);
  if (o->common.model) {
    fvg_clip *m;
    fvg_status s = open_image_model(c, &o->common, &m);
    if (!s) *way = m->preprocess;
    fvg_clip_free(m);
    if (s) return s;
    if (o->size && o->size != way->size) {
      return fvg_fail(c, FVG_E_ARG, "--size %d: this model sees %d pixels a side", o->size,
                      way->size);
    }
  }
  if (o->nearest) way->filter = FVG_NEAREST;
  return FVG_OK;
}

static fvg_status parse_crop(fvg_ctx *c, const preprocess_options *o, fvg_crop *crop) {
  memset(crop, 0, sizeof *crop);
  crop->flip = o->flip;
  if (!o->crop && o->flip) return fvg_fail(c, FVG_E_ARG, "--flip goes with --crop");
  if (!o->crop) return FVG_OK;
  char tail;
  const int n = sscanf(o->crop, "%d,%d,%d,%d%c", &crop->top, &crop->left, &crop->height,
                       &crop->width, &tail);
  if (n == 4) return FVG_OK;
  return fvg_fail(c, FVG_E_ARG, "--crop %s: TOP,LEFT,HEIGHT,WIDTH is expected", o->crop);
}

/* Loads a picture as it is, but without its alpha channel. */
static fvg_status load_without_alpha(fvg_ctx *c, fvg_image *in, const char *path) {
  fvg_status s = fvg_image_load(c, in, path, 0);
  if (s || in->channels % 2) return s;
  const int channels = in->channels - 1;
  fvg_image_free(c, in);
  return fvg_image_load(c, in, path, channels);
}

static int lies_within(const fvg_crop *crop, const fvg_image *image) {
  if (crop->top < 0 || crop->left < 0 || crop->height < 1 || crop->width < 1) return 0;
  return crop->height <= image->height - crop->top && crop->width <= image->width - crop->left;
}

/* Turns the picture IN into what CLIP sees of it, or into a crop of it, and saves that as OUT. */
static fvg_status run(fvg_ctx *c, const void *options) {
  const preprocess_options *o = (const preprocess_options *)options;
  if ((!o->size && !o->common.model) || o->files.n != 2) {
    return fvg_fail(c, FVG_E_ARG,
                    "preprocess needs --size N or --model DIR, and two files, IN and OUT");
  }
  if (is_same_path(o->files.item[0], o->files.item[1])) {
    return fvg_fail(c, FVG_E_ARG, "%s: IN and OUT are one file; choose another OUT",
                    o->files.item[0]);
  }
  fvg_preprocess way;
  fvg_crop crop;
  fvg_status s = choose_way(c, o, &way);
  if (!s) s = parse_crop(c, o, &crop);
  if (s) return s;

  const char *path = o->files.item[0];
  fvg_image in, out;
  memset(&in, 0, sizeof in);
  memset(&out, 0, sizeof out);
  s = load_without_alpha(c, &in, path);
  if (!s) s = fvg_image_upright(c, &in, path, o->exif_rotate);
  if (!s && o->crop && !lies_within(&crop, &in)) {
    s = fvg_fail(c, FVG_E_ARG, "--crop %s does not lie within %s, which has %d x %d pixels",
                 o->crop, path, in.width, in.height);
  }
  if (!s && o->crop) s = fvg_image_resized_crop(c, &out, &in, &crop, way.size, way.filter);
  else if (!s) s = fvg_image_test_transform(c, &out, &in, &way);
  if (!s) s = fvg_image_save(c, &out, o->files.item[1]);
  fvg_image_free(c, &out);
  fvg_image_free(c, &in);
  return s;
}

const fvgpt_command preprocess_command = {"preprocess", sizeof(preprocess_options), declare, run};
