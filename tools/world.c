/* world OUT - writes the data sets of world_sets.h to folders that `fvgpt tune` reads:

     OUT/things, OUT/colours, OUT/textures, OUT/control

   Each has images/<class>/<number>.ppm, exact masks in mask/images/, split.json (train, val, test) and captions.tsv.
   --strength (0.6) says how often a training picture shows its class's own background; --clear draws the same sets by
   day. */
#define _POSIX_C_SOURCE 200809L
#define FVGPT_IMPLEMENTATION
#include "world_sets.h"

#include <errno.h>
#include <sys/stat.h>
#ifdef _WIN32
#include <direct.h>
#define make_folder(path) _mkdir(path)
#else
#define make_folder(path) mkdir(path, 0777)
#endif

enum { PATH_BYTES = 1200 };

typedef struct options {
  const char *out, *set, *sheet;
  world_draw_desc draw;
  double bad_masks, missing_masks;
  int test, png;
} options;

/* A mask that went wrong: the true one moved half a picture away, round the edges. */
static void spoil(uint8_t *mask) {
  uint8_t moved[WORLD_SIDE * WORLD_SIDE];
  int x, y, half = WORLD_SIDE / 2;
  for (y = 0; y < WORLD_SIDE; y++)
    for (x = 0; x < WORLD_SIDE; x++)
      moved[y * WORLD_SIDE + x] = mask[(y + half) % WORLD_SIDE * WORLD_SIDE + (x + half) % WORLD_SIDE];
  memcpy(mask, moved, sizeof moved);
}

static fvg_status folder(fvg_ctx *c, const char *form, const char *a, const char *b, const char *d) {
  char path[PATH_BYTES];
  snprintf(path, sizeof path, form, a, b, d);
  return make_folder(path) && errno != EEXIST ?
         fvg_fail(c, FVG_E_IO, "%s: cannot make this folder: %s", path, strerror(errno)) : FVG_OK;
}

static fvg_status save(fvg_ctx *c, int channels, uint8_t *pixels, const char *form, const char *root,
                       const char *class_name, int index, const char *suffix) {
  char path[PATH_BYTES];
  fvg_image image;
  image.width = image.height = WORLD_SIDE;
  image.channels = channels;
  image.pixels = pixels;
  snprintf(path, sizeof path, form, root, class_name, index, suffix);
  return fvg_image_save(c, &image, path);
}

/* An earlier run may have left this picture's mask, or one of the other format, which would be found. */
static void forget(const char *root, const char *class_name, int index) {
  static const char *const suffix[] = {"pgm", "png"};
  char path[PATH_BYTES];
  int k;
  for (k = 0; k < 2; k++) {
    snprintf(path, sizeof path, "%s/mask/images/%s/%03d.%s", root, class_name, index, suffix[k]);
    remove(path);
  }
}

/* One class's pictures, masks and lines of captions.tsv. */
static fvg_status write_class(fvg_ctx *c, const options *o, const char *root, int set, const world_class *x,
                              int label, FILE *captions) {
  fvg_status s = folder(c, "%s/images/%s%s", root, x->name, "");
  int i;
  if (!s) s = folder(c, "%s/mask/images/%s%s", root, x->name, "");
  for (i = 0; !s && i < o->draw.train + o->test; i++) {
    uint8_t rgb[3 * WORLD_SIDE * WORLD_SIDE], mask[WORLD_SIDE * WORLD_SIDE];
    char caption[WORLD_CAPTION];
    fvg_rng r;
    double luck;
    world_set_picture(&o->draw, set, x, label, i, rgb, mask, caption, &r);
    luck = fvg_rng_uniform(&r);
    if (luck >= o->missing_masks && luck < o->missing_masks + o->bad_masks) spoil(mask);
    s = save(c, 3, rgb, "%s/images/%s/%03d.%s", root, x->name, i, o->png ? "png" : "ppm");
    forget(root, x->name, i);
    if (!s && luck >= o->missing_masks)
      s = save(c, 1, mask, "%s/mask/images/%s/%03d.%s", root, x->name, i, o->png ? "png" : "pgm");
    fprintf(captions, "images/%s/%03d.%s\t%s\n", x->name, i, o->png ? "png" : "ppm", caption);
  }
  return s;
}

static void write_list(const options *o, const world_class *x, const char *name, int from, int to,
                       const char *end, FILE *split) {
  int label, i;
  fprintf(split, "\"%s\": [", name);
  for (label = 0; label < WORLD_CLASSES; label++)
    for (i = from; i < to; i++)
      fprintf(split, "%s[\"images/%s/%03d.%s\", %d, \"%s\"]", label || i > from ? ",\n" : "\n", x[label].name, i,
              o->png ? "png" : "ppm", label, x[label].name);
  fprintf(split, "]%s", end);
}

static FILE *create(fvg_ctx *c, const char *root, const char *name, fvg_status *s) {
  char path[PATH_BYTES];
  FILE *f;
  snprintf(path, sizeof path, "%s/%s", root, name);
  f = fopen(path, "wb");
  if (!f) *s = fvg_fail(c, FVG_E_IO, "%s: cannot be written: %s", path, strerror(errno));
  return f;
}

static fvg_status close_file(fvg_ctx *c, FILE *f, const char *root, const char *name) {
  int bad = ferror(f) != 0;
  bad |= fclose(f) != 0;
  return bad ? fvg_fail(c, FVG_E_IO, "%s/%s: cannot be written; is the disk full?", root, name) : FVG_OK;
}

static fvg_status write_set(fvg_ctx *c, const options *o, int set) {
  world_class x[WORLD_CLASSES];
  char root[PATH_BYTES - 200], path[PATH_BYTES];
  FILE *captions = NULL, *split;
  fvg_status s = folder(c, "%s/%s%s", o->out, world_set_name[set], "");
  int label;
  world_choose_classes(set, x);
  snprintf(root, sizeof root, "%s/%s", o->out, world_set_name[set]);
  if (!s) s = folder(c, "%s/images%s%s", root, "", "");
  if (!s) s = folder(c, "%s/mask%s%s", root, "", "");
  if (!s) s = folder(c, "%s/mask/images%s%s", root, "", "");
  snprintf(path, sizeof path, "%s/split.json", root);
  remove(path);                                   /* it comes back last: a set without it is not read               */
  if (!s) captions = create(c, root, "captions.tsv", &s);
  for (label = 0; !s && label < WORLD_CLASSES; label++) s = write_class(c, o, root, set, &x[label], label, captions);
  if (captions) {
    fvg_status closed = close_file(c, captions, root, "captions.tsv");
    if (!s) s = closed;
  }
  split = s ? NULL : create(c, root, "split.json", &s);
  if (!split) return s;
  fputs("{", split);
  write_list(o, x, "train", 0, o->draw.train, ",\n", split);
  write_list(o, x, "val", o->draw.train, o->draw.train, ",\n", split);
  write_list(o, x, "test", o->draw.train, o->draw.train + o->test, "}\n", split);
  return close_file(c, split, root, "split.json");
}

/* A picture of pictures: every thing, texture and background, in 10 rows of 16. */
static fvg_status write_sheet(fvg_ctx *c, const options *o) {
  enum { ACROSS = 16, DOWN = 10, STEP = WORLD_SIDE + 2 };
  static uint8_t pixels[ACROSS * STEP * DOWN * STEP * 3];
  fvg_image sheet = {ACROSS * STEP, DOWN * STEP, 3, NULL, 0};
  int i, y;
  for (i = 0; i < ACROSS * DOWN; i++) {
    uint8_t rgb[3 * WORLD_SIDE * WORLD_SIDE],
            *corner = pixels + (size_t)(i / ACROSS * STEP * ACROSS + i % ACROSS) * STEP * 3;
    world_scene s;
    fvg_rng r;
    fvg_rng_seed(&r, (uint64_t)o->draw.seed, (uint64_t)i);
    s = world_scene_draw(&r);
    s.thing = i % WORLD_THINGS;
    s.ground = i % WORLD_GROUNDS;
    s.texture = (i / WORLD_THINGS + i / ACROSS) % WORLD_TEXTURES;
    s.large = 2;
    world_render(&s, &r, rgb, NULL);
    for (y = 0; y < WORLD_SIDE; y++)
      memcpy(corner + (size_t)y * ACROSS * STEP * 3, rgb + y * WORLD_SIDE * 3, WORLD_SIDE * 3);
  }
  sheet.pixels = pixels;
  return fvg_image_save(c, &sheet, o->sheet);
}

static const char usage[] =
  "usage: world OUT [--set things|colours|textures|control] [--strength 0.6] [--train 24] [--test 20] [--seed 1]\n"
  "             [--clear] [--bad-masks 0] [--missing-masks 0] [--png]\n"
  "             --clear draws by day; bad and missing are shares of the masks, moved away or not written\n"
  "       world --sheet FILE.png\n";

static int parse(options *o, int argc, char **argv) {
  const struct { const char *name; double low, high; double *real; int *whole; } number[] = {
    {"--strength", 0, 1, &o->draw.strength, NULL}, {"--bad-masks", 0, 1, &o->bad_masks, NULL},
    {"--missing-masks", 0, 1, &o->missing_masks, NULL},
    {"--train", 1, 900, NULL, &o->draw.train}, {"--test", 1, 90, NULL, &o->test}, {"--seed", 0, 1e6, NULL, &o->draw.seed}
  };
  size_t k, n = sizeof number / sizeof *number;
  int i;
  for (i = 1; i < argc; i++) {
    char *end;
    double x;
    if (argv[i][0] != '-' && !o->out) { o->out = argv[i]; continue; }
    if (!strcmp(argv[i], "--png")) { o->png = 1; continue; }
    if (!strcmp(argv[i], "--clear")) { o->draw.clear = 1; continue; }
    if (i + 1 == argc) return 0;
    if (!strcmp(argv[i], "--set")) { o->set = argv[++i]; continue; }
    if (!strcmp(argv[i], "--sheet")) { o->sheet = argv[++i]; continue; }
    for (k = 0; k < n && strcmp(argv[i], number[k].name); k++) {}
    x = strtod(argv[++i], &end);
    if (k == n || !*argv[i] || *end || !(x >= number[k].low && x <= number[k].high) ||
        (number[k].whole && x != floor(x)))
      return 0;
    if (number[k].real) *number[k].real = x;
    else *number[k].whole = (int)x;
  }
  return (o->out && strlen(o->out) < 900) || (o->sheet && !o->out);
}

int main(int argc, char **argv) {
  options o = {NULL, NULL, NULL, {0.6, 24, 1, 0}, 0, 0, 20, 0};
  fvg_status s = FVG_OK;
  fvg_ctx *c;
  int set;
  if (!parse(&o, argc, argv)) { fputs(usage, stderr); return 1; }
  fvg_desc d;
  memset(&d, 0, sizeof d);
  d.no_sync = 1;                                          /* what is lost can be drawn again */
  if (fvg_init(&c, &d)) { fputs("world: out of memory\n", stderr); return 1; }
  for (set = 0; o.set && set < WORLD_SETS && strcmp(o.set, world_set_name[set]); set++) {}
  if (o.set && set == WORLD_SETS)
    s = fvg_fail(c, FVG_E_ARG, "--set %s: things, colours, textures or control is expected", o.set);
  if (!s && o.sheet) s = write_sheet(c, &o);
  if (!s && o.out) s = folder(c, "%s%s%s", o.out, "", "");
  for (set = 0; !s && o.out && set < WORLD_SETS; set++) {
    if (!o.set || !strcmp(o.set, world_set_name[set])) s = write_set(c, &o, set);
  }
  if (s) fprintf(stderr, "world: %s\n", fvg_error(c));
  fvg_free(c);
  return s != FVG_OK;
}
