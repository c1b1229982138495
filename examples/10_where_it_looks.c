/* 10 - where a classifier looks, and where the object is: one picture of pictures.
        cc -O2 -I.. 10_where_it_looks.c -o where_it_looks -lm
        ./where_it_looks tiny-clip ../build/demo/things looks.png                           (after make demo)

   To learn here: how maps and masks are made.  CoOp and FVG-PT are tuned as in example 04.  The first row of looks.png
   holds the first test picture of each of six base classes.  Rows 2 and 3 show what moved the score of its class, by
   Grad-CAM: of CoOp, and of FVG-PT.  Row 4 shows what the patches say, by FVG-PT's relevance map against the other
   classes.  In row 5 only the mask is left that CLIP makes by itself. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_DIRENT                             /* list folders through <dirent.h> */
#include "fvgpt_clip.h"

enum { COLUMNS = 6, ROWS = 5, SIDE = 128, STEP = SIDE + 6 };     /* pixels of the sheet: a picture and a white gap */

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

/* What a column is made with. */
typedef struct maker {
  fvg_clip *m;
  const fvg_dataset *d;
  fvg_classifier *coop, *fvgpt;
  fvg_foreground *foreground;
} maker;

/* A heat map over the view x. */
static fvg_status paste_map(const maker *w, const fvg_image *sheet, int column, int row, const fvg_image *view,
                            const float *x, int label, fvg_classifier *k, fvg_map_kind kind) {
  fvg_ctx *c = w->m->ctx;
  float *map = FVG_NEW_ARRAY(c, float, (size_t)view->width * (size_t)view->height);
  fvg_image heat;
  memset(&heat, 0, sizeof heat);
  fvg_status s = map ? fvg_attention_map(k, map, x, label, kind) : FVG_E_NOMEM;
  if (!s) s = fvg_image_overlay(c, &heat, view, map);
  if (!s) s = paste(c, sheet, column, row, &heat);
  fvg_image_free(c, &heat);
  fvg_release(c, map);
  return s;
}

/* The picture with white where the mask is not; its class is told, as it is for training pictures. */
static fvg_status paste_object(const maker *w, const fvg_image *sheet, int column, int row, fvg_image *picture,
                               int label) {
  fvg_image mask;
  fvg_status s = fvg_foreground_mask(w->foreground, &mask, NULL, picture, label);
  if (s) return s;
  for (int i = 0; i < mask.width * mask.height; i++)
    if (!mask.pixels[i]) memset(picture->pixels + 3 * i, 255, 3);
  fvg_image_free(w->m->ctx, &mask);
  return paste(w->m->ctx, sheet, column, row, picture);
}

/* A column of the sheet: what the tower sees of the picture, three maps, and the object. */
static fvg_status look(const maker *w, const fvg_image *sheet, int column, const fvg_item *item) {
  fvg_ctx *c = w->m->ctx;
  const fvg_preprocess *how = &w->m->preprocess;
  float *x = FVG_NEW_ARRAY(c, float, 3 * (size_t)how->size * (size_t)how->size);
  fvg_image picture, view;
  memset(&view, 0, sizeof view);
  fvg_status s = fvg_dataset_load(w->d, &picture, NULL, item, 0);
  if (!s) s = fvg_image_test_transform(c, &view, &picture, how);
  if (!s) s = x ? fvg_image_normalize(c, x, &view, how) : FVG_E_NOMEM;
  if (!s) s = paste(c, sheet, column, 0, &view);
  if (!s) s = paste_map(w, sheet, column, 1, &view, x, item->label, w->coop, FVG_GRAD_CAM);
  if (!s) s = paste_map(w, sheet, column, 2, &view, x, item->label, w->fvgpt, FVG_GRAD_CAM);
  if (!s) s = paste_map(w, sheet, column, 3, &view, x, item->label, w->fvgpt, FVG_RELEVANCE);
  if (!s) s = paste_object(w, sheet, column, 4, &picture, item->label);
  fvg_image_free(c, &view);
  fvg_image_free(c, &picture);
  fvg_release(c, x);
  return s;
}

/* Two classifiers, and masks with words for the backgrounds of the demo's world. */
static fvg_status make_ready(maker *w, const fvg_task *task, fvg_learner *coop, fvg_fvgpt *fvgpt) {
  static const char *const ground[] = {
    "on a plain background", "on a fading background", "in front of stripes", "on a checked floor", "on a dotted cloth",
    "in the snow", "on the sea", "in front of a brick wall", "on the grass", "on the sand", "in a starry night",
    "on a target", "on a zigzag carpet", "among small things", "on wooden planks", "on a plaid blanket"
  };
  fvg_classifier_desc branch;
  memset(&branch, 0, sizeof branch);
  branch.branch = FVG_TUNED;
  branch.learner = coop;
  branch.n_background = -1;                      /* relevance is against the other classes */
  fvg_status s = fvg_classifier_new(w->m, &w->coop, task->class_name, task->n_class, &branch);
  branch.branch = FVG_BRANCH_BASE;
  branch.fvgpt = fvgpt;
  if (!s) s = fvg_classifier_new(w->m, &w->fvgpt, task->class_name, task->n_class, &branch);

  fvg_foreground_desc words;
  memset(&words, 0, sizeof words);
  words.background = ground;
  words.n_background = (int)(sizeof ground / sizeof *ground);
  words.background_template = "a photo {}.";
  if (!s) s = fvg_foreground_new(w->m, &w->foreground, task->class_name, task->n_class, &words);
  return s;
}

static fvg_status write_sheet(fvg_clip *m, const fvg_dataset *d, fvg_learner *coop, fvg_fvgpt *fvgpt, const char *path) {
  const fvg_task_desc all = {FVG_TEST, FVG_BASE, 0, 0};
  static uint8_t white[3 * (COLUMNS * STEP - (STEP - SIDE)) * (ROWS * STEP - (STEP - SIDE))];
  memset(white, 255, sizeof white);
  const fvg_image sheet = {COLUMNS * STEP - (STEP - SIDE), ROWS * STEP - (STEP - SIDE), 3, white, 1};
  maker w = {m, d, NULL, NULL, NULL};
  fvg_task task;
  fvg_status s = fvg_task_draw(&task, d, &all);
  if (!s) s = make_ready(&w, &task, coop, fvgpt);

  int column = 0;
  for (int i = 0; !s && i < task.items.n && column < COLUMNS; i++) {
    const fvg_item *item = &task.items.item[i];
    if (item->label != column) continue;         /* column i shows class i */
    s = look(&w, &sheet, column++, item);
  }
  if (!s) s = fvg_image_save(m->ctx, &sheet, path);
  fvg_foreground_free(w.foreground);
  fvg_classifier_free(w.fvgpt);
  fvg_classifier_free(w.coop);
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
