/*
 * share_fuse.c - the folder by FUSE, for guests whose kernel has virtio-fs and not 9P.
 *
 * An inode is a fid, whose number is the nodeid; an open file is another, whose number is the file
 * handle. What the two protocols have in common is done by the operations of 9P, whose arguments
 * are composed here.
 */
#include "share/share_fuse.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "share/share_priv.h"

#define MAJOR       7
#define MINOR       31
#define VALID       1   /* s for which names and attributes may be believed */
#define PAGES_MAX   120 /* of a read or write: a chain has room for them and the headers */
#define HIGH_INODE  (1u << 30)
#define HIGH_HANDLE (1u << 31)
#define ARGS_MAX    8192 /* of a composed 9P message: two names or targets */

typedef int fuse_op(struct share *s, const struct fuse_in *h, struct share_in *in,
                    struct share_out *out);

/* --- in and out --- */

/* Copies a structure in; zeros if the message is too short, and in->err. */
static void take(struct share_in *in, void *to, size_t size)
{
    const u8 *p = share_in_bytes(in, size);
    if (p)
        memcpy(to, p, size);
    else
        memset(to, 0, size);
}

static void give(struct share_out *out, const void *from, size_t size)
{
    if (share_out_room(out) < size) {
        out->full = true;
        return;
    }
    memcpy(out->buf + out->pos, from, size);
    out->pos += size;
}

/* nodeid or fh: no other number is in the table of fids, so a wrong one is EBADF. */
static u32 fid_of(u64 id)
{
    return id <= UINT32_MAX ? id : 0;
}

struct call {
    u8 buf[ARGS_MAX];
    struct share_out args;
};

static struct share_out *compose(struct call *c)
{
    c->args = (struct share_out){.buf = c->buf, .cap = sizeof(c->buf)};
    return &c->args;
}

static void compose_str(struct share_out *args, const char *s)
{
    share_out_str(args, s, strlen(s));
}

/* Calls a 9P operation. Its answer goes to `result`, or nowhere if that is NULL. */
static int call(struct share *s, share_op *op, const struct call *c, struct share_out *result)
{
    u8 scrap[256];
    struct share_out nowhere = {.buf = scrap, .cap = sizeof(scrap)};
    struct share_in in = {.buf = c->args.buf, .len = c->args.pos};
    return op(s, &in, result ? result : &nowhere);
}

/* The same, so that what it answers behind its first `skip` bytes comes behind our header. */
static int call_behind(struct share *s, share_op *op, const struct call *c, struct share_out *out,
                       unsigned skip)
{
    struct share_out part = *out;
    part.pos -= skip;
    int err = call(s, op, c, &part);
    out->pos = part.pos;
    out->full = part.full;
    return err;
}

/* --- attributes and entries --- */

static struct fuse_attr attr_of(const struct share *s, const struct stat *st)
{
    return (struct fuse_attr){
        .ino = share_attr_qid(s, st).path,
        .size = st->st_size,
        .blocks = st->st_blocks,
        .atime = st->st_atim.tv_sec,
        .mtime = st->st_mtim.tv_sec,
        .ctime = st->st_ctim.tv_sec,
        .atimensec = st->st_atim.tv_nsec,
        .mtimensec = st->st_mtim.tv_nsec,
        .ctimensec = st->st_ctim.tv_nsec,
        .mode = st->st_mode,
        .nlink = st->st_nlink,
        .uid = st->st_uid,
        .gid = st->st_gid,
        /* The kernel's encoding of 32 bits. */
        .rdev = (minor(st->st_rdev) & 0xff) | major(st->st_rdev) << 8 |
                (minor(st->st_rdev) & ~0xffu) << 12,
        .blksize = st->st_blksize,
    };
}

static int stat_fid(struct share *s, u32 fid, struct stat *st)
{
    struct share_ref r;
    int err = share_fid_grab(s, fid, &r);
    if (err)
        return err;
    err = share_attr_stat(s, r.node, st);
    share_fid_drop(s, &r);
    return err;
}

static int answer_attr(struct share *s, u32 fid, struct share_out *out)
{
    struct stat st;
    int err = stat_fid(s, fid, &st);
    struct fuse_attr_out a = {.attr_valid = VALID};
    if (!err)
        a.attr = attr_of(s, &st);
    give(out, &a, sizeof(a));
    return err;
}

/* The inode of `name` in the directory, looked up once more. */
static int look_up(struct share *s, u32 dir, const char *name, u32 *num)
{
    struct share_ref r;
    struct share_node *n;
    struct stat st;
    int err = share_fid_grab_dir(s, dir, &r);
    if (err)
        return err;
    err = share_node_walk(s, r.node, name, &n, &st);
    if (!err)
        err = share_fid_inode(s, HIGH_INODE, n, num);
    share_fid_drop(s, &r);
    return err;
}

/* If the guest does not get the answer it does not know that it has looked anything up. */
static int answer_entry(struct share *s, u32 dir, const char *name, struct share_out *out)
{
    struct stat st;
    u32 num;
    int err = look_up(s, dir, name, &num);
    if (err)
        return err;
    err = stat_fid(s, num, &st);
    struct fuse_entry_out e = {.nodeid = num, .entry_valid = VALID, .attr_valid = VALID};
    if (!err)
        e.attr = attr_of(s, &st);
    give(out, &e, sizeof(e));
    if (err || out->full)
        share_fid_forget(s, num, 1);
    return err;
}

static int lookup(struct share *s, const struct fuse_in *h, struct share_in *in,
                  struct share_out *out)
{
    char name[SHARE_NAME_MAX + 1];
    share_in_text_name(in, name, ENOENT);
    return in->err ? in->err : answer_entry(s, fid_of(h->nodeid), name, out);
}

static int forget(struct share *s, const struct fuse_in *h, struct share_in *in,
                  struct share_out *out)
{
    u64 lookups = share_in_u64(in);
    if (!in->err)
        share_fid_forget(s, fid_of(h->nodeid), lookups);
    return 0;
}

static int batch_forget(struct share *s, const struct fuse_in *h, struct share_in *in,
                        struct share_out *out)
{
    u32 count = share_in_u32(in);
    share_in_u32(in);
    while (count-- && !in->err) {
        u64 nodeid = share_in_u64(in), lookups = share_in_u64(in);
        if (!in->err)
            share_fid_forget(s, fid_of(nodeid), lookups);
    }
    return 0;
}

static int getattr(struct share *s, const struct fuse_in *h, struct share_in *in,
                   struct share_out *out)
{
    return answer_attr(s, fid_of(h->nodeid), out);
}

/* In FUSE the exception is that the time is now, in 9P that it is not. */
static u32 setattr_valid(u32 valid)
{
    u32 v = valid & (0x0f | FATTR_ATIME | FATTR_MTIME);
    if ((valid & FATTR_ATIME) && !(valid & FATTR_ATIME_NOW))
        v |= 0x80;
    if ((valid & FATTR_MTIME) && !(valid & FATTR_MTIME_NOW))
        v |= 0x100;
    return v;
}

static int setattr(struct share *s, const struct fuse_in *h, struct share_in *in,
                   struct share_out *out)
{
    struct fuse_setattr_in a;
    struct call c;
    take(in, &a, sizeof(a));
    if (in->err)
        return in->err;
    struct share_out *args = compose(&c);
    share_out_u32(args, fid_of(a.valid & FATTR_FH ? a.fh : h->nodeid));
    share_out_u32(args, setattr_valid(a.valid));
    share_out_u32(args, a.mode);
    share_out_u32(args, a.uid);
    share_out_u32(args, a.gid);
    share_out_u64(args, a.size);
    share_out_u64(args, a.atime);
    share_out_u64(args, a.atimensec);
    share_out_u64(args, a.mtime);
    share_out_u64(args, a.mtimensec);
    int err = call(s, share_attr_setattr, &c, NULL);
    return err ? err : answer_attr(s, fid_of(h->nodeid), out);
}

static int statfs_(struct share *s, const struct fuse_in *h, struct share_in *in,
                   struct share_out *out)
{
    u8 buf[128];
    struct call c;
    struct share_out result = {.buf = buf, .cap = sizeof(buf)};
    share_out_u32(compose(&c), fid_of(h->nodeid));
    int err = call(s, share_attr_statfs, &c, &result);
    struct share_in from = {.buf = buf, .len = result.pos};
    share_in_u32(&from); /* type */
    struct fuse_kstatfs k = {.namelen = SHARE_NAME_MAX};
    k.bsize = k.frsize = share_in_u32(&from);
    k.blocks = share_in_u64(&from);
    k.bfree = share_in_u64(&from);
    k.bavail = share_in_u64(&from);
    k.files = share_in_u64(&from);
    k.ffree = share_in_u64(&from);
    give(out, &k, sizeof(k));
    return err;
}

/* --- names --- */

/* A fid for the directory that makes files for the user who asked. */
static int borrow_dir(struct share *s, const struct fuse_in *h, u32 *num)
{
    struct share_ref r;
    int err = share_fid_grab_dir(s, fid_of(h->nodeid), &r);
    if (err)
        return err;
    pthread_mutex_lock(&s->lock);
    share_node_ref(r.node);
    pthread_mutex_unlock(&s->lock);
    err = share_fid_new(s, HIGH_HANDLE, h->uid, r.node, num);
    share_fid_drop(s, &r);
    return err;
}

/* Makes `name` by a 9P message whose arguments follow the directory's fid. */
static int make(struct share *s, const struct fuse_in *h, share_op *op, struct call *c, u32 dir,
                const char *name, struct share_out *out)
{
    int err = c->args.full ? ENAMETOOLONG : call(s, op, c, NULL);
    share_fid_clunk(s, dir);
    return err ? err : answer_entry(s, fid_of(h->nodeid), name, out);
}

static int mkdir_(struct share *s, const struct fuse_in *h, struct share_in *in,
                  struct share_out *out)
{
    char name[SHARE_NAME_MAX + 1];
    struct call c;
    u32 dir, mode = share_in_u32(in);
    share_in_u32(in); /* umask: it is applied already */
    share_in_text_name(in, name, EEXIST);
    int err = in->err ? in->err : borrow_dir(s, h, &dir);
    if (err)
        return err;
    struct share_out *args = compose(&c);
    share_out_u32(args, dir);
    compose_str(args, name);
    share_out_u32(args, mode);
    share_out_u32(args, h->gid);
    return make(s, h, share_name_mkdir, &c, dir, name, out);
}

static int mknod_(struct share *s, const struct fuse_in *h, struct share_in *in,
                  struct share_out *out)
{
    char name[SHARE_NAME_MAX + 1];
    struct fuse_mknod_in m;
    struct call c;
    u32 dir;
    take(in, &m, sizeof(m));
    share_in_text_name(in, name, EEXIST);
    int err = in->err ? in->err : borrow_dir(s, h, &dir);
    if (err)
        return err;
    struct share_out *args = compose(&c);
    share_out_u32(args, dir);
    compose_str(args, name);
    share_out_u32(args, m.mode);
    share_out_u32(args, m.rdev >> 8 & 0xfff);
    share_out_u32(args, (m.rdev & 0xff) | (m.rdev >> 12 & ~0xffu));
    share_out_u32(args, h->gid);
    return make(s, h, share_name_mknod, &c, dir, name, out);
}

static int symlink_(struct share *s, const struct fuse_in *h, struct share_in *in,
                    struct share_out *out)
{
    char name[SHARE_NAME_MAX + 1], target[SHARE_TARGET_MAX + 1];
    struct call c;
    u32 dir;
    share_in_text_name(in, name, EEXIST);
    share_in_text(in, target, sizeof(target));
    int err = in->err ? in->err : borrow_dir(s, h, &dir);
    if (err)
        return err;
    struct share_out *args = compose(&c);
    share_out_u32(args, dir);
    compose_str(args, name);
    compose_str(args, target);
    share_out_u32(args, h->gid);
    return make(s, h, share_name_symlink, &c, dir, name, out);
}

static int link_(struct share *s, const struct fuse_in *h, struct share_in *in,
                 struct share_out *out)
{
    char name[SHARE_NAME_MAX + 1];
    struct call c;
    u64 old = share_in_u64(in);
    share_in_text_name(in, name, EEXIST);
    if (in->err)
        return in->err;
    struct share_out *args = compose(&c);
    share_out_u32(args, fid_of(h->nodeid));
    share_out_u32(args, fid_of(old));
    compose_str(args, name);
    int err = call(s, share_name_link, &c, NULL);
    return err ? err : answer_entry(s, fid_of(h->nodeid), name, out);
}

static int readlink_(struct share *s, const struct fuse_in *h, struct share_in *in,
                     struct share_out *out)
{
    struct call c;
    share_out_u32(compose(&c), fid_of(h->nodeid));
    return call_behind(s, share_name_readlink, &c, out, 2);
}

static int remove_name(struct share *s, const struct fuse_in *h, struct share_in *in, u32 flags)
{
    char name[SHARE_NAME_MAX + 1];
    struct call c;
    share_in_text_name(in, name, EINVAL);
    if (in->err)
        return in->err;
    struct share_out *args = compose(&c);
    share_out_u32(args, fid_of(h->nodeid));
    compose_str(args, name);
    share_out_u32(args, flags);
    return call(s, share_name_unlinkat, &c, NULL);
}

static int unlink_(struct share *s, const struct fuse_in *h, struct share_in *in,
                   struct share_out *out)
{
    return remove_name(s, h, in, 0);
}

static int rmdir_(struct share *s, const struct fuse_in *h, struct share_in *in,
                  struct share_out *out)
{
    return remove_name(s, h, in, AT_REMOVEDIR);
}

static int rename_to(struct share *s, const struct fuse_in *h, u64 newdir, struct share_in *in)
{
    char oldname[SHARE_NAME_MAX + 1], newname[SHARE_NAME_MAX + 1];
    struct call c;
    share_in_text_name(in, oldname, EINVAL);
    share_in_text_name(in, newname, EINVAL);
    if (in->err)
        return in->err;
    struct share_out *args = compose(&c);
    share_out_u32(args, fid_of(h->nodeid));
    compose_str(args, oldname);
    share_out_u32(args, fid_of(newdir));
    compose_str(args, newname);
    return call(s, share_name_renameat, &c, NULL);
}

static int rename_(struct share *s, const struct fuse_in *h, struct share_in *in,
                   struct share_out *out)
{
    u64 newdir = share_in_u64(in);
    return rename_to(s, h, newdir, in);
}

static int rename2(struct share *s, const struct fuse_in *h, struct share_in *in,
                   struct share_out *out)
{
    u64 newdir = share_in_u64(in);
    u32 flags = share_in_u32(in);
    share_in_u32(in);
    return flags ? EINVAL : rename_to(s, h, newdir, in);
}

/* --- files --- */

/* A handle for the inode that is not open yet. */
static int new_handle(struct share *s, const struct fuse_in *h, u32 *fh)
{
    struct share_ref r;
    int err = share_fid_grab(s, fid_of(h->nodeid), &r);
    if (err)
        return err;
    pthread_mutex_lock(&s->lock);
    share_node_ref(r.node);
    pthread_mutex_unlock(&s->lock);
    err = share_fid_new(s, HIGH_HANDLE, h->uid, r.node, fh);
    share_fid_drop(s, &r);
    return err;
}

static void answer_handle(u32 fh, struct share_out *out)
{
    struct fuse_open_out o = {.fh = fh};
    give(out, &o, sizeof(o));
}

static int open_(struct share *s, const struct fuse_in *h, struct share_in *in,
                 struct share_out *out)
{
    struct call c;
    u32 fh, flags = share_in_u32(in);
    int err = in->err ? in->err : new_handle(s, h, &fh);
    if (err)
        return err;
    struct share_out *args = compose(&c);
    share_out_u32(args, fh);
    share_out_u32(args, flags);
    err = call(s, share_file_lopen, &c, NULL);
    answer_handle(fh, out);
    if (err || out->full)
        share_fid_clunk(s, fh);
    return err;
}

static int create(struct share *s, const struct fuse_in *h, struct share_in *in,
                  struct share_out *out)
{
    char name[SHARE_NAME_MAX + 1];
    struct fuse_create_in m;
    struct call c;
    u32 fh;
    take(in, &m, sizeof(m));
    share_in_text_name(in, name, EEXIST);
    int err = in->err ? in->err : borrow_dir(s, h, &fh);
    if (err)
        return err;
    struct share_out *args = compose(&c);
    share_out_u32(args, fh);
    compose_str(args, name);
    share_out_u32(args, m.flags);
    share_out_u32(args, m.mode);
    share_out_u32(args, h->gid);
    err = call(s, share_file_lcreate, &c, NULL);
    if (!err)
        err = answer_entry(s, fid_of(h->nodeid), name, out);
    answer_handle(fh, out);
    if (err || out->full)
        share_fid_clunk(s, fh);
    return err;
}

static int release(struct share *s, const struct fuse_in *h, struct share_in *in,
                   struct share_out *out)
{
    u64 fh = share_in_u64(in);
    return in->err ? in->err : share_fid_clunk(s, fid_of(fh) & HIGH_HANDLE ? fid_of(fh) : 0);
}

static int read_(struct share *s, const struct fuse_in *h, struct share_in *in,
                 struct share_out *out)
{
    struct fuse_io_in io;
    struct call c;
    take(in, &io, sizeof(io));
    if (in->err)
        return in->err;
    struct share_out *args = compose(&c);
    share_out_u32(args, fid_of(io.fh));
    share_out_u64(args, io.offset);
    share_out_u32(args, io.size);
    return call_behind(s, share_file_read, &c, out, 4);
}

static int write_(struct share *s, const struct fuse_in *h, struct share_in *in,
                  struct share_out *out)
{
    struct fuse_io_in io;
    struct share_ref r;
    u32 count[2] = {0};
    take(in, &io, sizeof(io));
    const u8 *data = share_in_bytes(in, io.size);
    count[0] = io.size;
    int err = in->err ? in->err : s->cfg.readonly ? EROFS : share_fid_grab(s, fid_of(io.fh), &r);
    if (err)
        return err;
    err = share_file_pwrite(&r, io.offset, data, &count[0]);
    share_fid_drop(s, &r);
    give(out, count, sizeof(count));
    return err;
}

static int fsync_(struct share *s, const struct fuse_in *h, struct share_in *in,
                  struct share_out *out)
{
    struct call c;
    u64 fh = share_in_u64(in);
    u32 flags = share_in_u32(in);
    if (in->err)
        return in->err;
    struct share_out *args = compose(&c);
    share_out_u32(args, fid_of(fh));
    share_out_u32(args, flags & 1);
    return call(s, share_file_fsync, &c, NULL);
}

static int fallocate_(struct share *s, const struct fuse_in *h, struct share_in *in,
                      struct share_out *out)
{
    struct fuse_fallocate_in a;
    struct share_ref r;
    take(in, &a, sizeof(a));
    int err = in->err ? in->err : s->cfg.readonly ? EROFS : share_fid_grab(s, fid_of(a.fh), &r);
    if (err)
        return err;
    int fd = r.fid->fd;
    err = fd < 0 ? EBADF : fallocate(fd, a.mode, a.offset, a.length) ? errno : 0;
    share_fid_drop(s, &r);
    return err;
}

static int lseek_(struct share *s, const struct fuse_in *h, struct share_in *in,
                  struct share_out *out)
{
    struct fuse_lseek_in a;
    struct share_ref r;
    take(in, &a, sizeof(a));
    if (!in->err && a.whence != SEEK_DATA && a.whence != SEEK_HOLE)
        return EINVAL; /* the others are the guest's own affair */
    int err = in->err ? in->err : share_fid_grab(s, fid_of(a.fh), &r);
    if (err)
        return err;
    int fd = r.fid->fd;
    off_t to = fd < 0 || r.fid->dir ? -1 : lseek(fd, a.offset, a.whence);
    err = to >= 0 ? 0 : fd < 0 || r.fid->dir ? EBADF : errno;
    share_fid_drop(s, &r);
    share_out_u64(out, to);
    return err;
}

static bool out_dirent(void *arg, const struct stat *st, u64 next, u8 type, const char *name,
                       size_t len)
{
    static const u8 zeros[8];
    struct share_out *out = arg;
    struct fuse_dirent d = {.ino = st->st_ino, .off = next, .namelen = len, .type = type};
    size_t pad = align_up(len, 8) - len;
    if (share_out_room(out) < sizeof(d) + len + pad)
        return false;
    give(out, &d, sizeof(d));
    give(out, name, len);
    give(out, zeros, pad);
    return true;
}

static int readdir_(struct share *s, const struct fuse_in *h, struct share_in *in,
                    struct share_out *out)
{
    struct fuse_io_in io;
    struct share_ref r;
    take(in, &io, sizeof(io));
    int err = in->err ? in->err : share_fid_grab(s, fid_of(io.fh), &r);
    if (err)
        return err;
    struct share_out part = *out;
    part.cap = min_u64(out->cap, out->pos + io.size);
    err = share_file_list(s, &r, io.offset, part.cap, out_dirent, &part);
    share_fid_drop(s, &r);
    out->pos = part.pos;
    return err;
}

/* --- extended attributes --- */

/* The guest asks for the length first, or says what it has room for. */
static int answer_value(const char *buf, size_t len, u32 room, struct share_out *out)
{
    u32 size[2] = {len, 0};
    if (!room)
        give(out, size, sizeof(size));
    else if (len <= room)
        give(out, buf, len);
    return room && len > room ? ERANGE : 0;
}

static int get_value(struct share *s, const struct fuse_in *h, const char *name, u32 room,
                     struct share_out *out)
{
    struct share_ref r;
    int err = share_fid_grab(s, fid_of(h->nodeid), &r);
    if (err)
        return err;
    char *buf = malloc(SHARE_XATTR_VALUE_MAX);
    ssize_t len = buf ? share_xattr_get(r.node, name, buf) : -ENOMEM;
    share_fid_drop(s, &r);
    err = len < 0 ? -len : answer_value(buf, len, room, out);
    free(buf);
    return err;
}

static int getxattr_(struct share *s, const struct fuse_in *h, struct share_in *in,
                     struct share_out *out)
{
    char name[SHARE_NAME_MAX + 1];
    u32 room = share_in_u32(in);
    share_in_u32(in);
    share_in_text(in, name, sizeof(name));
    if (!in->err && !name[0])
        return EINVAL;
    return in->err ? in->err : get_value(s, h, name, room, out);
}

static int listxattr_(struct share *s, const struct fuse_in *h, struct share_in *in,
                      struct share_out *out)
{
    u32 room = share_in_u32(in);
    return in->err ? in->err : get_value(s, h, "", room, out);
}

static int setxattr_(struct share *s, const struct fuse_in *h, struct share_in *in,
                     struct share_out *out)
{
    char name[SHARE_NAME_MAX + 1];
    struct share_ref r;
    u32 size = share_in_u32(in), flags = share_in_u32(in);
    share_in_text(in, name, sizeof(name));
    const u8 *value = share_in_bytes(in, size);
    int err = in->err ? in->err : share_xattr_allowed(s, name, size, flags);
    if (!err)
        err = share_fid_grab(s, fid_of(h->nodeid), &r);
    if (err)
        return err;
    struct share_proc path = share_proc(r.node->fd);
    err = setxattr(path.name, name, value, size, flags) ? errno : 0;
    share_fid_drop(s, &r);
    return err;
}

static int removexattr_(struct share *s, const struct fuse_in *h, struct share_in *in,
                        struct share_out *out)
{
    char name[SHARE_NAME_MAX + 1];
    struct share_ref r;
    share_in_text(in, name, sizeof(name));
    int err = in->err ? in->err : share_xattr_allowed(s, name, 0, 0);
    if (!err)
        err = share_fid_grab(s, fid_of(h->nodeid), &r);
    if (err)
        return err;
    struct share_proc path = share_proc(r.node->fd);
    err = removexattr(path.name, name) ? errno : 0;
    share_fid_drop(s, &r);
    return err;
}

/* --- a session --- */

static int enter_root(struct share *s)
{
    u32 num;
    pthread_mutex_lock(&s->lock);
    share_node_ref(s->tree.root);
    pthread_mutex_unlock(&s->lock);
    return share_fid_inode(s, SHARE_ROOT_INODE, s->tree.root, &num);
}

static int init(struct share *s, const struct fuse_in *h, struct share_in *in,
                struct share_out *out)
{
    static const u32 wanted = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES |
                              FUSE_AUTO_INVAL_DATA | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS |
                              FUSE_MAX_PAGES;
    struct fuse_init_in i;
    take(in, &i, sizeof(i));
    if (in->err)
        return in->err;
    if (i.major < MAJOR || (i.major == MAJOR && i.minor < MINOR))
        return EPROTO; /* Linux before 5.4, which has no virtio-fs */
    struct fuse_init_out o = {.major = MAJOR, .minor = MINOR};
    int err = 0;
    share_reset(s);
    if (i.major == MAJOR) { /* else it asks again, with ours */
        err = enter_root(s);
        s->msize = SHARE_MSIZE_MAX;
        o.max_readahead = i.max_readahead;
        o.flags = i.flags & wanted;
        o.max_write = PAGES_MAX * PAGE_SIZE;
        o.max_pages = PAGES_MAX;
        o.time_gran = 1;
    }
    give(out, &o, sizeof(o));
    return err;
}

static int destroy(struct share *s, const struct fuse_in *h, struct share_in *in,
                   struct share_out *out)
{
    share_reset(s);
    return 0;
}

static int interrupt(struct share *s, const struct fuse_in *h, struct share_in *in,
                     struct share_out *out)
{
    return 0; /* nothing waits for long here */
}

static fuse_op *const ops[FUSE_OPCODES] = {
    [FUSE_LOOKUP] = lookup,
    [FUSE_FORGET] = forget,
    [FUSE_GETATTR] = getattr,
    [FUSE_SETATTR] = setattr,
    [FUSE_READLINK] = readlink_,
    [FUSE_SYMLINK] = symlink_,
    [FUSE_MKNOD] = mknod_,
    [FUSE_MKDIR] = mkdir_,
    [FUSE_UNLINK] = unlink_,
    [FUSE_RMDIR] = rmdir_,
    [FUSE_RENAME] = rename_,
    [FUSE_LINK] = link_,
    [FUSE_OPEN] = open_,
    [FUSE_READ] = read_,
    [FUSE_WRITE] = write_,
    [FUSE_STATFS] = statfs_,
    [FUSE_RELEASE] = release,
    [FUSE_FSYNC] = fsync_,
    [FUSE_SETXATTR] = setxattr_,
    [FUSE_GETXATTR] = getxattr_,
    [FUSE_LISTXATTR] = listxattr_,
    [FUSE_REMOVEXATTR] = removexattr_,
    [FUSE_INIT] = init,
    [FUSE_OPENDIR] = open_,
    [FUSE_READDIR] = readdir_,
    [FUSE_RELEASEDIR] = release,
    [FUSE_FSYNCDIR] = fsync_,
    [FUSE_CREATE] = create,
    [FUSE_INTERRUPT] = interrupt,
    [FUSE_DESTROY] = destroy,
    [FUSE_BATCH_FORGET] = batch_forget,
    [FUSE_FALLOCATE] = fallocate_,
    [FUSE_RENAME2] = rename2,
    [FUSE_LSEEK] = lseek_,
};

static bool is_silent(u32 opcode)
{
    return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT;
}

static int run(struct share *s, const struct fuse_in *h, struct share_in *in, struct share_out *out)
{
    fuse_op *op = h->opcode < FUSE_OPCODES ? ops[h->opcode] : NULL;
    if (h->len < sizeof(*h) || h->len > in->len)
        return EIO;
    if (!s->msize && h->opcode != FUSE_INIT)
        return EIO;
    in->len = h->len;
    int err = op ? op(s, h, in, out) : ENOSYS;
    return err == EPROTO ? EIO : err;
}

size_t share_fuse_serve(struct share *s, const u8 *req, size_t n, u8 *reply, size_t cap)
{
    struct share_in in = {.buf = req, .len = n};
    struct fuse_in h;
    struct fuse_out o = {0};
    struct share_out out = {.buf = reply, .cap = min_u64(cap, SHARE_MSIZE_MAX), .pos = sizeof(o)};
    take(&in, &h, sizeof(h));
    if (in.err || (cap < sizeof(o) && !is_silent(h.opcode)))
        return 0;
    if (cap < sizeof(o))
        out.full = true;
    int err = run(s, &h, &in, &out);
    if (is_silent(h.opcode))
        return 0;
    if (!err && out.full)
        err = EIO;
    o = (struct fuse_out){.len = err ? sizeof(o) : out.pos, .error = -err, .unique = h.unique};
    memcpy(reply, &o, sizeof(o));
    return o.len;
}
