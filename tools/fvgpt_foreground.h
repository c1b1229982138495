/* Masks that CLIP makes itself, kept as files: what `masks` and `tune` share. */
#ifndef FVGPT_FOREGROUND_H
#define FVGPT_FOREGROUND_H

#include "fvgpt_options.h"

/* ---- options ---- */
typedef struct foreground_options {
  text_list background;              /* words                                                    */
  const char *background_template;   /* NULL: not given                                          */
  int quick;
} foreground_options;
void add_foreground_options(option_table *t, foreground_options *o);
/* The options as the library takes them. */
fvg_foreground_desc foreground_desc(const foreground_options *o);

/* ---- files ---- */
/* Where the mask of a picture lies in a folder that is laid out as the published ones are; to be
   released.  Masks have the kind that this program can read again: PNG, or PGM without
   stb_image. */
fvg_status mask_file(const fvg_dataset *d, const char *folder, const char *path, char **file);
/* Makes the mask of a picture and saves it as `file`, whose folders are made; label -1: it is not
   known. */
fvg_status make_mask_file(fvg_ctx *c, fvg_foreground *x, const fvg_image *picture, int label,
                          const char *file, fvg_image *mask, float *confidence);

#endif
