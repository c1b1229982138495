/* 14 - a fixed arena without heap: CLIP and FVG-PT in one static array.
        cc -O2 -I.. 14_no_heap.c -o no_heap -lm && ./no_heap tiny-clip ../build/demo/things   (after make demo)

   To learn here: how to run where there is no malloc and no file system.  fvg_desc.arena takes a
   block of memory, and everything comes from it.  Files come from fvg_source_memory.  Here main
   reads them into static arrays, which stand for a board's flash; from there on the library has
   nothing but those arrays and the arena.

   How large must an arena be?  fvg_mem_peak tells what was in use at once.  Where there is less,
   the library takes its working memory in smaller pieces; so the program also tries smaller arenas
   until one is too small, which is an error like any other.  Here 5 MB are enough, where it takes 6
   if it can.  Steps of training do not add up. */
#define FVGPT_NO_STDIO                           /* the library opens no files */
#define FVGPT_NO_MALLOC                          /* and has no heap */
#undef FVGPT_STB_IMAGE                           /* which has a heap; pictures are PNM here */
#define FVGPT_IMPLEMENTATION
#include "fvgpt_clip.h"

#include <stdio.h>

enum { PICTURES = 4, WIDTH = 96, STEPS = 50, KB = 1024 };          /* 96: the width of the tiny CLIP */
static const char *const name[PICTURES] = {"mug", "key", "house", "bell"};

static unsigned char flash[2048 * KB];           /* all files, one behind the other */
static double arena[8 * KB * KB / sizeof(double)];                             /* double: aligned for anything */
static fvg_source weights, merges, picture[PICTURES], mask[PICTURES];
static int quiet;                                /* 1: run prints nothing */

/* On a board, the linker does this. */
static fvg_source read_file(const char *folder, const char *path) {
  static size_t used;
  char whole[1000];
  snprintf(whole, sizeof whole, "%s/%s", folder, path);
  FILE *in = fopen(whole, "rb");
  if (!in) fprintf(stderr, "%s cannot be opened\n", whole);
  unsigned char *bytes = flash + used;
  const size_t n = in ? fread(bytes, 1, sizeof flash - used - 1, in) : 0;
  if (in) fclose(in);
  used += n + 1;                                 /* flash is zero, so texts end with 0 */
  return fvg_source_memory(bytes, n, "a file in flash");
}

static void read_all(const char *model, const char *data) {
  read_file(model, "config.json");               /* the first: its text begins where flash does */
  weights = read_file(model, "model.safetensors");
  merges = read_file(model, "merges.txt");
  for (int i = 0; i < PICTURES; i++) {
    char path[100];
    snprintf(path, sizeof path, "images/%s/024.ppm", name[i]);
    picture[i] = read_file(data, path);
    snprintf(path, sizeof path, "mask/images/%s/024.pgm", name[i]);
    mask[i] = read_file(data, path);
  }
}

static fvg_status open_model(fvg_ctx *c, fvg_clip **m) {
  fvg_weights *w = NULL;
  fvg_status s = fvg_weights_open(c, &w, &weights);
  if (!s) s = fvg_clip_load(c, m, w, (const char *)flash, FVG_F32);
  if (!s) s = fvg_clip_set_vocabulary(*m, &merges);
  fvg_weights_close(w);                          /* the model has copies of the tensors */
  return s;
}

/* f, f_fg [d] and area of one picture and its mask, both of the size that the tower sees. */
static fvg_status look(fvg_clip *m, float *f, float *f_fg, float *area, int i) {
  size_t n = 3 * (size_t)m->preprocess.size * (size_t)m->preprocess.size;
  float *x = FVG_NEW_ARRAY(m->ctx, float, 2 * n);
  fvg_image rgb, grey;
  memset(&grey, 0, sizeof grey);
  fvg_status s = fvg_image_decode(m->ctx, &rgb, &picture[i], 3);
  const int best = s ? 0 : fvg_classify_image(m, NULL, &rgb, name, PICTURES);
  if (best < 0) s = (fvg_status)best;
  if (!s && !quiet) printf("a %s is taken for a %s\n", name[i], name[best]);
  if (!s) s = fvg_image_decode(m->ctx, &grey, &mask[i], 1);
  if (!s) s = x ? fvg_image_normalize(m->ctx, x, &rgb, &m->preprocess) : FVG_E_NOMEM;
  if (!s) *area = fvg_foreground_view(x + n, x, &grey, NULL);
  if (!s) s = fvg_clip_encode_images(m, f, x, 1);
  if (!s) s = fvg_clip_encode_images(m, f_fg, x + n, 1);
  fvg_image_free(m->ctx, &grey);
  fvg_image_free(m->ctx, &rgb);
  fvg_release(m->ctx, x);
  return s;
}

static fvg_status train(fvg_ctx *c, const fvg_fvgpt_batch *batch, float logit_scale) {
  static fvg_fvgpt_desc desc;
  desc.width = WIDTH;
  desc.logit_scale = logit_scale;
  fvg_fvgpt *fvgpt = NULL;
  fvg_optimizer *o = NULL;
  fvg_fvgpt_report report;
  memset(&report, 0, sizeof report);
  int n = 0;
  fvg_status s = fvg_fvgpt_new(c, &fvgpt, &desc);
  fvg_parameter *const *parameter = s ? NULL : fvg_fvgpt_parameters(fvgpt, &n);
  if (!s) s = fvg_optimizer_new(c, &o, parameter, n, NULL);

  for (int step = 1; !s && step <= STEPS; step++) {
    s = fvg_fvgpt_step(fvgpt, &report, o, 0.0035, batch);
    if (!s && !quiet && (step == 1 || step == STEPS))
      printf("step %2d: loss %.4f, at most %d KB in use\n", step, (double)report.loss, (int)(fvg_mem_peak(c) / KB));
  }
  fvg_optimizer_free(o);
  fvg_fvgpt_free(fvgpt);
  return s;
}

/* All of it in the first bytes of the arena; *peak: how many of them were in use at once. */
static fvg_status run(size_t bytes, size_t *peak) {
  static float f[PICTURES * WIDTH], f_fg[PICTURES * WIDTH], g[PICTURES * WIDTH], area[PICTURES];
  static const int label[PICTURES] = {0, 1, 2, 3};
  const fvg_fvgpt_batch batch = {PICTURES, PICTURES, f, f_fg, NULL, NULL, NULL, g, g, area, label};
  fvg_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.arena = arena;
  desc.arena_bytes = bytes;
  fvg_ctx *c;
  if (fvg_init(&c, &desc)) return FVG_E_NOMEM;

  fvg_clip *m = NULL;
  fvg_status s = open_model(c, &m);
  if (!s && m->embed_dim != WIDTH) s = fvg_fail(c, FVG_E_SHAPE, "this program is written for the tiny CLIP");
  if (!s) s = fvg_clip_encode_classes(m, g, NULL, name, PICTURES);
  for (int i = 0; !s && i < PICTURES; i++) s = look(m, f + i * WIDTH, f_fg + i * WIDTH, &area[i], i);
  fvg_normalize_rows(f, PICTURES, WIDTH);
  fvg_normalize_rows(f_fg, PICTURES, WIDTH);
  if (!s) s = train(c, &batch, m->logit_scale);

  if (s && !quiet) fprintf(stderr, "%s\n", fvg_error(c));
  *peak = fvg_mem_peak(c);
  fvg_clip_free(m);
  fvg_free(c);
  return s;
}

int main(int argc, char **argv) {
  if (argc != 3) return fprintf(stderr, "usage: no_heap MODEL_DIR DATA_ROOT\n"), 1;
  read_all(argv[1], argv[2]);
  size_t peak, ignored;
  if (run(sizeof arena, &peak)) return 1;

  quiet = 1;
  size_t bytes = peak;
  while (run(bytes - 64 * KB, &ignored) == FVG_OK) bytes -= 64 * KB;
  printf("an arena of %d KB is enough", (int)(bytes / KB));
  printf("; with 64 KB less: %s\n", fvg_status_name(run(bytes - 64 * KB, &ignored)));
  return 0;
}
