/* Fuzzer for texts: fvg_tokenize, and what else the tokenizer's chapter and fvg_printable do with them. */
#include "fuzz_words.h"

/* Nothing is left in a printable text that a terminal obeys, and it is printable. */
static void check_printable(char *text) {
  const size_t n = strlen(text);
  size_t at, length;
  char *again;
  fvg_printable(text);
  if (strlen(text) > n) fault("a printable text is longer");
  for (at = 0; text[at]; at += length) {
    const uint8_t *p = (const uint8_t *)text + at;
    length = fvg_utf8_length(p, strlen(text + at));
    if (!length || fvg_is_control(fvg_utf8_read(p, length))) fault("a text that cannot be printed");
  }
  again = fuzz_text((const uint8_t *)text, strlen(text));
  fvg_printable(again);
  if (strcmp(text, again)) fault("a printable text changes");
  free(again);
}

static int take(const uint8_t *data, size_t n) {
  static int id[MOST_TOKENS];
  char *text = fuzz_text(data, n), *tidy = fuzz_text(data, n), *again;
  const int count = tokens_of(vocabulary, own, text, id);
  fvg_tidy_name(tidy);
  again = fuzz_text((const uint8_t *)tidy, strlen(tidy));
  fvg_tidy_name(again);
  if (strcmp(tidy, again)) fault("a tidy name changes");
  if (n % 16 == 3) {                                   /* seldom, for it makes tables of all characters anew     */
    if (!fvg_same_name(own, text, text)) fault("a name is not itself");
    if (count >= 0 && !fvg_same_name(own, text, tidy)) fault("a tidy name is another");
  }
  check_printable(text);
  free(text);
  free(tidy);
  free(again);
  return count >= 0;
}

static int seed(fuzz_input *to, int i) {
  static const char *const text[] = {
    "A photo of a caf\xC3\xA9, it's 12 of the cat.",
    "&lt;b&gt; &amp;eacute; &#233;&#x1F600; &notit; &copy 2020 we'll",
    "e\xCC\x81\xCC\xA3 \xEF\xAC\x81 \xE1\xBA\x9E \xC4\xB0 \xCE\xA3\xCE\x91\xCE\xA3 \xEA\xB0\x80\xE1\x86\xA8",
    "\xE2\x80\x99s \xC3\xA2\xE2\x82\xAC\xE2\x84\xA2 \xF0\x9F\x98\x80\xE2\x80\x8D \x1B[31mred\x1B[0m \xC2\xA0_x_",
    "Dark_Blue  dark   blue ", "A_&_B's ..!?", NULL};
  return seed_of_text(to, text, i);
}

static const char *const word[] = {
  "&amp;", "&lt;", "&#x", "&#38;", "&notin;", "&ngE;", "&NotEqualTilde;", "'ll", "'s", "\xE2\x80\x99",
  "\xCC\x81", "\xCC\xB8", "\xCD\x85", "\xE1\x84\x80\xE1\x85\xA1", "\xC4\xB0", "\xCE\xA3", "\xEF\xAC\x83", "\xEF\xBB\xBF",
  "\xE2\x80\x8B", "\xF0\x9F\x98\x80", "\xC3\x83\xC2\xA9", "\x1B[", "_", "\xC2\xA0", "\xE3\x80\x80", "\r\n",
  "\xED\xA0\x80", "\xF4\x90\x80\x80", "photo", NULL};

static const fuzz_target target = {20000, begin, take, seed, NULL, word, NULL};
