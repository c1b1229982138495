/* What pages of HTML share. */
#ifndef FVGPT_HTML_H
#define FVGPT_HTML_H

#include "fvgpt_print.h"

/* Puts a picture as the value of src="": it lies in the page itself, as PNG. */
void put_picture_data(document *t, const fvg_image *image);

/* A page for tables and charts in light and dark, up to <main>, with further rules of style; and
   its end. */
void put_page_start(document *t, const char *title, const char *style);
void put_page_end(document *t);

#endif
