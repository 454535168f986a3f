/*
 * fuzz_virtio_blk.c - the disk under a driver that keeps to no rules: rings, descriptors, requests,
 * configuration, resets while requests are in flight; over a raw or a qcow2 image, on a host whose
 * writes may fail.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/qcow2.h"
#include "dev/virtio_blk.h"

#define QUEUE   16
#define RAM     (256 * KiB)
#define RINGS   0x1000
#define DATA    0x10000
#define DISK    (1 * MiB)
#define OPS_MAX 300

struct world {
    const u8 *p, *end;
    pthread_mutex_t lock;
    struct loop loop;
    struct mem mem;
    struct virtio_blk b;
    struct file_watch watch;
    u64 writes, fail_mask; /* every write whose number has these bits fails */
    int fd;
    char path[40];
    u16 avail[2];
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static u64 take(struct world *w, unsigned n)
{
    u64 v = 0;
    for (unsigned i = 0; i < n && w->p < w->end; i++)
        v |= (u64)*w->p++ << (8 * i);
    return v;
}

static int on_change(void *arg, enum file_op op, u64 off, u64 len, const struct iovec *v,
                     unsigned n)
{
    struct world *w = arg;
    u64 k = __atomic_fetch_add(&w->writes, 1, __ATOMIC_RELAXED);
    return op == FILE_WRITE && w->fail_mask && (k & w->fail_mask) == w->fail_mask ? ENOSPC : 0;
}

static gpa_t ring_at(unsigned q)
{
    return RINGS + 0x4000 * q;
}

static void put(struct world *w, gpa_t at, const void *from, u64 n)
{
    mem_write(&w->mem, at % (RAM - 4096), from, n);
}

/* A descriptor, mostly one that makes sense. */
static void desc(struct world *w, unsigned q, unsigned n, u64 addr, u32 len, u16 flags, u16 next)
{
    u8 d[16];
    memcpy(d, &addr, 8);
    memcpy(d + 8, &len, 4);
    memcpy(d + 12, &flags, 2);
    memcpy(d + 14, &next, 2);
    put(w, ring_at(q) + 16 * n, d, 16);
}

static void make_available(struct world *w, unsigned q, u16 head)
{
    gpa_t a = ring_at(q) + 0x1000;
    put(w, a + 4 + 2 * (w->avail[q]++ % QUEUE), &head, 2);
    put(w, a + 2, &w->avail[q], 2);
}

/* A request with a header, data and status, of which any part may be odd. */
static void request(struct world *w)
{
    static const u8 types[] = {0, 1, 4, 8, 11, 13, 0, 1};
    u8 how = (u8)take(w, 1), odd = (u8)take(w, 1);
    unsigned q = how & 1, first = (how >> 4) % 14;
    u32 type = types[(how >> 1) & 7], len = (u32)(take(w, 1) % 17 * 512);
    u64 header[2] = {type, take(w, 2) % (DISK / 512 + 8)};
    bool in = type == 0 || type == 8;
    gpa_t at = DATA + first * 0x2400;
    if (type == 11 || type == 13) {
        len = 16 * (1 + len / 512);
        for (u32 i = 0; i < len; i += 16) {
            u64 range[2] = {take(w, 2), take(w, 1) | (u64)(odd & 1) << 32};
            put(w, at + 16 + i, range, 16);
        }
    }
    if (odd & 0x80)
        header[1] = take(w, 8);
    if (odd & 0x40)
        len += (u32)take(w, 4);
    put(w, at, header, 16);
    desc(w, q, first, at, odd & 0x20 ? (u32)take(w, 1) : 16, 1, (u16)(first + 1));
    desc(w, q, first + 1, at + 16, len, in ? 3 : 1, (u16)(first + 2));
    desc(w, q, first + 2, at + 0x2300, 1, odd & 0x10 ? (u16)take(w, 2) : 2, (u16)take(w, 1));
    make_available(w, q, (u16)first);
}

static void start(struct world *w)
{
    struct virtio_dev *d = &w->b.v;
    u8 how = (u8)take(w, 1);
    virtio_set_status(d, 0);
    memset(w->avail, 0, sizeof(w->avail));
    memset(mem_ptr(&w->mem, 0), 0, DATA);
    virtio_set_status(d, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER);
    virtio_set_features(d, how & 1 ? d->offered : how & 2 ? take(w, 8) : d->offered & ~BIT(11));
    virtio_set_status(d, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK);
    for (unsigned q = 0; q < d->nqueues; q++) {
        d->q[q].num = QUEUE;
        d->q[q].desc = ring_at(q);
        d->q[q].avail = ring_at(q) + 0x1000;
        d->q[q].used = ring_at(q) + 0x2000;
        virtio_enable_queue(d, q);
    }
    virtio_set_status(d, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK |
                             VIRTIO_S_DRIVER_OK);
}

static void locked_step(struct world *w, u8 op)
{
    struct virtio_dev *d = &w->b.v;
    switch (op % 16) {
    case 0 ... 5:
        request(w);
        virtio_notify(d, op >> 7);
        break;
    case 6:
        virtio_notify(d, (unsigned)take(w, 1) % 4);
        break;
    case 7: {
        u64 v = take(w, 8);
        put(w, take(w, 3), &v, 8);
        break;
    }
    case 8:
        virtio_config_write(d, (unsigned)take(w, 1) % 60, 1, take(w, 1));
        break;
    case 9:
        virtio_config_read(d, (unsigned)take(w, 1) % 52, 1u << (op >> 6));
        break;
    case 10:
        w->fail_mask = take(w, 1) & 7;
        break;
    case 11:
        virtio_blk_retry(&w->b);
        break;
    case 12:
        start(w);
        break;
    case 13:
        virtio_set_status(d, (u8)take(w, 1));
        break;
    default:
        make_available(w, op >> 7, (u16)take(w, 1));
        virtio_notify(d, op >> 7);
        break;
    }
}

static void run(struct world *w)
{
    for (unsigned i = 0; i < OPS_MAX && w->p < w->end; i++) {
        u8 op = (u8)take(w, 1);
        pthread_mutex_lock(&w->lock);
        locked_step(w, op);
        pthread_mutex_unlock(&w->lock);
        if (op & 0x20)
            loop_wait(&w->loop, 0);
    }
}

static bool make_disk(struct world *w, bool qcow2)
{
    struct file f;
    struct err e;
    w->fd = memfd_create("disk", MFD_CLOEXEC);
    snprintf(w->path, sizeof(w->path), "/proc/self/fd/%d", w->fd);
    if (w->fd < 0)
        return false;
    if (!qcow2)
        return ftruncate(w->fd, DISK) == 0;
    if (file_open(&f, w->path, 0, &e))
        return false;
    int rc = qcow2_format(&f, &(struct qcow2_create){.size = DISK, .cluster_bits = 12}, &e);
    file_close(&f);
    return !rc;
}

static bool setup(struct world *w)
{
    u8 how = (u8)take(w, 1);
    w->watch = (struct file_watch){.change = on_change, .arg = w};
    pthread_mutex_init(&w->lock, NULL);
    if (!make_disk(w, how & 1) || loop_init(&w->loop, &w->lock, NULL) || mem_init(&w->mem, NULL) ||
        mem_add_ram(&w->mem, 0, RAM, false, NULL))
        return false;
    struct virtio_blk_config c = {.disk = {.file = w->path,
                                           .format = how & 1 ? IMAGE_QCOW2 : IMAGE_RAW,
                                           .ro = how & 2,
                                           .loop = &w->loop,
                                           .watch = &w->watch},
                                  .queues = 2,
                                  .stop_on_error = how & 4};
    return virtio_blk_init(&w->b, &c, &w->mem, NULL) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world *w = calloc(1, sizeof(*w));
    if (!w)
        return 0;
    w->p = data;
    w->end = data + size;
    if (!setup(w))
        abort();
    start(w);
    run(w);
    w->fail_mask = 0;
    virtio_blk_free(&w->b, NULL);
    loop_free(&w->loop);
    mem_free(&w->mem);
    pthread_mutex_destroy(&w->lock);
    close(w->fd);
    free(w);
    return 0;
}
