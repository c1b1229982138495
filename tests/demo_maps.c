/* demo_maps MODEL DATA_ROOT RUNS - how often the hottest point of a Grad-CAM lies inside the object, in % of the
   base-class test pictures, mean over seeds 1 to 3: of plain CLIP, of CoOp and of FVG-PT, in a line.  RUNS: a folder of
   `make demo`. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_DIRENT
#include "../fvgpt_clip.h"

enum { SEEDS = 3, SIDE = 64, AREA = SIDE * SIDE };

/* Whether the greatest value of the map lies inside; a map of zeros has none. */
static int is_inside(const float *map, const fvg_image *mask) {
  int hottest = 0;
  for (int i = 1; i < AREA; i++) {
    if (map[i] > map[hottest]) hottest = i;
  }
  return map[hottest] > 0 && mask->pixels[hottest];
}

static fvg_status look(fvg_clip *m, const fvg_task *task, const fvg_item *item, fvg_classifier *k, int *inside) {
  static float x[3 * AREA], map[AREA];
  fvg_image picture, mask;
  fvg_status s = fvg_dataset_load(task->dataset, &picture, &mask, item, 0);
  if (s) return s;
  s = fvg_image_normalize(m->ctx, x, &picture, &m->preprocess);
  if (!s) s = fvg_attention_map(k, map, x, item->label, FVG_GRAD_CAM);
  if (!s) *inside += is_inside(map, &mask);
  fvg_image_free(m->ctx, &mask);
  fvg_image_free(m->ctx, &picture);
  return s;
}

/* The share of a classifier, added to *share. */
static fvg_status measure(fvg_clip *m, const fvg_task *task, const fvg_classifier_desc *desc, double *share) {
  fvg_classifier *k;
  int inside = 0;
  fvg_status s = fvg_classifier_new(m, &k, task->class_name, task->n_class, desc);
  if (s) return s;
  for (int i = 0; !s && i < task->items.n; i++) s = look(m, task, &task->items.item[i], k, &inside);
  *share += 100.0 * inside / task->items.n;
  fvg_classifier_free(k);
  return s;
}

static fvg_status measure_tuned(fvg_clip *m, const fvg_task *task, const char *runs, int seed, double *coop,
                                double *with_fvgpt) {
  char path[1000];
  fvg_learner *l;
  fvg_fvgpt *f;
  snprintf(path, sizeof path, "%s/FVGPT_CoOp/seed%d/checkpoint.safetensors", runs, seed);
  fvg_status s = fvg_checkpoint_load(m, &l, &f, NULL, path);
  if (s) return s;
  const fvg_classifier_desc tuned = {FVG_TUNED, l, NULL, NULL}, base = {FVG_BRANCH_BASE, l, f, NULL};
  s = measure(m, task, &tuned, coop);
  if (!s) s = measure(m, task, &base, with_fvgpt);
  fvg_fvgpt_free(f);
  fvg_learner_free(l);
  return s;
}

static fvg_status run(fvg_clip *m, const char *root, const char *runs) {
  const fvg_task_desc pictures = {FVG_TEST, FVG_BASE, 0, 0};
  double clip = 0, coop = 0, with_fvgpt = 0;
  fvg_dataset_desc where;
  memset(&where, 0, sizeof where);
  where.root = root;
  fvg_dataset d;
  fvg_task task;
  memset(&task, 0, sizeof task);
  fvg_status s = fvg_dataset_open(m->ctx, &d, &where);
  if (!s) s = fvg_task_draw(&task, &d, &pictures);
  if (!s) s = measure(m, &task, NULL, &clip);
  for (int seed = 1; !s && seed <= SEEDS; seed++) s = measure_tuned(m, &task, runs, seed, &coop, &with_fvgpt);
  if (!s) printf("%.1f %.1f %.1f\n", clip, coop / SEEDS, with_fvgpt / SEEDS);
  fvg_task_free(&task);
  fvg_dataset_free(&d);
  return s;
}

int main(int argc, char **argv) {
  if (argc != 4) return fprintf(stderr, "usage: demo_maps MODEL DATA_ROOT RUNS\n"), 1;
  fvg_clip *m = fvg_open(argv[1]);
  fvg_status s = m ? fvg_last_status(m->ctx) : FVG_E_NOMEM;
  if (!s) s = run(m, argv[2], argv[3]);
  if (s) fprintf(stderr, "%s\n", fvg_clip_error(m));
  fvg_close(m);
  return s != FVG_OK;
}
