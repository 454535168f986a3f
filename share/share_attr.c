/*
 * share_attr.c - attributes of files, and the guest's idea of them in user.popf.attr.
 *
 * The attribute is text, so that a person can read it with getfattr:
 *
 *     uid=1000 gid=1000 mode=100644 rdev=8:1
 *
 * mode is octal and has the file's type: a FIFO, socket or device that the guest made is an empty
 * regular file on the host. What is missing is the host file's own. Permission bits are also given
 * to the host's file as far as popf's umask allows, so that a program made in the guest can be run
 * on the host; its owner always keeps read and write (and search), whatever the guest took away:
 * the guest's root would not be stopped either. Set-user-ID never reaches the host.
 *
 * Who writes to a file, truncates or gives it away takes set-user-ID from it, as Linux's local file
 * systems do (file_remove_privs()): the host's kernel cannot, for what it sees is no set-user-ID.
 *
 * Symbolic links cannot have user attributes: their owner is the host's, and chown is ignored.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "share/share_priv.h"

#define ATTR         "user.popf.attr"
#define ATTR_LEN_MAX 128
#define V9FS_MAGIC   0x01021997

/* Tgetattr's bits: what is always answered. */
#define GETATTR_BASIC 0x7ff

/* Tsetattr's bits. */
#define SETATTR_MODE      0x001
#define SETATTR_UID       0x002
#define SETATTR_GID       0x004
#define SETATTR_SIZE      0x008
#define SETATTR_ATIME     0x010
#define SETATTR_MTIME     0x020
#define SETATTR_ATIME_SET 0x080
#define SETATTR_MTIME_SET 0x100

#define HAVE_UID  1
#define HAVE_GID  2
#define HAVE_MODE 4
#define HAVE_RDEV 8

struct attr {
    unsigned have;
    u32 uid, gid, mode;
    u32 major, minor;
};

/* --- the attribute's text --- */

static void parse_word(struct attr *a, const char *w)
{
    if (sscanf(w, "uid=%u", &a->uid) == 1)
        a->have |= HAVE_UID;
    else if (sscanf(w, "gid=%u", &a->gid) == 1)
        a->have |= HAVE_GID;
    else if (sscanf(w, "mode=%o", &a->mode) == 1)
        a->have |= HAVE_MODE;
    else if (sscanf(w, "rdev=%u:%u", &a->major, &a->minor) == 2)
        a->have |= HAVE_RDEV;
}

static void parse(struct attr *a, char *text)
{
    char *save, *w = strtok_r(text, " ", &save);
    *a = (struct attr){0};
    for (; w; w = strtok_r(NULL, " ", &save))
        parse_word(a, w);
}

static size_t format(const struct attr *a, char text[ATTR_LEN_MAX])
{
    size_t n = 0;
    if (a->have & HAVE_UID)
        n += snprintf(text + n, ATTR_LEN_MAX - n, "uid=%u ", a->uid);
    if (a->have & HAVE_GID)
        n += snprintf(text + n, ATTR_LEN_MAX - n, "gid=%u ", a->gid);
    if (a->have & HAVE_MODE)
        n += snprintf(text + n, ATTR_LEN_MAX - n, "mode=%o ", a->mode);
    if (a->have & HAVE_RDEV)
        n += snprintf(text + n, ATTR_LEN_MAX - n, "rdev=%u:%u ", a->major, a->minor);
    return n ? n - 1 : 0;
}

/* 0 (also if the file has none), or an errno. */
static int load(const char *path, struct attr *a)
{
    char text[ATTR_LEN_MAX];
    *a = (struct attr){0};
    ssize_t n = getxattr(path, ATTR, text, sizeof(text) - 1);
    if (n < 0)
        return errno == ENODATA ? 0 : errno;
    text[n] = 0;
    parse(a, text);
    return 0;
}

static int store(const char *path, const struct attr *a)
{
    char text[ATTR_LEN_MAX];
    size_t n = format(a, text);
    return setxattr(path, ATTR, text, n, 0) ? errno : 0;
}

bool share_attr_hidden(const char *name)
{
    return strncmp(name, "user.", 5) || !strncmp(name, "user.popf.", 10);
}

/* --- reading --- */

static u64 mix(u64 v)
{
    v = (v ^ v >> 32) * 0x9e3779b97f4a7c15ull;
    return v ^ v >> 29;
}

/* Inode numbers of other devices that are mounted in the folder are folded with the device's. */
struct share_qid share_attr_qid(const struct share *s, const struct stat *st)
{
    u64 version = mix((u64)st->st_mtim.tv_sec * NSEC_PER_SEC + st->st_mtim.tv_nsec) ^ st->st_size;
    return (struct share_qid){
        .type = S_ISDIR(st->st_mode)   ? 0x80
                : S_ISLNK(st->st_mode) ? 0x02
                                       : 0,
        .version = version,
        .path = st->st_dev == s->dev ? st->st_ino : mix(st->st_ino ^ mix(st->st_dev)) | BIT(63),
    };
}

/* A regular file may stand for what an ordinary user cannot make; nothing else changes its type. */
static mode_t guest_mode(mode_t host, mode_t mapped)
{
    mode_t type = host & S_IFMT;
    if (S_ISREG(host) &&
        (S_ISFIFO(mapped) || S_ISSOCK(mapped) || S_ISCHR(mapped) || S_ISBLK(mapped)))
        type = mapped & S_IFMT;
    return type | (mapped & 07777);
}

int share_attr_stat(struct share *s, const struct share_node *n, struct stat *st)
{
    struct attr a;
    if (fstat(n->fd, st))
        return errno;
    if (!s->mapped || !(S_ISREG(st->st_mode) || S_ISDIR(st->st_mode)))
        return 0;
    struct share_proc path = share_proc(n->fd);
    if (load(path.name, &a))
        return 0; /* not readable for us: the host's attributes are all there is */
    if (a.have & HAVE_UID)
        st->st_uid = a.uid;
    if (a.have & HAVE_GID)
        st->st_gid = a.gid;
    if (a.have & HAVE_MODE)
        st->st_mode = guest_mode(st->st_mode, a.mode);
    if (a.have & HAVE_RDEV)
        st->st_rdev = makedev(a.major, a.minor);
    return 0;
}

static void out_time(struct share_out *out, const struct timespec *t)
{
    share_out_u64(out, t->tv_sec);
    share_out_u64(out, t->tv_nsec);
}

static void out_stat(struct share *s, struct share_out *out, const struct stat *st)
{
    static const struct timespec zero;
    struct share_qid qid = share_attr_qid(s, st);
    bool device = S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode);
    share_out_u64(out, GETATTR_BASIC);
    share_out_qid(out, &qid);
    share_out_u32(out, st->st_mode);
    share_out_u32(out, st->st_uid);
    share_out_u32(out, st->st_gid);
    share_out_u64(out, st->st_nlink);
    share_out_u64(out, device ? st->st_rdev : 0);
    share_out_u64(out, st->st_size);
    share_out_u64(out, st->st_blksize);
    share_out_u64(out, st->st_blocks);
    out_time(out, &st->st_atim);
    out_time(out, &st->st_mtim);
    out_time(out, &st->st_ctim);
    out_time(out, &zero); /* btime, gen and data_version are not offered */
    share_out_u64(out, 0);
    share_out_u64(out, 0);
}

int share_attr_getattr(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_ref r;
    struct stat st;
    u32 fid = share_in_u32(in);
    share_in_u64(in); /* request_mask: everything is answered */
    int err = in->err ? in->err : share_fid_grab(s, fid, &r);
    if (err)
        return err;
    err = share_attr_stat(s, r.node, &st);
    share_fid_drop(s, &r);
    if (!err)
        out_stat(s, out, &st);
    return err;
}

int share_attr_statfs(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_ref r;
    struct statfs fs;
    u32 fid = share_in_u32(in);
    int err = in->err ? in->err : share_fid_grab(s, fid, &r);
    if (err)
        return err;
    err = fstatfs(r.node->fd, &fs) ? errno : 0;
    share_fid_drop(s, &r);
    if (err)
        return err;
    share_out_u32(out, V9FS_MAGIC);
    share_out_u32(out, fs.f_bsize);
    share_out_u64(out, fs.f_blocks);
    share_out_u64(out, fs.f_bfree);
    share_out_u64(out, fs.f_bavail);
    share_out_u64(out, fs.f_files);
    share_out_u64(out, fs.f_ffree);
    share_out_u64(out, 0);
    share_out_u32(out, SHARE_NAME_MAX);
    return 0;
}

/* --- writing --- */

mode_t share_attr_host_mode(const struct share *s, mode_t mode, bool dir)
{
    if (!s->mapped)
        return dir ? mode & 07777 & ~S_ISUID : mode & 01777;
    return (mode & 0777 & ~s->umask) | (dir ? 0700 : 0600);
}

static int host_chmod(const struct share *s, const char *path, mode_t mode, bool dir)
{
    return chmod(path, share_attr_host_mode(s, mode, dir)) ? errno : 0;
}

/* What `want` has replaces what the file has. */
static void merge(struct attr *a, const struct attr *want, mode_t type)
{
    if (want->have & HAVE_UID)
        a->uid = want->uid;
    if (want->have & HAVE_GID)
        a->gid = want->gid;
    if (want->have & HAVE_RDEV) {
        a->major = want->major;
        a->minor = want->minor;
    }
    if (want->have & HAVE_MODE) {
        bool special = (a->have & HAVE_MODE) && type == S_IFREG;
        mode_t t = want->mode & S_IFMT ? want->mode & S_IFMT : special ? a->mode & S_IFMT : type;
        a->mode = t | (want->mode & 07777);
    }
    a->have |= want->have;
}

/*
 * Writing a user attribute needs write permission for the file. Its owner can give that to himself;
 * what the guest sees stays as it was.
 */
static int store_by_force(const char *path, struct attr *a)
{
    struct stat st;
    if (stat(path, &st) || chmod(path, (st.st_mode & 0777) | 0600))
        return EACCES;
    if (!(a->have & HAVE_MODE))
        a->mode = st.st_mode & (S_IFMT | 0777);
    a->have |= HAVE_MODE;
    return store(path, a);
}

static int update(struct share *s, const char *path, mode_t type, const struct attr *want)
{
    struct attr a;
    int err = load(path, &a);
    if (!err) {
        merge(&a, want, type);
        err = store(path, &a);
        if (err == EACCES)
            err = store_by_force(path, &a);
    }
    if (!err && (want->have & HAVE_MODE))
        host_chmod(s, path, want->mode, type == S_IFDIR); /* fails if the file is another's */
    return err;
}

static int passthrough(struct share *s, int fd, mode_t type, const struct attr *want)
{
    struct share_proc path = share_proc(fd);
    uid_t uid = want->have & HAVE_UID ? want->uid : (uid_t)-1;
    gid_t gid = want->have & HAVE_GID ? want->gid : (gid_t)-1;
    if ((want->have & (HAVE_UID | HAVE_GID)) &&
        fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW))
        return errno;
    if ((want->have & HAVE_MODE) && type != S_IFLNK)
        return host_chmod(s, path.name, want->mode, type == S_IFDIR);
    return 0;
}

/* Sets owner and mode of the file behind an O_PATH descriptor. attr_lock is held. */
static int set_locked(struct share *s, int fd, mode_t type, const struct attr *want)
{
    if (s->mapped && type == S_IFLNK)
        return 0;
    if (s->mapped && (type == S_IFREG || type == S_IFDIR)) {
        struct share_proc path = share_proc(fd);
        int err = update(s, path.name, type, want);
        if (err != ENOTSUP)
            return err;
        if ((guest_mode(type, want->mode) & S_IFMT) != type)
            return EPERM; /* nothing on this file system could say that it is a device */
    }
    return passthrough(s, fd, type, want);
}

static int set(struct share *s, int fd, mode_t type, const struct attr *want)
{
    pthread_mutex_lock(&s->attr_lock);
    int err = set_locked(s, fd, type, want);
    pthread_mutex_unlock(&s->attr_lock);
    return err;
}

/* --- set-user-ID --- */

/* Set-group-ID without execution by the group is mandatory locking's, and no privilege. */
static mode_t privileges(mode_t mode)
{
    if (!S_ISREG(mode))
        return 0;
    return mode & (S_ISUID | (mode & S_IXGRP ? S_ISGID : 0));
}

/* Sets what is wanted and takes the privileges; locked, or a chmod in between would be undone. */
static int set_and_drop(struct share *s, const struct share_node *n, struct attr want)
{
    struct stat st;
    pthread_mutex_lock(&s->attr_lock);
    int err = share_attr_stat(s, n, &st);
    if (!err && privileges(st.st_mode)) {
        want.mode = st.st_mode & 07777 & ~privileges(st.st_mode);
        want.have |= HAVE_MODE;
    }
    if (!err && want.have)
        err = set_locked(s, n->fd, n->type, &want);
    pthread_mutex_unlock(&s->attr_lock);
    return err;
}

int share_attr_written(struct share *s, const struct share_node *n, u32 uid)
{
    struct stat st;
    if (!uid || n->type != S_IFREG)
        return 0;
    int err = share_attr_stat(s, n, &st);
    if (err || !privileges(st.st_mode))
        return err;
    return set_and_drop(s, n, (struct attr){0});
}

/* --- new files, and Tsetattr --- */

int share_attr_new(struct share *s, int fd, mode_t type, u32 uid, u32 gid, mode_t mode, u64 rdev)
{
    struct attr want = {
        .have = HAVE_MODE | (rdev ? HAVE_RDEV : 0),
        .mode = mode,
        .gid = gid,
        .uid = uid,
        .major = major(rdev),
        .minor = minor(rdev),
    };
    if (s->mapped) /* otherwise a new file is its maker's, whatever the guest would like */
        want.have |= HAVE_GID | (uid == SHARE_NOUID ? 0 : HAVE_UID);
    return set(s, fd, type, &want);
}

struct setattr {
    u32 fid, valid;
    struct attr want;
    u64 size;
    struct timespec time[2];
};

static struct timespec in_time(struct share_in *in, u32 valid, u32 set_now, u32 set_value)
{
    struct timespec t;
    t.tv_sec = share_in_u64(in);
    t.tv_nsec = share_in_u64(in);
    if (!(valid & set_now))
        t.tv_nsec = UTIME_OMIT;
    else if (!(valid & set_value))
        t.tv_nsec = UTIME_NOW;
    else if (t.tv_nsec < 0 || t.tv_nsec >= (long)NSEC_PER_SEC)
        t.tv_nsec = 0;
    return t;
}

static struct setattr in_setattr(struct share_in *in)
{
    struct setattr a = {0};
    a.fid = share_in_u32(in);
    a.valid = share_in_u32(in);
    a.want.mode = share_in_u32(in) & 07777;
    a.want.uid = share_in_u32(in);
    a.want.gid = share_in_u32(in);
    a.size = share_in_u64(in);
    a.time[0] = in_time(in, a.valid, SETATTR_ATIME, SETATTR_ATIME_SET);
    a.time[1] = in_time(in, a.valid, SETATTR_MTIME, SETATTR_MTIME_SET);
    a.want.have = (a.valid & SETATTR_MODE ? HAVE_MODE : 0) |
                  (a.valid & SETATTR_UID ? HAVE_UID : 0) | (a.valid & SETATTR_GID ? HAVE_GID : 0);
    return a;
}

/* A descriptor that is open for writing is used first: it may be all that still allows it. */
static int resize(const struct share_ref *r, u64 size)
{
    struct share_proc path = share_proc(r->node->fd);
    int fd = r->fid->fd;
    if (size > INT64_MAX)
        return EINVAL;
    if (r->node->type != S_IFREG)
        return r->node->type == S_IFDIR ? EISDIR : EINVAL;
    if (fd >= 0 && !ftruncate(fd, size))
        return 0;
    return truncate(path.name, size) ? errno : 0;
}

/* A mode that comes along is the client's word. To give away costs root the privileges too. */
static int apply_attr(struct share *s, const struct setattr *a, const struct share_ref *r)
{
    if (a->valid & SETATTR_MODE)
        return set(s, r->node->fd, r->node->type, &a->want);
    if (a->valid & (SETATTR_UID | SETATTR_GID))
        return set_and_drop(s, r->node, a->want);
    return a->valid & SETATTR_SIZE ? share_attr_written(s, r->node, r->fid->uid) : 0;
}

static int apply(struct share *s, const struct setattr *a, const struct share_ref *r)
{
    struct share_proc path = share_proc(r->node->fd);
    int err = apply_attr(s, a, r);
    if (!err && (a->valid & SETATTR_SIZE))
        err = resize(r, a->size);
    if (!err && (a->valid & (SETATTR_ATIME | SETATTR_MTIME)) &&
        utimensat(AT_FDCWD, path.name, a->time, 0))
        err = errno;
    return err;
}

int share_attr_setattr(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_ref r;
    struct setattr a = in_setattr(in);
    int err = in->err ? in->err : s->cfg.readonly ? EROFS : share_fid_grab(s, a.fid, &r);
    if (err)
        return err;
    err = apply(s, &a, &r);
    share_fid_drop(s, &r);
    return err;
}
