/* demo_maps MODEL DATA_ROOT RUNS - how often the hottest point of a map lies inside the object, in % of the base-class
   test pictures, mean over seeds 1 to 3: of plain CLIP, of CoOp and of FVG-PT, first by Grad-CAM and then by relevance
   against the other classes, in a line.  RUNS: a folder of `make demo`. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_DIRENT
#include "../fvgpt_clip.h"

enum { SEEDS = 3, SIDE = 64, AREA = SIDE * SIDE };

static const fvg_map_kind kind[2] = {FVG_GRAD_CAM, FVG_RELEVANCE};

/* Adds to inside[] whether the picture's maps are hottest inside. */
static fvg_status look(fvg_clip *m, const fvg_task *task, const fvg_item *item, fvg_classifier *k, double inside[2]) {
  static float x[3 * AREA], map[AREA];
  fvg_image picture, mask;
  fvg_status s = fvg_dataset_load(task->dataset, &picture, &mask, item, 0);
  if (s) return s;
  s = fvg_image_normalize(m->ctx, x, &picture, &m->preprocess);
  for (int i = 0; !s && i < 2; i++) {
    s = fvg_attention_map(k, map, x, item->label, kind[i]);
    if (!s) inside[i] += fvg_hottest_inside(map, &mask);
  }
  fvg_image_free(m->ctx, &mask);
  fvg_image_free(m->ctx, &picture);
  return s;
}

/* The shares of a classifier, added to share[]. */
static fvg_status measure(fvg_clip *m, const fvg_task *task, const fvg_classifier_desc *desc, double share[2]) {
  fvg_classifier_desc against_classes = *desc;
  fvg_classifier *k;
  double inside[2] = {0, 0};
  against_classes.n_background = -1;
  fvg_status s = fvg_classifier_new(m, &k, task->class_name, task->n_class, &against_classes);
  if (s) return s;
  for (int i = 0; !s && i < task->items.n; i++) s = look(m, task, &task->items.item[i], k, inside);
  for (int i = 0; i < 2; i++) share[i] += 100 * inside[i] / task->items.n;
  fvg_classifier_free(k);
  return s;
}

static fvg_status measure_tuned(fvg_clip *m, const fvg_task *task, const char *runs, int seed, double coop[2],
                                double with_fvgpt[2]) {
  char path[1000];
  fvg_learner *l;
  fvg_fvgpt *f;
  snprintf(path, sizeof path, "%s/FVGPT_CoOp/seed%d/checkpoint.safetensors", runs, seed);
  fvg_status s = fvg_checkpoint_load(m, &l, &f, NULL, path);
  if (s) return s;
  fvg_classifier_desc tuned, base;
  memset(&tuned, 0, sizeof tuned);
  tuned.branch = FVG_TUNED;
  tuned.learner = l;
  base = tuned;
  base.branch = FVG_BRANCH_BASE;
  base.fvgpt = f;
  s = measure(m, task, &tuned, coop);
  if (!s) s = measure(m, task, &base, with_fvgpt);
  fvg_fvgpt_free(f);
  fvg_learner_free(l);
  return s;
}

static fvg_status run(fvg_clip *m, const char *root, const char *runs) {
  const fvg_task_desc pictures = {FVG_TEST, FVG_BASE, 0, 0};
  double clip[2] = {0, 0}, coop[2] = {0, 0}, with_fvgpt[2] = {0, 0};
  fvg_classifier_desc zero_shot;
  fvg_dataset_desc where;
  memset(&zero_shot, 0, sizeof zero_shot);
  memset(&where, 0, sizeof where);
  where.root = root;
  fvg_dataset d;
  fvg_task task;
  memset(&task, 0, sizeof task);
  fvg_status s = fvg_dataset_open(m->ctx, &d, &where);
  if (!s) s = fvg_task_draw(&task, &d, &pictures);
  if (!s) s = measure(m, &task, &zero_shot, clip);
  for (int seed = 1; !s && seed <= SEEDS; seed++) s = measure_tuned(m, &task, runs, seed, coop, with_fvgpt);
  for (int i = 0; !s && i < 2; i++)
    printf("%.1f %.1f %.1f%c", clip[i], coop[i] / SEEDS, with_fvgpt[i] / SEEDS, i ? '\n' : ' ');
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
