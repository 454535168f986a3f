/*
 * share_xattr.c - extended attributes: those that begin with "user.", but for the server's own.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "share/share_priv.h"

/* Takes the hidden names out of a list; returns its new length. */
static size_t filter(char *list, size_t len)
{
    size_t kept = 0;
    for (size_t at = 0; at < len;) {
        size_t n = strnlen(list + at, len - at) + 1;
        if (at + n <= len && !share_attr_hidden(list + at)) {
            memmove(list + kept, list + at, n);
            kept += n;
        }
        at += n;
    }
    return kept;
}

ssize_t share_xattr_get(const struct share_node *n, const char *name, char *buf)
{
    struct share_proc path = share_proc(n->fd);
    if (name[0] && share_attr_hidden(name))
        return strncmp(name, "user.", 5) ? -EOPNOTSUPP : -ENODATA;
    ssize_t len = name[0] ? getxattr(path.name, name, buf, SHARE_XATTR_VALUE_MAX)
                          : listxattr(path.name, buf, SHARE_XATTR_VALUE_MAX);
    if (len < 0)
        return -errno;
    return name[0] ? len : (ssize_t)filter(buf, len);
}

int share_xattr_allowed(const struct share *s, const char *name, size_t size, u32 flags)
{
    if (s->cfg.readonly)
        return EROFS;
    if (share_attr_hidden(name))
        return strncmp(name, "user.", 5) ? EOPNOTSUPP : EPERM;
    if (size > SHARE_XATTR_VALUE_MAX)
        return E2BIG;
    return flags > (XATTR_CREATE | XATTR_REPLACE) ? EINVAL : 0;
}

static int walk(struct share *s, const struct share_ref *r, u32 newfid, const char *name,
                struct share_out *out)
{
    char *buf = malloc(SHARE_XATTR_VALUE_MAX);
    ssize_t len = buf ? share_xattr_get(r->node, name, buf) : -ENOMEM;
    if (len < 0) {
        free(buf);
        return -len;
    }
    char *fit = realloc(buf, len + 1);
    int err = share_fid_add_xattr(s, newfid, r, (u8 *)(fit ? fit : buf), len);
    if (!err)
        share_out_u64(out, len);
    return err;
}

int share_xattr_walk(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_ref r;
    char name[SHARE_NAME_MAX + 1];
    u32 fid = share_in_u32(in), newfid = share_in_u32(in);
    share_in_str(in, name, sizeof(name));
    int err = in->err ? in->err : share_fid_grab(s, fid, &r);
    if (err)
        return err;
    err = r.kind == FID_FILE ? walk(s, &r, newfid, name, out) : EINVAL;
    share_fid_drop(s, &r);
    return err;
}

int share_xattr_create(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_ref r;
    char name[SHARE_NAME_MAX + 1];
    u32 fid = share_in_u32(in);
    share_in_name(in, name, 0);
    u64 size = share_in_u64(in);
    u32 flags = share_in_u32(in);
    int err = in->err ? in->err : share_xattr_allowed(s, name, size, flags);
    if (!err)
        err = share_fid_grab(s, fid, &r);
    if (err)
        return err;
    err = share_fid_become_xattr(s, &r, name, size, flags);
    share_fid_drop(s, &r);
    return err;
}

int share_xattr_read(struct share_ref *r, u64 offset, u32 count, struct share_out *out)
{
    const struct share_fid *f = r->fid;
    if (r->kind != FID_XATTR_READ)
        return EBADF;
    if (share_out_room(out) < 4)
        return EINVAL;
    size_t n = offset < f->xattr_size ? f->xattr_size - offset : 0;
    n = min_u64(min_u64(n, count), share_out_room(out) - 4);
    share_out_u32(out, n);
    if (n)
        memcpy(out->buf + out->pos, f->xattr + offset, n);
    out->pos += n;
    return 0;
}

int share_xattr_write(struct share_ref *r, u64 offset, const u8 *data, u32 count)
{
    struct share_fid *f = r->fid;
    int err = 0;
    if (r->kind != FID_XATTR_WRITE)
        return EBADF;
    pthread_mutex_lock(&f->lock);
    if (offset != f->xattr_done || count > f->xattr_size - f->xattr_done)
        err = ENOSPC;
    else
        memcpy(f->xattr + f->xattr_done, data, count);
    if (!err)
        f->xattr_done += count;
    pthread_mutex_unlock(&f->lock);
    return err;
}

int share_xattr_clunk(struct share_ref *r)
{
    struct share_fid *f = r->fid;
    struct share_proc path = share_proc(r->node->fd);
    int status;
    if (f->xattr_done != f->xattr_size)
        return EINVAL;
    if (!f->xattr_size && f->xattr_flags == XATTR_REPLACE) /* Linux's way to remove one */
        status = removexattr(path.name, f->xattr_name);
    else
        status = setxattr(path.name, f->xattr_name, f->xattr, f->xattr_size, f->xattr_flags);
    return status ? errno : 0;
}
