/*
 * qcow2_table.c - the L1 and L2 tables, and the order in which metadata goes to the file.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2.h"

u64 qcow2_parts(const struct qcow2 *q, u64 off, u64 len)
{
    unsigned first = (unsigned)(off / q->part), last = (unsigned)((off + len - 1) / q->part);
    return (~0ull << first) & (~0ull >> (63 - last));
}

/* --- L2 entries --- */

static bool is_in_file(const struct qcow2 *q, u64 host)
{
    return host >> q->cluster_bits < q->end;
}

int qcow2_classify(struct qcow2 *q, u64 entry, u64 *host)
{
    if (entry & L2_COMPRESSED) {
        u64 len;
        qcow2_zip_where(q, entry, host, &len);
        /* Its last sector may be cut off by the end of the file. */
        if (!is_in_file(q, *host))
            return qcow2_corrupt(q, "a compressed cluster is said to be at %#llx",
                                 (unsigned long long)*host);
        return KIND_ZIP;
    }
    *host = entry & L2_OFFSET;
    bool zero = q->version >= 3 && entry & L2_ZERO;
    if (!*host)
        return zero ? KIND_ZERO : KIND_NONE;
    if (*host & (q->cluster - 1) || !is_in_file(q, *host))
        return qcow2_corrupt(q, "a data cluster is said to be at %#llx", (unsigned long long)*host);
    if (qcow2_is_meta(q, *host >> q->cluster_bits))
        return qcow2_corrupt(q, "a data cluster and metadata are both said to be at %#llx",
                             (unsigned long long)*host);
    return zero ? KIND_ZERO_ALLOC : KIND_DATA;
}

void qcow2_l2_set(struct qcow2 *q, struct qcow2_l2 *t, u64 index, u64 entry)
{
    t->entry[index] = be64(entry);
    t->dirty |= qcow2_parts(q, index * 8, 8);
}

/* --- the tables in memory --- */

static void evict(struct qcow2 *q, unsigned i)
{
    struct qcow2_l2 *t = q->slot[i];
    q->l2_at[t->index] = NULL;
    q->slot[i] = q->slot[--q->nslots];
    free(t);
}

/* The clock: one that is clean and was not used since the hand passed last. */
static bool evict_clean(struct qcow2 *q)
{
    for (unsigned n = 2 * q->nslots; n; n--) {
        q->hand = (q->hand + 1) % q->nslots;
        struct qcow2_l2 *t = q->slot[q->hand];
        if (t->dirty || t->writing)
            continue;
        if (!t->used) {
            evict(q, q->hand);
            return true;
        }
        t->used = false;
    }
    return false;
}

int qcow2_make_room(struct qcow2 *q)
{
    while (q->nslots >= q->slots_max && !evict_clean(q)) {
        pthread_mutex_unlock(&q->meta);
        int rc = qcow2_write_back(q, false);
        pthread_mutex_lock(&q->meta);
        if (rc)
            return rc;
    }
    return 0;
}

static struct qcow2_l2 *table_new(struct qcow2 *q, u64 index, u64 offset)
{
    assert(q->nslots < q->slots_max);
    struct qcow2_l2 *t = calloc(1, sizeof(*t) + q->cluster);
    if (!t)
        return NULL;
    t->index = index;
    t->offset = offset;
    return t;
}

static void table_add(struct qcow2 *q, struct qcow2_l2 *t)
{
    t->used = true;
    q->l2_at[t->index] = t;
    q->slot[q->nslots++] = t;
}

int qcow2_l2_read(struct qcow2 *q, u64 index, struct qcow2_l2 **out)
{
    struct qcow2_l2 *t = index < q->l1_size ? q->l2_at[index] : NULL;
    u64 offset = index < q->l1_size ? q->l1[index] & L1_OFFSET : 0;
    *out = t;
    if (t)
        t->used = true;
    if (t || !offset)
        return 0;
    if (offset & (q->cluster - 1) || !is_in_file(q, offset))
        return qcow2_corrupt(q, "L2 table %llu is said to be at %#llx", (unsigned long long)index,
                             (unsigned long long)offset);
    t = table_new(q, index, offset);
    if (!t)
        return -ENOMEM;
    int rc = file_read(&q->m.file, t->entry, q->cluster, offset);
    if (rc) {
        free(t);
        return rc;
    }
    table_add(q, t);
    *out = t;
    return 0;
}

/* Gives the table a cluster of its own; whatever it had before is shared with a snapshot. */
static int table_place(struct qcow2 *q, struct qcow2_l2 *t, u64 index, u64 old)
{
    u64 first, got;
    int rc = qcow2_list_add(&q->l1_dirty, index);
    if (!rc)
        rc = qcow2_alloc(q, 1, &first, &got);
    if (rc)
        return rc;
    if ((rc = qcow2_set_meta(q, first, true))) {
        qcow2_unalloc(q, first, 1);
        return rc;
    }
    if (old) {
        qcow2_set_meta(q, old >> q->cluster_bits, false);
        qcow2_list_add(&q->frees, old >> q->cluster_bits);
    }
    t->offset = first << q->cluster_bits;
    t->dirty = ~0ull;
    t->fresh = true;
    q->l1[index] = t->offset | L2_COPIED;
    return 0;
}

int qcow2_l2_write(struct qcow2 *q, u64 index, struct qcow2_l2 **out)
{
    if (index >= q->l1_size)
        return -EINVAL;
    int rc = qcow2_l2_read(q, index, out);
    if (rc || (*out && q->l1[index] & L2_COPIED))
        return rc;
    if (*out)
        return table_place(q, *out, index, q->l1[index] & L1_OFFSET);
    struct qcow2_l2 *t = table_new(q, index, 0);
    if (!t)
        return -ENOMEM;
    rc = table_place(q, t, index, 0);
    if (rc) {
        free(t);
        return rc;
    }
    table_add(q, t);
    *out = t;
    return 0;
}

void qcow2_tables_free(struct qcow2 *q)
{
    while (q->nslots)
        evict(q, q->nslots - 1);
    for (u64 i = 0; q->rb && i < q->rt_size; i++)
        free(q->rb[i]);
    free(q->rb);
    free(q->rt);
    free(q->l1);
    free(q->l2_at);
    free(q->slot);
    free(q->is_meta);
    free(q->frees.at);
    free(q->l1_dirty.at);
    free(q->rt_dirty.at);
}

/* --- writing back --- */

enum stage { STAGE_A, STAGE_R, STAGE_C, STAGES };

struct job {
    enum stage stage;
    u64 offset;
    u32 len;
    u8 *data;
    /* What it is of, to be marked again if it fails: one of them, or neither. */
    struct qcow2_l2 *l2;
    struct qcow2_rb *rb;
    u64 mask;
    bool was_fresh;
};

/* What one flush writes: copies, so that the tables may change meanwhile. */
struct batch {
    struct job *job;
    size_t n, cap;
    struct qcow2_list l1, rt; /* indices that are written */
    bool rt_moved, dirty_bit;
    size_t frees;
};

static struct job *job_add(struct batch *b, enum stage stage, u64 offset, const void *data, u32 len)
{
    if (b->n == b->cap) {
        size_t cap = b->cap ? 2 * b->cap : 32;
        struct job *j = realloc(b->job, cap * sizeof(*j));
        if (!j)
            return NULL;
        b->job = j;
        b->cap = cap;
    }
    u8 *copy = malloc(len);
    if (!copy)
        return NULL;
    memcpy(copy, data, len);
    b->job[b->n] = (struct job){.stage = stage, .offset = offset, .len = len, .data = copy};
    return &b->job[b->n++];
}

/* A job for each run of dirty parts. */
static int add_parts(struct qcow2 *q, struct batch *b, enum stage stage, u64 offset,
                     const void *table, u64 dirty, struct qcow2_l2 *l2, struct qcow2_rb *rb)
{
    unsigned parts = (unsigned)(q->cluster / q->part);
    for (unsigned i = 0, k; i < parts; i = k) {
        k = i + 1;
        if (!(dirty >> i & 1))
            continue;
        while (k < parts && dirty >> k & 1)
            k++;
        struct job *j = job_add(b, stage, offset + i * q->part, (const u8 *)table + i * q->part,
                                (u32)((k - i) * q->part));
        if (!j)
            return -ENOMEM;
        j->l2 = l2;
        j->rb = rb;
        j->mask = dirty;
        j->was_fresh = l2 && l2->fresh;
    }
    return 0;
}

static int collect_l2(struct qcow2 *q, struct batch *b)
{
    int rc = 0;
    for (unsigned i = 0; i < q->nslots && !rc; i++) {
        struct qcow2_l2 *t = q->slot[i];
        if (t->dirty)
            rc = add_parts(q, b, t->fresh ? STAGE_A : STAGE_C, t->offset, t->entry, t->dirty, t,
                           NULL);
    }
    for (size_t i = 0; i < q->l1_dirty.n && !rc; i++) {
        u64 index = q->l1_dirty.at[i], entry = be64(q->l1[index]);
        if (!job_add(b, STAGE_C, q->l1_offset + index * 8, &entry, 8) ||
            qcow2_list_add(&b->l1, index))
            rc = -ENOMEM;
    }
    return rc;
}

/* The whole table at its new place, then its address in the header (48: offset, 56: clusters). */
static int collect_moved_rt(struct qcow2 *q, struct batch *b)
{
    u64 *copy = malloc(q->rt_size * 8);
    if (!copy)
        return -ENOMEM;
    for (u64 i = 0; i < q->rt_size; i++)
        copy[i] = be64(q->rt[i]);
    u8 header[12];
    u64 offset = be64(q->rt_offset);
    u32 clusters = be32((u32)(q->rt_size * 8 >> q->cluster_bits));
    memcpy(header, &offset, 8);
    memcpy(header + 8, &clusters, 4);
    bool ok = job_add(b, STAGE_A, q->rt_offset, copy, (u32)(q->rt_size * 8)) &&
              job_add(b, STAGE_R, 48, header, sizeof(header));
    free(copy);
    b->rt_moved = ok;
    return ok ? 0 : -ENOMEM;
}

static int collect_refcounts(struct qcow2 *q, struct batch *b)
{
    int rc = 0;
    for (u64 i = 0; q->rb_dirty && i < q->rt_size && !rc; i++) {
        struct qcow2_rb *r = q->rb[i];
        if (r && r->dirty)
            rc = add_parts(q, b, STAGE_A, r->offset, r->data, r->dirty, NULL, r);
    }
    if (!rc && q->rt_moved)
        return collect_moved_rt(q, b);
    for (size_t i = 0; i < q->rt_dirty.n && !rc; i++) {
        u64 index = q->rt_dirty.at[i], entry = be64(q->rt[index]);
        if (!job_add(b, STAGE_R, q->rt_offset + index * 8, &entry, 8) ||
            qcow2_list_add(&b->rt, index))
            rc = -ENOMEM;
    }
    return rc;
}

/* A lazy image says that its refcounts are not to be trusted before they are not. */
static int collect_dirty_bit(struct qcow2 *q, struct batch *b)
{
    if (q->incompat & QCOW2_DIRTY)
        return 0;
    u64 bits = be64(q->incompat | QCOW2_DIRTY);
    if (!job_add(b, STAGE_A, 72, &bits, 8))
        return -ENOMEM;
    q->incompat |= QCOW2_DIRTY;
    b->dirty_bit = true;
    return 0;
}

/* Nothing can fail any more: what was collected counts as clean. */
static void commit(struct qcow2 *q, struct batch *b, bool refcounts)
{
    for (size_t i = 0; i < b->n; i++) {
        struct job *j = &b->job[i];
        if (j->l2) {
            j->l2->dirty = 0;
            j->l2->fresh = false;
            j->l2->writing = true;
        }
        if (j->rb)
            j->rb->dirty = 0;
    }
    q->l1_dirty.n = 0;
    if (refcounts) {
        q->rt_dirty.n = 0;
        q->rt_moved = false;
        q->rb_dirty = false;
    }
    b->frees = q->frees.n;
}

static int collect(struct qcow2 *q, struct batch *b, bool all)
{
    int rc = collect_l2(q, b);
    bool refcounts = all || !q->lazy;
    if (!rc && refcounts)
        rc = collect_refcounts(q, b);
    else if (!rc && b->n)
        rc = collect_dirty_bit(q, b);
    if (!rc)
        commit(q, b, refcounts);
    return rc;
}

static bool has_stage(const struct batch *b, enum stage s)
{
    for (size_t i = 0; i < b->n; i++)
        if (b->job[i].stage == s)
            return true;
    return false;
}

static int write_stage(struct qcow2 *q, struct batch *b, enum stage s)
{
    for (size_t i = 0; i < b->n; i++) {
        const struct job *j = &b->job[i];
        int rc = j->stage == s ? file_write(&q->m.file, j->data, j->len, j->offset) : 0;
        if (rc)
            return rc;
    }
    return file_sync(&q->m.file);
}

/* The stage at work is in *s. */
static int write_out(struct qcow2 *q, struct batch *b, enum stage *s)
{
    bool synced = false;
    for (*s = STAGE_A; *s < STAGES; ++*s) {
        if (!has_stage(b, *s))
            continue;
        /* Guest data is durable before an entry leads to it, even if stage A was empty. */
        int rc = *s == STAGE_C && !synced ? file_sync(&q->m.file) : 0;
        if (!rc)
            rc = write_stage(q, b, *s);
        if (rc)
            return rc;
        synced = true;
    }
    return 0;
}

static void redo(struct qcow2 *q, struct batch *b, enum stage failed)
{
    for (size_t i = 0; i < b->n; i++) {
        struct job *j = &b->job[i];
        if (j->l2) {
            j->l2->dirty |= j->mask;
            /* Once L1 entries are being written the table on disk may be in use. */
            j->l2->fresh |= j->was_fresh && failed < STAGE_C;
        }
        if (j->rb) {
            j->rb->dirty |= j->mask;
            q->rb_dirty = true;
        }
    }
    for (size_t i = 0; i < b->l1.n; i++)
        qcow2_list_add(&q->l1_dirty, b->l1.at[i]);
    for (size_t i = 0; i < b->rt.n; i++)
        qcow2_list_add(&q->rt_dirty, b->rt.at[i]);
    q->rt_moved |= b->rt_moved;
    if (b->dirty_bit)
        q->incompat &= ~QCOW2_DIRTY;
}

static void batch_free(struct batch *b)
{
    for (size_t i = 0; i < b->n; i++)
        free(b->job[i].data);
    free(b->job);
    free(b->l1.at);
    free(b->rt.at);
}

int qcow2_write_back(struct qcow2 *q, bool all)
{
    struct batch b = {0};
    enum stage failed = STAGE_A;
    pthread_mutex_lock(&q->flush);
    pthread_mutex_lock(&q->meta);
    int rc = collect(q, &b, all);
    bool collected = !rc;
    pthread_mutex_unlock(&q->meta);
    if (collected)
        rc = write_out(q, &b, &failed);
    pthread_mutex_lock(&q->meta);
    for (size_t i = 0; i < b.n && collected; i++)
        if (b.job[i].l2)
            b.job[i].l2->writing = false;
    if (collected && rc)
        redo(q, &b, failed);
    pthread_mutex_unlock(&q->meta);
    if (!rc)
        rc = qcow2_apply_frees(q, b.frees);
    pthread_mutex_unlock(&q->flush);
    batch_free(&b);
    return rc;
}
