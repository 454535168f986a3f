/*
 * share_name.c - making, linking, renaming and removing directory entries.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "share/share_priv.h"

/* --- making --- */

struct make {
    u32 dfid, mode, gid;
    u64 rdev;
    char name[SHARE_NAME_MAX + 1];
    const char *target; /* of a symbolic link */
};

static bool is_special(mode_t mode)
{
    return S_ISFIFO(mode) || S_ISSOCK(mode) || S_ISCHR(mode) || S_ISBLK(mode);
}

/* Makes the host's file; its type is in *type. 0 or -1 with errno. */
static int make_host(struct share *s, int dir, const struct make *m, mode_t *type)
{
    *type = m->mode & S_IFMT;
    mode_t mode = share_attr_host_mode(s, m->mode, S_ISDIR(m->mode));
    if (S_ISLNK(m->mode))
        return symlinkat(m->target, dir, m->name);
    if (S_ISDIR(m->mode))
        return mkdirat(dir, m->name, mode);
    if (is_special(m->mode) && !s->mapped) {
        if (S_ISFIFO(m->mode) || S_ISSOCK(m->mode))
            return mknodat(dir, m->name, *type | mode, 0);
        errno = EPERM; /* not even if popf runs as root: a device would be the host's */
        return -1;
    }
    *type = S_IFREG;
    int fd = openat(dir, m->name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, mode);
    return fd < 0 ? -1 : close(fd);
}

static int make_in(struct share *s, const struct share_ref *r, const struct make *m,
                   struct stat *st)
{
    struct share_node *n;
    mode_t type;
    if (make_host(s, r->node->fd, m, &type))
        return errno;
    int err = share_node_walk(s, r->node, m->name, &n, st);
    if (err)
        return err;
    pthread_mutex_lock(&s->lock);
    err = share_node_pin(s, n);
    bool pinned = !err;
    pthread_mutex_unlock(&s->lock);
    if (pinned && n->type != type) {
        err = ESTALE; /* somebody has put another file in its place */
    } else if (pinned) {
        err = share_attr_new(s, n->fd, type, r->fid->uid, m->gid, m->mode, m->rdev);
        if (err)
            unlinkat(r->node->fd, m->name, type == S_IFDIR ? AT_REMOVEDIR : 0);
    }
    pthread_mutex_lock(&s->lock);
    if (pinned)
        share_node_unpin(s, n);
    share_node_put(s, n);
    pthread_mutex_unlock(&s->lock);
    return err;
}

/* `err` is what decoding gave. */
static int make(struct share *s, int err, const struct make *m, struct share_out *out)
{
    struct share_ref r;
    struct stat st;
    err = err ? err : s->cfg.readonly ? EROFS : share_fid_grab_dir(s, m->dfid, &r);
    if (err)
        return err;
    err = make_in(s, &r, m, &st);
    share_fid_drop(s, &r);
    if (err)
        return err;
    struct share_qid qid = share_attr_qid(s, &st);
    share_out_qid(out, &qid);
    return 0;
}

int share_name_mkdir(struct share *s, struct share_in *in, struct share_out *out)
{
    struct make m = {0};
    m.dfid = share_in_u32(in);
    share_in_name(in, m.name, EEXIST);
    m.mode = S_IFDIR | (share_in_u32(in) & 07777);
    m.gid = share_in_u32(in);
    return make(s, in->err, &m, out);
}

int share_name_mknod(struct share *s, struct share_in *in, struct share_out *out)
{
    struct make m = {0};
    m.dfid = share_in_u32(in);
    share_in_name(in, m.name, EEXIST);
    m.mode = share_in_u32(in) & (S_IFMT | 07777);
    u32 major = share_in_u32(in), minor = share_in_u32(in);
    m.gid = share_in_u32(in);
    if (S_ISCHR(m.mode) || S_ISBLK(m.mode))
        m.rdev = makedev(major, minor);
    if (!(m.mode & S_IFMT))
        m.mode |= S_IFREG;
    if (!in->err && !S_ISREG(m.mode) && !is_special(m.mode))
        return EINVAL;
    return make(s, in->err, &m, out);
}

int share_name_symlink(struct share *s, struct share_in *in, struct share_out *out)
{
    char target[SHARE_TARGET_MAX + 1];
    struct make m = {.mode = S_IFLNK | 0777, .target = target};
    m.dfid = share_in_u32(in);
    share_in_name(in, m.name, EEXIST);
    share_in_str(in, target, sizeof(target));
    m.gid = share_in_u32(in);
    return make(s, in->err, &m, out);
}

int share_name_readlink(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_ref r;
    char target[SHARE_TARGET_MAX + 1];
    u32 fid = share_in_u32(in);
    int err = in->err ? in->err : share_fid_grab(s, fid, &r);
    if (err)
        return err;
    ssize_t n = -1;
    if (r.node->type != S_IFLNK)
        err = EINVAL;
    else if ((n = readlinkat(r.node->fd, "", target, sizeof(target))) < 0)
        err = errno;
    share_fid_drop(s, &r);
    if (!err)
        share_out_str(out, target, n);
    return err;
}

int share_name_link(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_ref dir, file;
    char name[SHARE_NAME_MAX + 1];
    u32 dfid = share_in_u32(in), fid = share_in_u32(in);
    share_in_name(in, name, EEXIST);
    int err = in->err ? in->err : s->cfg.readonly ? EROFS : share_fid_grab_dir(s, dfid, &dir);
    if (err)
        return err;
    err = share_fid_grab(s, fid, &file);
    if (!err) {
        struct share_proc path = share_proc(file.node->fd);
        /* It follows the magic link, to the file itself: a symbolic link is linked, not followed.
         */
        if (linkat(AT_FDCWD, path.name, dir.node->fd, name, AT_SYMLINK_FOLLOW))
            err = errno;
        share_fid_drop(s, &file);
    }
    share_fid_drop(s, &dir);
    return err;
}

/* --- renaming: share->lock is held, so that the tree of names changes with the host's --- */

static bool same_file(const struct share_node *a, const struct share_node *b)
{
    return a->dev == b->dev && a->ino == b->ino;
}

static void renamed(struct share *s, struct share_node *from, struct share_node *to,
                    struct share_node *dir, const char *name)
{
    if (from && to && same_file(from, to))
        return; /* two links to one file, or one name: rename() does nothing then */
    if (to)
        share_node_unhash(s, to);
    if (from)
        share_node_move(s, from, dir, name);
}

/* Both directories are pinned. */
static int rename_names(struct share *s, struct share_node *olddir, const char *oldname,
                        struct share_node *newdir, const char *newname)
{
    struct share_node *from = share_node_keep(s, olddir, oldname);
    struct share_node *to = share_node_keep(s, newdir, newname);
    int err = renameat(olddir->fd, oldname, newdir->fd, newname) ? errno : 0;
    if (!err)
        renamed(s, from, to, newdir, newname);
    if (from)
        share_node_put(s, from);
    if (to)
        share_node_put(s, to);
    return err;
}

int share_name_renameat(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_ref olddir, newdir;
    char oldname[SHARE_NAME_MAX + 1], newname[SHARE_NAME_MAX + 1];
    u32 oldfid = share_in_u32(in);
    share_in_name(in, oldname, EINVAL);
    u32 newfid = share_in_u32(in);
    share_in_name(in, newname, EINVAL);
    int err = in->err ? in->err : s->cfg.readonly ? EROFS : share_fid_grab_dir(s, oldfid, &olddir);
    if (err)
        return err;
    err = share_fid_grab_dir(s, newfid, &newdir);
    if (!err) {
        pthread_mutex_lock(&s->lock);
        err = rename_names(s, olddir.node, oldname, newdir.node, newname);
        pthread_mutex_unlock(&s->lock);
        share_fid_drop(s, &newdir);
    }
    share_fid_drop(s, &olddir);
    return err;
}

/*
 * For the messages that name a file by its fid and not by directory and name. Pins the directory.
 * Somebody else may have put another file there, which is left alone (as far as that can be told).
 */
static int pin_parent(struct share *s, struct share_node *n)
{
    struct stat st;
    if (!n->parent)
        return EBUSY;
    if (!n->hashed)
        return ENOENT;
    int err = share_node_pin(s, n->parent);
    if (err)
        return err;
    if (fstatat(n->parent->fd, n->name, &st, AT_SYMLINK_NOFOLLOW))
        err = errno;
    else if (st.st_dev != n->dev || st.st_ino != n->ino)
        err = ENOENT;
    if (err)
        share_node_unpin(s, n->parent);
    return err;
}

static int rename_node(struct share *s, struct share_node *n, struct share_node *newdir,
                       const char *newname)
{
    char oldname[SHARE_NAME_MAX + 1];
    struct share_node *olddir = n->parent;
    int err = pin_parent(s, n);
    if (err)
        return err;
    share_node_ref(olddir); /* n will have another parent */
    snprintf(oldname, sizeof(oldname), "%s", n->name);
    err = rename_names(s, olddir, oldname, newdir, newname);
    share_node_unpin(s, olddir);
    share_node_put(s, olddir);
    return err;
}

int share_name_rename(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_ref file, dir;
    char name[SHARE_NAME_MAX + 1];
    u32 fid = share_in_u32(in), dfid = share_in_u32(in);
    share_in_name(in, name, EINVAL);
    int err = in->err ? in->err : s->cfg.readonly ? EROFS : share_fid_grab_dir(s, dfid, &dir);
    if (err)
        return err;
    err = share_fid_grab(s, fid, &file);
    if (!err) {
        pthread_mutex_lock(&s->lock);
        err = rename_node(s, file.node, dir.node, name);
        pthread_mutex_unlock(&s->lock);
        share_fid_drop(s, &file);
    }
    share_fid_drop(s, &dir);
    return err;
}

/* --- removing: share->lock is held --- */

static int unlink_name(struct share *s, struct share_node *dir, const char *name, int flags)
{
    struct share_node *n = share_node_keep(s, dir, name);
    int err = unlinkat(dir->fd, name, flags) ? errno : 0;
    if (n && !err)
        share_node_unhash(s, n);
    if (n)
        share_node_put(s, n);
    return err;
}

int share_name_unlinkat(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_ref dir;
    char name[SHARE_NAME_MAX + 1];
    u32 dfid = share_in_u32(in);
    share_in_name(in, name, EINVAL);
    u32 flags = share_in_u32(in);
    int err = in->err                 ? in->err
              : flags & ~AT_REMOVEDIR ? EINVAL
              : s->cfg.readonly       ? EROFS
                                      : share_fid_grab_dir(s, dfid, &dir);
    if (err)
        return err;
    pthread_mutex_lock(&s->lock);
    err = unlink_name(s, dir.node, name, flags);
    pthread_mutex_unlock(&s->lock);
    share_fid_drop(s, &dir);
    return err;
}

static int unlink_node(struct share *s, struct share_node *n)
{
    char name[SHARE_NAME_MAX + 1];
    struct share_node *dir = n->parent;
    int err = pin_parent(s, n);
    if (err)
        return err;
    snprintf(name, sizeof(name), "%s", n->name);
    err = unlink_name(s, dir, name, n->type == S_IFDIR ? AT_REMOVEDIR : 0);
    share_node_unpin(s, dir);
    return err;
}

/* The fid is gone afterwards, whether its file is or not. */
int share_name_remove(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_ref file;
    u32 fid = share_in_u32(in);
    int err = in->err ? in->err : share_fid_grab(s, fid, &file);
    if (!err) {
        err = s->cfg.readonly ? EROFS : 0;
        pthread_mutex_lock(&s->lock);
        err = err ? err : unlink_node(s, file.node);
        pthread_mutex_unlock(&s->lock);
        share_fid_drop(s, &file);
    }
    if (!in->err)
        share_fid_clunk(s, fid);
    return err;
}
