#include "block/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "block/iov.h"

/* A bounce buffer of O_DIRECT, and the zeros that file_zero() writes at a time. */
#define BOUNCE (1 * MiB)

/* --- opening --- */

/*
 * QEMU's scheme: a byte per permission that is in use, and one per permission that others shall not
 * have, all as shared locks; whoever comes looks for locks that contradict his own.
 */
enum {
    BYTE_READ = 100,
    BYTE_WRITE = 101,
    BYTE_NO_WRITE = 201,
};

static int shared_lock(int fd, off_t byte)
{
    struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    return fcntl(fd, F_OFD_SETLK, &l);
}

/* Does somebody else hold a lock on the byte? */
static bool is_locked(int fd, off_t byte)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    return fcntl(fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK;
}

static int lock(struct file *f, struct err *e)
{
    if (shared_lock(f->fd, BYTE_READ))
        return 0; /* a file system without locks */
    shared_lock(f->fd, BYTE_NO_WRITE);
    if (!f->ro)
        shared_lock(f->fd, BYTE_WRITE);
    if (is_locked(f->fd, BYTE_WRITE))
        return err_set(e,
                       "%s is in use: another program has it open for writing (stop that one "
                       "first; two at once would destroy it)",
                       f->name);
    if (!f->ro && is_locked(f->fd, BYTE_NO_WRITE))
        return err_set(e,
                       "%s is in use: another program reads it and relies on its not changing "
                       "(stop that one first, or open it with ,overlay or ,ro)",
                       f->name);
    return 0;
}

/*
 * What O_DIRECT wants. Asking the kernel needs newer headers than Debian 12's, and probing does not
 * work on holes: 4096 suits every device, 512 is for files that end between.
 */
static u32 direct_align(const struct file *f)
{
    return file_size(f) % 4096 ? 512 : 4096;
}

static int check_kind(struct file *f, struct err *e)
{
    struct stat st;
    if (fstat(f->fd, &st))
        return err_errno(e, "cannot look at %s", f->name);
    if (S_ISBLK(st.st_mode))
        f->device = true;
    else if (!S_ISREG(st.st_mode))
        return err_set(e, "%s is neither a file nor a block device", f->name);
    return 0;
}

/* tmpfs does not know RWF_NOWAIT, and does not need it. */
static bool is_in_memory(int fd)
{
    struct statfs st;
    return fstatfs(fd, &st) == 0 && (st.f_type == TMPFS_MAGIC || st.f_type == RAMFS_MAGIC);
}

static void init(struct file *f)
{
    *f = (struct file){.fd = -1, .align = 1};
    pthread_rwlock_init(&f->rmw, NULL);
}

int file_open(struct file *f, const char *name, u32 flags, struct err *e)
{
    init(f);
    f->ro = flags & FILE_RO;
    f->name = strdup(name);
    int mode = f->ro ? O_RDONLY : O_RDWR;
    mode |= flags & FILE_CREATE ? O_CREAT | O_EXCL : 0;
    mode |= flags & FILE_DIRECT ? O_DIRECT : 0;
    /* O_NONBLOCK: a FIFO must not hang us; it means nothing to files and block devices. */
    f->fd = f->name ? open(name, mode | O_CLOEXEC | O_NONBLOCK, 0644) : -1;
    if (f->fd < 0) {
        if (flags & FILE_DIRECT && errno == EINVAL)
            err_set(e, "%s: its file system cannot go past the page cache (leave cache=off out)",
                    name);
        else if (flags & FILE_CREATE)
            err_errno(e, "cannot create %s", name);
        else
            err_errno(e, "cannot open %s for %s", name, f->ro ? "reading" : "reading and writing");
        file_close(f);
        return -1;
    }
    if (check_kind(f, e) || (!(flags & FILE_NOLOCK) && lock(f, e))) {
        file_close(f);
        return -1;
    }
    if (flags & FILE_DIRECT)
        f->align = direct_align(f);
    f->in_memory = is_in_memory(f->fd);
    return 0;
}

static int open_unlinked(const char *dir)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        return fd;
    char path[4096];
    if (snprintf(path, sizeof(path), "%s/popf-XXXXXX", dir) >= (int)sizeof(path))
        return -1;
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

int file_open_temp(struct file *f, struct err *e)
{
    init(f);
    const char *dir = getenv("TMPDIR");
    /* /tmp is often a file system in memory; a disk's overlay may grow. */
    const char *const dirs[] = {dir && *dir ? dir : "/var/tmp", "/var/tmp", "/tmp"};
    for (unsigned i = 0; i < ARRAY_SIZE(dirs) && f->fd < 0; i++)
        f->fd = open_unlinked(dirs[i]);
    f->name = strdup("the temporary overlay");
    f->temporary = true;
    f->in_memory = f->fd >= 0 && is_in_memory(f->fd);
    if (f->fd >= 0 && f->name)
        return 0;
    err_errno(e, "cannot make a temporary file for the overlay in %s (set TMPDIR)", dirs[0]);
    file_close(f);
    return -1;
}

void file_close(struct file *f)
{
    int saved = errno;
    if (f->fd >= 0)
        close(f->fd);
    free(f->name);
    pthread_rwlock_destroy(&f->rmw);
    f->fd = -1;
    f->name = NULL;
    errno = saved;
}

u64 file_size(const struct file *f)
{
    struct stat st;
    u64 bytes;
    if (f->device)
        return ioctl(f->fd, BLKGETSIZE64, &bytes) ? 0 : bytes;
    return fstat(f->fd, &st) ? 0 : (u64)st.st_size;
}

/* --- plain reads and writes --- */

static int watch(struct file *f, enum file_op op, u64 off, u64 len, const struct iovec *v,
                 unsigned n)
{
    return f->watch ? f->watch->change(f->watch->arg, op, off, len, v, n) : 0;
}

static void changed(struct file *f)
{
    atomic_fetch_add(&f->written, 1);
}

/* One transfer, repeated until all is done. */
static int transfer(struct file *f, const struct iovec *v, unsigned n, u64 off, bool write)
{
    struct iovec rest[BLOCK_SEGS_ALL];
    u64 len = iov_length(v, n), pos = 0;
    assert(n <= BLOCK_SEGS_ALL);
    while (pos < len) {
        const struct iovec *part = v;
        unsigned k = n;
        if (pos) {
            k = iov_slice(rest, v, n, pos, len - pos);
            part = rest;
        }
        ssize_t did = write ? pwritev(f->fd, part, (int)k, (off_t)(off + pos))
                            : preadv(f->fd, part, (int)k, (off_t)(off + pos));
        if (did < 0 && errno == EINTR)
            continue;
        if (did < 0)
            return -errno;
        if (did == 0 && write)
            return -ENOSPC;
        if (did == 0) {
            iov_zero(v, n, pos, len - pos);
            return 0;
        }
        pos += (u64)did;
    }
    return 0;
}

/* --- O_DIRECT: what is not aligned goes through a buffer --- */

static bool is_aligned(const struct file *f, const struct iovec *v, unsigned n, u64 off)
{
    u64 all = off;
    for (unsigned i = 0; i < n; i++)
        all |= (u64)(uintptr_t)v[i].iov_base | v[i].iov_len;
    return !(all & (f->align - 1));
}

static int bounce_read(struct file *f, u8 *buf, const struct iovec *v, unsigned n, u64 off, u64 len)
{
    for (u64 pos = 0; pos < len;) {
        u64 lo = align_down(off + pos, f->align);
        u64 hi = min_u64(align_up(off + len, f->align), lo + BOUNCE);
        struct iovec all = {buf, hi - lo};
        int rc = transfer(f, &all, 1, lo, false);
        if (rc)
            return rc;
        u64 part = min_u64(len - pos, hi - (off + pos));
        iov_copy(v, n, pos, buf + (off + pos - lo), part, false);
        pos += part;
    }
    return 0;
}

/* rmw is held for writing: nobody else changes the rest of the blocks at the edges. */
static int bounce_write(struct file *f, u8 *buf, const struct iovec *v, unsigned n, u64 off,
                        u64 len)
{
    for (u64 pos = 0; pos < len;) {
        u64 lo = align_down(off + pos, f->align);
        u64 hi = min_u64(align_up(off + len, f->align), lo + BOUNCE);
        u64 part = min_u64(len - pos, hi - (off + pos));
        struct iovec all = {buf, hi - lo};
        if (lo != off + pos || hi != off + pos + part) {
            int rc = transfer(f, &all, 1, lo, false);
            if (rc)
                return rc;
        }
        iov_copy(v, n, pos, buf + (off + pos - lo), part, true);
        int rc = transfer(f, &all, 1, lo, true);
        if (rc)
            return rc;
        pos += part;
    }
    return 0;
}

static int bounce(struct file *f, const struct iovec *v, unsigned n, u64 off, bool write)
{
    u64 len = iov_length(v, n);
    u8 *buf = aligned_alloc(4096, min_u64(align_up(len, 4096) + 2 * 4096, BOUNCE));
    if (!buf)
        return -ENOMEM;
    int rc = write ? bounce_write(f, buf, v, n, off, len) : bounce_read(f, buf, v, n, off, len);
    free(buf);
    return rc;
}

static int direct_write(struct file *f, const struct iovec *v, unsigned n, u64 off)
{
    bool aligned = is_aligned(f, v, n, off);
    if (aligned)
        pthread_rwlock_rdlock(&f->rmw);
    else
        pthread_rwlock_wrlock(&f->rmw);
    int rc = aligned ? transfer(f, v, n, off, true) : bounce(f, v, n, off, true);
    pthread_rwlock_unlock(&f->rmw);
    return rc;
}

/* --- the calls --- */

int file_readv(struct file *f, const struct iovec *v, unsigned n, u64 off)
{
    if (f->align > 1 && !is_aligned(f, v, n, off))
        return bounce(f, v, n, off, false);
    return transfer(f, v, n, off, false);
}

int file_writev(struct file *f, const struct iovec *v, unsigned n, u64 off)
{
    int why = watch(f, FILE_WRITE, off, iov_length(v, n), v, n);
    if (why)
        return -why;
    int rc = f->align > 1 ? direct_write(f, v, n, off) : transfer(f, v, n, off, true);
    /* After the write, also a failed one: a sync that starts now must reach the disk. */
    changed(f);
    return rc;
}

int file_read(struct file *f, void *buf, size_t len, u64 off)
{
    struct iovec v = {buf, len};
    return file_readv(f, &v, 1, off);
}

int file_write(struct file *f, const void *buf, size_t len, u64 off)
{
    struct iovec v = {(void *)buf, len};
    return file_writev(f, &v, 1, off);
}

int file_try_readv(struct file *f, const struct iovec *v, unsigned n, u64 off)
{
    if (f->align > 1 || atomic_load_explicit(&f->no_nowait_read, memory_order_relaxed))
        return -EAGAIN;
    ssize_t did = preadv2(f->fd, v, (int)n, (off_t)off, f->in_memory ? 0 : RWF_NOWAIT);
    if (did < 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
        atomic_store(&f->no_nowait_read, true);
    return did >= 0 && (u64)did == iov_length(v, n) ? 0 : -EAGAIN;
}

int file_sync(struct file *f)
{
    if (f->temporary)
        return 0;
    if (atomic_load(&f->failed))
        return -EIO;
    u64 now = atomic_load(&f->written);
    if (now == atomic_load(&f->synced))
        return 0;
    if (fdatasync(f->fd)) {
        /* The kernel forgets what it could not write; trying again would only seem to succeed. */
        int saved = errno;
        atomic_store(&f->failed, true);
        return -saved;
    }
    int why = watch(f, FILE_SYNC, 0, 0, NULL, 0);
    if (why) {
        atomic_store(&f->failed, true);
        return -why;
    }
    u64 before = atomic_load(&f->synced);
    while (before < now && !atomic_compare_exchange_weak(&f->synced, &before, now))
        ;
    return 0;
}

static int device_range(struct file *f, unsigned long request, u64 off, u64 len)
{
    u64 range[2] = {off, len};
    return ioctl(f->fd, request, range) ? -errno : 0;
}

static bool is_unknown(int rc)
{
    return rc == -EOPNOTSUPP || rc == -ENOSYS || rc == -ENOTTY || rc == -EINVAL;
}

int file_punch(struct file *f, u64 off, u64 len)
{
    if (atomic_load_explicit(&f->no_punch, memory_order_relaxed))
        return -EOPNOTSUPP;
    int why = watch(f, FILE_PUNCH, off, len, NULL, 0);
    if (why)
        return -why;
    int rc;
    if (f->device)
        rc = device_range(f, BLKDISCARD, off, len);
    else
        rc = fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len)
                 ? -errno
                 : 0;
    changed(f);
    if (!is_unknown(rc))
        return rc;
    atomic_store(&f->no_punch, true);
    return -EOPNOTSUPP;
}

static int write_zeros(struct file *f, u64 off, u64 len)
{
    size_t size = min_u64(align_up(len, 4096), BOUNCE);
    u8 *zeros = aligned_alloc(4096, size);
    if (!zeros)
        return -ENOMEM;
    memset(zeros, 0, size);
    int rc = 0;
    for (u64 part; len && !rc; off += part, len -= part) {
        part = min_u64(len, size);
        rc = file_write(f, zeros, part, off);
    }
    free(zeros);
    return rc;
}

int file_zero(struct file *f, u64 off, u64 len, bool may_unmap)
{
    /* A discarded range of a device may read as anything. */
    if (may_unmap && !f->device && file_punch(f, off, len) == 0)
        return 0;
    if (atomic_load_explicit(&f->no_zero, memory_order_relaxed))
        return write_zeros(f, off, len);
    int why = watch(f, FILE_PUNCH, off, len, NULL, 0);
    if (why)
        return -why;
    int rc;
    if (f->device)
        rc = device_range(f, BLKZEROOUT, off, len);
    else
        rc = fallocate(f->fd, FALLOC_FL_ZERO_RANGE, (off_t)off, (off_t)len) ? -errno : 0;
    changed(f);
    if (!is_unknown(rc))
        return rc;
    atomic_store(&f->no_zero, true);
    return write_zeros(f, off, len);
}

int file_truncate(struct file *f, u64 size)
{
    int why = watch(f, FILE_TRUNCATE, size, 0, NULL, 0);
    if (why)
        return -why;
    int rc = ftruncate(f->fd, (off_t)size) ? -errno : 0;
    changed(f);
    return rc;
}

u64 file_next(struct file *f, u64 off, u64 end, bool data)
{
    off_t at = lseek(f->fd, (off_t)off, data ? SEEK_DATA : SEEK_HOLE);
    if (at < 0) /* ENXIO: no data up to the end; anything else: all is data */
        return data && errno != ENXIO ? off : end;
    return min_u64((u64)at, end);
}
