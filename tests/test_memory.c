/* Everything that is read from paths can be given in memory too: pictures with labels (chapter 28 of fvgpt_clip.h), the
   vocabulary (chapter 10).  The same pictures as files and in memory train the same learner, bit for bit.  Uses
   examples/tiny-clip; writes below build/test-memory. */
#define FVGPT_DIRENT
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"
#include <sys/stat.h>

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

enum { SIDE = 40, CLASSES = 4, EACH = 4, N = CLASSES * EACH };
#define ROOT "build/test-memory"
static uint8_t pixels[N][3 * SIDE * SIDE], inside[N][SIDE * SIDE];
static fvg_picture picture[N];
static const char *const names[CLASSES] = {"red", "green", "dark_blue", "grey"};

/* A square of the class's colour before noise; the mask is the square.  Files and memory get the same bytes. */
static void draw(void) {
  static const uint8_t colour[CLASSES][3] = {{220, 20, 20}, {20, 200, 30}, {10, 10, 120}, {130, 130, 130}};
  fvg_rng r;
  fvg_rng_seed(&r, 5, 0);
  for (int i = 0; i < N; i++) {
    for (int k = 0; k < SIDE * SIDE; k++) {
      int x = k % SIDE, y = k / SIDE;
      inside[i][k] = x > 8 && x < 30 && y > 6 + i % 5 && y < 30 ? 255 : 0;
      for (int c = 0; c < 3; c++)
        pixels[i][3 * k + c] = inside[i][k] ? colour[i / EACH][c] : (uint8_t)fvg_rng_below(&r, 256);
    }
    memset(&picture[i], 0, sizeof picture[i]);
    picture[i].image.width = picture[i].image.height = SIDE;
    picture[i].image.channels = 3;
    picture[i].image.pixels = pixels[i];
    picture[i].mask = picture[i].image;
    picture[i].mask.channels = 1;
    picture[i].mask.pixels = inside[i];
    picture[i].label = i / EACH;
    picture[i].split = i % EACH == EACH - 1 ? FVG_TEST : FVG_TRAIN;
  }
}

/* The same pictures as ROOT/train/NAME/k.ppm and ROOT/test/NAME/k.ppm, masks in ROOT/mask. */
static int write_files(fvg_ctx *c) {
  static const char *const folder[] = {ROOT, ROOT "/mask", ROOT "/train", ROOT "/test", ROOT "/mask/train", ROOT "/mask/test"};
  char path[200];
  int ok = 1;
  mkdir("build", 0777);
  for (int i = 0; i < 6; i++) mkdir(folder[i], 0777);
  for (int i = 0; i < N && ok; i++) {
    const char *part = picture[i].split == FVG_TEST ? "test" : "train", *name = names[i / EACH];
    const char *const under[] = {"", "mask/"};
    for (int k = 0; k < 2; k++) {
      snprintf(path, sizeof path, ROOT "/%s%s/%d_%s", under[k], part, i / EACH, name);
      mkdir(path, 0777);
      snprintf(path, sizeof path, ROOT "/%s%s/%d_%s/%d.%s", under[k], part, i / EACH, name, i % EACH, k ? "pgm" : "ppm");
      ok &= !fvg_image_save(c, k ? &picture[i].mask : &picture[i].image, path);
    }
  }
  return ok;
}

/* CoOp, then FVG-PT, on a data set's train part; out receives what both have learned. */
static int tune(fvg_clip *m, const fvg_dataset *d, float *out, int most) {
  fvg_views_desc look;
  fvg_train_desc train;
  fvg_fvgpt_desc modules;
  fvg_learner *l = NULL;
  fvg_fvgpt *f = NULL;
  fvg_views *v = NULL;
  fvg_task task;
  memset(&look, 0, sizeof look);
  memset(&train, 0, sizeof train);
  memset(&modules, 0, sizeof modules);
  look.augment = FVG_AUGMENT_NONE;
  train.optimizer = fvg_method_optimizer(fvg_method_find("CoOp"), &train.batch);
  train.optimizer.epochs = 2;
  modules.width = m->embed_dim;
  int n = -1, n_param = 0;
  fvg_status s = fvg_task_draw(&task, d, NULL);
  if (!s) s = fvg_learner_new(m, &l, names, CLASSES, NULL);
  if (!s) s = fvg_views_new(m, &v, d, &look);
  if (!s) s = fvg_learner_train(l, v, &task, &train);
  if (!s) s = fvg_fvgpt_new(m->ctx, &f, &modules);
  if (!s) s = fvg_fvgpt_train(f, l, v, &task, &train);
  for (int which = 0; !s && which < 2; which++) {
    fvg_parameter *const *p = which ? fvg_fvgpt_parameters(f, &n_param) : fvg_learner_parameters(l, &n_param);
    for (int i = 0; i < n_param; i++) {
      int count = (int)fvg_tensor_count(&p[i]->value);
      n = n < 0 ? 0 : n;
      if (n + count > most) break;
      memcpy(out + n, p[i]->value.data, (size_t)count * sizeof *out);
      n += count;
    }
  }
  if (s) printf("FAILED to tune: %s\n", fvg_error(m->ctx));
  fvg_fvgpt_free(f);
  fvg_views_free(v);
  fvg_learner_free(l);
  fvg_task_free(&task);
  return n;
}

static int refused(fvg_ctx *c, fvg_status s, const char *part) { return s == FVG_E_ARG && strstr(fvg_error(c), part); }

static void test_pictures(fvg_clip *m) {
  enum { MOST = 1 << 18 };
  static float from_files[MOST], from_memory[MOST];
  fvg_ctx *c = m->ctx;
  fvg_dataset files, memory;
  fvg_dataset_desc where;
  fvg_image image, mask;
  memset(&where, 0, sizeof where);
  where.root = ROOT;
  check(write_files(c) && !fvg_dataset_open(c, &files, &where), "the files");
  check(!fvg_dataset_of_pictures(c, &memory, picture, N, names, CLASSES), "the pictures in memory");
  check(memory.train.n == N - CLASSES && memory.test.n == CLASSES && memory.val.n == 0, "their parts");
  check(!strcmp(memory.class_name[2], "dark blue"), "underscores are blanks");
  check(!fvg_dataset_check(&memory, FVG_CHECK_TRAIN | FVG_CHECK_MASKS, 1) && memory.train.n == N - CLASSES, "the check");

  check(!fvg_dataset_load(&memory, &image, &mask, &memory.test.item[1], 0) &&
            !memcmp(image.pixels, pixels[2 * EACH - 1], sizeof pixels[0]) &&
            !memcmp(mask.pixels, inside[2 * EACH - 1], sizeof inside[0]), "a picture and its mask are copies");
  image.pixels[0] ^= 1;
  check(image.pixels[0] != pixels[2 * EACH - 1][0], "not the caller's own");
  fvg_image_free(c, &image);
  fvg_image_free(c, &mask);

  int n = tune(m, &files, from_files, MOST), n_memory = tune(m, &memory, from_memory, MOST);
  check(n > 1000 && n == n_memory && !memcmp(from_files, from_memory, (size_t)n * sizeof *from_files),
        "both train the same learner and the same modules");
  fvg_dataset_free(&memory);
  fvg_dataset_free(&files);

  fvg_picture one = picture[0];
  one.label = CLASSES;
  check(refused(c, fvg_dataset_of_pictures(c, &memory, &one, 1, names, CLASSES), "picture 0: its label"), "a label");
  one = picture[0];
  one.image.channels = 1;
  check(refused(c, fvg_dataset_of_pictures(c, &memory, &one, 1, names, CLASSES), "RGB"), "a grey picture");
  one = picture[0];
  one.mask.width--;
  check(refused(c, fvg_dataset_of_pictures(c, &memory, &one, 1, names, CLASSES), "its mask"), "a mask's size");
  one = picture[0];
  one.image.width = one.mask.width = 0;
  check(refused(c, fvg_dataset_of_pictures(c, &memory, &one, 1, names, CLASSES), "picture 0: its image has sides"), "no pixels");
  one = picture[0];
  one.split = (fvg_split)7;
  check(refused(c, fvg_dataset_of_pictures(c, &memory, &one, 1, names, CLASSES), "its part"), "a part");
  check(refused(c, fvg_dataset_of_pictures(c, &memory, NULL, 1, names, CLASSES), "pictures") &&
            refused(c, fvg_dataset_of_pictures(c, NULL, picture, N, names, CLASSES), "a place"), "NULL");

  /* Without masks FVG-PT's gate and adapters have nothing to learn from. */
  for (int i = 0; i < N; i++) picture[i].mask.pixels = NULL;
  char *path = NULL;
  check(!fvg_dataset_of_pictures(c, &memory, picture, N, names, CLASSES) &&
            !fvg_dataset_mask_path(&memory, &path, memory.train.item[0].path) && !path &&
            fvg_dataset_check_masks(&memory, &memory.train) != FVG_OK, "no masks");
  fvg_dataset_free(&memory);
}

static void test_vocabulary(fvg_clip *m) {
  fvg_source s, broken = fvg_source_memory("#version: 0.2\nzz", 16, "broken");
  uint8_t *bytes = NULL;
  size_t n;
  int before[16], after[16], n_before, n_after;
  check(!fvg_tokenize(m->tokenizer, before, 16, &n_before, "a red mug"), "the model's own vocabulary");
  check(!fvg_source_file(m->ctx, &s, "examples/tiny-clip/merges.txt") && !fvg_source_read_all(m->ctx, &bytes, &n, &s), "bytes");
  fvg_source_close(&s);
  check(fvg_clip_set_vocabulary(m, &broken) != FVG_OK && m->tokenizer, "a broken one changes nothing");
  s = fvg_source_memory(bytes, n, "memory");
  check(!fvg_clip_set_vocabulary(m, &s), "the same from memory");
  fvg_bytes_free(m->ctx, bytes);
  check(!fvg_tokenize(m->tokenizer, after, 16, &n_after, "a red mug") && n_after == n_before &&
            !memcmp(before, after, (size_t)n_before * sizeof *before), "gives the same tokens");
  check(fvg_clip_set_vocabulary(NULL, &s) == FVG_E_ARG && fvg_clip_set_vocabulary(m, NULL) == FVG_E_ARG, "NULL");
}

int main(void) {
  fvg_ctx *c;
  fvg_clip *m;
  if (fvg_init(&c, NULL)) return 1;
  draw();
  check(!fvg_clip_open(c, &m, "examples/tiny-clip", NULL, FVG_F32), "the model");
  if (m) {
    test_vocabulary(m);
    test_pictures(m);
  }
  fvg_clip_free(m);
  check(fvg_mem_used(c) == 0, "no memory stays");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
