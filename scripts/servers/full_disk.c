/* Preloaded into PostgreSQL by `services`. While the file that FULL_DISK_FLAG
 * names exists, no file can grow, as on a full disk. What is there can still be
 * overwritten. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *flag;

/* A copy: PostgreSQL writes its title over the environment. */
__attribute__((constructor)) static void remember_flag(void) {
    const char *named = getenv("FULL_DISK_FLAG");
    flag = named ? strdup(named) : NULL;
}

/* Whether the disk is full and the file would be larger than it is. */
static int refused(int fd, off64_t end) {
    struct stat64 file;
    if (!flag || access(flag, F_OK) != 0 || fstat64(fd, &file) != 0) return 0;
    return S_ISREG(file.st_mode) && end > file.st_size;
}

static off64_t total(const struct iovec *parts, int count) {
    off64_t bytes = 0;
    for (int i = 0; i < count; i++) bytes += parts[i].iov_len;
    return bytes;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define UNLESS_REFUSED(end, call)         \
    if (refused(fd, end)) {               \
        errno = ENOSPC;                   \
        return -1;                        \
    }                                     \
    return call

ssize_t write(int fd, const void *bytes, size_t count) {
    UNLESS_REFUSED(lseek64(fd, 0, SEEK_CUR) + (off64_t)count, REAL(write)(fd, bytes, count));
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    UNLESS_REFUSED(at + (off64_t)count, REAL(pwrite)(fd, bytes, count, at));
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    UNLESS_REFUSED(at + (off64_t)count, REAL(pwrite64)(fd, bytes, count, at));
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    UNLESS_REFUSED(at + total(parts, count), REAL(pwritev)(fd, parts, count, at));
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    UNLESS_REFUSED(at + total(parts, count), REAL(pwritev64)(fd, parts, count, at));
}

int posix_fallocate64(int fd, off64_t at, off64_t count) {
    return refused(fd, at + count) ? ENOSPC : REAL(posix_fallocate64)(fd, at, count);
}
