/* The pictures that the arguments of encode, classify and attend name. */
#ifndef FVGPT_PICTURES_H
#define FVGPT_PICTURES_H

#include "fvgpt_options.h"

/* Files, and in place of folders their pictures; the strings are owned. */
typedef struct picture_list {
  char **file;
  int n, size;                       /* files, and how many there is room for                    */
  int n_empty;                       /* folders that gave nothing                                */
  int n_bad;                         /* these, and files that could not be read                  */
  int exif_rotate;
} picture_list;

fvg_status gather_pictures(fvg_ctx *c, const text_list *argument, int exif_rotate,
                           picture_list *x);
void pictures_free(fvg_ctx *c, picture_list *x);

/* Picture i through the test transform: the view, and its floats [3, size, size]. */
fvg_status load_view(fvg_clip *m, const picture_list *x, int i, fvg_image *view, float *chw);
/* A picture had the status s.  A fault of its own is told and counted, and the others go on:
   FVG_OK.  Another fault, or that of the only picture, ends the command. */
fvg_status step_over(fvg_ctx *c, fvg_status s, picture_list *x);
/* An error if there were bad ones. */
fvg_status end_pictures(fvg_ctx *c, const picture_list *x);

#endif
