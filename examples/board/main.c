/* A CLIP on a microcontroller: it classifies a picture and takes FVG-PT steps, without files and without a heap.

        make board            an emulated board with a Cortex-M7 (needs gcc-arm-none-eabi, libnewlib-arm-none-eabi and
                              qemu-system-arm); `sh examples/board/run.sh build m4` has a Cortex-M4F

   To learn here: what a program without an operating system gives the library.  It is an arena for all memory, and a log
   callback for all words; models, words and pictures are bytes in flash (files.S), read through fvg_source.  start.c and
   board.ld are what any bare program on a Cortex-M needs.

   The first part classifies, and keeps features of eight pictures, with and without background.  It then frees the model:
   the second part, FVG-PT on plain CLIP, needs the features alone. */
#define FVGPT_NO_STDIO
#define FVGPT_NO_MALLOC
#define FVGPT_STATIC                             /* what is not called is not compiled */
#define FVGPT_IMPLEMENTATION
#include "board.h"
#include "fvgpt_clip.h"

enum { N_CLASS = 4, N_PICTURE = 8, WIDTH = 96, STEPS = 20, ARENA_BYTES = 3584 << 10 };
static const char *const class_name[N_CLASS] = {"key", "boat", "bell", "car"};

typedef struct flash_file { const uint8_t *bytes, *end; } flash_file;
#define FLASH_FILE(name) {name, name##_end}
static const flash_file picture[N_PICTURE] = {
  FLASH_FILE(key_0),  FLASH_FILE(key_1),  FLASH_FILE(boat_0), FLASH_FILE(boat_1),
  FLASH_FILE(bell_0), FLASH_FILE(bell_1), FLASH_FILE(car_0),  FLASH_FILE(car_1)
};
static const flash_file mask[N_PICTURE] = {
  FLASH_FILE(key_0_mask),  FLASH_FILE(key_1_mask),  FLASH_FILE(boat_0_mask), FLASH_FILE(boat_1_mask),
  FLASH_FILE(bell_0_mask), FLASH_FILE(bell_1_mask), FLASH_FILE(car_0_mask),  FLASH_FILE(car_1_mask)
};
static const int label[N_PICTURE] = {0, 0, 1, 1, 2, 2, 3, 3};

/* What the first part leaves to the second: features of pictures, of their foregrounds, and of the classes. */
static float f[N_PICTURE * WIDTH], f_fg[N_PICTURE * WIDTH], g[N_CLASS * WIDTH], area[N_PICTURE];

static uint8_t arena[ARENA_BYTES] __attribute__((section(".arena"), aligned(64)));

static void write_line(void *user, int level, const char *message) {
  (void)user;
  (void)level;
  board_write(message);
}

static fvg_source source_of(const flash_file *file, const char *name) {
  return fvg_source_memory(file->bytes, (size_t)(file->end - file->bytes), name);
}

static void print_memory(fvg_ctx *c, const char *what) {
  const size_t stack = board_stack_bytes(), variables = board_static_bytes();
  fvg_log(c, 1, "RAM of %s: %zu bytes, of them %zu in the arena, %zu of stack, %zu of variables", what,
          fvg_mem_peak(c) + stack + variables, fvg_mem_peak(c), stack, variables);
}

/* ---- the first part ---- */
static fvg_status open_model(fvg_ctx *c, fvg_clip **m) {
  const flash_file weights_file = FLASH_FILE(model), merges_file = FLASH_FILE(merges);
  fvg_source source = source_of(&weights_file, "model.safetensors");
  fvg_weights *w;
  *m = NULL;
  fvg_status s = fvg_weights_open(c, &w, &source);
  if (s) return s;
  s = fvg_clip_load(c, m, w, (const char *)config, FVG_F16);             /* as the file has them */
  fvg_weights_close(w);

  source = source_of(&merges_file, "merges.txt");
  if (!s) s = fvg_tokenizer_open(c, &(*m)->tokenizer, &source, (*m)->text.vocab_size);
  return s;
}

static fvg_status classify(fvg_clip *m) {
  const flash_file file = FLASH_FILE(key_test);
  fvg_source source = source_of(&file, "key/002.ppm");
  fvg_image image;
  float probability[N_CLASS];
  fvg_status s = fvg_image_decode(m->ctx, &image, &source, 3);
  if (s) return s;
  const int best = fvg_classify_image(m, probability, &image, class_name, N_CLASS);
  fvg_image_free(m->ctx, &image);
  if (best < 0) return (fvg_status)best;

  fvg_log(m->ctx, 1, "key/002.ppm is a %s", class_name[best]);
  for (int i = 0; i < N_CLASS; i++)
    fvg_log(m->ctx, 1, "%7.3f %%  %s", 100 * (double)probability[i], class_name[i]);
  return FVG_OK;
}

/* Picture i as the tower sees it, x [3, size, size], and the same with nothing but the foreground. */
static fvg_status read_views(fvg_clip *m, int i, float *x, float *x_fg) {
  fvg_ctx *c = m->ctx;
  fvg_preprocess nearest = m->preprocess;        /* a mask's pixels are not mixed */
  nearest.filter = FVG_NEAREST;
  fvg_source picture_source = source_of(&picture[i], "a picture"), mask_source = source_of(&mask[i], "a mask");
  fvg_image image[2], view[2];
  memset(image, 0, sizeof image);
  memset(view, 0, sizeof view);

  fvg_status s = fvg_image_decode(c, &image[0], &picture_source, 3);
  if (!s) s = fvg_image_decode(c, &image[1], &mask_source, 1);
  if (!s) s = fvg_image_test_transform(c, &view[0], &image[0], &m->preprocess);
  if (!s) s = fvg_image_test_transform(c, &view[1], &image[1], &nearest);
  if (!s) s = fvg_image_normalize(c, x, &view[0], &m->preprocess);
  if (!s) area[i] = fvg_foreground_view(x_fg, x, &view[1], NULL);
  for (int k = 0; k < 2; k++) {
    fvg_image_free(c, &image[k]);
    fvg_image_free(c, &view[k]);
  }
  return s;
}

static fvg_status encode(fvg_clip *m) {
  if (m->embed_dim != WIDTH) return fvg_fail(m->ctx, FVG_E_SHAPE, "the model's width is %d, not %d", m->embed_dim, WIDTH);
  const size_t pixels = 3 * (size_t)m->preprocess.size * (size_t)m->preprocess.size;
  float *x = FVG_NEW_ARRAY(m->ctx, float, 2 * pixels);
  fvg_status s = x ? fvg_clip_encode_classes(m, g, NULL, class_name, N_CLASS) : FVG_E_NOMEM;
  for (int i = 0; !s && i < N_PICTURE; i++) {
    s = read_views(m, i, x, x + pixels);
    if (!s) s = fvg_clip_encode_images(m, f + i * WIDTH, x, 1);
    if (!s) s = fvg_clip_encode_images(m, f_fg + i * WIDTH, x + pixels, 1);
  }
  fvg_normalize_rows(f, N_PICTURE, WIDTH);
  fvg_normalize_rows(f_fg, N_PICTURE, WIDTH);
  fvg_release(m->ctx, x);
  return s;
}

static fvg_status first_part(fvg_ctx *c, float *logit_scale) {
  fvg_clip *m;
  fvg_status s = open_model(c, &m);
  if (!s) s = classify(m);
  if (!s) print_memory(c, "inference");
  if (!s) s = encode(m);
  if (!s) *logit_scale = m->logit_scale;
  fvg_clip_free(m);
  return s;
}

/* ---- the second part ---- */
static fvg_status second_part(fvg_ctx *c, float logit_scale) {
  fvg_fvgpt_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.width = WIDTH;
  desc.logit_scale = logit_scale;
  fvg_fvgpt *modules = NULL;
  fvg_optimizer *o = NULL;
  int n = 0;
  fvg_status s = fvg_fvgpt_new(c, &modules, &desc);
  fvg_parameter *const *parameter = s ? NULL : fvg_fvgpt_parameters(modules, &n);
  if (!s) s = fvg_optimizer_new(c, &o, parameter, n, NULL);

  fvg_fvgpt_batch batch;
  memset(&batch, 0, sizeof batch);
  batch.n = N_PICTURE;
  batch.n_class = N_CLASS;
  batch.f = f;
  batch.f_fg = f_fg;
  batch.g = batch.g_clip = g;                    /* the backbone is plain CLIP */
  batch.area = area;
  batch.label = label;
  for (int step = 1; !s && step <= STEPS; step++) {
    fvg_fvgpt_report report;
    memset(&report, 0, sizeof report);
    s = fvg_fvgpt_step(modules, &report, o, 0.0035, &batch);
    if (!s) fvg_log(c, 1, "step %2d  loss %.6f", step, (double)report.loss);
  }
  if (!s) print_memory(c, "a step");
  fvg_optimizer_free(o);
  fvg_fvgpt_free(modules);
  return s;
}

int main(void) {
  float logit_scale = 0;
  fvg_status s = FVG_OK;
  for (int part = 1; !s && part <= 2; part++) {
    fvg_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.arena = arena;
    desc.arena_bytes = sizeof arena;
    desc.log = write_line;
    fvg_ctx *c;
    s = fvg_init(&c, &desc);
    if (!s) s = part == 1 ? first_part(c, &logit_scale) : second_part(c, logit_scale);
    if (s) board_write(fvg_error(c));
    fvg_free(c);
  }
  return s != FVG_OK;
}
