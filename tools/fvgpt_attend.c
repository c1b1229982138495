/* fvgpt attend. */
#include "fvgpt_attend.h"

#include <stdio.h>
#include <string.h>

#include "fvgpt_checks.h"
#include "fvgpt_learners.h"
#include "fvgpt_pictures.h"
#include "fvgpt_print.h"
#include "fvgpt_sets.h"
#include "fvgpt_system.h"

typedef struct attend_options {
  common_options common;
  learner_options learner;
  data_options data;                 /* where masks are                                          */
  const char *checkpoint, *out;      /* NULL: not given                                          */
  text_list text;
  int map;                           /* a map_choice                                             */
  contrast_options contrast;
  picture_options pictures;
} attend_options;

static void declare(option_table *t, void *options) {
  attend_options *o = (attend_options *)options;
  add_common(t, &o->common);
  add_learner_options(t, &o->learner);
  add_data_options(t, &o->data, MASKS_AS_GIVEN);
  add_text(t, "--checkpoint", &o->checkpoint);
  add_text(t, "--out", &o->out);
  add_list(t, "--text", &o->text);
  add_word(t, "--map", &o->map, "relevance gradcam attention all");
  add_contrast_options(t, &o->contrast);
  add_picture_options(t, &o->pictures, NULL);
}

/* ---- which maps ---- */
/* --map, in the order of its words; all: one after the other. */
typedef enum map_choice { MAP_RELEVANCE, MAP_GRAD_CAM, MAP_ATTENTION, MAP_ALL } map_choice;
static const char *const map_word[MAP_ALL] = {"relevance", "gradcam", "attention"};
static const fvg_map_kind map_kind[MAP_ALL] = {FVG_RELEVANCE, FVG_GRAD_CAM, FVG_CLS_ATTENTION};

static int is_chosen(int choice, int map) { return choice == map || choice == MAP_ALL; }

/* ---- names of maps ---- */
enum { NAME_BYTES = 320, PATH_BYTES = 1400 };        /* longest file names have 255 bytes        */

typedef struct map_name {
  char text[NAME_BYTES];
} map_name;

/* A map of a picture is DIR/NAME_relevance.png, and so on. */
static void map_path(char path[PATH_BYTES], const char *folder, const map_name *name, int map) {
  snprintf(path, PATH_BYTES, "%s/%s_%s.png", folder, name->text, map_word[map]);
}

/* The name of a picture's maps is the file's without folder and ending, with _2, _3, ... behind it
   until it is none of the n names before. */
static void name_maps(const char *file, const map_name *before, int n, map_name *name) {
  const char *start = file;
  for (const char *at = file; *at; at++) {
    if (*at == '/' || *at == '\\') start = at + 1;
  }
  const char *dot = strrchr(start, '.');
  int length = dot && dot > start ? (int)(dot - start) : (int)strlen(start);
  if (length > 255) length = 255;
  snprintf(name->text, NAME_BYTES, "%.*s", length, start);

  int copy = 1;
  int i = 0;
  while (i < n) {
    if (strcmp(before[i].text, name->text)) {
      i++;
      continue;
    }
    copy++;
    snprintf(name->text, NAME_BYTES, "%.*s_%d", length, start, copy);
    i = 0;                           /* The new name may be taken as well. */
  }
}

/* The number of the picture that is the file of this path; -1: none of them. */
static int find_picture(const file_identity *picture, int n, const char *path) {
  file_identity x;
  if (!identify_file(path, &x)) return -1;
  for (int i = 0; i < n; i++) {
    if (picture[i].volume == x.volume && picture[i].number == x.number) return i;
  }
  return -1;
}

/* No map may be written over a picture, however --out is spelled. */
static fvg_status keep_inputs(fvg_ctx *c, const picture_list *pictures, const attend_options *o,
                              const map_name *name) {
  const int n = pictures->n;
  file_identity *picture = FVG_NEW_ARRAY(c, file_identity, (size_t)n);
  fvg_status s = picture ? FVG_OK : FVG_E_NOMEM;
  for (int i = 0; !s && i < n; i++) (void)identify_file(pictures->file[i], &picture[i]);
  for (int k = 0; !s && k < MAP_ALL * n; k++) {
    const int map = k % MAP_ALL;
    char path[PATH_BYTES];
    map_path(path, o->out, &name[k / MAP_ALL], map);
    const int i = is_chosen(o->map, map) ? find_picture(picture, n, path) : -1;
    if (i < 0) continue;
    s = fvg_fail(c, FVG_E_ARG, "%s is a picture and would be the map of %s; choose another --out",
                 pictures->file[i], pictures->file[k / MAP_ALL]);
  }
  fvg_release(c, picture);
  return s;
}

static fvg_status name_all_maps(fvg_ctx *c, const picture_list *pictures, const attend_options *o,
                                map_name **names) {
  *names = FVG_NEW_ARRAY(c, map_name, (size_t)pictures->n);
  if (!*names) return FVG_E_NOMEM;
  for (int i = 0; i < pictures->n; i++) name_maps(pictures->file[i], *names, i, *names + i);
  return keep_inputs(c, pictures, o, *names);
}

/* ---- maps ---- */
/* What looks at the pictures: a classifier, and the one of its classes that is asked about. */
typedef struct onlooker {
  fvg_clip *m;
  const attend_options *o;
  tuned_model tuned;
  fvg_classifier *k;
  int n_class, label;
  fvg_dataset d;                     /* of --data                                                */
  int is_told;                       /* 1: that a picture is not one of its                      */
} onlooker;

/* Without a checkpoint the text is a whole caption.  With one it is a class among the tuned ones:
   alone, a new class would leave the gate of prior calibration no two distributions to compare. */
static fvg_status make_classifier(onlooker *x, const attend_options *o, char *text) {
  fvg_ctx *c = x->m->ctx;
  const char *const only = text;
  x->n_class = 1;
  x->label = 0;
  if (!x->tuned.l && !x->tuned.head.head) {
    return map_classifier(x->m, &x->k, FVG_ZERO_SHOT, NULL, NULL, "{}", &only, 1, &o->contrast);
  }

  fvg_tidy_name(text);
  fvg_group half = FVG_BASE;
  fvg_status s = choose_half(x->m, &o->learner, o->checkpoint, &x->tuned, &only, 1, &half);
  int n;
  const char *const *tuned = tuned_names(&x->tuned, &n);
  int match = -1;
  if (!s) s = fvg_match_names(c, &match, &only, 1, tuned, n);
  const char **name = FVG_NEW_ARRAY(c, const char *, (size_t)n + 1);
  if (!s && !name) s = FVG_E_NOMEM;

  if (!s) {
    memcpy(name, tuned, (size_t)n * sizeof *name);
    name[n] = text;
    x->label = match >= 0 ? match : n;
    x->n_class = match >= 0 ? n : n + 1;
    s = tuned_classifier(x->m, &x->k, &x->tuned, half, o->learner.prompt_template, name,
                         x->n_class, &o->contrast);
  }
  fvg_release(c, (void *)name);
  return s;
}

/* The rest of a path behind a folder, which one of its parts is, however the folder is spelled;
   NULL: none of them.  The path's parts come from the end on, so that the rest is short. */
static char *behind(char *path, const char *folder) {
  for (size_t i = strlen(path); i > 0; i--) {
    if (!is_slash(path[i - 1])) continue;
    const char kept = path[i];
    path[i] = 0;
    const int is_here = is_same_path(path, folder);
    path[i] = kept;
    if (is_here) return path + i;
  }
  return NULL;
}

/* The picture's path in the data set of --data, into text; NULL: it is not one of its pictures,
   which is told once. */
static const char *path_inside(onlooker *x, const char *file, char text[PATH_BYTES]) {
  char *inside = absolute_path(file, text, PATH_BYTES) ? behind(text, x->d.root) : NULL;
  for (char *at = inside; at && *at; at++) {
    if (is_slash(*at)) *at = '/';
  }
  if (!inside && !x->is_told) {
    fvg_log(x->m->ctx, 1, "%s is not in %s, so its map is not measured", file, x->d.root);
    x->is_told = 1;
  }
  return inside;
}

/* The mask of a picture of --data as the view sees it; no pixels: there is none. */
static fvg_status load_mask(onlooker *x, const char *file, fvg_image *mask) {
  memset(mask, 0, sizeof *mask);
  char text[PATH_BYTES];
  const char *inside = x->d.root ? path_inside(x, file, text) : NULL;
  if (!inside) return FVG_OK;

  fvg_item item;
  memset(&item, 0, sizeof item);
  item.path = inside;
  fvg_ctx *c = x->m->ctx;
  fvg_image picture, whole;
  fvg_status s = fvg_dataset_load(&x->d, &picture, &whole, &item, 0.5f);
  fvg_preprocess as_view = x->m->preprocess;
  as_view.filter = FVG_NEAREST;
  if (!s && whole.pixels) s = fvg_image_test_transform(c, mask, &whole, &as_view);
  fvg_image_free(c, &picture);
  fvg_image_free(c, &whole);
  return s;
}

/* Draws one map of a view over it, saves it as `path`, and prints a line about it. */
static fvg_status draw_map(const onlooker *x, const fvg_image *view, const char *file,
                           const fvg_image *mask, const float *map, double score,
                           const char *path) {
  fvg_ctx *c = x->m->ctx;
  fvg_image overlay;
  fvg_status s = fvg_image_overlay(c, &overlay, view, map);
  if (!s) s = fvg_image_save(c, &overlay, path);
  fvg_image_free(c, &overlay);
  if (s) return s;

  print(stdout, "%s  %.4f  %s", file, score, path);
  if (mask->pixels) {
    printf("  inside %.1f  hottest %s  IoU %.1f", 100 * fvg_foreground_share(map, mask),
           fvg_hottest_inside(map, mask) > 0 ? "in" : "out", 100 * fvg_map_iou(map, mask));
  }
  printf("\n");
  return FVG_OK;
}

/* Saves the maps of a view. */
static fvg_status attend_view(const onlooker *x, const fvg_image *view, const float *chw,
                              const char *file, const fvg_image *mask, const map_name *name) {
  fvg_ctx *c = x->m->ctx;
  const size_t size = (size_t)x->m->vision.image_size;
  const size_t width = (size_t)fvg_learner_feature_width(x->m, x->tuned.l);
  float *map = FVG_NEW_ARRAY(c, float, size * size);
  float *row = FVG_NEW_ARRAY(c, float, width);
  float *logits = FVG_NEW_ARRAY(c, float, (size_t)x->n_class);

  fvg_status s = map && row && logits ? FVG_OK : FVG_E_NOMEM;
  if (!s) s = fvg_learner_encode_images(x->m, x->tuned.l, row, chw, 1);
  if (!s) s = fvg_classifier_logits(x->k, logits, NULL, row, 1);
  for (int i = 0; !s && i < MAP_ALL; i++) {
    if (!is_chosen(x->o->map, i)) continue;
    char path[PATH_BYTES];
    map_path(path, x->o->out, name, i);
    s = fvg_attention_map(x->k, map, chw, x->label, map_kind[i]);
    if (!s) s = draw_map(x, view, file, mask, map, (double)logits[x->label], path);
  }
  fvg_release(c, logits);
  fvg_release(c, row);
  fvg_release(c, map);
  return s;
}

static fvg_status attend_all(onlooker *x, picture_list *pictures, const map_name *names) {
  fvg_ctx *c = x->m->ctx;
  const size_t size = (size_t)x->m->vision.image_size;
  float *chw = FVG_NEW_ARRAY(c, float, 3 * size * size);
  fvg_status s = chw ? FVG_OK : FVG_E_NOMEM;
  for (int i = 0; !s && i < pictures->n; i++) {
    const char *file = pictures->file[i];
    fvg_image view, mask;
    memset(&mask, 0, sizeof mask);
    s = load_view(x->m, pictures, i, &view, chw);
    if (!s) s = load_mask(x, file, &mask);
    if (s) s = step_over(c, s, pictures);
    else s = attend_view(x, &view, chw, file, &mask, &names[i]);
    if (!s) s = tell_done(c, pictures, "attend", i);
    fvg_image_free(c, &view);
    fvg_image_free(c, &mask);
  }
  fvg_release(c, chw);
  return s ? s : end_pictures(c, pictures);
}

/* ---- the command ---- */
static fvg_status check_options(fvg_ctx *c, const attend_options *o) {
  if (!o->text.n || !o->out || !*o->out || !names_pictures(&o->pictures))
    return fvg_fail(c, FVG_E_ARG, "attend needs --text STR, --out DIR and pictures");
  if (o->text.n > 1) {
    return fvg_fail(c, FVG_E_ARG, "attend takes one --text, there are %d; run it once for each",
                    o->text.n);
  }
  if (strlen(o->out) > 1000) return fvg_fail(c, FVG_E_ARG, "--out: the path is too long");
  if (o->data.data.n > 1) {
    return fvg_fail(c, FVG_E_ARG, "attend takes one --data, there are %d", o->data.data.n);
  }
  if (!o->checkpoint && o->contrast.against == AGAINST_CLASSES) {
    return fvg_fail(c, FVG_E_ARG, "--against classes needs --checkpoint: a text alone has no "
                                  "other classes");
  }
  return FVG_OK;
}

/* Opens the data set and the checkpoint, if there are any, names the maps of all pictures and draws
   them. */
static fvg_status attend(fvg_clip *m, const attend_options *o, picture_list *pictures) {
  fvg_ctx *c = m->ctx;
  onlooker x;
  memset(&x, 0, sizeof x);
  x.m = m;
  x.o = o;
  const char *given = o->text.item[0];
  char *text = fvg_copy_string(c, given);
  map_name *names = NULL;

  fvg_status s = text ? FVG_OK : FVG_E_NOMEM;
  const char *root = o->data.data.n ? o->data.data.item[0] : NULL;
  if (!s && (root || o->data.dataset)) s = open_data(c, &o->data, root, &x.d);
  if (!s && o->checkpoint) {
    s = open_checkpoint(m, &o->learner, o->checkpoint, o->data.exif_rotate, NULL, &given, 1,
                        &x.tuned);
  }
  if (!s) s = make_classifier(&x, o, text);
  if (!s) s = make_folders(c, o->out);
  if (!s) s = name_all_maps(c, pictures, o, &names);
  if (!s) s = attend_all(&x, pictures, names);
  fvg_release(c, names);
  fvg_release(c, text);
  fvg_classifier_free(x.k);
  tuned_model_free(x.m, &x.tuned);
  fvg_dataset_free(&x.d);
  return s;
}

static fvg_status run(fvg_ctx *c, const void *options) {
  const attend_options *o = (const attend_options *)options;
  fvg_status s = check_options(c, o);
  if (s) return s;
  picture_list pictures;
  fvg_clip *m = NULL;
  s = gather_pictures(c, &o->pictures, o->data.exif_rotate, &pictures);
  if (!s) s = check_out_folder(c, o->out);
  if (!s) s = open_image_model(c, &o->common, &m);
  if (!s) s = attend(m, o, &pictures);
  pictures_free(c, &pictures);
  fvg_clip_free(m);
  return s;
}

const fvgpt_command attend_command = {"attend", sizeof(attend_options), declare, run};
