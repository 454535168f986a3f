/*
 * virtio_vsock.h - stream sockets between the guest and programs of the host.
 *
 * Source: virtio 1.2, 5.10. The host's end are unix sockets, in the way that Firecracker has made
 * common:
 *   - a guest that connects to CID 2, port P, is connected to the socket PATH_P, if somebody
 *     listens there;
 *   - a program of the host that wants port P of the guest connects to PATH, sends "CONNECT P\n",
 *     and gets "OK N\n" (N: the port that the guest sees) when the guest has accepted. If nobody
 *     listens there the connection is closed.
 *
 * Everything runs under the device lock; nothing blocks. How much is buffered for a connection is
 * bounded by the credit that it was given.
 */
#ifndef POPF_VIRTIO_VSOCK_H
#define POPF_VIRTIO_VSOCK_H

#include "base/loop.h"
#include "dev/virtio.h"

#define VIRTIO_VSOCK_F_STREAM BIT(0)

/* 5.10.2: queues. */
#define VIRTIO_VSOCK_RX    0
#define VIRTIO_VSOCK_TX    1
#define VIRTIO_VSOCK_EVENT 2

#define VIRTIO_VSOCK_QUEUE     256
#define VIRTIO_VSOCK_HOST      2 /* its CID */
#define VIRTIO_VSOCK_CONNS_MAX 1024
#define VIRTIO_VSOCK_BUCKETS   256
#define VIRTIO_VSOCK_RESETS    128
#define VIRTIO_VSOCK_PATH_MAX  96 /* leaves room for "_PORT" in a socket's address */

struct virtio_vsock_config {
    const char *path; /* of the socket that is made */
    u64 cid;          /* the guest's: 3 to 0xfffffffe */
    struct loop *loop;
    struct mem *mem;
    const struct log *log;
};

struct virtio_vsock_conn;

/* A refusal to send, for what is no connection. */
struct virtio_vsock_reset {
    u32 guest_port, host_port;
    u16 type;
};

struct virtio_vsock {
    struct virtio_dev v;
    struct loop *loop;
    struct loop_post post;
    u64 cid;
    u8 config[8];
    char path[VIRTIO_VSOCK_PATH_MAX + 1];
    int listener; /* -1: none */
    struct loop_fd listening;
    bool deaf;     /* it is not waited for: descriptors are short */
    u32 next_port; /* for connections that the host makes */

    /* By their ports; those that have none yet are in the last. */
    struct virtio_vsock_conn *bucket[VIRTIO_VSOCK_BUCKETS + 1];
    unsigned nconns;
    struct virtio_vsock_conn *first, **last; /* those with something to send, in turn */

    struct virtio_vsock_reset reset[VIRTIO_VSOCK_RESETS];
    unsigned reset_head, nresets;
    bool tell_reset; /* the event VIRTIO_VSOCK_EVENT_TRANSPORT_RESET is due */
};

/* Makes the socket; a file there that nobody listens at is replaced. On failure nothing is left. */
int virtio_vsock_init(struct virtio_vsock *vs, const struct virtio_vsock_config *cfg,
                      struct err *e);

/* Closes all connections and removes the socket. Device lock held. */
void virtio_vsock_free(struct virtio_vsock *vs);

/* Connections are not saved: a guest that is restored is told that they are gone (5.10.6.8). */
void virtio_vsock_state(struct virtio_vsock *vs, struct state *s);

#endif
