/* fvgpt quantise. */
#include "fvgpt_quantise.h"

#include <stdio.h>
#include <string.h>

#include "fvgpt_checks.h"
#include "fvgpt_system.h"

typedef struct quantise_options {
  common_options common;
  const char *out;
} quantise_options;

static void declare(option_table *t, void *options) {
  quantise_options *o = (quantise_options *)options;
  add_common(t, &o->common);
  add_text(t, "--out", &o->out);
}

static int is_any(const fvg_weights *w) {
  (void)w;
  return 1;
}

static int has_eight_bits(const fvg_weights *w) {
  for (int i = 0; i < fvg_weights_count(w); i++) {
    fvg_tensor shape;
    if (fvg_weights_info(w, &shape, fvg_weights_name(w, i)) && shape.type == FVG_I8) return 1;
  }
  return 0;
}

enum { PATH_BYTES = 1100 };
/* The folder of a file, or "." if its path has none. */
static fvg_status folder_of(fvg_ctx *c, const char *file, char folder[PATH_BYTES]) {
  size_t n = strlen(file);
  if (n >= PATH_BYTES) return fvg_fail(c, FVG_E_ARG, "%.100s...: the path is too long", file);
  while (n && !is_slash(file[n - 1])) n--;
  snprintf(folder, PATH_BYTES, "%.*s", (int)n, n ? file : "");
  if (!n) snprintf(folder, PATH_BYTES, ".");
  return FVG_OK;
}

static int is_in(const char *folder, const char *name) {
  char path[PATH_BYTES + 80];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return !is_absent(path);
}

/* Is a file of the model's folder, other than weights, still missing beside the new ones? */
static int lacks_files(const char *from, const char *to) {
  static const char *const name[] = {
    "config.json", "open_clip_config.json", "preprocessor_config.json", "processor_config.json",
    "merges.txt", "bpe_simple_vocab_16e6.txt",
  };
  for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
    if (is_in(from, name[i]) && !is_in(to, name[i])) return 1;
  }
  return 0;
}

static fvg_status run(fvg_ctx *c, const void *options) {
  const quantise_options *o = (const quantise_options *)options;
  const char *model = o->common.model;
  if (!model || !o->out)
    return fvg_fail(c, FVG_E_ARG, "quantise needs --model DIR and --out FILE.safetensors");
  if (o->common.weights)
    return fvg_fail(c, FVG_E_ARG, "quantise makes q8, so it takes no --weights");

  char from[PATH_BYTES], to[PATH_BYTES];
  fvg_status s = folder_of(c, o->out, to);
  if (!s && is_folder(model)) snprintf(from, sizeof from, "%.1000s", model);
  else if (!s) s = folder_of(c, model, from);
  if (s) return s;

  /* In the model's own folder only an earlier result may be replaced. */
  const int is_inside = is_same_path(from, to);
  s = check_out_file(c, o->out, is_inside ? has_eight_bits : is_any,
                     is_inside ? "weights of eight bits" : "weights");
  if (!s && !is_absent(model)) s = make_folders(c, to);
  if (!s) s = fvg_clip_quantise(c, model, o->out);
  if (!s && lacks_files(from, to))
    fvg_log(c, 1, "%s: the configuration and the vocabulary of %s belong beside it", o->out, model);
  return s;
}

const fvgpt_command quantise_command = {"quantise", sizeof(quantise_options), declare, run};
