#include "dev/virtio_vsock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BUF_ALLOC   (256 * KiB) /* the credit of a connection from the guest */
#define PACKET_MAX  (64 * KiB)  /* payload, either way */
#define BATCH       256         /* packets each way before others get their turn */
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

static void pump(struct virtio_vsock *vs);
static void on_socket(void *arg, u32 events);

static struct virtio_vsock *of(struct virtio_dev *d)
{
    return container_of(d, struct virtio_vsock, v);
}

/* --- the table of connections --- */

static struct virtio_vsock_conn **bucket_of(struct virtio_vsock *vs, u32 guest_port, u32 host_port)
{
    return &vs->bucket[(guest_port ^ host_port * 0x9e3779b1u) % VIRTIO_VSOCK_BUCKETS];
}

static struct virtio_vsock_conn **home_of(struct virtio_vsock_conn *c)
{
    if (c->state == CONN_LINE)
        return &c->vs->bucket[VIRTIO_VSOCK_BUCKETS];
    return bucket_of(c->vs, c->guest_port, c->host_port);
}

static struct virtio_vsock_conn *find(struct virtio_vsock *vs, u32 guest_port, u32 host_port)
{
    struct virtio_vsock_conn *c = *bucket_of(vs, guest_port, host_port);
    while (c && (c->guest_port != guest_port || c->host_port != host_port))
        c = c->next;
    return c;
}

static void enter(struct virtio_vsock_conn *c)
{
    struct virtio_vsock_conn **at = home_of(c);
    c->next = *at;
    *at = c;
}

static void leave(struct virtio_vsock_conn *c)
{
    struct virtio_vsock_conn **at = home_of(c);
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
}

static void make_ready(struct virtio_vsock_conn *c)
{
    struct virtio_vsock *vs = c->vs;
    if (c->ready)
        return;
    c->ready = true;
    c->ready_next = NULL;
    *vs->last = c;
    vs->last = &c->ready_next;
}

static struct virtio_vsock_conn *take_ready(struct virtio_vsock *vs)
{
    struct virtio_vsock_conn *c = vs->first;
    if (!c)
        return NULL;
    vs->first = c->ready_next;
    if (!vs->first)
        vs->last = &vs->first;
    c->ready = false;
    return c;
}

static void unready(struct virtio_vsock_conn *c)
{
    struct virtio_vsock_conn **at = &c->vs->first;
    if (!c->ready)
        return;
    while (*at != c)
        at = &(*at)->ready_next;
    *at = c->ready_next;
    if (c->vs->last == &c->ready_next)
        c->vs->last = at;
    c->ready = false;
}

static void close_fd(struct virtio_vsock_conn *c)
{
    if (c->fd < 0)
        return;
    loop_del(&c->wait);
    close(c->fd);
    c->fd = -1;
    c->readable = false;
    free(c->buf);
    c->buf = NULL;
    c->buf_len = 0;
}

static void drop(struct virtio_vsock_conn *c)
{
    close_fd(c);
    unready(c);
    leave(c);
    c->vs->nconns--;
    free(c);
}

/* One that waits only for the guest's last word makes room for a new one. */
static bool make_room(struct virtio_vsock *vs)
{
    if (vs->nconns < VIRTIO_VSOCK_CONNS_MAX)
        return true;
    for (unsigned i = 0; i < VIRTIO_VSOCK_BUCKETS; i++)
        for (struct virtio_vsock_conn *c = vs->bucket[i]; c; c = c->next)
            if (c->state == CONN_CLOSING) {
                drop(c);
                return true;
            }
    return false;
}

/* Takes fd over; NULL, with it closed, if there is no room. The caller enters it. */
static struct virtio_vsock_conn *make(struct virtio_vsock *vs, int fd, enum conn_state state)
{
    struct virtio_vsock_conn *c = make_room(vs) ? calloc(1, sizeof(*c)) : NULL;
    if (!c) {
        close(fd);
        return NULL;
    }
    c->vs = vs;
    c->fd = fd;
    c->state = state;
    vs->nconns++;
    return c;
}

/* --- packets to the guest --- */

static void tell(struct virtio_vsock_conn *c, enum op op)
{
    c->todo |= TODO(op);
    make_ready(c);
}

static void refuse(struct virtio_vsock *vs, u32 guest_port, u32 host_port, u16 type)
{
    assert(vs->nresets < VIRTIO_VSOCK_RESETS); /* take_packets() stops before */
    unsigned at = (vs->reset_head + vs->nresets++) % VIRTIO_VSOCK_RESETS;
    vs->reset[at] = (struct virtio_vsock_reset){guest_port, host_port, type};
}

/* The connection ends here and now. */
static void kill_conn(struct virtio_vsock_conn *c)
{
    close_fd(c);
    if (c->state == CONN_LINE) {
        drop(c);
        return;
    }
    c->state = CONN_DEAD;
    c->todo = 0;
    tell(c, OP_RST);
}

/* 5.10.6.3: bytes that the guest's buffer still has room for. A guest that says it has got more
 * than was sent gets nothing. */
static u32 credit(const struct virtio_vsock_conn *c)
{
    u32 under_way = c->sent - c->peer_fwd;
    return under_way < c->peer_alloc ? c->peer_alloc - under_way : 0;
}

/*
 * What is waited for on the socket. Nothing: it leaves the loop altogether, which would report a
 * hang-up for ever.
 */
static void update_wait(struct virtio_vsock_conn *c)
{
    bool more = c->state == CONN_OPEN && !(c->guest_shut & SHUT_RECEIVE) &&
                !((c->shut_told | c->shut_todo) & SHUT_SEND) && !c->readable;
    u32 events = (more || c->state == CONN_LINE ? EPOLLIN : 0) | (c->buf_len ? EPOLLOUT : 0);
    if (c->fd < 0)
        return;
    if (!events && c->state != CONN_WAIT)
        loop_del(&c->wait);
    else if (c->wait.loop && c->wait.events == events)
        return;
    else if (c->wait.loop)
        loop_mod(&c->wait, events);
    else if (loop_add(c->vs->loop, &c->wait, c->fd, events, on_socket, c))
        kill_conn(c);
}

static void shutdown_guest(struct virtio_vsock_conn *c, u8 flags)
{
    flags &= ~(c->shut_told | c->shut_todo);
    if (!flags)
        return;
    c->shut_todo |= flags;
    tell(c, OP_SHUTDOWN);
}

/* The socket's end was reached, or it is broken. */
static void on_end(struct virtio_vsock_conn *c, bool both)
{
    c->readable = false;
    shutdown_guest(c, both || (c->guest_shut & SHUT_SEND) ? SHUT_BOTH : SHUT_SEND);
}

static bool hung_up(const struct virtio_vsock_conn *c)
{
    char byte;
    return send(c->fd, &byte, 0, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == EPIPE;
}

static struct packet header(const struct virtio_vsock *vs, u32 guest_port, u32 host_port, u16 op)
{
    return (struct packet){.src_cid = VIRTIO_VSOCK_HOST,
                           .dst_cid = vs->cid,
                           .src_port = host_port,
                           .dst_port = guest_port,
                           .type = TYPE_STREAM,
                           .op = op};
}

/* The header goes in front of `len` bytes that are in place; every packet carries our credit. */
static void push_packet(struct virtio_vsock_conn *c, struct virtq_buf *b, enum op op, u32 len,
                        u32 flags)
{
    struct packet p = header(c->vs, c->guest_port, c->host_port, op);
    p.len = len;
    p.flags = flags;
    p.buf_alloc = BUF_ALLOC;
    p.fwd_cnt = c->fwd;
    c->fwd_told = c->fwd;
    c->todo &= ~TODO(OP_CREDIT_UPDATE);
    virtq_write(b, 0, &p, sizeof(p));
    virtq_push(&c->vs->v, VIRTIO_VSOCK_RX, b, sizeof(p) + len);
}

/* The socket's data goes straight into the guest's buffer. False: there was nothing to send. */
static bool push_data(struct virtio_vsock_conn *c, struct virtq_buf *b)
{
    struct iovec v[VIRTQ_SEGS_MAX];
    u32 room = min_u64(min_u64(b->in_len - sizeof(struct packet), credit(c)), PACKET_MAX);
    unsigned n = virtq_slice(b->in, b->nin, sizeof(struct packet), room, v, ARRAY_SIZE(v));
    ssize_t got = readv(c->fd, v, n);
    if (got > 0) {
        c->sent += got;
        push_packet(c, b, OP_RW, got, 0);
        return true;
    }
    c->readable = false;
    if (!got || (errno != EAGAIN && errno != EINTR))
        on_end(c, got < 0 || hung_up(c));
    return false;
}

/* A shutdown of both ends is the socket's last word. */
static void push_shutdown(struct virtio_vsock_conn *c, struct virtq_buf *b)
{
    c->shut_told |= c->shut_todo;
    c->shut_todo = 0;
    push_packet(c, b, OP_SHUTDOWN, 0, c->shut_told);
    if (c->shut_told == SHUT_BOTH) {
        close_fd(c);
        c->state = CONN_CLOSING;
    }
}

/* The first packet of those that are due. */
static bool push_control(struct virtio_vsock_conn *c, struct virtq_buf *b)
{
    static const enum op order[] = {OP_RST, OP_REQUEST, OP_RESPONSE, OP_CREDIT_UPDATE,
                                    OP_CREDIT_REQUEST};
    for (unsigned i = 0; i < ARRAY_SIZE(order); i++) {
        if (!(c->todo & TODO(order[i])))
            continue;
        c->todo &= ~TODO(order[i]);
        push_packet(c, b, order[i], 0, 0);
        return true;
    }
    return false;
}

static bool wants_data(struct virtio_vsock_conn *c)
{
    if (c->state != CONN_OPEN || !c->readable || (c->guest_shut & SHUT_RECEIVE))
        return false;
    if (credit(c))
        return true;
    if (!c->starved)
        c->todo |= TODO(OP_CREDIT_REQUEST);
    c->starved = true;
    return false;
}

/* Sends one packet of c's. False: there was none, and b was not used. */
static bool push_one(struct virtio_vsock_conn *c, struct virtq_buf *b)
{
    bool data = wants_data(c);
    if (push_control(c, b))
        return true;
    if (data && push_data(c, b))
        return true;
    if (!(c->todo & TODO(OP_SHUTDOWN)) || c->readable)
        return false;
    c->todo &= ~TODO(OP_SHUTDOWN);
    push_shutdown(c, b);
    return true;
}

static bool push_reset(struct virtio_vsock *vs, struct virtq_buf *b)
{
    if (!vs->nresets)
        return false;
    const struct virtio_vsock_reset *r = &vs->reset[vs->reset_head];
    struct packet p = header(vs, r->guest_port, r->host_port, OP_RST);
    p.type = r->type;
    vs->reset_head = (vs->reset_head + 1) % VIRTIO_VSOCK_RESETS;
    vs->nresets--;
    virtq_write(b, 0, &p, sizeof(p));
    virtq_push(&vs->v, VIRTIO_VSOCK_RX, b, sizeof(p));
    return true;
}

/* The end is told only after the data before it. */
static bool has_work(struct virtio_vsock_conn *c)
{
    bool data = wants_data(c);
    return data || (c->todo & ~(c->readable ? TODO(OP_SHUTDOWN) : 0));
}

/* After its turn: to the end of the line if it has more, away if that was its end. */
static void after_turn(struct virtio_vsock_conn *c)
{
    if (c->state == CONN_DEAD && !c->todo) {
        drop(c);
        return;
    }
    if (has_work(c))
        make_ready(c);
    update_wait(c);
}

static bool fill(struct virtio_vsock *vs, struct virtq_buf *b)
{
    if (push_reset(vs, b))
        return true;
    for (struct virtio_vsock_conn *c; (c = take_ready(vs));) {
        bool used = push_one(c, b);
        after_turn(c);
        if (used)
            return true;
    }
    return false;
}

/* True: there is more to do than one batch. */
static bool send_packets(struct virtio_vsock *vs)
{
    struct virtq_buf b;
    for (unsigned n = 0; vs->nresets || vs->first; n++) {
        if (n == BATCH)
            return true;
        if (virtq_pop(&vs->v, VIRTIO_VSOCK_RX, &b) <= 0)
            return false;
        if (b.in_len <= sizeof(struct packet)) {
            virtio_broken(&vs->v, "a receive buffer is too small for a packet");
            return false;
        }
        if (!fill(vs, &b))
            virtq_unpop(&vs->v, VIRTIO_VSOCK_RX, &b);
    }
    return false;
}

/* --- to the host's sockets --- */

static void connect_path(struct virtio_vsock *vs, struct sockaddr_un *a, u32 port)
{
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(a->sun_path, sizeof(a->sun_path), "%s_%u", vs->path, port);
}

/* 5.10.6.6: the guest connects. */
static void open_conn(struct virtio_vsock *vs, const struct packet *p)
{
    struct sockaddr_un a;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    connect_path(vs, &a, p->dst_port);
    struct virtio_vsock_conn *c = NULL;
    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)))
        close(fd);
    else if (fd >= 0)
        c = make(vs, fd, CONN_OPEN);
    if (!c) {
        refuse(vs, p->src_port, p->dst_port, p->type);
        return;
    }
    c->guest_port = p->src_port;
    c->host_port = p->dst_port;
    c->peer_alloc = p->buf_alloc;
    c->peer_fwd = p->fwd_cnt;
    enter(c);
    tell(c, OP_RESPONSE);
    update_wait(c);
}

/* The guest has accepted what the host asked for. */
static void accept_conn(struct virtio_vsock_conn *c)
{
    char line[LINE_MAX];
    int n = snprintf(line, sizeof(line), "OK %u\n", c->host_port);
    if (c->state != CONN_WAIT || send(c->fd, line, n, MSG_DONTWAIT | MSG_NOSIGNAL) != n) {
        kill_conn(c);
        return;
    }
    c->state = CONN_OPEN;
    update_wait(c);
}

static ssize_t send_iov(int fd, struct iovec *v, unsigned n)
{
    struct msghdr m = {.msg_iov = v, .msg_iovlen = n};
    ssize_t sent = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : sent;
}

/* Bytes went to the socket: the guest gets them back as credit, in large pieces. */
static void forwarded(struct virtio_vsock_conn *c, u32 n)
{
    c->fwd += n;
    if (c->fwd - c->fwd_told >= BUF_ALLOC / 4)
        tell(c, OP_CREDIT_UPDATE);
}

/* All that the guest has sent is out: its own shutdown may take effect. */
static void settle_shutdown(struct virtio_vsock_conn *c)
{
    if (c->state != CONN_OPEN || c->buf_len)
        return;
    if (c->guest_shut == SHUT_BOTH)
        kill_conn(c); /* 5.10.6.5: RST confirms it */
    else if (c->guest_shut & SHUT_SEND)
        shutdown(c->fd, SHUT_WR);
}

/* The host reads no more: what the guest has sent has nowhere to go. */
static void on_broken(struct virtio_vsock_conn *c)
{
    forwarded(c, c->buf_len);
    c->buf_len = 0;
    shutdown_guest(c, SHUT_RECEIVE);
}

static void flush_buf(struct virtio_vsock_conn *c)
{
    struct iovec v = {c->buf + c->buf_head, c->buf_len};
    if (!c->buf_len)
        return;
    ssize_t n = send_iov(c->fd, &v, 1);
    if (n < 0) {
        on_broken(c);
    } else {
        c->buf_head += n;
        c->buf_len -= n;
        forwarded(c, n);
    }
    settle_shutdown(c);
}

/* Keeps bytes [off, off+len) of the packet, which its credit covers. */
static bool keep(struct virtio_vsock_conn *c, const struct virtq_buf *b, size_t off, u32 len)
{
    if (!c->buf)
        c->buf = malloc(BUF_ALLOC);
    if (!c->buf || len > BUF_ALLOC - c->buf_len)
        return false;
    if (c->buf_head + c->buf_len + len > BUF_ALLOC) {
        memmove(c->buf, c->buf + c->buf_head, c->buf_len);
        c->buf_head = 0;
    }
    virtq_read(b, off, c->buf + c->buf_head + c->buf_len, len);
    c->buf_len += len;
    return true;
}

static void take_data(struct virtio_vsock_conn *c, const struct virtq_buf *b, u32 len)
{
    struct iovec v[VIRTQ_SEGS_MAX];
    size_t off = sizeof(struct packet);
    if (c->state == CONN_CLOSING || c->state == CONN_DEAD)
        return; /* it was on its way when the end was told */
    if (c->state != CONN_OPEN || (c->guest_shut & SHUT_SEND)) {
        kill_conn(c);
        return;
    }
    ssize_t n = 0;
    if (!c->buf_len)
        n = send_iov(c->fd, v, virtq_slice(b->out, b->nout, off, len, v, ARRAY_SIZE(v)));
    if (n < 0) {
        forwarded(c, len);
        shutdown_guest(c, SHUT_RECEIVE);
        return;
    }
    forwarded(c, n);
    if ((u32)n < len && !keep(c, b, off + n, len - n))
        kill_conn(c); /* more than its credit */
    update_wait(c);
}

static void take_shutdown(struct virtio_vsock_conn *c, u32 flags)
{
    if (c->state != CONN_OPEN) {
        kill_conn(c);
        return;
    }
    c->guest_shut |= flags & SHUT_BOTH;
    if (c->guest_shut & SHUT_RECEIVE)
        c->readable = false;
    settle_shutdown(c);
    update_wait(c);
}

static void take_credit(struct virtio_vsock_conn *c, const struct packet *p)
{
    c->peer_alloc = p->buf_alloc;
    c->peer_fwd = p->fwd_cnt;
    if (credit(c))
        c->starved = false;
    if (c->readable)
        make_ready(c);
}

/* A packet for a connection that there is. */
static void take_known(struct virtio_vsock_conn *c, const struct packet *p,
                       const struct virtq_buf *b)
{
    if (c->state == CONN_DEAD)
        return;
    take_credit(c, p);
    switch (p->op) {
    case OP_RESPONSE:
        accept_conn(c);
        break;
    case OP_RST:
        drop(c);
        break;
    case OP_SHUTDOWN:
        take_shutdown(c, p->flags);
        break;
    case OP_RW:
        take_data(c, b, p->len);
        break;
    case OP_CREDIT_UPDATE:
        break;
    case OP_CREDIT_REQUEST:
        tell(c, OP_CREDIT_UPDATE);
        break;
    default:
        kill_conn(c);
    }
}

static void take_packet(struct virtio_vsock *vs, const struct virtq_buf *b)
{
    struct packet p;
    if (virtq_read(b, 0, &p, sizeof(p)) < sizeof(p) || p.len > b->out_len - sizeof(p) ||
        p.len > PACKET_MAX || p.src_cid != vs->cid || p.dst_cid != VIRTIO_VSOCK_HOST)
        return;
    struct virtio_vsock_conn *c = p.type == TYPE_STREAM ? find(vs, p.src_port, p.dst_port) : NULL;
    if (c)
        take_known(c, &p, b);
    else if (p.type == TYPE_STREAM && p.op == OP_REQUEST)
        open_conn(vs, &p);
    else if (p.op != OP_RST)
        refuse(vs, p.src_port, p.dst_port, p.type);
}

/* 5.10.6.4: stops where refusals could not be kept; they go when the guest gives buffers. True:
 * there is more to do than one batch. */
static bool take_packets(struct virtio_vsock *vs)
{
    struct virtq_buf b;
    for (unsigned n = 0; vs->nresets < VIRTIO_VSOCK_RESETS; n++) {
        if (n == BATCH)
            return true;
        if (virtq_pop(&vs->v, VIRTIO_VSOCK_TX, &b) <= 0)
            return false;
        take_packet(vs, &b);
        virtq_push(&vs->v, VIRTIO_VSOCK_TX, &b, 0);
    }
    return false;
}

/* --- both ways --- */

static void send_event(struct virtio_vsock *vs)
{
    static const u32 transport_reset = 0;
    struct virtq_buf b;
    if (!vs->tell_reset || virtq_pop(&vs->v, VIRTIO_VSOCK_EVENT, &b) <= 0)
        return;
    vs->tell_reset = false;
    u32 n = virtq_write(&b, 0, &transport_reset, sizeof(transport_reset));
    virtq_push(&vs->v, VIRTIO_VSOCK_EVENT, &b, n);
    virtq_signal(&vs->v, VIRTIO_VSOCK_EVENT);
}

/* The host was short of descriptors: tries again to accept connections. */
static void hear(struct virtio_vsock *vs)
{
    vs->deaf = false;
    loop_mod(&vs->listening, EPOLLIN);
}

static void go_on(void *arg)
{
    pump(arg);
}

static void pump(struct virtio_vsock *vs)
{
    if (!virtio_ready(&vs->v))
        return;
    bool more = take_packets(vs);
    more |= send_packets(vs);
    /* It may have stopped taking for want of room that there is now. */
    more |= vs->nresets < VIRTIO_VSOCK_RESETS && virtq_pending(&vs->v, VIRTIO_VSOCK_TX);
    virtq_signal(&vs->v, VIRTIO_VSOCK_TX);
    virtq_signal(&vs->v, VIRTIO_VSOCK_RX);
    send_event(vs);
    if (vs->deaf)
        hear(vs);
    if (more)
        loop_post(vs->loop, &vs->post, go_on, vs);
}

static void notify(struct virtio_dev *d, unsigned q)
{
    pump(of(d));
}

/* --- the host connects --- */

static u32 free_port(struct virtio_vsock *vs, u32 guest_port)
{
    do {
        vs->next_port++;
        if (vs->next_port < FIRST_PORT)
            vs->next_port = FIRST_PORT;
    } while (find(vs, guest_port, vs->next_port));
    return vs->next_port;
}

/* "CONNECT P", without its end. */
static bool parse_line(const char *line, u32 *port)
{
    char *end;
    if (strncmp(line, "CONNECT ", 8) || line[8] < '0' || line[8] > '9')
        return false;
    errno = 0;
    unsigned long v = strtoul(line + 8, &end, 10);
    *port = v;
    return !*end && !errno && v < UINT32_MAX;
}

static void ask_guest(struct virtio_vsock_conn *c, u32 port)
{
    leave(c);
    c->state = CONN_WAIT;
    c->guest_port = port;
    c->host_port = free_port(c->vs, port);
    enter(c);
    tell(c, OP_REQUEST);
    update_wait(c);
}

/* Byte by byte: what follows the line is for the guest. */
static void read_line(struct virtio_vsock_conn *c)
{
    char byte;
    u32 port;
    ssize_t n;
    while ((n = recv(c->fd, &byte, 1, MSG_DONTWAIT)) == 1 && byte != '\n') {
        if (c->line_len == sizeof(c->line) - 1) {
            drop(c);
            return;
        }
        c->line[c->line_len++] = byte;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n == 1 && virtio_ready(&c->vs->v) && parse_line(c->line, &port))
        ask_guest(c, port);
    else
        drop(c);
}

static void on_open_socket(struct virtio_vsock_conn *c, u32 events)
{
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        flush_buf(c);
    if (c->state == CONN_OPEN && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) &&
        !(c->guest_shut & SHUT_RECEIVE)) {
        c->readable = true;
        make_ready(c);
    }
    update_wait(c);
}

static void on_socket(void *arg, u32 events)
{
    struct virtio_vsock_conn *c = arg;
    struct virtio_vsock *vs = c->vs;
    if (c->state == CONN_LINE)
        read_line(c);
    else if (c->state == CONN_OPEN)
        on_open_socket(c, events);
    else if (events & (EPOLLHUP | EPOLLERR)) /* it does not wait for the guest any longer */
        kill_conn(c);
    pump(vs);
}

static void on_listener(void *arg, u32 events)
{
    struct virtio_vsock *vs = arg;
    int fd = accept4(vs->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
        vs->deaf = true; /* it would be told for ever; the next packet of the guest ends that */
        loop_mod(&vs->listening, 0);
    }
    struct virtio_vsock_conn *c = fd < 0 ? NULL : make(vs, fd, CONN_LINE);
    if (!c)
        return;
    enter(c);
    update_wait(c);
}

/* --- life --- */

static void drop_all(struct virtio_vsock *vs)
{
    for (unsigned i = 0; i <= VIRTIO_VSOCK_BUCKETS; i++)
        while (vs->bucket[i])
            drop(vs->bucket[i]);
    vs->nresets = 0;
}

static void reset(struct virtio_dev *d)
{
    drop_all(of(d));
}

static const struct virtio_ops ops = {.notify = notify, .reset = reset};

/* Is it a socket that nobody listens at? A machine that was killed leaves one. */
static bool is_stale(const struct sockaddr_un *a)
{
    struct stat st;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bool stale = fd >= 0 && !lstat(a->sun_path, &st) && S_ISSOCK(st.st_mode) &&
                 connect(fd, (const struct sockaddr *)a, sizeof(*a)) && errno == ECONNREFUSED;
    if (fd >= 0)
        close(fd);
    return stale;
}

/* Only the user himself may connect. */
static int listen_at(struct virtio_vsock *vs, struct err *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path, vs->path, sizeof(vs->path));
    if (is_stale(&a))
        unlink(vs->path);
    vs->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (vs->listener < 0 || bind(vs->listener, (struct sockaddr *)&a, sizeof(a)))
        return err_errno(e, "cannot make the vsock socket %s", vs->path);
    if (!chmod(vs->path, 0600) && !listen(vs->listener, 64) &&
        !loop_add(vs->loop, &vs->listening, vs->listener, EPOLLIN, on_listener, vs))
        return 0;
    err_errno(e, "cannot listen at the vsock socket %s", vs->path);
    unlink(vs->path);
    return -1;
}

int virtio_vsock_init(struct virtio_vsock *vs, const struct virtio_vsock_config *cfg, struct err *e)
{
    *vs = (struct virtio_vsock){.loop = cfg->loop, .cid = cfg->cid, .listener = -1};
    if (strlen(cfg->path) > VIRTIO_VSOCK_PATH_MAX)
        return err_set(e, "the path of a vsock socket has at most %d bytes: %.80s...",
                       VIRTIO_VSOCK_PATH_MAX, cfg->path);
    if (cfg->cid <= VIRTIO_VSOCK_HOST || cfg->cid >= UINT32_MAX)
        return err_set(e, "a guest's vsock address is 3 to 4294967294, not %llu",
                       (unsigned long long)cfg->cid);
    strcpy(vs->path, cfg->path);
    virtio_init(&vs->v, &ops, VIRTIO_VSOCK, VIRTIO_VSOCK_F_STREAM, 3, VIRTIO_VSOCK_QUEUE, cfg->mem);
    vs->v.name = "virtio-vsock";
    vs->v.log = cfg->log;
    memcpy(vs->config, &cfg->cid, sizeof(vs->config));
    vs->v.config = vs->config;
    vs->v.config_size = sizeof(vs->config);
    vs->last = &vs->first;
    vs->next_port = FIRST_PORT;
    if (!listen_at(vs, e))
        return 0;
    if (vs->listener >= 0)
        close(vs->listener);
    return -1;
}

void virtio_vsock_free(struct virtio_vsock *vs)
{
    if (!vs->v.ops || vs->listener < 0)
        return;
    drop_all(vs);
    loop_unpost(vs->loop, &vs->post);
    loop_del(&vs->listening);
    close(vs->listener);
    unlink(vs->path);
    vs->listener = -1;
}

/* --- state --- */

void virtio_vsock_state(struct virtio_vsock *vs, struct state *s)
{
    state_section(s, "virtio-vsock", 1);
    virtio_state(&vs->v, s);
    state_val(s, vs->next_port);
    if (!s->loading)
        return;
    drop_all(vs);
    vs->tell_reset = true;
    loop_post(vs->loop, &vs->post, go_on, vs);
}
