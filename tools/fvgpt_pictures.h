/* The pictures that encode, classify and attend are given. */
#ifndef FVGPT_PICTURES_H
#define FVGPT_PICTURES_H

#include "fvgpt_options.h"

/* ---- options ---- */
typedef struct picture_options {
  text_list argument;                /* files and folders; "-": the list on standard input       */
  const char *list;                  /* --files-from; NULL: not given                            */
} picture_options;
/* quoted: as for add_files. */
void add_picture_options(option_table *t, picture_options *o, const char *quoted);
int names_pictures(const picture_options *o);

/* ---- pictures ---- */
/* Files, and in place of folders their pictures.  A folder without any is itself in the list, as a
   picture that cannot be read.  The strings are owned. */
typedef struct picture_list {
  char **file;
  char **fault;                      /* why such a folder cannot be read, else NULL              */
  int n, size;                       /* and how many there is room for                           */
  int n_bad;                         /* those that could not be read                             */
  int exif_rotate;
} picture_list;

fvg_status gather_pictures(fvg_ctx *c, const picture_options *o, int exif_rotate,
                           picture_list *x);
void pictures_free(fvg_ctx *c, picture_list *x);

/* Picture i through the test transform: the view, and its floats [3, size, size]. */
fvg_status load_view(fvg_clip *m, const picture_list *x, int i, fvg_image *view, float *chw);
/* Is the status s, of one picture, a fault of its own? */
int is_its_own(fvg_status s);
/* A picture had the status s.  A fault of its own is told and counted, and the others go on:
   FVG_OK.  Another fault, or that of the only picture, ends the command. */
fvg_status step_over(fvg_ctx *c, fvg_status s, picture_list *x);
/* Reports that pictures 0 to i are done, unless there is only one.  FVG_E_IO if what was printed of
   them cannot be written, so that the others are not worked through for nothing. */
fvg_status tell_done(fvg_ctx *c, const picture_list *x, const char *command, int i);
/* An error if there were bad ones. */
fvg_status end_pictures(fvg_ctx *c, const picture_list *x);

#endif
