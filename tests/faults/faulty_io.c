/* A disk that fails once, for a process that runs with this library preloaded.
 *
 * Calls below $FAULT_STORE are counted by sort; the $FAULT_AT-th of the sort that $FAULT_KIND is about fails.
 * At the end their number is written to $FAULT_COUNT. Kinds: write-error, short-write, disk-full, sync-error,
 * read-error, flip-on-read.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

enum { WRITES, SYNCS, READS };

static unsigned long calls;

static int is_kind(const char *kind)
{
    const char *asked = getenv("FAULT_KIND");
    return asked && !strcmp(asked, kind);
}

static int is_below(int fd)
{
    int kept = errno;
    char link[64], path[PATH_MAX];
    const char *store = getenv("FAULT_STORE");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = store ? readlink(link, path, sizeof path - 1) : -1;
    errno = kept;
    if (length <= 0)
        return 0;
    path[length] = 0;
    return !strncmp(path, store, strlen(store));
}

static int is_about(int sort)
{
    if (sort == SYNCS)
        return is_kind("sync-error");
    if (sort == READS)
        return is_kind("read-error") || is_kind("flip-on-read");
    return is_kind("write-error") || is_kind("short-write") || is_kind("disk-full");
}

/* Whether this is the call that fails. */
static int is_due(int fd, int sort)
{
    if (!is_about(sort) || !is_below(fd))
        return 0;
    const char *at = getenv("FAULT_AT");
    return __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED) == (at ? strtoul(at, NULL, 10) : 0);
}

__attribute__((destructor)) static void tell(void)
{
    const char *path = getenv("FAULT_COUNT");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (file) {
        fprintf(file, "%lu\n", calls);
        fclose(file);
    }
}

static int fail(void)
{
    errno = is_kind("disk-full") ? ENOSPC : EIO;
    return -1;
}

/* The size that is written of what was asked; -1 where it fails. */
static ssize_t cut(size_t size)
{
    if (!is_kind("short-write"))
        return fail();
    return size > 1 ? (ssize_t)(size / 2) : (ssize_t)size;
}

static ssize_t spoiled(void *data, ssize_t size)
{
    if (size > 0) {
        if (is_kind("read-error"))
            return fail();
        ((unsigned char *)data)[(size_t)size / 3] ^= 0x04;
    }
    return size;
}

ssize_t write(int fd, const void *data, size_t size)
{
    ssize_t given = is_due(fd, WRITES) ? cut(size) : (ssize_t)size;
    return given < 0 ? -1 : REAL(write)(fd, data, (size_t)given);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    ssize_t given = is_due(fd, WRITES) ? cut(size) : (ssize_t)size;
    return given < 0 ? -1 : REAL(pwrite)(fd, data, (size_t)given, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    ssize_t given = is_due(fd, WRITES) ? cut(size) : (ssize_t)size;
    return given < 0 ? -1 : REAL(pwrite64)(fd, data, (size_t)given, at);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at)
{
    if (!is_due(fd, WRITES))
        return REAL(pwritev)(fd, parts, count, at);
    ssize_t given = cut(parts[0].iov_len);
    return given < 0 ? -1 : REAL(pwrite)(fd, parts[0].iov_base, (size_t)given, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    if (!is_due(fd, WRITES))
        return REAL(writev)(fd, parts, count);
    ssize_t given = cut(parts[0].iov_len);
    return given < 0 ? -1 : REAL(write)(fd, parts[0].iov_base, (size_t)given);
}

int fsync(int fd)
{
    return is_due(fd, SYNCS) ? fail() : REAL(fsync)(fd);
}

int fdatasync(int fd)
{
    return is_due(fd, SYNCS) ? fail() : REAL(fdatasync)(fd);
}

ssize_t read(int fd, void *data, size_t size)
{
    ssize_t found = REAL(read)(fd, data, size);
    return found > 0 && is_due(fd, READS) ? spoiled(data, found) : found;
}

ssize_t pread(int fd, void *data, size_t size, off_t at)
{
    ssize_t found = REAL(pread)(fd, data, size, at);
    return found > 0 && is_due(fd, READS) ? spoiled(data, found) : found;
}

ssize_t pread64(int fd, void *data, size_t size, off64_t at)
{
    ssize_t found = REAL(pread64)(fd, data, size, at);
    return found > 0 && is_due(fd, READS) ? spoiled(data, found) : found;
}
