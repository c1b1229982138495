/* Prints a hash of every number that fvgpt computes on the small world with the tiny CLIP: for each SIMD level of this
   CPU, plain features; for each method, what was learned, the bytes of its checkpoint, its features, logits and FVG-PT.
   A change that is meant to keep all bits prints the same lines before and after; tests/same_bits.sh compares them.

     same_bits MODEL_DIR DATA_ROOT FOLDER [LEVEL]     writes a checkpoint into FOLDER and removes it; LEVEL: that one alone */
#define FVGPT_PTHREADS
#define FVGPT_DIRENT
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"
#include "shorthand.h"

typedef struct study {
  fvg_ctx *c;
  fvg_clip *m;
  fvg_dataset d;
  fvg_items base, test[2];                       /* [0] base, [1] new                                              */
  const char *const *name[2];
  int n_class[2];
  const char *checkpoint;
} study;

static uint64_t mixed(uint64_t hash, const void *bytes, size_t n) {             /* FNV-1a                          */
  const unsigned char *b = (const unsigned char *)bytes;
  for (size_t i = 0; i < n; i++) hash = (hash ^ b[i]) * 1099511628211u;
  return hash;
}

static const uint64_t nothing = 14695981039346656037u;

static void print(const study *x, const char *method, const char *what, uint64_t hash) {
  printf("%-7s %-10s %-22s %016llx\n", fvg_simd_name(fvg_simd_level(x->c)), method, what, (unsigned long long)hash);
}

static int fails(const study *x, fvg_status s, const char *what) {
  if (s) printf("FAILED %s: %s\n", what, fvg_error(x->c));
  return s != FVG_OK;
}

static float *floats(size_t n) {
  float *x = (float *)calloc(n ? n : 1, sizeof *x);
  if (!x) exit(1);
  return x;
}

static uint64_t hash_of_file(const study *x) {
  uint8_t *bytes = NULL;
  size_t n = 0;
  fvg_source source;
  if (fails(x, fvg_source_file(x->c, &source, x->checkpoint), "open the checkpoint")) return 0;
  if (fails(x, fvg_source_read_all(x->c, &bytes, &n, &source), "read the checkpoint")) n = 0;
  uint64_t hash = mixed(nothing, bytes, n);
  fvg_bytes_free(x->c, bytes);
  fvg_source_close(&source);
  remove(x->checkpoint);
  return hash;
}

static void hash_learned(const study *x, const char *method, const char *what, fvg_learner *l, fvg_fvgpt *f) {
  int n;
  fvg_parameter *const *p = fvg_learner_parameters(l, &n);
  uint64_t hash = nothing;
  for (int i = 0; i < n; i++) hash = mixed(hash, p[i]->value.data, fvg_tensor_count(&p[i]->value) * sizeof(float));
  p = f ? fvg_fvgpt_parameters(f, &n) : p;
  for (int i = 0; f && i < n; i++)
    hash = mixed(hash, p[i]->value.data, fvg_tensor_count(&p[i]->value) * sizeof(float));
  print(x, method, what, hash);
  if (!fails(x, fvg_checkpoint_save(l, f, x->checkpoint, NULL, 0), "save"))
    print(x, method, "checkpoint file", hash_of_file(x));
}

/* Features of the half's pictures, their logits, b, and the attention map of the first picture. */
static void hash_branch(const study *x, const char *method, fvg_branch branch, int half, fvg_learner *l, fvg_fvgpt *f) {
  static const char *const called[] = {"zero-shot", "tuned", "tuned new", "FVG-PT base", "FVG-PT new"};
  const fvg_items *items = &x->test[half];
  size_t width = (size_t)fvg_learner_feature_width(x->m, l), n = (size_t)items->n;
  size_t side = (size_t)x->m->vision.image_size;
  float *features = floats(n * width), *logits = floats(n * (size_t)x->n_class[half]), *b = floats(n);
  float *pixels = floats(3 * side * side), *map = floats(side * side);
  fvg_classifier *k = NULL;
  fvg_image picture, view;
  fvg_status s = fvg_encode_task(x->m, l, features, task_of(&x->d, items));
  if (!s) s = new_classifier(x->m, &k, branch, l, f, NULL, x->name[half], x->n_class[half]);
  if (!s) s = fvg_classifier_logits(k, logits, b, features, items->n);
  char what[64];
  snprintf(what, sizeof what, "%s %s", half ? "new" : "base", called[branch]);
  if (!fails(x, s, what)) {
    uint64_t hash = mixed(nothing, features, n * width * sizeof(float));
    hash = mixed(hash, logits, n * (size_t)x->n_class[half] * sizeof(float));
    print(x, method, what, mixed(hash, b, n * sizeof(float)));
  }
  if (!s) s = fvg_dataset_load(&x->d, &picture, NULL, &items->item[0], 0);
  if (!s) {
    s = fvg_image_test_transform(x->c, &view, &picture, &x->m->preprocess);
    if (!s) s = fvg_image_normalize(x->c, pixels, &view, &x->m->preprocess);
    if (!s) s = fvg_attention_map(k, map, pixels, 0, FVG_GRAD_CAM);
    if (!fails(x, s, "map")) print(x, method, "map", mixed(nothing, map, side * side * sizeof(float)));
    if (!s) s = fvg_attention_map(k, map, pixels, 0, FVG_RELEVANCE);
    if (!fails(x, s, "relevance")) print(x, method, "relevance", mixed(nothing, map, side * side * sizeof(float)));
    fvg_image_free(x->c, &view);
    fvg_image_free(x->c, &picture);
  }
  fvg_classifier_free(k);
  free(features);
  free(logits);
  free(b);
  free(pixels);
  free(map);
}

static void tune(const study *x, const fvg_method *method) {
  const char *name = fvg_method_name(method);
  fvg_learner *l = NULL, *dpc = NULL;
  fvg_views *v = NULL, *tuned_v = NULL;
  fvg_fvgpt *f = NULL;
  fvg_views_desc views;
  memset(&views, 0, sizeof views);
  views.seed = 3;
  views.crop_scale_min = fvg_method_crop_scale(method);
  fvg_learner_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.method = method;
  desc.seed = 3;
  fvg_train_desc train;
  memset(&train, 0, sizeof train);
  train.optimizer = fvg_method_optimizer(method, &train.batch);
  train.optimizer.epochs = 2;
  train.seed = 3;

  fvg_status s = fvg_learner_new(x->m, &l, x->name[0], x->n_class[0], &desc);
  if (!s) s = fvg_views_new(x->m, &v, &x->d, &views);
  if (!s) s = fvg_learner_train(l, v, task_of(NULL, &x->base), &train);
  if (!fails(x, s, name)) {
    hash_learned(x, name, "learned", l, NULL);
    hash_branch(x, name, FVG_TUNED, 0, l, NULL);
    hash_branch(x, name, FVG_TUNED_NEW, 1, l, NULL);
  }

  if (!s && fvg_dpc_knows(method)) {
    train.optimizer = fvg_dpc_optimizer(&train.batch);
    train.optimizer.epochs = 1;
    s = fvg_learner_copy(&dpc, l);
    if (!s) s = fvg_dpc_train(dpc, l, v, task_of(NULL, &x->base), NULL, &train);
    if (!fails(x, s, "DPC")) hash_learned(x, name, "DPC learned", dpc, NULL);
    if (!s) hash_branch(x, name, FVG_TUNED, 0, dpc, NULL);
    fvg_learner_free(dpc);
  }

  views.learner = l;
  fvg_fvgpt_desc modules;
  memset(&modules, 0, sizeof modules);
  modules.width = x->m->embed_dim;
  modules.logit_scale = x->m->logit_scale;
  modules.seed = 3;
  memset(&train, 0, sizeof train);
  train.optimizer.epochs = 2;
  train.seed = 3;
  if (strcmp(name, "CoCoOp")) {                  /* its words change with the picture: FVG-PT does not take it      */
    if (!s) s = fvg_views_new(x->m, &tuned_v, &x->d, &views);
    if (!s) s = fvg_fvgpt_new(x->c, &f, &modules);
    if (!s) s = fvg_fvgpt_train(f, l, tuned_v, task_of(NULL, &x->base), &train);
    if (!fails(x, s, "FVG-PT")) {
      hash_learned(x, name, "FVG-PT learned", l, f);
      hash_branch(x, name, FVG_BRANCH_BASE, 0, l, f);
      hash_branch(x, name, FVG_BRANCH_NEW, 1, l, f);
    }
  }
  fvg_fvgpt_free(f);
  fvg_views_free(tuned_v);
  fvg_views_free(v);
  fvg_learner_free(l);
}

static int run(int simd, const char *model, const char *root, const char *checkpoint) {
  study x;
  fvg_desc desc;
  memset(&desc, 0, sizeof desc);
  memset(&x, 0, sizeof x);
  desc.simd = simd;
  desc.n_threads = 2;
  x.checkpoint = checkpoint;
  if (fvg_init(&x.c, &desc)) return 1;
  fvg_dataset_desc where;
  memset(&where, 0, sizeof where);
  where.root = root;
  fvg_items few = {NULL, 0};
  int fewest;
  fvg_status s = fvg_clip_open(x.c, &x.m, model, NULL, FVG_F32);
  if (!s) s = fvg_dataset_open(x.c, &x.d, &where);
  if (!s) s = fvg_items_few_shot(x.c, &few, &fewest, &x.d.train, x.d.n_class, 2, 1);
  if (!s) s = fvg_items_group(x.c, &x.base, &few, x.d.n_class, FVG_BASE);
  for (int half = 0; half < 2 && !s; half++) {
    int first;
    x.n_class[half] = fvg_group_classes(x.d.n_class, half ? FVG_NEW : FVG_BASE, &first);
    x.name[half] = (const char *const *)x.d.class_name + first;
    s = fvg_items_group(x.c, &x.test[half], &x.d.test, x.d.n_class, half ? FVG_NEW : FVG_BASE);
  }
  int failed = fails(&x, s, "open");
  if (!failed) {
    hash_branch(&x, "CLIP", FVG_ZERO_SHOT, 0, NULL, NULL);
    hash_branch(&x, "CLIP", FVG_ZERO_SHOT, 1, NULL, NULL);
    for (int i = 0; fvg_method_at(i); i++) tune(&x, fvg_method_at(i));
  }
  fvg_items_free(x.c, &few);
  fvg_items_free(x.c, &x.base);
  fvg_items_free(x.c, &x.test[0]);
  fvg_items_free(x.c, &x.test[1]);
  fvg_dataset_free(&x.d);
  fvg_clip_free(x.m);
  fvg_free(x.c);
  return failed;
}

int main(int argc, char **argv) {
  if (argc < 4) { fprintf(stderr, "usage: same_bits MODEL_DIR DATA_ROOT FOLDER [LEVEL]\n"); return 1; }
  char checkpoint[4096];
  snprintf(checkpoint, sizeof checkpoint, "%s/same_bits.safetensors", argv[3]);
  int failed = 0;
  for (int level = FVG_SIMD_SCALAR; level <= FVG_SIMD_WASM; level++) {
    fvg_ctx *c;
    fvg_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.simd = level;
    if (fvg_init(&c, &desc)) continue;
    int runs = fvg_simd_level(c) == level;       /* a level that this CPU lacks gives a lower one, or an error      */
    fvg_free(c);
    if (runs && argc > 4) runs = !strcmp(argv[4], fvg_simd_name(level));
    if (runs) failed |= run(level, argv[1], argv[2], checkpoint);
  }
  return failed;
}
