/* A small vocabulary and what must hold of its tokens, for the fuzzers of texts and of merges. */
#ifndef FUZZ_WORDS_H
#define FUZZ_WORDS_H
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"

#include "fuzzing.h"

enum { MOST_TOKENS = 4096 };
static const char merges[] = "#version: 0.2\na t</w>\nc at</w>\np h\no t\nph ot\nphot o</w>\no f</w>\nt h\nth e</w>\n";
static fvg_ctx *own;
static fvg_tokenizer *vocabulary;

static void begin(void) {
  fvg_source s = fvg_source_memory(merges, sizeof merges - 1, "merges");
  own = fuzz_context();
  if (fvg_tokenizer_open(own, &vocabulary, &s, 0)) fault(fvg_error(own));
}

/* The tokens of a text, which do not depend on how many are asked for; -1 if it is refused. */
static int tokens_of(const fvg_tokenizer *k, fvg_ctx *c, const char *text, int *id) {
  int n = -1, full = -1, i;
  const fvg_status s = fvg_tokenize(k, id, MOST_TOKENS, &n, text);
  if (fvg_tokenize(k, NULL, 0, &full, text) != s) fault("the count depends on the room for it");
  if (s) {
    check_refusal(c, s);
    return -1;
  }
  if (n != full || n < 0) fault("two counts of one text");
  for (i = 0; i < n && i < MOST_TOKENS; i++)
    if (id[i] < 0 || id[i] >= fvg_tokenizer_vocab_size(k)) fault("a token that is not in the vocabulary");
  return n;
}
#endif
