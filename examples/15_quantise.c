/* 15 - quantise and run: the same CLIP in a quarter of the memory.
        cc -O2 -I.. 15_quantise.c -o quantise -lm && ./quantise tiny-clip ../build/demo/things       (after make demo)

   To learn here: opened with FVG_Q8, a model keeps its matrices as integers of eight bits, with one scale a row, and
   all calls stay the same.  The program prints for both models what they take of memory and how well plain CLIP tells
   the test pictures apart: what differs is what rounding costs.  fvg_clip_quantise writes such a model to a file once,
   to be opened like any other where its configurations and vocabulary lie beside it. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_DIRENT                             /* list folders through <dirent.h> */
#include "fvgpt_clip.h"

/* A context of its own for each model, so that its memory can be told. */
static fvg_status print_row(const char *name, const char *model, fvg_dtype keep_as, const char *root) {
  fvg_dataset_desc where;
  memset(&where, 0, sizeof where);
  where.root = root;
  fvg_ctx *c;
  if (fvg_init(&c, NULL)) return FVG_E_NOMEM;

  fvg_clip *m = NULL;
  fvg_dataset d;
  memset(&d, 0, sizeof d);
  fvg_base_to_new score;
  fvg_status s = fvg_clip_open(c, &m, model, NULL, keep_as);
  const int kilobytes = (int)(fvg_mem_used(c) / 1024);           /* before anything is computed */
  if (!s) s = fvg_dataset_open(c, &d, &where);
  if (!s) s = fvg_test_base_to_new(m, &score, &d, NULL, NULL, NULL);
  if (!s) printf("%-14s %5d KB   base %6.2f   new %6.2f   H %6.2f\n", name, kilobytes, score.base, score.new_, score.h);
  if (s) fprintf(stderr, "%s\n", fvg_error(c));

  fvg_dataset_free(&d);
  fvg_clip_free(m);
  fvg_free(c);
  return s;
}

int main(int argc, char **argv) {
  if (argc != 3) return fprintf(stderr, "usage: quantise MODEL_DIR DATA_ROOT\n"), 1;
  fvg_status s = print_row("32-bit floats", argv[1], FVG_F32, argv[2]);
  if (!s) s = print_row("8-bit integers", argv[1], FVG_Q8, argv[2]);
  return s != FVG_OK;
}
