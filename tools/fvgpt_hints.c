/* Guesses; see fvgpt_hints.h. */
#include "fvgpt_hints.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "../fvgpt_clip.h"

enum { WORD = 40 };

static int differ(char a, char b) {
  return tolower((unsigned char)a) != tolower((unsigned char)b);
}

static int least(int a, int b) { return a < b ? a : b; }

/* Letters to put in, leave out, change, or swap with the next, to make a word of n letters another
   of m (restricted Damerau-Levenshtein distance).  Letter case makes no difference, and words are
   cut at WORD letters. */
static int distance(const char *a, int n, const char *b, int m) {
  int d[WORD + 1][WORD + 1];
  n = least(n, WORD);
  m = least(m, WORD);
  for (int i = 0; i <= n; i++) d[i][0] = i;
  for (int j = 0; j <= m; j++) d[0][j] = j;

  for (int i = 1; i <= n; i++) {
    for (int j = 1; j <= m; j++) {
      int best = d[i - 1][j - 1] + differ(a[i - 1], b[j - 1]);
      best = least(best, d[i - 1][j] + 1);
      best = least(best, d[i][j - 1] + 1);
      const int swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) best = least(best, d[i - 2][j - 2] + 1);
      d[i][j] = best;
    }
  }
  return d[n][m];
}

/* Of a short word only one letter may be wrong, of others two. */
guess guess_at(const char *word) {
  guess g;
  memset(&g, 0, sizeof g);
  g.word = word;
  g.far = strlen(word) < 4 ? 2 : 3;
  return g;
}

void try_name(guess *g, const char *name, size_t length) {
  if (length > WORD) return;
  const int far = distance(g->word, (int)strlen(g->word), name, (int)length);
  if (far >= g->far) return;
  g->name = name;
  g->length = length;
  g->far = far;
}

guess guess_method(const char *name) {
  guess g = guess_at(name);
  for (int i = 0; fvg_method_at(i); i++) {
    const char *known = fvg_method_name(fvg_method_at(i));
    try_name(&g, known, strlen(known));
  }
  return g;
}

const char *hint(const guess *g, char text[HINT_BYTES]) {
  text[0] = 0;
  if (g->name) snprintf(text, HINT_BYTES, "; did you mean %.*s?", (int)g->length, g->name);
  return text;
}
