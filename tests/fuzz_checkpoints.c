/* Fuzzer for models and checkpoints: fvg_clip_load and what fvg_checkpoint_load does with an open file, under an
   allocator that counts: a file of n bytes never has more than 64 n + 64 MiB.  The first byte says what the rest is,
   'm' for a model, anything else for a checkpoint.
   With libFuzzer:  clang -g -fsanitize=fuzzer,address,undefined -DFVG_LIBFUZZER fuzz_checkpoints.c -lm
   Without it, main changes good files argv[1] times (default 3000), or writes them into the folder argv[1]. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fault(const char *what) { printf("FAILED %s\n", what); fflush(stdout); abort(); }

/* ---- an allocator that counts ---- */
typedef struct counter { size_t live, most, allowed; } counter;

static void *count_alloc(void *user, size_t bytes) {
  counter *k = (counter *)user;
  if (bytes > k->allowed || k->live > k->allowed - bytes) fault("more memory than 64 n + 64 MiB is asked for");
  k->live += bytes;
  if (k->live > k->most) k->most = k->live;
  return malloc(bytes);
}

static void count_release(void *user, void *block, size_t bytes) { ((counter *)user)->live -= bytes; free(block); }

static counter memory = {0, 0, (size_t)-1};

static fvg_ctx *new_context(void) {
  fvg_desc d;
  fvg_ctx *c;
  memset(&d, 0, sizeof d);
  d.allocator.alloc = count_alloc;
  d.allocator.release = count_release;
  d.allocator.user = &memory;
  if (fvg_init(&c, &d)) fault("no context");
  return c;
}

/* ---- a CLIP of 8 columns ---- */
enum { W = 8, CONTEXT = 28, VOCAB = 515, MAX_BYTES = 1 << 16 };
typedef struct file { uint8_t data[MAX_BYTES]; size_t n; } file;
static const char config[] = "{\"vision_config\": {\"num_attention_heads\": 2, \"image_size\": 4}, \"text_config\": "
                             "{\"num_attention_heads\": 2, \"hidden_act\": \"gelu\"}}";
static const char merges[] = "#version: 0.2\na b\n";
static float values[VOCAB * W];
static char names[64][80];
static fvg_named_tensor tensors[64];
static int n_tensor;

static int append(void *user, const void *bytes, size_t n) {
  file *f = (file *)user;
  if (n > sizeof f->data - f->n) return 1;
  memcpy(f->data + f->n, bytes, n);
  f->n += n;
  return 0;
}

static void add(const char *prefix, const char *name, int n_dim, int d0, int d1, int d2) {
  fvg_named_tensor *t = &tensors[n_tensor];
  snprintf(names[n_tensor], sizeof names[0], "%s%s", prefix, name);
  t->name = names[n_tensor++];
  memset(&t->tensor, 0, sizeof t->tensor);
  t->tensor.data = values;
  t->tensor.n_dim = n_dim;
  t->tensor.dim[0] = d0;
  t->tensor.dim[1] = d1;
  t->tensor.dim[2] = t->tensor.dim[3] = d2;
}

static void add_layer(const char *prefix, const char *name, int rows, int cols) {
  char full[80];
  snprintf(full, sizeof full, "%s.weight", name);
  add(prefix, full, cols ? 2 : 1, rows, cols, 0);
  snprintf(full, sizeof full, "%s.bias", name);
  add(prefix, full, 1, rows, 0, 0);
}

static void add_tower(const char *prefix) {
  static const char *const leaf[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj",
                                     "mlp.fc1", "mlp.fc2", "layer_norm1", "layer_norm2"};
  char full[80];
  int i;
  snprintf(full, sizeof full, "%sencoder.layers.0.", prefix);
  for (i = 0; i < 8; i++) add_layer(full, leaf[i], W, i < 6 ? W : 0);
}

static void make_model(fvg_ctx *c, file *f) {
  size_t i;
  for (i = 0; i < sizeof values / sizeof *values; i++) values[i] = (float)((i * 37 + i / 7) % 101) / 100 - 0.5f;
  add("", "logit_scale", 0, 0, 0, 0);
  add("vision_model.embeddings.", "patch_embedding.weight", 4, W, 3, 2);
  add("vision_model.embeddings.", "class_embedding", 1, W, 0, 0);
  add("vision_model.embeddings.", "position_embedding.weight", 2, 5, W, 0);
  add_layer("vision_model.", "pre_layrnorm", W, 0);
  add_layer("vision_model.", "post_layernorm", W, 0);
  add_tower("vision_model.");
  add("", "visual_projection.weight", 2, W, W, 0);
  add("text_model.embeddings.", "token_embedding.weight", 2, VOCAB, W, 0);
  add("text_model.embeddings.", "position_embedding.weight", 2, CONTEXT, W, 0);
  add_layer("text_model.", "final_layer_norm", W, 0);
  add_tower("text_model.");
  add("", "text_projection.weight", 2, W, W, 0);
  if (fvg_safetensors_write(c, append, f, tensors, n_tensor, NULL, 0)) fault(fvg_error(c));
}

static fvg_clip *open_model(fvg_ctx *c, const uint8_t *data, size_t n) {
  fvg_source s = fvg_source_memory(data, n, "model");
  fvg_weights *w;
  fvg_clip *m = NULL;
  if (fvg_weights_open_any(c, &w, &s)) return NULL;
  if (fvg_clip_load(c, &m, w, config, FVG_F32) == FVG_OK && !m) fault("status and result disagree");
  fvg_weights_close(w);
  return m;
}

/* ---- one input ---- */
static fvg_ctx *own;                                   /* of the good model, for checkpoints                        */
static fvg_clip *good_clip;
static file good_model;

static void make_good_model(void) {
  fvg_source s = fvg_source_memory(merges, sizeof merges - 1, "merges");
  if (good_clip) return;
  own = new_context();
  make_model(own, &good_model);
  good_clip = open_model(own, good_model.data, good_model.n);
  if (!good_clip || fvg_tokenizer_open(own, &good_clip->tokenizer, &s, VOCAB)) fault(fvg_error(own));
}

/* 1 if it is a whole checkpoint. */
static int try_checkpoint(fvg_clip *m, const uint8_t *data, size_t n) {
  fvg_source s = fvg_source_memory(data, n, "checkpoint");
  fvg_weights *w;
  fvg_learner *l = NULL;
  fvg_fvgpt *f = NULL;
  fvg_status status;
  if (fvg_weights_open(m->ctx, &w, &s)) return 0;
  status = fvg__restore_checkpoint(m, w, &l, &f);
  if (!status && !l) fault("status and result disagree");
  fvg_learner_free(l);
  fvg_fvgpt_free(f);
  fvg_weights_close(w);
  return status == FVG_OK;
}

static int try_input(const uint8_t *data, size_t size) {
  size_t before;
  int ok;
  if (!size) return 0;
  make_good_model();
  before = memory.live;
  memory.allowed = before + 64 * size + ((size_t)64 << 20);
  if (data[0] == 'm') {
    fvg_ctx *c = new_context();
    fvg_clip *m = open_model(c, data + 1, size - 1);
    ok = m != NULL;
    fvg_clip_free(m);
    fvg_free(c);
  } else {
    fvg_tape_free(good_clip->tape);                    /* it keeps what it has reserved                             */
    good_clip->tape = NULL;
    before = memory.live;
    ok = try_checkpoint(good_clip, data + 1, size - 1);
    fvg_tape_free(good_clip->tape);
    good_clip->tape = NULL;
  }
  if (memory.live != before) fault("memory stays");
  memory.allowed = (size_t)-1;
  return ok;
}

#ifdef __cplusplus
extern "C"
#endif
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { (void)try_input(data, size); return 0; }

#ifndef FVG_LIBFUZZER
/* ---- good files, with their first byte ---- */
enum { N_GOOD = 8 };
static file good[N_GOOD], f_copy;

/* A checkpoint as fvg_checkpoint_save writes it, read back; without its checksum, so that changes are looked at. */
static void make_checkpoint(file *f, const char *method, int with_fvgpt, int with_checksum) {
  static const char *const class_name[] = {"cat", "dog", "a bird"};
  const char *path = "build/fuzz-checkpoint.safetensors";
  fvg_learner_desc d;
  fvg_fvgpt_desc fd;
  fvg_learner *l = NULL;
  fvg_fvgpt *m = NULL;
  fvg_named_tensor tensor[64];
  fvg_metadata metadata[64];
  fvg_source s;
  fvg_weights *w;
  int n = 0, n_metadata = 0, i;
  memset(&d, 0, sizeof d);
  memset(&fd, 0, sizeof fd);
  d.method = fvg_method_find(method);
  fd.width = W;
  fd.fdc_hidden = 4;
  fd.gate_hidden = 3;
  d.n_ctx = 2;
  d.prompt_template = "{}.";
  if (fvg_learner_new(good_clip, &l, class_name, 3, &d) || (with_fvgpt && fvg_fvgpt_new(own, &m, &fd)) ||
      fvg_checkpoint_save(l, m, path, NULL, 0) || fvg_source_file(own, &s, path) || fvg_weights_open(own, &w, &s))
    fault(fvg_error(own));
  for (i = 0; i < fvg_weights_count(w); i++, n++) {
    tensor[n].name = fvg_weights_name(w, i);
    if (fvg_weights_get(w, &tensor[n].tensor, tensor[n].name, FVG_F32)) fault(fvg_error(own));
  }
  for (i = w->json.value[w->metadata].first; i >= 0; i = w->json.value[i].next) {
    if (!with_checksum && !strcmp(w->json.value[i].key, FVG__CHECKSUM)) continue;
    metadata[n_metadata].key = w->json.value[i].key;
    metadata[n_metadata++].value = w->json.value[i].string;
  }
  append(f, "c", 1);
  if (fvg_safetensors_write(own, append, f, tensor, n, metadata, n_metadata)) fault(fvg_error(own));
  for (i = 0; i < n; i++) fvg_tensor_free(own, &tensor[i].tensor);
  fvg_weights_close(w);
  fvg_learner_free(l);
  fvg_fvgpt_free(m);
  remove(path);
}

static void make_good_files(void) {
  make_good_model();
  append(&good[0], "m", 1);
  append(&good[0], good_model.data, good_model.n);
  make_checkpoint(&good[1], "KgCoOp", 1, 0);
  make_checkpoint(&good[2], "MaPLe", 0, 0);
  make_checkpoint(&good[3], "MMRL", 1, 0);
  make_checkpoint(&good[4], "CoCoOp", 0, 0);
  make_checkpoint(&good[5], "CoOp", 1, 1);
  make_checkpoint(&good[6], "MMRLpp", 0, 0);
  make_checkpoint(&good[7], "DePT_PromptSRC", 1, 0);
}

/* ---- changes ---- */
/* Another number, some of them absurd, for one that stands in the header. */
static void change_number(fvg_rng *r, file *f) {
  static const char *const number[] = {"0", "1", "2", "3", "7", "64", "65536", "65535", "1000000", "2147483647",
                                       "4294967296", "9007199254740991", "1e300", "-1", "0.5", "33554432"};
  const char *to = number[fvg_rng_below(r, 16)];
  size_t header = (size_t)f->data[1] | (size_t)f->data[2] << 8, at = 9 + fvg_rng_below(r, (uint32_t)header), n = 0, i;
  if (9 + header > f->n) return;                       /* it was cut, or its length changed                         */
  while (at < 9 + header && (f->data[at] < '0' || f->data[at] > '9')) at++;
  while (at + n < 9 + header && f->data[at + n] >= '0' && f->data[at + n] <= '9') n++;
  if (!n || f->n - n + strlen(to) > sizeof f->data) return;
  memmove(f->data + at + strlen(to), f->data + at + n, f->n - at - n);
  memcpy(f->data + at, to, strlen(to));
  f->n = f->n - n + strlen(to);
  header = header - n + strlen(to);
  for (i = 0; i < 8; i++) f->data[1 + i] = (uint8_t)((uint64_t)header >> 8 * i & 255);
}

static void change(fvg_rng *r, file *f) {
  size_t header = (size_t)f->data[1] | (size_t)f->data[2] << 8, at;
  if (f->n < 40) return;
  switch (fvg_rng_below(r, 8)) {
    case 0: f->n -= fvg_rng_below(r, (uint32_t)f->n - 9) / 4; return;
    case 1: f->data[1 + fvg_rng_below(r, (uint32_t)f->n - 1)] = (uint8_t)fvg_rng_next(r); return;
    case 2:
      at = 9 + fvg_rng_below(r, (uint32_t)(header < f->n - 9 ? header : f->n - 9));
      f->data[at] = (uint8_t)"0123456789{}[],:\"ab"[fvg_rng_below(r, 19)];
      return;
    default: change_number(r, f);
  }
}

/* The file of 2,840 bytes that asked for 17 GB: gates of 65,536 x 65,536, whose matrices have no columns. */
static void make_empty_gates(file *f, int fdc) {
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
static void make_many_classes(file *f, int n) {
  static char text[MAX_BYTES];
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
  fvg_weights *w;
  fvg_learner *l = NULL;
  fvg_fvgpt *f = NULL;
  uint64_t h = 0;
  if (fvg_weights_open(own, &w, &s)) return 0;
  if (!fvg__restore_checkpoint(good_clip, w, &l, &f)) h = essence(l, f);
  fvg_learner_free(l);
  fvg_fvgpt_free(f);
  fvg_weights_close(w);
  return h;
}

/* Each bit of a checkpoint, flipped alone, is found, or changes nothing that counts. */
static void flip_every_bit(const file *checkpoint) {
  const size_t n = checkpoint->n - 1;
  const uint64_t whole = essence_of(checkpoint->data + 1, n);
  long taken = 0;
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

static void write_seeds(const char *folder) {
  char path[1024];
  int i;
  for (i = 0; i < N_GOOD; i++) {
    snprintf(path, sizeof path, "%s/seed%d", folder, i);
    if (fvg_file_save(own, path, good[i].data, good[i].n)) fault(fvg_error(own));
  }
}

int main(int argc, char **argv) {
  long i, iterations = argc > 1 ? strtol(argv[1], NULL, 10) : 3000, whole = 0;
  static file f;
  fvg_rng r;
  make_good_files();
  for (i = 0; i < N_GOOD; i++)
    if (!try_input(good[i].data, good[i].n)) { printf("good file %ld: %s\n", i, fvg_error(own)); fault("refused"); }
  if (argc > 1 && !iterations) { write_seeds(argv[1]); return 0; }
  for (i = 0; i < 2; i++) {
    memset(&f, 0, sizeof f);
    make_empty_gates(&f, (int)i);
    memory.most = memory.live;
    if (try_input(f.data, f.n)) fault("gates without numbers are taken");
    printf("%lu bytes that claim 17 GB: %s (%.1f MB in use)\n", (unsigned long)f.n - 1, fvg_error(own),
           (double)memory.most / 1e6);
  }
  memset(&f, 0, sizeof f);
  make_many_classes(&f, 3000);
  if (!try_input(f.data, f.n)) fault(fvg_error(own));
  flip_every_bit(&good[5]);
  fvg_rng_seed(&r, 1, 0);
  for (i = 0; i < iterations; i++) {
    int changes = 1 + (int)fvg_rng_below(&r, 4);
    uint8_t *exact;
    f = good[i % N_GOOD];
    while (changes--) change(&r, &f);
    exact = (uint8_t *)malloc(f.n);                    /* exactly as many bytes, for the sanitizer's sake           */
    if (!exact) fault("out of memory");
    memcpy(exact, f.data, f.n);
    whole += try_input(exact, f.n);
    free(exact);
  }
  printf("%ld of %ld changed files are still whole\n", whole, iterations);
  fvg_clip_free(good_clip);
  fvg_free(own);
  printf("1 passed, 0 failed\n");
  return 0;
}
#endif
