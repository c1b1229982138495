/* Fuzzer for the states of runs (fvg_train_desc.state).  The first byte says whose state the rest is: 'k' KgCoOp's, 'p'
   PromptSRC's, 'd' DPC's, anything else FVG-PT's.  A run either goes on from it, refuses it, or begins anew; it is
   stopped as soon as it begins to train. */
#include "fuzz_model.h"

#define STATE "build/fuzz-state"
enum { SIDE = 4, PICTURES = 4, CLASSES = 2 };
static uint8_t pixels[PICTURES][3 * SIDE * SIDE], inside[PICTURES][SIDE * SIDE];
static fvg_picture picture[PICTURES];
static const char *const class_name[] = {"cat", "dog"};
static fvg_dataset dataset;
static fvg_task task;
static fvg_views *views;
static int may_train;

static int stop_training(void *user, const fvg_progress *p) {
  (void)user;
  return !may_train && p->n_epochs > 0;
}

/* The whole run of one kind, as far as it is not in the state. */
static fvg_status run(char kind) {
  const char *method = kind == 'k' ? "KgCoOp" : kind == 'p' ? "PromptSRC" : "CoOp";
  fvg_learner_desc ld;
  fvg_fvgpt_desc fd;
  fvg_train_desc td;
  fvg_learner *l = NULL, *copy = NULL;
  fvg_fvgpt *f = NULL;
  fvg_status s;
  memset(&ld, 0, sizeof ld);
  memset(&fd, 0, sizeof fd);
  memset(&td, 0, sizeof td);
  ld.method = fvg_method_find(method);
  ld.n_ctx = 2;
  fd.width = W;
  fd.fdc_hidden = 4;
  fd.gate_hidden = 3;
  td.optimizer.epochs = 2;
  td.batch = 2;
  td.state = STATE;
  td.state_mark = "a run";
  s = fvg_learner_new(good_clip, &l, class_name, CLASSES, &ld);
  if (!s && (kind == 'k' || kind == 'p')) s = fvg_learner_train(l, views, &task, &td);
  else if (!s && kind == 'd') {
    s = fvg_learner_copy(&copy, l);
    if (!s) s = fvg_dpc_train(copy, l, views, &task, NULL, &td);
  } else if (!s) {
    s = fvg_fvgpt_new(own, &f, &fd);
    if (!s) s = fvg_fvgpt_train(f, l, views, &task, &td);
  }
  fvg_fvgpt_free(f);
  fvg_learner_free(copy);
  fvg_learner_free(l);
  forget_tape(good_clip);
  return s;
}

static void begin(void) {
  fvg_desc d = fuzz_desc();
  fvg_views_desc vd;
  fvg_rng r;
  int i, k;
  memset(&vd, 0, sizeof vd);
  mkdir("build", 0777);
  d.progress = stop_training;
  if (fvg_init(&own, &d)) fault("no context");
  make_good_model();
  fvg_rng_seed(&r, 6, 0);
  for (i = 0; i < PICTURES; i++) {
    fvg_picture *p = &picture[i];
    for (k = 0; k < 3 * SIDE * SIDE; k++) pixels[i][k] = (uint8_t)fvg_rng_below(&r, 256);
    for (k = 0; k < SIDE * SIDE; k++) inside[i][k] = k % SIDE < 2 ? 255 : 0;
    p->image.width = p->image.height = p->mask.width = p->mask.height = SIDE;
    p->image.channels = 3;
    p->mask.channels = 1;
    p->image.pixels = pixels[i];
    p->mask.pixels = inside[i];
    p->label = i % CLASSES;
  }
  vd.augment = FVG_AUGMENT_NONE;
  if (fvg_dataset_of_pictures(own, &dataset, picture, PICTURES, class_name, CLASSES) || fvg_task_draw(&task, &dataset, NULL) ||
      fvg_views_new(good_clip, &views, &dataset, &vd) || fvg_views_load(views, &task.items))
    fault(fvg_error(own));
  forget_tape(good_clip);
}

static int take(const uint8_t *data, size_t n) {
  fvg_status s;
  if (!n) return 0;
  fuzz_write_file(STATE, data + 1, n - 1);
  s = run((char)data[0]);
  if (s) check_refusal(own, s);
  return s == FVG_OK;
}

static void make_state(fuzz_input *to, const char *kind) {
  fvg_source s;
  uint8_t *bytes;
  size_t n;
  remove(STATE);
  may_train = 1;
  append(to, kind, 1);
  if (run(*kind) || fvg_source_file(own, &s, STATE) || fvg_source_read_all(own, &bytes, &n, &s)) fault(fvg_error(own));
  may_train = 0;
  fvg_source_close(&s);
  if (append(to, bytes, n)) fault("a state that is too long");
  fvg_bytes_free(own, bytes);
  hide_checksum(to);
}

static int seed(fuzz_input *to, int i) {
  static const char kind[] = "kpdf";
  static fuzz_input made[4];                           /* they are asked for again and again                      */
  if (i >= 4) return 0;
  if (!made[i].n) make_state(&made[i], &kind[i]);
  return !append(to, made[i].data, made[i].n);
}

static void change(fvg_rng *r, fuzz_input *x) { change_header_number(r, x, 1); }

/* Numbers that no run can have reached: it begins anew, which is stopped. */
static void try_more(void) {
  static const char *const impossible[][2] = {{"step", "1e300"}, {"step", "-1"}, {"epoch", "3"}, {"epoch", "0.5"}};
  static fuzz_input x;
  size_t i;
  for (i = 0; i < sizeof impossible / sizeof *impossible; i++) {
    x.n = 0;
    seed(&x, 0);
    change_setting(&x, 1, impossible[i][0], impossible[i][1]);
    if (fuzz_take(x.data, x.n) || fvg_last_status(own) != FVG_E_CANCELLED) fault("a run goes on from nowhere");
  }
}

static const char *const word[] = {
  "\"mark\":\"a run\"", "\"stage\":\"", "\"epoch\":\"", "\"step\":\"", "\"losses\":\"", "momentum.", "variance.", "average.", "\"F32\"", "\"F16\"", "\"shape\":[",
  "\"data_offsets\":[", "65536", "0", "1e300", "-1", "nan", NULL};

static const fuzz_target target = {600, begin, take, seed, change, word, try_more};
