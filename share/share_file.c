/*
 * share_file.c - opening, reading, writing; and reading directories.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "share/share_priv.h"

/* 9P2000.L's open flags have the values of Linux's generic ones, which are x86's too. */
#define FLAGS_KEPT (O_ACCMODE | O_TRUNC | O_APPEND | O_DSYNC | O_SYNC)

static_assert(O_CREAT == 0100 && O_EXCL == 0200 && O_TRUNC == 01000 && O_APPEND == 02000 &&
                  O_DSYNC == 010000 && O_SYNC == 04010000,
              "the wire's flags are the host's");

static bool writes(u32 flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC);
}

/* Opens the file behind an O_PATH descriptor whose type is known. A descriptor or -errno. */
static int open_node(struct share *s, const struct share_node *n, u32 flags, u32 uid)
{
    struct share_proc path = share_proc(n->fd);
    if (n->type == S_IFDIR) {
        if (writes(flags))
            return -EISDIR;
        flags = O_RDONLY | O_DIRECTORY;
    } else if (n->type != S_IFREG) {
        return n->type == S_IFLNK ? -ELOOP : -ENXIO;
    } else {
        flags &= FLAGS_KEPT;
    }
    int fd = open(path.name, flags | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return -errno;
    int err = flags & O_TRUNC ? share_attr_written(s, n, uid) : 0;
    if (err)
        close(fd);
    return err ? -err : fd;
}

static int reserve(struct share *s)
{
    pthread_mutex_lock(&s->lock);
    int err = share_node_reserve(s);
    pthread_mutex_unlock(&s->lock);
    return err;
}

static void release(struct share *s)
{
    pthread_mutex_lock(&s->lock);
    share_node_release(s);
    pthread_mutex_unlock(&s->lock);
}

static int answer_open(struct share *s, const struct stat *st, struct share_out *out)
{
    struct share_qid qid = share_attr_qid(s, st);
    share_out_qid(out, &qid);
    share_out_u32(out, 0); /* iounit: as much as fits in a message */
    return 0;
}

/* fid->lock is held. */
static int open_fid(struct share *s, struct share_ref *r, u32 flags, struct stat *st)
{
    if (r->fid->fd >= 0 || r->kind != FID_FILE)
        return EBUSY;
    int err = reserve(s);
    if (err)
        return err;
    int fd = open_node(s, r->node, flags, r->fid->uid);
    if (fd < 0 || fstat(fd, st)) {
        err = fd < 0 ? -fd : errno;
        if (fd >= 0)
            close(fd);
        release(s);
        return err;
    }
    r->fid->dir = r->node->type == S_IFDIR;
    r->fid->fd = fd;
    return 0;
}

int share_file_lopen(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_ref r;
    struct stat st;
    u32 fid = share_in_u32(in), flags = share_in_u32(in);
    if (in->err)
        return in->err;
    if (s->cfg.readonly && writes(flags))
        return EROFS;
    int err = share_fid_grab(s, fid, &r);
    if (err)
        return err;
    pthread_mutex_lock(&r.fid->lock);
    err = open_fid(s, &r, flags, &st);
    pthread_mutex_unlock(&r.fid->lock);
    share_fid_drop(s, &r);
    return err ? err : answer_open(s, &st, out);
}

/* --- creating --- */

struct lcreate {
    u32 fid, flags, mode, gid;
    char name[SHARE_NAME_MAX + 1];
};

/* The file is new and ours, or it is not made at all. A descriptor or -errno. */
static int make_file(struct share *s, const struct share_ref *dir, const struct lcreate *c)
{
    u32 flags = (c->flags & FLAGS_KEPT) | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY;
    mode_t mode = S_IFREG | (c->mode & 07777);
    int fd = openat(dir->node->fd, c->name, flags, share_attr_host_mode(s, mode, false));
    if (fd < 0)
        return -errno;
    int err = share_attr_new(s, fd, S_IFREG, dir->fid->uid, c->gid, mode, 0);
    if (!err)
        return fd;
    unlinkat(dir->node->fd, c->name, 0);
    close(fd);
    return -err;
}

/* The file was there already, and that is fine with the guest. A descriptor or -errno. */
static int open_old(struct share *s, struct share_ref *dir, const struct lcreate *c,
                    struct share_node **n, struct stat *st)
{
    int err = share_node_walk(s, dir->node, c->name, n, st);
    if (err)
        return -err;
    pthread_mutex_lock(&s->lock);
    err = share_node_pin(s, *n);
    pthread_mutex_unlock(&s->lock);
    int fd = err ? -err : open_node(s, *n, c->flags, dir->fid->uid);
    pthread_mutex_lock(&s->lock);
    if (!err)
        share_node_unpin(s, *n);
    if (fd < 0)
        share_node_put(s, *n);
    pthread_mutex_unlock(&s->lock);
    return fd;
}

/* A descriptor, and its node with a reference; or -errno. */
static int open_or_make(struct share *s, struct share_ref *dir, const struct lcreate *c,
                        struct share_node **n, struct stat *st)
{
    int fd = make_file(s, dir, c);
    if (fd == -EEXIST && !(c->flags & O_EXCL))
        return open_old(s, dir, c, n, st);
    int err = fd < 0 ? -fd : share_node_adopt(s, dir->node, c->name, fd, n, st);
    if (err && fd >= 0)
        close(fd);
    return err ? -err : fd;
}

/* fid->lock is held. The fid is the directory's and becomes the file's. */
static int create(struct share *s, struct share_ref *r, const struct lcreate *c, struct stat *st)
{
    struct share_node *n;
    int err = reserve(s);
    if (err)
        return err;
    int fd = open_or_make(s, r, c, &n, st);
    err = fd < 0 ? -fd : share_fid_replace(s, r, n);
    if (!err) {
        r->fid->fd = fd;
        return 0;
    }
    if (fd >= 0)
        close(fd);
    release(s);
    return err;
}

int share_file_lcreate(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_ref r;
    struct lcreate c;
    struct stat st;
    c.fid = share_in_u32(in);
    share_in_name(in, c.name, EEXIST);
    c.flags = share_in_u32(in);
    c.mode = share_in_u32(in);
    c.gid = share_in_u32(in);
    int err = in->err ? in->err : s->cfg.readonly ? EROFS : share_fid_grab_dir(s, c.fid, &r);
    if (err)
        return err;
    pthread_mutex_lock(&r.fid->lock);
    err = r.fid->fd >= 0 ? EBUSY : create(s, &r, &c, &st);
    pthread_mutex_unlock(&r.fid->lock);
    share_fid_drop(s, &r);
    return err ? err : answer_open(s, &st, out);
}

/* --- contents --- */

static int read_file(const struct share_ref *r, u64 offset, u32 count, struct share_out *out)
{
    int fd = r->fid->fd;
    if (fd < 0)
        return EBADF;
    if (r->fid->dir)
        return EISDIR;
    if (offset > INT64_MAX || share_out_room(out) < 4)
        return EINVAL;
    count = min_u64(count, share_out_room(out) - 4);
    ssize_t n = pread(fd, out->buf + out->pos + 4, count, offset);
    if (n < 0)
        return errno;
    share_out_u32(out, n);
    out->pos += n;
    return 0;
}

int share_file_read(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_ref r;
    u32 fid = share_in_u32(in);
    u64 offset = share_in_u64(in);
    u32 count = share_in_u32(in);
    int err = in->err ? in->err : share_fid_grab(s, fid, &r);
    if (err)
        return err;
    if (r.kind == FID_FILE)
        err = read_file(&r, offset, count, out);
    else
        err = share_xattr_read(&r, offset, count, out);
    share_fid_drop(s, &r);
    return err;
}

int share_file_pwrite(const struct share_ref *r, u64 offset, const u8 *data, u32 *count)
{
    int fd = r->fid->fd;
    if (fd < 0)
        return EBADF;
    if (offset > INT64_MAX - *count)
        return EFBIG;
    ssize_t n = pwrite(fd, data, *count, offset);
    if (n < 0)
        return errno;
    *count = n;
    return 0;
}

/* As on a local file system, a write of nothing costs no privilege. */
static int write_file(struct share *s, const struct share_ref *r, u64 offset, const u8 *data,
                      u32 *count)
{
    int err = *count && r->fid->fd >= 0 ? share_attr_written(s, r->node, r->fid->uid) : 0;
    return err ? err : share_file_pwrite(r, offset, data, count);
}

int share_file_write(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_ref r;
    u32 fid = share_in_u32(in);
    u64 offset = share_in_u64(in);
    u32 count = share_in_u32(in);
    const u8 *data = share_in_bytes(in, count);
    int err = in->err ? in->err : s->cfg.readonly ? EROFS : share_fid_grab(s, fid, &r);
    if (err)
        return err;
    if (r.kind == FID_FILE)
        err = write_file(s, &r, offset, data, &count);
    else
        err = share_xattr_write(&r, offset, data, count);
    share_fid_drop(s, &r);
    if (!err)
        share_out_u32(out, count);
    return err;
}

int share_file_fsync(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_ref r;
    u32 fid = share_in_u32(in), datasync = share_in_u32(in);
    int err = in->err ? in->err : share_fid_grab(s, fid, &r);
    if (err)
        return err;
    int fd = r.fid->fd;
    if (fd < 0)
        err = EBADF;
    else if (datasync ? fdatasync(fd) : fsync(fd))
        err = errno;
    share_fid_drop(s, &r);
    return err;
}

/* --- directories --- */

#define DENTS_MAX (32 * KiB)
#define DENTS_MIN 512 /* room for any single entry of the host's */

/* What one getdents64() returns, and where it goes. */
struct listing {
    struct share *s;
    const struct share_ref *r;
    share_emit *emit;
    void *arg;
    bool any, full;
};

static void emit_entry(struct listing *l, const struct dirent64 *d)
{
    const struct share_node *dir = l->r->node;
    struct stat st = {.st_dev = dir->dev,
                      .st_ino = d->d_ino,
                      .st_mode = (mode_t)d->d_type << 12}; /* DT_x is S_IFx shifted */
    /* The folder's parent is none of the guest's business. */
    if (!dir->parent && !strcmp(d->d_name, ".."))
        st.st_ino = dir->ino;
    l->full = !l->emit(l->arg, &st, d->d_off, d->d_type, d->d_name, strlen(d->d_name));
    l->any |= !l->full;
}

/* fid->lock is held: the descriptor's position is used. */
static int list_dir(struct listing *l, u64 offset, u8 *buf, size_t size)
{
    int fd = l->r->fid->fd;
    if (offset > INT64_MAX || lseek(fd, offset, SEEK_SET) < 0)
        return EINVAL;
    while (!l->full) {
        long n = syscall(SYS_getdents64, fd, buf, size);
        if (n <= 0)
            return n ? errno : 0;
        for (long at = 0; at < n && !l->full;) {
            const struct dirent64 *d = (const void *)(buf + at);
            emit_entry(l, d);
            at += d->d_reclen;
        }
    }
    return 0;
}

int share_file_list(struct share *s, struct share_ref *r, u64 offset, size_t size, share_emit *emit,
                    void *arg)
{
    struct listing l = {.s = s, .r = r, .emit = emit, .arg = arg};
    if (r->fid->fd < 0 || !r->fid->dir)
        return EBADF;
    size = min_u64(max_u64(size, DENTS_MIN), DENTS_MAX);
    u8 *buf = malloc(size);
    if (!buf)
        return ENOMEM;
    pthread_mutex_lock(&r->fid->lock);
    int err = list_dir(&l, offset, buf, size);
    pthread_mutex_unlock(&r->fid->lock);
    free(buf);
    if (l.any)
        return 0; /* an error comes back when it is asked again */
    return err ? err : l.full ? EINVAL : 0;
}

struct reply {
    struct share *s;
    struct share_out *out;
};

static bool out_entry(void *arg, const struct stat *st, u64 next, u8 type, const char *name,
                      size_t len)
{
    struct reply *y = arg;
    struct share_qid qid = share_attr_qid(y->s, st);
    qid.version = 0;
    if (share_out_room(y->out) < 13 + 8 + 1 + 2 + len)
        return false;
    share_out_qid(y->out, &qid);
    share_out_u64(y->out, next);
    share_out_u8(y->out, type);
    share_out_str(y->out, name, len);
    return true;
}

int share_file_readdir(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_ref r;
    u32 fid = share_in_u32(in);
    u64 offset = share_in_u64(in);
    u32 count = share_in_u32(in);
    int err = in->err ? in->err : share_fid_grab(s, fid, &r);
    if (err)
        return err;
    size_t at = out->pos;
    share_out_u32(out, 0);
    struct share_out part = *out;
    part.cap = min_u64(out->cap, out->pos + count);
    err = share_file_list(s, &r, offset, part.cap, out_entry, &(struct reply){s, &part});
    share_fid_drop(s, &r);
    out->pos = part.pos;
    share_out_patch32(out, at, part.pos - at - 4);
    return err;
}
