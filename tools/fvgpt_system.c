/* The operating system; see fvgpt_system.h. */
#define _POSIX_C_SOURCE 200809L
#ifdef __linux__
#define _GNU_SOURCE                  /* for sched_getaffinity                                    */
#endif
#include "fvgpt_system.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <direct.h>
#include <io.h>
#include <process.h>
#include <share.h>
#include <sys/utime.h>
#include <windows.h>
#else
#ifdef __linux__
#include <sched.h>
#endif
#include <unistd.h>
#include <utime.h>
#endif

/* ---- stopping ---- */
static volatile sig_atomic_t stop_signal;

static void on_stop(int number) { stop_signal = number; }

int stopped_by(void) { return (int)stop_signal; }

/* Without SA_RESTART a signal also ends the wait for input.  With SA_RESETHAND only the first one
   comes here, which is so on Windows in any case. */
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

void catch_stops(void) {
  catch_stop(SIGINT);
  catch_stop(SIGTERM);
}

/* ---- streams, the clock, processors ---- */
/* On Windows the streams carry the same bytes as elsewhere, without a CR before each LF.
   Elsewhere a program may be started with its standard streams closed.  The next file that it
   opens would get the number of one of them, and what is printed would land in a model.  So a
   closed stream is opened, in the direction that fails when it is used. */
void prepare_streams(void) {
#ifdef _WIN32
  _setmode(_fileno(stdin), _O_BINARY);
  _setmode(_fileno(stdout), _O_BINARY);
#else
  for (int i = 0; i < 3; i++) {
    if (fcntl(i, F_GETFD) != -1) continue;
    if (open("/dev/null", i == 0 ? O_WRONLY : O_RDONLY) < 0) return;
  }
#endif
}

int is_terminal(FILE *stream) {
#ifdef _WIN32
  return _isatty(_fileno(stream));
#else
  return isatty(fileno(stream));
#endif
}

double now(void) {
#ifdef _WIN32
  /* On Windows clock() counts the time that passes, not that of the processor. */
  return (double)clock() / CLOCKS_PER_SEC;
#else
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#endif
}

void pause_for(double seconds) {
#ifdef _WIN32
  Sleep((DWORD)(1000 * seconds));
#else
  struct timespec t;
  t.tv_sec = (time_t)seconds;
  t.tv_nsec = (long)(1e9 * (seconds - (double)t.tv_sec));
  nanosleep(&t, NULL);
#endif
}

/* A batch system or a container may have given the process a part of the machine only. */
static int processors(void) {
#ifdef __linux__
  cpu_set_t ours;
  CPU_ZERO(&ours);
  if (!sched_getaffinity(0, sizeof ours, &ours) && CPU_COUNT(&ours) > 0) return CPU_COUNT(&ours);
#endif
#ifdef _WIN32
  const char *n = getenv("NUMBER_OF_PROCESSORS");
  return n && atoi(n) > 0 ? atoi(n) : 1;
#else
  return (int)sysconf(_SC_NPROCESSORS_ONLN);
#endif
}

int default_threads(void) {
  const char *wanted = getenv("FVGPT_THREADS");
  if (!wanted || !*wanted) return processors();

  char *end;
  const long n = strtol(wanted, &end, 10);
  return *end || n < 1 || n > 256 ? 0 : (int)n;
}

int is_utf8(const char *text) {
  const unsigned char *at = (const unsigned char *)text;
  size_t left = strlen(text);
  while (left) {
    const size_t n = fvg_utf8_length(at, left);
    if (!n) return 0;
    at += n;
    left -= n;
  }
  return 1;
}

/* Windows hands arguments over in its code page, which the C library's fopen expects as well,
   while texts here are UTF-8: an accented letter would become other tokens than the same letter
   out of a file.  Where the code page is not UTF-8 (Settings, Language, Administrative, "Use
   Unicode UTF-8"), such arguments are refused. */
int check_arguments(int argc, char **argv) {
#ifdef _WIN32
  for (int i = 1; i < argc; i++) {
    if (is_utf8(argv[i])) continue;
    fprintf(stderr,
            "fvgpt: argument %d is not UTF-8; use ASCII, or make UTF-8 the system's code page\n",
            i);
    return 0;
  }
#else
  (void)argc;
  (void)argv;
#endif
  return 1;
}

/* ---- processes ---- */
#ifndef _WIN32
/* The first line of a file that the kernel keeps; "" where there is none. */
static void read_line_of(const char *path, char *line, int size) {
  FILE *f = fopen(path, "r");
  line[0] = 0;
  if (!f) return;
  if (!fgets(line, size, f)) line[0] = 0;
  fclose(f);
  line[strcspn(line, "\n")] = 0;
}
#endif

/* Containers may bear the same name on different machines, and see different processes on the same
   one.  Linux has a number for each start of a machine, and one for each world of processes. */
void name_host(char host[HOST_BYTES]) {
#ifdef _WIN32
  const char *name = getenv("COMPUTERNAME");
  snprintf(host, HOST_BYTES, "%.60s", name ? name : "windows");
#else
  char name[61], start[9], world[40];
  if (gethostname(name, sizeof name)) name[0] = 0;
  name[sizeof name - 1] = 0;
  read_line_of("/proc/sys/kernel/random/boot_id", start, sizeof start);
  const long n = (long)readlink("/proc/self/ns/pid", world, sizeof world - 1);
  world[n > 0 ? n : 0] = 0;
  snprintf(host, HOST_BYTES, "%s%s%s%s%s", name, *start ? " " : "", start, *world ? " " : "",
           world);
#endif
}

long process_number(void) {
#ifdef _WIN32
  return (long)_getpid();
#else
  return (long)getpid();
#endif
}

/* A process that has ended and that nobody has asked about yet still has its number. */
int is_process(long number) {
#ifdef _WIN32
  HANDLE process = OpenProcess(SYNCHRONIZE, FALSE, (DWORD)number);
  if (!process) return GetLastError() == ERROR_ACCESS_DENIED;
  const int is_running = WaitForSingleObject(process, 0) == WAIT_TIMEOUT;
  CloseHandle(process);
  return is_running;
#else
  char path[60], line[200];
  if (number <= 0 || (kill((pid_t)number, 0) && errno == ESRCH)) return 0;
  snprintf(path, sizeof path, "/proc/%ld/stat", number);
  read_line_of(path, line, sizeof line);
  const char *name_end = strrchr(line, ')');
  const char state = name_end && name_end[1] ? name_end[2] : 0;
  return state != 'Z' && state != 'X';
#endif
}

/* ---- folders ---- */
int is_slash(char ch) {
#ifdef _WIN32
  if (ch == '\\') return 1;
#endif
  return ch == '/';
}

int is_folder(const char *path) {
  struct stat about;
  return !stat(path, &about) && S_ISDIR(about.st_mode);
}

int is_absent(const char *path) {
  struct stat about;
  return stat(path, &about) && (errno == ENOENT || errno == ENOTDIR);
}

int identify_file(const char *path, file_identity *x) {
  memset(x, 0, sizeof *x);
#ifdef _WIN32
  BY_HANDLE_FILE_INFORMATION about;
  const DWORD share = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
  HANDLE file = CreateFileA(path, 0, share, NULL, OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, NULL);
  if (file == INVALID_HANDLE_VALUE) return 0;
  const int is_known = GetFileInformationByHandle(file, &about) != 0;
  CloseHandle(file);
  if (!is_known) return 0;
  x->volume = about.dwVolumeSerialNumber;
  x->number = (uint64_t)about.nFileIndexHigh << 32 | about.nFileIndexLow;
#else
  struct stat about;
  if (stat(path, &about)) return 0;
  x->volume = (uint64_t)about.st_dev;
  x->number = (uint64_t)about.st_ino;
#endif
  return 1;
}

int is_same_path(const char *a, const char *b) {
  file_identity x, y;
  return identify_file(a, &x) && identify_file(b, &y) && x.volume == y.volume &&
         x.number == y.number;
}

int absolute_path(const char *path, char *out, size_t size) {
#ifdef _WIN32
  return _fullpath(out, path, size) != NULL;
#else
  char here[1200] = "";
  if (!is_slash(path[0]) && !getcwd(here, sizeof here)) return 0;
  const int n = snprintf(out, size, "%s%s%s", here, *here ? "/" : "", path);
  return n > 0 && (size_t)n < size;
#endif
}

int can_write(const char *folder) {
#ifdef _WIN32
  return !_access(folder, 2);
#else
  return !access(folder, W_OK);
#endif
}

FILE *create_new_file(const char *path) {
#ifdef _WIN32
  const int how = _O_WRONLY | _O_CREAT | _O_EXCL | _O_BINARY | _O_NOINHERIT;
  const int file = _open(path, how, _S_IREAD | _S_IWRITE);
  return file < 0 ? NULL : _fdopen(file, "wb");
#else
  const int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  return file < 0 ? NULL : fdopen(file, "wb");
#endif
}

double seconds_since_change(const char *path) {
  struct stat about;
  return stat(path, &about) ? 0 : difftime(time(NULL), about.st_mtime);
}

static int make_folder(const char *path) {
#ifdef _WIN32
  return _mkdir(path);
#else
  return mkdir(path, 0777);
#endif
}

/* "C:" is the drive, which is there. */
static int is_drive(const char *part) {
#ifdef _WIN32
  return part[0] && part[1] == ':' && !part[2];
#else
  (void)part;
  return 0;
#endif
}

/* The path is cut off behind each of its parts in turn. */
fvg_status make_folders(fvg_ctx *c, const char *path) {
  char part[1200];
  const size_t n = strlen(path);
  if (n >= sizeof part)
    return fvg_fail(c, FVG_E_ARG, "%.200s...: the path is too long", path);
  memcpy(part, path, n + 1);

  for (size_t i = 1; i <= n; i++) {
    const char ch = part[i];
    const int ends_here = !ch || is_slash(ch);
    if (!ends_here || is_slash(part[i - 1])) continue;
    part[i] = 0;
    if (!is_drive(part) && make_folder(part)) {
      const int reason = errno;                  /* is_folder sets errno too */
      if (!is_folder(part))
        return fvg_fail(c, FVG_E_IO, "%s: cannot make this folder: %s", part, strerror(reason));
    }
    part[i] = ch;
  }
  return FVG_OK;
}

#ifdef FVGPT_DIRENT
static void remove_if_temporary(void *folder, const char *name, int is_folder) {
  char path[1400];
  const int n = snprintf(path, sizeof path, "%s/%s", (const char *)folder, name);
  const int fits = n > 0 && (size_t)n < sizeof path;
  if (!is_folder && fits && fvg_file_is_temporary(name)) remove(path);
}

void remove_temporaries(const char *folder) {
  (void)fvg_list_folder(NULL, folder, remove_if_temporary, (void *)folder);
}
#else
void remove_temporaries(const char *folder) { (void)folder; }
#endif

/* ---- files that processes agree by ---- */
/* O_EXCL is one step on local and on network file systems: of all who try, one makes the file. */
int make_new_file(const char *path, const char *text) {
  const size_t n = strlen(text);
#ifdef _WIN32
  const int file = _open(path, _O_CREAT | _O_EXCL | _O_WRONLY | _O_BINARY, _S_IREAD | _S_IWRITE);
#else
  const int file = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
#endif
  if (file < 0) return errno == EEXIST ? 0 : -1;
#ifdef _WIN32
  const int is_whole = _write(file, text, (unsigned)n) == (int)n;
  return _close(file) || !is_whole ? -1 : 1;
#else
  const int is_whole = write(file, text, n) == (ssize_t)n;
  return close(file) || !is_whole ? -1 : 1;
#endif
}

int renew_file(const char *path) {
#ifdef _WIN32
  return !_utime(path, NULL);
#else
  return !utime(path, NULL);
#endif
}

int time_of_file(const char *path, double *seconds) {
  struct stat about;
  if (stat(path, &about)) return 0;
  *seconds = (double)about.st_mtime;
  return 1;
}

/* ---- locks ---- */
static fvg_status locked_out(fvg_ctx *c, const char *folder, long process, int by_shards) {
  char who[40] = "";
  if (process > 0) snprintf(who, sizeof who, " (process %ld)", process);
  if (by_shards) {
    return fvg_fail(c, FVG_E_IO,
                    "%s: shards of a run%s are writing into this folder; wait for their end, or "
                    "give --shard to work with them",
                    folder, who);
  }
  return fvg_fail(c, FVG_E_IO,
                  "%s: another fvgpt%s is writing into this folder; wait for its end, or choose "
                  "another --out",
                  folder, who);
}

#ifdef _WIN32
/* Nobody else can open the file of a lock of one's own until it is closed. */
static fvg_status lock_kind(fvg_ctx *c, folder_lock *x, const char *folder, int is_shared) {
  snprintf(x->path, sizeof x->path, "%s/.fvgpt.lock", folder);
  x->file = _fsopen(x->path, is_shared ? "a" : "w", is_shared ? _SH_DENYNO : _SH_DENYRW);
  if (x->file) return FVG_OK;
  if (errno == EACCES && !_access(x->path, 0)) return locked_out(c, folder, 0, 0);
  return fvg_fail(c, FVG_E_IO, "%s: cannot create: %s", x->path, strerror(errno));
}

/* While other shards have the file open, it stays. */
void unlock_folder(folder_lock *x) {
  if (!x->file) return;
  fclose(x->file);
  remove(x->path);
  x->file = NULL;
}
#else
/* Is the file that we hold open still the one that has this name? */
static int is_same_file(int file, const char *path) {
  struct stat ours, theirs;
  if (fstat(file, &ours) || lstat(path, &theirs)) return 0;
  return ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

/* Opens the lock's file, and makes it if need be; a link or a pipe of that name is refused. */
static fvg_status open_lock(fvg_ctx *c, const char *path, int *file) {
  const int how = O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
  *file = open(path, how, 0666);
  if (*file < 0)
    return fvg_fail(c, FVG_E_IO, "%s: cannot create: %s", path, strerror(errno));

  struct stat about;
  if (!fstat(*file, &about) && S_ISREG(about.st_mode)) return FVG_OK;
  close(*file);
  return fvg_fail(c, FVG_E_IO, "%s: is there and is no plain file; remove it", path);
}

/* The last shard to end has a lock of its own for a moment, while it removes the file; whoever
   wants to share waits for that. */
static int try_lock(int file, int is_shared, struct flock *lock) {
  for (int attempt = 0;; attempt++) {
    memset(lock, 0, sizeof *lock);
    lock->l_whence = SEEK_SET;
    lock->l_type = is_shared ? F_RDLCK : F_WRLCK;
    if (!fcntl(file, F_SETLK, lock)) return 0;
    const int is_taken = errno == EACCES || errno == EAGAIN;
    if (!is_taken || !is_shared || attempt == 10) return -1;
    pause_for(0.03);
  }
}

/* Locks an open file.  A file system without locks is only warned of. */
static fvg_status lock_file(fvg_ctx *c, int file, const char *path, const char *folder,
                            int is_shared) {
  struct flock lock;
  if (!try_lock(file, is_shared, &lock)) return FVG_OK;

  const int reason = errno;
  if (reason == EACCES || reason == EAGAIN) {
    if (fcntl(file, F_GETLK, &lock) || lock.l_type == F_UNLCK) lock.l_pid = 0;
    return locked_out(c, folder, (long)lock.l_pid, lock.l_type == F_RDLCK);
  }
  fvg_log(c, 0, "%s: cannot be locked (%s): a second run into this folder would not be noticed",
          path, strerror(reason));
  return FVG_OK;
}

static fvg_status lock_kind(fvg_ctx *c, folder_lock *x, const char *folder, int is_shared) {
  snprintf(x->path, sizeof x->path, "%s/.fvgpt.lock", folder);
  x->is_shared = is_shared;
  for (;;) {
    int file;
    fvg_status s = open_lock(c, x->path, &file);
    if (s) return s;

    s = lock_file(c, file, x->path, folder, is_shared);
    if (s) {
      close(file);
      return s;
    }
    x->file = file + 1;
    if (is_same_file(file, x->path)) return FVG_OK;

    /* Whoever had it has just removed it, so what we locked is no lock any more. */
    close(file);
    x->file = 0;
  }
}

/* The file goes while we still hold it, so that nobody can lock one that is about to go.  Shards
   leave it to the last of them, who alone can have it for himself. */
void unlock_folder(folder_lock *x) {
  if (!x->file) return;
  int file = x->file - 1;
  x->file = 0;
  if (x->is_shared) {
    close(file);
    file = open(x->path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct flock lock;
    const int is_last = file >= 0 && !try_lock(file, 0, &lock) && is_same_file(file, x->path);
    if (is_last) remove(x->path);
  } else {
    remove(x->path);
  }
  if (file >= 0) close(file);
}
#endif

fvg_status lock_folder(fvg_ctx *c, folder_lock *x, const char *folder) {
  return lock_kind(c, x, folder, 0);
}

fvg_status share_folder(fvg_ctx *c, folder_lock *x, const char *folder) {
  return lock_kind(c, x, folder, 1);
}
