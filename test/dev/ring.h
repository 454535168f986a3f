/*
 * ring.h - a driver that writes the rings of any virtio device by hand: a loop, some RAM, and one
 * buffer of 64 KiB for each descriptor number.
 */
#ifndef POPF_TEST_RING_H
#define POPF_TEST_RING_H

#include <stdlib.h>
#include <string.h>

#include "base/loop.h"
#include "dev/virtio.h"

#define RING_SIZE 16 /* descriptors in a queue: two for each chain */
#ifndef RING_QUEUES
#define RING_QUEUES 3
#endif
#define RING_BUF 0x10000u

struct ring {
    pthread_mutex_t lock;
    struct loop loop;
    struct mem mem;
    struct virtio_dev *d;
    u16 avail[RING_QUEUES], used[RING_QUEUES], chain[RING_QUEUES];
    unsigned interrupts;
};

struct ring_done {
    u32 head, len;
};

static inline void ring_init(struct ring *r)
{
    memset(r, 0, sizeof(*r));
    pthread_mutex_init(&r->lock, NULL);
    if (loop_init(&r->loop, &r->lock, NULL) || mem_init(&r->mem, NULL) ||
        mem_add_ram(&r->mem, 0, 8 * MiB, false, NULL))
        abort();
}

static inline void ring_free(struct ring *r)
{
    loop_free(&r->loop);
    mem_free(&r->mem);
    pthread_mutex_destroy(&r->lock);
}

/* Queue q's descriptors; the available ring is 0x1000 behind, the used one 0x2000. */
static inline gpa_t ring_at(unsigned q)
{
    return 0x10000 * (q + 1);
}

static inline gpa_t ring_buf_at(unsigned q, unsigned desc)
{
    return 0x100000 + (gpa_t)(q * RING_SIZE + desc) * RING_BUF;
}

static inline u8 *ring_buf(struct ring *r, unsigned q, unsigned desc)
{
    return mem_ptr(&r->mem, ring_buf_at(q, desc));
}

/* The driver's part up to DRIVER_OK. */
static inline void ring_start(struct ring *r, struct virtio_dev *d)
{
    r->d = d;
    memset(r->avail, 0, sizeof(r->avail));
    memset(r->used, 0, sizeof(r->used));
    memset(r->chain, 0, sizeof(r->chain));
    pthread_mutex_lock(&r->lock);
    virtio_set_status(d, 0);
    memset(mem_ptr(&r->mem, 0), 0, 0x100000);
    virtio_set_status(d, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER);
    virtio_set_features(d, d->offered & ~VIRTIO_F_EVENT_IDX);
    virtio_set_status(d, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK);
    for (unsigned q = 0; q < d->nqueues; q++) {
        d->q[q].num = RING_SIZE;
        d->q[q].desc = ring_at(q);
        d->q[q].avail = ring_at(q) + 0x1000;
        d->q[q].used = ring_at(q) + 0x2000;
        virtio_enable_queue(d, q);
    }
    virtio_set_status(d, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK |
                             VIRTIO_S_DRIVER_OK);
    pthread_mutex_unlock(&r->lock);
}

static inline void ring_desc(struct ring *r, unsigned q, unsigned n, u32 len, u16 flags, u16 next)
{
    u8 *p = mem_ptr(&r->mem, ring_at(q) + 16 * n);
    u64 addr = ring_buf_at(q, n);
    memcpy(p, &addr, 8);
    memcpy(p + 8, &len, 4);
    memcpy(p + 12, &flags, 2);
    memcpy(p + 14, &next, 2);
}

/*
 * Makes a chain available: `out` bytes to read, copied from `data`, and room for `in` bytes. The
 * number of its first descriptor. Chains are used in turn: there may be RING_SIZE / 2 at a time.
 */
static inline unsigned ring_add(struct ring *r, unsigned q, const void *data, u32 out, u32 in)
{
    unsigned head = 2 * (r->chain[q]++ % (RING_SIZE / 2));
    if (out) {
        memcpy(ring_buf(r, q, head), data, out);
        ring_desc(r, q, head, out, in ? 1 : 0, head + 1);
        if (in)
            ring_desc(r, q, head + 1, in, 2, 0);
    } else {
        ring_desc(r, q, head, in, 2, 0);
    }
    u8 *a = mem_ptr(&r->mem, ring_at(q) + 0x1000);
    u16 id = head;
    memcpy(a + 4 + 2 * (r->avail[q]++ % RING_SIZE), &id, 2);
    memcpy(a + 2, &r->avail[q], 2);
    return head;
}

static inline void ring_kick(struct ring *r, unsigned q)
{
    pthread_mutex_lock(&r->lock);
    virtio_notify(r->d, q);
    pthread_mutex_unlock(&r->lock);
}

/* Takes a chain that came back; false if there is none. */
static inline bool ring_take(struct ring *r, unsigned q, struct ring_done *done)
{
    const u8 *u = mem_ptr(&r->mem, ring_at(q) + 0x2000);
    u16 idx;
    memcpy(&idx, u + 2, 2);
    if (idx == r->used[q])
        return false;
    memcpy(done, u + 4 + 8 * (r->used[q]++ % RING_SIZE), 8);
    return true;
}

/* The same, turning the loop for up to two seconds until one comes. */
static inline bool ring_wait(struct ring *r, unsigned q, struct ring_done *done)
{
    for (unsigned i = 0; i < 2000; i++) {
        if (ring_take(r, q, done))
            return true;
        loop_wait(&r->loop, 1);
    }
    return false;
}

static inline void ring_turn(struct ring *r)
{
    for (unsigned i = 0; i < 4; i++)
        loop_wait(&r->loop, 0);
}

#endif
