/* --shard; see fvgpt_shard.h. */
#include "fvgpt_shard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvgpt_print.h"

enum { MOST_SHARDS = 100000 };

/* ---- batch systems ---- */
/* The number of an environment variable; 0: there is none. */
static int number_of(const char *variable, long *out) {
  const char *text = variable ? getenv(variable) : NULL;
  if (!text || !*text) return 0;
  char *end;
  *out = strtol(text, &end, 10);
  return !*end;
}

/* Rank and size as a launcher tells them; without one the process is the only of its kind.  mpirun
   in a job of Slurm's leaves all its processes the variables of the one task that started it, so
   its own are asked first. */
static void ask_ranks(long *rank, long *size) {
  static const char *const known[][2] = {
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
    {"PMI_RANK", "PMI_SIZE"},
    {"SLURM_PROCID", "SLURM_NTASKS"},
  };
  *rank = 0;
  *size = 0;
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    if (number_of(known[i][0], rank) && number_of(known[i][1], size)) return;
  }
  *rank = 0;
  *size = 0;
}

/* A job array: numbers from SLURM_ARRAY_TASK_MIN to MAX, STEP apart.  Each of its jobs may be
   several tasks by itself, which srun starts. */
static int ask_batch_system(shard_option *o) {
  long rank, size, task, least, most, step;
  ask_ranks(&rank, &size);
  if (number_of("SLURM_ARRAY_TASK_ID", &task) && number_of("SLURM_ARRAY_TASK_MIN", &least) &&
      number_of("SLURM_ARRAY_TASK_MAX", &most)) {
    if (!number_of("SLURM_ARRAY_TASK_STEP", &step) || step < 1) step = 1;
    if (size < 1) size = 1;
    rank += (task - least) / step * size;
    size *= (most - least) / step + 1;
  }
  if (size < 1 || size > MOST_SHARDS || rank < 0 || rank >= size) return 0;
  o->number = (int)rank + 1;
  o->count = (int)size;
  return 1;
}

/* ---- the option ---- */
static int take_shard(void *to, const char *value) {
  shard_option *o = (shard_option *)to;
  char tail;
  if (!strcmp(value, "auto")) {
    if (ask_batch_system(o)) return 1;
    print(stderr,
          "fvgpt: --shard auto: SLURM_ARRAY_TASK_ID (with _MIN and _MAX), SLURM_PROCID and "
          "SLURM_NTASKS, OMPI_COMM_WORLD_RANK and _SIZE, or PMI_RANK and PMI_SIZE are expected in "
          "the environment; no complete pair of them is set\n");
    return 0;
  }
  const int is_read = sscanf(value, "%d/%d%c", &o->number, &o->count, &tail) == 2;
  if (is_read && o->number >= 1 && o->number <= o->count && o->count <= MOST_SHARDS) return 1;
  print(stderr, "fvgpt: --shard %s: K/N, with K from 1 to N, or auto is expected\n", value);
  return 0;
}

void add_shard_option(option_table *t, shard_option *o) {
  add_taken(t, "--shard", take_shard, o);
}

void share_of(const shard_option *o, int n, int *first, int *end) {
  const int64_t number = o->number ? o->number : 1;
  const int64_t count = o->number ? o->count : 1;
  *first = (int)((number - 1) * n / count);
  *end = (int)(number * n / count);
}
