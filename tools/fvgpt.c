/* fvgpt - CLIP and prompt tuning from the command line.
   `fvgpt` alone prints the manual; the work is in the headers. */
#define _POSIX_C_SOURCE 200809L                     /* what system.h asks of the operating system                   */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"

#include "system.h"

/* A classifier of these names; l, f and prompt_template may be NULL. */
static fvg_status classifier_of(fvg_clip *m, fvg_classifier **out, fvg_branch branch, fvg_learner *l, fvg_fvgpt *f,
                                const char *prompt_template, const char *const *name, int n) {
  fvg_classifier_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.branch = branch;
  desc.learner = l;
  desc.fvgpt = f;
  desc.prompt_template = prompt_template;
  return fvg_classifier_new(m, out, name, n, &desc);
}

/* ---- printing ---- */
/* What holds names goes to stdout and stderr through here: names come out of files and may hold what a terminal obeys
   (fvg_printable).  Line ends at the beginning and at the end of the text are meant. */
FVG__PRINTF(2, 3)
static void print(FILE *to, const char *format, ...) {
  char brief[1000], *text = brief, *first, *end;
  va_list list;
  int n;
  va_start(list, format);
  n = vsnprintf(brief, sizeof brief, format, list);
  va_end(list);
  if (n >= (int)sizeof brief && (text = (char *)malloc((size_t)n + 1)) != NULL) {
    va_start(list, format);
    vsnprintf(text, (size_t)n + 1, format, list);
    va_end(list);
  }
  if (!text) text = brief;                          /* no memory: its beginning                                     */

  for (first = text; *first == '\n'; first++) fputc('\n', to);
  for (end = first + strlen(first); end > first && end[-1] == '\n'; end--) {}
  n = (int)strlen(end);
  *end = 0;
  fvg_printable(first);
  fputs(first, to);
  while (n--) fputc('\n', to);
  if (text != brief) free(text);
}

/* In two parts, for a string of more than 4095 letters is too long for C99. */
static const char *const manual[] = {
  "fvgpt info       --model DIR\n"
  "fvgpt tokenize   --model DIR                       a line of text in, its token ids out\n"
  "fvgpt preprocess --size N|--model DIR [--crop TOP,LEFT,HEIGHT,WIDTH [--flip]] [--nearest] IN OUT\n"
  "                 FILE below may also be a folder: all its pictures.  A bad file is named, and the others go on\n"
  "fvgpt encode     --model DIR [--pixels F.safetensors] [--image FILE...] [--text STR]... --out F.safetensors\n"
  "                 --pixels reads images [N,3,H,W]; writes image_features and text_features, not normalised, and\n"
  "                 what their rows are of into the metadata image_files and texts, as JSON lists\n"
  "fvgpt classify   --model DIR [--checkpoint DIR] --classes A,B,C [--template STR] [--top 5] FILE...\n"
  "                 a comma inside a name is written \\,; with a checkpoint --classes may be left out: its own names\n"
  "fvgpt attend     --model DIR [--checkpoint DIR] --text STR --out DIR FILE...\n"
  "                 writes DIR/NAME_gradcam.png, what speaks for the text (with a checkpoint: for that class), and\n"
  "                 DIR/NAME_attention.png, what the class token attends to; prints file, score, first picture\n"
  "fvgpt tune       --model DIR --data ROOT [--data ROOT2]... --trainer NAME,... --out DIR\n"
  "                 NAME: CoOp KgCoOp ProGrad CoCoOp PromptSRC MaPLe DAPT MMRL, or FVGPT_ or DPC_ before one\n"
  "                 [--split F] [--shots 16] [--seeds 1,2,3] [--augment crop|none|squash|crop:K]\n"
  "                 [--preset fork|original] published settings of each method, for the protocol and the data set:\n"
  "                 those of FVG-PT's fork (default: the paper's tables come from it) or of the method's own code;\n"
  "                 where a source says nothing, the fork's for base to new.  FVG-PT and DPC have one of their own\n"
  "                 [--epochs N] [--lr X] [--batch N] [--set NAME=VALUE]... go before the preset's\n"
  "                 [--n-ctx 4] [--ctx-init WORDS] [--class-token-position end|middle|front]\n"
  "                 WORDS: CoOp, KgCoOp, CoCoOp learn a vector for each word; MaPLe, DAPT, PromptSRC the first\n"
  "                 n-ctx tokens; ProGrad n-ctx vectors, the words last; tokens that are left stay fixed words\n"
  "                 [--lambda-base 10] [--lambda-new 1] [--template \"a photo of a {}.\"] [--fill-black]\n"
  "                 [--calibration published|crossfit|guarded] [--entropy raw|normalised] [--ablate]\n"
  "                 [--dpc-weight 0.5] [--dpc-weight-for-new 0] [--dpc-top-k 8]\n"
  "                 [--dataset-root DATA --dataset NAME,...] instead of --data: the published folders\n"
  "                 [--few-shot] all classes, every number of --shots 1,2,4,8,16\n"
  "                 [--transfer-to ROOT,...] all classes, then tested on those of other data sets\n"
  "                 --ablate adds rows for FVG-PT without some of its modules (FRG, FDC, PC).  A list that was cut\n"
  "                 off goes on where it stopped when the same command is given again\n",
  "fvgpt eval       --model DIR --data ROOT --checkpoint DIR --split-half base|new|all [--split F] [--template STR]\n"
  "                 with --trainer NAME, --checkpoint is a published trainer's file (model.pth.tar-N), and --set,\n"
  "                 --preset, --few-shot, --n-ctx, --ctx-init, --class-token-position say how it was trained\n"
  "fvgpt report     --model DIR --data ROOT --runs RUNS [--data ROOT2 --runs RUNS2]... --out DIR\n"
  "                 [--pictures 6] [--split F]\n"
  "                 RUNS is the --out of a finished tune --trainer FVGPT_CoOp on ROOT; writes DIR/index.html with\n"
  "                 tables, curves and attention maps, and DIR/results.json, every number on it\n"
  "data sets        --skip-bad goes on without pictures that cannot be read (all are decoded before the start)\n"
  "                 --val PERCENT of class folders that are cut into train, val and test (20; 0: train gets them)\n"
  "                 --masks auto|grey|inverted|labels|trimap|alpha says what in a mask is foreground\n"
  "pictures         PNM; PNG, JPEG, BMP and GIF (the first picture) where stb_image was there to build with\n"
  "                 --exif-rotate  turns pictures upright as their cameras tell; without it they are taken as stored,\n"
  "                 as CLIP's own preprocessing does\n"
  "fvgpt help       [COMMAND]                         this text, or its part on one command\n"
  "common           --threads N (default: all cores)   --simd scalar|sse2|avx2|avx512   --merges FILE\n"
  "                 --NAME=VALUE is --NAME VALUE; behind -- all arguments are files.  Exit status: 0; 1 after an error,\n"
  "                 which is one line on stderr; 130 after Ctrl-C, 143 after SIGTERM\n"
};
enum { MANUAL_PARTS = sizeof manual / sizeof *manual };

/* The manual's lines on a command, and those on all of them; 0: there is none of that name. */
static int print_manual(const char *command) {
  const char *line, *next;
  int ours = 0, found = 0, part;
  for (part = 0; part < MANUAL_PARTS; part++)
    for (line = manual[part]; *line; line = next) {
      next = strchr(line, '\n') + 1;
      if (*line != ' ') {           /* the first line of a command; those that go on are indented */
        const size_t n = strlen(command);
        ours = !strncmp(line, "fvgpt ", 6) && !strncmp(line + 6, command, n) && line[6 + n] == ' ';
        found |= ours;
        if (found && (!strncmp(line, "common", 6) || !strncmp(line, "data sets", 9) || !strncmp(line, "pictures", 8))) ours = 1;
      }
      if (ours) print(stdout, "%.*s", (int)(next - line), line);
    }
  return found;
}

/* Letters to put in, leave out, change, or swap with the next, to make a word of n letters another of m (restricted
   Damerau-Levenshtein distance); words are cut at WORD letters. */
enum { WORD = 40 };
static int distance(const char *a, int n, const char *b, int m) {
  int d[WORD + 1][WORD + 1], i, j;
  if (n > WORD) n = WORD;
  if (m > WORD) m = WORD;
  for (i = 0; i <= n; i++) d[i][0] = i;
  for (j = 0; j <= m; j++) d[0][j] = j;
  for (i = 1; i <= n; i++)
    for (j = 1; j <= m; j++) {
      int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
      if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
      if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best)
        best = d[i - 2][j - 2] + 1;
      d[i][j] = best;
    }
  return d[n][m];
}

/* "; did you mean tune?" with the nearest to `word` of the manual's commands, or of its options if word begins as one;
   "" when none is near. */
static const char *hint(const char *word, char text[WORD + 20]) {
  const char *start = *word == '-' ? "--" : "fvgpt ", *at;
  int n = (int)strlen(word), best = n < 4 ? 2 : 3, part;
  text[0] = 0;
  for (part = 0; part < MANUAL_PARTS; part++)
    for (at = strstr(manual[part], start); at; at = strstr(at + 1, start)) {
      const char *name = *word == '-' ? at : at + strlen(start);
      int m = (int)strspn(name, "-abcdefghijklmnopqrstuvwxyz"), far = distance(word, n, name, m);
      if (m < 3 || m > WORD || far >= best) continue;
      best = far;
      snprintf(text, WORD + 20, "; did you mean %.*s?", m, name);
    }
  return text;
}

/* ---- options ---- */
enum { MAX_SET = 32 };                              /* times that --set is taken                                */
enum { MAX_OPTIONS = MAX_SET + FVG_RECIPE_OPTIONS }; /* of a learner: --set's and its preset's */
static const char *const preset_name[] = {"fork", "original"};     /* fvg_preset */

typedef struct options {
  const char *command, *model, *merges, *data, *split, *trainer, *out, *checkpoint, *half, *classes, *pixels, *crop;
  const char *augment, *seeds, *ctx_init, *position, *prompt_template, *simd, *dataset_root, *dataset, *transfer_to;
  const char **image, **text, **rest, **all_data, **runs, **set, **all_dataset;
  char **argv;
  char *dataset_names;                              /* all_dataset points into it                               */
  int argc, n_image, n_text, n_rest, n_data, n_runs, n_set, n_dataset, n_shots, all_shots[16], pictures;
  int size, flip, nearest, epochs, batch, threads, n_ctx, csc, fill_black, ablate, few_shot, normalised;
  int calibration, dpc_top_k, preset;
  int skip_bad, val, masks, top, exif_rotate;                    /* val: -1 when not given */
  double lr, lambda_base, lambda_new, dpc_weight, dpc_weight_for_new;
} options;

static int fail(const char *message) {
  print(stderr, "fvgpt: %s\n", message);
  return 1;
}

/* A number in full, within bounds; 0 and a message otherwise. */
static int number(const char *name, const char *text, double low, double high, double *out) {
  char *end;
  double x = strtod(text, &end);
  if (*text && !*end && x >= low && x <= high) { *out = x; return 1; }
  print(stderr, "fvgpt: %s %s: a number from %g to %g is expected\n", name, text, low, high);
  return 0;
}

static int whole(const char *name, const char *text, int low, int high, int *out) {
  double x;
  if (!number(name, text, low, high, &x)) return 0;
  *out = (int)x;
  if (*out == x) return 1;
  print(stderr, "fvgpt: %s %s: a whole number is expected\n", name, text);
  return 0;
}

/* *out is the number of the word among those with blanks between. */
static int one_of(const char *name, const char *value, const char *words, int *out) {
  const char *at;
  size_t n = strlen(value);
  *out = 0;
  for (at = words; *at; at += *at == ' ', ++*out) {
    size_t length = strcspn(at, " ");
    if (length == n && !strncmp(at, value, n)) return 1;
    at += length;
  }
  print(stderr, "fvgpt: %s %s: one of %s is expected\n", name, value, words);
  return 0;
}

static int take_shots(options *o, const char *text) {
  char *end;
  o->n_shots = 0;
  do {
    long n = strtol(text, &end, 10);
    if (end == text || n < 1 || n > 100000 || (*end && *end != ',') || o->n_shots == 16) {
      print(stderr, "fvgpt: --shots %s: up to 16 whole numbers from 1 to 100000 with commas are expected\n", text);
      return 0;
    }
    o->all_shots[o->n_shots++] = (int)n;
    text = end + 1;
  } while (*end);
  return 1;
}

/* NAME=VALUE; which names there are is the methods' affair. */
static int take_set(options *o, const char *text) {
  const char *equals = strchr(text, '=');
  char *end;
  if (equals && o->n_set < MAX_SET) {
    strtod(equals + 1, &end);
    if (end > equals + 1 && !*end) { o->set[o->n_set++] = text; return 1; }
  }
  print(stderr, "fvgpt: --set %s: NAME=VALUE with a number is expected, at most %d times\n", text, MAX_SET);
  return 0;
}

/* 1 when name took the value, 0 after a message, -1 when no option has that name. */
static int take(options *o, const char *name, const char *value) {
  const struct { const char *name; const char **to; } strings[] = {
    {"--model", &o->model}, {"--merges", &o->merges}, {"--data", &o->data}, {"--split", &o->split},
    {"--trainer", &o->trainer}, {"--out", &o->out}, {"--checkpoint", &o->checkpoint}, {"--split-half", &o->half},
    {"--classes", &o->classes}, {"--pixels", &o->pixels}, {"--crop", &o->crop}, {"--augment", &o->augment},
    {"--seeds", &o->seeds}, {"--ctx-init", &o->ctx_init}, {"--class-token-position", &o->position},
    {"--template", &o->prompt_template}, {"--simd", &o->simd}, {"--dataset-root", &o->dataset_root},
    {"--dataset", &o->dataset}, {"--transfer-to", &o->transfer_to}
  };
  size_t i;
  if (!strcmp(name, "--data")) o->all_data[o->n_data++] = value;
  for (i = 0; i < sizeof strings / sizeof *strings; i++)
    if (!strcmp(name, strings[i].name)) { *strings[i].to = value; return 1; }
  if (!strcmp(name, "--image")) { o->image[o->n_image++] = value; return 1; }
  if (!strcmp(name, "--text")) { o->text[o->n_text++] = value; return 1; }
  if (!strcmp(name, "--runs")) { o->runs[o->n_runs++] = value; return 1; }
  if (!strcmp(name, "--pictures")) return whole(name, value, 1, 100, &o->pictures);
  if (!strcmp(name, "--top")) return whole(name, value, 1, 100000, &o->top);
  if (!strcmp(name, "--val")) return whole(name, value, 0, 60, &o->val);
  if (!strcmp(name, "--masks"))
    return one_of(name, value, "auto grey inverted labels trimap alpha", &o->masks);
  if (!strcmp(name, "--size")) return whole(name, value, 1, 4096, &o->size);
  if (!strcmp(name, "--set")) return take_set(o, value);
  if (!strcmp(name, "--shots")) return take_shots(o, value);
  if (!strcmp(name, "--calibration")) return one_of(name, value, "published crossfit guarded", &o->calibration);
  if (!strcmp(name, "--preset")) return one_of(name, value, "fork original", &o->preset);
  if (!strcmp(name, "--entropy")) return one_of(name, value, "raw normalised", &o->normalised);
  if (!strcmp(name, "--epochs")) return whole(name, value, 1, 65536, &o->epochs);
  if (!strcmp(name, "--batch")) return whole(name, value, 1, 100000, &o->batch);
  if (!strcmp(name, "--threads")) return whole(name, value, 1, 256, &o->threads);
  if (!strcmp(name, "--n-ctx")) return whole(name, value, 1, 74, &o->n_ctx);
  if (!strcmp(name, "--lr")) return number(name, value, 1e-9, 1e3, &o->lr);
  if (!strcmp(name, "--lambda-base")) return number(name, value, 0, 1e6, &o->lambda_base);
  if (!strcmp(name, "--lambda-new")) return number(name, value, 0, 1e6, &o->lambda_new);
  if (!strcmp(name, "--dpc-weight")) return number(name, value, 1e-3, 1, &o->dpc_weight);
  if (!strcmp(name, "--dpc-weight-for-new")) return number(name, value, 0, 1, &o->dpc_weight_for_new);
  if (!strcmp(name, "--dpc-top-k")) return whole(name, value, 1, 10000, &o->dpc_top_k);
  return -1;
}

/* Only these take arguments that are not options; elsewhere one is a mistake, such as a forgotten quote. */
static int check_rest(const options *o) {
  static const char *const taker[] = {"preprocess", "classify", "attend", "help"};
  size_t i;
  for (i = 0; i < sizeof taker / sizeof *taker; i++) if (!strcmp(o->command, taker[i])) return 1;
  if (!o->n_rest) return 1;
  print(stderr, "fvgpt: %s: \"%s\" belongs to no option (one value each; quote values with blanks)\n",
          o->command, o->rest[0]);
  return 0;
}

/* --dataset's names one by one. */
static int cut_datasets(options *o) {
  char *at;
  if (!o->dataset) return 1;
  o->dataset_names = (char *)malloc(strlen(o->dataset) + 1);
  o->all_dataset = (const char **)calloc(strlen(o->dataset) + 1, sizeof *o->all_dataset);
  if (!o->dataset_names || !o->all_dataset) return 0;
  strcpy(o->dataset_names, o->dataset);
  for (at = o->dataset_names; at; ) {
    char *comma = strchr(at, ',');
    if (comma) *comma = 0;
    if (*at) o->all_dataset[o->n_dataset++] = at;
    at = comma ? comma + 1 : NULL;
  }
  return 1;
}

static void options_free(options *o) {
  free((void *)o->image);
  free((void *)o->all_dataset);
  free(o->dataset_names);
}

/* The option that argument *i names and its value, behind = or in the next argument; *i is then the last of the two.
   As take. */
static int take_next(options *o, int *i) {
  char name[WORD + 1];
  const char *argument = o->argv[*i], *equals = strchr(argument, '=');
  int taken;
  if (equals && equals - argument <= WORD) {
    snprintf(name, sizeof name, "%.*s", (int)(equals - argument), argument);
    return take(o, name, equals + 1);
  }
  if (*i + 1 == o->argc) {
    print(stderr, "fvgpt: %s needs a value\n", argument);
    return 0;
  }
  taken = take(o, argument, o->argv[*i + 1]);
  if (taken > 0) ++*i;
  return taken;
}

/* An argument that belongs to no option: of encode a picture, as in --image *.jpg. */
static void take_plain(options *o, const char *argument, int after_text) {
  if (!strcmp(o->command, "encode") && !after_text) o->image[o->n_image++] = argument;
  else o->rest[o->n_rest++] = argument;
}

static int parse_options(options *o, int argc, char **argv) {
  char advice[WORD + 20];
  int i, taken, after_text = 0;
  memset(o, 0, sizeof *o);
  o->image = (const char **)calloc((size_t)argc * 6, sizeof *o->image);
  if (!o->image) return 0;
  o->text = o->image + argc;
  o->rest = o->text + argc;
  o->all_data = o->rest + argc;
  o->runs = o->all_data + argc;
  o->set = o->runs + argc;
  o->argc = argc;
  o->argv = argv;
  o->pictures = 6;
  o->top = 5;
  o->val = -1;
  o->n_shots = 1;
  o->all_shots[0] = 16;
  o->seeds = "1,2,3";
  o->lambda_base = 10;
  o->lambda_new = 1;
  o->dpc_weight = 0.5;
  o->dpc_top_k = 8;
  o->augment = "crop";
  o->position = "end";
  o->command = argc > 1 ? argv[1] : "help";
  if (!strcmp(o->command, "-h") || !strcmp(o->command, "--help")) o->command = "help";
  for (i = 2; i < argc; i++) {
    if (!strcmp(argv[i], "-h") || !strcmp(argv[i], "--help")) {
      o->rest[0] = o->command;
      o->n_rest = 1;
      o->command = "help";
      return 1;
    }
    if (!strcmp(argv[i], "--")) {
      while (++i < argc) take_plain(o, argv[i], 0);
      break;
    }
    if (argv[i][0] != '-' || argv[i][1] != '-') { take_plain(o, argv[i], after_text); continue; }
    after_text = !strcmp(argv[i], "--text");       /* what follows its value is a forgotten quote */
    if (!strcmp(argv[i], "--flip")) { o->flip = 1; continue; }
    if (!strcmp(argv[i], "--nearest")) { o->nearest = 1; continue; }
    if (!strcmp(argv[i], "--exif-rotate")) { o->exif_rotate = 1; continue; }
    if (!strcmp(argv[i], "--csc")) { o->csc = 1; continue; }
    if (!strcmp(argv[i], "--fill-black")) { o->fill_black = 1; continue; }
    if (!strcmp(argv[i], "--ablate")) { o->ablate = 1; continue; }
    if (!strcmp(argv[i], "--few-shot")) { o->few_shot = 1; continue; }
    if (!strcmp(argv[i], "--skip-bad")) { o->skip_bad = 1; continue; }
    taken = take_next(o, &i);
    if (taken < 0)
      print(stderr, "fvgpt: unknown option %s%s (`fvgpt help` lists them)\n", argv[i], hint(argv[i], advice));
    if (taken <= 0) return 0;
  }
  return check_rest(o) && cut_datasets(o);
}

/* ---- progress: one line that is rewritten on a terminal, a line every ten percent elsewhere ---- */
typedef struct display {
  double start;
  long first, last, last_tenth;
  int terminal, open_line;
  const char *what;
} display;

static int show_progress(void *user, const fvg_progress *p) {
  display *d = (display *)user;
  double rate, spent;
  long tenth = p->n_steps ? p->step * 10 / p->n_steps : 10;
  if (p->what != d->what || p->step <= d->last) {                                  /* another piece of work begins */
    d->what = p->what;
    d->start = now();
    d->first = p->step;
    d->last_tenth = 0;
  }
  d->last = p->step;
  spent = now() - d->start;
  rate = spent > 0 ? (double)(p->step - d->first) / spent : 0;
  if (d->terminal ? p->step % 20 && p->step != p->n_steps : tenth == d->last_tenth) return 0;
  d->last_tenth = tenth;
  fprintf(stderr, d->terminal ? "\r\033[K" : "");
  fprintf(stderr, "%-10s %ld/%ld", p->what, p->step, p->n_steps);
  if (p->n_epochs) fprintf(stderr, "  epoch %d/%d  loss %.4f  lr %.2g", p->epoch + 1, p->n_epochs, p->loss, p->lr);
  if (rate > 0) fprintf(stderr, "  %.0f/s  %.0f s left", rate, (double)(p->n_steps - p->step) / rate);
  d->open_line = d->terminal && p->step != p->n_steps;
  if (!d->open_line) fputc('\n', stderr);
  return 0;
}

static void show_log(void *user, int level, const char *message) {
  display *d = (display *)user;
  print(stderr, "%sfvgpt: %s%s\n", d->open_line ? "\n" : "", level ? "note: " : "", message);
  d->open_line = 0;
}

/* ---- what most commands begin with ---- */
static fvg_status open_model(fvg_ctx *c, const options *o, fvg_clip **m) {
  *m = NULL;
  if (!o->model) return fvg_fail(c, FVG_E_ARG, "%s needs --model DIR", o->command);
  return fvg_clip_open(c, m, o->model, o->merges, FVG_F32);
}

/* ---- what can be known before the work begins ---- */
/* Checks go on after one has failed: its message is shown when the next one fails, and the last
   remains the error. */
typedef struct findings { fvg_status status; char message[512]; } findings;

/* FVG_OK, or what no further check makes sense after. */
static fvg_status found(fvg_ctx *c, findings *f, fvg_status s) {
  if (!s || s == FVG_E_NOMEM || s == FVG_E_CANCELLED) return s;
  if (f->status) fvg_log(c, 0, "%s", f->message);
  snprintf(f->message, sizeof f->message, "%s", fvg_error(c));
  f->status = s;
  return FVG_OK;
}

static fvg_status end_findings(fvg_ctx *c, const findings *f) {
  return f->status ? fvg_fail(c, f->status, "%s", f->message) : FVG_OK;
}

/* Can this folder be written to, or made?  Nothing is made: the deepest part that exists
   decides. */
static fvg_status check_out_folder(fvg_ctx *c, const char *path) {
  char part[1300];
  size_t n;
  snprintf(part, sizeof part, "%s", path);
  n = strlen(part);
  while (n && fvg__kind_of(part) == FVG__ABSENT) {
    while (n && !is_slash(part[n - 1])) n--;
    while (n > 1 && is_slash(part[n - 1])) n--;
    part[n] = 0;
  }
  if (!n) snprintf(part, sizeof part, ".");
  if (!is_folder(part))
    return fvg_fail(c, FVG_E_IO, "%s: cannot make this folder: %s is a file", path, part);
  if (!can_write(part))
    return fvg_fail(c, FVG_E_IO, "%s: cannot write here: %s", part, strerror(errno));
  return FVG_OK;
}

/* ---- a text that grows; running out of memory is remembered until the end ---- */
typedef struct document { fvg_ctx *c; char *text; size_t n, size; fvg_status status; } document;

static char *room_for(document *t, size_t n) {
  if (!t->status && t->n + n + 1 > t->size) {
    size_t size = 2 * (t->n + n) + 4096;
    char *more = (char *)fvg_alloc(t->c, size);
    if (more && t->n) memcpy(more, t->text, t->n);
    if (more) {
      fvg_release(t->c, t->text);
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

/* A text out of a file, inside quotes of JSON or in HTML.  What is not UTF-8 becomes a question mark; control
   characters (fvg_is_control) are written as escapes, or in HTML, which has none for them, as U+FFFD. */
static void put_escaped(document *t, const char *text, int html) {
  const unsigned char *at = (const unsigned char *)text;
  size_t left = strlen(text);
  while (left) {
    size_t n = fvg_utf8_length(at, left);
    uint32_t ch = n ? fvg_utf8_read(at, n) : '?';
    if (html && ch == '<') put(t, "&lt;");
    else if (html && ch == '>') put(t, "&gt;");
    else if (html && ch == '&') put(t, "&amp;");
    else if (html && ch == '"') put(t, "&quot;");
    else if (html && fvg_is_control(ch)) put(t, ch == '\n' || ch == '\t' ? " " : "&#xFFFD;");
    else if (fvg_is_control(ch)) put(t, "\\u%04x", (unsigned)ch);
    else if (!html && (ch == '"' || ch == '\\')) put(t, "\\%c", (int)ch);
    else put(t, "%.*s", n ? (int)n : 1, n ? (const char *)at : "?");
    n = n ? n : 1;
    at += n;
    left -= n;
  }
}

static fvg_status save_document(document *t, const char *path) {
  fvg_status s = t->status ? t->status : fvg_file_save(t->c, path, t->text, t->n);
  fvg_release(t->c, t->text);
  memset(t, 0, sizeof *t);
  return s;
}

/* A string as JSON has it; bytes that are no UTF-8, which file names may hold, become U+FFFD. */
static void put_json_string(document *t, const char *text) {
  const unsigned char *p = (const unsigned char *)text;
  put(t, "\"");
  while (*p) {
    size_t n = fvg_utf8_length(p, strlen((const char *)p));
    if (!n) put(t, "\\ufffd");
    else if (*p < 32 || *p == '"' || *p == '\\') put(t, "\\u%04x", *p);
    else put(t, "%.*s", (int)n, (const char *)p);
    p += n ? n : 1;
  }
  put(t, "\"");
}

/* ---- pictures that the arguments name ---- */
/* Files, and in place of folders their pictures; the strings are owned.  n_bad: folders and
   files that gave nothing. */
typedef struct picture_list { char **file; int n, size, n_empty, n_bad, exif_rotate; } picture_list;

static void pictures_free(fvg_ctx *c, picture_list *x) {
  int i;
  for (i = 0; i < x->n; i++) fvg_release(c, x->file[i]);
  fvg_release(c, x->file);
  memset(x, 0, sizeof *x);
}

static fvg_status add_picture(fvg_ctx *c, picture_list *x, const char *folder, const char *name) {
  if (x->n == x->size) {
    int size = 2 * x->size + 64;
    char **more = (char **)fvg_alloc_array(c, (size_t)size, sizeof *more);
    if (!more) return FVG_E_NOMEM;
    if (x->n) memcpy(more, x->file, (size_t)x->n * sizeof *more);
    fvg_release(c, x->file);
    x->file = more;
    x->size = size;
  }
  x->file[x->n] = *folder ? fvg_path_join(c, folder, name) : fvg_copy_string(c, name);
  if (!x->file[x->n]) return FVG_E_NOMEM;
  x->n++;
  return FVG_OK;
}

/* The pictures of a folder, sorted; none is an error, for somebody expects some. */
static fvg_status add_folder(fvg_ctx *c, picture_list *x, const char *folder) {
  fvg_dataset_desc desc;
  fvg__left_out left_out;
  fvg__names names;
  fvg_status s;
  int i;
  memset(&desc, 0, sizeof desc);
  memset(&left_out, 0, sizeof left_out);
#ifdef FVGPT_DIRENT
  desc.list = fvg_list_folder;
#endif
  s = fvg__list(c, &names, &desc, folder, fvg__keep_image, &left_out);
  if (s) return s;
  fvg__tell_left_out(c, &left_out, folder);
  if (!names.n) s = fvg_fail(c, FVG_E_IO, "%s: no pictures in this folder", folder);
  for (i = 0; !s && i < names.n; i++) s = add_picture(c, x, folder, names.name[i]);
  fvg__names_free(c, &names);
  return s;
}

/* One of the pictures, or a folder, had the status s.  Its own fault is told and counted, and
   the others go on; what is not its own, or that of the only one, ends the command. */
static fvg_status go_on(fvg_ctx *c, fvg_status s, picture_list *x, int alone) {
  const int its_own = s == FVG_E_IO || s == FVG_E_FORMAT || s == FVG_E_UNSUPPORTED;
  if (!its_own || alone) return s;
  fvg_log(c, 0, "%s", fvg_error(c));
  x->n_bad++;
  return FVG_OK;
}

static fvg_status gather_pictures(fvg_ctx *c, const options *o, const char *const *argument, int n,
                                  picture_list *x) {
  fvg_status s = FVG_OK;
  int i;
  memset(x, 0, sizeof *x);
  x->exif_rotate = o->exif_rotate;
  for (i = 0; !s && i < n; i++) {
    if (is_folder(argument[i])) s = go_on(c, add_folder(c, x, argument[i]), x, n == 1);
    else s = add_picture(c, x, "", argument[i]);
  }
  x->n_empty = x->n_bad;
  return s;
}

static fvg_status end_with_bad(fvg_ctx *c, const picture_list *x) {
  if (!x->n_bad) return FVG_OK;
  return fvg_fail(c, FVG_E_IO, "%d of %d pictures could not be read, as said above", x->n_bad,
                  x->n + x->n_empty);
}

static int is_alone(const picture_list *x) { return x->n + x->n_empty == 1; }

/* ---- info ---- */
static void print_tower(const char *name, const fvg_transformer *t, int width) {
  printf("%-7s width %d, %d layers, %d heads, %s", name, width, t->n_layer, t->n_head,
         t->activation == FVG_GELU ? "gelu" : "quick_gelu");
}

static void print_preprocess(const fvg_preprocess *p) {
  static const char *const filter[] = {"bicubic", "nearest", "bilinear"};
  printf("pixels  %s to %d, %s", p->resize_mode == FVG_RESIZE_SQUASH ? "both sides" : "shorter side", p->resize,
         filter[p->filter]);
  if (p->resize > p->size || p->resize_mode == FVG_RESIZE_SHORTEST) printf(", centre %d x %d", p->size, p->size);
  printf("; mean %.4g %.4g %.4g, deviation %.4g %.4g %.4g\n", (double)p->mean[0], (double)p->mean[1],
         (double)p->mean[2], (double)p->std[0], (double)p->std[1], (double)p->std[2]);
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
  if (m->has_vision) print_preprocess(&m->preprocess);
  printf("joint   width %d, exp(logit_scale) %.4g\n", m->embed_dim, (double)m->logit_scale);
  printf("total   %lu parameters; kernels: %s\n", (unsigned long)fvg_clip_parameter_count(m),
         fvg_simd_name(fvg_simd_level(c)));
  fvg_clip_free(m);
  return FVG_OK;
}

/* ---- tokenize ---- */
/* A line of stdin without its end, grown as needed; NULL at the end of the input, and without feof when it cannot be
   read or held. */
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
  if (ch == EOF && (n == 0 || !feof(stdin))) return NULL;
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
    s = fvg_fail(c, FVG_E_IO, "%s: no merges.txt or bpe_simple_vocab_16e6.txt; name one with --merges", o->model);
  while (!s && (line = read_line(&buffer, &capacity)) != NULL) {
    int i, n = 0, *ids;
    s = fvg_tokenize(m->tokenizer, NULL, 0, &n, line);
    ids = (int *)calloc((size_t)n + 1, sizeof *ids);
    if (!s && !ids) s = fvg_fail(c, FVG_E_NOMEM, "out of memory");
    if (!s) s = fvg_tokenize(m->tokenizer, ids, n, &n, line);
    for (i = 0; !s && i < n; i++) printf(i ? " %d" : "%d", ids[i]);
    if (!s) putchar('\n');
    free(ids);
  }
  if (!s && !feof(stdin)) s = fvg_fail(c, FVG_E_IO, "standard input: cannot be read to its end");
  free(buffer);
  fvg_clip_free(m);
  return s;
}

/* ---- preprocess ---- */
static fvg_status preprocess(fvg_ctx *c, const options *o) {
  fvg_image in, out;
  fvg_crop crop;
  fvg_preprocess way = fvg_preprocess_defaults(o->size);
  fvg_status s;
  char tail;
  if ((!o->size && !o->model) || o->n_rest != 2)
    return fvg_fail(c, FVG_E_ARG, "preprocess needs --size N or --model DIR, and two files, IN and OUT");
  if (o->model) {
    fvg_clip *m;
    s = open_model(c, o, &m);
    if (!s && !m->has_vision) s = fvg_fail(c, FVG_E_ARG, "%s: this model has no image tower", o->model);
    if (!s) way = m->preprocess;
    fvg_clip_free(m);
    if (s) return s;
    if (o->size && o->size != way.size)
      return fvg_fail(c, FVG_E_ARG, "--size %d: this model sees %d pixels a side", o->size, way.size);
  }
  if (o->nearest) way.filter = FVG_NEAREST;
  memset(&in, 0, sizeof in);
  memset(&out, 0, sizeof out);
  memset(&crop, 0, sizeof crop);
  if (o->crop && sscanf(o->crop, "%d,%d,%d,%d%c", &crop.top, &crop.left, &crop.height, &crop.width, &tail) != 4)
    return fvg_fail(c, FVG_E_ARG, "--crop %s: TOP,LEFT,HEIGHT,WIDTH is expected", o->crop);
  if (!o->crop && o->flip) return fvg_fail(c, FVG_E_ARG, "--flip goes with --crop");
  crop.flip = o->flip;
  s = fvg_image_load(c, &in, o->rest[0], 0);
  /* alpha dropped */
  if (!s && in.channels == 2) { fvg_image_free(c, &in); s = fvg_image_load(c, &in, o->rest[0], 1); }
  if (!s && in.channels == 4) { fvg_image_free(c, &in); s = fvg_image_load(c, &in, o->rest[0], 3); }
  if (!s) s = fvg_image_upright(c, &in, o->rest[0], o->exif_rotate);
  if (!s && o->crop && (crop.top < 0 || crop.left < 0 || crop.height < 1 || crop.width < 1 ||
                        crop.height > in.height - crop.top || crop.width > in.width - crop.left))
    s = fvg_fail(c, FVG_E_ARG, "--crop %s does not lie within %s, which has %d x %d pixels",
                 o->crop, o->rest[0], in.width, in.height);
  if (!s && o->crop) s = fvg_image_resized_crop(c, &out, &in, &crop, way.size, way.filter);
  if (!s && !o->crop) s = fvg_image_test_transform(c, &out, &in, &way);
  if (!s) s = fvg_image_save(c, &out, o->rest[1]);
  fvg_image_free(c, &out);
  fvg_image_free(c, &in);
  return s;
}

/* ---- encode ---- */
/* Picture i of x through the test transform into a view and its [3, size, size] floats. */
static fvg_status load_view(fvg_clip *m, const picture_list *x, int i, fvg_image *view, float *chw) {
  fvg_ctx *c = m->ctx;
  fvg_image image;
  fvg_status s;
  memset(view, 0, sizeof *view);
  s = fvg_image_load(c, &image, x->file[i], 3);
  if (!s) s = fvg_image_upright(c, &image, x->file[i], x->exif_rotate);
  if (!s) s = fvg_image_test_transform(c, view, &image, &m->preprocess);
  if (!s) s = fvg_image_normalize(c, chw, view, &m->preprocess);
  if (s) fvg_image_free(c, view);
  fvg_image_free(c, &image);
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
  if (!s) s = fvg_weights_get(w, images, "images", FVG_F32);
  if (!s && (images->n_dim != 4 || images->dim[0] < 1 || images->dim[1] != 3 ||
             images->dim[2] != size || images->dim[3] != size))
    s = fvg_fail(m->ctx, FVG_E_SHAPE, "%s: images must have shape [N, 3, %d, %d] for this model", path, size, size);
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

/* The good ones of some pictures to rows of features, and their names behind those in `names`, a
   JSON list. */
static fvg_status encode_pictures(fvg_clip *m, picture_list *x, float *features, int *n_row,
                                  document *names) {
  fvg_ctx *c = m->ctx;
  size_t size = (size_t)m->vision.image_size;
  float *chw;
  fvg_status s = FVG_OK;
  int i;
  if (!m->has_vision) return fvg_fail(c, FVG_E_ARG, "this model has no image tower");
  chw = (float *)fvg_alloc_array(c, 3 * size * size, sizeof *chw);
  if (!chw) return FVG_E_NOMEM;
  for (i = 0; !s && i < x->n; i++) {
    fvg_image view;
    s = load_view(m, x, i, &view, chw);
    fvg_image_free(c, &view);
    if (s) { s = go_on(c, s, x, is_alone(x)); continue; }
    s = fvg_clip_encode_images(m, features + (size_t)*n_row * (size_t)m->embed_dim, chw, 1);
    put(names, *n_row ? ", " : "");
    put_json_string(names, x->file[i]);
    ++*n_row;
  }
  fvg_release(c, chw);
  return s;
}

/* Where the rows of the output come from, as JSON lists for its metadata. */
static void name_pixels(document *names, const char *file, int n) {
  char name[1100];
  int i;
  for (i = 0; i < n; i++) {
    snprintf(name, sizeof name, "%.1000s[%d]", file, i);
    put(names, i ? ", " : "");
    put_json_string(names, name);
  }
}

static fvg_status save_features(fvg_ctx *c, const options *o, float *f, int n_image, float *g,
                                int width, document *files, document *texts) {
  fvg_named_tensor out[2];
  fvg_metadata metadata[2];
  int n_out = 0, i;
  put(files, "]");
  put(texts, "[");
  for (i = 0; i < o->n_text; i++) {
    put(texts, i ? ", " : "");
    put_json_string(texts, o->text[i]);
  }
  put(texts, "]");
  if (files->status || texts->status) return FVG_E_NOMEM;
  if (n_image) {
    metadata[n_out].key = "image_files";
    metadata[n_out].value = files->text;
    out[n_out].name = "image_features";
    out[n_out++].tensor = matrix(f, n_image, width);
  }
  if (o->n_text) {
    metadata[n_out].key = "texts";
    metadata[n_out].value = texts->text;
    out[n_out].name = "text_features";
    out[n_out++].tensor = matrix(g, o->n_text, width);
  }
  return fvg_safetensors_save(c, o->out, out, n_out, metadata, n_out);
}

static fvg_status encode(fvg_ctx *c, const options *o) {
  fvg_tensor pixels;
  picture_list pictures;
  document files, texts;
  fvg_clip *m = NULL;
  float *f = NULL, *g = NULL;
  int n_image = 0;
  fvg_status s;
  if (!o->out || (!o->pixels && !o->n_image && !o->n_text))
    return fvg_fail(c, FVG_E_ARG, "encode needs --out F.safetensors and something to encode: "
                                  "--pixels, --image or --text");
  memset(&pixels, 0, sizeof pixels);
  memset(&files, 0, sizeof files);
  files.c = c;
  texts = files;
  s = gather_pictures(c, o, o->image, o->n_image, &pictures);
  if (!s) s = open_model(c, o, &m);
  if (!s && o->pixels) s = load_pixels(m, o->pixels, &pixels);
  if (!s) {
    n_image = pixels.data ? pixels.dim[0] : 0;
    f = (float *)fvg_alloc_array(
        c, ((size_t)n_image + (size_t)pictures.n) * (size_t)m->embed_dim + 1, sizeof *f);
    g = (float *)fvg_alloc_array(c, (size_t)o->n_text * (size_t)m->embed_dim + 1, sizeof *g);
    if (!f || !g) s = FVG_E_NOMEM;
  }

  put(&files, "[");
  if (!s && n_image) {
    s = fvg_clip_encode_images(m, f, (const float *)pixels.data, n_image);
    name_pixels(&files, o->pixels, n_image);
  }
  if (!s && pictures.n) s = encode_pictures(m, &pictures, f, &n_image, &files);
  if (!s && o->n_text) s = fvg_clip_encode_texts(m, g, o->text, o->n_text);
  if (!s && (n_image || o->n_text))
    s = save_features(c, o, f, n_image, g, m->embed_dim, &files, &texts);
  if (!s) s = end_with_bad(c, &pictures);
  fvg_release(c, files.text);
  fvg_release(c, texts.text);
  fvg_release(c, f);
  fvg_release(c, g);
  fvg_tensor_free(c, &pixels);
  pictures_free(c, &pictures);
  fvg_clip_free(m);
  return s;
}

/* ---- learners as the options describe them ---- */
static fvg_status parse_position(fvg_ctx *c, const char *text, fvg_position *out) {
  static const char *const name[] = {"end", "middle", "front"};
  int i;
  for (i = 0; i < 3; i++)
    if (!strcmp(text, name[i])) { *out = (fvg_position)i; return FVG_OK; }
  return fvg_fail(c, FVG_E_ARG, "--class-token-position %s: end, middle or front is expected", text);
}

/* Into `known` the option of the method that text, NAME=VALUE, names; 0: it has no such one. */
static int option_named(const fvg_method *method, const char *text, fvg_option *known) {
  double low, high;
  size_t n = strcspn(text, "=");
  int k;
  for (k = 0; method && fvg_method_option(method, known, &low, &high, k); k++)
    if (strlen(known->name) == n && !strncmp(known->name, text, n)) return 1;
  return 0;
}

static fvg_protocol protocol_of(const options *o) {
  return o->transfer_to ? FVG_CROSS_DATA : o->few_shot ? FVG_FEW_SHOT : FVG_BASE_TO_NEW;
}

/* What the method trains with: the preset's recipe for the protocol, the published set and the
   shots, under what the command line says itself. */
static void recipe_of(const options *o, const fvg_method *method, const fvg_dataset_card *card, int shots,
                      fvg_recipe *r) {
  fvg_method_recipe(method, r, (fvg_preset)o->preset, protocol_of(o), card, shots);
  if (o->n_ctx) r->n_ctx = o->n_ctx;
}

/* option: room for desc->option; --set's values go before the recipe's. */
static fvg_status learner_desc(fvg_ctx *c, const options *o, const fvg_method *method, const fvg_dataset_card *card,
                               int shots, fvg_option option[MAX_OPTIONS], fvg_learner_desc *desc) {
  fvg_recipe recipe;
  int i;
  recipe_of(o, method, card, shots, &recipe);
  memset(desc, 0, sizeof *desc);
  desc->method = method;
  desc->n_ctx = recipe.n_ctx;
  desc->ctx_init = o->ctx_init;
  desc->prompt_template = o->prompt_template;
  if (!o->prompt_template) desc->prompt_template = fvg_method_template(method, card);
  desc->option = option;
  for (; desc->n_option < recipe.n_option; desc->n_option++) option[desc->n_option] = recipe.option[desc->n_option];
  for (i = 0; i < o->n_set; i++) {
    fvg_option set;
    int k = 0;
    if (!option_named(method, o->set[i], &set)) continue;
    while (k < desc->n_option && strcmp(option[k].name, set.name)) k++;
    option[k].name = set.name;
    option[k].value = strtod(strchr(o->set[i], '=') + 1, NULL);
    if (k == desc->n_option) desc->n_option++;
  }
  return parse_position(c, o->position, &desc->class_token_position);
}

/* ---- checkpoints ---- */
static void path_in(const char *folder, char *path, size_t size) {
  snprintf(path, size, "%s/checkpoint.safetensors", folder);
}

/* A folder that tune made. */
static fvg_status open_tuned(fvg_clip *m, const char *folder, fvg_learner **l, fvg_fvgpt **f,
                             fvg_weights **settings) {
  char path[1200];
  path_in(folder, path, sizeof path);
  return fvg_checkpoint_load(m, l, f, settings, path);
}

/* Such a folder, or, with --trainer, a file of the published trainers; its classes are `name`, of a published set if
   card is not NULL. */
static fvg_status open_checkpoint(fvg_clip *m, const options *o, const fvg_dataset_card *card,
                                  const char *const *name, int n, fvg_learner **l, fvg_fvgpt **f,
                                  fvg_weights **settings) {
  const fvg_method *method;
  fvg_option option[MAX_OPTIONS];
  fvg_learner_desc desc;
  fvg_status s;
  int i;
  if (!o->trainer) {
    s = open_tuned(m, o->checkpoint, l, f, settings);
    if (!s && !o->exif_rotate && fvg_weights_metadata(*settings, "exif_rotate"))
      fvg_log(m->ctx, 0, "%s was tuned with --exif-rotate; without it turned pictures are seen otherwise than in training",
              o->checkpoint);
    return s;
  }
  method = fvg_method_find(o->trainer);
  if (!method)
    return fvg_fail(m->ctx, FVG_E_ARG, "--trainer %s: with --checkpoint FILE the name of a method is expected",
                    o->trainer);
  for (i = 0; i < o->n_set; i++)
    if (!option_named(method, o->set[i], option))
      return fvg_fail(m->ctx, FVG_E_ARG, "--set %s: %s has no such option", o->set[i], o->trainer);
  s = learner_desc(m->ctx, o, method, card, o->all_shots[0], option, &desc);
  if (!s) s = fvg_learner_new(m, l, name, n, &desc);
  return s ? s : fvg_learner_load(*l, o->checkpoint);
}

static fvg_branch branch_of(const fvg_learner *l, const fvg_fvgpt *f, fvg_group half) {
  if (!l) return FVG_ZERO_SHOT;
  if (!f) return half == FVG_BASE ? FVG_TUNED : FVG_TUNED_NEW;
  return half == FVG_BASE ? FVG_BRANCH_BASE : FVG_BRANCH_NEW;
}

/* The template that a checkpoint was tuned with goes before the default, and --template before both. */
static const char *template_of(const options *o, const fvg_weights *settings) {
  const char *tuned = settings ? fvg_weights_metadata(settings, "template") : NULL;
  return o->prompt_template ? o->prompt_template : tuned ? tuned : "a photo of a {}.";
}

/* ---- class names ---- */
enum { LIST_BYTES = 190 };                          /* of a message, for a list of names                            */

/* The names that are tuned ones, or those that are not; "..." for what does not fit. */
static void list_names(const char *const *name, int n, const int *match, int tuned, char text[LIST_BYTES]) {
  size_t at = 0;
  int i;
  snprintf(text, LIST_BYTES, "none");
  for (i = 0; i < n; i++) {
    if ((match[i] >= 0) != tuned) continue;
    if (at + strlen(name[i]) + 10 > LIST_BYTES) { snprintf(text + at, LIST_BYTES - at, "%s...", at ? ", " : ""); return; }
    at += (size_t)snprintf(text + at, LIST_BYTES - at, "%s%s", at ? ", " : "", name[i]);
  }
}

/* FVG_BASE if all of n names are among those that l was tuned on, else FVG_NEW; says which are which.  A published
   trainer's file does not tell its classes: there *half stays as it is. */
static fvg_status half_of_names(fvg_ctx *c, const options *o, fvg_learner *l, const char *const *name, int n,
                                fvg_group *half) {
  char base[LIST_BYTES], fresh[LIST_BYTES];
  int n_tuned, n_base = 0, i, *match;
  const char *const *tuned;
  fvg_status s;
  if (!l || o->trainer) return FVG_OK;

  tuned = fvg_learner_class_names(l, &n_tuned);
  match = (int *)fvg_alloc_array(c, (size_t)n, sizeof *match);
  s = match ? fvg_match_names(c, match, name, n, tuned, n_tuned) : FVG_E_NOMEM;
  for (i = 0; !s && i < n; i++) n_base += match[i] >= 0;

  if (!s) {
    list_names(name, n, match, 1, base);
    list_names(name, n, match, 0, fresh);
    *half = n_base == n ? FVG_BASE : FVG_NEW;
    fvg_log(c, 1, "%d of %d names taken for base (tuned on): %s; %d for new: %s", n_base, n, base,
            n - n_base, fresh);
  }
  fvg_release(c, match);
  return s;
}

/* Names from a comma-separated list, cut in place; a comma behind a backslash belongs to the name.  Returns how many. */
static int cut_names(char *list, const char **name) {
  int n = 0, more = 1;
  char *at = list;
  while (more) {
    char *start = at, *to = at;
    for (; *at && *at != ','; at++) {
      if (at[0] == '\\' && at[1] == ',') at++;
      *to++ = *at;
    }
    more = *at++ == ',';
    *to = 0;
    fvg_tidy_name(start);
    name[n++] = start;
  }
  return n;
}

/* The names of --classes: in *list, to be released with *name, which points into it. */
static fvg_status names_given(fvg_ctx *c, const options *o, char **list, const char ***name, int *n) {
  const char *const empty = "";
  int *match = NULL, first = -1, i;
  fvg_status s;
  *list = fvg_copy_string(c, o->classes);
  *name = (const char **)fvg_alloc_array(c, strlen(o->classes) + 1, sizeof **name);
  if (!*list || !*name) return FVG_E_NOMEM;
  *n = cut_names(*list, *name);

  s = fvg_match_names(c, &first, &empty, 1, *name, *n);
  if (!s && first >= 0)
    s = fvg_fail(c, FVG_E_ARG, "--classes %.200s: name %d of %d is empty (a comma inside a name is written \\,)",
                 o->classes, first + 1, *n);

  match = (int *)fvg_alloc_array(c, (size_t)*n, sizeof *match);
  if (!s) s = match ? fvg_match_names(c, match, *name, *n, *name, *n) : FVG_E_NOMEM;
  for (i = 0; !s && i < *n; i++)
    if (match[i] != i)
      s = fvg_fail(c, FVG_E_ARG, "--classes: name %d \"%.80s\" means the same as name %d \"%.80s\"; leave one out",
                   i + 1, (*name)[i], match[i] + 1, (*name)[match[i]]);
  fvg_release(c, match);
  return s;
}

/* ---- classify ---- */
static void print_scores(const char *file, const char *const *name, int n, float *p, float b,
                         int top) {
  int shown, i, best;
  print(stdout, "%s\n", file);
  for (shown = 0; shown < n && shown < top; shown++) {
    for (best = 0, i = 1; i < n; i++) if (p[i] > p[best]) best = i;
    print(stdout, "  %6.2f %%  %s\n", 100 * (double)p[best], name[best]);
    p[best] = -1;
  }
  if (b > 0) printf("  weight of plain CLIP b = %.3f\n", (double)b);
}

/* The good ones of some pictures, each printed as soon as it is scored. */
static fvg_status classify_pictures(fvg_clip *m, fvg_learner *l, fvg_classifier *k, picture_list *x,
                                    const char *const *name, int n, int top) {
  fvg_ctx *c = m->ctx;
  const size_t size = (size_t)m->vision.image_size;
  float *chw = (float *)fvg_alloc_array(c, 3 * size * size, sizeof *chw);
  float *f = (float *)fvg_alloc_array(c, (size_t)fvg_learner_feature_width(m, l), sizeof *f);
  float *logits = (float *)fvg_alloc_array(c, (size_t)n, sizeof *logits), b = 0;
  int i;
  fvg_status s = chw && f && logits ? FVG_OK : FVG_E_NOMEM;
  for (i = 0; !s && i < x->n; i++) {
    fvg_image view;
    s = load_view(m, x, i, &view, chw);
    fvg_image_free(c, &view);
    if (s) { s = go_on(c, s, x, is_alone(x)); continue; }
    s = fvg_learner_encode_images(m, l, f, chw, 1);
    if (!s) s = fvg_classifier_logits(k, logits, &b, f, 1);
    if (s) break;
    c->kernels->softmax(n, logits, 1, logits);
    print_scores(x->file[i], name, n, logits, b, top);
  }
  if (!s) s = end_with_bad(c, x);
  fvg_release(c, logits);
  fvg_release(c, f);
  fvg_release(c, chw);
  return s;
}

static fvg_status classify(fvg_ctx *c, const options *o) {
  fvg_clip *m = NULL;
  fvg_learner *l = NULL;
  fvg_fvgpt *f = NULL;
  fvg_classifier *k = NULL;
  fvg_weights *settings = NULL;
  picture_list pictures;
  char *list = NULL;
  const char **given = NULL, *const *name;
  fvg_group half = FVG_BASE;
  int n = 0;
  fvg_status s;
  if (!o->n_rest || (!o->classes && (!o->checkpoint || o->trainer)))
    return fvg_fail(c, FVG_E_ARG, "classify needs pictures, and --classes A,B,C or a --checkpoint that tune made");
  s = gather_pictures(c, o, o->rest, o->n_rest, &pictures);
  if (!s) s = open_model(c, o, &m);
  if (!s && !m->has_vision)
    s = fvg_fail(c, FVG_E_ARG, "%s: this model has no image tower", o->model);
  if (!s && o->classes) s = names_given(c, o, &list, &given, &n);
  name = given;
  if (!s && o->checkpoint) s = open_checkpoint(m, o, NULL, name, n, &l, &f, &settings);
  if (!s && !o->classes) name = fvg_learner_class_names(l, &n);
  if (!s) s = half_of_names(c, o, l, name, n, &half);
  if (!s) s = classifier_of(m, &k, branch_of(l, f, half), l, f, template_of(o, settings), name, n);
  if (!s) s = classify_pictures(m, l, k, &pictures, name, n, o->top);
  fvg_release(c, given);
  fvg_release(c, list);
  pictures_free(c, &pictures);
  fvg_classifier_free(k);
  fvg_weights_close(settings);
  fvg_fvgpt_free(f);
  fvg_learner_free(l);
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

/* Both maps of a picture, and a line with its score. */
static fvg_status attend_view(fvg_clip *m, fvg_learner *l, fvg_classifier *k, int label,
                              const fvg_image *view, const float *chw, const char *file,
                              const char *folder, const char *name) {
  fvg_ctx *c = m->ctx;
  size_t pixels = (size_t)m->vision.image_size * (size_t)m->vision.image_size;
  float *map = (float *)fvg_alloc_array(c, pixels, sizeof *map);
  float *f = (float *)fvg_alloc_array(c, (size_t)fvg_learner_feature_width(m, l), sizeof *f);
  float *logits = (float *)fvg_alloc_array(c, (size_t)k->n_class, sizeof *logits);
  char grad_cam[1400], attention[1400];
  fvg_status s = map && f && logits ? FVG_OK : FVG_E_NOMEM;
  if (!s) s = fvg_learner_encode_images(m, l, f, chw, 1);
  if (!s) s = fvg_classifier_logits(k, logits, NULL, f, 1);
  if (!s) s = fvg_attention_map(k, map, chw, label, FVG_GRAD_CAM);
  if (!s) s = save_overlay(c, view, map, folder, name, "gradcam", grad_cam, sizeof grad_cam);
  if (!s) s = fvg_attention_map(k, map, chw, label, FVG_CLS_ATTENTION);
  if (!s) s = save_overlay(c, view, map, folder, name, "attention", attention, sizeof attention);
  if (!s) print(stdout, "%s  %.4f  %s\n", file, (double)logits[label], grad_cam);
  fvg_release(c, logits);
  fvg_release(c, f);
  fvg_release(c, map);
  return s;
}

/* The same for file i of x; a bad one is counted. */
static fvg_status attend_file(fvg_clip *m, fvg_learner *l, fvg_classifier *k, int label,
                              picture_list *x, int i, const char *folder, const char *name) {
  size_t size = (size_t)m->vision.image_size;
  float *chw = (float *)fvg_alloc_array(m->ctx, 3 * size * size, sizeof *chw);
  fvg_image view;
  fvg_status s;
  if (!chw) return FVG_E_NOMEM;
  s = load_view(m, x, i, &view, chw);
  s = s ? go_on(m->ctx, s, x, is_alone(x))
        : attend_view(m, l, k, label, &view, chw, x->file[i], folder, name);
  fvg_image_free(m->ctx, &view);
  fvg_release(m->ctx, chw);
  return s;
}

/* Without a checkpoint the text is a whole caption.  With one it is a class among the tuned ones: alone, a new class
   would leave the gate of prior calibration no two distributions to compare. */
static fvg_status attend_classifier(fvg_clip *m, const options *o, char *text, fvg_learner *l, fvg_fvgpt *f,
                                    const fvg_weights *settings, fvg_classifier **k, int *label) {
  const char *const only = text, *const *tuned;
  const char **name;
  fvg_group half = FVG_BASE;
  int n, match;
  fvg_status s;
  *label = 0;
  if (!l) return classifier_of(m, k, FVG_ZERO_SHOT, NULL, NULL, "{}", &only, 1);
  fvg_tidy_name(text);
  tuned = fvg_learner_class_names(l, &n);
  s = half_of_names(m->ctx, o, l, &only, 1, &half);
  if (!s) s = fvg_match_names(m->ctx, &match, &only, 1, tuned, n);
  name = (const char **)fvg_alloc_array(m->ctx, (size_t)n + 1, sizeof *name);
  if (!s && !name) s = FVG_E_NOMEM;

  if (!s) {
    memcpy(name, tuned, (size_t)n * sizeof *name);
    name[n] = text;
    *label = match >= 0 ? match : n;
    s = classifier_of(m, k, branch_of(l, f, half), l, f, template_of(o, settings), name, match >= 0 ? n : n + 1);
  }
  fvg_release(m->ctx, name);
  return s;
}

/* No map may be written over a picture that is still to be read. */
static fvg_status keep_inputs(fvg_ctx *c, const picture_list *pictures, const char *out, const char (*name)[NAME_BYTES]) {
  static const char *const kind[] = {"gradcam", "attention"};
  const size_t n = strlen(out);
  char path[1400];
  int i, k, part;
  for (i = 0; i < pictures->n; i++) {
    if (strncmp(pictures->file[i], out, n)) continue;               /* elsewhere                                    */
    for (k = 0; k < pictures->n; k++)
      for (part = 0; part < 2; part++) {
        snprintf(path, sizeof path, "%s/%s_%s.png", out, name[k], kind[part]);
        if (!strcmp(path, pictures->file[i]))
          return fvg_fail(c, FVG_E_ARG, "%s is a picture and would be the map of %s; choose another --out", path,
                          pictures->file[k]);
      }
  }
  return FVG_OK;
}

static fvg_status attend(fvg_ctx *c, const options *o) {
  fvg_clip *m = NULL;
  fvg_learner *l = NULL;
  fvg_fvgpt *f = NULL;
  fvg_classifier *k = NULL;
  fvg_weights *settings = NULL;
  picture_list pictures;
  char *text = NULL, (*name)[NAME_BYTES] = NULL;
  int i, label = 0;
  fvg_status s;
  if (!o->n_text || !o->out || !*o->out || !o->n_rest)
    return fvg_fail(c, FVG_E_ARG, "attend needs --text STR, --out DIR and pictures");
  if (o->n_text > 1)
    return fvg_fail(c, FVG_E_ARG, "attend takes one --text, there are %d; run it once for each", o->n_text);
  if (strlen(o->out) > 1000) return fvg_fail(c, FVG_E_ARG, "--out: the path is too long");
  s = gather_pictures(c, o, o->rest, o->n_rest, &pictures);
  if (!s) s = check_out_folder(c, o->out);
  if (!s) s = open_model(c, o, &m);
  if (!s && !m->has_vision) s = fvg_fail(c, FVG_E_ARG, "%s: this model has no image tower", o->model);
  if (!s && o->checkpoint) s = open_checkpoint(m, o, NULL, &o->text[0], 1, &l, &f, &settings);
  if (!s) {
    text = fvg_copy_string(c, o->text[0]);
    name = (char (*)[NAME_BYTES])fvg_alloc_array(c, (size_t)pictures.n, sizeof *name);
    s = text && name ? attend_classifier(m, o, text, l, f, settings, &k, &label) : FVG_E_NOMEM;
  }
  if (!s) s = make_folders(c, o->out);
  for (i = 0; !s && i < pictures.n; i++) name_of(pictures.file[i], (const char (*)[NAME_BYTES])name, i, name[i]);
  if (!s) s = keep_inputs(c, &pictures, o->out, (const char (*)[NAME_BYTES])name);
  for (i = 0; !s && i < pictures.n; i++) {
    s = attend_file(m, l, k, label, &pictures, i, o->out, name[i]);
  }
  if (!s) s = end_with_bad(c, &pictures);
  pictures_free(c, &pictures);
  fvg_release(c, name);
  fvg_release(c, text);
  fvg_classifier_free(k);
  fvg_weights_close(settings);
  fvg_fvgpt_free(f);
  fvg_learner_free(l);
  fvg_clip_free(m);
  return s;
}

#include "eval.h"
#include "tune.h"
#include "report.h"
#include "report_page.h"

/* What was printed has arrived only when the stream is closed: a full disk, a closed pipe.  1, or 0 after a message. */
static int finish_output(void) {
  int failed = ferror(stdout), reason = 0;
  errno = 0;
  if (fclose(stdout)) {
    failed = 1;
    reason = errno;
  }
  if (!failed) return 1;
  print(stderr, "fvgpt: standard output: cannot write%s%s\n", reason ? ": " : "", reason ? strerror(reason) : "");
  return 0;
}

static int help(const options *o) {
  char advice[WORD + 20];
  int part;
  if (!o->n_rest || !strcmp(o->rest[0], "help")) {
    for (part = 0; part < MANUAL_PARTS; part++) fputs(manual[part], stdout);
  } else if (!print_manual(o->rest[0])) {
    print(stderr, "fvgpt: help %s: no such command%s\n", o->rest[0], hint(o->rest[0], advice));
    return 1;
  }
  return finish_output() ? 0 : 1;
}

/* Says how a command ended: 0; 1 after an error; 128 and the signal's number when it was told to stop. */
static int exit_status(fvg_ctx *c, display *d, const options *o, fvg_status s) {
  if (s && stop_signal) {
    show_log(d, 0, !strcmp(o->command, "tune") ?
             "stopped; the same command given again goes on where it stopped, at most an epoch is lost" :
             "stopped; the same command given again begins anew");
    return 128 + stop_signal;
  }
  if (s) show_log(d, 0, fvg_error(c));
  return finish_output() && !s ? 0 : 1;
}

int main(int argc, char **argv) {
  static const struct { const char *name; fvg_status (*run)(fvg_ctx *c, const options *o); } command[] = {
    {"info", info}, {"tokenize", tokenize}, {"preprocess", preprocess}, {"encode", encode}, {"classify", classify},
    {"attend", attend}, {"tune", tune}, {"eval", eval}, {"report", report}
  };
  display d;
  fvg_desc desc;
  fvg_ctx *c;
  fvg_status s = FVG_E_ARG;
  char advice[WORD + 20];
  options o;
  size_t i;
  int status;
  prepare_streams();
  if (!check_arguments(argc, argv)) return 1;
  if (!parse_options(&o, argc, argv)) { options_free(&o); return 1; }
  if (!strcmp(o.command, "help")) {
    status = help(&o);
    options_free(&o);
    return status;
  }
  memset(&desc, 0, sizeof desc);
  memset(&d, 0, sizeof d);
  d.terminal = is_terminal(stderr);
  desc.user = &d;
  desc.progress = show_progress;
  desc.log = show_log;
  desc.cancelled = is_stopped;
  desc.n_threads = o.threads ? o.threads : processors();
  for (i = 0; o.simd && fvg_simd_name((int)i) && strcmp(o.simd, fvg_simd_name((int)i)); i++) {}
  if (!fvg_simd_name((int)i)) {
    print(stderr, "fvgpt: --simd %s: scalar, sse2, avx2, avx512, neon, wasm or best is expected\n", o.simd);
    options_free(&o);
    return 1;
  }
  desc.simd = (int)i;
  catch_stop(SIGINT);
  catch_stop(SIGTERM);
  if (fvg_init(&c, &desc)) { options_free(&o); return fail("out of memory"); }
  if (desc.simd && fvg_simd_level(c) != desc.simd) {
    print(stderr, "fvgpt: --simd %s: not on this CPU or in this build, which have %s\n", o.simd,
            fvg_simd_name(fvg_simd_level(c)));
    fvg_free(c);
    options_free(&o);
    return 1;
  }
  for (i = 0; i < sizeof command / sizeof *command && strcmp(o.command, command[i].name); i++) {}
  if (i < sizeof command / sizeof *command) s = command[i].run(c, &o);
  else fvg_fail(c, s, "unknown command %s%s (`fvgpt help` lists them)", o.command, hint(o.command, advice));
  status = exit_status(c, &d, &o, s);
  fvg_free(c);
  options_free(&o);
  return status;
}
