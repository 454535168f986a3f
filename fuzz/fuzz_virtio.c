/*
 * fuzz_virtio.c - virtio devices on a PCI bus under a driver that keeps to no rules: configuration
 * space, every BAR, the rings and what they point to. Here rng, balloon and console; what all
 * devices share (virtio.c, virtio_pci.c, MSI-X) is reached through them. Input, people at the
 * host's ends and snapshots come in between.
 *
 * The input is a sequence of operations of 8 bytes: what, to whom, where, and a value.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "dev/virtio_balloon.h"
#include "dev/virtio_console.h"
#include "dev/virtio_pci.h"
#include "dev/virtio_rng.h"

#define CARDS   3
#define RAM     (512 * KiB)
#define RINGS   0x1000 /* 0x1000 bytes for each queue */
#define QUEUE   8
#define DATA    0x20000
#define IO      0xc000
#define MMIO    0xe0000000u
#define OPS_MAX 2000

struct op {
    u8 kind;
    u8 who;
    u16 where;
    u32 value;
};

struct world {
    struct clock clock;
    u64 now;
    struct bus port, mmio;
    struct mem mem;
    struct pci_bus pci;
    struct virtio_rng rng;
    struct virtio_balloon balloon;
    struct virtio_console console;
    struct virtio_pci card[CARDS];
    struct virtio_dev *dev[CARDS];
    u16 avail[CARDS][VIRTIO_QUEUES_MAX];
    u8 full; /* the console's far end takes so many bytes */
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static u64 now(struct clock *c)
{
    return container_of(c, struct world, clock)->now;
}

static size_t on_out(void *arg, const u8 *buf, size_t n)
{
    const struct world *w = arg;
    volatile u8 sum = 0; /* every byte is there */
    for (size_t i = 0; i < n; i++)
        sum ^= buf[i];
    return w->full < n ? w->full : n;
}

static void on_want(void *arg)
{
    struct world *w = arg;
    u8 text[40] = {0};
    virtio_console_in(&w->console, 0, text, sizeof(text));
}

static void on_msi(void *arg, u64 addr, u32 data)
{
}

static void build(struct world *w)
{
    static const struct irq link[PCI_LINKS];
    static const u8 line[PCI_LINKS];
    struct virtio_console_end end = {.out = on_out, .want = on_want, .arg = w};
    *w = (struct world){.clock = {.now = now}, .full = 255};
    pci_init(&w->pci, &w->port, &w->mmio, link);
    w->pci.msi = on_msi;
    if (mem_init(&w->mem, NULL) || mem_add_ram(&w->mem, 0, RAM, false, NULL) || pci_attach(&w->pci))
        abort();
    virtio_rng_init(&w->rng, &w->mem);
    virtio_balloon_init(&w->balloon, &w->mem);
    virtio_console_init(&w->console, &w->mem, &w->clock, &end);
    virtio_console_add(&w->console, "one", &end);
    virtio_console_add(&w->console, "two", &end);
    w->dev[0] = &w->rng.v;
    w->dev[1] = &w->balloon.v;
    w->dev[2] = &w->console.v;
    for (unsigned i = 0; i < CARDS; i++)
        if (virtio_pci_attach(&w->card[i], w->dev[i], &w->pci, i + 1, NULL))
            abort();
    for (unsigned i = 0; i < 64; i++) { /* control messages of the console, all events */
        u32 words[2] = {i & 3, (i >> 2 & 7) | 1 << 16};
        mem_write(&w->mem, DATA + 16 * i, words, sizeof(words));
    }
    if (pci_assign(&w->pci, IO, IO + 0x1000, MMIO, MMIO + 0x1000000, line))
        abort();
}

/* What a good driver does, so that more than the first checks are reached. */
static void set_up(struct world *w, unsigned who, u64 features)
{
    struct virtio_dev *d = w->dev[who];
    virtio_pci_reset(&w->card[who]);
    memset(w->avail[who], 0, sizeof(w->avail[who]));
    virtio_set_status(d, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER);
    virtio_set_features(d, d->offered & (features | VIRTIO_F_VERSION_1));
    virtio_set_status(d, d->status | VIRTIO_S_FEATURES_OK);
    for (unsigned q = 0; q < d->nqueues; q++) {
        u64 at = RINGS + 0x1000 * (q % 16);
        memset(mem_ptr(&w->mem, at), 0, 0x1000);
        d->q[q].num = QUEUE;
        d->q[q].desc = at;
        d->q[q].avail = at + 0x400;
        d->q[q].used = at + 0x800;
        virtio_enable_queue(d, q);
    }
    virtio_set_status(d, d->status | VIRTIO_S_DRIVER_OK);
}

/* A descriptor: its fields out of the value, most of them plausible. */
static void put_desc(struct world *w, unsigned who, const struct op *op)
{
    unsigned q = op->where % w->dev[who]->nqueues;
    u64 at = RINGS + 0x1000 * (q % 16) + 16 * (op->who / CARDS % (QUEUE + 1));
    u64 addr = op->value & 0x80000000 ? (u64)op->value << 4 : DATA + (op->value & 0x3f0);
    u32 len = op->value >> 20 & 0xfff;
    u16 flags = op->where >> 8 & 7, next = op->where >> 12 & 15;
    mem_write(&w->mem, at, &addr, 8);
    mem_write(&w->mem, at + 8, &len, 4);
    mem_write(&w->mem, at + 12, &flags, 2);
    mem_write(&w->mem, at + 14, &next, 2);
}

static void make_available(struct world *w, unsigned who, const struct op *op)
{
    struct virtio_dev *d = w->dev[who];
    unsigned q = op->where % d->nqueues;
    u64 at = RINGS + 0x1000 * (q % 16) + 0x400;
    u16 head = op->who / CARDS % (QUEUE + 1), *idx = &w->avail[who][q];
    mem_write(&w->mem, at + 4 + 2 * (*idx % QUEUE), &head, 2);
    *idx += op->value & 0xff ? 1 : op->value >> 16;
    mem_write(&w->mem, at + 2, idx, 2);
    virtio_notify(d, q);
}

static void snapshot(struct world *w, const struct op *op)
{
    struct state s, in;
    state_init_save(&s);
    virtio_console_state(&w->console, &s);
    virtio_balloon_state(&w->balloon, &s);
    pci_state(&w->pci, &s);
    for (unsigned i = 0; i < CARDS; i++)
        virtio_pci_state(&w->card[i], &s);
    if (!s.failed) {
        if (op->value)
            s.buf[op->where % s.len] ^= (u8)op->value;
        state_init_load(&in, s.buf, s.len);
        virtio_console_state(&w->console, &in);
        virtio_balloon_state(&w->balloon, &in);
        pci_state(&w->pci, &in);
        for (unsigned i = 0; i < CARDS; i++)
            virtio_pci_state(&w->card[i], &in);
    }
    state_free(&s);
}

static void bars(struct world *w, unsigned who, const struct op *op)
{
    static const u8 which[] = {0, 1, 4, 4};
    const struct pci_bar *bar = &w->card[who].pci.bar[which[op->kind >> 4 & 3]];
    unsigned size = 1u << (op->kind >> 6);
    if (!bar->mapped)
        return;
    struct bus *bus = bar->type == PCI_BAR_IO ? &w->port : &w->mmio;
    u32 off = op->where & 0x8000 ? (op->where & 3u) << 12 | (op->where >> 2 & 63) : op->where;
    u64 at = bar->base + off % bar->size;
    bus_write(bus, at, size, op->value);
    bus_read(bus, at, size);
}

/* The guest wants messages, all or most of them unmasked. */
static void use_msix(struct world *w, unsigned who, u32 masks)
{
    const struct pci_msix *m = &w->card[who].pci.msix;
    for (unsigned v = 0; v < m->n; v++)
        bus_write(&w->mmio, w->card[who].pci.bar[1].base + 16 * v + 12, 4, masks >> (v % 32) & 1);
    pci_write(&w->card[who].pci, m->cap + 3u, 1, 0x80 | (masks >> 25 & 0x40));
    pci_write(&w->card[who].pci, PCI_COMMAND, 2, 7);
    for (unsigned q = 0; q < w->dev[who]->nqueues; q++)
        w->card[who].vector[q] = (u16)(q % m->n);
    w->card[who].config_vector = 0;
}

/* Requests that make sense: a control message, page numbers. */
static void put_data(struct world *w, const struct op *op)
{
    u32 words[2] = {op->value & 0x83, (op->value >> 8 & 7) | (op->value >> 12 & 3) << 16};
    u64 at = op->who & 1 ? DATA + (op->where & 0x3f0) : op->where * 4u;
    mem_write(&w->mem, at, op->who & 1 ? words : &op->value, op->who & 1 ? 8 : 4);
}

/* Command register and BARs stay as they are but for the interesting bits. */
static void config(struct world *w, unsigned who, const struct op *op)
{
    unsigned off = op->where & 0xfc;
    u32 value = off == PCI_COMMAND ? op->value | 3 : op->value;
    if (off >= PCI_BAR0 && off < PCI_BAR0 + 24)
        return;
    bus_write(&w->port, 0xcf8, 4, 0x80000000u | PCI_DEVFN(who + 1, 0) << 8 | off);
    bus_write(&w->port, 0xcfc, 4, value);
    bus_read(&w->port, 0xcfc, 4);
}

static void people(struct world *w, const struct op *op)
{
    u8 text[64] = {0};
    unsigned port = op->who % 4;
    w->full = (u8)op->value;
    switch (op->where % 6) {
    case 0:
        virtio_console_open(&w->console, port, op->value & 1);
        break;
    case 1:
        virtio_console_resize(&w->console, (u16)op->value, (u16)(op->value >> 16));
        break;
    case 2:
        virtio_balloon_set(&w->balloon, op->value);
        break;
    case 3:
        virtio_console_room(&w->console, port);
        break;
    case 4:
        w->now += (u64)op->value << 8;
        clock_run(&w->clock);
        break;
    default:
        virtio_console_in(&w->console, port, text, op->value % sizeof(text));
    }
}

static void step(struct world *w, const struct op *op)
{
    unsigned who = op->who % CARDS;
    switch (op->kind & 15) {
    case 0:
        set_up(w, who, (u64)op->value << 8 | op->where);
        break;
    case 1:
    case 2:
        put_desc(w, who, op);
        break;
    case 3:
    case 4:
    case 5:
        put_desc(w, who, op); /* the one that is made available next */
        make_available(w, who, op);
        break;
    case 6:
        make_available(w, who, op);
        break;
    case 7:
        config(w, who, op);
        break;
    case 8:
        snapshot(w, op);
        break;
    case 9:
    case 10:
        people(w, op);
        break;
    case 11:
        put_data(w, op);
        break;
    case 12:
        use_msix(w, who, op->value);
        break;
    default:
        bars(w, who, op);
    }
}

/* What the rest of the machine relies on. */
static void check(const struct world *w)
{
    for (unsigned i = 0; i < CARDS; i++) {
        const struct virtio_dev *d = w->dev[i];
        if (d->broken != !!(d->status & VIRTIO_S_NEEDS_RESET) || (d->features & ~d->offered))
            abort();
        for (unsigned q = 0; q < d->nqueues; q++)
            if (d->q[q].inflight > d->q[q].num_max || (d->q[q].enabled && !d->q[q].used_at))
                abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world *w = malloc(sizeof(*w));
    if (!w)
        return 0;
    build(w);
    for (unsigned i = 0; i < CARDS; i++)
        set_up(w, i, ~0ull);
    for (unsigned n = 0; n < OPS_MAX && size >= sizeof(struct op); n++) {
        struct op op;
        memcpy(&op, data, sizeof(op));
        data += sizeof(op);
        size -= sizeof(op);
        step(w, &op);
        check(w);
    }
    mem_free(&w->mem);
    free(w);
    return 0;
}
