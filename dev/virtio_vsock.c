#include "dev/virtio_vsock.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dev/virtio_vsock_priv.h"

#define BATCH 256 /* packets each way before others get their turn */

static struct virtio_vsock *of(struct virtio_dev *d)
{
    return container_of(d, struct virtio_vsock, v);
}

/* --- packets to the guest --- */

void virtio_vsock_refuse(struct virtio_vsock *vs, u32 guest_port, u32 host_port, u16 type)
{
    assert(vs->nresets < VIRTIO_VSOCK_RESETS); /* take_packets() stops before */
    unsigned at = (vs->reset_head + vs->nresets++) % VIRTIO_VSOCK_RESETS;
    vs->reset[at] = (struct virtio_vsock_reset){guest_port, host_port, type};
}

/* The socket's end was reached, or it is broken. */
static void on_end(struct virtio_vsock_conn *c, bool both)
{
    c->readable = false;
    virtio_vsock_conn_shutdown(c, both || (c->guest_shut & SHUT_SEND) ? SHUT_BOTH : SHUT_SEND);
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
    u32 room = min_u64(min_u64(b->in_len - sizeof(struct packet), virtio_vsock_conn_credit(c)),
                       PACKET_MAX);
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
        virtio_vsock_conn_close(c);
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
    if (virtio_vsock_conn_credit(c))
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
        virtio_vsock_conn_drop(c);
        return;
    }
    if (has_work(c))
        virtio_vsock_conn_ready(c);
    virtio_vsock_conn_wait(c);
}

static bool fill(struct virtio_vsock *vs, struct virtq_buf *b)
{
    if (push_reset(vs, b))
        return true;
    for (struct virtio_vsock_conn *c; (c = virtio_vsock_conn_next(vs));) {
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

/* --- packets from the guest --- */

static void take_credit(struct virtio_vsock_conn *c, const struct packet *p)
{
    c->peer_alloc = p->buf_alloc;
    c->peer_fwd = p->fwd_cnt;
    if (virtio_vsock_conn_credit(c))
        c->starved = false;
    if (c->readable)
        virtio_vsock_conn_ready(c);
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
        virtio_vsock_conn_accept(c);
        break;
    case OP_RST:
        virtio_vsock_conn_drop(c);
        break;
    case OP_SHUTDOWN:
        virtio_vsock_conn_take_shutdown(c, p->flags);
        break;
    case OP_RW:
        virtio_vsock_conn_write(c, b, p->len);
        break;
    case OP_CREDIT_UPDATE:
        break;
    case OP_CREDIT_REQUEST:
        virtio_vsock_conn_tell(c, OP_CREDIT_UPDATE);
        break;
    default:
        virtio_vsock_conn_kill(c);
    }
}

static void take_packet(struct virtio_vsock *vs, const struct virtq_buf *b)
{
    struct packet p;
    if (virtq_read(b, 0, &p, sizeof(p)) < sizeof(p) || p.len > b->out_len - sizeof(p) ||
        p.len > PACKET_MAX || p.src_cid != vs->cid || p.dst_cid != VIRTIO_VSOCK_HOST)
        return;
    struct virtio_vsock_conn *c =
        p.type == TYPE_STREAM ? virtio_vsock_conn_find(vs, p.src_port, p.dst_port) : NULL;
    if (c)
        take_known(c, &p, b);
    else if (p.type == TYPE_STREAM && p.op == OP_REQUEST)
        virtio_vsock_conn_open(vs, &p);
    else if (p.op != OP_RST)
        virtio_vsock_refuse(vs, p.src_port, p.dst_port, p.type);
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

static void go_on(void *arg)
{
    virtio_vsock_pump(arg);
}

void virtio_vsock_pump(struct virtio_vsock *vs)
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
        virtio_vsock_conn_hear(vs);
    if (more)
        loop_post(vs->loop, &vs->post, go_on, vs);
}

static void notify(struct virtio_dev *d, unsigned q)
{
    virtio_vsock_pump(of(d));
}

/* --- life --- */

static void reset(struct virtio_dev *d)
{
    virtio_vsock_conn_drop_all(of(d));
}

static const struct virtio_ops ops = {.notify = notify, .reset = reset};

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
    if (!virtio_vsock_conn_listen(vs, e))
        return 0;
    if (vs->listener >= 0)
        close(vs->listener);
    return -1;
}

void virtio_vsock_free(struct virtio_vsock *vs)
{
    if (!vs->v.ops || vs->listener < 0)
        return;
    virtio_vsock_conn_drop_all(vs);
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
    virtio_vsock_conn_drop_all(vs);
    vs->tell_reset = true;
    loop_post(vs->loop, &vs->post, go_on, vs);
}
