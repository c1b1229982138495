/* fvgpt.h - prompt tuning from tensor to tuned classifier, in one C99 header

   Public domain or MIT.

   This is the half of fvgpt that knows nothing of pictures and words: tensors, model files, CPU
   kernels, reverse-mode differentiation, transformer blocks, optimisers, the three modules of
   FVG-PT (Adaptive Foreground View-Guided Prompt Tuning, arXiv 2603.08708), and the classifiers on
   frozen features that it is compared with.  CLIP, prompts, images and data sets are in
   fvgpt_clip.h, which includes this header.

   USE   In exactly one C or C++ file:                Everywhere else:

             #define FVGPT_IMPLEMENTATION                 #include "fvgpt.h"
             #include "fvgpt.h"

   A complete program.  Build it with `cc prog.c -lm`; it prints "0.6 0.8".

             #define FVGPT_IMPLEMENTATION
             #include "fvgpt.h"

             int main(void) {
               fvg_ctx *c;
               if (fvg_init(&c, NULL)) return 1;

               float x[2] = {3, 4};
               fvg_tape *t = fvg_tape_new(c);
               fvg_node *y = fvg_normalize(fvg_const(t, 1, 2, x));      // y = x / |x|

               int failed = y == NULL;
               if (failed) fprintf(stderr, "%s\n", fvg_error(c));
               else printf("%g %g\n", fvg_value(y)[0], fvg_value(y)[1]);

               fvg_tape_free(t);
               fvg_free(c);
               return failed;
             }

   examples/01_hello_tape.c goes on from here: it fits a line by gradient descent.

   =================================================================================================
   MANUAL
   =================================================================================================
   1. BUILD.  `cc -O2 prog.c -lm` is enough; only libc and libm are needed.  All macros are
      optional.  Define them before the header is included in the file that defines
      FVGPT_IMPLEMENTATION.

        FVGPT_IMPLEMENTATION   The function bodies are compiled here.
        FVGPT_STATIC           Every function is private to this file.
        FVGPT_PTHREADS         The library has its own pool of POSIX threads.  Link with -lpthread,
                               and set fvg_desc.n_threads.
        FVGPT_NO_SIMD          Only scalar code is compiled.  Without this macro, gcc and clang also
                               compile SSE2, AVX2 and AVX-512 for x86-64, and the best one is chosen
                               at run time, without any -m flag, with VNNI and BF16 instructions
                               where the CPU is fast at them; NEON for 64-bit ARM (its dot product
                               with -march=armv8.2-a+dotprod); and WASM SIMD128 under
                               `emcc -msimd128`.
        FVGPT_NO_STDIO         Nothing of <stdio.h> is used.  Files are then fvg_source callbacks or
                               bytes.
        FVGPT_NO_MALLOC        malloc, realloc and free are not used.  Every context must be given
                               an allocator or an arena.  examples/board runs a CLIP on a
                               microcontroller with these two.
        FVGPT_ONLY_STDIO       Of the platform only <stdio.h> is used.  Without this macro, a few
                               system calls make sure that a file being written survives a power
                               failure, is not redirected by a planted link, and never replaces
                               a device (chapter 2, "the platform").

        FVGPT_NO_TRAINING      Nothing is trained, and files are only read.  Gradients, optimisers,
                               losses, the fitting of heads, and whatever writes models are left
                               out, here and in fvgpt_clip.h, with their declarations.  What loads
                               a CLIP and whatever was tuned on it, and classifies, is left: half
                               of the code.

      A program that is linked with -Wl,--gc-sections (on macOS -Wl,-dead_strip), after compiling
      with -ffunction-sections -fdata-sections, loses what it does not call without this macro, too:
      no table ties gradients or methods of training to what classifies.

      The header includes itself once per SIMD level and kind of weights (chapters 6 and 8).  So it
      must keep the name fvgpt.h and cannot be pasted into another file, unless FVGPT_NO_SIMD is
      defined.

      The macro FVGPT_VERSION is the version of the header as a string, such as "1.0.0".

      -ffast-math is refused, and so are -ffinite-math-only and -fassociative-math where the
      compiler tells (clang does not tell the latter): losses, masks and checks for NaN need IEEE
      arithmetic, and so do sums whose order is part of their meaning.

   2. ERRORS.  A function that can fail returns an fvg_status; FVG_OK is 0.  fvg_error(c) then
      returns one line that names what failed: the file, the tensor, both shapes.

      Objects (a context, a tape, weights, an optimiser, ...) must be ones that were made; these
      pointers are not checked.  Any other argument that is NULL where something is needed (a path,
      a name, an array, a place for a result) is FVG_E_ARG.  Where NULL is allowed, the comment says
      so.  A function that frees something accepts NULL.

      An object that a failed call was to make is NULL or all zeros.

      Functions that make tape nodes return NULL on failure.  They may be given a tape or an operand
      that is NULL: then they return NULL, too.  Once a node has failed, its tape makes no more
      until it is reset.  So a whole forward pass can be written without tests and checked once, at
      its end: if the last node is NULL, then fvg_last_status(c) and fvg_error(c) tell why.

      Nothing here calls exit, abort or assert.  There is no global state; contexts are independent.

   3. MEMORY.  Everything comes from one allocator.  It is malloc, unless the desc names another one
      or a fixed arena, as it must with FVGPT_NO_MALLOC.  fvg_mem_used and fvg_mem_peak count the
      bytes.  examples/14_no_heap.c measures how large an arena must be.

      A tape keeps the memory that it has reserved.  A training loop that clears its tape at each
      step therefore allocates nothing once it has warmed up.  Under AddressSanitizer every tensor
      of a tape is a block of its own, so that an access one byte beyond it is reported.

      The numbers in a file are never trusted.  While a file of n bytes is read (weights, a model, a
      checkpoint, a vocabulary), at most 64 n bytes plus 64 MiB are allocated for it, not counting
      tapes.

   4. THREADS.  One thread at a time may use a context.  Kernels divide their work into chunks that
      depend on the shapes alone, and a sum is never divided between chunks that run side by side.
      So results have the same bits for any number of threads.

      Idle workers look for new work for about a tenth of a millisecond before they sleep.  More
      threads than cores make a program slower.

      Other things do change the last bits, because they change the order of a sum.  One is the SIMD
      level, except in products with eight-bit weights, whose integers sum exactly.  The other is
      whether weights are in rows or in panels (a column-block layout for fast products, see
      fvg_tensor_pack), if there are 257 columns or more: sums over rows take 256 elements at a
      time.

   5. RANDOM NUMBERS.  fvg_rng uses integers and exactly rounded operations only.  One seed gives
      the same sequence on every machine, normal deviates included.  x87 code (gcc -m32 without
      -mfpmath=sse) is the exception, because it carries more digits than a double has.

   6. ARGUMENTS.  Their order is: the context or object, then what is written (outputs), then what
      is read, then the desc.

   7. DESC STRUCTS.  Zero means the published default, which the comment of the field gives.  Where
      zero itself is a useful value, a negative number asks for it, and the comment says so.

   8. TRAINING.  A function freezes what it takes as an fvg_tensor and trains what it takes as an
      fvg_parameter.  fvg_tape_train turns frozen tensors into parameters without a change to the
      code that uses them.  tools/pretrain.c trains both towers of a CLIP that way, from random
      weights.

   9. SPEED.  Frozen matrices belong in panels (fvg_tensor_pack); fvg_clip_load puts them there.
      One copy serves forward and backward, as chapter 7 explains.  Weights of eight bits take a
      quarter of the memory and less than half of the time (fvg_tensor_quantise, chapter 8).

      Backward keeps the gradients of one layer at a time.  fvg_recompute saves more memory, for a
      third to a half more work.  build/bench measures speed as a share of what the CPU can multiply
      and add; tools/bench_peers.py compares it with other programs.

  10. STOPPING.  A call that takes minutes can be stopped within milliseconds.  fvg_desc.cancelled
      is called before each node of a tape, between the pieces of a matrix product, and between
      pictures and pieces of files that are read.  It is always called by the thread that uses the
      context, and it may simply return a flag that a signal handler sets.

      The stopped call returns FVG_E_CANCELLED with the message "stopped", and as after any other
      failure there are no results.  Only a `parallel` callback of your own is not interrupted while
      it runs.  A training run with a state file (fvgpt_clip.h) continues after its last whole epoch
      when it is started again.

  11. CHAPTERS, in order of dependency.  `grep -n "^ \* CHAPTER" fvgpt.h` prints them with their
      line numbers.  The declarations that follow come in the same order.

        Files     1 Context         2 Files       3 Safetensors    4 Archives    5 PyTorch files
        Numbers   6 Kernels         7 Matrix product     8 Eight-bit weights
        Tape      9 Tape           10 Operations  11 Transformer   12 Optimisers
        Method   13 FVG-PT
        Heads    14 Dense algebra  15 What heads share   16 Linear probe   17 LP++
                 18 CLIP-Adapter   19 Tip-Adapter        20 GDA            21 All heads

   In the comments, [n,d] is a matrix of n rows and d columns.  It is stored row after row, and its
   elements are floats unless something else is said.
*/
#ifndef FVGPT_H
#define FVGPT_H

/* With 64-bit offsets, glibc on 32-bit systems can open files of more than 2 GB. */
#if defined(FVGPT_IMPLEMENTATION) && !defined(_FILE_OFFSET_BITS)
#define _FILE_OFFSET_BITS 64
#endif

#include <stddef.h>
#include <stdint.h>

#if defined(__FAST_MATH__) || defined(_M_FP_FAST) || defined(__ASSOCIATIVE_MATH__) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "fvgpt needs IEEE arithmetic: compile without -ffast-math and the flags that it stands for"
#endif

#if defined(FVGPT_STATIC) && (defined(__GNUC__) || defined(__clang__))
#define FVG_DEF static __attribute__((unused))
#elif defined(FVGPT_STATIC)
#define FVG_DEF static
#else
#define FVG_DEF extern
#endif

/* A private function or table that some builds do not use. */
#if defined(__GNUC__) || defined(__clang__)
#define FVG__UNUSED __attribute__((unused))
#else
#define FVG__UNUSED
#endif

/* gcc and clang check the arguments of functions that work like printf; gcc for Windows must be
   told that it is not Windows's. */
#if defined(__GNUC__) && !defined(__clang__)
#define FVG__PRINTF(form, args) __attribute__((format(gnu_printf, form, args)))
#elif defined(__clang__)
#define FVG__PRINTF(form, args) __attribute__((format(printf, form, args)))
#else
#define FVG__PRINTF(form, args)
#endif

#define FVGPT_VERSION "1.0.0"

#ifdef __cplusplus
extern "C" {
#endif

/* -------------------------------------------------------------------------------------------------
   Context (chapter 1)
   ---------------------------------------------------------------------------------------------- */
/* What a function that can fail returns; fvg_error gives the details. */
typedef enum fvg_status {
  FVG_OK            =  0,
  FVG_E_NOMEM       = -1,   /* The allocator or the arena is exhausted.                          */
  FVG_E_ARG         = -2,   /* An argument makes no sense.                                       */
  FVG_E_SHAPE       = -3,   /* Two shapes do not fit; the message gives both.                    */
  FVG_E_IO          = -4,   /* A file cannot be opened, read or written.                         */
  FVG_E_FORMAT      = -5,   /* A file is not what it claims to be.                               */
  FVG_E_UNSUPPORTED = -6,   /* The input is valid, but this build cannot handle it.              */
  FVG_E_NUMERIC     = -7,   /* There is a NaN or an infinity where a number must be.             */
  FVG_E_CANCELLED   = -8    /* A callback, `cancelled` or `progress`, asked to stop.             */
} fvg_status;

/* The level of the kernels.  On x86-64 it is chosen at run time and is never above the one that was
   asked for (NEON and WASM count as the best there); NEON and WASM are there if the program was
   compiled for them. */
typedef enum fvg_simd {
  FVG_SIMD_BEST = 0,
  FVG_SIMD_SCALAR,
  FVG_SIMD_SSE2,
  FVG_SIMD_AVX2,
  FVG_SIMD_AVX512,
  FVG_SIMD_NEON,
  FVG_SIMD_WASM
} fvg_simd;

/* Where a context takes its memory from. */
typedef struct fvg_allocator {
  /* Returns a block of any alignment, or NULL on failure. */
  void *(*alloc)(void *user, size_t bytes);

  /* Takes it back; `bytes` is what alloc was asked for. */
  void (*release)(void *user, void *block, size_t bytes);

  void *user;                        /* is handed to both                                        */
} fvg_allocator;

/* What the progress callback is told. */
typedef struct fvg_progress {
  const char *what;                  /* the work: "encode", "CoOp", "FVGPT_CoOp", ...            */
  long   step, n_steps;              /* steps done, and steps in all                             */
  int    epoch, n_epochs;            /* epoch from 0; n_epochs is 0 if there are no epochs       */
  double loss, lr;                   /* of the last step; 0 if there are none                    */
} fvg_progress;

/* How a context works; all zeros is a good choice. */
typedef struct fvg_desc {
  /* All zero: malloc and free; with FVGPT_NO_MALLOC that is FVG_E_ARG, unless there is an arena. */
  fvg_allocator allocator;

  /* If set, all memory comes from this block of arena_bytes; only stb_image still uses malloc. */
  void *arena;
  size_t arena_bytes;

  /* Receives messages: level 0 is a warning, 1 a note.  May be NULL. */
  void (*log)(void *user, int level, const char *message);

  /* Is told how far the work has come; a non-zero result cancels it.  May be NULL. */
  int (*progress)(void *user, const fvg_progress *p);

  /* Runs job(arg, 0) to job(arg, n-1), in any order and at the same time, and returns when all are
     done.  NULL: the built-in threads do it. */
  void (*parallel)(void *user, void (*job)(void *arg, int index), void *arg, int n);

  /* Is asked every few milliseconds whether to stop: non-zero means yes (manual, section 10).  May
     be NULL. */
  int (*cancelled)(void *user);

  /* Is handed to the four callbacks above. */
  void *user;

  /* Threads of the built-in pool, counting the caller's own; 0: one.  The pool needs FVGPT_PTHREADS
     and is not used with `parallel`.  If the system allows fewer threads, those work and a warning
     is logged. */
  int n_threads;

  /* An fvg_simd; 0: the best level of this CPU. */
  int simd;

  /* 1: files that are written are not forced onto the disk, which may take milliseconds for each.
     A power failure may then lose those of the last minute.  0: they are. */
  int no_sync;
} fvg_desc;

/* A context: memory, messages, threads and kernels.  Almost every function takes one. */
typedef struct fvg_ctx fvg_ctx;

/* Makes a context.  desc may be NULL, which means all zeros.  On failure *out is NULL, and without
   a context the status alone says why: FVG_E_ARG or FVG_E_NOMEM. */
FVG_DEF fvg_status fvg_init(fvg_ctx **out, const fvg_desc *desc);

/* Frees the context.  Everything that was made with it must be freed before.  NULL is allowed. */
FVG_DEF void fvg_free(fvg_ctx *c);

/* The last failure: its message in one line, which is "" if there was none, and its status, FVG_OK
   if there was none. */
FVG_DEF const char *fvg_error(const fvg_ctx *c);
FVG_DEF fvg_status  fvg_last_status(const fvg_ctx *c);

/* A status in words, such as "out of memory". */
FVG_DEF const char *fvg_status_name(fvg_status s);

/* The level in use, an fvg_simd, and the name of a level: "scalar", "avx2", ...; "best" for 0; NULL
   if there is no such level. */
FVG_DEF int         fvg_simd_level(const fvg_ctx *c);
FVG_DEF const char *fvg_simd_name(int level);

/* Bytes that are in use now, and the most that ever were. */
FVG_DEF size_t fvg_mem_used(const fvg_ctx *c);
FVG_DEF size_t fvg_mem_peak(const fvg_ctx *c);

/* A random number generator: xoshiro256**, seeded by splitmix64.  The caller owns it; a copy
   continues the same sequence. */
typedef struct fvg_rng {
  uint64_t s[4];                     /* the state                                                */
} fvg_rng;

/* Starts a sequence; `stream` separates independent uses of one seed. */
FVG_DEF void fvg_rng_seed(fvg_rng *r, uint64_t seed, uint64_t stream);

/* The next 64 random bits. */
FVG_DEF uint64_t fvg_rng_next(fvg_rng *r);

/* Uniform in [0, 1), with 53 random bits. */
FVG_DEF double fvg_rng_uniform(fvg_rng *r);

/* Uniform in 0..n-1, without bias; 0 if n is 0. */
FVG_DEF uint32_t fvg_rng_below(fvg_rng *r, uint32_t n);

/* Normal with mean 0 and variance 1. */
FVG_DEF double fvg_rng_normal(fvg_rng *r);

/* Shuffles index[0..n-1] in place (Fisher-Yates). */
FVG_DEF void fvg_rng_permute(fvg_rng *r, int *index, int n);

/* -------------------------------------------------------------------------------------------------
   For programs (chapter 1): what both headers use themselves, and what tools/ is made of
   ---------------------------------------------------------------------------------------------- */
/* Records a message of one line and returns `status`, so that failing is one statement:
       return fvg_fail(c, FVG_E_IO, "%s: cannot be opened", path);
   The format is that of printf, with the letters d i u x X c s e f g %, the flags - 0 + and blank,
   width, precision, and the lengths l ll z.  The decimal point is a point whatever the locale
   has.  Control characters in the message become question marks. */
FVG__PRINTF(3, 4)
FVG_DEF fvg_status fvg_fail(fvg_ctx *c, fvg_status status, const char *format, ...);

/* Hands one line to desc.log: level 0 is a warning, 1 a note. */
FVG__PRINTF(3, 4)
FVG_DEF void fvg_log(fvg_ctx *c, int level, const char *format, ...);

/* Hands p to desc.progress; FVG_E_CANCELLED if that asks to stop. */
FVG_DEF fvg_status fvg_report_progress(fvg_ctx *c, const fvg_progress *p);

/* Runs job(arg, 0) to job(arg, n-1) on all threads of the context, in any order, and waits for
   them.  FVG_E_CANCELLED if the caller asks to stop; some jobs have then not been run.

   A job must not use c, which belongs to the calling thread.  The one exception is fvg_parallel: a
   call from inside one of several jobs runs its own jobs one after the other, in the thread of that
   job.  A single job (n is 1) keeps the other threads free for the calls that it makes. */
FVG_DEF fvg_status fvg_parallel(fvg_ctx *c, void (*job)(void *arg, int index), void *arg, int n);

/* Zeroed memory from the context's allocator, aligned to 64 bytes; NULL with FVG_E_NOMEM recorded
   if there is none.  fvg_alloc_array takes n elements of `size` bytes and checks that the product
   does not overflow. */
FVG_DEF void *fvg_alloc(fvg_ctx *c, size_t bytes);
FVG_DEF void *fvg_alloc_array(fvg_ctx *c, size_t n, size_t size);

/* The same for one object of a type, and for n of them. */
#define FVG_NEW(c, type)          ((type *)fvg_alloc(c, sizeof(type)))
#define FVG_NEW_ARRAY(c, type, n) ((type *)fvg_alloc_array(c, n, sizeof(type)))

/* A copy of a string, for fvg_release; NULL when out of memory. */
FVG_DEF char *fvg_copy_string(fvg_ctx *c, const char *s);

/* Gives back memory of the functions above; NULL is allowed. */
FVG_DEF void fvg_release(fvg_ctx *c, void *block);

/* The length of the UTF-8 sequence at s, 1 to 4 bytes.  0 if it is invalid: cut off after n bytes,
   overlong, a surrogate or beyond U+10FFFF. */
FVG_DEF size_t fvg_utf8_length(const unsigned char *s, size_t n);

/* The character in the n bytes at s, where n is what fvg_utf8_length returned, not 0. */
FVG_DEF uint32_t fvg_utf8_read(const uint8_t *s, size_t n);

/* 1 for a character that a terminal obeys, or that changes the direction of text; else 0. */
FVG_DEF int fvg_is_control(uint32_t code);

/* Replaces such characters, and bytes that are not UTF-8, by question marks, in place. */
FVG_DEF void fvg_printable(char *text);

/* -------------------------------------------------------------------------------------------------
   Tensors and files (chapters 2 to 5; panels: chapters 7 and 8)
   ---------------------------------------------------------------------------------------------- */
typedef enum fvg_dtype {
  FVG_F32 = 0,
  FVG_F16,                           /* IEEE binary16                                            */
  FVG_BF16,                          /* bfloat16, the upper half of a float                      */
  FVG_I32,
  FVG_I64,
  FVG_U8,
  FVG_F32_PANELS,                    /* a matrix of floats in the order that kernels read them   */
  FVG_I8,                            /* integers of files with eight-bit weights                 */
  FVG_Q8,                            /* a matrix of integers of eight bits, with a scale per row  */
  FVG_BF16_PANELS,                   /* BF16 in the order in which it is multiplied or widened   */
  FVG_Q8_IMAGES                      /* not a tensor's type: it names a model whose image tower is
                                        FVG_Q8 and whose text tower is FVG_F32 (fvg_clip_load)   */
} fvg_dtype;

/* The most dimensions that a tensor can have. */
#define FVG_MAX_DIM 6

/* Row-major: the last dimension is contiguous.  A tensor does not own its data unless the function
   that made it says so. */
typedef struct fvg_tensor {
  void *data;                        /* the elements                                             */
  int   n_dim;                       /* 0: a scalar                                              */
  int   dim[FVG_MAX_DIM];            /* the first n_dim are used                                 */
  fvg_dtype type;                    /* of an element                                            */
} fvg_tensor;

/* Bytes of one element; 0 for the types of panels (F32_PANELS, Q8, BF16_PANELS), whose last panel
   is padded. */
FVG_DEF size_t fvg_dtype_size(fvg_dtype type);

/* The number of elements; 1 for a scalar. */
FVG_DEF size_t fvg_tensor_count(const fvg_tensor *x);

/* Releases data that the tensor owns and zeroes the struct; NULL is allowed. */
FVG_DEF void fvg_tensor_free(fvg_ctx *c, fvg_tensor *x);

/* Conversions from and to the bits of F16 and BF16.  They round to nearest, ties to even. */
FVG_DEF float    fvg_half_to_float(uint16_t h);
FVG_DEF uint16_t fvg_float_to_half(float x);
FVG_DEF float    fvg_bfloat_to_float(uint16_t h);
FVG_DEF uint16_t fvg_float_to_bfloat(float x);

/* Panels.  With p = fvg_panel_width(c), the weights w [n,k] of fvg_linear in panels are the columns
   of w^T, p at a time: [ceil(n / p)][k][p].  Kernels read this order without copying it first, in
   forward and in backward.

   fvg_tensor_pack converts x from F32 rows to F32_PANELS; fvg_tensor_unpack converts it back to
   rows, for training, and FVG_Q8 to rows of the floats that it stands for.  A tensor of more
   dimensions counts as the matrix [dim 0, the rest].  x owns its data, which are replaced; its
   shape stays.  If x is of the wanted type, nothing is done.

   FVG_E_ARG if x is not a matrix of the type that is expected; FVG_E_NOMEM.  x is then unchanged.
   No tape may hold a node of x meanwhile.  Panels are valid in every context of the same SIMD
   level, and nonsense at another level. */
FVG_DEF fvg_status fvg_tensor_pack(fvg_ctx *c, fvg_tensor *x);
FVG_DEF fvg_status fvg_tensor_unpack(fvg_ctx *c, fvg_tensor *x);

/* Eight-bit weights (chapter 8): converts x from F32 rows to FVG_Q8, a quarter of the memory.  As
   the w of fvg_linear they are multiplied as integers, by x rounded to eight bits row by row, with
   the same bits at every SIMD level.  Where a gradient goes through x, they are widened instead.

   BF16 in rows becomes BF16_PANELS through fvg_tensor_pack, and there is no way back.  A CPU that
   is fast at products of bfloat16 multiplies it by x rounded to bfloat16; others widen it to F32
   while they read it.

   FVG_E_ARG and FVG_E_NOMEM as of fvg_tensor_pack; FVG_E_NUMERIC for a number that is not finite;
   FVG_E_UNSUPPORTED for rows of more than 65536 numbers.  x is then unchanged. */
FVG_DEF fvg_status fvg_tensor_quantise(fvg_ctx *c, fvg_tensor *x);

/* The width of a panel at this SIMD level: 8, 16 or 32. */
FVG_DEF int fvg_panel_width(const fvg_ctx *c);

/* ---- reading bytes ---- */

/* Where bytes come from. */
typedef struct fvg_source {
  /* Copies n bytes at `offset` to dst.  Returns 0, or non-zero on failure. */
  int (*read)(void *user, void *dst, uint64_t offset, size_t n);

  /* Ends the use of the source; may be NULL. */
  void (*close)(void *user);

  void *user;                        /* is handed to both                                        */
  uint64_t size;                     /* bytes                                                    */
  const char *name;                  /* for messages: a path, or "memory"                        */
} fvg_source;

/* A source of n bytes in memory.  They, and the name, must outlive it.  name NULL: "memory". */
FVG_DEF fvg_source fvg_source_memory(const void *bytes, size_t n, const char *name);

#ifndef FVGPT_NO_STDIO
/* Opens a file, which must be a plain file, for reading.  `path` must outlive *out, whose name it
   is.  FVG_E_IO if the file cannot be opened. */
FVG_DEF fvg_status fvg_source_file(fvg_ctx *c, fvg_source *out, const char *path);
#endif

/* Closes a source and zeroes it; NULL is allowed. */
FVG_DEF void fvg_source_close(fvg_source *s);

/* Reads the whole source, which stays open.  *bytes holds its *n bytes and a closing 0; the caller
   gives it to fvg_bytes_free.  FVG_E_IO, FVG_E_NOMEM. */
FVG_DEF fvg_status fvg_source_read_all(fvg_ctx *c, uint8_t **bytes, size_t *n,
                                       const fvg_source *s);
FVG_DEF void       fvg_bytes_free(fvg_ctx *c, uint8_t *bytes);

/* ---- whole files ---- */

#ifndef FVGPT_NO_STDIO
/* 1 if there is a plain file of this name, whatever it holds; else 0. */
FVG_DEF int fvg_file_exists(const char *path);

#ifndef FVGPT_NO_TRAINING
/* Writes n bytes to the file `path`.  The file appears complete and on the disk, or not at all:
   the bytes go to a temporary file beside it, which is then renamed.  A file that it replaces hands
   on its permissions, where the system is POSIX.  If `path` is a link, its target is replaced; a
   pipe or a device is written to directly.  FVG_E_IO, FVG_E_NOMEM. */
FVG_DEF fvg_status fvg_file_save(fvg_ctx *c, const char *path, const void *bytes, size_t n);

/* 1 if this is the name of such a temporary file; else 0.  A program that is killed may leave one,
   and the owner of the folder may remove it. */
FVG_DEF int fvg_file_is_temporary(const char *name);
#endif /* FVGPT_NO_TRAINING */
#endif

/* ---- JSON (RFC 8259) ---- */

typedef enum fvg_json_type {
  FVG_JSON_NULL = 0,
  FVG_JSON_BOOL,
  FVG_JSON_NUMBER,
  FVG_JSON_STRING,
  FVG_JSON_ARRAY,
  FVG_JSON_OBJECT
} fvg_json_type;

typedef struct fvg_json_value {
  fvg_json_type type;                /* which of the members below count                         */
  const char *key;                   /* of a member of an object; else NULL                      */
  const char *string;                /* unescaped UTF-8; "" unless this is a string              */
  double number;                     /* of a number; 0 or 1 of a boolean                         */
  int n_child;                       /* children of an array or object                           */
  int first, next;                   /* indices of first child and next sibling; -1: none        */
} fvg_json_value;

/* A whole document.  fvg_json_free releases it. */
typedef struct fvg_json {
  fvg_json_value *value;             /* [n]; value[0] is the root                                */
  int n;                             /* values                                                   */
  char *strings;                     /* the memory of all keys and strings                       */
} fvg_json;

/* Parses n bytes of text; `file` is a name for messages.  FVG_E_FORMAT names the byte where the
   text stops being JSON; FVG_E_UNSUPPORTED for 2 GiB and more; FVG_E_NOMEM. */
FVG_DEF fvg_status fvg_json_parse(fvg_ctx *c, fvg_json *out, const char *text, size_t n,
                                  const char *file);
FVG_DEF void       fvg_json_free(fvg_ctx *c, fvg_json *j);

/* The index of the member `key` of the object at index `object`, the last one if there are several;
   -1 if there is none, or if this is not an object. */
FVG_DEF int fvg_json_find(const fvg_json *j, int object, const char *key);

/* ---- reading safetensors and PyTorch files ---- */

/* An open file of named tensors. */
typedef struct fvg_weights fvg_weights;

/* Opens a safetensors file: reads its header and checks it.  The weights own the source from now
   on; it is closed with them, and also if opening fails.  Every offset, size and shape is checked
   before it is used.  FVG_E_FORMAT, FVG_E_UNSUPPORTED, FVG_E_IO, FVG_E_NOMEM; *out is NULL then. */
FVG_DEF fvg_status fvg_weights_open(fvg_ctx *c, fvg_weights **out, const fvg_source *s);

/* Opens a safetensors file, or a PyTorch file if its first bytes are those of a zip archive: what
   torch.save and torch.jit.save write since PyTorch 1.6 (.pt, .pth, .pth.tar-N, .bin).  Nothing in
   the file is executed.

   Names.  A tensor is named by its path through dictionaries, lists and modules, joined with '.',
   without a leading "state_dict." and then without a leading "module.".  If the file is a single
   tensor, its name is "tensor".  Beside a state_dict, `optimizer` and `scheduler` are left out.
   Parameters count as tensors.  Numbers and strings at the top level, such as epoch, are metadata.

   Tensors of a type that fvg_dtype lacks (F64, BOOL, ...) are listed, too; fvg_weights_info returns
   2 for them.  Tensors may have any strides.

   FVG_E_FORMAT names a class or function that the file asks for, other than tensors, plain
   containers, modules and optimisers.  FVG_E_UNSUPPORTED for older and for compressed files. */
FVG_DEF fvg_status fvg_weights_open_any(fvg_ctx *c, fvg_weights **out, const fvg_source *s);

/* Joins n open files into one, because large models are published in several.  *out owns the parts
   from now on; they are closed with it, and also if joining fails.  `name` stands for the whole in
   messages; metadata are those of the first file.  FVG_E_FORMAT if two files hold a tensor of the
   same name; FVG_E_ARG if one file is given twice. */
FVG_DEF fvg_status fvg_weights_join(fvg_ctx *c, fvg_weights **out, fvg_weights *const *part, int n,
                                    const char *name);

/* Closes the file and its source, and frees w; NULL is allowed. */
FVG_DEF void fvg_weights_close(fvg_weights *w);

/* The name of the file for messages; the number of tensors; and the name of tensor i, NULL if i is
   not in 0..count-1.  The strings belong to w. */
FVG_DEF const char *fvg_weights_file(const fvg_weights *w);
FVG_DEF int         fvg_weights_count(const fvg_weights *w);
FVG_DEF const char *fvg_weights_name(const fvg_weights *w, int i);

/* Is there a tensor `name`?  0: no.  1: yes.  2: yes, but in a type that fvg_weights_get cannot
   read.  *shape receives its shape and type, without data; `shape` may be NULL. */
FVG_DEF int fvg_weights_info(const fvg_weights *w, fvg_tensor *shape, const char *name);

/* The metadata under `key`, which belong to w; NULL if there are none. */
FVG_DEF const char *fvg_weights_metadata(const fvg_weights *w, const char *key);

/* Reads the tensor `name` into new memory, converted to the type `as`; the caller gives it to
   fvg_tensor_free.  F32, F16 and BF16 convert to one another, I32, I64 and U8 to I32 and I64, U8 to
   U8 and I8 to I8.  FVG_E_FORMAT if there is no such tensor or an integer does not fit I32,
   FVG_E_UNSUPPORTED if it cannot be converted, FVG_E_NUMERIC if a float is not finite, FVG_E_IO,
   FVG_E_NOMEM. */
FVG_DEF fvg_status fvg_weights_get(fvg_weights *w, fvg_tensor *out, const char *name,
                                   fvg_dtype as);

#ifndef FVGPT_NO_TRAINING
/* ---- writing safetensors ---- */

/* A tensor to be written. */
typedef struct fvg_named_tensor {
  const char *name;                  /* at most one tensor has it                                */
  fvg_tensor tensor;                 /* in rows, so of no type of panels                         */
} fvg_named_tensor;

/* One pair of a file's metadata. */
typedef struct fvg_metadata {
  const char *key, *value;           /* UTF-8, neither of them NULL                              */
} fvg_metadata;

/* Takes the next n bytes; a non-zero result means failure. */
typedef int (*fvg_write_fn)(void *user, const void *bytes, size_t n);

/* Writes n tensors and n_metadata pairs, through a callback or to a file.  `metadata` may be NULL
   if there are none.  A file appears as with fvg_file_save.  FVG_E_ARG for tensors that cannot be
   written, before the first byte; FVG_E_IO, FVG_E_NOMEM. */
FVG_DEF fvg_status fvg_safetensors_write(fvg_ctx *c, fvg_write_fn write, void *user,
                                         const fvg_named_tensor *tensors, int n,
                                         const fvg_metadata *metadata, int n_metadata);
#ifndef FVGPT_NO_STDIO
FVG_DEF fvg_status fvg_safetensors_save(fvg_ctx *c, const char *path,
                                        const fvg_named_tensor *tensors, int n,
                                        const fvg_metadata *metadata, int n_metadata);
#endif
#endif /* FVGPT_NO_TRAINING */

/* -------------------------------------------------------------------------------------------------
   Tape (chapter 9): making a node computes its value.  Every node is a matrix [rows, cols].
   ---------------------------------------------------------------------------------------------- */
/* A tape records nodes in the order in which they are made.  A node belongs to its tape and is gone
   when the tape is reset or freed. */
typedef struct fvg_tape fvg_tape;
typedef struct fvg_node fvg_node;

/* Something to train. */
typedef struct fvg_parameter {
  const char *name;                  /* its name in checkpoints; not copied                      */
  fvg_tensor  value;                 /* F32, owned                                               */
  float      *grad;                  /* as many elements, owned; backward adds to it             */
  float       rate;                  /* factor on the learning rate; 0 stands for 1              */
} fvg_parameter;

/* Makes a parameter of n_dim dimensions, its values and gradient zero; `name` must outlive it, and
   NULL stands for "parameter".  FVG_E_SHAPE for an impossible shape, FVG_E_NOMEM; *out is then
   zero. */
FVG_DEF fvg_status fvg_parameter_new(fvg_ctx *c, fvg_parameter *out, const char *name, int n_dim,
                                     const int *dim);
FVG_DEF void       fvg_parameter_free(fvg_ctx *c, fvg_parameter *p);

/* Makes an empty tape; NULL when out of memory.  Free it before its context; NULL is allowed. */
FVG_DEF fvg_tape *fvg_tape_new(fvg_ctx *c);
FVG_DEF void      fvg_tape_free(fvg_tape *t);

/* Trains frozen tensors.  From now on, if the data of a tensor are those of one of these n
   parameters, fvg_frozen makes the node that fvg_param would make.  So the code that runs a model
   also trains it, in whole or in part.

   Call this before nodes are made; it holds until it is called again, and n 0 ends it.  The list
   must stay where it is.  Values are F32 in rows, as many as the tensor has: otherwise fvg_frozen
   fails with FVG_E_SHAPE. */
FVG_DEF void fvg_tape_train(fvg_tape *t, fvg_parameter *const *params, int n);

/* A place on the tape to return to. */
typedef struct fvg_mark {
  size_t position;                   /* height of the tape's memory                              */
  fvg_node *last;                    /* the last node below                                      */
} fvg_mark;

/* The present end of the tape. */
FVG_DEF fvg_mark fvg_tape_mark(const fvg_tape *t);

/* Forgets all nodes that were made after the mark, and any failure.  The memory stays reserved.
   fvg_tape_clear does the same for all nodes. */
FVG_DEF void fvg_tape_reset(fvg_tape *t, fvg_mark mark);
FVG_DEF void fvg_tape_clear(fvg_tape *t);

/* Forgets all nodes made after the mark except x, and returns x at its new place.  If x needs a
   gradient, nothing is forgotten and x itself is returned. */
FVG_DEF fvg_node *fvg_tape_keep(fvg_tape *t, fvg_mark mark, fvg_node *x);

/* ---- what a node holds ---- */

/* The shape of a node; 0 for NULL. */
FVG_DEF int fvg_rows(const fvg_node *x);
FVG_DEF int fvg_cols(const fvg_node *x);

/* The values [rows, cols]; NULL for NULL and for nodes that are not stored as F32. */
FVG_DEF const float *fvg_value(const fvg_node *x);

/* The values of a node of fvg_zeros, for the caller to write; NULL for any other node. */
FVG_DEF float *fvg_fill(fvg_node *x);

/* The gradient [rows, cols] after fvg_backward, until the tape is reset.  Only nodes of parameters
   have one, and nodes for which fvg_keep_grad was called before fvg_backward; NULL otherwise.  All
   other nodes give the memory of their gradient to the next one that needs it. */
FVG_DEF const float *fvg_grad(const fvg_node *x);
FVG_DEF void         fvg_keep_grad(fvg_node *x);

/* ---- leaves ---- */

/* A constant: x [rows, cols].  x is not copied and must stay until the tape is reset. */
FVG_DEF fvg_node *fvg_const(fvg_tape *t, int rows, int cols, const float *x);

/* Zeros, which the caller may overwrite through fvg_fill. */
FVG_DEF fvg_node *fvg_zeros(fvg_tape *t, int rows, int cols);

/* A frozen tensor as the matrix [dim 0, the rest]; a vector is one row.  The data are not copied.
   F16, BF16, Q8 and BF16_PANELS may only be the w of fvg_linear or the x of fvg_gather, and
   F32_PANELS only the w of fvg_linear; anything else is FVG_E_ARG. */
FVG_DEF fvg_node *fvg_frozen(fvg_tape *t, const fvg_tensor *w);

/* The same for a parameter; fvg_backward adds its gradient to p->grad. */
FVG_DEF fvg_node *fvg_param(fvg_tape *t, fvg_parameter *p);

/* The values of x, as a constant: no gradient goes to x. */
FVG_DEF fvg_node *fvg_detach(fvg_node *x);

/* ---- gradients ---- */

#ifndef FVGPT_NO_TRAINING
/* Computes the gradient of the loss [1,1] with respect to everything that needs it.  It is added
   to the grad of the parameters.  FVG_E_ARG if the loss is NULL or depends on no parameter,
   FVG_E_SHAPE if it is not [1,1], FVG_E_NUMERIC if it is NaN or infinite, FVG_E_NOMEM. */
FVG_DEF fvg_status fvg_backward(fvg_node *loss);
#endif /* FVGPT_NO_TRAINING */

/* y = f(x), computed twice (Chen et al. 2016, arXiv 1604.06174).  Forward keeps only y.  Backward
   makes the nodes of f again, goes back through them, and drops them.  The tape then holds the
   nodes of one f, not of all.  This costs a third more work, or half more where weights are
   frozen, because backward is cheaper there.

   f must make the same nodes each time, from x, constants and parameters only.  Any other node of
   the tape that needs a gradient could not get it: FVG_E_ARG.  `user` is handed to f and must stay
   until the tape is reset.  y always counts as needing a gradient.  NULL if f returns NULL.  Calls
   may be nested. */
typedef fvg_node *(*fvg_function)(fvg_tape *t, fvg_node *x, void *user);
FVG_DEF fvg_node *fvg_recompute(fvg_node *x, fvg_function f, void *user);

#ifndef FVGPT_NO_TRAINING
/* Compares gradients with central differences of f, a function that makes a scalar [1,1].  `probes`
   elements of each of the n_params parameters are changed by +-step.  Returns the largest
   |numeric - analytic| / (|numeric| + |analytic| + floor), where floor is 0.001 times the largest
   gradient of the parameter; NaN if one was met or f failed with a changed element, and a negative
   number if f or backward failed before that.  The parameters keep their values, and get the
   gradients of f. */
typedef fvg_node *(*fvg_scalar_fn)(fvg_tape *t, void *user);
FVG_DEF double fvg_gradient_check(fvg_ctx *c, fvg_scalar_fn f, void *user,
                                  fvg_parameter *const *params, int n_params,
                                  int probes, float step);
#endif /* FVGPT_NO_TRAINING */

/* -------------------------------------------------------------------------------------------------
   Operations (chapter 10)
   ---------------------------------------------------------------------------------------------- */
/* Each makes a node, or returns NULL: if shapes do not fit (FVG_E_SHAPE), if an operand is NULL, or
   operands are of two tapes or not stored as F32 (FVG_E_ARG), or when out of memory (FVG_E_NOMEM).
   A NULL that an earlier failure left keeps the message of that failure.  Arrays that are passed in
   are copied. */

/* a + b and a * b, element by element; a is [n,d], and b is [n,d], [1,d], [n,1] or [1,1]. */
FVG_DEF fvg_node *fvg_add(fvg_node *a, fvg_node *b);
FVG_DEF fvg_node *fvg_mul(fvg_node *a, fvg_node *b);

/* s times x. */
FVG_DEF fvg_node *fvg_scale(fvg_node *x, float s);

/* x w^T + b, and x w^T + b + r: x [n,k], w [m,k], b [1,m] or NULL, r [n,m] or NULL -> [n,m].  w may
   have any float storage. */
FVG_DEF fvg_node *fvg_linear(fvg_node *x, fvg_node *w, fvg_node *b);
FVG_DEF fvg_node *fvg_linear_add(fvg_node *x, fvg_node *w, fvg_node *b, fvg_node *r);

/* (x - mean) / sqrt(variance + eps) * gain + bias, for each row: x [n,d], gain and bias [1,d]. */
FVG_DEF fvg_node *fvg_layer_norm(fvg_node *x, fvg_node *gain, fvg_node *bias, float eps);

/* Element by element: e^x; max(x, 0); x Phi(x), where Phi is the normal distribution function;
   x sigmoid(1.702 x); and 1 / (1 + e^-x). */
FVG_DEF fvg_node *fvg_exp(fvg_node *x);
FVG_DEF fvg_node *fvg_relu(fvg_node *x);
FVG_DEF fvg_node *fvg_gelu(fvg_node *x);
FVG_DEF fvg_node *fvg_quick_gelu(fvg_node *x);
FVG_DEF fvg_node *fvg_sigmoid(fvg_node *x);

/* softmax(x / tau) of each row; FVG_E_ARG unless tau > 0 (1e-37 at least). */
FVG_DEF fvg_node *fvg_softmax(fvg_node *x, float tau);

/* x / |x| of each row, with the Euclidean norm; a row of zeros stays zero. */
FVG_DEF fvg_node *fvg_normalize(fvg_node *x);

/* The rows of a, then those of b: [n,d] [m,d] -> [n+m,d]. */
FVG_DEF fvg_node *fvg_concat(fvg_node *a, fvg_node *b);

/* Rows row[0..n-1] of x: [m,d] -> [n,d].  x may be F16, BF16, BF16_PANELS or Q8.  FVG_E_ARG for
   a row outside x. */
FVG_DEF fvg_node *fvg_gather(fvg_node *x, const int *row, int n);

/* x^T: [n,d] -> [d,n]. */
FVG_DEF fvg_node *fvg_transpose(fvg_node *x);

/* (1 - w) a + w b: a and b [n,d], w [n,1] -> [n,d]. */
FVG_DEF fvg_node *fvg_lerp(fvg_node *a, fvg_node *b, fvg_node *w);

#ifndef FVGPT_NO_TRAINING
/* The mean and the sum of all elements: [n,d] -> [1,1]. */
FVG_DEF fvg_node *fvg_mean(fvg_node *x);
FVG_DEF fvg_node *fvg_sum(fvg_node *x);

/* mean_i -ln softmax(logits_i)[label_i]: logits [n,C], label [n] in 0..C-1 -> [1,1].  FVG_E_ARG for
   any other label. */
FVG_DEF fvg_node *fvg_cross_entropy(fvg_node *logits, const int *label);

/* KL(p_i || softmax(logits_i / tau)) of each row: p and logits [n,C] -> [n,1].  p is taken as a
   constant, and each of its rows must sum to 1, as those of fvg_softmax do.  FVG_E_ARG unless
   tau > 0. */
FVG_DEF fvg_node *fvg_kl_rows(fvg_node *p, fvg_node *logits, float tau);

/* sum_i weight_i BCE(sigmoid(q_i), target_i) / sum_i weight_i: q [n,1], target and weight [n]
   -> [1,1].  The result is 0 if all weights are. */
FVG_DEF fvg_node *fvg_bce_with_logits(fvg_node *q, const float *target, const float *weight);
#endif /* FVGPT_NO_TRAINING */

/* -------------------------------------------------------------------------------------------------
   Transformer (chapter 11): attention over packed sequences, and the block
   ---------------------------------------------------------------------------------------------- */
/* One sequence of a packed batch: which rows of q belong to it, and which rows of k and v they see.
   Several segments may share a prefix; chapter 11 draws an example. */
typedef struct fvg_segment {
  int query, n_query;                /* first row of q, and number of rows                       */
  int key, n_key;                    /* its own keys: first row of k and v, and number           */
  int prefix, n_prefix;              /* rows [prefix, prefix + n_prefix) of k and v are seen by
                                        every query of this segment, also in a causal one        */
  int causal;                        /* 1: query i sees its own keys up to position i, not later
                                        ones                                                     */
} fvg_segment;

/* Multi-head attention: q [n,w], k and v [m,w] -> [n,w].  n_head must divide w.

   A query sees the prefix and the segment's own keys.  In a causal segment the queries are the
   last n_query of its n_key positions, and each sees the own keys up to its own position.
   Segments follow one another and together cover every row of q.  They are copied.  FVG_E_SHAPE if
   they do not fit. */
FVG_DEF fvg_node *fvg_attention(fvg_node *q, fvg_node *k, fvg_node *v, int n_head,
                                const fvg_segment *segment, int n_segment);

/* Named as in the configurations of models; fvg_quick_gelu and fvg_gelu give the formulas. */
typedef enum fvg_activation {
  FVG_QUICK_GELU = 0,
  FVG_GELU
} fvg_activation;

/* A block of width w, with layer norm before each half as in CLIP:

       x += W_out attention(W_q LN_1 x, W_k LN_1 x, W_v LN_1 x)
       x += W_proj act(W_fc LN_2 x)

   The tensors are frozen.  Norms and biases are F32, matrices [outputs, inputs] of any float
   type. */
typedef struct fvg_block {
  fvg_tensor ln_1_weight, ln_1_bias;         /* [w]                                              */
  fvg_tensor q_weight, q_bias;               /* [w,w], [w]                                       */
  fvg_tensor k_weight, k_bias;               /* [w,w], [w]                                       */
  fvg_tensor v_weight, v_bias;               /* [w,w], [w]                                       */
  fvg_tensor out_weight, out_bias;           /* [w,w], [w]                                       */
  fvg_tensor ln_2_weight, ln_2_bias;         /* [w]                                              */
  fvg_tensor fc_weight, fc_bias;             /* [4w,w], [4w]                                     */
  fvg_tensor proj_weight, proj_bias;         /* [w,4w], [w]                                      */
} fvg_block;

/* The blocks of one tower; it owns nothing here. */
typedef struct fvg_transformer {
  fvg_block *block;                  /* [n_layer]                                                */
  int n_layer, n_head;               /* blocks, and heads of each; n_head divides w              */
  float eps;                         /* of the layer norms                                       */
  fvg_activation activation;         /* act of every block                                       */
} fvg_transformer;

/* Runs x [n,w] through all blocks; the result is [n,w] if keep is NULL.

   Otherwise the last block computes only the rows keep[0..n_keep-1], in ascending order, and the
   result is [n_keep,w].  The rows kept of a causal segment must be its last ones (FVG_E_ARG). */
FVG_DEF fvg_node *fvg_transform(fvg_node *x, const fvg_transformer *m, const fvg_segment *segment,
                                int n_segment, const int *keep, int n_keep);

/* Prompts that enter before block `layer`.  Row r of that block's input is then row[r] of
   [x; vectors], x being what left the block before.  So prompts can replace rows of x or come in
   between them. */
typedef struct fvg_splice {
  int layer;                         /* from 0                                                   */
  const int *row;                    /* [n_row]                                                  */
  int n_row;                         /* rows of the block's input                                */
  const fvg_segment *segment;        /* segments from here on; NULL: as before                   */
  int n_segment;                     /* of them                                                  */
} fvg_splice;

/* All prompts of one pass through a transformer. */
typedef struct fvg_prompts {
  fvg_node *vectors;                 /* [n,w]                                                    */
  const fvg_splice *splice;          /* [n_splice], in ascending order of layers, else FVG_E_ARG */
  int n_splice;                      /* at most one per layer                                    */
  float keep;                        /* 0: a vector takes a row's place for good; otherwise the
                                        row becomes (1 - keep) vector + keep row, if as many
                                        rows leave the splice as enter it                        */
  int recompute;                     /* 1: backward computes each block again, which needs the
                                        memory of one block and a third more work                */
} fvg_prompts;

/* fvg_transform with prompts, which may be NULL.  keep numbers the last block's input rows. */
FVG_DEF fvg_node *fvg_transform_prompted(fvg_node *x, const fvg_transformer *m,
                                         const fvg_segment *segment, int n_segment,
                                         const int *keep, int n_keep,
                                         const fvg_prompts *prompts);

/* -------------------------------------------------------------------------------------------------
   Optimisers (chapter 12): SGD and AdamW as PyTorch defines them, the schedule as Dassl does
   ---------------------------------------------------------------------------------------------- */
typedef enum fvg_optimizer_kind {
  FVG_SGD = 0,
  FVG_ADAMW
} fvg_optimizer_kind;

/* Each comment gives the default, which zero stands for. */
typedef struct fvg_optimizer_desc {
  float lr;                          /* 0.0035: learning rate after warm-up                      */
  fvg_optimizer_kind kind;           /* FVG_SGD                                                  */
  float momentum;                    /* 0.9, for SGD; negative: none                             */
  float weight_decay;                /* 5e-4; negative: none                                     */
  float beta1, beta2, eps;           /* 0.9, 0.999, 1e-8, for AdamW                              */
  int   epochs;                      /* 10: length of the schedule                               */
  int   warmup_epochs;               /* 1; negative: none                                        */
  float warmup_lr;                   /* 1e-5: learning rate of the warm-up epochs                */
} fvg_optimizer_desc;

#ifndef FVGPT_NO_TRAINING
typedef struct fvg_optimizer fvg_optimizer;

/* The desc with defaults for zeros; desc may be NULL. */
FVG_DEF fvg_optimizer_desc fvg_optimizer_defaults(const fvg_optimizer_desc *desc);

/* The learning rate of an epoch, counted from 0; desc may be NULL. */
FVG_DEF double fvg_learning_rate(const fvg_optimizer_desc *desc, int epoch);

/* Makes an optimiser of n parameters.  It does not own them, and they must outlive it.  desc may be
   NULL.  FVG_E_NOMEM; *out is then NULL. */
FVG_DEF fvg_status fvg_optimizer_new(fvg_ctx *c, fvg_optimizer **out, fvg_parameter *const *params,
                                     int n, const fvg_optimizer_desc *desc);

/* Sets the gradients of all its parameters to 0. */
FVG_DEF void fvg_optimizer_zero_grad(fvg_optimizer *o);

/* One step: changes all its parameters by their gradients, at the rate lr times their own. */
FVG_DEF void fvg_optimizer_step(fvg_optimizer *o, double lr);

/* Frees the optimiser, not its parameters; NULL is allowed. */
FVG_DEF void fvg_optimizer_free(fvg_optimizer *o);

/* What an optimiser remembers, to be saved and restored through these pointers into it: the number
   of steps, and the moments of parameter i of 0..n-1, as many numbers as it has.  Moment 0 is SGD's
   momentum or AdamW's m; moment 1 is AdamW's v, and NULL for SGD. */
FVG_DEF long  *fvg_optimizer_steps(fvg_optimizer *o);
FVG_DEF float *fvg_optimizer_moment(fvg_optimizer *o, int i, int moment);
#endif /* FVGPT_NO_TRAINING */

/* -------------------------------------------------------------------------------------------------
   FVG-PT (chapter 13, whose equations (1) to (9) the comments refer to)

   FRG, the foreground reliability gate, gives r, the trust in a foreground view: (2) to (4).
   FDC, foreground distillation compensation, adapts features for base classes: (5) and (6).
   PC, prior calibration, mixes zero-shot CLIP into the scores for new classes: (7) and (8).  Its
   gate, BRG, the backbone reliability gate, gives b, the share of zero-shot CLIP.
   ---------------------------------------------------------------------------------------------- */
/* What is done with a mask whose area lies outside [area_min, area_max]. */
typedef enum fvg_area_rule {
  FVG_AREA_ZERO_R = 0,               /* m = 0: r is 0 in (6), and (4) leaves the image out       */
  FVG_AREA_CLAMP,                    /* the mask is used, its area in (2) clamped to the bounds  */
  FVG_AREA_IGNORE                    /* the mask is used; there are no bounds                    */
} fvg_area_rule;

/* Whom the adapters learn from in (6), and how much. */
typedef enum fvg_distill {
  FVG_DISTILL_PUBLISHED = 0,         /* by r of (3), which the gate learns at the same time      */
  FVG_DISTILL_STABLE                 /* by m r*, which the labels say, and a hundred times less,
                                        so that wrong masks do no harm                           */
} fvg_distill;

/* The indicators that a gate looks at: the components of u in (2) and of v in (7). */
enum { FVG_U_ENTROPY = 1, FVG_U_COSINE = 2, FVG_U_AREA = 4, FVG_U_ALL = 7 };
enum { FVG_V_TUNED_ENTROPY = 1, FVG_V_CLIP_ENTROPY = 2, FVG_V_COSINE = 4, FVG_V_ALL = 7 };

/* A number that begins a comment is the default, which zero stands for.  "On" begins the comment of
   a switch: 1 turns it on, and 0, off, is the default. */
typedef struct fvg_fvgpt_desc {
  int   width;                       /* d, the width of the features; there is no default        */
  int   fdc_hidden;                  /* 64: hidden width of the adapters of (5)                  */
  int   gate_hidden, gate_layers;    /* 32, 2: hidden width and layers (1 to 3) of the MLPs of (3)
                                        and (7)                                                  */
  float fdc_init_scale;              /* 1e-3: standard deviation of the up weights of (5) at the
                                        start; negative: 0                                       */
  float logit_scale;                 /* 100: s of (1) and (5).  It is not taken from the model:
                                        set it to m->logit_scale                                 */
  float tau;                         /* 2: temperature of every p = softmax(z / tau), in (1), (6)
                                        and (8)                                                  */
  float lambda_base, lambda_new;     /* 10, 1: weights of L_dist and L_PC in (9); negative: 0.
                                        With FVG_DISTILL_STABLE lambda_base is 0.1               */
  float lambda_rg;                   /* 1: weight of L_FRG in (9); negative: 0                   */
  float delta;                       /* 0: margin of r* in (4)                                   */
  float area_min, area_max;          /* 0.02, 0.98: least and greatest share of foreground,
                                        0 <= area_min <= area_max <= 1.  FVG_AREA_IGNORE asks for
                                        no bounds                                                */
  fvg_area_rule area_rule;           /* FVG_AREA_ZERO_R                                          */
  fvg_distill distill;               /* FVG_DISTILL_PUBLISHED                                    */
  int   attach_r;                    /* On: L_dist of (6) also trains the gate of (3).  Off: r is
                                        a constant there                                         */
  int   kl_tau2;                     /* On: every KL in (6) and (8) is multiplied by tau^2       */
  int   no_kl;                       /* On: L_PC in (8) is without its KL term                   */
  int   normalise_entropy;           /* On: Ent in (2) and (7) is divided by ln C, C being the
                                        number of classes                                        */

  /* The ablation of the paper's Table 3: each switch leaves a module out. */
  int   no_frg;                      /* On: r = m in (6), and no L_FRG in (9)                    */
  int   no_fdc;                      /* On: base classes are scored by z_full of (1); no
                                        CE(z_FDC, y) and no L_dist in (9)                        */
  int   no_pc;                       /* On: new classes are scored by z_FDC of (5), or with no_fdc
                                        by z_tuned of (1); no L_PC in (9)                        */

  /* The ablation of the paper's Table 6: a gate that is trained without an indicator sees 0 in its
     place. */
  int   frg_without;                 /* 0: FRG sees all; else FVG_U_..., one or a sum            */
  int   brg_without;                 /* 0: BRG sees all; else FVG_V_..., one or a sum            */

  uint64_t seed;                     /* of the first values of the parameters                    */
} fvg_fvgpt_desc;

/* The three modules of one model. */
typedef struct fvg_fvgpt fvg_fvgpt;

/* The desc with defaults for zeros; desc may be NULL. */
FVG_DEF fvg_fvgpt_desc fvg_fvgpt_defaults(const fvg_fvgpt_desc *desc);

/* Makes the modules with their first values.  FVG_E_ARG for a desc without width, or with values
   that are not possible or that a checkpoint could not hold; FVG_E_NOMEM; *out is then NULL. */
FVG_DEF fvg_status fvg_fvgpt_new(fvg_ctx *c, fvg_fvgpt **out, const fvg_fvgpt_desc *desc);
FVG_DEF void       fvg_fvgpt_free(fvg_fvgpt *m);

/* The parameters of (3), (5) and (7), *n of them, from "fdc_image.down.weight" to "brg.fc2.bias".
   The list and the parameters belong to m. */
FVG_DEF fvg_parameter *const *fvg_fvgpt_parameters(const fvg_fvgpt *m, int *n);

/* n images and n_class classes; d is desc.width.  All features have unit length, except f_score and
   f_score_fg: for MMRL and MMRL++ they are alpha f + (1 - alpha) f_r, not normalised, as
   published. */
typedef struct fvg_fvgpt_batch {
  int n, n_class;                    /* images, and classes C                                    */
  const float *f, *f_fg;             /* [n,d] f and f_fg of (1): features of the tuned model, of
                                        the image and of its foreground view                     */
  const float *f_clip;               /* [n,d] f0 of (1): features of zero-shot CLIP; NULL: f,
                                        for methods that do not change them (CoOp, KgCoOp)       */
  const float *f_score, *f_score_fg; /* [n,d] what z_full and z_fg of (1) are made of, if that is
                                        not f and f_fg (MMRL); both NULL: f and f_fg             */
  const float *g, *g_clip;           /* [n_class,d] g and g0 of (1): text features of the tuned
                                        model and of zero-shot CLIP                              */
  const float *area;                 /* [n] for (2): share of foreground pixels in the view, that
                                        is after crop and flip, 0 to 1; negative: the image has
                                        no mask                                                  */
  const int   *label;                /* [n] y of (4), (8) and (9), in 0..n_class-1               */
} fvg_fvgpt_batch;

#ifndef FVGPT_NO_TRAINING
/* What fvg_fvgpt_loss and fvg_fvgpt_step report.  The caller sets the pointers.  The terms of
   modules that are left out (no_frg, no_fdc, no_pc) are reported, but not added to the loss. */
typedef struct fvg_fvgpt_report {
  float loss;                        /* L of (9); the terms below are without their lambda       */
  float ce_fdc;                      /* CE(z_FDC, y) of (9)                                      */
  float frg;                         /* L_FRG of (4)                                             */
  float dist;                        /* L_dist of (6)                                            */
  float ce_pc, kl_pc;                /* the two terms of L_PC in (8)                             */
  float *r;                          /* [n] or NULL: r of (3), as the published (6) uses it: 0
                                        where m = 0, and with no_frg m itself                    */
  float *r_target;                   /* [n] or NULL: r* of (4), also where m = 0                 */
  float *b;                          /* [n] or NULL: b of (7); 0 with no_pc                      */
} fvg_fvgpt_report;

/* L of (9) as a node [1,1] of the tape t; report may be NULL.  The batch needs f, f_fg, g, g_clip,
   area and label, and its arrays must stay until the tape is reset.  NULL on failure: FVG_E_ARG if
   something is missing, if only one of f_score and f_score_fg is given, or if a label is not a
   class; FVG_E_NOMEM.  The report is then unchanged. */
FVG_DEF fvg_node *fvg_fvgpt_loss(fvg_fvgpt *m, fvg_tape *t, fvg_fvgpt_report *report,
                                 const fvg_fvgpt_batch *batch);

/* One training step: sets the gradients of o's parameters to 0, computes those of (9), and lets o
   step at the rate lr.  report may be NULL.  Errors are those of fvg_fvgpt_loss and fvg_backward;
   the values of the parameters and the report are then unchanged. */
FVG_DEF fvg_status fvg_fvgpt_step(fvg_fvgpt *m, fvg_fvgpt_report *report, fvg_optimizer *o,
                                  double lr, const fvg_fvgpt_batch *batch);
#endif /* FVGPT_NO_TRAINING */

/* What a trained FVG-PT is asked for.  All read x->n, x->n_class and only those arrays of x
   that their comments name.  FVG_E_ARG if one of these is NULL, or for less than one image or
   class; FVG_E_NOMEM.  Nothing is written then. */

/* Scores for base classes, on which the model was tuned: z_FDC [n,n_class] of (5), from f and g.
   No mask is needed.  With no_fdc: z_full of (1), from f_score (or f) and g. */
FVG_DEF fvg_status fvg_fvgpt_score_base(fvg_fvgpt *m, float *logits, const fvg_fvgpt_batch *x);

/* Scores for new classes: z_PC [n,n_class] of (8), from f, f_clip, g and g_clip; f_clip may be
   NULL.  b [n] receives the share of zero-shot CLIP, b of (7); it may be NULL.  With no_pc: z_FDC,
   or with no_fdc z_tuned of (1), both made of f, never of f_score; b is 0. */
FVG_DEF fvg_status fvg_fvgpt_score_new(fvg_fvgpt *m, float *logits, float *b,
                                       const fvg_fvgpt_batch *x);

#ifndef FVGPT_NO_TRAINING
/* The trust r [n] of (3), from f, f_fg, f_score, f_score_fg, g and area; f_score and f_score_fg may
   both be NULL.  It has the same bits as r in the loss: 0 where m = 0, and with no_frg m itself. */
FVG_DEF fvg_status fvg_fvgpt_trust(fvg_fvgpt *m, float *r, const fvg_fvgpt_batch *x);
#endif /* FVGPT_NO_TRAINING */

/* -------------------------------------------------------------------------------------------------
   Heads: classifiers on features of a frozen CLIP (chapters 15 to 21)

   These are what prompt tuning is compared with.  A head never sees a picture, only features that
   were computed once, so fitting one takes seconds.
   ---------------------------------------------------------------------------------------------- */
typedef enum fvg_head_kind {
  FVG_LINEAR_PROBE = 0,              /* "LinearProbe", chapter 16                                */
  FVG_LP_PLUS_PLUS,                  /* "LP++", chapter 17                                       */
  FVG_CLIP_ADAPTER,                  /* "CLIP-Adapter", chapter 18                               */
  FVG_TIP_ADAPTER,                   /* "Tip-Adapter", chapter 19                                */
  FVG_TIP_ADAPTER_F,                 /* "Tip-Adapter-F", chapter 19, its keys trained            */
  FVG_GDA                            /* "GDA", chapter 20                                        */
} fvg_head_kind;

/* The name of a kind, NULL if there is no such kind; and the kind of a name, -1 if it is none. */
FVG_DEF const char *fvg_head_name(fvg_head_kind kind);
FVG_DEF int         fvg_head_find(const char *name);

#ifndef FVGPT_NO_TRAINING
/* What a head learns from.  All features have unit length, which is checked (FVG_E_ARG). */
typedef struct fvg_head_data {
  int width, n_class;                /* d, and classes C                                         */
  int n, n_view;                     /* training pictures, and crops of each; n_view 0: 1        */
  const float *f;                    /* [n,n_view,d] image features of the crops                 */
  const int   *label;                /* [n] in 0..n_class-1                                      */
  const float *text;                 /* [n_class,d] text features of the class names             */
  int n_val;                         /* pictures to choose settings by; 0: none, and settings are
                                        the defaults of fvg_head_desc                            */
  const float *f_val;                /* [n_val,d]                                                */
  const int   *label_val;            /* [n_val]                                                  */
  float logit_scale;                 /* 100: s.  Set it to the model's                           */
} fvg_head_data;

/* How GDA estimates covariances for the classes that it is fitted on. */
typedef enum fvg_gda_rule {
  FVG_GDA_FEW_SHOT = 0,              /* pooled over all classes, and shrunk                      */
  FVG_GDA_BASE_TO_NEW                /* the mean of the classes' own, pseudo-inverted            */
} fvg_gda_rule;

/* Settings; all zeros are a good choice.  "Val" marks a setting that the pictures of val choose if
   it is 0: by accuracy, equal ones by the smaller cross-entropy, then the first.  After it comes
   the value that is used without val. */
typedef struct fvg_head_desc {
  float c;                           /* LinearProbe: val; 31.6.  Inverse strength of its penalty */
  float ratio;                       /* CLIP-Adapter: val; 0.2.  The adapter's share, up to 1    */
  float alpha, beta;                 /* Tip-Adapter: val; 3, 1.  GDA's alpha: val; 0.1           */
  int   hidden;                      /* CLIP-Adapter: d/4, at least 1                            */
  int   epochs;                      /* LP++ 300; CLIP-Adapter 50 for 1 picture a class, 100 for up
                                        to 4, else 200; Tip-Adapter-F 20                         */
  int   batch;                       /* CLIP-Adapter 32, Tip-Adapter-F 256                       */
  float lr;                          /* CLIP-Adapter 0.002, Tip-Adapter-F 0.001                  */
  fvg_gda_rule gda_rule;             /* FVG_GDA_FEW_SHOT                                         */
  int   neighbours, copies;          /* 64, 16: GDA's k and m for new classes; copies negative: 0 */
  uint64_t seed;                     /* of first values, orders and crops                        */
} fvg_head_desc;
#endif /* FVGPT_NO_TRAINING */

/* A fitted head. */
typedef struct fvg_head fvg_head;

#ifndef FVGPT_NO_TRAINING
/* Fits a head, with progress.  desc NULL: all zeros.  The data are not kept.  FVG_E_ARG for data or
   settings that make no sense, among them a class without a picture for GDA; FVG_E_NUMERIC if a
   value is not finite; FVG_E_CANCELLED, FVG_E_NOMEM; *out is then NULL. */
FVG_DEF fvg_status fvg_head_fit(fvg_ctx *c, fvg_head **out, fvg_head_kind kind,
                                const fvg_head_data *data, const fvg_head_desc *desc);
#endif /* FVGPT_NO_TRAINING */

/* NULL is allowed. */
FVG_DEF void fvg_head_free(fvg_head *h);

/* f [n,d] of unit length -> logits [n,n_class].  FVG_E_NUMERIC if one is not finite. */
FVG_DEF fvg_status fvg_head_logits(fvg_head *h, float *logits, const float *f, int n);

/* The kind of a head, the width d of its features, and the number of its classes. */
FVG_DEF fvg_head_kind fvg_head_is(const fvg_head *h);
FVG_DEF int           fvg_head_width(const fvg_head *h);
FVG_DEF int           fvg_head_classes(const fvg_head *h);

/* The i-th of the numbers that say how h came about: settings in use ("c", "alpha", "epoch", ...),
   then "val_accuracy" in percent and "val_cross_entropy" if val chose.  1, or 0 if there is no i-th
   one.  name and value may be NULL. */
FVG_DEF int fvg_head_choice(const fvg_head *h, int i, const char **name, double *value);

/* 1 if heads of this kind have a rule for classes that they have seen no picture of; else 0. */
FVG_DEF int fvg_head_knows_new(fvg_head_kind kind);

#ifndef FVGPT_NO_TRAINING
/* The head for n_new new classes by that rule: text [n_new,d] -> *out.  FVG_E_UNSUPPORTED for kinds
   without a rule: score new classes by zero-shot CLIP there, and say so. */
FVG_DEF fvg_status fvg_head_for_new(fvg_head *h, fvg_head **out, const float *text, int n_new);

/* Writes a head as a safetensors file: its tensors, its kind as the metadata "head", and a
   checksum; `metadata` are added (NULL if there are none). */
FVG_DEF fvg_status fvg_head_write(fvg_head *h, fvg_write_fn write, void *user,
                                  const fvg_metadata *metadata, int n_metadata);
#ifndef FVGPT_NO_STDIO
FVG_DEF fvg_status fvg_head_save(fvg_head *h, const char *path, const fvg_metadata *metadata,
                                 int n_metadata);
#endif
#endif /* FVGPT_NO_TRAINING */

/* Makes the head of an open file that fvg_head_write or fvg_head_save has written; the file stays
   open.  FVG_E_FORMAT, FVG_E_SHAPE or FVG_E_NUMERIC name what is wrong in it. */
FVG_DEF fvg_status fvg_head_read(fvg_ctx *c, fvg_head **out, fvg_weights *w);

#ifdef __cplusplus
}
#endif
#endif /* FVGPT_H */

/* -------------------------------------------------------------------------------------------------
   The platform: includes, and which kinds of SIMD the compiler can build
   ---------------------------------------------------------------------------------------------- */
#if defined(FVGPT_IMPLEMENTATION) && !defined(FVG__PART_ONE)
#define FVG__PART_ONE

/* Which system calls chapter 2 may use ("the platform"). */
#if !defined(FVGPT_NO_STDIO) && !defined(FVGPT_ONLY_STDIO)
#if defined(_WIN32)
#define FVG__WINDOWS_FILES
#elif defined(__unix__) || defined(__APPLE__)
#define FVG__POSIX_FILES
#endif
#endif

#include <errno.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#ifndef FVGPT_NO_STDIO
#include <stdio.h>
#include <time.h>
#endif

#ifdef FVGPT_PTHREADS
#include <pthread.h>
#endif

#ifdef FVG__WINDOWS_FILES
#include <io.h>
#include <sys/stat.h>
#endif

#ifdef FVG__POSIX_FILES
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

#if !defined(FVGPT_NO_SIMD) && defined(__x86_64__) && !defined(__TINYC__) && \
    (defined(__GNUC__) || defined(__clang__))
#define FVG__X86_SIMD
#define FVG__SIMD
#define FVG__ALWAYS_INLINE __attribute__((always_inline)) static inline

/* gcc's own header initialises vectors with themselves, which g++ warns about. */
#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <cpuid.h>
#include <immintrin.h>
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

/* Instructions that not every compiler of today knows.  Under -Os bfloat16 is always widened. */
#if __GNUC__ >= 11 || (defined(__clang__) && __clang_major__ >= 12)
#define FVG__HAS_AVX_VNNI
#ifndef __OPTIMIZE_SIZE__
#define FVG__HAS_AVX512_BF16
#endif
#endif

#elif !defined(FVGPT_NO_SIMD) && defined(__aarch64__) && defined(__ARM_NEON) && defined(__GNUC__) \
    && !defined(__AARCH64EB__)
#define FVG__NEON_SIMD
#define FVG__SIMD
#define FVG__ALWAYS_INLINE __attribute__((always_inline)) static inline
#include <arm_neon.h>

#elif !defined(FVGPT_NO_SIMD) && defined(__wasm_simd128__)
#define FVG__WASM_SIMD
#define FVG__SIMD
#define FVG__ALWAYS_INLINE __attribute__((always_inline)) static inline
#include <wasm_simd128.h>
#endif

/* Skip this on a first reading: the marks SELDOM_RUN, TILES, SMALL and APART change how gcc
   compiles the code, never what it computes.

   At -O2 gcc takes two thirds of its time for code that runs seldom and never long, or that only
   calls what takes long: names, settings, files, checks, towers.  What stands between the marks
   SELDOM_RUN is therefore compiled at -O1; the kernels, the tape, pictures, masks made by CLIP and
   whatever else goes over many numbers stand outside.

   The loops of a product's tiles (chapters 6 and 8), of which x86-64 has 86, consist of intrinsics,
   and gcc 12 makes as many instructions of them at -O1.  There they stand between the marks TILES,
   which takes 6 to 9 % off the whole.  Other processors, some of which run instructions strictly in
   order, keep -O2's order of them.

   Under -Os gcc still has passes which copy code (the end of a function to each call in its last
   line, a condition to each place that it follows from) or prepare loops, registers and pointers
   for speed.  Without them what stands between the marks SMALL gets 3 % smaller.  Only the tiles
   keep the first of two passes that take out of a loop what does not change in it.  FOR_SIZE is 1
   where code does without a faster way that would make it larger.  gcc also inlines small functions
   where it expects a call to be larger; the mark APART forbids this where it is wrong. */
#if !defined(__GNUC__) || defined(__clang__) || !defined(__OPTIMIZE__)
#define FVG__PRAGMA(x)
#else
#define FVG__PRAGMA(x) _Pragma(x)
#endif

#ifdef __OPTIMIZE_SIZE__
#define FVG__FOR_SIZE 1
#define FVG__SMALL_BEGIN \
  FVG__PRAGMA("GCC push_options") \
  FVG__PRAGMA("GCC optimize(\"no-optimize-sibling-calls,no-thread-jumps,no-shrink-wrap\")") \
  FVG__PRAGMA("GCC optimize(\"no-tree-dominator-opts,no-tree-tail-merge,no-caller-saves\")") \
  FVG__PRAGMA("GCC optimize(\"no-tree-loop-optimize,no-move-loop-invariants,no-tree-pta\")") \
  FVG__PRAGMA("GCC optimize(\"no-expensive-optimizations,no-tree-loop-im\")") \
  FVG__PRAGMA("GCC optimize(\"no-defer-pop,no-partial-inlining\")")
#define FVG__SMALL_END FVG__PRAGMA("GCC pop_options")
#define FVG__APART __attribute__((noinline))
#define FVG__SELDOM_RUN_BEGIN
#define FVG__SELDOM_RUN_END
#else
#define FVG__FOR_SIZE 0
#define FVG__SMALL_BEGIN
#define FVG__SMALL_END
#define FVG__APART
#define FVG__SELDOM_RUN_BEGIN FVG__PRAGMA("GCC push_options") FVG__PRAGMA("GCC optimize(\"O1\")")
#define FVG__SELDOM_RUN_END   FVG__PRAGMA("GCC pop_options")
#endif

#ifdef __OPTIMIZE_SIZE__
#define FVG__TILES_BEGIN \
  FVG__PRAGMA("GCC push_options") FVG__PRAGMA("GCC optimize(\"tree-loop-im\")")
#define FVG__TILES_END   FVG__PRAGMA("GCC pop_options")
#elif defined(FVG__X86_SIMD)
#define FVG__TILES_BEGIN FVG__SELDOM_RUN_BEGIN
#define FVG__TILES_END   FVG__SELDOM_RUN_END
#else
#define FVG__TILES_BEGIN
#define FVG__TILES_END
#endif

FVG__SMALL_BEGIN

/*==================================================================================================
 * CHAPTER 1  CONTEXT: memory, messages, threads, random numbers
 *==================================================================================================
   A context carries what every other chapter needs: an allocator that counts, a place
   for the last error message, a way to run jobs side by side, and the table of kernels
   that suits the CPU (chapter 6).

   Memory.  Every block is preceded by its size, so that the allocator callback is told what it gets
   back, and is aligned to 64 bytes, one cache line and one AVX-512 vector.  With a fixed arena, a
   first-fit list of free blocks, sorted by address and merged on release, takes the place of the
   heap.  A file's content is a claim that somebody else makes: while a file of n bytes is read, no
   more than 64 n bytes and 64 MiB are given out for it, whatever its numbers say.

   Messages.  They are written by functions of this chapter, not by vsnprintf, which follows the
   locale and does not exist on every microcontroller.  A double is m 2^e, so its decimal digits
   end, if only after up to 309 of them before the point and 1074 after it.  All of them are made,
   by multiplying or dividing m by powers of two, and then rounded once.  Reading goes the other
   way.  So what is printed with 17 digits comes back as the same double.

   Threads.  fvg_parallel(c, job, arg, n) runs job(arg, 0) .. job(arg, n-1) in any order and
   waits.  The caller cuts the work into chunks by the shapes alone, which is why results do not
   depend on the number of threads.

   Random numbers.  The generator is xoshiro256** (Blackman and Vigna, 2018).  Marsaglia's polar
   method for normal deviates needs a logarithm.  That of libm may differ in the last bit from
   machine to machine, so there is one here that uses only +, -, *, /.  Its products are stored to
   memory, which keeps a compiler from contracting them into fused operations. */

#define FVG__ALIGN 64

/* A private function of this header that fvgpt_clip.h uses; a build of this one alone may not. */
#define FVG__FOR_CLIP FVG__UNUSED

/* 0 where nothing is trained: the compiler then drops what only gradients need. */
#ifdef FVGPT_NO_TRAINING
enum { FVG__TRAINS = 0 };
#else
enum { FVG__TRAINS = 1 };
#endif

/* Under AddressSanitizer the bytes that alignment leaves over after a block are forbidden, and the
   tape (chapter 9) gives every tensor a block of its own. */
#if defined(__SANITIZE_ADDRESS__)
#define FVG__SEPARATE_BLOCKS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FVG__SEPARATE_BLOCKS 1
#endif
#endif
#ifdef FVG__SEPARATE_BLOCKS
#include <sanitizer/asan_interface.h>
#define FVG__FORBID(from, bytes) ASAN_POISON_MEMORY_REGION(from, bytes)
#define FVG__ALLOW(from, bytes)  ASAN_UNPOISON_MEMORY_REGION(from, bytes)
#else
#define FVG__SEPARATE_BLOCKS 0
#define FVG__FORBID(from, bytes) ((void)(from), (void)(bytes))
#define FVG__ALLOW(from, bytes)  ((void)(from), (void)(bytes))
#endif

/* Stands directly before each block that the context gives out. */
typedef struct fvg__block_head {
  void *base;                        /* what the allocator gave                                  */
  size_t bytes;                      /* and how much                                             */
} fvg__block_head;

typedef struct fvg__free_block {
  size_t bytes;
  struct fvg__free_block *next;      /* in order of addresses                                    */
} fvg__free_block;

typedef struct fvg__kernels fvg__kernels;
typedef struct fvg__narrow fvg__narrow;
typedef struct fvg__pool fvg__pool;

enum { FVG__MESSAGE = 512 };            /* room for a message, with its closing 0 */

/* The limit of memory while a file is read. */
typedef struct fvg__budget {
  size_t most;                       /* bytes that may be in use; 0: no limit                    */
  uint64_t bytes;                    /* the file's size                                          */
  const char *file;                  /* its name for messages                                    */
} fvg__budget;

struct fvg_ctx {
  fvg_desc desc;
  fvg__free_block *arena_free;       /* the arena's free blocks                                  */
  const fvg__kernels *kernels;
  const fvg__narrow *q8, *bf16;      /* how eight-bit and bfloat16 weights are kept (chapter 8)  */
  fvg__pool *pool;                   /* NULL: no threads of its own                              */
  int in_jobs;                       /* 1: fvg_parallel is running jobs on several threads       */
  size_t used, peak;                 /* bytes now, and at most so far                            */
  size_t tape_bytes;                 /* how many of the bytes now are those of tapes             */
  fvg__budget budget;
  fvg_status status;                 /* of the last failure                                      */
  char message[FVG__MESSAGE];
  unsigned said;                     /* what fvg__log_once has said, one bit each                */
  int is_helper;                     /* 1: made by fvg__helper_context                           */
  int waiting;                       /* 1 + the level of a helper's message that is still to be
                                        logged; 0: none                                          */
};

#ifndef FVGPT_NO_MALLOC
static void *fvg__heap_alloc(void *user, size_t bytes) {
  (void)user;
  return malloc(bytes);
}

static void fvg__heap_release(void *user, void *block, size_t bytes) {
  (void)user;
  (void)bytes;
  free(block);
}
#endif

/* The next multiple of FVG__ALIGN.  The arena's blocks have such sizes, so every
   remainder can hold a list entry. */
static size_t fvg__round_up(size_t bytes) {
  return (bytes + FVG__ALIGN - 1) / FVG__ALIGN * FVG__ALIGN;
}

/* Takes the first free block that is large enough, and leaves the rest of it in the list. */
static void *fvg__arena_alloc(void *user, size_t bytes) {
  fvg_ctx *c = (fvg_ctx *)user;
  bytes = fvg__round_up(bytes);

  fvg__free_block **link = &c->arena_free;
  while (*link && (*link)->bytes < bytes)
    link = &(*link)->next;
  fvg__free_block *b = *link;
  if (!b) return NULL;

  if (b->bytes == bytes) {
    *link = b->next;
    return b;
  }
  fvg__free_block *rest = (fvg__free_block *)(void *)((char *)b + bytes);
  rest->bytes = b->bytes - bytes;
  rest->next = b->next;
  *link = rest;
  return b;
}

/* Does b begin where a ends? */
static int fvg__is_adjacent(const fvg__free_block *a, const fvg__free_block *b) {
  return a && b && (const char *)a + a->bytes == (const char *)b;
}

/* Puts a block back into the list and merges it with its free neighbours. */
static void fvg__arena_release(void *user, void *block, size_t bytes) {
  fvg_ctx *c = (fvg_ctx *)user;
  fvg__free_block *b = (fvg__free_block *)block;
  fvg__free_block *before = NULL;
  fvg__free_block *after = c->arena_free;
  while (after && after < b) {
    before = after;
    after = after->next;
  }

  b->bytes = fvg__round_up(bytes);
  b->next = after;
  if (before) before->next = b;
  else c->arena_free = b;

  if (fvg__is_adjacent(b, after)) {
    b->bytes += after->bytes;
    b->next = after->next;
  }
  if (fvg__is_adjacent(before, b)) {
    before->bytes += b->bytes;
    before->next = b->next;
  }
}

/* ---- text ---- */
/* The length of a UTF-8 sequence that begins with this byte, 1 to 4; 0 if none does. */
static size_t fvg__utf8_announced(unsigned first) {
  if (first < 0x80) return 1;
  if (first < 0xC2) return 0;
  if (first < 0xE0) return 2;
  if (first < 0xF0) return 3;
  if (first < 0xF5) return 4;
  return 0;
}

/* The length of the UTF-8 sequence at s, 1 to 4; 0 if it is cut off after n bytes, longer than
   needed, a surrogate or beyond U+10FFFF. */
FVG_DEF size_t fvg_utf8_length(const unsigned char *s, size_t n) {
  if (!n) return 0;
  const unsigned first = s[0];
  const size_t length = fvg__utf8_announced(first);
  if (length > n) return 0;

  for (size_t i = 1; i < length; i++)
    if ((s[i] & 0xC0) != 0x80) return 0;

  /* Longer than needed (E0, F0), a surrogate (ED), or beyond U+10FFFF (F4). */
  if (first == 0xE0 && s[1] < 0xA0) return 0;
  if (first == 0xED && s[1] > 0x9F) return 0;
  if (first == 0xF0 && s[1] < 0x90) return 0;
  if (first == 0xF4 && s[1] > 0x8F) return 0;
  return length;
}

/* The character in the first n bytes of s, n being what fvg_utf8_length found. */
FVG_DEF uint32_t fvg_utf8_read(const uint8_t *s, size_t n) {
  if (n < 2) return s[0];
  uint32_t code = s[0] & (0x7Fu >> n);
  for (size_t i = 1; i < n; i++)
    code = code << 6 | (s[i] & 0x3Fu);
  return code;
}

FVG__APART static int fvg__is_utf8(const char *s, size_t n) {
  for (size_t at = 0; at < n;) {
    size_t length = fvg_utf8_length((const unsigned char *)s + at, n - at);
    if (!length) return 0;
    at += length;
  }
  return 1;
}

/* Characters that a terminal obeys instead of showing them: C0 and C1 controls, DEL, the separators
   of lines and paragraphs, and the marks, embeddings, overrides and isolates that change the
   direction of the text around them (Unicode Standard Annex 9). */
FVG_DEF int fvg_is_control(uint32_t code) {
  if (code < 0x20) return 1;
  if (code >= 0x7F && code < 0xA0) return 1;
  if (code == 0x61C || code == 0x200E || code == 0x200F) return 1;
  if (code >= 0x2028 && code <= 0x202E) return 1;
  return code >= 0x2066 && code <= 0x2069;
}

/* Names come out of files and may hold anything.  In place, every byte of a control character, and
   every byte that is not UTF-8, becomes a question mark, as `ls` prints them, so that a message
   stays one harmless line. */
FVG_DEF void fvg_printable(char *text) {
  unsigned char *at = (unsigned char *)text;
  size_t left = strlen(text);

  while (left) {
    size_t length = fvg_utf8_length(at, left);
    int bad = !length || fvg_is_control(fvg_utf8_read(at, length));
    if (!length) length = 1;
    if (bad) memset(at, '?', length);
    at += length;
    left -= length;
  }
}

FVG__SELDOM_RUN_BEGIN

/* ---- decimal digits ---- */
/* All digits of a double, because rounding correctly needs them.  A limb has nine of them; digit
   FVG__POINT is the first after the decimal point. */
enum {
  FVG__LIMB = 1000000000,
  FVG__WHOLE_LIMBS = 37,                             /* 333 digits; the largest double has 309   */
  FVG__LIMBS = FVG__WHOLE_LIMBS + 120,               /* 1080 more; the smallest double has 1074  */
  FVG__POINT = 9 * FVG__WHOLE_LIMBS,
  FVG__DIGITS = 9 * FVG__LIMBS
};

typedef struct fvg__decimal { uint32_t limb[FVG__LIMBS]; } fvg__decimal;

/* 1 where arithmetic carries more digits than a double has (manual, section 5). */
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD == 2
#define FVG__X87 1
#else
#define FVG__X87 0
#endif

/* What a digit at this place counts in its limb: 10^8 at the first, 1 at the last. */
static uint32_t fvg__digit_unit(int place) {
  uint32_t unit = 1;
  for (int i = place % 9; i < 8; i++) unit *= 10;
  return unit;
}

static int fvg__digit(const fvg__decimal *d, int place) {
  if (place >= FVG__DIGITS) return 0;
  return (int)(d->limb[place / 9] / fvg__digit_unit(place) % 10);
}

/* Sets d to mantissa * 10^exponent. */
static void fvg__decimal_set(fvg__decimal *d, uint64_t mantissa, int exponent) {
  memset(d, 0, sizeof *d);
  for (int place = FVG__POINT - 1 - exponent; mantissa; place--) {
    d->limb[place / 9] += (uint32_t)(mantissa % 10) * fvg__digit_unit(place);
    mantissa /= 10;
  }
}

/* Multiplies d by 2^bits, bits being at most 29. */
static void fvg__decimal_up(fvg__decimal *d, int bits) {
  uint64_t carry = 0;
  for (int i = FVG__LIMBS; i-- > 0;) {
    carry += (uint64_t)d->limb[i] << bits;
    d->limb[i] = (uint32_t)(carry % FVG__LIMB);
    carry /= FVG__LIMB;
  }
}

/* Divides it by 2^bits. */
static void fvg__decimal_down(fvg__decimal *d, int bits) {
  uint64_t rest = 0;
  for (int i = 0; i < FVG__LIMBS; i++) {
    rest = rest * FVG__LIMB + d->limb[i];
    d->limb[i] = (uint32_t)(rest >> bits);
    rest &= ((uint64_t)1 << bits) - 1;
  }
}

/* Sets d to x, which is finite and not negative. */
static void fvg__decimal_of(fvg__decimal *d, double x) {
  int exponent;
  const double mantissa = frexp(x, &exponent);
  fvg__decimal_set(d, (uint64_t)ldexp(mantissa, 53), 0);

  const int up = exponent - 53, down = 53 - exponent;
  for (int done = 0; done < up; done += 29) fvg__decimal_up(d, up - done < 29 ? up - done : 29);
  for (int done = 0; done < down; done += 29)
    fvg__decimal_down(d, down - done < 29 ? down - done : 29);
}

/* The first place from `from` on with a digit that is not 0; FVG__DIGITS if there is none. */
static int fvg__digits_begin(const fvg__decimal *d, int from) {
  while (from < FVG__DIGITS && !fvg__digit(d, from)) from++;
  return from;
}

/* Rounds d to the nearest number whose digits end at place `last`; of two, to the even one. */
static void fvg__decimal_round(fvg__decimal *d, int last) {
  if (last >= FVG__DIGITS - 1) return;
  const int next = fvg__digit(d, last + 1);
  int up = next > 5;
  if (next == 5) up = fvg__digits_begin(d, last + 2) < FVG__DIGITS || fvg__digit(d, last) % 2;

  const uint32_t unit = fvg__digit_unit(last);
  int i = last / 9;
  memset(&d->limb[i + 1], 0, (size_t)(FVG__LIMBS - 1 - i) * sizeof *d->limb);
  d->limb[i] -= d->limb[i] % unit;
  if (up) d->limb[i] += unit;
  for (; d->limb[i] == FVG__LIMB; i--) {
    d->limb[i] = 0;
    d->limb[i - 1]++;
  }
}

/* The part of d before the decimal point; 2^64 - 1 if it has more than 18 digits. */
static uint64_t fvg__decimal_whole(const fvg__decimal *d) {
  const int last = FVG__WHOLE_LIMBS - 1;
  for (int i = 0; i < last - 1; i++) {
    if (d->limb[i]) return (uint64_t)-1;
  }
  return (uint64_t)d->limb[last - 1] * FVG__LIMB + d->limb[last];
}

/* The double nearest to d; of two, the even one.  d is changed. */
static double fvg__decimal_value(fvg__decimal *d) {
  const uint64_t one = 1;
  int exponent = 0;

  /* Many bits at a time while the number is far from its place. */
  for (; fvg__decimal_whole(d) == (uint64_t)-1; exponent += 3) fvg__decimal_down(d, 3);
  for (; fvg__decimal_whole(d) < one << 23 && exponent > -1045; exponent -= 29)
    fvg__decimal_up(d, 29);

  for (; fvg__decimal_whole(d) >= one << 53; exponent++) fvg__decimal_down(d, 1);
  for (; fvg__decimal_whole(d) < one << 52 && exponent > -1074; exponent--) fvg__decimal_up(d, 1);

  uint64_t mantissa = fvg__decimal_whole(d);
  const int next = fvg__digit(d, FVG__POINT);
  int up = next > 5;
  if (next == 5) up = fvg__digits_begin(d, FVG__POINT + 1) < FVG__DIGITS || mantissa % 2;
  if (up) mantissa++;
  return ldexp((double)mantissa, exponent);
}

/* ---- printing ---- */
/* vsnprintf is not used: it writes the locale's decimal point, and where there are neither files
   nor a heap it brings both along (FVGPT_NO_STDIO, FVGPT_NO_MALLOC).  What fvg_fail says of formats
   is all that these functions know. */

/* What %llu prints; uint64_t has that type on some platforms only. */
typedef unsigned long long fvg__long;

/* Text that is being written to a place of `size` bytes.  What does not fit is only counted. */
typedef struct fvg__printer {
  char *to;
  size_t size, n;
} fvg__printer;

/* A conversion: % flags width . precision length letter. */
typedef struct fvg__form {
  int left, zeros;                   /* flags - and 0                                            */
  char plus;                         /* the flag '+' or ' ', which stands before what is not
                                        negative; else 0                                         */
  int width, precision;              /* precision below 0: none                                  */
  int longs;                         /* how many l; 3 for z                                      */
} fvg__form;

/* The arguments, in a struct because a va_list can be an array, which functions cannot share. */
typedef struct fvg__arguments { va_list list; } fvg__arguments;

static void fvg__put(fvg__printer *p, char letter) {
  if (p->n + 1 < p->size) p->to[p->n] = letter;
  p->n++;
}

static void fvg__put_text(fvg__printer *p, const char *text, int most) {
  for (int i = 0; (most < 0 || i < most) && text[i]; i++) fvg__put(p, text[i]);
}

static void fvg__put_sign(fvg__printer *p, const fvg__form *f, int negative) {
  if (negative) fvg__put(p, '-');
  else if (f->plus) fvg__put(p, f->plus);
}

static void fvg__put_whole(fvg__printer *p, uint64_t x, unsigned base, const char *digits,
                           int least) {
  char text[24];
  int n = 0;
  for (; x; x /= base) text[n++] = digits[x % base];

  for (int i = n; i < least; i++) fvg__put(p, '0');
  while (n) fvg__put(p, text[--n]);
}

/* Writes the digits of these places, and a point before the place `point`. */
static void fvg__put_digits(fvg__printer *p, const fvg__decimal *d, int from, int last, int point) {
  for (int place = from; place <= last; place++) {
    if (place == point) fvg__put(p, '.');
    fvg__put(p, (char)('0' + fvg__digit(d, place)));
  }
}

/* Writes a finite number that is not negative, by the letters e, f and g of C's printf. */
static void fvg__put_finite(fvg__printer *p, char letter, int precision, double x) {
  fvg__decimal d;
  fvg__decimal_of(&d, x);
  if (precision < 0) precision = 6;
  if (letter == 'g' && precision > 0) precision--;   /* g counts the first digit                 */

  const int ones = FVG__POINT - 1;
  int first = x > 0 ? fvg__digits_begin(&d, 0) : ones;
  int last = (letter == 'f' ? ones : first) + precision;
  fvg__decimal_round(&d, last);
  if (first > 0 && fvg__digit(&d, first - 1)) {      /* 9.96 has become 10.0                     */
    first--;
    if (letter != 'f') last--;
  }

  const int exponent = ones - first;
  const int fixed = letter == 'f' || (letter == 'g' && exponent >= -4 && exponent <= precision);
  if (letter == 'g') {
    const int least = fixed && first < ones ? ones : first;
    while (last > least && !fvg__digit(&d, last)) last--;
  }
  if (fixed) {
    if (last < ones) last = ones;
    fvg__put_digits(p, &d, first < ones ? first : ones, last, FVG__POINT);
    return;
  }
  fvg__put_digits(p, &d, first, last, first + 1);
  fvg__put_text(p, exponent < 0 ? "e-" : "e+", -1);
  fvg__put_whole(p, (uint64_t)(exponent < 0 ? -exponent : exponent), 10, "0123456789", 2);
}

/* Returns 1 if there are digits, which zeros may precede. */
static int fvg__put_real(fvg__printer *p, const fvg__form *f, char letter, double x) {
  fvg__put_sign(p, f, x < 0 || (x == 0 && copysign(1, x) < 0));
  const int finite = x - x == 0;
  if (finite) fvg__put_finite(p, letter, f->precision, fabs(x));
  else fvg__put_text(p, x == x ? "inf" : "nan", -1);
  return finite;
}

static int64_t fvg__next_signed(const fvg__form *f, fvg__arguments *a) {
  switch (f->longs) {
    case 0:  return va_arg(a->list, int);
    case 1:  return va_arg(a->list, long);
    case 2:  return va_arg(a->list, long long);
    default: return (int64_t)va_arg(a->list, ptrdiff_t);
  }
}

static uint64_t fvg__next_unsigned(const fvg__form *f, fvg__arguments *a) {
  switch (f->longs) {
    case 0:  return va_arg(a->list, unsigned);
    case 1:  return va_arg(a->list, unsigned long);
    case 2:  return va_arg(a->list, unsigned long long);
    default: return va_arg(a->list, size_t);
  }
}

/* Writes the next argument.  Returns 1 if zeros may precede it. */
static int fvg__put_argument(fvg__printer *p, const fvg__form *f, char letter, fvg__arguments *a) {
  const int least = f->precision < 0 ? 1 : f->precision;

  switch (letter) {
    case 'd':
    case 'i': {
      const int64_t x = fvg__next_signed(f, a);
      fvg__put_sign(p, f, x < 0);
      fvg__put_whole(p, x < 0 ? 0 - (uint64_t)x : (uint64_t)x, 10, "0123456789", least);
      return f->precision < 0;
    }

    case 'u':
    case 'x':
    case 'X': {
      const unsigned base = letter == 'u' ? 10 : 16;
      const char *digits = letter == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
      fvg__put_whole(p, fvg__next_unsigned(f, a), base, digits, least);
      return f->precision < 0;
    }

    case 'e':
    case 'f':
    case 'g':
      return fvg__put_real(p, f, letter, va_arg(a->list, double));

    case 'c':
      fvg__put(p, (char)va_arg(a->list, int));
      return 0;
    case 's': {
      const char *text = va_arg(a->list, const char *);
      fvg__put_text(p, text ? text : "(null)", f->precision);
      return 0;
    }

    default:                         /* also %%; what is not known stands there as it is         */
      if (letter != '%') fvg__put(p, '%');
      if (letter) fvg__put(p, letter);
      return 0;
  }
}

/* Moves what was written from byte `from` on to the right, so that it is `width` wide. */
static void fvg__widen(fvg__printer *p, size_t from, size_t width, char fill) {
  if (p->n - from >= width) return;
  const size_t more = width - (p->n - from);
  const size_t room = p->size ? p->size - 1 : 0;

  for (size_t i = p->n; i-- > from;) {
    if (i + more < room) p->to[i + more] = p->to[i];
  }
  for (size_t i = from; i < from + more && i < room; i++) p->to[i] = fill;
  p->n += more;
}

/* Reads a number of the format, or an argument for '*'. */
static int fvg__form_number(const char **at, fvg__arguments *a) {
  if (**at == '*') {
    ++*at;
    return va_arg(a->list, int);
  }

  int x = 0;
  for (; **at >= '0' && **at <= '9'; ++*at) {
    if (x < 100000) x = 10 * x + (**at - '0');
  }
  return x;
}

/* Reads what stands between % and the letter, and returns where the letter is. */
static const char *fvg__form_read(fvg__form *f, const char *at, fvg__arguments *a) {
  memset(f, 0, sizeof *f);
  f->precision = -1;
  for (; *at && strchr("-0+ ", *at); at++) {
    if (*at == '-') f->left = 1;
    else if (*at == '0') f->zeros = 1;
    else if (f->plus != '+') f->plus = *at;
  }

  f->width = fvg__form_number(&at, a);
  if (f->width < 0) {
    f->left = 1;
    f->width = -f->width;
  }
  if (*at == '.') {
    at++;
    f->precision = fvg__form_number(&at, a);
  }
  for (; *at && strchr("hlz", *at); at++) {
    if (*at == 'l') f->longs++;
    if (*at == 'z') f->longs = 3;
  }
  return at;
}

/* As vsnprintf: writes at most `size` bytes with the closing 0, and returns the length without it
   that all would have had. */
static int fvg__vprint(char *to, size_t size, const char *format, va_list list) {
  fvg__printer p = {to, size, 0};
  fvg__arguments a;
  va_copy(a.list, list);

  for (const char *at = format; *at; at++) {
    if (*at != '%') {
      fvg__put(&p, *at);
      continue;
    }
    fvg__form f;
    at = fvg__form_read(&f, at + 1, &a);

    size_t from = p.n;
    const int digits = fvg__put_argument(&p, &f, *at, &a);
    const size_t width = (size_t)f.width;
    if (f.left) {
      while (p.n - from < width) fvg__put(&p, ' ');
    } else if (f.zeros && digits) {
      const int has_sign = from + 1 < size && strchr("-+ ", to[from]) != NULL;
      fvg__widen(&p, from + (size_t)has_sign, width - (width && has_sign), '0');
    } else {
      fvg__widen(&p, from, width, ' ');
    }
    if (!*at) break;                 /* the format ends within a conversion                      */
  }

  va_end(a.list);
  if (size) to[p.n < size ? p.n : size - 1] = 0;
  return (int)p.n;
}

/* As snprintf. */
FVG__PRINTF(3, 4)
static int fvg__print(char *to, size_t size, const char *format, ...) {
  va_list args;
  va_start(args, format);
  int n = fvg__vprint(to, size, format, args);
  va_end(args);
  return n;
}

/* ---- messages ---- */
static void fvg__print_line(char line[FVG__MESSAGE], const char *format, va_list args) {
  fvg__vprint(line, FVG__MESSAGE, format, args);
  fvg_printable(line);
}

/* Records a message and hands the status back, so that failing is one line: return
   fvg_fail(c, FVG_E_IO, ...). */
FVG_DEF fvg_status fvg_fail(fvg_ctx *c, fvg_status status, const char *format, ...) {
  va_list args;
  va_start(args, format);
  fvg__print_line(c->message, format, args);
  va_end(args);

  c->status = status;
  return status;
}

/* Refuses a call with a NULL argument; without a context there is no place for the message. */
static fvg_status fvg__missing(fvg_ctx *c, const char *function, const char *argument) {
  if (!c) return FVG_E_ARG;
  return fvg_fail(c, FVG_E_ARG, "%s: %s must be given, not NULL", function, argument);
}

FVG_DEF void fvg_log(fvg_ctx *c, int level, const char *format, ...) {
  if (!c->desc.log) return;

  va_list args;
  va_start(args, format);
  char line[FVG__MESSAGE];
  fvg__print_line(line, format, args);
  va_end(args);
  c->desc.log(c->desc.user, level, line);
}

/* Logs something once in a context; `what` is one bit.  desc.log may be called by one thread at a
   time, so a helper keeps the text in its message until fvg__helper_done logs it.  A helper can
   hold one message.  A second is dropped; the next image with the same problem logs it. */
FVG__FOR_CLIP FVG__PRINTF(4, 5)
static void fvg__log_once(fvg_ctx *c, unsigned what, int level, const char *format, ...) {
  if ((c->said & what) || c->waiting) return;
  c->said |= what;

  va_list args;
  va_start(args, format);
  char line[FVG__MESSAGE];
  fvg__print_line(line, format, args);
  va_end(args);

  if (c->is_helper) {
    memcpy(c->message, line, sizeof line);
    c->waiting = level + 1;
  } else if (c->desc.log) {
    c->desc.log(c->desc.user, level, line);
  }
}

FVG__SELDOM_RUN_END

/* ---- memory ---- */
/* The bytes in use that count against a budget.  The memory of a tape follows from the model, not
   from what a file claims, so it does not count. */
static size_t fvg__used_beside_tapes(const fvg_ctx *c) { return c->used - c->tape_bytes; }

/* From here to fvg__budget_end the context gives out 64 bytes for each byte of the file and 64
   MiB, beyond what is in use, or less if it reads a file within another one's budget.  *before is
   what fvg__budget_end takes. */
static void fvg__budget_begin(fvg_ctx *c, fvg__budget *before, const char *file, uint64_t bytes) {
  const size_t all = (size_t)-1 / 2;
  const size_t fixed = (size_t)64 << 20;
  *before = c->budget;

  const size_t used = fvg__used_beside_tapes(c);
  size_t most = all;
  size_t room = used < all - fixed ? all - fixed - used : 0;
  if (bytes < room / 64) most = used + fixed + 64 * (size_t)bytes;
  if (before->most && before->most < most) return;

  c->budget.most = most;
  c->budget.bytes = bytes;
  c->budget.file = file;
}

FVG__APART static void fvg__budget_end(fvg_ctx *c, const fvg__budget *before) {
  c->budget = *before;
}

static int fvg__over_budget(const fvg_ctx *c, size_t bytes, size_t total) {
  const size_t most = c->budget.most;
  if (!most) return 0;
  return bytes > most || fvg__used_beside_tapes(c) + total > most;
}

/* Aligned memory with any content, or NULL with the message set. */
static void *fvg__alloc_raw(fvg_ctx *c, size_t bytes) {
  const size_t total = bytes + sizeof(fvg__block_head) + FVG__ALIGN;
  if (fvg__over_budget(c, bytes, total)) {
    fvg_fail(c, FVG_E_NOMEM,
             "%s: %zu bytes of memory asked for, for a file of %llu; "
             "more than 64 times its size and 64 MiB is not given",
             c->budget.file, bytes, (fvg__long)c->budget.bytes);
    return NULL;
  }

  const fvg_allocator *allocator = &c->desc.allocator;
  char *base = NULL;
  if (bytes <= (size_t)-1 / 2)
    base = (char *)allocator->alloc(allocator->user, total);
  if (!base) {
    fvg_fail(c, FVG_E_NOMEM, "out of memory: %zu bytes asked for, %zu in use", bytes, c->used);
    return NULL;
  }

  fvg__block_head head;
  head.base = base;
  head.bytes = total;
  char *block = base + sizeof head;
  block += (FVG__ALIGN - (uintptr_t)block % FVG__ALIGN) % FVG__ALIGN;
  memcpy(block - sizeof head, &head, sizeof head);

  char *end = block + bytes;
  FVG__FORBID(end, (size_t)(base + total - end));
  c->used += total;
  if (c->used > c->peak) c->peak = c->used;
  return block;
}

/* The same, zeroed. */
FVG_DEF void *fvg_alloc(fvg_ctx *c, size_t bytes) {
  void *block = fvg__alloc_raw(c, bytes);
  if (block) memset(block, 0, bytes);
  return block;
}

/* Zeros for n elements of `size` bytes; the product is checked. */
FVG_DEF void *fvg_alloc_array(fvg_ctx *c, size_t n, size_t size) {
  if (size && n > (size_t)-1 / 2 / size) {
    fvg_fail(c, FVG_E_NOMEM, "out of memory: %zu elements of %zu bytes", n, size);
    return NULL;
  }
  return fvg_alloc(c, n * size);
}

FVG_DEF void fvg_release(fvg_ctx *c, void *block) {
  if (!block) return;
  fvg__block_head head;
  memcpy(&head, (char *)block - sizeof head, sizeof head);

  FVG__ALLOW(head.base, head.bytes);
  c->used -= head.bytes;
  c->desc.allocator.release(c->desc.allocator.user, head.base, head.bytes);
}

/* Where row i of a matrix begins: the number of elements before it. */
static size_t fvg__row(int i, int width) { return (size_t)i * (size_t)width; }

FVG_DEF char *fvg_copy_string(fvg_ctx *c, const char *s) {
  if (!s) {
    fvg__missing(c, "fvg_copy_string", "the text");
    return NULL;
  }
  size_t n = strlen(s) + 1;
  char *copy = (char *)fvg_alloc(c, n);
  if (copy) memcpy(copy, s, n);
  return copy;
}

/* ---- stopping ---- */
/* FVG_E_CANCELLED once the caller wants to stop; asked wherever work may take long. */
static fvg_status fvg__check_cancelled(fvg_ctx *c) {
  if (!c->desc.cancelled) return FVG_OK;
  if (!c->desc.cancelled(c->desc.user)) return FVG_OK;
  return fvg_fail(c, FVG_E_CANCELLED, "stopped");
}

/* Tells the progress callback; FVG_E_CANCELLED if it wants to stop. */
FVG_DEF fvg_status fvg_report_progress(fvg_ctx *c, const fvg_progress *p) {
  if (!p) return fvg__missing(c, "fvg_report_progress", "the progress");
  if (!c->desc.progress) return FVG_OK;
  if (!c->desc.progress(c->desc.user, p)) return FVG_OK;
  return fvg_fail(c, FVG_E_CANCELLED, "%s: cancelled at step %ld of %ld",
                  p->what, p->step, p->n_steps);
}

/* ---- threads ---- */
#ifdef FVGPT_PTHREADS
/* Each thread gets a range of the jobs 0..n-1, so that neighbouring jobs meet in one cache; a
   thread that has finished its range takes jobs from the others.  A layer of a small model is over
   in microseconds, so nobody sleeps at once: a worker looks for new work for a while, and the
   caller for the end, before they wait to be woken. */
#define FVG__SPINS 3000

/* One cache line each, so that threads that count down their ranges do not slow one another. */
typedef struct fvg__range {
  int left;                          /* jobs not yet taken                                       */
  char padding[60];
} fvg__range;

#if !defined(__GNUC__) || defined(__TINYC__)
#define FVG__LOCKED_ATOMICS
#endif

struct fvg__pool {
  pthread_mutex_t lock;              /* for the two conditions                                   */
#ifdef FVG__LOCKED_ATOMICS
  pthread_mutex_t atomic;
#endif
  pthread_cond_t wake;               /* there is new work for a sleeping worker                  */
  pthread_cond_t done;               /* the last job is finished                                 */
  pthread_t *thread;                 /* [n_thread]                                               */
  fvg__range *range;                 /* [n_thread + 1]; the caller's is the last                 */
  int n_thread, n_started;
  int n;                             /* jobs of this run                                         */
  int unfinished;                    /* jobs not yet finished                                    */
  int sleeping;                      /* workers that must be woken                               */
  int waiting;                       /* 1: the caller must be woken                              */
  int quit;
  int ticket;                        /* number of the run; a new one means new work              */
  void (*job)(void *arg, int index);
  void *arg;
};

/* add and take return the value that *x had before; take subtracts 1 unless it is 0. */
#ifndef FVG__LOCKED_ATOMICS
static int fvg__atomic_add(fvg__pool *p, int *x, int v) {
  (void)p;
  return __atomic_fetch_add(x, v, __ATOMIC_SEQ_CST);
}

static int fvg__atomic_load(fvg__pool *p, int *x) {
  (void)p;
  return __atomic_load_n(x, __ATOMIC_SEQ_CST);
}

static int fvg__atomic_take(fvg__pool *p, int *x) {
  (void)p;
  const int order = __ATOMIC_SEQ_CST;
  int old = __atomic_load_n(x, __ATOMIC_SEQ_CST);
  while (old > 0) {
    int taken = __atomic_compare_exchange_n(x, &old, old - 1, 0, order, order);
    if (taken) break;
  }
  return old;
}
#else
static int fvg__atomic_add(fvg__pool *p, int *x, int v) {
  pthread_mutex_lock(&p->atomic);
  int old = *x;
  *x += v;
  pthread_mutex_unlock(&p->atomic);
  return old;
}

static int fvg__atomic_load(fvg__pool *p, int *x) { return fvg__atomic_add(p, x, 0); }

static int fvg__atomic_take(fvg__pool *p, int *x) {
  pthread_mutex_lock(&p->atomic);
  int old = *x;
  if (old > 0) --*x;
  pthread_mutex_unlock(&p->atomic);
  return old;
}
#endif

/* Tells the CPU that a loop only waits.  On ARM isb takes about as long as x86's pause; yield
   does nothing on most cores. */
static void fvg__pause(void) {
#if defined(__GNUC__) && !defined(__TINYC__) && (defined(__x86_64__) || defined(__i386__))
  __builtin_ia32_pause();
#elif defined(__GNUC__) && defined(__aarch64__)
  __asm__ volatile("isb");
#endif
}

/* The first job after the range of thread `who`. */
static int fvg__range_end(const fvg__pool *p, int who) {
  int64_t jobs = (int64_t)p->n * (who + 1);
  return (int)(jobs / (p->n_thread + 1));
}

/* Counts a job as finished, and wakes the caller after the last one. */
static void fvg__pool_finish_job(fvg__pool *p) {
  int before = fvg__atomic_add(p, &p->unfinished, -1);
  if (before != 1 || !fvg__atomic_load(p, &p->waiting)) return;

  pthread_mutex_lock(&p->lock);
  pthread_cond_signal(&p->done);
  pthread_mutex_unlock(&p->lock);
}

/* Runs jobs until none is left, those of range `me` first.  The pool's fields stay as they are
   while a job that was taken is unfinished, and they are read only then.  c is the caller's
   context, NULL in a worker: when the caller learns that it should stop, it takes what is left of
   the jobs and does not run them. */
static fvg_status fvg__pool_drain(fvg__pool *p, int me, fvg_ctx *c) {
  const int n_range = p->n_thread + 1;
  fvg_status s = FVG_OK;

  for (int k = 0; k < n_range; k++) {
    const int who = (me + k) % n_range;
    int *left = &p->range[who].left;

    int taken = fvg__atomic_take(p, left);
    while (taken > 0) {
      if (c && !s) s = fvg__check_cancelled(c);
      if (!s)
        p->job(p->arg, fvg__range_end(p, who) - taken);
      fvg__pool_finish_job(p);
      taken = fvg__atomic_take(p, left);
    }
  }
  return s;
}

/* Waits for a run later than `seen`, first in a loop and then asleep. */
static void fvg__pool_wait_for_work(fvg__pool *p, int seen) {
  for (int spins = 0; spins < FVG__SPINS; spins++) {
    if (fvg__atomic_load(p, &p->ticket) != seen) return;
    fvg__pause();
  }

  pthread_mutex_lock(&p->lock);
  fvg__atomic_add(p, &p->sleeping, 1);
  while (fvg__atomic_load(p, &p->ticket) == seen)
    pthread_cond_wait(&p->wake, &p->lock);
  fvg__atomic_add(p, &p->sleeping, -1);
  pthread_mutex_unlock(&p->lock);
}

static void *fvg__pool_worker(void *user) {
  fvg__pool *p = (fvg__pool *)user;
  const int me = fvg__atomic_add(p, &p->n_started, 1);
  int seen = 0;

  while (!fvg__atomic_load(p, &p->quit)) {
    fvg__pool_wait_for_work(p, seen);
    seen = fvg__atomic_load(p, &p->ticket);
    fvg__pool_drain(p, me, NULL);
  }
  return NULL;
}

static void fvg__pool_wake(fvg__pool *p) {
  fvg__atomic_add(p, &p->ticket, 1);
  if (!fvg__atomic_load(p, &p->sleeping)) return;

  pthread_mutex_lock(&p->lock);
  pthread_cond_broadcast(&p->wake);
  pthread_mutex_unlock(&p->lock);
}

/* Waits until all jobs are finished, in the same way. */
static void fvg__pool_wait_for_end(fvg__pool *p) {
  for (int spins = 0; spins < FVG__SPINS; spins++) {
    if (!fvg__atomic_load(p, &p->unfinished)) return;
    fvg__pause();
  }

  pthread_mutex_lock(&p->lock);
  fvg__atomic_add(p, &p->waiting, 1);
  while (fvg__atomic_load(p, &p->unfinished))
    pthread_cond_wait(&p->done, &p->lock);
  fvg__atomic_add(p, &p->waiting, -1);
  pthread_mutex_unlock(&p->lock);
}

/* Runs n jobs on the pool's threads and the caller's own. */
static fvg_status fvg__pool_run(fvg_ctx *c, void (*job)(void *arg, int index), void *arg, int n) {
  fvg__pool *p = c->pool;
  p->job = job;
  p->arg = arg;
  p->n = n;

  /* As soon as a range is filled, workers take jobs from it. */
  fvg__atomic_add(p, &p->unfinished, n);
  for (int who = 0; who <= p->n_thread; who++) {
    int jobs = fvg__range_end(p, who) - fvg__range_end(p, who - 1);
    fvg__atomic_add(p, &p->range[who].left, jobs);
  }
  fvg__pool_wake(p);

  fvg_status s = fvg__pool_drain(p, p->n_thread, c);
  fvg__pool_wait_for_end(p);
  return s;
}

static void fvg__pool_release(fvg_ctx *c, fvg__pool *p) {
  fvg_release(c, p->thread);
  fvg_release(c, p->range);
  fvg_release(c, p);
}

static void fvg__pool_free(fvg_ctx *c) {
  fvg__pool *p = c->pool;
  if (!p) return;

  fvg__atomic_add(p, &p->quit, 1);
  fvg__pool_wake(p);
  for (int i = 0; i < p->n_thread; i++)
    pthread_join(p->thread[i], NULL);

  pthread_cond_destroy(&p->done);
  pthread_cond_destroy(&p->wake);
  pthread_mutex_destroy(&p->lock);
#ifdef FVG__LOCKED_ATOMICS
  pthread_mutex_destroy(&p->atomic);
#endif
  fvg__pool_release(c, p);
  c->pool = NULL;
}

/* Starts n_threads - 1 threads, because the caller works too.  If the system allows fewer, that is
   slower, with the same results. */
static fvg_status fvg__pool_new(fvg_ctx *c, int n_threads) {
  fvg__pool *p = FVG_NEW(c, fvg__pool);
  if (!p) return FVG_E_NOMEM;
  p->thread = FVG_NEW_ARRAY(c, pthread_t, (size_t)n_threads);
  p->range = FVG_NEW_ARRAY(c, fvg__range, (size_t)n_threads);
  if (!p->thread || !p->range) {
    fvg__pool_release(c, p);
    return FVG_E_NOMEM;
  }

  pthread_mutex_init(&p->lock, NULL);
#ifdef FVG__LOCKED_ATOMICS
  pthread_mutex_init(&p->atomic, NULL);
#endif
  pthread_cond_init(&p->wake, NULL);
  pthread_cond_init(&p->done, NULL);
  c->pool = p;

  while (p->n_thread < n_threads - 1) {
    pthread_t *thread = &p->thread[p->n_thread];
    if (pthread_create(thread, NULL, fvg__pool_worker, p) != 0) break;
    p->n_thread++;
  }
  if (p->n_thread < n_threads - 1)
    fvg_log(c, 0, "only %d of %d threads could be started", p->n_thread + 1, n_threads);
  if (p->n_thread == 0) fvg__pool_free(c);
  return FVG_OK;
}
#endif

/* Are there threads beside the caller's own? */
static int fvg__has_threads(const fvg_ctx *c) { return c->desc.parallel || c->pool; }

/* Runs n jobs on all threads; meanwhile in_jobs tells a job that calls fvg_parallel that they are
   busy. */
static fvg_status fvg__run_on_threads(fvg_ctx *c, void (*job)(void *arg, int index), void *arg,
                                      int n) {
  fvg_status s = FVG_OK;
  c->in_jobs = 1;
  if (c->desc.parallel) c->desc.parallel(c->desc.user, job, arg, n);
#ifdef FVGPT_PTHREADS
  else s = fvg__pool_run(c, job, arg, n);
#endif
  c->in_jobs = 0;
  return s;
}

/* Runs job(arg, 0) .. job(arg, n-1) in any order and waits for all.  FVG_E_CANCELLED if the caller
   wants to stop; some of the jobs have then not been run.  A call from inside a job may be on any
   thread, so it asks nobody whether to stop. */
FVG_DEF fvg_status fvg_parallel(fvg_ctx *c, void (*job)(void *arg, int index), void *arg, int n) {
  if (!job) return fvg__missing(c, "fvg_parallel", "the job");
  if (c->in_jobs) {
    for (int i = 0; i < n; i++)
      job(arg, i);
    return FVG_OK;
  }

  fvg_status s = fvg__check_cancelled(c);
  if (s) return s;
  if (n > 1 && fvg__has_threads(c)) return fvg__run_on_threads(c, job, arg, n);

  for (int i = 0; i < n && !s; i++) {
    job(arg, i);
    if (i + 1 < n) s = fvg__check_cancelled(c);
  }
  return s;
}

/* ---- zeros of a desc ---- */
static float fvg__default(float x, float published) { return x == 0 ? published : x; }
static float fvg__none_if_negative(float x) { return x < 0 ? 0 : x; }

FVG__APART static void fvg__fill_in(float *x, float published) {
  *x = fvg__default(*x, published);
}

/* ---- life cycle ---- */
/* Chapter 6: the kernels for an fvg_simd; *level is the level that they have. */
static const fvg__kernels *fvg__choose_kernels(int simd, int *level);

/* Chapter 8: how eight-bit and bfloat16 weights are kept and multiplied. */
static const fvg__narrow *fvg__choose_q8(int level);
static const fvg__narrow *fvg__choose_bf16(const fvg__kernels *kernels);

/* Places the context at the start of its arena and makes the rest of it one free block;
   NULL if it is too small. */
static fvg_ctx *fvg__new_in_arena(fvg_desc *d) {
  char *arena = (char *)d->arena;
  const size_t skip = (FVG__ALIGN - (uintptr_t)arena % FVG__ALIGN) % FVG__ALIGN;
  const size_t head = fvg__round_up(sizeof(fvg_ctx));
  if (d->arena_bytes < skip + head + 2 * FVG__ALIGN) return NULL;

  FVG__ALLOW(d->arena, d->arena_bytes);
  fvg_ctx *c = (fvg_ctx *)(void *)(arena + skip);
  memset(c, 0, sizeof *c);
  c->arena_free = (fvg__free_block *)(void *)(arena + skip + head);
  c->arena_free->bytes = (d->arena_bytes - skip - head) / FVG__ALIGN * FVG__ALIGN;
  c->arena_free->next = NULL;

  d->allocator.alloc = fvg__arena_alloc;
  d->allocator.release = fvg__arena_release;
  d->allocator.user = c;
  return c;
}

/* Takes the context from its own allocator; NULL when out of memory. */
static fvg_ctx *fvg__new_in_heap(fvg_desc *d) {
#ifndef FVGPT_NO_MALLOC
  if (!d->allocator.alloc) {
    d->allocator.alloc = fvg__heap_alloc;
    d->allocator.release = fvg__heap_release;
  }
#endif

  fvg_ctx first;                     /* only to allocate, and so to align, the context itself    */
  memset(&first, 0, sizeof first);
  first.desc = *d;
  return FVG_NEW(&first, fvg_ctx);
}

/* Without a context there is no place for a message, so the status alone says why this fails. */
FVG_DEF fvg_status fvg_init(fvg_ctx **out, const fvg_desc *desc) {
  if (!out) return FVG_E_ARG;
  *out = NULL;

  fvg_desc d;
  memset(&d, 0, sizeof d);
  if (desc) d = *desc;
#ifdef FVGPT_NO_MALLOC
  if (!d.arena && !d.allocator.alloc) return FVG_E_ARG;
#endif
  fvg_ctx *c = d.arena ? fvg__new_in_arena(&d) : fvg__new_in_heap(&d);
  if (!c) return FVG_E_NOMEM;

  c->desc = d;
  c->kernels = fvg__choose_kernels(d.simd, &c->desc.simd);
  c->q8 = fvg__choose_q8(c->desc.simd);
  c->bf16 = fvg__choose_bf16(c->kernels);
#ifdef FVGPT_PTHREADS
  if (!d.parallel && d.n_threads > 1) {
    fvg_status s = fvg__pool_new(c, d.n_threads);
    if (s) {
      fvg_free(c);
      return s;
    }
  }
#endif
  *out = c;
  return FVG_OK;
}

FVG_DEF void fvg_free(fvg_ctx *c) {
  if (!c) return;
#ifdef FVGPT_PTHREADS
  fvg__pool_free(c);
#endif
  if (c->desc.arena) return;

  fvg_ctx last = *c;                 /* the allocator is in the block that is released           */
  fvg_release(&last, c);
}

FVG_DEF const char *fvg_error(const fvg_ctx *c) {
  if (c) return c->message;
#ifdef FVGPT_NO_MALLOC
  return "no context: built with FVGPT_NO_MALLOC, fvg_init needs an allocator or an arena, and "
         "memory enough in it";
#else
  return "no context: out of memory, or fvg_init was given a NULL pointer";
#endif
}

FVG_DEF fvg_status fvg_last_status(const fvg_ctx *c) { return c ? c->status : FVG_E_NOMEM; }
FVG_DEF int fvg_simd_level(const fvg_ctx *c) { return c->desc.simd; }

FVG_DEF const char *fvg_simd_name(int level) {
  static const char *const name[] = {
    "best", "scalar", "sse2", "avx2", "avx512", "neon", "wasm"
  };
  if (level < FVG_SIMD_BEST || level > FVG_SIMD_WASM) return NULL;
  return name[level];
}

FVG_DEF size_t fvg_mem_used(const fvg_ctx *c) { return c->used; }
FVG_DEF size_t fvg_mem_peak(const fvg_ctx *c) { return c->peak; }

FVG_DEF const char *fvg_status_name(fvg_status s) {
  switch (s) {
    case FVG_OK:            return "ok";
    case FVG_E_NOMEM:       return "out of memory";
    case FVG_E_ARG:         return "bad argument";
    case FVG_E_SHAPE:       return "shapes do not fit";
    case FVG_E_IO:          return "input/output error";
    case FVG_E_FORMAT:      return "bad format";
    case FVG_E_UNSUPPORTED: return "unsupported";
    case FVG_E_NUMERIC:     return "not a finite number";
    case FVG_E_CANCELLED:   return "cancelled";
  }
  return "unknown status";
}

/* A context for a job that runs on any thread: it has the same allocator and kernels, no
   threads, and keeps its messages to itself.  Only the caller's own thread may ask whether to
   stop, so the helper does not. */
FVG__FOR_CLIP static fvg_ctx fvg__helper_context(const fvg_ctx *c) {
  fvg_ctx helper = *c;
  helper.used = 0;
  helper.peak = 0;
  helper.tape_bytes = 0;
  helper.budget.most = 0;
  helper.pool = NULL;

  helper.desc.parallel = NULL;
  helper.desc.cancelled = NULL;
  helper.desc.log = NULL;

  helper.is_helper = 1;
  helper.status = FVG_OK;
  helper.message[0] = 0;
  return helper;
}

/* Logs what a helper had to say, after its job is over.  If the helper failed, its
   message is the failure instead. */
FVG__FOR_CLIP static void fvg__helper_done(fvg_ctx *c, const fvg_ctx *helper) {
  if (!helper->waiting || helper->status) return;
  if (!(helper->said & ~c->said)) return;

  c->said |= helper->said;
  fvg_log(c, helper->waiting - 1, "%s", helper->message);
}

/* May jobs allocate side by side, and are there threads for them?  Only malloc is known to be
   thread-safe; a custom allocator may not be. */
FVG__FOR_CLIP static int fvg__may_share_heap(const fvg_ctx *c) {
#ifdef FVGPT_NO_MALLOC
  (void)c;
  return 0;
#else
  return fvg__has_threads(c) && c->desc.allocator.alloc == fvg__heap_alloc;
#endif
}

/* ---- random numbers ---- */
static uint64_t fvg__splitmix(uint64_t *state) {
  *state += 0x9E3779B97F4A7C15u;
  uint64_t z = *state;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

FVG_DEF void fvg_rng_seed(fvg_rng *r, uint64_t seed, uint64_t stream) {
  uint64_t state = stream;
  state = seed ^ fvg__splitmix(&state);
  for (int i = 0; i < 4; i++)
    r->s[i] = fvg__splitmix(&state);
}

static uint64_t fvg__rotate_left(uint64_t x, int bits) { return x << bits | x >> (64 - bits); }

FVG_DEF uint64_t fvg_rng_next(fvg_rng *r) {
  uint64_t *s = r->s;
  const uint64_t result = fvg__rotate_left(s[1] * 5, 7) * 9;
  const uint64_t t = s[1] << 17;

  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = fvg__rotate_left(s[3], 45);
  return result;
}

/* The upper 53 bits, times 2^-53. */
FVG_DEF double fvg_rng_uniform(fvg_rng *r) {
  return (double)(fvg_rng_next(r) >> 11) * (1.0 / 9007199254740992.0);
}

/* Numbers from the incomplete last copy of 0..n-1 below 2^32 are rejected, which
   keeps the rest without bias. */
FVG_DEF uint32_t fvg_rng_below(fvg_rng *r, uint32_t n) {
  if (n < 2) return 0;
  const uint32_t limit = UINT32_MAX - UINT32_MAX % n;
  for (;;) {
    uint32_t x = (uint32_t)(fvg_rng_next(r) >> 32);
    if (x < limit) return x % n;
  }
}

FVG__APART static double fvg__exact_product(double a, double b) {
  volatile double p = a * b;
  return p;
}

/* ln x for 0 < x < 1.  x = m 2^e with m in [1/sqrt 2, sqrt 2], and ln m = 2 atanh(y) with y =
   (m-1)/(m+1), which is the series 2 y (1 + y^2 / 3 + y^4 / 5 + ...). */
static double fvg__exact_ln(double x) {
  int e = 0;
  while (x < 0.70710678118654752) {
    x *= 2;
    e--;
  }

  double y = (x - 1) / (x + 1);
  double y2 = fvg__exact_product(y, y);
  double sum = 0;
  for (int k = 21; k >= 1; k -= 2)
    sum = fvg__exact_product(sum, y2) + 1.0 / k;

  double ln_m = fvg__exact_product(2 * y, sum);
  return ln_m + fvg__exact_product(e, 0.69314718055994531);
}

/* The square root of x > 0, digit by digit, and rounded correctly, which not every libm does: that
   of MinGW rounds the root of x87 a second time.  x = m 4^e with m in [1, 4); 54 binary digits of
   the root of m are found from pairs of digits of m, and the last one tells how to round. */
static double fvg__exact_sqrt(double x) {
  int e;
  double m = 2 * frexp(x, &e);
  e--;
  if (e % 2) {
    m *= 2;
    e--;
  }

  uint64_t digits = (uint64_t)ldexp(m, 52);
  uint64_t root = 0;
  uint64_t rest = 0;
  for (int i = 0; i < 54; i++) {
    rest = rest << 2 | (digits >> 52 & 3);
    digits = digits << 2 & (((uint64_t)1 << 54) - 1);
    uint64_t trial = root << 2 | 1;
    root <<= 1;
    if (rest >= trial) {
      rest -= trial;
      root++;
    }
  }
  return ldexp((double)((root + 1) >> 1), e / 2 - 52);
}

/* Marsaglia's polar method: a point (u, v) that is uniform in the unit disc gives u sqrt(-2
   ln s / s), s = u^2 + v^2. */
FVG_DEF double fvg_rng_normal(fvg_rng *r) {
  double u, s;
  do {
    u = 2 * fvg_rng_uniform(r) - 1;
    double v = 2 * fvg_rng_uniform(r) - 1;
    s = fvg__exact_product(u, u) + fvg__exact_product(v, v);
  } while (s >= 1 || s == 0);
  return fvg__exact_product(u, fvg__exact_sqrt(-2 * fvg__exact_ln(s) / s));
}

FVG_DEF void fvg_rng_permute(fvg_rng *r, int *index, int n) {
  for (int i = n - 1; i > 0; i--) {
    int j = (int)fvg_rng_below(r, (uint32_t)i + 1);
    int swap = index[i];
    index[i] = index[j];
    index[j] = swap;
  }
}

/*==================================================================================================
 * CHAPTER 2  FILES: number formats, sources, JSON
 *==================================================================================================
   Bytes come from an fvg_source, a read callback with a size; a file and a block of memory are two
   of them.

   A file that is written appears complete or not at all, whatever happens on the way.  The bytes go
   to a temporary file beside it, PATH.tmp-XXXXXXXX with eight digits that are not in use; they are
   forced onto the disk; then the temporary file takes the name, and the folder is forced onto the
   disk as well.  A program that is killed leaves at most a temporary file, which no reader takes
   for anything else.  A link is followed, so that it stays a link, and what is not a plain file (a
   pipe, a terminal, a device) is written to as it is and never replaced.

   Half precision is IEEE binary16, bfloat16 the upper half of a float; rounding is to nearest, ties
   to even.

   A file's content is a claim that somebody else makes.  So the JSON parser runs twice: the first
   run checks every byte and counts, the second fills blocks of exactly that size.  A bad file thus
   costs no memory, and a good one no more than it needs.  Depth is limited, and sorting is heap
   sort, which is never quadratic. */

/* ---- numbers: float, half, bfloat ---- */
static uint32_t fvg__float_bits(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  return u;
}

static float fvg__bits_float(uint32_t u) {
  float x;
  memcpy(&x, &u, sizeof x);
  return x;
}

FVG_DEF float fvg_half_to_float(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
  uint32_t exponent = (h >> 10) & 31u;
  uint32_t fraction = h & 0x3FFu;

  /* An infinity, or a NaN, which is made quiet. */
  if (exponent == 31) {
    uint32_t quiet = fraction ? 0x400000u : 0u;
    return fvg__bits_float(sign | 0x7F800000u | quiet | fraction << 13);
  }

  /* Zero and subnormals are fraction * 2^-24, which a float holds exactly. */
  if (exponent == 0) {
    float x = (float)fraction * (1.0f / 16777216.0f);
    return sign ? -x : x;
  }
  return fvg__bits_float(sign | (exponent + 112u) << 23 | fraction << 13);
}

/* The half's bits without its sign, of a float's bits without its sign. */
static uint32_t fvg__half_of_magnitude(uint32_t u) {
  const uint32_t infinity = 0x7F800000u;
  const uint32_t rounds_to_infinity = 0x477FF000u;       /* 65520 */
  const uint32_t smallest_normal = 0x38800000u;          /* 2^-14 */
  const uint32_t half_smallest_subnormal = 0x33000000u;  /* 2^-25 */

  if (u > infinity) return 0x7E00u | (u >> 13 & 0x3FFu);
  if (u >= rounds_to_infinity) return 0x7C00u;
  if (u < half_smallest_subnormal) return 0;

  /* Adding half a unit less one, and one more if the result would be odd, rounds ties to even. */
  if (u >= smallest_normal) {
    uint32_t odd = u >> 13 & 1u;
    return (u - 0x38000000u + 0xFFFu + odd) >> 13;
  }

  /* A subnormal is the fraction, with its leading one, shifted by 14 to 24 bits. */
  uint32_t shift = 126u - (u >> 23);
  uint32_t fraction = (u & 0x7FFFFFu) | 0x800000u;
  uint32_t odd = fraction >> shift & 1u;
  return (fraction + (1u << (shift - 1)) - 1u + odd) >> shift;
}

FVG_DEF uint16_t fvg_float_to_half(float x) {
  uint32_t u = fvg__float_bits(x);
  uint32_t sign = u >> 16 & 0x8000u;
  return (uint16_t)(sign | fvg__half_of_magnitude(u & 0x7FFFFFFFu));
}

static int fvg__is_nan_bits(uint32_t u) { return (u & 0x7FFFFFFFu) > 0x7F800000u; }

FVG_DEF float fvg_bfloat_to_float(uint16_t h) {
  uint32_t u = (uint32_t)h << 16;
  return fvg__bits_float(fvg__is_nan_bits(u) ? u | 0x400000u : u);
}

FVG_DEF uint16_t fvg_float_to_bfloat(float x) {
  uint32_t u = fvg__float_bits(x);
  if (fvg__is_nan_bits(u)) return (uint16_t)(u >> 16 | 0x40u);

  uint32_t odd = u >> 16 & 1u;
  return (uint16_t)((u + 0x7FFFu + odd) >> 16);
}

/* ---- tensors ---- */
static const char *fvg__dtype_name(fvg_dtype type) {
  switch (type) {
    case FVG_F32:  return "F32";
    case FVG_F16:  return "F16";
    case FVG_BF16: return "BF16";
    case FVG_I32:  return "I32";
    case FVG_I64:  return "I64";
    case FVG_U8:   return "U8";
    case FVG_F32_PANELS: return "F32_PANELS";
    case FVG_I8:   return "I8";
    case FVG_Q8:   return "Q8";
    case FVG_BF16_PANELS: return "BF16_PANELS";
    case FVG_Q8_IMAGES: return "Q8_IMAGES";
  }
  return "unknown";
}

FVG_DEF size_t fvg_dtype_size(fvg_dtype type) {
  switch (type) {
    case FVG_F32:  return 4;
    case FVG_F16:  return 2;
    case FVG_BF16: return 2;
    case FVG_I32:  return 4;
    case FVG_I64:  return 8;
    case FVG_U8:   return 1;
    case FVG_I8:   return 1;
    case FVG_F32_PANELS:
    case FVG_Q8:
    case FVG_BF16_PANELS:
    case FVG_Q8_IMAGES: break;
  }
  return 0;
}

FVG_DEF size_t fvg_tensor_count(const fvg_tensor *x) {
  size_t count = 1;
  for (int i = 0; i < x->n_dim; i++)
    count *= (size_t)x->dim[i];
  return count;
}

FVG_DEF void fvg_tensor_free(fvg_ctx *c, fvg_tensor *x) {
  if (!x) return;
  fvg_release(c, x->data);
  memset(x, 0, sizeof *x);
}

/* Computes the bytes of a tensor with elements of that size.  Non-zero if a dimension is negative,
   or if no memory could hold as many. */
static int fvg__checked_bytes(const fvg_tensor *x, size_t size, uint64_t *bytes) {
  const size_t limit = (size_t)-1 / 2;
  *bytes = 0;
  if (x->n_dim < 0 || x->n_dim > FVG_MAX_DIM) return 1;

  size_t product = size;
  for (int i = 0; i < x->n_dim; i++) {
    if (x->dim[i] < 0) return 1;
    size_t dim = (size_t)x->dim[i];
    if (dim && product > limit / dim) return 1;
    product *= dim;
  }
  *bytes = product;
  return 0;
}

#define FVG__SHAPE_TEXT 96           /* room for FVG_MAX_DIM numbers of 11 characters            */

/* "[77, 512]", for messages. */
static const char *fvg__shape_text(const fvg_tensor *x, char *text) {
  size_t at = 1;
  memcpy(text, "[", 2);
  for (int i = 0; i < x->n_dim && i < FVG_MAX_DIM; i++) {
    const char *format = i ? ", %d" : "%d";
    at += (size_t)fvg__print(text + at, FVG__SHAPE_TEXT - at, format, x->dim[i]);
  }
  memcpy(text + at, "]", 2);
  return text;
}

FVG__SELDOM_RUN_BEGIN

/* ---- sources ---- */
static int fvg__memory_read(void *user, void *dst, uint64_t offset, size_t n) {
  memcpy(dst, (const char *)user + offset, n);
  return 0;
}

FVG_DEF fvg_source fvg_source_memory(const void *bytes, size_t n, const char *name) {
  fvg_source s;
  memset(&s, 0, sizeof s);
  if (bytes) s.read = fvg__memory_read;
  s.user = (void *)bytes;
  s.size = n;
  s.name = name ? name : "memory";
  return s;
}

FVG_DEF void fvg_source_close(fvg_source *s) {
  if (!s) return;
  if (s->close) s->close(s->user);
  memset(s, 0, sizeof *s);
}

/* Bytes read at a time, so that a slow disk can be given up. */
#define FVG__READ_BYTES ((size_t)4 << 20)

/* Copies n bytes at `offset` to dst.  All reading goes through here, so that nothing outside
   the source is asked for. */
static fvg_status fvg__source_read(fvg_ctx *c, const fvg_source *s, void *dst, uint64_t offset,
                                   size_t n) {
  const char *name = s->name ? s->name : "source";
  if (offset > s->size || n > s->size - offset)
    return fvg_fail(c, FVG_E_FORMAT,
                    "%s: ends after %llu bytes, but %zu bytes are expected at %llu",
                    name, (fvg__long)s->size, n, (fvg__long)offset);
  if (n && !s->read)
    return fvg_fail(c, FVG_E_ARG,
                    "%s: cannot read: the source has no bytes or no read function",
                    name);

  uint8_t *to = (uint8_t *)dst;
  while (n) {
    size_t piece = n < FVG__READ_BYTES ? n : FVG__READ_BYTES;
    if (fvg__check_cancelled(c)) return FVG_E_CANCELLED;
    if (s->read(s->user, to, offset, piece))
      return fvg_fail(c, FVG_E_IO,
                      "%s: cannot read %zu bytes at %llu",
                      name, piece, (fvg__long)offset);
    to += piece;
    offset += piece;
    n -= piece;
  }
  return FVG_OK;
}

/* The block is one byte longer than the source: fvg_alloc has set that closing byte to 0. */
FVG_DEF fvg_status fvg_source_read_all(fvg_ctx *c, uint8_t **bytes, size_t *n,
                                       const fvg_source *s) {
  if (bytes) *bytes = NULL;
  if (n) *n = 0;
  if (!c || !s || !bytes || !n)
    return fvg__missing(c, "fvg_source_read_all", "the source and the result");

  if (s->size >= (size_t)-1 / 2)
    return fvg_fail(c, FVG_E_NOMEM,
                    "%s: %llu bytes do not fit in memory",
                    s->name ? s->name : "source", (fvg__long)s->size);
  const size_t size = (size_t)s->size;
  uint8_t *block = (uint8_t *)fvg_alloc(c, size + 1);
  if (!block) return FVG_E_NOMEM;

  fvg_status status = fvg__source_read(c, s, block, 0, size);
  if (status) {
    fvg_release(c, block);
    return status;
  }
  *bytes = block;
  *n = size;
  return FVG_OK;
}

FVG_DEF void fvg_bytes_free(fvg_ctx *c, uint8_t *bytes) { fvg_release(c, bytes); }

#ifndef FVGPT_NO_STDIO
/* ---- the platform: what lies at a path ---- */
/* C99 cannot tell, so this function asks POSIX or Windows.  With FVGPT_ONLY_STDIO, and on other
   systems, the third version uses <stdio.h> alone. */
typedef enum fvg__kind { FVG__ABSENT = 0, FVG__PLAIN_FILE, FVG__SPECIAL_FILE } fvg__kind;

#if defined(FVG__POSIX_FILES)
/* Nothing has a name that is too long or leads in a circle.  Whatever else cannot be looked at
   counts as a plain file, so that fopen reports the reason. */
static fvg__kind fvg__kind_of(const char *path) {
  struct stat x;
  if (stat(path, &x) == 0)
    return S_ISREG(x.st_mode) ? FVG__PLAIN_FILE : FVG__SPECIAL_FILE;
  int is_absent = errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG || errno == ELOOP;
  return is_absent ? FVG__ABSENT : FVG__PLAIN_FILE;
}

#elif defined(FVG__WINDOWS_FILES)
static fvg__kind fvg__kind_of(const char *path) {
  struct _stat64 x;
  if (_stat64(path, &x) == 0) {
    int is_plain = (x.st_mode & _S_IFMT) == _S_IFREG;
    return is_plain ? FVG__PLAIN_FILE : FVG__SPECIAL_FILE;
  }
  return errno == ENOENT ? FVG__ABSENT : FVG__PLAIN_FILE;
}

#else
/* Some systems open a folder as a file, but none reads a byte of it.  An empty file is a file. */
static fvg__kind fvg__kind_of(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) return FVG__ABSENT;
  (void)fgetc(file);
  fvg__kind kind = ferror(file) ? FVG__SPECIAL_FILE : FVG__PLAIN_FILE;
  fclose(file);
  return kind;
}
#endif

/* ---- files as sources ---- */
/* Where a long has 32 bits, fseek takes several steps to a place beyond 2 GB, and ftell cannot say
   it. */
#ifdef FVG__WINDOWS_FILES
static int fvg__file_seek(FILE *file, uint64_t offset) {
  return _fseeki64(file, (int64_t)offset, SEEK_SET);
}

static int fvg__file_size(FILE *file, uint64_t *size) {
  int64_t end = _fseeki64(file, 0, SEEK_END) ? -1 : _ftelli64(file);
  *size = end < 0 ? 0 : (uint64_t)end;
  return end < 0;
}
#else
static int fvg__file_seek(FILE *file, uint64_t offset) {
  uint64_t step = offset < LONG_MAX ? offset : LONG_MAX;
  int failed = fseek(file, (long)step, SEEK_SET);
  offset -= step;

  while (offset && !failed) {
    step = offset < LONG_MAX ? offset : LONG_MAX;
    failed = fseek(file, (long)step, SEEK_CUR);
    offset -= step;
  }
  return failed;
}

/* Is there a byte at that offset? */
static int fvg__file_reaches(FILE *file, uint64_t offset) {
  return fvg__file_seek(file, offset) == 0 && fgetc(file) != EOF;
}

/* Finds a size that ftell cannot say by trying: the offset of the last byte, from the highest bit
   down. */
static uint64_t fvg__long_size(FILE *file) {
  uint64_t last = 0;
  for (int bit = 52; bit >= 0; bit--) {
    uint64_t further = last | (uint64_t)1 << bit;
    if (fvg__file_reaches(file, further)) last = further;
  }
  return last + 1;
}

/* Non-zero if the size cannot be found. */
static int fvg__file_size(FILE *file, uint64_t *size) {
  long end = fseek(file, 0, SEEK_END) ? -1 : ftell(file);
  *size = end < 0 ? 0 : (uint64_t)end;
  if (end >= 0 && end < LONG_MAX) return 0;

  /* Either the file is longer than a long counts, or something else is wrong. */
  if (!fvg__file_reaches(file, LONG_MAX)) return 1;
  *size = fvg__long_size(file);
  clearerr(file);
  return 0;
}
#endif

static int fvg__file_read(void *user, void *dst, uint64_t offset, size_t n) {
  FILE *file = (FILE *)user;
  if (fvg__file_seek(file, offset)) return 1;
  return fread(dst, 1, n, file) != n;
}

static void fvg__file_close(void *user) { fclose((FILE *)user); }

/* Opens a file for reading.  Pipes and folders are refused first: fopen would wait for a pipe's
   writer, and some systems open folders. */
FVG_DEF fvg_status fvg_source_file(fvg_ctx *c, fvg_source *out, const char *path) {
  if (out) memset(out, 0, sizeof *out);
  if (!c || !out || !path)
    return fvg__missing(c, "fvg_source_file", "the path and the result");
  if (fvg__check_cancelled(c)) return FVG_E_CANCELLED;

  if (fvg__kind_of(path) == FVG__SPECIAL_FILE)
    return fvg_fail(c, FVG_E_IO,
                    "%s: cannot read: a folder, pipe or device, not a plain file",
                    path);
  errno = 0;
  FILE *file = fopen(path, "rb");
  if (!file)
    return fvg_fail(c, FVG_E_IO, "%s: cannot open: %s", path, strerror(errno));

  uint64_t size;
  if (fvg__file_size(file, &size)) {
    const char *reason = errno ? strerror(errno) : "not a file with a known size";
    fvg_fail(c, FVG_E_IO, "%s: cannot read: %s", path, reason);
    fclose(file);
    return FVG_E_IO;
  }

  out->read = fvg__file_read;
  out->close = fvg__file_close;
  out->user = file;
  out->size = size;
  out->name = path;
  return FVG_OK;
}

FVG_DEF int fvg_file_exists(const char *path) {
  return path && fvg__kind_of(path) == FVG__PLAIN_FILE;
}

#ifndef FVGPT_NO_TRAINING  /* files are read, not written */
/* ---- the platform: how a file takes its place ---- */
/* C99 knows no links and cannot force a file onto the disk.  With <stdio.h> alone, a temporary file
   might follow a link that somebody has put there, a power failure may lose what was written last,
   and a link or device in the place of an output is replaced. */
#if defined(FVG__POSIX_FILES)
#ifdef _POSIX_C_SOURCE
#define FVG__POSIX_YEAR _POSIX_C_SOURCE
#elif defined(__STRICT_ANSI__)
#define FVG__POSIX_YEAR 0
#else
#define FVG__POSIX_YEAR 200809L
#endif
#if FVG__POSIX_YEAR < 200112L && !defined(__cplusplus)
/* Under -std=c99 <stdio.h> and <unistd.h> do not declare these; a second declaration is allowed. */
int (fileno)(FILE *file);
int (fsync)(int file);
ssize_t (readlink)(const char *path, char *target, size_t n);
#endif

/* The mode in which fopen fails if anything has that name, even a link. */
#define FVG__CREATE "wbx"

static unsigned long fvg__process(void) { return (unsigned long)getpid(); }

/* Reads where a link leads, without a closing 0; returns the length, below 0 if there is no
   link. */
static long fvg__read_link(const char *path, char *target, size_t n) {
  return (long)readlink(path, target, n);
}

/* Forces a file onto the disk.  Some file systems have no disk and call this invalid, which is no
   failure. */
static int fvg__sync(FILE *file) {
  return fsync(fileno(file)) && errno != EINVAL && errno != ENOSYS;
}

static int fvg__replace(const char *from, const char *to) { return rename(from, to); }

/* Gives a new file the permissions of the one at `place` that it will replace.  Failing is no
   reason to lose what is to be written. */
static void fvg__keep_permissions(const char *temporary, const char *place) {
  struct stat x;
  if (stat(place, &x) == 0) (void)chmod(temporary, x.st_mode & 0777);
}

/* A folder that cannot be forced onto the disk is no reason to fail, because the file itself is
   there. */
static void fvg__sync_folder(const char *folder) {
  int file = open(folder, O_RDONLY);
  if (file < 0) return;
  (void)fsync(file);
  (void)close(file);
}

#elif defined(FVG__WINDOWS_FILES)
#define FVG__CREATE "wb"
#ifdef __cplusplus
extern "C"
#endif
__declspec(dllimport) int __stdcall MoveFileExA(const char *from, const char *to,
                                                unsigned long flags);

static int fvg__sync(FILE *file) { return _commit(_fileno(file)); }

static int fvg__replace(const char *from, const char *to) {
  const unsigned long replace_existing = 1, write_through = 8;
  if (MoveFileExA(from, to, replace_existing | write_through)) return 0;
  errno = EACCES;                    /* the usual reason: another program holds it open          */
  return 1;
}

#else
#define FVG__CREATE "wb"

static int fvg__sync(FILE *file) {
  (void)file;
  return 0;
}

/* Some systems do not rename over an existing file. */
static int fvg__replace(const char *from, const char *to) {
  if (rename(from, to) == 0) return 0;
  remove(to);
  return rename(from, to);
}
#endif

#ifndef FVG__POSIX_FILES
static unsigned long fvg__process(void) { return 0; }

static long fvg__read_link(const char *path, char *target, size_t n) {
  (void)path;
  (void)target;
  (void)n;
  return -1;
}

static void fvg__keep_permissions(const char *temporary, const char *place) {
  (void)temporary;
  (void)place;
}

static void fvg__sync_folder(const char *folder) { (void)folder; }
#endif

/* ---- files written ---- */
typedef struct fvg__output {
  FILE *file;
  char *place;                       /* the final path: the one given, or where links there lead */
  char *temporary;                   /* path beside it; NULL: `place` is not a plain file and is
                                        written to as it is                                      */
  int error;                         /* errno of the failure                                     */
} fvg__output;

/* The length of a path's folder, with the slash at its end. */
static size_t fvg__folder_length(const char *path) {
  size_t n = strlen(path);
#ifdef FVG__WINDOWS_FILES
  while (n && path[n - 1] != '/' && path[n - 1] != '\\' && path[n - 1] != ':')
    n--;
#else
  while (n && path[n - 1] != '/') n--;
#endif
  return n;
}

/* The path that a link with this target, of n bytes, leads to: a relative target
   counts from the link's folder. */
static char *fvg__link_place(fvg_ctx *c, const char *link, const char *target, size_t n) {
  const size_t folder = target[0] == '/' ? 0 : fvg__folder_length(link);
  char *place = (char *)fvg_alloc(c, folder + n + 1);
  if (!place) return NULL;

  memcpy(place, link, folder);
  memcpy(place + folder, target, n);
  return place;
}

/* The place that links at the end of the path lead to, which need not exist yet; NULL with the
   message set. */
static char *fvg__follow_links(fvg_ctx *c, const char *path) {
  char target[4096];
  char *place = fvg_copy_string(c, path);

  for (int steps = 0; place; steps++) {
    long n = fvg__read_link(place, target, sizeof target);
    if (n <= 0) break;

    char *next = NULL;
    int too_long = n == (long)sizeof target;
    if (steps >= 40 || too_long) fvg_fail(c, FVG_E_IO, "%s: cannot write: too many links", path);
    else next = fvg__link_place(c, place, target, (size_t)n);
    fvg_release(c, place);
    place = next;
  }
  return place;
}

#define FVG__TEMPORARY ".tmp-"       /* and eight hexadecimal digits                             */

/* Is that a name that fvg__temporary_open gives?  The owner of a folder may remove such files,
   which killed programs have left there. */
FVG_DEF int fvg_file_is_temporary(const char *name) {
  const size_t n = name ? strlen(name) : 0;
  const size_t n_mark = sizeof FVG__TEMPORARY - 1;
  if (n <= n_mark + 8) return 0;

  const char *digits = name + n - 8;
  int has_mark = memcmp(digits - n_mark, FVG__TEMPORARY, n_mark) == 0;
  return has_mark && strspn(digits, "0123456789abcdef") == 8;
}

/* Opens a temporary file beside p->place.  Its digits need not be secret: on POSIX the file is
   opened only if nothing has that name, not even a link. */
static fvg_status fvg__temporary_open(fvg_ctx *c, fvg__output *p) {
  const size_t n = strlen(p->place);
  const size_t n_more = sizeof FVG__TEMPORARY + 8;
  p->temporary = (char *)fvg_alloc(c, n + n_more);
  if (!p->temporary) return FVG_E_NOMEM;
  memcpy(p->temporary, p->place, n);

  fvg_rng rng;
  uint64_t now = (uint64_t)time(NULL) ^ (uint64_t)clock() << 32;
  uint64_t who = fvg__process() ^ (uint64_t)(uintptr_t)p->place;
  fvg_rng_seed(&rng, now, who);

  for (int attempt = 0; attempt < 100 && !p->file; attempt++) {
    unsigned long number = (unsigned long)(fvg_rng_next(&rng) >> 32);
    fvg__print(p->temporary + n, n_more, FVG__TEMPORARY "%08lx", number);
    if (fvg__kind_of(p->temporary) != FVG__ABSENT) continue;

    errno = 0;
    p->file = fopen(p->temporary, FVG__CREATE);
    if (!p->file && errno != EEXIST) break;
  }
  if (p->file) fvg__keep_permissions(p->temporary, p->place);
  return FVG_OK;
}

static void fvg__output_release(fvg_ctx *c, fvg__output *p) {
  fvg_release(c, p->place);
  fvg_release(c, p->temporary);
}

/* Opens a file for writing; fvg__output_close must follow if this succeeds. */
static fvg_status fvg__output_open(fvg_ctx *c, fvg__output *p, const char *path) {
  fvg_status s = FVG_OK;
  memset(p, 0, sizeof *p);

  if (fvg__kind_of(path) == FVG__SPECIAL_FILE) {
    errno = 0;
    p->file = fopen(path, "wb");
  } else {
    p->place = fvg__follow_links(c, path);
    s = p->place ? fvg__temporary_open(c, p) : c->status;
  }

  if (!s && !p->file)
    s = fvg_fail(c, FVG_E_IO, "%s: cannot write: %s", path, strerror(errno));
  if (s) fvg__output_release(c, p);
  return s;
}

/* An fvg_write_fn. */
static int fvg__output_write(void *user, const void *bytes, size_t n) {
  fvg__output *p = (fvg__output *)user;
  errno = 0;
  if (fwrite(bytes, 1, n, p->file) == n) return 0;
  p->error = errno;
  return 1;
}

/* Gives the temporary file its final name and, with `sync`, forces the folder onto the disk;
   non-zero on failure. */
static int fvg__output_name(fvg__output *p, int sync) {
  if (fvg__replace(p->temporary, p->place)) return 1;
  if (!sync) return 0;

  size_t n = fvg__folder_length(p->place);
  p->temporary[n] = 0;
  fvg__sync_folder(n ? p->temporary : ".");
  return 0;
}

/* Closes the file and, if all went well, gives it its name; `s` is how the writing went. */
static fvg_status fvg__output_close(fvg_ctx *c, fvg__output *p, const char *path, fvg_status s) {
  int sync = !c->desc.no_sync;
  int failed = s == FVG_E_IO;
  if (!failed) {
    errno = 0;
    failed = fflush(p->file) != 0;
    if (!failed && !s && p->temporary && sync)
      failed = fvg__sync(p->file);
    if (failed) p->error = errno;
  }
  if (fclose(p->file) && !failed) {
    failed = 1;
    p->error = errno;
  }

  int complete = !s && !failed;
  if (complete && p->temporary && fvg__output_name(p, sync)) {
    failed = 1;
    p->error = errno;
  }
  if ((s || failed) && p->temporary) remove(p->temporary);

  if (failed) {
    const char *reason = p->error ? strerror(p->error) : "unknown reason";
    s = fvg_fail(c, FVG_E_IO, "%s: cannot write: %s", path, reason);
  }
  fvg__output_release(c, p);
  return s;
}

FVG_DEF fvg_status fvg_file_save(fvg_ctx *c, const char *path, const void *bytes, size_t n) {
  if (!c || !path || (n && !bytes))
    return fvg__missing(c, "fvg_file_save", path ? "the bytes" : "the path");

  fvg__output p;
  fvg_status s = fvg__output_open(c, &p, path);
  if (s) return s;
  if (n && fvg__output_write(&p, bytes, n)) s = FVG_E_IO;
  return fvg__output_close(c, &p, path, s);
}
#endif /* FVGPT_NO_TRAINING */
#endif

/* ---- JSON (RFC 8259) ---- */
#define FVG__JSON_DEPTH 64

typedef struct fvg__json_reader {
  fvg_ctx *c;
  const char *file;                  /* name for messages                                        */
  const unsigned char *text;
  size_t n, at;                      /* bytes of the text, and the next one to be read           */
  fvg_json_value *value;            /* [n_value]; NULL in the first run, which only counts      */
  char *strings;                     /* [n_string]; likewise                                     */
  int n_value;
  size_t n_string;
} fvg__json_reader;

static fvg_status fvg__json_error(fvg__json_reader *r, const char *what) {
  const char *end = r->at >= r->n ? ", but the text ends" : "";
  return fvg_fail(r->c, FVG_E_FORMAT,
                  "%s: byte %zu: not valid JSON: %s%s",
                  r->file, r->at, what, end);
}

/* The next byte, -1 at the end. */
static int fvg__json_peek(const fvg__json_reader *r) { return r->at < r->n ? r->text[r->at] : -1; }

static int fvg__json_accept(fvg__json_reader *r, int letter) {
  if (fvg__json_peek(r) != letter) return 0;
  r->at++;
  return 1;
}

static void fvg__json_skip_blanks(fvg__json_reader *r) {
  int letter = fvg__json_peek(r);
  while (letter == ' ' || letter == '\n' || letter == '\r' || letter == '\t') {
    r->at++;
    letter = fvg__json_peek(r);
  }
}

static void fvg__json_put(fvg__json_reader *r, unsigned byte) {
  if (r->strings) r->strings[r->n_string] = (char)byte;
  r->n_string++;
}

/* Puts a character as UTF-8: a first byte that tells the length, then 6 bits in each further
   byte. */
static void fvg__json_put_utf8(fvg__json_reader *r, unsigned code) {
  if (code < 0x80) {
    fvg__json_put(r, code);
    return;
  }

  if (code < 0x800) {
    fvg__json_put(r, 0xC0 | code >> 6);
  } else if (code < 0x10000) {
    fvg__json_put(r, 0xE0 | code >> 12);
    fvg__json_put(r, 0x80 | (code >> 6 & 0x3F));
  } else {
    fvg__json_put(r, 0xF0 | code >> 18);
    fvg__json_put(r, 0x80 | (code >> 12 & 0x3F));
    fvg__json_put(r, 0x80 | (code >> 6 & 0x3F));
  }
  fvg__json_put(r, 0x80 | (code & 0x3F));
}

/* The value of a hexadecimal digit; -1 if it is none. */
static int fvg__hex_digit(int letter) {
  if (letter >= '0' && letter <= '9') return letter - '0';
  int lower = letter | 0x20;
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/* Reads four hexadecimal digits; 0 if they are not there. */
static int fvg__json_hex4(fvg__json_reader *r, unsigned *code) {
  *code = 0;
  for (int i = 0; i < 4; i++) {
    int digit = fvg__hex_digit(fvg__json_peek(r));
    if (digit < 0) return 0;
    *code = *code * 16 + (unsigned)digit;
    r->at++;
  }
  return 1;
}

/* Reads the second half of a character beyond U+FFFF; 0 if it is not there. */
static int fvg__json_low_surrogate(fvg__json_reader *r, unsigned *low) {
  if (!fvg__json_accept(r, '\\')) return 0;
  if (!fvg__json_accept(r, 'u')) return 0;
  if (!fvg__json_hex4(r, low)) return 0;
  return *low >= 0xDC00 && *low <= 0xDFFF;
}

/* Reads what follows a backslash.  A character beyond U+FFFF is written as two escapes, a
   high and a low surrogate. */
static fvg_status fvg__json_escape(fvg__json_reader *r) {
  static const char from[] = "\"\\/bfnrt";
  static const char to[] = "\"\\/\b\f\n\r\t";
  const int letter = fvg__json_peek(r);
  const char *found = letter > 0 ? strchr(from, letter) : NULL;
  if (found) {
    r->at++;
    fvg__json_put(r, (unsigned char)to[found - from]);
    return FVG_OK;
  }

  unsigned code;
  if (!fvg__json_accept(r, 'u') || !fvg__json_hex4(r, &code))
    return fvg__json_error(r, "bad escape in a string");
  if (code == 0)
    return fvg__json_error(r, "\\u0000 in a string is not supported");
  if (code >= 0xDC00 && code < 0xE000)
    return fvg__json_error(r, "low surrogate without a high one");

  if (code >= 0xD800 && code < 0xDC00) {
    unsigned low;
    if (!fvg__json_low_surrogate(r, &low))
      return fvg__json_error(r, "high surrogate without a low one");
    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
  }
  fvg__json_put_utf8(r, code);
  return FVG_OK;
}

/* Reads a string, with its quotes; *out is the text in the second run. */
static fvg_status fvg__json_string(fvg__json_reader *r, const char **out) {
  const size_t start = r->n_string;
  if (!fvg__json_accept(r, '"')) return fvg__json_error(r, "expected a string");

  while (!fvg__json_accept(r, '"')) {
    int letter = fvg__json_peek(r);
    if (letter < 0) return fvg__json_error(r, "expected a closing quote");
    if (letter < 0x20) return fvg__json_error(r, "control character in a string");

    if (fvg__json_accept(r, '\\')) {
      fvg_status s = fvg__json_escape(r);
      if (s) return s;
      continue;
    }

    size_t length = fvg_utf8_length(r->text + r->at, r->n - r->at);
    if (!length) return fvg__json_error(r, "string is not UTF-8");
    for (size_t i = 0; i < length; i++)
      fvg__json_put(r, r->text[r->at++]);
  }

  fvg__json_put(r, 0);
  if (r->strings) *out = r->strings + start;
  return FVG_OK;
}

/* Reads decimal digits into mantissa * 10^exponent; 0 if there are none.  18 digits are kept, the
   others only change the exponent.  fraction is 1 after the decimal point. */
static int fvg__json_digits(fvg__json_reader *r, int fraction, uint64_t *mantissa, long *exponent) {
  const size_t start = r->at;
  int letter = fvg__json_peek(r);
  while (letter >= '0' && letter <= '9') {
    int kept = *mantissa < 100000000000000000u;
    if (kept) *mantissa = *mantissa * 10 + (uint64_t)(letter - '0');
    *exponent += !kept - fraction;

    r->at++;
    letter = fvg__json_peek(r);
  }
  return r->at > start;
}

/* The double nearest to mantissa * 10^exponent, and so to a number of up to 18 digits; one with
   more may be off by a unit in the last place.  strtod would want the locale's decimal point.  A
   product or quotient of two doubles that are exact is rounded once, which is enough; x87 code
   would round it twice. */
static double fvg__json_scale(uint64_t mantissa, long exponent) {
  static const double power[] = {
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22
  };
  if (mantissa == 0 || exponent < -350) return 0;    /* below half of the smallest double        */
  if (exponent > 309) return HUGE_VAL;

  const double x = (double)mantissa;
  if (exponent == 0) return x;
  if (!FVG__X87 && mantissa <= (uint64_t)1 << 53 && exponent >= -22 && exponent <= 22)
    return exponent < 0 ? x / power[-exponent] : x * power[exponent];

  fvg__decimal d;
  fvg__decimal_set(&d, mantissa, (int)exponent);
  return fvg__decimal_value(&d);
}

#define FVG__JSON_POWER 1000000000   /* larger exponents count as this one, which overflows too  */

/* Reads an exponent after its "e" and adds it to *exponent; 0 if it has no digits. */
static int fvg__json_exponent(fvg__json_reader *r, long *exponent) {
  int negative = 0;
  if (!fvg__json_accept(r, '+')) negative = fvg__json_accept(r, '-');

  uint64_t power = 0;
  long dropped = 0;
  if (!fvg__json_digits(r, 0, &power, &dropped)) return 0;
  if (dropped || power > FVG__JSON_POWER) power = FVG__JSON_POWER;

  if (*exponent > FVG__JSON_POWER) *exponent = FVG__JSON_POWER;
  if (*exponent < -FVG__JSON_POWER) *exponent = -FVG__JSON_POWER;
  *exponent += negative ? -(long)power : (long)power;
  return 1;
}

/* Reads [-] digits [. digits] [e exponent].  Returns NULL, or what is wrong. */
static const char *fvg__json_decimal(fvg__json_reader *r, double *out) {
  const int negative = fvg__json_accept(r, '-');
  uint64_t mantissa = 0;
  long exponent = 0;

  /* No digit may follow a leading zero. */
  if (!fvg__json_accept(r, '0') && !fvg__json_digits(r, 0, &mantissa, &exponent))
    return "expected a digit";
  if (fvg__json_accept(r, '.') && !fvg__json_digits(r, 1, &mantissa, &exponent))
    return "expected a digit after the decimal point";

  int has_exponent = fvg__json_accept(r, 'e') || fvg__json_accept(r, 'E');
  if (has_exponent && !fvg__json_exponent(r, &exponent))
    return "expected a digit in the exponent";

  *out = fvg__json_scale(mantissa, exponent);
  if (*out > DBL_MAX) return "number too large for a double";
  if (negative) *out = -*out;
  return NULL;
}

static fvg_status fvg__json_number(fvg__json_reader *r, double *out) {
  const char *wrong = fvg__json_decimal(r, out);
  return wrong ? fvg__json_error(r, wrong) : FVG_OK;
}

/* Reads a number that was printed by e, f or g, up to a blank.  17 digits come back as the double
   that they were.  Returns 0 if there is no number. */
static int fvg__read_number(const char *text, double *out) {
  const size_t n = strcspn(text, " ");
  const char *word = text + (*text == '-');
  const int infinite = strncmp(word, "inf", 3) == 0;
  if (word + 3 == text + n && (infinite || strncmp(word, "nan", 3) == 0)) {
    *out = infinite ? HUGE_VAL : NAN;
    if (word > text) *out = -*out;
    return 1;
  }

  fvg__json_reader r;
  memset(&r, 0, sizeof r);
  r.text = (const unsigned char *)text;
  r.n = n;
  double x;
  if (fvg__json_decimal(&r, &x) || r.at < n) return 0;
  *out = x;
  return 1;
}

static int fvg__json_word(fvg__json_reader *r, const char *word) {
  size_t n = strlen(word);
  if (r->n - r->at < n) return 0;
  if (memcmp(r->text + r->at, word, n) != 0)
    return 0;
  r->at += n;
  return 1;
}

static fvg_status fvg__json_read(fvg__json_reader *r, const char *key, int depth);

/* Reads the key of an object's member and the colon after it. */
static fvg_status fvg__json_key(fvg__json_reader *r, const char **key) {
  fvg_status s = fvg__json_string(r, key);
  if (s) return s;

  fvg__json_skip_blanks(r);
  if (!fvg__json_accept(r, ':'))
    return fvg__json_error(r, "expected ':'");
  return FVG_OK;
}

/* Reads the inside of an array or object, whose opening bracket has been read, and links its
   children. */
static fvg_status fvg__json_children(fvg__json_reader *r, fvg_json_value *v, int depth) {
  const int object = v->type == FVG_JSON_OBJECT;
  const int closing = object ? '}' : ']';
  if (depth >= FVG__JSON_DEPTH) return fvg__json_error(r, "nested too deeply, more than 64 levels");

  fvg__json_skip_blanks(r);
  if (fvg__json_accept(r, closing)) return FVG_OK;

  int last = -1;
  for (;;) {
    const char *key = NULL;
    fvg_status s = FVG_OK;
    fvg__json_skip_blanks(r);
    if (object) s = fvg__json_key(r, &key);

    int child = r->n_value;
    if (!s) s = fvg__json_read(r, key, depth + 1);
    if (s) return s;

    if (last < 0) v->first = child;
    else if (r->value) r->value[last].next = child;
    last = child;
    v->n_child++;

    fvg__json_skip_blanks(r);
    if (fvg__json_accept(r, closing)) return FVG_OK;
    if (!fvg__json_accept(r, ','))
      return fvg__json_error(r, object ? "expected ',' or '}'" : "expected ',' or ']'");
  }
}

/* Reads one value of any type, and all that is in it. */
static fvg_status fvg__json_read(fvg__json_reader *r, const char *key, int depth) {
  const int index = r->n_value++;
  fvg_json_value v;
  memset(&v, 0, sizeof v);
  v.key = key;
  v.string = "";
  v.first = -1;
  v.next = -1;

  fvg_status s = FVG_OK;
  fvg__json_skip_blanks(r);
  const int letter = fvg__json_peek(r);
  if (letter == '{' || letter == '[') {
    r->at++;
    v.type = letter == '{' ? FVG_JSON_OBJECT : FVG_JSON_ARRAY;
    s = fvg__json_children(r, &v, depth);
  } else if (letter == '"') {
    v.type = FVG_JSON_STRING;
    s = fvg__json_string(r, &v.string);
  } else if (letter == '-' || (letter >= '0' && letter <= '9')) {
    v.type = FVG_JSON_NUMBER;
    s = fvg__json_number(r, &v.number);
  } else if (fvg__json_word(r, "true")) {
    v.type = FVG_JSON_BOOL;
    v.number = 1;
  } else if (fvg__json_word(r, "false")) {
    v.type = FVG_JSON_BOOL;
  } else if (!fvg__json_word(r, "null")) {
    s = fvg__json_error(r, "expected a value");
  }

  if (r->value) r->value[index] = v;
  return s;
}

static fvg_status fvg__json_run(fvg__json_reader *r) {
  r->at = 0;
  r->n_string = 0;
  r->n_value = 0;
  fvg_status s = fvg__json_read(r, NULL, 0);
  if (s) return s;

  fvg__json_skip_blanks(r);
  if (r->at < r->n)
    return fvg__json_error(r, "something follows the value");
  return FVG_OK;
}

/* Parses n bytes of text; `file` is the name for messages.  fvg_json_free gives the memory
   back. */
FVG_DEF fvg_status fvg_json_parse(fvg_ctx *c, fvg_json *out, const char *text, size_t n,
                                 const char *file) {
  if (!out) return fvg__missing(c, "fvg_json_parse", "the result");
  memset(out, 0, sizeof *out);
  if ((n && !text) || !file)
    return fvg__missing(c, "fvg_json_parse", file ? "the text" : "the file's name");
  if (n > INT32_MAX)
    return fvg_fail(c, FVG_E_UNSUPPORTED,
                    "%s: %zu bytes of JSON; 2 GiB is the limit", file, n);

  fvg__json_reader r;
  memset(&r, 0, sizeof r);
  r.c = c;
  r.file = file;
  r.text = (const unsigned char *)text;
  r.n = n;
  fvg_status s = fvg__json_run(&r);
  if (s) return s;

  r.value = FVG_NEW_ARRAY(c, fvg_json_value, (size_t)r.n_value);
  if (r.value)
    r.strings = (char *)fvg_alloc(c, r.n_string + 1);
  if (!r.strings) {
    fvg_release(c, r.value);
    return FVG_E_NOMEM;
  }

  s = fvg__json_run(&r);
  out->value = r.value;
  out->n = r.n_value;
  out->strings = r.strings;
  return s;
}

FVG_DEF void fvg_json_free(fvg_ctx *c, fvg_json *j) {
  if (!j) return;
  fvg_release(c, j->value);
  fvg_release(c, j->strings);
  memset(j, 0, sizeof *j);
}

/* The index of an object's member, the last of equal keys as in Python; -1 if it is absent,
   or `object` is no object. */
FVG_DEF int fvg_json_find(const fvg_json *j, int object, const char *key) {
  if (!key || object < 0 || object >= j->n) return -1;
  if (j->value[object].type != FVG_JSON_OBJECT) return -1;

  int found = -1;
  for (int i = j->value[object].first; i >= 0; i = j->value[i].next)
    if (strcmp(j->value[i].key, key) == 0) found = i;
  return found;
}

/* Heap sort: in place, n log n steps whatever the input, and the same order on every
   machine.  The first half of the rounds makes the array a heap, the second takes its
   largest item out, one at a time. */
static void fvg__sort(const void **item, size_t n, int (*compare)(const void *a, const void *b)) {
  size_t root = n / 2;
  while (n > 1) {
    const void *x;
    if (root > 0) {
      x = item[--root];
    } else {
      x = item[--n];
      item[n] = item[0];
    }

    /* Move larger children up until x fits into the hole. */
    size_t hole = root;
    for (;;) {
      size_t child = 2 * hole + 1;
      if (child >= n) break;
      if (child + 1 < n && compare(item[child + 1], item[child]) > 0)
        child++;
      if (compare(item[child], x) <= 0) break;
      item[hole] = item[child];
      hole = child;
    }
    item[hole] = x;
  }
}

/*==================================================================================================
 * CHAPTER 3  SAFETENSORS: the files that models come in
 *==================================================================================================
   The format in which models are published (github.com/huggingface/safetensors, section Format):

       8 bytes    N, the length of the header, little-endian
       N bytes    JSON, which may end with blanks:
                  {"NAME": {"dtype": "F16", "shape": [77, 512], "data_offsets": [BEGIN, END]}, ...,
                   "__metadata__": {"KEY": "VALUE", ...}}
       the rest   the tensors, row-major and little-endian; offsets count from here

   No tensor may reach beyond the file or overlap another one; shape, type and offsets must agree
   before a byte of it is read. */

/* ---- reading ---- */
#define FVG__HEADER_LIMIT 100000000u /* bytes; the limit of the reference reader                 */
#define FVG__METADATA "__metadata__"

typedef struct fvg__weight {
  const char *name, *dtype;          /* inside the JSON's strings                                */
  fvg_tensor shape;                  /* data NULL; type is valid only if supported               */
  int supported;                     /* 1: its dtype is an fvg_dtype                             */
  uint64_t begin, end;               /* offsets in the file, not in the data section             */
  int strided;                       /* 1: not row-major (chapter 5); element [i, j, ...] lies
                                        i * stride[0] + j * stride[1] + ... elements after
                                        begin, and none ends after `end`                         */
  uint64_t stride[FVG_MAX_DIM];      /* in elements                                              */
  fvg_weights *part;                 /* of joined files: the one that holds it; else NULL        */
} fvg__weight;

struct fvg_weights {
  fvg_ctx *c;
  fvg_source source;
  char *file;                        /* name for messages                                        */
  fvg_json json;                    /* the header, which holds all names and the metadata;
                                        chapter 5 makes one of its own                          */
  int metadata;                      /* index in json, -1 for none                               */
  int n;
  fvg__weight *weight;               /* [n] in the header's order                                */
  const void **by_name;              /* [n] pointers to them, sorted by strcmp                   */
  fvg_weights **part;                /* [n_part] the files that were joined, owned               */
  int n_part;
};

/* Bytes per element of the format's dtypes beyond fvg_dtype; 0 for a newer one, whose size is not
   checked. */
static size_t fvg__foreign_dtype_size(const char *name) {
  static const struct { const char *name; size_t bytes; } table[] = {
    {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1},
    {"I16", 2}, {"U16", 2}, {"U32", 4},
    {"U64", 8}, {"F64", 8}
  };
  const size_t n = sizeof table / sizeof *table;

  for (size_t i = 0; i < n; i++)
    if (strcmp(table[i].name, name) == 0)
      return table[i].bytes;
  return 0;
}

/* Writes the dtype of that name into e; returns bytes per element, 0 if it is unknown. */
static size_t fvg__weight_dtype(fvg__weight *e, const char *name) {
  static const fvg_dtype type[] = {FVG_F32, FVG_F16, FVG_BF16, FVG_I32, FVG_I64, FVG_U8, FVG_I8};
  const size_t n = sizeof type / sizeof *type;
  e->dtype = name;
  e->shape.type = FVG_U8;

  for (size_t i = 0; i < n; i++) {
    if (strcmp(fvg__dtype_name(type[i]), name) != 0) continue;
    e->shape.type = type[i];
    e->supported = 1;
    return fvg_dtype_size(type[i]);
  }
  return fvg__foreign_dtype_size(name);
}

/* Reads a whole number from 0 to `most`, which is below 2^53; non-zero if the value is anything
   else. */
static int fvg__json_whole(const fvg_json_value *v, double most, uint64_t *out) {
  *out = 0;
  if (v->type != FVG_JSON_NUMBER) return 1;
  if (!(v->number >= 0 && v->number <= most))
    return 1;
  if (floor(v->number) < v->number) return 1;

  *out = (uint64_t)v->number;
  return 0;
}

static fvg_status fvg__weight_shape(fvg_weights *w, fvg__weight *e, const fvg_json_value *shape) {
  if (shape->n_child > FVG_MAX_DIM)
    return fvg_fail(w->c, FVG_E_UNSUPPORTED,
                    "%s: tensor %.100s: %d dimensions, %d is the limit",
                    w->file, e->name, shape->n_child, FVG_MAX_DIM);

  const fvg_json_value *value = w->json.value;
  for (int i = shape->first; i >= 0; i = value[i].next) {
    uint64_t size;
    if (fvg__json_whole(&value[i], INT32_MAX, &size))
      return fvg_fail(w->c, FVG_E_FORMAT,
                      "%s: tensor %.100s: dimension %d is not a whole number "
                      "from 0 to 2147483647", w->file, e->name, e->shape.n_dim);
    e->shape.dim[e->shape.n_dim++] = (int)size;
  }
  return FVG_OK;
}

/* Reads data_offsets, which count from data_start on, and turns them into offsets in the file. */
static fvg_status fvg__weight_offsets(fvg_weights *w, fvg__weight *e, const fvg_json_value *pair,
                                      uint64_t data_start) {
  const double most = 9007199254740991.0;
  const fvg_json_value *value = w->json.value;
  int bad = pair->n_child != 2;
  if (!bad) {
    const fvg_json_value *first = &value[pair->first];
    bad = fvg__json_whole(first, most, &e->begin) ||
          fvg__json_whole(&value[first->next], most, &e->end);
  }
  if (bad)
    return fvg_fail(w->c, FVG_E_FORMAT,
                    "%s: tensor %.100s: data_offsets are not two whole numbers",
                    w->file, e->name);

  uint64_t available = w->source.size - data_start;
  if (e->begin > e->end || e->end > available)
    return fvg_fail(w->c, FVG_E_FORMAT,
                    "%s: tensor %.100s: data_offsets [%llu, %llu], "
                    "but the file holds %llu bytes of data", w->file, e->name,
                    (fvg__long)e->begin, (fvg__long)e->end, (fvg__long)available);
  e->begin += data_start;
  e->end += data_start;
  return FVG_OK;
}

/* Shape, type and the number of bytes must agree; `size` is bytes per element, 0 if the type is
   unknown. */
static fvg_status fvg__weight_check(fvg_weights *w, const fvg__weight *e, size_t size) {
  char text[FVG__SHAPE_TEXT];
  fvg__shape_text(&e->shape, text);

  uint64_t bytes;
  if (fvg__checked_bytes(&e->shape, size ? size : 1, &bytes))
    return fvg_fail(w->c, FVG_E_FORMAT,
                    "%s: tensor %.100s: shape %s is too large",
                    w->file, e->name, text);

  uint64_t given = e->end - e->begin;
  if (size && bytes != given)
    return fvg_fail(w->c, FVG_E_FORMAT,
                    "%s: tensor %.100s: %s of shape %s takes %llu bytes, "
                    "data_offsets give %llu", w->file, e->name, e->dtype, text,
                    (fvg__long)bytes, (fvg__long)given);
  return FVG_OK;
}

/* Reads one member of the header object, json.value[index], into e. */
static fvg_status fvg__weight_read(fvg_weights *w, fvg__weight *e, int index, uint64_t data_start) {
  const fvg_json_value *v = w->json.value;
  e->name = v[index].key;

  int dtype = fvg_json_find(&w->json, index, "dtype");
  int shape = fvg_json_find(&w->json, index, "shape");
  int offsets = fvg_json_find(&w->json, index, "data_offsets");
  int has_dtype = dtype >= 0 && v[dtype].type == FVG_JSON_STRING;
  int has_shape = shape >= 0 && v[shape].type == FVG_JSON_ARRAY;
  int has_offsets = offsets >= 0 && v[offsets].type == FVG_JSON_ARRAY;
  if (!has_dtype || !has_shape || !has_offsets)
    return fvg_fail(w->c, FVG_E_FORMAT,
                    "%s: tensor %.100s: not an object with dtype, shape "
                    "and data_offsets", w->file, e->name);

  size_t size = fvg__weight_dtype(e, v[dtype].string);
  fvg_status s = fvg__weight_shape(w, e, &v[shape]);
  if (!s) s = fvg__weight_offsets(w, e, &v[offsets], data_start);
  if (!s) s = fvg__weight_check(w, e, size);
  return s;
}

/* Checks the member __metadata__ of the header, json.value[index]: an object of strings. */
static fvg_status fvg__weights_read_metadata(fvg_weights *w, int index) {
  const fvg_json_value *v = w->json.value;
  if (w->metadata >= 0)
    return fvg_fail(w->c, FVG_E_FORMAT, "%s: " FVG__METADATA " appears twice", w->file);
  if (v[index].type != FVG_JSON_OBJECT)
    return fvg_fail(w->c, FVG_E_FORMAT, "%s: " FVG__METADATA " is not an object", w->file);

  for (int i = v[index].first; i >= 0; i = v[i].next) {
    if (v[i].type == FVG_JSON_STRING) continue;
    return fvg_fail(w->c, FVG_E_FORMAT,
                    "%s: " FVG__METADATA ": the value of %.100s is not a string",
                    w->file, v[i].key);
  }
  w->metadata = index;
  return FVG_OK;
}

static int fvg__weight_by_name(const void *a, const void *b) {
  const fvg__weight *x = (const fvg__weight *)a;
  const fvg__weight *y = (const fvg__weight *)b;
  return strcmp(x->name, y->name);
}

static int fvg__weight_by_offset(const void *a, const void *b) {
  const fvg__weight *x = (const fvg__weight *)a;
  const fvg__weight *y = (const fvg__weight *)b;
  if (x->begin != y->begin)
    return x->begin < y->begin ? -1 : 1;
  if (x->end != y->end)
    return x->end < y->end ? -1 : 1;
  return 0;
}

/* Fills by_name with all tensors in the order of `compare`. */
static fvg_status fvg__weights_sort(fvg_weights *w, int (*compare)(const void *a, const void *b)) {
  const size_t n = (size_t)w->n;
  if (!w->by_name)
    w->by_name = FVG_NEW_ARRAY(w->c, const void *, n);
  if (!w->by_name) return FVG_E_NOMEM;

  for (size_t i = 0; i < n; i++)
    w->by_name[i] = &w->weight[i];
  fvg__sort(w->by_name, n, compare);
  return FVG_OK;
}

/* Sorts by_name; no two tensors may share a name. */
static fvg_status fvg__weights_sort_names(fvg_weights *w) {
  fvg_status s = fvg__weights_sort(w, fvg__weight_by_name);
  if (s) return s;

  for (int i = 1; i < w->n; i++) {
    const fvg__weight *e = (const fvg__weight *)w->by_name[i];
    if (fvg__weight_by_name(w->by_name[i - 1], e) != 0) continue;
    return fvg_fail(w->c, FVG_E_FORMAT, "%s: tensor %.100s appears twice", w->file, e->name);
  }
  return FVG_OK;
}

/* Checks that no two tensors share bytes or a name; leaves by_name sorted.  Gaps
   between tensors are allowed. */
static fvg_status fvg__weights_check(fvg_weights *w) {
  fvg_status s = fvg__weights_sort(w, fvg__weight_by_offset);
  if (s) return s;

  for (int i = 1; i < w->n; i++) {
    const fvg__weight *a = (const fvg__weight *)w->by_name[i - 1];
    const fvg__weight *b = (const fvg__weight *)w->by_name[i];
    if (a->end <= b->begin) continue;
    return fvg_fail(w->c, FVG_E_FORMAT,
                    "%s: tensors %.100s and %.100s overlap at byte %llu",
                    w->file, a->name, b->name, (fvg__long)b->begin);
  }
  return fvg__weights_sort_names(w);
}

/* ---- files that are not weights ---- */
/* Git LFS leaves a small text in the place of a large file; that text begins like this. */
#define FVG__LFS_POINTER "version https://git-lfs.github.com/"

/* What a file is, by its first bytes. */
static const struct { const char *begin, *what; } fvg__not_weights[] = {
  {FVG__LFS_POINTER, "a Git LFS pointer, not the weights, which were not downloaded: "
                     "run `git lfs pull`, or download the file itself"},
  {"<!DOCTYPE", "an HTML page, not weights: download the file itself"},
  {"<!doctype", "an HTML page, not weights: download the file itself"},
  {"<html", "an HTML page, not weights: download the file itself"},
  {"<HTML", "an HTML page, not weights: download the file itself"},
  {"<?xml", "an XML page, not weights: download the file itself"},
  {"{\"error\"", "a server's error message, not weights: download the file again"},
  {"{", "JSON text, not weights"},
  {"GGUF", "a GGUF file; safetensors and PyTorch files are read"},
  {"\x89HDF", "an HDF5 file (TensorFlow); safetensors and PyTorch files are read"},
  {"\x93NUMPY", "a NumPy array; safetensors and PyTorch files are read"},
  {"\x1f\x8b", "packed by gzip; unpack it first"},
  {"\x28\xb5\x2f\xfd", "packed by zstd; unpack it first"},
  {"\xfd" "7zXZ", "packed by xz; unpack it first"},
  {"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e",
   "in torch.save's format of before PyTorch 1.6; save it again with a newer one: "
   "torch.save(torch.load(FILE, map_location=\"cpu\"), FILE)"},
  {"\x80\x02", "a bare Python pickle, not an archive; save it again with torch.save"},
  {"\x80\x03", "a bare Python pickle, not an archive; save it again with torch.save"},
  {"\x80\x04", "a bare Python pickle, not an archive; save it again with torch.save"},
  {"\x80\x05", "a bare Python pickle, not an archive; save it again with torch.save"}
};

/* Weights in another form begin with one of these: pickles, GGUF, HDF5 and the like, gzip, zstd. */
static int fvg__begins_like_weights(uint8_t first) {
  return first == 0x80 || first == 'G' || first >= 0x89 || first == 0x1f || first == 0x28;
}

/* A space, tab, newline, vertical tab, form feed or carriage return, in any locale. */
static int fvg__is_blank(uint8_t byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }

static int fvg__is_text(const uint8_t *s, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (s[i] < ' ' || s[i] >= 127) return 0;
  return 1;
}

/* Says what a file is that is not safetensors, by its first n bytes, and how to fail;
   NULL if it is not known. */
static const char *fvg__describe_file(const uint8_t *first, size_t n, fvg_status *status) {
  *status = FVG_E_FORMAT;

  /* A byte-order mark and blanks may stand before a text. */
  if (n >= 3 && memcmp(first, "\xEF\xBB\xBF", 3) == 0) {
    first += 3;
    n -= 3;
  }
  while (n && fvg__is_blank(*first)) {
    first++;
    n--;
  }
  if (!n) return "empty";

  int truncated_safetensors = n > 8 && first[8] == '{';
  if (truncated_safetensors) return NULL;
  if (fvg__begins_like_weights(first[0])) *status = FVG_E_UNSUPPORTED;

  const size_t n_known = sizeof fvg__not_weights / sizeof *fvg__not_weights;
  for (size_t i = 0; i < n_known; i++) {
    const char *begin = fvg__not_weights[i].begin;
    size_t length = strlen(begin);
    if (n >= length && memcmp(first, begin, length) == 0)
      return fvg__not_weights[i].what;
  }

  if (!fvg__is_text(first, n)) return NULL;
  return "text, such as a server's answer, not weights: download the file again";
}

/* Fails because the header, which would have n bytes if this were safetensors, does not fit in the
   file. */
static fvg_status fvg__refuse_weights(fvg_weights *w, uint64_t n) {
  uint8_t first[40];
  const size_t n_first = w->source.size < sizeof first ? (size_t)w->source.size : sizeof first;
  fvg_status s = fvg__source_read(w->c, &w->source, first, 0, n_first);
  if (s) return s;

  fvg_status status;
  const char *what = fvg__describe_file(first, n_first, &status);
  if (what)
    return fvg_fail(w->c, status, "%s: this is %s", w->file, what);
  return fvg_fail(w->c, FVG_E_FORMAT,
                  "%s: not a safetensors file: header of %llu bytes in a file of %llu",
                  w->file, (fvg__long)n, (fvg__long)w->source.size);
}

/* Reads and parses the header; *data_start is where it ends in the file. */
static fvg_status fvg__weights_read_json(fvg_weights *w, uint64_t *data_start) {
  if (w->source.size < 8) return fvg__refuse_weights(w, 8);
  uint8_t length[8];
  fvg_status s = fvg__source_read(w->c, &w->source, length, 0, sizeof length);
  if (s) return s;

  uint64_t n = 0;
  for (int i = 7; i >= 0; i--)
    n = n << 8 | length[i];
  if (n > w->source.size - 8 || n > FVG__HEADER_LIMIT)
    return fvg__refuse_weights(w, n);
  *data_start = 8 + n;

  /* Blanks in place of the length make messages count bytes from the file's start. */
  const size_t n_text = 8 + (size_t)n;
  char *text = (char *)fvg_alloc(w->c, n_text);
  if (!text) return FVG_E_NOMEM;
  memset(text, ' ', 8);

  s = fvg__source_read(w->c, &w->source, text + 8, 8, (size_t)n);
  if (!s)
    s = fvg_json_parse(w->c, &w->json, text, n_text, w->file);
  fvg_release(w->c, text);

  if (!s && w->json.value[0].type != FVG_JSON_OBJECT)
    s = fvg_fail(w->c, FVG_E_FORMAT,
                 "%s: not a safetensors file: the header is not a JSON object", w->file);
  return s;
}

static fvg_status fvg__weights_read_header(fvg_weights *w) {
  uint64_t data_start = 0;
  fvg_status s = fvg__weights_read_json(w, &data_start);
  if (s) return s;

  const fvg_json_value *header = &w->json.value[0];
  w->weight = FVG_NEW_ARRAY(w->c, fvg__weight, (size_t)header->n_child);
  if (!w->weight) return FVG_E_NOMEM;

  for (int i = header->first; i >= 0 && !s; i = w->json.value[i].next) {
    int is_metadata = strcmp(w->json.value[i].key, FVG__METADATA) == 0;
    if (is_metadata) s = fvg__weights_read_metadata(w, i);
    else s = fvg__weight_read(w, &w->weight[w->n++], i, data_start);
  }
  if (s) return s;
  return fvg__weights_check(w);
}

/* Opens weights; `read` finds the tensors and their names in w->source.  The source is taken over,
   and closed also when this fails. */
static fvg_status fvg__weights_open(fvg_ctx *c, fvg_weights **out, const fvg_source *s,
                                    fvg_status (*read)(fvg_weights *w)) {
  if (out) *out = NULL;
  if (!s) return fvg__missing(c, "fvg_weights_open", "the source");
  fvg_source source = *s;
  if (!c || !out) {
    fvg_source_close(&source);
    return fvg__missing(c, "fvg_weights_open", "the result");
  }

  fvg_weights *w = FVG_NEW(c, fvg_weights);
  if (!w) {
    fvg_source_close(&source);
    return FVG_E_NOMEM;
  }
  w->c = c;
  w->source = source;
  w->metadata = -1;
  w->file = fvg_copy_string(c, source.name ? source.name : "source");
  w->source.name = w->file;

  fvg_status status = FVG_E_NOMEM;
  if (w->file) {
    fvg__budget budget;
    fvg__budget_begin(c, &budget, w->file, w->source.size);
    status = read(w);
    fvg__budget_end(c, &budget);
  }
  if (status) {
    fvg_weights_close(w);
    return status;
  }
  *out = w;
  return FVG_OK;
}

FVG_DEF fvg_status fvg_weights_open(fvg_ctx *c, fvg_weights **out, const fvg_source *s) {
  return fvg__weights_open(c, out, s, fvg__weights_read_header);
}

FVG_DEF void fvg_weights_close(fvg_weights *w) {
  if (!w) return;
  for (int i = 0; i < w->n_part; i++)
    fvg_weights_close(w->part[i]);
  fvg_release(w->c, w->part);
  fvg_source_close(&w->source);
  fvg_json_free(w->c, &w->json);
  fvg_release(w->c, w->weight);
  fvg_release(w->c, w->by_name);
  fvg_release(w->c, w->file);
  fvg_release(w->c, w);
}

/* Lists the tensors of all n parts in w. */
static fvg_status fvg__weights_join(fvg_weights *w, fvg_weights *const *part, int n,
                                    const char *name) {
  int count = 0;
  for (int i = 0; i < n; i++)
    count += part[i]->n;
  w->file = fvg_copy_string(w->c, name);
  w->weight = FVG_NEW_ARRAY(w->c, fvg__weight, (size_t)count);
  if (!w->file || !w->weight) return FVG_E_NOMEM;

  for (int i = 0; i < n; i++) {
    for (int k = 0; k < part[i]->n; k++) {
      fvg__weight *e = &w->weight[w->n++];
      *e = part[i]->weight[k];
      e->part = part[i];
    }
  }
  return fvg__weights_sort_names(w);
}

/* Is part i one of those before it? */
static int fvg__is_repeated(fvg_weights *const *part, int i) {
  for (int k = 0; k < i; k++)
    if (part[k] == part[i]) return 1;
  return 0;
}

/* Closes all parts, each of them once, and returns s. */
static fvg_status fvg__weights_close_all(fvg_weights *const *part, int n, fvg_status s) {
  for (int i = n - 1; i >= 0; i--)
    if (!fvg__is_repeated(part, i)) fvg_weights_close(part[i]);
  return s;
}

/* Joins n opened files, which are taken over, and closed also when this fails. */
FVG_DEF fvg_status fvg_weights_join(fvg_ctx *c, fvg_weights **out, fvg_weights *const *part, int n,
                                    const char *name) {
  if (out) *out = NULL;
  int missing = n < 0 || (n && !part);
  if (missing) n = 0;
  for (int i = 0; i < n; i++)
    if (!part[i]) missing = 1;
  if (!c || !out || !name || missing) {
    fvg_status bad = fvg__missing(c, "fvg_weights_join", "the result, the name and every part");
    return fvg__weights_close_all(part, n, bad);
  }
  for (int i = 0; i < n; i++) {
    if (!fvg__is_repeated(part, i)) continue;
    fvg_status bad = fvg_fail(c, FVG_E_ARG, "%s: part %d is given twice: %s", name, i,
                              part[i]->file);
    return fvg__weights_close_all(part, n, bad);
  }

  fvg_weights *w = FVG_NEW(c, fvg_weights);
  if (!w) return fvg__weights_close_all(part, n, FVG_E_NOMEM);
  w->c = c;
  w->metadata = -1;
  w->part = FVG_NEW_ARRAY(c, fvg_weights *, (size_t)n);
  if (!w->part) {
    fvg_release(c, w);
    return fvg__weights_close_all(part, n, FVG_E_NOMEM);
  }

  for (int i = 0; i < n; i++)
    w->part[w->n_part++] = part[i];
  fvg_status s = fvg__weights_join(w, part, n, name);
  if (s) {
    fvg_weights_close(w);
    return s;
  }
  *out = w;
  return FVG_OK;
}

/* NULL: there is no tensor of that name. */
static const fvg__weight *fvg__weights_find(const fvg_weights *w, const char *name) {
  int low = 0, high = w->n;
  while (low < high) {
    int middle = low + (high - low) / 2;
    const fvg__weight *e = (const fvg__weight *)w->by_name[middle];
    int order = strcmp(name, e->name);
    if (order == 0) return e;
    if (order < 0) high = middle;
    else low = middle + 1;
  }
  return NULL;
}

/* Bytes of the file, or of all joined files. */
FVG__FOR_CLIP static uint64_t fvg__weights_bytes(const fvg_weights *w) {
  uint64_t n = w->source.size;
  for (int i = 0; i < w->n_part; i++)
    n += fvg__weights_bytes(w->part[i]);
  return n;
}

FVG_DEF const char *fvg_weights_file(const fvg_weights *w) { return w->file; }
FVG_DEF int fvg_weights_count(const fvg_weights *w) { return w->n; }

FVG_DEF const char *fvg_weights_name(const fvg_weights *w, int i) {
  return i < 0 || i >= w->n ? NULL : w->weight[i].name;
}

FVG_DEF int fvg_weights_info(const fvg_weights *w, fvg_tensor *shape, const char *name) {
  if (shape) memset(shape, 0, sizeof *shape);
  const fvg__weight *e = name ? fvg__weights_find(w, name) : NULL;
  if (!e) return 0;

  if (shape) *shape = e->shape;
  return e->supported ? 1 : 2;
}

FVG_DEF const char *fvg_weights_metadata(const fvg_weights *w, const char *key) {
  if (w->n_part) return fvg_weights_metadata(w->part[0], key);
  int i = fvg_json_find(&w->json, w->metadata, key);
  return i < 0 ? NULL : w->json.value[i].string;
}

/* A tensor of a file must be there and have the shape that the file's settings, or the model, give
   it. */
static fvg_status fvg__check_shape(fvg_ctx *c, const fvg_weights *w, const char *name, int n_dim,
                                   const int *dim) {
  fvg_tensor needed;
  const size_t dim_bytes = (size_t)n_dim * sizeof *dim;
  memset(&needed, 0, sizeof needed);
  needed.n_dim = n_dim;
  memcpy(needed.dim, dim, dim_bytes);

  fvg_tensor x;
  if (!fvg_weights_info(w, &x, name))
    return fvg_fail(c, FVG_E_FORMAT, "%s: no tensor %s", fvg_weights_file(w), name);
  if (x.n_dim == n_dim && memcmp(x.dim, dim, dim_bytes) == 0)
    return FVG_OK;

  char expected[FVG__SHAPE_TEXT], found[FVG__SHAPE_TEXT];
  fvg__shape_text(&x, found);
  fvg__shape_text(&needed, expected);
  return fvg_fail(c, FVG_E_SHAPE,
                  "%s: %s has shape %s, this model needs %s",
                  fvg_weights_file(w), name, found, expected);
}

FVG__SELDOM_RUN_END

/* ---- conversion on the way in ---- */
static int fvg__big_endian(void) {
  const uint16_t one = 1;
  uint8_t first;
  memcpy(&first, &one, 1);
  return first == 0;
}

/* Reverses the bytes of each of n elements of `size` bytes. */
static void fvg__swap_bytes(uint8_t *p, size_t n, size_t size) {
  for (size_t i = 0; i < n; i++) {
    uint8_t *element = p + i * size;
    for (size_t k = 0; k < size / 2; k++) {
      uint8_t swap = element[k];
      element[k] = element[size - 1 - k];
      element[size - 1 - k] = swap;
    }
  }
}

static float fvg__load_float(const uint8_t *p, fvg_dtype type) {
  if (type == FVG_F32) {
    float x;
    memcpy(&x, p, sizeof x);
    return x;
  }
  uint16_t half;
  memcpy(&half, p, sizeof half);
  return type == FVG_F16 ? fvg_half_to_float(half) : fvg_bfloat_to_float(half);
}

/* Stores x in that type; returns 1 if the result is finite, which is when not all bits
   of its exponent are ones. */
static int fvg__store_float(uint8_t *p, fvg_dtype type, float x) {
  if (type == FVG_F32) {
    uint32_t bits = fvg__float_bits(x);
    memcpy(p, &bits, sizeof bits);
    return (bits & 0x7F800000u) != 0x7F800000u;
  }

  uint16_t half = type == FVG_F16 ? fvg_float_to_half(x) : fvg_float_to_bfloat(x);
  unsigned exponent = type == FVG_F16 ? 0x7C00u : 0x7F80u;
  memcpy(p, &half, sizeof half);
  return (half & exponent) != exponent;
}

static int64_t fvg__load_integer(const uint8_t *p, fvg_dtype type) {
  if (type == FVG_U8) return *p;
  if (type == FVG_I8) return (int8_t)*p;
  if (type == FVG_I64) {
    int64_t wide;
    memcpy(&wide, p, sizeof wide);
    return wide;
  }
  int32_t x;
  memcpy(&x, p, sizeof x);
  return x;
}

/* Stores x in that type; returns 1 if it fits.  Only bytes are ever stored as bytes, so they do. */
static int fvg__store_integer(uint8_t *p, fvg_dtype type, int64_t x) {
  if (type == FVG_U8 || type == FVG_I8) {
    *p = (uint8_t)x;
    return 1;
  }
  if (type == FVG_I64) {
    memcpy(p, &x, sizeof x);
    return 1;
  }
  int32_t narrow = (int32_t)x;
  memcpy(p, &narrow, sizeof narrow);
  return narrow == x;
}

static int fvg__is_float(fvg_dtype type) {
  return type == FVG_F32 || type == FVG_F16 || type == FVG_BF16;
}

static int fvg__convertible(fvg_dtype from, fvg_dtype as) {
  if (fvg_dtype_size(as) == 0) return 0;
  if (fvg__is_float(from) != fvg__is_float(as)) return 0;
  if (as == FVG_I8 || from == FVG_I8) return as == from;
  return as != FVG_U8 || from == FVG_U8;
}

/* Are all of n floats finite?  Adding 1 to an exponent of ones carries into the sign's place. */
static int fvg__all_finite(const uint8_t *p, size_t n) {
  uint32_t carried = 0;
  for (size_t i = 0; i < n; i++) {
    uint32_t bits;
    memcpy(&bits, p + i * sizeof bits, sizeof bits);
    carried |= (bits & 0x7F800000u) + 0x00800000u;
  }
  return !(carried & 0x80000000u);
}

/* Converts n elements from src to dst, which may be the same place if the types are the
   same.  Returns the index of the first element that has no finite value in the new
   type, n if all have one. */
static size_t fvg__convert(const uint8_t *src, fvg_dtype from, uint8_t *dst, fvg_dtype as,
                           size_t n) {
  const size_t step = fvg_dtype_size(from);
  const size_t step_out = fvg_dtype_size(as);

  /* Most models are F32 and sound; any other gets the loop, which finds the bad number. */
  if (from == FVG_F32 && as == FVG_F32 && fvg__all_finite(src, n)) {
    memmove(dst, src, n * step);
    return n;
  }

  if (fvg__is_float(as)) {
    for (size_t i = 0; i < n; i++) {
      float x = fvg__load_float(src + i * step, from);
      if (!fvg__store_float(dst + i * step_out, as, x)) return i;
    }
  } else {
    for (size_t i = 0; i < n; i++) {
      int64_t x = fvg__load_integer(src + i * step, from);
      if (!fvg__store_integer(dst + i * step_out, as, x)) return i;
    }
  }
  return n;
}

/* Fails because element `index`, which is at p, cannot be converted. */
static fvg_status fvg__bad_element(fvg_weights *w, const fvg__weight *e, const uint8_t *p,
                                   fvg_dtype as, size_t index) {
  if (fvg__is_float(as)) {
    double x = (double)fvg__load_float(p, e->shape.type);
    return fvg_fail(w->c, FVG_E_NUMERIC,
                    "%s: tensor %.100s: element %zu is %g, not a finite %s",
                    w->file, e->name, index, x, fvg__dtype_name(as));
  }
  double x = (double)fvg__load_integer(p, e->shape.type);
  return fvg_fail(w->c, FVG_E_FORMAT,
                  "%s: tensor %.100s: element %zu, about %.0f, does not fit in 32 bits",
                  w->file, e->name, index, x);
}

/* Copies n elements of a strided tensor, from number `first` in row-major order on, to out; span
   holds the file's bytes from begin to end. */
static void fvg__weight_gather(const fvg__weight *e, const uint8_t *span, size_t first, size_t n,
                               uint8_t *out) {
  const size_t size = fvg_dtype_size(e->shape.type);

  for (size_t i = 0; i < n; i++) {
    size_t rest = first + i;
    size_t at = 0;
    for (int k = e->shape.n_dim - 1; k >= 0; k--) {
      size_t dim = (size_t)e->shape.dim[k];
      at += rest % dim * (size_t)e->stride[k];
      rest /= dim;
    }
    memcpy(out + i * size, span + at * size, size);
  }
}

#define FVG__READ_PIECE 65536        /* bytes converted or hashed at a time                      */

/* A tensor on its way out of a file, from its first element to its last, as many at a time as the
   reader has room for.  So weights reach the order that kernels read without a second copy. */
typedef struct fvg__stream {
  fvg_weights *w;                    /* the file that holds it                                   */
  const fvg__weight *e;
  fvg_dtype as;                      /* what its elements become                                 */
  uint8_t *buffer;                   /* [FVG__READ_PIECE], the file's elements; NULL: they are
                                        converted where they will lie                            */
  uint8_t *span;                     /* all bytes from begin to end of a strided tensor          */
  size_t done;                       /* elements that have been read                             */
} fvg__stream;

/* Reads the next n elements, a piece at most, to dst. */
static fvg_status fvg__stream_piece(fvg__stream *x, uint8_t *dst, size_t n) {
  const fvg__weight *e = x->e;
  fvg_weights *w = x->w;
  const size_t size = fvg_dtype_size(e->shape.type);
  uint8_t *raw = x->buffer ? x->buffer : dst;

  fvg_status s = FVG_OK;
  const uint64_t at = e->begin + (uint64_t)x->done * size;
  if (x->span) fvg__weight_gather(e, x->span, x->done, n, raw);
  else s = fvg__source_read(w->c, &w->source, raw, at, n * size);
  if (s) return s;

  if (fvg__big_endian()) fvg__swap_bytes(raw, n, size);
  const size_t good = fvg__convert(raw, e->shape.type, dst, x->as, n);
  if (good < n)
    return fvg__bad_element(w, e, raw + good * size, x->as, x->done + good);
  x->done += n;
  return FVG_OK;
}

/* Reads the next n elements to dst.  The tensor must have as many left. */
static fvg_status fvg__stream_read(fvg__stream *x, void *dst, size_t n) {
  const size_t piece = FVG__READ_PIECE / fvg_dtype_size(x->e->shape.type);
  const size_t size = fvg_dtype_size(x->as);

  fvg_status s = FVG_OK;
  for (size_t at = 0; !s && at < n; at += piece)
    s = fvg__stream_piece(x, (uint8_t *)dst + at * size, n - at < piece ? n - at : piece);
  return s;
}

static void fvg__stream_close(fvg__stream *x) {
  fvg_release(x->w->c, x->buffer);
  fvg_release(x->w->c, x->span);
  x->buffer = NULL;
  x->span = NULL;
}

/* Reserves the temporary memory that the tensor's type and strides ask for. */
static fvg_status fvg__stream_begin(fvg__stream *x) {
  fvg_ctx *c = x->w->c;
  const size_t n_span = x->e->strided ? (size_t)(x->e->end - x->e->begin) : 0;
  const int needs_buffer = x->as != x->e->shape.type;
  if (needs_buffer) x->buffer = (uint8_t *)fvg_alloc(c, FVG__READ_PIECE);
  if (x->e->strided) x->span = (uint8_t *)fvg_alloc(c, n_span);

  if ((needs_buffer && !x->buffer) || (x->e->strided && !x->span)) return FVG_E_NOMEM;
  return x->span ? fvg__source_read(c, &x->w->source, x->span, x->e->begin, n_span) : FVG_OK;
}

/* Opens a tensor to read it as the type `as`; fvg__stream_close must follow unless this fails. */
static fvg_status fvg__stream_open(fvg_weights *w, fvg__stream *x, const char *name, fvg_dtype as) {
  memset(x, 0, sizeof *x);
  x->w = w;

  const fvg__weight *e = fvg__weights_find(w, name);
  if (!e)
    return fvg_fail(w->c, FVG_E_FORMAT, "%s: no tensor %s", w->file, name);
  if (e->part) return fvg__stream_open(e->part, x, name, as);

  if (!e->supported || !fvg__convertible(e->shape.type, as))
    return fvg_fail(w->c, FVG_E_UNSUPPORTED,
                    "%s: tensor %.100s: dtype %.20s cannot be read as %s; save it as float32",
                    w->file, e->name, e->dtype, fvg__dtype_name(as));

  x->e = e;
  x->as = as;
  const fvg_status s = fvg__stream_begin(x);
  if (s) fvg__stream_close(x);
  return s;
}

/* Reads one tensor into new memory, converted to the type `as`. */
FVG_DEF fvg_status fvg_weights_get(fvg_weights *w, fvg_tensor *out, const char *name,
                                   fvg_dtype as) {
  if (!out) return fvg__missing(w->c, "fvg_weights_get", "the result");
  memset(out, 0, sizeof *out);
  if (!name) return fvg__missing(w->c, "fvg_weights_get", "the name");

  fvg__stream x;
  fvg_status s = fvg__stream_open(w, &x, name, as);
  if (s) return s;

  *out = x.e->shape;
  out->type = as;
  const size_t n = fvg_tensor_count(out);
  out->data = fvg_alloc_array(w->c, n, fvg_dtype_size(as));
  s = out->data ? fvg__stream_read(&x, out->data, n) : FVG_E_NOMEM;
  fvg__stream_close(&x);
  if (s) fvg_tensor_free(w->c, out);
  return s;
}

FVG__SELDOM_RUN_BEGIN

/* ---- a checksum of a file's contents ---- */
/* 64 bits (FNV-1a) of each tensor, with its name, type and shape, and of each entry of the
   metadata but the checksum itself.  The checksum is their sum, which does not depend on the
   order.  Every step maps different states to different states, so one changed bit of an item
   always changes its number. */
#define FVG__CHECKSUM "checksum"
#define FVG__CHECKSUM_TEXT 17        /* 16 digits and the closing 0                              */

static uint64_t fvg__hash(uint64_t h, const void *bytes, size_t n) {
  const uint8_t *b = (const uint8_t *)bytes;
  for (size_t i = 0; i < n; i++)
    h = (h ^ b[i]) * 1099511628211u;
  return h;
}

/* The same for a text with its closing 0. */
static uint64_t fvg__hash_text(uint64_t h, const char *text) {
  return fvg__hash(h, text, strlen(text) + 1);
}

static uint64_t fvg__hash_words(const char *kind, const char *first, const char *second) {
  uint64_t h = fvg__hash_text(14695981039346656037u, kind);
  h = fvg__hash_text(h, first);
  return fvg__hash_text(h, second);
}

static uint64_t fvg__hash_tensor_head(const char *name, const char *dtype, const fvg_tensor *x) {
  char shape[FVG__SHAPE_TEXT];
  fvg__shape_text(x, shape);
  uint64_t h = fvg__hash_words("tensor", name, dtype);
  return fvg__hash_text(h, shape);
}

static uint64_t fvg__hash_metadata(const char *key, const char *value) {
  if (strcmp(key, FVG__CHECKSUM) == 0) return 0;
  uint64_t h = fvg__hash_words("metadata", key, value);
  return fvg__splitmix(&h);
}

static void fvg__checksum_text(uint64_t sum, char text[FVG__CHECKSUM_TEXT]) {
  unsigned long high = (unsigned long)(sum >> 32);
  unsigned long low = (unsigned long)(sum & 0xFFFFFFFFu);
  fvg__print(text, FVG__CHECKSUM_TEXT, "%08lx%08lx", high, low);
}

/* Adds the hash of one tensor of an open file to *sum; buffer has FVG__READ_PIECE bytes. */
static fvg_status fvg__weight_hash(fvg_weights *w, const fvg__weight *e, uint8_t *buffer,
                                   uint64_t *sum) {
  uint64_t h = fvg__hash_tensor_head(e->name, e->dtype, &e->shape);
  uint64_t at = e->begin;
  while (at < e->end) {
    uint64_t left = e->end - at;
    size_t n = left < FVG__READ_PIECE ? (size_t)left : FVG__READ_PIECE;
    fvg_status s = fvg__source_read(w->c, &w->source, buffer, at, n);
    if (s) return s;
    h = fvg__hash(h, buffer, n);
    at += n;
  }
  *sum += fvg__splitmix(&h);
  return FVG_OK;
}

/* Compares the checksum of an open file with what its metadata say; a file without one passes, and
   of files that were joined each has its own. */
FVG__FOR_CLIP static fvg_status fvg__weights_verify(fvg_weights *w) {
  for (int i = 0; i < w->n_part; i++) {
    fvg_status s = fvg__weights_verify(w->part[i]);
    if (s) return s;
  }
  if (w->n_part) return FVG_OK;

  const char *said = fvg_weights_metadata(w, FVG__CHECKSUM);
  if (!said) return FVG_OK;
  uint8_t *buffer = (uint8_t *)fvg_alloc(w->c, FVG__READ_PIECE);
  if (!buffer) return FVG_E_NOMEM;

  uint64_t sum = 0;
  const fvg_json_value *value = w->json.value;
  int i = w->metadata < 0 ? -1 : value[w->metadata].first;
  for (; i >= 0; i = value[i].next)
    sum += fvg__hash_metadata(value[i].key, value[i].string);

  fvg_status s = FVG_OK;
  for (int k = 0; k < w->n && !s; k++)
    s = fvg__weight_hash(w, &w->weight[k], buffer, &sum);
  fvg_release(w->c, buffer);
  if (s) return s;

  char found[FVG__CHECKSUM_TEXT];
  fvg__checksum_text(sum, found);
  if (strcmp(said, found) == 0) return FVG_OK;
  return fvg_fail(w->c, FVG_E_FORMAT,
                  "%s: damaged: its metadata give the checksum %.16s, its "
                  "contents have %s; take another copy (if you changed it on purpose, remove the "
                  "checksum)", w->file, said, found);
}

#ifndef FVGPT_NO_TRAINING  /* files are read, not written */
/* ---- writing ---- */
typedef struct fvg__text {
  char *out;                         /* NULL: only count                                         */
  size_t n;
} fvg__text;

static void fvg__text_put(fvg__text *t, const char *s) {
  size_t n = strlen(s);
  if (t->out) memcpy(t->out + t->n, s, n);
  t->n += n;
}

static void fvg__text_whole(fvg__text *t, uint64_t x) {
  char digits[21];
  int at = 20;
  digits[at] = 0;
  do {
    digits[--at] = (char)('0' + (int)(x % 10));
    x /= 10;
  } while (x);
  fvg__text_put(t, digits + at);
}

/* A JSON string. */
static void fvg__text_quoted(fvg__text *t, const char *s) {
  fvg__text_put(t, "\"");
  for (; *s; s++) {
    char one[8] = {0};
    one[0] = *s;
    unsigned byte = (unsigned char)*s;

    if (byte < 0x20) fvg__print(one, sizeof one, "\\u%04x", byte);
    else if (*s == '"' || *s == '\\') fvg__text_put(t, "\\");
    fvg__text_put(t, one);
  }
  fvg__text_put(t, "\"");
}

/* One member of the header; *offset moves to the end of the tensor's bytes. */
static void fvg__text_tensor(fvg__text *t, const fvg_named_tensor *tensor, uint64_t *offset) {
  const fvg_tensor *x = &tensor->tensor;
  fvg__text_quoted(t, tensor->name);
  fvg__text_put(t, ":{\"dtype\":\"");
  fvg__text_put(t, fvg__dtype_name(x->type));

  fvg__text_put(t, "\",\"shape\":[");
  for (int k = 0; k < x->n_dim; k++) {
    if (k) fvg__text_put(t, ",");
    fvg__text_whole(t, (uint64_t)x->dim[k]);
  }

  fvg__text_put(t, "],\"data_offsets\":[");
  fvg__text_whole(t, *offset);
  *offset += fvg_tensor_count(x) * fvg_dtype_size(x->type);
  fvg__text_put(t, ",");
  fvg__text_whole(t, *offset);
  fvg__text_put(t, "]}");
}

/* The header without its length, padded with blanks so that the data start at a multiple of 8. */
static void fvg__write_header(fvg__text *t, const fvg_named_tensor *tensors, int n,
                              const fvg_metadata *metadata, int n_metadata) {
  fvg__text_put(t, "{");
  for (int i = 0; i < n_metadata; i++) {
    fvg__text_put(t, i ? "," : "\"" FVG__METADATA "\":{");
    fvg__text_quoted(t, metadata[i].key);
    fvg__text_put(t, ":");
    fvg__text_quoted(t, metadata[i].value);
  }
  if (n_metadata) fvg__text_put(t, "}");

  uint64_t offset = 0;
  for (int i = 0; i < n; i++) {
    if (i || n_metadata) fvg__text_put(t, ",");
    fvg__text_tensor(t, &tensors[i], &offset);
  }
  fvg__text_put(t, "}");
  while (t->n % 8) fvg__text_put(t, " ");
}

static int fvg__compare_strings(const void *a, const void *b) {
  return strcmp((const char *)a, (const char *)b);
}

/* Names must be UTF-8 and differ; sorts them. */
static fvg_status fvg__check_names(fvg_ctx *c, const char *file, const void **name, int n) {
  for (int i = 0; i < n; i++) {
    const char *s = (const char *)name[i];
    if (!fvg__is_utf8(s, strlen(s)))
      return fvg_fail(c, FVG_E_ARG, "%s: name or metadata \"%.100s\" is not UTF-8", file, s);
  }

  fvg__sort(name, (size_t)n, fvg__compare_strings);
  for (int i = 1; i < n; i++) {
    if (fvg__compare_strings(name[i - 1], name[i]) != 0) continue;
    return fvg_fail(c, FVG_E_ARG,
                    "%s: the name \"%.100s\" is given twice",
                    file, (const char *)name[i]);
  }
  return FVG_OK;
}

/* A tensor to be written needs a name, a type, a shape and data. */
static fvg_status fvg__check_named_tensor(fvg_ctx *c, const char *file, const fvg_named_tensor *t) {
  const fvg_tensor *x = &t->tensor;
  const size_t size = fvg_dtype_size(x->type);
  if (!t->name || strcmp(t->name, FVG__METADATA) == 0)
    return fvg_fail(c, FVG_E_ARG, "%s: a tensor needs a name other than " FVG__METADATA, file);
  if (size == 0)
    return fvg_fail(c, FVG_E_ARG,
                    "%s: tensor %.100s: type %s cannot be written; fvg_tensor_unpack comes first",
                    file, t->name, fvg__dtype_name(x->type));
  if (x->n_dim < 0 || x->n_dim > FVG_MAX_DIM)
    return fvg_fail(c, FVG_E_ARG,
                    "%s: tensor %.100s: %d dimensions, %d is the limit",
                    file, t->name, x->n_dim, FVG_MAX_DIM);

  char text[FVG__SHAPE_TEXT];
  fvg__shape_text(x, text);
  uint64_t bytes;
  if (fvg__checked_bytes(x, size, &bytes))
    return fvg_fail(c, FVG_E_ARG,
                    "%s: tensor %.100s: shape %s is negative or too large",
                    file, t->name, text);
  if (bytes && !x->data)
    return fvg_fail(c, FVG_E_ARG,
                    "%s: tensor %.100s: shape %s but no data",
                    file, t->name, text);
  return FVG_OK;
}

/* Checks all that is to be written before the first byte of it is. */
static fvg_status fvg__check_output(fvg_ctx *c, const char *file, const fvg_named_tensor *tensors,
                                    int n, const fvg_metadata *metadata, int n_metadata) {
  int bad_list = n < 0 || (n && !tensors);
  int bad_metadata = n_metadata < 0 || (n_metadata && !metadata);
  if (bad_list || bad_metadata)
    return fvg_fail(c, FVG_E_ARG,
                    "%s: %d tensors, %d metadata: the list is missing",
                    file, n, n_metadata);

  fvg_status s = FVG_OK;
  for (int i = 0; i < n && !s; i++)
    s = fvg__check_named_tensor(c, file, &tensors[i]);
  for (int i = 0; i < n_metadata; i++)
    if (!metadata[i].key || !metadata[i].value)
      return fvg_fail(c, FVG_E_ARG, "%s: metadata %d is NULL", file, i);
  if (s) return s;

  const int longest = n > n_metadata ? n : n_metadata;
  const void **name = FVG_NEW_ARRAY(c, const void *, (size_t)longest);
  if (!name) return FVG_E_NOMEM;

  for (int i = 0; i < n; i++)
    name[i] = tensors[i].name;
  s = fvg__check_names(c, file, name, n);
  for (int i = 0; i < n_metadata; i++)
    name[i] = metadata[i].key;
  if (!s) s = fvg__check_names(c, file, name, n_metadata);

  /* Values may repeat, so they are checked one at a time. */
  for (int i = 0; i < n_metadata && !s; i++) {
    name[0] = metadata[i].value;
    s = fvg__check_names(c, file, name, 1);
  }
  fvg_release(c, name);
  return s;
}

/* Writes the little-endian bytes of x through the callback; non-zero if that fails. */
static int fvg__write_data(fvg_write_fn write, void *user, const fvg_tensor *x) {
  const size_t size = fvg_dtype_size(x->type);
  const size_t bytes = fvg_tensor_count(x) * size;
  const uint8_t *data = (const uint8_t *)x->data;
  if (!bytes) return 0;
  if (!fvg__big_endian()) return write(user, data, bytes);

  uint8_t buffer[4096];
  size_t done = 0;
  while (done < bytes) {
    size_t n = bytes - done < sizeof buffer ? bytes - done : sizeof buffer;
    memcpy(buffer, data + done, n);
    fvg__swap_bytes(buffer, n / size, size);
    if (write(user, buffer, n)) return 1;
    done += n;
  }
  return 0;
}

/* An fvg_write_fn whose user data are the hash. */
static int fvg__hash_write(void *user, const void *bytes, size_t n) {
  uint64_t *h = (uint64_t *)user;
  *h = fvg__hash(*h, bytes, n);
  return 0;
}

/* The checksum of what is to be written. */
FVG__FOR_CLIP static void fvg__checksum(const fvg_named_tensor *tensors, int n,
                                        const fvg_metadata *metadata, int n_metadata,
                                        char text[FVG__CHECKSUM_TEXT]) {
  uint64_t sum = 0;
  for (int i = 0; i < n_metadata; i++)
    sum += fvg__hash_metadata(metadata[i].key, metadata[i].value);

  for (int i = 0; i < n; i++) {
    const fvg_tensor *x = &tensors[i].tensor;
    uint64_t h = fvg__hash_tensor_head(tensors[i].name, fvg__dtype_name(x->type), x);
    fvg__write_data(fvg__hash_write, &h, x);
    sum += fvg__splitmix(&h);
  }
  fvg__checksum_text(sum, text);
}

/* ---- a whole file ---- */
/* Checks and writes all; `file` is the name for messages. */
static fvg_status fvg__safetensors_emit(fvg_ctx *c, const char *file, fvg_write_fn write,
                                        void *user, const fvg_named_tensor *tensors, int n,
                                        const fvg_metadata *metadata, int n_metadata) {
  fvg_status s = fvg__check_output(c, file, tensors, n, metadata, n_metadata);
  if (s) return s;

  /* The header is made twice: first only to count its bytes. */
  fvg__text t;
  memset(&t, 0, sizeof t);
  fvg__write_header(&t, tensors, n, metadata, n_metadata);
  if (t.n > FVG__HEADER_LIMIT)
    return fvg_fail(c, FVG_E_ARG,
                    "%s: a header of %zu bytes; %u is the limit",
                    file, t.n, FVG__HEADER_LIMIT);
  t.out = (char *)fvg_alloc(c, t.n);
  if (!t.out) return FVG_E_NOMEM;
  t.n = 0;
  fvg__write_header(&t, tensors, n, metadata, n_metadata);

  uint8_t length[8];
  for (int i = 0; i < 8; i++) {
    uint64_t from_byte = (uint64_t)t.n >> 8 * i;
    length[i] = (uint8_t)(from_byte & 255u);
  }
  int failed = write(user, length, sizeof length) || write(user, t.out, t.n);
  fvg_release(c, t.out);

  for (int i = 0; i < n && !failed; i++)
    failed = fvg__write_data(write, user, &tensors[i].tensor);
  if (failed) return fvg_fail(c, FVG_E_IO, "%s: the write callback failed", file);
  return FVG_OK;
}

FVG_DEF fvg_status fvg_safetensors_write(fvg_ctx *c, fvg_write_fn write, void *user,
                                         const fvg_named_tensor *tensors, int n,
                                         const fvg_metadata *metadata, int n_metadata) {
  if (!c || !write)
    return fvg__missing(c, "fvg_safetensors_write", "the write function");
  return fvg__safetensors_emit(c, "safetensors", write, user, tensors, n, metadata, n_metadata);
}

#ifndef FVGPT_NO_STDIO
FVG_DEF fvg_status fvg_safetensors_save(fvg_ctx *c, const char *path,
                                        const fvg_named_tensor *tensors, int n,
                                        const fvg_metadata *metadata, int n_metadata) {
  if (!c || !path) return fvg__missing(c, "fvg_safetensors_save", "the path");

  fvg__output file;
  fvg_status s = fvg__output_open(c, &file, path);
  if (s) return s;
  s = fvg__safetensors_emit(c, path, fvg__output_write, &file, tensors, n, metadata, n_metadata);
  return fvg__output_close(c, &file, path, s);
}
#endif
#endif /* FVGPT_NO_TRAINING */

/*==================================================================================================
 * CHAPTER 4  ARCHIVES: zip and pickle, which PyTorch writes
 *==================================================================================================
   Since PyTorch 1.6 torch.save and torch.jit.save write a zip archive (APPNOTE.TXT 6.3).  The
   members that matter here are stored without compression:

       NAME/data.pkl      a pickle: dictionaries, lists, modules, and tensors' shapes and strides
       NAME/data/KEY      the numbers of one storage
       NAME/byteorder     "little" or "big"; only newer versions write it

   A pickle is a program for a machine with a stack and a memo (Python's pickletools.py documents
   each instruction), and Python runs whatever function it names.  This machine has no functions.  A
   table holds the names that it knows, and a call of one of them gives a dictionary, an object
   without behaviour, a tensor, the first argument, or a value that is ignored here.  Any other name
   is an error.  PyTorch's optimisers are in the table because a checkpoint of Dassl holds one as a
   live object, below `scheduler`.

   As in chapter 2 there are two runs.  The first counts the instructions; the second has arrays of
   that size, because an instruction makes at most one value, one cell and one place on the stack.
   What remains is a tree, or a graph where the memo has put one value into several places. */

/* ---- zip ---- */
/* The fixed part of each record in bytes, and the four bytes with which it begins (APPNOTE 4.3). */
#define FVG__ZIP_LOCAL            30
#define FVG__ZIP_LOCAL_BEGINS     0x04034b50u
#define FVG__ZIP_ENTRY            46
#define FVG__ZIP_ENTRY_BEGINS     0x02014b50u
#define FVG__ZIP_END              22
#define FVG__ZIP_END_BEGINS       0x06054b50u
#define FVG__ZIP_LOCATOR          20
#define FVG__ZIP_LOCATOR_BEGINS   0x07064b50u
#define FVG__ZIP_END64            56
#define FVG__ZIP_END64_BEGINS     0x06064b50u

/* A number of 16 or 32 bits that does not fit is written as all ones; a wider field then holds
   it. */
#define FVG__ZIP_WIDE16           0xFFFFu
#define FVG__ZIP_WIDE32           0xFFFFFFFFu

typedef struct fvg__zip_entry {
  const uint8_t *name;               /* [n_name] inside the directory, without a closing 0       */
  size_t n_name;
  int stored;                        /* 1: neither compressed nor encrypted                      */
  uint64_t header;                   /* offset in the file of the member's own header            */
  uint64_t begin;                    /* offset in the file of the member's bytes                 */
  uint64_t packed, unpacked;         /* bytes in the file, and after decompression               */
} fvg__zip_entry;

typedef struct fvg__zip {
  fvg_weights *w;                    /* the source, and the name for messages                    */
  uint8_t *directory;                /* [directory_bytes] the central directory                  */
  uint64_t directory_at;             /* its offset in the file                                   */
  uint64_t directory_bytes;
  int n;                             /* members                                                  */
  fvg__zip_entry *entry;             /* [n]                                                      */
  const void **by_name;              /* [n] pointers to the entries, sorted by name              */
  const fvg__zip_entry *pickle;      /* NAME/data.pkl                                            */
} fvg__zip;

/* The little-endian number in the n bytes at p, n <= 8. */
static uint64_t fvg__little(const uint8_t *p, size_t n) {
  uint64_t x = 0;
  while (n--) x = x << 8 | p[n];
  return x;
}

#define FVG__LEGIBLE 120             /* bytes of a text made by fvg__legible, with the closing 0 */

/* Foreign bytes for a message: every byte that is not plain ASCII becomes '?'. */
static const char *fvg__legible(const uint8_t *s, size_t n, char *text) {
  if (n > FVG__LEGIBLE - 1) n = FVG__LEGIBLE - 1;

  for (size_t i = 0; i < n; i++) {
    int plain = s[i] >= 32 && s[i] < 127;
    text[i] = plain ? (char)s[i] : '?';
  }
  text[n] = 0;
  return text;
}

/* Reads the zip64 end record, which holds the numbers that are too large for the last record.  A
   locator directly before the last record, which is at `position`, says where it is. */
static fvg_status fvg__zip_find_end64(fvg__zip *z, uint64_t position, uint64_t *count) {
  fvg_weights *w = z->w;
  uint8_t locator[FVG__ZIP_LOCATOR] = {0};
  uint8_t record[FVG__ZIP_END64] = {0};
  fvg_status s = FVG_OK;

  if (position >= sizeof locator)
    s = fvg__source_read(w->c, &w->source, locator, position - sizeof locator, sizeof locator);

  if (!s && fvg__little(locator, 4) == FVG__ZIP_LOCATOR_BEGINS) {
    uint64_t offset = fvg__little(locator + 8, 8);
    s = fvg__source_read(w->c, &w->source, record, offset, sizeof record);
  }
  if (s) return s;

  if (fvg__little(record, 4) != FVG__ZIP_END64_BEGINS)
    return fvg_fail(w->c, FVG_E_FORMAT,
                    "%s: not a whole zip archive: its zip64 record is missing", w->file);

  *count = fvg__little(record + 32, 8);
  z->directory_bytes = fvg__little(record + 40, 8);
  z->directory_at = fvg__little(record + 48, 8);
  return FVG_OK;
}

/* Finds the archive's last record in its last n bytes; NULL if it is missing.  The record ends with
   the length of a comment, which must reach exactly to the end of the file. */
static const uint8_t *fvg__zip_last_record(const uint8_t *tail, size_t n) {
  for (size_t comment = 0; FVG__ZIP_END + comment <= n; comment++) {
    const uint8_t *record = tail + n - FVG__ZIP_END - comment;
    int begins = fvg__little(record, 4) == FVG__ZIP_END_BEGINS;
    if (begins && fvg__little(record + 20, 2) == comment) return record;
  }
  return NULL;
}

/* Reads the last record: *position is its offset in the file, *count the number of
   members.  A comment of at most 65535 bytes may follow it, so it is looked for in that
   many bytes from the end. */
static fvg_status fvg__zip_read_last_record(fvg__zip *z, uint64_t *position, uint64_t *count) {
  fvg_weights *w = z->w;
  const size_t longest = FVG__ZIP_END + 65535;
  const size_t n = w->source.size < longest ? (size_t)w->source.size : longest;
  const uint64_t tail_at = w->source.size - n;

  uint8_t *tail = (uint8_t *)fvg_alloc(w->c, n);
  if (!tail) return FVG_E_NOMEM;
  fvg_status s = fvg__source_read(w->c, &w->source, tail, tail_at, n);
  const uint8_t *record = s ? NULL : fvg__zip_last_record(tail, n);

  if (record) {
    *position = tail_at + (uint64_t)(record - tail);
    *count = fvg__little(record + 10, 2);
    z->directory_bytes = fvg__little(record + 12, 4);
    z->directory_at = fvg__little(record + 16, 4);
  }
  fvg_release(w->c, tail);

  if (s || record) return s;
  return fvg_fail(w->c, FVG_E_FORMAT,
                  "%s: not a whole zip archive: its last record is missing", w->file);
}

/* Finds the directory and the number of its entries, and checks that both can be true. */
static fvg_status fvg__zip_find_directory(fvg__zip *z, uint64_t *count) {
  fvg_weights *w = z->w;
  uint64_t position = 0;
  fvg_status s = fvg__zip_read_last_record(z, &position, count);
  if (s) return s;

  if (*count == FVG__ZIP_WIDE16 || z->directory_bytes == FVG__ZIP_WIDE32 ||
      z->directory_at == FVG__ZIP_WIDE32)
    s = fvg__zip_find_end64(z, position, count);
  if (s) return s;

  int inside = z->directory_at <= position && z->directory_bytes <= position - z->directory_at;
  int plausible = *count <= z->directory_bytes / FVG__ZIP_ENTRY && *count <= INT32_MAX;
  if (inside && plausible) return FVG_OK;
  return fvg_fail(w->c, FVG_E_FORMAT,
                  "%s: zip directory of %llu entries in %llu bytes at %llu does not fit", w->file,
                  (fvg__long)*count, (fvg__long)z->directory_bytes, (fvg__long)z->directory_at);
}

/* Replaces a number that is all ones by the next 8 bytes of the zip64 field; non-zero
   if the field is too short. */
static int fvg__zip_widen(uint64_t *number, const uint8_t **field, size_t *n) {
  if (*number != FVG__ZIP_WIDE32) return 0;
  if (*n < 8) return 1;

  *number = fvg__little(*field, 8);
  *field += 8;
  *n -= 8;
  return 0;
}

/* Takes those of an entry's sizes and offset that do not fit in 32 bits from its extra field of
   kind 1, where they stand in this order; non-zero if they are missing there. */
static int fvg__zip_widen_entry(fvg__zip_entry *e, const uint8_t *extra, size_t n) {
  if (e->unpacked != FVG__ZIP_WIDE32 && e->packed != FVG__ZIP_WIDE32 &&
      e->header != FVG__ZIP_WIDE32) return 0;

  /* Each extra field is a kind and a length of 2 bytes each, and its content. */
  while (n >= 4 && fvg__little(extra, 2) != 1) {
    size_t field = 4 + (size_t)fvg__little(extra + 2, 2);
    if (field > n) return 1;
    extra += field;
    n -= field;
  }
  if (n < 4) return 1;

  size_t n_field = (size_t)fvg__little(extra + 2, 2);
  if (n_field > n - 4) return 1;
  extra += 4;

  return fvg__zip_widen(&e->unpacked, &extra, &n_field) ||
         fvg__zip_widen(&e->packed, &extra, &n_field) ||
         fvg__zip_widen(&e->header, &extra, &n_field);
}

static fvg_status fvg__zip_broken(const fvg__zip *z, size_t at) {
  return fvg_fail(z->w->c, FVG_E_FORMAT,
                  "%s: zip directory is broken at byte %llu", z->w->file,
                  (fvg__long)(z->directory_at + at));
}

/* Reads the directory's entry at byte *at of the directory and moves *at to its end. */
static fvg_status fvg__zip_read_entry(fvg__zip *z, fvg__zip_entry *e, size_t *at) {
  const uint8_t *p = z->directory + *at;
  const size_t left = (size_t)z->directory_bytes - *at;
  if (left < FVG__ZIP_ENTRY) return fvg__zip_broken(z, *at);
  if (fvg__little(p, 4) != FVG__ZIP_ENTRY_BEGINS) return fvg__zip_broken(z, *at);

  int encrypted = p[8] & 1;
  e->stored = fvg__little(p + 10, 2) == 0 && !encrypted;
  e->packed = fvg__little(p + 20, 4);
  e->unpacked = fvg__little(p + 24, 4);
  e->header = fvg__little(p + 42, 4);

  /* The name, the extra fields and a comment follow the fixed part. */
  e->name = p + FVG__ZIP_ENTRY;
  e->n_name = (size_t)fvg__little(p + 28, 2);
  size_t n_extra = (size_t)fvg__little(p + 30, 2);
  size_t n_comment = (size_t)fvg__little(p + 32, 2);
  size_t n_variable = e->n_name + n_extra + n_comment;

  if (n_variable > left - FVG__ZIP_ENTRY) return fvg__zip_broken(z, *at);
  if (fvg__zip_widen_entry(e, e->name + e->n_name, n_extra))
    return fvg__zip_broken(z, *at);
  *at += FVG__ZIP_ENTRY + n_variable;
  return FVG_OK;
}

/* Finds the member's bytes, which come after its own header and must end before the directory. */
static fvg_status fvg__zip_locate(fvg__zip *z, fvg__zip_entry *e) {
  fvg_weights *w = z->w;
  uint8_t local[FVG__ZIP_LOCAL];
  fvg_status s = fvg__source_read(w->c, &w->source, local, e->header, sizeof local);
  if (s) return s;

  uint64_t n_name = fvg__little(local + 26, 2);
  uint64_t n_extra = fvg__little(local + 28, 2);
  e->begin = e->header + sizeof local + n_name + n_extra;

  int is_header = fvg__little(local, 4) == FVG__ZIP_LOCAL_BEGINS;
  int inside = e->begin <= z->directory_at && e->packed <= z->directory_at - e->begin;
  int sizes_agree = !e->stored || e->unpacked == e->packed;
  if (is_header && inside && sizes_agree) return FVG_OK;

  char text[FVG__LEGIBLE];
  return fvg_fail(w->c, FVG_E_FORMAT,
                  "%s: zip member %s: %llu bytes at %llu are not there",
                  w->file, fvg__legible(e->name, e->n_name, text),
                  (fvg__long)e->packed, (fvg__long)e->header);
}

static int fvg__zip_by_name(const void *a, const void *b) {
  const fvg__zip_entry *x = (const fvg__zip_entry *)a;
  const fvg__zip_entry *y = (const fvg__zip_entry *)b;
  size_t shorter = x->n_name < y->n_name ? x->n_name : y->n_name;

  int order = memcmp(x->name, y->name, shorter);
  if (order || x->n_name == y->n_name) return order;
  return x->n_name < y->n_name ? -1 : 1;
}

static int fvg__zip_by_offset(const void *a, const void *b) {
  const fvg__zip_entry *x = (const fvg__zip_entry *)a;
  const fvg__zip_entry *y = (const fvg__zip_entry *)b;
  if (x->header == y->header) return 0;
  return x->header < y->header ? -1 : 1;
}

/* Checks that no two members share bytes or a name; leaves by_name sorted. */
static fvg_status fvg__zip_check(fvg__zip *z) {
  fvg_weights *w = z->w;
  char one[FVG__LEGIBLE], two[FVG__LEGIBLE];
  for (int i = 0; i < z->n; i++)
    z->by_name[i] = &z->entry[i];

  fvg__sort(z->by_name, (size_t)z->n, fvg__zip_by_offset);
  for (int i = 1; i < z->n; i++) {
    const fvg__zip_entry *a = (const fvg__zip_entry *)z->by_name[i - 1];
    const fvg__zip_entry *b = (const fvg__zip_entry *)z->by_name[i];
    if (a->begin + a->packed <= b->header) continue;
    fvg__legible(a->name, a->n_name, one);
    fvg__legible(b->name, b->n_name, two);
    return fvg_fail(w->c, FVG_E_FORMAT,
                    "%s: zip members %s and %s overlap at byte %llu",
                    w->file, one, two, (fvg__long)b->header);
  }

  fvg__sort(z->by_name, (size_t)z->n, fvg__zip_by_name);
  for (int i = 1; i < z->n; i++) {
    const fvg__zip_entry *e = (const fvg__zip_entry *)z->by_name[i];
    if (fvg__zip_by_name(z->by_name[i - 1], e) != 0) continue;
    fvg__legible(e->name, e->n_name, one);
    return fvg_fail(w->c, FVG_E_FORMAT, "%s: zip member %s appears twice", w->file, one);
  }
  return FVG_OK;
}

#define FVG__PICKLE_NAME "data.pkl"

/* Is the entry FOLDER/data.pkl, with any folder but exactly one? */
static int fvg__zip_is_pickle(const fvg__zip_entry *e) {
  const size_t n = sizeof "/" FVG__PICKLE_NAME - 1;
  if (e->n_name <= n) return 0;

  size_t n_folder = e->n_name - n;
  if (memcmp(e->name + n_folder, "/" FVG__PICKLE_NAME, n) != 0)
    return 0;
  return memchr(e->name, '/', n_folder) == NULL;
}

static fvg_status fvg__zip_find_pickle(fvg__zip *z) {
  fvg_weights *w = z->w;

  for (int i = 0; i < z->n; i++) {
    if (!fvg__zip_is_pickle(&z->entry[i])) continue;
    if (z->pickle)
      return fvg_fail(w->c, FVG_E_FORMAT, "%s: two folders with a " FVG__PICKLE_NAME, w->file);
    z->pickle = &z->entry[i];
  }
  if (z->pickle) return FVG_OK;

  return fvg_fail(w->c, FVG_E_FORMAT,
                  "%s: a zip archive without a folder that holds a "
                  FVG__PICKLE_NAME ", so not a PyTorch file", w->file);
}

/* Reads and checks the whole directory; what it allocates is given back by
   fvg__zip_close, also after a failure. */
static fvg_status fvg__zip_open(fvg__zip *z) {
  fvg_weights *w = z->w;
  uint64_t count = 0;
  fvg_status s = fvg__zip_find_directory(z, &count);
  if (s) return s;

  const size_t bytes = (size_t)z->directory_bytes;
  z->directory = (uint8_t *)fvg_alloc(w->c, bytes);
  z->entry = FVG_NEW_ARRAY(w->c, fvg__zip_entry, (size_t)count);
  z->by_name = FVG_NEW_ARRAY(w->c, const void *, (size_t)count);
  if (!z->directory || !z->entry || !z->by_name)
    return FVG_E_NOMEM;

  s = fvg__source_read(w->c, &w->source, z->directory, z->directory_at, bytes);
  size_t at = 0;
  while (!s && (uint64_t)z->n < count) {
    fvg__zip_entry *e = &z->entry[z->n++];
    s = fvg__zip_read_entry(z, e, &at);
    if (!s) s = fvg__zip_locate(z, e);
  }

  if (!s) s = fvg__zip_check(z);
  if (!s) s = fvg__zip_find_pickle(z);
  return s;
}

/* The member NAME/`folder``name`, where NAME is the folder that data.pkl is in; NULL if there is
   none. */
static const fvg__zip_entry *fvg__zip_find(const fvg__zip *z, const char *folder,
                                           const uint8_t *name, size_t n) {
  const size_t n_top = z->pickle->n_name - (sizeof FVG__PICKLE_NAME - 1);
  const size_t n_folder = strlen(folder);
  uint8_t path[FVG__LEGIBLE + 512];
  if (n > FVG__LEGIBLE || n_folder > 16 || n_top + n_folder + n > sizeof path) return NULL;

  memcpy(path, z->pickle->name, n_top);
  memcpy(path + n_top, folder, n_folder);
  memcpy(path + n_top + n_folder, name, n);

  fvg__zip_entry wanted;
  memset(&wanted, 0, sizeof wanted);
  wanted.name = path;
  wanted.n_name = n_top + n_folder + n;

  int low = 0, high = z->n;
  while (low < high) {
    int middle = low + (high - low) / 2;
    int order = fvg__zip_by_name(&wanted, z->by_name[middle]);
    if (order == 0) return (const fvg__zip_entry *)z->by_name[middle];
    if (order < 0) high = middle;
    else low = middle + 1;
  }
  return NULL;
}

static fvg_status fvg__zip_must_be_stored(const fvg__zip *z, const fvg__zip_entry *e) {
  if (e->stored) return FVG_OK;

  char text[FVG__LEGIBLE];
  fvg__legible(e->name, e->n_name, text);
  return fvg_fail(z->w->c, FVG_E_UNSUPPORTED,
                  "%s: zip member %s is compressed or encrypted; "
                  "torch.save would store it as it is", z->w->file, text);
}

/* Refuses an archive that says that its numbers are big-endian; one that says nothing is
   little-endian. */
static fvg_status fvg__zip_byte_order(const fvg__zip *z) {
  fvg_weights *w = z->w;
  const fvg__zip_entry *e = fvg__zip_find(z, "", (const uint8_t *)"byteorder", 9);
  if (!e) return FVG_OK;

  uint8_t word[6] = {0};
  const size_t n = e->packed < sizeof word ? (size_t)e->packed : sizeof word;
  fvg_status s = fvg__zip_must_be_stored(z, e);
  if (!s)
    s = fvg__source_read(w->c, &w->source, word, e->begin, n);
  if (s || memcmp(word, "little", 6) == 0) return s;

  return fvg_fail(w->c, FVG_E_UNSUPPORTED,
                  "%s: its numbers are not little-endian; "
                  "save it again on a little-endian machine", w->file);
}

static void fvg__zip_close(fvg__zip *z) {
  fvg_release(z->w->c, z->directory);
  fvg_release(z->w->c, z->entry);
  fvg_release(z->w->c, z->by_name);
}

/* ---- the names a pickle may use ---- */
typedef enum fvg__global_role {
  FVG__MAKES_DICT = 0,
  FVG__MAKES_OBJECT,                 /* a set of attributes by name, without behaviour           */
  FVG__MAKES_TENSOR,
  FVG__GIVES_ARGUMENT,               /* a call gives its first argument                          */
  FVG__MAKES_OTHER,                  /* a call gives a value that is ignored                     */
  FVG__IS_STORAGE                    /* the type of a storage, which is not called               */
} fvg__global_role;

typedef struct fvg__global {
  const char *name;                  /* a name that ends with a dot stands for all that begin so */
  fvg__global_role role;
  const char *dtype;                 /* of a storage, as in safetensors; else NULL               */
} fvg__global;

static const fvg__global fvg__globals[] = {
  {"collections.OrderedDict", FVG__MAKES_DICT, NULL},
  {"collections.defaultdict", FVG__MAKES_DICT, NULL},
  {"__builtin__.dict", FVG__MAKES_DICT, NULL},
  {"builtins.dict", FVG__MAKES_DICT, NULL},
  {"__torch__.", FVG__MAKES_OBJECT, NULL},
  {"torch.optim.", FVG__MAKES_OBJECT, NULL},
  {"dassl.optim.", FVG__MAKES_OBJECT, NULL},
  {"torch._utils._rebuild_tensor_v2", FVG__MAKES_TENSOR, NULL},
  {"torch._utils._rebuild_parameter", FVG__GIVES_ARGUMENT, NULL},
  {"torch._utils._rebuild_parameter_with_state", FVG__GIVES_ARGUMENT, NULL},
  {"torch.Size", FVG__GIVES_ARGUMENT, NULL},
  {"torch.jit._pickle.build_intlist", FVG__GIVES_ARGUMENT, NULL},
  {"torch.jit._pickle.build_doublelist", FVG__GIVES_ARGUMENT, NULL},
  {"torch.jit._pickle.build_boollist", FVG__GIVES_ARGUMENT, NULL},
  {"torch.jit._pickle.build_tensorlist", FVG__GIVES_ARGUMENT, NULL},
  {"torch.jit._pickle.restore_type_tag", FVG__GIVES_ARGUMENT, NULL},
  {"torch.device", FVG__MAKES_OTHER, NULL},
  {"collections.Counter", FVG__MAKES_OTHER, NULL},
  {"numpy.core.multiarray.scalar", FVG__MAKES_OTHER, NULL},
  {"numpy._core.multiarray.scalar", FVG__MAKES_OTHER, NULL},
  {"numpy.dtype", FVG__MAKES_OTHER, NULL},
  {"_codecs.encode", FVG__MAKES_OTHER, NULL},
  {"torch.FloatStorage", FVG__IS_STORAGE, "F32"},
  {"torch.HalfStorage", FVG__IS_STORAGE, "F16"},
  {"torch.BFloat16Storage", FVG__IS_STORAGE, "BF16"},
  {"torch.DoubleStorage", FVG__IS_STORAGE, "F64"},
  {"torch.LongStorage", FVG__IS_STORAGE, "I64"},
  {"torch.IntStorage", FVG__IS_STORAGE, "I32"},
  {"torch.ShortStorage", FVG__IS_STORAGE, "I16"},
  {"torch.CharStorage", FVG__IS_STORAGE, "I8"},
  {"torch.ByteStorage", FVG__IS_STORAGE, "U8"},
  {"torch.BoolStorage", FVG__IS_STORAGE, "BOOL"}
};

/* The name's index in the table; -1 if it is unknown. */
static int fvg__find_global(const char *name) {
  const int n_global = (int)(sizeof fvg__globals / sizeof *fvg__globals);

  for (int i = 0; i < n_global; i++) {
    const char *known = fvg__globals[i].name;
    size_t n = strlen(known);
    int is_prefix = known[n - 1] == '.';
    int order = is_prefix ? strncmp(name, known, n) : strcmp(name, known);
    if (order == 0) return i;
  }
  return -1;
}

/* ---- pickle: instructions ---- */
enum {                               /* with pickletools' names                                  */
  FVG__OP_MARK             = '(',
  FVG__OP_STOP             = '.',
  FVG__OP_POP              = '0',
  FVG__OP_POP_MARK         = '1',
  FVG__OP_DUP              = '2',
  FVG__OP_NONE             = 'N',
  FVG__OP_NEWTRUE          = 0x88,
  FVG__OP_NEWFALSE         = 0x89,
  FVG__OP_BININT1          = 'K',
  FVG__OP_BININT2          = 'M',
  FVG__OP_BININT           = 'J',
  FVG__OP_LONG1            = 0x8a,
  FVG__OP_LONG4            = 0x8b,
  FVG__OP_BINFLOAT         = 'G',
  FVG__OP_SHORT_BINSTRING  = 'U',
  FVG__OP_BINSTRING        = 'T',
  FVG__OP_SHORT_BINUNICODE = 0x8c,
  FVG__OP_BINUNICODE       = 'X',
  FVG__OP_BINUNICODE8      = 0x8d,
  FVG__OP_SHORT_BINBYTES   = 'C',
  FVG__OP_BINBYTES         = 'B',
  FVG__OP_BINBYTES8        = 0x8e,
  FVG__OP_EMPTY_TUPLE      = ')',
  FVG__OP_TUPLE1           = 0x85,
  FVG__OP_TUPLE2           = 0x86,
  FVG__OP_TUPLE3           = 0x87,
  FVG__OP_TUPLE            = 't',
  FVG__OP_EMPTY_LIST       = ']',
  FVG__OP_APPEND           = 'a',
  FVG__OP_APPENDS          = 'e',
  FVG__OP_EMPTY_DICT       = '}',
  FVG__OP_SETITEM          = 's',
  FVG__OP_SETITEMS         = 'u',
  FVG__OP_GLOBAL           = 'c',
  FVG__OP_STACK_GLOBAL     = 0x93,
  FVG__OP_REDUCE           = 'R',
  FVG__OP_NEWOBJ           = 0x81,
  FVG__OP_BUILD            = 'b',
  FVG__OP_BINPERSID        = 'Q',
  FVG__OP_BINPUT           = 'q',
  FVG__OP_LONG_BINPUT      = 'r',
  FVG__OP_MEMOIZE          = 0x94,
  FVG__OP_BINGET           = 'h',
  FVG__OP_LONG_BINGET      = 'j',
  FVG__OP_PROTO            = 0x80,
  FVG__OP_FRAME            = 0x95
};

typedef struct fvg__opcode {
  int code;
  int argument;                      /* bytes of the number that follows the code                */
  int is_length;                     /* 1: the number is the length of bytes that follow it      */
  int needs;                         /* values that it uses on the stack, above the last mark    */
} fvg__opcode;

/* All instructions that PyTorch writes. */
static const fvg__opcode fvg__opcodes[] = {
  {FVG__OP_MARK,             0, 0, 0},
  {FVG__OP_STOP,             0, 0, 1},
  {FVG__OP_POP,              0, 0, 1},
  {FVG__OP_POP_MARK,         0, 0, 0},
  {FVG__OP_DUP,              0, 0, 1},
  {FVG__OP_NONE,             0, 0, 0},
  {FVG__OP_NEWTRUE,          0, 0, 0},
  {FVG__OP_NEWFALSE,         0, 0, 0},
  {FVG__OP_BININT1,          1, 0, 0},
  {FVG__OP_BININT2,          2, 0, 0},
  {FVG__OP_BININT,           4, 0, 0},
  {FVG__OP_LONG1,            1, 1, 0},
  {FVG__OP_LONG4,            4, 1, 0},
  {FVG__OP_BINFLOAT,         8, 0, 0},
  {FVG__OP_SHORT_BINSTRING,  1, 1, 0},
  {FVG__OP_BINSTRING,        4, 1, 0},
  {FVG__OP_SHORT_BINUNICODE, 1, 1, 0},
  {FVG__OP_BINUNICODE,       4, 1, 0},
  {FVG__OP_BINUNICODE8,      8, 1, 0},
  {FVG__OP_SHORT_BINBYTES,   1, 1, 0},
  {FVG__OP_BINBYTES,         4, 1, 0},
  {FVG__OP_BINBYTES8,        8, 1, 0},
  {FVG__OP_EMPTY_TUPLE,      0, 0, 0},
  {FVG__OP_TUPLE1,           0, 0, 1},
  {FVG__OP_TUPLE2,           0, 0, 2},
  {FVG__OP_TUPLE3,           0, 0, 3},
  {FVG__OP_TUPLE,            0, 0, 0},
  {FVG__OP_EMPTY_LIST,       0, 0, 0},
  {FVG__OP_APPEND,           0, 0, 2},
  {FVG__OP_APPENDS,          0, 0, 0},
  {FVG__OP_EMPTY_DICT,       0, 0, 0},
  {FVG__OP_SETITEM,          0, 0, 3},
  {FVG__OP_SETITEMS,         0, 0, 0},
  {FVG__OP_GLOBAL,           0, 0, 0},
  {FVG__OP_STACK_GLOBAL,     0, 0, 2},
  {FVG__OP_REDUCE,           0, 0, 2},
  {FVG__OP_NEWOBJ,           0, 0, 2},
  {FVG__OP_BUILD,            0, 0, 2},
  {FVG__OP_BINPERSID,        0, 0, 1},
  {FVG__OP_BINPUT,           1, 0, 1},
  {FVG__OP_LONG_BINPUT,      4, 0, 1},
  {FVG__OP_MEMOIZE,          0, 0, 1},
  {FVG__OP_BINGET,           1, 0, 0},
  {FVG__OP_LONG_BINGET,      4, 0, 0},
  {FVG__OP_PROTO,            1, 0, 0},
  {FVG__OP_FRAME,            8, 0, 0}
};

/* NULL: not an instruction that PyTorch writes. */
static const fvg__opcode *fvg__find_opcode(int code) {
  const size_t n_opcode = sizeof fvg__opcodes / sizeof *fvg__opcodes;
  for (size_t i = 0; i < n_opcode; i++)
    if (fvg__opcodes[i].code == code) return &fvg__opcodes[i];
  return NULL;
}

typedef enum fvg__pickle_type {
  FVG__PICKLE_NONE = 0,
  FVG__PICKLE_BOOL,
  FVG__PICKLE_WHOLE,                 /* a whole number                                           */
  FVG__PICKLE_REAL,
  FVG__PICKLE_STRING,
  FVG__PICKLE_TUPLE,
  FVG__PICKLE_LIST,
  FVG__PICKLE_DICT,
  FVG__PICKLE_OBJECT,
  FVG__PICKLE_GLOBAL,                /* a name in fvg__globals                                   */
  FVG__PICKLE_STORAGE,
  FVG__PICKLE_TENSOR,
  FVG__PICKLE_OTHER                  /* a value that is ignored                                  */
} fvg__pickle_type;

/* Containers are linked lists of cells.  A dictionary's cells are in turn a key and its value. */
typedef struct fvg__pickle_cell {
  int value;                         /* index of a value                                         */
  int next;                          /* index of the next cell, -1 for none                      */
} fvg__pickle_cell;

typedef struct fvg__pickle_value {
  fvg__pickle_type type;
  int first, last;                   /* a container's cells, -1 for none.  Of others `first` alone,
                                        the index of a value: an object's attributes, a storage's
                                        description, or a tensor's arguments                     */
  int n;                             /* a container's cells; a string's bytes                    */
  int64_t whole;                     /* a whole number; a boolean's 0 or 1; a string's offset in
                                        the pickle; a name's index in fvg__globals               */
  double real;
} fvg__pickle_value;

typedef struct fvg__instruction {
  const fvg__opcode *op;
  uint64_t number;                   /* the argument, or the length of the bytes that follow     */
  size_t at;                         /* where those bytes begin; of GLOBAL: its first line       */
  size_t second, end;                /* of GLOBAL: where its second line begins and ends         */
} fvg__instruction;

typedef struct fvg__pickle {
  const fvg__zip *zip;
  fvg_weights *w;
  uint8_t *byte;                     /* [n] the whole pickle                                     */
  size_t n;
  size_t at;                         /* the next byte to be read                                 */
  int capacity;                      /* instructions; every array below has room for as many     */
  fvg__pickle_value *value;          /* [n_value]; NULL in the first run                         */
  fvg__pickle_cell *cell;            /* [n_cell]                                                 */
  int *stack;                        /* [n_stack] indices of values                              */
  int *mark;                         /* [n_mark] heights of the stack                            */
  int *memo;                         /* [capacity] index of a value plus 1, 0 for none           */
  int n_value, n_cell, n_stack, n_mark;
  int n_memo;                        /* places of the memo in use                                */
} fvg__pickle;

static fvg_status fvg__pickle_error(const fvg__pickle *p, const char *what) {
  return fvg_fail(p->w->c, FVG_E_FORMAT,
                  "%s: " FVG__PICKLE_NAME ", before byte %zu: %s",
                  p->w->file, p->at, what);
}

/* Moves p->at to the end of the line that begins there; *end is the offset of its newline. */
static fvg_status fvg__pickle_line(fvg__pickle *p, size_t *end) {
  const void *newline = memchr(p->byte + p->at, '\n', p->n - p->at);
  if (!newline) return fvg__pickle_error(p, "a name without an end");

  *end = (size_t)((const uint8_t *)newline - p->byte);
  p->at = *end + 1;
  return FVG_OK;
}

/* Reads the instruction at p->at and moves to its end, with all that belongs to it. */
static fvg_status fvg__pickle_next(fvg__pickle *p, fvg__instruction *i) {
  memset(i, 0, sizeof *i);
  if (p->at >= p->n)
    return fvg__pickle_error(p, "the pickle ends too early");

  const int code = p->byte[p->at];
  i->op = fvg__find_opcode(code);
  if (!i->op) {
    char what[64];
    fvg__print(what, sizeof what, "instruction 0x%02x is not one that torch.save writes",
             (unsigned)code);
    return fvg__pickle_error(p, what);
  }

  const size_t n_argument = (size_t)i->op->argument;
  if (n_argument > p->n - p->at - 1)
    return fvg__pickle_error(p, "the pickle ends too early");
  i->number = fvg__little(p->byte + p->at + 1, n_argument);
  p->at += 1 + n_argument;
  i->at = p->at;

  if (i->op->is_length) {
    if (i->number > p->n - p->at)
      return fvg__pickle_error(p, "a string is longer than the pickle");
    p->at += (size_t)i->number;
  }
  if (code != FVG__OP_GLOBAL) return FVG_OK;

  /* A name is two lines: the module, and the name in it. */
  size_t first_end = 0;
  fvg_status s = fvg__pickle_line(p, &first_end);
  if (s) return s;
  i->number = first_end - i->at;
  i->second = p->at;
  return fvg__pickle_line(p, &i->end);
}

/* ---- pickle: the machine ---- */
/* Makes a value and returns its index. */
static int fvg__pickle_new(fvg__pickle *p, fvg__pickle_type type) {
  fvg__pickle_value *v = &p->value[p->n_value];
  v->type = type;
  v->first = -1;
  v->last = -1;
  return p->n_value++;
}

static fvg__pickle_value *fvg__pickle_push(fvg__pickle *p, fvg__pickle_type type) {
  int index = fvg__pickle_new(p, type);
  p->stack[p->n_stack++] = index;
  return &p->value[index];
}

static void fvg__pickle_append(fvg__pickle *p, fvg__pickle_value *container, int value) {
  const int index = p->n_cell++;
  fvg__pickle_cell *cell = &p->cell[index];
  cell->value = value;
  cell->next = -1;

  if (container->last < 0) container->first = index;
  else p->cell[container->last].next = index;
  container->last = index;
  container->n++;
}

/* Moves the values of the stack from `from` on into the container. */
static void fvg__pickle_gather(fvg__pickle *p, fvg__pickle_value *container, int from) {
  for (int i = from; i < p->n_stack; i++)
    fvg__pickle_append(p, container, p->stack[i]);
  p->n_stack = from;
}

static void fvg__pickle_tuple(fvg__pickle *p, int from) {
  int index = fvg__pickle_new(p, FVG__PICKLE_TUPLE);
  fvg__pickle_gather(p, &p->value[index], from);
  p->stack[p->n_stack++] = index;
}

/* The value that lies so many places below the top of the stack. */
static fvg__pickle_value *fvg__pickle_top(const fvg__pickle *p, int below) {
  return &p->value[p->stack[p->n_stack - 1 - below]];
}

/* The signed number in the low `bits` bits of x, in two's complement. */
static int64_t fvg__sign_extend(uint64_t x, unsigned bits) {
  if (bits > 0 && bits < 64) {
    int negative = x >> (bits - 1) != 0;
    if (negative) x |= ~(uint64_t)0 << bits;
  }
  int64_t result;
  memcpy(&result, &x, sizeof result);
  return result;
}

/* A double, whose 8 bytes are the only big-endian ones in a pickle. */
static void fvg__pickle_real(fvg__pickle *p, const fvg__instruction *i) {
  const uint8_t *byte = p->byte + i->at - 8;
  uint64_t bits = 0;
  for (int k = 0; k < 8; k++)
    bits = bits << 8 | byte[k];

  fvg__pickle_value *v = fvg__pickle_push(p, FVG__PICKLE_REAL);
  memcpy(&v->real, &bits, sizeof v->real);
}

/* A whole number of any length; one of more than 8 bytes is ignored. */
static void fvg__pickle_long(fvg__pickle *p, const fvg__instruction *i) {
  if (i->number > 8) {
    fvg__pickle_push(p, FVG__PICKLE_OTHER);
    return;
  }
  const size_t n = (size_t)i->number;
  uint64_t bits = fvg__little(p->byte + i->at, n);
  fvg__pickle_push(p, FVG__PICKLE_WHOLE)->whole = fvg__sign_extend(bits, 8 * (unsigned)n);
}

static void fvg__pickle_string(fvg__pickle *p, const fvg__instruction *i) {
  fvg__pickle_value *v = fvg__pickle_push(p, FVG__PICKLE_STRING);
  v->whole = (int64_t)i->at;
  v->n = (int)i->number;
}

/* Pushes the table's entry for a name; a name that is not in the table is an error. */
static fvg_status fvg__pickle_global(fvg__pickle *p, const uint8_t *module, size_t n_module,
                                     const uint8_t *name, size_t n_name) {
  char one[FVG__LEGIBLE], two[FVG__LEGIBLE], joined[2 * FVG__LEGIBLE];
  fvg__legible(module, n_module, one);
  fvg__legible(name, n_name, two);
  fvg__print(joined, sizeof joined, "%s.%s", one, two);

  int found = fvg__find_global(joined);
  if (found < 0)
    return fvg_fail(p->w->c, FVG_E_FORMAT,
                    "%s: the pickle asks for %s; only tensors and plain containers are read",
                    p->w->file, joined);
  fvg__pickle_push(p, FVG__PICKLE_GLOBAL)->whole = found;
  return FVG_OK;
}

static fvg_status fvg__pickle_stack_global(fvg__pickle *p) {
  const fvg__pickle_value *module = fvg__pickle_top(p, 1);
  const fvg__pickle_value *name = fvg__pickle_top(p, 0);
  p->n_stack -= 2;

  if (module->type != FVG__PICKLE_STRING || name->type != FVG__PICKLE_STRING)
    return fvg__pickle_error(p, "a name that is not a string");
  return fvg__pickle_global(p, p->byte + module->whole, (size_t)module->n,
                            p->byte + name->whole, (size_t)name->n);
}

/* Replaces a name and the tuple of its arguments, on top of it, by what the table says that a call
   gives. */
static fvg_status fvg__pickle_call(fvg__pickle *p) {
  const fvg__pickle_value *callee = fvg__pickle_top(p, 1);
  const fvg__pickle_value *arguments = fvg__pickle_top(p, 0);
  const int arguments_index = p->stack[p->n_stack - 1];
  p->n_stack -= 2;

  if (callee->type != FVG__PICKLE_GLOBAL || arguments->type != FVG__PICKLE_TUPLE)
    return fvg__pickle_error(p, "a call of something other than a known name, or without a tuple "
                                "of arguments");
  const int first = arguments->n ? p->cell[arguments->first].value : -1;

  switch (fvg__globals[callee->whole].role) {
    case FVG__MAKES_DICT:
      /* A defaultdict is called with the class of its defaults; a dictionary's
         content comes later. */
      if (first >= 0 && p->value[first].type != FVG__PICKLE_GLOBAL)
        return fvg__pickle_error(p, "a dictionary made from something else");
      fvg__pickle_push(p, FVG__PICKLE_DICT);
      return FVG_OK;

    case FVG__MAKES_OBJECT:
      fvg__pickle_push(p, FVG__PICKLE_OBJECT);
      return FVG_OK;

    case FVG__MAKES_TENSOR:
      fvg__pickle_push(p, FVG__PICKLE_TENSOR)->first = arguments_index;
      return FVG_OK;

    case FVG__MAKES_OTHER:
      fvg__pickle_push(p, FVG__PICKLE_OTHER);
      return FVG_OK;

    case FVG__GIVES_ARGUMENT:
      if (first < 0) return fvg__pickle_error(p, "a call without arguments");
      p->stack[p->n_stack++] = first;
      return FVG_OK;

    case FVG__IS_STORAGE:
      break;
  }
  return fvg__pickle_error(p, "a call of a storage type");
}

/* Gives the attributes on top to the object below; those of a dictionary or tensor hold no
   weights. */
static void fvg__pickle_build(fvg__pickle *p) {
  fvg__pickle_value *v = fvg__pickle_top(p, 1);
  p->n_stack--;
  if (v->type == FVG__PICKLE_OBJECT)
    v->first = p->stack[p->n_stack];
}

/* Replaces the description of a storage on top by the storage. */
static void fvg__pickle_storage(fvg__pickle *p) {
  int description = p->stack[--p->n_stack];
  fvg__pickle_push(p, FVG__PICKLE_STORAGE)->first = description;
}

/* Moves the values of the stack from `from` on into the container of that type below them. */
static fvg_status fvg__pickle_items(fvg__pickle *p, int from, fvg__pickle_type type) {
  fvg__pickle_value *container = &p->value[p->stack[from - 1]];
  if (container->type == FVG__PICKLE_OTHER) {
    p->n_stack = from;
    return FVG_OK;
  }

  if (container->type != type)
    return fvg__pickle_error(p, "items for something that is no container of their kind");
  if (type == FVG__PICKLE_DICT && (p->n_stack - from) % 2)
    return fvg__pickle_error(p, "a key without a value");
  fvg__pickle_gather(p, container, from);
  return FVG_OK;
}

/* The height of the stack at the last mark. */
static int fvg__pickle_floor(const fvg__pickle *p) {
  return p->n_mark ? p->mark[p->n_mark - 1] : 0;
}

/* Instructions that use all values above the last mark, and take the mark away. */
static fvg_status fvg__pickle_marked(fvg__pickle *p, int code) {
  if (!p->n_mark) return fvg__pickle_error(p, "no mark on the stack");
  const int from = p->mark[--p->n_mark];

  if (code == FVG__OP_TUPLE) {
    fvg__pickle_tuple(p, from);
    return FVG_OK;
  }
  if (code == FVG__OP_POP_MARK) {
    p->n_stack = from;
    return FVG_OK;
  }

  if (from <= fvg__pickle_floor(p)) return fvg__pickle_error(p, "too little on the stack");
  int is_list = code == FVG__OP_APPENDS;
  return fvg__pickle_items(p, from, is_list ? FVG__PICKLE_LIST : FVG__PICKLE_DICT);
}

/* Keeps the value on top in a place of the memo. */
static fvg_status fvg__pickle_remember(fvg__pickle *p, uint64_t place) {
  if (place >= (uint64_t)p->capacity)
    return fvg__pickle_error(p, "the memo has fewer places than that");

  if (!p->memo[place]) p->n_memo++;
  p->memo[place] = p->stack[p->n_stack - 1] + 1;
  return FVG_OK;
}

static fvg_status fvg__pickle_recall(fvg__pickle *p, uint64_t place) {
  if (place >= (uint64_t)p->capacity || !p->memo[place])
    return fvg__pickle_error(p, "the memo holds nothing there");
  p->stack[p->n_stack++] = p->memo[place] - 1;
  return FVG_OK;
}

/* Instructions that push one value, made from their argument alone.  FRAME, which says how much to
   read at once, does nothing here, and neither does STOP. */
static void fvg__pickle_push_literal(fvg__pickle *p, const fvg__instruction *i) {
  switch (i->op->code) {
    case FVG__OP_NONE:        fvg__pickle_push(p, FVG__PICKLE_NONE); break;
    case FVG__OP_NEWTRUE:     fvg__pickle_push(p, FVG__PICKLE_BOOL)->whole = 1; break;
    case FVG__OP_NEWFALSE:    fvg__pickle_push(p, FVG__PICKLE_BOOL); break;
    case FVG__OP_EMPTY_LIST:  fvg__pickle_push(p, FVG__PICKLE_LIST); break;
    case FVG__OP_EMPTY_DICT:  fvg__pickle_push(p, FVG__PICKLE_DICT); break;
    case FVG__OP_EMPTY_TUPLE: fvg__pickle_push(p, FVG__PICKLE_TUPLE); break;

    case FVG__OP_BININT1:
    case FVG__OP_BININT2:
      fvg__pickle_push(p, FVG__PICKLE_WHOLE)->whole = (int64_t)i->number;
      break;
    case FVG__OP_BININT:
      fvg__pickle_push(p, FVG__PICKLE_WHOLE)->whole = fvg__sign_extend(i->number, 32);
      break;
    case FVG__OP_LONG1:
    case FVG__OP_LONG4:
      fvg__pickle_long(p, i);
      break;
    case FVG__OP_BINFLOAT:
      fvg__pickle_real(p, i);
      break;

    case FVG__OP_SHORT_BINSTRING:
    case FVG__OP_BINSTRING:
    case FVG__OP_SHORT_BINUNICODE:
    case FVG__OP_BINUNICODE:
    case FVG__OP_BINUNICODE8:
      fvg__pickle_string(p, i);
      break;
    case FVG__OP_SHORT_BINBYTES:
    case FVG__OP_BINBYTES:
    case FVG__OP_BINBYTES8:
      fvg__pickle_push(p, FVG__PICKLE_OTHER);
      break;
    default:
      break;
  }
}

/* Instructions that only move values: on the stack, and between it and the memo; the others push a
   literal. */
static fvg_status fvg__pickle_move(fvg__pickle *p, const fvg__instruction *i) {
  switch (i->op->code) {
    case FVG__OP_MARK:
      p->mark[p->n_mark++] = p->n_stack;
      return FVG_OK;
    case FVG__OP_POP:
      p->n_stack--;
      return FVG_OK;
    case FVG__OP_DUP:
      p->stack[p->n_stack] = p->stack[p->n_stack - 1];
      p->n_stack++;
      return FVG_OK;

    case FVG__OP_BINPUT:
    case FVG__OP_LONG_BINPUT:
      return fvg__pickle_remember(p, i->number);
    case FVG__OP_MEMOIZE:
      return fvg__pickle_remember(p, (uint64_t)p->n_memo);
    case FVG__OP_BINGET:
    case FVG__OP_LONG_BINGET:
      return fvg__pickle_recall(p, i->number);

    default:
      fvg__pickle_push_literal(p, i);
      return FVG_OK;
  }
}

/* Carries out one instruction. */
static fvg_status fvg__pickle_execute(fvg__pickle *p, const fvg__instruction *i) {
  const int code = i->op->code;
  if (p->n_stack - fvg__pickle_floor(p) < i->op->needs)
    return fvg__pickle_error(p, "too little on the stack");

  switch (code) {
    case FVG__OP_PROTO:
      if (i->number >= 2 && i->number <= 5) return FVG_OK;
      return fvg__pickle_error(p, "a protocol other than 2 to 5");

    case FVG__OP_TUPLE1:
    case FVG__OP_TUPLE2:
    case FVG__OP_TUPLE3:
      fvg__pickle_tuple(p, p->n_stack - i->op->needs);
      return FVG_OK;
    case FVG__OP_TUPLE:
    case FVG__OP_APPENDS:
    case FVG__OP_SETITEMS:
    case FVG__OP_POP_MARK:
      return fvg__pickle_marked(p, code);
    case FVG__OP_APPEND:
      return fvg__pickle_items(p, p->n_stack - 1, FVG__PICKLE_LIST);
    case FVG__OP_SETITEM:
      return fvg__pickle_items(p, p->n_stack - 2, FVG__PICKLE_DICT);

    case FVG__OP_GLOBAL:
      return fvg__pickle_global(p, p->byte + i->at, (size_t)i->number,
                                p->byte + i->second, i->end - i->second);
    case FVG__OP_STACK_GLOBAL:
      return fvg__pickle_stack_global(p);
    case FVG__OP_REDUCE:
    case FVG__OP_NEWOBJ:
      return fvg__pickle_call(p);
    case FVG__OP_BUILD:
      fvg__pickle_build(p);
      return FVG_OK;
    case FVG__OP_BINPERSID:
      fvg__pickle_storage(p);
      return FVG_OK;

    default:
      return fvg__pickle_move(p, i);
  }
}

/* Runs the pickle: without arrays it counts instructions, with them it leaves the
   result's index in *root. */
static fvg_status fvg__pickle_run(fvg__pickle *p, int *root) {
  const int counting = !p->value;
  p->at = 0;
  if (p->n == 0 || p->byte[0] != FVG__OP_PROTO)
    return fvg__pickle_error(p, "not a pickle of protocol 2 or later");

  for (;;) {
    fvg__instruction i;
    fvg_status s = fvg__pickle_next(p, &i);
    if (!s && counting) p->capacity++;
    if (!s && !counting) s = fvg__pickle_execute(p, &i);
    if (s) return s;
    if (i.op->code == FVG__OP_STOP) break;
  }

  if (!counting) *root = p->stack[p->n_stack - 1];
  return FVG_OK;
}

/* Reads data.pkl and runs it; what it allocates is given back by fvg__pickle_free, also after a
   failure. */
static fvg_status fvg__pickle_load(fvg__pickle *p, int *root) {
  const fvg__zip_entry *e = p->zip->pickle;
  fvg_ctx *c = p->w->c;
  fvg_status s = fvg__zip_must_be_stored(p->zip, e);
  if (s) return s;

  if (e->packed > INT32_MAX / 2)
    return fvg_fail(c, FVG_E_UNSUPPORTED,
                    "%s: a pickle of %llu bytes; 1 GiB is the limit",
                    p->w->file, (fvg__long)e->packed);
  p->n = (size_t)e->packed;
  p->byte = (uint8_t *)fvg_alloc(c, p->n);
  if (!p->byte) return FVG_E_NOMEM;

  s = fvg__source_read(c, &p->w->source, p->byte, e->begin, p->n);
  if (!s) s = fvg__pickle_run(p, root);
  if (s) return s;

  const size_t capacity = (size_t)p->capacity;
  p->cell = FVG_NEW_ARRAY(c, fvg__pickle_cell, capacity);
  p->stack = FVG_NEW_ARRAY(c, int, capacity);
  p->mark = FVG_NEW_ARRAY(c, int, capacity);
  p->memo = FVG_NEW_ARRAY(c, int, capacity);
  p->value = FVG_NEW_ARRAY(c, fvg__pickle_value, capacity);
  if (!p->cell || !p->stack || !p->mark || !p->memo || !p->value)
    return FVG_E_NOMEM;
  return fvg__pickle_run(p, root);
}

static void fvg__pickle_free(fvg__pickle *p) {
  fvg_ctx *c = p->w->c;
  fvg_release(c, p->byte);
  fvg_release(c, p->value);
  fvg_release(c, p->cell);
  fvg_release(c, p->stack);
  fvg_release(c, p->mark);
  fvg_release(c, p->memo);
}

/*==================================================================================================
 * CHAPTER 5  PYTORCH FILES: tensors and their names in a pickle
 *==================================================================================================
   This chapter gives the pickle's tree its meaning.  A tensor is a storage, an offset, a shape and
   strides.  The storage's numbers are a member of the archive (chapter 4), so a tensor becomes
   what it is in a safetensors file: a name, a type, a shape and the bytes from begin to end, with
   strides if it is not row-major.

     name       the keys on the way down, joined by dots, without DataParallel's "module."
     state_dict in the outermost dictionary adds nothing to the names; what only a continued
                training needs, optimizer and scheduler, is then left out, so that a bare
                dictionary of tensors and a checkpoint of Dassl read the same
     metadata   the outermost dictionary's strings and numbers, such as Dassl's epoch

   The walk goes down the tree twice, once to count and once to fill.  Its depth and length are
   limited: a graph that would unfold into a huge tree, or that contains itself, is refused.

   fvg_weights_open_any looks at the first bytes and opens what it finds: a safetensors file or such
   an archive.  The format that torch.save wrote before 1.6 gives an error that says what to do. */

/* ---- a tensor's place in the file ---- */
static const fvg__pickle_value *fvg__pickle_cell_value(const fvg__pickle *p, int cell) {
  return &p->value[p->cell[cell].value];
}

/* Element i of a tuple or list if it is of that type; else NULL. */
static const fvg__pickle_value *fvg__pickle_element(const fvg__pickle *p,
                                                    const fvg__pickle_value *v, int i,
                                                    fvg__pickle_type type) {
  if (!v) return NULL;
  if (v->type != FVG__PICKLE_TUPLE && v->type != FVG__PICKLE_LIST) return NULL;

  int cell = v->first;
  for (int k = 0; k < i && cell >= 0; k++)
    cell = p->cell[cell].next;
  if (cell < 0) return NULL;

  const fvg__pickle_value *element = fvg__pickle_cell_value(p, cell);
  return element->type == type ? element : NULL;
}

static int fvg__pickle_is(const fvg__pickle *p, const fvg__pickle_value *v, const char *word) {
  const size_t n = strlen(word);
  if (v->type != FVG__PICKLE_STRING || (size_t)v->n != n)
    return 0;
  return memcmp(p->byte + v->whole, word, n) == 0;
}

typedef struct fvg__storage {
  const fvg__zip_entry *member;      /* holds its bytes                                          */
  uint64_t count;                    /* elements                                                 */
  size_t size;                       /* bytes of an element                                      */
} fvg__storage;

/* Finds a tensor's storage, which the pickle describes as ('storage', type, key, place, count), and
   writes its dtype into e. */
static fvg_status fvg__tensor_storage(const fvg__pickle *p, fvg__weight *e,
                                      const fvg__pickle_value *v, fvg__storage *storage) {
  fvg_weights *w = p->w;
  const fvg__pickle_value *id = v ? &p->value[v->first] : NULL;
  const fvg__pickle_value *word = fvg__pickle_element(p, id, 0, FVG__PICKLE_STRING);
  const fvg__pickle_value *type = fvg__pickle_element(p, id, 1, FVG__PICKLE_GLOBAL);
  const fvg__pickle_value *key = fvg__pickle_element(p, id, 2, FVG__PICKLE_STRING);
  const fvg__pickle_value *count = fvg__pickle_element(p, id, 4, FVG__PICKLE_WHOLE);

  int is_storage = word && fvg__pickle_is(p, word, "storage");
  int is_type = type && fvg__globals[type->whole].role == FVG__IS_STORAGE;
  if (!is_storage || !is_type || !key || !count || count->whole < 0)
    return fvg_fail(w->c, FVG_E_FORMAT,
                    "%s: tensor %.100s: its storage is not "
                    "('storage', type, key, place, count)", w->file, e->name);

  storage->size = fvg__weight_dtype(e, fvg__globals[type->whole].dtype);
  storage->count = (uint64_t)count->whole;

  const uint8_t *name = p->byte + key->whole;
  char text[FVG__LEGIBLE];
  fvg__legible(name, (size_t)key->n, text);
  storage->member = fvg__zip_find(p->zip, "data/", name, (size_t)key->n);
  if (!storage->member)
    return fvg_fail(w->c, FVG_E_FORMAT,
                    "%s: tensor %.100s: the archive has no data/%s",
                    w->file, e->name, text);

  uint64_t bytes = storage->member->packed;
  if (storage->count > bytes / storage->size)
    return fvg_fail(w->c, FVG_E_FORMAT,
                    "%s: tensor %.100s: a storage of %llu %s, but data/%s has %llu bytes",
                    w->file, e->name, (fvg__long)storage->count, e->dtype, text, (fvg__long)bytes);
  return fvg__zip_must_be_stored(p->zip, storage->member);
}

/* Writes shape and strides into e, and whether they mean another order than row-major. */
static fvg_status fvg__tensor_shape(const fvg__pickle *p, fvg__weight *e,
                                    const fvg__pickle_value *shape,
                                    const fvg__pickle_value *stride) {
  fvg_weights *w = p->w;
  if (!shape || !stride || shape->n != stride->n)
    return fvg_fail(w->c, FVG_E_FORMAT,
                    "%s: tensor %.100s: shape and strides are not two tuples of one length",
                    w->file, e->name);
  if (shape->n > FVG_MAX_DIM)
    return fvg_fail(w->c, FVG_E_UNSUPPORTED,
                    "%s: tensor %.100s: %d dimensions, %d is the limit",
                    w->file, e->name, shape->n, FVG_MAX_DIM);
  e->shape.n_dim = shape->n;

  /* In row-major order a dimension's stride is the product of the dimensions after it. */
  uint64_t row_major = 1;
  for (int i = shape->n - 1; i >= 0; i--) {
    const fvg__pickle_value *dim = fvg__pickle_element(p, shape, i, FVG__PICKLE_WHOLE);
    const fvg__pickle_value *step = fvg__pickle_element(p, stride, i, FVG__PICKLE_WHOLE);
    int bad_dim = !dim || dim->whole < 0 || dim->whole > INT32_MAX;
    int bad_step = !step || step->whole < 0;
    if (bad_dim || bad_step)
      return fvg_fail(w->c, FVG_E_FORMAT,
                      "%s: tensor %.100s: dimension %d or its stride makes no sense",
                      w->file, e->name, i);

    e->shape.dim[i] = (int)dim->whole;
    e->stride[i] = (uint64_t)step->whole;
    if (e->shape.dim[i] != 1 && e->stride[i] != row_major)
      e->strided = 1;
    row_major *= (uint64_t)dim->whole;       /* this may wrap; such a shape is refused later     */
  }
  return FVG_OK;
}

/* The index in its storage of the last element that a tensor without empty dimensions reaches.
   Returns `count`, which is one too far, if that or a step on the way lies outside the storage. */
static uint64_t fvg__tensor_furthest(const fvg__weight *e, uint64_t offset, uint64_t count) {
  uint64_t last = offset;
  for (int i = 0; i < e->shape.n_dim && last < count; i++) {
    uint64_t steps = (uint64_t)e->shape.dim[i] - 1;
    uint64_t left = count - 1 - last;
    if (steps && e->stride[i] > left / steps) return count;
    last += steps * e->stride[i];
  }
  return last < count ? last : count;
}

/* Writes the bytes of the file that a tensor reaches, from its element `offset` of the storage on,
   into e. */
static fvg_status fvg__tensor_span(const fvg__pickle *p, fvg__weight *e,
                                   const fvg__storage *storage, uint64_t offset, uint64_t bytes) {
  fvg_weights *w = p->w;
  char text[FVG__SHAPE_TEXT];
  fvg__shape_text(&e->shape, text);

  uint64_t last = fvg__tensor_furthest(e, offset, storage->count);
  if (last >= storage->count)
    return fvg_fail(w->c, FVG_E_FORMAT,
                    "%s: tensor %.100s: shape %s with its strides, from element %llu on, "
                    "leaves its storage of %llu",
                    w->file, e->name, text, (fvg__long)offset, (fvg__long)storage->count);

  /* A stride of 0 repeats elements, so a tensor can be larger than the file that it is in. */
  if (bytes > w->source.size)
    return fvg_fail(w->c, FVG_E_UNSUPPORTED,
                    "%s: tensor %.100s: shape %s repeats its elements to more bytes than "
                    "the file has; save its contiguous copy", w->file, e->name, text);

  e->begin = storage->member->begin + offset * storage->size;
  e->end = storage->member->begin + (last + 1) * storage->size;
  if (e->end - e->begin > (size_t)-1 / 2)
    return fvg_fail(w->c, FVG_E_NOMEM,
                    "%s: tensor %.100s: its storage does not fit in memory",
                    w->file, e->name);
  return FVG_OK;
}

/* Fills e from a tensor in the pickle, whose arguments are (storage, offset, shape, strides,
   ...). */
static fvg_status fvg__tensor_place(const fvg__pickle *p, fvg__weight *e,
                                    const fvg__pickle_value *v) {
  fvg_weights *w = p->w;
  const fvg__pickle_value *arguments = &p->value[v->first];
  const fvg__pickle_value *from = fvg__pickle_element(p, arguments, 0, FVG__PICKLE_STORAGE);
  const fvg__pickle_value *offset = fvg__pickle_element(p, arguments, 1, FVG__PICKLE_WHOLE);
  const fvg__pickle_value *shape = fvg__pickle_element(p, arguments, 2, FVG__PICKLE_TUPLE);
  const fvg__pickle_value *stride = fvg__pickle_element(p, arguments, 3, FVG__PICKLE_TUPLE);

  fvg__storage storage;
  memset(&storage, 0, sizeof storage);
  fvg_status s = fvg__tensor_storage(p, e, from, &storage);
  if (!s) s = fvg__tensor_shape(p, e, shape, stride);
  if (s) return s;

  uint64_t bytes = 0;
  char text[FVG__SHAPE_TEXT];
  if (!offset || offset->whole < 0 || fvg__checked_bytes(&e->shape, storage.size, &bytes))
    return fvg_fail(w->c, FVG_E_FORMAT,
                    "%s: tensor %.100s: shape %s is too large, or its offset is no whole number",
                    w->file, e->name, fvg__shape_text(&e->shape, text));

  /* An empty tensor reaches no element, so its offset may be anything. */
  if (bytes)
    return fvg__tensor_span(p, e, &storage, (uint64_t)offset->whole, bytes);
  e->begin = storage.member->begin;
  e->end = e->begin;
  e->strided = 0;
  return FVG_OK;
}

/* ---- names ---- */
#define FVG__PICKLE_DEPTH 64         /* containers within containers                             */
#define FVG__NAME_BYTES 512          /* of the longest name                                      */
#define FVG__STATE_DICT "state_dict"

typedef struct fvg__naming {
  const fvg__pickle *p;
  fvg_weights *w;                    /* receives tensors and metadata                            */
  int fill;                          /* 0 in the first run, which counts                         */
  int n_tensor, n_metadata;          /* found so far, as all counts here                         */
  int work;                          /* values visited, a tensor counting as 4                   */
  size_t n_text;                     /* bytes of all names and metadata, with closing zeros      */
  size_t n_path;
  char path[FVG__NAME_BYTES];        /* [n_path] the keys down to here, joined by dots           */
} fvg__naming;

/* The shortest decimal number of at least 15 digits that reads back as x; returns its length. */
static int fvg__real_text(double x, char number[32]) {
  int n = 0;
  for (int digits = 15; digits <= 17; digits++) {
    double back = 0;
    n = fvg__print(number, 32, "%.*g", digits, x);
    if (fvg__read_number(number, &back) && back == x) break;
  }
  return n;
}

/* Sets *s to the text of a string or number and returns its length; -1 if the value is neither. */
static int fvg__pickle_text(const fvg__pickle *p, const fvg__pickle_value *v, char number[32],
                            const char **s) {
  *s = number;
  switch (v->type) {
    case FVG__PICKLE_STRING:
      *s = (const char *)p->byte + v->whole;
      return v->n;
    case FVG__PICKLE_WHOLE:
    case FVG__PICKLE_BOOL:
      return fvg__print(number, 32, "%lld", (long long)v->whole);
    case FVG__PICKLE_REAL:
      return fvg__real_text(v->real, number);
    default:
      return -1;
  }
}

/* Copies a text to w's strings, with a closing 0; NULL in the first run, which only counts. */
static const char *fvg__naming_copy(fvg__naming *naming, const char *s, size_t n) {
  char *to = NULL;
  if (naming->fill) {
    to = naming->w->json.strings + naming->n_text;
    memcpy(to, s, n);
  }
  naming->n_text += n + 1;
  return to;
}

/* A text must be UTF-8 without a zero in it. */
static fvg_status fvg__naming_check(const fvg__naming *naming, const char *s, size_t n) {
  if (!n || (!memchr(s, 0, n) && fvg__is_utf8(s, n))) return FVG_OK;

  char text[FVG__LEGIBLE];
  return fvg_fail(naming->w->c, FVG_E_FORMAT,
                  "%s: \"%s\" in the pickle is not UTF-8, or holds a zero", naming->w->file,
                  fvg__legible((const uint8_t *)s, n, text));
}

/* Adds a key, which is a string or a whole number, to the path. */
static fvg_status fvg__naming_descend(fvg__naming *naming, const fvg__pickle_value *key) {
  fvg_weights *w = naming->w;
  char number[32];
  const char *s = NULL;
  int length = -1;
  if (key->type == FVG__PICKLE_STRING || key->type == FVG__PICKLE_WHOLE)
    length = fvg__pickle_text(naming->p, key, number, &s);
  if (length < 0)
    return fvg_fail(w->c, FVG_E_FORMAT,
                    "%s: a dictionary in the pickle has a key that is neither a string nor a whole "
                    "number",
                    w->file);

  const size_t n = (size_t)length;
  fvg_status status = fvg__naming_check(naming, s, n);
  if (status) return status;
  if (naming->n_path + 1 + n > sizeof naming->path)
    return fvg_fail(w->c, FVG_E_FORMAT,
                    "%s: a name in the pickle is longer than %d bytes",
                    w->file, FVG__NAME_BYTES);

  if (naming->n_path) naming->path[naming->n_path++] = '.';
  memcpy(naming->path + naming->n_path, s, n);
  naming->n_path += n;
  return FVG_OK;
}

/* Counts a tensor, or fills the next one of w. */
static fvg_status fvg__naming_tensor(fvg__naming *naming, const fvg__pickle_value *v) {
  const char *name = naming->path;
  size_t n = naming->n_path;

  /* DataParallel puts "module." before all names.  A file that is one tensor has no name for it. */
  if (n > 7 && memcmp(name, "module.", 7) == 0) {
    name += 7;
    n -= 7;
  }
  if (!n) {
    name = "tensor";
    n = 6;
  }

  name = fvg__naming_copy(naming, name, n);
  if (!naming->fill) {
    naming->n_tensor++;
    return FVG_OK;
  }
  fvg__weight *e = &naming->w->weight[naming->w->n++];
  e->name = name;
  return fvg__tensor_place(naming->p, e, v);
}

static fvg_status fvg__naming_walk(fvg__naming *naming, int index, int depth);

/* Walks through a container's values; in tuples and lists the key is the value's number. */
static fvg_status fvg__naming_walk_container(fvg__naming *naming, const fvg__pickle_value *v,
                                             int depth) {
  const fvg__pickle *p = naming->p;
  const size_t n_path = naming->n_path;
  fvg__pickle_value number;
  memset(&number, 0, sizeof number);
  number.type = FVG__PICKLE_WHOLE;

  int cell = v->first;
  while (cell >= 0) {
    const fvg__pickle_value *key = &number;
    if (v->type == FVG__PICKLE_DICT) {
      key = fvg__pickle_cell_value(p, cell);
      cell = p->cell[cell].next;
    }

    fvg_status s = fvg__naming_descend(naming, key);
    if (!s)
      s = fvg__naming_walk(naming, p->cell[cell].value, depth + 1);
    if (s) return s;

    naming->n_path = n_path;
    cell = p->cell[cell].next;
    number.whole++;
  }
  return FVG_OK;
}

/* Walks through the tree below a value.  A part that several containers share is visited once in
   each, so the work is limited to what the pickle's instructions could have built: a tensor takes
   more than 4, any other value one. */
static fvg_status fvg__naming_walk(fvg__naming *naming, int index, int depth) {
  const fvg__pickle *p = naming->p;
  const fvg__pickle_value *v = &p->value[index];

  naming->work += v->type == FVG__PICKLE_TENSOR ? 4 : 1;
  int too_much = naming->work > p->capacity || naming->n_text > 4096 + 8 * p->n;
  if (too_much || depth > FVG__PICKLE_DEPTH)
    return fvg_fail(naming->w->c, FVG_E_FORMAT,
                    "%s: the pickle is nested more than %d deep, or repeats its parts too often",
                    naming->w->file, FVG__PICKLE_DEPTH);

  switch (v->type) {
    case FVG__PICKLE_TENSOR:
      return fvg__naming_tensor(naming, v);
    case FVG__PICKLE_OBJECT:
      if (v->first < 0) return FVG_OK;
      return fvg__naming_walk(naming, v->first, depth + 1);
    case FVG__PICKLE_TUPLE:
    case FVG__PICKLE_LIST:
    case FVG__PICKLE_DICT:
      return fvg__naming_walk_container(naming, v, depth);
    default:
      return FVG_OK;
  }
}

/* Counts a string or number as metadata, with the path as its key, or writes it into w's header. */
static fvg_status fvg__naming_metadata(fvg__naming *naming, const fvg__pickle_value *v) {
  char number[32];
  const char *text;
  int n = fvg__pickle_text(naming->p, v, number, &text);
  if (n < 0) return FVG_OK;
  fvg_status s = fvg__naming_check(naming, text, (size_t)n);
  if (s) return s;

  const char *key = fvg__naming_copy(naming, naming->path, naming->n_path);
  const char *value = fvg__naming_copy(naming, text, (size_t)n);
  const int index = ++naming->n_metadata;    /* value 0 is the object that holds them all        */
  if (!naming->fill) return FVG_OK;

  fvg_json_value *object = &naming->w->json.value[0];
  fvg_json_value *entry = &naming->w->json.value[index];
  entry->type = FVG_JSON_STRING;
  entry->key = key;
  entry->string = value;
  entry->first = -1;
  entry->next = index < object->n_child ? index + 1 : -1;
  return FVG_OK;
}

/* The index of a dictionary, or of the dictionary of an object's attributes; -1 if the value is
   neither. */
static int fvg__pickle_dictionary(const fvg__pickle *p, int index) {
  if (p->value[index].type == FVG__PICKLE_OBJECT)
    index = p->value[index].first;
  if (index < 0) return -1;
  return p->value[index].type == FVG__PICKLE_DICT ? index : -1;
}

static int fvg__has_state_dict(const fvg__pickle *p, int dictionary) {
  int cell = p->value[dictionary].first;
  while (cell >= 0) {
    const fvg__pickle_value *key = fvg__pickle_cell_value(p, cell);
    cell = p->cell[cell].next;
    if (fvg__pickle_is(p, key, FVG__STATE_DICT) &&
        fvg__pickle_dictionary(p, p->cell[cell].value) >= 0) return 1;
    cell = p->cell[cell].next;
  }
  return 0;
}

/* Walks through the outermost dictionary, where there may be a state_dict and metadata. */
static fvg_status fvg__naming_run(fvg__naming *naming, int root) {
  const fvg__pickle *p = naming->p;
  naming->n_text = 0;
  naming->n_path = 0;
  naming->n_tensor = 0;
  naming->n_metadata = 0;
  naming->work = 0;

  const int top = fvg__pickle_dictionary(p, root);
  if (top < 0) return fvg__naming_walk(naming, root, 0);
  const int has_state = fvg__has_state_dict(p, top);

  int cell = p->value[top].first;
  while (cell >= 0) {
    const fvg__pickle_value *key = fvg__pickle_cell_value(p, cell);
    cell = p->cell[cell].next;
    const int index = p->cell[cell].value;
    cell = p->cell[cell].next;

    int to_train_on = fvg__pickle_is(p, key, "optimizer") || fvg__pickle_is(p, key, "scheduler");
    if (has_state && to_train_on) continue;

    fvg_status s = FVG_OK;
    int adds_no_name = has_state && fvg__pickle_is(p, key, FVG__STATE_DICT);
    if (!adds_no_name) s = fvg__naming_descend(naming, key);
    if (!s) s = fvg__naming_metadata(naming, &p->value[index]);
    if (!s) s = fvg__naming_walk(naming, index, 1);
    if (s) return s;
    naming->n_path = 0;
  }
  return FVG_OK;
}

/* Fills w with the tree's tensors, and with a header of its own making for their names and the
   metadata. */
static fvg_status fvg__name_tensors(const fvg__pickle *p, int root) {
  fvg_weights *w = p->w;
  fvg__naming naming;
  memset(&naming, 0, sizeof naming);
  naming.p = p;
  naming.w = w;
  fvg_status s = fvg__naming_run(&naming, root);
  if (s) return s;

  const int n_value = 1 + naming.n_metadata;
  w->weight = FVG_NEW_ARRAY(w->c, fvg__weight, (size_t)naming.n_tensor);
  w->json.value = FVG_NEW_ARRAY(w->c, fvg_json_value, (size_t)n_value);
  w->json.strings = (char *)fvg_alloc(w->c, naming.n_text + 1);
  if (!w->weight || !w->json.value || !w->json.strings)
    return FVG_E_NOMEM;

  fvg_json_value *object = &w->json.value[0];
  object->type = FVG_JSON_OBJECT;
  object->string = "";
  object->n_child = naming.n_metadata;
  object->first = naming.n_metadata ? 1 : -1;
  object->next = -1;
  w->json.n = n_value;
  w->metadata = 0;

  naming.fill = 1;
  s = fvg__naming_run(&naming, root);
  if (s) return s;
  return fvg__weights_sort_names(w);
}

/* Reads a zip archive's pickle and fills w from it. */
static fvg_status fvg__weights_read_pytorch(fvg_weights *w) {
  fvg__zip zip;
  memset(&zip, 0, sizeof zip);
  zip.w = w;

  fvg__pickle p;
  memset(&p, 0, sizeof p);
  p.w = w;
  p.zip = &zip;

  int root = 0;
  fvg_status s = fvg__zip_open(&zip);
  if (!s) s = fvg__zip_byte_order(&zip);
  if (!s) s = fvg__pickle_load(&p, &root);
  if (!s) s = fvg__name_tensors(&p, root);

  fvg__pickle_free(&p);
  fvg__zip_close(&zip);
  return s;
}

/* The length of a safetensors header may happen to read "PK\3\4", but its byte 8 is a brace, where
   a zip archive has the number of its compression method. */
static fvg_status fvg__weights_read_any(fvg_weights *w) {
  uint8_t first[9] = {0};
  const size_t n = w->source.size < sizeof first ? (size_t)w->source.size : sizeof first;
  fvg_status s = fvg__source_read(w->c, &w->source, first, 0, n);
  if (s) return s;

  int is_zip = memcmp(first, "PK\3\4", 4) == 0 && first[8] != '{';
  return is_zip ? fvg__weights_read_pytorch(w) : fvg__weights_read_header(w);
}

FVG_DEF fvg_status fvg_weights_open_any(fvg_ctx *c, fvg_weights **out, const fvg_source *s) {
  return fvg__weights_open(c, out, s, fvg__weights_read_any);
}

FVG__SELDOM_RUN_END

/*==================================================================================================
 * CHAPTER 6  KERNELS: the product's tile, softmax, layer norm, gelu
 *==================================================================================================
   Nine tenths of a transformer's time goes into one operation, out = A B.  Softmax, layer norm and
   two gelus, which work on one row at a time, take most of the rest.

   Each kernel is written twice.  The first version is plain C: it is the one to read, and every
   other version is tested against it.  The second is written over a vector type V, and its text is
   compiled once per instruction set: SSE2, NEON and WASM (4 lanes), AVX2 (8), AVX-512 (16).  To do
   so the header includes itself with V, LANES and a few arithmetic words defined (see "one body,
   many instruction sets" at the end of this chapter).  fvg_init asks the CPU which of them it can
   run, so one plain `cc -O2` build is fast everywhere.

   The matrix product is computed in tiles of 14 rows x 2 vectors of results, or 6 x 2 on CPUs with
   16 registers.  A tile's sums stay in registers while k runs.  Every k multiplies one row of B,
   two vectors, by 14 numbers of A: 28 multiply-adds for 2 + 14 loads.

             B   k ->  [ vector 0 | vector 1 ]
                             |          |
       A   a[0][k]  ----  sum[0][0]  sum[0][1]
           a[1][k]  ----  sum[1][0]  sum[1][1]          sum[r][v] += a[r][k] * b[k][v]
             ...             ...        ...
           a[13][k] ----  sum[13][0] sum[13][1]

   Chapter 7 cuts a whole product into such tiles. */

static int fvg__min(int a, int b) { return a < b ? a : b; }

/* The widest tile of all levels, in columns. */
#ifdef FVG__X86_SIMD
#define FVG__PANEL_COLS 32
#else
#define FVG__PANEL_COLS 16
#endif

/* What the sums of a row begin with. */
static const float fvg__zeros[FVG__PANEL_COLS] = {0};

/* One tile of a product.  For r < rows and j < cols:

     out[r][j] = sum_k a[r a_row + k a_k] panel[k tile_cols + j] + bias[j] + from[r ld_from + j]

   With `goes_on` the sums begin with what out holds, the sums over an earlier part of k, instead of
   with zeros; then all tile_cols columns must be there.  While the sums are made, the kernel
   prefetches the memory at `ahead`, ahead_step floats further at every k. */
typedef struct fvg__tile {
  int rows, cols, depth;            /* depth: the range of k                                      */
  int goes_on;
  ptrdiff_t a_row, a_k;             /* strides of A, in floats                                    */
  ptrdiff_t ld_from, ld_out;        /* floats from one row to the next                            */
  ptrdiff_t ahead_step;
  const float *a, *panel;
  const float *from, *bias, *ahead; /* each may be NULL; from may be out                          */
  float *out;
} fvg__tile;

/* The kernels of one instruction set.  Every pointer after gemm_tile and transpose works on one
   row of n numbers, n >= 1. */
struct fvg__kernels {
  int level;                        /* an fvg_simd                                                */
  int tile_rows, tile_cols;         /* shape of a full tile                                       */

  void (*gemm_tile)(const fvg__tile *t);

  /* to[j ld_to + i] = from[i ld_from + j]  for i < rows, j < cols */
  void (*transpose)(int rows, int cols, const float *from, ptrdiff_t ld_from,
                    float *to, ptrdiff_t ld_to);

  /* even[i] = pairs[i][0], odd[i] = pairs[i][1]: bfloat16 as floats; n is the width of a panel */
  void (*widen_pairs)(int n, const uint16_t *pairs, float *even, float *odd);

  /* p = softmax(scale x); returns ln sum_i exp(scale x_i).  p may be x. */
  float (*softmax)(int n, const float *x, float scale, float *p);

  /* y = (x - mean) rstd gain + bias,  rstd = 1 / sqrt(var + eps) */
  void (*layer_norm)(int n, const float *x, const float *gain, const float *bias, float eps,
                     float *y, float *mean, float *rstd);

  /* y += x */
  void (*add)(int n, const float *x, float *y);

  /* y = x Phi(x), exact (not the tanh approximation) */
  void (*gelu)(int n, const float *x, float *y);

  /* y = x s,  with s = sigmoid(1.702 x) */
  void (*quick_gelu)(int n, const float *x, float *y);

  /* sum_i x_i y_i */
  float (*dot)(int n, const float *x, const float *y);
};

/* The kernels that gradients alone need.  They have a table of their own, so that the linker can
   leave them out of a program that asks for no gradient. */
typedef struct fvg__gradient_kernels {
  /* y = exp(scale x - shift) */
  void (*exp_scaled)(int n, const float *x, float scale, float shift, float *y);

  /* dx += rstd (g - m(g) - n m(g n)),  with g = dy gain, n = (x - mean) rstd, and m(.) the mean
     over the row */
  void (*layer_norm_backward)(int n, const float *x, const float *gain, const float *dy,
                              float mean, float rstd, float *dx);

  /* dx += dy (Phi(x) + x phi(x)) */
  void (*gelu_backward)(int n, const float *x, const float *dy, float *dx);

  /* dx += dy s (1 + 1.702 x (1 - s)) */
  void (*quick_gelu_backward)(int n, const float *x, const float *dy, float *dx);
} fvg__gradient_kernels;

/* ---- the reference, in plain C ---- */
#define FVG__SCALAR_COLS 16

/* One row of the tile after another. */
static void fvg__gemm_tile_scalar(const fvg__tile *t) {
  for (int r = 0; r < t->rows; r++) {
    const float *a = t->a + r * t->a_row;
    float *out = t->out + r * t->ld_out;
    float sum[FVG__SCALAR_COLS] = {0};
    if (t->goes_on) memcpy(sum, out, sizeof sum);

    for (int k = 0; k < t->depth; k++) {
      float a_rk = a[k * t->a_k];
      const float *b_k = t->panel + k * FVG__SCALAR_COLS;
      for (int j = 0; j < FVG__SCALAR_COLS; j++)
        sum[j] += a_rk * b_k[j];
    }

    for (int j = 0; j < t->cols; j++) {
      if (t->bias)
        sum[j] += t->bias[j];
      if (t->from)
        sum[j] += t->from[r * t->ld_from + j];
      out[j] = sum[j];
    }
  }
}

static void fvg__transpose_scalar(int rows, int cols, const float *from, ptrdiff_t ld_from,
                                  float *to, ptrdiff_t ld_to) {
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < cols; j++)
      to[j * ld_to + i] = from[i * ld_from + j];
}

static void fvg__widen_pairs_scalar(int n, const uint16_t *pairs, float *even, float *odd) {
  for (int i = 0; i < n; i++) {
    even[i] = fvg_bfloat_to_float(pairs[2 * i]);
    odd[i] = fvg_bfloat_to_float(pairs[2 * i + 1]);
  }
}

static float fvg__softmax_scalar(int n, const float *x, float scale, float *p) {
  /* exp(x - max) cannot overflow. */
  float max = x[0] * scale;
  for (int i = 1; i < n; i++)
    if (x[i] * scale > max) max = x[i] * scale;

  float sum = 0;
  for (int i = 0; i < n; i++) {
    p[i] = expf(x[i] * scale - max);
    sum += p[i];
  }

  for (int i = 0; i < n; i++)
    p[i] /= sum;
  return max + logf(sum);
}

static void fvg__exp_scaled_scalar(int n, const float *x, float scale, float shift, float *y) {
  for (int i = 0; i < n; i++)
    y[i] = expf(x[i] * scale - shift);
}

/* The variance takes a second pass, since E[x^2] - E[x]^2 in one pass loses digits. */
static void fvg__layer_norm_scalar(int n, const float *x, const float *gain, const float *bias,
                                   float eps, float *y, float *mean, float *rstd) {
  float sum = 0;
  for (int i = 0; i < n; i++)
    sum += x[i];
  *mean = sum / (float)n;

  float sum2 = 0;
  for (int i = 0; i < n; i++)
    sum2 += (x[i] - *mean) * (x[i] - *mean);
  *rstd = 1.0f / sqrtf(sum2 / (float)n + eps);

  for (int i = 0; i < n; i++)
    y[i] = (x[i] - *mean) * *rstd * gain[i] + bias[i];
}

static void fvg__layer_norm_backward_scalar(int n, const float *x, const float *gain,
                                            const float *dy, float mean, float rstd, float *dx) {
  float mean_g = 0;
  float mean_gn = 0;
  for (int i = 0; i < n; i++) {
    mean_g += dy[i] * gain[i];
    mean_gn += dy[i] * gain[i] * (x[i] - mean) * rstd;
  }
  mean_g /= (float)n;
  mean_gn /= (float)n;

  for (int i = 0; i < n; i++)
    dx[i] += rstd * (dy[i] * gain[i] - mean_g - (x[i] - mean) * rstd * mean_gn);
}

static void fvg__add_scalar(int n, const float *x, float *y) {
  for (int i = 0; i < n; i++)
    y[i] += x[i];
}

/* Phi, the distribution function of N(0, 1), and phi = Phi', its density. */
static float fvg__normal_cdf(float x) {
  return 0.5f * erfcf(-0.70710678f * x);
}

static float fvg__normal_pdf(float x) {
  return 0.39894228f * expf(-0.5f * x * x);
}

static float fvg__sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

static void fvg__gelu_scalar(int n, const float *x, float *y) {
  for (int i = 0; i < n; i++)
    y[i] = x[i] * fvg__normal_cdf(x[i]);
}

static void fvg__gelu_backward_scalar(int n, const float *x, const float *dy, float *dx) {
  for (int i = 0; i < n; i++)
    dx[i] += dy[i] * (fvg__normal_cdf(x[i]) + x[i] * fvg__normal_pdf(x[i]));
}

static void fvg__quick_gelu_scalar(int n, const float *x, float *y) {
  for (int i = 0; i < n; i++)
    y[i] = x[i] * fvg__sigmoid(1.702f * x[i]);
}

static void fvg__quick_gelu_backward_scalar(int n, const float *x, const float *dy, float *dx) {
  for (int i = 0; i < n; i++) {
    float s = fvg__sigmoid(1.702f * x[i]);
    dx[i] += dy[i] * s * (1.0f + 1.702f * x[i] * (1.0f - s));
  }
}

static float fvg__dot_scalar(int n, const float *x, const float *y) {
  float sum = 0;
  for (int i = 0; i < n; i++)
    sum += x[i] * y[i];
  return sum;
}

static const fvg__kernels fvg__kernels_scalar = {
  FVG_SIMD_SCALAR,
  4, FVG__SCALAR_COLS,
  fvg__gemm_tile_scalar,
  fvg__transpose_scalar,
  fvg__widen_pairs_scalar,
  fvg__softmax_scalar,
  fvg__layer_norm_scalar,
  fvg__add_scalar,
  fvg__gelu_scalar,
  fvg__quick_gelu_scalar,
  fvg__dot_scalar
};

static const fvg__gradient_kernels fvg__gradient_kernels_scalar = {
  fvg__exp_scaled_scalar,
  fvg__layer_norm_backward_scalar,
  fvg__gelu_backward_scalar,
  fvg__quick_gelu_backward_scalar
};
#endif /* FVG__PART_ONE */

#ifdef FVG__STAMP_BODY
/* ---- the same kernels over vectors; this text is compiled once per instruction set ---- */
#define FVG__LOAD_N  FVG__NAME(load_n)
#define FVG__STORE_N FVG__NAME(store_n)

#if FVG__LANES == 4
/* The first n of four numbers.  Loading sets the others to 0; storing leaves them as they are.
   Instruction sets with wider vectors do this by masks. */
static inline FVG__V FVG__NAME(load_n)(const float *p, int n) {
  if (n >= 4) return FVG__LOAD(p);

  float lane[4] = {0};
  for (int i = 0; i < n; i++)
    lane[i] = p[i];
  return FVG__LOAD(lane);
}

static inline void FVG__NAME(store_n)(float *p, int n, FVG__V v) {
  if (n >= 4) {
    FVG__STORE(p, v);
    return;
  }

  float lane[4];
  FVG__STORE(lane, v);
  for (int i = 0; i < n; i++)
    p[i] = lane[i];
}
#endif

/* Every kernel ends with this, but for transpose, whose vectors have four lanes.  While the upper
   halves of AVX's registers are in use, Intel's CPUs take longer for SSE instructions, with which
   the code between kernels computes: to encode a picture with weights of eight bits took 15 % more
   time.  gcc clears them itself from -O2 on, but neither under -Os nor at -O1, at which the tiles
   are compiled. */
FVG__TARGET FVG__ALWAYS_INLINE void FVG__NAME(clear_upper_halves)(void) {
#if FVG__LANES > 4
  _mm256_zeroupper();
#endif
}

/* Sum and maximum of the lanes, always taken in the same order. */
FVG__TARGET static inline float FVG__NAME(lanes_sum)(FVG__V v) {
  float lane[FVG__LANES];
  FVG__STORE(lane, v);

  float sum = 0;
  for (int i = 0; i < FVG__LANES; i++)
    sum += lane[i];
  return sum;
}

/* Each half has its own chain of comparisons, for one alone would keep softmax waiting. */
FVG__TARGET static inline float FVG__NAME(lanes_max)(FVG__V v) {
  float lane[FVG__LANES];
  FVG__STORE(lane, v);

  const float *upper = lane + FVG__LANES / 2;
  float max = lane[0];
  float max_of_upper = upper[0];
  for (int i = 1; i < FVG__LANES / 2; i++) {
    max = lane[i] > max ? lane[i] : max;
    max_of_upper = upper[i] > max_of_upper ? upper[i] : max_of_upper;
  }
  return max_of_upper > max ? max_of_upper : max;
}

/* e^x = 2^n e^r  with n = round(x / ln 2) and |r| <= ln 2 / 2.  A polynomial gives e^r as
   1 + r + r^2 P(r), P of degree 4, with a relative error below 2e-7 (tests/test_kernels.c measures
   it).  The result for x < -87 is 1e-38, so a masked -inf does no harm. */
FVG__TARGET static inline FVG__V FVG__NAME(exp)(FVG__V x) {
  /* A NaN stays a NaN because it is the second operand both times. */
  x = FVG__MAX(FVG__SET1(-87.0f), x);
  x = FVG__MIN(FVG__SET1(88.0f), x);

  /* A float near 1.5 * 2^23 has no bits for a fraction, so the sum is rounded to an integer. */
  FVG__V n = FVG__FMA(x, FVG__SET1(1.44269504f), FVG__SET1(12582912.0f));
  n = FVG__SUB(n, FVG__SET1(12582912.0f));

  /* r = x - n ln 2, with ln 2 in two parts: n times the first part, a short number, is exact. */
  FVG__V r = FVG__FMA(n, FVG__SET1(-0.693145752f), x);
  r = FVG__FMA(n, FVG__SET1(-1.42860677e-6f), r);

  FVG__V p = FVG__SET1(0.00139337f);
  p = FVG__FMA(p, r, FVG__SET1(0.00836318f));
  p = FVG__FMA(p, r, FVG__SET1(0.04166646f));
  p = FVG__FMA(p, r, FVG__SET1(0.16666577f));
  p = FVG__FMA(p, r, FVG__SET1(0.5f));

  FVG__V one_plus_r = FVG__ADD(r, FVG__SET1(1.0f));
  FVG__V e_r = FVG__FMA(p, FVG__MUL(r, r), one_plus_r);
  return FVG__MUL(e_r, FVG__NAME(pow2)(n));
}

/* Phi(x) = erfc(-x / sqrt 2) / 2.  For z >= 0, erfc(z) = t P(t) exp(-z^2) with t = 1 / (1 + z/2)
   and P a polynomial of degree 7, a Chebyshev fit over 0 <= z <= 4.2.  The absolute error of Phi is
   below 3e-7. */
FVG__TARGET static inline FVG__V FVG__NAME(normal_cdf)(FVG__V x) {
  FVG__V zero = FVG__SET1(0);
  FVG__V one = FVG__SET1(1.0f);

  /* z = |x| / sqrt 2 */
  FVG__V minus_z = FVG__MUL(FVG__MIN(x, FVG__SUB(zero, x)), FVG__SET1(0.70710678f));
  FVG__V t = FVG__DIV(one, FVG__FMA(minus_z, FVG__SET1(-0.5f), one));

  FVG__V p = FVG__SET1(-0.0466651991f);
  p = FVG__FMA(p, t, FVG__SET1(0.315755636f));
  p = FVG__FMA(p, t, FVG__SET1(-0.820295155f));
  p = FVG__FMA(p, t, FVG__SET1(0.900059462f));
  p = FVG__FMA(p, t, FVG__SET1(-0.290691704f));
  p = FVG__FMA(p, t, FVG__SET1(0.404796839f));
  p = FVG__FMA(p, t, FVG__SET1(0.252600491f));
  p = FVG__FMA(p, t, FVG__SET1(0.284439623f));

  /* The tail below -|x|: Phi itself for negative x, 1 - Phi for others. */
  FVG__V gauss = FVG__NAME(exp)(FVG__SUB(zero, FVG__MUL(minus_z, minus_z)));
  FVG__V half_t = FVG__MUL(t, FVG__SET1(0.5f));
  FVG__V tail = FVG__MUL(FVG__MUL(p, half_t), gauss);
  return FVG__NAME(select_negative)(x, tail, FVG__SUB(one, tail));
}

/* M(r) for each row r of a full tile. */
#if FVG__TILE_ROWS == 14
#define FVG__EACH_ROW(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12) M(13)
#else
#define FVG__EACH_ROW(M) M(0) M(1) M(2) M(3) M(4) M(5)
#endif

/* What sum_rows below does for row r, whose two sums are the variables s<r>0 and s<r>1: read what
   they begin with, add a times the panel's row b0, b1 to them, and store them. */
#define FVG__SUMS(r) \
  FVG__V s##r##0 = FVG__SET1(0); \
  FVG__V s##r##1 = FVG__SET1(0); \
  if (!FVG__FOR_SIZE && rows > r) { \
    s##r##0 = FVG__LOAD(begin + r * ld_begin); \
    s##r##1 = FVG__LOAD(begin + r * ld_begin + FVG__LANES); \
  }
#define FVG__STEP(r, a) \
  if (rows > r) { \
    FVG__V number = FVG__SET1(a); \
    s##r##0 = FVG__FMA(number, b0, s##r##0); \
    s##r##1 = FVG__FMA(number, b1, s##r##1); \
  }
#define FVG__KEEP(r) \
  if (rows > r) { \
    FVG__STORE(sum + r * ld_sum, s##r##0); \
    FVG__STORE(sum + r * ld_sum + FVG__LANES, s##r##1); \
  }

FVG__TILES_BEGIN

/* sum[r ld_sum + 0..2 LANES-1] = begin[same of r] + sum_k a[r row + k step] panel[k]  for r < rows.
   Here `begin` is out, or one row of zeros for all; under -Os it is always zero.

   `rows` is a constant for the compiler, which drops the steps of rows that are not there.  The
   sums are named variables because compilers would spill an array to memory.  From 4 rows on, two
   sums a row are enough to hide the latency of a multiply-add.  Every third row has a pointer, from
   which the next two are addressed, so 14 rows need only five pointers.  Each number of A goes
   through a register to its two multiply-adds.  AVX-512 can broadcast it from memory to each, in
   fewer instructions; but where ten of 14 rows did so, 26 loads stood beside 28 multiply-adds, and
   products took 5 to 10 % longer. */
FVG__TARGET FVG__ALWAYS_INLINE void FVG__NAME(sum_rows)(const fvg__tile *t, const int rows,
                                                        float *sum, ptrdiff_t ld_sum) {
  const float *begin = t->goes_on ? t->out : fvg__zeros;
  const ptrdiff_t ld_begin = t->goes_on ? t->ld_out : 0;
  FVG__EACH_ROW(FVG__SUMS)

  const ptrdiff_t row = t->a_row, step = t->a_k;
  const float *panel = t->panel;
  const float *ahead = t->ahead;
  const float *a0 = t->a;
  const float *a3 = rows > 3 ? a0 + 3 * row : a0;
#if FVG__TILE_ROWS == 14
  const float *a6 = rows > 6 ? a0 + 6 * row : a0;
  const float *a9 = rows > 9 ? a0 + 9 * row : a0;
  const float *a12 = rows > 12 ? a0 + 12 * row : a0;
#endif
  ptrdiff_t ahead_step = t->ahead_step;
  int depth = t->depth;

  for (int k = 0; k < depth; k++) {
    FVG__V b0 = FVG__LOAD(panel);
    FVG__V b1 = FVG__LOAD(panel + FVG__LANES);
    panel += 2 * FVG__LANES;

    FVG__PREFETCH(ahead);
    ahead += ahead_step;

    FVG__STEP(0, a0[0])
    FVG__STEP(1, a0[row])
    FVG__STEP(2, a0[2 * row])
    FVG__STEP(3, a3[0])
    FVG__STEP(4, a3[row])
    FVG__STEP(5, a3[2 * row])
    a0 += step;
    if (rows > 3) a3 += step;

#if FVG__TILE_ROWS == 14
    FVG__STEP(6, a6[0])
    FVG__STEP(7, a6[row])
    FVG__STEP(8, a6[2 * row])
    FVG__STEP(9, a9[0])
    FVG__STEP(10, a9[row])
    FVG__STEP(11, a9[2 * row])
    FVG__STEP(12, a12[0])
    FVG__STEP(13, a12[row])
    if (rows > 6) a6 += step;
    if (rows > 9) a9 += step;
    if (rows > 12) a12 += step;
#endif
  }

  FVG__EACH_ROW(FVG__KEEP)
}

#ifdef __OPTIMIZE_SIZE__
/* Small code: rows that do not fill a tile are taken by fours and ones, which is three bodies
   instead of one for each number of rows. */
FVG__TARGET static void FVG__NAME(sum_in_parts)(const fvg__tile *t, float *sum,
                                                ptrdiff_t ld_sum) {
  fvg__tile part = *t;
  int n = 0;

  for (int left = t->rows; left > 0; left -= n) {
    if (left == FVG__TILE_ROWS) FVG__NAME(sum_rows)(&part, n = FVG__TILE_ROWS, sum, ld_sum);
    else if (left >= 4) FVG__NAME(sum_rows)(&part, n = 4, sum, ld_sum);
    else FVG__NAME(sum_rows)(&part, n = 1, sum, ld_sum);
    part.a += n * part.a_row;
    sum += n * ld_sum;
  }
}
#endif

/* The tile itself: sums over k, then bias and `from`, then the result.  A whole tile of sums that
   nothing is added to, as attention needs them, goes straight to the result, but not under -Os. */
FVG__TARGET static void FVG__NAME(gemm_tile)(const fvg__tile *t) {
  /* The lines of `out` are fetched while the sums are made. */
  for (int r = 0; r < t->rows; r++) {
    const float *out = t->out + r * t->ld_out;
    FVG__PREFETCH_TO_WRITE(out);
    FVG__PREFETCH_TO_WRITE(out + FVG__LANES);
  }

  float kept[FVG__TILE_ROWS * 2 * FVG__LANES];
  int is_plain = !FVG__FOR_SIZE && !t->bias && !t->from && t->cols == 2 * FVG__LANES;
  float *sum = is_plain ? t->out : kept;
  ptrdiff_t ld_sum = is_plain ? t->ld_out : 2 * FVG__LANES;

#ifdef __OPTIMIZE_SIZE__
  FVG__NAME(sum_in_parts)(t, sum, ld_sum);
#else
  /* There is a copy of sum_rows for each number of rows. */
#define FVG__CASE(r) case r + 1: FVG__NAME(sum_rows)(t, r + 1, sum, ld_sum); break;
  switch (t->rows) {
    FVG__EACH_ROW(FVG__CASE)
  }
#undef FVG__CASE
#endif

  int kept_rows = is_plain ? 0 : t->rows;
  for (int r = 0; r < kept_rows; r++)
    for (int j = 0; j < t->cols; j += FVG__LANES) {
      int lanes = fvg__min(FVG__LANES, t->cols - j);
      FVG__V v = FVG__LOAD(kept + 2 * r * FVG__LANES + j);

      if (t->bias)
        v = FVG__ADD(v, FVG__LOAD_N(t->bias + j, lanes));
      if (t->from)
        v = FVG__ADD(v, FVG__LOAD_N(t->from + r * t->ld_from + j, lanes));
      FVG__STORE_N(t->out + r * t->ld_out + j, lanes, v);
    }
  FVG__NAME(clear_upper_halves)();
}

FVG__TILES_END

/* Whole vectors come first, the numbers that are left after them: in the maximum, the sum and the
   division alike. */
FVG__TARGET static float FVG__NAME(softmax)(int n, const float *x, float scale, float *p) {
  FVG__V s = FVG__SET1(scale);
  int left = n % FVG__LANES;
  int whole = n - left;

  FVG__V v_max = FVG__SET1(x[0] * scale);
  for (int i = 0; i < whole; i += FVG__LANES)
    v_max = FVG__MAX(v_max, FVG__MUL(FVG__LOAD(x + i), s));
  float max = FVG__NAME(lanes_max)(v_max);
  for (int i = whole; i < n; i++)
    if (x[i] * scale > max) max = x[i] * scale;

  FVG__V v_sum = FVG__SET1(0);
  for (int i = 0; i < whole; i += FVG__LANES) {
    FVG__V scaled = FVG__MUL(FVG__LOAD(x + i), s);
    FVG__V e = FVG__NAME(exp)(FVG__SUB(scaled, FVG__SET1(max)));
    FVG__STORE(p + i, e);
    v_sum = FVG__ADD(v_sum, e);
  }

  float tail = 0;
  if (left) {
    FVG__V scaled = FVG__MUL(FVG__LOAD_N(x + whole, left), s);
    FVG__STORE_N(p + whole, left, FVG__NAME(exp)(FVG__SUB(scaled, FVG__SET1(max))));
    for (int i = whole; i < n; i++)
      tail += p[i];
  }

  float sum = FVG__NAME(lanes_sum)(v_sum) + tail;
  for (int i = 0; i < whole; i += FVG__LANES)
    FVG__STORE(p + i, FVG__DIV(FVG__LOAD(p + i), FVG__SET1(sum)));
  for (int i = whole; i < n; i++)
    p[i] /= sum;
  FVG__NAME(clear_upper_halves)();
  return max + logf(sum);
}

FVG__TARGET static void FVG__NAME(exp_scaled)(int n, const float *x, float scale, float shift,
                                              float *y) {
  for (int i = 0; i < n; i += FVG__LANES) {
    int lanes = fvg__min(FVG__LANES, n - i);
    FVG__V scaled = FVG__MUL(FVG__LOAD_N(x + i, lanes), FVG__SET1(scale));
    FVG__V e = FVG__NAME(exp)(FVG__SUB(scaled, FVG__SET1(shift)));
    FVG__STORE_N(y + i, lanes, e);
  }
  FVG__NAME(clear_upper_halves)();
}

/* As in plain C, one pass for the mean and a second for the variance. */
FVG__TARGET static void FVG__NAME(layer_norm)(int n, const float *x, const float *gain,
                                              const float *bias, float eps, float *y,
                                              float *mean, float *rstd) {
  int whole = n - n % FVG__LANES;

  FVG__V v_sum = FVG__SET1(0);
  for (int i = 0; i < whole; i += FVG__LANES)
    v_sum = FVG__ADD(v_sum, FVG__LOAD(x + i));
  float sum = 0;
  for (int i = whole; i < n; i++)
    sum += x[i];
  *mean = (sum + FVG__NAME(lanes_sum)(v_sum)) / (float)n;

  FVG__V m = FVG__SET1(*mean);
  FVG__V v_sum2 = FVG__SET1(0);
  for (int i = 0; i < whole; i += FVG__LANES) {
    FVG__V d = FVG__SUB(FVG__LOAD(x + i), m);
    v_sum2 = FVG__FMA(d, d, v_sum2);
  }
  float sum2 = 0;
  for (int i = whole; i < n; i++)
    sum2 += (x[i] - *mean) * (x[i] - *mean);
  *rstd = 1.0f / sqrtf((sum2 + FVG__NAME(lanes_sum)(v_sum2)) / (float)n + eps);

  for (int i = 0; i < n; i += FVG__LANES) {
    int lanes = fvg__min(FVG__LANES, n - i);
    FVG__V d = FVG__MUL(FVG__SUB(FVG__LOAD_N(x + i, lanes), m), FVG__SET1(*rstd));
    FVG__V gained = FVG__FMA(d, FVG__LOAD_N(gain + i, lanes), FVG__LOAD_N(bias + i, lanes));
    FVG__STORE_N(y + i, lanes, gained);
  }
  FVG__NAME(clear_upper_halves)();
}

/* The first loop makes m(g) and m(g n), the second dx.  In lanes beyond the end of the row g is 0,
   so they add nothing to the sums. */
FVG__TARGET static void FVG__NAME(layer_norm_backward)(int n, const float *x, const float *gain,
                                                       const float *dy, float mean, float rstd,
                                                       float *dx) {
  FVG__V m = FVG__SET1(mean);
  FVG__V r = FVG__SET1(rstd);

  FVG__V sum_g = FVG__SET1(0);
  FVG__V sum_gn = FVG__SET1(0);
  for (int i = 0; i < n; i += FVG__LANES) {
    int lanes = fvg__min(FVG__LANES, n - i);
    FVG__V g = FVG__MUL(FVG__LOAD_N(dy + i, lanes), FVG__LOAD_N(gain + i, lanes));
    FVG__V normed = FVG__MUL(FVG__SUB(FVG__LOAD_N(x + i, lanes), m), r);
    sum_g = FVG__ADD(sum_g, g);
    sum_gn = FVG__FMA(g, normed, sum_gn);
  }
  FVG__V mean_g = FVG__SET1(FVG__NAME(lanes_sum)(sum_g) / (float)n);
  FVG__V mean_gn = FVG__SET1(FVG__NAME(lanes_sum)(sum_gn) / (float)n);

  for (int i = 0; i < n; i += FVG__LANES) {
    int lanes = fvg__min(FVG__LANES, n - i);
    FVG__V g = FVG__MUL(FVG__LOAD_N(dy + i, lanes), FVG__LOAD_N(gain + i, lanes));
    FVG__V normed = FVG__MUL(FVG__SUB(FVG__LOAD_N(x + i, lanes), m), r);
    FVG__V rest = FVG__SUB(FVG__SUB(g, mean_g), FVG__MUL(normed, mean_gn));
    FVG__STORE_N(dx + i, lanes, FVG__FMA(rest, r, FVG__LOAD_N(dx + i, lanes)));
  }
  FVG__NAME(clear_upper_halves)();
}

FVG__TARGET static inline FVG__V FVG__NAME(sigmoid)(FVG__V x) {
  FVG__V e = FVG__NAME(exp)(FVG__SUB(FVG__SET1(0), x));
  return FVG__DIV(FVG__SET1(1.0f), FVG__ADD(FVG__SET1(1.0f), e));
}

/* Where TRANSPOSE, WIDEN_PAIRS and SHARED name them at another instruction set, these are not
   stamped again. */
#ifndef FVG__TRANSPOSE
#define FVG__TRANSPOSE FVG__NAME(transpose)
/* Squares of 4 x 4 numbers are transposed in registers.  Where 4 does not divide a side, the last
   square overlaps the one before.  Sixteen columns, one cache line of a row, are finished before
   the next sixteen begin, since rows a power of two apart share few places in the cache. */
FVG__TARGET static void FVG__NAME(transpose)(int rows, int cols, const float *from,
                                             ptrdiff_t ld_from, float *to, ptrdiff_t ld_to) {
  if (rows < 4 || cols < 4) {
    fvg__transpose_scalar(rows, cols, from, ld_from, to, ld_to);
    return;
  }

  for (int line = 0; line < cols; line += 16)
    for (int i = 0; i < rows; i += 4)
      for (int j = line; j < cols && j < line + 16; j += 4) {
        int i4 = fvg__min(i, rows - 4);
        int j4 = fvg__min(j, cols - 4);
        fvg__transpose_4x4(from + i4 * ld_from + j4, ld_from, to + j4 * ld_to + i4, ld_to);
      }
}
#endif

#ifndef FVG__WIDEN_PAIRS
#define FVG__WIDEN_PAIRS FVG__NAME(widen_pairs)
/* A bfloat16 is the upper half of a float.  The first of a pair is the lower half of a word of 32
   bits, since vectors are compiled for little-endian CPUs only. */
FVG__TARGET static void FVG__NAME(widen_pairs)(int n, const uint16_t *pairs, float *even,
                                               float *odd) {
  const float *words = (const float *)(const void *)pairs;
  for (int i = 0; i < n; i += FVG__LANES) {
    FVG__V word = FVG__LOAD(words + i);
    FVG__STORE(even + i, FVG__LOWER_HALF(word));
    FVG__STORE(odd + i, FVG__UPPER_HALF(word));
  }
  FVG__NAME(clear_upper_halves)();
}
#endif

#ifndef FVG__SHARED
#define FVG__SHARED FVG__NAME
FVG__TARGET static void FVG__NAME(add)(int n, const float *x, float *y) {
  int whole = n - n % FVG__LANES;
  for (int i = 0; i < whole; i += FVG__LANES)
    FVG__STORE(y + i, FVG__ADD(FVG__LOAD(y + i), FVG__LOAD(x + i)));
  for (int i = whole; i < n; i++)
    y[i] += x[i];
  FVG__NAME(clear_upper_halves)();
}

FVG__TARGET static void FVG__NAME(gelu)(int n, const float *x, float *y) {
  for (int i = 0; i < n; i += FVG__LANES) {
    int lanes = fvg__min(FVG__LANES, n - i);
    FVG__V v = FVG__LOAD_N(x + i, lanes);
    FVG__STORE_N(y + i, lanes, FVG__MUL(v, FVG__NAME(normal_cdf)(v)));
  }
  FVG__NAME(clear_upper_halves)();
}

/* Below -50 the vector exp has reached its bound, so sigmoid no longer falls and x times it would
   grow again; x is therefore held at -50. */
FVG__TARGET static void FVG__NAME(quick_gelu)(int n, const float *x, float *y) {
  for (int i = 0; i < n; i += FVG__LANES) {
    int lanes = fvg__min(FVG__LANES, n - i);
    FVG__V v = FVG__MAX(FVG__SET1(-50.0f), FVG__LOAD_N(x + i, lanes));
    FVG__V s = FVG__NAME(sigmoid)(FVG__MUL(v, FVG__SET1(1.702f)));
    FVG__STORE_N(y + i, lanes, FVG__MUL(v, s));
  }
  FVG__NAME(clear_upper_halves)();
}
#endif

FVG__TARGET static void FVG__NAME(gelu_backward)(int n, const float *x, const float *dy,
                                                 float *dx) {
  for (int i = 0; i < n; i += FVG__LANES) {
    int lanes = fvg__min(FVG__LANES, n - i);
    FVG__V v = FVG__LOAD_N(x + i, lanes);

    FVG__V gauss = FVG__NAME(exp)(FVG__MUL(FVG__MUL(v, v), FVG__SET1(-0.5f)));
    FVG__V pdf = FVG__MUL(FVG__SET1(0.39894228f), gauss);
    FVG__V slope = FVG__FMA(v, pdf, FVG__NAME(normal_cdf)(v));

    FVG__V sum = FVG__FMA(FVG__LOAD_N(dy + i, lanes), slope, FVG__LOAD_N(dx + i, lanes));
    FVG__STORE_N(dx + i, lanes, sum);
  }
  FVG__NAME(clear_upper_halves)();
}

FVG__TARGET static void FVG__NAME(quick_gelu_backward)(int n, const float *x, const float *dy,
                                                       float *dx) {
  FVG__V one = FVG__SET1(1.0f);

  for (int i = 0; i < n; i += FVG__LANES) {
    int lanes = fvg__min(FVG__LANES, n - i);
    FVG__V v = FVG__MAX(FVG__SET1(-50.0f), FVG__LOAD_N(x + i, lanes));
    v = FVG__MUL(v, FVG__SET1(1.702f));

    FVG__V s = FVG__NAME(sigmoid)(v);
    FVG__V slope = FVG__MUL(s, FVG__FMA(v, FVG__SUB(one, s), one));

    FVG__V sum = FVG__FMA(FVG__LOAD_N(dy + i, lanes), slope, FVG__LOAD_N(dx + i, lanes));
    FVG__STORE_N(dx + i, lanes, sum);
  }
  FVG__NAME(clear_upper_halves)();
}

FVG__TARGET static float FVG__NAME(dot)(int n, const float *x, const float *y) {
  FVG__V sum = FVG__SET1(0);
  for (int i = 0; i < n; i += FVG__LANES) {
    int lanes = fvg__min(FVG__LANES, n - i);
    sum = FVG__FMA(FVG__LOAD_N(x + i, lanes), FVG__LOAD_N(y + i, lanes), sum);
  }

  /* Some versions of gcc before 12 would add lanes up after they are cleared. */
  volatile float total = FVG__NAME(lanes_sum)(sum);
  FVG__NAME(clear_upper_halves)();
  return total;
}

static const fvg__kernels FVG__NAME(kernels) = {
  FVG__LEVEL,
  FVG__TILE_ROWS, 2 * FVG__LANES,
  FVG__NAME(gemm_tile),
  FVG__TRANSPOSE,
  FVG__WIDEN_PAIRS,
  FVG__NAME(softmax),
  FVG__NAME(layer_norm),
  FVG__SHARED(add),
  FVG__SHARED(gelu),
  FVG__SHARED(quick_gelu),
  FVG__NAME(dot)
};

static const fvg__gradient_kernels FVG__NAME(gradient_kernels) = {
  FVG__NAME(exp_scaled),
  FVG__NAME(layer_norm_backward),
  FVG__NAME(gelu_backward),
  FVG__NAME(quick_gelu_backward)
};

/* The next instruction set defines these words again. */
#undef FVG__LEVEL
#undef FVG__TARGET
#undef FVG__NAME
#undef FVG__SHARED
#undef FVG__TRANSPOSE
#undef FVG__WIDEN_PAIRS
#undef FVG__TILE_ROWS
#undef FVG__V
#undef FVG__LANES
#undef FVG__SET1
#undef FVG__LOAD
#undef FVG__STORE
#undef FVG__LOAD_N
#undef FVG__STORE_N
#undef FVG__ADD
#undef FVG__SUB
#undef FVG__MUL
#undef FVG__DIV
#undef FVG__FMA
#undef FVG__MIN
#undef FVG__MAX
#undef FVG__LOWER_HALF
#undef FVG__UPPER_HALF
#undef FVG__EACH_ROW
#undef FVG__SUMS
#undef FVG__STEP
#undef FVG__KEEP
#endif /* FVG__STAMP_BODY */

#if defined(FVGPT_IMPLEMENTATION) && !defined(FVG__STAMP_BODY) && !defined(FVG__STAMP_NARROW) \
    && !defined(FVG__PART_TWO)
#define FVG__PART_TWO

/* ---- one body, many instruction sets ----
   Each defines the words of the body above, and the functions pow2 (2^n for whole n), where they
   differ select_negative (x < 0 ? if_negative : otherwise, lane by lane) and, with more than four
   lanes, load_n and store_n.  Then it includes the body. */
#ifdef FVG__SIMD
#define FVG__STAMP_BODY
#endif

#ifdef FVG__WASM_SIMD
#define FVG__PREFETCH(p)          ((void)(p))
#define FVG__PREFETCH_TO_WRITE(p) ((void)(p))
#else
#define FVG__PREFETCH(p)          __builtin_prefetch(p, 0, 2)
#define FVG__PREFETCH_TO_WRITE(p) __builtin_prefetch(p, 1, 3)
#endif

#ifdef FVG__X86_SIMD
/* Four rows of four numbers become four columns. */
FVG__ALWAYS_INLINE void fvg__transpose_4x4(const float *from, ptrdiff_t ld_from,
                                           float *to, ptrdiff_t ld_to) {
  __m128 r0 = _mm_loadu_ps(from);
  __m128 r1 = _mm_loadu_ps(from + ld_from);
  __m128 r2 = _mm_loadu_ps(from + 2 * ld_from);
  __m128 r3 = _mm_loadu_ps(from + 3 * ld_from);

  __m128 low01 = _mm_unpacklo_ps(r0, r1);
  __m128 high01 = _mm_unpackhi_ps(r0, r1);
  __m128 low23 = _mm_unpacklo_ps(r2, r3);
  __m128 high23 = _mm_unpackhi_ps(r2, r3);

  _mm_storeu_ps(to, _mm_movelh_ps(low01, low23));
  _mm_storeu_ps(to + ld_to, _mm_movehl_ps(low23, low01));
  _mm_storeu_ps(to + 2 * ld_to, _mm_movelh_ps(high01, high23));
  _mm_storeu_ps(to + 3 * ld_to, _mm_movehl_ps(high23, high01));
}

/* SSE2 has 16 registers, and no instruction that multiplies and adds at once. */
#define FVG__LEVEL         FVG_SIMD_SSE2
#define FVG__TARGET
#define FVG__NAME(x)       fvg__##x##_sse2
#define FVG__TILE_ROWS     6
#define FVG__V             __m128
#define FVG__LANES         4
#define FVG__SET1          _mm_set1_ps
#define FVG__LOAD          _mm_loadu_ps
#define FVG__STORE         _mm_storeu_ps
#define FVG__ADD           _mm_add_ps
#define FVG__SUB           _mm_sub_ps
#define FVG__MUL           _mm_mul_ps
#define FVG__DIV           _mm_div_ps
#define FVG__FMA(a, b, c)  _mm_add_ps(_mm_mul_ps(a, b), c)
#define FVG__MIN           _mm_min_ps
#define FVG__MAX           _mm_max_ps
#define FVG__LOWER_HALF(v) _mm_castsi128_ps(_mm_slli_epi32(_mm_castps_si128(v), 16))
#define FVG__UPPER_HALF(v) _mm_and_ps(v, _mm_castsi128_ps(_mm_set1_epi32(-65536)))

FVG__ALWAYS_INLINE __m128 fvg__pow2_sse2(__m128 n) {
  __m128i exponent = _mm_add_epi32(_mm_cvtps_epi32(n), _mm_set1_epi32(127));
  return _mm_castsi128_ps(_mm_slli_epi32(exponent, 23));
}

FVG__ALWAYS_INLINE __m128 fvg__select_negative_sse2(__m128 x, __m128 if_negative,
                                                    __m128 otherwise) {
  __m128 negative = _mm_cmplt_ps(x, _mm_set1_ps(0));
  return _mm_or_ps(_mm_and_ps(negative, if_negative), _mm_andnot_ps(negative, otherwise));
}
#include "fvgpt.h"

/* AVX2 with FMA: 16 registers. */
#define FVG__LEVEL         FVG_SIMD_AVX2
#define FVG__TARGET        __attribute__((target("avx2,fma")))
#define FVG__NAME(x)       fvg__##x##_avx2
#ifdef __OPTIMIZE_SIZE__
#define FVG__TRANSPOSE     fvg__transpose_sse2
#define FVG__WIDEN_PAIRS   fvg__widen_pairs_sse2
#endif
#define FVG__TILE_ROWS     6
#define FVG__V             __m256
#define FVG__LANES         8
#define FVG__SET1          _mm256_set1_ps
#define FVG__LOAD          _mm256_loadu_ps
#define FVG__STORE         _mm256_storeu_ps
#define FVG__ADD           _mm256_add_ps
#define FVG__SUB           _mm256_sub_ps
#define FVG__MUL           _mm256_mul_ps
#define FVG__DIV           _mm256_div_ps
#define FVG__FMA           _mm256_fmadd_ps
#define FVG__MIN           _mm256_min_ps
#define FVG__MAX           _mm256_max_ps
#define FVG__LOWER_HALF(v) _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(v), 16))
#define FVG__UPPER_HALF(v) _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(-65536)))

FVG__TARGET FVG__ALWAYS_INLINE __m256i fvg__first_lanes_avx2(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

FVG__TARGET FVG__ALWAYS_INLINE __m256 fvg__load_n_avx2(const float *p, int n) {
  return _mm256_maskload_ps(p, fvg__first_lanes_avx2(n));
}

FVG__TARGET FVG__ALWAYS_INLINE void fvg__store_n_avx2(float *p, int n, __m256 v) {
  _mm256_maskstore_ps(p, fvg__first_lanes_avx2(n), v);
}

FVG__TARGET FVG__ALWAYS_INLINE __m256 fvg__pow2_avx2(__m256 n) {
  __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

FVG__TARGET FVG__ALWAYS_INLINE __m256 fvg__select_negative_avx2(__m256 x, __m256 if_negative,
                                                                __m256 otherwise) {
  return _mm256_blendv_ps(otherwise, if_negative, x);
}
#include "fvgpt.h"

/* AVX-512: 32 registers. */
#define FVG__LEVEL         FVG_SIMD_AVX512
#define FVG__TARGET        __attribute__((target("avx512f")))
#define FVG__NAME(x)       fvg__##x##_avx512
#ifdef __OPTIMIZE_SIZE__
#define FVG__SHARED(x)     fvg__##x##_avx2  /* the same bits */
#define FVG__TRANSPOSE     fvg__transpose_sse2
#define FVG__WIDEN_PAIRS   fvg__widen_pairs_sse2
#endif
#define FVG__TILE_ROWS     14
#define FVG__V             __m512
#define FVG__LANES         16
#define FVG__SET1          _mm512_set1_ps
#define FVG__LOAD          _mm512_loadu_ps
#define FVG__STORE         _mm512_storeu_ps
#define FVG__ADD           _mm512_add_ps
#define FVG__SUB           _mm512_sub_ps
#define FVG__MUL           _mm512_mul_ps
#define FVG__DIV           _mm512_div_ps
#define FVG__FMA           _mm512_fmadd_ps
#define FVG__MIN           _mm512_min_ps
#define FVG__MAX           _mm512_max_ps
#define FVG__LOWER_HALF(v) _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(v), 16))
#define FVG__UPPER_HALF(v) \
  _mm512_castsi512_ps(_mm512_and_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(-65536)))

FVG__TARGET FVG__ALWAYS_INLINE __mmask16 fvg__first_lanes_avx512(int n) {
  return (__mmask16)((1 << n) - 1);
}

FVG__TARGET FVG__ALWAYS_INLINE __m512 fvg__load_n_avx512(const float *p, int n) {
  return _mm512_maskz_loadu_ps(fvg__first_lanes_avx512(n), p);
}

FVG__TARGET FVG__ALWAYS_INLINE void fvg__store_n_avx512(float *p, int n, __m512 v) {
  _mm512_mask_storeu_ps(p, fvg__first_lanes_avx512(n), v);
}

FVG__TARGET FVG__ALWAYS_INLINE __m512 fvg__pow2_avx512(__m512 n) {
  __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
}

FVG__TARGET FVG__ALWAYS_INLINE __m512 fvg__select_negative_avx512(__m512 x, __m512 if_negative,
                                                                  __m512 otherwise) {
  __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_set1_ps(0), _CMP_LT_OS);
  return _mm512_mask_blend_ps(negative, otherwise, if_negative);
}
#include "fvgpt.h"
#endif

#ifdef FVG__NEON_SIMD
FVG__ALWAYS_INLINE void fvg__transpose_4x4(const float *from, ptrdiff_t ld_from,
                                           float *to, ptrdiff_t ld_to) {
  float32x4_t r0 = vld1q_f32(from);
  float32x4_t r1 = vld1q_f32(from + ld_from);
  float32x4_t r2 = vld1q_f32(from + 2 * ld_from);
  float32x4_t r3 = vld1q_f32(from + 3 * ld_from);

  float32x4x2_t a = vtrnq_f32(r0, r1);
  float32x4x2_t b = vtrnq_f32(r2, r3);

  vst1q_f32(to, vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0])));
  vst1q_f32(to + ld_to, vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1])));
  vst1q_f32(to + 2 * ld_to, vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0])));
  vst1q_f32(to + 3 * ld_to, vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1])));
}

/* NEON on 64-bit ARM: 32 registers. */
#define FVG__LEVEL         FVG_SIMD_NEON
#define FVG__TARGET
#define FVG__NAME(x)       fvg__##x##_neon
#define FVG__TILE_ROWS     14
#define FVG__V             float32x4_t
#define FVG__LANES         4
#define FVG__SET1          vdupq_n_f32
#define FVG__LOAD          vld1q_f32
#define FVG__STORE         vst1q_f32
#define FVG__ADD           vaddq_f32
#define FVG__SUB           vsubq_f32
#define FVG__MUL           vmulq_f32
#define FVG__DIV           vdivq_f32
#define FVG__FMA(a, b, c)  vfmaq_f32(c, a, b)
#define FVG__MIN           vminq_f32
#define FVG__MAX           vmaxq_f32
#define FVG__LOWER_HALF(v) vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(v), 16))
#define FVG__UPPER_HALF(v) \
  vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), vdupq_n_u32(0xFFFF0000u)))

FVG__ALWAYS_INLINE float32x4_t fvg__pow2_neon(float32x4_t n) {
  int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
  return vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23));
}

FVG__ALWAYS_INLINE float32x4_t fvg__select_negative_neon(float32x4_t x, float32x4_t if_negative,
                                                         float32x4_t otherwise) {
  return vbslq_f32(vcltzq_f32(x), if_negative, otherwise);
}
#include "fvgpt.h"
#endif

#ifdef FVG__WASM_SIMD
FVG__ALWAYS_INLINE void fvg__transpose_4x4(const float *from, ptrdiff_t ld_from,
                                           float *to, ptrdiff_t ld_to) {
  v128_t r0 = wasm_v128_load(from);
  v128_t r1 = wasm_v128_load(from + ld_from);
  v128_t r2 = wasm_v128_load(from + 2 * ld_from);
  v128_t r3 = wasm_v128_load(from + 3 * ld_from);

  v128_t low01 = wasm_i32x4_shuffle(r0, r1, 0, 4, 1, 5);
  v128_t high01 = wasm_i32x4_shuffle(r0, r1, 2, 6, 3, 7);
  v128_t low23 = wasm_i32x4_shuffle(r2, r3, 0, 4, 1, 5);
  v128_t high23 = wasm_i32x4_shuffle(r2, r3, 2, 6, 3, 7);

  wasm_v128_store(to, wasm_i64x2_shuffle(low01, low23, 0, 2));
  wasm_v128_store(to + ld_to, wasm_i64x2_shuffle(low01, low23, 1, 3));
  wasm_v128_store(to + 2 * ld_to, wasm_i64x2_shuffle(high01, high23, 0, 2));
  wasm_v128_store(to + 3 * ld_to, wasm_i64x2_shuffle(high01, high23, 1, 3));
}

/* WebAssembly SIMD128. */
#define FVG__LEVEL         FVG_SIMD_WASM
#define FVG__TARGET
#define FVG__NAME(x)       fvg__##x##_wasm
#define FVG__TILE_ROWS     6
#define FVG__V             v128_t
#define FVG__LANES         4
#define FVG__SET1          wasm_f32x4_splat
#define FVG__LOAD          wasm_v128_load
#define FVG__STORE         wasm_v128_store
#define FVG__ADD           wasm_f32x4_add
#define FVG__SUB           wasm_f32x4_sub
#define FVG__MUL           wasm_f32x4_mul
#define FVG__DIV           wasm_f32x4_div
#define FVG__FMA(a, b, c)  wasm_f32x4_add(wasm_f32x4_mul(a, b), c)
#define FVG__MIN           wasm_f32x4_min
#define FVG__MAX           wasm_f32x4_max
#define FVG__LOWER_HALF(v) wasm_i32x4_shl(v, 16)
#define FVG__UPPER_HALF(v) wasm_v128_and(v, wasm_i32x4_splat(-65536))

FVG__ALWAYS_INLINE v128_t fvg__pow2_wasm(v128_t n) {
  v128_t exponent = wasm_i32x4_add(wasm_i32x4_trunc_sat_f32x4(n), wasm_i32x4_splat(127));
  return wasm_i32x4_shl(exponent, 23);
}

FVG__ALWAYS_INLINE v128_t fvg__select_negative_wasm(v128_t x, v128_t if_negative,
                                                    v128_t otherwise) {
  return wasm_v128_bitselect(if_negative, otherwise, wasm_f32x4_lt(x, wasm_f32x4_splat(0)));
}
#include "fvgpt.h"
#endif
#undef FVG__STAMP_BODY

/* The best level that was built, that the CPU has, and that is not above the one asked for. */
static const fvg__kernels *fvg__choose_kernels(int simd, int *level) {
  const fvg__kernels *kernels = &fvg__kernels_scalar;

#ifdef FVG__X86_SIMD
  /* The compiler's check covers the CPU and whether the operating system saves wide registers. */
  __builtin_cpu_init();
  int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  int has_avx512 = __builtin_cpu_supports("avx512f") != 0;
  int best = simd == FVG_SIMD_BEST;

  if (simd != FVG_SIMD_SCALAR) kernels = &fvg__kernels_sse2;
  if (has_avx2 && (best || simd >= FVG_SIMD_AVX2)) kernels = &fvg__kernels_avx2;
  if (has_avx512 && (best || simd >= FVG_SIMD_AVX512)) kernels = &fvg__kernels_avx512;
#elif defined(FVG__NEON_SIMD)
  if (simd != FVG_SIMD_SCALAR) kernels = &fvg__kernels_neon;
#elif defined(FVG__WASM_SIMD)
  if (simd != FVG_SIMD_SCALAR) kernels = &fvg__kernels_wasm;
#else
  (void)simd;
#endif

  *level = kernels->level;
  return kernels;
}

/* The kernels for gradients at the same level. */
static const fvg__gradient_kernels *fvg__gradient_kernels_of(const fvg__kernels *kernels) {
  switch (kernels->level) {
#ifdef FVG__X86_SIMD
    case FVG_SIMD_SSE2:   return &fvg__gradient_kernels_sse2;
    case FVG_SIMD_AVX2:   return &fvg__gradient_kernels_avx2;
    case FVG_SIMD_AVX512: return &fvg__gradient_kernels_avx512;
#elif defined(FVG__NEON_SIMD)
    case FVG_SIMD_NEON:   return &fvg__gradient_kernels_neon;
#elif defined(FVG__WASM_SIMD)
    case FVG_SIMD_WASM:   return &fvg__gradient_kernels_wasm;
#endif
    default:              return &fvg__gradient_kernels_scalar;
  }
}

/*==================================================================================================
 * CHAPTER 7  MATRIX PRODUCT: blocks, panels and threads around the tile
 *==================================================================================================
   With AVX-512 a core multiplies and adds 32 numbers a clock, but one number from memory costs it
   some hundred clocks.  So everything here serves one aim: to fetch each number seldom, and in the
   order in which it lies.

     panel   B is laid out as [k][2 vectors], so the tile reads it as one stream.  Frozen weights
             are put into panels once, when they are loaded (fvg_tensor_pack).  Any B that is
             not F32 in panels is copied, 256 rows at a time, into a panel when its turn comes;
             weights in fewer bits are widened then.
     rows    A is read where it lies, with two exceptions.  If it is read down its columns, where
             each k lies far from the last, it is copied into tiles first, of [k][16] with 14 rows
             and 2 gaps: 14 rows are then multiplied 1.3 to 2 times as fast.  And caches of few
             ways, as processors other than x86-64 have them, cannot hold many rows that lie a
             multiple of 4096 bytes apart; there such rows are copied, too.
     part    Where B lies in panels, at most 1536 of k are taken at a time.  Whole panels of 3072
             would leave a block of A no room in the second-level cache: such products take 10 to
             15 % longer.  The sums of a part wait in `out`, where the next part goes on with them.
     block   Some rows of A, up to 768 kB, stay in the second-level cache while all panels pass by,
             once per block.  The next panel is prefetched meanwhile, at most a cache line at each
             k, so that it has arrived when it is needed (with AVX-512 only half of it, if the
             block is a single tile).  Without this a third of the time is spent waiting.
     pass    At most 960 rows of A are copied at a time, so working memory does not grow with the
             batch.

             panel 0   panel 1   panel 2  ...               B in panels
                |         |         |
     block 0  [ job ]   [ job ]   [ job ]                   a job is a block times a panel, over
     block 1  [ job ]   [ job ]   [ job ]                   one part of k; threads share the jobs
       A                                                    of a part

   Backward through frozen weights, dX = dY W, reads W where forward reads W^T.  A second copy in
   that order would double the memory of the model.  Transposing instead costs some 20 clocks per
   vector, memory included, beside the m / 2 clocks of the vector's multiply-adds: a tenth of a CoOp
   step of 50 classes.  So there is one copy, and backward transposes it panel by panel.

     forward   Y  = X W^T     A = X,     B = W read along its rows, or its panels
     backward  dX = dY W      A = dY,    B = W as it lies, or its panels transposed
     backward  dW = dY^T X    A = dY read down its columns, B = X

   Each result is summed over k in one fixed order, part after part, so the bits depend neither on
   the threads nor on the other rows.  (Goto and van de Geijn, Anatomy of high-performance matrix
   multiplication, 2008.) */

#define FVG__PANEL_DEPTH   256      /* rows of B copied at a time; a multiple of all panel widths */
#define FVG__PART_DEPTH    1536     /* the most of k at a time where B lies in panels             */
#define FVG__BLOCK_FLOATS  196608   /* rows of a block times k of a part: 768 kB                  */
#define FVG__BLOCK_ROWS    112      /* the most rows of a block                                   */
#define FVG__COPIED_ROWS   480      /* the same where every block has to copy B                   */
#define FVG__PASS_ROWS     960      /* rows of A that are copied at a time                        */
#define FVG__WORTH_THREADS 1e6      /* fewer multiply-adds are done before threads have started   */

/* Do six rows, 4096 bytes or a multiple apart, evict each other from the first-level cache? */
#ifdef FVG__X86_SIMD
#define FVG__ROWS_COLLIDE 0
#else
#define FVG__ROWS_COLLIDE 1
#endif

/* A matrix as it lies in memory.  Element (i, j) is data[i row + j col], or lies in panels.
   Forward reads weights W [n,k] as B = W^T (row 1, col k), backward reads them as B = W (row k,
   col 1): so the strides say which direction a product is. */
typedef struct fvg__operand {
  const void *data;
  ptrdiff_t row, col;               /* for B, one of them is 1                                    */
  fvg_dtype type;                   /* A: F32;  B: any but integers.  Of narrow weights (chapter 8),
                                       data is an fvg__narrow_matrix                              */
} fvg__operand;

static fvg__operand fvg__matrix(const float *data, ptrdiff_t row, ptrdiff_t col) {
  fvg__operand x;
  x.data = data;
  x.row = row;
  x.col = col;
  x.type = FVG_F32;
  return x;
}

/* out[i][j] = sum_k A[i][k] B[k][j] + bias[j] + from[i ld_from + j]  for i < m, j < n.
   bias and from may be NULL, and from may be out. */
typedef struct fvg__product {
  const fvg__kernels *kernels;
  int m, n, k;
  fvg__operand a, b;
  const float *bias, *from;
  float *out;
  float *tiled_a;                   /* room for a copy of A in tiles, fvg__tiled_floats; NULL: A
                                       is read where it lies                                      */
  ptrdiff_t ld_from, ld_out;        /* floats from one row to the next                            */
  int in_words;                     /* 1: B's narrow weights are multiplied as they are, not widened
                                       (chapter 8)                                                */
} fvg__product;

/* One pass over the rows of A. */
typedef struct fvg__gemm_job {
  fvg__product p;
  int row0, rows;                   /* of the pass                                                */
  int k0, depth;                    /* the part of k whose turn it is; all of it where !ready     */
  int ready;                        /* B lies in panels, in the direction that is needed          */
  int block_tiles;                  /* tiles in a block of rows                                   */
  int n_panels;
} fvg__gemm_job;

static int fvg__ceil_div(int n, int size) { return (n + size - 1) / size; }

/* The distance in floats from one k to the next in a copied tile of A: its number of rows, rounded
   up so that the rows can be written four at a time. */
static int fvg__tiled_step(const fvg__kernels *kernels) {
  return fvg__ceil_div(kernels->tile_rows, 4) * 4;
}

/* Copying A into tiles pays if B is at least 4 tiles wide, and if A is read down its columns for
   many rows, or its rows collide in the cache. */
static int fvg__worth_tiling(const fvg__product *p) {
  int many_rows = p->kernels->tile_rows > 6;
  int down_columns = FVG__TRAINS && p->a.col != 1;
  ptrdiff_t stride = down_columns ? p->a.col : p->a.row;
  ptrdiff_t bytes = stride * (ptrdiff_t)sizeof(float);
  int colliding = FVG__ROWS_COLLIDE && bytes % 4096 == 0;

  return p->n >= 4 * p->kernels->tile_cols && (colliding || (down_columns && many_rows));
}

/* Is A copied?  Where this can never be, the compiler leaves out all that belongs to it. */
static int fvg__is_tiled(const fvg__product *p) {
  return (FVG__TRAINS || FVG__ROWS_COLLIDE) && p->tiled_a;
}

/* The size of fvg__product.tiled_a in floats. */
static size_t fvg__tiled_floats(const fvg__kernels *kernels, int m, int k) {
  int n_tiles = fvg__ceil_div(fvg__min(m, FVG__PASS_ROWS), kernels->tile_rows);
  return fvg__row(n_tiles, k) * (size_t)fvg__tiled_step(kernels);
}

/* The first row of a tile.  A block's rows are dealt out evenly over its tiles: 50 rows are
   13 + 13 + 12 + 12, not 14 + 14 + 14 + 8. */
static int fvg__tile_begin(int rows, int n_tiles, int tile) {
  return rows / n_tiles * tile + fvg__min(tile, rows % n_tiles);
}

/* The first row of a block, and how many of the pass's rows it has. */
static int fvg__block_begin(const fvg__gemm_job *g, int block) {
  return g->row0 + block * g->block_tiles * g->p.kernels->tile_rows;
}

static int fvg__block_rows(const fvg__gemm_job *g, int block) {
  int size = g->block_tiles * g->p.kernels->tile_rows;
  return fvg__min(size, g->rows - block * size);
}

/* Copies the rows of tile `index` of the pass to p->tiled_a as [k][fvg__tiled_step]. */
static void fvg__copy_tile_of_a(void *arg, int index) {
  const fvg__gemm_job *g = (const fvg__gemm_job *)arg;
  const fvg__product *p = &g->p;

  int block = index / g->block_tiles;
  int tile = index % g->block_tiles;
  int block_rows = fvg__block_rows(g, block);
  int n_tiles = fvg__ceil_div(block_rows, p->kernels->tile_rows);
  int begin = fvg__tile_begin(block_rows, n_tiles, tile);
  int rows = fvg__tile_begin(block_rows, n_tiles, tile + 1) - begin;

  int step = fvg__tiled_step(p->kernels);
  int first = fvg__block_begin(g, block) + begin;
  const float *from = (const float *)p->a.data + first * p->a.row;
  float *to = p->tiled_a + fvg__row(index, p->k) * (size_t)step;

  if (!FVG__TRAINS || p->a.col == 1) {
    p->kernels->transpose(rows, p->k, from, p->a.row, to, step);
    return;
  }
  /* dw = dy^T x */
  for (int k = 0; k < p->k; k++)
    for (int i = 0; i < rows; i++)
      to[k * step + i] = from[k * p->a.col + i * p->a.row];
}

/* Prefetches n floats that will be read soon. */
static void fvg__prefetch(const float *p, int n) {
#if defined(__GNUC__) && !defined(__TINYC__)
  for (int i = 0; i < n; i += 16)
    __builtin_prefetch(p + i, 0, 2);
#else
  (void)p;
  (void)n;
#endif
}

/* Where the copy that will be needed next begins: so many rows and columns of B further than this
   one.  Two zeros: nothing is known. */
typedef struct fvg__next_copy {
  int k, j;
} fvg__next_copy;

/* The next copy lies below the one at (k0, j0) if a whole one follows there, else at the top of the
   panel beside it. */
static fvg__next_copy fvg__find_next_copy(const fvg__product *p, int k0, int j0) {
  int width = p->kernels->tile_cols;
  fvg__next_copy next = {0, 0};

  if (k0 + 2 * FVG__PANEL_DEPTH <= p->k) {
    next.k = FVG__PANEL_DEPTH;
  } else if (j0 + 2 * width <= p->n) {
    next.k = -k0;
    next.j = width;
  }
  return next;
}

/* Chapter 8: the same copy of weights that are not F32; and the pairs of bfloat16 from number k of
   row j on, which are to be prefetched.  NULL: B is something else. */
static void fvg__copy_widened(const fvg__kernels *kernels, const fvg__operand *b, int k0, int depth,
                              int j0, int cols, float *panel, fvg__next_copy next);
static const float *fvg__pairs_ahead(const fvg__operand *b, int k, int j);

/* panel[k][j] = B[k0 + k][j0 + j]  for k < depth, j < cols; columns that are missing become 0.
   In backward the next copy is prefetched where B lies in panels. */
static void fvg__copy_panel(const fvg__kernels *kernels, const fvg__operand *b, int k0, int depth,
                            int j0, int cols, float *panel, fvg__next_copy next) {
  int width = kernels->tile_cols;
  ptrdiff_t at = k0 * b->row + j0 * b->col;
  if (cols < width)
    memset(panel, 0, fvg__row(depth, width) * sizeof *panel);

  if (FVG__TRAINS && b->type == FVG_F32_PANELS) {
    /* In backward the panels are those of the other direction: B[k][j] is number k % width of row
       j of panel k / width.  They are transposed in squares of width x width. */
    for (int k = 0; k < depth; k += width) {
      const float *square = (const float *)b->data + (k0 + k) * b->row + j0 * width;
      int rows = fvg__min(width, depth - k);
      kernels->transpose(cols, rows, square, width, panel + k * width, width);

      const float *next_square = square + next.k * b->row + next.j * width;
      if (next_square != square) fvg__prefetch(next_square, cols * width);
    }
  } else if (b->type != FVG_F32) {
    fvg__copy_widened(kernels, b, k0, depth, j0, cols, panel, next);
  } else if (b->col == 1) {
    const float *from = (const float *)b->data + at;
    for (int k = 0; k < depth; k++)
      memcpy(panel + k * width, from + k * b->row, (size_t)cols * sizeof *panel);
  } else {
    kernels->transpose(cols, depth, (const float *)b->data + at, b->col, panel, width);
  }
}

/* Multiplies m rows by one panel, tile by tile.  `all` describes all rows as if they were one tile;
   tile_floats is the distance in floats between tiles of tiled_a, 0 where A is read as it lies. */
static void fvg__rows_times_panel(const fvg__kernels *kernels, const fvg__tile *all, int m,
                                  ptrdiff_t tile_floats) {
  int n_tiles = fvg__ceil_div(m, kernels->tile_rows);
  fvg__tile t = *all;

  for (int tile = 0; tile < n_tiles; tile++) {
    int begin = fvg__tile_begin(m, n_tiles, tile);
    t.rows = fvg__tile_begin(m, n_tiles, tile + 1) - begin;
    t.a = all->a + (tile_floats ? tile * tile_floats : begin * all->a_row);
    t.out = all->out + begin * all->ld_out;
    t.from = all->from ? all->from + begin * all->ld_from : NULL;

    /* The tile's share of the panel that comes next; the last shares may be smaller, or empty. */
    int share = (int)all->ahead_step;
    int shared = fvg__min(tile * share, kernels->tile_cols);
    t.ahead = all->ahead + (ptrdiff_t)shared * all->depth;
    t.ahead_step = fvg__min(share, kernels->tile_cols - shared);
    kernels->gemm_tile(&t);
  }
}

/* Multiplies a block of rows by `depth` rows of a panel, rows k0 on of columns j0 on.  `ahead` is
   the panel that comes next, or NULL; the tiles of the block share the prefetching of it. */
static void fvg__block_times_panel(const fvg__gemm_job *g, int block, int k0, int depth, int j0,
                                   const float *panel, const float *ahead) {
  const fvg__product *p = &g->p;
  const fvg__kernels *kernels = p->kernels;
  int row0 = fvg__block_begin(g, block);
  int rows = fvg__block_rows(g, block);
  int n_tiles = fvg__ceil_div(rows, kernels->tile_rows);
  int step = fvg__tiled_step(kernels);

  fvg__tile t;
  t.rows = 0;
  t.cols = fvg__min(kernels->tile_cols, p->n - j0);
  t.depth = depth;
  t.goes_on = g->ready && k0 > 0;
  t.panel = panel;
  t.ahead = ahead ? ahead : panel;
  int row_floats = p->b.type == FVG_BF16_PANELS ? kernels->tile_cols / 2 : kernels->tile_cols;
  t.ahead_step = ahead ? fvg__ceil_div(row_floats, n_tiles) : 0;

  if (fvg__is_tiled(p)) {
    size_t first_tile = fvg__row(block, g->block_tiles);
    t.a = p->tiled_a + (first_tile * (size_t)p->k + (size_t)k0) * (size_t)step;
    t.a_row = 1;
    t.a_k = step;
  } else {
    t.a = (const float *)p->a.data;
    t.a += row0 * p->a.row + k0 * p->a.col;
    t.a_row = p->a.row;
    t.a_k = p->a.col;
  }

  /* bias and `from` are added once: by the last part of k where the sums go on from part to part,
     else by the first one, to whose result later parts add their sums. */
  t.out = p->out + row0 * p->ld_out + j0;
  t.ld_out = p->ld_out;
  t.bias = NULL;
  t.from = g->ready ? NULL : t.out;
  t.ld_from = p->ld_out;
  if (g->ready ? k0 + depth == p->k : k0 == 0) {
    t.bias = p->bias ? p->bias + j0 : NULL;
    t.from = p->from ? p->from + row0 * p->ld_from + j0 : NULL;
    t.ld_from = p->ld_from;
  }
  fvg__rows_times_panel(kernels, &t, rows, fvg__is_tiled(p) ? (ptrdiff_t)p->k * step : 0);
}

/* out [m,n] = A [m,k] times panels of panel_rows >= k rows each, in this thread; with `accumulate`
   it is added to out.  Attention (chapter 11) calls this for its small products. */
static void fvg__times_panels(const fvg__kernels *kernels, int m, int n, int k, fvg__operand a,
                              const float *panels, int panel_rows,
                              float *out, ptrdiff_t ld_out, int accumulate) {
  int width = kernels->tile_cols;
  fvg__tile t;
  memset(&t, 0, sizeof t);
  t.depth = k;
  t.a = (const float *)a.data;
  t.a_row = a.row;
  t.a_k = a.col;
  t.ld_from = ld_out;
  t.ld_out = ld_out;

  for (int j = 0; j < n; j += width) {
    t.cols = fvg__min(width, n - j);
    t.panel = panels + (ptrdiff_t)j * panel_rows;
    t.ahead = t.panel;
    t.out = out + j;
    t.from = accumulate ? t.out : NULL;
    fvg__rows_times_panel(kernels, &t, m, 0);
  }
}

/* Job `index`: a block of rows times a panel.  The jobs of a block follow one another, so the panel
   beside this one is, as a rule, what this thread needs next. */
static void fvg__gemm_run(void *arg, int index) {
  const fvg__gemm_job *g = (const fvg__gemm_job *)arg;
  const fvg__product *p = &g->p;
  int width = p->kernels->tile_cols;
  int block = index / g->n_panels;
  int panel = index % g->n_panels;
  int j0 = panel * width;

  if (g->ready) {
    ptrdiff_t panel_floats = (ptrdiff_t)p->k * width;
    const float *here = (const float *)p->b.data + panel * panel_floats + g->k0 * width;
    const float *ahead = panel + 1 < g->n_panels ? here + panel_floats : NULL;
    fvg__block_times_panel(g, block, g->k0, g->depth, j0, here, ahead);
    return;
  }

  float copy[FVG__PANEL_DEPTH * FVG__PANEL_COLS];
  int cols = fvg__min(width, p->n - j0);

  for (int k0 = 0; k0 < p->k; k0 += FVG__PANEL_DEPTH) {
    int depth = fvg__min(FVG__PANEL_DEPTH, p->k - k0);
    fvg__next_copy next = fvg__find_next_copy(p, k0, j0);
    fvg__copy_panel(p->kernels, &p->b, k0, depth, j0, cols, copy, next);
    const float *ahead = fvg__pairs_ahead(&p->b, k0 + depth, j0);
    fvg__block_times_panel(g, block, k0, depth, j0, copy, ahead);
  }
}

/* Runs jobs 0..n-1: side by side if there is a context, else one after another. */
static fvg_status fvg__run_jobs(fvg_ctx *c, void (*run)(void *arg, int index), void *arg, int n) {
  if (c) return fvg_parallel(c, run, arg, n);

  for (int i = 0; i < n; i++)
    run(arg, i);
  return FVG_OK;
}

/* In how many parts k is taken where B lies in panels.  Sums go on from part to part in `out`, so
   all columns of its panels must be there, and it may not hold what is added at the end. */
static int fvg__parts_of_k(const fvg__product *p) {
  int has_room = p->n % p->kernels->tile_cols == 0 && p->from != p->out;
  return has_room && !FVG__FOR_SIZE ? fvg__ceil_div(p->k, FVG__PART_DEPTH) : 1;
}

/* Computes a product.  c NULL: in this thread, for use inside a job.  Returns FVG_E_CANCELLED, with
   `out` unfinished, if the caller wants to stop. */
static fvg_status fvg__gemm(fvg_ctx *c, const fvg__product *p) {
  int tile_rows = p->kernels->tile_rows;
  int worth_threads = (double)p->m * p->n * p->k > FVG__WORTH_THREADS;
  fvg_ctx *threads = worth_threads ? c : NULL;

  fvg__gemm_job g;
  g.p = *p;
  int in_panels = p->b.type == FVG_F32_PANELS;
  g.ready = in_panels && p->b.row == 1 && p->b.col == p->k;
  g.n_panels = fvg__ceil_div(p->n, p->kernels->tile_cols);

  int part = fvg__ceil_div(p->k, g.ready ? fvg__parts_of_k(p) : 1);

  int most_rows = FVG__COPIED_ROWS;
  if (g.ready) most_rows = fvg__min(FVG__BLOCK_ROWS, FVG__BLOCK_FLOATS / part);
  g.block_tiles = most_rows < tile_rows ? 1 : most_rows / tile_rows;
  int block_rows = g.block_tiles * tile_rows;
  int pass_rows = FVG__PASS_ROWS / block_rows * block_rows;

  fvg_status s = FVG_OK;
  for (g.row0 = 0; !s && g.row0 < p->m; g.row0 += g.rows) {
    g.rows = fvg__min(pass_rows, p->m - g.row0);
    int n_tiles = fvg__is_tiled(p) ? fvg__ceil_div(g.rows, tile_rows) : 0;
    int n_blocks = fvg__ceil_div(g.rows, block_rows);

    if (n_tiles) s = fvg__run_jobs(threads, fvg__copy_tile_of_a, &g, n_tiles);
    for (g.k0 = 0; !s && g.k0 < p->k; g.k0 += part) {
      g.depth = fvg__min(part, p->k - g.k0);
      s = fvg__run_jobs(threads, fvg__gemm_run, &g, n_blocks * g.n_panels);
    }
  }
  return s;
}

/* ---- weights in panels ---- */
FVG_DEF int fvg_panel_width(const fvg_ctx *c) { return c->kernels->tile_cols; }

/* The floats of a matrix [n,k] in panels, the padding of the last one included. */
static size_t fvg__packed_floats(const fvg_ctx *c, int n, int k) {
  int width = c->kernels->tile_cols;
  return fvg__row(fvg__ceil_div(n, width), width) * (size_t)k;
}

static fvg_status fvg__check_matrix(fvg_ctx *c, const fvg_tensor *x, fvg_dtype type,
                                    const char *who) {
  char text[FVG__SHAPE_TEXT];
  if (x->type == type && x->n_dim >= 2 && x->data && fvg_tensor_count(x) > 0) return FVG_OK;
  return fvg_fail(c, FVG_E_ARG, "%s: %s of shape %s is not a matrix of %s", who,
                  fvg__dtype_name(x->type), fvg__shape_text(x, text), fvg__dtype_name(type));
}

/* Brings a matrix [n,k] from rows to panels, or back.  The old data are released when the new ones
   are complete. */
static fvg_status fvg__rearrange(fvg_ctx *c, fvg_tensor *x, fvg_dtype from, fvg_dtype to,
                                 const char *who) {
  if (!x) return fvg__missing(c, who, "the tensor");
  if (x->type == to) return FVG_OK;
  fvg_status s = fvg__check_matrix(c, x, from, who);
  if (s) return s;

  int width = c->kernels->tile_cols;
  int n = x->dim[0];
  int k = (int)(fvg_tensor_count(x) / (size_t)n);
  float *data = FVG_NEW_ARRAY(c, float, fvg__packed_floats(c, n, k));
  if (!data) return FVG_E_NOMEM;

  /* Rows j.. of W lie at the same place as the panel of columns j.. of W^T. */
  for (int j = 0; j < n; j += width) {
    int rows = fvg__min(width, n - j);
    const float *source = (const float *)x->data + fvg__row(j, k);
    float *target = data + fvg__row(j, k);
    if (to == FVG_F32_PANELS)
      c->kernels->transpose(rows, k, source, k, target, width);
    else
      c->kernels->transpose(k, rows, source, width, target, k);
  }

  fvg_release(c, x->data);
  x->data = data;
  x->type = to;
  return FVG_OK;
}

/* Reads the next n rows of k numbers from an open stream of F32 straight into panels [n,k], a panel
   at a time: beside the result there is no more than the rows of one panel.  What the panels held
   before does not matter. */
FVG__FOR_CLIP static fvg_status fvg__stream_panels(fvg_ctx *c, fvg__stream *x, int n, int k,
                                                   float *panels) {
  int width = c->kernels->tile_cols;
  float *rows = FVG_NEW_ARRAY(c, float, fvg__row(fvg__min(n, width), k));
  fvg_status s = rows ? FVG_OK : FVG_E_NOMEM;

  for (int j = 0; !s && j < n; j += width) {
    int part = fvg__min(width, n - j);
    float *panel = panels + fvg__row(j, k);
    s = fvg__stream_read(x, rows, fvg__row(part, k));
    if (part < width) memset(panel, 0, fvg__row(width, k) * sizeof *panel);
    if (!s) c->kernels->transpose(part, k, rows, k, panel, width);
  }
  fvg_release(c, rows);
  return s;
}

/* Chapter 8: rows of bfloat16 into panels, and eight-bit weights into rows of floats. */
static fvg_status fvg__pack_bf16(fvg_ctx *c, fvg_tensor *x);
static fvg_status fvg__widen_q8(fvg_ctx *c, fvg_tensor *x);

FVG_DEF fvg_status fvg_tensor_pack(fvg_ctx *c, fvg_tensor *x) {
  if (x && (x->type == FVG_BF16 || x->type == FVG_BF16_PANELS))
    return x->type == FVG_BF16 ? fvg__pack_bf16(c, x) : FVG_OK;
  return fvg__rearrange(c, x, FVG_F32, FVG_F32_PANELS, "pack");
}

FVG_DEF fvg_status fvg_tensor_unpack(fvg_ctx *c, fvg_tensor *x) {
  if (x && x->type == FVG_Q8) return fvg__widen_q8(c, x);
  return fvg__rearrange(c, x, FVG_F32_PANELS, FVG_F32, "unpack");
}

/*==================================================================================================
 * CHAPTER 8  EIGHT-BIT WEIGHTS: integers in place of floats, and bfloat16 in half their memory
 *==================================================================================================
   Chapter 7 keeps the multiply-adds busy, so what is left is to make them smaller.  Frozen weights
   can be integers of eight bits: a quarter of the memory, and up to four products for one.

     w [n,k]   each row j has a scale       s_j = max_k |w_jk| / 127
                                            q_jk = round(w_jk / s_j)             -127 .. 127

     x [m,k]   each row i has a scale       t_i = (high_i - low_i) / 254
               and a zero point             z_i = 127 - round(high_i / t_i)      -127 .. 127
                                            p_ik = round(x_ik / t_i) + z_i       -128 .. 127
               with high_i = max(0, max_k x_ik) and low_i = min(0, min_k x_ik)

               y_ij = (t_i s_j) (sum_k p_ik q_jk - z_i sum_k q_jk)  +  bias_j  +  from_ij

   The zero point is the integer that stands for 0.  Weights do without, as they lie evenly about 0.
   Not so x: after GELU it reaches from -0.17 to 10 and more, and a range from -10 to 10 would
   leave half of the integers unused.  A zero point costs one multiplication per sum, as sum_k q_jk
   is known beforehand.  There are 254 steps, not 255, so that 8 bits hold both ends when both are
   rounded up.

   Three more ideas were tried with a tower of real photographs and left out, since features did not
   come closer to those of F32: scales of weights by least squares, columns of weights scaled
   against the layer norm before them, and biases that make up for the rounding of weights.

   The scales of x are found anew whenever a product is made, row by row, so no calibration and no
   data are needed.  (Jacob et al. 2018, arXiv 1712.05877, for the scheme and its zero points;
   Dettmers et al. 2022, arXiv 2208.07339, for scales per row on both sides; Wu et al. 2020, arXiv
   2004.09602, for symmetric weights.)  Rounding to the nearest, ties to even, errs by at most half
   a scale, so

         |error of y_ij| <= sum_k (t_i |q_jk| s_j + s_j |p_ik - z_i| t_i) / 2 + k t_i s_j / 4

   Sums of integers are exact in any order.  If the few operations on floats are kept from being
   contracted into fused ones, every instruction set gives the same bits as plain C, which
   tests/test_quantised.c checks.  A row of x with a NaN or an infinity gives NaN, as it may in F32.
   A row of numbers that are all below 1e-30 counts as zeros.

   Weights of eight bits and bfloat16 are called narrow, and so is everything here that knows both.
   How they are multiplied depends on the instruction.  It takes `step` numbers of k at once from
   each column of the panel, and the same numbers of x as one word of 32 bits; a row of x that was
   rounded and packed so is called its words:

     vpdpbusd      AVX-512 VNNI, AVX-VNNI   4 products; it multiplies bytes without and with a sign,
                                            so 128 is added to q, and 128 sum_k p_ik is taken off
     sdot          NEON, dot product        4 products
     smull, smlal  NEON                     4 products, in pairs that are summed in 16 bits, where
                                            2 x 128 x 127 fits
     pmaddwd       AVX2, SSE2, WASM         2 products of numbers widened to 16 bits.  (pmaddubsw
                                            would take 4, but its 16 bits saturate.)
     vdpbf16ps     AVX-512 BF16             2 products of bfloat16, summed in F32, denormals as 0

   The last is how FVG_BF16 is multiplied where the CPU is fast at it; x is rounded to bfloat16, and
   no equality of bits is promised.  Elsewhere a panel, which has the same order, is widened to F32
   when its turn comes, 256 rows at a time, and multiplied as in chapter 7.  A word of 32 bits holds
   two bfloat16 of a column, and each needs one instruction to become a float.  With few rows this
   is as fast as F32 in panels, or faster, since half as much memory is read; a picture's 50 or 197
   rows take 5 to 25 % more time.

   A panel has two vectors of columns.  Within a step the numbers of a column lie together, as wide
   as `group`:

     step 4, group 4    column 0: k0 k1 k2 k3   column 1: k0 k1 k2 k3   ...
     step 4, group 2    column 0: k0 k1   column 1: k0 k1   ...   column 0: k2 k3  ...  (per vector)

   Gradients stay F32.  Where one goes through x, the weights are widened panel by panel, in forward
   and in backward alike, so that the gradient is that of the function that was computed. */

#define FVG__Q8_DEPTH 65536         /* the most k, so that 128 x 255 k fits in 32 bits            */
#define FVG__Q8_TINY  1e-30f        /* a row without larger numbers counts as zeros               */

/* What brings the sums of a row of x back to its numbers. */
typedef struct fvg__row_scale {
  float scale;                      /* t_i                                                        */
  int32_t zero;                     /* z_i                                                        */
  int32_t offset;                   /* what is to be taken off each sum                           */
} fvg__row_scale;

/* One tile.  For r < rows and j < cols, with the words w of row r at a + r a_row:

     out[r][j] = (sum of products - offset_r - zero_r sum[j]) (scale_r scale[j])
                 + bias[j] + from[r ld_from + j]

   `ahead` is prefetched, ahead_step bytes at every step. */
typedef struct fvg__narrow_tile {
  int rows, cols, steps;
  ptrdiff_t a_row;                  /* words from one row of x to the next                        */
  ptrdiff_t ld_from, ld_out;        /* floats from one row to the next                            */
  const int32_t *a;
  const fvg__row_scale *row;        /* [rows]                                                     */
  const uint8_t *panel;
  const float *scale;               /* [both vectors] s_j; not of bfloat16                        */
  const int32_t *sum;               /* [both vectors] sum_k q_jk; not of bfloat16                 */
  const float *bias, *from;         /* each may be NULL; from may be out                          */
  float *out;
  const uint8_t *ahead;
  int ahead_step;
} fvg__narrow_tile;

/* How one instruction multiplies narrow weights. */
struct fvg__narrow {
  fvg_dtype type;                   /* FVG_Q8 or FVG_BF16_PANELS                                  */
  int tile_rows, lanes;             /* a panel has 2 lanes columns                                */
  int step, group;                  /* numbers of k, see above                                    */
  int bytes;                        /* of a weight                                                */
  int shift;                        /* what is added to a weight of eight bits: 0 or 128          */

  /* Both are NULL where weights are widened before they are multiplied.  The first makes words of k
     numbers of x, or of weights, whose zero point is 0.  Beyond k the last step reads words of the
     number 0.  There must be room for a multiple of 16 numbers. */
  void (*convert)(int k, const float *x, int are_weights, void *words, fvg__row_scale *s);
  void (*tile)(const fvg__narrow_tile *t);
};

/* A matrix [n,k] of narrow weights: what the data of a tensor of these types point at. */
typedef struct fvg__narrow_matrix {
  const fvg__narrow *format;
  int n, k;
  float *scale;                     /* [n, filled up to whole panels]; NULL for bfloat16          */
  int32_t *sum;                     /* of each row's integers, likewise                           */
  uint8_t *panels;                  /* [panels][steps][2 lanes][step] weights                     */
} fvg__narrow_matrix;

static int fvg__is_narrow(fvg_dtype type) {
  return type == FVG_Q8 || type == FVG_BF16_PANELS;
}

static int fvg__narrow_cols(const fvg__narrow *f) { return 2 * f->lanes; }

static int fvg__narrow_steps(const fvg__narrow *f, int k) { return fvg__ceil_div(k, f->step); }

/* ---- the reference, in plain C ---- */
/* A float that went through memory, so that its rounding cannot be skipped. */
static float fvg__rounded(float x) {
  volatile float stored = x;
  return stored;
}

/* Finds scale and zero point from the smallest and the largest number of a row and 0, and from a
   sum that is 0 unless the row has a NaN or an infinity.  Returns 1 / scale; 0 where there is
   nothing to round: the words are then zeros. */
static float fvg__find_scale(float low, float high, float nothing, int are_weights,
                             fvg__row_scale *s) {
  float max = high > -low ? high : -low;
  s->offset = 0;
  s->zero = 0;
  s->scale = 0;
  if (nothing != 0) s->scale = NAN;
  if (nothing != 0 || max < FVG__Q8_TINY) return 0;

  if (are_weights) {
    s->scale = max / 127.0f;
    return 127.0f / max;
  }

  s->scale = high / 254.0f - low / 254.0f;       /* high - low may be beyond FLT_MAX */
  float inverse = 1.0f / s->scale;
  s->zero = 127 - (int32_t)lrintf(high * inverse);
  return inverse;
}

static void fvg__q8_convert_scalar(int k, const float *x, int are_weights, void *words,
                                   fvg__row_scale *s) {
  int32_t *word = (int32_t *)words;
  float low = 0;
  float high = 0;
  float nothing = 0;
  for (int i = 0; i < k; i++) {
    if (x[i] < low) low = x[i];
    if (x[i] > high) high = x[i];
    nothing += x[i] * 0;
  }

  float inverse = fvg__find_scale(low, high, nothing, are_weights, s);
  for (int i = 0; i < k; i++)
    word[i] = inverse != 0 ? (int32_t)lrintf(x[i] * inverse) + s->zero : 0;
}

/* One row of the tile after another. */
static void fvg__q8_tile_scalar(const fvg__narrow_tile *t) {
  for (int r = 0; r < t->rows; r++) {
    const int32_t *a = t->a + r * t->a_row;
    int32_t sum[FVG__SCALAR_COLS] = {0};

    for (int k = 0; k < t->steps; k++) {
      const int8_t *w = (const int8_t *)t->panel + (ptrdiff_t)k * FVG__SCALAR_COLS;
      for (int j = 0; j < FVG__SCALAR_COLS; j++)
        sum[j] += a[k] * w[j];
    }

    for (int j = 0; j < t->cols; j++) {
      float scale = fvg__rounded(t->row[r].scale * t->scale[j]);
      float y = fvg__rounded((float)(sum[j] - t->row[r].zero * t->sum[j]) * scale);
      if (t->bias)
        y += t->bias[j];
      if (t->from)
        y += t->from[r * t->ld_from + j];
      t->out[r * t->ld_out + j] = y;
    }
  }
}

static const fvg__narrow fvg__q8_scalar = {
  FVG_Q8, 4, FVG__SCALAR_COLS / 2, 1, 1, 1, 0,
  fvg__q8_convert_scalar, fvg__q8_tile_scalar
};
#endif /* FVG__PART_TWO */

#ifdef FVG__STAMP_NARROW
/* ---- the same over vectors; this text is compiled once per instruction ---- */
#ifdef FVG__FLOAT_SUMS
#define FVG__CONVERT FVG__NAME(convert)

/* Every 16 numbers are rounded to bfloat16. */
FVG__TARGET static void FVG__NAME(convert)(int k, const float *x, int are_weights, void *words,
                                           fvg__row_scale *s) {
  (void)are_weights;
  s->scale = 1;
  s->zero = 0;
  s->offset = 0;
  for (int i = 0; i < k; i += FVG__LANES)
    FVG__NAME(put)(words, i, FVG__LOAD_N(x + i, fvg__min(FVG__LANES, k - i)));
  FVG__CLEAR_UPPER_HALVES();
}

/* There are no scales. */
FVG__TARGET FVG__ALWAYS_INLINE FVG__F FVG__NAME(scaled)(const fvg__narrow_tile *t, int r, int j,
                                                        FVG__V sum) {
  (void)t;
  (void)r;
  (void)j;
  return sum;
}
#else
#ifndef FVG__CONVERT
#define FVG__CONVERT FVG__NAME(convert)
/* What is to be taken off a sum where SHIFT was added to the weights: SHIFT times the words that
   were read.  The last vector of words may reach beyond the last step. */
FVG__TARGET static int32_t FVG__NAME(offset)(int k, FVG__V total, int32_t zero) {
  int unread = fvg__ceil_div(k, FVG__LANES) * FVG__LANES - fvg__ceil_div(k, FVG__STEP) * FVG__STEP;
  int32_t lane[FVG__LANES];
  FVG__STORE_SUMS(lane, total);

  int32_t sum = -unread * zero;
  for (int i = 0; i < FVG__LANES; i++)
    sum += lane[i];
  return FVG__SHIFT * sum;
}

/* One pass finds the scale; a second rounds, and sums what was rounded. */
FVG__TARGET static void FVG__NAME(convert)(int k, const float *x, int are_weights, void *words,
                                           fvg__row_scale *s) {
  FVG__F none = FVG__SET1(0);
  FVG__F v_high = none;
  FVG__F v_depth = none;
  FVG__F v_nothing = none;
  for (int i = 0; i < k; i += FVG__LANES) {
    FVG__F v = FVG__LOAD_N(x + i, fvg__min(FVG__LANES, k - i));
    v_high = FVG__MAX(v_high, v);
    v_depth = FVG__MAX(v_depth, FVG__SUB(none, v));
    v_nothing = FVG__ADD(v_nothing, FVG__MUL(v, none));
  }

  float high[FVG__LANES], depth[FVG__LANES], nothing[FVG__LANES];
  FVG__STORE(high, v_high);
  FVG__STORE(depth, v_depth);
  FVG__STORE(nothing, v_nothing);
  for (int i = 1; i < FVG__LANES; i++) {
    if (high[i] > high[0]) high[0] = high[i];
    if (depth[i] > depth[0]) depth[0] = depth[i];
    nothing[0] += nothing[i];
  }

  float inverse = fvg__find_scale(-depth[0], high[0], nothing[0], are_weights, s);
  FVG__F v_inverse = FVG__SET1(inverse);
  FVG__V v_zero = FVG__SET1_INTEGER(s->zero);
  FVG__V total = FVG__ZERO();
  for (int i = 0; i < k; i += FVG__LANES) {
    FVG__F v = FVG__LOAD_N(x + i, fvg__min(FVG__LANES, k - i));
    FVG__V q = FVG__ZERO();
    if (inverse != 0) q = FVG__ADD_INTEGERS(FVG__ROUND(FVG__MUL(v, v_inverse)), v_zero);
    FVG__NAME(put)(words, i, q);
    total = FVG__ADD_INTEGERS(total, q);
  }
  s->offset = FVG__NAME(offset)(k, total, s->zero);
  FVG__CLEAR_UPPER_HALVES();
}
#endif

/* The products are rounded before anything is added, which KEEP_APART makes sure of. */
FVG__TARGET FVG__ALWAYS_INLINE FVG__F FVG__NAME(scaled)(const fvg__narrow_tile *t, int r, int j,
                                                        FVG__V sum) {
  FVG__V of_zero = FVG__MUL_INTEGERS(FVG__SET1_INTEGER(t->row[r].zero), FVG__LOAD_SUMS(t->sum + j));
  sum = FVG__SUB_INTEGERS(sum, FVG__SET1_INTEGER(t->row[r].offset));
  sum = FVG__SUB_INTEGERS(sum, of_zero);
  FVG__F scale = FVG__MUL(FVG__SET1(t->row[r].scale), FVG__LOAD(t->scale + j));
  FVG__F y = FVG__MUL(FVG__TO_FLOAT(sum), scale);
  FVG__KEEP_APART(y);
  return y;
}
#endif

/* As in chapter 6: M(r) for each row of a full tile, and what is done for one. */
#if FVG__TILE_ROWS == 14
#define FVG__EACH_ROW(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12) M(13)
#else
#define FVG__EACH_ROW(M) M(0) M(1) M(2) M(3) M(4) M(5)
#endif
#define FVG__SUMS(r) \
  FVG__V s##r##0 = FVG__ZERO(); \
  FVG__V s##r##1 = FVG__ZERO();
#define FVG__STEP_OF_ROW(r, a) \
  if (rows > r) { \
    FVG__A word = FVG__LOAD_WORD(a); \
    s##r##0 = FVG__ADD_PRODUCTS(s##r##0, word, w0); \
    s##r##1 = FVG__ADD_PRODUCTS(s##r##1, word, w1); \
  }
#define FVG__KEEP(r) \
  if (rows > r) { \
    FVG__STORE_SUMS(sum + 2 * r * FVG__LANES, s##r##0); \
    FVG__STORE_SUMS(sum + (2 * r + 1) * FVG__LANES, s##r##1); \
  }

FVG__TILES_BEGIN

/* The sums of the first `rows` rows, a constant for the compiler.  Every third row has a pointer,
   from which the next two are addressed. */
FVG__TARGET FVG__ALWAYS_INLINE void FVG__NAME(sum_rows)(const fvg__narrow_tile *t, const int rows,
                                                        FVG__SUM *sum) {
  FVG__EACH_ROW(FVG__SUMS)

  const ptrdiff_t row = t->a_row;
  const int32_t *a0 = t->a;
  const int32_t *a3 = rows > 3 ? a0 + 3 * row : a0;
#if FVG__TILE_ROWS == 14
  const int32_t *a6 = rows > 6 ? a0 + 6 * row : a0;
  const int32_t *a9 = rows > 9 ? a0 + 9 * row : a0;
  const int32_t *a12 = rows > 12 ? a0 + 12 * row : a0;
#endif
  const uint8_t *panel = t->panel;
  const uint8_t *ahead = t->ahead;
  int ahead_step = t->ahead_step;

  for (int k = 0; k < t->steps; k++) {
    FVG__W w0 = FVG__LOAD_WEIGHTS(panel);
    FVG__W w1 = FVG__LOAD_WEIGHTS(panel + FVG__WEIGHT_BYTES);
    panel += 2 * FVG__WEIGHT_BYTES;

    FVG__PREFETCH(ahead);
    ahead += ahead_step;

    FVG__STEP_OF_ROW(0, a0 + k)
    FVG__STEP_OF_ROW(1, a0 + k + row)
    FVG__STEP_OF_ROW(2, a0 + k + 2 * row)
    FVG__STEP_OF_ROW(3, a3 + k)
    FVG__STEP_OF_ROW(4, a3 + k + row)
    FVG__STEP_OF_ROW(5, a3 + k + 2 * row)
#if FVG__TILE_ROWS == 14
    FVG__STEP_OF_ROW(6, a6 + k)
    FVG__STEP_OF_ROW(7, a6 + k + row)
    FVG__STEP_OF_ROW(8, a6 + k + 2 * row)
    FVG__STEP_OF_ROW(9, a9 + k)
    FVG__STEP_OF_ROW(10, a9 + k + row)
    FVG__STEP_OF_ROW(11, a9 + k + 2 * row)
    FVG__STEP_OF_ROW(12, a12 + k)
    FVG__STEP_OF_ROW(13, a12 + k + row)
#endif
  }

  FVG__EACH_ROW(FVG__KEEP)
}

#ifdef __OPTIMIZE_SIZE__
/* Small code: rows are taken by eights, fours and ones, which is three bodies instead of one for
   each number of rows. */
FVG__TARGET static void FVG__NAME(sum_in_parts)(const fvg__narrow_tile *t, FVG__SUM *sum) {
  fvg__narrow_tile part = *t;
  int n = 0;

  for (int left = t->rows; left > 0; left -= n) {
    if (FVG__TILE_ROWS >= 8 && left >= 8) FVG__NAME(sum_rows)(&part, n = 8, sum);
    else if (left >= 4) FVG__NAME(sum_rows)(&part, n = 4, sum);
    else FVG__NAME(sum_rows)(&part, n = 1, sum);
    part.a += n * part.a_row;
    sum += 2 * n * FVG__LANES;
  }
}
#endif

/* The tile itself: sums over k, then scales, bias and `from`, then the result. */
FVG__TARGET static void FVG__NAME(tile)(const fvg__narrow_tile *t) {
  FVG__SUM sum[FVG__TILE_ROWS * 2 * FVG__LANES];
#ifdef __OPTIMIZE_SIZE__
  FVG__NAME(sum_in_parts)(t, sum);
#else
#define FVG__CASE(r) case r + 1: FVG__NAME(sum_rows)(t, r + 1, sum); break;
  switch (t->rows) {
    FVG__EACH_ROW(FVG__CASE)
  }
#undef FVG__CASE
#endif

  for (int r = 0; r < t->rows; r++)
    for (int j = 0; j < t->cols; j += FVG__LANES) {
      int lanes = fvg__min(FVG__LANES, t->cols - j);
      FVG__V sums = FVG__LOAD_SUMS(sum + 2 * r * FVG__LANES + j);
      FVG__F y = FVG__NAME(scaled)(t, r, j, sums);

      if (t->bias)
        y = FVG__ADD(y, FVG__LOAD_N(t->bias + j, lanes));
      if (t->from)
        y = FVG__ADD(y, FVG__LOAD_N(t->from + r * t->ld_from + j, lanes));
      FVG__STORE_N(t->out + r * t->ld_out + j, lanes, y);
    }
  FVG__CLEAR_UPPER_HALVES();
}

FVG__TILES_END

static const fvg__narrow FVG__NAME(format) = {
  FVG__TYPE, FVG__TILE_ROWS, FVG__LANES, FVG__STEP, FVG__GROUP,
  FVG__WEIGHT_BYTES / (FVG__LANES * FVG__STEP), FVG__SHIFT,
  FVG__CONVERT, FVG__NAME(tile)
};

/* The next instruction defines these words again; those of floats stay until another level. */
#undef FVG__NAME
#undef FVG__TYPE
#undef FVG__TARGET
#undef FVG__CONVERT
#undef FVG__STEP
#undef FVG__GROUP
#undef FVG__SHIFT
#undef FVG__A
#undef FVG__W
#undef FVG__WEIGHT_BYTES
#undef FVG__LOAD_WORD
#undef FVG__LOAD_WEIGHTS
#undef FVG__ADD_PRODUCTS
#undef FVG__EACH_ROW
#undef FVG__SUMS
#undef FVG__STEP_OF_ROW
#undef FVG__KEEP
#endif /* FVG__STAMP_NARROW */

#if defined(FVGPT_IMPLEMENTATION) && !defined(FVG__STAMP_BODY) && !defined(FVG__STAMP_NARROW) \
    && !defined(FVG__PART_THREE)
#define FVG__PART_THREE

/* ---- one body, many instructions ----
   Words of floats and of sums are the same for all x86 levels but for the beginning of their names.
   A level has further words, its vectors and how sums lie in memory; and an instruction defines
   how words of x are made (put) and multiplied.  Under -Os it may have words made by a narrower
   level's instruction with the same words (CONVERT).  load_n, store_n and clear_upper_halves
   are those of chapter 6. */
#ifdef FVG__SIMD
#define FVG__STAMP_NARROW
#endif

#ifdef FVG__X86_SIMD
#define FVG__SET1            FVG__MM(set1_ps)
#define FVG__LOAD            FVG__MM(loadu_ps)
#define FVG__STORE           FVG__MM(storeu_ps)
#define FVG__LOAD_N          FVG__LEVEL_NAME(load_n)
#define FVG__STORE_N         FVG__LEVEL_NAME(store_n)
#define FVG__CLEAR_UPPER_HALVES FVG__LEVEL_NAME(clear_upper_halves)
#define FVG__ADD             FVG__MM(add_ps)
#define FVG__SUB             FVG__MM(sub_ps)
#define FVG__MUL             FVG__MM(mul_ps)
#define FVG__MAX             FVG__MM(max_ps)
#define FVG__ROUND           FVG__MM(cvtps_epi32)
#define FVG__TO_FLOAT        FVG__MM(cvtepi32_ps)
#define FVG__ADD_INTEGERS    FVG__MM(add_epi32)
#define FVG__SUB_INTEGERS    FVG__MM(sub_epi32)
#define FVG__SET1_INTEGER    FVG__MM(set1_epi32)
#define FVG__SUM             int32_t

/* SSE2: bytes become 16 bits wide when each is put above itself and shifted down, and 32 bits are
   multiplied two at a time. */
#define FVG__MM(x)           _mm_##x
#define FVG__LEVEL_NAME(x)   fvg__##x##_sse2
#define FVG__TILE_ROWS       6
#define FVG__LANES           4
#define FVG__F               __m128
#define FVG__V               __m128i
#define FVG__ZERO            _mm_setzero_si128
#define FVG__LOAD_SUMS(p)    _mm_loadu_si128((const __m128i *)(const void *)(p))
#define FVG__STORE_SUMS(p, v) _mm_storeu_si128((__m128i *)(void *)(p), v)
#define FVG__MUL_INTEGERS    fvg__mul_integers_sse2
#define FVG__KEEP_APART(v)   __asm__("" : "+x"(v))

FVG__ALWAYS_INLINE __m128i fvg__mul_integers_sse2(__m128i a, __m128i b) {
  __m128i even = _mm_mul_epu32(a, b);
  __m128i odd = _mm_mul_epu32(_mm_srli_epi64(a, 32), _mm_srli_epi64(b, 32));
  return _mm_unpacklo_epi32(_mm_shuffle_epi32(even, 8), _mm_shuffle_epi32(odd, 8));
}

#define FVG__NAME(x)         fvg__q8_##x##_sse2
#define FVG__TYPE            FVG_Q8
#define FVG__TARGET
#define FVG__STEP            2
#define FVG__GROUP           2
#define FVG__SHIFT           0
#define FVG__A               __m128i
#define FVG__W               __m128i
#define FVG__WEIGHT_BYTES    8
#define FVG__LOAD_WORD(p)    _mm_set1_epi32(*(p))
#define FVG__LOAD_WEIGHTS    fvg__q8_weights_sse2
#define FVG__ADD_PRODUCTS(sum, a, w) _mm_add_epi32(sum, _mm_madd_epi16(a, w))

FVG__ALWAYS_INLINE void fvg__q8_put_sse2(void *words, int at, __m128i q) {
  _mm_storel_epi64((__m128i *)(void *)((int16_t *)words + at), _mm_packs_epi32(q, q));
}

FVG__ALWAYS_INLINE __m128i fvg__q8_weights_sse2(const uint8_t *p) {
  __m128i w = _mm_loadl_epi64((const __m128i *)(const void *)p);
  return _mm_srai_epi16(_mm_unpacklo_epi8(w, w), 8);
}
#include "fvgpt.h"

#undef FVG__MM
#undef FVG__LEVEL_NAME
#undef FVG__LANES
#undef FVG__F
#undef FVG__V
#undef FVG__ZERO
#undef FVG__LOAD_SUMS
#undef FVG__STORE_SUMS
#undef FVG__MUL_INTEGERS

/* AVX2. */
#define FVG__MM(x)           _mm256_##x
#define FVG__LEVEL_NAME(x)   fvg__##x##_avx2
#define FVG__LANES           8
#define FVG__F               __m256
#define FVG__V               __m256i
#define FVG__ZERO            _mm256_setzero_si256
#define FVG__LOAD_SUMS(p)    _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define FVG__STORE_SUMS(p, v) _mm256_storeu_si256((__m256i *)(void *)(p), v)
#define FVG__MUL_INTEGERS    _mm256_mullo_epi32

#define FVG__NAME(x)         fvg__q8_##x##_avx2
#ifdef __OPTIMIZE_SIZE__
#define FVG__CONVERT         fvg__q8_convert_sse2
#endif
#define FVG__TYPE            FVG_Q8
#define FVG__TARGET          __attribute__((target("avx2,fma")))
#define FVG__STEP            2
#define FVG__GROUP           2
#define FVG__SHIFT           0
#define FVG__A               __m256i
#define FVG__W               __m256i
#define FVG__WEIGHT_BYTES    16
#define FVG__LOAD_WORD(p)    _mm256_set1_epi32(*(p))
#define FVG__LOAD_WEIGHTS(p) \
  _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define FVG__ADD_PRODUCTS(sum, a, w) _mm256_add_epi32(sum, _mm256_madd_epi16(a, w))

FVG__TARGET FVG__ALWAYS_INLINE __m128i fvg__pack_avx2(__m256i q) {
  return _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
}

FVG__TARGET FVG__ALWAYS_INLINE void fvg__q8_put_avx2(void *words, int at, __m256i q) {
  _mm_storeu_si128((__m128i *)(void *)((int16_t *)words + at), fvg__pack_avx2(q));
}
#include "fvgpt.h"

#ifdef FVG__HAS_AVX_VNNI
#define FVG__NAME(x)         fvg__q8_##x##_avx_vnni
#define FVG__TYPE            FVG_Q8
#define FVG__TARGET          __attribute__((target("avx2,fma,avxvnni")))
#define FVG__STEP            4
#define FVG__GROUP           4
#define FVG__SHIFT           128
#define FVG__A               __m256i
#define FVG__W               __m256i
#define FVG__WEIGHT_BYTES    32
#define FVG__LOAD_WORD(p)    _mm256_set1_epi32(*(p))
#define FVG__LOAD_WEIGHTS(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define FVG__ADD_PRODUCTS(sum, a, w) _mm256_dpbusd_avx_epi32(sum, w, a)

FVG__TARGET FVG__ALWAYS_INLINE void fvg__q8_put_avx_vnni(void *words, int at, __m256i q) {
  __m128i narrow = fvg__pack_avx2(q);
  _mm_storel_epi64((__m128i *)(void *)((int8_t *)words + at), _mm_packs_epi16(narrow, narrow));
}
#include "fvgpt.h"
#endif

#undef FVG__MM
#undef FVG__LEVEL_NAME
#undef FVG__TILE_ROWS
#undef FVG__LANES
#undef FVG__F
#undef FVG__V
#undef FVG__ZERO
#undef FVG__LOAD_SUMS
#undef FVG__STORE_SUMS
#undef FVG__MUL_INTEGERS
#undef FVG__KEEP_APART

/* AVX-512. */
#define FVG__MM(x)           _mm512_##x
#define FVG__LEVEL_NAME(x)   fvg__##x##_avx512
#define FVG__TILE_ROWS       14
#define FVG__LANES           16
#define FVG__F               __m512
#define FVG__V               __m512i
#define FVG__ZERO            _mm512_setzero_si512
#define FVG__LOAD_SUMS(p)    _mm512_loadu_si512(p)
#define FVG__STORE_SUMS(p, v) _mm512_storeu_si512(p, v)
#define FVG__MUL_INTEGERS    _mm512_mullo_epi32
#define FVG__KEEP_APART(v)   __asm__("" : "+v"(v))

/* Under -Os the few CPUs without the dot product run AVX2's. */
#ifndef __OPTIMIZE_SIZE__
#define FVG__NAME(x)         fvg__q8_##x##_avx512
#define FVG__TYPE            FVG_Q8
#define FVG__TARGET          __attribute__((target("avx512f,avx512bw")))
#define FVG__STEP            2
#define FVG__GROUP           2
#define FVG__SHIFT           0
#define FVG__A               __m512i
#define FVG__W               __m512i
#define FVG__WEIGHT_BYTES    32
#define FVG__LOAD_WORD(p)    _mm512_set1_epi32(*(p))
#define FVG__LOAD_WEIGHTS(p) \
  _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define FVG__ADD_PRODUCTS(sum, a, w) _mm512_add_epi32(sum, _mm512_madd_epi16(a, w))

FVG__TARGET FVG__ALWAYS_INLINE void fvg__q8_put_avx512(void *words, int at, __m512i q) {
  _mm256_storeu_si256((__m256i *)(void *)((int16_t *)words + at), _mm512_cvtepi32_epi16(q));
}
#include "fvgpt.h"
#endif

#define FVG__NAME(x)         fvg__q8_##x##_avx512_vnni
#if defined(__OPTIMIZE_SIZE__) && defined(FVG__HAS_AVX_VNNI)
#define FVG__CONVERT         fvg__q8_convert_avx_vnni
#endif
#define FVG__TYPE            FVG_Q8
#define FVG__TARGET          __attribute__((target("avx512f,avx512bw,avx512vnni")))
#define FVG__STEP            4
#define FVG__GROUP           4
#define FVG__SHIFT           128
#define FVG__A               __m512i
#define FVG__W               __m512i
#define FVG__WEIGHT_BYTES    64
#define FVG__LOAD_WORD(p)    _mm512_set1_epi32(*(p))
#define FVG__LOAD_WEIGHTS    _mm512_loadu_si512
#define FVG__ADD_PRODUCTS(sum, a, w) _mm512_dpbusd_epi32(sum, w, a)

FVG__TARGET FVG__ALWAYS_INLINE void fvg__q8_put_avx512_vnni(void *words, int at, __m512i q) {
  _mm_storeu_si128((__m128i *)(void *)((int8_t *)words + at), _mm512_cvtepi32_epi8(q));
}
#include "fvgpt.h"

#ifdef FVG__HAS_AVX512_BF16
#undef FVG__V
#undef FVG__ZERO
#undef FVG__LOAD_SUMS
#undef FVG__STORE_SUMS
#undef FVG__SUM
#define FVG__FLOAT_SUMS
#define FVG__V               __m512
#define FVG__ZERO            _mm512_setzero_ps
#define FVG__LOAD_SUMS       _mm512_loadu_ps
#define FVG__STORE_SUMS      _mm512_storeu_ps
#define FVG__SUM             float

#define FVG__NAME(x)         fvg__bf16_##x##_avx512
#define FVG__TYPE            FVG_BF16_PANELS
#define FVG__TARGET          __attribute__((target("avx512f,avx512bw,avx512bf16")))
#define FVG__STEP            2
#define FVG__GROUP           2
#define FVG__SHIFT           0
#define FVG__A               __m512bh
#define FVG__W               __m512bh
#define FVG__WEIGHT_BYTES    64
#define FVG__LOAD_WORD(p)    ((__m512bh)_mm512_set1_epi32(*(p)))
#define FVG__LOAD_WEIGHTS(p) ((__m512bh)_mm512_loadu_si512(p))
#define FVG__ADD_PRODUCTS(sum, a, w) _mm512_dpbf16_ps(sum, a, w)

FVG__TARGET FVG__ALWAYS_INLINE void fvg__bf16_put_avx512(void *words, int at, __m512 x) {
  __m256bh rounded = _mm512_cvtneps_pbh(x);
  memcpy((uint16_t *)words + at, &rounded, sizeof rounded);
}
#include "fvgpt.h"
#undef FVG__FLOAT_SUMS
#endif
#endif

#ifdef FVG__NEON_SIMD
#define FVG__TILE_ROWS       14
#define FVG__LANES           4
#define FVG__F               float32x4_t
#define FVG__SET1            vdupq_n_f32
#define FVG__LOAD            vld1q_f32
#define FVG__STORE           vst1q_f32
#define FVG__LOAD_N          fvg__load_n_neon
#define FVG__STORE_N         fvg__store_n_neon
#define FVG__CLEAR_UPPER_HALVES fvg__clear_upper_halves_neon
#define FVG__ADD             vaddq_f32
#define FVG__SUB             vsubq_f32
#define FVG__MUL             vmulq_f32
#define FVG__MAX             vmaxq_f32
#define FVG__ROUND           vcvtnq_s32_f32
#define FVG__TO_FLOAT        vcvtq_f32_s32
#define FVG__V               int32x4_t
#define FVG__SUM             int32_t
#define FVG__ZERO()          vdupq_n_s32(0)
#define FVG__LOAD_SUMS       vld1q_s32
#define FVG__STORE_SUMS      vst1q_s32
#define FVG__ADD_INTEGERS    vaddq_s32
#define FVG__SUB_INTEGERS    vsubq_s32
#define FVG__MUL_INTEGERS    vmulq_s32
#define FVG__SET1_INTEGER    vdupq_n_s32
#define FVG__KEEP_APART(v)   __asm__("" : "+w"(v))

/* NEON, with the dot product of ARMv8.2 where it is compiled for that. */
#define FVG__NAME(x)         fvg__q8_##x##_neon
#define FVG__TYPE            FVG_Q8
#define FVG__TARGET
#define FVG__STEP            4
#define FVG__SHIFT           0
#define FVG__A               int8x16_t
#define FVG__W               int8x16_t
#define FVG__WEIGHT_BYTES    16
#define FVG__LOAD_WEIGHTS(p) vreinterpretq_s8_u8(vld1q_u8(p))
#ifdef __ARM_FEATURE_DOTPROD
#define FVG__GROUP           4
#define FVG__LOAD_WORD(p)    vreinterpretq_s8_s32(vdupq_n_s32(*(p)))
#define FVG__ADD_PRODUCTS    vdotq_s32
#else
#define FVG__GROUP           2
#define FVG__LOAD_WORD       fvg__q8_word_neon
#define FVG__ADD_PRODUCTS    fvg__q8_add_products_neon

/* k0 k1 k0 k1 ... in the lower half, k2 k3 k2 k3 ... in the upper one */
FVG__ALWAYS_INLINE int8x16_t fvg__q8_word_neon(const int32_t *p) {
  int16_t pair[2];
  memcpy(pair, p, sizeof pair);
  return vreinterpretq_s8_s16(vcombine_s16(vdup_n_s16(pair[0]), vdup_n_s16(pair[1])));
}

FVG__ALWAYS_INLINE int32x4_t fvg__q8_add_products_neon(int32x4_t sum, int8x16_t a, int8x16_t w) {
  int16x8_t products = vmull_s8(vget_low_s8(a), vget_low_s8(w));
  products = vmlal_s8(products, vget_high_s8(a), vget_high_s8(w));
  return vpadalq_s16(sum, products);
}
#endif

FVG__ALWAYS_INLINE void fvg__q8_put_neon(void *words, int at, int32x4_t q) {
  int16x4_t half = vqmovn_s32(q);
  int8x8_t narrow = vqmovn_s16(vcombine_s16(half, half));
  int32_t four = vget_lane_s32(vreinterpret_s32_s8(narrow), 0);
  memcpy((int8_t *)words + at, &four, sizeof four);
}
#include "fvgpt.h"
#endif

#ifdef FVG__WASM_SIMD
#define FVG__TILE_ROWS       6
#define FVG__LANES           4
#define FVG__F               v128_t
#define FVG__SET1            wasm_f32x4_splat
#define FVG__LOAD            wasm_v128_load
#define FVG__STORE           wasm_v128_store
#define FVG__LOAD_N          fvg__load_n_wasm
#define FVG__STORE_N         fvg__store_n_wasm
#define FVG__CLEAR_UPPER_HALVES fvg__clear_upper_halves_wasm
#define FVG__ADD             wasm_f32x4_add
#define FVG__SUB             wasm_f32x4_sub
#define FVG__MUL             wasm_f32x4_mul
#define FVG__MAX             wasm_f32x4_max
#define FVG__ROUND(x)        wasm_i32x4_trunc_sat_f32x4(wasm_f32x4_nearest(x))
#define FVG__TO_FLOAT        wasm_f32x4_convert_i32x4
#define FVG__V               v128_t
#define FVG__SUM             int32_t
#define FVG__ZERO()          wasm_i32x4_splat(0)
#define FVG__LOAD_SUMS       wasm_v128_load
#define FVG__STORE_SUMS      wasm_v128_store
#define FVG__ADD_INTEGERS    wasm_i32x4_add
#define FVG__SUB_INTEGERS    wasm_i32x4_sub
#define FVG__MUL_INTEGERS    wasm_i32x4_mul
#define FVG__SET1_INTEGER    wasm_i32x4_splat
#define FVG__KEEP_APART(v)   ((void)(v))

/* WebAssembly has no fused operations that a product could be contracted into. */
#define FVG__NAME(x)         fvg__q8_##x##_wasm
#define FVG__TYPE            FVG_Q8
#define FVG__TARGET
#define FVG__STEP            2
#define FVG__GROUP           2
#define FVG__SHIFT           0
#define FVG__A               v128_t
#define FVG__W               v128_t
#define FVG__WEIGHT_BYTES    8
#define FVG__LOAD_WORD(p)    wasm_i32x4_splat(*(p))
#define FVG__LOAD_WEIGHTS    wasm_i16x8_load8x8
#define FVG__ADD_PRODUCTS(sum, a, w) wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(a, w))

FVG__ALWAYS_INLINE void fvg__q8_put_wasm(void *words, int at, v128_t q) {
  wasm_v128_store64_lane((int16_t *)words + at, wasm_i16x8_narrow_i32x4(q, q), 0);
}
#include "fvgpt.h"
#endif
#undef FVG__STAMP_NARROW

#ifdef FVG__X86_SIMD
/* Bit `bit` of register `number` (0 to 3: eax, ebx, ecx, edx) of the CPU's leaf 7. */
static int fvg__has_feature(unsigned part, int number, int bit) {
  unsigned r[4] = {0};
  if (!__get_cpuid_count(7, part, &r[0], &r[1], &r[2], &r[3])) return 0;
  return (int)(r[number] >> bit & 1u);
}

static const fvg__narrow *fvg__choose_avx512(void) {
  int has_bytes = fvg__has_feature(0, 1, 30);
  int has_vnni = fvg__has_feature(0, 2, 11);
  if (has_bytes && has_vnni) return &fvg__q8_format_avx512_vnni;
#ifndef __OPTIMIZE_SIZE__
  if (has_bytes) return &fvg__q8_format_avx512;
#endif
  return &fvg__q8_format_avx2;
}

static const fvg__narrow *fvg__choose_avx2(void) {
#ifdef FVG__HAS_AVX_VNNI
  if (fvg__has_feature(1, 0, 4)) return &fvg__q8_format_avx_vnni;
#endif
  return &fvg__q8_format_avx2;
}
#endif

/* The kernels of eight-bit weights at a level; on x86-64 the CPU's dot products are taken. */
static const fvg__narrow *fvg__choose_q8(int level) {
  switch (level) {
#ifdef FVG__X86_SIMD
    case FVG_SIMD_SSE2:   return &fvg__q8_format_sse2;
    case FVG_SIMD_AVX2:   return fvg__choose_avx2();
    case FVG_SIMD_AVX512: return fvg__choose_avx512();
#elif defined(FVG__NEON_SIMD)
    case FVG_SIMD_NEON:   return &fvg__q8_format_neon;
#elif defined(FVG__WASM_SIMD)
    case FVG_SIMD_WASM:   return &fvg__q8_format_wasm;
#endif
    default:              return &fvg__q8_scalar;
  }
}

#ifdef FVG__HAS_AVX512_BF16
/* Does the CPU multiply bfloat16 faster than floats?  AMD's do, from Zen 4 on.  Intel's from
   Sapphire Rapids on, which half precision tells from those before, take four times as long for a
   vdpbf16ps as for a multiply-add of floats (measured on Emerald Rapids): their matrix unit, AMX,
   is meant to do it. */
static int fvg__multiplies_bf16(int level) {
  int has_bytes = fvg__has_feature(0, 1, 30);
  int has_products = fvg__has_feature(1, 0, 5);
  int is_slow = __builtin_cpu_is("intel") && fvg__has_feature(0, 3, 23);
  return level == FVG_SIMD_AVX512 && has_bytes && has_products && !is_slow;
}
#endif

/* Panels of pairs for CPUs that do not multiply bfloat16, or are slow at it.  They are widened to
   the panels of the level, which are 8, 16 or 32 columns wide: number tile_cols / 16. */
static const fvg__narrow fvg__bf16_widened[3] = {
  {FVG_BF16_PANELS, 0, 4, 2, 2, 2, 0, NULL, NULL},
  {FVG_BF16_PANELS, 0, 8, 2, 2, 2, 0, NULL, NULL},
  {FVG_BF16_PANELS, 0, 16, 2, 2, 2, 0, NULL, NULL}
};

static const fvg__narrow *fvg__choose_bf16(const fvg__kernels *kernels) {
#ifdef FVG__HAS_AVX512_BF16
  if (fvg__multiplies_bf16(kernels->level)) return &fvg__bf16_format_avx512;
#endif
  return &fvg__bf16_widened[kernels->tile_cols / 16];
}

/* ---- the product ---- */
#define FVG__NARROW_BLOCK 524288    /* bytes of words in a block of rows                          */

/* The distance in words from one row of x to the next.  It is an odd number of cache lines, so that
   the rows of a tile do not evict each other. */
static int fvg__words_step(const fvg__narrow *f, int k) {
  int lines = fvg__ceil_div(fvg__ceil_div(k, 16) * 16 / f->step, 16);
  return 16 * (lines | 1);
}

/* Room for one pass over the rows of x: words, and a scale for each row. */
static size_t fvg__narrow_floats(const fvg__narrow *f, int m, int k) {
  int rows = fvg__min(m, FVG__PASS_ROWS);
  size_t row_floats = sizeof(fvg__row_scale) / sizeof(float);
  return fvg__row(rows, fvg__words_step(f, k)) + (size_t)rows * row_floats;
}

/* One pass over the rows of x. */
typedef struct fvg__narrow_job {
  const fvg__product *p;
  const fvg__narrow_matrix *w;
  int32_t *words;                   /* [rows][words_step]                                         */
  fvg__row_scale *row;              /* [rows]                                                     */
  int row0, rows;                   /* of the pass                                                */
  int group;                        /* rows that one job converts                                 */
  int block_rows;                   /* rows that one job multiplies                               */
  int n_panels;
} fvg__narrow_job;

/* Job `index`: a group of rows becomes words. */
static void fvg__narrow_convert(void *arg, int index) {
  const fvg__narrow_job *j = (const fvg__narrow_job *)arg;
  const fvg__narrow *f = j->w->format;
  const fvg__product *p = j->p;
  int step = fvg__words_step(f, p->k);
  int end = fvg__min(j->rows, (index + 1) * j->group);

  for (int r = index * j->group; r < end; r++) {
    const float *x = (const float *)p->a.data + (j->row0 + r) * p->a.row;
    f->convert(p->k, x, 0, j->words + fvg__row(r, step), &j->row[r]);
  }
}

/* Job `index`: a block of rows times a panel.  The tiles share the prefetching of the next one. */
static void fvg__narrow_multiply(void *arg, int index) {
  const fvg__narrow_job *j = (const fvg__narrow_job *)arg;
  const fvg__narrow *f = j->w->format;
  const fvg__product *p = j->p;
  int cols = fvg__narrow_cols(f);
  int panel = index % j->n_panels;
  int j0 = panel * cols;
  int block = index / j->n_panels * j->block_rows;
  int rows = fvg__min(j->block_rows, j->rows - block);
  int n_tiles = fvg__ceil_div(rows, f->tile_rows);

  fvg__narrow_tile t;
  t.cols = fvg__min(cols, p->n - j0);
  t.steps = fvg__narrow_steps(f, p->k);
  t.a_row = fvg__words_step(f, p->k);
  t.ld_from = p->ld_from;
  t.ld_out = p->ld_out;
  t.scale = j->w->scale ? j->w->scale + j0 : NULL;
  t.sum = j->w->sum ? j->w->sum + j0 : NULL;
  t.bias = p->bias ? p->bias + j0 : NULL;

  int step_bytes = cols * f->step * f->bytes;
  size_t panel_bytes = fvg__row(t.steps, step_bytes);
  size_t share = panel_bytes / (size_t)n_tiles;
  int is_last = panel + 1 == j->n_panels;
  t.panel = j->w->panels + (size_t)panel * panel_bytes;
  t.ahead_step = is_last ? 0 : fvg__ceil_div(step_bytes, n_tiles);

  for (int tile = 0; tile < n_tiles; tile++) {
    int first = block + fvg__tile_begin(rows, n_tiles, tile);
    int row = j->row0 + first;
    t.rows = block + fvg__tile_begin(rows, n_tiles, tile + 1) - first;
    t.a = j->words + first * t.a_row;
    t.row = j->row + first;
    t.from = p->from ? p->from + row * p->ld_from + j0 : NULL;
    t.out = p->out + row * p->ld_out + j0;
    t.ahead = is_last ? t.panel : t.panel + panel_bytes + (size_t)tile * share;
    f->tile(&t);
  }
}

/* Computes a product with B = W^T, W narrow; A is in rows.  `room` has fvg__narrow_floats. */
static fvg_status fvg__narrow_product(fvg_ctx *c, const fvg__product *p, float *room) {
  fvg__narrow_job j;
  memset(&j, 0, sizeof j);
  j.p = p;
  j.w = (const fvg__narrow_matrix *)p->b.data;

  const fvg__narrow *f = j.w->format;
  int step = fvg__words_step(f, p->k);
  j.words = (int32_t *)(void *)room;
  j.row = (fvg__row_scale *)(void *)(room + fvg__row(fvg__min(p->m, FVG__PASS_ROWS), step));
  j.group = 1 + 8192 / p->k;
  j.n_panels = fvg__ceil_div(p->n, fvg__narrow_cols(f));

  int fitting = FVG__NARROW_BLOCK / (4 * step);
  int most = fvg__min(FVG__BLOCK_ROWS, fitting) / f->tile_rows * f->tile_rows;
  j.block_rows = most ? most : f->tile_rows;

  fvg_status s = FVG_OK;
  int worth_threads = (double)p->m * p->n * p->k > FVG__WORTH_THREADS;
  fvg_ctx *threads = worth_threads ? c : NULL;
  for (j.row0 = 0; !s && j.row0 < p->m; j.row0 += j.rows) {
    j.rows = fvg__min(FVG__PASS_ROWS, p->m - j.row0);
    int n_blocks = fvg__ceil_div(j.rows, j.block_rows);
    s = fvg__run_jobs(threads, fvg__narrow_convert, &j, fvg__ceil_div(j.rows, j.group));
    if (!s) s = fvg__run_jobs(threads, fvg__narrow_multiply, &j, n_blocks * j.n_panels);
  }
  return s;
}

/* ---- weights ---- */
/* How the numbers of one row of weights lie in the panels, counted in weights: number k at
   first + k / step * stride + within[k % step]. */
typedef struct fvg__narrow_row {
  size_t first, stride;
  int within[4];
} fvg__narrow_row;

static fvg__narrow_row fvg__narrow_row_at(const fvg__narrow_matrix *w, int j) {
  const fvg__narrow *f = w->format;
  int cols = fvg__narrow_cols(f);
  int vector = j % cols / f->lanes;
  int lane = j % f->lanes;

  fvg__narrow_row r;
  r.stride = (size_t)(cols * f->step);
  r.first = (size_t)(j / cols) * (size_t)fvg__narrow_steps(f, w->k) * r.stride;
  r.first += (size_t)(vector * f->lanes * f->step + lane * f->group);
  for (int i = 0; i < 4; i++)
    r.within[i] = i / f->group * f->lanes * f->group + i % f->group;
  return r;
}

/* Bytes up to the scales, and up to the panels, of a matrix with so many rows.  Sums lie after the
   scales. */
static size_t fvg__narrow_scales_at(void) { return fvg__round_up(sizeof(fvg__narrow_matrix)); }

static size_t fvg__narrow_panels_at(const fvg__narrow *f, int rows) {
  size_t row_bytes = f->type == FVG_Q8 ? sizeof(float) + sizeof(int32_t) : 0;
  return fvg__narrow_scales_at() + fvg__round_up((size_t)rows * row_bytes);
}

/* The rows of a matrix with those that fill the last panel, and the bytes of all panels. */
static int fvg__narrow_rows(const fvg__narrow_matrix *w) {
  int cols = fvg__narrow_cols(w->format);
  return fvg__ceil_div(w->n, cols) * cols;
}

static size_t fvg__narrow_bytes(const fvg__narrow_matrix *w) {
  const fvg__narrow *f = w->format;
  size_t n_step = fvg__row(fvg__narrow_rows(w), fvg__narrow_steps(f, w->k));
  return n_step * (size_t)(f->step * f->bytes);
}

/* A matrix of zeros; NULL when out of memory. */
static fvg__narrow_matrix *fvg__narrow_new(fvg_ctx *c, const fvg__narrow *f, int n, int k) {
  fvg__narrow_matrix head;
  head.format = f;
  head.n = n;
  head.k = k;

  size_t panels_at = fvg__narrow_panels_at(f, fvg__narrow_rows(&head));
  char *block = (char *)fvg_alloc(c, panels_at + fvg__narrow_bytes(&head));
  if (!block) return NULL;
  head.scale = f->type == FVG_Q8 ? (float *)(void *)(block + fvg__narrow_scales_at()) : NULL;
  head.sum = head.scale ? (int32_t *)(void *)(head.scale + fvg__narrow_rows(&head)) : NULL;
  head.panels = (uint8_t *)block + panels_at;

  if (f->shift) memset(head.panels, f->shift, fvg__narrow_bytes(&head));
  memcpy(block, &head, sizeof head);
  return (fvg__narrow_matrix *)(void *)block;
}

/* Number i of an array of integers of 1, 2 or 4 bytes each. */
static int fvg__whole_at(const void *numbers, int bytes, int i) {
  if (bytes == 1) return ((const int8_t *)numbers)[i];
  if (bytes == 2) return ((const int16_t *)numbers)[i];
  return ((const int32_t *)numbers)[i];
}

/* Writes row j, integers of eight bits or the bits of bfloat16, from k integers of `bytes` each. */
static void fvg__narrow_put_row(fvg__narrow_matrix *w, int j, const void *numbers, int bytes) {
  const fvg__narrow *f = w->format;
  fvg__narrow_row r = fvg__narrow_row_at(w, j);
  int32_t sum = 0;

  for (int k0 = 0; k0 < w->k; k0 += f->step) {
    size_t at = r.first + (size_t)(k0 / f->step) * r.stride;
    for (int i = 0; i < f->step && k0 + i < w->k; i++) {
      int number = fvg__whole_at(numbers, bytes, k0 + i);
      if (f->type == FVG_Q8) {
        w->panels[at + (size_t)r.within[i]] = (uint8_t)(number + f->shift);
        sum += number;
      } else {
        ((uint16_t *)(void *)w->panels)[at + (size_t)r.within[i]] = (uint16_t)number;
      }
    }
  }
  if (w->sum) w->sum[j] = sum;
}

/* Rounds x [k] to integers q [k], and returns their scale, by the kernel that will round what they
   are multiplied with; `words` has room for them. */
FVG__FOR_CLIP static float fvg__round_to_q8(const fvg_ctx *c, int k, const float *x, void *words,
                                            int8_t *q) {
  fvg__row_scale s;
  c->q8->convert(k, x, 1, words, &s);
  for (int i = 0; i < k; i++)
    q[i] = (int8_t)fvg__whole_at(words, 4 / c->q8->step, i);
  return s.scale;
}

/* Writes x [k] as row j, rounded.  0 if a number is not finite. */
static int fvg__narrow_round_row(fvg__narrow_matrix *w, int j, const float *x, void *words) {
  fvg__row_scale s;
  w->format->convert(w->k, x, 1, words, &s);
  if (w->scale) w->scale[j] = s.scale;
  fvg__narrow_put_row(w, j, words, 4 / w->format->step);
  return s.scale == s.scale;
}

/* Weight `at` of the panels of a row whose scale is given. */
static float fvg__narrow_value(const fvg__narrow_matrix *w, size_t at, float scale) {
  if (w->format->type == FVG_BF16_PANELS)
    return fvg_bfloat_to_float(((const uint16_t *)(const void *)w->panels)[at]);
  int q = w->format->shift ? w->panels[at] - w->format->shift : ((int8_t *)w->panels)[at];
  return (float)q * scale;
}

/* Number k of row j. */
FVG__FOR_CLIP static float fvg__narrow_number(const fvg__narrow_matrix *w, int j, int k) {
  fvg__narrow_row r = fvg__narrow_row_at(w, j);
  int step = w->format->step;
  size_t at = r.first + (size_t)(k / step) * r.stride + (size_t)r.within[k % step];
  return fvg__narrow_value(w, at, w->scale ? w->scale[j] : 1);
}

/* to[i ld] = number k0 + i of row j, for i < n; k0 is a multiple of 4. */
static void fvg__narrow_widen(const fvg__narrow_matrix *w, int j, int k0, int n, float *to,
                              ptrdiff_t ld) {
  int step = w->format->step;
  float scale = w->scale ? w->scale[j] : 1;
  fvg__narrow_row r = fvg__narrow_row_at(w, j);
  size_t at = r.first + (size_t)(k0 / step) * r.stride;

  for (int i = 0; i < n; i += step, at += r.stride)
    for (int part = 0; part < step && i + part < n; part++)
      to[(i + part) * ld] = fvg__narrow_value(w, at + (size_t)r.within[part], scale);
}

/* to[i ld] = number k0 + i of row j of weights that are not F32, for i < n.  4 divides k0. */
static void fvg__widen_row(const fvg__operand *w, int j, int k0, int n, float *to,
                           ptrdiff_t ld) {
  if (fvg__is_narrow(w->type)) {
    fvg__narrow_widen((const fvg__narrow_matrix *)w->data, j, k0, n, to, ld);
    return;
  }

  /* One stride is 1, the other the length of a row. */
  const uint16_t *half = (const uint16_t *)w->data + j * (w->row > w->col ? w->row : w->col) + k0;
  for (int i = 0; i < n; i++)
    to[i * ld] = fvg__load_float((const uint8_t *)(half + i), w->type);
}

/* The pairs of bfloat16 of the panel that begins with row j, from number k of each row on. */
static const uint16_t *fvg__pairs_at(const fvg__operand *b, int j, int k) {
  const fvg__narrow_matrix *w = (const fvg__narrow_matrix *)b->data;
  const uint16_t *pairs = (const uint16_t *)(const void *)w->panels;
  int row = 2 * fvg__narrow_steps(w->format, w->k);
  return pairs + fvg__row(j, row) + fvg__row(k / 2, 2 * fvg__narrow_cols(w->format));
}

/* to[i][r] = number k + i of row j + r, for i < n and all rows of the panel that begins with j.  If
   n is odd, one more row of `to` is written. */
static void fvg__widen_pairs(const fvg__kernels *kernels, const fvg__operand *b, int j, int k,
                             int n, float *to) {
  const uint16_t *pairs = fvg__pairs_at(b, j, k);
  int width = kernels->tile_cols;

  for (int i = 0; i < n; i += 2) {
    kernels->widen_pairs(width, pairs, to + i * width, to + (i + 1) * width);
    pairs += 2 * width;
  }
}

/* to[i width + r] = number k + i of row j + r of eight-bit weights, for i < n and r < rows.  Row j
   is the first of a vector of columns. */
static void fvg__widen_bytes(const fvg__narrow_matrix *w, int j, int rows, int k, int n, float *to,
                             int width) {
  const fvg__narrow *f = w->format;
  int lanes = f->lanes;

  for (int r0 = 0; r0 < rows; r0 += lanes) {
    fvg__narrow_row row = fvg__narrow_row_at(w, j + r0);
    const float *scale = w->scale + j + r0;
    int in_vector = fvg__min(lanes, rows - r0);

    for (int i = 0; i < n; i++) {
      size_t step = (size_t)((k + i) / f->step);
      const uint8_t *q = w->panels + row.first + step * row.stride + row.within[(k + i) % f->step];
      float *to_row = to + i * width + r0;

      /* 128 is taken off, where it was added, by its bit. */
      for (int r = 0; r < in_vector; r++)
        to_row[r] = (float)(int8_t)(q[r * f->group] ^ f->shift) * scale[r];
    }
  }
}

/* A part of a panel of narrow weights, whichever they are, as floats. */
static void fvg__widen_panel(const fvg__kernels *kernels, const fvg__operand *b, int j, int rows,
                             int k, int n, float *to) {
  if (b->type == FVG_BF16_PANELS)
    fvg__widen_pairs(kernels, b, j, k, n, to);
  else
    fvg__widen_bytes((const fvg__narrow_matrix *)b->data, j, rows, k, n, to, kernels->tile_cols);
}

/* In backward, panels are widened and transposed in squares. */
static void fvg__transpose_panels(const fvg__kernels *kernels, const fvg__operand *b, int k0,
                                  int depth, int j0, int cols, float *panel, fvg__next_copy next) {
  float square[FVG__PANEL_COLS * FVG__PANEL_COLS];
  int width = kernels->tile_cols;

  for (int k = 0; k < depth; k += width) {
    int rows = fvg__min(width, depth - k);
    fvg__widen_panel(kernels, b, k0 + k, rows, j0, cols, square);
    kernels->transpose(cols, rows, square, width, panel + k * width, width);

    if (b->type == FVG_BF16_PANELS && (next.k != 0 || next.j != 0)) {
      const uint16_t *pairs = fvg__pairs_at(b, k0 + k + next.k, j0 + next.j);
      fvg__prefetch((const float *)(const void *)pairs, cols * width / 2);
    }
  }
}

/* Are weights that are not F32 read along their rows, as in forward?  Of a matrix with one column,
   strides do not tell.  In forward it has a single k; in backward only if it is a single number,
   which is the same both ways. */
static int fvg__is_forward(const fvg__operand *b, int k0, int depth) {
  if (!FVG__TRAINS) return 1;
  if (b->row == 1 && b->col == 1) return k0 == 0 && depth == 1;
  return b->row == 1;
}

/* Chapter 7's copy of a panel, from weights that are read along their rows or, in backward, as they
   lie. */
static void fvg__copy_widened(const fvg__kernels *kernels, const fvg__operand *b, int k0, int depth,
                              int j0, int cols, float *panel, fvg__next_copy next) {
  int width = kernels->tile_cols;
  int forward = fvg__is_forward(b, k0, depth);

  if (fvg__is_narrow(b->type) && forward)
    fvg__widen_panel(kernels, b, j0, cols, k0, depth, panel);
  else if (fvg__is_narrow(b->type))
    fvg__transpose_panels(kernels, b, k0, depth, j0, cols, panel, next);
  else if (forward)
    for (int j = 0; j < cols; j++)
      fvg__widen_row(b, j0 + j, k0, depth, panel + j, width);
  else
    for (int k = 0; k < depth; k++)
      fvg__widen_row(b, k0 + k, j0, cols, panel + k * width, 1);
}

/* A matrix with one column is too small to be worth it. */
static const float *fvg__pairs_ahead(const fvg__operand *b, int k, int j) {
  if (b->type != FVG_BF16_PANELS || b->row != 1 || b->col == 1) return NULL;
  return (const float *)(const void *)fvg__pairs_at(b, j, k);
}

/* Fails unless rows of k weights can be multiplied as integers: each sum must fit in 32 bits. */
static fvg_status fvg__check_q8_width(fvg_ctx *c, const char *who, int k) {
  if (k <= FVG__Q8_DEPTH) return FVG_OK;
  return fvg_fail(c, FVG_E_UNSUPPORTED,
                  "%s: rows of %d numbers; eight-bit weights have at most %d, since their sums "
                  "must fit in 32 bits", who, k, FVG__Q8_DEPTH);
}

/* Gives x its narrow matrix in place of rows. */
static void fvg__become_narrow(fvg_ctx *c, fvg_tensor *x, fvg__narrow_matrix *w) {
  fvg_release(c, x->data);
  x->data = w;
  x->type = w->format->type;
}

/* Rounds row by row into new memory, so that x is whole until all of it is right. */
FVG_DEF fvg_status fvg_tensor_quantise(fvg_ctx *c, fvg_tensor *x) {
  if (!x) return fvg__missing(c, "quantise", "the tensor");
  if (x->type == FVG_Q8) return FVG_OK;
  fvg_status s = fvg__check_matrix(c, x, FVG_F32, "quantise");
  if (s) return s;

  int n = x->dim[0];
  int k = (int)(fvg_tensor_count(x) / (size_t)n);
  s = fvg__check_q8_width(c, "quantise", k);
  if (s) return s;

  int32_t *words = FVG_NEW_ARRAY(c, int32_t, (size_t)fvg__words_step(c->q8, k));
  fvg__narrow_matrix *w = fvg__narrow_new(c, c->q8, n, k);
  if (!words || !w) s = FVG_E_NOMEM;
  for (int j = 0; !s && j < n; j++)
    if (!fvg__narrow_round_row(w, j, (const float *)x->data + fvg__row(j, k), words))
      s = fvg_fail(c, FVG_E_NUMERIC, "quantise: row %d has a number that is not finite", j);

  fvg_release(c, words);
  if (s) fvg_release(c, w);
  else fvg__become_narrow(c, x, w);
  return s;
}

static fvg_status fvg__widen_q8(fvg_ctx *c, fvg_tensor *x) {
  const fvg__narrow_matrix *w = (const fvg__narrow_matrix *)x->data;
  float *rows = FVG_NEW_ARRAY(c, float, fvg__row(w->n, w->k));
  if (!rows) return FVG_E_NOMEM;

  for (int j = 0; j < w->n; j++)
    fvg__narrow_widen(w, j, 0, w->k, rows + fvg__row(j, w->k), 1);
  fvg_release(c, x->data);
  x->data = rows;
  x->type = FVG_F32;
  return FVG_OK;
}

/* Brings rows of bfloat16 into panels. */
static fvg_status fvg__pack_bf16(fvg_ctx *c, fvg_tensor *x) {
  fvg_status s = fvg__check_matrix(c, x, FVG_BF16, "pack");
  if (s) return s;

  int n = x->dim[0];
  int k = (int)(fvg_tensor_count(x) / (size_t)n);
  if (k > 1 << 28)
    return fvg_fail(c, FVG_E_UNSUPPORTED, "pack: rows of %d numbers; 2^28 is the most", k);

  fvg__narrow_matrix *w = fvg__narrow_new(c, c->bf16, n, k);
  if (!w) return FVG_E_NOMEM;

  for (int j = 0; j < n; j++)
    fvg__narrow_put_row(w, j, (const uint16_t *)x->data + fvg__row(j, k), 2);
  fvg__become_narrow(c, x, w);
  return FVG_OK;
}

/*==================================================================================================
 * CHAPTER 9  TAPE: memory and order of a computation
 *==================================================================================================
   Reverse-mode differentiation in three sentences.  Every operation computes its value at once and
   writes a node on a tape: shape, value, inputs, and which operation it was, for that knows its
   derivative.  fvg_backward sets the gradient of the loss to 1 and walks the tape from its end
   to its start; each node adds its share to the gradients of its inputs,  dL/da += dL/dy dy/da.
   Nothing else is needed, because the users of a node all come later on the tape than the node
   itself.

       L = sum((x w)^2)

       forward    u = x w    ->    s = u u     ->    L = sum s
       backward   dw += x^T du  <-  du = 2 u ds  <-  ds = 1

   A node needs a gradient only if one of its inputs does.  Below the first trainable parameter
   nothing is saved or propagated, and no dW exists for a frozen W.  (Linnainmaa 1970; Griewank and
   Walther, Evaluating Derivatives, 2008.)

   Memory is a stack.  Nodes and their values are cut from large chunks; fvg_tape_mark notes the
   height and fvg_tape_reset returns to it, keeping the chunks.  fvg_tape_keep lets one code path
   serve training and inference: at the end of a transformer block it drops everything the block
   made except its result, unless a gradient will pass through, in which case it keeps all.

   Gradients live shorter than values.  Once a node has passed its gradient on, nobody reads that
   again.  Its memory goes to a list of spares, from which the next gradient of the same size is
   taken, so a deep network holds the gradients of one layer, not of all.  fvg_keep_grad exempts a
   node.

   fvg_recompute saves the memory of values, too.  It runs a function without gradients and keeps
   only the result.  When the walk back arrives, it runs the function again at the end of the tape,
   walks back through it, and rewinds.  Meanwhile the list of spares is put aside, since memory
   above the mark is about to be given back. */

#define FVG__TAPE_CHUNK      ((size_t)1 << 20)  /* bytes of the first chunk of a tape             */
#define FVG__TAPE_CHUNK_MOST ((size_t)1 << 24)  /* of any chunk, unless one tensor is larger      */

typedef struct fvg__chunk {
  struct fvg__chunk *next, *previous;
  size_t start;                     /* position of its first byte on the tape                     */
  size_t capacity;                  /* bytes                                                      */
  char *bytes;
} fvg__chunk;

/* A gradient's memory that is free again; this entry is written into that memory. */
typedef struct fvg__spare {
  struct fvg__spare *next;
  size_t count;                     /* floats                                                     */
} fvg__spare;

struct fvg_tape {
  fvg_ctx *ctx;
  fvg__chunk *first, *current;
  size_t used;                      /* bytes of the current chunk                                 */
  fvg_node *last;
  int failed;                       /* a node failed; none can be made until the tape is reset    */
  int no_grad;                      /* > 0: new nodes need no gradient                            */
  int twice;                        /* > 0: within the function of fvg_recompute, which must give
                                       the same values both times                                 */
  int params_fixed;                 /* 1: fvg_param makes constants of all it is given           */
  fvg__spare *spare;
  fvg_parameter *const *train;      /* [n_train], see fvg_tape_train                              */
  int n_train;
};

/* How a node was made.  A node holds this number and not a pointer to the code of its derivative:
   so a program that never calls fvg_backward need not contain the derivatives, and the linker can
   leave them out. */
typedef enum fvg__operation {
  FVG__BY_NONE = 0,
  FVG__BY_ADD, FVG__BY_MUL, FVG__BY_SCALE, FVG__BY_LINEAR, FVG__BY_LAYER_NORM, FVG__BY_EXP,
  FVG__BY_RELU, FVG__BY_SIGMOID, FVG__BY_GELU, FVG__BY_QUICK_GELU, FVG__BY_SOFTMAX,
  FVG__BY_NORMALIZE, FVG__BY_CONCAT, FVG__BY_GATHER, FVG__BY_TRANSPOSE, FVG__BY_LERP,
  FVG__BY_SUM, FVG__BY_CROSS_ENTROPY, FVG__BY_KL_ROWS, FVG__BY_BCE, FVG__BY_ATTENTION,
  FVG__BY_RECOMPUTE
} fvg__operation;

struct fvg_node {
  fvg_tape *tape;
  fvg_node *previous;               /* the node made before this one                              */
  int rows, cols;
  int needs_grad;
  int twice;                        /* the tape's `twice` when the node was made                  */
  int writable;                     /* fvg_fill may write to it                                   */
  int keep_grad;                    /* its gradient's memory is not reused                        */
  fvg_dtype type;
  void *value;                      /* [rows, cols]                                               */
  float *grad;                      /* [rows, cols]; NULL until a gradient arrives                */
  fvg__operation made_by;           /* FVG__BY_NONE: a leaf, which passes no gradient on          */
  fvg_node *a, *b, *c, *d;          /* the inputs                                                 */

  /* What forward leaves for backward, as each operation needs it: */
  float *saved;
  const void *table;                /* indices, labels or segments                                */
  int n;                            /* entries of the table                                       */
  float number;                     /* a scale, a temperature, an eps, a number of heads          */
};

static size_t fvg__count(const fvg_node *x) {
  return fvg__row(x->rows, x->cols);
}

static float *fvg__values(const fvg_node *x) { return (float *)x->value; }

FVG_DEF fvg_tape *fvg_tape_new(fvg_ctx *c) {
  fvg_tape *t = FVG_NEW(c, fvg_tape);
  if (t) t->ctx = c;
  return t;
}

/* Marks the tape as failed.  Without the flag, linear(x, w, NULL) could mean two things: a layer
   without a bias, or one whose bias could not be made. */
static fvg_node *fvg__give_up(fvg_tape *t) {
  t->failed = 1;
  return NULL;
}

/* Refuses an array that is NULL where a node needs it. */
static fvg_node *fvg__null_array(fvg_tape *t, const char *function, const char *array) {
  if (t->failed) return NULL;
  fvg__missing(t->ctx, function, array);
  return fvg__give_up(t);
}

/* Refuses operands of which one or more are NULL; c is b again for an operation of two.  If their
   tape has failed, the NULL comes from that failure, whose message stays. */
static fvg_node *fvg__null_operand(const char *what, const fvg_node *a, const fvg_node *b,
                                   const fvg_node *c) {
  const fvg_node *other = a ? a : b ? b : c;
  if (!other || other->tape->failed) return NULL;

  int first = !a ? 1 : !b ? 2 : 3;
  fvg_fail(other->tape->ctx, FVG_E_ARG, "%s: operand %d is NULL", what, first);
  return fvg__give_up(other->tape);
}

/* ---- memory ---- */
static void fvg__chunk_free(fvg_tape *t, fvg__chunk *k) {
  fvg_ctx *c = t->ctx;
  const size_t before = c->used;
  fvg_release(c, k->bytes);
  fvg_release(c, k);
  c->tape_bytes -= before - c->used;
}

/* A new chunk is as large as all before it together, within 1 to 16 MB.  So there are few chunks,
   and the tape takes at most twice what it needs. */
static size_t fvg__chunk_size(const fvg__chunk *last, size_t bytes) {
  size_t size = last ? last->start + last->capacity : 0;
  if (size > FVG__TAPE_CHUNK_MOST) size = FVG__TAPE_CHUNK_MOST;
  if (size < FVG__TAPE_CHUNK) size = FVG__TAPE_CHUNK;
  return size > bytes ? size : bytes;
}

/* A chunk is counted apart, because it needs no room in the budget of a file (chapter 1). */
static fvg__chunk *fvg__chunk_new(fvg_tape *t, size_t bytes) {
  fvg_ctx *c = t->ctx;
  const fvg__budget budget = c->budget;
  const size_t before = c->used;

  c->budget.most = 0;
  fvg__chunk *k = FVG_NEW(c, fvg__chunk);
  if (k) {
    k->capacity = bytes;
    k->bytes = (char *)fvg__alloc_raw(c, bytes);
  }
  c->budget = budget;

  if (k && !k->bytes) {
    fvg_release(c, k);
    k = NULL;
  }
  c->tape_bytes += c->used - before;
  return k;
}

/* A new chunk of the usual size or, if an arena has no room for that, of a smaller one.  Only the
   last attempt counts as a failure, so the message of those before it is taken back. */
static fvg__chunk *fvg__chunk_fitted(fvg_tape *t, size_t bytes) {
  fvg_ctx *c = t->ctx;
  fvg_status status = c->status;
  char message[sizeof c->message];
  memcpy(message, c->message, sizeof message);

  size_t size = FVG__SEPARATE_BLOCKS ? bytes : fvg__chunk_size(t->current, bytes);
  fvg__chunk *k = fvg__chunk_new(t, size);
  while (!k && c->desc.arena && size > bytes) {
    size = size / 2 > bytes ? size / 2 : bytes;
    k = fvg__chunk_new(t, size);
  }
  if (!k) return NULL;

  c->status = status;
  memcpy(c->message, message, sizeof message);
  return k;
}

/* The chunk after the current one: one that an earlier pass has left, or a new one.  Chunks that
   are left but too small are released. */
static fvg__chunk *fvg__next_chunk(fvg_tape *t, size_t bytes) {
  fvg__chunk *current = t->current;
  fvg__chunk **link = current ? &current->next : &t->first;

  while (*link && (*link)->capacity < bytes) {
    fvg__chunk *small = *link;
    *link = small->next;
    fvg__chunk_free(t, small);
  }

  if (!*link) *link = fvg__chunk_fitted(t, bytes);
  fvg__chunk *next = *link;
  if (!next) return NULL;

  next->previous = current;
  next->start = 0;
  if (current)
    next->start = current->start + (FVG__SEPARATE_BLOCKS ? 1 : current->capacity);
  return next;
}

/* Uninitialised, aligned memory that lives until the tape is reset below it; NULL when out of
   memory. */
static void *fvg__tape_alloc(fvg_tape *t, size_t bytes) {
  fvg__chunk *k = t->current;

  if (!FVG__SEPARATE_BLOCKS) {
    bytes = (bytes + FVG__ALIGN - 1) / FVG__ALIGN * FVG__ALIGN;
    if (k && k->capacity - t->used >= bytes) {
      char *memory = k->bytes + t->used;
      t->used += bytes;
      return memory;
    }
  }

  k = fvg__next_chunk(t, bytes);
  if (!k) {
    t->failed = 1;
    return NULL;
  }
  t->current = k;
  t->used = bytes;
  return k->bytes;
}

static float *fvg__tape_floats(fvg_tape *t, size_t n) {
  return (float *)fvg__tape_alloc(t, n * sizeof(float));
}

/* A position grows by the bytes of every allocation, or by one where each has its own block. */
FVG_DEF fvg_mark fvg_tape_mark(const fvg_tape *t) {
  fvg_mark mark;
  mark.position = 0;
  if (t->current)
    mark.position = t->current->start + (FVG__SEPARATE_BLOCKS ? 1 : t->used);
  mark.last = t->last;
  return mark;
}

/* Returns to the height of the mark; what is below it stays as it is. */
static void fvg__tape_rewind(fvg_tape *t, fvg_mark mark) {
  while (t->current && t->current->start >= mark.position) {
    fvg__chunk *top = t->current;
    t->current = top->previous;

    if (FVG__SEPARATE_BLOCKS) {
      if (t->current) t->current->next = NULL;
      else t->first = NULL;
      fvg__chunk_free(t, top);
    }
  }

  fvg__chunk *k = t->current;
  if (k)
    t->used = FVG__SEPARATE_BLOCKS ? k->capacity : mark.position - k->start;
  t->last = mark.last;
}

FVG_DEF void fvg_tape_reset(fvg_tape *t, fvg_mark mark) {
  fvg__tape_rewind(t, mark);
  t->failed = 0;
  t->spare = NULL;
}

FVG_DEF void fvg_tape_clear(fvg_tape *t) {
  fvg_mark bottom = {0, NULL};
  fvg_tape_reset(t, bottom);
}

FVG_DEF void fvg_tape_free(fvg_tape *t) {
  if (!t) return;

  fvg_tape_clear(t);
  while (t->first) {
    fvg__chunk *k = t->first;
    t->first = k->next;
    fvg__chunk_free(t, k);
  }
  fvg_release(t->ctx, t);
}

/* ---- making a node ---- */
static fvg_node *fvg__mismatch(const char *what, const fvg_node *a, const fvg_node *b) {
  fvg_fail(a->tape->ctx, FVG_E_SHAPE, "%s: shapes [%d,%d] and [%d,%d] do not fit", what, a->rows,
           a->cols, b->rows, b->cols);
  return fvg__give_up(a->tape);
}

/* A node [rows, cols] without values, inputs or gradient. */
static fvg_node *fvg__leaf(fvg_tape *t, int rows, int cols) {
  if (!t || t->failed) return NULL;
  if (fvg__check_cancelled(t->ctx)) return fvg__give_up(t);

  if (rows < 1 || cols < 1) {
    fvg_fail(t->ctx, FVG_E_SHAPE, "a node of shape [%d,%d] has no elements", rows, cols);
    return fvg__give_up(t);
  }
  if ((size_t)rows > (size_t)-1 / 2 / sizeof(float) / (size_t)cols) {
    fvg_fail(t->ctx, FVG_E_NOMEM, "a node of shape [%d,%d] does not fit in memory", rows, cols);
    return fvg__give_up(t);
  }

  fvg_node *y = (fvg_node *)fvg__tape_alloc(t, sizeof *y);
  if (!y) return NULL;
  memset(y, 0, sizeof *y);
  y->tape = t;
  y->rows = rows;
  y->cols = cols;
  y->twice = t->twice;
  y->previous = t->last;
  t->last = y;
  return y;
}

/* An operand may be NULL: it then fits any tape and storage, and wants no gradient. */
static int fvg__on_tape(const fvg_node *x, const fvg_tape *t) {
  return !x || x->tape == t;
}

/* Within a function that fvg_recompute calls: does x, which needs a gradient, come from outside?
   The memory of that gradient would be given back before the walk reaches x. */
static int fvg__from_outside(const fvg_node *x, const fvg_tape *t) {
  return FVG__TRAINS && x && x->made_by && x->needs_grad && x->twice < t->twice;
}

static fvg_node *fvg__refuse_outside(fvg_tape *t) {
  fvg_fail(t->ctx, FVG_E_ARG, "recompute: the function uses a node from outside that needs a "
           "gradient; hand it in as x, or detach it");
  return fvg__give_up(t);
}

static int fvg__is_f32(const fvg_node *x) { return !x || x->type == FVG_F32; }

static int fvg__is_panels(fvg_dtype type) {
  return type == FVG_F32_PANELS || fvg__is_narrow(type);
}

static int fvg__wants_grad(const fvg_node *x) { return x && x->needs_grad; }

static fvg_node *fvg__wrong_storage(fvg_tape *t) {
  fvg_fail(t->ctx, FVG_E_ARG,
           "F16, BF16, Q8 and panels are storage for the weights of a linear layer, all but "
           "F32_PANELS also for rows to gather; every other operand must be F32");
  return fvg__give_up(t);
}

/* A node with room for its values; it needs a gradient if one of its inputs does.  The operation
   has checked how its inputs are stored: linear and gather, which take more than F32, call this. */
static fvg_node *fvg__node_any_storage(fvg_tape *t, int rows, int cols,
                                       fvg_node *a, fvg_node *b, fvg_node *c,
                                       fvg__operation made_by) {
  if (!fvg__on_tape(a, t) || !fvg__on_tape(b, t) || !fvg__on_tape(c, t)) {
    fvg_fail(t->ctx, FVG_E_ARG, "the operands of a node must be on one tape");
    return fvg__give_up(t);
  }
  if (fvg__from_outside(a, t) || fvg__from_outside(b, t) || fvg__from_outside(c, t))
    return fvg__refuse_outside(t);

  fvg_node *y = fvg__leaf(t, rows, cols);
  if (!y) return NULL;
  y->value = fvg__tape_floats(t, fvg__count(y));
  if (!y->value) return NULL;

  y->a = a;
  y->b = b;
  y->c = c;
  y->made_by = made_by;
  int wanted = FVG__TRAINS && (fvg__wants_grad(a) || fvg__wants_grad(b) || fvg__wants_grad(c));
  y->needs_grad = wanted && !t->no_grad;
  return y;
}

/* The same for all other operations, whose inputs are F32. */
static fvg_node *fvg__node(fvg_tape *t, int rows, int cols, fvg_node *a, fvg_node *b, fvg_node *c,
                           fvg__operation made_by) {
  if (!fvg__is_f32(a) || !fvg__is_f32(b) || !fvg__is_f32(c))
    return fvg__wrong_storage(t);
  return fvg__node_any_storage(t, rows, cols, a, b, c, made_by);
}

static fvg_node *fvg__fourth_input(fvg_node *y, fvg_node *d) {
  if (d->type != FVG_F32 || d->tape != y->tape) {
    fvg_fail(y->tape->ctx, FVG_E_ARG,
             "the operands of a node must be F32 and on one tape");
    return fvg__give_up(y->tape);
  }
  if (fvg__from_outside(d, y->tape)) return fvg__refuse_outside(y->tape);

  y->d = d;
  if (FVG__TRAINS && d->needs_grad && !y->tape->no_grad) y->needs_grad = 1;
  return y;
}

/* Moves x down to the mark, over the nodes that were made since.  Its values are moved first, for
   the node itself may be written where they were. */
FVG_DEF fvg_node *fvg_tape_keep(fvg_tape *t, fvg_mark mark, fvg_node *x) {
  if (!x || x->needs_grad) return x;
  if (fvg__is_panels(x->type)) return x;        /* panels lie outside the tape */

  int failed = t->failed;
  fvg_node kept = *x;
  size_t bytes = fvg__count(x) * fvg_dtype_size(x->type);
  void *from = x->value;

#if FVG__SEPARATE_BLOCKS
  /* The reset frees the block of the values, so they are copied to another one before. */
  from = fvg_alloc(t->ctx, bytes);
  if (!from) return fvg__give_up(t);
  memcpy(from, x->value, bytes);
#endif

  fvg_tape_reset(t, mark);
  t->failed = failed;

  fvg_node *y = (fvg_node *)fvg__tape_alloc(t, sizeof *y);
  void *value = y ? fvg__tape_alloc(t, bytes) : NULL;
  if (value) {
    memmove(value, from, bytes);
    kept.value = value;
    kept.previous = t->last;
    *y = kept;
    t->last = y;
  }

#if FVG__SEPARATE_BLOCKS
  fvg_release(t->ctx, from);
#endif
  return value ? y : NULL;
}

/* ---- leaves and access ---- */
FVG_DEF int fvg_rows(const fvg_node *x) { return x ? x->rows : 0; }
FVG_DEF int fvg_cols(const fvg_node *x) { return x ? x->cols : 0; }

FVG_DEF const float *fvg_value(const fvg_node *x) {
  return x && x->type == FVG_F32 ? fvg__values(x) : NULL;
}

FVG_DEF float *fvg_fill(fvg_node *x) { return x && x->writable ? fvg__values(x) : NULL; }

FVG_DEF const float *fvg_grad(const fvg_node *x) { return x ? x->grad : NULL; }

FVG_DEF void fvg_keep_grad(fvg_node *x) {
  if (x) x->keep_grad = 1;
}

FVG_DEF fvg_node *fvg_const(fvg_tape *t, int rows, int cols, const float *x) {
  if (t && !x) return fvg__null_array(t, "fvg_const", "the array of values");
  fvg_node *y = fvg__leaf(t, rows, cols);
  /* Copying the pointer drops its const; fvg_fill refuses such a node. */
  if (y) memcpy(&y->value, &x, sizeof y->value);
  return y;
}

FVG_DEF fvg_node *fvg_zeros(fvg_tape *t, int rows, int cols) {
  fvg_node *y = fvg__node(t, rows, cols, NULL, NULL, NULL, FVG__BY_NONE);
  if (!y) return NULL;
  memset(y->value, 0, fvg__count(y) * sizeof(float));
  y->writable = 1;
  return y;
}

FVG_DEF void fvg_tape_train(fvg_tape *t, fvg_parameter *const *params, int n) {
  if (!t) return;
  t->train = params;
  t->n_train = n;
}

/* Makes y, the leaf of w, trainable if fvg_tape_train was given a parameter with w's data. */
static fvg_node *fvg__train_leaf(fvg_node *y, const fvg_tensor *w) {
  fvg_tape *t = y->tape;

  for (int i = 0; i < t->n_train; i++) {
    fvg_parameter *p = t->train[i];
    if (p->value.data != w->data) continue;

    if (w->type != FVG_F32 || fvg_tensor_count(w) != fvg_tensor_count(&p->value)) {
      const char *why = "does not fit its tensor";
      if (fvg__is_narrow(w->type) || w->type == FVG_F16 || w->type == FVG_BF16)
        why = "is kept in few bits, and only F32 can be trained";
      if (w->type == FVG_F32_PANELS)
        why = "is packed for the kernels; fvg_tensor_unpack or fvg_clip_unpack comes first";
      fvg_fail(t->ctx, FVG_E_SHAPE, "fvg_tape_train: %s %s", p->name, why);
      return fvg__give_up(t);
    }
    y->needs_grad = 1;
    y->grad = p->grad;
  }
  return y;
}

/* The leaf of a tensor: [dim 0, the rest], or one row for a vector. */
FVG_DEF fvg_node *fvg_frozen(fvg_tape *t, const fvg_tensor *w) {
  if (!t) return NULL;
  if (!w) return fvg__null_array(t, "fvg_frozen", "the tensor");
  if (w->n_dim < 0 || w->n_dim > FVG_MAX_DIM) {
    fvg_fail(t->ctx, FVG_E_SHAPE, "a frozen tensor of %d dimensions, at most %d are possible",
             w->n_dim, FVG_MAX_DIM);
    return fvg__give_up(t);
  }
  if (!w->data || (w->type > FVG_BF16 && !fvg__is_panels(w->type))) {
    fvg_fail(t->ctx, FVG_E_ARG, "a frozen tensor must hold floats");
    return fvg__give_up(t);
  }

  /* cols becomes 0, which fvg__leaf refuses, if a dimension is 0 or the product exceeds an int. */
  int is_matrix = w->n_dim > 1;
  int rows = is_matrix ? w->dim[0] : 1;
  int cols = 1;
  for (int i = is_matrix ? 1 : 0; i < w->n_dim; i++) {
    int fits = w->dim[i] >= 1 && cols <= INT_MAX / w->dim[i];
    cols = fits ? cols * w->dim[i] : 0;
  }

  fvg_node *y = fvg__leaf(t, rows, cols);
  if (!y) return NULL;
  y->value = w->data;
  y->type = w->type;
  return FVG__TRAINS ? fvg__train_leaf(y, w) : y;
}

FVG_DEF fvg_node *fvg_param(fvg_tape *t, fvg_parameter *p) {
  if (t && !p) return fvg__null_array(t, "fvg_param", "the parameter");
  fvg_node *y = t ? fvg_frozen(t, &p->value) : NULL;
  if (!y) return NULL;
  if (y->type != FVG_F32) {
    fvg_fail(t->ctx, FVG_E_ARG,
             "parameter %s is not F32 in rows; fvg_tensor_unpack comes first if it is packed",
             p->name);
    return fvg__give_up(t);
  }

  if (t->params_fixed) return y;
  y->needs_grad = 1;
  y->grad = p->grad;
  return y;
}

FVG_DEF fvg_node *fvg_detach(fvg_node *x) {
  if (!x) return NULL;
  fvg_node *y = fvg_const(x->tape, x->rows, x->cols, fvg__values(x));
  if (y) y->type = x->type;
  return y;
}

/* Allocates the values and the gradient of a parameter, both zero. */
FVG_DEF fvg_status fvg_parameter_new(fvg_ctx *c, fvg_parameter *out, const char *name,
                                     int n_dim, const int *dim) {
  if (!out) return fvg__missing(c, "fvg_parameter_new", "the result");
  memset(out, 0, sizeof *out);
  if (n_dim > 0 && !dim) return fvg__missing(c, "fvg_parameter_new", "the shape");
  if (!name) name = "parameter";
  if (n_dim < 0 || n_dim > FVG_MAX_DIM)
    return fvg_fail(c, FVG_E_SHAPE, "%s: %d dimensions, at most %d are possible", name, n_dim,
                    FVG_MAX_DIM);

  fvg_tensor x;
  memset(&x, 0, sizeof x);
  x.n_dim = n_dim;
  for (int i = 0; i < n_dim; i++) {
    if (dim[i] < 1)
      return fvg_fail(c, FVG_E_SHAPE, "%s: dimension %d is %d", name, i, dim[i]);
    x.dim[i] = dim[i];
  }

  uint64_t bytes;
  char text[FVG__SHAPE_TEXT];
  if (fvg__checked_bytes(&x, sizeof(float), &bytes))
    return fvg_fail(c, FVG_E_NOMEM, "%s: shape %s does not fit in memory", name,
                    fvg__shape_text(&x, text));

  size_t count = fvg_tensor_count(&x);
  x.data = FVG_NEW_ARRAY(c, float, count);
  out->grad = FVG_NEW_ARRAY(c, float, count);
  out->name = name;
  out->value = x;
  if (x.data && out->grad) return FVG_OK;

  fvg_parameter_free(c, out);
  return FVG_E_NOMEM;
}

FVG_DEF void fvg_parameter_free(fvg_ctx *c, fvg_parameter *p) {
  if (!p) return;
  fvg_release(c, p->value.data);
  fvg_release(c, p->grad);
  memset(p, 0, sizeof *p);
}

/* ---- the walk back ---- */
/* Memory for a gradient of `count` floats: a spare one of this size, or new. */
static float *fvg__grad_memory(fvg_tape *t, size_t count) {
  for (fvg__spare **link = &t->spare; *link; link = &(*link)->next) {
    fvg__spare *spare = *link;
    if (spare->count == count) {
      *link = spare->next;
      return (float *)(void *)spare;
    }
  }

  size_t bytes = count * sizeof(float);
  if (bytes < sizeof(fvg__spare)) bytes = sizeof(fvg__spare);
  return (float *)fvg__tape_alloc(t, bytes);
}

/* Puts the gradient of y on the list of spares, now that y has passed it on. */
static void fvg__grad_done(fvg_node *y) {
  if (y->keep_grad) return;

  fvg__spare *spare = (fvg__spare *)(void *)y->grad;
  spare->count = fvg__count(y);
  spare->next = y->tape->spare;
  y->tape->spare = spare;
  y->grad = NULL;
}

/* The gradient of x, zeroed at its first use; NULL if x needs none or memory ran out. */
static float *fvg__grad_of(fvg_node *x) {
  if (!fvg__wants_grad(x)) return NULL;
  if (x->grad) return x->grad;

  x->grad = fvg__grad_memory(x->tape, fvg__count(x));
  if (x->grad)
    memset(x->grad, 0, fvg__count(x) * sizeof(float));
  return x->grad;
}

static int fvg__has_room(fvg_node *x) { return !fvg__wants_grad(x) || fvg__grad_of(x); }

/* Adds y's share to the gradients of its inputs; stands after the last operation (chapter 11). */
static void fvg__pass_back(fvg_node *y);

/* From y back to `end`, which is not visited: each node that got a gradient passes it on. */
static fvg_status fvg__walk_back(fvg_node *y, const fvg_node *end) {
  fvg_tape *t = y->tape;

  for (; y != end; y = y->previous) {
    if (!y->needs_grad || !y->grad || !y->made_by)
      continue;

    if (!fvg__has_room(y->a) || !fvg__has_room(y->b))
      return FVG_E_NOMEM;
    if (!fvg__has_room(y->c) || !fvg__has_room(y->d))
      return FVG_E_NOMEM;
    fvg__pass_back(y);
    if (t->failed) return t->ctx->status;
    fvg__grad_done(y);
  }
  return FVG_OK;
}

#ifndef FVGPT_NO_TRAINING  /* nobody asks for gradients */
/* Checks the loss, forgets gradients that an earlier loss left on this tape, and walks back. */
FVG_DEF fvg_status fvg_backward(fvg_node *loss) {
  if (!loss) return FVG_E_ARG;      /* the node that failed has left its message */

  fvg_tape *t = loss->tape;
  if (t->failed) return t->ctx->status;
  if (loss->rows != 1 || loss->cols != 1)
    return fvg_fail(t->ctx, FVG_E_SHAPE, "a loss must have shape [1,1], not [%d,%d]",
                    loss->rows, loss->cols);

  float value = fvg__values(loss)[0];
  if (!isfinite(value))
    return fvg_fail(t->ctx, FVG_E_NUMERIC, "the loss is %g", (double)value);
  if (!loss->needs_grad)
    return fvg_fail(t->ctx, FVG_E_ARG, "the loss depends on no parameter");

  for (fvg_node *y = t->last; y; y = y->previous)
    if (y->made_by) y->grad = NULL;
  t->spare = NULL;

  if (!fvg__grad_of(loss)) return FVG_E_NOMEM;
  loss->grad[0] += 1;
  return fvg__walk_back(loss, NULL);
}
#endif /* FVGPT_NO_TRAINING */

/* ---- recomputation ---- */
typedef struct fvg__recomputed {
  fvg_function f;
  void *user;
} fvg__recomputed;

/* Runs f once more, this time with all that backward needs, walks back through its nodes, and
   drops them. */
static void fvg__recompute_backward(fvg_node *y) {
  const fvg__recomputed *r = (const fvg__recomputed *)y->table;
  fvg_tape *t = y->tape;
  fvg_mark mark = fvg_tape_mark(t);
  fvg__spare *spare = t->spare;

  /* A stand-in for the input, whose gradient goes straight to the input's. */
  fvg_node *x = fvg_detach(y->a);
  if (!x) return;
  x->needs_grad = y->a->needs_grad;
  x->grad = y->a->grad;

  /* The list of spares is put aside: what lies above the mark must not be handed out later. */
  t->spare = NULL;
  t->twice++;
  fvg_node *again = r->f(t, x, r->user);
  t->twice--;

  /* f may return x itself or a parameter, whose gradient is not y's; a node is put between. */
  if (again && !again->made_by) again = fvg_scale(again, 1);

  if (!again || t->failed || again->rows != y->rows || again->cols != y->cols) {
    if (!t->failed)
      fvg_fail(t->ctx, FVG_E_ARG, "recompute: the function did not make the same node again");
    fvg__give_up(t);
    return;
  }

  if (again->needs_grad) {
    again->grad = y->grad;
    again->keep_grad = 1;           /* the memory is y's */
    if (fvg__walk_back(again, mark.last)) {
      fvg__give_up(t);
      return;
    }
  }
  fvg__tape_rewind(t, mark);
  t->spare = spare;
}

/* Makes y, which is f(x), a node of x that backward makes again.  It counts as needing a gradient,
   since f may use parameters that x does not depend on. */
static fvg_node *fvg__make_again(fvg_node *y, fvg_node *x, fvg_function f, void *user) {
  fvg__recomputed *r = (fvg__recomputed *)fvg__tape_alloc(y->tape, sizeof *r);
  if (!r) return NULL;
  r->f = f;
  r->user = user;

  y->a = x;
  y->b = NULL;
  y->c = NULL;
  y->d = NULL;
  y->table = r;
  y->needs_grad = !y->tape->no_grad;
  y->made_by = FVG__BY_RECOMPUTE;
  y->twice = y->tape->twice;
  return y;
}

/* y = f(x) without gradients; of f's nodes only the result stays. */
FVG_DEF fvg_node *fvg_recompute(fvg_node *x, fvg_function f, void *user) {
  if (!x || x->tape->failed) return NULL;

  fvg_tape *t = x->tape;
  if (!f) return fvg__null_array(t, "fvg_recompute", "the function");
  if (!FVG__TRAINS) return f(t, x, user);

  fvg_mark mark = fvg_tape_mark(t);
  t->no_grad++;
  t->twice++;
  fvg_node *y = f(t, fvg_detach(x), user);
  y = fvg_tape_keep(t, mark, y);
  t->twice--;
  t->no_grad--;

  if (!y) {
    if (!t->failed)
      fvg_fail(t->ctx, FVG_E_ARG, "recompute: the function returned no node");
    return fvg__give_up(t);
  }

  return fvg__make_again(y, x, f, user);
}

#ifndef FVGPT_NO_TRAINING  /* nor are they checked */
/* ---- gradients against differences ---- */
/* The value of f with *w replaced by x; NaN if f failed. */
static double fvg__value_at(fvg_tape *t, fvg_scalar_fn f, void *user, float *w, float x) {
  float saved = *w;
  fvg_tape_clear(t);

  *w = x;
  fvg_node *loss = f(t, user);
  *w = saved;
  return loss ? (double)fvg__values(loss)[0] : NAN;
}

/* The worst relative error over `probes` elements of p, spread evenly; NaN if one is met. */
static double fvg__worst_gradient(fvg_tape *t, fvg_scalar_fn f, void *user, fvg_parameter *p,
                                  int probes, float step) {
  size_t count = fvg_tensor_count(&p->value);
  float *w = (float *)p->value.data;

  float largest = 0;
  for (size_t k = 0; k < count; k++)
    if (fabsf(p->grad[k]) > largest)
      largest = fabsf(p->grad[k]);

  double worst = 0;
  for (int i = 0; i < probes; i++) {
    size_t k = count * (size_t)i / (size_t)probes;
    double up = fvg__value_at(t, f, user, &w[k], w[k] + step);
    double down = fvg__value_at(t, f, user, &w[k], w[k] - step);

    double numeric = (up - down) / (2 * (double)step);
    double analytic = (double)p->grad[k];
    double size = fabs(numeric) + fabs(analytic) + 1e-3 * (double)largest + 1e-12;
    double error = fabs(numeric - analytic) / size;
    if (isnan(error)) return error;
    if (error > worst) worst = error;
  }
  return worst;
}

/* One walk back gives all analytic gradients; every probe then runs f twice. */
FVG_DEF double fvg_gradient_check(fvg_ctx *c, fvg_scalar_fn f, void *user,
                                  fvg_parameter *const *params, int n_params,
                                  int probes, float step) {
  if (!f || (n_params > 0 && !params)) {
    fvg__missing(c, "fvg_gradient_check", f ? "the list of parameters" : "the function");
    return -1;
  }
  fvg_tape *t = fvg_tape_new(c);
  if (!t) return -1;

  for (int p = 0; p < n_params; p++)
    memset(params[p]->grad, 0, fvg_tensor_count(&params[p]->value) * sizeof(float));
  if (fvg_backward(f(t, user))) {
    fvg_tape_free(t);
    return -1;
  }

  double worst = 0;
  for (int p = 0; p < n_params && !isnan(worst); p++) {
    double error = fvg__worst_gradient(t, f, user, params[p], probes, step);
    if (isnan(error) || error > worst) worst = error;
  }
  fvg_tape_free(t);
  return worst;
}
#endif /* FVGPT_NO_TRAINING */

/*==================================================================================================
 * CHAPTER 10  OPERATIONS: each formula with its derivative
 *==================================================================================================
   Forward and backward stand side by side.  In the formulas dy is the gradient that has arrived at
   y, and da, db, dc are those of the inputs, to which backward adds.  In the code, the grad of an
   input that needs no gradient is NULL.

   Shapes are matrices throughout: a batch of sequences is packed row after row, and segments say
   which rows belong together (fvg_attention).  Losses end in [1,1]. */

static const fvg__kernels *fvg__kernels_of(const fvg_node *y) {
  return y->tape->ctx->kernels;
}

static const fvg__gradient_kernels *fvg__gradients_of(const fvg_node *y) {
  return fvg__gradient_kernels_of(fvg__kernels_of(y));
}

static int fvg__same_shape(const fvg_node *a, const fvg_node *b) {
  return a->rows == b->rows && a->cols == b->cols;
}

/* Row i of the values, or of the gradient, of a node. */
FVG__APART static float *fvg__value_row(const fvg_node *x, int i) {
  return fvg__values(x) + fvg__row(i, x->cols);
}

static float *fvg__grad_row(const fvg_node *x, int i) {
  return x->grad + fvg__row(i, x->cols);
}

/* Memory for y->saved, and a copy of n integers in y->table; 0 when out of memory. */
static int fvg__save_floats(fvg_node *y, size_t n) {
  y->saved = fvg__tape_floats(y->tape, n);
  return y->saved != NULL;
}

static int fvg__save_ints(fvg_node *y, const int *from, int n) {
  size_t bytes = (size_t)n * sizeof *from;
  void *copy = fvg__tape_alloc(y->tape, bytes);
  if (!copy) return 0;
  memcpy(copy, from, bytes);
  y->table = copy;
  return 1;
}

/* A node of x's shape whose only input is x; NULL if x is. */
static fvg_node *fvg__node_like(fvg_node *x, fvg__operation made_by) {
  return x ? fvg__node(x->tape, x->rows, x->cols, x, NULL, NULL, made_by) : NULL;
}

/* to += from, in parts because a kernel counts with an int. */
static void fvg__add_to(const fvg_ctx *c, float *to, const float *from, size_t n) {
  const size_t most = (size_t)1 << 24;

  while (n) {
    size_t part = n < most ? n : most;
    c->kernels->add((int)part, from, to);
    to += part;
    from += part;
    n -= part;
  }
}

/* ---- rows side by side ---- */
/* Works on rows [from, to) of y. */
typedef void (*fvg__rows_fn)(fvg_node *y, int from, int to);

typedef struct fvg__rows_job {
  fvg_node *y;
  fvg__rows_fn rows;
  int group;                        /* rows of a job                                              */
} fvg__rows_job;

static void fvg__rows_run(void *arg, int index) {
  const fvg__rows_job *j = (const fvg__rows_job *)arg;
  int from = index * j->group;
  int to = fvg__min(from + j->group, j->y->rows);
  j->rows(j->y, from, to);
}

/* Runs `rows` on all rows of y and returns y; NULL if y is NULL or the work was stopped.  Threads
   take groups of about 4,000 numbers; fewer than 32,768 numbers are done faster by one thread. */
static fvg_node *fvg__each_row(fvg_node *y, fvg__rows_fn rows) {
  if (!y) return NULL;

  fvg__rows_job j;
  j.y = y;
  j.rows = rows;
  j.group = fvg__count(y) < 32768 ? y->rows : 1 + 4096 / y->cols;

  int n_groups = fvg__ceil_div(y->rows, j.group);
  if (fvg_parallel(y->tape->ctx, fvg__rows_run, &j, n_groups))
    return fvg__give_up(y->tape);
  return y;
}

/* ---- add: y_ij = a_ij + b_ij;  da = dy,  db = dy, summed over broadcast rows and columns.
        a [n,d];  b [n,d], [1,d], [n,1] or [1,1] ---- */
static int fvg__broadcasts(const fvg_node *a, const fvg_node *b) {
  int rows_fit = b->rows == a->rows || b->rows == 1;
  int cols_fit = b->cols == a->cols || b->cols == 1;
  return rows_fit && cols_fit;
}

/* Where b_ij lies in b. */
static size_t fvg__broadcast_at(const fvg_node *b, int i, int j) {
  size_t row = b->rows == 1 ? 0 : (size_t)i;
  size_t col = b->cols == 1 ? 0 : (size_t)j;
  return row * (size_t)b->cols + col;
}

static void fvg__add_rows(fvg_node *y, int from, int to) {
  for (int i = from; i < to; i++) {
    const float *a_i = fvg__value_row(y->a, i);
    const float *b_i = fvg__values(y->b) + fvg__broadcast_at(y->b, i, 0);
    float *y_i = fvg__value_row(y, i);

    if (y->b->cols == 1)
      for (int j = 0; j < y->cols; j++)
        y_i[j] = a_i[j] + b_i[0];
    else
      for (int j = 0; j < y->cols; j++)
        y_i[j] = a_i[j] + b_i[j];
  }
}

static void fvg__add_backward_same_shape(fvg_node *y, int from, int to) {
  const fvg_ctx *c = y->tape->ctx;
  size_t n = fvg__row(to - from, y->cols);
  const float *dy = fvg__grad_row(y, from);
  if (y->a->grad)
    fvg__add_to(c, fvg__grad_row(y->a, from), dy, n);
  if (y->b->grad)
    fvg__add_to(c, fvg__grad_row(y->b, from), dy, n);
}

static void fvg__add_backward(fvg_node *y) {
  if (fvg__count(y->b) == fvg__count(y)) {
    fvg__each_row(y, fvg__add_backward_same_shape);
    return;
  }

  const float *dy = y->grad;
  float *da = y->a->grad;
  float *db = y->b->grad;
  size_t k = 0;
  for (int i = 0; i < y->rows; i++)
    for (int j = 0; j < y->cols; j++) {
      if (da)
        da[k] += dy[k];
      if (db)
        db[fvg__broadcast_at(y->b, i, j)] += dy[k];
      k++;
    }
}

FVG_DEF fvg_node *fvg_add(fvg_node *a, fvg_node *b) {
  if (!a || !b) return fvg__null_operand("add", a, b, b);
  if (!fvg__broadcasts(a, b)) return fvg__mismatch("add", a, b);
  fvg_node *y = fvg__node(a->tape, a->rows, a->cols, a, b, NULL, FVG__BY_ADD);
  return fvg__each_row(y, fvg__add_rows);
}

/* ---- mul: y_ij = a_ij b_ij;  da = dy b,  db = dy a, summed as in add ---- */
static void fvg__mul_backward(fvg_node *y) {
  const float *a = fvg__values(y->a);
  const float *b = fvg__values(y->b);
  const float *dy = y->grad;
  float *da = y->a->grad;
  float *db = y->b->grad;

  size_t k = 0;
  for (int i = 0; i < y->rows; i++)
    for (int j = 0; j < y->cols; j++) {
      size_t at = fvg__broadcast_at(y->b, i, j);
      if (da) da[k] += dy[k] * b[at];
      if (db) db[at] += dy[k] * a[k];
      k++;
    }
}

FVG_DEF fvg_node *fvg_mul(fvg_node *a, fvg_node *b) {
  if (!a || !b) return fvg__null_operand("mul", a, b, b);
  if (!fvg__broadcasts(a, b)) return fvg__mismatch("mul", a, b);
  fvg_node *y = fvg__node(a->tape, a->rows, a->cols, a, b, NULL, FVG__BY_MUL);
  if (!y) return NULL;

  for (int i = 0; i < y->rows; i++) {
    const float *a_i = fvg__value_row(a, i);
    float *y_i = fvg__value_row(y, i);
    for (int j = 0; j < y->cols; j++)
      y_i[j] = a_i[j] * fvg__values(b)[fvg__broadcast_at(b, i, j)];
  }
  return y;
}

/* ---- scale: y = s x;  dx = s dy ---- */
static void fvg__scale_backward(fvg_node *y) {
  float *dx = y->a->grad;
  size_t n = fvg__count(y);
  for (size_t k = 0; k < n; k++)
    dx[k] += y->number * y->grad[k];
}

FVG_DEF fvg_node *fvg_scale(fvg_node *x, float s) {
  fvg_node *y = fvg__node_like(x, FVG__BY_SCALE);
  if (!y) return NULL;

  y->number = s;
  size_t n = fvg__count(y);
  for (size_t k = 0; k < n; k++)
    fvg__values(y)[k] = s * fvg__values(x)[k];
  return y;
}

/* ---- linear: y = x w^T + b + r;  dx = dy w,  dw = dy^T x,  db = sum of the rows of dy,  dr = dy.
        x [n,k], w [m,k], b [1,m] or NULL, r [n,m] or NULL -> y [n,m] ---- */
static fvg__product fvg__product_of(int m, int n, int k, fvg__operand a, fvg__operand b) {
  fvg__product p;
  memset(&p, 0, sizeof p);
  p.m = m;
  p.n = n;
  p.k = k;
  p.a = a;
  p.b = b;
  return p;
}

/* The weights of a node as an operand, in whatever type they are stored. */
static fvg__operand fvg__operand_of(const fvg_node *w, ptrdiff_t row, ptrdiff_t col) {
  fvg__operand x = fvg__matrix(fvg__values(w), row, col);
  x.type = w->type;
  return x;
}

/* Are these weights multiplied as they are, by words of x?  Bfloat16 may be widened instead. */
static int fvg__has_words(const fvg_node *w) {
  return fvg__is_narrow(w->type) && ((const fvg__narrow_matrix *)w->value)->format->tile;
}

/* Computes a product with narrow weights in their own arithmetic (chapter 8). */
static void fvg__multiply_in_words(fvg_tape *t, const fvg__product *p, fvg_mark mark) {
  const fvg__narrow_matrix *w = (const fvg__narrow_matrix *)p->b.data;
  float *room = fvg__tape_floats(t, fvg__narrow_floats(w->format, p->m, p->k));
  if (!room) return;

  if (fvg__narrow_product(t->ctx, p, room)) t->failed = 1;
  fvg__tape_rewind(t, mark);
}

/* Computes the product.  Room for a copy of A in tiles is taken from the end of the tape and given
   back; the tape remembers a failure. */
static void fvg__multiply(fvg_tape *t, fvg__product *p) {
  fvg_mark mark = fvg_tape_mark(t);
  p->kernels = t->ctx->kernels;
  p->tiled_a = NULL;
  if (p->in_words) {
    fvg__multiply_in_words(t, p, mark);
    return;
  }

  if (fvg__worth_tiling(p)) {
    p->tiled_a = fvg__tape_floats(t, fvg__tiled_floats(p->kernels, p->m, p->k));
    if (!p->tiled_a) return;
  }

  if (fvg__gemm(t->ctx, p)) t->failed = 1;
  fvg__tape_rewind(t, mark);
}

/* grad [p->m, p->n] += the product */
static void fvg__multiply_onto(fvg_tape *t, fvg__product *p, float *grad) {
  p->from = grad;
  p->out = grad;
  p->ld_from = p->n;
  p->ld_out = p->n;
  fvg__multiply(t, p);
}

/* Every input's gradient is one product or one sum. */
static void fvg__linear_backward(fvg_node *y) {
  fvg_tape *t = y->tape;
  fvg_node *x = y->a;
  fvg_node *w = y->b;
  fvg_node *b = y->c;
  fvg_node *r = y->d;

  if (x->needs_grad) {              /* dx = dy w */
    fvg__product p = fvg__product_of(x->rows, x->cols, y->cols,
                                     fvg__matrix(y->grad, y->cols, 1),
                                     fvg__operand_of(w, w->cols, 1));
    fvg__multiply_onto(t, &p, x->grad);
  }
  if (w->needs_grad) {              /* dw = dy^T x */
    fvg__product p = fvg__product_of(w->rows, w->cols, y->rows,
                                     fvg__matrix(y->grad, 1, y->cols),
                                     fvg__matrix(fvg__values(x), x->cols, 1));
    fvg__multiply_onto(t, &p, w->grad);
  }

  if (fvg__wants_grad(b))
    for (int i = 0; i < y->rows; i++)
      t->ctx->kernels->add(y->cols, fvg__grad_row(y, i), b->grad);
  if (fvg__wants_grad(r))
    fvg__add_to(t->ctx, r->grad, y->grad, fvg__count(y));
}

/* The weights may be stored in any type of floats or panels, everything else is F32.  Narrow
   weights are widened where a gradient goes through x; fvg_recompute, which makes nodes first
   without gradients and then with them, must get the same values both times. */
FVG_DEF fvg_node *fvg_linear_add(fvg_node *x, fvg_node *w, fvg_node *b, fvg_node *r) {
  if (!x || !w) return fvg__null_operand("linear", x, w, w);
  if (x->cols != w->cols)
    return fvg__mismatch("linear", x, w);
  if (b && fvg__count(b) != (size_t)w->rows)
    return fvg__mismatch("linear's bias", w, b);
  if (r && (r->rows != x->rows || r->cols != w->rows))
    return fvg__mismatch("linear's sum", w, r);
  if (!fvg__is_f32(x) || !fvg__is_f32(b))
    return fvg__wrong_storage(x->tape);

  fvg_tape *t = x->tape;
  fvg_node *y = fvg__node_any_storage(t, x->rows, w->rows, x, w, b, FVG__BY_LINEAR);
  if (!y) return NULL;
  if (r && !fvg__fourth_input(y, r)) return NULL;

  fvg__product p = fvg__product_of(y->rows, y->cols, x->cols,
                                   fvg__matrix(fvg__values(x), x->cols, 1),
                                   fvg__operand_of(w, 1, w->cols));
  p.in_words = fvg__has_words(w) && !x->needs_grad && !t->twice;
  p.bias = b ? fvg__values(b) : NULL;
  p.from = r ? fvg__values(r) : NULL;
  p.out = fvg__values(y);
  p.ld_from = y->cols;
  p.ld_out = y->cols;
  fvg__multiply(t, &p);
  return t->failed ? NULL : y;
}

FVG_DEF fvg_node *fvg_linear(fvg_node *x, fvg_node *w, fvg_node *b) {
  return fvg_linear_add(x, w, b, NULL);
}

/* ---- layer norm, row by row: n = (x - mean) rstd,  y = n gain + bias.
        With m(.) the mean over the row and g = dy gain:
        dx = rstd (g - m(g) - n m(g n)),  dgain = sum of the rows of dy n,  dbias = that of dy.
        saved: mean and rstd of each row ---- */
static void fvg__layer_norm_rows(fvg_node *y, int from, int to) {
  const float *gain = fvg__values(y->b);
  const float *bias = fvg__values(y->c);

  for (int i = from; i < to; i++) {
    float *mean = &y->saved[2 * i];
    float *rstd = &y->saved[2 * i + 1];
    fvg__kernels_of(y)->layer_norm(y->cols, fvg__value_row(y->a, i), gain, bias, y->number,
                                   fvg__value_row(y, i), mean, rstd);
  }
}

static void fvg__layer_norm_backward_rows(fvg_node *y, int from, int to) {
  const float *gain = fvg__values(y->b);

  for (int i = from; i < to; i++) {
    float mean = y->saved[2 * i];
    float rstd = y->saved[2 * i + 1];
    fvg__gradients_of(y)->layer_norm_backward(y->cols, fvg__value_row(y->a, i), gain,
                                              fvg__grad_row(y, i), mean, rstd,
                                              fvg__grad_row(y->a, i));
  }
}

/* dx row by row on all threads; dgain and dbias, to which all rows add, in one. */
static void fvg__layer_norm_backward(fvg_node *y) {
  fvg_node *x = y->a;
  fvg_node *gain = y->b;
  fvg_node *bias = y->c;
  if (x->needs_grad) fvg__each_row(y, fvg__layer_norm_backward_rows);

  for (int i = 0; i < y->rows; i++) {
    const float *x_i = fvg__value_row(x, i);
    const float *dy = fvg__grad_row(y, i);
    float mean = y->saved[2 * i];
    float rstd = y->saved[2 * i + 1];

    if (gain->needs_grad)
      for (int j = 0; j < y->cols; j++)
        gain->grad[j] += dy[j] * (x_i[j] - mean) * rstd;
    if (bias->needs_grad)
      for (int j = 0; j < y->cols; j++)
        bias->grad[j] += dy[j];
  }
}

FVG_DEF fvg_node *fvg_layer_norm(fvg_node *x, fvg_node *gain, fvg_node *bias, float eps) {
  if (!x || !gain || !bias) return fvg__null_operand("layer_norm", x, gain, bias);
  size_t d = (size_t)x->cols;
  if (fvg__count(gain) != d)
    return fvg__mismatch("layer_norm's gain", x, gain);
  if (fvg__count(bias) != d)
    return fvg__mismatch("layer_norm's bias", x, bias);

  fvg_node *y = fvg__node(x->tape, x->rows, x->cols, x, gain, bias, FVG__BY_LAYER_NORM);
  if (!y || !fvg__save_floats(y, fvg__row(y->rows, 2)))
    return NULL;
  y->number = eps;
  return fvg__each_row(y, fvg__layer_norm_rows);
}

/* ---- activations, element by element ---- */
static fvg_node *fvg__elementwise(fvg_node *x, fvg__rows_fn rows, fvg__operation made_by) {
  return fvg__each_row(fvg__node_like(x, made_by), rows);
}

/* ---- exp: y = e^x;  dx = dy y ---- */
static void fvg__exp_rows(fvg_node *y, int from, int to) {
  const float *x = fvg__values(y->a);
  size_t end = fvg__row(to, y->cols);
  for (size_t k = fvg__row(from, y->cols); k < end; k++)
    fvg__values(y)[k] = expf(x[k]);
}

static void fvg__exp_backward(fvg_node *y) {
  float *dx = y->a->grad;
  size_t n = fvg__count(y);
  for (size_t k = 0; k < n; k++)
    dx[k] += y->grad[k] * fvg__values(y)[k];
}

FVG_DEF fvg_node *fvg_exp(fvg_node *x) {
  return fvg__elementwise(x, fvg__exp_rows, FVG__BY_EXP);
}

/* ---- relu: y = max(x, 0), and a NaN stays a NaN;  dx = dy [y > 0] ---- */
static void fvg__relu_rows(fvg_node *y, int from, int to) {
  const float *x = fvg__values(y->a);
  size_t end = fvg__row(to, y->cols);
  for (size_t k = fvg__row(from, y->cols); k < end; k++)
    fvg__values(y)[k] = x[k] < 0 ? 0 : x[k];
}

static void fvg__relu_backward(fvg_node *y) {
  float *dx = y->a->grad;
  size_t n = fvg__count(y);
  for (size_t k = 0; k < n; k++)
    if (fvg__values(y)[k] > 0)
      dx[k] += y->grad[k];
}

FVG_DEF fvg_node *fvg_relu(fvg_node *x) {
  return fvg__elementwise(x, fvg__relu_rows, FVG__BY_RELU);
}

/* ---- sigmoid: y = 1 / (1 + e^-x);  dx = dy y (1 - y) ---- */
static void fvg__sigmoid_rows(fvg_node *y, int from, int to) {
  const float *x = fvg__values(y->a);
  size_t end = fvg__row(to, y->cols);
  for (size_t k = fvg__row(from, y->cols); k < end; k++)
    fvg__values(y)[k] = fvg__sigmoid(x[k]);
}

static void fvg__sigmoid_backward(fvg_node *y) {
  const float *s = fvg__values(y);
  float *dx = y->a->grad;
  size_t n = fvg__count(y);
  for (size_t k = 0; k < n; k++)
    dx[k] += y->grad[k] * s[k] * (1 - s[k]);
}

FVG_DEF fvg_node *fvg_sigmoid(fvg_node *x) {
  return fvg__elementwise(x, fvg__sigmoid_rows, FVG__BY_SIGMOID);
}

/* ---- gelu: y = x Phi(x);  dx = dy (Phi(x) + x phi(x)) ---- */
static void fvg__gelu_rows(fvg_node *y, int from, int to) {
  int n = (to - from) * y->cols;
  fvg__kernels_of(y)->gelu(n, fvg__value_row(y->a, from), fvg__value_row(y, from));
}

static void fvg__gelu_backward_rows(fvg_node *y, int from, int to) {
  int n = (to - from) * y->cols;
  fvg__gradients_of(y)->gelu_backward(n, fvg__value_row(y->a, from), fvg__grad_row(y, from),
                                      fvg__grad_row(y->a, from));
}

static void fvg__gelu_backward(fvg_node *y) { fvg__each_row(y, fvg__gelu_backward_rows); }

FVG_DEF fvg_node *fvg_gelu(fvg_node *x) {
  return fvg__elementwise(x, fvg__gelu_rows, FVG__BY_GELU);
}

/* ---- quick gelu: y = x s,  s = sigmoid(1.702 x);  dx = dy s (1 + 1.702 x (1 - s)) ---- */
static void fvg__quick_gelu_rows(fvg_node *y, int from, int to) {
  int n = (to - from) * y->cols;
  fvg__kernels_of(y)->quick_gelu(n, fvg__value_row(y->a, from), fvg__value_row(y, from));
}

static void fvg__quick_gelu_backward_rows(fvg_node *y, int from, int to) {
  int n = (to - from) * y->cols;
  fvg__gradients_of(y)->quick_gelu_backward(n, fvg__value_row(y->a, from), fvg__grad_row(y, from),
                                            fvg__grad_row(y->a, from));
}

static void fvg__quick_gelu_backward(fvg_node *y) {
  fvg__each_row(y, fvg__quick_gelu_backward_rows);
}

FVG_DEF fvg_node *fvg_quick_gelu(fvg_node *x) {
  return fvg__elementwise(x, fvg__quick_gelu_rows, FVG__BY_QUICK_GELU);
}

/* ---- softmax, row by row: y = softmax(x / tau);  dx = y (dy - y.dy) / tau ---- */
static void fvg__softmax_backward(fvg_node *y) {
  int n = y->cols;
  for (int i = 0; i < y->rows; i++) {
    const float *p = fvg__value_row(y, i);
    const float *dy = fvg__grad_row(y, i);
    float *dx = fvg__grad_row(y->a, i);

    float p_dy = fvg__kernels_of(y)->dot(n, p, dy);
    for (int j = 0; j < n; j++)
      dx[j] += p[j] * (dy[j] - p_dy) / y->number;
  }
}

/* A temperature divides, so it must be above 0, and not so small that 1 / tau is no float. */
static int fvg__bad_temperature(fvg_node *x, const char *what, float tau) {
  if (tau >= FLT_MIN) return 0;
  fvg_fail(x->tape->ctx, FVG_E_ARG, "%s: the temperature is %g, it must be above 0", what,
           (double)tau);
  fvg__give_up(x->tape);
  return 1;
}

FVG_DEF fvg_node *fvg_softmax(fvg_node *x, float tau) {
  if (!x || fvg__bad_temperature(x, "softmax", tau)) return NULL;
  fvg_node *y = fvg__node_like(x, FVG__BY_SOFTMAX);
  if (!y) return NULL;

  y->number = tau;
  for (int i = 0; i < y->rows; i++)
    fvg__kernels_of(y)->softmax(y->cols, fvg__value_row(x, i), 1 / tau, fvg__value_row(y, i));
  return y;
}

/* ---- normalize, row by row: y = x / |x|;  dx = (dy - y (y.dy)) / |x|.
        A row of zeros stays zero and passes no gradient.  saved: 1 / |x| ---- */
static void fvg__normalize_backward(fvg_node *y) {
  int n = y->cols;
  for (int i = 0; i < y->rows; i++) {
    const float *v = fvg__value_row(y, i);
    const float *dy = fvg__grad_row(y, i);
    float *dx = fvg__grad_row(y->a, i);

    float v_dy = fvg__kernels_of(y)->dot(n, v, dy);
    for (int j = 0; j < n; j++)
      dx[j] += (dy[j] - v[j] * v_dy) * y->saved[i];
  }
}

/* The same for a row whose squares are no normal floats; returns 1 / |x|, 0 for a row of zeros. */
static float fvg__normalize_in_double(int n, const float *x, float *y) {
  double norm2 = 0;
  for (int j = 0; j < n; j++)
    norm2 += (double)x[j] * (double)x[j];

  double inverse = norm2 == 0 ? 0 : 1 / sqrt(norm2);
  for (int j = 0; j < n; j++)
    y[j] = (float)((double)x[j] * inverse);
  return (float)inverse;
}

FVG_DEF fvg_node *fvg_normalize(fvg_node *x) {
  fvg_node *y = fvg__node_like(x, FVG__BY_NORMALIZE);
  if (!y || !fvg__save_floats(y, (size_t)y->rows))
    return NULL;

  for (int i = 0; i < y->rows; i++) {
    const float *x_i = fvg__value_row(x, i);
    float *y_i = fvg__value_row(y, i);

    /* Squares of floats above 1e19 or below 1e-19 leave the range of floats. */
    float norm2 = fvg__kernels_of(y)->dot(y->cols, x_i, x_i);
    if (!(norm2 >= FLT_MIN && norm2 <= FLT_MAX)) {
      y->saved[i] = fvg__normalize_in_double(y->cols, x_i, y_i);
      continue;
    }
    y->saved[i] = 1 / sqrtf(norm2);
    for (int j = 0; j < y->cols; j++)
      y_i[j] = x_i[j] * y->saved[i];
  }
  return y;
}

/* ---- concat: y = [a; b], the rows of a, then those of b;  da, db = their rows of dy ---- */
static void fvg__concat_backward(fvg_node *y) {
  fvg_node *a = y->a;
  fvg_node *b = y->b;
  const fvg_ctx *c = y->tape->ctx;
  if (a->needs_grad)
    fvg__add_to(c, a->grad, y->grad, fvg__count(a));
  if (b->needs_grad)
    fvg__add_to(c, b->grad, fvg__grad_row(y, a->rows), fvg__count(b));
}

FVG_DEF fvg_node *fvg_concat(fvg_node *a, fvg_node *b) {
  if (!a || !b) return fvg__null_operand("concat", a, b, b);
  if (a->cols != b->cols || a->rows > INT_MAX - b->rows)
    return fvg__mismatch("concat", a, b);
  int rows = a->rows + b->rows;
  fvg_node *y = fvg__node(a->tape, rows, a->cols, a, b, NULL, FVG__BY_CONCAT);
  if (!y) return NULL;

  memcpy(y->value, a->value, fvg__count(a) * sizeof(float));
  memcpy(fvg__value_row(y, a->rows), b->value, fvg__count(b) * sizeof(float));
  return y;
}

/* ---- gather: y_i = x_row[i], however x is stored;  dx_row[i] += dy_i.
        table: row ---- */
static void fvg__row_to_float(const fvg_node *x, int row, float *y) {
  size_t d = (size_t)x->cols;
  if (x->type == FVG_F32) {
    memcpy(y, fvg__value_row(x, row), d * sizeof *y);
    return;
  }

  fvg__operand w = fvg__operand_of(x, x->cols, 1);
  fvg__widen_row(&w, row, 0, x->cols, y, 1);
}

static void fvg__gather_backward(fvg_node *y) {
  const int *row = (const int *)y->table;

  for (int i = 0; i < y->rows; i++) {
    float *dx = fvg__grad_row(y->a, row[i]);
    fvg__kernels_of(y)->add(y->cols, fvg__grad_row(y, i), dx);
  }
}

FVG_DEF fvg_node *fvg_gather(fvg_node *x, const int *row, int n) {
  if (!x) return NULL;
  fvg_tape *t = x->tape;
  if (!row) return fvg__null_array(t, "fvg_gather", "the list of rows");

  for (int i = 0; i < n; i++)
    if (row[i] < 0 || row[i] >= x->rows) {
      fvg_fail(t->ctx, FVG_E_ARG, "gather: row %d of a matrix of %d rows", row[i], x->rows);
      return fvg__give_up(t);
    }
  if (x->type == FVG_F32_PANELS) return fvg__wrong_storage(t);

  fvg_node *y = fvg__node_any_storage(t, n, x->cols, x, NULL, NULL, FVG__BY_GATHER);
  if (!y || !fvg__save_ints(y, row, n)) return NULL;
  for (int i = 0; i < n; i++)
    fvg__row_to_float(x, row[i], fvg__value_row(y, i));
  return y;
}

/* ---- transpose: y_ji = x_ij;  dx_ij = dy_ji ---- */
static void fvg__transpose_backward(fvg_node *y) {
  fvg_node *x = y->a;
  for (int i = 0; i < x->rows; i++) {
    float *dx = fvg__grad_row(x, i);
    for (int j = 0; j < x->cols; j++)
      dx[j] += fvg__grad_row(y, j)[i];
  }
}

FVG_DEF fvg_node *fvg_transpose(fvg_node *x) {
  if (!x) return NULL;
  fvg_node *y = fvg__node(x->tape, x->cols, x->rows, x, NULL, NULL, FVG__BY_TRANSPOSE);
  if (!y) return NULL;
  fvg__kernels_of(y)->transpose(x->rows, x->cols, fvg__values(x), x->cols,
                                fvg__values(y), x->rows);
  return y;
}

/* ---- lerp: y_ij = (1 - w_i) a_ij + w_i b_ij;
        da = (1 - w) dy,  db = w dy,  dw_i = sum_j dy_ij (b_ij - a_ij).  a, b [n,d], w [n,1] ---- */
static void fvg__lerp_backward(fvg_node *y) {
  fvg_node *a = y->a;
  fvg_node *b = y->b;
  fvg_node *w = y->c;

  for (int i = 0; i < y->rows; i++) {
    const float *a_i = fvg__value_row(a, i);
    const float *b_i = fvg__value_row(b, i);
    const float *dy = fvg__grad_row(y, i);
    float w_i = fvg__values(w)[i];

    for (int j = 0; j < y->cols; j++) {
      if (a->needs_grad)
        fvg__grad_row(a, i)[j] += (1 - w_i) * dy[j];
      if (b->needs_grad)
        fvg__grad_row(b, i)[j] += w_i * dy[j];
      if (w->needs_grad)
        w->grad[i] += (b_i[j] - a_i[j]) * dy[j];
    }
  }
}

FVG_DEF fvg_node *fvg_lerp(fvg_node *a, fvg_node *b, fvg_node *w) {
  if (!a || !b || !w) return fvg__null_operand("lerp", a, b, w);
  if (!fvg__same_shape(a, b)) return fvg__mismatch("lerp", a, b);
  if (w->rows != a->rows || w->cols != 1)
    return fvg__mismatch("lerp's weight", a, w);
  fvg_node *y = fvg__node(a->tape, a->rows, a->cols, a, b, w, FVG__BY_LERP);
  if (!y) return NULL;

  for (int i = 0; i < y->rows; i++) {
    const float *a_i = fvg__value_row(a, i);
    const float *b_i = fvg__value_row(b, i);
    float *y_i = fvg__value_row(y, i);
    float w_i = fvg__values(w)[i];
    for (int j = 0; j < y->cols; j++)
      y_i[j] = (1 - w_i) * a_i[j] + w_i * b_i[j];
  }
  return y;
}

#ifndef FVGPT_NO_TRAINING  /* losses */
/* ---- sum: y = sum_ij x_ij;  dx = dy.  mean: the same over n d ---- */
static void fvg__sum_backward(fvg_node *y) {
  size_t n = fvg__count(y->a);
  for (size_t k = 0; k < n; k++)
    y->a->grad[k] += y->grad[0];
}

FVG_DEF fvg_node *fvg_sum(fvg_node *x) {
  if (!x) return NULL;
  fvg_node *y = fvg__node(x->tape, 1, 1, x, NULL, NULL, FVG__BY_SUM);
  if (!y) return NULL;

  double sum = 0;
  size_t n = fvg__count(x);
  for (size_t k = 0; k < n; k++)
    sum += (double)fvg__values(x)[k];
  fvg__values(y)[0] = (float)sum;
  return y;
}

FVG_DEF fvg_node *fvg_mean(fvg_node *x) {
  return x ? fvg_scale(fvg_sum(x), 1.0f / (float)fvg__count(x)) : NULL;
}

/* ---- cross entropy: y = mean_i (ln sum_c exp z_ic - z_i,label_i);
        dz_i = dy (softmax(z_i) - onehot(label_i)) / n.
        z [n, classes] -> y [1,1];  saved: softmax(z),  table: label ---- */
static void fvg__cross_entropy_backward(fvg_node *y) {
  const int *label = (const int *)y->table;
  int n = y->a->rows;
  int classes = y->a->cols;
  float share = y->grad[0] / (float)n;

  for (int i = 0; i < n; i++) {
    const float *p = y->saved + fvg__row(i, classes);
    float *dz = fvg__grad_row(y->a, i);
    for (int j = 0; j < classes; j++) {
      float onehot = j == label[i] ? 1.0f : 0.0f;
      dz[j] += share * (p[j] - onehot);
    }
  }
}

/* The softmax kernel returns ln sum exp z, and leaves the probabilities for backward. */
FVG_DEF fvg_node *fvg_cross_entropy(fvg_node *logits, const int *label) {
  if (!logits) return NULL;
  fvg_tape *t = logits->tape;
  if (!label) return fvg__null_array(t, "fvg_cross_entropy", "the list of labels");
  int n = logits->rows;
  int classes = logits->cols;

  for (int i = 0; i < n; i++)
    if (label[i] < 0 || label[i] >= classes) {
      fvg_fail(t->ctx, FVG_E_ARG, "cross_entropy: label %d among %d classes", label[i], classes);
      return fvg__give_up(t);
    }

  fvg_node *y = fvg__node(t, 1, 1, logits, NULL, NULL, FVG__BY_CROSS_ENTROPY);
  if (!y || !fvg__save_floats(y, fvg__count(logits))) return NULL;
  if (!fvg__save_ints(y, label, n)) return NULL;

  double sum = 0;
  for (int i = 0; i < n; i++) {
    const float *z = fvg__value_row(logits, i);
    float *p = y->saved + fvg__row(i, classes);
    float ln_sum = fvg__kernels_of(y)->softmax(classes, z, 1, p);
    sum += (double)(ln_sum - z[label[i]]);
  }
  fvg__values(y)[0] = (float)(sum / n);
  return y;
}

/* ---- KL with a constant teacher p: y_i = sum_c p_ic (ln p_ic - ln q_ic),  q = softmax(z / tau);
        dz_i = dy_i (q_i - p_i) / tau.  p, z [n, classes] -> y [n,1];  saved: q ---- */
static void fvg__kl_rows_backward(fvg_node *y) {
  fvg_node *teacher = y->a;
  fvg_node *logits = y->b;

  for (int i = 0; i < y->rows; i++) {
    const float *p = fvg__value_row(teacher, i);
    const float *q = y->saved + fvg__row(i, logits->cols);
    float *dz = fvg__grad_row(logits, i);
    for (int j = 0; j < logits->cols; j++)
      dz[j] += y->grad[i] * (q[j] - p[j]) / y->number;
  }
}

/* p is detached, so no gradient reaches the teacher. */
FVG_DEF fvg_node *fvg_kl_rows(fvg_node *p, fvg_node *logits, float tau) {
  if (!p || !logits) return fvg__null_operand("kl_rows", p, logits, logits);
  if (!fvg__same_shape(p, logits)) return fvg__mismatch("kl_rows", p, logits);
  if (fvg__bad_temperature(p, "kl_rows", tau)) return NULL;

  fvg_node *teacher = fvg_detach(p);
  fvg_node *y = fvg__node(p->tape, p->rows, 1, teacher, logits, NULL, FVG__BY_KL_ROWS);
  if (!y || !teacher || !fvg__save_floats(y, fvg__count(p)))
    return NULL;
  y->number = tau;

  for (int i = 0; i < p->rows; i++) {
    const float *p_i = fvg__value_row(p, i);
    const float *z_i = fvg__value_row(logits, i);
    float *q_i = y->saved + fvg__row(i, p->cols);
    float ln_sum = fvg__kernels_of(y)->softmax(p->cols, z_i, 1 / tau, q_i);

    double sum = 0;
    for (int j = 0; j < p->cols; j++) {
      if (p_i[j] == 0) continue;    /* p ln p -> 0 for p -> 0 */
      double ln_p = (double)logf(p_i[j]);
      double ln_q = (double)(z_i[j] / tau - ln_sum);
      sum += (double)p_i[j] * (ln_p - ln_q);
    }
    fvg__values(y)[i] = (float)sum;
  }
  return y;
}

/* ---- binary cross entropy on logits: y = sum_i w_i BCE_i / sum_i w_i,
        BCE_i = max(q_i, 0) - q_i t_i + ln(1 + exp(-|q_i|));
        dq_i = dy w_i (sigmoid(q_i) - t_i) / sum w.
        q, t, w [n,1] -> y [1,1];  saved: t, then w / sum w ---- */
static void fvg__bce_backward(fvg_node *y) {
  int n = y->a->rows;
  const float *q = fvg__values(y->a);
  const float *target = y->saved;
  const float *share = y->saved + n;
  float *dq = y->a->grad;

  for (int i = 0; i < n; i++)
    dq[i] += y->grad[0] * share[i] * (fvg__sigmoid(q[i]) - target[i]);
}

/* Targets and weights are copied: the caller's arrays need not outlive the call. */
FVG_DEF fvg_node *fvg_bce_with_logits(fvg_node *q, const float *target, const float *weight) {
  if (!q) return NULL;
  if (!target || !weight)
    return fvg__null_array(q->tape, "fvg_bce_with_logits", target ? "the weight" : "the target");
  if (q->cols != 1) {
    fvg_fail(q->tape->ctx, FVG_E_SHAPE, "bce_with_logits: q must be [n,1], not [%d,%d]",
             q->rows, q->cols);
    return fvg__give_up(q->tape);
  }
  int n = q->rows;
  fvg_node *y = fvg__node(q->tape, 1, 1, q, NULL, NULL, FVG__BY_BCE);
  if (!y || !fvg__save_floats(y, fvg__row(n, 2))) return NULL;

  double weights = 0;
  for (int i = 0; i < n; i++)
    weights += (double)weight[i];

  double sum = 0;
  for (int i = 0; i < n; i++) {
    float q_i = fvg__values(q)[i];
    float share = weights > 0 ? (float)((double)weight[i] / weights) : 0;
    y->saved[i] = target[i];
    y->saved[n + i] = share;

    float positive = q_i > 0 ? q_i : 0;
    float bce = positive - q_i * target[i] + log1pf(expf(-fabsf(q_i)));
    sum += (double)share * (double)bce;
  }
  fvg__values(y)[0] = (float)sum;
  return y;
}
#endif /* FVGPT_NO_TRAINING */

/*==================================================================================================
 * CHAPTER 11  TRANSFORMER: attention over packed sequences, and the block
 *==================================================================================================
   Attention (Vaswani et al. 2017), for each head of width d:

     forward    S = Q K^T / sqrt d,   P = softmax(S),   O = P V
     backward   dV = P^T dO,   dP = dO V^T,   dS = P o (dP - rowsum(dO o O)),
                dQ = dS K / sqrt d,   dK = dS^T Q / sqrt d

   where o multiplies element by element; the code folds 1 / sqrt d into dS.  Forward keeps one
   number per query and head, ln sum exp S, from which backward makes P again.  So no [T,T] matrix
   is ever stored (as in FlashAttention, Dao et al. 2022).

   Packed sequences.  Texts have different lengths.  A batch is therefore one matrix with a row for
   each token of all texts, and segments say which rows belong together.

   How attention shares a prefix.  CLIP's text attention is causal: a row sees itself and the rows
   before it, never what follows.  Two things come from that.  Nothing after a text's end mark
   needs to exist.  And what all texts begin with, [SOT] and the context vectors in CoOp, has the
   same values in all of them, in every layer.  So the batch holds this prefix once, as a segment
   of its own, and each text's segment holds only the text's own rows and a reference to the prefix:

       row       0     1     2      3    4    5      6     7     8    9
               [SOT] [ctx] [ctx]   cat   .  [EOT]   dog  house   .  [EOT]
               |-- segment 0 --|   |- segment 1 -|  |---- segment 2 ----|

       query           keys that it sees                  segment
                       0 1 2 | 3 4 5 | 6 7 8 9
       0  [SOT]        x     |       |           \
       1  [ctx]        x x   |       |            }  0    query 0+3, key 0+3, no prefix
       2  [ctx]        x x x |       |           /
       3  cat          x x x | x     |           \
       4  .            x x x | x x   |            }  1    query 3+3, key 3+3, prefix 0+3
       5  [EOT]        x x x | x x x |           /
       6  dog          x x x |       | x         \
       7  house        x x x |       | x x        |  2    query 6+4, key 6+4, prefix 0+3
       8  .            x x x |       | x x x      |
       9  [EOT]        x x x |       | x x x x   /        ("6+4": row 6 on, 4 rows)

   A segment's keys are the rows of the prefix followed by its own, and its softmax runs over both,
   as if the text had been written out in full.  The prefix rows do not depend on who reads them, so
   their projections and all else that is done row by row are computed once: 50 texts with 4 context
   vectors need 5 such rows, not 250.  (Only their keys and values are copied again for every
   segment, into panels.  A long list of texts is cut into parts, and each part has its own prefix.)
   In backward the gradient of a key or value is the sum over all queries that see it, the x's of
   its column above; for a prefix row these lie in many segments.

   Jobs.  A job of forward is one head of a few segments.  A job of backward is one head of all
   segments, since they add to the same prefix rows.  A job copies the head's keys and values into
   panels (chapter 7), where prefix and own rows become one sequence.  It takes 56 queries at a
   time, whose scores (56 x 257 for ViT-L/14) stay in the second-level cache.  At most 32 jobs run
   side by side, each with its own piece of scratch memory; one thread needs one piece.

   Prompted transformers.  Deep prompts (VPT, IVLP, MaPLe) overwrite some rows before each of the
   first blocks; representation tokens (MMRL) are inserted before a later one.  Both are a splice
   here: the rows that enter a block are picked from those that left the block before it and from
   the prompts' vectors. */

#define FVG__QUERIES      56        /* queries whose scores are held at a time                    */
#define FVG__MOST_SCRATCH 32        /* pieces of scratch memory                                   */

typedef struct fvg__attention_job {
  fvg_node *y;                      /* [n,w]; its inputs a, b, c are q, k, v                      */
  const fvg_segment *segment;
  int n_segment, n_head;
  int per_job;                      /* segments of a job of forward                               */
  int n_jobs;
  void (*run)(const struct fvg__attention_job *j, int index, float *scratch);
  float *scratch;                   /* [n_scratch, scratch_size]                                  */
  int n_scratch;
  size_t scratch_size;
} fvg__attention_job;

/* One head of one segment. */
typedef struct fvg__head {
  const fvg_segment *segment;
  const fvg__kernels *kernels;
  int index;                        /* the number of the head                                     */
  int d;                            /* its width                                                  */
  int width;                        /* of a row of q, k and v: all heads                          */
  int keys;                         /* of the prefix and of the segment, together                 */
  int padded;                       /* keys, rounded up to whole panels                           */
} fvg__head;

static fvg__head fvg__head_of(const fvg__attention_job *j, const fvg_segment *s, int index) {
  fvg__head h;
  h.segment = s;
  h.kernels = fvg__kernels_of(j->y);
  h.index = index;
  h.d = j->y->cols / j->n_head;
  h.width = j->y->cols;
  h.keys = s->n_prefix + s->n_key;

  int panel = h.kernels->tile_cols;
  h.padded = fvg__ceil_div(h.keys, panel) * panel;
  return h;
}

/* Where the head's part of a row lies in q, k, v and y. */
static size_t fvg__head_at(const fvg__head *h, int row) {
  return fvg__row(row, h->width) + fvg__row(h->index, h->d);
}

/* How many keys query i of the segment sees, those of the prefix included. */
static int fvg__visible(const fvg_segment *s, int i) {
  if (!s->causal) return s->n_prefix + s->n_key;
  int before = s->n_key - s->n_query;
  return s->n_prefix + before + i + 1;
}

/* Queries of a segment that are worked on together. */
typedef struct fvg__queries {
  int first, n;                     /* within the segment                                         */
  int row;                          /* of q and y, where the first one lies                       */
  int seen;                         /* keys that the last one sees; the others see some of these  */
} fvg__queries;

static fvg__queries fvg__queries_from(const fvg_segment *s, int first) {
  fvg__queries q;
  q.first = first;
  q.n = fvg__min(FVG__QUERIES, s->n_query - first);
  q.row = s->query + first;
  q.seen = fvg__visible(s, first + q.n - 1);
  return q;
}

/* Forward's ln sum exp S of a query. */
static float *fvg__ln_sum(const fvg__attention_job *j, const fvg__head *h, int row) {
  return &j->y->saved[fvg__row(row, j->n_head) + (size_t)h->index];
}

/* ---- a head's rows in panels ---- */
/* Floats in panels of `rows` rows, whose d columns are filled up to whole panels. */
static size_t fvg__panels_size(const fvg__head *h, int rows) {
  int panel = h->kernels->tile_cols;
  return fvg__row(rows, fvg__ceil_div(h->d, panel) * panel);
}

/* Copies rows [first, first + n) of x, the head's columns, to rows `at` on of panels
   [n_panel][panel_rows][tile_cols]. */
static void fvg__head_panels(const fvg__head *h, const float *x, int first, int n,
                             float *panels, int panel_rows, int at) {
  int panel = h->kernels->tile_cols;

  for (int c = 0; c < h->d; c += panel) {
    int cols = fvg__min(panel, h->d - c);
    for (int i = 0; i < n; i++) {
      const float *from = x + fvg__head_at(h, first + i) + c;
      float *to = panels + fvg__row(c, panel_rows) + fvg__row(at + i, panel);
      memcpy(to, from, (size_t)cols * sizeof *to);
      if (cols < panel)
        memset(to + cols, 0, (size_t)(panel - cols) * sizeof *to);
    }
  }
}

/* Copies the same rows to columns `at` on of panels of the transpose, [n_panel][d][tile_cols]. */
static void fvg__head_panels_transposed(const fvg__head *h, const float *x, int first, int n,
                                        float *panels, int at) {
  int panel = h->kernels->tile_cols;

  int i = 0;
  while (i < n) {
    int column = (at + i) % panel;
    int part = fvg__min(panel - column, n - i);
    const float *from = x + fvg__head_at(h, first + i);
    float *to = panels + fvg__row(at + i - column, h->d) + column;
    h->kernels->transpose(part, h->d, from, h->width, to, panel);
    i += part;
  }
}

/* The rows of all keys, those of the prefix before the segment's own: here sharing becomes one
   sequence.  x is k or v. */
static void fvg__all_keys(const fvg__head *h, const float *x, float *panels) {
  const fvg_segment *s = h->segment;
  fvg__head_panels(h, x, s->prefix, s->n_prefix, panels, h->keys, 0);
  fvg__head_panels(h, x, s->key, s->n_key, panels, h->keys, s->n_prefix);
}

static void fvg__all_keys_transposed(const fvg__head *h, const float *x, float *panels) {
  const fvg_segment *s = h->segment;

  /* The kernel reads the columns beyond the last key; what they give is ignored. */
  if (h->keys < h->padded) {
    int panel = h->kernels->tile_cols;
    size_t last = fvg__row(h->padded - panel, h->d);
    memset(panels + last, 0, fvg__row(panel, h->d) * sizeof *panels);
  }
  fvg__head_panels_transposed(h, x, s->prefix, s->n_prefix, panels, 0);
  fvg__head_panels_transposed(h, x, s->key, s->n_key, panels, s->n_prefix);
}

/* ---- the products of a head ---- */
/* scores [n, seen] = rows of x times the keys, transposed: S = Q K^T, dP = dO V^T */
static void fvg__times_keys(const fvg__head *h, const fvg__queries *q, const float *x,
                            const float *transposed, float *scores) {
  fvg__operand rows = fvg__matrix(x + fvg__head_at(h, q->row), h->width, 1);
  fvg__times_panels(h->kernels, q->n, q->seen, h->d, rows, transposed, h->d,
                    scores, h->padded, 0);
}

/* rows of out [n, d] = scores [n, seen] times the keys: O = P V, dQ += dS K */
static void fvg__sum_keys(const fvg__head *h, const fvg__queries *q, const float *scores,
                          const float *keys, float *out, int accumulate) {
  fvg__operand weights = fvg__matrix(scores, h->padded, 1);
  fvg__times_panels(h->kernels, q->n, h->d, q->seen, weights, keys, h->keys,
                    out + fvg__head_at(h, q->row), h->width, accumulate);
}

/* rows of grad [keys, d] += scores^T [seen, n] times x [n, d], which lies in panels:
   dK += dS^T Q, dV += P^T dO.  The first rows are those of the prefix, to which other segments add
   as well. */
static void fvg__add_to_keys(const fvg__head *h, const fvg__queries *q, const float *scores,
                             const float *x, float *grad) {
  const fvg_segment *s = h->segment;

  if (s->n_prefix) {
    fvg__operand prefix = fvg__matrix(scores, 1, h->padded);
    fvg__times_panels(h->kernels, s->n_prefix, h->d, q->n, prefix, x, q->n,
                      grad + fvg__head_at(h, s->prefix), h->width, 1);
  }
  fvg__operand own = fvg__matrix(scores + s->n_prefix, 1, h->padded);
  fvg__times_panels(h->kernels, q->seen - s->n_prefix, h->d, q->n, own, x, q->n,
                    grad + fvg__head_at(h, s->key), h->width, 1);
}

/* ---- forward ---- */
static size_t fvg__forward_scratch(const fvg__head *h) {
  size_t k_transposed = fvg__row(h->padded, h->d);
  size_t v = fvg__panels_size(h, h->keys);
  size_t p = fvg__row(FVG__QUERIES, h->padded);
  return k_transposed + v + p;
}

/* O = softmax(Q K^T / sqrt d) V of one head of one segment. */
static void fvg__attention_segment(const fvg__attention_job *j, const fvg__head *h,
                                   float *scratch) {
  fvg_node *y = j->y;
  const fvg_segment *s = h->segment;
  float scale = 1 / sqrtf((float)h->d);

  float *k_transposed = scratch;
  float *v = k_transposed + fvg__row(h->padded, h->d);
  float *p = v + fvg__panels_size(h, h->keys);
  fvg__all_keys_transposed(h, fvg__values(y->b), k_transposed);
  fvg__all_keys(h, fvg__values(y->c), v);

  for (int first = 0; first < s->n_query; first += FVG__QUERIES) {
    fvg__queries q = fvg__queries_from(s, first);
    fvg__times_keys(h, &q, fvg__values(y->a), k_transposed, p);

    /* Scores become probabilities; those of keys that a query does not see become 0. */
    for (int i = 0; i < q.n; i++) {
      float *p_i = p + fvg__row(i, h->padded);
      int visible = fvg__visible(s, first + i);
      *fvg__ln_sum(j, h, q.row + i) = h->kernels->softmax(visible, p_i, scale, p_i);
      memset(p_i + visible, 0, (size_t)(q.seen - visible) * sizeof *p_i);
    }
    fvg__sum_keys(h, &q, p, v, fvg__values(y), 0);
  }
}

/* Job `index`: one head of the next per_job segments. */
static void fvg__attention_forward(const fvg__attention_job *j, int index, float *scratch) {
  int head = index % j->n_head;
  int from = index / j->n_head * j->per_job;
  int to = fvg__min(from + j->per_job, j->n_segment);

  for (int s = from; s < to; s++) {
    fvg__head h = fvg__head_of(j, &j->segment[s], head);
    fvg__attention_segment(j, &h, scratch);
  }
}

/* ---- backward ---- */
static size_t fvg__backward_scratch(const fvg__head *h) {
  size_t transposed = fvg__row(h->padded, h->d);
  size_t k = fvg__panels_size(h, h->keys);
  size_t queries = fvg__panels_size(h, FVG__QUERIES);
  size_t scores = fvg__row(FVG__QUERIES, h->padded);
  return 2 * transposed + k + 2 * queries + 2 * scores;
}

/* P and dS of the queries.  On entry p holds the scores Q K^T and ds holds dP = dO V^T. */
static void fvg__softmax_gradients(const fvg__attention_job *j, const fvg__head *h,
                                   const fvg__queries *q, float *p, float *ds) {
  const fvg_node *y = j->y;
  const fvg__gradient_kernels *kernels = fvg__gradient_kernels_of(h->kernels);
  float scale = 1 / sqrtf((float)h->d);

  for (int i = 0; i < q->n; i++) {
    size_t at = fvg__head_at(h, q->row + i);
    float o_do = h->kernels->dot(h->d, fvg__values(y) + at, y->grad + at);

    /* P = exp(S - ln sum exp S) */
    float *p_i = p + fvg__row(i, h->padded);
    int visible = fvg__visible(h->segment, q->first + i);
    kernels->exp_scaled(visible, p_i, scale, *fvg__ln_sum(j, h, q->row + i), p_i);

    float *ds_i = ds + fvg__row(i, h->padded);
    for (int key = 0; key < visible; key++)
      ds_i[key] = p_i[key] * (ds_i[key] - o_do) * scale;
    for (int key = visible; key < q->seen; key++) {
      p_i[key] = 0;
      ds_i[key] = 0;
    }
  }
}

/* Adds to dQ, dK and dV what one head of one segment gives. */
static void fvg__attention_segment_backward(const fvg__attention_job *j, const fvg__head *h,
                                            float *scratch) {
  const fvg_node *y = j->y;
  fvg_node *q = y->a;
  fvg_node *k = y->b;
  fvg_node *v = y->c;

  float *k_transposed = scratch;
  float *v_transposed = k_transposed + fvg__row(h->padded, h->d);
  float *k_panels = v_transposed + fvg__row(h->padded, h->d);
  float *q_panels = k_panels + fvg__panels_size(h, h->keys);
  float *do_panels = q_panels + fvg__panels_size(h, FVG__QUERIES);
  float *p = do_panels + fvg__panels_size(h, FVG__QUERIES);
  float *ds = p + fvg__row(FVG__QUERIES, h->padded);

  fvg__all_keys_transposed(h, fvg__values(k), k_transposed);
  fvg__all_keys_transposed(h, fvg__values(v), v_transposed);
  if (q->needs_grad) fvg__all_keys(h, fvg__values(k), k_panels);

  for (int first = 0; first < h->segment->n_query; first += FVG__QUERIES) {
    fvg__queries block = fvg__queries_from(h->segment, first);
    fvg__times_keys(h, &block, fvg__values(q), k_transposed, p);
    fvg__times_keys(h, &block, y->grad, v_transposed, ds);
    fvg__softmax_gradients(j, h, &block, p, ds);

    if (q->needs_grad)
      fvg__sum_keys(h, &block, ds, k_panels, q->grad, 1);
    if (k->needs_grad) {
      fvg__head_panels(h, fvg__values(q), block.row, block.n, q_panels, block.n, 0);
      fvg__add_to_keys(h, &block, ds, q_panels, k->grad);
    }
    if (v->needs_grad) {
      fvg__head_panels(h, y->grad, block.row, block.n, do_panels, block.n, 0);
      fvg__add_to_keys(h, &block, p, do_panels, v->grad);
    }
  }
}

/* Job `head`: that head of all segments. */
static void fvg__attention_backward_head(const fvg__attention_job *j, int head, float *scratch) {
  for (int s = 0; s < j->n_segment; s++) {
    fvg__head h = fvg__head_of(j, &j->segment[s], head);
    fvg__attention_segment_backward(j, &h, scratch);
  }
}

/* ---- jobs and scratch memory ---- */
/* Piece i of the scratch memory serves jobs i, i + n_scratch, i + 2 n_scratch, ...  With a single
   piece this is called for each job, one after another. */
static void fvg__attention_jobs(void *arg, int piece) {
  const fvg__attention_job *j = (const fvg__attention_job *)arg;
  if (j->n_scratch == 1) {
    j->run(j, piece, j->scratch);
    return;
  }

  float *scratch = j->scratch + (size_t)piece * j->scratch_size;
  for (int i = piece; i < j->n_jobs; i += j->n_scratch)
    j->run(j, i, scratch);
}

/* Runs all jobs, with scratch memory from the end of the tape; the tape remembers a failure. */
static void fvg__attention_run(fvg__attention_job *j, size_t (*scratch_size)(const fvg__head *h)) {
  fvg_tape *t = j->y->tape;
  fvg_mark mark = fvg_tape_mark(t);

  j->scratch_size = 0;
  for (int i = 0; i < j->n_segment; i++) {
    fvg__head h = fvg__head_of(j, &j->segment[i], 0);
    size_t size = scratch_size(&h);
    if (size > j->scratch_size) j->scratch_size = size;
  }

  j->n_scratch = fvg__min(j->n_jobs, fvg__has_threads(t->ctx) ? FVG__MOST_SCRATCH : 1);
  j->scratch = fvg__tape_floats(t, (size_t)j->n_scratch * j->scratch_size);
  if (!j->scratch) return;

  int n = j->n_scratch == 1 ? j->n_jobs : j->n_scratch;
  if (fvg_parallel(t->ctx, fvg__attention_jobs, j, n))
    t->failed = 1;
  fvg__tape_rewind(t, mark);
}

static void fvg__attention_backward(fvg_node *y) {
  fvg__attention_job j;
  j.y = y;
  j.segment = (const fvg_segment *)y->table;
  j.n_segment = y->n;
  j.n_head = (int)y->number;
  j.per_job = 0;
  j.n_jobs = j.n_head;
  j.run = fvg__attention_backward_head;
  fvg__attention_run(&j, fvg__backward_scratch);
}

/* ---- the operation ---- */
static int fvg__rows_fit(int first, int n, int least, const fvg_node *x) {
  return first >= 0 && n >= least && n <= x->rows - first;
}

static int fvg__segment_fits(const fvg_segment *s, const fvg_node *q, const fvg_node *k) {
  return fvg__rows_fit(s->query, s->n_query, 1, q) &&
         fvg__rows_fit(s->key, s->n_key, 1, k) &&
         fvg__rows_fit(s->prefix, s->n_prefix, 0, k) &&
         (!s->causal || s->n_query <= s->n_key);
}

/* Do the segments lie within q and k, and together cover every row of q, in order? */
static fvg_status fvg__check_segments(const fvg_node *q, const fvg_node *k,
                                      const fvg_segment *segment, int n_segment) {
  fvg_ctx *c = q->tape->ctx;
  int covered = 0;

  for (int i = 0; i < n_segment; i++) {
    const fvg_segment *s = &segment[i];
    if (!fvg__segment_fits(s, q, k))
      return fvg_fail(c, FVG_E_SHAPE,
                      "attention: segment %d (queries %d+%d, keys %d+%d, prefix %d+%d) does not "
                      "fit %d query and %d key rows",
                      i, s->query, s->n_query, s->key, s->n_key, s->prefix, s->n_prefix,
                      q->rows, k->rows);
    if (s->query != covered)
      return fvg_fail(c, FVG_E_SHAPE,
                      "attention: segment %d starts at query %d, the one before ended at %d",
                      i, s->query, covered);
    covered += s->n_query;
  }

  if (covered == q->rows) return FVG_OK;
  return fvg_fail(c, FVG_E_SHAPE, "attention: the segments hold %d queries, q has %d rows",
                  covered, q->rows);
}

static fvg_status fvg__check_n_head(const fvg_node *q, int n_head) {
  if (n_head >= 1 && q->cols % n_head == 0) return FVG_OK;
  return fvg_fail(q->tape->ctx, FVG_E_SHAPE,
                  "attention: width %d is not a multiple of %d heads", q->cols, n_head);
}

/* q [n,w], k and v [m,w] -> [n,w].  saved: ln sum exp S, [n, n_head];  table: the segments. */
FVG_DEF fvg_node *fvg_attention(fvg_node *q, fvg_node *k, fvg_node *v, int n_head,
                                const fvg_segment *segment, int n_segment) {
  if (!q || !k || !v) return fvg__null_operand("attention", q, k, v);
  if (!segment) return fvg__null_array(q->tape, "fvg_attention", "the list of segments");
  if (q->cols != k->cols)
    return fvg__mismatch("attention", q, k);
  if (!fvg__same_shape(k, v)) return fvg__mismatch("attention", k, v);

  fvg_tape *t = q->tape;
  if (fvg__check_n_head(q, n_head)) return fvg__give_up(t);
  if (fvg__check_segments(q, k, segment, n_segment)) return fvg__give_up(t);

  fvg_node *y = fvg__node(t, q->rows, q->cols, q, k, v, FVG__BY_ATTENTION);
  if (!y) return NULL;
  size_t bytes = (size_t)n_segment * sizeof *segment;
  fvg_segment *table = (fvg_segment *)fvg__tape_alloc(t, bytes);
  if (!table || !fvg__save_floats(y, fvg__row(q->rows, n_head)))
    return NULL;
  memcpy(table, segment, bytes);
  y->table = table;
  y->n = n_segment;
  y->number = (float)n_head;

  fvg__attention_job j;
  j.y = y;
  j.segment = table;
  j.n_segment = n_segment;
  j.n_head = n_head;

  /* A job has some 64 queries at least. */
  j.per_job = 1 + (int)((int64_t)64 * n_segment / ((int64_t)q->rows + 1));
  j.n_jobs = fvg__ceil_div(n_segment, j.per_job) * n_head;
  j.run = fvg__attention_forward;
  fvg__attention_run(&j, fvg__forward_scratch);
  return t->failed ? NULL : y;
}

/* ---- from an operation to its derivative ---- */
/* Chapter 9 calls this for each node on its walk back. */
static FVG__UNUSED void fvg__pass_back(fvg_node *y) {
  switch (y->made_by) {
    case FVG__BY_NONE: return;

    case FVG__BY_ADD:           fvg__add_backward(y); return;
    case FVG__BY_MUL:           fvg__mul_backward(y); return;
    case FVG__BY_SCALE:         fvg__scale_backward(y); return;
    case FVG__BY_LINEAR:        fvg__linear_backward(y); return;
    case FVG__BY_LAYER_NORM:    fvg__layer_norm_backward(y); return;

    case FVG__BY_EXP:           fvg__exp_backward(y); return;
    case FVG__BY_RELU:          fvg__relu_backward(y); return;
    case FVG__BY_SIGMOID:       fvg__sigmoid_backward(y); return;
    case FVG__BY_GELU:          fvg__gelu_backward(y); return;
    case FVG__BY_QUICK_GELU:    fvg__quick_gelu_backward(y); return;

    case FVG__BY_SOFTMAX:       fvg__softmax_backward(y); return;
    case FVG__BY_NORMALIZE:     fvg__normalize_backward(y); return;

    case FVG__BY_CONCAT:        fvg__concat_backward(y); return;
    case FVG__BY_GATHER:        fvg__gather_backward(y); return;
    case FVG__BY_TRANSPOSE:     fvg__transpose_backward(y); return;
    case FVG__BY_LERP:          fvg__lerp_backward(y); return;
    case FVG__BY_ATTENTION:     fvg__attention_backward(y); return;
    case FVG__BY_RECOMPUTE:     fvg__recompute_backward(y); return;

#ifndef FVGPT_NO_TRAINING
    case FVG__BY_SUM:           fvg__sum_backward(y); return;
    case FVG__BY_CROSS_ENTROPY: fvg__cross_entropy_backward(y); return;
    case FVG__BY_KL_ROWS:       fvg__kl_rows_backward(y); return;
    case FVG__BY_BCE:           fvg__bce_backward(y); return;
#else
    default: return;
#endif
  }
}

/* ---- the block ---- */
/* x w^T + b */
static fvg_node *fvg__project(fvg_node *x, const fvg_tensor *weight, const fvg_tensor *bias) {
  return x ? fvg_linear(x, fvg_frozen(x->tape, weight), fvg_frozen(x->tape, bias)) : NULL;
}

/* r + x w^T + b, the end of a residual branch */
static fvg_node *fvg__project_onto(fvg_node *x, const fvg_tensor *weight, const fvg_tensor *bias,
                                   fvg_node *r) {
  if (!x || !r) return fvg__null_operand("linear's sum", x, r, r);
  return fvg_linear_add(x, fvg_frozen(x->tape, weight), fvg_frozen(x->tape, bias), r);
}

static fvg_node *fvg__norm(fvg_node *x, const fvg_tensor *weight, const fvg_tensor *bias,
                           float eps) {
  if (!x) return NULL;
  return fvg_layer_norm(x, fvg_frozen(x->tape, weight), fvg_frozen(x->tape, bias), eps);
}

/* The block from n = LN_1(x) on; x and n are [rows, w].

     x += W_out attention(W_q n, W_k n, W_v n)
     x += W_proj act(W_fc LN_2(x))

   With keep, keys and values come from all rows and everything else is computed for the n_keep kept
   rows only, so the result is [n_keep, w]. */
static fvg_node *fvg__block_rest(fvg_node *x, fvg_node *n, const fvg_transformer *m,
                                 const fvg_block *b, const fvg_segment *segment, int n_segment,
                                 const int *keep, int n_keep) {
  fvg_node *k = fvg__project(n, &b->k_weight, &b->k_bias);
  fvg_node *v = fvg__project(n, &b->v_weight, &b->v_bias);
  if (keep) {
    x = fvg_gather(x, keep, n_keep);
    n = fvg_gather(n, keep, n_keep);
  }

  fvg_node *q = fvg__project(n, &b->q_weight, &b->q_bias);
  fvg_node *a = fvg_attention(q, k, v, m->n_head, segment, n_segment);
  x = fvg__project_onto(a, &b->out_weight, &b->out_bias, x);

  fvg_node *f = fvg__norm(x, &b->ln_2_weight, &b->ln_2_bias, m->eps);
  f = fvg__project(f, &b->fc_weight, &b->fc_bias);
  f = m->activation == FVG_GELU ? fvg_gelu(f) : fvg_quick_gelu(f);
  return fvg__project_onto(f, &b->proj_weight, &b->proj_bias, x);
}

static fvg_node *fvg__block_forward(fvg_node *x, const fvg_transformer *m, const fvg_block *b,
                                    const fvg_segment *segment, int n_segment,
                                    const int *keep, int n_keep) {
  fvg_node *n = fvg__norm(x, &b->ln_1_weight, &b->ln_1_bias, m->eps);
  return fvg__block_rest(x, n, m, b, segment, n_segment, keep, n_keep);
}

/* ---- one block of a transformer, perhaps made twice ---- */
/* What a block is called with; a copy lies on the tape where backward makes the block again. */
typedef struct fvg__block_call {
  const fvg_transformer *m;
  const fvg_block *block;
  const fvg_segment *segment;
  int n_segment;
  const int *keep;                  /* [n_keep], or NULL: every row                               */
  int n_keep;
} fvg__block_call;

/* Are these n rows the last ones before `end`? */
static int fvg__are_last_rows(const int *row, int n, int end) {
  for (int i = 0; i < n; i++)
    if (row[i] != end - n + i) return 0;
  return 1;
}

/* Restricts the last block's call to the kept rows: queries are numbered anew, and segments that
   keep none, such as a shared prefix, are left out, since only their keys are needed.  0 on
   failure: a causal segment may keep its last rows only. */
static int fvg__keep_queries(fvg_tape *t, fvg__block_call *call, const int *keep, int n_keep) {
  size_t bytes = (size_t)call->n_segment * sizeof *call->segment;
  fvg_segment *kept = (fvg_segment *)fvg__tape_alloc(t, bytes);
  if (!kept) return 0;

  int n = 0;
  int at = 0;                       /* kept rows so far */
  for (int i = 0; i < call->n_segment; i++) {
    const fvg_segment *s = &call->segment[i];
    int end = s->query + s->n_query;

    int n_here = 0;
    while (at + n_here < n_keep && keep[at + n_here] >= s->query && keep[at + n_here] < end)
      n_here++;
    if (!n_here) continue;
    if (s->causal && !fvg__are_last_rows(keep + at, n_here, end)) break;

    kept[n] = *s;
    kept[n].query = at;
    kept[n].n_query = n_here;
    n++;
    at += n_here;
  }

  if (at < n_keep) {
    fvg_fail(t->ctx, FVG_E_ARG,
             "transform: kept row %d is not the end of its segment, or the kept rows are not in "
             "order", keep[at]);
    fvg__give_up(t);
    return 0;
  }
  call->segment = kept;
  call->n_segment = n;
  call->keep = keep;
  call->n_keep = n_keep;
  return 1;
}

/* An fvg_function: the block of the call `user`. */
static fvg_node *fvg__block_of_call(fvg_tape *t, fvg_node *x, void *user) {
  const fvg__block_call *b = (const fvg__block_call *)user;
  (void)t;
  return fvg__block_forward(x, b->m, b->block, b->segment, b->n_segment, b->keep, b->n_keep);
}

/* The block through fvg_recompute, with the call copied to the tape. */
static fvg_node *fvg__block_recomputed(fvg_node *x, const fvg__block_call *call) {
  fvg_tape *t = x->tape;
  size_t segment_bytes = (size_t)call->n_segment * sizeof *call->segment;
  size_t keep_bytes = (size_t)call->n_keep * sizeof *call->keep;

  fvg__block_call *copy = (fvg__block_call *)fvg__tape_alloc(t, sizeof *copy);
  fvg_segment *segment = (fvg_segment *)fvg__tape_alloc(t, segment_bytes);
  int *keep = (int *)fvg__tape_alloc(t, keep_bytes + sizeof *keep);
  if (!copy || !segment || !keep) return NULL;

  *copy = *call;
  memcpy(segment, call->segment, segment_bytes);
  copy->segment = segment;
  if (call->keep) {
    memcpy(keep, call->keep, keep_bytes);
    copy->keep = keep;
  }
  return fvg_recompute(x, fvg__block_of_call, copy);
}

/* What enters the block of a splice, of what left the block before.  Rows that come in anew between
   others have nothing to keep. */
static fvg_node *fvg__splice_in(fvg_node *x, const fvg_prompts *p, const fvg_splice *splice) {
  fvg_node *in = fvg_gather(fvg_concat(x, p->vectors), splice->row, splice->n_row);
  const int replaces = in && in->rows == x->rows;
  if (!replaces || p->keep == 0) return in;

  fvg_node *share = fvg_zeros(x->tape, x->rows, 1);
  if (!share) return NULL;
  for (int r = 0; r < x->rows; r++) {
    const int is_vector = splice->row[r] >= x->rows;
    fvg_fill(share)[r] = is_vector ? p->keep : 0;
  }
  return fvg_lerp(in, x, share);
}

/* x [rows, w] through all blocks -> [rows or n_keep, w]. */
FVG_DEF fvg_node *fvg_transform_prompted(fvg_node *x, const fvg_transformer *m,
                                         const fvg_segment *segment, int n_segment,
                                         const int *keep, int n_keep,
                                         const fvg_prompts *prompts) {
  if (!x) return NULL;
  fvg_tape *t = x->tape;
  if (!m || !segment)
    return fvg__null_array(t, "fvg_transform", m ? "the list of segments" : "the transformer");
  const fvg_splice *splice = prompts ? prompts->splice : NULL;
  const fvg_splice *end = splice ? splice + prompts->n_splice : NULL;

  /* Where no gradient is needed, each block's result takes the place of the one before. */
  fvg_mark mark = fvg_tape_mark(t);
  for (int i = 0; x && i < m->n_layer; i++) {
    if (splice != end && splice->layer == i) {
      x = fvg__splice_in(x, prompts, splice);
      if (splice->segment) {
        segment = splice->segment;
        n_segment = splice->n_segment;
      }
      splice++;
    }

    fvg__block_call call;
    memset(&call, 0, sizeof call);
    call.m = m;
    call.block = &m->block[i];
    call.segment = segment;
    call.n_segment = n_segment;
    int is_last = i == m->n_layer - 1;
    if (keep && is_last && !fvg__keep_queries(t, &call, keep, n_keep))
      return NULL;

    int twice = FVG__TRAINS && x && x->needs_grad && prompts && prompts->recompute;
    x = twice ? fvg__block_recomputed(x, &call) : fvg__block_of_call(t, x, &call);
    x = fvg_tape_keep(t, mark, x);
  }

  if (x && splice != end) {
    fvg_fail(t->ctx, FVG_E_ARG, "transform: a splice enters before block %d, but there are %d "
             "blocks, and splices must come in ascending order", splice->layer, m->n_layer);
    return fvg__give_up(t);
  }
  return x;
}

FVG_DEF fvg_node *fvg_transform(fvg_node *x, const fvg_transformer *m, const fvg_segment *segment,
                                int n_segment, const int *keep, int n_keep) {
  return fvg_transform_prompted(x, m, segment, n_segment, keep, n_keep, NULL);
}

#ifndef FVGPT_NO_TRAINING  /* chapter 12 */
/*==================================================================================================
 * CHAPTER 12  OPTIMISERS: SGD, AdamW and the schedule
 *==================================================================================================
   SGD and AdamW are as PyTorch defines them, because the published numbers rest on the details.
   With g the gradient, w the parameter, wd the weight decay and t the number of the step:

     SGD     g <- g + wd w
             v <- momentum v + g                (v = g at the first step)
             w <- w - lr v

     AdamW   w <- (1 - lr wd) w                 (Loshchilov and Hutter, 2019)
             m <- b1 m + (1 - b1) g
             v <- b2 v + (1 - b2) g^2
             w <- w - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

   The schedule counts epochs from 0.  Warm-up epochs run at a small constant rate.  After them
   comes the cosine of Dassl,

        lr(e) = lr/2 (1 + cos(pi (e - warmup) / epochs)),

   whose clock starts after the warm-up but whose half period is all `epochs`.  So training ends
   before the rate gets to zero: with 10 epochs, 1 of them warm-up, the last rate is 0.095 lr.

   A parameter may be trained at a multiple of the rate (DePT's head).  Only the warm-up's rate is
   the same for all in the published programs, so a step can be told to take it as it is. */

struct fvg_optimizer {
  fvg_ctx *ctx;
  fvg_optimizer_desc desc;
  fvg_parameter **params;           /* [n]                                                        */
  float **momentum;                 /* [n], SGD's v or AdamW's m, as long as the parameter        */
  float **variance;                 /* [n], AdamW's v; NULLs for SGD                              */
  int n;
  long step;                        /* steps done                                                 */
};

FVG_DEF fvg_optimizer_desc fvg_optimizer_defaults(const fvg_optimizer_desc *desc) {
  fvg_optimizer_desc d;
  memset(&d, 0, sizeof d);
  if (desc) d = *desc;

  fvg__fill_in(&d.lr, 0.0035f);
  fvg__fill_in(&d.momentum, 0.9f);
  fvg__fill_in(&d.weight_decay, 5e-4f);
  fvg__fill_in(&d.beta1, 0.9f);
  fvg__fill_in(&d.beta2, 0.999f);
  fvg__fill_in(&d.eps, 1e-8f);
  fvg__fill_in(&d.warmup_lr, 1e-5f);
  if (d.epochs <= 0) d.epochs = 10;
  if (d.warmup_epochs == 0) d.warmup_epochs = 1;
  return d;
}

FVG_DEF double fvg_learning_rate(const fvg_optimizer_desc *desc, int epoch) {
  fvg_optimizer_desc d = fvg_optimizer_defaults(desc);
  int warmup = d.warmup_epochs > 0 ? d.warmup_epochs : 0;
  if (epoch < warmup) return (double)d.warmup_lr;

  double angle = 3.14159265358979323846 * (epoch - warmup) / d.epochs;
  return (double)d.lr * 0.5 * (1 + cos(angle));
}

FVG_DEF void fvg_optimizer_free(fvg_optimizer *o) {
  if (!o) return;

  for (int i = 0; i < o->n; i++) {
    if (o->momentum)
      fvg_release(o->ctx, o->momentum[i]);
    if (o->variance)
      fvg_release(o->ctx, o->variance[i]);
  }
  fvg_release(o->ctx, o->momentum);
  fvg_release(o->ctx, o->variance);
  fvg_release(o->ctx, o->params);
  fvg_release(o->ctx, o);
}

/* The memory of an optimiser for parameter i, zeroed; 0 when out of memory. */
static int fvg__optimizer_add(fvg_optimizer *o, int i, fvg_parameter *p) {
  size_t count = fvg_tensor_count(&p->value);
  o->params[i] = p;

  o->momentum[i] = FVG_NEW_ARRAY(o->ctx, float, count);
  if (!o->momentum[i]) return 0;
  if (o->desc.kind != FVG_ADAMW) return 1;

  o->variance[i] = FVG_NEW_ARRAY(o->ctx, float, count);
  return o->variance[i] != NULL;
}

/* An optimiser of n parameters, which it does not own; *out is NULL on failure. */
FVG_DEF fvg_status fvg_optimizer_new(fvg_ctx *c, fvg_optimizer **out, fvg_parameter *const *params,
                                     int n, const fvg_optimizer_desc *desc) {
  if (!out) return fvg__missing(c, "fvg_optimizer_new", "the result");
  *out = NULL;
  int missing = n > 0 && !params;
  for (int i = 0; i < n && !missing; i++)
    missing = !params[i];
  if (missing) return fvg__missing(c, "fvg_optimizer_new", "every parameter and their list");

  fvg_optimizer *o = FVG_NEW(c, fvg_optimizer);
  if (!o) return FVG_E_NOMEM;

  o->ctx = c;
  o->desc = fvg_optimizer_defaults(desc);
  o->desc.momentum = fvg__none_if_negative(o->desc.momentum);
  o->desc.weight_decay = fvg__none_if_negative(o->desc.weight_decay);

  o->n = n;
  o->params = FVG_NEW_ARRAY(c, fvg_parameter *, (size_t)n);
  o->momentum = FVG_NEW_ARRAY(c, float *, (size_t)n);
  o->variance = FVG_NEW_ARRAY(c, float *, (size_t)n);

  int ok = o->params && o->momentum && o->variance;
  for (int i = 0; ok && i < n; i++)
    ok = fvg__optimizer_add(o, i, params[i]);
  if (!ok) {
    fvg_optimizer_free(o);
    return FVG_E_NOMEM;
  }
  *out = o;
  return FVG_OK;
}

FVG_DEF void fvg_optimizer_zero_grad(fvg_optimizer *o) {
  for (int i = 0; i < o->n; i++) {
    fvg_parameter *p = o->params[i];
    memset(p->grad, 0, fvg_tensor_count(&p->value) * sizeof(float));
  }
}

static void fvg__sgd_step(const fvg_optimizer_desc *d, size_t n, float lr,
                          float *w, const float *g, float *v) {
  for (size_t k = 0; k < n; k++) {
    v[k] = d->momentum * v[k] + (g[k] + d->weight_decay * w[k]);
    w[k] -= lr * v[k];
  }
}

/* What does not depend on the element is computed once, in double: lr / (1 - b1^t) and
   sqrt(1 - b2^t). */
static void fvg__adamw_step(const fvg_optimizer_desc *d, size_t n, double lr, long step,
                            float *w, const float *g, float *m, float *v) {
  double correction1 = 1 - pow((double)d->beta1, (double)step);
  double correction2 = 1 - pow((double)d->beta2, (double)step);
  float rate = (float)(lr / correction1);
  float root = (float)sqrt(correction2);
  float decay = (float)(1 - lr * (double)d->weight_decay);

  for (size_t k = 0; k < n; k++) {
    w[k] *= decay;
    m[k] = d->beta1 * m[k] + (1 - d->beta1) * g[k];
    v[k] = d->beta2 * v[k] + (1 - d->beta2) * g[k] * g[k];
    w[k] -= rate * m[k] / (sqrtf(v[k]) / root + d->eps);
  }
}

/* The step; `equal` 1: at the rate lr for all parameters, whatever their own. */
static void fvg__optimizer_step(fvg_optimizer *o, double lr, int equal) {
  o->step++;

  for (int i = 0; i < o->n; i++) {
    const fvg_parameter *p = o->params[i];
    const double rate = equal || p->rate == 0 ? lr : lr * (double)p->rate;
    size_t n = fvg_tensor_count(&p->value);
    float *w = (float *)p->value.data;

    if (o->desc.kind == FVG_ADAMW)
      fvg__adamw_step(&o->desc, n, rate, o->step, w, p->grad, o->momentum[i], o->variance[i]);
    else
      fvg__sgd_step(&o->desc, n, (float)rate, w, p->grad, o->momentum[i]);
  }
}

FVG_DEF void fvg_optimizer_step(fvg_optimizer *o, double lr) { fvg__optimizer_step(o, lr, 0); }

FVG_DEF long *fvg_optimizer_steps(fvg_optimizer *o) { return &o->step; }

FVG_DEF float *fvg_optimizer_moment(fvg_optimizer *o, int i, int moment) {
  return moment ? o->variance[i] : o->momentum[i];
}
#endif /* FVGPT_NO_TRAINING */

FVG__SELDOM_RUN_BEGIN

/*==================================================================================================
 * CHAPTER 13  FVG-PT: two gates and two adapters on a frozen, tuned CLIP (arXiv 2603.08708)
 *==================================================================================================
   Tuned prompts fit the classes that they have seen and lose on new ones, and the image encoder
   attends less to the object.  FVG-PT freezes the tuned model and learns three small modules from
   pictures with foreground masks.

   Words.  A feature is a vector that stands for an image or for a class name.  A logit is a score
   before the softmax; the temperature tau divides logits, and a larger one makes probabilities
   flatter.  CE is the cross-entropy of logits and a label, KL(p || q) = sum_c p_c ln(p_c / q_c) the
   divergence of p from q, BCE the binary cross-entropy, and Ent(p) = -sum_c p_c ln p_c the entropy,
   in nats.  Adapters and gates are small networks: an adapter changes a feature, and a gate gives a
   number from 0 to 1.  FRG is the foreground reliability gate; it gives r, the trust in the
   foreground view.  BRG is the backbone reliability gate, the gate of PC; it gives b, the share of
   zero-shot CLIP.

   What is given.  Image i has the feature f_i, and its foreground view, the image times its mask,
   has f_fg_i, both from the tuned image encoder; class c has the text feature g_c of the tuned
   prompts.  f0 and g0 are the features of zero-shot CLIP.  All have unit length, s is CLIP's logit
   scale, y_i the label.  m_i is 1 if image i has a mask whose area passes area_rule, else 0.

     (1)  z_full = s f_score g^T     z_fg = s f_score_fg g^T     z_tuned = s f g^T
          z_CLIP = s f0 g0^T         p_* = softmax(z_* / tau)

   f_score is the feature by which the tuned model scores base classes.  Only MMRL and MMRL++ have
   one of their own, a mixture of two features, and score new classes by f.  For all other methods
   f_score is f, f_score_fg is f_fg, and z_tuned is z_full.  (DePT adds to base classes what is no
   product of features; FVG-PT does not see that.)

   FRG: how far may the foreground view of this image be trusted?

     (2)  u = [ Ent(p_full) - Ent(p_fg),  cos(p_full, p_fg),  area ]
     (3)  r = m sigmoid(MLP_FRG(u))
     (4)  L_FRG = mean over the images with m = 1 of BCE(sigmoid(MLP_FRG(u)), r*),
          with r* = 1 if CE(z_fg, y) < CE(z_full, y) - delta, else 0

   The area is the share of foreground in the view, which is what crop and flip leave of the image.

   FDC, foreground distillation compensation: two adapters, drawn toward the view that is trusted.

     (5)  f~ = norm(f + MLP_image(f))      g~ = norm(g + MLP_text(g))      z_FDC = s f~ g~^T
     (6)  L_dist = mean_i [ r_i KL(p_fg_i || p_FDC_i) + (1 - r_i) KL(p_full_i || p_FDC_i) ],
          with p_FDC = softmax(z_FDC / tau), and r taken as a constant

   The mean is over all n images, so one with m = 0 is distilled from the full view.

   Stable distillation is ours, not the paper's.  A step of SGD at the rate lr moves z_FDC by about
   lr s^2 / d times its gradient: s = 100, d = 512 at 0.0035 step as far as s = 40, d = 192 at
   0.0084, and with lambda_base 10 both are near the edge of what stays stable.  A teacher that
   contradicts the labels, as inverted masks give, is not learnt slowly; training blows up within an
   epoch, while r is still 0.5 for right and wrong masks alike.  So FVG_DISTILL_STABLE has r_i =
   m_i r*_i in (6), since by (4) the label itself says which view to follow, and lambda_base 0.1,
   so that CE leads; FRG trains on by (4), for whoever asks for r.  0.1 lies outside the paper's
   sweep (1 to 50), and was measured (tests/README.md) on a small tower, not on a web-scale CLIP.

   PC, prior calibration: how much of zero-shot CLIP do classes need that were never seen?

     (7)  v = [ Ent(p_tuned),  Ent(p_CLIP),  cos(p_tuned, p_CLIP) ]      b = sigmoid(MLP_BRG(v))
     (8)  z_PC = (1 - b) z_tuned + b z_CLIP
          L_PC = mean_i [ CE(z_PC_i, y_i) + KL(p_CLIP_i || softmax(z_PC_i / tau)) ]

   Training minimises

     (9)  L = CE(z_FDC, y) + lambda_base L_dist + lambda_rg L_FRG + lambda_new L_PC,

   where CE is the mean over the images, too.  Every MLP has a relu between its layers.

     f_score    [n,d] --.                     .-- p_full --.
     f_score_fg [n,d] ---+-- x s g^T, / tau --+-- p_fg ----+-- u [n,3] -- FRG -- r [n,1]
                                                                                  | value only
     f [n,d] -- adapter f~ --.                                  (stable: m r*)    |
     g [C,d] -- adapter g~ ---+-- z_FDC [n,C] -- CE, L_dist(p_full, p_fg, r) <----'
                                    '-- scores base classes

     f  [n,d] -- x s g^T  -- z_tuned [n,C] --+-- v [n,3] -- BRG -- b [n,1]
     f0 [n,d] -- x s g0^T -- z_CLIP  [n,C] --'                      |
     z_tuned, z_CLIP -- mixed by b <--------------------------------'
                                    '-- z_PC [n,C] -- CE, KL(p_CLIP)
                                          '-- scores new classes

   Constants.  f, f_fg, f0, g and g0 come from frozen models.  So all of (1), u, v and r* have no
   gradient, and only the two gates and the two adapters are learned.  The modules share no
   parameter, and no gradient passes between them, unless attach_r lets that of L_dist into FRG.
   PC may be trained alone with the same result.  FDC may not, since (6) reads the value of r at
   every step.

   In testing, base classes are scored by z_FDC, which needs no mask, and new classes by z_PC.

   Sources.  The numbers (1) to (9) are this header's, not the paper's.  The paper gives the
   modules, (1) to (9) without m, the temperature, delta and the weights.  The authors' released
   code has no trainer for FVG-PT; its settings give the same numbers, and also the bounds of the
   area and the small start of the adapters.  Ours is what neither says: m, which leaves out images
   without a usable mask; that the area is that of the view; the relu; r as a constant in (6),
   entropies that are not divided by ln C, and no factor tau^2 before a KL; the first values; and
   for MMRL which of f_score and f goes where.

   The functions below come in this order: the parameters; (1); what both gates look at; FRG, FDC
   and PC, each with its part of the loss; the loss (9) and a training step; and what a trained
   model is asked for.  Their names are those of the equations. */

#define FVG__MAX_GATE_LAYERS 3

/* A residual multi-layer perceptron, d -> hidden -> d, of equation (5). */
typedef struct fvg__adapter {
  fvg_parameter down_weight, down_bias;     /* [hidden, d], [hidden]                              */
  fvg_parameter up_weight, up_bias;         /* [d, hidden], [d]                                   */
} fvg__adapter;

/* A multi-layer perceptron, 3 -> hidden -> 1, of equations (3) and (7). */
typedef struct fvg__gate {
  fvg_parameter weight[FVG__MAX_GATE_LAYERS], bias[FVG__MAX_GATE_LAYERS];
  int n_layer;
} fvg__gate;

struct fvg_fvgpt {
  fvg_ctx *ctx;
  fvg_fvgpt_desc desc;
  fvg__adapter fdc_image, fdc_text;
  fvg__gate frg, brg;
  fvg_parameter *params[8 + 4 * FVG__MAX_GATE_LAYERS];
  int n_params;
  fvg_tape *tape;
  /* Set while loading: shapes are checked against the file before anything is allocated. */
  const fvg_weights *file;
};

FVG_DEF fvg_fvgpt_desc fvg_fvgpt_defaults(const fvg_fvgpt_desc *desc) {
  fvg_fvgpt_desc d;
  memset(&d, 0, sizeof d);
  if (desc) d = *desc;

  d.fdc_hidden = d.fdc_hidden <= 0 ? 64 : d.fdc_hidden;
  d.gate_hidden = d.gate_hidden <= 0 ? 32 : d.gate_hidden;
  d.gate_layers = d.gate_layers <= 0 ? 2 : d.gate_layers;
  fvg__fill_in(&d.fdc_init_scale, 1e-3f);
  fvg__fill_in(&d.logit_scale, 100.0f);
  fvg__fill_in(&d.tau, 2.0f);
  fvg__fill_in(&d.lambda_base, d.distill == FVG_DISTILL_STABLE ? 0.1f : 10.0f);
  fvg__fill_in(&d.lambda_new, 1.0f);
  fvg__fill_in(&d.lambda_rg, 1.0f);
  fvg__fill_in(&d.area_min, 0.02f);
  fvg__fill_in(&d.area_max, 0.98f);
  return d;
}

/* ---- parameters ---- */

typedef enum fvg__init { FVG__INIT_ZERO = 0, FVG__INIT_UNIFORM, FVG__INIT_NORMAL } fvg__init;

/* Adds the parameter p, [rows, cols] or, with cols 0, [rows], to the list of what trains.  It
   starts uniform in +-scale, or normal with the standard deviation scale, or zero; every parameter
   has a random stream of its own. */
static fvg_status fvg__add_parameter(fvg_fvgpt *m, fvg_parameter *p, const char *name,
                                     int rows, int cols, fvg__init init, double scale) {
  const int dim[2] = {rows, cols};
  int n_dim = cols ? 2 : 1;
  fvg_status s = FVG_OK;
  if (m->file) s = fvg__check_shape(m->ctx, m->file, name, n_dim, dim);
  if (!s) s = fvg_parameter_new(m->ctx, p, name, n_dim, dim);
  if (s) return s;

  fvg_rng rng;
  fvg_rng_seed(&rng, m->desc.seed, 100 + (uint64_t)m->n_params);
  float *value = (float *)p->value.data;
  size_t n = fvg_tensor_count(&p->value);
  for (size_t k = 0; k < n && init != FVG__INIT_ZERO; k++) {
    double drawn = init == FVG__INIT_NORMAL ? fvg_rng_normal(&rng) : 2 * fvg_rng_uniform(&rng) - 1;
    value[k] = (float)(scale * drawn);
  }

  m->params[m->n_params++] = p;
  return FVG_OK;
}

/* The layer down starts as PyTorch's linear layers do, uniform in +-1/sqrt(inputs).  The layer up
   starts near zero, so that z_FDC starts close to z_tuned = s f g^T. */
static fvg_status fvg__adapter_new(fvg_fvgpt *m, fvg__adapter *a, const char *const name[4]) {
  int d = m->desc.width, hidden = m->desc.fdc_hidden;
  double bound = 1 / sqrt((double)d);
  double near_zero = (double)fvg__none_if_negative(m->desc.fdc_init_scale);

  fvg_status s = fvg__add_parameter(m, &a->down_weight, name[0], hidden, d, FVG__INIT_UNIFORM,
                                    bound);
  if (!s) s = fvg__add_parameter(m, &a->down_bias, name[1], hidden, 0, FVG__INIT_UNIFORM, bound);
  if (!s) s = fvg__add_parameter(m, &a->up_weight, name[2], d, hidden, FVG__INIT_NORMAL, near_zero);
  if (!s) s = fvg__add_parameter(m, &a->up_bias, name[3], d, 0, FVG__INIT_ZERO, 0);
  return s;
}

/* Every layer of a gate starts as PyTorch's linear layers do. */
static fvg_status fvg__gate_new(fvg_fvgpt *m, fvg__gate *g,
                                const char *const name[2 * FVG__MAX_GATE_LAYERS]) {
  fvg_status s = FVG_OK;
  for (g->n_layer = 0; !s && g->n_layer < m->desc.gate_layers; g->n_layer++) {
    int i = g->n_layer;
    int inputs = i == 0 ? 3 : m->desc.gate_hidden;
    int outputs = i == m->desc.gate_layers - 1 ? 1 : m->desc.gate_hidden;
    double bound = 1 / sqrt((double)inputs);

    s = fvg__add_parameter(m, &g->weight[i], name[2 * i], outputs, inputs, FVG__INIT_UNIFORM,
                           bound);
    if (!s) s = fvg__add_parameter(m, &g->bias[i], name[2 * i + 1], outputs, 0, FVG__INIT_UNIFORM,
                                   bound);
  }
  return s;
}

/* Refuses what cannot be computed with, and what a checkpoint could not hold: its reader takes no
   other values either. */
static fvg_status fvg__check_fvgpt_desc(fvg_ctx *c, const fvg_fvgpt_desc *d) {
  const int most_hidden = 65536;
  if (d->width < 1)
    return fvg_fail(c, FVG_E_ARG, "FVG-PT: width is %d, it must be that of the features", d->width);
  if (d->gate_layers > FVG__MAX_GATE_LAYERS)
    return fvg_fail(c, FVG_E_ARG, "FVG-PT: gate_layers is %d, 1 to %d are possible",
                    d->gate_layers, FVG__MAX_GATE_LAYERS);
  if (d->fdc_hidden > most_hidden || d->gate_hidden > most_hidden)
    return fvg_fail(c, FVG_E_ARG, "FVG-PT: fdc_hidden is %d and gate_hidden %d, at most %d are "
                    "possible", d->fdc_hidden, d->gate_hidden, most_hidden);

  if (!(d->tau > 0) || !(d->logit_scale > 0))
    return fvg_fail(c, FVG_E_ARG, "FVG-PT: tau and logit_scale must be positive");
  if (!(d->tau < 1e6f) || !(d->logit_scale < 1e6f))
    return fvg_fail(c, FVG_E_ARG, "FVG-PT: tau is %g and logit_scale %g, they must be below 1e6",
                    (double)d->tau, (double)d->logit_scale);

  if (FVG__TRAINS && !isfinite(d->lambda_base + d->lambda_new + d->lambda_rg + d->delta))
    return fvg_fail(c, FVG_E_ARG, "FVG-PT: the lambdas are %g, %g and %g, and delta is %g; they "
                    "must be finite", (double)d->lambda_base, (double)d->lambda_new,
                    (double)d->lambda_rg, (double)d->delta);

  int rule = (int)d->area_rule;
  int in_order = d->area_min >= 0 && d->area_min <= d->area_max && d->area_max <= 1;
  if (rule < FVG_AREA_ZERO_R || rule > FVG_AREA_IGNORE || !in_order)
    return fvg_fail(c, FVG_E_ARG, "FVG-PT: area_rule %d, area_min %g, area_max %g make no sense",
                    rule, (double)d->area_min, (double)d->area_max);

  int distill = (int)d->distill;
  if (distill < FVG_DISTILL_PUBLISHED || distill > FVG_DISTILL_STABLE)
    return fvg_fail(c, FVG_E_ARG, "FVG-PT: distill is %d, it must be published (%d) or stable (%d)",
                    distill, FVG_DISTILL_PUBLISHED, FVG_DISTILL_STABLE);
  if ((d->frg_without & ~FVG_U_ALL) || (d->brg_without & ~FVG_V_ALL))
    return fvg_fail(c, FVG_E_ARG, "FVG-PT: frg_without is %d and brg_without %d, 0 to 7 are "
                    "possible", d->frg_without, d->brg_without);
  return FVG_OK;
}

/* All modules with their first values.  file is the checkpoint that other values will come from, or
   NULL. */
static fvg_status fvg__fvgpt_new(fvg_ctx *c, fvg_fvgpt **out, const fvg_fvgpt_desc *desc,
                                 const fvg_weights *file) {
  static const char *const image_name[] = {"fdc_image.down.weight", "fdc_image.down.bias",
                                           "fdc_image.up.weight", "fdc_image.up.bias"};
  static const char *const text_name[] = {"fdc_text.down.weight", "fdc_text.down.bias",
                                          "fdc_text.up.weight", "fdc_text.up.bias"};
  static const char *const frg_name[] = {"frg.fc1.weight", "frg.fc1.bias", "frg.fc2.weight",
                                         "frg.fc2.bias",
                                         "frg.fc3.weight", "frg.fc3.bias"};
  static const char *const brg_name[] = {"brg.fc1.weight", "brg.fc1.bias", "brg.fc2.weight",
                                         "brg.fc2.bias",
                                         "brg.fc3.weight", "brg.fc3.bias"};
  if (!out) return fvg__missing(c, "fvg_fvgpt_new", "the result");
  *out = NULL;

  fvg_fvgpt_desc d = fvg_fvgpt_defaults(desc);
  fvg_status s = fvg__check_fvgpt_desc(c, &d);
  if (s) return s;
  fvg_fvgpt *m = FVG_NEW(c, fvg_fvgpt);
  if (!m) return FVG_E_NOMEM;
  m->ctx = c;
  m->desc = d;
  m->file = file;
  m->tape = fvg_tape_new(c);

  if (!m->tape) s = FVG_E_NOMEM;
  if (!s) s = fvg__adapter_new(m, &m->fdc_image, image_name);
  if (!s) s = fvg__adapter_new(m, &m->fdc_text, text_name);
  if (!s) s = fvg__gate_new(m, &m->frg, frg_name);
  if (!s) s = fvg__gate_new(m, &m->brg, brg_name);
  m->file = NULL;
  if (s) {
    fvg_fvgpt_free(m);
    return s;
  }
  *out = m;
  return FVG_OK;
}

FVG_DEF fvg_status fvg_fvgpt_new(fvg_ctx *c, fvg_fvgpt **out, const fvg_fvgpt_desc *desc) {
  return fvg__fvgpt_new(c, out, desc, NULL);
}

FVG_DEF void fvg_fvgpt_free(fvg_fvgpt *m) {
  if (!m) return;
  for (int i = 0; i < m->n_params; i++) fvg_parameter_free(m->ctx, m->params[i]);
  fvg_tape_free(m->tape);
  fvg_release(m->ctx, m);
}

FVG_DEF fvg_parameter *const *fvg_fvgpt_parameters(const fvg_fvgpt *m, int *n) {
  if (!n) return NULL;
  *n = m->n_params;
  return m->params;
}

/* ---- (1) what the frozen models say of a batch of n pictures and C classes ---- */

/* s f g^T: [n,d] [C,d] -> [n,C] */
static fvg_node *fvg__logits(const fvg_fvgpt *m, fvg_node *f, fvg_node *g) {
  return fvg_scale(fvg_linear(f, g, NULL), m->desc.logit_scale);
}

/* Features of the caller's as a constant node, [rows, d]. */
static fvg_node *fvg__features(const fvg_fvgpt *m, fvg_tape *t, const float *f, int rows) {
  return fvg_const(t, rows, m->desc.width, f);
}

/* p = softmax(z / tau): [n,C] */
static fvg_node *fvg__probabilities(const fvg_fvgpt *m, fvg_node *z) {
  return fvg_softmax(z, m->desc.tau);
}

/* z_full of (1), or z_fg where foreground is 1: scores by the feature that scores base classes */
static fvg_node *fvg__view_logits(fvg_fvgpt *m, fvg_tape *t, const fvg_fvgpt_batch *x,
                                  int foreground) {
  const float *f = x->f_score ? x->f_score : x->f;
  const float *f_fg = x->f_score_fg ? x->f_score_fg : x->f_fg;
  fvg_node *g = fvg__features(m, t, x->g, x->n_class);
  return fvg__logits(m, fvg__features(m, t, foreground ? f_fg : f, x->n), g);
}

/* z_tuned of (1): scores by the feature that scores new classes */
static fvg_node *fvg__tuned_logits(fvg_fvgpt *m, fvg_tape *t, const fvg_fvgpt_batch *x) {
  return fvg__logits(m, fvg__features(m, t, x->f, x->n), fvg__features(m, t, x->g, x->n_class));
}

static fvg_node *fvg__clip_logits(fvg_fvgpt *m, fvg_tape *t, const fvg_fvgpt_batch *x) {
  const float *f0 = x->f_clip ? x->f_clip : x->f;
  return fvg__logits(m, fvg__features(m, t, f0, x->n), fvg__features(m, t, x->g_clip, x->n_class));
}

static void fvg__copy_node(float *out, const fvg_node *x) {
  if (out) memcpy(out, fvg_value(x), fvg__count(x) * sizeof *out);
}

/* ---- what both gates look at ---- */

/* Ent(p) of n probabilities in nats, or, with normalise_entropy, as a share of the most, ln n */
static double fvg__entropy(const fvg_fvgpt *m, const float *p, int n) {
  double sum = 0;
  for (int i = 0; i < n; i++) {
    if (p[i] != 0) sum -= (double)p[i] * (double)logf(p[i]);
  }
  return m->desc.normalise_entropy && n > 1 ? sum / log((double)n) : sum;
}

/* cos(p, q) of two vectors of n probabilities */
static double fvg__cosine(const float *p, const float *q, int n) {
  double pq = 0, pp = 0, qq = 0;
  for (int i = 0; i < n; i++) {
    pq += (double)p[i] * (double)q[i];
    pp += (double)p[i] * (double)p[i];
    qq += (double)q[i] * (double)q[i];
  }
  return pq / sqrt(pp * qq);
}

/* Hides indicators from a gate: `without` has a bit for each of the three. */
static void fvg__hide_indicators(float x[3], int without) {
  for (int k = 0; k < 3; k++) {
    if (without >> k & 1) x[k] = 0;
  }
}

/* MLP(x): [n,3] -> [n,1], with a relu between the layers.  Sigmoid of it is the gate's answer. */
static fvg_node *fvg__gate_logit(fvg__gate *g, fvg_node *x) {
  for (int i = 0; x && i < g->n_layer; i++) {
    x = fvg_linear(x, fvg_param(x->tape, &g->weight[i]), fvg_param(x->tape, &g->bias[i]));
    if (i < g->n_layer - 1) x = fvg_relu(x);
  }
  return x;
}

#ifndef FVGPT_NO_TRAINING  /* FRG needs foreground views */
/* ---- FRG, the foreground reliability gate: (2) to (4) ---- */

/* m of (3): does the image have a mask, and of an area that passes area_rule?  *area becomes what
   the gate sees. */
static int fvg__mask_counts(const fvg_fvgpt_desc *d, float *area) {
  if (!(*area >= 0)) {
    *area = 0;
    return 0;
  }
  if (d->area_rule == FVG_AREA_ZERO_R) return *area >= d->area_min && *area <= d->area_max;
  if (d->area_rule == FVG_AREA_CLAMP) {
    if (*area < d->area_min) *area = d->area_min;
    if (*area > d->area_max) *area = d->area_max;
  }
  return 1;
}

typedef struct fvg__frg_nodes {
  fvg_node *q;                /* [n,1] the gate's logit                                         */
  fvg_node *counts;           /* [n,1] m, 1 for an image whose mask is used, else 0             */
  fvg_node *r;                /* [n,1] the trust, 0 where m is 0                                */
} fvg__frg_nodes;

/* (2) and (3): p_full, p_fg [n,C] and area [n] -> r.  An image with m = 0 has r = 0: (6) then
   distils from the full view.  Members are NULL if a node cannot be made. */
static fvg__frg_nodes fvg__frg(fvg_fvgpt *m, fvg_node *p_full, fvg_node *p_fg, const float *area) {
  fvg__frg_nodes frg = {NULL, NULL, NULL};
  if (!p_full || !p_fg) return frg;
  int n = p_full->rows, n_class = p_full->cols;
  fvg_node *u = fvg_zeros(p_full->tape, n, 3);
  frg.counts = fvg_zeros(p_full->tape, n, 1);
  if (!u || !frg.counts) return frg;

  for (int i = 0; i < n; i++) {
    const float *full = fvg_value(p_full) + fvg__row(i, n_class);
    const float *fg = fvg_value(p_fg) + fvg__row(i, n_class);
    float *u_i = fvg_fill(u) + fvg__row(i, 3);
    u_i[0] = (float)(fvg__entropy(m, full, n_class) - fvg__entropy(m, fg, n_class));       /* (2) */
    u_i[1] = (float)fvg__cosine(full, fg, n_class);
    u_i[2] = area[i];
    fvg_fill(frg.counts)[i] = fvg__mask_counts(&m->desc, &u_i[2]) ? 1.0f : 0.0f;
    fvg__hide_indicators(u_i, m->desc.frg_without);
  }

  frg.q = fvg__gate_logit(&m->frg, u);
  frg.r = fvg_mul(fvg_sigmoid(frg.q), frg.counts);                                         /* (3) */
  return frg;
}

/* CE(z, label) of one row of n logits, as a plain number */
static double fvg__row_cross_entropy(const float *z, int n, int label) {
  double max = (double)z[0];
  for (int i = 1; i < n; i++) {
    if ((double)z[i] > max) max = (double)z[i];
  }
  double sum = 0;
  for (int i = 0; i < n; i++) sum += exp((double)z[i] - max);
  return max + log(sum) - (double)z[label];
}

/* r* of (4), [n,1]: 1 where the foreground view gives the label a smaller cross-entropy by more
   than delta, else 0 */
static fvg_node *fvg__frg_target(const fvg_fvgpt *m, fvg_node *z_full, fvg_node *z_fg,
                                 const int *label) {
  if (!z_full || !z_fg) return NULL;
  int n_class = z_full->cols;
  fvg_node *target = fvg_zeros(z_full->tape, z_full->rows, 1);

  for (int i = 0; target && i < z_full->rows; i++) {
    double full = fvg__row_cross_entropy(fvg_value(z_full) + fvg__row(i, n_class), n_class,
                                         label[i]);
    double fg = fvg__row_cross_entropy(fvg_value(z_fg) + fvg__row(i, n_class), n_class, label[i]);
    fvg_fill(target)[i] = fg < full - (double)m->desc.delta ? 1.0f : 0.0f;
  }
  return target;
}

/* L_FRG of (4), over the images with m = 1 */
static fvg_node *fvg__frg_loss(fvg__frg_nodes frg, fvg_node *target) {
  if (!target || !frg.counts) return NULL;
  return fvg_bce_with_logits(frg.q, fvg_value(target), fvg_value(frg.counts));
}
#endif /* FVGPT_NO_TRAINING */

/* ---- FDC, foreground distillation compensation: (5) and (6) ---- */

/* norm(f + MLP(f)): [n,d] -> [n,d] */
static fvg_node *fvg__adapt(fvg__adapter *a, fvg_node *f) {
  if (!f) return NULL;
  fvg_tape *t = f->tape;
  fvg_node *down = fvg_linear(f, fvg_param(t, &a->down_weight), fvg_param(t, &a->down_bias));
  fvg_node *hidden = fvg_relu(down);
  fvg_node *up = fvg_linear(hidden, fvg_param(t, &a->up_weight), fvg_param(t, &a->up_bias));
  return fvg_normalize(fvg_add(f, up));
}

/* (5): f [n,d], g [C,d] -> z_FDC [n,C] */
static fvg_node *fvg__fdc(fvg_fvgpt *m, fvg_node *f, fvg_node *g) {
  fvg_node *f_adapted = fvg__adapt(&m->fdc_image, f);
  fvg_node *g_adapted = fvg__adapt(&m->fdc_text, g);
  return fvg__logits(m, f_adapted, g_adapted);
}

#ifndef FVGPT_NO_TRAINING  /* (6) */
/* The published losses have no factor before a KL divergence; Hinton's distillation has tau^2. */
static float fvg__kl_factor(const fvg_fvgpt *m) {
  return m->desc.kl_tau2 ? m->desc.tau * m->desc.tau : 1.0f;
}

/* r as (6) has it: the gate's, or for stable distillation m r*, which has no gradient. */
static fvg_node *fvg__distill_trust(const fvg_fvgpt *m, fvg__frg_nodes frg, fvg_node *r,
                                    fvg_node *target) {
  if (m->desc.distill == FVG_DISTILL_STABLE) return fvg_mul(target, frg.counts);
  return m->desc.attach_r ? r : fvg_detach(r);
}

/* L_dist of (6): the student z_FDC follows the foreground view as far as it is trusted, and for the
   rest the full view. */
static fvg_node *fvg__fdc_loss(fvg_fvgpt *m, fvg_node *p_full, fvg_node *p_fg, fvg_node *z_fdc,
                               fvg_node *trust) {
  fvg_node *from_fg = fvg_kl_rows(p_fg, z_fdc, m->desc.tau);           /* [n,1] */
  fvg_node *from_full = fvg_kl_rows(p_full, z_fdc, m->desc.tau);
  fvg_node *l_dist = fvg_mean(fvg_lerp(from_full, from_fg, trust));
  return fvg_scale(l_dist, fvg__kl_factor(m));
}
#endif /* FVGPT_NO_TRAINING */

/* ---- PC, prior calibration: (7) and (8) ---- */

/* (7), the backbone reliability gate: p_tuned, p_CLIP [n,C] -> b [n,1], the share of zero-shot
   CLIP */
static fvg_node *fvg__brg(fvg_fvgpt *m, fvg_node *p_tuned, fvg_node *p_clip) {
  if (!p_tuned || !p_clip) return NULL;
  int n_class = p_tuned->cols;
  fvg_node *v = fvg_zeros(p_tuned->tape, p_tuned->rows, 3);
  if (!v) return NULL;

  for (int i = 0; i < v->rows; i++) {
    const float *tuned = fvg_value(p_tuned) + fvg__row(i, n_class);
    const float *clip = fvg_value(p_clip) + fvg__row(i, n_class);
    float *v_i = fvg_fill(v) + fvg__row(i, 3);
    v_i[0] = (float)fvg__entropy(m, tuned, n_class);
    v_i[1] = (float)fvg__entropy(m, clip, n_class);
    v_i[2] = (float)fvg__cosine(tuned, clip, n_class);
    fvg__hide_indicators(v_i, m->desc.brg_without);
  }
  return fvg_sigmoid(fvg__gate_logit(&m->brg, v));
}

/* (7) and the first half of (8): z_tuned, z_CLIP and p_CLIP [n,C] -> z_PC [n,C], and b [n,1] in
   *b */
static fvg_node *fvg__pc(fvg_fvgpt *m, fvg_node *z_tuned, fvg_node *z_clip, fvg_node *p_clip,
                         fvg_node **b) {
  *b = fvg__brg(m, fvg__probabilities(m, z_tuned), p_clip);
  return fvg_lerp(z_tuned, z_clip, *b);
}

#ifndef FVGPT_NO_TRAINING  /* the end of (8), and (9) */
/* The second term of L_PC in (8), which holds z_PC near zero-shot CLIP: [1,1]; 0 with no_kl. */
static fvg_node *fvg__pc_kl(fvg_fvgpt *m, fvg_node *p_clip, fvg_node *z_pc) {
  fvg_node *kl = fvg_mean(fvg_kl_rows(p_clip, z_pc, m->desc.tau));
  return fvg_scale(kl, m->desc.no_kl ? 0 : fvg__kl_factor(m));
}

/* ---- (9) the loss ---- */

/* What the equations give for a batch: the terms of the loss, [1,1] each, and the two gates. */
typedef struct fvg__terms {
  fvg_node *ce_fdc, *l_dist;         /* FDC: CE(z_FDC, y), and (6)                              */
  fvg_node *l_frg;                   /* FRG: (4)                                                */
  fvg_node *ce_pc, *kl_pc;           /* PC: the two terms of L_PC in (8)                        */
  fvg_node *r, *r_target, *b;        /* [n,1] trust, its target, share of zero-shot CLIP        */
} fvg__terms;

/* (9).  A module that is left out, as in the rows of the paper's Table 3, weighs nothing. */
static fvg_node *fvg__total_loss(const fvg_fvgpt_desc *d, const fvg__terms *x) {
  const float on_fdc = d->no_fdc ? 0.0f : 1.0f;
  const float on_dist = d->no_fdc ? 0.0f : fvg__none_if_negative(d->lambda_base);
  const float on_frg = d->no_frg ? 0.0f : fvg__none_if_negative(d->lambda_rg);
  const float on_pc = d->no_pc ? 0.0f : fvg__none_if_negative(d->lambda_new);

  fvg_node *loss = fvg_scale(x->ce_fdc, on_fdc);
  loss = fvg_add(loss, fvg_scale(x->l_dist, on_dist));
  loss = fvg_add(loss, fvg_scale(x->l_frg, on_frg));
  return fvg_add(loss, fvg_scale(fvg_add(x->ce_pc, x->kl_pc), on_pc));
}

/* The trust that (6) uses.  Without FRG every mask that counts is trusted wholly. */
static fvg_node *fvg__trust(const fvg_fvgpt *m, fvg__frg_nodes frg) {
  return m->desc.no_frg ? frg.counts : frg.r;
}

/* z_full and z_fg must be made of the same kind of feature. */
static fvg_status fvg__check_score_features(fvg_fvgpt *m, const fvg_fvgpt_batch *x) {
  if (!x->f_score == !x->f_score_fg) return FVG_OK;
  return fvg_fail(m->ctx, FVG_E_ARG, "FVG-PT: of f_score and f_score_fg only one is given");
}

static fvg_status fvg__fvgpt_check(fvg_fvgpt *m, const fvg_fvgpt_batch *x) {
  if (!x) return fvg__missing(m->ctx, "FVG-PT", "the batch");
  if (x->n < 1 || x->n_class < 1)
    return fvg_fail(m->ctx, FVG_E_ARG, "FVG-PT: a batch of %d images and %d classes", x->n,
                    x->n_class);
  if (!x->f || !x->f_fg || !x->g || !x->g_clip || !x->area || !x->label)
    return fvg_fail(m->ctx, FVG_E_ARG,
                    "FVG-PT: a training batch needs f, f_fg, g, g_clip, area and label");
  fvg_status s = fvg__check_score_features(m, x);
  if (s) return s;
  for (int i = 0; i < x->n; i++) {
    if (x->label[i] < 0 || x->label[i] >= x->n_class)
      return fvg_fail(m->ctx, FVG_E_ARG, "FVG-PT: image %d has label %d among %d classes", i,
                      x->label[i], x->n_class);
  }
  return FVG_OK;
}

/* Hands the terms' values to the caller; b is 0 where new classes are scored without PC. */
static void fvg__report_terms(const fvg_fvgpt *m, fvg_fvgpt_report *report, const fvg_node *loss,
                              const fvg__terms *x) {
  report->loss = fvg_value(loss)[0];
  report->ce_fdc = fvg_value(x->ce_fdc)[0];
  report->frg = fvg_value(x->l_frg)[0];
  report->dist = fvg_value(x->l_dist)[0];
  report->ce_pc = fvg_value(x->ce_pc)[0];
  report->kl_pc = fvg_value(x->kl_pc)[0];

  fvg__copy_node(report->r, x->r);
  fvg__copy_node(report->r_target, x->r_target);
  fvg__copy_node(report->b, x->b);
  if (report->b && m->desc.no_pc) memset(report->b, 0, fvg__count(x->b) * sizeof(float));
}

/* The loss as a node [1,1], from the equations one after the other; z and p are [n,C]. */
static fvg_node *fvg__fvgpt_loss(fvg_fvgpt *m, fvg_tape *t, fvg__terms *terms,
                                 const fvg_fvgpt_batch *x) {
  /* (1): what the frozen models say, with and without the background. */
  fvg_node *z_full = fvg__view_logits(m, t, x, 0);
  fvg_node *z_fg = fvg__view_logits(m, t, x, 1);
  fvg_node *z_tuned = x->f_score ? fvg__tuned_logits(m, t, x) : z_full;
  fvg_node *z_clip = fvg__clip_logits(m, t, x);
  fvg_node *p_full = fvg__probabilities(m, z_full);
  fvg_node *p_fg = fvg__probabilities(m, z_fg);
  fvg_node *p_clip = fvg__probabilities(m, z_clip);

  /* FRG, (2) to (4): may the foreground view be trusted? */
  fvg__frg_nodes frg = fvg__frg(m, p_full, p_fg, x->area);
  terms->r = fvg__trust(m, frg);
  terms->r_target = fvg__frg_target(m, z_full, z_fg, x->label);
  terms->l_frg = fvg__frg_loss(frg, terms->r_target);

  /* FDC, (5) and (6): the adapters follow the view that is trusted. */
  fvg_node *f = fvg__features(m, t, x->f, x->n);
  fvg_node *g = fvg__features(m, t, x->g, x->n_class);
  fvg_node *z_fdc = fvg__fdc(m, f, g);
  terms->ce_fdc = fvg_cross_entropy(z_fdc, x->label);
  fvg_node *trust = fvg__distill_trust(m, frg, terms->r, terms->r_target);
  terms->l_dist = fvg__fdc_loss(m, p_full, p_fg, z_fdc, trust);

  /* PC, (7) and (8): how much of zero-shot CLIP? */
  fvg_node *z_pc = fvg__pc(m, z_tuned, z_clip, p_clip, &terms->b);
  terms->ce_pc = fvg_cross_entropy(z_pc, x->label);
  terms->kl_pc = fvg__pc_kl(m, p_clip, z_pc);
  return fvg__total_loss(&m->desc, terms);
}

FVG_DEF fvg_node *fvg_fvgpt_loss(fvg_fvgpt *m, fvg_tape *t, fvg_fvgpt_report *report,
                                 const fvg_fvgpt_batch *x) {
  if (!t) return NULL;
  if (fvg__fvgpt_check(m, x)) return fvg__give_up(t);

  fvg__terms terms;
  fvg_node *loss = fvg__fvgpt_loss(m, t, &terms, x);
  if (loss && report) fvg__report_terms(m, report, loss, &terms);
  return loss;
}

FVG_DEF fvg_status fvg_fvgpt_step(fvg_fvgpt *m, fvg_fvgpt_report *report, fvg_optimizer *o,
                                  double lr, const fvg_fvgpt_batch *batch) {
  fvg_status s = fvg__fvgpt_check(m, batch);
  if (s) return s;
  fvg_tape_clear(m->tape);
  fvg_optimizer_zero_grad(o);

  fvg__terms terms;
  fvg_node *loss = fvg__fvgpt_loss(m, m->tape, &terms, batch);
  s = loss ? fvg_backward(loss) : m->ctx->status;
  if (s) return s;
  if (report) fvg__report_terms(m, report, loss, &terms);
  fvg_optimizer_step(o, lr);
  return FVG_OK;
}
#endif /* FVGPT_NO_TRAINING */

/* ---- what a trained FVG-PT is asked for: the same modules, without their losses ---- */

/* Checks what every question needs; `out` is where the answer goes. */
static fvg_status fvg__check_question(fvg_fvgpt *m, const float *out, const fvg_fvgpt_batch *x) {
  if (!x || !out) return fvg__missing(m->ctx, "FVG-PT", x ? "the result" : "the batch");
  if (x->n >= 1 && x->n_class >= 1) return FVG_OK;
  return fvg_fail(m->ctx, FVG_E_ARG, "FVG-PT: %d images and %d classes", x->n, x->n_class);
}

static fvg_status fvg__copy_out(const fvg_fvgpt *m, const fvg_node *x, float *out) {
  if (!x) return m->ctx->status;
  fvg__copy_node(out, x);
  return FVG_OK;
}

FVG_DEF fvg_status fvg_fvgpt_score_base(fvg_fvgpt *m, float *logits, const fvg_fvgpt_batch *x) {
  fvg_status s = fvg__check_question(m, logits, x);
  if (s) return s;
  int has_f = x->f || (m->desc.no_fdc && x->f_score);
  if (!has_f || !x->g)
    return fvg_fail(m->ctx, FVG_E_ARG, "FVG-PT: scores for base classes need f and g");

  fvg_tape *t = m->tape;
  fvg_tape_clear(t);
  fvg_node *z;
  if (m->desc.no_fdc) z = fvg__view_logits(m, t, x, 0);
  else z = fvg__fdc(m, fvg__features(m, t, x->f, x->n), fvg__features(m, t, x->g, x->n_class));
  return fvg__copy_out(m, z, logits);
}

FVG_DEF fvg_status fvg_fvgpt_score_new(fvg_fvgpt *m, float *logits, float *b,
                                       const fvg_fvgpt_batch *x) {
  fvg_status s = fvg__check_question(m, logits, x);
  if (s) return s;
  if (m->desc.no_pc) {
    fvg_fvgpt_batch alone = *x;
    alone.f_score = NULL;                        /* new classes are scored by f */
    s = fvg_fvgpt_score_base(m, logits, &alone);
    if (!s && b) memset(b, 0, (size_t)x->n * sizeof *b);
    return s;
  }
  if (!x->f || !x->g || !x->g_clip)
    return fvg_fail(m->ctx, FVG_E_ARG, "FVG-PT: scores for new classes need f, g and g_clip");

  fvg_tape *t = m->tape;
  fvg_tape_clear(t);
  fvg_node *gate;
  fvg_node *z_clip = fvg__clip_logits(m, t, x);
  fvg_node *p_clip = fvg__probabilities(m, z_clip);
  fvg_node *z_pc = fvg__pc(m, fvg__tuned_logits(m, t, x), z_clip, p_clip, &gate);
  s = fvg__copy_out(m, z_pc, logits);
  return s || !b ? s : fvg__copy_out(m, gate, b);
}

#ifndef FVGPT_NO_TRAINING  /* r of (3) */
FVG_DEF fvg_status fvg_fvgpt_trust(fvg_fvgpt *m, float *r, const fvg_fvgpt_batch *x) {
  fvg_status s = fvg__check_question(m, r, x);
  if (s) return s;
  if (!x->f || !x->f_fg || !x->g || !x->area)
    return fvg_fail(m->ctx, FVG_E_ARG, "FVG-PT: trust needs f, f_fg, g and area");
  s = fvg__check_score_features(m, x);
  if (s) return s;

  fvg_tape *t = m->tape;
  fvg_tape_clear(t);
  fvg_node *p_full = fvg__probabilities(m, fvg__view_logits(m, t, x, 0));
  fvg_node *p_fg = fvg__probabilities(m, fvg__view_logits(m, t, x, 1));
  return fvg__copy_out(m, fvg__trust(m, fvg__frg(m, p_full, p_fg, x->area)), r);
}
#endif /* FVGPT_NO_TRAINING */

FVG__SELDOM_RUN_END

#ifndef FVGPT_NO_TRAINING  /* chapter 14 */
/*==================================================================================================
 * CHAPTER 14  DENSE ALGEBRA: Gram matrices, Cholesky, eigenvalues
 *==================================================================================================
   GDA (chapter 20) inverts covariance matrices, and LP++ (chapter 17) needs their largest
   eigenvalue.  That is little enough to be written down plainly, in double precision, because an
   inverse multiplies rounding errors by the ratio of the eigenvalues.

     Gram            G = sum_k x_k x_k^T, [n,n], from rows x_k.  It is the only step whose work
                     grows with the number of pictures, so it alone runs on several threads; a job
                     has some rows of G and adds up all x_k in their order.
     Cholesky        A = L L^T with L lower triangular, for A positive definite.  A x = b is then
                     solved by L y = b and L^T x = y.
     eigenvalues     A = U^T diag(lambda) U, the rows of U being eigenvectors.  Householder's
                     reflections H_k = I - beta v v^T make A tridiagonal; implicit QR steps with
                     Wilkinson's shift make that diagonal; U collects both.
     pseudo-inverse  A^+ b = sum over |lambda_k| > cutoff of (u_k b / lambda_k) u_k
     greatest        the largest eigenvalue alone, by power iteration

   Symmetric matrices are stored in full, [n,n], but only their lower triangle is read where nothing
   else is said.  Source: Golub and Van Loan, Matrix Computations, sections 4.2, 5.4 and 8.3. */

/* ---- Gram matrices ---- */

enum { FVG__GRAM_ROWS = 32 };        /* rows of G that one job computes                           */

typedef struct fvg__gram_job {
  double *g;                         /* [n,n], the lower triangle                                 */
  const double *x;                   /* [m,n]                                                     */
  int m, n;
} fvg__gram_job;

/* g_j += a_0 x_0j + a_1 x_1j + a_2 x_2j + a_3 x_3j for j < n: four neighbouring rows at x, and each
   a is the row's element `at`. */
static void fvg__add_four_rows(double *g, const double *x, size_t stride, size_t at, int n) {
  const double *x1 = x + stride;
  const double *x2 = x1 + stride;
  const double *x3 = x2 + stride;
  double a0 = x[at], a1 = x1[at], a2 = x2[at], a3 = x3[at];
  for (int j = 0; j < n; j++)
    g[j] += a0 * x[j] + a1 * x1[j] + a2 * x2[j] + a3 * x3[j];
}

static void fvg__add_scaled(double *y, double a, const double *x, int n) {
  for (int j = 0; j < n; j++) y[j] += a * x[j];
}

static double fvg__dot(const double *x, const double *y, int n) {
  double sum = 0;
  for (int j = 0; j < n; j++) sum += x[j] * y[j];
  return sum;
}

static double fvg__largest_of(const double *x, size_t n) {
  double largest = 0;
  for (size_t i = 0; i < n; i++) {
    if (fabs(x[i]) > largest) largest = fabs(x[i]);
  }
  return largest;
}

/* Adds to some rows of G. */
static void fvg__gram_run(void *arg, int index) {
  const fvg__gram_job *p = (const fvg__gram_job *)arg;
  int end = fvg__min(p->n, (index + 1) * FVG__GRAM_ROWS);

  for (int i = index * FVG__GRAM_ROWS; i < end; i++) {
    double *g = p->g + fvg__row(i, p->n);
    int k = 0;
    for (; k + 4 <= p->m; k += 4)
      fvg__add_four_rows(g, p->x + fvg__row(k, p->n), (size_t)p->n, (size_t)i, i + 1);

    for (; k < p->m; k++) {
      const double *x = p->x + fvg__row(k, p->n);
      fvg__add_scaled(g, x[i], x, i + 1);
    }
  }
}

/* Adds x^T x to the lower triangle of g: x [m,n], g [n,n]. */
static fvg_status fvg__gram_add(fvg_ctx *c, double *g, const double *x, int m, int n) {
  fvg__gram_job job = {g, x, m, n};
  return fvg_parallel(c, fvg__gram_run, &job, (n + FVG__GRAM_ROWS - 1) / FVG__GRAM_ROWS);
}

/* Copies the lower triangle of a to the upper one. */
static void fvg__fill_upper(double *a, int n) {
  for (int i = 0; i < n; i++)
    for (int j = 0; j < i; j++) a[fvg__row(j, n) + (size_t)i] = a[fvg__row(i, n) + (size_t)j];
}

static double fvg__trace(const double *a, int n) {
  double sum = 0;
  for (int i = 0; i < n; i++) sum += a[fvg__row(i, n) + (size_t)i];
  return sum;
}

/* ---- Cholesky ---- */

/* Replaces the lower triangle of a [n,n] by L.  0 if a is not positive definite. */
static int fvg__cholesky(double *a, int n) {
  for (int i = 0; i < n; i++) {
    double *l_i = a + fvg__row(i, n);
    for (int j = 0; j < i; j++) {
      const double *l_j = a + fvg__row(j, n);
      l_i[j] = (l_i[j] - fvg__dot(l_i, l_j, j)) / l_j[j];
    }

    double rest = l_i[i] - fvg__dot(l_i, l_i, i);
    if (!(rest > 0)) return 0;
    l_i[i] = sqrt(rest);
  }
  return 1;
}

/* Replaces x by the solution of L L^T y = x: l [n,n], x [n]. */
static void fvg__cholesky_solve(const double *l, double *x, int n) {
  for (int i = 0; i < n; i++) {
    const double *l_i = l + fvg__row(i, n);
    x[i] = (x[i] - fvg__dot(l_i, x, i)) / l_i[i];
  }

  for (int i = n - 1; i >= 0; i--) {
    const double *l_i = l + fvg__row(i, n);
    x[i] /= l_i[i];
    fvg__add_scaled(x, -x[i], l_i, i);
  }
}

/* Replaces the m rows of x by L^-1 x: l [m,m], x [m,n]. */
static void fvg__solve_rows(const double *l, double *x, int m, int n) {
  for (int i = 0; i < m; i++) {
    const double *l_i = l + fvg__row(i, m);
    double *x_i = x + fvg__row(i, n);
    for (int j = 0; j < i; j++) fvg__add_scaled(x_i, -l_i[j], x + fvg__row(j, n), n);
    for (int k = 0; k < n; k++) x_i[k] /= l_i[i];
  }
}

/* ---- eigenvalues ---- */

/* What counts as 0 in a matrix whose greatest element is about 1.  Squares of much smaller numbers
   are too small for a double. */
static const double fvg__nothing = 1e-40;

/* Makes of x [n] the vector v of the reflection that turns x into (*head, 0, ..., 0), and returns
   its beta; 0 means that x has this form already. */
static double fvg__reflection(double *x, int n, double *head) {
  double below = fvg__dot(x + 1, x + 1, n - 1);
  *head = x[0];
  if (below <= fvg__nothing * fvg__nothing) return 0;

  /* The sign avoids that two nearly equal numbers are subtracted. */
  double length = sqrt(x[0] * x[0] + below);
  *head = x[0] > 0 ? -length : length;
  x[0] -= *head;
  return 2 / (x[0] * x[0] + below);
}

/* A <- H A H for the block a of m rows and columns, whose rows lie `stride` apart; p [m] is
   scratch.  With p = beta A v and w = p - (beta p v / 2) v, this is A - v w^T - w v^T. */
static void fvg__reflect_both(double *a, int m, int stride, const double *v, double beta,
                              double *p) {
  for (int i = 0; i < m; i++) p[i] = beta * fvg__dot(a + fvg__row(i, stride), v, m);
  fvg__add_scaled(p, -beta * fvg__dot(p, v, m) / 2, v, m);

  for (int i = 0; i < m; i++) {
    double *a_i = a + fvg__row(i, stride);
    for (int j = 0; j < m; j++) a_i[j] -= v[i] * p[j] + p[i] * v[j];
  }
}

/* The last m rows of u [n,n] <- H u; p [n] is scratch. */
static void fvg__reflect_rows(double *u, int m, int n, const double *v, double beta, double *p) {
  double *last = u + fvg__row(n - m, n);
  for (int j = 0; j < n; j++) p[j] = 0;
  for (int i = 0; i < m; i++) fvg__add_scaled(p, beta * v[i], last + fvg__row(i, n), n);
  for (int i = 0; i < m; i++) fvg__add_scaled(last + fvg__row(i, n), -v[i], p, n);
}

/* Reduces a [n,n], whose upper triangle is set too, to the diagonal diag [n] and the one beside it,
   off [n-1]; u [n,n] receives the product of the reflections.  v and p [n] are scratch. */
static void fvg__tridiagonalise(double *a, double *diag, double *off, double *u, int n, double *v,
                                double *p) {
  for (int i = 0; i < n; i++) u[fvg__row(i, n) + (size_t)i] = 1;

  for (int k = 0; k + 1 < n; k++) {
    int m = n - k - 1;
    for (int i = 0; i < m; i++) v[i] = a[fvg__row(k + 1 + i, n) + (size_t)k];
    double beta = fvg__reflection(v, m, &off[k]);
    if (beta == 0) continue;
    fvg__reflect_both(a + fvg__row(k + 1, n) + (k + 1), m, n, v, beta, p);
    fvg__reflect_rows(u, m, n, v, beta, p);
  }
  for (int i = 0; i < n; i++) diag[i] = a[fvg__row(i, n) + (size_t)i];
}

/* Turns rows x and y [n] by the angle whose cosine and sine are c and s. */
static void fvg__rotate_rows(double *x, double *y, double c, double s, int n) {
  for (int j = 0; j < n; j++) {
    double x_j = x[j];
    x[j] = c * x_j + s * y[j];
    y[j] = c * y[j] - s * x_j;
  }
}

/* One implicit QR step on the rows lo..hi of the tridiagonal matrix.  The first rotation is that of
   T - shift; each further one chases the element z out of place down and away. */
static void fvg__qr_step(double *diag, double *off, double *u, int n, int lo, int hi) {
  double half = (diag[hi - 1] - diag[hi]) / 2;
  double last = off[hi - 1];
  double root = sqrt(half * half + last * last);
  double shift = diag[hi] - last * last / (half > 0 ? half + root : half - root);

  double x = diag[lo] - shift;
  double z = off[lo];
  for (int k = lo; k < hi; k++) {
    double r = sqrt(x * x + z * z);
    double c = r > 0 ? x / r : 1;
    double s = r > 0 ? z / r : 0;
    if (k > lo) off[k - 1] = r;

    double a = diag[k], b = diag[k + 1], e = off[k];
    diag[k] = c * c * a + 2 * c * s * e + s * s * b;
    diag[k + 1] = s * s * a - 2 * c * s * e + c * c * b;
    off[k] = c * s * (b - a) + (c * c - s * s) * e;
    fvg__rotate_rows(u + fvg__row(k, n), u + fvg__row(k + 1, n), c, s, n);

    if (k + 1 == hi) break;
    x = off[k];
    z = s * off[k + 1];
    off[k + 1] *= c;
  }
}

/* Is the element beside the diagonal nothing but rounding? */
static int fvg__is_split(const double *diag, const double *off, int i) {
  return fabs(off[i]) <= 2.3e-16 * (fabs(diag[i]) + fabs(diag[i + 1])) + fvg__nothing;
}

/* Makes the tridiagonal matrix diagonal, from its end upwards.  Two steps an eigenvalue are usual;
   if 60 were not enough, it would be FVG_E_NUMERIC. */
static fvg_status fvg__diagonalise(fvg_ctx *c, double *diag, double *off, double *u, int n) {
  int steps = 0;
  int hi = n - 1;
  while (hi > 0) {
    if (fvg__is_split(diag, off, hi - 1)) {
      hi--;
      continue;
    }
    fvg_status s = fvg__check_cancelled(c);
    if (s) return s;
    if (++steps > 60 * n)
      return fvg_fail(c, FVG_E_NUMERIC, "eigenvalues of a matrix of %d rows do not converge", n);

    int lo = hi - 1;
    while (lo > 0 && !fvg__is_split(diag, off, lo - 1)) lo--;
    fvg__qr_step(diag, off, u, n, lo, hi);
  }
  return FVG_OK;
}

/* The eigenvalues lambda [n] of a [n,n], and the eigenvectors as the rows of u [n,n], which must be
   zero before.  a is overwritten. */
static fvg_status fvg__eigen(fvg_ctx *c, double *lambda, double *u, double *a, int n) {
  double *room = FVG_NEW_ARRAY(c, double, fvg__row(3, n));
  if (!room) return FVG_E_NOMEM;
  double *off = room, *v = room + n, *p = v + n;

  /* A power of 2 that brings the greatest element to 1/2..1 changes no other bit. */
  int exponent;
  fvg__fill_upper(a, n);
  frexp(fvg__largest_of(a, fvg__row(n, n)), &exponent);
  for (size_t k = 0; k < fvg__row(n, n); k++) a[k] = ldexp(a[k], -exponent);

  fvg__tridiagonalise(a, lambda, off, u, n, v, p);
  fvg_status s = fvg__diagonalise(c, lambda, off, u, n);
  for (int i = 0; i < n; i++) lambda[i] = ldexp(lambda[i], exponent);
  fvg_release(c, room);
  return s;
}

/* out [n] = A^+ x [n] from A's eigenvalues and eigenvectors; none of at most `cutoff` counts. */
static void fvg__pseudo_solve(double *out, const double *lambda, const double *u, double cutoff,
                              const double *x, int n) {
  for (int j = 0; j < n; j++) out[j] = 0;
  for (int k = 0; k < n; k++) {
    const double *u_k = u + fvg__row(k, n);
    if (fabs(lambda[k]) <= cutoff) continue;
    fvg__add_scaled(out, fvg__dot(u_k, x, n) / lambda[k], u_k, n);
  }
}

/* The largest eigenvalue of a [n,n], which is positive semidefinite and has its upper triangle set.
   v and w [n] are scratch. */
static double fvg__largest_eigenvalue(const double *a, int n, double *v, double *w) {
  double largest = 0;
  for (int i = 0; i < n; i++) v[i] = 1 + 1e-3 * i / n;     /* any vector but an eigenvector       */

  for (int step = 0; step < 1000; step++) {
    double length = sqrt(fvg__dot(v, v, n));
    if (length == 0) return 0;
    for (int i = 0; i < n; i++) v[i] /= length;
    for (int i = 0; i < n; i++) w[i] = fvg__dot(a + fvg__row(i, n), v, n);

    double before = largest;
    largest = fvg__dot(v, w, n);
    for (int i = 0; i < n; i++) v[i] = w[i];
    if (fabs(largest - before) <= 1e-12 * largest) break;
  }
  return largest;
}
#endif /* FVGPT_NO_TRAINING */

FVG__SELDOM_RUN_BEGIN

/*==================================================================================================
 * CHAPTER 15  HEADS: what the classifiers on frozen features share
 *==================================================================================================
   A reviewer asks what prompt tuning gains over a classifier that is fitted on CLIP's own features.
   Chapters 16 to 20 are the usual ones, each with its equations, and chapter 21 makes them one
   call.  All of them know

     f_iv [d]   the feature of crop v of training picture i, and its label y_i
     t_c  [d]   zero-shot CLIP's text feature of class c, from hand-written templates (g0_c of
                chapter 13; t is how LP++ writes it)
     s          CLIP's logit scale
     (f', y')   val: pictures that settings are chosen by, min(shots, 4) a class

   where all features have unit length.

     | head          | logits of f                             | learned      | chosen on val   |
     |---------------|-----------------------------------------|--------------|-----------------|
     | LinearProbe   | w_c f + b_c                             | w, b         | c               |
     | LP++          | (w_c + alpha_c t_c) f + b_c             | w, alpha, b  | epoch           |
     | CLIP-Adapter  | s norm(a A(f) + (1 - a) f) t_c          | A            | a               |
     | Tip-Adapter   | s f t_c + alpha sum_(y_i = c)           | nothing;     | alpha, beta     |
     |               |           exp(-beta (1 - f k_i))        | -F: k        |                 |
     | GDA           | s f t_c + alpha (w_c f + b_c)           | nothing      | alpha           |

   Only GDA has a rule for classes without pictures.

   Choice.  Of several candidates the one with the greatest accuracy on val is taken; among equal
   ones that with the smallest cross-entropy, because a few pictures often cannot tell candidates
   apart; then the first.  Test pictures have no part in it.  The published scripts differ here, and
   each chapter says how.  Without val the defaults of fvg_head_desc hold.

   What a fitted head is.  Up to three tensors and six numbers, listed in a table for each kind, so
   that one function writes all kinds to a file and one reads them.  The trained kinds (LP++,
   CLIP-Adapter, Tip-Adapter-F) use the tape; GDA uses chapter 14. */

enum { FVG__HEAD_PARTS = 3 };

/* The numbers of a head: at most three settings of its kind, and what all kinds have. */
enum {
  FVG__HEAD_FIRST = 0,
  FVG__HEAD_SECOND,
  FVG__HEAD_THIRD,
  FVG__HEAD_ACCURACY,                /* on val, in percent; -1: val chose nothing                 */
  FVG__HEAD_CROSS_ENTROPY,
  FVG__HEAD_SCALE,                   /* s                                                         */
  FVG__HEAD_VALUES
};

/* A tensor of a kind of head.  Its shape has a letter for each dimension: C classes, d the width, n
   a number that the kind is free to choose. */
typedef struct fvg__head_part {
  const char *name, *shape;
  fvg_dtype type;
} fvg__head_part;

typedef struct fvg__head_method {
  const char *name;
  fvg__head_part part[FVG__HEAD_PARTS];
  const char *setting[3];            /* names of the first three numbers; NULL: not used          */
  int knows_new;
  fvg_node *(*scores)(fvg_head *h, fvg_node *f);          /* f [n,d] -> logits [n,C]              */
} fvg__head_method;

struct fvg_head {
  fvg_ctx *ctx;
  fvg_head_kind kind;
  const fvg__head_method *method;
  int width, n_class;                /* d and C                                                   */
  fvg_tensor part[FVG__HEAD_PARTS];  /* as the method lists them; owned                           */
  float value[FVG__HEAD_VALUES];
  fvg_tape *tape;
};

/* ---- parts ---- */

/* Sets the shape of a part; n is the number that its letter n stands for. */
static void fvg__head_shape(const fvg_head *h, int part, int n, fvg_tensor *x) {
  const fvg__head_part *p = &h->method->part[part];
  memset(x, 0, sizeof *x);
  x->type = p->type;
  x->n_dim = (int)strlen(p->shape);
  for (int i = 0; i < x->n_dim; i++)
    x->dim[i] = p->shape[i] == 'C' ? h->n_class : p->shape[i] == 'd' ? h->width : n;
}

/* ---- scores ---- */

/* x w^T + b with the first two parts as w [C,d] and b [C]: how LinearProbe, LP++ and GDA score. */
static fvg_node *fvg__linear_scores(fvg_head *h, fvg_node *f) {
  return fvg_linear(f, fvg_frozen(f->tape, &h->part[0]), fvg_frozen(f->tape, &h->part[1]));
}

/* s f t^T: what zero-shot CLIP says; `text` is a part. */
static fvg_node *fvg__text_scores(fvg_head *h, fvg_node *f, int text) {
  return fvg_scale(fvg_linear(f, fvg_frozen(f->tape, &h->part[text]), NULL),
                   h->value[FVG__HEAD_SCALE]);
}

static fvg_status fvg__check_scores(fvg_ctx *c, const char *head, const float *z, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (!isfinite(z[i]))
      return fvg_fail(c, FVG_E_NUMERIC, "%s: a logit is %g", head, (double)z[i]);
  }
  return FVG_OK;
}

enum { FVG__HEAD_ROWS = 256 };       /* pictures that are scored at a time, to bound the memory   */

FVG_DEF fvg_status fvg_head_logits(fvg_head *h, float *logits, const float *f, int n) {
  fvg_ctx *c = h->ctx;
  if (!logits || !f) return fvg__missing(c, h->method->name, logits ? "features" : "the logits");
  if (n < 0) return fvg_fail(c, FVG_E_ARG, "%s: the scores of %d pictures", h->method->name, n);

  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < n; i += FVG__HEAD_ROWS) {
    int rows = fvg__min(FVG__HEAD_ROWS, n - i);
    fvg_tape_clear(h->tape);
    fvg_node *f_i = fvg_const(h->tape, rows, h->width, f + fvg__row(i, h->width));
    fvg_node *z = f_i ? h->method->scores(h, f_i) : NULL;
    if (!z) s = c->status;
    if (z) memcpy(logits + fvg__row(i, h->n_class), fvg_value(z), fvg__count(z) * sizeof(float));
  }
  fvg_tape_clear(h->tape);
  return s ? s : fvg__check_scores(c, h->method->name, logits, fvg__row(n, h->n_class));
}

#ifndef FVGPT_NO_TRAINING  /* the rest of chapter 15, and chapters 16 and 17 */
/* ---- parts that are being fitted ---- */

/* Makes a part of zeros and returns its data; NULL when out of memory. */
static void *fvg__head_add(fvg_head *h, int part, int n) {
  fvg_tensor *x = &h->part[part];
  fvg__head_shape(h, part, n, x);
  x->data = fvg_alloc_array(h->ctx, fvg_tensor_count(x), fvg_dtype_size(x->type));
  return x->data;
}

/* Makes a part of `from`, which has as many floats. */
static fvg_status fvg__head_copy(fvg_head *h, int part, int n, const float *from) {
  void *to = fvg__head_add(h, part, n);
  if (!to) return FVG_E_NOMEM;
  memcpy(to, from, fvg_tensor_count(&h->part[part]) * sizeof(float));
  return FVG_OK;
}

/* Moves a parameter's values into a part, in place of those that were there. */
static void fvg__head_take(fvg_head *h, int part, fvg_parameter *p) {
  fvg_tensor_free(h->ctx, &h->part[part]);
  h->part[part] = p->value;
  p->value.data = NULL;
}

/* ---- choice ---- */

/* How good a candidate is on val. */
typedef struct fvg__verdict {
  int n_correct;
  double loss;                       /* the sum of the cross-entropies                            */
} fvg__verdict;

static const fvg__verdict fvg__worst = {-1, 0};

static int fvg__is_better(fvg__verdict a, fvg__verdict b) {
  return a.n_correct > b.n_correct || (a.n_correct == b.n_correct && a.loss < b.loss);
}

/* Adds a picture with the logits z [n]. */
static void fvg__judge_row(fvg__verdict *v, const float *z, int n, int label) {
  int best = 0;
  for (int i = 1; i < n; i++) {
    if (z[i] > z[best]) best = i;
  }
  v->n_correct += best == label;
  v->loss += fvg__row_cross_entropy(z, n, label);
}

/* The verdict on logits z [n_val,C]. */
static fvg__verdict fvg__judge(const fvg_head_data *x, const float *z) {
  fvg__verdict v = {0, 0};
  for (int i = 0; i < x->n_val; i++)
    fvg__judge_row(&v, z + fvg__row(i, x->n_class), x->n_class, x->label_val[i]);
  return v;
}

/* Writes down what val said of the candidate that was taken. */
static void fvg__head_chosen(fvg_head *h, const fvg_head_data *x, fvg__verdict v) {
  h->value[FVG__HEAD_ACCURACY] = (float)(100.0 * v.n_correct / x->n_val);
  h->value[FVG__HEAD_CROSS_ENTROPY] = (float)(v.loss / x->n_val);
}

/* The verdict on the head as it is now. */
static fvg_status fvg__head_judge(fvg_head *h, fvg__verdict *v, const fvg_head_data *x) {
  float *z = FVG_NEW_ARRAY(h->ctx, float, fvg__row(x->n_val, x->n_class));
  fvg_status s = z ? fvg_head_logits(h, z, x->f_val, x->n_val) : FVG_E_NOMEM;
  if (!s) *v = fvg__judge(x, z);
  fvg_release(h->ctx, z);
  return s;
}

/* Tells the caller that `step` of n_steps candidates, epochs or the like are done. */
static fvg_status fvg__head_progress(const fvg_head *h, int step, int n_steps, double loss) {
  fvg_progress p;
  memset(&p, 0, sizeof p);
  p.what = h->method->name;
  p.step = step;
  p.n_steps = n_steps;
  p.loss = loss;
  return fvg_report_progress(h->ctx, &p);
}

/* ---- training ---- */

/* The labels of all crops, [n n_view]; NULL when out of memory. */
static int *fvg__crop_labels(fvg_ctx *c, const fvg_head_data *x) {
  int *label = FVG_NEW_ARRAY(c, int, fvg__row(x->n, x->n_view));
  for (int i = 0; label && i < x->n * x->n_view; i++) label[i] = x->label[i / x->n_view];
  return label;
}

/* Training in batches, for CLIP-Adapter and Tip-Adapter-F. */
typedef struct fvg__head_training {
  fvg_optimizer_desc optimizer;      /* complete                                                  */
  int batch;                         /* pictures a step                                           */
  int cosine;                        /* 1: the rate falls to 0 by a cosine over all steps, and the
                                        last batch of an epoch may be smaller; 0: the rate is that
                                        of chapter 12, and a smaller batch is left out            */
  fvg_node *(*scores)(fvg_head *h, fvg_node *f, fvg_parameter *const *params);
  fvg_parameter *const *params;      /* [n_param] */
  int n_param;
} fvg__head_training;

/* A batch: one crop, drawn at random, of each of n pictures in a random order. */
typedef struct fvg__head_batch {
  fvg_rng rng;
  int *order;                        /* [pictures]                                                */
  float *f;                          /* [batch,d]                                                 */
  int *label;                        /* [batch]                                                   */
  int n;
} fvg__head_batch;

static void fvg__head_batch_draw(fvg__head_batch *b, const fvg_head_data *x, int first) {
  for (int i = 0; i < b->n; i++) {
    int picture = b->order[first + i];
    int crop = picture * x->n_view + (int)fvg_rng_below(&b->rng, (uint32_t)x->n_view);
    memcpy(b->f + fvg__row(i, x->width), x->f + fvg__row(crop, x->width),
           (size_t)x->width * sizeof(float));
    b->label[i] = x->label[picture];
  }
}

/* One step on a batch. */
static fvg_status fvg__head_step(fvg_head *h, const fvg__head_training *t, fvg_optimizer *o,
                                 const fvg__head_batch *b, double lr, double *loss) {
  fvg_tape_clear(h->tape);
  fvg_optimizer_zero_grad(o);
  fvg_node *f = fvg_const(h->tape, b->n, h->width, b->f);
  fvg_node *z = f ? t->scores(h, f, t->params) : NULL;
  fvg_node *l = fvg_cross_entropy(z, b->label);
  fvg_status s = l ? fvg_backward(l) : h->ctx->status;
  if (s) return s;
  *loss = (double)fvg_value(l)[0];
  fvg_optimizer_step(o, lr);
  return FVG_OK;
}

/* Goes through all pictures once an epoch, each time in another order. */
static fvg_status fvg__head_epochs(fvg_head *h, const fvg_head_data *x, const fvg__head_training *t,
                                   fvg_optimizer *o, fvg__head_batch *b) {
  int size = fvg__min(t->batch, x->n);
  int n_steps = t->cosine ? (x->n + size - 1) / size : x->n / size;
  int epochs = t->optimizer.epochs;
  const double pi = 3.14159265358979323846;

  for (int epoch = 0; epoch < epochs; epoch++) {
    double loss = 0;
    fvg_rng_permute(&b->rng, b->order, x->n);
    for (int i = 0; i < n_steps; i++) {
      double done = ((double)epoch * n_steps + i) / ((double)epochs * n_steps);
      double lr = t->cosine ? (double)t->optimizer.lr / 2 * (1 + cos(pi * done))
                            : fvg_learning_rate(&t->optimizer, epoch);
      b->n = fvg__min(size, x->n - i * size);
      fvg__head_batch_draw(b, x, i * size);
      fvg_status s = fvg__head_step(h, t, o, b, lr, &loss);
      if (s) return s;
    }
    fvg_status s = fvg__head_progress(h, epoch + 1, epochs, loss);
    if (s) return s;
  }
  return FVG_OK;
}

/* Trains the parameters; the random order and the crops follow from the seed alone. */
static fvg_status fvg__head_train(fvg_head *h, const fvg_head_data *x, const fvg__head_training *t,
                                  uint64_t seed) {
  fvg_ctx *c = h->ctx;
  fvg__head_batch b;
  memset(&b, 0, sizeof b);
  fvg_rng_seed(&b.rng, seed, 7);
  int size = fvg__min(t->batch, x->n);
  b.order = FVG_NEW_ARRAY(c, int, (size_t)x->n);
  b.f = FVG_NEW_ARRAY(c, float, fvg__row(size, x->width));
  b.label = FVG_NEW_ARRAY(c, int, (size_t)size);
  fvg_optimizer *o = NULL;
  fvg_status s = b.order && b.f && b.label ? FVG_OK : FVG_E_NOMEM;
  if (!s) s = fvg_optimizer_new(c, &o, t->params, t->n_param, &t->optimizer);

  for (int i = 0; !s && i < x->n; i++) b.order[i] = i;
  if (!s) s = fvg__head_epochs(h, x, t, o, &b);
  fvg_tape_clear(h->tape);
  fvg_optimizer_free(o);
  fvg_release(c, b.order);
  fvg_release(c, b.f);
  fvg_release(c, b.label);
  return s;
}

/*==================================================================================================
 * CHAPTER 16  LINEAR PROBE: multinomial logistic regression
 *==================================================================================================
   The probe of CLIP's paper (Radford et al. 2021, section 3.2 and appendix A.3): a linear
   classifier on image features that knows nothing of the class names.

     (1)  z_c = w_c f + b_c                                       w [C,d], b [C]
     (2)  L(w, b) = mean over the N crops of CE(z, y) + |w|^2 / (2 N c)

   c is the inverse strength of the penalty, as in scikit-learn's LogisticRegression, whose
   objective is N c L.  L is convex, so what is found does not depend on where the search begins.

   L-BFGS (Nocedal 1980) minimises it.  With g the gradient, it keeps the last ten pairs of steps
   and changes of g,

     (3)  s_k = x_(k+1) - x_k       y_k = g_(k+1) - g_k       rho_k = 1 / (s_k y_k)

   and the product of their implied inverse Hessian with g is the direction in which it goes,
   halving the step until L falls enough (Armijo's rule).  The products of (1) and their gradient
   are the tape's, in floats; all else is in double precision.  Near the minimum L differs by less
   than its rounding, while g is still exact enough.  So a step also counts if L stays the same to
   one part in a million and the slope along the direction shrinks (Hager and Zhang 2005).  The
   search ends when no element of g exceeds 1e-8, when the greatest one has not become less for 20
   steps, or after 1000.

   Choice of c.  As CoOp's lpclip does: first 1e-6, 1e-4, ..., 1e6, then eight halvings of log10 c's
   interval of two decades around the best.  There the last interval decides, whatever was seen
   before; here the best candidate of all.

   Default.  CLIP's example code has c = 0.316 for features that are not normalised and whose length
   is about 10.  For unit lengths the same probe has 0.316 x 10^2 = 31.6. */

enum {
  FVG__LBFGS_PAIRS = 10,
  FVG__LBFGS_STEPS = 1000,
  FVG__LBFGS_PATIENCE = 20,          /* steps in which the gradient must become less              */
  FVG__LBFGS_HALVINGS = 30
};

/* Computes the loss, and its gradient [n], at x [n]. */
typedef fvg_status (*fvg__objective)(void *user, double *loss, double *gradient, const double *x);

typedef struct fvg__lbfgs {
  fvg__objective f;
  void *user;
  int n;
  double loss;
  double *x, *g;                     /* [n] the point and its gradient                            */
  double *x_next, *g_next;           /* [n] the same of the point that is tried                   */
  double *direction;                 /* [n]                                                       */
  double *s, *y;                     /* [FVG__LBFGS_PAIRS, n] the pairs of (3)                    */
  double rho[FVG__LBFGS_PAIRS];
  int n_pair, next;                  /* pairs kept, and the place of the next one                 */
} fvg__lbfgs;

/* The direction: minus the inverse Hessian of the pairs, times g. */
static void fvg__lbfgs_direction(fvg__lbfgs *b) {
  double a[FVG__LBFGS_PAIRS];
  double *r = b->direction;
  for (int i = 0; i < b->n; i++) r[i] = -b->g[i];

  for (int i = 1; i <= b->n_pair; i++) {                 /* from the newest pair to the oldest    */
    int k = (b->next - i + FVG__LBFGS_PAIRS) % FVG__LBFGS_PAIRS;
    a[k] = b->rho[k] * fvg__dot(b->s + fvg__row(k, b->n), r, b->n);
    fvg__add_scaled(r, -a[k], b->y + fvg__row(k, b->n), b->n);
  }

  int newest = (b->next - 1 + FVG__LBFGS_PAIRS) % FVG__LBFGS_PAIRS;
  const double *y = b->y + fvg__row(newest, b->n);
  double first = 1 / (sqrt(fvg__dot(b->g, b->g, b->n)) + 1e-300);
  double scale = b->n_pair ? 1 / (b->rho[newest] * fvg__dot(y, y, b->n)) : first;
  for (int i = 0; i < b->n; i++) r[i] *= scale;

  for (int i = b->n_pair; i >= 1; i--) {                 /* and back                              */
    int k = (b->next - i + FVG__LBFGS_PAIRS) % FVG__LBFGS_PAIRS;
    double back = b->rho[k] * fvg__dot(b->y + fvg__row(k, b->n), r, b->n);
    fvg__add_scaled(r, a[k] - back, b->s + fvg__row(k, b->n), b->n);
  }
}

/* Goes to the point that was tried, and keeps the pair if the curvature along it is positive, as it
   is but for rounding.  A pair that is not kept has taken the place of the oldest one, if all
   places were full; that one is then given up. */
static void fvg__lbfgs_accept(fvg__lbfgs *b, double loss) {
  double *s = b->s + fvg__row(b->next, b->n);
  double *y = b->y + fvg__row(b->next, b->n);
  for (int i = 0; i < b->n; i++) {
    s[i] = b->x_next[i] - b->x[i];
    y[i] = b->g_next[i] - b->g[i];
    b->x[i] = b->x_next[i];
    b->g[i] = b->g_next[i];
  }
  b->loss = loss;

  double curvature = fvg__dot(s, y, b->n);
  if (!(curvature > 1e-12 * fvg__dot(y, y, b->n))) {
    if (b->n_pair == FVG__LBFGS_PAIRS) b->n_pair--;
    return;
  }
  b->rho[b->next] = 1 / curvature;
  b->next = (b->next + 1) % FVG__LBFGS_PAIRS;
  if (b->n_pair < FVG__LBFGS_PAIRS) b->n_pair++;
}

/* Is the point that was tried, t along the direction from x, good enough? */
static int fvg__lbfgs_is_good(const fvg__lbfgs *b, double loss, double slope, double t) {
  if (loss <= b->loss + 1e-4 * t * slope) return 1;
  if (!(loss <= b->loss + 1e-6 * fabs(b->loss))) return 0;
  return fabs(fvg__dot(b->g_next, b->direction, b->n)) <= 0.9 * -slope;
}

/* One step; *moved is 0 if no step along the direction is good enough. */
static fvg_status fvg__lbfgs_step(fvg__lbfgs *b, int *moved) {
  *moved = 0;
  fvg__lbfgs_direction(b);
  double slope = fvg__dot(b->g, b->direction, b->n);
  double t = 1;

  for (int i = 0; i < FVG__LBFGS_HALVINGS && slope < 0; i++, t /= 2) {
    double loss;
    for (int k = 0; k < b->n; k++) b->x_next[k] = b->x[k] + t * b->direction[k];
    fvg_status s = b->f(b->user, &loss, b->g_next, b->x_next);
    if (s) return s;
    if (!fvg__lbfgs_is_good(b, loss, slope, t)) continue;

    fvg__lbfgs_accept(b, loss);
    *moved = 1;
    break;
  }
  return FVG_OK;
}

/* Steps until one of the chapter's reasons to stop holds. */
static fvg_status fvg__lbfgs_run(fvg__lbfgs *b) {
  double least = HUGE_VAL;
  int since = 0;
  int moved = 1;
  fvg_status s = b->f(b->user, &b->loss, b->g, b->x);
  for (int i = 0; !s && moved && i < FVG__LBFGS_STEPS && since < FVG__LBFGS_PATIENCE; i++) {
    double largest = fvg__largest_of(b->g, (size_t)b->n);
    if (largest <= 1e-8) break;
    since = largest < least ? 0 : since + 1;
    if (largest < least) least = largest;
    s = fvg__lbfgs_step(b, &moved);
  }
  return s;
}

/* Minimises f from x [n], which receives the minimum. */
static fvg_status fvg__minimise(fvg_ctx *c, double *x, int n, fvg__objective f, void *user) {
  double *room = FVG_NEW_ARRAY(c, double, fvg__row(4 + 2 * FVG__LBFGS_PAIRS, n));
  if (!room) return FVG_E_NOMEM;
  fvg__lbfgs b;
  memset(&b, 0, sizeof b);
  b.f = f;
  b.user = user;
  b.n = n;
  b.x = x;
  b.g = room;
  b.x_next = b.g + n;
  b.g_next = b.x_next + n;
  b.direction = b.g_next + n;
  b.s = b.direction + n;
  b.y = b.s + fvg__row(FVG__LBFGS_PAIRS, n);

  fvg_status s = fvg__lbfgs_run(&b);
  fvg_release(c, room);
  return s;
}

/* ---- the probe ---- */

typedef struct fvg__probe {
  fvg_head *head;
  const fvg_head_data *data;
  fvg_parameter weight, bias;        /* [C,d], [C]                                                */
  int *label;                        /* [N] of the crops                                          */
  double *x;                         /* [C d + C] weight and bias, as L-BFGS sees them            */
  double c;
} fvg__probe;

static void fvg__probe_set(fvg_parameter *p, const double *x) {
  float *value = (float *)p->value.data;
  size_t n = fvg_tensor_count(&p->value);
  for (size_t i = 0; i < n; i++) value[i] = (float)x[i];
  memset(p->grad, 0, n * sizeof(float));
}

/* The mean cross-entropy and its gradient, through the tape. */
static fvg_status fvg__probe_fit(fvg__probe *p, double *loss) {
  const fvg_head_data *x = p->data;
  fvg_tape *t = p->head->tape;
  int n = x->n * x->n_view;
  fvg_tape_clear(t);
  fvg_node *f = fvg_const(t, n, x->width, x->f);
  fvg_node *z = fvg_linear(f, fvg_param(t, &p->weight), fvg_param(t, &p->bias));
  fvg_node *l = fvg_cross_entropy(z, p->label);
  fvg_status s = l ? fvg_backward(l) : p->head->ctx->status;
  if (s) return s;

  *loss = 0;
  for (int i = 0; i < n; i++)
    *loss += fvg__row_cross_entropy(fvg_value(z) + fvg__row(i, x->n_class), x->n_class,
                                    p->label[i]) / n;
  return FVG_OK;
}

/* (2) and its gradient. */
static fvg_status fvg__probe_loss(void *user, double *loss, double *gradient, const double *x) {
  fvg__probe *p = (fvg__probe *)user;
  int n_weight = p->data->n_class * p->data->width;
  int n_bias = p->data->n_class;
  fvg__probe_set(&p->weight, x);
  fvg__probe_set(&p->bias, x + n_weight);
  fvg_status s = fvg__probe_fit(p, loss);
  if (s) return s;

  double penalty = 1 / (p->c * p->data->n * p->data->n_view);
  *loss += penalty / 2 * fvg__dot(x, x, n_weight);
  for (int i = 0; i < n_weight; i++) gradient[i] = (double)p->weight.grad[i] + penalty * x[i];
  for (int i = 0; i < n_bias; i++) gradient[n_weight + i] = (double)p->bias.grad[i];
  return FVG_OK;
}

/* Makes what was found for c the head's. */
static void fvg__probe_hand_over(fvg__probe *p, double c) {
  fvg_head *h = p->head;
  int n_weight = p->data->n_class * p->data->width;
  float *weight = (float *)h->part[0].data;
  float *bias = (float *)h->part[1].data;
  for (int i = 0; i < n_weight; i++) weight[i] = (float)p->x[i];
  for (int i = 0; i < p->data->n_class; i++) bias[i] = (float)p->x[n_weight + i];
  h->value[FVG__HEAD_FIRST] = (float)c;
}

/* Fits the probe for one c, from where the last fit ended, and hands it to the head. */
static fvg_status fvg__probe_at(fvg__probe *p, double c) {
  int n = p->data->n_class * (p->data->width + 1);
  p->c = c;
  fvg_status s = fvg__minimise(p->head->ctx, p->x, n, fvg__probe_loss, p);
  if (!s) fvg__probe_hand_over(p, c);
  return s;
}

/* The best candidate so far, and where it was found. */
typedef struct fvg__probe_best {
  fvg__verdict verdict;
  double log_c;
  double *x;                         /* [C d + C]                                                 */
} fvg__probe_best;

/* Fits and judges the candidate 10^log_c; *v receives the verdict. */
static fvg_status fvg__probe_try(fvg__probe *p, fvg__probe_best *best, fvg__verdict *v,
                                 double log_c, int step) {
  fvg_status s = fvg__probe_at(p, pow(10, log_c));
  if (!s) s = fvg__head_judge(p->head, v, p->data);
  if (!s) s = fvg__head_progress(p->head, step, 7 + 16, v->loss / p->data->n_val);
  if (s || !fvg__is_better(*v, best->verdict)) return s;

  best->verdict = *v;
  best->log_c = log_c;
  int n = p->data->n_class * (p->data->width + 1);
  memcpy(best->x, p->x, (size_t)n * sizeof(double));
  return FVG_OK;
}

/* The grid, then the halvings around its best point. */
static fvg_status fvg__probe_search(fvg__probe *p, fvg__probe_best *best) {
  fvg__verdict v;
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < 7; i++) s = fvg__probe_try(p, best, &v, 2 * i - 6, i + 1);

  double left = best->log_c - 1, right = best->log_c + 1;
  for (int i = 0; !s && i < 8; i++) {
    fvg__verdict v_right;
    s = fvg__probe_try(p, best, &v, left, 8 + 2 * i);
    if (!s) s = fvg__probe_try(p, best, &v_right, right, 9 + 2 * i);
    if (s) return s;
    if (fvg__is_better(v_right, v)) left = (left + right) / 2;
    else right = (left + right) / 2;
  }
  return s;
}

/* Chooses c on val, and leaves the probe of the best c in the head. */
static fvg_status fvg__probe_choose(fvg__probe *p) {
  fvg_head *h = p->head;
  size_t n = fvg__row(p->data->n_class, p->data->width + 1);
  fvg__probe_best best = {fvg__worst, 0, FVG_NEW_ARRAY(h->ctx, double, n)};
  fvg_status s = best.x ? fvg__probe_search(p, &best) : FVG_E_NOMEM;
  if (!s) {
    memcpy(p->x, best.x, n * sizeof(double));
    fvg__probe_hand_over(p, pow(10, best.log_c));
    fvg__head_chosen(h, p->data, best.verdict);
  }
  fvg_release(h->ctx, best.x);
  return s;
}

/* Fits for the c of the desc, or chooses one. */
static fvg_status fvg__fit_linear_probe(fvg_head *h, const fvg_head_data *x,
                                        const fvg_head_desc *d) {
  fvg_ctx *c = h->ctx;
  const int dim[2] = {x->n_class, x->width};
  fvg__probe p;
  memset(&p, 0, sizeof p);
  p.head = h;
  p.data = x;
  p.label = fvg__crop_labels(c, x);
  p.x = FVG_NEW_ARRAY(c, double, fvg__row(x->n_class, x->width + 1));
  int ok = p.label && p.x && fvg__head_add(h, 0, 0) && fvg__head_add(h, 1, 0);
  fvg_status s = ok ? fvg_parameter_new(c, &p.weight, "weight", 2, dim) : FVG_E_NOMEM;
  if (!s) s = fvg_parameter_new(c, &p.bias, "bias", 1, dim);

  if (!s && d->c == 0 && x->n_val) s = fvg__probe_choose(&p);
  else if (!s) s = fvg__probe_at(&p, d->c == 0 ? 31.6 : (double)d->c);
  fvg_tape_clear(h->tape);
  fvg_parameter_free(c, &p.weight);
  fvg_parameter_free(c, &p.bias);
  fvg_release(c, p.label);
  fvg_release(c, p.x);
  return s;
}

/*==================================================================================================
 * CHAPTER 17  LP++: a linear probe that blends in the class names
 *==================================================================================================
   LP++ (Huang et al., CVPR 2024, arXiv 2404.02285): each class's weights are a learned vector and a
   learned multiple of the text feature, and the step sizes follow from the data.

     (1)  z_c = (w_c + alpha_c t_c) f + b_c
     (2)  L(w, b, alpha) = mean over the N crops of CE(z, y)

   Steps.  p (1 - p) <= 1/4 for each probability p.  So while the other classes stay, L's gradient
   in one w_c changes at most gamma_w = lambda / (4 N) times as much as w_c does, lambda being the
   largest eigenvalue of sum_i f_i f_i^T.  For alpha the published script has gamma_alpha =
   4 max_c sum_i (f_i t_c)^2 / N, 16 times what the same reasoning gives; so it is here.  With all
   crops in every step,

     (3)  w, b by SGD with momentum 0.9 at the rate 1 / gamma_w
     (4)  every tenth step also alpha <- alpha - dL/dalpha / gamma_alpha

   Start.  w_c is the sum of the class's features, b is 0, and all alpha are
   250 mean over the classes of the mean of f_i t_c over the class's own crops.

   Choice.  Of 300 epochs, one step each, the one that is best on val; without val the last.

   Published script.  It accumulates alpha's gradient over all epochs, because nobody sets it to 0,
   where the paper has the gradient at the point (ours); b starts at random there, and of equal
   epochs it takes the last.  With several crops of a picture, the sum of (3)'s start is over
   pictures, of the mean of their crops.

   The head keeps w + alpha t as one matrix, since that is all that scoring needs. */

typedef struct fvg__lp {
  fvg_head *head;
  const fvg_head_data *data;
  fvg_parameter weight, bias, alpha; /* w [C,d], b [C], alpha [C]                                 */
  int *label;                        /* [N] of the crops                                          */
  float *text_scores;                /* [N,C] f t^T                                               */
  double rate_alpha;                 /* 1 / gamma_alpha                                           */
} fvg__lp;

/* f t^T of all crops, through the tape. */
static fvg_status fvg__lp_text_scores(fvg__lp *p) {
  const fvg_head_data *x = p->data;
  fvg_tape *t = p->head->tape;
  int n = x->n * x->n_view;
  fvg_tape_clear(t);
  fvg_node *z = fvg_linear(fvg_const(t, n, x->width, x->f),
                           fvg_const(t, x->n_class, x->width, x->text), NULL);
  if (!z) return p->head->ctx->status;
  fvg__copy_node(p->text_scores, z);
  return FVG_OK;
}

/* Where w and alpha start. */
static void fvg__lp_start(fvg__lp *p) {
  const fvg_head_data *x = p->data;
  float *w = (float *)p->weight.value.data;
  double start = 0;
  int n_present = 0;

  for (int c = 0; c < x->n_class; c++) {
    double own = 0;
    int n = 0;
    for (int i = 0; i < x->n * x->n_view; i++) {
      if (p->label[i] != c) continue;
      const float *f = x->f + fvg__row(i, x->width);
      for (int k = 0; k < x->width; k++)
        w[fvg__row(c, x->width) + (size_t)k] += f[k] / (float)x->n_view;
      own += (double)p->text_scores[fvg__row(i, x->n_class) + (size_t)c];
      n++;
    }
    start += n ? own / n : 0;
    n_present += n > 0;
  }

  float *alpha = (float *)p->alpha.value.data;
  for (int c = 0; c < x->n_class; c++) alpha[c] = (float)(250 * start / n_present);
}

/* N / (4 max_c sum_i (f_i t_c)^2) */
static double fvg__lp_rate_alpha(const fvg__lp *p) {
  int n = p->data->n * p->data->n_view;
  int n_class = p->data->n_class;
  double largest = 0;
  for (int c = 0; c < n_class; c++) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
      double score = (double)p->text_scores[fvg__row(i, n_class) + (size_t)c];
      sum += score * score;
    }
    if (sum > largest) largest = sum;
  }
  return largest > 0 ? n / (4 * largest) : 0;
}

enum { FVG__GRAM_CHUNK = 256 };      /* rows that are converted to double at a time               */

/* 4 N / lambda */
static fvg_status fvg__lp_rate(const fvg__lp *p, double *rate) {
  const fvg_head_data *x = p->data;
  fvg_ctx *c = p->head->ctx;
  int d = x->width, n = x->n * x->n_view;
  double *gram = FVG_NEW_ARRAY(c, double, fvg__row(d, d));
  double *rows = FVG_NEW_ARRAY(c, double, fvg__row(FVG__GRAM_CHUNK, d));
  double *room = FVG_NEW_ARRAY(c, double, fvg__row(2, d));
  fvg_status s = gram && rows && room ? FVG_OK : FVG_E_NOMEM;

  for (int i = 0; !s && i < n; i += FVG__GRAM_CHUNK) {
    int m = fvg__min(FVG__GRAM_CHUNK, n - i);
    const float *f = x->f + fvg__row(i, d);
    for (size_t k = 0; k < fvg__row(m, d); k++) rows[k] = (double)f[k];
    s = fvg__gram_add(c, gram, rows, m, d);
  }

  if (!s) {
    fvg__fill_upper(gram, d);
    *rate = 4.0 * n / fvg__largest_eigenvalue(gram, d, room, room + d);
  }
  fvg_release(c, gram);
  fvg_release(c, rows);
  fvg_release(c, room);
  return s;
}

/* (1) on all crops, and (2) with its gradients. */
static fvg_status fvg__lp_loss(fvg__lp *p, double *loss) {
  const fvg_head_data *x = p->data;
  fvg_tape *t = p->head->tape;
  int n = x->n * x->n_view;
  fvg_tape_clear(t);
  fvg_node *f = fvg_const(t, n, x->width, x->f);
  fvg_node *from_text = fvg_mul(fvg_const(t, n, x->n_class, p->text_scores),
                                fvg_param(t, &p->alpha));
  fvg_node *z = fvg_linear_add(f, fvg_param(t, &p->weight), fvg_param(t, &p->bias), from_text);
  fvg_node *l = fvg_cross_entropy(z, p->label);
  fvg_status s = l ? fvg_backward(l) : p->head->ctx->status;
  if (!s) *loss = (double)fvg_value(l)[0];
  return s;
}

/* The head as it is after this epoch: w + alpha t, and b. */
static void fvg__lp_hand_over(fvg__lp *p, int epoch) {
  fvg_head *h = p->head;
  float *weight = (float *)h->part[0].data;
  const float *w = (const float *)p->weight.value.data;
  const float *alpha = (const float *)p->alpha.value.data;
  double sum = 0;
  for (int c = 0; c < h->n_class; c++) {
    size_t row = fvg__row(c, h->width);
    for (size_t k = row; k < row + (size_t)h->width; k++)
      weight[k] = w[k] + alpha[c] * p->data->text[k];
    sum += (double)alpha[c];
  }
  memcpy(h->part[1].data, p->bias.value.data, (size_t)h->n_class * sizeof(float));
  h->value[FVG__HEAD_FIRST] = (float)epoch;
  h->value[FVG__HEAD_SECOND] = (float)(sum / h->n_class);
}

/* One epoch: (3), and at every tenth one (4), both from the gradients at the same point. */
static fvg_status fvg__lp_epoch(fvg__lp *p, fvg_optimizer *o, int epoch, double rate,
                                double *loss) {
  int n_class = p->data->n_class;
  fvg_optimizer_zero_grad(o);
  memset(p->alpha.grad, 0, (size_t)n_class * sizeof(float));
  fvg_status s = fvg__lp_loss(p, loss);
  if (s) return s;

  fvg_optimizer_step(o, rate);
  float *alpha = (float *)p->alpha.value.data;
  for (int c = 0; c < n_class && epoch % 10 == 0; c++)
    alpha[c] -= (float)(p->rate_alpha * (double)p->alpha.grad[c]);
  return FVG_OK;
}

/* Trains; at the end the head is that of the epoch which val likes best.  Swapping two heads' parts
   keeps the best one while the other goes on. */
static fvg_status fvg__lp_train(fvg__lp *p, fvg_optimizer *o, int epochs, double rate) {
  fvg_head *h = p->head;
  const fvg_head_data *x = p->data;
  fvg_head best = *h;
  memset(best.part, 0, sizeof best.part);
  fvg__verdict most = fvg__worst;
  int ok = !x->n_val || (fvg__head_add(&best, 0, 0) && fvg__head_add(&best, 1, 0));
  fvg_status s = ok ? FVG_OK : FVG_E_NOMEM;

  for (int epoch = 1; !s && epoch <= epochs; epoch++) {
    double loss = 0;
    s = fvg__lp_epoch(p, o, epoch, rate, &loss);
    if (!s) s = fvg__head_progress(h, epoch, epochs, loss);
    if (s || (!x->n_val && epoch < epochs)) continue;

    fvg__lp_hand_over(p, epoch);
    fvg__verdict v = {0, 0};
    if (x->n_val) s = fvg__head_judge(h, &v, x);
    if (s || !fvg__is_better(v, most) || !x->n_val) continue;
    most = v;
    fvg_head swapped = best;
    best = *h;
    *h = swapped;
  }

  if (!s && x->n_val) {
    fvg_head last = *h;
    *h = best;
    best = last;
    fvg__head_chosen(h, x, most);
  }
  fvg_tensor_free(h->ctx, &best.part[0]);
  fvg_tensor_free(h->ctx, &best.part[1]);
  return s;
}

static fvg_status fvg__lp_fit(fvg__lp *p, int epochs) {
  fvg_head *h = p->head;
  fvg_parameter *params[2] = {&p->weight, &p->bias};
  fvg_optimizer_desc desc;
  memset(&desc, 0, sizeof desc);
  desc.weight_decay = -1;

  double rate = 0;
  fvg_optimizer *o = NULL;
  fvg_status s = fvg__lp_text_scores(p);
  if (!s) fvg__lp_start(p);
  if (!s) s = fvg__lp_rate(p, &rate);
  if (!s) s = fvg_optimizer_new(h->ctx, &o, params, 2, &desc);
  if (!s) p->rate_alpha = fvg__lp_rate_alpha(p);
  if (!s) s = fvg__lp_train(p, o, epochs, rate);
  fvg_tape_clear(h->tape);
  fvg_optimizer_free(o);
  return s;
}

/* Makes room for everything, fits, and gives the room back. */
static fvg_status fvg__fit_lp(fvg_head *h, const fvg_head_data *x, const fvg_head_desc *d) {
  fvg_ctx *c = h->ctx;
  const int dim[2] = {x->n_class, x->width};
  const int row[2] = {1, x->n_class};
  fvg__lp p;
  memset(&p, 0, sizeof p);
  p.head = h;
  p.data = x;
  p.label = fvg__crop_labels(c, x);
  p.text_scores = FVG_NEW_ARRAY(c, float, fvg__row(x->n * x->n_view, x->n_class));
  int ok = p.label && p.text_scores && fvg__head_add(h, 0, 0) && fvg__head_add(h, 1, 0);
  fvg_status s = ok ? fvg_parameter_new(c, &p.weight, "weight", 2, dim) : FVG_E_NOMEM;
  if (!s) s = fvg_parameter_new(c, &p.bias, "bias", 1, dim);
  if (!s) s = fvg_parameter_new(c, &p.alpha, "alpha", 2, row);

  if (!s) s = fvg__lp_fit(&p, d->epochs ? d->epochs : 300);
  fvg_parameter_free(c, &p.weight);
  fvg_parameter_free(c, &p.bias);
  fvg_parameter_free(c, &p.alpha);
  fvg_release(c, p.label);
  fvg_release(c, p.text_scores);
  return s;
}
#endif /* FVGPT_NO_TRAINING */

/*==================================================================================================
 * CHAPTER 18  CLIP-ADAPTER: a bottleneck on image features
 *==================================================================================================
   CLIP-Adapter (Gao et al. 2021, arXiv 2110.04544) changes image features by a small network and
   compares them with the text features, as CLIP does.

     (1)  A(f) = relu(W_up relu(W_down f))                     W_down [h,d], W_up [d,h], no biases
     (2)  f~ = norm(a A(f) + (1 - a) f)            z = s f~ t^T
     (3)  L = mean of CE(z, y)

   The published trainer adapts features before they are normalised.  Without biases A(k f) = k A(f)
   for k > 0, so after norm both are the same.

   Settings.  h = d/4.  The trainer is one of CoOp's and takes CoOp's settings: SGD at 0.002,
   momentum 0.9, weight decay 5e-4, batches of 32, one epoch of warm-up and a cosine; 200 epochs,
   100 for up to 4 pictures a class, 50 for 1.  In each epoch a picture shows one of its crops,
   drawn at random.  Weights start as PyTorch's linear layers do, uniform in +-1 / sqrt(inputs),
   from the streams 200 (W_down) and 201 (W_up) of the seed.

   Choice.  The paper searches a for each data set; the code has 0.2.  Here an adapter is trained
   for each of a = 0.2, 0.4, ..., 1 from the same start, and val chooses; 0.2 without val. */

/* (2); params are W_down and W_up, or NULL for the head's own. */
static fvg_node *fvg__adapter_features(fvg_head *h, fvg_node *f, fvg_parameter *const *params) {
  fvg_tape *t = f->tape;
  fvg_node *w_down = params ? fvg_param(t, params[0]) : fvg_frozen(t, &h->part[1]);
  fvg_node *w_up = params ? fvg_param(t, params[1]) : fvg_frozen(t, &h->part[2]);
  fvg_node *hidden = fvg_relu(fvg_linear(f, w_down, NULL));
  fvg_node *adapted = fvg_relu(fvg_linear(hidden, w_up, NULL));

  float a = h->value[FVG__HEAD_FIRST];
  return fvg_normalize(fvg_add(fvg_scale(adapted, a), fvg_scale(f, 1 - a)));
}

static fvg_node *fvg__adapter_train_scores(fvg_head *h, fvg_node *f,
                                           fvg_parameter *const *params) {
  fvg_node *adapted = fvg__adapter_features(h, f, params);
  return adapted ? fvg__text_scores(h, adapted, 0) : NULL;
}

static fvg_node *fvg__adapter_scores(fvg_head *h, fvg_node *f) {
  return fvg__adapter_train_scores(h, f, NULL);
}

#ifndef FVGPT_NO_TRAINING  /* the fit of chapter 18 */
/* Fills a parameter [rows, inputs] uniformly in +-1 / sqrt(inputs). */
static void fvg__linear_start(fvg_parameter *p, uint64_t seed, uint64_t stream) {
  fvg_rng rng;
  fvg_rng_seed(&rng, seed, stream);
  double bound = 1 / sqrt((double)p->value.dim[1]);
  float *w = (float *)p->value.data;
  for (size_t i = 0; i < fvg_tensor_count(&p->value); i++)
    w[i] = (float)(bound * (2 * fvg_rng_uniform(&rng) - 1));
}

/* Epochs for that many pictures a class. */
static int fvg__adapter_epochs(const fvg_head_data *x) {
  int shots = (x->n + x->n_class - 1) / x->n_class;
  return shots <= 1 ? 50 : shots <= 4 ? 100 : 200;
}

/* Trains an adapter with the ratio a, which becomes the head's. */
static fvg_status fvg__adapter_at(fvg_head *h, const fvg_head_data *x, const fvg_head_desc *d,
                                  float a) {
  int hidden = d->hidden ? d->hidden : x->width < 4 ? 1 : x->width / 4;
  const int down[2] = {hidden, x->width}, up[2] = {x->width, hidden};
  fvg_parameter w[2];
  memset(w, 0, sizeof w);
  fvg_parameter *params[2] = {&w[0], &w[1]};
  fvg_status s = fvg_parameter_new(h->ctx, &w[0], "down", 2, down);
  if (!s) s = fvg_parameter_new(h->ctx, &w[1], "up", 2, up);
  if (!s) fvg__linear_start(&w[0], d->seed, 200);
  if (!s) fvg__linear_start(&w[1], d->seed, 201);

  fvg__head_training t;
  memset(&t, 0, sizeof t);
  t.optimizer.lr = fvg__default(d->lr, 0.002f);
  t.optimizer.epochs = d->epochs ? d->epochs : fvg__adapter_epochs(x);
  t.optimizer = fvg_optimizer_defaults(&t.optimizer);
  t.batch = d->batch ? d->batch : 32;
  t.scores = fvg__adapter_train_scores;
  t.params = params;
  t.n_param = 2;
  h->value[FVG__HEAD_FIRST] = a;
  if (!s) s = fvg__head_train(h, x, &t, d->seed);
  if (!s) fvg__head_take(h, 1, &w[0]);
  if (!s) fvg__head_take(h, 2, &w[1]);
  fvg_parameter_free(h->ctx, &w[0]);
  fvg_parameter_free(h->ctx, &w[1]);
  return s;
}

/* Trains one adapter for each ratio and keeps the one that val likes best. */
static fvg_status fvg__adapter_choose(fvg_head *h, const fvg_head_data *x,
                                      const fvg_head_desc *d) {
  fvg__verdict most = fvg__worst;
  fvg_tensor best[2];
  memset(best, 0, sizeof best);
  float ratio = 0;
  fvg_status s = FVG_OK;

  for (int i = 1; !s && i <= 5; i++) {
    fvg__verdict v;
    s = fvg__adapter_at(h, x, d, 0.2f * (float)i);
    if (!s) s = fvg__head_judge(h, &v, x);
    if (s || !fvg__is_better(v, most)) continue;
    most = v;
    ratio = h->value[FVG__HEAD_FIRST];
    for (int k = 0; k < 2; k++) {
      fvg_tensor_free(h->ctx, &best[k]);
      best[k] = h->part[1 + k];
      h->part[1 + k].data = NULL;
    }
  }

  for (int k = 0; k < 2; k++) {
    fvg_tensor_free(h->ctx, &h->part[1 + k]);
    h->part[1 + k] = best[k];
  }
  h->value[FVG__HEAD_FIRST] = ratio;
  if (!s) fvg__head_chosen(h, x, most);
  return s;
}

static fvg_status fvg__fit_adapter(fvg_head *h, const fvg_head_data *x, const fvg_head_desc *d) {
  fvg_status s = fvg__head_copy(h, 0, 0, x->text);
  if (s) return s;
  if (d->ratio == 0 && x->n_val) return fvg__adapter_choose(h, x, d);
  return fvg__adapter_at(h, x, d, fvg__default(d->ratio, 0.2f));
}
#endif /* FVGPT_NO_TRAINING */

/*==================================================================================================
 * CHAPTER 19  TIP-ADAPTER: a cache of the training pictures
 *==================================================================================================
   Tip-Adapter (Zhang et al., ECCV 2022, arXiv 2207.09519) keeps the training features as keys and
   lets each vote for its class, the more the nearer it is.

     (1)  k_i = norm(mean over the crops v of f_iv)                                    keys [n,d]
     (2)  z_c = s f t_c + alpha sum over the pictures i of class c of exp(-beta (1 - f k_i))

   Tip-Adapter-F trains the keys by cross-entropy, with alpha = 3 and beta = 1 unless the desc has
   others: AdamW at 1e-3 with eps 1e-4 and weight decay 0.01, batches of 256, 20 epochs, and a rate
   that falls to 0 by a cosine over all steps.  In each epoch a picture shows one of its crops.

   Choice.  beta = 0.1 + 11.9 i / 200 for i = 0..199, and alpha = 0.1 + 4.9 j / 20 for j = 0..19;
   3 and 1 without val.

   Published script.  Its keys are means of features that are not normalised yet, where a longer one
   counts for more; in (1) all crops of a picture count alike.  Start and bounds of alpha and beta
   differ from set to set there; ours are the same for all.  Its -F keeps the epoch that is best on
   *test* pictures and then reports the better of two accuracies on these; here it is the last
   epoch's. */

enum { FVG__TIP_ALPHAS = 20, FVG__TIP_BETAS = 200 };

/* [C,n], 1 where key i is of class c */
static fvg_node *fvg__tip_classes(const fvg_head *h, fvg_tape *t) {
  int n = h->part[2].dim[0];
  const int *label = (const int *)h->part[2].data;
  fvg_node *one_hot = fvg_zeros(t, h->n_class, n);
  float *to = fvg_fill(one_hot);
  for (int i = 0; to && i < n; i++) to[fvg__row(label[i], n) + (size_t)i] = 1;
  return one_hot;
}

/* [1,n], -1 for each key */
static fvg_node *fvg__tip_minus_one(const fvg_head *h, fvg_tape *t) {
  int n = h->part[2].dim[0];
  fvg_node *row = fvg_zeros(t, 1, n);
  float *to = fvg_fill(row);
  for (int i = 0; to && i < n; i++) to[i] = -1;
  return row;
}

/* (2); the keys are a parameter, or with NULL the head's own. */
static fvg_node *fvg__tip_train_scores(fvg_head *h, fvg_node *f, fvg_parameter *const *params) {
  fvg_tape *t = f->tape;
  float alpha = h->value[FVG__HEAD_FIRST], beta = h->value[FVG__HEAD_SECOND];
  fvg_node *keys = params ? fvg_param(t, params[0]) : fvg_frozen(t, &h->part[1]);

  /* -1 is added before exp is taken: e^beta alone is too great for a float from beta = 89 on. */
  fvg_node *affinity = fvg_linear(f, keys, fvg__tip_minus_one(h, t));              /* [m,n] */
  fvg_node *vote = fvg_scale(fvg_exp(fvg_scale(affinity, beta)), alpha);
  fvg_node *votes = fvg_linear(vote, fvg__tip_classes(h, t), NULL);                /* [m,C] */
  return fvg_add(fvg__text_scores(h, f, 0), votes);
}

static fvg_node *fvg__tip_scores(fvg_head *h, fvg_node *f) {
  return fvg__tip_train_scores(h, f, NULL);
}

#ifndef FVGPT_NO_TRAINING  /* the fit of chapter 19, and chapter 20 */
/* (1), and the labels of the keys. */
static fvg_status fvg__tip_keys(fvg_head *h, const fvg_head_data *x) {
  float *keys = (float *)fvg__head_add(h, 1, x->n);
  int *label = (int *)fvg__head_add(h, 2, x->n);
  if (!keys || !label) return FVG_E_NOMEM;
  memcpy(label, x->label, (size_t)x->n * sizeof *label);

  for (int i = 0; i < x->n; i++) {
    float *key = keys + fvg__row(i, x->width);
    double square = 0;
    for (int k = 0; k < x->width; k++) {
      double sum = 0;
      for (int v = 0; v < x->n_view; v++)
        sum += (double)x->f[fvg__row(i * x->n_view + v, x->width) + (size_t)k];
      key[k] = (float)(sum / x->n_view);
      square += (double)key[k] * (double)key[k];
    }
    double length = square > 0 ? sqrt(square) : 1;
    for (int k = 0; k < x->width; k++) key[k] = (float)((double)key[k] / length);
  }
  return FVG_OK;
}

/* Tip-Adapter-F: the keys of (1) are where training begins. */
static fvg_status fvg__tip_train(fvg_head *h, const fvg_head_data *x, const fvg_head_desc *d) {
  const int dim[2] = {x->n, x->width};
  fvg_parameter keys;
  fvg_parameter *params[1] = {&keys};
  fvg_status s = fvg_parameter_new(h->ctx, &keys, "keys", 2, dim);
  if (s) return s;
  memcpy(keys.value.data, h->part[1].data, fvg_tensor_count(&keys.value) * sizeof(float));

  fvg__head_training t;
  memset(&t, 0, sizeof t);
  t.optimizer.kind = FVG_ADAMW;
  t.optimizer.lr = fvg__default(d->lr, 1e-3f);
  t.optimizer.eps = 1e-4f;
  t.optimizer.weight_decay = 0.01f;
  t.optimizer.epochs = d->epochs ? d->epochs : 20;
  t.optimizer = fvg_optimizer_defaults(&t.optimizer);
  t.batch = d->batch ? d->batch : 256;
  t.cosine = 1;
  t.scores = fvg__tip_train_scores;
  t.params = params;
  t.n_param = 1;
  s = fvg__head_train(h, x, &t, d->seed);
  if (!s) fvg__head_take(h, 1, &keys);
  fvg_parameter_free(h->ctx, &keys);
  return s;
}

/* ---- choice of alpha and beta ---- */

/* What is the same for all candidates, and the verdicts on those of one beta. */
typedef struct fvg__tip_search {
  const fvg_head_data *data;
  const int *key_label;              /* [n]                                                       */
  float *affinity, *text_scores;     /* [n_val,n] f k^T, [n_val,C] s f t^T                        */
  float *votes, *z;                  /* [n_val,C] of one beta, and the logits of one candidate    */
  fvg__verdict *verdict;             /* [n_val,FVG__TIP_ALPHAS] on single pictures                */
  double alpha[FVG__TIP_ALPHAS], beta[FVG__TIP_BETAS];
  int n_alpha, n_beta;
  double beta_now;
} fvg__tip_search;

static void fvg__tip_search_free(fvg_ctx *c, fvg__tip_search *q) {
  fvg_release(c, q->affinity);
  fvg_release(c, q->text_scores);
  fvg_release(c, q->votes);
  fvg_release(c, q->z);
  fvg_release(c, q->verdict);
}

/* The candidates: the grid, or the one value that the desc has. */
static void fvg__tip_grid(fvg__tip_search *q, const fvg_head_desc *d) {
  q->n_alpha = d->alpha == 0 ? FVG__TIP_ALPHAS : 1;
  q->n_beta = d->beta == 0 ? FVG__TIP_BETAS : 1;
  for (int j = 0; j < FVG__TIP_ALPHAS; j++) q->alpha[j] = 0.1 + 4.9 * j / (int)FVG__TIP_ALPHAS;
  for (int i = 0; i < FVG__TIP_BETAS; i++) q->beta[i] = 0.1 + 11.9 * i / (int)FVG__TIP_BETAS;
  if (q->n_alpha == 1) q->alpha[0] = (double)d->alpha;
  if (q->n_beta == 1) q->beta[0] = (double)d->beta;
}

/* Judges picture i of val by all alphas with the present beta. */
static void fvg__tip_judge_row(void *arg, int i) {
  fvg__tip_search *q = (fvg__tip_search *)arg;
  const fvg_head_data *x = q->data;
  const float *affinity = q->affinity + fvg__row(i, x->n);
  const float *text_scores = q->text_scores + fvg__row(i, x->n_class);
  float *votes = q->votes + fvg__row(i, x->n_class);
  float *z = q->z + fvg__row(i, x->n_class);

  memset(votes, 0, (size_t)x->n_class * sizeof *votes);
  for (int k = 0; k < x->n; k++)
    votes[q->key_label[k]] += (float)exp(-q->beta_now * (1 - (double)affinity[k]));

  for (int j = 0; j < q->n_alpha; j++) {
    fvg__verdict v = {0, 0};
    for (int c = 0; c < x->n_class; c++) z[c] = text_scores[c] + (float)q->alpha[j] * votes[c];
    fvg__judge_row(&v, z, x->n_class, x->label_val[i]);
    q->verdict[fvg__row(i, FVG__TIP_ALPHAS) + (size_t)j] = v;
  }
}

/* Adds up what the pictures of val say of alpha number j. */
static fvg__verdict fvg__tip_verdict(const fvg__tip_search *q, int j) {
  fvg__verdict sum = {0, 0};
  for (int i = 0; i < q->data->n_val; i++) {
    fvg__verdict v = q->verdict[fvg__row(i, FVG__TIP_ALPHAS) + (size_t)j];
    sum.n_correct += v.n_correct;
    sum.loss += v.loss;
  }
  return sum;
}

/* f k^T and s f t^T of val, through the tape. */
static fvg_status fvg__tip_products(fvg_head *h, fvg__tip_search *q) {
  const fvg_head_data *x = q->data;
  fvg_tape *t = h->tape;
  fvg_tape_clear(t);
  fvg_node *f = fvg_const(t, x->n_val, x->width, x->f_val);
  fvg_node *affinity = fvg_linear(f, fvg_frozen(t, &h->part[1]), NULL);
  fvg_node *text_scores = affinity ? fvg__text_scores(h, f, 0) : NULL;
  if (!text_scores) return h->ctx->status;
  fvg__copy_node(q->affinity, affinity);
  fvg__copy_node(q->text_scores, text_scores);
  return FVG_OK;
}

/* Goes through all candidates; the best one's alpha and beta become the head's. */
static fvg_status fvg__tip_search_all(fvg_head *h, fvg__tip_search *q) {
  fvg__verdict most = fvg__worst;
  fvg_status s = fvg__tip_products(h, q);
  for (int i = 0; !s && i < q->n_beta; i++) {
    q->beta_now = q->beta[i];
    s = fvg_parallel(h->ctx, fvg__tip_judge_row, q, q->data->n_val);
    if (!s) s = fvg__head_progress(h, i + 1, q->n_beta, 0);

    for (int j = 0; !s && j < q->n_alpha; j++) {
      fvg__verdict v = fvg__tip_verdict(q, j);
      if (!fvg__is_better(v, most)) continue;
      most = v;
      h->value[FVG__HEAD_FIRST] = (float)q->alpha[j];
      h->value[FVG__HEAD_SECOND] = (float)q->beta[i];
    }
  }
  if (!s) fvg__head_chosen(h, q->data, most);
  fvg_tape_clear(h->tape);
  return s;
}

static fvg_status fvg__tip_choose(fvg_head *h, const fvg_head_data *x, const fvg_head_desc *d) {
  fvg_ctx *c = h->ctx;
  size_t scores = fvg__row(x->n_val, x->n_class);
  fvg__tip_search q;
  memset(&q, 0, sizeof q);
  q.data = x;
  q.key_label = (const int *)h->part[2].data;
  fvg__tip_grid(&q, d);
  q.affinity = FVG_NEW_ARRAY(c, float, fvg__row(x->n_val, x->n));
  q.text_scores = FVG_NEW_ARRAY(c, float, scores);
  q.votes = FVG_NEW_ARRAY(c, float, scores);
  q.z = FVG_NEW_ARRAY(c, float, scores);
  q.verdict = FVG_NEW_ARRAY(c, fvg__verdict, fvg__row(x->n_val, FVG__TIP_ALPHAS));

  int ok = q.affinity && q.text_scores && q.votes && q.z && q.verdict;
  fvg_status s = ok ? fvg__tip_search_all(h, &q) : FVG_E_NOMEM;
  fvg__tip_search_free(c, &q);
  return s;
}

static fvg_status fvg__fit_tip(fvg_head *h, const fvg_head_data *x, const fvg_head_desc *d) {
  h->value[FVG__HEAD_FIRST] = fvg__default(d->alpha, 3.0f);
  h->value[FVG__HEAD_SECOND] = fvg__default(d->beta, 1.0f);
  fvg_status s = fvg__head_copy(h, 0, 0, x->text);
  if (!s) s = fvg__tip_keys(h, x);
  if (!s && h->kind == FVG_TIP_ADAPTER_F) s = fvg__tip_train(h, x, d);

  int to_choose = x->n_val && (d->alpha == 0 || d->beta == 0);
  return s || !to_choose ? s : fvg__tip_choose(h, x, d);
}

/*==================================================================================================
 * CHAPTER 20  GDA: Gaussian classes with one covariance
 *==================================================================================================
   GDA (Wang et al., ICLR 2024, arXiv 2402.04087) takes the features of each class as normally
   distributed, with a mean of its own and one covariance for all.  Bayes' rule then is a linear
   classifier in closed form, which is added to zero-shot CLIP.

     (1)  mu_c = mean of the crops of class c
     (2)  w_c = P mu_c          b_c = -ln C - mu_c P mu_c / 2
     (3)  z_c = s f t_c + alpha (w_c f + b_c)

   P stands for the inverse covariance.  With N crops f, each minus its class's mean, and N_c crops
   in class c,

     (4)  FVG_GDA_FEW_SHOT      G = sum_i (f_i - mu) (f_i - mu)^T
                                P = d (G + tr(G) / (N - 1) I)^-1
     (5)  FVG_GDA_BASE_TO_NEW   S = mean_c of 1 / (N_c - 1) sum_(i of c) (f_i - mu) (f_i - mu)^T
                                P = S^+

   (4) shrinks the pooled covariance towards a multiple of I (Kubokawa and Srivastava 2008), so it
   can be inverted whatever N is.  In (5), S^+ leaves out eigenvalues of at most d 2^-23 times the
   greatest; that is what torch.linalg.pinv does with floats, with which the numbers were published.

   New classes have text features t_c and no pictures.  The k base crops nearest to t_c stand for
   them, which also gives a mean near t_c:

     (6)  mu_c = (sum of the k crops + m t_c) / (k + m)                            k = 64, m = 16
     (7)  X_c = the k crops, each minus t_c [k,d]            tau_c = |X_c|^2 / (k - 1)
          P = mean_c of d (X_c^T X_c + tau_c I)^-1

   and then (2) and (3) with the alpha of the base classes.  With fewer than k crops all are taken.
   The inverse in (7) is never formed, for it has rank k but for a multiple of I:

     (8)  (X^T X + tau I)^-1 = (I - Y^T Y) / tau        Y = L^-1 X,  L L^T = X X^T + tau I  [k,k]

   so a new class costs k^2 d + k d^2 / 2 instead of d^3 (Woodbury's identity).

   Choice.  alpha of 1e-4, 1e-3, ..., 100; 0.1 without val.

   Published.  ViT-B/16, 16 shots, ten crops of each picture (of 0.5 to 1 of its area), mean of 11
   sets: base 83.96, new 74.53, H 78.97.  That chooses alpha on the whole val split, on ImageNet
   even on test; ours sees few-shot val only.  A class with a single crop has no covariance in (5);
   it is left out of S, where the published script has NaN. */

typedef struct fvg__gda {
  fvg_ctx *ctx;
  int width, n_class;
  double *mean;                      /* [C,d] mu                                                  */
  int *count;                        /* [C] crops of each class                                   */
  double *matrix;                    /* [d,d] G or S, and what becomes of it                      */
  double *room;                      /* [FVG__GRAM_CHUNK,d] rows in double                        */
  float *weight, *bias;              /* [C,d] w, [C] b of (2)                                     */
} fvg__gda;

static void fvg__gda_free(fvg__gda *g) {
  fvg_release(g->ctx, g->mean);
  fvg_release(g->ctx, g->count);
  fvg_release(g->ctx, g->matrix);
  fvg_release(g->ctx, g->room);
  fvg_release(g->ctx, g->weight);
  fvg_release(g->ctx, g->bias);
}

/* Even after a failure the caller frees g. */
static fvg_status fvg__gda_new(fvg__gda *g, fvg_ctx *c, int width, int n_class) {
  memset(g, 0, sizeof *g);
  g->ctx = c;
  g->width = width;
  g->n_class = n_class;
  g->mean = FVG_NEW_ARRAY(c, double, fvg__row(n_class, width));
  g->count = FVG_NEW_ARRAY(c, int, (size_t)n_class);
  g->matrix = FVG_NEW_ARRAY(c, double, fvg__row(width, width));
  g->room = FVG_NEW_ARRAY(c, double, fvg__row(FVG__GRAM_CHUNK, width));
  g->weight = FVG_NEW_ARRAY(c, float, fvg__row(n_class, width));
  g->bias = FVG_NEW_ARRAY(c, float, (size_t)n_class);
  int ok = g->mean && g->count && g->matrix && g->room && g->weight && g->bias;
  return ok ? FVG_OK : FVG_E_NOMEM;
}

/* (1) */
static fvg_status fvg__gda_means(fvg__gda *g, const fvg_head_data *x) {
  for (int i = 0; i < x->n * x->n_view; i++) {
    int label = x->label[i / x->n_view];
    const float *f = x->f + fvg__row(i, x->width);
    double *mean = g->mean + fvg__row(label, x->width);
    for (int k = 0; k < x->width; k++) mean[k] += (double)f[k];
    g->count[label]++;
  }

  for (int c = 0; c < x->n_class; c++) {
    double *mean = g->mean + fvg__row(c, x->width);
    if (!g->count[c])
      return fvg_fail(g->ctx, FVG_E_ARG, "GDA: class %d of %d has no picture", c, x->n_class);
    for (int k = 0; k < x->width; k++) mean[k] /= g->count[c];
  }
  return FVG_OK;
}

/* What a centred crop of class c is multiplied by, so that the sum of their squares is G or S. */
static double fvg__gda_factor(const fvg__gda *g, fvg_gda_rule rule, int n_spread, int c) {
  if (rule == FVG_GDA_FEW_SHOT) return 1;
  if (g->count[c] < 2) return 0;
  return sqrt(1 / ((double)n_spread * (g->count[c] - 1)));
}

/* G of (4) or S of (5) -> matrix. */
static fvg_status fvg__gda_scatter(fvg__gda *g, const fvg_head_data *x, fvg_gda_rule rule) {
  int n_spread = 0;                                     /* classes that have a covariance         */
  for (int c = 0; c < x->n_class; c++) n_spread += g->count[c] >= 2;
  if (rule == FVG_GDA_BASE_TO_NEW && !n_spread)
    return fvg_fail(g->ctx, FVG_E_ARG, "GDA: no class has two crops, so there is no covariance; "
                    "use more shots or crops");

  fvg_status s = FVG_OK;
  int n = x->n * x->n_view;
  for (int first = 0; !s && first < n; first += FVG__GRAM_CHUNK) {
    int m = fvg__min(FVG__GRAM_CHUNK, n - first);
    for (int i = 0; i < m; i++) {
      int label = x->label[(first + i) / x->n_view];
      double factor = fvg__gda_factor(g, rule, n_spread, label);
      const float *f = x->f + fvg__row(first + i, x->width);
      const double *mean = g->mean + fvg__row(label, x->width);
      double *row = g->room + fvg__row(i, x->width);
      for (int k = 0; k < x->width; k++) row[k] = factor * ((double)f[k] - mean[k]);
    }
    s = fvg__gram_add(g->ctx, g->matrix, g->room, m, x->width);
  }
  return s;
}

/* w_c and b_c of (2) from P mu_c. */
static void fvg__gda_class(fvg__gda *g, int c, const double *p_mu) {
  float *w = g->weight + fvg__row(c, g->width);
  for (int k = 0; k < g->width; k++) w[k] = (float)p_mu[k];
  const double *mean = g->mean + fvg__row(c, g->width);
  g->bias[c] = (float)(-log((double)g->n_class) - fvg__dot(mean, p_mu, g->width) / 2);
}

/* (4) and (2).  Without any spread P is 0, and so is every w. */
static fvg_status fvg__gda_shrunk(fvg__gda *g, int n) {
  int d = g->width;
  double shrink = n > 1 ? fvg__trace(g->matrix, d) / (n - 1) : 0;
  for (int i = 0; i < d; i++) g->matrix[fvg__row(i, d) + (size_t)i] += shrink;
  if (shrink > 0 && !fvg__cholesky(g->matrix, d))
    return fvg_fail(g->ctx, FVG_E_NUMERIC, "GDA: the covariance cannot be inverted");

  double *p_mu = g->room;
  for (int c = 0; c < g->n_class; c++) {
    for (int k = 0; k < d; k++) p_mu[k] = shrink > 0 ? d * g->mean[fvg__row(c, d) + (size_t)k] : 0;
    if (shrink > 0) fvg__cholesky_solve(g->matrix, p_mu, d);
    fvg__gda_class(g, c, p_mu);
  }
  return FVG_OK;
}

/* (5) and (2) */
static fvg_status fvg__gda_inverted(fvg__gda *g) {
  int d = g->width;
  double *lambda = FVG_NEW_ARRAY(g->ctx, double, (size_t)d);
  double *u = FVG_NEW_ARRAY(g->ctx, double, fvg__row(d, d));
  fvg_status s = lambda && u ? fvg__eigen(g->ctx, lambda, u, g->matrix, d) : FVG_E_NOMEM;
  double cutoff = s ? 0 : d * ldexp(1, -23) * fvg__largest_of(lambda, (size_t)d);

  for (int c = 0; !s && c < g->n_class; c++) {
    fvg__pseudo_solve(g->room, lambda, u, cutoff, g->mean + fvg__row(c, d), d);
    fvg__gda_class(g, c, g->room);
  }
  fvg_release(g->ctx, lambda);
  fvg_release(g->ctx, u);
  return s;
}

/* (3), as one matrix and one bias. */
static void fvg__gda_blend(fvg_head *h, const fvg__gda *g, const float *text, float alpha) {
  float *weight = (float *)h->part[0].data;
  float *bias = (float *)h->part[1].data;
  size_t n = fvg__row(h->n_class, h->width);
  for (size_t k = 0; k < n; k++)
    weight[k] = h->value[FVG__HEAD_SCALE] * text[k] + alpha * g->weight[k];
  for (int c = 0; c < h->n_class; c++) bias[c] = alpha * g->bias[c];
  h->value[FVG__HEAD_FIRST] = alpha;
}

static fvg_status fvg__gda_choose(fvg_head *h, const fvg__gda *g, const fvg_head_data *x) {
  static const float candidate[] = {1e-4f, 1e-3f, 1e-2f, 0.1f, 1, 10, 100};
  fvg__verdict most = fvg__worst;
  float alpha = 0;
  for (int i = 0; i < 7; i++) {
    fvg__verdict v;
    fvg__gda_blend(h, g, x->text, candidate[i]);
    fvg_status s = fvg__head_judge(h, &v, x);
    if (!s) s = fvg__head_progress(h, i + 1, 7, v.loss / x->n_val);
    if (s) return s;
    if (!fvg__is_better(v, most)) continue;
    most = v;
    alpha = candidate[i];
  }
  fvg__gda_blend(h, g, x->text, alpha);
  fvg__head_chosen(h, x, most);
  return FVG_OK;
}

static fvg_status fvg__fit_gda(fvg_head *h, const fvg_head_data *x, const fvg_head_desc *d) {
  int n = x->n * x->n_view;
  fvg__gda g;
  fvg_status s = fvg__gda_new(&g, h->ctx, x->width, x->n_class);
  if (!s) s = fvg__gda_means(&g, x);
  if (!s) s = fvg__gda_scatter(&g, x, d->gda_rule);
  if (!s) s = d->gda_rule == FVG_GDA_FEW_SHOT ? fvg__gda_shrunk(&g, n) : fvg__gda_inverted(&g);

  int ok = s || (fvg__head_add(h, 0, 0) && fvg__head_add(h, 1, 0));
  if (!ok) s = FVG_E_NOMEM;
  if (!s) s = fvg__head_copy(h, 2, n, x->f);
  h->value[FVG__HEAD_SECOND] = (float)(d->neighbours ? d->neighbours : 64);
  h->value[FVG__HEAD_THIRD] = (float)(d->copies > 0 ? d->copies : d->copies ? 0 : 16);
  if (!s && d->alpha == 0 && x->n_val) s = fvg__gda_choose(h, &g, x);
  else if (!s) fvg__gda_blend(h, &g, x->text, fvg__default(d->alpha, 0.1f));
  fvg__gda_free(&g);
  return s;
}

/* ---- new classes ---- */

/* The k rows of f [n,d] whose products with t are greatest, as index [k] from the greatest down;
   score [k] is scratch. */
static void fvg__nearest_crops(int *index, double *score, int k, const float *f, int n,
                               const float *t, int d) {
  int found = 0;
  for (int i = 0; i < n; i++) {
    const float *f_i = f + fvg__row(i, d);
    double product = 0;
    for (int j = 0; j < d; j++) product += (double)f_i[j] * (double)t[j];
    if (found == k && product <= score[k - 1]) continue;

    int at = found < k ? found++ : k - 1;
    for (; at > 0 && score[at - 1] < product; at--) {
      score[at] = score[at - 1];
      index[at] = index[at - 1];
    }
    score[at] = product;
    index[at] = i;
  }
}

/* Scratch of the rule for new classes. */
typedef struct fvg__gda_new_room {
  int *index;                        /* [k] the nearest crops                                     */
  double *score;                     /* [k]                                                       */
  double *x, *inner;                 /* [k,d] X_c, then Y; [k,k] X X^T + tau I, then L            */
} fvg__gda_new_room;

/* (6), and X_c of (7). */
static void fvg__gda_new_mean(fvg__gda *g, fvg__gda_new_room *r, const fvg_head *base, int c,
                              const float *t, int k, int copies) {
  int d = g->width;
  const float *crop = (const float *)base->part[2].data;
  double *mean = g->mean + fvg__row(c, d);
  fvg__nearest_crops(r->index, r->score, k, crop, base->part[2].dim[0], t, d);

  for (int j = 0; j < d; j++) mean[j] = copies * (double)t[j];
  for (int i = 0; i < k; i++) {
    const float *f = crop + fvg__row(r->index[i], d);
    double *x = r->x + fvg__row(i, d);
    for (int j = 0; j < d; j++) {
      mean[j] += (double)f[j];
      x[j] = (double)f[j] - (double)t[j];
    }
  }
  for (int j = 0; j < d; j++) mean[j] /= k + copies;
}

/* Adds a class to P of (7): to *diagonal its multiple of I, and to the matrix, which is taken off
   later, its Y^T Y of (8). */
static fvg_status fvg__gda_new_covariance(fvg__gda *g, fvg__gda_new_room *r, int k,
                                          double *diagonal) {
  int d = g->width;
  double tau = fvg__dot(r->x, r->x, k * d) / (k - 1);
  if (!(tau > 0)) return FVG_OK;                        /* the pseudo-inverse of 0 is 0           */
  double share = d / (tau * g->n_class);
  *diagonal += share;

  for (int i = 0; i < k; i++)
    for (int j = 0; j <= i; j++) {
      double product = fvg__dot(r->x + fvg__row(i, d), r->x + fvg__row(j, d), d);
      r->inner[fvg__row(i, k) + (size_t)j] = product + (i == j ? tau : 0);
    }
  if (!fvg__cholesky(r->inner, k))
    return fvg_fail(g->ctx, FVG_E_NUMERIC, "GDA: a new class's covariance cannot be inverted");
  fvg__solve_rows(r->inner, r->x, k, d);

  for (int i = 0; i < k * d; i++) r->x[i] *= sqrt(share);
  return fvg__gram_add(g->ctx, g->matrix, r->x, k, d);
}

/* (6) to (8) for all classes, then (2). */
static fvg_status fvg__gda_new_classes(fvg__gda *g, fvg__gda_new_room *r, const fvg_head *base,
                                       const float *text, int k, int copies) {
  int d = g->width;
  double diagonal = 0;
  fvg_status s = FVG_OK;
  for (int c = 0; !s && c < g->n_class; c++) {
    fvg__gda_new_mean(g, r, base, c, text + fvg__row(c, d), k, copies);
    s = fvg__gda_new_covariance(g, r, k, &diagonal);
    if (!s) s = fvg__head_progress(base, c + 1, g->n_class, 0);
  }
  if (s) return s;

  fvg__fill_upper(g->matrix, d);
  for (int c = 0; c < g->n_class; c++) {
    const double *mean = g->mean + fvg__row(c, d);
    for (int j = 0; j < d; j++)
      g->room[j] = diagonal * mean[j] - fvg__dot(g->matrix + fvg__row(j, d), mean, d);
    fvg__gda_class(g, c, g->room);
  }
  return FVG_OK;
}

/* Fills the head of new classes from the one of the base classes. */
static fvg_status fvg__gda_for_new(fvg_head *h, const fvg_head *base, const float *text) {
  fvg_ctx *c = h->ctx;
  int n = base->part[2].dim[0], d = h->width;
  int k = fvg__min((int)base->value[FVG__HEAD_SECOND], n);
  if (k < 2)
    return fvg_fail(c, FVG_E_ARG, "GDA: new classes need two crops of base classes at least, and "
                    "two neighbours");

  fvg__gda g;
  fvg__gda_new_room r;
  fvg_status s = fvg__gda_new(&g, c, d, h->n_class);
  r.index = FVG_NEW_ARRAY(c, int, (size_t)k);
  r.score = FVG_NEW_ARRAY(c, double, (size_t)k);
  r.x = FVG_NEW_ARRAY(c, double, fvg__row(k, d));
  r.inner = FVG_NEW_ARRAY(c, double, fvg__row(k, k));
  int ok = r.index && r.score && r.x && r.inner;
  ok = ok && fvg__head_add(h, 0, 0) && fvg__head_add(h, 1, 0);
  if (!ok) s = FVG_E_NOMEM;
  if (!s) s = fvg__head_copy(h, 2, n, (const float *)base->part[2].data);
  int copies = (int)base->value[FVG__HEAD_THIRD];
  if (!s) s = fvg__gda_new_classes(&g, &r, base, text, k, copies);
  if (!s) fvg__gda_blend(h, &g, text, base->value[FVG__HEAD_FIRST]);

  fvg_release(c, r.index);
  fvg_release(c, r.score);
  fvg_release(c, r.x);
  fvg_release(c, r.inner);
  fvg__gda_free(&g);
  return s;
}
#endif /* FVGPT_NO_TRAINING */

/*==================================================================================================
 * CHAPTER 21  ONE CALL FOR ALL HEADS: fitting, new classes, files
 *==================================================================================================
   The table below, and that of the fits, are all that tells the kinds apart from here on.  A new
   kind needs a chapter with its fit and its scores, a row in both, and a name in fvg_head_kind.

   A file has the kind's tensors under the names of the table and the numbers as one more tensor,
   "values"; the kind stands in the metadata, and a checksum of it all.  Reading takes the number of
   classes and the width from the first part's shape, compares every other shape with them, and
   refuses numbers with which nothing could be scored. */

static const fvg__head_method fvg__head_methods[] = {
  {"LinearProbe", {{"weight", "Cd", FVG_F32}, {"bias", "C", FVG_F32}, {NULL, NULL, FVG_F32}},
   {"c", NULL, NULL}, 0, fvg__linear_scores},
  {"LP++", {{"weight", "Cd", FVG_F32}, {"bias", "C", FVG_F32}, {NULL, NULL, FVG_F32}},
   {"epoch", "mean_alpha", NULL}, 0, fvg__linear_scores},
  {"CLIP-Adapter", {{"text", "Cd", FVG_F32}, {"down", "nd", FVG_F32}, {"up", "dn", FVG_F32}},
   {"ratio", NULL, NULL}, 0, fvg__adapter_scores},
  {"Tip-Adapter", {{"text", "Cd", FVG_F32}, {"keys", "nd", FVG_F32}, {"label", "n", FVG_I32}},
   {"alpha", "beta", NULL}, 0, fvg__tip_scores},
  {"Tip-Adapter-F", {{"text", "Cd", FVG_F32}, {"keys", "nd", FVG_F32}, {"label", "n", FVG_I32}},
   {"alpha", "beta", NULL}, 0, fvg__tip_scores},
  {"GDA", {{"weight", "Cd", FVG_F32}, {"bias", "C", FVG_F32}, {"crops", "nd", FVG_F32}},
   {"alpha", "neighbours", "copies"}, 1, fvg__linear_scores}
};

static const fvg__head_method *fvg__head_method_of(fvg_head_kind kind) {
  int at = (int)kind;
  return at >= FVG_LINEAR_PROBE && at <= FVG_GDA ? &fvg__head_methods[at] : NULL;
}

FVG_DEF const char *fvg_head_name(fvg_head_kind kind) {
  const fvg__head_method *method = fvg__head_method_of(kind);
  return method ? method->name : NULL;
}

FVG_DEF int fvg_head_find(const char *name) {
  int kind = FVG_GDA;
  while (kind >= 0 && (!name || strcmp(name, fvg__head_methods[kind].name))) kind--;
  return kind;
}

FVG_DEF int fvg_head_knows_new(fvg_head_kind kind) {
  const fvg__head_method *method = fvg__head_method_of(kind);
  return method && method->knows_new;
}

FVG_DEF fvg_head_kind fvg_head_is(const fvg_head *h) { return h->kind; }
FVG_DEF int fvg_head_width(const fvg_head *h) { return h->width; }
FVG_DEF int fvg_head_classes(const fvg_head *h) { return h->n_class; }

FVG_DEF int fvg_head_choice(const fvg_head *h, int i, const char **name, double *value) {
  static const char *const shared[] = {"val_accuracy", "val_cross_entropy"};
  for (int k = 0; k < FVG__HEAD_SCALE; k++) {
    const char *called = k < FVG__HEAD_ACCURACY ? h->method->setting[k]
                                                : shared[k - FVG__HEAD_ACCURACY];
    if (!called || (k >= FVG__HEAD_ACCURACY && h->value[FVG__HEAD_ACCURACY] < 0)) continue;
    if (i-- != 0) continue;
    if (name) *name = called;
    if (value) *value = (double)h->value[k];
    return 1;
  }
  return 0;
}

FVG_DEF void fvg_head_free(fvg_head *h) {
  if (!h) return;
  for (int i = 0; i < FVG__HEAD_PARTS; i++) fvg_tensor_free(h->ctx, &h->part[i]);
  fvg_tape_free(h->tape);
  fvg_release(h->ctx, h);
}

/* A head without parts; NULL when out of memory. */
static fvg_head *fvg__head_new(fvg_ctx *c, fvg_head_kind kind, int width, int n_class,
                               float scale) {
  fvg_head *h = FVG_NEW(c, fvg_head);
  if (!h) return NULL;
  h->ctx = c;
  h->kind = kind;
  h->method = fvg__head_method_of(kind);
  h->width = width;
  h->n_class = n_class;
  h->value[FVG__HEAD_ACCURACY] = -1;
  h->value[FVG__HEAD_SCALE] = scale;
  h->tape = fvg_tape_new(c);
  if (h->tape) return h;
  fvg_head_free(h);
  return NULL;
}

#ifndef FVGPT_NO_TRAINING  /* fitting */
/* ---- what is given ---- */

/* Rows [n,d] must be finite and of unit length; `what` and `head` are for messages. */
static fvg_status fvg__check_unit(fvg_ctx *c, const char *head, const char *what, const float *x,
                                  int n, int d) {
  for (int i = 0; i < n; i++) {
    double square = 0;
    for (int k = 0; k < d; k++) {
      double x_k = (double)x[fvg__row(i, d) + (size_t)k];
      square += x_k * x_k;
    }
    if (!isfinite(square))
      return fvg_fail(c, FVG_E_NUMERIC, "%s: %s %d is not finite", head, what, i);
    if (fabs(square - 1) > 1e-2)
      return fvg_fail(c, FVG_E_ARG, "%s: %s %d has length %g, features must have length 1", head,
                      what, i, sqrt(square));
  }
  return FVG_OK;
}

static fvg_status fvg__check_head_labels(fvg_ctx *c, const char *head, const char *what,
                                         const int *label, int n, int n_class) {
  for (int i = 0; i < n; i++) {
    if (label[i] < 0 || label[i] >= n_class)
      return fvg_fail(c, FVG_E_ARG, "%s: %s %d has label %d among %d classes", head, what, i,
                      label[i], n_class);
  }
  return FVG_OK;
}

/* Are all counts possible, and small enough for an int where they are multiplied? */
static fvg_status fvg__check_head_sizes(fvg_ctx *c, const char *head, const fvg_head_data *x) {
  if (x->width < 1 || x->n_class < 1 || x->n < 1 || x->n_view < 0 || x->n_val < 0)
    return fvg_fail(c, FVG_E_ARG, "%s: width %d, %d classes, %d pictures, %d crops of each and %d "
                    "val pictures make no sense", head, x->width, x->n_class, x->n, x->n_view,
                    x->n_val);
  double most = (double)INT_MAX;
  double n_crop = (double)x->n * (x->n_view ? x->n_view : 1);
  double n_weight = (double)x->n_class * (x->width + 1.0);
  if (n_crop > most || n_weight > most)
    return fvg_fail(c, FVG_E_ARG, "%s: %.0f crops and %.0f weights are too many", head, n_crop,
                    n_weight);
  return FVG_OK;
}

static fvg_status fvg__check_head_data(fvg_ctx *c, const char *head, const fvg_head_data *x) {
  if (!x) return fvg__missing(c, head, "the data");
  fvg_status s = fvg__check_head_sizes(c, head, x);
  if (s) return s;
  if (!x->f || !x->label || !x->text || (x->n_val && (!x->f_val || !x->label_val)))
    return fvg_fail(c, FVG_E_ARG, "%s: it needs f, label and text, and with val pictures f_val and "
                    "label_val", head);
  if (!(x->logit_scale >= 0 && x->logit_scale < 1e6f))
    return fvg_fail(c, FVG_E_ARG, "%s: logit_scale is %g, it must be positive and below 1e6", head,
                    (double)x->logit_scale);

  int n_crop = x->n * (x->n_view ? x->n_view : 1);
  s = fvg__check_head_labels(c, head, "picture", x->label, x->n, x->n_class);
  if (!s) s = fvg__check_head_labels(c, head, "val picture", x->label_val, x->n_val, x->n_class);
  if (!s) s = fvg__check_unit(c, head, "crop", x->f, n_crop, x->width);
  if (!s) s = fvg__check_unit(c, head, "text", x->text, x->n_class, x->width);
  return s ? s : fvg__check_unit(c, head, "val picture", x->f_val, x->n_val, x->width);
}

/* 0 stands for a default, so nothing may be negative but `copies`. */
static fvg_status fvg__check_head_desc(fvg_ctx *c, const char *head, const fvg_head_desc *d) {
  const struct { const char *name; float value, most; } number[] = {
    {"c", d->c, 1e9f}, {"ratio", d->ratio, 1}, {"alpha", d->alpha, 1e6f}, {"beta", d->beta, 1e6f},
    {"lr", d->lr, 1e6f}
  };
  for (int i = 0; i < 5; i++) {
    if (!(number[i].value >= 0 && number[i].value <= number[i].most))
      return fvg_fail(c, FVG_E_ARG, "%s: %s is %g, 0 to %g is possible", head, number[i].name,
                      (double)number[i].value, (double)number[i].most);
  }

  const int count[] = {d->hidden, d->epochs, d->batch, d->neighbours};
  static const char *const counted[] = {"hidden", "epochs", "batch", "neighbours"};
  for (int i = 0; i < 4; i++) {
    if (count[i] < 0 || count[i] > 1000000)
      return fvg_fail(c, FVG_E_ARG, "%s: %s is %d, 0 to 1000000 is possible", head, counted[i],
                      count[i]);
  }
  int rule = (int)d->gda_rule;
  if (rule == FVG_GDA_FEW_SHOT || rule == FVG_GDA_BASE_TO_NEW) return FVG_OK;
  return fvg_fail(c, FVG_E_ARG, "%s: there is no gda_rule %d", head, rule);
}

/* ---- fitting ---- */

static fvg_status fvg__head_check_finite(const fvg_head *h) {
  for (int i = 0; i < FVG__HEAD_PARTS; i++) {
    const fvg_tensor *x = &h->part[i];
    if (!x->data || x->type != FVG_F32) continue;
    const float *value = (const float *)x->data;
    for (size_t k = 0; k < fvg_tensor_count(x); k++) {
      if (!isfinite(value[k]))
        return fvg_fail(h->ctx, FVG_E_NUMERIC, "%s: %s has become %g", h->method->name,
                        h->method->part[i].name, (double)value[k]);
    }
  }
  return FVG_OK;
}

/* How each kind is fitted, in the order of fvg_head_kind.  This is a table of its own, so that a
   program that only reads heads need not contain their fits. */
static fvg_status (*const fvg__head_fits[])(fvg_head *h, const fvg_head_data *x,
                                            const fvg_head_desc *d) = {
  fvg__fit_linear_probe, fvg__fit_lp, fvg__fit_adapter, fvg__fit_tip, fvg__fit_tip, fvg__fit_gda
};

/* Zeros of the data are filled in here, those of the desc by each kind. */
FVG_DEF fvg_status fvg_head_fit(fvg_ctx *c, fvg_head **out, fvg_head_kind kind,
                                const fvg_head_data *data, const fvg_head_desc *desc) {
  if (!out) return fvg__missing(c, "fvg_head_fit", "the result");
  *out = NULL;
  const char *name = fvg_head_name(kind);
  if (!name) return fvg_fail(c, FVG_E_ARG, "there is no head number %d", (int)kind);

  fvg_head_desc d;
  memset(&d, 0, sizeof d);
  if (desc) d = *desc;
  fvg_status s = fvg__check_head_data(c, name, data);
  if (!s) s = fvg__check_head_desc(c, name, &d);
  if (s) return s;

  fvg_head_data x = *data;
  if (!x.n_view) x.n_view = 1;
  x.logit_scale = fvg__default(x.logit_scale, 100.0f);
  fvg_head *h = fvg__head_new(c, kind, x.width, x.n_class, x.logit_scale);
  if (!h) return FVG_E_NOMEM;
  s = fvg__head_fits[kind](h, &x, &d);
  if (!s) s = fvg__head_check_finite(h);
  if (!s) *out = h;
  else fvg_head_free(h);
  return s;
}

/* The new head has the settings of h and crops of its own, so it can make further ones. */
FVG_DEF fvg_status fvg_head_for_new(fvg_head *h, fvg_head **out, const float *text, int n_new) {
  fvg_ctx *c = h->ctx;
  const char *name = h->method->name;
  if (out) *out = NULL;
  if (!out || !text) return fvg__missing(c, name, out ? "the new classes' text" : "the result");
  if (!h->method->knows_new)
    return fvg_fail(c, FVG_E_UNSUPPORTED, "%s has no rule for new classes", name);
  if (n_new < 1 || n_new > 1000000)
    return fvg_fail(c, FVG_E_ARG, "%s: %d new classes", name, n_new);
  fvg_status s = fvg__check_unit(c, name, "text", text, n_new, h->width);
  if (s) return s;

  fvg_head *made = fvg__head_new(c, h->kind, h->width, n_new, h->value[FVG__HEAD_SCALE]);
  if (!made) return FVG_E_NOMEM;
  memcpy(made->value, h->value, sizeof made->value);
  s = fvg__gda_for_new(made, h, text);
  if (!s) s = fvg__head_check_finite(made);
  if (!s) *out = made;
  else fvg_head_free(made);
  return s;
}
#endif /* FVGPT_NO_TRAINING */

/* ---- files ---- */

#ifndef FVGPT_NO_TRAINING  /* writing */
/* All of a head as tensors, and its metadata with those of the caller. */
typedef struct fvg__head_file {
  fvg_named_tensor tensor[FVG__HEAD_PARTS + 1];
  int n;
  fvg_metadata *metadata;            /* [n_metadata]; to be released                              */
  int n_metadata;
  char sum[FVG__CHECKSUM_TEXT];      /* the last of them                                          */
} fvg__head_file;

static void fvg__head_tensors(fvg_head *h, fvg__head_file *file) {
  file->n = 0;
  for (int i = 0; i < FVG__HEAD_PARTS; i++) {
    if (!h->part[i].data) continue;
    file->tensor[file->n].name = h->method->part[i].name;
    file->tensor[file->n++].tensor = h->part[i];
  }

  fvg_named_tensor *values = &file->tensor[file->n++];
  memset(values, 0, sizeof *values);
  values->name = "values";
  values->tensor.data = h->value;
  values->tensor.n_dim = 1;
  values->tensor.dim[0] = FVG__HEAD_VALUES;
}

static fvg_status fvg__head_file_new(fvg_head *h, fvg__head_file *file,
                                     const fvg_metadata *metadata, int n_metadata) {
  if (n_metadata < 0 || (n_metadata && !metadata))
    return fvg__missing(h->ctx, h->method->name, "the metadata");
  fvg__head_tensors(h, file);
  file->n_metadata = n_metadata + 2;
  file->metadata = FVG_NEW_ARRAY(h->ctx, fvg_metadata, (size_t)file->n_metadata);
  if (!file->metadata) return FVG_E_NOMEM;
  file->metadata[0].key = "head";
  file->metadata[0].value = h->method->name;
  for (int i = 0; i < n_metadata; i++) file->metadata[1 + i] = metadata[i];

  fvg__checksum(file->tensor, file->n, file->metadata, n_metadata + 1, file->sum);
  file->metadata[n_metadata + 1].key = FVG__CHECKSUM;
  file->metadata[n_metadata + 1].value = file->sum;
  return FVG_OK;
}

FVG_DEF fvg_status fvg_head_write(fvg_head *h, fvg_write_fn write, void *user,
                                  const fvg_metadata *metadata, int n_metadata) {
  if (!write) return fvg__missing(h->ctx, h->method->name, "the function to write it with");
  fvg__head_file file;
  fvg_status s = fvg__head_file_new(h, &file, metadata, n_metadata);
  if (s) return s;
  s = fvg_safetensors_write(h->ctx, write, user, file.tensor, file.n, file.metadata,
                            file.n_metadata);
  fvg_release(h->ctx, file.metadata);
  return s;
}

#ifndef FVGPT_NO_STDIO
FVG_DEF fvg_status fvg_head_save(fvg_head *h, const char *path, const fvg_metadata *metadata,
                                 int n_metadata) {
  if (!path) return fvg__missing(h->ctx, h->method->name, "the path to save it at");
  fvg__head_file file;
  fvg_status s = fvg__head_file_new(h, &file, metadata, n_metadata);
  if (s) return s;
  s = fvg_safetensors_save(h->ctx, path, file.tensor, file.n, file.metadata, file.n_metadata);
  fvg_release(h->ctx, file.metadata);
  return s;
}
#endif
#endif /* FVGPT_NO_TRAINING */

/* What the file says that it is: the kind, the classes and the width. */
static fvg_status fvg__head_identify(fvg_ctx *c, const fvg_weights *w, int *kind,
                                     fvg_tensor *first) {
  const char *file = fvg_weights_file(w);
  const char *name = fvg_weights_metadata(w, "head");
  if (!name) return fvg_fail(c, FVG_E_FORMAT, "%s: not the file of a head", file);
  *kind = fvg_head_find(name);
  if (*kind < 0) return fvg_fail(c, FVG_E_FORMAT, "%s: head \"%.40s\" is not known", file, name);

  const char *part = fvg__head_methods[*kind].part[0].name;
  int found = fvg_weights_info(w, first, part);
  if (!found || first->n_dim != 2 || first->dim[0] < 1 || first->dim[1] < 1)
    return fvg_fail(c, FVG_E_FORMAT, "%s: no matrix %s", file, part);
  return FVG_OK;
}

/* Reads a part; *n is the number that the letter n stands for, 0 as long as it is not known. */
static fvg_status fvg__head_read_part(fvg_head *h, fvg_weights *w, int part, int *n) {
  const fvg__head_part *p = &h->method->part[part];
  fvg_tensor found, needed;
  const char *at = strchr(p->shape, 'n');
  if (at && !*n && fvg_weights_info(w, &found, p->name) && found.n_dim > at - p->shape)
    *n = found.dim[at - p->shape];
  if (at && *n < 1)
    return fvg_fail(h->ctx, FVG_E_FORMAT, "%s: no tensor %s with rows", fvg_weights_file(w),
                    p->name);

  fvg__head_shape(h, part, *n, &needed);
  fvg_status s = fvg__check_shape(h->ctx, w, p->name, needed.n_dim, needed.dim);
  return s ? s : fvg_weights_get(w, &h->part[part], p->name, p->type);
}

/* Refuses numbers with which nothing could be scored, and labels of keys that are no classes. */
static fvg_status fvg__head_check_read(fvg_head *h, const char *file) {
  float scale = h->value[FVG__HEAD_SCALE];
  int ok = scale > 0 && scale < 1e6f;
  for (int i = 0; i < FVG__HEAD_SCALE; i++) ok = ok && fabs((double)h->value[i]) <= 1e9;
  if (h->kind == FVG_GDA)                               /* k and m of its chapter                 */
    ok = ok && h->value[FVG__HEAD_SECOND] >= 1 && h->value[FVG__HEAD_THIRD] >= 0 &&
         h->value[FVG__HEAD_THIRD] <= 1e6f;
  if (!ok) return fvg_fail(h->ctx, FVG_E_FORMAT, "%s: values of the %s make no sense", file,
                           h->method->name);

  const fvg_tensor *label = &h->part[2];
  if (label->type != FVG_I32 || !label->data) return FVG_OK;
  const int *value = (const int *)label->data;
  for (int i = 0; i < label->dim[0]; i++) {
    if (value[i] < 0 || value[i] >= h->n_class)
      return fvg_fail(h->ctx, FVG_E_FORMAT, "%s: label %d is %d among %d classes", file, i,
                      value[i], h->n_class);
  }
  return FVG_OK;
}

/* Reads all parts and numbers; a tensor that is none of them is an error. */
static fvg_status fvg__head_fill(fvg_head *h, fvg_weights *w) {
  const char *file = fvg_weights_file(w);
  const int dim[1] = {FVG__HEAD_VALUES};
  int n = 0, n_tensor = 1;
  fvg_status s = FVG_OK;
  for (int i = 0; !s && i < FVG__HEAD_PARTS && h->method->part[i].name; i++, n_tensor++)
    s = fvg__head_read_part(h, w, i, &n);

  fvg_tensor values;
  if (!s) s = fvg__check_shape(h->ctx, w, "values", 1, dim);
  if (!s) s = fvg_weights_get(w, &values, "values", FVG_F32);
  if (s) return s;
  memcpy(h->value, values.data, sizeof h->value);
  fvg_tensor_free(h->ctx, &values);

  if (fvg_weights_count(w) != n_tensor)
    return fvg_fail(h->ctx, FVG_E_FORMAT, "%s: %d tensors, the %s has %d", file,
                    fvg_weights_count(w), h->method->name, n_tensor);
  return fvg__head_check_read(h, file);
}

FVG_DEF fvg_status fvg_head_read(fvg_ctx *c, fvg_head **out, fvg_weights *w) {
  if (out) *out = NULL;
  if (!out || !w) return fvg__missing(c, "fvg_head_read", out ? "the file" : "the result");
  int kind = -1;
  fvg_tensor first;
  fvg_status s = fvg__head_identify(c, w, &kind, &first);
  if (s) return s;

  fvg__budget budget;
  fvg__budget_begin(c, &budget, fvg_weights_file(w), fvg__weights_bytes(w));
  fvg_head *h = fvg__head_new(c, (fvg_head_kind)kind, first.dim[1], first.dim[0], 1);
  s = h ? fvg__weights_verify(w) : FVG_E_NOMEM;
  if (!s) s = fvg__head_fill(h, w);
  fvg__budget_end(c, &budget);
  if (!s) *out = h;
  else fvg_head_free(h);
  return s;
}

FVG__SELDOM_RUN_END
FVG__SMALL_END
#endif /* FVG__PART_THREE */
