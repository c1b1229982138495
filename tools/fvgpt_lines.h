/* Lists in files and on standard input. */
#ifndef FVGPT_LINES_H
#define FVGPT_LINES_H

#include "../fvgpt_clip.h"

typedef struct line_list {
  char *text;                        /* their storage                                            */
  char **line;                       /* none is empty                                            */
  int n;
} line_list;

/* The lines of a file; path "-": of standard input.  If there is a zero byte among them, zero bytes
   separate them instead (`find -print0`).  A list without any is an error.  To be freed in any
   case. */
fvg_status read_lines(fvg_ctx *c, const char *path, line_list *x);
void line_list_free(fvg_ctx *c, line_list *x);

/* How a message calls the list. */
const char *list_name(const char *path);

#endif
