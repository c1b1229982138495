/* What tests/tuned_files.c, which has the whole library, hands to tests/test_no_training.c, which does not. */
#ifndef TUNED_FILES_H
#define TUNED_FILES_H
#include <stddef.h>

enum { N_NAMES = 4, N_BRANCHES = 5, SIDE = 40, N_HEADS = 6 };
extern const char *const tuned_names[N_NAMES];
extern unsigned char tuned_pixels[SIDE * SIDE * 3];                /* the picture that is classified, RGB */

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
