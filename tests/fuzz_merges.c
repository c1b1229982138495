/* Fuzzer for lists of merges (fvg_tokenizer_open) and for class names.  The first byte says what the rest is: 'm' a list
   of merges, 'v' the same with two bytes before it that are the size of a vocabulary, 'n' two names with a line end
   between them. */
#include "fuzz_words.h"

static int take_merges(const uint8_t *data, size_t n, int vocab_size) {
  static int id[MOST_TOKENS];
  fvg_source s = fvg_source_memory(data, n, "merges");
  fvg_tokenizer *k = NULL;
  const fvg_status status = fvg_tokenizer_open(own, &k, &s, vocab_size);
  if (!status != (k != NULL)) fault("status and result disagree");
  if (status) check_refusal(own, status);
  else if (tokens_of(k, own, "a photo of the cat", id) < 5) fault("a word is lost");
  fvg_tokenizer_free(k);
  return !status;
}

/* Names that mean the same have the same tokens, whichever comes first. */
static int take_names(const uint8_t *data, size_t n) {
  static int id[2][MOST_TOKENS];
  char *text = fuzz_text(data, n), *other = strchr(text, '\n');
  int same, match[2], count[2];
  if (!other) {
    free(text);
    return 0;
  }
  *other++ = 0;
  same = fvg_same_name(own, text, other);
  if (same != fvg_same_name(own, other, text)) fault("only one of two names is like the other");
  {
    const char *const name[2] = {text, other};
    if (fvg_match_names(own, match, name, 2, name, 2)) fault(fvg_error(own));
    if (match[0] != 0 || match[1] != !same) fault("a list of names and one name disagree");
  }
  fvg_tidy_name(text);
  fvg_tidy_name(other);
  count[0] = tokens_of(vocabulary, own, text, id[0]);
  count[1] = tokens_of(vocabulary, own, other, id[1]);
  if (same && (count[0] != count[1] || (count[0] > 0 && count[0] <= MOST_TOKENS &&
                                        memcmp(id[0], id[1], (size_t)count[0] * sizeof id[0][0]))))
    fault("names that mean the same have other tokens");
  free(text);
  return 1;
}

static int take(const uint8_t *data, size_t n) {
  if (!n) return 0;
  if (data[0] == 'm') return take_merges(data + 1, n - 1, 0);
  if (data[0] == 'v' && n > 2) return take_merges(data + 3, n - 3, data[1] | data[2] << 8);
  return take_names(data + 1, n - 1);
}

static int seed(fuzz_input *to, int i) {
  static const char *const text[] = {
    "nDark_Blue\n  dark   blue ", "ncaf\xC3\xA9\nCAFE\xCC\x81", "nrock &amp; roll\nRock_&_roll",
    "m#version: 0.2\na t</w>\nc at</w>\np h\no t\nph ot\n", "mheader\r\no f</w>\r\nt h\r\nth e</w>\r\n",
    "v\x04\x02#version: 0.2\na t</w>\nc at</w>\n", NULL};
  return seed_of_text(to, text, i);
}

static const char *const word[] = {
  "\xC4\xA0", "\xC5\x83", "ing</w>",
  "</w>", "#version: 0.2\n", "&amp;", "&lt;", "&#x", "&#38;", "&notin;", "&ngE;", "&NotEqualTilde;", "'ll", "'s", "\xE2\x80\x99",
  "\xCC\x81", "\xCC\xB8", "\xCD\x85", "\xE1\x84\x80\xE1\x85\xA1", "\xC4\xB0", "\xCE\xA3", "\xEF\xAC\x83", "\xEF\xBB\xBF",
  "\xE2\x80\x8B", "\xF0\x9F\x98\x80", "\xC3\x83\xC2\xA9", "\x1B[", "_", "\xC2\xA0", "\xE3\x80\x80", "\r\n",
  "\xED\xA0\x80", "\xF4\x90\x80\x80", NULL};

static const fuzz_target target = {3000, begin, take, seed, NULL, word, NULL};
