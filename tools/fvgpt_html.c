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

void put_page_start(document *t, const char *title, const char *style) {
  put(t,
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n<title>%s</title>\n"
      "<link rel=\"icon\" href=\"data:,\">\n<style>\n"
      ":root{--page:#fbfbfa;--ink:#1c2127;--soft:#59626d;--line:#dde1e6;--blue:#0a65b0;"
      "--orange:#b65200}\n"
      "@media(prefers-color-scheme:dark){:root{--page:#14171b;--ink:#e5e8eb;--soft:#9ea8b3;"
      "--line:#30363e;--blue:#69b1ff;--orange:#ffa04d}}\n",
      title);
  put(t,
      "body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,sans-serif}\n"
      "main{max-width:1120px;margin:0 auto;padding:1.6rem 1.1rem 3rem}\n"
      "h1{font-size:1.7rem;line-height:1.2}h2{font-size:1.3rem;margin:2.4rem 0 .2rem}\n"
      "p{margin:.3rem 0 .7rem;max-width:48rem}a{color:var(--blue)}\n"
      ".note,figcaption,footer,small{color:var(--soft);font-size:.88rem}\n"
      ".scroll{overflow-x:auto;margin:.5rem 0}figure{margin:.4rem 0 1rem}\n"
      "table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.93rem}\n"
      "th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid var(--line)}\n"
      "td,tbody th{white-space:nowrap}th{font-weight:600}thead th{color:var(--soft);"
      "font-size:.86rem;vertical-align:bottom}\n"
      "tbody th,th:first-child{text-align:left;padding-left:0}\n"
      "svg{display:block;width:100%%;height:auto;font:11px system-ui,sans-serif}\n"
      "svg text{fill:var(--soft)}.axis{stroke:var(--line);fill:none}\n"
      "footer{margin-top:3rem;padding-top:1rem;border-top:1px solid var(--line)}\n"
      "%s\n</style>\n</head>\n<body>\n<main>\n",
      style);
}

void put_page_end(document *t) { put(t, "</main>\n</body>\n</html>\n"); }
