/* Names in columns and in lines. */
#ifndef FVGPT_COLUMNS_H
#define FVGPT_COLUMNS_H

#include <stddef.h>

/* How many columns a text takes: one for each letter, however many bytes it has. */
int text_columns(const char *text);
/* The width of a column: at least so many, and wide enough for its name. */
int column_width(int least, const char *name);
/* Prints a name on stdout and fills its column up, behind the name or before it. */
void print_left(const char *name, int width);
void print_right(const char *name, int width);

/* Words on stdout with commas between them, in lines no longer than a screen is wide. */
typedef struct word_lines {
  int indent;                        /* columns before the words of each line                    */
  int at;                            /* columns in the line so far                               */
  int n;                             /* words so far                                             */
} word_lines;
/* The line has been begun: `indent` columns are printed. */
word_lines begin_words(int indent);
void print_word(word_lines *x, const char *word);

#endif
