/* The heads on real features, for tests/heads.py:

     heads MODEL DATA [--shots K] [--seed S] [--crops V] [--out FILE]

   fits every head on the base classes of a data set, K shots of seed S, V crops of each picture (1: the test transform),
   val as Dassl draws it, and prints a line for each: accuracy on the base and on the new classes' test pictures, what val
   chose, and the seconds that fitting took.  FILE receives the features, the labels, and every head's logits.

     cc -O2 -DFVGPT_DIRENT -DFVGPT_PTHREADS -DFVGPT_STB_IMAGE -o build/heads tests/heads.c -lm -lpthread */
#define _POSIX_C_SOURCE 199309L
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"
#include <time.h>

enum { MOST_TENSORS = 64 };

typedef struct wanted {
  const char *model, *data, *out;
  int shots, crops;
  uint64_t seed;
} wanted;

/* Pictures of a split, their labels and their features. */
typedef struct pictures {
  fvg_task task;
  int *label;
  float *f;
} pictures;

typedef struct run {
  fvg_ctx *c;
  fvg_clip *m;
  fvg_dataset d;
  pictures train, val, base, new_;
  float *crops, *text, *text_new;
  fvg_named_tensor tensor[MOST_TENSORS];
  char name[MOST_TENSORS][48];
  int n;
} run;

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int read_arguments(wanted *x, int argc, char **argv) {
  memset(x, 0, sizeof *x);
  x->shots = 16;
  x->seed = 1;
  x->crops = 1;
  for (int i = 1; i < argc; i++) {
    const char *value = i + 1 < argc ? argv[i + 1] : "";
    if (!strcmp(argv[i], "--shots")) x->shots = atoi(value), i++;
    else if (!strcmp(argv[i], "--seed")) x->seed = (uint64_t)atoi(value), i++;
    else if (!strcmp(argv[i], "--crops")) x->crops = atoi(value), i++;
    else if (!strcmp(argv[i], "--out")) x->out = value, i++;
    else if (!x->model) x->model = argv[i];
    else if (!x->data) x->data = argv[i];
    else return 0;
  }
  return x->data && x->crops > 0;
}

/* A tensor of n_dim dimensions for the file; the data stay where they are. */
static void keep(run *r, const char *name, void *data, fvg_dtype type, int a, int b) {
  if (r->n >= MOST_TENSORS) return;
  fvg_named_tensor *t = &r->tensor[r->n];
  snprintf(r->name[r->n], sizeof r->name[0], "%s", name);
  t->name = r->name[r->n++];
  t->tensor.data = data;
  t->tensor.type = type;
  t->tensor.n_dim = b ? 2 : 1;
  t->tensor.dim[0] = a;
  t->tensor.dim[1] = b;
}

static fvg_status draw(run *r, pictures *x, fvg_split split, fvg_group group, int shots, uint64_t seed) {
  fvg_task_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.split = split;
  desc.group = group;
  desc.shots = shots;
  desc.seed = seed;
  fvg_status s = fvg_task_draw(&x->task, &r->d, &desc);
  if (s) return s;
  const int n = x->task.items.n;
  x->label = FVG_NEW_ARRAY(r->c, int, (size_t)n + 1);
  x->f = FVG_NEW_ARRAY(r->c, float, (size_t)(n + 1) * (size_t)r->m->embed_dim);
  if (!x->label || !x->f) return FVG_E_NOMEM;
  for (int i = 0; i < n; i++) x->label[i] = x->task.items.item[i].label;
  return fvg_encode_task(r->m, NULL, x->f, &x->task);
}

/* The crops of the training pictures, [n, crops, d]. */
static fvg_status make_crops(run *r, const wanted *x) {
  const fvg_items *items = &r->train.task.items;
  const size_t d = (size_t)r->m->embed_dim;
  r->crops = FVG_NEW_ARRAY(r->c, float, (size_t)items->n * (size_t)x->crops * d);
  if (!r->crops) return FVG_E_NOMEM;
  if (x->crops == 1) {
    memcpy(r->crops, r->train.f, (size_t)items->n * d * sizeof(float));
    return FVG_OK;
  }
  fvg_views_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.augment = FVG_AUGMENT_FIXED_CROPS;
  desc.n_crops = x->crops;
  desc.crop_scale_min = 0.5f;
  desc.no_foreground = 1;
  desc.seed = x->seed;
  fvg_views *v;
  fvg_status s = fvg_views_new(r->m, &v, &r->d, &desc);
  for (int i = 0; !s && i < items->n; i++)
    for (int k = 0; !s && k < x->crops; k++)
      s = fvg_views_get(v, r->crops + ((size_t)i * (size_t)x->crops + (size_t)k) * d, NULL, NULL, items, &i, 1, k);
  fvg_views_free(v);
  return s;
}

static fvg_status accuracy(run *r, fvg_head *h, const pictures *x, const char *what, double *percent) {
  char name[48];
  const int n = x->task.items.n, n_class = x->task.n_class;
  float *z = FVG_NEW_ARRAY(r->c, float, (size_t)n * (size_t)n_class);
  fvg_score score;
  fvg_status s = z ? fvg_head_logits(h, z, x->f, n) : FVG_E_NOMEM;
  if (!s) s = fvg_score_of(r->c, &score, z, x->label, n, n_class);
  if (s) return s;
  *percent = score.accuracy;
  snprintf(name, sizeof name, "%s.%s", what, fvg_head_name(fvg_head_is(h)));
  keep(r, name, z, FVG_F32, n, n_class);
  return FVG_OK;
}

/* The trained tensors of a head go to the file, under the head's name: what comes after them can then be computed again. */
static int append(void *user, const void *bytes, size_t n) {
  return fwrite(bytes, 1, n, (FILE *)user) != n;
}

static fvg_status fit(run *r, const wanted *x, fvg_head_kind kind, const fvg_head_data *data) {
  double start = seconds(), base = 0, on_new = 0, value;
  fvg_head *h, *for_new;
  fvg_head_desc desc;
  const char *name;
  memset(&desc, 0, sizeof desc);
  desc.gda_rule = FVG_GDA_BASE_TO_NEW;
  desc.seed = x->seed;
  fvg_status s = fvg_head_fit(r->c, &h, kind, data, &desc);
  if (s) return s;
  printf("%-14s %6.2f s  ", fvg_head_name(kind), seconds() - start);
  s = accuracy(r, h, &r->base, "base", &base);
  if (!s && fvg_head_knows_new(kind)) {
    start = seconds();
    s = fvg_head_for_new(h, &for_new, r->text_new, r->new_.task.n_class);
    printf("new classes %.2f s  ", seconds() - start);
    if (!s) s = accuracy(r, for_new, &r->new_, "new", &on_new);
    if (!s) fvg_head_free(for_new);
  }
  printf("base %.2f", base);
  if (fvg_head_knows_new(kind)) printf("  new %.2f", on_new);
  for (int i = 0; fvg_head_choice(h, i, &name, &value); i++) printf("  %s %.9g", name, value);
  printf("\n");

  if (!s && x->out) {
    char path[1024];
    snprintf(path, sizeof path, "%s.%s", x->out, fvg_head_name(kind));
    FILE *f = fopen(path, "wb");
    if (!f) return fvg_fail(r->c, FVG_E_IO, "%s: cannot be written", path);
    s = fvg_head_write(h, append, f, NULL, 0);
    if (fclose(f) && !s) s = FVG_E_IO;
  }
  fvg_head_free(h);
  return s;
}

/* The probe of the default c, which has one minimum that others can find too. */
static fvg_status fit_probe(run *r, fvg_head_data data) {
  data.n_val = 0;
  const int n = r->base.task.items.n;
  float *z = FVG_NEW_ARRAY(r->c, float, (size_t)n * (size_t)data.n_class);
  fvg_head *h;
  fvg_status s = z ? fvg_head_fit(r->c, &h, FVG_LINEAR_PROBE, &data, NULL) : FVG_E_NOMEM;
  if (s) return s;
  keep(r, "base.LinearProbe.default", z, FVG_F32, n, data.n_class);
  s = fvg_head_logits(h, z, r->base.f, n);
  fvg_head_free(h);
  return s;
}

static fvg_status zero_shot(run *r) {
  int n_selected, n_all;
  const char *templates[64];
  const char *const *selected = fvg_template_list(FVG_TEMPLATES_SELECTED, &n_selected);
  const char *const *all = fvg_template_list(FVG_TEMPLATES_PROMPTSRC, &n_all);
  const char *own = r->d.card ? r->d.card->prompt_template : "a photo of a {}.";
  memcpy((void *)templates, selected, (size_t)n_selected * sizeof *selected);
  templates[n_selected] = own;
  for (int list = 0; list < 3; list++) {
    fvg_classifier_desc desc;
    double percent[2];
    memset(&desc, 0, sizeof desc);
    desc.prompt_template = own;
    if (list) desc.ensemble = list == 1 ? selected : all;
    if (list) desc.n_ensemble = list == 1 ? n_selected : n_all;
    for (int half = 0; half < 2; half++) {
      const pictures *x = half ? &r->new_ : &r->base;
      fvg_classifier *k;
      fvg_score score;
      fvg_status s = fvg_classifier_new(r->m, &k, x->task.class_name, x->task.n_class, &desc);
      if (!s) s = fvg_classifier_test(k, &score, &x->task);
      if (s) return s;
      percent[half] = score.accuracy;
      fvg_classifier_free(k);
    }
    printf("zero-shot, %d template%s: base %.2f  new %.2f\n", 1 + desc.n_ensemble, list ? "s" : "", percent[0], percent[1]);
  }
  return FVG_OK;
}

static fvg_status everything(run *r, const wanted *x) {
  fvg_dataset_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.root = x->data;
  fvg_status s = fvg_clip_open(r->c, &r->m, x->model, NULL, FVG_F32);
  if (!s) s = fvg_dataset_open(r->c, &r->d, &desc);
  if (!s) s = draw(r, &r->train, FVG_TRAIN, FVG_BASE, x->shots, x->seed);
  if (!s) s = draw(r, &r->val, FVG_VAL, FVG_BASE, x->shots, x->seed);
  if (!s) s = draw(r, &r->base, FVG_TEST, FVG_BASE, 0, 0);
  if (!s) s = draw(r, &r->new_, FVG_TEST, FVG_NEW, 0, 0);
  if (!s) s = make_crops(r, x);
  if (s) return s;

  const int d = r->m->embed_dim, n_base = r->base.task.n_class, n_new = r->new_.task.n_class;
  const char *own = r->d.card ? r->d.card->prompt_template : NULL;
  r->text = FVG_NEW_ARRAY(r->c, float, (size_t)n_base * (size_t)d);
  r->text_new = FVG_NEW_ARRAY(r->c, float, (size_t)n_new * (size_t)d);
  if (!r->text || !r->text_new) return FVG_E_NOMEM;
  s = fvg_clip_encode_classes(r->m, r->text, own, r->base.task.class_name, n_base);
  if (!s) s = fvg_clip_encode_classes(r->m, r->text_new, own, r->new_.task.class_name, n_new);
  if (s) return s;

  fvg_head_data data;
  memset(&data, 0, sizeof data);
  data.width = d;
  data.n_class = n_base;
  data.n = r->train.task.items.n;
  data.n_view = x->crops;
  data.f = r->crops;
  data.label = r->train.label;
  data.text = r->text;
  data.n_val = r->val.task.items.n;
  data.f_val = r->val.f;
  data.label_val = r->val.label;
  data.logit_scale = r->m->logit_scale;
  printf("%d classes, %d pictures of %d crops, %d of val, %d and %d to test, width %d, s %g\n", n_base, data.n, x->crops,
         data.n_val, r->base.task.items.n, r->new_.task.items.n, d, (double)data.logit_scale);
  s = zero_shot(r);
  for (int kind = 0; !s && kind <= FVG_GDA; kind++) s = fit(r, x, (fvg_head_kind)kind, &data);
  if (!s) s = fit_probe(r, data);
  if (s || !x->out) return s;

  float *scale = FVG_NEW(r->c, float);
  if (!scale) return FVG_E_NOMEM;
  *scale = data.logit_scale;
  keep(r, "scale", scale, FVG_F32, 1, 0);
  keep(r, "crops", r->crops, FVG_F32, data.n * x->crops, d);
  keep(r, "label", r->train.label, FVG_I32, data.n, 0);
  keep(r, "val", r->val.f, FVG_F32, data.n_val, d);
  keep(r, "val.label", r->val.label, FVG_I32, data.n_val, 0);
  keep(r, "base", r->base.f, FVG_F32, r->base.task.items.n, d);
  keep(r, "new", r->new_.f, FVG_F32, r->new_.task.items.n, d);
  keep(r, "text", r->text, FVG_F32, n_base, d);
  keep(r, "text.new", r->text_new, FVG_F32, n_new, d);
  return fvg_safetensors_save(r->c, x->out, r->tensor, r->n, NULL, 0);
}

int main(int argc, char **argv) {
  static run r;
  wanted x;
  if (!read_arguments(&x, argc, argv)) {
    fprintf(stderr, "heads MODEL DATA [--shots K] [--seed S] [--crops V] [--out FILE]\n");
    return 2;
  }
  fvg_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.n_threads = 2;
  if (fvg_init(&r.c, &desc)) return 1;
  fvg_status s = everything(&r, &x);             /* the program ends here, and its memory with it */
  if (s) fprintf(stderr, "%s\n", fvg_error(r.c));
  return s != FVG_OK;
}
