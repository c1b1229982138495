/* What `fvgpt help` prints: pages, each of which fits a screen of 24 lines of 80 columns. */
#ifndef FVGPT_MANUAL_H
#define FVGPT_MANUAL_H

/* The list of all pages. */
void print_overview(void);
/* The page of that name, in any letter case: of a command, a topic or a method.  0: there is none,
   after a message. */
int print_page(const char *name);

/* The message that there is no such command. */
void tell_unknown_command(const char *name);

#endif
