/*
 * virtio_vsock_priv.h - what the device (virtio_vsock.c: queues and packets) and its connections
 * (virtio_vsock_conn.c: the host's sockets) share. All of it runs under the device lock.
 */
#ifndef POPF_VIRTIO_VSOCK_PRIV_H
#define POPF_VIRTIO_VSOCK_PRIV_H

#include "dev/virtio_vsock.h"

#define BUF_ALLOC   (256 * KiB) /* the credit of a connection from the guest */
#define PACKET_MAX  (64 * KiB)  /* payload, either way */
#define LINE_MAX    32          /* "CONNECT 4294967295\n" */
#define FIRST_PORT  (1u << 30)
#define TYPE_STREAM 1

/* 5.10.6: operations. */
enum op {
    OP_REQUEST = 1,
    OP_RESPONSE = 2,
    OP_RST = 3,
    OP_SHUTDOWN = 4,
    OP_RW = 5,
    OP_CREDIT_UPDATE = 6,
    OP_CREDIT_REQUEST = 7,
};

/* 5.10.6.5: hints of OP_SHUTDOWN. */
#define SHUT_RECEIVE 1
#define SHUT_SEND    2
#define SHUT_BOTH    3

/* 5.10.6: the header of every packet. x86 is little-endian, as it is. */
struct packet {
    u64 src_cid, dst_cid;
    u32 src_port, dst_port;
    u32 len;
    u16 type, op;
    u32 flags;
    u32 buf_alloc, fwd_cnt;
} __attribute__((packed));
static_assert(sizeof(struct packet) == 44, "5.10.6");

enum conn_state {
    CONN_LINE,    /* from the host: "CONNECT P" has not come yet */
    CONN_WAIT,    /* from the host: the guest has not answered */
    CONN_OPEN,    /* data flows */
    CONN_CLOSING, /* both ends were told to shut down: the guest's RST is to come; no fd */
    CONN_DEAD,    /* goes as soon as the guest has got our RST; no fd */
};

#define TODO(op) (1u << (op))

struct virtio_vsock_conn {
    struct virtio_vsock *vs;
    struct virtio_vsock_conn *next;       /* in a bucket */
    struct virtio_vsock_conn *ready_next; /* among those with something to send */
    bool ready;
    enum conn_state state;
    int fd; /* -1: closed */
    struct loop_fd wait;
    u32 guest_port, host_port;
    u32 todo;                       /* TODO(): packets to send to the guest */
    u8 shut_todo;                   /* of OP_SHUTDOWN */
    u8 shut_told;                   /* what we told the guest */
    u8 guest_shut;                  /* what it told us */
    bool readable;                  /* the socket may have data, or its end */
    bool starved;                   /* the guest was asked for credit */
    u32 peer_alloc, peer_fwd, sent; /* credit for the guest's buffer */
    u32 fwd, fwd_told;              /* and what it may know about ours */
    u8 *buf; /* [BUF_ALLOC]: from the guest, the socket is full. NULL: none */
    u32 buf_head, buf_len;
    char line[LINE_MAX];
    unsigned line_len;
};

/* --- connections (virtio_vsock_conn.c) --- */

struct virtio_vsock_conn *virtio_vsock_conn_find(struct virtio_vsock *vs, u32 guest_port,
                                                 u32 host_port);

/* In line for a turn to send to the guest; and the first in line, or NULL. */
void virtio_vsock_conn_ready(struct virtio_vsock_conn *c);
struct virtio_vsock_conn *virtio_vsock_conn_next(struct virtio_vsock *vs);

/* Closes the socket; frees the connection; frees all, and forgets refusals. */
void virtio_vsock_conn_close(struct virtio_vsock_conn *c);
void virtio_vsock_conn_drop(struct virtio_vsock_conn *c);
void virtio_vsock_conn_drop_all(struct virtio_vsock *vs);

/* The guest is to be sent `op`. */
void virtio_vsock_conn_tell(struct virtio_vsock_conn *c, enum op op);

/* The connection ends here and now: RST. One without ports is freed. */
void virtio_vsock_conn_kill(struct virtio_vsock_conn *c);

/* The guest is to be sent OP_SHUTDOWN with those of `flags` that it has not been told. */
void virtio_vsock_conn_shutdown(struct virtio_vsock_conn *c, u8 flags);

/* 5.10.6.3: bytes that the guest's buffer still has room for. */
u32 virtio_vsock_conn_credit(const struct virtio_vsock_conn *c);

/* Waits for what the socket is needed for from now on. May kill the connection. */
void virtio_vsock_conn_wait(struct virtio_vsock_conn *c);

/* Packets of the guest: OP_REQUEST, OP_RESPONSE, OP_RW with `len` bytes of payload, OP_SHUTDOWN. */
void virtio_vsock_conn_open(struct virtio_vsock *vs, const struct packet *p);
void virtio_vsock_conn_accept(struct virtio_vsock_conn *c);
void virtio_vsock_conn_write(struct virtio_vsock_conn *c, const struct virtq_buf *b, u32 len);
void virtio_vsock_conn_take_shutdown(struct virtio_vsock_conn *c, u32 flags);

/* Makes the socket at which the host connects; what was opened stays if it fails. */
int virtio_vsock_conn_listen(struct virtio_vsock *vs, struct err *e);

/* The host was short of descriptors: tries again to accept connections. */
void virtio_vsock_conn_hear(struct virtio_vsock *vs);

/* --- the device (virtio_vsock.c) --- */

/* RST, for what is no connection. There is room while the guest's packets are taken. */
void virtio_vsock_refuse(struct virtio_vsock *vs, u32 guest_port, u32 host_port, u16 type);

/* Takes and sends what there is. May free any connection. */
void virtio_vsock_pump(struct virtio_vsock *vs);

#endif
