/* Tokenizer: a small merge list of our own for every rule, hostile texts and files, the published vocabulary. */
#define FVGPT_IMPLEMENTATION
#include "../fvgpt_clip.h"
#include <time.h>

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

/* The bytes of c-cedilla, sigma and final sigma appear as the characters that stand for them. */
static const char list[] =
  "#version: 0.2\nc a\nca t</w>\nt h\na a\naa aa\nb c\na b\n"
  "\xC3\x83 \xC2\xA7\n\xC3\x8F \xC4\xA5</w>\n\xC3\x8F \xC4\xA4</w>\n' s</w>\n";
enum { CA = 512, CAT, TH, AA, AAAA, BC, AB, CEDILLA, SIGMA, FINAL, APOSTROPHE_S, START, END, VOCAB };

static fvg_status open_bytes(fvg_ctx *c, fvg_tokenizer **k, const void *bytes, size_t n, int vocab_size) {
  fvg_source s = fvg_source_memory(bytes, n, "list.txt");
  return fvg_tokenizer_open(c, k, &s, vocab_size);
}

static fvg_status open_text(fvg_ctx *c, fvg_tokenizer **k, const char *text, int vocab_size) {
  return open_bytes(c, k, text, strlen(text), vocab_size);
}

/* The ids of a text, ASCII byte symbols as their characters with '_' for </w>, others as numbers. */
static const char *spell(const fvg_tokenizer *k, const char *text) {
  static char out[2048];
  int ids[128], n, i, at = 0;
  if (fvg_tokenize(k, ids, 128, &n, text) || n > 128) return "failed";
  for (i = 0, out[0] = 0; i < n; i++)
    if (ids[i] < 94) at += sprintf(out + at, "%c ", ids[i] + 33);
    else if (ids[i] >= 256 && ids[i] < 350) at += sprintf(out + at, "%c_ ", ids[i] - 256 + 33);
    else at += sprintf(out + at, "%d ", ids[i]);
  if (at) out[at - 1] = 0;
  return out;
}

static void expect(const fvg_tokenizer *k, const char *text, const char *wanted) {
  const char *got = spell(k, text);
  if (strcmp(got, wanted)) printf("  \"%s\": wanted \"%s\", got \"%s\"\n", text, wanted, got);
  check(!strcmp(got, wanted), text);
}

static void same(const fvg_tokenizer *k, const char *text, const char *plain) {
  char wanted[2048];
  strcpy(wanted, spell(k, plain));
  expect(k, text, wanted);
}

static void test_merging(const fvg_tokenizer *k) {
  check(fvg_tokenizer_vocab_size(k) == VOCAB, "vocabulary: 512 byte symbols, merges, start and end");
  expect(k, "cat", "513");
  expect(k, "cats", "512 t s_");
  expect(k, "thcat", "514 513");
  expect(k, "aab", "515 b_");
  expect(k, "aaab", "515 a b_");                                            /* the leftmost of equals first        */
  expect(k, "aaaaaaz", "516 515 z_");
  expect(k, "abcz", "a 517 z_");                                            /* "b c" is the earlier line           */
  expect(k, "\xC3\xA7z", "519 z_");
  expect(k, "\xC2\xAD", "126 511");                                         /* byte 173 is the last of the others  */
  expect(k, "a", "a_");
  expect(k, "", "");
  expect(k, " \t\n\xC2\xA0\xE3\x80\x80 ", "");
}

static void test_cleaning(const fvg_tokenizer *k) {
  same(k, "  CAT \r\n\x1C\xE2\x80\x83 Th\t", "cat th");
  same(k, "a&lt;b&gt;c&quot;d&amp;e&apos;f&nbsp;g", "a<b>c\"d&e'f g");
  expect(k, "x&amp;lt;y &amp;amp;amp;", "x_ <_ y_ &_");                      /* unescaped until nothing changes      */
  expect(k, "x<y &amp;amp;amp;", "x_ <_ y_ &_ a m p_ ;_");                   /* a text with tags only twice          */
  same(k, "&#65;&#x42;&#X43;&#68 &ampe &#39s", "abcd &e 's");
  same(k, "&#128; &#0; &#xD800; &#4294967361;", "\xE2\x82\xAC \xEF\xBF\xBD \xEF\xBF\xBD \xEF\xBF\xBD");
  same(k, "a&#1;b&#127;c&#xFFFE;d", "abcd");
  expect(k, "&;&#;&#x;", "& ; & # ; & #_ x_ ;_");
  same(k, "&ltimes; &ltimed;", "\xE2\x8B\x89 <imed;");                       /* a longer name goes first             */
  expect(k, "&apos", "&_ a p o s_");
}

/* Every pair is a text as it may come and the same in NFC, which must give the same tokens. */
static void test_composing(const fvg_tokenizer *k) {
  static const char *const pair[][2] = {
    {"Cafe\xCC\x81 cre\xCC\x80me", "caf\xC3\xA9 cr\xC3\xA8me"},             /* folder names from macOS            */
    {"\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB\xE1\x84\x80\xE1\x85\xB3\xE1\x86\xAF",
     "\xED\x95\x9C\xEA\xB8\x80"},                                            /* Hangul, three letters a syllable   */
    {"\xEA\xB0\x80\xE1\x86\xA8", "\xEA\xB0\x81"},                           /* a syllable and one more letter     */
    {"\xEA\xB0\x81\xE1\x86\xA8", "\xEA\xB0\x81\xE1\x86\xA8"},               /* which takes no second              */
    {"a\xCC\x82\xCC\xA3", "\xE1\xBA\xAD"},                                   /* marks in either order              */
    {"a\xCC\xA3\xCC\x82", "\xE1\xBA\xAD"},
    {"a\xCC\x81\xCC\x82", "\xC3\xA1\xCC\x82"},                               /* of one class: the first is nearer  */
    {"\xC3\xA2\xCC\xA3", "\xE1\xBA\xAD"},                                    /* taken apart first                  */
    {"q\xCC\x87\xCC\xA3", "q\xCC\xA3\xCC\x87"},                              /* nothing to join, but an order      */
    {"\xE2\x84\xAB", "\xC3\xA5"}, {"\xE2\x84\xA6", "\xCF\x89"},             /* signs that are letters             */
    {"\xE0\xA5\x98", "\xE0\xA4\x95\xE0\xA4\xBC"},                            /* excluded from composition          */
    {"\xEF\xAC\xAA", "\xD7\xA9\xD7\x81"},
    {"\xCD\x84x", "\xCC\x88\xCC\x81x"},                                       /* a mark that is two                 */
    {"\xE3\x81\x8B\xE3\x82\x99", "\xE3\x81\x8C"},                            /* ka and its voicing                 */
    {"\xE0\xA7\x87\xE0\xA6\xBE", "\xE0\xA7\x8B"},                            /* two vowel signs of Bengali         */
    {"\xEF\xA4\x80", "\xE8\xB1\x88"}, {"\xF0\xAF\xA0\x80", "\xE4\xB8\xBD"},  /* ideographs of old standards        */
    {"\xF0\x91\x82\x99\xF0\x91\x82\xBA", "\xF0\x91\x82\x9A"},                /* Kaithi, beyond U+FFFF              */
    {"\xCD\xBE", ";"}, {"e \xCC\x81", "e \xCC\x81"}};
  size_t i;
  for (i = 0; i < sizeof pair / sizeof *pair; i++) same(k, pair[i][0], pair[i][1]);
  expect(k, "a\xCC\x85\xCC\x81", "a_ 136 227 136 479");     /* no mark joins over one of its class */
}

/* ftfy's repairs, and what it leaves alone. */
static void test_repair(const fvg_tokenizer *k) {
  static const char *const pair[][2] = {
    {"x\xE2\x80\x99s \xE2\x80\x9Cq\xE2\x80\x9D \xE2\x80\x98\xE2\x80\x9A\xE2\x80\x9E \xCA\xBC", "x's \"q\" ''\" '"},
    {"\xC2\xAB" "a\xC2\xBB", "\xC2\xAB" "a\xC2\xBB"},                         /* these quotes are not curly         */
    {"\xEF\xAC\x81sh \xEF\xAC\x84\xEF\xAC\x86", "fish fflst"},
    {"\xC4\xB2ssel \xC7\x84 \xC5\x89", "ijssel d\xC5\xBE 'n"},
    {"\xC3\x86 \xC5\x93", "\xC3\xA6 \xC5\x93"},                              /* nor are these typesetters'         */
    {"\xEF\xBC\xA3\xEF\xBC\xA1\xEF\xBC\xB4\xE3\x80\x80\xEF\xBC\x91", "cat 1"},
    {"\xEF\xBD\xB6\xEF\xBE\x9E \xEF\xBF\xA5", "\xE3\x82\xAC \xC2\xA5"},      /* half a ga, and its sign            */
    {"\xEF\xBB\xBF" "cat c\xEF\xBB\xBF" "at", "cat cat"},                        /* byte-order marks                   */
    {"a\x01" "b\x0B" "c\x7F" "d\x1F" "e\xE2\x81\xAA", "abcde"},
    {"\x1B[1;31mred\x1B[0m \x1B[x\x1B[3", "red [3"},
    {"a\xC2\x92" "b \xC2\x85", "a'b \xE2\x80\xA6"},                            /* Windows-1252 as control signs      */
    {"a\xE2\x80\xA8" "b\rc", "a b c"},
    {"caf&eacute; &Scaron;koda &hellip; &rsquo;s", "caf\xC3\xA9 \xC5\xA1koda \xE2\x80\xA6 's"},
    {"&amp;amp;eacute; &NTILDE; &#x92;s", "\xC3\xA9 \xC3\xB1 's"},
    {"&am&#112;; &\xEF\xBC\xA1MP; &#xFB01;sh", "& & fish"},                       /* references that others complete    */
    {"e&#x301;", "\xC3\xA9"},
    {"&rsquo;\n<", "'\n<"},
    {"&copy2023 &notin; &eacute &nosuch; &;", "\xC2\xA9" "2023 \xE2\x88\x89 \xC3\xA9 &nosuch; &;"},
    {"\xC3\x83\xC2\xA9", "\xC3\xA3\xC2\xA9"}};                               /* a wrong decoding is not guessed    */
  size_t i;
  for (i = 0; i < sizeof pair / sizeof *pair; i++) same(k, pair[i][0], pair[i][1]);
  expect(k, "\xE2\x80\x99s", "522");
  expect(k, "b\n<a> &rsquo; e&#x301;", "b_ <_ a_ >_ 158 222 503 e_ 136 479");       /* behind a "<" only unescaped      */
}

static void test_lower_case(const fvg_tokenizer *k) {
  same(k, "\xC3\x84\xC3\x96 \xD0\x9F \xE1\xBA\x9E \xF0\x90\x90\x80",
       "\xC3\xA4\xC3\xB6 \xD0\xBF \xC3\x9F \xF0\x90\x90\xA8");
  same(k, "\xC4\xB0", "i\xCC\x87");                                         /* U+0130                              */
  expect(k, "\xCE\xA3", "520");                                             /* alone: not the end of a word        */
  same(k, "A\xCE\xA3", "a\xCF\x82");
  same(k, "A\xCE\xA3" "a", "a\xCF\x83" "a");
  same(k, "A\xCC\x81\xCE\xA3.", "a\xCC\x81\xCF\x82.");                      /* accent and stop are looked through  */
  same(k, "A\xCE\xA3.b", "a\xCF\x83.b");
}

static void test_pieces(const fvg_tokenizer *k) {
  expect(k, "x12y", "x_ 1_ 2_ y_");
  expect(k, "x!?y", "x_ ! ?_ y_");
  expect(k, "x's y's", "x_ 522 y_ 522");
  expect(k, "x'rey've'm'll'd't", "x_ ' r e_ y_ ' v e_ ' m_ ' l l_ ' d_ ' t_");
  expect(k, "x'q !'s", "x_ '_ q_ ! '_ s_");                                 /* inside a run no contraction begins  */
  expect(k, "<|startoftext|>cat<|EndOfText|>", "523 513 524");
  expect(k, "!<|endoftext|>", "! < |_ e n d o f t e x t_ | >_");
  same(k, "\xC2\xB2\xE2\x85\xA7", "\xC2\xB2 \xE2\x85\xA7");                 /* superscript two, Roman eight: N     */
  same(k, "x\xE4\xB8\xAD!\xEF\xBC\xA1", "x\xE4\xB8\xAD ! \xEF\xBD\x81");     /* Han and a fullwidth A are letters   */
}

static void test_capacity(fvg_ctx *c, const fvg_tokenizer *k) {
  int ids[3] = {-1, -1, -1}, n = -1;
  check(!fvg_tokenize(k, ids, 2, &n, "cat x y z") && n == 4, "the full count");
  check(ids[0] == CAT && ids[1] == 256 + 'x' - 33 && ids[2] == -1,
        "a short array gets the first ids");
  check(!fvg_tokenize(k, NULL, 0, &n, "cat x y z") && n == 4, "counting alone");
  check(fvg_tokenize(k, ids, 3, &n, NULL) == FVG_E_ARG && n == 0 && strstr(fvg_error(c), "fvg_tokenize"), "no text");
  check(fvg_tokenize(k, ids, 3, NULL, "cat") == FVG_E_ARG && strstr(fvg_error(c), "fvg_tokenize"), "no count");
  check(fvg_tokenize(NULL, ids, 3, &n, "cat") == FVG_E_ARG && n == 0, "no tokenizer");
  check(fvg_tokenize(k, NULL, 3, &n, "cat") == FVG_E_ARG && strstr(fvg_error(c), "fvg_tokenize"), "no array");
}

static void test_text_errors(fvg_ctx *c, const fvg_tokenizer *k) {
  static const char *const bad[] = {"ab\x80", "ab\xC3", "ab\xC0\xAF", "ab\xE0\x80\xAF", "ab\xED\xA0\x80",
                                    "ab\xF4\x90\x80\x80", "ab\xF8\x88\x80\x80\x80", "ab\xFF", "ab\xE4\xB8",
                                    "ab\xF0\x90\x90"};
  size_t used = fvg_mem_used(c);
  int i, n = 7, ok = 1;
  for (i = 0; i < 10; i++) {
    char wanted[64];
    sprintf(wanted, "byte 0x%02X at offset 2", (unsigned)(unsigned char)bad[i][2]);
    ok = ok && fvg_tokenize(k, NULL, 0, &n, bad[i]) == FVG_E_FORMAT && n == 0 && strstr(fvg_error(c), wanted) != NULL;
  }
  check(ok, "bytes that are not UTF-8 are named with their offset");
  check(fvg_mem_used(c) == used, "a refused text leaves no memory");
}

static void refuse(fvg_ctx *c, const char *text, int vocab_size, fvg_status status, const char *message) {
  fvg_tokenizer *k = (fvg_tokenizer *)(void *)c;
  size_t used = fvg_mem_used(c);
  fvg_status got = open_text(c, &k, text, vocab_size);
  int ok = got == status && !k && strstr(fvg_error(c), message) && !strncmp(fvg_error(c), "list.txt: ", 10);
  if (!ok) printf("  wanted \"%s\", got %s: \"%s\"\n", message, fvg_status_name(got), fvg_error(c));
  check(ok && fvg_mem_used(c) == used, message);
}

static void test_files(fvg_ctx *c) {
  fvg_tokenizer *k;
  refuse(c, "", 0, FVG_E_FORMAT, "holds 0 merges");
  refuse(c, "#version\n\n \n", 0, FVG_E_FORMAT, "holds 0 merges");
  refuse(c, list, 49408, FVG_E_FORMAT, "holds 11 merges, the model's vocabulary of 49408 tokens needs 48894");
  refuse(c, list, 2147483647, FVG_E_FORMAT, "needs 2147483133");
  refuse(c, list, 513, FVG_E_ARG, "513 tokens");
  refuse(c, list, -1, FVG_E_ARG, "-1 tokens");
  refuse(c, "\x1F\x8B\x08\n", 0, FVG_E_FORMAT, "gunzip");
  refuse(c, "#\nc a\nca\nt h\n", 0, FVG_E_FORMAT, "line 3: \"ca\" is not a merge");
  refuse(c, "#\nc a\nc a t\n", 0, FVG_E_FORMAT, "line 3: \"c a t\" is not a merge");
  refuse(c, "#\nc a\n\nt h\n", 0, FVG_E_FORMAT, "line 3: \"\" is not a merge");
  refuse(c, "#\nc a\nca th\nt h\n", 0, FVG_E_FORMAT, "line 3: \"th\" is no symbol yet");
  refuse(c, "#\n\xE4\xB8\xAD a\n", 0, FVG_E_FORMAT, "line 2: \"\xE4\xB8\xAD\" is no symbol yet");
  refuse(c, "#\na b\nb c\nab c\na bc\n", 0, FVG_E_FORMAT, "line 5: \"abc\" is token 514 already");
  check(!open_text(c, &k, "#\r\nc a\r\nca t</w>\r\n", 0) && fvg_tokenizer_vocab_size(k) == 516, "CRLF line ends");
  expect(k, "cat", "513");
  fvg_tokenizer_free(k);
  check(!open_text(c, &k, "#\nc a\nca t</w>\nt h\nnot used\nby this model", 516), "further lines are not read");
  expect(k, "cat th", "513 t h_");
  fvg_tokenizer_free(k);
  check(!open_text(c, &k, "#\nc a\na b\nd e\nb de\n", 0), "a list where a pair loses its first symbol");
  expect(k, "cabdex", "512 515 x_");
  fvg_tokenizer_free(k);
  fvg_tokenizer_free(NULL);
}

/* Files and models of many sizes: how many merges count, and so which ids the marks have. */
static void test_marks(fvg_ctx *c) {
  enum { CLIP = 48894 };
  fvg_tokenizer *k;
  fvg_source s = fvg_source_memory(list, sizeof list - 1, "list.txt");
  check(fvg__merges_used(CLIP, CLIP + 514, 0) == CLIP && fvg__merges_used(262144, CLIP + 514, 0) == CLIP,
        "the published vocabulary, from either file");
  check(fvg__merges_used(CLIP, CLIP + 517, 0) == CLIP && fvg__merges_used(262144, CLIP + 517, 0) == CLIP,
        "three tokens added to it, whatever the file");
  check(fvg__merges_used(CLIP + 3, CLIP + 517, 0) == CLIP + 3, "a vocabulary that has three merges more");
  check(fvg__merges_used(CLIP - 1, CLIP + 517, 0) == CLIP + 3, "a file that has too few is short of merges");
  check(fvg__merges_used(300, 514 + 300, 0) == 300 && fvg__merges_used(400, 514 + 300, 0) == 300,
        "a small vocabulary");
  check(fvg__merges_used(300, 514 + 307, 512 + 301) == 300, "seven tokens added to that, as the configuration says");
  check(fvg__merges_used(900, 514 + 307, 512 + 301) == 300, "also with a longer file");
  check(fvg__merges_used(307, 514 + 307, 512 + 301) == 307, "a file that fits the rows is right against it");
  check(fvg__merges_used(200, 514 + 307, 512 + 301) == 307, "a file too short for either");
  check(fvg__merges_used(300, 0, 0) == 300, "no model");
  check(!fvg__tokenizer_open(c, &k, &s, VOCAB + 5, VOCAB - 1) && fvg_tokenizer_vocab_size(k) == VOCAB,
        "added rows behind the end mark");
  expect(k, "cat<|endoftext|>", "513 524");
  fvg_tokenizer_free(k);
}

static void test_no_list(fvg_ctx *c) {
  fvg_tokenizer before, *k = &before;
  fvg_source s = fvg_source_memory(list, sizeof list - 1, "list.txt");
  check(fvg_tokenizer_open(c, &k, NULL, 0) == FVG_E_ARG && !k && strstr(fvg_error(c), "fvg_tokenizer_open"), "no list");
  check(fvg_tokenizer_open(c, NULL, &s, 0) == FVG_E_ARG && strstr(fvg_error(c), "fvg_tokenizer_open"),
        "no place for the tokenizer");
}

static void test_names(fvg_ctx *c) {
  static const char *const alike[][2] = {
    {"great_pyrenees", "Great Pyrenees"}, {"blue", "blue "}, {"blue\r", "\tBLUE"}, {"a  b", "a\tb"}, {"_a_", "a"},
    {"cre\xCC\x80me", "Cr\xC3\xA8me"}, {"lion\xE2\x80\x99s", "lion's"}, {"", " _\r"}, {"\xEF\xBB\xBF" "cat", "cat"},
    {"\xC2\xA0x\xE3\x80\x80", "x"}, {"rock &amp; roll", "rock & roll"}, {"\xFF", "\xFF"}, {"\xEF\xAC\x81sh", "fish"}};
  static const char *const unlike[][2] = {
    {"cat", "cats"}, {"a b", "ab"}, {"", "x"}, {"\xFF", "\xFE"}, {"caf\xC3\xA9", "cafe"}, {"\xFF", "\xC3\xBF"}, {"a.", "a"}};
  static const char *const name[] = {"Red ", "sky_blue", "pink", "red"}, *const among[] = {"sky blue", "red", "RED"};
  static const char *const absent[] = {"red", NULL};
  size_t used = fvg_mem_used(c), i;
  int match[4] = {7, 7, 7, 7};
  for (i = 0; i < sizeof alike / sizeof *alike; i++)
    check(fvg_same_name(c, alike[i][0], alike[i][1]) && fvg_same_name(c, alike[i][1], alike[i][0]), alike[i][0]);
  for (i = 0; i < sizeof unlike / sizeof *unlike; i++)
    check(!fvg_same_name(c, unlike[i][0], unlike[i][1]) && !fvg_same_name(c, unlike[i][1], unlike[i][0]), unlike[i][0]);
  check(!fvg_match_names(c, match, name, 4, among, 3) && match[0] == 1 && match[1] == 0 && match[2] == -1 && match[3] == 1,
        "a list among a list: the first that means the same");
  check(!fvg_match_names(c, match, name, 1, among, 0) && match[0] == -1 && !fvg_match_names(c, NULL,
                                                                                            NULL, 0,
                                                                                            among,
                                                                                            3),
        "empty lists");
  check(fvg_match_names(c, match, name, -1, among, 3) == FVG_E_ARG, "no list of -1 names");
  check(!fvg_same_name(c, NULL, "") && !fvg_same_name(c, "red", NULL) && fvg_same_name(c, NULL, NULL),
        "NULL is the name of nothing");
  check(fvg_match_names(c, match, absent, 2, among, 3) == FVG_E_ARG && strstr(fvg_error(c), "name 2 of 2 is NULL"),
        "a list with a name that is NULL");
  check(fvg_match_names(c, match, name, 4, absent, 2) == FVG_E_ARG && strstr(fvg_error(c), "name 2 of 2 is NULL"),
        "and among such a list");
  c->status = FVG_OK;
  check(!fvg_same_name(c, "caf\xE9", "cafe") && fvg_last_status(c) == FVG_OK, "names that are not UTF-8 are no failure");
  check(fvg_mem_used(c) == used, "names leave no memory");
}

static void test_tidy(void) {
  static const char *const pair[][2] = {{"great_pyrenees", "great pyrenees"}, {" St. \r", "St."}, {"", ""}, {" _\t", ""},
    {"\xC2\xA0\xEF\xBB\xBFx y\xE2\x80\x83", "x y"}, {"\xFF ", "\xFF"}};
  char text[64];
  size_t i;
  for (i = 0; i < sizeof pair / sizeof *pair; i++) {
    strcpy(text, pair[i][0]);
    fvg_tidy_name(text);
    check(!strcmp(text, pair[i][1]), pair[i][0]);
  }
}

/* ---- hostile input ---- */
static double tokenize_long(const fvg_tokenizer *k, const char *unit, size_t n_bytes, int *n) {
  size_t length = strlen(unit), count = n_bytes / length, i;
  char *text = (char *)malloc(count * length + 1);
  clock_t start = clock();
  *n = -1;
  if (!text) return 1e9;
  for (i = 0; i < count; i++) memcpy(text + i * length, unit, length);
  text[count * length] = 0;
  if (fvg_tokenize(k, NULL, 0, n, text)) *n = -1;
  free(text);
  return (double)(clock() - start) / CLOCKS_PER_SEC;
}

static void test_long_words(const fvg_tokenizer *k) {
  static const char *const unit[] = {"a", "q", "ab", "!", "&", "&lt", "&#", "'", "\xCE\xA3", "\xCE\xA3'", "\xCC\x81",
                                     " ", "\xF0\xAF\xA0\x80", "<|startoftext|>", "amp;", "&amp;", "&qq;",
                                     "\xCC\x81\xCC\xA3\xCC\x95", "\xE1\x84\x80", "\xEF\xAC\x83", "\x1B[1;1"};
  double worst = 0;
  int i, n, ok = 1;
  for (i = 0; i < (int)(sizeof unit / sizeof *unit); i++) {
    double seconds = tokenize_long(k, unit[i], 1000000, &n);
    if (seconds > worst) worst = seconds;
    ok = ok && n >= 0;
  }
  check(ok && tokenize_long(k, "a", 1000000, &n) < 60 && n == 250002, "a word of a million letters");
  check(worst < 60, "no text of a megabyte is slow");
  printf("slowest megabyte: %.2f s\n", worst);
}

/* Damaged lists must be refused or work; whichever, nothing is read or kept that should not be (run with ASan). */
static void test_damaged_lists(fvg_ctx *c) {
  static const char alphabet[] = "\n\n  \r\tabct</w>'\xC3\x83\xC4\xA4\x80\xFF";
  size_t used = fvg_mem_used(c), n = sizeof list - 1;
  fvg_rng r;
  int round, n_open = 0, count;
  fvg_rng_seed(&r, 1, 0);
  for (round = 0; round < 20000; round++) {
    char bytes[sizeof list], text[40];
    uint32_t changes = fvg_rng_below(&r, 4) + 1, i;
    fvg_tokenizer *k;
    memcpy(bytes, list, sizeof list);
    while (changes--) bytes[fvg_rng_below(&r, (uint32_t)n)] = alphabet[fvg_rng_below(&r, sizeof alphabet)];
    for (i = 0; i < sizeof text; i++) text[i] = alphabet[fvg_rng_below(&r, round % 2 ? 16 : sizeof alphabet)];
    text[sizeof text - 1] = 0;
    if (open_bytes(c, &k, bytes, fvg_rng_below(&r, (uint32_t)n) + 1, 0)) continue;
    n_open++;
    fvg_tokenize(k, NULL, 0, &count, text);
    fvg_tokenizer_free(k);
  }
  check(n_open > 1000 && n_open < 19000 && fvg_mem_used(c) == used, "damaged lists");
}

/* A line doubles the length of its symbol: strings as long as the file, and many of them. */
static void test_doubling_list(fvg_ctx *c) {
  size_t size = 4200000, at = 2, half;
  char *text = (char *)calloc(size, 1);
  fvg_tokenizer *k;
  int n;
  if (!text) return;
  memcpy(text, "#\n", 2);
  for (half = 1; half <= 1048576; half *= 2) {
    memset(text + at, 'a', 2 * half + 1);
    text[at + half] = ' ';
    text[at + 2 * half + 1] = '\n';
    at += 2 * half + 2;
    if (at + 4 * half + 2 > size) break;
  }
  check(!open_bytes(c, &k, text, at, 0), "merges whose strings double");
  check(k && tokenize_long(k, "a", 1000000, &n) < 60 && n >= 8 && n < 20, "are merged up to the greatest");
  fvg_tokenizer_free(k);
  free(text);
}

typedef struct { long left; } failing;
static void *failing_alloc(void *user, size_t n) { return ((failing *)user)->left-- > 0 ? malloc(n) : NULL; }
static void failing_release(void *user, void *block, size_t n) { (void)user; (void)n; free(block); }

static void test_no_memory(void) {
  fvg_desc d;
  failing f;
  fvg_ctx *c;
  long allowed;
  int ok = 1, done = 0;
  static const char *const names[2] = {"Cre\xCC\x80me ", "cr\xC3\xA8me"};
  char word[400];
  memset(word, 'b', sizeof word);                               /* a short piece, then one that outgrows it */
  memcpy(word, "cat ", 4);
  word[sizeof word - 1] = 0;
  memset(&d, 0, sizeof d);
  d.allocator.alloc = failing_alloc;
  d.allocator.release = failing_release;
  d.allocator.user = &f;
  for (allowed = 1; allowed < 100 && !done; allowed++) {
    fvg_tokenizer *k = NULL;
    fvg_status s;
    int n = 0;
    f.left = allowed;
    if (fvg_init(&c, &d)) { ok = 0; break; }
    s = open_text(c, &k, list, 0);
    ok = ok && !s == (k != NULL);
    if (!s) s = fvg_tokenize(k, NULL, 0, &n, word);
    if (!s) s = fvg_match_names(c, &n, &names[0], 1, &names[1], 1);
    ok = ok && (s || n == 0);
    ok = ok && (s == FVG_OK || (s == FVG_E_NOMEM && strstr(fvg_error(c), "out of memory")));
    fvg_tokenizer_free(k);
    ok = ok && fvg_mem_used(c) == 0;
    done = s == FVG_OK;
    fvg_free(c);
  }
  check(ok && done, "every allocation may fail");
}

/* ---- the published vocabulary ---- */
static int golden_line(fvg_ctx *c, const fvg_tokenizer *k, const char *line, size_t n) {
  fvg_json j;
  int ids[512], count, i, id, ok;
  if (fvg_json_parse(c, &j, line, n, "bpe.jsonl")) return 0;
  id = fvg_json_find(&j, 0, "ids");
  i = fvg_json_find(&j, 0, "text");
  ok = id >= 0 && i >= 0 && !fvg_tokenize(k, ids, 512, &count, j.value[i].string) &&
       count <= 512 && count == j.value[id].n_child;
  for (i = 0, id = ok ? j.value[id].first : -1; id >= 0; id = j.value[id].next)
    ok = ok && ids[i++] == (int)j.value[id].number;
  fvg_json_free(c, &j);
  return ok;
}

static fvg_status read_file(fvg_ctx *c, const char *shared, const char *name, uint8_t **bytes, size_t *n) {
  static char path[1024];
  fvg_source s;
  fvg_status status;
  *bytes = NULL;
  sprintf(path, "%.800s/%s", shared, name);
  if ((status = fvg_source_file(c, &s, path)) != FVG_OK) return status;
  status = fvg_source_read_all(c, bytes, n, &s);
  fvg_source_close(&s);
  return status;
}

static void test_golden(fvg_ctx *c, const char *shared, const char *merges, const uint8_t *golden, size_t n) {
  uint8_t *bytes;
  size_t n_bytes, at, end;
  fvg_tokenizer *k = NULL;
  int n_line = 0, n_right = 0;
  clock_t start;
  if (read_file(c, shared, merges, &bytes, &n_bytes)) { printf("skipped: %s\n", fvg_error(c)); return; }
  start = clock();
  check(!open_bytes(c, &k, bytes, n_bytes, 49408) && fvg_tokenizer_vocab_size(k) == 49408, merges);
  printf("%s: opened in %.1f ms\n", merges, 1e3 * (double)(clock() - start) / CLOCKS_PER_SEC);
  for (at = 0; k && at < n; at = end + 1) {
    for (end = at; end < n && golden[end] != '\n'; end++) {}
    if (end == at) continue;
    n_line++;
    n_right += golden_line(c, k, (const char *)golden + at, end - at);
  }
  printf("%s: %d of %d golden lines\n", merges, n_right, n_line);
  check(n_line > 0 && n_right == n_line, "golden ids");
  fvg_tokenizer_free(k);
  check(!open_bytes(c, &k, bytes, n_bytes, 0) && fvg_tokenizer_vocab_size(k) >= 49408, "the whole list");
  fvg_tokenizer_free(k);
  fvg_bytes_free(c, bytes);
}

int main(void) {
  const char *shared = getenv("FVGPT_SHARED") ? getenv("FVGPT_SHARED") : "../shared";
  fvg_ctx *c;
  fvg_tokenizer *k;
  uint8_t *golden;
  size_t n;
  if (fvg_init(&c, NULL)) return 1;
  if (open_text(c, &k, list, 0)) { printf("FAILED %s\n", fvg_error(c)); return 1; }
  test_merging(k);
  test_cleaning(k);
  test_composing(k);
  test_repair(k);
  test_lower_case(k);
  test_pieces(k);
  test_capacity(c, k);
  test_text_errors(c, k);
  test_long_words(k);
  fvg_tokenizer_free(k);
  test_files(c);
  test_marks(c);
  test_no_list(c);
  test_names(c);
  test_tidy();
  test_damaged_lists(c);
  test_doubling_list(c);
  test_no_memory();
  if (read_file(c, shared, "golden/bpe.jsonl", &golden, &n)) {
    printf("skipped: %s\n", fvg_error(c));
  } else {
    test_golden(c, shared, "model/lit-vit-ti16/merges.txt", golden, n);
    test_golden(c, shared, "model/bpe_simple_vocab_16e6.txt", golden, n);
    fvg_bytes_free(c, golden);
  }
  check(fvg_mem_used(c) == 0, "no memory stays");
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
