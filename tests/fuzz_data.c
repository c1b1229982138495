/* Fuzzer for what data sets are made of.  The first byte says what the rest is: 's' a split file, 'f' the paths of a
   folder with classes in it, a line each, 'p' 'a' 'u' 'n' 'i' the lists of a published set, with a line %% between one
   file and the next (Pets, Aircraft, UCF101, SUN397, ImageNet), 'k' a mask, whose second byte says how it is read. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"

#include "fuzzing.h"

#define ROOT "build/fuzz-data"
static fvg_ctx *own;

/* ---- a file system that is a text ---- */
typedef struct tree { const char *root, *text; } tree;

static int is_new(const char *text, const char *line, const char *folder, size_t n_folder, const char *name, size_t n) {
  for (; text < line; text += strcspn(text, "\n"), text += *text == '\n') {
    if (strncmp(text, folder, n_folder) || strncmp(text + n_folder, name, n)) continue;
    if (text[n_folder + n] == '/' || text[n_folder + n] == '\n') return 0;
  }
  return 1;
}

/* Lists what lies directly in a folder: each name once, in the order of its first line. */
static int list_text(void *user, const char *path, void (*entry)(void *arg, const char *name, int is_folder), void *arg) {
  const tree *x = (const tree *)user;
  const char *text = x->text, *line = text;
  char folder[600], name[600];
  size_t n_folder;
  int found = 0;
  if (strncmp(path, x->root, strlen(x->root))) return 1;
  path += strlen(x->root);
  path += *path == '/';
  n_folder = (size_t)snprintf(folder, sizeof folder, "%s%s", path, *path && path[strlen(path) - 1] != '/' ? "/" : "");
  if (n_folder >= sizeof folder) return 1;
  for (; *line; line += strcspn(line, "\n"), line += *line == '\n') {
    const char *rest = line + n_folder;
    size_t n;
    if (strncmp(line, folder, n_folder)) continue;
    found = 1;
    n = strcspn(rest, "/\n");
    if (!n || n >= sizeof name || !is_new(text, line, folder, n_folder, rest, n)) continue;
    memcpy(name, rest, n);
    name[n] = 0;
    entry(arg, name, rest[n] == '/');
  }
  return !found;
}

/* ---- what must hold of a data set ---- */
static void check_items(const fvg_dataset *d, const fvg_items *x) {
  int i;
  for (i = 0; i < x->n; i++) {
    const char *path = x->item[i].path, *p;
    if (x->item[i].label < 0 || x->item[i].label >= d->n_class) fault("a label that is no class");
    if (path[0] == '/') fault("an absolute path");
    for (p = path; p; p = strchr(p, '/') ? strchr(p, '/') + 1 : NULL)
      if (!strncmp(p, "..", 2) && (!p[2] || p[2] == '/')) fault("a path that leaves the root");
  }
}

static int take_set(const fvg_dataset_desc *desc) {
  fvg_dataset d;
  fvg_task task;
  fvg_task_desc draw;
  int i;
  const fvg_status status = fvg_dataset_open(own, &d, desc);
  if (status) {
    check_refusal(own, status);
    if (d.paths || d.train.item || d.class_name) fault("a refused data set has something");
    return 0;
  }
  if (d.n_class < 1 || d.train.n < 1) fault("a data set without classes or pictures");
  for (i = 0; i < d.n_class; i++)
    if (!d.class_name[i] || !d.class_name[i][0]) fault("a class without a name");
  check_items(&d, &d.train);
  check_items(&d, &d.val);
  check_items(&d, &d.test);
  memset(&draw, 0, sizeof draw);
  draw.shots = 2;
  draw.group = FVG_BASE;
  if (fvg_task_draw(&task, &d, &draw)) fault(fvg_error(own));
  if (task.fewest < 0 || task.n_class > d.n_class) fault("a task that is larger than its set");
  fvg_task_free(&task);
  fvg_dataset_free(&d);
  return 1;
}

static int take_split(const uint8_t *data, size_t n) {
  static tree around = {ROOT, "images/a.ppm\nother/images/a.ppm\n"};
  fvg_dataset_desc desc;
  fuzz_write_file(ROOT "/split.json", data, n);
  memset(&desc, 0, sizeof desc);
  desc.root = ROOT;
  desc.split = "split.json";
  desc.list = list_text;
  desc.list_user = &around;
  return take_set(&desc);
}

static int take_folders(const uint8_t *data, size_t n) {
  static const char *const set[] = {NULL, NULL, "caltech101", "eurosat", "dtd", "food101"};
  char *text;
  tree here;
  fvg_dataset_desc desc;
  int taken;
  if (!n) return 0;
  text = fuzz_text(data + 1, n - 1);
  here.root = "nowhere";                               /* no file is found: all that there is is listed           */
  here.text = text;
  memset(&desc, 0, sizeof desc);
  desc.root = here.root;
  desc.dataset = set[data[0] % 6];
  desc.val_percent = data[0] / 6 % 3 - 1;
  desc.list = list_text;
  desc.list_user = &here;
  taken = take_set(&desc);
  free(text);
  return taken;
}

/* ---- the lists of published sets ---- */
typedef struct published { char kind; const char *key, *file[3]; } published;
static const published sets[] = {
  {'p', "oxford_pets", {"oxford_pets/annotations/trainval.txt", "oxford_pets/annotations/test.txt", NULL}},
  {'a', "fgvc_aircraft", {"fgvc_aircraft/variants.txt", "fgvc_aircraft/images_variant_train.txt",
                          "fgvc_aircraft/images_variant_test.txt"}},
  {'u', "ucf101", {"ucf101/ucfTrainTestlist/classInd.txt", "ucf101/ucfTrainTestlist/trainlist01.txt",
                   "ucf101/ucfTrainTestlist/testlist01.txt"}},
  {'n', "sun397", {"sun397/ClassName.txt", "sun397/Training_01.txt", "sun397/Testing_01.txt"}},
  {'i', "imagenet", {"imagenet/classnames.txt", NULL, NULL}}
};

static int take_lists(const published *set, const uint8_t *data, size_t n) {
  static tree around = {ROOT, "imagenet/images/train/n01/a.jpg\nimagenet/images/train/n02/b.jpg\nimagenet/images/val/n01/c.jpg\n"
                        "imagenet/images/val/n02/d.jpg\n"};
  fvg_dataset_desc desc;
  size_t at = 0;
  int i;
  for (i = 0; i < 3 && set->file[i]; i++) {
    char path[200];
    size_t end = at;
    while (end < n && !(end + 3 <= n && !memcmp(data + end, "%%\n", 3))) end++;
    snprintf(path, sizeof path, ROOT "/%s", set->file[i]);
    fuzz_write_file(path, data + at, end - at);
    if (set->kind == 'a' && i == 1) fuzz_write_file(ROOT "/fgvc_aircraft/images_variant_val.txt", data + at, end - at);
    at = end + 3 < n ? end + 3 : n;
  }
  memset(&desc, 0, sizeof desc);
  desc.root = ROOT;
  desc.dataset = set->key;
  desc.list = list_text;
  desc.list_user = &around;
  return take_set(&desc);
}

/* ---- masks ---- */
static int take_mask(const uint8_t *data, size_t n) {
  static char images_path[] = "images/a.ppm";
  static const char split[] = "{\"train\":[[\"a.ppm\",0,\"a\"]],\"test\":[]}";
  fvg_dataset_desc desc;
  fvg_dataset d;
  fvg_item item = {images_path, 0};
  fvg_image image, mask;
  fvg_status status;
  size_t i;
  int bad = 0;
  if (!n) return 0;
  fuzz_write_file(ROOT "/mask/images/a.pgm", data + 1, n - 1);
  fuzz_write_file(ROOT "/masked.json", (const uint8_t *)split, sizeof split - 1);
  memset(&desc, 0, sizeof desc);
  desc.root = ROOT;
  desc.split = "masked.json";
  desc.mask_reading = (fvg_mask_reading)(data[0] % 6);
  if (fvg_dataset_open(own, &d, &desc)) fault(fvg_error(own));
  status = fvg_dataset_load(&d, data[0] & 64 ? NULL : &image, &mask, &item, data[0] & 32 ? 0.25f : 0);
  if (status) check_refusal(own, status);
  else {
    if (!mask.pixels || mask.channels != 1) fault("a mask without a channel");
    for (i = 0; i < (size_t)mask.width * (size_t)mask.height; i++) bad |= mask.pixels[i] != 0 && mask.pixels[i] != 255;
    if (bad) fault("a mask of more than two values");
    if (!(data[0] & 64) && (mask.width != image.width || mask.height != image.height)) fault("a mask of another size");
    if (!(data[0] & 64)) fvg_image_free(own, &image);
    fvg_image_free(own, &mask);
  }
  fvg_dataset_free(&d);
  return !status;
}

/* ---- the fuzzer ---- */
static void begin(void) {
  static const char *const folder[] = {"build", ROOT, ROOT "/images", ROOT "/mask", ROOT "/mask/images", ROOT "/oxford_pets",
    ROOT "/oxford_pets/annotations", ROOT "/fgvc_aircraft", ROOT "/ucf101", ROOT "/ucf101/ucfTrainTestlist",
    ROOT "/sun397", ROOT "/imagenet"};
  size_t i;
  own = fuzz_context();
  for (i = 0; i < sizeof folder / sizeof *folder; i++) mkdir(folder[i], 0777);
  fuzz_write_file(ROOT "/images/a.ppm", (const uint8_t *)"P6 2 2 255\nabcdefghijkl", 23);
}

static int take(const uint8_t *data, size_t n) {
  size_t i;
  if (!n) return 0;
  for (i = 0; i < sizeof sets / sizeof *sets; i++)
    if (data[0] == sets[i].kind) return take_lists(&sets[i], data + 1, n - 1);
  if (data[0] == 'k') return take_mask(data + 1, n - 1);
  return data[0] == 'f' ? take_folders(data + 1, n - 1) : take_split(data + 1, n - 1);
}

static int seed(fuzz_input *to, int i) {
  static const char *const text[] = {
    "s{\"train\": [[\"a.ppm\", 0, \"cat\"], [\"a.ppm\", 1, \"dark_dog\"]], \"val\": [[\"a.ppm\", 0, \"cat\"]], \"test\": [[\"a.ppm\", 1, "
    "\"dark_dog\"]]}",
    "s\xEF\xBB\xBF{\"train\": [[\"images\\\\a.ppm\", 0, \"caf\\u00e9\"]], \"test\": []}",
    "f\x01one/a.ppm\none/b.png\none/c.ppm\none/d.ppm\ntwo/e.ppm\ntwo/f.jpg\ntwo/g.ppm\ntwo/h.ppm\n",
    "f\x01train/one/a.ppm\ntrain/two/b.ppm\nvalid/one/c.ppm\ntest/two/d.ppm\n",
    "f\x0C" "one/a.ppm\none/b.ppm\none/c.ppm\none/d.ppm\n",
    "f\x02" "caltech-101/101_ObjectCategories/Faces/a.jpg\ncaltech-101/101_ObjectCategories/Faces/b.jpg\n"
    "caltech-101/101_ObjectCategories/ant/c.jpg\ncaltech-101/101_ObjectCategories/ant/d.jpg\n",
    "pAbyssinian_1 1 1 1\npug_2 2 2 1\npug_3 2 2 1\n%%\nAbyssinian_4 1 1 1\npug_5 2 2 1\n",
    "aA330\nBoeing 717\n%%\n01 A330\n02 Boeing 717\n%%\n03 A330\n04 Boeing 717\n",
    "u1 ApplyLipstick\n2 Archery\n%%\nApplyLipstick/v_ApplyLipstick_g08_c01.avi 1\nArchery/v_Archery_g08_c01.avi 2\n%%\n"
    "Archery/v_Archery_g01_c01.avi\n",
    "n/a/abbey\n/b/bank/indoor\n%%\n/a/abbey/sun_a.jpg\n/b/bank/indoor/sun_b.jpg\n%%\n/a/abbey/sun_c.jpg\n",
    "in01 a fish\nn02 a bird, small\n", "k\x20P2 2 2 255 0 255 0 0", "k\x03P2 2 2 3 0 1 2 1", "k\x04P2 2 2 3 1 2 3 2", "k\x42P3 1 1 255 0 0 0",
    NULL};
  return seed_of_text(to, text, i);
}

static const char *const word[] = {
  "\"train\": [", "\"val\": [", "\"test\": [", "[\"a.ppm\", 0, \"cat\"]", "../", "..\\\\", "/", "\\\\", "C:", "train/", "val/", "valid/", "test/", "images/",
  "%%\n", "_1 1 1 1\n", ".ppm\n", ".jpg\n", ".avi", "2147483647", "-1", "1e300", "\\u0000", "\xEF\xBB\xBF", "P2 2 2 255 ", "P5 2 2 255\n", "P3 1 1 255 ",
  "split.json\n", "split_zhou_a.json\n", "mask/", ".DS_Store\n", NULL};

static const fuzz_target target = {1000, begin, take, seed, NULL, word, NULL};
