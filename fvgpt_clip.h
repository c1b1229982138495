/* fvgpt_clip.h - CLIP, prompt tuning and the base-to-new protocol on a CPU   public domain or MIT

   This is the second of two headers.  fvgpt.h computes; this one knows pictures, words and data
   sets.

   USE   In exactly one C or C++ file:                Everywhere else:

             #define FVGPT_IMPLEMENTATION                 #include "fvgpt_clip.h"
             #include "fvgpt_clip.h"

   Which of three words fits a picture?  A complete program, to be built with `cc -O2 pet.c -lm`:

             #define FVGPT_STB_IMAGE       // without it only PNM pictures are read
             #define FVGPT_IMPLEMENTATION
             #include "fvgpt_clip.h"
             int main(void) {
               const char *name[] = {"cat", "dog", "horse"};
               fvg_clip *m = fvg_open("clip-vit-base-patch16");
               int best = fvg_classify_file(m, NULL, "pet.jpg", name, 3);
               puts(best < 0 ? fvg_clip_error(m) : name[best]);
               return fvg_close(m) != FVG_OK;
             }

   The same step by step (examples/02_zero_shot.c is the longer version, with errors checked):

             fvg_ctx *c;    fvg_init(&c, NULL);
             fvg_clip *m;   fvg_clip_open(c, &m, "clip-vit-base-patch16", NULL, FVG_F32);
             float g[3 * 512], f[512], *x = (float *)malloc(3 * 224 * 224 * sizeof *x);
             fvg_image picture, view;
             fvg_clip_encode_classes(m, g, NULL, name, 3);                 // g [3, 512]
             fvg_image_load(c, &picture, "pet.jpg", 3);                    // RGB
             fvg_image_test_transform(c, &view, &picture, &m->preprocess); // 224 x 224 pixels
             fvg_image_normalize(c, x, &view, &m->preprocess);             // x [3, 224, 224]
             fvg_clip_encode_images(m, f, x, 1);                           // f [512]
             fvg_normalize_rows(f, 1, 512);          // score of name k: m->logit_scale * (f . g_k)

   =================================================================================================
   MANUAL
   =================================================================================================
   1. BUILD.  As fvgpt.h (its manual lists FVGPT_PTHREADS, FVGPT_NO_STDIO and others), with three
      more macros:

        FVGPT_STB_IMAGE         Read PNG, JPEG, BMP and GIF.  stb_image.h must be on the include
                                path (Debian: libstb-dev) and is compiled in here.  Without the
                                macro only PNM is read, and a file of another kind is an error that
                                names the kind and the macro.
        FVGPT_STB_IMAGE_LINKED  The program has stb_image's implementation elsewhere, so it is only
                                declared here.  Several threads may call it at once, so its
                                STBI_MALLOC must allow that.  The macro is not needed where
                                stb_image.h was included before this header; it then works as it was
                                compiled there.
        FVGPT_DIRENT            List folders through <dirent.h> (POSIX and MinGW).  Data sets
                                without a split file need it, or a listing function of yours.

      FVGPT_NO_TRAINING, of fvgpt.h, leaves out here: losses and steps, data sets, masks, views,
      runs, attention maps, and whatever writes files.  Models, checkpoints of every method, FVG-PT
      and heads are read as ever, and classifiers have the same scores, bit for bit.

   2. CONVENTIONS.  A function takes first the object that it works on, or the context, then its
      outputs, then its inputs, then a desc struct with settings.  Where it works on no object, the
      output comes first.  In a desc struct, 0 or NULL means the default that is written beside the
      field; the desc itself may be NULL where the comment says so.

      Arrays are rows of floats, [n, d] being n rows of d; labels and indices count from 0.  The
      letters are the papers': f [n, d] are features of images, g [C, d] of class names, and
      s cos(f, g) is the score, where s is the model's logit_scale.

      A function that can fail returns fvg_status, FVG_OK being 0.  fvg_error(m->ctx) then says in
      one line what was wrong.  Every function may return FVG_E_NOMEM, and FVG_E_ARG where an
      argument makes no sense; the comments name the other kinds.  *out is NULL, or zeros, after a
      failure.

      What X_new, X_open, X_load or X_copy makes is yours and goes with X_free, which accepts NULL.
      An object uses those that it was made from, so they must live longer:

        context > model > learner > views, classifier         context > data set > task, views

   3. MODELS.  A model is a folder as Hugging Face serves it (config.json, model.safetensors,
      merges.txt), or one file: safetensors, or PyTorch's (.pt, .pth, .bin, .ckpt), which is read
      but never executed.  The tensors' names may be Hugging Face's, OpenAI's or open_clip's, also
      inside the wrappers of training programs.  A model may be split over several files with an
      index.

      Sizes come from the tensors' shapes.  Where there is a configuration, it must agree with them,
      and it tells heads, activation and epsilon, with the defaults of the program that wrote it.
      Without one, heads are 64 columns wide (a width that is no multiple of 64 is an error) and the
      activation is quick_gelu.  Either tower may be
      absent.  Pictures are prepared as preprocessor_config.json or open_clip's preprocess_cfg say.

      What is not a CLIP with a class token and a causal text tower (SigLIP, CoCa, ResNet towers) is
      refused by name.  So is a setting that changes the arithmetic and is not implemented, and a
      tensor inside a tower that would not be used.

      FVG_F32 keeps matrices in panels (fvg_tensor_pack), so their data are not rows;
      fvg_clip_unpack turns them back for training whole towers.  FVG_Q8 keeps them as integers of
      eight bits, a quarter of the memory and two to three times as fast; features then have a
      cosine of about 0.999 with those of F32.  FVG_Q8_IMAGES does so with the image tower alone,
      which suits prompts that are tuned: gradients go through the text tower in f32, so that eight
      bits would save memory there and cost time.  FVG_BF16 halves the memory, in panels too; it is
      faster than f32 where the CPU is fast at products of bfloat16 (AMD's from Zen 4 on; not under
      -Os).  Elsewhere it is computed in f32, and a picture takes 5 to 25 % longer.  FVG_F16 is
      computed in f32, too, and is much slower.  Gradients and what is trained are f32 in every
      case.  examples/15_quantise.c compares FVG_F32 and FVG_Q8.

   4. WORDS.  Texts become tokens by CLIP's byte-pair encoding, for all of Unicode.  Before that
      they are normalised as clip.tokenize does it: NFC, straight quotes, ligatures, widths, HTML
      references (those of HTML 4 and some of HTML 5).  ftfy's repair of wrongly decoded text is not
      done.  A text that does not fit the context is an error that says how many tokens it has.  A
      text ends at its first [EOT].

      Class names that differ only in case, in underscores or in how many blanks stand between words
      are the same class wherever names are compared (fvg_same_name).  An empty name is an error.

   5. PICTURES.  PNM is read here; stb_image reads PNG, JPEG, BMP and GIF (its first picture), after
      the file has been checked.  What the bytes hold counts, not the file's name.

      Pixels are those of Pillow's convert("RGB"), and resizing gives the same bytes as Pillow, so a
      model sees what it saw in Python, with three exceptions: JPEG decoders differ from one another
      by a grey level here and there; 16-bit grey is scaled, with one warning, where Pillow 9.4 cuts
      it off at 255; and the centre crop rounds as torchvision does, which OpenAI and open_clip use,
      while Hugging Face's older processor cuts one pixel further up or left if 3, 7, 11, ... pixels
      are to be cut off.

      A damaged file (wrong checksum of a PNG, early end, missing restart marker) is refused, and
      the message says where the damage is.  Refused by name are: WebP, AVIF, HEIC, TIFF and others;
      arithmetic-coded, lossless and 12-bit JPEG; BMP with run lengths or OS/2's header; PNG in the
      form that Apple's tools write for telephones; and files that are not pictures (a Git LFS
      pointer, a web page, an empty file).

      EXIF rotation is not applied, as in CLIP, but a note says so once.
      fvg_dataset_desc.exif_rotate applies it to a data set, fvg_image_turn to single pictures.

   6. DATA SETS.  A data set lies in a folder ROOT, in one of three forms:

        a split file    of CoOp's form (split_zhou_*.json), {"train": [["path", label, "name"],
                        ...], "val": ..., "test": ...}; its paths are looked up in ROOT and in its
                        sub-folders
        class folders   one per class, cut 50/20/30 into train, val and test with a fixed seed;
                        val_percent changes the share of val, but never which pictures are in test
        split folders   train, test and perhaps val, each with one folder per class

      Or the desc names one of the eleven published sets (fvg_dataset_cards).  ROOT is then the
      folder DATA that holds them as CoOp lays them out, for example
      DATA/caltech-101/split_zhou_Caltech101.json, with the pictures in
      DATA/caltech-101/101_ObjectCategories.  Without its split file a set is cut anew, with a
      warning; StanfordCars and OxfordFlowers cannot be.

      Files that are not pictures are counted in one warning.  Classes that do not have a picture
      for train and one for test are left out.  fvg_dataset_check finds files that cannot be read
      before a run begins, or leaves them out.

   7. MASKS.  A mask says which pixels of a picture are foreground.  It lies in ROOT/mask under the
      picture's path relative to ROOT, with the same name, or the same stem and one of .png, .jpg,
      .jpeg, .pgm, .bmp, .gif.  A published set's masks may also lie in DATA/<its folder>/mask, for
      example DATA/caltech-101/mask/101_ObjectCategories/<class>/<stem>.png.

      White is foreground.  Masks of 0 and 1, label pictures, trimaps and cut-outs with an alpha
      channel are recognised, and one note says how they were read.  A mask that cannot be
      interpreted is an error (see fvg_mask_reading, and the beginning of chapter 31).

      The way of a mask from its file to the loss, and the functions that take it there:

        its file
          |  fvg_dataset_mask_path    finds it by the picture's path
          |  fvg__settle_reading      decides what its values mean (fvg_mask_reading)
          |  fvg__apply_reading       makes one channel of 0 and 255
          |  fvg__fit_mask            resizes it to its picture's sides, by the nearest pixel
        mask [height, width]          fvg_dataset_load returns picture and mask
          |  fvg__view_foreground     the crop and flip of the picture, by the nearest pixel
        mask [size, size]
          |  fvg_foreground_view      x * mask, x being the normalised view: outside is 0, the mean
          |                           colour; area is the share of foreground in this view
        pixels [3, size, size], area
          |  fvg_learner_encode_images    the image tower
        f_fg [d], area                fvg_views_get returns f, f_fg and area
          |  fvg__fvgpt_train_step    puts them into a fvg_fvgpt_batch
        L_FRG and L_dist              chapter 13 of fvgpt.h: f_fg and area are in u of (2), f_fg is
                                      in r* of (4) and teaches in (6), as far as r trusts it

      A picture without a mask has f_fg = f and area -1.  FVG-PT trains on it with r = 0, so that
      its distillation follows the full view, and it does not count in (4).  The same holds for an
      empty mask (area 0), as for every area outside area_min..area_max.  An inverted mask is used
      as it is: there is only a warning, and only if in more than half of the masks foreground runs
      along the whole edge.  DAPT takes the whole of an image without a mask for foreground, so its
      background is blank; a note says so.  A training set without any mask is an error.  Wrong
      masks can take FVG-PT's base classes far below its backbone's: FVG_DISTILL_STABLE prevents it,
      and fvg_train_desc has a guard.

      If you have no masks, let the model make them (chapter 39), before training:

             fvg_foreground *maker = NULL;
             if (!s) s = fvg_foreground_new(m, &maker, base.class_name, base.n_class, NULL);
             if (!s) s = fvg_foreground_mask_items(maker, &data, &base.items);
             fvg_foreground_free(maker);

      fvg_dataset_set_mask gives a picture any other mask (examples/11_own_masks.c).

   8. PROTOCOL.  A task (fvg_task) is what training and testing work on: pictures to tell apart, and
      the names to tell them by.  fvg_task_draw makes one from a split of a data set (train, val,
      test), a group of its classes (all, base, new) and a number of shots.  Base classes are the
      first half of the labels, new classes are the rest, and the labels of a task count within its
      own names.  The pictures are drawn as Dassl draws them, so the lists equal the published ones.

      In the base-to-new protocol, prompts are tuned on `shots` images of each base class and tested
      on base and on new classes, each group among its own names.  H is the harmonic mean of the two
      accuracies.  FVG-PT scores base classes by z_FDC and new classes by z_PC; a list that holds
      both kinds is scored by z_PC.  A whole program (examples/04_fvgpt.c is the longer version):

             #define FVGPT_STB_IMAGE       // the pictures are JPEG
             #define FVGPT_IMPLEMENTATION
             #include "fvgpt_clip.h"
             int main(void) {
               static fvg_dataset_desc where;  static fvg_dataset data;  // static: all zero, and
               static fvg_task_desc wanted;    static fvg_task base;     // zeros stand for defaults
               static fvg_fvgpt_desc modules;  static fvg_base_to_new result;
               fvg_views *views = NULL;
               fvg_learner *coop = NULL;
               fvg_fvgpt *fvgpt = NULL;
               fvg_clip *m = fvg_open("clip-vit-base-patch16");
               if (!m || m->failed) return puts(fvg_clip_error(m)), 1;
               where.root = "DATA";        where.dataset = "caltech101";
               wanted.group = FVG_BASE;    wanted.shots = 16;  wanted.seed = 1;
               modules.width = m->embed_dim;  modules.logit_scale = m->logit_scale;
               fvg_status s = fvg_dataset_open(m->ctx, &data, &where);
               if (!s) s = fvg_task_draw(&base, &data, &wanted);
               if (!s) s = fvg_views_new(m, &views, &data, NULL);
               if (!s) s = fvg_learner_new(m, &coop, base.class_name, base.n_class, NULL);
               if (!s) s = fvg_learner_train(coop, views, &base, NULL);          // stage 1: CoOp
               if (!s) s = fvg_fvgpt_new(m->ctx, &fvgpt, &modules);
               if (!s) s = fvg_fvgpt_train(fvgpt, coop, views, &base, NULL);     // stage 2
               if (!s) s = fvg_test_base_to_new(m, &result, &data, coop, fvgpt, NULL);
               if (s) puts(fvg_clip_error(m));
               else printf("base %.2f, new %.2f, H %.2f\n", result.base, result.new_, result.h);
               fvg_fvgpt_free(fvgpt);  fvg_views_free(views);     fvg_learner_free(coop);
               fvg_task_free(&base);   fvg_dataset_free(&data);   fvg_close(m);
               return s != FVG_OK;
             }

      What changes with another method:

        any           fvg_learner_desc.method, and in the desc of its views
                      crop_scale_min = fvg_method_crop_scale(method)
        PromptSRC, MaPLe, DAPT, MMRL, MMRL++, DePT
                      Stage 1 trains on views as above, made without a learner.  Stage 2 needs a
                      second fvg_views, made after stage 1, with desc.learner = the tuned learner.
        CoCoOp        has no stage 2

   9. METHODS.  A learner (fvg_learner) is one method of prompt tuning on one list of classes.  All
      methods have the same calls, and classifiers, checkpoints and FVG-PT accept any of them.  Only
      CoCoOp cannot be combined with FVG-PT, because its words change with the picture.

      Methods that prompt the image tower (PromptSRC, MaPLe, DAPT, MMRL, MMRL++) train on pixels,
      and so do those with a head of their own (DePT, beside the prompts of CoOp or PromptSRC).
      What they make of a picture is a row of two or three features (fvg_learner_feature_width), and
      views of a tuned learner hold such rows.  DPC makes two learners of a tuned one, for base and
      for new classes.

      fvg_learner_loss gives a learner's loss to a training loop of your own;
      examples/13_own_method.c makes a method that the library does not have.

      Settings are published for each protocol, and for some data sets, by FVG-PT's fork of the
      trainers and by the methods' own repositories.  fvg_method_recipe and fvg_fvgpt_recipe look
      them up.  A learner made without them has the fork's settings for base to new.

  10. MEMORY.  Images pass the tower 8 at a time whatever the size of the set, texts about 320
      tokens at a time.  The model keeps this working memory for the next call; fvg_clip_image_bytes
      bounds it for images, and fvg_clip_free gives it back.

      Learners compute their classes in chunks (chunk_rows).  With `recompute`, backward computes
      the image tower's blocks again instead of keeping them.  Features kept for training take 8
      bytes x width x images x crops (a view and its foreground).  A step of DPC holds all pictures
      of its enlarged batch, up to batch x (1 + top_k), at once.  To keep features after the program
      ends, give the model a store of yours (fvg_clip_set_store).

      With threads and malloc, up to 8 files are decoded at once and their pixels are in memory
      together; with an arena or an allocator of your own it is one file.  stb_image has no way to
      be given an allocator, so it always uses malloc; everything else uses the context's allocator.

  11. THREADS.  A context, and with it every model, learner and classifier, is used by one thread at
      a time.  Several threads share one set of weights through fvg_clip_share: it makes another
      model in the context of another thread, with the same weights and vocabulary but with working
      memory of its own.  Learners and classifiers are then made on each thread's model, for example
      from one checkpoint.  The last model that is freed gives the weights back.

  12. CHAPTERS.  `grep -n "^ \* CHAPTER" fvgpt_clip.h` prints them with line numbers.  They are in
      four parts, and so are the declarations below, which begin with what chapter 37 has: CLIP at
      once.

        CLIP      1 Text          2 Tokenizer    3 Images        4 Picture files   5 JPEG
                  6 Writing pictures             7 Resizing      8 Configurations  9 Names
                 10 Models       11 Opening     12 Sharing      13 Towers
        Methods  14 Learners     15 CoOp        16 KgCoOp       17 ProGrad        18 CoCoOp
                 19 PromptSRC    20 MaPLe       21 DAPT         22 MMRL           23 MMRL++
                 24 DePT
        Data     25 Protocol     26 Tasks       27 Folders      28 Data sets      29 Class folders
                 30 Published sets              31 Masks
        Runs     32 Views        33 Training    34 Tuning       35 DPC            36 Checkpoints
                 37 Classifiers  38 Attention maps              39 Foreground
        Tables   40 Unicode
*/
#ifndef FVGPT_CLIP_H
#define FVGPT_CLIP_H

#include "fvgpt.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Types that are used before the place that describes them. */
typedef struct fvg_clip         fvg_clip;
typedef struct fvg_image        fvg_image;
typedef struct fvg_dataset_card fvg_dataset_card;

/* =================================================================================================
   CLIP: pictures and words in one space                                     (chapters 1 to 13, 37)
   ============================================================================================== */

/* -------------------------------------------------------------------------------------------------
   At once: from a picture to an answer in three lines

       fvg_clip *m = fvg_open("clip-vit-base-patch16");
       int best = fvg_classify_file(m, NULL, "pet.jpg", name, 3);
       puts(best < 0 ? fvg_clip_error(m) : name[best]);

   A classifier that was made once (see RUNS) has the same call: fvg_classifier_file.
   ---------------------------------------------------------------------------------------------- */
/* Opens a model (fvg_clip_open, FVG_F32) with a context of its own, for one thread.  If the model
   cannot be opened, the result is a model on which every function of this section fails with the
   same message, so a program may test once, at its end.  NULL only if memory is exhausted; the
   functions of this section accept that too. */
FVG_DEF fvg_clip *fvg_open(const char *path);

/* Frees the model and its context.  Returns the kind of the last failure, FVG_OK if there was
   none. */
FVG_DEF fvg_status fvg_close(fvg_clip *m);

/* The last failure of the model's context in one line, "" if there was none.  The text belongs to
   the context and changes with the next failure. */
FVG_DEF const char *fvg_clip_error(const fvg_clip *m);

/* Returns the index of the name that suits a picture best, or a negative fvg_status.  The names are
   written into "a photo of a {}.".  probability [n] receives the softmax of s cos(f, g) over the
   names; NULL: not wanted.  Every call encodes the names again; for many pictures make a
   classifier. */
FVG_DEF int fvg_classify_image(fvg_clip *m, float *probability, const fvg_image *image,
                               const char *const *name, int n);

/* The normalised feature [embed_dim] of a picture with 3 channels (other numbers: FVG_E_SHAPE). */
FVG_DEF fvg_status fvg_encode_image(fvg_clip *m, float *feature, const fvg_image *image);

#ifndef FVGPT_NO_STDIO
/* The same two for picture files; errors as of fvg_image_load besides. */
FVG_DEF int fvg_classify_file(fvg_clip *m, float *probability, const char *path,
                              const char *const *name, int n);
FVG_DEF fvg_status fvg_encode_file(fvg_clip *m, float *feature, const char *path);
#endif

/* -------------------------------------------------------------------------------------------------
   Tokenizer and class names
   ---------------------------------------------------------------------------------------------- */
typedef struct fvg_tokenizer fvg_tokenizer;

/* Reads a vocabulary.  `merges` is Hugging Face's merges.txt or OpenAI's
   bpe_simple_vocab_16e6.txt (unpacked): a first line that is skipped, then one merge per line.  The
   source is read but not closed.

   vocab_size is the model's number of token embeddings: 512 byte symbols, the merges, [SOT] and
   [EOT].  0: as many merges as the file has.  Rows beyond CLIP's 49408 are tokens that somebody
   added; no text here contains them, and the ids of merges, [SOT] and [EOT] stay what they are.  A
   file with fewer merges than needed is an error (FVG_E_FORMAT); more are ignored. */
FVG_DEF fvg_status fvg_tokenizer_open(fvg_ctx *c, fvg_tokenizer **out, const fvg_source *merges,
                                      int vocab_size);

/* NULL is allowed. */
FVG_DEF void fvg_tokenizer_free(fvg_tokenizer *k);

/* The size of the tokenizer's own vocabulary, at most the model's.  The start token, [SOT], has the
   id size - 2 and the end token, [EOT], size - 1: 49406 and 49407 in the published models, however
   many tokens were added. */
FVG_DEF int fvg_tokenizer_vocab_size(const fvg_tokenizer *k);

/* Token ids of a text, without [SOT] and [EOT].  *n is the full count even if it exceeds
   `capacity`; at most `capacity` ids are stored (ids may be NULL if capacity is 0).  Bytes that are
   not UTF-8 are FVG_E_FORMAT. */
FVG_DEF fvg_status fvg_tokenize(const fvg_tokenizer *k, int *ids, int capacity, int *n,
                                const char *utf8);

/* 1 if two class names are the same after the tokenizer's normalisation (chapter 1): underscores
   are blanks, and letter case, blanks at the ends, runs of blanks (tabs and line ends too),
   decomposed letters, curly quotes and HTML references make no difference.  Names that are not
   UTF-8 are the same only if their bytes are.  A name that means the same as "" is empty. */
FVG_DEF int fvg_same_name(fvg_ctx *c, const char *a, const char *b);

/* The same for lists: match[i] becomes the index of the first of the n_among names `among` that
   means the same as name[i], or -1. */
FVG_DEF fvg_status fvg_match_names(fvg_ctx *c, int *match, const char *const *name, int n,
                                   const char *const *among, int n_among);

/* Tidies a name in place: underscores become blanks, and white space and characters that the
   tokenizer drops go from both ends. */
FVG_DEF void fvg_tidy_name(char *name);

/* -------------------------------------------------------------------------------------------------
   Images
   ---------------------------------------------------------------------------------------------- */
struct fvg_image {
  int width, height;      /* in pixels */
  int channels;           /* 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha */
  uint8_t *pixels;        /* [height, width, channels], rows top down; owned, see fvg_image_free */
  int orientation;        /* EXIF's, of a picture as decoded: 1 upright, 2 to 8 turned, 0 unknown */
};

/* Decodes a picture; the source is read but not closed.  `channels` is how many *out gets:

     3   RGB as Pillow's convert("RGB") gives it: alpha is dropped, grey repeated, EXIF not applied;
         only 16-bit grey differs, which is scaled, with a warning, instead of cut off
     1   grey, the mean of R, G and B
     0   as in the file, with a palette as RGB

   PNM is always read; PNG, JPEG, BMP and GIF (its first picture) with FVGPT_STB_IMAGE.  What the
   bytes hold counts, not the name.  Visible damage (a checksum, an early end) is FVG_E_FORMAT;
   other formats and forms are FVG_E_UNSUPPORTED.  *out is zero after a failure. */
FVG_DEF fvg_status fvg_image_decode(fvg_ctx *c, fvg_image *out, const fvg_source *s, int channels);

/* NULL is allowed; *image becomes zero. */
FVG_DEF void fvg_image_free(fvg_ctx *c, fvg_image *image);

#ifndef FVGPT_NO_STDIO
/* fvg_image_decode for a file; FVG_E_IO if it cannot be read. */
FVG_DEF fvg_status fvg_image_load(fvg_ctx *c, fvg_image *out, const char *path, int channels);

#ifndef FVGPT_NO_TRAINING
/* Writes a file whose kind its name tells: .png; .ppm (3 channels), .pgm (1) or .pnm (1 or 3).
   Other names are FVG_E_UNSUPPORTED. */
FVG_DEF fvg_status fvg_image_save(fvg_ctx *c, const fvg_image *image, const char *path);

/* The n bytes of a PNG file of 8 bits a channel; they go back with fvg_bytes_free. */
FVG_DEF fvg_status fvg_image_encode_png(fvg_ctx *c, uint8_t **bytes, size_t *n,
                                        const fvg_image *image);
#endif /* FVGPT_NO_TRAINING */

/* With turn 1, turns a picture upright by its own orientation; with turn 0, leaves it as it is and
   says so, once per context.  `file` is its name in that message. */
FVG_DEF fvg_status fvg_image_upright(fvg_ctx *c, fvg_image *image, const char *file, int turn);
#endif

/* Turns and mirrors a picture in place, so that one with this EXIF orientation (0 and 1: nothing to
   do) stands upright: fvg_image_turn(c, &image, image.orientation).  From 5 on width and height
   change places.  image->orientation is 1 afterwards. */
FVG_DEF fvg_status fvg_image_turn(fvg_ctx *c, fvg_image *image, int orientation);

#ifndef FVGPT_NO_TRAINING
/* Makes a mask of one channel, in place: 255 where the mean of the colour channels divided by 255
   is above `threshold`, else 0.  threshold 0: 0.5; negative: 0; it must be below 1. */
FVG_DEF fvg_status fvg_image_binarise(fvg_ctx *c, fvg_image *image, float threshold);
#endif /* FVGPT_NO_TRAINING */

/* -------------------------------------------------------------------------------------------------
   Preprocessing: from pixels of any size to what the image tower takes in

   `out` is a new image, must not be `in`, and goes back with fvg_image_free.
   ---------------------------------------------------------------------------------------------- */
/* How pixels are resampled. */
typedef enum fvg_filter { FVG_BICUBIC = 0, FVG_NEAREST, FVG_BILINEAR } fvg_filter;

/* Resizes to width x height: bicubic (a = -0.5) or bilinear, both antialiased in 22-bit fixed
   point, or nearest.  The bytes are Pillow's for 1 and 3 channels.  With alpha each channel is
   resized by itself, where Pillow multiplies colours by alpha first.  FVG_E_UNSUPPORTED if the
   picture between the two passes has too many pixels; so it is for the next two. */
FVG_DEF fvg_status fvg_image_resize(fvg_ctx *c, fvg_image *out, const fvg_image *in, int width,
                                    int height, fvg_filter filter);

typedef enum fvg_resize_mode {
  FVG_RESIZE_SHORTEST = 0,           /* the shorter side becomes `resize`; the aspect is kept */
  FVG_RESIZE_SQUASH                  /* both sides become `resize` */
} fvg_resize_mode;

/* How a model wants its pictures: resized, cut to the square that the tower sees, normalised. */
typedef struct fvg_preprocess {
  int size;                          /* side of the centre square, the tower's image_size */
  int resize;                        /* pixels of a side after resizing, at least `size` */
  fvg_resize_mode resize_mode;       /* which side that is */
  fvg_filter filter;                 /* of the resizing */
  float mean[3], std[3];             /* of R, G, B in 0..1 */
} fvg_preprocess;

/* OpenAI's: the shorter side becomes `size`, bicubic; CLIP's means and deviations. */
FVG_DEF fvg_preprocess fvg_preprocess_defaults(int size);

/* The test transform: resizes, and cuts out the centre [size, size].  A mask goes the same way as
   its picture if the filter in a copy of *p is FVG_NEAREST. */
FVG_DEF fvg_status fvg_image_test_transform(fvg_ctx *c, fvg_image *out, const fvg_image *in,
                                            const fvg_preprocess *p);

#ifndef FVGPT_NO_TRAINING
typedef struct fvg_crop {
  int top, left, height, width;      /* a box of pixels */
  int flip;                          /* 1: mirrored left to right afterwards */
} fvg_crop;

/* torchvision's RandomResizedCrop box (sides 3:4 to 4:3) for an image of width x height, and a fair
   coin for the flip.  The crop's share of the area lies in scale_min..scale_max; published: 0.08
   and 1.  If no box fits in ten tries, as in very long pictures, it is the largest centred box of
   sides 3:4 to 4:3, whatever its share. */
FVG_DEF fvg_crop fvg_crop_random(fvg_rng *r, int width, int height, double scale_min,
                                 double scale_max);

/* Crops a box, resizes it to size x size, and mirrors it if crop->flip.  FVG_E_ARG if the box does
   not lie inside the image. */
FVG_DEF fvg_status fvg_image_resized_crop(fvg_ctx *c, fvg_image *out, const fvg_image *in,
                                          const fvg_crop *crop, int size, fvg_filter filter);
#endif /* FVGPT_NO_TRAINING */

/* chw [3, height, width] = (pixel / 255 - mean) / std with p's constants.  FVG_E_SHAPE unless the
   image has 3 channels. */
FVG_DEF fvg_status fvg_image_normalize(fvg_ctx *c, float *chw, const fvg_image *image,
                                       const fvg_preprocess *p);

#ifndef FVGPT_NO_TRAINING
/* The foreground view of a normalised image x [3, height, width]: fg [3, height, width] is x where
   the mask (one channel, of the same size) is not 0.  What it is elsewhere, `black` says.  NULL:
   0, which is the mean colour; else black in the units of that preprocessing.  Returns the share of
   foreground, 0 to 1. */
FVG_DEF float fvg_foreground_view(float *fg, const float *x, const fvg_image *mask,
                                  const fvg_preprocess *black);
#endif /* FVGPT_NO_TRAINING */

/* -------------------------------------------------------------------------------------------------
   Models

   Shapes are given as rows.  The data of a matrix may lie in panels (type FVG_F32_PANELS, FVG_Q8 or
   FVG_BF16_PANELS) or in half precision.
   ---------------------------------------------------------------------------------------------- */
/* The image tower: tokens of patches and a class token, transformer, projection (chapter 13). */
typedef struct fvg_vision_tower {
  int image_size, patch_size;        /* in pixels a side */
  int n_token, width;                /* n_token: the class token and the patches */
  fvg_tensor patch_weight;           /* [width, 3 patch_size patch_size], no bias */
  fvg_tensor class_embedding, position_embedding;      /* [width], [n_token, width] */
  fvg_tensor ln_pre_weight, ln_pre_bias, ln_post_weight, ln_post_bias;     /* [width] each */
  fvg_tensor projection;             /* [embed_dim, width] */
  fvg_transformer transformer;       /* its blocks */
} fvg_vision_tower;

/* The text tower: tokens, causal transformer, projection of the row of [EOT]. */
typedef struct fvg_text_tower {
  int context_length, vocab_size, width;               /* vocab_size: all rows of token_embedding */
  int end_token;                     /* the id of [EOT] in config.json, with [SOT] one below it; 0:
                                        config.json gives no usable id */
  fvg_tensor token_embedding, position_embedding;      /* [vocab_size, width],
                                                          [context_length, width] */
  fvg_tensor ln_final_weight, ln_final_bias, projection;     /* [width], [width],
                                                                [embed_dim, width] */
  fvg_transformer transformer;       /* its blocks */
} fvg_text_tower;

/* A model.  It is used by one thread at a time, as its context is. */
struct fvg_clip {
  fvg_ctx *ctx;                      /* where its memory comes from and its messages go */
  int   has_vision, has_text;        /* 1 if it has that tower */
  fvg_dtype kept_as;                 /* how its matrices are kept: FVG_F32, F16, BF16, Q8 or
                                        Q8_IMAGES */
  int   embed_dim;                   /* d, the width of features */
  float logit_scale;                 /* s, already exponentiated: exp(the file's logit_scale), 100
                                        in OpenAI's models */
  fvg_vision_tower vision;           /* zero without an image tower */
  fvg_preprocess preprocess;         /* from the model's files; every path to pixels follows it */
  fvg_text_tower text;               /* zero without a text tower */
  fvg_tokenizer *tokenizer;          /* NULL: texts cannot be encoded */
  void **owned; int n_owned;         /* the memory of the tensors */
  fvg_tape *tape;                    /* working memory of the encoders, kept from call to call */
  struct fvg__shared *shared;        /* the weights, if other models use them (fvg_clip_share) */
  int counts_shared;                 /* 1: this model's context counts their bytes */
  int owns_context;                  /* 1: made by fvg_open */
  fvg_status failed;                 /* why fvg_open could not open it, else FVG_OK */
  const struct fvg_store *store;     /* where features are kept, see fvg_clip_set_store */
  uint64_t image_key[2];             /* as fvg_clip_image_key gives it, once has_image_key is 1 */
  int has_image_key;
};

/* Makes a model from weights with Hugging Face's, OpenAI's or open_clip's names, also inside the
   wrappers of training programs.  The weights stay yours and may be closed afterwards.

   config_json is the text of Hugging Face's config.json or of open_clip's (with model_cfg, or only
   what that contains).  NULL: sizes from the shapes, heads of 64 columns, quick_gelu.
   keep_as: FVG_F32 and FVG_BF16 keep the matrices in panels for the kernels (fvg_tensor_pack),
   FVG_F16 in rows.  FVG_BF16 and FVG_F16 take half the memory of FVG_F32, FVG_Q8 a quarter
   (fvg_tensor_quantise); FVG_Q8_IMAGES is FVG_Q8 for the image tower and FVG_F32 for the text
   tower.  A file of fvg_clip_quantise is kept as FVG_Q8 for FVG_F32 and FVG_Q8_IMAGES too, which a
   note says; FVG_F16 and FVG_BF16 are then FVG_E_UNSUPPORTED.

   FVG_E_UNSUPPORTED names the tensor or setting that is not implemented; FVG_E_SHAPE: shapes and
   configuration disagree; FVG_E_FORMAT: the configuration is not JSON, or a tensor is missing;
   FVG_E_NUMERIC: a weight is not finite. */
FVG_DEF fvg_status fvg_clip_load(fvg_ctx *c, fvg_clip **out, fvg_weights *weights,
                                 const char *config_json, fvg_dtype keep_as);

#ifndef FVGPT_NO_STDIO
/* Opens a model from its files.  `path` is a folder with

     weights         model.safetensors, open_clip_model.safetensors, pytorch_model.bin or
                     open_clip_pytorch_model.bin, as one file or as several with their .index.json
     configurations  config.json, open_clip_config.json, preprocessor_config.json
     a vocabulary    merges.txt or bpe_simple_vocab_16e6.txt

   or one file of weights, safetensors or PyTorch's, whatever its ending (fvg_weights_open_any),
   with the other files beside it.  If there are two configurations, the one by the publisher of the
   tensors' names counts.  `merges` is the vocabulary's path; NULL: in the folder, beside it, or in
   a folder `model` beside its parent.  A missing vocabulary is not an error until a text is to be
   encoded.  Errors as of fvg_clip_load, and FVG_E_IO. */
FVG_DEF fvg_status fvg_clip_open(fvg_ctx *c, fvg_clip **out, const char *path, const char *merges,
                                 fvg_dtype keep_as);

#ifndef FVGPT_NO_TRAINING
/* Writes the model at `path`, a folder or a file as above, to the file `out` with eight-bit
   weights: safetensors, under the model's own names.  A matrix NAME becomes I8 [n, k], and
   NAME_scale F32 [n, 1] beside it has the scale of each row.  The model's other tensors stay as
   they are, and what is no part of it is left out.
   The file is opened like any other, so the configurations and the vocabulary belong beside it.

   Errors as of fvg_clip_open; FVG_E_UNSUPPORTED if the weights have eight bits already. */
FVG_DEF fvg_status fvg_clip_quantise(fvg_ctx *c, const char *path, const char *out);
#endif /* FVGPT_NO_TRAINING */
#endif

/* NULL is allowed.  What was made from the model must be freed before.  The context of a model of
   fvg_open goes with it, as with fvg_close. */
FVG_DEF void fvg_clip_free(fvg_clip *m);

/* Sets m->preprocess from the text of Hugging Face's preprocessor_config.json or
   processor_config.json, or of a file with open_clip's preprocess_cfg.  `name` is the file in
   messages.  fvg_clip_open calls it; fvg_clip_load knows only a preprocess_cfg inside config_json.
   FVG_E_UNSUPPORTED names a step that is not implemented; FVG_E_FORMAT and FVG_E_SHAPE: the text,
   or a size in it, cannot be. */
FVG_DEF fvg_status fvg_clip_set_preprocess(fvg_clip *m, const char *json, const char *name);

/* Gives a model the vocabulary that s holds (see fvg_tokenizer_open) in place of the one it has.  s
   stays open.  FVG_E_ARG once the model has been shared (fvg_clip_share), even if no other model
   is left. */
FVG_DEF fvg_status fvg_clip_set_vocabulary(fvg_clip *m, const fvg_source *s);

#ifndef FVGPT_NO_TRAINING
/* Puts the matrices of a model that was loaded as FVG_F32 back into rows, as fvg_tape_train needs
   them.  The model computes as before, but slower.  Matrices in half precision stay as they are.
   Nodes made of the model before become invalid.  FVG_E_NOMEM: some matrices are rows and some are
   not; the model can still be used.  FVG_E_ARG once the model has been shared. */
FVG_DEF fvg_status fvg_clip_unpack(fvg_clip *m);
#endif /* FVGPT_NO_TRAINING */

/* The number of the model's weights, logit_scale included. */
FVG_DEF size_t fvg_clip_parameter_count(const fvg_clip *m);

/* -------------------------------------------------------------------------------------------------
   Sharing: one set of weights for many threads
   ---------------------------------------------------------------------------------------------- */
/* Makes another model with the weights of m in c, the context of another thread.  Weights and
   vocabulary are in memory once, are only read, and are freed with the last model that uses them;
   models may be freed in any order and by any thread.  Preprocessing and working memory are each
   model's own, and so are its learners.

   While this function runs, no other call may use m or its context.  FVG_E_ARG: c is m's own
   context or works at another SIMD level than m, or one of the contexts has an arena.  From then on
   fvg_clip_unpack is refused.

   The weights go back to the allocator of the context that loaded them, from the thread that frees
   the last model.  An allocator of your own must therefore be thread-safe and live longer than all
   these models; malloc is and does.  With a compiler other than gcc, clang and MSVC there is no
   atomic counter, and such models must be freed one at a time. */
FVG_DEF fvg_status fvg_clip_share(fvg_ctx *c, fvg_clip **out, fvg_clip *m);

/* -------------------------------------------------------------------------------------------------
   Encoding

   FVG_E_ARG if the model does not have the tower, FVG_E_NUMERIC if a feature is not finite.
   ---------------------------------------------------------------------------------------------- */
/* images [n, 3, image_size, image_size] -> features [n, embed_dim], not normalised.  8 images pass
   the tower at a time. */
FVG_DEF fvg_status fvg_clip_encode_images(fvg_clip *m, float *features, const float *images, int n);

#ifndef FVGPT_NO_TRAINING
#ifndef FVGPT_NO_STDIO
/* n picture files through the test transform -> features [n, embed_dim], not normalised.  The files
   are decoded by as many threads as there are, and what the model's store has is not encoded again
   (fvg_clip_set_store).  exif_rotate: as in fvg_dataset_desc.  The first file that cannot be read
   is the error, as of fvg_image_load. */
FVG_DEF fvg_status fvg_clip_encode_files(fvg_clip *m, float *features, const char *const *path,
                                         int n, int exif_rotate);
#endif
#endif /* FVGPT_NO_TRAINING */

/* The most bytes that fvg_clip_encode_images adds to the model, which keeps them; from n = 8 on
   they do not grow.  0 without an image tower.  (fvg_clip_encode_texts uses the same working memory
   and may have taken more.) */
FVG_DEF size_t fvg_clip_image_bytes(const fvg_clip *m, int n);

/* n texts -> features [n, embed_dim], not normalised; n >= 1.  FVG_E_ARG for a text of more tokens
   than the context holds, FVG_E_FORMAT for one that is not UTF-8. */
FVG_DEF fvg_status fvg_clip_encode_texts(fvg_clip *m, float *features, const char *const *texts,
                                         int n);

/* The weights of the zero-shot classifier: class names, with blanks for underscores, are written
   into a template with one {} (NULL: "a photo of a {}.") and encoded.  features
   [n_class, embed_dim], normalised.  An empty name is FVG_E_ARG. */
FVG_DEF fvg_status fvg_clip_encode_classes(fvg_clip *m, float *features,
                                           const char *prompt_template,
                                           const char *const *class_name, int n_class);

/* The same for an ensemble of n_template templates: the mean of the normalised features, normalised
   again, which is how zero-shot CLIP is usually published. */
FVG_DEF fvg_status fvg_clip_encode_ensemble(fvg_clip *m, float *features,
                                            const char *const *prompt_template, int n_template,
                                            const char *const *class_name, int n_class);

/* Lists of templates that were published for that, *n in number (n may be NULL). */
typedef enum fvg_templates {
  FVG_TEMPLATES_SELECTED = 0,        /* the seven that CLIP's authors selected for ImageNet; for
                                        other sets CoOp adds the set's own (fvg_dataset_card) */
  FVG_TEMPLATES_PROMPTSRC            /* the sixty that PromptSRC averages over */
} fvg_templates;
FVG_DEF const char *const *fvg_template_list(fvg_templates list, int *n);

/* Both towers as nodes [n, embed_dim], not normalised, for training whole towers: with
   fvg_tape_train, gradients reach every weight that is listed there.  images and texts are copied.
   The tape and m must have the same context.  NULL on failure, with the message in the context. */
FVG_DEF fvg_node *fvg_clip_image_features(fvg_tape *t, const fvg_clip *m, const float *images,
                                          int n);
#ifndef FVGPT_NO_TRAINING
FVG_DEF fvg_node *fvg_clip_text_features(fvg_tape *t, const fvg_clip *m, const char *const *texts,
                                         int n);
#endif

/* Divides each row of x [n, d] by its length, in place.  Rows of zeros stay. */
FVG_DEF void fvg_normalize_rows(float *x, int n, int d);

/* =================================================================================================
   METHODS: prompt tuning                                                       (chapters 14 to 24)
   ============================================================================================== */

/* -------------------------------------------------------------------------------------------------
   Methods, their options and their published settings
   ---------------------------------------------------------------------------------------------- */
typedef struct fvg_method fvg_method;

/* The method "CoOp", "KgCoOp", "ProGrad", "CoCoOp", "PromptSRC", "MaPLe", "DAPT", "MMRL", "MMRLpp"
   (MMRL++), "DePT_CoOp" or "DePT_PromptSRC"; NULL: there is none of that name. */
FVG_DEF const fvg_method *fvg_method_find(const char *name);

/* Method i = 0, 1, ...; NULL after the last. */
FVG_DEF const fvg_method *fvg_method_at(int i);

/* The method's name, a constant.  A method that is NULL has the name "", and no settings. */
FVG_DEF const char *fvg_method_name(const fvg_method *method);

/* What the method reads of pictures in training, as fvg_learner_needs. */
FVG_DEF int fvg_method_needs(const fvg_method *method);

#ifndef FVGPT_NO_TRAINING
/* How the method is trained unless you say otherwise: optimiser, rate, epochs, and *batch (may be
   NULL).  These are the settings of FVG-PT's fork where it has the method, the same as in the
   recipe for FVG_FORK, base to new and a data set that is not a published one. */
FVG_DEF fvg_optimizer_desc fvg_method_optimizer(const fvg_method *method, int *batch);

/* The least share of a picture's area in the random crops for training: 0.08; 0.5 for MMRL and
   MMRL++. */
FVG_DEF float fvg_method_crop_scale(const fvg_method *method);

/* The template that the method's authors use for a published set; NULL if card is NULL. */
FVG_DEF const char *fvg_method_template(const fvg_method *method, const fvg_dataset_card *card);
#endif /* FVGPT_NO_TRAINING */

/* A number that belongs to one method, such as a weight in its loss. */
typedef struct fvg_option {
  const char *name;                  /* as fvg_method_option gives it */
  double value;                      /* within its bounds */
} fvg_option;

enum { FVG_RECIPE_OPTIONS = 12 };    /* no method has more options */

/* Option i = 0, 1, ... of a method: its name and published value, and the bounds that a value must
   keep.  Returns 0 after the last. */
FVG_DEF int fvg_method_option(const fvg_method *method, fvg_option *option, double *low,
                              double *high, int i);

#ifndef FVGPT_NO_TRAINING
/* Whose settings.  FVG_FORK is FVG-PT's fork of the trainers, from which the paper's tables come;
   FVG_ORIGINAL are the methods' own repositories.  What one of them does not say is as in the fork
   for base to new.  Methods that are not in the fork have their authors' settings in both.
   Chapter 33 has the table and its sources. */
typedef enum fvg_preset { FVG_FORK = 0, FVG_ORIGINAL } fvg_preset;

/* What they were published for. */
typedef enum fvg_protocol { FVG_BASE_TO_NEW = 0, FVG_FEW_SHOT, FVG_CROSS_DATA } fvg_protocol;

/* Settings as published. */
typedef struct fvg_recipe {
  fvg_optimizer_desc optimizer;      /* complete: a 0 here is the number 0, not a default */
  int batch;                         /* images a step */
  int n_ctx;                         /* context vectors; 0: the method's */
  /* The options whose values differ from the method's own. */
  fvg_option option[FVG_RECIPE_OPTIONS]; int n_option;
} fvg_recipe;

/* Stage 1: the settings of a method on a published set (card NULL: on any other) with so many shots
   (0: 16). */
FVG_DEF void fvg_method_recipe(const fvg_method *method, fvg_recipe *out, fvg_preset preset,
                               fvg_protocol protocol, const fvg_dataset_card *card, int shots);

/* Stage 2: the settings of FVG-PT on that method, the same for every preset and protocol. */
FVG_DEF void fvg_fvgpt_recipe(const fvg_method *method, fvg_recipe *out,
                              const fvg_dataset_card *card);
#endif /* FVGPT_NO_TRAINING */

/* -------------------------------------------------------------------------------------------------
   Learners: a method on a list of classes
   ---------------------------------------------------------------------------------------------- */
/* Where the class name stands among the context vectors. */
typedef enum fvg_position { FVG_END = 0, FVG_MIDDLE, FVG_FRONT } fvg_position;

typedef struct fvg_learner_desc {
  const fvg_method *method;          /* CoOp */
  /* The words that the context starts from.  NULL: the method's ("a photo of a"; for ProGrad what
     stands before {} in prompt_template; CoOp and DePT_CoOp have none).  Without words, or with "",
     the context starts from N(0, 0.02^2).  Chapter 14 says which of the words' tokens are
     learned. */
  const char *ctx_init;
  /* Context vectors.  The method's: 4; ProGrad and DePT_CoOp 16; MaPLe and DAPT 2.  With ctx_init,
     CoOp, KgCoOp, CoCoOp and DePT_CoOp have one vector for each word instead.  MMRL and MMRL++ do
     not use it. */
  int n_ctx;
  /* The next two are for CoOp, KgCoOp, ProGrad, CoCoOp and DePT_CoOp only; others refuse them
     (FVG_E_ARG). */
  int class_specific;                /* 1: a context of its own for each class (CSC) */
  fvg_position class_token_position; /* at the end */
  const char *prompt_template;       /* the data set's, for methods that stay near zero-shot CLIP;
                                        NULL: "a photo of a {}."  Stage 2 and classifiers do not
                                        take it from the learner: set it in their descs as well */
  const fvg_option *option; int n_option;    /* options not listed have their published values */
  /* 320: how many tokens of the classes are encoded at once.  If the classes have more, a step
     computes every chunk twice, in the memory of one (0.4 MB a token for ViT-B).  Loss and gradient
     are the same up to rounding. */
  int chunk_rows;
  int recompute;                     /* 1: backward computes the image tower's blocks again: about
                                        half more work, but memory for one block only */
  uint64_t seed;                     /* of the vectors' random start */
} fvg_learner_desc;

typedef struct fvg_learner fvg_learner;

/* A learner for n_class classes; desc may be NULL.  Names, template and words are copied.
   FVG_E_ARG: the model lacks a tower or vocabulary that the method needs, or an option is unknown
   or out of bounds. */
FVG_DEF fvg_status fvg_learner_new(fvg_clip *m, fvg_learner **out, const char *const *class_name,
                                   int n_class, const fvg_learner_desc *desc);

#ifndef FVGPT_NO_TRAINING
/* Another learner with the same settings, classes and values, on the same CLIP. */
FVG_DEF fvg_status fvg_learner_copy(fvg_learner **out, const fvg_learner *l);

/* Tells what a learner was made from, as fvg_learner_new takes it; ctx_init "" if its context began
   without words.  Words and template stay the learner's; the values of all its options are written
   to option [FVG_RECIPE_OPTIONS]. */
FVG_DEF void fvg_learner_made_from(const fvg_learner *l, fvg_learner_desc *out, fvg_option *option);

/* Tells why `have` is not what `want` was made to be, as the end of a sentence about `have`: "by
   another method", "on other classes", "with another template", ...  NULL: method, classes and
   settings are the same.  What they have learned does not count. */
FVG_DEF const char *fvg_learner_difference(const fvg_learner *have, const fvg_learner *want);
#endif /* FVGPT_NO_TRAINING */

/* NULL is allowed. */
FVG_DEF void fvg_learner_free(fvg_learner *l);

/* The name of its method, a constant. */
FVG_DEF const char *fvg_learner_method(const fvg_learner *l);

/* Its *n class names; they belong to the learner. */
FVG_DEF const char *const *fvg_learner_class_names(const fvg_learner *l, int *n);

/* Its *n parameters, that is, all that trains, under the published names; they belong to the
   learner.  CoOp's ctx is [n_ctx, width], or [n_class, n_ctx, width] with CSC. */
FVG_DEF fvg_parameter *const *fvg_learner_parameters(const fvg_learner *l, int *n);

/* The parameter of that name; NULL: there is none. */
FVG_DEF fvg_parameter *fvg_learner_parameter(const fvg_learner *l, const char *name);

/* 1 if a linear head has a share in the scores of base classes (DePT).  It is a part of the learner
   and trained with its prompts; an fvg_head is a classifier by itself.  FVG_TUNED and
   FVG_BRANCH_BASE then know only classes that the learner was tuned on, in any order, and FVG-PT's
   z_full is what FVG_TUNED_NEW scores, without the head. */
FVG_DEF int fvg_learner_has_head(const fvg_learner *l);

/* -------------------------------------------------------------------------------------------------
   Training steps of a learner, for a training loop of your own (RUNS has a ready one)
   ---------------------------------------------------------------------------------------------- */
/* What a method reads of a step's pictures, as a sum.  Methods that prompt the image tower and
   those with a head read the pixels, DAPT pixels_fg too; all but MaPLe, DAPT and DePT_CoOp read
   f_clip. */
enum { FVG_NEEDS_FEATURES = 1, FVG_NEEDS_PIXELS = 2, FVG_NEEDS_FOREGROUND = 4 };
FVG_DEF int fvg_learner_needs(const fvg_learner *l);

/* The pictures of one step.  What the method does not need may be NULL. */
typedef struct fvg_batch {
  int n, epoch;                      /* pictures, at least 1; epoch 0, 1, ... */
  const int *label;                  /* [n], each below the learner's number of classes */
  const float *f_clip;               /* [n, embed_dim] zero-shot CLIP's features, unit length */
  const float *pixels, *pixels_fg;   /* [n, 3, image_size, image_size]: the picture, and the picture
                                        times its mask; without a mask it is the picture again */
} fvg_batch;

#ifndef FVGPT_NO_TRAINING
/* The method's whole loss as a node [1, 1].  (ProGrad's is its cross-entropy, because only a step
   changes its gradient.)  The batch's arrays and the learner must stay as they are until the tape
   is reset.  NULL on failure. */
FVG_DEF fvg_node *fvg_learner_loss(fvg_learner *l, fvg_tape *t, const fvg_batch *batch);

/* One training step: gradients, then the optimiser, which holds the learner's parameters, at rate
   lr.  *loss is the value before the step (NULL: not wanted).  FVG_E_ARG: the batch lacks something
   that the method needs. */
FVG_DEF fvg_status fvg_learner_step(fvg_learner *l, float *loss, fvg_optimizer *o, double lr,
                                    const fvg_batch *batch);

/* What a method does at the end of epoch 0 .. n_epochs - 1.  PromptSRC averages its prompts over
   the epochs and takes the average after the last.  A loop of your own must call it;
   fvg_learner_train does so itself. */
FVG_DEF fvg_status fvg_learner_epoch(fvg_learner *l, int epoch, int n_epochs);
#endif /* FVGPT_NO_TRAINING */

/* -------------------------------------------------------------------------------------------------
   Features of a learner
   ---------------------------------------------------------------------------------------------- */
/* g [n_class, embed_dim]: normalised text features of any class names (with CSC: of the trained
   ones).  FVG_E_UNSUPPORTED for CoCoOp, whose words depend on the picture. */
FVG_DEF fvg_status fvg_learner_text_features(fvg_learner *l, float *g,
                                             const char *const *class_name, int n_class);

/* A classifier reads a row of this width of every picture.  The row has 1 to 3 parts of
   [embed_dim], in this order:

     f         the feature, of unit length
     f_clip    zero-shot CLIP's feature, of unit length, if the method prompts the image tower or
               has a head (in DePT_CoOp's row it is f again)
     f_score   what base classes are scored by, if that is another vector than f: MMRL's and
               MMRL++'s alpha f + (1 - alpha) f_r, which is shorter than 1
     f_raw     f before it got unit length, in the place of f_score: what DePT's head reads

   l NULL: zero-shot CLIP, whose row is f alone. */
FVG_DEF int fvg_learner_feature_width(const fvg_clip *m, const fvg_learner *l);

/* The parts of such a row by name.  A part that the method does not have is f. */
typedef struct fvg_features {
  const float *f;                    /* [embed_dim] from the learner's own image tower */
  const float *f_clip;               /* [embed_dim] zero-shot CLIP's */
  const float *f_score;              /* [embed_dim] what base classes are scored by */
  const float *f_raw;                /* [embed_dim] what a head reads; NULL: there is none */
} fvg_features;

/* The parts of one row; they point into it.  Where n rows follow one another, each part of the next
   row is one feature width further on.  l NULL: rows of zero-shot CLIP. */
FVG_DEF fvg_features fvg_learner_features(const fvg_clip *m, const fvg_learner *l,
                                          const float *row);

/* images [n, 3, image_size, image_size] -> such rows [n, feature width].  l NULL: rows of zero-shot
   CLIP. */
FVG_DEF fvg_status fvg_learner_encode_images(fvg_clip *m, fvg_learner *l, float *features,
                                             const float *images, int n);

#ifndef FVGPT_NO_TRAINING
/* =================================================================================================
   DATA: pictures, labels, masks, and what is drawn from them                   (chapters 25 to 31)
   ============================================================================================== */

/* -------------------------------------------------------------------------------------------------
   Data sets
   ---------------------------------------------------------------------------------------------- */
/* A picture.  Its path is relative to the data set's root and belongs to the data set. */
typedef struct fvg_item {
  const char *path;
  int label;                         /* index of its class name */
} fvg_item;

/* A list of pictures: the array is owned (fvg_items_free), the paths are not. */
typedef struct fvg_items {
  fvg_item *item;                    /* [n] */
  int n;                             /* pictures */
} fvg_items;

/* One of the eleven published sets, as CoOp lays it out below a folder DATA. */
struct fvg_dataset_card {
  const char *key, *name;            /* caltech101; Caltech101 in configurations */
  const char *folder, *images;       /* the pictures are in DATA/<folder>/<images>; images may be
                                        "" */
  const char *split_file;            /* in DATA/<folder>; NULL: the split is made from the set's own
                                        lists or folders */
  const char *prompt_template;       /* written by hand for zero-shot CLIP */
  const char *kgcoop_template;       /* the same in KgCoOp */
  const char *prograd_template;      /* and in ProGrad, whose context starts from its words */
};

/* The card with this key or name, in any letter case; NULL: unknown. */
FVG_DEF const fvg_dataset_card *fvg_dataset_card_find(const char *key);

/* All of them, *n (may be NULL) in number. */
FVG_DEF const fvg_dataset_card *fvg_dataset_cards(int *n);

/* What in a mask is foreground.  Published masks are grey pictures.  Others show by their values
   what they are; one that does not is an error that names these readings. */
typedef enum fvg_mask_reading {
  FVG_MASK_AUTO = 0,                 /* as each mask's own values show (chapter 31 has the rules) */
  FVG_MASK_GREY,                     /* where the channels' mean is above mask_threshold times
                                        white; 0.5 unless you set it */
  FVG_MASK_INVERTED,                 /* the reading that AUTO would choose (in doubt GREY), swapped:
                                        borders become foreground too */
  FVG_MASK_LABELS,                   /* everything except black and VOC's border, which is 255 among
                                        small labels, or (224,224,192) */
  FVG_MASK_TRIMAP,                   /* where it is 1; 2, the background, and 3, the border, are
                                        background (Oxford-IIIT) */
  FVG_MASK_ALPHA                     /* the alpha channel, read as AUTO reads a grey mask */
} fvg_mask_reading;

/* The split of a data set that a picture belongs to. */
typedef enum fvg_split { FVG_TRAIN = 0, FVG_VAL, FVG_TEST } fvg_split;

/* A picture in memory, for fvg_dataset_of_pictures. */
typedef struct fvg_picture {
  fvg_image image;                   /* 3 channels */
  fvg_image mask;                    /* 1 channel of that size, 255 inside; pixels NULL: no mask */
  int label;                         /* 0 .. n_class - 1 */
  fvg_split split;                   /* train, val or test */
} fvg_picture;

typedef struct fvg_dataset {
  fvg_ctx *ctx;                      /* where its memory comes from and its messages go */
  char *root;                        /* as in the desc */
  const fvg_dataset_card *card;      /* the published set; NULL: a plain root */
  char *split_file;                  /* the split JSON in use; NULL: there is none */
  fvg_items train, val, test;        /* the splits; val may be empty */
  char **class_name; int n_class;    /* [n_class] by label; blanks stand for underscores */
  char *paths;                       /* storage of the strings */
  fvg_mask_reading mask_reading;     /* as in the desc */
  int *masks_told;                   /* 1: how masks are read has been logged, once for the set */
  struct fvg__mask_store *masks;     /* masks that fvg_dataset_set_mask was given */
  int exif_rotate;                   /* as in the desc; may be changed at any time */
  const fvg_picture *picture;        /* [n_picture] of a data set in memory, else NULL */
  int n_picture;
} fvg_dataset;

/* Lists a folder: calls entry(arg, name, is_folder) for each name but . and .. ; is_folder is 1 for
   a folder, 0 for a file, negative for anything else (a pipe, a device).  Returns non-zero if the
   folder cannot be opened. */
typedef int (*fvg_list_fn)(void *user, const char *folder,
                           void (*entry)(void *arg, const char *name, int is_folder), void *arg);

#ifdef FVGPT_DIRENT
/* The fvg_list_fn of <dirent.h>; `user` is not used. */
FVG_DEF int fvg_list_folder(void *user, const char *folder,
                            void (*entry)(void *arg, const char *name, int is_folder), void *arg);
#endif

/* folder/name as a new string, which goes back with fvg_release; NULL if memory is exhausted or an
   argument is NULL. */
FVG_DEF char *fvg_path_join(fvg_ctx *c, const char *folder, const char *name);

#ifndef FVGPT_NO_STDIO
/* A list of file names. */
typedef struct fvg_names {
  const char **name; int n;          /* [n] the names */
  char *text;                        /* their storage */
} fvg_names;
FVG_DEF fvg_status fvg_list_pictures(fvg_ctx *c, fvg_names *out, const char *folder);
FVG_DEF void fvg_names_free(fvg_ctx *c, fvg_names *x);
#endif

typedef struct fvg_dataset_desc {
  const char *root;                  /* the folder; no default */
  const char *split;                 /* the split JSON: a path, or a name in root or in the
                                        published set's folder; NULL: the one found there */
  fvg_list_fn list; void *list_user; /* NULL: <dirent.h>'s if built with FVGPT_DIRENT; without it
                                        only split files work */
  const char *dataset;               /* key or name of a published set, whose DATA is root; NULL: a
                                        plain root */
  int val_percent;                   /* 20: val's share of a class's pictures where class folders
                                        are cut; negative: none, so that train gets them */
  fvg_mask_reading mask_reading;     /* as each mask's own values show */
  int exif_rotate;                   /* 1: pictures are turned upright by their EXIF data, and masks
                                        that lie as the file does with them; 0: as stored, as in
                                        CLIP's own loader */
} fvg_dataset_desc;

/* Finds the pictures, labels and class names of a data set (section 6 of the manual); no picture is
   read.  *out goes back with fvg_dataset_free.  FVG_E_ARG for a setting out of range, such as a
   val_percent above 100. */
FVG_DEF fvg_status fvg_dataset_open(fvg_ctx *c, fvg_dataset *out, const fvg_dataset_desc *desc);

/* Makes a data set of n pictures in memory.  They are not copied and must stay as long as the set;
   the names are copied.  FVG_E_ARG names the picture whose label, sides, channels or mask are
   wrong. */
FVG_DEF fvg_status fvg_dataset_of_pictures(fvg_ctx *c, fvg_dataset *out, const fvg_picture *picture,
                                           int n, const char *const *class_name, int n_class);

/* NULL is allowed, and so is a data set that is all zero. */
FVG_DEF void fvg_dataset_free(fvg_dataset *d);

/* Tests whether every picture of some splits (`what` is the sum of these numbers) can be read.

     skip_bad 0   Each must exist, be a plain file, and begin like a picture of a kind that can be
                  read: a fraction of a second for 10,000.  Damage further on is not found.  The
                  first 20 bad files are logged, and any is an error.
     skip_bad 1   All are decoded, as many at once as there are threads, which takes about as long
                  as encoding with a small tower.  Bad ones leave the lists with a warning, and
                  few-shot draws are made from what remains.  If the check is stopped, pictures that
                  it has not reached stay.

   FVG_CHECK_MASKS: their masks as well, where they have any. */
enum { FVG_CHECK_TRAIN = 1, FVG_CHECK_VAL = 2, FVG_CHECK_TEST = 4, FVG_CHECK_MASKS = 8 };
FVG_DEF fvg_status fvg_dataset_check(fvg_dataset *d, int what, int skip_bad);

/* -------------------------------------------------------------------------------------------------
   Masks
   ---------------------------------------------------------------------------------------------- */
/* Loads a picture as RGB, and its mask (mask NULL: not wanted) as one channel of 0 and 255.
   Section 7 of the manual says where masks lie; a published set's may also lie one <images> deeper,
   as SUN397's do.  mask_threshold is that of grey masks, 0: 0.5.  A mask of another size than its
   picture is resized (nearest); one whose sides are swapped is FVG_E_FORMAT.  If there is no mask,
   mask->pixels is NULL and the result FVG_OK.  image may be NULL too: the mask then has the size of
   its own file.  Both images go back with fvg_image_free. */
FVG_DEF fvg_status fvg_dataset_load(const fvg_dataset *d, fvg_image *image, fvg_image *mask,
                                    const fvg_item *item, float mask_threshold);

/* Gives a picture of the data set a mask, which goes before one in a file: fvg_dataset_load and all
   that trains take it from then on, except views that are kept already (fvg_views): make those
   anew.  It is copied.  mask: one channel of the picture's size, not 0 inside, else FVG_E_ARG;
   NULL: the picture has again the mask of its file, if there is one.  Of a picture in memory, the
   size is compared here; that of a file is known, and compared, when it is loaded with its mask. */
FVG_DEF fvg_status fvg_dataset_set_mask(fvg_dataset *d, const char *path, const fvg_image *mask);

#ifndef FVGPT_NO_STDIO
/* Where the mask of a picture lies, whose path is relative to the root; that of a mask from
   fvg_dataset_set_mask is the picture's own.  *out goes back with fvg_release; NULL, with FVG_OK,
   if there is no mask. */
FVG_DEF fvg_status fvg_dataset_mask_path(const fvg_dataset *d, char **out, const char *path);

/* Tests a list to train on: how many images have no mask is logged, and a list without any mask is
   FVG_E_IO.  Then calls fvg_dataset_survey_masks. */
FVG_DEF fvg_status fvg_dataset_check_masks(const fvg_dataset *d, const fvg_items *items);

/* Loads every picture of the list with its mask.  Bad ones are named together, and how masks are
   read is logged; once that has happened for a data set, the call does nothing.  It takes seconds
   for a few shots, and can spare hours of training on masks that are not what they seem. */
FVG_DEF fvg_status fvg_dataset_survey_masks(const fvg_dataset *d, const fvg_items *items);
#endif

/* -------------------------------------------------------------------------------------------------
   Protocol: base and new classes, few-shot draws

   Each makes a new list, which goes back with fvg_items_free.  A label outside 0..n_class-1 is
   FVG_E_ARG.
   ---------------------------------------------------------------------------------------------- */
/* Base classes are the first ceil(n/2) labels, new classes the rest. */
typedef enum fvg_group { FVG_ALL = 0, FVG_BASE, FVG_NEW } fvg_group;

/* The number of classes of a group, out of n_class.  *first (may be NULL) receives its first
   label. */
FVG_DEF int fvg_group_classes(int n_class, fvg_group group, int *first);

/* The pictures of a group, with labels that count from 0 within it. */
FVG_DEF fvg_status fvg_items_group(fvg_ctx *c, fvg_items *out, const fvg_items *in, int n_class,
                                   fvg_group group);

/* `shots` pictures of each label, drawn as Dassl does: CPython's random.seed(seed), then
   random.sample for each label in order of first appearance.  A label with fewer, or every label if
   shots < 1, gives all it has.  *fewest (may be NULL) receives the smallest number of pictures that
   a label has. */
FVG_DEF fvg_status fvg_items_few_shot(fvg_ctx *c, fvg_items *out, int *fewest, const fvg_items *in,
                                      int n_class, int shots, uint64_t seed);

/* The few-shot list of val: min(shots, 4) pictures of each label, from the generator as the draw
   from `train` leaves it.  The few-shot protocol (all classes, no new ones) chooses among models by
   it; base to new does not use it. */
FVG_DEF fvg_status fvg_items_few_shot_val(fvg_ctx *c, fvg_items *out, const fvg_items *train,
                                          const fvg_items *val, int n_class, int shots,
                                          uint64_t seed);

/* Frees the array; *items becomes empty.  NULL is allowed. */
FVG_DEF void fvg_items_free(fvg_ctx *c, fvg_items *items);

/* -------------------------------------------------------------------------------------------------
   Tasks: what training and testing take
   ---------------------------------------------------------------------------------------------- */
/* Pictures to tell apart, and the names to tell them by. */
typedef struct fvg_task {
  const fvg_dataset *dataset;        /* where the pictures and their masks are */
  fvg_items items;                   /* the pictures; their labels count within class_name */
  const char *const *class_name;     /* [n_class] the data set's own strings, not copied */
  int n_class;                       /* at least 1 */
  int fewest;                        /* pictures of the class that has the fewest */
} fvg_task;

typedef struct fvg_task_desc {
  fvg_split split;                   /* of the data set: train */
  fvg_group group;                   /* of its classes: all */
  int       shots;                   /* pictures of each class; 0: all there are */
  uint64_t  seed;                    /* of the draw */
} fvg_task_desc;

/* Draws the pictures from all classes as Dassl does, and only then leaves out those of other
   groups, so the pictures are those of published results.  A class with fewer than `shots` gives
   all it has; val gives min(shots, 4) of each class, as in the few-shot protocol.  desc NULL: the
   whole train split.  FVG_E_ARG if the data set has no class of the group. */
FVG_DEF fvg_status fvg_task_draw(fvg_task *out, const fvg_dataset *d, const fvg_task_desc *desc);

/* NULL is allowed.  A task must be freed before its data set. */
FVG_DEF void fvg_task_free(fvg_task *t);

/* -------------------------------------------------------------------------------------------------
   Scores
   ---------------------------------------------------------------------------------------------- */
typedef struct fvg_score {
  int n, n_correct;                  /* pictures */
  double accuracy, macro_f1;         /* in percent; F1 is the mean over the labels that occur */
  double cross_entropy;              /* mean of -ln softmax(scores) at the label */
} fvg_score;

/* Scores predictions from scores [n, n_class] and labels [n].  The prediction is the greatest
   score, the first of equal ones.  FVG_E_NUMERIC if a score is NaN. */
FVG_DEF fvg_status fvg_score_of(fvg_ctx *c, fvg_score *out, const float *scores,
                                const int *labels, int n, int n_class);

/* 2BN/(B+N); 0 if both are 0, NaN if one of them is. */
FVG_DEF double fvg_harmonic_mean(double base, double new_);
#endif /* FVGPT_NO_TRAINING */

/* =================================================================================================
   RUNS: from pictures to a tuned classifier                                    (chapters 32 to 39)
   ============================================================================================== */

#ifndef FVGPT_NO_TRAINING
/* -------------------------------------------------------------------------------------------------
   Stores: features that outlive a run

   A program can lend a model a memory, such as files in a folder (fvgpt's --cache).  What it finds
   there is neither decoded nor encoded again, and has the same bits as if it were.
   ---------------------------------------------------------------------------------------------- */
/* A hash of 128 bits: fast, and not made to withstand somebody who wants two inputs to agree.
   Chapter 32 explains it. */
typedef struct fvg_hash {
  uint64_t lane[2];
} fvg_hash;

FVG_DEF fvg_hash fvg_hash_begin(void);

/* Adds n bytes.  Where one call ends and the next begins counts: "ab" and "c" is not "a" and
   "bc". */
FVG_DEF void fvg_hash_add(fvg_hash *h, const void *bytes, size_t n);

/* The hash of what was added so far. */
FVG_DEF void fvg_hash_end(const fvg_hash *h, uint64_t key[2]);

/* A key stands for all that a row depends on: the weights of the image tower, the SIMD level, the
   preprocessing, the bytes of the picture and of its mask, and how the view is made of them.  Rows
   are what the tower gives, not normalised, in the order of this machine's bytes: [embed_dim], and
   for foreground views one number more, the share of foreground.  Both functions are called by the
   thread that uses the model. */
typedef struct fvg_store {
  /* Writes the row of a key and returns 1; returns 0 if there is none.  A row that is not finite
     counts as none. */
  int (*find)(void *user, const uint64_t key[2], float *row, int n);

  /* Is offered a new row.  It may be dropped. */
  void (*keep)(void *user, const uint64_t key[2], const float *row, int n);

  void *user;                        /* is handed to both */
} fvg_store;

/* From now on the model looks for features in the store, which must live longer, before it encodes
   pictures, and offers it those that it had to encode.  It does so in fvg_encode_task,
   fvg_clip_encode_files and views that are kept (any but FVG_AUGMENT_CROP), as far as they need
   CLIP's own image tower.  store NULL: no longer.  fvg_clip_share does not pass a store on.
   FVG_E_ARG: the store lacks a function. */
FVG_DEF fvg_status fvg_clip_set_store(fvg_clip *m, const fvg_store *store);

/* The part of all those keys that comes from the model: a hash of the image tower as it lies in
   memory, of the SIMD level and of FVGPT_VERSION.  It is computed once; a program that changes
   weights in place gives the model its store again afterwards.  FVG_E_ARG: no image tower. */
FVG_DEF fvg_status fvg_clip_image_key(fvg_clip *m, uint64_t key[2]);

/* -------------------------------------------------------------------------------------------------
   Views: what training sees of a picture
   ---------------------------------------------------------------------------------------------- */
typedef enum fvg_augment {
  FVG_AUGMENT_CROP = 0,              /* random resized crop and flip, encoded anew in each
                                        epoch (the paper's) */
  FVG_AUGMENT_FIXED_CROPS,           /* n_crops such crops of each image, encoded once */
  FVG_AUGMENT_NONE,                  /* the test transform, encoded once */
  FVG_AUGMENT_SQUASH                 /* resized without keeping the aspect, encoded once */
} fvg_augment;

typedef struct fvg_views_desc {
  fvg_augment augment;               /* crop */
  int   n_crops;                     /* 8: of FVG_AUGMENT_FIXED_CROPS */
  float crop_scale_min;              /* 0.08: least share of the image's area in a crop, but see
                                        fvg_crop_random */
  float mask_threshold;              /* 0.5: of grey masks, as a share of full white */
  int   fill_black;                  /* 1: the background becomes black; 0: the mean colour */
  int   no_foreground;               /* 1: foreground views are not wanted, masks are not read */
  int   no_masks;                    /* 1: masks are not read either, but foreground views are
                                        wanted: those of pictures without a mask */
  int   invert_masks;                /* 1: foreground and background change places, for a study of
                                        what wrong masks do; a picture without a mask stays so */
  fvg_learner *learner;              /* whose image tower makes the features; NULL: CLIP's own */
  uint64_t seed;                     /* of the crops */
} fvg_views_desc;

/* Rows of features (fvg_learner_feature_width) of the augmented images of a data set and of their
   foreground views.  Views that do not change from epoch to epoch are encoded once and kept under
   the item's path, so seeds and stages can share one fvg_views.  With a learner they are right only
   for the values that it had when they were encoded, and a mask that a picture is given later
   (fvg_dataset_set_mask) does not change them. */
typedef struct fvg_views fvg_views;

/* desc NULL: random crops, by CLIP's own tower.  The data set and the learner must live longer.
   FVG_E_ARG for a setting out of range. */
FVG_DEF fvg_status fvg_views_new(fvg_clip *m, fvg_views **out, const fvg_dataset *d,
                                 const fvg_views_desc *desc);

/* NULL is allowed. */
FVG_DEF void fvg_views_free(fvg_views *v);

/* Encodes what will be kept of these items, and reports progress.  Otherwise it happens at first
   use. */
FVG_DEF fvg_status fvg_views_load(fvg_views *v, const fvg_items *items);

/* The views of items index[0..n-1] in `epoch`: f, f_fg [n, feature width]; area [n], the share of
   foreground, -1 for an image without a mask.  f_fg and area may be NULL.  With random crops every
   epoch has other crops, so the features and the area of a picture change with it. */
FVG_DEF fvg_status fvg_views_get(fvg_views *v, float *f, float *f_fg, float *area,
                                 const fvg_items *items, const int *index, int n, int epoch);

/* The same views before any tower: pixels, pixels_fg [n, 3, image_size, image_size]; pixels_fg may
   be NULL. */
FVG_DEF fvg_status fvg_views_pixels(fvg_views *v, float *pixels, float *pixels_fg,
                                    const fvg_items *items, const int *index, int n, int epoch);

/* Encodes a task's pictures under the test transform: f [task->items.n, feature width].  l NULL:
   zero-shot CLIP's features, of unit length. */
FVG_DEF fvg_status fvg_encode_task(fvg_clip *m, fvg_learner *l, float *f, const fvg_task *task);

/* -------------------------------------------------------------------------------------------------
   Training: stage 1 tunes a learner, stage 2 trains FVG-PT on it
   ---------------------------------------------------------------------------------------------- */
typedef struct fvg_train_desc {
  /* What is 0 here, and `batch`, is as published for the task's data set: in stage 1 of
     fvg_method_recipe (FVG_FORK, base to new, 16 shots), for FVG-PT and calibration of
     fvg_fvgpt_recipe.  lr 0: the recipe's kind and rate; epochs 0: its epochs. */
  fvg_optimizer_desc optimizer;
  int batch;                         /* images a step */
  uint64_t seed;                     /* of the order of the images */
  const char *prompt_template;       /* FVG-PT and calibration: what the class names are written
                                        into for zero-shot CLIP; NULL: "a photo of a {}."  It is not
                                        taken from the learner: set it here as well */
  double *epoch_loss;                /* [epochs] receives each epoch's mean loss, unless NULL */
  const struct fvg_foreground_desc *own_masks;
                                     /* stage 1: before every epoch the learner makes masks of
                                        the task's pictures anew, for its own training alone,
                                        which makes DAPT DAPT-G; desc.learner is not read.  NULL:
                                        masks are as the data set has them */

  /* FVG-PT, unless it was made with no_fdc: when training ends, the mean cross-entropy of the
     adapters' scores on the training pictures is compared with that of the backbone's, in the views
     that are kept, else under the test transform.  A greater one is logged as a warning. */
  int guard;                         /* 1: the adapters are then left out: no_fdc is turned on in
                                        fvgpt, and base classes have the backbone's scores */
  double *cross_entropy;             /* [2] receives the backbone's and the adapters'; NULL: not
                                        wanted */

  /* A file that holds the run after every epoch; NULL: none.  A run that finds it goes on from
     there and ends bit for bit as if it had never stopped.  The file must bear the same state_mark
     (NULL: ""), else it is FVG_E_ARG.  A damaged file is reported, and the run begins anew.  A file
     that cannot be read just now stays, and the run ends (FVG_E_IO).  The state of a finished run
     stays too: remove it yourself once what was trained is saved, so that nothing is lost between
     the two. */
  const char *state, *state_mark;
} fvg_train_desc;

/* Stage 1: trains the learner's parameters on the task, whose labels count within the learner's
   classes.  v must be made without a learner, and on the data set of the task, where that has one,
   else it is FVG_E_ARG.  desc NULL: all as published.
   FVG_E_NUMERIC if the training diverges; FVG_E_CANCELLED if progress or cancelled asks for it. */
FVG_DEF fvg_status fvg_learner_train(fvg_learner *l, fvg_views *v, const fvg_task *task,
                                     const fvg_train_desc *desc);

/* Stage 2: trains FVG-PT's gates and adapters; the tuned learner l stays as it is.  If l's method
   prompts the image tower, v must be views of l.  desc NULL: all as published.  Errors as above;
   FVG_E_SHAPE if fvgpt is not embed_dim wide, FVG_E_UNSUPPORTED for CoCoOp.  FVG_E_IO if none of
   the task's pictures has a mask; not where both no_frg and no_fdc leave masks unread, nor under
   FVGPT_NO_STDIO. */
FVG_DEF fvg_status fvg_fvgpt_train(fvg_fvgpt *fvgpt, fvg_learner *l, fvg_views *v,
                                   const fvg_task *task, const fvg_train_desc *desc);

/* -------------------------------------------------------------------------------------------------
   Prior calibration on classes that the prompts were not tuned on

   In the paper, the gate BRG, which gives zero-shot CLIP its share b in the scores of new classes,
   learns from the base classes.  The prompts have been tuned on these, so BRG learns to rely on the
   prompts.  Cross-fitting avoids that: two learners are tuned on one half of the base classes each,
   and BRG learns from each on the OTHER half.
   ---------------------------------------------------------------------------------------------- */
typedef struct fvg_calibration_source {
  fvg_learner *learner;              /* all sources' are of one method and one CLIP */
  fvg_views *views;                  /* made with the learner, if it prompts the image tower */
  const fvg_task *task;              /* the other half; its labels count within its own names */
} fvg_calibration_source;

/* Learns the BRG of fvgpt anew, and nothing else of it, on all sources together; each epoch takes
   one after the other.  desc NULL: all as published. */
FVG_DEF fvg_status fvg_fvgpt_calibrate(fvg_fvgpt *fvgpt, const fvg_calibration_source *source,
                                       int n_source, const fvg_train_desc *desc);

/* Tests whether cross-fitting is warranted.  *evidence is McNemar's statistic,
   (n0 - n1) / sqrt(n0 + n1), with n0 pictures that only zero-shot CLIP gets right and n1 that only
   the learners get right; 0 if there are none.  The greater it is, the surer is it that zero-shot
   CLIP scores these pictures better; chance alone exceeds 2.33 once in a hundred times. */
FVG_DEF fvg_status fvg_calibration_evidence(double *evidence, const fvg_calibration_source *source,
                                            int n_source, const char *prompt_template);

/* -------------------------------------------------------------------------------------------------
   DPC (Li et al. 2025, arXiv 2503.13443): a second prompt for the base classes

   Beside the tuned prompts P, harder tasks train prompts P' for base classes.  Base classes then
   get the mixture weight P' + (1 - weight) P, new classes another one.  It is for methods that
   learn prompts and nothing else: CoOp, KgCoOp, ProGrad, PromptSRC; others are FVG_E_UNSUPPORTED.
   ---------------------------------------------------------------------------------------------- */
typedef struct fvg_dpc_desc {
  float weight;                      /* 0.5, above 0: of P' for base classes */
  int   top_k;                       /* 8: best classes that a picture looks at, its own included */
} fvg_dpc_desc;

/* 1 if DPC can be used with the method. */
FVG_DEF int fvg_dpc_knows(const fvg_method *method);

/* The published settings: SGD at 0.0035, ten epochs, *batch (may be NULL) 4. */
FVG_DEF fvg_optimizer_desc fvg_dpc_optimizer(int *batch);

/* Trains P' in l, which must be a copy of `tuned` (fvg_learner_copy) and becomes the mixture for
   base classes, a learner like any other.  v must be made without a learner.  Of the method only
   its prompts and schedule count; its own terms of the loss take no part.  dpc NULL: the defaults;
   desc NULL: fvg_dpc_optimizer's. */
FVG_DEF fvg_status fvg_dpc_train(fvg_learner *l, fvg_learner *tuned, fvg_views *v,
                                 const fvg_task *task, const fvg_dpc_desc *dpc,
                                 const fvg_train_desc *desc);

/* Changes l from the mixture with the weight `from` (above 0) to that with the weight `to`; on a
   copy of l, this makes the learner for new classes.  to 0: P itself. */
FVG_DEF fvg_status fvg_dpc_reweigh(fvg_learner *l, const fvg_learner *tuned, float from, float to);
#endif /* FVGPT_NO_TRAINING */

/* -------------------------------------------------------------------------------------------------
   Classifiers: a fixed list of classes, ready to score features
   ---------------------------------------------------------------------------------------------- */
typedef struct fvg_classifier fvg_classifier;

/* Which scores. */
typedef enum fvg_branch {
  FVG_ZERO_SHOT = 0,                 /* CLIP as it is */
  FVG_TUNED,                         /* the learner alone */
  FVG_TUNED_NEW,                     /* the learner alone on classes that are new to it: MMRL,
                                        MMRL++ and DePT score these in their own way */
  FVG_BRANCH_BASE,                   /* FVG-PT on base classes, z_FDC */
  FVG_BRANCH_NEW                     /* FVG-PT on new classes, z_PC */
} fvg_branch;

typedef struct fvg_classifier_desc {
  fvg_branch branch;                 /* zero-shot CLIP */
  fvg_learner *learner;              /* for every other branch; zero-shot uses it only to know its
                                        rows of features */
  fvg_fvgpt *fvgpt;                  /* for FVG-PT's branches */
  const char *prompt_template;       /* for zero-shot CLIP's class names, here too not taken from
                                        the learner; NULL: "a photo of a {}." */
  const char *const *background;     /* [n_background] words that relevance maps compare a class
                                        with; NULL: 22 that suit photographs */
  int n_background;                  /* negative: they compare it with the other classes */
  const char *const *ensemble;       /* [n_ensemble] templates for zero-shot CLIP, over which it
                                        averages (fvg_clip_encode_ensemble); prompt_template, unless
                                        it is NULL, is one more.  NULL: prompt_template alone */
  int n_ensemble;
  fvg_head *head;                    /* scores pictures by their features of zero-shot CLIP, in the
                                        place of FVG_ZERO_SHOT; of this many classes.  Relevance
                                        maps then compare a class with the others */
} fvg_classifier_desc;

/* desc NULL: zero-shot CLIP.  The learner, FVG-PT and the head must live longer; the names are not
   kept.  FVG_E_SHAPE if FVG-PT is not embed_dim wide, or if the head is of another width or number
   of classes; FVG_E_ARG if the learner is of another model; FVG_E_UNSUPPORTED if base classes are
   wanted that the learner's own head does not know. */
FVG_DEF fvg_status fvg_classifier_new(fvg_clip *m, fvg_classifier **out,
                                      const char *const *class_name, int n_class,
                                      const fvg_classifier_desc *desc);

/* NULL is allowed. */
FVG_DEF void fvg_classifier_free(fvg_classifier *k);

/* f [n, feature width of the classifier's learner] -> logits [n, n_class].  b [n] receives the
   share of zero-shot CLIP in FVG_BRANCH_NEW, and 0 in other branches; NULL: not wanted. */
FVG_DEF fvg_status fvg_classifier_logits(fvg_classifier *k, float *logits, float *b, const float *f,
                                         int n);

/* Returns the index of the class that suits a picture best, or a negative fvg_status.
   probability [n_class] receives the softmax of the logits; NULL: not wanted. */
FVG_DEF int fvg_classifier_image(fvg_classifier *k, float *probability, const fvg_image *image);
#ifndef FVGPT_NO_STDIO
FVG_DEF int fvg_classifier_file(fvg_classifier *k, float *probability, const char *path);
#endif

#ifndef FVGPT_NO_TRAINING
/* How well the classifier does on a task's pictures, whose labels count within its classes. */
FVG_DEF fvg_status fvg_classifier_test(fvg_classifier *k, fvg_score *score, const fvg_task *task);
#endif /* FVGPT_NO_TRAINING */

/* -------------------------------------------------------------------------------------------------
   Heads on a task, and in files (fvgpt.h describes heads)
   ---------------------------------------------------------------------------------------------- */
#ifndef FVGPT_NO_TRAINING
/* What a head is fitted on.  Whatever is NULL is computed here. */
typedef struct fvg_head_task {
  const fvg_task *train;             /* the pictures and classes; no default */
  const float *f;                    /* [pictures, n_view, embed_dim], of unit length; NULL: by
                                        `views`, or without them under the test transform */
  int n_view;                        /* 1: crops of each picture */
  fvg_views *views;                  /* made without a learner; epoch v gives crop v.  GDA and
                                        Tip-Adapter were published with ten of at least half the
                                        area (FVG_AUGMENT_FIXED_CROPS, crop_scale_min 0.5) */
  const fvg_task *val;               /* to choose settings by: split FVG_VAL with the same shots,
                                        seed and group gives Dassl's; NULL: none */
  const float *f_val;                /* [pictures of val, embed_dim]; NULL: by the test transform */
  const float *text;                 /* [n_class, embed_dim]; NULL: of prompt_template */
  const char *prompt_template;       /* "a photo of a {}." */
} fvg_head_task;

/* Fits a head; desc NULL: all as published (fvg_head_desc).  Errors as of fvg_head_fit,
   fvg_views_get and fvg_encode_task; FVG_E_SHAPE if val has other classes. */
FVG_DEF fvg_status fvg_head_fit_task(fvg_clip *m, fvg_head **out, fvg_head_kind kind,
                                     const fvg_head_task *x, const fvg_head_desc *desc);
#endif /* FVGPT_NO_TRAINING */

/* A head in a file of its own, with what a classifier needs beside it. */
typedef struct fvg_head_checkpoint {
  fvg_head *head;
  const char *const *class_name; int n_class;    /* [n_class] */
  const char *prompt_template;       /* of the head's text features; "": several, or unknown */
  fvg_weights *settings;             /* the open file, for fvg_weights_metadata */
  fvg_json names;                    /* where the names are */
} fvg_head_checkpoint;

#ifndef FVGPT_NO_STDIO
/* Reads such a file; *out, which is all zero after a failure, goes back with
   fvg_head_checkpoint_free.  FVG_E_FORMAT if the file is none, FVG_E_SHAPE for a CLIP of another
   width. */
FVG_DEF fvg_status fvg_head_checkpoint_load(fvg_clip *m, fvg_head_checkpoint *out,
                                            const char *path);
#endif

/* The same bytes from anywhere, as with fvg_checkpoint_read. */
FVG_DEF fvg_status fvg_head_checkpoint_read(fvg_clip *m, fvg_head_checkpoint *out,
                                            const fvg_source *source);

/* Only for what was read.  NULL, and all zero, are allowed. */
FVG_DEF void fvg_head_checkpoint_free(fvg_clip *m, fvg_head_checkpoint *x);

#ifndef FVGPT_NO_TRAINING
/* Writes a head, the names of its classes and the template (NULL: ""), to a file or through a
   callback as fvg_checkpoint_write does; `settings` are added to the metadata.  FVG_E_SHAPE if the
   head does not have that many classes, or is not embed_dim wide. */
#ifndef FVGPT_NO_STDIO
FVG_DEF fvg_status fvg_head_checkpoint_save(fvg_clip *m, const char *path,
                                            const fvg_head_checkpoint *x,
                                            const fvg_metadata *settings, int n_settings);
#endif
FVG_DEF fvg_status fvg_head_checkpoint_write(fvg_clip *m, fvg_write_fn write, void *user,
                                             const fvg_head_checkpoint *x,
                                             const fvg_metadata *settings, int n_settings);
#endif /* FVGPT_NO_TRAINING */

#ifndef FVGPT_NO_TRAINING
/* -------------------------------------------------------------------------------------------------
   The base-to-new test
   ---------------------------------------------------------------------------------------------- */
typedef struct fvg_base_to_new {
  double base, new_, h;              /* accuracies and their harmonic mean, in percent */
} fvg_base_to_new;

/* Tests on the whole test split, base classes among themselves and new ones among themselves:
   zero-shot CLIP (l and fvgpt NULL), a learner tuned on the base classes (fvgpt NULL), or FVG-PT on
   it.  Zero-shot CLIP's class names are written into prompt_template, NULL: "a photo of a {}."; it
   must be the one that FVG-PT was trained with. */
FVG_DEF fvg_status fvg_test_base_to_new(fvg_clip *m, fvg_base_to_new *out, const fvg_dataset *d,
                                        fvg_learner *l, fvg_fvgpt *fvgpt,
                                        const char *prompt_template);
#endif /* FVGPT_NO_TRAINING */

/* -------------------------------------------------------------------------------------------------
   Checkpoints and settings: a tuned model in one file
   ---------------------------------------------------------------------------------------------- */
#ifndef FVGPT_NO_TRAINING
/* Metadata of a checkpoint; begin with zeros.  Keys and values are not copied and must live until
   the file is written; numbers are printed into `text`. */
enum { FVG_MAX_SETTINGS = 80 };
typedef struct fvg_settings {
  fvg_metadata entry[FVG_MAX_SETTINGS];      /* [n] in use: key and value */
  char text[FVG_MAX_SETTINGS][32];           /* the numbers among the values */
  int n;                                     /* entries in use */
} fvg_settings;

/* Adds an entry.  Beyond FVG_MAX_SETTINGS nothing is added. */
FVG_DEF void fvg_settings_set(fvg_settings *x, const char *key, const char *value);
FVG_DEF void fvg_settings_set_number(fvg_settings *x, const char *key, double value);

/* Writes a safetensors file with the learner's tensors under their published names, and with
   FVG-PT's unless fvgpt is NULL.  The metadata say what is needed to build both again; `settings`
   are added to them. */
#ifndef FVGPT_NO_STDIO
FVG_DEF fvg_status fvg_checkpoint_save(fvg_learner *l, fvg_fvgpt *fvgpt, const char *path,
                                       const fvg_metadata *settings, int n_settings);
#endif

/* The same bytes to anywhere: `write` receives them in pieces, in order.  What it has received
   before a failure is not a checkpoint. */
FVG_DEF fvg_status fvg_checkpoint_write(fvg_learner *l, fvg_fvgpt *fvgpt, fvg_write_fn write,
                                        void *user, const fvg_metadata *settings,
                                        int n_settings);
#endif /* FVGPT_NO_TRAINING */

#ifndef FVGPT_NO_STDIO
/* Builds a learner and its FVG-PT again on the CLIP that they were tuned on; they are then yours.
   *fvgpt is NULL if the file has no FVG-PT.  *settings receives the open file, for
   fvg_weights_metadata, and is closed with fvg_weights_close; NULL: not wanted.  All are NULL after
   a failure; a file that is not such a checkpoint is FVG_E_FORMAT. */
FVG_DEF fvg_status fvg_checkpoint_load(fvg_clip *m, fvg_learner **l, fvg_fvgpt **fvgpt,
                                       fvg_weights **settings, const char *path);
#endif

/* The same from anywhere.  The source is taken over and closed, also on failure; if *settings
   receives the open file, it stays open until that is closed. */
FVG_DEF fvg_status fvg_checkpoint_read(fvg_clip *m, fvg_learner **l, fvg_fvgpt **fvgpt,
                                       fvg_weights **settings, const fvg_source *source);

/* Takes a learner's values from a checkpoint of the published trainers (model.pth.tar-N of
   prompt_learner, VLPromptLearner or MultiModalRepresentationLearner), or from a safetensors file
   with those names.  Tensors that l does not train are passed over.  If one is missing or has
   another shape, the call fails and l stays as it was.  fvg_learner_read closes the source, also on
   failure. */
#ifndef FVGPT_NO_STDIO
FVG_DEF fvg_status fvg_learner_load(fvg_learner *l, const char *path);
#endif
FVG_DEF fvg_status fvg_learner_read(fvg_learner *l, const fvg_source *source);

#ifndef FVGPT_NO_TRAINING
/* -------------------------------------------------------------------------------------------------
   Attention maps: where a classifier looks
   ---------------------------------------------------------------------------------------------- */
typedef enum fvg_map_kind {
  FVG_GRAD_CAM = 0,                  /* which patches speak for the class: depends on the classifier
                                        and the label */
  FVG_CLS_ATTENTION,                 /* what the class token attends to: depends on the image tower
                                        alone */
  FVG_RELEVANCE                      /* how much likelier each patch is of the class than of a
                                        background: depends on the classifier and the label; on
                                        photographs, the truest of the three */
} fvg_map_kind;

/* chw [3, image_size, image_size], normalised -> map [image_size, image_size] in 0..1, whose
   greatest value is 1 (all are 0 if no patch speaks for the class).  `label` is an index in the
   classifier's list; FVG_CLS_ATTENTION ignores it.  FVG_E_NUMERIC if a value is not finite. */
FVG_DEF fvg_status fvg_attention_map(fvg_classifier *k, float *map, const float *chw, int label,
                                     fvg_map_kind kind);

/* Three measures of a map by a mask of its size, of one channel and not 0 inside; -1 without such a
   mask.  The first: the map's sum inside the mask, divided by its whole sum; 0 for an empty map. */
FVG_DEF double fvg_foreground_share(const float *map, const fvg_image *mask);
/* 1 if the map's greatest value, the first of equal ones, lies inside the mask; 0 if not, or if the
   map is empty. */
FVG_DEF double fvg_hottest_inside(const float *map, const fvg_image *mask);
/* Intersection over union of the mask and of what in the map lies above Otsu's threshold; 1 if both
   are empty. */
FVG_DEF double fvg_map_iou(const float *map, const fvg_image *mask);

/* Draws a map [height, width] as heat over an image of that size, which is grey where the map is 0.
   *out [height, width, 3] goes back with fvg_image_free. */
FVG_DEF fvg_status fvg_image_overlay(fvg_ctx *c, fvg_image *out, const fvg_image *image,
                                     const float *map);

/* -------------------------------------------------------------------------------------------------
   Foreground: masks made by CLIP itself (chapter 39)
   ---------------------------------------------------------------------------------------------- */
/* Which rows attention compares in the last block: its keys with each other, and so on. */
typedef enum fvg_self_attention {
  FVG_KEY_KEY = 0,
  FVG_QUERY_QUERY,
  FVG_VALUE_VALUE,
  FVG_NO_ATTENTION                   /* each patch keeps its own value (MaskCLIP) */
} fvg_self_attention;

/* What a patch has to speak for, against the background words. */
typedef enum fvg_contrast {
  FVG_OWN_AND_RIVALS = 0,            /* the picture's class and those that CLIP takes it for */
  FVG_OWN_CLASS,                     /* the picture's class alone */
  FVG_ANY_CLASS                      /* any class of the list */
} fvg_contrast;

/* A number that begins a comment is the default, which zero stands for. */
typedef struct fvg_foreground_desc {
  const char *prompt_template;       /* "a photo of a {}." for classes and background words */
  const char *const *background;     /* [n_background] words; NULL: 22 that suit photographs */
  int n_background;
  const char *background_template;   /* NULL: prompt_template */
  fvg_learner *learner;              /* whose prompts the classes and the image tower have, as they
                                        are at the time; NULL: CLIP as it is */
  int quick;                         /* 1: one pass of the tower and nothing more, as with
                                        walk_steps and colour_weight negative */
  fvg_self_attention attention;      /* FVG_KEY_KEY */
  fvg_contrast contrast;             /* FVG_OWN_AND_RIVALS */
  float centre_prior;                /* 1.5, or 0.25 with fewer than 100 patches; negative: none */
  int walk_steps;                    /* 3, or none with fewer than 100 patches; negative: none */
  int walk_layers;                   /* 8: the last blocks whose attention the walk follows */
  float colour_weight;               /* 0.5; negative: colours and edges are not looked at */
} fvg_foreground_desc;

/* Makes masks with one model for one list of classes. */
typedef struct fvg_foreground fvg_foreground;

/* desc NULL: the defaults.  The names, which may be any texts, are not kept; m and the learner must
   live longer.  FVG_E_ARG without a name, or if the model lacks a tower; FVG_E_UNSUPPORTED for a
   learner of CoCoOp, which has no text features of classes alone. */
FVG_DEF fvg_status fvg_foreground_new(fvg_clip *m, fvg_foreground **out,
                                      const char *const *class_name, int n_class,
                                      const fvg_foreground_desc *desc);
FVG_DEF void fvg_foreground_free(fvg_foreground *x);

/* The foreground of an RGB picture: map [height, width], 0 to 1, is how likely each pixel is of
   the thing that is shown.  label: the picture's class; negative: it is not known, and any class
   of the list counts.  confidence receives how far the map can be trusted, 0 to 1, by equation (7)
   of chapter 39; NULL: not wanted.  FVG_E_ARG for a picture that is not RGB or a label that is no
   class; FVG_E_NUMERIC if a feature is not finite. */
FVG_DEF fvg_status fvg_foreground_map(fvg_foreground *x, float *map, float *confidence,
                                      const fvg_image *picture, int label);

/* The same as a mask of the picture's size, one channel: 255 where the map is above a half, else 0.
   It goes back with fvg_image_free. */
FVG_DEF fvg_status fvg_foreground_mask(fvg_foreground *x, fvg_image *mask, float *confidence,
                                       const fvg_image *picture, int label);

/* Makes the masks of these pictures, whose labels count within the classes of x, and gives them to
   the data set (fvg_dataset_set_mask), so that training can begin.  Progress is reported as
   "masks". */
FVG_DEF fvg_status fvg_foreground_mask_items(fvg_foreground *x, fvg_dataset *d,
                                             const fvg_items *items);

/* Intersection over union of two masks of one size, one channel each, in which everything but 0 is
   foreground; 1 if both are empty; -1 if their forms differ. */
FVG_DEF double fvg_mask_iou(const fvg_image *a, const fvg_image *b);
#endif /* FVGPT_NO_TRAINING */

#ifdef __cplusplus
}
#endif
#endif /* FVGPT_CLIP_H */

#if defined(FVGPT_IMPLEMENTATION) && !defined(FVG__CLIP_IMPLEMENTED)
#define FVG__CLIP_IMPLEMENTED
#include "fvgpt.h"  /* the bodies, if it was first included without FVGPT_IMPLEMENTATION */

FVG__SMALL_BEGIN
FVG__SELDOM_RUN_BEGIN

/*==================================================================================================
 * CHAPTER 1  TEXT: one spelling for every text
 *==================================================================================================
   The same text can be stored as different bytes.  OpenAI's clip.tokenize therefore normalises it
   first, in steps that are repeated here:

     repair     what ftfy.fix_text does: HTML references become characters; curly quotes become
                straight ones, ligatures become letters, East Asian widths the usual ones;
                byte-order marks, control characters and terminal escapes are dropped
     compose    an "e" and an accent become one character: Unicode's NFC (Unicode Standard Annex 15)
     unescape   HTML references again, twice, as Python's html.unescape reads them
     tidy       runs of white space become one blank; letters become lower case

   White space, lower case and the classes of letters and numbers are those of Python's str and its
   `regex` module, over the whole of Unicode.  Hugging Face's tokenizers compose and tidy but do not
   repair, so they read curly quotes and ligatures differently.

   Not covered: ftfy's guess at text that was decoded with the wrong encoding (where an e with acute
   has become a capital A with tilde and a copyright sign, it stays so), and most of the names that
   HTML 5 added to HTML 4's.  Both are left as they stand. */

/* ---- Unicode: the tables of the last chapter, unpacked ---- */

/* A character's property is the sum of these bits; its canonical combining class is the part
   from FVG__COMBINING on. */
enum {
  FVG__LETTER = 1,
  FVG__NUMBER = 2,
  FVG__CASED = 4,
  FVG__CASE_IGNORABLE = 8,
  FVG__COMBINING = 16
};

/* The tables, mappings first. */
enum {
  FVG__LOWER,
  FVG__COMPOSED,
  FVG__DECOMPOSED,
  FVG__REPAIRED,
  FVG__N_MAPPING,
  FVG__PROPERTIES = FVG__N_MAPPING,
  FVG__HTML_OLD_NAMES,
  FVG__HTML_NAMES
};

/* Returns the lines of a table; a NULL follows the last one. */
static const char *const *fvg__unicode_table(int table);

/* One character becomes one, two or three; unused places of `to` are 0. */
typedef struct fvg__mapping {
  uint32_t from;
  uint32_t to[3];
} fvg__mapping;

typedef struct fvg__unicode {
  uint32_t ascii[128];                    /* properties of ASCII, which need no search        */
  uint32_t *run;                          /* [n_run] first character of each run              */
  uint32_t *property;                     /* [n_run] property that all of the run share       */
  int n_run;
  fvg__mapping *mapping[FVG__N_MAPPING];  /* [n_mapping] each, sorted by `from`               */
  int n_mapping[FVG__N_MAPPING];
} fvg__unicode;

/* Decodes the numbers of a table and returns how many there are.  With `number` NULL it only
   counts them. */
static int fvg__unpack(const char *const *line, uint32_t *number) {
  uint32_t high = 0;
  int n = 0;

  for (; *line; line++) {
    for (const char *at = *line; *at; at++) {
      /* Letters above the backslash are leading digits, in base 34. */
      if (*at > '\\') {
        high = 34 * high + (uint32_t)(*at - '\\');
        continue;
      }

      /* Any other letter is a last digit, in base 56; "?" is not among them. */
      if (number)
        number[n] = 56 * high + (uint32_t)(*at - '#' - (*at > '?'));
      high = 0;
      n++;
    }
  }
  return n;
}

/* Decodes a difference modulo 2^32: 0, 1, 2, 3, 4, ... stand for 0, -1, 1, -2, 2, ... */
static uint32_t fvg__unzigzag(uint32_t number) {
  return number >> 1 ^ (0u - (number & 1));
}

/* Decodes the mapping that n numbers x describe (chapter 40) and returns its length.  With `out`
   NULL it only counts. */
static int fvg__unpack_mapping(const uint32_t *x, int n, fvg__mapping *out) {
  uint32_t from = 0;
  uint32_t to[3] = {0, 0, 0};
  int n_out = 0;
  int i = 0;

  while (i < n) {
    /* A step with a length is one new entry; a step without repeats the entry before. */
    uint32_t gap = x[i] / 4;
    int length = (int)(x[i] % 4);
    uint32_t repeats = length ? 1 : x[i + 1];

    for (int k = 0; k < length; k++) to[k] += fvg__unzigzag(x[i + 1 + k]);
    i += length ? 1 + length : 2;

    for (; repeats > 0; repeats--) {
      from += gap;
      if (!length) to[0] += gap;

      if (out) {
        int used = length ? length : 1;
        memset(&out[n_out], 0, sizeof *out);
        out[n_out].from = from;
        memcpy(out[n_out].to, to, (size_t)used * sizeof *to);
      }
      n_out++;
    }
  }
  return n_out;
}

static void fvg__unicode_free(fvg_ctx *c, fvg__unicode *u) {
  for (int table = 0; table < FVG__N_MAPPING; table++) fvg_release(c, u->mapping[table]);
  fvg_release(c, u->run);
  memset(u, 0, sizeof *u);
}

/* Builds the runs of one property from n numbers: length, property, length, property, ... */
static fvg_status fvg__unicode_runs(fvg_ctx *c, fvg__unicode *u, const uint32_t *number, int n) {
  u->n_run = n / 2;
  u->run = FVG_NEW_ARRAY(c, uint32_t, (size_t)n);
  if (!u->run) return FVG_E_NOMEM;
  u->property = u->run + u->n_run;

  uint32_t first = 0;
  for (int i = 0; i < u->n_run; i++) {
    u->run[i] = first;
    u->property[i] = number[2 * i + 1];
    first += number[2 * i];
  }
  return FVG_OK;
}

/* Unpacks one table: the properties or a mapping. */
static fvg_status fvg__unicode_read(fvg_ctx *c, fvg__unicode *u, int table) {
  const char *const *line = fvg__unicode_table(table);
  int n = fvg__unpack(line, NULL);

  uint32_t *number = FVG_NEW_ARRAY(c, uint32_t, (size_t)n);
  if (!number) return FVG_E_NOMEM;
  fvg__unpack(line, number);

  fvg_status s = FVG_OK;
  if (table == FVG__PROPERTIES) {
    s = fvg__unicode_runs(c, u, number, n);
  } else {
    int length = fvg__unpack_mapping(number, n, NULL);
    fvg__mapping *mapping = FVG_NEW_ARRAY(c, fvg__mapping, (size_t)length);
    if (mapping) fvg__unpack_mapping(number, n, mapping);
    else s = FVG_E_NOMEM;

    u->mapping[table] = mapping;
    u->n_mapping[table] = length;
  }

  fvg_release(c, number);
  return s;
}

/* Finds the run that holds the character, which is always one of low .. high - 1. */
static uint32_t fvg__search_property(const fvg__unicode *u, uint32_t code) {
  int low = 0;
  int high = u->n_run;

  while (high - low > 1) {
    int middle = low + (high - low) / 2;
    if (u->run[middle] <= code) low = middle;
    else high = middle;
  }
  return u->property[low];
}

static fvg_status fvg__unicode_open(fvg_ctx *c, fvg__unicode *u) {
  fvg_status s = FVG_OK;
  memset(u, 0, sizeof *u);

  for (int table = 0; !s && table <= FVG__PROPERTIES; table++) {
    s = fvg__unicode_read(c, u, table);
  }
  for (uint32_t code = 0; !s && code < 128; code++) {
    u->ascii[code] = fvg__search_property(u, code);
  }

  if (s) fvg__unicode_free(c, u);
  return s;
}

static uint32_t fvg__property(const fvg__unicode *u, uint32_t code) {
  return code < 128 ? u->ascii[code] : fvg__search_property(u, code);
}

static int fvg__is_letter(const fvg__unicode *u, uint32_t code) {
  return (fvg__property(u, code) & FVG__LETTER) != 0;
}

static int fvg__is_number(const fvg__unicode *u, uint32_t code) {
  return (fvg__property(u, code) & FVG__NUMBER) != 0;
}

static uint32_t fvg__combining_class(const fvg__unicode *u, uint32_t code) {
  return fvg__property(u, code) / FVG__COMBINING;
}

/* Returns the table's entry for a character, or NULL. */
static const fvg__mapping *fvg__mapping_of(const fvg__unicode *u, int table, uint32_t code) {
  const fvg__mapping *m = u->mapping[table];
  int low = 0;
  int high = u->n_mapping[table];

  while (high - low > 1) {
    int middle = low + (high - low) / 2;
    if (m[middle].from <= code) low = middle;
    else high = middle;
  }
  return m[low].from == code ? &m[low] : NULL;
}

/* White space as Python's str.isspace sees it. */
static int fvg__is_space(uint32_t code) {
  if (code < 128)
    return (code >= 9 && code <= 13) || (code >= 28 && code <= 32);
  if (code >= 0x2000 && code <= 0x200A) return 1;
  return code == 0x85 || code == 0xA0 || code == 0x1680 || code == 0x2028 || code == 0x2029
         || code == 0x202F || code == 0x205F || code == 0x3000;
}

/* ---- UTF-8: fvgpt.h has the reading half, fvg_utf8_length and fvg_utf8_read ---- */
static int fvg__utf8_bytes(uint32_t code) {
  return 1 + (code >= 0x80) + (code >= 0x800) + (code >= 0x10000);
}

/* Writes a character as 1 to 4 bytes and returns how many. */
static int fvg__utf8_write(uint8_t *s, uint32_t code) {
  static const uint8_t lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
  int n = fvg__utf8_bytes(code);

  for (int i = n - 1; i > 0; i--) {
    s[i] = (uint8_t)(0x80 | (code & 0x3F));
    code >>= 6;
  }
  s[0] = (uint8_t)(lead[n] | code);
  return n;
}

/* ---- HTML references, as Python's html.unescape reads them ---- */
#define FVG__NO_CHARACTER 0xFFFFFFFFu

/* The longest reference that ftfy looks at, with "&" and ";". */
#define FVG__HTML_LONGEST 26

/* Returns the character that the number in a reference stands for.  As browsers do, it reads 128
   to 159 as Windows-1252; control characters vanish. */
static uint32_t fvg__html_character(uint32_t number) {
  static const uint16_t windows[32] = {
    0x20AC, 0x81, 0x201A, 0x192, 0x201E, 0x2026, 0x2020, 0x2021,
    0x2C6, 0x2030, 0x160, 0x2039, 0x152, 0x8D, 0x17D, 0x8F,
    0x90, 0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014,
    0x2DC, 0x2122, 0x161, 0x203A, 0x153, 0x9D, 0x17E, 0x178
  };
  if (number >= 128 && number < 160) return windows[number - 128];

  /* What is no character at all becomes the replacement character. */
  int is_surrogate = number >= 0xD800 && number < 0xE000;
  if (number == 0 || number > 0x10FFFF || is_surrogate)
    return 0xFFFD;

  if (number == 9 || number == 10 || number == 12 || number == 13)
    return number;
  if (number < 32 || number == 127) return FVG__NO_CHARACTER;

  /* Unicode reserves these code points as "noncharacters". */
  if (number >= 0xFDD0 && number <= 0xFDEF)
    return FVG__NO_CHARACTER;
  if ((number & 0xFFFE) == 0xFFFE) return FVG__NO_CHARACTER;
  return number;
}

/* Returns the value of a digit in bases up to 36, or 99 for any other character. */
static uint32_t fvg__digit_value(uint32_t code) {
  if (code >= '0' && code <= '9') return code - '0';

  uint32_t small = code | 32;
  return small >= 'a' && small <= 'z' ? small - 'a' + 10 : 99;
}

/* Reads "&#38;" or "&#x26;", with or without the semicolon.  Returns its length, or 0 if t does
   not begin with one. */
static int fvg__html_number(const uint32_t *t, int n, uint32_t *code) {
  if (n < 3 || t[1] != '#') return 0;

  int is_hex = t[2] == 'x' || t[2] == 'X';
  uint32_t base = is_hex ? 16 : 10;
  int first = is_hex ? 3 : 2;

  /* Past the end of Unicode the value no longer matters, so it stops growing. */
  uint32_t number = 0;
  int i = first;
  while (i < n && fvg__digit_value(t[i]) < base) {
    if (number <= 0x10FFFF)
      number = number * base + fvg__digit_value(t[i]);
    i++;
  }
  if (i == first) return 0;

  *code = fvg__html_character(number);
  return i < n && t[i] == ';' ? i + 1 : i;
}

static int fvg__is_same_word(const char *word, int length, const uint32_t *name, int n) {
  if (length != n) return 0;
  for (int i = 0; i < n; i++) {
    if ((uint32_t)word[i] != name[i]) return 0;
  }
  return 1;
}

/* Returns the character that a name of n letters stands for, or 0.  The table is a list of words:
   a number is the character of the name after it, and each further name adds one. */
static uint32_t fvg__html_search(const char *const *line, const uint32_t *name, int n) {
  uint32_t code = 0;

  for (; *line; line++) {
    const char *at = *line;
    while (*at) {
      const char *word = at;
      while (*at > ' ') at++;

      if (*word <= '9') {
        code = 0;
        for (const char *digit = word; digit < at; digit++) {
          code = 10 * code + (uint32_t)(*digit - '0');
        }
      } else {
        if (fvg__is_same_word(word, (int)(at - word), name, n))
          return code;
        code++;
      }
      if (*at) at++;
    }
  }
  return 0;
}

/* Searches both tables, for names that a semicolon closes. */
static uint32_t fvg__html_named(const uint32_t *name, int n) {
  uint32_t code = fvg__html_search(fvg__unicode_table(FVG__HTML_OLD_NAMES), name, n);
  return code ? code : fvg__html_search(fvg__unicode_table(FVG__HTML_NAMES), name, n);
}

/* Searches for a name in capitals by its lower-case spelling: ftfy does, because whole texts get
   converted to capitals. */
static uint32_t fvg__html_capital(const uint32_t *name, int n) {
  uint32_t small[FVG__HTML_LONGEST];
  for (int i = 0; i < n; i++) {
    if (name[i] >= 'a') return 0;
    small[i] = name[i] >= 'A' ? name[i] + 32 : name[i];
  }
  return fvg__html_named(small, n);
}

/* Reads "&eacute;" or, as HTML allows for its oldest names, "&eacute" with any letters after it.
   Returns the length of the reference, or 0 if t does not begin with one. */
static int fvg__html_name(const uint32_t *t, int n, uint32_t *code) {
  int end = 1;
  while (end < n && end < FVG__HTML_LONGEST && fvg__digit_value(t[end]) < 36) end++;

  if (end > 1 && end < n && t[end] == ';') {
    *code = fvg__html_named(t + 1, end - 1);
    if (*code) return end + 1;
  }

  /* The oldest names have 2 to 6 letters; the longest match wins. */
  int longest = end - 1 < 6 ? end - 1 : 6;
  for (int length = longest; length >= 2; length--) {
    *code = fvg__html_search(fvg__unicode_table(FVG__HTML_OLD_NAMES), t + 1, length);
    if (*code) return length + 1;
  }
  return 0;
}

/* Replaces all references in place, which works because no reference is shorter than what it
   stands for.  Returns the new length. */
static int fvg__html_unescape(uint32_t *t, int n) {
  int read = 0;
  int write = 0;

  while (read < n) {
    uint32_t code = t[read];
    int used = 1;

    if (code == '&') {
      uint32_t found = 0;
      int length = fvg__html_number(t + read, n - read, &found);
      if (!length)
        length = fvg__html_name(t + read, n - read, &found);
      if (length) {
        code = found;
        used = length;
      }
    }

    read += used;
    if (code != FVG__NO_CHARACTER) t[write++] = code;
  }
  return write;
}

/* ---- repair: what ftfy.fix_text does to the characters ---- */

/* Tests for control characters, byte-order marks and the like, which ftfy drops. */
static int fvg__is_removed(uint32_t code) {
  if (code < 32)
    return code != 9 && code != 10 && code != 12 && code != 13;
  if (code == 127 || code == 0xFEFF) return 1;
  return (code >= 0x206A && code <= 0x206F) || (code >= 0xFFF9 && code <= 0xFFFC);
}

/* Returns the length of a terminal's escape sequence, such as "ESC [ 31 m", at t; 0 if there is
   none. */
static int fvg__terminal_escape(const uint32_t *t, int n) {
  if (n < 3 || t[0] != 27 || t[1] != '[') return 0;

  int i = 2;
  while (i < n && ((t[i] >= '0' && t[i] <= '9') || t[i] == ';')) i++;
  if (i == n) return 0;

  uint32_t letter = fvg__digit_value(t[i]);
  return letter >= 10 && letter < 36 ? i + 1 : 0;
}

/* Appends a character, repaired, to the n of t.  Returns the new length. */
static int fvg__put_repaired(const fvg__unicode *u, uint32_t *t, int n, uint32_t code) {
  if (code == FVG__NO_CHARACTER || fvg__is_removed(code))
    return n;

  const fvg__mapping *m = code < 128 ? NULL : fvg__mapping_of(u, FVG__REPAIRED, code);
  if (!m) {
    t[n] = code;
    return n + 1;
  }

  for (int k = 0; k < 3 && m->to[k]; k++) t[n++] = m->to[k];
  return n;
}

/* Returns the character of a whole reference of `length` characters, "&" to ";", or 0.  A name in
   capitals counts only if HTML does not read an old name at its start. */
static uint32_t fvg__whole_reference(const uint32_t *t, int length) {
  uint32_t code = 0;
  if (t[1] == '#')
    return fvg__html_number(t, length, &code) == length ? code : 0;

  code = fvg__html_named(t + 1, length - 2);
  if (code) return code;

  uint32_t capital = fvg__html_capital(t + 1, length - 2);
  uint32_t old;
  return capital && !fvg__html_name(t, length, &old) ? capital : 0;
}

/* Replaces a reference at the end of the n characters of t, and again while the result ends with
   one.  ftfy goes over the whole text until nothing changes; looking back at each semicolon has the
   same effect.  Returns the new length. */
static int fvg__close_reference(const fvg__unicode *u, uint32_t *t, int n) {
  while (n > 2 && t[n - 1] == ';') {
    int start = n - 2;
    while (start > 0 && n - start < FVG__HTML_LONGEST) {
      if (fvg__digit_value(t[start]) >= 36 && t[start] != '#')
        break;
      start--;
    }

    int length = n - start;
    if (t[start] != '&' || length < 3) break;

    uint32_t code = fvg__whole_reference(t + start, length);
    if (!code) break;
    n = fvg__put_repaired(u, t, start, code);
  }
  return n;
}

/* Writes the m characters of t, repaired, to dst; they are never more than the text has bytes.
   From the first line with a "<" on, ftfy takes a text for HTML and leaves its references alone.
   Returns the new length. */
static int fvg__repair(const fvg__unicode *u, uint32_t *dst, const uint32_t *t, int m) {
  int n_plain = 0;
  int i = 0;
  for (; i < m && t[i] != '<'; i++) {
    if (t[i] == '\n') n_plain = i + 1;
  }
  if (i == m) n_plain = m;

  int n = 0;
  for (i = 0; i < m; i++) {
    int escape = fvg__terminal_escape(t + i, m - i);
    if (escape) {
      i += escape - 1;
      continue;
    }

    n = fvg__put_repaired(u, dst, n, t[i]);
    if (i < n_plain) n = fvg__close_reference(u, dst, n);
  }
  return n;
}

/* ---- compose: NFC ---- */

/* A syllable of Hangul consists of a leading consonant, a vowel and perhaps a tail; its number
   follows from theirs. */
enum {
  FVG__LEAD = 0x1100,
  FVG__VOWEL = 0x1161,
  FVG__TAIL = 0x11A7,
  FVG__SYLLABLE = 0xAC00,
  FVG__N_LEAD = 19,
  FVG__N_VOWEL = 21,
  FVG__N_TAIL = 28,
  FVG__N_SYLLABLE = FVG__N_LEAD * FVG__N_VOWEL * FVG__N_TAIL
};

/* Writes the full canonical decomposition of a character, at most four characters, and returns how
   many there are. */
static int fvg__decompose(const fvg__unicode *u, uint32_t *dst, uint32_t code) {
  const uint32_t syllable = code - FVG__SYLLABLE;
  if (syllable < FVG__N_SYLLABLE) {
    dst[0] = FVG__LEAD + syllable / FVG__N_TAIL / FVG__N_VOWEL;
    dst[1] = FVG__VOWEL + syllable / FVG__N_TAIL % FVG__N_VOWEL;
    dst[2] = FVG__TAIL + syllable % FVG__N_TAIL;
    return syllable % FVG__N_TAIL ? 3 : 2;
  }

  const fvg__mapping *m = fvg__mapping_of(u, FVG__COMPOSED, code);
  if (!m) m = fvg__mapping_of(u, FVG__DECOMPOSED, code);
  if (!m) {
    dst[0] = code;
    return 1;
  }

  /* In Unicode only the first of a pair can itself be a pair. */
  int n = fvg__decompose(u, dst, m->to[0]);
  if (m->to[1]) dst[n++] = m->to[1];
  return n;
}

/* Returns the character that two compose to, or 0. */
static uint32_t fvg__compose_pair(const fvg__unicode *u, uint32_t first, uint32_t second) {
  const uint32_t lead = first - FVG__LEAD;
  const uint32_t vowel = second - FVG__VOWEL;
  if (lead < FVG__N_LEAD && vowel < FVG__N_VOWEL)
    return FVG__SYLLABLE + (lead * FVG__N_VOWEL + vowel) * FVG__N_TAIL;

  const uint32_t syllable = first - FVG__SYLLABLE;
  const uint32_t tail = second - FVG__TAIL;
  int has_no_tail = syllable < FVG__N_SYLLABLE && syllable % FVG__N_TAIL == 0;
  if (has_no_tail && tail > 0 && tail < FVG__N_TAIL)
    return first + tail;

  /* The first combining mark is U+0300; nothing before it composes. */
  if (second < 0x300) return 0;

  const fvg__mapping *m = u->mapping[FVG__COMPOSED];
  for (int i = 0; i < u->n_mapping[FVG__COMPOSED]; i++) {
    if (m[i].to[1] == second && m[i].to[0] == first)
      return m[i].from;
  }
  return 0;
}

/* Sorts n successive marks by combining class; marks of equal class keep their order.  `room` [n]
   is overwritten. */
static void fvg__order_marks(const fvg__unicode *u, uint32_t *t, int n, uint32_t *room) {
  int sorted = 1;
  for (int i = 1; i < n && sorted; i++) {
    sorted = fvg__combining_class(u, t[i - 1]) <= fvg__combining_class(u, t[i]);
  }
  if (sorted) return;

  /* A counting sort: count[k] is where the next mark of class k goes. */
  int count[257];
  memset(count, 0, sizeof count);
  for (int i = 0; i < n; i++) count[fvg__combining_class(u, t[i]) + 1]++;
  for (int i = 1; i < 257; i++) count[i] += count[i - 1];

  for (int i = 0; i < n; i++) room[count[fvg__combining_class(u, t[i])]++] = t[i];
  memcpy(t, room, (size_t)n * sizeof *t);
}

/* Joins marks to the starter (a character of class 0) before them, in place.  A mark joins unless
   another one of its class, or of a higher one, stands between.  Returns the new length. */
static int fvg__join_marks(const fvg__unicode *u, uint32_t *t, int n) {
  uint32_t class_before = 0;
  int starter = -1;
  int written = 0;

  for (int i = 0; i < n; i++) {
    uint32_t own_class = fvg__combining_class(u, t[i]);
    int is_next = written == starter + 1;

    uint32_t joined = 0;
    if (starter >= 0 && (is_next || class_before < own_class))
      joined = fvg__compose_pair(u, t[starter], t[i]);
    if (joined) {
      t[starter] = joined;
      continue;
    }

    if (!own_class) starter = written;
    class_before = own_class;
    t[written++] = t[i];
  }
  return written;
}

/* Writes the m characters of t in NFC to dst, which needs room for two characters per byte of the
   text.  Overwrites t.  Returns the length. */
static int fvg__compose(const fvg__unicode *u, uint32_t *dst, uint32_t *t, int m) {
  int n = 0;
  for (int i = 0; i < m; i++) n += fvg__decompose(u, dst + n, t[i]);

  /* Each run of marks, first .. end - 1, is put in canonical order; t serves as work space. */
  int first = 0;
  while (first < n) {
    int end = first;
    while (end < n && fvg__combining_class(u, dst[end])) end++;
    fvg__order_marks(u, dst + first, end - first, t);
    first = end + 1;
  }

  return fvg__join_marks(u, dst, n);
}

/* ---- tidy: white space and lower case ---- */

/* Runs of white space become one blank; at the ends they go.  Returns the new length. */
static int fvg__collapse_space(uint32_t *t, int n) {
  int write = 0;
  for (int read = 0; read < n; read++) {
    if (fvg__is_space(t[read])) continue;
    if (write && fvg__is_space(t[read - 1])) t[write++] = ' ';
    t[write++] = t[read];
  }
  return write;
}

/* Looks from i in steps of `step` for the nearest character that is not case-ignorable.  Returns 1
   if it is cased. */
static int fvg__cased_beyond(const fvg__unicode *u, const uint32_t *t, int n, int i, int step) {
  for (i += step; i >= 0 && i < n; i += step) {
    uint32_t property = fvg__property(u, t[i]);
    if (!(property & FVG__CASE_IGNORABLE))
      return (property & FVG__CASED) != 0;
  }
  return 0;
}

/* Writes the lower case of n characters to dst [2 n] and returns the new length: U+0130 becomes two
   characters.  A capital sigma that ends a word becomes U+03C2, any other U+03C3. */
static int fvg__lower(const fvg__unicode *u, uint32_t *dst, const uint32_t *t, int n) {
  int m = 0;
  for (int i = 0; i < n; i++) {
    uint32_t code = t[i];

    if (code < 128) {
      dst[m++] = code >= 'A' && code <= 'Z' ? code + 32 : code;
    } else if (code == 0x3A3) {
      int has_before = fvg__cased_beyond(u, t, n, i, -1);
      int ends_word = has_before && !fvg__cased_beyond(u, t, n, i, 1);
      dst[m++] = ends_word ? 0x3C2 : 0x3C3;
    } else if (code == 0x130) {
      dst[m++] = 'i';
      dst[m++] = 0x307;
    } else {
      const fvg__mapping *lower = fvg__mapping_of(u, FVG__LOWER, code);
      dst[m++] = lower ? lower->to[0] : code;
    }
  }
  return m;
}

/* Decodes UTF-8 into t and returns the number of characters.  *bad is the offset of the first byte
   that is not UTF-8, or `bytes`. */
static int fvg__utf8_decode(const uint8_t *s, size_t bytes, uint32_t *t, size_t *bad) {
  size_t at = 0;
  int m = 0;

  while (at < bytes) {
    size_t used = fvg_utf8_length(s + at, bytes - at);
    if (!used) break;
    t[m++] = fvg_utf8_read(s + at, used);
    at += used;
  }
  *bad = at;
  return m;
}

/* Applies the steps from `repair` on to the m characters in the second half of scratch [2 bytes].
   The result, not yet in lower case, is in t [bytes]; returns its length. */
static int fvg__normalise(const fvg__unicode *u, uint32_t *t, uint32_t *scratch, size_t bytes,
                          int m) {
  m = fvg__repair(u, t, scratch + bytes, m);

  /* A text without combining marks (U+0300 is the first) is composed already. */
  uint32_t highest = 0;
  for (int i = 0; i < m; i++) {
    if (t[i] > highest) highest = t[i];
  }
  if (highest >= 0x300) {
    m = fvg__compose(u, scratch, t, m);
    memcpy(t, scratch, (size_t)m * sizeof *t);
  }

  /* CLIP unescapes twice, for text that was escaped twice. */
  m = fvg__html_unescape(t, m);
  m = fvg__html_unescape(t, m);
  return fvg__collapse_space(t, m);
}

/* Reads a text as normalised characters in lower case: *out is a new array of *n (NULL and 0 if
   there are none).  A text of B bytes has at most B characters before and after every step, and at
   most 2 B while it is composed; tools/unicode_tables.py asserts this for every character. */
static fvg_status fvg__clean_text(fvg_ctx *c, const fvg__unicode *u, const char *utf8,
                                  uint32_t **out, int *n) {
  *out = NULL;
  *n = 0;

  size_t bytes = strlen(utf8);
  if (bytes > 100000000)
    return fvg_fail(c, FVG_E_UNSUPPORTED, "text: %zu bytes; 100000000 is the limit", bytes);
  if (!bytes) return FVG_OK;

  uint32_t *t = (uint32_t *)fvg_alloc_array(c, bytes, 3 * sizeof *t);
  if (!t) return FVG_E_NOMEM;
  uint32_t *scratch = t + bytes;

  size_t bad;
  int m = fvg__utf8_decode((const uint8_t *)utf8, bytes, scratch + bytes, &bad);
  if (bad < bytes) {
    fvg_release(c, t);
    return fvg_fail(c, FVG_E_FORMAT,
                    "text: byte 0x%02X at offset %zu is not UTF-8; convert the text first",
                    (unsigned)(uint8_t)utf8[bad], bad);
  }

  m = fvg__normalise(u, t, scratch, bytes, m);
  *n = fvg__lower(u, scratch, t, m);
  memmove(t, scratch, (size_t)*n * sizeof *t);
  *out = t;
  return FVG_OK;
}

/*==================================================================================================
 * CHAPTER 2  TOKENIZER: from text to byte-pair tokens
 *==================================================================================================
   A text encoder looks up one embedding per token, and tokens are frequent strings.  Byte-pair
   encoding (Gage 1994; Sennrich, Haddow and Birch, arXiv 1508.07909) writes a word as single
   symbols and then joins neighbours, always by the earliest merge in a learned list, until no pair
   is in the list:  c a t</w>  ->  ca t</w>  ->  cat</w>.  In GPT-2 the symbols are the 256 bytes,
   so that every text can be written; CLIP marks the end of a word by </w> and lower-cases.  Token
   ids, with n merges (48894 in the published models):

       0..255   bytes, in GPT-2's order     256..511  the same with </w>
       512 + i  what merge i makes
       512 + n  <|startoftext|>             513 + n   <|endoftext|>

   The text of chapter 1 is cut into pieces (letters | one digit | other signs), and each piece is
   merged by itself. */

/* ---- pieces ---- */

/* Returns the length of `word` if t begins with it, else 0. */
static int fvg__starts_with(const uint32_t *t, int n, const char *word) {
  int i = 0;
  for (; word[i]; i++) {
    if (i >= n || t[i] != (uint32_t)word[i]) return 0;
  }
  return i;
}

/* Returns the length of 's 't 'm 'd 're 've or 'll at t, else 0.  The long s (U+017F) counts as s,
   because the published pattern ignores case. */
static int fvg__contraction(const uint32_t *t, int n) {
  if (n < 2 || t[0] != '\'') return 0;

  uint32_t first = t[1];
  if (first == 's' || first == 't' || first == 'm' || first == 'd')
    return 2;
  if (first == 0x17F) return 2;

  uint32_t second = n > 2 ? t[2] : 0;
  if ((first == 'r' || first == 'v') && second == 'e') return 3;
  return first == 'l' && second == 'l' ? 3 : 0;
}

/* Blanks separate pieces and are dropped.  So is U+0345: when case is ignored, this combining mark
   equals iota, and the published pattern matches it neither as a letter nor as another sign. */
static int fvg__is_dropped(uint32_t code) { return code == ' ' || code == 0x345; }

typedef enum fvg__piece_kind {
  FVG__PIECE_TEXT,
  FVG__PIECE_START,                       /* <|startoftext|> written out  */
  FVG__PIECE_END                          /* <|endoftext|> written out    */
} fvg__piece_kind;

/* Returns the length of the piece that starts at t, at least 1. */
static int fvg__next_piece(const fvg__unicode *u, const uint32_t *t, int n,
                           fvg__piece_kind *kind) {
  *kind = FVG__PIECE_START;
  int length = fvg__starts_with(t, n, "<|startoftext|>");
  if (length) return length;

  *kind = FVG__PIECE_END;
  length = fvg__starts_with(t, n, "<|endoftext|>");
  if (length) return length;

  *kind = FVG__PIECE_TEXT;
  length = fvg__contraction(t, n);
  if (length) return length;

  if (fvg__is_number(u, t[0])) return 1;

  length = 1;
  if (fvg__is_letter(u, t[0])) {
    while (length < n && fvg__is_letter(u, t[length])) length++;
    return length;
  }

  while (length < n && !fvg__is_dropped(t[length])) {
    if (fvg__property(u, t[length]) & (FVG__LETTER | FVG__NUMBER))
      break;
    length++;
  }
  return length;
}

/* ---- the merges ---- */
struct fvg_tokenizer {
  fvg_ctx *ctx;
  fvg__unicode unicode;
  int n_merges;
  int byte_id[256];                       /* id of each byte's symbol                            */
  int *left, *right;                      /* [n_merges] ids that merge i joins, to make 512 + i  */
  int *slot;                              /* [mask + 1] hash of the pairs: 1 + merge, 0 if free  */
  uint32_t mask;
};

static int fvg__start_token(const fvg_tokenizer *k) { return 512 + k->n_merges; }
static int fvg__end_token(const fvg_tokenizer *k) { return 513 + k->n_merges; }

/* The hash tables use open addressing.  With half of the slots free, random keys are found within
   100 probes; the limit stops a file of deliberately colliding keys from making look-ups slow. */
#define FVG__MAX_PROBES 256

static uint32_t fvg__hash_mix(uint64_t x) {
  x *= 0x9E3779B97F4A7C15u;
  x ^= x >> 29;
  x *= 0xBF58476D1CE4E5B9u;
  return (uint32_t)(x >> 32);
}

static uint32_t fvg__hash_pair(int left, int right) {
  return fvg__hash_mix((uint64_t)(uint32_t)left << 32 | (uint32_t)right);
}

static uint32_t fvg__hash_bytes(const char *s, int n) {
  uint64_t h = (uint64_t)n;
  for (int i = 0; i < n; i++) {
    h = (h ^ (uint8_t)s[i]) * 0x100000001B3u;
  }
  return fvg__hash_mix(h);
}

/* Stores 1 + value in the first free slot; returns 0 if there is none within FVG__MAX_PROBES. */
static int fvg__hash_insert(int *slot, uint32_t mask, uint32_t hash, int value) {
  for (uint32_t i = 0; i < FVG__MAX_PROBES; i++) {
    int *s = &slot[(hash + i) & mask];
    if (*s) continue;
    *s = value + 1;
    return 1;
  }
  return 0;
}

/* Returns the mask of a table for n entries: a power of two, at least twice n, minus one. */
static uint32_t fvg__hash_mask(int n) {
  uint32_t size = 1024;
  while (size / 2 < (uint32_t)n) size *= 2;
  return size - 1;
}

/* Returns the merge of two ids, or -1 if they do not merge. */
static int fvg__find_merge(const fvg_tokenizer *k, int left, int right) {
  uint32_t hash = fvg__hash_pair(left, right);
  for (uint32_t i = 0; i < FVG__MAX_PROBES; i++) {
    int m = k->slot[(hash + i) & k->mask] - 1;
    if (m < 0) break;
    if (k->left[m] == left && k->right[m] == right) return m;
  }
  return -1;
}

/* ---- merging one piece ----
   The symbols form a linked list.  A tournament tree stands over them: leaf i holds
   rank << 32 | i for the pair that begins with symbol i (all ones if it does not merge), and each
   inner node holds the smaller of its two children, so the root is the earliest merge and, among
   equals, the leftmost.  A merge changes three leaves, so n symbols take O(n log n).

   CLIP's own code merges all pairs of the lowest rank at once.  One pair at a time gives the same
   tokens: a token exists only from its own merge on, so new pairs always rank after that merge. */
#define FVG__NO_MERGE 0xFFFFFFFFFFFFFFFFu

/* Work space that grows to the longest piece of a text. */
typedef struct fvg__pieces {
  int capacity;                           /* symbols                                             */
  uint64_t *tree;                         /* [2 capacity]                                        */
  int *id, *before, *after;               /* [capacity] symbol, and its neighbours in the list   */
} fvg__pieces;

/* Makes room for n symbols.  What was there before is lost. */
static fvg_status fvg__pieces_reserve(fvg_ctx *c, fvg__pieces *p, int n) {
  if (n <= p->capacity) return FVG_OK;
  fvg_release(c, p->tree);
  p->capacity = 0;

  size_t capacity = (size_t)(n < 64 ? 64 : n) * 2;
  size_t bytes_each = 2 * sizeof *p->tree + 3 * sizeof *p->id;
  p->tree = (uint64_t *)fvg_alloc_array(c, capacity, bytes_each);
  if (!p->tree) return FVG_E_NOMEM;

  p->id = (int *)(void *)(p->tree + 2 * capacity);
  p->before = p->id + capacity;
  p->after = p->before + capacity;
  p->capacity = (int)capacity;
  return FVG_OK;
}

/* Returns the leaf of symbol i, one of n. */
static uint64_t fvg__pair_key(const fvg_tokenizer *k, const fvg__pieces *p, int n, int i) {
  int next = p->after[i];
  int merge = next < n ? fvg__find_merge(k, p->id[i], p->id[next]) : -1;
  return merge < 0 ? FVG__NO_MERGE : (uint64_t)merge << 32 | (uint64_t)i;
}

static uint64_t fvg__smaller_child(const uint64_t *tree, int i) {
  uint64_t left = tree[2 * i];
  uint64_t right = tree[2 * i + 1];
  return left < right ? left : right;
}

/* Changes leaf i, one of n, and the nodes above it. */
static void fvg__tree_update(uint64_t *tree, int n, int i, uint64_t key) {
  i += n;
  tree[i] = key;
  for (i /= 2; i > 0; i /= 2) {
    tree[i] = fvg__smaller_child(tree, i);
  }
}

/* Merges the n symbols in p->id as far as they go.  Following p->after from 0 to n then gives the
   tokens. */
static void fvg__merge_piece(const fvg_tokenizer *k, fvg__pieces *p, int n) {
  uint64_t *tree = p->tree;

  for (int i = 0; i < n; i++) {
    p->before[i] = i - 1;
    p->after[i] = i + 1;
  }
  for (int i = 0; i < n; i++) {
    tree[n + i] = fvg__pair_key(k, p, n, i);
  }
  for (int i = n - 1; i > 0; i--) {
    tree[i] = fvg__smaller_child(tree, i);
  }

  while (tree[1] != FVG__NO_MERGE) {
    int left = (int)(tree[1] & 0xFFFFFFFFu);
    int right = p->after[left];
    int before = p->before[left];

    /* The left symbol becomes the token; the right one leaves the list. */
    p->id[left] = 512 + (int)(tree[1] >> 32);
    p->after[left] = p->after[right];
    if (p->after[right] < n) p->before[p->after[right]] = left;

    fvg__tree_update(tree, n, right, FVG__NO_MERGE);
    fvg__tree_update(tree, n, left, fvg__pair_key(k, p, n, left));
    if (before >= 0)
      fvg__tree_update(tree, n, before, fvg__pair_key(k, p, n, before));
  }
}

/* Writes the byte symbols of a piece of n characters to p->id, the last one with </w>.  Returns how
   many there are, or -1 if memory ran out. */
static int fvg__spell_piece(const fvg_tokenizer *k, fvg__pieces *p, const uint32_t *t, int n) {
  int bytes = 0;
  for (int i = 0; i < n; i++) bytes += fvg__utf8_bytes(t[i]);
  if (fvg__pieces_reserve(k->ctx, p, bytes)) return -1;

  int m = 0;
  for (int i = 0; i < n; i++) {
    uint8_t utf8[4];
    int used = fvg__utf8_write(utf8, t[i]);
    for (int j = 0; j < used; j++) {
      p->id[m++] = k->byte_id[utf8[j]];
    }
  }
  p->id[m - 1] += 256;
  return m;
}

/* Where the caller wants the tokens; n counts those without room too. */
typedef struct fvg__token_list {
  int *id;
  int capacity;
  int n;
} fvg__token_list;

static void fvg__emit_token(fvg__token_list *out, int id) {
  if (out->n < out->capacity) out->id[out->n] = id;
  out->n++;
}

/* Appends the tokens of one piece of text, n characters. */
static fvg_status fvg__tokenize_piece(const fvg_tokenizer *k, fvg__pieces *p, const uint32_t *t,
                                      int n, fvg__token_list *out) {
  int n_symbols = fvg__spell_piece(k, p, t, n);
  if (n_symbols < 0) return FVG_E_NOMEM;

  fvg__merge_piece(k, p, n_symbols);
  for (int i = 0; i < n_symbols; i = p->after[i]) {
    fvg__emit_token(out, p->id[i]);
  }
  return FVG_OK;
}

/* Cleans the text, cuts it into pieces and tokenizes each. */
FVG_DEF fvg_status fvg_tokenize(const fvg_tokenizer *k, int *ids, int capacity, int *n,
                                const char *utf8) {
  if (n) *n = 0;
  if (!k) return FVG_E_ARG;
  if (!utf8 || !n)
    return fvg__missing(k->ctx, "fvg_tokenize", "a text and a place for the count");
  if (capacity < 0 || (capacity > 0 && !ids))
    return fvg_fail(k->ctx, FVG_E_ARG, "fvg_tokenize: no place for %d ids", capacity);

  uint32_t *text;
  int length;
  fvg_status status = fvg__clean_text(k->ctx, &k->unicode, utf8, &text, &length);
  if (status) return status;

  fvg__token_list out = {ids, capacity, 0};
  fvg__pieces pieces;
  memset(&pieces, 0, sizeof pieces);

  int at = 0;
  while (at < length && !status) {
    if (fvg__is_dropped(text[at])) {
      at++;
      continue;
    }

    fvg__piece_kind kind;
    int used = fvg__next_piece(&k->unicode, text + at, length - at, &kind);
    if (kind == FVG__PIECE_START)
      fvg__emit_token(&out, fvg__start_token(k));
    else if (kind == FVG__PIECE_END)
      fvg__emit_token(&out, fvg__end_token(k));
    else
      status = fvg__tokenize_piece(k, &pieces, text + at, used, &out);
    at += used;
  }

  fvg_release(k->ctx, pieces.tree);
  fvg_release(k->ctx, text);
  if (!status) *n = out.n;
  return status;
}

/* ---- reading the merge list ---- */
typedef struct fvg__symbol {
  const char *s;
  int n;                                  /* bytes                                               */
} fvg__symbol;

typedef struct fvg__merge_file {
  const char *name;
  char *at, *end;                         /* what is left to read                                */
  int line;                               /* number of the line that begins at `at`              */
  char bytes[256][8];                     /* the byte symbols, each followed by </w>             */
  fvg__symbol *symbol;                    /* [512 + n_merges] the string of each id              */
  int *slot;                              /* [mask + 1] hash of the strings: 1 + id, 0 if free   */
  uint32_t mask;
} fvg__merge_file;

/* Returns the id of a string, or -1. */
static int fvg__find_symbol(const fvg__merge_file *f, const char *s, int n) {
  uint32_t hash = fvg__hash_bytes(s, n);
  for (uint32_t i = 0; i < FVG__MAX_PROBES; i++) {
    int id = f->slot[(hash + i) & f->mask] - 1;
    if (id < 0) break;

    const fvg__symbol *found = &f->symbol[id];
    if (found->n == n && !memcmp(found->s, s, (size_t)n))
      return id;
  }
  return -1;
}

static int fvg__add_symbol(fvg__merge_file *f, int id, const char *s, int n) {
  f->symbol[id].s = s;
  f->symbol[id].n = n;
  return fvg__hash_insert(f->slot, f->mask, fvg__hash_bytes(s, n), id);
}

/* Adds the symbols 0 to 511.  GPT-2 writes a byte as the character of that number if it is
   printable and not a blank; the other bytes, in order, as U+0100, U+0101, ...  The printable ones
   have the lower ids. */
static void fvg__add_byte_symbols(fvg_tokenizer *k, fvg__merge_file *f) {
  int id = 0;
  for (int printable = 1; printable >= 0; printable--) {
    uint32_t next_other = 256;

    for (int byte = 0; byte < 256; byte++) {
      int is_ascii = byte >= 33 && byte <= 126;
      int is_latin = byte >= 161 && byte != 173;
      if ((is_ascii || is_latin) != printable) continue;

      char *s = f->bytes[byte];
      int n = fvg__utf8_write((uint8_t *)s, printable ? (uint32_t)byte : next_other++);
      memcpy(s + n, "</w>", 4);

      fvg__add_symbol(f, id, s, n);
      fvg__add_symbol(f, 256 + id, s, n + 4);
      k->byte_id[byte] = id++;
    }
  }
}

static char *fvg__line_end(char *at, char *end) {
  char *newline = (char *)memchr(at, '\n', (size_t)(end - at));
  return newline ? newline : end;
}

static int fvg__is_line_blank(char ch) { return ch == ' ' || ch == '\t' || ch == '\r'; }

/* Returns the next word between *at and end and moves *at after it; *n is 0 if there is none. */
static char *fvg__next_word(char **at, char *end, int *n) {
  while (*at < end && fvg__is_line_blank(**at)) ++*at;

  char *word = *at;
  while (*at < end && !fvg__is_line_blank(**at)) ++*at;
  *n = (int)(*at - word);
  return word;
}

static fvg_status fvg__unknown_symbol(const fvg_tokenizer *k, const fvg__merge_file *f,
                                      const char *s, int n) {
  return fvg_fail(k->ctx, FVG_E_FORMAT,
                  "%s: line %d: \"%.*s\" is no symbol yet: neither a byte nor made before",
                  f->name, f->line, n < 40 ? n : 40, s);
}

/* Adds the token that merge i makes, a string of n bytes. */
static fvg_status fvg__add_merge(fvg_tokenizer *k, fvg__merge_file *f, int i, const char *s,
                                 int n) {
  int earlier = fvg__find_symbol(f, s, n);
  if (earlier >= 0)
    return fvg_fail(k->ctx, FVG_E_FORMAT,
                    "%s: line %d: \"%.*s\" is token %d already; a merge must make a new one",
                    f->name, f->line, n < 40 ? n : 40, s, earlier);

  uint32_t hash = fvg__hash_pair(k->left[i], k->right[i]);
  int has_room = fvg__add_symbol(f, 512 + i, s, n);
  has_room = has_room && fvg__hash_insert(k->slot, k->mask, hash, i);
  if (!has_room)
    return fvg_fail(k->ctx, FVG_E_FORMAT,
                    "%s: line %d: %d symbols share a hash; this is no learned list of merges",
                    f->name, f->line, FVG__MAX_PROBES);
  return FVG_OK;
}

/* Reads the line of merge i, "left right".  Closing the gap between the two, in place, gives the
   string of the new token. */
static fvg_status fvg__read_merge(fvg_tokenizer *k, fvg__merge_file *f, int i) {
  char *line = f->at;
  char *end = fvg__line_end(line, f->end);

  char *at = line;
  int n_left, n_right, n_more;
  char *left = fvg__next_word(&at, end, &n_left);
  char *right = fvg__next_word(&at, end, &n_right);
  fvg__next_word(&at, end, &n_more);
  if (!n_right || n_more) {
    int shown = end - line < 40 ? (int)(end - line) : 40;
    return fvg_fail(k->ctx, FVG_E_FORMAT,
                    "%s: line %d: \"%.*s\" is not a merge: two symbols with a blank between",
                    f->name, f->line, shown, line);
  }

  k->left[i] = fvg__find_symbol(f, left, n_left);
  k->right[i] = fvg__find_symbol(f, right, n_right);
  if (k->left[i] < 0)
    return fvg__unknown_symbol(k, f, left, n_left);
  if (k->right[i] < 0)
    return fvg__unknown_symbol(k, f, right, n_right);

  memmove(left + n_left, right, (size_t)n_right);
  fvg_status status = fvg__add_merge(k, f, i, left, n_left + n_right);
  if (status) return status;

  f->at = end < f->end ? end + 1 : end;
  f->line++;
  return FVG_OK;
}

/* Skips the first line and blank lines at the end.  Returns the number of lines between. */
static int fvg__count_merges(fvg__merge_file *f) {
  f->at = fvg__line_end(f->at, f->end);
  while (f->end > f->at) {
    char last = f->end[-1];
    if (!fvg__is_line_blank(last) && last != '\n') break;
    f->end--;
  }
  if (f->at < f->end) f->at++;
  f->line = 2;

  int n = 0;
  for (char *at = f->at; at < f->end; at = fvg__line_end(at, f->end) + 1) {
    n++;
  }
  return n;
}

/* Tests whether words end with </w>, as in CLIP; GPT-2's and RoBERTa's lists have no such thing.  A
   list of fewer than 64 merges may simply not have come to a whole word. */
static int fvg__ends_words(const fvg__merge_file *f, int n) {
  for (const char *at = f->at; f->end - at >= 4; at++) {
    if (!memcmp(at, "</w>", 4)) return 1;
  }
  return n < 64;
}

/* The published vocabulary has 49408 tokens. */
#define FVG__CLIP_MERGES 48894

/* Returns how many merges of a file with n_file belong to a model of n_row token embeddings (0: any
   model).  Rows beyond the merges, the byte symbols, [SOT] and [EOT] are tokens that were added
   after [EOT].  Their number follows from `end`, the id of [EOT] (0: unknown), or else from where
   the published vocabulary ends. */
static int fvg__merges_used(int n_file, int n_row, int end) {
  if (!n_row || n_file == n_row - 514) return n_file;
  if (end && end < n_row && n_file >= end - 513) return end - 513;
  if (n_row - 514 > FVG__CLIP_MERGES && n_file >= FVG__CLIP_MERGES)
    return FVG__CLIP_MERGES;
  return n_row - 514;
}

/* Allocates the tables for n merges and reads the merges. */
static fvg_status fvg__fill_tokenizer(fvg_tokenizer *k, fvg__merge_file *f, int n) {
  int n_ids = 512 + n;
  k->n_merges = n;
  k->mask = fvg__hash_mask(n);
  f->mask = fvg__hash_mask(n_ids);

  k->left = FVG_NEW_ARRAY(k->ctx, int, (size_t)n);
  k->right = FVG_NEW_ARRAY(k->ctx, int, (size_t)n);
  k->slot = FVG_NEW_ARRAY(k->ctx, int, (size_t)k->mask + 1);
  f->symbol = FVG_NEW_ARRAY(k->ctx, fvg__symbol, (size_t)n_ids);
  f->slot = FVG_NEW_ARRAY(k->ctx, int, (size_t)f->mask + 1);

  fvg_status status = FVG_E_NOMEM;
  if (k->left && k->right && k->slot && f->symbol && f->slot) {
    status = FVG_OK;
    fvg__add_byte_symbols(k, f);
    for (int i = 0; i < n && !status; i++) {
      status = fvg__read_merge(k, f, i);
    }
  }

  fvg_release(k->ctx, f->symbol);
  fvg_release(k->ctx, f->slot);
  return status;
}

static fvg_status fvg__read_merges(fvg_tokenizer *k, fvg__merge_file *f, int vocab_size,
                                   int end) {
  int n_file = fvg__count_merges(f);
  int n = fvg__merges_used(n_file, vocab_size, end);

  /* A model of any size still needs one merge. */
  int needed = vocab_size ? vocab_size - 514 : 1;
  int is_short = vocab_size ? n_file < n : n < 1;
  if (is_short)
    return fvg_fail(k->ctx, FVG_E_FORMAT,
                    "%s: holds %d merges, the model's vocabulary of %d tokens needs %d",
                    f->name, n_file, needed + 514, needed);

  if (!fvg__ends_words(f, n_file))
    return fvg_fail(k->ctx, FVG_E_FORMAT,
                    "%s: no merge ends a word with </w>, so this is not CLIP's vocabulary, but "
                    "one such as GPT-2's", f->name);
  return fvg__fill_tokenizer(k, f, n);
}

/* Reads the whole tokenizer from the n bytes of a merge list, which it overwrites. */
static fvg_status fvg__tokenizer_read(fvg_tokenizer *k, const char *name, uint8_t *bytes, size_t n,
                                      int vocab_size, int end) {
  if (n >= 2 && bytes[0] == 0x1F && bytes[1] == 0x8B)
    return fvg_fail(k->ctx, FVG_E_FORMAT, "%s: is packed by gzip; unpack it with gunzip first",
                    name);
  if (n > 1000000000)
    return fvg_fail(k->ctx, FVG_E_UNSUPPORTED, "%s: %zu bytes; 1000000000 is the limit", name, n);

  fvg__merge_file f;
  memset(&f, 0, sizeof f);
  f.name = name;
  f.at = (char *)bytes;
  f.end = f.at + n;
  fvg_status status = fvg__read_merges(k, &f, vocab_size, end);
  return status ? status : fvg__unicode_open(k->ctx, &k->unicode);
}

/* Opens a tokenizer as fvg_tokenizer_open does.  `end` is the id of [EOT] if the model's
   configuration has one, else 0. */
static fvg_status fvg__tokenizer_open(fvg_ctx *c, fvg_tokenizer **out, const fvg_source *merges,
                                      int vocab_size, int end) {
  *out = NULL;
  const char *name = merges->name ? merges->name : "merges";
  if (vocab_size < 0 || (vocab_size > 0 && vocab_size < 514))
    return fvg_fail(c, FVG_E_ARG,
                    "%s: a vocabulary of %d tokens is too small: byte symbols, start and end are "
                    "514", name, vocab_size);

  uint8_t *bytes = NULL;
  size_t n = 0;
  fvg_status status = fvg_source_read_all(c, &bytes, &n, merges);
  if (status) return status;

  fvg_tokenizer *k = FVG_NEW(c, fvg_tokenizer);
  if (!k) {
    fvg_bytes_free(c, bytes);
    return FVG_E_NOMEM;
  }
  k->ctx = c;

  fvg__budget budget;
  fvg__budget_begin(c, &budget, name, n);
  status = fvg__tokenizer_read(k, name, bytes, n, vocab_size, end);
  fvg__budget_end(c, &budget);

  fvg_bytes_free(c, bytes);
  if (status) {
    fvg_tokenizer_free(k);
    return status;
  }
  *out = k;
  return FVG_OK;
}

FVG_DEF fvg_status fvg_tokenizer_open(fvg_ctx *c, fvg_tokenizer **out, const fvg_source *merges,
                                      int vocab_size) {
  if (out) *out = NULL;
  if (!out || !merges)
    return fvg__missing(c, "fvg_tokenizer_open", "a merge list and a place for the tokenizer");
  return fvg__tokenizer_open(c, out, merges, vocab_size, 0);
}

FVG_DEF void fvg_tokenizer_free(fvg_tokenizer *k) {
  if (!k) return;
  fvg_release(k->ctx, k->left);
  fvg_release(k->ctx, k->right);
  fvg_release(k->ctx, k->slot);
  fvg__unicode_free(k->ctx, &k->unicode);
  fvg_release(k->ctx, k);
}

FVG_DEF int fvg_tokenizer_vocab_size(const fvg_tokenizer *k) { return 514 + k->n_merges; }

/* ---- class names ---- */

/* Class names are often the names of folders: "great_pyrenees" is read as "great pyrenees". */
static void fvg__blank_underscores(char *name) {
  for (; *name; name++) {
    if (*name == '_') *name = ' ';
  }
}

/* Makes underscores blanks and, in place, cuts off white space and what the tokenizer drops from
   both ends, so that no blank separates the name from the full stop of its sentence. */
FVG_DEF void fvg_tidy_name(char *name) {
  fvg__blank_underscores(name);

  const uint8_t *s = (const uint8_t *)name;
  size_t n = strlen(name);
  size_t first = n;
  size_t end = 0;
  size_t at = 0;

  while (at < n) {
    /* A byte that is not UTF-8 counts as a character of its own. */
    size_t length = fvg_utf8_length(s + at, n - at);
    size_t next = at + (length ? length : 1);
    uint32_t code = length ? fvg_utf8_read(s + at, length) : 0xFFFD;

    if (!fvg__is_space(code) && !fvg__is_removed(code)) {
      if (first == n) first = at;
      end = next;
    }
    at = next;
  }

  size_t kept = end > first ? end - first : 0;
  if (kept) memmove(name, name + first, kept);
  name[kept] = 0;
}

/* A name as the tokenizer reads it, which is what names are compared by. */
typedef struct fvg__name_key {
  uint32_t *text;                         /* [n] characters, owned                               */
  int n;
  uint32_t hash;
} fvg__name_key;

/* Makes the key of a name that is not UTF-8: its bytes, as numbers beyond all characters. */
static fvg_status fvg__name_key_bytes(fvg_ctx *c, const char *name, fvg__name_key *key) {
  int n = (int)strlen(name);
  key->text = FVG_NEW_ARRAY(c, uint32_t, (size_t)n);
  if (!key->text) return FVG_E_NOMEM;

  key->n = n;
  for (int i = 0; i < n; i++) {
    key->text[i] = 0x110000u + (uint8_t)name[i];
  }
  return FVG_OK;
}

/* Makes the key of a name; the caller releases key->text. */
static fvg_status fvg__name_key_new(fvg_ctx *c, const fvg__unicode *u, const char *name,
                                    fvg__name_key *key) {
  memset(key, 0, sizeof *key);
  char *copy = fvg_copy_string(c, name);
  if (!copy) return FVG_E_NOMEM;

  fvg_tidy_name(copy);
  const int is_text = fvg__is_utf8(copy, strlen(copy));
  const fvg_status s = is_text ? fvg__clean_text(c, u, copy, &key->text, &key->n)
                               : fvg__name_key_bytes(c, name, key);
  fvg_release(c, copy);
  if (s) return s;

  uint64_t hash = 0;
  for (int i = 0; i < key->n; i++) {
    hash = (hash ^ key->text[i]) * 0x100000001B3u;
  }
  key->hash = fvg__hash_mix(hash);
  return FVG_OK;
}

static int fvg__same_key(const fvg__name_key *a, const fvg__name_key *b) {
  if (a->hash != b->hash || a->n != b->n) return 0;
  if (!a->n) return 1;
  return !memcmp(a->text, b->text, (size_t)a->n * sizeof *a->text);
}

/* Returns the index of the first of n keys that equals `own`, or -1. */
static int fvg__find_key(const fvg__name_key *key, int n, const fvg__name_key *own) {
  for (int k = 0; k < n; k++) {
    if (fvg__same_key(&key[k], own)) return k;
  }
  return -1;
}

/* Fails unless there are n names.  `who` begins the message. */
static fvg_status fvg__need_names(fvg_ctx *c, const char *who, const char *const *name, int n) {
  if (n > 0 && !name) return fvg__missing(c, who, "names");
  for (int i = 0; i < n; i++) {
    if (!name[i])
      return fvg_fail(c, FVG_E_ARG, "%s: name %d of %d is NULL", who, i + 1, n);
  }
  return FVG_OK;
}

/* Makes a key of every name, then compares keys. */
FVG_DEF fvg_status fvg_match_names(fvg_ctx *c, int *match, const char *const *name, int n,
                                   const char *const *among, int n_among) {
  if (n < 0 || n_among < 0)
    return fvg_fail(c, FVG_E_ARG, "fvg_match_names: %d names among %d", n, n_among);
  if (n > 0 && !match)
    return fvg__missing(c, "fvg_match_names", "a place for the matches");
  fvg_status s = fvg__need_names(c, "fvg_match_names", name, n);
  if (!s) s = fvg__need_names(c, "fvg_match_names", among, n_among);
  if (s) return s;

  fvg__name_key *key = FVG_NEW_ARRAY(c, fvg__name_key, (size_t)n_among + 1);
  if (!key) return FVG_E_NOMEM;

  fvg__unicode u;
  s = fvg__unicode_open(c, &u);
  for (int k = 0; !s && k < n_among; k++) {
    s = fvg__name_key_new(c, &u, among[k], &key[k]);
  }

  for (int i = 0; !s && i < n; i++) {
    fvg__name_key own;
    s = fvg__name_key_new(c, &u, name[i], &own);
    match[i] = s ? -1 : fvg__find_key(key, n_among, &own);
    fvg_release(c, own.text);
  }

  fvg__unicode_free(c, &u);
  for (int k = 0; k < n_among; k++) fvg_release(c, key[k].text);
  fvg_release(c, key);
  return s;
}

FVG_DEF int fvg_same_name(fvg_ctx *c, const char *a, const char *b) {
  /* No name at all equals nothing but no name. */
  if (!a || !b) return a == b;
  if (!strcmp(a, b)) return 1;

  int match = -1;
  return !fvg_match_names(c, &match, &a, 1, &b, 1) && match == 0;
}

/* Refuses an empty class name, because nothing could refer to it.  `who` begins the message. */
static fvg_status fvg__check_not_empty(fvg_ctx *c, const char *who, const char *const *name,
                                       int n) {
  const char *const empty = "";
  int first = -1;
  fvg_status s = fvg__need_names(c, who, name, n);
  if (!s) s = fvg_match_names(c, &first, &empty, 1, name, n < 0 ? 0 : n);
  if (s || first < 0) return s;
  return fvg_fail(c, FVG_E_ARG, "%s: the name of class %d of %d is empty", who, first + 1, n);
}

FVG__SELDOM_RUN_END

/*==================================================================================================
 * CHAPTER 3  IMAGES: pixels, PNM, and what kind of file it is
 *==================================================================================================
   Pixels are bytes, rows top down, channels interleaved.  PNM is read here; PNG, JPEG, BMP and GIF
   are read in chapters 4 and 5, by stb_image where the build has it.  Each reader returns the
   picture as it is in the file, and the requested form (RGB, grey) is made from that at the end.

   Files are hostile until checked: sides, pixels and the bytes that they would need are compared
   with the file's length before any memory is allocated.  Whatever lengths, checksums, markers and
   tables can tell to be damaged or cut off is an error, never a picture with grey areas.  (Bytes
   that are missing inside a JPEG's scan without restart markers cannot be told.) */

#define FVG__IMAGE_SIDE   (1 << 20)       /* longest side                                        */
#define FVG__IMAGE_PIXELS (1 << 27)       /* most pixels, also between the passes of a resize    */
#define FVG__IMAGE_BYTES  (1 << 30)       /* longest file, largest block for stb_image           */
#define FVG__JPEG_SCANS   64              /* each scan visits every block, however short it is   */

static int fvg__image_fits(int64_t width, int64_t height) {
  if (width < 1 || width > FVG__IMAGE_SIDE) return 0;
  if (height < 1 || height > FVG__IMAGE_SIDE) return 0;
  return width * height <= FVG__IMAGE_PIXELS;
}

static size_t fvg__pixel_count(const fvg_image *image) {
  return (size_t)image->width * (size_t)image->height;
}

static fvg_status fvg__image_new(fvg_ctx *c, fvg_image *out, int width, int height, int channels) {
  memset(out, 0, sizeof *out);
  size_t pixels = (size_t)width * (size_t)height;
  out->pixels = (uint8_t *)fvg_alloc_array(c, pixels, (size_t)channels);
  if (!out->pixels) return FVG_E_NOMEM;

  out->width = width;
  out->height = height;
  out->channels = channels;
  return FVG_OK;
}

FVG_DEF void fvg_image_free(fvg_ctx *c, fvg_image *image) {
  if (!image) return;
  fvg_release(c, image->pixels);
  memset(image, 0, sizeof *image);
}

/* Checks an image that the caller passed in; `who` begins the message. */
static fvg_status fvg__image_check(fvg_ctx *c, const fvg_image *image, const char *who) {
  if (!image)
    return fvg_fail(c, FVG_E_ARG, "%s: needs an image, not NULL", who);

  int channels = image->channels;
  int fits = fvg__image_fits(image->width, image->height);
  if (image->pixels && channels >= 1 && channels <= 4 && fits)
    return FVG_OK;
  return fvg_fail(c, FVG_E_ARG, "%s: not an image: %d x %d pixels of %d channels%s", who,
                  image->width, image->height, channels,
                  image->pixels ? "" : ", no pixel memory");
}

/* Converts n pixels of `from` channels (1 grey, 2 grey alpha, 3 RGB, 4 RGB alpha) to 1 channel
   (grey, the rounded mean of R, G and B) or 3 (RGB).  Alpha is dropped. */
static void fvg__convert_pixels(uint8_t *dst, int to, const uint8_t *src, int from, size_t n) {
  if (to == from) {
    memcpy(dst, src, n * (size_t)to);
    return;
  }

  int green = from < 3 ? 0 : 1;
  int blue = from < 3 ? 0 : 2;
  for (size_t i = 0; i < n; i++) {
    if (to == 1) {
      int sum = src[0] + src[green] + src[blue];
      dst[0] = (uint8_t)((sum + 1) / 3);
    } else {
      dst[0] = src[0];
      dst[1] = src[green];
      dst[2] = src[blue];
    }
    src += from;
    dst += to;
  }
}

/* Warnings that are logged once per context, however many files they apply to. */
enum {
  FVG__SAID_16_BIT = 1,
  FVG__SAID_TURNED = 2,
  FVG__SAID_SCALE = 4,
  FVG__SAID_NO_BACKGROUND = 8
};

/* Pillow's convert("RGB") cuts 16-bit grey off at 255, which makes most of such a picture white. */
static void fvg__say_16_bit(fvg_ctx *c, const char *file) {
  fvg__log_once(c, FVG__SAID_16_BIT, 0,
                "%s: grey of 16 bits is scaled to 8 (Pillow's convert(\"RGB\") would cut it off "
                "at 255); if fewer bits are used, it is dark: scale it first.  Others are not "
                "mentioned",
                file);
}

static int fvg__is_ascii_space(int byte) {
  return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

/* ---- PNM ----
   "P1" to "P6", width, height, the largest value (except for bits), then the pixels: as text for
   P1 to P3, as bytes for P4 to P6.  P1 and P4 are bits, P2 and P5 grey, P3 and P6 RGB. */
typedef struct fvg__pnm {
  const uint8_t *at, *end;                /* what is left to read                                */
  int kind;                               /* 1 to 6                                              */
  int width, height;
  int max;                                /* the value of white                                  */
} fvg__pnm;

static int fvg__pnm_is_rgb(const fvg__pnm *p) {
  return p->kind == 3 || p->kind == 6;
}

static int fvg__pnm_is_bits(const fvg__pnm *p) {
  return p->kind == 1 || p->kind == 4;
}

/* Skips a comment up to the end of its line, which stays. */
static void fvg__pnm_skip_comment(fvg__pnm *p) {
  if (p->at == p->end || *p->at != '#') return;
  while (p->at < p->end && *p->at != '\n' && *p->at != '\r') {
    p->at++;
  }
}

/* Skips white space and comments. */
static void fvg__pnm_skip(fvg__pnm *p) {
  for (;;) {
    fvg__pnm_skip_comment(p);
    if (p->at == p->end || !fvg__is_ascii_space(*p->at)) return;
    p->at++;
  }
}

/* Returns the digit at p->at, or -1 if there is none. */
static int fvg__pnm_digit(const fvg__pnm *p) {
  if (p->at == p->end) return -1;
  int digit = *p->at - '0';
  return digit >= 0 && digit <= 9 ? digit : -1;
}

/* Reads a number; returns -1 if there is none or if it is beyond the longest side. */
static int fvg__pnm_number(fvg__pnm *p) {
  fvg__pnm_skip(p);
  int digit = fvg__pnm_digit(p);
  if (digit < 0) return -1;

  int value = 0;
  while (digit >= 0) {
    value = 10 * value + digit;
    if (value > FVG__IMAGE_SIDE) return -1;
    p->at++;
    digit = fvg__pnm_digit(p);
  }
  return value;
}

/* Reads the header from "P" on, and the white space that separates it from binary pixels. */
static fvg_status fvg__pnm_header(fvg_ctx *c, fvg__pnm *p, const char *file) {
  p->kind = p->at[1] - '0';
  p->at += 2;
  p->width = fvg__pnm_number(p);
  p->height = fvg__pnm_number(p);
  p->max = fvg__pnm_is_bits(p) ? 1 : fvg__pnm_number(p);

  if (!fvg__image_fits(p->width, p->height))
    return fvg_fail(c, FVG_E_FORMAT,
                    "%s: PNM header without a usable size: sides 1 to %d, at most %d pixels",
                    file, FVG__IMAGE_SIDE, FVG__IMAGE_PIXELS);
  if (p->max < 1 || p->max > 65535)
    return fvg_fail(c, FVG_E_FORMAT, "%s: PNM header without a largest value of 1 to 65535",
                    file);
  if (p->kind < 4) return FVG_OK;

  fvg__pnm_skip_comment(p);
  if (p->at == p->end || !fvg__is_ascii_space(*p->at))
    return fvg_fail(c, FVG_E_FORMAT, "%s: PNM header does not end in white space", file);
  p->at++;
  return FVG_OK;
}

/* Returns the bytes of a row of bits. */
static size_t fvg__pnm_bit_row(const fvg__pnm *p) {
  return ((size_t)p->width + 7) / 8;
}

/* Returns the fewest bytes that can hold the pixels.  A text value needs a digit and, except
   between bits, a blank. */
static size_t fvg__pnm_bytes(const fvg__pnm *p) {
  size_t pixels = (size_t)p->width * (size_t)p->height;
  size_t values = fvg__pnm_is_rgb(p) ? 3 * pixels : pixels;

  if (p->kind == 1) return values;
  if (p->kind < 4) return 2 * values - 1;
  if (p->kind == 4)
    return fvg__pnm_bit_row(p) * (size_t)p->height;
  return p->max > 255 ? 2 * values : values;
}

/* Returns 255 value / max.  Halves are rounded to even, as Python rounds in Pillow's reader.  Too
   large a value is white. */
static uint8_t fvg__pnm_scale(int value, int max) {
  if (value >= max) return 255;

  double x = (double)value / max * 255;
  double below = floor(x);
  double rest = x - below;
  int y = (int)below;
  if (rest > 0.5 || (rest == 0.5 && y % 2)) y++;
  return (uint8_t)y;
}

/* Reads bits, 1 for black, in rows of whole bytes. */
static void fvg__pnm_read_bits(const fvg__pnm *p, uint8_t *dst) {
  const uint8_t *row = p->at;
  for (int y = 0; y < p->height; y++) {
    for (int x = 0; x < p->width; x++) {
      int bit = (row[x / 8] >> (7 - x % 8)) & 1;
      *dst++ = bit ? 0 : 255;
    }
    row += fvg__pnm_bit_row(p);
  }
}

/* Reads n values of one byte or, if max is above 255, of two bytes, the high one first. */
static void fvg__pnm_read_binary(const fvg__pnm *p, uint8_t *dst, size_t n) {
  const uint8_t *src = p->at;
  if (p->max == 255) {
    memcpy(dst, src, n);
  } else if (p->max < 256) {
    for (size_t i = 0; i < n; i++) {
      dst[i] = fvg__pnm_scale(src[i], p->max);
    }
  } else {
    for (size_t i = 0; i < n; i++) {
      int value = src[2 * i] * 256 + src[2 * i + 1];
      dst[i] = fvg__pnm_scale(value, p->max);
    }
  }
}

/* Reads one value of a text, -1 if there is none.  Bits may stand without blanks between them. */
static int fvg__pnm_text_value(fvg__pnm *p) {
  if (p->kind != 1) return fvg__pnm_number(p);
  fvg__pnm_skip(p);
  return p->at < p->end ? '1' - *p->at++ : -1;
}

static fvg_status fvg__pnm_read_text(fvg_ctx *c, fvg__pnm *p, uint8_t *dst, size_t n,
                                     const char *file) {
  for (size_t i = 0; i < n; i++) {
    int value = fvg__pnm_text_value(p);
    if (value < 0 || value > p->max)
      return fvg_fail(c, FVG_E_FORMAT, "%s: PNM value %zu of %zu is missing or not within 0..%d",
                      file, i + 1, n, p->max);
    dst[i] = fvg__pnm_scale(value, p->max);
  }
  return FVG_OK;
}

/* Decodes the n bytes of a PNM file, which fvg__is_pnm has recognised, into grey or RGB. */
static fvg_status fvg__pnm_decode(fvg_ctx *c, fvg_image *out, const uint8_t *bytes, size_t n,
                                  const char *file) {
  fvg__pnm p;
  p.at = bytes;
  p.end = bytes + n;
  fvg_status s = fvg__pnm_header(c, &p, file);
  if (s) return s;

  size_t needed = fvg__pnm_bytes(&p);
  size_t left = (size_t)(p.end - p.at);
  if (left < needed)
    return fvg_fail(c, FVG_E_FORMAT,
                    "%s: %d x %d pixels need at least %zu bytes after the PNM header, not %zu",
                    file, p.width, p.height, needed, left);

  s = fvg__image_new(c, out, p.width, p.height, fvg__pnm_is_rgb(&p) ? 3 : 1);
  if (s) return s;
  if (p.max > 255 && out->channels == 1) fvg__say_16_bit(c, file);

  size_t values = fvg__pixel_count(out) * (size_t)out->channels;
  if (p.kind < 4)
    s = fvg__pnm_read_text(c, &p, out->pixels, values, file);
  else if (p.kind == 4)
    fvg__pnm_read_bits(&p, out->pixels);
  else
    fvg__pnm_read_binary(&p, out->pixels, values);

  if (s) fvg_image_free(c, out);
  return s;
}

/* ---- kinds of files, told by their first bytes, because names are easily changed ---- */
typedef enum fvg__image_code {
  FVG__NOT_READ = 0,
  FVG__PNM,
  FVG__PNG,
  FVG__JPEG,
  FVG__BMP,
  FVG__GIF
} fvg__image_code;

/* The kinds that are read, and those of which more can be said than "convert it". */
typedef struct fvg__image_kind {
  const char *name;
  const char *endings;                    /* of file names, in lower case, each after a dot      */
  fvg__image_code code;
  const char *cure;                       /* what to do about a file that is not read, or NULL   */
} fvg__image_kind;

static const fvg__image_kind fvg__image_kinds[] = {
  {"PNM", ".ppm.pgm.pbm.pnm", FVG__PNM, NULL},
  {"PNG", ".png.apng", FVG__PNG, NULL},
  {"JPEG", ".jpg.jpeg.jpe.jfif", FVG__JPEG, NULL},
  {"BMP", ".bmp.dib", FVG__BMP, NULL},
  {"GIF", ".gif", FVG__GIF, NULL},
  {"SVG", "", FVG__NOT_READ, "a drawing, not pixels; render it to PNG"},
  {"PDF", "", FVG__NOT_READ, "a document, not pixels; render its page to PNG"},
  {"PostScript", "", FVG__NOT_READ, "a document, not pixels; render its page to PNG"},
  {"NumPy array", "", FVG__NOT_READ, "not a picture; save it as PNG"},
  {"video", "", FVG__NOT_READ, "not a picture; take single frames as PNG or JPEG"},
  {"ZIP archive", "", FVG__NOT_READ, "not a picture; unpack it first"},
  {"gzip archive", "", FVG__NOT_READ, "not a picture; unpack it first"},
  {"AppleDouble", "", FVG__NOT_READ, "what macOS keeps beside a file, not the picture; remove it"},
  {"Git LFS pointer", "", FVG__NOT_READ, "the picture was not downloaded; run `git lfs pull`"},
  {"HTML page", "", FVG__NOT_READ, "not a picture, perhaps a server's answer; download it again"},
  {"damaged PNG", "", FVG__NOT_READ, "its line ends were changed, as in text mode; copy it again"}
};
#define FVG__N_IMAGE_KIND (sizeof fvg__image_kinds / sizeof *fvg__image_kinds)

/* Tests whether the n bytes begin with the k letters of `text`, which is in lower case.  The case
   of the bytes makes no difference. */
static int fvg__begins(const uint8_t *bytes, size_t n, const char *text, size_t k) {
  if (n < k) return 0;
  for (size_t i = 0; i < k; i++) {
    int byte = bytes[i];
    if (byte >= 'A' && byte <= 'Z') byte += 'a' - 'A';
    if (byte != text[i]) return 0;
  }
  return 1;
}

/* Recognises markup: returns "SVG", "HTML page" or NULL.  A byte-order mark and white space may
   come first; in SVG also declarations and comments, so <svg is searched for in the first 4096
   bytes. */
static const char *fvg__markup_name(const uint8_t *bytes, size_t n) {
  size_t end = n < 4096 ? n : 4096;
  size_t at = 0;
  if (n >= 3 && !memcmp(bytes, "\xEF\xBB\xBF", 3)) at = 3;
  while (at < end && fvg__is_ascii_space(bytes[at])) at++;
  if (at == end || bytes[at] != '<') return NULL;

  if (fvg__begins(bytes + at, n - at, "<!doctype html", 14))
    return "HTML page";
  for (; at < end; at++) {
    const uint8_t *tag = bytes + at;
    size_t left = n - at;
    if (fvg__begins(tag, left, "<html", 5)) return "HTML page";
    if (fvg__begins(tag, left, "<svg", 4)) return "SVG";
    if (fvg__begins(tag, left, "<head", 5)) return "HTML page";
  }
  return NULL;
}

/* Names an ISO media file by the brand, 4 letters, of its first box. */
static const char *fvg__media_name(const uint8_t *brand) {
  static const struct {
    char brand[5];
    const char *name;
  } known[] = {
    {"avif", "AVIF"},
    {"avis", "AVIF"},
    {"crx ", "camera raw"},
    {"jp2 ", "JPEG 2000"},
    {"jpx ", "JPEG 2000"},
    {"heic", "HEIC"},
    {"heix", "HEIC"},
    {"heim", "HEIC"},
    {"heis", "HEIC"},
    {"hevc", "HEIC"},
    {"hevx", "HEIC"},
    {"hevm", "HEIC"},
    {"hevs", "HEIC"},
    {"mif1", "HEIC"},
    {"msf1", "HEIC"}
  };

  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    if (!memcmp(brand, known[i].brand, 4)) return known[i].name;
  }
  return "video";
}

/* "BM" alone could begin a text, so the size of the second header must be one that exists. */
static int fvg__is_bmp(const uint8_t *bytes, size_t n) {
  static const uint8_t header_sizes[] = {12, 16, 40, 52, 56, 64, 108, 124};
  if (n < 18 || bytes[0] != 'B' || bytes[1] != 'M') return 0;
  if (bytes[15] || bytes[16] || bytes[17]) return 0;
  return memchr(header_sizes, bytes[14], sizeof header_sizes) != NULL;
}

static int fvg__is_pnm(const uint8_t *bytes, size_t n) {
  if (n < 3 || bytes[0] != 'P' || bytes[1] < '1' || bytes[1] > '6')
    return 0;
  return fvg__is_ascii_space(bytes[2]) || bytes[2] == '#';
}

/* The n bytes that files of a kind have at offset `at`. */
typedef struct fvg__signature {
  const char *name;
  size_t at;
  size_t n;
  const char *bytes;
} fvg__signature;

static const fvg__signature fvg__signatures[] = {
  {"PNG",             0,  8, "\x89PNG\r\n\x1A\n"},
  {"damaged PNG",     0,  6, "\x89PNG\n\x1A"},
  {"damaged PNG",     0,  6, "\x89PNG\r\r"},
  {"damaged PNG",     0,  6, "\xEF\xBF\xBDPNG"},
  {"damaged PNG",     0,  4, "\tPNG"},
  {"JPEG",            0,  3, "\xFF\xD8\xFF"},
  {"GIF",             0,  6, "GIF87a"},
  {"GIF",             0,  6, "GIF89a"},
  {"WebP",            8,  4, "WEBP"},
  {"TIFF",            0,  4, "II*\0"},
  {"TIFF",            0,  4, "MM\0*"},
  {"TIFF",            0,  4, "II+\0"},
  {"TIFF",            0,  4, "MM\0+"},
  {"JPEG 2000",       0,  8, "\0\0\0\x0CjP  "},
  {"JPEG 2000",       0,  4, "\xFF\x4F\xFF\x51"},
  {"JPEG XL",         0,  8, "\0\0\0\x0CJXL "},
  {"JPEG XL",         0,  2, "\xFF\x0A"},
  {"JPEG XR",         0,  3, "II\xBC"},
  {"PDF",             0,  5, "%PDF-"},
  {"PostScript",      0,  4, "%!PS"},
  {"ICO",             0,  4, "\0\0\1\0"},
  {"ICO",             0,  4, "\0\0\2\0"},
  {"PSD",             0,  4, "8BPS"},
  {"XCF",             0,  9, "gimp xcf "},
  {"OpenEXR",         0,  4, "\x76\x2F\x31\x01"},
  {"Radiance HDR",    0, 10, "#?RADIANCE"},
  {"Radiance HDR",    0,  6, "#?RGBE"},
  {"DDS",             0,  4, "DDS "},
  {"QOI",             0,  4, "qoif"},
  {"MNG",             0,  4, "\x8AMNG"},
  {"PAM",             0,  3, "P7\n"},
  {"PFM",             0,  3, "PF\n"},
  {"PFM",             0,  3, "Pf\n"},
  {"camera raw",      0,  4, "IIRO"},
  {"camera raw",      0,  4, "IIU\0"},
  {"camera raw",      0,  8, "FUJIFILM"},
  {"NumPy array",     0,  6, "\x93NUMPY"},
  {"ZIP archive",     0,  4, "PK\3\4"},
  {"gzip archive",    0,  2, "\x1F\x8B"},
  {"video",           8,  4, "AVI "},
  {"video",           0,  4, "\x1A\x45\xDF\xA3"},
  {"AppleDouble",     0,  4, "\0\5\x16\7"},
  {"Git LFS pointer", 0, 23, "version https://git-lfs"}
};

/* Returns the name of the kind of file that begins with these bytes, or NULL if it is unknown. */
static const char *fvg__image_name_of_bytes(const uint8_t *bytes, size_t n) {
  if (fvg__is_pnm(bytes, n)) return "PNM";
  if (fvg__is_bmp(bytes, n)) return "BMP";
  if (n >= 12 && !memcmp(bytes + 4, "ftyp", 4))
    return fvg__media_name(bytes + 8);

  for (size_t i = 0; i < sizeof fvg__signatures / sizeof *fvg__signatures; i++) {
    const fvg__signature *s = &fvg__signatures[i];
    if (n < s->at + s->n) continue;
    if (!memcmp(bytes + s->at, s->bytes, s->n)) return s->name;
  }
  return fvg__markup_name(bytes, n);
}

/* Returns what is known of a kind, or NULL. */
static const fvg__image_kind *fvg__image_kind_called(const char *name) {
  if (!name) return NULL;
  for (size_t i = 0; i < FVG__N_IMAGE_KIND; i++) {
    if (!strcmp(name, fvg__image_kinds[i].name))
      return &fvg__image_kinds[i];
  }
  return NULL;
}

/* ---- upright pictures ---- */

/* Fills `out`, whose sides are set, with `in` turned by an EXIF orientation.  Column x, row y of
   the result come from column u, row v: orientations from 5 on swap the sides; 2, 3, 7 and 8 then
   mirror columns; 3, 4, 6 and 7 mirror rows. */
static void fvg__turn_pixels(fvg_image *out, const fvg_image *in, int orientation) {
  int swap = orientation > 4;
  int across = orientation == 2 || orientation == 3 || orientation > 6;
  int down = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;

  size_t channels = (size_t)in->channels;
  uint8_t *dst = out->pixels;
  for (int y = 0; y < out->height; y++) {
    for (int x = 0; x < out->width; x++) {
      int u = swap ? y : x;
      int v = swap ? x : y;
      if (across) u = in->width - 1 - u;
      if (down) v = in->height - 1 - v;

      size_t source = fvg__row(v, in->width) + (size_t)u;
      memcpy(dst, in->pixels + source * channels, channels);
      dst += channels;
    }
  }
}

/* Orientations 0 (unknown) and 1 leave the pixels as they are. */
FVG_DEF fvg_status fvg_image_turn(fvg_ctx *c, fvg_image *image, int orientation) {
  fvg_status s = fvg__image_check(c, image, "turn");
  if (s) return s;
  if (orientation < 0 || orientation > 8)
    return fvg_fail(c, FVG_E_ARG, "turn: orientation %d; EXIF has 1 to 8, and 0 is not told",
                    orientation);

  if (orientation > 1) {
    int swap = orientation > 4;
    int width = swap ? image->height : image->width;
    int height = swap ? image->width : image->height;

    fvg_image out;
    s = fvg__image_new(c, &out, width, height, image->channels);
    if (s) return s;
    fvg__turn_pixels(&out, image, orientation);
    fvg_image_free(c, image);
    *image = out;
  }
  image->orientation = 1;
  return FVG_OK;
}

#ifndef FVGPT_NO_STDIO
/* With `turn`, turns a picture upright by its EXIF orientation; otherwise logs once that it is
   taken as stored. */
FVG_DEF fvg_status fvg_image_upright(fvg_ctx *c, fvg_image *image, const char *file, int turn) {
  if (!image) return fvg__missing(c, "fvg_image_upright", "an image");
  if (image->orientation < 2) return FVG_OK;
  if (turn) return fvg_image_turn(c, image, image->orientation);

  fvg__log_once(c, FVG__SAID_TURNED, 1,
                "%s: its EXIF data say that the camera was turned (orientation %d); it is taken "
                "as stored, as in CLIP's own preprocessing, and so are others; --exif-rotate turns "
                "such pictures upright",
                file ? file : "image", image->orientation);
  return FVG_OK;
}
#endif

/*==================================================================================================
 * CHAPTER 4  PICTURE FILES: PNG, BMP and GIF, and how a camera was held
 *==================================================================================================
   stb_image, which is not part of fvgpt, makes the pixels.  Before it gets a file, this chapter
   (for JPEG, chapter 5) walks through the file: it verifies checksums and lengths, compares the
   sides with the number of bytes, and reads how the camera was held.  Where stb_image would read
   something else than Pillow does, the bytes are mended in memory first (a palette that is too
   short, CMYK without a marker), or the form is refused by name. */

#if defined(FVGPT_STB_IMAGE) || !(defined(FVGPT_NO_STDIO) || defined(FVGPT_NO_TRAINING))
/* Writes 4 bytes, the highest first; returns the place after them. */
static uint8_t *fvg__put_u32(uint8_t *at, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) *at++ = (uint8_t)(value >> shift);
  return at;
}

/* Tables for CRC-32 (polynomial EDB88320), eight bytes a step, which is known as slicing by eight
   (Kounavis and Berry 2005): of[k][b] is the remainder that
   byte b leaves when k zero bytes follow it. */
typedef struct fvg__crc { uint32_t of[8][256]; } fvg__crc;

static void fvg__crc_init(fvg__crc *t) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t rest = i;
    for (int bit = 0; bit < 8; bit++) rest = rest >> 1 ^ (rest & 1 ? 0xEDB88320u : 0);
    t->of[0][i] = rest;
  }

  for (int k = 1; k < 8; k++)
    for (int i = 0; i < 256; i++) {
      const uint32_t rest = t->of[k - 1][i];
      t->of[k][i] = rest >> 8 ^ t->of[0][rest & 255];
    }
}

static uint32_t fvg__crc32(const fvg__crc *t, const uint8_t *b, size_t n) {
  uint32_t crc = 0xFFFFFFFFu;
  while (n >= 8) {
    crc ^= (uint32_t)b[3] << 24 | (uint32_t)b[2] << 16 | (uint32_t)b[1] << 8 | b[0];
    crc = t->of[7][crc & 255] ^ t->of[6][crc >> 8 & 255]
          ^ t->of[5][crc >> 16 & 255] ^ t->of[4][crc >> 24]
          ^ t->of[3][b[4]] ^ t->of[2][b[5]] ^ t->of[1][b[6]] ^ t->of[0][b[7]];
    b += 8;
    n -= 8;
  }

  for (; n; n--) {
    crc = crc >> 8 ^ t->of[0][(crc ^ *b) & 255];
    b++;
  }
  return crc ^ 0xFFFFFFFFu;
}
#endif

/* A file that is being read.  Its bytes are a copy, which may be mended for stb_image. */
typedef struct fvg__picture {
  const char *name;                      /* of the file, for messages */
  const char *kind;                      /* such as "PNG"; NULL: none that is known */
  const char *hint;                      /* what else to say if stb_image fails, or NULL */
  uint8_t *bytes;                        /* [n] */
  size_t n;
  int orientation;                       /* EXIF's, 1 to 8; 0: the file does not tell */
} fvg__picture;

#ifdef FVGPT_STB_IMAGE
/* ---- stb_image ---- */
#if defined(FVGPT_NO_MALLOC) && !defined(FVGPT_STB_IMAGE_LINKED)
#error "stb_image uses malloc: with FVGPT_NO_MALLOC, compile it elsewhere (FVGPT_STB_IMAGE_LINKED)"
#endif

/* We compile stb_image's code, unless the program has it elsewhere: it says so by
   FVGPT_STB_IMAGE_LINKED, or has included stb_image.h before this header. */
#if !defined(FVGPT_STB_IMAGE_LINKED) && !defined(STBI_INCLUDE_STB_IMAGE_H)
#define FVG__STB_IMAGE_HERE

/* Memory starts as zeros, because a JPEG that omits blocks or tables would otherwise show what the
   memory held before. */
static void *fvg__stb_alloc(size_t bytes) {
  return bytes <= FVG__IMAGE_BYTES ? calloc(1, bytes) : NULL;
}

static void *fvg__stb_realloc(void *block, size_t bytes) {
  return bytes <= FVG__IMAGE_BYTES ? realloc(block, bytes) : NULL;
}

#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_ONLY_BMP
#define STBI_ONLY_GIF
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_MAX_DIMENSIONS FVG__IMAGE_SIDE
#define STBI_MALLOC(bytes) fvg__stb_alloc(bytes)
#define STBI_REALLOC(block, bytes) fvg__stb_realloc(block, bytes)
#define STBI_FREE(block) free(block)
#define STBI_ASSERT(condition) ((void)0)
/* Version 2.27 declares this function under one name and defines it under the other. */
#define stbi_set_unpremultiply_on_load_thread stbi__unpremultiply_on_load_thread
#ifdef __TINYC__
#define STBI_NO_SIMD
#endif
#endif

/* Warnings within stb_image are not ours to mend. */
#if defined(__GNUC__) || defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#ifndef STBI_INCLUDE_STB_IMAGE_H
#ifdef __has_include
#if __has_include("stb_image.h")
#include "stb_image.h"
#else
#include <stb/stb_image.h>
#endif
#else
#include <stb/stb_image.h>
#endif
#endif
#if defined(__GNUC__) || defined(__clang__)
#pragma GCC diagnostic pop
#endif

/* A later include of stb_image.h must not compile the code again. */
#ifdef FVG__STB_IMAGE_HERE
#undef stbi_set_unpremultiply_on_load_thread
#undef STB_IMAGE_STATIC
#undef STB_IMAGE_IMPLEMENTATION
#endif

/* Has the program told stb_image to turn pictures upside down, as OpenGL wants them?  stb_image
   does not answer, so we let it read a BMP of two grey pixels, the upper one dark. */
static int fvg__stb_flips(void) {
  static const uint8_t bmp[62] = {
    'B', 'M', 62, 0, 0, 0, 0, 0, 0, 0, 54, 0, 0, 0, 40, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 24,
    0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    255, 255, 255, 0,                            /* the lower row comes first */
    0, 0, 0, 0
  };
  int width, height, channels;
  stbi_uc *pixels = stbi_load_from_memory(bmp, (int)sizeof bmp, &width, &height, &channels, 1);
  const int flips = pixels && pixels[0];         /* NULL: a program's stb_image without BMP */
  stbi_image_free(pixels);
  return flips;
}

/* Decodes the file with stb_image, to so many channels (0: as many as the file has). */
static fvg_status fvg__stb_decode(fvg_ctx *c, fvg_image *out, const fvg__picture *p, int channels) {
  int width, height, found;
  stbi_uc *pixels = stbi_load_from_memory(p->bytes, (int)p->n, &width, &height, &found, channels);
  if (!pixels) {
    const char *reason = stbi_failure_reason();
    return fvg_fail(c, FVG_E_FORMAT, "%s: %s whose data are damaged (stb_image: %s%s)", p->name,
                    p->kind, reason ? reason : "no reason", p->hint ? p->hint : "");
  }

  const fvg_status s = fvg__image_new(c, out, width, height, channels ? channels : found);
  const int flips = fvg__stb_flips();
  const size_t row_bytes = fvg__row(width, out->channels);
  for (int y = 0; !s && y < height; y++) {
    const int from = flips ? height - 1 - y : y;
    memcpy(out->pixels + row_bytes * (size_t)y, pixels + row_bytes * (size_t)from, row_bytes);
  }
  stbi_image_free(pixels);
  return s;
}

/* ---- what all kinds of files need ---- */
/* Reads 2 or 4 bytes, the highest first. */
static int fvg__get_u16(const uint8_t *p) { return p[0] << 8 | p[1]; }

static uint32_t fvg__get_u32(const uint8_t *p) {
  return (uint32_t)fvg__get_u16(p) << 16 | (uint32_t)fvg__get_u16(p + 2);
}

/* Replaces the `cut` bytes of the file at `at` by n others. */
static fvg_status fvg__splice(fvg_ctx *c, fvg__picture *p, size_t at, size_t cut,
                              const uint8_t *bytes, size_t n) {
  uint8_t *out = (uint8_t *)fvg__alloc_raw(c, p->n - cut + n);
  if (!out) return FVG_E_NOMEM;

  memcpy(out, p->bytes, at);
  memcpy(out + at, bytes, n);
  memcpy(out + at + n, p->bytes + at + cut, p->n - at - cut);

  fvg_bytes_free(c, p->bytes);
  p->bytes = out;
  p->n += n - cut;
  return FVG_OK;
}

/* Fills a palette of 256 colours, of `entry` bytes each, with the greys of their numbers.  Pillow
   takes those for colours that a file's palette lacks; stb_image would take whatever its memory
   holds.  So we complete palettes from this one, but for a GIF picture's own: a picture that has
   more colours than that is refused. */
static void fvg__grey_palette(uint8_t *palette, size_t entry) {
  for (int i = 0; i < 256; i++) memset(palette + entry * (size_t)i, i, entry);
}

static fvg_status fvg__picture_fits(fvg_ctx *c, const fvg__picture *p, int64_t width,
                                    int64_t height) {
  if (fvg__image_fits(width, height)) return FVG_OK;

  return fvg_fail(c, FVG_E_UNSUPPORTED,
                  "%s: %s of %.0f x %.0f pixels; sides of 1 to %d and %d pixels in all are read",
                  p->name, p->kind, (double)width, (double)height, FVG__IMAGE_SIDE,
                  FVG__IMAGE_PIXELS);
}

/* ---- EXIF ---- */
/* Reads a number of n bytes, with the highest byte first (big) or last. */
static uint32_t fvg__exif_number(const uint8_t *p, size_t n, int big) {
  uint32_t x = 0;
  for (size_t i = 0; i < n; i++) x = x << 8 | p[big ? i : n - 1 - i];
  return x;
}

/* Returns the orientation, 1 to 8, or 0 if it is not told.  EXIF data are a small TIFF file, which
   may follow "Exif": byte order, 42, the place of the first list of fields.  A field has 12 bytes:
   a tag, a type (3: 16 bits, 4: 32), a count and a value.  Tag 0x0112 is the orientation. */
static int fvg__exif_orientation(const uint8_t *p, size_t n) {
  if (n > 6 && !memcmp(p, "Exif\0", 5)) {
    p += 6;
    n -= 6;
  }
  if (n < 10 || (memcmp(p, "II*\0", 4) && memcmp(p, "MM\0*", 4))) return 0;

  const int big = p[0] == 'M';
  size_t at = fvg__exif_number(p + 4, 4, big);
  if (at > n - 2) return 0;
  const size_t count = fvg__exif_number(p + at, 2, big);
  at += 2;

  for (size_t i = 0; i < count && n - at >= 12; i++) {
    const uint8_t *field = p + at;
    at += 12;
    if (fvg__exif_number(field, 2, big) != 0x0112) continue;

    const int is_short = fvg__exif_number(field + 2, 2, big) == 3;
    const uint32_t value = fvg__exif_number(field + 8, is_short ? 2 : 4, big);
    return value >= 1 && value <= 8 ? (int)value : 0;
  }
  return 0;
}

/* ---- PNG (RFC 2083): a signature, and chunks of length, type, data, CRC ----
   IHDR holds sides, depth and colour, PLTE a palette, tRNS what is transparent, and the IDAT chunks
   together the compressed rows.  We do not check the Adler-32 at their end: it covers the same
   bytes as the chunks' CRC. */
typedef struct fvg__png {
  int colour;                            /* 0 grey, 2 RGB, 3 palette, 4 grey alpha, 6 RGB alpha */
  int depth;                             /* bits of a sample */
  double raw;                            /* the least number of bytes of all rows */
  size_t n_data, data_end;               /* bytes in IDAT chunks; where the last of them ends */
  size_t palette, n_palette;             /* where the palette is, and its number of colours */
} fvg__png;

/* Tells whether a depth goes with a colour, and the three methods of compression, filter and
   interlacing are among those that the standard has. */
static int fvg__png_form_exists(int depth, int colour, const uint8_t method[3]) {
  static const int depths[7] = {1 | 2 | 4 | 8 | 16, 0, 8 | 16, 1 | 2 | 4 | 8, 8 | 16, 0, 8 | 16};

  if (colour > 6 || !(depths[colour] & depth)) return 0;
  if (depth & (depth - 1)) return 0;                         /* more than one bit, such as 12 */
  return method[0] == 0 && method[1] == 0 && method[2] <= 1;
}

/* Reads the chunk IHDR, which is the first: width, height, depth, colour and methods. */
static fvg_status fvg__png_header(fvg_ctx *c, fvg__picture *p, fvg__png *g) {
  static const int samples[7] = {1, 0, 3, 1, 2, 0, 4};       /* in a pixel, by colour */
  const uint8_t *d = p->bytes + 16;
  const uint32_t length = fvg__get_u32(p->bytes + 8);
  if (length != 13 || !fvg__png_form_exists(d[8], d[9], d + 10))
    return fvg_fail(c, FVG_E_FORMAT, "%s: PNG header that no PNG has: the file is damaged",
                    p->name);

  const uint32_t width = fvg__get_u32(d), height = fvg__get_u32(d + 4);
  g->depth = d[8];
  g->colour = d[9];
  const double row_bits = (double)width * g->depth * samples[g->colour];
  g->raw = height * (1 + ceil(row_bits / 8));                /* 1: a row's filter takes a byte */
  return fvg__picture_fits(c, p, width, height);
}

/* Writes a chunk's type for a message and for comparisons, with anything but letters as '?'. */
static void fvg__png_type(const uint8_t *bytes, char type[5]) {
  for (int i = 0; i < 4; i++) {
    const int lower = bytes[i] | 32;
    type[i] = lower >= 'a' && lower <= 'z' ? (char)bytes[i] : '?';
  }
  type[4] = 0;
}

/* Reads the chunk at `at`, with n bytes of data.  A type that begins in lower case marks a chunk
   that no pixel depends on.  Like Pillow, we ignore a wrong CRC of such a chunk if it follows the
   pixels. */
static fvg_status fvg__png_chunk(fvg_ctx *c, fvg__picture *p, fvg__png *g, const fvg__crc *crc,
                                 size_t at, size_t n) {
  const uint8_t *d = p->bytes + at + 8;
  const int optional = d[-4] >= 'a';
  char type[5];
  fvg__png_type(d - 4, type);

  const int damaged = fvg__crc32(crc, d - 4, n + 4) != fvg__get_u32(d + n);
  if (damaged && !(optional && g->n_data))
    return fvg_fail(c, FVG_E_FORMAT,
                    "%s: the CRC of PNG chunk %s at byte %zu is wrong: the file is damaged; copy "
                    "or download it again", p->name, type, at);

  const int first = at == 8;
  if (first != !strcmp(type, "IHDR"))
    return fvg_fail(c, FVG_E_UNSUPPORTED, "%s: PNG with a chunk %s at byte %zu%s", p->name, type,
                    at, strcmp(type, "CgBI") ? ", which cannot stand there" :
                    ": Apple's own form of PNG; convert it to PNG");
  if (first) return fvg__png_header(c, p, g);

  if (!strcmp(type, "IDAT")) {
    if (g->n_data && at != g->data_end)
      return fvg_fail(c, FVG_E_FORMAT,
                      "%s: PNG whose pixels are interrupted by another chunk before byte %zu: "
                      "the file is damaged", p->name, at);
    g->data_end = at + n + 12;
    g->n_data += n;
  } else if (!strcmp(type, "PLTE")) {
    g->palette = at + 8;
    g->n_palette = n / 3;
  } else if (!strcmp(type, "eXIf")) {
    p->orientation = fvg__exif_orientation(d, n);
  } else if (!optional && strcmp(type, "IEND")) {
    return fvg_fail(c, FVG_E_UNSUPPORTED,
                    "%s: PNG with a chunk %s, which is not known; convert it to plain PNG",
                    p->name, type);
  }
  return FVG_OK;
}

/* Reads all chunks, to IEND. */
static fvg_status fvg__png_walk(fvg_ctx *c, fvg__picture *p, fvg__png *g) {
  fvg__crc crc;
  fvg__crc_init(&crc);

  size_t at = 8;
  for (;;) {
    const size_t left = p->n - at;
    const size_t length = left < 12 ? 0 : fvg__get_u32(p->bytes + at);
    if (left < 12 || length > left - 12)
      return fvg_fail(c, FVG_E_FORMAT,
                      "%s: PNG truncated at byte %zu, within the chunk at byte %zu", p->name,
                      p->n, at);

    const fvg_status s = fvg__png_chunk(c, p, g, &crc, at, length);
    if (s || !memcmp(p->bytes + at + 4, "IEND", 4)) return s;
    at += length + 12;
  }
}

/* Checks a PNG, and completes a palette that is too short for its depth. */
static fvg_status fvg__png_check(fvg_ctx *c, fvg__picture *p) {
  fvg__png g;
  memset(&g, 0, sizeof g);
  const fvg_status s = fvg__png_walk(c, p, &g);
  if (s) return s;

  if (!g.n_data || (g.colour == 3 && !g.n_palette))
    return fvg_fail(c, FVG_E_FORMAT, "%s: PNG without %s: the file is damaged", p->name,
                    g.n_data ? "its palette" : "pixels");

  /* deflate compresses at most by a factor of 1032, so fewer bytes cannot be the picture */
  if (g.raw > 1032.0 * (double)g.n_data + 1032)
    return fvg_fail(c, FVG_E_FORMAT,
                    "%s: PNG of %.0f x %.0f pixels cannot come from %zu bytes of data", p->name,
                    (double)fvg__get_u32(p->bytes + 16), (double)fvg__get_u32(p->bytes + 20),
                    g.n_data);

  if (g.colour == 0 && g.depth == 16) fvg__say_16_bit(c, p->name);
  if (g.colour != 3 || g.n_palette >= 1u << g.depth) return FVG_OK;

  uint8_t grey[3 * 256];
  fvg__grey_palette(grey, 3);
  const size_t length = fvg__get_u32(p->bytes + g.palette - 8);
  const size_t known = 3 * g.n_palette;
  fvg__put_u32(p->bytes + g.palette - 8, sizeof grey);
  return fvg__splice(c, p, g.palette + known, length - known, grey + known, sizeof grey - known);
}

/* ---- BMP: headers, masks or a palette (blue, green, red, 0), and rows of whole 4 bytes ---- */
typedef struct fvg__bmp {
  size_t header;                         /* bytes of the second header, after the first 14 bytes */
  unsigned bits;                         /* of a pixel */
  unsigned compression;                  /* 0: none, 3: masks say where the colours are */
  int depth[4];                          /* bits of red, green, blue, alpha */
  size_t begin;                          /* where headers and masks end */
  size_t pixels;                         /* where the pixels begin */
  size_t n_colour;                       /* colours of the palette that the file should have */
  int64_t width, height;
} fvg__bmp;

/* Returns why such a BMP is not read, or NULL if it is. */
static const char *fvg__bmp_unread(const fvg__bmp *b) {
  const unsigned bits = b->bits, compression = b->compression;
  const int whole_bytes = bits == 16 || bits == 24 || bits == 32;
  const int palette = bits == 1 || bits == 4 || bits == 8;

  if (compression == 1 || compression == 2) return "with run lengths (RLE)";
  if (compression == 4 || compression == 5) return "with a JPEG or PNG within";
  if (compression && (compression != 3 || b->header == 64)) return "with a compression";
  if (!whole_bytes && !palette) return "of other than 1, 4, 8, 16, 24 or 32 bits a pixel";
  if (compression && bits != 16 && bits != 32) return "with masks for other than 16 or 32 bits";
  return NULL;
}

/* How many bits a mask has; -1: it is not one stretch of at most 8. */
static int fvg__bmp_mask_bits(uint32_t mask) {
  while (mask && !(mask & 1)) mask >>= 1;

  int n = 0;
  while (mask & 1) {
    mask >>= 1;
    n++;
  }
  return mask || n > 8 ? -1 : n;
}

/* Reads the bits of the four channels.  Returns what makes a file one that is not read, or NULL. */
static const char *fvg__bmp_depths(const fvg__picture *p, fvg__bmp *b) {
  for (int i = 0; i < 4; i++) {
    const int is_alpha = i == 3;
    if (is_alpha) b->depth[i] = 0;
    else b->depth[i] = b->bits == 16 ? 5 : 8;

    if (b->compression && (!is_alpha || b->header >= 108))
      b->depth[i] = fvg__bmp_mask_bits((uint32_t)fvg__little(p->bytes + 54 + 4 * i, 4));
    if (b->depth[i] < (is_alpha ? 0 : 1))
      return "with masks that are not a stretch of up to 8 bits each";
  }
  return NULL;
}

/* Reads the headers and masks. */
static fvg_status fvg__bmp_header(fvg_ctx *c, const fvg__picture *p, fvg__bmp *b) {
  memset(b, 0, sizeof *b);
  b->header = p->bytes[14];
  b->begin = 14 + b->header;
  b->pixels = (size_t)fvg__little(p->bytes + 10, 4);

  const char *unread = b->header < 40 ? "with OS/2's header" : NULL;
  if (!unread && p->n >= b->begin) {
    b->bits = (unsigned)fvg__little(p->bytes + 28, 2);
    b->compression = (unsigned)fvg__little(p->bytes + 30, 4);
    if (b->header == 40 && b->compression) b->begin += 12;   /* the three masks */
    unread = fvg__bmp_unread(b);
  }
  if (!unread && p->n >= b->begin) unread = fvg__bmp_depths(p, b);
  if (unread)
    return fvg_fail(c, FVG_E_UNSUPPORTED, "%s: BMP %s: not read; save it as PNG", p->name, unread);

  if (p->n < b->begin)
    return fvg_fail(c, FVG_E_FORMAT, "%s: BMP truncated at byte %zu, within its header", p->name,
                    p->n);
  return FVG_OK;
}

/* Reads the sides and the size of the palette, and checks them against the number of bytes. */
static fvg_status fvg__bmp_sides(fvg_ctx *c, const fvg__picture *p, fvg__bmp *b) {
  b->width = (int32_t)fvg__little(p->bytes + 18, 4);
  b->height = (int32_t)fvg__little(p->bytes + 22, 4);
  if (b->height < 0) b->height = -b->height;                 /* rows are stored from the top down */
  const fvg_status s = fvg__picture_fits(c, p, b->width, b->height);
  if (s) return s;

  if (b->bits <= 8) {
    const size_t most = (size_t)1 << b->bits;
    b->n_colour = (size_t)fvg__little(p->bytes + 46, 4);
    if (!b->n_colour || b->n_colour > most) b->n_colour = most;

    /* some writers forget the palette in the place where they say the pixels begin */
    if (b->pixels == b->begin) b->pixels += 4 * b->n_colour;
  }

  /* a row is filled up to whole 4 bytes, but the last one may lack that end */
  const size_t row_bits = (size_t)b->width * b->bits;
  const size_t rows_before = (row_bits + 31) / 32 * 4 * (size_t)(b->height - 1);
  const size_t last_row = (row_bits + 7) / 8;
  if (b->pixels < b->begin || b->pixels > p->n || rows_before + last_row > p->n - b->pixels)
    return fvg_fail(c, FVG_E_FORMAT,
                    "%s: BMP of %.0f x %.0f pixels of %u bits, truncated at byte %zu", p->name,
                    (double)b->width, (double)b->height, b->bits, p->n);
  return FVG_OK;
}

/* Checks a BMP and brings it into the form that stb_image knows.  Of headers from 40 bytes on it
   knows those of 40, 108 and 124 bytes; others begin with the same 40, and are cut to them.
   Between header and pixels it gets a whole palette, or nothing. */
static fvg_status fvg__bmp_check(fvg_ctx *c, fvg__picture *p, fvg__bmp *b) {
  fvg_status s = fvg__bmp_header(c, p, b);
  if (!s) s = fvg__bmp_sides(c, p, b);
  if (s) return s;

  uint8_t palette[4 * 256];
  const size_t room = (b->pixels - b->begin) / 4;
  const size_t n_colour = b->n_colour < room ? b->n_colour : room;
  fvg__grey_palette(palette, 4);
  memcpy(palette, p->bytes + b->begin, 4 * n_colour);

  size_t end = b->begin;
  if (b->header < 108) {
    p->bytes[14] = 40;
    end = b->compression ? 66 : 54;
  }

  const size_t n = b->bits <= 8 ? sizeof palette : 0;
  p->bytes[10] = (uint8_t)(end + n);
  p->bytes[11] = (uint8_t)((end + n) >> 8);
  p->bytes[12] = 0;
  p->bytes[13] = 0;
  return fvg__splice(c, p, end, b->pixels - end, palette, n);
}

/* Decodes a BMP.  stb_image stretches samples of fewer than 8 bits by repeating their bits; Pillow
   takes 255 value / largest, and so do we. */
static fvg_status fvg__bmp_decode(fvg_ctx *c, fvg_image *out, fvg__picture *p) {
  fvg__bmp b;
  fvg_status s = fvg__bmp_check(c, p, &b);
  if (!s) s = fvg__stb_decode(c, out, p, b.depth[3] ? 4 : 3);
  if (s) return s;

  const size_t channels = (size_t)out->channels;
  const size_t n = fvg__row(out->height, out->width) * channels;
  for (size_t k = 0; k < channels; k++) {
    const int depth = b.depth[k];
    if (depth >= 8) continue;

    const int largest = (1 << depth) - 1;
    for (size_t i = k; i < n; i += channels)
      out->pixels[i] = (uint8_t)((out->pixels[i] >> (8 - depth)) * 255 / largest);
  }
  return FVG_OK;
}

/* ---- GIF: a screen, and pictures of palette numbers upon it, of which the first is read ----
   Pillow's convert("RGB") shows transparent pixels in the colour that the palette has for them.
   The part of the screen that the picture leaves free gets the same colour, or colour 0 if nothing
   is transparent, and the screen grows with the picture.  So we turn transparency off; all that
   stb_image then leaves transparent has not been painted. */
typedef struct fvg__gif {
  size_t begin;                          /* where the first picture's descriptor is */
  size_t codes;                          /* where its compressed data begin */
  size_t own_colours;                    /* colours of the picture's own palette, 0: it has none */
  int left, top, columns, rows;          /* of the picture on the screen */
  int width, height;                     /* of the screen */
  int ground_colour;                     /* the number of the screen's colour */
  uint8_t ground[3];                     /* that colour */
} fvg__gif;

/* The number of colours of a palette, 0 without one, from the byte that announces it. */
static size_t fvg__gif_colours(uint8_t flags) {
  return flags & 128 ? (size_t)2 << (flags & 7) : 0;
}

/* Reads 2 bytes, the lowest first. */
static int fvg__get_u16_little(const uint8_t *p) { return p[0] | p[1] << 8; }

static void fvg__put_u16_little(uint8_t *p, int value) {
  p[0] = (uint8_t)value;
  p[1] = (uint8_t)(value >> 8);
}

/* Returns the place after the blocks of up to 255 bytes that begin at `at`, of which the last is
   empty; 0 if the file is cut off. */
static size_t fvg__gif_skip(const fvg__picture *p, size_t at) {
  while (at < p->n && p->bytes[at]) at += (size_t)p->bytes[at] + 1;
  return at < p->n ? at + 1 : 0;
}

/* Finds the first picture's descriptor, and turns transparency off on the way.  Returns its place;
   0: the file is cut off; -1: there is no picture, or an unknown block. */
static int64_t fvg__gif_find(const fvg__picture *p, size_t at, int *transparent) {
  const int extension = 0x21, graphic_control = 0xF9, picture = 0x2C, end = 0x3B;

  while (at && at + 10 < p->n && p->bytes[at] == extension) {
    uint8_t *control = p->bytes + at + 3;
    const int is_control = p->bytes[at + 1] == graphic_control && p->bytes[at + 2] == 4;
    if (is_control && (*control & 1)) {
      *transparent = control[3];
      *control = (uint8_t)(*control & ~1);
    }
    at = fvg__gif_skip(p, at + 2);
  }

  if (at && at < p->n && p->bytes[at] == end) return -1;
  if (!at || at + 10 >= p->n) return 0;
  return p->bytes[at] == picture ? (int64_t)at : -1;
}

/* Completes the screen's palette and finds the first picture and its data. */
static fvg_status fvg__gif_open(fvg_ctx *c, fvg__picture *p, fvg__gif *g) {
  const size_t n = p->n;
  const size_t colours = n < 13 ? 0 : fvg__gif_colours(p->bytes[10]);
  int64_t at = 0;
  if (n >= 13 + 3 * colours) {
    uint8_t grey[3 * 256];
    const size_t known = 3 * colours;
    fvg__grey_palette(grey, 3);
    if (fvg__splice(c, p, 13 + known, 0, grey + known, sizeof grey - known)) return FVG_E_NOMEM;

    p->bytes[10] |= 0x87;                                    /* a palette of 256 colours */
    at = fvg__gif_find(p, 13 + sizeof grey, &g->ground_colour);
  }
  if (at < 0) return fvg_fail(c, FVG_E_FORMAT, "%s: GIF that holds no picture", p->name);

  if (at) {
    g->begin = (size_t)at;
    g->own_colours = fvg__gif_colours(p->bytes[at + 9]);
    g->codes = g->begin + 10 + 3 * g->own_colours;
  }
  if (!at || g->codes >= p->n || !fvg__gif_skip(p, g->codes + 1))
    return fvg_fail(c, FVG_E_FORMAT,
                    "%s: GIF truncated at byte %zu, before the end of its first picture", p->name,
                    n);
  return FVG_OK;
}

/* Reads the sides of picture and screen, which the file of n bytes must be able to hold. */
static fvg_status fvg__gif_sides(fvg_ctx *c, const fvg__picture *p, fvg__gif *g, size_t n) {
  const uint8_t *d = p->bytes + g->begin + 1;
  g->left = fvg__get_u16_little(d);
  g->top = fvg__get_u16_little(d + 2);
  g->columns = fvg__get_u16_little(d + 4);
  g->rows = fvg__get_u16_little(d + 6);

  g->width = fvg__get_u16_little(p->bytes + 6);
  g->height = fvg__get_u16_little(p->bytes + 8);
  if (g->width < g->left + g->columns) g->width = g->left + g->columns;
  if (g->height < g->top + g->rows) g->height = g->top + g->rows;

  /* a code of 12 bits stands for at most 4096 pixels: 2731 pixels a byte, and 2^20 more for a
     screen around a small picture */
  const int code_bits = p->bytes[g->codes];
  const double most_pixels = 2731.0 * (double)n + (1 << 20);
  const int empty = !g->columns || !g->rows;
  if (empty || g->width > 65535 || g->height > 65535 || code_bits < 1 || code_bits > 8
      || (double)g->width * g->height > most_pixels)
    return fvg_fail(c, FVG_E_FORMAT,
                    "%s: GIF of %d x %d pixels (a picture of %d x %d, in codes of %d bits and "
                    "more) cannot come from %zu bytes", p->name, g->width, g->height, g->columns,
                    g->rows, code_bits, n);
  return FVG_OK;
}

/* Checks a GIF, and writes into it the sides of the screen that Pillow takes. */
static fvg_status fvg__gif_check(fvg_ctx *c, fvg__picture *p, fvg__gif *g) {
  const size_t n = p->n;
  memset(g, 0, sizeof *g);
  fvg_status s = fvg__gif_open(c, p, g);
  if (!s) s = fvg__gif_sides(c, p, g, n);
  if (s) return s;

  const uint8_t *own_palette = p->bytes + g->begin + 10;
  const uint8_t *screen_palette = p->bytes + 13;
  const int ground = g->ground_colour;
  memset(g->ground, ground, 3);                              /* the grey of its number */
  if (!g->own_colours) memcpy(g->ground, screen_palette + 3 * ground, 3);
  else if ((size_t)ground < g->own_colours) memcpy(g->ground, own_palette + 3 * ground, 3);

  fvg__put_u16_little(p->bytes + 6, g->width);
  fvg__put_u16_little(p->bytes + 8, g->height);
  p->bytes[11] = 0;                                          /* the ground stays transparent, too */
  return fvg__picture_fits(c, p, g->width, g->height);
}

/* Copies the screen [height, width, 4] to RGB, with the ground where nothing was painted; returns
   how many pixels of the picture were not. */
static int fvg__gif_paint(fvg_image *out, const fvg_image *screen, const fvg__gif *g) {
  const uint8_t *from = screen->pixels;
  uint8_t *to = out->pixels;
  int missing = 0;

  for (int y = 0; y < out->height; y++)
    for (int x = 0; x < out->width; x++) {
      const int painted = from[3] != 0;
      memcpy(to, painted ? from : g->ground, 3);

      const int in_columns = x >= g->left && x < g->left + g->columns;
      const int in_rows = y >= g->top && y < g->top + g->rows;
      if (!painted && in_columns && in_rows) missing++;
      from += 4;
      to += 3;
    }
  return missing;
}

/* Decodes the first picture of a GIF, on its screen. */
static fvg_status fvg__gif_decode(fvg_ctx *c, fvg_image *out, fvg__picture *p) {
  fvg__gif g;
  fvg_image screen;
  fvg_status s = fvg__gif_check(c, p, &g);
  if (!s) s = fvg__stb_decode(c, &screen, p, 4);
  if (s) return s;

  s = fvg__image_new(c, out, screen.width, screen.height, 3);
  const int missing = s ? 0 : fvg__gif_paint(out, &screen, &g);
  if (missing)
    s = fvg_fail(c, FVG_E_FORMAT,
                 "%s: GIF whose first picture lacks %d of its %d x %d pixels: the file is damaged",
                 p->name, missing, g.columns, g.rows);
  fvg_image_free(c, &screen);
  return s;
}
#endif

/*==================================================================================================
 * CHAPTER 5  JPEG: markers and scans, and one way in for every kind of picture
 *==================================================================================================
   A JPEG is a row of markers FF xx.  Most are followed by a segment that begins with its length.  A
   scan's segment is followed by entropy-coded bytes, in which FF is followed by 0 or belongs to a
   restart marker.  The markers that matter here are

     C0 to CF   a frame: how many pixels, of how many components (but C4: Huffman tables)
     DB         quantisation tables
     DA         a scan, with the data of some components
     DD         how many units of blocks lie between restart markers
     D0 to D7   restart markers, which come in turn
     E0 E1 EE   segments of JFIF, EXIF and Adobe
     D9         the end of the file

   stb_image decodes what it can and fills up the rest, so a damaged file would become a picture
   with grey or shifted parts.  Here every table, restart marker and length is checked first.

   After that comes the way in: the first bytes of a file tell its kind, and each kind has its
   decoder. */

#ifdef FVGPT_STB_IMAGE
/* A component: grey, or one of the colour channels. */
typedef struct fvg__jpeg_part {
  int name;
  int across, down;                      /* samples in a unit of blocks: 1 to 4 */
  int table;                             /* number of its quantisation table */
} fvg__jpeg_part;

typedef struct fvg__jpeg {
  fvg__picture *file;
  size_t at;                             /* where the walk is */
  size_t first_scan;                     /* where the first scan's marker is */
  int width, height;
  int progressive;                       /* 1: several scans refine the picture */
  fvg__jpeg_part part[4];
  int n_part;
  unsigned huffman, quantised;           /* tables that have come so far, a bit each */
  int interval;                          /* units of blocks between restart markers, 0: none */
  int restarts;                          /* markers that the present scan must have */
  int scans;                             /* scans so far */
  unsigned scanned;                      /* components that a scan began, a bit each */
  int jfif;                              /* 1: there is a JFIF segment */
  int adobe;                             /* Adobe's colour transform, -1: no such segment */
} fvg__jpeg;

static fvg_status fvg__jpeg_damaged(fvg_ctx *c, const fvg__jpeg *j, const char *what) {
  return fvg_fail(c, FVG_E_FORMAT, "%s: JPEG %s at byte %zu is damaged", j->file->name, what,
                  j->at - 2);
}

/* Reads a segment of tables.  A Huffman table is a number, 16 counts and that many symbols, which
   stb_image 2.27 does not check; a quantisation table is a number and 64 values of one or two
   bytes. */
static fvg_status fvg__jpeg_tables(fvg_ctx *c, fvg__jpeg *j, int huffman, const uint8_t *p,
                                   size_t n) {
  while (n) {
    const int high = p[0] >> 4, low = p[0] & 3;
    size_t size = high ? 129 : 65;
    if (huffman) {
      size = 17;
      for (int i = 1; n >= 17 && i < 17; i++) size += p[i];
    }
    if (n < size || size > 17 + 256 || (p[0] & 0xEC))
      return fvg__jpeg_damaged(c, j, huffman ? "Huffman table" : "quantisation table");

    if (huffman) j->huffman |= 1u << (4 * high + low);
    else j->quantised |= 1u << low;
    p += size;
    n -= size;
  }
  return FVG_OK;
}

/* Returns why such a frame is not read, or NULL if it is. */
static const char *fvg__jpeg_unread(int marker, const uint8_t *p, size_t n) {
  if (marker == 0xC3) return "in lossless form";
  if (marker == 0xF7) return "in JPEG-LS form";
  if (marker >= 0xC9 && marker != 0xDE) return "with arithmetic-coded data";
  if (marker > 0xC2) return "in hierarchical form";

  if (n < 6) return NULL;
  if (p[0] == 12) return "of 12-bit samples";
  if (p[5] == 2) return "of 2 components";
  if (!(p[1] | p[2])) return "whose header tells no height";
  return NULL;
}

/* Reads a frame header: depth, height, width, and for each component a name, the sampling across
   and down, and the number of its quantisation table. */
static fvg_status fvg__jpeg_frame(fvg_ctx *c, fvg__jpeg *j, int marker, const uint8_t *p,
                                  size_t n) {
  const char *unread = fvg__jpeg_unread(marker, p, n);
  if (unread)
    return fvg_fail(c, FVG_E_UNSUPPORTED, "%s: JPEG %s: not read; save it as plain JPEG or PNG",
                    j->file->name, unread);

  if (n < 6 || j->n_part) return fvg__jpeg_damaged(c, j, "frame header");
  const int depth = p[0];
  j->height = fvg__get_u16(p + 1);
  j->width = fvg__get_u16(p + 3);
  j->n_part = p[5];
  j->progressive = marker == 0xC2;
  const int n_known = j->n_part == 1 || j->n_part == 3 || j->n_part == 4;
  if (depth != 8 || !j->width || !n_known || n < 6 + 3 * (size_t)j->n_part)
    return fvg__jpeg_damaged(c, j, "frame header");

  p += 6;
  for (int i = 0; i < j->n_part; i++) {
    fvg__jpeg_part *part = &j->part[i];
    part->name = p[0];
    part->across = p[1] >> 4;
    part->down = p[1] & 15;
    part->table = p[2];
    p += 3;

    const int sampled = part->across >= 1 && part->across <= 4
                        && part->down >= 1 && part->down <= 4;
    if (!sampled || part->table > 3) return fvg__jpeg_damaged(c, j, "frame header");
  }
  return FVG_OK;
}

/* How many restart markers a scan of n_part components holds: one between every `interval` units of
   blocks.  part is the last of the components. */
static int fvg__jpeg_restarts(const fvg__jpeg *j, int n_part, const fvg__jpeg_part *part) {
  if (!j->interval) return 0;

  int most_across = 1, most_down = 1;
  for (int i = 0; i < j->n_part; i++) {
    if (j->part[i].across > most_across) most_across = j->part[i].across;
    if (j->part[i].down > most_down) most_down = j->part[i].down;
  }

  double units_across = ceil(j->width / (8.0 * most_across));
  double units_down = ceil(j->height / (8.0 * most_down));
  if (n_part == 1) {                     /* a component alone has no blocks beyond its own sides */
    units_across = ceil(ceil((double)j->width * part->across / most_across) / 8);
    units_down = ceil(ceil((double)j->height * part->down / most_down) / 8);
  }
  return (int)ceil(units_across * units_down / j->interval) - 1;
}

/* Checks that the tables of a scan's component are there, because stb_image would go on without
   them.  dc, ac: numbers of its Huffman tables.  bands: the first and last coefficient of a block
   that the scan holds, and whether it refines them. */
static fvg_status fvg__jpeg_scan_tables(fvg_ctx *c, const fvg__jpeg *j, const fvg__jpeg_part *part,
                                        int dc, int ac, const uint8_t *bands) {
  if (!(j->quantised >> part->table & 1))
    return fvg_fail(c, FVG_E_FORMAT, "%s: JPEG without quantisation table %d", j->file->name,
                    part->table);

  const int first = j->progressive ? bands[0] : 0;
  const int last = j->progressive ? bands[1] : 63;
  const int refines = j->progressive && bands[2] >> 4;
  const int has_dc = j->huffman >> dc & 1;
  const int has_ac = j->huffman >> (4 + ac) & 1;
  const int needs_dc = !first && !refines;
  if ((needs_dc && !has_dc) || (last && !has_ac))
    return fvg_fail(c, FVG_E_UNSUPPORTED,
                    "%s: JPEG without Huffman tables (DHT), as frames of Motion JPEG are; save "
                    "it again as plain JPEG or PNG", j->file->name);
  return FVG_OK;
}

/* Reads a scan header: the number of components; for each its name and its two Huffman tables; and
   three bytes that say which part of the coefficients follows. */
static fvg_status fvg__jpeg_scan(fvg_ctx *c, fvg__jpeg *j, const uint8_t *p, size_t n) {
  const int n_part = n ? p[0] : 0;
  if (n_part < 1 || n_part > j->n_part || n < 4 + 2 * (size_t)n_part)
    return fvg__jpeg_damaged(c, j, "scan header");

  j->scans++;
  if (j->scans > FVG__JPEG_SCANS)
    return fvg_fail(c, FVG_E_UNSUPPORTED, "%s: JPEG of more than %d scans", j->file->name,
                    FVG__JPEG_SCANS);
  if (j->scans == 1) j->first_scan = j->at - 2;

  const uint8_t *bands = p + 1 + 2 * n_part;
  for (p++; p < bands; p += 2) {
    const int name = p[0], dc = p[1] >> 4, ac = p[1] & 15;

    int k = 0;
    while (k < j->n_part && j->part[k].name != name) k++;
    if (k == j->n_part || dc > 3 || ac > 3) return fvg__jpeg_damaged(c, j, "scan header");

    const fvg_status s = fvg__jpeg_scan_tables(c, j, &j->part[k], dc, ac, bands);
    if (s) return s;
    if (!j->progressive || !bands[0]) j->scanned |= 1u << k;
    j->restarts = fvg__jpeg_restarts(j, n_part, &j->part[k]);
  }
  return FVG_OK;
}

static int fvg__jpeg_is_frame(int marker) {
  if (marker == 0xDE || marker == 0xF7) return 1;
  return marker >= 0xC0 && marker <= 0xCF && marker != 0xC8;
}

/* Reads the n bytes of a segment.  Segments that are not listed here do not matter. */
static fvg_status fvg__jpeg_segment(fvg_ctx *c, fvg__jpeg *j, int marker, const uint8_t *p,
                                    size_t n) {
  if (marker == 0xC4) return fvg__jpeg_tables(c, j, 1, p, n);
  if (marker == 0xDB) return fvg__jpeg_tables(c, j, 0, p, n);
  if (marker == 0xDA) return fvg__jpeg_scan(c, j, p, n);
  if (fvg__jpeg_is_frame(marker)) return fvg__jpeg_frame(c, j, marker, p, n);

  fvg__picture *f = j->file;
  if (marker == 0xDD && n >= 2) j->interval = fvg__get_u16(p);
  if (marker == 0xE0 && n >= 5 && !memcmp(p, "JFIF", 5)) j->jfif = 1;
  if (marker == 0xE1 && n > 6 && !memcmp(p, "Exif", 5) && !f->orientation)
    f->orientation = fvg__exif_orientation(p, n);
  if (marker == 0xEE && n >= 12 && !memcmp(p, "Adobe", 5)) j->adobe = p[11];
  return FVG_OK;
}

/* Advances to the next marker, over a scan's data, and returns it.  The scan must have all its
   restart markers, in order: stb_image would fill in grey for missing data, or shift what
   follows. */
static fvg_status fvg__jpeg_marker(fvg_ctx *c, fvg__jpeg *j, int *marker) {
  const fvg__picture *f = j->file;
  int found = 0;

  for (; j->at + 1 < f->n; j->at++) {
    *marker = f->bytes[j->at + 1];
    if (f->bytes[j->at] != 0xFF || !*marker || *marker == 0xFF) continue;

    const int is_restart = (*marker & 0xF8) == 0xD0;
    if (!is_restart) break;

    const int due = 0xD0 + found % 8;
    found++;
    if (*marker != due || !j->interval)
      return fvg_fail(c, FVG_E_FORMAT,
                      "%s: JPEG restart marker RST%d at byte %zu is not the one due there: the "
                      "data are damaged", f->name, *marker & 7, j->at);
  }

  if (j->at + 1 >= f->n)
    return fvg_fail(c, FVG_E_FORMAT, "%s: JPEG without its end mark: truncated at byte %zu",
                    f->name, f->n);
  if (found < j->restarts)
    return fvg_fail(c, FVG_E_FORMAT,
                    "%s: JPEG scan of %d restart markers in place of %d: the data are damaged, a "
                    "part is missing", f->name, found, j->restarts);
  j->restarts = 0;
  j->at += 2;
  return FVG_OK;
}

/* Walks over all segments to the end mark. */
static fvg_status fvg__jpeg_walk(fvg_ctx *c, fvg__jpeg *j) {
  const fvg__picture *f = j->file;
  int marker = 0;
  fvg_status s = fvg__jpeg_marker(c, j, &marker);
  while (!s && marker != 0xD9) {
    const uint8_t *p = f->bytes + j->at;
    const size_t left = f->n - j->at;
    const size_t length = left < 2 ? 0 : (size_t)fvg__get_u16(p);
    if (length < 2 || length > left)
      return fvg_fail(c, FVG_E_FORMAT,
                      "%s: JPEG segment FF%02X at byte %zu has %zu bytes, the file %zu more",
                      f->name, (unsigned)marker, j->at - 2, length, left);

    s = fvg__jpeg_segment(c, j, marker, p + 2, length - 2);
    j->at += length;
    if (!s) s = fvg__jpeg_marker(c, j, &marker);
  }
  if (s) return s;

  /* a block of 64 pixels costs at least one bit */
  if (!j->scans) return fvg_fail(c, FVG_E_FORMAT, "%s: JPEG without a picture", f->name);
  if (j->scanned != (1u << j->n_part) - 1)
    return fvg_fail(c, FVG_E_FORMAT,
                    "%s: JPEG in which a component of the colours has no scan: a part is missing",
                    f->name);
  if ((double)j->width * j->height > 1024.0 * (double)f->n)
    return fvg_fail(c, FVG_E_FORMAT, "%s: JPEG of %d x %d pixels cannot come from %zu bytes",
                    f->name, j->width, j->height, f->n);
  return fvg__picture_fits(c, f, j->width, j->height);
}

/* Checks a JPEG.  Four components are CMYK or, with Adobe's transform 2, YCCK, both with 255 as
   white: so libjpeg and Pillow read them.  Without Adobe's segment stb_image would take them for
   YCbCr with something else, so that segment is put before the first scan. */
static fvg_status fvg__jpeg_check(fvg_ctx *c, fvg__picture *p) {
  fvg__jpeg j;
  memset(&j, 0, sizeof j);
  j.file = p;
  j.at = 2;
  j.adobe = -1;
  const fvg_status s = fvg__jpeg_walk(c, &j);
  if (s) return s;

  if (j.interval) p->hint = "; perhaps bytes too many before a restart marker";

  const fvg__jpeg_part *part = j.part;
  const int names_rgb = part[0].name == 'R' && part[1].name == 'G' && part[2].name == 'B';
  if (j.n_part == 3 && names_rgb && (j.jfif || j.adobe > 0))
    return fvg_fail(c, FVG_E_UNSUPPORTED,
                    "%s: JPEG whose components are called R, G, B while its %s segment says "
                    "YCbCr; save it again", p->name, j.jfif ? "JFIF" : "Adobe");
  if (j.n_part != 4 || j.adobe == 0 || j.adobe == 2) return FVG_OK;

  /* marker and length, "Adobe", version 100, two flags, and the transform: 2 for YCCK */
  uint8_t adobe[16] = {
    0xFF, 0xEE, 0, 14, 'A', 'd', 'o', 'b', 'e', 0, 100, 0, 0, 0, 0, 0
  };
  if (j.adobe > 0) adobe[15] = 2;
  return fvg__splice(c, p, j.first_scan, 0, adobe, sizeof adobe);
}

/* ---- reading, whatever it is ---- */
/* Decodes a file of one of stb_image's kinds. */
static fvg_status fvg__stb_read(fvg_ctx *c, fvg_image *out, fvg__picture *p, fvg__image_code code) {
  if (code == FVG__BMP) return fvg__bmp_decode(c, out, p);
  if (code == FVG__GIF) return fvg__gif_decode(c, out, p);

  const fvg_status s = code == FVG__PNG ? fvg__png_check(c, p) : fvg__jpeg_check(c, p);
  return s ? s : fvg__stb_decode(c, out, p, 0);
}
#else
static fvg_status fvg__stb_read(fvg_ctx *c, fvg_image *out, fvg__picture *p, fvg__image_code code) {
  (void)out;
  (void)code;
  return fvg_fail(c, FVG_E_UNSUPPORTED,
                  "%s: %s needs a build with FVGPT_STB_IMAGE (Debian package libstb-dev)", p->name,
                  p->kind);
}
#endif

/* Reports why this kind of file is not read.  cure: what the user can do about it; NULL: convert
   it. */
static fvg_status fvg__image_refuse(fvg_ctx *c, const fvg__picture *p, const char *cure) {
  if (p->kind)
    return fvg_fail(c, FVG_E_UNSUPPORTED, "%s: %s: %s", p->name, p->kind,
                    cure ? cure : "fvgpt does not read this format; convert it to PNG or JPEG");

  size_t zeros = 0;
  while (zeros < p->n && !p->bytes[zeros]) zeros++;
  if (zeros == p->n)
    return fvg_fail(c, FVG_E_FORMAT, "%s: %s (%zu bytes); copy or download it again", p->name,
                    p->n ? "a file of zeros" : "an empty file", p->n);
  return fvg_fail(c, FVG_E_FORMAT,
                  "%s: %zu bytes, neither PNM (P1 to P6) nor PNG, JPEG, BMP or GIF; if it is a "
                  "picture, convert it to PNG or JPEG", p->name, p->n);
}

/* Decodes the picture as it is in the file, by the kind that its first bytes tell. */
static fvg_status fvg__image_of_kind(fvg_ctx *c, fvg_image *out, fvg__picture *p) {
  p->kind = fvg__image_name_of_bytes(p->bytes, p->n);
  const fvg__image_kind *kind = fvg__image_kind_called(p->kind);

  if (!kind) return fvg__image_refuse(c, p, NULL);
  if (kind->code == FVG__NOT_READ) return fvg__image_refuse(c, p, kind->cure);
  if (kind->code == FVG__PNM) return fvg__pnm_decode(c, out, p->bytes, p->n, p->name);
  return fvg__stb_read(c, out, p, kind->code);
}

/* Decodes the picture and converts it to so many channels (0: as in the file). */
static fvg_status fvg__image_read(fvg_ctx *c, fvg_image *out, fvg__picture *p, int channels) {
  fvg_image in;
  memset(&in, 0, sizeof in);
  fvg_status s = fvg__image_of_kind(c, &in, p);

  if (!s && channels && channels != in.channels) {
    s = fvg__image_new(c, out, in.width, in.height, channels);
    const size_t n = fvg__row(in.height, in.width);
    if (!s) fvg__convert_pixels(out->pixels, channels, in.pixels, in.channels, n);
  } else if (!s) {
    *out = in;
    in.pixels = NULL;                    /* `out` owns them now */
  }

  out->orientation = s ? 0 : p->orientation;
  fvg_image_free(c, &in);
  return s;
}

/* Finds out what the bytes are, by their first ones, and hands them to that kind's decoder. */
FVG_DEF fvg_status fvg_image_decode(fvg_ctx *c, fvg_image *out, const fvg_source *s, int channels) {
  if (out) memset(out, 0, sizeof *out);
  if (!out || !s)
    return fvg__missing(c, "fvg_image_decode", "a source and a place for the image");
  fvg__picture p;
  memset(&p, 0, sizeof p);
  p.name = s->name ? s->name : "image";

  if (channels != 0 && channels != 1 && channels != 3)
    return fvg_fail(c, FVG_E_ARG,
                    "%s: %d channels asked for; 1 is grey, 3 RGB, 0 as in the file", p.name,
                    channels);
  if (s->size > FVG__IMAGE_BYTES)
    return fvg_fail(c, FVG_E_UNSUPPORTED, "%s: %llu bytes; image files of up to %d bytes are read",
                    p.name, (fvg__long)s->size, FVG__IMAGE_BYTES);

  fvg_status status = fvg_source_read_all(c, &p.bytes, &p.n, s);
  if (!status) status = fvg__image_read(c, out, &p, channels);
  fvg_bytes_free(c, p.bytes);
  return status;
}

#ifndef FVGPT_NO_STDIO
FVG_DEF fvg_status fvg_image_load(fvg_ctx *c, fvg_image *out, const char *path, int channels) {
  if (out) memset(out, 0, sizeof *out);
  if (!out || !path)
    return fvg__missing(c, "fvg_image_load", "a path and a place for the image");
  fvg_source source;
  fvg_status s = fvg_source_file(c, &source, path);
  if (s) return s;

  s = fvg_image_decode(c, out, &source, channels);
  fvg_source_close(&source);
  return s;
}
#endif

#ifndef FVGPT_NO_TRAINING  /* chapter 6 */
/*==================================================================================================
 * CHAPTER 6  WRITING PICTURES: PNM, and PNG with a deflate of our own
 *==================================================================================================
   Deflate (RFC 1951) does not write again what stands in the last 32 KiB, but points to it.  Each
   step writes either one byte, or "copy `length` bytes from `distance` back".  A hash of the next
   three bytes finds such text: it leads to the latest position with that hash, from there to the
   one before, and so on, 32 at most.

   The codes are the RFC's fixed ones: a byte takes 8 or 9 bits, a length 7 or 8 and some more, a
   distance 5 and some more.  (Codes made for each picture would save another fifth of a photograph,
   and take as many lines again.)  At worst, for noise, the stream is an eighth longer than the
   bytes. */

#ifndef FVGPT_NO_STDIO
#define FVG__WINDOW    32768             /* the farthest distance, in bytes */
#define FVG__HASH_BITS 13
#define FVG__LONGEST   258               /* bytes in one copy */

typedef struct fvg__deflate {
  uint8_t *at;                           /* where the next byte goes */
  uint32_t bits;                         /* bits that are not yet written, the first one lowest */
  int n_bits;
  int32_t latest[1 << FVG__HASH_BITS];   /* by hash: 1 + its latest position; 0: none */
  int32_t before[FVG__WINDOW];           /* by position: 1 + the one before with the same hash */
  fvg__crc crc;                          /* tables for the PNG file that the stream goes into */
} fvg__deflate;

/* ---- bits and codes ---- */
/* Writes the n lowest bits of a number, the lowest first. */
static void fvg__put_bits(fvg__deflate *z, uint32_t value, int n) {
  z->bits |= value << z->n_bits;
  z->n_bits += n;

  while (z->n_bits >= 8) {
    *z->at++ = (uint8_t)z->bits;
    z->bits >>= 8;
    z->n_bits -= 8;
  }
}

/* Writes a code of n bits, which goes highest bit first, unlike numbers. */
static void fvg__put_code(fvg__deflate *z, uint32_t code, int n) {
  for (int bit = n - 1; bit >= 0; bit--) fvg__put_bits(z, code >> bit & 1, 1);
}

/* Writes a symbol: 0 to 255 is a byte, 256 the end, 257 to 285 a group of lengths. */
static void fvg__put_symbol(fvg__deflate *z, uint32_t symbol) {
  if (symbol < 144) fvg__put_code(z, 48 + symbol, 8);
  else if (symbol < 256) fvg__put_code(z, 400 + symbol - 144, 9);
  else if (symbol < 280) fvg__put_code(z, symbol - 256, 7);
  else fvg__put_code(z, 192 + symbol - 280, 8);
}

/* Returns the group of a length or a distance x.  The width of the groups doubles after every
   2^(lead-1) of them, as in a floating-point number of `lead` bits; the lowest *extra bits of x say
   where in its group x is.  A length of 20 is x = 17, and with lead 3 it is in group
   2 * 4 + (17 >> 2) = 12, which is symbol 269, with two extra bits 01. */
static uint32_t fvg__group(uint32_t x, int lead, int *extra) {
  *extra = 0;
  while (x >> (*extra + lead)) ++*extra;
  return ((uint32_t)*extra << (lead - 1)) + (x >> *extra);
}

static void fvg__put_extra(fvg__deflate *z, uint32_t x, int extra) {
  fvg__put_bits(z, x & ((1u << extra) - 1), extra);
}

/* Writes "copy `length` bytes from `distance` back".  The greatest length is a group by itself. */
static void fvg__put_copy(fvg__deflate *z, int length, int distance) {
  int extra;
  if (length == FVG__LONGEST) {
    fvg__put_symbol(z, 285);
  } else {
    const uint32_t x = (uint32_t)length - 3;
    fvg__put_symbol(z, 257 + fvg__group(x, 3, &extra));
    fvg__put_extra(z, x, extra);
  }

  const uint32_t y = (uint32_t)distance - 1;
  fvg__put_code(z, fvg__group(y, 2, &extra), 5);
  fvg__put_extra(z, y, extra);
}

/* ---- text that was there before ---- */
/* The hash of three bytes, by the golden ratio (Knuth, The Art of Computer Programming, 6.4). */
static uint32_t fvg__hash3(const uint8_t *b) {
  const uint32_t x = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16;
  return x * 2654435761u >> (32 - FVG__HASH_BITS);
}

/* Returns the length of the longest earlier text that equals the `left` bytes from `at` on, and how
   far back it begins. */
static int fvg__find_copy(const fvg__deflate *z, const uint8_t *bytes, int32_t at, int32_t left,
                          int *distance) {
  const int most = left < FVG__LONGEST ? (int)left : FVG__LONGEST;
  int32_t old = z->latest[fvg__hash3(bytes + at)] - 1;
  int best = 0;

  for (int tries = 32; tries && best < most; tries--) {
    if (old < 0 || at - old > FVG__WINDOW) break;

    int k = 0;
    while (k < most && bytes[old + k] == bytes[at + k]) k++;
    if (k > best) {
      best = k;
      *distance = (int)(at - old);
    }
    old = z->before[old % FVG__WINDOW] - 1;
  }
  return best;
}

/* Enters the position `at` as the latest with its hash. */
static void fvg__enter_hash(fvg__deflate *z, const uint8_t *bytes, int32_t at) {
  const uint32_t hash = fvg__hash3(bytes + at);
  z->before[at % FVG__WINDOW] = z->latest[hash];
  z->latest[hash] = at + 1;
}

/* Writes n bytes as one block, which takes at most 9/8 n + 3 bytes. */
static void fvg__deflate_bytes(fvg__deflate *z, const uint8_t *bytes, int32_t n) {
  fvg__put_bits(z, 1, 1);                /* this is the last block */
  fvg__put_bits(z, 1, 2);                /* with the fixed codes */

  int32_t at = 0;
  while (at < n) {
    int distance = 0, length = 0;
    if (n - at >= 3) length = fvg__find_copy(z, bytes, at, n - at, &distance);
    if (length >= 3) {
      fvg__put_copy(z, length, distance);
    } else {
      fvg__put_symbol(z, bytes[at]);
      length = 1;
    }

    const int32_t end = at + length;
    for (; at < end; at++)
      if (n - at >= 3) fvg__enter_hash(z, bytes, at);
  }

  fvg__put_symbol(z, 256);
  fvg__put_bits(z, 0, 7);                /* fills up the last byte, so that it is written */
}

/* ---- PNG (RFC 2083): differences between neighbours, in a zlib stream (RFC 1950) ---- */
/* The zlib stream's checksum: 1 + the sum of the bytes, and the sum of these sums, both modulo
   65521.  The sums of 5552 bytes cannot overflow 32 bits. */
static uint32_t fvg__adler32(const uint8_t *bytes, size_t n) {
  uint32_t a = 1, b = 0;
  while (n) {
    const size_t part = n < 5552 ? n : 5552;
    for (size_t i = 0; i < part; i++) {
      a += bytes[i];
      b += a;
    }

    a %= 65521;
    b %= 65521;
    bytes += part;
    n -= part;
  }
  return b << 16 | a;
}

/* What a filter predicts for a byte: 0 nothing, 1 the left one, 2 the one above, 4 (Paeth's) the
   one of left, above and corner that is nearest to left + above - corner. */
static int fvg__png_guess(int filter, int left, int above, int corner) {
  if (filter == 0) return 0;
  if (filter == 1) return left;
  if (filter == 2) return above;

  const int to_left = abs(above - corner);
  const int to_above = abs(left - corner);
  const int to_corner = abs(left + above - 2 * corner);
  if (to_left <= to_above && to_left <= to_corner) return left;
  return to_above <= to_corner ? above : corner;
}

/* Writes the filter's number and the row [n] less what the filter predicts; returns the sum of the
   absolute differences.  above: the row before, or NULL. */
static long fvg__png_filter(uint8_t *out, int filter, const uint8_t *row, const uint8_t *above,
                            size_t n, size_t channels) {
  long sum = 0;
  *out++ = (uint8_t)filter;
  for (size_t i = 0; i < n; i++) {
    const int has_left = i >= channels;
    const int left = has_left ? row[i - channels] : 0;
    const int up = above ? above[i] : 0;
    const int corner = above && has_left ? above[i - channels] : 0;

    out[i] = (uint8_t)(row[i] - fvg__png_guess(filter, left, up, corner));
    sum += out[i] < 128 ? out[i] : 256 - out[i];
  }
  return sum;
}

/* Filters all rows: [height, 1 + width channels].  Small differences repeat more often than
   colours, so each row takes the filter that leaves the smallest ones.  (Filter 3, the average of
   left and above, seldom wins.) */
static void fvg__png_rows(uint8_t *out, const fvg_image *image) {
  static const int filters[4] = {0, 1, 2, 4};
  const size_t channels = (size_t)image->channels;
  const size_t n = (size_t)image->width * channels;

  const uint8_t *row = image->pixels, *above = NULL;
  for (int y = 0; y < image->height; y++) {
    long least = -1;
    int best = 0;
    for (int k = 0; k < 4; k++) {
      const long sum = fvg__png_filter(out, filters[k], row, above, n, channels);
      if (least >= 0 && sum >= least) continue;
      least = sum;
      best = k;
    }

    /* the last filter's row is in `out` already */
    if (best != 3) fvg__png_filter(out, filters[best], row, above, n, channels);
    out += n + 1;
    above = row;
    row += n;
  }
}

/* Closes the chunk whose type is at `type` and whose data end at `end`, with its length before the
   type and its CRC after the data.  Returns the chunk's end. */
static uint8_t *fvg__png_close_chunk(const fvg__crc *crc, uint8_t *type, uint8_t *end) {
  fvg__put_u32(type - 4, (uint32_t)(end - type - 4));
  return fvg__put_u32(end, fvg__crc32(crc, type, (size_t)(end - type)));
}

/* Writes signature, header, filtered rows and end into memory that holds zeros; returns the file's
   end. */
static uint8_t *fvg__png_file(uint8_t *file, const fvg_image *image, fvg__deflate *z,
                              const uint8_t *rows, size_t n_rows) {
  static const uint8_t signature[8] = {0x89, 'P', 'N', 'G', 13, 10, 26, 10};
  static const uint8_t colour_of_channels[5] = {0, 0, 4, 2, 6};
  memcpy(file, signature, 8);

  /* five bytes follow the sides: bits of a sample, colour, and three methods, which are 0 */
  uint8_t *type = file + 8 + 4;
  memcpy(type, "IHDR", 4);
  uint8_t *at = fvg__put_u32(type + 4, (uint32_t)image->width);
  at = fvg__put_u32(at, (uint32_t)image->height);
  at[0] = 8;
  at[1] = colour_of_channels[image->channels];
  at = fvg__png_close_chunk(&z->crc, type, at + 5);

  /* 78 01: deflate with a window of 32 KiB */
  type = at + 4;
  memcpy(type, "IDAT", 4);
  type[4] = 0x78;
  type[5] = 0x01;
  z->at = type + 6;
  fvg__deflate_bytes(z, rows, (int32_t)n_rows);
  at = fvg__put_u32(z->at, fvg__adler32(rows, n_rows));
  at = fvg__png_close_chunk(&z->crc, type, at);

  type = at + 4;
  memcpy(type, "IEND", 4);
  return fvg__png_close_chunk(&z->crc, type, type + 4);
}

/* Encodes a picture as a PNG file in memory: (*bytes)[*n], which the caller releases. */
FVG_DEF fvg_status fvg_image_encode_png(fvg_ctx *c, uint8_t **bytes, size_t *n,
                                        const fvg_image *image) {
  if (bytes) *bytes = NULL;
  if (n) *n = 0;
  if (!bytes || !n) return fvg__missing(c, "fvg_image_encode_png", "places for the bytes");
  fvg_status s = fvg__image_check(c, image, "fvg_image_encode_png");
  if (s) return s;

  /* fvg__image_check bounds the sides, so that the rows have fewer than 2^30 bytes */
  const size_t row = fvg__row(image->width, image->channels) + 1;
  const size_t n_rows = row * (size_t)image->height;
  const size_t header = 12 + 13, end = 12;
  const size_t data = 12 + 2 + (n_rows + n_rows / 8 + 3) + 4;

  uint8_t *rows = (uint8_t *)fvg_alloc(c, n_rows);
  fvg__deflate *z = FVG_NEW(c, fvg__deflate);
  if (rows && z) *bytes = (uint8_t *)fvg_alloc(c, 8 + header + data + end);
  if (*bytes) {
    fvg__png_rows(rows, image);
    fvg__crc_init(&z->crc);
    *n = (size_t)(fvg__png_file(*bytes, image, z, rows, n_rows) - *bytes);
  }

  fvg_release(c, z);
  fvg_release(c, rows);
  return *bytes ? FVG_OK : FVG_E_NOMEM;
}

/* ---- PNM, and saving ---- */
/* Encodes a picture as PPM (P6) or PGM (P5): kind, sides and maximum as text, then the pixels. */
static fvg_status fvg__pnm_encode(fvg_ctx *c, const fvg_image *image, uint8_t **bytes, size_t *n) {
  char head[64];
  fvg__print(head, sizeof head, "P%d\n%d %d\n255\n", image->channels == 3 ? 6 : 5, image->width,
           image->height);

  const size_t n_head = strlen(head);
  const size_t n_pixels = fvg__row(image->height, image->width) * (size_t)image->channels;
  *n = n_head + n_pixels;
  *bytes = (uint8_t *)fvg_alloc(c, *n);
  if (!*bytes) return FVG_E_NOMEM;

  memcpy(*bytes, head, n_head);
  memcpy(*bytes + n_head, image->pixels, n_pixels);
  return FVG_OK;
}

/* Tells whether a path ends with a suffix, which is given in lower case. */
static int fvg__has_suffix(const char *path, const char *suffix) {
  const size_t n = strlen(path), k = strlen(suffix);
  if (n < k) return 0;

  const char *end = path + n - k;
  for (size_t i = 0; i < k; i++) {
    int letter = end[i];
    if (letter >= 'A' && letter <= 'Z') letter += 'a' - 'A';
    if (letter != suffix[i]) return 0;
  }
  return 1;
}

/* Saves a picture in the format that the path's suffix names. */
FVG_DEF fvg_status fvg_image_save(fvg_ctx *c, const fvg_image *image, const char *path) {
  if (!path) return fvg__missing(c, "fvg_image_save", "a path");
  fvg_status s = fvg__image_check(c, image, path);
  if (s) return s;

  const int png = fvg__has_suffix(path, ".png");
  const int pgm = fvg__has_suffix(path, ".pgm");
  const int ppm = fvg__has_suffix(path, ".ppm");
  const int pnm = fvg__has_suffix(path, ".pnm");
  if (!png && !pgm && !ppm && !pnm)
    return fvg_fail(c, FVG_E_UNSUPPORTED,
                    "%s: images are written as .png, .ppm, .pgm or .pnm", path);

  const int as_grey = image->channels == 1 && (pgm || pnm);
  const int as_rgb = image->channels == 3 && (ppm || pnm);
  if (!png && !as_grey && !as_rgb)
    return fvg_fail(c, FVG_E_ARG,
                    "%s: an image of %d channels does not go into this format; use .png", path,
                    image->channels);

  uint8_t *bytes = NULL;
  size_t n = 0;
  s = png ? fvg_image_encode_png(c, &bytes, &n, image) : fvg__pnm_encode(c, image, &bytes, &n);
  if (s) return s;
  s = fvg_file_save(c, path, bytes, n);
  fvg_release(c, bytes);
  return s;
}
#endif
#endif /* FVGPT_NO_TRAINING */

/*==================================================================================================
 * CHAPTER 7  RESIZING: Pillow's bytes, crops and masks
 *==================================================================================================
   What CLIP sees depends on the resampling as much as on the weights, so the resampling here gives
   the same bytes as Pillow 9.4 and torchvision for 1 and 3 channels (with alpha Pillow multiplies
   the colours by it first); only JPEG decoders may differ from each other by a grey level.

   Bicubic.  Output sample i lies at c = (i + 1/2) r of the input, r = in/out.  It is a weighted
   mean of the samples x with |x + 1/2 - c| < 2 f, where f = max(r, 1); the weights are
   k((x + 1/2 - c)/f), divided by their sum, with Keys' kernel k (1981, a = -1/2).  When a picture
   is shrunk, f stretches the kernel, which makes it the low-pass filter.  Rows are resized first,
   then columns.  Weights are rounded to 22 fractional bits, and each pass is rounded and clipped to
   a byte; a pass is left out if its size does not change.  Bilinear is the same with the kernel
   1 - |x|, which reaches half as far.

   One function, fvg__resample, computes any window of the result from a view of the source,
   [height, width, channels] bytes: a crop is a view, the centre crop is a window.

   Masks go through the same steps as their image, but with the nearest pixel instead, so they stay
   0/255. */

/* A box of an image. */
typedef struct fvg__view {
  const uint8_t *pixels;                  /* of its top left corner                              */
  int width, height, channels;
  size_t row;                             /* bytes from one row to the next                      */
} fvg__view;

/* A box of the resized picture. */
typedef struct fvg__window {
  int left, top, width, height;
} fvg__window;

/* The weights of n outputs: output i is the sum over k < count[i] of
   weight[i * stride + k] * in[first[i] + k], where the weights sum to about 2^22.  The stride is a
   multiple of 4, and weights from count[i] on are 0. */
typedef struct fvg__taps {
  int n, stride;
  int *first;                             /* [n] owns the memory of all three arrays             */
  int *count;                             /* [n]                                                 */
  int *weight;                            /* [n, stride]                                         */
} fvg__taps;

#define FVG__WEIGHT_BITS 22
#define FVG__WEIGHT_HALF (1 << (FVG__WEIGHT_BITS - 1))

/* Returns a weighted sum as a byte.  To round, the sum started at FVG__WEIGHT_HALF. */
static uint8_t fvg__weighted_byte(int sum) {
  sum = sum > 0 ? sum >> FVG__WEIGHT_BITS : 0;
  return (uint8_t)(sum < 255 ? sum : 255);
}

/* The bilinear kernel: 1 - |x| up to 1. */
static double fvg__triangle(double x) {
  x = fabs(x);
  return x < 1 ? 1 - x : 0;
}

/* Keys' cubic kernel with a = -1/2: (3|x|^3 - 5|x|^2)/2 + 1 up to 1, (-|x|^3 + 5|x|^2 - 8|x|)/2 + 2
   up to 2.  Each operation is rounded, so their order is part of the result. */
static double fvg__keys(double x) {
  x = fabs(x);
  if (x < 1) {
    double y = fvg__exact_product(1.5, x) - 2.5;
    y = fvg__exact_product(y, x);
    return fvg__exact_product(y, x) + 1;
  }
  if (x < 2) {
    double y = fvg__exact_product(x - 5, x) + 8;
    return -0.5 * (fvg__exact_product(y, x) - 4);
  }
  return 0;
}

/* Computes the weights of outputs first .. first + n - 1 of a line of n_in samples that is resized
   to n_out. */
static fvg_status fvg__taps_new(fvg_ctx *c, fvg__taps *t, fvg_filter filter, int n_in, int n_out,
                                int first, int n) {
  int is_bilinear = filter == FVG_BILINEAR;
  double (*kernel)(double x) = is_bilinear ? fvg__triangle : fvg__keys;
  double ratio = (double)n_in / n_out;
  double stretch = ratio > 1 ? ratio : 1;
  double shrink = 1 / stretch;
  double support = (is_bilinear ? 1 : 2) * stretch;

  t->n = n;
  t->stride = (2 * (int)ceil(support) + 1 + 3) / 4 * 4;
  size_t ints_each = (size_t)t->stride + 2;
  t->first = (int *)fvg_alloc_array(c, (size_t)n, ints_each * sizeof(int));
  if (!t->first) return FVG_E_NOMEM;
  t->count = t->first + n;
  t->weight = t->count + n;

  for (int i = 0; i < n; i++) {
    double centre = fvg__exact_product(first + i + 0.5, ratio);
    int low = (int)(centre - support + 0.5);
    int high = (int)(centre + support + 0.5);
    if (low < 0) low = 0;
    if (high > n_in) high = n_in;
    t->first[i] = low;
    t->count[i] = high - low;

    double sum = 0;
    for (int x = low; x < high; x++) {
      sum += kernel((x - centre + 0.5) * shrink);
    }

    int *weight = t->weight + fvg__row(i, t->stride);
    for (int x = low; x < high; x++) {
      double share = kernel((x - centre + 0.5) * shrink) / sum;
      double w = share * (1 << FVG__WEIGHT_BITS);
      *weight++ = (int)(w < 0 ? w - 0.5 : w + 0.5);
    }
  }
  return FVG_OK;
}

/* ---- the two passes ---- */

/* Resizes one row of RGB into t->n pixels. */
static void fvg__row_pass_rgb(uint8_t *dst, const uint8_t *src, const fvg__taps *t) {
  for (int i = 0; i < t->n; i++) {
    const uint8_t *p = src + fvg__row(t->first[i], 3);
    const int *weight = t->weight + fvg__row(i, t->stride);
    int n = t->count[i];
    int r = FVG__WEIGHT_HALF;
    int g = FVG__WEIGHT_HALF;
    int b = FVG__WEIGHT_HALF;

    for (int k = 0; k < n; k++) {
      r += weight[k] * p[0];
      g += weight[k] * p[1];
      b += weight[k] * p[2];
      p += 3;
    }

    dst[0] = fvg__weighted_byte(r);
    dst[1] = fvg__weighted_byte(g);
    dst[2] = fvg__weighted_byte(b);
    dst += 3;
  }
}

/* Resizes one row of any number of channels into t->n pixels. */
static void fvg__row_pass(uint8_t *dst, const uint8_t *src, const fvg__taps *t, int channels) {
  if (channels == 3) {
    fvg__row_pass_rgb(dst, src, t);
    return;
  }

  for (int i = 0; i < t->n; i++) {
    const int *weight = t->weight + fvg__row(i, t->stride);
    int n = t->count[i];

    for (int j = 0; j < channels; j++) {
      const uint8_t *p = src + fvg__row(t->first[i], channels) + j;
      int sum = FVG__WEIGHT_HALF;
      for (int k = 0; k < n; k++) {
        sum += weight[k] * *p;
        p += channels;
      }
      *dst++ = fvg__weighted_byte(sum);
    }
  }
}

/* Computes one output row of n bytes from `count` source rows, which are `row` bytes apart.
   Compilers turn the blocks of 16 columns into vectors. */
static void fvg__column_pass(uint8_t *dst, const uint8_t *src, size_t row, const int *weight,
                             int count, size_t n) {
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    int sum[16];
    for (int j = 0; j < 16; j++) sum[j] = FVG__WEIGHT_HALF;

    for (int k = 0; k < count; k++) {
      const uint8_t *p = src + (size_t)k * row + i;
      for (int j = 0; j < 16; j++) sum[j] += weight[k] * p[j];
    }

    for (int j = 0; j < 16; j++) {
      dst[i + (size_t)j] = fvg__weighted_byte(sum[j]);
    }
  }

  for (; i < n; i++) {
    int sum = FVG__WEIGHT_HALF;
    for (int k = 0; k < count; k++) {
      sum += weight[k] * src[(size_t)k * row + i];
    }
    dst[i] = fvg__weighted_byte(sum);
  }
}

/* Under -Os the passes above do for all. */
#if defined(FVG__X86_SIMD) && !defined(__OPTIMIZE_SIZE__)
#define FVG__AVX2_PASSES

/* ---- the two passes with AVX2 ----
   vpmaddwd multiplies 16 pairs of 16-bit numbers and adds neighbours, which gives eight 32-bit sums
   of two products.  Pixels fit in 16 bits, weights do not, so a weight is split into two digits,
   w = 2^16 h + l with -2^15 <= l < 2^15, and

      sum w p  =  2^16 sum h p  +  sum l p.

   This is exact.  |w| < 2^23 makes |h| <= 2^7, so two products stay below 2 * 2^15 * 255 < 2^24.
   The low digits of many taps may pass 2^31, but lanes add and shift modulo 2^32, so the joined sum
   is the true one modulo 2^32.  The true one fits in an int, because the |w| of an output sum to
   less than 1.5 * 2^22, and 255 times that is 0.75 * 2^31.  Shift and clip are those of
   fvg__weighted_byte, so the bytes are those of the passes above.

   A step of the row pass takes four taps of four rows, which share their weights; a step of the
   column pass takes two taps of 32 columns. */
#define FVG__AVX2 __attribute__((target("avx2")))

/* The two 16-bit digits of weights, or the two sums of products with them. */
typedef struct fvg__digits {
  __m256i high, low;
} fvg__digits;

static int fvg__uses_avx2(const fvg_ctx *c) {
  int level = fvg_simd_level(c);
  return level == FVG_SIMD_AVX2 || level == FVG_SIMD_AVX512;
}

FVG__AVX2 static inline __m256i fvg__16_bytes_twice(const void *p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));
}

FVG__AVX2 static inline __m256i fvg__32_bytes(const void *p) {
  return _mm256_loadu_si256((const __m256i *)p);
}

/* Splits w0 w1 w2 w3 in each half of w into the digits of w0 w1 w2 w3 w0 w1 w2 w3 in each half. */
FVG__AVX2 static inline fvg__digits fvg__weight_digits(__m256i w) {
  /* The low digits are bytes 0 1, 4 5, 8 9, 12 13; the high ones 2 3, 6 7, 10 11, 14 15. */
  const __m256i low_bytes = _mm256_set1_epi64x(0x0d0c090805040100);
  const __m256i high_bytes = _mm256_set1_epi64x(0x0f0e0b0a07060302);
  fvg__digits d;
  d.low = _mm256_shuffle_epi8(w, low_bytes);

  /* Where the low digit is negative, the high one is larger by 1. */
  w = _mm256_add_epi32(w, _mm256_set1_epi32(1 << 15));
  d.high = _mm256_shuffle_epi8(w, high_bytes);
  return d;
}

FVG__AVX2 static inline void fvg__clear_sums(fvg__digits sum[4]) {
  sum[0].high = _mm256_setzero_si256();
  sum[0].low = _mm256_setzero_si256();
  sum[1] = sum[0];
  sum[2] = sum[0];
  sum[3] = sum[0];
}

FVG__AVX2 static inline void fvg__add_products(fvg__digits *sum, __m256i pixels,
                                               const fvg__digits *weight) {
  sum->high = _mm256_add_epi32(sum->high, _mm256_madd_epi16(pixels, weight->high));
  sum->low = _mm256_add_epi32(sum->low, _mm256_madd_epi16(pixels, weight->low));
}

FVG__AVX2 static inline __m256i fvg__join_digits(const fvg__digits *d) {
  return _mm256_add_epi32(_mm256_slli_epi32(d->high, 16), d->low);
}

/* Rounds and shifts; packing the result to bytes will clip it. */
FVG__AVX2 static inline __m256i fvg__weighted_values(__m256i sum) {
  sum = _mm256_add_epi32(sum, _mm256_set1_epi32(FVG__WEIGHT_HALF));
  return _mm256_srai_epi32(sum, FVG__WEIGHT_BITS);
}

/* Packs the sums of one pixel in each of four rows to 16 bytes: r g b a of row 0, then of rows 1, 2
   and 3.  In a sum, each of r g b a has two lanes, which are added. */
FVG__AVX2 static inline __m128i fvg__pack_four_pixels(const fvg__digits sum[4]) {
  __m256i row0 = fvg__join_digits(&sum[0]);
  __m256i row1 = fvg__join_digits(&sum[1]);
  __m256i row2 = fvg__join_digits(&sum[2]);
  __m256i row3 = fvg__join_digits(&sum[3]);
  __m256i rows01 = _mm256_hadd_epi32(row0, row1);
  __m256i rows23 = _mm256_hadd_epi32(row2, row3);

  /* The lower half holds r g of the four rows, the upper one their b a. */
  __m256i v = _mm256_packs_epi32(fvg__weighted_values(rows01), fvg__weighted_values(rows23));
  v = _mm256_packus_epi16(v, v);
  return _mm_unpacklo_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

/* Returns the shuffle that turns 16 bytes, four pixels and what follows them, in each half into the
   16-bit numbers r0 r1 r2 r3 g0 g1 g2 g3 | b0 b1 b2 b3 a0 a1 a2 a3, 0 for absent channels. */
FVG__AVX2 static __m256i fvg__pick_channels(int channels) {
  uint8_t index[32];
  for (int i = 0; i < 32; i++) {
    int channel = i / 8;
    int pixel = i % 8 / 2;
    int is_used = i % 2 == 0 && channel < channels;
    index[i] = (uint8_t)(is_used ? pixel * channels + channel : 0x80);
  }
  return fvg__32_bytes(index);
}

/* Resizes four rows, `row` bytes apart, into t->n pixels each. */
FVG__AVX2 static void fvg__row_pass_avx2(uint8_t *dst, size_t dst_row, const uint8_t *src,
                                         size_t row, const fvg__taps *t, int channels) {
  const __m256i pick = fvg__pick_channels(channels);

  for (int i = 0; i < t->n; i++) {
    const uint8_t *p = src + fvg__row(t->first[i], channels);
    const int *weight = t->weight + fvg__row(i, t->stride);
    fvg__digits sum[4];
    fvg__clear_sums(sum);

    for (int k = 0; k < t->count[i]; k += 4) {
      fvg__digits w = fvg__weight_digits(fvg__16_bytes_twice(weight + k));
      __m256i row0 = fvg__16_bytes_twice(p);
      __m256i row1 = fvg__16_bytes_twice(p + row);
      __m256i row2 = fvg__16_bytes_twice(p + 2 * row);
      __m256i row3 = fvg__16_bytes_twice(p + 3 * row);
      fvg__add_products(&sum[0], _mm256_shuffle_epi8(row0, pick), &w);
      fvg__add_products(&sum[1], _mm256_shuffle_epi8(row1, pick), &w);
      fvg__add_products(&sum[2], _mm256_shuffle_epi8(row2, pick), &w);
      fvg__add_products(&sum[3], _mm256_shuffle_epi8(row3, pick), &w);
      p += 4 * channels;
    }

    uint8_t pixel[16];
    __m128i packed = fvg__pack_four_pixels(sum);
    _mm_storeu_si128((__m128i *)(void *)pixel, packed);

    /* Four bytes at once are faster; the next pixels overwrite the excess. */
    if (i + 4 <= t->n) {
      for (int y = 0; y < 4; y++) {
        memcpy(dst + (size_t)y * dst_row, pixel + 4 * y, 4);
      }
    } else {
      size_t bytes = (size_t)channels;
      for (int y = 0; y < 4; y++) {
        memcpy(dst + (size_t)y * dst_row, pixel + 4 * y, bytes);
      }
    }
    dst += channels;
  }
}

/* Resizes rows first .. first + n - 1 of the view, except its last row: a row's last load ends up
   to 15 bytes after the row, which must be memory of the row below.  Returns how many rows it made;
   the last four may overlap those before. */
FVG__AVX2 static int fvg__row_passes_avx2(uint8_t *dst, const fvg__view *in, const fvg__taps *t,
                                          int first, int n) {
  int n_safe = in->height - 1 - first;
  if (n > n_safe) n = n_safe;
  if (n < 4 || in->row < 16) return 0;

  size_t row = fvg__row(t->n, in->channels);
  for (int y = 0; y < n; y += 4) {
    if (y > n - 4) y = n - 4;
    const uint8_t *src = in->pixels + (size_t)(first + y) * in->row;
    fvg__row_pass_avx2(dst + (size_t)y * row, row, src, in->row, t, in->channels);
  }
  return n;
}

/* Does what fvg__column_pass does, for n >= 32; the last 32 columns may overlap those before. */
FVG__AVX2 static void fvg__column_pass_avx2(uint8_t *dst, const uint8_t *src, size_t row,
                                            const int *weight, int count, size_t n) {
  const __m256i zero = _mm256_setzero_si256();

  for (size_t i = 0; i < n; i += 32) {
    if (i > n - 32) i = n - 32;
    fvg__digits sum[4];
    fvg__clear_sums(sum);

    for (int k = 0; k < count; k += 2) {
      const void *two_weights = weight + k;
      __m128i pair = _mm_loadl_epi64((const __m128i *)two_weights);
      fvg__digits w = fvg__weight_digits(_mm256_broadcastq_epi64(pair));

      /* Bytes of two rows alternate; the packing below restores the order of the columns. */
      const uint8_t *p = src + (size_t)k * row + i;
      __m256i even = fvg__32_bytes(p);
      __m256i odd = k + 1 < count ? fvg__32_bytes(p + row) : zero;
      __m256i lower = _mm256_unpacklo_epi8(even, odd);
      __m256i upper = _mm256_unpackhi_epi8(even, odd);
      fvg__add_products(&sum[0], _mm256_unpacklo_epi8(lower, zero), &w);
      fvg__add_products(&sum[1], _mm256_unpackhi_epi8(lower, zero), &w);
      fvg__add_products(&sum[2], _mm256_unpacklo_epi8(upper, zero), &w);
      fvg__add_products(&sum[3], _mm256_unpackhi_epi8(upper, zero), &w);
    }

    __m256i v0 = fvg__weighted_values(fvg__join_digits(&sum[0]));
    __m256i v1 = fvg__weighted_values(fvg__join_digits(&sum[1]));
    __m256i v2 = fvg__weighted_values(fvg__join_digits(&sum[2]));
    __m256i v3 = fvg__weighted_values(fvg__join_digits(&sum[3]));
    __m256i v01 = _mm256_packs_epi32(v0, v1);
    __m256i v23 = _mm256_packs_epi32(v2, v3);
    __m256i *to = (__m256i *)(void *)(dst + i);
    _mm256_storeu_si256(to, _mm256_packus_epi16(v01, v23));
  }
}
#endif /* FVG__AVX2_PASSES */

/* ---- resampling a window ---- */

/* Resizes rows first .. first + n - 1 of the view to the window's columns of a picture of that
   width, into dst [n, window width, channels]. */
static fvg_status fvg__horizontal(fvg_ctx *c, uint8_t *dst, const fvg__view *in, int width,
                                  const fvg__window *w, fvg_filter filter, int first, int n) {
  const uint8_t *src = in->pixels + (size_t)first * in->row;
  size_t row = fvg__row(w->width, in->channels);

  if (width == in->width) {
    src += fvg__row(w->left, in->channels);
    for (int y = 0; y < n; y++) {
      memcpy(dst + (size_t)y * row, src + (size_t)y * in->row, row);
    }
    return FVG_OK;
  }

  fvg__taps t;
  if (fvg__taps_new(c, &t, filter, in->width, width, w->left, w->width))
    return FVG_E_NOMEM;

  /* AVX2 takes the first y rows, the plain pass what is left of them. */
  int y = 0;
#ifdef FVG__AVX2_PASSES
  if (fvg__uses_avx2(c))
    y = fvg__row_passes_avx2(dst, in, &t, first, n);
#endif
  for (; y < n; y++) {
    const uint8_t *src_row = src + (size_t)y * in->row;
    fvg__row_pass(dst + (size_t)y * row, src_row, &t, in->channels);
  }
  fvg_release(c, t.first);
  return FVG_OK;
}

typedef void (*fvg__column_pass_fn)(uint8_t *dst, const uint8_t *src, size_t row,
                                    const int *weight, int count, size_t n);

static fvg__column_pass_fn fvg__column_pass_for(const fvg_ctx *c, size_t row) {
#ifdef FVG__AVX2_PASSES
  if (row >= 32 && fvg__uses_avx2(c))
    return fvg__column_pass_avx2;
#endif
  (void)c;
  (void)row;
  return fvg__column_pass;
}

/* Computes t->n output rows of `row` bytes from the rows at `middle`, which are those of the source
   from t->first[0] on. */
static void fvg__vertical(const fvg_ctx *c, uint8_t *dst, const uint8_t *middle,
                          const fvg__taps *t, size_t row) {
  fvg__column_pass_fn column_pass = fvg__column_pass_for(c, row);
  for (int y = 0; y < t->n; y++) {
    int below = t->first[y] - t->first[0];
    const int *weight = t->weight + fvg__row(y, t->stride);
    column_pass(dst, middle + (size_t)below * row, row, weight, t->count[y], row);
    dst += row;
  }
}

/* Resizes rows, then columns.  If the height changes, only the source rows that the window's rows
   need go through the first pass. */
static fvg_status fvg__two_passes(fvg_ctx *c, uint8_t *dst, const fvg__view *in, int width,
                                  int height, const fvg__window *w, fvg_filter filter) {
  if (height == in->height)
    return fvg__horizontal(c, dst, in, width, w, filter, w->top, w->height);

  fvg__taps t;
  if (fvg__taps_new(c, &t, filter, in->height, height, w->top, w->height))
    return FVG_E_NOMEM;
  int first = t.first[0];
  int last_row = t.n - 1;
  int n = t.first[last_row] + t.count[last_row] - first;

  fvg_status s = FVG_OK;
  uint8_t *middle = NULL;
  size_t row = fvg__row(w->width, in->channels);
  if ((int64_t)n * w->width > FVG__IMAGE_PIXELS) {
    s = fvg_fail(c, FVG_E_UNSUPPORTED,
                 "resize %d x %d to %d x %d: %d x %d pixels between the passes are too many",
                 in->width, in->height, width, height, w->width, n);
  } else {
    middle = (uint8_t *)fvg_alloc_array(c, (size_t)n, row);
    if (!middle) s = FVG_E_NOMEM;
  }

  if (!s)
    s = fvg__horizontal(c, middle, in, width, w, filter, first, n);
  if (!s) fvg__vertical(c, dst, middle, &t, row);
  fvg_release(c, middle);
  fvg_release(c, t.first);
  return s;
}

/* Computes which input samples outputs first .. first + n - 1 take.  As in Pillow, the position is
   summed up in steps of in/out from half a step on: its rounding at times ends on the other side of
   a border than (i + 1/2) in/out would. */
static void fvg__nearest_indices(int *index, int n_in, int n_out, int first, int n) {
  double step = (double)n_in / n_out;
  double at = step * 0.5;
  for (int i = 0; i < first + n; i++) {
    if (i >= first)
      index[i - first] = at < n_in ? (int)at : n_in - 1;
    at += step;
  }
}

/* Fills the window by the nearest pixels. */
static fvg_status fvg__nearest(fvg_ctx *c, uint8_t *dst, const fvg__view *in, int width, int height,
                               const fvg__window *w) {
  int *column = FVG_NEW_ARRAY(c, int, (size_t)w->width + (size_t)w->height);
  if (!column) return FVG_E_NOMEM;
  int *line = column + w->width;
  fvg__nearest_indices(column, in->width, width, w->left, w->width);
  fvg__nearest_indices(line, in->height, height, w->top, w->height);

  for (int y = 0; y < w->height; y++) {
    const uint8_t *row = in->pixels + (size_t)line[y] * in->row;
    for (int x = 0; x < w->width; x++) {
      const uint8_t *p = row + fvg__row(column[x], in->channels);
      for (int j = 0; j < in->channels; j++) *dst++ = p[j];
    }
  }
  fvg_release(c, column);
  return FVG_OK;
}

/* Computes the window of what `in` becomes at width x height. */
static fvg_status fvg__resample(fvg_ctx *c, fvg_image *out, const fvg__view *in, int width,
                                int height, const fvg__window *w, fvg_filter filter) {
  memset(out, 0, sizeof *out);
  if (filter != FVG_BICUBIC && filter != FVG_NEAREST && filter != FVG_BILINEAR)
    return fvg_fail(c, FVG_E_ARG, "resize: no filter %d", (int)filter);
  if (!fvg__image_fits(w->width, w->height))
    return fvg_fail(c, FVG_E_ARG,
                    "resize %d x %d to %d x %d: sides must be 1 to %d, pixels at most %d",
                    in->width, in->height, w->width, w->height, FVG__IMAGE_SIDE,
                    FVG__IMAGE_PIXELS);

  fvg_status s = fvg__image_new(c, out, w->width, w->height, in->channels);
  if (s) return s;
  if (filter == FVG_NEAREST)
    s = fvg__nearest(c, out->pixels, in, width, height, w);
  else
    s = fvg__two_passes(c, out->pixels, in, width, height, w, filter);
  if (s) fvg_image_free(c, out);
  return s;
}

/* Checks the arguments of the three resizing functions and empties `out`. */
static fvg_status fvg__resize_begin(fvg_ctx *c, fvg_image *out, const fvg_image *in,
                                    const char *who) {
  if (!out) return fvg__missing(c, who, "a place for the image");
  if (out == in)
    return fvg_fail(c, FVG_E_ARG, "%s: the result cannot replace its own source", who);
  memset(out, 0, sizeof *out);
  return fvg__image_check(c, in, who);
}

static fvg__view fvg__image_view(const fvg_image *image, int left, int top, int width,
                                 int height) {
  fvg__view v;
  v.row = fvg__row(image->width, image->channels);
  v.pixels = image->pixels + (size_t)top * v.row;
  v.pixels += fvg__row(left, image->channels);
  v.width = width;
  v.height = height;
  v.channels = image->channels;
  return v;
}

FVG_DEF fvg_status fvg_image_resize(fvg_ctx *c, fvg_image *out, const fvg_image *in, int width,
                                    int height, fvg_filter filter) {
  fvg_status s = fvg__resize_begin(c, out, in, "resize");
  if (s) return s;

  fvg__view view = fvg__image_view(in, 0, 0, in->width, in->height);
  fvg__window all = {0, 0, width, height};
  return fvg__resample(c, out, &view, width, height, &all, filter);
}

/* ---- CLIP's transforms ---- */

/* Returns n / 2 rounded as Python's round does, halves to even. */
static int fvg__half_to_even(int n) {
  int half = n / 2;
  return n % 2 && half % 2 ? half + 1 : half;
}

FVG_DEF fvg_preprocess fvg_preprocess_defaults(int size) {
  static const float mean[3] = {0.48145466f, 0.4578275f, 0.40821073f};
  static const float std[3] = {0.26862954f, 0.26130258f, 0.27577711f};

  fvg_preprocess p;
  memset(&p, 0, sizeof p);
  p.size = size;
  p.resize = size;
  memcpy(p.mean, mean, sizeof mean);
  memcpy(p.std, std, sizeof std);
  return p;
}

/* Computes the size of an image when its shorter side becomes `side` and its aspect is kept. */
static fvg_status fvg__shortest_side(fvg_ctx *c, const fvg_image *in, int side, int *width,
                                     int *height) {
  int tall = in->height > in->width;
  double longer = (double)side * (tall ? in->height : in->width);
  longer /= tall ? in->width : in->height;
  if (!fvg__image_fits(side, side) || longer > FVG__IMAGE_PIXELS)
    return fvg_fail(c, FVG_E_ARG,
                    "test transform of %d x %d: sides of %d and %.0f pixels cannot be made",
                    in->width, in->height, side, longer);

  *width = tall ? side : (int)longer;
  *height = tall ? (int)longer : side;
  return FVG_OK;
}

/* Resizes and cuts out the centre in one go: only the centre's pixels are computed. */
FVG_DEF fvg_status fvg_image_test_transform(fvg_ctx *c, fvg_image *out, const fvg_image *in,
                                            const fvg_preprocess *p) {
  fvg_status s = fvg__resize_begin(c, out, in, "test transform");
  if (!s && !p) s = fvg__missing(c, "fvg_image_test_transform", "a preprocessing");
  if (s) return s;

  int width = p->resize;
  int height = p->resize;
  if (p->resize_mode == FVG_RESIZE_SHORTEST) {
    s = fvg__shortest_side(c, in, p->resize, &width, &height);
    if (s) return s;
  }

  const int size = p->size;
  if (!fvg__image_fits(size, size) || size > width || size > height)
    return fvg_fail(c, FVG_E_ARG,
                    "test transform: the centre of %d pixels a side does not lie within %d x %d",
                    size, width, height);

  fvg__window centre;
  centre.left = fvg__half_to_even(width - size);
  centre.top = fvg__half_to_even(height - size);
  centre.width = size;
  centre.height = size;
  fvg__view view = fvg__image_view(in, 0, 0, in->width, in->height);
  return fvg__resample(c, out, &view, width, height, &centre, p->filter);
}

#ifndef FVGPT_NO_TRAINING  /* crops and masks */
/* Mirrors left to right, in place. */
static void fvg__mirror(fvg_image *image) {
  int channels = image->channels;
  uint8_t *row = image->pixels;

  for (int y = 0; y < image->height; y++) {
    for (int x = 0; x < image->width / 2; x++) {
      uint8_t *a = row + fvg__row(x, channels);
      uint8_t *b = row + fvg__row(image->width - 1 - x, channels);
      for (int j = 0; j < channels; j++) {
        uint8_t swap = a[j];
        a[j] = b[j];
        b[j] = swap;
      }
    }
    row += fvg__row(image->width, channels);
  }
}

static int fvg__crop_fits(const fvg_crop *crop, const fvg_image *in) {
  if (crop->left < 0 || crop->width < 1) return 0;
  if (crop->top < 0 || crop->height < 1) return 0;
  if (crop->left > in->width - crop->width) return 0;
  return crop->top <= in->height - crop->height;
}

FVG_DEF fvg_status fvg_image_resized_crop(fvg_ctx *c, fvg_image *out, const fvg_image *in,
                                          const fvg_crop *crop, int size, fvg_filter filter) {
  fvg_status s = fvg__resize_begin(c, out, in, "resized crop");
  if (!s && !crop) s = fvg__missing(c, "fvg_image_resized_crop", "a box");
  if (s) return s;

  if (!fvg__crop_fits(crop, in))
    return fvg_fail(c, FVG_E_ARG,
                    "resized crop: box of %d x %d at left %d, top %d is not inside %d x %d pixels",
                    crop->width, crop->height, crop->left, crop->top, in->width, in->height);

  fvg__view view = fvg__image_view(in, crop->left, crop->top, crop->width, crop->height);
  fvg__window all = {0, 0, size, size};
  s = fvg__resample(c, out, &view, size, size, &all, filter);
  if (!s && crop->flip) fvg__mirror(out);
  return s;
}

/* Returns exp x for |x| < 1/2 by 1 + x/1 (1 + x/2 (1 + x/3 (...))), with the same bits on every
   machine. */
static double fvg__exact_exp(double x) {
  double y = 1;
  for (int k = 16; k >= 1; k--) {
    y = 1 + fvg__exact_product(x, y) / k;
  }
  return y;
}

/* Returns the largest centred box with a ratio (width to height) within 3/4 .. 4/3. */
static fvg_crop fvg__crop_fallback(int width, int height) {
  fvg_crop box;
  memset(&box, 0, sizeof box);
  box.width = width;
  box.height = height;

  if (4.0 * width < 3.0 * height)
    box.height = (int)floor(width * 4.0 / 3.0 + 0.5);
  else if (3.0 * width > 4.0 * height)
    box.width = (int)floor(height * 4.0 / 3.0 + 0.5);

  box.left = (width - box.width) / 2;
  box.top = (height - box.height) / 2;
  return box;
}

/* torchvision's rule: the area is uniform in scale, the logarithm of the ratio is uniform, and
   there are ten tries to find a box that fits. */
FVG_DEF fvg_crop fvg_crop_random(fvg_rng *r, int width, int height, double scale_min,
                                 double scale_max) {
  const double ln_4_3 = 0.28768207245178093;
  fvg_crop box;
  memset(&box, 0, sizeof box);
  if (width < 1 || height < 1) return box;

  for (int attempt = 0; attempt < 10; attempt++) {
    double range = scale_max - scale_min;
    double scale = scale_min + fvg__exact_product(range, fvg_rng_uniform(r));
    double log_ratio = fvg__exact_product(ln_4_3, 2 * fvg_rng_uniform(r) - 1);
    double ratio = fvg__exact_exp(log_ratio);

    double area = (double)width * height * scale;
    double w = floor(sqrt(area * ratio) + 0.5);
    double h = floor(sqrt(area / ratio) + 0.5);
    int fits = w >= 1 && w <= width && h >= 1 && h <= height;
    if (!fits) continue;

    box.width = (int)w;
    box.height = (int)h;
    box.top = (int)fvg_rng_below(r, (uint32_t)(height - box.height) + 1);
    box.left = (int)fvg_rng_below(r, (uint32_t)(width - box.width) + 1);
    break;
  }

  if (!box.width) box = fvg__crop_fallback(width, height);
  box.flip = (int)(fvg_rng_next(r) >> 63);
  return box;
}

/* The result is written over the image's own pixels, from the first on. */
FVG_DEF fvg_status fvg_image_binarise(fvg_ctx *c, fvg_image *image, float threshold) {
  fvg_status s = fvg__image_check(c, image, "binarise");
  if (s) return s;
  if (!(threshold < 1))
    return fvg_fail(c, FVG_E_ARG,
                    "binarise: threshold %g; it is a share of full white, below 1",
                    (double)threshold);

  double share = 0.5;
  if (threshold > 0) share = (double)threshold;
  else if (threshold < 0) share = 0;
  int colours = image->channels < 3 ? 1 : 3;
  double limit = share * 255 * colours;

  const uint8_t *p = image->pixels;
  size_t n = fvg__pixel_count(image);
  for (size_t i = 0; i < n; i++) {
    int sum = colours == 1 ? p[0] : p[0] + p[1] + p[2];
    p += image->channels;
    image->pixels[i] = sum > limit ? 255 : 0;
  }
  image->channels = 1;
  return FVG_OK;
}

/* Swaps the 0 and 255 of a mask of one channel. */
static void fvg__invert_mask(fvg_image *m) {
  const size_t n = fvg__pixel_count(m);
  for (size_t i = 0; i < n; i++)
    m->pixels[i] = (uint8_t)(255 - m->pixels[i]);
}
#endif /* FVGPT_NO_TRAINING */

/* A byte has 256 values, so each channel is looked up in a table. */
FVG_DEF fvg_status fvg_image_normalize(fvg_ctx *c, float *chw, const fvg_image *image,
                                       const fvg_preprocess *p) {
  fvg_status s = fvg__image_check(c, image, "normalize");
  if (!s && !chw) s = fvg__missing(c, "fvg_image_normalize", "a place for the pixels");
  if (!s && !p) s = fvg__missing(c, "fvg_image_normalize", "a preprocessing");
  if (s) return s;
  if (image->channels != 3)
    return fvg_fail(c, FVG_E_SHAPE,
                    "normalize: CLIP wants [3, %d, %d], the image has %d channels; decode it "
                    "with 3",
                    image->height, image->width, image->channels);

  size_t n = fvg__pixel_count(image);
  for (int j = 0; j < 3; j++) {
    float table[256];
    for (int v = 0; v < 256; v++) {
      float value = (float)v / 255.0f;
      table[v] = (value - p->mean[j]) / p->std[j];
    }

    const uint8_t *channel = image->pixels + j;
    for (size_t i = 0; i < n; i++) *chw++ = table[channel[3 * i]];
  }
  return FVG_OK;
}

FVG__SELDOM_RUN_BEGIN

/*==================================================================================================
 * CHAPTER 8  CONFIGURATIONS: what the files beside the weights say
 *==================================================================================================
   The tensors' shapes tell how wide and how deep a tower is.  A JSON file beside the weights tells
   the rest: heads, activation, the epsilon of layer norm.  Three programs write such files:

     Hugging Face   {"text_config": {...}, "vision_config": {...}}, or the settings of one tower
                    saved alone, with "model_type": "clip_text_model".  The older text_config_dict
                    takes precedence over text_config.
     open_clip      {"model_cfg": {"vision_cfg": {...}, "text_cfg": {...}},
                     "preprocess_cfg": {...}}, or only the content of model_cfg.
     timm           {"architecture": ..., "pretrained_cfg": {...}}.  It does not describe a CLIP and
                    is ignored.

   A missing setting has the default of the program that wrote the file: 8 text heads and 12 image
   heads in Hugging Face's classes; 8 text heads, image heads of 64 columns and plain gelu in
   open_clip.  Without any file, heads are 64 columns wide and the activation is quick_gelu, as in
   OpenAI's own models.

   A setting that changes the arithmetic and is not implemented here (average pooling, a text tower
   without its causal mask, layer scale) is an error that names it.  open_clip rejects keys that it
   does not know, so an unknown key in its form is an error here too.  Hugging Face's classes ignore
   unknown keys, and so does this chapter, unless the key says that the model needs code of its
   own. */

#define FVG__CONFIG_NAME 420             /* bytes of the file's name in messages */
#define FVG__CONFIG_WORD 48              /* bytes of a value in messages */

typedef enum fvg__config_form {
  FVG__NO_CONFIG = 0,
  FVG__HUGGING_FACE,
  FVG__OPEN_CLIP,
  FVG__TIMM
} fvg__config_form;

/* An index is that of a value in `json`, where 0 is the root and -1 means "not there". */
typedef struct fvg__config {
  fvg_ctx *c;
  fvg_json json;
  char file[FVG__CONFIG_NAME];           /* the file's name, for messages */
  fvg__config_form form;
  int model;                             /* index of the settings of the whole model */
  int vision, text;                      /* indices of the two towers' settings */
  int preprocess;                        /* index of open_clip's preprocess_cfg */
} fvg__config;

/* Frees a configuration and leaves one that says nothing. */
static void fvg__config_free(fvg__config *config) {
  if (config->c) fvg_json_free(config->c, &config->json);

  memset(config, 0, sizeof *config);
  config->model = -1;
  config->vision = -1;
  config->text = -1;
  config->preprocess = -1;
}

static const fvg_json_value *fvg__config_value(const fvg__config *config, int i) {
  return &config->json.value[i];
}

/* Writes a value for a message, cut to a few words. */
static const char *fvg__config_text(const fvg__config *config, int i, char text[FVG__CONFIG_WORD]) {
  const fvg_json_value *v = fvg__config_value(config, i);
  const size_t n = FVG__CONFIG_WORD;

  switch (v->type) {
    case FVG_JSON_STRING: fvg__print(text, n, "\"%.40s\"", v->string); break;
    case FVG_JSON_NUMBER: fvg__print(text, n, "%g", v->number); break;
    case FVG_JSON_BOOL:   fvg__print(text, n, "%s", v->number != 0 ? "true" : "false"); break;
    case FVG_JSON_ARRAY:  fvg__print(text, n, "[...]"); break;
    case FVG_JSON_OBJECT: fvg__print(text, n, "{...}"); break;
    default:               fvg__print(text, n, "null"); break;
  }
  return text;
}

/* Returns the index of a key whose value is not null, or -1. */
static int fvg__config_find(const fvg__config *config, int section, const char *key) {
  if (section < 0) return -1;

  const int i = fvg_json_find(&config->json, section, key);
  if (i < 0 || fvg__config_value(config, i)->type == FVG_JSON_NULL) return -1;
  return i;
}

/* Returns the index of a key whose value is an object, or -1. */
static int fvg__config_section(const fvg__config *config, int parent, const char *key) {
  const int i = fvg__config_find(config, parent, key);
  if (i < 0 || fvg__config_value(config, i)->type != FVG_JSON_OBJECT) return -1;
  return i;
}

/* Tells whether value i is the text `word`. */
static int fvg__config_is(const fvg__config *config, int i, const char *word) {
  if (i < 0) return 0;

  const fvg_json_value *v = fvg__config_value(config, i);
  return v->type == FVG_JSON_STRING && !strcmp(v->string, word);
}

/* Tells whether value i is this number. */
static int fvg__config_is_number(const fvg__config *config, int i, double number) {
  const fvg_json_value *v = fvg__config_value(config, i);
  return v->type == FVG_JSON_NUMBER && v->number == number;
}

/* Tells whether a value switches nothing on: null, false, 0, "", [] or {}. */
static int fvg__config_is_empty(const fvg__config *config, int i) {
  const fvg_json_value *v = fvg__config_value(config, i);

  switch (v->type) {
    case FVG_JSON_STRING: return v->string[0] == 0;
    case FVG_JSON_ARRAY:
    case FVG_JSON_OBJECT: return v->n_child == 0;
    default:               return v->number == 0;
  }
}

/* Replaces the pair [224, 224] by its first number.  open_clip writes a square in either form. */
static fvg_status fvg__config_square(const fvg__config *config, const char *key, int *i) {
  const fvg_json_value *v = fvg__config_value(config, *i);
  if (v->type != FVG_JSON_ARRAY || v->n_child != 2) return FVG_OK;

  *i = v->first;
  const fvg_json_value *a = fvg__config_value(config, v->first);
  const fvg_json_value *b = fvg__config_value(config, a->next);
  const int numbers = a->type == FVG_JSON_NUMBER && b->type == FVG_JSON_NUMBER;
  if (!numbers || a->number == b->number) return FVG_OK;

  return fvg_fail(config->c, FVG_E_UNSUPPORTED,
                  "%s: %s is [%g, %g]; only squares are supported",
                  config->file, key, a->number, b->number);
}

/* Reads a size into *out, which keeps its value if the section does not give one. */
static fvg_status fvg__config_size(const fvg__config *config, int section, const char *key,
                                   int *out) {
  int i = fvg__config_find(config, section, key);
  if (i < 0) return FVG_OK;

  const fvg_status s = fvg__config_square(config, key, &i);
  if (s) return s;

  const fvg_json_value *v = fvg__config_value(config, i);
  const double x = v->number;
  if (v->type != FVG_JSON_NUMBER || !(x >= 1 && x <= 1e6) || x != floor(x))
    return fvg_fail(config->c, FVG_E_FORMAT,
                    "%s: %s must be a whole number from 1 to 1000000", config->file, key);
  *out = (int)x;
  return FVG_OK;
}

/* Checks a size that the tensors' shapes give against the configuration, where it has one. */
static fvg_status fvg__config_agrees(const fvg__config *config, int section, const char *key,
                                     int found) {
  int said = found;
  const fvg_status s = fvg__config_size(config, section, key, &said);
  if (s || said == found) return s;

  return fvg_fail(config->c, FVG_E_SHAPE, "the tensors' shapes give %s = %d, but %s says %d",
                  key, found, config->file, said);
}

/* ---- keys that change the arithmetic ---- */
/* A key that we know.  neutral NULL: we understand every value, or the key concerns training alone.
   Otherwise we accept only this word and the empty values null, false, 0, "", [] and {}. */
typedef struct fvg__config_key {
  const char *key;
  const char *neutral;
} fvg__config_key;

/* What open_clip's model_cfg, vision_cfg and text_cfg may hold. */
static const fvg__config_key fvg__open_clip_keys[] = {
  /* the towers, and their sizes */
  {"embed_dim", NULL}, {"vision_cfg", NULL}, {"text_cfg", NULL},
  {"layers", NULL}, {"width", NULL}, {"heads", NULL}, {"head_width", NULL}, {"mlp_ratio", NULL},
  {"patch_size", NULL}, {"image_size", NULL}, {"context_length", NULL}, {"vocab_size", NULL},

  /* the arithmetic that we understand; of norm_kwargs that is eps (fvg__config_eps), and
     pos_embed_type does not matter because the file holds the positions as a tensor */
  {"quick_gelu", NULL}, {"norm_kwargs", NULL}, {"pos_embed_type", NULL}, {"custom_text", NULL},

  /* training, and what the model returns */
  {"init_logit_scale", NULL}, {"output_dict", NULL}, {"cast_dtype", NULL},
  {"patch_dropout", NULL}, {"output_tokens", NULL},

  /* the tokenizer's special tokens */
  {"pad_id", NULL}, {"eos_id", NULL}, {"bos_id", NULL}, {"correct_cls_mask", NULL},

  /* details of attentional_pool, timm_model_name and hf_model_name, which are refused below */
  {"attn_pooler_queries", NULL}, {"attn_pooler_heads", NULL},
  {"timm_model_pretrained", NULL}, {"timm_pool", NULL}, {"timm_proj", NULL},
  {"timm_proj_bias", NULL}, {"timm_drop", NULL}, {"timm_drop_path", NULL},
  {"hf_model_pretrained", NULL}, {"hf_proj_type", NULL}, {"hf_pooler_type", NULL},
  {"pooler_type", NULL}, {"proj", NULL},

  /* other towers, other tokenizers, other heads of the model */
  {"timm_model_name", ""}, {"hf_model_name", ""}, {"hf_tokenizer_name", ""},
  {"tokenizer_kwargs", ""}, {"multimodal_cfg", ""}, {"init_logit_bias", ""},
  {"nonscalar_logit_scale", ""}, {"proj_type", "linear"}, {"proj_bias", ""},

  /* other blocks, norms and pooling */
  {"ls_init_value", ""}, {"attentional_pool", ""}, {"no_ln_pre", ""}, {"final_ln_after_pool", ""},
  {"no_causal_mask", ""}, {"embed_cls", ""}, {"act_kwargs", ""}, {"input_patchnorm", ""},
  {"global_average_pool", ""}, {"block_type", ""}, {"qk_norm", ""}, {"scaled_cosine_attn", ""},
  {"scale_heads", ""}, {"scale_attn_inner", ""}, {"scale_attn", ""}, {"scale_fc", ""},
  {"pool_type", "tok"},
  {NULL, NULL}
};

/* Keys in Hugging Face's form which say that CLIPTextModel and CLIPVisionModel are not enough. */
static const fvg__config_key fvg__hugging_face_keys[] = {
  {"auto_map", ""}, {"quantization_config", ""}, {"pruned_heads", ""}, {NULL, NULL}
};

static const fvg__config_key *fvg__config_known(const fvg__config_key *known, const char *key) {
  for (; known->key; known++)
    if (!strcmp(known->key, key)) return known;
  return NULL;
}

/* Checks the value of a known key. */
static fvg_status fvg__config_check_key(const fvg__config *config, const fvg__config_key *known,
                                        int section, int i) {
  const char *key = fvg__config_value(config, i)->key;
  const char *neutral = known->neutral;
  const int only_text = section == config->text && section != config->vision;
  char text[FVG__CONFIG_WORD];

  /* the neutral pool_type is "tok" in an image tower, and "argmax" in a text tower */
  if (!strcmp(key, "pool_type") && only_text) neutral = "argmax";
  if (!neutral || fvg__config_is_empty(config, i)) return FVG_OK;
  if (fvg__config_is(config, i, neutral)) return FVG_OK;

  return fvg_fail(config->c, FVG_E_UNSUPPORTED,
                  "%s: %s %s changes what the model computes, and is not supported",
                  config->file, key, fvg__config_text(config, i, text));
}

/* Checks every key of a section.  open_clip's keys are looked for in Hugging Face's form as well,
   because some configurations hold both; only there an unknown key is ignored. */
static fvg_status fvg__config_check_section(const fvg__config *config, int section) {
  if (section < 0) return FVG_OK;

  const int open_clip = config->form == FVG__OPEN_CLIP;
  const fvg_json_value *v;
  for (int i = fvg__config_value(config, section)->first; i >= 0; i = v->next) {
    v = fvg__config_value(config, i);

    const fvg__config_key *known = fvg__config_known(fvg__open_clip_keys, v->key);
    if (!known && !open_clip) known = fvg__config_known(fvg__hugging_face_keys, v->key);
    if (known) {
      const fvg_status s = fvg__config_check_key(config, known, section, i);
      if (s) return s;
    } else if (open_clip && !fvg__config_is_empty(config, i)) {
      return fvg_fail(config->c, FVG_E_UNSUPPORTED,
                      "%s: the setting %.60s is not known; it may change what the model computes",
                      config->file, v->key);
    }
  }
  return FVG_OK;
}

/* ---- the three forms ---- */
/* Checks model_type: other models have tensors of the same shapes, but compute something else. */
static fvg_status fvg__config_check_type(const fvg__config *config, int section) {
  static const char *const known[] = {
    "clip", "clip_text_model", "clip_vision_model", "clip_model", NULL
  };
  const int i = fvg__config_find(config, section, "model_type");
  if (i < 0) return FVG_OK;

  for (int k = 0; known[k]; k++)
    if (fvg__config_is(config, i, known[k])) return FVG_OK;

  char text[FVG__CONFIG_WORD];
  return fvg_fail(config->c, FVG_E_UNSUPPORTED,
                  "%s: model_type %s is not a CLIP (clip, clip_text_model or clip_vision_model)",
                  config->file, fvg__config_text(config, i, text));
}

/* Finds a tower's section, -1 if there is none; anything but an object is an error. */
static fvg_status fvg__config_tower(const fvg__config *config, int parent, const char *name,
                                    int *out) {
  *out = fvg__config_section(config, parent, name);
  if (*out >= 0 || fvg__config_find(config, parent, name) < 0) return FVG_OK;

  return fvg_fail(config->c, FVG_E_FORMAT, "%s: %s is not an object with settings",
                  config->file, name);
}

/* Finds a tower's section in Hugging Face's form.  The transformers library completes
   *_config_dict with defaults and lets it replace *_config, so it alone counts where it is. */
static fvg_status fvg__hugging_face_tower(const fvg__config *config, const char *name,
                                          const char *older, int *out) {
  const fvg_status s = fvg__config_tower(config, 0, older, out);
  if (s || *out >= 0) return s;
  return fvg__config_tower(config, 0, name, out);
}

/* Takes the whole file as the settings of one tower, which was saved alone. */
static void fvg__config_one_tower(fvg__config *config) {
  const int type = fvg__config_find(config, 0, "model_type");
  const int has_patches = fvg__config_find(config, 0, "patch_size") >= 0;

  if (has_patches || fvg__config_is(config, type, "clip_vision_model")) config->vision = 0;
  else config->text = 0;
}

/* Finds and checks the sections of Hugging Face's form. */
static fvg_status fvg__config_hugging_face(fvg__config *config) {
  config->form = FVG__HUGGING_FACE;
  config->model = 0;

  fvg_status s = fvg__hugging_face_tower(config, "vision_config", "vision_config_dict",
                                         &config->vision);
  if (s) return s;
  s = fvg__hugging_face_tower(config, "text_config", "text_config_dict", &config->text);
  if (s) return s;

  const int no_tower = config->vision < 0 && config->text < 0;
  if (no_tower && fvg__config_find(config, 0, "hidden_size") >= 0) fvg__config_one_tower(config);

  const int section[3] = {0, config->vision, config->text};
  for (int i = 0; !s && i < 3; i++) s = fvg__config_check_type(config, section[i]);
  for (int i = 0; !s && i < 3; i++) {
    if (i > 0 && section[i] == 0) continue;      /* one tower alone: its section is the root */
    s = fvg__config_check_section(config, section[i]);
  }
  return s;
}

/* Finds and checks the sections of open_clip's form; without model_cfg, the root is the model. */
static fvg_status fvg__config_open_clip(fvg__config *config) {
  config->form = FVG__OPEN_CLIP;
  config->model = 0;

  const int model = fvg__config_section(config, 0, "model_cfg");
  if (model >= 0) {
    config->model = model;
    config->preprocess = fvg__config_section(config, 0, "preprocess_cfg");
  }

  fvg_status s = fvg__config_tower(config, config->model, "vision_cfg", &config->vision);
  if (s) return s;
  s = fvg__config_tower(config, config->model, "text_cfg", &config->text);
  if (s) return s;

  const int layers = fvg__config_find(config, config->vision, "layers");
  if (layers >= 0 && fvg__config_value(config, layers)->type == FVG_JSON_ARRAY)
    return fvg_fail(config->c, FVG_E_UNSUPPORTED,
                    "%s: the image tower is a modified ResNet (layers is a list); only vision "
                    "transformers are supported", config->file);

  s = fvg__config_check_section(config, config->vision);
  if (!s) s = fvg__config_check_section(config, config->text);
  if (!s) s = fvg__config_check_section(config, config->model);
  return s;
}

/* Tells whether the root has one of these keys. */
static int fvg__config_has(const fvg__config *config, const char *const *key) {
  for (; *key; key++)
    if (fvg_json_find(&config->json, 0, *key) >= 0) return 1;
  return 0;
}

/* Parses a configuration.  text NULL: there is no such file, and the result says nothing. */
static fvg_status fvg__config_parse(fvg_ctx *c, fvg__config *config, const char *text,
                                    const char *file) {
  static const char *const open_clip[] = {"model_cfg", "vision_cfg", "text_cfg", NULL};
  static const char *const hugging_face[] = {
    "text_config", "vision_config", "text_config_dict", "vision_config_dict",
    "model_type", "architectures", "hidden_size", NULL
  };
  static const char *const timm[] = {"pretrained_cfg", "architecture", NULL};

  memset(config, 0, sizeof *config);
  fvg__config_free(config);
  if (!text) return FVG_OK;

  config->c = c;
  fvg__print(config->file, sizeof config->file, "%.400s", file);
  const fvg_status s = fvg_json_parse(c, &config->json, text, strlen(text), config->file);
  if (s) return s;

  if (fvg__config_has(config, open_clip)) return fvg__config_open_clip(config);
  if (fvg__config_has(config, hugging_face)) return fvg__config_hugging_face(config);
  if (fvg__config_has(config, timm)) {
    config->form = FVG__TIMM;
    return FVG_OK;
  }
  return fvg_fail(c, FVG_E_FORMAT,
                  "%s: says nothing of a CLIP in Hugging Face's or open_clip's form; move it away "
                  "if it belongs to something else", config->file);
}

/* ---- what shapes do not tell ---- */
static int fvg__config_tower_section(const fvg__config *config, int is_text) {
  return is_text ? config->text : config->vision;
}

/* open_clip gives the number of heads in text_cfg, and the width of a head in vision_cfg. */
static fvg_status fvg__open_clip_heads(const fvg__config *config, int is_text, int w, int *n_head) {
  const int section = fvg__config_tower_section(config, is_text);
  if (is_text) {
    *n_head = 8;                                 /* the default of CLIPTextCfg */
    return fvg__config_size(config, section, "heads", n_head);
  }

  if (fvg__config_find(config, section, "heads") >= 0)
    return fvg_fail(config->c, FVG_E_UNSUPPORTED,
                    "%s: the setting heads is not known in vision_cfg, which has head_width",
                    config->file);

  int head_width = 64;                           /* the default of CLIPVisionCfg */
  const fvg_status s = fvg__config_size(config, section, "head_width", &head_width);
  *n_head = w / head_width;
  return s;
}

/* The number of heads of a tower of width w. */
static fvg_status fvg__config_heads(const fvg__config *config, int is_text, int w, int *n_head) {
  if (config->form == FVG__OPEN_CLIP) return fvg__open_clip_heads(config, is_text, w, n_head);

  *n_head = w % 64 ? 0 : w / 64;
  if (config->form != FVG__HUGGING_FACE) return FVG_OK;

  *n_head = is_text ? 8 : 12;            /* the defaults of CLIPTextConfig and CLIPVisionConfig */
  const int section = fvg__config_tower_section(config, is_text);
  return fvg__config_size(config, section, "num_attention_heads", n_head);
}

/* The activation of a tower's MLP.  open_clip has one switch for both towers. */
static fvg_status fvg__config_activation(const fvg__config *config, int is_text,
                                         fvg_activation *activation) {
  *activation = FVG_QUICK_GELU;
  if (config->form == FVG__OPEN_CLIP) {
    const int quick = fvg__config_find(config, config->model, "quick_gelu");
    if (quick < 0 || fvg__config_is_empty(config, quick)) *activation = FVG_GELU;
    return FVG_OK;
  }
  if (config->form != FVG__HUGGING_FACE) return FVG_OK;

  const int section = fvg__config_tower_section(config, is_text);
  const int i = fvg__config_find(config, section, "hidden_act");
  if (i < 0 || fvg__config_is(config, i, "quick_gelu")) return FVG_OK;

  *activation = FVG_GELU;
  if (fvg__config_is(config, i, "gelu")) return FVG_OK;

  char text[FVG__CONFIG_WORD];
  return fvg_fail(config->c, FVG_E_UNSUPPORTED,
                  "%s: hidden_act %s; only \"gelu\" and \"quick_gelu\" are supported",
                  config->file, fvg__config_text(config, i, text));
}

/* The epsilon of layer norm, by default PyTorch's. */
static fvg_status fvg__config_eps(const fvg__config *config, int is_text, float *eps) {
  const int section = fvg__config_tower_section(config, is_text);
  int i = fvg__config_find(config, section, "layer_norm_eps");
  *eps = 1e-5f;

  if (config->form == FVG__OPEN_CLIP) {
    const int settings = fvg__config_section(config, section, "norm_kwargs");
    i = fvg__config_find(config, settings, "eps");
    const int n_known = i >= 0;
    if (settings >= 0 && fvg__config_value(config, settings)->n_child != n_known)
      return fvg_fail(config->c, FVG_E_UNSUPPORTED,
                      "%s: norm_kwargs holds more than eps, and only that is supported",
                      config->file);
  }
  if (i < 0) return FVG_OK;

  const fvg_json_value *v = fvg__config_value(config, i);
  if (v->type != FVG_JSON_NUMBER || !(v->number > 0) || v->number > 1)
    return fvg_fail(config->c, FVG_E_FORMAT,
                    "%s: the epsilon of layer norm must be a number above 0, at most 1",
                    config->file);
  *eps = (float)v->number;
  return FVG_OK;
}

/* ---- pixels: how the files say that pictures are prepared for the image tower ---- */
/* Reads the three numbers of an array, or one number for all channels; returns 0 if they are not
   numbers above `low` and up to 255. */
static int fvg__config_rgb(const fvg__config *config, int i, float low, float out[3]) {
  const fvg_json_value *v = fvg__config_value(config, i);
  const int one = v->type == FVG_JSON_NUMBER;
  if (!one) {
    if (v->type != FVG_JSON_ARRAY || v->n_child != 3) return 0;
    v = fvg__config_value(config, v->first);
  }

  for (int k = 0; k < 3; k++) {
    if (v->type != FVG_JSON_NUMBER) return 0;
    if (!(v->number > (double)low && v->number <= 255)) return 0;
    out[k] = (float)v->number;
    if (!one && k < 2) v = fvg__config_value(config, v->next);
  }
  return 1;
}

/* Reads a mean or a deviation into out, which keeps its values if the section has no such key. */
static fvg_status fvg__config_channels(const fvg__config *config, int section, const char *key,
                                       float low, float out[3]) {
  const int i = fvg__config_find(config, section, key);
  if (i < 0 || fvg__config_rgb(config, i, low, out)) return FVG_OK;

  return fvg_fail(config->c, FVG_E_FORMAT,
                  "%s: %s must be three numbers from %g to 255, for R, G and B",
                  config->file, key, (double)low);
}

/* Reads a filter, which is a number of Pillow's or a name of torchvision's. */
static fvg_status fvg__config_filter(const fvg__config *config, int section, const char *key,
                                     fvg_filter *filter) {
  static const struct { const char *name; int number; fvg_filter filter; } known[] = {
    {"bicubic",  3, FVG_BICUBIC},
    {"random",   3, FVG_BICUBIC},        /* concerns training alone: the test filter is bicubic */
    {"bilinear", 2, FVG_BILINEAR},
    {"nearest",  0, FVG_NEAREST},
    {NULL,       0, FVG_BICUBIC}
  };
  const int i = fvg__config_find(config, section, key);
  if (i < 0) return FVG_OK;

  for (int k = 0; known[k].name; k++) {
    if (!fvg__config_is(config, i, known[k].name)
        && !fvg__config_is_number(config, i, known[k].number)) continue;
    *filter = known[k].filter;
    return FVG_OK;
  }

  char text[FVG__CONFIG_WORD];
  return fvg_fail(config->c, FVG_E_UNSUPPORTED,
                  "%s: %s %s; bicubic (3), bilinear (2) and nearest (0) are supported",
                  config->file, key, fvg__config_text(config, i, text));
}

/* Reads a switch into *on, which keeps its value where the section has no such key. */
static fvg_status fvg__config_flag(const fvg__config *config, int section, const char *key,
                                   int *on) {
  const int i = fvg__config_find(config, section, key);
  if (i < 0) return FVG_OK;

  const fvg_json_value *v = fvg__config_value(config, i);
  *on = v->number != 0;
  if (v->type == FVG_JSON_BOOL || v->type == FVG_JSON_NUMBER) return FVG_OK;

  return fvg_fail(config->c, FVG_E_FORMAT, "%s: %s must be true or false", config->file, key);
}

static fvg_status fvg__preprocess_fits(const fvg__config *config, const char *key, int said,
                                       int size) {
  if (said == size) return FVG_OK;

  return fvg_fail(config->c, FVG_E_SHAPE,
                  "%s: %s makes pictures of %d pixels a side, but the image tower sees %d",
                  config->file, key, said, size);
}

/* Reads open_clip's preprocess_cfg into p, which holds the tower's size and CLIP's constants. */
static fvg_status fvg__preprocess_open_clip(const fvg__config *config, fvg_preprocess *p) {
  const int section = config->preprocess;
  int size = p->size;
  char text[FVG__CONFIG_WORD];

  fvg_status s = fvg__config_size(config, section, "size", &size);
  if (!s) s = fvg__preprocess_fits(config, "size", size, p->size);
  if (!s) s = fvg__config_filter(config, section, "interpolation", &p->filter);
  if (!s) s = fvg__config_channels(config, section, "mean", -255.0f, p->mean);
  if (!s) s = fvg__config_channels(config, section, "std", 0.0f, p->std);
  if (s) return s;

  const int colours = fvg__config_find(config, section, "mode");
  if (colours >= 0 && !fvg__config_is(config, colours, "RGB"))
    return fvg_fail(config->c, FVG_E_UNSUPPORTED, "%s: mode %s; only RGB is supported",
                    config->file, fvg__config_text(config, colours, text));

  const int mode = fvg__config_find(config, section, "resize_mode");
  if (mode < 0 || fvg__config_is(config, mode, "shortest")) return FVG_OK;
  p->resize_mode = FVG_RESIZE_SQUASH;
  if (fvg__config_is(config, mode, "squash")) return FVG_OK;

  return fvg_fail(config->c, FVG_E_UNSUPPORTED,
                  "%s: resize_mode %s; shortest and squash are supported",
                  config->file, fvg__config_text(config, mode, text));
}

/* Reads a side from "size" or "crop_size", which is a number, {"shortest_edge": n} or
   {"height": n, "width": n}.  *square becomes 0 in the second form, 1 in the third, and keeps its
   value in the first. */
static fvg_status fvg__config_side(const fvg__config *config, int section, const char *key,
                                   int *side, int *square) {
  const int i = fvg__config_section(config, section, key);
  if (i < 0) return fvg__config_size(config, section, key, side);

  *square = fvg__config_find(config, i, "shortest_edge") < 0;
  if (!*square) return fvg__config_size(config, i, "shortest_edge", side);

  if (fvg__config_find(config, i, "height") < 0 || fvg__config_find(config, i, "width") < 0)
    return fvg_fail(config->c, FVG_E_UNSUPPORTED,
                    "%s: %s must be a number, {\"shortest_edge\": N} or {\"height\": N, "
                    "\"width\": N}", config->file, key);

  int height = *side, width = *side;
  fvg_status s = fvg__config_size(config, i, "height", &height);
  if (!s) s = fvg__config_size(config, i, "width", &width);
  if (!s && height != width)
    s = fvg_fail(config->c, FVG_E_UNSUPPORTED, "%s: %s of %d x %d; only squares are supported",
                 config->file, key, height, width);
  *side = height;
  return s;
}

/* Puts the defaults of the processor's class into p.  The processors of ViT and SigLIP take a
   number as the side of a square and do not crop (*squashes is 1); CLIP's takes it as the shorter
   side, and crops. */
static fvg_status fvg__processor_defaults(const fvg__config *config, int section, int *squashes,
                                          fvg_preprocess *p) {
  int type = fvg__config_find(config, section, "image_processor_type");
  if (type < 0) type = fvg__config_find(config, section, "feature_extractor_type");

  /* the names are compared as beginnings, because the faster classes end in "Fast" */
  const char *name = type >= 0 ? fvg__config_value(config, type)->string : "CLIPImageProcessor";
  const int is_clip = !strncmp(name, "CLIPImageProcessor", 18)
                      || !strcmp(name, "CLIPFeatureExtractor");
  const int is_vit = !strncmp(name, "ViTImageProcessor", 17)
                     || !strcmp(name, "ViTFeatureExtractor");
  const int is_siglip = !strncmp(name, "SiglipImageProcessor", 20);

  *squashes = is_vit || is_siglip;
  if (is_vit) p->filter = FVG_BILINEAR;
  for (int k = 0; *squashes && k < 3; k++) {
    p->mean[k] = 0.5f;
    p->std[k] = 0.5f;
  }
  if (*squashes || is_clip) return FVG_OK;

  char text[FVG__CONFIG_WORD];
  return fvg_fail(config->c, FVG_E_UNSUPPORTED,
                  "%s: image_processor_type %s is not known; CLIPImageProcessor is",
                  config->file, fvg__config_text(config, type, text));
}

/* The steps of Hugging Face's processors that a file may switch on or off, and their sides. */
typedef struct fvg__processor {
  int resizes, crops, rescales, pads, normalizes;
  int side;                              /* pixels to resize to */
  int square;                            /* 1: both sides become `side`, 0: the shorter one does */
  int crop_size;                         /* pixels of a side of the crop */
} fvg__processor;

/* Reads the steps, and the filter and the constants into p. */
static fvg_status fvg__read_processor(const fvg__config *config, int section, fvg__processor *r,
                                      fvg_preprocess *p) {
  int never_crops = 0, ignored = 0;
  fvg_status s = fvg__processor_defaults(config, section, &never_crops, p);
  r->resizes = r->rescales = r->normalizes = 1;
  r->pads = 0;
  r->square = never_crops;
  r->crops = !never_crops;
  r->side = r->crop_size = p->size;

  if (!s) s = fvg__config_flag(config, section, "do_center_crop", &r->crops);
  if (!s) s = fvg__config_flag(config, section, "do_resize", &r->resizes);
  if (!s) s = fvg__config_flag(config, section, "do_rescale", &r->rescales);
  if (!s) s = fvg__config_flag(config, section, "do_pad", &r->pads);
  if (!s) s = fvg__config_flag(config, section, "do_normalize", &r->normalizes);
  if (never_crops) r->crops = 0;

  if (!s) s = fvg__config_side(config, section, "size", &r->side, &r->square);
  if (!s) s = fvg__config_side(config, section, "crop_size", &r->crop_size, &ignored);
  if (!s) s = fvg__config_filter(config, section, "resample", &p->filter);
  if (!s) s = fvg__config_channels(config, section, "image_mean", -255.0f, p->mean);
  if (!s) s = fvg__config_channels(config, section, "image_std", 0.0f, p->std);
  return s;
}

/* Checks that the sides lead to the square that the image tower sees. */
static fvg_status fvg__processor_fits(const fvg__config *config, const fvg__processor *r,
                                      int size) {
  if (r->crops) {
    const fvg_status s = fvg__preprocess_fits(config, "crop_size", r->crop_size, size);
    if (s || r->side >= size) return s;
    return fvg_fail(config->c, FVG_E_UNSUPPORTED,
                    "%s: size %d is smaller than crop_size %d; a crop with a border is not "
                    "supported", config->file, r->side, size);
  }

  if (!r->square)
    return fvg_fail(config->c, FVG_E_UNSUPPORTED,
                    "%s: do_center_crop is false and size keeps the picture's aspect, so pictures "
                    "would not be square", config->file);
  return fvg__preprocess_fits(config, "size", r->side, size);
}

/* Reads Hugging Face's preprocessor_config.json (section 0), or the image_processor of a
   processor_config.json, into p. */
static fvg_status fvg__preprocess_hugging_face(const fvg__config *config, int section,
                                               fvg_preprocess *p) {
  fvg__processor r;
  const fvg_status s = fvg__read_processor(config, section, &r, p);
  if (s) return s;

  if (!r.resizes || r.pads || !r.rescales)
    return fvg_fail(config->c, FVG_E_UNSUPPORTED,
                    "%s: do_resize and do_rescale must be true and do_pad false", config->file);

  const int factor = fvg__config_find(config, section, "rescale_factor");
  const double rescale = factor >= 0 ? fvg__config_value(config, factor)->number : 1.0 / 255;
  if (!(fabs(rescale * 255 - 1) < 1e-6))
    return fvg_fail(config->c, FVG_E_UNSUPPORTED,
                    "%s: rescale_factor %g; only 1/255 is supported", config->file, rescale);

  for (int k = 0; k < 3 && !r.normalizes; k++) {
    p->mean[k] = 0;
    p->std[k] = 1;
  }
  p->resize_mode = r.square ? FVG_RESIZE_SQUASH : FVG_RESIZE_SHORTEST;
  p->resize = r.side;
  return fvg__processor_fits(config, &r, p->size);
}

/*==================================================================================================
 * CHAPTER 9  NAMES: one CLIP under three sets of names
 *==================================================================================================
   OpenAI, open_clip and Hugging Face publish the same tensors under different names.  One table
   (fvg__known_tensors) says which of them calls what how, and drives everything that is done with
   the tensors of a model: finding them in a file, loading them, unpacking them, counting them.

   Training programs put wrappers around the names: "module." (DataParallel), "_orig_mod."
   (torch.compile), "model." or "clip." (Lightning and others).  The first two kinds may stand at
   any dot and are cut out there.  The last kind is a prefix of all names: it is whatever precedes
   the embedding of patches or of tokens.  A file that holds two CLIPs is an error.

   In the end every tensor inside a tower must have been used, or be known to carry no information.
   Otherwise the file is refused and the tensor named, because a tensor that is left over (layer
   scale, an adapter) would have changed the result. */

/* ---- the table ---- */
typedef enum fvg__publisher {
  FVG__BY_HUGGING_FACE = 0,
  FVG__BY_OPENAI,                        /* also open_clip, unless its model has custom_text */
  FVG__BY_OPEN_CLIP
} fvg__publisher;

/* The rows of the table: the image tower, the text tower, the scale, and any block of a tower. */
typedef enum fvg__tensor_id {
  FVG__PATCH, FVG__CLASS, FVG__IMAGE_POSITION, FVG__LN_PRE_WEIGHT, FVG__LN_PRE_BIAS,
  FVG__LN_POST_WEIGHT, FVG__LN_POST_BIAS, FVG__IMAGE_PROJECTION, FVG__IMAGE_BLOCKS,

  FVG__TOKEN, FVG__TEXT_POSITION, FVG__LN_FINAL_WEIGHT, FVG__LN_FINAL_BIAS,
  FVG__TEXT_PROJECTION, FVG__TEXT_BLOCKS,

  FVG__LOGIT_SCALE,

  FVG__LN_1_WEIGHT, FVG__LN_1_BIAS,
  FVG__Q_WEIGHT, FVG__K_WEIGHT, FVG__V_WEIGHT, FVG__Q_BIAS, FVG__K_BIAS, FVG__V_BIAS,
  FVG__OUT_WEIGHT, FVG__OUT_BIAS, FVG__LN_2_WEIGHT, FVG__LN_2_BIAS,
  FVG__FC_WEIGHT, FVG__FC_BIAS, FVG__PROJ_WEIGHT, FVG__PROJ_BIAS
} fvg__tensor_id;

typedef enum fvg__tensor_kind {
  FVG__FLOATS,                           /* kept as F32 */
  FVG__WORDS,                            /* kept in the type that the caller wants */
  FVG__MATRIX,                           /* likewise; F32 and BF16 are put into panels */
  FVG__PIXELS,                           /* likewise, but pixels are never rounded to fewer bits */
  FVG__PROJECTION,                       /* F32 in panels; only Hugging Face has this shape, the
                                            others' files hold the transpose */
  FVG__SCALAR,                           /* one number, which is read by itself */
  FVG__BLOCKS                            /* no tensor: what precedes the number of a block */
} fvg__tensor_kind;

typedef struct fvg__known_tensor {
  fvg__tensor_id id;                     /* the row's own index */
  size_t offset;                         /* bytes before it in a fvg_clip, or in a fvg_block */
  fvg__tensor_kind kind;
  char shape[3];                         /* a letter for each side, see below */
  const char *hugging_face;              /* Hugging Face's name */
  const char *openai;                    /* OpenAI's name */
  const char *open_clip;                 /* what open_clip's custom_text puts before openai */
} fvg__known_tensor;

/* How to read the table.  Each row takes two lines: first what the tensor becomes here, then its
   names.  The letters of a shape are
     w  width of the tower     h  width of the MLP           d  width of the features
     t  tokens of the tower    v  tokens of the vocabulary   p  numbers in a patch, 3 x size x size
   A tensor of a block is called "BLOCKS", number of the block, ".", name: block 0 of the image
   tower has "vision_model.encoder.layers.0.mlp.fc1.weight" in Hugging Face's files, and
   "visual.transformer.resblocks.0.mlp.c_fc.weight" in OpenAI's.
   A name that stands in three consecutive rows is one tensor of the file, which holds the three one
   below the other: OpenAI's in_proj_weight [3w, w] is q, k and v.
   (pre_layrnorm is Hugging Face's own spelling.) */
static const fvg__known_tensor fvg__known_tensors[] = {
  /* Hugging Face                                       OpenAI                          open_clip */

  {FVG__PATCH, offsetof(fvg_clip, vision.patch_weight), FVG__PIXELS, "wp",
   "vision_model.embeddings.patch_embedding.weight",    "visual.conv1.weight",           ""},
  {FVG__CLASS, offsetof(fvg_clip, vision.class_embedding), FVG__FLOATS, "w",
   "vision_model.embeddings.class_embedding",           "visual.class_embedding",        ""},
  {FVG__IMAGE_POSITION, offsetof(fvg_clip, vision.position_embedding), FVG__FLOATS, "tw",
   "vision_model.embeddings.position_embedding.weight", "visual.positional_embedding",   ""},
  {FVG__LN_PRE_WEIGHT, offsetof(fvg_clip, vision.ln_pre_weight), FVG__FLOATS, "w",
   "vision_model.pre_layrnorm.weight",                  "visual.ln_pre.weight",          ""},
  {FVG__LN_PRE_BIAS, offsetof(fvg_clip, vision.ln_pre_bias), FVG__FLOATS, "w",
   "vision_model.pre_layrnorm.bias",                    "visual.ln_pre.bias",            ""},
  {FVG__LN_POST_WEIGHT, offsetof(fvg_clip, vision.ln_post_weight), FVG__FLOATS, "w",
   "vision_model.post_layernorm.weight",                "visual.ln_post.weight",         ""},
  {FVG__LN_POST_BIAS, offsetof(fvg_clip, vision.ln_post_bias), FVG__FLOATS, "w",
   "vision_model.post_layernorm.bias",                  "visual.ln_post.bias",           ""},
  {FVG__IMAGE_PROJECTION, offsetof(fvg_clip, vision.projection), FVG__PROJECTION, "dw",
   "visual_projection.weight",                          "visual.proj",                   ""},
  {FVG__IMAGE_BLOCKS, offsetof(fvg_clip, vision.transformer), FVG__BLOCKS, "",
   "vision_model.encoder.layers.",                      "visual.transformer.resblocks.", ""},

  {FVG__TOKEN, offsetof(fvg_clip, text.token_embedding), FVG__WORDS, "vw",
   "text_model.embeddings.token_embedding.weight",      "token_embedding.weight",        "text."},
  {FVG__TEXT_POSITION, offsetof(fvg_clip, text.position_embedding), FVG__FLOATS, "tw",
   "text_model.embeddings.position_embedding.weight",   "positional_embedding",          "text."},
  {FVG__LN_FINAL_WEIGHT, offsetof(fvg_clip, text.ln_final_weight), FVG__FLOATS, "w",
   "text_model.final_layer_norm.weight",                "ln_final.weight",               "text."},
  {FVG__LN_FINAL_BIAS, offsetof(fvg_clip, text.ln_final_bias), FVG__FLOATS, "w",
   "text_model.final_layer_norm.bias",                  "ln_final.bias",                 "text."},
  {FVG__TEXT_PROJECTION, offsetof(fvg_clip, text.projection), FVG__PROJECTION, "dw",
   "text_projection.weight",                            "text_projection",               "text."},
  {FVG__TEXT_BLOCKS, offsetof(fvg_clip, text.transformer), FVG__BLOCKS, "",
   "text_model.encoder.layers.",                        "transformer.resblocks.",        "text."},

  {FVG__LOGIT_SCALE, offsetof(fvg_clip, logit_scale), FVG__SCALAR, "",
   "logit_scale",                                       "logit_scale",                   ""},

  {FVG__LN_1_WEIGHT, offsetof(fvg_block, ln_1_weight), FVG__FLOATS, "w",
   "layer_norm1.weight",                                "ln_1.weight",                   ""},
  {FVG__LN_1_BIAS, offsetof(fvg_block, ln_1_bias), FVG__FLOATS, "w",
   "layer_norm1.bias",                                  "ln_1.bias",                     ""},
  {FVG__Q_WEIGHT, offsetof(fvg_block, q_weight), FVG__MATRIX, "ww",
   "self_attn.q_proj.weight",                           "attn.in_proj_weight",           ""},
  {FVG__K_WEIGHT, offsetof(fvg_block, k_weight), FVG__MATRIX, "ww",
   "self_attn.k_proj.weight",                           "attn.in_proj_weight",           ""},
  {FVG__V_WEIGHT, offsetof(fvg_block, v_weight), FVG__MATRIX, "ww",
   "self_attn.v_proj.weight",                           "attn.in_proj_weight",           ""},
  {FVG__Q_BIAS, offsetof(fvg_block, q_bias), FVG__FLOATS, "w",
   "self_attn.q_proj.bias",                             "attn.in_proj_bias",             ""},
  {FVG__K_BIAS, offsetof(fvg_block, k_bias), FVG__FLOATS, "w",
   "self_attn.k_proj.bias",                             "attn.in_proj_bias",             ""},
  {FVG__V_BIAS, offsetof(fvg_block, v_bias), FVG__FLOATS, "w",
   "self_attn.v_proj.bias",                             "attn.in_proj_bias",             ""},
  {FVG__OUT_WEIGHT, offsetof(fvg_block, out_weight), FVG__MATRIX, "ww",
   "self_attn.out_proj.weight",                         "attn.out_proj.weight",          ""},
  {FVG__OUT_BIAS, offsetof(fvg_block, out_bias), FVG__FLOATS, "w",
   "self_attn.out_proj.bias",                           "attn.out_proj.bias",            ""},
  {FVG__LN_2_WEIGHT, offsetof(fvg_block, ln_2_weight), FVG__FLOATS, "w",
   "layer_norm2.weight",                                "ln_2.weight",                   ""},
  {FVG__LN_2_BIAS, offsetof(fvg_block, ln_2_bias), FVG__FLOATS, "w",
   "layer_norm2.bias",                                  "ln_2.bias",                     ""},
  {FVG__FC_WEIGHT, offsetof(fvg_block, fc_weight), FVG__MATRIX, "hw",
   "mlp.fc1.weight",                                    "mlp.c_fc.weight",               ""},
  {FVG__FC_BIAS, offsetof(fvg_block, fc_bias), FVG__FLOATS, "h",
   "mlp.fc1.bias",                                      "mlp.c_fc.bias",                 ""},
  {FVG__PROJ_WEIGHT, offsetof(fvg_block, proj_weight), FVG__MATRIX, "wh",
   "mlp.fc2.weight",                                    "mlp.c_proj.weight",             ""},
  {FVG__PROJ_BIAS, offsetof(fvg_block, proj_bias), FVG__FLOATS, "w",
   "mlp.fc2.bias",                                      "mlp.c_proj.bias",               ""}
};

#define FVG__TENSOR_NAME 160             /* bytes of a name that the table makes */

/* Writes the publisher's name of a row; a tensor of a block has its name within the block. */
static const char *fvg__published_name(int publisher, int id, char name[FVG__TENSOR_NAME]) {
  const fvg__known_tensor *x = &fvg__known_tensors[id];
  const char *before = publisher == FVG__BY_OPEN_CLIP ? x->open_clip : "";
  const char *rest = publisher == FVG__BY_HUGGING_FACE ? x->hugging_face : x->openai;

  fvg__print(name, FVG__TENSOR_NAME, "%s%s", before, rest);
  return name;
}

/* Writes the whole name of a tensor of a block.  blocks: FVG__IMAGE_BLOCKS or FVG__TEXT_BLOCKS. */
static const char *fvg__published_block_name(int publisher, int blocks, int layer, int id,
                                             char name[FVG__TENSOR_NAME]) {
  char before[FVG__TENSOR_NAME], leaf[FVG__TENSOR_NAME];
  fvg__published_name(publisher, blocks, before);
  fvg__published_name(publisher, id, leaf);

  fvg__print(name, FVG__TENSOR_NAME, "%.60s%d.%.60s", before, layer, leaf);
  return name;
}

/* Returns the number of consecutive rows, from row id on, that the publisher keeps as one
   tensor. */
static int fvg__rows_of_one_tensor(int publisher, int id) {
  char name[FVG__TENSOR_NAME], next[FVG__TENSOR_NAME];
  fvg__published_name(publisher, id, name);

  int n = 1;
  while (id + n <= FVG__PROJ_BIAS
         && !strcmp(fvg__published_name(publisher, id + n, next), name)) n++;
  return n;
}

/* The tensor of row id in the model, or in a block if the row is one of a block. */
static fvg_tensor *fvg__tensor_of(void *model_or_block, int id) {
  return (fvg_tensor *)((char *)model_or_block + fvg__known_tensors[id].offset);
}

/* ---- the names in a file ---- */
typedef struct fvg__model_tensor {
  const char *name;                      /* the publisher's name, without wrappers */
  const char *in_file;                   /* the name that the file gives it */
  int used;                              /* 1: it has become part of the model */
  int quantised;                         /* 1: as a matrix of eight bits */
} fvg__model_tensor;

typedef struct fvg__clip_loader {
  fvg_clip *m;
  fvg__budget budget;                    /* the context's limit of memory before loading */
  fvg_weights *weights;
  const fvg__config *config;
  fvg_dtype keep_as;
  fvg__publisher publisher;              /* of the names */
  fvg__model_tensor *tensor;             /* [n], sorted by name */
  int n;
  char *text;                            /* the memory of the names */
  int n_outside;                         /* tensors of the file that lie outside the CLIP */
  const char *first_outside;             /* the name of the first of them */
} fvg__clip_loader;

static const char *fvg__name(const fvg__clip_loader *l, int id, char name[FVG__TENSOR_NAME]) {
  return fvg__published_name((int)l->publisher, id, name);
}

/* Writes a name without the wrappers that may stand at any of its dots; returns the written end. */
static char *fvg__unwrap_name(char *out, const char *name) {
  static const char *const wrapper[] = {
    "module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", NULL
  };
  while (*name) {
    size_t n = strcspn(name, ".");
    if (name[n] == '.') n++;

    int i = 0;
    while (wrapper[i] && strncmp(name, wrapper[i], strlen(wrapper[i]))) i++;
    if (!wrapper[i]) {
      memcpy(out, name, n);
      out += n;
    }
    name += n;
  }
  *out = 0;
  return out;
}

/* Where `ending` begins if it is the last part or parts of a name, else NULL. */
static const char *fvg__name_ending(const char *name, const char *ending) {
  const size_t n = strlen(name), k = strlen(ending);
  if (n < k || strcmp(name + n - k, ending)) return NULL;
  return n == k || name[n - k - 1] == '.' ? name + n - k : NULL;
}

/* If a name shows that the file belongs to something that is not computed here, says what it is. */
static const char *fvg__foreign_model(const char *name) {
  static const char resnet[] = "the image tower is a modified ResNet (RN50 or a relative); only "
                               "vision transformers are supported";
  static const char layer_scale[] = "its blocks have layer scale, which is not supported";
  static const char peft[] = "it holds a LoRA adapter; merge it into the weights first (peft: "
                             "merge_and_unload)";
  static const char lora[] = "it holds a LoRA adapter; merge it into the weights first";

  /* a part of a name, which begins at a dot or at the name's beginning */
  static const struct { const char *part, *what; } known[] = {
    {"visual.layer1.", resnet},
    {"visual.attnpool.", resnet},
    {"ls_1.gamma", layer_scale},
    {"ls_2.gamma", layer_scale},
    {"positional_embedding_res",
     "it is a Long-CLIP, whose stretched positions are not supported"},
    {"lora_A.", peft},
    {"lora_B.", peft},
    {"lora_down.", lora},
    {"lora_up.", lora},
    {"text_decoder.", "it is a CoCa, which is not supported"},
    {"attn_pool.", "it pools by attention (CoCa), which is not supported"},
    {"vision_model.head.",
     "it is a SigLIP, whose image tower pools by attention; that is not supported"},
    {"visual.trunk.", "its image tower is one of timm's, which is not supported"},
    {"visual.blocks.", "its image tower is EVA's, which is not supported"},
    {"visual_encoder.", "it is a BLIP or a relative, which is not supported"},
    {"patch_embed.proj.",
     "it is an image tower in timm's form; take the file for open_clip beside it"},
    {"embeddings.word_embeddings.", "its text tower is a BERT, which is not supported"},
    {"vision_model.embeddings.patch_embedding.bias",
     "its patch embedding has a bias (SigLIP), which is not supported"},
    {"prompt_learner.", "it holds tuned prompts and no model; it goes with --checkpoint "
     "(fvg_checkpoint_load, fvg_learner_load)"},
    {NULL, NULL}
  };

  for (int i = 0; known[i].part; i++) {
    const char *at = strstr(name, known[i].part);
    if (at && (at == name || at[-1] == '.')) return known[i].what;
  }
  return NULL;
}

/* Tells whether a name is that of an embedding of patches or of tokens.  If it is, *prefix_end is
   where the publisher's own name begins.  The order of the list matters: the other publishers'
   names of the embedding of tokens end with OpenAI's. */
static int fvg__anchor(const char *name, const char **prefix_end, fvg__publisher *publisher) {
  static const struct { fvg__publisher publisher; fvg__tensor_id id; } anchor[] = {
    {FVG__BY_HUGGING_FACE, FVG__PATCH},
    {FVG__BY_HUGGING_FACE, FVG__TOKEN},
    {FVG__BY_OPEN_CLIP, FVG__TOKEN},
    {FVG__BY_OPENAI, FVG__PATCH},
    {FVG__BY_OPENAI, FVG__TOKEN}
  };
  for (size_t i = 0; i < sizeof anchor / sizeof *anchor; i++) {
    char own[FVG__TENSOR_NAME];
    fvg__published_name((int)anchor[i].publisher, (int)anchor[i].id, own);
    *prefix_end = fvg__name_ending(name, own);
    *publisher = anchor[i].publisher;
    if (*prefix_end) return 1;
  }
  return 0;
}

/* Finds the publisher, and the prefix before its names: [*n] bytes at *prefix.  The names in
   l->tensor are unwrapped already. */
static fvg_status fvg__find_publisher(fvg__clip_loader *l, const char **prefix, size_t *n) {
  const char *file = fvg_weights_file(l->weights);
  fvg_ctx *c = l->m->ctx;
  int found = 0;

  for (int i = 0; i < l->n; i++) {
    const char *name = l->tensor[i].name, *end;
    const char *what = fvg__foreign_model(name);
    if (what)
      return fvg_fail(c, FVG_E_UNSUPPORTED, "%s: %s (tensor %.100s)", file, what, name);

    fvg__publisher publisher;
    if (!fvg__anchor(name, &end, &publisher)) continue;

    const size_t length = (size_t)(end - name);
    if (!found) {
      found = 1;
      *prefix = name;
      *n = length;
      l->publisher = publisher;
      continue;
    }

    const int same_prefix = length == *n && !memcmp(name, *prefix, length);
    const int hugging_face = publisher == FVG__BY_HUGGING_FACE;
    if (!same_prefix || hugging_face != (l->publisher == FVG__BY_HUGGING_FACE))
      return fvg_fail(c, FVG_E_UNSUPPORTED,
                      "%s: towers under two prefixes, \"%.*s\" and \"%.*s\"; save one CLIP in a "
                      "file of its own", file, (int)*n, *prefix, (int)length, name);

    /* OpenAI and open_clip call the image tower alike; the text tower tells them apart */
    if (publisher > l->publisher) l->publisher = publisher;
  }

  if (found) return FVG_OK;
  return fvg_fail(c, FVG_E_FORMAT,
                  "%s: no CLIP in Hugging Face's, OpenAI's or open_clip's names: neither a patch "
                  "nor a token embedding among its %d tensors%s%.100s", file, l->n,
                  l->n ? ", such as " : "", l->n ? l->tensor[0].name : "");
}

/* Cuts the prefix off the names; tensors without it are counted and left out. */
static void fvg__cut_prefix(fvg__clip_loader *l, const char *prefix, size_t n) {
  int kept = 0;
  for (int i = 0; i < l->n; i++) {
    fvg__model_tensor x = l->tensor[i];
    if (!strncmp(x.name, prefix, n)) {
      x.name += n;
      l->tensor[kept++] = x;
    } else {
      if (l->n_outside == 0) l->first_outside = x.in_file;
      l->n_outside++;
    }
  }
  l->n = kept;
}

static int fvg__model_tensor_order(const void *a, const void *b) {
  const fvg__model_tensor *x = (const fvg__model_tensor *)a;
  const fvg__model_tensor *y = (const fvg__model_tensor *)b;
  return strcmp(x->name, y->name);
}

/* Sorts l->tensor by name; two tensors of one name are an error. */
static fvg_status fvg__sort_tensors(fvg__clip_loader *l) {
  fvg_ctx *c = l->m->ctx;
  const void **order = FVG_NEW_ARRAY(c, const void *, (size_t)l->n);
  fvg__model_tensor *sorted = FVG_NEW_ARRAY(c, fvg__model_tensor, (size_t)l->n);
  if (!order || !sorted) {
    fvg_release(c, order);
    fvg_release(c, sorted);
    return FVG_E_NOMEM;
  }

  for (int i = 0; i < l->n; i++) order[i] = &l->tensor[i];
  fvg__sort(order, (size_t)l->n, fvg__model_tensor_order);
  for (int i = 0; i < l->n; i++) sorted[i] = *(const fvg__model_tensor *)order[i];

  fvg_release(c, order);
  fvg_release(c, l->tensor);
  l->tensor = sorted;

  for (int i = 1; i < l->n; i++) {
    const fvg__model_tensor *a = &sorted[i - 1], *b = &sorted[i];
    if (!strcmp(a->name, b->name))
      return fvg_fail(c, FVG_E_FORMAT,
                      "%s: %.100s and %.100s are the same tensor under two names",
                      fvg_weights_file(l->weights), a->in_file, b->in_file);
  }
  return FVG_OK;
}

/* Lists the file's tensors under their publisher's names, sorted. */
static fvg_status fvg__list_tensors(fvg__clip_loader *l) {
  fvg_ctx *c = l->m->ctx;
  l->n = fvg_weights_count(l->weights);

  size_t bytes = 1;
  for (int i = 0; i < l->n; i++) bytes += strlen(fvg_weights_name(l->weights, i)) + 1;
  l->text = (char *)fvg_alloc(c, bytes);
  l->tensor = FVG_NEW_ARRAY(c, fvg__model_tensor, (size_t)l->n);
  if (!l->text || !l->tensor) return FVG_E_NOMEM;

  char *at = l->text;
  for (int i = 0; i < l->n; i++) {
    l->tensor[i].in_file = fvg_weights_name(l->weights, i);
    l->tensor[i].name = at;
    at = fvg__unwrap_name(at, l->tensor[i].in_file) + 1;
  }

  const char *prefix = "";
  size_t n_prefix = 0;
  const fvg_status s = fvg__find_publisher(l, &prefix, &n_prefix);
  if (s) return s;

  fvg__cut_prefix(l, prefix, n_prefix);
  return fvg__sort_tensors(l);
}

/* Finds a tensor of the file by its publisher's name, by bisection; NULL: there is none. */
static fvg__model_tensor *fvg__find_tensor(const fvg__clip_loader *l, const char *name) {
  int low = 0, high = l->n;
  while (low < high) {
    const int middle = low + (high - low) / 2;
    const int order = strcmp(name, l->tensor[middle].name);

    if (order == 0) return &l->tensor[middle];
    if (order < 0) high = middle;
    else low = middle + 1;
  }
  return NULL;
}

/* The shape of a tensor of the file; returns 0 if there is none of that name. */
static int fvg__tensor_info(const fvg__clip_loader *l, const char *name, fvg_tensor *shape) {
  const fvg__model_tensor *x = fvg__find_tensor(l, name);
  memset(shape, 0, sizeof *shape);
  return x ? fvg_weights_info(l->weights, shape, x->in_file) : 0;
}

/* Finds the shape of a tensor that has a name of its own in every CLIP, and writes the name. */
static int fvg__info_of(const fvg__clip_loader *l, int id, char name[FVG__TENSOR_NAME],
                        fvg_tensor *shape) {
  return fvg__tensor_info(l, fvg__name(l, id, name), shape);
}

static fvg_status fvg__no_tensor(const fvg__clip_loader *l, const char *name) {
  return fvg_fail(l->m->ctx, FVG_E_FORMAT, "%s: no tensor %s", fvg_weights_file(l->weights), name);
}

/* ---- what is left over ---- */
/* Tells whether two names have the same first part, which ends at a dot. */
static int fvg__same_first_part(const char *a, const char *b) {
  const size_t n = strcspn(a, ".");
  return strcspn(b, ".") == n && !memcmp(a, b, n);
}

/* Tells whether the file has a tensor beside the blocks of a tower: the tower is not absent. */
static int fvg__has_tower(const fvg__clip_loader *l, fvg__tensor_id blocks) {
  char name[FVG__TENSOR_NAME];
  fvg__name(l, (int)blocks, name);

  for (int i = 0; i < l->n; i++) {
    const char *other = l->tensor[i].name;
    if (fvg__same_first_part(name, other) && strchr(other, '.')) return 1;
  }
  return 0;
}

/* Tells whether a name is that of a tensor inside a tower, by its first part.  OpenAI's text tower
   has no first part of its own, so all names of one part belong to it.  A text tower in OpenAI's
   names beside open_clip's "text." is a second one, and counts as well. */
static int fvg__inside_tower(const fvg__clip_loader *l, const char *name) {
  const int hugging_face = l->publisher == FVG__BY_HUGGING_FACE;
  if (!strchr(name, '.')) return !hugging_face;

  int publisher = hugging_face ? FVG__BY_HUGGING_FACE : FVG__BY_OPENAI;
  for (; publisher <= (int)l->publisher; publisher++)
    for (int id = FVG__PATCH; id < FVG__LOGIT_SCALE; id++) {
      char known[FVG__TENSOR_NAME];
      fvg__published_name(publisher, id, known);
      if (fvg__same_first_part(known, name)) return 1;
    }
  return 0;
}

/* Tells whether a tensor does not matter: buffers that repeat what shapes say, and SigLIP's bias,
   which moves all scores alike. */
static int fvg__carries_nothing(const char *name) {
  static const char *const known[] = {
    "position_ids", "attn_mask", "logit_bias", "input_resolution", "context_length", "vocab_size",
    NULL
  };
  for (int i = 0; known[i]; i++)
    if (fvg__name_ending(name, known[i])) return 1;
  return 0;
}

/* Checks that every tensor inside a tower has been used. */
static fvg_status fvg__check_leftovers(fvg__clip_loader *l) {
  const char *file = fvg_weights_file(l->weights);

  for (int i = 0; i < l->n; i++) {
    const fvg__model_tensor *x = &l->tensor[i];
    if (x->used || fvg__carries_nothing(x->name)) continue;
    if (fvg__inside_tower(l, x->name))
      return fvg_fail(l->m->ctx, FVG_E_UNSUPPORTED,
                      "%s: tensor %.100s is no part of a CLIP as it is computed here; without it "
                      "the results would be wrong", file, x->in_file);

    if (l->n_outside == 0) l->first_outside = x->in_file;
    l->n_outside++;
  }

  if (l->n_outside)
    fvg_log(l->m->ctx, 1, "%s: %d tensor%s outside the CLIP, such as %.100s, not used", file,
            l->n_outside, l->n_outside == 1 ? " is" : "s are", l->first_outside);
  return FVG_OK;
}

/*==================================================================================================
 * CHAPTER 10  MODELS: from the tensors of a file to two towers
 *==================================================================================================
   The sizes of a model are read off the tensors' shapes: widths and the side of a patch from the
   embeddings of patches and tokens, the side of an image and the context from the embeddings of
   positions, the number of layers by counting.  The configuration (chapter 8) must not disagree,
   and adds what shapes do not tell.

   Then the table of chapter 9 is walked from row to row.  Matrices go from the file straight into
   panels (fvgpt.h, chapter 7), a panel at a time, so no tensor is ever in memory twice.  OpenAI's
   projections are transposed, and its in_proj is cut into q, k and v. */

/* ---- memory of the model ---- */
/* Adds a block of memory to those that the model frees; on failure it is freed at once. */
static fvg_status fvg__clip_own(fvg_clip *m, void *block) {
  /* the list doubles whenever it is full, at 0, 1, 3, 7, ... blocks */
  if ((m->n_owned & (m->n_owned + 1)) == 0) {
    void **owned = FVG_NEW_ARRAY(m->ctx, void *, (size_t)m->n_owned * 2 + 1);
    if (!owned) {
      fvg_release(m->ctx, block);
      return FVG_E_NOMEM;
    }

    if (m->n_owned) memcpy(owned, m->owned, (size_t)m->n_owned * sizeof *owned);
    fvg_release(m->ctx, m->owned);
    m->owned = owned;
  }
  m->owned[m->n_owned++] = block;
  return FVG_OK;
}

static void fvg__clip_replace_owned(fvg_clip *m, const void *old, void *block) {
  for (int i = 0; i < m->n_owned; i++)
    if (m->owned[i] == old) m->owned[i] = block;
}

/* Frees a block before the model goes; its place in the list stays, as NULL. */
static void fvg__clip_disown(fvg_clip *m, void *block) {
  fvg__clip_replace_owned(m, block, NULL);
  fvg_release(m->ctx, block);
}

/* Applies fvg_tensor_pack or fvg_tensor_unpack to a matrix.  Only F32 is unpacked. */
static fvg_status fvg__clip_rearrange(fvg_clip *m, fvg_tensor *x,
                                      fvg_status (*how)(fvg_ctx *c, fvg_tensor *x)) {
  const int is_f32 = x->type == FVG_F32 || x->type == FVG_F32_PANELS;
  const int is_packed_bf16 = x->type == FVG_BF16 && how == fvg_tensor_pack;
  if (!is_f32 && !is_packed_bf16) return FVG_OK;

  const void *old = x->data;
  const fvg_status s = how(m->ctx, x);
  if (!s) fvg__clip_replace_owned(m, old, x->data);
  return s;
}

/* ---- one tensor ---- */
/* The sizes of a tower, which the letters of a shape stand for. */
typedef struct fvg__tower_sizes {
  fvg__tensor_id blocks;                 /* FVG__IMAGE_BLOCKS or FVG__TEXT_BLOCKS */
  int width;                             /* w */
  int hidden;                            /* h, the width of the MLP */
  int embed_dim;                         /* d, the width of the features */
  int n_token;                           /* t, the rows of the embedding of positions */
  int vocab_size;                        /* v */
  int patch;                             /* p, the numbers in a patch */
} fvg__tower_sizes;

/* The size that a letter of the table stands for; 0 after the last letter. */
static int fvg__side(const fvg__tower_sizes *sizes, char letter) {
  switch (letter) {
    case 'w': return sizes->width;
    case 'h': return sizes->hidden;
    case 'd': return sizes->embed_dim;
    case 't': return sizes->n_token;
    case 'v': return sizes->vocab_size;
    case 'p': return sizes->patch;
    default:  return 0;
  }
}

/* Finds a tensor that has shape [rows, cols] (cols 0: [rows]); dimensions beyond the second count
   into cols. */
static fvg_status fvg__find_shaped(fvg__clip_loader *l, const char *name, int rows, int cols,
                                   fvg__model_tensor **out, fvg_tensor *shape) {
  fvg_ctx *c = l->m->ctx;
  const char *file = fvg_weights_file(l->weights);
  fvg__model_tensor *x = fvg__find_tensor(l, name);
  if (!x) return fvg__no_tensor(l, name);
  *out = x;

  fvg_weights_info(l->weights, shape, x->in_file);
  const int least_dim = cols ? 2 : 1;
  const size_t count = cols ? fvg__row(rows, cols) : (size_t)rows;
  if (shape->n_dim >= least_dim && shape->dim[0] == rows && fvg_tensor_count(shape) == count)
    return FVG_OK;

  char found[FVG__SHAPE_TEXT];
  fvg__shape_text(shape, found);
  if (cols)
    return fvg_fail(c, FVG_E_SHAPE, "%s: %s has shape %s, expected [%d, %d]", file, x->in_file,
                    found, rows, cols);
  return fvg_fail(c, FVG_E_SHAPE, "%s: %s has shape %s, expected [%d]", file, x->in_file, found,
                  rows);
}

/* Gives the data of a tensor to the model, and the tensor its shape [rows, cols]. */
static fvg_status fvg__own_tensor(fvg_clip *m, fvg_tensor *out, int rows, int cols) {
  out->n_dim = cols ? 2 : 1;
  out->dim[0] = rows;
  out->dim[1] = cols;
  const fvg_status s = fvg__clip_own(m, out->data);
  if (s) memset(out, 0, sizeof *out);
  return s;
}

/* Opens a tensor of that shape, to read it as the type `as`. */
static fvg_status fvg__open_tensor(fvg__clip_loader *l, const char *name, int rows, int cols,
                                   fvg_dtype as, fvg__stream *out) {
  fvg__model_tensor *x = NULL;
  fvg_tensor shape;
  const fvg_status s = fvg__find_shaped(l, name, rows, cols, &x, &shape);
  if (s) return s;

  x->used = 1;
  return fvg__stream_open(l->weights, out, x->in_file, as);
}

/* Gives a tensor new memory, which the model owns.  It is not cleared, since numbers of the file
   will fill it, and to touch 600 MB once more takes a tenth of a second. */
static fvg_status fvg__new_tensor(fvg_clip *m, fvg_tensor *out, fvg_dtype type, int rows, int cols,
                                  size_t bytes) {
  memset(out, 0, sizeof *out);
  out->type = type;
  out->data = fvg__alloc_raw(m->ctx, bytes);
  return out->data ? fvg__own_tensor(m, out, rows, cols) : FVG_E_NOMEM;
}

/* Reads the next rows of an open tensor as they lie in the file. */
static fvg_status fvg__read_rows(fvg_clip *m, fvg__stream *x, int rows, int cols, fvg_tensor *out) {
  const size_t n = cols ? fvg__row(rows, cols) : (size_t)rows;
  const fvg_status s = fvg__new_tensor(m, out, x->as, rows, cols, n * fvg_dtype_size(x->as));
  return s ? s : fvg__stream_read(x, out->data, n);
}

/* Reads the next rows of an open matrix into the order that products want. */
static fvg_status fvg__read_matrix(fvg_clip *m, fvg__stream *x, int rows, int cols,
                                   fvg_tensor *out) {
  if (x->as != FVG_F32) {
    const fvg_status s = fvg__read_rows(m, x, rows, cols, out);
    return s ? s : fvg__clip_rearrange(m, out, fvg_tensor_pack);
  }

  const size_t bytes = fvg__packed_floats(m->ctx, rows, cols) * sizeof(float);
  const fvg_status s = fvg__new_tensor(m, out, FVG_F32_PANELS, rows, cols, bytes);
  return s ? s : fvg__stream_panels(m->ctx, x, rows, cols, (float *)out->data);
}

/* Reads a tensor as [rows, cols] (cols 0: [rows]), in rows. */
static fvg_status fvg__load(fvg__clip_loader *l, const char *name, int rows, int cols, fvg_dtype as,
                            fvg_tensor *out) {
  fvg__stream x;
  fvg_status s = fvg__open_tensor(l, name, rows, cols, as, &x);
  if (s) return s;

  s = fvg__read_rows(l->m, &x, rows, cols, out);
  fvg__stream_close(&x);
  return s;
}

/* Reads a tensor of n parts, one below the other, [rows, cols] each, as matrices. */
static fvg_status fvg__load_matrices(fvg__clip_loader *l, const char *name, int n, int rows,
                                     int cols, fvg_tensor *const *out) {
  fvg__stream x;
  fvg_status s = fvg__open_tensor(l, name, n * rows, cols, l->keep_as, &x);
  if (s) return s;

  for (int i = 0; !s && i < n; i++)
    s = fvg__read_matrix(l->m, &x, rows, cols, out[i]);
  fvg__stream_close(&x);
  return s;
}

/* ---- eight-bit weights (fvgpt.h, chapter 8) ---- */
/* Reads the scales of a matrix of I8, NAME_scale [rows] or [rows, 1], and checks them. */
static fvg_status fvg__load_scales(fvg__clip_loader *l, const fvg__model_tensor *x, int rows,
                                   fvg_tensor *out) {
  const char *file = fvg_weights_file(l->weights);
  char name[FVG__TENSOR_NAME];
  fvg__print(name, sizeof name, "%.140s_scale", x->name);

  fvg__model_tensor *scale = fvg__find_tensor(l, name);
  if (!scale)
    return fvg_fail(l->m->ctx, FVG_E_FORMAT,
                    "%s: no tensor %.140s_scale; without it the eight-bit weights mean nothing",
                    file, x->in_file);
  scale->used = 1;
  const fvg_status s = fvg_weights_get(l->weights, out, scale->in_file, FVG_F32);
  if (s) return s;

  char found[FVG__SHAPE_TEXT];
  if (out->n_dim < 1 || out->dim[0] != rows || fvg_tensor_count(out) != (size_t)rows)
    return fvg_fail(l->m->ctx, FVG_E_SHAPE, "%s: %s has shape %s, expected [%d, 1]", file,
                    scale->in_file, fvg__shape_text(out, found), rows);
  for (int j = 0; j < rows; j++)
    if (!(((const float *)out->data)[j] >= 0))
      return fvg_fail(l->m->ctx, FVG_E_FORMAT, "%s: %s: the scale of row %d is %g, below 0", file,
                      scale->in_file, j, (double)((const float *)out->data)[j]);
  return FVG_OK;
}

/* Takes over a row of I8, which may have any number but -128. */
static fvg_status fvg__take_q8_row(fvg__clip_loader *l, const fvg__model_tensor *x,
                                   fvg__narrow_matrix *w, int j, const int8_t *row, float scale) {
  for (int k = 0; k < w->k; k++)
    if (row[k] == -128)
      return fvg_fail(l->m->ctx, FVG_E_FORMAT,
                      "%s: %s: -128 in row %d; eight-bit weights go from -127 to 127",
                      fvg_weights_file(l->weights), x->in_file, j);
  w->scale[j] = scale;
  fvg__narrow_put_row(w, j, row, 1);
  return FVG_OK;
}

/* Fills w with rows first .. first + w->n - 1 of a tensor, some at a time: with integers and their
   scales, or, where scale is NULL, with floats that are rounded here. */
static fvg_status fvg__fill_q8(fvg__clip_loader *l, const fvg__model_tensor *x, int first,
                               fvg__narrow_matrix *w, const float *scale) {
  fvg_ctx *c = l->m->ctx;
  const int k = w->k;
  const int at_once = k < 65536 ? fvg__min(w->n, 65536 / k) : 1;
  const fvg_dtype as = scale ? FVG_I8 : FVG_F32;

  float *piece = FVG_NEW_ARRAY(c, float, fvg__row(at_once, k));
  int32_t *words = FVG_NEW_ARRAY(c, int32_t, (size_t)fvg__words_step(w->format, k));
  fvg__stream stream;
  fvg_status s = fvg__stream_open(l->weights, &stream, x->in_file, as);
  stream.done = fvg__row(first, k);
  if (!s && (!piece || !words)) s = FVG_E_NOMEM;

  for (int j = 0; !s && j < w->n; j += at_once) {
    const int n = fvg__min(at_once, w->n - j);
    s = fvg__stream_read(&stream, piece, fvg__row(n, k));

    for (int i = 0; !s && i < n; i++)
      if (scale)
        s = fvg__take_q8_row(l, x, w, j + i, (const int8_t *)(void *)piece + fvg__row(i, k),
                             scale[j + i]);
      else
        fvg__narrow_round_row(w, j + i, piece + fvg__row(i, k), words);  /* finite: read as F32 */
  }
  fvg__stream_close(&stream);
  fvg_release(c, words);
  fvg_release(c, piece);
  return s;
}

/* Reads `rows` rows, from row `first` on, of a tensor that is to be kept as FVG_Q8. */
static fvg_status fvg__load_q8_rows(fvg__clip_loader *l, const fvg__model_tensor *x, int first,
                                    int rows, int cols, const float *scale, fvg_tensor *out) {
  fvg_ctx *c = l->m->ctx;
  fvg_status s = fvg__check_q8_width(c, x->in_file, cols);
  if (s) return s;

  fvg__narrow_matrix *w = fvg__narrow_new(c, c->q8, rows, cols);
  if (!w) return FVG_E_NOMEM;
  s = fvg__fill_q8(l, x, first, w, scale ? scale + first : NULL);
  if (s) {
    fvg_release(c, w);
    return s;
  }
  out->data = w;
  out->type = FVG_Q8;
  return fvg__own_tensor(l->m, out, rows, cols);
}

/* A file with weights of eight bits is kept as FVG_Q8, whether that or F32 was asked for. */
static fvg_status fvg__file_is_q8(fvg__clip_loader *l) {
  fvg_clip *m = l->m;
  const char *file = fvg_weights_file(l->weights);
  if (l->keep_as != FVG_Q8 && l->keep_as != FVG_F32)
    return fvg_fail(m->ctx, FVG_E_UNSUPPORTED,
                    "%s: holds eight-bit weights; they cannot be kept as %s", file,
                    fvg__dtype_name(l->keep_as));

  if (m->kept_as != FVG_Q8)
    fvg_log(m->ctx, 1, "%s: holds eight-bit weights, and is computed with them", file);
  m->kept_as = FVG_Q8;
  return FVG_OK;
}

/* Reads a tensor of n parts, one below the other, [rows, cols] each, as matrices of FVG_Q8. */
static fvg_status fvg__load_q8(fvg__clip_loader *l, const char *name, int n, int rows, int cols,
                               fvg_tensor *const *out) {
  fvg__model_tensor *x = NULL;
  fvg_tensor shape, scale;
  memset(&scale, 0, sizeof scale);
  fvg_status s = fvg__find_shaped(l, name, n * rows, cols, &x, &shape);
  if (!s && shape.type == FVG_I8) s = fvg__file_is_q8(l);
  if (!s && shape.type == FVG_I8) s = fvg__load_scales(l, x, n * rows, &scale);

  for (int i = 0; !s && i < n; i++) {
    memset(out[i], 0, sizeof *out[i]);
    s = fvg__load_q8_rows(l, x, i * rows, rows, cols, (const float *)scale.data, out[i]);
  }
  fvg_tensor_free(l->m->ctx, &scale);
  if (!s) x->used = x->quantised = 1;
  return s;
}

/* Is the tensor `name` kept as FVG_Q8, because the file has it so or that was asked for? */
static int fvg__kept_as_q8(const fvg__clip_loader *l, const char *name) {
  fvg_tensor shape;
  const int known = fvg__tensor_info(l, name, &shape);
  return l->keep_as == FVG_Q8 || (known && shape.type == FVG_I8);
}

/* Reads the matrix that is multiplied with pixels.  A dark patch beside a bright one has few of 256
   steps left, and on such pictures half of the error of all eight-bit products would be this one's
   (fvgpt.h, chapter 8).  So weights of eight bits become floats again, and where bfloat16 would be
   multiplied as such, the file's floats are taken. */
static fvg_status fvg__load_pixels(fvg__clip_loader *l, const char *name, int rows, int cols,
                                   fvg_tensor *out) {
  fvg_clip *m = l->m;
  const int is_q8 = fvg__kept_as_q8(l, name);
  const int is_f32 = l->keep_as == FVG_BF16 && m->ctx->bf16->tile;
  fvg_status s;
  if (is_q8) s = fvg__load_q8(l, name, 1, rows, cols, &out);
  else s = fvg__load(l, name, rows, cols, is_f32 ? FVG_F32 : l->keep_as, out);

  if (!s && is_q8) {
    const void *old = out->data;
    s = fvg_tensor_unpack(m->ctx, out);
    if (!s) fvg__clip_replace_owned(m, old, out->data);
  }
  return s ? s : fvg__clip_rearrange(m, out, fvg_tensor_pack);
}

/* ---- rows of the table ---- */
/* Reads a projection as [rows, cols].  Hugging Face's files hold it so, the others hold
   [cols, rows]. */
static fvg_status fvg__load_projection(fvg__clip_loader *l, const char *name, int rows, int cols,
                                       fvg_tensor *out) {
  if (l->publisher == FVG__BY_HUGGING_FACE) return fvg__load(l, name, rows, cols, FVG_F32, out);

  fvg_ctx *c = l->m->ctx;
  fvg_tensor given;
  const fvg_status s = fvg__load(l, name, cols, rows, FVG_F32, &given);
  if (s) return s;

  float *turned = FVG_NEW_ARRAY(c, float, fvg__row(cols, rows));
  if (!turned) return FVG_E_NOMEM;
  c->kernels->transpose(cols, rows, (const float *)given.data, rows, turned, cols);
  fvg__clip_disown(l->m, given.data);

  *out = given;
  out->data = turned;
  out->dim[0] = rows;
  out->dim[1] = cols;
  return fvg__clip_own(l->m, turned);
}

/* Reads the tensor of one row of the table into its place in the model, or in a block. */
static fvg_status fvg__load_row(fvg__clip_loader *l, const fvg__tower_sizes *sizes, int id,
                                const char *name, void *model_or_block) {
  const fvg__known_tensor *x = &fvg__known_tensors[id];
  const int rows = fvg__side(sizes, x->shape[0]);
  const int cols = fvg__side(sizes, x->shape[1]);
  fvg_tensor *out = fvg__tensor_of(model_or_block, id);
  fvg_status s;

  const int is_weight = x->kind == FVG__WORDS || x->kind == FVG__MATRIX;
  if (is_weight && fvg__kept_as_q8(l, name)) return fvg__load_q8(l, name, 1, rows, cols, &out);
  switch (x->kind) {
    case FVG__WORDS:
      return fvg__load(l, name, rows, cols, l->keep_as, out);
    case FVG__MATRIX:
      return fvg__load_matrices(l, name, 1, rows, cols, &out);
    case FVG__PIXELS:
      return fvg__load_pixels(l, name, rows, cols, out);
    case FVG__PROJECTION:
      s = fvg__load_projection(l, name, rows, cols, out);
      return s ? s : fvg__clip_rearrange(l->m, out, fvg_tensor_pack);
    default:
      return fvg__load(l, name, rows, cols, FVG_F32, out);
  }
}

/* A view of part i of a vector that holds several of n numbers, one behind the other. */
static fvg_tensor fvg__part_of(const fvg_tensor *x, int i, int n) {
  fvg_tensor y = *x;
  y.dim[0] = n;
  y.data = (float *)x->data + fvg__row(i, n);
  return y;
}

/* Reads one tensor that holds n rows of the table, from row id on: OpenAI's in_proj_weight [3w, w]
   and in_proj_bias [3w].  Biases stay views of what was read. */
static fvg_status fvg__load_rows(fvg__clip_loader *l, const fvg__tower_sizes *sizes, int id, int n,
                                 const char *name, void *model_or_block) {
  const fvg__known_tensor *x = &fvg__known_tensors[id];
  const int rows = fvg__side(sizes, x->shape[0]);
  const int cols = fvg__side(sizes, x->shape[1]);
  const int is_matrix = x->kind == FVG__MATRIX;

  fvg_tensor *part_of[3];                /* q, k and v */
  for (int i = 0; i < n; i++) part_of[i] = fvg__tensor_of(model_or_block, id + i);
  if (is_matrix && fvg__kept_as_q8(l, name)) return fvg__load_q8(l, name, n, rows, cols, part_of);
  if (is_matrix) return fvg__load_matrices(l, name, n, rows, cols, part_of);

  fvg_tensor whole;
  const fvg_status s = fvg__load(l, name, n * rows, cols, FVG_F32, &whole);
  for (int i = 0; !s && i < n; i++)
    *part_of[i] = fvg__part_of(&whole, i, rows);
  return s;
}

/* Writes the name of a tensor of a tower; layer: number of the block, -1 for the tower's own. */
static void fvg__tower_name(const fvg__clip_loader *l, const fvg__tower_sizes *sizes, int layer,
                            int id, char name[FVG__TENSOR_NAME]) {
  if (layer < 0) fvg__name(l, id, name);
  else fvg__published_block_name((int)l->publisher, (int)sizes->blocks, layer, id, name);
}

/* Reads the rows first to last of the table, of a block or of the tower itself. */
static fvg_status fvg__load_range(fvg__clip_loader *l, const fvg__tower_sizes *sizes, int layer,
                                  int first, int last, void *model_or_block) {
  fvg_status s = FVG_OK;
  for (int id = first; !s && id <= last;) {
    char name[FVG__TENSOR_NAME];
    fvg__tower_name(l, sizes, layer, id, name);

    const int n = fvg__rows_of_one_tensor((int)l->publisher, id);
    if (n > 1) s = fvg__load_rows(l, sizes, id, n, name, model_or_block);
    else s = fvg__load_row(l, sizes, id, name, model_or_block);
    id += n;
  }
  return s;
}

/* ---- blocks ---- */
/* Counts the layers: one more than the greatest number after `prefix`.  n tensors make at most n
   layers, so greater numbers are not looked at. */
static int fvg__count_layers(const fvg__clip_loader *l, const char *prefix) {
  const size_t length = strlen(prefix);
  const int most = l->n;
  int n = 0;

  for (int i = 0; i < l->n; i++) {
    const char *digit = l->tensor[i].name;
    if (strncmp(digit, prefix, length)) continue;

    int layer = 0;
    for (digit += length; *digit >= '0' && *digit <= '9' && layer < most; digit++)
      layer = 10 * layer + (*digit - '0');
    if (layer < most && layer >= n) n = layer + 1;
  }
  return n;
}

/* Checks a tower's sizes against the configuration, in the words of both publishers. */
static fvg_status fvg__transformer_agrees(const fvg__config *config, int section, int n_layer,
                                          const fvg__tower_sizes *sizes) {
  fvg_status s = fvg__config_agrees(config, section, "num_hidden_layers", n_layer);
  if (!s) s = fvg__config_agrees(config, section, "layers", n_layer);
  if (!s) s = fvg__config_agrees(config, section, "hidden_size", sizes->width);
  if (!s) s = fvg__config_agrees(config, section, "width", sizes->width);
  if (!s) s = fvg__config_agrees(config, section, "intermediate_size", sizes->hidden);
  return s;
}

/* Reads layers, heads, activation and blocks of a tower, and sizes->hidden. */
static fvg_status fvg__load_transformer(fvg__clip_loader *l, fvg__tower_sizes *sizes,
                                        fvg_transformer *t) {
  const int is_text = sizes->blocks == FVG__TEXT_BLOCKS;
  const int w = sizes->width;
  const char *file = fvg_weights_file(l->weights);
  fvg_ctx *c = l->m->ctx;

  fvg_status s = fvg__config_heads(l->config, is_text, w, &t->n_head);
  if (!s) s = fvg__config_activation(l->config, is_text, &t->activation);
  if (!s) s = fvg__config_eps(l->config, is_text, &t->eps);
  if (s) return s;

  char prefix[FVG__TENSOR_NAME];
  t->n_layer = fvg__count_layers(l, fvg__name(l, (int)sizes->blocks, prefix));
  if (t->n_layer < 1)
    return fvg_fail(c, FVG_E_FORMAT, "%s: no layers named %s0...", file, prefix);

  fvg_tensor fc;
  char name[FVG__TENSOR_NAME];
  fvg__tower_name(l, sizes, 0, FVG__FC_WEIGHT, name);
  if (!fvg__tensor_info(l, name, &fc) || fc.n_dim != 2)
    return fvg_fail(c, FVG_E_FORMAT, "%s: no matrix %s", file, name);
  sizes->hidden = fc.dim[0];

  const int section = fvg__config_tower_section(l->config, is_text);
  s = fvg__transformer_agrees(l->config, section, t->n_layer, sizes);
  if (s) return s;
  if (t->n_head < 1 || w % t->n_head)
    return fvg_fail(c, FVG_E_SHAPE, "%s: width %d of %s... cannot be cut into %d heads (without a "
                    "configuration a head has 64 columns)", file, w, prefix, t->n_head);

  t->block = FVG_NEW_ARRAY(c, fvg_block, (size_t)t->n_layer);
  if (!t->block) return FVG_E_NOMEM;
  for (int i = 0; !s && i < t->n_layer; i++)
    s = fvg__load_range(l, sizes, i, FVG__LN_1_WEIGHT, FVG__PROJ_BIAS, &t->block[i]);
  return s;
}

/* ---- towers ---- */
/* Reads the image tower's sizes off the shapes of its embeddings: patches [w, 3, side, side], and
   positions [1 + grid x grid, w]. */
static fvg_status fvg__vision_sizes(fvg__clip_loader *l, fvg_vision_tower *v) {
  const char *file = fvg_weights_file(l->weights);
  fvg_ctx *c = l->m->ctx;
  char name[FVG__TENSOR_NAME];

  fvg_tensor patch;
  fvg__info_of(l, FVG__PATCH, name, &patch);
  const int *side = patch.dim;
  if (patch.n_dim != 4 || side[1] != 3 || side[2] != side[3]
      || side[0] < 1 || side[2] < 1 || side[2] > 4096)
    return fvg_fail(c, FVG_E_SHAPE, "%s: %s must have shape [width,3,patch,patch]", file, name);

  fvg_tensor position;
  if (!fvg__info_of(l, FVG__IMAGE_POSITION, name, &position))
    return fvg__no_tensor(l, name);

  v->width = side[0];
  v->patch_size = side[2];
  v->n_token = position.n_dim == 2 ? position.dim[0] : 0;

  int grid = 1;
  while (grid < 4096 && grid * grid < v->n_token - 1) grid++;
  if (grid * grid + 1 != v->n_token)
    return fvg_fail(c, FVG_E_SHAPE, "%s: %s has %d rows, not one and a square number", file, name,
                    v->n_token);

  v->image_size = grid * v->patch_size;
  const int section = l->config->vision;
  const fvg_status s = fvg__config_agrees(l->config, section, "image_size", v->image_size);
  return s ? s : fvg__config_agrees(l->config, section, "patch_size", v->patch_size);
}

/* Reads the image tower, if the file has one. */
static fvg_status fvg__load_vision(fvg__clip_loader *l) {
  char name[FVG__TENSOR_NAME];
  fvg_tensor patch;
  if (!fvg__info_of(l, FVG__PATCH, name, &patch))
    return fvg__has_tower(l, FVG__IMAGE_BLOCKS) ? fvg__no_tensor(l, name) : FVG_OK;

  fvg_vision_tower *v = &l->m->vision;
  l->m->has_vision = 1;
  fvg_status s = fvg__vision_sizes(l, v);
  if (s) return s;

  fvg__tower_sizes sizes;
  memset(&sizes, 0, sizeof sizes);
  sizes.blocks = FVG__IMAGE_BLOCKS;
  sizes.width = v->width;
  sizes.embed_dim = l->m->embed_dim;
  sizes.n_token = v->n_token;
  sizes.patch = 3 * v->patch_size * v->patch_size;

  s = fvg__load_range(l, &sizes, -1, FVG__PATCH, FVG__IMAGE_PROJECTION, l->m);
  if (!s) s = fvg__load_transformer(l, &sizes, &v->transformer);
  l->m->preprocess = fvg_preprocess_defaults(v->image_size);
  return s;
}

/* The id of [EOT], or 0 if the configuration has none that could be one: [EOT] follows [SOT], and
   both come after the 512 byte symbols.  OpenAI's own files say 2 and 0. */
static int fvg__config_end_token(const fvg__config *config, int section, int vocab_size) {
  const int start = fvg__config_find(config, section, "bos_token_id");
  int end = fvg__config_find(config, section, "eos_token_id");
  if (end >= 0 && fvg__config_value(config, end)->type == FVG_JSON_ARRAY)
    end = fvg__config_value(config, end)->first;

  const double second = end >= 0 ? fvg__config_value(config, end)->number : 0;
  const double first = start >= 0 ? fvg__config_value(config, start)->number : second - 1;
  if (!(first >= 512 && second < vocab_size)) return 0;
  if (second != first + 1 || first != floor(first)) return 0;
  return (int)second;
}

/* Reads the text tower's sizes off the shapes of its embeddings: tokens [vocab_size, w], and
   positions [context_length, w]. */
static fvg_status fvg__text_sizes(fvg__clip_loader *l, fvg_text_tower *x) {
  char token_name[FVG__TENSOR_NAME], position_name[FVG__TENSOR_NAME];
  fvg_tensor token, position;
  fvg__info_of(l, FVG__TOKEN, token_name, &token);
  if (!fvg__info_of(l, FVG__TEXT_POSITION, position_name, &position))
    return fvg__no_tensor(l, position_name);

  /* 515: the byte symbols, one merge, [SOT] and [EOT] */
  if (token.n_dim != 2 || position.n_dim != 2
      || token.dim[0] < 515 || token.dim[1] < 1 || position.dim[0] < 3)
    return fvg_fail(l->m->ctx, FVG_E_SHAPE,
                    "%s: %s and %s must be matrices of at least 515 and 3 rows",
                    fvg_weights_file(l->weights), token_name, position_name);

  const int section = l->config->text;
  x->vocab_size = token.dim[0];
  x->width = token.dim[1];
  x->context_length = position.dim[0];
  x->end_token = fvg__config_end_token(l->config, section, x->vocab_size);

  const int length = x->context_length;
  fvg_status s = fvg__config_agrees(l->config, section, "vocab_size", x->vocab_size);
  if (!s) s = fvg__config_agrees(l->config, section, "max_position_embeddings", length);
  if (!s) s = fvg__config_agrees(l->config, section, "context_length", length);
  return s;
}

/* Reads the text tower, if the file has one. */
static fvg_status fvg__load_text(fvg__clip_loader *l) {
  char name[FVG__TENSOR_NAME];
  fvg_tensor token;
  if (!fvg__info_of(l, FVG__TOKEN, name, &token))
    return fvg__has_tower(l, FVG__TEXT_BLOCKS) ? fvg__no_tensor(l, name) : FVG_OK;

  fvg_text_tower *x = &l->m->text;
  l->m->has_text = 1;
  fvg_status s = fvg__text_sizes(l, x);
  if (s) return s;

  fvg__tower_sizes sizes;
  memset(&sizes, 0, sizeof sizes);
  sizes.blocks = FVG__TEXT_BLOCKS;
  sizes.width = x->width;
  sizes.embed_dim = l->m->embed_dim;
  sizes.n_token = x->context_length;
  sizes.vocab_size = x->vocab_size;

  s = fvg__load_range(l, &sizes, -1, FVG__TOKEN, FVG__TEXT_PROJECTION, l->m);
  if (!s) s = fvg__load_transformer(l, &sizes, &x->transformer);
  return s;
}

/* ---- what the towers share: the width of the features, and the scale of the logits ---- */
/* Reads the width of the features off a projection's shape; an error if the file has none. */
static fvg_status fvg__load_embed_dim(fvg__clip_loader *l) {
  const int is_open_clip = l->config->form == FVG__OPEN_CLIP;
  const int turned = l->publisher != FVG__BY_HUGGING_FACE;     /* [w, d] in place of [d, w] */
  char image[FVG__TENSOR_NAME], text[FVG__TENSOR_NAME];

  fvg_tensor shape;
  if (fvg__info_of(l, FVG__IMAGE_PROJECTION, image, &shape) && shape.n_dim == 2)
    l->m->embed_dim = shape.dim[turned];
  if (fvg__info_of(l, FVG__TEXT_PROJECTION, text, &shape) && shape.n_dim == 2)
    l->m->embed_dim = shape.dim[turned];
  if (l->m->embed_dim < 1)
    return fvg_fail(l->m->ctx, FVG_E_FORMAT,
                    "%s: neither %s nor %s: a tower without its projection, as in Stable "
                    "Diffusion or LLaVA, makes no features that can be compared",
                    fvg_weights_file(l->weights), image, text);

  return fvg__config_agrees(l->config, l->config->model,
                            is_open_clip ? "embed_dim" : "projection_dim", l->m->embed_dim);
}

/* The scale of a file without one: where its configuration starts training, or OpenAI's 100.  One
   tower alone has no use for it, so then there is nothing to report. */
static fvg_status fvg__default_scale(fvg__clip_loader *l) {
  const fvg__config *config = l->config;
  const int is_open_clip = config->form == FVG__OPEN_CLIP;
  const char *key = is_open_clip ? "init_logit_scale" : "logit_scale_init_value";
  const int i = fvg__config_find(config, config->model, key);
  double scale = 100;
  if (i >= 0 && fvg__config_value(config, i)->type == FVG_JSON_NUMBER)
    scale = exp(fvg__config_value(config, i)->number);

  char name[FVG__TENSOR_NAME];
  if (!fvg__find_tensor(l, fvg__name(l, FVG__PATCH, name))) return FVG_OK;
  if (!fvg__find_tensor(l, fvg__name(l, FVG__TOKEN, name))) return FVG_OK;

  if (!(scale > 0 && scale < 1e6))
    return fvg_fail(l->m->ctx, FVG_E_NUMERIC, "%s: the scale of the logits would be %g",
                    config->file, scale);
  l->m->logit_scale = (float)scale;
  fvg_log(l->m->ctx, 0, "%s: no logit_scale; %.4g is taken %s", fvg_weights_file(l->weights),
          scale, i >= 0 ? "from its configuration" : "as in OpenAI's models");
  return FVG_OK;
}

/* Reads the scale of the logits, whose logarithm the file holds. */
static fvg_status fvg__load_scale(fvg__clip_loader *l) {
  char name[FVG__TENSOR_NAME];
  l->m->logit_scale = 100;
  fvg__model_tensor *x = fvg__find_tensor(l, fvg__name(l, FVG__LOGIT_SCALE, name));
  if (!x) return fvg__default_scale(l);

  fvg_ctx *c = l->m->ctx;
  const char *file = fvg_weights_file(l->weights);
  fvg_tensor scale;
  x->used = 1;
  const fvg_status s = fvg_weights_get(l->weights, &scale, x->in_file, FVG_F32);
  if (s) return s;

  const int one = fvg_tensor_count(&scale) == 1;
  if (one) l->m->logit_scale = expf(((const float *)scale.data)[0]);
  fvg_tensor_free(c, &scale);
  if (!one) return fvg_fail(c, FVG_E_SHAPE, "%s: logit_scale must be one number", file);

  if (!(l->m->logit_scale > 0 && l->m->logit_scale < 1e6f))
    return fvg_fail(c, FVG_E_NUMERIC, "%s: exp(logit_scale) is %g", file,
                    (double)l->m->logit_scale);
  return FVG_OK;
}

/* ---- loading ---- */
/* Lists the tensors; after this the publisher of the names is known. */
static fvg_status fvg__loader_begin(fvg__clip_loader *l, fvg_ctx *c, fvg_weights *weights,
                                    fvg_dtype keep_as) {
  const char *file = fvg_weights_file(weights);
  memset(l, 0, sizeof *l);
  if (keep_as > FVG_BF16 && keep_as != FVG_Q8 && keep_as != FVG_Q8_IMAGES)
    return fvg_fail(c, FVG_E_ARG, "%s: weights can be kept as F32, F16, BF16, Q8 or Q8_IMAGES",
                    file);

  l->m = FVG_NEW(c, fvg_clip);
  if (!l->m) return FVG_E_NOMEM;
  l->m->ctx = c;
  l->m->kept_as = keep_as;
  l->weights = weights;
  l->keep_as = keep_as == FVG_Q8_IMAGES ? FVG_Q8 : keep_as;
  fvg__budget_begin(c, &l->budget, file, fvg__weights_bytes(weights));
  return fvg__list_tensors(l);
}

/* Reads the whole model with the settings of `config`. */
static fvg_status fvg__loader_run(fvg__clip_loader *l, const fvg__config *config) {
  l->config = config;
  fvg_status s = fvg__load_embed_dim(l);
  if (!s) s = fvg__load_scale(l);
  if (!s) s = fvg__load_vision(l);

  if (l->m->kept_as == FVG_Q8_IMAGES) l->keep_as = FVG_F32;
  if (!s) s = fvg__load_text(l);
  if (!s) s = fvg__check_leftovers(l);
  return s;
}

/* Frees the loader, and the model unless s is FVG_OK; returns s. */
static fvg_status fvg__loader_end(fvg__clip_loader *l, fvg_status s, fvg_clip **out) {
  if (l->m) {
    fvg__budget_end(l->m->ctx, &l->budget);
    fvg_release(l->m->ctx, l->tensor);
    fvg_release(l->m->ctx, l->text);
  }
  if (s) fvg_clip_free(l->m);
  *out = s ? NULL : l->m;
  return s;
}

/* Reads a model from open weights, with the text of its configuration or without. */
FVG_DEF fvg_status fvg_clip_load(fvg_ctx *c, fvg_clip **out, fvg_weights *weights,
                                 const char *config_json, fvg_dtype keep_as) {
  if (!out) return fvg__missing(c, "fvg_clip_load", "a place for the model");
  *out = NULL;
  if (!weights) return fvg_fail(c, FVG_E_ARG, "a model's weights are needed");

  char name[FVG__CONFIG_NAME];
  fvg__config config;
  fvg__print(name, sizeof name, "config.json of %.400s", fvg_weights_file(weights));
  fvg_status s = fvg__config_parse(c, &config, config_json, name);
  if (s) {
    fvg__config_free(&config);
    return s;
  }

  fvg__clip_loader l;
  s = fvg__loader_begin(&l, c, weights, keep_as);
  if (!s) s = fvg__loader_run(&l, &config);
  if (!s && l.m->has_vision && config.preprocess >= 0)
    s = fvg__preprocess_open_clip(&config, &l.m->preprocess);

  fvg__config_free(&config);
  return fvg__loader_end(&l, s, out);
}

/* Reads how pictures are prepared, from a parsed file in any of the known forms. */
static fvg_status fvg__read_preprocess(fvg__config *config, fvg_preprocess *p) {
  if (fvg__config_value(config, 0)->type != FVG_JSON_OBJECT)
    return fvg_fail(config->c, FVG_E_FORMAT, "%s: not an object with settings", config->file);
  if (fvg__config_find(config, 0, "error") >= 0)
    return fvg_fail(config->c, FVG_E_FORMAT,
                    "%s: a server's message of an error; download the file again", config->file);

  config->preprocess = fvg__config_section(config, 0, "preprocess_cfg");
  if (config->preprocess >= 0) return fvg__preprocess_open_clip(config, p);

  const int processor = fvg__config_section(config, 0, "image_processor");
  return fvg__preprocess_hugging_face(config, processor >= 0 ? processor : 0, p);
}

/* Sets m->preprocess from the text of a file, or leaves it as it is if the file has an error. */
FVG_DEF fvg_status fvg_clip_set_preprocess(fvg_clip *m, const char *json, const char *name) {
  if (!json) return fvg_fail(m->ctx, FVG_E_ARG, "set_preprocess: no text");
  if (!m->has_vision) return fvg_fail(m->ctx, FVG_E_ARG, "this model has no image tower");

  fvg__config config;
  memset(&config, 0, sizeof config);
  fvg__config_free(&config);
  config.c = m->ctx;
  fvg__print(config.file, sizeof config.file, "%.400s", name ? name : "preprocessor_config.json");

  fvg_preprocess p = fvg_preprocess_defaults(m->vision.image_size);
  fvg_status s = fvg_json_parse(m->ctx, &config.json, json, strlen(json), config.file);
  if (!s) s = fvg__read_preprocess(&config, &p);
  if (!s) m->preprocess = p;

  fvg__config_free(&config);
  return s;
}

/* ---- all tensors of a model ---- */
#ifndef FVGPT_NO_TRAINING  /* whole towers are trained in rows */
/* Turns the matrices of the rows first to last back into rows. */
static fvg_status fvg__unpack_range(fvg_clip *m, void *model_or_block, int first, int last) {
  fvg_status s = FVG_OK;
  for (int id = first; !s && id <= last; id++) {
    const fvg__tensor_kind kind = fvg__known_tensors[id].kind;
    if (kind != FVG__MATRIX && kind != FVG__PIXELS && kind != FVG__PROJECTION) continue;
    s = fvg__clip_rearrange(m, fvg__tensor_of(model_or_block, id), fvg_tensor_unpack);
  }
  return s;
}

static fvg_status fvg__unpack_blocks(fvg_clip *m, const fvg_transformer *t) {
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < t->n_layer; i++)
    s = fvg__unpack_range(m, &t->block[i], FVG__LN_1_WEIGHT, FVG__PROJ_BIAS);
  return s;
}

FVG_DEF fvg_status fvg_clip_unpack(fvg_clip *m) {
  if (m->shared)
    return fvg_fail(m->ctx, FVG_E_ARG,
                    "fvg_clip_unpack: the weights have been shared and stay as they are");
  m->has_image_key = 0;
  fvg_status s = fvg__unpack_blocks(m, &m->vision.transformer);
  if (!s) s = fvg__unpack_blocks(m, &m->text.transformer);
  if (!s && m->has_vision) s = fvg__unpack_range(m, m, FVG__PATCH, FVG__IMAGE_PROJECTION);
  if (!s && m->has_text) s = fvg__unpack_range(m, m, FVG__TOKEN, FVG__TEXT_PROJECTION);
  return s;
}
#endif /* FVGPT_NO_TRAINING */

/* The numbers in the tensors of the rows first to last. */
static size_t fvg__count_range(const void *model_or_block, int first, int last) {
  size_t n = 0;
  for (int id = first; id <= last; id++) {
    const char *at = (const char *)model_or_block + fvg__known_tensors[id].offset;
    n += fvg_tensor_count((const fvg_tensor *)at);
  }
  return n;
}

static size_t fvg__count_blocks(const fvg_transformer *t) {
  size_t n = 0;
  for (int i = 0; i < t->n_layer; i++)
    n += fvg__count_range(&t->block[i], FVG__LN_1_WEIGHT, FVG__PROJ_BIAS);
  return n;
}

FVG_DEF size_t fvg_clip_parameter_count(const fvg_clip *m) {
  size_t n = 1;                          /* logit_scale */
  if (m->has_vision) n += fvg__count_range(m, FVG__PATCH, FVG__IMAGE_PROJECTION);
  if (m->has_text) n += fvg__count_range(m, FVG__TOKEN, FVG__TEXT_PROJECTION);
  return n + fvg__count_blocks(&m->vision.transformer) + fvg__count_blocks(&m->text.transformer);
}

/* ---- the vocabulary ---- */
FVG_DEF fvg_status fvg_clip_set_vocabulary(fvg_clip *m, const fvg_source *source) {
  if (!m) return FVG_E_ARG;
  if (!source || !m->has_text || m->shared)
    return fvg_fail(m->ctx, FVG_E_ARG,
                    "fvg_clip_set_vocabulary: needs a source, and a model with a text tower "
                    "that was never shared");

  fvg_tokenizer *k;
  const int size = m->text.vocab_size;
  fvg_status s = fvg__tokenizer_open(m->ctx, &k, source, size, m->text.end_token);
  if (s) return s;
  fvg_tokenizer_free(m->tokenizer);
  m->tokenizer = k;

  const int named = fvg_tokenizer_vocab_size(k);
  if (named < size)
    fvg_log(m->ctx, 1,
            "the model has %d tokens that were added to its vocabulary of %d; %.300s does "
            "not name them, so no text can hold them", size - named, named,
            source->name ? source->name : "the vocabulary");
  return FVG_OK;
}

/*==================================================================================================
 * CHAPTER 11  OPENING: which of a folder's files hold the model
 *==================================================================================================
   A folder as publishers serve it holds weights, in one file or in several with an index; one or
   two configurations; a description of how pictures are prepared; and a vocabulary.  If there are
   two configurations, the one by the publisher of the tensors' names counts.  The same holds for
   the description of pictures, but if that publisher gives none, the other's counts.  The path may
   also name a file of weights; then the files beside it count. */

#ifndef FVGPT_NO_STDIO
#define FVG__PATH_BYTES 1024                               /* of a folder's path */
#define FVG__FILE_PATH_BYTES (FVG__PATH_BYTES + 64)        /* with a file's name after it */

/* ---- the vocabulary ---- */
/* Where a vocabulary may lie, seen from the model's folder.  One vocabulary serves every CLIP, so a
   folder of models may keep it once. */
static const char *const fvg__vocabulary_places[] = {
  "/merges.txt", "/bpe_simple_vocab_16e6.txt", "/../merges.txt", "/../bpe_simple_vocab_16e6.txt",
  "/../../model/bpe_simple_vocab_16e6.txt", NULL
};

static fvg_status fvg__open_tokenizer(fvg_clip *m, const char *path) {
  fvg_source source;
  fvg_status s = fvg_source_file(m->ctx, &source, path);
  if (s) return s;
  s = fvg_clip_set_vocabulary(m, &source);
  fvg_source_close(&source);
  return s;
}

/* Opens the vocabulary at `merges` or, if that is NULL, the first one found.  A model without one
   can still encode images. */
static fvg_status fvg__find_tokenizer(fvg_clip *m, const char *folder, const char *merges) {
  if (!m->has_text) return FVG_OK;
  if (merges) return fvg__open_tokenizer(m, merges);

  for (int i = 0; fvg__vocabulary_places[i]; i++) {
    char path[FVG__FILE_PATH_BYTES];
    fvg__print(path, sizeof path, "%s%s", folder, fvg__vocabulary_places[i]);
    if (fvg_file_exists(path)) return fvg__open_tokenizer(m, path);
  }
  return FVG_OK;
}

/* ---- the files of a folder ---- */
/* Reads a whole file and puts a 0 after it. */
FVG__APART static fvg_status fvg__read_file(fvg_ctx *c, const char *path, uint8_t **bytes,
                                            size_t *n) {
  fvg_source source;
  fvg_status s = fvg_source_file(c, &source, path);
  if (s) return s;
  s = fvg_source_read_all(c, bytes, n, &source);
  fvg_source_close(&source);
  return s;
}

/* Reads a file as text; *text is NULL if the folder has none of that name. */
static fvg_status fvg__read_text(fvg_ctx *c, const char *folder, const char *name, uint8_t **text,
                                 char path[FVG__FILE_PATH_BYTES]) {
  *text = NULL;
  fvg__print(path, FVG__FILE_PATH_BYTES, "%s/%s", folder, name);
  if (!fvg_file_exists(path)) return FVG_OK;

  size_t n;
  const fvg_status s = fvg__read_file(c, path, text, &n);
  if (s) return s;

  if (!strncmp((const char *)*text, FVG__LFS_POINTER, strlen(FVG__LFS_POINTER)))
    return fvg_fail(c, FVG_E_FORMAT,
                    "%s: this is a Git LFS pointer; run `git lfs pull`, or download the file "
                    "itself", path);
  return FVG_OK;
}

/* Reads and parses a configuration; without such a file it says nothing. */
static fvg_status fvg__read_config(fvg_ctx *c, const char *folder, const char *name,
                                   fvg__config *config) {
  char path[FVG__FILE_PATH_BYTES];
  uint8_t *text = NULL;
  memset(config, 0, sizeof *config);

  fvg_status s = fvg__read_text(c, folder, name, &text, path);
  if (!s) s = fvg__config_parse(c, config, (const char *)text, path);
  fvg_bytes_free(c, text);
  return s;
}

/* Finds the first of the files that may hold weights; returns 0 if there is none.  *sharded becomes
   1 if it is an index.  Beside a configuration of timm's, model.safetensors holds timm's tower, and
   the CLIP is in open_clip's file, so those names are tried first. */
static int fvg__find_weights(const char *folder, int timm, char file[FVG__FILE_PATH_BYTES],
                             int *sharded) {
  static const struct { const char *name; int open_clip, sharded; } known[] = {
    {"model.safetensors",                       0, 0},
    {"open_clip_model.safetensors",             1, 0},
    {"pytorch_model.bin",                       0, 0},
    {"open_clip_pytorch_model.bin",             1, 0},
    {"model.safetensors.index.json",            0, 1},
    {"open_clip_model.safetensors.index.json",  1, 1},
    {"pytorch_model.bin.index.json",            0, 1},
    {"open_clip_pytorch_model.bin.index.json",  1, 1}
  };
  for (int round = 0; round < 2; round++)
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
      const int later = known[i].open_clip == round;         /* open_clip's belong to round 0 */
      if (timm && later) continue;

      fvg__print(file, FVG__FILE_PATH_BYTES, "%s/%s", folder, known[i].name);
      *sharded = known[i].sharded;
      if (fvg_file_exists(file)) return 1;
    }
  return 0;
}

static fvg_status fvg__open_weights(fvg_ctx *c, fvg_weights **out, const char *path) {
  fvg_source source;
  *out = NULL;
  const fvg_status s = fvg_source_file(c, &source, path);
  return s ? s : fvg_weights_open_any(c, out, &source);
}

/* ---- weights in several files ---- */
/* Lists the files of an index, {"weight_map": {"tensor": "file", ...}}, in the order of their first
   tensor: (*file)[*n] names, which point into the index. */
static fvg_status fvg__shard_files(fvg_ctx *c, const fvg_json *index, const char *path,
                                   const char ***file, int *n) {
  const int map = fvg_json_find(index, 0, "weight_map");
  *n = 0;
  *file = NULL;
  if (map < 0 || index->value[map].type != FVG_JSON_OBJECT)
    return fvg_fail(c, FVG_E_FORMAT, "%s: an index without weight_map", path);

  *file = FVG_NEW_ARRAY(c, const char *, (size_t)index->value[map].n_child);
  if (!*file) return FVG_E_NOMEM;

  const fvg_json_value *v;
  for (int i = index->value[map].first; i >= 0; i = v->next) {
    v = &index->value[i];
    const char *name = v->string;
    if (!*name || strchr(name, '/') || strchr(name, '\\'))
      return fvg_fail(c, FVG_E_FORMAT,
                      "%s: weight_map gives %.100s the file \"%.100s\"; a name in the same folder "
                      "is expected", path, v->key, name);

    int k = 0;
    while (k < *n && strcmp((*file)[k], name)) k++;
    if (k == *n) {
      (*file)[k] = name;
      *n = k + 1;
    }
    if (*n > 1000) return fvg_fail(c, FVG_E_UNSUPPORTED, "%s: more than 1000 files", path);
  }
  return FVG_OK;
}

static fvg_status fvg__read_index(fvg_ctx *c, fvg_json *index, const char *path) {
  uint8_t *text = NULL;
  size_t bytes;
  fvg_status s = fvg__read_file(c, path, &text, &bytes);
  if (!s) s = fvg_json_parse(c, index, (const char *)text, bytes, path);
  fvg_bytes_free(c, text);
  return s;
}

/* Opens n files of one folder and joins them to one set of weights. */
static fvg_status fvg__join_files(fvg_ctx *c, fvg_weights **out, const char *folder,
                                  const char *const *file, int n, const char *path) {
  fvg_weights **part = FVG_NEW_ARRAY(c, fvg_weights *, (size_t)n);
  if (!part) return FVG_E_NOMEM;

  fvg_status s = FVG_OK;
  int opened = 0;
  while (!s && opened < n) {
    char part_path[2 * FVG__PATH_BYTES];
    fvg__print(part_path, sizeof part_path, "%.1000s/%.900s", folder, file[opened]);
    s = fvg__open_weights(c, &part[opened], part_path);
    if (!s) opened++;
  }

  if (!s) s = fvg_weights_join(c, out, part, n, path);       /* which takes the parts over */
  else for (int i = 0; i < opened; i++) fvg_weights_close(part[i]);
  fvg_release(c, part);
  return s;
}

/* Checks that every tensor of an index is in one of its files. */
static fvg_status fvg__check_index(fvg_ctx *c, const fvg_weights *weights, const fvg_json *index,
                                   const char *path) {
  const int map = fvg_json_find(index, 0, "weight_map");
  const fvg_json_value *v;
  for (int i = index->value[map].first; i >= 0; i = v->next) {
    v = &index->value[i];
    if (!fvg_weights_info(weights, NULL, v->key))
      return fvg_fail(c, FVG_E_FORMAT, "%s: tensor %.100s is in none of the files", path, v->key);
  }
  return FVG_OK;
}

/* Opens all files of an index as one set of weights. */
static fvg_status fvg__open_shards(fvg_ctx *c, fvg_weights **out, const char *folder,
                                   const char *path) {
  const char **file = NULL;
  int n = 0;
  fvg_json index;
  memset(&index, 0, sizeof index);
  *out = NULL;

  fvg_status s = fvg__read_index(c, &index, path);
  if (!s) s = fvg__shard_files(c, &index, path, &file, &n);
  if (!s) s = fvg__join_files(c, out, folder, file, n, path);
  if (!s) {
    s = fvg__check_index(c, *out, &index, path);
    if (s) {
      fvg_weights_close(*out);
      *out = NULL;
    }
  }

  fvg_release(c, file);
  fvg_json_free(c, &index);
  return s;
}

/* ---- opening ---- */
typedef struct fvg__clip_files {
  char folder[FVG__PATH_BYTES];
  char file[FVG__FILE_PATH_BYTES];       /* the file of weights, or their index */
  int sharded;                           /* 1: it is an index */
  fvg__config config;                    /* of config.json */
  fvg__config open_clip;                 /* of open_clip_config.json */
} fvg__clip_files;

/* Cuts a file's path back to its folder. */
static void fvg__folder_of(char folder[FVG__PATH_BYTES]) {
  size_t slash = strlen(folder);
  while (slash > 0 && folder[slash] != '/' && folder[slash] != '\\') slash--;

  if (slash) folder[slash] = 0;
  else if (folder[0] == '/') folder[1] = 0;
  else fvg__print(folder, FVG__PATH_BYTES, ".");
}

/* Finds the file of weights and reads the configurations beside it. */
static fvg_status fvg__find_files(fvg_ctx *c, fvg__clip_files *x, const char *path) {
  if (strlen(path) >= sizeof x->folder)
    return fvg_fail(c, FVG_E_ARG, "%.60s...: the path is too long", path);

  fvg__print(x->folder, sizeof x->folder, "%s", path);
  fvg__print(x->file, sizeof x->file, "%s", path);
  const int single = fvg_file_exists(path);
  if (single) {
    fvg__folder_of(x->folder);
    x->sharded = fvg__name_ending(path, "index.json") != NULL;
  }

  fvg_status s = fvg__read_config(c, x->folder, "config.json", &x->config);
  if (!s) s = fvg__read_config(c, x->folder, "open_clip_config.json", &x->open_clip);
  if (s) return s;

  char adapter[FVG__FILE_PATH_BYTES];
  fvg__print(adapter, sizeof adapter, "%s/adapter_config.json", x->folder);
  if (fvg_file_exists(adapter))
    fvg_log(c, 0, "%s: an adapter (peft) lies beside the model and is not applied; merge it into "
            "the weights first", adapter);

  const int timm = x->config.form == FVG__TIMM;
  if (single || fvg__find_weights(x->folder, timm, x->file, &x->sharded)) return FVG_OK;
  return fvg_fail(c, FVG_E_IO,
                  "%s: no model.safetensors or pytorch_model.bin there; give a folder that holds "
                  "one, or a file of weights (.safetensors, .pt, .bin, .ckpt, ...)", path);
}

/* Chooses the configuration by the publisher of the names, else the other's, else one that says
   nothing. */
static const fvg__config *fvg__choose_config(const fvg__clip_files *x, fvg__publisher publisher) {
  const int hugging_face = publisher == FVG__BY_HUGGING_FACE;
  const fvg__config_form form = hugging_face ? FVG__HUGGING_FACE : FVG__OPEN_CLIP;

  if (x->config.form == form) return &x->config;
  if (x->open_clip.form == form) return &x->open_clip;
  return x->open_clip.form != FVG__NO_CONFIG ? &x->open_clip : &x->config;
}

/* Reads what Hugging Face's files say of pictures; *found becomes 1 if there is one of them. */
static fvg_status fvg__hugging_face_pixels(fvg_clip *m, const char *folder, int *found) {
  static const char *const name[] = {"preprocessor_config.json", "processor_config.json"};
  char path[FVG__FILE_PATH_BYTES];
  uint8_t *text = NULL;
  fvg_status s = FVG_OK;
  for (int i = 0; !s && !text && i < 2; i++)
    s = fvg__read_text(m->ctx, folder, name[i], &text, path);

  *found = text != NULL;
  if (!s && text) s = fvg_clip_set_preprocess(m, (const char *)text, path);
  fvg_bytes_free(m->ctx, text);
  return s;
}

/* Reads what open_clip's configuration says of pictures; *found becomes 1 if it says anything. */
static fvg_status fvg__open_clip_pixels(fvg_clip *m, const fvg__clip_files *x, int *found) {
  const int own_file = x->open_clip.preprocess >= 0;
  const fvg__config *config = own_file ? &x->open_clip : &x->config;

  *found = config->form == FVG__OPEN_CLIP && config->preprocess >= 0;
  return *found ? fvg__preprocess_open_clip(config, &m->preprocess) : FVG_OK;
}

/* Reads the description of pictures by the publisher of the names, else the other's; without any,
   pictures are prepared as for OpenAI's models. */
static fvg_status fvg__find_preprocess(fvg_clip *m, const fvg__clip_files *x,
                                       fvg__publisher publisher) {
  if (!m->has_vision) return FVG_OK;

  const int hugging_face = publisher == FVG__BY_HUGGING_FACE;
  int found = 0;
  fvg_status s = FVG_OK;
  if (!hugging_face) s = fvg__open_clip_pixels(m, x, &found);
  if (!s && !found) s = fvg__hugging_face_pixels(m, x->folder, &found);
  if (!s && !found && hugging_face) s = fvg__open_clip_pixels(m, x, &found);
  return s;
}

/* Reads the model from the open weights, then how pictures are prepared, then the vocabulary. */
static fvg_status fvg__open_model(fvg__clip_loader *l, const fvg__clip_files *x,
                                  const char *merges) {
  const fvg__config *config = fvg__choose_config(x, l->publisher);
  const int no_clip = config->form == FVG__NO_CONFIG || config->form == FVG__TIMM;

  /* OpenAI's own files have no configuration; input_resolution tells that this is one of them */
  if (no_clip && !fvg__find_tensor(l, "input_resolution"))
    fvg_log(l->m->ctx, 1,
            "%s: no configuration beside it that speaks of a CLIP; heads of 64 columns and "
            "quick_gelu are taken, as in OpenAI's models", x->file);

  fvg_status s = fvg__loader_run(l, config);
  if (!s) s = fvg__find_preprocess(l->m, x, l->publisher);
  if (!s) s = fvg__find_tokenizer(l->m, x->folder, merges);
  return s;
}

/* A model's files, its open weights and its loader, which belong together. */
typedef struct fvg__opened_model {
  fvg__clip_files files;
  fvg_weights *weights;
  fvg__clip_loader loader;
} fvg__opened_model;

/* Opens a model from a folder or from a file of weights, with all that lies beside it. */
static fvg_status fvg__opened_begin(fvg_ctx *c, fvg__opened_model *o, const char *path,
                                    const char *merges, fvg_dtype keep_as) {
  memset(o, 0, sizeof *o);
  if (!path || !*path) return fvg_fail(c, FVG_E_ARG, "a model's folder or file is needed");

  fvg__clip_files *x = &o->files;
  fvg_status s = fvg__find_files(c, x, path);
  if (!s && x->sharded) s = fvg__open_shards(c, &o->weights, x->folder, x->file);
  else if (!s) s = fvg__open_weights(c, &o->weights, x->file);
  if (!s) s = fvg__loader_begin(&o->loader, c, o->weights, keep_as);
  return s ? s : fvg__open_model(&o->loader, x, merges);
}

/* Closes the files; the model, unless s is an error, becomes *out. */
static fvg_status fvg__opened_end(fvg__opened_model *o, fvg_status s, fvg_clip **out) {
  fvg__config_free(&o->files.config);
  fvg__config_free(&o->files.open_clip);
  s = fvg__loader_end(&o->loader, s, out);
  fvg_weights_close(o->weights);
  return s;
}

FVG_DEF fvg_status fvg_clip_open(fvg_ctx *c, fvg_clip **out, const char *path, const char *merges,
                                 fvg_dtype keep_as) {
  if (!out) return fvg__missing(c, "fvg_clip_open", "a place for the model");
  *out = NULL;

  fvg__opened_model o;
  const fvg_status s = fvg__opened_begin(c, &o, path, merges, keep_as);
  return fvg__opened_end(&o, s, out);
}

#ifndef FVGPT_NO_TRAINING  /* files are read, not written */
/* ---- writing eight-bit weights ---- */
/* Adds a tensor of the file to the list, converted. */
static fvg_status fvg__list_as(fvg__clip_loader *l, const fvg__model_tensor *x, fvg_dtype as,
                               fvg_named_tensor *list, int *n) {
  list[*n].name = x->in_file;
  const fvg_status s = fvg_weights_get(l->weights, &list[*n].tensor, x->in_file, as);
  if (!s) ++*n;
  return s;
}

/* Adds a matrix of eight bits to the list, and its scales.  Their name lies behind them, so that it
   goes with them.  The rows are read and rounded as for FVG_Q8. */
static fvg_status fvg__list_q8(fvg__clip_loader *l, const fvg__model_tensor *x,
                               fvg_named_tensor *list, int *n) {
  fvg_ctx *c = l->m->ctx;
  fvg_named_tensor *q = &list[*n], *scale = q + 1;
  fvg_weights_info(l->weights, &q->tensor, x->in_file);
  const int rows = q->tensor.dim[0];
  const int cols = (int)(fvg_tensor_count(&q->tensor) / (size_t)rows);

  const size_t name_bytes = strlen(x->in_file) + sizeof "_scale";
  const size_t scale_bytes = (size_t)rows * sizeof(float);
  float *scales = (float *)fvg_alloc(c, scale_bytes + name_bytes);
  int32_t *words = FVG_NEW_ARRAY(c, int32_t, (size_t)fvg__words_step(c->q8, cols));
  float *row = FVG_NEW_ARRAY(c, float, (size_t)cols);
  int8_t *numbers = FVG_NEW_ARRAY(c, int8_t, fvg__row(rows, cols));
  char *name = scales ? (char *)scales + scale_bytes : NULL;
  if (name) fvg__print(name, name_bytes, "%s_scale", x->in_file);
  q->name = x->in_file;
  q->tensor.type = FVG_I8;
  q->tensor.data = numbers;
  scale->name = name;
  scale->tensor.type = FVG_F32;
  scale->tensor.data = scales;
  scale->tensor.n_dim = 2;
  scale->tensor.dim[0] = rows;
  scale->tensor.dim[1] = 1;
  *n += 2;

  fvg__stream stream;
  fvg_status s = fvg__stream_open(l->weights, &stream, x->in_file, FVG_F32);
  if (!s && (!scales || !words || !row || !numbers)) s = FVG_E_NOMEM;

  for (int j = 0; !s && j < rows; j++) {
    s = fvg__stream_read(&stream, row, (size_t)cols);
    if (!s) scales[j] = fvg__round_to_q8(c, cols, row, words, numbers + fvg__row(j, cols));
  }
  fvg__stream_close(&stream);
  fvg_release(c, row);
  fvg_release(c, words);
  return s;
}

/* Lists what the quantised file holds: every tensor that has become part of the model. */
static fvg_status fvg__list_quantised(fvg__clip_loader *l, fvg_named_tensor *list, int *n) {
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < l->n; i++) {
    const fvg__model_tensor *x = &l->tensor[i];
    if (!x->used) continue;

    fvg_tensor shape;
    fvg_weights_info(l->weights, &shape, x->in_file);
    if (shape.type == FVG_I8)
      return fvg_fail(l->m->ctx, FVG_E_UNSUPPORTED, "%s: %s has eight bits already",
                      fvg_weights_file(l->weights), x->in_file);
    s = x->quantised ? fvg__list_q8(l, x, list, n) : fvg__list_as(l, x, shape.type, list, n);
  }
  return s;
}

FVG_DEF fvg_status fvg_clip_quantise(fvg_ctx *c, const char *path, const char *out) {
  if (!out) return fvg__missing(c, "fvg_clip_quantise", "the file to write");

  fvg__opened_model o;
  fvg_status s = fvg__opened_begin(c, &o, path, NULL, FVG_Q8);
  fvg__clip_loader *l = &o.loader;
  fvg_named_tensor *list = NULL;
  int n = 0;
  if (!s) {
    list = FVG_NEW_ARRAY(c, fvg_named_tensor, 2 * (size_t)l->n);
    if (!list) s = FVG_E_NOMEM;
  }
  if (!s) s = fvg__list_quantised(l, list, &n);

  const fvg_metadata format = {"format", "pt"};      /* which Hugging Face's reader asks for */
  if (!s) s = fvg_safetensors_save(c, out, list, n, &format, 1);

  for (int i = 0; i < n; i++) fvg_tensor_free(c, &list[i].tensor);
  fvg_release(c, list);

  fvg_clip *m;
  s = fvg__opened_end(&o, s, &m);
  fvg_clip_free(m);
  return s;
}
#endif /* FVGPT_NO_TRAINING */
#endif

/*==================================================================================================
 * CHAPTER 12  SHARING: one set of weights for many threads, and how models end
 *==================================================================================================
   A context is used by one thread at a time, and a model belongs to a context.  N threads that each
   classify would need N copies of the weights, if models could not share them.  Sharing is simple
   because weights are only read after loading:

     context 1 --- model 1 ---.
     context 2 --- model 2 ----+--- fvg__shared: the blocks of weights and vocabulary,
     context 3 --- model 3 ---'     and how many models use them

   The first call of fvg_clip_share notes the blocks that model 1 owns; each model then counts as
   one user, and the last one to be freed gives the blocks back to the allocator that they came
   from.  Model 1's context counts their bytes as long as model 1 lives.  The counter is the only
   thing that threads change together, and it is atomic. */

typedef struct fvg__shared {
  fvg_allocator allocator;    /* the one that the blocks came from                              */
  long n_user;
  size_t bytes;               /* of all blocks                                                  */
  int n_block;
  fvg__block_head block[1];   /* [n_block] where each begins and how large it is                */
} fvg__shared;

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#endif

/* Takes one user off and returns how many remain. */
static long fvg__count_down(long *n) {
#if defined(__GNUC__) || defined(__clang__)
  return __atomic_sub_fetch(n, 1, __ATOMIC_ACQ_REL);
#elif defined(_MSC_VER)
  return _InterlockedDecrement(n);
#else
  return --*n;
#endif
}

static void fvg__count_up(long *n) {
#if defined(__GNUC__) || defined(__clang__)
  __atomic_add_fetch(n, 1, __ATOMIC_ACQ_REL);
#elif defined(_MSC_VER)
  _InterlockedIncrement(n);
#else
  ++*n;
#endif
}

/* Adds a block of the context to the list, or, while the list is NULL, counts it. */
static void fvg__share_block(fvg__shared *x, int *n, void *block) {
  if (!block) return;
  if (x) {
    memcpy(&x->block[*n], (char *)block - sizeof *x->block, sizeof *x->block);
    x->bytes += x->block[*n].bytes;
  }
  ++*n;
}

/* A vocabulary's blocks.  The struct itself stays with each model, because it holds the context for
   messages. */
static void fvg__share_tokenizer(fvg__shared *x, int *n, const fvg_tokenizer *k) {
  if (!k) return;
  fvg__share_block(x, n, k->left);
  fvg__share_block(x, n, k->right);
  fvg__share_block(x, n, k->slot);
  fvg__share_block(x, n, k->unicode.run);
  for (int table = 0; table < FVG__N_MAPPING; table++) {
    fvg__share_block(x, n, k->unicode.mapping[table]);
  }
}

/* Every block that models may use together; what a model needs for itself stays its own. */
static int fvg__share_blocks(fvg__shared *x, const fvg_clip *m) {
  int n = 0;
  for (int i = 0; i < m->n_owned; i++) fvg__share_block(x, &n, m->owned[i]);
  fvg__share_block(x, &n, m->owned);
  fvg__share_block(x, &n, m->vision.transformer.block);
  fvg__share_block(x, &n, m->text.transformer.block);
  fvg__share_tokenizer(x, &n, m->tokenizer);
  return n;
}

/* From now on m's blocks may have several users; m is the first. */
static fvg_status fvg__share_begin(fvg_clip *m) {
  int n = fvg__share_blocks(NULL, m);
  size_t bytes = sizeof(fvg__shared) + (size_t)n * sizeof(fvg__block_head);
  fvg__shared *x = (fvg__shared *)fvg_alloc(m->ctx, bytes);
  if (!x) return FVG_E_NOMEM;

  x->allocator = m->ctx->desc.allocator;
  x->n_user = 1;
  x->n_block = fvg__share_blocks(x, m);

  /* The list itself, which is released apart from the others, is counted like them. */
  fvg__block_head own;
  memcpy(&own, (char *)x - sizeof own, sizeof own);
  x->bytes += own.bytes;
  m->shared = x;
  m->counts_shared = 1;
  return FVG_OK;
}

/* A model leaves the others; the last one gives the blocks back. */
static void fvg__share_end(fvg_clip *m) {
  fvg__shared *x = m->shared;
  if (m->counts_shared) m->ctx->used -= x->bytes;
  if (fvg__count_down(&x->n_user) > 0) return;

  const fvg_allocator to = x->allocator;
  for (int i = 0; i < x->n_block; i++) {
    FVG__ALLOW(x->block[i].base, x->block[i].bytes);
    to.release(to.user, x->block[i].base, x->block[i].bytes);
  }
  fvg__block_head own;
  memcpy(&own, (char *)x - sizeof own, sizeof own);
  FVG__ALLOW(own.base, own.bytes);
  to.release(to.user, own.base, own.bytes);
}

/* A struct of its own for every model, with pointers to the same tensors; the vocabulary's struct
   is copied as well, because its messages go to the model's context. */
FVG_DEF fvg_status fvg_clip_share(fvg_ctx *c, fvg_clip **out, fvg_clip *m) {
  if (!out) return fvg__missing(c, "fvg_clip_share", "a place for the model");
  *out = NULL;
  if (!m) return fvg__missing(c, "fvg_clip_share", "a model");
  if (c == m->ctx)
    return fvg_fail(c, FVG_E_ARG,
                    "fvg_clip_share: the model is in this context; give that of another thread");
  if (m->failed) return fvg_fail(c, m->failed, "%s", fvg_error(m->ctx));
  if (m->ctx->desc.arena || c->desc.arena)
    return fvg_fail(c, FVG_E_ARG, "fvg_clip_share: a model in an arena cannot be shared");
  if (fvg_simd_level(c) != fvg_simd_level(m->ctx))
    return fvg_fail(c, FVG_E_ARG,
                    "fvg_clip_share: the model is packed for %s, the context works at %s",
                    fvg_simd_name(fvg_simd_level(m->ctx)), fvg_simd_name(fvg_simd_level(c)));

  fvg_clip *copy = FVG_NEW(c, fvg_clip);
  if (!copy) return FVG_E_NOMEM;
  *copy = *m;
  copy->ctx = c;
  copy->tape = NULL;
  copy->store = NULL;
  copy->owns_context = 0;
  copy->counts_shared = 0;
  copy->tokenizer = NULL;

  fvg_status s = FVG_OK;
  if (m->tokenizer) {
    copy->tokenizer = FVG_NEW(c, fvg_tokenizer);
    if (!copy->tokenizer) s = FVG_E_NOMEM;
    else {
      *copy->tokenizer = *m->tokenizer;
      copy->tokenizer->ctx = c;
    }
  }
  if (!s && !m->shared) {
    s = fvg__share_begin(m);
    if (s) fvg_fail(c, s, "%s", fvg_error(m->ctx));
  }
  if (s) {
    fvg_release(c, copy->tokenizer);
    fvg_release(c, copy);
    return s;
  }
  copy->shared = m->shared;
  fvg__count_up(&copy->shared->n_user);
  *out = copy;
  return FVG_OK;
}

FVG_DEF void fvg_clip_free(fvg_clip *m) {
  if (!m) return;
  fvg_ctx *own_context = m->owns_context ? m->ctx : NULL;
  fvg_tape_free(m->tape);
  if (m->shared) {
    fvg__share_end(m);
    fvg_release(m->ctx, m->tokenizer);
  } else {
    for (int i = 0; i < m->n_owned; i++) fvg_release(m->ctx, m->owned[i]);
    fvg_release(m->ctx, m->owned);
    fvg_release(m->ctx, m->vision.transformer.block);
    fvg_release(m->ctx, m->text.transformer.block);
    fvg_tokenizer_free(m->tokenizer);
  }
  fvg_release(m->ctx, m);
  fvg_free(own_context);
}

/*==================================================================================================
 * CHAPTER 13  TOWERS: images and texts in one space
 *==================================================================================================
   CLIP (Radford et al. 2021, arXiv 2103.00020) embeds images and texts in one space of width d.

     image  patches of p x p pixels, each times patch_weight -> [T-1, w]; the class token before
            them, position embeddings added, LN_pre, transformer, LN_post of the class token's row,
            times projection -> f [d]
     text   [SOT] tokens [EOT], token embeddings + position embeddings -> [n, w]; causal
            transformer, LN_final of the row of [EOT], times projection -> g [d]

   The score of a pair is s cos(f, g).  s is m->logit_scale, already exponentiated: files hold ln s.

   Texts are packed.  Attention is causal, so a text stops at its [EOT], and the rows that all texts
   share at their start are computed once, as a shared prefix (fvgpt.h, chapter 11).  Many texts are
   cut into chunks of about 320 rows, which pass the tower one after the other in the same memory.
   Each chunk computes the prefix for itself, and in training once more in its backward.
   A text is a list of symbols: a symbol >= 0 is a token, the symbol -1 - i is context vector i.

   Where prompts stand.  A method of prompt tuning writes vectors of its own into a tower.  They are
   the rows of one matrix v [n_start + n_prompt n_layer, w], and a plan says where they go:

     n_start      the first vectors stand in the sequence from the start: a text's context words, or
                  the n_prompt rows after an image's class token
     n_prompt     rows 1..n_prompt of every sequence, after [SOT] or the class token, are prompts
     first_layer, n_layer
                  before each of these blocks what the block before made of the prompts is thrown
                  away, and the next n_prompt vectors take their place
     keep         unless it is 0, this share of it stays: a row becomes (1 - keep) v + keep row, v
                  being the vector that comes in and row what left the block before

   With n_start = 0 there are no prompts at first: they are inserted before block first_layer, and
   replaced before the later ones.  PromptSRC's text tower has n_start 4, n_prompt 4, first_layer 1,
   n_layer 8; MMRL's has n_start 0, n_prompt 5, first_layer 5, n_layer 7.  (The order of an image's
   rows does not matter, for its attention knows no order; the published code puts some prompts
   after the patches.)

   A plan that is worked out for a batch x is a splicing.  It has a list, source, for each block of
   the plan: row r of what enters the block is row source[r] of [x; v], the rows of x and then those
   of v.  For two images of three tokens (class token c, patches p and q), n_start 0, n_prompt 2:

     [x; v]            row   0   1   2 | 3   4   5 | 6   7   8   9
                             c   p   q | c'  p'  q'| v0  v1  v2  v3

     Block first_layer: v0 and v1 are inserted after the first row of every image.

                       row   0   1   2   3   4 | 5   6   7   8   9
                             c   v0  v1  p   q | c'  v0  v1  p'  q'
                    source   0   6   7   1   2 | 3   6   7   4   5
                  position   0   1   2   3   4 | 0   1   2   3   4    of the row in its sequence

         old row             0           1   2 | 3           4   5
         moved_to            0           3   4 | 5           8   9

     The next block: x has ten rows now, so that v2 and v3 are rows 12 and 13 of [x; v].

                       row   0   1   2   3   4 | 5   6   7   8   9
                             c   v2  v3  p   q | c'  v2  v3  p'  q'
                    source   0  12  13   3   4 | 5  12  13   8   9

   In packed texts the shared prefix has the only row of position 0, so all texts see one copy of
   the prompts. */

/* ---- where prompts stand ---- */
typedef struct fvg__plan {
  int n_start;                       /* vectors in the sequence from the start                    */
  int n_prompt;                      /* rows 1..n_prompt of every sequence are prompts            */
  int first_layer, n_layer;          /* the blocks before which vectors come in                   */
  float keep;                        /* of what they replace                                      */
} fvg__plan;

/* A plan worked out for a batch of packed sequences, as in the drawing above. */
typedef struct fvg__splicing {
  fvg_splice *splice;                /* [n_splice] one for each block of the plan                 */
  int n_splice;
  int n_row;                         /* rows of the batch once all prompts are in                 */
  fvg_segment *segment;              /* the sequences among these rows                            */
  int *moved_to;                     /* [old rows + 1] where a row of the batch has gone          */
  int *position;                     /* [n_row] of each row in its sequence                       */
  int *source;                       /* [n_splice, n_row] rows of [x; v]                          */
  float keep;                        /* the plan's                                                */
} fvg__splicing;

static void fvg__splicing_free(fvg_ctx *c, fvg__splicing *x) {
  fvg_release(c, x->splice);
  fvg_release(c, x->segment);
  fvg_release(c, x->moved_to);
  fvg_release(c, x->position);
  fvg_release(c, x->source);
  memset(x, 0, sizeof *x);
}

static fvg_status fvg__splicing_alloc(fvg_ctx *c, fvg__splicing *x, int n_old, int n_segment) {
  const size_t n_row = (size_t)x->n_row;
  const size_t n_splice = (size_t)x->n_splice;

  x->splice = FVG_NEW_ARRAY(c, fvg_splice, n_splice);
  x->segment = FVG_NEW_ARRAY(c, fvg_segment, (size_t)n_segment);
  x->moved_to = FVG_NEW_ARRAY(c, int, (size_t)n_old + 1);
  x->position = FVG_NEW_ARRAY(c, int, n_row);
  x->source = FVG_NEW_ARRAY(c, int, n_splice * n_row);

  if (x->splice && x->segment && x->moved_to && x->position && x->source)
    return FVG_OK;
  fvg__splicing_free(c, x);
  return FVG_E_NOMEM;
}

/* Inserts n vectors, from row `vector` of [x; v] on, after each first row of a sequence.  n = 0
   leaves the rows as they are. */
static void fvg__insert_rows(fvg__splicing *x, const int *old_position, int n_old, int n,
                             int vector, int *source) {
  int row = 0;

  for (int old = 0; old < n_old; old++) {
    const int is_first = old_position[old] == 0;
    x->moved_to[old] = row;
    x->position[row] = is_first ? 0 : old_position[old] + n;
    source[row] = old;
    row++;
    if (!is_first) continue;

    for (int k = 0; k < n; k++) {
      x->position[row] = 1 + k;
      source[row] = vector + k;
      row++;
    }
  }
  x->moved_to[n_old] = row;
}

/* Puts n vectors, from row `vector` of [x; v] on, in the place of rows 1..n of every sequence. */
static void fvg__replace_rows(const fvg__splicing *x, int n, int vector, int *source) {
  for (int r = 0; r < x->n_row; r++) {
    const int position = x->position[r];
    const int is_prompt = position >= 1 && position <= n;
    source[r] = is_prompt ? vector + position - 1 : r;
  }
}

/* The same segment after its rows have moved; inserted rows stand between its first row and its
   end, so they belong to it. */
static fvg_segment fvg__move_segment(const fvg_segment *old, const int *moved_to) {
  fvg_segment s = *old;
  s.query = moved_to[old->query];
  s.n_query = moved_to[old->query + old->n_query] - s.query;
  s.key = moved_to[old->key];
  s.n_key = moved_to[old->key + old->n_key] - s.key;
  s.prefix = moved_to[old->prefix];
  s.n_prefix = moved_to[old->prefix + old->n_prefix] - s.prefix;
  return s;
}

/* Works out a plan of at least one layer for n_row rows with their positions [n_row].  Without
   vectors at the start, the first splice inserts the prompts; all others replace them. */
static fvg_status fvg__splicing_new(fvg_ctx *c, fvg__splicing *x, const fvg__plan *plan, int n_row,
                                    const int *position, const fvg_segment *segment,
                                    int n_segment) {
  const int n_inserted = plan->n_start ? 0 : plan->n_prompt;
  int n_first = 0;
  for (int r = 0; r < n_row; r++)
    if (position[r] == 0) n_first++;

  memset(x, 0, sizeof *x);
  x->n_row = n_row + n_first * n_inserted;
  x->n_splice = plan->n_layer;
  x->keep = plan->keep;
  fvg_status s = fvg__splicing_alloc(c, x, n_row, n_segment);
  if (s) return s;

  fvg__insert_rows(x, position, n_row, n_inserted, n_row + plan->n_start, x->source);
  for (int i = 0; i < n_segment; i++)
    x->segment[i] = fvg__move_segment(&segment[i], x->moved_to);

  for (int i = 0; i < plan->n_layer; i++) {
    int *source = x->source + fvg__row(i, x->n_row);
    fvg_splice *splice = &x->splice[i];
    splice->layer = plan->first_layer + i;
    splice->row = source;
    splice->n_row = x->n_row;

    if (i == 0 && n_inserted) {                  /* the source is already there                   */
      splice->segment = x->segment;
      splice->n_segment = n_segment;
    } else {
      fvg__replace_rows(x, plan->n_prompt, x->n_row + plan->n_start + i * plan->n_prompt, source);
    }
  }
  return FVG_OK;
}

/* The vectors of a tower and the places that they go to, as a transformer takes them. */
static fvg_prompts fvg__prompts(const fvg__splicing *x, fvg_node *vectors) {
  fvg_prompts prompts;
  memset(&prompts, 0, sizeof prompts);
  prompts.vectors = vectors;
  prompts.splice = x->splice;
  prompts.n_splice = x->n_splice;
  prompts.keep = x->keep;
  return prompts;
}

/* ---- image tower ---- */
/* The floats of one image [3, image_size, image_size]. */
static size_t fvg__image_floats(const fvg_clip *m) {
  const size_t size = (size_t)m->vision.image_size;
  return 3 * size * size;
}

/* Cuts an image [3, height, width] into patches, row by row from the top left: each is one row of
   the result, [3, p, p] in the order of the convolution's weights. */
static void fvg__cut_patches(const float *image, int height, int width, int p, float *rows) {
  const size_t bytes = (size_t)p * sizeof *rows;

  for (int row = 0; row < height / p; row++)
    for (int col = 0; col < width / p; col++)
      for (int channel = 0; channel < 3; channel++)
        for (int y = 0; y < p; y++) {
          const int line = channel * height + row * p + y;
          memcpy(rows, image + fvg__row(line, width) + col * p, bytes);
          rows += p;
        }
}

/* n images as the rows of one matrix: which rows belong to which image, and where prompts go. */
typedef struct fvg__image_rows {
  const fvg_clip *clip;
  fvg__plan plan;                    /* all 0: a tower without prompts                            */
  int n;                             /* images                                                    */
  int n_token;                       /* rows of each image that enter the first block             */
  fvg_segment *segment;              /* [n]                                                       */
  int *position;                     /* [n n_token] of each row in its image; 0: the class token  */
  int *list;                         /* [n (n_token + plan.n_prompt + 1)] scratch, a list of rows */
  fvg__splicing splicing;            /* of a plan that has layers                                 */
} fvg__image_rows;

static void fvg__image_rows_free(fvg__image_rows *x) {
  fvg_ctx *c = x->clip->ctx;
  fvg_release(c, x->segment);
  fvg_release(c, x->position);
  fvg_release(c, x->list);
  fvg__splicing_free(c, &x->splicing);
}

/* Numbers the rows of n images: their segments and positions. */
static void fvg__image_rows_number(fvg__image_rows *x) {
  for (int i = 0; i < x->n; i++) {
    fvg_segment *s = &x->segment[i];
    s->query = i * x->n_token;
    s->key = s->query;
    s->n_query = x->n_token;
    s->n_key = x->n_token;
    for (int k = 0; k < x->n_token; k++)
      x->position[s->query + k] = k;
  }
}

/* Plans the rows of n images; plan NULL: a tower without prompts. */
static fvg_status fvg__image_rows_new(const fvg_clip *m, fvg__image_rows *x, int n,
                                      const fvg__plan *plan) {
  memset(x, 0, sizeof *x);
  x->clip = m;
  if (!m->has_vision)
    return fvg_fail(m->ctx, FVG_E_ARG, "this model has no image tower");

  if (plan) x->plan = *plan;
  x->n = n;
  x->n_token = m->vision.n_token + x->plan.n_start;
  const int most_token = x->n_token + x->plan.n_prompt;
  if (n < 1 || n > INT_MAX / 4 / most_token)
    return fvg_fail(m->ctx, FVG_E_ARG, "%d images to encode", n);

  const int n_row = n * x->n_token;
  x->segment = FVG_NEW_ARRAY(m->ctx, fvg_segment, (size_t)n);
  x->position = FVG_NEW_ARRAY(m->ctx, int, (size_t)n_row);
  x->list = FVG_NEW_ARRAY(m->ctx, int, fvg__row(n, most_token + 1));
  fvg_status s = x->segment && x->position && x->list ? FVG_OK : FVG_E_NOMEM;

  if (!s) fvg__image_rows_number(x);
  if (!s && x->plan.n_layer)
    s = fvg__splicing_new(m->ctx, &x->splicing, &x->plan, n_row, x->position, x->segment, n);
  if (s) fvg__image_rows_free(x);
  return s;
}

/* Multiplies all patches of n images by patch_weight: [n (T-1), w], T tokens without prompts. */
static fvg_node *fvg__embed_patches(fvg_tape *t, const fvg_clip *m, const float *images, int n) {
  const fvg_vision_tower *v = &m->vision;
  const size_t floats = fvg__image_floats(m);
  const int patch_floats = 3 * v->patch_size * v->patch_size;

  fvg_node *patches = fvg_zeros(t, n * (v->n_token - 1), patch_floats);
  if (!patches) return NULL;
  for (int i = 0; i < n; i++) {
    const size_t at = (size_t)i * floats;
    fvg__cut_patches(images + at, v->image_size, v->image_size, v->patch_size,
                     fvg_fill(patches) + at);
  }
  return fvg_linear(patches, fvg_frozen(t, &v->patch_weight), NULL);
}

/* Puts the first n_start vectors after every class token:
   x [n T, w], vectors [>= n_start, w] -> [n (T + n_start), w] */
static fvg_node *fvg__insert_start(const fvg__image_rows *rows, fvg_node *x, fvg_node *vectors) {
  const int n_start = rows->plan.n_start;
  const int T = rows->clip->vision.n_token;
  const int first_vector = rows->n * T;          /* in [x; vectors]                               */
  const int n_row = rows->n * rows->n_token;

  for (int r = 0; r < n_row; r++) {
    const int class_token = r / rows->n_token * T;
    const int position = rows->position[r];
    if (position == 0)
      rows->list[r] = class_token;
    else if (position <= n_start)
      rows->list[r] = first_vector + position - 1;
    else
      rows->list[r] = class_token + position - n_start;
  }
  return fvg_gather(fvg_concat(x, vectors), rows->list, n_row);
}

/* n images -> the rows that enter the first block, [n n_token, w]: LN_pre of class token, prompts
   and patches.  Prompts have no position embedding. */
static fvg_node *fvg__vision_embed(fvg_tape *t, const fvg__image_rows *rows, const float *images,
                                   fvg_node *vectors) {
  const fvg_clip *m = rows->clip;
  const fvg_vision_tower *v = &m->vision;
  const int n = rows->n;
  const int T = v->n_token;
  fvg_mark mark = fvg_tape_mark(t);

  fvg_node *patches = fvg__embed_patches(t, m, images, n);
  if (!patches) return NULL;
  fvg_node *x = fvg_concat(fvg_frozen(t, &v->class_embedding), patches);

  /* Row 0 of x is the class token of all images, then come T - 1 patches of each. */
  for (int i = 0; i < n; i++)
    for (int k = 0; k < T; k++) {
      const int is_class_token = k == 0;
      rows->list[i * T + k] = is_class_token ? 0 : i * (T - 1) + k;
    }
  x = fvg_gather(x, rows->list, n * T);

  for (int i = 0; i < n * T; i++)
    rows->list[i] = i % T;
  fvg_node *positions = fvg_frozen(t, &v->position_embedding);
  x = fvg_add(x, fvg_gather(positions, rows->list, n * T));

  if (rows->plan.n_start) x = fvg__insert_start(rows, x, vectors);
  x = fvg__norm(x, &v->ln_pre_weight, &v->ln_pre_bias, v->transformer.eps);
  return fvg_tape_keep(t, mark, x);
}

/* Takes x through the blocks.  The class token of each image stays, and the n_read rows after it:
   [n (1 + n_read), w] */
static fvg_node *fvg__vision_blocks(const fvg__image_rows *rows, fvg_node *x, fvg_node *vectors,
                                    int n_read, int recompute) {
  const int has_layers = rows->plan.n_layer > 0;
  const int n_token = has_layers ? rows->splicing.n_row / rows->n : rows->n_token;
  const int n_keep = 1 + n_read;
  for (int i = 0; i < rows->n; i++)
    for (int k = 0; k < n_keep; k++)
      rows->list[i * n_keep + k] = i * n_token + k;

  fvg_prompts prompts = fvg__prompts(&rows->splicing, vectors);
  prompts.recompute = recompute;
  return fvg_transform_prompted(x, &rows->clip->vision.transformer, rows->segment, rows->n,
                                rows->list, rows->n * n_keep, &prompts);
}

/* Makes features [n, d], not normalised, of the class tokens' rows after the last block [n, w]. */
static fvg_node *fvg__vision_head(const fvg_clip *m, fvg_node *x) {
  const fvg_vision_tower *v = &m->vision;
  x = fvg__norm(x, &v->ln_post_weight, &v->ln_post_bias, v->transformer.eps);
  if (!x) return NULL;
  return fvg_linear(x, fvg_frozen(x->tape, &v->projection), NULL);
}

FVG_DEF fvg_node *fvg_clip_image_features(fvg_tape *t, const fvg_clip *m, const float *images,
                                          int n) {
  if (!t) return NULL;
  if (!images) {
    fvg__missing(m->ctx, "fvg_clip_image_features", "images");
    return fvg__give_up(t);
  }
  fvg__image_rows rows;
  if (fvg__image_rows_new(m, &rows, n, NULL)) return fvg__give_up(t);

  fvg_node *x = fvg__vision_embed(t, &rows, images, NULL);
  x = fvg__vision_blocks(&rows, x, NULL, 0, 0);
  x = fvg__vision_head(m, x);
  fvg__image_rows_free(&rows);
  return x ? x : fvg__give_up(t);
}

/* The model's own tape, on which features without gradients are computed; NULL: out of memory. */
static fvg_tape *fvg__clip_tape(fvg_clip *m) {
  if (!m->tape)
    m->tape = fvg_tape_new(m->ctx);
  return m->tape;
}

/* Refuses features that are not finite.  Finite weights can be so large that a tower overflows, and
   a score made of that would mean nothing.  x [n, n_part d]; `what` names a row in the message. */
static fvg_status fvg__check_features(const fvg_clip *m, const char *what, const float *x, int n,
                                      int n_part) {
  const size_t width = fvg__row(n_part, m->embed_dim);
  const size_t count = (size_t)n * width;

  for (size_t k = 0; k < count; k++)
    if (!isfinite(x[k]))
      return fvg_fail(m->ctx, FVG_E_NUMERIC, "the feature of %s %d of %d is %g", what,
                      (int)(k / width), n, (double)x[k]);
  return FVG_OK;
}

/* Images that pass the tower together: enough to fill the kernels. */
#define FVG__IMAGE_BATCH 8

/* The greatest number of floats that live at once while patches are embedded: the patches, their
   copy for the product and 6 matrices [rows, w]. */
static size_t fvg__embed_floats(const fvg_vision_tower *v, size_t rows, size_t copied) {
  const size_t w = (size_t)v->width;
  const size_t patch = 3 * (size_t)v->patch_size * (size_t)v->patch_size;
  return rows * (patch + 6 * w + 2) + copied * patch * 4 / 3 + 16 * patch;
}

/* The same inside a block: 9 matrices [rows, w] (x, LN_1, q, k, v, attention, sum, LN_2, sum), 2 as
   wide as the MLP, the rows that a product copies, and the panels of attention. */
static size_t fvg__block_floats(const fvg_vision_tower *v, int batch, size_t rows, size_t copied) {
  const size_t w = (size_t)v->width;
  const size_t n_head = (size_t)v->transformer.n_head;
  const size_t hidden = (size_t)v->transformer.block[0].fc_weight.dim[0];
  const size_t n_token = (size_t)v->n_token;

  const size_t n_panel = (size_t)fvg__min(batch * v->transformer.n_head, FVG__MOST_SCRATCH);
  const size_t panel = 2 * (w / n_head + FVG__PANEL_COLS) + FVG__QUERIES;
  const size_t panels = n_panel * (n_token + FVG__PANEL_COLS) * panel;
  const size_t copies = copied * hidden * 4 / 3 + 16 * hidden;
  return rows * (9 * w + 2 * hidden + 2 * n_head + 4) + panels + copies;
}

/* A chunk of a tape ends where the next allocation does not fit, so its unused end is smaller than
   that allocation: all chunks but the last are together at most twice as large as what they hold.
   The last is as large as those together, but at most FVG__TAPE_CHUNK_MOST. */
FVG_DEF size_t fvg_clip_image_bytes(const fvg_clip *m, int n) {
  if (!m->has_vision || n < 1) return 0;
  const fvg_vision_tower *v = &m->vision;
  const int batch = fvg__min(n, FVG__IMAGE_BATCH);
  const size_t rows = fvg__row(batch, v->n_token);
  const size_t copied = (size_t)FVG__PASS_ROWS < rows ? (size_t)FVG__PASS_ROWS : rows;

  const size_t embed = fvg__embed_floats(v, rows, copied);
  const size_t block = fvg__block_floats(v, batch, rows, copied);
  const size_t chunks = 2 * (embed > block ? embed : block) * sizeof(float);
  const size_t last = chunks < FVG__TAPE_CHUNK_MOST ? chunks : FVG__TAPE_CHUNK_MOST;
  return chunks + last + FVG__TAPE_CHUNK;
}

/* Encodes n images, a batch at a time -> features [n, d], not normalised. */
FVG_DEF fvg_status fvg_clip_encode_images(fvg_clip *m, float *features, const float *images,
                                          int n) {
  if (!m->has_vision)
    return fvg_fail(m->ctx, FVG_E_ARG, "this model has no image tower");
  if (n < 0)
    return fvg_fail(m->ctx, FVG_E_ARG, "%d images to encode", n);
  if (n > 0 && !images)
    return fvg__missing(m->ctx, "fvg_clip_encode_images", "images");
  if (n > 0 && !features)
    return fvg__missing(m->ctx, "fvg_clip_encode_images", "a place for the features");
  fvg_tape *t = fvg__clip_tape(m);
  if (!t) return FVG_E_NOMEM;

  const size_t floats = fvg__image_floats(m);
  for (int i = 0; i < n; i += FVG__IMAGE_BATCH) {
    const int count = fvg__min(n - i, FVG__IMAGE_BATCH);
    const size_t bytes = fvg__row(count, m->embed_dim) * sizeof *features;

    fvg_node *f = fvg_clip_image_features(t, m, images + (size_t)i * floats, count);
    if (f)
      memcpy(features + fvg__row(i, m->embed_dim), fvg_value(f), bytes);
    fvg_tape_clear(t);
    if (!f) return m->ctx->status;
  }
  return fvg__check_features(m, "image", features, n, 1);
}

/* ---- packed texts ---- */
/* Texts as symbols: a token id, or -1 - i for context vector i. */
typedef struct fvg__texts {
  int n;                             /* texts that are complete                                   */
  int n_symbol;
  int capacity;                      /* symbols of a text: the model's context length             */
  int *symbol;                       /* [n_symbol], one text after the other                      */
  int *start;                        /* [n + 1] where each text begins                            */
} fvg__texts;

/* Texts as the rows of one matrix: the shared prefix first, then what each text has of its own. */
typedef struct fvg__packed {
  int n_row, n_token, n_text, n_segment;
  int *token;                        /* [n_token] the ids of the rows that are tokens             */
  int *source;                       /* [n_row] rows of [tokens; context vectors]                 */
  int *position;                     /* [n_row] of each row in its text                           */
  int *end_row;                      /* [n_text] the row of each [EOT] after the last block       */
  fvg_segment *segment;              /* [n_segment] the prefix, if there is one, and the texts    */
  fvg__splicing splicing;            /* of a plan that has layers                                 */
  const fvg_clip *clip;
  struct fvg__packed *next;          /* the chunk that follows, or NULL                           */
} fvg__packed;

#define FVG__CHUNK_ROWS 320          /* the rows of a chunk, texts that pass the tower together   */

static void fvg__texts_free(fvg_ctx *c, fvg__texts *x) {
  fvg_release(c, x->symbol);
  fvg_release(c, x->start);
  memset(x, 0, sizeof *x);
}

/* Gives back a chunk's arrays, but not the chunk. */
static void fvg__chunk_release(fvg_ctx *c, fvg__packed *chunk) {
  fvg_release(c, chunk->token);
  fvg_release(c, chunk->source);
  fvg_release(c, chunk->position);
  fvg_release(c, chunk->end_row);
  fvg_release(c, chunk->segment);
  fvg__splicing_free(c, &chunk->splicing);
}

/* Gives back all chunks; the first one is the caller's struct, which is zeroed. */
static void fvg__packed_free(fvg_ctx *c, fvg__packed *first) {
  fvg__packed *chunk = first->next;
  while (chunk) {
    fvg__packed *next = chunk->next;
    fvg__chunk_release(c, chunk);
    fvg_release(c, chunk);
    chunk = next;
  }
  fvg__chunk_release(c, first);
  memset(first, 0, sizeof *first);
}

/* Makes room for n texts of at most context_length symbols. */
static fvg_status fvg__texts_new(const fvg_clip *m, fvg__texts *x, int n) {
  memset(x, 0, sizeof *x);
  if (!m->has_text)
    return fvg_fail(m->ctx, FVG_E_ARG, "this model has no text tower");
  if (!m->tokenizer)
    return fvg_fail(m->ctx, FVG_E_ARG,
                    "the model's vocabulary (merges.txt or bpe_simple_vocab_16e6.txt) was not "
                    "found; put it beside the weights");

  const int vocab_size = fvg_tokenizer_vocab_size(m->tokenizer);
  if (vocab_size > m->text.vocab_size)
    return fvg_fail(m->ctx, FVG_E_ARG, "the tokenizer has %d tokens, the model embeddings of %d",
                    vocab_size, m->text.vocab_size);

  x->capacity = m->text.context_length;
  x->symbol = FVG_NEW_ARRAY(m->ctx, int, fvg__row(n, x->capacity));
  x->start = FVG_NEW_ARRAY(m->ctx, int, (size_t)n + 1);
  if (x->symbol && x->start) return FVG_OK;
  fvg__texts_free(m->ctx, x);
  return FVG_E_NOMEM;
}

/* Writes the tokens of a text, without [SOT] and [EOT], into ids.  `room` is how many fit beside
   what else the text holds; nothing fits if it is negative. */
static fvg_status fvg__tokens(const fvg_clip *m, const char *text, int *ids, int room, int *n) {
  const int capacity = room < 0 ? 0 : room;
  fvg_status s = fvg_tokenize(m->tokenizer, ids, capacity, n, text);
  if (s || *n <= room) return s;

  const char *dots = strlen(text) > 80 ? "..." : "";
  return fvg_fail(m->ctx, FVG_E_ARG,
                  "\"%.80s%s\": %d tokens, but the model's context of %d leaves room for %d",
                  text, dots, *n, m->text.context_length, capacity);
}

static void fvg__texts_add(fvg__texts *x, int symbol) {
  x->symbol[x->n_symbol] = symbol;
  x->n_symbol++;
}

/* Ends a text with [EOT].  The text may hold that token itself: its feature is read at the first
   one, which sees nothing of what follows, so the text ends there. */
static void fvg__texts_end(const fvg_clip *m, fvg__texts *x) {
  const int end = fvg__end_token(m->tokenizer);
  fvg__texts_add(x, end);

  int i = x->start[x->n];
  while (x->symbol[i] != end)
    i++;
  x->n_symbol = i + 1;
  x->n++;
  x->start[x->n] = x->n_symbol;
}

/* Adds the text [SOT] tokens [EOT]. */
static fvg_status fvg__texts_add_plain(const fvg_clip *m, fvg__texts *x, const char *text) {
  fvg__texts_add(x, fvg__start_token(m->tokenizer));

  int n;
  int *tokens = x->symbol + x->n_symbol;
  fvg_status s = fvg__tokens(m, text, tokens, m->text.context_length - 2, &n);
  if (s) return s;
  x->n_symbol += n;
  fvg__texts_end(m, x);
  return FVG_OK;
}

/* How many symbols texts first .. first + n - 1 share at their start; each keeps at least its
   [EOT] for itself. */
static int fvg__common_prefix(const fvg__texts *x, int first, int n) {
  if (n < 2) return 0;
  const int *shared = x->symbol + x->start[first];

  for (int prefix = 0;; prefix++)
    for (int i = first; i < first + n; i++) {
      const int at = x->start[i] + prefix;
      if (at + 1 >= x->start[i + 1]) return prefix;
      if (x->symbol[at] != shared[prefix]) return prefix;
    }
}

/* Number k of a token's embedding, whatever type it is stored as. */
static float fvg__token_embedding(const fvg_clip *m, int token, size_t k) {
  const fvg_tensor *e = &m->text.token_embedding;
  const size_t at = fvg__row(token, m->text.width) + k;
  if (e->type == FVG_Q8)
    return fvg__narrow_number((const fvg__narrow_matrix *)e->data, token, (int)k);
  if (e->type == FVG_F16)
    return fvg_half_to_float(((const uint16_t *)e->data)[at]);
  if (e->type == FVG_BF16)
    return fvg_bfloat_to_float(((const uint16_t *)e->data)[at]);
  return ((const float *)e->data)[at];
}

/* Adds a row.  The source of a context vector is its symbol for now: the vectors follow the tokens,
   whose number is known when all rows are in. */
static void fvg__add_row(fvg__packed *p, int symbol, int position) {
  const int is_token = symbol >= 0;
  p->position[p->n_row] = position;
  p->source[p->n_row] = is_token ? p->n_token : symbol;
  p->n_row++;

  if (!is_token) return;
  p->token[p->n_token] = symbol;
  p->n_token++;
}

/* Adds the rows of one segment: symbols first .. end - 1 of a text, after a prefix of n_prefix
   rows, which are the first rows of the chunk (s->prefix is 0 already). */
static void fvg__add_segment(fvg__packed *p, const int *symbol, int first, int end, int n_prefix) {
  fvg_segment *s = &p->segment[p->n_segment];
  s->query = p->n_row;
  s->key = p->n_row;
  for (int k = first; k < end; k++)
    fvg__add_row(p, symbol[k], k);

  s->n_query = p->n_row - s->query;
  s->n_key = s->n_query;
  s->n_prefix = n_prefix;
  s->causal = 1;
  p->n_segment++;
}

/* Adds texts first .. first + n - 1: the prefix that they share, then each one's own rows. */
static void fvg__add_texts(fvg__packed *p, const fvg__texts *x, int first, int n) {
  const int prefix = fvg__common_prefix(x, first, n);
  if (prefix)
    fvg__add_segment(p, x->symbol + x->start[first], 0, prefix, 0);

  for (int i = first; i < first + n; i++) {
    const int length = x->start[i + 1] - x->start[i];
    fvg__add_segment(p, x->symbol + x->start[i], prefix, length, prefix);
    p->end_row[p->n_text] = p->n_row - 1;
    p->n_text++;
  }

  for (int r = 0; r < p->n_row; r++)
    if (p->source[r] < 0)
      p->source[r] = p->n_token + (-1 - p->source[r]);
}

/* Packs texts first .. first + n - 1 into one chunk.  plan NULL, or without layers: there are no
   prompts but context words. */
static fvg_status fvg__pack_chunk(const fvg_clip *m, fvg__packed *p, const fvg__texts *x,
                                  int first, int n, const fvg__plan *plan) {
  const size_t most = (size_t)(x->start[first + n] - x->start[first]);
  memset(p, 0, sizeof *p);
  p->clip = m;
  p->token = FVG_NEW_ARRAY(m->ctx, int, most);
  p->source = FVG_NEW_ARRAY(m->ctx, int, most);
  p->position = FVG_NEW_ARRAY(m->ctx, int, most);
  p->end_row = FVG_NEW_ARRAY(m->ctx, int, (size_t)n);
  p->segment = FVG_NEW_ARRAY(m->ctx, fvg_segment, (size_t)n + 1);
  fvg_status s = FVG_OK;
  if (!p->token || !p->source || !p->position || !p->end_row || !p->segment)
    s = FVG_E_NOMEM;

  if (!s) fvg__add_texts(p, x, first, n);
  if (!s && plan && plan->n_layer) {
    s = fvg__splicing_new(m->ctx, &p->splicing, plan, p->n_row, p->position, p->segment,
                          p->n_segment);
    for (int i = 0; !s && i < n; i++)
      p->end_row[i] = p->splicing.moved_to[p->end_row[i]];
  }
  if (s) fvg__packed_free(m->ctx, p);
  return s;
}

/* How many texts from `first` on fill a chunk of chunk_rows rows; chunk_rows 0: all of them. */
static int fvg__count_chunk(const fvg__texts *x, int first, int prefix, int chunk_rows) {
  if (!chunk_rows) return x->n - first;
  int n = 0;
  int rows = 0;
  while (first + n < x->n && (n == 0 || rows < chunk_rows)) {
    rows += x->start[first + n + 1] - x->start[first + n] - prefix;
    n++;
  }
  return n;
}

/* Packs all texts in chunks of about chunk_rows rows; 0: in one chunk. */
static fvg_status fvg__pack(const fvg_clip *m, fvg__packed *p, const fvg__texts *x, int chunk_rows,
                            const fvg__plan *plan) {
  const int prefix = fvg__common_prefix(x, 0, x->n);
  fvg__packed *chunk = p;
  int first = 0;

  for (;;) {
    const int n = fvg__count_chunk(x, first, prefix, chunk_rows);
    fvg_status s = fvg__pack_chunk(m, chunk, x, first, n, plan);
    first += n;
    if (!s && first == x->n) return FVG_OK;

    if (!s) chunk->next = FVG_NEW(m->ctx, fvg__packed);
    if (!s && !chunk->next) s = FVG_E_NOMEM;
    if (s) {
      fvg__packed_free(m->ctx, p);
      return s;
    }
    chunk = chunk->next;
  }
}

/* Takes one chunk through the text tower: vectors [n, w] or NULL -> [n_text, d], not normalised. */
static fvg_node *fvg__text_forward(fvg_tape *t, const fvg__packed *p, fvg_node *vectors) {
  const fvg_text_tower *tower = &p->clip->text;

  fvg_node *x = fvg_gather(fvg_frozen(t, &tower->token_embedding), p->token, p->n_token);
  if (vectors)
    x = fvg_gather(fvg_concat(x, vectors), p->source, p->n_row);
  fvg_node *positions = fvg_frozen(t, &tower->position_embedding);
  x = fvg_add(x, fvg_gather(positions, p->position, p->n_row));

  const fvg_prompts prompts = fvg__prompts(&p->splicing, vectors);
  x = fvg_transform_prompted(x, &tower->transformer, p->segment, p->n_segment, p->end_row,
                             p->n_text, &prompts);

  x = fvg__norm(x, &tower->ln_final_weight, &tower->ln_final_bias, tower->transformer.eps);
  if (!x) return NULL;
  return fvg_linear(x, fvg_frozen(t, &tower->projection), NULL);
}

static fvg_node *fvg__text_chunk(fvg_tape *t, fvg_node *vectors, void *chunk) {
  return fvg__text_forward(t, (const fvg__packed *)chunk, vectors);
}

/* The features of all chunks, with a gradient for the vectors.  Where there are several, each is
   computed again when the gradient arrives, so that memory holds one chunk however many classes
   there are. */
static fvg_node *fvg__text_features(fvg_tape *t, fvg__packed *p, fvg_node *vectors) {
  if (!p->next) return fvg__text_forward(t, p, vectors);

  fvg_node *g = fvg_recompute(vectors, fvg__text_chunk, p);
  for (p = p->next; p; p = p->next)
    g = fvg_concat(g, fvg_recompute(vectors, fvg__text_chunk, p));
  return g;
}

/* Computes the features of all chunks without gradients, not normalised; vectors [n_vector, w] or
   NULL. */
static fvg_status fvg__encode_packed(fvg_clip *m, const fvg__packed *first, const float *vectors,
                                     int n_vector, float *features) {
  fvg_tape *t = fvg__clip_tape(m);
  if (!t) return FVG_E_NOMEM;
  int n = 0;

  for (const fvg__packed *p = first; p; p = p->next) {
    fvg_tape_clear(t);
    fvg_node *v = vectors ? fvg_const(t, n_vector, m->text.width, vectors) : NULL;
    fvg_node *g = fvg__text_forward(t, p, v);
    if (!g) {
      fvg_tape_clear(t);
      return m->ctx->status;
    }
    const size_t bytes = fvg__row(p->n_text, m->embed_dim) * sizeof *features;
    memcpy(features + fvg__row(n, m->embed_dim), fvg_value(g), bytes);
    n += p->n_text;
  }
  fvg_tape_clear(t);
  return fvg__check_features(m, "text", features, n, 1);
}

/* Packs texts that have no context words. */
static fvg_status fvg__pack_plain(const fvg_clip *m, fvg__packed *p, const char *const *texts,
                                  int n, int chunk_rows) {
  memset(p, 0, sizeof *p);
  if (n < 1)
    return fvg_fail(m->ctx, FVG_E_ARG, "%d texts to encode", n);

  fvg__texts x;
  fvg_status s = fvg__need_names(m->ctx, "encoding texts", texts, n);
  if (s) return s;
  s = fvg__texts_new(m, &x, n);
  for (int i = 0; !s && i < n; i++)
    s = fvg__texts_add_plain(m, &x, texts[i]);
  if (!s)
    s = fvg__pack(m, p, &x, chunk_rows, NULL);
  fvg__texts_free(m->ctx, &x);
  return s;
}

FVG_DEF fvg_status fvg_clip_encode_texts(fvg_clip *m, float *features, const char *const *texts,
                                         int n) {
  fvg__packed p;
  if (!features)
    return fvg__missing(m->ctx, "fvg_clip_encode_texts", "a place for the features");
  fvg_status s = fvg__pack_plain(m, &p, texts, n, FVG__CHUNK_ROWS);
  if (!s)
    s = fvg__encode_packed(m, &p, NULL, 0, features);
  fvg__packed_free(m->ctx, &p);
  return s;
}

#ifndef FVGPT_NO_TRAINING
FVG_DEF fvg_node *fvg_clip_text_features(fvg_tape *t, const fvg_clip *m, const char *const *texts,
                                         int n) {
  if (!t) return NULL;
  fvg__packed p;
  fvg_node *g = NULL;
  if (!fvg__pack_plain(m, &p, texts, n, 0))
    g = fvg__text_forward(t, &p, NULL);
  fvg__packed_free(m->ctx, &p);
  return g ? g : fvg__give_up(t);
}
#endif /* FVGPT_NO_TRAINING */

FVG_DEF void fvg_normalize_rows(float *x, int n, int d) {
  for (int i = 0; i < n; i++) {
    float *row = x + fvg__row(i, d);
    double norm2 = 0;
    for (int k = 0; k < d; k++)
      norm2 += (double)row[k] * (double)row[k];
    if (!(norm2 > 0)) continue;

    const double norm = sqrt(norm2);
    for (int k = 0; k < d; k++)
      row[k] = (float)((double)row[k] / norm);
  }
}

/* ---- class names in a template ---- */
/* The template with the class's name in the place of {}, to be released.  NULL: the template has
   not just one {}, or memory is out. */
static char *fvg__fill_template(fvg_ctx *c, const char *form, const char *name) {
  const char *hole = strstr(form, "{}");
  if (!hole || strstr(hole + 2, "{}")) {
    fvg_fail(c, FVG_E_ARG, "template \"%s\": it must hold {} once, where the class name goes",
             form);
    return NULL;
  }

  const size_t size = strlen(form) + strlen(name) + 1;
  const size_t before = (size_t)(hole - form);
  char *text = (char *)fvg_alloc(c, size);
  if (!text) return NULL;

  memcpy(text, form, before);
  fvg__print(text + before, size - before, "%s", name);
  fvg_tidy_name(text + before);
  const char *after = hole + 2;
  memcpy(text + strlen(text), after, strlen(after) + 1);
  return text;
}

/* Encodes class names in a template; the features are not normalised. */
static fvg_status fvg__encode_filled(fvg_clip *m, const char *form, const char *const *class_name,
                                     int n_class, float *features) {
  const size_t n_text = n_class < 1 ? 1 : (size_t)n_class;
  char **text = FVG_NEW_ARRAY(m->ctx, char *, n_text);
  if (!text) return FVG_E_NOMEM;

  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < n_class; i++) {
    text[i] = fvg__fill_template(m->ctx, form, class_name[i]);
    if (!text[i]) s = m->ctx->status;
  }
  if (!s)
    s = fvg_clip_encode_texts(m, features, (const char *const *)text, n_class);

  for (int i = 0; i < n_class; i++)
    fvg_release(m->ctx, text[i]);
  fvg_release(m->ctx, text);
  return s;
}

FVG_DEF fvg_status fvg_clip_encode_classes(fvg_clip *m, float *features,
                                           const char *prompt_template,
                                           const char *const *class_name, int n_class) {
  fvg_status s = fvg__check_not_empty(m->ctx, "encoding classes", class_name, n_class);
  if (s) return s;

  const char *form = prompt_template ? prompt_template : "a photo of a {}.";
  s = fvg__encode_filled(m, form, class_name, n_class, features);
  if (!s) fvg_normalize_rows(features, n_class, m->embed_dim);
  return s;
}

/* ---- ensembles of templates ---- */
static const char *const fvg__selected[] = {
  "itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.",
  "a {} in a video game.", "art of the {}.", "a photo of the small {}."
};

/* The sentences of CLIP's prompt ensemble for ImageNet that PromptSRC averages over; their order
   does not matter. */
static const char *const fvg__sentence[] = {
  "a photo of a {}.", "a photo of the {}.", "a photo of my {}.", "a photo of one {}.",
  "a photo of many {}.", "a photo of a clean {}.", "a photo of the clean {}.",
  "a photo of a dirty {}.", "a photo of the dirty {}.", "a photo of a hard to see {}.",
  "a photo of the hard to see {}.", "a photo of the cool {}.", "a photo of a large {}.",
  "a photo of a nice {}.", "a photo of a weird {}.", "a bad photo of a {}.",
  "a bad photo of the {}.", "a good photo of the {}.", "a bright photo of a {}.",
  "a bright photo of the {}.", "a dark photo of the {}.", "a blurry photo of a {}.",
  "a blurry photo of the {}.", "a cropped photo of a {}.", "a cropped photo of the {}.",
  "a close-up photo of a {}.", "a close-up photo of the {}.", "a low resolution photo of a {}.",
  "a low resolution photo of the {}.", "a pixelated photo of a {}.", "a pixelated photo of the {}.",
  "a jpeg corrupted photo of a {}.", "a black and white photo of the {}.", "a painting of a {}.",
  "a painting of the {}.", "a drawing of a {}.", "a sketch of a {}.", "a sketch of the {}.",
  "a doodle of a {}.", "a doodle of the {}.", "a sculpture of a {}.", "a sculpture of the {}.",
  "a rendering of a {}.", "a rendering of the {}.", "a rendition of a {}.",
  "a rendition of the {}.", "a tattoo of a {}.", "graffiti of a {}.", "art of a {}.",
  "itap of the {}.", "a plastic {}.", "the plastic {}.", "a embroidered {}.",
  "the embroidered {}.", "a origami {}.", "the origami {}.", "a cartoon {}.", "the toy {}.",
  "a {} in a video game.", "the {} in a video game."
};
enum { FVG__N_SENTENCE = (int)(sizeof fvg__sentence / sizeof *fvg__sentence) };

FVG_DEF const char *const *fvg_template_list(fvg_templates list, int *n) {
  const int all = list == FVG_TEMPLATES_PROMPTSRC;
  if (n) *n = all ? FVG__N_SENTENCE : (int)(sizeof fvg__selected / sizeof *fvg__selected);
  return all ? fvg__sentence : fvg__selected;
}

/* One template after the other: memory is that of one. */
FVG_DEF fvg_status fvg_clip_encode_ensemble(fvg_clip *m, float *features,
                                            const char *const *prompt_template, int n_template,
                                            const char *const *class_name, int n_class) {
  if (!features || !prompt_template || n_template < 1)
    return fvg__missing(m->ctx, "fvg_clip_encode_ensemble",
                        features ? "a template" : "a place for the features");
  const size_t count = fvg__row(n_class < 1 ? 1 : n_class, m->embed_dim);
  float *one = FVG_NEW_ARRAY(m->ctx, float, count);
  float *sum = FVG_NEW_ARRAY(m->ctx, float, count);
  fvg_status s = one && sum ? FVG_OK : FVG_E_NOMEM;

  for (int i = 0; !s && i < n_template; i++) {
    s = fvg_clip_encode_classes(m, one, prompt_template[i], class_name, n_class);
    for (size_t k = 0; !s && k < count; k++) sum[k] += one[k] / (float)n_template;
  }
  if (!s) {
    fvg_normalize_rows(sum, n_class, m->embed_dim);
    memcpy(features, sum, count * sizeof *sum);
  }
  fvg_release(m->ctx, one);
  fvg_release(m->ctx, sum);
  return s;
}

/*==================================================================================================
 * CHAPTER 14  LEARNERS: what all methods of prompt tuning share
 *==================================================================================================
   Every method here freezes CLIP and learns a few vectors that it writes into the towers (chapter
   13 draws where).  All else is the same for all of them: class names become packed texts, g is
   the text tower's normalised output, f the image tower's, the scores are z = s f g^T, and the loss
   is CE(z, y) or something that contains it.  What differs is one table, a fvg_method.  Training,
   checkpoints, classifiers and FVG-PT (chapters 33 to 37) read that table.  Only what was published
   for a method goes by its name: templates (chapter 30) and settings (chapter 33).

   How to add a method.  Methods are compiled in: you edit this header; no call registers one.

     1. Write a chapter with its equations and defaults, and an enum of its options, if it has any:
        at most FVG_RECIPE_OPTIONS.
     2. init: add the parameters under their published names and draw their values; say in
        l->plan[FVG__TEXT] and l->plan[FVG__IMAGE] where the vectors go.  fvg__learner_ctx does all
        this for context words; fvg__learner_prior computes g0, zero-shot CLIP's text features.
     3. vectors: return the matrix v [n_start + n_prompt n_layer, w] of a tower as a node.
        fvg__ctx_vectors does so for context words.
     4. Only if the method needs them:
          scores      the words differ from picture to picture, so z is not s f g^T   (CoCoOp)
          f_score     base classes are scored by another vector than f        (MMRL, MMRL++)
          head        base classes are scored by a linear layer besides               (DePT)
          release     init left something in l->own                                   (DAPT)
     5. Fill in a fvg_method, one field a line in the order of the struct, which says what each
        means.  A method that prompts the image tower needs FVG_NEEDS_PIXELS, and n_part is 2, or 3
        with f_score or a head.
     6. For training, within #ifndef FVGPT_NO_TRAINING, and only if CE(z, y) is not all:
          loss        returns the loss [1,1] made of the step's f, g and z
          gradients   the gradient is not just that of the loss                       (ProGrad)
          epoch       something happens at the end of an epoch                        (PromptSRC)
     7. Add the table to the list at the end of chapter 24, what step 6 made to the list after it,
        and the name to the list of methods in tests/test_learners.c.  Names are also written in
        the comments of fvg_method_find and fvg_learner_desc, and, if the method has published
        ones, in fvg_method_template (chapter 30), in the tables of settings and in
        fvg_fvgpt_recipe (chapter 33).

   Rules that no compiler checks:

     context     fvg__ctx_vectors reads l->param[0], so the context is the first parameter.  With a
                 `vectors` of your own, class_specific and class_token_position are refused.
     init        runs before the classes are packed and before l->tape exists.
     names       A parameter's name, shorter than 96 bytes, is its tensor's name in checkpoints.  An
                 option's name is a key of their metadata, beside the settings that each has: not
                 "n_ctx", "embed_dim", "tau", "logit_scale", ... (chapter 36 lists them).
     failure     Report it by fvg_fail, or on a tape by fvg__give_up, and return the status or NULL.
     release     runs for every learner, also where init has failed or was never called, so l->own
                 may be NULL.
     scores      gets no step: it makes z from f and from texts of its own, out of `packed`.  The
                 step of `loss` then has that z, and g is NULL.  With f_words [1,d] all of f is
                 scored in the words of that picture, as relevance maps do with its patches.
     f_score     Its step has f and f_read and nothing else; the tape is step->f->tape.
     head        With w [C,d] and b [C] that it fills in for the training classes, and the share L
                 that it returns, base classes get (1 - L) z + L (f_raw w^T + b).  A picture's f_raw
                 is f before it got unit length: the method needs FVG_NEEDS_PIXELS, and n_part is 3.

   A whole method, CoOp with short vectors, L = CE(z, y) + W mean v^2, as it would stand after
   chapter 15:

     static fvg_node *fvg__short_loss(fvg_learner *l, fvg__step *step) {
       fvg_node *v = fvg__ctx_vectors(l, step->tape, FVG__TEXT);
       fvg_node *L_v = fvg_scale(fvg_mean(fvg_mul(v, v)), (float)l->option[0]);
       return fvg_add(fvg_cross_entropy(step->z, step->batch->label), L_v);
     }

     static const fvg_method fvg__short = {
       "ShortCoOp", "a photo of a", FVG__ONE_EACH, 4, FVG_NEEDS_FEATURES, 1,
       0.0035f, FVG_SGD, 10, 4, 0, 1, {{"W", 1, 0, 1e6}, {NULL, 0, 0, 0}},
       fvg__coop_init, fvg__ctx_vectors, NULL, NULL, NULL, NULL
     };

   and in chapter 24 &fvg__short in the list of methods, and {&fvg__short, fvg__short_loss, NULL,
   NULL} in that of trainings.  To read on: chapter 15 (CoOp, a table and no loss of its own),
   chapter 16 (KgCoOp, a loss of two terms), and for prompts in both towers chapter 20 (MaPLe).

   A class is written as [SOT], the context, fixed words, name, dot, [EOT].  A method without
   context words (MMRL, MMRL++) fills the class name into a template instead.

   A context may start from words.  A word may have several tokens ("photorealistic-HDR" has five),
   but the published trainers count words: they learn as many vectors as there are words, which
   start as the first tokens, and the remaining tokens stay fixed after the vectors.  Of "a
   photorealistic-HDR of a" CoOp makes the prompt

     [SOT] v_1 v_2 v_3 v_4  - hdr of a  name . [EOT]     v_1..v_4 start as: a  photo  realistic ...

   CoOp, KgCoOp and CoCoOp take n_ctx from the words that they are given.  PromptSRC, MaPLe and DAPT
   keep n_ctx and learn the first n_ctx tokens; with more than four vectors they start at random.
   ProGrad keeps n_ctx too and puts the first tokens, one for each word, into the last slots, with
   zeros before them.  DePT does as the method that it stands beside. */

typedef enum fvg__tower { FVG__TEXT, FVG__IMAGE } fvg__tower;

/* A number that a method can be given, its published value, and the range that is accepted. */
typedef struct fvg__option_card {
  const char *name;
  double published;
  double low, high;
} fvg__option_card;

/* What the loss of a batch is made of.  For f_score only f and f_read are set. */
typedef struct fvg__step {
  fvg_tape *tape;
  const fvg_batch *batch;
  fvg_node *g;                       /* [C,d] text features, unit length; NULL with `scores`      */
  fvg_node *f;                       /* [B,d] image features, unit length                         */
  fvg_node *z;                       /* [B,C] scores                                              */
  fvg_node *f_read;                  /* [B n_read, w] rows after the class tokens, if n_read > 0  */
  fvg_node *f_raw;                   /* f before it got unit length; NULL without pixels          */
  fvg_node *g_raw;                   /* g before it got unit length; NULL with `scores`           */
} fvg__step;

/* What a method's published code makes of the words that the context starts from. */
typedef enum fvg__start_rule {
  FVG__ONE_EACH,                     /* n_ctx becomes the number of words                         */
  FVG__FIRST_FEW,                    /* n_ctx stays; above 4 the words are not used               */
  FVG__LAST_SLOTS                    /* n_ctx stays; zeros stand before the words in it           */
} fvg__start_rule;

struct fvg_method {
  const char *name;
  const char *ctx_init;              /* words to start from; NULL: N(0, 0.02^2), or, with         */
                                     /* FVG__LAST_SLOTS, the template's words before {}           */
  fvg__start_rule start;
  int n_ctx;                         /* context vectors; 0: the filled template is the text       */
  int needs;                         /* FVG_NEEDS_..., of a batch                                 */
  int n_part;                        /* features of a picture: 1: f; 2: f, f_clip; 3: and f_score */
                                     /* or, with a head, f_raw                                    */
  float lr;
  fvg_optimizer_kind optimizer;
  int epochs;
  int batch;                         /* pictures of a step                                        */
  float crop_scale_min;              /* least share of a picture in a random crop; 0: 0.08        */
  int prompts_only;                  /* 1: all parameters are prompts, and classes have text      */
                                     /* features of their own, so DPC can mix them                */
  fvg__option_card option[FVG_RECIPE_OPTIONS + 1];     /* the last one has no name                */

  /* Every method has the first two; of the others, NULL means what their comment says last.  What
     training alone calls is in a table of its own (fvg__training). */
  fvg_status (*init)(fvg_learner *l);            /* adds the parameters, fills in l->plan         */
  fvg_node *(*vectors)(fvg_learner *l, fvg_tape *t, fvg__tower tower);
  fvg_node *(*scores)(fvg_learner *l, fvg_tape *t, fvg__packed *packed, fvg_node *f,
                      fvg_node *f_words);                                  /* [B,C]; s f g^T      */
  fvg_node *(*f_score)(fvg_learner *l, const fvg__step *step);             /* [B,d]; f            */
  double (*head)(const fvg_learner *l, float *weight, float *bias);        /* none                */
  void (*release)(fvg_learner *l);   /* frees l->own; nothing                                     */
};

/* How a method is trained.  The tables of methods do not lead here, so that a program that loads
   tuned models and trains none need not contain their losses. */
typedef struct fvg__training {
  const fvg_method *method;
  fvg_node *(*loss)(fvg_learner *l, fvg__step *step);                      /* [1,1]; CE(z, y)     */
  fvg_status (*gradients)(fvg_learner *l, const fvg_batch *batch,
                          float *loss);                                    /* those of the loss   */
  fvg_status (*epoch)(fvg_learner *l, int epoch, int n_epochs);            /* nothing             */
} fvg__training;

struct fvg_learner {
  const fvg_method *method;
  fvg_clip *clip;
  fvg_learner_desc desc;             /* its strings are NULL: they are kept below                 */
  char *prompt_template;
  double option[FVG_RECIPE_OPTIONS]; /* in the order of the method's cards                        */

  fvg_parameter **param;             /* [n_param] what trains                                     */
  int n_param;
  fvg_parameter **state;             /* [n_state] what else a resumed run must know               */
  int n_state;

  char **class_name;                 /* [n_class] the training classes                            */
  int n_class;
  fvg__packed packed;                /* the same as texts                                         */
  float *g_clip;                     /* [n_class, d] g0, zero-shot CLIP's features, or NULL       */
  float *g_sentence;                 /* [n_class, d] the mean of many sentences', or NULL         */

  char *words;                       /* to start from, or NULL                                    */
  int *word;                         /* [n_word] their tokens                                     */
  int n_word;                        /* 0 when they are not used                                  */
  int n_fixed;                       /* how many of the last tokens are fixed words               */

  fvg__plan plan[2];                 /* where vectors stand, for FVG__TEXT and FVG__IMAGE         */
  int n_read;                        /* rows after the class token that are read in the end       */
  fvg_tape *tape;
  void *own;                         /* whatever else the method keeps                            */
  const fvg_weights *file;           /* set while a checkpoint is loaded: shapes are checked      */
                                     /* against it before anything is allocated                   */
};

/* Fails unless `what` was made on the model m, whose sizes and working memory it uses, in the one
   thread that uses m.  Models that share weights are different models all the same. */
static fvg_status fvg__check_model(const fvg_clip *m, const char *what, const fvg_clip *made_on) {
  if (made_on == m) return FVG_OK;
  return fvg_fail(m->ctx, FVG_E_ARG,
                  "%s: made on another model; a learner, its views and its classifiers must be of "
                  "one model", what);
}

/* ---- parameters ---- */
/* Makes room for one more in a list of n parameters and returns its place; NULL: out of memory. */
static fvg_parameter **fvg__list_grow(fvg_ctx *c, fvg_parameter ***list, int *n) {
  fvg_parameter **longer = FVG_NEW_ARRAY(c, fvg_parameter *, (size_t)*n + 1);
  if (!longer) return NULL;
  if (*n)
    memcpy(longer, *list, (size_t)*n * sizeof *longer);
  fvg_release(c, *list);
  *list = longer;
  return longer + *n;
}

/* Adds a parameter of zeros to l->param or l->state.  NULL: memory is out, or the file that the
   learner is loaded from holds another shape. */
static fvg_parameter *fvg__learner_list(fvg_learner *l, fvg_parameter ***list, int *n,
                                        const char *name, int n_dim, const int *dim) {
  fvg_ctx *c = l->clip->ctx;
  const int is_in_file = l->file && list == &l->param;
  if (is_in_file && fvg__check_shape(c, l->file, name, n_dim, dim))
    return NULL;

  fvg_parameter **end = fvg__list_grow(c, list, n);
  if (!end) return NULL;
  fvg_parameter *p = FVG_NEW(c, fvg_parameter);
  if (!p) return NULL;
  *end = p;
  (*n)++;

  if (fvg_parameter_new(c, p, NULL, n_dim, dim)) return NULL;
  p->name = fvg_copy_string(c, name);
  return p->name ? p : NULL;
}

/* Adds a parameter [rows, cols], or [rows] when cols is 0; NULL as above. */
static fvg_parameter *fvg__learner_add(fvg_learner *l, const char *name, int rows, int cols) {
  int dim[2];
  dim[0] = rows;
  dim[1] = cols;
  const int n_dim = cols ? 2 : 1;
  return fvg__learner_list(l, &l->param, &l->n_param, name, n_dim, dim);
}

/* The random stream of the parameter that was added last: each has its own. */
static void fvg__learner_rng(const fvg_learner *l, fvg_rng *rng) {
  fvg_rng_seed(rng, l->desc.seed, (uint64_t)l->n_param);
}

/* Draws the values of the parameter that was added last from N(0, deviation^2). */
static void fvg__draw_normal(fvg_learner *l, fvg_parameter *p, double deviation) {
  float *x = (float *)p->value.data;
  const size_t count = fvg_tensor_count(&p->value);
  fvg_rng rng;
  fvg__learner_rng(l, &rng);
  for (size_t k = 0; k < count; k++)
    x[k] = (float)(deviation * fvg_rng_normal(&rng));
}

/* Adds n prompts [n, width], which start as N(0, 0.02^2). */
static fvg_status fvg__learner_prompts(fvg_learner *l, const char *name, int n, int width) {
  fvg_parameter *p = fvg__learner_add(l, name, n, width);
  if (!p) return FVG_E_NOMEM;
  fvg__draw_normal(l, p, 0.02);
  return FVG_OK;
}

/* Adds a parameter of a linear layer that starts as PyTorch's does: uniform in +-1/sqrt(n_in). */
static fvg_status fvg__learner_uniform(fvg_learner *l, const char *layer, const char *part,
                                       int n_out, int cols, int n_in) {
  char name[96];
  fvg__print(name, sizeof name, "%s.%s", layer, part);
  fvg_parameter *p = fvg__learner_add(l, name, n_out, cols);
  if (!p) return FVG_E_NOMEM;

  float *x = (float *)p->value.data;
  const size_t count = fvg_tensor_count(&p->value);
  const double bound = 1 / sqrt((double)n_in);
  fvg_rng rng;
  fvg__learner_rng(l, &rng);
  for (size_t k = 0; k < count; k++)
    x[k] = (float)(bound * (2 * fvg_rng_uniform(&rng) - 1));
  return FVG_OK;
}

/* Adds a linear layer: weight [n_out, n_in] and bias [n_out]. */
static fvg_status fvg__learner_linear(fvg_learner *l, const char *name, int n_out, int n_in) {
  fvg_status s = fvg__learner_uniform(l, name, "weight", n_out, n_in, n_in);
  if (!s)
    s = fvg__learner_uniform(l, name, "bias", n_out, 0, n_in);
  return s;
}

/* Computes x w^T + b, where parameters first and first + 1 are the layer's w and b. */
static fvg_node *fvg__learner_layer(fvg_learner *l, fvg_node *x, int first) {
  if (!x) return NULL;
  fvg_node *b = fvg_param(x->tape, l->param[first + 1]);
  fvg_node *w = fvg_param(x->tape, l->param[first]);
  return fvg_linear(x, w, b);
}

/* Writes the embeddings of the first n_start tokens of the words into the last rows of every
   context [n, w], and zeros into the rows before them, which only ProGrad has. */
static void fvg__ctx_from_words(const fvg_learner *l, fvg_parameter *ctx, int n, int n_start) {
  float *x = (float *)ctx->value.data;
  const size_t w = (size_t)l->clip->text.width;
  const size_t count = fvg_tensor_count(&ctx->value);

  for (size_t k = 0; k < count; k++) {
    const int row = (int)(k / w % (size_t)n);
    const int word = row - (n - n_start);
    x[k] = word < 0 ? 0 : fvg__token_embedding(l->clip, l->word[word], k % w);
  }
}

/* Adds the context, [n, w] or, with class_specific, [C, n, w], and says where it stands.  It starts
   from the words, or without them as N(0, 0.02^2). */
static fvg_status fvg__learner_ctx(fvg_learner *l, const char *name) {
  const int n = l->desc.n_ctx;
  const int w = l->clip->text.width;
  int dim[3];
  dim[0] = l->n_class;
  dim[1] = n;
  dim[2] = w;

  const int csc = l->desc.class_specific;
  fvg_parameter *p = csc ? fvg__learner_list(l, &l->param, &l->n_param, name, 3, dim)
                         : fvg__learner_add(l, name, n, w);
  if (!p) return FVG_E_NOMEM;

  /* n_start is greater than n only if a file's settings contradict each other. */
  const int n_start = l->n_word - l->n_fixed;
  if (n_start > 0 && n_start <= n)
    fvg__ctx_from_words(l, p, n, n_start);
  else
    fvg__draw_normal(l, p, 0.02);

  l->plan[FVG__TEXT].n_start = csc ? n * l->n_class : n;
  l->plan[FVG__TEXT].n_prompt = n;
  return FVG_OK;
}

/* The vectors of a method that learns context words and nothing else: ctx as a matrix, [n, w], or
   [C n, w] of the classes' own contexts [C, n, w] one after the other. */
static fvg_node *fvg__ctx_vectors(fvg_learner *l, fvg_tape *t, fvg__tower tower) {
  (void)tower;
  fvg_parameter ctx = *l->param[0];              /* same numbers and gradient, another shape      */
  const int w = l->clip->text.width;
  ctx.value.dim[0] = (int)(fvg_tensor_count(&ctx.value) / (size_t)w);
  ctx.value.dim[1] = w;
  ctx.value.n_dim = 2;
  return fvg_param(t, &ctx);
}

/* Computes g0, zero-shot CLIP's features of the training classes in the data set's template. */
static fvg_status fvg__learner_prior(fvg_learner *l) {
  fvg_clip *m = l->clip;
  l->g_clip = FVG_NEW_ARRAY(m->ctx, float, fvg__row(l->n_class, m->embed_dim));
  if (!l->g_clip) return FVG_E_NOMEM;

  const char *const *name = (const char *const *)l->class_name;
  return fvg_clip_encode_classes(m, l->g_clip, l->prompt_template, name, l->n_class);
}

/* ---- classes as texts ---- */
/* Writes the tokens of "name." to token, which has room for `room`, and their number to *n; *n_name
   becomes their number without the dot. */
static fvg_status fvg__name_tokens(const fvg_clip *m, const char *name, int *token, int room,
                                   int *n_name, int *n) {
  const size_t size = strlen(name) + 2;
  char *text = (char *)fvg_alloc(m->ctx, size);
  if (!text) return FVG_E_NOMEM;
  fvg__print(text, size, "%s", name);
  fvg_tidy_name(text);

  fvg_status s = fvg_tokenize(m->tokenizer, NULL, 0, n_name, text);
  memcpy(text + strlen(text), ".", 2);
  if (!s) s = fvg__tokens(m, text, token, room, n);
  fvg_release(m->ctx, text);
  return s;
}

/* Adds the text of a class.  token [n]: the fixed words, the name and the dot.  The first n_name of
   them, as many as the name has tokens, come before the context when the class token stands in
   front, and between its halves when it stands in the middle.  With fixed words these are not the
   name, but it is what CoOp's published code does. */
static void fvg__add_class_symbols(const fvg_learner *l, fvg__texts *x, const int *token, int n,
                                   int n_name, int class_index) {
  const int n_ctx = l->desc.n_ctx;
  const int first_vector = l->desc.class_specific ? class_index * n_ctx : 0;
  int ctx_before = 0;                            /* the context vectors before the name           */
  if (l->desc.class_token_position == FVG_END) ctx_before = n_ctx;
  if (l->desc.class_token_position == FVG_MIDDLE) ctx_before = n_ctx / 2;
  if (n_name > n) n_name = n;

  fvg__texts_add(x, fvg__start_token(l->clip->tokenizer));
  for (int i = 0; i < ctx_before; i++)
    fvg__texts_add(x, -1 - (first_vector + i));
  for (int i = 0; i < n_name; i++)
    fvg__texts_add(x, token[i]);
  for (int i = ctx_before; i < n_ctx; i++)
    fvg__texts_add(x, -1 - (first_vector + i));
  for (int i = n_name; i < n; i++)
    fvg__texts_add(x, token[i]);
  fvg__texts_end(l->clip, x);
}

/* Adds a class as context, fixed words, name and dot. */
static fvg_status fvg__learner_add_class(const fvg_learner *l, fvg__texts *x, const char *name,
                                         int class_index) {
  fvg_clip *m = l->clip;
  const int n_fixed = l->n_fixed;
  const int most = m->text.context_length + n_fixed;
  const int room = m->text.context_length - 2 - l->desc.n_ctx - n_fixed;
  int *token = FVG_NEW_ARRAY(m->ctx, int, (size_t)most);
  if (!token) return FVG_E_NOMEM;

  int n_name = 0;
  int n = 0;
  fvg_status s = fvg__name_tokens(m, name, token + n_fixed, room, &n_name, &n);
  if (!s) {
    for (int i = 0; i < n_fixed; i++)
      token[i] = l->word[l->n_word - n_fixed + i];
    fvg__add_class_symbols(l, x, token, n_fixed + n, n_name, class_index);
  }
  fvg_release(m->ctx, token);
  return s;
}

/* Adds a class as a filled template. */
static fvg_status fvg__texts_add_filled(const fvg_clip *m, fvg__texts *x, const char *form,
                                        const char *name) {
  char *text = fvg__fill_template(m->ctx, form, name);
  if (!text) return m->ctx->status;
  fvg_status s = fvg__texts_add_plain(m, x, text);
  fvg_release(m->ctx, text);
  return s;
}

/* A class-specific context fits no other classes than those it was trained on, in their order. */
static fvg_status fvg__check_same_classes(const fvg_learner *l, const char *const *class_name,
                                          int n_class) {
  fvg_ctx *c = l->clip->ctx;
  for (int i = 0; i < n_class; i++) {
    const int is_same = n_class == l->n_class && fvg_same_name(c, class_name[i], l->class_name[i]);
    if (!is_same)
      return fvg_fail(c, FVG_E_UNSUPPORTED,
                      "%s: class-specific context knows only the %d classes it was trained on; "
                      "\"%s\" is not in its place",
                      l->method->name, l->n_class, class_name[i]);
  }
  return FVG_OK;
}

/* Packs any classes as the learner writes them. */
static fvg_status fvg__learner_pack(const fvg_learner *l, fvg__packed *packed,
                                    const char *const *class_name, int n_class) {
  fvg_clip *m = l->clip;
  const char *method = l->method->name;
  if (n_class < 1)
    return fvg_fail(m->ctx, FVG_E_ARG, "%s: %d classes", method, n_class);

  fvg_status s = fvg__check_not_empty(m->ctx, method, class_name, n_class);
  if (!s && l->desc.class_specific)
    s = fvg__check_same_classes(l, class_name, n_class);
  if (s) return s;

  fvg__texts x;
  s = fvg__texts_new(m, &x, n_class);
  for (int i = 0; !s && i < n_class; i++)
    s = l->method->n_ctx ? fvg__learner_add_class(l, &x, class_name[i], i)
                         : fvg__texts_add_filled(m, &x, l->prompt_template, class_name[i]);
  if (!s)
    s = fvg__pack(m, packed, &x, l->desc.chunk_rows, &l->plan[FVG__TEXT]);
  fvg__texts_free(m->ctx, &x);
  return s;
}

/* ---- the towers with prompts ---- */
/* Of each image's n_row rows, of which row 0 is the class token, rows first .. first + n - 1:
   x [n_image n_row, w] -> [n_image n, w] */
static fvg_node *fvg__rows_of_each(fvg__image_rows *rows, fvg_node *x, int n_row, int first,
                                   int n) {
  for (int i = 0; i < rows->n; i++)
    for (int k = 0; k < n; k++)
      rows->list[i * n + k] = i * n_row + first + k;
  return fvg_gather(x, rows->list, rows->n * n);
}

/* Takes n images through the prompted tower -> f_raw [n,d], not normalised.  f_read, unless it is
   NULL, receives the rows after the class tokens that the method reads, [n n_read, w]. */
static fvg_node *fvg__learner_images_raw(fvg_learner *l, fvg_tape *t, const float *pixels, int n,
                                         fvg_node **f_read) {
  fvg_node *vectors = l->method->vectors(l, t, FVG__IMAGE);
  if (!vectors) return NULL;
  fvg__image_rows rows;
  if (fvg__image_rows_new(l->clip, &rows, n, &l->plan[FVG__IMAGE]))
    return fvg__give_up(t);

  fvg_node *x = fvg__vision_embed(t, &rows, pixels, vectors);
  x = fvg__vision_blocks(&rows, x, vectors, l->n_read, l->desc.recompute);
  if (l->n_read) {
    const int n_row = 1 + l->n_read;
    if (f_read)
      *f_read = fvg__rows_of_each(&rows, x, n_row, 1, l->n_read);
    x = fvg__rows_of_each(&rows, x, n_row, 0, 1);
  }
  fvg__image_rows_free(&rows);
  return fvg__vision_head(l->clip, x);
}

/* Scores z = s f g^T. */
static fvg_node *fvg__learner_scores(const fvg_learner *l, fvg_node *f, fvg_node *g) {
  return fvg_scale(fvg_linear(f, g, NULL), l->clip->logit_scale);
}

/* ---- the words to start from ---- */
/* How many words the tokenizer sees, which takes any white space for one blank. */
static fvg_status fvg__count_words(const fvg_tokenizer *k, const char *text, int *n_words) {
  uint32_t *clean;
  int n;
  fvg_status s = fvg__clean_text(k->ctx, &k->unicode, text, &clean, &n);
  if (s) return s;

  *n_words = n > 0 ? 1 : 0;
  for (int i = 0; i < n; i++)
    if (clean[i] == ' ') (*n_words)++;
  fvg_release(k->ctx, clean);
  return FVG_OK;
}

/* Copies the words that the description asks for to l->words, or leaves it NULL. */
static fvg_status fvg__choose_words(fvg_learner *l, const char *ctx_init) {
  const fvg_method *method = l->method;
  if (!ctx_init) ctx_init = method->ctx_init;

  const char *hole = strstr(l->prompt_template, "{}");
  const int from_template = !ctx_init && method->start == FVG__LAST_SLOTS && hole;
  if (from_template) ctx_init = l->prompt_template;
  const int has_words = ctx_init && ctx_init[0] && method->n_ctx;
  if (!has_words) return FVG_OK;

  l->words = fvg_copy_string(l->clip->ctx, ctx_init);
  if (!l->words) return FVG_E_NOMEM;

  if (from_template) {                           /* "a texture of {}." becomes "a texture of"     */
    size_t n = (size_t)(hole - l->prompt_template);
    while (n && l->words[n - 1] == ' ')
      n--;
    l->words[n] = 0;
  }
  return FVG_OK;
}

/* CoOp's rule: as many vectors as words.  A caller who says how many vectors there are but leaves
   the words to the method has that many tokens learned, or a start at random if the words have
   fewer. */
static void fvg__start_one_each(fvg_learner *l, const fvg_learner_desc *desc, int n_words) {
  if (desc->n_ctx < 0) return;                   /* fvg__check_room refuses it */
  if (!desc->ctx_init && desc->n_ctx > 0) {
    if (l->desc.n_ctx > l->n_word) l->n_word = 0;
    else l->n_fixed = l->n_word - l->desc.n_ctx;
    return;
  }

  if (desc->n_ctx > 0 && desc->n_ctx != n_words)
    fvg_log(l->clip->ctx, 1, "%s: \"%.80s\" has %d words, so there are %d context vectors, not %d",
            l->method->name, l->words, n_words, n_words, desc->n_ctx);
  l->desc.n_ctx = n_words;
  l->n_fixed = l->n_word - n_words;
}

/* ProGrad's rule: the words, one token each, stand in the last of n_ctx slots. */
static fvg_status fvg__start_last_slots(fvg_learner *l, int n_words) {
  const int n_ctx = l->desc.n_ctx;
  if (n_ctx < n_words)
    return fvg_fail(l->clip->ctx, FVG_E_ARG,
                    "%s: \"%.80s\" has %d words for %d context vectors; n_ctx must be at least %d",
                    l->method->name, l->words, n_words, n_ctx, n_words);
  l->n_fixed = l->n_word - n_words;
  return FVG_OK;
}

/* Applies the rule of PromptSRC, MaPLe and DAPT: the first n_ctx tokens are learned if there are at
   most 4 vectors, and none otherwise. */
static fvg_status fvg__start_first_few(fvg_learner *l, const fvg_learner_desc *desc) {
  fvg_ctx *c = l->clip->ctx;
  const char *method = l->method->name;
  const int n_ctx = l->desc.n_ctx;

  if (n_ctx > 4) {
    if (desc->ctx_init)
      fvg_log(c, 1,
              "%s: more than 4 context vectors start at random, as published; \"%.80s\" is not "
              "used", method, l->words);
    l->n_word = 0;
    return FVG_OK;
  }

  if (l->n_word < n_ctx)
    return fvg_fail(c, FVG_E_ARG,
                    "%s: \"%.80s\" has %d tokens for %d context vectors; give more words, or \"\" "
                    "to start at random",
                    method, l->words, l->n_word, n_ctx);
  l->n_fixed = l->n_word - n_ctx;
  return FVG_OK;
}

/* Decides how many tokens of the words are learned and how many stay fixed, by the rule of the
   method's published code. */
static fvg_status fvg__apply_start_rule(fvg_learner *l, const fvg_learner_desc *desc) {
  fvg_clip *m = l->clip;
  int n_words = 0;
  fvg_status s = fvg__count_words(m->tokenizer, l->words, &n_words);
  if (s) return s;
  if (strstr(l->words, "{}"))
    return fvg_fail(m->ctx, FVG_E_ARG,
                    "%s: ctx_init \"%.80s\" holds {}; it wants the words before the name alone",
                    l->method->name, l->words);

  /* A word of nothing but signs that the tokenizer drops has no token. */
  if (n_words > l->n_word) n_words = l->n_word;

  if (l->method->start == FVG__LAST_SLOTS)
    return fvg__start_last_slots(l, n_words);
  if (l->method->start == FVG__FIRST_FEW)
    return fvg__start_first_few(l, desc);
  fvg__start_one_each(l, desc, n_words);
  return FVG_OK;
}

/* The number of fixed tokens is known: the learner is a copy or comes from a file. */
static fvg_status fvg__keep_fixed(fvg_learner *l, int n_fixed) {
  if (n_fixed > l->n_word)
    return fvg_fail(l->clip->ctx, FVG_E_FORMAT,
                    "%s: ctx_fixed is %d, but \"%.80s\" has %d tokens", l->method->name, n_fixed,
                    l->words, l->n_word);
  l->n_fixed = n_fixed;

  /* CoOp has no words of its own, so all tokens that are not fixed are vectors. */
  const fvg_method *method = l->method;
  if (method->start == FVG__ONE_EACH && !method->ctx_init)
    l->desc.n_ctx = l->n_word - n_fixed;
  return FVG_OK;
}

/* Turns the words to start from into tokens.  n_fixed: how many of these stay fixed if that is
   known, else -1. */
static fvg_status fvg__learner_words(fvg_learner *l, const fvg_learner_desc *desc, int n_fixed) {
  fvg_clip *m = l->clip;
  fvg_status s = fvg__choose_words(l, desc->ctx_init);
  if (s) return s;
  if (!l->words && n_fixed > 0)
    return fvg_fail(m->ctx, FVG_E_FORMAT, "%s: ctx_fixed is %d, but there are no words",
                    l->method->name, n_fixed);
  if (!l->words) return FVG_OK;

  const int context = m->text.context_length;
  l->word = FVG_NEW_ARRAY(m->ctx, int, (size_t)context);
  if (!l->word) return FVG_E_NOMEM;
  fvg__blank_underscores(l->words);
  s = fvg__tokens(m, l->words, l->word, context - 3, &l->n_word);
  if (s) return s;
  return n_fixed < 0 ? fvg__apply_start_rule(l, desc) : fvg__keep_fixed(l, n_fixed);
}

/* ---- life cycle ---- */
/* The index of an option among a method's cards; -1: it has no such option. */
static int fvg__find_option(const fvg_method *method, const char *name) {
  for (int i = 0; method->option[i].name; i++)
    if (!strcmp(method->option[i].name, name))
      return i;
  return -1;
}

/* Takes the published values, and then those that the description gives. */
static fvg_status fvg__learner_options(fvg_learner *l, const fvg_learner_desc *desc) {
  fvg_ctx *c = l->clip->ctx;
  const fvg_method *method = l->method;
  for (int i = 0; method->option[i].name; i++)
    l->option[i] = method->option[i].published;

  for (int k = 0; k < desc->n_option; k++) {
    const fvg_option *given = &desc->option[k];
    if (!desc->option || !given->name) return fvg__missing(c, method->name, "an option's name");
    const int i = fvg__find_option(method, given->name);
    if (i < 0)
      return fvg_fail(c, FVG_E_ARG, "%s has no option %.60s", method->name, given->name);

    const fvg__option_card *card = &method->option[i];
    l->option[i] = given->value;
    if (!(given->value >= card->low && given->value <= card->high))
      return fvg_fail(c, FVG_E_ARG, "%s: %s is %g, from %g to %g is possible", method->name,
                      card->name, given->value, card->low, card->high);
  }
  return FVG_OK;
}

/* Refuses what the model or the method cannot do. */
static fvg_status fvg__check_learner(const fvg_clip *m, const fvg_learner_desc *desc,
                                     int n_class) {
  fvg_ctx *c = m->ctx;
  const fvg_method *method = desc->method;
  const int position = (int)desc->class_token_position;
  const int needs_pixels = method->needs & FVG_NEEDS_PIXELS;
  const int has_own_place = desc->class_specific || position != FVG_END;

  if (n_class < 1)
    return fvg_fail(c, FVG_E_ARG, "%s: %d classes", method->name, n_class);
  if (!m->has_text || !m->tokenizer)
    return fvg_fail(c, FVG_E_ARG, "%s needs a model with a text tower and its vocabulary",
                    method->name);
  if (needs_pixels && !m->has_vision)
    return fvg_fail(c, FVG_E_ARG, "%s needs a model with an image tower", method->name);
  if (desc->chunk_rows < 0)
    return fvg_fail(c, FVG_E_ARG, "%s: chunks of %d rows", method->name, desc->chunk_rows);
  if (position < FVG_END || position > FVG_FRONT)
    return fvg_fail(c, FVG_E_ARG, "%s: there is no class_token_position %d", method->name,
                    position);
  if (has_own_place && method->vectors != fvg__ctx_vectors)
    return fvg_fail(c, FVG_E_ARG, "%s: its context is shared and stands before the name",
                    method->name);
  return FVG_OK;
}

/* Keeps the template and the class names, for the caller's strings need not outlive the call. */
static fvg_status fvg__copy_names(fvg_learner *l, const char *form, const char *const *class_name,
                                  int n_class) {
  fvg_ctx *c = l->clip->ctx;
  l->prompt_template = fvg_copy_string(c, form ? form : "a photo of a {}.");
  l->class_name = FVG_NEW_ARRAY(c, char *, (size_t)n_class);
  if (!l->prompt_template || !l->class_name) return FVG_E_NOMEM;

  for (int i = 0; i < n_class; i++) {
    l->class_name[i] = fvg_copy_string(c, class_name[i]);
    if (!l->class_name[i]) return FVG_E_NOMEM;
    l->n_class++;
  }
  return FVG_OK;
}

/* Beside context and fixed words a text holds [SOT], at least one token of a name, and [EOT]. */
static fvg_status fvg__check_room(const fvg_learner *l) {
  fvg_ctx *c = l->clip->ctx;
  const char *method = l->method->name;
  const int context = l->clip->text.context_length;
  const int most = context - 3;
  const int n_ctx = l->desc.n_ctx;

  if (l->method->n_ctx && (n_ctx < 1 || n_ctx > most))
    return fvg_fail(c, FVG_E_ARG,
                    "%s: %d context vectors, the model's context of %d has room for 1 to %d",
                    method, n_ctx, context, most);
  if (l->n_fixed > most - n_ctx)
    return fvg_fail(c, FVG_E_ARG,
                    "%s: %d context vectors and %d fixed tokens of \"%.80s\" leave no room for a "
                    "name in the model's context of %d",
                    method, n_ctx, l->n_fixed, l->words, context);
  return FVG_OK;
}

/* Fills in an empty learner; n_fixed as in fvg__learner_words. */
static fvg_status fvg__learner_start(fvg_learner *l, const fvg_learner_desc *desc,
                                     const char *const *class_name, int n_class, int n_fixed) {
  fvg_status s = fvg__check_learner(l->clip, desc, n_class);
  if (!s) s = fvg__need_names(l->clip->ctx, l->method->name, class_name, n_class);
  if (s) return s;
  if (l->desc.n_ctx == 0)
    l->desc.n_ctx = l->method->n_ctx;
  if (l->desc.chunk_rows == 0)
    l->desc.chunk_rows = FVG__CHUNK_ROWS;

  s = fvg__copy_names(l, desc->prompt_template, class_name, n_class);
  if (!s) s = fvg__learner_options(l, desc);
  if (!s) s = fvg__learner_words(l, desc, n_fixed);
  if (!s) s = fvg__check_room(l);

  if (!s) s = l->method->init(l);
  if (!s)
    s = fvg__learner_pack(l, &l->packed, class_name, n_class);
  if (s) return s;
  l->tape = fvg_tape_new(l->clip->ctx);
  return l->tape ? FVG_OK : FVG_E_NOMEM;
}

/* Returns the failure that a function of the method recorded in the context.  A function that
   failed without recording one has a bug; that is reported, if no earlier failure is still
   recorded. */
static fvg_status fvg__method_failed(const fvg_learner *l) {
  fvg_ctx *c = l->clip->ctx;
  if (c->status) return c->status;
  return fvg_fail(c, FVG_E_ARG, "%s: a function of the method failed and did not say why",
                  l->method->name);
}

/* Makes a learner.  file: the checkpoint that its values will come from, or NULL; n_fixed as in
   fvg__learner_words. */
static fvg_status fvg__learner_new(fvg_clip *m, fvg_learner **out, const fvg_learner_desc *desc,
                                   const char *const *class_name, int n_class,
                                   const fvg_weights *file, int n_fixed) {
  if (!out) return fvg__missing(m->ctx, desc->method->name, "a place for the learner");
  *out = NULL;
  fvg_learner *l = FVG_NEW(m->ctx, fvg_learner);
  if (!l) return FVG_E_NOMEM;

  l->clip = m;
  l->method = desc->method;
  l->desc = *desc;
  l->desc.ctx_init = NULL;
  l->desc.prompt_template = NULL;
  l->desc.option = NULL;

  const fvg_status earlier = m->ctx->status;
  m->ctx->status = FVG_OK;
  l->file = file;
  fvg_status s = fvg__learner_start(l, desc, class_name, n_class, n_fixed);
  l->file = NULL;
  if (!s) m->ctx->status = earlier;
  if (s) {
    s = fvg__method_failed(l);                   /* the cause, where s may only say "no memory"   */
    fvg_learner_free(l);
    return s;
  }
  *out = l;
  return FVG_OK;
}

static void fvg__learner_free_list(fvg_ctx *c, fvg_parameter **list, int n) {
  for (int i = 0; i < n; i++) {
    if (!list[i]) continue;
    fvg_release(c, (void *)(uintptr_t)list[i]->name);
    fvg_parameter_free(c, list[i]);
    fvg_release(c, list[i]);
  }
  fvg_release(c, list);
}

/* What the method keeps goes first, because it may use the other parts of the learner. */
FVG_DEF void fvg_learner_free(fvg_learner *l) {
  if (!l) return;
  fvg_ctx *c = l->clip->ctx;
  if (l->method->release)
    l->method->release(l);

  for (int i = 0; i < l->n_class; i++)
    fvg_release(c, l->class_name[i]);
  fvg_release(c, l->class_name);
  fvg_release(c, l->prompt_template);
  fvg_release(c, l->words);
  fvg_release(c, l->word);
  fvg_release(c, l->g_clip);
#ifndef FVGPT_NO_TRAINING
  fvg_release(c, l->g_sentence);
#endif

  fvg__learner_free_list(c, l->param, l->n_param);
  fvg__learner_free_list(c, l->state, l->n_state);
  fvg__packed_free(c, &l->packed);
  fvg_tape_free(l->tape);
  fvg_release(c, l);
}

FVG_DEF const char *fvg_learner_method(const fvg_learner *l) { return l->method->name; }
FVG_DEF int fvg_learner_needs(const fvg_learner *l) { return l->method->needs; }
FVG_DEF int fvg_learner_has_head(const fvg_learner *l) { return l->method->head != NULL; }

FVG_DEF const char *const *fvg_learner_class_names(const fvg_learner *l, int *n) {
  if (n) *n = l->n_class;
  return (const char *const *)l->class_name;
}

FVG_DEF fvg_parameter *const *fvg_learner_parameters(const fvg_learner *l, int *n) {
  if (n) *n = l->n_param;
  return l->param;
}

FVG_DEF fvg_parameter *fvg_learner_parameter(const fvg_learner *l, const char *name) {
  for (int i = 0; name && i < l->n_param; i++)
    if (!strcmp(l->param[i]->name, name))
      return l->param[i];
  return NULL;
}

#ifndef FVGPT_NO_TRAINING  /* training steps */
/* ---- what losses are made of ---- */
/* Takes pictures through the prompted tower -> f [n,d], normalised. */
static fvg_node *fvg__learner_images(fvg_learner *l, fvg_tape *t, const float *pixels, int n,
                                     fvg_node **f_read) {
  return fvg_normalize(fvg__learner_images_raw(l, t, pixels, n, f_read));
}

/* Takes packed classes through the prompted text tower -> g_raw [C,d], not normalised. */
static fvg_node *fvg__learner_texts_raw(fvg_learner *l, fvg_tape *t, fvg__packed *packed) {
  return fvg__text_features(t, packed, l->method->vectors(l, t, FVG__TEXT));
}

/* The same -> g [C,d], normalised. */
static fvg_node *fvg__learner_texts(fvg_learner *l, fvg_tape *t, fvg__packed *packed) {
  return fvg_normalize(fvg__learner_texts_raw(l, t, packed));
}

/* Makes a constant [1, cols] of equal numbers. */
static fvg_node *fvg__constant_row(fvg_tape *t, int cols, float number) {
  fvg_node *x = fvg_zeros(t, 1, cols);
  if (!x) return NULL;
  for (int k = 0; k < cols; k++)
    fvg_fill(x)[k] = number;
  return x;
}

/* 1 - mean_i cos(x_i, y_i) of the rows of x and of y, a constant; all rows are normalised. */
static fvg_node *fvg__cosine_distance(fvg_node *x, const float *y) {
  if (!x) return NULL;
  fvg_node *one = fvg__constant_row(x->tape, 1, 1);
  if (!one) return NULL;
  fvg_node *sum = fvg_sum(fvg_mul(x, fvg_const(x->tape, x->rows, x->cols, y)));
  return fvg_add(one, fvg_scale(sum, -1 / (float)x->rows));
}

/* ---- a step ---- */
/* How the method is trained, from the list at the end of chapter 24. */
static const fvg__training *fvg__training_of(const fvg_method *method);

static fvg_status fvg__check_batch(const fvg_learner *l, const fvg_batch *batch) {
  if (!batch) return fvg__missing(l->clip->ctx, l->method->name, "a batch");
  const int needs = l->method->needs;
  const char *missing = NULL;

  if (batch->n < 1) missing = "pictures";
  else if (!batch->label) missing = "labels";
  else if ((needs & FVG_NEEDS_FEATURES) && !batch->f_clip) missing = "features";
  else if ((needs & FVG_NEEDS_PIXELS) && !batch->pixels) missing = "pixels";
  else if ((needs & FVG_NEEDS_FOREGROUND) && !batch->pixels_fg) missing = "foreground pixels";

  if (!missing) return FVG_OK;
  return fvg_fail(l->clip->ctx, FVG_E_ARG, "%s: a step without %s", l->method->name, missing);
}

/* The loss of a batch [1,1]: f from the batch or through the prompted tower, then g, z, and what
   the method makes of them. */
FVG_DEF fvg_node *fvg_learner_loss(fvg_learner *l, fvg_tape *t, const fvg_batch *batch) {
  const fvg_method *method = l->method;
  if (!t) return NULL;
  if (fvg__check_batch(l, batch)) return fvg__give_up(t);

  fvg__step step;
  memset(&step, 0, sizeof step);
  step.tape = t;
  step.batch = batch;
  if (method->needs & FVG_NEEDS_PIXELS) {
    step.f_raw = fvg__learner_images_raw(l, t, batch->pixels, batch->n, &step.f_read);
    step.f = fvg_normalize(step.f_raw);
  } else {
    step.f = fvg_const(t, batch->n, l->clip->embed_dim, batch->f_clip);
  }

  if (method->scores) {
    step.z = method->scores(l, t, &l->packed, step.f, NULL);
  } else {
    step.g_raw = fvg__learner_texts_raw(l, t, &l->packed);
    if (!step.g_raw) return fvg__give_up(t);
    step.g = fvg_normalize(step.g_raw);
    step.z = fvg__learner_scores(l, step.f, step.g);
  }
  if (!step.z) return fvg__give_up(t);
  const fvg__training *how = fvg__training_of(method);
  return how->loss ? how->loss(l, &step) : fvg_cross_entropy(step.z, batch->label);
}

static fvg_status fvg__learner_gradients(fvg_learner *l, const fvg_batch *batch, float *loss) {
  fvg_node *y = fvg_learner_loss(l, l->tape, batch);
  if (!y) return fvg__method_failed(l);
  *loss = fvg_value(y)[0];
  return fvg_backward(y);
}

FVG_DEF fvg_status fvg_learner_step(fvg_learner *l, float *loss, fvg_optimizer *o, double lr,
                                    const fvg_batch *batch) {
  fvg_status s = fvg__check_batch(l, batch);
  if (!s && !o) s = fvg__missing(l->clip->ctx, "fvg_learner_step", "an optimiser");
  if (s) return s;
  fvg_tape_clear(l->tape);
  fvg_optimizer_zero_grad(o);

  float value = 0;
  const fvg__training *how = fvg__training_of(l->method);
  s = how->gradients ? how->gradients(l, batch, &value)
                     : fvg__learner_gradients(l, batch, &value);
  if (s) return s;
  if (loss) *loss = value;
  const int warms_up = batch->epoch < o->desc.warmup_epochs;
  fvg__optimizer_step(o, lr, warms_up);
  return FVG_OK;
}

FVG_DEF fvg_status fvg_learner_epoch(fvg_learner *l, int epoch, int n_epochs) {
  const fvg__training *how = fvg__training_of(l->method);
  return how->epoch ? how->epoch(l, epoch, n_epochs) : FVG_OK;
}
#endif /* FVGPT_NO_TRAINING */

/* ---- without gradients ---- */
/* Copies the vectors of a tower as they are now; *vectors [n, w] is to be released. */
static fvg_status fvg__learner_vectors(fvg_learner *l, fvg__tower tower, float **vectors, int *n) {
  *vectors = NULL;
  fvg_tape *t = fvg__clip_tape(l->clip);
  if (!t) return FVG_E_NOMEM;
  fvg_tape_clear(t);

  t->no_grad++;
  fvg_node *x = l->method->vectors(l, t, tower);
  t->no_grad--;
  if (!x) {
    fvg_tape_clear(t);
    return fvg__method_failed(l);
  }

  *n = x->rows;
  *vectors = FVG_NEW_ARRAY(l->clip->ctx, float, fvg__count(x));
  if (*vectors)
    memcpy(*vectors, fvg_value(x), fvg__count(x) * sizeof **vectors);
  fvg_tape_clear(t);
  return *vectors ? FVG_OK : FVG_E_NOMEM;
}

/* Packs the names, encodes them, and normalises: g [n_class, d]. */
FVG_DEF fvg_status fvg_learner_text_features(fvg_learner *l, float *g,
                                             const char *const *class_name, int n_class) {
  fvg_clip *m = l->clip;
  if (!g) return fvg__missing(m->ctx, "fvg_learner_text_features", "a place for the features");
  if (l->method->scores)
    return fvg_fail(m->ctx, FVG_E_UNSUPPORTED,
                    "%s writes other words for every picture; it has no text features of classes "
                    "alone", l->method->name);

  fvg__packed packed;
  fvg_status s = fvg__learner_pack(l, &packed, class_name, n_class);
  if (s) return s;

  float *vectors = NULL;
  int n = 0;
  s = fvg__learner_vectors(l, FVG__TEXT, &vectors, &n);
  if (!s)
    s = fvg__encode_packed(m, &packed, vectors, n, g);
  if (!s) fvg_normalize_rows(g, n_class, m->embed_dim);
  fvg_release(m->ctx, vectors);
  fvg__packed_free(m->ctx, &packed);
  return s;
}

/* How many features a picture has; l NULL: zero-shot CLIP's alone. */
static int fvg__learner_parts(const fvg_learner *l) { return l ? l->method->n_part : 1; }

FVG_DEF int fvg_learner_feature_width(const fvg_clip *m, const fvg_learner *l) {
  return m->embed_dim * fvg__learner_parts(l);
}

/* Tests whether the method writes vectors into the image tower.  If it does not, f is f_clip. */
static int fvg__prompts_images(const fvg_learner *l) {
  const fvg__plan *plan = &l->plan[FVG__IMAGE];
  return plan->n_start || plan->n_layer;
}

/* Makes the third part of a picture's features, of those whose method has one: f_score or f_raw. */
static fvg_node *fvg__third_part(fvg_learner *l, const fvg__step *step) {
  return l->method->f_score ? l->method->f_score(l, step) : step->f_raw;
}

/* Takes at most FVG__IMAGE_BATCH pictures through the prompted tower.  A picture's row of features
   [n_part d] receives its first part, f, and the third, if there is one. */
static fvg_status fvg__learner_encode(fvg_learner *l, const float *images, int n,
                                      float *features) {
  fvg_clip *m = l->clip;
  const int d = m->embed_dim;
  const int width = fvg_learner_feature_width(m, l);
  fvg_tape *t = fvg__clip_tape(m);
  if (!t) return FVG_E_NOMEM;
  fvg_tape_clear(t);

  fvg__step step;
  memset(&step, 0, sizeof step);
  step.tape = t;
  const int has_third = l->method->n_part > 2;
  fvg_node *third = NULL;
  t->no_grad++;
  step.f_raw = fvg__learner_images_raw(l, t, images, n, &step.f_read);
  step.f = fvg_normalize(step.f_raw);
  if (step.f && has_third) third = fvg__third_part(l, &step);
  t->no_grad--;

  const int is_made = step.f && (third || !has_third);
  const size_t bytes = (size_t)d * sizeof *features;
  for (int i = 0; is_made && i < n; i++) {
    float *row = features + fvg__row(i, width);
    memcpy(row, fvg_value(step.f) + fvg__row(i, d), bytes);
    if (third)
      memcpy(row + 2 * d, fvg_value(third) + fvg__row(i, d), bytes);
  }
  fvg_tape_clear(t);
  return is_made ? FVG_OK : fvg__method_failed(l);
}

/* Fills the rows of at most FVG__IMAGE_BATCH pictures, with zero-shot CLIP's feature as the second
   part; f_clip [FVG__IMAGE_BATCH, d] is scratch. */
static fvg_status fvg__learner_encode_parts(fvg_learner *l, const float *images, int n,
                                            float *f_clip, float *features) {
  fvg_clip *m = l->clip;
  const int d = m->embed_dim;
  const int width = fvg_learner_feature_width(m, l);

  const int own_tower = fvg__prompts_images(l);
  fvg_status s = own_tower ? fvg_clip_encode_images(m, f_clip, images, n) : FVG_OK;
  if (s) return s;
  if (own_tower) fvg_normalize_rows(f_clip, n, d);
  s = fvg__learner_encode(l, images, n, features);
  if (s) return s;

  const size_t bytes = (size_t)d * sizeof *features;
  for (int i = 0; i < n; i++) {
    float *row = features + fvg__row(i, width);
    memcpy(row + d, own_tower ? f_clip + fvg__row(i, d) : row, bytes);
  }
  return FVG_OK;
}

/* Encodes n images, a batch at a time -> rows of features [n, n_part d]; f and f_clip have unit
   length. */
FVG_DEF fvg_status fvg_learner_encode_images(fvg_clip *m, fvg_learner *l, float *features,
                                             const float *images, int n) {
  fvg_status s = l ? fvg__check_model(m, "the learner", l->clip) : FVG_OK;
  if (s) return s;
  const int n_part = fvg__learner_parts(l);
  if (n_part == 1) {
    s = fvg_clip_encode_images(m, features, images, n);
    if (!s) fvg_normalize_rows(features, n, m->embed_dim);
    return s;
  }
  if (n < 0)
    return fvg_fail(m->ctx, FVG_E_ARG, "%d images to encode", n);
  if (n > 0 && !images)
    return fvg__missing(m->ctx, "fvg_learner_encode_images", "images");
  if (n > 0 && !features)
    return fvg__missing(m->ctx, "fvg_learner_encode_images", "a place for the features");

  const int width = fvg_learner_feature_width(m, l);
  const size_t floats = fvg__image_floats(m);
  float *f_clip = FVG_NEW_ARRAY(m->ctx, float, fvg__row(FVG__IMAGE_BATCH, m->embed_dim));
  if (!f_clip) return FVG_E_NOMEM;

  for (int i = 0; !s && i < n; i += FVG__IMAGE_BATCH) {
    const int count = fvg__min(n - i, FVG__IMAGE_BATCH);
    float *rows = features + fvg__row(i, width);
    s = fvg__learner_encode_parts(l, images + (size_t)i * floats, count, f_clip, rows);
  }
  fvg_release(m->ctx, f_clip);
  return s ? s : fvg__check_features(m, "image", features, n, n_part);
}

/* ---- the parts of a row of features ---- */
FVG_DEF fvg_features fvg_learner_features(const fvg_clip *m, const fvg_learner *l,
                                          const float *row) {
  const int n_part = fvg__learner_parts(l);
  fvg_features x;
  x.f = row;
  const int has_head = l && fvg_learner_has_head(l);
  const float *third = n_part > 2 ? row + 2 * m->embed_dim : row;
  x.f_clip = n_part > 1 ? row + m->embed_dim : row;
  x.f_score = has_head ? row : third;
  x.f_raw = has_head ? third : NULL;
  return x;
}

/* Gathers one part of n rows as a matrix [n, d].  `part` is where the first row has it; the next
   row begins `width` values later.  Copies into `room` [n, d] unless the rows hold nothing else. */
static const float *fvg__gather_part(const float *part, int n, int d, int width, float *room) {
  if (width == d) return part;
  const size_t bytes = (size_t)d * sizeof *room;
  for (int i = 0; i < n; i++)
    memcpy(room + fvg__row(i, d), part + fvg__row(i, width), bytes);
  return room;
}

/* Gathers the parts of n rows of features as matrices [n, embed_dim].  They lie in `room` [n,
   width]; rows of one part stay where they are, and then room may be NULL. */
static fvg_features fvg__feature_matrices(const fvg_clip *m, const fvg_learner *l,
                                          const float *rows, int n, float *room) {
  const int d = m->embed_dim;
  const int width = fvg_learner_feature_width(m, l);
  const fvg_features row = fvg_learner_features(m, l, rows);
  fvg_features x;

  x.f = fvg__gather_part(row.f, n, d, width, room);
  x.f_clip = x.f;
  x.f_score = x.f;
  x.f_raw = NULL;
  const size_t values = fvg__row(n, d);
  if (row.f_clip != row.f)
    x.f_clip = fvg__gather_part(row.f_clip, n, d, width, room + values);
  if (row.f_score != row.f)
    x.f_score = fvg__gather_part(row.f_score, n, d, width, room + 2 * values);
  if (row.f_raw)
    x.f_raw = fvg__gather_part(row.f_raw, n, d, width, room + 2 * values);
  return x;
}

/* ---- what is tuned, and its model ---- */
/* Fails unless a tuned learner and FVG-PT's modules fit the model m; NULL where there is none. */
static fvg_status fvg__check_tuned(const fvg_clip *m, const fvg_learner *l,
                                   const fvg_fvgpt *fvgpt) {
  fvg_status s = l ? fvg__check_model(m, "the learner", l->clip) : FVG_OK;
  if (s || !fvgpt || fvgpt->desc.width == m->embed_dim) return s;
  return fvg_fail(m->ctx, FVG_E_SHAPE, "FVG-PT of width %d on a CLIP of width %d",
                  fvgpt->desc.width, m->embed_dim);
}

/* Notes that FVG-PT's modules score on another scale than the model, which is seldom meant. */
static void fvg__compare_scales(const fvg_clip *m, const fvg_fvgpt *f) {
  const double own = (double)f->desc.logit_scale;
  const double models = (double)m->logit_scale;
  if (fabs(own - models) <= 0.001 * models) return;
  fvg__log_once(m->ctx, FVG__SAID_SCALE, 1,
                "FVG-PT scores with a logit scale of %g, the model with %g: set "
                "fvg_fvgpt_desc.logit_scale", own, models);
}

/* ---- settings and values in files ---- */
static const char *const fvg__position_name[] = {"end", "middle", "front"};

enum { FVG__NUMBER_TEXT = 32 };         /* room for any double, with its closing 0 */

/* Reads a number of a checkpoint's metadata. */
static fvg_status fvg__get_number(fvg_ctx *c, const fvg_weights *w, const char *key, double *out) {
  const char *file = fvg_weights_file(w);
  const char *value = fvg_weights_metadata(w, key);
  if (!value)
    return fvg_fail(c, FVG_E_FORMAT, "%s: no setting %s", file, key);

  fvg_json j;
  fvg_status s = fvg_json_parse(c, &j, value, strlen(value), key);
  if (s == FVG_E_NOMEM) return s;
  const int is_number = !s && j.value[0].type == FVG_JSON_NUMBER;
  if (is_number) *out = j.value[0].number;
  fvg_json_free(c, &j);
  if (is_number) return FVG_OK;
  return fvg_fail(c, FVG_E_FORMAT, "%s: setting %s is \"%.40s\", not a number", file, key, value);
}

/* Reads a whole number from `low` to 65536 of a checkpoint's metadata. */
static fvg_status fvg__get_whole(fvg_ctx *c, const fvg_weights *w, const char *key, int low,
                                 int *out) {
  double x = 0;
  fvg_status s = fvg__get_number(c, w, key, &x);
  if (s) return s;
  if (!(x >= low && x <= 65536) || x != floor(x)) {
    return fvg_fail(c, FVG_E_FORMAT, "%s: %s must be a whole number from %d to 65536",
                    fvg_weights_file(w), key, low);
  }
  *out = (int)x;
  return FVG_OK;
}

/* Reads the values of a parameter; their shape in the file must be the parameter's. */
static fvg_status fvg__restore(fvg_ctx *c, fvg_weights *w, fvg_parameter *p) {
  fvg_tensor x;
  fvg_status s = fvg__check_shape(c, w, p->name, p->value.n_dim, p->value.dim);
  if (!s) s = fvg_weights_get(w, &x, p->name, FVG_F32);
  if (s) return s;
  memcpy(p->value.data, x.data, fvg_tensor_count(&x) * sizeof(float));
  fvg_tensor_free(c, &x);
  return FVG_OK;
}

/*==================================================================================================
 * CHAPTER 15  COOP: learned words in place of "a photo of a"
 *==================================================================================================
   Context optimisation (CoOp, Zhou et al. 2022, arXiv 2109.01134) replaces the words around a
   class's name by free vectors and learns these by gradient descent through the frozen text tower:

     end     [SOT] v_1 ... v_n  name . [EOT]
     middle  [SOT] v_1 ... v_n/2  name  v_n/2+1 ... v_n . [EOT]
     front   [SOT] name  v_1 ... v_n . [EOT]

     z = s f g^T,   L = CE(z, y)

     v_i [w]       context, shared by all classes, or each class's own (class-specific context, CSC)
     g [C,d]       text features, normalised
     f [B,d]       image features, normalised
     y [B]         labels
     s             m->logit_scale, already exponentiated

   New classes take the same vectors with their own names.  A name is tokenised together with the
   closing dot, as in the published code, because a name that ends in a dot ("st.") may merge with
   it; the position of the name is counted without the dot.

   Defaults (FVG-PT's fork): n = 4, shared, at the end, N(0, 0.02^2) unless words are given; SGD
   0.0035, 10 epochs, batch 4.  Originally 0.002, batch 32, 50 to 200 epochs.  Parameters: n w, that
   is 2,048 for ViT-B with n = 4. */

static fvg_status fvg__coop_init(fvg_learner *l) { return fvg__learner_ctx(l, "ctx"); }

static const fvg_method fvg__coop = {
  "CoOp",
  NULL,                              /* ctx_init: N(0, 0.02^2)                                    */
  FVG__ONE_EACH,
  4,                                 /* n_ctx                                                     */
  FVG_NEEDS_FEATURES,
  1,                                 /* n_part: f                                                 */
  0.0035f,                           /* lr                                                        */
  FVG_SGD,
  10,                                /* epochs                                                    */
  4,                                 /* batch                                                     */
  0,                                 /* crop_scale_min: 0.08                                      */
  1,                                 /* prompts_only                                              */
  {{NULL, 0, 0, 0}},                 /* option: none                                              */
  fvg__coop_init,
  fvg__ctx_vectors,
  NULL,                              /* scores: s f g^T                                           */
  NULL,                              /* f_score: f                                                */
  NULL,                              /* head: none                                                */
  NULL                               /* release: nothing                                          */
};

/*==================================================================================================
 * CHAPTER 16  KGCOOP: learned words that stay near "a photo of a"
 *==================================================================================================
   CoOp forgets: the words that fit the base classes best say little about new ones.
   Knowledge-guided CoOp (KgCoOp, Yao et al. 2023, arXiv 2303.13283) starts from "a photo of a" and
   keeps every class near what zero-shot CLIP makes of the data set's template:

     L = L_ce + W L_kg,   L_ce = CE(z, y),   L_kg = 1 - mean_c cos(g_c, g0_c)

     z [B,C]    scores s f g^T
     g [C,d]    text features, normalised
     g0 [C,d]   zero-shot CLIP's text features of the template, normalised, constant
     W          2 in FVG-PT's fork and here, 8 in the paper

   Defaults: n = 4; SGD 0.0035, 10 epochs, batch 4; W = 2.  Parameters: 2,048 for ViT-B, as CoOp. */

enum { FVG__KG_W };

/* A context, and g0 for the loss. */
static fvg_status fvg__ctx_and_prior_init(fvg_learner *l) {
  fvg_status s = fvg__learner_ctx(l, "ctx");
  return s ? s : fvg__learner_prior(l);
}

#ifndef FVGPT_NO_TRAINING  /* the loss */
static fvg_node *fvg__kgcoop_loss(fvg_learner *l, fvg__step *step) {
  const float *g0 = l->g_clip;
  const float W = (float)l->option[FVG__KG_W];
  fvg_node *L_kg = fvg__cosine_distance(step->g, g0);
  fvg_node *L_ce = fvg_cross_entropy(step->z, step->batch->label);
  return fvg_add(L_ce, fvg_scale(L_kg, W));
}
#endif /* FVGPT_NO_TRAINING */

static const fvg_method fvg__kgcoop = {
  "KgCoOp",
  "a photo of a",                    /* ctx_init                                                  */
  FVG__ONE_EACH,
  4,                                 /* n_ctx                                                     */
  FVG_NEEDS_FEATURES,
  1,                                 /* n_part: f                                                 */
  0.0035f,                           /* lr                                                        */
  FVG_SGD,
  10,                                /* epochs                                                    */
  4,                                 /* batch                                                     */
  0,                                 /* crop_scale_min: 0.08                                      */
  1,                                 /* prompts_only                                              */
  {
    {"W", 2, 0, 1e6},                /* FVG__KG_W                                                 */
    {NULL, 0, 0, 0}
  },
  fvg__ctx_and_prior_init,
  fvg__ctx_vectors,
  NULL,                              /* scores: s f g^T                                           */
  NULL,                              /* f_score: f                                                */
  NULL,                              /* head: none                                                */
  NULL                               /* release: nothing                                          */
};

/*==================================================================================================
 * CHAPTER 17  PROGRAD: no step against what CLIP knows
 *==================================================================================================
   ProGrad (Zhu et al. 2023, arXiv 2205.14865) trains CoOp, but never against what zero-shot CLIP
   knows.  It has two losses,

     L_ce = CE(z, y),   L_kl = - mean_b sum_c p0_bc ln p_bc

   (L_kl is KL(p0 || p) but for the entropy of p0, a constant), so each parameter has two gradients.
   In this chapter g_ce and g_kl are these gradients, not text features.  Where they disagree,
   g_ce . g_kl < 0, the part of g_ce that goes against CLIP is taken out:

     g = g_ce - lambda (g_ce . n) n,   n = g_kl / |g_kl|

     z, p [B,C]   scores s f g^T and their softmax
     z0, p0       zero-shot CLIP's, in the data set's template
     lambda       1; the published runs have 0.8 on Flowers, DTD and EuroSAT with 8 or 16 shots

   The context starts from the words of that template before the name, which stand in its last slots
   after zeros (n = 16; 0 is a vector of zeros, [a] the embedding of "a"):

     [SOT]  0 ... 0  [a] [photo] [of] [a]  name . [EOT]

   Defaults: n = 16 context vectors; SGD 0.002, 100 epochs, batch 32.  Parameters: 8,192 for
   ViT-B. */

enum { FVG__PROGRAD_LAMBDA };

#ifndef FVGPT_NO_TRAINING  /* the gradients */
/* Two walks back from the same scores z: g_kl [count] is copied from the parameter, then its
   gradient is that of L_ce.  KL(p0 || p) stands for L_kl, which it differs from by p0's entropy, a
   constant. */
static fvg_status fvg__prograd_both(fvg_learner *l, const fvg_batch *batch, float *g_kl,
                                    float *loss) {
  fvg_tape *t = l->tape;
  fvg_parameter *ctx = l->param[0];
  const int d = l->clip->embed_dim;
  const size_t bytes = fvg_tensor_count(&ctx->value) * sizeof *g_kl;

  fvg_node *f = fvg_const(t, batch->n, d, batch->f_clip);
  fvg_node *z = fvg__learner_scores(l, f, fvg__learner_texts(l, t, &l->packed));
  fvg_node *z0 = fvg__learner_scores(l, f, fvg_const(t, l->n_class, d, l->g_clip));
  fvg_node *p0 = fvg_softmax(z0, 1);
  fvg_status s = fvg_backward(fvg_mean(fvg_kl_rows(p0, z, 1)));
  if (s) return s;
  memcpy(g_kl, ctx->grad, bytes);
  memset(ctx->grad, 0, bytes);

  fvg_node *L_ce = fvg_cross_entropy(z, batch->label);
  s = fvg_backward(L_ce);
  if (!s) *loss = fvg_value(L_ce)[0];
  return s;
}

/* Puts g = g_ce - lambda (g_ce . n) n in the place of g_ce where g_ce . g_kl < 0. */
static void fvg__prograd_project(float *g_ce, const float *g_kl, size_t count, double lambda) {
  double dot = 0;                                /* g_ce . g_kl                                   */
  double norm2 = 0;                              /* |g_kl|^2                                      */
  for (size_t k = 0; k < count; k++) {
    dot += (double)g_ce[k] * (double)g_kl[k];
    norm2 += (double)g_kl[k] * (double)g_kl[k];
  }
  if (!(dot < 0)) return;

  const double share = lambda * dot / norm2;
  for (size_t k = 0; k < count; k++)
    g_ce[k] -= (float)(share * (double)g_kl[k]);
}

static fvg_status fvg__prograd_gradients(fvg_learner *l, const fvg_batch *batch, float *loss) {
  fvg_ctx *c = l->clip->ctx;
  fvg_parameter *ctx = l->param[0];
  const size_t count = fvg_tensor_count(&ctx->value);
  float *g_kl = FVG_NEW_ARRAY(c, float, count);
  if (!g_kl) return FVG_E_NOMEM;

  fvg_status s = fvg__prograd_both(l, batch, g_kl, loss);
  if (s && l->tape->failed) s = c->status;
  if (!s)
    fvg__prograd_project(ctx->grad, g_kl, count, l->option[FVG__PROGRAD_LAMBDA]);
  fvg_release(c, g_kl);
  return s;
}
#endif /* FVGPT_NO_TRAINING */

static const fvg_method fvg__prograd = {
  "ProGrad",
  NULL,                              /* ctx_init: the template's words before {}                  */
  FVG__LAST_SLOTS,
  16,                                /* n_ctx                                                     */
  FVG_NEEDS_FEATURES,
  1,                                 /* n_part: f                                                 */
  0.002f,                            /* lr                                                        */
  FVG_SGD,
  100,                               /* epochs                                                    */
  32,                                /* batch                                                     */
  0,                                 /* crop_scale_min: 0.08                                      */
  1,                                 /* prompts_only                                              */
  {
    {"lambda", 1, 0, 1e6},           /* FVG__PROGRAD_LAMBDA                                       */
    {NULL, 0, 0, 0}
  },
  fvg__ctx_and_prior_init,
  fvg__ctx_vectors,
  NULL,                              /* scores: s f g^T                                           */
  NULL,                              /* f_score: f                                                */
  NULL,                              /* head: none                                                */
  NULL                               /* release: nothing                                          */
};

/*==================================================================================================
 * CHAPTER 18  COCOOP: words for every picture
 *==================================================================================================
   Conditional CoOp (CoCoOp, Zhou et al. 2022, arXiv 2203.05557) lets the words depend on the
   picture.  A small net, the meta-net, turns the picture's feature into one vector, which is added
   to all of the context:

     pi = W2 relu(W1 f + b1) + b2,   v_i(x) = v_i + pi(x)
     L = CE(z, y),   z_bc = s f_b g_c(x_b)^T

     W1 [d/16,d], W2 [w,d/16]   the meta-net
     f [B,d]                    image features, normalised
     g(x) [C,d]                 the classes in the words made for picture x

   So every picture needs a pass of all classes through the text tower.  There are no text features
   of classes alone, which FVG-PT would need.

   Defaults: n = 4 from "a photo of a"; SGD 0.002, 10 epochs, batch 1.  Parameters: 2,048 + 33,312
   for ViT-B/16. */

enum { FVG__COCOOP_CTX, FVG__COCOOP_LINEAR1, FVG__COCOOP_LINEAR2 = FVG__COCOOP_LINEAR1 + 2 };

static fvg_status fvg__cocoop_init(fvg_learner *l) {
  const int d = l->clip->embed_dim;
  const int w = l->clip->text.width;
  const int hidden = d < 16 ? 1 : d / 16;

  fvg_status s = fvg__learner_ctx(l, "prompt_learner.ctx");
  if (!s)
    s = fvg__learner_linear(l, "prompt_learner.meta_net.linear1", hidden, d);
  if (!s)
    s = fvg__learner_linear(l, "prompt_learner.meta_net.linear2", w, hidden);
  return s;
}

/* Scores f [B,d] -> z [B,C], one row after the other, each with its own texts; with f_words [1,d],
   all in the words of that picture. */
static fvg_node *fvg__cocoop_scores(fvg_learner *l, fvg_tape *t, fvg__packed *packed, fvg_node *f,
                                    fvg_node *f_words) {
  fvg_node *of = f_words ? f_words : f;
  fvg_node *hidden = fvg_relu(fvg__learner_layer(l, of, FVG__COCOOP_LINEAR1));
  fvg_node *pi = fvg__learner_layer(l, hidden, FVG__COCOOP_LINEAR2);
  if (!pi) return NULL;

  fvg_node *z = NULL;
  for (int b = 0; b < of->rows; b++) {
    fvg_node *pi_b = fvg_gather(pi, &b, 1);
    fvg_node *v = fvg_add(fvg__ctx_vectors(l, t, FVG__TEXT), pi_b);
    fvg_node *g = fvg_normalize(fvg__text_features(t, packed, v));
    fvg_node *z_b = fvg__learner_scores(l, f_words ? f : fvg_gather(f, &b, 1), g);
    z = b ? fvg_concat(z, z_b) : z_b;
  }
  return z;
}

static const fvg_method fvg__cocoop = {
  "CoCoOp",
  "a photo of a",                    /* ctx_init                                                  */
  FVG__ONE_EACH,
  4,                                 /* n_ctx                                                     */
  FVG_NEEDS_FEATURES,
  1,                                 /* n_part: f                                                 */
  0.002f,                            /* lr                                                        */
  FVG_SGD,
  10,                                /* epochs                                                    */
  1,                                 /* batch                                                     */
  0,                                 /* crop_scale_min: 0.08                                      */
  0,                                 /* prompts_only: there is the meta-net                       */
  {{NULL, 0, 0, 0}},                 /* option: none                                              */
  fvg__cocoop_init,
  fvg__ctx_vectors,                  /* vectors: before pi is added                               */
  fvg__cocoop_scores,
  NULL,                              /* f_score: f                                                */
  NULL,                              /* head: none                                                */
  NULL                               /* release: nothing                                          */
};

/*==================================================================================================
 * CHAPTER 19  PROMPTSRC: deep prompts in both towers, held near zero-shot CLIP
 *==================================================================================================
   PromptSRC (Khattak et al. 2023, arXiv 2307.06948) learns vectors in both towers, independent of
   one another: context words and n rows of the image from the start, and new ones for the same rows
   before each of the blocks 1..depth-1.  So many parameters forget what CLIP knew; three terms and
   an average hold them:

     L = L_ce + lambda_1 L_text + lambda_2 L_image + L_logits

     L_ce     = CE(z, y)
     L_text   = mean_ck |g - g0|
     L_image  = mean_bk |f - f0|
     L_logits = KL(p0 || p) / C         (mean over the batch)

     f, f0 [B,d]   image features of the prompted tower and of zero-shot CLIP, normalised
     g, g0 [C,d]   text features; zero-shot CLIP's are averaged over 60 sentences, then normalised
     p, p0 [B,C]   softmax(z) and softmax(z0), z = s f g^T, z0 = s f0 g0^T

   The average (Gaussian prompt aggregation, GPA) becomes the learned prompts P after the last of E
   epochs:

     P = sum_e w_e P_e,   e = 1..E,   w_e = exp(-(e - mu)^2 / (2 sigma^2)), divided by their sum

   Defaults (FVG-PT's fork): n = 4 in both towers, depth 9; lambda_1 25, lambda_2 10; SGD 0.0025, 10
   epochs, batch 32 (originally 20 epochs, batch 4); mu 15, sigma 1.  These two were published for
   E = 20; with E = 10 almost all the weight falls on the last epoch, so P is hardly an average.
   Parameters: 18,432 + 27,648 for ViT-B/16. */

enum {
  FVG__SRC_CTX,
  FVG__SRC_TEXT_DEPTH,
  FVG__SRC_IMAGE_DEPTH,
  FVG__SRC_LAMBDA_1,
  FVG__SRC_LAMBDA_2,
  FVG__SRC_MU,
  FVG__SRC_SIGMA
};

#ifndef FVGPT_NO_TRAINING  /* g0 of the loss */
/* The mean [C,d] over the sentences of the classes' features; these are not normalised. */
static fvg_status fvg__sentence_mean(const fvg_learner *l, float *mean) {
  fvg_clip *m = l->clip;
  const char *const *name = (const char *const *)l->class_name;
  const size_t count = fvg__row(l->n_class, m->embed_dim);
  float *one = FVG_NEW_ARRAY(m->ctx, float, count);
  if (!one) return FVG_E_NOMEM;

  fvg_status s = FVG_OK;
  memset(mean, 0, count * sizeof *mean);
  for (int i = 0; !s && i < FVG__N_SENTENCE; i++) {
    s = fvg__encode_filled(m, fvg__sentence[i], name, l->n_class, one);
    for (size_t k = 0; k < count; k++)
      mean[k] += one[k] / (float)FVG__N_SENTENCE;
  }
  fvg_release(m->ctx, one);
  return s;
}

/* g0 [C,d]; NULL: it could not be computed.  The first step asks for it, so a learner that is only
   tested need not encode 60 sentences for each class. */
static const float *fvg__sentence_prior(fvg_learner *l) {
  if (l->g_sentence) return l->g_sentence;
  fvg_clip *m = l->clip;
  float *g0 = FVG_NEW_ARRAY(m->ctx, float, fvg__row(l->n_class, m->embed_dim));
  if (!g0) return NULL;

  if (fvg__sentence_mean(l, g0)) {
    fvg_release(m->ctx, g0);
    return NULL;
  }
  fvg_normalize_rows(g0, l->n_class, m->embed_dim);
  l->g_sentence = g0;
  return g0;
}
#endif /* FVGPT_NO_TRAINING */

/* Gives blocks 1..depth-1 of a tower n vectors [n, w] of their own; depth counts the start.  `form`
   makes the parameters' names of the block. */
static fvg_status fvg__deep_prompts(fvg_learner *l, fvg__tower tower, const char *form, int depth,
                                    int n, int w) {
  const fvg_clip *m = l->clip;
  const int is_text = tower == FVG__TEXT;
  const int n_block = is_text ? m->text.transformer.n_layer : m->vision.transformer.n_layer;
  if (depth > n_block) depth = n_block;

  for (int block = 1; block < depth; block++) {
    char name[96];
    fvg__print(name, sizeof name, form, block);
    fvg_status s = fvg__learner_prompts(l, name, n, w);
    if (s) return s;
  }

  l->plan[tower].n_prompt = n;
  l->plan[tower].first_layer = 1;
  l->plan[tower].n_layer = depth - 1;
  return FVG_OK;
}

/* Keeps for every parameter the sum over epochs, which a resumed run must know. */
static fvg_status fvg__average_init(fvg_learner *l) {
  for (int i = 0; i < l->n_param; i++) {
    const fvg_parameter *p = l->param[i];
    const int n_dim = p->value.n_dim;
    char name[96];
    fvg__print(name, sizeof name, "average.%s", p->name);
    if (!fvg__learner_list(l, &l->state, &l->n_state, name, n_dim, p->value.dim))
      return FVG_E_NOMEM;
  }
  return FVG_OK;
}

/* Parameters: ctx and the text's deep prompts, then the image's prompts from the start on. */
static fvg_status fvg__promptsrc_prompts(fvg_learner *l) {
  const int w_text = l->clip->text.width;
  const int w_image = l->clip->vision.width;
  const int text_depth = (int)l->option[FVG__SRC_TEXT_DEPTH];
  const int image_depth = (int)l->option[FVG__SRC_IMAGE_DEPTH];
  const int n_image = (int)l->option[FVG__SRC_CTX];

  fvg_status s = fvg__learner_ctx(l, "prompt_learner.ctx");
  if (!s)
    s = fvg__deep_prompts(l, FVG__TEXT, "text_encoder.transformer.resblocks.%d.VPT_shallow",
                          text_depth, l->desc.n_ctx, w_text);

  if (!s)
    s = fvg__learner_prompts(l, "image_encoder.VPT", n_image, w_image);
  l->plan[FVG__IMAGE].n_start = n_image;
  if (!s)
    s = fvg__deep_prompts(l, FVG__IMAGE, "image_encoder.transformer.resblocks.%d.VPT_shallow",
                          image_depth, n_image, w_image);
  return s;
}

static fvg_status fvg__promptsrc_init(fvg_learner *l) {
  fvg_status s = fvg__promptsrc_prompts(l);
  return s ? s : fvg__average_init(l);
}

/* Stacks a tower's parameters, one below the other. */
static fvg_node *fvg__promptsrc_vectors(fvg_learner *l, fvg_tape *t, fvg__tower tower) {
  const int n_text = 1 + l->plan[FVG__TEXT].n_layer;
  const int first = tower == FVG__TEXT ? 0 : n_text;
  const int end = first + 1 + l->plan[tower].n_layer;

  fvg_node *v = fvg_param(t, l->param[first]);
  for (int i = first + 1; i < end; i++)
    v = fvg_concat(v, fvg_param(t, l->param[i]));
  return v;
}

#ifndef FVGPT_NO_TRAINING  /* the loss and the average */
/* Computes mean |x - y| of all numbers, y being a constant of x's shape, by
   |a| = relu(a) + relu(-a). */
static fvg_node *fvg__mean_distance(fvg_node *x, const float *y) {
  if (!x) return NULL;
  fvg_node *minus_y = fvg_scale(fvg_const(x->tape, x->rows, x->cols, y), -1);
  fvg_node *difference = fvg_add(x, minus_y);
  fvg_node *negative = fvg_relu(fvg_scale(difference, -1));
  fvg_node *positive = fvg_relu(difference);
  return fvg_mean(fvg_add(positive, negative));
}

/* L_ce + lambda_1 L_text + lambda_2 L_image + L_logits, with the cross-entropy as a node. */
static fvg_node *fvg__promptsrc_terms(fvg_learner *l, fvg__step *step, fvg_node *L_ce) {
  const fvg_batch *batch = step->batch;
  const int d = l->clip->embed_dim;
  const float lambda_1 = (float)l->option[FVG__SRC_LAMBDA_1];
  const float lambda_2 = (float)l->option[FVG__SRC_LAMBDA_2];
  const float *g0 = fvg__sentence_prior(l);
  if (!g0) return fvg__give_up(step->tape);

  fvg_node *f0 = fvg_const(step->tape, batch->n, d, batch->f_clip);
  fvg_node *z0 = fvg__learner_scores(l, f0, fvg_const(step->tape, l->n_class, d, g0));
  fvg_node *p0 = fvg_softmax(z0, 1);

  fvg_node *L_text = fvg__mean_distance(step->g, g0);
  fvg_node *L = fvg_add(L_ce, fvg_scale(L_text, lambda_1));
  fvg_node *L_image = fvg__mean_distance(step->f, batch->f_clip);
  L = fvg_add(L, fvg_scale(L_image, lambda_2));
  fvg_node *kl = fvg_mean(fvg_kl_rows(p0, step->z, 1));
  return fvg_add(L, fvg_scale(kl, 1 / (float)l->n_class));
}

static fvg_node *fvg__promptsrc_loss(fvg_learner *l, fvg__step *step) {
  return fvg__promptsrc_terms(l, step, fvg_cross_entropy(step->z, step->batch->label));
}

/* w_e of epoch e = epoch + 1.  All weights are taken relative to the greatest, which may itself be
   too small to hold when mu is far from 1..E. */
static double fvg__average_weight(const fvg_learner *l, int epoch, int n_epochs) {
  const double mu = l->option[FVG__SRC_MU];
  const double sigma = l->option[FVG__SRC_SIGMA];
  double nearest = floor(mu + 0.5);              /* the epoch of the greatest weight              */
  if (mu < 1) nearest = 1;
  else if (mu > n_epochs) nearest = n_epochs;
  const double least = (nearest - mu) / sigma;

  double sum = 0;
  double own = 0;
  for (int e = 1; e <= n_epochs; e++) {
    const double x = (e - mu) / sigma;
    const double w = exp((least * least - x * x) / 2);
    sum += w;
    if (e == epoch + 1) own = w;
  }
  return own / sum;
}

/* Adds w_e P_e to the sum; after the last epoch the sum becomes the prompts. */
static fvg_status fvg__promptsrc_epoch(fvg_learner *l, int epoch, int n_epochs) {
  const float w = (float)fvg__average_weight(l, epoch, n_epochs);
  const int is_last = epoch == n_epochs - 1;

  for (int i = 0; i < l->n_param; i++) {
    float *P = (float *)l->param[i]->value.data;
    float *sum = (float *)l->state[i]->value.data;
    const size_t count = fvg_tensor_count(&l->param[i]->value);
    for (size_t k = 0; k < count; k++)
      sum[k] = (epoch ? sum[k] : 0) + w * P[k];
    if (is_last) memcpy(P, sum, count * sizeof *P);
  }
  return FVG_OK;
}
#endif /* FVGPT_NO_TRAINING */

static const fvg_method fvg__promptsrc = {
  "PromptSRC",
  "a photo of a",                    /* ctx_init                                                  */
  FVG__FIRST_FEW,
  4,                                 /* n_ctx                                                     */
  FVG_NEEDS_FEATURES | FVG_NEEDS_PIXELS,
  2,                                 /* n_part: f, f_clip                                         */
  0.0025f,                           /* lr                                                        */
  FVG_SGD,
  10,                                /* epochs                                                    */
  32,                                /* batch                                                     */
  0,                                 /* crop_scale_min: 0.08                                      */
  1,                                 /* prompts_only                                              */
  {
    {"n_ctx_vision", 4, 1, 1000},    /* FVG__SRC_CTX                                              */
    {"depth_text", 9, 1, 1000},      /* FVG__SRC_TEXT_DEPTH                                       */
    {"depth_vision", 9, 1, 1000},    /* FVG__SRC_IMAGE_DEPTH                                      */
    {"text_loss_weight", 25, 0, 1e6},            /* FVG__SRC_LAMBDA_1                             */
    {"image_loss_weight", 10, 0, 1e6},           /* FVG__SRC_LAMBDA_2                             */
    {"gpa_mean", 15, -1e6, 1e6},     /* FVG__SRC_MU                                               */
    {"gpa_std", 1, 1e-3, 1e6},       /* FVG__SRC_SIGMA                                            */
    {NULL, 0, 0, 0}
  },
  fvg__promptsrc_init,
  fvg__promptsrc_vectors,
  NULL,                              /* scores: s f g^T                                           */
  NULL,                              /* f_score: f                                                */
  NULL,                              /* head: none                                                */
  NULL                               /* release: nothing                                          */
};

/*==================================================================================================
 * CHAPTER 20  MAPLE: image prompts projected from text prompts
 *==================================================================================================
   MaPLe (Khattak et al. 2023, arXiv 2210.03117) prompts both towers as deeply as PromptSRC, but
   couples them: only the text's vectors are free, and the image's are made of them by linear
   layers, one for each depth,

     Q_l = P_l A_l^T + b_l,   l = 0..depth-1
     L = CE(z, y),   z = s f g^T

     P_l [n,w_text]    rows 1..n of the text before block l; P_0 is the context, which starts from
                       the words "a photo" (what follows them, "of a", stays as words)
     Q_l [n,w_image]   the picture's prompts before block l
     A_l, b_l          [w_image,w_text], [w_image]

   Defaults: n = 2, depth 9; SGD 0.0035, 5 epochs, batch 4.  Parameters: 3,555,072 for ViT-B/16. */

enum { FVG__MAPLE_DEPTH };                       /* an option                                     */

/* The parameters are P_0, A_0, b_0, P_1 .. P_(depth-1), and then A_1, b_1 .. A_(depth-1),
   b_(depth-1). */
enum { FVG__MAPLE_P0 = 0, FVG__MAPLE_A0 = 1, FVG__MAPLE_P1 = 3 };

/* Both towers get the same plan: vectors from the start and before blocks 1..depth-1. */
static fvg_status fvg__maple_init(fvg_learner *l) {
  const fvg_clip *m = l->clip;
  const int n = l->desc.n_ctx;
  int depth = (int)l->option[FVG__MAPLE_DEPTH];
  depth = fvg__min(depth, m->vision.transformer.n_layer);
  depth = fvg__min(depth, m->text.transformer.n_layer);
  char name[96];

  fvg_status s = fvg__learner_ctx(l, "prompt_learner.ctx");
  if (!s)
    s = fvg__learner_linear(l, "prompt_learner.proj", m->vision.width, m->text.width);
  for (int i = 0; !s && i < depth - 1; i++) {
    fvg__print(name, sizeof name, "prompt_learner.compound_prompts_text.%d", i);
    s = fvg__learner_prompts(l, name, n, m->text.width);
  }
  for (int i = 0; !s && i < depth - 1; i++) {
    fvg__print(name, sizeof name, "prompt_learner.compound_prompt_projections.%d", i);
    s = fvg__learner_linear(l, name, m->vision.width, m->text.width);
  }

  l->plan[FVG__TEXT].first_layer = 1;
  l->plan[FVG__TEXT].n_layer = depth - 1;
  l->plan[FVG__IMAGE] = l->plan[FVG__TEXT];
  return s;
}

/* Stacks P_0, P_1, ... for the text, or Q_0, Q_1, ... for the image. */
static fvg_node *fvg__maple_vectors(fvg_learner *l, fvg_tape *t, fvg__tower tower) {
  const int is_text = tower == FVG__TEXT;
  const int n_deep = l->plan[FVG__TEXT].n_layer;
  const int first_layer = FVG__MAPLE_P1 + n_deep;          /* A_1                                 */

  fvg_node *P_0 = fvg_param(t, l->param[FVG__MAPLE_P0]);
  fvg_node *v = is_text ? P_0 : fvg__learner_layer(l, P_0, FVG__MAPLE_A0);
  for (int i = 0; i < n_deep; i++) {
    fvg_node *P_l = fvg_param(t, l->param[FVG__MAPLE_P1 + i]);
    v = fvg_concat(v, is_text ? P_l : fvg__learner_layer(l, P_l, first_layer + 2 * i));
  }
  return v;
}

static const fvg_method fvg__maple = {
  "MaPLe",
  "a photo of a",                    /* ctx_init                                                  */
  FVG__FIRST_FEW,
  2,                                 /* n_ctx                                                     */
  FVG_NEEDS_PIXELS,
  2,                                 /* n_part: f, f_clip                                         */
  0.0035f,                           /* lr                                                        */
  FVG_SGD,
  5,                                 /* epochs                                                    */
  4,                                 /* batch                                                     */
  0,                                 /* crop_scale_min: 0.08                                      */
  0,                                 /* prompts_only: there are the layers                        */
  {
    {"prompt_depth", 9, 1, 1000},    /* FVG__MAPLE_DEPTH                                          */
    {NULL, 0, 0, 0}
  },
  fvg__maple_init,
  fvg__maple_vectors,
  NULL,                              /* scores: s f g^T                                           */
  NULL,                              /* f_score: f                                                */
  NULL,                              /* head: none                                                */
  NULL                               /* release: nothing                                          */
};

/*==================================================================================================
 * CHAPTER 21  DAPT: foreground and background views for MaPLe
 *==================================================================================================
   DAPT (Zhang et al. 2025, arXiv 2508.00395) trains MaPLe's parameters with the picture cut in two
   by its mask, and has sentences about backgrounds ("a clean origami sky.") pass the prompted text
   tower beside the classes.  First the picture is pulled to its foreground and pushed off its
   background, then the texts learn both:

     epochs 0..6   L = L_cls + 0.8 L_v
     epochs 7..    L = L_cls + 0.1 L_f + 0.5 L_b

     L_cls = CE(s f G^T, y)
     L_v   = mean_b max(0, |f - f_F| - |f - f_B| + 1.5)      (f_F and f_B are constants)
     L_f   = CE(s f_F G^T, y)                                (f_F is a constant)
     L_b   = CE(s f_B G_b^T, yhat)

     f, f_F, f_B [B,d]   features of the picture x, its foreground x m and its background x (1 - m),
                         with the same prompts
     G [C,d]             the classes
     G_b [32,d]          the backgrounds;  yhat [B]: the one that scores best

   The published code appends 32 backgrounds and cuts off 25: seven stay among the classes.  Here
   all 32 are cut off; the option released_slicing brings the published slicing back in training
   (the published classifier keeps the seven in the test as well, ours does not).

   Defaults: MaPLe's n = 2, depth 9; SGD 0.0035, 10 epochs, batch 4 (with the 5 epochs of the other
   published configuration the second phase would never come).  Parameters: as MaPLe. */

/* MaPLe's options and then these. */
enum {
  FVG__DAPT_MARGIN = FVG__MAPLE_DEPTH + 1,
  FVG__DAPT_WEIGHT_V,
  FVG__DAPT_WEIGHT_F,
  FVG__DAPT_WEIGHT_B,
  FVG__DAPT_SECOND_PHASE,
  FVG__DAPT_RELEASED
};

/* Twenty-five backgrounds of pictures and, from the 26th on, seven objects found around food.  The
   published code leaves the first seven among the classes. */
static const char *const fvg__background[] = {
  "ground", "land", "grass", "tree", "building", "wall", "sky",
  "lake", "water", "river", "sea", "railway", "railroad", "keyboard", "helmet", "cloud", "house",
  "mountain", "ocean", "road", "rock", "street", "valley", "bridge", "sign",
  "table", "forks", "tablecloth", "hands", "spoon", "glasses", "dishes"
};
enum {
  FVG__N_BACKGROUND = (int)(sizeof fvg__background / sizeof *fvg__background),
  FVG__N_LEFT = 7
};

/* l->own holds the backgrounds as packed texts, which only the loss needs. */
static fvg_status fvg__dapt_init(fvg_learner *l) {
  fvg_status s = fvg__maple_init(l);
  if (s || !FVG__TRAINS) return s;
  fvg_clip *m = l->clip;
  fvg__packed *packed = FVG_NEW(m->ctx, fvg__packed);
  if (!packed) return FVG_E_NOMEM;
  l->own = packed;

  fvg__texts x;
  s = fvg__texts_new(m, &x, FVG__N_BACKGROUND);
  for (int i = 0; !s && i < FVG__N_BACKGROUND; i++)
    s = fvg__texts_add_filled(m, &x, "a clean origami {}.", fvg__background[i]);
  if (!s)
    s = fvg__pack(m, packed, &x, l->desc.chunk_rows, &l->plan[FVG__TEXT]);
  fvg__texts_free(m->ctx, &x);
  return s;
}

static void fvg__dapt_release(fvg_learner *l) {
  fvg_ctx *c = l->clip->ctx;
  if (l->own)
    fvg__packed_free(c, (fvg__packed *)l->own);
  fvg_release(c, l->own);
}

#ifndef FVGPT_NO_TRAINING  /* the loss */
/* Rows first .. first + n - 1 of x; n is at most FVG__N_BACKGROUND. */
static fvg_node *fvg__some_rows(fvg_node *x, int first, int n) {
  int row[FVG__N_BACKGROUND];
  for (int i = 0; i < n; i++)
    row[i] = first + i;
  return fvg_gather(x, row, n);
}

/* |x - y| of each row, [n,1], with 1e-6 added to each difference as PyTorch's triplet loss does.
   With u = v / |v| as a constant, |v| = v . u has the right value and the right gradient. */
static fvg_node *fvg__row_distance(fvg_node *x, fvg_node *y) {
  if (!x || !y) return NULL;
  fvg_node *epsilon = fvg__constant_row(x->tape, 1, 1e-6f);
  fvg_node *ones = fvg__constant_row(x->tape, x->cols, 1);
  if (!epsilon || !ones) return NULL;

  fvg_node *v = fvg_add(fvg_add(x, fvg_scale(y, -1)), epsilon);
  fvg_node *u = fvg_detach(fvg_normalize(v));
  return fvg_linear(fvg_mul(v, u), ones, NULL);
}

/* L_v = mean_b max(0, |f - f_F| - |f - f_B| + margin). */
static fvg_node *fvg__pull_push(fvg_node *f, fvg_node *f_F, fvg_node *f_B, float margin) {
  fvg_node *to_B = fvg__row_distance(f, f_B);
  fvg_node *minus_to_B = fvg_scale(to_B, -1);
  fvg_node *to_F = fvg__row_distance(f, f_F);
  fvg_node *gap = fvg_add(to_F, minus_to_B);
  if (!gap) return NULL;
  return fvg_mean(fvg_relu(fvg_add(gap, fvg__constant_row(gap->tape, 1, margin))));
}

/* Computes CE(z, yhat), where yhat is each row's own best column. */
static fvg_node *fvg__self_labelled(fvg_node *z) {
  if (!z) return NULL;
  int *yhat = (int *)fvg__tape_alloc(z->tape, (size_t)z->rows * sizeof *yhat);
  if (!yhat) return NULL;

  for (int b = 0; b < z->rows; b++) {
    const float *row = fvg_value(z) + fvg__row(b, z->cols);
    yhat[b] = 0;
    for (int k = 1; k < z->cols; k++)
      if (row[k] > row[yhat[b]])
        yhat[b] = k;
  }
  return fvg_cross_entropy(z, yhat);
}

/* Makes the pixels x (1 - m) from those of x and of x m: one row [3, size, size] a picture. */
static fvg_node *fvg__background_pixels(const fvg_learner *l, fvg_tape *t, const fvg_batch *batch) {
  const size_t floats = fvg__image_floats(l->clip);
  fvg_node *x = fvg_zeros(t, batch->n, (int)floats);
  if (!x) return NULL;

  float *background = fvg_fill(x);
  const size_t count = (size_t)batch->n * floats;
  for (size_t k = 0; k < count; k++)
    background[k] = batch->pixels[k] - batch->pixels_fg[k];
  return x;
}

/* Encodes pictures by the prompted tower as constants, features [n,d]. */
static fvg_node *fvg__constant_images(fvg_learner *l, fvg_tape *t, const float *pixels, int n) {
  t->no_grad++;
  fvg_node *f = fvg__learner_images(l, t, pixels, n, NULL);
  t->no_grad--;
  return f;
}

/* L_cls + 0.8 L_v, or L_cls + 0.1 L_f + 0.5 L_b in the second phase.  Only in the second phase do
   gradients flow through the background's feature. */
static fvg_node *fvg__dapt_loss(fvg_learner *l, fvg__step *step) {
  fvg_tape *t = step->tape;
  const fvg_batch *batch = step->batch;
  const int *y = batch->label;
  const double *option = l->option;
  const int is_second = batch->epoch >= (int)option[FVG__DAPT_SECOND_PHASE];
  const int is_released = option[FVG__DAPT_RELEASED] != 0;

  fvg_node *G = step->g;
  fvg_node *G_b = NULL;
  if (is_second || is_released)
    G_b = fvg__learner_texts(l, t, (fvg__packed *)l->own);
  if (is_released) {
    G = fvg_concat(G, fvg__some_rows(G_b, 0, FVG__N_LEFT));
    G_b = fvg__some_rows(G_b, FVG__N_LEFT, FVG__N_BACKGROUND - FVG__N_LEFT);
  }
  fvg_node *L_cls = fvg_cross_entropy(fvg__learner_scores(l, step->f, G), y);

  fvg_node *x_B = fvg__background_pixels(l, t, batch);
  if (!x_B) return NULL;
  fvg_node *f_F = fvg__constant_images(l, t, batch->pixels_fg, batch->n);
  if (!is_second) {
    fvg_node *f_B = fvg__constant_images(l, t, fvg_value(x_B), batch->n);
    fvg_node *L_v = fvg__pull_push(step->f, f_F, f_B, (float)option[FVG__DAPT_MARGIN]);
    return fvg_add(L_cls, fvg_scale(L_v, (float)option[FVG__DAPT_WEIGHT_V]));
  }

  fvg_node *f_B = fvg__learner_images(l, t, fvg_value(x_B), batch->n, NULL);
  fvg_node *L_f = fvg_cross_entropy(fvg__learner_scores(l, f_F, G), y);
  fvg_node *L = fvg_add(L_cls, fvg_scale(L_f, (float)option[FVG__DAPT_WEIGHT_F]));
  fvg_node *L_b = fvg__self_labelled(fvg__learner_scores(l, f_B, G_b));
  return fvg_add(L, fvg_scale(L_b, (float)option[FVG__DAPT_WEIGHT_B]));
}
#endif /* FVGPT_NO_TRAINING */

static const fvg_method fvg__dapt = {
  "DAPT",
  "a photo of a",                    /* ctx_init                                                  */
  FVG__FIRST_FEW,
  2,                                 /* n_ctx                                                     */
  FVG_NEEDS_PIXELS | FVG_NEEDS_FOREGROUND,
  2,                                 /* n_part: f, f_clip                                         */
  0.0035f,                           /* lr                                                        */
  FVG_SGD,
  10,                                /* epochs                                                    */
  4,                                 /* batch                                                     */
  0,                                 /* crop_scale_min: 0.08                                      */
  0,                                 /* prompts_only: there are MaPLe's layers                    */
  {
    {"prompt_depth", 9, 1, 1000},    /* FVG__MAPLE_DEPTH                                          */
    {"margin", 1.5, 0, 1e6},         /* FVG__DAPT_MARGIN                                          */
    {"pull_push_weight", 0.8, 0, 1e6},           /* FVG__DAPT_WEIGHT_V                            */
    {"foreground_weight", 0.1, 0, 1e6},          /* FVG__DAPT_WEIGHT_F                            */
    {"background_weight", 0.5, 0, 1e6},          /* FVG__DAPT_WEIGHT_B                            */
    {"second_phase", 7, 0, 1e6},     /* FVG__DAPT_SECOND_PHASE                                    */
    {"released_slicing", 0, 0, 1},   /* FVG__DAPT_RELEASED                                        */
    {NULL, 0, 0, 0}
  },
  fvg__dapt_init,
  fvg__maple_vectors,
  NULL,                              /* scores: s f g^T                                           */
  NULL,                              /* f_score: f                                                */
  NULL,                              /* head: none                                                */
  fvg__dapt_release
};

/*==================================================================================================
 * CHAPTER 22  MMRL: representation tokens that both towers take in late
 *==================================================================================================
   MMRL (Guo and Gu 2025, arXiv 2503.08497) learns K tokens in a space of their own.  From the
   middle of each tower on (the 6th of 12 blocks), every block gets its own projection of the
   tokens, by a linear layer of its own.  They stand after the class token, or [SOT], and replace
   those of the block before.  Earlier blocks, and so what CLIP knows of edges and words, stay
   untouched, and the text is the data set's template, not learned.  A picture has two features,

     f   = norm(LN_post(class row) P)
     f_r = norm(mean_K(LN_post(token rows)) P_r)

     L = alpha CE(z, y) + (1 - alpha) CE(z_r, y)
         + lambda (1 - mean_b cos(f, f0)) + lambda (1 - mean_c cos(g, g0))

     R [K,D]          the tokens;  what stands in a block is R A^T + b, A [w,D]
     P, P_r [w,d]     CLIP's projection, and one of the tokens' own, learned
     z, z_r [B,C]     s f g^T and s f_r g^T
     f0, g0           zero-shot CLIP's features of the same pictures and classes

   Base classes are scored by alpha z + (1 - alpha) z_r = s (alpha f + (1 - alpha) f_r) g^T, new
   classes by z alone, for the tokens know base classes only.

   Defaults (FVG-PT's fork): K = 5, D = 512, alpha 0.7, lambda 1; AdamW 0.001, 10 epochs, batch 4,
   crops of at least half of the picture.  (Originally lambda from 0.01 to 7 by data set, and D =
   2048 on EuroSAT.)  Parameters: 4,992,256 for ViT-B/16. */

enum {
  FVG__MMRL_K,
  FVG__MMRL_D,
  FVG__MMRL_FIRST,                               /* of the blocks, from 1; 0: the tower's middle  */
  FVG__MMRL_ALPHA,
  FVG__MMRL_LAMBDA
};

enum { FVG__MOST_READ = 1000 };                  /* tokens, all of which are read in the end      */

/* The parameters: R, the image's layers A, b, the text's layers A, b, P_r. */
enum { FVG__MMRL_R = 0, FVG__MMRL_LAYERS = 1 };

static void fvg__copy_values(fvg_parameter *to, const fvg_parameter *from) {
  const size_t bytes = fvg_tensor_count(&from->value) * sizeof(float);
  memcpy(to->value.data, from->value.data, bytes);
}

/* Plans K tokens before each block of a tower from the first on. */
static fvg_status fvg__mmrl_plan(fvg_learner *l, fvg__tower tower, int n_block) {
  const int asked = (int)l->option[FVG__MMRL_FIRST];
  int first = asked ? asked - 1 : n_block / 2 - 1;         /* from 0                              */
  if (first < 0) first = 0;
  if (first >= n_block)
    return fvg_fail(l->clip->ctx, FVG_E_ARG, "%s: first_layer is %d, a tower has %d",
                    l->method->name, asked, n_block);

  l->plan[tower].n_prompt = (int)l->option[FVG__MMRL_K];
  l->plan[tower].first_layer = first;
  l->plan[tower].n_layer = n_block - first;
  return FVG_OK;
}

/* Adds R, and plans both towers.  The K rows after the class token are read after the last block,
   for f_r. */
static fvg_status fvg__mmrl_tokens(fvg_learner *l) {
  const int K = (int)l->option[FVG__MMRL_K];
  const int D = (int)l->option[FVG__MMRL_D];
  l->n_read = K;

  fvg_status s = fvg__learner_prompts(l, "representation_learner.compound_rep_tokens", K, D);
  if (!s) s = fvg__mmrl_plan(l, FVG__IMAGE, l->clip->vision.transformer.n_layer);
  if (!s) s = fvg__mmrl_plan(l, FVG__TEXT, l->clip->text.transformer.n_layer);
  return s;
}

/* Adds a layer D -> w for each block of a tower that the plan has; all start with the same
   values. */
static fvg_status fvg__mmrl_layers(fvg_learner *l, fvg__tower tower, int w) {
  const int D = (int)l->option[FVG__MMRL_D];
  const int A = l->n_param;                      /* the first layer's parameters A, b             */
  const char letter = tower == FVG__TEXT ? 't' : 'v';

  for (int i = 0; i < l->plan[tower].n_layer; i++) {
    char name[96];
    fvg__print(name, sizeof name, "representation_learner.compound_rep_tokens_r2%cproj.%d", letter,
             i);
    fvg_status s = fvg__learner_linear(l, name, w, D);
    if (s) return s;
    if (i == 0) continue;
    fvg__copy_values(l->param[A + 2 * i], l->param[A]);
    fvg__copy_values(l->param[A + 2 * i + 1], l->param[A + 1]);
  }
  return FVG_OK;
}

static fvg_status fvg__mmrl_init(fvg_learner *l) {
  const fvg_vision_tower *image = &l->clip->vision;
  fvg_status s = fvg__mmrl_tokens(l);
  if (!s) s = fvg__mmrl_layers(l, FVG__IMAGE, image->width);
  if (!s) s = fvg__mmrl_layers(l, FVG__TEXT, l->clip->text.width);
  if (s) return s;

  const int d = l->clip->embed_dim;
  fvg_parameter *P_r = fvg__learner_add(l, "image_encoder.proj_rep", image->width, d);
  if (!P_r) return FVG_E_NOMEM;
  fvg__draw_normal(l, P_r, 1 / sqrt((double)image->width));
  return fvg__learner_prior(l);
}

/* Computes R A^T + b by the layer of each block, one below the other. */
static fvg_node *fvg__mmrl_vectors(fvg_learner *l, fvg_tape *t, fvg__tower tower) {
  int first = FVG__MMRL_LAYERS;
  if (tower == FVG__TEXT)
    first += 2 * l->plan[FVG__IMAGE].n_layer;

  fvg_node *R = fvg_param(t, l->param[FVG__MMRL_R]);
  fvg_node *v = fvg__learner_layer(l, R, first);
  for (int i = 1; i < l->plan[tower].n_layer; i++)
    v = fvg_concat(v, fvg__learner_layer(l, R, first + 2 * i));
  return v;
}

/* Makes the matrix [n, n K] that times n K rows is the mean of each K of them. */
static fvg_node *fvg__mean_matrix(fvg_tape *t, int n, int K) {
  fvg_node *mean = fvg_zeros(t, n, n * K);
  if (!mean) return NULL;
  for (int i = 0; i < n; i++) {
    float *own = fvg_fill(mean) + fvg__row(i, n * K) + i * K;
    for (int k = 0; k < K; k++)
      own[k] = 1 / (float)K;
  }
  return mean;
}

/* Makes mean_K(LN_post(token rows)) [n,w] from the token rows [n K, w]. */
static fvg_node *fvg__mmrl_mean(const fvg_learner *l, const fvg__step *step) {
  const fvg_vision_tower *v = &l->clip->vision;
  const int K = l->n_read;

  fvg_node *x = step->f_read;
  x = fvg__norm(x, &v->ln_post_weight, &v->ln_post_bias, v->transformer.eps);
  if (!x) return NULL;
  fvg_node *mean = fvg__mean_matrix(x->tape, x->rows / K, K);
  if (!mean) return NULL;
  return fvg_linear(mean, fvg_transpose(x), NULL);
}

/* Makes f_r [n,d] by the last parameter, P_r. */
static fvg_node *fvg__mmrl_f_r(fvg_learner *l, const fvg__step *step) {
  fvg_node *x = fvg__mmrl_mean(l, step);
  if (!x) return NULL;
  fvg_node *P_r = fvg_param(x->tape, l->param[l->n_param - 1]);
  return fvg_normalize(fvg_linear(x, fvg_transpose(P_r), NULL));
}

#ifndef FVGPT_NO_TRAINING  /* the loss */
/* The loss with f_r [B,d]. */
static fvg_node *fvg__mmrl_terms(fvg_learner *l, fvg__step *step, fvg_node *f_r) {
  const fvg_batch *batch = step->batch;
  const float alpha = (float)l->option[FVG__MMRL_ALPHA];
  const float lambda = (float)l->option[FVG__MMRL_LAMBDA];

  fvg_node *z_r = fvg__learner_scores(l, f_r, step->g);
  fvg_node *L = fvg_scale(fvg_cross_entropy(step->z, batch->label), alpha);
  L = fvg_add(L, fvg_scale(fvg_cross_entropy(z_r, batch->label), 1 - alpha));
  L = fvg_add(L, fvg_scale(fvg__cosine_distance(step->f, batch->f_clip), lambda));
  return fvg_add(L, fvg_scale(fvg__cosine_distance(step->g, l->g_clip), lambda));
}

static fvg_node *fvg__mmrl_loss(fvg_learner *l, fvg__step *step) {
  return fvg__mmrl_terms(l, step, fvg__mmrl_f_r(l, step));
}
#endif /* FVGPT_NO_TRAINING */

/* alpha f + (1 - alpha) f_r, the vector that scores base classes. */
static fvg_node *fvg__mmrl_mix(const fvg_learner *l, const fvg__step *step, fvg_node *f_r) {
  const float alpha = (float)l->option[FVG__MMRL_ALPHA];
  fvg_node *share_r = fvg_scale(f_r, 1 - alpha);
  return fvg_add(fvg_scale(step->f, alpha), share_r);
}

static fvg_node *fvg__mmrl_f_score(fvg_learner *l, const fvg__step *step) {
  return fvg__mmrl_mix(l, step, fvg__mmrl_f_r(l, step));
}

static const fvg_method fvg__mmrl = {
  "MMRL",
  NULL,                              /* ctx_init: there is no context                             */
  FVG__ONE_EACH,                     /* start: of no use without a context                        */
  0,                                 /* n_ctx: the filled template is the text                    */
  FVG_NEEDS_FEATURES | FVG_NEEDS_PIXELS,
  3,                                 /* n_part: f, f_clip, f_score                                */
  0.001f,                            /* lr                                                        */
  FVG_ADAMW,
  10,                                /* epochs                                                    */
  4,                                 /* batch                                                     */
  0.5f,                              /* crop_scale_min                                            */
  0,                                 /* prompts_only: there are the layers and P_r                */
  {
    {"n_rep_tokens", 5, 1, FVG__MOST_READ},      /* FVG__MMRL_K                                   */
    {"rep_dim", 512, 1, 65536},      /* FVG__MMRL_D                                               */
    {"first_layer", 0, 0, 1000},     /* FVG__MMRL_FIRST                                           */
    {"alpha", 0.7, 0, 1},            /* FVG__MMRL_ALPHA                                           */
    {"reg_weight", 1, 0, 1e6},       /* FVG__MMRL_LAMBDA                                          */
    {NULL, 0, 0, 0}
  },
  fvg__mmrl_init,
  fvg__mmrl_vectors,
  NULL,                              /* scores: s f g^T                                           */
  fvg__mmrl_f_score,
  NULL,                              /* head: none                                                */
  NULL                               /* release: nothing                                          */
};

/*==================================================================================================
 * CHAPTER 23  MMRL++: one layer for all blocks, and tokens that are carried on
 *==================================================================================================
   Most of MMRL's numbers are layers that lead from the tokens' space to each block.  MMRL++ (Guo
   and Gu 2025, arXiv 2505.10088) has one such layer for each tower, which every block corrects by a
   product of small rank.  And a block's tokens no longer begin anew: part of what the previous
   block made of its tokens, which have attended to the picture or text by then, is carried over,

     T_i = R (A + U_i V_i)^T + b_i          of block i
     row = beta T_i + (1 - beta) row        of what left block i - 1; T_i alone in the first block
     P_r = P + U V                          the projection of the tokens' mean

     A [w,D]                       the tower's layer, from what MMRL starts its own with
     U_i [w,r], V_i [r,D]          the block's correction, 0 at first, as V_i is
     b_i [w]                       a bias for each block; all start alike
     P [w,d], U [w,q], V [q,d]     CLIP's projection, and a correction that also starts at 0

   All else is MMRL's: tokens, texts, f and f_r, the loss, alpha, and what scores base and new
   classes.  With beta = 1 the rows are replaced as there.

   Defaults (the authors', in both presets, for FVG-PT's fork lacks the method): K = 5, D = 512, r =
   4, q = 64, alpha 0.7; AdamW 0.001, 10 epochs, batch 4, crops of at least half of the picture.
   They choose beta and lambda for each data set (chapter 33); any other set gets 0.9 and 1.
   Parameters: 813,312 for ViT-B/16.

   All this is read in the published code, whose tests across data sets give every target set a beta
   of its own.  Here a tuned learner keeps the beta that it was tuned with. */

enum { FVG__PP_BETA = FVG__MMRL_LAMBDA + 1, FVG__PP_RANK, FVG__PP_PROJECTION_RANK };

/* The parameters: R; the image's A and then U, V, b of each block; the same for the text; U, V. */
enum { FVG__PP_OF_BLOCK = 3 };

/* Adds U [n_out, rank] and V [rank, n_in], whose product starts as 0. */
static fvg_status fvg__mmrlpp_product(fvg_learner *l, const char *of, int n_out, int n_in,
                                      int rank) {
  fvg_status s = fvg__learner_uniform(l, of, "A", n_out, rank, rank);
  if (s) return s;
  char name[96];
  fvg__print(name, sizeof name, "%s.B", of);
  return fvg__learner_add(l, name, rank, n_in) ? FVG_OK : FVG_E_NOMEM;
}

/* Adds A of a tower, and U, V, b of each of its blocks that the plan has. */
static fvg_status fvg__mmrlpp_layers(fvg_learner *l, fvg__tower tower, int w) {
  const int D = (int)l->option[FVG__MMRL_D];
  const int rank = (int)l->option[FVG__PP_RANK];
  const int first_b = l->n_param + FVG__PP_OF_BLOCK;
  char name[96];

  fvg__print(name, sizeof name, "representation_learner.srra_r2%cproj",
           tower == FVG__TEXT ? 't' : 'v');
  const size_t n_name = strlen(name);
  fvg_status s = fvg__learner_uniform(l, name, "weight", w, D, D);

  for (int i = 0; !s && i < l->plan[tower].n_layer; i++) {
    fvg__print(name + n_name, sizeof name - n_name, ".srra.%d", i);
    s = fvg__mmrlpp_product(l, name, w, D, rank);
    if (!s) s = fvg__learner_uniform(l, name, "bias", w, 0, D);
    if (!s && i) fvg__copy_values(l->param[l->n_param - 1], l->param[first_b]);
  }
  l->plan[tower].keep = (float)(1 - l->option[FVG__PP_BETA]);
  return s;
}

static fvg_status fvg__mmrlpp_init(fvg_learner *l) {
  const int w = l->clip->vision.width;
  const int rank = (int)l->option[FVG__PP_PROJECTION_RANK];
  fvg_status s = fvg__mmrl_tokens(l);
  if (!s) s = fvg__mmrlpp_layers(l, FVG__IMAGE, w);
  if (!s) s = fvg__mmrlpp_layers(l, FVG__TEXT, l->clip->text.width);
  if (!s) s = fvg__mmrlpp_product(l, "image_encoder", w, l->clip->embed_dim, rank);
  return s ? s : fvg__learner_prior(l);
}

/* Computes T_i = (R V_i^T) U_i^T + b_i + R A^T for each block, one below the other. */
static fvg_node *fvg__mmrlpp_vectors(fvg_learner *l, fvg_tape *t, fvg__tower tower) {
  int first = FVG__MMRL_LAYERS;
  if (tower == FVG__TEXT)
    first += 1 + FVG__PP_OF_BLOCK * l->plan[FVG__IMAGE].n_layer;

  fvg_node *R = fvg_param(t, l->param[FVG__MMRL_R]);
  fvg_node *shared = fvg_linear(R, fvg_param(t, l->param[first]), NULL);
  fvg_node *v = NULL;
  for (int i = 0; i < l->plan[tower].n_layer; i++) {
    fvg_parameter **own = l->param + first + 1 + FVG__PP_OF_BLOCK * i;
    fvg_node *U = fvg_param(t, own[0]);
    fvg_node *V = fvg_param(t, own[1]);
    fvg_node *b = fvg_param(t, own[2]);
    fvg_node *T = fvg_linear_add(fvg_linear(R, V, NULL), U, b, shared);
    v = i ? fvg_concat(v, T) : T;
  }
  return v;
}

/* Makes f_r = norm(m P + (m U) V) [n,d] of the tokens' mean m [n,w]. */
static fvg_node *fvg__mmrlpp_f_r(fvg_learner *l, const fvg__step *step) {
  fvg_node *m = fvg__mmrl_mean(l, step);
  if (!m) return NULL;
  fvg_node *U = fvg_param(m->tape, l->param[l->n_param - 2]);
  fvg_node *V = fvg_param(m->tape, l->param[l->n_param - 1]);
  fvg_node *P = fvg_frozen(m->tape, &l->clip->vision.projection);

  fvg_node *correction = fvg_linear(fvg_linear(m, fvg_transpose(U), NULL), fvg_transpose(V), NULL);
  return fvg_normalize(fvg_add(fvg_linear(m, P, NULL), correction));
}

#ifndef FVGPT_NO_TRAINING  /* the loss */
static fvg_node *fvg__mmrlpp_loss(fvg_learner *l, fvg__step *step) {
  return fvg__mmrl_terms(l, step, fvg__mmrlpp_f_r(l, step));
}
#endif /* FVGPT_NO_TRAINING */

static fvg_node *fvg__mmrlpp_f_score(fvg_learner *l, const fvg__step *step) {
  return fvg__mmrl_mix(l, step, fvg__mmrlpp_f_r(l, step));
}

static const fvg_method fvg__mmrlpp = {
  "MMRLpp",
  NULL,                              /* ctx_init: there is no context                             */
  FVG__ONE_EACH,                     /* start: of no use without a context                        */
  0,                                 /* n_ctx: the filled template is the text                    */
  FVG_NEEDS_FEATURES | FVG_NEEDS_PIXELS,
  3,                                 /* n_part: f, f_clip, f_score                                */
  0.001f,                            /* lr                                                        */
  FVG_ADAMW,
  10,                                /* epochs                                                    */
  4,                                 /* batch                                                     */
  0.5f,                              /* crop_scale_min: as MMRL                                   */
  0,                                 /* prompts_only: there are the layers and P_r                */
  {
    {"n_rep_tokens", 5, 1, FVG__MOST_READ},      /* FVG__MMRL_K                                   */
    {"rep_dim", 512, 1, 65536},      /* FVG__MMRL_D                                               */
    {"first_layer", 0, 0, 1000},     /* FVG__MMRL_FIRST                                           */
    {"alpha", 0.7, 0, 1},            /* FVG__MMRL_ALPHA                                           */
    {"reg_weight", 1, 0, 1e6},       /* FVG__MMRL_LAMBDA                                          */
    {"beta", 0.9, 0, 1},             /* FVG__PP_BETA                                              */
    {"res_lora_dim", 4, 1, 65536},   /* FVG__PP_RANK                                              */
    {"proj_lora_dim", 64, 1, 65536},             /* FVG__PP_PROJECTION_RANK                       */
    {NULL, 0, 0, 0}
  },
  fvg__mmrlpp_init,
  fvg__mmrlpp_vectors,
  NULL,                              /* scores: s f g^T                                           */
  fvg__mmrlpp_f_score,
  NULL,                              /* head: none                                                */
  NULL                               /* release: nothing                                          */
};

/*==================================================================================================
 * CHAPTER 24  DEPT: a head of its own for what only base classes need
 *==================================================================================================
   Prompts tuned on base classes specialise some channels of the features, and information about new
   classes is lost.  DePT (decoupled prompt tuning, Zhang et al. 2024, arXiv 2309.07439) puts a
   linear head beside the prompts of another method.  It sees the features after a learned scale and
   shift of each channel, and learns there what only base classes need, so that the prompts need
   not,

     z_h = (scale_f * f_raw + shift_f) W^T + b
     L   = (1 - lambda) CE(z, y) + lambda L_h  (+ the further terms of the method)
     L_h = mean of CE over the pictures, by z_h, and over the texts of their classes, by
           (scale_g * g_raw[y] + shift_g) W^T + b

     f_raw [B,d], g_raw [C,d]      f and g before they get unit length: the head sees both alike
     scale, shift [d]              1 and 0 at first, for pictures and for texts
     W [C,d], b [C]                a linear layer, one row for each training class

   This head is a part of the learner.  The heads of fvgpt.h (fvg_head, chapters 15 to 21) are
   another thing: each is a classifier by itself, fitted on features of zero-shot CLIP.

   Base classes are scored by (1 - lambda) z + lambda z_h, the texts having served in training only.
   New classes have no row of W: z alone scores them.  A list that mixes both kinds counts as new.

   f_raw is not in the features of zero-shot CLIP that views keep, so the head reads pixels, and
   DePT_CoOp passes every picture of a step through the image tower, as the published code does.

   FVG-PT on DePT adapts what the prompts score.  z_h is no product of two features, so z_full and
   z_FDC are s f g^T and its adapted form, gates and losses see these alone, and base classes are
   scored by (1 - lambda) z_FDC + lambda z_h.  New classes are scored by z_PC, as of any method.

   Defaults (the authors', in both presets): lambda 0.7; the head's six parameters at 6.5 times the
   rate after the warm-up.  On CoOp SGD 0.0035, 10 epochs, batch 4, 16 context vectors from noise;
   on PromptSRC its own 0.0025, 20 epochs, batch 4.  Parameters for ViT-B/16: those of the prompts
   and 4 d + C (d + 1), of 50 classes 27,698.

   The head, its loss and the settings on CoOp are read in the published code.  Those on PromptSRC
   are read in two later repositories that build on it, because it has no such trainer itself.  The
   two agree on the loss but for its weights (lambda 0.3; or 0.7 for the head and 0.6 for the
   prompts, at 6 times the rate), so the values here are DePT's own on CoOp.  What it takes for few
   shots or across data sets is not known.  FVG-PT on it is this library's reading. */

/* The head's parameters are the last ones: scale and shift of pictures, of texts, and W, b. */
enum { FVG__DEPT_IMAGES, FVG__DEPT_TEXTS = 2, FVG__DEPT_LAYER = 4, FVG__N_DEPT = 6 };

/* The options beside those of the method below, whose number differs. */
static const char fvg__dept_weight[] = "lp_weight";
static const char fvg__dept_rate[] = "lr_exp";

static double fvg__dept_option(const fvg_learner *l, const char *name) {
  return l->option[fvg__find_option(l->method, name)];
}

/* Adds scale and shift. */
static fvg_status fvg__dept_channels(fvg_learner *l, const char *of) {
  const int d = l->clip->embed_dim;
  char name[96];
  fvg__print(name, sizeof name, "%s.scale", of);
  fvg_parameter *scale = fvg__learner_add(l, name, d, 0);
  if (!scale) return FVG_E_NOMEM;
  for (int k = 0; k < d; k++)
    ((float *)scale->value.data)[k] = 1;

  fvg__print(name, sizeof name, "%s.bias", of);
  return fvg__learner_add(l, name, d, 0) ? FVG_OK : FVG_E_NOMEM;
}

/* Adds the head behind the parameters of the prompts. */
static fvg_status fvg__dept_head_init(fvg_learner *l) {
  fvg_status s = fvg__dept_channels(l, "film_lp_img");
  if (!s) s = fvg__dept_channels(l, "film_lp_text");
  if (!s) s = fvg__learner_linear(l, "linear_probe_proj", l->n_class, l->clip->embed_dim);
  if (s) return s;

  const float rate = (float)fvg__dept_option(l, fvg__dept_rate);
  for (int i = 0; i < FVG__N_DEPT; i++)
    l->param[l->n_param - 1 - i]->rate = rate;
  return FVG_OK;
}

static fvg_status fvg__dept_coop_init(fvg_learner *l) {
  fvg_status s = fvg__learner_ctx(l, "prompt_learner.ctx");
  return s ? s : fvg__dept_head_init(l);
}

/* The epochs' average takes in the head, as published. */
static fvg_status fvg__dept_promptsrc_init(fvg_learner *l) {
  fvg_status s = fvg__promptsrc_prompts(l);
  if (!s) s = fvg__dept_head_init(l);
  return s ? s : fvg__average_init(l);
}

#ifndef FVGPT_NO_TRAINING  /* the losses */
/* CE of the head for raw features x [B,d] of pictures or texts, whose scale and shift are the
   head's parameters from `channels` on. */
static fvg_node *fvg__dept_cross_entropy(fvg_learner *l, fvg_node *x, int channels,
                                         const int *label) {
  if (!x) return NULL;
  const int first = l->n_param - FVG__N_DEPT;
  fvg_node *scale = fvg_param(x->tape, l->param[first + channels]);
  fvg_node *shift = fvg_param(x->tape, l->param[first + channels + 1]);
  x = fvg_add(fvg_mul(x, scale), shift);
  return fvg_cross_entropy(fvg__learner_layer(l, x, first + FVG__DEPT_LAYER), label);
}

/* (1 - lambda) CE(z, y) + lambda L_h. */
static fvg_node *fvg__dept_coop_loss(fvg_learner *l, fvg__step *step) {
  const float lambda = (float)fvg__dept_option(l, fvg__dept_weight);
  const int *y = step->batch->label;
  fvg_node *g_y = fvg_gather(step->g_raw, y, step->batch->n);

  fvg_node *of_images = fvg__dept_cross_entropy(l, step->f_raw, FVG__DEPT_IMAGES, y);
  fvg_node *of_texts = fvg__dept_cross_entropy(l, g_y, FVG__DEPT_TEXTS, y);
  fvg_node *L_h = fvg_scale(fvg_add(of_images, of_texts), 0.5f);
  fvg_node *L = fvg_scale(fvg_cross_entropy(step->z, y), 1 - lambda);
  return fvg_add(L, fvg_scale(L_h, lambda));
}

static fvg_node *fvg__dept_promptsrc_loss(fvg_learner *l, fvg__step *step) {
  return fvg__promptsrc_terms(l, step, fvg__dept_coop_loss(l, step));
}
#endif /* FVGPT_NO_TRAINING */

/* The head for pictures as one layer: weight [C,d] = scale_f * W and bias [C] = shift_f W^T + b. */
static double fvg__dept_head(const fvg_learner *l, float *weight, float *bias) {
  fvg_parameter *const *head = l->param + l->n_param - FVG__N_DEPT;
  const float *scale = (const float *)head[FVG__DEPT_IMAGES]->value.data;
  const float *shift = (const float *)head[FVG__DEPT_IMAGES + 1]->value.data;
  const float *W = (const float *)head[FVG__DEPT_LAYER]->value.data;
  const float *b = (const float *)head[FVG__DEPT_LAYER + 1]->value.data;
  const int d = l->clip->embed_dim;

  for (int c = 0; c < l->n_class; c++) {
    const size_t row = fvg__row(c, d);
    double sum = (double)b[c];
    for (int k = 0; k < d; k++) {
      weight[row + (size_t)k] = scale[k] * W[row + (size_t)k];
      sum += (double)shift[k] * (double)W[row + (size_t)k];
    }
    bias[c] = (float)sum;
  }
  return fvg__dept_option(l, fvg__dept_weight);
}

static const fvg_method fvg__dept_coop = {
  "DePT_CoOp",
  NULL,                              /* ctx_init: N(0, 0.02^2)                                    */
  FVG__ONE_EACH,
  16,                                /* n_ctx                                                     */
  FVG_NEEDS_PIXELS,
  3,                                 /* n_part: f, f_clip, f_raw                                  */
  0.0035f,                           /* lr                                                        */
  FVG_SGD,
  10,                                /* epochs                                                    */
  4,                                 /* batch                                                     */
  0,                                 /* crop_scale_min: 0.08                                      */
  0,                                 /* prompts_only: there is the head                           */
  {
    {fvg__dept_weight, 0.7, 0, 1},
    {fvg__dept_rate, 6.5, 1e-3, 1e3},
    {NULL, 0, 0, 0}
  },
  fvg__dept_coop_init,
  fvg__ctx_vectors,                  /* none of them in the image tower, whose plan is empty      */
  NULL,                              /* scores: s f g^T                                           */
  NULL,                              /* f_score: f                                                */
  fvg__dept_head,
  NULL                               /* release: nothing                                          */
};

static const fvg_method fvg__dept_promptsrc = {
  "DePT_PromptSRC",
  "a photo of a",                    /* ctx_init                                                  */
  FVG__FIRST_FEW,
  4,                                 /* n_ctx                                                     */
  FVG_NEEDS_FEATURES | FVG_NEEDS_PIXELS,
  3,                                 /* n_part: f, f_clip, f_raw                                  */
  0.0025f,                           /* lr                                                        */
  FVG_SGD,
  20,                                /* epochs                                                    */
  4,                                 /* batch                                                     */
  0,                                 /* crop_scale_min: 0.08                                      */
  0,                                 /* prompts_only: there is the head                           */
  {
    {"n_ctx_vision", 4, 1, 1000},    /* FVG__SRC_CTX                                              */
    {"depth_text", 9, 1, 1000},      /* FVG__SRC_TEXT_DEPTH                                       */
    {"depth_vision", 9, 1, 1000},    /* FVG__SRC_IMAGE_DEPTH                                      */
    {"text_loss_weight", 25, 0, 1e6},            /* FVG__SRC_LAMBDA_1                             */
    {"image_loss_weight", 10, 0, 1e6},           /* FVG__SRC_LAMBDA_2                             */
    {"gpa_mean", 15, -1e6, 1e6},     /* FVG__SRC_MU                                               */
    {"gpa_std", 1, 1e-3, 1e6},       /* FVG__SRC_SIGMA                                            */
    {fvg__dept_weight, 0.7, 0, 1},
    {fvg__dept_rate, 6.5, 1e-3, 1e3},
    {NULL, 0, 0, 0}
  },
  fvg__dept_promptsrc_init,
  fvg__promptsrc_vectors,
  NULL,                              /* scores: s f g^T                                           */
  NULL,                              /* f_score: f                                                */
  fvg__dept_head,
  NULL                               /* release: nothing                                          */
};

/* ---- the list of methods ---- */
static const fvg_method *const fvg__method[] = {
  &fvg__coop,
  &fvg__kgcoop,
  &fvg__prograd,
  &fvg__cocoop,
  &fvg__promptsrc,
  &fvg__maple,
  &fvg__dapt,
  &fvg__mmrl,
  &fvg__mmrlpp,
  &fvg__dept_coop,
  &fvg__dept_promptsrc,
  NULL
};

#ifndef FVGPT_NO_TRAINING
/* The methods whose loss is not CE(z, y) alone; the last row stands for all others. */
static const fvg__training fvg__trainings[] = {
  {&fvg__kgcoop, fvg__kgcoop_loss, NULL, NULL},
  {&fvg__prograd, NULL, fvg__prograd_gradients, NULL},
  {&fvg__promptsrc, fvg__promptsrc_loss, NULL, fvg__promptsrc_epoch},
  {&fvg__dapt, fvg__dapt_loss, NULL, NULL},
  {&fvg__mmrl, fvg__mmrl_loss, NULL, NULL},
  {&fvg__mmrlpp, fvg__mmrlpp_loss, NULL, NULL},
  {&fvg__dept_coop, fvg__dept_coop_loss, NULL, NULL},
  {&fvg__dept_promptsrc, fvg__dept_promptsrc_loss, NULL, fvg__promptsrc_epoch},
  {NULL, NULL, NULL, NULL}
};

static const fvg__training *fvg__training_of(const fvg_method *method) {
  const fvg__training *t = fvg__trainings;
  while (t->method && t->method != method) t++;
  return t;
}
#endif /* FVGPT_NO_TRAINING */

FVG_DEF const fvg_method *fvg_method_at(int i) {
  const int n = (int)(sizeof fvg__method / sizeof *fvg__method);
  return i >= 0 && i < n ? fvg__method[i] : NULL;
}

FVG_DEF const fvg_method *fvg_method_find(const char *name) {
  for (int i = 0; name && fvg__method[i]; i++)
    if (!strcmp(fvg__method[i]->name, name))
      return fvg__method[i];
  return NULL;
}

FVG_DEF const char *fvg_method_name(const fvg_method *method) { return method ? method->name : ""; }
FVG_DEF int fvg_method_needs(const fvg_method *method) { return method ? method->needs : 0; }

#ifndef FVGPT_NO_TRAINING  /* training as published */
FVG_DEF fvg_optimizer_desc fvg_method_optimizer(const fvg_method *method, int *batch) {
  fvg_optimizer_desc d;
  memset(&d, 0, sizeof d);
  if (batch) *batch = method ? method->batch : 0;
  if (!method) return d;
  d.lr = method->lr;
  d.kind = method->optimizer;
  d.epochs = method->epochs;
  return fvg_optimizer_defaults(&d);
}

FVG_DEF float fvg_method_crop_scale(const fvg_method *method) {
  return fvg__default(method ? method->crop_scale_min : 0, 0.08f);
}
#endif /* FVGPT_NO_TRAINING */

FVG_DEF int fvg_method_option(const fvg_method *method, fvg_option *option, double *low,
                              double *high, int i) {
  if (!method || !option || !low || !high || i < 0 || i >= FVG_RECIPE_OPTIONS) return 0;
  const fvg__option_card *card = &method->option[i];
  if (!card->name) return 0;

  option->name = card->name;
  option->value = card->published;
  *low = card->low;
  *high = card->high;
  return 1;
}

/* ---- learners of any method ---- */
FVG_DEF fvg_status fvg_learner_new(fvg_clip *m, fvg_learner **out, const char *const *class_name,
                                   int n_class, const fvg_learner_desc *desc) {
  fvg_learner_desc d;
  memset(&d, 0, sizeof d);
  if (desc) d = *desc;
  if (!d.method) d.method = &fvg__coop;
  return fvg__learner_new(m, out, &d, class_name, n_class, NULL, -1);
}

#ifndef FVGPT_NO_TRAINING  /* copies to train on */
/* The description is put together again from what the learner kept; then values are copied. */
FVG_DEF fvg_status fvg_learner_copy(fvg_learner **out, const fvg_learner *l) {
  if (out) *out = NULL;
  if (!l) return FVG_E_ARG;                      /* no context, no place for a message */
  if (!out) return fvg__missing(l->clip->ctx, "fvg_learner_copy", "a place for the copy");
  fvg_option option[FVG_RECIPE_OPTIONS];
  fvg_learner_desc desc;
  fvg_learner_made_from(l, &desc, option);
  const char *const *name = (const char *const *)l->class_name;
  fvg_status s = fvg__learner_new(l->clip, out, &desc, name, l->n_class, NULL, l->n_fixed);
  if (s) return s;

  fvg_learner *copy = *out;
  for (int i = 0; i < l->n_param; i++)
    fvg__copy_values(copy->param[i], l->param[i]);
  for (int i = 0; i < l->n_state; i++)
    fvg__copy_values(copy->state[i], l->state[i]);
  return FVG_OK;
}
#endif /* FVGPT_NO_TRAINING */

#ifndef FVGPT_NO_TRAINING  /* chapters 25 to 35: data, views, training */
/*==================================================================================================
 * CHAPTER 25  PROTOCOL: few-shot draws, base and new halves, scores
 *==================================================================================================
   The protocol is that of CoCoOp (Zhou et al. 2022, arXiv 2203.05557).  First, K pictures per
   class are drawn from the WHOLE train list.  Only then are the classes cut into a base half, the
   first ceil(n/2) of them, and a new half, whose labels are renumbered from 0.  The draw repeats
   CPython's own generator, so a seed means the same pictures here as in every published result.

   The score of the protocol is the harmonic mean of the two accuracies in percent: H = 2 B N /
   (B + N). */

/* ---- CPython's generator ---- */
/* It is MT19937 (Matsumoto and Nishimura, 1998), seeded by an array of words. */
#define FVG__MT_WORDS 624

typedef struct fvg__mt {
  uint32_t word[FVG__MT_WORDS];
  int used;                           /* words that have been given out since the last refill */
} fvg__mt;

static uint32_t fvg__mt_scramble(uint32_t last, uint32_t factor) {
  return (last ^ (last >> 30)) * factor;
}

/* The index after i, going round: the last word is then also the one before word 1. */
static uint32_t fvg__mt_advance(uint32_t *w, uint32_t i) {
  if (i + 1 < FVG__MT_WORDS) return i + 1;
  w[0] = w[FVG__MT_WORDS - 1];
  return 1;
}

/* random.seed(seed) for 0 <= seed < 2^64.  The key is the integer cut into 32-bit words, low word
   first. */
static void fvg__mt_seed(fvg__mt *m, uint64_t seed) {
  const uint32_t key[2] = {(uint32_t)(seed & 0xFFFFFFFFu), (uint32_t)(seed >> 32)};
  const uint32_t n_key = key[1] ? 2 : 1;
  uint32_t *w = m->word;

  w[0] = 19650218u;
  for (uint32_t k = 1; k < FVG__MT_WORDS; k++)
    w[k] = fvg__mt_scramble(w[k - 1], 1812433253u) + k;

  /* Mix the key into the words, then the words with their indices. */
  uint32_t i = 1;
  for (uint32_t step = 0; step < FVG__MT_WORDS; step++) {
    uint32_t part = step % n_key;
    w[i] = (w[i] ^ fvg__mt_scramble(w[i - 1], 1664525u)) + key[part] + part;
    i = fvg__mt_advance(w, i);
  }
  for (uint32_t step = 1; step < FVG__MT_WORDS; step++) {
    w[i] = (w[i] ^ fvg__mt_scramble(w[i - 1], 1566083941u)) - i;
    i = fvg__mt_advance(w, i);
  }

  w[0] = 0x80000000u;                 /* so that the state is never all zero */
  m->used = FVG__MT_WORDS;
}

static void fvg__mt_refill(fvg__mt *m) {
  for (int i = 0; i < FVG__MT_WORDS; i++) {
    uint32_t next = m->word[(i + 1) % FVG__MT_WORDS];
    uint32_t y = (m->word[i] & 0x80000000u) | (next & 0x7FFFFFFFu);
    uint32_t twist = (y & 1) ? 0x9908B0DFu : 0;
    m->word[i] = m->word[(i + 397) % FVG__MT_WORDS] ^ (y >> 1) ^ twist;
  }
  m->used = 0;
}

static uint32_t fvg__mt_next(fvg__mt *m) {
  if (m->used == FVG__MT_WORDS) fvg__mt_refill(m);

  uint32_t y = m->word[m->used++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9D2C5680u;
  y ^= (y << 15) & 0xEFC60000u;
  return y ^ (y >> 18);
}

/* CPython's _randbelow draws as many high bits as n has, again and again until they are below n. */
static int fvg__python_below(fvg__mt *m, int n) {
  int bits = 0;
  while ((uint32_t)n >> bits) bits++;

  uint32_t r;
  do {
    r = fvg__mt_next(m) >> (32 - bits);
  } while (r >= (uint32_t)n);
  return (int)r;
}

/* random.sample(range(n), k), 1 <= k <= n.  CPython keeps the n candidates in a list if that takes
   less memory than a set of k numbers; else it draws until a number is new.  The two consume the
   generator differently.  The numbers are CPython's estimate in pointers: 21 is a small set less an
   empty list, and a larger set has a table of 4^ceil(log4(3k)).  scratch holds n ints. */
static void fvg__python_sample(fvg__mt *m, int n, int k, int *chosen, int *scratch) {
  uint64_t set_size = 21;
  if (k > 5) {
    uint64_t table = 1;
    while (table < 3 * (uint64_t)k) table *= 4;
    set_size += table;
  }
  const int keeps_list = (uint64_t)n <= set_size;

  /* scratch is the list of candidates, or else the set: 1 if a number has been drawn. */
  for (int i = 0; i < n; i++)
    scratch[i] = keeps_list ? i : 0;

  for (int i = 0; i < k; i++) {
    int drawn;
    if (keeps_list) {
      int at = fvg__python_below(m, n - i);
      drawn = scratch[at];
      scratch[at] = scratch[n - i - 1];
    } else {
      do {
        drawn = fvg__python_below(m, n);
      } while (scratch[drawn]);
      scratch[drawn] = 1;
    }
    chosen[i] = drawn;
  }
}

/* ---- lists of items ---- */
FVG_DEF void fvg_items_free(fvg_ctx *c, fvg_items *items) {
  if (!items) return;
  fvg_release(c, items->item);
  items->item = NULL;
  items->n = 0;
}

/* Makes room for n items; the list itself is still empty. */
static fvg_status fvg__items_new(fvg_ctx *c, fvg_items *out, int n) {
  out->n = 0;
  out->item = FVG_NEW_ARRAY(c, fvg_item, (size_t)n);
  return out->item ? FVG_OK : FVG_E_NOMEM;
}

static fvg_status fvg__items_check(fvg_ctx *c, const fvg_items *in, int n_class) {
  if (!in || (in->n > 0 && !in->item)) return fvg__missing(c, "a list of pictures", "its items");
  for (int i = 0; i < in->n; i++) {
    const fvg_item *item = &in->item[i];
    if (item->label < 0 || item->label >= n_class)
      return fvg_fail(c, FVG_E_ARG, "item %d (%.200s): label %d, but there are %d classes",
                      i, item->path, item->label, n_class);
  }
  return FVG_OK;
}

FVG_DEF int fvg_group_classes(int n_class, fvg_group group, int *first) {
  int n_all = n_class > 0 ? n_class : 0;
  int n_new = n_all / 2;
  int n_base = n_all - n_new;

  if (first) *first = group == FVG_NEW ? n_base : 0;
  if (group == FVG_BASE) return n_base;
  return group == FVG_NEW ? n_new : n_all;
}

/* Copies the items of one group of classes, with their labels renumbered from 0. */
FVG_DEF fvg_status fvg_items_group(fvg_ctx *c, fvg_items *out, const fvg_items *in, int n_class,
                                  fvg_group group) {
  if (!out) return fvg__missing(c, "fvg_items_group", "a place for the list");
  memset(out, 0, sizeof *out);
  fvg_status s = fvg__items_check(c, in, n_class);
  if (s) return s;

  int first;
  int n = fvg_group_classes(n_class, group, &first);
  int n_item = 0;
  for (int i = 0; i < in->n; i++) {
    int label = in->item[i].label - first;
    n_item += label >= 0 && label < n;
  }

  s = fvg__items_new(c, out, n_item);
  if (s) return s;
  for (int i = 0; i < in->n; i++) {
    fvg_item item = in->item[i];
    item.label -= first;
    if (item.label >= 0 && item.label < n)
      out->item[out->n++] = item;
  }
  return FVG_OK;
}

/* Items by label: those of `label` are member[start[label]] .. member[start[label] + count[label]
   - 1]. */
typedef struct fvg__groups {
  int *count, *start;                 /* [n_class] */
  int *order, n_order;                /* [n_class] the labels that occur, by first appearance */
  int *member;                        /* [n] indices into the list */
} fvg__groups;

static void fvg__groups_free(fvg_ctx *c, fvg__groups *g) {
  fvg_release(c, g->count);
  fvg_release(c, g->start);
  fvg_release(c, g->order);
  fvg_release(c, g->member);
  memset(g, 0, sizeof *g);
}

/* Sorts the items by label, by counting: first how many there are, then where each group starts,
   then the members. */
static fvg_status fvg__groups_new(fvg_ctx *c, fvg__groups *g, const fvg_items *in, int n_class) {
  memset(g, 0, sizeof *g);
  g->count = FVG_NEW_ARRAY(c, int, (size_t)n_class);
  g->start = FVG_NEW_ARRAY(c, int, (size_t)n_class);
  g->order = FVG_NEW_ARRAY(c, int, (size_t)n_class);
  g->member = FVG_NEW_ARRAY(c, int, (size_t)in->n);
  if (!g->count || !g->start || !g->order || !g->member) {
    fvg__groups_free(c, g);
    return FVG_E_NOMEM;
  }

  for (int i = 0; i < in->n; i++) {
    int label = in->item[i].label;
    if (g->count[label] == 0)
      g->order[g->n_order++] = label;
    g->count[label]++;
  }

  int at = 0;
  for (int k = 0; k < g->n_order; k++) {
    int label = g->order[k];
    g->start[label] = at;
    at += g->count[label];
    g->count[label] = 0;              /* counted again below */
  }

  for (int i = 0; i < in->n; i++) {
    int label = in->item[i].label;
    g->member[g->start[label] + g->count[label]] = i;
    g->count[label]++;
  }
  return FVG_OK;
}

/* Adds `shots` drawn items of one label to `out`, or all of them, without a draw, if there are
   fewer or if shots < 1, as Dassl does.  chosen and scratch hold as many ints as the label has
   items. */
static void fvg__draw_class(fvg__mt *mt, fvg_items *out, const fvg_items *in, const fvg__groups *g,
                            int label, int shots, int *chosen, int *scratch) {
  int n = g->count[label];
  int takes_all = shots < 1 || n < shots;
  int n_draw = takes_all ? n : shots;

  if (takes_all)
    for (int i = 0; i < n; i++)
      chosen[i] = i;
  else
    fvg__python_sample(mt, n, n_draw, chosen, scratch);

  const int *member = g->member + g->start[label];
  for (int i = 0; i < n_draw; i++)
    out->item[out->n++] = in->item[member[chosen[i]]];
}

/* The smallest of the n >= 1 counts. */
static int fvg__smallest(const int *count, int n) {
  int smallest = count[0];
  for (int i = 1; i < n; i++)
    smallest = fvg__min(smallest, count[i]);
  return smallest;
}

/* Draws from every label in the order of first appearance; the generator goes on from where it
   stands.  *fewest, if wanted, receives the smallest number of items that a label has. */
static fvg_status fvg__draw_shots(fvg_ctx *c, fvg__mt *mt, fvg_items *out, const fvg_items *in,
                                  int n_class, int shots, int *fewest) {
  memset(out, 0, sizeof *out);
  if (fewest) *fewest = 0;
  if (n_class < 1)
    return fvg_fail(c, FVG_E_ARG, "few-shot sampling: %d classes", n_class);
  fvg_status s = fvg__items_check(c, in, n_class);
  if (s) return s;

  fvg__groups g;
  s = fvg__groups_new(c, &g, in, n_class);
  if (s) return s;

  int *chosen = FVG_NEW_ARRAY(c, int, (size_t)in->n);
  int *scratch = FVG_NEW_ARRAY(c, int, (size_t)in->n);
  s = chosen && scratch ? fvg__items_new(c, out, in->n) : FVG_E_NOMEM;
  for (int k = 0; !s && k < g.n_order; k++)
    fvg__draw_class(mt, out, in, &g, g.order[k], shots, chosen, scratch);

  if (!s && fewest) *fewest = fvg__smallest(g.count, n_class);

  fvg_release(c, chosen);
  fvg_release(c, scratch);
  fvg__groups_free(c, &g);
  return s;
}

FVG_DEF fvg_status fvg_items_few_shot(fvg_ctx *c, fvg_items *out, int *fewest, const fvg_items *in,
                                      int n_class, int shots, uint64_t seed) {
  if (!out) return fvg__missing(c, "fvg_items_few_shot", "a place for the list");
  fvg__mt mt;
  fvg__mt_seed(&mt, seed);
  return fvg__draw_shots(c, &mt, out, in, n_class, shots, fewest);
}

/* The draw from `train` is repeated only to bring the generator to where the draw from `val`
   starts. */
FVG_DEF fvg_status fvg_items_few_shot_val(fvg_ctx *c, fvg_items *out, const fvg_items *train,
                                          const fvg_items *val, int n_class, int shots,
                                          uint64_t seed) {
  if (!out) return fvg__missing(c, "fvg_items_few_shot_val", "a place for the list");
  memset(out, 0, sizeof *out);
  fvg__mt mt;
  fvg__mt_seed(&mt, seed);

  fvg_items drawn_before;
  fvg_status s = fvg__draw_shots(c, &mt, &drawn_before, train, n_class, shots, NULL);
  fvg_items_free(c, &drawn_before);
  if (s) return s;
  return fvg__draw_shots(c, &mt, out, val, n_class, fvg__min(shots, 4), NULL);
}

/* ---- scores ---- */
FVG_DEF double fvg_harmonic_mean(double base, double new_) {
  return base + new_ == 0 ? 0 : 2 * base * new_ / (base + new_);
}

/* How often one class was right, was predicted, and was there. */
typedef struct fvg__tally {
  int hits, predicted, actual;
} fvg__tally;

/* The mean, in percent, of F1 = 2 TP / (predicted + actual) over the classes that have items. */
static double fvg__macro_f1(const fvg__tally *tally, int n_class) {
  double sum = 0;
  int n_present = 0;
  for (int k = 0; k < n_class; k++) {
    if (!tally[k].actual) continue;
    sum += 2.0 * tally[k].hits / ((double)tally[k].predicted + tally[k].actual);
    n_present++;
  }
  return 100 * sum / n_present;
}

/* *best: the class with the greatest score, the first of equals. */
static fvg_status fvg__best_scored(fvg_ctx *c, const float *scores, int n_class, int item,
                                   int *best) {
  *best = 0;
  for (int k = 0; k < n_class; k++) {
    if (scores[k] != scores[k])
      return fvg_fail(c, FVG_E_NUMERIC, "score: item %d, class %d: the score is NaN", item, k);
    if (scores[k] > scores[*best]) *best = k;
  }
  return FVG_OK;
}

/* Counts hits by class, and adds up the cross-entropy on the way. */
FVG_DEF fvg_status fvg_score_of(fvg_ctx *c, fvg_score *out, const float *scores, const int *labels,
                                int n, int n_class) {
  if (!out) return fvg__missing(c, "fvg_score_of", "a place for the score");
  memset(out, 0, sizeof *out);
  if (n < 1 || n_class < 1)
    return fvg_fail(c, FVG_E_ARG, "score: nothing to score: %d items, %d classes", n, n_class);
  if (!scores || !labels)
    return fvg__missing(c, "fvg_score_of", "scores and labels");
  fvg__tally *tally = FVG_NEW_ARRAY(c, fvg__tally, (size_t)n_class);
  if (!tally) return FVG_E_NOMEM;

  fvg_status s = FVG_OK;
  for (int i = 0; i < n && !s; i++) {
    int label = labels[i], best = 0;
    if (label < 0 || label >= n_class)
      s = fvg_fail(c, FVG_E_ARG, "score: item %d has label %d, but there are %d classes",
                   i, label, n_class);
    else
      s = fvg__best_scored(c, scores + fvg__row(i, n_class), n_class, i, &best);
    if (s) break;

    out->cross_entropy += fvg__row_cross_entropy(scores + fvg__row(i, n_class), n_class, label) / n;
    tally[best].predicted++;
    tally[label].actual++;
    if (best == label) tally[best].hits++;
    out->n_correct += best == label;
  }

  if (s) {
    memset(out, 0, sizeof *out);
  } else {
    out->n = n;
    out->accuracy = 100.0 * out->n_correct / n;
    out->macro_f1 = fvg__macro_f1(tally, n_class);
  }
  fvg_release(c, tally);
  return s;
}

/*==================================================================================================
 * CHAPTER 26  TASKS: which pictures, and which names to tell them by
 *==================================================================================================
   Base-to-new, few-shot learning and cross-data-set transfer all train and test on the same thing:
   some pictures of a data set, and the names that they are to be told apart by.  That is a task.
   It says which part of the set (train, val, test), which group of classes (all, base, new) and how
   many pictures of each, and holds the labels counted within its own names, so that nothing else
   has to know of halves and offsets. */

/* The pictures of one part that the desc asks for; labels count over all classes. */
static fvg_status fvg__draw_items(fvg_items *out, const fvg_dataset *d, const fvg_task_desc *desc) {
  const fvg_items *part = &d->train;
  if (desc->split == FVG_VAL) part = &d->val;
  if (desc->split == FVG_TEST) part = &d->test;

  if (desc->shots < 1) return fvg_items_group(d->ctx, out, part, d->n_class, FVG_ALL);  /* a copy */
  if (desc->split == FVG_VAL)
    return fvg_items_few_shot_val(d->ctx, out, &d->train, &d->val, d->n_class, desc->shots,
                                  desc->seed);
  return fvg_items_few_shot(d->ctx, out, NULL, part, d->n_class, desc->shots, desc->seed);
}

/* The smallest number of items that a label has. */
static fvg_status fvg__count_fewest(fvg_ctx *c, int *fewest, const fvg_items *items, int n_class) {
  int *count = FVG_NEW_ARRAY(c, int, (size_t)n_class);
  if (!count) return FVG_E_NOMEM;
  for (int i = 0; i < items->n; i++) count[items->item[i].label]++;
  *fewest = fvg__smallest(count, n_class);
  fvg_release(c, count);
  return FVG_OK;
}

/* Draws from all classes and then takes those of the group, so that the draw does not depend on
   it. */
FVG_DEF fvg_status fvg_task_draw(fvg_task *out, const fvg_dataset *d, const fvg_task_desc *desc) {
  fvg_task_desc whole;
  memset(&whole, 0, sizeof whole);
  if (!desc) desc = &whole;
  if (out) memset(out, 0, sizeof *out);
  if (!d || !d->ctx) return FVG_E_ARG;           /* no context, no place for a message */
  if (!out) return fvg__missing(d->ctx, "fvg_task_draw", "a place for the task");

  int first;
  out->n_class = fvg_group_classes(d->n_class, desc->group, &first);
  if (out->n_class < 1)
    return fvg_fail(d->ctx, FVG_E_ARG, "%s: none of its %d classes are %s ones",
                    d->root, d->n_class,
                    desc->group == FVG_NEW ? "new" : "base");
  out->dataset = d;
  out->class_name = (const char *const *)d->class_name + first;

  fvg_items drawn = {NULL, 0};
  fvg_status s = fvg__draw_items(&drawn, d, desc);
  if (!s) s = fvg_items_group(d->ctx, &out->items, &drawn, d->n_class, desc->group);
  if (!s) s = fvg__count_fewest(d->ctx, &out->fewest, &out->items, out->n_class);
  fvg_items_free(d->ctx, &drawn);
  if (s) fvg_task_free(out);
  return s;
}

FVG_DEF void fvg_task_free(fvg_task *t) {
  if (!t || !t->dataset) return;
  fvg_items_free(t->dataset->ctx, &t->items);
  memset(t, 0, sizeof *t);
}

/*==================================================================================================
 * CHAPTER 27  FOLDERS: sorted names, and what does not belong
 *==================================================================================================
   C99 cannot list a folder.  The caller's desc.list does it, or <dirent.h> if the header is built
   with FVGPT_DIRENT. Names are sorted before anything is done with them, so the order in which a
   system lists a folder makes no difference.

   Folders hold more than pictures.  What systems and archivers leave behind (.DS_Store, Thumbs.db,
   __MACOSX) is ignored without a word.  Everything else whose ending is not a picture's is counted
   and reported in one warning, because half a class may be in a format that cannot be read. */

static char fvg__lower_case(char a) {
  return a >= 'A' && a <= 'Z' ? (char)(a - 'A' + 'a') : a;
}

/* ---- names and paths ---- */
FVG_DEF char *fvg_path_join(fvg_ctx *c, const char *folder, const char *name) {
  if (!folder || !name) {
    fvg__missing(c, "fvg_path_join", "a folder and a name");
    return NULL;
  }
  size_t n = strlen(folder), m = strlen(name) + 1;
  size_t slash = n && folder[n - 1] != '/' ? 1 : 0;
  char *path = FVG_NEW_ARRAY(c, char, n + slash + m);
  if (!path) return NULL;

  memcpy(path, folder, n);
  if (slash) path[n] = '/';
  memcpy(path + n + slash, name, m);
  return path;
}

#ifndef FVGPT_NO_STDIO
/* Compares without regard to case; `suffix` is in lower case and must not be the whole name. */
static int fvg__ends_with(const char *name, const char *suffix) {
  size_t n = strlen(name), m = strlen(suffix);
  if (n <= m) return 0;
  for (size_t i = 0; i < m; i++)
    if (fvg__lower_case(name[n - m + i]) != suffix[i])
      return 0;
  return 1;
}

/* *out becomes folder/name, or NULL if there is no such file. */
static fvg_status fvg__find_file(fvg_ctx *c, char **out, const char *folder, const char *name) {
  *out = fvg_path_join(c, folder, name);
  if (!*out) return FVG_E_NOMEM;
  if (fvg_file_exists(*out)) return FVG_OK;
  fvg_release(c, *out);
  *out = NULL;
  return FVG_OK;
}

/* ---- listing with <dirent.h> ---- */
#ifdef FVGPT_DIRENT
#include <dirent.h>
#include <sys/stat.h>

/* 1 for a folder, 0 for a file, -1 for a pipe or device.  stat is asked, because d_type is not in
   POSIX. */
static int fvg__kind_of_entry(const char *folder, const char *name) {
  char path[4096];
  int n = fvg__print(path, sizeof path, "%s/%s", folder, name);
  if (n <= 0 || (size_t)n >= sizeof path) return 0;

  struct stat found;
  if (stat(path, &found)) return 0;
  if (S_ISDIR(found.st_mode)) return 1;
  return S_ISREG(found.st_mode) ? 0 : -1;
}

FVG_DEF int fvg_list_folder(void *user, const char *folder,
                            void (*entry)(void *arg, const char *name, int is_folder), void *arg) {
  (void)user;
  DIR *dir = opendir(folder);
  if (!dir) return -1;

  for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
    if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
      continue;
    entry(arg, e->d_name, fvg__kind_of_entry(folder, e->d_name));
  }
  closedir(dir);
  return 0;
}
#endif

/* ---- which entries are wanted ---- */
/* Tests whether `dot`, n characters with the dot, is one of the endings, whatever its case. */
static int fvg__is_among_endings(const char *endings, const char *dot, size_t n) {
  const char *at = endings;
  while (*at) {
    size_t length = 1 + strcspn(at + 1, ".");
    if (length == n && fvg__begins((const uint8_t *)dot, n, at, n))
      return 1;
    at += length;
  }
  return 0;
}

/* Returns the kind that a file's name promises by its ending, or NULL if no such kind is read. */
static const fvg__image_kind *fvg__image_kind_of_name(const char *path) {
  const char *dot = strrchr(path, '.');
  size_t n = dot ? strlen(dot) : 0;
  if (n < 2 || strpbrk(dot, "/\\")) return NULL;

  for (size_t i = 0; i < FVG__N_IMAGE_KIND; i++) {
    const fvg__image_kind *kind = &fvg__image_kinds[i];
    if (fvg__is_among_endings(kind->endings, dot, n)) return kind;
  }
  return NULL;
}

typedef int (*fvg__keep_fn)(const char *name, int is_folder);

static int fvg__keep_folder(const char *name, int is_folder) {
  (void)name;
  return is_folder > 0;
}

static int fvg__keep_folder_but_mask(const char *name, int is_folder) {
  return is_folder > 0 && strcmp(name, "mask");
}

/* Caltech-101 has two folders that CoOp leaves out. */
static int fvg__keep_caltech_class(const char *name, int is_folder) {
  return is_folder > 0 && strcmp(name, "BACKGROUND_Google") && strcmp(name, "Faces_easy");
}

static int fvg__keep_split(const char *name, int is_folder) {
  static const char start[] = "split_zhou_";
  if (is_folder) return 0;
  if (!strcmp(name, "split.json")) return 1;
  return !strncmp(name, start, sizeof start - 1) && fvg__ends_with(name, ".json");
}

/* The ending decides what is listed; what a file really holds is found out when it is read. */
static int fvg__keep_image(const char *name, int is_folder) {
  return !is_folder && fvg__image_kind_of_name(name) != NULL;
}

/* Hidden names, and what macOS, Windows and network drives leave in folders. */
static int fvg__is_litter(const char *name) {
  static const char *const litter[] = {
    "thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin",
    "system volume information", "icon\r"};

  if (name[0] == '.' || name[0] == 0)
    return 1;
  for (size_t i = 0; i < sizeof litter / sizeof *litter; i++) {
    size_t k = 0;
    while (litter[i][k] && fvg__lower_case(name[k]) == litter[i][k]) k++;
    if (!litter[i][k] && !name[k])
      return 1;
  }
  return 0;
}

/* ---- what was left out ---- */
enum { FVG__ENDINGS = 12 };

/* What the folders of a data set hold beside pictures, to be reported in one line. */
typedef struct fvg__left_out {
  struct {
    char ending[8];                   /* in lower case, with the dot */
    int n;
  } kind[FVG__ENDINGS];
  int n_kind, n_other;                /* kinds in use; files with other endings */
  int n_folder, n_special, n_loose;   /* folders; pipes and devices; pictures outside classes */
  char first[100];                    /* the first name */
} fvg__left_out;

/* Counts a file by its ending. */
static void fvg__count_ending(fvg__left_out *x, const char *name) {
  char ending[sizeof x->kind[0].ending];
  const char *dot = strrchr(name, '.');
  if (!dot || dot == name || !dot[1] || strlen(dot) >= sizeof ending) {
    x->n_other++;
    return;
  }

  size_t n = 0;
  for (; dot[n]; n++)
    ending[n] = fvg__lower_case(dot[n]);
  ending[n] = 0;

  int k = 0;
  while (k < x->n_kind && strcmp(x->kind[k].ending, ending)) k++;
  if (k == FVG__ENDINGS) {
    x->n_other++;
    return;
  }
  if (k == x->n_kind) {
    memcpy(x->kind[k].ending, ending, n + 1);
    x->n_kind++;
  }
  x->kind[k].n++;
}

/* Outside class folders only pictures are counted: a read-me or a list is expected there. */
static void fvg__count_left_out(fvg__left_out *x, const char *name, int is_folder, int in_class) {
  if (!in_class && !fvg__keep_image(name, is_folder)) return;

  if (!x->first[0])
    fvg__print(x->first, sizeof x->first, "%s", name);
  if (!in_class) x->n_loose++;
  else if (is_folder > 0) x->n_folder++;
  else if (is_folder < 0) x->n_special++;
  else fvg__count_ending(x, name);
}

/* Appends ", n what" to a list. */
static void fvg__add_count(char *list, size_t size, int n, const char *one, const char *many) {
  if (!n) return;
  size_t used = strlen(list);
  fvg__print(list + used, size - used, "%s%d %s", used ? ", " : "", n, n == 1 ? one : many);
}

/* One warning about everything that was left out. */
static void fvg__tell_left_out(fvg_ctx *c, const fvg__left_out *x, const char *root) {
  char list[256];
  int n = x->n_other + x->n_folder + x->n_special + x->n_loose;
  list[0] = 0;

  for (int k = 0; k < x->n_kind; k++) {
    const char *ending = x->kind[k].ending;
    fvg__add_count(list, sizeof list, x->kind[k].n, ending, ending);
    n += x->kind[k].n;
  }
  if (!n) return;

  fvg__add_count(list, sizeof list, x->n_other, "other file", "other files");
  fvg__add_count(list, sizeof list, x->n_folder, "sub-folder", "sub-folders");
  fvg__add_count(list, sizeof list, x->n_special, "pipe or device", "pipes or devices");
  fvg__add_count(list, sizeof list, x->n_loose, "picture in no class folder",
                 "pictures in no class folder");
  fvg_log(c, 0,
          "%.140s: left out because they are no pictures that can be read, by their endings or "
          "places: %s (the first is %s)",
          root, list, x->first);
}

/* ---- sorted lists of names ---- */
typedef struct fvg__names {
  const char **name;                  /* [n] sorted; they point into text */
  int n;
  char *text;                         /* the names one after the other, each with its closing 0 */
  size_t used, capacity;              /* bytes of text */
} fvg__names;

/* What the listing callback works on. */
typedef struct fvg__collector {
  fvg_ctx *c;
  fvg__names *names;
  fvg__keep_fn keep;
  fvg__left_out *left_out;            /* NULL: not counted */
  fvg_status status;
} fvg__collector;

static void fvg__names_free(fvg_ctx *c, fvg__names *x) {
  fvg_release(c, (void *)x->name);
  fvg_release(c, x->text);
  memset(x, 0, sizeof *x);
}

/* Appends a name to the text, which at least doubles when it is full. */
static fvg_status fvg__names_add(fvg_ctx *c, fvg__names *x, const char *name) {
  size_t n = strlen(name) + 1;
  if (x->n == INT32_MAX)
    return fvg_fail(c, FVG_E_UNSUPPORTED, "a folder holds more than %d names", INT32_MAX);

  if (n > x->capacity - x->used) {
    size_t capacity = 2 * x->capacity + n + 256;
    char *text = FVG_NEW_ARRAY(c, char, capacity);
    if (!text) return FVG_E_NOMEM;
    if (x->used)
      memcpy(text, x->text, x->used);
    fvg_release(c, x->text);
    x->text = text;
    x->capacity = capacity;
  }

  memcpy(x->text + x->used, name, n);
  x->used += n;
  x->n++;
  return FVG_OK;
}

/* Is called for every entry; a callback cannot stop the listing, so it does nothing after a
   failure. */
static void fvg__collect(void *arg, const char *name, int is_folder) {
  fvg__collector *k = (fvg__collector *)arg;
  if (!k->status)
    k->status = fvg__check_cancelled(k->c);
  if (k->status || fvg__is_litter(name)) return;

  if (k->keep(name, is_folder))
    k->status = fvg__names_add(k->c, k->names, name);
  else if (k->left_out)
    fvg__count_left_out(k->left_out, name, is_folder, k->keep == fvg__keep_image);
}

static fvg_status fvg__names_sort(fvg_ctx *c, fvg__names *x) {
  const void **sorted = FVG_NEW_ARRAY(c, const void *, (size_t)x->n);
  x->name = FVG_NEW_ARRAY(c, const char *, (size_t)x->n);
  fvg_status s = sorted && x->name ? FVG_OK : FVG_E_NOMEM;

  if (!s) {
    const char *at = x->text;
    for (int i = 0; i < x->n; i++) {
      sorted[i] = at;
      at += strlen(at) + 1;
    }
    fvg__sort(sorted, (size_t)x->n, fvg__compare_strings);
    for (int i = 0; i < x->n; i++)
      x->name[i] = (const char *)sorted[i];
  }
  fvg_release(c, (void *)sorted);
  return s;
}

/* The index of a name, or -1. */
static int fvg__names_find(const fvg__names *x, const char *name) {
  int low = 0, high = x->n;
  while (low < high) {
    int middle = low + (high - low) / 2;
    int order = strcmp(x->name[middle], name);
    if (order == 0) return middle;
    if (order < 0) low = middle + 1;
    else high = middle;
  }
  return -1;
}

/* The sorted names in a folder that `keep` wants; the others are counted in *left_out, unless that
   is NULL. */
static fvg_status fvg__list(fvg_ctx *c, fvg__names *out, const fvg_dataset_desc *desc,
                            const char *folder, fvg__keep_fn keep, fvg__left_out *left_out) {
  memset(out, 0, sizeof *out);
  if (!desc->list)
    return fvg_fail(c, FVG_E_UNSUPPORTED,
                    "%.300s: folders cannot be listed: give desc.list, build with FVGPT_DIRENT or "
                    "name a split file in desc.split",
                    folder);

  fvg__collector k;
  memset(&k, 0, sizeof k);
  k.c = c;
  k.names = out;
  k.keep = keep;
  k.left_out = left_out;
  int failed = desc->list(desc->list_user, folder, fvg__collect, &k);

  fvg_status s = k.status;
  if (!s && failed) s = fvg_fail(c, FVG_E_IO, "%.400s: cannot be opened as a folder", folder);
  if (!s) s = fvg__names_sort(c, out);
  if (s) fvg__names_free(c, out);
  return s;
}
#endif

/*==================================================================================================
 * CHAPTER 28  DATA SETS: split files, and the paths in them
 *==================================================================================================
   A data set is three lists of (picture, label), called train, val and test, and a name for each
   label.  It comes from

     a CoOp split file   {"train": [[path, label, class name], ...], "val": ..., "test": ...}, whose
                         paths are relative to some folder at or below the root, a different one
                         for each data set;
     plain folders       of the next chapter; or
     a published set     of the chapter after that.

   All of them end in one fvg__draft, a list of borrowed strings, from which fvg__dataset_build
   makes the data set. A path from a file is not trusted: it must stay below the root. */

enum { FVG__TRAIN = 0, FVG__VAL, FVG__TEST, FVG__PARTS };

/* ---- masks that the program gives ---- */
/* A mask is kept as bits, row by row without gaps, and found by its picture's path. */
typedef struct fvg__set_mask {
  char *path;                         /* NULL: the place is empty */
  uint8_t *bits;                      /* [(width height + 7) / 8]; NULL: it was taken back */
  int width, height;
} fvg__set_mask;

/* A hash table with open addressing, at most half full; places are never emptied. */
struct fvg__mask_store {
  fvg__set_mask *place;               /* [n_place] */
  int n_place, n_used;
};

static void fvg__mask_store_free(fvg_ctx *c, struct fvg__mask_store *x) {
  for (int i = 0; x && i < x->n_place; i++) {
    fvg_release(c, x->place[i].path);
    fvg_release(c, x->place[i].bits);
  }
  if (x) fvg_release(c, x->place);
  fvg_release(c, x);
}

/* FNV-1a.  What depends on an image, such as its random stream, depends on its path alone and not
   on the list that it stands in. */
static uint64_t fvg__path_hash(const char *path) {
  return fvg__hash(14695981039346656037u, path, strlen(path));
}

/* The place of a picture's mask, or the empty one where it belongs. */
static fvg__set_mask *fvg__mask_place(const struct fvg__mask_store *x, const char *path) {
  uint64_t at = fvg__path_hash(path);
  for (;;) {
    fvg__set_mask *place = &x->place[at % (uint64_t)x->n_place];
    if (!place->path || !strcmp(place->path, path)) return place;
    at++;
  }
}

/* Makes room for one more mask. */
static fvg_status fvg__mask_store_reserve(fvg_ctx *c, struct fvg__mask_store *x) {
  if (2 * (x->n_used + 1) <= x->n_place) return FVG_OK;
  struct fvg__mask_store larger = *x;
  larger.n_place = 4 * x->n_used + 64;
  larger.place = FVG_NEW_ARRAY(c, fvg__set_mask, (size_t)larger.n_place);
  if (!larger.place) return FVG_E_NOMEM;

  for (int i = 0; i < x->n_place; i++)
    if (x->place[i].path) *fvg__mask_place(&larger, x->place[i].path) = x->place[i];
  fvg_release(c, x->place);
  *x = larger;
  return FVG_OK;
}

/* The mask that a picture was given; NULL: none. */
static const fvg__set_mask *fvg__mask_given(const fvg_dataset *d, const char *path) {
  if (!d->masks || !d->masks->n_place) return NULL;
  const fvg__set_mask *place = fvg__mask_place(d->masks, path);
  return place->bits ? place : NULL;
}

/* Unpacks a mask into one channel of 0 and 255. */
static fvg_status fvg__unpack_mask(fvg_ctx *c, fvg_image *out, const fvg__set_mask *x) {
  fvg_status s = fvg__image_new(c, out, x->width, x->height, 1);
  if (s) return s;
  const size_t n = fvg__pixel_count(out);
  for (size_t i = 0; i < n; i++)
    out->pixels[i] = x->bits[i / 8] >> (i % 8) & 1 ? 255 : 0;
  return FVG_OK;
}

/* Keeps a mask, which is known to be one, in the store. */
static fvg_status fvg__keep_mask(fvg_ctx *c, struct fvg__mask_store *x, const char *path,
                                 const fvg_image *mask) {
  fvg_status s = fvg__mask_store_reserve(c, x);
  if (s) return s;
  const size_t n = fvg__pixel_count(mask);
  fvg__set_mask *place = fvg__mask_place(x, path);
  uint8_t *bits = FVG_NEW_ARRAY(c, uint8_t, (n + 7) / 8);
  char *name = place->path ? place->path : fvg_copy_string(c, path);
  if (!bits || !name) {
    fvg_release(c, bits);
    if (!place->path) fvg_release(c, name);
    return FVG_E_NOMEM;
  }

  for (size_t i = 0; i < n; i++)
    if (mask->pixels[i]) bits[i / 8] |= (uint8_t)(1u << (i % 8));
  x->n_used += !place->path;
  fvg_release(c, place->bits);
  place->path = name;
  place->bits = bits;
  place->width = mask->width;
  place->height = mask->height;
  return FVG_OK;
}

/* The picture that an item of a data set in memory names; NULL: none. */
static const fvg_picture *fvg__picture_of(const fvg_dataset *d, const char *path) {
  const long i = path[0] == '#' ? strtol(path + 1, NULL, 10) : -1;
  return i >= 0 && i < d->n_picture ? &d->picture[i] : NULL;
}

/* Fails unless a mask is an image of one channel and, where the picture is in memory, of its size;
   the size of a picture in a file is not known before it is loaded. */
static fvg_status fvg__check_mask(const fvg_dataset *d, const char *path, const fvg_image *mask) {
  fvg_status s = fvg__image_check(d->ctx, mask, path);
  if (s) return s;
  if (mask->channels != 1)
    return fvg_fail(d->ctx, FVG_E_ARG, "%.300s: a mask has one channel", path);
  if (!d->picture) return FVG_OK;

  const fvg_picture *of = fvg__picture_of(d, path);
  if (!of) return fvg_fail(d->ctx, FVG_E_ARG, "%s: there is no picture %.300s", d->root, path);
  if (mask->width == of->image.width && mask->height == of->image.height) return FVG_OK;
  return fvg_fail(d->ctx, FVG_E_ARG, "%.300s: was given a mask of %d x %d pixels, but has %d x %d",
                  path, mask->width, mask->height, of->image.width, of->image.height);
}

FVG_DEF fvg_status fvg_dataset_set_mask(fvg_dataset *d, const char *path, const fvg_image *mask) {
  if (!d || !d->ctx) return FVG_E_ARG;
  if (!path) return fvg__missing(d->ctx, "fvg_dataset_set_mask", "a picture's path");
  if (mask) {
    fvg_status s = fvg__check_mask(d, path, mask);
    if (s) return s;
  }
  if (!d->masks) return fvg_fail(d->ctx, FVG_E_ARG, "%.300s: the data set is not open", path);
  if (mask) return fvg__keep_mask(d->ctx, d->masks, path, mask);

  fvg__set_mask *place = d->masks->n_place ? fvg__mask_place(d->masks, path) : NULL;
  if (!place) return FVG_OK;
  fvg_release(d->ctx, place->bits);
  place->bits = NULL;
  return FVG_OK;
}

/* Unpacks the mask that a picture was given, which must have the picture's size. */
static fvg_status fvg__unpack_for(fvg_ctx *c, fvg_image *out, const fvg__set_mask *x,
                                  const fvg_image *image) {
  if (x->width == image->width && x->height == image->height) return fvg__unpack_mask(c, out, x);
  return fvg_fail(c, FVG_E_ARG, "%.300s: was given a mask of %d x %d pixels, but has %d x %d",
                  x->path, x->width, x->height, image->width, image->height);
}

/* ---- the life of a data set ---- */
FVG_DEF void fvg_dataset_free(fvg_dataset *d) {
  if (!d || !d->ctx) return;
  fvg_release(d->ctx, d->class_name);
  fvg_items_free(d->ctx, &d->train);
  fvg_items_free(d->ctx, &d->val);
  fvg_items_free(d->ctx, &d->test);
  fvg_release(d->ctx, d->paths);
  fvg_release(d->ctx, d->split_file);
  fvg_release(d->ctx, d->masks_told);
  fvg__mask_store_free(d->ctx, d->masks);
  fvg_release(d->ctx, d->root);
  memset(d, 0, sizeof *d);
}

/* ---- pictures in memory ---- */
/* Fails unless picture i has RGB pixels, a known label and part, and a mask of its size or none. */
static fvg_status fvg__check_picture(fvg_ctx *c, const fvg_picture *x, int i, int n_class) {
  const char *fault = NULL;
  if (!x->image.pixels || x->image.channels != 3) fault = "its image has no RGB pixels";
  else if (!fvg__image_fits(x->image.width, x->image.height))
    fault = "its image has sides of less than 1 pixel, or too many pixels";
  else if (x->label < 0 || x->label >= n_class) fault = "its label is none of the classes";
  else if (x->split != FVG_TRAIN && x->split != FVG_VAL && x->split != FVG_TEST)
    fault = "its part is neither train, val nor test";
  else if (x->mask.pixels && (x->mask.channels != 1 || x->mask.width != x->image.width ||
                              x->mask.height != x->image.height))
    fault = "its mask is not one channel of the image's size";
  return fault ? fvg_fail(c, FVG_E_ARG, "picture %d: %s", i, fault) : FVG_OK;
}

enum { FVG__PICTURE_PATH = sizeof "#2147483647" };         /* bytes of a picture's path in memory */

/* Copies the names one after the other into d->paths, after those of n pictures. */
static fvg_status fvg__memory_names(fvg_dataset *d, const char *const *class_name, int n_class,
                                    int n) {
  size_t bytes = (size_t)n * FVG__PICTURE_PATH;
  for (int i = 0; i < n_class; i++) bytes += strlen(class_name[i]) + 1;
  d->paths = (char *)fvg_alloc(d->ctx, bytes);
  d->class_name = FVG_NEW_ARRAY(d->ctx, char *, (size_t)n_class);
  if (!d->paths || !d->class_name) return FVG_E_NOMEM;

  for (int i = 0; i < n; i++) {
    char *path = d->paths + (size_t)i * FVG__PICTURE_PATH;
    fvg__print(path, FVG__PICTURE_PATH, "#%d", i);
  }
  char *at = d->paths + (size_t)n * FVG__PICTURE_PATH;
  for (int i = 0; i < n_class; i++) {
    const size_t size = strlen(class_name[i]) + 1;
    memcpy(at, class_name[i], size);
    fvg__blank_underscores(at);
    d->class_name[d->n_class++] = at;
    at += size;
  }
  return FVG_OK;
}

/* Lists of train, val and test whose paths are "#0", "#1", ...: the pictures' numbers. */
static fvg_status fvg__memory_items(fvg_dataset *d) {
  fvg_items *const part[] = {&d->train, &d->val, &d->test};
  for (int k = 0; k < 3; k++) {
    fvg_status s = fvg__items_new(d->ctx, part[k], d->n_picture);
    if (s) return s;
  }
  for (int i = 0; i < d->n_picture; i++) {
    fvg_items *items = part[d->picture[i].split];
    items->item[items->n].path = d->paths + (size_t)i * FVG__PICTURE_PATH;
    items->item[items->n++].label = d->picture[i].label;
  }
  return FVG_OK;
}

FVG_DEF fvg_status fvg_dataset_of_pictures(fvg_ctx *c, fvg_dataset *out,
                                           const fvg_picture *picture, int n,
                                           const char *const *class_name, int n_class) {
  if (!out) return fvg__missing(c, "fvg_dataset_of_pictures", "a place for the data set");
  memset(out, 0, sizeof *out);
  if (!picture || n < 1 || !class_name || n_class < 1)
    return fvg_fail(c, FVG_E_ARG, "fvg_dataset_of_pictures: %d pictures, %d classes", n, n_class);
  fvg_status s = fvg__need_names(c, "fvg_dataset_of_pictures", class_name, n_class);
  for (int i = 0; !s && i < n; i++) s = fvg__check_picture(c, &picture[i], i, n_class);
  if (s) return s;

  out->ctx = c;
  out->picture = picture;
  out->n_picture = n;
  out->root = fvg_copy_string(c, "pictures in memory");
  out->masks_told = FVG_NEW(c, int);
  out->masks = FVG_NEW(c, struct fvg__mask_store);
  s = out->root && out->masks_told && out->masks ? FVG_OK : FVG_E_NOMEM;
  if (!s) s = fvg__memory_names(out, class_name, n_class, n);
  if (!s) s = fvg__memory_items(out);
  if (s) {
    fvg_dataset_free(out);
    return s;
  }
  *out->masks_told = 1;                          /* masks are 0 and 255 already */
  return FVG_OK;
}

static fvg_status fvg__copy_image(fvg_ctx *c, fvg_image *out, const fvg_image *in) {
  fvg_status s = fvg__image_new(c, out, in->width, in->height, in->channels);
  if (s) return s;
  memcpy(out->pixels, in->pixels, fvg__pixel_count(in) * (size_t)in->channels);
  out->orientation = in->orientation;
  return FVG_OK;
}

/* fvg_dataset_load for a data set in memory: copies of the picture and of its mask. */
static fvg_status fvg__load_picture(const fvg_dataset *d, fvg_image *image, fvg_image *mask,
                                    const fvg_item *item) {
  if (image) memset(image, 0, sizeof *image);
  if (mask) memset(mask, 0, sizeof *mask);
  const fvg_picture *from = fvg__picture_of(d, item->path);
  if (!from) return fvg_fail(d->ctx, FVG_E_ARG, "%s: there is no picture %s", d->root, item->path);

  const fvg__set_mask *given = fvg__mask_given(d, item->path);
  fvg_status s = image ? fvg__copy_image(d->ctx, image, &from->image) : FVG_OK;
  if (!s && mask && given) s = fvg__unpack_for(d->ctx, mask, given, &from->image);
  else if (!s && mask && from->mask.pixels) s = fvg__copy_image(d->ctx, mask, &from->mask);
  if (s && image) fvg_image_free(d->ctx, image);
  return s;
}

#ifdef FVGPT_NO_STDIO
FVG_DEF fvg_status fvg_dataset_open(fvg_ctx *c, fvg_dataset *out, const fvg_dataset_desc *desc) {
  if (!out) return fvg__missing(c, "fvg_dataset_open", "a place for the data set");
  memset(out, 0, sizeof *out);
  if (!desc || !desc->root || !*desc->root)
    return fvg_fail(c, FVG_E_ARG, "data set: desc.root is not given");
  return fvg_fail(c, FVG_E_UNSUPPORTED,
                  "%.300s: built with FVGPT_NO_STDIO, so data sets cannot be read from files",
                  desc->root);
}

FVG_DEF fvg_status fvg_dataset_load(const fvg_dataset *d, fvg_image *image, fvg_image *mask,
                                    const fvg_item *item, float mask_threshold) {
  if (image) memset(image, 0, sizeof *image);
  if (mask) memset(mask, 0, sizeof *mask);
  if (!d || !d->ctx) return FVG_E_ARG;
  if (!item) return fvg__missing(d->ctx, "fvg_dataset_load", "a picture's item");
  if (d->picture) return fvg__load_picture(d, image, mask, item);
  (void)mask_threshold;
  return fvg_fail(d->ctx, FVG_E_UNSUPPORTED,
                  "%.300s: built with FVGPT_NO_STDIO, so pictures cannot be read", item->path);
}

FVG_DEF fvg_status fvg_dataset_check(fvg_dataset *d, int what, int skip_bad) {
  (void)what;
  (void)skip_bad;
  if (!d || !d->ctx) return FVG_E_ARG;
  if (d->picture) return FVG_OK;                 /* they were checked when the set was made */
  return fvg_fail(d->ctx, FVG_E_UNSUPPORTED,
                  "built with FVGPT_NO_STDIO, so pictures cannot be checked");
}
#else

/* Collects the pictures of a folder in the order of their names, which listing does not promise. */
FVG_DEF fvg_status fvg_list_pictures(fvg_ctx *c, fvg_names *out, const char *folder) {
  if (!out) return fvg__missing(c, "fvg_list_pictures", "a place for the names");
  memset(out, 0, sizeof *out);
  if (!folder) return fvg__missing(c, "fvg_list_pictures", "a folder");
  fvg_dataset_desc desc;
  memset(&desc, 0, sizeof desc);
#ifdef FVGPT_DIRENT
  desc.list = fvg_list_folder;
#endif
  fvg__left_out left_out;
  memset(&left_out, 0, sizeof left_out);
  fvg__names found;
  fvg_status s = fvg__list(c, &found, &desc, folder, fvg__keep_image, &left_out);
  if (!s) fvg__tell_left_out(c, &left_out, folder);

  out->name = found.name;
  out->n = found.n;
  out->text = found.text;
  return s;
}

FVG_DEF void fvg_names_free(fvg_ctx *c, fvg_names *x) {
  if (!x) return;
  fvg_release(c, (void *)x->name);
  fvg_release(c, x->text);
  memset(x, 0, sizeof *x);
}

/* ---- from draft to data set ---- */
/* The picture HOME/PREFIX/folder/name; folder may be "". */
typedef struct fvg__entry {
  const char *folder, *name;
  int label;
} fvg__entry;

/* A data set in the making.  All its strings are borrowed. */
typedef struct fvg__draft {
  fvg__entry *entry;                  /* train, then val, then test */
  int n[FVG__PARTS];                  /* entries of each part */
  int n_class;
  const char **class_name;            /* [n_class] */
  const char *home;                   /* "" or a folder below the root */
  const char *prefix[FVG__PARTS];     /* "" or a folder below home; NULL: the part is empty */
  int from_windows;                   /* 1: backslashes in names are slashes */
  fvg__left_out left_out;
} fvg__draft;

static const char *const fvg__part_name[FVG__PARTS] = {"train", "val", "test"};

static void fvg__draft_free(fvg_ctx *c, fvg__draft *d) {
  fvg_release(c, d->entry);
  fvg_release(c, (void *)d->class_name);
  memset(d, 0, sizeof *d);
}

static fvg_status fvg__too_many_pictures(fvg_ctx *c, const char *root) {
  return fvg_fail(c, FVG_E_UNSUPPORTED, "%.300s: more than %d pictures", root, INT32_MAX);
}

/* Adds n to the number of entries of a part. */
static fvg_status fvg__draft_count(fvg_ctx *c, fvg__draft *d, int part, int n, const char *root) {
  if (n > INT32_MAX - d->n[part])
    return fvg__too_many_pictures(c, root);
  d->n[part] += n;
  return FVG_OK;
}

/* Makes room for the entries, whose numbers are in d->n, and for as many class names. */
static fvg_status fvg__draft_reserve(fvg_ctx *c, fvg__draft *d, const char *root) {
  size_t n = 0;
  for (int part = 0; part < FVG__PARTS; part++)
    n += (size_t)d->n[part];
  if (n > INT32_MAX) return fvg__too_many_pictures(c, root);

  d->entry = FVG_NEW_ARRAY(c, fvg__entry, n);
  d->class_name = FVG_NEW_ARRAY(c, const char *, n);
  return d->entry && d->class_name ? FVG_OK : FVG_E_NOMEM;
}

static int fvg__draft_total(const fvg__draft *d) {
  return d->n[FVG__TRAIN] + d->n[FVG__VAL] + d->n[FVG__TEST];
}

/* The put functions write at `at` and return what follows.  A folder ends with a slash, a string
   with its 0. */
static char *fvg__put_folder(char *at, const char *folder) {
  size_t n = strlen(folder);
  memcpy(at, folder, n);
  at += n;
  if (n) *at++ = '/';
  return at;
}

static char *fvg__put_string(char *at, const char *text) {
  size_t n = strlen(text) + 1;
  memcpy(at, text, n);
  return at + n;
}

/* Every class has a name.  Two that mean the same stay two, since folders may be called Cat and
   cat, but nothing can tell them apart by their names. */
static fvg_status fvg__check_class_names(fvg_ctx *c, const fvg_dataset *d) {
  const char *const *name = (const char *const *)d->class_name;
  const char *root = d->root ? d->root : "data set";
  char said[320];
  fvg__print(said, sizeof said, "%.300s", root);

  int *match = FVG_NEW_ARRAY(c, int, (size_t)d->n_class);
  fvg_status s = match ? FVG_OK : FVG_E_NOMEM;
  if (!s) s = fvg__check_not_empty(c, said, name, d->n_class);
  if (!s) s = fvg_match_names(c, match, name, d->n_class, name, d->n_class);

  int n_same = 0, last = 0;
  for (int i = 0; !s && i < d->n_class; i++) {
    if (match[i] == i) continue;
    n_same++;
    last = i;
  }
  if (n_same)
    fvg_log(c, 0,
            "%.150s: class %d \"%.60s\" means the same as class %d \"%.60s\"%s: names cannot tell "
            "them apart",
            root, last + 1, name[last], match[last] + 1, name[match[last]],
            n_same > 1 ? ", and there are more such pairs" : "");
  fvg_release(c, match);
  return s;
}

static void fvg__turn_backslashes(char *path) {
  for (; *path; path++)
    if (*path == '\\') *path = '/';
}

/* The bytes that all paths and class names of the data set take. */
static size_t fvg__draft_bytes(const fvg__draft *d) {
  const fvg__entry *e = d->entry;
  size_t bytes = 1;
  for (int part = 0; part < FVG__PARTS; part++)
    for (int i = 0; i < d->n[part]; i++, e++) {
      bytes += strlen(d->home) + strlen(d->prefix[part]);
      bytes += strlen(e->folder) + strlen(e->name) + 4;   /* three slashes and the closing 0 */
    }
  for (int i = 0; i < d->n_class; i++)
    bytes += strlen(d->class_name[i]) + 1;
  return bytes;
}

/* Makes the items of one part from the draft's entries and writes their paths at *at, which moves
   on. */
static fvg_status fvg__build_part(fvg_ctx *c, fvg_items *out, const fvg__draft *d, int part,
                                  const fvg__entry *entry, char **at) {
  if (fvg__items_new(c, out, d->n[part])) return FVG_E_NOMEM;

  for (int i = 0; i < d->n[part]; i++) {
    out->item[i].path = *at;
    out->item[i].label = entry[i].label;

    *at = fvg__put_folder(*at, d->home);
    *at = fvg__put_folder(*at, d->prefix[part]);
    *at = fvg__put_folder(*at, entry[i].folder);
    char *name = *at;
    *at = fvg__put_string(*at, entry[i].name);
    if (d->from_windows) fvg__turn_backslashes(name);
  }
  out->n = d->n[part];
  return FVG_OK;
}

/* Copies everything that the draft says into the data set, all strings into one block. */
static fvg_status fvg__dataset_build(fvg_ctx *c, fvg_dataset *out, const fvg__draft *d) {
  fvg_items *const list[FVG__PARTS] = {&out->train, &out->val, &out->test};
  out->paths = FVG_NEW_ARRAY(c, char, fvg__draft_bytes(d));
  if (!out->paths) return FVG_E_NOMEM;

  char *at = out->paths;
  const fvg__entry *entry = d->entry;
  for (int part = 0; part < FVG__PARTS; part++) {
    fvg_status s = fvg__build_part(c, list[part], d, part, entry, &at);
    if (s) return s;
    entry += d->n[part];
  }

  out->class_name = FVG_NEW_ARRAY(c, char *, (size_t)d->n_class);
  if (!out->class_name) return FVG_E_NOMEM;
  out->n_class = d->n_class;
  for (int i = 0; i < d->n_class; i++) {
    out->class_name[i] = at;
    at = fvg__put_string(at, d->class_name[i]);
    fvg_tidy_name(out->class_name[i]);
  }
  return fvg__check_class_names(c, out);
}

/* ---- entries from a file ---- */
/* A path from a file must stay below the root: it is not absolute, names no drive, and no part of
   it is "..". */
static int fvg__path_is_safe(const char *path) {
  if (path[0] == '/' || path[0] == '\\')
    return 0;
  if (path[0] && path[1] == ':')
    return 0;

  const char *p = path;
  while (*p) {
    size_t n = strcspn(p, "/\\");
    if (n == 2 && p[0] == '.' && p[1] == '.')
      return 0;
    p += n;
    if (*p) p++;
  }
  return 1;
}

static int fvg__has_control(const char *s) {
  for (; *s; s++)
    if ((unsigned char)*s < 32 || *s == 127)
      return 1;
  return 0;
}

/* Fills e with what a file says at `where`; 0 <= label < the number of entries. */
static fvg_status fvg__draft_item(fvg_ctx *c, fvg__draft *d, fvg__entry *e, const char *path,
                                  int label, const char *name, const char *file,
                                  const char *where) {
  if (!*path || fvg__has_control(path))
    return fvg_fail(c, FVG_E_FORMAT,
                    "%.200s: %s: the path is empty or holds control characters", file, where);
  if (!*name || fvg__has_control(name))
    return fvg_fail(c, FVG_E_FORMAT,
                    "%.200s: %s: the class name is empty or holds control characters",
                    file, where);
  if (!fvg__path_is_safe(path))
    return fvg_fail(c, FVG_E_FORMAT,
                    "%.200s: %s: path \"%.120s\" is absolute or has a part \"..\"",
                    file, where, path);

  e->folder = "";
  e->name = path;
  e->label = label;

  const char **known = &d->class_name[label];
  if (!*known) *known = name;
  if (!fvg_same_name(c, *known, name))
    return fvg_fail(c, FVG_E_FORMAT,
                    "%.200s: %s: label %d is called \"%.80s\" here, but \"%.80s\" before",
                    file, where, label, name, *known);
  if (label >= d->n_class) d->n_class = label + 1;
  return FVG_OK;
}

static fvg_status fvg__draft_check_labels(fvg_ctx *c, const fvg__draft *d, const char *file) {
  for (int i = 0; i < d->n_class; i++)
    if (!d->class_name[i])
      return fvg_fail(c, FVG_E_FORMAT,
                      "%.300s: label %d has no entry; labels 0..%d must all be there",
                      file, i, d->n_class - 1);
  return FVG_OK;
}

/* ---- split files ---- */
/* Reads one [path, label, class name], which is entry `index` of its part; n_total bounds the
   labels. */
static fvg_status fvg__read_entry(fvg_ctx *c, fvg__draft *d, fvg__entry *e, const fvg_json *j,
                                  int value, int part, int index, int n_total, const char *file) {
  char where[32];
  fvg__print(where, sizeof where, "%s[%d]", fvg__part_name[part], index);

  const fvg_json_value *list = &j->value[value];
  if (list->type != FVG_JSON_ARRAY || list->n_child != 3)
    return fvg_fail(c, FVG_E_FORMAT, "%.200s: %s is not a list [path, label, class name]",
                    file, where);

  const fvg_json_value *path = &j->value[list->first];
  const fvg_json_value *number = &j->value[path->next];
  const fvg_json_value *name = &j->value[number->next];
  if (path->type != FVG_JSON_STRING || number->type != FVG_JSON_NUMBER ||
      name->type != FVG_JSON_STRING)
    return fvg_fail(c, FVG_E_FORMAT,
                    "%.200s: %s must be [string, number, string] = [path, label, class name]",
                    file, where);

  double label = number->number;
  if (!(label >= 0) || label != floor(label))
    return fvg_fail(c, FVG_E_FORMAT, "%.200s: %s: label %g is not a whole number from 0",
                    file, where, label);
  if (label >= n_total)
    return fvg_fail(c, FVG_E_FORMAT,
                    "%.200s: %s: label %g, but the file has only %d entries; labels must be "
                    "0, 1, 2 ... without a gap",
                    file, where, label, n_total);
  return fvg__draft_item(c, d, e, path->string, (int)label, name->string, file, where);
}

/* Finds the parts of a split file, of which val may be missing: first[part] is the index of its
   first entry. */
static fvg_status fvg__find_parts(fvg_ctx *c, fvg__draft *d, const fvg_json *j, const char *file,
                                  int first[FVG__PARTS]) {
  if (j->n < 1 || j->value[0].type != FVG_JSON_OBJECT)
    return fvg_fail(c, FVG_E_FORMAT,
                    "%.300s: not a split file, which is an object with train, val and test", file);

  for (int part = 0; part < FVG__PARTS; part++) {
    int at = fvg_json_find(j, 0, fvg__part_name[part]);
    if (part == FVG__VAL && at < 0) continue;
    if (at < 0 || j->value[at].type != FVG_JSON_ARRAY)
      return fvg_fail(c, FVG_E_FORMAT,
                      "%.300s: not a split file: \"%s\" is missing or not a list",
                      file, fvg__part_name[part]);
    d->n[part] = j->value[at].n_child;
    first[part] = j->value[at].first;
  }
  if (!d->n[FVG__TRAIN])
    return fvg_fail(c, FVG_E_FORMAT, "%.300s: \"train\" is empty", file);
  return FVG_OK;
}

/* The strings of the draft stay in `j`. */
static fvg_status fvg__draft_from_json(fvg_ctx *c, fvg__draft *d, const fvg_json *j,
                                       const char *file) {
  int first[FVG__PARTS] = {-1, -1, -1};
  fvg_status s = fvg__find_parts(c, d, j, file, first);
  if (!s) s = fvg__draft_reserve(c, d, file);
  if (s) return s;

  const int n_total = fvg__draft_total(d);
  fvg__entry *e = d->entry;
  for (int part = 0; part < FVG__PARTS; part++) {
    int value = first[part];
    for (int i = 0; i < d->n[part]; i++) {
      s = fvg__read_entry(c, d, e++, j, value, part, i, n_total, file);
      if (s) return s;
      value = j->value[value].next;
    }
  }
  return fvg__draft_check_labels(c, d, file);
}

/* ---- where the paths of a split file start ---- */
/* *found: whether the first item of every part is there, below `folder`. */
static fvg_status fvg__has_first_items(fvg_ctx *c, const fvg__draft *d, const char *folder,
                                       int *found) {
  const fvg__entry *first = d->entry;
  *found = 1;
  for (int part = 0; part < FVG__PARTS && *found; part++) {
    if (!d->n[part]) continue;
    char *path = fvg_path_join(c, folder, first->name);
    if (!path) return FVG_E_NOMEM;
    if (d->from_windows) fvg__turn_backslashes(path + strlen(folder));
    *found = fvg_file_exists(path);
    fvg_release(c, path);
    first += d->n[part];
  }
  return FVG_OK;
}

/* *out becomes a copy of this prefix if the first item of every part is there, below it. */
static fvg_status fvg__try_prefix(fvg_ctx *c, char **out, const fvg__draft *d, const char *root,
                                  const char *prefix) {
  char *folder = fvg_path_join(c, root, prefix);
  if (!folder) return FVG_E_NOMEM;

  int found = 0;
  fvg_status s = fvg__has_first_items(c, d, folder, &found);
  fvg_release(c, folder);
  if (s || !found) return s;
  *out = fvg_copy_string(c, prefix);
  return *out ? FVG_OK : FVG_E_NOMEM;
}

/* The folder that the paths are relative to: one of the usual places, else any sub-folder of the
   root. */
static fvg_status fvg__find_prefix(fvg_ctx *c, char **out, const fvg__draft *d,
                                   const fvg_dataset_desc *desc, const char *file) {
  static const char *const usual[] = {"", "images", "101_ObjectCategories", "jpg", "2750",
                                      "UCF-101-midframes", "SUN397"};
  const int n_usual = (int)(sizeof usual / sizeof *usual);
  fvg_status s = FVG_OK;
  *out = NULL;
  for (int i = 0; i < n_usual && !*out && !s; i++)
    s = fvg__try_prefix(c, out, d, desc->root, usual[i]);

  fvg__names folders;
  memset(&folders, 0, sizeof folders);
  if (!*out && !s && desc->list)
    s = fvg__list(c, &folders, desc, desc->root, fvg__keep_folder_but_mask, NULL);
  for (int i = 0; i < folders.n && !*out && !s; i++)
    s = fvg__try_prefix(c, out, d, desc->root, folders.name[i]);
  fvg__names_free(c, &folders);

  if (s || *out) return s;
  return fvg_fail(c, FVG_E_IO,
                  "%.150s: the first items of %.150s (such as %.100s) are neither in it nor "
                  "together in one of its sub-folders; is it the right root?",
                  desc->root, file, d->entry[0].name);
}

/* The same for a published set, whose pictures lie where CoOp puts them, or without their own
   folder, or either of these in the root itself. */
static fvg_status fvg__find_published_prefix(fvg_ctx *c, char **out, const fvg__draft *d,
                                             const char *root, const fvg_dataset_card *card,
                                             const char *file) {
  *out = NULL;
  char *home = fvg_path_join(c, card->folder, card->images);
  if (!home) return FVG_E_NOMEM;

  const char *usual = *card->images ? home : card->folder;
  const char *const place[4] = {usual, card->folder, card->images, ""};
  fvg_status s = FVG_OK;
  for (int i = 0; i < 4 && !*out && !s; i++)
    s = fvg__try_prefix(c, out, d, root, place[i]);
  if (!*out && !s)
    s = fvg_fail(c, FVG_E_IO,
                 "%.120s: the first items of %.120s (such as %.100s) are not in its folder %s; is "
                 "it the right root?",
                 root, file, d->entry[0].name, usual);
  fvg_release(c, home);
  return s;
}

static fvg_status fvg__find_any_prefix(fvg_ctx *c, char **out, const fvg__draft *d,
                                       const fvg_dataset_desc *desc, const fvg_dataset_card *card,
                                       const char *file) {
  if (card)
    return fvg__find_published_prefix(c, out, d, desc->root, card, file);
  return fvg__find_prefix(c, out, d, desc, file);
}

/* ---- opening a split file ---- */
/* The bytes of the byte-order mark that a UTF-8 text from Windows may start with. */
static size_t fvg__bom_bytes(const uint8_t *text, size_t n) {
  return n >= 3 && !memcmp(text, "\xEF\xBB\xBF", 3) ? 3 : 0;
}

static fvg_status fvg__read_json(fvg_ctx *c, fvg_json *json, const char *file) {
  memset(json, 0, sizeof *json);
  uint8_t *bytes = NULL;
  size_t n = 0;
  fvg_status s = fvg__read_file(c, file, &bytes, &n);
  if (s) return s;

  size_t from = fvg__bom_bytes(bytes, n);
  s = fvg_json_parse(c, json, (const char *)bytes + from, n - from, file);
  fvg_bytes_free(c, bytes);
  return s;
}

/* Does a path hold a backslash? */
static int fvg__has_backslash(const fvg__draft *d) {
  int n = fvg__draft_total(d);
  for (int i = 0; i < n; i++)
    if (strchr(d->entry[i].name, '\\'))
      return 1;
  return 0;
}

/* Finds the prefix, first with the paths as they are written, then with backslashes read as
   slashes.  On Windows they are slashes from the start, where no name can hold one. */
static fvg_status fvg__place_draft(fvg_ctx *c, fvg__draft *d, char **prefix,
                                   const fvg_dataset_desc *desc, const fvg_dataset_card *card,
                                   const char *file) {
  int may_be_windows = fvg__has_backslash(d);
#ifdef _WIN32
  d->from_windows = may_be_windows;
#endif
  fvg_status s = fvg__find_any_prefix(c, prefix, d, desc, card, file);
  if (s != FVG_E_IO || d->from_windows || !may_be_windows) return s;
  d->from_windows = 1;
  return fvg__find_any_prefix(c, prefix, d, desc, card, file);
}

/* The data set that out->split_file describes. */
static fvg_status fvg__open_split(fvg_ctx *c, fvg_dataset *out, const fvg_dataset_desc *desc) {
  const char *file = out->split_file;
  fvg_json json;
  fvg_status s = fvg__read_json(c, &json, file);
  if (s) return s;

  fvg__draft draft;
  char *prefix = NULL;
  memset(&draft, 0, sizeof draft);
  s = fvg__draft_from_json(c, &draft, &json, file);
  if (!s) s = fvg__place_draft(c, &draft, &prefix, desc, out->card, file);
  if (!s) {
    draft.home = "";
    for (int part = 0; part < FVG__PARTS; part++)
      draft.prefix[part] = prefix;
    s = fvg__dataset_build(c, out, &draft);
  }

  fvg_release(c, prefix);
  fvg__draft_free(c, &draft);
  fvg_json_free(c, &json);
  return s;
}

/* ---- finding the split file ---- */
static fvg_status fvg__too_many_splits(fvg_ctx *c, const fvg__names *names, const char *root) {
  char line[256];
  size_t used = 0;
  line[0] = 0;
  for (int i = 0; i < names->n && used < sizeof line; i++) {
    const char *comma = i ? ", " : "";
    int n = fvg__print(line + used, sizeof line - used, "%s%.80s", comma, names->name[i]);
    used += n > 0 ? (size_t)n : sizeof line;
  }
  return fvg_fail(c, FVG_E_ARG, "%.150s: %d split files: %s; choose one with desc.split",
                  root, names->n, line);
}

/* The only split file that a listing of the root finds; *out stays NULL if there is none. */
static fvg_status fvg__list_splits(fvg_ctx *c, char **out, const fvg_dataset_desc *desc) {
  fvg__names found;
  fvg_status s = fvg__list(c, &found, desc, desc->root, fvg__keep_split, NULL);
  if (s) return s;

  if (found.n > 1)
    s = fvg__too_many_splits(c, &found, desc->root);
  if (found.n == 1) {
    *out = fvg_path_join(c, desc->root, found.name[0]);
    if (!*out) s = FVG_E_NOMEM;
  }
  fvg__names_free(c, &found);
  return s;
}

/* The split file to use: the one that was asked for, as a path or inside the root; else a
   published set's, in its folder or in the root; else the one that the root holds.  *out stays
   NULL if there is none and none was asked for. */
static fvg_status fvg__find_split(fvg_ctx *c, char **out, const fvg_dataset_desc *desc,
                                  const fvg_dataset_card *card) {
  if (desc->split && fvg_file_exists(desc->split)) {
    *out = fvg_copy_string(c, desc->split);
    return *out ? FVG_OK : FVG_E_NOMEM;
  }

  const char *name = card ? card->split_file : "split.json";
  if (desc->split) name = desc->split;
  if (card && name) {
    char *folder = fvg_path_join(c, desc->root, card->folder);
    if (!folder) return FVG_E_NOMEM;
    fvg_status s = fvg__find_file(c, out, folder, name);
    fvg_release(c, folder);
    if (s || *out) return s;
  }

  int will_list = !desc->split && !card && desc->list;
  if (name && !will_list) {
    fvg_status s = fvg__find_file(c, out, desc->root, name);
    if (s || *out) return s;
  }

  if (desc->split)
    return fvg_fail(c, FVG_E_IO,
                    "%.200s: no such split file, neither as given nor inside %.200s",
                    desc->split, desc->root);
  return card ? FVG_OK : fvg__list_splits(c, out, desc);
}
#endif
/*==================================================================================================
 * CHAPTER 29  CLASS FOLDERS: a folder per class, cut into train, val and test
 *==================================================================================================
   Without a split file, folders say which class a picture is of.  Either all pictures of a class
   lie in ROOT/<class>/<picture>, which is cut 50/20/30 after a shuffle with a fixed seed, or
   somebody has cut them already: ROOT/train/<class>/<picture> beside ROOT/test and, if there is
   one, ROOT/val.

   A class without a picture to train on and one to test is left out with a warning.  The val list
   is for choosing among models, which base-to-new does not do; a small set can give its share to
   train, and its test pictures stay the same. */

#ifndef FVGPT_NO_STDIO
/* ---- the cut ---- */
/* Python's round(n * 0.2) */
static int fvg__a_fifth(int n) { return n / 5 + (n % 5 > 2); }

/* Python's round(n * 0.5), which rounds halves to even */
static int fvg__a_half(int n) { return n / 2 + (n % 2 && n / 2 % 2); }

/* Of n pictures of a class, a half is for train, a fifth for val, and the rest for test; val gives
   way if test would be left without any.  Another share of val is taken from train or given to it,
   so the test pictures, which come last, are the same. */
static void fvg__cut(int n, int val_percent, int cut[FVG__PARTS]) {
  int train = fvg__a_half(n), val = fvg__a_fifth(n);
  if (val && train + val == n) val--;
  cut[FVG__TEST] = n - train - val;

  if (val_percent > 0)
    val = (int)(((double)n * val_percent + 50) / 100);
  if (val_percent < 0) val = 0;
  if (val > n - cut[FVG__TEST] - 1)
    val = n - cut[FVG__TEST] - 1;
  cut[FVG__VAL] = val > 0 ? val : 0;
  cut[FVG__TRAIN] = n - cut[FVG__VAL] - cut[FVG__TEST];
}

/* ---- classes without pictures ---- */
/* Appends a name to a list of at most five, for a warning; returns what the list takes up then. */
static size_t fvg__add_name(char *list, size_t size, size_t used, const char *name) {
  fvg__print(list + used, size - used, "%s%.30s", used ? ", " : "", name);
  return used + strlen(list + used);
}

/* Frees the lists of pictures [n_part][n] of the classes that `poor` marks, and closes the gaps. */
static void fvg__drop_images(fvg_ctx *c, fvg__names *images, int n_part, int n, const char *poor) {
  const size_t all = fvg__row(n_part, n);
  size_t kept = 0;
  for (int part = 0; part < n_part; part++)
    for (int label = 0; label < n; label++) {
      fvg__names *x = images + fvg__row(part, n) + label;
      if (poor[label]) fvg__names_free(c, x);
      else images[kept++] = *x;
    }
  for (; kept < all; kept++)
    memset(&images[kept], 0, sizeof *images);
}

/* Leaves out the classes that `poor` marks, from classes and from images [n_part][class], and says
   which. */
static fvg_status fvg__drop_classes(fvg_ctx *c, fvg__names *classes, fvg__names *images, int n_part,
                                    const char *poor, const char *root) {
  const int n = classes->n;
  char list[200];
  size_t used = 0;
  int n_poor = 0, n_kept = 0;
  for (int label = 0; label < n; label++) {
    const char *name = classes->name[label];
    if (!poor[label]) {
      classes->name[n_kept++] = name;
      continue;
    }
    n_poor++;
    if (n_poor <= 5)
      used = fvg__add_name(list, sizeof list, used, name);
  }
  if (!n_poor) return FVG_OK;

  fvg__drop_images(c, images, n_part, n, poor);
  classes->n = n_kept;
  if (!n_kept)
    return fvg_fail(c, FVG_E_FORMAT,
                    "%.200s: none of the %d class folders (such as %s) holds a picture to train "
                    "on and one to test",
                    root, n, list);
  fvg_log(c, 0,
          "%.140s: %d of %d class folders are left out, for a class needs a picture to train on "
          "and one to test: %s%s",
          root, n_poor, n, list, n_poor > 5 ? ", ..." : "");
  return FVG_OK;
}

/* The pictures in ROOT/part/name; `part` may be "". */
static fvg_status fvg__list_images(fvg_ctx *c, fvg__names *out, const fvg_dataset_desc *desc,
                                   const char *part, const char *name, fvg__left_out *left_out) {
  char *folder = fvg_path_join(c, desc->root, part);
  char *path = folder ? fvg_path_join(c, folder, name) : NULL;
  fvg_status s = FVG_E_NOMEM;
  if (path)
    s = fvg__list(c, out, desc, path, fvg__keep_image, left_out);
  fvg_release(c, folder);
  fvg_release(c, path);
  return s;
}

/* ---- folders to be cut ---- */
/* The pictures of all classes, images [class]; a class needs two. */
static fvg_status fvg__list_whole_classes(fvg_ctx *c, fvg__draft *d, fvg__names *classes,
                                          fvg__names *images, const fvg_dataset_desc *desc) {
  char *poor = FVG_NEW_ARRAY(c, char, (size_t)classes->n);
  if (!poor) return FVG_E_NOMEM;

  fvg_status s = FVG_OK;
  for (int label = 0; label < classes->n && !s; label++) {
    const char *name = classes->name[label];
    s = fvg__list_images(c, &images[label], desc, d->prefix[0], name, &d->left_out);
    if (!s) poor[label] = images[label].n < 2;
  }
  if (!s) s = fvg__drop_classes(c, classes, images, 1, poor, desc->root);
  fvg_release(c, poor);
  return s;
}

/* Says how the classes were cut: whoever has ten pictures per class and reads "only 5" must know
   why. */
static void fvg__tell_cut(fvg_ctx *c, const fvg__draft *d, const fvg_dataset_desc *desc,
                          int n_class, int fewest, int most) {
  char each[40], how[80];
  fvg__print(each, sizeof each, fewest < most ? "%d to %d" : "%d", fewest, most);

  int percent = desc->val_percent > 0 ? desc->val_percent : 0;
  if (desc->val_percent)
    fvg__print(how, sizeof how, "val's share was set to %d %%", percent);
  else
    fvg__print(how, sizeof how, "50/20/30 %%; --val 0 (val_percent -1) gives val's share to train");

  fvg_log(c, 1,
          "%.200s: %d classes of %s pictures are cut into %d to train, %d for val, %d to test "
          "(%s)",
          desc->root, n_class, each, d->n[FVG__TRAIN], d->n[FVG__VAL], d->n[FVG__TEST], how);
}

/* Cuts the pictures of one class and writes them after the entries of each part, to which at
   [parts] points.  The label is the stream of the shuffle: how many pictures other classes have
   makes no difference, but a new class folder that sorts before this one changes its label, and
   with it the cut.  order holds as many ints as there are pictures. */
static void fvg__cut_class(fvg__entry *at[FVG__PARTS], const fvg__names *images,
                           const char *class_name, int label, int val_percent, int *order) {
  fvg_rng rng;
  fvg_rng_seed(&rng, 1, (uint64_t)label);
  for (int i = 0; i < images->n; i++)
    order[i] = i;
  fvg_rng_permute(&rng, order, images->n);

  int cut[FVG__PARTS], i = 0;
  fvg__cut(images->n, val_percent, cut);
  for (int part = 0; part < FVG__PARTS; part++)
    for (int k = 0; k < cut[part]; k++) {
      fvg__entry *e = at[part]++;
      e->folder = class_name;
      e->name = images->name[order[i++]];
      e->label = label;
    }
}

/* Fills the draft from ROOT/PREFIX/<class>/<picture>. */
static fvg_status fvg__draft_cut(fvg_ctx *c, fvg__draft *d, fvg__names *classes, fvg__names *images,
                                 const fvg_dataset_desc *desc) {
  fvg_status s = fvg__list_whole_classes(c, d, classes, images, desc);
  if (s) return s;

  int most = 0, fewest = INT32_MAX;
  for (int label = 0; label < classes->n; label++) {
    int n = images[label].n, cut[FVG__PARTS];
    fvg__cut(n, desc->val_percent, cut);
    for (int part = 0; part < FVG__PARTS && !s; part++)
      s = fvg__draft_count(c, d, part, cut[part], desc->root);
    if (s) return s;
    if (n > most) most = n;
    if (n < fewest) fewest = n;
  }

  s = fvg__draft_reserve(c, d, desc->root);
  if (s) return s;
  int *order = FVG_NEW_ARRAY(c, int, (size_t)most);
  if (!order) return FVG_E_NOMEM;

  fvg__entry *val = d->entry + d->n[FVG__TRAIN];
  fvg__entry *at[FVG__PARTS] = {d->entry, val, val + d->n[FVG__VAL]};
  for (int label = 0; label < classes->n; label++)
    fvg__cut_class(at, &images[label], classes->name[label], label, desc->val_percent, order);
  fvg_release(c, order);

  fvg__tell_cut(c, d, desc, classes->n, fewest, most);
  return FVG_OK;
}

/* ---- folders that are cut already ---- */
/* The class folders of ROOT/part.  One that train does not have is an error, since it has no
   label; train NULL: this is train. */
static fvg_status fvg__list_classes(fvg_ctx *c, fvg__names *out, const fvg_dataset_desc *desc,
                                    const char *part, fvg__keep_fn keep, const fvg__names *train,
                                    fvg__left_out *left_out) {
  char *folder = fvg_path_join(c, desc->root, part);
  if (!folder) return FVG_E_NOMEM;
  fvg_status s = fvg__list(c, out, desc, folder, keep, left_out);
  fvg_release(c, folder);
  if (s) return s;

  if (!out->n)
    s = fvg_fail(c, FVG_E_FORMAT, "%.300s: folder \"%s\" has no class folders", desc->root, part);
  for (int i = 0; train && i < out->n && !s; i++)
    if (fvg__names_find(train, out->name[i]) < 0)
      s = fvg_fail(c, FVG_E_FORMAT,
                   "%.200s: class folder \"%.100s\" is in \"%s\" but not in \"train\"",
                   desc->root, out->name[i], part);
  if (s) fvg__names_free(c, out);
  return s;
}

/* The pictures of one part, images [class].  Classes without a picture are marked as poor, but not
   in val. */
static fvg_status fvg__list_part(fvg_ctx *c, fvg__draft *d, int part, const fvg__names *classes,
                                 fvg__names *images, char *poor, const fvg_dataset_desc *desc) {
  /* What lies beside train's class folders was counted when the classes were found. */
  fvg__left_out *left_out = part == FVG__TRAIN ? NULL : &d->left_out;
  fvg__names here;
  fvg_status s = fvg__list_classes(c, &here, desc, d->prefix[part], fvg__keep_folder, classes,
                                   left_out);
  if (s) return s;

  for (int label = 0; label < classes->n && !s; label++) {
    const char *name = classes->name[label];
    if (fvg__names_find(&here, name) >= 0)
      s = fvg__list_images(c, &images[label], desc, d->prefix[part], name, &d->left_out);
    if (!s && !images[label].n && part != FVG__VAL) poor[label] = 1;
  }
  fvg__names_free(c, &here);
  return s;
}

/* The pictures of all parts, images [parts][class]; a class needs one in train and one in test. */
static fvg_status fvg__list_parts(fvg_ctx *c, fvg__draft *d, fvg__names *classes,
                                  fvg__names *images, const fvg_dataset_desc *desc) {
  char *poor = FVG_NEW_ARRAY(c, char, (size_t)classes->n);
  if (!poor) return FVG_E_NOMEM;

  fvg_status s = FVG_OK;
  for (int part = 0; part < FVG__PARTS && !s; part++)
    if (d->prefix[part])
      s = fvg__list_part(c, d, part, classes, images + fvg__row(part, classes->n), poor, desc);
  if (!s) s = fvg__drop_classes(c, classes, images, FVG__PARTS, poor, desc->root);
  fvg_release(c, poor);
  return s;
}

/* Fills the draft from ROOT/train/<class>/<picture> and so on, the folders of the parts being the
   prefixes. */
static fvg_status fvg__draft_parts(fvg_ctx *c, fvg__draft *d, fvg__names *classes,
                                   fvg__names *images, const fvg_dataset_desc *desc) {
  fvg_status s = fvg__list_parts(c, d, classes, images, desc);
  for (int part = 0; part < FVG__PARTS; part++) {
    const fvg__names *x = images + fvg__row(part, classes->n);
    for (int label = 0; label < classes->n && !s; label++)
      s = fvg__draft_count(c, d, part, x[label].n, desc->root);
  }
  if (!s) s = fvg__draft_reserve(c, d, desc->root);
  if (s) return s;

  fvg__entry *e = d->entry;
  for (int part = 0; part < FVG__PARTS; part++)
    for (int label = 0; label < classes->n; label++) {
      const fvg__names *x = images + fvg__row(part, classes->n) + label;
      for (int i = 0; i < x->n; i++, e++) {
        e->folder = classes->name[label];
        e->name = x->name[i];
        e->label = label;
      }
    }
  return FVG_OK;
}
#endif

/*==================================================================================================
 * CHAPTER 30  PUBLISHED SETS: the eleven of CoOp
 *==================================================================================================
   CoOp (Zhou et al. 2022, arXiv 2109.01134) fixed eleven data sets, with their folders, templates
   and splits.  A card says what each is called and where DATA holds it.  If a set's split file is
   missing, the split is made from what CoOp's own classes make it from: class folders, or lists of
   pictures whose train part gives a fifth of each class to val.  The shuffle is our own, so
   results on such a split cannot be compared with published ones. */

enum {                                /* indices into fvg__cards */
  FVG__IMAGENET = 0, FVG__CALTECH101, FVG__OXFORD_PETS, FVG__STANFORD_CARS, FVG__FLOWERS102,
  FVG__FOOD101, FVG__FGVC_AIRCRAFT, FVG__SUN397, FVG__DTD, FVG__EUROSAT, FVG__UCF101, FVG__N_CARDS
};

static const char fvg__photo[] = "a photo of a {}.";
static const char fvg__pet[] = "a photo of a {}, a type of pet.";
static const char fvg__flower[] = "a photo of a {}, a type of flower.";
static const char fvg__food[] = "a photo of {}, a type of food.";
static const char fvg__aircraft[] = "a photo of a {}, a type of aircraft.";
static const char fvg__space[] = "a centered satellite photo of {}.";
static const char fvg__action[] = "a photo of a person doing {}.";

/* Names, folders and split files, then the templates of zero-shot CLIP, of KgCoOp and of ProGrad.
   ProGrad's end with the class name, because its words stand before it. */
static const fvg_dataset_card fvg__cards[FVG__N_CARDS] = {
  {"imagenet", "ImageNet", "imagenet", "images", NULL, fvg__photo, fvg__photo, fvg__photo},
  {"caltech101", "Caltech101", "caltech-101", "101_ObjectCategories",
   "split_zhou_Caltech101.json", fvg__photo, fvg__photo, fvg__photo},
  {"oxford_pets", "OxfordPets", "oxford_pets", "images",
   "split_zhou_OxfordPets.json", fvg__pet, fvg__pet, "a type of pet, a photo of a {}."},
  {"stanford_cars", "StanfordCars", "stanford_cars", "",
   "split_zhou_StanfordCars.json", fvg__photo, fvg__photo, fvg__photo},
  {"flowers102", "OxfordFlowers", "oxford_flowers", "jpg",
   "split_zhou_OxfordFlowers.json", fvg__flower, fvg__flower, "a type of flower, a photo of a {}."},
  {"food101", "Food101", "food-101", "images",
   "split_zhou_Food101.json", fvg__food, fvg__food, "a type of food, a photo of {}."},
  {"fgvc_aircraft", "FGVCAircraft", "fgvc_aircraft", "images",
   NULL, fvg__aircraft, fvg__aircraft, "a type of aircraft, a photo of a {}."},
  {"sun397", "SUN397", "sun397", "SUN397",
   "split_zhou_SUN397.json", fvg__photo, fvg__photo, fvg__photo},
  {"dtd", "DescribableTextures", "dtd", "images",
   "split_zhou_DescribableTextures.json",
   "{} texture.", "a photo of a {}, a type of texture.", "a texture of {}."},
  {"eurosat", "EuroSAT", "eurosat", "2750",
   "split_zhou_EuroSAT.json", fvg__space, fvg__space, fvg__space},
  {"ucf101", "UCF101", "ucf101", "UCF-101-midframes",
   "split_zhou_UCF101.json", fvg__action, fvg__action, fvg__action}
};

FVG_DEF const fvg_dataset_card *fvg_dataset_cards(int *n) {
  if (n) *n = FVG__N_CARDS;
  return fvg__cards;
}

/* Compares without regard to case. */
static int fvg__same_word(const char *a, const char *b) {
  while (*a && fvg__lower_case(*a) == fvg__lower_case(*b)) {
    a++;
    b++;
  }
  return !*a && !*b;
}

FVG_DEF const fvg_dataset_card *fvg_dataset_card_find(const char *key) {
  if (!key) return NULL;
  for (int i = 0; i < FVG__N_CARDS; i++) {
    const fvg_dataset_card *card = &fvg__cards[i];
    if (fvg__same_word(key, card->key) || fvg__same_word(key, card->name))
      return card;
  }
  return NULL;
}

FVG_DEF const char *fvg_method_template(const fvg_method *method, const fvg_dataset_card *card) {
  if (!method || !card) return NULL;
  if (!strcmp(method->name, "KgCoOp"))
    return card->kgcoop_template;
  if (!strcmp(method->name, "ProGrad"))
    return card->prograd_template;
  return card->prompt_template;
}

#ifndef FVGPT_NO_STDIO                /* up to the files of the next chapter */
/* ---- files of lines ---- */
/* The lines of a file, without blanks at their ends. */
typedef struct fvg__lines {
  char *file, *text;                  /* its name; its bytes */
  char *room;                         /* for paths and names: 4 times the text, 8 bytes per line */
  char **line;                        /* [n] */
  int n;
} fvg__lines;

static void fvg__lines_free(fvg_ctx *c, fvg__lines *x) {
  fvg_release(c, x->file);
  fvg_release(c, x->text);
  fvg_release(c, x->room);
  fvg_release(c, x->line);
  memset(x, 0, sizeof *x);
}

static char *fvg__trim(char *s) {
  s += strspn(s, " \t\r");
  size_t n = strlen(s);
  while (n && strchr(" \t\r", s[n - 1])) n--;
  s[n] = 0;
  return s;
}

/* *n: the number of lines of a text, in which there must be no zero byte. */
static fvg_status fvg__count_lines(fvg_ctx *c, const char *file, const uint8_t *bytes,
                                   size_t n_bytes, size_t *n) {
  *n = 1;
  for (size_t i = 0; i < n_bytes; i++) {
    if (!bytes[i])
      return fvg_fail(c, FVG_E_FORMAT, "%.300s: line %d holds a zero byte: not a text",
                      file, (int)*n);
    *n += bytes[i] == '\n';
  }
  return FVG_OK;
}

/* Reads the lines of folder/name.  On failure, too, the caller frees them. */
static fvg_status fvg__lines_read(fvg_ctx *c, fvg__lines *out, const char *folder,
                                  const char *name) {
  out->file = fvg_path_join(c, folder, name);
  if (!out->file) return FVG_E_NOMEM;

  uint8_t *bytes = NULL;
  size_t n = 0, n_line = 0;
  fvg_status s = fvg__read_file(c, out->file, &bytes, &n);
  if (s) return s;
  out->text = (char *)bytes;
  if (n > INT32_MAX / 16)
    return fvg_fail(c, FVG_E_FORMAT, "%.300s: too long for a list of pictures", out->file);
  s = fvg__count_lines(c, out->file, bytes, n, &n_line);
  if (s) return s;

  out->line = FVG_NEW_ARRAY(c, char *, n_line);
  out->room = (char *)fvg_alloc_array(c, n + 2 * n_line, 4);
  if (!out->line || !out->room) return FVG_E_NOMEM;

  char *at = out->text + fvg__bom_bytes(bytes, n);
  while (at) {
    char *end = strchr(at, '\n');
    if (end) *end++ = 0;
    out->line[out->n++] = fvg__trim(at);
    at = end;
  }
  return FVG_OK;
}

/* The index of a line, which is not empty, or -1. */
static int fvg__lines_find(const fvg__lines *x, const char *line) {
  if (!*line) return -1;
  for (int i = 0; i < x->n; i++)
    if (!strcmp(x->line[i], line)) return i;
  return -1;
}

static int fvg__lines_filled(const fvg__lines *x) {
  int n = 0;
  for (int i = 0; i < x->n; i++)
    n += x->line[i][0] != 0;
  return n;
}

/* ---- the sets' own lists ---- */
/* Lists in a set's folder: of classes, whose labels are the numbers of their lines, and of the
   pictures of train, val and test.  Without a list of classes, each picture's line holds its
   label; without a list of val, train gives a fifth.  The forms are for messages. */
typedef struct fvg__set_lists {
  int set;
  const char *classes, *class_form;
  const char *part[FVG__PARTS], *form;
} fvg__set_lists;

static const fvg__set_lists fvg__lists[] = {
  {FVG__IMAGENET, "classnames.txt", "<folder> <name>", {NULL, NULL, NULL}, NULL},
  {FVG__OXFORD_PETS, NULL, NULL, {"annotations/trainval.txt", NULL, "annotations/test.txt"},
   "<breed>_<number> <label from 1> ..."},
  {FVG__FGVC_AIRCRAFT, "variants.txt", "<variant>",
   {"images_variant_train.txt", "images_variant_val.txt", "images_variant_test.txt"},
   "<image> <variant>"},
  {FVG__SUN397, "ClassName.txt", "/<letter>/<name>",
   {"Training_01.txt", NULL, "Testing_01.txt"}, "/<letter>/<name>/<picture>"},
  {FVG__UCF101, "ucfTrainTestlist/classInd.txt", "<number> <name>",
   {"ucfTrainTestlist/trainlist01.txt", NULL, "ucfTrainTestlist/testlist01.txt"},
   "<name>/<video>"}
};

static const fvg__set_lists *fvg__lists_of(int set) {
  for (size_t i = 0; i < sizeof fvg__lists / sizeof *fvg__lists; i++)
    if (fvg__lists[i].set == set) return &fvg__lists[i];
  return NULL;
}

/* Turns a class's line into its key in the other lists; returns 0 if it is not of the set's form.
   ImageNet's line holds the key, its closing 0 and then the name. */
static int fvg__parse_class(int set, char **line) {
  char *blank = strchr(*line, ' ');
  if (set == FVG__FGVC_AIRCRAFT) return 1;
  if (set == FVG__SUN397) {
    if (**line != '/') return 0;
    ++*line;
    return strchr(*line, '/') != NULL;
  }

  if (!blank) return 0;
  if (set == FVG__IMAGENET) *blank = 0;
  if (set == FVG__UCF101) *line = blank + 1;
  return 1;
}

static fvg_status fvg__read_classes(fvg_ctx *c, fvg__lines *out, const char *root,
                                    const fvg__set_lists *set) {
  fvg_status s = fvg__lines_read(c, out, root, set->classes);
  for (int i = 0; i < out->n && !s; i++) {
    if (!out->line[i][0]) continue;   /* a label that no picture has */
    if (!fvg__parse_class(set->set, &out->line[i]))
      s = fvg_fail(c, FVG_E_FORMAT, "%.300s: line %d is not of the form \"%s\"",
                   out->file, i + 1, set->class_form);
  }
  return s;
}

/* ---- a data set from class folders ---- */
/* The name of a class folder: ImageNet's from its list, Caltech-101's and EuroSAT's as CoOp
   renames them. */
static fvg_status fvg__name_class(fvg_ctx *c, const char **out, const char *folder,
                                  const fvg_dataset_card *card, const fvg__lines *classes) {
  static const char *const renamed[][2] = {
    {"airplanes", "airplane"}, {"Faces", "face"}, {"Leopards", "leopard"},
    {"Motorbikes", "motorbike"}, {"AnnualCrop", "Annual Crop Land"},
    {"HerbaceousVegetation", "Herbaceous Vegetation Land"}, {"Highway", "Highway or Road"},
    {"Industrial", "Industrial Buildings"}, {"Pasture", "Pasture Land"},
    {"PermanentCrop", "Permanent Crop Land"}, {"Residential", "Residential Buildings"},
    {"SeaLake", "Sea or Lake"}};

  *out = folder;
  for (size_t i = 0; card && i < sizeof renamed / sizeof *renamed; i++)
    if (!strcmp(folder, renamed[i][0]))
      *out = renamed[i][1];
  if (!classes || !classes->n) return FVG_OK;

  int at = fvg__lines_find(classes, folder);
  if (at < 0)
    return fvg_fail(c, FVG_E_FORMAT, "%.200s: no line for class folder \"%.100s\"",
                    classes->file, folder);
  *out = classes->line[at] + strlen(classes->line[at]) + 1;
  return FVG_OK;
}

/* Makes a data set from a draft that has only its home and prefixes, and frees the draft.  names:
   ImageNet's list of classes, else empty or NULL. */
static fvg_status fvg__build_from_folders(fvg_ctx *c, fvg_dataset *out, fvg__draft *d,
                                          fvg__names *classes, const fvg_dataset_desc *desc,
                                          int has_parts, const fvg__lines *names) {
  const size_t n = FVG__PARTS * (size_t)classes->n;
  fvg__names *images = FVG_NEW_ARRAY(c, fvg__names, n);
  fvg_status s = images ? FVG_OK : FVG_E_NOMEM;
  if (!s && has_parts) s = fvg__draft_parts(c, d, classes, images, desc);
  else if (!s) s = fvg__draft_cut(c, d, classes, images, desc);
  fvg__tell_left_out(c, &d->left_out, desc->root);

  if (!s) d->n_class = classes->n;
  for (int i = 0; i < classes->n && !s; i++)
    s = fvg__name_class(c, &d->class_name[i], classes->name[i], out->card, names);
  if (!s) s = fvg__dataset_build(c, out, d);

  for (size_t k = 0; images && k < n; k++)
    fvg__names_free(c, &images[k]);
  fvg_release(c, images);
  fvg__draft_free(c, d);
  return s;
}

/* The folder of a part under the names that people give it, in any case; NULL if there is none. */
static const char *fvg__part_folder(const fvg__names *folders, int part) {
  static const char *const known[FVG__PARTS][3] = {
    {"train", "training", NULL}, {"val", "valid", "validation"}, {"test", "testing", NULL}};

  for (int k = 0; k < 3 && known[part][k]; k++)
    for (int i = 0; i < folders->n; i++)
      if (fvg__same_word(known[part][k], folders->name[i]))
        return folders->name[i];
  return NULL;
}

static fvg_status fvg__no_classes(fvg_ctx *c, const fvg__left_out *left_out, const char *root) {
  if (left_out->n_loose)
    return fvg_fail(c, FVG_E_FORMAT,
                    "%.300s: neither a split file (split_zhou_*.json or split.json) nor class "
                    "folders; its %d pictures must lie in a folder for each class",
                    root, left_out->n_loose);
  return fvg_fail(c, FVG_E_FORMAT,
                  "%.300s: neither a split file (split_zhou_*.json or split.json) nor class "
                  "folders",
                  root);
}

/* Warns if a share for val was asked of a data set that is not cut here. */
static void fvg__tell_no_cut(const fvg_dataset *d, const fvg_dataset_desc *desc) {
  if (!desc->val_percent) return;
  fvg_log(d->ctx, 0,
          "%.200s: train, val and test are given here%s%.100s, so --val (val_percent) changes "
          "nothing",
          d->root, d->split_file ? ", by " : "", d->split_file ? d->split_file : "");
}

/* A plain root without a split file: class folders, or the same inside train, val and test. */
static fvg_status fvg__open_folders(fvg_ctx *c, fvg_dataset *out, const fvg_dataset_desc *desc) {
  fvg__draft draft;
  memset(&draft, 0, sizeof draft);
  draft.home = "";

  fvg__names folders;
  fvg_status s = fvg__list(c, &folders, desc, desc->root, fvg__keep_folder_but_mask,
                           &draft.left_out);
  if (s) return s;

  const char *train = fvg__part_folder(&folders, FVG__TRAIN);
  const int has_parts = train && fvg__part_folder(&folders, FVG__TEST);
  if (has_parts) fvg__tell_no_cut(out, desc);
  for (int part = 0; part < FVG__PARTS; part++)
    draft.prefix[part] = has_parts ? fvg__part_folder(&folders, part) : "";

  fvg__names inside, *classes = &folders;
  memset(&inside, 0, sizeof inside);
  if (!folders.n)
    s = fvg__no_classes(c, &draft.left_out, desc->root);
  if (!s && has_parts) {
    classes = &inside;
    s = fvg__list_classes(c, classes, desc, train, fvg__keep_folder, NULL, &draft.left_out);
  }
  if (!s) s = fvg__build_from_folders(c, out, &draft, classes, desc, has_parts, NULL);
  fvg__names_free(c, &inside);
  fvg__names_free(c, &folders);
  return s;
}

/* ---- a data set from lists of pictures ---- */
/* SUN397's key "a/field/wild" as the name "wild field", without the letter. */
static char *fvg__put_sun_name(char *at, const char *key) {
  size_t end = strlen(key);
  for (size_t i = end; i-- > 0;) {
    if (key[i] != '/') continue;
    size_t n = end - i - 1;
    memcpy(at, key + i + 1, n);
    at += n;
    *at++ = ' ';
    end = i;
  }
  at[-1] = 0;                         /* in place of the last blank */
  return at;
}

/* UCF101's key "ApplyEyeMakeup" as the name "Apply_Eye_Makeup". */
static char *fvg__put_ucf_name(char *at, const char *key) {
  for (size_t i = 0; key[i]; i++) {
    if (i && key[i] >= 'A' && key[i] <= 'Z')
      *at++ = '_';
    *at++ = key[i];
  }
  *at = 0;
  return at + 1;
}

/* Writes a class's name, made from its key, and returns what follows its closing 0. */
static char *fvg__put_class_name(char *at, int set, const char *key) {
  if (set == FVG__SUN397) return fvg__put_sun_name(at, key);
  if (set == FVG__UCF101) return fvg__put_ucf_name(at, key);
  return fvg__put_string(at, key);
}

/* Each of these parsers writes a picture's path to `at` and returns what follows its closing 0, or
   NULL if the line is not of the set's form.  *key: the picture's class.  SUN397's line
   "/a/field/wild/sun_1.jpg" is the path, and the class's key is its folder. */
static char *fvg__parse_sun_picture(char *line, char *at, const char **key) {
  char *slash = strrchr(line, '/');
  if (*line != '/' || slash == line) return NULL;
  *slash = 0;
  *key = line + 1;
  if (!strchr(*key, '/')) return NULL;
  return fvg__put_string(fvg__put_folder(at, *key), slash + 1);
}

/* UCF101's line "ApplyEyeMakeup/v_1.avi 1" names a video, whose picture is
   Apply_Eye_Makeup/v_1.jpg. */
static char *fvg__parse_ucf_picture(char *line, char *at, const char **key) {
  char *path = at, *blank = strchr(line, ' ');
  if (blank) *blank = 0;
  char *slash = strchr(line, '/');
  if (!slash) return NULL;
  *slash = 0;
  *key = line;

  at = fvg__put_ucf_name(at, line);
  at[-1] = '/';
  at = fvg__put_string(at, slash + 1);
  if (fvg__ends_with(path, ".avi"))
    memcpy(at - 5, ".jpg", 4);
  return at;
}

/* FGVC-Aircraft's line "0034309 707-320" is a picture without its ending, and the class. */
static char *fvg__parse_named_picture(char *line, char *at, const char **key) {
  char *blank = strchr(line, ' ');
  if (!blank) return NULL;
  *blank = 0;
  *key = blank + 1;
  return fvg__put_string(fvg__put_string(at, line) - 1, ".jpg");
}

/* Oxford-IIIT Pet's line "Bombay_12 8 1 2" is the same, but its second word is the label from 1,
   and the class's key is the breed, in lower case. */
static char *fvg__parse_pet_picture(char *line, char *at, const char **key, int *label) {
  at = fvg__parse_named_picture(line, at, key);
  if (!at) return NULL;

  long number = strtol(*key, NULL, 10);
  char *end = strrchr(line, '_');
  if (!end || number < 1 || number > INT32_MAX) return NULL;
  *label = (int)(number - 1);

  *end = 0;
  for (char *p = line; *p; p++)
    *p = fvg__lower_case(*p);
  *key = line;
  return at;
}

/* *label changes only if the line says it. */
static char *fvg__parse_picture(int set, char *line, char *at, const char **key, int *label) {
  if (set == FVG__SUN397) return fvg__parse_sun_picture(line, at, key);
  if (set == FVG__UCF101) return fvg__parse_ucf_picture(line, at, key);
  if (set == FVG__OXFORD_PETS) return fvg__parse_pet_picture(line, at, key, label);
  return fvg__parse_named_picture(line, at, key);
}

/* Fills the entries from e on with one list's pictures.  classes: the set's list of classes, or
   NULL. */
static fvg_status fvg__draft_list(fvg_ctx *c, fvg__draft *d, fvg__entry *e,
                                  const fvg__set_lists *set, fvg__lines *list,
                                  const fvg__lines *classes) {
  const int n_total = fvg__draft_total(d);
  char *end = list->room;
  int label = 0;
  for (int i = 0; i < list->n; i++) {
    char *line = list->line[i], where[32];
    if (!*line) continue;
    fvg__print(where, sizeof where, "line %d", i + 1);

    const char *key;
    char *path = end;
    char *name = fvg__parse_picture(set->set, line, path, &key, &label);
    if (!name)
      return fvg_fail(c, FVG_E_FORMAT, "%.300s: %s is not of the form \"%s\"",
                      list->file, where, set->form);
    end = fvg__put_class_name(name, set->set, key);

    if (classes) label = fvg__lines_find(classes, key);
    if (label < 0)
      return fvg_fail(c, FVG_E_FORMAT, "%.200s: %s: class \"%.80s\" is not in %s",
                      list->file, where, key, set->classes);
    if (label >= n_total)
      return fvg_fail(c, FVG_E_FORMAT,
                      "%.200s: %s: label %d, but the lists have only %d pictures",
                      list->file, where, label, n_total);
    fvg_status s = fvg__draft_item(c, d, e++, path, label, name, list->file, where);
    if (s) return s;
  }
  return FVG_OK;
}

/* list [1 + parts] is the caller's, the classes' first; the draft's strings stay in it. */
static fvg_status fvg__draft_from_lists(fvg_ctx *c, fvg__draft *d, const fvg__set_lists *set,
                                        const char *root, fvg__lines *list) {
  const fvg__lines *classes = set->classes ? &list[0] : NULL;
  fvg__lines *part_list = list + 1;
  fvg_status s = FVG_OK;
  for (int part = 0; part < FVG__PARTS && !s; part++) {
    if (!set->part[part]) continue;
    s = fvg__lines_read(c, &part_list[part], root, set->part[part]);
    if (s) return s;
    int n = fvg__lines_filled(&part_list[part]);
    if (!n)
      return fvg_fail(c, FVG_E_FORMAT, "%.300s: no pictures in it", part_list[part].file);
    s = fvg__draft_count(c, d, part, n, root);
  }
  if (!s) s = fvg__draft_reserve(c, d, root);

  fvg__entry *e = d->entry;
  for (int part = 0; part < FVG__PARTS && !s; part++) {
    if (set->part[part])
      s = fvg__draft_list(c, d, e, set, &part_list[part], classes);
    e += d->n[part];
  }
  if (s) return s;
  return fvg__draft_check_labels(c, d, classes ? classes->file : part_list[FVG__TRAIN].file);
}

/* ---- val where the lists have none ---- */
/* Marks a fifth of each label's train items, drawn at random, by making their labels negative: -1
   - label.  order has room for all items, n_val for all classes. */
static void fvg__mark_val(fvg_items *train, int n_class, int *order, int *n_val) {
  for (int i = 0; i < train->n; i++) {
    order[i] = i;
    n_val[train->item[i].label]++;
  }
  for (int k = 0; k < n_class; k++)
    n_val[k] = fvg__a_fifth(n_val[k]);

  fvg_rng rng;
  fvg_rng_seed(&rng, 1, 0);
  fvg_rng_permute(&rng, order, train->n);
  for (int i = 0; i < train->n; i++) {
    int *label = &train->item[order[i]].label;
    if (n_val[*label] == 0) continue;
    n_val[*label]--;
    *label = -1 - *label;
  }
}

/* Moves a fifth of each class's train items to val. */
static fvg_status fvg__cut_val(fvg_ctx *c, fvg_dataset *d) {
  const int n = d->train.n;
  fvg_items_free(c, &d->val);
  int *order = FVG_NEW_ARRAY(c, int, (size_t)n);
  int *n_val = FVG_NEW_ARRAY(c, int, (size_t)d->n_class);
  fvg_status s = order && n_val ? fvg__items_new(c, &d->val, n) : FVG_E_NOMEM;

  if (!s) {
    fvg__mark_val(&d->train, d->n_class, order, n_val);
    d->train.n = 0;
    for (int i = 0; i < n; i++) {
      fvg_item item = d->train.item[i];
      if (item.label >= 0) {
        d->train.item[d->train.n++] = item;
      } else {
        item.label = -1 - item.label;
        d->val.item[d->val.n++] = item;
      }
    }
  }
  fvg_release(c, order);
  fvg_release(c, n_val);
  return s;
}

/* ImageNet's test pictures have no public labels: what it calls validation is both. */
static fvg_status fvg__val_from_test(fvg_ctx *c, fvg_dataset *d) {
  fvg_items_free(c, &d->val);
  if (fvg__items_new(c, &d->val, d->test.n))
    return FVG_E_NOMEM;
  memcpy(d->val.item, d->test.item, (size_t)d->test.n * sizeof *d->test.item);
  d->val.n = d->test.n;
  return FVG_OK;
}

/* ---- a published set without its split file ---- */
static void fvg__ignore_entry(void *arg, const char *name, int is_folder) {
  (void)arg;
  (void)name;
  (void)is_folder;
}

/* Whether a file, or else a folder, is there.  A folder counts as there if nobody can list it. */
static int fvg__place_exists(const fvg_dataset_desc *desc, const char *path, int is_file) {
  if (is_file) return fvg_file_exists(path);
  return !desc->list || !desc->list(desc->list_user, path, fvg__ignore_entry, NULL);
}

/* The set's folder below DATA, *home, or "" if DATA itself is that folder; *root is the path to
   it.  It is known by `file`, or by the folder of pictures if that is NULL. */
static fvg_status fvg__find_home(fvg_ctx *c, const char **home, char **root,
                                 const fvg_dataset_desc *desc, const fvg_dataset_card *card,
                                 const char *file) {
  const char *sign = file ? file : card->images;
  for (int i = 0; i < 2; i++) {
    *home = i ? "" : card->folder;
    *root = fvg_path_join(c, desc->root, *home);
    char *path = *root ? fvg_path_join(c, *root, sign) : NULL;
    int found = path && fvg__place_exists(desc, path, file != NULL);
    fvg_release(c, path);
    if (found) return FVG_OK;

    fvg_release(c, *root);
    *root = NULL;
    if (!path) return FVG_E_NOMEM;
  }
  return fvg_fail(c, FVG_E_IO, "%.200s: no data set %s there: %s/%s is missing%s",
                  desc->root, card->key, card->folder, sign,
                  card->split_file ? ", and so is its split file" : "");
}

/* From the set's own lists of pictures. */
static fvg_status fvg__make_from_lists(fvg_ctx *c, fvg_dataset *out, fvg__draft *draft,
                                       const fvg__set_lists *set, const char *root,
                                       fvg__lines *list) {
  fvg_status s = fvg__draft_from_lists(c, draft, set, root, list);
  if (!s) s = fvg__dataset_build(c, out, draft);
  if (!s && !set->part[FVG__VAL]) s = fvg__cut_val(c, out);
  return s;
}

/* From class folders; names: ImageNet's list of classes, else empty. */
static fvg_status fvg__make_from_folders(fvg_ctx *c, fvg_dataset *out, fvg__draft *draft, int set,
                                         const fvg_dataset_desc *here, const fvg__lines *names) {
  fvg__keep_fn keep = set == FVG__CALTECH101 ? fvg__keep_caltech_class : fvg__keep_folder;
  const int has_parts = set == FVG__IMAGENET;
  fvg__names classes;
  memset(&classes, 0, sizeof classes);

  fvg_status s = fvg__list_classes(c, &classes, here, draft->prefix[FVG__TRAIN], keep, NULL,
                                   &draft->left_out);
  if (!s) s = fvg__build_from_folders(c, out, draft, &classes, here, has_parts, names);
  if (!s && has_parts) s = fvg__val_from_test(c, out);
  fvg__names_free(c, &classes);
  return s;
}

/* Makes a published set's split from its lists or folders, as CoOp does. */
static fvg_status fvg__make_split(fvg_ctx *c, fvg_dataset *out, const fvg_dataset_desc *desc) {
  static const char *const imagenet[FVG__PARTS] = {"images/train", NULL, "images/val"};
  const fvg_dataset_card *card = out->card;
  const int set = (int)(card - fvg__cards);
  if (set == FVG__STANFORD_CARS || set == FVG__FLOWERS102)
    return fvg_fail(c, FVG_E_IO,
                    "%.200s: data set %s needs %s/%s, which CoOp's page on data sets has: its own "
                    "lists are .mat files",
                    desc->root, card->key, card->folder, card->split_file);

  fvg__draft draft;
  memset(&draft, 0, sizeof draft);
  const fvg__set_lists *lists = fvg__lists_of(set);
  const char *sign = lists ? lists->classes : NULL;
  if (lists && !sign) sign = lists->part[FVG__TRAIN];
  char *root;
  fvg_status s = fvg__find_home(c, &draft.home, &root, desc, card, sign);
  if (s) return s;

  fvg_dataset_desc here = *desc;
  here.root = root;
  for (int part = 0; part < FVG__PARTS; part++)
    draft.prefix[part] = set == FVG__IMAGENET ? imagenet[part] : card->images;
  if (card->split_file)
    fvg_log(c, 0,
            "%.200s: %s is not there; a split is made in its place, so results cannot be compared "
            "with published ones",
            root, card->split_file);

  fvg__lines list[1 + FVG__PARTS];
  memset(list, 0, sizeof list);
  if (lists && lists->classes)
    s = fvg__read_classes(c, &list[0], root, lists);
  if (!s && lists && lists->part[FVG__TRAIN])
    s = fvg__make_from_lists(c, out, &draft, lists, root, list);
  else if (!s)
    s = fvg__make_from_folders(c, out, &draft, set, &here, &list[0]);

  fvg__draft_free(c, &draft);
  for (int i = 0; i <= FVG__PARTS; i++)
    fvg__lines_free(c, &list[i]);
  fvg_release(c, root);
  return s;
}

/* ---- opening any data set ---- */
static fvg_status fvg__unknown_set(fvg_ctx *c, const char *key) {
  char known[256];
  int n = 0;
  for (int i = 0; i < FVG__N_CARDS; i++)
    n += fvg__print(known + n, sizeof known - (size_t)n, "%s%s", i ? ", " : "", fvg__cards[i].key);
  return fvg_fail(c, FVG_E_ARG, "data set \"%.80s\" is none of %s", key, known);
}

/* Fills the lists of a data set whose fields are set. */
static fvg_status fvg__dataset_fill(fvg_ctx *c, fvg_dataset *out, const fvg_dataset_desc *desc) {
  fvg_status s = fvg__find_split(c, &out->split_file, desc, out->card);
  if (s) return s;
  if (out->split_file) {
    s = fvg__open_split(c, out, desc);
    if (!s) fvg__tell_no_cut(out, desc);
    return s;
  }
  return out->card ? fvg__make_split(c, out, desc) : fvg__open_folders(c, out, desc);
}

/* Sets the fields that come from the desc, then the lists and names; on failure nothing stays. */
FVG_DEF fvg_status fvg_dataset_open(fvg_ctx *c, fvg_dataset *out, const fvg_dataset_desc *desc) {
  if (!out) return fvg__missing(c, "fvg_dataset_open", "a place for the data set");
  memset(out, 0, sizeof *out);
  if (!desc || !desc->root || !*desc->root)
    return fvg_fail(c, FVG_E_ARG, "data set: desc.root is not given");
  if (desc->dataset && !fvg_dataset_card_find(desc->dataset))
    return fvg__unknown_set(c, desc->dataset);
  if (desc->val_percent > 100)
    return fvg_fail(c, FVG_E_ARG, "data set: val_percent is %d, more than 100",
                    desc->val_percent);
  if ((unsigned)desc->mask_reading > FVG_MASK_ALPHA)
    return fvg_fail(c, FVG_E_ARG, "data set: mask_reading %d is no fvg_mask_reading",
                    (int)desc->mask_reading);

  fvg_dataset_desc d = *desc;
#ifdef FVGPT_DIRENT
  if (!d.list) d.list = fvg_list_folder;
#endif

  out->ctx = c;
  out->exif_rotate = d.exif_rotate;
  out->card = fvg_dataset_card_find(d.dataset);
  out->mask_reading = d.mask_reading;
  out->masks_told = FVG_NEW(c, int);
  out->masks = FVG_NEW(c, struct fvg__mask_store);
  out->root = fvg_copy_string(c, d.root);

  fvg_status s = FVG_E_NOMEM;
  if (out->masks_told && out->masks && out->root)
    s = fvg__dataset_fill(c, out, &d);
  if (s) fvg_dataset_free(out);
  return s;
}

/*==================================================================================================
 * CHAPTER 31  MASKS: what of a picture is its object
 *==================================================================================================
   A mask lies in ROOT/mask under its picture's path, or for a published set where its folders have
   them.

   The published loader takes as foreground what lies above half of full white, and so do we
   wherever a mask holds black and white.  But tools write masks in other ways, which that rule
   takes for all black or, worse, for the border alone.  So the values of a file are looked at
   first:

     black and dark values       0/1 masks and label pictures, or colours on black, as VOC's
                                 palette: everything except black is foreground, and except VOC's
                                 border, which is 255 among small labels, or (224,224,192)
     1 beside 2, 3 or both       an Oxford-IIIT trimap: 1 is foreground, 2 and 3 are background
     an alpha channel that cuts  a cut-out: what is opaque is foreground, whatever its colours
     more than 32 grey values,   a soft mask: foreground is what lies above mask_threshold (0.5 of
     or any JPEG                 full white).  Where it is in many colours it is an error.
     few greys, dark and light,  an error: labels, or a soft mask.  Such is a PGM whose white is not
     of a file whose white is    1, 255 or 65535, and a PNG of 2 or 4 bits: its greys come here as
     neither 1, 255 nor 65535    shares of 255, and a label may be bright

   What these rules cannot tell (a photograph, white beside other labels, no black) is an error, not
   a guess, and the data set's mask_reading decides.  Each file is judged by itself, so the result
   does not depend on which files are drawn.  How the masks were read is logged once for the set. */

/* ---- where masks are ---- */
/* Does `name` exist, or the same with another extension?  `name` becomes the one that does; it has
   room for a longer extension. */
static int fvg__mask_exists(char *name) {
  static const char *const suffix[] = {".png", ".jpg", ".jpeg", ".pgm",
                                       ".bmp", ".gif", ".PNG",  ".JPG"};
  const size_t n_suffix = sizeof suffix / sizeof *suffix;
  if (fvg_file_exists(name)) return 1;

  char *slash = strrchr(name, '/');
  char *dot = strrchr(name, '.');
  if (!dot || (slash && dot < slash)) dot = name + strlen(name);
  for (size_t i = 0; i < n_suffix; i++) {
    strcpy(dot, suffix[i]);
    if (fvg_file_exists(name)) return 1;
  }
  return 0;
}

/* Finds ROOT/mask/<path>; *out stays NULL when there is none.  The mask of a published set may also
   be in ROOT/<folder>/mask, and below another <images> than the path says: pictures and masks of
   SUN397 are distributed with and without it. */
FVG_DEF fvg_status fvg_dataset_mask_path(const fvg_dataset *d, char **out, const char *path) {
  if (!d || !d->ctx) return FVG_E_ARG;
  if (!out) return fvg__missing(d->ctx, "fvg_dataset_mask_path", "a place for the path");
  *out = NULL;
  if (!path) return fvg__missing(d->ctx, "fvg_dataset_mask_path", "a picture's path");

  const char *folder = d->card ? d->card->folder : "";
  const char *images = d->card ? d->card->images : "";
  const size_t n = strlen(folder);
  const fvg_picture *from = d->picture ? fvg__picture_of(d, path) : NULL;
  if (fvg__mask_given(d, path) || (from && from->mask.pixels)) {
    *out = fvg_copy_string(d->ctx, path);
    return *out ? FVG_OK : FVG_E_NOMEM;
  }
  if (d->picture) return FVG_OK;

  /* `rest` is the path below the published set's folder. */
  const int in_folder = n && !strncmp(path, folder, n) && path[n] == '/';
  const char *rest = in_folder ? path + n + 1 : path;
  const char *const place[4][3] = {
    {"mask", in_folder ? folder : "", ""},
    {folder, "mask",                  ""},
    {"mask", folder,                  images},
    {folder, "mask",                  images}
  };
  const int n_place = d->card ? 4 : 1;

  char *root = fvg_path_join(d->ctx, d->root, "");
  if (!root) return FVG_E_NOMEM;
  const size_t longest = strlen(root) + n + strlen(images) + strlen(path) + 16;
  char *name = FVG_NEW_ARRAY(d->ctx, char, longest);
  for (int i = 0; name && !*out && i < n_place; i++) {
    char *at = fvg__put_string(name, root) - 1;
    for (int k = 0; k < 3; k++)
      at = fvg__put_folder(at, place[i][k]);
    fvg__put_string(at, rest);
    if (fvg__mask_exists(name)) *out = name;
  }

  fvg_release(d->ctx, root);
  if (!name) return FVG_E_NOMEM;
  if (!*out) fvg_release(d->ctx, name);
  return FVG_OK;
}

/* ---- the colours of a mask ---- */
enum { FVG__MASK_COLOURS = 32 };         /* a picture with more of them is no picture of labels */
enum { FVG__BLACK = 0, FVG__WHITE = 0xFFFFFF, FVG__VOC_BORDER = 0xE0E0C0 };

/* The colours of a picture without its alpha, 0xRRGGBB, and how many pixels each has. */
typedef struct fvg__palette {
  uint32_t colour[FVG__MASK_COLOURS];
  size_t count[FVG__MASK_COLOURS];
  int n;                      /* FVG__MASK_COLOURS + 1: there are more than these               */
} fvg__palette;

/* The colour of pixel i; a grey value becomes the colour of three equal channels. */
static uint32_t fvg__colour_at(const fvg_image *m, size_t i) {
  const uint8_t *p = m->pixels + i * (size_t)m->channels;
  const uint32_t first = p[0];
  if (m->channels < 3) return first * 0x010101u;
  return first << 16 | (uint32_t)p[1] << 8 | p[2];
}

/* The alpha of pixel i of a picture with 2 or 4 channels. */
static int fvg__alpha_at(const fvg_image *m, size_t i) {
  const size_t channels = (size_t)m->channels;
  return m->pixels[(i + 1) * channels - 1];
}

/* Is the mean of the channels above half of full white?  The published loader asks the same. */
static int fvg__is_light(uint32_t colour) {
  const uint32_t red = colour >> 16;
  const uint32_t green = colour >> 8 & 255;
  const uint32_t blue = colour & 255;
  return 2 * (red + green + blue) > 765;
}

static int fvg__is_grey(uint32_t colour) { return colour % 0x010101u == 0; }

/* The colour's place in the palette, or x->n if it is not there. */
static int fvg__palette_find(const fvg__palette *x, uint32_t colour) {
  int k = 0;
  while (k < x->n && x->colour[k] != colour)
    k++;
  return k;
}

static void fvg__palette_of(fvg__palette *x, const fvg_image *m) {
  const size_t n = fvg__pixel_count(m);
  memset(x, 0, sizeof *x);

  int k = 0;                  /* the colour of the pixel before, which is often this one's too */
  for (size_t i = 0; i < n; i++) {
    const uint32_t colour = fvg__colour_at(m, i);
    if (!x->n || x->colour[k] != colour)
      k = fvg__palette_find(x, colour);
    if (k == FVG__MASK_COLOURS) {
      x->n = FVG__MASK_COLOURS + 1;
      return;
    }
    if (k == x->n) x->colour[x->n++] = colour;
    x->count[k]++;
  }
}

/* Is more than a fiftieth of the picture clearly coloured?  JPEG tinges greys, but not so far. */
static int fvg__is_coloured(const fvg_image *m) {
  if (m->channels < 3) return 0;
  const size_t n = fvg__pixel_count(m);
  size_t coloured = 0;
  for (size_t i = 0; i < n; i++) {
    const uint8_t *p = m->pixels + i * (size_t)m->channels;
    int low = p[0] < p[1] ? p[0] : p[1];
    int high = p[0] > p[1] ? p[0] : p[1];
    if (p[2] < low) low = p[2];
    if (p[2] > high) high = p[2];
    coloured += high - low > 40;
  }
  return coloured > n / 50;
}

/* ---- what in a mask is foreground ---- */
/* The pixels of a mask by colour. */
typedef struct fvg__mask_tally {
  size_t black, white, border;
  size_t dark, bright;        /* other colours, below and above half of full white              */
  int grey;                   /* 1: all colours are greys                                       */
  int trimap;                 /* 1: there are values of 1, and beside them only 2 and 3         */
} fvg__mask_tally;

static fvg__mask_tally fvg__count_mask(const fvg__palette *x) {
  fvg__mask_tally is;
  memset(&is, 0, sizeof is);
  is.grey = 1;
  is.trimap = fvg__palette_find(x, 0x010101u) < x->n;
  for (int k = 0; k < x->n; k++) {
    const uint32_t colour = x->colour[k];
    const size_t count = x->count[k];
    if (!fvg__is_grey(colour)) is.grey = 0;
    if (colour != 0x010101u && colour != 0x020202u && colour != 0x030303u) is.trimap = 0;

    if (colour == FVG__BLACK) is.black = count;
    else if (colour == FVG__WHITE) is.white = count;
    else if (colour == FVG__VOC_BORDER) is.border = count;
    else if (fvg__is_light(colour)) is.bright += count;
    else is.dark += count;
  }
  return is;
}

/* A reading when none can be chosen: *why is the reason. */
static fvg_mask_reading fvg__cannot_tell(const char **why, const char *reason) {
  *why = reason;
  return FVG_MASK_GREY;
}

/* How a picture of a single colour is meant. */
static fvg_mask_reading fvg__meaning_of_one_colour(uint32_t colour, const fvg__mask_tally *is,
                                                   const char **why) {
  if (is->grey && !is->dark) return FVG_MASK_GREY;
  if (colour == 0x010101u) return FVG_MASK_LABELS;
  return fvg__cannot_tell(why, "every pixel has the same value, neither black nor white");
}

/* How a picture of few greys is meant that holds black, dark values and others. */
static fvg_mask_reading fvg__meaning_of_greys(const fvg__mask_tally *is, const char **why) {
  if (!is->white && !is->bright) return FVG_MASK_LABELS;
  if (!is->white) {
    return fvg__cannot_tell(
        why, "it holds dark and light values but no white: labels, or a soft mask");
  }
  if (is->bright) return FVG_MASK_GREY;                     /* a soft mask of few levels */
  if (is->dark / 2 > is->white) return FVG_MASK_LABELS;     /* 255 is VOC's border */
  return fvg__cannot_tell(why, "it holds dark values that may be labels beside 255, which may be "
                               "white or VOC's border");
}

/* What a mask's file says of its values. */
typedef struct fvg__mask_file {
  int lossy;                  /* 1: a JPEG, whose values are not exact                          */
  int white;                  /* the value of white: 255, of 16 bits 65535, else what it says   */
} fvg__mask_file;

/* How a picture of few colours, without alpha, is meant.  *why, if it cannot be told, is the
   reason. */
static fvg_mask_reading fvg__meaning_of_colours(const fvg__palette *x, int white,
                                                const char **why) {
  const fvg__mask_tally is = fvg__count_mask(x);
  if (x->n == 1)
    return fvg__meaning_of_one_colour(x->colour[0], &is, why);
  if (is.trimap && x->n > 1) return FVG_MASK_TRIMAP;

  const size_t light = is.white + is.bright;
  const int usual = white == 1 || white == 255 || white == 65535;
  if (!usual && is.grey && light && (is.dark || !is.black)) {
    return fvg__cannot_tell(why, white < 255
                                     ? "its greys have fewer than 8 bits: labels, or a soft mask"
                                     : "its white is not 65535: labels, or a soft mask");
  }

  /* Black where all else is light; two colours, one dark and one light; dark specks. */
  if (is.black && !is.dark && !is.border) return FVG_MASK_GREY;
  if (x->n == 2 && is.dark && light) return FVG_MASK_GREY;
  if (light && is.dark <= light / 50) return FVG_MASK_GREY;

  if (!is.black)
    return fvg__cannot_tell(why, "it holds no black, which would be the background");
  if (is.grey) return fvg__meaning_of_greys(&is, why);
  if (!is.white) return FVG_MASK_LABELS;
  return fvg__cannot_tell(why, "it holds white beside other colours");
}

/* How a picture without alpha is meant. */
static fvg_mask_reading fvg__meaning_of(const fvg_image *m, const fvg__mask_file *file,
                                        const char **why) {
  fvg__palette x;
  fvg__palette_of(&x, m);
  if (!file->lossy && x.n <= FVG__MASK_COLOURS)
    return fvg__meaning_of_colours(&x, file->white, why);
  if (fvg__is_coloured(m)) return fvg__cannot_tell(why, "it is a picture in many colours");
  return FVG_MASK_GREY;
}

/* Does the alpha channel cut something out: is it below half somewhere, and not everywhere the
   same? */
static int fvg__alpha_cuts(const fvg_image *m) {
  const size_t n = fvg__pixel_count(m);
  int low = 255;
  int high = 0;
  for (size_t i = 0; i < n; i++) {
    const int alpha = fvg__alpha_at(m, i);
    if (alpha < low) low = alpha;
    if (alpha > high) high = alpha;
  }
  return low < 128 && low < high;
}

/* Is the mask in the alpha channel?  Where that cuts something out, the colours may be a mask as
   well, black and white, and then both must be the same. */
static int fvg__alpha_is_mask(const fvg_image *m, const char **why) {
  const int has_alpha = m->channels % 2 == 0;
  if (!has_alpha || !fvg__alpha_cuts(m)) return 0;

  fvg__palette x;
  fvg__palette_of(&x, m);
  if (x.n == 1 || x.n > FVG__MASK_COLOURS) return 1;
  const fvg__mask_tally is = fvg__count_mask(&x);
  const int has_light = is.white || is.bright;
  const int has_dark = is.black || is.dark;
  if (!is.grey || !has_light || !has_dark) return 1;

  const size_t n = fvg__pixel_count(m);
  size_t differ = 0;
  for (size_t i = 0; i < n; i++) {
    const int is_opaque = fvg__alpha_at(m, i) >= 128;
    differ += fvg__is_light(fvg__colour_at(m, i)) != is_opaque;
  }
  if (differ > n / 100) *why = "its colours and its alpha channel are two different masks";
  return 1;
}

/* What loading finds out about a mask. */
typedef struct fvg__mask_facts {
  fvg_mask_reading reading;   /* never alpha; FVG_MASK_AUTO: there is no mask                   */
  int alpha;                  /* 1: the alpha channel was read                                  */
  int stretched;              /* 1: resized to other proportions                                */
  int framed;                 /* 1: there is foreground all along the edge                      */
  double share;               /* of foreground, 0..1                                            */
} fvg__mask_facts;

/* Makes the alpha channel the only one. */
static void fvg__take_alpha(fvg_image *m) {
  const size_t n = fvg__pixel_count(m);
  for (size_t i = 0; i < n; i++)
    m->pixels[i] = (uint8_t)fvg__alpha_at(m, i);
  m->channels = 1;
}

/* Chooses the reading from the values of m, or of its alpha channel where that is a mask.  Returns
   why it cannot be told, or NULL. */
static const char *fvg__reading_of_values(fvg_image *m, const fvg__mask_file *file,
                                          fvg__mask_facts *x) {
  const char *why = NULL;
  x->alpha = fvg__alpha_is_mask(m, &why);
  if (x->alpha) fvg__take_alpha(m);
  if (!why) x->reading = fvg__meaning_of(m, file, &why);
  return why;
}

/* Chooses the reading of m as `told`, which may leave it to the values, and keeps only the channels
   that are read.  Returns why the reading cannot be told, or NULL. */
static const char *fvg__choose_reading(fvg_image *m, fvg_mask_reading told,
                                       const fvg__mask_file *file, fvg__mask_facts *x) {
  const char *why = NULL;
  x->reading = told;
  switch (told) {
    case FVG_MASK_GREY:
    case FVG_MASK_LABELS:
    case FVG_MASK_TRIMAP: return NULL;
    case FVG_MASK_AUTO: return fvg__reading_of_values(m, file, x);

    case FVG_MASK_INVERTED:  /* whoever asks for it knows what the mask is: in doubt it is grey   */
      why = fvg__reading_of_values(m, file, x);
      if (why) x->reading = FVG_MASK_GREY;
      return NULL;

    case FVG_MASK_ALPHA:
      x->alpha = m->channels % 2 == 0;
      if (!x->alpha) return "it has no alpha channel";
      fvg__take_alpha(m);
      x->reading = fvg__meaning_of(m, file, &why);
      return why;
  }
  return NULL;
}

/* ---- applying a reading ---- */
/* Gives labels their values again, where white is below 255 and the decoder has made them shares of
   255; that is exact, as no two of them became the same.  Colours stay: they have no numbers. */
static void fvg__unscale_labels(fvg_image *m, int white) {
  const size_t n = fvg__pixel_count(m);
  for (size_t i = 0; i < n; i++)
    if (!fvg__is_grey(fvg__colour_at(m, i))) return;

  const size_t n_value = n * (size_t)m->channels;
  for (size_t i = 0; i < n_value; i++)
    m->pixels[i] = (uint8_t)((m->pixels[i] * white + 127) / 255);
}

/* Makes m 255 where a picture of labels, or a trimap, has foreground.  White is a label of its own
   only where there is no other. */
static void fvg__pick_labels(fvg_image *m, fvg_mask_reading reading) {
  const size_t n = fvg__pixel_count(m);
  int has_labels = 0;
  for (size_t i = 0; i < n && !has_labels; i++) {
    const uint32_t colour = fvg__colour_at(m, i);
    has_labels = colour != FVG__BLACK && colour != FVG__WHITE && colour != FVG__VOC_BORDER;
  }

  for (size_t i = 0; i < n; i++) {
    const uint32_t colour = fvg__colour_at(m, i);
    int inside = colour != FVG__BLACK && colour != FVG__VOC_BORDER;
    if (has_labels && colour == FVG__WHITE) inside = 0;
    if (reading == FVG_MASK_TRIMAP) inside = colour == 0x010101u;
    m->pixels[i] = inside ? 255 : 0;
  }
  m->channels = 1;
}

static int fvg__is_black(const fvg_image *m) {
  const size_t n = fvg__pixel_count(m);
  for (size_t i = 0; i < n; i++) {
    if (fvg__colour_at(m, i) != FVG__BLACK) return 0;
  }
  return 1;
}

/* Makes m one channel of 0 and 255 by a reading that has been chosen.  inverted: swaps the two. */
static fvg_status fvg__apply_reading(fvg_ctx *c, fvg_image *m, fvg_mask_reading reading,
                                     float threshold, int inverted) {
  if (reading == FVG_MASK_LABELS || reading == FVG_MASK_TRIMAP) {
    fvg__pick_labels(m, reading);
  } else {
    fvg_status s = fvg_image_binarise(c, m, threshold);
    if (s) return s;
  }
  if (inverted) fvg__invert_mask(m);
  return FVG_OK;
}

/* The share of foreground of a mask of 0 and 255, and whether it is framed by it. */
static void fvg__measure_mask(const fvg_image *m, fvg__mask_facts *x) {
  const size_t w = (size_t)m->width;
  const size_t h = (size_t)m->height;
  const size_t n = w * h;
  const uint8_t *last_row = m->pixels + n - w;
  size_t inside = 0;
  for (size_t i = 0; i < n; i++)
    inside += m->pixels[i] != 0;

  int edge = 0;
  for (size_t i = 0; i < w; i++)
    edge += (m->pixels[i] != 0) + (last_row[i] != 0);
  for (size_t i = 0; i < h; i++) {
    const uint8_t *row = m->pixels + i * w;
    edge += (row[0] != 0) + (row[w - 1] != 0);
  }
  x->share = (double)inside / (double)n;
  x->framed = inside < n && edge > 0.9 * 2 * (double)(w + h);
}

/* The ratio of two proportions, 1 or more. */
static double fvg__ratio(double a, double b) { return a > b ? a / b : b / a; }

/* Fails if the mask's sides are the picture's, swapped: one of the two has been turned.  Other
   proportions only make it stretched; a pixel of rounding does not. */
static fvg_status fvg__check_sides(fvg_ctx *c, const fvg_image *m, const char *path, int width,
                                   int height, fvg__mask_facts *x) {
  const double picture = (double)width / height;
  const double mask = (double)m->width / m->height;
  const double as_it_is = fvg__ratio(mask, picture);
  const double turned = mask * picture > 1 ? mask * picture : 1 / (mask * picture);
  const int shorter = fvg__min(m->width, m->height);
  const double one_pixel = 1 + 1.0 / shorter;
  x->stretched = as_it_is > 1.02 * one_pixel;
  if (turned > 1.02 || as_it_is <= 1.1) return FVG_OK;

  return fvg_fail(
      c, FVG_E_FORMAT,
      "%.300s: the mask has %d x %d pixels, its picture %d x %d: the sides are swapped; "
      "one of the two was turned (EXIF); turn it back, or try --exif-rotate",
      path, m->width, m->height, width, height);
}

/* ---- pictures and masks ---- */
/* The value of white of a PNM file that could be decoded.  A comment before it may be of any
   length, so the whole file is read. */
static fvg_status fvg__pnm_white(fvg_ctx *c, int *white, const fvg_source *source) {
  uint8_t *bytes = NULL;
  size_t n = 0;
  fvg_status s = fvg_source_read_all(c, &bytes, &n, source);
  if (s) return s;
  fvg__pnm p;
  p.at = bytes;
  p.end = bytes + n;
  s = fvg__pnm_header(c, &p, source->name);
  if (!s) *white = p.max;
  fvg_bytes_free(c, bytes);
  return s;
}

/* Loads all channels of a file, and what it says of its values. */
static fvg_status fvg__load_channels(fvg_ctx *c, fvg_image *m, const char *path,
                                     fvg__mask_file *file) {
  fvg_source source;
  memset(m, 0, sizeof *m);
  fvg_status s = fvg_source_file(c, &source, path);
  if (s) return s;

  uint8_t head[26] = {0};
  const size_t n_head = source.size < sizeof head ? (size_t)source.size : sizeof head;
  s = fvg__source_read(c, &source, head, 0, n_head);
  file->lossy = head[0] == 0xFF && head[1] == 0xD8 && head[2] == 0xFF;
  file->white = 255;

  /* PNG has the bits of a value, and 3 for a palette, whose colours always have 8 of them. */
  const int in_palette = head[25] == 3;
  const int is_png = head[0] == 0x89 && head[1] == 'P' && head[24] >= 1 && head[24] <= 16;
  if (is_png && !in_palette) file->white = (1 << head[24]) - 1;
  if (!s) s = fvg_image_decode(c, m, &source, 0);
  if (!s && fvg__is_pnm(head, sizeof head)) s = fvg__pnm_white(c, &file->white, &source);
  fvg_source_close(&source);
  return s;
}

/* Turns the mask as its picture has been turned, if it was drawn on the stored picture and not on
   the upright one.  Where turning swaps width and height, the mask's own sides tell which of the
   two it was.  Where it does not, nothing tells, and the mask is always turned. */
static fvg_status fvg__mask_upright(fvg_ctx *c, fvg_image *mask, const fvg_image *stored,
                                    const fvg_image *image) {
  const int is_turned = image->orientation == 1 && stored->orientation > 1;
  if (!is_turned) return FVG_OK;

  const int swaps = image->width != stored->width || image->height != stored->height;
  const int mask_lies = mask->width > mask->height;
  const int stored_lies = stored->width > stored->height;
  if (swaps && mask_lies != stored_lies) return FVG_OK;
  return fvg_image_turn(c, mask, stored->orientation);
}

/* Chooses how the mask is read, and fails if that cannot be told or would not be exact. */
static fvg_status fvg__settle_reading(const fvg_dataset *d, fvg_image *mask, const char *path,
                                      const fvg__mask_file *file, fvg__mask_facts *facts) {
  const char *why = fvg__choose_reading(mask, d->mask_reading, file, facts);
  if (why) {
    return fvg_fail(d->ctx, FVG_E_FORMAT,
                    "%.300s: cannot tell what in this mask is foreground: %s; choose with --masks "
                    "grey, inverted, labels, trimap or alpha (mask_reading)",
                    path, why);
  }

  const int needs_labels =
      facts->reading == FVG_MASK_LABELS || facts->reading == FVG_MASK_TRIMAP;
  if (file->white > 255 && (needs_labels || fvg__is_black(mask))) {
    return fvg_fail(d->ctx, FVG_E_UNSUPPORTED,
                    "%.300s: a mask of 16 bits that is not black and white: of labels only the "
                    "high byte would be read; save it with 8 bits",
                    path);
  }
  if (needs_labels && file->white < 255) fvg__unscale_labels(mask, file->white);
  return FVG_OK;
}

/* Resizes the mask to the picture's sides. */
static fvg_status fvg__fit_mask(fvg_ctx *c, fvg_image *mask, int width, int height) {
  if (mask->width == width && mask->height == height) return FVG_OK;
  fvg_image resized;
  fvg_status s = fvg_image_resize(c, &resized, mask, width, height, FVG_NEAREST);
  if (s) return s;
  fvg_image_free(c, mask);
  *mask = resized;
  return FVG_OK;
}

/* Loads a mask as one channel of 0 and 255.  `image` is the picture, perhaps turned, whose sides
   the mask then gets; `stored` has the sides and the orientation of the picture's file.  image
   NULL: a mask without its picture keeps the sides of its file, and is never turned.  Thresholding
   and nearest resizing commute, so the cheaper order is taken: one channel is resized, not
   three. */
static fvg_status fvg__load_mask(const fvg_dataset *d, fvg_image *mask, const char *path,
                                 const fvg_image *stored, const fvg_image *image, float threshold,
                                 fvg__mask_facts *facts) {
  fvg_ctx *c = d->ctx;
  const int inverted = d->mask_reading == FVG_MASK_INVERTED;
  fvg__mask_file file;
  memset(facts, 0, sizeof *facts);
  fvg_status s = fvg__load_channels(c, mask, path, &file);
  if (!s && image) s = fvg__mask_upright(c, mask, stored, image);
  if (!s && image)
    s = fvg__check_sides(c, mask, path, image->width, image->height, facts);
  if (!s) s = fvg__settle_reading(d, mask, path, &file, facts);
  if (!s) s = fvg__apply_reading(c, mask, facts->reading, threshold, inverted);
  if (s) return s;

  fvg__measure_mask(mask, facts);
  return image ? fvg__fit_mask(c, mask, image->width, image->height) : FVG_OK;
}

/* Loads the mask that a picture was given. */
static fvg_status fvg__load_given(fvg_ctx *c, const fvg__set_mask *given, fvg_image *mask,
                                  const fvg_image *image, fvg__mask_facts *facts) {
  fvg_status s = fvg__unpack_for(c, mask, given, image);
  if (s) return s;
  fvg__measure_mask(mask, facts);
  facts->reading = FVG_MASK_GREY;
  return FVG_OK;
}

/* Loads the mask of a picture, whose pixels are `image`: the one that it was given, or else that of
   its file. */
static fvg_status fvg__load_mask_of(const fvg_dataset *d, const fvg_item *item, fvg_image *mask,
                                    const fvg_image *stored, const fvg_image *image,
                                    float threshold, fvg__mask_facts *facts) {
  const fvg__set_mask *given = fvg__mask_given(d, item->path);
  if (given) return fvg__load_given(d->ctx, given, mask, image, facts);
  char *path = NULL;
  fvg_status s = fvg_dataset_mask_path(d, &path, item->path);
  if (!s && path) s = fvg__load_mask(d, mask, path, stored, image, threshold, facts);
  fvg_release(d->ctx, path);
  return s;
}

/* Loads a picture and, unless `mask` is NULL, its mask.  Where there is no mask, facts->reading is
   FVG_MASK_AUTO and mask->pixels NULL. */
static fvg_status fvg__load_pair(const fvg_dataset *d, const fvg_item *item, fvg_image *image,
                                 fvg_image *mask, float threshold, fvg__mask_facts *facts) {
  fvg_ctx *c = d->ctx;
  memset(image, 0, sizeof *image);
  memset(facts, 0, sizeof *facts);
  if (mask) memset(mask, 0, sizeof *mask);
  if (d->picture) return fvg__load_picture(d, image, mask, item);
  char *path = fvg_path_join(c, d->root, item->path);
  if (!path) return FVG_E_NOMEM;

  fvg_status s = fvg_image_load(c, image, path, 3);
  const fvg_image stored = *image;
  if (!s) s = fvg_image_upright(c, image, path, d->exif_rotate);
  fvg_release(c, path);

  if (!s && mask) s = fvg__load_mask_of(d, item, mask, &stored, image, threshold, facts);
  if (s) {
    if (mask) fvg_image_free(c, mask);
    fvg_image_free(c, image);
  }
  return s;
}

/* Loads a mask without its picture; mask->pixels is NULL if there is none. */
static fvg_status fvg__load_mask_alone(const fvg_dataset *d, fvg_image *mask, const fvg_item *item,
                                       float threshold) {
  fvg_ctx *c = d->ctx;
  char *path = NULL;
  memset(mask, 0, sizeof *mask);
  const fvg__set_mask *given = fvg__mask_given(d, item->path);
  if (given) return fvg__unpack_mask(c, mask, given);
  fvg_status s = fvg_dataset_mask_path(d, &path, item->path);
  if (s || !path) return s;

  fvg__mask_facts facts;
  s = fvg__load_mask(d, mask, path, NULL, NULL, threshold, &facts);
  if (s) fvg_image_free(c, mask);
  fvg_release(c, path);
  return s;
}

FVG_DEF fvg_status fvg_dataset_load(const fvg_dataset *d, fvg_image *image, fvg_image *mask,
                                    const fvg_item *item, float mask_threshold) {
  if (image) memset(image, 0, sizeof *image);
  if (mask) memset(mask, 0, sizeof *mask);
  if (!d || !d->ctx) return FVG_E_ARG;
  if (!item) return fvg__missing(d->ctx, "fvg_dataset_load", "a picture's item");
  if (d->picture) return fvg__load_picture(d, image, mask, item);
  fvg__mask_facts facts;
  if (!image && !mask)
    return fvg_fail(d->ctx, FVG_E_ARG,
                    "%.300s: fvg_dataset_load: neither picture nor mask is wanted", item->path);
  if (!image) return fvg__load_mask_alone(d, mask, item, mask_threshold);
  return fvg__load_pair(d, item, image, mask, mask_threshold, &facts);
}
#endif

/* ---- pictures side by side ---- */
/* A batch of pictures is worked on by as many threads as there are, each in a context of its own
   that shares nothing but malloc; without threads, or with another allocator, by one after the
   other.  Every picture's own status and message are kept. */
typedef struct fvg__batch_job {
  fvg_status (*work)(void *arg, fvg_ctx *c, int i);
  void *arg;
  fvg_ctx ctx[FVG__IMAGE_BATCH];
} fvg__batch_job;

static void fvg__batch_run(void *user, int i) {
  fvg__batch_job *j = (fvg__batch_job *)user;
  j->ctx[i].status = j->work(j->arg, &j->ctx[i], i);
}

/* The batch in the caller's own context, one picture after the other. */
static fvg_status fvg__batch_in_turn(fvg_ctx *c, fvg__batch_job *j, int n) {
  for (int i = 0; i < n; i++) {
    fvg_status s = fvg__check_cancelled(c);
    if (s) return s;
    j->ctx[i].status = j->work(j->arg, c, i);
    if (j->ctx[i].status)
      memcpy(j->ctx[i].message, c->message, sizeof c->message);
  }
  return FVG_OK;
}

/* Works on n pictures, n <= FVG__IMAGE_BATCH.  An error is that of the whole batch, not of one
   picture. */
static fvg_status fvg__batch(fvg_ctx *c, fvg__batch_job *j, int n) {
  if (!fvg__may_share_heap(c)) return fvg__batch_in_turn(c, j, n);
  for (int i = 0; i < n; i++)
    j->ctx[i] = fvg__helper_context(c);
  fvg_status s = fvg_parallel(c, fvg__batch_run, j, n);

  /* The peak of memory is counted as if all jobs had been at their largest at once. */
  size_t peak = c->used;
  for (int i = 0; i < n; i++) {
    peak += j->ctx[i].peak;
    fvg__helper_done(c, &j->ctx[i]);
  }
  if (peak > c->peak) c->peak = peak;
  return s;
}

#ifndef FVGPT_NO_STDIO
/* ---- what is checked before a run begins ---- */
/* Fails for a fault that is not the picture's own: no memory, or the caller wants to stop. */
static fvg_status fvg__batch_fault(fvg_ctx *c, const fvg__batch_job *j, int n) {
  for (int i = 0; i < n; i++) {
    const fvg_ctx *of = &j->ctx[i];
    if (of->status == FVG_E_NOMEM || of->status == FVG_E_CANCELLED)
      return fvg_fail(c, of->status, "%s", of->message);
  }
  return FVG_OK;
}

/* All bad files are named, up to a bound: each is logged when the next one turns up, and the last
   becomes the error, so that a single one is a single line. */
enum { FVG__MOST_NAMED = 20 };
typedef struct fvg__bad {
  int n;
  fvg_status status;          /* of the last                                                    */
  char last[512];             /* message that has not been logged yet                           */
} fvg__bad;

static void fvg__bad_add(fvg_ctx *c, fvg__bad *bad, fvg_status status, const char *message) {
  if (bad->n && bad->n < FVG__MOST_NAMED)
    fvg_log(c, 0, "%s", bad->last);
  if (bad->n < FVG__MOST_NAMED)
    fvg__print(bad->last, sizeof bad->last, "%s", message);
  bad->n++;
  bad->status = status;
}

/* Ends a check of n_checked files: fails if there were bad ones, unless they are to be skipped. */
static fvg_status fvg__bad_end(fvg_ctx *c, const fvg__bad *bad, const char *root, int n_checked,
                               int skip) {
  const int too_many = bad->n > FVG__MOST_NAMED;
  if (!bad->n) return FVG_OK;
  if (bad->n == 1 && !skip) {
    return fvg_fail(c, bad->status, "%.380s; --skip-bad (fvg_dataset_check) goes on without it",
                    bad->last);
  }

  fvg_log(c, 0, "%s", bad->last);
  if (!skip) {
    return fvg_fail(
        c, bad->status,
        "%.200s: %d of %d files cannot be used, %s; --skip-bad (fvg_dataset_check) goes "
        "on without them",
        root, bad->n, n_checked, too_many ? "the first 20 are named above" : "as named above");
  }
  fvg_log(c, 0, "%.200s: %d of %d pictures are left out%s", root, bad->n, n_checked,
          too_many ? ", the first 20 are named above" : "");
  return FVG_OK;
}

/* Can files of this kind be read?  Without stb_image only PNM can. */
static int fvg__kind_is_readable(const fvg__image_kind *kind) {
  if (!kind) return 0;
#ifdef FVGPT_STB_IMAGE
  return kind->code != FVG__NOT_READ;
#else
  return kind->code == FVG__PNM;
#endif
}

/* Fails unless `path` is a plain file of a kind that can be read.  Only other files are decoded, so
   that the decoder may say what they are. */
static fvg_status fvg__check_head(fvg_ctx *c, const char *path) {
  fvg_source source;
  fvg_status s = fvg_source_file(c, &source, path);
  if (s) return s;
  uint8_t head[32];
  memset(head, 0, sizeof head);
  const size_t n = source.size < sizeof head ? (size_t)source.size : sizeof head;
  s = fvg__source_read(c, &source, head, 0, n);
  fvg_source_close(&source);
  if (s) return s;

  const char *name = fvg__image_name_of_bytes(head, sizeof head);
  if (fvg__kind_is_readable(fvg__image_kind_called(name))) return FVG_OK;
  fvg_image image;
  s = fvg_image_load(c, &image, path, 3);
  fvg_image_free(c, &image);
  return s;
}

typedef struct fvg__check_job {
  const fvg_dataset *d;
  const fvg_item *item;       /* the first of the batch                                         */
  int masks;                  /* 1: masks are checked too                                       */
  int decode;                 /* 1: files are decoded, else only their first bytes are read     */
  fvg__mask_facts facts[FVG__IMAGE_BATCH];       /* filled if masks are decoded */
} fvg__check_job;

/* Checks the beginning of a picture's file, and of its mask's if that is asked for. */
static fvg_status fvg__check_heads(const fvg_dataset *d, const fvg_item *item, int masks) {
  fvg_ctx *c = d->ctx;
  char *path = fvg_path_join(c, d->root, item->path);
  if (!path) return FVG_E_NOMEM;
  fvg_status s = fvg__check_head(c, path);
  fvg_release(c, path);
  if (s || !masks || fvg__mask_given(d, item->path)) return s;

  s = fvg_dataset_mask_path(d, &path, item->path);
  if (s || !path) return s;
  s = fvg__check_head(c, path);
  fvg_release(c, path);
  return s;
}

/* Checks picture i of the batch, in the context c. */
static fvg_status fvg__check_work(void *arg, fvg_ctx *c, int i) {
  fvg__check_job *j = (fvg__check_job *)arg;
  fvg_dataset d = *j->d;
  d.ctx = c;
  if (!j->decode)
    return fvg__check_heads(&d, &j->item[i], j->masks);

  fvg_image image, mask;
  fvg_image *wanted = j->masks ? &mask : NULL;
  fvg_status s = fvg__load_pair(&d, &j->item[i], &image, wanted, 0, &j->facts[i]);
  if (s) return s;
  fvg_image_free(c, &image);
  if (wanted) fvg_image_free(c, wanted);
  return FVG_OK;
}

/* Checks the n items from j->item on, n <= FVG__IMAGE_BATCH; batch->ctx has each one's status.  An
   error is a fault that is not a picture's own. */
static fvg_status fvg__check_batch_of(fvg_ctx *c, fvg__check_job *j, fvg__batch_job *batch, int n) {
  batch->work = fvg__check_work;
  batch->arg = j;
  fvg_status s = fvg__batch(c, batch, n);
  return s ? s : fvg__batch_fault(c, batch, n);
}

/* Checks all items of a list.  skip: bad ones leave the list; if the check stops early, what has
   not been checked stays in it. */
static fvg_status fvg__check_items_of(fvg_dataset *d, fvg_items *items, fvg__check_job *j,
                                      fvg__batch_job *batch, fvg_progress *progress, fvg__bad *bad,
                                      int skip) {
  fvg_status s = FVG_OK;
  int kept = 0;
  int checked = 0;
  while (!s && checked < items->n) {
    const int n = fvg__min(items->n - checked, FVG__IMAGE_BATCH);
    j->item = &items->item[checked];
    s = fvg__check_batch_of(d->ctx, j, batch, n);
    if (s) break;

    for (int k = 0; k < n; k++) {
      const fvg_status status = batch->ctx[k].status;
      if (status)
        fvg__bad_add(d->ctx, bad, status, batch->ctx[k].message);
      if (!status || !skip)
        items->item[kept++] = items->item[checked + k];
    }
    checked += n;
    progress->step += n;
    if (j->decode) s = fvg_report_progress(d->ctx, progress);
  }

  while (checked < items->n)
    items->item[kept++] = items->item[checked++];
  items->n = kept;
  return s;
}

/* Files are decoded only if bad ones are to be left out; else only their first bytes are read. */
FVG_DEF fvg_status fvg_dataset_check(fvg_dataset *d, int what, int skip_bad) {
  if (!d || !d->ctx) return FVG_E_ARG;
  if (d->picture) return FVG_OK;                 /* they were checked when the set was made */
  fvg_items *const part[FVG__PARTS] = {&d->train, &d->val, &d->test};
  fvg_progress progress;
  memset(&progress, 0, sizeof progress);
  progress.what = "check";
  for (int i = 0; i < FVG__PARTS; i++) {
    if (what >> i & 1) progress.n_steps += part[i]->n;
  }

  fvg__bad bad;
  memset(&bad, 0, sizeof bad);
  fvg__batch_job *batch = FVG_NEW(d->ctx, fvg__batch_job);
  fvg__check_job *j = FVG_NEW(d->ctx, fvg__check_job);
  fvg_status s = batch && j ? FVG_OK : FVG_E_NOMEM;
  if (!s) {
    j->d = d;
    j->decode = skip_bad;
    j->masks = (what & FVG_CHECK_MASKS) != 0;
  }
  for (int i = 0; i < FVG__PARTS && !s; i++) {
    if (what >> i & 1)
      s = fvg__check_items_of(d, part[i], j, batch, &progress, &bad, skip_bad);
  }
  fvg_release(d->ctx, j);
  fvg_release(d->ctx, batch);
  return s ? s : fvg__bad_end(d->ctx, &bad, d->root, (int)progress.n_steps, skip_bad);
}

/* ---- what the masks of a set are ---- */
/* Masks are counted by how they were read and by what is odd about them. */
typedef struct fvg__mask_survey {
  int n, none;                /* masks, and pictures without one                                */
  int labels, trimap, alpha;
  int empty, full, framed, stretched;
  const char *first_empty;    /* path of the first picture whose mask is empty or full          */
  const char *first_stretched;
} fvg__mask_survey;

static void fvg__survey_add(fvg__mask_survey *x, const fvg__mask_facts *facts, const char *path) {
  if (facts->reading == FVG_MASK_AUTO) {
    x->none++;
    return;
  }
  const int is_empty = facts->share < 0.001;
  const int is_full = facts->share > 0.999;
  x->n++;
  x->alpha += facts->alpha;
  x->labels += facts->reading == FVG_MASK_LABELS;
  x->trimap += facts->reading == FVG_MASK_TRIMAP;
  x->framed += facts->framed;
  x->empty += is_empty;
  x->full += is_full;
  x->stretched += facts->stretched;
  if (!x->first_stretched && facts->stretched) x->first_stretched = path;
  if (!x->first_empty && (is_empty || is_full)) x->first_empty = path;
}

/* Notes how the masks of the set were read, if they were not all black and white. */
static void fvg__survey_tell_readings(const fvg_dataset *d, const fvg__mask_survey *x) {
  static const char alpha[] = "by alpha channel (opaque is foreground)";
  static const char labels[] = "as labels (0/1, small numbers or colours; all but black is "
                               "foreground)";
  static const char trimap[] = "as trimap (1 is foreground, 2 and the border 3 are not)";
  char list[300];
  list[0] = 0;
  fvg__add_count(list, sizeof list, x->alpha, alpha, alpha);
  fvg__add_count(list, sizeof list, x->labels, labels, labels);
  fvg__add_count(list, sizeof list, x->trimap, trimap, trimap);
  if (!list[0]) return;
  fvg_log(d->ctx, 1, "%.120s/mask: of %d masks, not all of them black and white, %s", d->root,
          x->n, list);
}

/* Logs how the masks of the set were read, and a warning for each way in which most of them look
   wrong. */
static void fvg__survey_tell(const fvg_dataset *d, const fvg__mask_survey *x) {
  fvg_ctx *c = d->ctx;
  if (d->mask_reading == FVG_MASK_AUTO) fvg__survey_tell_readings(d, x);

  if (2 * (x->empty + x->full) > x->n) {
    fvg_log(c, 0,
            "%.120s/mask: of %d masks %d hold no foreground and %d nothing else (the first is "
            "that of %.100s); FVG-PT learns from foreground",
            d->root, x->n, x->empty, x->full, x->first_empty);
  }
  if (2 * x->framed > x->n) {
    fvg_log(c, 0,
            "%.120s/mask: in %d of %d masks the foreground runs along the whole edge; are they "
            "inverted? (--masks inverted, or mask_reading)",
            d->root, x->framed, x->n);
  }
  if (x->stretched) {
    fvg_log(c, 0,
            "%.120s/mask: %d of %d masks have other proportions than their pictures and are "
            "stretched over them (the first is that of %.100s)",
            d->root, x->stretched, x->n, x->first_stretched);
  }
}

/* Adds the n pictures from `item` on, which have been checked, to the bad ones or to the survey. */
static void fvg__survey_batch(fvg_ctx *c, const fvg__check_job *j, const fvg__batch_job *batch,
                              int n, fvg__mask_survey *survey, fvg__bad *bad) {
  for (int k = 0; k < n; k++) {
    const fvg_ctx *of = &batch->ctx[k];
    if (of->status) fvg__bad_add(c, bad, of->status, of->message);
    else fvg__survey_add(survey, &j->facts[k], j->item[k].path);
  }
}

/* Loads every picture of `items` with its mask: bad ones are named together, and what the masks are
   is logged, once for a data set.  Decoding a few shots takes seconds, and the training that they
   would spoil takes hours. */
FVG_DEF fvg_status fvg_dataset_survey_masks(const fvg_dataset *d, const fvg_items *items) {
  if (!d || !d->ctx) return FVG_E_ARG;
  if (!items) return fvg__missing(d->ctx, "fvg_dataset_survey_masks", "items");
  if (d->masks_told && *d->masks_told) return FVG_OK;
  fvg_ctx *c = d->ctx;
  fvg__mask_survey survey;
  fvg__bad bad;
  memset(&survey, 0, sizeof survey);
  memset(&bad, 0, sizeof bad);

  fvg__batch_job *batch = FVG_NEW(c, fvg__batch_job);
  fvg__check_job *j = FVG_NEW(c, fvg__check_job);
  fvg_status s = batch && j ? FVG_OK : FVG_E_NOMEM;
  for (int i = 0; i < items->n && !s; i += FVG__IMAGE_BATCH) {
    const int n = fvg__min(items->n - i, FVG__IMAGE_BATCH);
    j->d = d;
    j->item = &items->item[i];
    j->masks = j->decode = 1;
    s = fvg__check_batch_of(c, j, batch, n);
    if (!s) fvg__survey_batch(c, j, batch, n, &survey, &bad);
  }
  fvg_release(c, j);
  fvg_release(c, batch);

  if (!s)
    s = fvg__bad_end(c, &bad, d->root, items->n, 0);
  if (s) return s;
  if (d->masks_told) *d->masks_told = 1;
  fvg__survey_tell(d, &survey);
  return FVG_OK;
}
#endif

FVG__SELDOM_RUN_END

/*==================================================================================================
 * CHAPTER 32  VIEWS: what training sees of a picture
 *==================================================================================================
   For each image training wants the feature of a view of it, f = norm(tower(x)), that of its
   foreground, f_fg = norm(tower(x * mask)), and the share of foreground in the view.  By default,
   and as published, every epoch draws a new crop of every image, and each step takes the crops of
   its batch and their foregrounds through the image tower.  That is where the time goes.  In the
   other modes (fvg_augment) the views do not change from epoch to epoch, or repeat after n_crops
   epochs: each is encoded once and kept, and then a training step costs microseconds.

   Methods that prompt the image tower read pixels in stage 1, because their tower changes with
   every step; pixels are made anew in every mode.  The pictures of a batch are read, decoded and
   cut by as many threads as there are; the tower then encodes them together.

   The mask (FVG-PT, arXiv 2603.08708) is applied to the normalised picture, so that what is removed
   becomes the data set's mean colour (0), and it goes through the same crop and flip as the picture
   (nearest pixel).

   Every random choice draws from a stream of its own, numbered by purpose, epoch and image: a seed
   repeats a run bit for bit, whatever ran before it.

   Features outlive a run in a store that the program lends the model (fvg_store).  A row is found
   there by a key, the hash of all it depends on, so that nothing ever has to be declared outdated:
   another model, another mask or a picture that was edited is another key.  Of a picture that is
   found, the file's bytes are read and hashed, and not decoded.

   The hash takes in words w of 8 bytes.  Two lanes a and b, 64 bits each, go side by side:

     a <- (rot31(a) xor w) A          rot: the bits of a word turned left
     b <- (rot27(b) xor w) B          A, B: odd, so that each step can be undone

   For one w, different a stay different, and so do different w for one a: inputs that differ in one
   word end in different lanes.  To meet again, they must differ in a second word by rot31 of the
   difference in a and also by rot27 of that in b, which after the products have nothing to do with
   each other.  At last the two lanes become the seeds of splitmix64, whose outputs each depend on
   every bit. */

/* ---- a hash of 128 bits ---- */
/* It goes over all bytes of the weights, so it stands outside the marks SELDOM_RUN. */
FVG_DEF fvg_hash fvg_hash_begin(void) {
  fvg_hash h = {{0x243F6A8885A308D3u, 0x13198A2E03707344u}};      /* the digits of pi */
  return h;
}

static void fvg__hash_word(fvg_hash *h, uint64_t w) {
  h->lane[0] = (fvg__rotate_left(h->lane[0], 31) ^ w) * 0x9E3779B97F4A7C15u;
  h->lane[1] = (fvg__rotate_left(h->lane[1], 27) ^ w) * 0xD1342543DE82EF95u;
}

/* What is left of the last word is filled with zeros; the number of bytes tells them from zeros
   that were given. */
FVG_DEF void fvg_hash_add(fvg_hash *h, const void *bytes, size_t n) {
  const uint8_t *at = (const uint8_t *)bytes;
  fvg_hash x = *h;
  size_t left = n;
  for (; left >= 8; left -= 8) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
    fvg__hash_word(&x, word);
    at += 8;
  }

  uint64_t last = 0;
  if (left) memcpy(&last, at, left);
  fvg__hash_word(&x, last);
  fvg__hash_word(&x, (uint64_t)n);
  *h = x;
}

/* The two steps can be undone as well: key[1] tells the second lane, and then key[0] the first. */
FVG_DEF void fvg_hash_end(const fvg_hash *h, uint64_t key[2]) {
  uint64_t seed = h->lane[0] ^ fvg__rotate_left(h->lane[1], 32);
  key[0] = fvg__splitmix(&seed);
  seed = h->lane[1] + key[0];
  key[1] = fvg__splitmix(&seed);
}

FVG__SELDOM_RUN_BEGIN

/* ---- the key of a model ---- */
/* Adds a tensor as it lies in memory; panels are filled up to their width.  The sums of rows of
   eight bits tell products with zero points from those without. */
static void fvg__hash_tensor(fvg_hash *h, const fvg_ctx *c, const fvg_tensor *x) {
  size_t bytes = fvg_tensor_count(x) * fvg_dtype_size(x->type);
  if (x->type == FVG_F32_PANELS) {
    const int width = fvg_panel_width(c);
    const int n = x->dim[0];
    const size_t row = fvg_tensor_count(x) / (size_t)n;
    bytes = fvg__row(fvg__ceil_div(n, width), width) * row * sizeof(float);
  }

  const int type = (int)x->type;
  fvg_hash_add(h, &type, sizeof type);
  fvg_hash_add(h, x->dim, (size_t)x->n_dim * sizeof *x->dim);
  if (fvg__is_narrow(x->type)) {
    const fvg__narrow_matrix *w = (const fvg__narrow_matrix *)x->data;
    const int is_widened = !w->format->tile;     /* the same weights, but other products of them */
    if (is_widened) fvg_hash_add(h, &is_widened, sizeof is_widened);
    fvg_hash_add(h, w->panels, fvg__narrow_bytes(w));
    fvg_hash_add(h, w->scale, w->scale ? fvg__row(w->n, sizeof *w->scale) : 0);
    fvg_hash_add(h, w->sum, w->sum ? fvg__row(w->n, sizeof *w->sum) : 0);
    return;
  }
  fvg_hash_add(h, x->data, x->data ? bytes : 0);
}

/* Adds the tensors of the rows first to last of the table of names. */
static void fvg__hash_range(fvg_hash *h, const fvg_ctx *c, const void *model_or_block, int first,
                            int last) {
  for (int id = first; id <= last; id++) {
    const char *at = (const char *)model_or_block + fvg__known_tensors[id].offset;
    fvg__hash_tensor(h, c, (const fvg_tensor *)at);
  }
}

/* Other code may make other bits of the same numbers: therefore the SIMD level and the version. */
static void fvg__hash_tower(fvg_hash *h, const fvg_clip *m) {
  const fvg_ctx *c = m->ctx;
  const fvg_vision_tower *v = &m->vision;
  const fvg_transformer *t = &v->transformer;
  const int settings[] = {fvg_simd_level(c), m->embed_dim, v->image_size, v->patch_size, v->n_token,
                          v->width, t->n_layer, t->n_head, (int)t->activation};
  fvg_hash_add(h, FVGPT_VERSION, sizeof FVGPT_VERSION);
  fvg_hash_add(h, settings, sizeof settings);
  fvg_hash_add(h, &t->eps, sizeof t->eps);

  fvg__hash_range(h, c, m, FVG__PATCH, FVG__IMAGE_PROJECTION);
  for (int i = 0; i < t->n_layer; i++)
    fvg__hash_range(h, c, &t->block[i], FVG__LN_1_WEIGHT, FVG__PROJ_BIAS);
}

FVG_DEF fvg_status fvg_clip_image_key(fvg_clip *m, uint64_t key[2]) {
  if (!m) return FVG_E_ARG;
  if (!key)
    return fvg__missing(m->ctx, "fvg_clip_image_key", "a place for the key");
  if (!m->has_vision)
    return fvg_fail(m->ctx, FVG_E_ARG, "this model has no image tower");
  if (!m->has_image_key) {
    fvg_hash h = fvg_hash_begin();
    fvg__hash_tower(&h, m);
    fvg_hash_end(&h, m->image_key);
    m->has_image_key = 1;
  }
  memcpy(key, m->image_key, sizeof m->image_key);
  return FVG_OK;
}

FVG_DEF fvg_status fvg_clip_set_store(fvg_clip *m, const fvg_store *store) {
  if (!m) return FVG_E_ARG;
  if (store && (!store->find || !store->keep))
    return fvg__missing(m->ctx, "fvg_clip_set_store", "both functions of the store");
  m->store = store;
  m->has_image_key = 0;
  return FVG_OK;
}

/* ---- views and their context ---- */
/* The kept views of an image, found by its path. */
typedef struct fvg__view_slot {
  const char *path;           /* NULL: the slot is empty                                        */
  float *f, *f_fg;            /* [n_kept, width] each; one block, which begins at f             */
  float *area;                /* [n_kept], in the same block                                    */
} fvg__view_slot;

struct fvg_views {
  fvg_clip *clip;
  int width;                  /* of a row of features                                           */
  const fvg_dataset *dataset;
  fvg_views_desc desc;
  int n_kept;                 /* views kept of each image; 0: all are encoded when asked for    */
  fvg__view_slot *slot;       /* [n_slot] hash table, open addressing, at most half full        */
  int n_slot, n_used;
  float *pixels;              /* [2, FVG__IMAGE_BATCH, one image]: whole, foreground            */
  float *encoded;             /* [FVG__IMAGE_BATCH, width]                                      */
  int is_plain;               /* 1: the rows are one feature of CLIP's own tower                */
  int of_files;               /* 1: of fvg_clip_encode_files, which wants them not normalised   */
};

enum { FVG__STREAM_ORDER = 1000 };

/* Returns the context of whichever is there; NULL if neither is. */
static fvg_ctx *fvg__context_of(const fvg_learner *l, const fvg_views *v) {
  if (l) return l->clip->ctx;
  return v ? v->clip->ctx : NULL;
}

/* Fails unless the paths of the task's pictures lead to the same pictures in the views; a task
   without a data set has only paths and labels, and goes with any. */
static fvg_status fvg__check_same_set(const fvg_views *v, const fvg_task *task) {
  const fvg_dataset *a = v->dataset;
  const fvg_dataset *b = task->dataset;
  if (!b || a == b) return FVG_OK;
  if (a->root && b->root && a->picture == b->picture && !strcmp(a->root, b->root)) return FVG_OK;
  return fvg_fail(v->clip->ctx, FVG_E_ARG, "the views are of another data set than the task");
}

/* Fails unless the views are of plain CLIP, which the method called `prefix` and `name` trains
   on. */
static fvg_status fvg__check_plain_views(const fvg_views *v, const char *prefix,
                                         const char *name) {
  if (!v->desc.learner) return FVG_OK;
  return fvg_fail(v->clip->ctx, FVG_E_ARG,
                  "%s%s trains on views of plain CLIP, not of a learner", prefix, name);
}

/* Fails unless what works together is of the model m.  l, v, fvgpt: NULL where there is none. */
static fvg_status fvg__check_together(const fvg_clip *m, const fvg_learner *l, const fvg_views *v,
                                      const fvg_fvgpt *fvgpt) {
  fvg_status s = v ? fvg__check_model(m, "the views", v->clip) : FVG_OK;
  return s ? s : fvg__check_tuned(m, l, fvgpt);
}

/* ---- one view: crop, normalise, mask ---- */
/* Cuts a picture or its mask to the tower's size, as desc.augment says. */
static fvg_status fvg__augmented(fvg_ctx *c, const fvg_views *v, const fvg_image *in,
                                 const fvg_crop *crop, fvg_filter filter, fvg_image *out) {
  fvg_preprocess p = v->clip->preprocess;
  p.filter = filter;
  if (v->desc.augment == FVG_AUGMENT_NONE) return fvg_image_test_transform(c, out, in, &p);
  if (v->desc.augment == FVG_AUGMENT_SQUASH)
    return fvg_image_resize(c, out, in, p.size, p.size, filter);
  return fvg_image_resized_crop(c, out, in, crop, p.size, filter);
}

/* fg = x * mask, for each of the three channels; returns the share of foreground.  What is removed
   becomes 0, the mean colour, or with `black` the value that a black pixel has in x. */
FVG_DEF float fvg_foreground_view(float *fg, const float *x, const fvg_image *mask,
                                  const fvg_preprocess *black) {
  const size_t n = (size_t)mask->width * (size_t)mask->height;
  for (int channel = 0; channel < 3; channel++) {
    const float *x_c = x + (size_t)channel * n;
    float *fg_c = fg + (size_t)channel * n;
    float removed = 0;
    if (black)
      removed = (0.0f - black->mean[channel]) / black->std[channel];
    for (size_t k = 0; k < n; k++)
      fg_c[k] = mask->pixels[k] ? x_c[k] : removed;
  }

  size_t inside = 0;
  for (size_t k = 0; k < n; k++)
    inside += mask->pixels[k] != 0;
  return (float)inside / (float)n;
}

/* Makes fg and *area of a view whose pixels are x; without a mask fg is x, and *area -1. */
static fvg_status fvg__view_foreground(fvg_ctx *c, const fvg_views *v, const fvg_image *mask,
                                       const fvg_crop *crop, const float *x, float *fg,
                                       float *area) {
  *area = -1;
  if (!mask->pixels) {
    memcpy(fg, x, fvg__image_floats(v->clip) * sizeof *fg);
    return FVG_OK;
  }

  fvg_image mask_view;
  fvg_status s = fvg__augmented(c, v, mask, crop, FVG_NEAREST, &mask_view);
  if (s) return s;
  if (v->desc.invert_masks) fvg__invert_mask(&mask_view);
  const fvg_preprocess *black = v->desc.fill_black ? &v->clip->preprocess : NULL;
  *area = fvg_foreground_view(fg, x, &mask_view, black);
  fvg_image_free(c, &mask_view);
  return FVG_OK;
}

/* Makes the pixels x [3, image_size, image_size] of one view, and unless fg is NULL those of its
   foreground, with *area.  c stands in for the clip's context. */
static fvg_status fvg__view_pixels(fvg_ctx *c, const fvg_views *v, const fvg_item *item, int epoch,
                                   float *x, float *fg, float *area) {
  const fvg_preprocess *how = &v->clip->preprocess;
  fvg_dataset dataset = *v->dataset;
  dataset.ctx = c;
  fvg_image image, mask;
  memset(&mask, 0, sizeof mask);
  fvg_image *wanted = fg && !v->desc.no_masks ? &mask : NULL;
  fvg_status s = fvg_dataset_load(&dataset, &image, wanted, item, v->desc.mask_threshold);
  if (s) return s;

  fvg_rng rng;
  fvg_rng_seed(&rng, v->desc.seed, fvg__path_hash(item->path) + (uint64_t)epoch);
  const fvg_crop crop = fvg_crop_random(&rng, image.width, image.height,
                                        (double)v->desc.crop_scale_min, 1.0);
  fvg_image view;
  memset(&view, 0, sizeof view);
  s = fvg__augmented(c, v, &image, &crop, how->filter, &view);
  if (!s) s = fvg_image_normalize(c, x, &view, how);
  if (!s && fg)
    s = fvg__view_foreground(c, v, &mask, &crop, x, fg, area);
  fvg_image_free(c, &view);
  fvg_image_free(c, &mask);
  fvg_image_free(c, &image);
  return s;
}

/* ---- a batch of views ---- */
/* The pictures of a batch are read, decoded and cut side by side. */
typedef struct fvg__pixels_job {
  const fvg_views *v;
  const fvg_item *const *item;
  int epoch;
  float *whole, *fg;          /* [batch, one image]; fg NULL: not wanted                        */
  float *area;                /* [batch]                                                        */
} fvg__pixels_job;

static fvg_status fvg__pixels_work(void *arg, fvg_ctx *c, int i) {
  const fvg__pixels_job *j = (const fvg__pixels_job *)arg;
  const size_t at = (size_t)i * fvg__image_floats(j->v->clip);
  float *fg = j->fg ? j->fg + at : NULL;
  return fvg__view_pixels(c, j->v, j->item[i], j->epoch, j->whole + at, fg, &j->area[i]);
}

/* Makes the pixels of n views, n <= FVG__IMAGE_BATCH.  The first failure is the error. */
static fvg_status fvg__batch_pixels(fvg__pixels_job *j, int n) {
  fvg_ctx *c = j->v->clip->ctx;
  fvg__batch_job batch;
  batch.work = fvg__pixels_work;
  batch.arg = j;
  fvg_status s = fvg__batch(c, &batch, n);
  if (s) return s;

  for (int i = 0; i < n; i++) {
    const fvg_status status = batch.ctx[i].status;
    const char *message = batch.ctx[i].message;
    const int its_own =
        status == FVG_E_IO || status == FVG_E_FORMAT || status == FVG_E_UNSUPPORTED;
    if (its_own && !j->v->of_files) {
      return fvg_fail(
          c, status, "%.400s; --skip-bad (fvg_dataset_check) goes on without such pictures",
          message);
    }
    if (status)
      return fvg_fail(c, status, "%s", message);
  }
  return FVG_OK;
}

/* Takes n views through the tower.  Rows of plain CLIP are not normalised yet. */
static fvg_status fvg__views_tower(const fvg_views *v, float *f, const float *pixels, int n) {
  if (v->is_plain) return fvg_clip_encode_images(v->clip, f, pixels, n);
  return fvg_learner_encode_images(v->clip, v->desc.learner, f, pixels, n);
}

/* Encodes the foregrounds fg [n, one image] of the views that have a mask (area >= 0) into f_fg
   [n, width]; the other rows of f_fg stay.  The foregrounds move together in fg. */
static fvg_status fvg__encode_foregrounds(fvg_views *v, float *fg, const float *area, int n,
                                          float *f_fg) {
  const size_t values = fvg__image_floats(v->clip);
  int with_mask[FVG__IMAGE_BATCH];
  int n_masked = 0;
  for (int i = 0; i < n; i++) {
    if (area[i] < 0) continue;
    float *to = fg + (size_t)n_masked * values;
    const float *from = fg + (size_t)i * values;
    memmove(to, from, values * sizeof *fg);
    with_mask[n_masked] = i;
    n_masked++;
  }
  if (!n_masked) return FVG_OK;

  fvg_status s = fvg__views_tower(v, v->encoded, fg, n_masked);
  for (int i = 0; !s && i < n_masked; i++) {
    float *to = f_fg + fvg__row(with_mask[i], v->width);
    const float *from = v->encoded + fvg__row(i, v->width);
    memcpy(to, from, (size_t)v->width * sizeof *f_fg);
  }
  return s;
}

/* Decodes and encodes n views, n <= FVG__IMAGE_BATCH: f, f_fg [n, width], area [n]; f_fg and area
   may be NULL.  Without a mask the feature of the foreground is that of the image.  Rows of plain
   CLIP are not normalised yet. */
static fvg_status fvg__views_compute(fvg_views *v, const fvg_item *const *item, int n, int epoch,
                                     float *f, float *f_fg, float *area) {
  float areas[FVG__IMAGE_BATCH];
  fvg__pixels_job j;
  j.v = v;
  j.item = item;
  j.epoch = epoch;
  j.whole = v->pixels;
  j.fg = NULL;
  if (f_fg || area)           /* masks are read either way */
    j.fg = v->pixels + FVG__IMAGE_BATCH * fvg__image_floats(v->clip);
  j.area = areas;
  fvg_status s = fvg__batch_pixels(&j, n);
  if (!s) s = fvg__views_tower(v, f, j.whole, n);
  if (s) return s;

  if (area) memcpy(area, areas, (size_t)n * sizeof *area);
  if (!f_fg) return FVG_OK;
  const size_t features = fvg__row(n, v->width);
  memcpy(f_fg, f, features * sizeof *f_fg);
  return fvg__encode_foregrounds(v, j.fg, areas, n, f_fg);
}

/* ---- the keys of views ---- */
/* What two rows of one view are kept under. */
typedef struct fvg__view_key {
  int is_known;               /* 0: the files cannot be read                                    */
  int has_mask;
  uint64_t whole[2], fg[2];   /* fg: if it has a mask                                           */
} fvg__view_key;

/* Adds what the rows of an item's view depend on besides its picture and the model. */
static void fvg__key_view(fvg_hash *h, const fvg_views *v, const fvg_item *item, int epoch) {
  const fvg_preprocess *p = &v->clip->preprocess;
  const int how[4] = {p->size, p->resize, (int)p->resize_mode, (int)p->filter};
  const int kind[2] = {(int)v->desc.augment, v->dataset->exif_rotate != 0};
  fvg_hash_add(h, how, sizeof how);
  fvg_hash_add(h, p->mean, sizeof p->mean);
  fvg_hash_add(h, p->std, sizeof p->std);
  fvg_hash_add(h, kind, sizeof kind);
  if (v->desc.augment != FVG_AUGMENT_FIXED_CROPS) return;

  const uint64_t stream[2] = {v->desc.seed, fvg__path_hash(item->path) + (uint64_t)epoch};
  fvg_hash_add(h, stream, sizeof stream);
  fvg_hash_add(h, &v->desc.crop_scale_min, sizeof v->desc.crop_scale_min);
}

/* Adds how the foreground of a view is made of its mask. */
static void fvg__key_foreground(fvg_hash *h, const fvg_views *v) {
  const fvg_views_desc *d = &v->desc;
  const int how[3] = {(int)v->dataset->mask_reading, d->invert_masks != 0, d->fill_black != 0};
  fvg_hash_add(h, how, sizeof how);
  fvg_hash_add(h, &d->mask_threshold, sizeof d->mask_threshold);
}

static void fvg__key_image(fvg_hash *h, const fvg_image *image) {
  const int sides[3] = {image->width, image->height, image->channels};
  fvg_hash_add(h, sides, sizeof sides);
  fvg_hash_add(h, image->pixels, fvg__pixel_count(image) * (size_t)image->channels);
}

#ifndef FVGPT_NO_STDIO
static fvg_status fvg__key_file(fvg_ctx *c, fvg_hash *h, const char *path) {
  fvg_source source;
  fvg_status s = fvg_source_file(c, &source, path);
  if (s) return s;
  uint8_t *bytes = NULL;
  size_t n = 0;
  s = source.size > FVG__IMAGE_BYTES ? FVG_E_UNSUPPORTED
                                     : fvg_source_read_all(c, &bytes, &n, &source);
  if (!s) fvg_hash_add(h, bytes, n);
  fvg_bytes_free(c, bytes);
  fvg_source_close(&source);
  return s;
}
#endif

/* Adds the picture of an item: its pixels, if the data set has them in memory, or else its file. */
static fvg_status fvg__key_picture(const fvg_dataset *d, fvg_hash *h, const fvg_item *item) {
  const fvg_picture *from = d->picture ? fvg__picture_of(d, item->path) : NULL;
  if (from) {
    fvg__key_image(h, &from->image);
    return FVG_OK;
  }
#ifdef FVGPT_NO_STDIO
  return FVG_E_UNSUPPORTED;
#else
  char *path = fvg_path_join(d->ctx, d->root, item->path);
  if (!path) return FVG_E_NOMEM;
  fvg_status s = fvg__key_file(d->ctx, h, path);
  fvg_release(d->ctx, path);
  return s;
#endif
}

/* Adds the mask that an item was given. */
static void fvg__key_given_mask(fvg_hash *h, const fvg__set_mask *given) {
  const int sides[2] = {given->width, given->height};
  const size_t n = (size_t)given->width * (size_t)given->height;
  fvg_hash_add(h, sides, sizeof sides);
  fvg_hash_add(h, given->bits, (n + 7) / 8);
}

/* Adds the mask of an item, wherever it comes from; *has_mask tells if there is one. */
static fvg_status fvg__key_mask(const fvg_dataset *d, fvg_hash *h, const fvg_item *item,
                                int *has_mask) {
  const fvg__set_mask *given = fvg__mask_given(d, item->path);
  const fvg_picture *from = d->picture ? fvg__picture_of(d, item->path) : NULL;
  *has_mask = given || (from && from->mask.pixels);
  if (given) fvg__key_given_mask(h, given);
  else if (*has_mask) fvg__key_image(h, &from->mask);
  if (given || from) return FVG_OK;
#ifdef FVGPT_NO_STDIO
  return FVG_E_UNSUPPORTED;
#else
  char *path = NULL;
  fvg_status s = fvg_dataset_mask_path(d, &path, item->path);
  *has_mask = path != NULL;
  if (!s && path) s = fvg__key_file(d->ctx, h, path);
  fvg_release(d->ctx, path);
  return s;
#endif
}

/* Files are read and hashed side by side. */
typedef struct fvg__keys_job {
  const fvg_views *v;
  const fvg_item *const *item;
  int epoch, foreground;      /* foreground: its key is wanted too                              */
  fvg__view_key *key;         /* [batch]                                                        */
} fvg__keys_job;

/* A file that cannot be read only has no key: the error comes when it is decoded. */
static fvg_status fvg__keys_work(void *arg, fvg_ctx *c, int i) {
  const fvg__keys_job *j = (const fvg__keys_job *)arg;
  const fvg_views *v = j->v;
  fvg__view_key *key = &j->key[i];
  fvg_dataset d = *v->dataset;
  d.ctx = c;
  memset(key, 0, sizeof *key);

  fvg_hash h = fvg_hash_begin();
  fvg_hash_add(&h, v->clip->image_key, sizeof v->clip->image_key);
  fvg__key_view(&h, v, j->item[i], j->epoch);
  fvg_status s = fvg__key_picture(&d, &h, j->item[i]);
  fvg_hash_end(&h, key->whole);

  if (!s && j->foreground && !v->desc.no_masks) {
    fvg__key_foreground(&h, v);
    s = fvg__key_mask(&d, &h, j->item[i], &key->has_mask);
    fvg_hash_end(&h, key->fg);
  }
  key->is_known = !s;
  return FVG_OK;
}

/* Makes the keys of n views, n <= FVG__IMAGE_BATCH. */
static fvg_status fvg__view_keys(const fvg_views *v, const fvg_item *const *item, int n, int epoch,
                                 int foreground, fvg__view_key *key) {
  uint64_t model[2];
  fvg_status s = fvg_clip_image_key(v->clip, model);
  fvg__keys_job j;
  j.v = v;
  j.item = item;
  j.epoch = epoch;
  j.foreground = foreground;
  j.key = key;
  fvg__batch_job batch;
  batch.work = fvg__keys_work;
  batch.arg = &j;
  return s ? s : fvg__batch(v->clip->ctx, &batch, n);
}

/* ---- views in the store ---- */
/* Finds a row; a row that is not finite is none. */
static int fvg__find_row(const fvg_clip *m, const uint64_t key[2], float *row, int n) {
  if (!m->store->find(m->store->user, key, row, n)) return 0;
  for (int k = 0; k < n; k++)
    if (!isfinite(row[k])) return 0;
  return 1;
}

/* Finds the rows of a view; f_fg and area NULL: that of the foreground is not wanted. */
static int fvg__find_view(const fvg_views *v, const fvg__view_key *key, float *f, float *f_fg,
                          float *area) {
  const fvg_clip *m = v->clip;
  const int d = v->width;
  const size_t bytes = (size_t)d * sizeof *f;
  if (!key->is_known || !fvg__find_row(m, key->whole, f, d)) return 0;
  if (!f_fg) return 1;

  *area = -1;
  memcpy(f_fg, f, bytes);
  if (!key->has_mask) return 1;
  if (!fvg__find_row(m, key->fg, v->encoded, d + 1)) return 0;
  memcpy(f_fg, v->encoded, bytes);
  *area = v->encoded[d];
  return 1;
}

/* Offers the rows of a view to the store. */
static void fvg__keep_view(const fvg_views *v, const fvg__view_key *key, const float *f,
                           const float *f_fg, const float *area) {
  const fvg_store *store = v->clip->store;
  const int d = v->width;
  if (!key->is_known) return;
  store->keep(store->user, key->whole, f, d);
  if (!f_fg || !key->has_mask) return;

  memcpy(v->encoded, f_fg, (size_t)d * sizeof *f_fg);
  v->encoded[d] = *area;
  store->keep(store->user, key->fg, v->encoded, d + 1);
}

/* Encodes those of n views whose numbers stand in missing [n_missing], and keeps them.  A file may
   have been written to after it was hashed; what does not have its key any more is not kept. */
static fvg_status fvg__views_fill(fvg_views *v, const fvg_item *const *item, int epoch,
                                  const fvg__view_key *key, const int *missing, int n_missing,
                                  float *f, float *f_fg, float *area) {
  const int width = v->width;
  const size_t bytes = (size_t)width * sizeof *f;
  const fvg_item *wanted[FVG__IMAGE_BATCH];
  fvg__view_key after[FVG__IMAGE_BATCH];
  float new_area[FVG__IMAGE_BATCH];
  float *new_f = FVG_NEW_ARRAY(v->clip->ctx, float, fvg__row(2 * n_missing, width));
  if (!new_f) return FVG_E_NOMEM;
  float *new_fg = f_fg ? new_f + fvg__row(n_missing, width) : NULL;
  for (int k = 0; k < n_missing; k++)
    wanted[k] = item[missing[k]];

  fvg_status s = fvg__views_compute(v, wanted, n_missing, epoch, new_f, new_fg,
                                    area ? new_area : NULL);
  if (!s) s = fvg__view_keys(v, wanted, n_missing, epoch, f_fg != NULL, after);
  for (int k = 0; !s && k < n_missing; k++) {
    const fvg__view_key *of = &key[missing[k]];
    const size_t from = fvg__row(k, width);
    const size_t to = fvg__row(missing[k], width);
    memcpy(f + to, new_f + from, bytes);
    if (f_fg) memcpy(f_fg + to, new_fg + from, bytes);
    if (area) area[missing[k]] = new_area[k];
    if (!memcmp(of, &after[k], sizeof *of))
      fvg__keep_view(v, of, f + to, f_fg ? f_fg + to : NULL, new_area + k);
  }
  fvg_release(v->clip->ctx, new_f);
  return s;
}

/* The rows of n views as fvg__views_compute gives them, from the store as far as it has them. */
static fvg_status fvg__views_recall(fvg_views *v, const fvg_item *const *item, int n, int epoch,
                                    float *f, float *f_fg, float *area) {
  fvg__view_key key[FVG__IMAGE_BATCH];
  fvg_status s = fvg__view_keys(v, item, n, epoch, f_fg != NULL, key);
  if (s) return s;

  int missing[FVG__IMAGE_BATCH];
  int n_missing = 0;
  for (int i = 0; i < n; i++) {
    const size_t at = fvg__row(i, v->width);
    const int is_found = fvg__find_view(v, &key[i], f + at, f_fg ? f_fg + at : NULL,
                                        area ? area + i : NULL);
    if (!is_found) missing[n_missing++] = i;
  }
  if (!n_missing) return FVG_OK;
  return fvg__views_fill(v, item, epoch, key, missing, n_missing, f, f_fg, area);
}

/* Makes the rows of n views, n <= FVG__IMAGE_BATCH, or takes them from the store: f, f_fg
   [n, width] and area [n], like those of fvg_learner_encode_images; f_fg and area may be NULL.
   Views that are new in every epoch do not use the store, which they would only fill. */
static fvg_status fvg__views_encode(fvg_views *v, const fvg_item *const *item, int n, int epoch,
                                    float *f, float *f_fg, float *area) {
  const int both = !f_fg == !area;
  const int uses_store = v->clip->store && v->is_plain && v->n_kept && both;
  fvg_status s = uses_store ? fvg__views_recall(v, item, n, epoch, f, f_fg, area)
                            : fvg__views_compute(v, item, n, epoch, f, f_fg, area);
  if (s || !v->is_plain || v->of_files) return s;

  fvg_normalize_rows(f, n, v->width);
  if (f_fg) fvg_normalize_rows(f_fg, n, v->width);
  return FVG_OK;
}

/* ---- views that are kept ---- */
/* Finds the slot of an image in the table, or the empty one where it belongs. */
static fvg__view_slot *fvg__view_find(const fvg_views *v, const char *path) {
  uint64_t at = fvg__path_hash(path);
  for (;;) {
    fvg__view_slot *slot = &v->slot[at % (uint64_t)v->n_slot];
    if (!slot->path || !strcmp(slot->path, path)) return slot;
    at++;
  }
}

/* Makes the table large enough for n images, at most half full. */
static fvg_status fvg__views_reserve(fvg_views *v, int n) {
  if (v->slot && 2 * n <= v->n_slot) return FVG_OK;
  fvg_ctx *c = v->clip->ctx;
  fvg__view_slot *old = v->slot;
  const int n_old = v->n_slot;
  const int n_new = 4 * n + 16;
  fvg__view_slot *slot = FVG_NEW_ARRAY(c, fvg__view_slot, (size_t)n_new);
  if (!slot) return FVG_E_NOMEM;

  v->slot = slot;
  v->n_slot = n_new;
  for (int i = 0; i < n_old; i++) {
    if (old[i].path)
      *fvg__view_find(v, old[i].path) = old[i];
  }
  fvg_release(c, old);
  return FVG_OK;
}

/* Makes room for the kept views of one image. */
static fvg_status fvg__view_slot_new(const fvg_views *v, fvg__view_slot *slot, const char *path) {
  const size_t values = fvg__row(v->n_kept, v->width);
  slot->path = path;
  slot->f = FVG_NEW_ARRAY(v->clip->ctx, float, 2 * values + (size_t)v->n_kept);
  if (!slot->f) return FVG_E_NOMEM;
  slot->f_fg = slot->f + values;
  slot->area = slot->f_fg + values;
  return FVG_OK;
}

/* Encodes view number `view` of n images into their slots, by way of `room` [n, 2 width + 1]. */
static fvg_status fvg__view_slots_fill(fvg_views *v, const fvg_item *const *item, int n, int view,
                                       fvg__view_slot *slot, float *room) {
  const size_t bytes = (size_t)v->width * sizeof(float);
  float *f = room;
  float *f_fg = f + fvg__row(n, v->width);
  float *area = f_fg + fvg__row(n, v->width);
  const int no_foreground = v->desc.no_foreground;
  fvg_status s = fvg__views_encode(v, item, n, view, f, no_foreground ? NULL : f_fg,
                                   no_foreground ? NULL : area);

  const size_t to = fvg__row(view, v->width);
  for (int i = 0; !s && i < n; i++) {
    const size_t from = fvg__row(i, v->width);
    memcpy(slot[i].f + to, f + from, bytes);
    memcpy(slot[i].f_fg + to, f_fg + from, bytes);
    slot[i].area[view] = area[i];
  }
  return s;
}

/* Encodes and keeps all views of n images that have none yet, n <= FVG__IMAGE_BATCH. */
static fvg_status fvg__views_keep(fvg_views *v, const fvg_item *const *item, int n) {
  fvg_ctx *c = v->clip->ctx;
  fvg__view_slot fresh[FVG__IMAGE_BATCH];
  memset(fresh, 0, sizeof fresh);
  float *room = FVG_NEW_ARRAY(c, float, fvg__row(n, 2 * v->width + 1));
  if (!room) return FVG_E_NOMEM;

  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < n; i++)
    s = fvg__view_slot_new(v, &fresh[i], item[i]->path);
  for (int view = 0; !s && view < v->n_kept; view++)
    s = fvg__view_slots_fill(v, item, n, view, fresh, room);

  /* An image that the list names twice is kept once; after a failure nothing is. */
  for (int i = 0; i < n; i++) {
    fvg__view_slot *slot = s ? NULL : fvg__view_find(v, fresh[i].path);
    if (slot && !slot->path) {
      *slot = fresh[i];
      v->n_used++;
    } else {
      fvg_release(c, fresh[i].f);
    }
  }
  fvg_release(c, room);
  return s;
}

/* Collects the items that have no views yet and encodes them a batch at a time. */
FVG_DEF fvg_status fvg_views_load(fvg_views *v, const fvg_items *items) {
  if (!v) return FVG_E_ARG;
  if (!items)
    return fvg__missing(v->clip->ctx, "fvg_views_load", "items");
  if (v->n_kept == 0) return FVG_OK;
  fvg_status s = fvg__views_reserve(v, v->n_used + items->n);

  fvg_progress progress;
  memset(&progress, 0, sizeof progress);
  progress.what = "encode";
  progress.n_steps = items->n;
  const fvg_item *missing[FVG__IMAGE_BATCH];
  int n = 0;
  for (int i = 0; !s && i < items->n; i++) {
    if (!fvg__view_find(v, items->item[i].path)->path)
      missing[n++] = &items->item[i];
    const int is_last = i == items->n - 1;
    if (n == FVG__IMAGE_BATCH || (n && is_last)) {
      s = fvg__views_keep(v, missing, n);
      n = 0;
      progress.step = i + 1;
      if (!s) s = fvg_report_progress(v->clip->ctx, &progress);
    }
  }
  return s;
}

/* ---- the public functions ---- */
/* Returns how many views of each image are kept: none where every epoch crops anew. */
static int fvg__views_kept(const fvg_views_desc *desc) {
  if (desc->augment == FVG_AUGMENT_CROP) return 0;
  return desc->augment == FVG_AUGMENT_FIXED_CROPS ? desc->n_crops : 1;
}

/* Fails if a setting is out of range. */
static fvg_status fvg__check_views_desc(fvg_ctx *c, const fvg_views_desc *desc) {
  const float scale = desc->crop_scale_min;
  if ((unsigned)desc->augment > FVG_AUGMENT_SQUASH)
    return fvg_fail(c, FVG_E_ARG, "views: augment %d is no fvg_augment", (int)desc->augment);
  if (scale >= 0 && scale <= 1) return FVG_OK;
  return fvg_fail(c, FVG_E_ARG, "views: crop_scale_min %g; it is a share of the image, up to 1",
                  (double)scale);
}

/* Fills in the defaults and makes room for one batch; views themselves come with use. */
FVG_DEF fvg_status fvg_views_new(fvg_clip *m, fvg_views **out, const fvg_dataset *d,
                                 const fvg_views_desc *desc) {
  if (out) *out = NULL;
  if (!m)
    return fvg__missing(d ? d->ctx : NULL, "fvg_views_new", "a CLIP");
  if (!out)
    return fvg__missing(m->ctx, "fvg_views_new", "a place for the views");
  if (!d)
    return fvg__missing(m->ctx, "fvg_views_new", "a data set");
  if (!m->has_vision)
    return fvg_fail(m->ctx, FVG_E_ARG, "this model has no image tower");
  fvg_status s = fvg__check_tuned(m, desc ? desc->learner : NULL, NULL);
  if (!s && desc) s = fvg__check_views_desc(m->ctx, desc);
  if (s) return s;

  fvg_views *v = FVG_NEW(m->ctx, fvg_views);
  if (!v) return FVG_E_NOMEM;
  v->clip = m;
  v->dataset = d;
  if (desc) v->desc = *desc;
  if (v->desc.n_crops <= 0) v->desc.n_crops = 8;
  v->desc.crop_scale_min = fvg__default(v->desc.crop_scale_min, 0.08f);
  v->desc.mask_threshold = fvg__default(v->desc.mask_threshold, 0.5f);
  v->n_kept = fvg__views_kept(&v->desc);
  v->width = fvg_learner_feature_width(m, v->desc.learner);
  v->is_plain = fvg__learner_parts(v->desc.learner) == 1;

  v->pixels = FVG_NEW_ARRAY(m->ctx, float, 2 * FVG__IMAGE_BATCH * fvg__image_floats(m));
  v->encoded = FVG_NEW_ARRAY(m->ctx, float, fvg__row(FVG__IMAGE_BATCH, v->width));
  if (!v->pixels || !v->encoded) {
    fvg_views_free(v);
    return FVG_E_NOMEM;
  }
  *out = v;
  return FVG_OK;
}

FVG_DEF void fvg_views_free(fvg_views *v) {
  if (!v) return;
  fvg_ctx *c = v->clip->ctx;
  for (int i = 0; i < v->n_slot; i++)
    fvg_release(c, v->slot[i].f);
  fvg_release(c, v->slot);
  fvg_release(c, v->pixels);
  fvg_release(c, v->encoded);
  fvg_release(c, v);
}

/* Encodes the items index[0..n-1] now, a batch at a time, and keeps nothing. */
static fvg_status fvg__views_encode_items(fvg_views *v, const fvg_items *items, const int *index,
                                          int n, int epoch, float *f, float *f_fg, float *area) {
  const fvg_item *item[FVG__IMAGE_BATCH];
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < n; i += FVG__IMAGE_BATCH) {
    const int count = fvg__min(n - i, FVG__IMAGE_BATCH);
    for (int k = 0; k < count; k++)
      item[k] = &items->item[index[i + k]];

    const size_t at = fvg__row(i, v->width);
    s = fvg__views_encode(v, item, count, epoch, f + at, f_fg ? f_fg + at : NULL,
                          area ? area + i : NULL);
  }
  return s;
}

/* Fails unless n views of items can be written to `out`.  foreground: theirs are wanted too. */
static fvg_status fvg__check_views(const fvg_views *v, const char *who, const fvg_items *items,
                                   const int *index, int n, int epoch, const float *out,
                                   int foreground) {
  fvg_ctx *c = v->clip->ctx;
  if (!items)
    return fvg__missing(c, who, "items");
  if (n > 0 && !index)
    return fvg__missing(c, who, "the items' numbers");
  if (n > 0 && !out)
    return fvg__missing(c, who, "a place for the views");
  if (foreground && v->desc.no_foreground)
    return fvg_fail(c, FVG_E_ARG, "these views were made without the foreground");
  if (epoch < 0)
    return fvg_fail(c, FVG_E_ARG, "views of epoch %d; epochs count from 0", epoch);

  for (int i = 0; i < n; i++) {
    if (index[i] < 0 || index[i] >= items->n)
      return fvg_fail(c, FVG_E_ARG, "view %d of %d images", index[i], items->n);
  }
  return FVG_OK;
}

/* Kept views repeat after n_kept epochs, and so do their pixels, which are always made anew. */
FVG_DEF fvg_status fvg_views_pixels(fvg_views *v, float *pixels, float *pixels_fg,
                                    const fvg_items *items, const int *index, int n, int epoch) {
  if (!v) return FVG_E_ARG;
  const int foreground = pixels_fg != NULL;
  fvg_status s = fvg__check_views(v, "fvg_views_pixels", items, index, n, epoch, pixels,
                                  foreground);

  const fvg_item *item[FVG__IMAGE_BATCH];
  float area[FVG__IMAGE_BATCH];
  fvg__pixels_job j;
  j.v = v;
  j.item = item;
  j.epoch = v->n_kept ? epoch % v->n_kept : epoch;
  j.area = area;
  for (int i = 0; !s && i < n; i += FVG__IMAGE_BATCH) {
    const int count = fvg__min(n - i, FVG__IMAGE_BATCH);
    const size_t at = (size_t)i * fvg__image_floats(v->clip);
    for (int k = 0; k < count; k++)
      item[k] = &items->item[index[i + k]];
    j.whole = pixels + at;
    j.fg = foreground ? pixels_fg + at : NULL;
    s = fvg__batch_pixels(&j, count);
  }
  return s;
}

/* Finds the slot of an image whose views are kept; if they are not encoded yet, encodes them. */
static fvg_status fvg__view_kept(fvg_views *v, const fvg_item *item, const fvg__view_slot **slot) {
  fvg_status s = fvg__views_reserve(v, v->n_used + 1);
  if (!s && !fvg__view_find(v, item->path)->path)
    s = fvg__views_keep(v, &item, 1);
  if (!s) *slot = fvg__view_find(v, item->path);
  return s;
}

/* Copies rows from the kept views, or encodes the items now when none are kept. */
FVG_DEF fvg_status fvg_views_get(fvg_views *v, float *f, float *f_fg, float *area,
                                 const fvg_items *items, const int *index, int n, int epoch) {
  if (!v) return FVG_E_ARG;
  const int foreground = f_fg || area;
  fvg_status s = fvg__check_views(v, "fvg_views_get", items, index, n, epoch, f, foreground);
  if (s) return s;
  if (v->n_kept == 0)
    return fvg__views_encode_items(v, items, index, n, epoch, f, f_fg, area);

  const int view = epoch % v->n_kept;
  const size_t from = fvg__row(view, v->width);
  const size_t bytes = (size_t)v->width * sizeof *f;
  for (int i = 0; i < n; i++) {
    const fvg__view_slot *slot = NULL;
    s = fvg__view_kept(v, &items->item[index[i]], &slot);
    if (s) return s;

    const size_t to = fvg__row(i, v->width);
    memcpy(f + to, slot->f + from, bytes);
    if (f_fg) memcpy(f_fg + to, slot->f_fg + from, bytes);
    if (area) area[i] = slot->area[view];
  }
  return FVG_OK;
}

/* A view without foreground under the test transform is the item itself. */
FVG_DEF fvg_status fvg_encode_task(fvg_clip *m, fvg_learner *l, float *f, const fvg_task *task) {
  if (!m) return FVG_E_ARG;
  fvg_ctx *c = m->ctx;
  if (!task || !task->dataset)
    return fvg__missing(c, "fvg_encode_task", "a task and its data set");
  const fvg_items *items = &task->items;
  if (items->n > 0 && !f)
    return fvg__missing(c, "fvg_encode_task", "a place for features");

  fvg_views_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.augment = FVG_AUGMENT_NONE;
  desc.no_foreground = 1;
  desc.learner = l;
  fvg_progress progress;
  memset(&progress, 0, sizeof progress);
  progress.what = "encode";
  progress.n_steps = items->n;

  fvg_views *v;
  fvg_status s = fvg_views_new(m, &v, task->dataset, &desc);
  for (int i = 0; !s && i < items->n; i += FVG__IMAGE_BATCH) {
    const int count = fvg__min(items->n - i, FVG__IMAGE_BATCH);
    int index[FVG__IMAGE_BATCH];
    for (int k = 0; k < count; k++)
      index[k] = i + k;
    float *f_i = f + fvg__row(i, v->width);
    s = fvg__views_encode_items(v, items, index, count, 0, f_i, NULL, NULL);
    progress.step = i + count;
    if (!s) s = fvg_report_progress(c, &progress);
  }
  fvg_views_free(v);
  return s;
}

#ifndef FVGPT_NO_STDIO
/* The files are the items of a data set that has nothing else. */
FVG_DEF fvg_status fvg_clip_encode_files(fvg_clip *m, float *features, const char *const *path,
                                         int n, int exif_rotate) {
  if (!m) return FVG_E_ARG;
  if (n < 0)
    return fvg_fail(m->ctx, FVG_E_ARG, "%d files to encode", n);
  if (n > 0 && (!path || !features))
    return fvg__missing(m->ctx, "fvg_clip_encode_files", "paths and a place for the features");
  for (int i = 0; i < n; i++) {
    if (!path[i])
      return fvg_fail(m->ctx, FVG_E_ARG, "fvg_clip_encode_files: path %d must be given, not NULL",
                      i);
  }
  char root[] = "";
  fvg_dataset d;
  memset(&d, 0, sizeof d);
  d.ctx = m->ctx;
  d.root = root;
  d.exif_rotate = exif_rotate;

  fvg_views_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.augment = FVG_AUGMENT_NONE;
  desc.no_foreground = 1;
  fvg_views *v;
  fvg_status s = fvg_views_new(m, &v, &d, &desc);
  if (!s) v->of_files = 1;
  for (int i = 0; !s && i < n; i += FVG__IMAGE_BATCH) {
    const int count = fvg__min(n - i, FVG__IMAGE_BATCH);
    fvg_item file[FVG__IMAGE_BATCH];
    const fvg_item *item[FVG__IMAGE_BATCH];
    for (int k = 0; k < count; k++) {
      memset(&file[k], 0, sizeof file[k]);
      file[k].path = path[i + k];
      item[k] = &file[k];
    }
    s = fvg__views_encode(v, item, count, 0, features + fvg__row(i, v->width), NULL, NULL);
  }
  fvg_views_free(v);
  return s;
}
#endif

/*==================================================================================================
 * CHAPTER 33  TRAINING: one loop, and a run kept in a file
 *==================================================================================================
   One loop serves every stage.  An epoch is a new order of the pictures, cut into batches of (as a
   rule) 4; an incomplete last batch is left out.  The rate follows the schedule.  What a step
   computes is up to the stage (the next two chapters).

   After an epoch the state of the run may be kept in a file: tensors, the optimiser's memory, how
   many epochs are done.  A run that finds such a file goes on from there, bit for bit as if it had
   never been cut off.  The file bears a mark of the settings, and the state of another run is an
   error.  A damaged state is not: the run begins anew, and says so.  The state of a finished run
   stays until the caller, who has to save the result first, removes it.

   How long, how fast and in what batches a method trains is published for each protocol, and
   sometimes for each data set.  The two tables below hold all of it that is known. */

/* ---- settings as published: method x preset x protocol x data set ----
   A recipe begins as the method's own settings, which are those of FVG-PT's fork for base to new,
   or the authors' where the fork does not have the method.  Matching rows are applied in order; a
   later row overrides an earlier one; 0 leaves a value unchanged.  A row matches any published set
   unless it names some, and any number of shots unless it asks for a least one.  Sources:

     CoOp       fork: vit_b16_ep10, for EuroSAT vit_b16_ep20.  Original (COOP.md): batches of 32 and
                epochs by shots, 50 for 1, 100 for 2 and 4, 200 from 8 on, 50 on ImageNet
     KgCoOp     original: vit_b16_ep100_ctxv1, its only file, and W 8 in all its scripts
     ProGrad    not in the fork.  For few shots its README has epochs by their number, as CoOp, and
                on three sets another lambda from 8 shots on
     PromptSRC  its average over the epochs has a mean and a deviation for each protocol
     MaPLe      not in the fork; its repository has a second file for cross-data
     DAPT       not in the fork.  Its file for base to new has batches of 1 and 5 epochs, with
                which its second phase never comes; unless the original is asked for, its file for
                few shots serves both
     MMRL       original (trainers/config.py): weights for each data set, which go before those of
                any protocol, and one epoch for cross-data
     MMRL++     not in the fork; the same file has weight and beta for each data set
     DePT       not in the fork; for base to new alone, see its chapter */
enum { FVG__FORK = 1, FVG__ORIGINAL = 2, FVG__BOTH = 3 };           /* 1 << fvg_preset   */
enum { FVG__B2N = 1, FVG__FEW = 2, FVG__CROSS = 4, FVG__ALL = 7 };  /* 1 << fvg_protocol */
enum { FVG__OWN = FVG__B2N | FVG__FEW };                            /* tested on its own set */

/* What a row is for. */
typedef struct fvg__recipe_scope {
  const char *method;
  int presets, protocols;
  const char *sets;           /* keys of cards with blanks between; NULL: any set               */
  int shots;                  /* the least number of shots; 0: any                              */
} fvg__recipe_scope;

typedef struct fvg__recipe_row {
  fvg__recipe_scope scope;
  int batch, epochs;          /* 0 leaves a value unchanged, here and below                     */
  float lr;
  int warmup;                 /* epochs; -1: none                                               */
  int n_ctx;
} fvg__recipe_row;

static const fvg__recipe_row fvg__recipe[] = {
  /*method       presets        protocols   sets      shots  batch epochs lr   warmup n_ctx */
  {{"CoOp",      FVG__FORK,     FVG__ALL,   "eurosat",  0},   0,  20, 0.002f,   0,  0},
  {{"CoOp",      FVG__ORIGINAL, FVG__ALL,   NULL,       0},  32,  50, 0.002f,   0,  0},
  {{"CoOp",      FVG__ORIGINAL, FVG__ALL,   NULL,       2},   0, 100, 0,        0,  0},
  {{"CoOp",      FVG__ORIGINAL, FVG__ALL,   NULL,       8},   0, 200, 0,        0,  0},
  {{"CoOp",      FVG__ORIGINAL, FVG__ALL,   "imagenet", 0},   0,  50, 0,        0,  0},
  {{"CoOp",      FVG__ORIGINAL, FVG__FEW,   NULL,       0},   0,   0, 0,        0, 16},

  {{"KgCoOp",    FVG__FORK,     FVG__ALL,   "eurosat",  0},   0,  20, 0,        0,  0},
  {{"KgCoOp",    FVG__ORIGINAL, FVG__ALL,   NULL,       0}, 128, 100, 0.002f,   0,  0},

  {{"ProGrad",   FVG__BOTH,     FVG__B2N,   "imagenet", 0},   0,  50, 0,        0,  0},
  {{"ProGrad",   FVG__BOTH,     FVG__FEW,   NULL,       0},   0,  50, 0,        0,  0},
  {{"ProGrad",   FVG__BOTH,     FVG__FEW,   NULL,       2},   0, 100, 0,        0,  0},
  {{"ProGrad",   FVG__BOTH,     FVG__FEW,   NULL,       8},   0, 200, 0,        0,  0},

  {{"PromptSRC", FVG__FORK,     FVG__B2N,   "eurosat",  0},   0,  20, 0,        0,  0},
  {{"PromptSRC", FVG__FORK,     FVG__FEW,   NULL,       0},   8,  50, 0.005f,   0,  0},
  {{"PromptSRC", FVG__FORK,     FVG__CROSS, NULL,       0},   4,   5, 0.0035f,  0,  0},
  {{"PromptSRC", FVG__ORIGINAL, FVG__ALL,   NULL,       0},   4,  20, 0,        0,  0},
  {{"PromptSRC", FVG__ORIGINAL, FVG__FEW,   NULL,       0},   0,  50, 0,        0,  0},

  {{"MaPLe",     FVG__BOTH,     FVG__CROSS, NULL,       0},   0,   2, 0.0026f,  0,  0},

  {{"DAPT",      FVG__ORIGINAL, FVG__B2N,   NULL,       0},   1,   5, 0,        0,  0},
  {{"DAPT",      FVG__BOTH,     FVG__CROSS, NULL,       0},   0,   0, 0.0026f,  0,  0},

  {{"MMRL",      FVG__FORK,     FVG__B2N,   "eurosat",  0},   0,  20, 0,        0,  0},
  {{"MMRL",      FVG__BOTH,     FVG__FEW,   NULL,       0},  32,  50, 0,        0,  0},
  {{"MMRL",      FVG__BOTH,     FVG__B2N,   "imagenet", 0},  32,   5, 0,        0,  0},
  {{"MMRL",      FVG__BOTH,     FVG__FEW,   "imagenet", 0},  32,   5, 0,        0,  0},
  {{"MMRL",      FVG__BOTH,     FVG__CROSS, NULL,       0},  32,   5, 0,       -1,  0},
  {{"MMRL",      FVG__ORIGINAL, FVG__CROSS, NULL,       0},   0,   1, 0,        0,  0},

  {{"MMRLpp",    FVG__BOTH,     FVG__FEW,   NULL,       0},  32, 100, 0.002f,   0,  0},
  {{"MMRLpp",    FVG__BOTH,     FVG__B2N,   "imagenet", 0},  32,   5, 0,        0,  0},
  {{"MMRLpp",    FVG__BOTH,     FVG__FEW,   "imagenet", 0},   0,   5, 0.001f,   0,  0},
  {{"MMRLpp",    FVG__BOTH,     FVG__CROSS, NULL,       0},  32,   1, 0,       -1,  0}
};
enum { FVG__N_RECIPE = (int)(sizeof fvg__recipe / sizeof *fvg__recipe) };

typedef struct fvg__recipe_option_row {
  fvg__recipe_scope scope;
  fvg_option option;
} fvg__recipe_option_row;

/* The sets for which PromptSRC averages the prompts of later epochs. */
static const char fvg__late_sets[] = "stanford_cars flowers102 fgvc_aircraft dtd eurosat";

static const fvg__recipe_option_row fvg__recipe_options[] = {
  /*method       presets        protocols   sets                   shots  option     value */
  {{"KgCoOp",    FVG__ORIGINAL, FVG__ALL,   NULL,                     0}, {"W",            8}},

  {{"ProGrad",   FVG__BOTH,     FVG__FEW,   "flowers102 dtd eurosat", 8}, {"lambda",       0.8}},

  {{"PromptSRC", FVG__BOTH,     FVG__FEW,   NULL,                     0}, {"gpa_mean",     30}},
  {{"PromptSRC", FVG__BOTH,     FVG__FEW,   NULL,                     0}, {"gpa_std",      30}},
  {{"PromptSRC", FVG__BOTH,     FVG__FEW,   fvg__late_sets,           0}, {"gpa_mean",     45}},
  {{"PromptSRC", FVG__BOTH,     FVG__FEW,   fvg__late_sets,           0}, {"gpa_std",      5}},
  {{"PromptSRC", FVG__BOTH,     FVG__CROSS, NULL,                     0}, {"depth_text",   3}},
  {{"PromptSRC", FVG__BOTH,     FVG__CROSS, NULL,                     0}, {"depth_vision", 3}},
  {{"PromptSRC", FVG__BOTH,     FVG__CROSS, NULL,                     0}, {"gpa_mean",     6}},
  {{"PromptSRC", FVG__BOTH,     FVG__CROSS, NULL,                     0}, {"gpa_std",      10}},

  {{"MaPLe",     FVG__BOTH,     FVG__CROSS, NULL,                     0}, {"prompt_depth", 3}},

  {{"MMRL",      FVG__BOTH,     FVG__FEW,   NULL,                     0}, {"reg_weight",   0.5}},
  {{"MMRL",      FVG__BOTH,     FVG__CROSS, NULL,                     0}, {"reg_weight",   0.2}},
  {{"MMRL",      FVG__ORIGINAL, FVG__ALL,   "stanford_cars",          0}, {"reg_weight",   7}},
  {{"MMRL",      FVG__ORIGINAL, FVG__ALL,   "fgvc_aircraft",          0}, {"reg_weight",   6}},
  {{"MMRL",      FVG__ORIGINAL, FVG__ALL,   "sun397 dtd",             0}, {"reg_weight",   6}},
  {{"MMRL",      FVG__ORIGINAL, FVG__ALL,   "food101",                0}, {"reg_weight",   5}},
  {{"MMRL",      FVG__ORIGINAL, FVG__ALL,   "flowers102",             0}, {"reg_weight",   4}},
  {{"MMRL",      FVG__ORIGINAL, FVG__ALL,   "ucf101",                 0}, {"reg_weight",   3}},
  {{"MMRL",      FVG__ORIGINAL, FVG__ALL,   "imagenet caltech101",    0}, {"reg_weight",   0.5}},
  {{"MMRL",      FVG__ORIGINAL, FVG__ALL,   "oxford_pets",            0}, {"reg_weight",   0.2}},
  {{"MMRL",      FVG__ORIGINAL, FVG__ALL,   "eurosat",                0}, {"reg_weight",   0.01}},
  {{"MMRL",      FVG__ORIGINAL, FVG__ALL,   "eurosat",                0}, {"rep_dim",      2048}},

  {{"MMRLpp",    FVG__BOTH,     FVG__OWN,   "imagenet",               0}, {"reg_weight",   0.2}},
  {{"MMRLpp",    FVG__BOTH,     FVG__OWN,   "food101",                0}, {"reg_weight",   1}},
  {{"MMRLpp",    FVG__BOTH,     FVG__OWN,   "fgvc_aircraft",          0}, {"reg_weight",   2}},
  {{"MMRLpp",    FVG__BOTH,     FVG__OWN,   "ucf101 caltech101",      0}, {"reg_weight",   3}},
  {{"MMRLpp",    FVG__BOTH,     FVG__OWN,   "sun397",                 0}, {"reg_weight",   3}},
  {{"MMRLpp",    FVG__BOTH,     FVG__OWN,   "stanford_cars",          0}, {"reg_weight",   6}},
  {{"MMRLpp",    FVG__BOTH,     FVG__OWN,   "dtd flowers102",         0}, {"reg_weight",   7}},
  {{"MMRLpp",    FVG__BOTH,     FVG__OWN,   "oxford_pets eurosat",    0}, {"reg_weight",   0.01}},
  {{"MMRLpp",    FVG__BOTH,     FVG__OWN,   "oxford_pets",            0}, {"beta",         0.7}},
  {{"MMRLpp",    FVG__BOTH,     FVG__OWN,   "stanford_cars",          0}, {"beta",         0.7}},
  {{"MMRLpp",    FVG__BOTH,     FVG__OWN,   "caltech101",             0}, {"beta",         0.6}},
  {{"MMRLpp",    FVG__BOTH,     FVG__OWN,   "sun397",                 0}, {"beta",         0.5}},
  {{"MMRLpp",    FVG__BOTH,     FVG__OWN,   "flowers102",             0}, {"beta",         0.4}},
  {{"MMRLpp",    FVG__BOTH,     FVG__OWN,   "eurosat",                0}, {"beta",         0.2}},
  {{"MMRLpp",    FVG__BOTH,     FVG__OWN,   "food101",                0}, {"beta",         0.1}},
  {{"MMRLpp",    FVG__BOTH,     FVG__CROSS, NULL,                     0}, {"reg_weight",   0.2}},
  {{"MMRLpp",    FVG__BOTH,     FVG__CROSS, "imagenet",               0}, {"reg_weight",   0.1}}
};
enum { FVG__N_RECIPE_OPTIONS = (int)(sizeof fvg__recipe_options / sizeof *fvg__recipe_options) };

/* Tests whether a word is one of `words`, which have blanks between them. */
static int fvg__among(const char *words, const char *word) {
  const size_t n = strlen(word);
  const char *at = strstr(words, word);
  while (at) {
    const int begins = at == words || at[-1] == ' ';
    const int ends = at[n] == ' ' || !at[n];
    if (begins && ends) return 1;
    at = strstr(at + n, word);
  }
  return 0;
}

/* Adds an option to a recipe, or gives one that is there another value. */
static void fvg__recipe_set(fvg_recipe *r, const fvg_option *option) {
  int i = 0;
  while (i < r->n_option && strcmp(r->option[i].name, option->name))
    i++;
  if (i == FVG_RECIPE_OPTIONS) return;

  r->option[i] = *option;
  if (i == r->n_option) r->n_option++;
}

/* Tests whether a row matches.  preset and protocol are bits, as in the rows; card NULL: no
   published set. */
static int fvg__scope_fits(const fvg__recipe_scope *x, const fvg_method *method, int preset,
                           int protocol, const fvg_dataset_card *card, int shots) {
  if (strcmp(x->method, method->name)) return 0;
  if (!(x->presets & preset) || !(x->protocols & protocol))
    return 0;
  if (shots < x->shots) return 0;
  return !x->sets || (card && fvg__among(x->sets, card->key));
}

/* Begins with the method's own settings and applies the matching rows of both tables in order. */
FVG_DEF void fvg_method_recipe(const fvg_method *method, fvg_recipe *out, fvg_preset preset,
                               fvg_protocol protocol, const fvg_dataset_card *card, int shots) {
  if (!out) return;
  memset(out, 0, sizeof *out);
  if (!method || (unsigned)preset > FVG_ORIGINAL) return;
  if ((unsigned)protocol > FVG_CROSS_DATA) return;
  const int presets = 1 << preset;
  const int protocols = 1 << protocol;
  if (shots <= 0) shots = 16;
  out->optimizer = fvg_method_optimizer(method, &out->batch);

  for (int i = 0; i < FVG__N_RECIPE; i++) {
    const fvg__recipe_row *row = &fvg__recipe[i];
    if (!fvg__scope_fits(&row->scope, method, presets, protocols, card, shots)) continue;
    if (row->batch) out->batch = row->batch;
    if (row->epochs) out->optimizer.epochs = row->epochs;
    if (row->lr > 0) out->optimizer.lr = row->lr;
    if (row->warmup) out->optimizer.warmup_epochs = row->warmup;
    if (row->n_ctx) out->n_ctx = row->n_ctx;
  }
  for (int i = 0; i < FVG__N_RECIPE_OPTIONS; i++) {
    const fvg__recipe_option_row *row = &fvg__recipe_options[i];
    if (fvg__scope_fits(&row->scope, method, presets, protocols, card, shots))
      fvg__recipe_set(out, &row->option);
  }
}

/* The FVGPT files of the fork: CoOp, KgCoOp and MMRL in batches of 4, PromptSRC of 32, each with
   the optimiser of its backbone, 10 epochs; on EuroSAT 20, CoOp's then at 0.002.  Other backbones
   have no such file: they get their own optimiser and their own batch, except ProGrad, whose own
   batch is 32 and which gets 4. */
FVG_DEF void fvg_fvgpt_recipe(const fvg_method *method, fvg_recipe *out,
                              const fvg_dataset_card *card) {
  if (!out) return;
  memset(out, 0, sizeof *out);
  if (!method) return;
  const int eurosat = card && !strcmp(card->key, "eurosat");
  out->optimizer = fvg_method_optimizer(method, &out->batch);
  out->optimizer.epochs = eurosat ? 20 : 10;
  if (eurosat && !strcmp(method->name, "CoOp"))
    out->optimizer.lr = 0.002f;
  if (!strcmp(method->name, "ProGrad")) out->batch = 4;
}

/* ---- a stage and what it trains on ---- */
typedef struct fvg__dpc fvg__dpc;        /* chapter 35 */

/* Pictures, and what scores them. */
typedef struct fvg__train_set {
  fvg_learner *learner;
  fvg_views *views;
  const fvg_items *items;
  int n_class;
  float *g, *g_clip;          /* [n_class, embed_dim] text features that stage 2 keeps fixed    */
} fvg__train_set;

/* What a run trains.  Only prompts read what the method needs, end epochs as the method wants, and
   keep the method's own state. */
typedef enum fvg__stage {
  FVG__PROMPTS,               /* stage 1: the parameters of a learner                           */
  FVG__FVGPT,                 /* stage 2 and calibration: FVG-PT's modules on tuned learners    */
  FVG__DPC                    /* the second prompt of chapter 35                                */
} fvg__stage;

/* A run: a stage, its step on the pictures index[0..batch-1] of a source, and what that needs. */
typedef struct fvg__trainer fvg__trainer;
struct fvg__trainer {
  /* What trains, on what: filled in by the caller of fvg__train. */
  fvg__stage stage;
  const char *what;           /* the name of the stage in messages                              */
  const fvg_dataset_card *card;     /* the published set whose recipe counts, or NULL           */
  fvg_status (*step)(fvg__trainer *t, const fvg__train_set *x, const int *index, int epoch,
                     double lr, float *loss);
  fvg_clip *clip;
  fvg__train_set *source;     /* [n_source]; calibration alone may have more than one           */
  int n_source;
  fvg_fvgpt *fvgpt;           /* what FVG__FVGPT trains, else NULL                              */
  fvg__dpc *dpc;              /* what FVG__DPC knows, else NULL                                 */

  /* How it trains: fvg__train makes these, and gives them back. */
  fvg_optimizer_desc schedule;
  fvg_optimizer *optimizer;
  int batch;                  /* pictures of a step                                             */
  double *loss_sum;           /* [epochs]                                                       */
  int *order;                 /* the pictures of the largest source in this epoch's order       */

  /* The batch at hand.  The labels are there when the step is called, the rest is the step's. */
  int *label;                 /* [batch]                                                        */
  float *f, *f_fg, *area;     /* [batch, width] twice and [batch]: a batch's views              */
  float *part;                /* [2, batch, width]: stage 2 takes rows of features apart here   */
  float *pixels, *pixels_fg;  /* [batch, 3, image_size, image_size], if the method reads them   */
};

/* Makes room for a batch.  All sources have rows of the width of the first: their learners are of
   one method (fvg_fvgpt_calibrate). */
static fvg_status fvg__trainer_alloc(fvg__trainer *t) {
  fvg_ctx *c = t->clip->ctx;
  const size_t batch = (size_t)t->batch;
  const size_t size = (size_t)t->clip->vision.image_size;
  const size_t features = fvg__row(t->batch, t->source[0].views->width);
  int most = 0;
  for (int i = 0; i < t->n_source; i++) {
    if (t->source[i].items->n > most)
      most = t->source[i].items->n;
  }

  t->order = FVG_NEW_ARRAY(c, int, (size_t)most);
  t->label = FVG_NEW_ARRAY(c, int, batch);
  t->f = FVG_NEW_ARRAY(c, float, features);
  t->f_fg = FVG_NEW_ARRAY(c, float, features);
  t->part = FVG_NEW_ARRAY(c, float, 2 * features);
  t->area = FVG_NEW_ARRAY(c, float, batch);
  t->loss_sum = FVG_NEW_ARRAY(c, double, (size_t)t->schedule.epochs);
  if (!t->order || !t->label || !t->loss_sum) return FVG_E_NOMEM;
  if (!t->f || !t->f_fg || !t->part || !t->area) return FVG_E_NOMEM;

  const int needs = t->stage == FVG__PROMPTS ? t->source[0].learner->method->needs : 0;
  if (needs & FVG_NEEDS_PIXELS) {
    t->pixels = FVG_NEW_ARRAY(c, float, 3 * batch * size * size);
    if (!t->pixels) return FVG_E_NOMEM;
  }
  if (needs & FVG_NEEDS_FOREGROUND) {
    t->pixels_fg = FVG_NEW_ARRAY(c, float, 3 * batch * size * size);
    if (!t->pixels_fg) return FVG_E_NOMEM;
  }
  return FVG_OK;
}

static void fvg__trainer_release(fvg__trainer *t) {
  fvg_ctx *c = t->clip->ctx;
  fvg_release(c, t->order);
  fvg_release(c, t->label);
  fvg_release(c, t->f);
  fvg_release(c, t->f_fg);
  fvg_release(c, t->part);
  fvg_release(c, t->area);
  fvg_release(c, t->loss_sum);
  fvg_release(c, t->pixels);
  fvg_release(c, t->pixels_fg);
  fvg_optimizer_free(t->optimizer);
}

/* ---- settings and tensors in files ---- */

FVG_DEF void fvg_settings_set(fvg_settings *x, const char *key, const char *value) {
  if (x->n == FVG_MAX_SETTINGS) return;
  x->entry[x->n].key = key;
  x->entry[x->n].value = value;
  x->n++;
}

FVG_DEF void fvg_settings_set_number(fvg_settings *x, const char *key, double value) {
  if (x->n == FVG_MAX_SETTINGS) return;
  char *text = x->text[x->n];
  fvg__print(text, FVG__NUMBER_TEXT, "%.9g", value);
  fvg_settings_set(x, key, text);
}

/* The same for a double that must come back as it is, with as many digits as that takes. */
static void fvg__set_exact_number(fvg_settings *x, const char *key, double value) {
  if (x->n == FVG_MAX_SETTINGS) return;
  char *text = x->text[x->n];
  double back;
  fvg__print(text, FVG__NUMBER_TEXT, "%.9g", value);
  if (!fvg__read_number(text, &back) || back != value)
    fvg__print(text, FVG__NUMBER_TEXT, "%.17g", value);
  fvg_settings_set(x, key, text);
}

/* Writes tensors to the file `path`, or if that is NULL through `write`, with a checksum in their
   metadata, for which the settings must have a place left. */
static fvg_status fvg__put_checked(fvg_ctx *c, const char *path, fvg_write_fn write, void *user,
                                   const fvg_named_tensor *tensor, int n, fvg_settings *x) {
  char sum[FVG__CHECKSUM_TEXT];
  fvg__checksum(tensor, n, x->entry, x->n, sum);
  fvg_settings_set(x, FVG__CHECKSUM, sum);
#ifndef FVGPT_NO_STDIO
  if (path) return fvg_safetensors_save(c, path, tensor, n, x->entry, x->n);
#endif
  (void)path;
  return fvg_safetensors_write(c, write, user, tensor, n, x->entry, x->n);
}

#ifndef FVGPT_NO_STDIO
/* ---- a run's state between epochs ---- */
enum { FVG__STATE_NAME = 128 };          /* room for the name of a tensor, with its closing 0 */

/* A run as tensors, which are views of the values themselves: the parameters, the optimiser's
   moments under "momentum." and "variance.", and what the method keeps ("average."). */
typedef struct fvg__state {
  fvg_named_tensor *tensor;   /* [n]                                                            */
  char *name;                 /* [n, FVG__STATE_NAME] their names                               */
  int n;
} fvg__state;

/* Adds a tensor of the parameter's shape. */
static void fvg__state_add(fvg__state *x, const char *prefix, const fvg_parameter *p,
                           float *values) {
  char *name = x->name + fvg__row(x->n, FVG__STATE_NAME);
  fvg__print(name, FVG__STATE_NAME, "%s%s", prefix, p->name);

  fvg_named_tensor *to = &x->tensor[x->n++];
  to->name = name;
  to->tensor = p->value;
  to->tensor.data = values;
}

/* Lists all that a run changes; what the method keeps changes only with its prompts. */
static fvg_status fvg__state_new(const fvg__trainer *t, fvg__state *x) {
  const fvg_optimizer *o = t->optimizer;
  const fvg_learner *l = t->source[0].learner;
  const size_t most = (size_t)(3 * o->n + l->n_state);
  memset(x, 0, sizeof *x);
  x->tensor = FVG_NEW_ARRAY(t->clip->ctx, fvg_named_tensor, most);
  x->name = FVG_NEW_ARRAY(t->clip->ctx, char, most * FVG__STATE_NAME);
  if (!x->tensor || !x->name) return FVG_E_NOMEM;

  for (int i = 0; i < o->n; i++) {
    const fvg_parameter *p = o->params[i];
    fvg__state_add(x, "", p, (float *)p->value.data);
    fvg__state_add(x, "momentum.", p, o->momentum[i]);
    if (o->variance[i])
      fvg__state_add(x, "variance.", p, o->variance[i]);
  }
  if (t->stage != FVG__PROMPTS) return FVG_OK;
  for (int i = 0; i < l->n_state; i++) {
    const fvg_parameter *p = l->state[i];
    fvg__state_add(x, "", p, (float *)p->value.data);
  }
  return FVG_OK;
}

static void fvg__state_free(fvg_ctx *c, fvg__state *x) {
  fvg_release(c, x->tensor);
  fvg_release(c, x->name);
}

/* Writes the state after `epoch` epochs. */
static fvg_status fvg__state_save(fvg__trainer *t, const fvg_train_desc *desc, int epoch) {
  fvg_ctx *c = t->clip->ctx;
  const size_t size = (size_t)t->schedule.epochs * 32 + 1;
  char *losses = FVG_NEW_ARRAY(c, char, size);
  fvg_settings *x = FVG_NEW(c, fvg_settings);
  fvg__state state;
  fvg_status s = fvg__state_new(t, &state);
  if (!losses || !x) s = FVG_E_NOMEM;

  if (!s) {
    size_t at = 0;
    for (int i = 0; i < epoch; i++) {
      char number[FVG__NUMBER_TEXT];
      fvg__print(number, FVG__NUMBER_TEXT, "%.17g", t->loss_sum[i]);
      at += (size_t)fvg__print(losses + at, size - at, "%s ", number);
    }
    fvg_settings_set(x, "mark", desc->state_mark ? desc->state_mark : "");
    fvg_settings_set(x, "stage", t->what);
    fvg_settings_set_number(x, "epoch", epoch);
    fvg__set_exact_number(x, "step", (double)t->optimizer->step);
    fvg_settings_set(x, "losses", losses);
    s = fvg__put_checked(c, desc->state, NULL, NULL, state.tensor, state.n, x);
  }
  fvg__state_free(c, &state);
  fvg_release(c, losses);
  fvg_release(c, x);
  return s;
}

/* Fails if the state is that of another run, which is left alone: whoever made it wants to go on
   with it.  A file without a mark, but with a trainer, is a checkpoint that an older version wrote
   under this name. */
static fvg_status fvg__state_is_ours(const fvg__trainer *t, const fvg_weights *w,
                                     const fvg_train_desc *desc) {
  fvg_ctx *c = t->clip->ctx;
  const char *our_mark = desc->state_mark ? desc->state_mark : "";
  const char *mark = fvg_weights_metadata(w, "mark");
  const char *stage = fvg_weights_metadata(w, "stage");
  if (mark && !strcmp(mark, our_mark) && (!stage || !strcmp(stage, t->what)))
    return FVG_OK;

  if (!mark && fvg_weights_metadata(w, "trainer"))
    return fvg_fail(c, FVG_E_FORMAT, "%s: a checkpoint that was not finished", desc->state);
  return fvg_fail(c, FVG_E_ARG,
                  "%s: a run with other settings was begun there; remove it to begin anew",
                  desc->state);
}

/* Copies the tensors of a state from the file.  All are read before the first is changed. */
static fvg_status fvg__state_read(fvg_ctx *c, fvg_weights *w, const fvg__state *x) {
  fvg_tensor *read = FVG_NEW_ARRAY(c, fvg_tensor, (size_t)x->n);
  fvg_status s = read ? FVG_OK : FVG_E_NOMEM;
  for (int i = 0; !s && i < x->n; i++) {
    const fvg_named_tensor *to = &x->tensor[i];
    s = fvg__check_shape(c, w, to->name, to->tensor.n_dim, to->tensor.dim);
    if (!s) s = fvg_weights_get(w, &read[i], to->name, FVG_F32);
  }

  for (int i = 0; !s && i < x->n; i++) {
    const size_t bytes = fvg_tensor_count(&read[i]) * sizeof(float);
    memcpy(x->tensor[i].tensor.data, read[i].data, bytes);
  }
  for (int i = 0; read && i < x->n; i++)
    fvg_tensor_free(c, &read[i]);
  fvg_release(c, read);
  return s;
}

/* Restores a run: what trains is then as it was after *epoch epochs, or untouched on failure. */
static fvg_status fvg__state_restore(fvg__trainer *t, fvg_weights *w, const char *path,
                                     int *epoch) {
  fvg_ctx *c = t->clip->ctx;
  const char *losses = fvg_weights_metadata(w, "losses");
  int done = 0;
  double step = 0;
  fvg_status s = fvg__get_whole(c, w, "epoch", 0, &done);
  if (!s && (done > t->schedule.epochs || !losses)) {
    s = fvg_fail(c, FVG_E_FORMAT, "%s: epoch %d of %d, or no losses", path, done,
                 t->schedule.epochs);
  }
  if (!s) s = fvg__get_number(c, w, "step", &step);
  if (!s && !(step >= 0 && step <= INT32_MAX))
    s = fvg_fail(c, FVG_E_FORMAT, "%s: %g steps were never taken", path, step);
  if (s) return s;

  fvg__state x;
  s = fvg__state_new(t, &x);
  if (!s) s = fvg__state_read(c, w, &x);
  fvg__state_free(c, &x);
  if (s) return s;

  for (int i = 0; i < done; i++) {
    if (!fvg__read_number(losses, &t->loss_sum[i])) break;
    losses += strcspn(losses, " ");
    losses += strspn(losses, " ");
  }
  t->optimizer->step = (long)step;
  *epoch = done;
  return FVG_OK;
}

/* Goes on with the run in the file, if there is one: *epoch becomes the number of epochs done.  The
   run begins anew only if the file is damaged or does not fit, for its next state takes the file's
   place.  Any other fault ends the run: the file may be whole, and readable at the next attempt. */
static fvg_status fvg__state_load(fvg__trainer *t, const fvg_train_desc *desc, int *epoch) {
  if (!fvg_file_exists(desc->state)) return FVG_OK;
  fvg_ctx *c = t->clip->ctx;
  fvg_weights *w = NULL;
  fvg_source source;
  fvg_status s = fvg_source_file(c, &source, desc->state);
  if (!s) s = fvg_weights_open(c, &w, &source);
  if (!s) s = fvg__weights_verify(w);
  if (!s) s = fvg__state_is_ours(t, w, desc);
  if (!s) s = fvg__state_restore(t, w, desc->state, epoch);
  fvg_weights_close(w);
  const int is_unfit = s == FVG_E_FORMAT || s == FVG_E_SHAPE || s == FVG_E_NUMERIC;
  if (!is_unfit) return s;

  fvg_log(c, 0, "%s; %s begins anew", fvg_error(c), t->what);
  return FVG_OK;
}
#endif

/* ---- infinities and NaN ---- */
/* Fails if one of the values x of a parameter (NULL: there are none) is not finite. */
static fvg_status fvg__check_finite(fvg_ctx *c, const char *what, const fvg_parameter *p,
                                    const float *x) {
  if (!x) return FVG_OK;
  const size_t n = fvg_tensor_count(&p->value);
  for (size_t i = 0; i < n; i++) {
    if (!isfinite(x[i]))
      return fvg_fail(c, FVG_E_NUMERIC, "%s: %s has become %g", what, p->name, (double)x[i]);
  }
  return FVG_OK;
}

/* Adds to a message of FVG_E_NUMERIC where the training was, and what helps. */
static fvg_status fvg__diverged(const fvg__trainer *t, const fvg_progress *p) {
  fvg_ctx *c = t->clip->ctx;
  char said[sizeof c->message];
  memcpy(said, c->message, sizeof said);
  return fvg_fail(c, FVG_E_NUMERIC,
                  "%s, epoch %d of %d, step %ld of %ld, learning rate %g: %.200s; try a lower "
                  "rate (a tenth), more warm-up epochs or a larger batch",
                  t->what, p->epoch + 1, p->n_epochs, p->step + 1, p->n_steps, p->lr, said);
}

/* Checks what trains at the end of an epoch, before anything is saved: a file with infinities
   could never be read again. */
static fvg_status fvg__check_trained(const fvg__trainer *t, const fvg_progress *p) {
  fvg_ctx *c = t->clip->ctx;
  const fvg_optimizer *o = t->optimizer;
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < o->n; i++) {
    const fvg_parameter *of = o->params[i];
    s = fvg__check_finite(c, "parameter", of, (const float *)of->value.data);
    if (!s)
      s = fvg__check_finite(c, "the optimiser's first moment", of, o->momentum[i]);
    if (!s)
      s = fvg__check_finite(c, "the optimiser's second moment", of, o->variance[i]);
  }
  if (!s) return FVG_OK;

  /* The message names the step that was done last. */
  fvg_progress at = *p;
  at.step--;
  return fvg__diverged(t, &at);
}

/* ---- the loop ---- */
/* Runs one epoch over one source, in a new order and in whole batches only. */
static fvg_status fvg__train_source(fvg__trainer *t, const fvg__train_set *x, uint64_t seed,
                                    fvg_progress *progress) {
  fvg_ctx *c = t->clip->ctx;
  const int epoch = progress->epoch;
  fvg_rng rng;
  fvg_rng_seed(&rng, seed, FVG__STREAM_ORDER + (uint64_t)epoch);
  for (int i = 0; i < x->items->n; i++)
    t->order[i] = i;
  fvg_rng_permute(&rng, t->order, x->items->n);

  const int n_step = x->items->n / t->batch;
  fvg_status s = FVG_OK;
  for (int step = 0; !s && step < n_step; step++) {
    const int *index = t->order + step * t->batch;
    for (int i = 0; i < t->batch; i++)
      t->label[i] = x->items->item[index[i]].label;

    float loss = 0;
    s = t->step(t, x, index, epoch, progress->lr, &loss);
    if (!s && !isfinite(loss))
      s = fvg_fail(c, FVG_E_NUMERIC, "the loss is %g", (double)loss);
    if (s == FVG_E_NUMERIC) return fvg__diverged(t, progress);

    t->loss_sum[epoch] += (double)loss;
    progress->step++;
    progress->loss = (double)loss;
    if (!s) s = fvg_report_progress(c, progress);
  }
  return s;
}

/* Has the learner make the masks of the pictures anew, as it is now (chapter 39). */
static fvg_status fvg__renew_masks(const fvg__train_set *x, const fvg_foreground_desc *desc) {
  fvg_learner *l = x->learner;
  fvg_foreground_desc d = *desc;
  d.learner = l;
  fvg_dataset dataset = *x->views->dataset;      /* a copy shares the masks that it is given */
  fvg_foreground *foreground;
  const char *const *name = (const char *const *)l->class_name;
  fvg_status s = fvg_foreground_new(l->clip, &foreground, name, l->n_class, &d);
  if (!s) s = fvg_foreground_mask_items(foreground, &dataset, x->items);
  fvg_foreground_free(foreground);
  return s;
}

/* Runs an epoch over all sources, one after the other, and does what belongs to its end. */
static fvg_status fvg__train_epoch(fvg__trainer *t, const fvg_train_desc *desc, int epoch,
                                   fvg_progress *progress) {
  const uint64_t seed = desc ? desc->seed : 0;
  fvg_status s = FVG_OK;
  progress->epoch = epoch;
  progress->lr = fvg_learning_rate(&t->schedule, epoch);
  if (epoch && t->stage == FVG__PROMPTS && desc && desc->own_masks)
    s = fvg__renew_masks(&t->source[0], desc->own_masks);

  /* Each source shuffles by a seed of its own; the step is large, so that the seeds of a study (1,
     2, 3, ...) never meet it. */
  for (int i = 0; !s && i < t->n_source; i++)
    s = fvg__train_source(t, &t->source[i], seed + 500000u * (uint64_t)i, progress);

  if (!s && t->stage == FVG__PROMPTS)
    s = fvg_learner_epoch(t->source[0].learner, epoch, t->schedule.epochs);
  if (!s) s = fvg__check_trained(t, progress);
#ifndef FVGPT_NO_STDIO
  if (!s && desc && desc->state)
    s = fvg__state_save(t, desc, epoch + 1);
#endif
  return s;
}

/* Runs all epochs that are not done yet, of per_epoch steps each; the mean losses go to the
   caller. */
static fvg_status fvg__train_epochs(fvg__trainer *t, const fvg_train_desc *desc, long per_epoch) {
  const int n_epochs = t->schedule.epochs;
  int from = 0;
  fvg_status s = FVG_OK;
#ifndef FVGPT_NO_STDIO
  if (desc && desc->state) s = fvg__state_load(t, desc, &from);
#endif

  fvg_progress progress;
  memset(&progress, 0, sizeof progress);
  progress.what = t->what;
  progress.n_epochs = n_epochs;
  progress.n_steps = per_epoch * n_epochs;
  progress.step = per_epoch * from;
  for (int epoch = from; !s && epoch < n_epochs; epoch++)
    s = fvg__train_epoch(t, desc, epoch, &progress);
  if (s || !desc || !desc->epoch_loss) return s;

  for (int epoch = 0; epoch < n_epochs; epoch++)
    desc->epoch_loss[epoch] = t->loss_sum[epoch] / (double)per_epoch;
  return FVG_OK;
}

/* Returns the schedule, and *batch, that were asked for; what is left open comes from the stage's
   recipe. */
static fvg_optimizer_desc fvg__schedule_of(const fvg__trainer *t, const fvg_train_desc *asked,
                                           int *batch) {
  const fvg_method *method = t->source[0].learner->method;
  fvg_recipe recipe;
  if (t->stage == FVG__PROMPTS)
    fvg_method_recipe(method, &recipe, FVG_FORK, FVG_BASE_TO_NEW, t->card, 0);
  else
    fvg_fvgpt_recipe(method, &recipe, t->card);
  *batch = asked && asked->batch > 0 ? asked->batch : recipe.batch;

  fvg_optimizer_desc d;
  memset(&d, 0, sizeof d);
  if (asked) d = asked->optimizer;
  if (d.lr == 0) {
    d.lr = recipe.optimizer.lr;
    d.kind = recipe.optimizer.kind;
  }
  if (d.epochs == 0) d.epochs = recipe.optimizer.epochs;
  return fvg_optimizer_defaults(&d);
}

/* Trains params on the sources of t.  What t needs besides what its caller filled in is made here
   and given back here. */
static fvg_status fvg__train(fvg__trainer *t, fvg_parameter *const *params, int n_params,
                             const fvg_train_desc *desc) {
  const fvg_method *method = t->source[0].learner->method;
  t->schedule = fvg__schedule_of(t, desc, &t->batch);
  for (int i = 0; i < t->n_source; i++)
    t->batch = fvg__min(t->batch, t->source[i].items->n);

  const int reads_features = t->stage == FVG__FVGPT || !(method->needs & FVG_NEEDS_PIXELS);
  long per_epoch = 0;
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < t->n_source; i++) {
    const fvg__train_set *x = &t->source[i];
    per_epoch += x->items->n / t->batch;
    if (reads_features) s = fvg_views_load(x->views, x->items);
  }
  if (!s) s = fvg__trainer_alloc(t);
  if (!s)
    s = fvg_optimizer_new(t->clip->ctx, &t->optimizer, params, n_params, &t->schedule);
  if (!s) s = fvg__train_epochs(t, desc, per_epoch);
  fvg__trainer_release(t);
  return s;
}

/*==================================================================================================
 * CHAPTER 34  TUNING: from views to a tuned model
 *==================================================================================================
   Stage 1 trains the vectors of a method, stage 2 the gates and adapters of FVG-PT on the tuned
   learner.

   BRG, the gate of the share b that zero-shot CLIP has in z_PC, can be trained on other pictures
   than the published ones: on classes that the prompts have not seen, with one learner for each
   half of the base classes, which scores the other half (cross-fitted calibration).  It can also
   stay as published unless zero-shot CLIP is clearly better on those pictures (guarded
   calibration).

   The adapters can end worse than the backbone that they sit on (fvgpt.h, chapter 13).  So stage 2
   ends with a comparison: CE(z_FDC, y) and CE(z_full, y) on the training pictures, in views that
   chance has no part in, or in all those that are kept.  A warning is logged for worse ones; with a
   guard they are also switched off for good (no_fdc), so that base classes are scored by z_full.

   Classifiers, which score by what was tuned here, are in chapter 37. */

/* ---- what both stages check ---- */
/* Fails unless there are pictures and every label is one of n_class classes. */
static fvg_status fvg__check_items(fvg_learner *l, const fvg_items *items, int n_class) {
  fvg_ctx *c = l->clip->ctx;
  if (!items || !items->item || items->n < 1)
    return fvg_fail(c, FVG_E_ARG, "no images to train on");

  for (int i = 0; i < items->n; i++) {
    const fvg_item *item = &items->item[i];
    if (item->label < 0 || item->label >= n_class) {
      return fvg_fail(c, FVG_E_ARG, "%s: label %d, but the prompts know %d classes", item->path,
                      item->label, n_class);
    }
  }
  return FVG_OK;
}

#ifndef FVGPT_NO_STDIO
/* Counts the pictures without a mask; *first is the first of them. */
static fvg_status fvg__count_unmasked(const fvg_dataset *d, const fvg_items *items, int *missing,
                                      int *first) {
  for (int i = items->n - 1; i >= 0; i--) {
    char *path;
    fvg_status s = fvg_dataset_mask_path(d, &path, items->item[i].path);
    if (s) return s;
    if (!path) {
      ++*missing;
      *first = i;
    }
    fvg_release(d->ctx, path);
  }
  return FVG_OK;
}

/* Notes what becomes of training pictures without a mask where the method reads foregrounds. */
static fvg_status fvg__tell_no_background(const fvg_learner *l, const fvg_dataset *d,
                                          const fvg_items *items) {
  int missing = 0;
  int first = 0;
  fvg_status s = fvg__count_unmasked(d, items, &missing, &first);
  if (s || !missing) return s;
  fvg__log_once(l->clip->ctx, FVG__SAID_NO_BACKGROUND, 1,
                "%s: %d of %d training images have no mask (the first is %s); the whole image is "
                "their foreground, and their background is blank",
                l->method->name, missing, items->n, items->item[first].path);
  return FVG_OK;
}

/* Fails if no picture has a mask, which must be a mistake; logs how many have none otherwise. */
FVG_DEF fvg_status fvg_dataset_check_masks(const fvg_dataset *d, const fvg_items *items) {
  if (!d || !d->ctx) return FVG_E_ARG;
  if (!items || !items->item || items->n < 1)
    return fvg_fail(d->ctx, FVG_E_ARG, "no images to train on");

  int missing = 0;
  int first = 0;
  fvg_status s = fvg__count_unmasked(d, items, &missing, &first);
  if (s) return s;

  if (missing == items->n) {
    return fvg_fail(d->ctx, FVG_E_IO,
                    "%s/mask: no mask for any of the %d training images (the first is %s); CLIP "
                    "can make them: --masks own (fvg_foreground_mask_items)",
                    d->root, missing, items->item[0].path);
  }
  if (missing && !(d->masks_told && *d->masks_told)) {
    fvg_log(d->ctx, 0, "%s/mask: no mask for %d of %d training images (the first is %s)", d->root,
            missing, items->n, items->item[first].path);
  }
  return fvg_dataset_survey_masks(d, items);
}
#endif

/* Makes x the only source of a trainer. */
static void fvg__set_source(fvg__trainer *t, fvg__train_set *x, fvg_learner *l, fvg_views *v,
                            const fvg_items *items) {
  memset(x, 0, sizeof *x);
  x->learner = l;
  x->views = v;
  x->items = items;
  x->n_class = l->n_class;
  t->source = x;
  t->n_source = 1;
}

/* The published set that a task is drawn from; NULL: it is from none. */
static const fvg_dataset_card *fvg__card_of(const fvg_task *task) {
  return task->dataset ? task->dataset->card : NULL;
}

/* ---- stage 1: the vectors of a method ---- */
/* Takes a step on the images index[0..batch-1], with the features and pixels that the method
   reads. */
static fvg_status fvg__learner_train_step(fvg__trainer *t, const fvg__train_set *x,
                                          const int *index, int epoch, double lr, float *loss) {
  const int n = t->batch;
  fvg_status s = FVG_OK;
  if (t->pixels)
    s = fvg_views_pixels(x->views, t->pixels, t->pixels_fg, x->items, index, n, epoch);

  if (!s && (x->learner->method->needs & FVG_NEEDS_FEATURES)) {
    /* The pixels of views that are not kept are here already: no picture is read and cut twice. */
    if (t->pixels && !x->views->n_kept)
      s = fvg_learner_encode_images(t->clip, NULL, t->f, t->pixels, n);
    else
      s = fvg_views_get(x->views, t->f, NULL, NULL, x->items, index, n, epoch);
  }
  if (s) return s;

  fvg_batch batch;
  memset(&batch, 0, sizeof batch);
  batch.n = n;
  batch.epoch = epoch;
  batch.label = t->label;
  batch.f_clip = t->f;
  batch.pixels = t->pixels;
  batch.pixels_fg = t->pixels_fg;
  return fvg_learner_step(x->learner, loss, t->optimizer, lr, &batch);
}

/* Fails unless the views are what the method trains on. */
static fvg_status fvg__check_views_of(const fvg_learner *l, const fvg_views *v) {
  fvg_ctx *c = l->clip->ctx;
  const char *name = l->method->name;
  fvg_status s = fvg__check_plain_views(v, "", name);
  if (s) return s;
  if ((l->method->needs & FVG_NEEDS_FOREGROUND) && v->desc.fill_black) {
    return fvg_fail(c, FVG_E_ARG,
                    "%s needs a background of 0, the data set's mean colour, not black", name);
  }
  return FVG_OK;
}

/* Checks the masks that the method reads, and trains its parameters alone. */
static fvg_status fvg__train_prompts(fvg_learner *l, fvg_views *v, const fvg_task *task,
                                     const fvg_train_desc *desc) {
  const fvg_items *items = &task->items;
  fvg__train_set source;
  fvg__trainer t;
  memset(&t, 0, sizeof t);
  t.stage = FVG__PROMPTS;
  t.what = l->method->name;
  t.card = fvg__card_of(task);
  t.step = fvg__learner_train_step;
  t.clip = l->clip;
  fvg__set_source(&t, &source, l, v, items);

  fvg_status s = FVG_OK;
  if (desc && desc->own_masks) s = fvg__renew_masks(&source, desc->own_masks);
#ifndef FVGPT_NO_STDIO
  if (!s && (l->method->needs & FVG_NEEDS_FOREGROUND) && !v->desc.no_masks) {
    s = fvg_dataset_check_masks(v->dataset, items);
    if (!s) s = fvg__tell_no_background(l, v->dataset, items);
  }
#endif
  return s ? s : fvg__train(&t, l->param, l->n_param, desc);
}

/* Masks that the learner makes go to a copy of the data set with a store of its own.  They are 0
   and 255, so there is nothing to tell of them, and what is told of the files is still to come. */
static fvg_status fvg__train_on_own_masks(fvg_learner *l, fvg_views *v, const fvg_task *task,
                                          const fvg_train_desc *desc) {
  const fvg_dataset *given = v->dataset;
  fvg_dataset own = *given;
  int told = 1;
  own.ctx = l->clip->ctx;
  own.masks_told = &told;
  own.masks = FVG_NEW(own.ctx, struct fvg__mask_store);
  if (!own.masks) return FVG_E_NOMEM;
  v->dataset = &own;
  fvg_status s = fvg__train_prompts(l, v, task, desc);
  v->dataset = given;
  fvg__mask_store_free(own.ctx, own.masks);
  return s;
}

/* Checks what the method asks of its views, and trains. */
FVG_DEF fvg_status fvg_learner_train(fvg_learner *l, fvg_views *v, const fvg_task *task,
                                     const fvg_train_desc *desc) {
  const fvg_items *items = task ? &task->items : NULL;
  if (!l)
    return fvg__missing(fvg__context_of(l, v), "fvg_learner_train", "a learner");
  if (!v)
    return fvg__missing(fvg__context_of(l, v), "fvg_learner_train", "views");

  fvg_status s = fvg__check_together(l->clip, NULL, v, NULL);
  if (!s) s = fvg__check_items(l, items, l->n_class);
  if (!s) s = fvg__check_same_set(v, task);
  if (!s) s = fvg__check_views_of(l, v);
  if (s) return s;
  if (desc && desc->own_masks) return fvg__train_on_own_masks(l, v, task, desc);
  return fvg__train_prompts(l, v, task, desc);
}

/* ---- stage 2: FVG-PT's gates and adapters ---- */
/* Fills t->f, t->f_fg [batch, width] and t->area [batch].  When neither FRG nor the adapters train,
   no foreground is read: f_fg is f, and no picture has a mask. */
static fvg_status fvg__fvgpt_views(fvg__trainer *t, const fvg__train_set *x, const int *index,
                                   int epoch) {
  const int n = t->batch;
  if (!t->fvgpt->desc.no_frg || !t->fvgpt->desc.no_fdc)
    return fvg_views_get(x->views, t->f, t->f_fg, t->area, x->items, index, n, epoch);

  fvg_status s = fvg_views_get(x->views, t->f, NULL, NULL, x->items, index, n, epoch);
  if (s) return s;
  const size_t features = fvg__row(n, x->views->width);
  memcpy(t->f_fg, t->f, features * sizeof *t->f_fg);
  for (int i = 0; i < n; i++)
    t->area[i] = -1;
  return FVG_OK;
}

/* Takes a step on the images index[0..batch-1]. */
static fvg_status fvg__fvgpt_train_step(fvg__trainer *t, const fvg__train_set *x, const int *index,
                                        int epoch, double lr, float *loss) {
  const int n = t->batch;
  fvg_status s = fvg__fvgpt_views(t, x, index, epoch);
  if (s) return s;
  float *const room_fg = t->part + fvg__row(n, x->views->width);
  const fvg_clip *m = t->clip;
  const fvg_features whole = fvg__feature_matrices(m, x->learner, t->f, n, t->part);
  const fvg_features fg = fvg__feature_matrices(m, x->learner, t->f_fg, n, room_fg);

  fvg_fvgpt_batch batch;
  memset(&batch, 0, sizeof batch);
  batch.n = n;
  batch.n_class = x->n_class;
  batch.f = whole.f;
  batch.f_fg = fg.f;
  batch.g = x->g;
  batch.g_clip = x->g_clip;
  batch.area = t->area;
  batch.label = t->label;
  /* NULL says that a part is f, so that the loss computes nothing twice. */
  if (whole.f_clip != whole.f) batch.f_clip = whole.f_clip;
  if (whole.f_score != whole.f) {
    batch.f_score = whole.f_score;
    batch.f_score_fg = fg.f_score;
  }

  fvg_fvgpt_report report;
  memset(&report, 0, sizeof report);
  s = fvg_fvgpt_step(t->fvgpt, &report, t->optimizer, lr, &batch);
  *loss = report.loss;
  return s;
}

static void fvg__train_set_free(fvg__train_set *x) {
  if (!x->learner) return;
  fvg_ctx *c = x->learner->clip->ctx;
  fvg_release(c, x->g);
  fvg_release(c, x->g_clip);
}

/* Fills x with pictures of the classes `name`, and with the text features g of l and g_clip of
   zero-shot CLIP.  Rows of several features must come from l's own tower.  fvgpt: the modules that
   must fit, or NULL.  The caller zeroes x before and frees it after, also on failure. */
static fvg_status fvg__train_set_new(fvg__train_set *x, const fvg_fvgpt *fvgpt, fvg_learner *l,
                                     fvg_views *v, const fvg_items *items,
                                     const char *const *name, int n_class,
                                     const char *prompt_template) {
  fvg_ctx *c = l->clip->ctx;
  const int width = l->clip->embed_dim;
  fvg_status s = fvg__check_items(l, items, n_class);
  if (!s) s = fvg__check_together(l->clip, NULL, v, fvgpt);
  if (s) return s;
  const int has_parts = fvg__learner_parts(l) > 1 || fvg__learner_parts(v->desc.learner) > 1;
  if (has_parts && v->desc.learner != l)
    return fvg_fail(c, FVG_E_ARG, "FVG-PT on %s needs views of that learner", l->method->name);

  x->learner = l;
  x->views = v;
  x->items = items;
  x->n_class = n_class;
  x->g = FVG_NEW_ARRAY(c, float, fvg__row(n_class, width));
  x->g_clip = FVG_NEW_ARRAY(c, float, fvg__row(n_class, width));
  if (!x->g || !x->g_clip) return FVG_E_NOMEM;

  s = fvg_learner_text_features(l, x->g, name, n_class);
  if (!s)
    s = fvg_clip_encode_classes(l->clip, x->g_clip, prompt_template, name, n_class);
  return s;
}

/* ---- stage 2 at its end: have the adapters done harm? ---- */
/* Room for the comparison: features of all pictures, parts and scores of a batch of them. */
typedef struct fvg__compare_room {
  int *index;                 /* [n]                                                            */
  float *rows;                /* [n, width]                                                     */
  float *part;                /* [FVG__IMAGE_BATCH, width]                                      */
  float *z;                   /* [FVG__IMAGE_BATCH, n_class]                                    */
} fvg__compare_room;

/* Gets the features of all pictures in kept view number `view`; where none are kept, under the test
   transform, so that chance has no part in them. */
static fvg_status fvg__still_features(const fvg__train_set *x, const fvg__compare_room *room,
                                      int view) {
  fvg_views *v = x->views;
  const int n = x->items->n;
  if (v->n_kept)
    return fvg_views_get(v, room->rows, NULL, NULL, x->items, room->index, n, view);

  fvg_task task;
  memset(&task, 0, sizeof task);
  task.dataset = v->dataset;
  task.items = *x->items;
  return fvg_encode_task(v->clip, v->desc.learner, room->rows, &task);
}

/* Adds the cross-entropies of n pictures, from `first` on, to sum: the backbone's to sum[0], the
   adapters' to sum[1]. */
static fvg_status fvg__add_cross_entropies(fvg_fvgpt *fvgpt, const fvg__train_set *x,
                                           const fvg__compare_room *room, int first, int n,
                                           double sum[2]) {
  const float *rows = room->rows + fvg__row(first, x->views->width);
  const fvg_features of = fvg__feature_matrices(x->views->clip, x->learner, rows, n, room->part);
  fvg_fvgpt_batch batch;
  memset(&batch, 0, sizeof batch);
  batch.n = n;
  batch.n_class = x->n_class;
  batch.f = of.f;
  batch.f_score = of.f_score;
  batch.g = x->g;

  fvg_status s = FVG_OK;
  for (int adapted = 0; !s && adapted < 2; adapted++) {
    fvgpt->desc.no_fdc = !adapted;
    s = fvg_fvgpt_score_base(fvgpt, room->z, &batch);
    for (int i = 0; !s && i < n; i++) {
      const float *z_i = room->z + fvg__row(i, x->n_class);
      const int label = x->items->item[first + i].label;
      sum[adapted] += fvg__row_cross_entropy(z_i, x->n_class, label);
    }
  }
  fvgpt->desc.no_fdc = 0;
  return s;
}

/* Computes the mean cross-entropy on the training pictures, over all views that are kept:
   ce[0] = CE(z_full, y), ce[1] = CE(z_FDC, y). */
static fvg_status fvg__cross_entropies(fvg_fvgpt *fvgpt, const fvg__train_set *x, double ce[2]) {
  fvg_ctx *c = fvgpt->ctx;
  const int n = x->items->n;
  const int n_view = x->views->n_kept ? x->views->n_kept : 1;
  fvg__compare_room room;
  room.index = FVG_NEW_ARRAY(c, int, (size_t)n);
  room.rows = FVG_NEW_ARRAY(c, float, fvg__row(n, x->views->width));
  room.part = FVG_NEW_ARRAY(c, float, fvg__row(FVG__IMAGE_BATCH, x->views->width));
  room.z = FVG_NEW_ARRAY(c, float, fvg__row(FVG__IMAGE_BATCH, x->n_class));
  fvg_status s = room.index && room.rows && room.part && room.z ? FVG_OK : FVG_E_NOMEM;
  for (int i = 0; !s && i < n; i++)
    room.index[i] = i;

  double sum[2] = {0, 0};
  for (int view = 0; !s && view < n_view; view++) {
    s = fvg__still_features(x, &room, view);
    for (int i = 0; !s && i < n; i += FVG__IMAGE_BATCH)
      s = fvg__add_cross_entropies(fvgpt, x, &room, i, fvg__min(n - i, FVG__IMAGE_BATCH), sum);
  }
  for (int i = 0; i < 2; i++)
    ce[i] = sum[i] / ((double)n * n_view);

  fvg_release(c, room.index);
  fvg_release(c, room.rows);
  fvg_release(c, room.part);
  fvg_release(c, room.z);
  return s;
}

/* What is to be done about adapters that are worse than the backbone. */
static const char *fvg__advice(const fvg_fvgpt *fvgpt) {
  if (fvgpt->desc.no_fdc) return "base classes keep the backbone's scores";
  if (fvgpt->desc.distill == FVG_DISTILL_STABLE)
    return "train at a lower rate, or with --guard (fvg_train_desc.guard), which keeps the "
           "backbone's scores";
  return "train with --distill stable (fvg_fvgpt_desc.distill), or with --guard "
         "(fvg_train_desc.guard), which keeps the backbone's scores";
}

/* Compares the adapters with the backbone on the pictures that they were trained on.  A warning is
   logged for worse ones; with a guard they are also switched off. */
static fvg_status fvg__guard(fvg_fvgpt *fvgpt, const fvg__train_set *x, const char *what,
                             const fvg_train_desc *desc) {
  if (fvgpt->desc.no_fdc) return FVG_OK;
  double ce[2];
  fvg_status s = fvg__cross_entropies(fvgpt, x, ce);
  if (s) return s;
  if (desc && desc->cross_entropy) memcpy(desc->cross_entropy, ce, sizeof ce);
  if (ce[1] <= ce[0]) return FVG_OK;

  fvgpt->desc.no_fdc = desc && desc->guard;
  fvg_log(fvgpt->ctx, 0,
          "%s: the adapters' cross-entropy on the training pictures is %.4f, worse than the "
          "backbone's %.4f; %s",
          what, ce[1], ce[0], fvg__advice(fvgpt));
  return FVG_OK;
}

/* The learner and CLIP stay fixed: their text features are computed once, before the first step. */
FVG_DEF fvg_status fvg_fvgpt_train(fvg_fvgpt *fvgpt, fvg_learner *l, fvg_views *v,
                                   const fvg_task *task, const fvg_train_desc *desc) {
  const fvg_items *items = task ? &task->items : NULL;
  if (!fvgpt)
    return fvg__missing(fvg__context_of(l, v), "fvg_fvgpt_train", "FVG-PT's modules");
  if (!l)
    return fvg__missing(fvgpt->ctx, "fvg_fvgpt_train", "a learner");
  if (!v)
    return fvg__missing(fvgpt->ctx, "fvg_fvgpt_train", "views");

  fvg_status s = fvg__check_items(l, items, l->n_class);
  if (!s) s = fvg__check_same_set(v, task);
#ifndef FVGPT_NO_STDIO
  const int reads_masks = !fvgpt->desc.no_frg || !fvgpt->desc.no_fdc;
  if (!s && reads_masks && !v->desc.no_masks) s = fvg_dataset_check_masks(v->dataset, items);
#endif
  if (s) return s;

  fvg__compare_scales(l->clip, fvgpt);
  char what[64];
  fvg__print(what, sizeof what, "FVGPT_%s", l->method->name);
  fvg__train_set source;
  fvg__trainer t;
  memset(&t, 0, sizeof t);
  t.stage = FVG__FVGPT;
  t.what = what;
  t.card = fvg__card_of(task);
  t.step = fvg__fvgpt_train_step;
  t.clip = l->clip;
  t.fvgpt = fvgpt;
  fvg__set_source(&t, &source, l, v, items);

  int n_params;
  fvg_parameter *const *params = fvg_fvgpt_parameters(fvgpt, &n_params);
  const char *const *name = (const char *const *)l->class_name;
  s = fvg__train_set_new(&source, fvgpt, l, v, items, name, l->n_class,
                         desc ? desc->prompt_template : NULL);
  if (!s) s = fvg__train(&t, params, n_params, desc);
  if (!s) s = fvg__guard(fvgpt, &source, what, desc);
  fvg__train_set_free(&source);
  return s;
}

/* ---- calibration: BRG on other pictures ---- */
/* Fails unless every source has a learner, views and class names. */
static fvg_status fvg__check_sources(fvg_ctx *c, const fvg_calibration_source *source,
                                     int n_source) {
  if (!source)
    return fvg__missing(c, "calibration", "sources");
  for (int i = 0; i < n_source; i++) {
    if (!source[i].learner)
      return fvg__missing(c, "calibration", "the learner of every source");
    if (!source[i].views)
      return fvg__missing(c, "calibration", "the views of every source");
    if (!source[i].task || !source[i].task->class_name)
      return fvg__missing(c, "calibration", "the task of every source");
    fvg_status s = fvg__check_same_set(source[i].views, source[i].task);
    if (s) return s;
  }
  return FVG_OK;
}

/* Fails unless there are sources whose learners are all of one method and on one CLIP. */
static fvg_status fvg__check_calibration(fvg_ctx *c, const fvg_calibration_source *source,
                                         int n_source) {
  if (n_source < 1)
    return fvg_fail(c, FVG_E_ARG, "calibration: %d sources", n_source);
  fvg_status s = fvg__check_sources(c, source, n_source);
  if (s) return s;

  for (int i = 1; i < n_source; i++) {
    if (source[i].learner->method != source[0].learner->method ||
        source[i].learner->clip != source[0].learner->clip) {
      return fvg_fail(c, FVG_E_ARG,
                      "calibration: the sources' learners must be of one method and one CLIP");
    }
  }
  return FVG_OK;
}

/* Makes of a source what training wants; see fvg__train_set_new. */
static fvg_status fvg__source_of(fvg__train_set *x, const fvg_fvgpt *fvgpt,
                                 const fvg_calibration_source *from, const char *prompt_template) {
  const fvg_task *task = from->task;
  return fvg__train_set_new(x, fvgpt, from->learner, from->views, &task->items, task->class_name,
                            task->n_class, prompt_template);
}

/* Trains a new BRG on all the sources, with every other module switched off, and copies it into
   fvgpt once that has succeeded. */
FVG_DEF fvg_status fvg_fvgpt_calibrate(fvg_fvgpt *fvgpt, const fvg_calibration_source *source,
                                       int n_source, const fvg_train_desc *desc) {
  if (!fvgpt) return FVG_E_ARG;
  const char *prompt_template = desc ? desc->prompt_template : NULL;
  fvg_ctx *c = fvgpt->ctx;
  fvg_status s = fvg__check_calibration(c, source, n_source);
  if (s) return s;

  fvg_fvgpt_desc only_gate = fvgpt->desc;
  only_gate.no_frg = only_gate.no_fdc = 1;
  only_gate.no_pc = 0;
  only_gate.seed++;           /* other random weights than those that the old gate began from   */

  fvg_fvgpt *fresh = NULL;
  fvg__trainer t;
  memset(&t, 0, sizeof t);
  t.stage = FVG__FVGPT;
  t.what = "calibrate";
  t.card = fvg__card_of(source[0].task);
  t.step = fvg__fvgpt_train_step;
  t.clip = source[0].learner->clip;
  t.n_source = n_source;
  t.source = FVG_NEW_ARRAY(c, fvg__train_set, (size_t)n_source);
  s = t.source ? fvg_fvgpt_new(c, &fresh, &only_gate) : FVG_E_NOMEM;
  t.fvgpt = fresh;
  for (int i = 0; !s && i < n_source; i++)
    s = fvg__source_of(&t.source[i], fresh, &source[i], prompt_template);

  /* BRG's parameters are the last ones: a weight and a bias for each of its layers. */
  const int n_gate = 2 * fvgpt->brg.n_layer;
  const int first = fvgpt->n_params - n_gate;
  if (!s) s = fvg__train(&t, fresh->params + first, n_gate, desc);
  for (int i = first; !s && i < fvgpt->n_params; i++) {
    fvg_tensor *to = &fvgpt->params[i]->value;
    const fvg_tensor *from = &fresh->params[i]->value;
    memcpy(to->data, from->data, fvg_tensor_count(to) * sizeof(float));
  }

  for (int i = 0; t.source && i < n_source; i++)
    fvg__train_set_free(&t.source[i]);
  fvg_release(c, t.source);
  fvg_fvgpt_free(fresh);
  return s;
}

/* ---- the evidence for calibration ---- */
/* Computes f g in double precision, which every level of kernels rounds alike. */
static double fvg__inner_product(const float *f, const float *g, size_t d) {
  double sum = 0;
  for (size_t k = 0; k < d; k++)
    sum += (double)f[k] * (double)g[k];
  return sum;
}

/* Returns argmax_c f g_c; f [d], g [n_class, d]. */
static int fvg__best_class(const float *f, const float *g, int n_class, int d) {
  double most = -HUGE_VAL;
  int best = 0;
  for (int c = 0; c < n_class; c++) {
    const double score = fvg__inner_product(f, g + fvg__row(c, d), (size_t)d);
    if (score > most) {
      most = score;
      best = c;
    }
  }
  return best;
}

/* Counts a source's pictures, seen as in epoch 0, that only zero-shot CLIP gets right, and those
   that only the learner does. */
static fvg_status fvg__train_set_compare(const fvg__train_set *x, int *clip_alone,
                                         int *learner_alone) {
  const fvg_clip *m = x->learner->clip;
  const int d = m->embed_dim;
  const int n = x->items->n;
  float *rows = FVG_NEW_ARRAY(m->ctx, float, fvg__row(n, x->views->width));
  int *index = FVG_NEW_ARRAY(m->ctx, int, (size_t)n);
  fvg_status s = rows && index ? FVG_OK : FVG_E_NOMEM;

  for (int i = 0; !s && i < n; i++)
    index[i] = i;
  if (!s)
    s = fvg_views_get(x->views, rows, NULL, NULL, x->items, index, n, 0);

  for (int i = 0; !s && i < n; i++) {
    const float *row = rows + fvg__row(i, x->views->width);
    const fvg_features of = fvg_learner_features(m, x->learner, row);
    const int label = x->items->item[i].label;
    const int tuned_is_right = fvg__best_class(of.f, x->g, x->n_class, d) == label;
    const int clip_is_right = fvg__best_class(of.f_clip, x->g_clip, x->n_class, d) == label;
    *clip_alone += clip_is_right && !tuned_is_right;
    *learner_alone += tuned_is_right && !clip_is_right;
  }
  fvg_release(m->ctx, rows);
  fvg_release(m->ctx, index);
  return s;
}

/* Computes McNemar's statistic (n0 - n1) / sqrt(n0 + n1) over all sources together. */
FVG_DEF fvg_status fvg_calibration_evidence(double *evidence, const fvg_calibration_source *source,
                                            int n_source, const char *prompt_template) {
  if (!evidence) return FVG_E_ARG;
  *evidence = 0;
  if (n_source < 1) return FVG_OK;
  fvg_ctx *c = source ? fvg__context_of(source[0].learner, source[0].views) : NULL;
  fvg_status s = fvg__check_calibration(c, source, n_source);

  int clip_alone = 0;
  int learner_alone = 0;
  for (int i = 0; !s && i < n_source; i++) {
    fvg__train_set x;
    memset(&x, 0, sizeof x);
    s = fvg__source_of(&x, NULL, &source[i], prompt_template);
    if (!s) s = fvg__train_set_compare(&x, &clip_alone, &learner_alone);
    fvg__train_set_free(&x);
  }

  const double differ = (double)(clip_alone + learner_alone);
  if (!s && differ > 0) *evidence = (clip_alone - learner_alone) / sqrt(differ);
  return s;
}

/* ---- heads on a task ---- */
/* What fvg_head_task leaves out, computed; the rest is the caller's. */
typedef struct fvg__head_room {
  float *f, *f_val, *text;
  int *label, *label_val;
} fvg__head_room;

static void fvg__head_room_free(fvg_ctx *c, fvg__head_room *r) {
  fvg_release(c, r->f);
  fvg_release(c, r->f_val);
  fvg_release(c, r->text);
  fvg_release(c, r->label);
  fvg_release(c, r->label_val);
}

/* The labels of a task; NULL when memory is out. */
static int *fvg__task_labels(fvg_ctx *c, const fvg_task *task) {
  const int n = task->items.n;
  int *label = FVG_NEW_ARRAY(c, int, (size_t)(n < 1 ? 1 : n));
  for (int i = 0; label && i < n; i++) label[i] = task->items.item[i].label;
  return label;
}

/* The features of a task under the test transform -> *f, to be released. */
static fvg_status fvg__task_features(fvg_clip *m, float **f, const fvg_task *task) {
  const int n = task->items.n < 1 ? 1 : task->items.n;
  *f = FVG_NEW_ARRAY(m->ctx, float, fvg__row(n, m->embed_dim));
  return *f ? fvg_encode_task(m, NULL, *f, task) : FVG_E_NOMEM;
}

/* The crops of a task -> *f [pictures, n_view, embed_dim], to be released.  `one` holds a crop of
   each picture, `index` their numbers. */
static fvg_status fvg__task_crops(fvg_clip *m, float **f, const fvg_head_task *x, int n_view,
                                  float *one, int *index) {
  const fvg_items *items = &x->train->items;
  const size_t d = (size_t)m->embed_dim;
  *f = FVG_NEW_ARRAY(m->ctx, float, fvg__row(items->n, n_view) * d);
  fvg_status s = *f ? FVG_OK : FVG_E_NOMEM;
  for (int i = 0; i < items->n; i++) index[i] = i;

  for (int v = 0; !s && v < n_view; v++) {
    s = fvg_views_get(x->views, one, NULL, NULL, items, index, items->n, v);
    for (int i = 0; !s && i < items->n; i++) {
      float *to = *f + (fvg__row(i, n_view) + (size_t)v) * d;
      memcpy(to, one + fvg__row(i, m->embed_dim), d * sizeof *to);
    }
  }
  return s;
}

/* The features of the training pictures: as views or as the test transform shows them. */
static fvg_status fvg__head_features(fvg_clip *m, float **f, const fvg_head_task *x, int n_view) {
  if (!x->views && n_view > 1)
    return fvg_fail(m->ctx, FVG_E_ARG, "a head on %d crops of each picture needs views or features",
                    n_view);
  if (!x->views) return fvg__task_features(m, f, x->train);
  fvg_status s = fvg__check_together(m, NULL, x->views, NULL);
  if (!s) s = fvg__check_same_set(x->views, x->train);
  if (s) return s;
  if (x->views->width != m->embed_dim)
    return fvg_fail(m->ctx, FVG_E_ARG, "heads are fitted on views that are made without a learner");

  const int n = x->train->items.n < 1 ? 1 : x->train->items.n;
  float *one = FVG_NEW_ARRAY(m->ctx, float, fvg__row(n, m->embed_dim));
  int *index = FVG_NEW_ARRAY(m->ctx, int, (size_t)n);
  s = one && index ? fvg__task_crops(m, f, x, n_view, one, index) : FVG_E_NOMEM;
  fvg_release(m->ctx, one);
  fvg_release(m->ctx, index);
  return s;
}

/* Computes what the caller has not, into r. */
static fvg_status fvg__head_complete(fvg_clip *m, fvg_head_data *data, fvg__head_room *r,
                                     const fvg_head_task *x) {
  const fvg_task *train = x->train;
  fvg_status s = FVG_OK;
  r->label = fvg__task_labels(m->ctx, train);
  if (x->val) r->label_val = fvg__task_labels(m->ctx, x->val);
  r->text = FVG_NEW_ARRAY(m->ctx, float, fvg__row(train->n_class, m->embed_dim));
  if (!r->label || (x->val && !r->label_val) || !r->text) return FVG_E_NOMEM;

  if (!x->f) s = fvg__head_features(m, &r->f, x, data->n_view);
  if (!s && x->val && !x->f_val) s = fvg__task_features(m, &r->f_val, x->val);
  if (!s && !x->text)
    s = fvg_clip_encode_classes(m, r->text, x->prompt_template, train->class_name, train->n_class);
  data->f = x->f ? x->f : r->f;
  data->label = r->label;
  data->text = x->text ? x->text : r->text;
  data->f_val = x->f_val ? x->f_val : r->f_val;
  data->label_val = r->label_val;
  return s;
}

/* Completes the data, fits, and drops what was made for it. */
FVG_DEF fvg_status fvg_head_fit_task(fvg_clip *m, fvg_head **out, fvg_head_kind kind,
                                     const fvg_head_task *x, const fvg_head_desc *desc) {
  if (!m) return FVG_E_ARG;
  if (!out) return fvg__missing(m->ctx, "fvg_head_fit_task", "a place for the head");
  *out = NULL;
  if (!x || !x->train)
    return fvg__missing(m->ctx, "fvg_head_fit_task", "a task to fit on");
  if (x->val && x->val->n_class != x->train->n_class)
    return fvg_fail(m->ctx, FVG_E_SHAPE, "a head on %d classes cannot choose by pictures of %d",
                    x->train->n_class, x->val->n_class);

  fvg_head_data data;
  fvg__head_room room;
  memset(&data, 0, sizeof data);
  memset(&room, 0, sizeof room);
  data.width = m->embed_dim;
  data.n_class = x->train->n_class;
  data.n = x->train->items.n;
  data.n_view = x->n_view < 1 ? 1 : x->n_view;
  data.n_val = x->val ? x->val->items.n : 0;
  data.logit_scale = m->logit_scale;
  fvg_status s = fvg__head_complete(m, &data, &room, x);
  if (!s) s = fvg_head_fit(m->ctx, out, kind, &data, desc);
  fvg__head_room_free(m->ctx, &room);
  return s;
}

/* Computes the accuracy, in percent, on the test pictures of one group of classes. */
static fvg_status fvg__test_group(fvg_clip *m, double *accuracy, const fvg_dataset *d,
                                  fvg_group group, const fvg_classifier_desc *desc) {
  fvg_task_desc of_group;
  memset(&of_group, 0, sizeof of_group);
  of_group.split = FVG_TEST;
  of_group.group = group;

  fvg_task task;
  fvg_classifier *k = NULL;
  fvg_score score;
  fvg_status s = fvg_task_draw(&task, d, &of_group);
  if (!s) s = fvg_classifier_new(m, &k, task.class_name, task.n_class, desc);
  if (!s) s = fvg_classifier_test(k, &score, &task);
  if (!s) *accuracy = score.accuracy;
  fvg_classifier_free(k);
  fvg_task_free(&task);
  return s;
}

/* The base classes come first, then the new ones; *out is written only when both are known. */
FVG_DEF fvg_status fvg_test_base_to_new(fvg_clip *m, fvg_base_to_new *out, const fvg_dataset *d,
                                        fvg_learner *l, fvg_fvgpt *fvgpt,
                                        const char *prompt_template) {
  if (out) memset(out, 0, sizeof *out);
  if (!m) return FVG_E_ARG;
  if (!out)
    return fvg__missing(m->ctx, "fvg_test_base_to_new", "a place for the accuracies");
  if (!d) return fvg__missing(m->ctx, "fvg_test_base_to_new", "a data set");

  fvg_classifier_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.learner = l;
  desc.fvgpt = fvgpt;
  desc.prompt_template = prompt_template;

  fvg_base_to_new score;
  memset(&score, 0, sizeof score);
  desc.branch = fvgpt ? FVG_BRANCH_BASE : l ? FVG_TUNED : FVG_ZERO_SHOT;
  fvg_status s = fvg__test_group(m, &score.base, d, FVG_BASE, &desc);

  desc.branch = fvgpt ? FVG_BRANCH_NEW : l ? FVG_TUNED_NEW : FVG_ZERO_SHOT;
  if (!s) s = fvg__test_group(m, &score.new_, d, FVG_NEW, &desc);
  if (s) return s;

  score.h = fvg_harmonic_mean(score.base, score.new_);
  *out = score;
  return FVG_OK;
}

/*==================================================================================================
 * CHAPTER 35  DPC: a second prompt for the base classes
 *==================================================================================================
   What pulls prompts further toward the base classes costs accuracy on new ones.  Dual-prompt
   collaboration (DPC, Li et al. 2025, arXiv 2503.13443) keeps the tuned prompts P, trains a copy
   P' on harder tasks, and mixes the two according to the classes that are asked for:

     base classes   w P' + (1 - w) P          new classes   w_n P' + (1 - w_n) P

   A harder task is made from a batch.  Each picture looks at the k classes that P scores best for
   it, its own usually among them, and brings those that the batch does not have yet; if they are
   fewer than two, it brings one or two more, drawn at random.  Each class comes with a picture
   drawn from its own.  The M pictures and the M texts of their classes must then find one another:

     Z = s F G^T,   L = (CE(Z, 1..M) + CE(Z^T, 1..M)) / 2

     F, G [M,d]   normalised features of the pictures, and of their classes with P'; a class may
                  occur twice
     Q            what trains and is kept, the mixture for base classes:
                  P' = P + (Q - P) / w,   dL/dQ = (1/w) dL/dP'

   Only the prompts are the method's own: the further loss terms of KgCoOp and PromptSRC, ProGrad's
   corrected gradient and PromptSRC's average are not used.  Published runs draw pictures from the
   whole training list; here they come from the few shots.  Where k gives too few classes,
   published runs never draw the first and the last class; here all are equally likely.

   Defaults: k 8 and w 0.5; w_n 0, which leaves new classes as they were (the published code has
   0.2, its examples 0).  As published for CoOp: SGD 0.0035, 10 epochs, batch 4.  The parameters are
   the method's. */

enum { FVG__STREAM_NEGATIVES = 2000 };

struct fvg__dpc {
  fvg_learner *tuned;                 /* with P */
  float weight;                       /* w */
  int top_k;
  uint64_t seed;
  float *g;                           /* [n_class, d] text features of the tuned prompts */
  float *mixture;                     /* Q, all tensors one after the other */
  int *index, *label, n;              /* the grown batch: pictures and their classes */
  int *own;                           /* 0, 1, 2 ...: each picture's own text */
  int *present;                       /* [n_class] 1: in the batch, or without pictures to bring */
  double *score;                      /* [n_class] of one picture */
  float *f;                           /* features of the grown batch, by the tuned prompts' tower */
  float *pixels;                      /* of the grown batch; NULL: the method leaves the image tower
                                         alone, and f holds what CLIP's own makes */
};

static void fvg__dpc_free(fvg_ctx *c, fvg__dpc *d) {
  fvg_release(c, d->g);
  fvg_release(c, d->mixture);
  fvg_release(c, d->index);
  fvg_release(c, d->label);
  fvg_release(c, d->own);
  fvg_release(c, d->present);
  fvg_release(c, d->score);
  fvg_release(c, d->f);
  fvg_release(c, d->pixels);
}

FVG_DEF int fvg_dpc_knows(const fvg_method *method) { return method && method->prompts_only; }

/* `tuned` must be another learner of the same method, classes and sizes. */
static fvg_status fvg__dpc_check(const fvg_learner *l, const fvg_learner *tuned) {
  if (!l) return fvg__missing(fvg__context_of(tuned, NULL), "DPC", "a learner");
  fvg_ctx *c = l->clip->ctx;
  const char *method = l->method->name;
  if (!fvg_dpc_knows(l->method))
    return fvg_fail(c, FVG_E_UNSUPPORTED,
                    "DPC_%s: DPC mixes prompts, and %s does not learn these alone", method, method);
  if (!tuned) return fvg__missing(c, "DPC", "the tuned learner");
  if (tuned == l || tuned->method != l->method || tuned->n_param != l->n_param ||
      tuned->n_class != l->n_class)
    return fvg_fail(c, FVG_E_ARG, "DPC needs a learner and a copy of it");
  fvg_status s = fvg__check_tuned(l->clip, tuned, NULL);
  if (s) return s;

  for (int i = 0; i < l->n_param; i++) {
    const fvg_parameter *p = l->param[i];
    if (fvg_tensor_count(&p->value) != fvg_tensor_count(&tuned->param[i]->value))
      return fvg_fail(c, FVG_E_SHAPE, "DPC: %s has another size in the tuned learner", p->name);
  }
  return FVG_OK;
}

/* Q is P + w (P' - P), so another weight makes it P + to / from (Q - P). */
FVG_DEF fvg_status fvg_dpc_reweigh(fvg_learner *l, const fvg_learner *tuned, float from, float to) {
  fvg_status s = fvg__dpc_check(l, tuned);
  if (s) return s;
  if (!(from > 0))
    return fvg_fail(l->clip->ctx, FVG_E_ARG, "DPC: the weight of P' must be above 0");

  for (int i = 0; i < l->n_param; i++) {
    float *q = (float *)l->param[i]->value.data;
    const float *p = (const float *)tuned->param[i]->value.data;
    size_t n = fvg_tensor_count(&l->param[i]->value);
    for (size_t k = 0; k < n; k++)
      q[k] = p[k] + to / from * (q[k] - p[k]);
  }
  return FVG_OK;
}

/* ---- the harder task ---- */
/* Adds a class to the batch, with one of its pictures, drawn. */
static void fvg__dpc_add(fvg__dpc *d, const fvg_items *items, int label, fvg_rng *rng) {
  int n = 0;
  for (int i = 0; i < items->n; i++)
    n += items->item[i].label == label;

  int left = (int)fvg_rng_below(rng, (uint32_t)n);
  int at = 0;
  while (items->item[at].label != label || left-- > 0) at++;

  d->index[d->n] = at;
  d->label[d->n] = label;
  d->n++;
  d->present[label] = 1;
}

/* Adds a class that is not present, drawn; returns 0 if there is none left. */
static int fvg__dpc_add_any(fvg__dpc *d, const fvg_items *items, int n_class, fvg_rng *rng) {
  int n = 0;
  for (int k = 0; k < n_class; k++)
    n += !d->present[k];
  if (!n) return 0;

  int left = (int)fvg_rng_below(rng, (uint32_t)n);
  int label = 0;
  while (d->present[label] || left-- > 0) label++;
  fvg__dpc_add(d, items, label, rng);
  return 1;
}

/* Adds the k best classes of a picture with feature f, then what is missing to two. */
static void fvg__dpc_negatives(fvg__dpc *d, const fvg_items *items, int picture, const float *f,
                               int n_class, int epoch) {
  const int before = d->n, width = d->tuned->clip->embed_dim;
  fvg_rng rng;
  fvg_rng_seed(&rng, d->seed ^ fvg__path_hash(items->item[picture].path),
               FVG__STREAM_NEGATIVES + (uint64_t)epoch);

  for (int k = 0; k < n_class; k++)
    d->score[k] = fvg__inner_product(f, d->g + fvg__row(k, width), (size_t)width);

  for (int rank = 0; rank < d->top_k && rank < n_class; rank++) {
    int best = 0;
    for (int k = 1; k < n_class; k++)
      if (d->score[k] > d->score[best])
        best = k;
    d->score[best] = -HUGE_VAL;
    if (!d->present[best])
      fvg__dpc_add(d, items, best, &rng);
  }

  while (d->n < before + 2)
    if (!fvg__dpc_add_any(d, items, n_class, &rng)) return;
}

/* Lists the batch of n pictures and, after it, what they bring.  f [n, stride]: their features by
   the tuned prompts' tower. */
static void fvg__dpc_grow(fvg__dpc *d, const fvg__train_set *x, const int *index, int n,
                          const float *f, size_t stride, int epoch) {
  const fvg_items *items = x->items;
  for (int k = 0; k < x->n_class; k++)
    d->present[k] = 1;
  for (int i = 0; i < items->n; i++)
    d->present[items->item[i].label] = 0;

  for (int i = 0; i < n; i++) {
    d->index[i] = index[i];
    d->label[i] = items->item[index[i]].label;
    d->present[d->label[i]] = 1;
  }
  d->n = n;
  for (int i = 0; i < n; i++)
    fvg__dpc_negatives(d, items, index[i], f + (size_t)i * stride, x->n_class, epoch);
}

/* Puts into d the batch, what it brings, and the features of all of them, from kept views. */
static fvg_status fvg__dpc_gather_features(fvg__dpc *d, const fvg__train_set *x, const int *index,
                                           int n, int epoch) {
  int width = fvg_learner_feature_width(x->learner->clip, d->tuned);
  fvg_status s = fvg_views_get(x->views, d->f, NULL, NULL, x->items, index, n, epoch);
  if (s) return s;

  fvg__dpc_grow(d, x, index, n, d->f, (size_t)width, epoch);
  return fvg_views_get(x->views, d->f + fvg__row(n, width), NULL, NULL, x->items,
                       d->index + n, d->n - n, epoch);
}

/* The same with the pixels of all pictures, for methods that prompt the image tower.  Only the
   batch's own pictures have features, which choose what they bring. */
static fvg_status fvg__dpc_gather_pixels(fvg__dpc *d, const fvg__train_set *x, const int *index,
                                         int n, int epoch) {
  const fvg_clip *m = x->learner->clip;
  const int width = fvg_learner_feature_width(m, d->tuned);
  const size_t size = 3 * fvg__row(m->vision.image_size, m->vision.image_size);

  fvg_status s = fvg_views_pixels(x->views, d->pixels, NULL, x->items, index, n, epoch);
  for (int i = 0; !s && i < n; i += FVG__IMAGE_BATCH)
    s = fvg__learner_encode(d->tuned, d->pixels + (size_t)i * size,
                            fvg__min(n - i, FVG__IMAGE_BATCH), d->f + fvg__row(i, width));
  if (s) return s;

  fvg__dpc_grow(d, x, index, n, d->f, (size_t)width, epoch);
  return fvg_views_pixels(x->views, d->pixels + (size_t)n * size, NULL, x->items,
                          d->index + n, d->n - n, epoch);
}

/* ---- training ---- */
/* Computes L on the grown batch, with P' in l's parameters. */
static fvg_node *fvg__dpc_loss(fvg__dpc *d, fvg_learner *l) {
  fvg_node *f;
  if (d->pixels)
    f = fvg__learner_images(l, l->tape, d->pixels, d->n, NULL);
  else
    f = fvg_const(l->tape, d->n, l->clip->embed_dim, d->f);

  fvg_node *g = fvg_gather(fvg__learner_texts(l, l->tape, &l->packed), d->label, d->n);
  fvg_node *z = fvg__learner_scores(l, f, g);
  fvg_node *of_pictures = fvg_cross_entropy(z, d->own);
  fvg_node *of_texts = fvg_cross_entropy(fvg_transpose(z), d->own);
  return fvg_scale(fvg_add(of_pictures, of_texts), 0.5f);
}

/* Copies Q from l's parameters. */
static void fvg__dpc_keep_mixture(fvg__dpc *d, const fvg_learner *l) {
  float *at = d->mixture;
  for (int i = 0; i < l->n_param; i++) {
    const fvg_parameter *p = l->param[i];
    size_t n = fvg_tensor_count(&p->value);
    memcpy(at, p->value.data, n * sizeof *at);
    at += n;
  }
}

/* Puts Q back into l's parameters and turns the gradients with respect to P' into those with
   respect to Q. */
static void fvg__dpc_return_mixture(fvg__dpc *d, fvg_learner *l) {
  const float *at = d->mixture;
  for (int i = 0; i < l->n_param; i++) {
    fvg_parameter *p = l->param[i];
    size_t n = fvg_tensor_count(&p->value);
    memcpy(p->value.data, at, n * sizeof *at);
    for (size_t k = 0; k < n; k++)
      p->grad[k] /= d->weight;
    at += n;
  }
}

/* Takes a training step.  While the loss is computed the parameters hold P'; before and after,
   Q. */
static fvg_status fvg__dpc_step(fvg__trainer *t, const fvg__train_set *x, const int *index,
                                int epoch, double lr, float *loss) {
  fvg__dpc *d = t->dpc;
  fvg_learner *l = x->learner;
  fvg_status s;
  if (d->pixels)
    s = fvg__dpc_gather_pixels(d, x, index, t->batch, epoch);
  else
    s = fvg__dpc_gather_features(d, x, index, t->batch, epoch);
  if (s) return s;

  fvg__dpc_keep_mixture(d, l);
  s = fvg_dpc_reweigh(l, d->tuned, d->weight, 1);
  if (s) return s;

  fvg_tape_clear(l->tape);
  fvg_optimizer_zero_grad(t->optimizer);
  fvg_node *y = fvg__dpc_loss(d, l);
  if (y) *loss = fvg_value(y)[0];
  s = y ? fvg_backward(y) : fvg__method_failed(l);

  fvg__dpc_return_mixture(d, l);
  if (!s) fvg_optimizer_step(t->optimizer, lr);
  return s;
}

/* Memory for batches of `batch` pictures, and the classes' features.  On failure, too, the caller
   frees d. */
static fvg_status fvg__dpc_new(fvg__dpc *d, const fvg_learner *l, int batch) {
  fvg_clip *m = l->clip;
  fvg_ctx *c = m->ctx;
  const size_t n_class = (size_t)l->n_class;
  const size_t width = (size_t)fvg_learner_feature_width(m, d->tuned);

  /* A picture brings at most k classes, or two, and no class comes twice. */
  size_t brought = fvg__row(batch, d->top_k > 2 ? d->top_k : 2);
  size_t most = (size_t)batch + (brought < n_class ? brought : n_class);
  size_t n_value = 0;
  for (int i = 0; i < l->n_param; i++)
    n_value += fvg_tensor_count(&l->param[i]->value);

  d->g = FVG_NEW_ARRAY(c, float, n_class * (size_t)m->embed_dim);
  d->mixture = FVG_NEW_ARRAY(c, float, n_value);
  d->index = FVG_NEW_ARRAY(c, int, most);
  d->label = FVG_NEW_ARRAY(c, int, most);
  d->own = FVG_NEW_ARRAY(c, int, most);
  d->present = FVG_NEW_ARRAY(c, int, n_class);
  d->score = FVG_NEW_ARRAY(c, double, n_class);
  d->f = FVG_NEW_ARRAY(c, float, most * width);
  if (!d->g || !d->mixture || !d->f || !d->score)
    return FVG_E_NOMEM;
  if (!d->index || !d->label || !d->own || !d->present)
    return FVG_E_NOMEM;

  if (l->method->needs & FVG_NEEDS_PIXELS) {
    size_t size = 3 * fvg__row(m->vision.image_size, m->vision.image_size);
    d->pixels = (float *)fvg_alloc_array(c, most, size * sizeof *d->pixels);
    if (!d->pixels) return FVG_E_NOMEM;
  }
  for (size_t k = 0; k < most; k++)
    d->own[k] = (int)k;
  return fvg_learner_text_features(d->tuned, d->g, (const char *const *)l->class_name, l->n_class);
}

FVG_DEF fvg_optimizer_desc fvg_dpc_optimizer(int *batch) {
  fvg_optimizer_desc d;
  memset(&d, 0, sizeof d);
  d.lr = 0.0035f;
  d.epochs = 10;
  if (batch) *batch = 4;
  return fvg_optimizer_defaults(&d);
}

/* What the caller left open in desc (NULL: all) is as published; a batch is at most the whole
   list. */
static fvg_train_desc fvg__dpc_schedule(const fvg_train_desc *desc, int n_item) {
  fvg_train_desc own;
  memset(&own, 0, sizeof own);
  if (desc) own = *desc;

  int batch;
  fvg_optimizer_desc published = fvg_dpc_optimizer(&batch);
  if (own.optimizer.lr == 0) {
    own.optimizer.lr = published.lr;
    own.optimizer.kind = published.kind;
  }
  if (!own.optimizer.epochs) own.optimizer.epochs = published.epochs;
  if (own.batch <= 0) own.batch = batch;
  own.batch = fvg__min(own.batch, n_item);
  return own;
}

/* Trains l, a copy of `tuned`, whose parameters hold Q from the first step to the last. */
FVG_DEF fvg_status fvg_dpc_train(fvg_learner *l, fvg_learner *tuned, fvg_views *v,
                                 const fvg_task *task, const fvg_dpc_desc *dpc,
                                 const fvg_train_desc *desc) {
  const fvg_items *items = task ? &task->items : NULL;
  fvg_ctx *c = fvg__context_of(l, v);
  fvg_status s = fvg__dpc_check(l, tuned);
  if (!s && !v) s = fvg__missing(c, "fvg_dpc_train", "views");
  if (!s) s = fvg__check_together(l->clip, NULL, v, NULL);
  if (!s) s = fvg__check_items(l, items, l->n_class);
  if (!s) s = fvg__check_same_set(v, task);
  if (!s) s = fvg__check_plain_views(v, "DPC_", l->method->name);
  if (s) return s;

  fvg_train_desc own = fvg__dpc_schedule(desc, items->n);
  fvg__dpc d;
  memset(&d, 0, sizeof d);
  d.tuned = tuned;
  d.weight = fvg__default(dpc ? dpc->weight : 0, 0.5f);
  d.top_k = dpc && dpc->top_k ? dpc->top_k : 8;
  d.seed = own.seed;
  if (!(d.weight > 0) || d.top_k < 1)
    return fvg_fail(c, FVG_E_ARG, "DPC: the weight of P' must be above 0, and top_k at least 1");

  char what[64];
  fvg__print(what, sizeof what, "DPC_%s", l->method->name);
  fvg__train_set source;
  fvg__trainer t;
  memset(&t, 0, sizeof t);
  t.what = what;
  t.stage = FVG__DPC;
  t.step = fvg__dpc_step;
  t.clip = l->clip;
  t.dpc = &d;
  fvg__set_source(&t, &source, l, v, items);

  s = fvg__dpc_new(&d, l, own.batch);
  if (!s) s = fvg__train(&t, l->param, l->n_param, &own);
  fvg__dpc_free(c, &d);
  return s;
}
#endif /* FVGPT_NO_TRAINING */

/*==================================================================================================
 * CHAPTER 36  CHECKPOINTS: a tuned model in one file
 *==================================================================================================
   A checkpoint is a safetensors file.  It holds the learner's tensors under the names that the
   published trainers give them, and FVG-PT's; its metadata hold everything that is needed to build
   both again: the trainer, the classes, the words and the template, and every option of the
   method.  Loading builds the learner from the metadata and then fills its parameters, whose
   shapes are compared with the file's before memory is allocated.

   A head (fvgpt.h, chapters 15 to 21) has a file of its own: its tensors and kind as fvg_head_write
   writes them, with the classes and the template beside them.

   The published trainers' own files (PyTorch's, fvgpt.h, chapter 5) hold only tensors: whoever
   loads one says what it is, by making the learner first. */

/* fvg_distill as words. */
static const char *const fvg__distill_name[] = {"published", "stable"};

#ifndef FVGPT_NO_TRAINING  /* files are read, not written */
/* ---- writing ---- */
/* Writes ["name", "name", ...] as a new string; NULL: memory is out. */
static char *fvg__names_json(fvg_ctx *c, const char *const *name, int n) {
  size_t size = 3;
  for (int i = 0; i < n; i++)
    size += 6 * strlen(name[i]) + 4;             /* an escaped character has 6 bytes at most      */
  fvg__text text;
  text.out = FVG_NEW_ARRAY(c, char, size);       /* all zeros, so the string ends by itself       */
  text.n = 0;
  if (!text.out) return NULL;

  fvg__text_put(&text, "[");
  for (int i = 0; i < n; i++) {
    if (i) fvg__text_put(&text, ", ");
    fvg__text_quoted(&text, name[i]);
  }
  fvg__text_put(&text, "]");
  return text.out;
}

/* The settings that a checkpoint has at most: 10 of the learner, 15 of FVG-PT, and the checksum. */
enum { FVG__OWN_SETTINGS = 10 + 15 + 1 };

/* What is to be written.  The tensors' data and most strings are borrowed. */
typedef struct fvg__checkpoint {
  fvg_named_tensor *tensor;           /* [n] the learner's, then FVG-PT's */
  int n;
  char *classes;                      /* the class names as JSON */
  char trainer[64];
  fvg_settings *settings;
} fvg__checkpoint;

static void fvg__checkpoint_free(fvg_ctx *c, fvg__checkpoint *k) {
  fvg_release(c, k->tensor);
  fvg_release(c, k->classes);
  fvg_release(c, k->settings);
}

/* Appends parameters, whose values must be finite; `file` is for messages. */
static fvg_status fvg__checkpoint_add(fvg_ctx *c, fvg__checkpoint *k, const char *file,
                                      fvg_parameter *const *param, int n) {
  for (int i = 0; i < n; i++) {
    const fvg_parameter *p = param[i];
    fvg_status s = fvg__check_finite(c, file, p, (const float *)p->value.data);
    if (s) return s;
    k->tensor[k->n].name = p->name;
    k->tensor[k->n].tensor = p->value;
    k->n++;
  }
  return FVG_OK;
}

/* Adds to the settings what the learner is made of. */
static void fvg__set_learner(fvg_settings *x, const fvg_learner *l) {
  fvg_settings_set(x, "class_token_position", fvg__position_name[l->desc.class_token_position]);
  fvg_settings_set(x, "prompt_template", l->prompt_template);
  fvg_settings_set(x, "ctx_words", l->words ? l->words : "");
  fvg_settings_set_number(x, "ctx_fixed", l->n_fixed);
  fvg_settings_set_number(x, "n_ctx", l->desc.n_ctx);
  fvg_settings_set_number(x, "class_specific", l->desc.class_specific);
  fvg_settings_set_number(x, "embed_dim", l->clip->embed_dim);
  for (int i = 0; l->method->option[i].name; i++)
    fvg__set_exact_number(x, l->method->option[i].name, l->option[i]);
}

/* Adds to the settings what FVG-PT is made of.  Published distillation and gates that see all
   indicators are not mentioned, as in older files. */
static void fvg__set_fvgpt(fvg_settings *x, const fvg_fvgpt_desc *d) {
  fvg_settings_set_number(x, "fdc_hidden", d->fdc_hidden);
  fvg_settings_set_number(x, "gate_hidden", d->gate_hidden);
  fvg_settings_set_number(x, "gate_layers", d->gate_layers);
  fvg_settings_set_number(x, "logit_scale", (double)d->logit_scale);
  fvg_settings_set_number(x, "tau", (double)d->tau);
  fvg_settings_set_number(x, "no_frg", d->no_frg);
  fvg_settings_set_number(x, "no_fdc", d->no_fdc);
  fvg_settings_set_number(x, "no_pc", d->no_pc);
  fvg_settings_set_number(x, "area_rule", d->area_rule);
  fvg_settings_set_number(x, "area_min", (double)d->area_min);
  fvg_settings_set_number(x, "area_max", (double)d->area_max);
  fvg_settings_set_number(x, "normalise_entropy", d->normalise_entropy);
  if (d->distill) fvg_settings_set(x, "distill", fvg__distill_name[d->distill]);
  if (d->frg_without) fvg_settings_set_number(x, "frg_without", d->frg_without);
  if (d->brg_without) fvg_settings_set_number(x, "brg_without", d->brg_without);
}

/* Collects tensors and settings; fvgpt may be NULL, and `file` is for messages.  Even after a
   failure the caller frees k. */
static fvg_status fvg__checkpoint_new(fvg__checkpoint *k, const char *file, const fvg_learner *l,
                                      const fvg_fvgpt *fvgpt, const fvg_metadata *settings,
                                      int n_settings) {
  fvg_ctx *c = l->clip->ctx;
  const int n_fvgpt = fvgpt ? fvgpt->n_params : 0;
  memset(k, 0, sizeof *k);
  fvg_status s = fvg__check_tuned(l->clip, NULL, fvgpt);
  if (s) return s;
  k->tensor = FVG_NEW_ARRAY(c, fvg_named_tensor, (size_t)(l->n_param + n_fvgpt));
  k->classes = fvg__names_json(c, (const char *const *)l->class_name, l->n_class);
  k->settings = FVG_NEW(c, fvg_settings);
  if (!k->tensor || !k->classes || !k->settings)
    return FVG_E_NOMEM;

  int room = (int)FVG_MAX_SETTINGS - (int)FVG__OWN_SETTINGS;
  for (int i = 0; l->method->option[i].name; i++)
    room--;
  if (n_settings > 0 && !settings)
    return fvg__missing(c, file, "the settings");
  if (n_settings > room)
    return fvg_fail(c, FVG_E_ARG, "%s: %d settings, %d is the limit", file, n_settings, room);

  s = fvg__checkpoint_add(c, k, file, l->param, l->n_param);
  if (!s && fvgpt) s = fvg__checkpoint_add(c, k, file, fvgpt->params, fvgpt->n_params);
  if (s) return s;

  fvg__print(k->trainer, sizeof k->trainer, "%s%s", fvgpt ? "FVGPT_" : "", l->method->name);
  fvg_settings_set(k->settings, "format", "fvgpt 1");
  fvg_settings_set(k->settings, "trainer", k->trainer);
  fvg_settings_set(k->settings, "classes", k->classes);
  fvg__set_learner(k->settings, l);
  if (fvgpt) fvg__set_fvgpt(k->settings, &fvgpt->desc);
  for (int i = 0; i < n_settings; i++)
    fvg_settings_set(k->settings, settings[i].key, settings[i].value);
  return FVG_OK;
}

/* Writes a checkpoint to the file `path`, or if that is NULL through `write`. */
static fvg_status fvg__checkpoint_put(fvg_learner *l, fvg_fvgpt *fvgpt, const char *path,
                                      fvg_write_fn write, void *user,
                                      const fvg_metadata *settings, int n_settings) {
  fvg_ctx *c = l->clip->ctx;
  const char *file = path ? path : "checkpoint";
  fvg__checkpoint k;
  fvg_status s = fvg__checkpoint_new(&k, file, l, fvgpt, settings, n_settings);
  if (!s) s = fvg__put_checked(c, path, write, user, k.tensor, k.n, k.settings);
  fvg__checkpoint_free(c, &k);
  return s;
}

FVG_DEF fvg_status fvg_checkpoint_write(fvg_learner *l, fvg_fvgpt *fvgpt, fvg_write_fn write,
                                        void *user, const fvg_metadata *settings,
                                        int n_settings) {
  if (!l) return fvg__missing(fvgpt ? fvgpt->ctx : NULL, "checkpoint", "a learner");
  if (write)
    return fvg__checkpoint_put(l, fvgpt, NULL, write, user, settings, n_settings);
  return fvg_fail(l->clip->ctx, FVG_E_ARG,
                  "checkpoint: there is no function to write it with");
}

#ifndef FVGPT_NO_STDIO
FVG_DEF fvg_status fvg_checkpoint_save(fvg_learner *l, fvg_fvgpt *fvgpt, const char *path,
                                       const fvg_metadata *settings, int n_settings) {
  if (!l) return fvg__missing(fvgpt ? fvgpt->ctx : NULL, "checkpoint", "a learner");
  if (path) return fvg__checkpoint_put(l, fvgpt, path, NULL, NULL, settings, n_settings);
  return fvg_fail(l->clip->ctx, FVG_E_ARG, "checkpoint: no path to save it at");
}
#endif
#endif /* FVGPT_NO_TRAINING */

/* ---- reading: the learner ---- */
/* Returns the position of that name, or -1. */
static int fvg__position_of(const char *name) {
  int i = FVG_FRONT;
  while (i >= 0 && strcmp(name, fvg__position_name[i])) i--;
  return i;
}

/* Returns the method that a trainer's name means, with or without FVG-PT; NULL: unknown. */
static const fvg_method *fvg__method_of_trainer(const char *trainer) {
  return fvg_method_find(strncmp(trainer, "FVGPT_", 6) ? trainer : trainer + 6);
}

/* Reads the settings that are words: the method, and where the class name stands. */
static fvg_status fvg__read_words(fvg_ctx *c, const fvg_weights *w, fvg_learner_desc *d) {
  const char *file = fvg_weights_file(w);
  const char *format = fvg_weights_metadata(w, "format");
  const char *trainer = fvg_weights_metadata(w, "trainer");
  const char *position = fvg_weights_metadata(w, "class_token_position");
  if (!format || !trainer || !position || !fvg_weights_metadata(w, "classes"))
    return fvg_fail(c, FVG_E_FORMAT,
                    "%s: not a checkpoint of tuned prompts (no format, trainer, classes and "
                    "class_token_position)",
                    file);
  if (strcmp(format, "fvgpt 1"))
    return fvg_fail(c, FVG_E_FORMAT, "%s: format \"%.40s\", only \"fvgpt 1\" is known",
                    file, format);

  d->method = fvg__method_of_trainer(trainer);
  if (!d->method)
    return fvg_fail(c, FVG_E_FORMAT, "%s: trainer \"%.40s\" is not known", file, trainer);

  int at = fvg__position_of(position);
  if (at < 0)
    return fvg_fail(c, FVG_E_FORMAT,
                    "%s: class_token_position \"%.40s\" is not end, middle or front",
                    file, position);
  d->class_token_position = (fvg_position)at;
  d->prompt_template = fvg_weights_metadata(w, "prompt_template");
  d->ctx_init = fvg_weights_metadata(w, "ctx_words");
  return FVG_OK;
}

/* Reads from the metadata what the learner is made of; its options go to option
   [FVG_RECIPE_OPTIONS]. */
static fvg_status fvg__read_desc(fvg_clip *m, const fvg_weights *w, fvg_learner_desc *d,
                                 fvg_option *option) {
  fvg_ctx *c = m->ctx;
  memset(d, 0, sizeof *d);
  fvg_status s = fvg__read_words(c, w, d);

  int width;
  if (!s) s = fvg__get_whole(c, w, "embed_dim", 1, &width);
  if (s) return s;
  if (width != m->embed_dim)
    return fvg_fail(c, FVG_E_SHAPE, "%s: tuned on a CLIP of width %d, this one has %d",
                    fvg_weights_file(w), width, m->embed_dim);

  s = fvg__get_whole(c, w, "n_ctx", d->method->n_ctx ? 1 : 0, &d->n_ctx);
  if (!s) s = fvg__get_whole(c, w, "class_specific", 0, &d->class_specific);

  d->option = option;
  while (!s) {
    fvg_option *o = &option[d->n_option];
    double low, high;
    if (!fvg_method_option(d->method, o, &low, &high, d->n_option))
      break;
    s = fvg__get_number(c, w, o->name, &o->value);
    d->n_option++;
  }
  return s;
}

/* Reads how many tokens of the words stay fixed.  Older files lack this setting: there, the words
   of methods that have some by default kept what came after n_ctx tokens, and the other methods
   learned every token. */
static fvg_status fvg__read_fixed(fvg_clip *m, const fvg_weights *w, const fvg_learner_desc *d,
                                  int *n_fixed) {
  *n_fixed = 0;
  if (fvg_weights_metadata(w, "ctx_fixed"))
    return fvg__get_whole(m->ctx, w, "ctx_fixed", 0, n_fixed);
  if (!d->method->ctx_init || !d->ctx_init || !d->ctx_init[0])
    return FVG_OK;

  int n = 0;
  fvg_status s = fvg_tokenize(m->tokenizer, NULL, 0, &n, d->ctx_init);
  if (s || n <= d->n_ctx) return s;
  *n_fixed = n - d->n_ctx;
  if (d->class_token_position == FVG_END) return FVG_OK;
  return fvg_fail(m->ctx, FVG_E_UNSUPPORTED,
                  "%s: words are left over of \"%.80s\" beside a name that is not at the end; "
                  "their order has changed since, tune it again",
                  fvg_weights_file(w), d->ctx_init);
}

/* Reads the class names: *name is an array to release, its *n strings stay in `j`, which is freed
   after it. */
static fvg_status fvg__read_class_names(fvg_ctx *c, const fvg_weights *w, fvg_json *j,
                                        const char ***name, int *n) {
  const char *file = fvg_weights_file(w), *classes = fvg_weights_metadata(w, "classes");
  *name = NULL;
  *n = 0;
  fvg_status s = fvg_json_parse(c, j, classes, strlen(classes), file);
  if (s) return s;

  const fvg_json_value *list = &j->value[0];
  if (list->type != FVG_JSON_ARRAY || list->n_child < 1)
    return fvg_fail(c, FVG_E_FORMAT, "%s: classes must be a list of names", file);
  *name = FVG_NEW_ARRAY(c, const char *, (size_t)list->n_child);
  if (!*name) return FVG_E_NOMEM;

  for (int i = list->first; i >= 0; i = j->value[i].next) {
    if (j->value[i].type != FVG_JSON_STRING)
      return fvg_fail(c, FVG_E_FORMAT, "%s: classes[%d] is not a string", file, *n);
    (*name)[*n] = j->value[i].string;
    ++*n;
  }
  return FVG_OK;
}

/* Prefixes an error with the checkpoint's name, unless it has it already. */
static fvg_status fvg__name_file(fvg_ctx *c, const fvg_weights *w, fvg_status s) {
  if (!s || s == FVG_E_NOMEM || strstr(c->message, fvg_weights_file(w))) return s;
  char said[sizeof c->message];
  memcpy(said, c->message, sizeof said);
  return fvg_fail(c, s, "%s: %s", fvg_weights_file(w), said);
}

/* Widens the limit of memory by what n classes take that the file names in a few bytes each: plain
   CLIP's features of them, their tokens, and copies of their names. */
static void fvg__allow_classes(const fvg_clip *m, int n) {
  size_t *most = &m->ctx->budget.most;
  const size_t values = (size_t)m->embed_dim + 2 * (size_t)m->text.context_length;
  const size_t bytes = (size_t)n * (values * sizeof(float) + 512);
  if (*most && bytes < (size_t)-1 / 2 - *most) *most += bytes;
}

/* Builds the learner and fills its parameters. */
static fvg_status fvg__restore_learner(fvg_clip *m, fvg_weights *w, fvg_learner **out) {
  fvg_option option[FVG_RECIPE_OPTIONS];
  fvg_learner_desc desc;
  fvg_status s = fvg__read_desc(m, w, &desc, option);
  int n_fixed = 0;
  if (!s && m->tokenizer) s = fvg__read_fixed(m, w, &desc, &n_fixed);
  if (s) return s;

  fvg_json j;
  memset(&j, 0, sizeof j);
  const char **name;
  int n;
  s = fvg__read_class_names(m->ctx, w, &j, &name, &n);
  if (!s) {
    fvg__allow_classes(m, n);
    s = fvg__learner_new(m, out, &desc, name, n, w, n_fixed);
  }
  fvg_release(m->ctx, (void *)name);
  fvg_json_free(m->ctx, &j);
  if (s) return fvg__name_file(m->ctx, w, s);

  fvg_learner *l = *out;
  for (int i = 0; !s && i < l->n_param; i++)
    s = fvg__restore(m->ctx, w, l->param[i]);
  return s;
}

/* ---- reading: FVG-PT ---- */
/* Reads a whole number that older files lack; *out stays as it is then. */
FVG__APART static fvg_status fvg__get_newer(fvg_ctx *c, const fvg_weights *w, const char *key,
                                            int *out) {
  return fvg_weights_metadata(w, key) ? fvg__get_whole(c, w, key, 0, out) : FVG_OK;
}

/* Reads the rule for the areas of masks, which older files lack. */
static fvg_status fvg__read_area(fvg_ctx *c, const fvg_weights *w, fvg_fvgpt_desc *d) {
  if (!fvg_weights_metadata(w, "area_rule")) return FVG_OK;
  int rule = 0;
  double least = 0, most = 0;
  fvg_status s = fvg__get_whole(c, w, "area_rule", 0, &rule);
  if (!s) s = fvg__get_number(c, w, "area_min", &least);
  if (!s) s = fvg__get_number(c, w, "area_max", &most);
  if (s) return s;

  if (rule > FVG_AREA_IGNORE || !(least >= 0 && least <= most && most <= 1))
    return fvg_fail(c, FVG_E_FORMAT,
                    "%s: area_rule %d, area_min %g, area_max %g make no sense",
                    fvg_weights_file(w), rule, least, most);
  d->area_rule = (fvg_area_rule)rule;
  d->area_min = (float)least;
  d->area_max = (float)most;
  return FVG_OK;
}

/* Reads how the adapters were trained, which files do not mention if it was as published. */
static fvg_status fvg__read_distill(fvg_ctx *c, const fvg_weights *w, fvg_fvgpt_desc *d) {
  const char *word = fvg_weights_metadata(w, "distill");
  if (!word) return FVG_OK;
  int at = FVG_DISTILL_STABLE;
  while (at >= 0 && strcmp(word, fvg__distill_name[at])) at--;
  if (at < 0)
    return fvg_fail(c, FVG_E_FORMAT, "%s: distill \"%.40s\" is not published or stable",
                    fvg_weights_file(w), word);
  d->distill = (fvg_distill)at;
  return FVG_OK;
}

/* Reads which indicators a gate was trained without, which files do not mention if it saw all. */
static fvg_status fvg__read_without(fvg_ctx *c, const fvg_weights *w, const char *key, int *out) {
  fvg_status s = fvg__get_newer(c, w, key, out);
  if (s || *out <= FVG_U_ALL) return s;
  return fvg_fail(c, FVG_E_FORMAT, "%s: %s is %d, 0 to %d are possible", fvg_weights_file(w), key,
                  *out, FVG_U_ALL);
}

/* Reads from the metadata what FVG-PT is made of. */
static fvg_status fvg__read_fvgpt_desc(fvg_clip *m, const fvg_weights *w, fvg_fvgpt_desc *d) {
  static const char *const size_key[] = {"fdc_hidden", "gate_hidden", "gate_layers"};
  static const char *const flag_key[] = {"no_frg", "no_fdc", "no_pc", "normalise_entropy"};
  int *const size[] = {&d->fdc_hidden, &d->gate_hidden, &d->gate_layers};
  int *const flag[] = {&d->no_frg, &d->no_fdc, &d->no_pc, &d->normalise_entropy};

  fvg_ctx *c = m->ctx;
  double logit_scale = 0, tau = 0;
  memset(d, 0, sizeof *d);
  d->width = m->embed_dim;

  fvg_status s = fvg__get_number(c, w, "logit_scale", &logit_scale);
  if (!s) s = fvg__get_number(c, w, "tau", &tau);
  for (int i = 0; !s && i < 3; i++) s = fvg__get_whole(c, w, size_key[i], 1, size[i]);
  for (int i = 0; !s && i < 4; i++) s = fvg__get_newer(c, w, flag_key[i], flag[i]);
  if (!s) s = fvg__read_area(c, w, d);
  if (!s) s = fvg__read_distill(c, w, d);
  if (!s) s = fvg__read_without(c, w, "frg_without", &d->frg_without);
  if (!s) s = fvg__read_without(c, w, "brg_without", &d->brg_without);
  if (s) return s;

  if (!(logit_scale > 0 && logit_scale < 1e6 && tau > 0 && tau < 1e6))
    return fvg_fail(c, FVG_E_FORMAT,
                    "%s: logit_scale %g and tau %g must be positive and below 1e6",
                    fvg_weights_file(w), logit_scale, tau);
  if (d->gate_layers > FVG__MAX_GATE_LAYERS)
    return fvg_fail(c, FVG_E_FORMAT, "%s: gate_layers is %d, 1 to %d are possible",
                    fvg_weights_file(w), d->gate_layers, FVG__MAX_GATE_LAYERS);
  d->logit_scale = (float)logit_scale;
  d->tau = (float)tau;
  return FVG_OK;
}

/* Builds FVG-PT and fills its parameters; *out stays NULL if the file has none. */
static fvg_status fvg__restore_fvgpt(fvg_clip *m, fvg_weights *w, fvg_fvgpt **out) {
  const char *trainer = fvg_weights_metadata(w, "trainer");
  if (!trainer || strncmp(trainer, "FVGPT_", 6)) return FVG_OK;

  fvg_fvgpt_desc desc;
  fvg_status s = fvg__read_fvgpt_desc(m, w, &desc);
  if (!s) s = fvg__fvgpt_new(m->ctx, out, &desc, w);
  if (s) return s;

  fvg_fvgpt *fvgpt = *out;
  for (int i = 0; !s && i < fvgpt->n_params; i++)
    s = fvg__restore(m->ctx, w, fvgpt->params[i]);
  return s;
}

/* ---- reading: the whole file ---- */
static int fvg__has_parameter(fvg_parameter *const *list, int n, const char *name) {
  for (int i = 0; i < n; i++)
    if (!strcmp(list[i]->name, name)) return 1;
  return 0;
}

/* Each tensor of the file must be one of the parameters: else the settings are not those that it
   was made with. */
static fvg_status fvg__nothing_left(const fvg_weights *w, const fvg_learner *l,
                                    const fvg_fvgpt *fvgpt) {
  for (int i = 0; i < fvg_weights_count(w); i++) {
    const char *name = fvg_weights_name(w, i);
    if (fvg__has_parameter(l->param, l->n_param, name)) continue;
    if (fvgpt && fvg__has_parameter(fvgpt->params, fvgpt->n_params, name))
      continue;
    return fvg_fail(l->clip->ctx, FVG_E_FORMAT,
                    "%s: tensor %.100s belongs to nothing that the settings name",
                    fvg_weights_file(w), name);
  }
  return FVG_OK;
}

/* Builds all that the file holds, within a budget of memory that its size allows. */
static fvg_status fvg__restore_checkpoint(fvg_clip *m, fvg_weights *w, fvg_learner **l,
                                          fvg_fvgpt **fvgpt) {
  uint64_t bytes = fvg__weights_bytes(w);
  fvg__budget budget;
  fvg__budget_begin(m->ctx, &budget, fvg_weights_file(w), bytes);
  fvg_status s = fvg__weights_verify(w);
  if (!s) s = fvg__restore_learner(m, w, l);
  if (!s) s = fvg__restore_fvgpt(m, w, fvgpt);
  if (!s) s = fvg__nothing_left(w, *l, *fvgpt);
  fvg__budget_end(m->ctx, &budget);
  return s;
}

/* Empties the places of what is to be read. */
FVG__APART static fvg_status fvg__checkpoint_places(fvg_clip *m, fvg_learner **l,
                                                    fvg_fvgpt **fvgpt, fvg_weights **settings) {
  if (!m) return FVG_E_ARG;
  if (!l || !fvgpt)
    return fvg__missing(m->ctx, "checkpoint", "places for the learner and FVG-PT");
  *l = NULL;
  *fvgpt = NULL;
  if (settings) *settings = NULL;
  return FVG_OK;
}

/* Closes a source that a call took over and cannot read: so does opening it in no place. */
FVG__APART static fvg_status fvg__close_unread(const fvg_source *source) {
  return fvg_weights_open(NULL, NULL, source);
}

/* On failure nothing stays, and the source is closed. */
FVG_DEF fvg_status fvg_checkpoint_read(fvg_clip *m, fvg_learner **l, fvg_fvgpt **fvgpt,
                                       fvg_weights **settings, const fvg_source *source) {
  fvg_status s = fvg__checkpoint_places(m, l, fvgpt, settings);
  if (s) return fvg__close_unread(source);

  fvg_weights *w = NULL;
  s = fvg_weights_open(m->ctx, &w, source);
  if (!s) s = fvg__restore_checkpoint(m, w, l, fvgpt);
  if (s) {
    fvg_learner_free(*l);
    fvg_fvgpt_free(*fvgpt);
    *l = NULL;
    *fvgpt = NULL;
  }
  if (!s && settings) *settings = w;
  else fvg_weights_close(w);
  return s;
}

#ifndef FVGPT_NO_STDIO
FVG_DEF fvg_status fvg_checkpoint_load(fvg_clip *m, fvg_learner **l, fvg_fvgpt **fvgpt,
                                       fvg_weights **settings, const char *path) {
  fvg_status s = fvg__checkpoint_places(m, l, fvgpt, settings);
  if (s) return s;
  if (!path)
    return fvg_fail(m->ctx, FVG_E_ARG, "checkpoint: no path to load it from");

  fvg_source source;
  s = fvg_source_file(m->ctx, &source, path);
  return s ? s : fvg_checkpoint_read(m, l, fvgpt, settings, &source);
}
#endif

#ifndef FVGPT_NO_TRAINING  /* writing */
/* ---- heads ---- */
static fvg_status fvg__check_head_checkpoint(const fvg_clip *m, const fvg_head_checkpoint *x) {
  if (!x || !x->head || !x->class_name)
    return fvg__missing(m->ctx, "head checkpoint", "a head and the names of its classes");
  const fvg_head *h = x->head;
  if (h->width == m->embed_dim && h->n_class == x->n_class) return FVG_OK;
  return fvg_fail(m->ctx, FVG_E_SHAPE, "head checkpoint: the %s has %d classes and width %d, not "
                  "%d and %d", h->method->name, h->n_class, h->width, x->n_class, m->embed_dim);
}

/* The settings of a head's file; the names go to *classes, to be released when it is written. */
static fvg_status fvg__head_settings(const fvg_clip *m, fvg_settings *to, char **classes,
                                     const fvg_head_checkpoint *x, const fvg_metadata *settings,
                                     int n_settings) {
  fvg_status s = fvg__check_head_checkpoint(m, x);
  if (s) return s;
  if (n_settings > 0 && !settings) return fvg__missing(m->ctx, "head checkpoint", "the settings");
  if (n_settings > FVG_MAX_SETTINGS - 4)
    return fvg_fail(m->ctx, FVG_E_ARG, "head checkpoint: %d settings, %d is the limit", n_settings,
                    FVG_MAX_SETTINGS - 4);

  *classes = fvg__names_json(m->ctx, x->class_name, x->n_class);
  if (!*classes) return FVG_E_NOMEM;
  fvg_settings_set(to, "format", "fvgpt 1");
  fvg_settings_set(to, "classes", *classes);
  fvg_settings_set(to, "prompt_template", x->prompt_template ? x->prompt_template : "");
  fvg_settings_set_number(to, "embed_dim", m->embed_dim);
  for (int i = 0; i < n_settings; i++)
    fvg_settings_set(to, settings[i].key, settings[i].value);
  return FVG_OK;
}

/* Writes a head to the file `path`, or if to_file is 0 through `write`. */
static fvg_status fvg__head_put(fvg_clip *m, int to_file, const char *path, fvg_write_fn write,
                                void *user, const fvg_head_checkpoint *x,
                                const fvg_metadata *settings, int n_settings) {
  if (!m) return FVG_E_ARG;
  char *classes = NULL;
  fvg_settings *all = FVG_NEW(m->ctx, fvg_settings);
  fvg_status s = FVG_E_NOMEM;
  if (all) s = fvg__head_settings(m, all, &classes, x, settings, n_settings);
#ifndef FVGPT_NO_STDIO
  if (!s && to_file) s = fvg_head_save(x->head, path, all->entry, all->n);
#endif
  (void)path;
  if (!s && !to_file) s = fvg_head_write(x->head, write, user, all->entry, all->n);
  fvg_release(m->ctx, classes);
  fvg_release(m->ctx, all);
  return s;
}

FVG_DEF fvg_status fvg_head_checkpoint_write(fvg_clip *m, fvg_write_fn write, void *user,
                                             const fvg_head_checkpoint *x,
                                             const fvg_metadata *settings, int n_settings) {
  return fvg__head_put(m, 0, NULL, write, user, x, settings, n_settings);
}

#ifndef FVGPT_NO_STDIO
FVG_DEF fvg_status fvg_head_checkpoint_save(fvg_clip *m, const char *path,
                                            const fvg_head_checkpoint *x,
                                            const fvg_metadata *settings, int n_settings) {
  return fvg__head_put(m, 1, path, NULL, NULL, x, settings, n_settings);
}
#endif
#endif /* FVGPT_NO_TRAINING */

FVG_DEF void fvg_head_checkpoint_free(fvg_clip *m, fvg_head_checkpoint *x) {
  if (!x) return;
  fvg_head_free(x->head);
  fvg_release(m->ctx, (void *)x->class_name);
  fvg_json_free(m->ctx, &x->names);
  fvg_weights_close(x->settings);
  memset(x, 0, sizeof *x);
}

/* Fills *x from the file that it has open. */
static fvg_status fvg__restore_head(fvg_clip *m, fvg_head_checkpoint *x) {
  fvg_ctx *c = m->ctx;
  const fvg_weights *w = x->settings;
  const char *file = fvg_weights_file(w), *format = fvg_weights_metadata(w, "format");
  x->prompt_template = fvg_weights_metadata(w, "prompt_template");
  if (!fvg_weights_metadata(w, "head") || !format || !x->prompt_template ||
      !fvg_weights_metadata(w, "classes"))
    return fvg_fail(c, FVG_E_FORMAT, "%s: not the checkpoint of a head (no head, format, classes "
                    "and prompt_template)", file);
  if (strcmp(format, "fvgpt 1"))
    return fvg_fail(c, FVG_E_FORMAT, "%s: format \"%.40s\", only \"fvgpt 1\" is known", file,
                    format);

  const char **name = NULL;
  fvg_status s = fvg__read_class_names(c, w, &x->names, &name, &x->n_class);
  x->class_name = name;
  if (!s) s = fvg_head_read(c, &x->head, x->settings);
  if (s) return s;
  if (x->head->width != m->embed_dim)
    return fvg_fail(c, FVG_E_SHAPE, "%s: fitted on a CLIP of width %d, this one has %d", file,
                    x->head->width, m->embed_dim);
  if (x->head->n_class == x->n_class) return FVG_OK;
  return fvg_fail(c, FVG_E_FORMAT, "%s: %d class names, the %s has %d classes", file, x->n_class,
                  x->head->method->name, x->head->n_class);
}

FVG_DEF fvg_status fvg_head_checkpoint_read(fvg_clip *m, fvg_head_checkpoint *out,
                                            const fvg_source *source) {
  if (!out) {
    fvg__missing(m->ctx, "head checkpoint", "a place for it");
    return fvg__close_unread(source);
  }
  memset(out, 0, sizeof *out);

  fvg_status s = fvg_weights_open(m->ctx, &out->settings, source);
  if (s) return s;
  const uint64_t bytes = fvg__weights_bytes(out->settings);
  fvg__budget budget;
  fvg__budget_begin(m->ctx, &budget, fvg_weights_file(out->settings), bytes);
  s = fvg__restore_head(m, out);
  fvg__budget_end(m->ctx, &budget);
  if (s) fvg_head_checkpoint_free(m, out);
  return s;
}

#ifndef FVGPT_NO_STDIO
FVG_DEF fvg_status fvg_head_checkpoint_load(fvg_clip *m, fvg_head_checkpoint *out,
                                            const char *path) {
  if (!out) return fvg__missing(m->ctx, "head checkpoint", "a place for it");
  memset(out, 0, sizeof *out);
  if (!path) return fvg__missing(m->ctx, "head checkpoint", "the path to load it from");

  fvg_source source;
  fvg_status s = fvg_source_file(m->ctx, &source, path);
  return s ? s : fvg_head_checkpoint_read(m, out, &source);
}
#endif

/* ---- values alone ---- */
/* Reads all values before the first is changed, so that nothing is half done: read [n_param]
   receives them. */
static fvg_status fvg__read_values(fvg_ctx *c, fvg_weights *w, const fvg_learner *l,
                                   fvg_parameter *read) {
  for (int i = 0; i < l->n_param; i++) {
    size_t n = fvg_tensor_count(&l->param[i]->value);
    read[i].name = l->param[i]->name;
    read[i].value = l->param[i]->value;
    read[i].value.data = fvg_alloc_array(c, n, sizeof(float));
    if (!read[i].value.data) return FVG_E_NOMEM;
    fvg_status s = fvg__restore(c, w, &read[i]);
    if (s) return s;
  }
  return FVG_OK;
}

/* Copies the values once all of them are there; the source is closed with w. */
FVG_DEF fvg_status fvg_learner_read(fvg_learner *l, const fvg_source *source) {
  if (!l) return fvg__close_unread(source);
  fvg_ctx *c = l->clip->ctx;

  fvg_weights *w;
  fvg_status s = fvg_weights_open_any(c, &w, source);
  if (s) return s;
  fvg_parameter *read = FVG_NEW_ARRAY(c, fvg_parameter, (size_t)l->n_param);
  s = read ? fvg__read_values(c, w, l, read) : FVG_E_NOMEM;

  for (int i = 0; read && i < l->n_param; i++) {
    fvg_tensor *value = &l->param[i]->value;
    if (!s) memcpy(value->data, read[i].value.data, fvg_tensor_count(value) * sizeof(float));
    fvg_release(c, read[i].value.data);
  }
  fvg_release(c, read);
  fvg_weights_close(w);
  return s;
}

#ifndef FVGPT_NO_STDIO
FVG_DEF fvg_status fvg_learner_load(fvg_learner *l, const char *path) {
  if (!l) return FVG_E_ARG;
  fvg_ctx *c = l->clip->ctx;
  if (!path)
    return fvg_fail(c, FVG_E_ARG, "%s: no path to load it from", l->method->name);

  fvg_source source;
  fvg_status s = fvg_source_file(c, &source, path);
  return s ? s : fvg_learner_read(l, &source);
}
#endif

#ifndef FVGPT_NO_TRAINING  /* what runs compare */
/* ---- what a learner was made from ---- */
FVG_DEF void fvg_learner_made_from(const fvg_learner *l, fvg_learner_desc *out,
                                   fvg_option *option) {
  if (!out) return;
  *out = l->desc;
  out->method = l->method;
  out->ctx_init = l->words ? l->words : "";      /* NULL would be the method's own words */
  out->prompt_template = l->prompt_template;
  out->option = option;
  out->n_option = 0;
  for (int i = 0; option && l->method->option[i].name; i++) {
    option[i].name = l->method->option[i].name;
    option[i].value = l->option[i];
    out->n_option++;
  }
}

/* Tests whether two learners have the same number and shape of context vectors, at one place. */
static int fvg__same_context(const fvg_learner *a, const fvg_learner *b) {
  return a->desc.n_ctx == b->desc.n_ctx && a->desc.class_specific == b->desc.class_specific &&
         a->desc.class_token_position == b->desc.class_token_position && a->n_fixed == b->n_fixed;
}

FVG_DEF const char *fvg_learner_difference(const fvg_learner *have, const fvg_learner *want) {
  if (have->method != want->method) return "by another method";
  if (have->n_class != want->n_class) return "on other classes";
  for (int i = 0; i < want->n_class; i++) {
    if (!fvg_same_name(want->clip->ctx, have->class_name[i], want->class_name[i]))
      return "on other classes";
  }
  if (!fvg__same_context(have, want)) return "with another shape of context";

  const char *words = have->words ? have->words : "";
  if (strcmp(words, want->words ? want->words : "")) return "from other words";

  /* The template counts where the method's loss or its prompts are made of it. */
  int uses_template = want->g_clip || !want->method->n_ctx;
  if (uses_template && strcmp(have->prompt_template, want->prompt_template))
    return "with another template";

  for (int i = 0; want->method->option[i].name; i++) {
    if (have->option[i] != want->option[i]) return "with other options of the method";
  }
  return NULL;
}
#endif /* FVGPT_NO_TRAINING */

/*==================================================================================================
 * CHAPTER 37  CLASSIFIERS: from a picture to an answer
 *==================================================================================================
   A classifier scores pictures for a list of classes in one of five ways.  s is CLIP's logit scale;
   f, f_clip, g and g_clip have unit length; f_score of MMRL and MMRL++ is alpha f + (1 - alpha) f_r
   and shorter, with other methods it is f:

     zero-shot           s f_clip g_clip^T
     tuned               s f_score g^T          classes that the learner was tuned on
     tuned, new          s f g^T                classes that are new to it
     FVG-PT's base       z_FDC(f, g)                  fvg_fvgpt_score_base
     FVG-PT's new        z_PC(f, f_clip, g, g_clip)   fvg_fvgpt_score_new

   A head (DePT) has a share in the second and the fourth.

   At once.  What most programs want of CLIP: which of these names suits this picture, and what is
   its feature?  Each function is the chain of earlier chapters, written out once:

     file -> pixels -> test transform -> normalised floats -> image tower -> feature row -> logits
     -> softmax

   fvg_open hides the context.  A model that could not be opened remembers why (m->failed), and
   every function here asks for that first: the error is then the first one, not one that follows
   from it. */

/* ---- classifiers ---- */
struct fvg_classifier {
  fvg_clip *clip;
  fvg_learner *learner;       /* NULL: features of zero-shot CLIP                               */
  fvg_fvgpt *fvgpt;           /* NULL unless the branch is one of FVG-PT's                      */
  fvg_head *head;             /* scores in the place of FVG_ZERO_SHOT; NULL: none               */
  fvg_branch branch;
  int n_class;
  float *g, *g_clip;          /* [n_class, embed_dim] text features of the learner and of CLIP  */
  float *g_background;        /* [n_background, embed_dim] of background words; NULL: not yet   */
  int n_background;           /* negative: relevance is against the other classes               */
  float *head_weight;         /* [n_class, embed_dim] of a method's head; NULL: it has no share */
  float *head_bias;           /* [n_class]                                                      */
  float head_share;
  fvg__packed packed;         /* the classes, for methods whose words depend on the picture     */
};

/* Fails unless everything that the branch needs is there, and fits. */
static fvg_status fvg__check_branch(const fvg_clip *m, fvg_branch branch, const fvg_learner *l,
                                    const fvg_fvgpt *fvgpt) {
  if (branch != FVG_ZERO_SHOT && !l)
    return fvg_fail(m->ctx, FVG_E_ARG, "this branch needs tuned prompts");
  if (branch >= FVG_BRANCH_BASE && !fvgpt)
    return fvg_fail(m->ctx, FVG_E_ARG, "this branch needs FVG-PT's modules");
  return fvg__check_tuned(m, l, fvgpt);
}

/* Fails unless the head, if there is one, can score these classes. */
static fvg_status fvg__check_scoring_head(const fvg_clip *m, const fvg_classifier_desc *d,
                                          int n_class) {
  const fvg_head *h = d->head;
  if (!h) return FVG_OK;
  if (d->branch != FVG_ZERO_SHOT || h->ctx != m->ctx)
    return fvg_fail(m->ctx, FVG_E_ARG, "a %s scores in the place of zero-shot CLIP, in the context "
                    "that it was made in", h->method->name);
  if (h->width == m->embed_dim && h->n_class == n_class) return FVG_OK;
  return fvg_fail(m->ctx, FVG_E_SHAPE, "a %s for %d classes and features of width %d cannot score "
                  "%d classes and width %d", h->method->name, h->n_class, h->width, n_class,
                  m->embed_dim);
}

/* The text features of zero-shot CLIP: of one template, or the mean over several. */
static fvg_status fvg__zero_shot_texts(fvg_classifier *k, const fvg_classifier_desc *d,
                                       const char *const *class_name) {
  fvg_clip *m = k->clip;
  if (!d->ensemble || d->n_ensemble < 1)
    return fvg_clip_encode_classes(m, k->g_clip, d->prompt_template, class_name, k->n_class);

  const char **all = FVG_NEW_ARRAY(m->ctx, const char *, (size_t)d->n_ensemble + 1);
  if (!all) return FVG_E_NOMEM;
  memcpy((void *)all, d->ensemble, (size_t)d->n_ensemble * sizeof *all);
  all[d->n_ensemble] = d->prompt_template;
  const int n = d->n_ensemble + (d->prompt_template != NULL);
  fvg_status s = fvg_clip_encode_ensemble(m, k->g_clip, all, n, class_name, k->n_class);
  fvg_release(m->ctx, (void *)all);
  return s;
}

/* Makes of the classes what the branch needs: text features, or tokens for a method that writes
   other words for every picture. */
static fvg_status fvg__classifier_texts(fvg_classifier *k, const fvg_classifier_desc *d,
                                        const char *const *class_name) {
  fvg_learner *l = k->learner;
  const int n = k->n_class;
  const int needs_clip = k->branch == FVG_ZERO_SHOT || k->branch == FVG_BRANCH_NEW;
  fvg_status s = FVG_OK;

  if (k->branch != FVG_ZERO_SHOT) {
    if (l->method->scores && k->branch < FVG_BRANCH_BASE)
      s = fvg__learner_pack(l, &k->packed, class_name, n);
    else
      s = fvg_learner_text_features(l, k->g, class_name, n);
  }
  return s || !needs_clip ? s : fvg__zero_shot_texts(k, d, class_name);
}

/* Takes from the head of all training classes, all_weight [C,d] and all_bias [C], the rows of the
   classifier's own.  FVG_E_UNSUPPORTED for a class that it has no row of. */
static fvg_status fvg__choose_head(fvg_classifier *k, const char *const *class_name,
                                   const int *match, const float *all_weight,
                                   const float *all_bias) {
  const fvg_learner *l = k->learner;
  const size_t bytes = (size_t)k->clip->embed_dim * sizeof *all_weight;
  for (int i = 0; i < k->n_class; i++) {
    if (match[i] < 0)
      return fvg_fail(k->clip->ctx, FVG_E_UNSUPPORTED,
                      "%s: \"%.80s\" is not one of the %d classes that its head was trained on; "
                      "score the list as new classes", l->method->name, class_name[i], l->n_class);
    memcpy(k->head_weight + fvg__row(i, k->clip->embed_dim),
           all_weight + fvg__row(match[i], k->clip->embed_dim), bytes);
    k->head_bias[i] = all_bias[match[i]];
  }
  return FVG_OK;
}

/* Makes the head's rows of the classes, if the branch scores what the learner was tuned on. */
static fvg_status fvg__classifier_head(fvg_classifier *k, const char *const *class_name) {
  fvg_learner *l = k->learner;
  fvg_ctx *c = k->clip->ctx;
  const int is_seen = k->branch == FVG_TUNED || k->branch == FVG_BRANCH_BASE;
  if (!is_seen || !l->method->head) return FVG_OK;

  const int d = k->clip->embed_dim;
  const char *const *known = (const char *const *)l->class_name;
  int *match = FVG_NEW_ARRAY(c, int, (size_t)k->n_class);
  float *weight = FVG_NEW_ARRAY(c, float, fvg__row(l->n_class, d));
  float *bias = FVG_NEW_ARRAY(c, float, (size_t)l->n_class);
  k->head_weight = FVG_NEW_ARRAY(c, float, fvg__row(k->n_class, d));
  k->head_bias = FVG_NEW_ARRAY(c, float, (size_t)k->n_class);

  fvg_status s = match && weight && bias && k->head_weight && k->head_bias ? FVG_OK : FVG_E_NOMEM;
  if (!s) s = fvg_match_names(c, match, class_name, k->n_class, known, l->n_class);
  if (!s) {
    k->head_share = (float)l->method->head(l, weight, bias);
    s = fvg__choose_head(k, class_name, match, weight, bias);
  }
  fvg_release(c, match);
  fvg_release(c, weight);
  fvg_release(c, bias);
  return s;
}

/* Encodes the words that relevance maps compare with. */
static fvg_status fvg__classifier_background(fvg_classifier *k, const char *const *word, int n) {
  fvg_ctx *c = k->clip->ctx;
  float *g = FVG_NEW_ARRAY(c, float, fvg__row(n < 1 ? 1 : n, k->clip->embed_dim));
  if (!g) return FVG_E_NOMEM;
  fvg_status s = fvg_clip_encode_classes(k->clip, g, NULL, word, n);
  if (s) {
    fvg_release(c, g);
    return s;
  }
  k->g_background = g;
  k->n_background = n;
  return FVG_OK;
}

FVG_DEF fvg_status fvg_classifier_new(fvg_clip *m, fvg_classifier **out,
                                      const char *const *class_name, int n_class,
                                      const fvg_classifier_desc *desc) {
  fvg_classifier_desc d;
  memset(&d, 0, sizeof d);
  if (desc) d = *desc;
  if (out) *out = NULL;
  if (!m)
    return fvg__missing(d.learner ? d.learner->clip->ctx : NULL, "fvg_classifier_new", "a CLIP");
  if (!out)
    return fvg__missing(m->ctx, "fvg_classifier_new", "a place for the classifier");
  if (!class_name)
    return fvg__missing(m->ctx, "fvg_classifier_new", "class names");
  fvg_status s = fvg__check_branch(m, d.branch, d.learner, d.fvgpt);
  if (!s) s = fvg__check_scoring_head(m, &d, n_class);
  if (s) return s;

  if (d.fvgpt) fvg__compare_scales(m, d.fvgpt);

  fvg_classifier *k = FVG_NEW(m->ctx, fvg_classifier);
  if (!k) return FVG_E_NOMEM;
  k->clip = m;
  k->learner = d.learner;
  k->fvgpt = d.fvgpt;
  k->head = d.head;
  k->branch = d.branch;
  k->n_class = n_class;

  /* There is always room for a class; having none is an error of the texts. */
  const size_t values = fvg__row(n_class < 1 ? 1 : n_class, m->embed_dim);
  k->g = FVG_NEW_ARRAY(m->ctx, float, values);
  k->g_clip = FVG_NEW_ARRAY(m->ctx, float, values);
  s = k->g && k->g_clip ? fvg__classifier_texts(k, &d, class_name) : FVG_E_NOMEM;
  if (!s) s = fvg__classifier_head(k, class_name);
  if (d.n_background < 0 || d.head) k->n_background = -1;
  else if (!s && d.background) s = fvg__classifier_background(k, d.background, d.n_background);
  if (s) {
    fvg_classifier_free(k);
    return s;
  }
  *out = k;
  return FVG_OK;
}

FVG_DEF void fvg_classifier_free(fvg_classifier *k) {
  if (!k) return;
  fvg_release(k->clip->ctx, k->g);
  fvg_release(k->clip->ctx, k->g_clip);
  fvg_release(k->clip->ctx, k->g_background);
  fvg_release(k->clip->ctx, k->head_weight);
  fvg_release(k->clip->ctx, k->head_bias);
  fvg__packed_free(k->clip->ctx, &k->packed);
  fvg_release(k->clip->ctx, k);
}

/* Scores by a method that writes other words for every picture: f [n, embed_dim] -> logits
   [n, n_class]. */
static fvg_status fvg__scores_by_picture(fvg_classifier *k, const float *f, int n, float *logits) {
  const fvg_method *method = k->learner->method;
  const int d = k->clip->embed_dim;
  fvg_tape *t = fvg__clip_tape(k->clip);
  if (!t) return FVG_E_NOMEM;

  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < n; i++) {
    fvg_tape_clear(t);
    t->no_grad++;
    fvg_node *f_i = fvg_const(t, 1, d, f + fvg__row(i, d));
    fvg_node *z = method->scores(k->learner, t, &k->packed, f_i, NULL);
    t->no_grad--;
    float *to = logits + fvg__row(i, k->n_class);
    if (z) memcpy(to, fvg_value(z), fvg__count(z) * sizeof *to);
    else s = fvg__method_failed(k->learner);
  }
  fvg_tape_clear(t);
  return s;
}

/* Computes s f g^T -> logits [n, n_class]; f [n, embed_dim], g [n_class, embed_dim]. */
static fvg_status fvg__cosine_logits(fvg_classifier *k, const float *f, int n, const float *g,
                                     float *logits) {
  const int d = k->clip->embed_dim;
  fvg_tape *t = fvg__clip_tape(k->clip);
  if (!t) return FVG_E_NOMEM;

  fvg_tape_clear(t);
  fvg_node *images = fvg_const(t, n, d, f);
  fvg_node *texts = fvg_const(t, k->n_class, d, g);
  fvg_node *z = fvg_scale(fvg_linear(images, texts, NULL), k->clip->logit_scale);
  if (z) memcpy(logits, fvg_value(z), fvg__count(z) * sizeof *logits);
  fvg_tape_clear(t);
  return z ? FVG_OK : k->clip->ctx->status;
}

/* Gives the head its share L in the scores z [n, n_class]: (1 - L) z + L (f_raw w^T + b). */
static fvg_node *fvg__with_head(const fvg_classifier *k, fvg_node *f_raw, fvg_node *z) {
  if (!k->head_weight) return z;
  if (!f_raw) return NULL;              /* it could not be made */

  fvg_tape *t = f_raw->tape;
  fvg_node *w = fvg_const(t, k->n_class, k->clip->embed_dim, k->head_weight);
  fvg_node *b = fvg_const(t, 1, k->n_class, k->head_bias);
  fvg_node *z_h = fvg_linear(f_raw, w, b);
  return fvg_add(fvg_scale(z, 1 - k->head_share), fvg_scale(z_h, k->head_share));
}

/* The same for logits [n, n_class] that are there already. */
static fvg_status fvg__add_head(fvg_classifier *k, const float *f_raw, int n, float *logits) {
  fvg_tape *t = fvg__clip_tape(k->clip);
  if (!t) return FVG_E_NOMEM;

  fvg_tape_clear(t);
  fvg_node *z = fvg_const(t, n, k->n_class, logits);
  z = fvg__with_head(k, fvg_const(t, n, k->clip->embed_dim, f_raw), z);
  if (z) memcpy(logits, fvg_value(z), fvg__count(z) * sizeof *logits);
  fvg_tape_clear(t);
  return z ? FVG_OK : k->clip->ctx->status;
}

/* Makes the batch of FVG-PT's two branches: the parts of n pictures' features, and the classes. */
static fvg_fvgpt_batch fvg__branch_batch(const fvg_classifier *k, const fvg_features *x, int n) {
  fvg_fvgpt_batch batch;
  memset(&batch, 0, sizeof batch);
  batch.n = n;
  batch.n_class = k->n_class;
  batch.f = x->f;
  batch.f_clip = x->f_clip;
  batch.f_score = x->f_score;
  batch.g = k->g;
  batch.g_clip = k->g_clip;
  return batch;
}

/* Scores by FVG-PT's base branch: z_FDC, or without adapters (no_fdc) z_full. */
static fvg_status fvg__base_branch(fvg_classifier *k, const fvg_features *x, int n,
                                   float *logits) {
  const fvg_fvgpt_batch batch = fvg__branch_batch(k, x, n);
  return fvg_fvgpt_score_base(k->fvgpt, logits, &batch);
}

/* Scores by FVG-PT's new branch, z_PC; b [n] receives the share that zero-shot CLIP has in it. */
static fvg_status fvg__new_branch(fvg_classifier *k, const fvg_features *x, int n, float *logits,
                                  float *b) {
  const fvg_fvgpt_batch batch = fvg__branch_batch(k, x, n);
  return fvg_fvgpt_score_new(k->fvgpt, logits, b, &batch);
}

/* Scores n pictures whose features are matrices [n, embed_dim]. */
static fvg_status fvg__branch_logits(fvg_classifier *k, const fvg_features *x, int n, float *logits,
                                     float *b) {
  if (k->head) return fvg_head_logits(k->head, logits, x->f_clip, n);
  switch (k->branch) {
    case FVG_ZERO_SHOT:   return fvg__cosine_logits(k, x->f_clip, n, k->g_clip, logits);
    case FVG_TUNED:       return fvg__cosine_logits(k, x->f_score, n, k->g, logits);
    case FVG_TUNED_NEW:   return fvg__cosine_logits(k, x->f, n, k->g, logits);
    case FVG_BRANCH_BASE: return fvg__base_branch(k, x, n, logits);
    case FVG_BRANCH_NEW:  return fvg__new_branch(k, x, n, logits, b);
  }
  return fvg_fail(k->clip->ctx, FVG_E_ARG, "there is no branch %d", (int)k->branch);
}

/* Pictures are scored this many at a time, which bounds the memory: more would not be faster. */
enum { FVG__SCORE_ROWS = 2048 };

FVG_DEF fvg_status fvg_classifier_logits(fvg_classifier *k, float *logits, float *b, const float *f,
                                         int n) {
  if (!k) return FVG_E_ARG;
  fvg_clip *m = k->clip;
  if (!f)
    return fvg__missing(m->ctx, "fvg_classifier_logits", "features");
  if (!logits)
    return fvg__missing(m->ctx, "fvg_classifier_logits", "a place for the logits");
  if (n < 0)
    return fvg_fail(m->ctx, FVG_E_ARG, "the scores of %d images", n);
  if (b) memset(b, 0, (size_t)n * sizeof *b);
  if (k->packed.n_text) return fvg__scores_by_picture(k, f, n, logits);

  /* Rows of several parts are taken apart here. */
  const int width = fvg_learner_feature_width(m, k->learner);
  float *room = NULL;
  if (width > m->embed_dim) {
    room = FVG_NEW_ARRAY(m->ctx, float, fvg__row(fvg__min(n, FVG__SCORE_ROWS), width));
    if (!room) return FVG_E_NOMEM;
  }

  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < n; i += FVG__SCORE_ROWS) {
    const int rows = fvg__min(n - i, FVG__SCORE_ROWS);
    const float *f_i = f + fvg__row(i, width);
    const fvg_features x = fvg__feature_matrices(m, k->learner, f_i, rows, room);
    float *to = logits + fvg__row(i, k->n_class);
    s = fvg__branch_logits(k, &x, rows, to, b ? b + i : NULL);
    if (!s && k->head_weight) s = fvg__add_head(k, x.f_raw, rows, to);
  }
  fvg_release(m->ctx, room);
  return s;
}

#ifndef FVGPT_NO_TRAINING  /* a task needs a data set */
/* Encodes all items, scores them, and compares the scores with the labels. */
FVG_DEF fvg_status fvg_classifier_test(fvg_classifier *k, fvg_score *score,
                                       const fvg_task *task) {
  if (!k) return FVG_E_ARG;
  fvg_clip *m = k->clip;
  if (!score)
    return fvg__missing(m->ctx, "fvg_classifier_test", "a place for the score");
  memset(score, 0, sizeof *score);
  if (!task || !task->dataset)
    return fvg__missing(m->ctx, "fvg_classifier_test", "a task and its data set");

  const fvg_items *items = &task->items;
  const int n = items->n;
  const int room = n < 1 ? 1 : n;
  const int width = fvg_learner_feature_width(m, k->learner);
  float *f = FVG_NEW_ARRAY(m->ctx, float, fvg__row(room, width));
  float *logits = FVG_NEW_ARRAY(m->ctx, float, fvg__row(room, k->n_class));
  int *label = fvg__task_labels(m->ctx, task);
  fvg_status s = f && logits && label ? FVG_OK : FVG_E_NOMEM;

  if (!s) s = fvg_encode_task(m, k->learner, f, task);
  if (!s) s = fvg_classifier_logits(k, logits, NULL, f, n);
  if (!s)
    s = fvg_score_of(m->ctx, score, logits, label, n, k->n_class);
  fvg_release(m->ctx, label);
  fvg_release(m->ctx, logits);
  fvg_release(m->ctx, f);
  return s;
}
#endif /* FVGPT_NO_TRAINING */

/* ---- at once ---- */
/* The context is made first, because it carries the message of a model that could not be opened. */
FVG_DEF fvg_clip *fvg_open(const char *path) {
  fvg_ctx *c;
  if (fvg_init(&c, NULL)) return NULL;

  fvg_clip *m = NULL;
#ifndef FVGPT_NO_STDIO
  fvg_status s = fvg_clip_open(c, &m, path, NULL, FVG_F32);
#else
  fvg_status s = fvg_fail(c, FVG_E_UNSUPPORTED, "%s: this build opens no files (FVGPT_NO_STDIO)",
                          path ? path : "");
#endif
  if (s) {
    char why[sizeof c->message];
    memcpy(why, c->message, sizeof why);
    m = FVG_NEW(c, fvg_clip);
    memcpy(c->message, why, sizeof why);
    if (!m) {
      fvg_free(c);
      return NULL;
    }
    m->ctx = c;
    m->failed = s;
  }
  m->owns_context = 1;
  return m;
}

FVG_DEF fvg_status fvg_close(fvg_clip *m) {
  if (!m) return FVG_E_NOMEM;
  fvg_status last = fvg_last_status(m->ctx);
  fvg_clip_free(m);
  return last;
}

FVG_DEF const char *fvg_clip_error(const fvg_clip *m) { return fvg_error(m ? m->ctx : NULL); }

/* Why no call can use this model: it could not be opened, or memory was exhausted (m is NULL). */
static fvg_status fvg__unusable(const fvg_clip *m) { return m ? m->failed : FVG_E_NOMEM; }

/* Computes the row of features [fvg_learner_feature_width] of one picture; learner NULL: that of
   zero-shot CLIP. */
static fvg_status fvg__image_features(fvg_clip *m, fvg_learner *l, float *features,
                                      const fvg_image *image) {
  fvg_ctx *c = m->ctx;
  size_t side = (size_t)m->preprocess.size;
  float *pixels = FVG_NEW_ARRAY(c, float, 3 * side * side);
  fvg_image view;
  memset(&view, 0, sizeof view);

  fvg_status s = pixels ? FVG_OK : FVG_E_NOMEM;
  if (!s) s = fvg_image_test_transform(c, &view, image, &m->preprocess);
  if (!s) s = fvg_image_normalize(c, pixels, &view, &m->preprocess);
  if (!s) s = fvg_learner_encode_images(m, l, features, pixels, 1);

  fvg_image_free(c, &view);
  fvg_release(c, pixels);
  return s;
}

FVG_DEF fvg_status fvg_encode_image(fvg_clip *m, float *feature, const fvg_image *image) {
  fvg_status unusable = fvg__unusable(m);
  if (unusable) return unusable;
  if (!feature || !image || !image->pixels)
    return fvg__missing(m->ctx, "fvg_encode_image", "a picture and a place for its feature");
  return fvg__image_features(m, NULL, feature, image);
}

/* Turns logits [n] into their softmax, in place, and returns the index of the greatest. */
static int fvg__softmax_best(const fvg_ctx *c, float *z, int n) {
  int best = 0;
  for (int i = 1; i < n; i++) {
    if (z[i] > z[best]) best = i;
  }
  c->kernels->softmax(n, z, 1, z);
  return best;
}

FVG_DEF int fvg_classifier_image(fvg_classifier *k, float *probability, const fvg_image *image) {
  if (!k) return FVG_E_ARG;  /* without a context there is no place for a message */
  fvg_clip *m = k->clip;
  if (!image || !image->pixels)
    return fvg__missing(m->ctx, "fvg_classifier_image", "a picture");
  float *features = FVG_NEW_ARRAY(m->ctx, float, (size_t)fvg_learner_feature_width(m, k->learner));
  float *z = FVG_NEW_ARRAY(m->ctx, float, (size_t)k->n_class);

  fvg_status s = features && z ? FVG_OK : FVG_E_NOMEM;
  if (!s) s = fvg__image_features(m, k->learner, features, image);
  if (!s) s = fvg_classifier_logits(k, z, NULL, features, 1);
  int best = s ? (int)s : fvg__softmax_best(m->ctx, z, k->n_class);
  if (!s && probability) memcpy(probability, z, (size_t)k->n_class * sizeof *z);

  fvg_release(m->ctx, z);
  fvg_release(m->ctx, features);
  return best;
}

FVG_DEF int fvg_classify_image(fvg_clip *m, float *probability, const fvg_image *image,
                               const char *const *name, int n) {
  fvg_status s = fvg__unusable(m);
  fvg_classifier *k = NULL;
  if (!s) s = fvg_classifier_new(m, &k, name, n, NULL);
  if (s) return s;
  int best = fvg_classifier_image(k, probability, image);
  fvg_classifier_free(k);
  return best;
}

#ifndef FVGPT_NO_STDIO
/* Loads a picture with 3 channels as its file stores it; one that EXIF says to be turned is
   noted. */
static fvg_status fvg__picture_file(fvg_ctx *c, fvg_image *image, const char *path) {
  fvg_status s = fvg_image_load(c, image, path, 3);
  return s ? s : fvg_image_upright(c, image, path, 0);
}

FVG_DEF fvg_status fvg_encode_file(fvg_clip *m, float *feature, const char *path) {
  fvg_status s = fvg__unusable(m);
  fvg_image image;
  if (!s) s = fvg__picture_file(m->ctx, &image, path);
  if (s) return s;
  s = fvg_encode_image(m, feature, &image);
  fvg_image_free(m->ctx, &image);
  return s;
}

FVG_DEF int fvg_classifier_file(fvg_classifier *k, float *probability, const char *path) {
  if (!k) return FVG_E_ARG;
  fvg_image image;
  fvg_status s = fvg__picture_file(k->clip->ctx, &image, path);
  if (s) return s;
  int best = fvg_classifier_image(k, probability, &image);
  fvg_image_free(k->clip->ctx, &image);
  return best;
}

FVG_DEF int fvg_classify_file(fvg_clip *m, float *probability, const char *path,
                              const char *const *name, int n) {
  fvg_status s = fvg__unusable(m);
  fvg_image image;
  if (!s) s = fvg__picture_file(m->ctx, &image, path);
  if (s) return s;
  int best = fvg_classify_image(m, probability, &image, name, n);
  fvg_image_free(m->ctx, &image);
  return best;
}
#endif

#ifndef FVGPT_NO_TRAINING  /* chapter 38: maps need gradients */
/*==================================================================================================
 * CHAPTER 38  ATTENTION MAPS: where a classifier looks
 *==================================================================================================
   Which patches speak for a class?  There are three answers; examples/12_maps_by_hand.c computes
   the first and the third by public functions alone.

   Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) asks the gradient of the class's score z.  Of
   a layer's output A [T,w], one row per token, only the rows of the P patches count:

     (1)  G = dz / dA,   alpha = (1/P) sum_p G_p,   m_p = relu(A_p alpha)

   alpha tells which channels raise the score, the map where in the picture they are active.  In a
   transformer, A is the output of the last block's first layer norm: after that block only the
   class token is read, so the patches' rows have no gradient there, and this is the last place
   where they have one.  The tower therefore runs in two parts, up to A and from A on.  z is s f
   g0, s f g, z_FDC or z_PC, whichever the classifier's branch uses.

   The attention of the class token depends on no class.  It is the mean over heads of
   softmax(q_cls K^T / sqrt d) in the last block, without the class token's own column (shown for
   ViT by Caron et al. 2021, arXiv 2104.14294).

   On photographs neither is true to the picture: the class token gathers what is left to decide
   from a few patches anywhere.  The relevance map asks every patch instead what it would be taken
   for, were it the picture.  In the last block each patch looks at those that are like it, in each
   head of width d, without residual and MLP, which serve the class token (the next chapter says why
   and whence):

     (2)  y = W_out [ softmax(K K^T / sqrt d) V ],      f_p = norm(W_proj LN_post(y_p))

   f_p is scored as the classifier's branch scores a picture, by the learner's texts, FVG-PT's
   adapters or its mixture with plain CLIP; a learner that prompts the image tower has its prompts
   among the rows of K and V.  CoCoOp's words are those of the whole picture, and MMRL's tokens, of
   which a patch has none, are its own row.  The patch speaks for class y as far as that is likelier
   than a background: over words u such as "sky", with CLIP's own features g_u,

     (3)  o_p = z_{y,p} - ln sum_u exp(s f_p g_u)

   or, if a desc wants it so, over the other classes, o_p = z_{y,p} - ln sum_{c != y} exp(z_{c,p}).
   Where zero lies in o differs from picture to picture, so what is above the patches' mean less
   half a deviation is what counts:

     (4)  m_p = relu(o_p - mean(o) + std(o) / 2)

   Background words are truer where a picture shows one thing and the classes are alike; the other
   classes where their things stand about, as in the world of tools/world.h.  Measured in percent,
   as means over plain CLIP, CoOp and FVG-PT on photographs of pets and on the demo's sets of that
   world (tests/README.md): how often the hottest point is inside the outline, and IoU.

                                        Pets           world
     Grad-CAM                         59    25        33    17
     attention of the class token     64    14        89    52
     relevance, background words      82    52        45    36
     relevance, other classes         66    43        63    42

   All give one number per patch.  It is spread over the picture bilinearly, with the corners of the
   grid on the corners of the picture (align_corners), and divided by the greatest.  Three measures
   compare a map with a mask: the share of the map that falls on the foreground, which is how far a
   classifier looks at the object, the question that FVG-PT (arXiv 2603.08708) starts from; whether
   its greatest value does; and the intersection over union of the mask and what lies above the
   threshold that divides the map best (Otsu 1979). */

/* ---- the image tower in two parts ---- */
/* What the image tower's last block works on, T rows. */
typedef struct fvg__last_block {
  fvg_node *x;                        /* [T,w] its input */
  fvg_node *a;                        /* [T,w] LN_1 of that, a leaf that takes a gradient */
  fvg_segment segment;
  int n_prompt, n_read;               /* rows between class token and patches; those of them read */
} fvg__last_block;

static const fvg_block *fvg__last_of(const fvg_clip *m) {
  const fvg_transformer *blocks = &m->vision.transformer;
  return &blocks->block[blocks->n_layer - 1];
}

/* Takes one picture up to the last block, which is not entered.  vectors: the learner's image
   prompts, or NULL. */
static fvg_node *fvg__below_last_block(fvg_tape *t, const fvg__image_rows *rows, const float *chw,
                                       fvg_node *vectors) {
  fvg_transformer below = rows->clip->vision.transformer;
  below.n_layer--;                    /* with none left fvg_transform_prompted is the identity */

  /* Prompts that enter at the last block itself come after all others. */
  fvg_prompts prompts = fvg__prompts(&rows->splicing, vectors);
  const fvg_splice *last = prompts.n_splice ? &prompts.splice[prompts.n_splice - 1] : NULL;
  const int enters_last = last && last->layer == below.n_layer;
  prompts.n_splice -= enters_last;

  fvg_node *x = fvg__vision_embed(t, rows, chw, vectors);
  x = fvg_transform_prompted(x, &below, rows->segment, 1, NULL, 0, &prompts);
  return x && enters_last ? fvg__splice_in(x, &prompts, last) : x;
}

/* Runs the first part of the tower, one picture up to A.  l NULL: CLIP's own tower. */
static fvg_status fvg__reach_last_block(fvg_tape *t, const fvg_clip *m, fvg_learner *l,
                                        const float *chw, fvg__last_block *last) {
  const int prompted = l && l->method->n_part > 1;
  fvg_node *vectors = NULL;
  if (prompted) {
    vectors = fvg_detach(l->method->vectors(l, t, FVG__IMAGE));
    if (!vectors) return fvg__method_failed(l);
  }
  fvg__image_rows rows;
  fvg_status s = fvg__image_rows_new(m, &rows, 1, prompted ? &l->plan[FVG__IMAGE] : NULL);
  if (s) return s;

  last->x = fvg__below_last_block(t, &rows, chw, vectors);
  last->segment = rows.splicing.n_splice ? rows.splicing.segment[0] : rows.segment[0];
  last->n_prompt = last->segment.n_key - m->vision.n_token;
  last->n_read = prompted ? l->n_read : 0;
  fvg__image_rows_free(&rows);

  const fvg_block *b = fvg__last_of(m);
  float eps = m->vision.transformer.eps;
  last->a = fvg_detach(fvg__norm(last->x, &b->ln_1_weight, &b->ln_1_bias, eps));
  if (!last->a) return m->ctx->status;
  last->a->needs_grad = 1;
  return FVG_OK;
}

/* Runs the second part, from A to f and to what else the learner reads, differentiable down to A.
   Keys and values come from all rows, queries only from those that are read. */
static fvg_status fvg__feature_from(const fvg_clip *m, const fvg__last_block *last,
                                    fvg__step *step) {
  const int n_row = 1 + last->n_read;
  int row[1 + FVG__MOST_READ];
  for (int i = 0; i < n_row; i++)
    row[i] = i;

  fvg_segment segment = last->segment;
  segment.n_query = n_row;            /* the class token is its segment's first row */
  fvg_node *x = fvg__block_rest(last->x, last->a, &m->vision.transformer, fvg__last_of(m),
                                &segment, 1, row, n_row);

  memset(step, 0, sizeof *step);
  if (last->n_read) {
    step->f_read = fvg_gather(x, row + 1, last->n_read);
    x = fvg_gather(x, row, 1);
  }
  step->f_raw = fvg__vision_head(m, x);
  step->f = fvg_normalize(step->f_raw);
  return step->f ? FVG_OK : m->ctx->status;
}

/* ---- Grad-CAM ---- */
/* Computes z_PC = (1 - b) z + b z_CLIP.  Here b is a constant: how it changes with the picture is
   left out. */
static fvg_node *fvg__calibrated_logits(const fvg_classifier *k, fvg_node *f, fvg_node *f_clip,
                                        fvg_node *g) {
  const float tau = k->fvgpt->desc.tau;
  fvg_node *g_clip = g ? fvg_const(g->tape, k->n_class, k->clip->embed_dim, k->g_clip) : NULL;
  fvg_node *z = fvg__logits(k->fvgpt, f, g);
  fvg_node *z_clip = fvg__logits(k->fvgpt, f_clip, g_clip);
  fvg_node *b = fvg__brg(k->fvgpt, fvg_softmax(z, tau), fvg_softmax(z_clip, tau));
  return fvg_lerp(z, z_clip, fvg_detach(b));
}

/* Makes the logits [n, n_class] of a step's n features as a node, by the rules of
   fvg__branch_logits, without the share of a head.  f_clip [n,d]: zero-shot CLIP's features of the
   same; NULL: the step's.  f_words [1,d]: the picture that a method with words for every picture
   writes for; NULL: each feature is its own.  Without prior calibration (no_pc) new classes are
   scored as base classes are, but always by f. */
static fvg_node *fvg__map_branch(fvg_classifier *k, const fvg__step *step, fvg_node *f_clip,
                                 fvg_node *f_words) {
  fvg_learner *l = k->learner;
  fvg_fvgpt *fvgpt = k->fvgpt;
  fvg_tape *t = step->f->tape;
  const int d = k->clip->embed_dim;
  if (k->packed.n_text) return l->method->scores(l, t, &k->packed, step->f, f_words);
  if (k->head) return step->f ? k->head->method->scores(k->head, step->f) : NULL;

  const int no_fdc = fvgpt && fvgpt->desc.no_fdc;
  const int by_f_score = l && l->method->f_score &&
      (k->branch == FVG_TUNED || (k->branch == FVG_BRANCH_BASE && no_fdc));
  const int no_calibration = k->branch == FVG_BRANCH_NEW && fvgpt->desc.no_pc;
  const fvg_branch branch = no_calibration ? FVG_BRANCH_BASE : k->branch;

  fvg_node *f = by_f_score ? l->method->f_score(l, step) : step->f;
  fvg_node *g = fvg_const(t, k->n_class, d, branch == FVG_ZERO_SHOT ? k->g_clip : k->g);
  switch (branch) {
    case FVG_ZERO_SHOT:
    case FVG_TUNED:
    case FVG_TUNED_NEW:   return fvg_scale(fvg_linear(f, g, NULL), k->clip->logit_scale);
    case FVG_BRANCH_BASE: return no_fdc ? fvg__logits(fvgpt, f, g) : fvg__fdc(fvgpt, f, g);
    case FVG_BRANCH_NEW:  break;
  }
  return fvg__calibrated_logits(k, f, f_clip ? f_clip : f, g);
}

/* Makes the same logits with the head's share in them, if there is a head. */
static fvg_node *fvg__map_logits(fvg_classifier *k, const fvg__step *step, fvg_node *f_clip,
                                 fvg_node *f_words) {
  return fvg__with_head(k, step->f_raw, fvg__map_branch(k, step, f_clip, f_words));
}

/* Picks the label's logit, [1,1]. */
static fvg_node *fvg__class_score(fvg_classifier *k, const fvg__step *step, const float *f_clip,
                                  int label) {
  fvg_tape *t = step->f->tape;
  fvg_node *clip = f_clip ? fvg_const(t, 1, k->clip->embed_dim, f_clip) : NULL;
  fvg_node *z = fvg__map_logits(k, step, clip, NULL);
  fvg_node *chosen = fvg_zeros(t, 1, k->n_class);
  if (!chosen) return NULL;
  fvg_fill(chosen)[label] = 1;
  return fvg_sum(fvg_mul(z, chosen));
}

/* Computes grid [n_patch] = relu(A alpha), with alpha the mean of the patches' gradients.  a and da
   [n_patch, width] are the patches' rows of A and of its gradient; grid comes zeroed. */
static void fvg__weigh_channels(const float *a, const float *da, int n_patch, int width,
                                float *grid) {
  for (int j = 0; j < width; j++) {
    const float *a_j = a + j, *da_j = da + j;
    double alpha = 0;
    for (int p = 0; p < n_patch; p++)
      alpha += (double)da_j[fvg__row(p, width)] / n_patch;
    for (int p = 0; p < n_patch; p++)
      grid[p] += (float)alpha * a_j[fvg__row(p, width)];
  }
  for (int p = 0; p < n_patch; p++)
    if (grid[p] < 0) grid[p] = 0;
}

/* Computes relu(A alpha) -> grid [T-1], which comes zeroed. */
static fvg_status fvg__grad_cam(fvg_classifier *k, const fvg__last_block *last, const float *f_clip,
                                int label, float *grid) {
  const fvg_clip *m = k->clip;
  fvg__step step;
  fvg_status s = fvg__feature_from(m, last, &step);
  if (!s) s = fvg__check_features(m, "image", fvg_value(step.f), 1, 1);
  if (s) return s;

  fvg_node *score = fvg__class_score(k, &step, f_clip, label);
  s = score ? fvg_backward(score) : m->ctx->status;
  if (s) return s;

  const int width = last->a->cols;
  const size_t first = fvg__row(1 + last->n_prompt, width);
  fvg__weigh_channels(fvg_value(last->a) + first, fvg_grad(last->a) + first,
                      m->vision.n_token - 1, width, grid);
  return FVG_OK;
}

/* ---- relevance ---- */
/* Twenty-two of the background words of CLIP-ES: those that are no things themselves. */
static const char *const fvg__scenery[] = {
  "ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea",
  "railway", "railroad", "cloud", "house", "mountain", "ocean", "road", "rock", "street", "valley",
  "bridge"
};

/* y of (2), [T, w], of the last block's normalised input a; `kind` says which rows the
   attention compares. */
static fvg_node *fvg__last_attention(fvg_node *a, const fvg_transformer *m, const fvg_block *b,
                                     fvg_self_attention kind) {
  fvg_node *v = fvg__project(a, &b->v_weight, &b->v_bias);
  fvg_node *y = v;
  if (kind != FVG_NO_ATTENTION && v) {
    fvg_segment all;
    memset(&all, 0, sizeof all);
    all.n_query = all.n_key = v->rows;
    fvg_node *same = v;
    if (kind == FVG_KEY_KEY) same = fvg__project(a, &b->k_weight, &b->k_bias);
    if (kind == FVG_QUERY_QUERY) same = fvg__project(a, &b->q_weight, &b->q_bias);
    y = fvg_attention(same, same, v, m->n_head, &all, 1);
  }
  return fvg__project(y, &b->out_weight, &b->out_bias);
}

/* The features of rows first..first+n-1 of y, [n, d], not normalised. */
static fvg_node *fvg__row_features(const fvg_clip *m, fvg_node *y, int first, int n) {
  if (!y) return NULL;
  int *row = (int *)fvg__tape_alloc(y->tape, (size_t)n * sizeof *row);
  if (!row) return NULL;
  for (int i = 0; i < n; i++)
    row[i] = first + i;
  return fvg__vision_head(m, fvg_gather(y, row, n));
}

/* Makes f_p of (2) for each patch of the picture, [n_patch, d], and what else the learner reads of
   a picture, as if every patch were one: its own row stands for the learner's tokens. */
static fvg_status fvg__patch_features(const fvg_clip *m, const fvg__last_block *last,
                                      fvg__step *step) {
  const int n_patch = m->vision.n_token - 1, n_read = last->n_read;
  memset(step, 0, sizeof *step);
  fvg_node *y = fvg__last_attention(last->a, &m->vision.transformer, fvg__last_of(m), FVG_KEY_KEY);
  step->f_raw = fvg__row_features(m, y, 1 + last->n_prompt, n_patch);
  step->f = fvg_normalize(step->f_raw);
  if (!step->f) return m->ctx->status;

  int *row = (int *)fvg__tape_alloc(y->tape, fvg__row(n_patch, n_read + 1) * sizeof *row);
  if (!row) return FVG_E_NOMEM;
  for (int i = 0; i < n_patch * n_read; i++)
    row[i] = 1 + last->n_prompt + i / n_read;
  if (n_read) step->f_read = fvg_gather(y, row, n_patch * n_read);
  if (n_read && !step->f_read) return m->ctx->status;
  return fvg__check_features(m, "patch", fvg_value(step->f), n_patch, 1);
}

/* Computes ln sum exp of the n numbers in z but for number `without`; -1: of all. */
static float fvg__log_sum_exp(const float *z, int n, int without) {
  float most = -INFINITY, sum = 0;
  for (int i = 0; i < n; i++)
    if (i != without && z[i] > most) most = z[i];
  for (int i = 0; i < n; i++)
    if (i != without) sum += expf(z[i] - most);
  return most + logf(sum);
}

/* Writes m of (4) from the patches' scores z [n_patch, n_class] and their scores of the background
   words [n_patch, n_word]; n_word 0: the other classes stand for them. */
static void fvg__relevance_map(const float *z, int n_class, int label, const float *z_word,
                               int n_word, int n_patch, float *grid) {
  double mean = 0, variance = 0;
  for (int p = 0; p < n_patch; p++) {
    const float *row = z + fvg__row(p, n_class);
    float against = 0;                 /* of a single class: there is nothing else */
    if (n_word) against = fvg__log_sum_exp(z_word + fvg__row(p, n_word), n_word, -1);
    else if (n_class > 1) against = fvg__log_sum_exp(row, n_class, label);
    grid[p] = row[label] - against;
    mean += (double)grid[p] / n_patch;
  }
  for (int p = 0; p < n_patch; p++)
    variance += ((double)grid[p] - mean) * ((double)grid[p] - mean) / n_patch;

  const double zero = mean - sqrt(variance) / 2;
  for (int p = 0; p < n_patch; p++) {
    const double above = (double)grid[p] - zero;
    grid[p] = above < 0 ? 0 : (float)above;      /* NaN stays, and fvg__finish_map reports it */
  }
}

/* Scores all patches as the branch scores pictures -> z [n_patch, n_class].  prompted: the learner
   has an image tower of its own, and f_clip comes from CLIP's. */
static fvg_status fvg__score_patches(fvg_classifier *k, fvg_tape *t, const float *chw,
                                     const fvg__last_block *last, int prompted, fvg__step *step,
                                     fvg_node **z) {
  fvg_clip *m = k->clip;
  fvg__step picture, plain;
  memset(&picture, 0, sizeof picture);
  memset(&plain, 0, sizeof plain);
  fvg_status s = fvg__patch_features(m, last, step);
  if (!s && k->packed.n_text) s = fvg__feature_from(m, last, &picture);

  fvg__last_block of_clip;
  if (!s && prompted && k->branch == FVG_BRANCH_NEW) {
    s = fvg__reach_last_block(t, m, NULL, chw, &of_clip);
    if (!s) s = fvg__patch_features(m, &of_clip, &plain);
  }
  if (s) return s;
  *z = fvg__map_logits(k, step, plain.f, picture.f);
  return *z ? FVG_OK : m->ctx->status;
}

/* Computes m of (4) -> grid [T-1]. */
static fvg_status fvg__relevance(fvg_classifier *k, fvg_tape *t, const float *chw,
                                 const fvg__last_block *last, int prompted, int label,
                                 float *grid) {
  fvg_clip *m = k->clip;
  if (!k->n_background) {
    const int n_word = (int)(sizeof fvg__scenery / sizeof *fvg__scenery);
    fvg_status s = fvg__classifier_background(k, fvg__scenery, n_word);
    if (s) return s;
  }

  fvg__step step;
  fvg_node *z = NULL, *z_word = NULL;
  fvg_status s = fvg__score_patches(k, t, chw, last, prompted, &step, &z);
  if (s) return s;
  const int n_word = k->n_background > 0 ? k->n_background : 0;
  if (n_word) {
    fvg_node *g = fvg_const(t, n_word, m->embed_dim, k->g_background);
    z_word = fvg_scale(fvg_linear(step.f, g, NULL), m->logit_scale);
    if (!z_word) return m->ctx->status;
  }
  fvg__relevance_map(fvg_value(z), k->n_class, label, z_word ? fvg_value(z_word) : NULL, n_word,
                     m->vision.n_token - 1, grid);
  return FVG_OK;
}

/* ---- attention of the class token ---- */
/* Adds to grid [T-1], which comes zeroed, the mean over heads of the class token's attention to the
   patches. */
static fvg_status fvg__cls_attention(const fvg_clip *m, const fvg__last_block *last, float *grid) {
  const fvg__kernels *kernels = m->ctx->kernels;
  const fvg_block *b = fvg__last_of(m);
  const int n_head = m->vision.transformer.n_head;
  const int n_token = last->a->rows, width = last->a->cols, d = width / n_head;
  const int first = 1 + last->n_prompt, class_row = 0;

  fvg_node *class_token = fvg_gather(last->a, &class_row, 1);
  fvg_node *q = fvg__project(class_token, &b->q_weight, &b->q_bias);
  fvg_node *keys = fvg__project(last->a, &b->k_weight, &b->k_bias);
  fvg_node *row = fvg_zeros(last->a->tape, 1, n_token);
  if (!q || !keys || !row)
    return m->ctx->status;

  float *p = fvg_fill(row);
  for (int head = 0; head < n_head; head++) {
    const float *q_head = fvg_value(q) + head * d;
    const float *k_head = fvg_value(keys) + head * d;
    for (int i = 0; i < n_token; i++)
      p[i] = kernels->dot(d, q_head, k_head + fvg__row(i, width));
    kernels->softmax(n_token, p, 1 / sqrtf((float)d), p);
    for (int i = first; i < n_token; i++)
      grid[i - first] += p[i] / (float)n_head;
  }
  return FVG_OK;
}

/* ---- from patches to pixels ---- */
static float fvg__mix(float from, float to, float share) { return from + share * (to - from); }

/* Where a pixel lies among the n patches of its row or column: between `before` and `after`,
   `share` of the way.  Places are whole multiples of 1 / (size - 1), so the last pixel lies
   exactly on the last patch.  Chapter 38 spreads with align_corners, as published maps do, which
   shifts the outer patches by half a patch; chapter 39 wants edges in their place and uses the
   centres of cells. */
typedef struct fvg__between {
  int before, after;
  float share;
} fvg__between;

static fvg__between fvg__between_patches(int pixel, int n, int size) {
  const int span = size > 1 ? size - 1 : 1;
  fvg__between x;
  x.before = pixel * (n - 1) / span;
  x.after = x.before + (x.before < n - 1);
  x.share = (float)(pixel * (n - 1) % span) / (float)span;
  return x;
}

/* Spreads grid [n,n] over map [size,size], bilinearly. */
static void fvg__spread(const float *grid, int n, float *map, int size) {
  for (int y = 0; y < size; y++) {
    fvg__between down = fvg__between_patches(y, n, size);
    const float *top = grid + down.before * n, *bottom = grid + down.after * n;
    for (int x = 0; x < size; x++) {
      fvg__between across = fvg__between_patches(x, n, size);
      float above = fvg__mix(top[across.before], top[across.after], across.share);
      float below = fvg__mix(bottom[across.before], bottom[across.after], across.share);
      *map++ = fvg__mix(above, below, down.share);
    }
  }
}

/* Makes of the grid of patches a map whose greatest value is 1, or all 0. */
static fvg_status fvg__finish_map(const fvg_clip *m, const float *grid, float *map) {
  const int n_patch = m->vision.n_token - 1, size = m->vision.image_size;
  for (int p = 0; p < n_patch; p++)
    if (!isfinite(grid[p]))
      return fvg_fail(m->ctx, FVG_E_NUMERIC, "attention map: patch %d is %g",
                      p, (double)grid[p]);

  fvg__spread(grid, size / m->vision.patch_size, map, size);

  const size_t pixels = fvg__row(size, size);
  float max = 0;
  for (size_t i = 0; i < pixels; i++)
    if (map[i] > max) max = map[i];
  for (size_t i = 0; i < pixels && max > 0; i++)
    map[i] /= max;
  return FVG_OK;
}

static fvg_status fvg__map_check(const fvg_classifier *k, const float *chw, int label,
                                 fvg_map_kind kind, const float *map) {
  fvg_ctx *c = k->clip->ctx;
  if (!k->clip->has_vision)
    return fvg_fail(c, FVG_E_ARG, "attention map: this model has no image tower");
  if (!chw)
    return fvg_fail(c, FVG_E_ARG, "attention map: no picture");
  if (!map)
    return fvg_fail(c, FVG_E_ARG, "attention map: no place for the map");
  if (kind != FVG_GRAD_CAM && kind != FVG_CLS_ATTENTION && kind != FVG_RELEVANCE)
    return fvg_fail(c, FVG_E_ARG, "attention map: there is no kind %d", (int)kind);
  if (kind != FVG_CLS_ATTENTION && (label < 0 || label >= k->n_class))
    return fvg_fail(c, FVG_E_ARG, "attention map: label %d among %d classes", label, k->n_class);
  return FVG_OK;
}

/* Writes one number per patch into grid [T-1], which comes zeroed.  f_clip [embed_dim] is room for
   zero-shot CLIP's feature. */
static fvg_status fvg__map_grid(fvg_classifier *k, fvg_tape *t, const float *chw, int label,
                                fvg_map_kind kind, float *f_clip, float *grid) {
  fvg_clip *m = k->clip;
  fvg_learner *l = k->branch == FVG_ZERO_SHOT ? NULL : k->learner;
  const int prompted = fvg__learner_parts(l) > 1;
  fvg_status s = FVG_OK;
  if (kind == FVG_GRAD_CAM && prompted && k->branch == FVG_BRANCH_NEW)
    s = fvg_learner_encode_images(m, NULL, f_clip, chw, 1);
  t->no_grad += kind != FVG_GRAD_CAM;            /* the tape ends with this map */

  fvg__last_block last;
  if (!s) s = fvg__reach_last_block(t, m, l, chw, &last);
  if (s) return s;
  if (kind == FVG_CLS_ATTENTION) return fvg__cls_attention(m, &last, grid);
  if (kind == FVG_RELEVANCE) return fvg__relevance(k, t, chw, &last, prompted, label, grid);
  return fvg__grad_cam(k, &last, prompted ? f_clip : NULL, label, grid);
}

/* The tape takes parameters as constants, because a map may be asked for between a caller's
   fvg_backward and the optimiser's step: it must neither add to their gradients nor clear them. */
FVG_DEF fvg_status fvg_attention_map(fvg_classifier *k, float *map, const float *chw, int label,
                                     fvg_map_kind kind) {
  if (!k) return FVG_E_ARG;           /* without a context there is no place for a message */
  fvg_status s = fvg__map_check(k, chw, label, kind, map);
  if (s) return s;

  fvg_clip *m = k->clip;
  float *grid = FVG_NEW_ARRAY(m->ctx, float, (size_t)(m->vision.n_token - 1));
  float *f_clip = FVG_NEW_ARRAY(m->ctx, float, (size_t)m->embed_dim);
  fvg_tape *t = fvg_tape_new(m->ctx);
  s = grid && f_clip && t ? FVG_OK : FVG_E_NOMEM;
  if (!s) {
    t->params_fixed = 1;
    s = fvg__map_grid(k, t, chw, label, kind, f_clip, grid);
  }
  if (!s) s = fvg__finish_map(m, grid, map);

  fvg_tape_free(t);
  fvg_release(m->ctx, grid);
  fvg_release(m->ctx, f_clip);
  return s;
}

/* ---- what a map says ---- */
/* Otsu's threshold: of all that cut the n values in two, the one whose parts have means that lie
   furthest apart, weighed with their sizes. */
static float fvg__best_threshold(const float *x, size_t n) {
  enum { N_BIN = 256 };
  double count[N_BIN] = {0};
  float least = x[0], most = x[0];
  for (size_t i = 0; i < n; i++) {
    if (x[i] < least) least = x[i];
    if (x[i] > most) most = x[i];
  }
  if (!(most > least)) return least;

  double sum = 0;
  for (size_t i = 0; i < n; i++) {
    const int bin = (int)((x[i] - least) / (most - least) * (N_BIN - 1) + 0.5f);
    count[bin]++;
    sum += bin;
  }
  double below = 0, sum_below = 0, best = -1;
  int cut = 0;
  for (int bin = 0; bin < N_BIN - 1; bin++) {
    below += count[bin];
    sum_below += count[bin] * bin;
    const double above = (double)n - below;
    if (below <= 0 || above <= 0) continue;
    const double apart = (sum - sum_below) / above - sum_below / below;
    const double between = below * above * apart * apart;
    if (between > best) {
      best = between;
      cut = bin;
    }
  }
  return least + (most - least) * ((float)cut + 0.5f) / (N_BIN - 1);
}

static int fvg__is_mask(const fvg_image *mask) {
  return mask && mask->pixels && mask->channels == 1;
}

FVG_DEF double fvg_foreground_share(const float *map, const fvg_image *mask) {
  if (!map || !fvg__is_mask(mask)) return -1;

  const size_t n = fvg__row(mask->width, mask->height);
  double inside = 0, sum = 0;
  for (size_t i = 0; i < n; i++) {
    sum += (double)map[i];
    if (mask->pixels[i])
      inside += (double)map[i];
  }
  return sum > 0 ? inside / sum : 0;
}

FVG_DEF double fvg_hottest_inside(const float *map, const fvg_image *mask) {
  if (!map || !fvg__is_mask(mask)) return -1;

  const size_t n = fvg__row(mask->width, mask->height);
  size_t hottest = 0;
  for (size_t i = 1; i < n; i++)
    if (map[i] > map[hottest]) hottest = i;
  return map[hottest] > 0 && mask->pixels[hottest];
}

FVG_DEF double fvg_map_iou(const float *map, const fvg_image *mask) {
  if (!map || !fvg__is_mask(mask)) return -1;

  const size_t n = fvg__row(mask->width, mask->height);
  const float threshold = fvg__best_threshold(map, n);
  size_t both = 0, either = 0;
  for (size_t i = 0; i < n; i++) {
    const int is_hot = map[i] > threshold, is_inside = mask->pixels[i] != 0;
    both += (size_t)(is_hot && is_inside);
    either += (size_t)(is_hot || is_inside);
  }
  return either ? (double)both / (double)either : 1;
}

/* v 0..1 -> dark blue, red, yellow.  Brightness grows with v, so the ramp reads without colour as
   well. */
static void fvg__heat(float v, float rgb[3]) {
  static const float stop[3][3] = {{20, 20, 110}, {215, 30, 30}, {255, 230, 60}};
  const int i = v > 0.5f;
  const float share = 2 * v - (float)i;
  for (int j = 0; j < 3; j++)
    rgb[j] = fvg__mix(stop[i][j], stop[i + 1][j], share);
}

/* The heat covers the grey picture the more, the hotter it is. */
FVG_DEF fvg_status fvg_image_overlay(fvg_ctx *c, fvg_image *out, const fvg_image *image,
                                     const float *map) {
  fvg_status s = fvg__resize_begin(c, out, image, "overlay");
  if (!s && !map) s = fvg_fail(c, FVG_E_ARG, "overlay: no map");
  if (!s) s = fvg__image_new(c, out, image->width, image->height, 3);
  if (s) return s;

  const int channels = image->channels;
  const size_t n = fvg__row(image->width, image->height);
  for (size_t i = 0; i < n; i++) {
    uint8_t grey;
    fvg__convert_pixels(&grey, 1, image->pixels + i * (size_t)channels, channels, 1);

    float v = map[i] > 0 ? map[i] : 0, rgb[3];
    if (v > 1) v = 1;
    fvg__heat(v, rgb);
    float cover = 0.75f * v * (2 - v);   /* rises steeply at first: faint heat shows */
    uint8_t *to = out->pixels + 3 * i;
    for (int j = 0; j < 3; j++)
      to[j] = (uint8_t)(fvg__mix((float)grey, rgb[j], cover) + 0.5f);
  }
  return FVG_OK;
}

#endif /* FVGPT_NO_TRAINING */

FVG__SELDOM_RUN_END

#ifndef FVGPT_NO_TRAINING  /* chapter 39: masks are for training */
/*==================================================================================================
 * CHAPTER 39  FOREGROUND: masks made by CLIP itself
 *==================================================================================================
   FVG-PT needs a mask for every training picture.  Its authors had them made by another network,
   which was asked for each class by name.  Here the CLIP that is loaded makes them: one pass of the
   image tower, no gradient, and a look at the picture's colours.

   Why not the tower's own attention?  In the last block, the class token gathers what is left to
   decide, and that lies on a few patches anywhere; the patches' own outputs are mixed from all over
   the picture.  What a patch itself shows is still in its value, and patches that show the same
   thing have keys alike.  So the last block is run with another attention, in each head of width d,

     (1)  y = W_out [ softmax(K K^T / sqrt d) V ],      f_p = norm(W_proj LN_post(y_p)),

   in which each patch looks at those that are like it.  Residual and MLP are left out: they serve
   the class token.  (MaskCLIP, arXiv 2112.01071, takes the values alone; SCLIP, arXiv 2312.01597,
   ClearCLIP, arXiv 2407.12442, and NACLIP, arXiv 2404.08181, compare queries or keys.)

   A patch speaks for the picture's class y as far as its feature is nearer to the class than to any
   word u for a background,

     (2)  o_p = cos(f_p, g_y) - max_u cos(f_p, g_u).

   The text tower may hardly know the class, and take the picture for others.  These are its rivals:
   at the patch that speaks most for y their logits, s times the cosine, are above y's or at most 2
   below.  With them,

     (3)  m_p = o_p + max_{t in y and rivals} cos(f_p, g_t) - max_u cos(f_p, g_u).

   A class of another thing in the picture is no rival, for it is nearer elsewhere.  If y is not
   known, every class counts: m_p = max_t cos(f_p, g_t) - max_u cos(f_p, g_u).

   Photographers put their subject near the middle.  With m stretched to 0..1, and x and y
   from -1 to 1 across the picture, the centre is preferred by

     (4)  m_p += c (1 - (x_p^2 + y_p^2) / 2).

   The thing is one piece, and the map so far has holes.  A random walk fills them: it goes from
   patch to patch as the patches attend to each other.  A is the mean attention of the heads of the
   last 8 blocks, its rows scaled to sum 1, and

     (5)  m <- W^3 m,      W = A + A^T with its rows scaled to sum 1.

   (CLIP-ES, arXiv 2212.09506, refines its maps with the attention of the last 8 blocks.)  Where
   patches are coarse, fewer than 100, a step takes the map beyond the thing, and there is no walk.

   Patches are no pixels.  The threshold that divides m best (Otsu 1979) becomes the zero of a logit
   l = 2 (m - threshold) / deviation, spread over the picture; then colours and edges have their
   say, twice, as in GrabCut (Rother et al. 2004), but without its graph cut:

     (6)  l' = l + w ln(h_F(colour) / h_B(colour)),      p <- guided(sigmoid(l')),

   with h_F and h_B the histograms of colours, weighed with p and 1 - p.  The guided filter (He et
   al. 2013) makes p, in windows of three patches a side, a linear function of the colour: smooth
   where the colour is, with edges where it has edges.  It works on 8 pixels for a patch, and its
   linear functions are then applied to every pixel (He and Sun 2015, arXiv 1505.00996).

   How good is a mask?  Two things tell without another one: a map that knows what it shows has
   values near 0 and near 1, and a thing seldom fills the picture's border, of which e is the share
   that is foreground,

     (7)  confidence = mean_pixels |2 p - 1| (1 - e / 2).

   A learner's prompts may stand in for CLIP's own words, and before the patches in the tower.  (1)
   to (6) then show what the tuned model takes for the thing. */

/* A picture of any sides goes through the tower as a grid of about as many patches as in training,
   whose sides are in its own proportion; nothing is cut off. */
typedef struct fvg__grid {
  int rows, cols;
} fvg__grid;

/* A small picture with what is worked out on it; every array is [rows, cols] of its own grid. */
typedef struct fvg__canvas {
  fvg__grid size;
  float *guide[3];                     /* R, G, B, 0 to 1 */
  float *logit, *p;                    /* l and p of (6) */
  float *mean[3];                      /* of the guide in each window */
  float *inverse[6];                   /* of its covariance there: RR, RG, RB, GG, GB, BB */
  float *slope[3], *offset;            /* the guided filter: p = sum_c slope_c guide_c + offset */
  float *product, *lines;              /* scratch */
  float *inside, *outside;             /* h_F and h_B, [16, 16, 16] */
  double *sums;                        /* [cols] scratch */
  float *memory;                       /* what the arrays of floats lie in */
} fvg__canvas;

struct fvg_foreground {
  fvg_clip *clip;
  fvg_foreground_desc desc;            /* complete; texts that the caller owns are NULL */
  float *text;                         /* [n_class + n_background, embed_dim], normalised */
  int n_class, n_background;
  fvg__canvas canvas;                  /* of the picture before; the next one uses it again */
};

/* ---- the texts ---- */
static fvg_status fvg__foreground_texts(fvg_foreground *x, const char *const *class_name,
                                        const fvg_foreground_desc *d) {
  fvg_clip *m = x->clip;
  const char *const *background = d->n_background ? d->background : fvg__scenery;
  const char *backdrop = d->background_template ? d->background_template : d->prompt_template;

  float *behind = x->text + fvg__row(x->n_class, m->embed_dim);
  fvg_status s = fvg_clip_encode_classes(m, behind, backdrop, background, x->n_background);
  if (s) return s;
  if (d->learner) return fvg_learner_text_features(d->learner, x->text, class_name, x->n_class);
  return fvg_clip_encode_classes(m, x->text, d->prompt_template, class_name, x->n_class);
}

/* Encodes the classes and the words for backgrounds, once for all pictures. */
FVG_DEF fvg_status fvg_foreground_new(fvg_clip *m, fvg_foreground **out,
                                      const char *const *class_name, int n_class,
                                      const fvg_foreground_desc *desc) {
  if (out) *out = NULL;
  if (!m) return FVG_E_ARG;
  if (!out) return fvg__missing(m->ctx, "fvg_foreground_new", "a place for the result");
  fvg_foreground_desc d;
  memset(&d, 0, sizeof d);
  if (desc) d = *desc;
  if (!class_name || n_class < 1)
    return fvg_fail(m->ctx, FVG_E_ARG, "foreground: needs the name of at least one class");
  if (d.n_background < 0 || (d.n_background && !d.background))
    return fvg_fail(m->ctx, FVG_E_ARG, "foreground: %d background words", d.n_background);
  if ((unsigned)d.attention > FVG_NO_ATTENTION || (unsigned)d.contrast > FVG_ANY_CLASS)
    return fvg_fail(m->ctx, FVG_E_ARG, "foreground: no attention %d, or no contrast %d",
                    (int)d.attention, (int)d.contrast);
  if (!isfinite(d.centre_prior) || !isfinite(d.colour_weight))
    return fvg_fail(m->ctx, FVG_E_ARG, "foreground: centre_prior and colour_weight must be finite");
  if (!m->has_vision || !m->has_text)
    return fvg_fail(m->ctx, FVG_E_ARG, "foreground: needs a model with both towers");
  fvg_status s = fvg__check_tuned(m, d.learner, NULL);
  if (s) return s;

  fvg_foreground *x = FVG_NEW(m->ctx, fvg_foreground);
  if (!x) return FVG_E_NOMEM;
  x->clip = m;
  x->n_class = n_class;
  x->n_background = d.n_background;
  if (!x->n_background) x->n_background = (int)(sizeof fvg__scenery / sizeof *fvg__scenery);
  x->text = FVG_NEW_ARRAY(m->ctx, float, fvg__row(n_class + x->n_background, m->embed_dim));
  s = x->text ? fvg__foreground_texts(x, class_name, &d) : FVG_E_NOMEM;
  if (s) {
    fvg_foreground_free(x);
    return s;
  }

  x->desc = d;
  x->desc.prompt_template = NULL;
  x->desc.background_template = NULL;
  x->desc.background = NULL;
  if (d.walk_layers < 1) x->desc.walk_layers = 8;
  if (!(d.colour_weight < 0 || d.colour_weight > 0)) x->desc.colour_weight = 0.5f;
  if (d.quick) x->desc.walk_steps = -1;
  if (d.quick) x->desc.colour_weight = -1;
  *out = x;
  return FVG_OK;
}

static void fvg__canvas_free(fvg_ctx *c, fvg__canvas *x) {
  fvg_release(c, x->memory);
  fvg_release(c, x->sums);
  memset(x, 0, sizeof *x);
}

FVG_DEF void fvg_foreground_free(fvg_foreground *x) {
  if (!x) return;
  fvg__canvas_free(x->clip->ctx, &x->canvas);
  fvg_release(x->clip->ctx, x->text);
  fvg_release(x->clip->ctx, x);
}

/* ---- a view: the picture in patches ---- */
static fvg__grid fvg__grid_of(const fvg_clip *m, const fvg_image *picture) {
  const int n = m->vision.image_size / m->vision.patch_size;
  const double ratio = sqrt((double)picture->height / picture->width);
  fvg__grid grid;
  grid.rows = (int)(n * ratio + 0.5);
  if (grid.rows < 1) grid.rows = 1;
  if (grid.rows > n * n) grid.rows = n * n;
  grid.cols = (int)((double)n * n / grid.rows + 0.5);
  if (grid.cols < 1) grid.cols = 1;
  return grid;
}

static int fvg__grid_patches(fvg__grid grid) { return grid.rows * grid.cols; }

/* The index of 0..n-1 that is nearest to i. */
static int fvg__within(int i, int n) { return i < 0 ? 0 : fvg__min(i, n - 1); }

/* Weights of the four samples around a place `share` of the way from the second to the third, by
   the cubic of PyTorch's interpolate (a = -0.75). */
static void fvg__cubic_weights(double share, double w[4]) {
  const double a = -0.75;
  for (int i = 0; i < 4; i++) {
    const double x = fabs(share + 1 - i);
    w[i] = x <= 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  }
}

/* Position embeddings for a grid of another form: the learned ones, [1 + n n, w], between whose
   places lie the grid's -> out [1 + rows cols, w].  The class token keeps its own. */
static void fvg__resize_positions(const fvg_vision_tower *v, fvg__grid grid, float *out) {
  const int n = v->image_size / v->patch_size;
  const int w = v->width;
  const float *learned = (const float *)v->position_embedding.data;
  memcpy(out, learned, (size_t)w * sizeof *out);

  for (int p = 0; p < fvg__grid_patches(grid); p++) {
    const double y = (p / grid.cols + 0.5) * n / grid.rows - 0.5;
    const double x = (p % grid.cols + 0.5) * n / grid.cols - 0.5;
    const int top = (int)floor(y), left = (int)floor(x);
    double down[4], across[4];
    fvg__cubic_weights(y - top, down);
    fvg__cubic_weights(x - left, across);

    float *to = out + fvg__row(1 + p, w);
    memset(to, 0, (size_t)w * sizeof *to);
    for (int k = 0; k < 16; k++) {
      const int row = fvg__within(top - 1 + k / 4, n);
      const int col = fvg__within(left - 1 + k % 4, n);
      const float weight = (float)(down[k / 4] * across[k % 4]);
      const float *from = learned + fvg__row(1 + row * n + col, w);
      for (int j = 0; j < w; j++)
        to[j] += weight * from[j];
    }
  }
}

/* The picture as the rows that enter the first block: the class token, the learner's prompts if
   there are any, and the patches. */
static fvg_node *fvg__foreground_embed(fvg_tape *t, const fvg__image_rows *rows, fvg__grid grid,
                                       const fvg_image *picture, fvg_node *vectors) {
  const fvg_clip *m = rows->clip;
  const fvg_vision_tower *v = &m->vision;
  const int p = v->patch_size, n_patch = fvg__grid_patches(grid);
  const int height = grid.rows * p, width = grid.cols * p;
  fvg_node *pixels = fvg_zeros(t, 3 * height, width);
  fvg_node *patches = fvg_zeros(t, n_patch, 3 * p * p);
  fvg_node *positions = fvg_zeros(t, 1 + n_patch, v->width);
  if (!pixels || !patches || !positions) return NULL;

  fvg_image resized;
  fvg_status s =
      fvg_image_resize(m->ctx, &resized, picture, width, height, m->preprocess.filter);
  if (!s) s = fvg_image_normalize(m->ctx, fvg_fill(pixels), &resized, &m->preprocess);
  fvg_image_free(m->ctx, &resized);
  if (s) return fvg__give_up(t);

  fvg__cut_patches(fvg_value(pixels), height, width, p, fvg_fill(patches));
  fvg__resize_positions(v, grid, fvg_fill(positions));

  fvg_node *x = fvg_linear(patches, fvg_frozen(t, &v->patch_weight), NULL);
  x = fvg_concat(fvg_frozen(t, &v->class_embedding), x);
  x = fvg_add(x, positions);
  if (rows->plan.n_start) x = fvg__insert_start(rows, x, vectors);
  return fvg__norm(x, &v->ln_pre_weight, &v->ln_pre_bias, v->transformer.eps);
}

/* ---- (1) features of patches, and A of (5) on the way ---- */
/* One pass through the image tower.  The patches are the last rows of its input; before them stand
   the class token and prompts. */
typedef struct fvg__foreground_pass {
  const fvg_foreground *foreground;
  fvg__grid grid;
  float *cosine;                       /* [texts, patches] of (2) */
  float *attention;                    /* [patches, patches] sums of (5); NULL: not wanted */
  const float *q, *k;                  /* [n_token, w] of the block at hand */
  int n_token;
  float *row;                          /* [patches, most_token] scratch */
  int most_token;                      /* the largest n_token */
} fvg__foreground_pass;

/* Adds what patch p attends to in one block, as the mean over its heads. */
static void fvg__add_attention(void *arg, int p) {
  fvg__foreground_pass *x = (fvg__foreground_pass *)arg;
  const fvg_clip *m = x->foreground->clip;
  const fvg__kernels *kernels = m->ctx->kernels;
  const int n_patch = fvg__grid_patches(x->grid), first = x->n_token - n_patch;
  const int n_head = m->vision.transformer.n_head, w = m->vision.width, d = w / n_head;
  float *sum = x->attention + fvg__row(p, n_patch);
  float *row = x->row + fvg__row(p, x->most_token);

  for (int head = 0; head < n_head; head++) {
    const float *q = x->q + fvg__row(first + p, w) + head * d;
    for (int i = 0; i < x->n_token; i++)
      row[i] = kernels->dot(d, q, x->k + fvg__row(i, w) + head * d);
    kernels->softmax(x->n_token, row, 1 / sqrtf((float)d), row);
    for (int i = 0; i < n_patch; i++)
      sum[i] += row[first + i] / (float)n_head;
  }
}

/* Writes the cosines of (2) from the patches' features f [patches, d]. */
static void fvg__patch_cosines(const fvg__foreground_pass *x, const float *f) {
  const fvg_foreground *fg = x->foreground;
  const fvg__kernels *kernels = fg->clip->ctx->kernels;
  const int d = fg->clip->embed_dim, n_patch = fvg__grid_patches(x->grid);
  for (int i = 0; i < fg->n_class + fg->n_background; i++) {
    const float *text = fg->text + fvg__row(i, d);
    float *cosine = x->cosine + fvg__row(i, n_patch);
    for (int p = 0; p < n_patch; p++)
      cosine[p] = kernels->dot(d, f + fvg__row(p, d), text);
  }
}

/* Adds the attention of one block's input to the sums of (5). */
static fvg_status fvg__follow_block(fvg__foreground_pass *x, fvg_node *in, const fvg_block *b) {
  fvg_clip *m = x->foreground->clip;
  fvg_node *a = fvg__norm(in, &b->ln_1_weight, &b->ln_1_bias, m->vision.transformer.eps);
  fvg_node *q = fvg__project(a, &b->q_weight, &b->q_bias);
  fvg_node *k = fvg__project(a, &b->k_weight, &b->k_bias);
  if (!q || !k) return m->ctx->status;
  x->q = fvg_value(q);
  x->k = fvg_value(k);
  x->n_token = in->rows;
  return fvg_parallel(m->ctx, fvg__add_attention, x, fvg__grid_patches(x->grid));
}

/* What enters the last block, and on the way the sums of (5). */
static fvg_node *fvg__follow_tower(fvg__foreground_pass *x, fvg_node *in,
                                   const fvg__image_rows *rows, fvg_node *vectors) {
  fvg_tape *t = in->tape;
  const fvg_transformer *blocks = &rows->clip->vision.transformer;
  const int first_followed = blocks->n_layer - x->foreground->desc.walk_layers;
  const fvg_prompts prompts = fvg__prompts(&rows->splicing, vectors);
  const fvg_segment *segment = rows->segment;
  fvg_mark mark = fvg_tape_mark(t);
  int n_spliced = 0;

  for (int i = 0; in; i++) {
    if (n_spliced < prompts.n_splice && prompts.splice[n_spliced].layer == i) {
      const fvg_splice *splice = &prompts.splice[n_spliced++];
      in = fvg__splice_in(in, &prompts, splice);
      if (splice->segment) segment = splice->segment;
    }
    fvg_mark before = fvg_tape_mark(t);
    if (in && x->attention && i >= first_followed && fvg__follow_block(x, in, &blocks->block[i]))
      return NULL;
    fvg_tape_reset(t, before);

    if (i == blocks->n_layer - 1) break;         /* the last block is run in its own way */
    fvg_transformer one = *blocks;
    one.block += i;
    one.n_layer = 1;
    in = fvg_tape_keep(t, mark, fvg_transform(in, &one, segment, 1, NULL, 0));
  }
  return in;
}

/* The features of (1) of all patches, [patches, d], from what enters the last block. */
static fvg_node *fvg__foreground_features(const fvg_clip *m, fvg_node *in, int n_patch,
                                          fvg_self_attention kind) {
  const fvg_transformer *blocks = &m->vision.transformer;
  const fvg_block *last = fvg__last_of(m);
  fvg_node *a = fvg__norm(in, &last->ln_1_weight, &last->ln_1_bias, blocks->eps);
  fvg_node *y = fvg__last_attention(a, blocks, last, kind);
  return y ? fvg_normalize(fvg__row_features(m, y, y->rows - n_patch, n_patch)) : NULL;
}

/* Runs the tower on the picture: its patches' cosines of (2), and on the way the sums of (5).  rows
   are those of the grid, and vectors the learner's prompts, if it has any in this tower. */
static fvg_status fvg__run_tower(fvg__foreground_pass *x, fvg_tape *t, const fvg_image *picture,
                                 const fvg__image_rows *rows, fvg_node *vectors) {
  const fvg_clip *m = rows->clip;
  const int n_patch = fvg__grid_patches(x->grid);
  fvg_mark mark = fvg_tape_mark(t);
  fvg_node *in = fvg__foreground_embed(t, rows, x->grid, picture, vectors);
  in = fvg_tape_keep(t, mark, in);
  if (in) in = fvg__follow_tower(x, in, rows, vectors);
  const fvg_self_attention kind = x->foreground->desc.attention;
  fvg_node *f = in ? fvg__foreground_features(m, in, n_patch, kind) : NULL;
  if (!f) return m->ctx->status;
  fvg_status s = fvg__check_features(m, "patch", fvg_value(f), f->rows, 1);
  if (!s) fvg__patch_cosines(x, fvg_value(f));
  return s;
}

/* Plans the rows, of which the tower has as many as the grid has places, and runs it. */
static fvg_status fvg__run_pass(fvg__foreground_pass *x, fvg_tape *t, const fvg_image *picture) {
  fvg_clip view = *x->foreground->clip;          /* the same model, for pictures of this form */
  view.vision.n_token = 1 + fvg__grid_patches(x->grid);
  fvg_learner *l = x->foreground->desc.learner;
  const int prompted = fvg__learner_parts(l) > 1;

  fvg__image_rows rows;
  fvg_status s = fvg__image_rows_new(&view, &rows, 1, prompted ? &l->plan[FVG__IMAGE] : NULL);
  if (s) return s;
  t->no_grad++;
  fvg_node *vectors = prompted ? l->method->vectors(l, t, FVG__IMAGE) : NULL;
  if (prompted && !vectors) s = fvg__method_failed(l);
  if (!s) s = fvg__run_tower(x, t, picture, &rows, vectors);
  t->no_grad--;
  fvg__image_rows_free(&rows);
  return s;
}

/* ---- (2) to (5) the map of patches ---- */
/* max over n texts of the cosine with patch p; cosine [n, n_patch] */
static float fvg__nearest_text(const float *cosine, int n, int n_patch, int p) {
  float best = cosine[p];
  for (int i = 1; i < n; i++) {
    const float *row = cosine + fvg__row(i, n_patch);
    if (row[p] > best) best = row[p];
  }
  return best;
}

/* Writes m of (3) from the cosines [texts, patches]. */
static void fvg__contrast_map(const fvg_foreground *x, const float *cosine, int n_patch, int label,
                              float *map) {
  const int any = label < 0 || x->desc.contrast == FVG_ANY_CLASS;
  const float *own = cosine + (any ? 0 : fvg__row(label, n_patch));
  const float *background = cosine + fvg__row(x->n_class, n_patch);
  int hottest = 0;
  for (int p = 0; p < n_patch; p++) {
    const float nearest = any ? fvg__nearest_text(cosine, x->n_class, n_patch, p) : own[p];
    map[p] = nearest - fvg__nearest_text(background, x->n_background, n_patch, p);
    if (map[p] > map[hottest]) hottest = p;
  }
  if (any || x->desc.contrast == FVG_OWN_CLASS) return;

  /* map is o of (2).  What the own class has to add is the nearest of it and its rivals, less the
     background, which is o + (nearest - own).  s cos is the logit, so 2 logits are 2 / s in
     cosine. */
  const float margin = 2 / x->clip->logit_scale;
  for (int p = 0; p < n_patch; p++) {
    float nearest = own[p];
    for (int t = 0; t < x->n_class; t++) {
      const float *rival = cosine + fvg__row(t, n_patch);
      if (rival[hottest] >= own[hottest] - margin && rival[p] > nearest) nearest = rival[p];
    }
    map[p] = 2 * map[p] + nearest - own[p];
  }
}

/* Stretches the n values of x to 0..1; all become 0 if they are equal. */
static void fvg__stretch(float *x, int n) {
  float least = x[0], most = x[0];
  for (int i = 1; i < n; i++) {
    if (x[i] < least) least = x[i];
    if (x[i] > most) most = x[i];
  }
  for (int i = 0; i < n; i++)
    x[i] = most > least ? (x[i] - least) / (most - least) : 0;
}

/* (4) */
static void fvg__prefer_centre(float *map, fvg__grid grid, float c) {
  for (int p = 0; p < fvg__grid_patches(grid); p++) {
    const float y = 2 * ((float)(p / grid.cols) + 0.5f) / (float)grid.rows - 1;
    const float x = 2 * ((float)(p % grid.cols) + 0.5f) / (float)grid.cols - 1;
    map[p] += c * (1 - (x * x + y * y) / 2);
  }
}

static void fvg__scale_rows(float *a, int n) {
  for (int i = 0; i < n; i++) {
    float *row = a + fvg__row(i, n);
    float sum = 0;
    for (int j = 0; j < n; j++)
      sum += row[j];
    for (int j = 0; j < n && sum > 0; j++)
      row[j] /= sum;
  }
}

/* (5): a [n,n] becomes W, and map takes `steps` steps; next [n] is scratch. */
static void fvg__random_walk(float *a, float *map, float *next, int n, int steps) {
  fvg__scale_rows(a, n);
  for (int i = 0; i < n; i++) {
    float *row = a + fvg__row(i, n), *column = a + i;
    for (int j = 0; j <= i; j++) {
      row[j] += column[fvg__row(j, n)];
      column[fvg__row(j, n)] = row[j];
    }
  }
  fvg__scale_rows(a, n);

  for (int step = 0; step < steps; step++) {
    for (int i = 0; i < n; i++) {
      const float *row = a + fvg__row(i, n);
      float sum = 0;
      for (int j = 0; j < n; j++)
        sum += row[j] * map[j];
      next[i] = sum;
    }
    memcpy(map, next, (size_t)n * sizeof *map);
  }
}

/* ---- from patches to pixels ---- */
/* A value of grid at the place of pixel (y, x) of a picture, bilinear between the centres of cells;
   beyond the outermost centres it stays as it is there. */
static float fvg__grid_value(const float *value, fvg__grid grid, int y, int x, int height,
                             int width) {
  float down = ((float)y + 0.5f) * (float)grid.rows / (float)height - 0.5f;
  float across = ((float)x + 0.5f) * (float)grid.cols / (float)width - 0.5f;
  if (down < 0) down = 0;
  if (across < 0) across = 0;
  const int top = fvg__min((int)down, grid.rows - 1), left = fvg__min((int)across, grid.cols - 1);
  const int bottom = fvg__min(top + 1, grid.rows - 1), right = fvg__min(left + 1, grid.cols - 1);
  down -= (float)top;
  across -= (float)left;

  const float *upper = value + top * grid.cols, *lower = value + bottom * grid.cols;
  return fvg__mix(fvg__mix(upper[left], upper[right], across),
                  fvg__mix(lower[left], lower[right], across), down);
}

/* ---- (6) colours and edges ---- */
#define FVG__PATCH_PIXELS 8            /* pixels a side that stand for one patch */
#define FVG__COLOUR_BINS 16            /* of a histogram, for each of R, G and B */
#define FVG__COLOUR_ROUNDS 2

/* Gives a canvas its size; its arrays of floats lie in one block of memory. */
static fvg_status fvg__canvas_resize(fvg_ctx *c, fvg__canvas *x, fvg__grid size) {
  if (x->memory && x->size.rows == size.rows && x->size.cols == size.cols) return FVG_OK;
  fvg__canvas_free(c, x);
  const size_t n = fvg__row(size.rows, size.cols);
  const size_t n_bin = (size_t)FVG__COLOUR_BINS * FVG__COLOUR_BINS * FVG__COLOUR_BINS;
  x->size = size;
  x->memory = FVG_NEW_ARRAY(c, float, 20 * n + 2 * n_bin);
  x->sums = FVG_NEW_ARRAY(c, double, (size_t)size.cols);
  if (!x->memory || !x->sums) {
    fvg__canvas_free(c, x);
    return FVG_E_NOMEM;
  }

  float *at = x->memory;
  for (int i = 0; i < 3; i++, at += 3 * n) {
    x->guide[i] = at;
    x->mean[i] = at + n;
    x->slope[i] = at + 2 * n;
  }
  for (int i = 0; i < 6; i++, at += n)
    x->inverse[i] = at;
  x->logit = at;
  x->p = at + n;
  x->offset = at + 2 * n;
  x->product = at + 3 * n;
  x->lines = at + 4 * n;
  x->inside = at + 5 * n;
  x->outside = x->inside + n_bin;
  return FVG_OK;
}

/* One divided by the number of places that a window of 2 radius + 1 around place i has inside
   0..n-1; `whole` is that of a window that is not cut off. */
static double fvg__window_scale(int i, int n, int radius, double whole) {
  const int first = i < radius ? 0 : i - radius;
  const int last = fvg__min(n - 1, i + radius);
  return last - first == 2 * radius ? whole : 1.0 / (last - first + 1);
}

/* The means over windows in one line of n values; each sum follows from the one before. */
static void fvg__window_means(const float *in, float *out, int n, int radius) {
  const double whole = 1.0 / (2 * radius + 1);
  double sum = 0;
  for (int i = 0; i < n && i < radius; i++)
    sum += (double)in[i];
  for (int i = 0; i < n; i++) {
    if (i + radius < n) sum += (double)in[i + radius];
    if (i > radius) sum -= (double)in[i - radius - 1];
    out[i] = (float)(sum * fvg__window_scale(i, n, radius, whole));
  }
}

/* The mean of `in` over the square window around every pixel -> out, which may be `in`: first along
   the rows, then down all columns together. */
static void fvg__box_means(fvg__canvas *x, const float *in, float *out, int radius) {
  const int rows = x->size.rows, cols = x->size.cols;
  const double whole = 1.0 / (2 * radius + 1);
  double *sum = x->sums;
  for (int y = 0; y < rows; y++)
    fvg__window_means(in + fvg__row(y, cols), x->lines + fvg__row(y, cols), cols, radius);

  memset(sum, 0, (size_t)cols * sizeof *sum);
  for (int y = -radius; y < rows; y++) {
    const float *enters = x->lines + fvg__row(y + radius, cols);
    for (int col = 0; y + radius < rows && col < cols; col++)
      sum[col] += (double)enters[col];
    if (y < 0) continue;

    const float *leaves = x->lines + fvg__row(y > radius ? y - radius - 1 : 0, cols);
    for (int col = 0; y > radius && col < cols; col++)
      sum[col] -= (double)leaves[col];
    const double scale = fvg__window_scale(y, rows, radius, whole);
    float *to = out + fvg__row(y, cols);
    for (int col = 0; col < cols; col++)
      to[col] = (float)(sum[col] * scale);
  }
}

/* Writes the mean of a times b over each window, less the product of their means. */
static void fvg__box_covariance(fvg__canvas *x, const float *a, const float *b, const float *mean_a,
                                const float *mean_b, float *out, int radius) {
  const size_t n = fvg__row(x->size.rows, x->size.cols);
  for (size_t i = 0; i < n; i++)
    x->product[i] = a[i] * b[i];
  fvg__box_means(x, x->product, out, radius);
  for (size_t i = 0; i < n; i++)
    out[i] -= mean_a[i] * mean_b[i];
}

/* The histogram's bin of the colour of pixel i of the guide. */
static int fvg__colour_bin(const fvg__canvas *x, size_t i) {
  int bin = 0;
  for (int c = 0; c < 3; c++)
    bin = bin * FVG__COLOUR_BINS + (int)(x->guide[c][i] * (FVG__COLOUR_BINS - 1) + 0.5f);
  return bin;
}

/* The inverse of a symmetric matrix of colours, in the order rr, rg, rb, gg, gb, bb. */
static void fvg__invert_3x3(const double c[6], double inverse[6]) {
  const double rr = c[0], rg = c[1], rb = c[2], gg = c[3], gb = c[4], bb = c[5];
  const double cofactor[6] = {gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg,
                              rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg};
  const double scale = 1 / (rr * cofactor[0] + rg * cofactor[1] + rb * cofactor[2]);
  for (int k = 0; k < 6; k++)
    inverse[k] = cofactor[k] * scale;
}

/* Lays the picture down as the guide: the colours' means and (C + eps 1)^-1 in every window, with
   C their covariance. */
static void fvg__lay_guide(fvg__canvas *x, const fvg_image *small, int radius) {
  const size_t n = fvg__row(x->size.rows, x->size.cols);
  for (size_t i = 0; i < n; i++)
    for (int c = 0; c < 3; c++)
      x->guide[c][i] = (float)small->pixels[3 * i + (size_t)c] / 255;
  for (int c = 0; c < 3; c++)
    fvg__box_means(x, x->guide[c], x->mean[c], radius);

  int pair = 0;
  for (int a = 0; a < 3; a++)
    for (int b = a; b < 3; b++)
      fvg__box_covariance(x, x->guide[a], x->guide[b], x->mean[a], x->mean[b], x->inverse[pair++],
                          radius);

  const double eps = 1e-3;
  for (size_t i = 0; i < n; i++) {
    double c[6], inverse[6];
    for (int k = 0; k < 6; k++)
      c[k] = (double)x->inverse[k][i] + (k == 0 || k == 3 || k == 5 ? eps : 0);
    fvg__invert_3x3(c, inverse);
    for (int k = 0; k < 6; k++)
      x->inverse[k][i] = (float)inverse[k];
  }
}

/* The guided filter: in each window, the linear function of the colour that is nearest to p; then
   each pixel takes the mean of the functions of all windows that hold it. */
static void fvg__fit_lines(fvg__canvas *x, int radius) {
  const size_t n = fvg__row(x->size.rows, x->size.cols);
  fvg__box_means(x, x->p, x->offset, radius);
  for (int c = 0; c < 3; c++)
    fvg__box_covariance(x, x->guide[c], x->p, x->mean[c], x->offset, x->slope[c], radius);

  float *const *inverse = x->inverse;
  for (size_t i = 0; i < n; i++) {
    const float r = x->slope[0][i], g = x->slope[1][i], b = x->slope[2][i];
    x->slope[0][i] = inverse[0][i] * r + inverse[1][i] * g + inverse[2][i] * b;
    x->slope[1][i] = inverse[1][i] * r + inverse[3][i] * g + inverse[4][i] * b;
    x->slope[2][i] = inverse[2][i] * r + inverse[4][i] * g + inverse[5][i] * b;
    for (int c = 0; c < 3; c++)
      x->offset[i] -= x->slope[c][i] * x->mean[c][i];
  }
  for (int c = 0; c < 3; c++)
    fvg__box_means(x, x->slope[c], x->slope[c], radius);
  fvg__box_means(x, x->offset, x->offset, radius);
}

/* Blurs a histogram by (1, 2, 1) / 4 along each colour, so that it does not matter where the
   borders of bins happen to lie, and scales it to sum 1. */
static void fvg__smooth_histogram(float *h, float total) {
  const int n = FVG__COLOUR_BINS;
  const int step[3] = {n * n, n, 1};
  for (int c = 0; c < 3; c++) {
    for (int line = 0; line < n * n; line++) {
      const int across = line / n, along = line % n;
      float *bin = h + across * (c == 0 ? n : n * n) + along * (c == 2 ? n : 1);
      float before = bin[0];
      for (int i = 0; i < n; i++) {
        const float here = bin[i * step[c]];
        const float after = i + 1 < n ? bin[(i + 1) * step[c]] : here;
        bin[i * step[c]] = (before + 2 * here + after) / 4;
        before = here;
      }
    }
  }
  for (int i = 0; i < n * n * n && total > 0; i++)
    h[i] /= total;
}

/* Makes h_F and h_B of the colours as p divides them. */
static void fvg__count_colours(fvg__canvas *x) {
  const size_t n = fvg__row(x->size.rows, x->size.cols);
  const size_t bytes = sizeof(float) * FVG__COLOUR_BINS * FVG__COLOUR_BINS * FVG__COLOUR_BINS;
  memset(x->inside, 0, bytes);
  memset(x->outside, 0, bytes);
  double inside = 0;
  for (size_t i = 0; i < n; i++) {
    const int bin = fvg__colour_bin(x, i);
    x->inside[bin] += x->p[i];
    x->outside[bin] += 1 - x->p[i];
    inside += (double)x->p[i];
  }
  fvg__smooth_histogram(x->inside, (float)inside);
  fvg__smooth_histogram(x->outside, (float)((double)n - inside));
}

static float fvg__sigmoid_of(float x) { return 1 / (1 + expf(-x)); }

/* One round of (6): histograms, new p, and the guided filter's lines for it. */
static void fvg__colour_round(fvg__canvas *x, float weight, int radius) {
  const float least = 1e-5f;             /* of a histogram: a colour that is nowhere says nothing */
  const size_t n = fvg__row(x->size.rows, x->size.cols);
  fvg__count_colours(x);
  for (size_t i = 0; i < n; i++) {
    const int bin = fvg__colour_bin(x, i);
    const float likely = (x->inside[bin] + least) / (x->outside[bin] + least);
    x->p[i] = fvg__sigmoid_of(x->logit[i] + weight * logf(likely));
  }

  fvg__fit_lines(x, radius);
  for (size_t i = 0; i < n; i++) {
    float p = x->offset[i];
    for (int c = 0; c < 3; c++)
      p += x->slope[c][i] * x->guide[c][i];
    x->p[i] = p < 0 ? 0 : p > 1 ? 1 : p;
  }
}

/* Works (6) out on a small copy of the picture: l [of the canvas] is there, p becomes what colours
   and edges make of it. */
static fvg_status fvg__ask_colours(fvg_ctx *c, fvg__canvas *x, const fvg_image *picture,
                                   float weight) {
  const int radius = 3 * FVG__PATCH_PIXELS / 2;
  fvg_image small;
  fvg_status s =
      fvg_image_resize(c, &small, picture, x->size.cols, x->size.rows, FVG_BILINEAR);
  if (s) return s;
  fvg__lay_guide(x, &small, radius);
  fvg_image_free(c, &small);

  for (int round = 0; round < FVG__COLOUR_ROUNDS; round++)
    fvg__colour_round(x, weight, radius);
  return FVG_OK;
}

/* Applies the canvas's lines to every pixel of the picture -> map [height, width], 0 to 1. */
static void fvg__apply_lines(const fvg__canvas *x, const fvg_image *picture, float *map) {
  for (int y = 0; y < picture->height; y++) {
    for (int col = 0; col < picture->width; col++) {
      const size_t i = fvg__row(y, picture->width) + (size_t)col;
      float p = fvg__grid_value(x->offset, x->size, y, col, picture->height, picture->width);
      for (int c = 0; c < 3; c++) {
        const float slope =
            fvg__grid_value(x->slope[c], x->size, y, col, picture->height, picture->width);
        p += slope * (float)picture->pixels[3 * i + (size_t)c] / 255;
      }
      map[i] = p < 0 ? 0 : p > 1 ? 1 : p;
    }
  }
}

/* Sets l of (6), and p = sigmoid(l), from the map of patches. */
static void fvg__start_canvas(fvg__canvas *x, const float *patch, fvg__grid grid) {
  const size_t n = fvg__row(x->size.rows, x->size.cols);
  double sum = 0, squares = 0;
  for (int y = 0; y < x->size.rows; y++)
    for (int col = 0; col < x->size.cols; col++) {
      const float m = fvg__grid_value(patch, grid, y, col, x->size.rows, x->size.cols);
      x->logit[fvg__row(y, x->size.cols) + (size_t)col] = m;
      sum += (double)m;
    }
  const double mean = sum / (double)n;
  for (size_t i = 0; i < n; i++)
    squares += ((double)x->logit[i] - mean) * ((double)x->logit[i] - mean);

  const float threshold = fvg__best_threshold(x->logit, n);
  const float deviation = (float)sqrt(squares / (double)n);
  for (size_t i = 0; i < n; i++) {
    x->logit[i] = deviation > 0 ? 2 * (x->logit[i] - threshold) / deviation : 0;
    x->p[i] = fvg__sigmoid_of(x->logit[i]);
  }
}

/* (7) of a map [height, width] */
static float fvg__map_confidence(const float *p, int height, int width) {
  const size_t n = fvg__row(height, width);
  double sharpness = 0;
  for (size_t i = 0; i < n; i++)
    sharpness += fabs(2 * (double)p[i] - 1);

  int edge = 0;
  for (int col = 0; col < width; col++)
    edge += (p[col] > 0.5f) + (p[n - (size_t)width + (size_t)col] > 0.5f);
  for (int y = 0; y < height; y++)
    edge += (p[fvg__row(y, width)] > 0.5f) + (p[fvg__row(y + 1, width) - 1] > 0.5f);
  const double e = (double)edge / (2 * ((double)width + (double)height));
  return (float)(sharpness / (double)n * (1 - e / 2));
}

/* ---- the whole ---- */
/* The rows of a picture in the tower, at most: class token, patches and prompts. */
static int fvg__most_tokens(const fvg_foreground *x, int n_patch) {
  const fvg_learner *l = x->desc.learner;
  if (!l) return 1 + n_patch;
  return 1 + n_patch + l->plan[FVG__IMAGE].n_start + l->plan[FVG__IMAGE].n_prompt;
}

/* Makes the map of patches, (1) to (5), of one picture -> patch [patches].  memory has room for the
   cosines [texts, patches], for scratch [patches, most tokens] and for A [patches, patches]. */
static fvg_status fvg__patch_map(const fvg_foreground *x, fvg_tape *t, const fvg_image *picture,
                                 int label, fvg__grid grid, float *memory, float *patch) {
  const int n_patch = fvg__grid_patches(grid);
  const int is_fine = n_patch >= 100;
  const int steps = x->desc.walk_steps ? x->desc.walk_steps : is_fine ? 3 : 0;

  fvg__foreground_pass pass;
  memset(&pass, 0, sizeof pass);
  pass.foreground = x;
  pass.grid = grid;
  pass.cosine = memory;
  pass.row = memory + fvg__row(x->n_class + x->n_background, n_patch);
  pass.most_token = fvg__most_tokens(x, n_patch);
  float *attention = pass.row + fvg__row(n_patch, pass.most_token);
  pass.attention = steps > 0 ? attention : NULL;
  fvg_status s = fvg__run_pass(&pass, t, picture);
  fvg_tape_clear(t);
  if (s) return s;

  fvg__contrast_map(x, pass.cosine, n_patch, label, patch);
  fvg__stretch(patch, n_patch);
  const float prior = fvg__default(x->desc.centre_prior, is_fine ? 1.5f : 0.25f);
  fvg__prefer_centre(patch, grid, fvg__none_if_negative(prior));
  if (steps > 0) fvg__random_walk(attention, patch, pass.row, n_patch, steps);
  return FVG_OK;
}

/* Turns the map of patches into one of pixels. */
static fvg_status fvg__pixel_map(fvg_foreground *x, const fvg_image *picture,
                                 const float *patch, fvg__grid grid, float *map) {
  fvg_ctx *c = x->clip->ctx;
  const fvg__grid size = {grid.rows * FVG__PATCH_PIXELS, grid.cols * FVG__PATCH_PIXELS};
  fvg__canvas *canvas = &x->canvas;
  fvg_status s = fvg__canvas_resize(c, canvas, size);
  if (s) return s;

  fvg__start_canvas(canvas, patch, grid);
  if (x->desc.colour_weight > 0) {
    s = fvg__ask_colours(c, canvas, picture, x->desc.colour_weight);
    if (!s) fvg__apply_lines(canvas, picture, map);
  } else {
    for (int y = 0; y < picture->height; y++)
      for (int col = 0; col < picture->width; col++)
        map[fvg__row(y, picture->width) + (size_t)col] =
            fvg__grid_value(canvas->p, size, y, col, picture->height, picture->width);
  }
  return s;
}

/* Checks what is asked, makes room, and has the patches and then the pixels mapped. */
FVG_DEF fvg_status fvg_foreground_map(fvg_foreground *x, float *map, float *confidence,
                                      const fvg_image *picture, int label) {
  if (!x) return FVG_E_ARG;
  fvg_clip *m = x->clip;
  if (!map) return fvg__missing(m->ctx, "fvg_foreground_map", "a place for the map");
  if (!picture || !picture->pixels || picture->channels != 3)
    return fvg_fail(m->ctx, FVG_E_ARG, "foreground: needs an RGB picture");
  if (label >= x->n_class)
    return fvg_fail(m->ctx, FVG_E_ARG, "foreground: label %d among %d classes", label, x->n_class);
  fvg_tape *t = fvg__clip_tape(m);
  if (!t) return FVG_E_NOMEM;

  const fvg__grid grid = fvg__grid_of(m, picture);
  const int n_patch = fvg__grid_patches(grid);
  const size_t n_cosine = fvg__row(x->n_class + x->n_background, n_patch);
  const size_t n_attention = fvg__row(n_patch, n_patch + fvg__most_tokens(x, n_patch));
  float *patch = FVG_NEW_ARRAY(m->ctx, float, (size_t)n_patch);
  float *memory = FVG_NEW_ARRAY(m->ctx, float, n_cosine + n_attention);
  fvg_status s = patch && memory ? FVG_OK : FVG_E_NOMEM;

  if (!s) s = fvg__patch_map(x, t, picture, label, grid, memory, patch);
  if (!s) s = fvg__pixel_map(x, picture, patch, grid, map);
  if (!s && confidence) *confidence = fvg__map_confidence(map, picture->height, picture->width);
  fvg_release(m->ctx, patch);
  fvg_release(m->ctx, memory);
  return s;
}

FVG_DEF fvg_status fvg_foreground_mask(fvg_foreground *x, fvg_image *mask, float *confidence,
                                       const fvg_image *picture, int label) {
  if (mask) memset(mask, 0, sizeof *mask);
  if (!x) return FVG_E_ARG;
  fvg_ctx *c = x->clip->ctx;
  if (!mask) return fvg__missing(c, "fvg_foreground_mask", "a place for the mask");
  if (!picture) return fvg__missing(c, "fvg_foreground_mask", "a picture");

  float *map = FVG_NEW_ARRAY(c, float, fvg__row(picture->width, picture->height));
  fvg_status s = map ? FVG_OK : FVG_E_NOMEM;
  if (!s) s = fvg_foreground_map(x, map, confidence, picture, label);
  if (!s) s = fvg__image_new(c, mask, picture->width, picture->height, 1);
  for (size_t i = 0; !s && i < fvg__row(picture->width, picture->height); i++)
    mask->pixels[i] = map[i] > 0.5f ? 255 : 0;
  fvg_release(c, map);
  return s;
}

/* Loads pictures one after the other, and gives each its mask. */
FVG_DEF fvg_status fvg_foreground_mask_items(fvg_foreground *x, fvg_dataset *d,
                                             const fvg_items *items) {
  if (!x) return FVG_E_ARG;
  fvg_ctx *c = x->clip->ctx;
  if (!d) return fvg__missing(c, "fvg_foreground_mask_items", "a data set");
  if (!items) return fvg__missing(c, "fvg_foreground_mask_items", "items");
  fvg_progress progress;
  memset(&progress, 0, sizeof progress);
  progress.what = "masks";
  progress.n_steps = items->n;
  fvg_dataset from = *d;                 /* its pictures are loaded in the context of the model */
  from.ctx = c;

  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < items->n; i++) {
    const fvg_item *item = &items->item[i];
    fvg_image picture, mask;
    memset(&mask, 0, sizeof mask);
    s = fvg_dataset_load(&from, &picture, NULL, item, 0);
    if (!s) s = fvg_foreground_mask(x, &mask, NULL, &picture, item->label);
    if (!s) s = fvg_dataset_set_mask(d, item->path, &mask);
    fvg_image_free(c, &mask);
    fvg_image_free(c, &picture);
    progress.step = i + 1;
    if (!s) s = fvg_report_progress(c, &progress);
  }
  return s;
}

FVG_DEF double fvg_mask_iou(const fvg_image *a, const fvg_image *b) {
  if (!a || !b || !a->pixels || !b->pixels || a->channels != 1 || b->channels != 1 ||
      a->width != b->width || a->height != b->height)
    return -1;
  size_t both = 0, either = 0;
  for (size_t i = 0; i < fvg__row(a->width, a->height); i++) {
    both += (size_t)(a->pixels[i] && b->pixels[i]);
    either += (size_t)(a->pixels[i] || b->pixels[i]);
  }
  return either ? (double)both / (double)either : 1;
}
#endif /* FVGPT_NO_TRAINING */

/*==================================================================================================
 * CHAPTER 40  UNICODE: the tables of chapter 1
 *==================================================================================================
   The tables come last because nobody needs to read them.  A table is a list of whole numbers,
   packed into letters.  A number ends with one of the 56 letters from "#" to "[" (without "?"),
   which is its last digit; letters above the backslash before it are leading digits in base 34,
   counted from 1.

   Properties are runs: a length and a property in turn.  A mapping is a list of steps, in one of
   two forms:

     4 gap + n, d1 .. dn    The character `gap` further on becomes n characters (1 to 3).  Each d is
                            the difference from the character in its place in the step before;
                            0, -1, 1, -2, 2, ... are written as 0, 1, 2, 3, 4, ...
     4 gap, count           The step before is repeated `count` times: the character and what it
                            becomes move on by `gap` each time.

   HTML's names are lists of words; fvg__html_search says how they are read. */

/* generated tables: begin */
/* tools/unicode_tables.py printed them, from Unicode 15.1.0. */

/* Runs from U+0000: length, property (1 L, 2 N, 4 Cased, 8 Case_Ignorable, 16 combining class). */
static const char *const fvg__unicode_properties[] = {
  "K#$+)#$+$#-%$+)#=(&#$+$#$+=(Q#$+$#$(%#$+$#$+%#%%$+$($#%+$%$($#&%$#:($#C($#_>($$'('$_L($$>(,0*,",
  "%0'+/,1+(0*+$,$+$,4+8]{T$]|;']y#$]|;$]wT(]y#%]sT']y#%]sT.]y#(;']y#+]{T$]~P$]{T&]y#&]{T%]y#$+&",
  "]{T']y#$]{T$]|;%]y#$]{T$]|L%]}#$]|L%]}#$]|L0]{T'($,$+%(%#$0&($#$('#%+$($+&($#$($#7($#]>($#^>($",
  "#(]{T%+^Z($#J(%#$,(#$+M(+#$]y#']{T$]y#&]{T$]yD$]y#)]{T)]y#%]{T$]y#%]{T$]yD$]{3$]{T$_#$_3$_D$_T",
  "$`+$`;$`L$a#$a3%aD$aT$b+$b;$#$bL$#$c#$c3$#$]{T$]y#$#$a3+#>$'#'$$#$+.#)+-#+]{T$dL$e#$e3$#$+&#D$",
  "$,-$$cT$d+$d;$dL$e#$e3$eD$eT%]{T%]y#(]{T$]y#%]{T$]y#-%'#%$$f+]O$$#$$*]{T$+$#']{T$]y#$]{T%,%]{T",
  "$#$]y#%]{T$]y#%$-%&$%#$$2#$+$$$f;B$$]{T$]y#%]{T$]y#%]{T&]y#$]{T%]y#$]{T$]y#&]{T$]y#$]{T$]y#$",
  "]{T$]y#$]{T$]y#%]{T%#]E$.+$$1#-%E$*]{T$]y#$]{T%,'#$,%#$]y#%#9$']{T$,,]{T$,&]{T$,(]{T5#<$&]y#'#",
  ".$(#;$$+)$$#%+)#$]{T&]y#']{TM$$,(]{T(]y#1]{T$+$]y#%]{T$]y#%]{T$]y#&]{T&]y#$cT$d+$d;&]{T$]y#%",
  "]{T%]y#(]{T&+$#Z$$+$#$^+$$&#++'#$^L%#$$$]{T$]y#%]{T&+-$%+%#-%$#$,2$$+&#+$%#%$%#9$$#*$$#$$&#'$%",
  "#$^+$$&#'++#$^L$$0#%$$#&$%+%#-%%$%#)%%#$$$#$]{T%#%+%#)$'#%$%#9$$#*$$#%$$#%$$#%$%#$^+'#%+'#%+%#",
  "%+$^L&#$+*#'$$#$$*#-%%+&$$+.#%+%#,$$#&$$#9$$#*$$#%$$#($%#$^+$$&#(+$#%+'#$^L%#$$2#%$%+%#-%,#$$)",
  "+$#$+&#+$%#%$%#9$$#*$$#%$$#($%#$^+$$$#$+$#'++#$^L*#%+(#%$$#&$%+%#-%$#$$)%-#$+$$$#)$&#&$$#'$&#%",
  "$$#$$$#%$&#%$&#&$&#/$)#$+/#$^L%#$$8#0%0#$+&#$++$$#&$$#:$$#3$%#$^+$$&+(#&+$#&+$^L*#$t+$v+$#&$%#",
  "$$%#%$%+%#-%+#*%$#$$$+&#+$$#&$$#:$$#-$$#($%#$^+$$$#$+)#$+(#$+$^L2#%$$#%$%+%#-%$#%$0#%+%#,$$#&$",
  "$#M$%^L$$&#'++#$^L$$(#&$$#*%&$%+%#6%$#)$$#$+&#5$&#;$$#,$$#$$%#*$&#$^L*#&+$#$+2#-%4#T$$+%$'+%yD",
  "$^L(#)$$,$+'zL&+$#-%K#%$$#$$$#($$#;$$#$$$#-$$+%$'+%}T$^L%+$$%#($$#$,$#']]#&+$#-%%#'$D#$$:#%]y#",
  ")#7%$#$]y#$#$]y#$#$]wT)#+$$#H$'#$]_#$]_3$+$]_T(+']_3$+$#$]_3$+%]{T$^L$#%]{T($.+$#H+,#$]y#]$#O$",
  "%#'+$#(+$^+$#%^L%#%+$$-%)#)$%#%+'$&+$$&#%$*#&$'+0$$+%#%+)#$]y#$$$#-%&#$+%#J($#$((#$(%#O($#$0&(",
  "aU$$#'$%#*$$#$$$#'$%#M$$#'$%#E$$#'$%#*$$#$$$#'$%#2$$#]$$$#'$%#].$%#&]{T,#7%&#3$3#]B(%#)(&#g'$%",
  "#4$$#=$(#]6$&#&%+$*#5$%+$^L$^D,#6$%+$^D.#5$%+/#0$$#&$$#%+/#X$%+$#*++#$+%#,+$^L$+&#$,'#$$$]{T%#",
  "-%)#-%4#(+-%)#G$$,Y$*#($%+F$$]{3$$(#]1$-#C$$#&+'#%+,#$+)#$]yD$]{T$]y#-#-%B$%#($.#P$'#=$)#.%I#:",
  "$$]{T$]y#%#$+'#Y$$#$+$#*+$#$^L$#$+%#++)#%++]{T%#$]y#-%)#-%0#$,+#(]{T)]y#%]{T$]y#$+%]y#%]{T%]y#",
  "(]{T$]y#']{TU#'+$#S$$^+$#(+$#$+(#$+$#$^D+$&#-%4#$]{T$]y#*]{T/#%+$#B$$#'+%#%+$^D$^L%+%$-%P$$^+$",
  "#%+&#$+$#&+%^D/#H$+#++%#$+$^++#-%&#&$-%B$),%#,(*#O(%#&(3#&]{T$#$;(]y#%]{T']y#$]{T$#*;'$$]y#)$$",
  "]{T%$$#%]{T$$(#P(]*00($0F(I0%]{T$]y#*]{T$]y#%]{T$]}#$]w3$]y#$]sTI]{T$]|;%]{3$]y#$]x;$]{T$]|L$",
  "]y#$]{T$]y#`Z(%#)(%#J(%#)(%#+($#$($#$($#$($#C(%#Y($#*($+$(&+&($#*(&+'(%#)($#&+0(&+%#&($#*(%+/#",
  "(++#%+-#$+%#$+%#(+U#(+$#-+$%$0%#)%(#$0-%)#00W#%]{T%;']{T&;%]{T'+$]{T&+%;$]{T$]y#$]{T%;']y#$]{T",
  "4#$('#$(%#-($#$(&#(()#$($#$($#$($#'($#)('$$(%#'((#(('#$($#3%D)&%%((%hZ#]'%=#X'9%g1#B%p/#^/(%0",
  "]S()#'(&]{T%(,#$%%#J($#$((#$(%#]#$*#$,2#$^L:$,#*$$#*$$#*$$#*$$#*$$#*$$#*$$#*$$#D]{TS#$,d8#$,$$",
  "$%<#,%$]x;$]{3$]|;$]yD%]z#$#(,%#&%$,$$'#]B$%#%^;%+%,$$$#]F$$#&,$$(#O$$#]J$&#'%-#D$T#3$D#-%B#+%",
  "$#2%D#-%K#2%aL#_kL$]+#g]0$$,p:$].#L$),%#`P$$,&#3$-%%$7#R($$$]{T&+$#-]{T$#$,@(%0%]{T]1$-%%]{T1#",
  ":+,,%+]9($0:($,%+'($$]&((#%($#$($#((;#&0%($$%0$(*$$+&$$^L'$$+:$%#%+(#$^L&#)%-#X$1#V$3#$^L$+-#-",
  "%)#5]{T)$&#$$$#%$$+-%@$(+&]y#%#:$.+$#$^D/#A$&#&+$#S$$^+%#'+%#%+%#$^D1#$,-%)#($$+$,,$-%($$#M$)+",
  "%#%+%#%+,#&$$++$$+&#-%)#3$$,)$&#$$$#$+$#V$$]{T$$%]{T$]y#%$%]{T($%]{T$$$]{T$$;#%$$,%#.$$#%+'#$$",
  "%,$#$^L-#)$%#)$%#)$,#*$$#*$$#O($+'0,($0%+'#];(G$%#$+%#$+'#$^L%#-%)#ay@$/#:$'#U$`jX#bB$%#]V$J#*",
  "(/#(((#$$$cD-$$#0$$#($$#$$$#%$$#%$$#]X$4+3#b>$5#]+$%#Z$L#/$'#3+&#$+/#*]{T*]y#%]{TF#$+%#$+=#($$",
  "#^:$%#$+*#$+)#$+$#-%$+)#=(&#$+$#$+=(.#-$$,Q$%,C$&#)$%#)$%#)$%#&$)#$+8#&+'#/$$#=$$#6$$#%$$#2$%#",
  "1$F#^.$/#Q%/#]$%4#%%^$#$]y#^5#A$&#U$2#$]y#>%'#D$'%,#7$$%+$$%(#J$(]{T(#B$%#H$'#+$$#(%N#];(]9$%#",
  "-%)#H('#H('#L$+#X$/#.($#2($#*($#%($#.($#2($#*($#%(].#aC$,#9$-#+$;#$0%,&0$#N0$#,0]0#)$%#$$$#P$$",
  "#%$&#$$%#:$%#+%:$%#*%C$+#,%T#6$$#%$(#(%9$)%'#=$]1#]#$'#%%%$3%%#R%$$&+$#%+(#$+$]y#$+$]{T'$$#&$$",
  "#A$%#$]{T$;$]y#'#$^L,%:#A$%%$#A$&%D#+$$#@$$]{T$]y#'#(%3#Z$-#9$%#+%6$(#+%5$:#*%];#]4$[#W(0#W(*#",
  ")%H$']{T+#-%a1#C%$#N$$#%]{T&#%$]6#&]y#A$-%$$+#9$%]y#&]{T$]y#$]{T']y#'%>#5$$]{T$]y#$]{T$]y#N#8$",
  "*%7#:$-#$+$#Y$1+$^L.#B%$^L%$%+$$,#$^L%+$#Q$&#'+%#$^L$^+%#$+'#$+-#$+%#<$*#-%)#&]{TH$(+$#)+%^L$#",
  "-%'#$$%#$$+#G$$^+%#$$,#%+$#T$&#,+$#$^D'$'#$+$^+%+%#$+-%$$$#$$'#7%.#5$$#<$&#&+%#$+$^D$^+$+)#$+%",
  "$$+])#*$$#$$$#'$$#2$$#-$*#S$$+&#)+$^+$^L(#-%)#%+&#+$%#%$%#9$$#*$$#%$$#($$#%^+$$%#$+/#$^D%#$$/#",
  "($'#*]{T&#(]{T^>#Y$&#++%#$^L%+$#$^+'$(#-%'#$]{T&$B#T$&#)+$#$+'#%+$#$^L$^+%$$#$$+#-%^Z#S$&#'+)#",
  "%+$#$^L$^+:#'$%+F#T$&#++%#$+$#$^L$+&#$$.#-%J#O$$+$#$+%#)+$^D$^+$$*#-%Z#>$%#&+%#'+$#'+$^L'#/%'#",
  "*$_4#P$&#,+$#$^L$^+]Q#]+(6%/#+$%#$$%#+$$#%$$#;$.#%+$^D$^L$$$#$$$#$^+/#-%]1#+$%#K$&#'+%#%+'#$^L",
  "$$$#$$@#$$-+L$$+$^L'+$#$$'++#$^L+#$$)+%#&+R$0+$#$+$^L&#$$5#]4$`K#,$$#I$$#*+$#)+$#$^L$$2#A%(#B$",
  "%#9+%#*+$#%+$#%+]4#*$$#%$$#J$)+&#$+$#%+$#&+$^+$+%^L$$$++#-%)#)$$#%$$#D$)#%+&#$+$#$^L$$*#-%aB#6",
  "$%+.#%+$$$#0$$#F$%#(+(#$+$^D$^L0#-%]B#$$2#8%O#l=$]R#][%4#_@$]i'#]M$2#o+$4+)$2+^_F#f:$`n,#f,$*#",
  "C$$#-%)#]:$$#-%)#B$%#(;.#T$*]{T,#',/#-%$#*%$#8$(#6$h3#]+(:%]U#]6$'#$+$$])#'+0,]+#%,$#$,$+.#%]L",
  "1#_cD$+#r)$N#,$`sC#',$#*,$#%,$#a.$2#$$A#&$%#$$1#'$+#c'$]c/#]W$(#0$&#,$*#-$&#$+$;$#'+^kX#R+%#:+",
  "eJ#%]wL&;&#$]zD(]wL+++]y#%#(]{T%]y#B#']{T^H#&]{T^.#7%/#7%]X#<%^:#]A($#]2($#%(%#$(%#%(%#'($#/($",
  "#$($#*($#],($#'(%#+($#*($#@($#'($#(($#$(&#*($#b'(%#<($#<($#C($#<($#C($#<($#C($#<($#C($#<($#+(%",
  "#V%e+#[+'#V++#$+1#$+9#(+$#2+oL#-($$7()#)(_Q#*]{T$#4]{T%#*]{T$#%]{T$#(]{T(#])0E#$]{T^##Q$&#*]{T",
  "*,%#-%'#$$aM#B$$]{T4#P$']{T-%d9#>$$,%]|;$]y#$]{T-%i1#*$$#'$$#%$$#2$$#_A$%#,%*]y#M#]/()]{T$^+$,",
  "'#-%j*#]&%$#&%$#'%]7#Q%$#2%_=#'$$#>$$#%$$#$$%#$$$#-$$#'$$#$$$#$$)#$$'#$$$#$$$#$$$#&$$#%$$#$$%#",
  "$$$#$$$#$$$#$$$#$$$#%$$#$$%#'$$#*$$#'$$#'$$#$$$#-$$#4$(#&$$#($$#4$f7#0%G#=')#=')#='g,#(+]^3#-%",
  "n9#rjT$D#^b-$)#_Z$%#^~V$1#_{<$2#g)$]f%#eJ$vV#^p.$(#^bT$f}x$#$+B#]L+^3#`3+^~~##",
  NULL
};

/* Maps characters to lower case. */
static const char *const fvg__unicode_lower[] = {
  "`I_='<c3$'9+$')^<)+:3$+%/$+*/$+9,`2(`9+%4cF(c:+$,c9(c2,c7'$(c00^V(`;('(c,,c7(),/($(c84cH(),)(",
  "cC+%,cR(cK,cR0cG,cR(cK,cP'$(cI+$,cT(cM3$E5(#,)(#,)(#++/$++0+(#+$,_:(]@(^'+6,`E,`N++EggP(gg<,aO",
  "(gm30gg2,bW(e=()(^<+'pL$+$3$I`;A^A,%'%,]%,%'$,]$'3+$'+^E;I'+.<]Y0^3,.(50`C'%(cB'2(]I'C_AH+3L$+",
  "=,D(<+)/$+S0]P'Ib^<fpX'I+$;$]mI}|9']:(]bwI'(`q8y$'N/$'%rY_lX+]5Mc}G,c~'+SM%'*H$'(P$'*H$'*H$'(T",
  "$+&H$'*]P$'*H$'*H$'*H$'$(^4'$(^7U^4'&(^PU='$(_0'$Y_N'$(_I'$(_PU_U'$()'$(`/q4co>4zO(`7Adt5_4]/'",
  "2]<-]tAz+'<_yA]|B'S_A',geG(ce@(cdS0ge1+%,gfY(]+(],(',gg-/$IggY'$(gh5+UH$+$7$]{d+$+9];$+0eL$+)3",
  "$+BP$+$,]__Q(]__X+'7$,]fiY0]fj++$3$+,,]fjY(6(-(9(&,]T(Q(P(]gh@(}&+*,]I(]fi.(ce3(]_aP+$@$;$+$^'",
  "$]hz$sl)'<^o4]eX'KeP$'Gg0aD'-+$'1+$')+$'$_tA]z+'Vbj,_aX'C]g}@$'C]{|8|}1'E",
  NULL
};

/* Maps characters to the pairs that NFC composes to them. */
static const char *const fvg__unicode_composed[] = {
  "iN^5w;)#%)#%)#%)#-)#'-']%)']8)#%)#%)#/)+2)#%)#%)#/--,)%()#%)#%)#%)#-1/2)#%)#%)#/)+013$)#%)#%)#",
  "%)#-)#'-']%)']8)#%)#%)#/)+2)#%)#%)#/--,)%()#%)#%)#%)#-1/2)#%)#%)#/)+0-#1)][*)]+#)]*')]+#)]*]/)",
  "]+#)]&]8)]+#)]*%)]+#)]*-)]+#)]*-)]+#)](#)]+#1](2)]+#)]*')]+#)]*%)]+#)]*]-)]+#)]*[)]+#)]&6)]+#)",
  "]*+)]+#)]*%)]+#)]*]+)]+#)](]4)]+#1](%)]+#)]*%)]+#)]*')]+#)]*]/)]+#)]*],5%,)]+#)](]5)]+#-](]6)",
  "]+#)]*]7)]+#)]*Y)]+#9]&8)]+#)]*]7)]+#)]*Y)]+#5](2)]+#)]*')]+#)]*-)]+#1]$6)]+#)]*]7)]+#)]*Y)]+#",
  ")](8)]+#)]*%)]+#)]*]5)]+#)]*Y)]+#)](Z)]+#)]*Y)]+#1](4)]+#)]*%)]+#)]*')]+#)]*+)]+#)]*%)]+#)]*]%",
  ")]+#)]&]6)]+#)]&#)]+#)]*/)%0)]+#)]*/)]+#)]*-)]+#^=]AB)]+#]%W#)]+#^)]SA)]+#)S#)]+#)W#)]+#)W#)]+",
  "#)_J2)]+#)]*()]+#)]*9)]+#)]*:)]+#-][+)]+#)g@#)%#)hE#)]+#1aI3)]+#)[#)]+#)[]#)]+#)iB]2)%#)]S3)cR",
  "#)oK#5]08)]+#1U$)]+#)_)%)]+#)](#)]+#)>#)]+#)bA@)]+#)]*')]+#)[&)]+#)]*')]+#)[&)]+#)]*')]+#)W&)",
  "]+#)]*')]+#)]$&)]+#)]*')]+#)]$&)]+#)]*')]+#)].N)]+#)](#)]+#1]CW)]+#B]8,)]+#)[]+)]+#)`%]0)]+#)",
  "],#)]+#)aW))]+#)kZ()%#)lO#)]+#t-]J()vF#-+#)'#)'#-/#-/#)+#)]-#]V]M1);#);0)+#)'#)'#)H#]VG1);#).0",
  ")/#)+#95#)#1_-^92)#3-&05<19L0)&$)9/R8#^5]+#]J(.)#3-&05]119[0)&$)9/]N]N5)%#a5_84)]+#]%]6#)]+#)",
  "]*')]+#1Y&)]+#1aR')%#)bY#)]+#)](#)]+#1](*)]+#)]*+)]+#)W#)]+#1b'#)%#)bK#)]+#)]>*)]+#)]*+)]+#)]*",
  "))]+#)[()]+#1[#)]+#q1m#z))#%)]-#)],%)]1$g%`Z#-K#]1F#]dNq7vDF3#1)#fRa3`H)#Vw-iLiJ1#S)#Va-^J`D_V",
  "]TU)%#)$VdV`D`BdF`5`BB1#)#%-#K)+Je)`;_N)%#)$Vf-a1`)-#-)),)(N]cNq#q)axV^{;^|R-'#-'#-'#-'#5+#^Z",
  "]=#-'#1'#)%#-)#]l)cdUbk[)]+#)](]&)]+#)]*]#)]+#)]*@)]+#)_F]K)]+#)aQ/)]+#)]*]#)]+#)]*@)]+#)]*6)",
  "]+#)]*/)]+#)b/]E)%#)$%)%#)c6]D)]+#)]*))]+#)l)]>)%#)m0%)]+#)](()]+#)]())]+#)]*]#)]+#)]*Y)]+#)]*",
  "]))]+#)]*1)]+#)](')]+#)_H]I)]+#)aS#)]+#)]*]/)]+#)]*@)]+#)](>)]+#)c~7]()%#)d]A]F)]+#)]**)]+#)](",
  "]C)]+#)]*/)]+#)]*]#)]+#)]([)]+#)]*]#)]+#)]*@)]+#)]**)]+#)_J]C)]+#)]*1)]+#)_)2)%#)$%)%#)e$#)]+#",
  ")]*/)]+#)]&#)]+#)]*]#)]+#)d];]()%#)d^E]F)]+#)](]>)]+#)]*]#)]+#)d1[)%#)-#)%#)cw-#)%#)d^Q#)]+#)",
  "]*]#)]+#)]*@)]+#)]**)]+#)](4)]+#)]*;)]+#)]*()]+#)dJ]C)%#)%1)%#)eU,)]+#)]*]+)]+#)](]0)]+#)]*%)",
  "]+#)]*1)]+#)]*$)]+#)]*]#)]+#)]([)]+#)]*%)]+#)]($)]+#)](,)]+#)]*]-)]+#)]*@)]+#)G#);]<))')'#-e7(",
  "9g6]#)]+#)]*W)]+#)_=2)]+#)]*$)]+#)]*5)]+#)]*.)]+#)c}X$)%#)c|Q$)%#)$$)%#)$5)%#)$.)%#)c|N))%#)",
  "daC]%)]+#)]*W)]+#)]*.)]+#)_F&)]+#)]*$)]+#)]*5)]+#)]*.)]+#)c~@$)%#)db21)]+#)]*X)]+#)W#)]+#)]*W)",
  "]+#)_F2)]+#)]*$)]+#)]*5)]+#)]*.)]+#)c~T$)%#)cxM$)%#)$$)%#)$5)%#)$.)%#)$]+)%#)gS#)]+#)]*W)]+#)",
  "g/2)%#)$$)%#)$5)%#)$.)%#)$]+)%#)h0]0)]+#)]*]1)]+#)]*W)]+#)]*.)]+#By;D)#%)cgJK)%#)$%)%#)$^5)%#)",
  "chS]I)#%)ci)K)%#)$%)%#)$^5)%#)cgS]I)#%)ch)K)%#)$%)%#1ci2H)#%)ciBK)%#)$%)%#1ch6H)#%)chFK)%#)$%)",
  "%#)$^5)%#)ciO]I)#%)cj%K)%#)$%)%#)$^5)%#)chS]I)#%)ci)K)%#)$%)%#)$^5)%#)cj2]I)#%)cjBK)%#)$%)%#)$",
  "^5)%#)ci.]I)#%)ci=K)%#)$%)%#1cjGH)#%)cjVK)%#)$%)%#1ciCH)#%)ciRK)%#)$%)%#)$^5)%#-cj[]G-ck3K-#%-",
  "#^5)ci[]I)#%)cj1K)%#)$%)%#)$^5)%#)ck:]I)#%)ckJK)%#)$%)%#)$^5)%#)ck:^6-+#-'#-'#-/#-/#-+#5cfR^=)",
  "%#)%#)%#)%#)%#)%#)%#)%#)%#)%#)%#)%#)%#)%#)%#)F#)%#)%#)%#)%#)%#)%#)%#)%#)%#)%#)%#)%#)%#)%#)%#)",
  "]N#)%#)%#)%#)%#)%#)%#)%#)%#)%#)%#)%#)%#)%#)%#)%#)ckG^0)#&)ckJ^5)ckI#),#--()cn-))co4^0)#&)#*-#",
  "^=9vE()deD))ckE#)4#-5()cnB))coM^<-'#-#^=)co;^<)#%)#^5)cn.^*)#&)F*5E^7)F#)]M^*)#&)#*1cqF#)#%)#",
  "^5)cp$^*)#&)/*-6J)#%)+]H)/#)]6^*)#&)#*-*L)w,K9deT^=)ck0#)-#-,()coF))cq(^<-7#-#^=yFd]9<)'#]9'#",
  "^1^+#)+#)&#_R]N#9-#1)#]NT#-'#]ZR#11#1'#-)#]Jea0#-eb+#RK#)ea<#)'#)eb/#)%#1=#)%#1)#)%#B)#)%#11#)",
  "%#1)#)%#^BZ#)/#)%#)'#_B]I#)%#)L#)%#B]+#)%#)%#)%#cbB_r/hbV-'#-'#-'#-'#-'#-'#-'#-'#-'#-'#-'#1)#-",
  "'#-'#B1#)#%-)$)#%-)$)#%-)$)#%-)$)#%]J]U$N_)#]%@#-'#-'#-'#-'#-'#-'#-'#-'#-'#-'#-'#1)#-'#-'#B1#)",
  "#%-)$)#%-)$)#%-)$)#%-)$)#%]J]U$1^F#)%#)%#)%#59#_ndV]v`;]ve--'#])7#e9a#_V)%#]`Fo%o))#Vv1i/hJ)#6",
  "-#=n%e)dH)%#]yR{T|%",
  NULL
};

/* Maps characters to what NFC writes in their place. */
static const char *const fvg__unicode_decomposed[] = {
  "]u<w;'$,H)8w=_<^QMrOI`;_`9^d@]rZ)%#)%#)-#)-#)%#)5#)+#dZ`'`D)%#-=#b%`J`D1/#^B].#)%#)-#1B#n-dPe+",
  ")%#^_5]_L]bZN7#9-#9-#9-#ZY&N]N^8-#')^5;-%#J^6#]5]-]ZN7#9-#9-#9-#ZY&dk<_bK,%,%,%,]%,%,%`<^C0]RQ",
  "]M,%E1E.E]7E].04(xMMy#,),v(0dj/'$pYcq.4zO(`7]^<ht)'$``N]i2_h,_dy<vbJ(f]2(ft/(n6(d]Y(dv0(]n)(",
  "ph1(#(nzI(kbD(lc.(~5(^g7(alZ(^k3(]w@(iB(g7(^]9(fh<(x5(~/(wF(`iJ(_n=(^eZ(peI(]g1(bg9(]zR(ai@(",
  "bjV(mj>(`~)(az'(|R(fhY(dgZ(]s9(g_U(^cV(]sR(]lX(c~H(mnS(p%(fB(`wH(]q9(]|-(]f1(^k/(]q%(_'(^]1(",
  "^lJ(]`N(s1(f^.(dJ(]_N(]r5(`_1(_^Z(aeM(ijQ(]r-(cz;(]_H(_v[(]tD(ahD(^u5(lsY(|7(_s-(~B(g%(_w+(e;(",
  "bl+(n`U(hf%(hnQ(C(fxD(}/(]rJ(`}3(^|,(f|$(]{R(dyD(lgE(_s'(]`)(acV(m=(ed$(fb;(g^[(`e@(`t[(de)(",
  "]|[(bh7(g`0(]d)(dd)(_o;(]t5(dfS(erP(ek:(^o.(doJ(diU(`v=(fiY(tZ(_;(b_L(al@(]lD(^dJ(]yV(lzG(gV(",
  "]i=(]l%(]xF(^u=(^kT(crJ(]e5(]`-(]Z(plI(aj9(]dV(er9(ia6(x;(`#(sP(^x5(oH(yL(]j%(]`'(rJ(_|B(^u:(",
  "^~=(xR(mn((a#(o/(cn9(bk/(m;(gw,(fL(|/(^bZ(`k;(^h4(ex4(^aV(]g'(lJ(qP(ae'(bB(^~5(b+(`wX(]e@(^X(",
  "c;(om4(gg1(bkH(]gT(jl0(`{Q(q3(^}3(^V(^m@(]b5(^_3(]bL(_|H(__+(`]N(kg4(hwH(nb<(aq@(`3(]j@(h9(]kF",
  "(h#(x'(]d=(cgH(o^E(`m-(j^'(nzM(_l/(`mN(d|#(hw8(kN(]x9(_^D(eiZ(ni$(m7(^d/(^p@(g1(h7(]`N(]{-(m#(",
  "^oJ(^m7(H(^iB(]h@(nb8(ci1(ca4(c}B(u;(`rX(`l5(]n+(pT(jw*(]rL(aiV(]{$(_%(i/(^qO(oI(cbB(le[(j_H(",
  "iaS(]Q(_i9(]`-(b}R(d|E(`tV(]tG(fzB(]y8(_v%(_jG(glC(_r((]c+0sP,_vX0an.(d|;(}+(r7(]/(1(]@(c~1(",
  "ca*(w9,]sV,]fP0]j#(c%4^`H(=(]D(]cD(_k6(]o=(o_<(g-(_H(iD(Z(_V(q#(_N(_@(lT(_L(~+(7(]_X(cD(]7(_D(",
  "zN(a1(b1(mT(]g/(aR(e;(q#(bN(mZ(]bB(b-(9($(3(/(1(]L'$(b7(^5(g9(p+(N(^#(fV(a1(m;(a#(#(m'(]e-(`P(",
  "hZ(^#(jH(]V(t@(`H(]vZ(f+(^+(j}W(_wu-(_nsG0i|W(|B(^M(m:(l-(^)(gJ(]R(t)(^C(^;(^F(rD(_-(a-(D(eH(",
  "c'(}@(1(a+(^;(fJ(`/(^>(`P(]G(a/(^7(j3(_+(]X(e3(f/(aR(+(^)(]_R(^5(iZ(jH(C(_)(e#(h#(]rV(]kO(`7(",
  "`9(gJ(a5(]V(d'('(b)(F(V(_'(6(j+(m5(eJ(bJ(d#(a=(gP(c)(z-(aF(|7(l3(^=(D(fF(^%(]E(]X(((E(^L(^V(iH",
  "(p#(g/(fB(cV(]^P(_J(`)(`N(]3(;(]L(uZ(]c@(__p/(.(__N(_}o[(]bZ(]-(`bn3(^x1(e`Z(_v|C(^J`V]cg4rL-V",
  ")R47)#%)]{};$)#%)]{~48)#%)#+)%#)%#)%#)%#)%#)%#-'#)%#)%#)%#)%#-'#-'#)%#-'#)%#-'#)%#)%#)%#)%#)M(",
  ")*/)7#)5#_i`5_qnJ_qp@)%#)15)#%)#%)#%)#%b1_/<)%#)%5)%#)$%)%#`rdE_^bQ(,(5(_j|%(_jqO(^P(=(^B(`3(",
  "])(^P(S(coM(_sc#(_klM(1(D(J(_ka%(_ryQ(ct/(]7(_kaX(_kaC(=(u[(v3(5(`n{P(`ny>(@(cx:(cz;(9(]D(-(",
  "czG(c}@('(Z(P(9'$(F(]P(3(5(V(7('(#(#(_k|N(_db*(csW(N(_lb;(_la[(/(N(a;(_G(D(]+(^'(_#(X(^9(D(]-(",
  "#(N(H(3(B(h+(eK(eN(c&(]1(]b<(]y)(f2(]7(V(`G(aZ($(`9(_mk;(_mhW(-(B(L(3(^3(_mu'(^7(_mr>(]J(;(^Q(",
  "a'(en2(@(esD(]X(#(_n^H(_m{U(N(B(;(_nd-(_ncM(1(z-(y,(exU(e{)(@(^X(]Q(_nx1(_nqM(_nqR(_np2(((F(_F",
  "'$(f`I(faH(]B(N(]D(fcI(_yn%(_ym((fe3()()(L(`pb#(`p`*(_op9(#(_fb2(ehQ(#(ffI(_~]N(hrX(`^gK(5(fh2",
  "(fiZ(]R(7(]/(`T(fo((]&(fpT(_pa+(_p_4(`F(+('(&(]H(L(]3(>(9(]J(L(+(X(9(^7(_#(]1(`;(_pnL(_po8(^4(",
  "_T(Z(_=(_pqF(_po8(_4([(ga0(gh)(N(])(]6(gf8(gn)(]%(_qg'(_qbQ(eV(b0(gpS(gs;(gt$(]2(b_7()(auR(_C(",
  "b~5(lh*(el/(+(/(^-(8(_qwL(_}r6(g~F(`,(c5(]R(_qrT(_qrA(_Y(dN(hcI(he5(_=(^B(bP(_qsB(_qqK(hoA(hr%",
  "(_r_H(_r]Q(hqW(hs#(]F(Z'$(_rk@(c{O(d]J(_rj*(_rz/(_rv,(@(_G(b1(];(^%(]W(];(B(=(_rrF(_ru>(dZ(^1(",
  "id((ig;(*(_rvH(_r}[(i5(_ruL(]L(_rt2(`)(Y(((ioU(iqD(]R(.(]X(_bv#(_bpC(_s^@(_r}8(_sg)(_sb((=(Z(",
  "_sv3(_stC(N(_s~D(cZ(_s~6(F(jc8(jd5(jcU(#(jiJ(N(N(L(^=(jjQ(jn%(_trX(_tq[(_tu3(_ts>(_i`R(_h}((",
  "_ugN(R(a#(`b][(;(jv+(_ukJ($(]9(X(_ul<'$(#(]B(jw<(jyP(jy4(^T(`b{J(_u|0(^/(^3(k],(`ciB(_vc:(_vgD",
  "(]B(_vg&(_3(kdK(kgN(7(-(_vy%(fJ(#(_v~$(kf:(`doN(_w]E()(klW(`dv%(_v}G(kr&(krT(,(]%(_wuH(_wr((",
  "ksO(kw7(^)(^9(kz$(`e~+(])(`e}W(`fa+(_w}8(_x_#(_x^$(_F(9(_xhN(^F(_xh((_xlT(_xl2(_j|B(_{dG(lh=(",
  "^V(li:(lkB(fh4(`aa@(@(i~G(5(_jp8()(_r7(pcA(lt/(.(H(hz&(hzP('(7(]=(_yfP(_yfQ(^#(^@(^H(`W(a@(]@(",
  "`#(e2(`1('(D(_yfX(g%(a6(`hgO(ma'('(]1(_{]#(_z|.(_yt#(`h{8(+(`i^#(f5(`igY(mk5(;(9('(^3(],(`P(]C",
  "(a9(^U(^9(Z(mrA(muP(]+(muK(my)()(_zxL(_ztC(1(m{<(m|=(rr0(`o|9(bD(`kf2(5(nd5(^N(aF(c1(_{kR(_{hM",
  "(P(_/(_3(_{xD(|]A(^}t$(A(]T(^}z@(^}r6(_D(_}a/(Z(_|wM(_5(]+(_|~N(_|~8(f-(aJ'$(_2(iF(]#(_}m%(",
  "_}_I(pj>(pl'(_}kL(`oxU(prN(kgM(kk-(_~_@(cF(`p|:(3(pwP(_~r'(`qiK(`qnL(_~uA(#(]'(_~~N(_~x*(pz0(",
  "p|P(`@(Z(^+(p~S(`r~X(`]t.(fP(bN(qo((])(qqP(`^p1(`tcG(`teF(e=(`J(`^t.(qz,(q|9(-(1(7(1(]5(`_m%",
  NULL
};

/* Maps quotes, ligatures, widths and Windows-1252 to what ftfy writes. */
static const char *const fvg__unicode_repaired[] = {
  "e,dvL,du4(hZ(i*(dpL(.'$(cz8(czX(deK(df%(dfA,]B0h.(#(,(#(dpD(A'$(cy*(d`P(dn4(df%(dfA,]B(.fBfQ^H",
  ")]+]+]F^6+dR]%eJ)#%)]+#)Sf[)#]+)]+#)]&]*)#]+)]+#^J]>C)#]+)]+#j8^,kvU#(#(#(#(,(#(#(#_kt9^;K)#))",
  "#)*#._N*##))f%@)eC#^`Q^W']I(g])'$(]u3(7'$(:(dX(4(^U('('('('(^'('('(]2(^%(_.('('('(''$('('('('(",
  "'('('('('('('()('('(''(()()()()()''('('(''(('(+(_.'$(di>(_:'$(b%(a[(b''$(b&'%(b)'((aA(K'%(V(S'",
  ",4^R'(0%'(0%'(0%'%4`mQ'$(5)`[s;(`P($(dpL,]aN({>'&(]_%(]B",
  NULL
};

/* HTML's names that need no semicolon; a number is the character of the next name. */
static const char *const fvg__html_old_names[] = {
  "34 QUOT 34 quot 38 AMP 38 amp 60 LT 60 lt 62 GT 62 gt 160 nbsp iexcl cent pound curren yen",
  "brvbar sect uml COPY 169 copy ordf laquo not shy REG 174 reg macr deg plusmn sup2 sup3 acute",
  "micro para middot cedil sup1 ordm raquo frac14 frac12 frac34 iquest Agrave Aacute Acirc Atilde",
  "Auml Aring AElig Ccedil Egrave Eacute Ecirc Euml Igrave Iacute Icirc Iuml ETH Ntilde Ograve",
  "Oacute Ocirc Otilde Ouml times Oslash Ugrave Uacute Ucirc Uuml Yacute THORN szlig agrave",
  "aacute acirc atilde auml aring aelig ccedil egrave eacute ecirc euml igrave iacute icirc iuml",
  "eth ntilde ograve oacute ocirc otilde ouml divide oslash ugrave uacute ucirc uuml yacute thorn",
  "yuml",
  NULL
};

/* Names that need one: the others of HTML 4, and some of HTML 5's. */
static const char *const fvg__html_names[] = {
  "9 Tab NewLine 33 excl 35 num dollar percnt 39 apos lpar rpar ast 42 midast plus comma 46",
  "period sol 58 colon semi 61 equals 63 quest commat 91 lbrack 91 lsqb bsol rbrack 93 rsqb Hat",
  "UnderBar 95 lowbar DiacriticalGrave 96 grave 123 lbrace 123 lcub VerticalLine 124 verbar 124",
  "vert rbrace 125 rcub 160 NonBreakingSpace 168 Dot 168 DoubleDot 168 die 174 circledR strns 177",
  "PlusMinus 177 pm 180 DiacriticalAcute 183 CenterDot 183 centerdot Cedilla 189 half 197 angst",
  "247 div 256 Amacr amacr Abreve abreve Aogon aogon Cacute cacute Ccirc ccirc Cdot cdot Ccaron",
  "ccaron Dcaron dcaron Dstrok dstrok Emacr emacr 278 Edot edot Eogon eogon Ecaron ecaron Gcirc",
  "gcirc Gbreve gbreve Gdot gdot Gcedil 292 Hcirc hcirc Hstrok hstrok Itilde itilde Imacr imacr",
  "302 Iogon iogon Idot imath 305 inodot IJlig ijlig Jcirc jcirc Kcedil kcedil kgreen Lacute",
  "lacute Lcedil lcedil Lcaron lcaron Lmidot lmidot Lstrok lstrok Nacute nacute Ncedil ncedil",
  "Ncaron ncaron napos ENG eng Omacr omacr 336 Odblac odblac OElig oelig Racute racute Rcedil",
  "rcedil Rcaron rcaron Sacute sacute Scirc scirc Scedil scedil Scaron scaron Tcedil tcedil",
  "Tcaron tcaron Tstrok tstrok Utilde utilde Umacr umacr Ubreve ubreve Uring uring Udblac udblac",
  "Uogon uogon Wcirc wcirc Ycirc ycirc Yuml Zacute zacute Zdot zdot Zcaron zcaron 402 fnof 710",
  "circ 732 tilde 913 Alpha Beta Gamma Delta Epsilon Zeta Eta Theta Iota Kappa Lambda Mu Nu Xi",
  "Omicron Pi Rho 931 Sigma Tau Upsilon Phi Chi Psi Omega 945 alpha beta gamma delta epsilon zeta",
  "eta theta iota kappa lambda mu nu xi omicron pi rho sigmaf sigma tau upsilon phi chi psi omega",
  "977 thetasym upsih 982 piv 8194 ensp emsp 8201 thinsp 8204 zwnj zwj lrm rlm 8211 ndash mdash",
  "8216 lsquo rsquo sbquo 8220 ldquo rdquo bdquo 8224 dagger Dagger bull 8230 hellip 8240 permil",
  "8242 prime Prime 8249 lsaquo rsaquo 8254 oline 8260 frasl 8364 euro 8465 image 8471 copysr",
  "weierp 8476 real 8482 trade 8501 alefsym 8592 larr uarr rarr darr harr 8629 crarr 8656 lArr",
  "uArr rArr dArr hArr 8704 forall 8706 part exist 8709 empty 8711 nabla isin notin 8713 notinva",
  "8715 ni notni 8716 notniva 8719 prod 8721 sum minus 8727 lowast 8730 radic 8733 prop infin",
  "8736 ang 8741 parallel 8743 and or cap cup int 8756 there4 8764 sim 8773 cong 8776 asymp 8800",
  "ne equiv 8804 le ge 8819 gtrsim 8823 gtrless 8834 sub sup nsub 8838 sube supe 8853 oplus 8855",
  "otimes 8864 timesb 8869 perp 8884 ltrie 8901 sdot 8903 divideontimes 8905 ltimes 8907 lthree",
  "8918 ltdot gtdot 8919 gtrdot 8923 gtreqless 8950 notinvc notinvb 8957 notnivc notnivb 8968",
  "lceil rceil lfloor rfloor 9666 ltrif ltri 9674 loz 9824 spades 9827 clubs 9829 hearts diams",
  "10216 lang rang 10614 ltlarr 10616 gtrarr 10645 gtlPar ltrPar 10800 timesd timesbar 10873",
  "ltcir gtcir ltquest gtquest 10886 gtrapprox 10892 gtreqqless 10918 ltcc gtcc",
  NULL
};
/* generated tables: end */

static const char *const *fvg__unicode_table(int table) {
  switch (table) {
    case FVG__LOWER:          return fvg__unicode_lower;
    case FVG__COMPOSED:       return fvg__unicode_composed;
    case FVG__DECOMPOSED:     return fvg__unicode_decomposed;
    case FVG__REPAIRED:       return fvg__unicode_repaired;
    case FVG__PROPERTIES:     return fvg__unicode_properties;
    case FVG__HTML_OLD_NAMES: return fvg__html_old_names;
    default:                  return fvg__html_names;
  }
}
FVG__SMALL_END
#endif /* FVG__CLIP_IMPLEMENTED */
