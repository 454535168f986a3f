/*
 * qcow2.c - opening a qcow2 image: the header and everything that it leads to is checked here.
 */
#include "block/qcow2.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define L1_BYTES_MAX     (32 * MiB)
#define RT_BYTES_MAX     (64 * MiB)
#define SNAPSHOTS_MAX    65536
#define BACKING_NAME_MAX 1023
/* L2 tables kept in memory: enough for 256 GiB of disk with clusters of 64 KiB. */
#define L2_CACHE_BYTES (32 * MiB)
#define L2_CACHE_MIN   24

#define EXT_END            0
#define EXT_BACKING_FORMAT 0xe2792acau

/* --- small helpers --- */

int qcow2_list_add(struct qcow2_list *l, u64 v)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 64;
        u64 *at = realloc(l->at, cap * sizeof(u64));
        if (!at)
            return -ENOMEM;
        l->at = at;
        l->cap = cap;
    }
    l->at[l->n++] = v;
    return 0;
}

int qcow2_write_incompat(struct qcow2 *q, u64 incompat)
{
    u64 bits = be64(incompat);
    int rc = file_write(&q->m.file, &bits, 8, 72);
    if (!rc)
        q->incompat = incompat;
    return rc;
}

int qcow2_corrupt(struct qcow2 *q, const char *fmt, ...)
{
    if (q->corrupt)
        return -EIO;
    q->corrupt = true;
    char what[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    log_emit(q->m.log, "%s is damaged: %s; nothing more is written to it (try qemu-img check)",
             q->m.file.name, what);
    if (!q->m.ro && q->version >= 3)
        qcow2_write_incompat(q, q->incompat | QCOW2_CORRUPT);
    return -EIO;
}

u64 *qcow2_read_table(struct qcow2 *q, u64 offset, u64 n, const char *what, struct err *e)
{
    u64 size = file_size(&q->m.file);
    const char *name = q->m.file.name;
    if (offset & (q->cluster - 1) || offset > size || n * 8 > size - offset) {
        err_set(e, "%s is damaged: its %s is said to be at %#llx, %llu bytes long (file: %llu)",
                name, what, (unsigned long long)offset, (unsigned long long)n * 8,
                (unsigned long long)size);
        return NULL;
    }
    u64 *t = calloc(n + 1, 8);
    int rc = t ? file_read(&q->m.file, t, n * 8, offset) : -ENOMEM;
    for (u64 i = 0; i < n && !rc; i++)
        t[i] = be64(t[i]);
    if (!rc)
        return t;
    free(t);
    err_set(e, "%s: cannot read its %s: %s", name, what, strerror(-rc));
    return NULL;
}

/* --- the header --- */

struct header {
    u32 magic, version;
    u64 backing_offset;
    u32 backing_size, cluster_bits;
    u64 size;
    u32 crypt, l1_size;
    u64 l1_offset, rt_offset;
    u32 rt_clusters, nsnapshots;
    u64 snapshots_offset;
    u64 incompat, compat, autoclear;
    u32 refcount_order, header_length;
    u8 compression, pad[7];
};
static_assert(sizeof(struct header) == QCOW2_V3_SIZE, "layout of the header");

static void swap_header(struct header *h)
{
    u32 *const w[] = {&h->magic,          &h->version,      &h->backing_size, &h->cluster_bits,
                      &h->crypt,          &h->l1_size,      &h->rt_clusters,  &h->nsnapshots,
                      &h->refcount_order, &h->header_length};
    u64 *const d[] = {&h->backing_offset,   &h->size,     &h->l1_offset, &h->rt_offset,
                      &h->snapshots_offset, &h->incompat, &h->compat,    &h->autoclear};
    for (unsigned i = 0; i < ARRAY_SIZE(w); i++)
        *w[i] = be32(*w[i]);
    for (unsigned i = 0; i < ARRAY_SIZE(d); i++)
        *d[i] = be64(*d[i]);
}

static int check_features(const struct qcow2 *q, const struct header *h, struct err *e)
{
    const char *name = q->m.file.name;
    if (h->crypt)
        return err_set(e, "%s is encrypted, which popf does not read", name);
    if (h->incompat & QCOW2_EXTERNAL)
        return err_set(e, "%s keeps its data in another file (data_file), which popf does not read",
                       name);
    if (h->incompat & QCOW2_EXTENDED_L2)
        return err_set(e,
                       "%s has extended L2 entries (subclusters), which popf does not read "
                       "(convert it with qemu-img)",
                       name);
    u64 known = QCOW2_DIRTY | QCOW2_CORRUPT | QCOW2_COMPRESSION;
    if (h->incompat & ~known)
        return err_set(e, "%s needs features that popf does not know: %#llx", name,
                       (unsigned long long)(h->incompat & ~known));
    if (h->incompat & QCOW2_CORRUPT && !q->m.ro)
        return err_set(e,
                       "%s is marked as damaged (open it with ,ro, or mend it with qemu-img check "
                       "-r all)",
                       name);
    if (h->compression > QCOW2_ZSTD)
        return err_set(e, "%s is compressed in a way that popf does not know (%u)", name,
                       h->compression);
    return 0;
}

static int check_numbers(const struct qcow2 *q, const struct header *h, struct err *e)
{
    const char *name = q->m.file.name;
    if (h->cluster_bits < 9 || h->cluster_bits > 21)
        return err_set(e, "%s is damaged: clusters of 2^%u bytes", name, h->cluster_bits);
    if (h->refcount_order > 6)
        return err_set(e, "%s is damaged: refcounts of 2^%u bits", name, h->refcount_order);
    u64 span = 1ull << (2 * h->cluster_bits - 3);
    if (h->size > INT64_MAX - (2 * MiB) || h->l1_size > L1_BYTES_MAX / 8)
        return err_set(e, "%s is damaged: a disk of %llu bytes with %u L1 entries", name,
                       (unsigned long long)h->size, h->l1_size);
    if ((h->size + span - 1) / span > h->l1_size)
        return err_set(e, "%s is damaged: %u L1 entries are too few for %llu bytes", name,
                       h->l1_size, (unsigned long long)h->size);
    if ((u64)h->rt_clusters << h->cluster_bits > RT_BYTES_MAX || !h->rt_clusters)
        return err_set(e, "%s is damaged: a refcount table of %u clusters", name, h->rt_clusters);
    if (h->nsnapshots > SNAPSHOTS_MAX)
        return err_set(e, "%s is damaged: %u snapshots", name, h->nsnapshots);
    return 0;
}

static int read_header(struct qcow2 *q, struct header *h, struct err *e)
{
    const char *name = q->m.file.name;
    int rc = file_read(&q->m.file, h, sizeof(*h), 0);
    if (rc)
        return err_set(e, "cannot read %s: %s", name, strerror(-rc));
    swap_header(h);
    if (h->magic != QCOW2_MAGIC)
        return err_set(e, "%s is no qcow2 image", name);
    if (h->version != 2 && h->version != 3)
        return err_set(e, "%s is a qcow2 image of version %u; popf knows 2 and 3", name,
                       h->version);
    if (h->version == 2) {
        memset(&h->incompat, 0, sizeof(*h) - offsetof(struct header, incompat));
        h->refcount_order = 4;
        h->header_length = QCOW2_V2_SIZE;
    }
    if (h->version == 3 && h->header_length < 104)
        return err_set(e, "%s is damaged: a header of %u bytes", name, h->header_length);
    if (h->header_length < QCOW2_V3_SIZE)
        h->compression = 0;
    if (check_features(q, h, e) || check_numbers(q, h, e))
        return -1;
    if (h->header_length > 1u << h->cluster_bits)
        return err_set(e, "%s is damaged: a header of %u bytes", name, h->header_length);
    return 0;
}

static void take_header(struct qcow2 *q, const struct header *h)
{
    q->version = h->version;
    q->cluster_bits = h->cluster_bits;
    q->refcount_order = h->refcount_order;
    q->header_length = h->header_length;
    q->incompat = h->incompat;
    q->compat = h->compat;
    q->compression = h->compression;
    q->snapshots_offset = h->snapshots_offset;
    q->nsnapshots = h->nsnapshots;
    q->cluster = 1ull << h->cluster_bits;
    q->l2_bits = h->cluster_bits - 3;
    q->rb_bits = h->cluster_bits + 3 - h->refcount_order;
    q->part = max_u64(512, q->cluster / 64);
    q->lazy = h->compat & QCOW2_LAZY;
    q->m.size = align_up(h->size, 512);
    q->m.unit = (u32)q->cluster;
    q->l1_offset = h->l1_offset;
    q->l1_size = h->l1_size;
    q->rt_offset = h->rt_offset;
    q->rt_size = ((u64)h->rt_clusters << h->cluster_bits) / 8;
    q->end = (file_size(&q->m.file) + q->cluster - 1) >> h->cluster_bits;
}

/* --- extensions and the backing file's name --- */

static char *copy_text(const u8 *from, u64 len)
{
    char *s = malloc(len + 1);
    if (!s)
        return NULL;
    memcpy(s, from, len);
    s[len] = 0;
    return s;
}

static int read_extensions(struct qcow2 *q, const struct header *h, const u8 *first, struct err *e)
{
    u64 end = h->backing_offset ? min_u64(h->backing_offset, q->cluster) : q->cluster;
    for (u64 at = q->header_length; at + 8 <= end;) {
        u32 type, len;
        memcpy(&type, first + at, 4);
        memcpy(&len, first + at + 4, 4);
        type = be32(type);
        len = be32(len);
        at += 8;
        if (type == EXT_END)
            return 0;
        if (len > end - at)
            return err_set(e, "%s is damaged: a header extension of %u bytes", q->m.file.name, len);
        if (type == EXT_BACKING_FORMAT && !q->backing_format)
            q->backing_format = copy_text(first + at, len);
        at += align_up(len, 8);
    }
    return 0;
}

static int read_names(struct qcow2 *q, const struct header *h, struct err *e)
{
    u8 *first = malloc(q->cluster);
    int rc = first ? file_read(&q->m.file, first, q->cluster, 0) : -ENOMEM;
    int result = -1;
    u64 at = h->backing_offset, len = h->backing_size;
    if (rc)
        err_set(e, "cannot read %s: %s", q->m.file.name, strerror(-rc));
    else if (at && (at > q->cluster || !len || len > BACKING_NAME_MAX || len > q->cluster - at))
        err_set(e, "%s is damaged: its backing file's name is said to be at %#llx, %llu bytes long",
                q->m.file.name, (unsigned long long)at, (unsigned long long)len);
    else
        result = read_extensions(q, h, first, e);
    if (!result && at)
        q->backing_name = copy_text(first + at, len);
    free(first);
    return result;
}

/* A name without a leading slash is relative to the image's folder. */
static int backing_path(const struct qcow2 *q, char *path, size_t size, struct err *e)
{
    const char *name = q->backing_name, *image = q->m.file.name;
    const char *slash = strrchr(image, '/');
    const char *colon = strchr(name, ':');
    if (!strncmp(name, "file:", 5)) {
        name += 5;
    } else if (colon && memchr(name, '/', (size_t)(colon - name)) == NULL) {
        return err_set(e, "%s has a backing file that is no plain file: %.200s", image, name);
    }
    int dir = *name == '/' || !slash ? 0 : (int)(slash + 1 - image);
    if (snprintf(path, size, "%.*s%s", dir, image, name) >= (int)size)
        return err_set(e, "%s: the name of its backing file is too long", image);
    return 0;
}

static int open_backing(struct qcow2 *q, const struct image_config *c, struct err *e)
{
    char path[4096 + BACKING_NAME_MAX];
    if (!q->backing_name || c->no_backing)
        return 0;
    struct image_config b = {.file = path,
                             .ro = true,
                             .direct = c->direct,
                             .no_lock = c->no_lock,
                             .log = c->log,
                             .depth = c->depth + 1};
    if (backing_path(q, path, sizeof(path), e))
        return -1;
    if (q->backing_format && image_format_parse(q->backing_format, &b.format))
        return err_set(e, "%s has a backing file in format \"%.30s\", which popf does not read",
                       q->m.file.name, q->backing_format);
    struct err why;
    q->m.backing = image_open(&b, &why);
    if (q->m.backing)
        return 0;
    return err_set(e, "%s needs its backing file: %.400s", q->m.file.name, why.msg);
}

/* --- tables --- */

/* Metadata must not overlap, or writing one would destroy the other. */
static int mark(struct qcow2 *q, u64 offset, u64 len, const char *what, struct err *e)
{
    if (offset >> q->cluster_bits >= q->end || len > (q->end << q->cluster_bits) - offset)
        return err_set(e, "%s is damaged: %s at %#llx is outside of the file", q->m.file.name, what,
                       (unsigned long long)offset);
    if (!qcow2_mark_meta(q, offset, len) || q->m.ro)
        return 0;
    return err_set(e,
                   "%s is damaged: %s at %#llx overlaps other metadata (open it with ,ro, or mend "
                   "it with qemu-img check -r all)",
                   q->m.file.name, what, (unsigned long long)offset);
}

static int mark_entries(struct qcow2 *q, const u64 *table, u64 n, u64 mask, const char *what,
                        struct err *e)
{
    for (u64 i = 0; i < n; i++) {
        u64 at = table[i] & mask;
        if (!at)
            continue;
        if (at & (q->cluster - 1))
            return err_set(e, "%s is damaged: %s at %#llx is not on a cluster's boundary",
                           q->m.file.name, what, (unsigned long long)at);
        if (mark(q, at, q->cluster, what, e))
            return -1;
    }
    return 0;
}

int qcow2_read_snapshot(struct qcow2 *q, u64 *pos, struct qcow2_snapshot *s, struct err *e)
{
    struct {
        u64 l1_offset;
        u32 l1_size;
        u16 id_len, name_len;
        u32 sec, nsec;
        u64 vm_clock;
        u32 vm_state, extra_len;
        u64 extra[2];
    } raw;
    u64 size = file_size(&q->m.file);
    if (*pos > size || size - *pos < 40 || file_read(&q->m.file, &raw, sizeof(raw), *pos))
        return err_set(e, "%s is damaged: its snapshot table ends too early", q->m.file.name);
    u32 extra = be32(raw.extra_len), id = __builtin_bswap16(raw.id_len);
    u32 name = __builtin_bswap16(raw.name_len);
    if (extra > 1024)
        return err_set(e, "%s is damaged: its snapshot table makes no sense", q->m.file.name);
    *s = (struct qcow2_snapshot){.l1_offset = be64(raw.l1_offset),
                                 .l1_size = be32(raw.l1_size),
                                 .date_sec = be32(raw.sec),
                                 .vm_clock = be64(raw.vm_clock),
                                 .vm_state_size = be32(raw.vm_state),
                                 .disk_size = q->m.size};
    if (extra >= 8)
        s->vm_state_size = be64(raw.extra[0]);
    if (extra >= 16)
        s->disk_size = be64(raw.extra[1]);
    u64 at = *pos + 40 + extra;
    if (file_read(&q->m.file, s->id, min_u64(id, sizeof(s->id) - 1), at) ||
        file_read(&q->m.file, s->name, min_u64(name, sizeof(s->name) - 1), at + id))
        return err_set(e, "%s: cannot read its snapshot table", q->m.file.name);
    *pos = align_up(at + id + name, 8);
    return 0;
}

/* For writing: the tables of snapshots must not be overwritten. */
static int mark_snapshots(struct qcow2 *q, struct err *e)
{
    u64 pos = q->snapshots_offset;
    struct qcow2_snapshot s;
    for (u32 i = 0; i < q->nsnapshots; i++) {
        if (qcow2_read_snapshot(q, &pos, &s, e))
            return -1;
        u64 len = (u64)s.l1_size * 8;
        if (s.l1_size > L1_BYTES_MAX / 8 || s.l1_offset & (q->cluster - 1))
            return err_set(e, "%s is damaged: snapshot \"%s\" makes no sense", q->m.file.name,
                           s.name);
        if (len && mark(q, s.l1_offset, len, "a snapshot's L1 table", e))
            return -1;
    }
    u64 len = pos - q->snapshots_offset;
    return len ? mark(q, q->snapshots_offset, len, "the snapshot table", e) : 0;
}

/* Reads the snapshot's L1 table in place of the active one. */
static int use_snapshot(struct qcow2 *q, const char *wanted, struct err *e)
{
    u64 pos = q->snapshots_offset;
    struct qcow2_snapshot s;
    for (u32 i = 0; i < q->nsnapshots; i++) {
        if (qcow2_read_snapshot(q, &pos, &s, e))
            return -1;
        if (strcmp(s.id, wanted) && strcmp(s.name, wanted))
            continue;
        u64 span = qcow2_l2_span(q);
        if (s.l1_size > L1_BYTES_MAX / 8 || s.disk_size > INT64_MAX - (2 * MiB) ||
            (s.disk_size + span - 1) / span > s.l1_size)
            return err_set(e, "%s is damaged: snapshot \"%s\" makes no sense", q->m.file.name,
                           s.name);
        q->l1_offset = s.l1_offset;
        q->l1_size = s.l1_size;
        q->m.size = align_up(s.disk_size, 512);
        return 0;
    }
    return err_set(e, "%s has no snapshot \"%s\" (popf image info lists them)", q->m.file.name,
                   wanted);
}

static int load_tables(struct qcow2 *q, unsigned l2_tables, struct err *e)
{
    u64 l1_bytes = (u64)q->l1_size * 8;
    if (mark(q, 0, q->cluster, "the header", e) ||
        (l1_bytes && mark(q, q->l1_offset, l1_bytes, "the L1 table", e)) ||
        mark(q, q->rt_offset, q->rt_size * 8, "the refcount table", e))
        return -1;
    q->l1 = qcow2_read_table(q, q->l1_offset, q->l1_size, "L1 table", e);
    if (!q->l1)
        return -1;
    q->rt = qcow2_read_table(q, q->rt_offset, q->rt_size, "refcount table", e);
    if (!q->rt)
        return -1;
    for (u64 i = 0; i < q->rt_size; i++)
        q->rt[i] &= ~511ull;
    if (mark_entries(q, q->l1, q->l1_size, L1_OFFSET, "an L2 table", e) ||
        mark_entries(q, q->rt, q->rt_size, ~511ull, "a refcount block", e))
        return -1;
    if (!q->m.ro && mark_snapshots(q, e))
        return -1;
    q->slots_max = (unsigned)max_u64(L2_CACHE_MIN, L2_CACHE_BYTES / q->cluster);
    if (l2_tables)
        q->slots_max = l2_tables;
    q->l2_at = calloc((u64)q->l1_size + 1, sizeof(struct qcow2_l2 *));
    q->slot = calloc(q->slots_max, sizeof(struct qcow2_l2 *));
    q->rb = calloc(q->rt_size, sizeof(struct qcow2_rb *));
    if (!q->l2_at || !q->slot || !q->rb)
        return err_set(e, "%s: out of memory for its tables", q->m.file.name);
    return 0;
}

/* An image that was not closed has refcounts that are not to be trusted; others' notes go. */
static int prepare_writing(struct qcow2 *q, u64 autoclear, struct err *e)
{
    if (q->incompat & QCOW2_DIRTY) {
        struct qcow2_check r;
        if (qcow2_check(&q->m, true, &r, e))
            return -1;
        if (r.errors)
            return err_set(e, "%s was not closed and cannot be repaired: %s (try qemu-img check)",
                           q->m.file.name, r.first);
        log_emit(q->m.log, "%s was not closed: refcounts were rebuilt (%llu corrected)",
                 q->m.file.name, (unsigned long long)r.fixed);
    }
    u64 none = 0;
    int rc = autoclear ? file_write(&q->m.file, &none, 8, 88) : 0;
    return rc ? err_set(e, "cannot write to %s: %s", q->m.file.name, strerror(-rc)) : 0;
}

static int open_checked(struct qcow2 *q, const struct image_config *c, struct err *e)
{
    struct header h;
    if (read_header(q, &h, e))
        return -1;
    take_header(q, &h);
    if (read_names(q, &h, e) || (c->snapshot && use_snapshot(q, c->snapshot, e)) ||
        load_tables(q, c->l2_tables, e) || open_backing(q, c, e))
        return -1;
    return q->m.ro ? 0 : prepare_writing(q, h.autoclear, e);
}

static void init_locks(struct qcow2 *q)
{
    pthread_mutex_init(&q->meta, NULL);
    pthread_mutex_init(&q->flush, NULL);
    pthread_mutex_init(&q->zip_lock, NULL);
    pthread_cond_init(&q->changed, NULL);
}

struct image *qcow2_open(struct file *f, const struct image_config *c, struct err *e)
{
    struct qcow2 *q = calloc(1, sizeof(*q));
    if (!q) {
        err_set(e, "%s: out of memory", f->name);
        return NULL;
    }
    q->m.ops = &qcow2_ops;
    q->m.ro = c->ro;
    q->m.log = c->log;
    q->m.file = *f;
    init_locks(q);
    if (open_checked(q, c, e) == 0)
        return &q->m;
    q->m.ro = true; /* closing writes nothing */
    struct image *backing = q->m.backing;
    qcow2_ops.close(&q->m);
    free(q);
    image_close(backing);
    return NULL;
}

struct image *qcow2_overlay(struct file *f, struct image *base, struct err *e)
{
    /* Small clusters: the first write to each copies it from below. */
    struct qcow2_create how = {.size = base->size, .cluster_bits = base->size >> 40 ? 16 : 14};
    if (qcow2_format(f, &how, e))
        return NULL;
    struct image_config c = {.file = f->name, .log = base->log};
    struct image *m = qcow2_open(f, &c, e);
    if (m)
        m->backing = base;
    return m;
}
