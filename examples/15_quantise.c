/* 15 - quantise and run: the same CLIP in a third of the memory, and from a smaller file.
        cc -O2 -I.. 15_quantise.c -o quantise -lm
        mkdir -p ../build/small && cp tiny-clip/config.json tiny-clip/merges.txt ../build/small
        ./quantise tiny-clip ../build/demo/things ../build/small                      (after make demo)

   To learn here: FVG_Q8 keeps a model's matrices as integers of eight bits, with one scale a row.
   All calls stay the same.  fvg_clip_quantise writes such a model to a file, once.  Opened from
   there, with its configuration and its words beside it, it says just what it says when it is
   quantised at every start.

   For each way the program prints the memory that the model takes, and how well plain CLIP tells
   the test pictures apart.  Rounding lets this small model tell one more of its 320 base pictures,
   and as many new ones.  The file of 1788 KB, of 16-bit floats, becomes one of 969 KB. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_DIRENT                             /* list folders through <dirent.h> */
#include "fvgpt_clip.h"

/* Each model has a context of its own, so that its memory can be told. */
static fvg_status print_row(const char *name, const char *model, fvg_dtype keep_as, const char *root) {
  fvg_ctx *c;
  if (fvg_init(&c, NULL)) return FVG_E_NOMEM;

  fvg_clip *m = NULL;
  fvg_status s = fvg_clip_open(c, &m, model, NULL, keep_as);
  const int kilobytes = (int)(fvg_mem_used(c) / 1024);             /* before anything is computed */

  static fvg_dataset_desc where;                 /* static: all zero, and zeros stand for defaults */
  fvg_dataset d;
  fvg_base_to_new score;
  memset(&d, 0, sizeof d);
  where.root = root;
  if (!s) s = fvg_dataset_open(c, &d, &where);
  if (!s) s = fvg_test_base_to_new(m, &score, &d, NULL, NULL, NULL);
  if (!s) printf("%-16s %5d KB   base %6.2f   new %6.2f   H %6.2f\n", name, kilobytes, score.base, score.new_, score.h);
  if (s) fprintf(stderr, "%s\n", fvg_error(c));

  fvg_dataset_free(&d);
  fvg_clip_free(m);
  fvg_free(c);
  return s;
}

/* Reads the model in `from` and writes it to `to`, in eight bits. */
static fvg_status write_quantised(const char *from, const char *to) {
  fvg_ctx *c;
  if (fvg_init(&c, NULL)) return FVG_E_NOMEM;

  fvg_status s = fvg_clip_quantise(c, from, to);
  if (s) fprintf(stderr, "%s\n", fvg_error(c));
  fvg_free(c);
  return s;
}

int main(int argc, char **argv) {
  if (argc != 4) return fprintf(stderr, "usage: quantise MODEL_DIR DATA_ROOT SMALL_DIR\n"), 1;
  const char *model = argv[1], *root = argv[2], *small = argv[3];
  char file[1000];
  snprintf(file, sizeof file, "%s/model.safetensors", small);

  fvg_status s = print_row("32-bit floats", model, FVG_F32, root);
  if (!s) s = print_row("8-bit integers", model, FVG_Q8, root);
  if (!s) s = write_quantised(model, file);
  if (!s) s = print_row("from its file", small, FVG_Q8, root);
  return s != FVG_OK;
}
