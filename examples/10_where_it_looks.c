/* 10 - where a classifier looks: one picture of pictures, made by Grad-CAM.
        cc -O2 -I.. 10_where_it_looks.c -o where_it_looks -lm
        ./where_it_looks tiny-clip ../build/demo/things looks.png                           (after make demo)

   To learn here: how a map is made, and what FVG-PT is for.  CoOp and FVG-PT are tuned as in example 04.  The first row
   of looks.png holds the first test picture of each of six base classes.  Below it lies the heat of the patches that
   speak for its class: to plain CLIP in row 2, to CoOp in row 3, to FVG-PT in row 4. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_DIRENT                             /* list folders through <dirent.h> */
#include "fvgpt_clip.h"

enum { COLUMNS = 6, ROWS = 4, SIDE = 128, STEP = SIDE + 6 };     /* pixels of the sheet: a picture and a white gap */

/* Copies a picture into the sheet, enlarged to SIDE x SIDE. */
static fvg_status paste(fvg_ctx *c, const fvg_image *sheet, int column, int row, const fvg_image *picture) {
  fvg_image large;
  fvg_status s = fvg_image_resize(c, &large, picture, SIDE, SIDE, FVG_NEAREST);
  if (s) return s;

  uint8_t *corner = sheet->pixels + 3 * (row * STEP * sheet->width + column * STEP);
  for (int y = 0; y < SIDE; y++) memcpy(corner + 3 * y * sheet->width, large.pixels + 3 * y * SIDE, 3 * SIDE);
  fvg_image_free(c, &large);
  return FVG_OK;
}

/* A column of the sheet: what the tower sees of the picture, and a heat map over it for each of three classifiers. */
static fvg_status look(fvg_clip *m, const fvg_image *sheet, int column, const fvg_task *task, const fvg_item *item,
                       fvg_classifier *const *k) {
  fvg_ctx *c = m->ctx;
  size_t pixels = (size_t)m->preprocess.size * (size_t)m->preprocess.size;
  float *x = FVG_NEW_ARRAY(c, float, 3 * pixels), *map = FVG_NEW_ARRAY(c, float, pixels);
  fvg_image picture, view;
  memset(&view, 0, sizeof view);
  fvg_status s = fvg_dataset_load(task->dataset, &picture, NULL, item, 0);
  if (!s) s = fvg_image_test_transform(c, &view, &picture, &m->preprocess);
  if (!s) s = x && map ? fvg_image_normalize(c, x, &view, &m->preprocess) : FVG_E_NOMEM;
  if (!s) s = paste(c, sheet, column, 0, &view);

  for (int row = 1; !s && row < ROWS; row++) {
    fvg_image heat;
    memset(&heat, 0, sizeof heat);
    s = fvg_attention_map(k[row - 1], map, x, item->label, FVG_GRAD_CAM);
    if (!s) s = fvg_image_overlay(c, &heat, &view, map);
    if (!s) s = paste(c, sheet, column, row, &heat);
    fvg_image_free(c, &heat);
  }
  fvg_image_free(c, &view);
  fvg_image_free(c, &picture);
  fvg_release(c, map);
  fvg_release(c, x);
  return s;
}

static fvg_status write_sheet(fvg_clip *m, const fvg_dataset *d, fvg_learner *coop, fvg_fvgpt *fvgpt, const char *path) {
  const fvg_task_desc all = {FVG_TEST, FVG_BASE, 0, 0};
  const fvg_classifier_desc branch[3] = {{FVG_ZERO_SHOT, NULL, NULL, NULL}, {FVG_TUNED, coop, NULL, NULL},
                                         {FVG_BRANCH_BASE, coop, fvgpt, NULL}};
  fvg_classifier *k[3] = {NULL, NULL, NULL};
  static uint8_t white[3 * (COLUMNS * STEP - (STEP - SIDE)) * (ROWS * STEP - (STEP - SIDE))];
  memset(white, 255, sizeof white);
  const fvg_image sheet = {COLUMNS * STEP - (STEP - SIDE), ROWS * STEP - (STEP - SIDE), 3, white, 1};

  fvg_task task;
  fvg_status s = fvg_task_draw(&task, d, &all);
  for (int i = 0; !s && i < 3; i++) s = fvg_classifier_new(m, &k[i], task.class_name, task.n_class, &branch[i]);

  int column = 0;
  for (int i = 0; !s && i < task.items.n && column < COLUMNS; i++) {
    const fvg_item *item = &task.items.item[i];
    if (item->label != column) continue;         /* column i shows class i */
    s = look(m, &sheet, column++, &task, item, k);
  }
  if (!s) s = fvg_image_save(m->ctx, &sheet, path);
  for (int i = 0; i < 3; i++) fvg_classifier_free(k[i]);
  fvg_task_free(&task);
  return s;
}

static fvg_status run(fvg_clip *m, const char *root, const char *path) {
  const fvg_task_desc sixteen = {FVG_TRAIN, FVG_BASE, 16, 1};
  fvg_dataset_desc where;
  memset(&where, 0, sizeof where);
  where.root = root;
  fvg_views_desc plain;
  memset(&plain, 0, sizeof plain);
  plain.augment = FVG_AUGMENT_NONE;
  fvg_learner_desc words;
  memset(&words, 0, sizeof words);
  words.ctx_init = "a photo of a";
  fvg_fvgpt_desc modules;
  memset(&modules, 0, sizeof modules);
  modules.width = m->embed_dim;
  modules.logit_scale = m->logit_scale;

  fvg_dataset d;
  fvg_task task;
  memset(&task, 0, sizeof task);
  fvg_learner *coop = NULL;
  fvg_fvgpt *fvgpt = NULL;
  fvg_views *v = NULL;
  fvg_status s = fvg_dataset_open(m->ctx, &d, &where);
  if (!s) s = fvg_task_draw(&task, &d, &sixteen);
  if (!s) s = fvg_views_new(m, &v, &d, &plain);
  if (!s) s = fvg_learner_new(m, &coop, task.class_name, task.n_class, &words);
  if (!s) s = fvg_learner_train(coop, v, &task, NULL);
  if (!s) s = fvg_fvgpt_new(m->ctx, &fvgpt, &modules);
  if (!s) s = fvg_fvgpt_train(fvgpt, coop, v, &task, NULL);
  if (!s) s = write_sheet(m, &d, coop, fvgpt, path);
  fvg_fvgpt_free(fvgpt);
  fvg_views_free(v);
  fvg_learner_free(coop);
  fvg_task_free(&task);
  fvg_dataset_free(&d);
  return s;
}

int main(int argc, char **argv) {
  if (argc != 4) return fprintf(stderr, "usage: where_it_looks MODEL_DIR DATA_ROOT OUT.png\n"), 1;
  fvg_clip *m = fvg_open(argv[1]);
  fvg_status s = m ? fvg_last_status(m->ctx) : FVG_E_NOMEM;
  if (!s) s = run(m, argv[2], argv[3]);
  if (s) fprintf(stderr, "%s\n", fvg_clip_error(m));
  fvg_close(m);
  return s != FVG_OK;
}
