#include "dev/virtio_console.h"

#include <string.h>

#define F_SIZE        BIT(0)
#define F_MULTIPORT   BIT(1)
#define F_EMERG_WRITE BIT(2)
#define CONFIG_SIZE   12 /* cols, rows, max_nr_ports, emerg_wr */
#define EMERG_WRITE   8
#define CHUNK         1024u
#define QUEUE_SIZE    128
#define TX_MAX        (1u << 20) /* bytes of one chain: what is beyond vanishes */

enum { Q_RX0, Q_TX0, Q_CONTROL_RX, Q_CONTROL_TX };

/* 5.3.6.2: events of control messages. */
enum {
    EV_READY,
    EV_ADD,
    EV_REMOVE,
    EV_PORT_READY,
    EV_CONSOLE,
    EV_RESIZE,
    EV_OPEN,
    EV_NAME,
};

struct control {
    u32 id;
    u16 event;
    u16 value;
};

static struct virtio_console *self(struct virtio_dev *d)
{
    return container_of(d, struct virtio_console, v);
}

static bool has_multiport(const struct virtio_console *c)
{
    return virtio_has(&c->v, F_MULTIPORT);
}

static unsigned rx_queue(unsigned port)
{
    return port ? 2 * port + 2 : Q_RX0;
}

/* --- control messages to the driver --- */

/* The bytes of one message; returns their number. */
static size_t compose(const struct virtio_console *c, unsigned port, unsigned event, u8 *msg)
{
    const struct virtio_console_port *p = &c->port[port];
    struct control m = {.id = port, .event = (u16)event, .value = 1};
    size_t n = sizeof(m);
    if (event == EV_OPEN)
        m.value = p->host_open;
    memcpy(msg, &m, sizeof(m));
    if (event == EV_NAME) {
        memcpy(msg + n, p->name, strlen(p->name));
        n += strlen(p->name);
    } else if (event == EV_RESIZE) {
        /* 5.3.6.2 has columns first; Linux reads rows first, and nobody else reads it. */
        u16 size[2] = {c->rows, c->cols};
        memcpy(msg + n, size, sizeof(size));
        n += sizeof(size);
    }
    return n;
}

static bool send_control(struct virtio_console *c, unsigned port, unsigned event)
{
    u8 msg[sizeof(struct control) + VIRTIO_CONSOLE_NAME];
    struct virtq_buf b;
    if (virtq_pop(&c->v, Q_CONTROL_RX, &b) <= 0)
        return false;
    size_t n = compose(c, port, event, msg);
    virtq_push(&c->v, Q_CONTROL_RX, &b, (u32)virtq_write(&b, 0, msg, n));
    return true;
}

/* Sends what waits, in the order of the events' numbers: a port is added before it is opened. */
static void send_controls(struct virtio_console *c)
{
    if (!c->ready)
        return;
    bool room = true;
    for (unsigned port = 0; port < c->nports && room; port++) {
        struct virtio_console_port *p = &c->port[port];
        for (unsigned ev = 0; ev < 8 && room; ev++) {
            if (!(p->todo & BIT(ev)))
                continue;
            room = send_control(c, port, ev);
            if (room)
                p->todo &= (u8)~BIT(ev);
        }
    }
    virtq_signal(&c->v, Q_CONTROL_RX);
}

static void want_control(struct virtio_console *c, unsigned port, unsigned event)
{
    if (!c->ready)
        return;
    c->port[port].todo |= (u8)BIT(event);
    send_controls(c);
}

/* --- control messages from the driver --- */

static void port_ready(struct virtio_console *c, unsigned port)
{
    struct virtio_console_port *p = &c->port[port];
    if (!port)
        p->todo |= (u8)(BIT(EV_CONSOLE) | (c->cols ? BIT(EV_RESIZE) : 0));
    if (p->name[0])
        p->todo |= (u8)BIT(EV_NAME);
    if (p->host_open)
        p->todo |= (u8)BIT(EV_OPEN);
}

static void set_guest_open(struct virtio_console *c, unsigned port, bool open)
{
    struct virtio_console_port *p = &c->port[port];
    if (p->guest_open == open)
        return;
    p->guest_open = open;
    if (p->end.opened)
        p->end.opened(p->end.arg, open);
    if (open && p->end.want)
        p->end.want(p->end.arg);
}

static void obey(struct virtio_console *c, const struct control *m)
{
    if (m->event == EV_READY && m->value) {
        c->ready = true;
        for (unsigned i = 0; i < c->nports; i++)
            c->port[i].todo = (u8)BIT(EV_ADD);
    } else if (m->id < c->nports && m->event == EV_PORT_READY && m->value) {
        port_ready(c, m->id);
    } else if (m->id < c->nports && m->event == EV_OPEN) {
        set_guest_open(c, m->id, m->value);
    }
}

static void take_controls(struct virtio_console *c)
{
    struct virtq_buf b;
    for (unsigned n = 0; n < QUEUE_SIZE && virtq_pop(&c->v, Q_CONTROL_TX, &b) > 0; n++) {
        struct control m;
        if (virtq_read(&b, 0, &m, sizeof(m)) == sizeof(m))
            obey(c, &m);
        virtq_push(&c->v, Q_CONTROL_TX, &b, 0);
    }
    virtq_signal(&c->v, Q_CONTROL_TX);
    send_controls(c);
}

/* --- data --- */

/* Sends the chain that is held; true if it went out whole. */
static bool send_held(struct virtio_console_port *p)
{
    u8 buf[CHUNK];
    while (p->end.out && p->host_open && p->tx_done < TX_MAX) {
        size_t n = virtq_read(&p->tx, p->tx_done, buf, sizeof(buf));
        if (!n)
            break;
        size_t took = p->end.out(p->end.arg, buf, n);
        p->tx_done += min_u64(took, n);
        if (took < n)
            return false;
    }
    return true;
}

static void transmit(struct virtio_console *c, unsigned port)
{
    struct virtio_console_port *p = &c->port[port];
    unsigned q = rx_queue(port) + 1;
    for (unsigned n = 0; n < QUEUE_SIZE; n++) {
        if (!p->held) {
            if (virtq_pop(&c->v, q, &p->tx) <= 0)
                break;
            p->held = true;
            p->tx_done = 0;
        }
        if (!send_held(p))
            break;
        p->held = false;
        virtq_push(&c->v, q, &p->tx, 0);
    }
    virtq_signal(&c->v, q);
}

void virtio_console_room(struct virtio_console *c, unsigned port)
{
    if (port < c->nports && virtio_ready(&c->v))
        transmit(c, port);
}

size_t virtio_console_in(struct virtio_console *c, unsigned port, const u8 *buf, size_t n)
{
    struct virtq_buf b;
    size_t done = 0;
    if (port >= c->nports || !virtio_ready(&c->v))
        return 0;
    /* Linux drops what comes for a port that nobody has opened. */
    if (!c->port[port].guest_open)
        return 0;
    unsigned q = rx_queue(port);
    for (unsigned i = 0; i < QUEUE_SIZE && done < n; i++) {
        if (virtq_pop(&c->v, q, &b) <= 0)
            break;
        size_t took = virtq_write(&b, 0, buf + done, n - done);
        virtq_push(&c->v, q, &b, (u32)took);
        done += took;
    }
    virtq_signal(&c->v, q);
    return done;
}

/* Its buffers are there, so the driver is about to be ready for input. */
static void wait_for_listener(struct virtio_console *c)
{
    bool waits = !has_multiport(c) && !c->port[0].guest_open && !c->listens.armed;
    if (waits && virtq_pending(&c->v, Q_RX0))
        timer_set(&c->listens, clock_now(c->listens.clock) + NSEC_PER_SEC);
}

static void notify(struct virtio_dev *d, unsigned q)
{
    struct virtio_console *c = self(d);
    if (q == Q_CONTROL_RX && has_multiport(c)) {
        send_controls(c);
    } else if (q == Q_CONTROL_TX && has_multiport(c)) {
        take_controls(c);
    } else if (q < 2 || q > Q_CONTROL_TX) {
        unsigned port = q < 2 ? 0 : q / 2 - 1;
        struct virtio_console_port *p = &c->port[port];
        if (port >= c->nports)
            return;
        wait_for_listener(c);
        if (q & 1) {
            bool speaks = virtq_pending(d, q);
            transmit(c, port);
            if (speaks && !has_multiport(c))
                set_guest_open(c, 0, true);
        } else if (p->end.want) {
            p->end.want(p->end.arg);
        }
    }
}

/* --- the host's side --- */

void virtio_console_open(struct virtio_console *c, unsigned port, bool open)
{
    if (port >= c->nports || c->port[port].host_open == open)
        return;
    c->port[port].host_open = open;
    want_control(c, port, EV_OPEN);
    virtio_console_room(c, port); /* what is held goes out, or vanishes */
}

void virtio_console_resize(struct virtio_console *c, u16 cols, u16 rows)
{
    if (c->cols == cols && c->rows == rows)
        return;
    c->cols = cols;
    c->rows = rows;
    virtio_config_changed(&c->v);
    want_control(c, 0, EV_RESIZE);
}

/* --- the device --- */

static void on_listens(void *arg)
{
    set_guest_open(arg, 0, true);
}

static void reset(struct virtio_dev *d)
{
    struct virtio_console *c = self(d);
    timer_cancel(&c->listens);
    c->ready = false;
    for (unsigned i = 0; i < c->nports; i++) {
        struct virtio_console_port *p = &c->port[i];
        p->held = false;
        p->todo = 0;
        set_guest_open(c, i, false);
    }
}

static u64 config_read(struct virtio_dev *d, unsigned off, unsigned size)
{
    const struct virtio_console *c = self(d);
    u8 config[CONFIG_SIZE] = {0};
    u32 nports = c->nports;
    u64 val = 0;
    memcpy(config, &c->cols, 2);
    memcpy(config + 2, &c->rows, 2);
    memcpy(config + 4, &nports, 4);
    memcpy(&val, config + off, size);
    return val;
}

/* 5.3.4: a character from a driver that has no queues yet. */
static void config_write(struct virtio_dev *d, unsigned off, unsigned size, u64 val)
{
    struct virtio_console_end *end = &self(d)->port[0].end;
    u8 c = (u8)val;
    if (off == EMERG_WRITE && end->out)
        end->out(end->arg, &c, 1);
}

static const struct virtio_ops ops = {
    .notify = notify, .reset = reset, .config_read = config_read, .config_write = config_write};

void virtio_console_init(struct virtio_console *c, struct mem *mem, struct clock *clock,
                         const struct virtio_console_end *end)
{
    *c = (struct virtio_console){.nports = 1};
    timer_init(&c->listens, clock, on_listens, c);
    c->port[0].end = *end;
    c->port[0].host_open = true;
    virtio_init(&c->v, &ops, VIRTIO_CONSOLE, F_SIZE | F_EMERG_WRITE, 2, QUEUE_SIZE, mem);
    c->v.name = "virtio-console";
    c->v.config_size = CONFIG_SIZE;
}

int virtio_console_add(struct virtio_console *c, const char *name,
                       const struct virtio_console_end *end)
{
    unsigned n = c->nports;
    if (n == VIRTIO_CONSOLE_PORTS || strlen(name) >= VIRTIO_CONSOLE_NAME)
        return -1;
    struct virtio_console_port *p = &c->port[n];
    p->end = *end;
    memcpy(p->name, name, strlen(name) + 1);
    c->nports++;
    c->v.offered |= F_MULTIPORT;
    for (unsigned q = c->v.nqueues; q < 2 * c->nports + 2; q++)
        c->v.q[q] = (struct virtq){.num = QUEUE_SIZE, .num_max = QUEUE_SIZE};
    c->v.nqueues = 2 * c->nports + 2;
    return (int)n;
}

/* --- state --- */

/* A chain that is held is taken again from its start after loading: the guest's output of that one
 * chain appears twice rather than not at all. */
void virtio_console_state(struct virtio_console *c, struct state *s)
{
    state_section(s, "virtio-console", 1);
    u32 nports = c->nports;
    state_val(s, nports);
    if (nports != c->nports) {
        state_fail(s, "virtio-console: another number of ports was saved");
        return;
    }
    u8 ready = c->ready;
    state_val(s, ready);
    c->ready = ready != 0;
    for (unsigned i = 0; i < c->nports; i++) {
        struct virtio_console_port *p = &c->port[i];
        if (!s->loading && p->held) {
            virtq_unpop(&c->v, rx_queue(i) + 1, &p->tx);
            p->held = false;
        }
        u8 open = p->guest_open;
        state_val(s, open);
        p->guest_open = open != 0;
        state_val(s, p->todo);
    }
    if (s->loading && !s->failed)
        wait_for_listener(c);
}
