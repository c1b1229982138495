/* Claims of the programs (tools/fvgpt_claim.h): who owns a folder, when an owner is dead, and that of several who race
   for a dead one's claim one wins.  Leaves no file behind. */
#define FVGPT_DIRENT
#define FVGPT_IMPLEMENTATION
#include "../tools/fvgpt_system.c"

#include "../tools/fvgpt_claim.c"

#ifndef _WIN32
#include <sys/wait.h>
#endif

static int passed, failed;
static void check(int ok, const char *what) { if (ok) passed++; else { failed++; printf("FAILED %s\n", what); } }

static fvg_ctx *c;
static char folder[600];
static int says(const char *words) { return strstr(fvg_error(c), words) != NULL; }

static claimant claimant_of(int number, double expires) {
  claimant who;
  who.shard.number = number;
  who.shard.count = 3;
  who.expires = expires;
  return who;
}

/* Writes claim.GENERATION as another process would have written it, `age` seconds ago. */
static void write_claim(int generation, int number, long process, const char *host, double age) {
  char path[CLAIM_PATH], text[400];
  struct utimbuf times;
  claim_path(folder, generation, path);
  snprintf(text, sizeof text, "shard %d/3 process %ld token 00000000%08d host %s\n", number, process, generation, host);
  remove(path);
  make_new_file(path, text);
  times.actime = times.modtime = time(NULL) - (time_t)age;
  utime(path, &times);
}

static int has_claim(int generation) {
  char path[CLAIM_PATH];
  claim_path(folder, generation, path);
  return !is_absent(path);
}

static void clear_folder(void) {
  release_claim();
  remove_claims(folder, 12);
}

static int is_dead_for(int number, double expires) {
  const claimant who = claimant_of(number, expires);
  claim_holder h;
  look_at_claim(folder, &who, &h);
  return h.generation < 0 ? -1 : h.is_dead;
}

static int taken_by(int number, double expires) {
  const claimant who = claimant_of(number, expires);
  claim_holder h;
  int is_ours = -1;
  return take_claim(c, folder, &who, &is_ours, &h) ? -1 : is_ours;
}

/* ---- one process ---- */
static void test_taking(void) {
  char line[HOLDER_BYTES];
  const claimant other = claimant_of(2, 600);
  claim_holder h;
  check(is_dead_for(1, 600) == -1, "nobody has claimed an empty folder");
  check(taken_by(1, 600) == 1 && has_claim(0), "the first who asks gets it");
  look_at_claim(folder, &other, &h);
  check(h.shard.number == 1 && h.shard.count == 3 && h.process == process_number() && !h.is_dead, "others see who has it");
  describe_holder(&h, line);
  check(strstr(line, "shard 1/3, process ") == line && !strstr(line, "dead"), "and can say so");
  check(taken_by(2, 600) == 0 && !has_claim(1), "the second gets nothing");
  check(!check_claim(c) && !claim_is_lost(), "it stays with the first");
  release_claim();
  check(!has_claim(0) && !claim_is_lost() && !check_claim(c), "given back, nothing is left");
}

static void test_death(void) {
  char here[HOST_BYTES];
  name_host(here);
  write_claim(0, 2, 1, "elsewhere", 20);
  check(is_dead_for(1, 600) == 0, "a claim of another host lives while it is renewed");
  check(is_dead_for(1, 10) == 1, "and is dead when it was not for --claim-expires");
  check(is_dead_for(2, 600) == 1, "the same shard, started again elsewhere, takes its own claims at once");
  write_claim(0, 2, process_number(), here, 0);
  check(is_dead_for(1, 600) == 1, "a claim of our number that we do not hold is of a process before us");
#ifndef _WIN32
  const pid_t child = fork();
  if (!child) _exit(0);
  waitpid(child, NULL, 0);
  write_claim(0, 2, (long)child, here, 0);
  check(is_dead_for(1, 600) == 1, "a process of this host that is gone is dead at once");
  write_claim(0, 2, (long)child, "elsewhere", 0);
  check(is_dead_for(1, 600) == 0, "a process of that number on another host is not");
  write_claim(0, 2, (long)getppid(), here, 0);
  check(is_dead_for(2, 600) == 0, "the same shard does not take from a process that lives here");
  check(is_dead_for(2, 0.5) == 0, "while it is renewed");
  write_claim(0, 2, (long)getppid(), here, 20);
  check(is_dead_for(2, 10) == 1, "but does when it has hung too long");
#endif
  char path[CLAIM_PATH];
  struct utimbuf times;
  claim_path(folder, 0, path);
  remove(path);
  make_new_file(path, "shard 2/3 proc");
  check(is_dead_for(1, 600) == 0, "a claim that is being written lives");
  times.actime = times.modtime = time(NULL) - 40;
  utime(path, &times);
  check(is_dead_for(1, 600) == 1, "one that was never written whole is dead after half a minute");
  clear_folder();
}

static void test_takeover(void) {
  write_claim(0, 2, 1, "elsewhere", 1000);
  check(taken_by(1, 600) == 1 && has_claim(0) && has_claim(1), "a dead claim is taken over by the next generation");
  write_claim(2, 3, 7, "elsewhere", 0);
  check(check_claim(c) == FVG_E_CANCELLED && says("shard 3/3, process 7 on elsewhere"), "an owner sees who took it from him");
  check(claim_is_lost(), "and is told to stop");
  release_claim();
  check(has_claim(2) && !claim_is_lost(), "and leaves the other's claim alone");
  remove_claims(folder, 2);

  const claimant who = claimant_of(1, 600);
  check(make_claim(folder, 5, &who) == 0 && !has_claim(5), "nobody takes over what was given back meanwhile");
  write_claim(1, 2, 1, "elsewhere", 0);
  check(make_claim(folder, 0, &who) == 0 && !has_claim(0), "nor begins below a newer claim");
  clear_folder();
}

static void test_renewal(void) {
  double then = 0, here = 0;
  char path[CLAIM_PATH];
  struct utimbuf times;
  claim_path(folder, 0, path);
  check(taken_by(1, 1) == 1, "a claim that expires after a second");
  times.actime = times.modtime = time(NULL) - 100;
  utime(path, &times);
  check(!claim_is_lost() && time_of_file(path, &then), "is not renewed at once");
  pause_for(0.3);
  check(!claim_is_lost() && time_of_file(path, &here) && here > then + 90, "but is when it is due");
  remove(path);
  pause_for(0.3);
  check(claim_is_lost(), "a claim that somebody removed is lost");
  clear_folder();
}

static void test_clearing(void) {
  const claimant who = claimant_of(0, 600);
  write_claim(0, 2, 1, "elsewhere", 1000);
  write_claim(1, 2, 1, "elsewhere", 900);
  check(!clear_claims(c, folder, &who, "OUT") && !has_claim(0) && !has_claim(1), "a run alone removes dead claims");
  write_claim(0, 2, 9, "elsewhere", 3);
  check(clear_claims(c, folder, &who, "OUT") == FVG_E_IO && says("OUT: at work here: shard 2/3, process 9") && says("--shard"),
        "and stops where shards are at work");
  check(has_claim(0), "whose claim stays");
  clear_folder();
}

/* ---- several processes ---- */
#ifndef _WIN32
/* n processes ask for the folder at the same moment and stay until all have an answer; how many got it. */
static int race(int n) {
  int start[2], answer[2], end[2], winners = 0;
  char byte = 0;
  if (pipe(start) || pipe(answer) || pipe(end)) return -1;
  for (int i = 0; i < n; i++) {
    if (fork()) continue;
    close(start[1]);
    close(end[1]);
    if (read(start[0], &byte, 1)) _exit(1);
    byte = (char)taken_by(i + 1, 600);
    if (write(answer[1], &byte, 1) != 1 || read(end[0], &byte, 1)) _exit(1);
    _exit(0);
  }
  close(start[1]);
  for (int i = 0; i < n; i++) {
    if (read(answer[0], &byte, 1) != 1) byte = 100;
    winners += byte;
  }
  close(end[1]);
  for (int i = 0; i < n; i++) wait(NULL);
  close(start[0]);
  close(end[0]);
  close(answer[0]);
  close(answer[1]);
  return winners;
}

static void test_races(void) {
  int one_wins = 1, leaves_two = 1;
  for (int i = 0; i < 200; i++) {
    write_claim(0, 9, 1, "elsewhere", 1000);
    one_wins &= race(2) == 1;
    leaves_two &= has_claim(1) && !has_claim(2);
    remove_claims(folder, 12);
  }
  check(one_wins, "of two who race 200 times for a dead claim, one wins each time");
  check(leaves_two, "with the next generation");
  one_wins = 1;
  for (int i = 0; i < 50; i++) {
    one_wins &= race(4) == 1;
    remove_claims(folder, 12);
  }
  check(one_wins, "and of four who race 50 times for a folder that is free");
}

/* A lock that is shared keeps out whoever wants one of his own, and the reverse; asked by another process. */
static int locks(int is_shared) {
  const pid_t child = fork();
  int status;
  if (!child) {
    folder_lock x;
    memset(&x, 0, sizeof x);
    const int s = is_shared ? share_folder(c, &x, folder) : lock_folder(c, &x, folder);
    const int is_told = !s || (says(folder) && says(is_shared ? "another --out" : "shards of a run"));
    unlock_folder(&x);
    _exit(s ? is_told : 2);
  }
  waitpid(child, &status, 0);
  return WEXITSTATUS(status);
}

static void test_locks(void) {
  folder_lock x;
  memset(&x, 0, sizeof x);
  check(!share_folder(c, &x, folder), "a shared lock");
  check(locks(1) == 2 && !is_absent(x.path), "another shard shares it, and leaves it");
  check(locks(0) == 1, "a run alone is kept out, and told why");
  unlock_folder(&x);
  check(is_absent(x.path), "the last to share it removes it");
  check(!lock_folder(c, &x, folder) && locks(1) == 1, "a run alone keeps shards out");
  unlock_folder(&x);
  check(locks(0) == 2 && locks(1) == 2 && is_absent(x.path), "and nobody is locked out in the end");
}

/* ---- paths and processors ---- */
static void test_paths(void) {
  char one[700], link[700], text[700];
  file_identity id;
  snprintf(one, sizeof one, "%s/one", folder);
  snprintf(link, sizeof link, "%s/./link", folder);
  snprintf(text, sizeof text, "%s/none", folder);
  check(make_new_file(one, "1") == 1 && !symlink("one", link), "a file and a link to it");
  check(is_same_path(one, link) && !is_same_path(one, folder), "are one file, and not their folder");
  check(!identify_file(text, &id) && !is_same_path(text, text), "what is not there is no file");
  check(absolute_path("a/b", text, sizeof text) && text[0] == '/' && !strcmp(text + strlen(text) - 4, "/a/b"), "a path from the root");
  check(absolute_path("/a", text, sizeof text) && !strcmp(text, "/a") && !absolute_path("/abc", text, 4), "stays, if there is room");
  remove(link);
  remove(one);
}

/* The process that is started for it may use one processor. */
static void test_processors(void) {
#ifdef __linux__
  int status = 1;
  const pid_t child = fork();
  if (!child) {
    cpu_set_t one, all;
    int i = 0;
    unsetenv("FVGPT_THREADS");
    if (sched_getaffinity(0, sizeof all, &all)) _exit(2);
    while (!CPU_ISSET(i, &all)) i++;
    CPU_ZERO(&one);
    CPU_SET(i, &one);
    if (sched_setaffinity(0, sizeof one, &one)) _exit(2);
    _exit(default_threads() != 1);
  }
  check(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status),
        "a process of one processor has one thread");
#endif
}
#endif

int main(int argc, char **argv) {
  (void)argc;
  snprintf(folder, sizeof folder, "%.500s.claims", argv[0]);
  if (fvg_init(&c, NULL) || make_folders(c, folder)) return 1;
  remove_claims(folder, 12);
  test_taking();
  test_death();
  test_takeover();
  test_renewal();
  test_clearing();
#ifndef _WIN32
  test_races();
  test_locks();
  test_paths();
  test_processors();
  check(!rmdir(folder), "no file is left");
#else
  check(!_rmdir(folder), "no file is left");
#endif
  fvg_free(c);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
