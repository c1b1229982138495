/* What C99 has no words for, on POSIX systems and on Windows: Ctrl-C, folders, locks, the clock,
   processes. */
#ifndef FVGPT_SYSTEM_H
#define FVGPT_SYSTEM_H

#include <stdio.h>

#include "../fvgpt_clip.h"

/* ---- stopping ---- */
/* A first Ctrl-C or SIGTERM asks the program to stop; a second one ends it at once. */
void catch_stops(void);
/* The number of the signal that asked for it; 0 while nobody wants to stop. */
int stopped_by(void);

/* ---- streams, the clock, processors ---- */
void prepare_streams(void);
int is_terminal(FILE *stream);
/* Seconds since some moment. */
double now(void);
void pause_for(double seconds);
/* $FVGPT_THREADS, else one for each processor that this process may use; 0: that is no number from
   1 to 256. */
int default_threads(void);
int is_utf8(const char *text);
/* Are all arguments UTF-8?  0: no, after a message. */
int check_arguments(int argc, char **argv);

/* ---- processes ---- */
enum { HOST_BYTES = 120 };
/* The machine's name, with what tells it from others of that name, and its worlds of processes from
   each other: processes of one host know each other by number. */
void name_host(char host[HOST_BYTES]);
/* No other process of this host has the same number now. */
long process_number(void);
/* Is there a process of that number on this host? */
int is_process(long number);

/* ---- folders ---- */
int is_slash(char ch);
int is_folder(const char *path);
/* Is there nothing of that name? */
int is_absent(const char *path);
/* What a file, or a folder, has in common with nothing but itself, however its path is spelled. */
typedef struct file_identity {
  uint64_t volume, number;
} file_identity;
/* 0: there is nothing of that name. */
int identify_file(const char *path, file_identity *x);
/* Are these two paths of one file that is there? */
int is_same_path(const char *a, const char *b);
/* A path that does not depend on the working folder; 0: nobody knows, or it does not fit. */
int absolute_path(const char *path, char *out, size_t size);
/* May files be made in this folder? */
int can_write(const char *folder);
/* Makes all folders of a path that do not exist yet. */
fvg_status make_folders(fvg_ctx *c, const char *path);
/* Creates a file for writing, which must not exist yet; NULL: it does, or cannot be made. */
FILE *create_new_file(const char *path);
/* How long ago a file was last written to; 0 if nobody knows. */
double seconds_since_change(const char *path);
/* Removes what a killed run left of files that it was writing; nobody else writes to the folder. */
void remove_temporaries(const char *folder);

/* ---- files that processes agree by ---- */
/* Makes a file that nobody has made before.  1: it is ours; 0: it was there; -1: it cannot be made,
   for the reason in errno. */
int make_new_file(const char *path, const char *text);
/* Gives a file the time of now, by the clock of its file system; 0: it is gone. */
int renew_file(const char *path);
/* When the file was written or renewed, in seconds; 0: it is gone. */
int time_of_file(const char *path, double *seconds);

/* ---- locks ---- */
/* Two runs into one folder would mix their files, so whoever writes into a folder for long keeps a
   lock on the file .fvgpt.lock in it.  The operating system takes the lock back when the process
   ends, however it ends: a file that a killed run left behind locks nobody out.  Shards of one run
   share a lock, which keeps out whoever wants one of his own. */
typedef struct folder_lock {
  char path[1300];
  int is_shared;
#ifdef _WIN32
  FILE *file;
#else
  int file;                          /* the descriptor + 1; 0: none                              */
#endif
} folder_lock;
fvg_status lock_folder(fvg_ctx *c, folder_lock *x, const char *folder);
fvg_status share_folder(fvg_ctx *c, folder_lock *x, const char *folder);
/* An x of zeros holds no lock, which is no error. */
void unlock_folder(folder_lock *x);

#endif
