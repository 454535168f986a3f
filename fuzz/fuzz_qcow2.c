/*
 * fuzz_qcow2.c - opens, reads, writes and checks qcow2 images that were damaged in every way.
 *
 * The input: one byte chooses an image that is sound, then changes to its bytes (what to do, a
 * place, a value), then what is done with it. Places are mostly in the metadata.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/qcow2.h"

#define SIZE    (600 * KiB)
#define OPS_MAX 64

struct world {
    const u8 *p, *end;
    int fd;
    char path[40];
    u8 buf[64 * KiB];
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static u64 take(struct world *w, unsigned n)
{
    u64 v = 0;
    for (unsigned i = 0; i < n && w->p < w->end; i++)
        v |= (u64)*w->p++ << (8 * i);
    return v;
}

static struct image *open_it(struct world *w, bool ro)
{
    struct err e;
    struct image_config c = {.file = w->path, .ro = ro, .format = IMAGE_QCOW2, .l2_tables = 3};
    return image_open(&c, &e);
}

/* Data in three places, some of it compressed. */
static void fill(struct world *w, struct image *m)
{
    memset(w->buf, 0x77, sizeof(w->buf));
    for (u64 off = 0; off < 12 * m->unit; off += m->unit)
        qcow2_write_compressed(m, off, w->buf);
    image_write(m, SIZE / 2, w->buf, 40000);
    image_write(m, 1000, w->buf, 3000);
    image_zero(m, SIZE / 2 + 8192, 9000, true);
    image_discard(m, 65536, 8192);
}

static void make(struct world *w)
{
    u8 shape = (u8)take(w, 1);
    struct qcow2_create how = {.size = SIZE,
                               .version = shape & 1 ? 3 : 2,
                               .cluster_bits = shape & 2 ? 9 : 12,
                               .lazy = shape & 4 && shape & 1,
                               .compression = shape & 8 && shape & 1 ? QCOW2_ZSTD : QCOW2_ZLIB,
                               .refcount_order = shape & 1 ? (shape >> 4) % 8 : 0};
    struct file f;
    struct err e;
    if (file_open(&f, w->path, 0, &e) || qcow2_format(&f, &how, &e))
        abort();
    file_close(&f);
    struct image *m = open_it(w, false);
    if (!m)
        abort();
    fill(w, m);
    image_close(m);
}

static u64 pick_place(struct world *w, u64 size)
{
    u8 how = (u8)take(w, 1);
    if (how < 128) /* the header */
        return how % 112;
    if (how < 240) /* what follows it */
        return take(w, 2) * 8 % size;
    return take(w, 4) % size;
}

static void damage(struct world *w)
{
    off_t size = lseek(w->fd, 0, SEEK_END);
    for (u64 n_changes = take(w, 1) % 6; n_changes; n_changes--) {
        u8 what = (u8)take(w, 1);
        u64 at = pick_place(w, (u64)size);
        unsigned n = 1u << (what & 3);
        u64 v = 0;
        if (pread(w->fd, &v, n, (off_t)at) < 0)
            return;
        if (what & 64)
            v ^= 1ull << take(w, 1) % (8 * n);
        else if (what & 128)
            v = be64(be64(v) + (take(w, 1) << 9));
        else
            v = take(w, n);
        if (pwrite(w->fd, &v, n, (off_t)at) < 0)
            return;
    }
    if (take(w, 1) < 16 && ftruncate(w->fd, (off_t)(take(w, 3) % (u64)size)))
        return;
}

static void step(struct world *w, struct image *m)
{
    u8 op = (u8)take(w, 1);
    u64 off = take(w, 2) * 512 % (m->size ? m->size : 1), len = 512 * (1 + take(w, 1) % 128);
    struct image_extent x;
    struct iovec v = {w->buf, len};
    if (off > m->size || len > m->size - off)
        len = m->size - off;
    v.iov_len = len;
    switch (op % 8) {
    case 0:
    case 1:
        image_readv(m, off, &v, 1, len);
        break;
    case 2:
    case 3:
        image_writev(m, off, &v, 1, len);
        break;
    case 4:
        image_zero(m, off, len, op & 8);
        break;
    case 5:
        image_discard(m, off, len);
        break;
    case 6:
        image_flush(m);
        break;
    default:
        if (len)
            image_map(m, off, len, &x);
        image_try_readv(m, off, &v, 1, len);
        image_try_writev(m, off, &v, 1, len);
    }
}

static void use(struct world *w)
{
    u8 how = (u8)take(w, 1);
    struct err e;
    struct qcow2_check r;
    struct image *m = open_it(w, how & 1);
    if (!m)
        return;
    for (unsigned i = 0; i < OPS_MAX && w->p < w->end; i++)
        step(w, m);
    if (how & 2)
        qcow2_check(m, how & 4 && !m->ro, &r, &e);
    if (how & 8 && !m->ro)
        qcow2_resize(m, take(w, 3), &e);
    image_close(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world *w = calloc(1, sizeof(*w));
    if (!w)
        return 0;
    w->p = data;
    w->end = data + size;
    w->fd = memfd_create("image", MFD_CLOEXEC);
    if (w->fd >= 0) {
        snprintf(w->path, sizeof(w->path), "/proc/self/fd/%d", w->fd);
        make(w);
        damage(w);
        use(w);
        close(w->fd);
    }
    free(w);
    return 0;
}
