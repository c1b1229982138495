/* What pages of HTML share; see fvgpt_html.h. */
#include "fvgpt_html.h"

static void put_base64(document *t, const uint8_t *bytes, size_t n) {
  static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  char *to = room_for(t, (n + 2) / 3 * 4);
  if (!to) return;
  for (size_t i = 0; i < n; i += 3) {
    unsigned long three = (unsigned long)bytes[i] << 16;
    if (i + 1 < n) three |= (unsigned long)bytes[i + 1] << 8;
    if (i + 2 < n) three |= bytes[i + 2];
    to[0] = digit[three >> 18];
    to[1] = digit[three >> 12 & 63];
    to[2] = i + 1 < n ? digit[three >> 6 & 63] : '=';
    to[3] = i + 2 < n ? digit[three & 63] : '=';
    to += 4;
  }
  *to = 0;
  t->n = (size_t)(to - t->text);
}

void put_picture_data(document *t, const fvg_image *image) {
  if (t->status) return;
  uint8_t *bytes;
  size_t n;
  t->status = fvg_image_encode_png(t->c, &bytes, &n, image);
  if (t->status) return;
  put(t, "data:image/png;base64,");
  put_base64(t, bytes, n);
  fvg_release(t->c, bytes);
}
