/*
 * net.h - the far side of a network card's cable: Ethernet frames go in, Ethernet frames come out.
 *
 * A backend (struct net) is user-mode networking, a tap device, or a socket to another machine. One
 * device sits at its end and gives a struct net_peer_ops. Everything runs on the machine's I/O
 * thread with the device lock held; nothing here blocks.
 *
 * Back-pressure, both ways:
 *   net_send() returns -1: the backend is full. The device keeps the frame and sends nothing until
 *   its room() is called.
 *   peer->receive() returns false: the frame was taken, but the device is full. The backend reads
 *   nothing more from its own side until net_resume().
 *
 * Offloads. A frame may lack its TCP or UDP checksum, and may be a TCP segment larger than the link
 * allows, which is cut up later, or never: then it travels with a struct net_offload that says so.
 * Either side tells what it takes; what the other cannot take is made complete on the way, here.
 */
#ifndef POPF_NET_H
#define POPF_NET_H

#include "base/base.h"
#include "base/clock.h"
#include "base/loop.h"

/* An IP packet of 64 KiB, and its Ethernet header with a VLAN tag. */
#define NET_FRAME_MAX (65535 + 18)
#define NET_ETH_HLEN  14u
#define NET_MTU_MIN   68u /* RFC 791 */
#define NET_MTU       1500u
#define NET_MTU_MAX   65520u

/*
 * What a frame lacks, or what is known of it. Its bytes are those of struct virtio_net_hdr without
 * num_buffers (virtio 1.2, 5.1.6), which is also what tap devices speak.
 */
struct net_offload {
    u8 flags;        /* NET_NEEDS_CSUM, NET_CSUM_VALID */
    u8 gso;          /* NET_GSO_x */
    u16 hdr_len;     /* a hint only */
    u16 gso_size;    /* bytes of TCP payload in each segment */
    u16 csum_start;  /* offsets in the frame: what is summed goes from here to its end ... */
    u16 csum_offset; /* ... and the sum is stored so far behind csum_start */
};
static_assert(sizeof(struct net_offload) == 10, "the layout is virtio's and tap's");

#define NET_NEEDS_CSUM 1 /* the field holds the pseudo-header's sum only */
#define NET_CSUM_VALID 2 /* the sum has been verified, or nobody can have spoilt it */
#define NET_GSO_NONE   0
#define NET_GSO_TCPV4  1
#define NET_GSO_TCPV6  4

/* What a backend, or a peer, takes. */
#define NET_CAN_CSUM 1u /* frames with NET_NEEDS_CSUM; the others imply it */
#define NET_CAN_TSO4 2u
#define NET_CAN_TSO6 4u

struct net;
struct net_pcap;

struct net_ops {
    /* The frame (14 to NET_FRAME_MAX bytes) is the caller's; its bytes may be changed. 0: taken, or
     * lost as networks lose things; -1: full, come back after room(). */
    int (*send)(struct net *n, u8 *frame, size_t len, const struct net_offload *o);
    void (*flush)(struct net *n);    /* a batch of send() is over. May be NULL */
    void (*resume)(struct net *n);   /* the peer takes frames again */
    void (*peer_can)(struct net *n); /* n->peer_caps has changed. May be NULL */
    void (*free)(struct net *n);
};

struct net_peer_ops {
    /* Takes a frame, or drops it. False: send no more until net_resume(). */
    bool (*receive)(void *arg, const u8 *frame, size_t len, const struct net_offload *o);
    void (*flush)(void *arg); /* a batch of receive() is over */
    void (*room)(void *arg);  /* net_send() is worth another try */
    void (*link)(void *arg, bool up);
};

/* Embedded in each backend. */
struct net {
    const struct net_ops *ops;
    const struct log *log;
    u32 caps;       /* NET_CAN_x of the backend */
    unsigned mtu;   /* of the link */
    size_t len_max; /* of a frame that the backend takes, GSO or not */
    bool link;      /* is the cable plugged in? */

    const struct net_peer_ops *peer; /* NULL: none yet */
    void *peer_arg;
    u32 peer_caps;
    bool peer_full; /* receive() has returned false */

    bool again;            /* the backend was full: the same frame comes again */
    struct net_pcap *pcap; /* NULL: nothing is recorded */
    u8 *scratch;           /* NET_FRAME_MAX bytes, for segments */
};

/* --- for the device --- */

/* The device at the end of the cable, or NULL for none. */
void net_attach(struct net *n, const struct net_peer_ops *peer, void *arg);

/* What receive() takes from now on: NET_CAN_x. */
void net_peer_can(struct net *n, u32 caps);

/*
 * Sends a frame; o may be NULL. `frame` is the caller's, and its bytes may change. The offload
 * record is not trusted: one that makes no sense loses the frame. -1: full (see above).
 */
int net_send(struct net *n, u8 *frame, size_t len, const struct net_offload *o);

/* Ends a batch of net_send(). */
void net_flush(struct net *n);

/* The device takes frames again. */
void net_resume(struct net *n);

/* --- for backends --- */

int net_init(struct net *n, const struct net_ops *ops, const struct log *log, struct err *e);
void net_uninit(struct net *n);

/* Hands a frame to the device; o may be NULL, and is not trusted. False: no more until resume(). */
bool net_receive(struct net *n, const u8 *frame, size_t len, const struct net_offload *o);
void net_receive_flush(struct net *n);
void net_room(struct net *n);
void net_set_link(struct net *n, bool up);

/* --- making one --- */

enum net_kind { NET_NONE, NET_USER, NET_TAP, NET_SOCKET };

#define NET_FORWARDS_MAX 64
#define NET_ALLOW_MAX    64
#define NET_NAME_MAX     108 /* a socket's path, with its zero */
#define NET_HOST_MAX     254 /* a DNS name, with its zero */

/* -p: connections to a port of the host lead to a port of the guest. */
struct net_forward {
    u32 addr; /* IPv4 to listen on, network order */
    u16 host, guest;
    bool udp;
};

/* --allow: where a restricted guest may go. */
struct net_allow {
    char host[NET_HOST_MAX]; /* a name, lower case, or "" */
    bool v6;
    u8 addr[16]; /* if there is no name; IPv4 is in the first four bytes. Network order */
    u16 port;
};

#define NET_CONFIG_INIT                                                                            \
    {                                                                                              \
        .kind = NET_USER                                                                           \
    }

struct net_config {
    enum net_kind kind;
    char name[NET_NAME_MAX]; /* of the tap device; path of the socket */
    bool restricted;         /* user only: no way out but to `allow` */
    bool has_mac;
    u8 mac[6];    /* net_open() chooses one if there is none */
    unsigned mtu; /* 0: the backend's own */
    unsigned nforward, nallow;
    struct net_forward forward[NET_FORWARDS_MAX];
    struct net_allow allow[NET_ALLOW_MAX];
    const char *pcap; /* a file to record everything in, or NULL */
};

/* "user|none|tap:NAME|socket:PATH", then any of ",restrict", ",mac=aa:bb:cc:dd:ee:ff", ",mtu=N". */
int net_config_parse(struct net_config *c, const char *spec, struct err *e);

/* Adds "[ADDR:]HOST:GUEST[/tcp|/udp]"; ADDR is an IPv4 address and 127.0.0.1 if there is none. */
int net_config_forward(struct net_config *c, const char *spec, struct err *e);

/* Adds "HOST:PORT": a name, an IPv4 address, or an IPv6 address in brackets. "localhost" and
 * 127.0.0.1 are the host itself, which the guest knows as 10.0.2.2. */
int net_config_allow(struct net_config *c, const char *spec, struct err *e);

/*
 * Opens what *c says, and sets c->mac if it has none. c->kind is not NET_NONE. NULL: no such
 * device, no permission, a port that is taken ... Close it when its device is gone; lock held.
 */
struct net *net_open(struct net_config *c, struct loop *loop, struct clock *clock,
                     const struct log *log, struct err *e);
void net_close(struct net *n);

/* The backends. */
struct net *net_user_open(const struct net_config *c, struct loop *loop, struct clock *clock,
                          const struct log *log, struct err *e);
struct net *net_tap_open(const struct net_config *c, struct loop *loop, const struct log *log,
                         struct err *e);
struct net *net_socket_open(const struct net_config *c, struct loop *loop, struct clock *clock,
                            const struct log *log, struct err *e);

#endif
