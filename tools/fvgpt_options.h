/* Options.  Every command declares its own in a table, with the place in its struct where each
   value goes; reading the command line is the same for all. */
#ifndef FVGPT_OPTIONS_H
#define FVGPT_OPTIONS_H

#include "../fvgpt_clip.h"

/* Values of an option that may be given several times, or the arguments that are no options. */
typedef struct text_list {
  const char **item;
  int n;
} text_list;

typedef struct option_table option_table;

/* What every command has. */
typedef struct common_options {
  const char *command;               /* its name                                                 */
  int argc;
  char **argv;
  int threads;                       /* 0: default_threads()                                     */
  const char *simd, *merges;         /* NULL: not given                                          */
  const char *weights;               /* f32, bf16 or q8; NULL: not given                         */
  const char *model;
  const option_table *table;         /* where all of the command's options are                   */
  const char *cache;                 /* NULL: not given                                          */
  int quiet;                         /* no progress and no notes                                 */
} common_options;

/* A command: declare fills its options, which are zeros before, with their defaults and puts them
   into the table; run does the work. */
typedef struct fvgpt_command {
  const char *name;
  size_t size;                       /* of its options                                           */
  void (*declare)(option_table *t, void *options);
  fvg_status (*run)(fvg_ctx *c, const void *options);
} fvgpt_command;

/* ---- declaring ---- */
/* The command's common_options; every command has them. */
void add_common(option_table *t, common_options *o);
void add_flag(option_table *t, const char *name, int *to);
void add_text(option_table *t, const char *name, const char **to);
void add_whole(option_table *t, const char *name, int *to, int low, int high);
void add_number(option_table *t, const char *name, double *to, double low, double high);
/* One of the words that stand in `words` with blanks between them; *to becomes its number. */
void add_word(option_table *t, const char *name, int *to, const char *words);
/* May be given several times. */
void add_list(option_table *t, const char *name, text_list *to);
/* take reads the value into `to`; 0: it makes no sense, after a message. */
typedef int (*take_fn)(void *to, const char *value);
void add_taken(option_table *t, const char *name, take_fn take, void *to);
/* Where arguments go that belong to no option; without this they are mistakes.  So are those
   behind the value of the option `quoted`, which may be NULL: there a quote was forgotten. */
void add_files(option_table *t, text_list *to, const char *quoted);

/* ---- reading the command line ---- */
typedef enum parsed { PARSED, PARSED_HELP, PARSED_BADLY } parsed;
typedef struct parsed_command {
  const fvgpt_command *command;
  void *options;
  common_options *common;
  option_table *table;
} parsed_command;
/* Reads argv[2] and the following ones.  PARSED_HELP: the command's help is asked for.
   PARSED_BADLY: a message has been printed.  To be freed in any case. */
parsed parse_command(parsed_command *x, const fvgpt_command *command, int argc, char **argv);
void parsed_command_free(parsed_command *x);
int is_help_option(const char *argument);
/* Says that an option of this name expects one of the words, with blanks between them, instead of
   text. */
void tell_words(const char *name, const char *text, const char *words);

/* Takes the first item, which may be empty, off a list with commas.  0: the list is at its end; -1:
   the item has more than size - 1 bytes, and is cut. */
int next_item(const char **list, char *item, size_t size);

/* ---- what was given ---- */
int is_given(const common_options *o, const char *name);
/* Visits every option that was given and is not among `except`, which ends with NULL, in the order
   in which the command declares them: its name, and its value, "on" for a flag.  One that was given
   several times is visited as often. */
typedef void (*visit_fn)(void *arg, const char *name, const char *value);
void visit_given(const common_options *o, const char *const *except, visit_fn visit, void *arg);

#endif
