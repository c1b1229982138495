/* 11 - own masks on own pictures: FVG-PT with masks from a file, from CLIP, and from your own code.
        cc -O2 -I.. 11_own_masks.c -o own_masks -lm
        ./own_masks tiny-clip ../build/demo/things                                    (after make demo)

   To learn here: where masks come from, and how good they must be.  A data set that has a folder
   mask/ needs nothing.  fvg_foreground lets CLIP make masks.  fvg_dataset_set_mask takes any that
   you compute; here it is an old trick: what has no colour of the picture's edge is the thing.

   For each of the three the program prints how far the masks agree with those in the files (IoU:
   1 is the same, 0 has nothing in common), and what FVG-PT makes of them, on the same CoOp.  All
   three raise CoOp's H here.  The best masks are not the best row, but a row is one run on 320
   base and 320 new pictures, where one picture is 0.31: this is too little to rank masks by. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_DIRENT                             /* list folders through <dirent.h> */
#include "fvgpt_clip.h"

/* How far a pixel's colour is from the nearest one at the edge of the picture. */
static int distance_to_edge(const fvg_image *picture, int pixel) {
  const int w = picture->width, h = picture->height;
  const uint8_t *colour = picture->pixels + 3 * pixel;
  int nearest = 3 * 255;
  for (int i = 0; i < w * h; i++) {
    const int inside = i > w && i < w * (h - 1) && i % w > 0;
    if (inside) i += w - 1 - i % w;              /* on to the last pixel of the row */
    const uint8_t *edge = picture->pixels + 3 * i;
    int distance = 0;
    for (int k = 0; k < 3; k++) distance += abs(colour[k] - edge[k]);
    if (distance < nearest) nearest = distance;
  }
  return nearest;
}

/* Your own code.  The threshold of 20 grey levels fits the pictures of this world. */
static fvg_status mask_by_colour(fvg_ctx *c, fvg_image *mask, const fvg_image *picture) {
  const int n = picture->width * picture->height;
  memset(mask, 0, sizeof *mask);
  mask->pixels = FVG_NEW_ARRAY(c, uint8_t, (size_t)n);
  if (!mask->pixels) return FVG_E_NOMEM;

  mask->width = picture->width;
  mask->height = picture->height;
  mask->channels = 1;
  for (int i = 0; i < n; i++) mask->pixels[i] = distance_to_edge(picture, i) > 20 ? 255 : 0;
  return FVG_OK;
}

/* Gives every picture of the task the mask of the code above. */
static fvg_status set_own_masks(fvg_dataset *d, const fvg_items *items) {
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < items->n; i++) {
    fvg_image picture, mask;
    memset(&mask, 0, sizeof mask);
    s = fvg_dataset_load(d, &picture, NULL, &items->item[i], 0);
    if (!s) s = mask_by_colour(d->ctx, &mask, &picture);
    if (!s) s = fvg_dataset_set_mask(d, items->item[i].path, &mask);           /* it copies the mask */
    fvg_image_free(d->ctx, &mask);
    fvg_image_free(d->ctx, &picture);
  }
  return s;
}

/* The mean IoU of the masks in use with those in the files. */
static fvg_status compare(double *iou, const fvg_dataset *used, const fvg_dataset *files, const fvg_items *items) {
  fvg_status s = FVG_OK;
  *iou = 0;
  for (int i = 0; !s && i < items->n; i++) {
    fvg_image a, b;
    memset(&b, 0, sizeof b);
    s = fvg_dataset_load(used, NULL, &a, &items->item[i], 0);
    if (!s) s = fvg_dataset_load(files, NULL, &b, &items->item[i], 0);
    if (!s) *iou += fvg_mask_iou(&a, &b) / items->n;
    fvg_image_free(used->ctx, &a);
    fvg_image_free(used->ctx, &b);
  }
  return s;
}

/* One row: FVG-PT on the tuned CoOp, with the masks that the data set has now.  The views are made anew for each row,
   because they keep the foreground features of the masks that they have seen. */
static fvg_status train_and_test(fvg_clip *m, const char *name, const fvg_task *task, const fvg_dataset *files,
                                 fvg_learner *coop) {
  static fvg_fvgpt_desc modules;                 /* static: all zero, and zeros stand for defaults */
  static fvg_views_desc plain;
  plain.augment = FVG_AUGMENT_NONE;
  modules.width = m->embed_dim;
  modules.logit_scale = m->logit_scale;
  fvg_fvgpt *fvgpt = NULL;
  fvg_views *v = NULL;
  fvg_base_to_new score;
  double iou = 0;
  fvg_status s = compare(&iou, task->dataset, files, &task->items);
  if (!s) s = fvg_views_new(m, &v, task->dataset, &plain);
  if (!s) s = fvg_fvgpt_new(m->ctx, &fvgpt, &modules);
  if (!s) s = fvg_fvgpt_train(fvgpt, coop, v, task, NULL);
  if (!s) s = fvg_test_base_to_new(m, &score, task->dataset, coop, fvgpt, NULL);
  if (!s) printf("%-14s IoU %.2f   base %6.2f   new %6.2f   H %6.2f\n", name, iou, score.base, score.new_, score.h);
  fvg_fvgpt_free(fvgpt);
  fvg_views_free(v);
  return s;
}

static fvg_status run(fvg_clip *m, const char *root) {
  static fvg_dataset_desc where;
  static fvg_views_desc plain;
  static fvg_learner_desc words;
  static fvg_dataset d, files;                   /* the same set twice: `files` keeps the masks of its files */
  static fvg_task task;
  const fvg_task_desc sixteen = {FVG_TRAIN, FVG_BASE, 16, 1};
  fvg_learner *coop = NULL;
  fvg_views *v = NULL;
  fvg_foreground *maker = NULL;
  where.root = root;
  plain.augment = FVG_AUGMENT_NONE;
  plain.no_foreground = 1;                       /* CoOp needs no masks */
  words.ctx_init = "a photo of a";
  fvg_base_to_new score;
  fvg_status s = fvg_dataset_open(m->ctx, &d, &where);
  if (!s) s = fvg_dataset_open(m->ctx, &files, &where);
  if (!s) s = fvg_task_draw(&task, &d, &sixteen);
  if (!s) s = fvg_views_new(m, &v, &d, &plain);
  if (!s) s = fvg_learner_new(m, &coop, task.class_name, task.n_class, &words);
  if (!s) s = fvg_learner_train(coop, v, &task, NULL);
  if (!s) s = fvg_test_base_to_new(m, &score, &d, coop, NULL, NULL);
  if (!s) printf("CoOp, no masks            base %6.2f   new %6.2f   H %6.2f\n", score.base, score.new_, score.h);

  if (!s) s = train_and_test(m, "from files", &task, &files, coop);
  if (!s) s = fvg_foreground_new(m, &maker, task.class_name, task.n_class, NULL);
  if (!s) s = fvg_foreground_mask_items(maker, &d, &task.items);
  if (!s) s = train_and_test(m, "made by CLIP", &task, &files, coop);
  if (!s) s = set_own_masks(&d, &task.items);
  if (!s) s = train_and_test(m, "by your code", &task, &files, coop);

  fvg_foreground_free(maker);
  fvg_views_free(v);
  fvg_learner_free(coop);
  fvg_task_free(&task);
  fvg_dataset_free(&files);
  fvg_dataset_free(&d);
  return s;
}

int main(int argc, char **argv) {
  if (argc != 3) return fprintf(stderr, "usage: own_masks MODEL_DIR DATA_ROOT\n"), 1;
  fvg_clip *m = fvg_open(argv[1]);
  fvg_status s = m ? m->failed : FVG_E_NOMEM;
  if (!s) s = run(m, argv[2]);
  if (s) fprintf(stderr, "%s\n", fvg_clip_error(m));
  fvg_close(m);
  return s != FVG_OK;
}
