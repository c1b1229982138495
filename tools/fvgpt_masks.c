/* fvgpt masks.  Masks that are there already stay, whoever made them, so that a run that was
   stopped goes on. */
#include "fvgpt_masks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvgpt_checks.h"
#include "fvgpt_foreground.h"
#include "fvgpt_html.h"
#include "fvgpt_sets.h"
#include "fvgpt_shard.h"
#include "fvgpt_system.h"

typedef struct masks_options {
  common_options common;
  data_options data;
  foreground_options foreground;
  const char *out;                   /* NULL: the data set's own folder of masks                 */
  const char *text;                  /* what to look for; NULL: each picture's class             */
  int any;                           /* 1: the classes of training pictures are not looked at    */
  int sheet;                         /* pictures on the sheet                                    */
  shard_option shard;
} masks_options;

static void declare(option_table *t, void *options) {
  masks_options *o = (masks_options *)options;
  o->sheet = 200;
  add_common(t, &o->common);
  add_data_options(t, &o->data, MASKS_AS_GIVEN);
  add_foreground_options(t, &o->foreground);
  add_text(t, "--out", &o->out);
  add_text(t, "--text", &o->text);
  add_flag(t, "--any-class", &o->any);
  add_whole(t, "--sheet", &o->sheet, 0, 100000);
  add_shard_option(t, &o->shard);
}

/* ---- masks.csv ---- */
/* A line of it, for a mask that CLIP made. */
typedef struct made_mask {
  double confidence, foreground;     /* foreground: its share of the picture                     */
  const char *path;                  /* one of the data set's                                    */
} made_mask;

typedef struct mask_run {
  const masks_options *o;
  fvg_clip *m;
  fvg_dataset d;
  fvg_foreground *x;
  char folder[1100], table[1200], sheet[1200];
  made_mask *made;                   /* at most one for each picture, n_made in use              */
  int n_made;
  int n_new, n_there, n_left;        /* masks that this run made, that were there, and that are
                                        left to other shards                                     */
  int is_cut;                        /* 1: the table's last line is not whole                    */
  int tidies;                        /* 1: shards were here, whose folders are gone through      */
  mask_writer writer;
} mask_run;

static const fvg_items *part_of(const fvg_dataset *d, int part) {
  const fvg_items *const parts[3] = {&d->train, &d->val, &d->test};
  return parts[part];
}

/* The data set's own copy of a path; NULL: it has no such picture. */
static const char *known_path(const fvg_dataset *d, const char *path) {
  for (int part = 0; part < 3; part++) {
    const fvg_items *items = part_of(d, part);
    for (int i = 0; i < items->n; i++) {
      if (!strcmp(items->item[i].path, path)) return items->item[i].path;
    }
  }
  return NULL;
}

/* Keeps what is known of a mask, in the place of what was known of one of the same picture. */
static void keep_made(mask_run *r, const made_mask *x) {
  int i = 0;
  while (i < r->n_made && r->made[i].path != x->path) i++;
  r->made[i] = *x;
  if (i == r->n_made) r->n_made++;
}

/* Takes the quotes of CSV off a field, in place; one without them stays as it is. */
static void unquote(char *field) {
  const size_t n = strlen(field);
  if (n < 2 || field[0] != '"' || field[n - 1] != '"') return;
  field[n - 1] = 0;
  char *to = field;
  for (const char *from = field + 1; *from; from++) {
    if (from[0] == '"' && from[1] == '"') from++;
    *to++ = *from;
  }
  *to = 0;
}

/* Reads a line "confidence,foreground,path"; one that is cut off, or of no picture, is passed over.
   Older versions wrote paths without quotes, whatever was in them. */
static void read_line(mask_run *r, char *line) {
  made_mask x;
  int at = 0;
  if (sscanf(line, "%lf,%lf,%n", &x.confidence, &x.foreground, &at) != 2 || !at) return;
  char *end = strrchr(line, '\n');
  if (!end) return;
  *end = 0;
  x.path = known_path(&r->d, line + at);
  if (!x.path) {
    unquote(line + at);
    x.path = known_path(&r->d, line + at);
  }
  if (x.path) keep_made(r, &x);
}

/* Does the path begin with a quote that the line does not close? */
static int has_open_quote(const char *line) {
  const char *comma = strchr(line, ',');
  if (comma) comma = strchr(comma + 1, ',');
  if (!comma || comma[1] != '"') return 0;
  int n = 0;
  for (const char *at = comma; *at; at++) n += *at == '"';
  return n % 2;
}

/* What an earlier run wrote; a table that is not there is an empty one. */
static void read_table(mask_run *r, const char *path) {
  FILE *f = fopen(path, "r");
  if (!f) return;
  char line[2200];
  while (fgets(line, sizeof line, f)) {
    /* The line goes on if its path has a line's end. */
    size_t n = strlen(line);
    while (has_open_quote(line) && n + 1 < sizeof line &&
           fgets(line + n, (int)(sizeof line - n), f))
      n += strlen(line + n);
    r->is_cut = !n || line[n - 1] != '\n';
    read_line(r, line);
  }
  fclose(f);
}

static void put_line(document *d, const made_mask *x) {
  put(d, "%.3f,%.3f,", x->confidence, x->foreground);
  put_csv_field(d, x->path);
  put(d, "\n");
}

/* Adds a mask to the table. */
static fvg_status add_line(mask_run *r, const made_mask *x) {
  fvg_ctx *c = r->m->ctx;
  const int is_new = !fvg_file_exists(r->table);
  FILE *f = fopen(r->table, "a");
  if (!f) return fvg_fail(c, FVG_E_IO, "%s: cannot be written", r->table);
  if (is_new) fputs("confidence,foreground,picture\n", f);
  if (r->is_cut) fputs("\n", f);
  r->is_cut = 0;
  document line = new_document(c);
  put_line(&line, x);
  if (!line.status) fwrite(line.text, 1, line.n, f);
  const fvg_status s = line.status;
  fvg_release(c, line.text);
  const int failed = ferror(f);
  if (fclose(f) || failed) return fvg_fail(c, FVG_E_IO, "%s: cannot be written", r->table);
  if (!s) keep_made(r, x);
  return s;
}

/* ---- the tables of shards ---- */
/* Every shard writes a table of its own, masks.K-of-N.csv, beside masks.csv. */
static int is_table_of_shard(const char *name) {
  int number, count;
  char tail[8];
  return sscanf(name, "masks.%d-of-%d.%7s", &number, &count, tail) == 3 && !strcmp(tail, "csv");
}

#ifdef FVGPT_DIRENT
typedef void (*table_fn)(mask_run *r, const char *path);
typedef struct table_visit {
  mask_run *r;
  table_fn visit;
  int n;
} table_visit;

static void visit_table(void *to, const char *name, int is_folder) {
  table_visit *x = (table_visit *)to;
  char path[1200];
  if (is_folder || !is_table_of_shard(name)) return;
  snprintf(path, sizeof path, "%.1100s/%.90s", x->r->folder, name);
  if (x->visit) x->visit(x->r, path);
  x->n++;
}

/* Visits the shards' tables; returns how many there are. */
static int visit_tables(mask_run *r, table_fn visit) {
  table_visit x = {r, visit, 0};
  (void)fvg_list_folder(NULL, r->folder, visit_table, &x);
  return x.n;
}

static void remove_table(mask_run *r, const char *path) {
  (void)r;
  remove(path);
}

/* Writes masks.csv anew, with the shards' lines among the others, as one run would have written it:
   in the order of the data set. */
static fvg_status merge_tables(mask_run *r) {
  if (r->o->shard.number || !visit_tables(r, NULL)) return FVG_OK;
  visit_tables(r, read_table);
  r->tidies = 1;
  document d = new_document(r->m->ctx);
  put(&d, "confidence,foreground,picture\n");
  for (int part = 0; part < 3; part++) {
    const fvg_items *items = part_of(&r->d, part);
    for (int i = 0; i < items->n; i++) {
      int k = 0;
      while (k < r->n_made && r->made[k].path != items->item[i].path) k++;
      if (k == r->n_made) continue;
      put_line(&d, &r->made[k]);
    }
  }
  fvg_status s = save_document(&d, r->table);
  r->is_cut = 0;
  if (!s) visit_tables(r, remove_table);
  return s;
}
#else
static fvg_status merge_tables(mask_run *r) {
  (void)r;
  (void)is_table_of_shard;
  return FVG_OK;
}
#endif

/* ---- masks ---- */
static double area_of(const fvg_image *mask) {
  const size_t n = (size_t)mask->width * (size_t)mask->height;
  size_t inside = 0;
  for (size_t i = 0; i < n; i++) inside += mask->pixels[i] != 0;
  return (double)inside / (double)n;
}

/* As the table has it, so that a run that was stopped ends with the same page. */
static double rounded(double x) { return floor(1000 * x + 0.5) / 1000; }

/* What the picture is looked through for: its class if it may be known, which a test picture's may
   not. */
static int label_of(const mask_run *r, const fvg_item *item, int part) {
  if (r->o->text) return 0;
  return r->o->any || part == FVG_TEST ? -1 : item->label;
}

static fvg_status mask_picture(mask_run *r, const fvg_item *item, int part) {
  fvg_ctx *c = r->m->ctx;
  char *file = NULL;
  fvg_status s = mask_file(&r->d, r->folder, item->path, &file);
  if (s) return s;
  if (fvg_file_exists(file)) {
    r->n_there++;
    if (r->tidies) s = enter_folder(c, &r->writer, file);
    fvg_release(c, file);
    return s;
  }

  fvg_image picture, mask;
  float confidence = 0;
  s = load_picture(&r->d, item, r->o->data.skip_bad, &picture);
  if (!s) s = fvg_foreground_mask(r->x, &mask, &confidence, &picture, label_of(r, item, part));
  if (!s) {
    /* The line comes first: a run that is killed between both makes the mask again. */
    const made_mask x = {rounded((double)confidence), rounded(area_of(&mask)), item->path};
    s = add_line(r, &x);
    if (!s) s = save_mask(c, &r->writer, &mask, file);
    r->n_new++;
    fvg_image_free(c, &mask);
  }
  fvg_image_free(c, &picture);
  fvg_release(c, file);
  return s;
}

/* Shard K of N makes the masks of every N-th picture, from the K-th on. */
static int is_ours(const mask_run *r, int picture) {
  const shard_option *shard = &r->o->shard;
  return !shard->number || picture % shard->count == shard->number - 1;
}

static fvg_status mask_all(mask_run *r) {
  const fvg_dataset *d = &r->d;
  fvg_progress progress;
  memset(&progress, 0, sizeof progress);
  progress.what = "masks";
  progress.n_steps = d->train.n + d->val.n + d->test.n;
  fvg_status s = FVG_OK;
  for (int part = 0; part < 3; part++) {
    const fvg_items *items = part_of(d, part);
    for (int i = 0; !s && i < items->n; i++) {
      if (is_ours(r, (int)progress.step)) s = mask_picture(r, &items->item[i], part);
      else r->n_left++;
      progress.step++;
      if (!s) s = fvg_report_progress(r->m->ctx, &progress);
    }
  }
  return s;
}

/* ---- the sheet ---- */
/* Most doubtful first; equal ones by path, so that the order does not depend on the run. */
static int compare_made(const void *a, const void *b) {
  const made_mask *x = (const made_mask *)a;
  const made_mask *y = (const made_mask *)b;
  if (x->confidence != y->confidence) return x->confidence < y->confidence ? -1 : 1;
  return strcmp(x->path, y->path);
}

/* Scales a picture so that its longer side has 160 pixels. */
static fvg_status shrink(fvg_ctx *c, const fvg_image *in, fvg_filter filter, fvg_image *out) {
  const double scale = 160.0 / (in->width > in->height ? in->width : in->height);
  int width = (int)(in->width * scale + 0.5);
  int height = (int)(in->height * scale + 0.5);
  if (width < 1) width = 1;
  if (height < 1) height = 1;
  return fvg_image_resize(c, out, in, width, height, filter);
}

/* Greys and darkens what the mask takes for background. */
static void dim_background(fvg_image *picture, const fvg_image *mask) {
  const size_t n = (size_t)mask->width * (size_t)mask->height;
  for (size_t i = 0; i < n; i++) {
    if (mask->pixels[i]) continue;
    uint8_t *p = picture->pixels + 3 * i;
    const int grey = (p[0] + p[1] + p[2]) / 9;
    p[0] = p[1] = p[2] = (uint8_t)grey;
  }
}

/* The picture as it is, and with its background dimmed. */
static fvg_status put_pair(document *t, mask_run *r, const made_mask *x) {
  fvg_ctx *c = t->c;
  fvg_item item = {x->path, 0};
  char *file = NULL;
  fvg_image picture, mask, small, small_mask;
  memset(&small, 0, sizeof small);
  memset(&small_mask, 0, sizeof small_mask);
  memset(&mask, 0, sizeof mask);
  fvg_status s = fvg_dataset_load(&r->d, &picture, NULL, &item, 0);
  if (!s) s = mask_file(&r->d, r->folder, x->path, &file);
  if (!s) s = fvg_image_load(c, &mask, file, 1);
  if (!s) s = shrink(c, &picture, FVG_BILINEAR, &small);
  if (!s) s = shrink(c, &mask, FVG_NEAREST, &small_mask);
  if (!s && (small.width != small_mask.width || small.height != small_mask.height))
    s = fvg_fail(c, FVG_E_FORMAT, "%s: other sides than its picture", file);

  if (!s) {
    put(t, "<figure><img alt=\"\" src=\"");
    put_picture_data(t, &small);
    dim_background(&small, &small_mask);
    put(t, "\"><img alt=\"\" src=\"");
    put_picture_data(t, &small);
    put(t, "\"><figcaption><b>%.2f</b> ", x->confidence);
    put_escaped(t, x->path, 1);
    put(t, "<br><small>%.0f %% foreground</small></figcaption></figure>\n", 100 * x->foreground);
  }
  fvg_image_free(c, &small_mask);
  fvg_image_free(c, &small);
  fvg_image_free(c, &mask);
  fvg_image_free(c, &picture);
  fvg_release(c, file);
  return s;
}

static void put_sheet_head(document *t, const mask_run *r, int shown) {
  put(t,
      "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
      "<title>Masks made by CLIP</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>\n"
      "body{font:15px/1.45 system-ui,sans-serif;margin:1.2rem auto;max-width:1400px;"
      "padding:0 1rem;color:#1c1d22;background:#fafaf8}\n"
      "main{display:grid;grid-template-columns:repeat(auto-fill,minmax(260px,1fr));gap:1rem}\n"
      "figure{margin:0;background:#fff;border:1px solid #e2e2dc;border-radius:8px;padding:.5rem}\n"
      "img{width:49%%;height:auto;vertical-align:top}img+img{margin-left:2%%}\n"
      "figcaption{font-size:.85rem;padding-top:.4rem;overflow-wrap:anywhere}small{color:#666}\n"
      "</style>\n<h1>Masks made by CLIP, the most doubtful first</h1>\n<p>");
  put_escaped(t, r->d.root, 1);
  put(t,
      ": %d of %d mask%s.  Beside each picture the same with what is not foreground dimmed.  The "
      "number is the confidence, 0 to 1: how sharply the map parts the picture, less where the "
      "foreground runs along its edge.  To have a mask made anew with other options, delete its "
      "file; to correct one, paint it white on black.</p>\n<main>\n",
      shown, r->n_made, plural(r->n_made));
}

/* Writes the sheet, unless there is nothing to show. */
static fvg_status write_sheet(mask_run *r) {
  const int shown = r->n_made < r->o->sheet ? r->n_made : r->o->sheet;
  if (!shown) return FVG_OK;
  qsort(r->made, (size_t)r->n_made, sizeof *r->made, compare_made);

  document t = new_document(r->m->ctx);
  put_sheet_head(&t, r, shown);
  for (int i = 0; i < shown && !t.status; i++) {
    fvg_status s = put_pair(&t, r, &r->made[i]);
    if (s) t.status = s;
  }
  put(&t, "</main>\n</html>\n");
  return save_document(&t, r->sheet);
}

/* ---- the command ---- */
/* Masks lie beside the pictures, in the published layout, unless --out says otherwise. */
static fvg_status choose_folder(mask_run *r) {
  fvg_ctx *c = r->m->ctx;
  const fvg_dataset *d = &r->d;
  const char *folder = d->card ? d->card->folder : "";
  const char *slash = *folder ? "/" : "";
  const char *out = r->o->out;
  if ((out ? strlen(out) : strlen(d->root)) > 900)
    return fvg_fail(c, FVG_E_ARG, "%.100s...: the path is too long", out ? out : d->root);
  if (out) snprintf(r->folder, sizeof r->folder, "%s", out);
  else snprintf(r->folder, sizeof r->folder, "%.900s%s%.90s/mask", d->root, slash, folder);
  const shard_option *shard = &r->o->shard;
  snprintf(r->table, sizeof r->table, "%s/masks.csv", r->folder);
  if (shard->number)
    snprintf(r->table, sizeof r->table, "%s/masks.%d-of-%d.csv", r->folder, shard->number,
             shard->count);
  snprintf(r->sheet, sizeof r->sheet, "%s/masks.html", r->folder);
  return FVG_OK;
}

static fvg_status new_foreground(mask_run *r) {
  const masks_options *o = r->o;
  fvg_foreground_desc desc = foreground_desc(&o->foreground);
  if (!o->text) {
    return fvg_foreground_new(r->m, &r->x, (const char *const *)r->d.class_name, r->d.n_class,
                              &desc);
  }
  /* --text is a whole sentence; background words still have the usual template. */
  if (!desc.background_template) desc.background_template = "a photo of a {}.";
  desc.prompt_template = "{}";
  return fvg_foreground_new(r->m, &r->x, &o->text, 1, &desc);
}

static void print_summary(const mask_run *r) {
  double sum = 0;
  for (int i = 0; i < r->n_made; i++) sum += r->made[i].confidence;
  print(stdout, "%s: %d mask%s made, %d already there", r->folder, r->n_new, plural(r->n_new),
        r->n_there);
  if (r->n_made) printf("; mean confidence %.2f", sum / r->n_made);
  printf("\n");
  if (r->o->shard.number) {
    print(stdout, "%d are left to the other shards; fvgpt masks without --shard ends the work\n",
          r->n_left);
    return;
  }
  if (r->n_made && r->o->sheet)
    print(stdout, "look through %s, which shows the most doubtful first\n", r->sheet);
}

/* Everything after the data set is open; the folder is locked meanwhile. */
static fvg_status run_in_folder(mask_run *r) {
  fvg_ctx *c = r->m->ctx;
  const size_t n = (size_t)(r->d.train.n + r->d.val.n + r->d.test.n);
  folder_lock lock;
  memset(&lock, 0, sizeof lock);
  const fvg_items *const all[3] = {&r->d.train, &r->d.val, &r->d.test};
  fvg_status s = choose_folder(r);
  if (!s) s = check_mask_names(&r->d, r->folder, all, 3);
  if (!s) s = make_folders(c, r->folder);
  if (!s) s = (r->o->shard.number ? share_folder : lock_folder)(c, &lock, r->folder);
  r->made = FVG_NEW_ARRAY(c, made_mask, n + 1);
  if (!s && !r->made) s = FVG_E_NOMEM;
  if (!s) s = new_foreground(r);
  r->writer.is_shared = r->o->shard.number > 0;
  if (!s) read_table(r, r->table);
  if (!s) s = merge_tables(r);
  if (!s) s = mask_all(r);
  if (!s && !r->o->shard.number) s = write_sheet(r);
  if (!s) print_summary(r);
  fvg_foreground_free(r->x);
  fvg_release(c, r->made);
  unlock_folder(&lock);
  return s;
}

static fvg_status run(fvg_ctx *c, const void *options) {
  const masks_options *o = (const masks_options *)options;
  const int is_published = o->data.dataset_root && o->data.dataset;
  if (o->data.data.n != 1 && !is_published)
    return fvg_fail(c, FVG_E_ARG, "masks needs --model DIR and one --data ROOT");
  mask_run r;
  memset(&r, 0, sizeof r);
  r.o = o;
  fvg_status s = open_image_model(c, &o->common, &r.m);
  if (!s) s = open_data(c, &o->data, is_published ? NULL : o->data.data.item[0], &r.d);
  if (!s && !o->text) s = check_class_names(&r.d);
  if (!s) {
    s = fvg_dataset_check(&r.d, FVG_CHECK_TRAIN | FVG_CHECK_VAL | FVG_CHECK_TEST,
                          o->data.skip_bad);
  }
  if (!s) s = run_in_folder(&r);
  fvg_dataset_free(&r.d);
  fvg_clip_free(r.m);
  return s;
}

const fvgpt_command masks_command = {"masks", sizeof(masks_options), declare, run};
