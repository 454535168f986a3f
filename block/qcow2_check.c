/*
 * qcow2_check.c - are the refcounts what they should be? Counts every reference that there is.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2.h"

struct check {
    struct qcow2 *q;
    struct qcow2_check *r;
    u32 *count; /* references, per cluster of the file */
    u64 n;
};

static void PRINTF(2, 3) wrong(struct check *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (!c->r->errors++)
        vsnprintf(c->r->first, sizeof(c->r->first), fmt, ap);
    va_end(ap);
}

/* Every cluster of [offset, offset+len) is referred to once more. */
static void refer(struct check *c, u64 offset, u64 len, const char *what)
{
    u64 first = offset >> c->q->cluster_bits, last = (offset + len - 1) >> c->q->cluster_bits;
    if (last >= c->n || last < first) {
        wrong(c, "%s at %#llx is outside of the file", what, (unsigned long long)offset);
        return;
    }
    for (u64 i = first; i <= last; i++)
        if (c->count[i] < UINT32_MAX)
            c->count[i]++;
}

static bool is_placed(struct check *c, u64 offset, const char *what)
{
    if (!(offset & (c->q->cluster - 1)))
        return true;
    wrong(c, "%s at %#llx is not on a cluster's boundary", what, (unsigned long long)offset);
    return false;
}

static void count_entry(struct check *c, u64 entry, bool active)
{
    u64 offset = entry & L2_OFFSET, len;
    if (entry & L2_COMPRESSED) {
        qcow2_zip_where(c->q, entry, &offset, &len);
        refer(c, offset, len, "a compressed cluster");
        c->r->zipped += active;
        c->r->allocated += active;
    } else if (offset && is_placed(c, offset, "a data cluster")) {
        refer(c, offset, c->q->cluster, "a data cluster");
        c->r->allocated += active;
    }
}

static int count_l2(struct check *c, u64 offset, u64 *table, bool active)
{
    int rc = file_read(&c->q->m.file, table, c->q->cluster, offset);
    for (u64 i = 0; i < 1ull << c->q->l2_bits && !rc; i++)
        if (table[i])
            count_entry(c, be64(table[i]), active);
    return rc;
}

static int count_l1(struct check *c, const u64 *l1, u64 n, bool active)
{
    u64 *table = malloc(c->q->cluster);
    int rc = table ? 0 : -ENOMEM;
    for (u64 i = 0; i < n && !rc; i++) {
        u64 offset = l1[i] & L1_OFFSET;
        if (!offset || !is_placed(c, offset, "an L2 table"))
            continue;
        refer(c, offset, c->q->cluster, "an L2 table");
        if (offset >> c->q->cluster_bits < c->n)
            rc = count_l2(c, offset, table, active);
    }
    free(table);
    return rc;
}

static int count_snapshots(struct check *c, struct err *e)
{
    struct qcow2 *q = c->q;
    u64 pos = q->snapshots_offset;
    struct qcow2_snapshot s;
    for (u32 i = 0; i < q->nsnapshots; i++) {
        if (qcow2_read_snapshot(q, &pos, &s, e))
            return -1;
        if (!s.l1_size)
            continue;
        if (s.l1_size > 32 * MiB / 8)
            return err_set(e, "%s is damaged: a snapshot makes no sense", q->m.file.name);
        u64 *l1 = qcow2_read_table(q, s.l1_offset, s.l1_size, "snapshot's L1 table", e);
        if (!l1)
            return -1;
        refer(c, s.l1_offset, (u64)s.l1_size * 8, "a snapshot's L1 table");
        int rc = count_l1(c, l1, s.l1_size, false);
        free(l1);
        if (rc)
            return err_set(e, "cannot read %s: %s", q->m.file.name, strerror(-rc));
    }
    if (pos > q->snapshots_offset)
        refer(c, q->snapshots_offset, pos - q->snapshots_offset, "the snapshot table");
    return 0;
}

static int count_all(struct check *c, struct err *e)
{
    struct qcow2 *q = c->q;
    refer(c, 0, q->cluster, "the header");
    if (q->l1_size)
        refer(c, q->l1_offset, (u64)q->l1_size * 8, "the L1 table");
    refer(c, q->rt_offset, q->rt_size * 8, "the refcount table");
    for (u64 i = 0; i < q->rt_size; i++)
        if (q->rt[i] && is_placed(c, q->rt[i], "a refcount block"))
            refer(c, q->rt[i], q->cluster, "a refcount block");
    int rc = count_l1(c, q->l1, q->l1_size, true);
    if (rc)
        return err_set(e, "cannot read %s: %s", q->m.file.name, strerror(-rc));
    return count_snapshots(c, e);
}

/* --- comparing --- */

static int compare_all(struct check *c, bool fix)
{
    for (u64 i = 0; i < c->n; i++) {
        u64 have;
        int rc = qcow2_refcount(c->q, i, &have);
        if (rc)
            return rc;
        c->r->used += c->count[i] != 0;
        if (have == c->count[i])
            continue;
        if (fix) {
            rc = qcow2_set_refcount(c->q, i, c->count[i]);
            c->r->fixed++;
        } else if (have > c->count[i]) {
            c->r->leaks++;
        } else {
            wrong(c, "cluster %#llx is used %u times and counted %llu times",
                  (unsigned long long)i << c->q->cluster_bits, c->count[i],
                  (unsigned long long)have);
        }
        if (rc)
            return rc;
    }
    return 0;
}

/* COPIED stands for a refcount of one, and for nothing else. */
static void check_copied(struct check *c, u64 entry, const char *what)
{
    u64 offset = entry & L2_OFFSET, have;
    if (!offset || entry & L2_COMPRESSED ||
        qcow2_refcount(c->q, offset >> c->q->cluster_bits, &have))
        return;
    if ((have == 1) != !!(entry & L2_COPIED))
        wrong(c, "%s at %#llx is %s and counted %llu times", what, (unsigned long long)offset,
              entry & L2_COPIED ? "marked as not shared" : "marked as shared",
              (unsigned long long)have);
}

static int check_flags(struct check *c)
{
    struct qcow2 *q = c->q;
    u64 *table = malloc(q->cluster);
    int rc = table ? 0 : -ENOMEM;
    for (u64 i = 0; i < q->l1_size && !rc; i++) {
        u64 offset = q->l1[i] & L1_OFFSET;
        if (!offset || offset & (q->cluster - 1) || offset >> q->cluster_bits >= c->n)
            continue;
        check_copied(c, q->l1[i], "an L2 table");
        rc = file_read(&q->m.file, table, q->cluster, offset);
        for (u64 k = 0; k < 1ull << q->l2_bits && !rc; k++)
            check_copied(c, be64(table[k]), "a data cluster");
    }
    free(table);
    return rc;
}

/* Blocks that the repair makes must not be put on clusters that are in use. */
static int repair(struct check *c)
{
    struct qcow2 *q = c->q;
    u8 *used = calloc(1, c->n + 1);
    if (!used)
        return -ENOMEM;
    for (u64 i = 0; i < c->n; i++)
        used[i] = c->count[i] != 0;
    q->avoid = used;
    q->navoid = c->n;
    int rc = compare_all(c, true);
    /* New blocks made themselves places, which count_all() has not seen: their own refcount is
     * right, unless it was compared afterwards. */
    for (u64 i = 0; i < q->rt_size && !rc; i++)
        if (q->rb[i] && q->rb[i]->offset >> q->cluster_bits < c->n &&
            !c->count[q->rb[i]->offset >> q->cluster_bits])
            rc = qcow2_set_refcount(q, q->rb[i]->offset >> q->cluster_bits, 1);
    q->avoid = NULL;
    free(used);
    return rc;
}

static int fix_all(struct check *c)
{
    struct qcow2 *q = c->q;
    pthread_mutex_lock(&q->meta);
    int rc = repair(c);
    q->hint = 0;
    pthread_mutex_unlock(&q->meta);
    if (!rc)
        rc = qcow2_write_back(q, true);
    if (!rc && q->incompat & QCOW2_DIRTY)
        rc = qcow2_write_incompat(q, q->incompat & ~QCOW2_DIRTY);
    return rc ? rc : file_sync(&q->m.file);
}

int qcow2_check(struct image *m, bool fix, struct qcow2_check *r, struct err *e)
{
    struct qcow2 *q = qcow2_of(m);
    struct check c = {.q = q, .r = r, .n = q->end};
    *r = (struct qcow2_check){0};
    int rc = m->ro ? 0 : qcow2_write_back(q, true);
    if (!rc && !m->ro)
        rc = qcow2_write_back(q, true);
    if (rc)
        return err_set(e, "cannot write to %s: %s", m->file.name, strerror(-rc));
    c.n = q->end;
    if (c.n > 1ull << 30)
        return err_set(e, "%s is too large to be checked", m->file.name);
    c.count = calloc(c.n + 1, sizeof(*c.count));
    if (!c.count)
        return err_set(e, "%s: out of memory for the check", m->file.name);
    rc = count_all(&c, e);
    if (!rc && fix && !r->errors)
        rc = fix_all(&c);
    else if (!rc && !fix) {
        rc = compare_all(&c, false);
        rc = rc ? rc : check_flags(&c);
    }
    free(c.count);
    if (rc < -1 || (rc && fix))
        err_set(e, "cannot check %s: %s", m->file.name, strerror(-rc));
    return rc ? -1 : 0;
}
