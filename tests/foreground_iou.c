/* How good are the masks that CLIP makes itself?  Compares them with a data set's own, at each picture's size, and times
   them beside encoding the picture:

     foreground_iou MODEL ROOT [--no-label] [--quick] [--every N] [--background WORD,... --background-template FORM]
                    [--own | --any] [--queries | --values | --no-attention] [--no-prior] [--no-walk] [--no-colours] [--list]

   Prints the mean intersection over union, how many pictures lie below 30 %, how confidence goes with IoU, and times.
   --list prints a line for each picture.

     cc -O2 -DFVGPT_DIRENT -DFVGPT_PTHREADS -DFVGPT_STB_IMAGE -o build/foreground_iou tests/foreground_iou.c -lm -lpthread */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"
#include <time.h>

enum { MOST_WORDS = 64, MOST_PICTURES = 20000 };

typedef struct wanted {
  const char *model, *root;
  int no_label, every, list;
  const char *word[MOST_WORDS];
  fvg_foreground_desc desc;
} wanted;

static double seconds(void) { return (double)clock() / CLOCKS_PER_SEC; }

static int read_arguments(wanted *x, int argc, char **argv) {
  memset(x, 0, sizeof *x);
  x->every = 1;
  for (int i = 1; i < argc; i++) {
    const char *value = i + 1 < argc ? argv[i + 1] : "";
    if (!strcmp(argv[i], "--no-label")) x->no_label = 1;
    else if (!strcmp(argv[i], "--quick")) x->desc.quick = 1;
    else if (!strcmp(argv[i], "--own")) x->desc.contrast = FVG_OWN_CLASS;
    else if (!strcmp(argv[i], "--any")) x->desc.contrast = FVG_ANY_CLASS;
    else if (!strcmp(argv[i], "--queries")) x->desc.attention = FVG_QUERY_QUERY;
    else if (!strcmp(argv[i], "--values")) x->desc.attention = FVG_VALUE_VALUE;
    else if (!strcmp(argv[i], "--no-attention")) x->desc.attention = FVG_NO_ATTENTION;
    else if (!strcmp(argv[i], "--no-prior")) x->desc.centre_prior = -1;
    else if (!strcmp(argv[i], "--no-walk")) x->desc.walk_steps = -1;
    else if (!strcmp(argv[i], "--no-colours")) x->desc.colour_weight = -1;
    else if (!strcmp(argv[i], "--list")) x->list = 1;
    else if (!strcmp(argv[i], "--every")) x->every = atoi(value), i++;
    else if (!strcmp(argv[i], "--background-template")) x->desc.background_template = value, i++;
    else if (!strcmp(argv[i], "--background")) {
      char *word = strtok(argv[++i], ",");
      for (; word && x->desc.n_background < MOST_WORDS; word = strtok(NULL, ",")) x->word[x->desc.n_background++] = word;
    }
    else if (!x->model) x->model = argv[i];
    else if (!x->root) x->root = argv[i];
    else return 0;
  }
  if (x->desc.n_background) x->desc.background = x->word;
  return x->root && x->every > 0;
}

static double correlation(const double *x, const double *y, int n) {
  double mx = 0, my = 0, xx = 0, yy = 0, xy = 0;
  for (int i = 0; i < n; i++) mx += x[i] / n, my += y[i] / n;
  for (int i = 0; i < n; i++) {
    xx += (x[i] - mx) * (x[i] - mx);
    yy += (y[i] - my) * (y[i] - my);
    xy += (x[i] - mx) * (y[i] - my);
  }
  return xy / sqrt(xx * yy + 1e-300);
}

static int fail(fvg_ctx *c) { fprintf(stderr, "%s\n", fvg_error(c)); return 1; }

int main(int argc, char **argv) {
  static double iou[MOST_PICTURES], confidence[MOST_PICTURES];
  static float feature[8192];
  wanted x;
  fvg_ctx *c;
  fvg_clip *m = NULL;
  fvg_dataset d;
  fvg_dataset_desc at;
  fvg_foreground *f = NULL;
  fvg_desc desc;
  if (!read_arguments(&x, argc, argv)) { fprintf(stderr, "foreground_iou MODEL ROOT [options]: see the source\n"); return 1; }
  memset(&desc, 0, sizeof desc);
  memset(&at, 0, sizeof at);
  desc.n_threads = 1;                                                  /* clock() counts all threads */
  at.root = x.root;
  if (fvg_init(&c, &desc)) return 1;
  if (fvg_clip_open(c, &m, x.model, NULL, FVG_F32) || fvg_dataset_open(c, &d, &at) ||
      fvg_foreground_new(m, &f, (const char *const *)d.class_name, d.n_class, &x.desc)) return fail(c);

  const fvg_items *part[3] = {&d.train, &d.val, &d.test};
  double masks = 0, encodes = 0, sum = 0;
  int n = 0, low = 0, seen = 0;
  for (int k = 0; k < 3; k++)
    for (int i = 0; i < part[k]->n && n < MOST_PICTURES; i++) {
      const fvg_item *item = &part[k]->item[i];
      fvg_image picture, mask, own;
      float trust;
      if (seen++ % x.every) continue;
      if (fvg_dataset_load(&d, &picture, &mask, item, 0)) return fail(c);
      if (mask.pixels) {
        double start = seconds();
        if (fvg_foreground_mask(f, &own, &trust, &picture, x.no_label ? -1 : item->label)) return fail(c);
        masks += seconds() - start;
        start = seconds();
        if (fvg_encode_image(m, feature, &picture)) return fail(c);
        encodes += seconds() - start;
        confidence[n] = (double)trust;
        iou[n] = fvg_mask_iou(&own, &mask);
        sum += iou[n];
        low += iou[n] < 0.3;
        if (x.list) printf("%.3f %.3f %s\n", iou[n], confidence[n], item->path);
        n++;
        fvg_image_free(c, &own);
      }
      fvg_image_free(c, &picture);
      fvg_image_free(c, &mask);
    }
  if (!n) { fprintf(stderr, "%s: no masks to compare with\n", x.root); return 1; }
  printf("%d pictures: IoU %.1f, below 30: %d; confidence and IoU correlate by %.2f; %.1f ms a mask, %.2f plain encodes\n",
         n, 100 * sum / n, low, correlation(confidence, iou, n), 1e3 * masks / n, masks / encodes);
  fvg_foreground_free(f);
  fvg_dataset_free(&d);
  fvg_clip_free(m);
  fvg_free(c);
  return 0;
}
