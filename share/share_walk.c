/*
 * share_walk.c - a session's beginning, and fids: version, attach, walk, clunk.
 */
#include <errno.h>
#include <string.h>

#include "share/share_priv.h"

#define WALK_MAX 16 /* names in one Twalk */

int share_walk_version(struct share *s, struct share_in *in, struct share_out *out)
{
    char version[32];
    u32 msize = share_in_u32(in);
    share_in_str(in, version, sizeof(version));
    if (in->err && in->err != ENAMETOOLONG)
        return in->err;
    if (msize < SHARE_MSIZE_MIN)
        return EMSGSIZE;
    bool known = !in->err && !strcmp(version, "9P2000.L");
    const char *answer = known ? version : "unknown";
    share_fid_remove_all(s);
    s->msize = known ? min_u64(msize, SHARE_MSIZE_MAX) : 0;
    share_out_u32(out, min_u64(msize, SHARE_MSIZE_MAX));
    share_out_str(out, answer, strlen(answer));
    return 0;
}

int share_walk_attach(struct share *s, struct share_in *in, struct share_out *out)
{
    char aname[SHARE_NAME_MAX + 1];
    struct stat st;
    u32 fid = share_in_u32(in), afid = share_in_u32(in);
    share_in_bytes(in, share_in_u16(in)); /* uname: only the number counts */
    share_in_str(in, aname, sizeof(aname));
    u32 uid = share_in_u32(in);
    if (in->err)
        return in->err;
    if (afid != SHARE_NOFID || fid == SHARE_NOFID)
        return EINVAL;
    if (aname[0] && strcmp(aname, "/"))
        return ENOENT;
    if (fstat(s->tree.root->fd, &st))
        return errno;
    pthread_mutex_lock(&s->lock);
    share_node_ref(s->tree.root);
    pthread_mutex_unlock(&s->lock);
    int err = share_fid_add(s, fid, uid, s->tree.root);
    if (err)
        return err;
    struct share_qid qid = share_attr_qid(s, &st);
    share_out_qid(out, &qid);
    return 0;
}

/* --- walking --- */

struct walk {
    u32 fid, newfid;
    unsigned count;
    char name[WALK_MAX][SHARE_NAME_MAX + 1];
    struct share_qid qid[WALK_MAX];
};

/* Replaces *at, referenced and pinned, by *next, referenced: pinned too, and *at is let go. */
static int advance(struct share *s, struct share_node **at, struct share_node *next)
{
    pthread_mutex_lock(&s->lock);
    int err = share_node_pin(s, next);
    if (err) {
        share_node_put(s, next);
    } else {
        share_node_unpin(s, *at);
        share_node_put(s, *at);
        *at = next;
    }
    pthread_mutex_unlock(&s->lock);
    return err;
}

/* The directory through which `n` was reached; the folder itself is its own. With a reference. */
static struct share_node *parent_of(struct share *s, struct share_node *n)
{
    pthread_mutex_lock(&s->lock);
    struct share_node *p = n->parent ? n->parent : n;
    share_node_ref(p);
    pthread_mutex_unlock(&s->lock);
    return p;
}

static int step(struct share *s, struct share_node **at, const char *name, struct share_qid *qid)
{
    struct share_node *next;
    struct stat st;
    if ((*at)->type != S_IFDIR)
        return ENOTDIR;
    int err = 0;
    if (!strcmp(name, "."))
        return ENOENT; /* no client asks for it */
    if (!strcmp(name, ".."))
        next = parent_of(s, *at);
    else
        err = share_node_walk(s, *at, name, &next, &st);
    if (!err)
        err = advance(s, at, next);
    if (!err && fstat((*at)->fd, &st))
        err = errno;
    if (!err)
        *qid = share_attr_qid(s, &st);
    return err;
}

static int walk(struct share *s, struct walk *w, struct share_ref *r, struct share_out *out)
{
    struct share_node *at = r->node;
    unsigned done = 0;
    pthread_mutex_lock(&s->lock);
    share_node_ref(at);
    int err = share_node_pin(s, at);
    assert(!err); /* it is open: r has it pinned */
    pthread_mutex_unlock(&s->lock);
    while (done < w->count && !(err = step(s, &at, w->name[done], &w->qid[done])))
        done++;
    pthread_mutex_lock(&s->lock);
    share_node_unpin(s, at);
    if (done < w->count)
        share_node_put(s, at);
    pthread_mutex_unlock(&s->lock);
    if (done < w->count)
        err = done ? 0 : err; /* part of the way is a success that makes no fid */
    else if (w->newfid == w->fid)
        err = share_fid_replace(s, r, at);
    else
        err = share_fid_add(s, w->newfid, r->fid->uid, at);
    if (err)
        return err;
    share_out_u16(out, done);
    for (unsigned i = 0; i < done; i++)
        share_out_qid(out, &w->qid[i]);
    return 0;
}

int share_walk_walk(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_ref r;
    struct walk w;
    w.fid = share_in_u32(in);
    w.newfid = share_in_u32(in);
    w.count = share_in_u16(in);
    if (!in->err && (w.count > WALK_MAX || w.newfid == SHARE_NOFID))
        return EINVAL;
    for (unsigned i = 0; i < w.count && !in->err; i++)
        share_in_name(in, w.name[i], 0);
    int err = in->err ? in->err : share_fid_grab(s, w.fid, &r);
    if (err)
        return err;
    err = r.kind == FID_FILE ? walk(s, &w, &r, out) : EINVAL;
    share_fid_drop(s, &r);
    return err;
}

int share_walk_clunk(struct share *s, struct share_in *in, struct share_out *out)
{
    u32 fid = share_in_u32(in);
    return in->err ? in->err : share_fid_clunk(s, fid);
}
