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
/* FVG_E_ARG: two pictures of these n lists, such as 1.png and 1.jpg, would have the same mask. */
fvg_status check_mask_names(const fvg_dataset *d, const char *folder, const fvg_items *const *list,
                            int n);
/* Reads a picture that a mask is to be made of.  An error of its own tells of --skip-bad, unless
   that was given. */
fvg_status load_picture(const fvg_dataset *d, const fvg_item *item, int skip_bad,
                        fvg_image *picture);
/* The folder that a mask was saved in last; begins with zeros. */
typedef struct mask_writer {
  char folder[1400];
  int is_shared;                     /* 1: others write there too, and what they left stays      */
} mask_writer;
/* Enters the folder of a mask's file: it is made, and rid of what a killed run left there. */
fvg_status enter_folder(fvg_ctx *c, mask_writer *w, const char *file);
/* Saves a mask as `file`, in a folder that it enters. */
fvg_status save_mask(fvg_ctx *c, mask_writer *w, const fvg_image *mask, const char *file);

#endif
