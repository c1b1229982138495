/* The manual; see fvgpt_manual.h. */
#include "fvgpt_manual.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "fvgpt_columns.h"
#include "fvgpt_hints.h"
#include "fvgpt_manual_methods.h"
#include "fvgpt_print.h"

/* A command has a summary, a topic has none.  tests/test_everyday.sh measures the pages, and looks
   for every option on them.  C99 promises strings of no more than 4095 letters. */
typedef struct page {
  const char *name, *summary, *text;
} page;

static const page pages[] = {
  {"info", "what a model is: its towers, its preprocessing, its size",
   "fvgpt info --model DIR\n"
   "\n"
   "  Prints the towers, how pictures are prepared, the number of parameters and\n"
   "  the kernels in use.\n"
   "\n"
   "  --model DIR   a folder as on Hugging Face: weights under Hugging Face's,\n"
   "                OpenAI's or open_clip's names, in one file or with an index,\n"
   "                and their configuration\n"},

  {"quantise", "a model's weights in eight bits, into a file",
   "fvgpt quantise --model DIR --out FILE.safetensors\n"
   "\n"
   "  Writes the weights that --weights q8 makes (fvgpt help options), so that they\n"
   "  need not be made again: a quarter of the size, and read faster.  Any command\n"
   "  takes the file as its --model, with the configuration and the vocabulary of\n"
   "  DIR beside it.\n"
   "\n"
   "  A matrix NAME becomes I8 [n, k], and NAME_scale F32 [n, 1] has the scale of\n"
   "  each row; all other tensors stay as they are.\n"},

  {"tokenize", "token ids of the lines on standard input",
   "fvgpt tokenize --model DIR\n"
   "\n"
   "  Reads lines of text from standard input and prints the token ids of each,\n"
   "  without those of start and end.\n"},

  {"preprocess", "one picture, or its mask, as a model would see it",
   "fvgpt preprocess --size N IN OUT\n"
   "fvgpt preprocess --model DIR IN OUT\n"
   "\n"
   "  Writes the picture IN as a model of N x N pixels, or that in DIR, sees it.\n"
   "  The ending of OUT tells its kind: .png, .ppm or .pgm.\n"
   "\n"
   "  --crop TOP,LEFT,HEIGHT,WIDTH   takes this part of it, in pixels\n"
   "  --flip                         and mirrors that\n"
   "  --nearest                      does not mix pixels, as is right for masks\n"
   "  --exif-rotate                  turns it upright first (fvgpt help pictures)\n"},

  {"encode", "features of pictures and of texts, into a file",
   "fvgpt encode --model DIR --out F.safetensors PICTURE... [--text STR]...\n"
   "\n"
   "  F gets the tensors image_features and text_features, a row for each picture\n"
   "  and text, not normalised.  Its metadata image_files and texts list what the\n"
   "  rows were made from, as JSON.\n"
   "\n"
   "  PICTURE        files and folders (fvgpt help pictures), before --text or\n"
   "                 behind --\n"
   "  --image FILE   another one; may be given several times\n"
   "  --text STR     a text; may be given several times\n"
   "  --pixels F     pictures that are prepared already: the tensor images\n"
   "                 [N, 3, H, W] of a safetensors file\n"
   "  --shard K/N    every N-th picture, into the cache alone (--cache in fvgpt help\n"
   "                 options, which all shards must share); then the same command\n"
   "                 without --shard writes F, the same bytes as if it were alone\n"},

  {"classify", "which of some classes pictures show",
   "fvgpt classify --model DIR --classes A,B,C PICTURE...\n"
   "fvgpt classify --model DIR --checkpoint PATH PICTURE...\n"
   "\n"
   "  Prints the most probable classes of each picture.\n"
   "\n"
   "  PICTURE            files and folders (fvgpt help pictures)\n"
   "  --classes A,B,C    names; a comma inside a name is written \\,\n"
   "  --classes-file F   names, one a line, commas and all\n"
   "  --checkpoint PATH  what tune made, OUT/TRAINER/seedN or the file in it; of a\n"
   "                     published trainer: fvgpt help checkpoints.  Without names\n"
   "                     of your own, those that it was tuned on are used\n"
   "  --template STR     what a name is put into; the checkpoint's, or else\n"
   "                     \"a photo of a {}.\"\n"
   "  --top K            so many names of each picture, or all; default 5\n"
   "  --json, --csv      output for programs (fvgpt help output)\n"
   "\n"
   "  With FVG-PT, names that it was not tuned on are scored by a mixture with\n"
   "  plain CLIP, whose weight b is printed too.\n"},

  {"attend", "where a model looks, as maps over pictures",
   "fvgpt attend --model DIR --text STR --out MAPS PICTURE...\n"
   "\n"
   "  Writes a map of each picture, and prints the picture's file, its score and the\n"
   "  map's file.\n"
   "\n"
   "  --text STR         what is looked for; with a checkpoint the name of a class\n"
   "  --checkpoint PATH  as for classify; --template STR too\n"
   "  --map relevance    the default, MAPS/NAME_relevance.png: what speaks for STR\n"
   "        gradcam      the same by gradients; on photographs it is less true\n"
   "        attention    what the class token attends to, whatever the text\n"
   "        all          each of them\n"
   "  --against background|classes   what relevance compares a class with: words\n"
   "                     for backgrounds, or the other classes, which is better\n"
   "                     where pictures show several things\n"
   "  --background WORD  such a word; may be given several times\n"
   "  --data ROOT        the pictures lie in this data set.  Where it has a mask,\n"
   "                     the line tells the map's share inside it, in %, whether the\n"
   "                     hottest point is, and the IoU of its hot part with it, in %\n"
   "\n"
   "  Pictures: fvgpt help pictures.  Data sets and masks: fvgpt help data\n"},

  {"masks", "masks of a data set's things, made by CLIP alone",
   "fvgpt masks --model DIR --data ROOT [--out ROOT/mask]\n"
   "\n"
   "  Makes a mask for each picture that has none yet: of what belongs to its class,\n"
   "  and for test pictures, whose class must not be told, of any class.  The folder\n"
   "  also gets masks.csv, and masks.html to look through.\n"
   "\n"
   "  --any-class        of any class, for all pictures\n"
   "  --text STR         of what the text says, for all pictures\n"
   "  --background WORD  what is not the thing; may be given several times.  The\n"
   "                     words that are built in suit photographs\n"
   "  --background-template STR   a sentence for these words, with {} for the word\n"
   "  --quick            in one pass of the image tower, and coarser\n"
   "  --shard K/N        every N-th mask; in the end, one run without it writes\n"
   "                     masks.csv and masks.html\n"
   "  --sheet N          masks.html shows the N most doubtful ones; default 200\n"
   "\n"
   "  Data sets: fvgpt help data\n"},

  {"tune", "tunes prompts for data sets, and prints a table",
   "fvgpt tune --model DIR --data ROOT --trainer NAME,... --out DIR\n"
   "\n"
   "  Tunes on the first half of the classes (base) and tests on both halves.  OUT\n"
   "  gets checkpoints, results.json and results.csv; what was cut off goes on when\n"
   "  the same command is given again.\n"
   "\n"
   "  --trainer NAME,... FVGPT_ before a method's name adds FVG-PT, DPC_ adds DPC;\n"
   "                     DAPT_G is DAPT on masks that it makes anew in every epoch\n"
   "  @methods"
   "  --data ROOT        a data set; several make one table (fvgpt help data)\n"
   "  --shots 16         training pictures of a class; 1,2,4: once for each\n"
   "  --seeds 1,2,3      a run for each\n"
   "  --augment crop     random crops, new in every epoch; crop:8: eight, encoded\n"
   "                     once; none: the test view; squash: all of it, squeezed\n"
   "  --few-shot         tunes and tests on all classes\n"
   "  --all              tunes on all pictures (fvgpt help all)\n"
   "  --transfer-to ROOT,...   tunes on all classes, and tests on other data sets\n"
   "  --masks given|own|none   the data set's masks; made by CLIP into OUT/masks, as\n"
   "                     is usual where it has none; or without masks\n"
   "\n"
   "  More: fvgpt help settings, choose, FVG-PT, DPC, baselines, machines\n"},

  {"table", "the tables of a finished tune, from its results alone",
   "fvgpt table RUNS\n"
   "\n"
   "  Prints the tables of a tune into RUNS and writes its results.json again,\n"
   "  without a model or pictures.  What is not finished yet is named, with whoever\n"
   "  is at work on it; the exit status is then 1.\n"
   "\n"
   "  --claim-expires S  as for tune (fvgpt help machines)\n"},

  {"paper", "the tables and figures of FVG-PT's paper, measured",
   "fvgpt paper --model DIR --data ROOT [--data ROOT2]... --table N --out DIR\n"
   "\n"
   "  Makes tables and figures of arXiv 2603.08708 on these data sets, beside what\n"
   "  is published.  Their runs go on where they stopped, and what one table has\n"
   "  trained another one uses.  Writes DIR/table3.csv, .json and .html; of several\n"
   "  tables, paper.csv, ...\n"
   "\n"
   "  --table 1          base to new: FVG-PT on its backbones\n"
   "          2          cross-data: tuned on the first data set, tested on all\n"
   "          3          its modules, and what becomes of it without distillation\n"
   "          4, 5, 6    hidden widths; layers; indicators of the gates\n"
   "          7          parameters, speed, memory\n"
   "          D_fg       how far predictions for foregrounds are from the others\n"
   "  --figure 4a, 4b    beside other methods; the weight of distillation\n"
   "                     Both may be given several times\n"
   "  --backbone A,B     the methods of Tables 1 and 2; all others take the first.\n"
   "                     The paper's: CoOp,KgCoOp,PromptSRC,MMRL\n"
   "\n"
   "  Everything else is as for tune: --shots, --seeds, --augment, --shard, ...\n"},

  {"eval", "tests a checkpoint on a data set",
   "fvgpt eval --model DIR --data ROOT --checkpoint PATH --split-half HALF\n"
   "\n"
   "  Prints accuracy and macro F1 on the data set's test pictures.\n"
   "\n"
   "  --checkpoint PATH  what tune made, OUT/TRAINER/seedN or the file in it; of a\n"
   "                     published trainer: fvgpt help checkpoints\n"
   "  --split-half HALF  base, new or all: classes of the first half, of the second,\n"
   "                     or of both\n"
   "  --template STR     what a name is put into; the checkpoint's, or else\n"
   "                     \"a photo of a {}.\"\n"
   "  --json, --csv      output for programs (fvgpt help output)\n"
   "\n"
   "  Data sets: fvgpt help data\n"},

  {"report", "a page about finished runs of tune",
   "fvgpt report --model DIR --data ROOT --runs RUNS --out DIR\n"
   "\n"
   "  RUNS is the --out of a finished tune on ROOT, or, of a list, its folder for\n"
   "  that data set and number of shots.  Several --data and --runs make one page.\n"
   "  Writes DIR/index.html, and DIR/results.json with every number on it:\n"
   "  accuracies, confusions, the worst mistakes, maps and how much of them lies on\n"
   "  the object where there are masks, FVG-PT's gates, settings.\n"
   "\n"
   "  --pictures N       of base classes are shown; default 6\n"
   "  --measured N       pictures of each group of classes are measured at most,\n"
   "                     which takes most of the time; default 200\n"
   "  --template STR     as for tune\n"
   "  --against background|classes, --background WORD   as for attend\n"
   "\n"
   "  Data sets: fvgpt help data\n"},

  {"settings", NULL,
   "Settings of tune\n"
   "\n"
   "  Every method trains as it was published; the first lines of a run tell how.\n"
   "\n"
   "  --preset fork      as in FVG-PT's fork of the trainers, from which the paper's\n"
   "                     tables come; the default\n"
   "  --preset original  as in the method's own code\n"
   "  --epochs N, --lr X, --batch N, --n-ctx N, --set NAME=VALUE   go before either\n"
   "\n"
   "  --set NAME=VALUE   changes a setting of a method's own, such as KgCoOp's W=8:\n"
   "                     fvgpt help set lists all of them, fvgpt help METHOD those\n"
   "                     of one, with its published settings\n"
   "  --n-ctx N          context vectors\n"
   "  --ctx-init WORDS   what they start from.  CoOp, KgCoOp, CoCoOp learn one for\n"
   "                     each word; MaPLe, DAPT and PromptSRC the first n-ctx\n"
   "                     tokens; ProGrad n-ctx vectors, of which WORDS are the last\n"
   "  --class-token-position end|middle|front   where the name stands among them\n"
   "  --template STR     \"a photo of a {}.\", or the published set's own\n"
   "  --fill-black       foregrounds lie on black instead of the mean colour\n"},

  {"all", NULL,
   "A model of all your pictures: tune --all\n"
   "\n"
   "    fvgpt tune --model DIR --data ROOT --all --trainer CoOp --out OUT\n"
   "    fvgpt classify --model DIR --checkpoint OUT/CoOp/seed1 PICTURE...\n"
   "\n"
   "  Tunes on all classes with all pictures: train, val and test together.  So none\n"
   "  is left to test OUT/TRAINER/seed1 with, which is the model to use.\n"
   "\n"
   "  --folds K   how good it is, is estimated: the pictures of each class are dealt\n"
   "              to K folds; K more models, OUT/TRAINER/seed1/fold1ofK, ..., are\n"
   "              each tuned without one fold and tested on it.  The table has the\n"
   "              mean and the deviation of the K accuracies, beside CLIP's own in\n"
   "              zero_shot.  Default 5, up to 20; 0: no estimate, and less work\n"
   "  --shots N   at most N pictures of a class, drawn by the seed; folds are of\n"
   "              these.  Default: all there are\n"
   "  --seeds 1   the default here; several have folds of their own each\n"
   "\n"
   "  The epochs are those of 16 shots, whatever a class has; --epochs N changes\n"
   "  them.  A class of fewer than K pictures is tested by as many folds as it has\n"
   "  pictures; a class folder with a single picture is left out, and a class of one\n"
   "  in a split file is tested by none.\n"},

  {"choose", NULL,
   "Settings that val chooses\n"
   "\n"
   "  --choose NAME=VALUE,VALUE,...   trains with each value, and keeps the best;\n"
   "                     for several names, with all combinations\n"
   "\n"
   "  The best is the most accurate on the val pictures of the classes tuned on, of\n"
   "  equal ones the one with the smallest cross-entropy.  Test pictures have no\n"
   "  part.  NAME may be\n"
   "\n"
   "    lr, epochs, batch           of each stage, which choose one after the other\n"
   "    W, ...                      an option of a method (fvgpt help set)\n"
   "    lambda_base                 FVG-PT's weight of distillation\n"
   "    fdc_hidden, gate_hidden, gate_layers   sizes of its adapters and gates\n"
   "\n"
   "  Val has min(shots, 4) pictures of each class, as in published few-shot lists.\n"
   "  The candidates lie in OUT/METHOD/seedN/NAME=VALUE,..., the best in\n"
   "  OUT/METHOD/seedN; results.json tells what was chosen.\n"},

  {"FVG-PT", NULL,
   "FVG-PT in tune: --trainer FVGPT_METHOD\n"
   "\n"
   "  --ablate           rows without some of its modules (FRG, FDC, PC), with\n"
   "                     stable distillation, without any, with inverted masks\n"
   "  --distill published|stable   stable: the adapters follow the view that scores\n"
   "                     the label better, so that bad masks do no harm\n"
   "  --lambda-base X    weight of distillation for base classes; 10, stable 0.1\n"
   "  --lambda-new X     weight of prior calibration's loss; default 1\n"
   "  --guard            where stage two ends with a greater cross-entropy on the\n"
   "                     training pictures than its backbone, base classes keep the\n"
   "                     backbone's scores\n"
   "  --calibration published|crossfit|guarded   how the gate for new classes is\n"
   "                     found: on the classes tuned on; on halves of them that the\n"
   "                     prompts have not seen; so only where plain CLIP is better\n"
   "  --entropy raw|normalised   what both gates see\n"
   "\n"
   "  Masks are given or made: --masks in fvgpt help tune.  For those that tune\n"
   "  makes, --background, --background-template and --quick of fvgpt help masks\n"},

  {"DPC", NULL,
   "DPC in tune: --trainer DPC_METHOD\n"
   "\n"
   "  Tunes a second prompt, from the first, against the classes that each picture\n"
   "  is taken for, and mixes both.  METHOD is CoOp, KgCoOp, ProGrad or PromptSRC.\n"
   "\n"
   "  --dpc-weight X            of the second prompt for base classes; default 0.5\n"
   "  --dpc-weight-for-new X    for new classes; default 0\n"
   "  --dpc-top-k K             best classes that a picture looks at; default 8\n"
   "\n"
   "  OUT/DPC_METHOD/seedN has the learner for base classes, and new in it the one\n"
   "  for new classes, which eval, classify and attend use for names that are not\n"
   "  all among those tuned on.\n"},

  {"baselines", NULL,
   "What stands beside prompts in tune: --trainer NAME,...\n"
   "\n"
   "  LinearProbe         logistic regression on pictures' features\n"
   "  LP++                a linear probe, and texts weighed class by class\n"
   "  CLIP-Adapter        a small network behind the features of pictures\n"
   "  Tip-Adapter         distances from the training pictures, without training\n"
   "  Tip-Adapter-F       the same, with what they are compared with trained\n"
   "  GDA                 a Gaussian for each class, beside the texts\n"
   "  zero_shot_ensemble  plain CLIP with seven templates and the set's own\n"
   "  baselines           all of them\n"
   "\n"
   "  All learn from features of the frozen CLIP, of ten crops of each picture\n"
   "  (--augment crop:K: of K; none: of the test view).  Settings are chosen on val,\n"
   "  never on test; without val pictures they are the published ones.  Only GDA and\n"
   "  zero_shot_ensemble have a rule for new classes; the others have a dash there,\n"
   "  so --few-shot suits them.  classify, eval and attend take their checkpoints,\n"
   "  for the classes they were fitted on.\n"
   "\n"
   "    fvgpt tune --model DIR --data ROOT --few-shot --trainer CoOp,baselines ...\n"},

  {"machines", NULL,
   "Many machines: tune, paper, masks and encode with --shard\n"
   "\n"
   "  --shard K/N        this process is the K-th of N that work into one --out, on\n"
   "                     one machine or on several with a shared folder\n"
   "  --shard auto       K and N from Slurm, Open MPI or another MPI\n"
   "  --claim-expires S  after so many seconds without a sign of life of another\n"
   "                     machine's process, its work is taken over; default 600\n"
   "\n"
   "  Each begins with its own share and then helps the others.  One that was killed\n"
   "  may be started again, at any time.  The last to finish writes the tables;\n"
   "  fvgpt table OUT does so too, and tells what is missing.\n"
   "  Those of paper, if no shard has written them, come from its command without\n"
   "  --shard.\n"
   "\n"
   "    mpirun -n 3 fvgpt tune ... --shard auto\n"
   "    sbatch --array=1-3 --wrap 'fvgpt tune ... --shard auto'\n"
   "    parallel fvgpt tune ... --shard {}/3 ::: 1 2 3\n"},

  {"data", NULL,
   "Data sets\n"
   "\n"
   "  --data ROOT        a folder with a folder of pictures for each class, or with\n"
   "                     the files of a published set and its split file.  Masks lie\n"
   "                     in ROOT/mask under the pictures' names\n"
   "  --dataset-root DATA --dataset NAME,...   published sets in the folders that\n"
   "                     CoOp gives them, instead of --data\n"
   "  --split F          the split file, if it is not the usual one\n"
   "  --val PERCENT      of each class is kept for val where folders are cut into\n"
   "                     train, val and test; default 20, and with 0 train gets it\n"
   "  --skip-bad         goes on without pictures that cannot be read.  All are\n"
   "                     decoded before the start\n"
   "  --masks grey|inverted|labels|trimap|alpha   what in a mask is foreground, if\n"
   "                     its values do not say so (auto)\n"
   "  --exif-rotate      turns pictures upright (fvgpt help pictures)\n"},

  {"pictures", NULL,
   "Pictures for classify, encode and attend\n"
   "\n"
   "  Arguments are files, and folders, which stand for all pictures in them.\n"
   "  Behind -- all arguments are files, whatever they begin with.\n"
   "\n"
   "  --files-from F   takes their paths, files or folders, from a list, one a line;\n"
   "                   F is - for standard input.  If zero bytes are in the list,\n"
   "                   they separate the paths instead.  With all sub-folders:\n"
   "                   find ROOT -name '*.jpg' -print0 | fvgpt classify ... -\n"
   "  -                among the arguments means --files-from -\n"
   "\n"
   "  A picture that cannot be read is named; the others are still done, and the\n"
   "  exit status is then 1.\n"
   "\n"
   "  PNM is read; also PNG, JPEG, BMP and GIF (its first picture) if the program\n"
   "  was built with stb_image.\n"
   "\n"
   "  --exif-rotate    turns pictures upright as their EXIF data say.  Without it\n"
   "                   they are taken as stored, as CLIP's own preprocessing does\n"},

  {"output", NULL,
   "Output of classify, eval and tune for programs\n"
   "\n"
   "  classify --json    a list with an object for each picture, in their order:\n"
   "    {\"file\": F, \"classes\": [{\"name\": N, \"probability\": P}, ...], \"b\": B}\n"
   "    {\"file\": F, \"error\": MESSAGE}       a picture that could not be read\n"
   "  classify --csv     file,rank,class,probability,b,error\n"
   "                     a line for each class; of a bad picture file and error\n"
   "\n"
   "  Classes begin with the most probable, --top of them.  P is from 0 to 1, b is\n"
   "  FVG-PT's weight of plain CLIP; without it null in JSON and empty in CSV.\n"
   "\n"
   "  eval --json        {\"half\": H, \"classes\": N, \"images\": N, \"correct\": N,\n"
   "                      \"accuracy\": A, \"error\": E, \"macro_f1\": F}   A, E, F in %\n"
   "  eval --csv         a line with these names and one with the values\n"
   "  OUT/results.csv    data,shots,method,seed,fold,test,accuracy\n"
   "                     of tune: a line for each accuracy in %, no means.  fold is\n"
   "                     empty but with --all, shots 0 where all pictures are taken,\n"
   "                     else at most so many of a class\n"
   "\n"
   "  Numbers have as many digits as it takes to read the same bits back.  CSV is\n"
   "  that of RFC 4180 with LF behind lines.  Bytes of names that are not UTF-8\n"
   "  become U+FFFD in JSON and stay in CSV.  JSON without its last ] was cut off.\n"},

  {"checkpoints", NULL,
   "Checkpoints of the published PyTorch trainers\n"
   "\n"
   "  --trainer NAME --checkpoint model.pth.tar-20\n"
   "\n"
   "  reads one in classify, eval and attend; nothing in it is executed.  The file\n"
   "  does not say how it was trained, nor for which classes, so that must be told:\n"
   "  by --classes (eval has the data set's), and as for tune by\n"
   "\n"
   "  --preset fork|original\n"
   "  --few-shot, --transfer-to ROOT, --shots N\n"
   "  --n-ctx N, --ctx-init WORDS, --class-token-position end|middle|front\n"
   "  --set NAME=VALUE, --template STR\n"
   "\n"
   "  They are explained in fvgpt help settings and fvgpt help tune.\n"},

  {"options", NULL,
   "Options of all commands\n"
   "\n"
   "  --model DIR      the model (fvgpt help info)\n"
   "  --merges FILE    the tokenizer's merges, if they are not in its folder\n"
   "  --threads N      default: $FVGPT_THREADS, else the processors it may use\n"
   "  --simd LEVEL     scalar, sse2, avx2, avx512, neon or wasm; default: the best\n"
   "  --weights f32|bf16|q8   how matrices are kept: f32 is the default; bf16 takes\n"
   "                   half the memory, q8, integers of eight bits, a quarter and\n"
   "                   half the time or less; features differ by some hundredths.\n"
   "                   Gradients, and what is trained, are f32 with each;\n"
   "                   tune, eval and report keep the text tower in f32 with q8\n"
   "  --cache DIR|none features of pictures are kept there, and not computed again\n"
   "                   while nothing has changed (encode, tune, eval, report).\n"
   "                   Default: $FVGPT_CACHE, else fvgpt in ~/.cache; may be deleted\n"
   "  --quiet          neither progress nor notes; warnings and errors stay\n"
   "  --help, -h       the command's page\n"
   "\n"
   "  --NAME=VALUE means the same as --NAME VALUE.  Behind -- all is files.\n"
   "  Results go to standard output; progress, notes and messages to standard error:\n"
   "  one line, renewed all the time, or elsewhere than on a terminal a line every\n"
   "  ten percent or half minute.  The exit status is 0; 1 after an error, which is\n"
   "  the last line on standard error; 130 after Ctrl-C, and 143 after SIGTERM.\n"},

  {"help", NULL,
   "fvgpt help         lists all commands, topics and methods\n"
   "fvgpt help NAME    prints the page of one of them\n"
   "fvgpt --version    prints which version this is\n"},
};
enum { N_PAGES = sizeof pages / sizeof *pages };

/* Written from what the library knows, as are those of methods. */
static const char set_name[] = "set";

/* ---- printing ---- */
/* A line of a page that lists the methods' names. */
static const char methods_line[] = "  @methods";

static void print_text(const char *text) {
  const char *at = strstr(text, methods_line);
  if (!at) {
    fputs(text, stdout);
    return;
  }
  fwrite(text, 1, (size_t)(at - text), stdout);
  print_method_names(21);
  fputs(at + sizeof methods_line - 1, stdout);
}

void print_overview(void) {
  printf("fvgpt COMMAND [--OPTION VALUE]... [FILE]...\n\n");
  for (int i = 0; i < N_PAGES; i++) {
    if (pages[i].summary) printf("  %-12s %s\n", pages[i].name, pages[i].summary);
  }
  printf("\n  help NAME    one screen about one of these, or about\n               ");
  word_lines x = begin_words(15);
  for (int i = 0; i < N_PAGES; i++) {
    if (!pages[i].summary && strcmp(pages[i].name, "help")) print_word(&x, pages[i].name);
  }
  print_word(&x, set_name);
  printf(",\n");
  print_method_names(15);
  printf("  --version    which version this is\n");
}

/* ---- finding ---- */
/* Letter case makes no difference. */
static int is_named(const char *name, const char *word) {
  size_t i = 0;
  while (name[i] && tolower((unsigned char)name[i]) == tolower((unsigned char)word[i])) i++;
  return !name[i] && !word[i];
}

static const char *page_hint(const char *word, int only_commands, char text[HINT_BYTES]) {
  guess g = guess_at(word);
  for (int i = 0; i < N_PAGES; i++) {
    if (!only_commands || pages[i].summary) try_name(&g, pages[i].name, strlen(pages[i].name));
  }
  for (int i = 0; !only_commands && fvg_head_name((fvg_head_kind)i); i++)
    try_name(&g, fvg_head_name((fvg_head_kind)i), strlen(fvg_head_name((fvg_head_kind)i)));
  if (!only_commands) try_methods(&g);
  return hint(&g, text);
}

static const page *find_page(const char *name) {
  for (int i = 0; i < N_PAGES; i++) {
    if (is_named(pages[i].name, name)) return &pages[i];
  }
  return NULL;
}

/* The page of a trainer that tunes no prompts. */
static const page *find_baseline(const char *name) {
  int is_known = is_named("zero_shot_ensemble", name);
  for (int i = 0; fvg_head_name((fvg_head_kind)i); i++)
    is_known |= is_named(fvg_head_name((fvg_head_kind)i), name);
  return is_known ? find_page("baselines") : NULL;
}

/* A trainer's name, FVGPT_ or DPC_ before a method's, means the method. */
static const fvg_method *find_method(const char *name) {
  if (!strncmp(name, "FVGPT_", 6)) name += 6;
  else if (!strncmp(name, "DPC_", 4)) name += 4;
  if (is_named("MMRL++", name)) name = "MMRLpp";
  for (int i = 0; fvg_method_at(i); i++) {
    if (is_named(fvg_method_name(fvg_method_at(i)), name)) return fvg_method_at(i);
  }
  return NULL;
}

int print_page(const char *name) {
  const page *p = find_page(name);
  if (!p) p = find_baseline(name);
  const fvg_method *method = find_method(name);
  char advice[HINT_BYTES];
  if (p) print_text(p->text);
  else if (method) print_method(method);
  else if (is_named(set_name, name)) print_all_sets();
  else {
    print(stderr, "fvgpt: help %s: no such command or topic%s (`fvgpt help` lists them)\n", name,
          page_hint(name, 0, advice));
    return 0;
  }
  return 1;
}

void tell_unknown_command(const char *name) {
  char advice[HINT_BYTES];
  if (*name == '-') {
    print(stderr, "fvgpt: %s: a command comes first, then its options (`fvgpt help` lists them)\n",
          name);
    return;
  }
  print(stderr, "fvgpt: unknown command %s%s (`fvgpt help` lists them)\n", name,
        page_hint(name, 1, advice));
}
