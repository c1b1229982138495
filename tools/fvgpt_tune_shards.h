/* A shard of a run of tune: it does the units of its own share that nobody else has claimed, then
   those that are left of the others', and the last one writes the tables. */
#ifndef FVGPT_TUNE_SHARDS_H
#define FVGPT_TUNE_SHARDS_H

#include "fvgpt_tune_list.h"

fvg_status run_shard(tuning *t);

#endif
