/* 14 - a fixed arena without heap: CLIP and FVG-PT in one static array.
        cc -O2 -I.. 14_no_heap.c -o no_heap -lm && ./no_heap tiny-clip ../build/demo/things          (after make demo)

   To learn here: how to run where there is no malloc and no file system.  fvg_desc.arena takes a block of memory, and
   everything comes from it.  Files come from fvg_source_memory.  Here main reads them into static arrays, which stand
   for a board's flash; from there on nothing but those arrays and the arena is used.  How large must an arena be?
   fvg_mem_peak tells; a bit more is needed for what falls between the blocks.  Steps of training do not make it grow,
   and an arena that is too small is an error like any other: the program says so and ends. */
#define FVGPT_NO_STDIO                           /* the library opens no files */
#define FVGPT_IMPLEMENTATION
#include "fvgpt_clip.h"

#include <stdio.h>

enum { PICTURES = 4, STEPS = 50, KB = 1024 };
static const char *const name[PICTURES] = {"mug", "key", "house", "bell"};

typedef struct file {
  unsigned char *bytes;
  size_t most, n;                                /* room, and bytes that are there */
} file;

static unsigned char weights_bytes[2048 * KB], config_bytes[4 * KB], merges_bytes[16 * KB];
static unsigned char picture_bytes[PICTURES][16 * KB], mask_bytes[PICTURES][16 * KB];
static double arena[12 * KB * KB / sizeof(double)];                            /* double: aligned for anything */

/* On a board, the linker does this. */
static int read_file(file *f, const char *folder, const char *path) {
  char whole[1000];
  snprintf(whole, sizeof whole, "%s/%s", folder, path);
  FILE *in = fopen(whole, "rb");
  if (in) f->n = fread(f->bytes, 1, f->most - 1, in);
  if (in) fclose(in);
  f->bytes[f->n] = 0;
  if (!f->n) fprintf(stderr, "%s cannot be read\n", whole);
  return f->n > 0;
}

static file weights = {weights_bytes, sizeof weights_bytes, 0}, config = {config_bytes, sizeof config_bytes, 0};
static file merges = {merges_bytes, sizeof merges_bytes, 0}, picture[PICTURES], mask[PICTURES];

static int read_all(const char *model, const char *data) {
  int ok = read_file(&weights, model, "model.safetensors") && read_file(&config, model, "config.json") &&
           read_file(&merges, model, "merges.txt");
  for (int i = 0; ok && i < PICTURES; i++) {
    char path[100];
    picture[i].bytes = picture_bytes[i];
    mask[i].bytes = mask_bytes[i];
    picture[i].most = mask[i].most = sizeof picture_bytes[i];
    snprintf(path, sizeof path, "images/%s/024.ppm", name[i]);
    ok = read_file(&picture[i], data, path);
    snprintf(path, sizeof path, "mask/images/%s/024.pgm", name[i]);
    ok = ok && read_file(&mask[i], data, path);
  }
  return ok;
}

static fvg_status open_model(fvg_ctx *c, fvg_clip **m) {
  fvg_weights *w = NULL;
  const fvg_source from = fvg_source_memory(weights.bytes, weights.n, "weights");
  const fvg_source words = fvg_source_memory(merges.bytes, merges.n, "words");
  fvg_status s = fvg_weights_open(c, &w, &from);
  if (!s) s = fvg_clip_load(c, m, w, (const char *)config.bytes, FVG_F32);
  if (!s) s = fvg_clip_set_vocabulary(*m, &words);
  fvg_weights_close(w);                          /* the model has copies of the tensors */
  return s;
}

/* f, f_fg [d] and area of one picture and its mask, both of the size that the tower sees. */
static fvg_status look(fvg_clip *m, float *f, float *f_fg, float *area, int i) {
  size_t n = 3 * (size_t)m->preprocess.size * (size_t)m->preprocess.size;
  float *x = FVG_NEW_ARRAY(m->ctx, float, 2 * n);
  fvg_image rgb, grey;
  memset(&grey, 0, sizeof grey);
  const fvg_source p = fvg_source_memory(picture[i].bytes, picture[i].n, "picture");
  const fvg_source q = fvg_source_memory(mask[i].bytes, mask[i].n, "mask");
  fvg_status s = fvg_image_decode(m->ctx, &rgb, &p, 3);
  if (!s) s = fvg_image_decode(m->ctx, &grey, &q, 1);
  if (!s) s = x ? fvg_image_normalize(m->ctx, x, &rgb, &m->preprocess) : FVG_E_NOMEM;
  if (!s) *area = fvg_foreground_view(x + n, x, &grey, NULL);
  if (!s) s = fvg_clip_encode_images(m, f, x, 1);
  if (!s) s = fvg_clip_encode_images(m, f_fg, x + n, 1);
  fvg_image_free(m->ctx, &grey);
  fvg_image_free(m->ctx, &rgb);
  fvg_release(m->ctx, x);
  return s;
}

static fvg_status train(fvg_ctx *c, const fvg_clip *m, const fvg_fvgpt_batch *batch) {
  static fvg_fvgpt_desc desc;
  desc.width = m->embed_dim;
  desc.logit_scale = m->logit_scale;
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
    if (!s && (step == 1 || step == STEPS))
      printf("step %2d  loss %.4f  peak %4d KB\n", step, (double)report.loss, (int)(fvg_mem_peak(c) / KB));
  }
  fvg_optimizer_free(o);
  fvg_fvgpt_free(fvgpt);
  return s;
}

/* All of it in an arena of so many bytes. */
static fvg_status run(size_t bytes) {
  static float f[PICTURES * 96], f_fg[PICTURES * 96], g[PICTURES * 96], area[PICTURES];     /* 96: the tiny CLIP's d */
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
  if (!s && m->embed_dim != 96) s = fvg_fail(c, FVG_E_SHAPE, "this program is written for the tiny CLIP");
  if (!s) printf("model         peak %4d KB\n", (int)(fvg_mem_peak(c) / KB));
  if (!s) s = fvg_clip_encode_classes(m, g, NULL, name, PICTURES);
  for (int i = 0; !s && i < PICTURES; i++) s = look(m, f + i * 96, f_fg + i * 96, &area[i], i);
  fvg_normalize_rows(f, PICTURES, 96);
  fvg_normalize_rows(f_fg, PICTURES, 96);
  for (int i = 0; !s && i < PICTURES; i++) {
    float score[PICTURES] = {0}, best = -1;
    int k = 0;
    for (int j = 0; j < PICTURES * 96; j++) score[j / 96] += f[i * 96 + j % 96] * g[j];
    for (int j = 0; j < PICTURES; j++) if (score[j] > best) best = score[k = j];
    printf("a %s is taken for a %s\n", name[i], name[k]);
  }
  if (!s) s = train(c, m, &batch);
  if (s) printf("an arena of %d KB: %s\n", (int)(bytes / KB), fvg_status_name(s));
  fvg_clip_free(m);
  fvg_free(c);
  return s;
}

int main(int argc, char **argv) {
  if (argc != 3) return fprintf(stderr, "usage: no_heap MODEL_DIR DATA_ROOT\n"), 1;
  if (!read_all(argv[1], argv[2])) return 1;
  return run(1000 * KB) != FVG_E_NOMEM || run(sizeof arena) != FVG_OK;           /* too small, and large enough */
}
