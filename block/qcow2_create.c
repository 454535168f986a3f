/*
 * qcow2_create.c - new images, and other sizes for old ones.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2.h"

/* Where everything is in a new image, in clusters: header, refcount table, blocks, L1. */
struct layout {
    u64 cluster, per_block; /* bytes; refcounts in a block */
    u64 rt, blocks, l1, total;
    u64 l1_entries;
};

static void lay_out(const struct qcow2_create *c, struct layout *l)
{
    u64 span = 1ull << (2 * c->cluster_bits - 3);
    l->cluster = 1ull << c->cluster_bits;
    l->per_block = l->cluster * 8 >> (c->refcount_order - 1);
    l->l1_entries = (c->size + span - 1) / span;
    l->l1 = (l->l1_entries * 8 + l->cluster - 1) / l->cluster;
    l->rt = l->blocks = 1;
    for (u64 before = 0; before != l->total;) {
        before = l->total;
        l->total = 1 + l->rt + l->blocks + l->l1;
        l->blocks = (l->total + l->per_block - 1) / l->per_block;
        l->rt = (l->blocks * 8 + l->cluster - 1) / l->cluster;
    }
    l->total = 1 + l->rt + l->blocks + l->l1;
}

static void put32(u8 *p, u32 v)
{
    v = be32(v);
    memcpy(p, &v, 4);
}

static void put64(u8 *p, u64 v)
{
    v = be64(v);
    memcpy(p, &v, 8);
}

/* Header extensions and the backing file's name; -1 if the first cluster has no room. */
static int put_backing(u8 *h, u64 at, const struct qcow2_create *c, const struct layout *l)
{
    u64 name = c->backing ? strlen(c->backing) : 0;
    u64 format = c->backing && c->backing_format ? strlen(c->backing_format) : 0;
    if (at + 8 + align_up(format, 8) + 8 + name > l->cluster || name > 1023)
        return -1;
    if (format) {
        put32(h + at, 0xe2792aca);
        put32(h + at + 4, (u32)format);
        memcpy(h + at + 8, c->backing_format, format);
        at += 8 + align_up(format, 8);
    }
    at += 8; /* the end of the extensions: zeros */
    if (name) {
        memcpy(h + at, c->backing, name);
        put64(h + 8, at);
        put32(h + 16, (u32)name);
    }
    return 0;
}

static int put_header(u8 *h, const struct qcow2_create *c, const struct layout *l)
{
    put32(h, QCOW2_MAGIC);
    put32(h + 4, c->version);
    put32(h + 20, c->cluster_bits);
    put64(h + 24, c->size);
    put32(h + 36, (u32)l->l1_entries);
    put64(h + 40, (1 + l->rt + l->blocks) * l->cluster);
    put64(h + 48, l->cluster);
    put32(h + 56, (u32)l->rt);
    if (c->version == 2)
        return put_backing(h, QCOW2_V2_SIZE, c, l);
    put64(h + 72, c->compression ? QCOW2_COMPRESSION : 0);
    put64(h + 80, c->lazy ? QCOW2_LAZY : 0);
    put32(h + 96, c->refcount_order - 1);
    put32(h + 100, QCOW2_V3_SIZE);
    h[104] = (u8)c->compression;
    return put_backing(h, QCOW2_V3_SIZE, c, l);
}

static int write_refcounts(struct file *f, const struct qcow2_create *c, const struct layout *l)
{
    struct qcow2 q = {.refcount_order = c->refcount_order - 1};
    u64 first = 1 + l->rt;
    u8 *buf = calloc(l->rt + l->blocks, l->cluster);
    if (!buf)
        return -ENOMEM;
    for (u64 i = 0; i < l->blocks; i++)
        put64(buf + i * 8, (first + i) * l->cluster);
    for (u64 i = 0; i < l->total; i++)
        qcow2_rb_set(&q, buf + (l->rt + i / l->per_block) * l->cluster, i % l->per_block, 1);
    int rc = file_write(f, buf, (l->rt + l->blocks) * l->cluster, l->cluster);
    free(buf);
    return rc;
}

static int write_l1(struct file *f, const struct layout *l)
{
    if (!l->l1)
        return 0;
    u8 *zeros = calloc(l->l1, l->cluster);
    if (!zeros)
        return -ENOMEM;
    int rc = file_write(f, zeros, l->l1 * l->cluster, (1 + l->rt + l->blocks) * l->cluster);
    free(zeros);
    return rc;
}

static int check_wish(struct qcow2_create *c, const char *name, struct err *e)
{
    c->version = c->version ? c->version : 3;
    c->cluster_bits = c->cluster_bits ? c->cluster_bits : 16;
    c->refcount_order = c->refcount_order ? c->refcount_order : 5;
    if (c->cluster_bits < 9 || c->cluster_bits > 21)
        return err_set(e, "%s: clusters have 512 bytes to 2 MiB", name);
    if (c->refcount_order > 7)
        return err_set(e, "%s: refcounts have 1 to 64 bits", name);
    if (c->version == 2 && (c->lazy || c->compression || c->refcount_order != 5))
        return err_set(e,
                       "%s: version 2 knows neither lazy refcounts nor zstd nor refcounts of "
                       "other than 16 bits",
                       name);
    if (c->size > 1ull << 62)
        return err_set(e, "%s: %llu bytes are too many", name, (unsigned long long)c->size);
    c->size = align_up(c->size, 512);
    u64 span = 1ull << (2 * c->cluster_bits - 3);
    if ((c->size + span - 1) / span > 32 * MiB / 8)
        return err_set(e, "%s: %llu bytes are too many for clusters of %llu bytes", name,
                       (unsigned long long)c->size, 1ull << c->cluster_bits);
    return 0;
}

int qcow2_format(struct file *f, const struct qcow2_create *wish, struct err *e)
{
    struct qcow2_create c = *wish;
    struct layout l = {0};
    if (check_wish(&c, f->name, e))
        return -1;
    lay_out(&c, &l);
    u8 *h = calloc(1, l.cluster);
    if (!h)
        return err_set(e, "%s: out of memory", f->name);
    if (put_header(h, &c, &l)) {
        free(h);
        return err_set(e, "%s: the name of the backing file is too long", f->name);
    }
    int rc = write_refcounts(f, &c, &l);
    if (!rc)
        rc = write_l1(f, &l);
    /* The header makes it an image: last. */
    if (!rc)
        rc = file_sync(f);
    if (!rc)
        rc = file_write(f, h, l.cluster, 0);
    if (!rc)
        rc = file_sync(f);
    free(h);
    return rc ? err_set(e, "cannot write %s: %s", f->name, strerror(-rc)) : 0;
}

/* --- resizing --- */

/* size, crypt, l1_size, l1_offset: in one sector, so that it changes at once. */
static int write_size(struct qcow2 *q, u64 size)
{
    u8 h[24];
    put64(h, size);
    put32(h + 8, 0);
    put32(h + 12, q->l1_size);
    put64(h + 16, q->l1_offset);
    int rc = file_write(&q->m.file, h, sizeof(h), 24);
    return rc ? rc : file_sync(&q->m.file);
}

/* Memory for a longer L1 table, and its place in the file. */
static int reserve_l1(struct qcow2 *q, u64 entries, u64 *first)
{
    u64 *l1 = realloc(q->l1, (entries + 1) * 8);
    if (l1)
        q->l1 = l1;
    struct qcow2_l2 **at = realloc(q->l2_at, (entries + 1) * sizeof(struct qcow2_l2 *));
    if (at)
        q->l2_at = at;
    if (!l1 || !at)
        return -ENOMEM;
    memset(q->l1 + q->l1_size, 0, (entries - q->l1_size) * 8);
    memset(q->l2_at + q->l1_size, 0, (entries - q->l1_size) * sizeof(struct qcow2_l2 *));
    u64 clusters = (entries * 8 + q->cluster - 1) >> q->cluster_bits;
    int rc = qcow2_alloc_table(q, clusters, first);
    return rc ? rc : qcow2_mark_meta(q, *first << q->cluster_bits, clusters << q->cluster_bits);
}

static int write_new_l1(struct qcow2 *q, u64 entries, u64 offset)
{
    u64 bytes = align_up(entries * 8, q->cluster);
    u64 *copy = calloc(1, bytes);
    if (!copy)
        return -ENOMEM;
    for (u64 i = 0; i < entries; i++)
        copy[i] = be64(q->l1[i]);
    int rc = file_write(&q->m.file, copy, bytes, offset);
    free(copy);
    return rc;
}

static void free_old_l1(struct qcow2 *q, u64 offset, u64 entries)
{
    for (u64 i = 0; i < (entries * 8 + q->cluster - 1) >> q->cluster_bits; i++) {
        u64 c = (offset >> q->cluster_bits) + i;
        qcow2_set_meta(q, c, false);
        qcow2_list_add(&q->frees, c);
    }
}

static int grow_l1(struct qcow2 *q, u64 entries, u64 size)
{
    u64 first, old_offset = q->l1_offset, old_size = q->l1_size;
    pthread_mutex_lock(&q->meta);
    int rc = reserve_l1(q, entries, &first);
    if (!rc)
        rc = write_new_l1(q, entries, first << q->cluster_bits);
    pthread_mutex_unlock(&q->meta);
    if (!rc)
        rc = qcow2_write_back(q, true); /* its refcounts, before it is used */
    if (rc)
        return rc;
    q->l1_offset = first << q->cluster_bits;
    q->l1_size = (u32)entries;
    rc = write_size(q, size);
    if (!rc)
        free_old_l1(q, old_offset, old_size);
    return rc;
}

static int grow(struct qcow2 *q, u64 size)
{
    u64 span = qcow2_l2_span(q), entries = (size + span - 1) / span, old = q->m.size;
    if (entries > 32 * MiB / 8)
        return -EFBIG;
    int rc = qcow2_write_back(q, true);
    if (!rc)
        rc = entries > q->l1_size ? grow_l1(q, entries, size) : write_size(q, size);
    if (rc)
        return rc;
    q->m.size = size;
    /* What the backing file has there was never part of this disk. */
    if (q->m.backing && q->m.backing->size > old)
        rc = image_zero(&q->m, old, min_u64(size, q->m.backing->size) - old, true);
    return rc ? rc : image_flush(&q->m);
}

static int shrink(struct qcow2 *q, u64 size)
{
    /* The part of the last cluster that is cut off must not come back when it grows again. */
    u64 edge = min_u64(align_up(size, q->cluster), q->m.size);
    int rc = edge > size ? image_zero(&q->m, size, edge - size, true) : 0;
    if (!rc && edge < q->m.size)
        rc = image_discard(&q->m, edge, q->m.size - edge);
    if (!rc)
        rc = image_flush(&q->m);
    if (!rc)
        rc = write_size(q, size);
    if (!rc)
        q->m.size = size;
    return rc;
}

int qcow2_resize(struct image *m, u64 size, struct err *e)
{
    struct qcow2 *q = qcow2_of(m);
    size = align_up(size, 512);
    if (q->nsnapshots)
        return err_set(e, "%s has snapshots: it cannot be resized (delete them first)",
                       m->file.name);
    int rc = size == m->size ? 0 : size > m->size ? grow(q, size) : shrink(q, size);
    return rc ? err_set(e, "cannot resize %s: %s", m->file.name, strerror(-rc)) : 0;
}
