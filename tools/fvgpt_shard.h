/* --shard K/N: several processes, on one machine or on many, share the work of one command.  Each
   is given a number K of N, by hand or by the batch system that starts it. */
#ifndef FVGPT_SHARD_H
#define FVGPT_SHARD_H

#include "fvgpt_options.h"

typedef struct shard_option {
  int number, count;                 /* K from 1, N; number 0: not given                         */
} shard_option;
void add_shard_option(option_table *t, shard_option *o);

/* The first of n pieces of work that this shard begins with, and the first that it does not: every
   shard has a stretch of its own.  Without --shard it is all of them. */
void share_of(const shard_option *o, int n, int *first, int *end);

#endif
