/*
 * qcow2_zip.c - compressed clusters: raw deflate, or zstd.
 */
#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include "block/iov.h"
#include "block/qcow2.h"

/* The bits of an entry: offset below, then the number of further sectors. */
static unsigned sectors_shift(const struct qcow2 *q)
{
    return 62 - (q->cluster_bits - 8);
}

void qcow2_zip_where(const struct qcow2 *q, u64 entry, u64 *offset, u64 *len)
{
    unsigned shift = sectors_shift(q);
    *offset = entry & (BIT(shift) - 1);
    u64 sectors = ((entry & ~(L2_COPIED | L2_COMPRESSED)) >> shift) + 1;
    *len = sectors * 512 - (*offset & 511);
}

/* --- reading --- */

static int inflate_cluster(const u8 *in, u64 len, u8 *out, u64 size)
{
    z_stream z = {
        .next_in = (u8 *)in, .avail_in = (uInt)len, .next_out = out, .avail_out = (uInt)size};
    if (inflateInit2(&z, -15) != Z_OK)
        return -ENOMEM;
    int rc = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    /* The stream ends somewhere within the sectors; what counts is a full cluster. */
    return (rc == Z_STREAM_END || rc == Z_BUF_ERROR || rc == Z_OK) && !z.avail_out ? 0 : -EIO;
}

static int unzstd_cluster(const u8 *in, u64 len, u8 *out, u64 size)
{
    ZSTD_DStream *z = ZSTD_createDStream();
    if (!z)
        return -ENOMEM;
    ZSTD_inBuffer from = {in, len, 0};
    ZSTD_outBuffer to = {out, size, 0};
    int rc = 0;
    while (to.pos < size && !rc) {
        size_t before_in = from.pos, before_out = to.pos;
        size_t left = ZSTD_decompressStream(z, &to, &from);
        if (ZSTD_isError(left) || (from.pos == before_in && to.pos == before_out))
            rc = -EIO;
    }
    ZSTD_freeDStream(z);
    return rc;
}

static u8 *load(struct qcow2 *q, u64 entry, int *rc)
{
    u64 offset, len;
    qcow2_zip_where(q, entry, &offset, &len);
    u8 *in = malloc(len), *out = malloc(q->cluster);
    *rc = in && out ? file_read(&q->m.file, in, len, offset) : -ENOMEM;
    if (!*rc)
        *rc = q->compression == QCOW2_ZSTD ? unzstd_cluster(in, len, out, q->cluster)
                                           : inflate_cluster(in, len, out, q->cluster);
    free(in);
    if (*rc == -EIO)
        log_emit(q->m.log, "%s: the compressed cluster at %#llx cannot be decompressed",
                 q->m.file.name, (unsigned long long)offset);
    if (!*rc)
        return out;
    free(out);
    return NULL;
}

static bool read_cached(struct qcow2 *q, u64 entry, u64 in, const struct iovec *v, unsigned n,
                        u64 len)
{
    for (unsigned i = 0; i < ARRAY_SIZE(q->zip); i++) {
        if (q->zip[i].entry != entry || !q->zip[i].data)
            continue;
        q->zip[i].stamp = ++q->zip_stamp;
        iov_copy(v, n, 0, q->zip[i].data + in, len, false);
        return true;
    }
    return false;
}

/* Owns data. */
static void cache(struct qcow2 *q, u64 entry, u8 *data)
{
    struct qcow2_zip *oldest = &q->zip[0];
    for (unsigned i = 1; i < ARRAY_SIZE(q->zip); i++)
        if (q->zip[i].stamp < oldest->stamp)
            oldest = &q->zip[i];
    free(oldest->data);
    *oldest = (struct qcow2_zip){.entry = entry, .stamp = ++q->zip_stamp, .data = data};
}

int qcow2_zip_read(struct qcow2 *q, u64 entry, u64 in, const struct iovec *v, unsigned n, u64 len)
{
    pthread_mutex_lock(&q->zip_lock);
    bool hit = read_cached(q, entry, in, v, n, len);
    u64 epoch = q->zip_epoch;
    pthread_mutex_unlock(&q->zip_lock);
    if (hit)
        return 0;
    int rc;
    u8 *data = load(q, entry, &rc);
    if (!data)
        return rc;
    iov_copy(v, n, 0, data + in, len, false);
    pthread_mutex_lock(&q->zip_lock);
    if (epoch == q->zip_epoch)
        cache(q, entry, data);
    else
        free(data);
    pthread_mutex_unlock(&q->zip_lock);
    return 0;
}

static void drop_all(struct qcow2 *q)
{
    for (unsigned i = 0; i < ARRAY_SIZE(q->zip); i++) {
        free(q->zip[i].data);
        q->zip[i] = (struct qcow2_zip){0};
    }
}

void qcow2_zip_forget(struct qcow2 *q)
{
    pthread_mutex_lock(&q->zip_lock);
    q->zip_epoch++;
    drop_all(q);
    pthread_mutex_unlock(&q->zip_lock);
}

void qcow2_zip_free(struct qcow2 *q)
{
    drop_all(q);
}

/* --- writing --- */

/* Bytes of the result, or 0 if it would not be smaller than a cluster. */
static u64 deflate_cluster(const void *in, u8 *out, u64 size)
{
    z_stream z = {.next_in = (u8 *)in,
                  .avail_in = (uInt)size,
                  .next_out = out,
                  .avail_out = (uInt)(size - 1)};
    /* A window of 4 KiB is what other readers of the format expect. */
    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) != Z_OK)
        return 0;
    int rc = deflate(&z, Z_FINISH);
    u64 len = z.total_out;
    deflateEnd(&z);
    return rc == Z_STREAM_END ? len : 0;
}

static u64 compress_cluster(struct qcow2 *q, const void *in, u8 *out)
{
    if (q->compression == QCOW2_ZLIB)
        return deflate_cluster(in, out, q->cluster);
    size_t len = ZSTD_compress(out, q->cluster - 1, in, q->cluster, ZSTD_CLEVEL_DEFAULT);
    return ZSTD_isError(len) ? 0 : len;
}

/* One more compressed cluster in this cluster of the file; false if it cannot be counted. */
static bool share(struct qcow2 *q, u64 cluster)
{
    u64 v;
    return !qcow2_refcount(q, cluster, &v) && v && !qcow2_set_refcount(q, cluster, v + 1);
}

/* `len` bytes somewhere behind the compressed cluster before, if possible. meta is held. */
static int place(struct qcow2 *q, u64 len, u64 *offset)
{
    u64 used = q->zip_at & (q->cluster - 1), first, got;
    if (q->zip_at && len <= q->cluster - used && share(q, q->zip_at >> q->cluster_bits)) {
        *offset = q->zip_at;
    } else {
        int rc = qcow2_alloc(q, 1, &first, &got);
        if (rc)
            return rc;
        bool next = q->zip_at && first == (q->zip_at >> q->cluster_bits) + 1 &&
                    share(q, q->zip_at >> q->cluster_bits);
        *offset = next ? q->zip_at : first << q->cluster_bits;
    }
    q->zip_at = *offset + len;
    if (!(q->zip_at & (q->cluster - 1)))
        q->zip_at = 0;
    return 0;
}

static int link_entry(struct qcow2 *q, u64 off, u64 at, u64 len)
{
    struct qcow2_l2 *t;
    int rc = qcow2_make_room(q);
    if (!rc)
        rc = q->corrupt ? -EIO : qcow2_l2_write(q, off / qcow2_l2_span(q), &t);
    if (rc)
        return rc;
    u64 index = (off >> q->cluster_bits) & ((1ull << q->l2_bits) - 1);
    u64 sectors = ((at + len - 1) >> 9) - (at >> 9);
    qcow2_free_entry(q, qcow2_l2_get(t, index));
    qcow2_l2_set(q, t, index, L2_COMPRESSED | sectors << sectors_shift(q) | at);
    return 0;
}

static int write_zip(struct qcow2 *q, u64 off, u8 *data, u64 len)
{
    u64 at;
    pthread_mutex_lock(&q->meta);
    int rc = place(q, len, &at);
    pthread_mutex_unlock(&q->meta);
    if (rc)
        return rc;
    /* Up to the end of its last sector, which readers read whole; the next one overwrites that. */
    u64 padded = align_up(at + len, 512) - at;
    memset(data + len, 0, padded - len);
    rc = file_write(&q->m.file, data, padded, at);
    pthread_mutex_lock(&q->meta);
    if (!rc)
        rc = link_entry(q, off, at, len);
    pthread_mutex_unlock(&q->meta);
    return rc;
}

int qcow2_write_compressed(struct image *m, u64 off, const void *data)
{
    struct qcow2 *q = qcow2_of(m);
    if (m->ro || off & (q->cluster - 1) || off >= m->size)
        return -EINVAL;
    u8 *out = malloc(q->cluster + 512);
    u64 len = out ? compress_cluster(q, data, out) : 0;
    bool fits = len && len < BIT(sectors_shift(q));
    int rc = fits ? write_zip(q, off, out, len)
                  : image_write(m, off, data, min_u64(q->cluster, m->size - off));
    free(out);
    return rc;
}
