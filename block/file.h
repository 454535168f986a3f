/*
 * file.h - a file (or block device) of the host that holds an image: whole reads and writes at byte
 * offsets, past or through the page cache, locks, holes, durability.
 *
 * All functions may be called by several threads at once, except open and close. Those that do I/O
 * return 0 or a negative errno.
 */
#ifndef POPF_FILE_H
#define POPF_FILE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/uio.h>

#include "base/base.h"

enum file_op {
    FILE_WRITE,
    FILE_SYNC,
    FILE_PUNCH, /* a range reads as zeros from now on */
    FILE_TRUNCATE,
};

/*
 * For tests: sees every change before it is made, in the order of the calls of one thread. May
 * return an errno to make it fail instead; a sync is seen once it is complete.
 */
struct file_watch {
    int (*change)(void *arg, enum file_op op, u64 off, u64 len, const struct iovec *v, unsigned n);
    void *arg;
};

struct file {
    int fd;
    char *name; /* as the user wrote it; for messages */
    bool ro;
    bool device;          /* a block device: does not grow */
    bool temporary;       /* gone with the process: syncs do nothing */
    bool in_memory;       /* tmpfs: reads wait for nothing */
    u32 align;            /* of offsets, lengths and memory: 1, or more with O_DIRECT */
    pthread_rwlock_t rmw; /* O_DIRECT: held for writing while part of a block is replaced */
    _Atomic bool no_punch, no_zero, no_nowait_read;
    _Atomic bool failed;         /* a sync failed: what was written since the last is uncertain */
    _Atomic u64 written, synced; /* counts completed changes; those known to be durable */
    const struct file_watch *watch;
};

#define FILE_RO     BIT(0)
#define FILE_DIRECT BIT(1) /* O_DIRECT */
#define FILE_CREATE BIT(2) /* must not exist */
#define FILE_NOLOCK BIT(3)

/*
 * Opens and locks: any number of readers, or one writer, QEMU's counted (it uses the same bytes).
 * The error names the file. Host file systems without locks go without.
 */
int file_open(struct file *f, const char *name, u32 flags, struct err *e);

/* A new file without a name, in $TMPDIR or else /var/tmp: gone with the process. */
int file_open_temp(struct file *f, struct err *e);

void file_close(struct file *f);

/* Bytes now; 0 if that cannot be told. */
u64 file_size(const struct file *f);

/* Reads all of v; what lies past the end is zeros. */
int file_readv(struct file *f, const struct iovec *v, unsigned n, u64 off);
int file_writev(struct file *f, const struct iovec *v, unsigned n, u64 off);
int file_read(struct file *f, void *buf, size_t len, u64 off);
int file_write(struct file *f, const void *buf, size_t len, u64 off);

/* Reads if that does not block (all of it is in the page cache), or else -EAGAIN. */
int file_try_readv(struct file *f, const struct iovec *v, unsigned n, u64 off);

/* Everything whose write has returned is durable. After one failure it fails for ever. */
int file_sync(struct file *f);

/* The range reads as zeros and its space goes back to the host. -EOPNOTSUPP where it cannot. */
int file_punch(struct file *f, u64 off, u64 len);

/* The range reads as zeros; writes them where the host knows nothing better. */
int file_zero(struct file *f, u64 off, u64 len, bool may_unmap);

int file_truncate(struct file *f, u64 size);

/* Start of the next data or hole at or after `off` within [off, end); `end` if there is none. */
u64 file_next(struct file *f, u64 off, u64 end, bool data);

#endif
