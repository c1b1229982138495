/* fvgpt - CLIP and prompt tuning from the command line.
   `fvgpt` alone prints the manual; the work is in the headers. */
#define _POSIX_C_SOURCE 199309L                     /* clock_gettime, for the time left                             */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"

#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef _WIN32
#include <direct.h>
#define make_folder(path) _mkdir(path)
#else
#define make_folder(path) mkdir(path, 0777)
#endif

static const char manual[] =
  "fvgpt info       --model DIR\n"
  "fvgpt tokenize   --model DIR                       a line of text in, its token ids out\n"
  "fvgpt preprocess --size N [--crop TOP,LEFT,HEIGHT,WIDTH [--flip] [--nearest]] IN OUT\n"
  "fvgpt encode     --model DIR [--pixels F.safetensors] [--image FILE]... [--text STR]... --out F.safetensors\n"
  "                 --pixels reads images [N,3,H,W]; writes image_features and text_features, not normalised\n"
  "fvgpt classify   --model DIR [--checkpoint DIR] --classes A,B,C [--template STR] FILE...\n"
  "fvgpt attend     --model DIR [--checkpoint DIR] --text STR --out DIR FILE...\n"
  "                 writes DIR/NAME_gradcam.png, what speaks for the text (with a checkpoint: for that class), and\n"
  "                 DIR/NAME_attention.png, what the class token attends to; prints file, score, first picture\n"
  "fvgpt tune       --model DIR --data ROOT --trainer CoOp|FVGPT_CoOp --out DIR\n"
  "                 [--split F] [--shots 16] [--seeds 1,2,3] [--epochs 10] [--lr 0.0035] [--batch 4]\n"
  "                 [--augment crop|none|squash|crop:K] [--n-ctx 4] [--ctx-init WORDS]\n"
  "                 [--class-token-position end|middle|front] [--lambda-base 10] [--lambda-new 1]\n"
  "                 [--template \"a photo of a {}.\"] [--fill-black] [--ablate]\n"
  "                 --ablate adds rows for FVG-PT without some of its modules (FRG, FDC, PC)\n"
  "fvgpt eval       --model DIR --data ROOT --checkpoint DIR --split-half base|new|all [--split F] [--template STR]\n"
  "fvgpt report     --model DIR --data ROOT --runs RUNS [--data ROOT2 --runs RUNS2]... --out DIR\n"
  "                 [--pictures 6] [--split F]\n"
  "                 RUNS is the --out of a finished tune --trainer FVGPT_CoOp on ROOT; writes DIR/index.html with\n"
  "                 tables, curves and attention maps, and DIR/results.json, every number on it\n"
  "common           --threads N (default: all cores)   --simd scalar|sse2|avx2|avx512   --merges FILE\n";

/* ---- options ---- */
typedef struct options {
  const char *command, *model, *merges, *data, *split, *trainer, *out, *checkpoint, *half, *classes, *pixels, *crop;
  const char *augment, *seeds, *ctx_init, *position, *prompt_template, *simd;
  const char **image, **text, **rest, **all_data, **runs;
  char **argv;
  int argc, n_image, n_text, n_rest, n_data, n_runs, pictures;
  int size, flip, nearest, shots, epochs, batch, threads, n_ctx, csc, fill_black, ablate;
  double lr, lambda_base, lambda_new;
} options;

static int fail(const char *message) {
  fprintf(stderr, "fvgpt: %s\n", message);
  return 1;
}

/* A number in full, within bounds; 0 and a message otherwise. */
static int number(const char *name, const char *text, double low, double high, double *out) {
  char *end;
  double x = strtod(text, &end);
  if (*text && !*end && x >= low && x <= high) { *out = x; return 1; }
  fprintf(stderr, "fvgpt: %s %s: a number from %g to %g is expected\n", name, text, low, high);
  return 0;
}

static int whole(const char *name, const char *text, int low, int high, int *out) {
  double x;
  if (!number(name, text, low, high, &x)) return 0;
  *out = (int)x;
  if (*out == x) return 1;
  fprintf(stderr, "fvgpt: %s %s: a whole number is expected\n", name, text);
  return 0;
}

/* 1 when name took the value, 0 after a message, -1 when no option has that name. */
static int take(options *o, const char *name, const char *value) {
  const struct { const char *name; const char **to; } strings[] = {
    {"--model", &o->model}, {"--merges", &o->merges}, {"--data", &o->data}, {"--split", &o->split},
    {"--trainer", &o->trainer}, {"--out", &o->out}, {"--checkpoint", &o->checkpoint}, {"--split-half", &o->half},
    {"--classes", &o->classes}, {"--pixels", &o->pixels}, {"--crop", &o->crop}, {"--augment", &o->augment},
    {"--seeds", &o->seeds}, {"--ctx-init", &o->ctx_init}, {"--class-token-position", &o->position},
    {"--template", &o->prompt_template}, {"--simd", &o->simd}
  };
  size_t i;
  if (!strcmp(name, "--data")) o->all_data[o->n_data++] = value;
  for (i = 0; i < sizeof strings / sizeof *strings; i++)
    if (!strcmp(name, strings[i].name)) { *strings[i].to = value; return 1; }
  if (!strcmp(name, "--image")) { o->image[o->n_image++] = value; return 1; }
  if (!strcmp(name, "--text")) { o->text[o->n_text++] = value; return 1; }
  if (!strcmp(name, "--runs")) { o->runs[o->n_runs++] = value; return 1; }
  if (!strcmp(name, "--pictures")) return whole(name, value, 1, 100, &o->pictures);
  if (!strcmp(name, "--size")) return whole(name, value, 1, 4096, &o->size);
  if (!strcmp(name, "--shots")) return whole(name, value, 1, 100000, &o->shots);
  if (!strcmp(name, "--epochs")) return whole(name, value, 1, 100000, &o->epochs);
  if (!strcmp(name, "--batch")) return whole(name, value, 1, 100000, &o->batch);
  if (!strcmp(name, "--threads")) return whole(name, value, 1, 256, &o->threads);
  if (!strcmp(name, "--n-ctx")) return whole(name, value, 1, 74, &o->n_ctx);
  if (!strcmp(name, "--lr")) return number(name, value, 1e-9, 1e3, &o->lr);
  if (!strcmp(name, "--lambda-base")) return number(name, value, 0, 1e6, &o->lambda_base);
  if (!strcmp(name, "--lambda-new")) return number(name, value, 0, 1e6, &o->lambda_new);
  return -1;
}

/* Only these take arguments that are not options; elsewhere one is a mistake, such as a forgotten quote. */
static int check_rest(const options *o) {
  static const char *const taker[] = {"preprocess", "classify", "attend"};
  size_t i;
  for (i = 0; i < sizeof taker / sizeof *taker; i++) if (!strcmp(o->command, taker[i])) return 1;
  if (!o->n_rest) return 1;
  fprintf(stderr, "fvgpt: %s: \"%s\" belongs to no option (one value each; quote values with blanks)\n",
          o->command, o->rest[0]);
  return 0;
}

static int parse_options(options *o, int argc, char **argv) {
  int i, taken;
  memset(o, 0, sizeof *o);
  o->image = (const char **)calloc((size_t)argc * 5, sizeof *o->image);
  if (!o->image) return 0;
  o->text = o->image + argc;
  o->rest = o->text + argc;
  o->all_data = o->rest + argc;
  o->runs = o->all_data + argc;
  o->argc = argc;
  o->argv = argv;
  o->pictures = 6;
  o->shots = 16;
  o->seeds = "1,2,3";
  o->epochs = 10;
  o->batch = 4;
  o->lr = 0.0035;
  o->lambda_base = 10;
  o->lambda_new = 1;
  o->augment = "crop";
  o->position = "end";
  o->command = argc > 1 ? argv[1] : "help";
  for (i = 2; i < argc; i++) {
    if (argv[i][0] != '-' || argv[i][1] != '-') { o->rest[o->n_rest++] = argv[i]; continue; }
    if (!strcmp(argv[i], "--help")) { o->command = "help"; return 1; }
    if (!strcmp(argv[i], "--flip")) { o->flip = 1; continue; }
    if (!strcmp(argv[i], "--nearest")) { o->nearest = 1; continue; }
    if (!strcmp(argv[i], "--csc")) { o->csc = 1; continue; }
    if (!strcmp(argv[i], "--fill-black")) { o->fill_black = 1; continue; }
    if (!strcmp(argv[i], "--ablate")) { o->ablate = 1; continue; }
    if (i + 1 == argc) { fprintf(stderr, "fvgpt: %s needs a value\n", argv[i]); return 0; }
    taken = take(o, argv[i], argv[i + 1]);
    if (taken < 0) fprintf(stderr, "fvgpt: unknown option %s (`fvgpt help` lists them)\n", argv[i]);
    if (taken <= 0) return 0;
    i++;
  }
  return check_rest(o);
}

/* ---- progress: one line that is rewritten on a terminal, a line every ten percent elsewhere ---- */
typedef struct display {
  double start, *epoch_loss;                        /* epoch_loss: receives the mean loss of each epoch, if set    */
  long first, last, last_tenth;
  int terminal, open_line;
  const char *what;
} display;
static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number) { (void)signal_number; interrupted = 1; }

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int show_progress(void *user, const fvg_progress *p) {
  display *d = (display *)user;
  double rate, spent;
  long tenth = p->n_steps ? p->step * 10 / p->n_steps : 10;
  if (d->epoch_loss && p->n_epochs) d->epoch_loss[p->epoch] += p->loss / (double)(p->n_steps / p->n_epochs);
  if (p->what != d->what || p->step <= d->last) {                                  /* another piece of work begins */
    d->what = p->what;
    d->start = now();
    d->first = p->step;
    d->last_tenth = 0;
  }
  d->last = p->step;
  spent = now() - d->start;
  rate = spent > 0 ? (double)(p->step - d->first) / spent : 0;
  if (d->terminal ? p->step % 20 && p->step != p->n_steps : tenth == d->last_tenth) return interrupted;
  d->last_tenth = tenth;
  fprintf(stderr, d->terminal ? "\r\033[K" : "");
  fprintf(stderr, "%-10s %ld/%ld", p->what, p->step, p->n_steps);
  if (p->n_epochs) fprintf(stderr, "  epoch %d/%d  loss %.4f  lr %.2g", p->epoch + 1, p->n_epochs, p->loss, p->lr);
  if (rate > 0) fprintf(stderr, "  %.0f/s  %.0f s left", rate, (double)(p->n_steps - p->step) / rate);
  d->open_line = d->terminal && p->step != p->n_steps;
  if (!d->open_line) fputc('\n', stderr);
  return interrupted;
}

static void show_log(void *user, int level, const char *message) {
  display *d = (display *)user;
  (void)level;
  fprintf(stderr, "%sfvgpt: %s\n", d->open_line ? "\n" : "", message);
  d->open_line = 0;
}

/* ---- what most commands begin with ---- */
static fvg_status open_model(fvg_ctx *c, const options *o, fvg_clip **m) {
  *m = NULL;
  if (!o->model) return fvg__fail(c, FVG_E_ARG, "%s needs --model DIR", o->command);
  return fvg_clip_open(c, m, o->model, o->merges, FVG_F32);
}

static fvg_status open_data(fvg_ctx *c, const options *o, fvg_dataset *d) {
  fvg_dataset_desc desc;
  memset(&desc, 0, sizeof desc);
  if (!o->data) return fvg__fail(c, FVG_E_ARG, "%s needs --data ROOT", o->command);
  desc.root = o->data;
  desc.split = o->split;
  return fvg_dataset_open(c, d, &desc);
}

/* All folders of a path. */
static fvg_status make_folders(fvg_ctx *c, const char *path) {
  char part[1200];
  size_t i;
  snprintf(part, sizeof part, "%s", path);
  for (i = 1; i <= strlen(path); i++) {
    char ch = part[i];
    if (ch != '/' && ch != 0) continue;
    part[i] = 0;
    if (make_folder(part) && errno != EEXIST)
      return fvg__fail(c, FVG_E_IO, "%s: cannot make this folder: %s", part, strerror(errno));
    part[i] = ch;
  }
  return FVG_OK;
}

/* ---- a text that grows; running out of memory is remembered until the end ---- */
typedef struct document { fvg_ctx *c; char *text; size_t n, size; fvg_status status; } document;

static char *room_for(document *t, size_t n) {
  if (!t->status && t->n + n + 1 > t->size) {
    size_t size = 2 * (t->n + n) + 4096;
    char *more = (char *)fvg__alloc(t->c, size);
    if (more && t->n) memcpy(more, t->text, t->n);
    if (more) {
      fvg__release(t->c, t->text);
      t->text = more;
      t->size = size;
    } else {
      t->status = FVG_E_NOMEM;
    }
  }
  return t->status ? NULL : t->text + t->n;
}

static void put(document *t, const char *format, ...) {
  va_list list;
  char *at;
  int n;
  va_start(list, format);
  n = vsnprintf(NULL, 0, format, list);
  va_end(list);
  at = n > 0 ? room_for(t, (size_t)n) : NULL;
  if (!at) return;
  va_start(list, format);
  vsnprintf(at, (size_t)n + 1, format, list);
  va_end(list);
  t->n += (size_t)n;
}

static fvg_status save_document(document *t, const char *path) {
  fvg_status s = t->status ? t->status : fvg_file_save(t->c, path, t->text, t->n);
  fvg__release(t->c, t->text);
  memset(t, 0, sizeof *t);
  return s;
}

/* ---- info ---- */
static void print_tower(const char *name, const fvg_transformer *t, int width) {
  printf("%-7s width %d, %d layers, %d heads, %s", name, width, t->n_layer, t->n_head,
         t->activation == FVG_GELU ? "gelu" : "quick_gelu");
}

static fvg_status info(fvg_ctx *c, const options *o) {
  fvg_clip *m;
  fvg_status s = open_model(c, o, &m);
  if (s) return s;
  if (m->has_vision) {
    print_tower("image", &m->vision.transformer, m->vision.width);
    printf(", %d x %d pixels, patch %d, %d tokens\n", m->vision.image_size, m->vision.image_size,
           m->vision.patch_size, m->vision.n_token);
  }
  if (m->has_text) {
    print_tower("text", &m->text.transformer, m->text.width);
    printf(", context %d, vocabulary %d%s\n", m->text.context_length, m->text.vocab_size,
           m->tokenizer ? "" : " (merges not found)");
  }
  printf("joint   width %d, exp(logit_scale) %.4g\n", m->embed_dim, (double)m->logit_scale);
  printf("total   %lu parameters; kernels: %s\n", (unsigned long)fvg_clip_parameter_count(m),
         fvg_simd_name(fvg_simd_level(c)));
  fvg_clip_free(m);
  return FVG_OK;
}

/* ---- tokenize ---- */
/* A line of stdin without its end, grown as needed; NULL at the end of the input. */
static char *read_line(char **buffer, size_t *capacity) {
  size_t n = 0;
  int ch;
  while ((ch = getchar()) != EOF) {
    if (n + 1 >= *capacity) {
      char *more = (char *)realloc(*buffer, *capacity = *capacity * 2 + 256);
      if (!more) return NULL;
      *buffer = more;
    }
    if (ch == '\n') break;
    (*buffer)[n++] = (char)ch;
  }
  if (ch == EOF && n == 0) return NULL;
  if (n && (*buffer)[n - 1] == '\r') n--;
  (*buffer)[n] = 0;
  return *buffer;
}

static fvg_status tokenize(fvg_ctx *c, const options *o) {
  char *buffer = NULL, *line;
  size_t capacity = 0;
  fvg_clip *m;
  fvg_status s = open_model(c, o, &m);
  if (!s && !m->tokenizer)
    s = fvg__fail(c, FVG_E_IO, "%s: no merges.txt or bpe_simple_vocab_16e6.txt; name one with --merges", o->model);
  while (!s && (line = read_line(&buffer, &capacity)) != NULL) {
    int i, n = 0, *ids;
    s = fvg_tokenize(m->tokenizer, line, NULL, 0, &n);
    ids = (int *)calloc((size_t)n + 1, sizeof *ids);
    if (!s && !ids) s = fvg__fail(c, FVG_E_NOMEM, "out of memory");
    if (!s) s = fvg_tokenize(m->tokenizer, line, ids, n, &n);
    for (i = 0; !s && i < n; i++) printf(i ? " %d" : "%d", ids[i]);
    if (!s) putchar('\n');
    free(ids);
  }
  free(buffer);
  fvg_clip_free(m);
  return s;
}

/* ---- preprocess ---- */
static fvg_status preprocess(fvg_ctx *c, const options *o) {
  fvg_image in, out;
  fvg_crop crop;
  fvg_filter filter = o->nearest ? FVG_NEAREST : FVG_BICUBIC;
  fvg_status s;
  char tail;
  if (!o->size || o->n_rest != 2)
    return fvg__fail(c, FVG_E_ARG, "preprocess needs --size N and two files, IN and OUT");
  memset(&in, 0, sizeof in);
  memset(&out, 0, sizeof out);
  memset(&crop, 0, sizeof crop);
  if (o->crop && sscanf(o->crop, "%d,%d,%d,%d%c", &crop.top, &crop.left, &crop.height, &crop.width, &tail) != 4)
    return fvg__fail(c, FVG_E_ARG, "--crop %s: TOP,LEFT,HEIGHT,WIDTH is expected", o->crop);
  if (!o->crop && o->flip) return fvg__fail(c, FVG_E_ARG, "--flip goes with --crop");
  crop.flip = o->flip;
  s = fvg_image_load(c, &in, o->rest[0], 0);
  /* alpha dropped */
  if (!s && in.channels == 2) { fvg_image_free(c, &in); s = fvg_image_load(c, &in, o->rest[0], 1); }
  if (!s && in.channels == 4) { fvg_image_free(c, &in); s = fvg_image_load(c, &in, o->rest[0], 3); }
  if (!s && o->crop && (crop.top < 0 || crop.left < 0 || crop.height < 1 || crop.width < 1 ||
                        crop.height > in.height - crop.top || crop.width > in.width - crop.left))
    s = fvg__fail(c, FVG_E_ARG, "--crop %s does not lie within %s, which has %d x %d pixels",
                  o->crop, o->rest[0], in.width, in.height);
  if (!s && o->crop) s = fvg_image_resized_crop(c, &out, &in, &crop, o->size, filter);
  if (!s && !o->crop) s = fvg_image_test_transform(c, &out, &in, o->size, filter);
  if (!s) s = fvg_image_save(c, &out, o->rest[1]);
  fvg_image_free(c, &out);
  fvg_image_free(c, &in);
  return s;
}

/* ---- encode ---- */
/* One picture through the test transform into a view and its [3, size, size] floats. */
static fvg_status load_view(fvg_clip *m, const char *path, fvg_image *view, float *chw) {
  fvg_ctx *c = m->ctx;
  fvg_image image;
  fvg_status s;
  memset(view, 0, sizeof *view);
  s = fvg_image_load(c, &image, path, 3);
  if (!s) s = fvg_image_test_transform(c, view, &image, m->vision.image_size, FVG_BICUBIC);
  if (!s) s = fvg_image_normalize(c, view, chw);
  if (s) fvg_image_free(c, view);
  fvg_image_free(c, &image);
  return s;
}

static fvg_status encode_files(fvg_clip *m, const char *const *file, int n, float *features) {
  size_t pixels = 3 * (size_t)m->vision.image_size * (size_t)m->vision.image_size;
  float *chw;
  fvg_image view;
  fvg_status s = FVG_OK;
  int i;
  if (!m->has_vision) return fvg__fail(m->ctx, FVG_E_ARG, "this model has no image tower");
  chw = (float *)fvg__alloc_array(m->ctx, pixels, sizeof *chw);
  if (!chw) return FVG_E_NOMEM;
  for (i = 0; !s && i < n; i++) {
    s = load_view(m, file[i], &view, chw);
    if (!s) s = fvg_clip_encode_images(m, chw, 1, features + (size_t)i * (size_t)m->embed_dim);
    fvg_image_free(m->ctx, &view);
  }
  fvg__release(m->ctx, chw);
  return s;
}

/* `images` [N, 3, H, W] of a safetensors file */
static fvg_status load_pixels(fvg_clip *m, const char *path, fvg_tensor *images) {
  int size = m->vision.image_size;
  fvg_weights *w = NULL;
  fvg_source source;
  fvg_status s = fvg_source_file(m->ctx, &source, path);
  memset(images, 0, sizeof *images);
  if (!s) s = fvg_weights_open(m->ctx, &w, &source);
  if (!s) s = fvg_weights_get(w, "images", FVG_F32, images);
  if (!s && (images->n_dim != 4 || images->dim[0] < 1 || images->dim[1] != 3 ||
             images->dim[2] != size || images->dim[3] != size))
    s = fvg__fail(m->ctx, FVG_E_SHAPE, "%s: images must have shape [N, 3, %d, %d] for this model", path, size, size);
  fvg_weights_close(w);
  return s;
}

static fvg_tensor matrix(float *data, int rows, int cols) {
  fvg_tensor x;
  memset(&x, 0, sizeof x);
  x.data = data;
  x.n_dim = 2;
  x.dim[0] = rows;
  x.dim[1] = cols;
  return x;
}

static fvg_status encode(fvg_ctx *c, const options *o) {
  fvg_named_tensor out[2];
  fvg_tensor pixels;
  fvg_clip *m;
  float *f = NULL, *g = NULL;
  int n_pixels = 0, n_image = 0, n_out = 0;
  fvg_status s;
  if (!o->out || (!o->pixels && !o->n_image && !o->n_text))
    return fvg__fail(c, FVG_E_ARG, "encode needs --out F.safetensors and something to encode: "
                                   "--pixels, --image or --text");
  s = open_model(c, o, &m);
  memset(&pixels, 0, sizeof pixels);
  if (!s && o->pixels) s = load_pixels(m, o->pixels, &pixels);
  if (!s) {
    n_pixels = pixels.data ? pixels.dim[0] : 0;
    n_image = n_pixels + o->n_image;
    f = (float *)fvg__alloc_array(c, (size_t)n_image * (size_t)m->embed_dim + 1, sizeof *f);
    g = (float *)fvg__alloc_array(c, (size_t)o->n_text * (size_t)m->embed_dim + 1, sizeof *g);
    if (!f || !g) s = FVG_E_NOMEM;
  }
  if (!s && n_pixels) s = fvg_clip_encode_images(m, (const float *)pixels.data, n_pixels, f);
  if (!s && o->n_image) s = encode_files(m, o->image, o->n_image, f + (size_t)n_pixels * (size_t)m->embed_dim);
  if (!s && o->n_text) s = fvg_clip_encode_texts(m, o->text, o->n_text, g);
  if (!s) {
    if (n_image) { out[n_out].name = "image_features"; out[n_out++].tensor = matrix(f, n_image, m->embed_dim); }
    if (o->n_text) { out[n_out].name = "text_features"; out[n_out++].tensor = matrix(g, o->n_text, m->embed_dim); }
    s = fvg_safetensors_save(c, o->out, out, n_out, NULL, 0);
  }
  fvg__release(c, f);
  fvg__release(c, g);
  fvg_tensor_free(c, &pixels);
  fvg_clip_free(m);
  return s;
}

/* ---- checkpoints ---- */
static fvg_status open_checkpoint(fvg_clip *m, const char *folder, fvg_coop **p, fvg_fvgpt **f,
                                  fvg_weights **settings) {
  char path[1200];
  snprintf(path, sizeof path, "%s/checkpoint.safetensors", folder);
  return fvg_checkpoint_load(m, path, p, f, settings);
}

static fvg_branch branch_of(const fvg_coop *p, const fvg_fvgpt *f, fvg_half half) {
  if (!p) return FVG_ZERO_SHOT;
  if (!f) return FVG_TUNED;
  return half == FVG_BASE ? FVG_BRANCH_BASE : FVG_BRANCH_NEW;
}

/* The template that a checkpoint was tuned with goes before the default, and --template before both. */
static const char *template_of(const options *o, const fvg_weights *settings) {
  const char *tuned = settings ? fvg_weights_metadata(settings, "template") : NULL;
  return o->prompt_template ? o->prompt_template : tuned ? tuned : "a photo of a {}.";
}

/* ---- classify ---- */
static int all_base(fvg_coop *p, const char *const *name, int n) {
  int i, k, n_base;
  const char *const *base = fvg_coop_class_names(p, &n_base);
  for (i = 0; i < n; i++) {
    for (k = 0; k < n_base && strcmp(base[k], name[i]); k++) {}
    if (k == n_base) return 0;
  }
  return 1;
}

/* Names from a comma-separated list, cut in place. */
static int cut_names(char *list, const char **name) {
  int n = 0;
  char *at = list;
  while (at) {
    char *comma = strchr(at, ',');
    if (comma) *comma = 0;
    while (*at == ' ') at++;
    fvg__blank_underscores(at);                     /* as data sets do: great_pyrenees is great pyrenees            */
    if (*at) name[n++] = at;
    at = comma ? comma + 1 : NULL;
  }
  return n;
}

static void print_scores(const char *file, const char *const *name, int n, float *p, float b, int wide) {
  int shown, i, best;
  printf("%s\n", file);
  for (shown = 0; shown < n && shown < 5; shown++) {
    for (best = 0, i = 1; i < n; i++) if (p[i] > p[best]) best = i;
    printf("  %6.2f %%  %-*s\n", 100 * (double)p[best], wide, name[best]);
    p[best] = -1;
  }
  if (b > 0) printf("  weight of plain CLIP b = %.3f\n", (double)b);
}

static fvg_status classify(fvg_ctx *c, const options *o) {
  fvg_clip *m = NULL;
  fvg_coop *p = NULL;
  fvg_fvgpt *f = NULL;
  fvg_classifier *k = NULL;
  fvg_weights *settings = NULL;
  float *features = NULL, *logits = NULL, *b = NULL;
  char *list = NULL;
  const char **name = NULL;
  int n = 0, i, wide = 1;
  fvg_status s;
  if (!o->classes || !o->n_rest) return fvg__fail(c, FVG_E_ARG, "classify needs --classes A,B,C and pictures");
  s = open_model(c, o, &m);
  if (!s && o->checkpoint) s = open_checkpoint(m, o->checkpoint, &p, &f, &settings);
  if (!s) {
    list = fvg__copy_string(c, o->classes);
    name = (const char **)fvg__alloc_array(c, strlen(o->classes) + 1, sizeof *name);
    if (!list || !name) s = FVG_E_NOMEM;
    else if ((n = cut_names(list, name)) < 1) s = fvg__fail(c, FVG_E_ARG, "--classes %s: no names", o->classes);
  }
  if (!s)
    s = fvg_classifier_new(m, &k, branch_of(p, f, p && all_base(p, name, n) ? FVG_BASE : FVG_NEW), p, f,
                           template_of(o, settings), name, n);
  if (!s) {
    features = (float *)fvg__alloc_array(c, (size_t)o->n_rest * (size_t)m->embed_dim, sizeof *features);
    logits = (float *)fvg__alloc_array(c, (size_t)o->n_rest * (size_t)n, sizeof *logits);
    b = (float *)fvg__alloc_array(c, (size_t)o->n_rest, sizeof *b);
    if (!features || !logits || !b) s = FVG_E_NOMEM;
  }
  if (!s) s = encode_files(m, o->rest, o->n_rest, features);
  if (!s) {
    fvg_normalize_rows(features, o->n_rest, m->embed_dim);
    s = fvg_classifier_logits(k, features, o->n_rest, logits, b);
  }
  for (i = 0; i < n; i++) if ((int)strlen(name[i]) > wide) wide = (int)strlen(name[i]);
  for (i = 0; !s && i < o->n_rest; i++) {
    float *row = logits + (size_t)i * (size_t)n;
    c->kernels->softmax(n, row, 1, row);
    print_scores(o->rest[i], name, n, row, b[i], wide);
  }
  fvg__release(c, b);
  fvg__release(c, logits);
  fvg__release(c, features);
  fvg__release(c, name);
  fvg__release(c, list);
  fvg_classifier_free(k);
  fvg_weights_close(settings);
  fvg_fvgpt_free(f);
  fvg_coop_free(p);
  fvg_clip_free(m);
  return s;
}

/* ---- attend ---- */
enum { NAME_BYTES = 320 };                          /* longest file names have 255 bytes                            */

/* The file's name without folder and ending, with _2, _3, ... behind it until it is none of the n names before. */
static void name_of(const char *file, const char (*before)[NAME_BYTES], int n, char *name) {
  const char *start = file, *at, *dot;
  int length, copy = 1, i;
  for (at = file; *at; at++) if (*at == '/' || *at == '\\') start = at + 1;
  dot = strrchr(start, '.');
  length = dot && dot > start ? (int)(dot - start) : (int)strlen(start);
  if (length > 255) length = 255;
  snprintf(name, NAME_BYTES, "%.*s", length, start);
  for (i = 0; i < n; i++) {
    if (strcmp(before[i], name)) continue;
    snprintf(name, NAME_BYTES, "%.*s_%d", length, start, ++copy);
    i = -1;                                         /* the new name may be taken as well                            */
  }
}

static fvg_status save_overlay(fvg_ctx *c, const fvg_image *view, const float *map, const char *folder,
                               const char *name, const char *kind, char *path, size_t n) {
  fvg_image overlay;
  fvg_status s = fvg_image_overlay(c, &overlay, view, map);
  snprintf(path, n, "%s/%s_%s.png", folder, name, kind);
  if (!s) s = fvg_image_save(c, &overlay, path);
  fvg_image_free(c, &overlay);
  return s;
}

/* Both maps of one picture, and a line with its score. */
static fvg_status attend_file(fvg_clip *m, fvg_classifier *k, int label, const char *file, const char *folder,
                              const char *name) {
  fvg_ctx *c = m->ctx;
  size_t pixels = (size_t)m->vision.image_size * (size_t)m->vision.image_size;
  float *chw = (float *)fvg__alloc_array(c, 3 * pixels, sizeof *chw);
  float *map = (float *)fvg__alloc_array(c, pixels, sizeof *map);
  float *f = (float *)fvg__alloc_array(c, (size_t)m->embed_dim, sizeof *f);
  float *logits = (float *)fvg__alloc_array(c, (size_t)k->n_class, sizeof *logits);
  char grad_cam[1400], attention[1400];
  fvg_image view;
  fvg_status s = FVG_OK;
  memset(&view, 0, sizeof view);
  if (!chw || !map || !f || !logits) s = FVG_E_NOMEM;
  if (!s) s = load_view(m, file, &view, chw);
  if (!s) s = fvg_clip_encode_images(m, chw, 1, f);
  if (!s) {
    fvg_normalize_rows(f, 1, m->embed_dim);
    s = fvg_classifier_logits(k, f, 1, logits, NULL);
  }
  if (!s) s = fvg_attention_map(k, chw, label, FVG_GRAD_CAM, map);
  if (!s) s = save_overlay(c, &view, map, folder, name, "gradcam", grad_cam, sizeof grad_cam);
  if (!s) s = fvg_attention_map(k, chw, label, FVG_CLS_ATTENTION, map);
  if (!s) s = save_overlay(c, &view, map, folder, name, "attention", attention, sizeof attention);
  if (!s) printf("%s  %.4f  %s\n", file, (double)logits[label], grad_cam);
  fvg_image_free(c, &view);
  fvg__release(c, logits);
  fvg__release(c, f);
  fvg__release(c, map);
  fvg__release(c, chw);
  return s;
}

/* Without a checkpoint the text is a whole caption.  With one it is a class among the tuned ones: alone, a new class
   would leave the gate of prior calibration no two distributions to compare. */
static fvg_status attend_classifier(fvg_clip *m, const options *o, char *text, fvg_coop *p, fvg_fvgpt *f,
                                    const fvg_weights *settings, fvg_classifier **k, int *label) {
  const char *const only = text, *const *tuned;
  const char **name;
  int n, base;
  fvg_status s;
  *label = 0;
  if (!p) return fvg_classifier_new(m, k, FVG_ZERO_SHOT, NULL, NULL, "{}", &only, 1);
  fvg__blank_underscores(text);
  base = all_base(p, &only, 1);
  tuned = fvg_coop_class_names(p, &n);
  name = (const char **)fvg__alloc_array(m->ctx, (size_t)n + 1, sizeof *name);
  if (!name) return FVG_E_NOMEM;
  memcpy(name, tuned, (size_t)n * sizeof *name);
  name[n] = text;
  while (strcmp(name[*label], text)) ++*label;
  s = fvg_classifier_new(m, k, branch_of(p, f, base ? FVG_BASE : FVG_NEW), p, f, template_of(o, settings), name,
                         base ? n : n + 1);
  fvg__release(m->ctx, name);
  return s;
}

static fvg_status attend(fvg_ctx *c, const options *o) {
  fvg_clip *m = NULL;
  fvg_coop *p = NULL;
  fvg_fvgpt *f = NULL;
  fvg_classifier *k = NULL;
  fvg_weights *settings = NULL;
  char *text = NULL, (*name)[NAME_BYTES] = NULL;
  int i, label = 0;
  fvg_status s;
  if (!o->n_text || !o->out || !*o->out || !o->n_rest)
    return fvg__fail(c, FVG_E_ARG, "attend needs --text STR, --out DIR and pictures");
  if (o->n_text > 1)
    return fvg__fail(c, FVG_E_ARG, "attend takes one --text, there are %d; run it once for each", o->n_text);
  if (strlen(o->out) > 1000) return fvg__fail(c, FVG_E_ARG, "--out: the path is too long");
  s = open_model(c, o, &m);
  if (!s && !m->has_vision) s = fvg__fail(c, FVG_E_ARG, "%s: this model has no image tower", o->model);
  if (!s && o->checkpoint) s = open_checkpoint(m, o->checkpoint, &p, &f, &settings);
  if (!s) {
    text = fvg__copy_string(c, o->text[0]);
    name = (char (*)[NAME_BYTES])fvg__alloc_array(c, (size_t)o->n_rest, sizeof *name);
    s = text && name ? attend_classifier(m, o, text, p, f, settings, &k, &label) : FVG_E_NOMEM;
  }
  if (!s) s = make_folders(c, o->out);
  for (i = 0; !s && i < o->n_rest; i++) {
    name_of(o->rest[i], (const char (*)[NAME_BYTES])name, i, name[i]);
    s = attend_file(m, k, label, o->rest[i], o->out, name[i]);
  }
  fvg__release(c, name);
  fvg__release(c, text);
  fvg_classifier_free(k);
  fvg_weights_close(settings);
  fvg_fvgpt_free(f);
  fvg_coop_free(p);
  fvg_clip_free(m);
  return s;
}

/* ---- testing ---- */
typedef struct half_set {                           /* the test images of one half, encoded once                    */
  fvg_half half;
  fvg_items items;
  const char *const *class_name;
  int n_class, *label;
  float *f;
} half_set;

static void half_free(fvg_ctx *c, half_set *h) {
  fvg_items_free(c, &h->items);
  fvg__release(c, h->label);
  fvg__release(c, h->f);
}

static fvg_status half_new(fvg_clip *m, half_set *h, const fvg_dataset *d, fvg_half half) {
  fvg_ctx *c = m->ctx;
  int first, i;
  fvg_status s;
  memset(h, 0, sizeof *h);
  h->half = half;
  h->n_class = fvg_half_classes(d->n_class, half, &first);
  h->class_name = (const char *const *)d->class_name + first;
  s = fvg_items_half(c, &h->items, &d->test, d->n_class, half);
  if (!s && (h->items.n < 1 || h->n_class < 1))
    s = fvg__fail(c, FVG_E_ARG, "%s: no test images of %s classes", d->root, half == FVG_NEW ? "new" : "these");
  if (!s) {
    h->label = (int *)fvg__alloc_array(c, (size_t)h->items.n, sizeof *h->label);
    h->f = (float *)fvg__alloc_array(c, (size_t)h->items.n * (size_t)m->embed_dim, sizeof *h->f);
    if (!h->label || !h->f) s = FVG_E_NOMEM;
  }
  for (i = 0; !s && i < h->items.n; i++) h->label[i] = h->items.item[i].label;
  if (!s) s = fvg_encode_items(m, d, &h->items, h->f);
  if (s) { half_free(c, h); memset(h, 0, sizeof *h); }
  return s;
}

static fvg_status test_half(fvg_clip *m, const half_set *h, fvg_branch branch, fvg_coop *p, fvg_fvgpt *f,
                            const char *prompt_template, fvg_score *score) {
  fvg_ctx *c = m->ctx;
  float *logits = (float *)fvg__alloc_array(c, (size_t)h->items.n * (size_t)h->n_class, sizeof *logits);
  fvg_classifier *k = NULL;
  fvg_status s = logits ? fvg_classifier_new(m, &k, branch, p, f, prompt_template, h->class_name, h->n_class)
                        : FVG_E_NOMEM;
  if (!s) s = fvg_classifier_logits(k, h->f, h->items.n, logits, NULL);
  if (!s) s = fvg_score_of(c, score, logits, h->label, h->items.n, h->n_class);
  fvg_classifier_free(k);
  fvg__release(c, logits);
  return s;
}

static fvg_status eval(fvg_ctx *c, const options *o) {
  fvg_clip *m = NULL;
  fvg_coop *p = NULL;
  fvg_fvgpt *f = NULL;
  fvg_weights *settings = NULL;
  fvg_dataset d;
  half_set h;
  fvg_score score;
  fvg_half half = FVG_ALL;
  fvg_status s;
  if (!o->checkpoint || !o->half)
    return fvg__fail(c, FVG_E_ARG, "eval needs --checkpoint DIR and --split-half base|new|all");
  if (!strcmp(o->half, "base")) half = FVG_BASE;
  else if (!strcmp(o->half, "new")) half = FVG_NEW;
  else if (strcmp(o->half, "all"))
    return fvg__fail(c, FVG_E_ARG, "--split-half %s: base, new or all is expected", o->half);
  memset(&d, 0, sizeof d);
  memset(&h, 0, sizeof h);
  s = open_model(c, o, &m);
  if (!s) s = open_checkpoint(m, o->checkpoint, &p, &f, &settings);
  if (!s) s = open_data(c, o, &d);
  if (!s) s = half_new(m, &h, &d, half);
  if (!s) s = test_half(m, &h, branch_of(p, f, half), p, f, template_of(o, settings), &score);
  if (!s)
    printf("%s classes %d  images %d  correct %d  accuracy %.2f  error %.2f  macro_f1 %.2f\n", o->half, h.n_class,
           score.n, score.n_correct, score.accuracy, 100 - score.accuracy, score.macro_f1);
  half_free(c, &h);
  fvg_dataset_free(&d);
  fvg_weights_close(settings);
  fvg_fvgpt_free(f);
  fvg_coop_free(p);
  fvg_clip_free(m);
  return s;
}

/* ---- tune ---- */
/* The methods, and what --ablate adds: FVG-PT with some of its modules only, the rows of the paper's Table 3. */
enum { ZERO_SHOT, COOP, FVGPT_COOP, N_METHOD, ONLY_FDC = N_METHOD, ONLY_PC, FRG_FDC, FDC_PC, N_ROW, MAX_SEEDS = 64 };
static const char *const method_name[N_ROW] = {"zero_shot", "CoOp", "FVGPT_CoOp", "FDC", "PC", "FRG+FDC", "FDC+PC"};

typedef struct tuning {                             /* one run of `tune`                                            */
  const options *o;
  fvg_clip *m;
  fvg_dataset d;
  half_set test[2];                                 /* base, new                                                    */
  int seed[MAX_SEEDS], n_seed, n_method;
  double result[N_ROW][MAX_SEEDS][2];
  double *epoch_loss;                               /* of the stage that is training                                */
  char *curve[N_ROW][MAX_SEEDS];                    /* and, finished, as text: numbers with blanks between          */
  fvg_views_desc augment;
  fvg_views *views;                                 /* shared by seeds and stages, unless every epoch crops anew    */
} tuning;

static fvg_status parse_seeds(tuning *t, fvg_ctx *c, const char *text) {
  const char *all = text;
  char *end;
  do {
    long seed = strtol(text, &end, 10);
    if (end == text || seed < 0 || seed > 2147483647L || (*end && *end != ',') || t->n_seed == MAX_SEEDS)
      return fvg__fail(c, FVG_E_ARG, "--seeds %s: up to %d whole numbers with commas are expected", all, MAX_SEEDS);
    t->seed[t->n_seed++] = (int)seed;
    text = end + 1;
  } while (*end);
  return FVG_OK;
}

static fvg_status parse_augment(tuning *t, fvg_ctx *c, const char *text) {
  char tail;
  if (!strcmp(text, "crop")) t->augment.augment = FVG_AUGMENT_CROP;
  else if (!strcmp(text, "none")) t->augment.augment = FVG_AUGMENT_NONE;
  else if (!strcmp(text, "squash")) t->augment.augment = FVG_AUGMENT_SQUASH;
  else if (sscanf(text, "crop:%d%c", &t->augment.n_crops, &tail) == 1 &&
           t->augment.n_crops >= 1 && t->augment.n_crops <= 10000)
    t->augment.augment = FVG_AUGMENT_FIXED_CROPS;
  else return fvg__fail(c, FVG_E_ARG, "--augment %s: crop, none, squash or crop:K is expected", text);
  t->augment.fill_black = t->o->fill_black;
  return FVG_OK;
}

static fvg_status parse_position(fvg_ctx *c, const char *text, fvg_position *out) {
  static const char *const name[] = {"end", "middle", "front"};
  int i;
  for (i = 0; i < 3; i++)
    if (!strcmp(text, name[i])) { *out = (fvg_position)i; return FVG_OK; }
  return fvg__fail(c, FVG_E_ARG, "--class-token-position %s: end, middle or front is expected", text);
}

/* What determines a stage; two runs with equal settings give equal checkpoints. */
typedef struct settings { fvg_metadata entry[24]; char text[24][40]; int n; } settings;

static void set(settings *x, const char *key, const char *value) {
  x->entry[x->n].key = key;
  x->entry[x->n++].value = value;
}

static void set_number(settings *x, const char *key, double value) {
  snprintf(x->text[x->n], sizeof x->text[0], "%.9g", value);
  set(x, key, x->text[x->n]);
}

/* A short mark of what was tuned on what, wherever the files lie:
   the projections' bytes, and the images' paths and labels. */
static const uint64_t mark_start = 14695981039346656037u;

static uint64_t mark_bytes(uint64_t h, const void *bytes, size_t n) {
  const unsigned char *b = (const unsigned char *)bytes;
  for (; n; n--, b++) h = (h ^ *b) * 1099511628211u;
  return h;
}

static void set_mark(settings *x, const char *key, uint64_t h) {
  snprintf(x->text[x->n], sizeof x->text[0], "%08lx%08lx",
           (unsigned long)(h >> 32), (unsigned long)(h & 0xffffffffu));
  set(x, key, x->text[x->n]);
}

static void set_model(settings *x, const fvg_clip *m) {
  const fvg_tensor *vision = &m->vision.projection, *text = &m->text.projection;
  uint64_t h = mark_bytes(mark_start, vision->data, fvg_tensor_count(vision) * sizeof(float));
  set_mark(x, "model", mark_bytes(h, text->data, fvg_tensor_count(text) * sizeof(float)));
}

static void describe(const tuning *t, int seed, int fvgpt, const fvg_items *items, settings *x) {
  const options *o = t->o;
  uint64_t h = mark_start;
  int i;
  x->n = 0;
  set_model(x, t->m);
  for (i = 0; i < items->n; i++) {
    h = mark_bytes(h, items->item[i].path, strlen(items->item[i].path) + 1);
    h = mark_bytes(h, &items->item[i].label, sizeof items->item[i].label);
  }
  set_mark(x, "images", h);
  set_number(x, "seed", seed);
  set_number(x, "shots", o->shots);
  set_number(x, "epochs", o->epochs);
  set_number(x, "lr", o->lr);
  set_number(x, "batch", o->batch);
  set(x, "augment", o->augment);
  set(x, "ctx_init", o->ctx_init ? o->ctx_init : "");
  if (!fvgpt) return;
  set_number(x, "lambda_base", o->lambda_base);
  set_number(x, "lambda_new", o->lambda_new);
  set(x, "template", template_of(o, NULL));
  set(x, "fill", o->fill_black ? "black" : "mean");
}

/* A finished checkpoint made with the same settings, and its curve, or nothing; other settings are an error, so that
   nothing is lost. */
static fvg_status reuse(tuning *t, const char *path, const settings *x, fvg_coop *like, fvg_coop **p, fvg_fvgpt **f,
                        char **curve) {
  fvg_ctx *c = t->m->ctx;
  fvg_weights *w;
  const char *const *have, *const *want;
  int i, n_have, n_want;
  fvg_status s;
  *p = NULL;
  *f = NULL;
  if (!fvg__file_exists(path)) return FVG_OK;
  s = fvg_checkpoint_load(t->m, path, p, f, &w);
  if (s) return s;
  for (i = 0; !s && i < x->n; i++) {
    const char *value = fvg_weights_metadata(w, x->entry[i].key);
    if (!value || strcmp(value, x->entry[i].value))
      s = fvg__fail(c, FVG_E_ARG, "%s was tuned with %s %s, not %s; choose another --out or remove it",
                    path, x->entry[i].key, value ? value : "unset", x->entry[i].value);
  }
  have = fvg_coop_class_names(*p, &n_have);
  want = fvg_coop_class_names(like, &n_want);
  for (i = 0; !s && i < n_want; i++)
    if (n_have != n_want || strcmp(have[i], want[i]))
      s = fvg__fail(c, FVG_E_ARG, "%s was tuned on other classes; choose another --out or remove it", path);
  if (!s && ((*p)->desc.n_ctx != like->desc.n_ctx || (*p)->desc.class_specific != like->desc.class_specific ||
             (*p)->desc.class_token_position != like->desc.class_token_position))
    s = fvg__fail(c, FVG_E_ARG, "%s was tuned with another shape of context; choose another --out or remove it",
                  path);
  if (!s && fvg_weights_metadata(w, "epoch_loss")) {
    *curve = fvg__copy_string(c, fvg_weights_metadata(w, "epoch_loss"));
    if (!*curve) s = FVG_E_NOMEM;
  }
  fvg_weights_close(w);
  if (s) { fvg_coop_free(*p); fvg_fvgpt_free(*f); *p = NULL; *f = NULL; }
  return s;
}

static fvg_status checkpoint_path(const tuning *t, int method, int seed, char *path, size_t n) {
  char folder[1100];
  snprintf(folder, sizeof folder, "%s/%s/seed%d", t->o->out, method_name[method], seed);
  snprintf(path, n, "%s/checkpoint.safetensors", folder);
  return make_folders(t->m->ctx, folder);
}

/* New crops in every epoch come from the run's seed; everything else is the same for all seeds. */
static fvg_status views_for(tuning *t, int seed, int stage, fvg_views **views) {
  fvg_views_desc desc = t->augment;
  fvg_status s;
  *views = t->views;
  if (t->views) return FVG_OK;
  if (desc.augment == FVG_AUGMENT_CROP) {
    desc.seed = (uint64_t)seed + 1000000u * (uint64_t)stage;
    desc.no_foreground = stage == 1;
    return fvg_views_new(t->m, views, &t->d, &desc);
  }
  desc.no_foreground = t->n_method <= FVGPT_COOP;
  s = fvg_views_new(t->m, &t->views, &t->d, &desc);
  *views = t->views;
  return s;
}

/* The losses of the stage that has just trained become its curve and, behind the settings that count, metadata. */
static fvg_status keep_curve(tuning *t, settings *x, char **curve) {
  document d;
  int i;
  memset(&d, 0, sizeof d);
  d.c = t->m->ctx;
  for (i = 0; i < t->o->epochs; i++) put(&d, i ? " %.6g" : "%.6g", t->epoch_loss[i]);
  *curve = d.text;
  if (!d.status) set(x, "epoch_loss", *curve);
  return d.status;
}

/* Stage 1, or its finished result; *p is fresh on entry. */
static fvg_status stage_1(tuning *t, int run, const fvg_items *items, fvg_coop **p) {
  int seed = t->seed[run];
  settings x;
  char path[1200];
  fvg_train_desc desc;
  fvg_views *views = NULL;
  fvg_coop *done;
  fvg_fvgpt *none;
  fvg_status s;
  describe(t, seed, 0, items, &x);
  s = checkpoint_path(t, COOP, seed, path, sizeof path);
  if (!s) s = reuse(t, path, &x, *p, &done, &none, &t->curve[COOP][run]);
  if (s) return s;
  if (done) {
    fprintf(stderr, "CoOp       seed %d: reusing %s\n", seed, path);
    fvg_fvgpt_free(none);
    fvg_coop_free(*p);
    *p = done;
    return FVG_OK;
  }
  memset(&desc, 0, sizeof desc);
  desc.optimizer.lr = (float)t->o->lr;
  desc.optimizer.epochs = t->o->epochs;
  desc.batch = t->o->batch;
  desc.seed = (uint64_t)seed;
  memset(t->epoch_loss, 0, (size_t)t->o->epochs * sizeof *t->epoch_loss);
  s = views_for(t, seed, 1, &views);
  if (!s) s = fvg_coop_train(*p, views, items, &desc);
  if (!s) s = keep_curve(t, &x, &t->curve[COOP][run]);
  if (!s) s = fvg_checkpoint_save(path, *p, NULL, x.entry, x.n);
  if (views != t->views) fvg_views_free(views);
  return s;
}

/* FVG-PT on the tuned prompts, whole or, as another method, in part. */
static fvg_status stage_2(tuning *t, int method, int run, const fvg_items *items, fvg_coop *p, fvg_fvgpt **f) {
  int seed = t->seed[run];
  settings x;
  char path[1200];
  fvg_train_desc desc;
  fvg_fvgpt_desc modules;
  fvg_views *views = NULL;
  fvg_coop *done;
  fvg_status s;
  describe(t, seed, 1, items, &x);
  s = checkpoint_path(t, method, seed, path, sizeof path);
  if (!s) s = reuse(t, path, &x, p, &done, f, &t->curve[method][run]);
  if (s) return s;
  fvg_coop_free(done);
  if (*f) {
    fprintf(stderr, "%-10s seed %d: reusing %s\n", method_name[method], seed, path);
    return FVG_OK;
  }
  memset(&desc, 0, sizeof desc);
  desc.optimizer.lr = (float)t->o->lr;
  desc.optimizer.epochs = t->o->epochs;
  desc.batch = t->o->batch;
  desc.seed = (uint64_t)seed + 1000000u;             /* not stage 1's order again                                   */
  memset(&modules, 0, sizeof modules);
  modules.width = t->m->embed_dim;
  modules.logit_scale = t->m->logit_scale;
  modules.lambda_base = t->o->lambda_base > 0 ? (float)t->o->lambda_base : -1;
  modules.lambda_new = t->o->lambda_new > 0 ? (float)t->o->lambda_new : -1;
  modules.no_frg = method == ONLY_FDC || method == FDC_PC;
  modules.no_fdc = method == ONLY_PC;
  modules.no_pc = method == ONLY_FDC || method == FRG_FDC;
  modules.seed = (uint64_t)seed;
  memset(t->epoch_loss, 0, (size_t)t->o->epochs * sizeof *t->epoch_loss);
  s = fvg_fvgpt_new(t->m->ctx, f, &modules);
  if (!s) s = views_for(t, seed, 2, &views);
  if (!s) s = fvg_fvgpt_train(*f, p, views, items, template_of(t->o, NULL), &desc);
  if (!s) s = keep_curve(t, &x, &t->curve[method][run]);
  if (!s) s = fvg_checkpoint_save(path, p, *f, x.entry, x.n);
  if (views != t->views) fvg_views_free(views);
  return s;
}

static fvg_status test_method(tuning *t, int method, int run, fvg_coop *p, fvg_fvgpt *f) {
  double *r = t->result[method][run];
  fvg_score score;
  fvg_status s = FVG_OK;
  int half;
  for (half = 0; !s && half < 2; half++) {
    s = test_half(t->m, &t->test[half], branch_of(p, f, t->test[half].half), p, f, template_of(t->o, NULL), &score);
    if (!s) r[half] = score.accuracy;
  }
  if (!s)
    printf("%-11s seed %-3d  base %6.2f  new %6.2f  H %6.2f\n", method_name[method], t->seed[run], r[0], r[1],
           fvg_harmonic_mean(r[0], r[1]));
  fflush(stdout);
  return s;
}

/* Fewer images than shots are used as they are; a class without any cannot be learned. */
static fvg_status check_shots(tuning *t, const fvg_items *base, const char *const *class_name, int n_class,
                              int warn) {
  fvg_ctx *c = t->m->ctx;
  int label, i, fewest = t->o->shots, poorest = 0;
  for (label = 0; label < n_class; label++) {
    int n = 0;
    for (i = 0; i < base->n; i++) n += base->item[i].label == label;
    if (n < fewest) { fewest = n; poorest = label; }
  }
  if (fewest == 0)
    return fvg__fail(c, FVG_E_ARG, "%s: class \"%s\" has no training images", t->d.root, class_name[poorest]);
  if (fewest < t->o->shots && warn)
    fvg__log(c, 0, "%s: class \"%s\" has only %d training images for %d shots; all of them are used",
             t->d.root, class_name[poorest], fewest, t->o->shots);
  return FVG_OK;
}

static fvg_status run_seed(tuning *t, int run) {
  fvg_ctx *c = t->m->ctx;
  int seed = t->seed[run], fewest, first, n_base = fvg_half_classes(t->d.n_class, FVG_BASE, &first);
  fvg_items few, base;
  fvg_coop_desc desc;
  fvg_coop *p = NULL;
  fvg_fvgpt *f = NULL;
  fvg_status s;
  int method;
  memset(&few, 0, sizeof few);
  memset(&base, 0, sizeof base);
  memset(&desc, 0, sizeof desc);
  desc.n_ctx = t->o->n_ctx;
  desc.ctx_init = t->o->ctx_init;
  desc.class_specific = t->o->csc;
  desc.seed = (uint64_t)seed;
  s = parse_position(c, t->o->position, &desc.class_token_position);
  if (!s) s = fvg_items_few_shot(c, &few, &t->d.train, t->d.n_class, t->o->shots, (uint64_t)seed, &fewest);
  if (!s) s = fvg_items_half(c, &base, &few, t->d.n_class, FVG_BASE);
  if (!s) s = check_shots(t, &base, (const char *const *)t->d.class_name + first, n_base, run == 0);
  if (!s) s = fvg_coop_new(t->m, &p, &desc, (const char *const *)t->d.class_name + first, n_base);
  /* before stage 1's work, not after it */
  if (!s && t->n_method > FVGPT_COOP) s = fvg__check_masks(&t->d, &base);
  if (!s) s = test_method(t, ZERO_SHOT, run, NULL, NULL);
  if (!s) s = stage_1(t, run, &base, &p);
  if (!s) s = test_method(t, COOP, run, p, NULL);
  for (method = FVGPT_COOP; !s && method < t->n_method; method++) {
    s = stage_2(t, method, run, &base, p, &f);
    if (!s) s = test_method(t, method, run, p, f);
    fvg_fvgpt_free(f);
    f = NULL;
  }
  fvg_coop_free(p);
  fvg_items_free(c, &base);
  fvg_items_free(c, &few);
  return s;
}

/* Mean and deviation (of the population, as the published result parser) of one column: base, new, H. */
static double mean_of(const tuning *t, int method, int column, double *deviation) {
  double x[MAX_SEEDS], mean = 0, var = 0;
  int i;
  for (i = 0; i < t->n_seed; i++) {
    const double *r = t->result[method][i];
    x[i] = column < 2 ? r[column] : fvg_harmonic_mean(r[0], r[1]);
    mean += x[i] / t->n_seed;
  }
  for (i = 0; i < t->n_seed; i++) var += (x[i] - mean) * (x[i] - mean) / t->n_seed;
  *deviation = sqrt(var);
  return mean;
}

static void put_rows(document *d, const tuning *t) {
  int method, i;
  put(d, " \"rows\": [\n");
  for (i = 0; i < t->n_seed; i++)
    for (method = 0; method < t->n_method; method++) {
      const double *r = t->result[method][i];
      put(d, "  {\"method\": \"%s\", \"seed\": %d, \"base\": %.4f, \"new\": %.4f, \"H\": %.4f}%s\n",
          method_name[method], t->seed[i], r[0], r[1], fvg_harmonic_mean(r[0], r[1]),
          i == t->n_seed - 1 && method == t->n_method - 1 ? "" : ",");
    }
  put(d, " ],\n");
}

/* A curve comes from a checkpoint's text, so nothing but numbers is passed on; none: one of an older version. */
static void put_curves(document *d, const tuning *t) {
  int method, i, k;
  put(d, " \"curves\": [\n");
  for (i = 0; i < t->n_seed; i++)
    for (method = COOP; method < t->n_method; method++) {
      const char *at = t->curve[method][i] ? t->curve[method][i] : "";
      char *end;
      put(d, "  {\"method\": \"%s\", \"seed\": %d, \"loss\": [", method_name[method], t->seed[i]);
      for (k = 0; *at; k++, at = end) {
        double loss = strtod(at, &end);
        if (end == at || !(fabs(loss) < 1e30)) break;
        put(d, k ? ", %.6g" : "%.6g", loss);
      }
      put(d, "]}%s\n", i == t->n_seed - 1 && method == t->n_method - 1 ? "" : ",");
    }
  put(d, " ],\n");
}

static fvg_status write_results(tuning *t) {
  char path[1200];
  double base, new_, base_std, new_std, h_std;
  document d;
  int method, i;
  memset(&d, 0, sizeof d);
  d.c = t->m->ctx;
  put(&d, "{\n \"trainer\": \"%s\",\n \"shots\": %d,\n \"seeds\": [", t->o->trainer, t->o->shots);
  for (i = 0; i < t->n_seed; i++) put(&d, i ? ", %d" : "%d", t->seed[i]);
  put(&d, "],\n");
  put_rows(&d, t);
  put_curves(&d, t);
  put(&d, " \"mean\": [\n");
  printf("\n%-11s %6s %6s %6s %6s %6s   mean of %d seed%s, H of the means\n", "", "base", "+-", "new", "+-", "H",
         t->n_seed, t->n_seed > 1 ? "s" : "");
  for (method = 0; method < t->n_method; method++) {
    base = mean_of(t, method, 0, &base_std);
    new_ = mean_of(t, method, 1, &new_std);
    mean_of(t, method, 2, &h_std);
    put(&d, "  {\"method\": \"%s\", \"base\": %.4f, \"base_std\": %.4f, ", method_name[method], base, base_std);
    put(&d, "\"new\": %.4f, \"new_std\": %.4f, \"H\": %.4f, \"H_std\": %.4f}%s\n", new_, new_std,
        fvg_harmonic_mean(base, new_), h_std, method == t->n_method - 1 ? "" : ",");
    printf("%-11s %6.2f %6.2f %6.2f %6.2f %6.2f\n", method_name[method], base, base_std, new_, new_std,
           fvg_harmonic_mean(base, new_));
  }
  put(&d, " ]\n}\n");
  snprintf(path, sizeof path, "%s/results.json", t->o->out);
  return save_document(&d, path);
}

static fvg_status tune(fvg_ctx *c, const options *o) {
  tuning *t;
  fvg_position position;
  fvg_status s;
  int run, method;
  if (!o->trainer || !o->out || !*o->out)
    return fvg__fail(c, FVG_E_ARG, "tune needs --trainer CoOp|FVGPT_CoOp and --out DIR");
  if (strcmp(o->trainer, "CoOp") && strcmp(o->trainer, "FVGPT_CoOp"))
    return fvg__fail(c, FVG_E_ARG, "--trainer %s: CoOp or FVGPT_CoOp is expected", o->trainer);
  if (strlen(o->out) > 1000) return fvg__fail(c, FVG_E_ARG, "--out: the path is too long");
  if (o->csc)
    return fvg__fail(c, FVG_E_UNSUPPORTED, "--csc: class-specific context cannot name new classes, so it has no "
                                           "base-to-new result; use the library (fvg_coop_desc)");
  t = (tuning *)fvg__alloc(c, sizeof *t);
  if (!t) return FVG_E_NOMEM;
  t->o = o;
  t->n_method = !strcmp(o->trainer, "CoOp") ? FVGPT_COOP : o->ablate ? N_ROW : N_METHOD;
  t->epoch_loss = (double *)fvg__alloc_array(c, (size_t)o->epochs, sizeof *t->epoch_loss);
  ((display *)c->desc.user)->epoch_loss = t->epoch_loss;
  s = t->epoch_loss ? parse_seeds(t, c, o->seeds) : FVG_E_NOMEM;
  if (!s) s = parse_augment(t, c, o->augment);
  if (!s) s = parse_position(c, o->position, &position);
  if (!s) s = open_model(c, o, &t->m);
  if (!s) s = open_data(c, o, &t->d);
  if (!s) s = make_folders(c, o->out);
  if (!s) s = half_new(t->m, &t->test[0], &t->d, FVG_BASE);
  if (!s) s = half_new(t->m, &t->test[1], &t->d, FVG_NEW);
  for (run = 0; !s && run < t->n_seed; run++) s = run_seed(t, run);
  if (!s) s = write_results(t);
  fvg_views_free(t->views);
  half_free(c, &t->test[1]);
  half_free(c, &t->test[0]);
  fvg_dataset_free(&t->d);
  fvg_clip_free(t->m);
  for (method = 0; method < N_ROW; method++)
    for (run = 0; run < t->n_seed; run++) fvg__release(c, t->curve[method][run]);
  ((display *)c->desc.user)->epoch_loss = NULL;
  fvg__release(c, t->epoch_loss);
  fvg__release(c, t);
  return s;
}

#include "report.h"
#include "report_page.h"

int main(int argc, char **argv) {
  static const struct { const char *name; fvg_status (*run)(fvg_ctx *c, const options *o); } command[] = {
    {"info", info}, {"tokenize", tokenize}, {"preprocess", preprocess}, {"encode", encode}, {"classify", classify},
    {"attend", attend}, {"tune", tune}, {"eval", eval}, {"report", report}
  };
  display d;
  fvg_desc desc;
  fvg_ctx *c;
  fvg_status s = FVG_E_ARG;
  options o;
  size_t i;
  if (!parse_options(&o, argc, argv)) { free((void *)o.image); return 1; }
  if (!strcmp(o.command, "help") || !strcmp(o.command, "--help")) {
    fputs(manual, stdout);
    free((void *)o.image);
    return 0;
  }
  memset(&desc, 0, sizeof desc);
  memset(&d, 0, sizeof d);
  d.terminal = isatty(2);
  desc.user = &d;
  desc.progress = show_progress;
  desc.log = show_log;
  desc.n_threads = o.threads ? o.threads : (int)sysconf(_SC_NPROCESSORS_ONLN);
  for (i = 0; o.simd && fvg_simd_name((int)i) && strcmp(o.simd, fvg_simd_name((int)i)); i++) {}
  if (!fvg_simd_name((int)i)) {
    fprintf(stderr, "fvgpt: --simd %s: scalar, sse2, avx2, avx512, neon, wasm or best is expected\n", o.simd);
    free((void *)o.image);
    return 1;
  }
  desc.simd = (int)i;
  signal(SIGINT, on_interrupt);
  if (fvg_init(&c, &desc)) { free((void *)o.image); return fail("out of memory"); }
  if (desc.simd && fvg_simd_level(c) != desc.simd) {
    fprintf(stderr, "fvgpt: --simd %s: not on this CPU or in this build, which have %s\n", o.simd,
            fvg_simd_name(fvg_simd_level(c)));
    fvg_free(c);
    free((void *)o.image);
    return 1;
  }
  for (i = 0; i < sizeof command / sizeof *command && strcmp(o.command, command[i].name); i++) {}
  if (i < sizeof command / sizeof *command) s = command[i].run(c, &o);
  else fvg__fail(c, s, "unknown command %s (`fvgpt help` lists them)", o.command);
  if (s) show_log(&d, 0, fvg_error(c));
  fvg_free(c);
  free((void *)o.image);
  return s != FVG_OK;
}
