/* What pages of HTML share. */
#ifndef FVGPT_HTML_H
#define FVGPT_HTML_H

#include "fvgpt_print.h"

/* Puts a picture as the value of src="": it lies in the page itself, as PNG. */
void put_picture_data(document *t, const fvg_image *image);

#endif
