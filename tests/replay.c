/* replay MODEL_DIR TRAJECTORY.safetensors OUT.safetensors - takes the steps of a recorded training run again.
   The trajectory holds init.*, the inputs of every step and, in its metadata, method and settings; OUT receives
   losses, grad0.* (of the first step), final.* and test_*, to be compared with the tensors of the same names in the
   recording.
   Methods: those of the library (MODEL_DIR is the CLIP), and FVGPT (features are given, MODEL_DIR is ignored). */
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
  fvg_status s = fvg_weights_get(r->in, x, name, type);
  if (!s && x->n_dim != n_dim) {
    s = fvg_fail(r->c, FVG_E_SHAPE, "%s: %s has %d dimensions, expected %d",
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
    return fvg_fail(r->c, FVG_E_UNSUPPORTED, "more than %d results", r->n_out);
  snprintf(r->name[r->n_out], sizeof r->name[0], "%s%s", prefix, name);
  r->out[r->n_out].name = r->name[r->n_out];
  x->n_dim = n_dim;
  for (i = 0; i < n_dim; i++) x->dim[i] = dim[i];
  bytes = fvg_tensor_count(x) * sizeof(float);
  x->data = fvg_alloc(r->c, bytes);
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
    s = fvg_fail(r->c, FVG_E_SHAPE, "%s: %s does not fit the model", fvg_weights_file(r->in), name);
  else memcpy(p->value.data, x.data, fvg_tensor_count(&x) * sizeof(float));
  fvg_tensor_free(r->c, &x);
  return s;
}

/* ---- methods of prompt tuning ---- */
typedef struct recording {                 /* images [S,B,3,H,W], labels [S,B], masks [S,B,1,H,W] or none */
  fvg_tensor images, labels, masks, test;
  int steps, batch;
  size_t pixels;                                    /* of one image */
} recording;

static void recording_free(replay *r, recording *x) {
  fvg_tensor_free(r->c, &x->images);
  fvg_tensor_free(r->c, &x->labels);
  fvg_tensor_free(r->c, &x->masks);
  fvg_tensor_free(r->c, &x->test);
}

static fvg_status check_size(replay *r, const fvg_clip *m, const fvg_tensor *x, const char *name, int channels) {
  int size = m->vision.image_size, last = x->n_dim - 1;
  if (x->dim[last] == size && x->dim[last - 1] == size && x->dim[last - 2] == channels) return FVG_OK;
  return fvg_fail(r->c, FVG_E_SHAPE, "%s: %s is not [.., %d, %d, %d]", fvg_weights_file(r->in), name, channels, size,
                  size);
}

static fvg_status recording_read(replay *r, const fvg_clip *m, recording *x) {
  fvg_status s = get(r, "images", FVG_F32, 5, &x->images);
  if (!s) s = get(r, "labels", FVG_I32, 2, &x->labels);
  if (!s) s = get(r, "test_images", FVG_F32, 4, &x->test);
  if (!s && fvg_weights_info(r->in, NULL, "masks")) s = get(r, "masks", FVG_U8, 5, &x->masks);
  if (!s) s = check_size(r, m, &x->images, "images", 3);
  if (!s) s = check_size(r, m, &x->test, "test_images", 3);
  if (!s && x->masks.data) s = check_size(r, m, &x->masks, "masks", 1);
  if (s) return s;
  x->steps = x->images.dim[0];
  x->batch = x->images.dim[1];
  x->pixels = 3 * (size_t)m->vision.image_size * (size_t)m->vision.image_size;
  if (x->labels.dim[0] != x->steps || x->labels.dim[1] != x->batch ||
      (x->masks.data && (x->masks.dim[0] != x->steps || x->masks.dim[1] != x->batch)))
    return fvg_fail(r->c, FVG_E_SHAPE, "%s: images, labels and masks differ in number", fvg_weights_file(r->in));
  return FVG_OK;
}

/* A method's options under their own names in the metadata; two have another there. */
static int read_options(const replay *r, const fvg_method *method, fvg_option *option) {
  double low, high;
  int i, n = 0;
  for (i = 0; fvg_method_option(method, &option[n], &low, &high, i); i++) {
    const char *name = !strcmp(option[n].name, "W") ? "w" :
                       !strcmp(option[n].name, "first_layer") ? "rep_layers" : option[n].name;
    if (fvg_weights_metadata(r->in, name)) option[n++].value = setting(r, name, 0);
  }
  return n;
}

static fvg_status learner_new(replay *r, fvg_clip *m, const fvg_method *method, fvg_learner **l) {
  const char *classes = fvg_weights_metadata(r->in, "classes"), **name;
  fvg_option option[32];
  fvg_learner_desc d;
  fvg_json j;
  fvg_status s;
  int i, n = 0;
  if (!classes) return fvg_fail(r->c, FVG_E_FORMAT, "%s: no classes in the metadata", fvg_weights_file(r->in));
  s = fvg_json_parse(r->c, &j, classes, strlen(classes), fvg_weights_file(r->in));
  if (s) return s;
  memset(&d, 0, sizeof d);
  d.method = method;
  d.n_ctx = (int)setting(r, "n_ctx", setting(r, "n_ctx_text", 0));
  d.class_specific = is(r, "csc", "True");
  d.class_token_position = is(r, "class_token_position", "middle") ? FVG_MIDDLE :
                           is(r, "class_token_position", "front") ? FVG_FRONT : FVG_END;
  d.ctx_init = fvg_weights_metadata(r->in, "ctx_init");
  d.prompt_template = fvg_weights_metadata(r->in, "template");
  d.option = option;
  d.n_option = read_options(r, method, option);
  name = (const char **)fvg_alloc_array(r->c, (size_t)j.value[0].n_child + 1, sizeof *name);
  if (!name) s = FVG_E_NOMEM;
  for (i = j.value[0].first; !s && i >= 0; i = j.value[i].next) name[n++] = j.value[i].string;
  if (!s) s = fvg_learner_new(m, l, name, n, &d);
  fvg_release(r->c, name);
  fvg_json_free(r->c, &j);
  return s;
}

/* x times its mask; all of x without masks */
static void foreground(const recording *x, int step, float *fg) {
  size_t n = (size_t)x->batch * x->pixels, first = (size_t)step * n, plane = x->pixels / 3, k;
  const uint8_t *mask = (const uint8_t *)x->masks.data;
  for (k = 0; k < n; k++) {
    size_t image = (first + k) / x->pixels, place = (first + k) % plane;
    fg[k] = mask && !mask[image * plane + place] ? 0 : ((const float *)x->images.data)[first + k];
  }
}

static fvg_status put_parameters(replay *r, const char *prefix, fvg_parameter *const *params, int n, int gradients) {
  fvg_status s = FVG_OK;
  int i;
  for (i = 0; !s && i < n; i++)
    s = put_parameter(r, prefix, params[i], gradients ? params[i]->grad : (const float *)params[i]->value.data);
  return s;
}

static fvg_status learner_steps(replay *r, fvg_clip *m, fvg_learner *l, const recording *x) {
  fvg_optimizer_desc d = optimizer_of(r);
  size_t values = (size_t)x->batch * x->pixels;
  int i, n;
  fvg_parameter *const *params = fvg_learner_parameters(l, &n);
  float *losses = (float *)fvg_alloc_array(r->c, (size_t)x->steps, sizeof *losses);
  float *f = (float *)fvg_alloc_array(r->c, (size_t)x->batch * (size_t)m->embed_dim, sizeof *f);
  float *fg = (float *)fvg_alloc_array(r->c, values, sizeof *fg);
  fvg_optimizer *o = NULL;
  fvg_status s = losses && f && fg ? fvg_optimizer_new(r->c, &o, params, n, &d) : FVG_E_NOMEM;
  for (i = 0; !s && i < x->steps; i++) {
    fvg_batch batch;
    memset(&batch, 0, sizeof batch);
    batch.n = x->batch;
    batch.epoch = (int)setting(r, "epoch", 0);
    batch.label = (const int *)x->labels.data + i * x->batch;
    batch.f_clip = f;
    batch.pixels = (const float *)x->images.data + (size_t)i * values;
    batch.pixels_fg = fg;
    foreground(x, i, fg);
    s = fvg_learner_encode_images(m, NULL, f, batch.pixels, batch.n);
    if (!s) s = fvg_learner_step(l, &losses[i], o, setting(r, "lr", 0.0035), &batch);
    if (!s && i == 0) s = put_parameters(r, "grad0.", params, n, 1);
  }
  if (!s) s = put(r, "", "losses", losses, 1, &x->steps);
  if (!s) s = put_parameters(r, "final.", params, n, 0);
  fvg_optimizer_free(o);
  fvg_release(r->c, losses);
  fvg_release(r->c, f);
  fvg_release(r->c, fg);
  return s;
}

/* The published DAPT classifier, whose classes are followed by the first backgrounds. */
static fvg_status put_released(replay *r, fvg_clip *m, fvg_learner *l, const float *f, int n, const float *logits) {
  fvg__packed *backgrounds = (fvg__packed *)l->own;
  int d = m->embed_dim, n_vector, dim[2], i, k;
  float *vectors = NULL, *g = (float *)fvg_alloc_array(r->c, (size_t)(FVG__N_BACKGROUND * d), sizeof *g);
  float *z = (float *)fvg_alloc_array(r->c, (size_t)(n * (l->n_class + FVG__N_LEFT)), sizeof *z), *at = z;
  fvg_status s = g && z ? fvg__learner_vectors(l, FVG__TEXT, &vectors, &n_vector) : FVG_E_NOMEM;
  if (!s) s = fvg__encode_packed(m, backgrounds, vectors, n_vector, g);
  if (!s) fvg_normalize_rows(g, FVG__N_BACKGROUND, d);
  for (i = 0; !s && i < n; i++) {
    for (k = 0; k < l->n_class; k++) *at++ = logits[i * l->n_class + k];
    for (k = 0; k < FVG__N_LEFT; k++) *at++ = m->logit_scale * r->c->kernels->dot(d, f + i * 2 * d, g + k * d);
  }
  dim[0] = n;
  dim[1] = l->n_class + FVG__N_LEFT;
  if (!s) s = put(r, "", "test_logits", z, 2, dim);
  fvg_release(r->c, vectors);
  fvg_release(r->c, g);
  fvg_release(r->c, z);
  return s;
}

static fvg_status classify(fvg_clip *m, fvg_learner *l, fvg_branch branch, const float *f, int n, float *logits) {
  fvg_classifier *k = NULL;
  int n_class;
  const char *const *name = fvg_learner_class_names(l, &n_class);
  fvg_classifier_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.branch = branch;
  desc.learner = l;
  fvg_status s = fvg_classifier_new(m, &k, name, n_class, &desc);
  if (!s) s = fvg_classifier_logits(k, logits, NULL, f, n);
  fvg_classifier_free(k);
  return s;
}

static fvg_status put_sentence_mean(replay *r, const fvg_clip *m, fvg_learner *l) {
  float *mean = (float *)fvg_alloc_array(r->c, (size_t)l->n_class * (size_t)m->embed_dim, sizeof *mean);
  fvg_status s = mean ? fvg__sentence_mean(l, mean) : FVG_E_NOMEM;
  int dim[2];
  dim[0] = l->n_class;
  dim[1] = m->embed_dim;
  if (!s) s = put(r, "", "test_fixed_text_embeddings", mean, 2, dim);
  fvg_release(r->c, mean);
  return s;
}

/* Scores of the test images; MMRL's are recorded for class features, representation features and both. */
static fvg_status learner_test(replay *r, fvg_clip *m, fvg_learner *l, const recording *x) {
  int n = x->test.dim[0], dim[2], i;
  size_t count = (size_t)n * (size_t)l->n_class;
  float *f = (float *)fvg_alloc_array(r->c, (size_t)n * (size_t)fvg_learner_feature_width(m, l), sizeof *f);
  float *z = (float *)fvg_alloc_array(r->c, 2 * count, sizeof *z), *fused = z + count, alpha;
  fvg_status s = f && z ? fvg_learner_encode_images(m, l, f, (const float *)x->test.data, n) : FVG_E_NOMEM;
  dim[0] = n;
  dim[1] = l->n_class;
  if (!s) s = classify(m, l, FVG_TUNED_NEW, f, n, z);
  if (!s && is(r, "released_slicing", "1")) s = put_released(r, m, l, f, n, z);
  else if (!s) s = put(r, "", "test_logits", z, 2, dim);
  if (!s && is(r, "method", "MMRL")) {
    s = classify(m, l, FVG_TUNED, f, n, fused);
    if (!s) s = put(r, "", "test_logits_fusion", fused, 2, dim);
    alpha = (float)setting(r, "alpha", 0.7);
    for (i = 0; i < (int)count; i++) fused[i] = (fused[i] - alpha * z[i]) / (1 - alpha);
    if (!s) s = put(r, "", "test_logits_rep", fused, 2, dim);
  }
  if (!s && is(r, "method", "PromptSRC")) s = put_sentence_mean(r, m, l);
  fvg_release(r->c, f);
  fvg_release(r->c, z);
  return s;
}

static fvg_status replay_learner(replay *r, const fvg_method *method) {
  fvg_parameter *const *params;
  fvg_learner *l = NULL;
  fvg_clip *m = NULL;
  recording x;
  fvg_status s;
  int i, n = 0;
  memset(&x, 0, sizeof x);
  s = fvg_clip_open(r->c, &m, r->model, NULL, FVG_F32);
  if (!s) s = recording_read(r, m, &x);
  if (!s) s = learner_new(r, m, method, &l);
  params = s ? NULL : fvg_learner_parameters(l, &n);
  for (i = 0; !s && i < n; i++) s = load_parameter(r, params[i]);
  if (!s) s = learner_steps(r, m, l, &x);
  if (!s) s = learner_test(r, m, l, &x);
  recording_free(r, &x);
  fvg_learner_free(l);
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
  float *buffer = (float *)fvg_alloc_array(r->c, (size_t)steps * (size_t)(6 + 3 * batch), sizeof *buffer);
  float *loss = buffer, *part = loss + steps, *gate = part + 5 * steps, *target = gate + steps * batch,
        *b = target + steps * batch;
  fvg_optimizer *o = NULL;
  fvg_status s = buffer ? fvg_optimizer_new(r->c, &o, params, n, &d) : FVG_E_NOMEM;
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
    s = fvg_fvgpt_step(m, &report, o, setting(r, "lr", 0.0035), &in);
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
  fvg_release(r->c, buffer);
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
  logits = (float *)fvg_alloc_array(r->c, (size_t)base[0] * (size_t)most, sizeof *logits);
  if (!logits) return FVG_E_NOMEM;
  fvg_fvgpt_batch batch;
  memset(&batch, 0, sizeof batch);
  batch.n = base[0];
  batch.n_class = base[1];
  batch.f = (const float *)x[F].data;
  batch.f_clip = (const float *)x[F_CLIP].data;
  batch.g = (const float *)x[G].data;
  s = fvg_fvgpt_score_base(m, logits, &batch);
  if (!s) s = put(r, "", "test_base_logits", logits, 2, base);

  batch.n_class = new_[1];
  batch.g = (const float *)x[G_NEW].data;
  batch.g_clip = (const float *)x[G_CLIP_NEW].data;
  if (!s) s = fvg_fvgpt_score_new(m, logits, NULL, &batch);
  if (!s) s = put(r, "", "test_new_logits", logits, 2, new_);
  fvg_release(r->c, logits);
  return s;
}

static fvg_status check_inputs(replay *r, const fvg_tensor *x) {
  int i, ok = 1;
  for (i = F_FG; i <= LABELS; i++)
    ok = ok && x[i].dim[0] == x[F].dim[0] && x[i].dim[1] == x[F].dim[1] && (i > F_CLIP || x[i].dim[2] == x[F].dim[2]);
  for (i = G; i < N_INPUT; i++) ok = ok && x[i].dim[1] == x[F].dim[2];
  ok = ok && x[G].dim[0] == x[G_CLIP].dim[0] && x[G_NEW].dim[0] == x[G_CLIP_NEW].dim[0];
  return ok ? FVG_OK : fvg_fail(r->c, FVG_E_SHAPE, "%s: f, f_fg, f_clip, area, labels, g, ... do not fit together",
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
  const char *method;
  fvg_status s = fvg_source_file(r->c, &source, path);
  int i;
  if (!s) s = fvg_weights_open(r->c, &r->in, &source);
  if (s) return s;
  method = fvg_weights_metadata(r->in, "method");
  if (method && !strcmp(method, "FVGPT")) s = replay_fvgpt(r);
  else if (method && fvg_method_find(method)) s = replay_learner(r, fvg_method_find(method));
  else s = fvg_fail(r->c, FVG_E_UNSUPPORTED, "%s: method %s cannot be replayed", path,
                    method ? method : "(none given)");
  if (!s) s = fvg_safetensors_save(r->c, out, r->out, r->n_out, NULL, 0);
  for (i = 0; i < r->n_out; i++) fvg_release(r->c, r->out[i].tensor.data);
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
