/* fvgpt quantise. */
#include "fvgpt_quantise.h"

typedef struct quantise_options {
  common_options common;
  const char *out;
} quantise_options;

static void declare(option_table *t, void *options) {
  quantise_options *o = (quantise_options *)options;
  add_common(t, &o->common);
  add_text(t, "--out", &o->out);
}

static fvg_status run(fvg_ctx *c, const void *options) {
  const quantise_options *o = (const quantise_options *)options;
  if (!o->common.model || !o->out)
    return fvg_fail(c, FVG_E_ARG, "quantise needs --model DIR and --out FILE.safetensors");
  if (o->common.weights)
    return fvg_fail(c, FVG_E_ARG, "quantise makes q8, so it takes no --weights");

  fvg_status s = fvg_clip_quantise(c, o->common.model, o->out);
  if (!s)
    fvg_log(c, 1, "%s: the configuration and the vocabulary of %s belong beside it", o->out,
            o->common.model);
  return s;
}

const fvgpt_command quantise_command = {"quantise", sizeof(quantise_options), declare, run};
