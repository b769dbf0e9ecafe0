/* File operations below a folder that fail on demand: preloaded into a process by campaign.py.

   Every call of the C library that touches a file below the watched folder is shown to a function of
   the campaign, whoever makes it, Python or TensorStore. The one that the function chooses fails,
   once; or all that change anything fail from then on, which leaves on disk what a kill at that
   moment would leave. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode { ONCE, SHORT, FREEZE, TORN };
enum effect { READS, CHANGES };

#define FILES 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char watched[PATH_MAX];
static char names[FILES][PATH_MAX];
static enum mode mode;
static int code, full;
static volatile int frozen, done;

typedef int chooser(const char *call, const char *path, int changes);
static chooser *choose;

void faults_arm(const char *folder, int how, int error, chooser *chosen) {
  pthread_mutex_lock(&lock);
  snprintf(watched, sizeof watched, "%s", folder);
  mode = how, code = error, choose = chosen;
  frozen = full = done = 0;
  pthread_mutex_unlock(&lock);
}

/* Whether a path is below the watched folder; the absolute one. */
static int below(int folder, const char *path, char *absolute) {
  char link[64];
  if (!watched[0] || !path) return 0;
  absolute[0] = 0;
  if (path[0] != '/') {
    if (folder == AT_FDCWD) {
      if (!getcwd(absolute, PATH_MAX)) return 0;
    } else {
      snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
      ssize_t length = readlink(link, absolute, PATH_MAX - 1);
      if (length < 0) return 0;
      absolute[length] = 0;
    }
    strncat(absolute, "/", PATH_MAX - strlen(absolute) - 1);
  }
  strncat(absolute, path, PATH_MAX - strlen(absolute) - 1);
  return !strncmp(absolute, watched, strlen(watched));
}

static int holds(int file) {
  return file >= 0 && file < FILES && names[file][0];
}

/* 0: go on. -1: fail, with errno set. 1: write half. */
static int verdict(const char *call, const char *path, enum effect effect) {
  int result = 0;
  /* Outside the lock: it waits for Python's own. */
  int chosen = choose && !done && choose(call, path, effect == CHANGES);
  pthread_mutex_lock(&lock);
  if (frozen) {
    if (effect == CHANGES) errno = code, result = -1;
  } else if (full && !strcmp(call, "write")) {
    full = 0, errno = ENOSPC, result = -1;
  } else if (chosen && !done) {
    done = 1;
    if (mode == ONCE) errno = code, result = -1;
    if (mode == SHORT) full = 1, result = 1;
    if (mode == TORN) frozen = 1, result = 1;
    if (mode == FREEZE) frozen = 1;
  }
  pthread_mutex_unlock(&lock);
  return result;
}

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static int opening(int folder, const char *path, int flags, char *absolute) {
  if (!below(folder, path, absolute)) {
    absolute[0] = 0;
    return 0;
  }
  int changes = flags & (O_CREAT | O_TRUNC);
  return verdict(changes ? "create" : "open", absolute, changes ? CHANGES : READS);
}

static int opened(int file, const char *absolute) {
  if (file >= 0 && file < FILES) strcpy(names[file], absolute);
  return file;
}

#define MODE_ARGUMENT                                  \
  mode_t permissions = 0;                              \
  if (flags & (O_CREAT | O_TMPFILE)) {                 \
    va_list arguments;                                 \
    va_start(arguments, flags);                        \
    permissions = va_arg(arguments, mode_t);           \
    va_end(arguments);                                 \
  }

#define OPEN(name)                                     \
  int name(const char *path, int flags, ...) {         \
    REAL(name);                                        \
    MODE_ARGUMENT                                      \
    char absolute[PATH_MAX];                           \
    if (opening(AT_FDCWD, path, flags, absolute) < 0) return -1; \
    return opened(real(path, flags, permissions), absolute); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                   \
  int name(int folder, const char *path, int flags, ...) { \
    REAL(name);                                        \
    MODE_ARGUMENT                                      \
    char absolute[PATH_MAX];                           \
    if (opening(folder, path, flags, absolute) < 0) return -1; \
    return opened(real(folder, path, flags, permissions), absolute); \
  }
OPENAT(openat)
OPENAT(openat64)

int close(int file) {
  REAL(close);
  if (file >= 0 && file < FILES) names[file][0] = 0;
  return real(file);
}

#define ON_FILE(result, name, parameters, call, file, what, effect) \
  result name parameters {                             \
    REAL(name);                                        \
    int decided = holds(file) ? verdict(what, names[file], effect) : 0; \
    if (decided < 0) return -1;                        \
    return real call;                           \
  }

#define WRITING(name, parameters, call, half)          \
  ssize_t name parameters {                            \
    REAL(name);                                        \
    int decided = holds(file) ? verdict("write", names[file], CHANGES) : 0; \
    if (decided < 0) return -1;                        \
    return decided == 1 ? real half : real call; \
  }
WRITING(write, (int file, const void *data, size_t size), (file, data, size),
        (file, data, (size + 1) / 2))
WRITING(pwrite, (int file, const void *data, size_t size, off_t at), (file, data, size, at),
        (file, data, (size + 1) / 2, at))
WRITING(pwrite64, (int file, const void *data, size_t size, off64_t at), (file, data, size, at),
        (file, data, (size + 1) / 2, at))
WRITING(writev, (int file, const struct iovec *parts, int number), (file, parts, number),
        (file, &(struct iovec){parts->iov_base, (parts->iov_len + 1) / 2}, 1))

ON_FILE(ssize_t, read, (int file, void *data, size_t size), (file, data, size), file, "read", READS)
ON_FILE(ssize_t, pread, (int file, void *data, size_t size, off_t at), (file, data, size, at), file,
        "read", READS)
ON_FILE(ssize_t, pread64, (int file, void *data, size_t size, off64_t at), (file, data, size, at),
        file, "read", READS)
ON_FILE(int, fsync, (int file), (file), file, "fsync", CHANGES)
ON_FILE(int, fdatasync, (int file), (file), file, "fsync", CHANGES)
ON_FILE(int, ftruncate, (int file, off_t size), (file, size), file, "truncate", CHANGES)
ON_FILE(int, ftruncate64, (int file, off64_t size), (file, size), file, "truncate", CHANGES)

#define ON_PATH(result, failed, name, parameters, call, folder, path, what, effect) \
  result name parameters {                             \
    REAL(name);                                        \
    char absolute[PATH_MAX];                           \
    int decided = below(folder, path, absolute) ? verdict(what, absolute, effect) : 0; \
    if (decided < 0) return failed;                    \
    return real call;                           \
  }
ON_PATH(int, -1, mkdir, (const char *path, mode_t bits), (path, bits), AT_FDCWD, path, "mkdir",
        CHANGES)
ON_PATH(int, -1, mkdirat, (int folder, const char *path, mode_t bits), (folder, path, bits), folder,
        path, "mkdir", CHANGES)
ON_PATH(int, -1, rename, (const char *path, const char *to), (path, to), AT_FDCWD, path, "rename",
        CHANGES)
ON_PATH(int, -1, renameat, (int folder, const char *path, int other, const char *to),
        (folder, path, other, to), folder, path, "rename", CHANGES)
ON_PATH(int, -1, link, (const char *path, const char *to), (path, to), AT_FDCWD, path, "link",
        CHANGES)
ON_PATH(int, -1, unlink, (const char *path), (path), AT_FDCWD, path, "unlink", CHANGES)
ON_PATH(int, -1, unlinkat, (int folder, const char *path, int flags), (folder, path, flags), folder,
        path, "unlink", CHANGES)
ON_PATH(int, -1, rmdir, (const char *path), (path), AT_FDCWD, path, "rmdir", CHANGES)
ON_PATH(int, -1, stat, (const char *path, struct stat *to), (path, to), AT_FDCWD, path, "stat",
        READS)
ON_PATH(int, -1, stat64, (const char *path, struct stat64 *to), (path, to), AT_FDCWD, path, "stat",
        READS)
ON_PATH(int, -1, lstat, (const char *path, struct stat *to), (path, to), AT_FDCWD, path, "stat",
        READS)
ON_PATH(int, -1, lstat64, (const char *path, struct stat64 *to), (path, to), AT_FDCWD, path, "stat",
        READS)
ON_PATH(int, -1, fstatat, (int folder, const char *path, struct stat *to, int flags),
        (folder, path, to, flags), folder, path, "stat", READS)
ON_PATH(int, -1, fstatat64, (int folder, const char *path, struct stat64 *to, int flags),
        (folder, path, to, flags), folder, path, "stat", READS)
ON_PATH(DIR *, NULL, opendir, (const char *path), (path), AT_FDCWD, path, "list", READS)
