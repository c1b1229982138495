/* What fvgpt_clip.h does with heads and with ensembles of templates: fitting on tasks, scoring like any classifier, and
   checkpoints. */
#define FVGPT_PTHREADS
#include "random_model.h"

enum { CLASSES = 3, EACH = 8, PICTURES = CLASSES * EACH };
static const char *const names[CLASSES] = {"cat", "cab", "photo"};
static fvg_clip *m;
static fvg_dataset set;
static uint8_t pixels[PICTURES][PIXELS];

/* 4 pictures a class to train, 2 of val, 2 to test; each class has a colour under noise. */
static void make_set(void) {
  static fvg_picture picture[PICTURES];
  fvg_rng r;
  fvg_rng_seed(&r, 8, 0);
  for (int i = 0; i < PICTURES; i++) {
    fvg_picture *p = &picture[i];
    p->label = i % CLASSES;
    p->split = i / CLASSES < 4 ? FVG_TRAIN : i / CLASSES < 6 ? FVG_VAL : FVG_TEST;
    p->image.width = p->image.height = IMAGE;
    p->image.channels = 3;
    p->image.pixels = pixels[i];
    for (int k = 0; k < PIXELS; k++) pixels[i][k] = (uint8_t)(fvg_rng_below(&r, 90) + (k % 3 == p->label ? 150 : 20));
  }
  need(!fvg_dataset_of_pictures(c, &set, picture, PICTURES, names, CLASSES), "a data set");
}

static fvg_task draw_task(fvg_split split, int shots) {
  fvg_task_desc desc;
  fvg_task t;
  memset(&desc, 0, sizeof desc);
  desc.split = split;
  desc.shots = shots;
  desc.seed = 1;
  need(!fvg_task_draw(&t, &set, &desc), "a task");
  return t;
}

/* ---- ensembles ---- */
static void test_templates(void) {
  static const char *const two[] = {"a photo of a {}.", "of {} x"};
  static float one[2][CLASSES * EMBED], both[CLASSES * EMBED], expected[CLASSES * EMBED], z[CLASSES], z_expected[CLASSES];
  int n_selected, n_all, ok = 1;
  const char *const *selected = fvg_template_list(FVG_TEMPLATES_SELECTED, &n_selected);
  const char *const *all = fvg_template_list(FVG_TEMPLATES_PROMPTSRC, &n_all);
  check(n_selected == 7 && n_all == 60 && fvg_template_list(FVG_TEMPLATES_SELECTED, NULL) == selected, "seven and sixty");
  for (int i = 0; i < n_all; i++) {
    const char *at = strstr(all[i], "{}");
    ok = ok && at && !strstr(at + 2, "{}");
    for (int k = 0; k < i; k++) ok = ok && strcmp(all[i], all[k]);
  }
  for (int i = 0; i < n_selected; i++) ok = ok && strstr(selected[i], "{}") != NULL;
  check(ok, "each has a place for the name, and none is there twice");

  for (int i = 0; i < 2; i++) need(!fvg_clip_encode_classes(m, one[i], two[i], names, CLASSES), "one template");
  for (int i = 0; i < CLASSES * EMBED; i++) expected[i] = (one[0][i] + one[1][i]) / 2;
  fvg_normalize_rows(expected, CLASSES, EMBED);
  check(!fvg_clip_encode_ensemble(m, both, two, 2, names, CLASSES) && difference(both, expected, CLASSES * EMBED) < 1e-6,
        "the mean of normalised features");
  check(!fvg_clip_encode_ensemble(m, both, two, 1, names, CLASSES) && difference(both, one[0], CLASSES * EMBED) < 1e-6,
        "an ensemble of one");
  check(fvg_clip_encode_ensemble(m, both, two, 0, names, CLASSES) == FVG_E_ARG && one_line("template", ""), "no template");
  check(fvg_clip_encode_ensemble(m, both, NULL, 1, names, CLASSES) == FVG_E_ARG, "templates that are NULL");
  check(fvg_clip_encode_ensemble(m, NULL, two, 2, names, CLASSES) == FVG_E_ARG, "no place for features");
  static const char *const bad[] = {"a photo of a {}.", "a photo"};
  check(fvg_clip_encode_ensemble(m, both, bad, 2, names, CLASSES) == FVG_E_ARG, "a template without {}");

  /* A classifier of one template as the ensemble and the other beside it. */
  fvg_classifier_desc desc;
  fvg_classifier *k;
  float f[EMBED];
  memset(&desc, 0, sizeof desc);
  desc.ensemble = &two[1];
  desc.n_ensemble = 1;
  desc.prompt_template = two[0];
  need(!fvg_clip_encode_images(m, f, images, 1), "a feature");
  fvg_normalize_rows(f, 1, EMBED);
  check(!fvg_classifier_new(m, &k, names, CLASSES, &desc) && !fvg_classifier_logits(k, z, NULL, f, 1), "a classifier");
  for (int i = 0; i < CLASSES; i++) {
    z_expected[i] = 0;
    for (int j = 0; j < EMBED; j++) z_expected[i] += m->logit_scale * f[j] * expected[i * EMBED + j];
  }
  check(difference(z, z_expected, CLASSES) < 1e-5, "a classifier with an ensemble");
  fvg_classifier_free(k);
}

/* ---- tasks ---- */
static fvg_head *fit_task(fvg_head_kind kind, const fvg_head_task *x) {
  fvg_head_desc desc;
  fvg_head *h;
  memset(&desc, 0, sizeof desc);
  desc.epochs = 5;
  if (fvg_head_fit_task(m, &h, kind, x, &desc)) { printf("FAILED to fit: %s\n", fvg_error(c)); exit(1); }
  return h;
}

static int same_head(fvg_head *a, fvg_head *b, const float *f, int n) {
  static float z[2][PICTURES * CLASSES];
  int ok = !fvg_head_logits(a, z[0], f, n) && !fvg_head_logits(b, z[1], f, n) && same(z[0], z[1], n * CLASSES);
  fvg_head_free(a);
  fvg_head_free(b);
  return ok;
}

static void test_tasks(void) {
  static float f[PICTURES * EMBED], f_val[PICTURES * EMBED], text[CLASSES * EMBED], crops[2 * PICTURES * EMBED];
  static float one[PICTURES * EMBED];
  static int index[PICTURES];
  fvg_task train = draw_task(FVG_TRAIN, 3), val = draw_task(FVG_VAL, 3), few = draw_task(FVG_VAL, 1);
  check(train.items.n == 9 && val.items.n == 6 && few.items.n == 3, "shots of train and val");
  need(!fvg_encode_task(m, NULL, f, &train) && !fvg_encode_task(m, NULL, f_val, &val), "features");
  need(!fvg_clip_encode_classes(m, text, NULL, names, CLASSES), "texts");

  /* What is left out is computed, with the same bits. */
  fvg_head_task x, y;
  memset(&x, 0, sizeof x);
  x.train = &train;
  x.val = &val;
  y = x;
  y.f = f;
  y.f_val = f_val;
  y.text = text;
  for (int kind = 0; kind <= FVG_GDA; kind++)
    check(same_head(fit_task((fvg_head_kind)kind, &x), fit_task((fvg_head_kind)kind, &y), f_val, 6), "what is left out is computed");
  fvg_head *h = fit_task(FVG_GDA, &x);
  const char *name;
  double value = 0;
  for (int i = 0; fvg_head_choice(h, i, &name, &value) && strcmp(name, "val_accuracy"); i++) {}
  check(!strcmp(name, "val_accuracy") && value >= 0, "val chooses");
  fvg_head_free(h);

  /* Crops: epoch v of views is crop v. */
  fvg_views_desc vd;
  memset(&vd, 0, sizeof vd);
  vd.augment = FVG_AUGMENT_FIXED_CROPS;
  vd.n_crops = 2;
  vd.no_foreground = 1;
  need(!fvg_views_new(m, &x.views, &set, &vd), "views");
  x.n_view = y.n_view = 2;
  for (int i = 0; i < 9; i++) index[i] = i;
  for (int v = 0; v < 2; v++) {
    need(!fvg_views_get(x.views, one, NULL, NULL, &train.items, index, 9, v), "crops");
    for (int i = 0; i < 9; i++) memcpy(crops + (2 * i + v) * EMBED, one + i * EMBED, EMBED * sizeof *one);
  }
  y.f = crops;
  check(!same(crops, crops + EMBED, EMBED), "two crops of a picture differ");
  check(same_head(fit_task(FVG_GDA, &x), fit_task(FVG_GDA, &y), f_val, 6), "two crops of each picture");
  fvg_views_free(x.views);
  x.views = NULL;

  h = NULL;
  check(fvg_head_fit_task(m, &h, FVG_GDA, &x, NULL) == FVG_E_ARG && one_line("2 crops", "views"), "crops without views");
  check(fvg_head_fit_task(m, &h, FVG_GDA, NULL, NULL) == FVG_E_ARG && !h, "no task");
  check(fvg_head_fit_task(m, NULL, FVG_GDA, &x, NULL) == FVG_E_ARG, "no place");
  fvg_task other = val;
  other.n_class = 2;
  x.val = &other;
  check(fvg_head_fit_task(m, &h, FVG_GDA, &x, NULL) == FVG_E_SHAPE && one_line("3 classes", "pictures of 2"), "val of other classes");
  fvg_task_free(&train);
  fvg_task_free(&val);
  fvg_task_free(&few);
}

/* ---- classifiers ---- */
static void test_classifiers(void) {
  static float f[PICTURES * EMBED], z[PICTURES * CLASSES], z_head[PICTURES * CLASSES], p[CLASSES], map[IMAGE * IMAGE];
  fvg_task train = draw_task(FVG_TRAIN, 0), test = draw_task(FVG_TEST, 0);
  fvg_head_task x;
  memset(&x, 0, sizeof x);
  x.train = &train;
  need(!fvg_encode_task(m, NULL, f, &test), "features");
  for (int kind = 0; kind <= FVG_GDA; kind++) {
    fvg_head *h = fit_task((fvg_head_kind)kind, &x);
    fvg_classifier_desc desc;
    fvg_classifier *k;
    fvg_score score;
    memset(&desc, 0, sizeof desc);
    desc.head = h;
    check(!fvg_classifier_new(m, &k, names, CLASSES, &desc), "a classifier of a head");
    check(!fvg_classifier_logits(k, z, NULL, f, 6) && !fvg_head_logits(h, z_head, f, 6) && same(z, z_head, 6 * CLASSES),
          "the head's logits");
    int right = 0, best = 0;
    for (int i = 0; i < 6; i++) {
      int top = 0;
      for (int j = 1; j < CLASSES; j++) if (z[i * CLASSES + j] > z[i * CLASSES + top]) top = j;
      right += top == test.items.item[i].label;
      if (!i) best = top;
    }
    check(!fvg_classifier_test(k, &score, &test) && score.n_correct == right, "the head's accuracy");
    fvg_image image;
    need(!fvg_dataset_load(&set, &image, NULL, &test.items.item[0], 0), "a picture");
    check(fvg_classifier_image(k, p, &image) == best && p[best] > 1.0f / CLASSES, "the head on a picture");
    fvg_image_free(c, &image);
    for (int how = FVG_GRAD_CAM; how <= FVG_RELEVANCE; how++)
      check(!fvg_attention_map(k, map, images, 1, (fvg_map_kind)how), "maps of a head");
    fvg_classifier_free(k);

    check(fvg_classifier_new(m, &k, names, 2, &desc) == FVG_E_SHAPE && !k && one_line("3 classes", "2 classes"), "other classes");
    desc.branch = FVG_TUNED;
    check(fvg_classifier_new(m, &k, names, CLASSES, &desc) == FVG_E_ARG && !k, "another branch");
    fvg_head_free(h);
  }

  /* Of another context, or another width. */
  fvg_ctx *other;
  float rows[2 * 5] = {1, 0, 0, 0, 0, 0, 1, 0, 0, 0};
  int label[2] = {0, 1};
  fvg_head_data data;
  fvg_head *h;
  fvg_classifier_desc desc;
  fvg_classifier *k;
  need(!fvg_init(&other, NULL), "another context");
  memset(&data, 0, sizeof data);
  memset(&desc, 0, sizeof desc);
  data.width = 5;
  data.n_class = data.n = 2;
  data.f = data.text = rows;
  data.label = label;
  for (int mine = 0; mine < 2; mine++) {
    need(!fvg_head_fit(mine ? c : other, &h, FVG_TIP_ADAPTER, &data, NULL), "a head of width 5");
    desc.head = h;
    check(fvg_classifier_new(m, &k, names, 2, &desc) == (mine ? FVG_E_SHAPE : FVG_E_ARG) && !k, "a head from elsewhere");
    fvg_head_free(h);
  }
  fvg_free(other);
  fvg_task_free(&train);
  fvg_task_free(&test);
}

/* ---- checkpoints ---- */
static fvg_status read_bytes(fvg_clip *clip, fvg_head_checkpoint *x, const buffer *b, size_t n) {
  fvg_source source = fvg_source_memory(b->bytes, n, "head.safetensors");
  return fvg_head_checkpoint_read(clip, x, &source);
}

/* A file with the metadata of a head's checkpoint and a head of two classes and this width. */
static void write_foreign(buffer *b, int width, const char *classes, const char *format) {
  float rows[2 * EMBED] = {0};
  int label[2] = {0, 1};
  fvg_head_data data;
  fvg_head *h;
  const fvg_metadata said[] = {{"format", format}, {"classes", classes}, {"prompt_template", ""}};
  memset(&data, 0, sizeof data);
  rows[0] = rows[width + 1] = 1;
  data.width = width;
  data.n_class = data.n = 2;
  data.f = data.text = rows;
  data.label = label;
  b->n = 0;
  need(!fvg_head_fit(c, &h, FVG_TIP_ADAPTER, &data, NULL) && !fvg_head_write(h, append, b, said, 3), "a head of two classes");
  fvg_head_free(h);
}

static void test_bad_checkpoints(void) {
  static buffer b;
  fvg_head_checkpoint y;
  fvg_learner_desc ld;
  fvg_learner *l;
  fvg_fvgpt *none;
  write_foreign(&b, EMBED, "[\"a\", \"b\"]", "fvgpt 1");
  check(!read_bytes(m, &y, &b, b.n) && y.n_class == 2, "a file made by hand");
  fvg_head_checkpoint_free(m, &y);
  write_foreign(&b, EMBED, "[\"a\"]", "fvgpt 1");
  check(read_bytes(m, &y, &b, b.n) == FVG_E_FORMAT && !y.head && one_line("1 class names", "2 classes"), "too few names");
  write_foreign(&b, EMBED, "[1, 2]", "fvgpt 1");
  check(read_bytes(m, &y, &b, b.n) == FVG_E_FORMAT && one_line("head.safetensors", "not a string"), "names that are numbers");
  write_foreign(&b, EMBED, "[\"a\", \"b\"]", "fvgpt 2");
  check(read_bytes(m, &y, &b, b.n) == FVG_E_FORMAT && one_line("fvgpt 2", "only"), "another format");
  write_foreign(&b, 5, "[\"a\", \"b\"]", "fvgpt 1");
  check(read_bytes(m, &y, &b, b.n) == FVG_E_SHAPE && !y.settings && one_line("width 5", "40"), "another width");
  fvg_source source = fvg_source_memory(b.bytes, b.n, "head.safetensors");
  check(fvg_checkpoint_read(m, &l, &none, NULL, &source) == FVG_E_FORMAT && one_line("not a checkpoint of tuned prompts", ""),
        "a head is no learner");

  memset(&ld, 0, sizeof ld);
  ld.n_ctx = 2;
  b.n = 0;
  need(!fvg_learner_new(m, &l, names, CLASSES, &ld) && !fvg_checkpoint_write(l, NULL, append, &b, NULL, 0), "a learner");
  check(read_bytes(m, &y, &b, b.n) == FVG_E_FORMAT && one_line("not the checkpoint of a head", ""), "a learner is no head");
  fvg_learner_free(l);
  free(b.bytes);
  memset(&b, 0, sizeof b);
}

/* Reads as often as it takes, with room for one more allocation each time. */
typedef struct miser { int left; } miser;
static void *miser_alloc(void *user, size_t n) { miser *x = (miser *)user; return x->left-- > 0 ? malloc(n) : NULL; }
static void miser_release(void *user, void *block, size_t n) { (void)user; (void)n; free(block); }

static void test_little_memory(const buffer *b) {
  miser left = {1 << 30};
  fvg_ctx *usual = c, *poor;
  fvg_desc desc;
  fvg_status s = FVG_E_NOMEM;
  int ok = 1, n;
  memset(&desc, 0, sizeof desc);
  desc.allocator.alloc = miser_alloc;
  desc.allocator.release = miser_release;
  desc.allocator.user = &left;
  need(!fvg_init(&poor, &desc), "a poor context");
  c = poor;
  fvg_clip *clip = must_load(&hf, NULL, FVG_F32);
  size_t before = fvg_mem_used(poor);
  for (n = 0; n < 1000 && s; n++) {
    fvg_head_checkpoint x;
    static buffer again;
    left.left = n;
    again.n = 0;
    s = read_bytes(clip, &x, b, b->n);
    if (!s) s = fvg_head_checkpoint_write(clip, append, &again, &x, NULL, 0);
    fvg_head_checkpoint_free(clip, &x);
    if ((s && s != FVG_E_NOMEM) || fvg_mem_used(poor) != before) ok = 0;
    left.left = 1 << 30;
  }
  check(ok && !s && n > 10, "no memory: every allocation may fail, nothing stays");
  fvg_clip_free(clip);
  fvg_free(poor);
  c = usual;
}

static void test_checkpoints(void) {
  static float f[PICTURES * EMBED], z[PICTURES * CLASSES], z_read[PICTURES * CLASSES];
  static const fvg_metadata said[] = {{"shots", "4"}};
  buffer b = {NULL, 0, 0};
  fvg_task train = draw_task(FVG_TRAIN, 0);
  fvg_head_task x;
  memset(&x, 0, sizeof x);
  x.train = &train;
  need(!fvg_encode_task(m, NULL, f, &train), "features");
  for (int kind = 0; kind <= FVG_GDA; kind++) {
    fvg_head_checkpoint k, y;
    memset(&k, 0, sizeof k);
    k.head = fit_task((fvg_head_kind)kind, &x);
    k.class_name = names;
    k.n_class = CLASSES;
    k.prompt_template = "of {}";
    b.n = 0;
    check(!fvg_head_checkpoint_write(m, append, &b, &k, said, 1), "a checkpoint is written");
    check(!read_bytes(m, &y, &b, b.n), "a checkpoint is read");
    if (!y.head) { printf("%s\n", fvg_error(c)); exit(1); }
    check(y.n_class == CLASSES && !strcmp(y.class_name[1], "cab") && !strcmp(y.prompt_template, "of {}") &&
          !strcmp(fvg_weights_metadata(y.settings, "shots"), "4"), "names, template and settings");
    check(!fvg_head_logits(k.head, z, f, 12) && !fvg_head_logits(y.head, z_read, f, 12) && same(z, z_read, 12 * CLASSES),
          "the same logits");
    fvg_head_checkpoint_free(m, &y);
    if (kind == FVG_GDA) test_little_memory(&b);

    int refused = 1, harmless = 1;
    size_t before = fvg_mem_used(c);
    for (size_t n = 0; n < b.n; n += 1 + n / 64) refused = refused && read_bytes(m, &y, &b, n) && !y.head && !y.settings;
    check(refused, "every cut is refused");
    for (size_t at = 0; at < b.n; at += 1 + at / 2048) {
      b.bytes[at] = (char)(b.bytes[at] ^ 4);
      fvg_status s = read_bytes(m, &y, &b, b.n);
      if (!s && y.n_class <= CLASSES) {                                /* then it was the checksum's own name */
        need(!fvg_head_logits(y.head, z_read, f, 12), "logits");
        harmless = harmless && same(z, z_read, 12 * CLASSES);
      }
      fvg_head_checkpoint_free(m, &y);
      b.bytes[at] = (char)(b.bytes[at] ^ 4);
    }
    check(harmless && fvg_mem_used(c) == before, "every wrong byte that matters is found");

    k.n_class = 2;
    check(fvg_head_checkpoint_write(m, append, &b, &k, NULL, 0) == FVG_E_SHAPE, "names of other classes");
    k.n_class = CLASSES;
    check(fvg_head_checkpoint_write(m, NULL, NULL, &k, NULL, 0) == FVG_E_ARG, "nowhere to write");
    check(fvg_head_checkpoint_write(m, append, &b, &k, NULL, 1) == FVG_E_ARG, "settings that are NULL");
    fvg_head_free(k.head);
  }

  /* A file on the disk, and none. */
  const char *path = "build/test-heads.safetensors";
  fvg_head_checkpoint k, y;
  memset(&k, 0, sizeof k);
  k.head = fit_task(FVG_GDA, &x);
  k.class_name = names;
  k.n_class = CLASSES;
  check(!fvg_head_checkpoint_save(m, path, &k, NULL, 0) && !fvg_head_checkpoint_load(m, &y, path), "a file");
  check(y.head && !strcmp(y.prompt_template, ""), "without a template");
  fvg_head_checkpoint_free(m, &y);
  remove(path);
  check(fvg_head_checkpoint_load(m, &y, path) == FVG_E_IO && !y.head, "no such file");
  check(fvg_head_checkpoint_load(m, &y, NULL) == FVG_E_ARG && fvg_head_checkpoint_load(m, NULL, path) == FVG_E_ARG, "no path");
  check(fvg_head_checkpoint_save(m, path, NULL, NULL, 0) == FVG_E_ARG, "no checkpoint");
  fvg_head_free(k.head);
  fvg_task_free(&train);
  free(b.bytes);
}

int main(void) {
  if (fvg_init(&c, NULL)) return 1;
  make_random_model();
  m = must_load(&hf, NULL, FVG_F32);
  make_set();
  test_templates();
  test_tasks();
  test_classifiers();
  test_checkpoints();
  test_bad_checkpoints();
  fvg_dataset_free(&set);
  fvg_clip_free(m);
  check(fvg_mem_used(c) == 0, "all memory was given back");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
