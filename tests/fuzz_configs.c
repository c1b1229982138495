/* Fuzzer for the texts beside a model's weights.  The first byte says what the rest is: 'c' Hugging Face's config.json or
   open_clip's (fvg_clip_load), 'p' preprocessor_config.json, processor_config.json or preprocess_cfg
   (fvg_clip_set_preprocess), 'i' the index of weights in several files (fvg_clip_open). */
#include "fuzz_model.h"

#define FOLDER "build/fuzz-configs"

static void begin(void) {
  make_good_model();
  mkdir("build", 0777);
  mkdir(FOLDER, 0777);
  fuzz_write_file(FOLDER "/model-1.safetensors", good_model.data, good_model.n);
  fuzz_write_file(FOLDER "/config.json", (const uint8_t *)config, sizeof config - 1);
}

static int take_config(const char *text) {
  fvg_clip *m = open_model(own, good_model.data, good_model.n, text);
  static float feature[W], pixels[3 * 4 * 4];
  if (!m) check_refusal(own, fvg_last_status(own));
  else if (m->vision.image_size == 4 && fvg_clip_encode_images(m, feature, pixels, 1)) check_refusal(own, fvg_last_status(own));
  fvg_clip_free(m);
  return m != NULL;
}

/* What is taken can be followed, and what is refused changes nothing. */
static int take_preprocess(const char *text) {
  static uint8_t pixels[3 * 6 * 5];
  const fvg_preprocess before = good_clip->preprocess;
  fvg_image image, small;
  const fvg_status status = fvg_clip_set_preprocess(good_clip, text, "preprocess");
  memset(&image, 0, sizeof image);
  image.width = 6;
  image.height = 5;
  image.channels = 3;
  image.pixels = pixels;
  if (status) {
    check_refusal(own, status);
    if (memcmp(&before, &good_clip->preprocess, sizeof before)) fault("a refused text changes the model");
  } else if (good_clip->preprocess.resize <= 64) {
    if (fvg_image_test_transform(own, &small, &image, &good_clip->preprocess)) fault(fvg_error(own));
    if (small.width != 4 || small.height != 4) fault("pictures of another size than the tower's");
    fvg_image_free(own, &small);
  }
  good_clip->preprocess = before;
  return !status;
}

static int take_index(const uint8_t *data, size_t n) {
  fvg_clip *m = NULL;
  fvg_status status;
  fuzz_write_file(FOLDER "/model.safetensors.index.json", data, n);
  status = fvg_clip_open(own, &m, FOLDER, NULL, FVG_F32);
  if (!status != (m != NULL)) fault("status and result disagree");
  if (status) check_refusal(own, status);
  fvg_clip_free(m);
  return !status;
}

static int take(const uint8_t *data, size_t n) {
  char *text;
  int taken;
  if (!n) return 0;
  if (data[0] == 'i') return take_index(data + 1, n - 1);
  text = fuzz_text(data + 1, n - 1);
  taken = data[0] == 'p' ? take_preprocess(text) : take_config(text);
  free(text);
  return taken;
}

/* An index that says of every tensor that it lies in the one file. */
static void make_index(fuzz_input *to) {
  static const char head[] = "i{\"metadata\": {\"total_size\": 1}, \"weight_map\": {";
  int i;
  append(to, head, sizeof head - 1);
  for (i = 0; i < n_tensor; i++) {
    char line[160];
    const int length = snprintf(line, sizeof line, "%s\"%s\": \"model-1.safetensors\"", i ? ", " : "", tensors[i].name);
    append(to, line, (size_t)length);
  }
  append(to, "}}", 2);
}

static int seed(fuzz_input *to, int i) {
  static const char *const text[] = {
    "c{\"vision_config\": {\"num_attention_heads\": 2, \"image_size\": 4}, \"text_config\": {\"num_attention_heads\": 2, "
    "\"hidden_act\": \"gelu\"}}",
    "c{\"model_type\": \"clip\", \"projection_dim\": 8, \"logit_scale_init_value\": 2.6592, \"vision_config\": {\"hidden_size\": 8, "
    "\"intermediate_size\": 8, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"image_size\": 4, \"patch_size\": 2, "
    "\"layer_norm_eps\": 1e-05, \"hidden_act\": \"quick_gelu\", \"attention_dropout\": 0.0}, \"text_config\": {\"hidden_size\": 8, "
    "\"intermediate_size\": 8, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"max_position_embeddings\": 64, "
    "\"vocab_size\": 515, \"bos_token_id\": 513, \"eos_token_id\": 514}}",
    "c{\"model_cfg\": {\"embed_dim\": 8, \"quick_gelu\": true, \"vision_cfg\": {\"image_size\": 4, \"layers\": 1, \"width\": 8, "
    "\"head_width\": 4, \"patch_size\": 2}, \"text_cfg\": {\"context_length\": 64, \"vocab_size\": 515, \"width\": 8, \"heads\": 2, "
    "\"layers\": 1}}, \"preprocess_cfg\": {\"mean\": [0.5, 0.5, 0.5], \"std\": [0.5, 0.5, 0.5]}}",
    "p{\"crop_size\": {\"height\": 4, \"width\": 4}, \"do_center_crop\": true, \"do_normalize\": true, \"do_resize\": true, "
    "\"do_rescale\": true, \"rescale_factor\": 0.00392156862745098, \"image_mean\": [0.48145466, 0.4578275, 0.40821073], "
    "\"image_std\": [0.26862954, 0.26130258, 0.27577711], \"resample\": 3, \"size\": {\"shortest_edge\": 4}}",
    "p{\"crop_size\": 4, \"size\": 5, \"resample\": 2, \"do_convert_rgb\": true}",
    "p{\"preprocess_cfg\": {\"size\": 4, \"mean\": [0, 0, 0], \"std\": [1, 1, 1], \"interpolation\": \"bicubic\", "
    "\"resize_mode\": \"squash\"}}",
    "p{\"image_processor\": {\"size\": {\"height\": 4, \"width\": 4}, \"do_center_crop\": false}}", NULL};
  if (seed_of_text(to, text, i)) return 1;
  if (i != sizeof text / sizeof *text - 1) return 0;
  make_index(to);
  return 1;
}

static const char *const word[] = {
  "\"vision_config\": {", "\"text_config\": {", "\"num_attention_heads\": ", "\"hidden_act\": \"", "quick_gelu", "gelu_new",
  "\"layer_norm_eps\": ", "\"projection_dim\": ", "\"patch_size\": ", "\"eos_token_id\": ", "\"model_cfg\": {", "\"vision_cfg\": {", "\"text_cfg\": {",
  "\"timm_model_name\": ", "\"hf_model_name\": ", "\"head_width\": ", "\"mlp_ratio\": ", "\"quick_gelu\": ", "\"preprocess_cfg\": {", "\"interpolation\": \"",
  "\"resize_mode\": \"", "\"longest\"", "\"fill_color\": 0", "\"do_resize\": ", "\"do_center_crop\": ", "\"do_normalize\": ", "\"do_rescale\": ",
  "\"shortest_edge\": ", "\"longest_edge\": ", "\"rescale_factor\": ", "\"image_mean\": ", "\"image_std\": ", "\"resample\": ", "\"crop_size\": ",
  "\"weight_map\": {", "model-1.safetensors", "../", "true", "false", "null", "[", "]", "{", "}", "1e300", "-1", "0.5", NULL};

static const fuzz_target target = {2000, begin, take, seed, NULL, word, NULL};
