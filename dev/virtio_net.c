#include "dev/virtio_net.h"

#include <stdlib.h>
#include <string.h>

#define TX_BATCH_FRAMES 128         /* sent before others get their turn ... */
#define TX_BATCH_BYTES  (512 * KiB) /* ... or so many bytes */
#define RX_FULL         (256 * KiB) /* waiting for buffers: the backend is to stop */
#define RX_MAX          (4 * MiB)   /* and what comes nevertheless is dropped */

/* 5.1.4: offsets in the device configuration. */
#define CFG_STATUS 6
#define CFG_PAIRS  8
#define CFG_MTU    10
#define CFG_SPEED  12
#define CFG_DUPLEX 16
#define LINK_UP    1
#define SPEED_MBIT 10000
#define FULL       1

/* 5.1.6.5: the control queue. */
#define CTRL_RX             0
#define CTRL_MAC            1
#define CTRL_MAC_TABLE_SET  0
#define CTRL_MAC_ADDR_SET   1
#define CTRL_GUEST_OFFLOADS 5
#define CTRL_OK             0
#define CTRL_ERR            1

#define GUEST_OFFLOADS (VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6)

struct virtio_net_frame {
    struct virtio_net_frame *next;
    struct net_offload o;
    size_t len;
    u8 bytes[];
};

static struct virtio_net *of(struct virtio_dev *d)
{
    return container_of(d, struct virtio_net, v);
}

/* 5.1.6.1: num_buffers is always there in virtio 1, and before that with MRG_RXBUF only. */
static unsigned header_len(const struct virtio_net *n)
{
    bool has_num = virtio_has(&n->v, VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF);
    return sizeof(struct net_offload) + (has_num ? 2 : 0);
}

/* --- transmit --- */

/* Leaves of the header what was negotiated. False: the frame asks for more. */
static bool check_offload(const struct virtio_net *n, struct net_offload *o)
{
    static const u64 feature[] = {
        [NET_GSO_TCPV4] = VIRTIO_NET_F_HOST_TSO4, [NET_GSO_TCPV6] = VIRTIO_NET_F_HOST_TSO6};
    if (o->gso && (o->gso >= ARRAY_SIZE(feature) || !virtio_has(&n->v, feature[o->gso])))
        return false;
    o->flags &= virtio_has(&n->v, VIRTIO_NET_F_CSUM) ? NET_NEEDS_CSUM : 0;
    return true;
}

/* Copies the frame of n->tx.b in. False: it is none. */
static bool read_frame(struct virtio_net *n)
{
    unsigned head = header_len(n);
    const struct virtq_buf *b = &n->tx.b;
    if (b->out_len < head + NET_ETH_HLEN || b->out_len > head + NET_FRAME_MAX)
        return false;
    virtq_read(b, 0, &n->tx.o, sizeof(n->tx.o));
    n->tx.len = b->out_len - head;
    virtq_read(b, head, n->tx.frame, n->tx.len);
    return check_offload(n, &n->tx.o);
}

/* Sends n->tx and hands its chain back. False: the backend is full. */
static bool send_frame(struct virtio_net *n)
{
    n->tx_wait = net_send(n->net, n->tx.frame, n->tx.len, &n->tx.o) < 0;
    if (n->tx_wait)
        return false;
    n->tx_frames++;
    virtq_push(&n->v, VIRTIO_NET_TX, &n->tx.b, 0);
    return true;
}

/* The next chain of the ring. False: there is none, or the backend is full. */
static bool send_next(struct virtio_net *n, size_t *bytes)
{
    if (virtq_pop(&n->v, VIRTIO_NET_TX, &n->tx.b) <= 0)
        return false;
    if (!read_frame(n)) {
        virtq_push(&n->v, VIRTIO_NET_TX, &n->tx.b, 0);
        return true;
    }
    *bytes += n->tx.len;
    return send_frame(n);
}

static void send_some(void *arg)
{
    struct virtio_net *n = arg;
    size_t bytes = 0;
    unsigned frames = 0;
    bool more = virtio_ready(&n->v) && (!n->tx_wait || send_frame(n));
    while (more && frames < TX_BATCH_FRAMES && bytes < TX_BATCH_BYTES) {
        more = send_next(n, &bytes);
        frames++;
    }
    virtq_signal(&n->v, VIRTIO_NET_TX);
    net_flush(n->net);
    if (more)
        loop_post(n->loop, &n->tx_post, send_some, n);
}

static void room(void *arg)
{
    struct virtio_net *n = arg;
    loop_post(n->loop, &n->tx_post, send_some, n);
}

/* --- receive: which frames --- */

static bool in_list(const u8 (*list)[6], unsigned n, const u8 *mac)
{
    for (unsigned i = 0; i < n; i++)
        if (!memcmp(list[i], mac, 6))
            return true;
    return false;
}

static bool wanted(const struct virtio_net *n, const u8 *to)
{
    static const u8 everyone[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    const struct virtio_net_filter *f = &n->filter;
    if (f->promisc)
        return true;
    if (!memcmp(to, everyone, 6))
        return !f->nobcast;
    if (to[0] & 1)
        return !f->nomulti &&
               (f->allmulti || f->multi_overflow || in_list(f->multi, f->nmulti, to));
    return !f->nouni &&
           (f->alluni || f->uni_overflow || !memcmp(n->mac, to, 6) || in_list(f->uni, f->nuni, to));
}

/* --- receive: into the driver's buffers --- */

static void put_back(struct virtio_net *n, unsigned parts)
{
    while (parts--)
        virtq_unpop(&n->v, VIRTIO_NET_RX, &n->rx.buf[parts]);
}

enum delivery { DELIVERED, NO_BUFFERS, LOST };

/*
 * Takes chains for `total` bytes: n->rx.buf[0..*parts). Nothing is written yet, so that chains can
 * be put back when there are too few of them.
 */
static enum delivery take_buffers(struct virtio_net *n, size_t total, unsigned *parts)
{
    bool many = virtio_has(&n->v, VIRTIO_NET_F_MRG_RXBUF);
    size_t room = 0;
    for (unsigned i = 0; room < total; i++) {
        bool stop = i == (many ? VIRTIO_NET_RX_PARTS : 1);
        int got = stop ? -1 : virtq_pop(&n->v, VIRTIO_NET_RX, &n->rx.buf[i]);
        if (got <= 0) {
            put_back(n, i);
            return got ? LOST : NO_BUFFERS;
        }
        room += n->rx.buf[i].in_len;
        *parts = i + 1;
    }
    if (n->rx.buf[0].in_len < header_len(n)) {
        virtio_broken(&n->v, "a buffer to receive in has no room for the header");
        return LOST;
    }
    return DELIVERED;
}

/* Fills chain i, whose first `head` bytes are the header's, with the frame from `at` on. */
static size_t fill(struct virtio_net *n, unsigned i, unsigned head, const u8 *frame, size_t len,
                   size_t at)
{
    return virtq_write(&n->rx.buf[i], head, frame + at, len - at);
}

/*
 * Hands n->rx.buf[0..parts) back. The driver must see all of a frame's buffers at once (5.1.6.4.1):
 * the entries of all but the last are written without moving the index that it looks at.
 */
static void push_row(struct virtio_net *n, const u32 *written, unsigned parts)
{
    struct virtq *q = &n->v.q[VIRTIO_NET_RX];
    assert(parts);
    for (unsigned i = 0; i + 1 < parts; i++) {
        const struct virtq_buf *b = &n->rx.buf[i];
        u8 *elem = q->used_at + 4 + 8ul * (q->used_idx++ & (q->num - 1));
        memcpy(elem, (const u32[2]){b->head, written[i]}, 8);
        q->inflight--;
        virtio_mem_written(n->v.mem, elem, 8);
        u64 left = written[i];
        for (unsigned k = 0; k < b->nin && left; k++) {
            u64 len = min_u64(left, b->in[k].iov_len);
            virtio_mem_written(n->v.mem, b->in[k].iov_base, len);
            left -= len;
        }
    }
    virtq_push(&n->v, VIRTIO_NET_RX, &n->rx.buf[parts - 1], written[parts - 1]);
}

static enum delivery deliver(struct virtio_net *n, const u8 *frame, size_t len,
                             const struct net_offload *o)
{
    unsigned head = header_len(n), parts = 0;
    enum delivery how = take_buffers(n, head + len, &parts);
    if (how != DELIVERED)
        return how;
    struct {
        struct net_offload o;
        u16 num_buffers;
    } h = {.num_buffers = (u16)parts};
    if (virtio_has(&n->v, VIRTIO_NET_F_GUEST_CSUM))
        h.o = *o;
    virtq_write(&n->rx.buf[0], 0, &h, head);
    u32 written[VIRTIO_NET_RX_PARTS];
    size_t at = 0;
    for (unsigned i = 0; i < parts; i++) {
        unsigned skip = i ? 0 : head;
        size_t done = fill(n, i, skip, frame, len, at);
        written[i] = (u32)(skip + done);
        at += done;
    }
    push_row(n, written, parts);
    n->rx.signal = true;
    n->rx_frames++;
    return DELIVERED;
}

/* --- receive: frames that wait for buffers --- */

static void enqueue(struct virtio_net *n, const u8 *frame, size_t len, const struct net_offload *o)
{
    struct virtio_net_frame *f = NULL;
    if (n->rx.queued + len <= RX_MAX)
        f = malloc(sizeof(*f) + len);
    if (!f) {
        n->rx_dropped++;
        return;
    }
    f->next = NULL;
    f->o = *o;
    f->len = len;
    memcpy(f->bytes, frame, len);
    *n->rx.last = f;
    n->rx.last = &f->next;
    n->rx.queued += len;
}

static void drop_first(struct virtio_net *n)
{
    struct virtio_net_frame *f = n->rx.first;
    n->rx.first = f->next;
    if (!n->rx.first)
        n->rx.last = &n->rx.first;
    n->rx.queued -= f->len;
    free(f);
}

static bool receive(void *arg, const u8 *frame, size_t len, const struct net_offload *o)
{
    struct virtio_net *n = arg;
    if (!virtio_ready(&n->v) || !n->v.q[VIRTIO_NET_RX].enabled || !wanted(n, frame))
        return true;
    enum delivery how = n->rx.first ? NO_BUFFERS : deliver(n, frame, len, o);
    if (how == NO_BUFFERS)
        enqueue(n, frame, len, o);
    else if (how == LOST)
        n->rx_dropped++;
    return n->rx.queued < RX_FULL;
}

static void signal_rx(void *arg)
{
    struct virtio_net *n = arg;
    if (n->rx.signal)
        virtq_signal(&n->v, VIRTIO_NET_RX);
    n->rx.signal = false;
}

/* The driver has made buffers available. */
static void receive_waiting(void *arg)
{
    struct virtio_net *n = arg;
    while (n->rx.first) {
        const struct virtio_net_frame *f = n->rx.first;
        enum delivery how = deliver(n, f->bytes, f->len, &f->o);
        if (how == NO_BUFFERS)
            break;
        n->rx_dropped += how == LOST;
        drop_first(n);
    }
    signal_rx(n);
    if (n->rx.queued < RX_FULL / 2)
        net_resume(n->net);
}

/* --- the control queue --- */

static u8 set_rx_mode(struct virtio_net *n, u8 command, const struct virtq_buf *b)
{
    struct virtio_net_filter *f = &n->filter;
    u8 *const mode[] = {&f->promisc, &f->allmulti, &f->alluni, &f->nomulti, &f->nouni, &f->nobcast};
    u8 on;
    if (command >= ARRAY_SIZE(mode) || virtq_read(b, 2, &on, 1) != 1)
        return CTRL_ERR;
    *mode[command] = on != 0;
    return CTRL_OK;
}

/* One table of addresses at *off, which moves behind it. What there is no room for is skipped. */
static bool read_macs(const struct virtq_buf *b, size_t *off, u8 (*to)[6], u16 *n, u8 *overflow)
{
    u32 count;
    if (virtq_read(b, *off, &count, 4) != 4 || count > (b->out_len - *off - 4) / 6)
        return false;
    *overflow = count > VIRTIO_NET_MACS;
    *n = (u16)min_u64(count, VIRTIO_NET_MACS);
    virtq_read(b, *off + 4, to, 6ul * *n);
    *off += 4 + 6 * (size_t)count;
    return true;
}

static u8 set_macs(struct virtio_net *n, u8 command, const struct virtq_buf *b)
{
    size_t off = 2;
    u8 mac[6];
    if (command == CTRL_MAC_ADDR_SET) {
        if (virtq_read(b, off, mac, 6) != 6 || mac[0] & 1)
            return CTRL_ERR;
        memcpy(n->mac, mac, 6);
        memcpy(n->config, mac, 6);
        return CTRL_OK;
    }
    if (command != CTRL_MAC_TABLE_SET)
        return CTRL_ERR;
    struct virtio_net_filter f = n->filter;
    if (!read_macs(b, &off, f.uni, &f.nuni, &f.uni_overflow) ||
        !read_macs(b, &off, f.multi, &f.nmulti, &f.multi_overflow))
        return CTRL_ERR;
    n->filter = f;
    return CTRL_OK;
}

static void use_guest_offloads(struct virtio_net *n)
{
    u64 f = n->guest_offloads;
    bool csum = f & VIRTIO_NET_F_GUEST_CSUM; /* the others need it (5.1.3.1) */
    net_peer_can(n->net, (csum ? NET_CAN_CSUM : 0u) |
                             (csum && f & VIRTIO_NET_F_GUEST_TSO4 ? NET_CAN_TSO4 : 0u) |
                             (csum && f & VIRTIO_NET_F_GUEST_TSO6 ? NET_CAN_TSO6 : 0u));
}

static u8 set_guest_offloads(struct virtio_net *n, u8 command, const struct virtq_buf *b)
{
    u64 want;
    if (command != 0 || virtq_read(b, 2, &want, 8) != 8 || want & ~(n->v.features & GUEST_OFFLOADS))
        return CTRL_ERR;
    n->guest_offloads = want;
    use_guest_offloads(n);
    return CTRL_OK;
}

static u8 command(struct virtio_net *n, const struct virtq_buf *b)
{
    u8 head[2]; /* class, command */
    if (virtq_read(b, 0, head, 2) != 2)
        return CTRL_ERR;
    switch (head[0]) {
    case CTRL_RX:
        return set_rx_mode(n, head[1], b);
    case CTRL_MAC:
        return set_macs(n, head[1], b);
    case CTRL_GUEST_OFFLOADS:
        return set_guest_offloads(n, head[1], b);
    default:
        return CTRL_ERR;
    }
}

static void control(struct virtio_net *n)
{
    struct virtq_buf b;
    while (virtq_pop(&n->v, VIRTIO_NET_CTRL, &b) > 0) {
        u8 ack = command(n, &b);
        virtq_push(&n->v, VIRTIO_NET_CTRL, &b, (u32)virtq_write(&b, 0, &ack, 1));
    }
    virtq_signal(&n->v, VIRTIO_NET_CTRL);
}

/* --- the device --- */

static void notify(struct virtio_dev *d, unsigned q)
{
    struct virtio_net *n = of(d);
    if (q == VIRTIO_NET_CTRL)
        control(n);
    else if (q == VIRTIO_NET_TX)
        loop_post(n->loop, &n->tx_post, send_some, n);
    else if (n->rx.first || n->net->peer_full)
        loop_post(n->loop, &n->rx_post, receive_waiting, n);
}

static void driver_ok(struct virtio_dev *d)
{
    struct virtio_net *n = of(d);
    n->guest_offloads = d->features & GUEST_OFFLOADS;
    use_guest_offloads(n);
}

/* As the card is when nobody has said anything: it takes every frame. */
static void forget(struct virtio_net *n)
{
    n->tx_wait = false;
    while (n->rx.first)
        drop_first(n);
    n->rx.signal = false;
    n->filter = (struct virtio_net_filter){.promisc = 1};
    memcpy(n->mac, n->permanent_mac, 6);
    memcpy(n->config, n->permanent_mac, 6);
    n->guest_offloads = 0;
    use_guest_offloads(n);
}

static void reset(struct virtio_dev *d)
{
    struct virtio_net *n = of(d);
    loop_unpost(n->loop, &n->tx_post);
    forget(n);
    /* The backend may read again, on its own thread. */
    loop_post(n->loop, &n->rx_post, receive_waiting, n);
}

static void put_status(struct virtio_net *n, bool up)
{
    n->config[CFG_STATUS] = up ? LINK_UP : 0;
}

static void link_changed(void *arg, bool up)
{
    struct virtio_net *n = arg;
    put_status(n, up);
    if (virtio_has(&n->v, VIRTIO_NET_F_STATUS))
        virtio_config_changed(&n->v);
}

static void fill_config(struct virtio_net *n)
{
    u16 mtu = (u16)n->net->mtu, pairs = 1;
    u32 speed = SPEED_MBIT;
    put_status(n, n->net->link);
    memcpy(n->config + CFG_PAIRS, &pairs, 2);
    memcpy(n->config + CFG_MTU, &mtu, 2);
    memcpy(n->config + CFG_SPEED, &speed, 4);
    n->config[CFG_DUPLEX] = FULL;
    n->v.config = n->config;
    n->v.config_size = sizeof(n->config);
}

static u64 features_for(const struct net *net)
{
    /* Whatever comes from a backend can be made complete for the guest (net.c); so what the guest
     * may be given does not depend on the backend. */
    u64 f = VIRTIO_NET_F_MAC | VIRTIO_NET_F_STATUS | VIRTIO_NET_F_MRG_RXBUF | VIRTIO_NET_F_CTRL_VQ |
            VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_CTRL_RX_EXTRA | VIRTIO_NET_F_CTRL_MAC_ADDR |
            VIRTIO_NET_F_CTRL_GUEST_OFFLOADS | VIRTIO_NET_F_MTU | VIRTIO_NET_F_SPEED_DUPLEX |
            VIRTIO_NET_F_CSUM | VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6 | GUEST_OFFLOADS;
    return net->mtu == NET_MTU ? f & ~VIRTIO_NET_F_MTU : f;
}

static const struct virtio_ops ops = {.notify = notify, .reset = reset, .driver_ok = driver_ok};

static const struct net_peer_ops peer_ops = {
    .receive = receive, .flush = signal_rx, .room = room, .link = link_changed};

int virtio_net_init(struct virtio_net *n, const struct virtio_net_config *c, struct err *e)
{
    *n = (struct virtio_net){.net = c->net, .loop = c->loop};
    n->rx.last = &n->rx.first;
    n->tx.frame = malloc(NET_FRAME_MAX);
    n->rx.buf = malloc(VIRTIO_NET_RX_PARTS * sizeof(*n->rx.buf));
    if (!n->tx.frame || !n->rx.buf) {
        free(n->tx.frame);
        free(n->rx.buf);
        return err_set(e, "no memory for a network card");
    }
    virtio_init(&n->v, &ops, VIRTIO_NET, features_for(c->net), 3, VIRTIO_NET_QUEUE, c->mem);
    n->v.name = "virtio-net";
    n->v.log = c->log;
    memcpy(n->permanent_mac, c->mac, 6);
    fill_config(n);
    net_attach(c->net, &peer_ops, n);
    forget(n);
    return 0;
}

void virtio_net_free(struct virtio_net *n)
{
    if (!n->net)
        return;
    loop_unpost(n->loop, &n->tx_post);
    loop_unpost(n->loop, &n->rx_post);
    while (n->rx.first)
        drop_first(n);
    net_attach(n->net, NULL, NULL);
    free(n->tx.frame);
    free(n->rx.buf);
    n->net = NULL;
}

/* --- state --- */

static void check_filter(const struct virtio_net_filter *f, struct state *s)
{
    if (f->nuni > VIRTIO_NET_MACS || f->nmulti > VIRTIO_NET_MACS)
        state_fail(s, "virtio-net: a filter of %u and %u addresses", f->nuni, f->nmulti);
}

/* Frames that wait for buffers are lost, as networks lose things. One that waits for the backend is
 * still the driver's. */
void virtio_net_state(struct virtio_net *n, struct state *s)
{
    if (n->tx_wait)
        virtq_unpop(&n->v, VIRTIO_NET_TX, &n->tx.b);
    n->tx_wait = false;
    if (s->loading)
        forget(n);
    virtio_state(&n->v, s);
    state_section(s, "virtio-net", 1);
    struct virtio_net_filter f = n->filter;
    state_val(s, n->mac);
    state_val(s, n->guest_offloads);
    state_val(s, f); /* bytes and u16 only */
    check_filter(&f, s);
    loop_post(n->loop, &n->tx_post, send_some, n);
    if (!s->loading || s->failed)
        return;
    n->filter = f;
    n->guest_offloads &= n->v.features & GUEST_OFFLOADS;
    memcpy(n->config, n->mac, 6);
    put_status(n, n->net->link);
    use_guest_offloads(n);
}
