/* The manual; see fvgpt_manual.h. */
#include "fvgpt_manual.h"

#include <stdio.h>
#include <string.h>

#include "fvgpt_print.h"

/* The text is in parts, because C99 does not promise strings of more than 4095 letters.  A
   line that does not begin with a blank starts what is said about one command, or about all. */
static const char *const manual[] = {
  "fvgpt info       --model DIR\n"
  "fvgpt tokenize   --model DIR\n"
  "                 reads lines of text from stdin and prints the token ids of each\n"
  "fvgpt preprocess --size N|--model DIR [--crop TOP,LEFT,HEIGHT,WIDTH [--flip]] [--nearest]\n"
  "                 IN OUT\n"
  "                 FILE below may also be a folder, which stands for all its pictures.  A bad\n"
  "                 file is named, and the others are still done\n"
  "fvgpt encode     --model DIR [--pixels F.safetensors] [--image FILE...] [--text STR]...\n"
  "                 --out F.safetensors\n"
  "                 --pixels reads a tensor images [N,3,H,W].  The output holds image_features\n"
  "                 and text_features, not normalised; its metadata image_files and texts list\n"
  "                 what each row was made from, as JSON\n"
  "fvgpt classify   --model DIR [--checkpoint DIR] --classes A,B,C [--template STR] [--top 5]\n"
  "                 FILE...\n"
  "                 a comma inside a name is written \\,.  With a checkpoint --classes may be\n"
  "                 left out: the names that it was tuned on are then used\n"
  "fvgpt attend     --model DIR [--checkpoint DIR] --text STR --out DIR FILE...\n"
  "                 [--map relevance|gradcam|attention|all]\n"
  "                 writes a map for each picture.  DIR/NAME_relevance.png, the default, and\n"
  "                 DIR/NAME_gradcam.png show what speaks for the text (with a checkpoint: for\n"
  "                 that class); on photographs, relevance is the truer one.\n"
  "                 NAME_attention.png shows what the class token attends to.  Prints a line for\n"
  "                 each map: the picture's file, its score, the map\n"
  "                 [--data ROOT] the pictures lie in this data set.  Where it has a mask, the\n"
  "                 line tells what share of the map is inside, in %, whether its hottest point\n"
  "                 is, and the intersection over union of the mask and the map's hot part, in %\n"
  "                 [--against background|classes] what the class is compared with in a\n"
  "                 relevance map: words for backgrounds, or the other classes, which is better\n"
  "                 where pictures show several things.  [--background WORD]... sets the words\n"
  "fvgpt masks      --model DIR --data ROOT [--out ROOT/mask] [--text STR] [--any-class]\n"
  "                 makes a mask for each picture, by CLIP alone: of what belongs to the picture's\n"
  "                 class, or to STR.  For test pictures, and with --any-class for all, any class\n"
  "                 counts.  Masks that are there stay, so a run that was stopped goes on.  OUT\n"
  "                 also gets masks.csv, and masks.html to look through: the --sheet 200 most\n"
  "                 doubtful masks\n"
  "                 [--background WORD]... [--background-template STR] words for what is not the\n"
  "                 thing; the default suits photographs\n"
  "                 [--quick] in one pass of the image tower, and coarser\n"
  "                 [--shard K/N] makes every N-th mask; in the end one run without --shard\n"
  "                 writes masks.csv and masks.html\n",

  "fvgpt tune       --model DIR --data ROOT [--data ROOT2]... --trainer NAME,... --out DIR\n"
  "                 NAME: CoOp KgCoOp ProGrad CoCoOp PromptSRC MaPLe DAPT MMRL, or FVGPT_ or\n"
  "                 DPC_ before one; DAPT_G is DAPT on masks that it makes anew after every epoch\n"
  "                 [--split F] [--shots 16] [--seeds 1,2,3]\n"
  "                 [--augment crop|none|squash|crop:K]\n"
  "                 [--preset fork|original] published settings of each method, for the protocol\n"
  "                 and the data set: those of FVG-PT's fork (the default, because the paper's\n"
  "                 tables come from it) or of the method's own code.  Where a source says\n"
  "                 nothing, the fork's settings for base to new are used.  FVG-PT and DPC have\n"
  "                 one preset of their own\n"
  "                 [--epochs N] [--lr X] [--batch N] [--set NAME=VALUE]... take precedence over\n"
  "                 the preset's settings\n"
  "                 [--n-ctx 4] [--ctx-init WORDS] [--class-token-position end|middle|front]\n"
  "                 From WORDS, CoOp, KgCoOp and CoCoOp learn a vector for each word; MaPLe, DAPT\n"
  "                 and PromptSRC learn the first n-ctx tokens; ProGrad learns n-ctx vectors, of\n"
  "                 which the words are the last.  Tokens that are left over stay fixed words\n",

  "                 [--lambda-base 10] [--lambda-new 1] [--template \"a photo of a {}.\"]\n"
  "                 [--masks given|own|none] takes the masks in the data set, or has CLIP make\n"
  "                 them (in OUT/masks, with masks' options), or goes without.  The default is\n"
  "                 given, and own for a data set without any\n"
  "                 [--fill-black] [--calibration published|crossfit|guarded]\n"
  "                 [--entropy raw|normalised] [--ablate]\n"
  "                 [--distill published|stable] stable: FVG-PT's adapters follow the view that\n"
  "                 scores the label better, with a weight of 0.1 instead of --lambda-base 10, so\n"
  "                 that bad masks do not harm base classes\n"
  "                 [--guard] where stage two ends with a greater cross-entropy on the training\n"
  "                 pictures than its backbone, which is told in any case, base classes keep the\n"
  "                 backbone's scores\n"
  "                 [--dpc-weight 0.5] [--dpc-weight-for-new 0] [--dpc-top-k 8]\n"
  "                 [--dataset-root DATA --dataset NAME,...] instead of --data: published data\n"
  "                 sets in the folders that CoOp gives them\n"
  "                 [--few-shot] trains and tests on all classes, once for every number of\n"
  "                 --shots 1,2,4,8,16\n"
  "                 [--transfer-to ROOT,...] trains on all classes, and tests on those of other\n"
  "                 data sets too\n"
  "                 --ablate adds rows for FVG-PT without some of its modules (FRG, FDC, PC),\n"
  "                 with stable distillation, without any, and with inverted masks.  A\n"
  "                 list that was cut off goes on where it stopped when the same command is\n"
  "                 given again\n"
  "                 [--shard K/N|auto] one of N processes, on as many machines, which share OUT\n"
  "                 and do the run together; K counts from 1.  auto takes K and N from Slurm (a\n"
  "                 job array, srun), mpirun or PMI.  [--claim-expires 600] seconds after which a\n"
  "                 shard that gives no sign of life is taken for dead\n",

  "fvgpt table      RUNS\n"
  "                 prints the tables of a tune, RUNS being its --out, and writes its\n"
  "                 results.json; no model is needed.  If something is missing it says what, and\n"
  "                 which shard is at work on it\n",

  "fvgpt eval       --model DIR --data ROOT --checkpoint DIR --split-half base|new|all\n"
  "                 [--split F] [--template STR]\n"
  "                 with --trainer NAME, --checkpoint is a published trainer's file\n"
  "                 (model.pth.tar-N), and --set, --preset, --few-shot, --n-ctx, --ctx-init and\n"
  "                 --class-token-position say how it was trained\n"
  "fvgpt report     --model DIR --data ROOT --runs RUNS [--data ROOT2 --runs RUNS2]... --out DIR\n"
  "                 [--pictures 6] [--measured 200] [--split F] [--template STR]\n"
  "                 [--against background|classes] [--background WORD]... as for attend\n"
  "                 [--dataset-root DATA --dataset NAME,...] instead of --data\n"
  "                 RUNS is the --out of a finished tune on ROOT, or, of a list, its folder for\n"
  "                 that data set and number of shots.  Writes DIR/index.html and\n"
  "                 DIR/results.json, which has every number on it: accuracies of all methods,\n"
  "                 of each class, confusions, the worst mistakes, maps and how much of them\n"
  "                 lies on the object (where there are masks), FVG-PT's gates, settings.\n"
  "                 --pictures of base classes are shown, and --measured pictures of each group\n"
  "                 of classes are measured at most, which takes most of the time\n"
  "data sets        --skip-bad goes on without pictures that cannot be read (all are decoded\n"
  "                 before the start)\n"
  "                 --val PERCENT of each class is kept for val where class folders are cut into\n"
  "                 train, val and test; the default is 20, and with 0 train gets them\n"
  "                 --masks grey|inverted|labels|trimap|alpha says what in a mask is foreground,\n"
  "                 if its values do not\n"
  "pictures         PNM; also PNG, JPEG, BMP and GIF (its first picture) if the program was built\n"
  "                 with stb_image\n"
  "                 --exif-rotate turns pictures upright as their EXIF data say; without it they\n"
  "                 are taken as stored, as CLIP's own preprocessing does\n"
  "fvgpt help       [COMMAND]\n"
  "                 prints this text, or its part on one command\n"
  "fvgpt --version  prints which version this is\n"
  "common           --threads N (default: all cores)   --simd scalar|sse2|avx2|avx512\n"
  "                 --merges FILE\n"
  "                 --NAME=VALUE means the same as --NAME VALUE; after -- all arguments are\n"
  "                 files.  The exit status is 0; 1 after an error, which is one line on stderr;\n"
  "                 130 after Ctrl-C, and 143 after SIGTERM\n",
};
enum { MANUAL_PARTS = sizeof manual / sizeof *manual };

void print_whole_manual(void) {
  for (int part = 0; part < MANUAL_PARTS; part++) fputs(manual[part], stdout);
}

static int begins(const char *line, const char *word) {
  return !strncmp(line, word, strlen(word));
}

/* Does a line start what is said about this command? */
static int is_about(const char *line, const char *command) {
  const char *name = line + strlen("fvgpt ");
  return begins(line, "fvgpt ") && begins(name, command) && name[strlen(command)] == ' ';
}

static int is_about_all(const char *line) {
  return begins(line, "common") || begins(line, "data sets") || begins(line, "pictures");
}

int print_manual(const char *command) {
  int is_ours = 0;
  int found = 0;
  for (int part = 0; part < MANUAL_PARTS; part++) {
    const char *line = manual[part];
    while (*line) {
      const char *next = strchr(line, '\n') + 1;
      if (*line != ' ') {
        is_ours = is_about(line, command);
        found |= is_ours;
        if (found && is_about_all(line)) is_ours = 1;
      }
      if (is_ours) print(stdout, "%.*s", (int)(next - line), line);
      line = next;
    }
  }
  return found;
}

/* ---- guesses ---- */
enum { WORD = 40 };

static int least(int a, int b) { return a < b ? a : b; }

/* Letters to put in, leave out, change, or swap with the next, to make a word of n letters another
   of m (restricted Damerau-Levenshtein distance).  Words are cut at WORD letters. */
static int distance(const char *a, int n, const char *b, int m) {
  int d[WORD + 1][WORD + 1];
  n = least(n, WORD);
  m = least(m, WORD);
  for (int i = 0; i <= n; i++) d[i][0] = i;
  for (int j = 0; j <= m; j++) d[0][j] = j;

  for (int i = 1; i <= n; i++) {
    for (int j = 1; j <= m; j++) {
      int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
      best = least(best, d[i - 1][j] + 1);
      best = least(best, d[i][j - 1] + 1);
      const int swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) best = least(best, d[i - 2][j - 2] + 1);
      d[i][j] = best;
    }
  }
  return d[n][m];
}

/* How far the word is from the nearest name in the manual, no farther than `most`, and that name;
   names are what follows "fvgpt ", or, for a word that begins as an option, the options. */
static int nearest(const char *word, int most, const char **name, int *length) {
  const int is_option = *word == '-';
  const char *start = is_option ? "--" : "fvgpt ";
  const int n = (int)strlen(word);
  int best = most + 1;

  for (int part = 0; part < MANUAL_PARTS; part++) {
    const char *at = strstr(manual[part], start);
    for (; at; at = strstr(at + 1, start)) {
      const char *candidate = is_option ? at : at + strlen(start);
      const int m = (int)strspn(candidate, "-abcdefghijklmnopqrstuvwxyz");
      if (m < 3 || m > WORD) continue;
      const int far = distance(word, n, candidate, m);
      if (far >= best) continue;
      best = far;
      *name = candidate;
      *length = m;
    }
  }
  return best;
}

const char *hint(const char *word, char text[HINT_BYTES]) {
  const int most = strlen(word) < 4 ? 1 : 2;
  const char *name = "";
  int length = 0;
  text[0] = 0;
  if (nearest(word, most, &name, &length) <= most)
    snprintf(text, HINT_BYTES, "; did you mean %.*s?", length, name);
  return text;
}

int is_known_option(const char *word) {
  const char *name;
  int length;
  return begins(word, "--") && strlen(word) <= WORD && nearest(word, 0, &name, &length) == 0;
}
