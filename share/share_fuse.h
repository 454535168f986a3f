/*
 * share_fuse.h - the messages of FUSE 7.x, as far as they are served. Integers are little-endian,
 * as x86 has them; the structures have no padding.
 */
#ifndef POPF_SHARE_FUSE_H
#define POPF_SHARE_FUSE_H

#include "base/base.h"

enum fuse_opcode {
    FUSE_LOOKUP = 1,
    FUSE_FORGET = 2, /* no reply */
    FUSE_GETATTR = 3,
    FUSE_SETATTR = 4,
    FUSE_READLINK = 5,
    FUSE_SYMLINK = 6,
    FUSE_MKNOD = 8,
    FUSE_MKDIR = 9,
    FUSE_UNLINK = 10,
    FUSE_RMDIR = 11,
    FUSE_RENAME = 12,
    FUSE_LINK = 13,
    FUSE_OPEN = 14,
    FUSE_READ = 15,
    FUSE_WRITE = 16,
    FUSE_STATFS = 17,
    FUSE_RELEASE = 18,
    FUSE_FSYNC = 20,
    FUSE_SETXATTR = 21,
    FUSE_GETXATTR = 22,
    FUSE_LISTXATTR = 23,
    FUSE_REMOVEXATTR = 24,
    FUSE_INIT = 26,
    FUSE_OPENDIR = 27,
    FUSE_READDIR = 28,
    FUSE_RELEASEDIR = 29,
    FUSE_FSYNCDIR = 30,
    FUSE_CREATE = 35,
    FUSE_INTERRUPT = 36, /* no reply */
    FUSE_DESTROY = 38,
    FUSE_BATCH_FORGET = 42, /* no reply */
    FUSE_FALLOCATE = 43,
    FUSE_RENAME2 = 45,
    FUSE_LSEEK = 46,
    FUSE_OPCODES
};

struct fuse_in {
    u32 len, opcode;
    u64 unique, nodeid;
    u32 uid, gid, pid, pad;
};

struct fuse_out {
    u32 len;
    s32 error; /* -errno */
    u64 unique;
};

/* FUSE_INIT's flags: those that are accepted if the guest offers them. */
#define FUSE_ASYNC_READ      BIT(0)
#define FUSE_ATOMIC_O_TRUNC  BIT(3)
#define FUSE_BIG_WRITES      BIT(5)
#define FUSE_AUTO_INVAL_DATA BIT(12)
#define FUSE_ASYNC_DIO       BIT(15)
#define FUSE_PARALLEL_DIROPS BIT(18)
#define FUSE_MAX_PAGES       BIT(22)

struct fuse_init_in {
    u32 major, minor, max_readahead, flags;
};

struct fuse_init_out {
    u32 major, minor, max_readahead, flags;
    u16 max_background, congestion_threshold;
    u32 max_write, time_gran;
    u16 max_pages, map_alignment;
    u32 flags2, unused[7];
};

struct fuse_attr {
    u64 ino, size, blocks, atime, mtime, ctime;
    u32 atimensec, mtimensec, ctimensec, mode, nlink, uid, gid, rdev, blksize, flags;
};

struct fuse_attr_out {
    u64 attr_valid; /* s that the guest may believe it */
    u32 attr_valid_nsec, dummy;
    struct fuse_attr attr;
};

struct fuse_entry_out {
    u64 nodeid, generation, entry_valid, attr_valid;
    u32 entry_valid_nsec, attr_valid_nsec;
    struct fuse_attr attr;
};

/* FUSE_SETATTR: `valid`. The bits below ATIME_NOW are those of Tsetattr. */
#define FATTR_ATIME     BIT(4)
#define FATTR_MTIME     BIT(5)
#define FATTR_FH        BIT(6)
#define FATTR_ATIME_NOW BIT(7)
#define FATTR_MTIME_NOW BIT(8)

struct fuse_setattr_in {
    u32 valid, pad;
    u64 fh, size, lock_owner, atime, mtime, ctime;
    u32 atimensec, mtimensec, ctimensec, mode, unused4, uid, gid, unused5;
};

struct fuse_open_out {
    u64 fh;
    u32 open_flags, pad;
};

struct fuse_create_in {
    u32 flags, mode, umask, open_flags;
};

struct fuse_mknod_in {
    u32 mode, rdev, umask, pad;
};

/* FUSE_READ, FUSE_WRITE, FUSE_READDIR */
struct fuse_io_in {
    u64 fh, offset;
    u32 size, io_flags;
    u64 lock_owner;
    u32 flags, pad;
};

struct fuse_dirent {
    u64 ino, off;
    u32 namelen, type;
    /* the name, padded to a multiple of 8 */
};

struct fuse_kstatfs {
    u64 blocks, bfree, bavail, files, ffree;
    u32 bsize, namelen, frsize, pad, spare[6];
};

struct fuse_fallocate_in {
    u64 fh, offset, length;
    u32 mode, pad;
};

struct fuse_lseek_in {
    u64 fh, offset;
    u32 whence, pad;
};

static_assert(sizeof(struct fuse_in) == 40 && sizeof(struct fuse_out) == 16, "headers");
static_assert(sizeof(struct fuse_init_out) == 64 && sizeof(struct fuse_attr) == 88, "layouts");
static_assert(sizeof(struct fuse_setattr_in) == 88 && sizeof(struct fuse_io_in) == 40, "layouts");
static_assert(sizeof(struct fuse_kstatfs) == 80 && sizeof(struct fuse_entry_out) == 128, "layouts");

#endif
