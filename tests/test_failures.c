/* Everything that takes memory or touches a file, with failure number 1, 2, 3, ... of allocations, of reads and of writes:
   the call says out of memory or names the file, gives all memory back, leaves no half file, and afterwards the same
   context does the same work with the same bits.  The work is that of every method, head, map and mask, on a CLIP of 8
   columns.  Without an argument some of the numbers are tried, with a number K every Kth allocation and each read and
   write, with "all" each of all.  Writes below build/test-failures. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- files that fail ---- */
typedef enum kind { ALLOCATION = 0, ALL_ALLOCATIONS, READ, SHORT_READ, WRITE, KINDS } kind;
static kind failing;
static long fail_at, done[3];                            /* 0: never; how many there were: allocations, reads, writes */
enum { MEMORY, READS, WRITES };

/* Is it the turn of this one to fail? */
static int fails(int what) {
  const long n = ++done[what];
  if (!fail_at) return 0;
  if (what == MEMORY) return failing == ALLOCATION ? n == fail_at : failing == ALL_ALLOCATIONS && n >= fail_at;
  return n == fail_at && (what == READS ? failing == READ || failing == SHORT_READ : failing == WRITE);
}

static FILE *open_file(const char *path, const char *mode) {
  errno = EIO;
  return fails(mode[0] == 'r' ? READS : WRITES) ? NULL : fopen(path, mode);
}
static size_t read_file(void *to, size_t size, size_t n, FILE *f) {
  if (!fails(READS)) return fread(to, size, n, f);
  return failing == SHORT_READ && n > 1 ? fread(to, size, n - 1, f) : 0;
}
static size_t write_file(const void *from, size_t size, size_t n, FILE *f) {
  errno = ENOSPC;
  return fails(WRITES) ? fwrite(from, size, n / 2, f) : fwrite(from, size, n, f);
}
static int flush_file(FILE *f) { errno = ENOSPC; return fails(WRITES) ? EOF : fflush(f); }
static int rename_file(const char *from, const char *to) { errno = EACCES; return fails(WRITES) ? -1 : rename(from, to); }
#define fopen(path, mode) open_file(path, mode)
#define fread(to, size, n, f) read_file(to, size, n, f)
#define fwrite(from, size, n, f) write_file(from, size, n, f)
#define fflush(f) flush_file(f)
#define rename(from, to) rename_file(from, to)
#ifndef _WIN32
static int sync_file(int file) {                         /* a folder's failure is none, so it is not counted         */
  struct stat x;
  if (!fstat(file, &x) && S_ISDIR(x.st_mode)) return 0;
  errno = EIO;
  return fails(WRITES) ? -1 : 0;
}
#define fsync(file) sync_file(file)
#endif

#define FVGPT_DIRENT
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"

#include "small_model.h"

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

/* ---- a world of four pictures ---- */
#define ROOT  "build/test-failures"
#define MODEL ROOT "/model"
#define OUT   ROOT "/out"
#define SAVED OUT "/saved.safetensors"
#define STATE OUT "/state"
enum { SIDE = 4, PICTURES = 4, CLASSES = 2, PIXELS = 3 * SIDE * SIDE, MOST = 4096 };
static const char *const word[CLASSES] = {"cat", "dog"};
static const char *const picture_path[PICTURES] = {ROOT "/0.ppm", ROOT "/1.ppm", ROOT "/2.ppm", ROOT "/3.ppm"};

/* What a work is given, and the numbers that it leaves. */
typedef struct world {
  fvg_ctx *c;
  fvg_clip *m;
  fvg_dataset data;
  fvg_task task;
  const fvg_method *method;                              /* of the work at hand                                       */
  fvg_head_kind head;
  float out[MOST];
} world;

static int file_write(void *user, const void *bytes, size_t n) { return fwrite(bytes, 1, n, (FILE *)user) != n; }

static void write_text(const char *path, const char *text) {
  FILE *f = fopen(path, "wb");
  if (!f || fwrite(text, 1, strlen(text), f) != strlen(text) || fclose(f)) abort();
}

/* What a run that was killed has left. */
static void remove_temporary(void *unused, const char *name, int is_folder) {
  char path[400];
  (void)unused;
  (void)is_folder;
  snprintf(path, sizeof path, OUT "/%s", name);
  if (fvg_file_is_temporary(name)) remove(path);
}

static void write_world(fvg_ctx *c) {
  static const char *const folder[] = {"build", ROOT, ROOT "/mask", MODEL, OUT};
  uint8_t pixels[PIXELS], inside[SIDE * SIDE];
  fvg_image image = {SIDE, SIDE, 3, NULL, 0}, mask = {SIDE, SIDE, 1, NULL, 0};
  FILE *f;
  fvg_rng r;
  int i, k;
  for (i = 0; i < 5; i++) mkdir(folder[i], 0777);
  fvg_list_folder(NULL, OUT, remove_temporary, NULL);
  fvg_rng_seed(&r, 3, 0);
  image.pixels = pixels;
  mask.pixels = inside;
  for (i = 0; i < PICTURES; i++) {
    char path[80];
    for (k = 0; k < PIXELS; k++) pixels[k] = (uint8_t)fvg_rng_below(&r, 256);
    for (k = 0; k < SIDE * SIDE; k++) inside[k] = (k + i) % 4 < 2 ? 255 : 0;
    snprintf(path, sizeof path, ROOT "/mask/%d.pgm", i);
    if (fvg_image_save(c, &image, picture_path[i]) || fvg_image_save(c, &mask, path)) abort();
  }
  write_text(ROOT "/split.json", "{\"train\": [[\"0.ppm\", 0, \"cat\"], [\"1.ppm\", 1, \"dog\"], [\"2.ppm\", 0, \"cat\"], "
                                 "[\"3.ppm\", 1, \"dog\"]], \"val\": [], \"test\": [[\"0.ppm\", 0, \"cat\"], [\"1.ppm\", 1, \"dog\"]]}");
  write_text(MODEL "/config.json", config);
  write_text(OUT "/config.json", config);
  write_text(MODEL "/merges.txt", merges);
  write_text(MODEL "/preprocessor_config.json", "{\"size\": {\"shortest_edge\": 4}, \"crop_size\": 4, \"resample\": 3}");
  f = fopen(MODEL "/model.safetensors", "wb");
  if (!f) abort();
  make_model(c, file_write, f);
  fclose(f);
}

/* ---- works ---- */
static fvg_status load_model(world *w) {
  fvg_clip *m = NULL;
  const fvg_status s = fvg_clip_open(w->c, &m, MODEL, NULL, FVG_F32);
  if (!s) w->out[0] = m->logit_scale + (float)m->preprocess.resize;
  fvg_clip_free(m);
  return s;
}

/* Eight bits: converted on loading, written to a file of their own, and read from there. */
static fvg_status load_eight_bits(world *w) {
  fvg_clip *m = NULL;
  fvg_status s = fvg_clip_open(w->c, &m, MODEL, NULL, FVG_Q8);
  if (!s) s = fvg_clip_encode_texts(m, w->out, word, CLASSES);
  fvg_clip_free(m);
  m = NULL;
  if (!s) s = fvg_clip_quantise(w->c, MODEL, SAVED);
  if (!s) s = fvg_clip_open(w->c, &m, SAVED, MODEL "/merges.txt", FVG_F32);
  if (!s) s = fvg_clip_encode_texts(m, w->out + 64, word, CLASSES);
  fvg_clip_free(m);
  return s;
}

static fvg_status encode(world *w) {
  fvg_status s = fvg_clip_encode_files(w->m, w->out, picture_path, PICTURES, 1);
  if (!s) s = fvg_clip_encode_texts(w->m, w->out + 64, word, CLASSES);
  if (!s) s = fvg_clip_encode_ensemble(w->m, w->out + 128, fvg_template_list(FVG_TEMPLATES_SELECTED, NULL), 3, word, CLASSES);
  return s;
}

static fvg_status open_data(world *w) {
  fvg_dataset_desc desc;
  fvg_dataset d;
  fvg_task t;
  fvg_image image, mask;
  fvg_status s;
  memset(&desc, 0, sizeof desc);
  desc.root = ROOT;
  s = fvg_dataset_open(w->c, &d, &desc);
  if (s) return s;
  memset(&t, 0, sizeof t);
  s = fvg_dataset_check(&d, FVG_CHECK_TRAIN | FVG_CHECK_TEST | FVG_CHECK_MASKS, 0);
  if (!s) s = fvg_task_draw(&t, &d, NULL);
  if (!s) s = fvg_dataset_check_masks(&d, &t.items);
  if (!s) s = fvg_dataset_load(&d, &image, &mask, &d.train.item[1], 0);
  if (!s) {
    w->out[0] = image.pixels[7];
    w->out[1] = mask.pixels[5];
    fvg_image_free(w->c, &image);
    fvg_image_free(w->c, &mask);
  }
  fvg_task_free(&t);
  fvg_dataset_free(&d);
  return s;
}

static fvg_train_desc short_training(void) {
  fvg_train_desc t;
  memset(&t, 0, sizeof t);
  t.optimizer.epochs = 1;
  t.batch = 2;
  t.state = STATE;
  return t;
}

/* Scores of the task's pictures by one branch. */
static fvg_status score(world *w, float *z, fvg_branch branch, fvg_learner *l, fvg_fvgpt *f) {
  static float rows[PICTURES * 4 * W];
  fvg_classifier_desc d;
  fvg_classifier *k = NULL;
  fvg_status s;
  memset(&d, 0, sizeof d);
  d.branch = branch;
  d.learner = l;
  d.fvgpt = f;
  s = fvg_classifier_new(w->m, &k, word, CLASSES, &d);
  if (!s) s = fvg_encode_task(w->m, l, rows, &w->task);
  if (!s) s = fvg_classifier_logits(k, z, NULL, rows, PICTURES);
  fvg_classifier_free(k);
  return s;
}

static fvg_status views_of(world *w, fvg_views **v, fvg_learner *l, fvg_augment augment) {
  fvg_views_desc d;
  memset(&d, 0, sizeof d);
  d.augment = augment;
  d.n_crops = 2;
  d.learner = l;
  return fvg_views_new(w->m, v, &w->data, &d);
}

static fvg_status new_learner(world *w, fvg_learner **l) {
  fvg_learner_desc d;
  memset(&d, 0, sizeof d);
  d.method = w->method;
  return fvg_learner_new(w->m, l, word, CLASSES, &d);
}

/* A method: trained with a state, saved, loaded, and asked for scores. */
static fvg_status tune(world *w) {
  const fvg_train_desc t = short_training();
  fvg_learner *l = NULL, *back = NULL;
  fvg_fvgpt *none = NULL;
  fvg_views *v = NULL;
  fvg_status s = new_learner(w, &l);
  if (!s) s = views_of(w, &v, NULL, FVG_AUGMENT_NONE);
  if (!s) s = fvg_learner_train(l, v, &w->task, &t);
  if (!s) s = fvg_checkpoint_save(l, NULL, SAVED, NULL, 0);
  if (!s) s = fvg_checkpoint_load(w->m, &back, &none, NULL, SAVED);
  if (!s) s = score(w, w->out, FVG_TUNED, back, NULL);
  if (!s) s = fvg_learner_load(back, SAVED);
  fvg_views_free(v);
  fvg_learner_free(back);
  fvg_learner_free(l);
  return s;
}

/* FVG-PT on CoOp: trained with a state and the guard, saved, loaded; both branches; calibrated. */
static fvg_status tune_fvgpt(world *w) {
  fvg_train_desc t = short_training();
  fvg_fvgpt_desc fd;
  fvg_calibration_source source;
  fvg_learner *l = NULL, *back = NULL;
  fvg_fvgpt *f = NULL, *f_back = NULL;
  fvg_views *v = NULL;
  double evidence = 0;
  fvg_status s = new_learner(w, &l);
  memset(&fd, 0, sizeof fd);
  fd.width = W;
  fd.fdc_hidden = 4;
  fd.gate_hidden = 3;
  t.guard = 1;
  if (!s) s = views_of(w, &v, NULL, FVG_AUGMENT_FIXED_CROPS);
  if (!s) s = fvg_fvgpt_new(w->c, &f, &fd);
  if (!s) s = fvg_fvgpt_train(f, l, v, &w->task, &t);
  if (!s) s = fvg_checkpoint_save(l, f, SAVED, NULL, 0);
  if (!s) s = fvg_checkpoint_load(w->m, &back, &f_back, NULL, SAVED);
  if (!s) s = score(w, w->out, FVG_BRANCH_BASE, back, f_back);
  if (!s) s = score(w, w->out + 64, FVG_BRANCH_NEW, back, f_back);
  source.learner = l;
  source.views = v;
  source.task = &w->task;
  t.state = NULL;
  if (!s) s = fvg_fvgpt_calibrate(f, &source, 1, &t);
  if (!s) s = fvg_calibration_evidence(&evidence, &source, 1, NULL);
  w->out[200] = (float)evidence;
  fvg_fvgpt_free(f_back);
  fvg_learner_free(back);
  fvg_fvgpt_free(f);
  fvg_views_free(v);
  fvg_learner_free(l);
  return s;
}

static fvg_status tune_dpc(world *w) {
  const fvg_train_desc t = short_training();
  fvg_learner *l = NULL, *mixture = NULL;
  fvg_views *v = NULL;
  fvg_status s = new_learner(w, &l);
  if (!s) s = views_of(w, &v, NULL, FVG_AUGMENT_CROP);
  if (!s) s = fvg_learner_copy(&mixture, l);
  if (!s) s = fvg_dpc_train(mixture, l, v, &w->task, NULL, &t);
  if (!s) s = fvg_dpc_reweigh(mixture, l, 0.5f, 0.25f);
  if (!s) s = fvg_learner_text_features(mixture, w->out, word, CLASSES);
  fvg_views_free(v);
  fvg_learner_free(mixture);
  fvg_learner_free(l);
  return s;
}

/* Masks of all pictures by CLIP itself, in a data set of its own. */
static fvg_status make_masks(world *w) {
  fvg_dataset_desc desc;
  fvg_dataset d;
  fvg_foreground *x = NULL;
  fvg_image picture, mask;
  fvg_status s;
  int i;
  memset(&desc, 0, sizeof desc);
  memset(&mask, 0, sizeof mask);
  desc.root = ROOT;
  s = fvg_dataset_open(w->c, &d, &desc);
  if (s) return s;
  s = fvg_foreground_new(w->m, &x, word, CLASSES, NULL);
  if (!s) s = fvg_foreground_mask_items(x, &d, &d.train);
  if (!s) s = fvg_image_load(w->c, &picture, picture_path[2], 3);
  if (!s) {
    s = fvg_foreground_mask(x, &mask, &w->out[100], &picture, 1);
    for (i = 0; !s && i < SIDE * SIDE; i++) w->out[i] = mask.pixels[i];
    fvg_image_free(w->c, &picture);
    fvg_image_free(w->c, &mask);
  }
  fvg_foreground_free(x);
  fvg_dataset_free(&d);
  return s;
}

/* Every map of plain CLIP and of a learner, drawn over a picture and saved. */
static fvg_status draw_maps(world *w) {
  fvg_classifier_desc d;
  fvg_classifier *k = NULL;
  fvg_learner *l = NULL;
  fvg_image picture, small, heat;
  float chw[PIXELS];
  int i;
  fvg_status s = fvg_image_load(w->c, &picture, picture_path[0], 3);
  if (s) return s;
  memset(&small, 0, sizeof small);
  memset(&heat, 0, sizeof heat);
  memset(&d, 0, sizeof d);
  s = fvg_image_test_transform(w->c, &small, &picture, &w->m->preprocess);
  if (!s) s = fvg_image_normalize(w->c, chw, &small, &w->m->preprocess);
  if (!s) s = new_learner(w, &l);
  for (i = 0; !s && i < 2; i++) {
    d.branch = i ? FVG_TUNED : FVG_ZERO_SHOT;
    d.learner = i ? l : NULL;
    s = fvg_classifier_new(w->m, &k, word, CLASSES, &d);
    if (!s) s = fvg_attention_map(k, w->out + 48 * i, chw, 1, FVG_GRAD_CAM);
    if (!s) s = fvg_attention_map(k, w->out + 48 * i + 16, chw, 1, FVG_CLS_ATTENTION);
    if (!s) s = fvg_attention_map(k, w->out + 48 * i + 32, chw, 1, FVG_RELEVANCE);
    fvg_classifier_free(k);
    k = NULL;
  }
  if (!s) s = fvg_image_overlay(w->c, &heat, &small, w->out);
  if (!s) s = fvg_image_save(w->c, &heat, OUT "/heat.png");
  fvg_learner_free(l);
  fvg_image_free(w->c, &heat);
  fvg_image_free(w->c, &small);
  fvg_image_free(w->c, &picture);
  return s;
}

/* A head: fitted, saved, loaded, and asked for scores; on new classes where it can. */
static fvg_status fit_head(world *w) {
  fvg_head_task x;
  fvg_head_checkpoint file, back;
  fvg_head *h = NULL, *other = NULL;
  fvg_status s;
  memset(&x, 0, sizeof x);
  memset(&back, 0, sizeof back);
  x.train = &w->task;
  s = fvg_head_fit_task(w->m, &h, w->head, &x, NULL);
  memset(&file, 0, sizeof file);
  file.head = h;
  file.class_name = word;
  file.n_class = CLASSES;
  if (!s) s = fvg_head_checkpoint_save(w->m, SAVED, &file, NULL, 0);
  if (!s) s = fvg_head_checkpoint_load(w->m, &back, SAVED);
  if (!s) s = fvg_encode_task(w->m, NULL, w->out + 100, &w->task);
  if (!s) s = fvg_head_logits(back.head, w->out, w->out + 100, PICTURES);
  if (!s && fvg_head_knows_new(w->head)) s = fvg_head_for_new(h, &other, w->out + 100, 2);
  fvg_head_free(other);
  fvg_head_checkpoint_free(w->m, &back);
  fvg_head_free(h);
  return s;
}

static fvg_status classify(world *w) {
  const int best = fvg_classify_file(w->m, w->out, picture_path[3], word, CLASSES);
  w->out[10] = (float)best;
  return best < 0 ? (fvg_status)best : FVG_OK;
}

/* A second model with the same weights in a context of its own. */
static void *take_memory(void *user, size_t bytes) { (void)user; return fails(MEMORY) ? NULL : malloc(bytes); }
static void give_back(void *user, void *block, size_t bytes) { (void)user; (void)bytes; free(block); }

static fvg_status new_context(fvg_ctx **c) {
  fvg_desc d;
  memset(&d, 0, sizeof d);
  d.allocator.alloc = take_memory;
  d.allocator.release = give_back;
  return fvg_init(c, &d);
}

static fvg_status share(world *w) {
  fvg_ctx *c = NULL;
  fvg_clip *own = NULL, *m = NULL;
  fvg_status s = fvg_clip_open(w->c, &own, MODEL, NULL, FVG_F32);
  if (!s) s = new_context(&c);
  if (!s) s = fvg_clip_share(c, &m, own);
  if (!s) s = fvg_clip_encode_texts(m, w->out, word, CLASSES);
  fvg_clip_free(own);
  fvg_clip_free(m);
  if (c && fvg_mem_used(c)) s = FVG_E_ARG;
  fvg_free(c);
  return s;
}

/* ---- failing in every way ---- */
static int step[2];                                      /* every so many: allocations; reads and writes              */
static long tried;

static void forget_tape(world *w) {
  fvg_tape_free(w->m->tape);
  w->m->tape = NULL;
}

static fvg_status run_work(world *w, fvg_status (*run)(world *w)) {
  fvg_status s;
  remove(SAVED);
  remove(STATE);
  remove(OUT "/heat.png");
  memset(w->out, 0, sizeof w->out);
  memset(done, 0, sizeof done);
  s = run(w);
  fail_at = 0;
  forget_tape(w);
  return s;
}

static void count_temporary(void *n, const char *name, int is_folder) {
  (void)is_folder;
  *(int *)n += fvg_file_is_temporary(name);
}

/* A file that was written is one that can be opened, and nothing unfinished lies beside it. */
static int files_are_whole(world *w) {
  static const char *const path[] = {SAVED, STATE};
  int i, n = 0;
  for (i = 0; i < 2; i++) {
    fvg_source s;
    fvg_weights *x = NULL;
    if (!fvg_file_exists(path[i])) continue;
    if (fvg_source_file(w->c, &s, path[i]) || fvg_weights_open(w->c, &x, &s)) return 0;
    fvg_weights_close(x);
  }
  return !fvg_list_folder(NULL, OUT, count_temporary, &n) && n == 0;
}

/* One kind of failure at number 1, 1 + by, ...; the message of what went wrong, or NULL. */
static const char *fail_everywhere(world *w, fvg_status (*run)(world *w), kind k, long n, int by) {
  const size_t used = fvg_mem_used(w->c);
  const fvg_status wanted = k <= ALL_ALLOCATIONS ? FVG_E_NOMEM : FVG_E_IO;
  long at;
  for (at = 1; at <= n; at += by) {
    static char what[200];
    fvg_status s;
    failing = k;
    fail_at = at;
    s = run_work(w, run);
    tried++;
    snprintf(what, sizeof what, "number %ld of %ld: %s, %.80s", at, n, fvg_status_name(s), fvg_error(w->c));
    if (s != wanted && !(k == SHORT_READ && s == FVG_E_FORMAT)) return what;
    if (fvg_mem_used(w->c) != used) return "memory stays";
    if (k == WRITE && !files_are_whole(w)) return "half a file stays";
  }
  return NULL;
}

static void sweep(world *w, const char *name, const char *detail, fvg_status (*run)(world *w)) {
  static const char *const kind_name[KINDS] = {"allocation", "allocation, and all after it,", "read", "read that ends early", "write"};
  static const int counted[KINDS] = {MEMORY, MEMORY, READS, READS, WRITES};
  static float whole[MOST];
  long n[3];
  char label[300];
  int k;
  fvg_status s = run_work(w, run);                       /* once before counting: what is made once is there          */
  if (!s) s = run_work(w, run);
  snprintf(label, sizeof label, "%s %s", name, detail);
  if (s) printf("  %s\n", fvg_error(w->c));
  check(!s, label);
  memcpy(whole, w->out, sizeof whole);
  memcpy(n, done, sizeof n);
  for (k = 0; !s && k < KINDS; k++) {
    const int by = step[counted[k] != MEMORY], wider = k == ALL_ALLOCATIONS && by > 1 ? 3 * by : by;
    const char *wrong = fail_everywhere(w, run, (kind)k, n[counted[k]], wider);
    snprintf(label, sizeof label, "%s %s: a failing %s: %s", name, detail, kind_name[k], wrong ? wrong : "");
    check(!wrong, label);
  }
  s = run_work(w, run);
  snprintf(label, sizeof label, "%s %s can be done afterwards, with the same bits", name, detail);
  check(!s && !memcmp(whole, w->out, sizeof whole), label);
}

int main(int argc, char **argv) {
  static world w;
  fvg_dataset_desc desc;
  int i;
  step[0] = argc < 2 ? 23 : !strcmp(argv[1], "all") ? 1 : (int)strtol(argv[1], NULL, 10);
  step[1] = argc < 2 ? 3 : 1;
  if (step[0] < 1) return 1;
  memset(&desc, 0, sizeof desc);
  desc.root = ROOT;
  if (new_context(&w.c)) return 1;
  write_world(w.c);
  if (fvg_clip_open(w.c, &w.m, MODEL, NULL, FVG_F32) || fvg_dataset_open(w.c, &w.data, &desc) ||
      fvg_task_draw(&w.task, &w.data, NULL)) {
    printf("FAILED %s\n0 passed, 1 failed\n", fvg_error(w.c));
    return 1;
  }
  w.method = fvg_method_find("CoOp");
  sweep(&w, "loading", "a model", load_model);
  sweep(&w, "loading", "eight bits", load_eight_bits);
  sweep(&w, "encoding", "pictures and texts", encode);
  sweep(&w, "opening", "a data set", open_data);
  sweep(&w, "classifying", "a file", classify);
  sweep(&w, "sharing", "weights", share);
  sweep(&w, "making", "masks", make_masks);
  sweep(&w, "drawing", "maps", draw_maps);
  sweep(&w, "training", "FVG-PT", tune_fvgpt);
  sweep(&w, "training", "DPC", tune_dpc);
  for (i = 0; (w.method = fvg_method_at(i)) != NULL; i++) sweep(&w, "training", fvg_method_name(w.method), tune);
  for (i = 0; fvg_head_name((fvg_head_kind)i); i++) {
    w.head = (fvg_head_kind)i;
    sweep(&w, "fitting", fvg_head_name(w.head), fit_head);
  }
  fvg_task_free(&w.task);
  fvg_dataset_free(&w.data);
  fvg_clip_free(w.m);
  check(fvg_mem_used(w.c) == 0, "no memory stays at the end");
  fvg_free(w.c);
  printf("%ld failures of allocations, reads and writes\n", tried);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
