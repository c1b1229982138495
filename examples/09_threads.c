/* 09 - threads: one model, three threads, a folder of pictures.
        cc -O2 -I.. 09_threads.c -o threads -lm -lpthread               (for PNG and JPEG add -DFVGPT_STB_IMAGE)
        ./threads tiny-clip ../build/demo/things/images/mug mug key house bell              (after make demo)

   To learn here: a context, and everything made with it, belongs to one thread at a time.  So each thread gets its own
   context and its own classifier, but fvg_clip_share lets their models use one copy of the weights.  Nothing is locked:
   thread i classifies pictures i, i + 3, i + 6, ... and writes only their places in the list of answers. */
#define FVGPT_IMPLEMENTATION
#define FVGPT_DIRENT                             /* list folders through <dirent.h> */
#include "fvgpt_clip.h"

#include <pthread.h>

enum { THREADS = 3, MOST = 1000 };

typedef struct pictures {
  fvg_ctx *ctx;                                  /* that the paths are allocated with */
  const char *folder;
  char *path[MOST];
  int best[MOST];                                /* the answers: an index of a word, or a negative fvg_status */
  int n;
} pictures;

typedef struct worker {
  pthread_t thread;
  fvg_ctx *ctx;
  fvg_clip *clip;
  fvg_classifier *classifier;
  pictures *list;
  int first;
} worker;

/* fvg_list_folder calls this for every name in the folder; what does not fit into the list is left out. */
static void add_picture(void *arg, const char *name, int is_folder) {
  pictures *list = (pictures *)arg;
  if (is_folder || list->n == MOST) return;
  char *path = fvg_path_join(list->ctx, list->folder, name);
  if (path) list->path[list->n++] = path;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void *classify(void *arg) {
  worker *w = (worker *)arg;
  for (int i = w->first; i < w->list->n; i += THREADS)
    w->list->best[i] = fvg_classifier_file(w->classifier, NULL, w->list->path[i]);
  return NULL;
}

/* The models are shared here, by one thread, while no other works yet. */
static fvg_status begin(worker *w, int first, fvg_clip *m, pictures *list, const char *const *word, int n) {
  w->list = list;
  w->first = first;
  fvg_status s = fvg_init(&w->ctx, NULL);
  if (!s) s = fvg_clip_share(w->ctx, &w->clip, m);
  if (!s) s = fvg_classifier_new(w->clip, &w->classifier, word, n, NULL);
  return s;
}

/* The result tells of the pictures that the thread could not read. */
static fvg_status end(worker *w) {
  fvg_status s = w->ctx ? fvg_last_status(w->ctx) : FVG_OK;
  if (s) fprintf(stderr, "%s\n", fvg_error(w->ctx));
  fvg_classifier_free(w->classifier);
  fvg_clip_free(w->clip);                        /* the weights go with the last model that uses them */
  fvg_free(w->ctx);
  return s;
}

static fvg_status run(fvg_clip *m, pictures *list, const char *const *word, int n) {
  worker w[THREADS];
  memset(w, 0, sizeof w);
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < THREADS; i++) s = begin(&w[i], i, m, list, word, n);

  int running = 0;
  while (!s && running < THREADS && !pthread_create(&w[running].thread, NULL, classify, &w[running])) running++;
  for (int i = 0; i < running; i++) pthread_join(w[i].thread, NULL);
  if (!s && running < THREADS) s = fvg_fail(m->ctx, FVG_E_NOMEM, "the system gave %d threads", running);

  for (int i = 0; !s && i < list->n; i++) {
    int best = list->best[i];
    printf("%s  %s\n", list->path[i], best < 0 ? fvg_status_name((fvg_status)best) : word[best]);
  }
  for (int i = 0; i < THREADS; i++) {
    fvg_status ended = end(&w[i]);
    if (!s) s = ended;
  }
  return s;
}

int main(int argc, char **argv) {
  if (argc < 4) return fprintf(stderr, "usage: threads MODEL_DIR FOLDER WORD...\n"), 1;
  fvg_clip *m = fvg_open(argv[1]);
  if (!m) return 1;

  static pictures list;
  list.ctx = m->ctx;
  list.folder = argv[2];
  fvg_status s = fvg_last_status(m->ctx);
  if (!s && fvg_list_folder(NULL, argv[2], add_picture, &list))
    s = fvg_fail(m->ctx, FVG_E_IO, "%s: cannot be listed", argv[2]);
  qsort(list.path, (size_t)list.n, sizeof *list.path, by_name);

  if (!s) s = run(m, &list, (const char *const *)argv + 3, argc - 3);
  if (fvg_last_status(m->ctx)) fprintf(stderr, "%s\n", fvg_error(m->ctx));
  for (int i = 0; i < list.n; i++) fvg_release(m->ctx, list.path[i]);
  fvg_close(m);
  return s != FVG_OK;
}
