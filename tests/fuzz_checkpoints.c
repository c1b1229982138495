/* Fuzzer for models and checkpoints: fvg_clip_load, fvg_checkpoint_read and fvg_learner_read.  The first byte says what
   the rest is, 'm' for a model, 'l' for values of a learner, anything else for a checkpoint. */
#include "fuzz_model.h"

static fvg_learner *good_learner;                      /* of MaPLe                                                */
static const char *const class_name[] = {"cat", "dog", "a bird"};

static void begin(void) {
  fvg_learner_desc d;
  memset(&d, 0, sizeof d);
  d.method = fvg_method_find("MaPLe");
  make_good_model();
  if (fvg_learner_new(good_clip, &good_learner, class_name, 3, &d)) fault(fvg_error(own));
  forget_tape(good_clip);
}

/* 1 if it is a whole checkpoint. */
static int try_checkpoint(const uint8_t *data, size_t n) {
  fvg_source s = fvg_source_memory(data, n, "checkpoint");
  fvg_weights *settings = NULL;
  fvg_learner *l = NULL;
  fvg_fvgpt *f = NULL;
  const fvg_status status = fvg_checkpoint_read(good_clip, &l, &f, &settings, &s);
  if (status) check_refusal(own, status);
  if (!status != (l != NULL) || !status != (settings != NULL) || (status && f)) fault("status and result disagree");
  fvg_learner_free(l);
  fvg_fvgpt_free(f);
  fvg_weights_close(settings);
  return !status;
}

/* 1 if a learner of MaPLe can be filled from it; otherwise the learner is what it was. */
static int try_values(const uint8_t *data, size_t n) {
  fvg_source s = fvg_source_memory(data, n, "values");
  int count, i;
  fvg_parameter *const *p = fvg_learner_parameters(good_learner, &count);
  uint64_t before = 0, after = 0;
  fvg_status status;
  for (i = 0; i < count; i++) before = fvg__hash(before, p[i]->value.data, fvg_tensor_count(&p[i]->value) * sizeof(float));
  status = fvg_learner_read(good_learner, &s);
  for (i = 0; i < count; i++) after = fvg__hash(after, p[i]->value.data, fvg_tensor_count(&p[i]->value) * sizeof(float));
  if (status) check_refusal(own, status);
  if (status && before != after) fault("a file that is refused changes a learner");
  return !status;
}

static int take(const uint8_t *data, size_t size) {
  int ok;
  if (!size) return 0;
  if (data[0] == 'm') {
    fvg_ctx *c = fuzz_context();
    fvg_clip *m = open_model(c, data + 1, size - 1, config);
    ok = m != NULL;
    fvg_clip_free(m);
    fvg_free(c);
  } else {
    ok = data[0] == 'l' ? try_values(data + 1, size - 1) : try_checkpoint(data + 1, size - 1);
    forget_tape(good_clip);
  }
  return ok;
}

/* ---- good files, with their first byte ---- */
/* A checkpoint as fvg_checkpoint_write writes it. */
static void make_checkpoint(fuzz_input *f, char kind, const char *method, int with_fvgpt) {
  fvg_learner_desc d;
  fvg_fvgpt_desc fd;
  fvg_learner *l = NULL;
  fvg_fvgpt *m = NULL;
  memset(&d, 0, sizeof d);
  memset(&fd, 0, sizeof fd);
  d.method = fvg_method_find(method);
  fd.width = W;
  fd.fdc_hidden = 4;
  fd.gate_hidden = 3;
  d.n_ctx = 2;
  d.prompt_template = "{}.";
  append(f, &kind, 1);
  if (fvg_learner_new(good_clip, &l, class_name, 3, &d) || (with_fvgpt && fvg_fvgpt_new(own, &m, &fd)) ||
      fvg_checkpoint_write(l, m, append, f, NULL, 0))
    fault(fvg_error(own));
  fvg_learner_free(l);
  fvg_fvgpt_free(m);
  forget_tape(good_clip);
}

/* The model with matrices of eight bits, as fvg_clip_quantise writes it. */
static void make_quantised(fuzz_input *to) {
  static const char whole[] = "build/fuzz-q8/model.safetensors", small[] = "build/fuzz-q8/small.safetensors";
  fvg_source s;
  uint8_t *bytes = NULL;
  size_t n = 0;
  mkdir("build", 0777);
  mkdir("build/fuzz-q8", 0777);
  fuzz_write_file("build/fuzz-q8/config.json", (const uint8_t *)config, sizeof config - 1);
  fuzz_write_file(whole, good_model.data, good_model.n);
  if (fvg_clip_quantise(own, whole, small) || fvg_source_file(own, &s, small) || fvg_source_read_all(own, &bytes, &n, &s))
    fault(fvg_error(own));
  fvg_source_close(&s);
  remove(whole);
  remove(small);
  append(to, "m", 1);
  append(to, bytes, n);
  fvg_bytes_free(own, bytes);
}

enum { N_GOOD = 10 };

static int seed(fuzz_input *to, int i) {
  static const char *const method[N_GOOD] = {"model", "KgCoOp", "MaPLe", "MMRL", "CoCoOp", "CoOp", "MMRLpp", "DePT_PromptSRC", "MaPLe", "q8"};
  static fuzz_input made[N_GOOD];                      /* they are asked for again and again                      */
  if (i >= N_GOOD) return 0;
  if (!made[i].n && i == 0) {
    append(&made[i], "m", 1);
    append(&made[i], good_model.data, good_model.n);
  } else if (!made[i].n && i == N_GOOD - 1) {
    make_quantised(&made[i]);
  } else if (!made[i].n) {
    make_checkpoint(&made[i], i == 8 ? 'l' : 'c', method[i], i % 2);
    if (i != 5) hide_checksum(&made[i]);
  }
  to->n = 0;
  return !append(to, made[i].data, made[i].n);
}

static void change(fvg_rng *r, fuzz_input *x) { change_header_number(r, x, 1); }

/* The file of 2,840 bytes that asked for 17 GB: gates of 65,536 x 65,536, whose matrices have no columns. */
static void make_empty_gates(fuzz_input *f, int fdc) {
  const char *gate[] = {"frg.fc1.weight", "frg.fc2.weight", "frg.fc3.weight", "brg.fc1.weight", "brg.fc2.weight",
                        "brg.fc3.weight"};
  const char *adapter[] = {"fdc_image.", "fdc_text."};
  const char *key[] = {"format", "trainer", "classes", "class_token_position", "prompt_template", "ctx_words", "n_ctx",
                       "class_specific", "embed_dim", "fdc_hidden", "gate_hidden", "gate_layers", "logit_scale", "tau"};
  const char *value[] = {"fvgpt 1", "FVGPT_CoOp", "[\"cat\"]", "end", "{}.", "", "2", "0", "8", "65536", "65536", "3",
                         "100", "2"};
  fvg_metadata metadata[14];
  int i;
  n_tensor = 0;
  add("", "ctx", 2, 2, W, 0);
  for (i = 0; i < 2; i++) {
    add(adapter[i], "down.weight", 2, fdc ? 65536 : 4, fdc ? 0 : W, 0);
    add(adapter[i], "down.bias", 1, 4, 0, 0);
    add(adapter[i], "up.weight", 2, W, 4, 0);
    add(adapter[i], "up.bias", 1, W, 0, 0);
  }
  for (i = 0; i < 6; i++) add("", gate[i], 2, 65536, 0, 0);
  for (i = 0; i < 14; i++) {
    metadata[i].key = key[i];
    metadata[i].value = value[i];
  }
  if (!fdc) metadata[9].value = "4";
  append(f, "c", 1);
  if (fvg_safetensors_write(own, append, f, tensors, n_tensor, metadata, 14)) fault(fvg_error(own));
}

/* One class name after the other, each of a byte: the words before the features, and they are many. */
static void make_many_classes(fuzz_input *f, int n) {
  static char text[FUZZ_BYTES];
  const char *key[] = {"format", "trainer", "classes", "class_token_position", "prompt_template", "ctx_words", "n_ctx",
                       "class_specific", "embed_dim", "W"};
  const char *value[] = {"fvgpt 1", "KgCoOp", text, "end", "{}.", "", "2", "0", "8", "8"};
  fvg_metadata metadata[10];
  int i;
  text[0] = '[';
  for (i = 0; i < n; i++) memcpy(text + 1 + 4 * i, "\"a\",", 4);
  text[4 * n] = ']';
  n_tensor = 0;
  add("", "ctx", 2, 2, W, 0);
  for (i = 0; i < 10; i++) {
    metadata[i].key = key[i];
    metadata[i].value = value[i];
  }
  append(f, "c", 1);
  if (fvg_safetensors_write(own, append, f, tensors, n_tensor, metadata, 10)) fault(fvg_error(own));
}

/* What counts in a loaded checkpoint, as one number: values, names, and all that scoring depends on. */
static uint64_t essence(const fvg_learner *l, const fvg_fvgpt *f) {
  uint64_t h = fvg__hash_words(l->method->name, l->prompt_template, l->words ? l->words : "");
  int i;
  for (i = 0; i < l->n_param; i++)
    h = fvg__hash(h, l->param[i]->value.data, fvg_tensor_count(&l->param[i]->value) * sizeof(float));
  for (i = 0; i < l->n_class; i++) h = fvg__hash(h, l->class_name[i], strlen(l->class_name[i]) + 1);
  for (i = 0; l->method->option[i].name; i++) h = fvg__hash(h, &l->option[i], sizeof l->option[i]);
  h = fvg__hash(h, &l->desc.n_ctx, sizeof l->desc.n_ctx);
  h = fvg__hash(h, &l->desc.class_specific, sizeof l->desc.class_specific);
  h = fvg__hash(h, &l->desc.class_token_position, sizeof l->desc.class_token_position);
  for (i = 0; f && i < f->n_params; i++)
    h = fvg__hash(h, f->params[i]->value.data, fvg_tensor_count(&f->params[i]->value) * sizeof(float));
  return f ? fvg__hash(h, &f->desc, sizeof f->desc) : h;
}

/* 0 if it is not taken. */
static uint64_t essence_of(const uint8_t *data, size_t n) {
  fvg_source s = fvg_source_memory(data, n, "checkpoint");
  fvg_learner *l = NULL;
  fvg_fvgpt *f = NULL;
  uint64_t h = 0;
  if (!fvg_checkpoint_read(good_clip, &l, &f, NULL, &s)) h = essence(l, f);
  fvg_learner_free(l);
  fvg_fvgpt_free(f);
  return h;
}

/* Each bit of a checkpoint, flipped alone, is found, or changes nothing that counts. */
static void flip_every_bit(const fuzz_input *checkpoint) {
  const size_t n = checkpoint->n - 1;
  const uint64_t whole = essence_of(checkpoint->data + 1, n);
  long taken = 0;
  static fuzz_input f_copy;
  size_t i;
  f_copy = *checkpoint;
  if (!whole) fault("a good checkpoint is not taken");
  for (i = 0; i < 8 * n; i++) {
    uint8_t *byte = &f_copy.data[1 + i / 8];
    uint64_t h;
    *byte = (uint8_t)(*byte ^ 1u << i % 8);
    h = essence_of(f_copy.data + 1, n);
    if (h && h != whole) fault("a flipped bit changes a checkpoint, and nobody says so");
    taken += h != 0;
    *byte = (uint8_t)(*byte ^ 1u << i % 8);
  }
  printf("%lu bits of a checkpoint flipped: %ld without effect (in the word checksum itself), the rest refused\n",
         (unsigned long)(8 * n), taken);
  if (taken > 64) fault("too many bits without effect");
}

static void try_more(void) {
  static fuzz_input f;
  int i;
  for (i = 0; i < 2; i++) {
    f.n = 0;
    make_empty_gates(&f, i);
    memory.most = memory.live;
    if (fuzz_take(f.data, f.n)) fault("gates without numbers are taken");
    printf("%lu bytes that claim 17 GB: %s (%.1f MB in use)\n", (unsigned long)f.n - 1, fvg_error(own),
           (double)memory.most / 1e6);
  }
  f.n = 0;
  make_many_classes(&f, 3000);
  if (!fuzz_take(f.data, f.n)) fault(fvg_error(own));
  seed(&f, 5);
  flip_every_bit(&f);
}

static const char *const word[] = {
  "\"trainer\":\"CoOp\"", "\"__metadata__\":{", "\"F32\"", "\"F16\"", "\"BF16\"", "\"I8\"", ".weight_scale\"", "\"I64\"", "\"shape\":[", "\"data_offsets\":[", "prompt_learner.",
  "\"n_ctx\":\"", "\"class_specific\":\"1\"", "\"fdc_hidden\":\"", "\"gate_layers\":\"", "\\\"", "[\\\"a\\\"]", "65536", "1e300", "-1", NULL};

static const fuzz_target target = {3000, begin, take, seed, change, word, try_more};
