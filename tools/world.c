/* world OUT - writes the data sets of the small world of world.h to folders that `fvgpt tune` reads, 32 classes each:

     OUT/things    things, on old prints
     OUT/colours   held-out pairs of colour and thing, under water; the new classes have other colours than the base
     OUT/textures  held-out pairs of texture and thing, in the mist; the new classes have other textures than the base
     OUT/control   other held-out pairs of colour and thing, at dawn, divided as those of `colours`

   Each has images/<class>/<number>.ppm, exact masks in mask/images/, split.json (train, val, test) and captions.tsv.
   The light is new to a model that pre-training has shown clear days alone; --clear draws the same sets by day.  In the
   training pictures every base class has a background of its own (each new class shares one of theirs), which it is
   seen before with the probability `strength` (0.6), else before any; in the test pictures the background tells
   nothing.  In the control set it never does.  At most one small other thing stands about.  Pictures of `things` may
   show held-out pairs. */
#define _POSIX_C_SOURCE 199309L
#define FVGPT_IMPLEMENTATION
#include "world.h"

#include <errno.h>
#include <sys/stat.h>
#ifdef _WIN32
#include <direct.h>
#define make_folder(path) _mkdir(path)
#else
#define make_folder(path) mkdir(path, 0777)
#endif

enum { CLASSES = 32, PATH_BYTES = 1200, STREAM_CLASSES = 1, STREAM_SCENES = 2 };

typedef struct options {
  const char *out, *set, *sheet;
  double strength, bad_masks, missing_masks;
  int train, test, seed, png, clear;
} options;

typedef struct class_of { int thing, colour, texture; char name[64]; } class_of;                /* -1: any          */

enum { THINGS, COLOURS, TEXTURES, CONTROL, SETS };
static const char *const set_name[SETS] = {"things", "colours", "textures", "control"};
static const world_light set_light[SETS] = {WORLD_OLD_PRINT, WORLD_UNDER_WATER, WORLD_MIST, WORLD_DAWN};

/* Base classes, which come first, are of colours or textures with an even number, new ones of the others: prompts that
   have learned how some colours look under water know nothing of the rest. */
static int is_new(const class_of *x) { return (x->colour >= 0 ? x->colour : x->texture) % 2; }

/* The candidates in their order, as far as there is room in the half where they belong; things, which have no colour,
   may be in either. */
static void fill_halves(const class_of *all, const int *order, int n, class_of *chosen) {
  int count[2] = {0, 0}, k;
  for (k = 0; k < n; k++) {
    const class_of *x = &all[order[k]];
    int any = x->colour < 0 && x->texture < 0, half = any ? count[0] == CLASSES / 2 : is_new(x);
    if (count[half] < CLASSES / 2) chosen[half * CLASSES / 2 + count[half]++] = *x;
  }
}

/* The set's candidates in the order of things, then 32 of them drawn. */
static void choose_classes(int set, class_of *chosen) {
  class_of all[WORLD_THINGS * WORLD_COLOURS];
  int order[WORLD_THINGS * WORLD_COLOURS], n = 0, thing, k;
  fvg_rng r;
  for (thing = 0; thing < WORLD_THINGS; thing++) {
    if (set == THINGS) {
      all[n].thing = thing;
      all[n].colour = all[n].texture = -1;
      snprintf(all[n++].name, 64, "%s", world_things[thing].name);
    }
    for (k = 0; set == TEXTURES && k < WORLD_TEXTURES; k++)
      if (world_held_out_texture(thing, k)) {
        all[n].thing = thing;
        all[n].colour = -1;
        all[n].texture = k;
        snprintf(all[n++].name, 64, "%s_%s", world_textures[k], world_things[thing].name);
      }
    for (k = 0; (set == COLOURS || set == CONTROL) && k < WORLD_COLOURS; k++)
      if (world_held_out_colour(thing, k) && (thing + k) % 2 == (set == CONTROL)) {     /* the control set's are others */
        all[n].thing = thing;
        all[n].colour = k;
        all[n].texture = -1;
        snprintf(all[n++].name, 64, "%s_%s", world_colours[k].name, world_things[thing].name);
      }
  }
  fvg_rng_seed(&r, (uint64_t)set, STREAM_CLASSES);
  for (k = 0; k < n; k++) order[k] = k;
  fvg_rng_permute(&r, order, n);
  fill_halves(all, order, n, chosen);
}

/* Picture `index` of a class; the first `train` of them are for training. */
static world_scene draw_scene(const options *o, int set, const class_of *c, int label, int index, fvg_rng *r) {
  double strength = set == CONTROL ? 0 : o->strength;
  world_scene s = world_scene_draw(r);
  s.thing = c->thing;
  if (c->colour >= 0) s.colour = c->colour;
  if (c->texture >= 0) s.texture = c->texture;
  s.n_distractor = world_below(r, 2);
  if (!o->clear) s.light = set_light[set];
  s.ground = index < o->train && fvg_rng_uniform(r) < strength ? (5 * label + 3) % WORLD_GROUNDS :
             world_below(r, WORLD_GROUNDS);
  return s;
}

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
static fvg_status write_class(fvg_ctx *c, const options *o, const char *root, int set, const class_of *x,
                              int label, FILE *captions) {
  fvg_status s = folder(c, "%s/images/%s%s", root, x->name, "");
  int i;
  if (!s) s = folder(c, "%s/mask/images/%s%s", root, x->name, "");
  for (i = 0; !s && i < o->train + o->test; i++) {
    uint8_t rgb[3 * WORLD_SIDE * WORLD_SIDE], mask[WORLD_SIDE * WORLD_SIDE];
    char caption[WORLD_CAPTION];
    world_scene scene;
    fvg_rng r;
    double luck;
    fvg_rng_seed(&r, (uint64_t)o->seed * 1000000u + (uint64_t)(set * CLASSES + label) * 1000u + (uint64_t)i,
                 STREAM_SCENES);
    scene = draw_scene(o, set, x, label, i, &r);
    world_caption(&scene, &r, caption);
    world_render(&scene, &r, rgb, mask);
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

static void write_list(const options *o, const class_of *x, const char *name, int from, int to,
                       const char *end, FILE *split) {
  int label, i;
  fprintf(split, "\"%s\": [", name);
  for (label = 0; label < CLASSES; label++)
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
  class_of x[CLASSES];
  char root[PATH_BYTES - 200], path[PATH_BYTES];
  FILE *captions = NULL, *split;
  fvg_status s = folder(c, "%s/%s%s", o->out, set_name[set], "");
  int label;
  choose_classes(set, x);
  snprintf(root, sizeof root, "%s/%s", o->out, set_name[set]);
  if (!s) s = folder(c, "%s/images%s%s", root, "", "");
  if (!s) s = folder(c, "%s/mask%s%s", root, "", "");
  if (!s) s = folder(c, "%s/mask/images%s%s", root, "", "");
  snprintf(path, sizeof path, "%s/split.json", root);
  remove(path);                                   /* it comes back last: a set without it is not read               */
  if (!s) captions = create(c, root, "captions.tsv", &s);
  for (label = 0; !s && label < CLASSES; label++) s = write_class(c, o, root, set, &x[label], label, captions);
  if (captions) {
    fvg_status closed = close_file(c, captions, root, "captions.tsv");
    if (!s) s = closed;
  }
  split = s ? NULL : create(c, root, "split.json", &s);
  if (!split) return s;
  fputs("{", split);
  write_list(o, x, "train", 0, o->train, ",\n", split);
  write_list(o, x, "val", o->train, o->train, ",\n", split);
  write_list(o, x, "test", o->train, o->train + o->test, "}\n", split);
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
    fvg_rng_seed(&r, (uint64_t)o->seed, (uint64_t)i);
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
    {"--strength", 0, 1, &o->strength, NULL}, {"--bad-masks", 0, 1, &o->bad_masks, NULL},
    {"--missing-masks", 0, 1, &o->missing_masks, NULL},
    {"--train", 1, 900, NULL, &o->train}, {"--test", 1, 90, NULL, &o->test}, {"--seed", 0, 1e6, NULL, &o->seed}
  };
  size_t k, n = sizeof number / sizeof *number;
  int i;
  for (i = 1; i < argc; i++) {
    char *end;
    double x;
    if (argv[i][0] != '-' && !o->out) { o->out = argv[i]; continue; }
    if (!strcmp(argv[i], "--png")) { o->png = 1; continue; }
    if (!strcmp(argv[i], "--clear")) { o->clear = 1; continue; }
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
  options o = {NULL, NULL, NULL, 0.6, 0, 0, 24, 20, 1, 0, 0};
  fvg_status s = FVG_OK;
  fvg_ctx *c;
  int set;
  if (!parse(&o, argc, argv)) { fputs(usage, stderr); return 1; }
  fvg_desc d;
  memset(&d, 0, sizeof d);
  d.no_sync = 1;                                          /* what is lost can be drawn again */
  if (fvg_init(&c, &d)) { fputs("world: out of memory\n", stderr); return 1; }
  for (set = 0; o.set && set < SETS && strcmp(o.set, set_name[set]); set++) {}
  if (o.set && set == SETS)
    s = fvg_fail(c, FVG_E_ARG, "--set %s: things, colours, textures or control is expected", o.set);
  if (!s && o.sheet) s = write_sheet(c, &o);
  if (!s && o.out) s = folder(c, "%s%s%s", o.out, "", "");
  for (set = 0; !s && o.out && set < SETS; set++) {
    if (!o.set || !strcmp(o.set, set_name[set])) s = write_set(c, &o, set);
  }
  if (s) fprintf(stderr, "world: %s\n", fvg_error(c));
  fvg_free(c);
  return s != FVG_OK;
}
