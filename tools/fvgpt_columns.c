/* Columns; see fvgpt_columns.h. */
#include "fvgpt_columns.h"

#include <stdio.h>
#include <string.h>

#include "fvgpt_print.h"

/* ---- columns ---- */
/* Bytes that continue a letter are not counted, nor are accents that are put over one. */
int text_columns(const char *text) {
  const unsigned char *at = (const unsigned char *)text;
  size_t left = strlen(text);
  int n = 0;
  while (left) {
    const size_t length = fvg_utf8_length(at, left);
    const uint32_t letter = length ? fvg_utf8_read(at, length) : '?';
    const int is_accent = letter >= 0x300 && letter < 0x370;
    if (!is_accent) n++;
    at += length ? length : 1;
    left -= length ? length : 1;
  }
  return n;
}

int column_width(int least, const char *name) {
  const int n = text_columns(name);
  return n > least ? n : least;
}

static int blanks(const char *name, int width) {
  return column_width(width, name) - text_columns(name);
}

void print_left(const char *name, int width) {
  print(stdout, "%s%*s", name, blanks(name, width), "");
}

void print_right(const char *name, int width) {
  print(stdout, "%*s%s", blanks(name, width), "", name);
}

/* ---- lines ---- */
word_lines begin_words(int indent) {
  word_lines x = {0, 0, 0};
  x.indent = indent;
  x.at = indent;
  return x;
}

void print_word(word_lines *x, const char *word) {
  enum { SCREEN_COLUMNS = 80 };
  const int n = text_columns(word);
  if (x->n) x->at += printf(",");
  if (x->n && x->at + n + 2 >= SCREEN_COLUMNS) x->at = printf("\n%*s", x->indent, "") - 1;
  else if (x->n) x->at += printf(" ");
  print(stdout, "%s", word);
  x->at += n;
  x->n++;
}
