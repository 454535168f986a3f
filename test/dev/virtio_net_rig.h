/*
 * virtio_net_rig.h - a network card, a driver that writes its rings by hand, and a backend that
 * keeps what it is sent.
 */
#ifndef POPF_TEST_VIRTIO_NET_RIG_H
#define POPF_TEST_VIRTIO_NET_RIG_H

#include <stdlib.h>
#include <string.h>

#include "dev/virtio_net.h"

#define RAM_SIZE  (4 * MiB)
#define QUEUE_AT  0x10000ull /* of queue q: descriptors, available ring, used ring */
#define AVAIL_OFF 0x2000u
#define USED_OFF  0x4000u
#define DATA_AT   0x100000ull /* buffers */
#define SENT_MAX  16

struct seg {
    u64 gpa;
    u32 len;
    bool write;
};

struct card {
    pthread_mutex_t lock;
    struct loop loop;
    struct mem mem;
    struct net net;
    struct virtio_net nic;
    u16 avail[3], used[3], desc[3]; /* the driver's own indices */
    unsigned interrupts[4];         /* [3]: configuration */
    bool full;                      /* the backend refuses */
    unsigned nsent, resumes;
    size_t sent_len[SENT_MAX];
    struct net_offload sent_o[SENT_MAX];
    u8 *sent[SENT_MAX];
};

static inline int card_send(struct net *n, u8 *frame, size_t len, const struct net_offload *o)
{
    struct card *c = container_of(n, struct card, net);
    if (c->full)
        return -1;
    if (c->nsent == SENT_MAX)
        return 0;
    c->sent[c->nsent] = malloc(len);
    memcpy(c->sent[c->nsent], frame, len);
    c->sent_len[c->nsent] = len;
    c->sent_o[c->nsent++] = *o;
    return 0;
}

static inline void card_resume(struct net *n)
{
    container_of(n, struct card, net)->resumes++;
}

static const struct net_ops card_net_ops = {.send = card_send, .resume = card_resume};

static inline void card_interrupt(struct virtio_dev *d, int q)
{
    struct card *c = container_of(d, struct card, nic.v);
    c->interrupts[q < 0 ? 3 : q]++;
}

static inline void card_init(struct card *c, u32 caps, unsigned mtu)
{
    memset(c, 0, sizeof(*c));
    pthread_mutex_init(&c->lock, NULL);
    int bad = loop_init(&c->loop, &c->lock, NULL) || mem_init(&c->mem, NULL) ||
              mem_add_ram(&c->mem, 0, RAM_SIZE, false, NULL) ||
              net_init(&c->net, &card_net_ops, NULL, NULL);
    c->net.caps = caps;
    c->net.mtu = mtu;
    struct virtio_net_config cfg = {
        .net = &c->net, .loop = &c->loop, .mem = &c->mem, .mac = {0x52, 0x50, 0x46, 0, 0, 1}};
    if (bad || virtio_net_init(&c->nic, &cfg, NULL))
        abort();
    c->nic.v.interrupt = card_interrupt;
}

static inline void card_forget(struct card *c)
{
    while (c->nsent)
        free(c->sent[--c->nsent]);
}

static inline void card_free(struct card *c)
{
    virtio_net_free(&c->nic);
    net_uninit(&c->net);
    card_forget(c);
    loop_free(&c->loop);
    mem_free(&c->mem);
    pthread_mutex_destroy(&c->lock);
}

static inline u8 *card_at(struct card *c, u64 gpa)
{
    return mem_ptr(&c->mem, gpa);
}

static inline u64 queue_at(unsigned q)
{
    return QUEUE_AT * (q + 1);
}

/* What a driver does up to DRIVER_OK. */
static inline void card_start(struct card *c, u64 features)
{
    struct virtio_dev *d = &c->nic.v;
    virtio_set_status(d, 0);
    memset(c->avail, 0, sizeof(c->avail));
    memset(c->used, 0, sizeof(c->used));
    memset(c->desc, 0, sizeof(c->desc));
    memset(card_at(c, 0), 0, DATA_AT);
    virtio_set_status(d, 3);
    virtio_set_features(d, features | VIRTIO_F_VERSION_1);
    virtio_set_status(d, 11);
    for (unsigned q = 0; q < 3; q++) {
        d->q[q].num = VIRTIO_NET_QUEUE;
        d->q[q].desc = queue_at(q);
        d->q[q].avail = queue_at(q) + AVAIL_OFF;
        d->q[q].used = queue_at(q) + USED_OFF;
        virtio_enable_queue(d, q);
    }
    virtio_set_status(d, 15);
}

/* Makes a chain available; the device is not told. */
static inline void card_add(struct card *c, unsigned q, const struct seg *s, unsigned n)
{
    u16 head = c->desc[q] % VIRTIO_NET_QUEUE;
    for (unsigned i = 0; i < n; i++) {
        u16 at = c->desc[q]++ % VIRTIO_NET_QUEUE, next = c->desc[q] % VIRTIO_NET_QUEUE;
        u16 flags = (u16)((i + 1 < n ? 1 : 0) | (s[i].write ? 2 : 0));
        u8 *p = card_at(c, queue_at(q) + 16u * at);
        memcpy(p, &s[i].gpa, 8);
        memcpy(p + 8, &s[i].len, 4);
        memcpy(p + 12, &flags, 2);
        memcpy(p + 14, &next, 2);
    }
    u8 *ring = card_at(c, queue_at(q) + AVAIL_OFF);
    memcpy(ring + 4 + 2 * (c->avail[q]++ % VIRTIO_NET_QUEUE), &head, 2);
    memcpy(ring + 2, &c->avail[q], 2);
}

static inline void card_turn(struct card *c)
{
    loop_wait(&c->loop, 0);
}

static inline void card_kick(struct card *c, unsigned q)
{
    pthread_mutex_lock(&c->lock);
    virtio_notify(&c->nic.v, q);
    pthread_mutex_unlock(&c->lock);
    for (unsigned i = 0; i < 4; i++)
        card_turn(c);
}

/* A frame comes from the backend. */
static inline bool card_receive(struct card *c, const u8 *frame, size_t len,
                                const struct net_offload *o)
{
    pthread_mutex_lock(&c->lock);
    bool more = net_receive(&c->net, frame, len, o);
    net_receive_flush(&c->net);
    pthread_mutex_unlock(&c->lock);
    return more;
}

/* How many chains have come back that card_take() has not taken. */
static inline unsigned card_done(struct card *c, unsigned q)
{
    u16 idx;
    memcpy(&idx, card_at(c, queue_at(q) + USED_OFF + 2), 2);
    return (u16)(idx - c->used[q]);
}

struct done {
    u32 id, len;
};

static inline struct done card_take(struct card *c, unsigned q)
{
    struct done d;
    u8 *ring = card_at(c, queue_at(q) + USED_OFF);
    memcpy(&d, ring + 4 + 8 * (c->used[q]++ % VIRTIO_NET_QUEUE), 8);
    return d;
}

#endif
