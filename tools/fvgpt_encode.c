/* fvgpt encode. */
#include "fvgpt_encode.h"

#include <stdio.h>
#include <string.h>

#include "fvgpt_cache.h"
#include "fvgpt_checks.h"
#include "fvgpt_pictures.h"
#include "fvgpt_print.h"
#include "fvgpt_shard.h"

typedef struct encode_options {
  common_options common;
  const char *out;
  const char *pixels;                /* a safetensors file; NULL: not given                      */
  picture_options pictures;
  text_list text;
  int exif_rotate;
  shard_option shard;
} encode_options;

/* Arguments that belong to no option are pictures, as in --image *.jpg. */
static void declare(option_table *t, void *options) {
  encode_options *o = (encode_options *)options;
  add_common(t, &o->common);
  add_cache(t, &o->common);
  add_text(t, "--out", &o->out);
  add_text(t, "--pixels", &o->pixels);
  add_list(t, "--image", &o->pictures.argument);
  add_list(t, "--text", &o->text);
  add_flag(t, "--exif-rotate", &o->exif_rotate);
  add_picture_options(t, &o->pictures, "--text");
  add_shard_option(t, &o->shard);
}

/* What becomes the file: rows of features, and JSON lists of what the rows are of. */
typedef struct encoded {
  float *image, *text;               /* [n_image, embed_dim], [n_text, embed_dim]                */
  int n_image, n_text, width;
  document files, texts;
} encoded;

/* Reads `images` [N, 3, H, W] of a safetensors file. */
static fvg_status load_pixels(fvg_clip *m, const char *path, fvg_tensor *images) {
  const int size = m->vision.image_size;
  memset(images, 0, sizeof *images);
  fvg_source source;
  fvg_status s = fvg_source_file(m->ctx, &source, path);
  fvg_weights *w = NULL;
  if (!s) s = fvg_weights_open(m->ctx, &w, &source);
  if (!s) s = fvg_weights_get(w, images, "images", FVG_F32);

  const int *dim = images->dim;
  const int fits = images->n_dim == 4 && dim[0] >= 1 && dim[1] == 3 && dim[2] == size &&
                   dim[3] == size;
  if (!s && !fits) {
    s = fvg_fail(m->ctx, FVG_E_SHAPE,
                 "%s: images must have shape [N, 3, %d, %d] for this model", path, size, size);
  }
  fvg_weights_close(w);
  return s;
}

/* Encodes the images of --pixels; row i is called FILE[i]. */
static fvg_status encode_pixels(fvg_clip *m, const char *path, const fvg_tensor *pixels,
                                encoded *x) {
  x->n_image = pixels->dim[0];
  fvg_status s =
      fvg_clip_encode_images(m, x->image, (const float *)pixels->data, x->n_image);
  for (int i = 0; i < x->n_image; i++) {
    char name[1100];
    snprintf(name, sizeof name, "%.1000s[%d]", path, i);
    put(&x->files, i ? ", " : "");
    put_json_string(&x->files, name);
  }
  return s;
}

/* Pictures that are encoded by one call, and between two reports. */
enum { AT_ONCE = 64 };

/* Leaves the good ones of n pictures, the first of which is number `first`, in file [*n]. */
static fvg_status leave_out_bad(fvg_clip *m, picture_list *pictures, int first, const char **file,
                                int *n) {
  fvg_ctx *c = m->ctx;
  const size_t size = (size_t)m->vision.image_size;
  float *chw = FVG_NEW_ARRAY(c, float, 3 * size * size);
  fvg_status s = chw ? FVG_OK : FVG_E_NOMEM;
  const int n_all = *n;
  *n = 0;
  for (int i = first; !s && i < first + n_all; i++) {
    fvg_image view;
    s = load_view(m, pictures, i, &view, chw);
    fvg_image_free(c, &view);
    if (s) s = step_over(c, s, pictures);
    else file[(*n)++] = pictures->file[i];
  }
  fvg_release(c, chw);
  return s;
}

/* Encodes the good ones of n pictures, the first of which is number `first`, to further rows. */
static fvg_status encode_some(fvg_clip *m, picture_list *pictures, int first, int n, encoded *x) {
  const char *file[AT_ONCE];
  for (int i = 0; i < n; i++) file[i] = pictures->file[first + i];
  float *rows = x->image + (size_t)x->n_image * (size_t)x->width;
  const int rotate = pictures->exif_rotate;
  fvg_status s = fvg_clip_encode_files(m, rows, file, n, rotate);

  /* The first bad one ended that. */
  if (s == FVG_E_IO || s == FVG_E_FORMAT || s == FVG_E_UNSUPPORTED) {
    s = leave_out_bad(m, pictures, first, file, &n);
    if (!s) s = fvg_clip_encode_files(m, rows, file, n, rotate);
  }
  for (int i = 0; !s && i < n; i++) {
    put(&x->files, x->n_image ? ", " : "");
    put_json_string(&x->files, file[i]);
    x->n_image++;
  }
  return s;
}

/* Encodes the good ones of all pictures. */
static fvg_status encode_pictures(fvg_clip *m, picture_list *pictures, encoded *x) {
  fvg_progress progress;
  memset(&progress, 0, sizeof progress);
  progress.what = "encode";
  progress.n_steps = pictures->n;
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < pictures->n; i += AT_ONCE) {
    const int n = pictures->n - i < AT_ONCE ? pictures->n - i : AT_ONCE;
    s = encode_some(m, pictures, i, n, x);
    progress.step = i + n;
    if (!s && pictures->n > AT_ONCE) s = fvg_report_progress(m->ctx, &progress);
  }
  return s;
}

static fvg_tensor matrix(float *data, int rows, int cols) {
  fvg_tensor x;
  memset(&x, 0, sizeof x);
  x.data = data;
  x.n_dim = 2;
  x.dim[0] = rows;
  x.dim[1] = cols;
  return x;
}

/* Saves the rows, and as metadata the JSON lists of what they are of. */
static fvg_status save_features(fvg_ctx *c, const encode_options *o, encoded *x) {
  put(&x->files, "]");
  put(&x->texts, "[");
  for (int i = 0; i < x->n_text; i++) {
    put(&x->texts, i ? ", " : "");
    put_json_string(&x->texts, o->text.item[i]);
  }
  put(&x->texts, "]");
  if (x->files.status || x->texts.status) return FVG_E_NOMEM;

  fvg_named_tensor out[2];
  fvg_metadata metadata[2];
  int n = 0;
  if (x->n_image) {
    metadata[n].key = "image_files";
    metadata[n].value = x->files.text;
    out[n].name = "image_features";
    out[n].tensor = matrix(x->image, x->n_image, x->width);
    n++;
  }
  if (x->n_text) {
    metadata[n].key = "texts";
    metadata[n].value = x->texts.text;
    out[n].name = "text_features";
    out[n].tensor = matrix(x->text, x->n_text, x->width);
    n++;
  }
  return fvg_safetensors_save(c, o->out, out, n, metadata, n);
}

/* ---- shards ---- */
/* Leaves a shard every N-th picture. */
static void leave_share(fvg_ctx *c, const shard_option *o, picture_list *x) {
  int kept = 0;
  for (int i = 0; i < x->n; i++) {
    if (i % o->count == o->number - 1) {
      x->file[kept] = x->file[i];
      x->fault[kept++] = x->fault[i];
    } else {
      fvg_release(c, x->file[i]);
      fvg_release(c, x->fault[i]);
    }
  }
  x->n = kept;
}

static void print_share(const encode_options *o, const encoded *x) {
  print(stdout,
        "shard %d/%d: %d pictures are in the cache; next, when all shards have ended: fvgpt encode "
        "without --shard%s%s\n",
        o->shard.number, o->shard.count, x->n_image, o->out ? ", which writes " : "",
        o->out ? o->out : "");
}

/* ---- the command ---- */
/* Encodes everything that is asked for, and saves it; a shard saves nothing. */
static fvg_status encode_all(fvg_clip *m, const encode_options *o, picture_list *pictures) {
  fvg_ctx *c = m->ctx;
  fvg_tensor pixels;
  memset(&pixels, 0, sizeof pixels);
  fvg_status s = o->pixels ? load_pixels(m, o->pixels, &pixels) : FVG_OK;
  if (s) {
    fvg_tensor_free(c, &pixels);
    return s;
  }

  encoded x;
  memset(&x, 0, sizeof x);
  x.width = m->embed_dim;
  x.n_text = o->shard.number ? 0 : o->text.n;
  x.files = new_document(c);
  x.texts = new_document(c);
  const size_t n_pixels = pixels.data ? (size_t)pixels.dim[0] : 0;
  const size_t width = (size_t)x.width;
  x.image = FVG_NEW_ARRAY(c, float, (n_pixels + (size_t)pictures->n) * width + 1);
  x.text = FVG_NEW_ARRAY(c, float, (size_t)x.n_text * width + 1);
  if (!x.image || !x.text) s = FVG_E_NOMEM;

  put(&x.files, "[");
  if (!s && n_pixels) s = encode_pixels(m, o->pixels, &pixels, &x);
  if (!s && pictures->n) s = encode_pictures(m, pictures, &x);
  if (!s && x.n_text) s = fvg_clip_encode_texts(m, x.text, o->text.item, x.n_text);
  if (!s && o->shard.number) print_share(o, &x);
  else if (!s && (x.n_image || x.n_text)) s = save_features(c, o, &x);
  fvg_release(c, x.files.text);
  fvg_release(c, x.texts.text);
  fvg_release(c, x.image);
  fvg_release(c, x.text);
  fvg_tensor_free(c, &pixels);
  return s;
}

static int has_features(const fvg_weights *w) {
  return fvg_weights_info(w, NULL, "image_features") || fvg_weights_info(w, NULL, "text_features");
}

static fvg_status check_options(fvg_ctx *c, const encode_options *o) {
  const int is_shard = o->shard.number > 0;
  if (is_shard && !names_pictures(&o->pictures))
    return fvg_fail(c, FVG_E_ARG, "--shard: shards of encode share pictures, and there are none");
  if (is_shard && o->pixels)
    return fvg_fail(c, FVG_E_ARG, "--shard: features of --pixels are not kept in the cache");
  if (!o->out && !is_shard) return fvg_fail(c, FVG_E_ARG, "encode needs --out F.safetensors");
  if (!o->pixels && !names_pictures(&o->pictures) && !o->text.n) {
    return fvg_fail(c, FVG_E_ARG, "encode needs something to encode: pictures, --text or "
                                  "--pixels");
  }
  return o->out ? check_out_file(c, o->out, has_features, "features") : FVG_OK;
}

static fvg_status run(fvg_ctx *c, const void *options) {
  const encode_options *o = (const encode_options *)options;
  picture_list pictures;
  fvg_clip *m = NULL;
  feature_cache *cache = NULL;
  memset(&pictures, 0, sizeof pictures);
  fvg_status s = check_options(c, o);
  if (!s) s = gather_pictures(c, &o->pictures, o->exif_rotate, &pictures);
  if (!s && o->shard.number) leave_share(c, &o->shard, &pictures);
  if (!s) s = open_model(c, &o->common, &m);
  if (!s && pictures.n) s = open_cache(m, &o->common, &cache);
  if (!s && pictures.n && o->shard.number && !cache)
    s = fvg_fail(c, FVG_E_ARG, "--shard: features go into the cache, and there is none (--cache)");
  if (!s) s = encode_all(m, o, &pictures);
  if (!s && o->shard.number && cache && cache_gave_up(cache))
    s = fvg_fail(c, FVG_E_IO, "--shard: the features could not be kept in the cache");
  close_cache(cache);
  if (!s) s = end_pictures(c, &pictures);
  pictures_free(c, &pictures);
  fvg_clip_free(m);
  return s;
}

const fvgpt_command encode_command = {"encode", sizeof(encode_options), declare, run};
