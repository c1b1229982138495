/* What masks that are wrong do to FVG-PT's stage two, and what --distill stable changes.  Stage one is that of
     build/fvgpt tune --model MODEL --data ROOT --trainer CoOp,KgCoOp --augment none --seeds 1,2,3,4,5 --out RUNS
   and stage two is trained here on given masks, masks of CLIP's own, inverted ones and random ones, at two rates:
     cc -O2 -DFVGPT_STB_IMAGE -DFVGPT_DIRENT -DFVGPT_PTHREADS -o build/stable tests/stable.c -lm -lpthread
     build/stable MODEL ROOT RUNS [SEEDS]
   Prints means over the seeds as rows of tests/README.md's table, and at the end what the bars say.  It is no part of
   make test, because it wants a real model and photographs. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"
#include "shorthand.h"

enum { MAX_SEED = 16, MASKS = 4, WAYS = 3, RATES = 2, METHODS = 2 };
static const char *const mask_name[MASKS] = {"given", "own", "inverted", "random"};
static const char *const method_name[METHODS] = {"CoOp", "KgCoOp"};
static const float rate[RATES] = {0.0035f, 0.0084f};
enum { GIVEN, OWN, INVERTED, RANDOM };
enum { PUBLISHED, STABLE, WITHOUT };             /* ways to train the adapters; without: no distillation           */

static fvg_ctx *c;
static fvg_clip *m;
static fvg_dataset set;
static fvg_task test[2];                         /* base, new                                                      */
static float *feature[2];

typedef struct result { double base, ce, news; int told; } result;
static result backbone[METHODS][MAX_SEED], tuned[METHODS][RATES][MASKS][WAYS][MAX_SEED];
static int other_bits;                           /* runs whose scores of new classes are not the first one's       */

static void need(fvg_status s) {
  if (!s) return;
  fprintf(stderr, "%s\n", fvg_error(c));
  exit(1);
}

/* ---- masks ---- */
/* An ellipse that covers 5 to 60 per cent of the box around it that lies anywhere in the picture. */
static void draw_random(fvg_image *mask, const fvg_image *picture, fvg_rng *rng) {
  const int w = picture->width, h = picture->height;
  mask->width = w;
  mask->height = h;
  mask->channels = 1;
  mask->pixels = (uint8_t *)fvg_alloc(c, (size_t)w * (size_t)h);
  if (!mask->pixels) need(FVG_E_NOMEM);
  const double share = 0.05 + 0.55 * fvg_rng_uniform(rng), turn = exp(fvg_rng_uniform(rng) - 0.5);
  const double rx = 0.5 * w * sqrt(share) * turn, ry = 0.5 * h * sqrt(share) / turn;
  const double cx = w * fvg_rng_uniform(rng), cy = h * fvg_rng_uniform(rng);
  for (int y = 0; y < h; y++) {
    for (int x = 0; x < w; x++) {
      const double dx = (x - cx) / rx, dy = (y - cy) / ry;
      mask->pixels[y * w + x] = dx * dx + dy * dy <= 1 ? 255 : 0;
    }
  }
}

/* The task's pictures with other masks, as a data set in memory. */
static void with_masks(fvg_dataset *out, fvg_picture *picture, const fvg_task *task, int kind, int seed,
                       fvg_foreground *own) {
  fvg_rng rng;
  fvg_rng_seed(&rng, (uint64_t)seed, 77);
  for (int i = 0; i < task->items.n; i++) {
    const fvg_item *item = &task->items.item[i];
    fvg_picture *p = &picture[i];
    memset(p, 0, sizeof *p);
    p->label = item->label;
    p->split = FVG_TRAIN;
    const int given = kind == GIVEN || kind == INVERTED;
    need(fvg_dataset_load(&set, &p->image, given ? &p->mask : NULL, item, 0));
    if (kind == OWN) need(fvg_foreground_mask(own, &p->mask, NULL, &p->image, item->label));
    if (kind == RANDOM) draw_random(&p->mask, &p->image, &rng);
  }
  need(fvg_dataset_of_pictures(c, out, picture, task->items.n, task->class_name, task->n_class));
}

/* ---- scores ---- */
static double cross_entropy(const float *z, const fvg_items *items, int n_class) {
  double sum = 0;
  for (int i = 0; i < items->n; i++) {
    const float *row = z + i * n_class;
    double total = 0;
    for (int k = 0; k < n_class; k++) total += exp((double)row[k] - (double)row[items->item[i].label]);
    sum += log(total) / items->n;
  }
  return sum;
}

static double accuracy(const float *z, const fvg_items *items, int n_class) {
  int *label = (int *)malloc((size_t)items->n * sizeof *label);
  fvg_score score;
  for (int i = 0; i < items->n; i++) label[i] = items->item[i].label;
  need(fvg_score_of(c, &score, z, label, items->n, n_class));
  free(label);
  return score.accuracy;
}

/* The scores of the test pictures of one half, which the caller frees. */
static float *scores(fvg_branch branch, int half, fvg_learner *l, fvg_fvgpt *f) {
  const fvg_task *x = &test[half];
  float *z = (float *)malloc((size_t)x->items.n * (size_t)x->n_class * sizeof *z);
  fvg_classifier *k;
  fvg_classifier_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.branch = branch;
  desc.learner = l;
  desc.fvgpt = f;
  need(fvg_classifier_new(m, &k, x->class_name, x->n_class, &desc));
  need(fvg_classifier_logits(k, z, NULL, feature[half], x->items.n));
  fvg_classifier_free(k);
  return z;
}

/* new_scores: those that runs of this seed and rate must have, or NULL, which is then filled. */
static result measure(fvg_branch base_branch, fvg_branch new_branch, fvg_learner *l, fvg_fvgpt *f,
                      float **new_scores) {
  result r = {0, 0, 0, 0};
  float *z = scores(base_branch, 0, l, f);
  r.base = accuracy(z, &test[0].items, test[0].n_class);
  r.ce = cross_entropy(z, &test[0].items, test[0].n_class);
  free(z);

  z = scores(new_branch, 1, l, f);
  r.news = accuracy(z, &test[1].items, test[1].n_class);
  const size_t bytes = (size_t)test[1].items.n * (size_t)test[1].n_class * sizeof *z;
  if (new_scores && *new_scores) {
    other_bits += memcmp(z, *new_scores, bytes) != 0;
    free(z);
  } else if (new_scores) {
    *new_scores = z;
  } else {
    free(z);
  }
  return r;
}

/* ---- stage two ---- */
static result stage_two(fvg_learner *l, fvg_views *v, const fvg_task *task, int way, float lr, int seed,
                        float **new_scores) {
  fvg_fvgpt_desc modules;
  memset(&modules, 0, sizeof modules);
  modules.width = m->embed_dim;
  modules.logit_scale = m->logit_scale;
  modules.seed = (uint64_t)seed;
  modules.distill = way == STABLE ? FVG_DISTILL_STABLE : FVG_DISTILL_PUBLISHED;
  if (way == WITHOUT) modules.lambda_base = -1;
  if (way == STABLE && getenv("LAMBDA")) modules.lambda_base = (float)atof(getenv("LAMBDA"));

  double ce[2];                                  /* on the training pictures, as --guard sees them                 */
  fvg_recipe recipe;
  fvg_train_desc train;
  memset(&train, 0, sizeof train);
  fvg_fvgpt_recipe(fvg_method_find(fvg_learner_method(l)), &recipe, set.card);
  train.optimizer = recipe.optimizer;
  train.optimizer.lr = lr;
  train.batch = recipe.batch;
  train.seed = (uint64_t)seed + 1000000u;        /* as fvgpt tune has it                                           */
  train.cross_entropy = ce;

  fvg_fvgpt *f;
  need(fvg_fvgpt_new(c, &f, &modules));
  need(fvg_fvgpt_train(f, l, v, task, &train));
  result r = measure(FVG_BRANCH_BASE, FVG_BRANCH_NEW, l, f, new_scores);
  r.told = ce[1] > ce[0];
  fvg_fvgpt_free(f);
  return r;
}

static void study(const char *runs, int run, int seed) {
  fvg_task_desc desc;
  fvg_task task;
  memset(&desc, 0, sizeof desc);
  desc.split = FVG_TRAIN;
  desc.group = FVG_BASE;
  desc.shots = 16;
  desc.seed = (uint64_t)seed;
  need(fvg_task_draw(&task, &set, &desc));
  fvg_learner *l[METHODS];
  float *new_scores[METHODS][RATES] = {{NULL, NULL}, {NULL, NULL}};
  for (int k = 0; k < METHODS; k++) {
    char path[2000];
    fvg_fvgpt *none = NULL;
    snprintf(path, sizeof path, "%s/%s/seed%d/checkpoint.safetensors", runs, method_name[k], seed);
    need(fvg_checkpoint_load(m, &l[k], &none, NULL, path));
    backbone[k][run] = measure(FVG_TUNED, FVG_TUNED_NEW, l[k], NULL, NULL);
  }

  fvg_foreground *own;
  need(fvg_foreground_new(m, &own, task.class_name, task.n_class, NULL));
  fvg_picture *picture = (fvg_picture *)malloc((size_t)task.items.n * sizeof *picture);
  for (int kind = 0; kind < MASKS; kind++) {
    fvg_dataset masked;
    fvg_views *v;
    fvg_views_desc views;
    fvg_task on_masked = task;
    with_masks(&masked, picture, &task, kind, seed, own);
    on_masked.dataset = &masked;
    on_masked.items = masked.train;
    memset(&views, 0, sizeof views);
    views.augment = FVG_AUGMENT_NONE;
    views.invert_masks = kind == INVERTED;
    need(fvg_views_new(m, &v, &masked, &views));
    for (int i = 0; i < METHODS * RATES * WAYS; i++) {
      const int k = i / (RATES * WAYS), r = i / WAYS % RATES, way = i % WAYS;
      tuned[k][r][kind][way][run] = stage_two(l[k], v, &on_masked, way, rate[r], seed, &new_scores[k][r]);
    }
    fvg_views_free(v);
    fvg_dataset_free(&masked);
    for (int i = 0; i < task.items.n; i++) {
      fvg_image_free(c, &picture[i].image);
      fvg_image_free(c, &picture[i].mask);
    }
  }
  free(picture);
  fvg_foreground_free(own);
  for (int k = 0; k < METHODS; k++) {
    fvg_learner_free(l[k]);
    for (int r = 0; r < RATES; r++) free(new_scores[k][r]);
  }
  fvg_task_free(&task);
}

/* ---- the table ---- */
static result mean_of(const result *x, int n) {
  result mean = {0, 0, 0, 0};
  for (int i = 0; i < n; i++) {
    mean.base += x[i].base / n;
    mean.ce += x[i].ce / n;
    mean.news += x[i].news / n;
  }
  return mean;
}

static void print_table(int n) {
  int below[WAYS] = {0, 0, 0}, told[WAYS] = {0, 0, 0}, untold[WAYS] = {0, 0, 0}, means_below = 0, behind = 0;
  double worst[WAYS] = {0, 0, 0};
  printf("| lr | method | backbone | masks | published | stable | no distillation | new, all three |\n");
  for (int i = 0; i < METHODS * RATES * MASKS; i++) {
    const int r = i / (METHODS * MASKS), k = i / MASKS % METHODS, kind = i % MASKS;
    const result own = mean_of(backbone[k], n);
    result mean[WAYS];
    printf("| %g | %s | %.1f / %.2f | %s |", (double)rate[r], method_name[k], own.base, own.ce, mask_name[kind]);
    for (int way = 0; way < WAYS; way++) {
      const result *x = tuned[k][r][kind][way];
      mean[way] = mean_of(x, n);
      printf(" %.1f / %.2f |", mean[way].base, mean[way].ce);
      for (int s = 0; s < n; s++) {
        const int is_below = x[s].base < backbone[k][s].base - 1e-9;
        below[way] += is_below;
        told[way] += x[s].told;
        untold[way] += is_below && !x[s].told;
        worst[way] = fmin(worst[way], x[s].base - backbone[k][s].base);
      }
    }
    printf(" %.1f |\n", mean[STABLE].news);
    means_below += mean[STABLE].base < own.base - 1e-9;
    behind += kind == GIVEN && mean[STABLE].base < mean[PUBLISHED].base - 0.5 - 1e-9;
  }
  const int all = METHODS * RATES * MASKS * n;
  for (int way = 0; way < WAYS; way++) {
    printf("%s: %d of %d runs below their backbone, the worst at %.1f; a guard acts in %d, and leaves %d below\n",
           way == STABLE ? "stable" : way == WITHOUT ? "no distillation" : "published", below[way], all, worst[way],
           told[way], untold[way]);
  }
  printf("stable: %d of %d means below the backbone's; %d of %d more than 0.5 below published with given masks\n",
         means_below, METHODS * RATES * MASKS, behind, METHODS * RATES);
  printf("runs with other scores of new classes than the first of their seed and rate: %d\n", other_bits);
}

int main(int argc, char **argv) {
  if (argc < 4) { fprintf(stderr, "usage: stable MODEL ROOT RUNS [SEEDS]\n"); return 1; }
  const int n_seed = argc > 4 ? atoi(argv[4]) : 5;
  if (n_seed < 1 || n_seed > MAX_SEED) return 1;
  fvg_desc one;                                  /* thread: the steps are small, and bits do not depend on it      */
  memset(&one, 0, sizeof one);
  one.n_threads = 1;
  if (fvg_init(&c, &one)) return 1;
  fvg_dataset_desc where;
  memset(&where, 0, sizeof where);
  where.root = argv[2];
  need(fvg_clip_open(c, &m, argv[1], NULL, FVG_F32));
  need(fvg_dataset_open(c, &set, &where));
  for (int half = 0; half < 2; half++) {
    fvg_task_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.split = FVG_TEST;
    desc.group = half ? FVG_NEW : FVG_BASE;
    need(fvg_task_draw(&test[half], &set, &desc));
    feature[half] = (float *)malloc((size_t)test[half].items.n * (size_t)m->embed_dim * sizeof(float));
    need(fvg_encode_task(m, NULL, feature[half], &test[half]));
  }
  for (int run = 0; run < n_seed; run++) study(argv[3], run, run + 1);
  print_table(n_seed);

  for (int half = 0; half < 2; half++) {
    fvg_task_free(&test[half]);
    free(feature[half]);
  }
  fvg_dataset_free(&set);
  fvg_clip_free(m);
  fvg_free(c);
  return 0;
}
