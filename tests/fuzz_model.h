/* The CLIP of 8 columns that the fuzzers of models, checkpoints and runs have. */
#ifndef FUZZ_MODEL_H
#define FUZZ_MODEL_H
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"

#include "fuzzing.h"
#include "small_model.h"

static fvg_clip *open_model(fvg_ctx *c, const uint8_t *data, size_t n, const char *config_json) {
  fvg_source s = fvg_source_memory(data, n, "model");
  fvg_weights *w;
  fvg_clip *m = NULL;
  if (fvg_weights_open_any(c, &w, &s)) return NULL;
  if (fvg_clip_load(c, &m, w, config_json, FVG_F32) == FVG_OK && !m) fault("status and result disagree");
  fvg_weights_close(w);
  return m;
}

static fvg_ctx *own;                                   /* of the good model, for checkpoints                        */
static fvg_clip *good_clip;
static fuzz_input good_model;

static void make_good_model(void) {
  fvg_source s = fvg_source_memory(merges, sizeof merges - 1, "merges");
  if (good_clip) return;
  if (!own) own = fuzz_context();
  make_model(own, append, &good_model);
  good_clip = open_model(own, good_model.data, good_model.n, config);
  if (!good_clip || fvg_tokenizer_open(own, &good_clip->tokenizer, &s, VOCAB)) fault(fvg_error(own));
}

/* The tape keeps what it has reserved. */
static inline void forget_tape(fvg_clip *m) {
  fvg_tape_free(m->tape);
  m->tape = NULL;
}
#endif
