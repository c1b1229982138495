/* tiny_world OUT - a complete little world to try everything on, without downloads: OUT/model, a CLIP of 0.2 million
   random weights with its vocabulary, and OUT/data, photographs of nothing: coloured shapes before busy backgrounds, a
   folder per class, with exact masks.  Drawn from fixed seeds. */
#define _POSIX_C_SOURCE 199309L
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"

#include <errno.h>
#include <sys/stat.h>
#ifdef _WIN32
#include <direct.h>
#define make_folder(path) _mkdir(path)
#else
#define make_folder(path) mkdir(path, 0777)
#endif

/* ---- the model ---- */
enum { WIDTH = 64, HIDDEN = 256, LAYERS = 2, EMBED = 64, IMAGE = 48, PATCH = 8, TOKENS = 37, CONTEXT = 24, MAX_TENSORS = 96 };

/* Merges that make whole words of what the prompts need. */
static const char merges[] =
  "#version: 0.2\n"
  "p h\no t\nph ot\nphot o</w>\no f</w>\nr e\nre d</w>\ng re\ngre e\ngree n</w>\nb l\nbl u\nblu e</w>\ny e\nye l\nyel l\nyell o\nyello w</w>\n"
  "d i\ndi s\ndis c</w>\ns q\nsq u\nsqu a\nsqua r\nsquar e</w>\n";

static const char config[] =
  "{\n \"vision_config\": {\"hidden_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"image_size\": 48, \"patch_size\": 8, \"hidden_act\": \"quick_gelu\"},\n"
  " \"text_config\": {\"hidden_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"max_position_embeddings\": 24, \"hidden_act\": \"quick_gelu\"}\n}\n";

typedef struct model {
  fvg_ctx *c;
  fvg_rng rng;
  fvg_named_tensor tensor[MAX_TENSORS];
  char name[MAX_TENSORS][96];
  int n;
  fvg_status status;
} model;

/* Adds a tensor of N(mean, deviation^2). */
static void add(model *m, const char *name, int n_dim, int d0, int d1, int d2, int d3, double mean, double deviation) {
  fvg_tensor *x = &m->tensor[m->n].tensor;
  size_t count, i;
  if (m->status) return;
  snprintf(m->name[m->n], sizeof m->name[0], "%s", name);
  m->tensor[m->n].name = m->name[m->n];
  x->n_dim = n_dim;
  x->dim[0] = d0;
  x->dim[1] = d1;
  x->dim[2] = d2;
  x->dim[3] = d3;
  count = fvg_tensor_count(x);
  x->data = fvg__alloc_array(m->c, count, sizeof(float));
  if (!x->data) { m->status = FVG_E_NOMEM; return; }
  for (i = 0; i < count; i++) ((float *)x->data)[i] = (float)(mean + deviation * fvg_rng_normal(&m->rng));
  m->n++;
}

static void add_matrix(model *m, const char *prefix, const char *leaf, int rows, int cols) {
  char name[96];
  snprintf(name, sizeof name, "%s%s.weight", prefix, leaf);
  add(m, name, 2, rows, cols, 0, 0, 0, 1 / sqrt((double)cols));
  snprintf(name, sizeof name, "%s%s.bias", prefix, leaf);
  add(m, name, 1, rows, 0, 0, 0, 0, 0.02);
}

static void add_norm(model *m, const char *prefix, const char *leaf) {
  char name[96];
  snprintf(name, sizeof name, "%s%s.weight", prefix, leaf);
  add(m, name, 1, WIDTH, 0, 0, 0, 1, 0.02);
  snprintf(name, sizeof name, "%s%s.bias", prefix, leaf);
  add(m, name, 1, WIDTH, 0, 0, 0, 0, 0.02);
}

static void add_blocks(model *m, const char *tower) {
  static const char *const square[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"};
  char prefix[64];
  int i, k;
  for (i = 0; i < LAYERS; i++) {
    snprintf(prefix, sizeof prefix, "%s.encoder.layers.%d.", tower, i);
    for (k = 0; k < 4; k++) add_matrix(m, prefix, square[k], WIDTH, WIDTH);
    add_norm(m, prefix, "layer_norm1");
    add_norm(m, prefix, "layer_norm2");
    add_matrix(m, prefix, "mlp.fc1", HIDDEN, WIDTH);
    add_matrix(m, prefix, "mlp.fc2", WIDTH, HIDDEN);
  }
}

static int count_lines(const char *text) {
  int n = 0;
  for (; *text; text++) n += *text == '\n';
  return n;
}

static fvg_status write_model(fvg_ctx *c, const char *folder) {
  static model m;
  char path[1200];
  int vocab = 512 + count_lines(merges) - 1 + 2, i;
  m.c = c;
  fvg_rng_seed(&m.rng, 2026, 0);
  add(&m, "logit_scale", 0, 0, 0, 0, 0, 3.5, 0);
  add(&m, "vision_model.embeddings.patch_embedding.weight", 4, WIDTH, 3, PATCH, PATCH, 0, 0.1);
  add(&m, "vision_model.embeddings.class_embedding", 1, WIDTH, 0, 0, 0, 0, 0.1);
  add(&m, "vision_model.embeddings.position_embedding.weight", 2, TOKENS, WIDTH, 0, 0, 0, 0.1);
  add_norm(&m, "vision_model.", "pre_layrnorm");
  add_norm(&m, "vision_model.", "post_layernorm");
  add_blocks(&m, "vision_model");
  add(&m, "visual_projection.weight", 2, EMBED, WIDTH, 0, 0, 0, 0.125);
  add(&m, "text_model.embeddings.token_embedding.weight", 2, vocab, WIDTH, 0, 0, 0, 0.5);
  add(&m, "text_model.embeddings.position_embedding.weight", 2, CONTEXT, WIDTH, 0, 0, 0, 0.1);
  add_norm(&m, "text_model.", "final_layer_norm");
  add_blocks(&m, "text_model");
  add(&m, "text_projection.weight", 2, EMBED, WIDTH, 0, 0, 0, 0.125);
  snprintf(path, sizeof path, "%s/model.safetensors", folder);
  if (!m.status) m.status = fvg_safetensors_save(c, path, m.tensor, m.n, NULL, 0);
  snprintf(path, sizeof path, "%s/config.json", folder);
  if (!m.status) m.status = fvg_file_save(c, path, config, sizeof config - 1);
  snprintf(path, sizeof path, "%s/merges.txt", folder);
  if (!m.status) m.status = fvg_file_save(c, path, merges, sizeof merges - 1);
  for (i = 0; i < m.n; i++) fvg__release(c, m.tensor[i].tensor.data);
  return m.status;
}

/* ---- the pictures ---- */
enum { SIDE = 64, PICTURES = 24 };
static const struct { const char *name; int rgb[3]; } colour[] = {{"red", {210, 50, 40}}, {"green", {50, 160, 60}}, {"blue", {50, 80, 200}}, {"yellow", {225, 200, 50}}};
static const char *const shape[] = {"disc", "square"};

/* How much of pixel (x, y) the shape at (cx, cy) of radius r, turned by `angle`, covers: 0..1 on a 4 x 4 grid. */
static double coverage(int kind, double x, double y, double cx, double cy, double r, double angle) {
  int i, j, inside = 0;
  for (i = 0; i < 4; i++)
    for (j = 0; j < 4; j++) {
      double dx = x + (i + 0.5) / 4 - cx, dy = y + (j + 0.5) / 4 - cy;
      double u = dx * cos(angle) + dy * sin(angle), v = dy * cos(angle) - dx * sin(angle);
      inside += kind == 0 ? u * u + v * v < r * r : fabs(u) < 0.85 * r && fabs(v) < 0.85 * r;
    }
  return inside / 16.0;
}

static fvg_status write_picture(fvg_ctx *c, const char *root, int hue, int kind, int index) {
  uint8_t rgb[SIDE * SIDE * 3], mask[SIDE * SIDE];
  fvg_image picture, cover;
  double cx, cy, r, angle, light, wave[3], tint[3];
  char path[1100];
  fvg_status s;
  fvg_rng rng;
  int x, y, k;
  fvg_rng_seed(&rng, 7, (uint64_t)(hue * 1000 + kind * 100 + index));
  cx = SIDE * (0.35 + 0.3 * fvg_rng_uniform(&rng));
  cy = SIDE * (0.35 + 0.3 * fvg_rng_uniform(&rng));
  r = SIDE * (0.16 + 0.12 * fvg_rng_uniform(&rng));
  angle = 3.14159 * fvg_rng_uniform(&rng);
  light = 0.8 + 0.3 * fvg_rng_uniform(&rng);
  for (k = 0; k < 3; k++) { wave[k] = 0.05 + 0.4 * fvg_rng_uniform(&rng); tint[k] = 60 + 130 * fvg_rng_uniform(&rng); }
  for (y = 0; y < SIDE; y++)
    for (x = 0; x < SIDE; x++) {
      double a = coverage(kind, x, y, cx, cy, r, angle), ground = sin(wave[0] * x + wave[1] * y) * cos(wave[2] * y);
      for (k = 0; k < 3; k++) {
        double back = tint[k] + 45 * ground + 12 * fvg_rng_normal(&rng), value = light * (a * colour[hue].rgb[k] + (1 - a) * back);
        rgb[(y * SIDE + x) * 3 + k] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
      }
      mask[y * SIDE + x] = a >= 0.5 ? 255 : 0;
    }
  picture.width = picture.height = cover.width = cover.height = SIDE;
  picture.channels = 3;
  picture.pixels = rgb;
  cover.channels = 1;
  cover.pixels = mask;
  snprintf(path, sizeof path, "%s/%s_%s/%02d.ppm", root, colour[hue].name, shape[kind], index);
  s = fvg_image_save(c, &picture, path);
  snprintf(path, sizeof path, "%s/mask/%s_%s/%02d.pgm", root, colour[hue].name, shape[kind], index);
  return s ? s : fvg_image_save(c, &cover, path);
}

static fvg_status folder(fvg_ctx *c, char *path, size_t n, const char *root, const char *a, const char *b, const char *end) {
  snprintf(path, n, "%s%s%s%s", root, a, b, end);
  return make_folder(path) && errno != EEXIST ? fvg__fail(c, FVG_E_IO, "%s: cannot make this folder: %s", path, strerror(errno)) : FVG_OK;
}

static fvg_status write_data(fvg_ctx *c, const char *root) {
  char path[1100], name[64];
  fvg_status s = folder(c, path, sizeof path, root, "/mask", "", "");
  int hue, kind, i;
  for (hue = 0; hue < 4; hue++)
    for (kind = 0; kind < 2; kind++) {
      snprintf(name, sizeof name, "/%s_%s", colour[hue].name, shape[kind]);
      if (!s) s = folder(c, path, sizeof path, root, name, "", "");
      if (!s) s = folder(c, path, sizeof path, root, "/mask", name, "");
      for (i = 0; !s && i < PICTURES; i++) s = write_picture(c, root, hue, kind, i);
    }
  return s;
}

int main(int argc, char **argv) {
  char path[1100];
  fvg_status s;
  fvg_ctx *c;
  if (argc != 2 || strlen(argv[1]) > 900) { fprintf(stderr, "usage: tiny_world OUT\n"); return 1; }
  if (fvg_init(&c, NULL)) { fprintf(stderr, "tiny_world: out of memory\n"); return 1; }
  s = folder(c, path, sizeof path, argv[1], "", "", "");
  if (!s) s = folder(c, path, sizeof path, argv[1], "/model", "", "");
  if (!s) s = write_model(c, path);
  if (!s) s = folder(c, path, sizeof path, argv[1], "/data", "", "");
  if (!s) s = write_data(c, path);
  if (s) fprintf(stderr, "tiny_world: %s\n", fvg_error(c));
  fvg_free(c);
  return s != FVG_OK;
}
