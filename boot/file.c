#include "boot/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* One read() takes at most this much, less than the 2 GiB that Linux allows. */
#define READ_CHUNK (64 * MiB)

void blob_free(struct blob *b)
{
    free(b->owned);
    *b = (struct blob){0};
}

void blob_forget(const u8 *from, u64 size)
{
    u64 start = align_up((u64)from, PAGE_SIZE), end = align_down((u64)from + size, PAGE_SIZE);
    if (start < end)
        madvise((void *)start, end - start, MADV_DONTNEED);
}

static int check_size(u64 size, const char *name, const char *role, u64 max, struct err *e)
{
    if (!size)
        return err_set(e, "%s '%.200s' is empty", role, name);
    if (size > max)
        return err_set(e, "%s '%.200s' is too large: it has %llu MiB, %llu MiB is the most", role,
                       name, (unsigned long long)((size + MiB - 1) / MiB),
                       (unsigned long long)(max / MiB));
    return 0;
}

/* A device or a pipe could block or never end, and nobody boots from one. */
static int check_kind(const struct stat *st, const char *name, const char *role, struct err *e)
{
    if (S_ISREG(st->st_mode))
        return 0;
    const char *kind = S_ISDIR(st->st_mode)    ? "a directory"
                       : S_ISCHR(st->st_mode)  ? "a device"
                       : S_ISBLK(st->st_mode)  ? "a block device"
                       : S_ISFIFO(st->st_mode) ? "a pipe"
                                               : "not a regular file";
    return err_set(e, "%s '%.200s' is %s; give a file", role, name, kind);
}

static int read_all(int fd, u8 *buf, u64 size, const char *name, const char *role, struct err *e)
{
    u64 done = 0;
    while (done < size) {
        ssize_t n = read(fd, buf + done, min_u64(size - done, READ_CHUNK));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(e, "cannot read %s '%.200s'", role, name);
        if (n == 0)
            return err_set(e,
                           "%s '%.200s' ends after %llu of %llu bytes; is it still being written?",
                           role, name, (unsigned long long)done, (unsigned long long)size);
        done += n;
    }
    return 0;
}

static int read_fd(int fd, const char *name, const char *role, u64 max, struct blob *out,
                   struct err *e)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_errno(e, "cannot look at %s '%.200s'", role, name);
    if (check_kind(&st, name, role, e) || check_size(st.st_size, name, role, max, e))
        return -1;
    u8 *buf = malloc(st.st_size);
    if (!buf)
        return err_errno(e, "no memory for %s '%.200s'", role, name);
    if (read_all(fd, buf, st.st_size, name, role, e)) {
        free(buf);
        return -1;
    }
    *out = (struct blob){.data = buf, .size = st.st_size, .owned = buf};
    return 0;
}

int file_load(const struct boot_src *src, const char *role, u64 max, struct blob *out,
              struct err *e)
{
    *out = (struct blob){0};
    if (src->data) {
        *out = (struct blob){.data = src->data, .size = src->size};
        return check_size(src->size, src->path ? src->path : "(in memory)", role, max, e);
    }
    if (!src->path)
        return err_set(e, "no %s was given", role);
    /* O_NONBLOCK: opening a pipe that nobody writes to would hang. */
    int fd = open(src->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return err_errno(e, "cannot open %s '%.200s'", role, src->path);
    int r = read_fd(fd, src->path, role, max, out, e);
    close(fd);
    return r;
}
