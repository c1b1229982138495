/* replay MODEL_DIR TRAJECTORY.safetensors OUT.safetensors - takes the steps of a recorded training run again.
   The trajectory holds init.*, the inputs of every step and, in its metadata, method and settings; OUT receives
   losses, grad0.* (of the first step), final.* and test_*, to be compared with the tensors of the same names in the
   recording.
   Methods: CoOp (MODEL_DIR is the CLIP), FVGPT (features are given, MODEL_DIR is ignored). */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"

typedef struct replay {
  fvg_ctx *c;
  fvg_weights *in;
  const char *model;
  fvg_named_tensor out[128];
  char name[128][96];
  int n_out;
} replay;

static double setting(const replay *r, const char *key, double otherwise) {
  const char *value = fvg_weights_metadata(r->in, key);
  return value ? atof(value) : otherwise;
}

static int is(const replay *r, const char *key, const char *value) {
  const char *found = fvg_weights_metadata(r->in, key);
  return found && !strcmp(found, value);
}

/* Zero means "the default" in a desc, and -1 means none. */
static float or_none(double x) { return x == 0 ? -1 : (float)x; }

static fvg_optimizer_desc optimizer_of(const replay *r) {
  fvg_optimizer_desc d;
  memset(&d, 0, sizeof d);
  d.kind = is(r, "optimizer", "AdamW") ? FVG_ADAMW : FVG_SGD;
  d.momentum = or_none(setting(r, "momentum", 0.9));
  d.weight_decay = or_none(setting(r, "weight_decay", 5e-4));
  return d;
}

/* A tensor of the recording, of n_dim dimensions. */
static fvg_status get(replay *r, const char *name, fvg_dtype type, int n_dim, fvg_tensor *x) {
  fvg_status s = fvg_weights_get(r->in, name, type, x);
  if (!s && x->n_dim != n_dim) {
    s = fvg__fail(r->c, FVG_E_SHAPE, "%s: %s has %d dimensions, expected %d",
                  fvg_weights_file(r->in), name, x->n_dim, n_dim);
    fvg_tensor_free(r->c, x);
  }
  return s;
}

/* A copy of the values under prefix + name, to be written at the end. */
static fvg_status put(replay *r, const char *prefix, const char *name, const float *data, int n_dim, const int *dim) {
  fvg_tensor *x = &r->out[r->n_out].tensor;
  size_t bytes;
  int i;
  if (r->n_out == (int)(sizeof r->out / sizeof *r->out))
    return fvg__fail(r->c, FVG_E_UNSUPPORTED, "more than %d results", r->n_out);
  snprintf(r->name[r->n_out], sizeof r->name[0], "%s%s", prefix, name);
  r->out[r->n_out].name = r->name[r->n_out];
  x->n_dim = n_dim;
  for (i = 0; i < n_dim; i++) x->dim[i] = dim[i];
  bytes = fvg_tensor_count(x) * sizeof(float);
  x->data = fvg__alloc(r->c, bytes);
  if (!x->data) return FVG_E_NOMEM;
  memcpy(x->data, data, bytes);
  r->n_out++;
  return FVG_OK;
}

static fvg_status put_parameter(replay *r, const char *prefix, const fvg_parameter *p, const float *values) {
  return put(r, prefix, p->name, values, p->value.n_dim, p->value.dim);
}

static fvg_status load_parameter(replay *r, fvg_parameter *p) {
  char name[96];
  fvg_tensor x;
  fvg_status s;
  snprintf(name, sizeof name, "init.%s", p->name);
  s = get(r, name, FVG_F32, p->value.n_dim, &x);
  if (s) return s;
  if (fvg_tensor_count(&x) != fvg_tensor_count(&p->value))
    s = fvg__fail(r->c, FVG_E_SHAPE, "%s: %s does not fit the model", fvg_weights_file(r->in), name);
  else memcpy(p->value.data, x.data, fvg_tensor_count(&x) * sizeof(float));
  fvg_tensor_free(r->c, &x);
  return s;
}

/* ---- CoOp ---- */
static fvg_status encode(replay *r, fvg_clip *m, const fvg_tensor *images, int n, float **f) {
  int size = m->vision.image_size, last = images->n_dim - 1;
  fvg_status s;
  if (images->dim[last] != size || images->dim[last - 1] != size || images->dim[last - 2] != 3)
    return fvg__fail(r->c, FVG_E_SHAPE, "%s: the images are not [.., 3, %d, %d]",
                     fvg_weights_file(r->in), size, size);
  *f = (float *)fvg__alloc_array(r->c, (size_t)n * (size_t)m->embed_dim, sizeof **f);
  if (!*f) return FVG_E_NOMEM;
  s = fvg_clip_encode_images(m, (const float *)images->data, n, *f);
  if (!s) fvg_normalize_rows(*f, n, m->embed_dim);
  return s;
}

static fvg_status coop_new(replay *r, fvg_clip *m, fvg_coop **p) {
  const char *classes = fvg_weights_metadata(r->in, "classes"), **name;
  fvg_coop_desc d;
  fvg__json j;
  fvg_status s;
  int i, n = 0;
  if (!classes) return fvg__fail(r->c, FVG_E_FORMAT, "%s: no classes in the metadata", fvg_weights_file(r->in));
  s = fvg__json_parse(r->c, &j, classes, strlen(classes), fvg_weights_file(r->in));
  if (s) return s;
  memset(&d, 0, sizeof d);
  d.n_ctx = (int)setting(r, "n_ctx", 4);
  d.class_specific = is(r, "csc", "True");
  d.class_token_position = is(r, "class_token_position", "middle") ? FVG_MIDDLE :
                           is(r, "class_token_position", "front") ? FVG_FRONT : FVG_END;
  name = (const char **)fvg__alloc_array(r->c, (size_t)j.value[0].n_child + 1, sizeof *name);
  if (!name) s = FVG_E_NOMEM;
  for (i = j.value[0].first; !s && i >= 0; i = j.value[i].next) name[n++] = j.value[i].string;
  if (!s) s = fvg_coop_new(m, p, &d, name, n);
  fvg__release(r->c, name);
  fvg__json_free(r->c, &j);
  return s;
}

static fvg_status coop_steps(replay *r, fvg_clip *m, fvg_coop *p, const float *f, const fvg_tensor *labels) {
  fvg_optimizer_desc d = optimizer_of(r);
  fvg_parameter *ctx = fvg_coop_ctx(p);
  fvg_optimizer *o;
  int i, steps = labels->dim[0], batch = labels->dim[1];
  float *losses = (float *)fvg__alloc_array(r->c, (size_t)steps, sizeof *losses);
  fvg_status s = losses ? fvg_optimizer_new(r->c, &o, &d, &ctx, 1) : FVG_E_NOMEM;
  if (s) { fvg__release(r->c, losses); return s; }
  for (i = 0; !s && i < steps; i++) {
    s = fvg_coop_step(p, o, setting(r, "lr", 0.0035), f + (size_t)(i * batch) * (size_t)m->embed_dim,
                      (const int *)labels->data + i * batch, batch, &losses[i]);
    if (!s && i == 0) s = put_parameter(r, "grad0.", ctx, ctx->grad);
  }
  if (!s) s = put(r, "", "losses", losses, 1, &steps);
  if (!s) s = put_parameter(r, "final.", ctx, (const float *)ctx->value.data);
  fvg_optimizer_free(o);
  fvg__release(r->c, losses);
  return s;
}

static fvg_status coop_test(replay *r, fvg_clip *m, fvg_coop *p) {
  fvg_classifier *k = NULL;
  fvg_tensor images;
  float *f = NULL, *logits = NULL;
  int n_class, dim[2];
  const char *const *name = fvg_coop_class_names(p, &n_class);
  fvg_status s = get(r, "test_images", FVG_F32, 4, &images);
  if (s) return s;
  dim[0] = images.dim[0];
  dim[1] = n_class;
  logits = (float *)fvg__alloc_array(r->c, (size_t)dim[0] * (size_t)n_class, sizeof *logits);
  if (!logits) s = FVG_E_NOMEM;
  if (!s) s = encode(r, m, &images, dim[0], &f);
  if (!s) s = fvg_classifier_new(m, &k, FVG_TUNED, p, NULL, NULL, name, n_class);
  if (!s) s = fvg_classifier_logits(k, f, dim[0], logits, NULL);
  if (!s) s = put(r, "", "test_logits", logits, 2, dim);
  fvg_classifier_free(k);
  fvg__release(r->c, f);
  fvg__release(r->c, logits);
  fvg_tensor_free(r->c, &images);
  return s;
}

static fvg_status replay_coop(replay *r) {
  fvg_clip *m = NULL;
  fvg_coop *p = NULL;
  fvg_tensor images, labels;
  float *f = NULL;
  fvg_status s;
  memset(&images, 0, sizeof images);
  memset(&labels, 0, sizeof labels);
  s = fvg_clip_open(r->c, &m, r->model, NULL, FVG_F32);
  if (!s) s = coop_new(r, m, &p);
  if (!s) s = load_parameter(r, fvg_coop_ctx(p));
  if (!s) s = get(r, "images", FVG_F32, 5, &images);
  if (!s) s = get(r, "labels", FVG_I32, 2, &labels);
  if (!s && (images.dim[0] != labels.dim[0] || images.dim[1] != labels.dim[1]))
    s = fvg__fail(r->c, FVG_E_SHAPE, "%s: images and labels differ in number", fvg_weights_file(r->in));
  if (!s) s = encode(r, m, &images, images.dim[0] * images.dim[1], &f);
  if (!s) s = coop_steps(r, m, p, f, &labels);
  if (!s) s = coop_test(r, m, p);
  fvg__release(r->c, f);
  fvg_tensor_free(r->c, &labels);
  fvg_tensor_free(r->c, &images);
  fvg_coop_free(p);
  fvg_clip_free(m);
  return s;
}

/* ---- FVG-PT ---- */
enum { F, F_FG, F_CLIP, AREA, LABELS, G, G_CLIP, G_NEW, G_CLIP_NEW, N_INPUT };
static const struct { const char *name; int n_dim; } input[N_INPUT] = {
  {"f", 3}, {"f_fg", 3}, {"f_clip", 3}, {"area", 2}, {"labels", 2}, {"g", 2}, {"g_clip", 2},
  {"g_new", 2}, {"g_clip_new", 2}
};

static fvg_status fvgpt_new(replay *r, const fvg_tensor *x, fvg_fvgpt **m) {
  fvg_fvgpt_desc d;
  fvg_status s;
  int i, n;
  fvg_parameter *const *params;
  memset(&d, 0, sizeof d);
  d.width = x[F].dim[2];
  d.tau = (float)setting(r, "tau", 2);
  d.lambda_base = or_none(setting(r, "lambda_base", 10));
  d.lambda_new = or_none(setting(r, "lambda_new", 1));
  d.lambda_rg = or_none(setting(r, "lambda_rg", 1));
  d.delta = (float)setting(r, "delta", 0);
  d.area_min = (float)setting(r, "area_min", 0.02);
  d.area_max = (float)setting(r, "area_max", 0.98);
  d.logit_scale = (float)setting(r, "logit_scale", 100);
  s = fvg_fvgpt_new(r->c, m, &d);
  if (s) return s;
  params = fvg_fvgpt_parameters(*m, &n);
  for (i = 0; !s && i < n; i++) s = load_parameter(r, params[i]);
  return s;
}

static fvg_status put_all(replay *r, const char *prefix, fvg_fvgpt *m, int gradients) {
  fvg_status s = FVG_OK;
  int i, n;
  fvg_parameter *const *params = fvg_fvgpt_parameters(m, &n);
  for (i = 0; !s && i < n; i++)
    s = put_parameter(r, prefix, params[i], gradients ? params[i]->grad : (const float *)params[i]->value.data);
  return s;
}

static fvg_status fvgpt_steps(replay *r, fvg_fvgpt *m, const fvg_tensor *x) {
  fvg_optimizer_desc d = optimizer_of(r);
  int i, n, steps = x[F].dim[0], batch = x[F].dim[1], width = x[F].dim[2], parts[2], per_image[2];
  fvg_parameter *const *params = fvg_fvgpt_parameters(m, &n);
  float *buffer = (float *)fvg__alloc_array(r->c, (size_t)steps * (size_t)(6 + 3 * batch), sizeof *buffer);
  float *loss = buffer, *part = loss + steps, *gate = part + 5 * steps, *target = gate + steps * batch,
        *b = target + steps * batch;
  fvg_optimizer *o = NULL;
  fvg_status s = buffer ? fvg_optimizer_new(r->c, &o, &d, params, n) : FVG_E_NOMEM;
  for (i = 0; !s && i < steps; i++) {
    size_t at = (size_t)(i * batch) * (size_t)width;
    fvg_fvgpt_batch in;
    fvg_fvgpt_report report;
    memset(&in, 0, sizeof in);
    memset(&report, 0, sizeof report);
    in.n = batch;
    in.n_class = x[G].dim[0];
    in.f = (const float *)x[F].data + at;
    in.f_fg = (const float *)x[F_FG].data + at;
    in.f_clip = (const float *)x[F_CLIP].data + at;
    in.area = (const float *)x[AREA].data + i * batch;
    in.label = (const int *)x[LABELS].data + i * batch;
    in.g = (const float *)x[G].data;
    in.g_clip = (const float *)x[G_CLIP].data;
    report.r = gate + i * batch;
    report.r_target = target + i * batch;
    report.b = b + i * batch;
    s = fvg_fvgpt_step(m, o, setting(r, "lr", 0.0035), &in, &report);
    if (!s && i == 0) s = put_all(r, "grad0.", m, 1);
    loss[i] = report.loss;
    part[5 * i] = report.ce_fdc;
    part[5 * i + 1] = report.frg;
    part[5 * i + 2] = report.dist;
    part[5 * i + 3] = report.ce_pc;
    part[5 * i + 4] = report.kl_pc;
  }
  parts[0] = per_image[0] = steps;
  parts[1] = 5;
  per_image[1] = batch;
  if (!s) s = put(r, "", "losses", loss, 1, &steps);
  if (!s) s = put(r, "", "loss_parts", part, 2, parts);
  if (!s) s = put(r, "", "r", gate, 2, per_image);
  if (!s) s = put(r, "", "r_target", target, 2, per_image);
  if (!s) s = put(r, "", "b", b, 2, per_image);
  if (!s) s = put_all(r, "final.", m, 0);
  fvg_optimizer_free(o);
  fvg__release(r->c, buffer);
  return s;
}

/* Both branches on the features of the first step. */
static fvg_status fvgpt_test(replay *r, fvg_fvgpt *m, const fvg_tensor *x) {
  int base[2], new_[2], most;
  float *logits;
  fvg_status s;
  base[0] = new_[0] = x[F].dim[1];
  base[1] = x[G].dim[0];
  new_[1] = x[G_NEW].dim[0];
  most = base[1] > new_[1] ? base[1] : new_[1];
  logits = (float *)fvg__alloc_array(r->c, (size_t)base[0] * (size_t)most, sizeof *logits);
  if (!logits) return FVG_E_NOMEM;
  s = fvg_fvgpt_base_logits(m, (const float *)x[F].data, base[0], (const float *)x[G].data, base[1], logits);
  if (!s) s = put(r, "", "test_base_logits", logits, 2, base);
  if (!s) s = fvg_fvgpt_new_logits(m, (const float *)x[F].data, (const float *)x[F_CLIP].data, new_[0],
                                   (const float *)x[G_NEW].data,
                                   (const float *)x[G_CLIP_NEW].data, new_[1], logits, NULL);
  if (!s) s = put(r, "", "test_new_logits", logits, 2, new_);
  fvg__release(r->c, logits);
  return s;
}

static fvg_status check_inputs(replay *r, const fvg_tensor *x) {
  int i, ok = 1;
  for (i = F_FG; i <= LABELS; i++)
    ok = ok && x[i].dim[0] == x[F].dim[0] && x[i].dim[1] == x[F].dim[1] && (i > F_CLIP || x[i].dim[2] == x[F].dim[2]);
  for (i = G; i < N_INPUT; i++) ok = ok && x[i].dim[1] == x[F].dim[2];
  ok = ok && x[G].dim[0] == x[G_CLIP].dim[0] && x[G_NEW].dim[0] == x[G_CLIP_NEW].dim[0];
  return ok ? FVG_OK : fvg__fail(r->c, FVG_E_SHAPE, "%s: f, f_fg, f_clip, area, labels, g, ... do not fit together",
                                 fvg_weights_file(r->in));
}

static fvg_status replay_fvgpt(replay *r) {
  fvg_tensor x[N_INPUT];
  fvg_fvgpt *m = NULL;
  fvg_status s = FVG_OK;
  int i;
  memset(x, 0, sizeof x);
  for (i = 0; !s && i < N_INPUT; i++)
    s = get(r, input[i].name, i == LABELS ? FVG_I32 : FVG_F32, input[i].n_dim, &x[i]);
  if (!s) s = check_inputs(r, x);
  if (!s) s = fvgpt_new(r, x, &m);
  if (!s) s = fvgpt_steps(r, m, x);
  if (!s) s = fvgpt_test(r, m, x);
  fvg_fvgpt_free(m);
  for (i = 0; i < N_INPUT; i++) fvg_tensor_free(r->c, &x[i]);
  return s;
}

static fvg_status run(replay *r, const char *path, const char *out) {
  fvg_source source;
  fvg_status s = fvg_source_file(r->c, &source, path);
  int i;
  if (!s) s = fvg_weights_open(r->c, &r->in, &source);
  if (s) return s;
  if (is(r, "method", "CoOp")) s = replay_coop(r);
  else if (is(r, "method", "FVGPT")) s = replay_fvgpt(r);
  else {
    const char *method = fvg_weights_metadata(r->in, "method");
    s = fvg__fail(r->c, FVG_E_UNSUPPORTED, "%s: method %s cannot be replayed, only CoOp and FVGPT", path,
                  method ? method : "(none given)");
  }
  if (!s) s = fvg_safetensors_save(r->c, out, r->out, r->n_out, NULL, 0);
  for (i = 0; i < r->n_out; i++) fvg__release(r->c, r->out[i].tensor.data);
  fvg_weights_close(r->in);
  return s;
}

int main(int argc, char **argv) {
  static replay r;
  fvg_status s;
  if (argc != 4) { fprintf(stderr, "usage: replay MODEL_DIR TRAJECTORY.safetensors OUT.safetensors\n"); return 1; }
  if (fvg_init(&r.c, NULL)) { fprintf(stderr, "replay: out of memory\n"); return 1; }
  r.model = argv[1];
  s = run(&r, argv[2], argv[3]);
  if (s) fprintf(stderr, "replay: %s\n", fvg_error(r.c));
  fvg_free(r.c);
  return s != FVG_OK;
}
