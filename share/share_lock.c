#include "share/share_lock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "share/share_priv.h"

/* Rlock's status. */
#define STATUS_OK      0
#define STATUS_BLOCKED 1
#define STATUS_ERROR   2

static bool same_file(const struct share_lock *a, const struct share_lock *b)
{
    return a->dev == b->dev && a->ino == b->ino;
}

static bool same_owner(const struct share_lock *a, const struct share_lock *b)
{
    return a->proc == b->proc && !strcmp(a->client, b->client);
}

static bool overlap(const struct share_lock *a, const struct share_lock *b)
{
    return same_file(a, b) && a->start <= b->end && b->start <= a->end;
}

const struct share_lock *share_locks_conflict(const struct share_locks *l,
                                              const struct share_lock *want)
{
    for (const struct share_lock *k = l->first; k; k = k->next)
        if (overlap(k, want) && !same_owner(k, want) &&
            (k->type == SHARE_LOCK_WRITE || want->type == SHARE_LOCK_WRITE))
            return k;
    return NULL;
}

static void add(struct share_locks *l, struct share_lock *room, const struct share_lock *k)
{
    *room = *k;
    room->next = l->first;
    l->first = room;
    l->count++;
}

static void take_out(struct share_locks *l, struct share_lock **p)
{
    struct share_lock *k = *p;
    *p = k->next;
    l->count--;
    free(k);
}

/*
 * Cuts want's range out of what its owner holds. A lock that has it in its middle falls into two,
 * for which *room is used.
 */
static void cut(struct share_locks *l, const struct share_lock *want, struct share_lock **room)
{
    struct share_lock **p = &l->first;
    while (*p) {
        struct share_lock *k = *p;
        if (!overlap(k, want) || !same_owner(k, want)) {
            p = &k->next;
            continue;
        }
        bool left = k->start<want->start, right = k->end> want->end;
        if (left && right) {
            struct share_lock tail = *k;
            tail.start = want->end + 1;
            add(l, *room, &tail); /* in front: not met again */
            *room = NULL;
            k->end = want->start - 1;
            return; /* an owner's locks do not overlap: no other can be touched */
        }
        if (left) {
            k->end = want->start - 1;
        } else if (right) {
            k->start = want->end + 1;
        } else {
            take_out(l, p);
            continue;
        }
        p = &k->next;
    }
}

/* Would a lock fall into two? */
static bool splits(const struct share_locks *l, const struct share_lock *want)
{
    for (const struct share_lock *k = l->first; k; k = k->next)
        if (overlap(k, want) && same_owner(k, want) && k->start < want->start && k->end > want->end)
            return true;
    return false;
}

int share_locks_set(struct share_locks *l, const struct share_lock *want)
{
    bool full = l->count + 2 > SHARE_LOCKS_MAX;
    bool grows = want->type != SHARE_LOCK_NONE || splits(l, want);
    struct share_lock *room = malloc(sizeof(*room)), *spare = malloc(sizeof(*spare));
    if (!room || !spare || (full && grows)) {
        free(room);
        free(spare);
        return ENOLCK;
    }
    cut(l, want, &spare);
    if (want->type != SHARE_LOCK_NONE) {
        add(l, room, want);
        room = NULL;
    }
    free(room);
    free(spare);
    return 0;
}

void share_locks_drop(struct share_locks *l, const void *fid)
{
    struct share_lock **p = &l->first;
    while (*p) {
        if ((*p)->fid == fid)
            take_out(l, p);
        else
            p = &(*p)->next;
    }
}

/* --- the messages --- */

static void in_range(struct share_in *in, struct share_lock *k)
{
    u64 start = share_in_u64(in), length = share_in_u64(in);
    k->start = start;
    k->end = !length || start + length < start ? UINT64_MAX : start + length - 1;
    k->proc = share_in_u32(in);
    share_in_str(in, k->client, sizeof(k->client));
}

static void name_file(struct share_lock *k, const struct share_ref *r)
{
    k->fid = r->fid;
    k->dev = r->node->dev;
    k->ino = r->node->ino;
}

int share_lock_lock(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_lock want = {0};
    struct share_ref r;
    u32 fid = share_in_u32(in);
    want.type = share_in_u8(in);
    share_in_u32(in); /* flags: whether it wants to wait is the guest's affair, who asks again */
    in_range(in, &want);
    int err = in->err ? in->err : want.type > SHARE_LOCK_NONE ? EINVAL : share_fid_grab(s, fid, &r);
    if (err)
        return err;
    name_file(&want, &r);
    pthread_mutex_lock(&s->lock);
    u8 status = STATUS_BLOCKED;
    if (want.type == SHARE_LOCK_NONE || !share_locks_conflict(&s->locks, &want)) {
        status = share_locks_set(&s->locks, &want) ? STATUS_ERROR : STATUS_OK;
        r.fid->locks = true;
    }
    pthread_mutex_unlock(&s->lock);
    share_fid_drop(s, &r);
    share_out_u8(out, status);
    return 0;
}

static void out_lock(struct share_out *out, const struct share_lock *k)
{
    share_out_u8(out, k->type);
    share_out_u64(out, k->start);
    share_out_u64(out, k->end == UINT64_MAX ? 0 : k->end - k->start + 1);
    share_out_u32(out, k->proc);
    share_out_str(out, k->client, strlen(k->client));
}

int share_lock_getlock(struct share *s, struct share_in *in, struct share_out *out)
{
    struct share_lock want = {0};
    struct share_ref r;
    u32 fid = share_in_u32(in);
    want.type = share_in_u8(in);
    in_range(in, &want);
    int err = in->err ? in->err : want.type > SHARE_LOCK_NONE ? EINVAL : share_fid_grab(s, fid, &r);
    if (err)
        return err;
    name_file(&want, &r);
    pthread_mutex_lock(&s->lock);
    const struct share_lock *k = share_locks_conflict(&s->locks, &want);
    if (!k)
        want.type = SHARE_LOCK_NONE;
    out_lock(out, k ? k : &want);
    pthread_mutex_unlock(&s->lock);
    share_fid_drop(s, &r);
    return 0;
}
