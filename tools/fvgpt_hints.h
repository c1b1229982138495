/* Guesses at what a misspelt word was meant to be. */
#ifndef FVGPT_HINTS_H
#define FVGPT_HINTS_H

#include <stddef.h>

enum { HINT_BYTES = 100 };

/* The nearest so far of the names that were tried. */
typedef struct guess {
  const char *word;
  const char *name;                  /* NULL: none is near                                       */
  size_t length;
  int far;                           /* letters that are wrong in it                             */
} guess;

guess guess_at(const char *word);
/* A name of so many letters. */
void try_name(guess *g, const char *name, size_t length);
/* The method whose name is nearest to this one. */
guess guess_method(const char *name);
/* Into text "; did you mean tune?", or "".  Returns text. */
const char *hint(const guess *g, char text[HINT_BYTES]);

#endif
