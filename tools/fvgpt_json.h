/* Reading JSON files that this program wrote: reports, plans, results. */
#ifndef FVGPT_JSON_H
#define FVGPT_JSON_H

#include "../fvgpt_clip.h"

/* Reads a JSON file; to be freed with fvg_json_free in any case. */
fvg_status load_json(fvg_ctx *c, fvg_json *j, const char *path);

/* The number of a key; 0: there is none. */
int json_number(const fvg_json *j, int object, const char *key, double *out);
/* The first value of a list; -1: there is none. */
int json_first(const fvg_json *j, int object, const char *key);
/* Copies the string of a key; 0: there is none that fits. */
int json_text(const fvg_json *j, int object, const char *key, char *to, size_t size);

#endif
