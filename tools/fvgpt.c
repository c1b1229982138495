/* fvgpt - CLIP and prompt tuning from the command line.  `fvgpt` alone lists the commands.
   This file chooses the command; each command has a file of its own, and the work is done in the
   headers.  All files of the program are tools/fvgpt.c and tools/fvgpt_*.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvgpt_attend.h"
#include "fvgpt_cache.h"
#include "fvgpt_claim.h"
#include "fvgpt_classify.h"
#include "fvgpt_encode.h"
#include "fvgpt_eval.h"
#include "fvgpt_info.h"
#include "fvgpt_manual.h"
#include "fvgpt_masks.h"
#include "fvgpt_needs.h"
#include "fvgpt_options.h"
#include "fvgpt_paper.h"
#include "fvgpt_preprocess.h"
#include "fvgpt_print.h"
#include "fvgpt_quantise.h"
#include "fvgpt_report.h"
#include "fvgpt_system.h"
#include "fvgpt_table.h"
#include "fvgpt_tune.h"

static const fvgpt_command *const all_commands[] = {
  &info_command,
  &quantise_command,
  &tokenize_command,
  &preprocess_command,
  &encode_command,
  &classify_command,
  &attend_command,
  &masks_command,
  &tune_command,
  &paper_command,
  &table_command,
  &eval_command,
  &report_command,
};

static const fvgpt_command *find_command(const char *name) {
  for (size_t i = 0; i < sizeof all_commands / sizeof *all_commands; i++) {
    if (!strcmp(all_commands[i]->name, name)) return all_commands[i];
  }
  return NULL;
}

/* ---- help ---- */
typedef struct help_options {
  common_options common;
  text_list names;
} help_options;

static void declare_help(option_table *t, void *options) {
  help_options *o = (help_options *)options;
  add_common(t, &o->common);
  add_files(t, &o->names, NULL);
}

static const fvgpt_command help_command = {"help", sizeof(help_options), declare_help, NULL};

/* Prints a page, or without a name the list of them; returns the exit status. */
static int help(const char *name) {
  if (name && !print_page(name)) return 1;
  if (!name) print_overview();
  return finish_output() ? 0 : 1;
}

/* The last word counts: `help tune settings` is about settings. */
static int run_help(int argc, char **argv) {
  parsed_command x;
  int status = 1;
  parsed how = parse_command(&x, &help_command, argc, argv);
  if (how != PARSED_BADLY) {
    const text_list *name = &((const help_options *)x.options)->names;
    status = help(how == PARSED && name->n ? name->item[name->n - 1] : NULL);
  }
  parsed_command_free(&x);
  return status;
}

static int print_version(void) {
  printf("fvgpt %s\n", FVGPT_VERSION);
  return finish_output() ? 0 : 1;
}

/* ---- running a command ---- */
/* The library asks every few milliseconds, which is when the display can be looked after. */
static int is_stopped(void *user) {
  keep_showing((display *)user);
  return stopped_by() != 0 || claim_is_lost();
}

/* The level of that name, an fvg_simd; -1: there is none. */
static int simd_level(const char *name) {
  for (int i = 0; fvg_simd_name(i); i++) {
    if (!strcmp(fvg_simd_name(i), name)) return i;
  }
  return -1;
}

/* A context as the common options ask for it; 0: there is none, after a message. */
static int new_context(fvg_ctx **c, const common_options *o, display *d) {
  const int simd = o->simd ? simd_level(o->simd) : 0;
  if (simd < 0) {
    print(stderr,
          "fvgpt: --simd %s: scalar, sse2, avx2, avx512, neon, wasm or best is expected\n",
          o->simd);
    return 0;
  }
  const int n_threads = o->threads ? o->threads : default_threads();
  if (!n_threads) {
    print(stderr, "fvgpt: FVGPT_THREADS=%s: a whole number from 1 to 256 is expected\n",
          getenv("FVGPT_THREADS"));
    return 0;
  }

  fvg_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.user = d;
  desc.progress = show_progress;
  desc.log = show_log;
  desc.cancelled = is_stopped;
  desc.n_threads = n_threads;
  desc.simd = simd;
  catch_stops();
  if (fvg_init(c, &desc)) {
    print(stderr, "fvgpt: out of memory\n");
    return 0;
  }

  const int level = fvg_simd_level(*c);
  if (!simd || level == simd) return 1;
  print(stderr, "fvgpt: --simd %s: not on this CPU or in this build, which have %s\n", o->simd,
        fvg_simd_name(level));
  fvg_free(*c);
  return 0;
}

/* Says how a command ended, and returns the exit status: 0; 1 after an error; 128 and the signal's
   number when it was told to stop. */
static int exit_status(fvg_ctx *c, display *d, const fvgpt_command *command, fvg_status s) {
  if (s && stopped_by()) {
    const char *then = "begins anew";
    if (cache_was_open()) then = "begins anew, with the features that are in the cache";
    if (command == &masks_command) then = "goes on where it stopped";
    if (command == &tune_command || command == &paper_command)
      then = "goes on where it stopped, at most an epoch is lost";
    char said[120];
    snprintf(said, sizeof said, "stopped; the same command given again %s", then);
    show_log(d, 0, said);
    return 128 + stopped_by();
  }
  if (s) show_log(d, 0, fvg_error(c));
  return finish_output() && !s ? 0 : 1;
}

static int run_command(const fvgpt_command *command, int argc, char **argv) {
  parsed_command x;
  display d = new_display();
  int status = 1;
  fvg_ctx *c;
  const parsed how = parse_command(&x, command, argc, argv);
  if (how == PARSED_HELP) {
    status = help(command->name);
  } else if (how == PARSED && new_context(&c, x.common, &d)) {
    d.quiet = x.common->quiet;
    fvg_status s = check_needs(c, x.common);
    if (!s) s = command->run(c, x.options);
    status = exit_status(c, &d, command, s);
    fvg_free(c);
  }
  parsed_command_free(&x);
  return status;
}

int main(int argc, char **argv) {
  prepare_streams();
  if (!check_arguments(argc, argv)) return 1;
  const char *name = argc > 1 ? argv[1] : "help";
  if (!strcmp(name, "--version")) return print_version();
  if (!strcmp(name, "help") || is_help_option(name)) return run_help(argc, argv);

  const fvgpt_command *command = find_command(name);
  if (command) return run_command(command, argc, argv);
  tell_unknown_command(name);
  return 1;
}
