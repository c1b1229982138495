/* Learners and checkpoints; see fvgpt_learners.h. */
#include "fvgpt_learners.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvgpt_hints.h"
#include "fvgpt_print.h"
#include "fvgpt_system.h"
#include "fvgpt_tune_marks.h"

const char *const preset_name[2] = {"fork", "original"};

/* ---- options ---- */
/* Up to MAX_SHOTS whole numbers with commas between them. */
static int take_shots(void *to, const char *value) {
  shots_option *shots = (shots_option *)to;
  const char *text = value;
  int is_last = 0;
  shots->n = 0;

  while (!is_last) {
    char *end;
    const long n = strtol(text, &end, 10);
    const int is_number = end != text && n >= 1 && n <= 100000 && (!*end || *end == ',');
    if (!is_number || shots->n == MAX_SHOTS) {
      print(stderr,
            "fvgpt: --shots %s: up to 16 whole numbers from 1 to 100000 with commas are "
            "expected\n",
            value);
      return 0;
    }
    shots->item[shots->n++] = (int)n;
    is_last = !*end;
    text = end + 1;
  }
  return 1;
}

/* NAME=VALUE.  Only the methods know which names there are. */
static int take_set(void *to, const char *value) {
  set_options *set = (set_options *)to;
  const char *equals = strchr(value, '=');
  if (equals && set->n < MAX_SET) {
    char *end;
    strtod(equals + 1, &end);
    if (end > equals + 1 && !*end) {
      set->item[set->n++] = value;
      return 1;
    }
  }
  print(stderr, "fvgpt: --set %s: NAME=VALUE with a number is expected, at most %d times\n", value,
        MAX_SET);
  return 0;
}

void add_learner_options(option_table *t, learner_options *o) {
  o->position = "end";
  o->shots.item[0] = 16;
  add_text(t, "--trainer", &o->trainer);
  add_text(t, "--ctx-init", &o->ctx_init);
  add_text(t, "--class-token-position", &o->position);
  add_text(t, "--template", &o->prompt_template);
  add_whole(t, "--n-ctx", &o->n_ctx, 1, 74);
  add_taken(t, "--set", take_set, &o->set);
  add_word(t, "--preset", &o->preset, "fork original");
  add_flag(t, "--few-shot", &o->few_shot);
  add_text(t, "--transfer-to", &o->transfer_to);
  add_taken(t, "--shots", take_shots, &o->shots);
}

fvg_status parse_position(fvg_ctx *c, const char *text, fvg_position *out) {
  static const char *const name[] = {"end", "middle", "front"};
  for (int i = 0; i < 3; i++) {
    if (strcmp(text, name[i])) continue;
    *out = (fvg_position)i;
    return FVG_OK;
  }
  return fvg_fail(c, FVG_E_ARG, "--class-token-position %s: end, middle or front is expected",
                  text);
}

/* The option of the method, with its bounds, that text, NAME=VALUE, names; 0: it has no such
   one. */
static int find_set(const fvg_method *method, const char *text, fvg_option *known, double *low,
                    double *high) {
  const size_t n = strcspn(text, "=");
  for (int k = 0; method && fvg_method_option(method, known, low, high, k); k++) {
    if (strlen(known->name) == n && !strncmp(known->name, text, n)) return 1;
  }
  return 0;
}

/* Appends the names of a method's options to a text of `size` bytes. */
static void list_set_names(const fvg_method *method, char *text, size_t size) {
  fvg_option option;
  double low, high;
  int k = 0;
  for (; fvg_method_option(method, &option, &low, &high, k); k++) {
    const size_t at = strlen(text);
    snprintf(text + at, size - at, "%s%s", k ? ", " : " has ", option.name);
  }
  const size_t at = strlen(text);
  if (!k) snprintf(text + at, size - at, " has none");
}

/* The error that none of the methods has the option; it tells which they have. */
static fvg_status unknown_set(fvg_ctx *c, const char *text, const fvg_method *const *method,
                              int n) {
  char word[80], advice[HINT_BYTES];
  snprintf(word, sizeof word, "%.*s", (int)strcspn(text, "="), text);
  guess g = guess_at(word);
  char names[360] = "";
  for (int i = 0; i < n; i++) {
    fvg_option option;
    double low, high;
    for (int k = 0; fvg_method_option(method[i], &option, &low, &high, k); k++)
      try_name(&g, option.name, strlen(option.name));

    const size_t at = strlen(names);
    snprintf(names + at, sizeof names - at, "%s%s", i ? "; " : "", fvg_method_name(method[i]));
    list_set_names(method[i], names, sizeof names);
  }
  return fvg_fail(c, FVG_E_ARG, "--set %.80s: no such option%s (%s)", text, hint(&g, advice),
                  names);
}

fvg_status check_set_option(fvg_ctx *c, const char *text, const fvg_method *const *method, int n) {
  int is_known = 0;
  const double value = strtod(strchr(text, '=') + 1, NULL);
  for (int i = 0; i < n; i++) {
    fvg_option option;
    double low, high;
    if (!find_set(method[i], text, &option, &low, &high)) continue;
    is_known = 1;
    if (value >= low && value <= high) continue;
    return fvg_fail(c, FVG_E_ARG, "--set %.80s: %s expects a number from %g to %g", text,
                    fvg_method_name(method[i]), low, high);
  }
  return is_known ? FVG_OK : unknown_set(c, text, method, n);
}

int has_option(const fvg_method *method, const char *name) {
  fvg_option known;
  double low, high;
  return find_set(method, name, &known, &low, &high);
}

fvg_protocol protocol_of(const learner_options *o) {
  if (o->transfer_to) return FVG_CROSS_DATA;
  return o->few_shot || o->all ? FVG_FEW_SHOT : FVG_BASE_TO_NEW;
}

/* ---- learners ---- */
void recipe_of(const learner_options *o, const fvg_method *method, const fvg_dataset_card *card,
               int shots, fvg_recipe *r) {
  fvg_method_recipe(method, r, (fvg_preset)o->preset, protocol_of(o), card, shots);
  if (o->n_ctx) r->n_ctx = o->n_ctx;
}

/* Sets an option of the desc, which is in the list already or comes to its end. */
static void set_option(fvg_learner_desc *desc, fvg_option *option, const char *name,
                       double value) {
  int k = 0;
  while (k < desc->n_option && strcmp(option[k].name, name)) k++;
  option[k].name = name;
  option[k].value = value;
  if (k == desc->n_option) desc->n_option++;
}

/* The recipe comes first, then what the command line sets. */
fvg_status learner_desc(fvg_ctx *c, const learner_options *o, const fvg_method *method,
                        const fvg_dataset_card *card, int shots, fvg_option option[MAX_OPTIONS],
                        fvg_learner_desc *desc) {
  fvg_recipe recipe;
  recipe_of(o, method, card, shots, &recipe);
  memset(desc, 0, sizeof *desc);
  desc->method = method;
  desc->n_ctx = recipe.n_ctx;
  desc->ctx_init = o->ctx_init;
  desc->prompt_template = o->prompt_template;
  if (!o->prompt_template) desc->prompt_template = fvg_method_template(method, card);

  desc->option = option;
  for (int i = 0; i < recipe.n_option; i++) option[i] = recipe.option[i];
  desc->n_option = recipe.n_option;
  for (int i = 0; i < o->set.n; i++) {
    const char *text = o->set.item[i];
    fvg_option known;
    double low, high;
    if (!find_set(method, text, &known, &low, &high)) continue;
    set_option(desc, option, known.name, strtod(strchr(text, '=') + 1, NULL));
  }
  return parse_position(c, o->position, &desc->class_token_position);
}

void vary_learner(const fvg_method *method, const variations *own, fvg_option option[MAX_OPTIONS],
                  fvg_learner_desc *desc) {
  fvg_option known;
  double low, high;
  for (int i = 0; i < own->n; i++) {
    if (find_set(method, own->item[i].name, &known, &low, &high))
      set_option(desc, option, known.name, own->item[i].value);
  }
}

void spell_trainer(char *name) {
  static const char published[] = "MMRL++";
  const size_t n = strlen(name);
  const size_t length = sizeof published - 1;
  if (n >= length && !strcmp(name + n - length, published)) memcpy(name + n - 2, "pp", 2);
}

/* ---- checkpoints ---- */
void tuned_model_free(fvg_clip *m, tuned_model *x) {
  if (m) fvg_head_checkpoint_free(m, &x->head);
  fvg_head_free(x->for_new);
  fvg_weights_close(x->settings);
  fvg_fvgpt_free(x->f);
  fvg_learner_free(x->l);
  memset(x, 0, sizeof *x);
}

void checkpoint_in(const char *folder, char *path, size_t size) {
  snprintf(path, size, "%s/checkpoint.safetensors", folder);
}

/* Is the file a head's?  What is no file of tensors is told of elsewhere. */
static int is_head_file(fvg_clip *m, const char *path) {
  fvg_source source;
  fvg_weights *w = NULL;
  fvg_status s = fvg_source_file(m->ctx, &source, path);
  if (!s) s = fvg_weights_open(m->ctx, &w, &source);
  const int is_head = !s && fvg_weights_metadata(w, "head") != NULL;
  fvg_weights_close(w);
  return is_head;
}

/* Does the file begin as PyTorch's do: a ZIP archive or a pickle? */
static int is_pytorch_file(const char *path) {
  FILE *f = fopen(path, "rb");
  unsigned char head[2] = {0, 0};
  const size_t n = f ? fread(head, 1, sizeof head, f) : 0;
  if (f) fclose(f);
  return n == sizeof head && ((head[0] == 'P' && head[1] == 'K') || head[0] == 0x80);
}

static fvg_status open_tuned_file(fvg_clip *m, const char *path, tuned_model *x) {
  if (is_head_file(m, path)) return fvg_head_checkpoint_load(m, &x->head, path);
  return fvg_checkpoint_load(m, &x->l, &x->f, &x->settings, path);
}

fvg_status open_tuned(fvg_clip *m, const char *folder, tuned_model *x) {
  char path[1200];
  checkpoint_in(folder, path, sizeof path);
  return open_tuned_file(m, path, x);
}

/* A file, or the one in a folder. */
static fvg_status open_file_or_folder(fvg_clip *m, const char *path, tuned_model *x) {
  char inside[1200];
  checkpoint_in(path, inside, sizeof inside);
  if (!is_absent(inside)) return open_tuned(m, path, x);
  if (is_folder(path)) {
    return fvg_fail(m->ctx, FVG_E_IO,
                    "%.300s: no checkpoint.safetensors in this folder; tune writes them as "
                    "OUT/TRAINER/seedN/checkpoint.safetensors",
                    path);
  }
  if (is_absent(path)) {
    return fvg_fail(m->ctx, FVG_E_IO,
                    "%.300s: neither a file nor a folder with a checkpoint.safetensors", path);
  }
  if (is_pytorch_file(path)) {
    return fvg_fail(m->ctx, FVG_E_FORMAT,
                    "%.300s: a PyTorch file, and none of tune's; if it is a published trainer's, "
                    "give --trainer NAME (fvgpt help checkpoints)",
                    path);
  }
  return open_tuned_file(m, path, x);
}

static fvg_status unknown_method(fvg_ctx *c, const char *name) {
  char advice[HINT_BYTES];
  const guess g = guess_method(name);
  return fvg_fail(c, FVG_E_ARG,
                  "--trainer %.80s: no such method%s (with --trainer, --checkpoint is a published "
                  "trainer's file)",
                  name, hint(&g, advice));
}

/* A file of the published trainers. */
static fvg_status open_published(fvg_clip *m, const learner_options *o, const char *file,
                                 const fvg_dataset_card *card, const char *const *name, int n,
                                 fvg_learner **l) {
  fvg_ctx *c = m->ctx;
  char name_of_method[64];
  snprintf(name_of_method, sizeof name_of_method, "%s", o->trainer);
  spell_trainer(name_of_method);
  const fvg_method *method = fvg_method_find(name_of_method);
  if (!method) return unknown_method(c, o->trainer);
  if (is_folder(file)) {
    return fvg_fail(c, FVG_E_ARG,
                    "%.300s: a folder, and with --trainer --checkpoint is a published trainer's "
                    "file; leave --trainer out for what tune made",
                    file);
  }

  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < o->set.n; i++)
    s = check_set_option(c, o->set.item[i], &method, 1);

  fvg_option option[MAX_OPTIONS];
  fvg_learner_desc desc;
  if (!s) s = learner_desc(c, o, method, card, o->shots.item[0], option, &desc);
  if (!s) s = fvg_learner_new(m, l, name, n, &desc);
  if (!s) s = fvg_learner_load(*l, file);
  return s;
}

/* Tells of what makes a checkpoint's scores others than those of its run. */
static void tell_differences(const fvg_clip *m, const char *checkpoint, int exif_rotate,
                             const fvg_weights *settings) {
  const model_match match = compare_model(m, settings);
  if (match == OTHER_MODEL) {
    fvg_log(m->ctx, 0,
            "%s was tuned on another model than that of --model; its scores may mean nothing",
            checkpoint);
  }
  if (match == OTHER_WEIGHTS) {
    fvg_log(m->ctx, 1,
            "%s was tuned on this model with other --weights; its scores differ a little",
            checkpoint);
  }
  if (!exif_rotate && fvg_weights_metadata(settings, "exif_rotate")) {
    fvg_log(m->ctx, 0,
            "%s was tuned with --exif-rotate; without it turned pictures are seen otherwise than "
            "in training",
            checkpoint);
  }
}

fvg_status open_checkpoint(fvg_clip *m, const learner_options *o, const char *checkpoint,
                           int exif_rotate, const fvg_dataset_card *card, const char *const *name,
                           int n, tuned_model *x) {
  if (o->trainer) return open_published(m, o, checkpoint, card, name, n, &x->l);
  fvg_status s = open_file_or_folder(m, checkpoint, x);
  if (!s)
    tell_differences(m, checkpoint, exif_rotate, x->head.head ? x->head.settings : x->settings);
  return s;
}

fvg_branch branch_of(const tuned_model *x, fvg_group half) {
  if (!x->l) return FVG_ZERO_SHOT;
  if (!x->f) return half == FVG_BASE ? FVG_TUNED : FVG_TUNED_NEW;
  return half == FVG_BASE ? FVG_BRANCH_BASE : FVG_BRANCH_NEW;
}

const char *template_of(const char *given, const fvg_weights *settings) {
  const char *tuned = settings ? fvg_weights_metadata(settings, "template") : NULL;
  if (given) return given;
  return tuned ? tuned : "a photo of a {}.";
}

/* ---- classifiers ---- */
/* Which of a head's classes the names are: match[i], -1 for none.  The head as it is scores its own
   classes in their order alone. */
static int is_own_list(const int *match, int n, int n_tuned) {
  for (int i = 0; i < n; i++) {
    if (match[i] != i) return 0;
  }
  return n == n_tuned;
}

static int are_all_new(const int *match, int n) {
  for (int i = 0; i < n; i++) {
    if (match[i] >= 0) return 0;
  }
  return 1;
}

/* The head for names that it has seen no pictures of, in x->for_new. */
static fvg_status head_for_new(fvg_clip *m, tuned_model *x, const char *prompt_template,
                               const char *const *name, int n) {
  const char *own = x->head.prompt_template;
  if (!prompt_template && *own) prompt_template = own;
  float *text = FVG_NEW_ARRAY(m->ctx, float, (size_t)n * (size_t)m->embed_dim);
  fvg_status s = text ? fvg_clip_encode_classes(m, text, prompt_template, name, n) : FVG_E_NOMEM;
  if (!s) s = fvg_head_for_new(x->head.head, &x->for_new, text, n);
  fvg_release(m->ctx, text);
  return s;
}

/* The head that scores these names. */
static fvg_status head_of_names(fvg_clip *m, tuned_model *x, const char *prompt_template,
                                const char *const *name, int n, fvg_head **head) {
  fvg_ctx *c = m->ctx;
  int n_tuned;
  const char *const *tuned = tuned_names(x, &n_tuned);
  const fvg_head_kind kind = fvg_head_is(x->head.head);
  int *match = FVG_NEW_ARRAY(c, int, (size_t)n);
  fvg_status s = match ? fvg_match_names(c, match, name, n, tuned, n_tuned) : FVG_E_NOMEM;
  const char *fitted_on = fvg_weights_metadata(x->head.settings, "fitted_on");
  *head = x->head.head;
  if (!s && !is_own_list(match, n, n_tuned)) {
    if (are_all_new(match, n) && fvg_head_knows_new(kind)) {
      s = head_for_new(m, x, prompt_template, name, n);
      *head = x->for_new;
    } else {
      s = fvg_fail(c, FVG_E_ARG,
                   "%s scores the %d class%s that it was fitted on, all and in their order%s; "
                   "leave --classes out (with eval: use --split-half %s)",
                   fvg_head_name(kind), n_tuned, n_tuned == 1 ? "" : "es",
                   fvg_head_knows_new(kind) ? ", or lists of new ones alone" : "",
                   fitted_on ? fitted_on : "base");
    }
  }
  fvg_release(c, match);
  return s;
}

fvg_status tuned_classifier(fvg_clip *m, fvg_classifier **out, tuned_model *x, fvg_group half,
                            const char *prompt_template, const char *const *name, int n,
                            const contrast_options *contrast) {
  if (!x->head.head) {
    return map_classifier(m, out, branch_of(x, half), x->l, x->f,
                          template_of(prompt_template, x->settings), name, n, contrast);
  }
  fvg_classifier_desc desc;
  memset(&desc, 0, sizeof desc);
  fvg_status s = head_of_names(m, x, prompt_template, name, n, &desc.head);
  return s ? s : fvg_classifier_new(m, out, name, n, &desc);
}

const char *const *tuned_names(const tuned_model *x, int *n) {
  if (x->l) return fvg_learner_class_names(x->l, n);
  *n = x->head.n_class;
  return x->head.class_name;
}

/* ---- class names ---- */
enum { LIST_BYTES = 190 };           /* of a message, for a list of names                        */

/* Writes the names that are tuned ones, or those that are not; "..." for what does not fit. */
static void list_names(const char *const *name, int n, const int *match, int tuned,
                       char text[LIST_BYTES]) {
  size_t at = 0;
  snprintf(text, LIST_BYTES, "none");
  for (int i = 0; i < n; i++) {
    if ((match[i] >= 0) != tuned) continue;
    const char *comma = at ? ", " : "";
    if (at + strlen(name[i]) + 10 > LIST_BYTES) {
      snprintf(text + at, LIST_BYTES - at, "%s...", comma);
      return;
    }
    at += (size_t)snprintf(text + at, LIST_BYTES - at, "%s%s", comma, name[i]);
  }
}

/* Compares the names with those that the learner was tuned on. */
static fvg_status half_of_names(fvg_ctx *c, const tuned_model *x, const char *const *name, int n,
                                fvg_group *half) {
  int n_tuned;
  const char *const *tuned = tuned_names(x, &n_tuned);
  int *match = FVG_NEW_ARRAY(c, int, (size_t)n);
  fvg_status s = FVG_E_NOMEM;
  if (match) s = fvg_match_names(c, match, name, n, tuned, n_tuned);

  if (!s) {
    int n_base = 0;
    for (int i = 0; i < n; i++) n_base += match[i] >= 0;
    *half = n_base == n ? FVG_BASE : FVG_NEW;

    char base[LIST_BYTES], fresh[LIST_BYTES];
    list_names(name, n, match, 1, base);
    list_names(name, n, match, 0, fresh);
    fvg_log(c, 1, "%d of %d names taken for base (tuned on): %s; %d for new: %s", n_base, n, base,
            n - n_base, fresh);
  }
  fvg_release(c, match);
  return s;
}

/* The path of what DPC made for new classes, beside a checkpoint, which may be named as its folder
   or as the file in it; 0: there is no such thing. */
static int find_new(const char *checkpoint, char *path, size_t size) {
  int length = (int)strlen(checkpoint);
  if (!is_folder(checkpoint)) {
    while (length && !is_slash(checkpoint[length - 1])) length--;
  }
  const char *slash = length && !is_slash(checkpoint[length - 1]) ? "/" : "";
  const int n = snprintf(path, size, "%.*s%snew/checkpoint.safetensors", length, checkpoint, slash);
  return n > 0 && (size_t)n < size && fvg_file_exists(path);
}

fvg_status choose_half(fvg_clip *m, const learner_options *o, const char *checkpoint,
                       tuned_model *x, const char *const *name, int n, fvg_group *half) {
  if ((!x->l && !x->head.head) || o->trainer) return FVG_OK;
  fvg_status s = half_of_names(m->ctx, x, name, n, half);
  char path[1200];
  const int is_dpc = x->settings && fvg_weights_metadata(x->settings, "dpc_weight");
  if (s || *half != FVG_NEW || !is_dpc || !find_new(checkpoint, path, sizeof path)) return s;
  fvg_log(m->ctx, 1, "%s is used, DPC's learner for new classes", path);
  tuned_model_free(m, x);
  return open_tuned_file(m, path, x);
}
