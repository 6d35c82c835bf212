/* What a disk holds after the power failed, for a process that runs with this library preloaded.
 *
 * Each time the process syncs a file below $POWER_STORE, the file as it is then is copied to $POWER_DISK;
 * what it wrote and never synced is not. Renames, removals and new folders are taken for durable when they are
 * made.
 * A file opened with O_DSYNC or O_SYNC is synced by each write.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static pthread_mutex_t one_copy = PTHREAD_MUTEX_INITIALIZER;

/* The path on the disk for one in the store; 0 where it is not in the store. */
static int on_disk(const char *path, char *target)
{
    const char *store = getenv("POWER_STORE"), *disk = getenv("POWER_DISK");
    size_t length = store ? strlen(store) : 0;
    if (!store || !disk || strncmp(path, store, length) || path[length] != '/')
        return 0;
    return snprintf(target, PATH_MAX, "%s/%s", disk, path + length + 1) < PATH_MAX;
}

static void fail(const char *what)
{
    perror(what);
    abort();
}

static void copy(const char *path, const char *target)
{
    char temporary[PATH_MAX + 8], block[65536];
    snprintf(temporary, sizeof temporary, "%s.copy", target);
    int from = open(path, O_RDONLY | O_CLOEXEC);
    if (from < 0) {
        if (errno == ENOENT)
            return; /* removed since */
        fail(path);
    }
    int to = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (to < 0)
        fail(temporary);
    off_t at = 0;
    struct stat facts;
    if (fstat(from, &facts) || ftruncate(to, facts.st_size))
        fail(temporary);
    /* Holes stay holes. */
    while (at < facts.st_size && (at = lseek(from, at, SEEK_DATA)) >= 0) {
        off_t end = lseek(from, at, SEEK_HOLE);
        while (at < end) {
            size_t wanted = end - at < (off_t)sizeof block ? (size_t)(end - at) : sizeof block;
            ssize_t got = pread(from, block, wanted, at);
            if (got <= 0)
                break;
            if (REAL(pwrite)(to, block, got, at) != got)
                fail(temporary);
            at += got;
        }
        if (at < end)
            break;
    }
    close(from);
    close(to);
    if (REAL(rename)(temporary, target))
        fail(target);
}

static void synced(int fd)
{
    int kept = errno;
    char link[64], path[PATH_MAX], target[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length > 0) {
        struct stat facts;
        path[length] = 0;
        if (on_disk(path, target) && !fstat(fd, &facts) && S_ISREG(facts.st_mode)) {
            pthread_mutex_lock(&one_copy);
            copy(path, target);
            pthread_mutex_unlock(&one_copy);
        }
    }
    errno = kept;
}

static void written(int fd)
{
    int kept = errno, flags = fcntl(fd, F_GETFL);
    errno = kept;
    if (flags >= 0 && flags & (O_DSYNC | O_SYNC))
        synced(fd);
}

int fsync(int fd)
{
    int result = REAL(fsync)(fd);
    if (!result)
        synced(fd);
    return result;
}

int fdatasync(int fd)
{
    int result = REAL(fdatasync)(fd);
    if (!result)
        synced(fd);
    return result;
}

ssize_t write(int fd, const void *data, size_t size)
{
    ssize_t result = REAL(write)(fd, data, size);
    written(fd);
    return result;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    ssize_t result = REAL(pwrite)(fd, data, size, at);
    written(fd);
    return result;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    ssize_t result = REAL(pwrite64)(fd, data, size, at);
    written(fd);
    return result;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at)
{
    ssize_t result = REAL(pwritev)(fd, parts, count, at);
    written(fd);
    return result;
}

int rename(const char *old, const char *new)
{
    char old_target[PATH_MAX], new_target[PATH_MAX];
    int result = REAL(rename)(old, new);
    if (!result && on_disk(old, old_target) && on_disk(new, new_target)) {
        pthread_mutex_lock(&one_copy);
        REAL(rename)(old_target, new_target);
        pthread_mutex_unlock(&one_copy);
    }
    return result;
}

int mkdir(const char *path, mode_t mode)
{
    char target[PATH_MAX];
    int result = REAL(mkdir)(path, mode);
    if (!result && on_disk(path, target) && REAL(mkdir)(target, mode) && errno != EEXIST)
        fail(target);
    return result;
}

int unlink(const char *path)
{
    char target[PATH_MAX];
    int result = REAL(unlink)(path);
    if (!result && on_disk(path, target)) {
        pthread_mutex_lock(&one_copy);
        REAL(unlink)(target);
        pthread_mutex_unlock(&one_copy);
    }
    return result;
}
