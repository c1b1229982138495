/* Chapters 8 to 11 of fvgpt_clip.h: configurations in every form that is published, names behind the wrappers of
   training programs, tensors left over, files that are no models, weights in several files, and what a model's files
   say of pictures.  Run from the repository root; writes under build/test-models. */
#include "random_model.h"
#include <sys/stat.h>
#ifdef _WIN32
#include <direct.h>
#define make_folder(path) _mkdir(path)
#else
#define make_folder(path) mkdir(path, 0777)
#endif

static char last_log[1200];
static void keep_log(void *user, int level, const char *message) {
  (void)user;
  (void)level;
  snprintf(last_log, sizeof last_log, "%s", message);
}

/* The towers of HF's model need 2 and 1 heads. */
#define VISION_HEADS "\"num_attention_heads\": 2"
#define TEXT_HEADS "\"num_attention_heads\": 1"
static const char plain_config[] =
    "{\"vision_config\": {" VISION_HEADS "}, \"text_config\": {" TEXT_HEADS "}}";

static void refused(const model *x, const char *config, fvg_status status, const char *a, const char *b) {
  size_t used = fvg_mem_used(c);
  fvg_clip *m;
  fvg_status s = load(&m, x->tensor, x->n, config, FVG_F32);
  check(s == status && !m && one_line(a, b) && fvg_mem_used(c) == used, config ? config : b);
  if (s != status) printf("  %s\n", s ? fvg_status_name(s) : "loaded");
  fvg_clip_free(m);
}

static int gives(const model *x, const char *config, const features *image, const features *text) {
  features f;
  fvg_clip *m;
  if (load(&m, x->tensor, x->n, config, FVG_F32)) { printf("  %s\n", fvg_error(c)); return 0; }
  encode(m, &f);
  fvg_clip_free(m);
  return (!image || same_images(&f, image)) && (!text || same_texts(&f, text));
}

/* The tensors of one tower. */
static void part_of(model *out, const model *x, const char *a, const char *b) {
  int i;
  out->n = 0;
  for (i = 0; i < x->n; i++) {
    if (strncmp(x->name[i], a, strlen(a)) && strncmp(x->name[i], b, strlen(b))) continue;
    memcpy(out->name[out->n], x->name[i], sizeof x->name[i]);
    out->tensor[out->n] = x->tensor[i];
    out->tensor[out->n].name = out->name[out->n];
    out->n++;
  }
}

/* ---- configurations ---- */
static void test_forms(const features *plain) {
  static model vision, text;
  features sharp, eight, eps, f;
  part_of(&vision, &hf, "vision_model.", "visual_projection");
  part_of(&text, &hf, "text_model.", "text_projection");
  encode_once(&hf, "{\"vision_config\": {\"num_attention_heads\": 8, \"hidden_act\": \"gelu\"}, "
              "\"text_config\": {\"num_attention_heads\": 4, \"hidden_act\": \"gelu\"}}", &sharp);
  encode_once(&hf, "{\"vision_config\": {\"num_attention_heads\": 8}, \"text_config\": {}}", &eight);
  encode_once(&hf, "{\"vision_config\": {\"num_attention_heads\": 2, \"layer_norm_eps\": 0.25}, "
              "\"text_config\": {\"num_attention_heads\": 1, \"layer_norm_eps\": 0.25}}", &eps);
  check(!same_images(&sharp, plain) && !same_texts(&sharp, plain), "heads and activation matter");
  check(!same_images(&eps, plain) && !same_texts(&eps, plain), "and so does the epsilon of layer norm");

  check(gives(&vision, "{\"model_type\": \"clip_vision_model\", \"num_attention_heads\": 8, \"hidden_act\": \"gelu\", "
              "\"hidden_size\": 128, \"image_size\": 12}", &sharp, NULL), "an image tower saved alone");
  check(gives(&vision, "{\"hidden_size\": 128, \"patch_size\": 4, \"num_attention_heads\": 8, \"hidden_act\": \"gelu\"}",
              &sharp, NULL), "and without model_type");
  check(gives(&text, "{\"model_type\": \"clip_text_model\", \"num_attention_heads\": 4, \"hidden_act\": \"gelu\", "
              "\"hidden_size\": 64, \"vocab_size\": 519}", NULL, &sharp), "a text tower saved alone");
  check(gives(&hf, "{\"text_config\": {}, \"vision_config\": {\"num_attention_heads\": 8}}", NULL, &eight),
        "eight heads are the default of Hugging Face's text tower");
  refused(&hf, "{\"model_type\": \"clip\"}", FVG_E_SHAPE, "width 128", "12 heads");
  check(gives(&hf, "{\"vision_config\": {\"num_attention_heads\": 4}, \"vision_config_dict\": {" VISION_HEADS "}, "
              "\"text_config_dict\": {" TEXT_HEADS "}, \"text_config\": {\"hidden_act\": \"gelu\"}}", plain, plain),
        "*_config_dict holds in place of *_config");
  check(gives(&hf, "{\"vision_config\": {" VISION_HEADS "}, \"vision_config_dict\": null, \"text_config_dict\": null, "
              "\"text_config\": {" TEXT_HEADS "}}", plain, plain), "but not if it is null");

  check(gives(&openai, "{\"model_cfg\": {\"vision_cfg\": {\"head_width\": 16}, \"text_cfg\": {\"heads\": 4}}}", &sharp,
              &sharp), "open_clip's, wrapped");
  check(gives(&openai, "{\"embed_dim\": 40, \"vision_cfg\": {\"head_width\": 16, \"image_size\": [12, 12]}, "
              "\"text_cfg\": {\"heads\": 4, \"context_length\": 20, \"no_causal_mask\": false, \"pool_type\": \"argmax\", "
              "\"ls_init_value\": null}}", &sharp, &sharp), "open_clip's, bare");
  check(gives(&openai, "{\"embed_dim\": 40, \"quick_gelu\": true, \"vision_cfg\": {}, \"text_cfg\": {}}", plain, &eight),
        "image heads of 64 and eight text heads are open_clip's defaults");
  check(gives(&openai, "{\"quick_gelu\": true, \"vision_cfg\": {\"norm_kwargs\": {\"eps\": 0.25}}, "
              "\"text_cfg\": {\"heads\": 1, \"norm_kwargs\": {\"eps\": 0.25}}}", &eps, &eps), "norm_kwargs' eps");
  check(gives(&openai, plain_config, plain, plain) && gives(&openai, NULL, plain, plain),
        "OpenAI's names with Hugging Face's configuration, and with none");
  encode_once(&openai, "{\"architecture\": \"vit_base\", \"pretrained_cfg\": {\"mean\": [0, 0, 0]}}", &f);
  check(same_images(&f, plain) && same_texts(&f, plain), "timm's says nothing of CLIP");
}

static void test_unknown_settings(void) {
  static const char *const open_clip[][2] = {
    {"\"pool_type\": \"avg\"", "pool_type"}, {"\"pool_type\": \"last\"", "pool_type"},
    {"\"final_ln_after_pool\": true", "final_ln_after_pool"}, {"\"no_causal_mask\": true", "no_causal_mask"},
    {"\"ls_init_value\": 0.0001", "ls_init_value"}, {"\"attentional_pool\": true", "attentional_pool"},
    {"\"norm_kwargs\": {\"elementwise_affine\": false}", "norm_kwargs"}, {"\"norm_kwargs\": {\"eps\": -1}", "epsilon"},
    {"\"act_kwargs\": {\"approximate\": \"tanh\"}", "act_kwargs"}, {"\"no_ln_pre\": true", "no_ln_pre"},
    {"\"hf_tokenizer_name\": \"bert-base-uncased\"", "hf_tokenizer_name"}, {"\"proj_bias\": true", "proj_bias"},
    {"\"timm_model_name\": \"vit_base\"", "timm_model_name"}, {"\"proj_type\": \"none\"", "proj_type"},
    {"\"embed_cls\": true", "embed_cls"}, {"\"pool_type\": \"tok\"", "pool_type"}, {"\"a_new_setting\": 3", "a_new_setting"},
    {"\"layers\": [3, 4, 6, 3]", "ResNet"}, {"\"image_size\": [12, 24]", "squares"}, {"\"heads\": 2", "head_width"},
    {"\"layers\": 9", "says 9"}
  };
  static const char *const hugging_face[][2] = {
    {"\"model_type\": \"siglip\"", "siglip"}, {"\"model_type\": \"chinese_clip\"", "chinese_clip"},
    {"\"auto_map\": {\"AutoModel\": \"modeling.Net\"}", "auto_map"}, {"\"pool_type\": \"avg\"", "pool_type"},
    {"\"quantization_config\": {\"bits\": 4}", "quantization_config"}, {"\"pruned_heads\": {\"0\": [1]}", "pruned_heads"},
    {"\"no_causal_mask\": true", "no_causal_mask"}, {"\"projection_dim\": 512", "projection_dim"}
  };
  char json[600];
  size_t i;
  int vision;
  for (i = 0; i < sizeof open_clip / sizeof *open_clip; i++) {
    vision = i >= 17;
    snprintf(json, sizeof json, "{\"embed_dim\": 40, \"vision_cfg\": {%s}, \"text_cfg\": {%s}}",
             vision ? open_clip[i][0] : "", vision ? "\"heads\": 1" : open_clip[i][0]);
    refused(&openai, json, strstr(open_clip[i][0], "\"layers\": 9") ? FVG_E_SHAPE :
            strstr(open_clip[i][0], "-1") ? FVG_E_FORMAT : FVG_E_UNSUPPORTED, "config.json of tiny", open_clip[i][1]);
  }
  for (i = 0; i < sizeof hugging_face / sizeof *hugging_face; i++) {
    snprintf(json, sizeof json, "{%s, \"vision_config\": {" VISION_HEADS "}, \"text_config\": {" TEXT_HEADS "}}",
             hugging_face[i][0]);
    refused(&hf, json, strstr(json, "projection_dim") ? FVG_E_SHAPE : FVG_E_UNSUPPORTED, "config.json of tiny",
            hugging_face[i][1]);
  }
  refused(&openai, "{\"embed_dim\": 40, \"multimodal_cfg\": {\"width\": 8}, \"vision_cfg\": {}}", FVG_E_UNSUPPORTED,
          "multimodal_cfg", "config.json");
  refused(&openai, "{\"embed_dim\": 40, \"init_logit_bias\": -10, \"vision_cfg\": {}}", FVG_E_UNSUPPORTED,
          "init_logit_bias", "-10");
  refused(&hf, "{}", FVG_E_FORMAT, "config.json of tiny", "says nothing of a CLIP");
  refused(&hf, "{\"name\": \"my project\", \"version\": \"1.0\"}", FVG_E_FORMAT, "config.json of tiny", "move it away");
}

/* ---- names ---- */
static void rename_tensor(model *x, int i, const char *name) {
  snprintf(x->name[i], sizeof x->name[0], "%s", name);
  x->tensor[i].name = x->name[i];
}

static void wrapped(model *out, const model *x, const char *prefix) {
  char name[300];
  int i;
  *out = *x;
  for (i = 0; i < x->n; i++) {
    snprintf(name, sizeof name, "%s%s", prefix, x->name[i]);
    rename_tensor(out, i, name);
  }
}

static int is_text_tensor(const char *name) {
  return strncmp(name, "visual", 6) && strcmp(name, "logit_scale") && strcmp(name, "input_resolution");
}

static void test_wrappers(const features *plain) {
  static const char *const prefix[] = {"module.", "_orig_mod.", "model.", "clip.", "net.clip_model.", "module.model.",
                                       "state_dict.module.", "_orig_mod.module.", "model.student.encoder."};
  static model x;
  char name[300], what[100];
  size_t i;
  int k;
  for (i = 0; i < sizeof prefix / sizeof *prefix; i++) {
    snprintf(what, sizeof what, "names behind %s", prefix[i]);
    wrapped(&x, &hf, prefix[i]);
    check(gives(&x, NULL, plain, plain), what);
    wrapped(&x, &openai, prefix[i]);
    check(gives(&x, NULL, plain, plain), what);
  }

  x = openai;                                    /* torch.compile and FSDP of the blocks alone */
  for (k = 0; k < x.n; k++) {
    const char *at = strstr(openai.name[k], "resblocks.");
    if (!at) continue;
    snprintf(name, sizeof name, "%.*s_orig_mod.%s", (int)(at - openai.name[k]), openai.name[k], at);
    rename_tensor(&x, k, name);
  }
  check(gives(&x, NULL, plain, plain), "_orig_mod. in the middle of names");

  x = openai;                                    /* open_clip's custom_text */
  for (k = 0; k < x.n; k++)
    if (is_text_tensor(openai.name[k])) {
      snprintf(name, sizeof name, "text.%s", openai.name[k]);
      rename_tensor(&x, k, name);
    }
  check(gives(&x, NULL, plain, plain), "a text tower behind text.");
  wrapped(&x, &x, "module.");
  check(gives(&x, NULL, plain, plain), "and both behind module.");

  x = hf;
  for (k = 0; k < hf.n && x.n < MAX_TENSORS - 2; k++)
    if (strstr(hf.name[k], "patch_embedding")) {
      x.tensor[x.n] = hf.tensor[k];
      rename_tensor(&x, x.n, "ema.vision_model.embeddings.patch_embedding.weight");
      x.n++;
    }
  refused(&x, NULL, FVG_E_UNSUPPORTED, "under two prefixes", "\"ema.\"");

  x = hf;                                        /* no logit_scale */
  for (k = 0; k < x.n && strcmp(x.name[k], "logit_scale"); k++) {}
  rename_tensor(&x, k, "classifier.weight");
  {
    fvg_clip *m = must_load(&x, "{\"logit_scale_init_value\": 2, \"vision_config\": {" VISION_HEADS "}, "
                            "\"text_config\": {" TEXT_HEADS "}}", FVG_F32);
    check(fabs((double)m->logit_scale - exp(2.0)) < 1e-5, "the scale that the configuration starts from");
    fvg_clip_free(m);
    m = must_load(&x, plain_config, FVG_F32);
    check(fabs((double)m->logit_scale - 100) < 1e-5, "or 100");
    fvg_clip_free(m);
  }
}

/* Each row of the table of names stands at its own index and fills a place of its own. */
static void test_table(void) {
  const int n = (int)(sizeof fvg__known_tensors / sizeof *fvg__known_tensors);
  int ordered = n == FVG__PROJ_BIAS + 1, distinct = 1, i, k;
  for (i = 0; i < n; i++) {
    if ((int)fvg__known_tensors[i].id != i) ordered = 0;
    for (k = i < FVG__LN_1_WEIGHT ? 0 : FVG__LN_1_WEIGHT; k < i; k++)
      if (fvg__known_tensors[k].offset == fvg__known_tensors[i].offset) distinct = 0;
  }
  check(ordered, "the rows of the table of names are in order");
  check(distinct, "no two rows fill the same place");
  check(FVG__PROJ_BIAS + 1 - FVG__LN_1_WEIGHT == (int)(sizeof(fvg_block) / sizeof(fvg_tensor)), "and all of a block");
}

/* Two text towers in one file, in OpenAI's names and in open_clip's. */
static void test_two_text_towers(void) {
  static model x;
  char name[300];
  int k, n = openai.n;
  x = openai;
  for (k = 0; k < n; k++) {
    if (strcmp(openai.name[k], "token_embedding.weight")) continue;
    x.tensor[x.n] = openai.tensor[k];
    snprintf(name, sizeof name, "text.%s", openai.name[k]);
    rename_tensor(&x, x.n++, name);
  }
  refused(&x, NULL, FVG_E_FORMAT, "no tensor", "text.positional_embedding");

  x = openai;
  for (k = 0; k < n; k++) {
    if (!is_text_tensor(openai.name[k])) continue;
    snprintf(name, sizeof name, "text.%s", openai.name[k]);
    rename_tensor(&x, k, name);
    if (strcmp(openai.name[k], "token_embedding.weight")) continue;
    x.tensor[x.n] = openai.tensor[k];
    rename_tensor(&x, x.n++, openai.name[k]);
  }
  refused(&x, NULL, FVG_E_UNSUPPORTED, "tensor token_embedding.weight", "no part of a CLIP");
}

static void test_arguments(void) {
  fvg_clip *m = must_load(&hf, NULL, FVG_F32), *none = m;
  fvg_preprocess before = m->preprocess;
  check(fvg_clip_open(c, &none, NULL, NULL, FVG_F32) == FVG_E_ARG && !none && one_line("folder or file", "needed"),
        "no path to open");
  none = m;
  check(fvg_clip_open(c, &none, "", NULL, FVG_F32) == FVG_E_ARG && !none && one_line("folder or file", "needed"),
        "an empty path");
  none = m;
  check(fvg_clip_load(c, &none, NULL, NULL, FVG_F32) == FVG_E_ARG && !none && one_line("weights", "needed"),
        "no weights to load");
  none = m;
  check(fvg_clip_load(c, &none, NULL, "{", FVG_F32) == FVG_E_ARG && !none && one_line("weights", "needed"),
        "nor with a configuration");
  check(fvg_clip_set_preprocess(m, NULL, NULL) == FVG_E_ARG && one_line("set_preprocess", "no text") &&
        !memcmp(&before, &m->preprocess, sizeof before), "no text to set pixels from");
  fvg_clip_free(m);
}

static void test_leftovers(const features *plain) {
  static const struct { int openai; const char *name, *says; } bad[] = {
    {1, "visual.transformer.resblocks.1.ls_1.gamma", "layer scale"}, {1, "transformer.resblocks.0.ls_2.gamma", "ls_2"},
    {1, "positional_embedding_res", "Long-CLIP"}, {1, "visual.attn_pool.query", "attention"},
    {1, "text_decoder.resblocks.0.ln_1.weight", "CoCa"}, {1, "visual.layer1.0.conv1.weight", "ResNet"},
    {1, "visual.attnpool.positional_embedding", "ResNet"}, {1, "visual.trunk.patch_embed.proj.weight", "timm"},
    {1, "visual.transformer.resblocks.0.attn.ln.weight", "attn.ln.weight"}, {1, "extra_embedding", "extra_embedding"},
    {1, "visual.head.proj.weight", "visual.head"}, {1, "text_projection.bias", "text_projection.bias"},
    {0, "vision_model.head.probe", "SigLIP"}, {0, "vision_model.embeddings.register_tokens", "register_tokens"},
    {0, "text_model.encoder.layers.1.mlp.gate.weight", "mlp.gate"},
    {0, "base.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight", "LoRA"},
    {0, "lora_te_text_model_encoder.lora_down.weight", "LoRA"}, {0, "visual_projection.bias", "visual_projection.bias"},
    {0, "text_model.embeddings.word_embeddings.weight", "BERT"}
  };
  static const char *const harmless[] = {
    "text_model.embeddings.position_ids", "vision_model.embeddings.position_ids", "logit_bias", "attn_mask"
  };
  static const char *const outside[] = {"classifier.weight", "optimizer.state.0.exp_avg", "head.bias"};
  static model x;
  size_t i;
  for (i = 0; i < sizeof bad / sizeof *bad; i++) {
    x = bad[i].openai ? openai : hf;
    x.tensor[x.n] = x.tensor[1];
    rename_tensor(&x, x.n++, bad[i].name);
    refused(&x, NULL, FVG_E_UNSUPPORTED, "tiny.safetensors", bad[i].says);
  }
  for (i = 0; i < sizeof harmless / sizeof *harmless; i++) {
    x = hf;
    x.tensor[x.n] = x.tensor[0];
    rename_tensor(&x, x.n++, harmless[i]);
    last_log[0] = 0;
    check(gives(&x, NULL, plain, plain) && !last_log[0], harmless[i]);
  }
  for (i = 0; i < sizeof outside / sizeof *outside; i++) {
    x = i % 2 ? hf : openai;
    x.tensor[x.n] = x.tensor[0];
    rename_tensor(&x, x.n++, outside[i]);
    last_log[0] = 0;
    check(gives(&x, NULL, plain, plain) && strstr(last_log, outside[i]) && strstr(last_log, "not used"), outside[i]);
  }
  part_of(&x, &hf, "text_model.", "logit_scale");
  refused(&x, NULL, FVG_E_FORMAT, "without its projection", "tiny.safetensors");
}

/* ---- files ---- */
static void write_bytes(const char *path, const void *bytes, size_t n) {
  need(!fvg_file_save(c, path, bytes, n), path);
}

static void write_text(const char *folder, const char *name, const char *text) {
  char path[200];
  snprintf(path, sizeof path, "build/test-models/%s", folder);
  make_folder(path);
  snprintf(path, sizeof path, "build/test-models/%s/%s", folder, name);
  write_bytes(path, text, strlen(text));
}

static void write_weights(const char *folder, const char *name, const fvg_named_tensor *tensor, int n) {
  char path[200];
  snprintf(path, sizeof path, "build/test-models/%s", folder);
  make_folder(path);
  snprintf(path, sizeof path, "build/test-models/%s/%s", folder, name);
  need(!fvg_safetensors_save(c, path, tensor, n, NULL, 0), path);
}

static int opens(const char *path, const features *image, const features *text) {
  char full[300];
  features f;
  fvg_clip *m;
  snprintf(full, sizeof full, "build/test-models/%s", path);
  if (fvg_clip_open(c, &m, full, NULL, FVG_F32)) { printf("  %s: %s\n", full, fvg_error(c)); return 0; }
  encode(m, &f);
  fvg_clip_free(m);
  return same_images(&f, image) && same_texts(&f, text);
}

static void does_not_open(const char *path, const char *a, const char *b) {
  char full[300];
  size_t used = fvg_mem_used(c);
  fvg_clip *m = NULL;
  fvg_status s;
  snprintf(full, sizeof full, "build/test-models/%s", path);
  s = fvg_clip_open(c, &m, full, NULL, FVG_F32);
  check(s && !m && one_line(a, b) && fvg_mem_used(c) == used, path);
}

static void test_not_models(void) {
  static const struct { const char *name, *bytes, *says; } file[] = {
    {"lfs.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 605247071\n", "Git LFS"},
    {"lfs.pt", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 7\n", "git lfs pull"},
    {"page.bin", "<!DOCTYPE html><html><body>Sign in</body></html>", "HTML"},
    {"page.safetensors", "<html><head><title>404</title></head></html>", "HTML"},
    {"denied.ckpt", "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "XML"},
    {"error.safetensors", "{\"error\":\"Repository not found\"}", "error"},
    {"model.gguf", "GGUF\003\001\001\001\001\001\001\001\001\001\001\001\001\001\001\001", "GGUF"},
    {"weights.h5", "\211HDF\r\n\032\n\001\001\001\001\001\001\001\001\001\001", "HDF5"},
    {"packed.pt", "\037\213\010\010\001\001\001\001\001\001\001\001\001\001\001\001\001", "gzip"},
    {"pickle.pth", "\200\004\225\001\001\001\001\001\001\001\001\001\001\001\001\001\001\001", "pickle"},
    {"empty.safetensors", "", "empty"}, {"short.pt", "abc", "text"}, {"absent.bin", "Entry not found", "download"},
    {"blank.bin", "\n \n<HTML><body>", "HTML"}, {"five.pkl", "\200\005\225\001\001\001\001\001\001", "pickle"}
  };
  char path[200];
  size_t i;
  make_folder("build/test-models/none");
  for (i = 0; i < sizeof file / sizeof *file; i++) {
    write_text("none", file[i].name, file[i].bytes);
    snprintf(path, sizeof path, "none/%s", file[i].name);
    does_not_open(path, file[i].name, file[i].says);
  }
  does_not_open("none", "no model.safetensors", "build/test-models/none");
  write_weights("pointer", "model.safetensors", hf.tensor, hf.n);
  write_text("pointer", "config.json", "version https://git-lfs.github.com/spec/v1\noid sha256:2\nsize 9\n");
  does_not_open("pointer", "config.json", "Git LFS");
  does_not_open("nowhere", "nowhere", "folder");
  check(fvg_clip_open(c, &(fvg_clip *){NULL}, NULL, NULL, FVG_F32) == FVG_E_ARG, "no path at all");
}

/* GPT-2's list of merges has no mark for the end of a word. */
static void test_other_vocabulary(void) {
  char list[2000] = "#version: 0.2\n";
  size_t n = strlen(list), used = fvg_mem_used(c);
  fvg_tokenizer *k = NULL;
  fvg_source source;
  int i;
  for (i = 0; i < 90; i++) n += (size_t)snprintf(list + n, sizeof list - n, "%c %c\n", 'a' + i / 26, 'a' + i % 26);
  source = fvg_source_memory(list, n, "vocab.bpe");
  check(fvg_tokenizer_open(c, &k, &source, 0) == FVG_E_FORMAT && !k && one_line("vocab.bpe", "GPT-2") &&
        fvg_mem_used(c) == used, "a vocabulary that is not CLIP's");
  snprintf(list + n, sizeof list - n, "ab c</w>\n");
  source = fvg_source_memory(list, strlen(list), "vocab.bpe");
  check(!fvg_tokenizer_open(c, &k, &source, 0), "and one that ends a word");
  fvg_tokenizer_free(k);
}

static void test_folders(const features *plain) {
  static const char sharp_open_clip[] = "{\"model_cfg\": {\"vision_cfg\": {\"head_width\": 16}, "
                                        "\"text_cfg\": {\"heads\": 4}}}";
  static const char timm[] = "{\"architecture\": \"vit_tiny\", \"pretrained_cfg\": {\"tag\": \"mine\"}}";
  char name[100];
  features sharp;
  int i, half = hf.n / 2;
  encode_once(&openai, sharp_open_clip, &sharp);

  write_weights("timm", "open_clip_model.safetensors", openai.tensor, openai.n);
  write_weights("timm", "model.safetensors", hf.tensor, 3);
  write_text("timm", "config.json", timm);
  write_text("timm", "open_clip_config.json", sharp_open_clip);
  write_text("timm", "merges.txt", merges);
  check(opens("timm", &sharp, &sharp), "timm's configuration does not hide open_clip's, nor timm's tower the CLIP");

  write_weights("both", "model.safetensors", hf.tensor, hf.n);
  write_weights("both", "open_clip_model.safetensors", openai.tensor, openai.n);
  write_text("both", "config.json", plain_config);
  write_text("both", "open_clip_config.json", sharp_open_clip);
  write_text("both", "merges.txt", merges);
  check(opens("both", plain, plain), "Hugging Face's names take Hugging Face's configuration");
  check(opens("both/open_clip_model.safetensors", &sharp, &sharp), "and open_clip's names open_clip's");

  write_weights("endings", "last.ckpt", openai.tensor, openai.n);
  write_weights("endings", "model.pth.tar", hf.tensor, hf.n);
  write_weights("endings", "weights", hf.tensor, hf.n);
  write_text("endings", "merges.txt", merges);
  last_log[0] = 0;
  check(opens("endings/last.ckpt", plain, plain) && !last_log[0], "a file called .ckpt, in OpenAI's own form");
  check(opens("endings/model.pth.tar", plain, plain) && strstr(last_log, "quick_gelu"),
        "a file called .pth.tar, and a note that no configuration says what it is");
  check(opens("endings/weights", plain, plain), "a file without an ending");

  write_weights("shards", "model-00001-of-00002.safetensors", hf.tensor, half);
  write_weights("shards", "model-00002-of-00002.safetensors", hf.tensor + half, hf.n - half);
  write_text("shards", "config.json", plain_config);
  write_text("shards", "merges.txt", merges);
  {
    static char index[20000];
    size_t n = (size_t)snprintf(index, sizeof index, "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {");
    for (i = 0; i < hf.n; i++)
      n += (size_t)snprintf(index + n, sizeof index - n, "%s\"%s\": \"model-0000%d-of-00002.safetensors\"", i ? ", " : "",
                            hf.name[i], i < half ? 1 : 2);
    snprintf(index + n, sizeof index - n, "}}");
    write_text("shards", "model.safetensors.index.json", index);
    check(opens("shards", plain, plain), "weights in two files and an index");
    check(opens("shards/model.safetensors.index.json", plain, plain), "and by the index's own name");
    snprintf(index + n, sizeof index - n, ", \"one.more\": \"model-00001-of-00002.safetensors\"}}");
    write_text("shards", "model.safetensors.index.json", index);
    does_not_open("shards", "one.more", "index.json");
    snprintf(index + n, sizeof index - n, ", \"one.more\": \"../secret.safetensors\"}}");
    write_text("shards", "model.safetensors.index.json", index);
    does_not_open("shards", "../secret", "same folder");
    snprintf(index + n, sizeof index - n, ", \"one.more\": \"model-00003-of-00002.safetensors\"}}");
    write_text("shards", "model.safetensors.index.json", index);
    does_not_open("shards", "model-00003", "cannot");
    write_text("shards", "model.safetensors.index.json", "{\"metadata\": {}}");
    does_not_open("shards", "index.json", "weight_map");
  }
  write_weights("twice", "model-1.safetensors", hf.tensor, half + 1);
  write_weights("twice", "model-2.safetensors", hf.tensor + half, hf.n - half);
  snprintf(name, sizeof name, "{\"weight_map\": {\"a\": \"model-1.safetensors\", \"b\": \"model-2.safetensors\"}}");
  write_text("twice", "model.safetensors.index.json", name);
  does_not_open("twice", "appears twice", "index.json");
}

/* ---- pictures ---- */
static int is(double a, float b) { return fabs(a - (double)b) < 1e-6; }

static void test_preprocess(void) {
  static const struct { const char *json, *says; fvg_status status; } bad[] = {
    {"{\"resample\": 1}", "resample 1", FVG_E_UNSUPPORTED}, {"{\"crop_size\": 224}", "224 pixels", FVG_E_SHAPE},
    {"{\"size\": 8, \"crop_size\": 12}", "smaller", FVG_E_UNSUPPORTED}, {"{\"do_resize\": false}", "do_resize",
    FVG_E_UNSUPPORTED}, {"{\"do_rescale\": false}", "do_rescale", FVG_E_UNSUPPORTED},
    {"{\"do_center_crop\": false}", "square", FVG_E_UNSUPPORTED}, {"{\"image_std\": [0, 1, 1]}", "image_std",
    FVG_E_FORMAT}, {"{\"image_mean\": [0.5, 0.5]}", "image_mean", FVG_E_FORMAT},
    {"{\"rescale_factor\": 1}", "rescale_factor", FVG_E_UNSUPPORTED},
    {"{\"size\": {\"height\": 12, \"width\": 16}}", "12 x 16", FVG_E_UNSUPPORTED},
    {"{\"image_processor_type\": \"OwlViTImageProcessor\"}", "OwlViT", FVG_E_UNSUPPORTED},
    {"{\"size\": {\"height\": 16, \"width\": 16}, \"do_center_crop\": false}", "16 pixels", FVG_E_SHAPE},
    {"{\"preprocess_cfg\": {\"resize_mode\": \"longest\"}}", "longest", FVG_E_UNSUPPORTED},
    {"{\"preprocess_cfg\": {\"mode\": \"L\"}}", "\"L\"", FVG_E_UNSUPPORTED},
    {"{\"preprocess_cfg\": {\"size\": 224}}", "224", FVG_E_SHAPE},
    {"{\"preprocess_cfg\": {\"interpolation\": \"lanczos\"}}", "lanczos", FVG_E_UNSUPPORTED},
    {"{\"preprocess_cfg\": ", "JSON", FVG_E_FORMAT}
  };
  static const char *const malformed[] = {
    "{\"size\": {\"longest_edge\": 12}}", "{\"size\": {}}", "[1, 2]", "{\"error\": \"Entry not found\"}",
    "{\"do_normalize\": \"false\"}"
  };
  static const char half_mean[] = "\"image_mean\": [0.5, 0.25, 0.125], \"image_std\": [0.5, 1, 2]";
  char json[300];
  fvg_clip *m = must_load(&hf, NULL, FVG_F32);
  const fvg_preprocess *p = &m->preprocess, before = m->preprocess;
  size_t i;
  check(p->size == 12 && p->resize == 12 && p->filter == FVG_BICUBIC && p->resize_mode == FVG_RESIZE_SHORTEST &&
        is(0.48145466, p->mean[0]) && is(0.27577711, p->std[2]), "CLIP's own way without a file");
  for (i = 0; i < sizeof bad / sizeof *bad; i++)
    check(fvg_clip_set_preprocess(m, bad[i].json, "preprocessor_config.json") == bad[i].status &&
          one_line("preprocessor_config.json", bad[i].says) && !memcmp(p, &before, sizeof before), bad[i].json);

  for (i = 0; i < sizeof malformed / sizeof *malformed; i++)
    check(fvg_clip_set_preprocess(m, malformed[i], "preprocessor_config.json") &&
          one_line("preprocessor_config.json", "") && !memcmp(p, &before, sizeof before), malformed[i]);

  snprintf(json, sizeof json, "{%s, \"size\": {\"shortest_edge\": 16}, \"crop_size\": {\"height\": 12, \"width\": 12}, "
           "\"resample\": 2, \"feature_extractor_type\": \"CLIPFeatureExtractor\"}", half_mean);
  check(!fvg_clip_set_preprocess(m, json, NULL) && p->resize == 16 && p->size == 12 && p->filter == FVG_BILINEAR &&
        p->resize_mode == FVG_RESIZE_SHORTEST && is(0.25, p->mean[1]) && is(2, p->std[2]), "Hugging Face's");
  check(!fvg_clip_set_preprocess(m, "{\"size\": 12, \"image_processor_type\": \"ViTImageProcessor\"}", NULL) &&
        p->resize_mode == FVG_RESIZE_SQUASH && p->resize == 12 && p->filter == FVG_BILINEAR && is(0.5, p->mean[0]) &&
        is(0.5, p->std[2]), "a ViT's: a square, with defaults of its own");
  check(!fvg_clip_set_preprocess(m, "{\"size\": {\"height\": 12, \"width\": 12}, \"do_center_crop\": true, "
        "\"image_processor_type\": \"SiglipImageProcessor\"}", NULL) && p->filter == FVG_BICUBIC && is(0.5, p->mean[1]),
        "SigLIP's");
  check(!fvg_clip_set_preprocess(m, "{\"image_processor\": {\"size\": {\"height\": 20, \"width\": 20}, \"crop_size\": 12, "
        "\"do_center_crop\": true, \"do_normalize\": false}}", NULL) && p->resize_mode == FVG_RESIZE_SQUASH &&
        p->resize == 20 && p->size == 12 && is(0, p->mean[0]) && is(1, p->std[0]), "a processor_config.json");
  check(!fvg_clip_set_preprocess(m, "{\"preprocess_cfg\": {\"size\": [12, 12], \"mode\": \"RGB\", \"mean\": 0.5, "
        "\"std\": [0.5, 0.5, 0.5], \"interpolation\": \"bilinear\", \"resize_mode\": \"squash\", \"fill_color\": 0}}", NULL)
        && p->filter == FVG_BILINEAR && p->resize_mode == FVG_RESIZE_SQUASH && is(0.5, p->mean[2]), "open_clip's");
  fvg_clip_free(m);

  check(!load(&m, openai.tensor, openai.n, "{\"model_cfg\": {\"text_cfg\": {\"heads\": 1}}, "
              "\"preprocess_cfg\": {\"mean\": [0.5, 0.5, 0.5], \"interpolation\": \"random\"}}", FVG_F32) &&
        is(0.5, m->preprocess.mean[0]) && m->preprocess.filter == FVG_BICUBIC, "open_clip's beside its model_cfg");
  fvg_clip_free(m);
}

/* Where the files lie decides which of them counts. */
static void test_preprocess_files(void) {
  fvg_clip *m = NULL;
  write_weights("pixels", "model.safetensors", hf.tensor, hf.n);
  write_weights("pixels", "open_clip_model.safetensors", openai.tensor, openai.n);
  write_text("pixels", "config.json", plain_config);
  write_text("pixels", "open_clip_config.json", "{\"model_cfg\": {\"text_cfg\": {\"heads\": 1}}, "
             "\"preprocess_cfg\": {\"mean\": [0.1, 0.2, 0.3]}}");
  write_text("pixels", "preprocessor_config.json", "{\"image_mean\": [0.4, 0.5, 0.6]}");
  check(!fvg_clip_open(c, &m, "build/test-models/pixels", NULL, FVG_F32) && is(0.4, m->preprocess.mean[0]),
        "preprocessor_config.json beside Hugging Face's weights");
  fvg_clip_free(m);
  check(!fvg_clip_open(c, &m, "build/test-models/pixels/open_clip_model.safetensors", NULL, FVG_F32) &&
        is(0.1, m->preprocess.mean[0]), "preprocess_cfg beside open_clip's");
  fvg_clip_free(m);
  remove("build/test-models/pixels/preprocessor_config.json");
  check(!fvg_clip_open(c, &m, "build/test-models/pixels", NULL, FVG_F32) && is(0.1, m->preprocess.mean[0]),
        "open_clip's preprocess_cfg where Hugging Face's file is not there");
  fvg_clip_free(m);
  write_text("pixels", "preprocessor_config.json", "{\"image_mean\": [0.4, 0.5, 0.6]}");
  write_text("pixels", "open_clip_config.json", "{\"model_cfg\": {\"text_cfg\": {\"heads\": 1}}}");
  check(!fvg_clip_open(c, &m, "build/test-models/pixels/open_clip_model.safetensors", NULL, FVG_F32) &&
        is(0.4, m->preprocess.mean[0]), "and the other way round");
  fvg_clip_free(m);
  write_text("pixels", "preprocessor_config.json", "{\"resample\": 5}");
  does_not_open("pixels", "preprocessor_config.json", "resample 5");
}

/* Squash and a crop of a larger square, computed from parts. */
static void test_transforms(void) {
  fvg_preprocess p = fvg_preprocess_defaults(8);
  fvg_image in, whole, view, cut;
  fvg_crop box = {2, 2, 8, 8, 0};
  int i, ok;
  need(!fvg__image_new(c, &in, 31, 17, 3), "a picture");
  for (i = 0; i < 31 * 17 * 3; i++) in.pixels[i] = (uint8_t)(i * 37 % 251);
  p.resize_mode = FVG_RESIZE_SQUASH;
  p.filter = FVG_BILINEAR;
  ok = !fvg_image_test_transform(c, &view, &in, &p) && !fvg_image_resize(c, &whole, &in, 8, 8, FVG_BILINEAR);
  check(ok && view.width == 8 && view.height == 8 && !memcmp(view.pixels, whole.pixels, 8 * 8 * 3), "squash");
  fvg_image_free(c, &view);
  fvg_image_free(c, &whole);
  p.resize = 12;
  ok = !fvg_image_test_transform(c, &view, &in, &p) && !fvg_image_resize(c, &whole, &in, 12, 12, FVG_BILINEAR) &&
       !fvg_image_resized_crop(c, &cut, &whole, &box, 8, FVG_NEAREST);
  check(ok && !memcmp(view.pixels, cut.pixels, 8 * 8 * 3), "squash and the centre of it");
  fvg_image_free(c, &view);
  fvg_image_free(c, &whole);
  fvg_image_free(c, &cut);
  p.resize = 4;
  check(fvg_image_test_transform(c, &view, &in, &p) == FVG_E_ARG && one_line("8 pixels", "4 x 4"),
        "a centre larger than the picture");
  fvg_image_free(c, &in);
}

/* ---- memory while a model is loaded ---- */
enum { WIDE = 64, WIDE_MLP = 8192, WIDE_LAYERS = 2 };

/* An entry of `rows` rows; all share the same numbers. */
static void add_wide(model *m, const char *leaf, int n_dim, int rows, int cols, int side) {
  static float numbers[WIDE * WIDE_MLP];
  fvg_tensor *x = &m->tensor[m->n].tensor;
  snprintf(m->name[m->n], sizeof m->name[0], "vision_model.%s", leaf);
  if (!strcmp(leaf, "visual_projection.weight")) snprintf(m->name[m->n], sizeof m->name[0], "%s", leaf);
  m->tensor[m->n].name = m->name[m->n];
  x->n_dim = n_dim;
  x->dim[0] = rows;
  x->dim[1] = cols;
  x->dim[2] = x->dim[3] = side;
  x->data = numbers;
  m->n++;
}

/* The weight of a matrix, or with cols 0 of a norm, and its bias. */
static void add_wide_pair(model *m, const char *leaf, int rows, int cols) {
  char name[80];
  snprintf(name, sizeof name, "%s.weight", leaf);
  add_wide(m, name, cols ? 2 : 1, rows, cols, 0);
  snprintf(name, sizeof name, "%s.bias", leaf);
  add_wide(m, name, 1, rows, 0, 0);
}

/* Matrices of 2 MB go from the file into their places without a copy of one of them in between: beside the model there
   is a piece of the file and the rows of a panel. */
static void test_load_memory(void) {
  static const char *const square[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"};
  static model x;
  char leaf[80];
  fvg_ctx *usual = c;
  fvg_clip *m;
  int i, k;
  add_wide(&x, "embeddings.patch_embedding.weight", 4, WIDE, 3, 4);
  add_wide(&x, "embeddings.class_embedding", 1, WIDE, 0, 0);
  add_wide(&x, "embeddings.position_embedding.weight", 2, 10, WIDE, 0);
  add_wide_pair(&x, "pre_layrnorm", WIDE, 0);
  add_wide_pair(&x, "post_layernorm", WIDE, 0);
  add_wide(&x, "visual_projection.weight", 2, 40, WIDE, 0);
  for (i = 0; i < WIDE_LAYERS; i++) {
    static const char *const other[] = {"layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"};
    for (k = 0; k < 8; k++) {
      snprintf(leaf, sizeof leaf, "encoder.layers.%d.%s", i, k < 4 ? square[k] : other[k - 4]);
      if (k < 4) add_wide_pair(&x, leaf, WIDE, WIDE);
      else add_wide_pair(&x, leaf, k == 6 ? WIDE_MLP : WIDE, k == 6 ? WIDE : k == 7 ? WIDE_MLP : 0);
    }
  }
  need(!fvg_init(&c, NULL), "a context that has counted nothing yet");
  m = must_load(&x, NULL, FVG_F32);
  i = fvg_panel_width(c) * WIDE_MLP * (int)sizeof(float);
  check(fvg_mem_used(c) > 8u << 20 && fvg_mem_peak(c) < fvg_mem_used(c) + (size_t)i + 65536,
        "beside the model no more than the rows of a panel");
  fvg_clip_free(m);
  fvg_free(c);
  c = usual;
}

int main(void) {
  features plain;
  fvg_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.log = keep_log;
  if (fvg_init(&c, &desc)) return 1;
  make_folder("build");
  make_folder("build/test-models");
  make_random_model();
  encode_once(&hf, NULL, &plain);
  test_forms(&plain);
  test_unknown_settings();
  test_wrappers(&plain);
  test_table();
  test_two_text_towers();
  test_arguments();
  test_leftovers(&plain);
  test_load_memory();
  test_not_models();
  test_other_vocabulary();
  test_folders(&plain);
  test_preprocess();
  test_preprocess_files();
  test_transforms();
  check(fvg_mem_used(c) == 0, "no memory stays");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
