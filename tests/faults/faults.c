/* File operations below a folder that fail on demand: preloaded into a process by campaign.py.

   Every call of the C library that touches a file below the watched folder is counted, whoever
   makes it, Python or TensorStore. The one of the chosen number fails, once; or all that change
   anything fail from then on, which leaves on disk what a kill at that moment would leave. */

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

enum mode { OFF, ONCE, SHORT, FREEZE };
enum effect { READS, CHANGES };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char watched[PATH_MAX];
static char seen[PATH_MAX + 64];
static unsigned char inside[65536];
static int mode, chosen, code, count, frozen, full;

void faults_arm(const char *folder, int how, int number, int error) {
  pthread_mutex_lock(&lock);
  snprintf(watched, sizeof watched, "%s", folder);
  mode = how, chosen = number, code = error;
  count = frozen = full = 0;
  seen[0] = 0;
  pthread_mutex_unlock(&lock);
}

int faults_count(void) { return count; }
const char *faults_seen(void) { return seen; }

static int below(int folder, const char *path) {
  char absolute[PATH_MAX], link[64];
  if (!watched[0] || !path) return 0;
  if (path[0] != '/') {
    if (folder == AT_FDCWD) {
      if (!getcwd(absolute, sizeof absolute)) return 0;
    } else {
      snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
      ssize_t length = readlink(link, absolute, sizeof absolute - 1);
      if (length < 0) return 0;
      absolute[length] = 0;
    }
    strncat(absolute, "/", sizeof absolute - strlen(absolute) - 1);
    strncat(absolute, path, sizeof absolute - strlen(absolute) - 1);
    path = absolute;
  }
  return !strncmp(path, watched, strlen(watched));
}

static int holds(int file) {
  return file >= 0 && file < (int)sizeof inside && inside[file];
}

/* 0: go on. -1: fail, with errno set. 1: write half. */
static int verdict(const char *name, const char *path, enum effect effect) {
  int result = 0;
  pthread_mutex_lock(&lock);
  if (mode == OFF) {
    ++count;
  } else if (full && !strcmp(name, "write")) {
    full = 0, errno = ENOSPC, result = -1;
  } else if (frozen) {
    if (effect == CHANGES) errno = code, result = -1;
  } else if (++count == chosen) {
    snprintf(seen, sizeof seen, "%s %s", name, path ? path : "");
    if (mode == ONCE) errno = code, result = -1;
    if (mode == SHORT) {
      if (!strcmp(name, "write")) full = 1, result = 1;
      else errno = ENOSPC, result = -1;
    }
    if (mode == FREEZE) frozen = 1;
  }
  pthread_mutex_unlock(&lock);
  return result;
}

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static int opening(int folder, const char *path, int flags, int *decided) {
  *decided = 0;
  if (!below(folder, path)) return 0;
  int changes = flags & (O_CREAT | O_TRUNC);
  *decided = verdict(changes ? "create" : "open", path, changes ? CHANGES : READS);
  return 1;
}

static int opened(int file, int ours) {
  if (file >= 0 && file < (int)sizeof inside) inside[file] = ours;
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
    int decided, ours = opening(AT_FDCWD, path, flags, &decided); \
    if (decided < 0) return -1;                        \
    return opened(real(path, flags, permissions), ours); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                   \
  int name(int folder, const char *path, int flags, ...) { \
    REAL(name);                                        \
    MODE_ARGUMENT                                      \
    int decided, ours = opening(folder, path, flags, &decided); \
    if (decided < 0) return -1;                        \
    return opened(real(folder, path, flags, permissions), ours); \
  }
OPENAT(openat)
OPENAT(openat64)

int close(int file) {
  REAL(close);
  if (file >= 0 && file < (int)sizeof inside) inside[file] = 0;
  return real(file);
}

#define ON_FILE(result, name, parameters, call, file, what, effect) \
  result name parameters {                             \
    REAL(name);                                        \
    int decided = holds(file) ? verdict(what, #name, effect) : 0; \
    if (decided < 0) return -1;                        \
    return real call;                           \
  }

#define WRITING(name, parameters, call, half)          \
  ssize_t name parameters {                            \
    REAL(name);                                        \
    int decided = holds(file) ? verdict("write", #name, CHANGES) : 0; \
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
        (file, parts, (number + 1) / 2))

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
    int decided = below(folder, path) ? verdict(what, path, effect) : 0; \
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
