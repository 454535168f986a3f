/*
 * rig.h - a loop, a clock, and a device at the end of a cable that keeps what it gets.
 */
#ifndef POPF_TEST_NET_RIG_H
#define POPF_TEST_NET_RIG_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "net/net.h"

#define KEPT 64

struct kept {
    u8 *frame;
    size_t len;
    struct net_offload o;
};

struct rig {
    struct clock clock; /* first: rig_now() casts */
    pthread_mutex_t lock;
    struct loop loop;
    struct net_config cfg;
    struct net *net;
    struct kept got[KEPT];
    unsigned ngot;
    bool full; /* what receive() tells */
    unsigned rooms, links, flushes;
    bool up;
};

static inline u64 rig_now(struct clock *c)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * NSEC_PER_SEC + (u64)t.tv_nsec;
}

static inline bool rig_receive(void *arg, const u8 *frame, size_t len, const struct net_offload *o)
{
    struct rig *r = arg;
    if (r->ngot == KEPT)
        return false;
    struct kept *k = &r->got[r->ngot++];
    k->frame = malloc(len);
    memcpy(k->frame, frame, len);
    k->len = len;
    k->o = *o;
    return !r->full;
}

static inline void rig_flush(void *arg)
{
    ((struct rig *)arg)->flushes++;
}

static inline void rig_room(void *arg)
{
    ((struct rig *)arg)->rooms++;
}

static inline void rig_link(void *arg, bool up)
{
    struct rig *r = arg;
    r->links++;
    r->up = up;
}

static const struct net_peer_ops rig_peer = {
    .receive = rig_receive, .flush = rig_flush, .room = rig_room, .link = rig_link};

static inline void rig_init(struct rig *r)
{
    *r = (struct rig){.clock = {.now = rig_now}, .cfg = NET_CONFIG_INIT};
    pthread_mutex_init(&r->lock, NULL);
    assert_int_equal(loop_init(&r->loop, &r->lock, NULL), 0);
}

/* Opens what r->cfg says. */
static inline void rig_open(struct rig *r)
{
    struct err e = {""};
    r->net = net_open(&r->cfg, &r->loop, &r->clock, NULL, &e);
    if (!r->net)
        fail_msg("%s", e.msg);
    net_attach(r->net, &rig_peer, r);
    net_peer_can(r->net, NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6);
    r->up = r->net->link;
}

static inline void rig_forget(struct rig *r)
{
    while (r->ngot)
        free(r->got[--r->ngot].frame);
}

static inline void rig_free(struct rig *r)
{
    net_close(r->net);
    rig_forget(r);
    loop_free(&r->loop);
    pthread_mutex_destroy(&r->lock);
}

/* Turns the loop once. */
static inline void rig_turn(struct rig *r, int ms)
{
    loop_wait(&r->loop, ms);
    pthread_mutex_lock(&r->lock);
    clock_run(&r->clock);
    pthread_mutex_unlock(&r->lock);
}

/* Turns it until a frame has come that `is` likes, and returns it; fails after two seconds. */
static inline struct kept *rig_wait(struct rig *r, bool (*is)(const u8 *frame, size_t len))
{
    u64 end = rig_now(NULL) + 2 * NSEC_PER_SEC;
    for (unsigned next = 0; rig_now(NULL) < end;) {
        for (; next < r->ngot; next++)
            if (is(r->got[next].frame, r->got[next].len))
                return &r->got[next];
        rig_turn(r, 5);
    }
    fail_msg("no such frame has come");
    return NULL;
}

#endif
