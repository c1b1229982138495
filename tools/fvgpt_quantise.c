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

/* Is the file the model, or does it lie in the model's folder? */
static int is_of_model(const char *model, const char *file) {
  char folder[1300];
  if (is_same_path(model, file)) return 1;
  size_t n = strlen(file);
  if (n >= sizeof folder) return 0;
  memcpy(folder, file, n + 1);
  while (n && !is_slash(folder[n - 1])) n--;
  folder[n] = 0;
  return is_same_path(model, n ? folder : ".");
}

static fvg_status run(fvg_ctx *c, const void *options) {
  const quantise_options *o = (const quantise_options *)options;
  if (!o->common.model || !o->out)
    return fvg_fail(c, FVG_E_ARG, "quantise needs --model DIR and --out FILE.safetensors");
  if (o->common.weights)
    return fvg_fail(c, FVG_E_ARG, "quantise makes q8, so it takes no --weights");

  const int is_inside = is_of_model(o->common.model, o->out);
  fvg_status s = check_out_file(c, o->out, is_inside ? has_eight_bits : is_any,
                                is_inside ? "weights of eight bits" : "weights");
  if (!s) s = fvg_clip_quantise(c, o->common.model, o->out);
  if (!s)
    fvg_log(c, 1, "%s: the configuration and the vocabulary of %s belong beside it", o->out,
            o->common.model);
  return s;
}

const fvgpt_command quantise_command = {"quantise", sizeof(quantise_options), declare, run};
