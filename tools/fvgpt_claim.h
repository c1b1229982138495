/* Claims: which of the processes that share a folder, on whatever machines, does a piece of work.

   A claim on a folder is a file in it, claim.0, which one process alone can make.  Its owner renews
   the file's time every few seconds.  A claim whose owner is dead is taken over by making claim.1,
   and so on: the highest number has the work, and an owner who finds a higher one than his stops
   without writing anything more.  So nothing need be deleted to take over, and of several who try
   one succeeds.  The owner removes all of them when he has finished, lowest first. */
#ifndef FVGPT_CLAIM_H
#define FVGPT_CLAIM_H

#include "fvgpt_shard.h"
#include "fvgpt_system.h"

/* Who claims. */
typedef struct claimant {
  shard_option shard;
  double expires;                    /* seconds after which a claim that was not renewed is dead */
} claimant;

/* What is known of the newest claim on a folder. */
typedef struct claim_holder {
  int generation;                    /* -1: nobody has claimed it                                */
  shard_option shard;                /* number 0: unknown, the claim has not been written whole  */
  long process;
  char token[20], host[HOST_BYTES];
  double age;                        /* seconds since it was made or renewed                     */
  int is_dead;
} claim_holder;
/* Dead is a claim of a process of this host that is gone; one of our own shard, unless its process
   is alive on this host; one that has not been renewed for who->expires, by the file system's
   clock. */
void look_at_claim(const char *folder, const claimant *who, claim_holder *h);
/* "shard 2/3, process 77 on HOST, last seen 12 s ago" */
enum { HOLDER_BYTES = 240 };
void describe_holder(const claim_holder *h, char text[HOLDER_BYTES]);

/* Claims a folder, which must exist; a process has one claim at a time.  *is_ours 0: somebody else,
   h, has it.  FVG_E_IO. */
fvg_status take_claim(fvg_ctx *c, const char *folder, const claimant *who, int *is_ours,
                      claim_holder *h);
/* Gives it back, unless it is lost. */
void release_claim(void);
/* Has somebody taken over the claim of this process?  It is renewed, and looked after, when that is
   due; for fvg_desc.cancelled.  0 without a claim. */
int claim_is_lost(void);
/* The same at once, before something is written: FVG_E_CANCELLED says who took it. */
fvg_status check_claim(fvg_ctx *c);

/* Removes dead claims of a folder for somebody who has the whole to himself; a living one is an
   error that names `what`. */
fvg_status clear_claims(fvg_ctx *c, const char *folder, const claimant *who, const char *what);
/* Removes what claims left in a folder where all work is finished. */
void sweep_claims(const char *folder);

#endif
