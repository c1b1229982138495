/* Reading the command line; see fvgpt_options.h. */
#include "fvgpt_options.h"

#include <stdlib.h>
#include <string.h>

#include "fvgpt_hints.h"
#include "fvgpt_print.h"

typedef enum option_kind { FLAG, TEXT, WHOLE, NUMBER, WORD, LIST, TAKEN } option_kind;

typedef struct option {
  const char *name;
  option_kind kind;
  void *to;
  double low, high;                  /* of WHOLE and NUMBER                                      */
  const char *words;                 /* of WORD                                                  */
  take_fn take;                      /* of TAKEN                                                 */
} option;

enum { MAX_OPTIONS_OF_COMMAND = 64, MAX_LISTS = 8 };

/* An option of the command line: its number in the table, and its value. */
typedef struct given_option {
  int option;
  const char *value;
} given_option;

struct option_table {
  option option[MAX_OPTIONS_OF_COMMAND];
  int n;
  given_option *given;               /* [n_given]                                                */
  int n_given;
  text_list *list[MAX_LISTS];        /* whose memory is to be freed                              */
  int n_list;
  common_options *common;
  text_list *files;                  /* NULL: the command takes none                             */
  const char *quoted;
  const char *misplaced;             /* the first argument that belongs to no option             */
  int argc;
  int is_out_of_memory;
  int is_full;                       /* 1: there is no room for a command's options              */
  option left_over;                  /* what has no place then                                   */
};

/* ---- declaring ---- */
static option *add_option(option_table *t, const char *name, option_kind kind, void *to) {
  const int fits = t->n < MAX_OPTIONS_OF_COMMAND;
  option *x = fits ? &t->option[t->n++] : &t->left_over;
  if (!fits) t->is_full = 1;
  memset(x, 0, sizeof *x);
  x->name = name;
  x->kind = kind;
  x->to = to;
  return x;
}

/* No list can be longer than the command line. */
static void add_memory(option_table *t, text_list *list) {
  if (t->n_list == MAX_LISTS) {
    t->is_full = 1;
    return;
  }
  list->item = (const char **)calloc((size_t)t->argc, sizeof *list->item);
  t->list[t->n_list++] = list;
  if (!list->item) t->is_out_of_memory = 1;
}

static int take_weights(void *to, const char *text) {
  if (strcmp(text, "f32") && strcmp(text, "bf16") && strcmp(text, "q8")) {
    print(stderr, "fvgpt: --weights %s: f32, bf16 or q8 is expected\n", text);
    return 0;
  }
  *(const char **)to = text;
  return 1;
}

void add_common(option_table *t, common_options *o) {
  t->common = o;
  add_whole(t, "--threads", &o->threads, 1, 256);
  add_text(t, "--simd", &o->simd);
  add_text(t, "--merges", &o->merges);
  add_text(t, "--model", &o->model);
  add_taken(t, "--weights", take_weights, (void *)&o->weights);
  add_flag(t, "--quiet", &o->quiet);
}

void add_flag(option_table *t, const char *name, int *to) { add_option(t, name, FLAG, to); }

void add_text(option_table *t, const char *name, const char **to) {
  add_option(t, name, TEXT, (void *)to);
}

void add_whole(option_table *t, const char *name, int *to, int low, int high) {
  option *x = add_option(t, name, WHOLE, to);
  x->low = low;
  x->high = high;
}

void add_number(option_table *t, const char *name, double *to, double low, double high) {
  option *x = add_option(t, name, NUMBER, to);
  x->low = low;
  x->high = high;
}

void add_word(option_table *t, const char *name, int *to, const char *words) {
  add_option(t, name, WORD, to)->words = words;
}

void add_list(option_table *t, const char *name, text_list *to) {
  add_option(t, name, LIST, to);
  if (!to->item) add_memory(t, to);
}

void add_taken(option_table *t, const char *name, take_fn take, void *to) {
  add_option(t, name, TAKEN, to)->take = take;
}

void add_files(option_table *t, text_list *to, const char *quoted) {
  t->files = to;
  t->quoted = quoted;
  if (!to->item) add_memory(t, to);
}

/* ---- values ---- */
/* A number in full, within bounds; 0 and a message otherwise. */
static int take_number(const option *x, const char *text, double *out) {
  char *end;
  const double number = strtod(text, &end);
  if (*text && !*end && number >= x->low && number <= x->high) {
    *out = number;
    return 1;
  }
  print(stderr, "fvgpt: %s %s: a number from %g to %g is expected\n", x->name, text, x->low,
        x->high);
  return 0;
}

static int take_whole(const option *x, const char *text, int *out) {
  double number;
  if (!take_number(x, text, &number)) return 0;
  *out = (int)number;
  if (*out == number) return 1;
  print(stderr, "fvgpt: %s %s: a whole number is expected\n", x->name, text);
  return 0;
}

/* "a b c" as "a, b or c". */
void tell_words(const char *name, const char *text, const char *words) {
  char list[400] = "";
  const char *at = words;
  while (*at) {
    const size_t n = strcspn(at, " ");
    const char *comma = !*list ? "" : at[n] ? ", " : " or ";
    const size_t end = strlen(list);
    snprintf(list + end, sizeof list - end, "%s%.*s", comma, (int)n, at);
    at += n + (at[n] == ' ');
  }
  print(stderr, "fvgpt: %s %s: %s is expected\n", name, text, list);
}

static int take_word(const option *x, const char *text, int *out) {
  const size_t n = strlen(text);
  const char *at = x->words;
  int i = 0;
  while (*at) {
    const size_t length = strcspn(at, " ");
    if (length == n && !strncmp(at, text, n)) {
      *out = i;
      return 1;
    }
    at += length;
    if (*at == ' ') at++;
    i++;
  }
  tell_words(x->name, text, x->words);
  return 0;
}

static void take_item(text_list *list, const char *text) { list->item[list->n++] = text; }

/* Remembers an option as it was given. */
static void keep_given(option_table *t, const option *x, const char *value) {
  given_option *to = &t->given[t->n_given++];
  to->option = (int)(x - t->option);
  to->value = value;
}

/* 0: the value makes no sense, after a message. */
static int take_value(option_table *t, const option *x, const char *text) {
  keep_given(t, x, text);
  switch (x->kind) {
    case TEXT: *(const char **)x->to = text; return 1;
    case WHOLE: return take_whole(x, text, (int *)x->to);
    case NUMBER: return take_number(x, text, (double *)x->to);
    case WORD: return take_word(x, text, (int *)x->to);
    case LIST: take_item((text_list *)x->to, text); return 1;
    case TAKEN: return x->take(x->to, text);
    case FLAG: break;
  }
  return 1;
}

/* ---- the command line ---- */
int is_help_option(const char *argument) {
  return !strcmp(argument, "-h") || !strcmp(argument, "--help");
}

static const option *find_option(const option_table *t, const char *name, size_t length) {
  for (int i = 0; i < t->n; i++) {
    const char *known = t->option[i].name;
    if (strlen(known) == length && !strncmp(known, name, length)) return &t->option[i];
  }
  return NULL;
}

static void tell_unknown(const option_table *t, const char *argument) {
  const char *command = t->common->command;
  char text[80], advice[HINT_BYTES];
  snprintf(text, sizeof text, "%.*s", (int)strcspn(argument, "="), argument);
  guess g = guess_at(text);
  for (int i = 0; i < t->n; i++) try_name(&g, t->option[i].name, strlen(t->option[i].name));
  print(stderr, "fvgpt: %s has no option %s%s (see `fvgpt help %s`)\n", command, text,
        hint(&g, advice), command);
}

/* Takes the option that argument *i names, and its value, behind = or in the next argument; *i is
   then the last of the two. */
static int take_option(option_table *t, char **argv, int *i) {
  const char *argument = argv[*i];
  const char *equals = strchr(argument, '=');
  const size_t length = equals ? (size_t)(equals - argument) : strlen(argument);
  const option *x = find_option(t, argument, length);
  if (!x) {
    tell_unknown(t, argument);
    return 0;
  }
  if (equals && x->kind == FLAG) {
    print(stderr, "fvgpt: %s: %s takes no value\n", argument, x->name);
    return 0;
  }
  if (x->kind == FLAG) {
    *(int *)x->to = 1;
    keep_given(t, x, "on");
    return 1;
  }
  if (equals) return take_value(t, x, equals + 1);

  if (*i + 1 == t->argc) {
    print(stderr, "fvgpt: %s needs a value\n", argument);
    return 0;
  }
  ++*i;
  return take_value(t, x, argv[*i]);
}

/* -model instead of --model. */
static int lacks_a_dash(const option_table *t, const char *argument) {
  char text[80];
  if (argument[0] != '-' || argument[1] == '-') return 0;
  const size_t n = strcspn(argument, "=");
  if (n + 2 > sizeof text || n < 3) return 0;
  snprintf(text, sizeof text, "-%.*s", (int)n, argument);
  if (!find_option(t, text, n + 1)) return 0;
  print(stderr, "fvgpt: %s: options begin with two dashes; did you mean %s?\n", argument, text);
  return 1;
}

/* Takes an argument that belongs to no option, or remembers the first that should not be there. */
static void take_file(option_table *t, const char *argument, int behind_quoted) {
  if (t->files && !behind_quoted) take_item(t->files, argument);
  else if (!t->misplaced) t->misplaced = argument;
}

/* Behind -- all arguments are files.  A file that should not be there is told of only when all
   else makes sense. */
static parsed parse_arguments(option_table *t, int argc, char **argv) {
  int behind_quoted = 0;
  int only_files = 0;

  for (int i = 2; i < argc; i++) {
    const char *argument = argv[i];
    const int is_option = argument[0] == '-' && argument[1] == '-';
    if (only_files) {
      take_file(t, argument, 0);
    } else if (is_help_option(argument)) {
      return PARSED_HELP;
    } else if (!strcmp(argument, "--")) {
      only_files = 1;
    } else if (is_option) {
      behind_quoted = t->quoted && !strcmp(argument, t->quoted);
      if (!take_option(t, argv, &i)) return PARSED_BADLY;
    } else if (lacks_a_dash(t, argument)) {
      return PARSED_BADLY;
    } else {
      take_file(t, argument, behind_quoted);
    }
  }
  if (!t->misplaced) return PARSED;
  char pictures[80] = "";
  if (t->files)
    snprintf(pictures, sizeof pictures, "; put pictures before %s or behind --", t->quoted);
  print(stderr,
        "fvgpt: %s: \"%s\" belongs to no option (one value each; quote values with blanks%s)\n",
        t->common->command, t->misplaced, pictures);
  return PARSED_BADLY;
}

/* The table lives as long as the options, because its lists are part of them. */
parsed parse_command(parsed_command *x, const fvgpt_command *command, int argc, char **argv) {
  memset(x, 0, sizeof *x);
  x->command = command;
  x->options = calloc(1, command->size);
  x->table = (option_table *)calloc(1, sizeof *x->table);
  if (x->options && x->table) {
    x->table->argc = argc;
    x->table->given = (given_option *)calloc((size_t)argc, sizeof *x->table->given);
    if (!x->table->given) x->table->is_out_of_memory = 1;
    command->declare(x->table, x->options);
  }
  if (!x->options || !x->table || x->table->is_out_of_memory) {
    print(stderr, "fvgpt: out of memory\n");
    return PARSED_BADLY;
  }

  if (x->table->is_full) {
    print(stderr, "fvgpt: %s has more options than fvgpt_options.c has room for\n", command->name);
    return PARSED_BADLY;
  }

  x->common = x->table->common;
  x->common->command = command->name;
  x->common->table = x->table;
  x->common->argc = argc;
  x->common->argv = argv;
  return parse_arguments(x->table, argc, argv);
}

void parsed_command_free(parsed_command *x) {
  for (int i = 0; x->table && i < x->table->n_list; i++) free((void *)x->table->list[i]->item);
  if (x->table) free(x->table->given);
  free(x->table);
  free(x->options);
  memset(x, 0, sizeof *x);
}

int next_item(const char **list, char *item, size_t size) {
  const size_t n = strcspn(*list, ",");
  if (!**list) return 0;
  snprintf(item, size, "%.*s", (int)n, *list);
  *list += n;
  if (**list) ++*list;
  return n < size ? 1 : -1;
}

static int is_among(const char *name, const char *const *names) {
  for (int i = 0; names[i]; i++) {
    if (!strcmp(names[i], name)) return 1;
  }
  return 0;
}

int is_given(const common_options *o, const char *name) {
  const option_table *t = o->table;
  for (int k = 0; k < t->n_given; k++) {
    if (!strcmp(t->option[t->given[k].option].name, name)) return 1;
  }
  return 0;
}

void visit_given(const common_options *o, const char *const *except, visit_fn visit, void *arg) {
  const option_table *t = o->table;
  for (int i = 0; i < t->n; i++) {
    if (is_among(t->option[i].name, except)) continue;
    for (int k = 0; k < t->n_given; k++) {
      if (t->given[k].option == i) visit(arg, t->option[i].name, t->given[k].value);
    }
  }
}
