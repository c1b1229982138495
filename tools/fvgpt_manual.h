/* What `fvgpt help` prints, and guesses at what a misspelt word was meant to be. */
#ifndef FVGPT_MANUAL_H
#define FVGPT_MANUAL_H

void print_whole_manual(void);
/* The manual's lines on one command, and those on all of them; 0: there is none of that name. */
int print_manual(const char *command);

enum { HINT_BYTES = 60 };
/* Into text "; did you mean tune?", with the nearest to `word` of the manual's commands, or of its
   options if word begins as one; "" when none is near.  Returns text. */
const char *hint(const char *word, char text[HINT_BYTES]);
/* Is this one of the manual's options? */
int is_known_option(const char *word);

#endif
