/* test_data.c - chapters 25 to 31 of fvgpt_clip.h: data sets from split files, folders and lists, few-shot draws,
   halves, scores. Run from the repository root; writes small files under build/test-data. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_DIRENT
#include "../fvgpt_clip.h"
#ifdef FVGPT_STB_IMAGE
#include "make_pictures.h"
#endif
#include <sys/stat.h>

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

#define BASE "build/test-data"

/* ---- small files ---- */
static void make_folders(const char *path) {                       /* every folder on the way to the last slash   */
  char part[512];
  size_t i;
  for (i = 0; path[i] && i + 1 < sizeof part; i++) {
    if (path[i] == '/' && i) { part[i] = 0; mkdir(part, 0777); }
    part[i] = path[i];
  }
}

static void write_bytes(const char *path, const void *bytes, size_t n) {
  FILE *f;
  make_folders(path);
  f = fopen(path, "wb");
  if (!f || fwrite(bytes, 1, n, f) != n) printf("cannot write %s\n", path);
  if (f) fclose(f);
}

static void write_text(const char *path, const char *text) { write_bytes(path, text, strlen(text)); }

static void write_grey(const char *path, int width, int height, const unsigned char *pixels) {
  char text[600];
  int n = snprintf(text, 100, "P5\n%d %d\n255\n", width, height);
  memcpy(text + n, pixels, (size_t)(width * height));
  write_bytes(path, text, (size_t)(n + width * height));
}

static fvg_status open_set(fvg_ctx *c, fvg_dataset *d, const char *root, const char *split) {
  fvg_dataset_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.root = root;
  desc.split = split;
  return fvg_dataset_open(c, d, &desc);
}

static fvg_status open_named(fvg_ctx *c, fvg_dataset *d, const char *root, const char *dataset, const char *split) {
  fvg_dataset_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.root = root;
  desc.dataset = dataset;
  desc.split = split;
  return fvg_dataset_open(c, d, &desc);
}

static int says(fvg_ctx *c, const char *a, const char *b) {        /* one line that holds both                    */
  const char *e = fvg_error(c);
  int ok = strstr(e, a) && strstr(e, b) && !strchr(e, '\n');
  if (!ok) printf("  message: %s\n  wanted: %s / %s\n", e, a, b);
  return ok;
}

/* Every message that a context logs, "LEVEL text", a line each. */
typedef struct listener { char last[512], all[16384]; int n; } listener;
static void listen_log(void *user, int level, const char *message) {
  listener *l = (listener *)user;
  size_t used = strlen(l->all);
  snprintf(l->last, sizeof l->last, "%d %s", level, message);
  snprintf(l->all + used, sizeof l->all - used, "%s\n", l->last);
  l->n++;
}

static int is_zero(const void *x, size_t n) {
  const unsigned char *b = (const unsigned char *)x;
  while (n--) if (*b++) return 0;
  return 1;
}

/* ---- few-shot draws: the expected indices were printed by CPython 3.11 ---- */
typedef struct draw { int n_zero, n, shots; uint64_t seed; int fewest, n_out, index[32]; } draw;

static void test_few_shot(fvg_ctx *c) {
  static const draw cases[] = {                                    /* n_zero items of label 0, then label 1       */
    {100, 100, 5, 2, 100, 5, {7, 11, 10, 46, 21}},                                       /* a set of numbers      */
    {85, 85, 16, 3, 85, 16, {30, 75, 69, 16, 47, 77, 60, 74, 8, 1, 78, 33, 70, 29, 24, 79}},     /* the last list */
    {86, 86, 16, 3, 86, 16, {30, 75, 69, 16, 47, 77, 60, 80, 74, 8, 1, 33, 70, 29, 24, 50}},     /* the first set */
    {86, 86, 16, 0, 86, 16, {49, 53, 5, 33, 65, 62, 51, 38, 61, 45, 74, 27, 64, 17, 36, 12}},
    {30, 30, 5, 0, 30, 5, {27, 12, 24, 28, 13}},                                         /* 5: the small set    */
    {60, 60, 6, 2, 60, 6, {55, 54, 3, 5, 56, 23}},                                       /* 6: a table of 64    */
    {4, 4, 4, 9, 4, 4, {3, 2, 1, 0}},                                                    /* all, but shuffled   */
    {22, 22, 1, UINT64_C(4294967296), 22, 1, {3}},                                       /* a key of two words    */
    {40, 340, 16, UINT64_C(9223372036854788153), 40, 32,
     {19, 24, 13, 9, 18, 15, 0, 20, 38, 8, 28, 2, 3, 23, 6, 17,
      133, 147, 115, 291, 228, 138, 253, 241, 260, 97, 284, 232, 156, 81, 309, 92}}};
  static const int mixed[] = {6, 3, 12, 0, 22, 32, 28, 19, 11, 5, 23, 2, 30, 31};
  static char path[400][8];
  static fvg_item item[400];
  fvg_items in, out;
  int i, k, ok, fewest;
  in.item = item;
  for (i = 0; i < 400; i++) { snprintf(path[i], sizeof path[i], "%d", i); item[i].path = path[i]; }
  for (k = 0; k < (int)(sizeof cases / sizeof *cases); k++) {
    const draw *d = &cases[k];
    int n_class = d->n > d->n_zero ? 2 : 1;
    char what[64];
    in.n = d->n;
    for (i = 0; i < in.n; i++) item[i].label = i >= d->n_zero;
    ok = fvg_items_few_shot(c, &out, &fewest, &in, n_class, d->shots, d->seed) == FVG_OK && out.n == d->n_out
         && fewest == d->fewest;
    for (i = 0; ok && i < out.n; i++) ok = atoi(out.item[i].path) == d->index[i]
            && out.item[i].label == (d->index[i] >= d->n_zero);
    snprintf(what, sizeof what, "few-shot: draw %d equals CPython's", k);
    check(ok, what);
    fvg_items_free(c, &out);
  }
  in.n = 33;                                                       /* 2 0 1 2 0 1 ... 3 3 0                       */
  for (i = 0; i < 30; i++) item[i].label = (i + 2) % 3;
  item[30].label = item[31].label = 3;
  item[32].label = 0;
  ok = fvg_items_few_shot(c, &out, &fewest, &in, 4, 4, 1) == FVG_OK && out.n == 14 && fewest == 2;
  for (i = 0; ok && i < out.n; i++) ok = atoi(out.item[i].path) == mixed[i];
  check(ok, "few-shot: labels in order of first appearance, a short one whole");
  fvg_items_free(c, &out);
  check(fvg_items_few_shot(c, &out, &fewest, &in, 5, 4, 1) == FVG_OK && fewest == 0,
        "few-shot: a label without items is the fewest");
  fvg_items_free(c, &out);
  check(fvg_items_few_shot(c, &out, NULL, &in, 4, 0, 1) == FVG_OK && out.n == 33, "few-shot: no shots means all");
  fvg_items_free(c, &out);
  check(fvg_items_few_shot(c, &out, NULL, &in, 3, 4, 1) == FVG_E_ARG && says(c, "item 30", "label 3")
        && is_zero(&out, sizeof out),
        "few-shot: a label beyond the classes");
  check(fvg_items_few_shot(c, &out, NULL, &in, 0, 4, 1) == FVG_E_ARG && says(c, "0 classes", ""),
        "few-shot: no classes");
}

static void test_few_shot_val(fvg_ctx *c) {
  static const int val_8[] = {0, 60, 51, 84, 37, 64, 19, 40, 71, 2, 50, 23, 90, 91},
                   val_2[] = {87, 78, 46, 25, 53, 23, 90, 91};
  static char path[92][12];
  fvg_item train_item[33], val_item[92];
  fvg_items train, val, out;
  int i, ok;
  for (i = 0; i < 92; i++) snprintf(path[i], sizeof path[i], "%d", i);
  for (i = 0; i < 33; i++) {
    train_item[i].path = path[i];
    train_item[i].label = i < 30 ? (i + 2) % 3 : i < 32 ? 3 : 0;
  }
  for (i = 0; i < 92; i++) { val_item[i].path = path[i]; val_item[i].label = i < 90 ? i % 3 : 3; }
  train.item = train_item;
  train.n = 33;
  val.item = val_item;
  val.n = 92;
  ok = fvg_items_few_shot_val(c, &out, &train, &val, 4, 8, 1) == FVG_OK && out.n == 14;
  for (i = 0; ok && i < out.n; i++) ok = atoi(out.item[i].path) == val_8[i];
  check(ok, "few-shot val: 4 a label, drawn after train's 8 as CPython does");
  fvg_items_free(c, &out);
  ok = fvg_items_few_shot_val(c, &out, &train, &val, 4, 2, 3) == FVG_OK && out.n == 8;
  for (i = 0; ok && i < out.n; i++) ok = atoi(out.item[i].path) == val_2[i];
  check(ok, "few-shot val: 2 shots are 2 here too");
  fvg_items_free(c, &out);
  check(fvg_items_few_shot_val(c, &out, &train, &val, 4, 0, 1) == FVG_OK && out.n == 92, "few-shot val: no shots");
  fvg_items_free(c, &out);
  check(fvg_items_few_shot_val(c, &out, &train, &val, 3, 4, 1) == FVG_E_ARG && says(c, "item 30", "label 3")
        && is_zero(&out, sizeof out), "few-shot val: a label beyond the classes");
  val.n = 0;
  check(fvg_items_few_shot_val(c, &out, &train, &val, 4, 4, 1) == FVG_OK && out.n == 0, "few-shot val: none there");
  fvg_items_free(c, &out);
}

static void test_halves(fvg_ctx *c) {
  static char a[] = "a";
  fvg_item item[7];
  fvg_items in, out;
  int i, first;
  check(fvg_group_classes(37, FVG_BASE, NULL) == 19 && fvg_group_classes(37, FVG_NEW, &first) == 18 && first == 19,
        "halves: 37 = 19 + 18");
  check(fvg_group_classes(10, FVG_BASE, &first) == 5 && first == 0 && fvg_group_classes(10, FVG_NEW, &first) == 5
        && first == 5,
        "halves: 10 = 5 + 5");
  check(fvg_group_classes(1, FVG_NEW, NULL) == 0 && fvg_group_classes(9, FVG_ALL, &first) == 9 && first == 0
        && fvg_group_classes(INT32_MAX, FVG_BASE, NULL) == 1073741824, "halves: 1, all, and no overflow");
  for (i = 0; i < 7; i++) { item[i].path = a; item[i].label = 6 - i; }
  in.item = item;
  in.n = 7;
  check(fvg_items_group(c, &out, &in, 7, FVG_NEW) == FVG_OK && out.n == 3 && out.item[0].label == 2
        && out.item[2].label == 0,
        "halves: new labels start at 0");
  fvg_items_free(c, &out);
  check(fvg_items_group(c, &out, &in, 7, FVG_BASE) == FVG_OK && out.n == 4 && out.item[0].label == 3, "halves: base");
  fvg_items_free(c, &out);
  check(fvg_items_group(c, &out, &in, 6, FVG_BASE) == FVG_E_ARG && says(c, "label 6", "6 classes"),
        "halves: a label beyond the classes");
}

static void test_scores(fvg_ctx *c) {
  static const float s[] = {1, 0, 0,   0, 2, 2,   3, 3, 0,   0, 1, 0,   0, 0, 5};     /* arg max 0 1 0 1 2         */
  static const int labels[] = {0, 1, 1, 1, 0}, bad_label[] = {0, 1, 3, 1, 0};
  float bad[15];
  fvg_score r;
  /* by hand: label 0: TP 1, predicted 2, true 2: F1 1/2; label 1: TP 2, predicted 2,
          true 3: 4/5; label 2 is absent */
  check(fvg_score_of(c, &r, s, labels, 5, 3) == FVG_OK && r.n == 5 && r.n_correct == 3
        && fabs(r.accuracy - 60) < 1e-12
        && fabs(r.macro_f1 - 65) < 1e-12, "score: accuracy and macro F1 over the labels present");
  memcpy(bad, s, sizeof bad);
  bad[7] = (float)fvg_half_to_float(0x7E00);
  double ce = 0;
  for (int i = 0; i < 5; i++) {
    double sum = 0;
    for (int k = 0; k < 3; k++) sum += exp((double)s[3 * i + k]);
    ce += (log(sum) - (double)s[3 * i + labels[i]]) / 5;
  }
  check(fvg_score_of(c, &r, s, labels, 5, 3) == FVG_OK && fabs(r.cross_entropy - ce) < 1e-9 * ce, "score: cross-entropy");
  check(fvg_score_of(c, &r, bad, labels, 5, 3) == FVG_E_NUMERIC && says(c, "item 2", "class 1")
        && is_zero(&r, sizeof r), "score: NaN");
  bad[7] = 0;
  bad[0] = (float)fvg_half_to_float(0x7E00);
  check(fvg_score_of(c, &r, bad, labels, 5, 3) == FVG_E_NUMERIC, "score: NaN in the first class");
  check(fvg_score_of(c, &r, s, bad_label, 5, 3) == FVG_E_ARG && says(c, "item 2", "label 3"), "score: bad label");
  check(fvg_score_of(c, &r, s, labels, 0, 3) == FVG_E_ARG, "score: no items");
  check(fabs(fvg_harmonic_mean(82.69, 63.22) - 71.66) < 0.005 && fvg_harmonic_mean(0, 0) == 0
        && fvg_harmonic_mean(0, 50) == 0,
        "harmonic mean");
}

/* ---- folders, told by a lister that has them in no disk ---- */
typedef struct fake { int reversed, n_class, n_image, empty_class, deny; } fake;

static int ends(const char *s, const char *end) { size_t n = strlen(s), m = strlen(end); return n >= m
        && !strcmp(s + n - m, end); }

static int fake_list(void *user, const char *folder, void (*entry)(void *arg, const char *name, int is_folder),
        void *arg) {
  const fake *f = (const fake *)user;
  int i, n = ends(folder, "root") ? f->n_class : f->n_image;
  char name[64];
  if (f->deny && !ends(folder, "root")) return -1;
  if (ends(folder, "root")) {
    entry(arg, "mask", 1);
    entry(arg, ".git", 1);
    entry(arg, "notes.jpg", 0);
  } else {
    entry(arg, "Thumbs.db", 0);
    entry(arg, "folder.jpg", 1);
    if (f->empty_class >= 0 && atoi(folder + strlen(folder) - 3) == f->empty_class) n = 1;
  }
  for (i = 0; i < n; i++) {
    static const char *const suffix[] = {".jpg", ".JPEG", ".png", ".Ppm", ".pgm"};
    int k = f->reversed ? n - 1 - i : i;
    if (ends(folder, "root")) { snprintf(name, sizeof name, "a_class_%03d", k); entry(arg, name, 1); }
    else { snprintf(name, sizeof name, "%06d%s", k, suffix[k % 5]); entry(arg, name, 0); }
  }
  return 0;
}

static fvg_status open_fake(fvg_ctx *c, fvg_dataset *d, fake *f) {
  fvg_dataset_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.root = "root";
  desc.list = fake_list;
  desc.list_user = f;
  return fvg_dataset_open(c, d, &desc);
}

static int same_items(const fvg_items *a, const fvg_items *b) {
  int i;
  if (a->n != b->n) return 0;
  for (i = 0; i < a->n; i++)
    if (a->item[i].label != b->item[i].label || strcmp(a->item[i].path, b->item[i].path)) return 0;
  return 1;
}

static int same_set(const fvg_dataset *a, const fvg_dataset *b) {
  return same_items(&a->train, &b->train) && same_items(&a->val, &b->val) && same_items(&a->test, &b->test);
}

static void test_cut(fvg_ctx *c) {
  static const int cut[][4] = {{2, 1, 0, 1}, {3, 2, 0, 1}, {4, 2, 1, 1}, {5, 2, 1, 2}, {7, 4, 1, 2}, {10, 5, 2, 3},
                               {13, 6, 3, 4}, {15, 8, 3, 4}, {100, 50, 20, 30}};
  fake f;
  fvg_dataset a, b;
  int i, k, ok = 1, moved = 0;
  memset(&f, 0, sizeof f);
  f.empty_class = -1;
  f.n_class = 3;
  for (i = 0; i < (int)(sizeof cut / sizeof *cut); i++) {
    f.n_image = cut[i][0];
    if (open_fake(c, &a, &f) || a.train.n != 3 * cut[i][1] || a.val.n != 3 * cut[i][2] || a.test.n != 3 * cut[i][3])
      ok = 0;
    fvg_dataset_free(&a);
  }
  check(ok, "folders: 50/20/30 as Python rounds");
  f.n_image = 100;
  check(open_fake(c, &a, &f) == FVG_OK && a.n_class == 3 && !strcmp(a.class_name[2], "a class 002")
        && a.split_file == NULL,
        "folders: classes sorted, underscores become blanks, mask and hidden folders are no classes");
  f.reversed = 1;
  check(open_fake(c, &b, &f) == FVG_OK && same_set(&a, &b), "folders: the order of listing does not matter");
  fvg_dataset_free(&b);
  f.n_class = 2;
  ok = open_fake(c, &b, &f) == FVG_OK;
  for (i = 0; ok && i < b.train.n; i++) ok = !strcmp(a.train.item[i].path, b.train.item[i].path);
  check(ok, "folders: a class is shuffled alike whatever others there are");
  for (i = 0; i < 49; i++) {
    moved += strcmp(a.train.item[i].path, a.train.item[i + 1].path) > 0;
    for (k = 0; k < a.test.n; k++) if (!strcmp(a.train.item[i].path, a.test.item[k].path)) ok = 0;
  }
  check(ok && moved > 10, "folders: shuffled, and no picture in two parts");
  check(!strncmp(a.train.item[0].path, "a_class_000/", 12) && strcmp(a.train.item[0].path, a.train.item[50].path) != 0
        && strcmp(a.train.item[0].path + 12, a.train.item[50].path + 12), "folders: paths, and one stream a class");
  fvg_dataset_free(&a);
  fvg_dataset_free(&b);
  f.empty_class = 1;
  check(open_fake(c, &a, &f) == FVG_OK && a.n_class == 1 && !strcmp(a.class_name[0], "a class 000")
        && a.train.n + a.val.n + a.test.n == 100, "folders: a class of one picture is left out");
  fvg_dataset_free(&a);
  f.n_class = 1;
  f.empty_class = 0;
  check(open_fake(c, &a, &f) == FVG_E_FORMAT &&
            says(c, "root: none of the 1 class folders", "a_class_000") && is_zero(&a, sizeof a),
        "folders: unless it is the only one");
  f.deny = 1;
  check(open_fake(c, &a, &f) == FVG_E_IO && says(c, "root/a_class_000", "cannot be opened"),
        "folders: one that cannot be listed");
  f.n_class = 0;
  check(open_fake(c, &a, &f) == FVG_E_FORMAT && says(c, "root", "neither a split file"), "folders: nothing there");
}

static void test_disk_folders(fvg_ctx *c) {
  fvg_dataset d;
  int i;
  char path[200];
  for (i = 0; i < 4; i++) {
    snprintf(path, sizeof path, BASE "/plain/%s/%d.jpg", i % 2 ? "big_dog" : "ant", i / 2);
    write_text(path, "");
  }
  write_text(BASE "/plain/mask/x.jpg", "");
  check(open_set(c, &d, BASE "/plain/", NULL) == FVG_OK && d.n_class == 2 && d.train.n == 2 && d.val.n == 0
        && d.test.n == 2
        && !strcmp(d.class_name[1], "big dog") && !strncmp(d.train.item[1].path, "big_dog/", 8),
        "dirent: plain folders");
  fvg_dataset_free(&d);
  write_text(BASE "/parts/train/ant/1.png", "");
  write_text(BASE "/parts/train/ant/0.png", "");
  write_text(BASE "/parts/train/mask/2.png", "");
  write_text(BASE "/parts/val/mask/3.png", "");
  write_text(BASE "/parts/test/ant/4.png", "");
  write_text(BASE "/parts/test/mask/5.png", "");
  write_text(BASE "/parts/mask/train/ant/0.png", "");
  check(open_set(c, &d, BASE "/parts", NULL) == FVG_OK && d.n_class == 2 && d.train.n == 3 && d.val.n == 1
        && d.test.n == 2
        && !strcmp(d.train.item[0].path, "train/ant/0.png") && d.val.item[0].label == 1
        && !strcmp(d.test.item[1].path, "test/mask/5.png"),
        "dirent: train, val and test folders");
  fvg_dataset_free(&d);
  write_text(BASE "/parts2/train/ant/0.png", "");
  write_text(BASE "/parts2/test/ant/0.png", "");
  write_text(BASE "/parts2/test/bee/0.png", "");
  check(open_set(c, &d, BASE "/parts2", NULL) == FVG_E_FORMAT && says(c, "bee", "\"test\""),
        "dirent: a class that train does not have");
  write_text(BASE "/parts3/train/ant/0.png", "");
  write_text(BASE "/parts3/train/bee/0.png", "");
  write_text(BASE "/parts3/test/ant/0.png", "");
  check(open_set(c, &d, BASE "/parts3", NULL) == FVG_OK && d.n_class == 1 && d.train.n == 1 &&
            d.test.n == 1 && !strcmp(d.class_name[0], "ant"),
        "dirent: a class without test is left out");
  fvg_dataset_free(&d);
  write_text(BASE "/parts4/train/x.png", "");
  write_text(BASE "/parts4/test/x.png", "");
  check(open_set(c, &d, BASE "/parts4", NULL) == FVG_E_FORMAT && says(c, "parts4", "no class folders"),
        "dirent: train without classes");
  check(open_set(c, &d, BASE "/nowhere", NULL) == FVG_E_IO && says(c, BASE "/nowhere", "cannot be opened"),
        "dirent: absent root");
  check(open_set(c, &d, NULL, NULL) == FVG_E_ARG && open_set(c, &d, "", NULL) == FVG_E_ARG, "no root given");
}

/* ---- split files ---- */
typedef struct wrong { const char *text, *says; } wrong;

static void test_wrong_splits(fvg_ctx *c) {
#define GOOD "[\"a.ppm\", 0, \"ant\"]"
#define REST "], \"val\": [], \"test\": []}"
  static const wrong cases[] = {
    {"", ""},
    {"{\"train\": [" GOOD, ""},
    {"[" GOOD "]", "object with train"},
    {"{\"train\": [" GOOD "], \"val\": []}", "\"test\" is missing"},
    {"{\"train\": 3, \"val\": [], \"test\": []}", "\"train\" is missing or not a list"},
    {"{\"train\": [" GOOD "], \"val\": {}, \"test\": []}", "\"val\" is missing or not a list"},
    {"{\"train\": [" REST, "\"train\" is empty"},
    {"{\"train\": [" GOOD ", 7" REST, "train[1] is not a list"},
    {"{\"train\": [" GOOD ", [\"b.ppm\", 0]" REST, "train[1] is not a list"},
    {"{\"train\": [" GOOD ", [\"b.ppm\", 0, \"ant\", 1]" REST, "train[1] is not a list"},
    {"{\"train\": [" GOOD "], \"val\": [" GOOD ", [\"b.ppm\", \"0\", \"ant\"]], \"test\": []}",
            "val[1] must be [string, number"},
    {"{\"train\": [" GOOD "], \"test\": [[1, 0, \"ant\"]]}", "test[0] must be [string, number"},
    {"{\"train\": [" GOOD ", [\"b.ppm\", 0.5, \"ant\"]" REST, "train[1]: label 0.5"},
    {"{\"train\": [" GOOD ", [\"b.ppm\", -1, \"ant\"]" REST, "train[1]: label -1"},
    {"{\"train\": [" GOOD ", [\"b.ppm\", 2000000000, \"ant\"]" REST,
            "train[1]: label 2e+09, but the file has only 2"},
    {"{\"train\": [" GOOD ", [\"b.ppm\", 2, \"bee\"]" REST,
     "train[1]: label 2, but the file has only 2"},
    {"{\"train\": [" GOOD ", [\"b.ppm\", 1e300, \"ant\"]" REST, "label 1e+300"},
    {"{\"train\": [" GOOD ", [\"b.ppm\", 2, \"bee\"], [\"c.ppm\", 0, \"ant\"]" REST, "label 1 has no entry"},
    {"{\"train\": [" GOOD ", [\"b.ppm\", 0, \"bee\"]" REST, "called \"bee\" here, but \"ant\" before"},
    {"{\"train\": [[\"\", 0, \"ant\"]" REST, "train[0]: the path is empty"},
    {"{\"train\": [[\"a\\nb.ppm\", 0, \"ant\"]" REST, "train[0]: the path is empty or holds control"},
    {"{\"train\": [[\"a.ppm\", 0, \"\"]" REST, "train[0]: the class name is empty"},
    {"{\"train\": [[\"/etc/passwd\", 0, \"ant\"]" REST, "\"/etc/passwd\" is absolute"},
    {"{\"train\": [[\"C:/a.ppm\", 0, \"ant\"]" REST, "is absolute"},
    {"{\"train\": [[\"\\\\\\\\host\\\\a.ppm\", 0, \"ant\"]" REST, "is absolute"},
    {"{\"train\": [[\"../a.ppm\", 0, \"ant\"]" REST, "has a part \"..\""},
    {"{\"train\": [[\"b/../../a.ppm\", 0, \"ant\"]" REST, "has a part \"..\""},
    {"{\"train\": [[\"b\\\\..\\\\a.ppm\", 0, \"ant\"]" REST, "has a part \"..\""},
    {"{\"train\": [[\"b/..\", 0, \"ant\"]" REST, "has a part \"..\""},
    {"{\"train\": [[\"gone.ppm\", 0, \"ant\"]" REST, "gone.ppm"}};
  fvg_dataset d;
  size_t i, used = fvg_mem_used(c);
  write_text(BASE "/wrong/a.ppm", "");
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    fvg_status s;
    char what[64];
    write_text(BASE "/wrong/split.json", cases[i].text);
    s = open_set(c, &d, BASE "/wrong", NULL);
    snprintf(what, sizeof what, "wrong split file %d", (int)i);
    check(s == (strstr(cases[i].text, "gone.ppm") ? FVG_E_IO : FVG_E_FORMAT) &&
          says(c, "wrong/split.json", cases[i].says) && is_zero(&d, sizeof d)
          && fvg_mem_used(c) == used, what);
  }
}

/* A root that is missing is a message, with and without the rest of the desc. */
static void test_no_root(fvg_ctx *c) {
  fvg_dataset_desc desc;
  fvg_dataset d;
  memset(&desc, 0, sizeof desc);
  check(fvg_dataset_open(c, &d, NULL) == FVG_E_ARG && says(c, "data set", "root") && is_zero(&d, sizeof d), "no desc");
  check(fvg_dataset_open(c, &d, &desc) == FVG_E_ARG && says(c, "data set", "root") && is_zero(&d, sizeof d), "no root");
  desc.dataset = "caltech101";
  check(fvg_dataset_open(c, &d, &desc) == FVG_E_ARG && says(c, "data set", "root"), "a published set without a root");
  desc.split = BASE "/wrong/split.json";
  check(fvg_dataset_open(c, &d, &desc) == FVG_E_ARG && says(c, "data set", "root"), "a split file without a root");
  desc.root = "";
  check(fvg_dataset_open(c, &d, &desc) == FVG_E_ARG && says(c, "data set", "root"), "an empty root");
}

static void test_splits(fvg_ctx *c) {
  static const char text[] = "{\"train\": [[\"x/..a.ppm\", 1, \"big_dog\"], [\"y.ppm\", 0, \"ant\"]], "
    "\"test\": [[\"z.ppm\", 1, \"big_dog\"]]}";
  fvg_dataset d;
  fvg_dataset_desc desc;
  write_text(BASE "/split/split_zhou_Two.json", text);
  write_text(BASE "/split/odd folder/x/..a.ppm", "");
  write_text(BASE "/split/odd folder/z.ppm", "");
  write_text(BASE "/split/mask/x/..a.ppm", "");
  write_text(BASE "/split/mask/z.ppm", "");
  write_text(BASE "/split/images/x/..a.ppm", "");
  check(open_set(c, &d, BASE "/split", NULL) == FVG_OK && d.n_class == 2 && d.train.n == 2 && d.val.n == 0
        && d.test.n == 1
        && !strcmp(d.train.item[0].path, "odd folder/x/..a.ppm") && d.train.item[0].label == 1
        && !strcmp(d.class_name[1], "big dog")
        && ends(d.split_file, "/split_zhou_Two.json") && !strcmp(d.root, BASE "/split"),
        "split: found in the root, one folder that has every first item, never mask");
  fvg_dataset_free(&d);
  check(is_zero(&d, sizeof d), "free leaves zeros");
  fvg_dataset_free(&d);
  check(open_set(c, &d, BASE "/split", "split_zhou_Two.json") == FVG_OK, "split: named, inside the root");
  fvg_dataset_free(&d);
  check(open_set(c, &d, BASE "/split", BASE "/split/split_zhou_Two.json") == FVG_OK, "split: named by path");
  fvg_dataset_free(&d);
  check(open_set(c, &d, BASE "/split", "nothing.json") == FVG_E_IO && says(c, "nothing.json", BASE "/split"),
        "split: named, absent");
  check(open_set(c, &d, BASE "/split", BASE "/split") == FVG_E_IO && says(c, "no such split file", ""),
        "split: named, but a folder");
  check(open_set(c, &d, BASE "/plain", BASE "/split/split_zhou_Two.json") == FVG_E_IO
        && says(c, "x/..a.ppm", BASE "/plain"),
        "split: pictures not below this root");
  write_text(BASE "/several/split_zhou_A.json", text);
  write_text(BASE "/several/split_zhou_B.json", text);
  write_text(BASE "/several/split.json", text);
  check(open_set(c, &d, BASE "/several", NULL) == FVG_E_ARG
        && says(c, "split.json, split_zhou_A.json, split_zhou_B.json", "choose one"),
        "split: several");
  memset(&desc, 0,
          sizeof desc);                       /* without a lister: what fvg_dataset_open does without FVGPT_DIRENT */
  desc.root = BASE "/split";
  {
    fvg__names names;
    char *found = NULL;
    check(fvg__find_split(c, &found, &desc, NULL) == FVG_E_UNSUPPORTED && !found
          && says(c, BASE "/split", "FVGPT_DIRENT"),
          "no lister: no search");
    check(fvg__list(c, &names, &desc, "x", fvg__keep_folder, NULL) == FVG_E_UNSUPPORTED &&
              is_zero(&names, sizeof names),
          "no lister: no list");
    desc.root = BASE "/several";
    check(fvg__find_split(c, &found, &desc, NULL) == FVG_OK && found && ends(found, "/split.json"),
          "no lister: split.json is tried");
    fvg_release(c, found);
  }
}

/* Every cut and many a changed byte of a good file: an answer, no crash, no memory kept. */
static void test_hostile(fvg_ctx *c) {
  static const char text[] = "{\"train\": [[\"a.ppm\", 0, \"ant\"], [\"b.ppm\", 1, \"bee\"]], "
    "\"val\": [], \"test\": [[\"a.ppm\", 1, \"bee\"]]}";
  char bad[sizeof text];
  fvg_dataset d;
  fvg_rng r;
  size_t i, n = sizeof text - 1, used = fvg_mem_used(c);
  int ok = 1, k;
  write_text(BASE "/hostile/a.ppm", "");
  for (i = 0; i < n; i++) {
    write_bytes(BASE "/hostile/split.json", text, i);
    if (open_set(c, &d, BASE "/hostile", NULL) == FVG_OK) ok = 0;
  }
  fvg_rng_seed(&r, 1, 0);
  for (k = 0; k < 500; k++) {
    memcpy(bad, text, sizeof text);
    bad[fvg_rng_below(&r, (uint32_t)n)] = (char)fvg_rng_below(&r, 256);
    bad[fvg_rng_below(&r, (uint32_t)n)] = "0123456789[]{}\",:"[fvg_rng_below(&r, 17)];
    write_bytes(BASE "/hostile/split.json", bad, n);
    if (open_set(c, &d, BASE "/hostile", NULL) == FVG_OK) fvg_dataset_free(&d);
    else if (!*fvg_error(c)) ok = 0;
  }
  check(ok && fvg_mem_used(c) == used && fvg_mem_peak(c) < used + 1000000, "hostile split files");
}

/* ---- the published sets, in small ---- */
#define DATA BASE "/published"

static int has_path(const fvg_items *x, const char *path, int label) {
  int i;
  for (i = 0; i < x->n; i++) if (!strcmp(x->item[i].path, path)) return x->item[i].label == label;
  return 0;
}

static void write_image(const char *folder, const char *name, int number) {
  char path[300];
  snprintf(path, sizeof path, "%s/%s_%02d.jpg", folder, name, number);
  write_text(path, "");
}

static void write_small_split(const char *folder, const char *file) {
  char path[300];
  snprintf(path, sizeof path, "%s/%s", folder, file);
  write_text(path, "{\"train\": [[\"one/x.jpg\", 0, \"a_one\"], [\"two/y.jpg\", 1, \"two\"]], \"val\": [], "
             "\"test\": [[\"one/z.jpg\", 0, \"a_one\"]]}");
}

static void test_cards(fvg_ctx *c) {
  fvg_dataset d;
  const fvg_dataset_card *card;
  int n, i, ok = 1;
  card = fvg_dataset_cards(&n);
  check(n == 11 && !strcmp(card[0].key, "imagenet") && fvg_dataset_cards(NULL) == card, "cards: eleven");
  for (i = 0; i < n; i++)
    ok = ok && fvg_dataset_card_find(card[i].key) == &card[i] && fvg_dataset_card_find(card[i].name) == &card[i]
         && strstr(card[i].prompt_template, "{}") && strstr(card[i].kgcoop_template, "{}")
         && !!strcmp(card[i].prompt_template, card[i].kgcoop_template) == !strcmp(card[i].key, "dtd");
  check(ok, "cards: found by key and by name, one template each but for DTD");
  check(fvg_dataset_card_find("dESCRIBABLEtextures") == fvg_dataset_card_find("DTD")
        && !strcmp(fvg_dataset_card_find("DTD")->prompt_template, "{} texture.")
        && !strcmp(fvg_dataset_card_find("dtd")->kgcoop_template, "a photo of a {}, a type of texture.")
        && !strcmp(fvg_dataset_card_find("food101")->prompt_template, "a photo of {}, a type of food.")
        && !fvg_dataset_card_find("caltech") && !fvg_dataset_card_find("caltech1011") && !fvg_dataset_card_find("")
        && !fvg_dataset_card_find(NULL), "cards: any case, whole words only");
  check(open_named(c, &d, DATA, "cifar10", NULL) == FVG_E_ARG && says(c, "\"cifar10\"", "imagenet, caltech101")
        && says(c, "stanford_cars, flowers102", "ucf101") && is_zero(&d, sizeof d), "published: an unknown set");
}

/* The nine sets that have a split file: in place, without the folder of pictures, opened from their own folder. */
static void test_layouts(fvg_ctx *c) {
  static const char *const picture[] = {"one/x.jpg", "two/y.jpg", "one/z.jpg"};
  const fvg_dataset_card *card;
  fvg_dataset d;
  char path[300], folder[200], want[200], what[100];
  int i, k, n, ok;
  card = fvg_dataset_cards(&n);
  for (i = 0; i < n; i++, card++) {
    const char *slash = *card->images ? "/" : "";
    if (!card->split_file) continue;
    snprintf(folder, sizeof folder, DATA "/%s", card->folder);
    write_small_split(folder, card->split_file);
    for (k = 0; k < 3; k++) {
      snprintf(path, sizeof path, "%s/%s%s%s", folder, card->images, slash, picture[k]);
      write_text(path, "");
      snprintf(path, sizeof path, DATA "-flat/%s/%s", card->folder, picture[k]);
      write_text(path, "");
    }
    snprintf(want, sizeof want, "%s/%s%sone/x.jpg", card->folder, card->images, slash);
    ok = open_named(c, &d, DATA, card->key, NULL) == FVG_OK && d.card == card && d.n_class == 2 && d.train.n == 2
         && d.test.n == 1 && !strcmp(d.train.item[0].path, want) && ends(d.split_file, card->split_file)
         && !strcmp(d.root, DATA) && !strcmp(d.class_name[0], "a one");
    fvg_dataset_free(&d);
    /* where letter case does not count in file names, SUN397/one is sun397/one */
    ok = ok && open_named(c, &d, folder, card->name, NULL) == FVG_OK
         && fvg__same_word(d.train.item[0].path, want + strlen(card->folder) + 1);
    fvg_dataset_free(&d);
    write_small_split(DATA "-flat", card->split_file);
    snprintf(want, sizeof want, "%s/one/x.jpg", card->folder);
    ok = ok && open_named(c, &d, DATA "-flat", card->key, NULL) == FVG_OK && !strcmp(d.train.item[0].path, want);
    fvg_dataset_free(&d);
    snprintf(what, sizeof what, "published: the layout of %s", card->key);
    check(ok, what);
    if (!ok) printf("  %s\n", fvg_error(c));
  }
  check(open_named(c, &d, DATA, "dtd", "split_zhou_DescribableTextures.json") == FVG_OK,
        "published: a split by name");
  fvg_dataset_free(&d);
  check(open_named(c, &d, DATA, "dtd", DATA "/food-101/split_zhou_Food101.json") == FVG_OK
        && !strncmp(d.test.item[0].path, "dtd/images/", 11), "published: a split by path");
  fvg_dataset_free(&d);
  check(open_named(c, &d, DATA, "dtd", "other.json") == FVG_E_IO && says(c, "other.json", "no such split file"),
        "published: a split that is not there");
  check(open_set(c, &d, DATA "/dtd", NULL) == FVG_OK && !d.card && !strncmp(d.train.item[0].path, "images/", 7),
        "published: opened as a plain root");
  fvg_dataset_free(&d);
  write_small_split(DATA "-bare/eurosat", "split_zhou_EuroSAT.json");
  check(open_named(c, &d, DATA "-bare", "eurosat", NULL) == FVG_E_IO && says(c, "one/x.jpg", "eurosat/2750"),
        "published: a split file without pictures");
  write_text(DATA "-bare/dtd/split_zhou_DescribableTextures.json", "{\"train\": [[1");
  check(open_named(c, &d, DATA "-bare", "dtd", NULL) == FVG_E_FORMAT
        && says(c, "split_zhou_DescribableTextures.json", ""), "published: a broken split file");
}

static void write_imagenet(void) {
  int i;
  for (i = 0; i < 3; i++) {
    write_image(DATA "/imagenet/images/train/n02", "n02", i);
    write_image(DATA "/imagenet/images/train/n01", "n01", i);
    write_image(DATA "/imagenet/images/val/n01", "v", i);
  }
  write_image(DATA "/imagenet/images/val/n02", "v", 9);
  write_text(DATA "/imagenet/classnames.txt", "n02 great white shark\r\nn01 tench\nn03 not in use\n\n");
}

static void write_aircraft(void) {
  write_text(DATA "/fgvc_aircraft/variants.txt", "707-320\nCessna 172\nA380\n");
  write_text(DATA "/fgvc_aircraft/images_variant_train.txt", "0000003 A380\n0000001 707-320\n\n0000002 Cessna 172\n");
  write_text(DATA "/fgvc_aircraft/images_variant_val.txt", "0000004 Cessna 172");
  write_text(DATA "/fgvc_aircraft/images_variant_test.txt", "0000005 A380\n0000006 707-320\n");
}

static void test_own_lists(fvg_ctx *c) {
  fvg_dataset d;
  write_imagenet();
  check(open_named(c, &d, DATA, "ImageNet", NULL) == FVG_OK && d.n_class == 2 && !strcmp(d.class_name[0], "tench")
        && !strcmp(d.class_name[1], "great white shark") && d.train.n == 6 && d.test.n == 4
        && same_items(&d.val, &d.test)
        && !strcmp(d.train.item[3].path, "imagenet/images/train/n02/n02_00.jpg") && d.train.item[3].label == 1
        && !strcmp(d.test.item[0].path, "imagenet/images/val/n01/v_00.jpg") && !d.split_file,
        "imagenet: folders sorted, names from the list, validation is the test");
  fvg_dataset_free(&d);
  check(open_named(c, &d, DATA "/imagenet", "imagenet", NULL) == FVG_OK
        && !strcmp(d.train.item[0].path, "images/train/n01/n01_00.jpg"), "imagenet: from its own folder");
  fvg_dataset_free(&d);
  write_text(DATA "/imagenet/classnames.txt", "n01 tench\n");
  check(open_named(c, &d, DATA, "imagenet", NULL) == FVG_E_FORMAT && says(c, "classnames.txt", "\"n02\"")
        && is_zero(&d, sizeof d), "imagenet: a folder without a name");
  write_text(DATA "/imagenet/classnames.txt", "n01 tench\nn02\n");
  check(open_named(c, &d, DATA, "imagenet", NULL) == FVG_E_FORMAT
        && says(c, "classnames.txt: line 2", "<folder> <name>"), "imagenet: a line without a name");
  write_text(DATA "-bare/imagenet/classnames.txt", "n01 tench\n");
  check(open_named(c, &d, DATA "-bare", "imagenet", NULL) == FVG_E_IO && says(c, "imagenet/images/train", "folder"),
        "imagenet: no pictures");
  write_imagenet();
  write_aircraft();
  check(open_named(c, &d, DATA, "fgvc_aircraft", NULL) == FVG_OK && d.n_class == 3 && d.train.n == 3 && d.val.n == 1
        && d.test.n == 2 && !strcmp(d.class_name[1], "Cessna 172")
        && !strcmp(d.train.item[0].path, "fgvc_aircraft/images/0000003.jpg") && d.train.item[0].label == 2
        && has_path(&d.val, "fgvc_aircraft/images/0000004.jpg", 1), "aircraft: labels as in variants.txt");
  fvg_dataset_free(&d);
  check(open_named(c, &d, DATA "/fgvc_aircraft", "FGVCAircraft", NULL) == FVG_OK
        && !strcmp(d.train.item[0].path, "images/0000003.jpg"), "aircraft: from its own folder");
  fvg_dataset_free(&d);
}

/* Every wrong list: one line that names the file and the line. */
typedef struct wrong_list { const char *dataset, *file, *text, *says; } wrong_list;

static void test_wrong_lists(fvg_ctx *c) {
  static const wrong_list cases[] = {
    {"fgvc_aircraft", "fgvc_aircraft/images_variant_train.txt", "1 A380\n2\n", "line 2 is not of the form"},
    {"fgvc_aircraft", "fgvc_aircraft/images_variant_train.txt", "1 A380\n\n2 Boeing 747\n",
     "line 3: class \"Boeing 747\" is not in variants.txt"},
    {"fgvc_aircraft", "fgvc_aircraft/images_variant_val.txt", "\r\n \n", "no pictures"},
    {"fgvc_aircraft", "fgvc_aircraft/images_variant_test.txt", "../../x A380\n", "line 1: path \"../../x.jpg\""},
    {"fgvc_aircraft", "fgvc_aircraft/images_variant_test.txt", "1\001 A380\n", "line 1: the path"},
    {"fgvc_aircraft", "fgvc_aircraft/variants.txt", "unused\n707-320\nCessna 172\nA380\n", "label 0 has no entry"},
    {"oxford_pets", "oxford_pets/annotations/trainval.txt", "Beagle_1\n", "line 1 is not of the form"},
    {"oxford_pets", "oxford_pets/annotations/trainval.txt", "Beagle 1 1 1\n", "line 1 is not of the form"},
    {"oxford_pets", "oxford_pets/annotations/trainval.txt", "Beagle_1 1 1 1\nPug_1 0 1 1",
     "line 2 is not of the form"},
    {"oxford_pets", "oxford_pets/annotations/trainval.txt", "Beagle_1 1 1 1\nPug_1 1 1 1",
     "line 2: label 0 is called \"pug\""},
    {"oxford_pets", "oxford_pets/annotations/trainval.txt", "Beagle_1 2147483647 1 1\n", "line 1: label 2147483646"},
    {"sun397", "sun397/ClassName.txt", "/a/abbey\nalley\n", "line 2 is not of the form"},
    {"sun397", "sun397/ClassName.txt", "/a/abbey\n/alley\n", "line 2 is not of the form"},
    {"sun397", "sun397/Training_01.txt", "a/abbey/x.jpg\n", "line 1 is not of the form"},
    {"sun397", "sun397/Training_01.txt", "//x.jpg\n", "line 1 is not of the form"},
    {"sun397", "sun397/Testing_01.txt", "/a/attic/x.jpg\n", "class \"a/attic\" is not in ClassName.txt"},
    {"ucf101", "ucf101/ucfTrainTestlist/classInd.txt", "1\n", "line 1 is not of the form"},
    {"ucf101", "ucf101/ucfTrainTestlist/trainlist01.txt", "YoYo 1\n", "line 1 is not of the form"},
    {"ucf101", "ucf101/ucfTrainTestlist/trainlist01.txt", "/v.avi 1\n", "line 1: class \"\""}};
  fvg_dataset d;
  char path[200], what[64];
  size_t i, used = fvg_mem_used(c);
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    write_aircraft();
    write_text(DATA "/oxford_pets/annotations/trainval.txt", "Beagle_1 1 1 1\n");
    write_text(DATA "/oxford_pets/annotations/test.txt", "Beagle_2 1 1 1\n");
    write_text(DATA "/sun397/ClassName.txt", "/a/abbey\n");
    write_text(DATA "/sun397/Training_01.txt", "/a/abbey/x.jpg\n");
    write_text(DATA "/sun397/Testing_01.txt", "/a/abbey/y.jpg\n");
    write_text(DATA "/ucf101/ucfTrainTestlist/classInd.txt", "1 YoYo\n");
    write_text(DATA "/ucf101/ucfTrainTestlist/trainlist01.txt", "YoYo/x.avi 1\n");
    write_text(DATA "/ucf101/ucfTrainTestlist/testlist01.txt", "YoYo/y.avi\n");
    remove(DATA "/oxford_pets/split_zhou_OxfordPets.json");
    remove(DATA "/sun397/split_zhou_SUN397.json");
    remove(DATA "/ucf101/split_zhou_UCF101.json");
    snprintf(path, sizeof path, DATA "/%s", cases[i].file);
    write_text(path, cases[i].text);
    snprintf(what, sizeof what, "wrong list %d", (int)i);
    check(open_named(c, &d, DATA, cases[i].dataset, NULL) == FVG_E_FORMAT && says(c, cases[i].file, cases[i].says)
          && is_zero(&d, sizeof d) && fvg_mem_used(c) == used, what);
  }
  write_text(DATA "/fgvc_aircraft/variants.txt", "1\n2\n3\n4\n5\n6\n707-320\nCessna 172\nA380\n");
  check(open_named(c, &d, DATA, "fgvc_aircraft", NULL) == FVG_E_FORMAT
        && says(c, "images_variant_train.txt: line 1", "label 8, but the lists have only 6"),
        "wrong list: a large label");
  write_text(DATA "/fgvc_aircraft/variants.txt", "1\n2\n3\n4\n707-320\nCessna 172\nA380\n");
  check(open_named(c, &d, DATA, "fgvc_aircraft", NULL) == FVG_E_FORMAT
        && says(c, "images_variant_train.txt: line 1", "label 6, but the lists have only 6"),
        "wrong list: a label that is just too large");
  write_bytes(DATA "/sun397/ClassName.txt", "/a/abbey\n/a\0/b\n", 16);
  check(open_named(c, &d, DATA, "sun397", NULL) == FVG_E_FORMAT && says(c, "sun397/ClassName.txt", "line 2"),
        "wrong list: a zero byte");
  write_aircraft();
  remove(DATA "/fgvc_aircraft/images_variant_val.txt");
  check(open_named(c, &d, DATA, "fgvc_aircraft", NULL) == FVG_E_IO
        && says(c, "images_variant_val.txt", "cannot open"), "wrong list: none");
  write_aircraft();
}

/* Changed bytes in lists: an answer, no crash, no memory kept. */
static void test_hostile_lists(fvg_ctx *c) {
  static const char *const cases[][3] = {
    {"sun397", "sun397/Training_01.txt", "/a/abbey/x.jpg\n/a/abbey/z.jpg\n"},
    {"sun397", "sun397/ClassName.txt", "/a/abbey\n"},
    {"ucf101", "ucf101/ucfTrainTestlist/trainlist01.txt", "YoYo/x.avi 1\nYoYo/z.avi 1\n"},
    {"ucf101", "ucf101/ucfTrainTestlist/classInd.txt", "1 YoYo\n"},
    {"oxford_pets", "oxford_pets/annotations/trainval.txt", "Beagle_1 1 1 1\nBeagle_3 1 1 1\n"},
    {"imagenet", "imagenet/classnames.txt", "n01 tench\nn02 shark\n"}};
  fvg_dataset d;
  fvg_rng r;
  char path[200], bad[64];
  size_t i, used = fvg_mem_used(c);
  int k, ok = 1;
  write_text(DATA "/sun397/ClassName.txt", "/a/abbey\n");
  fvg_rng_seed(&r, 2, 0);
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    size_t n = strlen(cases[i][2]);
    snprintf(path, sizeof path, DATA "/%s", cases[i][1]);
    for (k = 0; k < 200; k++) {
      memcpy(bad, cases[i][2], n);
      bad[fvg_rng_below(&r, (uint32_t)n)] = (char)fvg_rng_below(&r, 256);
      bad[fvg_rng_below(&r, (uint32_t)n)] = "AZ/ \n\r._-1"[fvg_rng_below(&r, 10)];
      write_bytes(path, bad, k < 100 ? n : fvg_rng_below(&r, (uint32_t)n + 1));
      if (open_named(c, &d, DATA, cases[i][0], NULL) == FVG_OK) fvg_dataset_free(&d);
      else if (!*fvg_error(c)) ok = 0;
    }
    write_text(path, cases[i][2]);
  }
  write_imagenet();
  check(ok && fvg_mem_used(c) == used, "hostile lists");
}

/* ---- published sets whose split file is missing ---- */
static int part_counts(const fvg_dataset *d, int train, int val, int test) {
  return d->train.n == train && d->val.n == val && d->test.n == test;
}

static int apart(const fvg_items *a, const fvg_items *b) {
  int i, k;
  for (i = 0; i < a->n; i++) for (k = 0; k < b->n; k++) if (!strcmp(a->item[i].path, b->item[k].path)) return 0;
  return 1;
}

static void write_made(void) {
  static const char *const caltech[] = {"BACKGROUND_Google", "Faces", "Faces_easy", "Leopards", "Motorbikes",
                                        "airplanes", "yin_yang"};
  static const char *const eurosat[] = {"AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial",
                                        "Pasture", "PermanentCrop", "Residential", "River", "SeaLake"};
  char path[200], trainval[2000], *at = trainval;
  int i, k;
  for (i = 0; i < 7; i++)
    for (k = 0; k < 10; k++) {
      snprintf(path, sizeof path, BASE "/made/caltech-101/101_ObjectCategories/%s", caltech[i]);
      write_image(path, "image", k);
    }
  for (i = 0; i < 10; i++)
    for (k = 0; k < 5; k++) {
      snprintf(path, sizeof path, BASE "/made/eurosat/2750/%s", eurosat[i]);
      write_image(path, eurosat[i], k);
    }
  for (k = 0; k < 2; k++) { write_image(BASE "/made/food-101/images/apple_pie", "a", k); }
  write_image(BASE "/made/dtd/images/banded", "b", 0);
  for (i = 0; i < 20; i++)
    at += sprintf(at, "%s_%d %d %d 1\n", i % 2 ? "american_bulldog" : "Abyssinian", i, 1 + i % 2, 1 + i % 2);
  write_text(BASE "/made/oxford_pets/annotations/trainval.txt", trainval);
  write_text(BASE "/made/oxford_pets/annotations/test.txt", "Abyssinian_201 1 1 1\namerican_bulldog_7 2 2 1\n");
  write_text(BASE "/made/sun397/ClassName.txt", "/a/abbey\n/a/apartment_building/outdoor\n");
  for (i = 0, at = trainval; i < 14; i++)
    at += sprintf(at, "%s/sun_%d.jpg\r\n", i % 2 ? "/a/abbey" : "/a/apartment_building/outdoor", i);
  write_text(BASE "/made/sun397/Training_01.txt", trainval);
  write_text(BASE "/made/sun397/Testing_01.txt", "/a/abbey/sun_t.jpg\n");
  write_text(BASE "/made/ucf101/ucfTrainTestlist/classInd.txt", "1 ApplyEyeMakeup\n2 YoYo\n");
  write_text(BASE "/made/ucf101/ucfTrainTestlist/trainlist01.txt",
             "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\nYoYo/v_YoYo_g08_c01.avi 2\n"
             "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02.avi 1\nApplyEyeMakeup/v_ApplyEyeMakeup_g08_c03.avi 1\n");
  write_text(BASE "/made/ucf101/ucfTrainTestlist/testlist01.txt", "YoYo/v_YoYo_g01_c01.avi\n");
}

static void test_made(void) {
  fvg_ctx *c;
  fvg_desc desc;
  fvg_dataset d, e;
  listener heard;
  memset(&desc, 0, sizeof desc);
  memset(&heard, 0, sizeof heard);
  desc.log = listen_log;
  desc.user = &heard;
  if (fvg_init(&c, &desc)) { check(0, "made: no context"); return; }
  write_made();
  check(open_named(c, &d, BASE "/made", "caltech101", NULL) == FVG_OK && d.n_class == 5 && part_counts(&d, 25, 10, 15)
        && !strcmp(d.class_name[0], "face") && !strcmp(d.class_name[1], "leopard")
        && !strcmp(d.class_name[2], "motorbike") && !strcmp(d.class_name[3], "airplane")
        && !strcmp(d.class_name[4], "yin yang") && apart(&d.train, &d.test) && apart(&d.train, &d.val)
        && !strncmp(d.train.item[0].path, "caltech-101/101_ObjectCategories/Faces/image_", 45),
        "made: Caltech-101 drops two folders and renames four");
  check(heard.n == 2 && !strncmp(heard.all, "0 ", 2) &&
            strstr(heard.all, "split_zhou_Caltech101.json") &&
            strstr(heard.all, "cannot be compared"),
        "made: with a warning");
  check(!strncmp(heard.last, "1 ", 2) &&
            strstr(heard.last, "5 classes of 10 pictures are cut into 25 to train, 10 for val, 15 "
                               "to test (50/20/30 %"),
        "made: and a note on the cut");
  check(open_named(c, &e, BASE "/made/caltech-101", "caltech101", NULL) == FVG_OK && e.train.n == d.train.n
        && !strcmp(e.train.item[9].path, d.train.item[9].path + 12), "made: the same from the set's own folder");
  fvg_dataset_free(&d);
  fvg_dataset_free(&e);
  check(open_named(c, &d, BASE "/made", "eurosat", NULL) == FVG_OK && d.n_class == 10 && part_counts(&d, 20, 10, 20)
        && !strcmp(d.class_name[0], "Annual Crop Land") && !strcmp(d.class_name[1], "Forest")
        && !strcmp(d.class_name[2], "Herbaceous Vegetation Land") && !strcmp(d.class_name[3], "Highway or Road")
        && !strcmp(d.class_name[4], "Industrial Buildings") && !strcmp(d.class_name[5], "Pasture Land")
        && !strcmp(d.class_name[6], "Permanent Crop Land") && !strcmp(d.class_name[7], "Residential Buildings")
        && !strcmp(d.class_name[8], "River") && !strcmp(d.class_name[9], "Sea or Lake"), "made: EuroSAT's phrases");
  fvg_dataset_free(&d);
  check(open_named(c, &d, BASE "/made", "food101", NULL) == FVG_OK && !strcmp(d.class_name[0], "apple pie"),
        "made: Food-101");
  fvg_dataset_free(&d);
  check(open_named(c, &d, BASE "/made", "dtd", NULL) == FVG_E_FORMAT &&
            says(c, "none of the 1 class folders", "banded"),
        "made: too few pictures");
  check(open_named(c, &d, BASE "/made", "oxford_pets", NULL) == FVG_OK && d.n_class == 2 && part_counts(&d, 16, 4, 2)
        && !strcmp(d.class_name[0], "abyssinian") && !strcmp(d.class_name[1], "american bulldog")
        && has_path(&d.test, "oxford_pets/images/american_bulldog_7.jpg", 1) && apart(&d.train, &d.val)
        && d.val.item[0].label + d.val.item[1].label + d.val.item[2].label + d.val.item[3].label == 2,
        "made: a fifth of each class of the pets to val");
  check(open_named(c, &e, BASE "/made", "OxfordPets", NULL) == FVG_OK && same_set(&d, &e), "made: always the same");
  fvg_dataset_free(&d);
  fvg_dataset_free(&e);
  check(open_named(c, &d, BASE "/made", "sun397", NULL) == FVG_OK && part_counts(&d, 12, 2, 1)
        && !strcmp(d.class_name[0], "abbey") && !strcmp(d.class_name[1], "outdoor apartment building")
        && has_path(&d.test, "sun397/SUN397/a/abbey/sun_t.jpg", 0)
        && (has_path(&d.train, "sun397/SUN397/a/apartment_building/outdoor/sun_0.jpg", 1)
            || has_path(&d.val, "sun397/SUN397/a/apartment_building/outdoor/sun_0.jpg", 1)), "made: SUN397");
  fvg_dataset_free(&d);
  check(open_named(c, &d, BASE "/made", "ucf101", NULL) == FVG_OK && part_counts(&d, 3, 1, 1)
        && !strcmp(d.class_name[0], "Apply Eye Makeup") && !strcmp(d.class_name[1], "Yo Yo")
        && has_path(&d.train, "ucf101/UCF-101-midframes/Yo_Yo/v_YoYo_g08_c01.jpg", 1)
        && has_path(&d.test, "ucf101/UCF-101-midframes/Yo_Yo/v_YoYo_g01_c01.jpg", 1), "made: UCF101");
  fvg_dataset_free(&d);
  heard.n = 0;
  write_imagenet();
  check(open_named(c, &d, DATA, "imagenet", NULL) == FVG_OK && heard.n == 0, "made: ImageNet misses no split");
  fvg_dataset_free(&d);
  check(open_named(c, &d, BASE "/made", "stanford_cars", NULL) == FVG_E_IO
        && says(c, "stanford_cars/split_zhou_StanfordCars.json", ".mat"), "made: not the cars");
  check(open_named(c, &d, BASE "/made", "flowers102", NULL) == FVG_E_IO
        && says(c, "oxford_flowers/split_zhou_OxfordFlowers.json", ".mat"), "made: not the flowers");
  check(open_named(c, &d, BASE "/nowhere", "caltech101", NULL) == FVG_E_IO
        && says(c, BASE "/nowhere", "caltech-101/101_ObjectCategories is missing, and so is its split file"),
        "made: no such folder");
  check(open_named(c, &d, BASE "/nowhere", "fgvc_aircraft", NULL) == FVG_E_IO
        && says(c, BASE "/nowhere", "fgvc_aircraft/variants.txt is missing"), "made: no such list");
  check(fvg_mem_used(c) == 0, "made: nothing stays");
  fvg_free(c);
}

/* ---- class names ---- */
static void test_class_names(void) {
  static const char *const twins[] = {"Cat", "cat", "dog", "caf\xC3\xA9", "Cafe\xCC\x81"};
  fvg_ctx *c;
  fvg_desc desc;
  fvg_dataset d;
  listener heard;
  char path[200];
  int i, k;
  memset(&desc, 0, sizeof desc);
  memset(&heard, 0, sizeof heard);
  desc.log = listen_log;
  desc.user = &heard;
  if (fvg_init(&c, &desc)) { check(0, "class names: no context"); return; }

  for (i = 0; i < 5; i++)
    for (k = 0; k < 10; k++) {
      snprintf(path, sizeof path, BASE "/twins/%s", twins[i]);
      write_image(path, "x", k);
      if (i != 1 && i != 4) { snprintf(path, sizeof path, BASE "/single/%s_", twins[i]); write_image(path, "x", k); }
      if (i < 2) { snprintf(path, sizeof path, BASE "/blank/%s", i ? "__" : "dog"); write_image(path, "x", k); }
    }
#ifndef _WIN32                                           /* there "Dog" and "dog" are one folder */
  check(open_set(c, &d, BASE "/twins", NULL) == FVG_OK && d.n_class == 5 && heard.n == 2  /* a note on the cut */
        && strstr(heard.last, "0 " BASE "/twins") && strstr(heard.last, "means the same as class")
        && strstr(heard.last, "more such pairs"), "class names: folders that differ in case stay, with a warning");
  fvg_dataset_free(&d);
#endif
  heard.n = 0;
  check(open_set(c, &d, BASE "/single", NULL) == FVG_OK && d.n_class == 3 && heard.n == 1
        && strstr(heard.last, "are cut into") && !strcmp(d.class_name[0], "Cat"), "class names: without the blank that a last underscore makes");
  fvg_dataset_free(&d);
  check(open_set(c, &d, BASE "/blank", NULL) != FVG_OK && says(c, BASE "/blank", "class 1 of 2 is empty"),
        "class names: a folder whose name is blank");

  write_image(BASE "/names/a", "x", 0);
  write_text(BASE "/names/split.json", "{\"train\": [[\"a/x_00.jpg\", 0, \"great_pyrenees\"], [\"a/x_00.jpg\", 1, \"b\"],"
             "[\"a/x_00.jpg\", 0, \"Great  Pyrenees \"]], \"test\": []}");
  check(open_set(c, &d, BASE "/names", NULL) == FVG_OK && d.n_class == 2 && !strcmp(d.class_name[0], "great pyrenees"),
        "class names: one label, two spellings");
  fvg_dataset_free(&d);
  write_text(BASE "/names/split.json", "{\"train\": [[\"a/x_00.jpg\", 0, \" _ \"]], \"test\": []}");
  check(open_set(c, &d, BASE "/names", NULL) != FVG_OK && says(c, BASE "/names", "empty"), "class names: blank in a split");
  write_text(BASE "/names/split.json", "{\"train\": [[\"a/x_00.jpg\", 0, \"b\"], [\"a/x_00.jpg\", 1, \"B_\"],"
             "[\"a/x_00.jpg\", 2, \"a\"]], \"test\": []}");
  heard.n = 0;
  check(open_set(c, &d, BASE "/names", NULL) == FVG_OK && heard.n == 1
        && strstr(heard.last, "class 2 \"B\" means the same as class 1 \"b\": names cannot"),
        "class names: two labels, one meaning");
  fvg_dataset_free(&d);
  check(fvg_mem_used(c) == 0, "class names: nothing stays");
  fvg_free(c);
}

/* ---- running out of memory at every allocation ---- */
typedef struct miser { int left; } miser;
static void *miser_alloc(void *user,
        size_t bytes) { miser *m = (miser *)user; return m->left-- > 0 ? malloc(bytes) : NULL; }
static void miser_release(void *user, void *block, size_t bytes) { (void)user; (void)bytes; free(block); }

static fvg_status use_everything(fvg_ctx *c) {
  fvg_dataset d;
  fvg_items half, few;
  fvg_image image, mask;
  fvg_score score;
  static const float scores[2] = {1, 0};
  static const int label[1] = {0};
  static const char *const named[][2] = {{DATA, "imagenet"}, {DATA, "fgvc_aircraft"}, {DATA, "dtd"},
    {BASE "/made", "caltech101"}, {BASE "/made/eurosat", "eurosat"}, {BASE "/made", "oxford_pets"},
    {BASE "/made", "sun397"}, {BASE "/made", "ucf101"}};
  size_t i;
  fvg_status s = open_set(c, &d, BASE "/parts", NULL);
  fvg_dataset_free(&d);
  for (i = 0; i < sizeof named / sizeof *named && !s; i++) {
    s = open_named(c, &d, named[i][0], named[i][1], NULL);
    fvg_dataset_free(&d);
  }
  if (!s && (s = open_named(c, &d, BASE "/masks", "sun397", NULL)) == FVG_OK) {
    s = fvg_dataset_load(&d, &image, &mask, &d.train.item[0], 0);
    if (!s) { fvg_image_free(c, &image); fvg_image_free(c, &mask); }
  }
  fvg_dataset_free(&d);
  if (!s) s = open_set(c, &d, BASE "/plain", NULL);
  fvg_dataset_free(&d);
  if (!s) s = open_set(c, &d, BASE "/load", NULL);
  if (s) return s;
  s = fvg_dataset_load(&d, &image, &mask, &d.train.item[1], 0);
  if (!s) { fvg_image_free(c, &image); fvg_image_free(c, &mask); }
  if (!s && (s = fvg_items_group(c, &half, &d.train, d.n_class, FVG_ALL)) == FVG_OK) {
    if ((s = fvg_items_few_shot(c, &few, NULL, &half, d.n_class, 1, 1)) == FVG_OK) fvg_items_free(c, &few);
    if (!s && (s = fvg_items_few_shot_val(c, &few, &half, &half, d.n_class, 1, 1)) == FVG_OK) fvg_items_free(c, &few);
    fvg_items_free(c, &half);
  }
  if (!s) s = fvg_score_of(c, &score, scores, label, 1, 2);
  fvg_dataset_free(&d);
  return s;
}

static void test_no_memory(void) {
  miser m;
  fvg_desc desc;
  fvg_ctx *c;
  int n, ok = 1;
  fvg_status s = FVG_E_NOMEM;
  memset(&desc, 0, sizeof desc);
  desc.allocator.alloc = miser_alloc;
  desc.allocator.release = miser_release;
  desc.allocator.user = &m;
  for (n = 1; n < 5000 && s; n++) {
    m.left = n;
    if (fvg_init(&c, &desc)) continue;
    s = use_everything(c);
    if ((s && (s != FVG_E_NOMEM || !strstr(fvg_error(c), "out of memory"))) || fvg_mem_used(c)) ok = 0;
    fvg_free(c);
  }
  check(ok && !s && n > 50, "no memory: every allocation may fail, nothing stays");
}

/* ---- pictures and masks ---- */
static int mask_is(const fvg_image *m, int width, int height, const char *rows) {    /* '#' 255, '.' 0            */
  int i;
  if (!m->pixels || m->width != width || m->height != height || m->channels != 1) return 0;
  for (i = 0; i < width * height; i++) if (m->pixels[i] != (rows[i] == '#' ? 255 : 0)) return 0;
  return 1;
}

static void test_load(fvg_ctx *c) {
  static const unsigned char grey[6] = {10, 20, 30, 40, 50, 60}, same[6] = {0, 127, 128, 255, 129, 5},
          small[2] = {200, 100}, flat[3] = {100, 200, 100},
          tall[12] = {9, 9, 200, 9, 9, 9, 200, 9, 9, 200, 9, 9};
  fvg_dataset d;
  fvg_image image, mask;
  size_t used;
  write_grey(BASE "/load/images/a.pgm", 3, 2, grey);
  write_grey(BASE "/load/images/b.c.pgm", 3, 2, grey);
  write_grey(BASE "/load/images/d", 3, 2, grey);
  write_text(BASE "/load/images/e.pgm", "P5 garbage");
  write_grey(BASE "/load/images/f.pgm", 3, 2, grey);
  write_grey(BASE "/load/images/g.pgm", 3, 2, grey);
  write_grey(BASE "/load/images/h.pgm", 3, 2, grey);
  write_grey(BASE "/load/mask/images/a.pgm", 3, 2, same);
  write_grey(BASE "/load/mask/images/b.c.jpeg", 1, 2, small);      /* a PGM by content; another size              */
  write_text(BASE "/load/mask/images/f.png", "no picture");
  /* as wide as the picture, but not as high */
  write_grey(BASE "/load/mask/images/g.pgm", 3, 1, flat);
  write_grey(BASE "/load/mask/images/h.pgm", 3, 4, tall);
  write_text(BASE "/load/split.json",
          "{\"train\": [[\"a.pgm\", 0, \"x\"], [\"b.c.pgm\", 0, \"x\"], [\"d\", 0, \"x\"], "
             "[\"e.pgm\", 0, \"x\"], [\"f.pgm\", 0, \"x\"], [\"gone.pgm\", 0, \"x\"], "
             "[\"g.pgm\", 0, \"x\"], [\"h.pgm\", 0, \"x\"]], \"test\": []}");
  if (open_set(c, &d, BASE "/load", NULL)) { check(0, fvg_error(c)); return; }
  used = fvg_mem_used(c);
  check(fvg_dataset_load(&d, &image, &mask, &d.train.item[0], 0) == FVG_OK && image.width == 3 && image.height == 2
        && image.channels == 3
        && image.pixels[3] == 20 && image.pixels[5] == 20 && mask_is(&mask, 3, 2, "..###."),
        "load: the picture in RGB, the mask of the same name cut at 0.5");
  fvg_image_free(c, &image);
  fvg_image_free(c, &mask);
  check(fvg_dataset_load(&d, &image, &mask, &d.train.item[0], 0.9f) == FVG_OK && mask_is(&mask, 3, 2, "...#.."),
        "load: another threshold");
  fvg_image_free(c, &image);
  fvg_image_free(c, &mask);
  check(fvg_dataset_load(&d, &image, &mask, &d.train.item[1], 0) == FVG_OK && mask_is(&mask, 3, 2, "###..."),
        "load: the mask of the same stem, resized");
  fvg_image_free(c, &image);
  fvg_image_free(c, &mask);
  check(fvg_dataset_load(&d, &image, &mask, &d.train.item[6], 0) == FVG_OK &&
        mask_is(&mask, 3, 2, ".#..#."),
        "load: a mask of the picture's width and less height, resized");
  fvg_image_free(c, &image);
  fvg_image_free(c, &mask);
  check(fvg_dataset_load(&d, &image, &mask, &d.train.item[7], 0) == FVG_OK &&
        mask_is(&mask, 3, 2, "...#.."),
        "load: and one of more height");
  fvg_image_free(c, &image);
  fvg_image_free(c, &mask);
  check(fvg_dataset_load(&d, &image, &mask, &d.train.item[2], 0) == FVG_OK && image.pixels && !mask.pixels,
        "load: no mask is no error");
  fvg_image_free(c, &image);
  check(fvg_dataset_load(&d, &image, NULL, &d.train.item[4], 0) == FVG_OK && image.pixels,
        "load: the mask is not wanted");
  fvg_image_free(c, &image);
  check(fvg_dataset_load(&d, &image, &mask, &d.train.item[4], 0) != FVG_OK
        && says(c, BASE "/load/mask/images/f.png", "")
        && is_zero(&image, sizeof image) && is_zero(&mask, sizeof mask), "load: a broken mask is an error");
  check(fvg_dataset_load(&d, &image, &mask, &d.train.item[3], 0) == FVG_E_FORMAT
        && says(c, BASE "/load/images/e.pgm", ""),
        "load: a broken picture");
  check(fvg_dataset_load(&d, &image, &mask, &d.train.item[5], 0) == FVG_E_IO
        && says(c, BASE "/load/images/gone.pgm", "")
        && is_zero(&image, sizeof image), "load: a missing picture");
  check(fvg_mem_used(c) == used, "load: nothing stays");
  fvg_dataset_free(&d);
}

#ifdef FVGPT_STB_IMAGE
/* Pictures that EXIF says are turned: as stored, with one note, or upright and their masks with them. */
static int n_note;
static char note[512];
static void keep_note(void *user, int level, const char *text) {
  (void)user;
  n_note += level == 1;
  snprintf(note, sizeof note, "%s", text);
}

static void write_turned(const char *path, int orientation, int width, int height, const char *rows) {
  made exif, m;
  make_exif(&exif, orientation % 2, orientation, 3);
  png_begin(&m, width, height, 8, 0, 0);
  png_chunk(&m, "eXIf", exif.bytes, exif.n);
  png_end(&m, rows, (size_t)((width + 1) * height), 0);
  write_bytes(path, m.bytes, m.n);
}

static int loads(fvg_dataset *d, int i, int width, const char *grey, const char *inside) {
  fvg_image image, mask;
  int k, n = (int)strlen(grey), ok = !fvg_dataset_load(d, &image, &mask, &d->train.item[i], 0);
  ok = ok && image.width == width && image.height == n / width;
  for (k = 0; ok && k < n; k++) ok = image.pixels[3 * k] == (unsigned char)grey[k];
  ok = ok && (inside ? mask_is(&mask, width, n / width, inside) : !mask.pixels);
  fvg_image_free(d->ctx, &image);
  fvg_image_free(d->ctx, &mask);
  return ok;
}

static void test_turned(void) {
  static const unsigned char as_stored[6] = {255, 0, 0, 0, 0, 0}, as_seen[6] = {0, 255, 0, 0, 0, 0}, twice[24] = {255, 255, 0, 0, 0, 0, 255, 255};
  fvg_dataset d;
  fvg_desc desc;
  fvg_ctx *c;
  memset(&desc, 0, sizeof desc);
  desc.log = keep_note;
  write_turned(BASE "/turned/images/a.png", 6, 3, 2, "\0abc\0def");
  write_turned(BASE "/turned/images/b.png", 6, 3, 2, "\0abc\0def");
  write_turned(BASE "/turned/images/c.png", 3, 3, 2, "\0abc\0def");
  write_turned(BASE "/turned/images/d.png", 8, 3, 2, "\0abc\0def");
  write_turned(BASE "/turned/images/e.png", 1, 3, 2, "\0abc\0def");
  write_grey(BASE "/turned/mask/images/a.pgm", 3, 2, as_stored);
  write_grey(BASE "/turned/mask/images/b.pgm", 2, 3, as_seen);
  write_grey(BASE "/turned/mask/images/c.pgm", 3, 2, as_stored);
  write_grey(BASE "/turned/mask/images/d.pgm", 6, 4, twice);       /* of another size, and lying as the file does   */
  write_text(BASE "/turned/split.json", "{\"train\": [[\"a.png\", 0, \"x\"], [\"b.png\", 0, \"x\"], [\"c.png\", 0, \"x\"], "
             "[\"d.png\", 0, \"x\"], [\"e.png\", 0, \"x\"]], \"test\": []}");
  if (fvg_init(&c, &desc)) { check(0, "a context"); return; }
  if (open_set(c, &d, BASE "/turned", NULL)) { check(0, fvg_error(c)); return; }
  check(loads(&d, 4, 3, "abcdef", NULL) && !n_note, "turned: upright anyway, no note");
  check(loads(&d, 0, 3, "abcdef", "#....."), "turned: as stored");
  check(n_note == 1 && strstr(note, "turned/images/a.png") && strstr(note, "--exif-rotate") && strstr(note, "orientation 6"),
        "turned: a note that names the file");
  check(loads(&d, 2, 3, "abcdef", "#.....") && n_note == 1, "turned: one note only");
  d.exif_rotate = 1;
  check(loads(&d, 0, 2, "daebfc", ".#...."), "turned: the picture, and a mask as stored");
  check(loads(&d, 1, 2, "daebfc", ".#...."), "turned: a mask that was drawn on the turned picture stays");
  check(loads(&d, 2, 3, "fedcba", ".....#"), "turned: upside down, the mask with it");
  check(loads(&d, 3, 2, "cfbead", "....#."), "turned: a mask of another size");
  check(loads(&d, 4, 3, "abcdef", NULL), "turned: upright already");
  fvg_dataset_free(&d);
  check(fvg_mem_used(c) == 0, "turned: nothing stays");
  fvg_free(c);
}
#endif

/* A published set's masks: each place in turn, the last one written being the first one looked at. */
static void test_published_masks(fvg_ctx *c) {
  static const unsigned char grey[2] = {200, 100};
  static const char *const place[] = {"sun397/mask/SUN397/SUN397/a/x.pgm", "mask/sun397/SUN397/SUN397/a/x.pgm",
                                      "sun397/mask/SUN397/a/x.pgm", "mask/sun397/SUN397/a/x.pgm"};
  fvg_dataset d;
  fvg_image image, mask;
  char path[200], what[100];
  int i;
  write_grey(BASE "/masks/sun397/SUN397/a/x.pgm", 2, 1, grey);
  write_text(BASE "/masks/sun397/split_zhou_SUN397.json", "{\"train\": [[\"a/x.pgm\", 0, \"x\"]], \"test\": []}");
  for (i = 0; i < 4; i++) { snprintf(path, sizeof path, BASE "/masks/%s", place[i]); remove(path); }
  remove(BASE "/masks/sun397/mask/SUN397/a/x.png");
  if (open_named(c, &d, BASE "/masks", "sun397", NULL)) { check(0, fvg_error(c)); return; }
  check(fvg_dataset_load(&d, &image, &mask, &d.train.item[0], 0) == FVG_OK && image.pixels && !mask.pixels,
        "published masks: none is no error");
  fvg_image_free(c, &image);
  for (i = 0; i < 4; i++) {
    unsigned char rows[2];
    rows[0] = (unsigned char)(i & 1 ? 255 : 0);
    rows[1] = (unsigned char)(i & 2 ? 255 : 0);
    snprintf(path, sizeof path, BASE "/masks/%s", place[i]);
    write_grey(path, 2, 1, rows);
    snprintf(what, sizeof what, "published masks: %s", place[i]);
    check(fvg_dataset_load(&d, &image, &mask, &d.train.item[0], 0) == FVG_OK
          && mask_is(&mask, 2, 1, i == 0 ? ".." : i == 1 ? "#." : i == 2 ? ".#" : "##"), what);
    fvg_image_free(c, &image);
    fvg_image_free(c, &mask);
  }
  fvg_dataset_free(&d);
  for (i = 0; i < 4; i++) { snprintf(path, sizeof path, BASE "/masks/%s", place[i]); remove(path); }
  write_grey(BASE "/masks/sun397/mask/SUN397/a/x.png", 1, 1, grey);
  if (open_named(c, &d, BASE "/masks", "sun397", NULL)) { check(0, fvg_error(c)); return; }
  check(fvg_dataset_load(&d, &image, &mask, &d.train.item[0], 0) == FVG_OK && mask_is(&mask, 2, 1, "##"),
        "published masks: another extension, another size");
  fvg_image_free(c, &image);
  fvg_image_free(c, &mask);
  fvg_dataset_free(&d);
  write_grey(BASE "/masks2/sun397/a/x.pgm", 2, 1, grey);              /* only the masks have SUN397                 */
  write_grey(BASE "/masks2/mask/sun397/SUN397/a/x.pgm", 2, 1, grey);
  write_text(BASE "/masks2/sun397/split_zhou_SUN397.json", "{\"train\": [[\"a/x.pgm\", 0, \"x\"]], \"test\": []}");
  if (open_named(c, &d, BASE "/masks2", "sun397", NULL)) { check(0, fvg_error(c)); return; }
  check(!strcmp(d.train.item[0].path, "sun397/a/x.pgm")
        && fvg_dataset_load(&d, &image, &mask, &d.train.item[0], 0) == FVG_OK && mask_is(&mask, 2, 1, "#."),
        "published masks: an extra level that the picture has not");
  fvg_image_free(c, &image);
  fvg_image_free(c, &mask);
  fvg_dataset_free(&d);
  if (open_named(c, &d, BASE "/masks/sun397", "sun397", NULL)) { check(0, fvg_error(c)); return; }
  check(fvg_dataset_load(&d, &image, &mask, &d.train.item[0], 0) == FVG_OK && mask_is(&mask, 2, 1, "##"),
        "published masks: from the set's own folder");
  fvg_image_free(c, &image);
  fvg_image_free(c, &mask);
  fvg_dataset_free(&d);
}

/* ---- what in a mask is foreground ---- */
/* Masks of 4 x 4 pixels by letters, and what they must become, or the refusal. */
typedef struct written_mask { const char *what, *rows, *alpha, *want, *says; } written_mask;

static uint32_t colour_of(char letter) {
  static const struct { char letter; uint32_t colour;
  } known[] = {{'k', 0},        {'w', 0xFFFFFF}, {'1', 0x010101}, {'2', 0x020202}, {'3', 0x030303},
               {'7', 0x070707}, {'f', 0x0F0F0F}, {'m', 0x7F7F7F}, {'h', 0x808080}, {'g', 0xC8C8C8},
               {'r', 0x800000}, {'n', 0x008000}, {'p', 0xC08080}, {'v', 0xE0E0C0}, {'y', 0xFFFF00},
               {'u', 0x440154}, {'j', 0xFDE725}, {'d', 0x404080}};
  size_t i;
  for (i = 0; known[i].letter != letter; i++) {}
  return known[i].colour;
}

/* Grey PGM, RGB PPM, or PNG with alpha ('.' transparent, '#' opaque, 'h' a third). */
static void write_mask(fvg_ctx *c, const char *root, const written_mask *m) {
  uint8_t pixels[64];
  fvg_image image;
  char path[300];
  int i, grey = 1;
  memset(&image, 0, sizeof image);
  for (i = 0; i < 16; i++) if (colour_of(m->rows[i]) % 0x010101u) grey = 0;
  image.width = image.height = 4;
  image.channels = m->alpha ? 4 : grey ? 1 : 3;
  image.pixels = pixels;
  for (i = 0; i < 16; i++) {
    uint32_t colour = colour_of(m->rows[i]);
    uint8_t *p = pixels + i * image.channels;
    p[0] = (uint8_t)(colour >> 16);
    if (image.channels < 3) continue;
    p[1] = (uint8_t)(colour >> 8);
    p[2] = (uint8_t)colour;
    if (m->alpha) p[3] = (uint8_t)(m->alpha[i] == '#' ? 255 : m->alpha[i] == 'h' ? 85 : 0);
  }
  snprintf(path, sizeof path, "%s/mask/a/x.png", root);
  remove(path);
  snprintf(path, sizeof path, "%s/mask/a/x.pgm", root);
  remove(path);
  if (image.channels == 1) { write_grey(path, 4, 4, pixels); return; }
  strcpy(strrchr(path, '.'), m->alpha ? ".png" : ".ppm");
  check(fvg_image_save(c, &image, path) == FVG_OK, "masks: written");
  if (!m->alpha) { /* listed by content, whatever it is called    */
    char png[300];
    snprintf(png, sizeof png, "%s/mask/a/x.png", root);
    remove(png);
    rename(path, png);
  }
}

static int read_mask(fvg_ctx *c, const char *root, fvg_mask_reading reading, const char *want,
                     const char *words) {
  fvg_dataset_desc desc;
  fvg_dataset d;
  fvg_image image, mask;
  fvg_status s;
  int ok;
  memset(&desc, 0, sizeof desc);
  desc.root = root;
  desc.mask_reading = reading;
  if (fvg_dataset_open(c, &d, &desc)) return 0;
  s = fvg_dataset_load(&d, &image, &mask, &d.train.item[0], 0);
  ok = want ? s == FVG_OK && mask_is(&mask, 4, 4, want)
            : s == FVG_E_FORMAT && says(c, "/mask/a/x.p", words) && is_zero(&mask, sizeof mask);
  if (want && s) printf("  %s\n", fvg_error(c));
  if (!s) { fvg_image_free(c, &image); fvg_image_free(c, &mask); }
  fvg_dataset_free(&d);
  return ok;
}

#define MASKED BASE "/masked"
#define CUT ".....##..##....."

static void test_mask_readings(fvg_ctx *c) {
  static const written_mask cases[] = {
    {"0 and 255", "kkkkkwwkkwwkkkkk", NULL, CUT, NULL},
    {"a soft one", "kfmfkwwhkgwmkfkk", NULL, ".....###.##.....", NULL},
    {"0 and 1", "kkkkk11kk11kkkkk", NULL, CUT, NULL},
    {"0 and 15", "kkkkkffkkffkkkkk", NULL, CUT, NULL},
    {"0 and 127", "kkkkkmmkkmmkkkkk", NULL, CUT, NULL},
    {"0 and 128", "kkkkkhhkkhhkkkkk", NULL, CUT, NULL},
    {"three labels", "kkkkk12kk73kkkkk", NULL, CUT, NULL},
    {"labels with VOC's border 255", "kwkkkffkkffkffff", NULL, ".....##..##.####", NULL},
    {"all 1", "1111111111111111", NULL, "################", NULL},
    {"all black", "kkkkkkkkkkkkkkkk", NULL, "................", NULL},
    {"all white", "wwwwwwwwwwwwwwww", NULL, "################", NULL},
    {"a trimap of 1 and 2", "2222211221122222", NULL, CUT, NULL},
    {"a trimap with its border", "2332311331132332", NULL, CUT, NULL},
    {"VOC: one dark class", "kkkkkrrkkrrkkkkk", NULL, CUT, NULL},
    {"VOC: dark and light classes", "kkkkkpnkkrpkkkkk", NULL, CUT, NULL},
    {"VOC: and their border", "vvvvvrrvvrrvvkkk", NULL, CUT, NULL},
    {"two colours, dark and light", "uuuuujjuujjuuuuu", NULL, CUT, NULL},
    {"dark and light without black", "fffffggffggfffff", NULL, CUT, NULL},
    {"every pixel 7", "7777777777777777", NULL, NULL, "every pixel has the same value"},
    {"1 and 7", "1111177117711111", NULL, NULL, "no black"},
    {"white beside colours", "kkkkkwwkkrrkkkkk", NULL, NULL, "white beside other colours"},
    {"colours without black", "rrrrrnnrrnnrrrrr", NULL, NULL, "no black"},
    {"labels or a border", "kkwwkffkkffkwwkk", NULL, NULL, "may be labels beside 255"},
    {"labels or soft", "kkkkkffkkggkkkkk", NULL, NULL, "labels, or a soft mask"},
    {"a trimap without background", "3333311331133333", NULL, CUT, NULL},
    {"2 and 3, which would be an empty trimap", "2222233223322222", NULL, NULL, "no black"}
  };
  static const unsigned char grey[16] = {9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6};
  char what[100];
  size_t i;
  write_grey(MASKED "/a/x.pgm", 4, 4, grey);
  write_text(MASKED "/split.json", "{\"train\": [[\"a/x.pgm\", 0, \"x\"]], \"test\": []}");
  write_grey(MASKED "/mask/a/x.pgm", 4, 4, grey);
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    write_mask(c, MASKED, &cases[i]);
    snprintf(what, sizeof what, "masks: %s", cases[i].what);
    check(read_mask(c, MASKED, FVG_MASK_AUTO, cases[i].want, cases[i].says), what);
  }
  write_mask(c, MASKED, &cases[23]);                                  /* nobody can tell: inverted means grey         */
  check(read_mask(c, MASKED, FVG_MASK_GREY, ".........##.....", NULL), "masks: told to be grey");
  check(read_mask(c, MASKED, FVG_MASK_LABELS, CUT, NULL), "masks: told to be labels");
  check(read_mask(c, MASKED, FVG_MASK_INVERTED, "#########..#####", NULL),
        "masks: told to be inverted");
  check(read_mask(c, MASKED, FVG_MASK_ALPHA, NULL, "no alpha channel"),
        "masks: told of an alpha channel that is none");
  write_mask(c, MASKED, &cases[2]);
  check(read_mask(c, MASKED, FVG_MASK_INVERTED, "#####..##..#####", NULL), "masks: 0 and 1, told to be inverted");
}

/* A PGM whose white is not 255: `values` of 4 x 4 pixels, of two bytes where white is above 255. */
static void write_values(int white, const int values[16]) {
  uint8_t bytes[200];
  int i, n = snprintf((char *)bytes, sizeof bytes, "P5 # labels of four things, in a rather small file\n4 4 %d\n", white);
  for (i = 0; i < 16; i++) {
    if (white > 255) bytes[n++] = (uint8_t)(values[i] >> 8);
    bytes[n++] = (uint8_t)values[i];
  }
  FILE *f = fopen(MASKED "/mask/a/x.pgm", "wb");
  if (f) { fwrite(bytes, 1, (size_t)n, f); fclose(f); }
}

static void test_mask_white(fvg_ctx *c) {
  static const struct { int white; int values[4]; const char *want, *says; fvg_mask_reading reading; } cases[] = {
    {65535, {0, 5, 17, 40}, NULL, "save it with 8 bits", FVG_MASK_AUTO},
    {65535, {0, 300, 700, 900}, NULL, "save it with 8 bits", FVG_MASK_AUTO},
    {65535, {0, 65535, 65535, 65535}, ".###.###.###.###", NULL, FVG_MASK_AUTO},
    {65535, {0, 20000, 40000, 65535}, "..##..##..##..##", NULL, FVG_MASK_AUTO},
    {300, {0, 100, 200, 300}, NULL, "its white is not 65535", FVG_MASK_AUTO},
    {3, {0, 1, 2, 3}, NULL, "fewer than 8 bits", FVG_MASK_AUTO},
    {3, {0, 1, 0, 3}, NULL, "fewer than 8 bits", FVG_MASK_AUTO},
    {3, {1, 2, 1, 2}, NULL, "fewer than 8 bits", FVG_MASK_AUTO},
    {40, {0, 5, 17, 40}, NULL, "fewer than 8 bits", FVG_MASK_AUTO},
    {3, {0, 0, 3, 3}, "..##..##..##..##", NULL, FVG_MASK_AUTO},
    {40, {0, 5, 17, 0}, ".##..##..##..##.", NULL, FVG_MASK_AUTO},
    {1, {0, 1, 1, 0}, ".##..##..##..##.", NULL, FVG_MASK_AUTO},
    {3, {0, 1, 2, 3}, ".###.###.###.###", NULL, FVG_MASK_LABELS},
    {40, {0, 5, 17, 40}, ".###.###.###.###", NULL, FVG_MASK_LABELS},
    {3, {3, 1, 2, 1}, ".#.#.#.#.#.#.#.#", NULL, FVG_MASK_TRIMAP},
    {3, {0, 1, 2, 3}, "..##..##..##..##", NULL, FVG_MASK_GREY}
  };
  size_t k;
  int i, values[16];
  char what[100];
  remove(MASKED "/mask/a/x.png");
  for (k = 0; k < sizeof cases / sizeof *cases; k++) {
    for (i = 0; i < 16; i++) values[i] = cases[k].values[i % 4];
    write_values(cases[k].white, values);
    snprintf(what, sizeof what, "masks: white is %d, case %d", cases[k].white, (int)k);
    if (cases[k].want) check(read_mask(c, MASKED, cases[k].reading, cases[k].want, NULL), what);
    else check(!read_mask(c, MASKED, cases[k].reading, CUT, NULL) && says(c, cases[k].says, "/mask/a/x.pgm"), what);
  }
  remove(MASKED "/mask/a/x.pgm");
}

#ifdef FVGPT_STB_IMAGE
/* PNG of 2 bits: the labels 0, 1, 2 and 3. */
static void test_mask_2_bit(fvg_ctx *c) {
  static const uint8_t rows[4 * 2] = {0, 0x1B, 0, 0x1B, 0, 0x1B, 0, 0x1B};
  made m;
  memset(&m, 0, sizeof m);
  png_begin(&m, 4, 4, 2, 0, 0);
  png_end(&m, rows, sizeof rows, 0);
  check(!fvg_file_save(c, MASKED "/mask/a/x.png", m.bytes, m.n), "masks: 2 bits, written");
  check(read_mask(c, MASKED, FVG_MASK_AUTO, NULL, "fewer than 8 bits"), "masks: 2 bits are not guessed");
  check(read_mask(c, MASKED, FVG_MASK_LABELS, ".###.###.###.###", NULL), "masks: 2 bits, told to be labels");
  remove(MASKED "/mask/a/x.png");
}

/* Labels of 16 bits: of 301 the decoder keeps 1, of 200 nothing. */
static void test_mask_16_bit(fvg_ctx *c) {
  static const int value[3][2] = {{65535, 65535}, {301, 200}, {1, 1}};
  int k, i;
  for (k = 0; k < 3; k++) {
    uint8_t rows[4 * 9];
    made m;
    memset(rows, 0, sizeof rows);
    memset(&m, 0, sizeof m);
    for (i = 0; i < 4; i++) {
      const int v = value[k][i % 2], inside = i == 1 || i == 2;
      if (inside) { rows[9 * i + 3] = rows[9 * i + 5] = (uint8_t)(v >> 8); rows[9 * i + 4] = rows[9 * i + 6] = (uint8_t)v; }
    }
    png_begin(&m, 4, 4, 16, 0, 0);
    png_end(&m, rows, sizeof rows, 0);
    remove(MASKED "/mask/a/x.pgm");
    check(!fvg_file_save(c, MASKED "/mask/a/x.png", m.bytes, m.n), "masks: 16 bits, written");
    if (!k) check(read_mask(c, MASKED, FVG_MASK_AUTO, CUT, NULL), "masks: 16 bits, black and white");
    else check(!read_mask(c, MASKED, FVG_MASK_AUTO, CUT, NULL) && says(c, "save it with 8 bits", "/mask/a/x.png"),
               "masks: 16 bits of labels are refused");
  }
  remove(MASKED "/mask/a/x.png");
}

static void test_mask_alpha(fvg_ctx *c) {
  static const written_mask cases[] = {
    {"alpha: a cut-out of one colour", "kkkkkkkkkkkkkkkk", CUT, CUT, NULL},
    {"alpha: a cut-out in colours", "rnpydrnpydrnpydr", CUT, CUT, NULL},
    {"alpha: white where it is opaque", "kkkkkwwkkwwkkkkk", CUT, CUT, NULL},
    {"alpha: opaque all over", "kkkkkwwkkwwkkkkk", "################", CUT, NULL},
    {"alpha: a veil all over", "kkkkkwwkkwwkkkkk", "hhhhhhhhhhhhhhhh", CUT, NULL},
    {"alpha: a veil", "wwwwwwwwwwwwwwww", ".....hh..hh.....", CUT, NULL},
    {"alpha: two masks", "wwwwkkkkkkkkkkkk", CUT, NULL, "two different masks"}
  };
  char what[100];
  size_t i;
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    write_mask(c, MASKED, &cases[i]);
    snprintf(what, sizeof what, "masks: %s", cases[i].what);
    check(read_mask(c, MASKED, FVG_MASK_AUTO, cases[i].want, cases[i].says), what);
  }
  check(read_mask(c, MASKED, FVG_MASK_ALPHA, CUT, NULL), "masks: told to be alpha");
  remove(MASKED "/mask/a/x.png");
}
#endif

/* Pictures of many values: JPEG and soft masks are cut at half, photographs are no masks. */
static void test_mask_many(fvg_ctx *c) {
  static uint8_t pixels[64 * 64 * 3];
  static const fvg__mask_file exact = {0, 255}, lossy = {1, 255};
  const char *why = NULL;
  fvg_image m;
  int i, k;
  (void)c;
  m.width = m.height = 64;
  m.channels = 1;
  m.pixels = pixels;
  for (i = 0; i < 64 * 64; i++) pixels[i] = (uint8_t)(i % 100);
  check(fvg__meaning_of(&m, &exact, &why) == FVG_MASK_GREY && !why,
        "masks: a soft one that is dark stays dark");
  for (i = 0; i < 64 * 64; i++) pixels[i] = (uint8_t)(i % 4);
  check(fvg__meaning_of(&m, &lossy, &why) == FVG_MASK_GREY && !why, "masks: JPEG's noise is no label");
  check(fvg__meaning_of(&m, &exact, &why) == FVG_MASK_LABELS && !why,
        "masks: the same values in PNG are");
  for (i = 0; i < 64 * 64; i++) pixels[i] = (uint8_t)(i == 77 ? 3 : i > 2000 ? 255 : 0);
  check(fvg__meaning_of(&m, &exact, &why) == FVG_MASK_GREY && !why,
        "masks: a speck beside white is no label");
  static const struct { int white, dark; fvg_mask_reading reading; const char *why; } edge[4] = {
    {1000, 20, FVG_MASK_GREY, NULL}, {1000, 21, FVG_MASK_GREY, "may be labels beside 255"},
    {100, 201, FVG_MASK_GREY, "may be labels beside 255"}, {100, 202, FVG_MASK_LABELS, NULL}};
  for (k = 0; k < 4; k++) {
    for (i = 0; i < 64 * 64; i++) {
      int rest = i - edge[k].white;
      pixels[i] = (uint8_t)(rest < 0 ? 255 : rest < edge[k].dark ? 3 : 0);
    }
    why = NULL;
    int reading_is_right = fvg__meaning_of(&m, &exact, &why) == edge[k].reading;
    check(reading_is_right && (edge[k].why ? why && strstr(why, edge[k].why) : !why),
          "masks: specks up to a fiftieth of the white, labels from twice the border on");
  }
  why = NULL;
  m.channels = 3;
  for (i = 0; i < 64 * 64; i++)
    for (k = 0; k < 3; k++) pixels[3 * i + k] = (uint8_t)((i % 64 < 32 ? 230 : 10) + i % 9 + k);
  check(fvg__meaning_of(&m, &lossy, &why) == FVG_MASK_GREY && !why,
        "masks: a tinge of JPEG is no colour");
  for (i = 0; i < 64 * 64; i++)
    for (k = 0; k < 3; k++) pixels[3 * i + k] = (uint8_t)(i * (k + 1));
  check(fvg__meaning_of(&m, &exact, &why) == FVG_MASK_GREY && why && strstr(why, "many colours"),
        "masks: a photograph");
  why = NULL;
  check(fvg__meaning_of(&m, &lossy, &why) == FVG_MASK_GREY && why && strstr(why, "many colours"),
        "masks: and as JPEG");
}

static void test_mask_sides(fvg_ctx *c) {
  static const struct { int w, h; const char *says; int stretched;
  } cases[] = {{30, 20, NULL, 0},
               {60, 40, NULL, 0},
               {20, 30, "sides are swapped", 0},
               {8, 12, "sides are swapped", 0},
               {20, 20, NULL, 1},
               {31, 20, NULL, 0}};
  fvg__mask_facts facts;
  fvg_image m;
  char what[64];
  size_t i;
  memset(&m, 0, sizeof m);
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    fvg_status s;
    memset(&facts, 0, sizeof facts);
    m.width = cases[i].w;
    m.height = cases[i].h;
    s = fvg__check_sides(c, &m, "mask/x.png", 30, 20, &facts);
    snprintf(what, sizeof what, "masks: %d x %d on a picture of 30 x 20", m.width, m.height);
    check(cases[i].says ? s == FVG_E_FORMAT && says(c, "mask/x.png", cases[i].says)
                        : s == FVG_OK && facts.stretched == cases[i].stretched, what);
  }
}

/* Sixteen pictures in two classes, whose masks are written as `rows` but for the first n, which
   are `others`. */
static void write_surveyed(fvg_ctx *c, const char *root, const char *rows, int n,
                           const char *others) {
  static const unsigned char grey[16] = {9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6};
  char path[300], text[4096];
  unsigned char pixels[16];
  size_t used;
  int i, k;
  (void)c;
  strcpy(text, "{\"train\": [");
  for (i = 0; i < 16; i++) {
    const char *letters = i < n ? others : rows;
    snprintf(path, sizeof path, "%s/%d.pgm", root, i);
    write_grey(path, 4, 4, grey);
    for (k = 0; k < 16; k++) pixels[k] = (unsigned char)(colour_of(letters[k]) & 255);
    snprintf(path, sizeof path, "%s/mask/%d.pgm", root, i);
    write_grey(path, 4, 4, pixels);
    used = strlen(text);
    snprintf(text + used, sizeof text - used, "%s[\"%d.pgm\", %d, \"class %d\"]", i ? ", " : "", i,
             i % 2, i % 2);
  }
  strcat(text, "], \"test\": []}");
  snprintf(path, sizeof path, "%s/split.json", root);
  write_text(path, text);
}

static void survey(const char *root, fvg_mask_reading reading, listener *heard, fvg_status *s,
                   char *error, size_t n) {
  fvg_dataset_desc set;
  fvg_dataset d;
  fvg_desc desc;
  fvg_ctx *c;
  memset(&desc, 0, sizeof desc);
  memset(heard, 0, sizeof *heard);
  memset(&set, 0, sizeof set);
  desc.log = listen_log;
  desc.user = heard;
  set.root = root;
  set.mask_reading = reading;
  *error = 0;
  if (fvg_init(&c, &desc)) { *s = FVG_E_NOMEM; return; }
  *s = fvg_dataset_open(c, &d, &set);
  if (!*s) *s = fvg_dataset_check_masks(&d, &d.train);
  if (!*s) *s = fvg_dataset_check_masks(&d, &d.train); /* says nothing a second time                    */
  if (*s) snprintf(error, n, "%s", fvg_error(c));
  fvg_dataset_free(&d);
  check(fvg_mem_used(c) == 0, "survey: nothing stays");
  fvg_free(c);
}

static void test_survey(fvg_ctx *c) {
  static const char plain[] = "kkkkkwwkkwwkkkkk", ones[] = "kkkkk11kk11kkkkk",
                    black[] = "kkkkkkkkkkkkkkkk", white[] = "wwwwwwwwwwwwwwww",
                    inverted[] = "wwwwwkkwwkkwwwww", trimap[] = "2222211221122222",
                    odd[] = "1111177117711111";
  listener heard;
  fvg_status s;
  char error[512];
  write_surveyed(c, BASE "/survey/plain", plain, 3, black);
  survey(BASE "/survey/plain", FVG_MASK_AUTO, &heard, &s, error, sizeof error);
  check(!s && heard.n == 0, "survey: black and white says nothing, three empty ones neither");
  write_surveyed(c, BASE "/survey/ones", ones, 6, plain);
  survey(BASE "/survey/ones", FVG_MASK_AUTO, &heard, &s, error, sizeof error);
  check(!s && heard.n == 1 && !strncmp(heard.last, "1 ", 2) && strstr(heard.last, "of 16 masks")
        && strstr(heard.last, "10 as labels (0/1"), "survey: one note on 0/1 masks");
  write_surveyed(c, BASE "/survey/mixed", ones, 4, trimap);
  survey(BASE "/survey/mixed", FVG_MASK_AUTO, &heard, &s, error, sizeof error);
  check(!s && heard.n == 1 && strstr(heard.last, "12 as labels") &&
            strstr(heard.last, "4 as trimap"),
        "survey: one note on two kinds");
  survey(BASE "/survey/ones", FVG_MASK_GREY, &heard, &s, error, sizeof error);
  check(
      !s && heard.n == 1 && !strncmp(heard.last, "0 ", 2) &&
          strstr(
              heard.last,
              "of 16 masks 10 hold no foreground and 0 nothing else (the first is that of 6.pgm)"),
      "survey: mostly empty");
  write_surveyed(c, BASE "/survey/white", white, 4, black);
  survey(BASE "/survey/white", FVG_MASK_AUTO, &heard, &s, error, sizeof error);
  check(!s && heard.n == 1 && strstr(heard.last, "4 hold no foreground and 12 nothing else"),
        "survey: full and empty");
  write_surveyed(c, BASE "/survey/inverted", inverted, 2, plain);
  survey(BASE "/survey/inverted", FVG_MASK_AUTO, &heard, &s, error, sizeof error);
  check(!s && heard.n == 1 && strstr(heard.last, "in 14 of 16 masks") &&
            strstr(heard.last, "inverted"),
        "survey: inverted");
  survey(BASE "/survey/inverted", FVG_MASK_INVERTED, &heard, &s, error, sizeof error);
  check(!s && heard.n == 0, "survey: and told so");
  write_surveyed(c, BASE "/survey/odd", plain, 3, odd);
  survey(BASE "/survey/odd", FVG_MASK_AUTO, &heard, &s, error, sizeof error);
  check(s == FVG_E_FORMAT && heard.n == 3 && strstr(heard.all, "/mask/0.pgm") &&
            strstr(heard.all, "/mask/1.pgm") && strstr(heard.all, "/mask/2.pgm") &&
            strstr(error, "3 of 16 files cannot be used"),
        "survey: all that cannot be told, at once");
  write_surveyed(c, BASE "/survey/one", plain, 1, odd);
  survey(BASE "/survey/one", FVG_MASK_AUTO, &heard, &s, error, sizeof error);
  check(s == FVG_E_FORMAT && heard.n == 0 && strstr(error, "/mask/0.pgm") &&
            strstr(error, "--masks grey"),
        "survey: a single one is a single line");
}

/* ---- what folders hold beside pictures, and files that are none ---- */
static void write_small(const char *path) {
  static const unsigned char grey[2] = {1, 2};
  write_grey(path, 2, 1, grey);
}

static fvg_status open_heard(const char *root, int val_percent, listener *heard, fvg_ctx **c,
                             fvg_dataset *d) {
  fvg_dataset_desc set;
  fvg_desc desc;
  memset(&desc, 0, sizeof desc);
  memset(heard, 0, sizeof *heard);
  memset(&set, 0, sizeof set);
  memset(d, 0, sizeof *d);
  desc.log = listen_log;
  desc.user = heard;
  set.root = root;
  set.val_percent = val_percent;
  if (fvg_init(c, &desc)) return FVG_E_NOMEM;
  return fvg_dataset_open(*c, d, &set);
}

static void close_heard(fvg_ctx *c, fvg_dataset *d) {
  fvg_dataset_free(d);
  check(fvg_mem_used(c) == 0, "heard: nothing stays");
  fvg_free(c);
}

/* To open one would wait for ever. */
#ifdef _WIN32
#define HAS_PIPES 0
static void make_pipe(const char *path) { remove(path); }
#else
#define HAS_PIPES 1
static void make_pipe(const char *path) {
  remove(path);
  check(mkfifo(path, 0600) == 0, "a pipe");
}
#endif

static void write_class(const char *root, const char *name, int n) {
  char path[300];
  int i;
  for (i = 0; i < n; i++) {
    snprintf(path, sizeof path, "%s/%s/%02d.pgm", root, name, i);
    write_small(path);
  }
}

static void test_left_out(void) {
  static const char *const others[] = {"ant/a.webp",      "ant/b.WEBP",          "bee/c.heic",
                                       "bee/notes",       "bee/deep/x.pgm",      "loose.jpg",
                                       "readme.txt",      "ant/.DS_Store",       "ant/Thumbs.db",
                                       "bee/desktop.ini", "__MACOSX/ant/._a.pgm"};
  listener heard;
  fvg_dataset d;
  fvg_ctx *c;
  char path[300];
  size_t i;
  write_class(BASE "/left", "ant", 4);
  write_class(BASE "/left", "bee", 4);
  for (i = 0; i < sizeof others / sizeof *others; i++) {
    snprintf(path, sizeof path, BASE "/left/%s", others[i]);
    write_text(path, "");
  }
  make_pipe(BASE "/left/ant/pipe.pgm");
  check(open_heard(BASE "/left", 0, &heard, &c, &d) == FVG_OK && d.n_class == 2 && d.train.n == 4,
        "left out: goes on");
  check(heard.n == 2 && strstr(heard.all, "2 .webp") && strstr(heard.all, "1 .heic") &&
            strstr(heard.all, "1 other file") && strstr(heard.all, "1 sub-folder") &&
            (!HAS_PIPES || strstr(heard.all, "1 pipe or device")) &&
            strstr(heard.all, "1 picture in no class folder"),
        "left out: counted by kind in one warning");
  check(!strstr(heard.all, "DS_Store") && !strstr(heard.all, ".db") && !strstr(heard.all, ".ini") &&
            !strstr(heard.all, ".txt") && !strstr(heard.all, "MACOSX"),
        "left out: litter is not worth a word");
  close_heard(c, &d);

  write_class(BASE "/poor", "ant", 5);
  write_class(BASE "/poor", "bee", 1);
  write_class(BASE "/poor", "cat", 2);
  write_text(BASE "/poor/dog/readme.txt", "");
  check(open_heard(BASE "/poor", 0, &heard, &c, &d) == FVG_OK && d.n_class == 2 &&
            !strcmp(d.class_name[1], "cat") && d.train.n == 3 &&
            has_path(&d.test, d.test.item[d.test.n - 1].path, 1) &&
            strstr(heard.all, "2 of 4 class folders are left out") && strstr(heard.all, "bee, dog"),
        "poor classes: left out with a warning, labels without a gap");
  close_heard(c, &d);

  write_class(BASE "/cased", "Train/Ant", 2);
  write_class(BASE "/cased", "Train/Bee", 2);
  write_class(BASE "/cased", "Validation/Ant", 1);
  write_class(BASE "/cased", "TEST/Ant", 1);
  write_class(BASE "/cased", "TEST/Bee", 2);
  check(open_heard(BASE "/cased", 0, &heard, &c, &d) == FVG_OK && part_counts(&d, 4, 1, 3) &&
            heard.n == 0 && !strncmp(d.val.item[0].path, "Validation/Ant/", 15),
        "parts: Train, Validation and TEST");
  close_heard(c, &d);
  check(open_heard(BASE "/cased", -1, &heard, &c, &d) == FVG_OK && heard.n == 1 &&
            strstr(heard.last, "changes nothing"),
        "parts: nothing to cut");
  close_heard(c, &d);
  write_small(BASE "/flat/1.pgm");
  write_small(BASE "/flat/2.pgm");
  check(open_heard(BASE "/flat", 0, &heard, &c, &d) == FVG_E_FORMAT &&
            strstr(fvg_error(c), "its 2 pictures"),
        "a folder of pictures without classes");
  close_heard(c, &d);
}

static void test_val(void) {
  static const int cases[][5] = {
      {10, 0, 5, 2, 3}, {10, -1, 7, 0, 3}, {10, 10, 6, 1, 3}, {10, 40, 3, 4, 3}, {4, -1, 3, 0, 1},
      {2, -1, 1, 0, 1}, {2, 60, 1, 0, 1},  {3, 60, 1, 1, 1},  {7, 0, 4, 1, 2},   {7, -1, 5, 0, 2}};
  listener heard;
  fvg_dataset a, b;
  fvg_ctx *c, *e;
  char what[64];
  size_t i;
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    int cut[FVG__PARTS];
    fvg__cut(cases[i][0], cases[i][1], cut);
    snprintf(what, sizeof what, "val: %d pictures, %d %%", cases[i][0], cases[i][1]);
    check(cut[0] == cases[i][2] && cut[1] == cases[i][3] && cut[2] == cases[i][4], what);
  }
  write_class(BASE "/val", "ant", 10);
  write_class(BASE "/val", "bee", 10);
  check(
      open_heard(BASE "/val", 0, &heard, &c, &a) == FVG_OK && part_counts(&a, 10, 4, 6) &&
          strstr(
              heard.last,
              "2 classes of 10 pictures are cut into 10 to train, 4 for val, 6 to test (50/20/30"),
      "val: the cut is said");
  check(open_heard(BASE "/val", -1, &heard, &e, &b) == FVG_OK && part_counts(&b, 14, 0, 6) &&
            same_items(&a.test, &b.test) && strstr(heard.last, "14 to train, 0 for val, 6 to test"),
        "val: none, and the same test pictures");
  close_heard(c, &a);
  close_heard(e, &b);
}

/* Split files and lists from Windows. */
static void test_from_windows(fvg_ctx *c) {
  fvg_dataset d;
  write_small(BASE "/windows/images/cat/1.pgm");
  write_small(BASE "/windows/images/caf\xC3\xA9 noir/2.pgm");
  write_text(BASE "/windows/split.json",
             "\xEF\xBB\xBF{\r\n\"train\": [[\"cat\\\\1.pgm\", 0, \"cat\"],\r\n"
             "[\"caf\xC3\xA9 noir\\\\2.pgm\", 1, \"dog\"]],\r\n\"test\": [[\"cat\\\\1.pgm\", 0, "
             "\"cat\"]]}\r\n");
  check(open_set(c, &d, BASE "/windows", NULL) == FVG_OK &&
            !strcmp(d.train.item[0].path, "images/cat/1.pgm") &&
            !strcmp(d.train.item[1].path, "images/caf\xC3\xA9 noir/2.pgm") &&
            !strcmp(d.test.item[0].path, "images/cat/1.pgm") &&
            fvg_dataset_check(&d, FVG_CHECK_TRAIN | FVG_CHECK_TEST, 0) == FVG_OK,
        "windows: a byte-order mark, CRLF and backslashes in a split file");
  fvg_dataset_free(&d);
#ifndef _WIN32                                           /* there a backslash is never part of a name */
  write_small(BASE "/windows2/b\\c.pgm");
  write_text(BASE "/windows2/split.json",
             "{\"train\": [[\"b\\\\c.pgm\", 0, \"x\"]], \"test\": []}");
  check(open_set(c, &d, BASE "/windows2", NULL) == FVG_OK &&
            !strcmp(d.train.item[0].path, "b\\c.pgm"),
        "windows: a backslash that is part of a name here");
  fvg_dataset_free(&d);
#endif
  write_text(BASE "/windows3/split.json",
             "{\"train\": [[\"b\\\\..\\\\..\\\\c.pgm\", 0, \"x\"]], \"test\": []}");
  check(open_set(c, &d, BASE "/windows3", NULL) == FVG_E_FORMAT &&
            says(c, "windows3/split.json", "\"..\""),
        "windows: none leaves the root");
  write_text(BASE "/windows4/fgvc_aircraft/variants.txt", "\xEF\xBB\xBF" "707\r\n727\r\n");
  write_text(BASE "/windows4/fgvc_aircraft/images_variant_train.txt", "\xEF\xBB\xBF"
                                                                      "1 707\r\n2 727\r\n");
  write_text(BASE "/windows4/fgvc_aircraft/images_variant_val.txt", "3 707\r\n");
  write_text(BASE "/windows4/fgvc_aircraft/images_variant_test.txt", "4 727\r\n");
  check(open_named(c, &d, BASE "/windows4", "fgvc_aircraft", NULL) == FVG_OK && d.n_class == 2 &&
            !strcmp(d.class_name[0], "707") && ends(d.train.item[0].path, "images/1.jpg"),
        "windows: lists");
  fvg_dataset_free(&d);
}

static void test_check(void) {
  listener heard;
  fvg_dataset d;
  fvg_ctx *c;
  char path[300], text[40000];
  size_t used;
  int i;
  static const struct { const char *name, *text, *says;
  } bad[] = {{"page.pgm", "<!DOCTYPE html><html>", "page.pgm"},
             {"none.pgm", "", "none.pgm"},
             {"text.pgm", "hello", "text.pgm"}};
  strcpy(text, "{\"train\": [");
  for (i = 0; i < 60; i++) {
    snprintf(path, sizeof path, BASE "/check/%d.pgm", i);
    write_small(path);
    used = strlen(text);
    snprintf(text + used, sizeof text - used, "%s[\"%d.pgm\", %d, \"c%d\"]", i ? ", " : "", i,
             i % 2, i % 2);
  }
  strcat(text, ", [\"page.pgm\", 0, \"c0\"], [\"gone.pgm\", 1, \"c1\"], [\"pipe.pgm\", 1, \"c1\"], "
               "[\"folder.pgm\", 0, \"c0\"]], "
               "\"val\": [[\"none.pgm\", 0, \"c0\"]], \"test\": [[\"0.pgm\", 0, \"c0\"], "
               "[\"text.pgm\", 1, \"c1\"]]}");
  write_text(BASE "/check/split.json", text);
  for (i = 0; i < 3; i++) {
    snprintf(path, sizeof path, BASE "/check/%s", bad[i].name);
    write_text(path, bad[i].text);
  }
  make_pipe(BASE "/check/pipe.pgm");
  write_text(BASE "/check/folder.pgm/x", "");
  check(open_heard(BASE "/check", 0, &heard, &c, &d) == FVG_OK && d.train.n == 64, "check: opens");
  check(fvg_dataset_check(&d, FVG_CHECK_TRAIN | FVG_CHECK_VAL | FVG_CHECK_TEST, 0) != FVG_OK &&
            heard.n == 6 && strstr(heard.all, "page.pgm") &&
            strstr(heard.all, "gone.pgm: cannot open") &&
            strstr(heard.all, HAS_PIPES ? "pipe.pgm: cannot read: a folder, pipe or device"
                                        : "pipe.pgm: cannot open") &&
            strstr(heard.all, "folder.pgm: cannot ") && strstr(heard.all, "none.pgm") &&
            strstr(heard.all, "text.pgm") && d.train.n == 64 &&
            strstr(fvg_error(c), "6 of 67 files cannot be used") &&
            strstr(fvg_error(c), "--skip-bad"),
        "check: all bad files of all parts are named at once");
  heard.n = 0;
  check(fvg_dataset_check(&d, FVG_CHECK_TEST, 0) == FVG_E_FORMAT && heard.n == 0 &&
            strstr(fvg_error(c), "text.pgm") && strstr(fvg_error(c), "--skip-bad"),
        "check: a single one is the error itself");
  write_text(BASE "/check/7.pgm",
             "P5\n2 1\n255\n"); /* a good head, and nothing behind              */
  check(fvg_dataset_check(&d, FVG_CHECK_TRAIN | FVG_CHECK_TEST, 1) == FVG_OK && d.train.n == 59 &&
            d.test.n == 1 && !has_path(&d.train, "7.pgm", 1) && has_path(&d.train, "8.pgm", 0) &&
            strstr(heard.all, "7.pgm") && strstr(heard.last, "6 of 66 pictures are left out"),
        "check: with skip_bad they leave the lists");
  close_heard(c, &d);

  strcpy(text, "{\"train\": [[\"0.pgm\", 0, \"c\"]");
  for (i = 0; i < 100; i++) {
    used = strlen(text);
    snprintf(text + used, sizeof text - used, ", [\"missing%03d.pgm\", 0, \"c\"]", i);
  }
  strcat(text, "], \"test\": []}");
  write_text(BASE "/check/split.json", text);
  check(open_heard(BASE "/check", 0, &heard, &c, &d) == FVG_OK &&
            fvg_dataset_check(&d, FVG_CHECK_TRAIN, 0) == FVG_E_IO && heard.n == 20 &&
            strstr(heard.last, "missing019.pgm") && strstr(fvg_error(c), "100 of 101 files") &&
            strstr(fvg_error(c), "the first 20"),
        "check: a hundred bad ones are twenty lines and a number");
  close_heard(c, &d);
}

static void test_large(fvg_ctx *c) {
  FILE *f;
  fvg_dataset d;
  fvg_items few;
  int i, ok;
  write_text(BASE "/large/p/000000.jpg", "");
  f = fopen(BASE "/large/split.json", "wb");
  if (!f) { check(0, "large: cannot write"); return; }
  fprintf(f, "{\"train\": [");
  for (i = 0; i < 100000; i++) fprintf(f, "%s[\"%06d.jpg\", %d, \"class_%d\"]", i ? ", " : "", i, i % 1000, i % 1000);
  fprintf(f, "], \"val\": [], \"test\": []}");
  fclose(f);
  ok = open_set(c, &d, BASE "/large", NULL) == FVG_OK;
  check(ok && d.train.n == 100000 && d.n_class == 1000 && !strcmp(d.train.item[99999].path, "p/099999.jpg")
        && !strcmp(d.class_name[999], "class 999"), "100,000 entries");
  if (ok) {
    check(fvg_items_few_shot(c, &few, NULL, &d.train, 1000, 16, 1) == FVG_OK && few.n == 16000,
          "16 shots of 1000 classes");
    fvg_items_free(c, &few);
  }
  fvg_dataset_free(&d);
}

/* ---- the shared data: the published numbers of classes ---- */
typedef struct published { const char *name, *prefix; int n_class, n_base, train, val, test; } published;

static FILE *open_shared(const char *shared, const char *rest, char *path, size_t n) {
  snprintf(path, n, "%s/%s", shared, rest);
  return fopen(path, "rb");
}

/* The pictures are not there: empty files stand in for the first item of each part. */
static int make_first_items(fvg_ctx *c, const char *root, const char *prefix, const char *file) {
  static const char *const part[] = {"train", "val", "test"};
  fvg_source s;
  fvg_json j;
  uint8_t *bytes;
  char path[400];
  size_t n;
  int i;
  if (fvg_source_file(c, &s, file)) return 0;
  if (fvg_source_read_all(c, &bytes, &n, &s)) { fvg_source_close(&s); return 0; }
  fvg_source_close(&s);
  i = fvg_json_parse(c, &j, (const char *)bytes, n, file);
  fvg_bytes_free(c, bytes);
  if (i) return 0;
  for (i = 0; i < 3; i++) {
    int entry = j.value[fvg_json_find(&j, 0, part[i])].first;
    snprintf(path, sizeof path, "%s/%s%s%s", root, prefix, *prefix ? "/" : "", j.value[j.value[entry].first].string);
    write_text(path, "");
  }
  fvg_json_free(c, &j);
  return 1;
}

static int has_class_each(const fvg_dataset *d) {                  /* every class is in train, val and test        */
  const fvg_items *part[3];
  int i, k, n;
  part[0] = &d->train;
  part[1] = &d->val;
  part[2] = &d->test;
  for (k = 0; k < 3; k++) {
    char seen[200];
    memset(seen, 0, sizeof seen);
    for (i = n = 0; i < part[k]->n; i++)
      if (!seen[part[k]->item[i].label]) { seen[part[k]->item[i].label] = 1; n++; }
    if (n != d->n_class) return 0;
  }
  return 1;
}

static void test_shared(fvg_ctx *c) {
  static const published sets[] = {
    {"Caltech101", "101_ObjectCategories", 100, 50, 4128, 1649, 2465}, {"OxfordPets", "images", 37, 19, 2944, 736,
            3669},
    {"StanfordCars", "", 196, 98, 6509, 1635, 8041},                   {"OxfordFlowers", "jpg", 102, 51, 4093, 1633,
            2463},
    {"DescribableTextures", "images", 47, 24, 2820, 1128, 1692},       {"EuroSAT", "2750", 10, 5, 13500, 5400, 8100},
    {"UCF101", "UCF-101-midframes", 101, 51, 7639, 1898, 3783}};
  const char *shared = getenv("FVGPT_SHARED");
  char path[400], root[200], what[100];
  fvg_dataset d;
  fvg_items half;
  size_t i;
  FILE *f;
  if (!shared) shared = "../shared";
  if ((f = open_shared(shared, "data/splits/split_zhou_EuroSAT.json", path, sizeof path)) == NULL) {
    printf("skipped: %s is not there\n", path);
    return;
  }
  fclose(f);
  for (i = 0; i < sizeof sets / sizeof *sets; i++) {
    const published *p = &sets[i];
    size_t n = strlen(p->prefix);
    int ok;
    snprintf(path, sizeof path, "%s/data/splits/split_zhou_%s.json", shared, p->name);
    snprintf(root, sizeof root, BASE "/published/%s", p->name);
    ok = make_first_items(c, root, p->prefix, path) && open_set(c, &d, root, path) == FVG_OK;
    snprintf(what, sizeof what, "%s: the published numbers", p->name);
    check(ok && d.n_class == p->n_class && d.train.n == p->train && d.val.n == p->val && d.test.n == p->test
          && fvg_group_classes(d.n_class, FVG_BASE, NULL) == p->n_base && !strncmp(d.test.item[0].path, p->prefix, n),
          what);
    if (ok) fvg_dataset_free(&d); else printf("  %s\n", fvg_error(c));
    snprintf(root, sizeof root, BASE "/full/%s", fvg_dataset_card_find(p->name)->folder);
    ok = !strcmp(fvg_dataset_card_find(p->name)->images, p->prefix) && make_first_items(c, root, p->prefix, path)
         && open_named(c, &d, BASE "/full", p->name, path) == FVG_OK;
    snprintf(what, sizeof what, "%s: the published numbers, by its card", p->name);
    check(ok && d.n_class == p->n_class && d.train.n == p->train && d.val.n == p->val && d.test.n == p->test
          && has_class_each(&d), what);
    if (ok) fvg_dataset_free(&d); else printf("  %s\n", fvg_error(c));
  }
  snprintf(root, sizeof root, "%s/data/splits", shared);
  check(open_set(c, &d, root, NULL) == FVG_E_ARG && says(c, "split_zhou_Caltech101.json", "7 split files"),
        "shared: several split files");
  snprintf(root, sizeof root, "%s/data/caltech-101", shared);
  check(open_set(c, &d, root, NULL) == FVG_OK && d.n_class == 20 && d.train.n == 320 && d.val.n == 80
        && d.test.n == 400
        && !strncmp(d.train.item[0].path, "101_ObjectCategories/", 21), "shared: Caltech-101, small");
  fvg_dataset_free(&d);
  snprintf(root, sizeof root, "%s/data/oxford_pets", shared);
  check(open_set(c, &d, root, NULL) == FVG_OK && d.n_class == 19 && d.train.n == 76 && d.val.n == 19 && d.test.n == 95
        && !strcmp(d.class_name[1], "american pit bull terrier"), "shared: Oxford pets, small");
  check(fvg_items_group(c, &half, &d.test, d.n_class, FVG_NEW) == FVG_OK && half.n == 45,
        "shared: new half of the pets");
  fvg_items_free(c, &half);
  fvg_dataset_free(&d);
  snprintf(root, sizeof root, "%s/data", shared);
  check(open_named(c, &d, root, "caltech101", NULL) == FVG_OK && d.train.n == 320
        && !strncmp(d.train.item[0].path, "caltech-101/101_ObjectCategories/", 33),
        "shared: Caltech-101, small, by name");
  fvg_dataset_free(&d);
  check(open_named(c, &d, root, "oxford_pets", NULL) == FVG_OK && d.train.n == 76
        && !strncmp(d.train.item[0].path, "oxford_pets/images/", 19), "shared: Oxford pets, small, by name");
#ifdef FVGPT_STB_IMAGE
  {
    fvg_image image, mask;
    check(fvg_dataset_load(&d, &image, &mask, &d.train.item[0], 0) == FVG_OK && mask.pixels
          && mask.width == image.width
          && mask.height == image.height, "shared: a pet and its mask");
    fvg_image_free(c, &image);
    fvg_image_free(c, &mask);
  }
#else
  printf("skipped: JPEG and PNG need FVGPT_STB_IMAGE\n");
#endif
  fvg_dataset_free(&d);
}

int main(void) {
  fvg_ctx *c;
  if (fvg_init(&c, NULL)) return 1;
  make_folders(BASE "/");
  test_few_shot(c);
  test_few_shot_val(c);
  test_halves(c);
  test_scores(c);
  test_cut(c);
  test_disk_folders(c);
  test_wrong_splits(c);
  test_no_root(c);
  test_splits(c);
  test_hostile(c);
  test_load(c);
  test_cards(c);
  test_layouts(c);
  test_own_lists(c);
  test_wrong_lists(c);
  test_hostile_lists(c);
  test_made();
  test_class_names();
  test_published_masks(c);
  test_mask_readings(c);
  test_mask_white(c);
#ifdef FVGPT_STB_IMAGE
  test_mask_2_bit(c);
  test_mask_16_bit(c);
  test_mask_alpha(c);
#endif
  test_mask_many(c);
  test_mask_sides(c);
  test_survey(c);
  test_left_out();
  test_val();
  test_from_windows(c);
  test_check();
#ifdef FVGPT_STB_IMAGE
  test_turned();
#endif
  test_no_memory();
  test_large(c);
  test_shared(c);
  check(fvg_mem_used(c) == 0, "no memory stays");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
