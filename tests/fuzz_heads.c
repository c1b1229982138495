/* Fuzzer for heads in files.  The first byte says what the rest is: 'h' a head with the names of its classes
   (fvg_head_checkpoint_read), anything else a head alone (fvg_head_read). */
#include "fuzz_model.h"

enum { N = 6, CLASSES = 3, KINDS = 6 };
static float feature[N * W], text[CLASSES * W];
static const int label[N] = {0, 0, 1, 1, 2, 2};
static const char *const class_name[] = {"cat", "dog", "a bird"};

static void begin(void) {
  fvg_rng r;
  int i;
  make_good_model();
  fvg_rng_seed(&r, 5, 0);
  for (i = 0; i < N * W; i++) feature[i] = (float)fvg_rng_normal(&r);
  for (i = 0; i < CLASSES * W; i++) text[i] = (float)fvg_rng_normal(&r);
  fvg_normalize_rows(feature, N, W);
  fvg_normalize_rows(text, CLASSES, W);
}

/* A head that is read can score, or says why not. */
static void use_head(fvg_head *h) {
  static float other[64 * 64], logits[4096];
  const int n = fvg_head_classes(h), width = fvg_head_width(h);
  int i;
  if (n < 1 || width < 1 || !fvg_head_name(fvg_head_is(h))) fault("a head that is none");
  if (n > 1024 || width > 1024) return;
  for (i = 0; i < 2 * width; i++) other[i] = feature[i % (N * W)];
  if (fvg_head_logits(h, logits, other, 2)) check_refusal(own, fvg_last_status(own));
}

static int take_checkpoint(const uint8_t *data, size_t n) {
  fvg_source s = fvg_source_memory(data, n, "head");
  fvg_head_checkpoint x;
  const fvg_status status = fvg_head_checkpoint_read(good_clip, &x, &s);
  int i;
  if (status) {
    check_refusal(own, status);
    if (x.head || x.settings || x.class_name) fault("a refused head has something");
    return 0;
  }
  if (x.n_class != fvg_head_classes(x.head) || fvg_head_width(x.head) != W) fault("a head that does not fit");
  for (i = 0; i < x.n_class; i++)
    if (!x.class_name[i][0]) fault("a class without a name");
  use_head(x.head);
  fvg_head_checkpoint_free(good_clip, &x);
  return 1;
}

static int take_head(const uint8_t *data, size_t n) {
  fvg_source s = fvg_source_memory(data, n, "head");
  fvg_weights *w = NULL;
  fvg_head *h = NULL;
  fvg_status status = fvg_weights_open(own, &w, &s);
  if (!status) status = fvg_head_read(own, &h, w);
  if (!status != (h != NULL)) fault("status and result disagree");
  if (status) check_refusal(own, status);
  else use_head(h);
  fvg_head_free(h);
  fvg_weights_close(w);
  return !status;
}

static int take(const uint8_t *data, size_t n) {
  int taken;
  if (!n) return 0;
  taken = data[0] == 'h' ? take_checkpoint(data + 1, n - 1) : take_head(data + 1, n - 1);
  forget_tape(good_clip);
  return taken;
}

static void make_head(fuzz_input *to, fvg_head_kind kind, int with_names) {
  fvg_head_data data;
  fvg_head_checkpoint x;
  fvg_head *h = NULL;
  fvg_status s;
  memset(&data, 0, sizeof data);
  memset(&x, 0, sizeof x);
  data.n = N;
  data.n_view = 1;
  data.n_class = CLASSES;
  data.width = W;
  data.f = feature;
  data.label = label;
  data.text = text;
  append(to, with_names ? "h" : "r", 1);
  s = fvg_head_fit(own, &h, kind, &data, NULL);
  x.head = h;
  x.class_name = class_name;
  x.n_class = CLASSES;
  x.prompt_template = "a photo of a {}.";
  if (!s) s = with_names ? fvg_head_checkpoint_write(good_clip, append, to, &x, NULL, 0) : fvg_head_write(h, append, to, NULL, 0);
  if (s) fault(fvg_error(own));
  fvg_head_free(h);
  hide_checksum(to);
}

static int seed(fuzz_input *to, int i) {
  static fuzz_input made[2 * KINDS];                   /* they are asked for again and again                      */
  if (i >= 2 * KINDS) return 0;
  if (!made[i].n) make_head(&made[i], (fvg_head_kind)(i / 2), i % 2);
  return !append(to, made[i].data, made[i].n);
}

static void change(fvg_rng *r, fuzz_input *x) { change_header_number(r, x, 1); }

static const char *const word[] = {
  "\"head\":\"", "GDA", "LinearProbe", "TipAdapter", "\"__metadata__\":{", "\"values\":", "\"F32\"", "\"I32\"", "\"F16\"", "\"shape\":[", "\"data_offsets\":[",
  "\"classes\":\"", "[\\\"a\\\"]", "65536", "0", "1e300", "-1", NULL};

static const fuzz_target target = {4000, begin, take, seed, change, word, NULL};
