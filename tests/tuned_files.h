/* What tests/tuned_files.c, which has the whole library, hands to tests/test_no_training.c, which does not.  To be
   included behind fvgpt_clip.h. */
#ifndef TUNED_FILES_H
#define TUNED_FILES_H

enum { N_NAMES = 4, N_BRANCHES = 5, SIDE = 40, N_HEADS = 6 };
extern const char *const tuned_names[N_NAMES];
extern unsigned char tuned_pixels[SIDE * SIDE * 3];                /* the picture that is classified, RGB */

/* It as an image.  Both halves have an fvg_image, each from its own copy of the library. */
static inline fvg_image tuned_picture(void) {
  fvg_image image;
  memset(&image, 0, sizeof image);
  image.width = SIDE;
  image.height = SIDE;
  image.channels = 3;
  image.pixels = tuned_pixels;
  return image;
}

/* A checkpoint as it was written, and the scores that the library which wrote it gives the picture. */
typedef struct tuned_file {
  unsigned char *bytes;
  size_t n;
  int has_fvgpt;
  float probability[N_BRANCHES][N_NAMES];                            /* by fvg_branch; of a head in the first one */
} tuned_file;

/* Makes the checkpoint of method i, or of head i; 0 if there is no such one, or if that failed. */
int tuned_method(tuned_file *out, const char *model, int i);
int tuned_head(tuned_file *out, const char *model, int i);
#endif
