/* kill_everywhere.c - a library for LD_PRELOAD that kills its process (SIGKILL) just before the KILL_AT-th call that
   touches a file: open, write, close, fsync, rename, remove, mkdir and their kin.  tests/kill_everywhere.py runs it.

     cc -shared -fPIC tests/kill_everywhere.c -o kill.so -ldl
     KILL_AT=17 LD_PRELOAD=./kill.so fvgpt tune ...         dies before the 17th
     KILL_AT=17 KILL_TORN=1 ...                             likewise, but half of the bytes are written, if it is a write
     KILL_LOG=calls.txt ...                                 a line for each call

   The C library's own streams do not call open, write and close by names that could be replaced.  So a stream that
   writes is made here in its place, by fopencookie, and its bytes pass through our write and close. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

/* ---- counting ---- */
static long calls;

static void log_call(const char *what, const char *path) {
  static int file = -2;
  char line[600];
  int n;
  if (file == -2) {
    const char *name = getenv("KILL_LOG");
    file = name ? (int)syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_TRUNC, 0666) : -1;
  }
  if (file < 0) return;
  n = snprintf(line, sizeof line, "%ld %s %s\n", calls, what, path ? path : "");
  if (n > (int)sizeof line - 1) n = (int)sizeof line - 1;
  syscall(SYS_write, file, line, (size_t)n);
}

/* Is this the call before which the process dies? */
static int is_last(const char *what, const char *path) {
  static long at = -1;
  if (at < 0) at = getenv("KILL_AT") ? atol(getenv("KILL_AT")) : 0;
  calls++;
  log_call(what, path);
  return calls == at;
}

static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

static void count(const char *what, const char *path) {
  if (is_last(what, path)) die();
}

/* ---- calls on descriptors and names ---- */
static ssize_t counted_write(int file, const void *bytes, size_t n) {
  if (is_last("write", NULL)) {
    if (getenv("KILL_TORN")) syscall(SYS_write, file, bytes, n / 2);
    die();
  }
  return syscall(SYS_write, file, bytes, n);
}

static int counted_close(int file) {
  count("close", NULL);
  return (int)syscall(SYS_close, file);
}

static int counted_open(int folder, const char *path, int flags, int mode) {
  count("open", path);
  return (int)syscall(SYS_openat, folder, path, flags, mode);
}

#define MODE(flags, mode) do { if ((flags) & (O_CREAT | O_TMPFILE)) { \
    va_list list; va_start(list, flags); mode = va_arg(list, int); va_end(list); } } while (0)

int open(const char *path, int flags, ...) { int m = 0; MODE(flags, m); return counted_open(AT_FDCWD, path, flags, m); }
int open64(const char *path, int flags, ...) {
  int m = 0;
  MODE(flags, m);
  return counted_open(AT_FDCWD, path, flags, m);
}
int openat(int folder, const char *path, int flags, ...) {
  int m = 0;
  MODE(flags, m);
  return counted_open(folder, path, flags, m);
}
int creat(const char *path, mode_t mode) {
  return counted_open(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, (int)mode);
}

ssize_t write(int file, const void *bytes, size_t n) {
  return file == 1 || file == 2 ? syscall(SYS_write, file, bytes, n) : counted_write(file, bytes, n);
}
int close(int file) { return counted_close(file); }
int fsync(int file) { count("fsync", NULL); return (int)syscall(SYS_fsync, file); }
int fdatasync(int file) { count("fdatasync", NULL); return (int)syscall(SYS_fdatasync, file); }
int ftruncate(int file, off_t n) { count("ftruncate", NULL); return (int)syscall(SYS_ftruncate, file, n); }

int rename(const char *from, const char *to) {
  count("rename", to);
  return (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
}
int unlink(const char *path) { count("unlink", path); return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0); }
int rmdir(const char *path) { count("rmdir", path); return (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
  int result;
  count("remove", path);
  result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
  return result && errno == EISDIR ? (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR) : result;
}
int mkdir(const char *path, mode_t mode) {
  count("mkdir", path);
  return (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}
int link(const char *from, const char *to) {
  count("link", to);
  return (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}

/* ---- streams that write ---- */
enum { MOST_STREAMS = 64 };
static struct { FILE *stream; int file; } made[MOST_STREAMS];

static ssize_t cookie_write(void *cookie, const char *bytes, size_t n) {
  ssize_t done = counted_write(*(int *)cookie, bytes, n);
  return done < 0 ? 0 : done;
}

static int cookie_close(void *cookie) {
  int i, file = *(int *)cookie;
  for (i = 0; i < MOST_STREAMS; i++) if (made[i].stream && made[i].file == file) made[i].stream = NULL;
  free(cookie);
  return counted_close(file);
}

static FILE *stream_of(int file, const char *mode) {
  cookie_io_functions_t io = {NULL, cookie_write, NULL, cookie_close};
  int *cookie = (int *)malloc(sizeof *cookie), i;
  FILE *stream;
  if (!cookie) return NULL;
  *cookie = file;
  stream = fopencookie(cookie, mode, io);
  if (!stream) { free(cookie); return NULL; }
  setvbuf(stream, NULL, _IOFBF, 4096);
  for (i = 0; i < MOST_STREAMS && made[i].stream; i++) {}
  if (i < MOST_STREAMS) {
    made[i].stream = stream;
    made[i].file = file;
  }
  return stream;
}

FILE *fopen(const char *path, const char *mode) {
  static FILE *(*real)(const char *, const char *);
  int file;
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "fopen");
  if (strchr(mode, 'r')) {                               /* reading, as it is; nothing here is read and written     */
    count("open", path);
    return real(path, mode);
  }
  file = counted_open(AT_FDCWD, path, O_WRONLY | O_CREAT | (*mode == 'a' ? O_APPEND : O_TRUNC) |
                      (strchr(mode, 'x') ? O_EXCL : 0), 0666);
  return file < 0 ? NULL : stream_of(file, *mode == 'a' ? "a" : "w");
}
FILE *fopen64(const char *path, const char *mode) { return fopen(path, mode); }

FILE *fdopen(int file, const char *mode) {
  static FILE *(*real)(int, const char *);
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "fdopen");
  return strchr(mode, 'r') ? real(file, mode) : stream_of(file, *mode == 'a' ? "a" : "w");
}

int fileno(FILE *stream) {
  static int (*real)(FILE *);
  int i;
  for (i = 0; i < MOST_STREAMS; i++) if (made[i].stream == stream) return made[i].file;
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "fileno");
  return real(stream);
}
