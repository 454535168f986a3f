/*
 * qcow2_io.c - reading, writing and discarding of guest data.
 *
 * A request is cut into runs: guest clusters in a row that are treated alike, under one L2 table.
 * While a run is read, or overwritten in place, its range is locked against changes of the mapping;
 * while clusters are allocated for it, against everything else. So a cluster of the file is never
 * freed, and used for something else, under a transfer. The lock `meta` is not held during
 * transfers.
 */
#include <errno.h>
#include <stdlib.h>

#include "block/iov.h"
#include "block/qcow2.h"

/* --- ranges --- */

static bool conflicts(const struct qcow2 *q, u64 first, u64 last, bool exclusive)
{
    for (const struct qcow2_range *r = q->ranges; r; r = r->next)
        if (r->first <= last && first <= r->last && (exclusive || r->exclusive))
            return true;
    return false;
}

static void add_range(struct qcow2 *q, struct qcow2_range *r)
{
    r->next = q->ranges;
    q->ranges = r;
}

static void drop_range(struct qcow2 *q, struct qcow2_range *r)
{
    struct qcow2_range **p = &q->ranges;
    while (*p != r)
        p = &(*p)->next;
    *p = r->next;
    pthread_cond_broadcast(&q->changed);
}

static void unlock_range(struct qcow2 *q, struct qcow2_range *r)
{
    pthread_mutex_lock(&q->meta);
    drop_range(q, r);
    pthread_mutex_unlock(&q->meta);
}

/* --- where guest bytes are --- */

static u64 cluster_of(const struct qcow2 *q, u64 off)
{
    return off >> q->cluster_bits;
}

static u64 in_table(const struct qcow2 *q, u64 guest_cluster)
{
    return guest_cluster & ((1ull << q->l2_bits) - 1);
}

/* As much of [off, off+len) as one L2 table covers. */
static u64 cut_to_table(const struct qcow2 *q, u64 off, u64 len)
{
    u64 span = qcow2_l2_span(q);
    return min_u64(len, span - (off & (span - 1)));
}

/* Does the backing file say anything about this guest cluster? */
static bool is_backed(const struct qcow2 *q, u64 guest_cluster)
{
    return q->m.backing && guest_cluster << q->cluster_bits < q->m.backing->size;
}

static u64 entry_of(const struct qcow2 *q, const struct qcow2_l2 *t, u64 guest_cluster)
{
    return t ? qcow2_l2_get(t, in_table(q, guest_cluster)) : 0;
}

struct run {
    int kind; /* enum qcow2_kind */
    u64 host; /* of the first byte, for KIND_DATA */
    u64 entry;
    u64 len; /* bytes */
    bool locked;
    struct qcow2_range range;
};

/* What follows `off` in the same way; -EIO for entries that make no sense. */
static int measure(struct qcow2 *q, const struct qcow2_l2 *t, u64 off, u64 len, struct run *r)
{
    u64 g = cluster_of(q, off), last = cluster_of(q, off + len - 1), n = 1, host, next;
    r->entry = entry_of(q, t, g);
    r->kind = qcow2_classify(q, r->entry, &host);
    if (r->kind < 0)
        return r->kind;
    while (r->kind != KIND_ZIP && g + n <= last) {
        int kind = qcow2_classify(q, entry_of(q, t, g + n), &next);
        if (kind != r->kind || (kind == KIND_DATA && next != host + (n << q->cluster_bits)))
            break;
        n++;
    }
    r->host = host + (off & (q->cluster - 1));
    r->len = min_u64(len, ((g + n) << q->cluster_bits) - off);
    return 0;
}

/* meta is held; may be dropped meanwhile. Nobody changes the mapping of the range when it returns.
 */
static int settle(struct qcow2 *q, u64 off, u64 len, bool exclusive)
{
    u64 first = cluster_of(q, off), last = cluster_of(q, off + len - 1);
    for (;;) {
        int rc = qcow2_make_room(q);
        if (rc || !conflicts(q, first, last, exclusive))
            return rc;
        pthread_cond_wait(&q->changed, &q->meta);
    }
}

/* --- reading --- */

static int find_run(struct qcow2 *q, u64 off, u64 len, struct run *r)
{
    struct qcow2_l2 *t;
    len = cut_to_table(q, off, len);
    r->locked = false;
    int rc = settle(q, off, len, false);
    if (!rc)
        rc = qcow2_l2_read(q, off / qcow2_l2_span(q), &t);
    if (!rc)
        rc = measure(q, t, off, len, r);
    if (rc || (r->kind != KIND_DATA && r->kind != KIND_ZIP))
        return rc;
    r->range =
        (struct qcow2_range){.first = cluster_of(q, off), .last = cluster_of(q, off + r->len - 1)};
    r->locked = true;
    add_range(q, &r->range);
    return 0;
}

static int read_run(struct qcow2 *q, const struct run *r, u64 off, const struct iovec *v,
                    unsigned n)
{
    switch (r->kind) {
    case KIND_DATA:
        return file_readv(&q->m.file, v, n, r->host);
    case KIND_ZIP:
        return qcow2_zip_read(q, r->entry, off & (q->cluster - 1), v, n, r->len);
    case KIND_NONE:
        return image_read_backing(q->m.backing, off, v, n, r->len);
    default:
        iov_zero(v, n, 0, r->len);
        return 0;
    }
}

static int do_readv(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len)
{
    struct qcow2 *q = qcow2_of(m);
    struct iovec part[BLOCK_SEGS_ALL];
    struct run r;
    for (u64 pos = 0; pos < len; pos += r.len) {
        pthread_mutex_lock(&q->meta);
        int rc = find_run(q, off + pos, len - pos, &r);
        pthread_mutex_unlock(&q->meta);
        if (rc)
            return rc;
        unsigned k = iov_slice(part, v, n, pos, r.len);
        rc = read_run(q, &r, off + pos, part, k);
        if (r.locked)
            unlock_range(q, &r.range);
        if (rc)
            return rc;
    }
    return 0;
}

/* Reads bytes [in, in+len) of a guest cluster with this entry, whose range is locked. */
static int read_entry(struct qcow2 *q, u64 entry, u64 guest, u64 in, const struct iovec *v,
                      unsigned n, u64 len)
{
    struct run r = {.entry = entry, .len = len};
    pthread_mutex_lock(&q->meta);
    r.kind = qcow2_classify(q, entry, &r.host);
    pthread_mutex_unlock(&q->meta);
    if (r.kind < 0)
        return r.kind;
    r.host += in;
    return read_run(q, &r, (guest << q->cluster_bits) + in, v, n);
}

/* --- at once, or not at all --- */

/* The table if it is in memory and nothing conflicts; meta is held. */
static bool find_now(struct qcow2 *q, u64 off, u64 len, bool write, struct run *r)
{
    u64 index = off / qcow2_l2_span(q);
    if (cut_to_table(q, off, len) < len || index >= q->l1_size ||
        conflicts(q, cluster_of(q, off), cluster_of(q, off + len - 1), false))
        return false;
    struct qcow2_l2 *t = q->l2_at[index];
    if (!t && (write || q->l1[index] & L1_OFFSET))
        return false;
    if (t)
        t->used = true;
    if (measure(q, t, off, len, r) || r->len < len)
        return false;
    return !write || (r->kind == KIND_DATA && r->entry & L2_COPIED && q->l1[index] & L2_COPIED);
}

static int try_run(struct qcow2 *q, const struct run *r, u64 off, const struct iovec *v, unsigned n,
                   u64 len)
{
    switch (r->kind) {
    case KIND_DATA:
        return file_try_readv(&q->m.file, v, n, r->host);
    case KIND_ZIP:
        return -EAGAIN;
    case KIND_NONE:
        if (q->m.backing && off < q->m.backing->size)
            return image_try_readv(q->m.backing, off, v, n, len);
        break;
    default:
        break;
    }
    iov_zero(v, n, 0, len);
    return 0;
}

static int try_readv(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len)
{
    struct qcow2 *q = qcow2_of(m);
    struct run r;
    if (pthread_mutex_trylock(&q->meta))
        return -EAGAIN;
    int rc = find_now(q, off, len, false, &r) ? try_run(q, &r, off, v, n, len) : -EAGAIN;
    pthread_mutex_unlock(&q->meta);
    return rc;
}

/* Every cluster of the run must be the image's own. */
static bool are_copied(struct qcow2 *q, u64 off, u64 len)
{
    const struct qcow2_l2 *t = q->l2_at[off / qcow2_l2_span(q)];
    for (u64 g = cluster_of(q, off); g <= cluster_of(q, off + len - 1); g++)
        if (!(entry_of(q, t, g) & L2_COPIED))
            return false;
    return true;
}

static int try_writev(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len)
{
    struct qcow2 *q = qcow2_of(m);
    struct run r;
    if (m->file.align > 1 || m->file.device || pthread_mutex_trylock(&q->meta))
        return -EAGAIN;
    int rc = -EAGAIN;
    if (!q->corrupt && find_now(q, off, len, true, &r) && are_copied(q, off, len))
        rc = file_writev(&m->file, v, n, r.host);
    pthread_mutex_unlock(&q->meta);
    return rc;
}

/* --- writing --- */

struct plan {
    u64 off, len; /* of the guest */
    u64 g, n;     /* guest clusters */
    u64 host;     /* in the file, of cluster g */
    bool in_place;
    bool zeros; /* what surrounds the data in its clusters reads as zeros, and is there */
    u64 first_entry, last_entry; /* before */
    struct qcow2_range range;
};

static bool is_in_place(struct qcow2 *q, u64 entry, u64 *host)
{
    return qcow2_classify(q, entry, host) == KIND_DATA && entry & L2_COPIED;
}

/* How far the clusters are treated alike. */
static int plan_run(struct qcow2 *q, const struct qcow2_l2 *t, u64 len, struct plan *p)
{
    u64 last = cluster_of(q, p->off + len - 1), host;
    p->in_place = is_in_place(q, entry_of(q, t, p->g), &p->host);
    for (p->n = 1; p->g + p->n <= last; p->n++) {
        bool same = is_in_place(q, entry_of(q, t, p->g + p->n), &host) == p->in_place;
        if (!same || (p->in_place && host != p->host + (p->n << q->cluster_bits)))
            break;
    }
    p->len = min_u64(len, ((p->g + p->n) << q->cluster_bits) - p->off);
    return q->corrupt ? -EIO : 0;
}

/* meta is held. The range is locked when it succeeds. */
static int plan_write(struct qcow2 *q, u64 off, u64 len, struct plan *p)
{
    struct qcow2_l2 *t;
    len = cut_to_table(q, off, len);
    *p = (struct plan){.off = off, .g = cluster_of(q, off)};
    for (;;) {
        int rc = settle(q, off, len, false);
        if (!rc)
            rc = q->corrupt ? -EIO : qcow2_l2_write(q, off / qcow2_l2_span(q), &t);
        if (!rc)
            rc = plan_run(q, t, len, p);
        if (rc)
            return rc;
        if (p->in_place || !conflicts(q, p->g, p->g + p->n - 1, true))
            break;
        pthread_cond_wait(&q->changed, &q->meta);
    }
    p->range =
        (struct qcow2_range){.first = p->g, .last = p->g + p->n - 1, .exclusive = !p->in_place};
    p->first_entry = entry_of(q, t, p->g);
    add_range(q, &p->range);
    return 0;
}

static bool reads_zero(struct qcow2 *q, u64 entry, u64 guest_cluster)
{
    u64 host;
    int kind = qcow2_classify(q, entry, &host);
    return kind == KIND_ZERO || kind == KIND_ZERO_ALLOC ||
           (kind == KIND_NONE && !is_backed(q, guest_cluster));
}

/* meta is held, and the range locked. The run may become shorter. */
static int allocate(struct qcow2 *q, struct plan *p)
{
    struct qcow2_l2 *t;
    u64 first, got, never_used = q->end;
    int rc = qcow2_alloc(q, p->n, &first, &got);
    if (rc)
        return rc;
    rc = qcow2_l2_read(q, p->off / qcow2_l2_span(q), &t);
    if (rc) {
        qcow2_unalloc(q, first, got);
        return rc;
    }
    p->n = got;
    p->len = min_u64(p->len, ((p->g + got) << q->cluster_bits) - p->off);
    p->host = first << q->cluster_bits;
    p->last_entry = entry_of(q, t, p->g + got - 1);
    p->zeros = first >= never_used && !q->m.file.device && reads_zero(q, p->first_entry, p->g) &&
               reads_zero(q, p->last_entry, p->g + got - 1);
    return 0;
}

/* New clusters are written whole: what was there before round the guest's data comes with it. */
static int write_whole(struct qcow2 *q, const struct plan *p, const struct iovec *v, unsigned n)
{
    u64 head = p->off & (q->cluster - 1);
    u64 tail = (p->n << q->cluster_bits) - head - p->len;
    u64 in_last = q->cluster - tail;
    u8 *edge = head + tail ? malloc(head + tail) : NULL;
    if (head + tail && !edge)
        return -ENOMEM;
    struct iovec all[BLOCK_SEGS_ALL + 2];
    unsigned k = 0;
    int rc = 0;
    if (head) {
        all[k] = (struct iovec){edge, head};
        rc = read_entry(q, p->first_entry, p->g, 0, &all[k++], 1, head);
    }
    for (unsigned i = 0; i < n; i++)
        all[k++] = v[i];
    if (tail && !rc) {
        all[k] = (struct iovec){edge + head, tail};
        rc = read_entry(q, p->last_entry, p->g + p->n - 1, in_last, &all[k++], 1, tail);
    }
    if (!rc)
        rc = file_writev(&q->m.file, all, k, p->host);
    free(edge);
    return rc;
}

/* The data is written: guest clusters get their new places. meta is held. */
static int set_entries(struct qcow2 *q, const struct plan *p)
{
    struct qcow2_l2 *t;
    int rc = qcow2_make_room(q);
    if (!rc)
        rc = q->corrupt ? -EIO : qcow2_l2_write(q, p->off / qcow2_l2_span(q), &t);
    if (rc)
        return rc;
    for (u64 i = 0; i < p->n; i++) {
        u64 at = in_table(q, p->g + i);
        qcow2_free_entry(q, qcow2_l2_get(t, at)); /* no memory: it leaks */
        qcow2_l2_set(q, t, at, (p->host + (i << q->cluster_bits)) | L2_COPIED);
    }
    return 0;
}

/* meta is held on entry and exit. */
static int write_new(struct qcow2 *q, struct plan *p, const struct iovec *v, unsigned n, u64 pos)
{
    struct iovec part[BLOCK_SEGS_ALL];
    int rc = allocate(q, p);
    if (rc)
        return rc;
    pthread_mutex_unlock(&q->meta);
    unsigned k = iov_slice(part, v, n, pos, p->len);
    if (p->zeros)
        rc = file_writev(&q->m.file, part, k, p->host + (p->off & (q->cluster - 1)));
    else
        rc = write_whole(q, p, part, k);
    pthread_mutex_lock(&q->meta);
    if (!rc)
        rc = set_entries(q, p);
    if (rc)
        qcow2_unalloc(q, p->host >> q->cluster_bits, p->n);
    return rc;
}

static int write_in_place(struct qcow2 *q, struct plan *p, const struct iovec *v, unsigned n,
                          u64 pos)
{
    struct iovec part[BLOCK_SEGS_ALL];
    unsigned k = iov_slice(part, v, n, pos, p->len);
    pthread_mutex_unlock(&q->meta);
    int rc = file_writev(&q->m.file, part, k, p->host + (p->off & (q->cluster - 1)));
    pthread_mutex_lock(&q->meta);
    return rc;
}

static int do_writev(struct image *m, u64 off, const struct iovec *v, unsigned n, u64 len)
{
    struct qcow2 *q = qcow2_of(m);
    struct plan p;
    int rc = 0;
    pthread_mutex_lock(&q->meta);
    for (u64 pos = 0; pos < len && !rc; pos += p.len) {
        rc = plan_write(q, off + pos, len - pos, &p);
        if (rc)
            break;
        rc = p.in_place ? write_in_place(q, &p, v, n, pos) : write_new(q, &p, v, n, pos);
        drop_range(q, &p.range);
    }
    pthread_mutex_unlock(&q->meta);
    return rc;
}

/* --- discarding and zeroing of whole clusters --- */

enum change {
    DISCARD,
    ZERO_UNMAP,
    ZERO_KEEP, /* the space stays reserved */
};

/* What becomes of an entry. Version 2 comes here only where the backing file does not matter. */
static u64 changed_entry(const struct qcow2 *q, u64 old, int kind, u64 g, enum change how)
{
    bool backed = is_backed(q, g);
    if (kind == KIND_NONE)
        return how != DISCARD && backed ? L2_ZERO : old;
    if (kind == KIND_ZERO)
        return old;
    if (how == ZERO_KEEP && old & L2_COPIED && q->version >= 3)
        return old | L2_ZERO;
    return backed && q->version >= 3 ? L2_ZERO : 0;
}

static int change_table(struct qcow2 *q, u64 first, u64 last, enum change how)
{
    struct qcow2_l2 *t;
    u64 index = first >> q->l2_bits, host;
    bool nothing_here = index < q->l1_size && !(q->l1[index] & L1_OFFSET);
    if (nothing_here && (how == DISCARD || !is_backed(q, first)))
        return 0;
    int rc = q->corrupt ? -EIO : qcow2_l2_write(q, index, &t);
    for (u64 g = first; g <= last && !rc; g++) {
        u64 old = entry_of(q, t, g);
        int kind = qcow2_classify(q, old, &host);
        if (kind < 0)
            return kind;
        u64 new = changed_entry(q, old, kind, g, how);
        if (new == old)
            continue;
        if (!(new &L2_OFFSET))
            rc = qcow2_free_entry(q, old);
        if (!rc)
            qcow2_l2_set(q, t, in_table(q, g), new);
    }
    return rc;
}

/* Whole clusters [first, end). */
static int change_clusters(struct qcow2 *q, u64 first, u64 end, enum change how)
{
    int rc = 0;
    pthread_mutex_lock(&q->meta);
    while (first < end && !rc) {
        u64 past = min_u64(end, ((first >> q->l2_bits) + 1) << q->l2_bits);
        rc = settle(q, first << q->cluster_bits, (past - first) << q->cluster_bits, true);
        if (!rc)
            rc = change_table(q, first, past - 1, how);
        first = past;
    }
    pthread_mutex_unlock(&q->meta);
    return rc;
}

/* The clusters that lie in the range whole; the last one of the disk may end with it. */
static void whole_clusters(const struct qcow2 *q, u64 off, u64 len, u64 *first, u64 *end)
{
    u64 past = off + len;
    *first = cluster_of(q, off + q->cluster - 1);
    *end = cluster_of(q, past == q->m.size ? past + q->cluster - 1 : past);
}

static int discard(struct image *m, u64 off, u64 len)
{
    struct qcow2 *q = qcow2_of(m);
    u64 first, end;
    whole_clusters(q, off, len, &first, &end);
    /* Version 2 cannot hide what the backing file has. */
    if (first >= end || (q->version < 3 && m->backing))
        return 0;
    return change_clusters(q, first, end, DISCARD);
}

static int write_zeros(struct qcow2 *q, u64 off, u64 len)
{
    u64 size = min_u64(len, max_u64(q->cluster, 256 * KiB));
    u8 *zeros = calloc(1, size);
    if (len && !zeros)
        return -ENOMEM;
    int rc = 0;
    for (u64 part; len && !rc; off += part, len -= part) {
        part = min_u64(len, size);
        struct iovec v = {zeros, part};
        rc = do_writev(&q->m, off, &v, 1, part);
    }
    free(zeros);
    return rc;
}

static int zero(struct image *m, u64 off, u64 len, bool may_unmap)
{
    struct qcow2 *q = qcow2_of(m);
    u64 first, end;
    whole_clusters(q, off, len, &first, &end);
    if (first >= end || (q->version < 3 && (m->backing || !may_unmap)))
        return write_zeros(q, off, len);
    u64 from = first << q->cluster_bits, to = end << q->cluster_bits;
    int rc = from > off ? write_zeros(q, off, from - off) : 0;
    if (!rc && to < off + len)
        rc = write_zeros(q, to, off + len - to);
    if (!rc)
        rc = change_clusters(q, first, end, may_unmap ? ZERO_UNMAP : ZERO_KEEP);
    return rc;
}

/* --- the rest --- */

static int flush(struct image *m)
{
    struct qcow2 *q = qcow2_of(m);
    int rc = qcow2_write_back(q, false);
    return rc ? rc : file_sync(&m->file);
}

static int map_backing(struct qcow2 *q, u64 off, u64 len, struct image_extent *x)
{
    struct image *b = q->m.backing;
    *x = (struct image_extent){.len = len, .zero = true};
    if (!b || off >= b->size)
        return 0;
    int rc = image_map(b, off, min_u64(len, b->size - off), x);
    x->local = false;
    return rc;
}

static int map(struct image *m, u64 off, u64 len, struct image_extent *x)
{
    struct qcow2 *q = qcow2_of(m);
    struct run r;
    pthread_mutex_lock(&q->meta);
    int rc = find_run(q, off, len, &r);
    if (!rc && r.locked)
        drop_range(q, &r.range);
    pthread_mutex_unlock(&q->meta);
    if (rc)
        return rc;
    if (r.kind == KIND_NONE)
        return map_backing(q, off, r.len, x);
    bool zeros = r.kind == KIND_ZERO || r.kind == KIND_ZERO_ALLOC;
    *x = (struct image_extent){.len = r.len, .zero = zeros, .local = true};
    return 0;
}

static int do_close(struct image *m)
{
    struct qcow2 *q = qcow2_of(m);
    int rc = 0;
    if (!m->ro && !m->file.temporary) {
        /* The second time for the refcounts of what the first has freed. */
        rc = qcow2_write_back(q, true);
        if (!rc)
            rc = qcow2_write_back(q, true);
        if (!rc && q->incompat & QCOW2_DIRTY) {
            rc = qcow2_write_incompat(q, q->incompat & ~QCOW2_DIRTY);
        }
        int synced = file_sync(&m->file);
        rc = rc ? rc : synced;
    }
    qcow2_tables_free(q);
    qcow2_zip_free(q);
    free(q->backing_name);
    free(q->backing_format);
    pthread_mutex_destroy(&q->meta);
    pthread_mutex_destroy(&q->flush);
    pthread_mutex_destroy(&q->zip_lock);
    pthread_cond_destroy(&q->changed);
    return rc;
}

const struct image_ops qcow2_ops = {
    .format = "qcow2",
    .readv = do_readv,
    .writev = do_writev,
    .try_readv = try_readv,
    .try_writev = try_writev,
    .flush = flush,
    .discard = discard,
    .zero = zero,
    .map = map,
    .close = do_close,
};
