#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "share/share_priv.h"

static struct share_fid **slot(struct share *s, u32 num)
{
    struct share_fid **p = &s->fid[(num * 0x9e3779b1u >> 16) % SHARE_FID_BUCKETS];
    while (*p && (*p)->num != num)
        p = &(*p)->next;
    return p;
}

/* share->lock is held. */
static void put(struct share *s, struct share_fid *f)
{
    if (--f->refs)
        return;
    if (f->fd >= 0) {
        close(f->fd);
        share_node_release(s);
    }
    if (f->locks)
        share_locks_drop(&s->locks, f);
    share_node_put(s, f->node);
    s->xattr_bytes -= f->xattr_size;
    s->nfids--;
    pthread_mutex_destroy(&f->lock);
    free(f->xattr);
    free(f->xattr_name);
    free(f);
}

/* A fid that is not in the table yet; takes node's reference over in any case. */
static struct share_fid *make(struct share *s, u32 num, u32 uid, struct share_node *node)
{
    struct share_fid *f = s->nfids < SHARE_FIDS_MAX ? calloc(1, sizeof(*f)) : NULL;
    if (!f) {
        share_node_put(s, node);
        return NULL;
    }
    f->num = num;
    f->uid = uid;
    f->refs = 1;
    f->node = node;
    f->fd = -1;
    pthread_mutex_init(&f->lock, NULL);
    s->nfids++;
    return f;
}

static int grab(struct share *s, u32 num, struct share_ref *r)
{
    struct share_fid *f = *slot(s, num);
    if (!f)
        return EBADF;
    int err = share_node_pin(s, f->node);
    if (err)
        return err;
    f->refs++;
    share_node_ref(f->node);
    *r = (struct share_ref){.fid = f, .node = f->node, .kind = f->kind};
    return 0;
}

int share_fid_grab(struct share *s, u32 num, struct share_ref *r)
{
    pthread_mutex_lock(&s->lock);
    int err = grab(s, num, r);
    pthread_mutex_unlock(&s->lock);
    return err;
}

int share_fid_grab_dir(struct share *s, u32 num, struct share_ref *r)
{
    int err = share_fid_grab(s, num, r);
    if (!err && (r->kind != FID_FILE || r->node->type != S_IFDIR)) {
        share_fid_drop(s, r);
        err = ENOTDIR;
    }
    return err;
}

void share_fid_drop(struct share *s, struct share_ref *r)
{
    pthread_mutex_lock(&s->lock);
    share_node_unpin(s, r->node);
    share_node_put(s, r->node);
    put(s, r->fid);
    pthread_mutex_unlock(&s->lock);
}

/* share->lock is held. */
static int enter(struct share *s, struct share_fid *f)
{
    struct share_fid **p = slot(s, f->num);
    if (*p) {
        put(s, f);
        return EBADF;
    }
    *p = f;
    return 0;
}

int share_fid_add(struct share *s, u32 num, u32 uid, struct share_node *node)
{
    pthread_mutex_lock(&s->lock);
    struct share_fid *f = make(s, num, uid, node);
    int err = f ? enter(s, f) : s->nfids < SHARE_FIDS_MAX ? ENOMEM : ENFILE;
    pthread_mutex_unlock(&s->lock);
    return err;
}

int share_fid_add_xattr(struct share *s, u32 num, const struct share_ref *from, u8 *value,
                        size_t size)
{
    struct share_fid *f = NULL;
    int err = ENOMEM;
    pthread_mutex_lock(&s->lock);
    if (s->xattr_bytes + size <= SHARE_XATTR_BYTES_MAX) {
        share_node_ref(from->node);
        f = make(s, num, from->fid->uid, from->node);
    }
    if (f) {
        f->kind = FID_XATTR_READ;
        f->xattr = value;
        f->xattr_size = size;
        s->xattr_bytes += size;
        err = enter(s, f);
    } else {
        free(value);
    }
    pthread_mutex_unlock(&s->lock);
    return err;
}

int share_fid_become_xattr(struct share *s, struct share_ref *r, const char *name, size_t size,
                           u32 flags)
{
    struct share_fid *f = r->fid;
    u8 *value = calloc(1, size + 1);
    char *copy = strdup(name);
    int err = 0;
    pthread_mutex_lock(&s->lock);
    if (!value || !copy || s->xattr_bytes + size > SHARE_XATTR_BYTES_MAX)
        err = ENOMEM;
    else if (f->kind != FID_FILE || f->fd >= 0)
        err = EBUSY;
    if (!err) {
        f->xattr = value;
        f->xattr_size = size;
        f->xattr_flags = flags;
        f->xattr_name = copy;
        s->xattr_bytes += size;
        f->kind = FID_XATTR_WRITE;
        value = NULL;
        copy = NULL;
    }
    pthread_mutex_unlock(&s->lock);
    free(value);
    free(copy);
    return err;
}

int share_fid_replace(struct share *s, struct share_ref *r, struct share_node *node)
{
    pthread_mutex_lock(&s->lock);
    bool idle = r->fid->fd < 0 && r->fid->kind == FID_FILE;
    if (idle) {
        struct share_node *was = r->fid->node;
        r->fid->node = node;
        node = was;
    }
    share_node_put(s, node);
    pthread_mutex_unlock(&s->lock);
    return idle ? 0 : EBUSY;
}

/* share->lock is held but for the time of the host's call. */
static int finish_xattr(struct share *s, struct share_fid *f)
{
    struct share_ref r = {.fid = f, .node = f->node, .kind = f->kind};
    int err = share_node_pin(s, r.node);
    if (err)
        return err;
    f->refs++;
    share_node_ref(r.node);
    pthread_mutex_unlock(&s->lock);
    err = share_xattr_clunk(&r);
    share_fid_drop(s, &r);
    pthread_mutex_lock(&s->lock);
    return err;
}

int share_fid_clunk(struct share *s, u32 num)
{
    pthread_mutex_lock(&s->lock);
    struct share_fid **p = slot(s, num), *f = *p;
    int err = EBADF;
    if (f) {
        *p = f->next;
        err = f->kind == FID_XATTR_WRITE ? finish_xattr(s, f) : 0;
        put(s, f);
    }
    pthread_mutex_unlock(&s->lock);
    return err;
}

void share_fid_remove_all(struct share *s)
{
    pthread_mutex_lock(&s->lock);
    for (unsigned i = 0; i < SHARE_FID_BUCKETS; i++) {
        if (s->inode[i]) /* untouched pages stay so */
            s->inode[i] = NULL;
        while (s->fid[i]) {
            struct share_fid *f = s->fid[i];
            s->fid[i] = f->next;
            put(s, f);
        }
    }
    s->next_fid = 0;
    pthread_mutex_unlock(&s->lock);
}

/* --- for FUSE, where numbers are the server's --- */

/* share->lock is held. */
static struct share_fid *make_new(struct share *s, u32 high, u32 uid, struct share_node *node)
{
    u32 num;
    do
        num = high | (++s->next_fid & (high - 1));
    while (*slot(s, num));
    struct share_fid *f = make(s, num, uid, node);
    if (f)
        enter(s, f);
    return f;
}

int share_fid_new(struct share *s, u32 high, u32 uid, struct share_node *node, u32 *num)
{
    pthread_mutex_lock(&s->lock);
    struct share_fid *f = make_new(s, high, uid, node);
    *num = f ? f->num : 0;
    pthread_mutex_unlock(&s->lock);
    return f ? 0 : ENFILE;
}

static struct share_fid **inode_slot(struct share *s, const struct share_node *n)
{
    u64 h = (n->ino ^ (u64)n->dev << 20) * 0x9e3779b97f4a7c15ull;
    struct share_fid **p = &s->inode[(h >> 40) % SHARE_FID_BUCKETS];
    while (*p &&
           ((*p)->node->ino != n->ino || (*p)->node->dev != n->dev || (*p)->node->type != n->type))
        p = &(*p)->next_inode;
    return p;
}

/* The newest name is the best: older ones may be gone. */
static void rename_inode(struct share *s, struct share_fid *f, struct share_node *node)
{
    struct share_node *was = f->node;
    f->node = node;
    share_node_put(s, was);
}

int share_fid_inode(struct share *s, u32 high, struct share_node *node, u32 *num)
{
    pthread_mutex_lock(&s->lock);
    struct share_fid **p = inode_slot(s, node), *f = *p;
    if (f && f->num != SHARE_ROOT_INODE)
        rename_inode(s, f, node);
    else if (f)
        share_node_put(s, node);
    else
        f = make_new(s, high, 0, node); /* the client sees to set-user-ID */
    if (f) {
        f->lookups++;
        *p = f;
        *num = f->num;
    }
    pthread_mutex_unlock(&s->lock);
    return f ? 0 : ENFILE;
}

void share_fid_forget(struct share *s, u32 num, u64 lookups)
{
    pthread_mutex_lock(&s->lock);
    struct share_fid **p = slot(s, num), *f = *p;
    if (f && f->lookups && num != SHARE_ROOT_INODE) {
        f->lookups -= min_u64(lookups, f->lookups);
        if (!f->lookups) {
            *inode_slot(s, f->node) = f->next_inode;
            *p = f->next;
            put(s, f);
        }
    }
    pthread_mutex_unlock(&s->lock);
}
