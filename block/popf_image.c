/*
 * popf_image.c - the part of libpopf that works on images.
 */
#include "popf_image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/iov.h"
#include "block/qcow2.h"

#define CHUNK (2 * MiB)

static int give(struct popf_error *to, const struct err *from)
{
    if (to)
        snprintf(to->msg, sizeof(to->msg), "%s", from->msg);
    return -1;
}

static int parse_format(const char *name, enum image_format *f, struct err *e)
{
    *f = IMAGE_AUTO;
    if (!name || !image_format_parse(name, f))
        return 0;
    return err_set(e, "there is no image format \"%s\": raw and qcow2 are known", name);
}

static struct image *open_as(const char *file, const char *format, struct image_config c,
                             struct err *e)
{
    c.file = file;
    return parse_format(format, &c.format, e) ? NULL : image_open(&c, e);
}

/* --- create --- */

static int qcow2_wish(const struct popf_image_options *o, struct qcow2_create *c, struct err *e)
{
    const char *z = o->compression;
    c->version = o->version;
    c->lazy = o->lazy_refcounts;
    c->backing = o->backing;
    c->backing_format = o->backing_format;
    if (o->version && o->version != 2 && o->version != 3)
        return err_set(e, "there is no version %u of qcow2: 2 and 3 are known", o->version);
    if (z && strcmp(z, "zlib") && strcmp(z, "zstd"))
        return err_set(e, "there is no compression \"%s\": zlib and zstd are known", z);
    c->compression = z && !strcmp(z, "zstd") ? QCOW2_ZSTD : QCOW2_ZLIB;
    if (o->cluster & (o->cluster - 1) || (o->cluster && (o->cluster < 512 || o->cluster > 2 * MiB)))
        return err_set(e, "clusters of %u bytes: must be a power of two, 512 to 2M", o->cluster);
    c->cluster_bits = o->cluster ? (u32)__builtin_ctz(o->cluster) : 0;
    return 0;
}

/* Opens the backing file as the image at `file` will: its name is relative to that. */
static struct image *open_below(const char *file, const struct popf_image_options *o, struct err *e)
{
    char path[4096];
    const char *slash = strrchr(file, '/');
    int dir = o->backing[0] == '/' || !slash ? 0 : (int)(slash + 1 - file);
    if (snprintf(path, sizeof(path), "%.*s%s", dir, file, o->backing) >= (int)sizeof(path)) {
        err_set(e, "%s: the name of the backing file is too long", file);
        return NULL;
    }
    return open_as(path, o->backing_format, (struct image_config){.ro = true}, e);
}

/* An empty file to write an image to: a new one, or with `force` what is there. */
static int open_empty(const char *file, bool force, struct file *f, bool *created, struct err *e)
{
    *created = access(file, F_OK) != 0;
    if (!*created && !force)
        return err_set(e, "%s exists already (--force overwrites it)", file);
    if (file_open(f, file, *created ? FILE_CREATE : 0, e))
        return -1;
    int rc = f->device || *created ? 0 : file_truncate(f, 0);
    if (!rc)
        return 0;
    err_set(e, "cannot empty %s: %s", file, strerror(-rc));
    file_close(f);
    return -1;
}

static int make_raw(struct file *f, const struct popf_image_options *o, u64 size, struct err *e)
{
    if (o->backing || o->cluster || o->version || o->lazy_refcounts || o->compression)
        return err_set(e, "%s: a raw image has no options and no backing file", f->name);
    if (f->device)
        return file_size(f) >= size ? 0
                                    : err_set(e, "%s has only %llu bytes", f->name,
                                              (unsigned long long)file_size(f));
    int rc = file_truncate(f, align_up(size, 512));
    return rc ? err_set(e, "cannot make %s %llu bytes long: %s", f->name, (unsigned long long)size,
                        strerror(-rc))
              : 0;
}

static bool is_raw(const struct popf_image_options *o)
{
    return o->format && !strcmp(o->format, "raw");
}

static int make(const char *file, u64 size, const struct popf_image_options *o, struct err *e)
{
    struct qcow2_create c = {.size = size};
    enum image_format format;
    struct file f;
    bool created;
    if (parse_format(o->format, &format, e) || qcow2_wish(o, &c, e) ||
        open_empty(file, o->force, &f, &created, e))
        return -1;
    int rc = is_raw(o) ? make_raw(&f, o, size, e) : qcow2_format(&f, &c, e);
    file_close(&f);
    if (rc && created)
        unlink(file);
    return rc;
}

/* The backing file must be there, and gives its size and format where they are not said. */
static int look_below(const char *file, u64 *size, struct popf_image_options *o, struct err *e)
{
    struct image *below = open_below(file, o, e);
    if (!below)
        return -1;
    if (!*size)
        *size = below->size;
    o->backing_format = below->ops->format;
    image_close(below);
    return 0;
}

int popf_image_create(const char *file, uint64_t size, const struct popf_image_options *options,
                      struct popf_error *err)
{
    struct popf_image_options o = *options;
    struct err e = {""};
    u64 bytes = size;
    if (o.backing && look_below(file, &bytes, &o, &e))
        return give(err, &e);
    if (!bytes) {
        err_set(&e, "%s: an image needs a size", file);
        return give(err, &e);
    }
    return make(file, bytes, &o, &e) ? give(err, &e) : 0;
}

/* --- info --- */

static void fill_qcow2(const struct qcow2 *q, struct popf_image_info *i)
{
    i->cluster = (unsigned)q->cluster;
    i->version = q->version;
    i->lazy_refcounts = q->compat & QCOW2_LAZY;
    i->dirty = q->incompat & QCOW2_DIRTY;
    i->corrupt = q->incompat & QCOW2_CORRUPT;
    i->snapshots = q->nsnapshots;
    strcpy(i->compression, q->compression == QCOW2_ZSTD ? "zstd" : "zlib");
    if (q->backing_name)
        snprintf(i->backing, sizeof(i->backing), "%s", q->backing_name);
    if (q->backing_format)
        snprintf(i->backing_format, sizeof(i->backing_format), "%s", q->backing_format);
}

int popf_image_info(const char *file, const char *format, struct popf_image_info *i,
                    struct popf_error *err)
{
    struct err e = {""};
    struct stat st;
    struct image_config c = {.ro = true, .no_lock = true, .no_backing = true};
    struct image *m = open_as(file, format, c, &e);
    if (!m)
        return give(err, &e);
    *i = (struct popf_image_info){.size = m->size, .file_size = file_size(&m->file)};
    snprintf(i->format, sizeof(i->format), "%s", m->ops->format);
    if (!fstat(m->file.fd, &st))
        i->used = (u64)st.st_blocks * 512;
    if (m->ops == &qcow2_ops)
        fill_qcow2(qcow2_of(m), i);
    image_close(m);
    return 0;
}

static int find_snapshot(struct image *m, unsigned index, struct qcow2_snapshot *s, struct err *e)
{
    struct qcow2 *q = qcow2_of(m);
    u64 pos = m->ops == &qcow2_ops ? q->snapshots_offset : 0;
    if (m->ops != &qcow2_ops || index >= q->nsnapshots)
        return err_set(e, "%s has no snapshot number %u", m->file.name, index);
    for (unsigned k = 0; k <= index; k++)
        if (qcow2_read_snapshot(q, &pos, s, e))
            return -1;
    return 0;
}

int popf_image_snapshot(const char *file, unsigned index, struct popf_image_snapshot *s,
                        struct popf_error *err)
{
    struct err e = {""};
    struct qcow2_snapshot q = {0};
    struct image_config c = {.ro = true, .no_lock = true, .no_backing = true};
    struct image *m = open_as(file, NULL, c, &e);
    if (!m)
        return give(err, &e);
    int rc = find_snapshot(m, index, &q, &e);
    *s = (struct popf_image_snapshot){
        .size = q.disk_size, .vm_state = q.vm_state_size, .date = q.date_sec};
    memcpy(s->id, q.id, sizeof(s->id));
    memcpy(s->name, q.name, sizeof(s->name));
    image_close(m);
    return rc ? give(err, &e) : 0;
}

/* --- convert --- */

struct copy {
    const struct popf_image_convert *how;
    struct image *from, *to;
    u64 unit;        /* zeros are looked for in pieces of so many bytes */
    u8 *buf, *below; /* CHUNK each */
    struct err *e;
};

static bool is_zero(const u8 *p, u64 len)
{
    return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

static int failed(struct copy *c, const char *what, const struct image *m, int rc)
{
    return err_set(c->e, "%s %s failed: %s", what, m->file.name, strerror(-rc));
}

static int put(struct copy *c, u64 off, u8 *data, u64 len)
{
    int rc;
    if (c->how->compress) {
        /* The last cluster may be longer than the disk. */
        memset(data + len, 0, c->unit - len);
        rc = qcow2_write_compressed(c->to, off, data);
    } else {
        rc = image_write(c->to, off, data, len);
    }
    return rc ? failed(c, "writing to", c->to, rc) : 0;
}

/* What a piece needs: nothing, zeros, or its data. */
enum need { NOTHING, ZEROS, DATA };

static enum need need_of(const struct copy *c, u64 at, u64 len)
{
    bool zero = is_zero(c->buf + at, len);
    if (c->to->backing)
        return !memcmp(c->buf + at, c->below + at, len) ? NOTHING : zero ? ZEROS : DATA;
    /* A new file is zeros; a device is not. */
    return !zero ? DATA : c->to->file.device ? ZEROS : NOTHING;
}

static int put_zeros(struct copy *c, u64 off, u64 len)
{
    int rc = image_zero(c->to, off, len, true);
    return rc ? failed(c, "writing to", c->to, rc) : 0;
}

/* Pieces in a row with the same need go together; compressed ones go one by one. */
static int put_chunk(struct copy *c, u64 off, u64 len)
{
    for (u64 at = 0, n; at < len; at += n) {
        n = min_u64(c->unit, len - at);
        enum need need = need_of(c, at, n);
        while (!c->how->compress && at + n < len &&
               need_of(c, at + n, min_u64(c->unit, len - at - n)) == need)
            n += min_u64(c->unit, len - at - n);
        int rc = need == DATA    ? put(c, off + at, c->buf + at, n)
                 : need == ZEROS ? put_zeros(c, off + at, n)
                                 : 0;
        if (rc)
            return rc;
    }
    return 0;
}

static int copy_chunk(struct copy *c, u64 off, u64 len)
{
    int rc = image_read(c->from, off, c->buf, len);
    if (rc)
        return failed(c, "reading", c->from, rc);
    if (c->to->backing) {
        struct iovec v = {c->below, len};
        rc = image_read_backing(c->to->backing, off, &v, 1, len);
        if (rc)
            return failed(c, "reading", c->to->backing, rc);
    }
    return put_chunk(c, off, len);
}

/* How much from `off` on may be skipped because it is known to be zeros. */
static int known_zeros(struct copy *c, u64 off, u64 *len)
{
    struct image_extent x;
    *len = 0;
    if (c->to->backing || c->to->file.device)
        return 0;
    int rc = image_map(c->from, off, c->from->size - off, &x);
    if (rc)
        return failed(c, "reading", c->from, rc);
    /* Whole pieces, so that the next one begins on a boundary. */
    if (x.zero)
        *len = x.len == c->from->size - off ? x.len : align_down(x.len, c->unit);
    return 0;
}

static int copy_all(struct copy *c)
{
    u64 size = c->from->size;
    for (u64 off = 0, n; off < size; off += n) {
        if (c->how->progress)
            c->how->progress(c->how->progress_arg, off, size);
        if (known_zeros(c, off, &n))
            return -1;
        if (n)
            continue;
        n = min_u64(CHUNK, size - off);
        if (copy_chunk(c, off, n))
            return -1;
    }
    if (c->how->progress)
        c->how->progress(c->how->progress_arg, size, size);
    return 0;
}

static int run_copy(struct copy *c)
{
    c->unit = c->to->ops == &qcow2_ops ? c->to->unit : 4096;
    c->buf = malloc(CHUNK);
    c->below = malloc(CHUNK);
    int rc = c->buf && c->below ? copy_all(c) : err_set(c->e, "out of memory");
    free(c->buf);
    free(c->below);
    return rc;
}

static int copy_into(const struct popf_image_convert *how, struct image *from, struct err *e)
{
    struct image_config c = {0};
    struct image *to = open_as(how->to, is_raw(&how->options) ? "raw" : "qcow2", c, e);
    if (!to)
        return -1;
    struct copy copy = {.how = how, .from = from, .to = to, .e = e};
    int rc = run_copy(&copy);
    int closed = image_close(to);
    if (!rc && closed)
        return err_set(e, "writing to %s failed: %s", how->to, strerror(-closed));
    return rc;
}

static int convert(const struct popf_image_convert *how, struct image *from, struct err *e)
{
    struct popf_image_options o = how->options;
    u64 size = from->size;
    bool there = access(how->to, F_OK) == 0;
    if (how->compress && is_raw(&o))
        return err_set(e, "%s: a raw image cannot be compressed", how->to);
    if (o.backing && look_below(how->to, &size, &o, e))
        return -1;
    if (make(how->to, size, &o, e))
        return -1;
    if (!copy_into(how, from, e))
        return 0;
    if (!there)
        unlink(how->to);
    return -1;
}

int popf_image_convert(const struct popf_image_convert *how, struct popf_error *err)
{
    struct err e = {""};
    struct image_config c = {.ro = true, .snapshot = how->snapshot};
    struct image *from = open_as(how->from, how->from_format, c, &e);
    if (!from)
        return give(err, &e);
    int rc = convert(how, from, &e);
    image_close(from);
    return rc ? give(err, &e) : 0;
}

/* --- resize, check --- */

static int resize_raw(struct image *m, u64 size, struct err *e)
{
    if (m->file.device)
        return err_set(e, "%s is a device: it cannot be resized", m->file.name);
    int rc = file_truncate(&m->file, align_up(size, 512));
    return rc ? err_set(e, "cannot resize %s: %s", m->file.name, strerror(-rc)) : 0;
}

static int resize(struct image *m, u64 size, bool shrink, struct err *e)
{
    if (!size)
        return err_set(e, "%s: a size of 0", m->file.name);
    if (size < m->size && !shrink)
        return err_set(e,
                       "%s has %llu bytes: making it smaller cuts off what is there (--shrink "
                       "allows it)",
                       m->file.name, (unsigned long long)m->size);
    return m->ops == &qcow2_ops ? qcow2_resize(m, size, e) : resize_raw(m, size, e);
}

int popf_image_resize(const char *file, const char *format, uint64_t size, bool shrink,
                      struct popf_error *err)
{
    struct err e = {""};
    struct image *m = open_as(file, format, (struct image_config){0}, &e);
    if (!m)
        return give(err, &e);
    int rc = resize(m, size, shrink, &e);
    int closed = image_close(m);
    if (!rc && closed)
        rc = err_set(&e, "writing to %s failed: %s", file, strerror(-closed));
    return rc ? give(err, &e) : 0;
}

int popf_image_check(const char *file, bool repair, struct popf_image_check *r,
                     struct popf_error *err)
{
    struct err e = {""};
    struct qcow2_check q = {0}, after = {0};
    struct image_config c = {.ro = !repair, .no_backing = true};
    struct image *m = open_as(file, "qcow2", c, &e);
    if (!m)
        return give(err, &e);
    int rc = qcow2_check(m, false, &q, &e);
    if (!rc && repair && (q.errors || q.leaks)) {
        rc = qcow2_check(m, true, &after, &e);
        q.fixed = after.fixed;
        if (!rc)
            rc = qcow2_check(m, false, &after, &e);
        after.fixed = q.fixed;
        q = after;
    }
    *r = (struct popf_image_check){.errors = q.errors,
                                   .leaks = q.leaks,
                                   .fixed = q.fixed,
                                   .allocated = q.allocated,
                                   .compressed = q.zipped,
                                   .total = (m->size + m->unit - 1) / m->unit};
    memcpy(r->first, q.first, sizeof(r->first));
    image_close(m);
    return rc ? give(err, &e) : 0;
}
