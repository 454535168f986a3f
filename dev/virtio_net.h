/*
 * virtio_net.h - a network card.
 *
 * Source: virtio 1.2, 5.1. One pair of queues and the control queue. All work is done on the
 * machine's I/O thread; a kick only posts it.
 */
#ifndef POPF_VIRTIO_NET_H
#define POPF_VIRTIO_NET_H

#include "base/loop.h"
#include "dev/virtio.h"
#include "net/net.h"

/* 5.1.3: features. */
#define VIRTIO_NET_F_CSUM                BIT(0)
#define VIRTIO_NET_F_GUEST_CSUM          BIT(1)
#define VIRTIO_NET_F_CTRL_GUEST_OFFLOADS BIT(2)
#define VIRTIO_NET_F_MTU                 BIT(3)
#define VIRTIO_NET_F_MAC                 BIT(5)
#define VIRTIO_NET_F_GUEST_TSO4          BIT(7)
#define VIRTIO_NET_F_GUEST_TSO6          BIT(8)
#define VIRTIO_NET_F_GUEST_ECN           BIT(9)
#define VIRTIO_NET_F_HOST_TSO4           BIT(11)
#define VIRTIO_NET_F_HOST_TSO6           BIT(12)
#define VIRTIO_NET_F_HOST_ECN            BIT(13)
#define VIRTIO_NET_F_MRG_RXBUF           BIT(15)
#define VIRTIO_NET_F_STATUS              BIT(16)
#define VIRTIO_NET_F_CTRL_VQ             BIT(17)
#define VIRTIO_NET_F_CTRL_RX             BIT(18)
#define VIRTIO_NET_F_CTRL_RX_EXTRA       BIT(20)
#define VIRTIO_NET_F_CTRL_MAC_ADDR       BIT(23)
#define VIRTIO_NET_F_SPEED_DUPLEX        BIT(63)

/* 5.1.2: queues. */
#define VIRTIO_NET_RX   0
#define VIRTIO_NET_TX   1
#define VIRTIO_NET_CTRL 2

#define VIRTIO_NET_QUEUE    256
#define VIRTIO_NET_MACS     64 /* that the filter remembers, of each sort */
#define VIRTIO_NET_RX_PARTS 64 /* buffers that one frame may be spread over */

struct virtio_net_config {
    struct net *net;
    struct loop *loop;
    struct mem *mem;
    u8 mac[6];
    const struct log *log;
};

/* 5.1.6.5.1, 5.1.6.5.2: which frames the driver wants. */
struct virtio_net_filter {
    u8 promisc, allmulti, alluni, nomulti, nouni, nobcast;
    u8 uni_overflow, multi_overflow; /* more addresses than are remembered: take all */
    u16 nuni, nmulti;
    u8 uni[VIRTIO_NET_MACS][6], multi[VIRTIO_NET_MACS][6];
};

struct virtio_net_frame; /* one that waits for buffers */

struct virtio_net {
    struct virtio_dev v;
    struct net *net;
    struct loop *loop;
    struct loop_post tx_post, rx_post;
    u8 config[20];
    u8 permanent_mac[6], mac[6];
    u64 guest_offloads; /* GUEST_x that are on now */
    struct virtio_net_filter filter;

    bool tx_wait; /* tx.frame waits for the backend's room */
    struct {
        struct virtq_buf b;
        size_t len;
        struct net_offload o;
        u8 *frame; /* NET_FRAME_MAX bytes */
    } tx;

    struct {
        bool signal;           /* something was pushed since the last signal */
        struct virtq_buf *buf; /* [VIRTIO_NET_RX_PARTS] */
        struct virtio_net_frame *first, **last;
        size_t queued; /* bytes */
    } rx;

    u64 tx_frames, rx_frames, rx_dropped; /* for people */
};

/* The net must not have a device yet, and outlives this one. */
int virtio_net_init(struct virtio_net *n, const struct virtio_net_config *c, struct err *e);

/* Lock held. */
void virtio_net_free(struct virtio_net *n);

void virtio_net_state(struct virtio_net *n, struct state *s);

#endif
