/*
 * fuzz_net.c - a network card whose driver is the input: it writes rings, descriptors and frames
 * anywhere in its memory, kicks, resets, and is sent frames; and what it sends goes through
 * everything that looks into frames on the way to libslirp.
 *
 * Nothing may crash or hang; chains must not be lost or handed back twice.
 */
#include <stdlib.h>
#include <string.h>

#include "../test/dev/virtio_net_rig.h"
#include "net/net_filter.h"
#include "net/net_merge.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz {
    struct card c;
    struct net_filter filter;
    struct net_merge merge;
    const u8 *in, *end;
    u8 frame[NET_FRAME_MAX];
};

static u64 take(struct fuzz *f, unsigned n)
{
    u64 v = 0;
    for (unsigned i = 0; i < n && f->in < f->end; i++)
        v |= (u64)*f->in++ << (8 * i);
    return v;
}

/* Mostly small lengths, and the ones at the edge. */
static u32 pick_len(struct fuzz *f)
{
    static const u32 edge[] = {0, 1, 11, 12, 13, 26, 66, 1526, 4096, 65535, 65562, 65566, ~0u};
    u8 v = (u8)take(f, 1);
    return v < ARRAY_SIZE(edge) ? edge[v] : v;
}

static u64 pick_gpa(struct fuzz *f)
{
    u8 v = (u8)take(f, 1);
    if (v == 0xff)
        return take(f, 8);
    return v < 0xf0 ? DATA_AT + v * 0x1000ull : RAM_SIZE - v + 0xf0;
}

static void add_chain(struct fuzz *f)
{
    struct seg s[4];
    u8 v = (u8)take(f, 1);
    unsigned n = 1 + (v >> 2 & 3);
    for (unsigned i = 0; i < n; i++)
        s[i] = (struct seg){pick_gpa(f), pick_len(f), v >> (4 + i) & 1};
    card_add(&f->c, (v & 3) % 3, s, n);
}

/* Scribbles over a ring, or over a buffer. */
static void scribble(struct fuzz *f)
{
    u8 v = (u8)take(f, 1);
    static const u16 at[] = {0, 8, 12, 14, AVAIL_OFF, AVAIL_OFF + 2, AVAIL_OFF + 4, USED_OFF + 2};
    u64 gpa =
        v & 0x80 ? DATA_AT + take(f, 2) : queue_at(v & 3) + at[v >> 2 & 7] + (v >> 5 & 3) * 16u;
    u64 val = take(f, 2);
    mem_write(&f->c.mem, gpa, &val, 2);
}

/* A frame with headers that are nearly right: what is in the input lies over a TCP segment. */
static size_t make_frame(struct fuzz *f)
{
    static const u8 base[] = {0x52, 0x50, 0x46, 0,  0,  1, 0x52, 0x55, 10,   0,  2, 2,  8,
                              0,    0x45, 0,    0,  0,  0, 1,    0,    0,    64, 6, 0,  0,
                              10,   0,    2,    15, 10, 0, 2,    3,    0,    53, 0, 53, 0,
                              0,    0,    1,    0,  0,  0, 1,    0x50, 0x10, 1,  0};
    size_t len = take(f, 2) % NET_FRAME_MAX;
    memset(f->frame, 0, len);
    memcpy(f->frame, base, len < sizeof(base) ? len : sizeof(base));
    f->frame[16] = (u8)((len - 14) >> 8);
    f->frame[17] = (u8)(len - 14);
    for (unsigned n = (unsigned)take(f, 1) & 15; n; n--) {
        u8 at = (u8)take(f, 1);
        f->frame[at] = (u8)take(f, 1);
    }
    return len;
}

static struct net_offload pick_offload(struct fuzz *f)
{
    u8 v = (u8)take(f, 1);
    static const u8 gso[] = {0, 1, 4, 0xff};
    struct net_offload o = {.flags = v & 3, .gso = gso[v >> 2 & 3]};
    o.gso_size = (u16)take(f, 2);
    o.csum_start = v & 0x10 ? 34 : (u16)take(f, 2);
    o.csum_offset = v & 0x10 ? 16 : (u16)take(f, 2);
    return o;
}

static void from_backend(struct fuzz *f)
{
    size_t len = make_frame(f);
    struct net_offload o = pick_offload(f);
    card_receive(&f->c, f->frame, len, &o);
}

/* What net_user.c does with frames, without libslirp. */
static void look_into(struct fuzz *f)
{
    size_t len = make_frame(f);
    u8 *exact = malloc(len ? len : 1);
    memcpy(exact, f->frame, len);
    net_filter_in(&f->filter, exact, len);
    if (!net_merge_add(&f->merge, exact, len)) {
        net_merge_flush(&f->merge, &f->c.net);
        net_merge_add(&f->merge, exact, len);
    }
    if (!net_filter_out(&f->filter, exact, len))
        net_filter_refuse(exact, len);
    free(exact);
}

static void start(struct fuzz *f)
{
    card_start(&f->c, take(f, 4) & f->c.nic.v.offered);
}

static void check(struct fuzz *f)
{
    const struct virtio_dev *d = &f->c.nic.v;
    for (unsigned q = 0; q < 3; q++)
        assert(d->q[q].inflight <= d->q[q].num);
    assert(f->c.nic.rx.queued <= 4 * MiB);
    /* Chains that the device holds: one that waits to be sent. */
    if (!d->broken)
        assert(!d->q[0].inflight && !d->q[2].inflight && d->q[1].inflight == f->c.nic.tx_wait);
}

static void step(struct fuzz *f)
{
    u8 op = (u8)take(f, 1);
    switch (op & 15) {
    case 0 ... 3:
        add_chain(f);
        break;
    case 4 ... 6:
        card_kick(&f->c, (op >> 4) % 4);
        break;
    case 7 ... 8:
        scribble(f);
        break;
    case 9 ... 10:
        from_backend(f);
        break;
    case 11 ... 12:
        look_into(f);
        break;
    case 13:
        f->c.full = op & 0x10;
        net_room(&f->c.net);
        net_set_link(&f->c.net, op & 0x20 || op & 0x40);
        break;
    case 14:
        f->c.net.caps = op >> 4 & 7;
        virtio_config_read(&f->c.nic.v, op >> 4, 1u << (op >> 6));
        virtio_config_write(&f->c.nic.v, op >> 4, 1u << (op >> 6), op);
        break;
    default:
        start(f);
        break;
    }
    card_forget(&f->c);
    check(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz *f = calloc(1, sizeof(*f));
    if (!f)
        return 0;
    f->in = data;
    f->end = data + size;
    struct net_config cfg = NET_CONFIG_INIT;
    net_config_allow(&cfg, "a.b:53", NULL);
    net_config_forward(&cfg, "5353:53/udp", NULL);
    net_filter_init(&f->filter, &cfg);
    card_init(&f->c, NET_CAN_CSUM, 1500);
    start(f);
    while (f->in < f->end)
        step(f);
    card_free(&f->c);
    free(f);
    return 0;
}
