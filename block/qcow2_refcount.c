/*
 * qcow2_refcount.c - which clusters of the file are in use: refcount table and blocks, allocation.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2.h"

/* --- metadata clusters --- */

bool qcow2_is_meta(const struct qcow2 *q, u64 cluster)
{
    return cluster < q->nis_meta && q->is_meta[cluster / 8] >> (cluster % 8) & 1;
}

int qcow2_set_meta(struct qcow2 *q, u64 cluster, bool on)
{
    if (cluster >= q->nis_meta) {
        if (!on)
            return 0;
        u64 n = align_up(cluster + cluster / 4 + 1024, 8);
        u8 *map = realloc(q->is_meta, n / 8);
        if (!map)
            return -ENOMEM;
        memset(map + q->nis_meta / 8, 0, (n - q->nis_meta) / 8);
        q->is_meta = map;
        q->nis_meta = n;
    }
    u8 bit = (u8)(1u << (cluster % 8));
    q->is_meta[cluster / 8] = on ? q->is_meta[cluster / 8] | bit : q->is_meta[cluster / 8] & ~bit;
    return 0;
}

int qcow2_mark_meta(struct qcow2 *q, u64 offset, u64 len)
{
    for (u64 c = offset >> q->cluster_bits; c << q->cluster_bits < offset + len; c++) {
        if (qcow2_is_meta(q, c))
            return -1;
        if (qcow2_set_meta(q, c, true))
            return -1;
    }
    return 0;
}

/* --- numbers of any width --- */

u64 qcow2_rb_get(const struct qcow2 *q, const u8 *data, u64 index)
{
    switch (q->refcount_order) {
    case 3:
        return data[index];
    case 4:
        return __builtin_bswap16(((const u16 *)data)[index]);
    case 5:
        return be32(((const u32 *)data)[index]);
    case 6:
        return be64(((const u64 *)data)[index]);
    default: { /* 1, 2, 4 bits, the lowest first */
        unsigned width = 1u << q->refcount_order, per = 8 / width;
        return data[index / per] >> (index % per * width) & ((1u << width) - 1);
    }
    }
}

void qcow2_rb_set(const struct qcow2 *q, u8 *data, u64 index, u64 v)
{
    switch (q->refcount_order) {
    case 3:
        data[index] = (u8)v;
        break;
    case 4:
        ((u16 *)data)[index] = __builtin_bswap16((u16)v);
        break;
    case 5:
        ((u32 *)data)[index] = be32((u32)v);
        break;
    case 6:
        ((u64 *)data)[index] = be64(v);
        break;
    default: {
        unsigned width = 1u << q->refcount_order, per = 8 / width;
        unsigned shift = (unsigned)(index % per) * width;
        u8 mask = (u8)(((1u << width) - 1) << shift);
        data[index / per] = (u8)((data[index / per] & ~mask) | (v << shift & mask));
    }
    }
}

static u64 refcount_max(const struct qcow2 *q)
{
    return ~0ull >> (64 - (1u << q->refcount_order));
}

/* --- refcount blocks --- */

static struct qcow2_rb *rb_alloc(struct qcow2 *q, u64 offset)
{
    struct qcow2_rb *b = calloc(1, sizeof(*b) + q->cluster);
    if (b)
        b->offset = offset;
    return b;
}

/* *b is NULL where no block is: all its clusters are free. */
static int rb_load(struct qcow2 *q, u64 i, struct qcow2_rb **b)
{
    *b = NULL;
    if (i >= q->rt_size || (!q->rt[i] && !q->rb[i]))
        return 0;
    if (q->rb[i]) {
        *b = q->rb[i];
        return 0;
    }
    u64 offset = q->rt[i];
    if (offset & (q->cluster - 1) || offset >> q->cluster_bits >= q->end)
        return qcow2_corrupt(q, "refcount block %llu is said to be at %#llx", (unsigned long long)i,
                             (unsigned long long)offset);
    struct qcow2_rb *r = rb_alloc(q, offset);
    if (!r)
        return -ENOMEM;
    int rc = file_read(&q->m.file, r->data, q->cluster, offset);
    if (rc) {
        free(r);
        return rc;
    }
    *b = q->rb[i] = r;
    return 0;
}

static void rb_put(struct qcow2 *q, struct qcow2_rb *b, u64 index, u64 v)
{
    qcow2_rb_set(q, b->data, index, v);
    u64 bit = index << q->refcount_order;
    b->dirty |= qcow2_parts(q, bit / 8, 1);
    q->rb_dirty = true;
}

static bool is_avoided(const struct qcow2 *q, u64 c)
{
    return q->avoid && c < q->navoid && q->avoid[c];
}

static int rt_grow(struct qcow2 *q, u64 i);

/*
 * A new refcount block, which has its place in the range that it describes: nothing there is used.
 * (A repair may find all of the range in use; then it is put behind everything.)
 */
static int rb_new(struct qcow2 *q, u64 i)
{
    int rc = i >= q->rt_size ? rt_grow(q, i) : 0;
    if (rc || q->rb[i])
        return rc;
    u64 first = i << q->rb_bits, per = 1ull << q->rb_bits, c = first;
    while (c < first + per && (qcow2_is_meta(q, c) || is_avoided(q, c)))
        c++;
    bool inside = c < first + per;
    if (!inside && (rc = qcow2_alloc_table(q, 1, &c)))
        return rc;
    struct qcow2_rb *b = rb_alloc(q, c << q->cluster_bits);
    if (!b)
        return -ENOMEM;
    if ((rc = qcow2_set_meta(q, c, true)) || (rc = qcow2_list_add(&q->rt_dirty, i))) {
        free(b);
        return rc;
    }
    b->dirty = ~0ull;
    q->rb_dirty = true;
    q->rb[i] = b;
    q->rt[i] = b->offset;
    q->end = max_u64(q->end, c + 1);
    if (inside)
        rb_put(q, b, c - first, 1);
    return 0;
}

static int rb_get_or_new(struct qcow2 *q, u64 i, struct qcow2_rb **b)
{
    int rc = rb_load(q, i, b);
    if (rc || *b)
        return rc;
    rc = rb_new(q, i);
    return rc ? rc : rb_load(q, i, b);
}

/*
 * The refcount table becomes longer: a new one behind everything else. The old one is freed once
 * the header points to the new one.
 */
static int rt_grow(struct qcow2 *q, u64 i)
{
    u64 old_offset = q->rt_offset, old = q->rt_size;
    u64 per = q->cluster / 8, n = align_up(max_u64(2 * old, i + i / 4 + 16), per);
    if (n * 8 > 64 * MiB)
        return -EFBIG;
    u64 *rt = realloc(q->rt, n * sizeof(*rt));
    if (rt)
        q->rt = rt;
    struct qcow2_rb **rb = realloc(q->rb, n * sizeof(struct qcow2_rb *));
    if (rb)
        q->rb = rb;
    if (!rt || !rb)
        return -ENOMEM;
    memset(q->rt + old, 0, (n - old) * sizeof(*rt));
    memset(q->rb + old, 0, (n - old) * sizeof(struct qcow2_rb *));
    q->rt_size = n;
    u64 first;
    int rc = qcow2_alloc_table(q, n / per, &first);
    if (rc)
        return rc;
    for (u64 c = first; c < first + n / per; c++)
        qcow2_set_meta(q, c, true);
    q->rt_offset = first << q->cluster_bits;
    q->rt_moved = true;
    q->lazy = false; /* from now on everything is written back in order */
    for (u64 k = 0; k < align_up(old * 8, q->cluster) >> q->cluster_bits; k++) {
        u64 c = (old_offset >> q->cluster_bits) + k;
        qcow2_set_meta(q, c, false);
        qcow2_list_add(&q->frees, c);
    }
    return 0;
}

/* --- one cluster --- */

int qcow2_refcount(struct qcow2 *q, u64 cluster, u64 *v)
{
    struct qcow2_rb *b;
    int rc = rb_load(q, cluster >> q->rb_bits, &b);
    if (!rc)
        *v = b ? qcow2_rb_get(q, b->data, cluster & ((1ull << q->rb_bits) - 1)) : 0;
    return rc;
}

int qcow2_set_refcount(struct qcow2 *q, u64 cluster, u64 v)
{
    struct qcow2_rb *b;
    if (v > refcount_max(q))
        return -EMLINK;
    int rc = rb_get_or_new(q, cluster >> q->rb_bits, &b);
    if (!rc)
        rb_put(q, b, cluster & ((1ull << q->rb_bits) - 1), v);
    return rc;
}

/* --- allocation --- */

static bool is_free(const struct qcow2 *q, const struct qcow2_rb *b, u64 c)
{
    return !qcow2_rb_get(q, b->data, c & ((1ull << q->rb_bits) - 1)) && !qcow2_is_meta(q, c) &&
           !is_avoided(q, c);
}

static void take(struct qcow2 *q, struct qcow2_rb *b, u64 first, u64 n)
{
    for (u64 c = first; c < first + n; c++)
        rb_put(q, b, c & ((1ull << q->rb_bits) - 1), 1);
    q->end = max_u64(q->end, first + n);
}

int qcow2_alloc(struct qcow2 *q, u64 want, u64 *first, u64 *got)
{
    for (u64 c = q->hint;;) {
        if (c >= L2_OFFSET >> q->cluster_bits)
            return -EFBIG;
        u64 past = ((c >> q->rb_bits) + 1) << q->rb_bits;
        struct qcow2_rb *b;
        int rc = rb_get_or_new(q, c >> q->rb_bits, &b);
        if (rc)
            return rc;
        while (c < past && !is_free(q, b, c))
            c++;
        q->hint = c;
        if (c == past)
            continue;
        u64 n = 1;
        while (n < want && c + n < past && is_free(q, b, c + n))
            n++;
        take(q, b, c, n);
        q->hint = c + n;
        *first = c;
        *got = n;
        return 0;
    }
}

int qcow2_alloc_table(struct qcow2 *q, u64 n, u64 *first)
{
    for (u64 at = q->end;; at = q->end) {
        /* The blocks come first: making one may take the very next cluster. */
        for (u64 i = at >> q->rb_bits; i <= (at + n - 1) >> q->rb_bits; i++) {
            struct qcow2_rb *b;
            int rc = rb_get_or_new(q, i, &b);
            if (rc)
                return rc;
        }
        bool ok = q->end == at;
        for (u64 c = at; c < at + n && ok; c++) {
            u64 v = 1;
            int rc = qcow2_refcount(q, c, &v);
            if (rc)
                return rc;
            ok = !v && !qcow2_is_meta(q, c);
        }
        if (!ok) {
            q->end = max_u64(q->end, at + 1);
            continue;
        }
        for (u64 c = at; c < at + n; c++) {
            int rc = qcow2_set_refcount(q, c, 1);
            if (rc)
                return rc;
        }
        q->end = at + n;
        *first = at;
        return 0;
    }
}

void qcow2_unalloc(struct qcow2 *q, u64 first, u64 n)
{
    for (u64 c = first; c < first + n; c++)
        qcow2_set_refcount(q, c, 0);
    q->hint = min_u64(q->hint, first);
}

/* --- freeing --- */

int qcow2_free_entry(struct qcow2 *q, u64 entry)
{
    if (!(entry & L2_COMPRESSED)) {
        u64 host = entry & L2_OFFSET;
        return host ? qcow2_list_add(&q->frees, host >> q->cluster_bits) : 0;
    }
    u64 offset, len;
    qcow2_zip_where(q, entry, &offset, &len);
    qcow2_zip_forget(q);
    int rc = 0;
    for (u64 c = offset >> q->cluster_bits; c <= (offset + len - 1) >> q->cluster_bits && !rc; c++)
        rc = qcow2_list_add(&q->frees, c);
    return rc;
}

static int compare(const void *a, const void *b)
{
    u64 x = *(const u64 *)a, y = *(const u64 *)b;
    return x < y ? -1 : x > y;
}

/* The host gets the space back before anybody else can use it. */
static void punch(struct qcow2 *q, const struct qcow2_list *l)
{
    for (size_t i = 0, k; i < l->n; i = k) {
        for (k = i + 1; k < l->n && l->at[k] == l->at[k - 1] + 1; k++)
            ;
        if (file_punch(&q->m.file, l->at[i] << q->cluster_bits, (u64)(k - i) << q->cluster_bits))
            return;
    }
}

/* Drops a reference of each; those that held the last one keep it and go to `last`. */
static int drop(struct qcow2 *q, size_t n, struct qcow2_list *last)
{
    int first_rc = 0;
    for (size_t i = 0; i < n; i++) {
        u64 c = q->frees.at[i], v = 0;
        int rc = qcow2_refcount(q, c, &v);
        if (!rc && !v)
            rc = qcow2_corrupt(q, "cluster %#llx was in use, and not counted",
                               (unsigned long long)c << q->cluster_bits);
        else if (!rc && v > 1)
            rc = qcow2_set_refcount(q, c, v - 1);
        else if (!rc)
            qcow2_list_add(last, c); /* no memory: it leaks */
        if (rc && !first_rc)
            first_rc = rc;
    }
    memmove(q->frees.at, q->frees.at + n, (q->frees.n - n) * sizeof(u64));
    q->frees.n -= n;
    return first_rc;
}

int qcow2_apply_frees(struct qcow2 *q, size_t n)
{
    if (!n)
        return 0;
    struct qcow2_list last = {0};
    pthread_mutex_lock(&q->meta);
    int rc = drop(q, n, &last);
    pthread_mutex_unlock(&q->meta);
    if (last.n)
        qsort(last.at, last.n, sizeof(u64), compare);
    punch(q, &last);
    pthread_mutex_lock(&q->meta);
    for (size_t i = 0; i < last.n; i++)
        if (i == 0 || last.at[i] != last.at[i - 1])
            qcow2_unalloc(q, last.at[i], 1);
    pthread_mutex_unlock(&q->meta);
    free(last.at);
    return rc;
}
