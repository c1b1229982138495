/* Features that are kept on disk from run to run, in the folder of --cache. */
#ifndef FVGPT_CACHE_H
#define FVGPT_CACHE_H

#include "fvgpt_options.h"

/* The option of commands that encode pictures by CLIP's own tower. */
void add_cache(option_table *t, common_options *o);

typedef struct feature_cache feature_cache;

/* Lends the model the features of the folder that --cache, or else the environment, names.  *x is
   NULL where there is to be none; a folder that cannot be made is only told. */
fvg_status open_cache(fvg_clip *m, const common_options *o, feature_cache **x);
/* Has this process had a cache? */
int cache_was_open(void);
/* Could new features not be written? */
int cache_gave_up(const feature_cache *x);
/* Takes them back, and says how many were used; NULL is allowed. */
void close_cache(feature_cache *x);

#endif
