/* What C99 has no words for, on POSIX systems and on Windows: Ctrl-C, folders, locks, the clock.  Part of fvgpt.c. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#ifdef _WIN32
#include <direct.h>
#include <io.h>
#include <share.h>
#else
#include <unistd.h>
#endif

/* ---- stopping: a first Ctrl-C (or SIGTERM) asks for it, and a second one ends the process at once ---- */
static volatile sig_atomic_t stop_signal;           /* its number, 0 while nobody wants to stop                     */

static void on_stop(int number) { stop_signal = number; }

static int is_stopped(void *user) { (void)user; return stop_signal != 0; }

/* Without SA_RESTART a signal also ends the wait for input; with SA_RESETHAND it is obeyed by us only once, as it is
   on Windows in any case. */
static void catch_stop(int number) {
#ifdef _WIN32
  signal(number, on_stop);
#else
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_stop;
  action.sa_flags = (int)SA_RESETHAND;
  sigemptyset(&action.sa_mask);
  sigaction(number, &action, NULL);
#endif
}

/* ---- streams, the clock, processors ---- */
/* On Windows the same bytes as elsewhere, without a CR before each LF.  Elsewhere, a program may be started with its
   standard streams closed; the next file that it opens would get the number of one of them, and what is printed would
   land in a model.  So a closed one is opened, in the direction that fails when it is used. */
static void prepare_streams(void) {
#ifdef _WIN32
  _setmode(_fileno(stdin), _O_BINARY);
  _setmode(_fileno(stdout), _O_BINARY);
#else
  int i;
  for (i = 0; i < 3; i++)
    if (fcntl(i, F_GETFD) == -1 && open("/dev/null", i == 0 ? O_WRONLY : O_RDONLY) < 0) return;
#endif
}

static int is_terminal(FILE *stream) {
#ifdef _WIN32
  return _isatty(_fileno(stream));
#else
  return isatty(fileno(stream));
#endif
}

/* Seconds since some moment. */
static double now(void) {
#ifdef _WIN32
  return (double)clock() / CLOCKS_PER_SEC;          /* on Windows the time that passes, not the processor's         */
#else
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#endif
}

static int processors(void) {
#ifdef _WIN32
  const char *n = getenv("NUMBER_OF_PROCESSORS");
  return n && atoi(n) > 0 ? atoi(n) : 1;
#else
  return (int)sysconf(_SC_NPROCESSORS_ONLN);
#endif
}

/* Windows hands arguments over in its code page, which the C library's fopen expects as well, while texts here are
   UTF-8: an accented letter would become other tokens than the same letter out of a file.  Where the code page is not
   UTF-8 (Settings, Language, Administrative, "Use Unicode UTF-8"), such arguments are refused. */
static int check_arguments(int argc, char **argv) {
#ifdef _WIN32
  int i;
  for (i = 1; i < argc; i++) {
    const unsigned char *at = (const unsigned char *)argv[i];
    size_t left = strlen(argv[i]), n = 1;
    for (; left && (n = fvg_utf8_length(at, left)) > 0; left -= n) at += n;
    if (n) continue;
    fprintf(stderr, "fvgpt: argument %d is not UTF-8; use ASCII, or make UTF-8 the system's code page\n", i);
    return 0;
  }
#endif
  (void)argc, (void)argv;
  return 1;
}

/* ---- folders ---- */
static int is_folder(const char *path) {
  struct stat about;
  return !stat(path, &about) && S_ISDIR(about.st_mode);
}

static int is_slash(char ch) {
#ifdef _WIN32
  if (ch == '\\') return 1;
#endif
  return ch == '/';
}

/* Into an existing folder. */
static int can_write(const char *path) {
#ifdef _WIN32
  return !_access(path, 2);
#else
  return !access(path, W_OK);
#endif
}

/* All folders of a path. */
static fvg_status make_folders(fvg_ctx *c, const char *path) {
  char part[1200];
  size_t i, n = strlen(path);
  if (n >= sizeof part) return fvg_fail(c, FVG_E_ARG, "%.200s...: the path is too long", path);
  memcpy(part, path, n + 1);
  for (i = 1; i <= n; i++) {
    const char ch = part[i];
    int failed;
    if ((ch && !is_slash(ch)) || is_slash(part[i - 1])) continue;
    part[i] = 0;
#ifdef _WIN32
    failed = _mkdir(part);
#else
    failed = mkdir(part, 0777);
#endif
    if (failed && !is_folder(part))
      return fvg_fail(c, FVG_E_IO, "%s: cannot make this folder: %s", part, strerror(errno));
    part[i] = ch;
  }
  return FVG_OK;
}

/* ---- locks ---- */
/* Two runs into one folder would mix their files.  So whoever writes into a folder for long keeps a lock on the file
   .fvgpt.lock in it.  The operating system takes the lock back when the process ends, however it ends: a file that a
   killed run left behind locks nobody out. */
typedef struct folder_lock {
  char path[1300];
#ifdef _WIN32
  FILE *file;
#else
  int file;
#endif
} folder_lock;

static fvg_status locked_out(fvg_ctx *c, const char *folder, long process) {
  char who[40] = "";
  if (process > 0) snprintf(who, sizeof who, " (process %ld)", process);
  return fvg_fail(c, FVG_E_IO, "%s: another fvgpt%s is writing into this folder; wait for its end, or choose another "
                               "--out", folder, who);
}

#ifdef _WIN32
static fvg_status lock_folder(fvg_ctx *c, folder_lock *x, const char *folder) {
  snprintf(x->path, sizeof x->path, "%s/.fvgpt.lock", folder);
  x->file = _fsopen(x->path, "w", _SH_DENYRW);      /* nobody else can open it until we close it                    */
  if (x->file) return FVG_OK;
  if (errno == EACCES && !_access(x->path, 0)) return locked_out(c, folder, 0);
  return fvg_fail(c, FVG_E_IO, "%s: cannot create: %s", x->path, strerror(errno));
}

static void unlock_folder(folder_lock *x) {
  if (!x->file) return;
  fclose(x->file);
  remove(x->path);
  x->file = NULL;
}
#else
/* Is the file that we hold open still the one that has this name? */
static int is_same_file(int file, const char *path) {
  struct stat ours, theirs;
  return !fstat(file, &ours) && !lstat(path, &theirs) && ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

static fvg_status lock_folder(fvg_ctx *c, folder_lock *x, const char *folder) {
  struct flock lock;
  struct stat about;
  memset(&lock, 0, sizeof lock);
  lock.l_whence = SEEK_SET;
  snprintf(x->path, sizeof x->path, "%s/.fvgpt.lock", folder);

  for (;;) {
    int file = open(x->path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
    if (file < 0) return fvg_fail(c, FVG_E_IO, "%s: cannot create: %s", x->path, strerror(errno));
    if (fstat(file, &about) || !S_ISREG(about.st_mode)) {
      close(file);
      return fvg_fail(c, FVG_E_IO, "%s: is there and is no plain file; remove it", x->path);
    }

    lock.l_type = F_WRLCK;
    if (fcntl(file, F_SETLK, &lock)) {
      const int reason = errno;
      if (reason == EACCES || reason == EAGAIN) {
        if (fcntl(file, F_GETLK, &lock) || lock.l_type == F_UNLCK) lock.l_pid = 0;
        close(file);
        return locked_out(c, folder, (long)lock.l_pid);
      }
      fvg_log(c, 0, "%s: cannot be locked (%s): a second run into this folder would not be noticed", x->path,
              strerror(reason));
    }

    x->file = file + 1;                             /* 0: none                                                      */
    if (is_same_file(file, x->path)) return FVG_OK;
    close(file);                                    /* whoever had it has just removed it: ours is no lock any more */
  }
}

/* The file goes while we still hold it, so that nobody can lock one that is about to go. */
static void unlock_folder(folder_lock *x) {
  if (!x->file) return;
  remove(x->path);
  close(x->file - 1);
  x->file = 0;
}
#endif
