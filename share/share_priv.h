/*
 * share_priv.h - what the files of this folder share: the server's state, fids, and the operations.
 *
 * An operation is a function (share, request, reply) that returns 0 or an errno, which becomes an
 * Rlerror. It decodes all arguments first, returns in->err if one is wrong, and then acts.
 */
#ifndef POPF_SHARE_PRIV_H
#define POPF_SHARE_PRIV_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>

#include "share/share.h"
#include "share/share_lock.h"
#include "share/share_msg.h"
#include "share/share_node.h"

#define SHARE_FID_BUCKETS     (1u << 16)
#define SHARE_FIDS_MAX        (1u << 20)
#define SHARE_ROOT_INODE      1 /* FUSE's number for the folder itself */
#define SHARE_NOUID           UINT32_MAX
#define SHARE_XATTR_VALUE_MAX (64 * KiB) /* XATTR_SIZE_MAX, and XATTR_LIST_MAX */
#define SHARE_XATTR_BYTES_MAX (16 * MiB) /* in all fids together */

enum share_fid_kind {
    FID_FILE,
    FID_XATTR_READ,  /* made by Txattrwalk */
    FID_XATTR_WRITE, /* by Txattrcreate; acts when it is clunked */
};

struct share_fid {
    struct share_fid *next;       /* in a bucket */
    struct share_fid *next_inode; /* in a bucket of inodes; FUSE only */
    u32 num;
    u32 uid;                  /* of the attach that it came from; SHARE_NOUID: not said */
    unsigned refs;            /* share->lock: the table's and those of operations under way */
    struct share_node *node;  /* share->lock */
    u64 lookups;              /* share->lock: FUSE only */
    bool locks;               /* share->lock: may hold byte-range locks */
    _Atomic int fd;           /* opened for I/O; -1: not yet. Set once, with `lock` held */
    bool dir;                 /* fd is a directory's. Set before fd is */
    pthread_mutex_t lock;     /* opening, reading a directory, and the extended attribute below */
    enum share_fid_kind kind; /* share->lock */
    u8 *xattr;
    size_t xattr_size, xattr_done;
    u32 xattr_flags;
    char *xattr_name;
};

struct share {
    struct share_config cfg; /* path is not kept */
    bool mapped;             /* attributes in user.popf.attr */
    mode_t umask;
    dev_t dev; /* of the folder itself: the device whose inode numbers are shown as they are */
    _Atomic u32 msize;
    pthread_mutex_t lock; /* the tree, the fids, the locks; never held over blocking I/O but
                             for renameat() and unlinkat(), which change the tree */
    struct share_tree tree;
    struct share_fid *fid[SHARE_FID_BUCKETS];
    struct share_fid *inode[SHARE_FID_BUCKETS]; /* FUSE only: by device and inode number */
    unsigned nfids;
    u32 next_fid;       /* FUSE only */
    size_t xattr_bytes; /* lock */
    struct share_locks locks;
    pthread_mutex_t attr_lock; /* user.popf.attr is read, changed and written */
};

typedef int share_op(struct share *s, struct share_in *in, struct share_out *out);

/* --- /proc/self/fd: the only absolute path there is --- */

struct share_proc {
    char name[32];
};

/* A path that leads to the very file of an O_PATH descriptor, for calls that take none. */
static inline struct share_proc share_proc(int fd)
{
    struct share_proc p;
    snprintf(p.name, sizeof(p.name), "/proc/self/fd/%d", fd);
    return p;
}

/* --- fids (share_fid.c) --- */

/* A fid held for the time of an operation, with its node pinned: node->fd can be used. */
struct share_ref {
    struct share_fid *fid;
    struct share_node *node;
    enum share_fid_kind kind;
};

/* 0, EBADF, or why its file cannot be opened again. */
int share_fid_grab(struct share *s, u32 num, struct share_ref *r);

/* The same for a fid of kind FID_FILE whose file is a directory, else ENOTDIR. */
int share_fid_grab_dir(struct share *s, u32 num, struct share_ref *r);

void share_fid_drop(struct share *s, struct share_ref *r);

/* Enters a fid for `node`, whose reference it takes over in any case. 0, EBADF (the number is in
 * use), ENFILE, ENOMEM. */
int share_fid_add(struct share *s, u32 num, u32 uid, struct share_node *node);

/* Enters a fid that reads the `size` bytes at `value`, which it takes over in any case. */
int share_fid_add_xattr(struct share *s, u32 num, const struct share_ref *from, u8 *value,
                        size_t size);

/* Makes a fid that has not been opened one that collects `size` bytes for attribute `name`. */
int share_fid_become_xattr(struct share *s, struct share_ref *r, const char *name, size_t size,
                           u32 flags);

/* Enters a fid with a number of the server's choosing, `high` or more (a power of two). */
int share_fid_new(struct share *s, u32 high, u32 uid, struct share_node *node, u32 *num);

/*
 * For FUSE: the fid of the node's file, the same for all its names, looked up once more. Takes
 * node's reference over in any case. A new one gets a number of `high` or more (a power of two; 1
 * for the folder itself, which must be the first).
 */
int share_fid_inode(struct share *s, u32 high, struct share_node *node, u32 *num);

/* Takes `lookups` back; at none the fid goes. */
void share_fid_forget(struct share *s, u32 num, u64 lookups);

/* Makes a fid that has not been opened stand for `node`, whose reference it takes over. */
int share_fid_replace(struct share *s, struct share_ref *r, struct share_node *node);

/* Takes a fid out of the table, whatever became of its file; one that collects an extended
 * attribute sets it now. 0, EBADF, or why the attribute could not be set. */
int share_fid_clunk(struct share *s, u32 num);

void share_fid_remove_all(struct share *s);

/* --- files and their attributes (share_attr.c) --- */

struct share_qid share_attr_qid(const struct share *s, const struct stat *st);

/* fstat() of a node, with the guest's idea of ownership, mode and device. */
int share_attr_stat(struct share *s, const struct share_node *n, struct stat *st);

/* Writes what the guest wants for a new file: uid (or SHARE_NOUID), gid, mode with its type. */
int share_attr_new(struct share *s, int fd, mode_t type, u32 uid, u32 gid, mode_t mode, u64 rdev);

/*
 * The user writes to the file: set-user-ID goes, and set-group-ID where the group may execute.
 * Before the data are there. Whether a process of the guest has CAP_FSETID nobody says: root (0)
 * has it, and others, SHARE_NOUID too, do not. 0 or an errno.
 */
int share_attr_written(struct share *s, const struct share_node *n, u32 uid);

/* The permission bits that the host's file gets for the guest's mode. */
mode_t share_attr_host_mode(const struct share *s, mode_t mode, bool dir);

/* Is this attribute the server's own, or not one that guests may have? */
bool share_attr_hidden(const char *name);

/* --- the operations --- */

share_op share_attr_getattr, share_attr_setattr, share_attr_statfs;
share_op share_file_lopen, share_file_lcreate, share_file_read, share_file_write,
    share_file_readdir, share_file_fsync;
share_op share_name_mkdir, share_name_mknod, share_name_symlink, share_name_readlink,
    share_name_link, share_name_rename, share_name_renameat, share_name_unlinkat, share_name_remove;
share_op share_xattr_walk, share_xattr_create;
share_op share_lock_lock, share_lock_getlock;
share_op share_walk_version, share_walk_attach, share_walk_walk, share_walk_clunk;

/* --- what the two protocols share --- */

/* Called for each directory entry; false: there is no room for it. */
typedef bool share_emit(void *arg, const struct stat *st, u64 next, u8 type, const char *name,
                        size_t len);

/* Lists the directory that r has open, from `offset` on. EINVAL if not even one entry had room;
 * `size` is about what a reply holds. */
int share_file_list(struct share *s, struct share_ref *r, u64 offset, size_t size, share_emit *emit,
                    void *arg);

/* Writes *count bytes to what r has open; *count is what was written. */
int share_file_pwrite(const struct share_ref *r, u64 offset, const u8 *data, u32 *count);

/* The value of `name`, or the list of names if that is "": its length, at most
 * SHARE_XATTR_VALUE_MAX, or -errno. */
ssize_t share_xattr_get(const struct share_node *n, const char *name, char *buf);

/* May it be set? 0 or an errno. */
int share_xattr_allowed(const struct share *s, const char *name, size_t size, u32 flags);

/* Parts of other operations, for a fid that is an extended attribute; r is grabbed. */
int share_xattr_read(struct share_ref *r, u64 offset, u32 count, struct share_out *out);
int share_xattr_write(struct share_ref *r, u64 offset, const u8 *data, u32 count);
int share_xattr_clunk(struct share_ref *r);

#endif
