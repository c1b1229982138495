/* Features on disk; see fvgpt_cache.h.

   A folder has one folder for each model, called by its key, and in it files that only grow.  Every
   process that encodes something writes a file of its own, so that any number of them may work at
   once, on a network folder too.  A file is a head, which tells its kind, version and order of
   bytes, and then one record after the other:

     key   2 x 64 bits      the library's hash of all that the row depends on
     n     32 bits, and 32 bits 0
     row   n x 32 bits      the floats of the feature
     check 64 bits          a hash of the above

   A record is handed to the system as soon as it is complete, so a kill loses the one in the
   making.  What is torn or damaged does not have its check; it and what follows in its file count as
   not there, and are encoded again into another file.  Nothing in a file is ever changed, and every
   row is checked again when it is used. */
#include "fvgpt_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fvgpt_system.h"

enum {
  MOST_FLOATS = 16384,               /* of a row                                                 */
  RECORD_HEAD = 24, CHECK = 8,
  MOST_RECORD = RECORD_HEAD + 4 * MOST_FLOATS + CHECK,
  BLOCK = 1 << 20                    /* bytes that are read at a time on opening                 */
};

typedef struct file_head {
  char kind[16];
  uint32_t version, order;           /* order: 01020304 in the order of this machine's bytes     */
} file_head;
static const file_head our_head = {"fvgpt features\n", 1, 0x01020304};

/* Where the row of a key lies. */
typedef struct place {
  uint64_t key[2];
  uint64_t at;                       /* bytes before the record                                  */
  int file;                          /* -1: the row was there, but cannot be read any more       */
  int n;                             /* floats of the row; 0: the place is empty                 */
} place;

typedef struct cache_file {
  char name[40];
  uint64_t size;
  int is_ours;                       /* 1: it has our kind of head                               */
} cache_file;

struct feature_cache {
  fvg_clip *m;
  fvg_store store;
  char root[1000], folder[1100];     /* as it was named, and the model's part of it              */
  place *slot;                       /* [n_slot] hash table, open addressing, half full at most  */
  size_t n_slot, n_used;
  cache_file *file;                  /* [n_file], room for size_file                             */
  int n_file, size_file;

  fvg_source reading;                /* of the file number read_file, if that is not -1          */
  char reading_path[1200];
  int read_file;
  FILE *writing;                     /* our own file, number own_file; NULL: none yet            */
  int own_file;
  int gave_up;                       /* 1: it cannot be written, which has been told             */
  long n_asked, n_found;
  uint8_t record[MOST_RECORD];       /* the one that is read or written                          */
};

/* ---- records ---- */
static size_t record_bytes(int n) { return RECORD_HEAD + 4 * (size_t)n + CHECK; }

static uint64_t check_of(const uint8_t *record, int n) {
  uint64_t key[2];
  fvg_hash h = fvg_hash_begin();
  fvg_hash_add(&h, record, record_bytes(n) - CHECK);
  fvg_hash_end(&h, key);
  return key[0];
}

static void write_record(uint8_t *record, const uint64_t key[2], const float *row, int n) {
  const uint32_t count[2] = {(uint32_t)n, 0};
  memcpy(record, key, 16);
  memcpy(record + 16, count, sizeof count);
  memcpy(record + RECORD_HEAD, row, 4 * (size_t)n);
  const uint64_t check = check_of(record, n);
  memcpy(record + RECORD_HEAD + 4 * (size_t)n, &check, CHECK);
}

/* The floats of a record's row; 0: the bytes there, `left` of them, are no whole record. */
static int floats_of(const uint8_t *record, size_t left) {
  uint32_t count[2];
  if (left < RECORD_HEAD + CHECK) return 0;
  memcpy(count, record + 16, sizeof count);
  if (!count[0] || count[0] > MOST_FLOATS || count[1]) return 0;
  const int n = (int)count[0];
  if (record_bytes(n) > left) return 0;

  uint64_t check;
  memcpy(&check, record + record_bytes(n) - CHECK, CHECK);
  return check == check_of(record, n) ? n : 0;
}

/* ---- the table ---- */
static place *place_of(const feature_cache *x, const uint64_t key[2]) {
  size_t at = (size_t)(key[0] % x->n_slot);
  while (x->slot[at].n && memcmp(x->slot[at].key, key, 16)) at = (at + 1) % x->n_slot;
  return &x->slot[at];
}

/* Room for one more; 0: there is no memory. */
static int reserve(feature_cache *x) {
  if (2 * (x->n_used + 1) <= x->n_slot) return 1;
  place *old = x->slot;
  const size_t n_old = x->n_slot;
  place *slot = FVG_NEW_ARRAY(x->m->ctx, place, 4 * n_old + 1024);
  if (!slot) return 0;
  x->slot = slot;
  x->n_slot = 4 * n_old + 1024;
  for (size_t i = 0; i < n_old; i++) {
    if (old[i].n) *place_of(x, old[i].key) = old[i];
  }
  fvg_release(x->m->ctx, old);
  return 1;
}

/* Notes where a row lies, which is the newest of its key. */
static int add_place(feature_cache *x, const uint64_t key[2], int file, uint64_t at, int n) {
  if (!reserve(x)) return 0;
  place *p = place_of(x, key);
  if (!p->n) x->n_used++;
  memcpy(p->key, key, sizeof p->key);
  p->file = file;
  p->at = at;
  p->n = n;
  return 1;
}

/* ---- files that are there ---- */
static void path_of(const feature_cache *x, int file, char *path, size_t size) {
  snprintf(path, size, "%s/%s", x->folder, x->file[file].name);
}

static void stop_reading(feature_cache *x) {
  fvg_source_close(&x->reading);
  x->read_file = -1;
}

/* Opens a file for reading, if it is not the open one; 0: it cannot be opened. */
static int start_reading(feature_cache *x, int file) {
  if (x->read_file == file) return 1;
  stop_reading(x);
  path_of(x, file, x->reading_path, sizeof x->reading_path);
  if (fvg_source_file(x->m->ctx, &x->reading, x->reading_path)) return 0;
  x->read_file = file;
  return 1;
}

static int read_bytes(feature_cache *x, void *to, uint64_t at, size_t n) {
  return !x->reading.read(x->reading.user, to, at, n);
}

/* Notes the records of a block that begins at `at`; the bytes of those that are whole. */
static size_t add_block(feature_cache *x, int file, uint64_t at, const uint8_t *block, size_t n) {
  size_t used = 0;
  for (;;) {
    const uint8_t *record = block + used;
    const int floats = floats_of(record, n - used);
    uint64_t key[2];
    if (!floats) return used;
    memcpy(key, record, sizeof key);
    if (!add_place(x, key, file, at + used, floats)) return 0;
    used += record_bytes(floats);
  }
}

/* Notes what a file has. */
static void scan_file(feature_cache *x, int file, uint8_t *block) {
  fvg_ctx *c = x->m->ctx;
  cache_file *of = &x->file[file];
  file_head head;
  if (!start_reading(x, file)) return;
  const uint64_t size = x->reading.size;
  of->size = size;
  const size_t n_head = size < sizeof head ? (size_t)size : sizeof head;
  if (!read_bytes(x, &head, 0, n_head)) return;
  of->is_ours = !memcmp(&head, &our_head, n_head);
  if (!of->is_ours) {
    fvg_log(c, 0, "%s: not a file of features by this version and machine; it is passed over",
            x->reading_path);
    return;
  }

  uint64_t at = sizeof head;
  while (at < size) {
    const uint64_t left = size - at;
    const size_t n = left < BLOCK ? (size_t)left : BLOCK;
    const size_t used = read_bytes(x, block, at, n) ? add_block(x, file, at, block, n) : 0;
    if (!used) break;
    at += used;
  }
  if (at < size) {
    fvg_log(c, 1, "%s: the last %.0f bytes are no whole features and are not used",
            x->reading_path, (double)(size - at));
  }
}

/* Adds a file to the list; its number, or -1. */
static int add_file(feature_cache *x, const char *name) {
  fvg_ctx *c = x->m->ctx;
  if (x->n_file == x->size_file) {
    const int size = 2 * x->size_file + 16;
    cache_file *more = FVG_NEW_ARRAY(c, cache_file, (size_t)size);
    if (!more) return -1;
    if (x->n_file) memcpy(more, x->file, (size_t)x->n_file * sizeof *more);
    fvg_release(c, x->file);
    x->file = more;
    x->size_file = size;
  }
  cache_file *f = &x->file[x->n_file];
  memset(f, 0, sizeof *f);
  snprintf(f->name, sizeof f->name, "%s", name);
  return x->n_file++;
}

static const char ending[] = ".features";

static void list_file(void *cache, const char *name, int is_a_folder) {
  const size_t n = strlen(name);
  const size_t m = strlen(ending);
  if (is_a_folder || n <= m || n >= sizeof((cache_file *)0)->name) return;
  if (!strcmp(name + n - m, ending)) add_file((feature_cache *)cache, name);
}

static void scan_folder(feature_cache *x) {
  fvg_ctx *c = x->m->ctx;
#ifdef FVGPT_DIRENT
  (void)fvg_list_folder(NULL, x->folder, list_file, x);
#else
  (void)list_file;
#endif
  uint8_t *block = FVG_NEW_ARRAY(c, uint8_t, BLOCK);
  for (int i = 0; block && i < x->n_file; i++) scan_file(x, i, block);
  fvg_release(c, block);
}

/* ---- our own file ---- */
static void give_up(feature_cache *x, const char *path) {
  fvg_log(x->m->ctx, 0, "%s: cannot be written; new features are not kept", path);
  x->gave_up = 1;
}

/* Begins a file with a name that nothing has. */
static int begin_file(feature_cache *x) {
  char name[40], path[1200];
  uint64_t number[2] = {0, 0};
  for (int attempt = 0; attempt < 100 && !x->writing; attempt++) {
    const double seed[4] = {(double)time(NULL), now(), (double)process_number(), attempt};
    fvg_hash h = fvg_hash_begin();
    fvg_hash_add(&h, seed, sizeof seed);
    fvg_hash_end(&h, number);
    snprintf(name, sizeof name, "%08x%08x%s", (unsigned)(number[0] >> 32),
             (unsigned)(number[0] & 0xFFFFFFFFu), ending);
    snprintf(path, sizeof path, "%s/%s", x->folder, name);
    x->writing = create_new_file(path);
  }
  if (x->writing) setvbuf(x->writing, NULL, _IOFBF, MOST_RECORD);        /* a record is one write */
  x->own_file = x->writing ? add_file(x, name) : -1;
  if (x->own_file < 0 || fwrite(&our_head, sizeof our_head, 1, x->writing) != 1) {
    give_up(x, x->writing ? path : x->folder);
    return 0;
  }
  x->file[x->own_file].size = sizeof our_head;
  x->file[x->own_file].is_ours = 1;
  return 1;
}

/* Adds a record of n floats, which x->record holds, to our file. */
static int write_to_file(feature_cache *x, int n) {
  if (x->gave_up || (!x->writing && !begin_file(x))) return 0;
  char path[1200];
  path_of(x, x->own_file, path, sizeof path);
  if (fwrite(x->record, record_bytes(n), 1, x->writing) != 1 || fflush(x->writing)) {
    give_up(x, path);
    return 0;
  }
  return 1;
}

/* Leaves our file if its name is gone: who waits for an hour between two rows finds it merged into
   another's. */
static int is_removed(feature_cache *x) {
  char path[1200];
  path_of(x, x->own_file, path, sizeof path);
  if (!is_absent(path)) return 0;
  fclose(x->writing);
  x->writing = NULL;
  x->file[x->own_file].size = 0;
  return 1;
}

static int append_record(feature_cache *x, int n) {
  int is_written = write_to_file(x, n);
  if (is_written && is_removed(x)) is_written = write_to_file(x, n);
  if (!is_written) return 0;
  cache_file *own = &x->file[x->own_file];
  uint64_t key[2];
  memcpy(key, x->record, sizeof key);
  const int noted = add_place(x, key, x->own_file, own->size, n);
  own->size += record_bytes(n);
  return noted;
}

/* ---- what the library asks for ---- */
/* Reads the record of a place into x->record; 0: it is not what it was. */
static int read_place(feature_cache *x, place *p) {
  const size_t bytes = record_bytes(p->n);
  const int is_whole = p->file >= 0 && start_reading(x, p->file) &&
                       read_bytes(x, x->record, p->at, bytes) &&
                       floats_of(x->record, bytes) == p->n && !memcmp(x->record, p->key, 16);
  if (!is_whole) p->file = -1;
  return is_whole;
}

static int find_row(void *user, const uint64_t key[2], float *row, int n) {
  feature_cache *x = (feature_cache *)user;
  x->n_asked++;
  if (!x->n_slot) return 0;
  place *p = place_of(x, key);
  if (p->n != n || !read_place(x, p)) return 0;
  memcpy(row, x->record + RECORD_HEAD, 4 * (size_t)n);
  x->n_found++;
  return 1;
}

static void keep_row(void *user, const uint64_t key[2], const float *row, int n) {
  feature_cache *x = (feature_cache *)user;
  const place *p = x->n_slot ? place_of(x, key) : NULL;
  const int is_there = p && p->n == n && p->file >= 0;
  if (is_there || n > MOST_FLOATS) return;
  write_record(x->record, key, row, n);
  (void)append_record(x, n);
}

/* ---- many small files ---- */
enum { MOST_SMALL = 16, SMALL_BYTES = 16 << 20, OLD_SECONDS = 3600 };

/* Is it a small file that nobody has written to for long? */
static int is_left_over(const feature_cache *x, int file) {
  char path[1200];
  path_of(x, file, path, sizeof path);
  const cache_file *f = &x->file[file];
  return f->is_ours && f->size < SMALL_BYTES && seconds_since_change(path) > OLD_SECONDS;
}

/* Copies all rows of a file to our own; 0: not all. */
static int copy_file(feature_cache *x, int file) {
  if (!reserve(x)) return 0;         /* from now on the table stays where it is                  */
  for (size_t i = 0; i < x->n_slot; i++) {
    place *p = &x->slot[i];
    if (!p->n || p->file != file) continue;
    if (!read_place(x, p) || !append_record(x, p->n)) return 0;
  }
  return 1;
}

/* Where there are many small files, one takes their place.  A process that still reads one of them
   does not find it any more, and encodes again; one that is killed here leaves rows twice. */
static void merge_files(feature_cache *x) {
  const int n = x->n_file;
  int n_small = 0;
  for (int i = 0; i < n; i++) n_small += is_left_over(x, i);
  folder_lock lock;
  memset(&lock, 0, sizeof lock);
  if (n_small <= MOST_SMALL || lock_folder(x->m->ctx, &lock, x->folder)) return;

  for (int i = 0; i < n; i++) {
    char path[1200];
    path_of(x, i, path, sizeof path);
    /* A file that has grown meanwhile is somebody's again. */
    if (!is_left_over(x, i) || !copy_file(x, i) || !is_left_over(x, i)) continue;
    if (x->read_file == i) stop_reading(x);
    remove(path);
    x->file[i].size = 0;
  }
  unlock_folder(&lock);
}

/* ---- which folder ---- */
void add_cache(option_table *t, common_options *o) { add_text(t, "--cache", &o->cache); }

/* 0: no folder is wanted, or known. */
static int choose_root(feature_cache *x, const common_options *o) {
  static const struct { const char *variable, *below; } usual[] = {
    {"FVGPT_CACHE", ""}, {"XDG_CACHE_HOME", "/fvgpt"}, {"HOME", "/.cache/fvgpt"},
    {"LOCALAPPDATA", "/fvgpt"}};
  const char *folder = o->cache;
  const char *below = "";
  for (int i = 0; i < 4 && !folder; i++) {
    const char *value = getenv(usual[i].variable);
    if (!value || !*value) continue;
    folder = value;
    below = usual[i].below;
  }
  if (!folder || !*folder || !strcmp(folder, "none")) return 0;
  const int n = snprintf(x->root, sizeof x->root, "%s%s", folder, below);
  if (n > 0 && (size_t)n < sizeof x->root) return 1;
  fvg_log(x->m->ctx, 0, "%.200s...: the path is too long; features are not kept", folder);
  return 0;
}

/* Finds the model's folder, and makes it. */
static fvg_status choose_folder(feature_cache *x) {
  uint64_t key[2];
  fvg_status s = fvg_clip_image_key(x->m, key);
  if (s) return s;
  snprintf(x->folder, sizeof x->folder, "%s/%08x%08x", x->root, (unsigned)(key[0] >> 32),
           (unsigned)(key[0] & 0xFFFFFFFFu));
  return make_folders(x->m->ctx, x->folder);
}

/* ---- opening and closing ---- */
static void cache_free(feature_cache *x) {
  fvg_ctx *c = x->m->ctx;
  stop_reading(x);
  if (x->writing) fclose(x->writing);
  fvg_release(c, x->slot);
  fvg_release(c, x->file);
  fvg_release(c, x);
}

static int was_open;

int cache_was_open(void) { return was_open; }

fvg_status open_cache(fvg_clip *m, const common_options *o, feature_cache **out) {
  fvg_ctx *c = m->ctx;
  *out = NULL;
  if (!m->has_vision) return FVG_OK;
  feature_cache *x = FVG_NEW(c, feature_cache);
  if (!x) return FVG_E_NOMEM;
  x->m = m;
  x->read_file = -1;
  x->own_file = -1;
  x->store.find = find_row;
  x->store.keep = keep_row;
  x->store.user = x;
  const int is_wanted = choose_root(x, o);
  fvg_status s = is_wanted ? fvg_clip_set_store(m, &x->store) : FVG_OK;
  if (is_wanted && !s) s = choose_folder(x);
  if (!is_wanted || s) {
    if (s) fvg_log(c, 0, "%s; features are not kept", fvg_error(c));
    (void)fvg_clip_set_store(m, NULL);
    cache_free(x);
    return FVG_OK;
  }
  scan_folder(x);
  merge_files(x);
  was_open = 1;
  *out = x;
  return FVG_OK;
}

int cache_gave_up(const feature_cache *x) { return x->gave_up; }

void close_cache(feature_cache *x) {
  if (!x) return;
  double bytes = 0;
  for (int i = 0; i < x->n_file; i++) bytes += (double)x->file[i].size;
  if (x->n_asked) {
    fvg_log(x->m->ctx, 1, "%ld of %ld features reused from %s, which has %.1f MB of this model",
            x->n_found, x->n_asked, x->root, bytes / 1e6);
  }
  (void)fvg_clip_set_store(x->m, NULL);
  cache_free(x);
}
