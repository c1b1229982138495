/* fvgpt info and fvgpt tokenize. */
#include "fvgpt_info.h"

#include <stdio.h>
#include <stdlib.h>

#include "fvgpt_checks.h"
#include "fvgpt_print.h"

/* Both commands have no options but the common ones. */
static void declare_common(option_table *t, void *options) {
  add_common(t, (common_options *)options);
}

/* ---- info ---- */
static void print_tower(const char *name, const fvg_transformer *t, int width) {
  print(stdout, "%-7s width %d, %d layers, %d heads, %s", name, width, t->n_layer, t->n_head,
        t->activation == FVG_GELU ? "gelu" : "quick_gelu");
}

static void print_preprocess(const fvg_preprocess *p) {
  static const char *const filter[] = {"bicubic", "nearest", "bilinear"};
  const int squashes = p->resize_mode == FVG_RESIZE_SQUASH;
  printf("pixels  %s to %d, %s", squashes ? "both sides" : "shorter side", p->resize,
         filter[p->filter]);
  if (p->resize > p->size || p->resize_mode == FVG_RESIZE_SHORTEST)
    printf(", centre %d x %d", p->size, p->size);

  const float *mean = p->mean;
  const float *std = p->std;
  printf("; mean %.4g %.4g %.4g, deviation %.4g %.4g %.4g\n", (double)mean[0], (double)mean[1],
         (double)mean[2], (double)std[0], (double)std[1], (double)std[2]);
}

static void print_vision(const fvg_vision_tower *v) {
  print_tower("image", &v->transformer, v->width);
  printf(", %d x %d pixels, patch %d, %d tokens\n", v->image_size, v->image_size, v->patch_size,
         v->n_token);
}

static void print_text(const fvg_clip *m) {
  print_tower("text", &m->text.transformer, m->text.width);
  printf(", context %d, vocabulary %d%s\n", m->text.context_length, m->text.vocab_size,
         m->tokenizer ? "" : " (merges not found)");
}

static fvg_status run_info(fvg_ctx *c, const void *options) {
  fvg_clip *m;
  fvg_status s = open_model(c, (const common_options *)options, &m);
  if (s) return s;
  if (m->has_vision) print_vision(&m->vision);
  if (m->has_text) print_text(m);
  if (m->has_vision) print_preprocess(&m->preprocess);
  printf("joint   width %d, exp(logit_scale) %.4g\n", m->embed_dim, (double)m->logit_scale);
  const char *kind = m->kept_as == FVG_Q8 ? "q8" : m->kept_as == FVG_BF16 ? "bf16" : "f32";
  printf("total   %lu parameters, %s; kernels: %s\n", (unsigned long)fvg_clip_parameter_count(m),
         kind, fvg_simd_name(fvg_simd_level(c)));
  fvg_clip_free(m);
  return FVG_OK;
}

const fvgpt_command info_command = {"info", sizeof(common_options), declare_common, run_info};

/* ---- tokenize ---- */
typedef struct line_buffer {
  char *text;
  size_t capacity;
} line_buffer;

static int grow(line_buffer *b) {
  const size_t capacity = b->capacity * 2 + 256;
  char *more = (char *)realloc(b->text, capacity);
  if (!more) return 0;
  b->text = more;
  b->capacity = capacity;
  return 1;
}

/* A line of stdin without its end.  NULL at the end of the input, and without feof when it cannot
   be read or held. */
static const char *read_line(line_buffer *b) {
  size_t n = 0;
  int ch = getchar();
  while (ch != EOF) {
    if (n + 1 >= b->capacity && !grow(b)) return NULL;
    if (ch == '\n') break;
    b->text[n++] = (char)ch;
    ch = getchar();
  }
  if (ch == EOF && (n == 0 || !feof(stdin))) return NULL;
  if (n && b->text[n - 1] == '\r') n--;
  b->text[n] = 0;
  return b->text;
}

static fvg_status print_tokens(fvg_ctx *c, const fvg_tokenizer *tokenizer, const char *line) {
  int n = 0;
  fvg_status s = fvg_tokenize(tokenizer, NULL, 0, &n, line);
  if (s) return s;
  int *ids = FVG_NEW_ARRAY(c, int, (size_t)n + 1);
  if (!ids) return FVG_E_NOMEM;

  s = fvg_tokenize(tokenizer, ids, n, &n, line);
  for (int i = 0; !s && i < n; i++) printf(i ? " %d" : "%d", ids[i]);
  if (!s) putchar('\n');
  fvg_release(c, ids);
  return s;
}

/* Prints the token ids of every line of stdin, a line each. */
static fvg_status run_tokenize(fvg_ctx *c, const void *options) {
  const common_options *o = (const common_options *)options;
  fvg_clip *m;
  fvg_status s = open_model(c, o, &m);
  if (!s && !m->tokenizer) {
    s = fvg_fail(c, FVG_E_IO,
                 "%s: no merges.txt or bpe_simple_vocab_16e6.txt; name one with --merges",
                 o->model);
  }

  line_buffer buffer = {NULL, 0};
  erase_progress();
  const char *line = s ? NULL : read_line(&buffer);
  while (!s && line) {
    s = print_tokens(c, m->tokenizer, line);
    if (!s) line = read_line(&buffer);
  }
  if (!s && !feof(stdin))
    s = fvg_fail(c, FVG_E_IO, "standard input: cannot be read to its end");
  free(buffer.text);
  fvg_clip_free(m);
  return s;
}

const fvgpt_command tokenize_command = {"tokenize", sizeof(common_options), declare_common,
                                        run_tokenize};
