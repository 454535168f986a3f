/*
 * share_lock.h - byte-range locks among the processes of a guest, as fcntl() has them.
 *
 * The guest's kernel has already let its own processes wait for each other when it asks here; the
 * table answers Tgetlock and keeps several mounts of one share apart. The host's programs take no
 * part in it.
 */
#ifndef POPF_SHARE_LOCK_H
#define POPF_SHARE_LOCK_H

#include <sys/types.h>

#include "base/base.h"

#define SHARE_LOCKS_MAX     4096
#define SHARE_LOCK_NAME_MAX 65 /* of a client: a host name */

enum share_lock_type {
    SHARE_LOCK_READ,
    SHARE_LOCK_WRITE,
    SHARE_LOCK_NONE,
};

struct share_lock {
    struct share_lock *next;
    const void *fid; /* that it was taken through */
    dev_t dev;
    ino_t ino;
    u8 type;
    u64 start, end; /* both included */
    u32 proc;
    char client[SHARE_LOCK_NAME_MAX];
};

struct share_locks {
    struct share_lock *first;
    unsigned count;
};

/* The first lock of another process that stands in the way of `want`, or NULL. */
const struct share_lock *share_locks_conflict(const struct share_locks *l,
                                              const struct share_lock *want);

/* Takes, changes or (SHARE_LOCK_NONE) frees; nothing may be in the way. 0 or ENOLCK. */
int share_locks_set(struct share_locks *l, const struct share_lock *want);

/* Frees what was taken through a fid. */
void share_locks_drop(struct share_locks *l, const void *fid);

#endif
