/* Claims; see fvgpt_claim.h. */
#include "fvgpt_claim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CLAIM_PATH = 1400 };

static void claim_path(const char *folder, int generation, char path[CLAIM_PATH]) {
  snprintf(path, CLAIM_PATH, "%.1300s/claim.%d", folder, generation);
}

/* ---- what is in a folder ---- */
/* Generations that are there: the highest, and whether one of them is there. */
typedef struct scan {
  int highest, wanted, has_wanted;
} scan;

static void scan_name(void *to, const char *name, int is_folder) {
  scan *x = (scan *)to;
  if (is_folder || strncmp(name, "claim.", 6)) return;
  char *end;
  const long generation = strtol(name + 6, &end, 10);
  if (end == name + 6 || *end || generation < 0 || generation > 1000000000L) return;
  if (generation > x->highest) x->highest = (int)generation;
  if (generation == x->wanted) x->has_wanted = 1;
}

/* Looks for generations; a folder that cannot be listed has none. */
static scan scan_claims(const char *folder, int wanted) {
  scan x = {-1, wanted, 0};
#ifdef FVGPT_DIRENT
  (void)fvg_list_folder(NULL, folder, scan_name, &x);
#else
  (void)folder;
  (void)scan_name;
#endif
  return x;
}

/* ---- holders ---- */
/* Reads a claim's line.  One that is not whole, because its maker was killed between making and
   writing it, tells nothing. */
static void read_claim(const char *path, claim_holder *h) {
  char line[400] = "";
  FILE *f = fopen(path, "r");
  if (!f) return;
  if (!fgets(line, sizeof line, f)) line[0] = 0;
  fclose(f);
  char *end = strchr(line, '\n');
  if (!end) return;
  *end = 0;

  claim_holder read = *h;
  int at = 0;
  const int n = sscanf(line, "shard %d/%d process %ld token %16s host %n", &read.shard.number,
                       &read.shard.count, &read.process, read.token, &at);
  if (n != 4 || !at) return;
  snprintf(read.host, sizeof read.host, "%.100s", line + at);
  *h = read;
}

/* A number that no other claim has. */
static void make_token(char token[20]) {
  static unsigned count;
  char host[HOST_BYTES];
  name_host(host);
  uint64_t key[2];
  fvg_hash h = fvg_hash_begin();
  fvg_hash_add(&h, host, strlen(host));
  fvg_hash_end(&h, key);
  fvg_rng rng;
  fvg_rng_seed(&rng, key[0] ^ (uint64_t)time(NULL), (uint64_t)process_number() << 20 ^ count++);
  const unsigned long high = (unsigned long)(fvg_rng_next(&rng) >> 32);
  const unsigned long low = (unsigned long)(fvg_rng_next(&rng) >> 32);
  snprintf(token, 20, "%08lx%08lx", high, low);
}

/* How old a file is by the clock of its file system, which writes the time of a new file beside it;
   where nothing can be written, by ours. */
static double age_of(const char *folder, const char *path) {
  char probe[CLAIM_PATH], token[20];
  double then, here;
  make_token(token);
  snprintf(probe, sizeof probe, "%.1300s/claim.tmp-%.8s", folder, token);
  if (!time_of_file(path, &then)) return 0;
  if (make_new_file(probe, "") != 1 || !time_of_file(probe, &here)) here = (double)time(NULL);
  remove(probe);
  return here - then;
}

/* ---- the claim of this process ---- */
static struct {
  char folder[1300];                 /* "": none                                                 */
  char token[20];
  int generation, is_lost;
  claimant who;
  double interval, last;             /* of renewals                                              */
} held;

static int is_dead(const claim_holder *h, const claimant *who) {
  char here[HOST_BYTES];
  name_host(here);
  if (!h->shard.number) return h->age > 30 || h->age > who->expires;
  const int is_here = !strncmp(here, h->host, 100);
  const int has_our_number = h->process == process_number() && strcmp(h->token, held.token);
  const int runs_here = is_here && !has_our_number && is_process(h->process);
  if (is_here && !runs_here) return 1;

  const int is_same = h->shard.number == who->shard.number && h->shard.count == who->shard.count;
  if (is_same && !runs_here) return 1;
  return h->age > who->expires;
}

void look_at_claim(const char *folder, const claimant *who, claim_holder *h) {
  char path[CLAIM_PATH];
  memset(h, 0, sizeof *h);
  h->generation = scan_claims(folder, -1).highest;
  if (h->generation < 0) return;
  claim_path(folder, h->generation, path);
  read_claim(path, h);
  h->age = age_of(folder, path);
  h->is_dead = is_dead(h, who);
}

void describe_holder(const claim_holder *h, char text[HOLDER_BYTES]) {
  char shard[60] = "somebody";
  const shard_option *k = &h->shard;
  if (h->generation < 0) {
    snprintf(text, HOLDER_BYTES, "%s", shard);
    return;
  }
  if (k->number) snprintf(shard, sizeof shard, "shard %d/%d", k->number, k->count);
  snprintf(text, HOLDER_BYTES, "%s, process %ld on %.*s, last seen %.0f s ago%s", shard, h->process,
           (int)strcspn(h->host, " "), h->host, h->age, h->is_dead ? ", dead" : "");
}

/* ---- taking and giving back ---- */
/* Makes the next generation.  1: it is ours; 0: somebody was quicker; -1: it cannot be made. */
static int make_claim(const char *folder, int generation, const claimant *who) {
  char path[CLAIM_PATH], text[400], host[HOST_BYTES], token[20];
  name_host(host);
  make_token(token);
  snprintf(text, sizeof text, "shard %d/%d process %ld token %s host %.100s\n", who->shard.number,
           who->shard.count, process_number(), token, host);
  claim_path(folder, generation, path);
  const int made = make_new_file(path, text);
  if (made != 1) return made;

  /* Its predecessor must still be there: if it has been given back meanwhile, others begin again
     with claim.0. */
  const scan x = scan_claims(folder, generation - 1);
  if (x.highest != generation || (generation > 0 && !x.has_wanted)) {
    remove(path);
    return 0;
  }
  snprintf(held.folder, sizeof held.folder, "%s", folder);
  snprintf(held.token, sizeof held.token, "%s", token);
  held.generation = generation;
  held.is_lost = 0;
  held.who = *who;
  held.interval = who->expires < 40 ? who->expires / 4 : 10;
  held.last = now();
  return 1;
}

fvg_status take_claim(fvg_ctx *c, const char *folder, const claimant *who, int *is_ours,
                      claim_holder *h) {
#ifndef FVGPT_DIRENT
  return fvg_fail(c, FVG_E_UNSUPPORTED, "--shard: this program was built without FVGPT_DIRENT");
#endif
  *is_ours = 0;
  for (int attempt = 0; attempt < 3; attempt++) {
    look_at_claim(folder, who, h);
    if (h->generation >= 0 && !h->is_dead) return FVG_OK;
    const int made = make_claim(folder, h->generation + 1, who);
    if (made < 0)
      return fvg_fail(c, FVG_E_IO, "%s: cannot make a claim here: %s", folder, strerror(errno));
    *is_ours = made;
    if (made) return FVG_OK;
  }
  return FVG_OK;
}

/* Lowest first, so that the newest stands for the whole until the end. */
static void remove_claims(const char *folder, int highest) {
  for (int i = 0; i <= highest; i++) {
    char path[CLAIM_PATH];
    claim_path(folder, i, path);
    remove(path);
  }
}

/* Is the claim still this process's?  A folder that cannot be read for a moment says nothing. */
static int is_held(void) {
  char path[CLAIM_PATH];
  claim_holder h;
  memset(&h, 0, sizeof h);
  if (scan_claims(held.folder, -1).highest > held.generation) return 0;
  claim_path(held.folder, held.generation, path);
  read_claim(path, &h);
  return !strcmp(h.token, held.token) || (!h.token[0] && !is_absent(path));
}

int claim_is_lost(void) {
  if (!held.folder[0] || held.is_lost) return held.is_lost;
  const double time_now = now();
  if (time_now - held.last < held.interval) return 0;
  char path[CLAIM_PATH];
  claim_path(held.folder, held.generation, path);
  held.last = time_now;
  held.is_lost = !is_held();
  if (!held.is_lost) renew_file(path);
  return held.is_lost;
}

fvg_status check_claim(fvg_ctx *c) {
  if (!held.folder[0]) return FVG_OK;
  if (!held.is_lost) held.is_lost = !is_held();
  if (!held.is_lost) return FVG_OK;
  claim_holder h;
  char holder[HOLDER_BYTES];
  look_at_claim(held.folder, &held.who, &h);
  h.is_dead = 0;                     /* whoever took it over is alive, also one of our shard     */
  describe_holder(&h, holder);
  return fvg_fail(c, FVG_E_CANCELLED, "%s: taken over by %s", held.folder, holder);
}

void release_claim(void) {
  if (held.folder[0] && !held.is_lost && is_held()) remove_claims(held.folder, held.generation);
  held.folder[0] = 0;
  held.is_lost = 0;
}

fvg_status clear_claims(fvg_ctx *c, const char *folder, const claimant *who, const char *what) {
  claim_holder h;
  look_at_claim(folder, who, &h);
  if (h.generation < 0) return FVG_OK;
  if (h.is_dead) {
    remove_claims(folder, h.generation);
    return FVG_OK;
  }
  char holder[HOLDER_BYTES];
  describe_holder(&h, holder);
  return fvg_fail(c, FVG_E_IO,
                  "%s: at work here: %s; wait for its end, or give --shard to work with it", what,
                  holder);
}

void sweep_claims(const char *folder) {
  remove_claims(folder, scan_claims(folder, -1).highest);
  remove_temporaries(folder);
}
