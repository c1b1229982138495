/* pretrain OUT [--steps 6000] [--batch 64] [--lr 0.001] [--seed 1] [--threads N]

   Pre-trains a small CLIP on the endless pictures and captions of world.h, from random weights, as Radford et al. did
   (arXiv 2103.00020): for a batch of pairs with normalised features f and g, scores z = exp(t) f g^T, and

     L = (CE(rows of z, diagonal) + CE(columns of z, diagonal)) / 2,      t learned, at most ln 100;

   AdamW, a linear warm-up over a twentieth of the steps and a cosine to zero.  The first third of the steps is a
   curriculum (Bengio et al. 2009): pictures of one large plain thing before a plain background become rarer.  Picture
   i of a command is always the same picture, so a run is repeated by its command, and one that was stopped goes on
   from OUT/checkpoint.safetensors, to the same bits, when the same command is given again.  Results: OUT/config.json,
   model.safetensors (f16; until the end, the first values), merges.txt, log.txt. */
#define _POSIX_C_SOURCE 200809L
#define FVGPT_IMPLEMENTATION
#include "world.h"

#include <errno.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { WIDTH = 96, HIDDEN = 384, HEADS = 3, IMAGE_LAYERS = 4, TEXT_LAYERS = 3, EMBED = 96, PATCH = 8,
       TOKENS = 65, CONTEXT = 24 };
enum { CHUNK = 16, MAX_TENSORS = 160, MAX_WORDS = 512, MAX_MERGES = 600,
       CAPTIONS_FOR_MERGES = 20000, SAVE_EVERY = 100, MAX_PAIRS = WORLD_THINGS * WORLD_COLOURS };
enum { STREAM_WEIGHTS = 1, STREAM_CAPTIONS = 2, STREAM_TEST = 3, STREAM_PICTURES = 16 };

static const char config_form[] =
  "{\n  \"vision_config\": {\"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d, "
  "\"num_attention_heads\": %d, \"image_size\": %d,\n"
  "                    \"patch_size\": %d, \"hidden_act\": \"quick_gelu\"},\n"
  "  \"text_config\": {\"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d, "
  "\"num_attention_heads\": %d, \"vocab_size\": %d,\n"
  "                  \"max_position_embeddings\": %d, \"hidden_act\": \"quick_gelu\"},\n"
  "  \"projection_dim\": %d\n}\n";

typedef struct tensor {                          /* one weight: its name in the file, first values, what trains it */
  char name[96];
  int n_dim, dim[4];
  float mean, deviation;
  fvg_parameter parameter;
} tensor;

typedef struct worker {                          /* a fixed part of the batch: CHUNK pairs                          */
  fvg_ctx *c;
  fvg_clip m;                                    /* the model's tensors in a context of the worker's own,           */
  fvg_tokenizer tokenizer;                       /* and so is its vocabulary                                        */
  fvg_tape *t;
  fvg_parameter parameter[MAX_TENSORS], *list[MAX_TENSORS];       /* the model's values, gradients of its own       */
  fvg_node *f, *g;
  fvg_status status;
} worker;

typedef struct pretraining {
  fvg_ctx *c;
  const char *out;
  long steps;
  int batch, seed, n, vocab_size;
  double lr;
  tensor tensor[MAX_TENSORS];
  fvg_clip *m;
  fvg_optimizer *decayed, *plain;                /* matrices decay; norms, biases and the scale do not              */
  fvg_parameter *list[2][MAX_TENSORS];
  int n_list[2];
  worker *workers;
  int n_worker;
  fvg_parameter f, g;                            /* normalised features of the batch and their gradients            */
  long first_picture;
  double share_full;                             /* of the pictures show all of the world, the others are easy      */
  FILE *log;
} pretraining;

/* ---- vocabulary: byte-pair merges learned from captions (Sennrich et al., arXiv 1508.07909) ---- */
typedef struct word { char symbol[24][24]; int n; long count; } word;
typedef struct vocabulary {
  word words[MAX_WORDS];
  int n_words;
  char merges[MAX_MERGES * 48];
  int n_merges;
} vocabulary;

static void count_word(vocabulary *v, const char *text, size_t n) {
  word fresh;
  int i;
  memset(&fresh, 0, sizeof fresh);
  for (fresh.n = 0; fresh.n < (int)n; fresh.n++)
    snprintf(fresh.symbol[fresh.n], 24, "%c%s", text[fresh.n], fresh.n + 1 == (int)n ? "</w>" : "");
  for (i = 0; i < v->n_words && memcmp(v->words[i].symbol, fresh.symbol, sizeof fresh.symbol); i++) {}
  if (i == MAX_WORDS) return;
  if (i == v->n_words) v->words[v->n_words++] = fresh;
  v->words[i].count++;
}

/* The most frequent pair of neighbours, the first in the alphabet among equals; 0 when every word is one symbol. */
static long best_pair(const vocabulary *v, char *left, char *right) {
  long best = 0;
  int i, k, j, l;
  for (i = 0; i < v->n_words; i++)
    for (k = 0; k + 1 < v->words[i].n; k++) {
      const char *a = v->words[i].symbol[k], *b = v->words[i].symbol[k + 1];
      long count = 0;
      int order;
      for (j = 0; j < v->n_words; j++)
        for (l = 0; l + 1 < v->words[j].n; l++)
          if (!strcmp(v->words[j].symbol[l], a) && !strcmp(v->words[j].symbol[l + 1], b)) count += v->words[j].count;
      order = strcmp(a, left) ? strcmp(a, left) : strcmp(b, right);
      if (count > best || (count == best && order < 0)) {
        best = count;
        strcpy(left, a);
        strcpy(right, b);
      }
    }
  return best;
}

static void merge_pair(word *w, const char *left, const char *right) {
  int k;
  for (k = 0; k + 1 < w->n; k++)
    if (!strcmp(w->symbol[k], left) && !strcmp(w->symbol[k + 1], right)) {
      strcat(w->symbol[k], right);
      memmove(w->symbol[k + 1], w->symbol[k + 2], (size_t)(w->n - k - 2) * sizeof w->symbol[0]);
      w->n--;
    }
}

static void learn_merges(vocabulary *v) {
  char caption[WORLD_CAPTION], left[24], right[24];
  size_t used = (size_t)sprintf(v->merges, "#version: 0.2\n");
  int i;
  for (i = 0; i < CAPTIONS_FOR_MERGES; i++) {
    fvg_rng r;
    world_scene scene;
    const char *at = caption;
    fvg_rng_seed(&r, (uint64_t)i, STREAM_CAPTIONS);
    scene = world_scene_draw(&r);
    world_caption(&scene, &r, caption);
    while (*at) {
      size_t n = strcspn(at, " .");
      if (n) count_word(v, at, n);
      at += n ? n : 1;
    }
  }
  for (; v->n_merges < MAX_MERGES; v->n_merges++) {
    left[0] = right[0] = 0;
    if (!best_pair(v, left, right)) break;
    used += (size_t)sprintf(v->merges + used, "%s %s\n", left, right);
    for (i = 0; i < v->n_words; i++) merge_pair(&v->words[i], left, right);
  }
}

/* ---- the model: tensors in Hugging Face's names with CLIP's first values ---- */
static void add(pretraining *p, const char *name, int n_dim, int d0, int d1, int d2, int d3,
                double mean, double deviation) {
  tensor *t = &p->tensor[p->n++];
  snprintf(t->name, sizeof t->name, "%s", name);
  t->n_dim = n_dim;
  t->dim[0] = d0;
  t->dim[1] = d1;
  t->dim[2] = d2;
  t->dim[3] = d3;
  t->mean = (float)mean;
  t->deviation = (float)deviation;
}

static void add_pair(pretraining *p, const char *prefix, const char *leaf, int rows, int cols,
                     double mean, double deviation) {
  char name[96];
  snprintf(name, sizeof name, "%s%s.weight", prefix, leaf);
  add(p, name, cols ? 2 : 1, rows, cols, 0, 0, mean, deviation);
  snprintf(name, sizeof name, "%s%s.bias", prefix, leaf);
  add(p, name, 1, rows, 0, 0, 0, 0, 0);
}

/* In the order of the fields of fvg_block. */
static void add_blocks(pretraining *p, const char *tower, int layers) {
  double narrow = 1 / sqrt((double)WIDTH), out = narrow / sqrt(2.0 * layers);
  char prefix[64];
  int i;
  for (i = 0; i < layers; i++) {
    snprintf(prefix, sizeof prefix, "%s.encoder.layers.%d.", tower, i);
    add_pair(p, prefix, "layer_norm1", WIDTH, 0, 1, 0);
    add_pair(p, prefix, "self_attn.q_proj", WIDTH, WIDTH, 0, narrow);
    add_pair(p, prefix, "self_attn.k_proj", WIDTH, WIDTH, 0, narrow);
    add_pair(p, prefix, "self_attn.v_proj", WIDTH, WIDTH, 0, narrow);
    add_pair(p, prefix, "self_attn.out_proj", WIDTH, WIDTH, 0, out);
    add_pair(p, prefix, "layer_norm2", WIDTH, 0, 1, 0);
    add_pair(p, prefix, "mlp.fc1", HIDDEN, WIDTH, 0, narrow / sqrt(2.0));
    add_pair(p, prefix, "mlp.fc2", WIDTH, HIDDEN, 0, out);
  }
}

static void list_tensors(pretraining *p) {
  double narrow = 1 / sqrt((double)WIDTH);
  add(p, "vision_model.embeddings.patch_embedding.weight", 4, WIDTH, 3, PATCH, PATCH, 0,
      1 / sqrt(3.0 * PATCH * PATCH));
  add(p, "vision_model.embeddings.class_embedding", 1, WIDTH, 0, 0, 0, 0, narrow);
  add(p, "vision_model.embeddings.position_embedding.weight", 2, TOKENS, WIDTH, 0, 0, 0, narrow);
  add_pair(p, "vision_model.", "pre_layrnorm", WIDTH, 0, 1, 0);
  add_pair(p, "vision_model.", "post_layernorm", WIDTH, 0, 1, 0);
  add(p, "visual_projection.weight", 2, EMBED, WIDTH, 0, 0, 0, narrow);
  add(p, "text_model.embeddings.token_embedding.weight", 2, p->vocab_size, WIDTH, 0, 0, 0, 0.02);
  add(p, "text_model.embeddings.position_embedding.weight", 2, CONTEXT, WIDTH, 0, 0, 0, 0.01);
  add_pair(p, "text_model.", "final_layer_norm", WIDTH, 0, 1, 0);
  add(p, "text_projection.weight", 2, EMBED, WIDTH, 0, 0, 0, narrow);
  add(p, "logit_scale", 0, 0, 0, 0, 0, log(1 / 0.07), 0);
  add_blocks(p, "vision_model", IMAGE_LAYERS);
  add_blocks(p, "text_model", TEXT_LAYERS);
}

/* The clip's tensors in the order of list_tensors; the scale is no tensor of the clip and keeps memory of its own. */
static void tensors_of(const fvg_clip *m, const fvg_tensor **x) {
  const fvg_transformer *tower[2];
  const fvg_tensor *leaf;
  int i, k;
  *x++ = &m->vision.patch_weight;
  *x++ = &m->vision.class_embedding;
  *x++ = &m->vision.position_embedding;
  *x++ = &m->vision.ln_pre_weight;
  *x++ = &m->vision.ln_pre_bias;
  *x++ = &m->vision.ln_post_weight;
  *x++ = &m->vision.ln_post_bias;
  *x++ = &m->vision.projection;
  *x++ = &m->text.token_embedding;
  *x++ = &m->text.position_embedding;
  *x++ = &m->text.ln_final_weight;
  *x++ = &m->text.ln_final_bias;
  *x++ = &m->text.projection;
  *x++ = NULL;
  tower[0] = &m->vision.transformer;
  tower[1] = &m->text.transformer;
  for (k = 0; k < 2; k++)
    for (i = 0; i < tower[k]->n_layer; i++)
      for (leaf = &tower[k]->block[i].ln_1_weight; leaf <= &tower[k]->block[i].proj_bias; leaf++) *x++ = leaf;
}

static fvg_tensor shape_of(const tensor *t, void *data, fvg_dtype type) {
  fvg_tensor x;
  memset(&x, 0, sizeof x);
  x.data = data;
  x.n_dim = t->n_dim;
  memcpy(x.dim, t->dim, sizeof t->dim);
  x.type = type;
  return x;
}

static fvg_status save_path(const pretraining *p, char *path, size_t n, const char *name) {
  return snprintf(path, n, "%s/%s", p->out, name) < (int)n ? FVG_OK :
         fvg_fail(p->c, FVG_E_ARG, "%.60s...: the path is too long", p->out);
}

/* Positions as waves of both coordinates, so that neighbours are alike from the start (Beyer et al., arXiv
   2205.01580). */
static void grid_positions(float *x) {
  int token, k, side = WORLD_SIDE / PATCH;
  for (token = 1; token < TOKENS; token++)
    for (k = 0; k < WIDTH; k++) {
      int place = k < WIDTH / 2 ? (token - 1) % side : (token - 1) / side, wave = k % (WIDTH / 2) / 2;
      double angle = place * pow(30.0, -wave / (WIDTH / 4.0)) * 1.5;
      x[token * WIDTH + k] = (float)(k % 2 ? cos(angle) : sin(angle));
    }
}

/* OUT/model.safetensors: first values of the seed in f32, or, at the end, the trained ones in f16. */
static fvg_status save_model(pretraining *p, int trained) {
  fvg_named_tensor named[MAX_TENSORS];
  char path[1100];
  fvg_status s = save_path(p, path, sizeof path, "model.safetensors");
  fvg_rng r;
  int i, n;
  size_t k;
  fvg_rng_seed(&r, (uint64_t)p->seed, STREAM_WEIGHTS);
  for (n = 0; !s && n < p->n; n++) {
    tensor *t = &p->tensor[n];
    fvg_tensor x = shape_of(t, NULL, trained ? FVG_F16 : FVG_F32);
    size_t count = fvg_tensor_count(&x);
    x.data = fvg_alloc_array(p->c, count, fvg_dtype_size(x.type));
    if (!x.data) { s = FVG_E_NOMEM; break; }
    for (k = 0; k < count; k++)
      if (trained) ((uint16_t *)x.data)[k] = fvg_float_to_half(((float *)t->parameter.value.data)[k]);
      else ((float *)x.data)[k] = t->mean + t->deviation * (float)fvg_rng_normal(&r);
    if (!trained && strstr(t->name, "vision_model.embeddings.position")) grid_positions((float *)x.data);
    /* Keys start as the queries, which stand two tensors before them: q.k is then a similarity, and every token looks
       first at those like itself. */
    if (!trained && strstr(t->name, "k_proj.weight"))
      memcpy(x.data, named[n - 2].tensor.data, count * sizeof(float));
    named[n].name = t->name;
    named[n].tensor = x;
  }
  if (!s) s = fvg_safetensors_save(p->c, path, named, p->n, NULL, 0);
  for (i = 0; i < n; i++) fvg_release(p->c, named[i].tensor.data);
  return s;
}

/* Parameters that lie in the clip's own tensors, so that training them is training the clip. */
static fvg_status open_model(pretraining *p) {
  const fvg_tensor *x[MAX_TENSORS];
  fvg_optimizer_desc desc;
  fvg_status s = fvg_clip_open(p->c, &p->m, p->out, NULL, FVG_F32);
  int i, decays;
  if (!s) s = fvg_clip_unpack(p->m);
  if (s) return s;
  tensors_of(p->m, x);
  for (i = 0; !s && i < p->n; i++) {
    fvg_parameter *parameter = &p->tensor[i].parameter;
    s = fvg_parameter_new(p->c, parameter, p->tensor[i].name, p->tensor[i].n_dim, p->tensor[i].dim);
    if (s) break;
    if (x[i]) {
      fvg_release(p->c, parameter->value.data);
      parameter->value.data = x[i]->data;
    } else *(float *)parameter->value.data = p->tensor[i].mean;
    decays = p->tensor[i].n_dim >= 2;
    p->list[decays][p->n_list[decays]++] = parameter;
  }
  memset(&desc, 0, sizeof desc);
  desc.kind = FVG_ADAMW;
  desc.beta2 = 0.98f;
  desc.eps = 1e-6f;
  desc.weight_decay = 0.1f;
  if (!s) s = fvg_optimizer_new(p->c, &p->decayed, p->list[1], p->n_list[1], &desc);
  desc.weight_decay = -1;
  if (!s) s = fvg_optimizer_new(p->c, &p->plain, p->list[0], p->n_list[0], &desc);
  return s;
}

static void close_model(pretraining *p) {
  int i;
  for (i = 0; i < p->n; i++) {
    if (strcmp(p->tensor[i].name, "logit_scale")) p->tensor[i].parameter.value.data = NULL;           /* the clip's */
    fvg_parameter_free(p->c, &p->tensor[i].parameter);
  }
  fvg_optimizer_free(p->decayed);
  fvg_optimizer_free(p->plain);
  fvg_clip_free(p->m);
}

/* ---- checkpoints: every value with both of its moments ---- */
typedef struct saved { fvg_named_tensor tensor[3 * MAX_TENSORS]; char name[2 * MAX_TENSORS][104]; int n; } saved;

static void list_saved(pretraining *p, saved *s) {
  int i, group, k, n_name = 0;
  s->n = 0;
  for (group = 0; group < 2; group++)
    for (i = 0; i < p->n_list[group]; i++) {
      fvg_optimizer *o = group ? p->decayed : p->plain;
      const fvg_parameter *parameter = p->list[group][i];
      s->tensor[s->n].name = parameter->name;
      s->tensor[s->n].tensor = parameter->value;
      s->n++;
      for (k = 0; k < 2; k++) {
        char *name = s->name[n_name++];
        snprintf(name, sizeof s->name[0], "%s.%s", parameter->name, k ? "v" : "m");
        s->tensor[s->n].name = name;
        s->tensor[s->n].tensor = parameter->value;
        s->tensor[s->n++].tensor.data = fvg_optimizer_moment(o, i, k);
      }
    }
}

static fvg_status save_checkpoint(pretraining *p, long step) {
  static saved x;
  static const char *const key[5] = {"step", "steps", "batch", "seed", "lr"};
  char path[1100], text[5][32];
  fvg_metadata metadata[5];
  fvg_status s = save_path(p, path, sizeof path, "checkpoint.safetensors");
  int i;
  list_saved(p, &x);
  snprintf(text[0], 32, "%ld", step);
  snprintf(text[1], 32, "%ld", p->steps);
  snprintf(text[2], 32, "%d", p->batch);
  snprintf(text[3], 32, "%d", p->seed);
  snprintf(text[4], 32, "%.17g", p->lr);
  for (i = 0; i < 5; i++) {
    metadata[i].key = key[i];
    metadata[i].value = text[i];
  }
  return s ? s : fvg_safetensors_save(p->c, path, x.tensor, x.n, metadata, 5);
}

static fvg_status metadata_number(pretraining *p, const fvg_weights *w, const char *key, double *out) {
  const char *text = fvg_weights_metadata(w, key);
  char *end;
  *out = text ? strtod(text, &end) : 0;
  return text && *text && !*end ? FVG_OK :
         fvg_fail(p->c, FVG_E_FORMAT, "%s: no number %s; remove the file to start anew", fvg_weights_file(w), key);
}

/* The checkpoint of a run with the same settings, and its step; *w NULL when there is none. */
static fvg_status open_checkpoint(pretraining *p, fvg_weights **w, long *step) {
  char path[1100];
  double at = 0, steps = 0, batch = 0, seed = 0, lr = 0;
  fvg_source source;
  fvg_status s = save_path(p, path, sizeof path, "checkpoint.safetensors");
  *w = NULL;
  *step = 0;
  if (s || !fvg_file_exists(path)) return s;
  s = fvg_source_file(p->c, &source, path);
  if (!s) s = fvg_weights_open(p->c, w, &source);
  if (!s) s = metadata_number(p, *w, "step", &at);
  if (!s) s = metadata_number(p, *w, "steps", &steps);
  if (!s) s = metadata_number(p, *w, "batch", &batch);
  if (!s) s = metadata_number(p, *w, "seed", &seed);
  if (!s) s = metadata_number(p, *w, "lr", &lr);
  if (!s && (steps != p->steps || batch != p->batch || seed != p->seed || lr != p->lr || !(at >= 0 && at <= steps)))
    s = fvg_fail(p->c, FVG_E_ARG,
                 "%s is of another run (%g steps, batch %g, seed %g, lr %g); choose another OUT or remove it",
                 fvg_weights_file(*w), steps, batch, seed, lr);
  *step = s ? 0 : (long)at;
  if (s) { fvg_weights_close(*w); *w = NULL; }
  return s;
}

/* Before a file is touched: a checkpoint that is there must be this run's. */
static fvg_status check_checkpoint(pretraining *p) {
  fvg_weights *w;
  long step;
  fvg_status s = open_checkpoint(p, &w, &step);
  fvg_weights_close(w);
  return s;
}

/* Goes on where the same command stopped; *step 0 when it begins. */
static fvg_status load_checkpoint(pretraining *p, long *step) {
  static saved x;
  fvg_weights *w;
  fvg_tensor found;
  fvg_status s = open_checkpoint(p, &w, step);
  int i;
  if (s || !w) return s;
  list_saved(p, &x);
  for (i = 0; !s && i < x.n; i++) {
    s = fvg_weights_get(w, &found, x.tensor[i].name, FVG_F32);
    if (s) break;
    if (fvg_tensor_count(&found) == fvg_tensor_count(&x.tensor[i].tensor))
      memcpy(x.tensor[i].tensor.data, found.data, fvg_tensor_count(&found) * sizeof(float));
    else
      s = fvg_fail(p->c, FVG_E_SHAPE, "%s: %s has another size than this model's; remove the file to start anew",
                   fvg_weights_file(w), x.tensor[i].name);
    fvg_tensor_free(p->c, &found);
  }
  fvg_weights_close(w);
  *fvg_optimizer_steps(p->decayed) = *fvg_optimizer_steps(p->plain) = *step;
  return s;
}

/* ---- training: data-parallel.  Each worker computes the features of its part of the batch, the loss is made of all
   of them, and each worker carries its features' gradients back through the towers.  Parts and sums are in fixed
   order, so the number of threads does not show in the result. ---- */
static fvg_status workers_new(pretraining *p) {
  fvg_desc desc;
  int dim[2] = {0, EMBED}, i, k;
  fvg_status s;
  dim[0] = p->batch;
  memset(&desc, 0, sizeof desc);
  s = fvg_parameter_new(p->c, &p->f, "image features", 2, dim);
  if (!s) s = fvg_parameter_new(p->c, &p->g, "text features", 2, dim);
  p->n_worker = p->batch / CHUNK;
  p->workers = (worker *)fvg_alloc_array(p->c, (size_t)p->n_worker, sizeof *p->workers);
  if (!p->workers) return FVG_E_NOMEM;
  for (i = 0; !s && i < p->n_worker; i++) {
    worker *w = &p->workers[i];
    s = fvg_init(&w->c, &desc);
    if (s) return fvg_fail(p->c, s, "out of memory");
    w->m = *p->m;
    w->m.ctx = w->c;
    w->tokenizer = *p->m->tokenizer;
    w->tokenizer.ctx = w->c;
    w->m.tokenizer = &w->tokenizer;
    w->t = fvg_tape_new(w->c);
    if (!w->t) return fvg_fail(p->c, FVG_E_NOMEM, "out of memory");
    for (k = 0; k < p->n; k++) {
      w->parameter[k] = p->tensor[k].parameter;
      w->parameter[k].grad = (float *)fvg_alloc_array(w->c, fvg_tensor_count(&w->parameter[k].value), sizeof(float));
      if (!w->parameter[k].grad) return fvg_fail(p->c, FVG_E_NOMEM, "out of memory");
      w->list[k] = &w->parameter[k];
    }
    fvg_tape_train(w->t, w->list, p->n);
  }
  return s;
}

static void workers_free(pretraining *p) {
  int i, k;
  for (i = 0; p->workers && i < p->n_worker; i++) {
    worker *w = &p->workers[i];
    if (!w->c) continue;
    for (k = 0; k < p->n; k++) fvg_release(w->c, w->parameter[k].grad);
    fvg_tape_free(w->t);
    fvg_free(w->c);
  }
  fvg_release(p->c, p->workers);
  fvg_parameter_free(p->c, &p->f);
  fvg_parameter_free(p->c, &p->g);
}

/* Pair `number` of the endless world, its picture as the tower wants it. */
static void draw_pair(const pretraining *p, fvg_ctx *c, long number, float *pixels, char *caption) {
  uint8_t rgb[3 * WORLD_SIDE * WORLD_SIDE];
  fvg_image image = {WORLD_SIDE, WORLD_SIDE, 3, NULL, 0};
  world_scene scene;
  fvg_rng r;
  fvg_rng_seed(&r, (uint64_t)p->seed, STREAM_PICTURES + (uint64_t)number);
  scene = world_scene_draw(&r);
  if (fvg_rng_uniform(&r) > p->share_full) {       /* one large plain thing before a plain background               */
    scene.ground = world_below(&r, 2);
    scene.texture = 0;
    scene.count = 1;
    scene.large = 2;
    scene.n_distractor = 0;
  }
  world_caption(&scene, &r, caption);
  world_render(&scene, &r, rgb, NULL);
  image.pixels = rgb;
  fvg_image_normalize(c, pixels, &image, &p->m->preprocess);
}

static void encode_part(void *arg, int i) {
  pretraining *p = (pretraining *)arg;
  worker *w = &p->workers[i];
  size_t pixels = 3 * WORLD_SIDE * WORLD_SIDE, at = (size_t)i * CHUNK * EMBED;
  char caption[CHUNK][WORLD_CAPTION];
  const char *text[CHUNK];
  float *x;
  int k;
  fvg_tape_clear(w->t);
  x = fvg_fill(fvg_zeros(w->t, CHUNK, (int)pixels));
  for (k = 0; x && k < CHUNK; k++) {
    draw_pair(p, w->c, p->first_picture + i * CHUNK + k, x + (size_t)k * pixels, caption[k]);
    text[k] = caption[k];
  }
  w->f = x ? fvg_normalize(fvg_clip_image_features(w->t, &w->m, x, CHUNK)) : NULL;
  w->g = x ? fvg_normalize(fvg_clip_text_features(w->t, &w->m, text, CHUNK)) : NULL;
  w->status = w->f && w->g ? FVG_OK : fvg_last_status(w->c);
  if (w->status) return;
  memcpy((float *)p->f.value.data + at, fvg_value(w->f), CHUNK * EMBED * sizeof(float));
  memcpy((float *)p->g.value.data + at, fvg_value(w->g), CHUNK * EMBED * sizeof(float));
}

/* d loss / d weights = sum_i d loss / d f_i  d f_i / d weights: the gradient of f . (d loss / d f),
   with the latter constant. */
static void differentiate_part(void *arg, int i) {
  pretraining *p = (pretraining *)arg;
  worker *w = &p->workers[i];
  size_t at = (size_t)i * CHUNK * EMBED;
  fvg_node *df = fvg_const(w->t, CHUNK, EMBED, p->f.grad + at), *dg = fvg_const(w->t, CHUNK, EMBED, p->g.grad + at);
  int k;
  for (k = 0; k < p->n; k++)
    memset(w->parameter[k].grad, 0, fvg_tensor_count(&w->parameter[k].value) * sizeof(float));
  w->status = fvg_backward(fvg_add(fvg_sum(fvg_mul(w->f, df)), fvg_sum(fvg_mul(w->g, dg))));
}

/* The gradient of tensor i, over the workers in their order; the scale has got its own from the loss. */
static void add_gradients(void *arg, int i) {
  pretraining *p = (pretraining *)arg;
  fvg_parameter *parameter = &p->tensor[i].parameter;
  size_t k, n = fvg_tensor_count(&parameter->value);
  int j;
  if (!strcmp(parameter->name, "logit_scale")) return;
  memset(parameter->grad, 0, n * sizeof(float));
  for (j = 0; j < p->n_worker; j++)
    for (k = 0; k < n; k++) parameter->grad[k] += p->workers[j].parameter[i].grad[k];
}

static fvg_status workers_run(pretraining *p, void (*job)(void *arg, int i)) {
  int i;
  fvg_parallel(p->c, job, p, p->n_worker);
  for (i = 0; i < p->n_worker; i++)
    if (p->workers[i].status) return fvg_fail(p->c, p->workers[i].status, "%s", fvg_error(p->workers[i].c));
  return FVG_OK;
}

static fvg_node *contrastive_loss(pretraining *p, fvg_tape *t, fvg_parameter *logit_scale) {
  fvg_node *f = fvg_param(t, &p->f), *g = fvg_param(t, &p->g),
           *scale = fvg_exp(fvg_param(t, logit_scale)), *loss = NULL;
  int *label = (int *)fvg_alloc_array(p->c, (size_t)p->batch, sizeof *label), i;
  if (label) {
    for (i = 0; i < p->batch; i++) label[i] = i;
    loss = fvg_add(fvg_cross_entropy(fvg_mul(fvg_linear(f, g, NULL), scale), label),
                   fvg_cross_entropy(fvg_mul(fvg_linear(g, f, NULL), scale), label));
    loss = fvg_scale(loss, 0.5f);
  }
  fvg_release(p->c, label);
  return loss;
}

/* One step; *loss is before it. */
static fvg_status train_step(pretraining *p, fvg_tape *t, fvg_parameter *logit_scale, double lr, double *loss) {
  fvg_node *l;
  fvg_status s = workers_run(p, encode_part);
  if (s) return s;
  fvg_tape_clear(t);
  memset(p->f.grad, 0, (size_t)p->batch * EMBED * sizeof(float));
  memset(p->g.grad, 0, (size_t)p->batch * EMBED * sizeof(float));
  logit_scale->grad[0] = 0;
  l = contrastive_loss(p, t, logit_scale);
  s = l ? fvg_backward(l) : fvg_last_status(p->c);
  if (!s) s = workers_run(p, differentiate_part);
  if (s) return s;
  fvg_parallel(p->c, add_gradients, p, p->n);
  fvg_optimizer_step(p->decayed, lr);
  fvg_optimizer_step(p->plain, lr);
  if (*(float *)logit_scale->value.data > logf(100.0f)) *(float *)logit_scale->value.data = logf(100.0f);
  *loss = (double)fvg_value(l)[0];
  return FVG_OK;
}

static double rate(const pretraining *p, long step) {
  long warm = p->steps / 20 + 1;
  return step < warm ? p->lr * (double)(step + 1) / (double)warm :
         p->lr * 0.5 * (1 + cos(3.14159265358979 * (double)(step - warm) / (double)(p->steps - warm)));
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void say(pretraining *p, const char *line) {
  fputs(line, stderr);
  fputs(line, p->log);
  fflush(p->log);
}

static fvg_status train(pretraining *p) {
  fvg_parameter *logit_scale = NULL;
  fvg_tape *t = fvg_tape_new(p->c);
  double start, loss = 0, mean = 0;
  long step, first = 0;
  fvg_status s = t ? load_checkpoint(p, &first) : FVG_E_NOMEM;
  char line[200];
  int i;
  for (i = 0; i < p->n; i++) if (!strcmp(p->tensor[i].name, "logit_scale")) logit_scale = &p->tensor[i].parameter;
  if (!s) s = workers_new(p);
  start = now();
  for (step = first; !s && step < p->steps; step++) {
    p->first_picture = step * p->batch;
    p->share_full = fmin(1, 3.0 * (double)step / (double)p->steps);
    s = train_step(p, t, logit_scale, rate(p, step), &loss);
    if (s) break;
    mean += loss;
    if ((step + 1) % 50 == 0 || step + 1 == p->steps) {
      double spent = now() - start, per_step = spent / (double)(step + 1 - first);
      snprintf(line, sizeof line, "step %ld/%ld  loss %.4f  scale %.1f  lr %.2g  %.2f s a step  %.0f s left\n",
               step + 1, p->steps, mean / (double)((step % 50) + 1),
               exp((double)*(float *)logit_scale->value.data), rate(p, step),
               per_step, per_step * (double)(p->steps - step - 1));
      say(p, line);
      mean = 0;
    }
    if ((step + 1) % SAVE_EVERY == 0 || step + 1 == p->steps) s = save_checkpoint(p, step + 1);
  }
  workers_free(p);
  fvg_tape_free(t);
  return s;
}

/* ---- the figure: zero-shot accuracy on pairs that were never seen ---- */
typedef struct pair { int thing, colour, texture; char name[64]; } pair;

static fvg_status zero_shot(pretraining *p, const pair *pairs, int n, const char *what) {
  enum { EACH = 10 };
  size_t pixels = 3 * WORLD_SIDE * WORLD_SIDE;
  const char *name[MAX_PAIRS];
  float *f = (float *)fvg_alloc_array(p->c, EACH * EMBED, sizeof *f),
        *x = (float *)fvg_alloc_array(p->c, EACH * pixels, sizeof *x);
  float *logits = (float *)fvg_alloc_array(p->c, (size_t)n * EACH, sizeof *logits);
  fvg_classifier *k = NULL;
  fvg_status s = f && x && logits ? FVG_OK : FVG_E_NOMEM;
  int i, j, c, correct = 0;
  char line[200];
  memset(name, 0, sizeof name);
  for (i = 0; i < n; i++) name[i] = pairs[i].name;
  if (!s) s = fvg_classifier_new(p->m, &k, name, n, NULL);
  for (i = 0; !s && i < n; i++) {
    for (j = 0; j < EACH; j++) {
      uint8_t rgb[3 * WORLD_SIDE * WORLD_SIDE];
      fvg_image image = {WORLD_SIDE, WORLD_SIDE, 3, NULL, 0};
      world_scene scene;
      fvg_rng r;
      fvg_rng_seed(&r, (uint64_t)(i * EACH + j), STREAM_TEST);
      scene = world_scene_draw(&r);
      scene.thing = pairs[i].thing;
      if (pairs[i].colour >= 0) scene.colour = pairs[i].colour;
      if (pairs[i].texture >= 0) scene.texture = pairs[i].texture;
      scene.count = 1;
      world_render(&scene, &r, rgb, NULL);
      image.pixels = rgb;
      fvg_image_normalize(p->c, x + (size_t)j * pixels, &image, &p->m->preprocess);
    }
    s = fvg_clip_encode_images(p->m, f, x, EACH);
    if (!s) fvg_normalize_rows(f, EACH, EMBED);
    if (!s) s = fvg_classifier_logits(k, logits, NULL, f, EACH);
    for (j = 0; !s && j < EACH; j++) {
      const float *z = logits + (size_t)j * (size_t)n;
      int best = 0;
      for (c = 1; c < n; c++) if (z[c] > z[best]) best = c;
      correct += best == i;
    }
  }
  if (!s) {
    snprintf(line, sizeof line, "zero-shot, %d %s: %.1f %% of %d pictures (chance %.1f %%)\n", n, what,
             100.0 * correct / (n * EACH), n * EACH, 100.0 / n);
    say(p, line);
  }
  fvg_classifier_free(k);
  fvg_release(p->c, f);
  fvg_release(p->c, x);
  fvg_release(p->c, logits);
  return s;
}

static fvg_status evaluate(pretraining *p) {
  static pair colours[MAX_PAIRS], textures[MAX_PAIRS], things[WORLD_THINGS];
  int thing, k, n_colours = 0, n_textures = 0;
  fvg_status s;
  for (thing = 0; thing < WORLD_THINGS; thing++) {
    things[thing].thing = thing;
    things[thing].colour = things[thing].texture = -1;
    snprintf(things[thing].name, 64, "%s", world_things[thing].name);
    for (k = 0; k < WORLD_COLOURS; k++)
      if (world_held_out_colour(thing, k)) {
        pair *x = &colours[n_colours++];
        x->thing = thing;
        x->colour = k;
        x->texture = -1;
        snprintf(x->name, 64, "%s %s", world_colours[k].name, world_things[thing].name);
      }
    for (k = 0; k < WORLD_TEXTURES; k++)
      if (world_held_out_texture(thing, k)) {
        pair *x = &textures[n_textures++];
        x->thing = thing;
        x->colour = -1;
        x->texture = k;
        snprintf(x->name, 64, "%s %s", world_textures[k], world_things[thing].name);
      }
  }
  s = zero_shot(p, things, WORLD_THINGS, "things");
  if (!s) s = zero_shot(p, colours, n_colours, "held-out pairs of colour and thing");
  if (!s) s = zero_shot(p, textures, n_textures, "held-out pairs of texture and thing");
  return s;
}

/* ---- the program ---- */
static fvg_status run(pretraining *p) {
  static vocabulary v;
  char path[1100], config[1200];
  fvg_status s;
  int n;
  if (mkdir(p->out, 0777) && errno != EEXIST)
    return fvg_fail(p->c, FVG_E_IO, "%s: cannot make this folder: %s", p->out, strerror(errno));
  s = check_checkpoint(p);
  if (!s) s = save_path(p, path, sizeof path, "log.txt");
  if (s) return s;
  p->log = fopen(path, "a");
  if (!p->log) return fvg_fail(p->c, FVG_E_IO, "%s: cannot be written: %s", path, strerror(errno));
  learn_merges(&v);
  p->vocab_size = 512 + v.n_merges + 2;
  list_tensors(p);
  s = save_path(p, path, sizeof path, "merges.txt");
  if (!s) s = fvg_file_save(p->c, path, v.merges, strlen(v.merges));
  n = snprintf(config, sizeof config, config_form, WIDTH, HIDDEN, IMAGE_LAYERS, HEADS, WORLD_SIDE, PATCH, WIDTH,
               HIDDEN, TEXT_LAYERS, HEADS, p->vocab_size, CONTEXT, EMBED);
  if (!s) s = save_path(p, path, sizeof path, "config.json");
  if (!s) s = fvg_file_save(p->c, path, config, (size_t)n);
  if (!s) s = save_model(p, 0);
  if (!s) s = open_model(p);
  if (!s) {
    snprintf(config, sizeof config,
             "pretrain --steps %ld --batch %d --lr %g --seed %d: %lu parameters, vocabulary of %d\n", p->steps,
             p->batch, p->lr, p->seed, (unsigned long)fvg_clip_parameter_count(p->m), p->vocab_size);
    say(p, config);
    s = train(p);
  }
  if (!s) s = save_model(p, 1);
  close_model(p);
  p->m = NULL;
  if (!s) s = fvg_clip_open(p->c, &p->m, p->out, NULL, FVG_F32);              /* the figure is that of the f16 file */
  if (!s) s = evaluate(p);
  fvg_clip_free(p->m);
  if (fclose(p->log) && !s) s = fvg_fail(p->c, FVG_E_IO, "%s/log.txt: cannot be written", p->out);
  return s;
}

int main(int argc, char **argv) {
  static pretraining p;
  fvg_desc desc;
  int i, good = argc > 1 && argv[1][0] != '-';
  fvg_status s;
  memset(&desc, 0, sizeof desc);
  desc.n_threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
  p.steps = 6000;
  p.batch = 64;
  p.lr = 0.001;
  p.seed = 1;
  for (i = 2; good && i < argc; i += 2) {
    char *end = NULL;
    double x = i + 1 < argc ? strtod(argv[i + 1], &end) : 0;
    good = end && *argv[i + 1] && !*end && x >= 0 && x < 1e9 && (x == floor(x) || !strcmp(argv[i], "--lr"));
    if (!strcmp(argv[i], "--steps")) p.steps = (long)x;
    else if (!strcmp(argv[i], "--batch")) p.batch = (int)x;
    else if (!strcmp(argv[i], "--lr")) p.lr = x;
    else if (!strcmp(argv[i], "--seed")) p.seed = (int)x;
    else if (!strcmp(argv[i], "--threads")) desc.n_threads = (int)x;
    else good = 0;
  }
  if (!good || p.batch < CHUNK || p.batch % CHUNK || p.steps < 1 || !(p.lr > 0) || desc.n_threads > 256) {
    fprintf(stderr, "usage: pretrain OUT [--steps 6000] [--batch 64] [--lr 0.001] [--seed 1] [--threads N]"
                    "   (batch a multiple of 16)\n");
    return 1;
  }
  p.out = argv[1];
  if (fvg_init(&p.c, &desc)) { fprintf(stderr, "pretrain: out of memory\n"); return 1; }
  s = run(&p);
  if (s) fprintf(stderr, "pretrain: %s\n", fvg_error(p.c));
  fvg_free(p.c);
  return s != FVG_OK;
}
