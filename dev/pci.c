#include "dev/pci.h"

#include <string.h>

#define ADDRESS_ENABLE BIT(31)
#define ADDRESS_BITS   0x80fffffcu
#define HEADER_MULTI   0x80
#define CAPS_START     0x40

/* --- configuration space --- */

void pci_put(struct pci_dev *d, unsigned off, unsigned size, u32 val, u32 wmask)
{
    assert(off + size <= sizeof(d->cfg));
    for (unsigned i = 0; i < size; i++) {
        d->cfg[off + i] = val >> (8 * i);
        d->wmask[off + i] = wmask >> (8 * i);
    }
}

void pci_dev_init(struct pci_dev *d, const char *name, u16 vendor, u16 device, u32 class,
                  u8 revision, u8 pin)
{
    *d = (struct pci_dev){.name = name, .cap_end = CAPS_START};
    pci_put(d, PCI_VENDOR_ID, 4, vendor | (u32)device << 16, 0);
    pci_put(d, PCI_COMMAND, 2, 0, PCI_COMMAND_MASTER | (pin ? PCI_COMMAND_NO_INTX : 0));
    pci_put(d, PCI_REVISION, 4, revision | class << 8, 0);
    pci_put(d, 0x0c, 2, 0, 0xffff); /* cache line size, latency timer: kept, without effect */
    pci_put(d, PCI_INTERRUPT_LINE, 1, 0, pin ? 0xff : 0);
    pci_put(d, PCI_INTERRUPT_PIN, 1, pin, 0);
}

void pci_set_subsystem(struct pci_dev *d, u16 vendor, u16 device)
{
    pci_put(d, PCI_SUBSYSTEM, 4, vendor | (u32)device << 16, 0);
}

int pci_cap_add(struct pci_dev *d, u8 id, unsigned size)
{
    unsigned at = align_up(d->cap_end, 4);
    unsigned link = PCI_CAPABILITIES;
    if (!d->cap_end || at + size > 256 || size < 2)
        return -1;
    while (d->cfg[link])
        link = d->cfg[link] + 1;
    d->cfg[link] = at;
    d->cfg[PCI_STATUS] |= PCI_STATUS_CAPS;
    pci_put(d, at, 2, id, 0);
    d->cap_end = (at + size) & 0xff; /* 0: full */
    return (int)at;
}

/* --- BARs --- */

static unsigned bar_offset(unsigned n)
{
    return PCI_BAR0 + 4 * n;
}

/* The BAR's address, and whether it decodes: not while it holds 0 or is being sized. */
static bool bar_base(const struct pci_dev *d, unsigned n, u64 *base)
{
    const struct pci_bar *bar = &d->bar[n];
    u64 at = pci_get32(d, bar_offset(n));
    u64 top = 0xffffffff;
    u16 need = PCI_COMMAND_MEM;
    if (bar->type == PCI_BAR_IO) {
        top = 0xffff;
        need = PCI_COMMAND_IO;
    } else if (bar->type == PCI_BAR_MEM64) {
        at |= (u64)pci_get32(d, bar_offset(n + 1)) << 32;
        top = (1ull << 52) - 1;
    }
    *base = at &= ~(bar->size - 1);
    bool sized = at == (u32) ~(bar->size - 1);
    return (pci_get16(d, PCI_COMMAND) & need) && at && !sized && at <= top - (bar->size - 1);
}

static void map_bar(struct pci_dev *d, unsigned n)
{
    struct pci_bar *bar = &d->bar[n];
    if (bar->type == PCI_BAR_NONE || bar->type == PCI_BAR_UPPER)
        return;
    u64 base;
    bool on = bar_base(d, n, &base);
    if (on == bar->mapped && (!on || base == bar->base))
        return;
    bar->base = base;
    bar->mapped = on;
    struct bus *bus = bar->type == PCI_BAR_IO ? d->bus->port : d->bus->mmio;
    bus_move(bus, bar->handle, base, on);
}

static void map_bars(struct pci_dev *d)
{
    for (unsigned n = 0; n < ARRAY_SIZE(d->bar); n++)
        map_bar(d, n);
}

static int add_bar(struct pci_dev *d, unsigned n, u64 size, enum pci_bar_type type, u8 flags,
                   struct bus *bus, const struct bus_ops *ops, void *arg)
{
    bool is64 = type == PCI_BAR_MEM64;
    assert(n + is64 < ARRAY_SIZE(d->bar) && size && !(size & (size - 1)));
    int handle = bus_add(bus, 0, size, ops, arg, d->name);
    if (handle < 0)
        return -1;
    bus_move(bus, handle, 0, false);
    d->bar[n] = (struct pci_bar){.type = type, .size = size, .handle = handle};
    pci_put(d, bar_offset(n), 4, flags, ~(u32)(size - 1));
    if (is64) {
        d->bar[n + 1].type = PCI_BAR_UPPER;
        pci_put(d, bar_offset(n + 1), 4, 0, ~(u32)((size - 1) >> 32));
    }
    d->wmask[PCI_COMMAND] |= type == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEM;
    return 0;
}

int pci_bar_io(struct pci_dev *d, unsigned n, u64 size, struct bus *port, const struct bus_ops *ops,
               void *arg)
{
    assert(size >= 4 && size <= 256);
    return add_bar(d, n, size, PCI_BAR_IO, 0x01, port, ops, arg);
}

int pci_bar_mem(struct pci_dev *d, unsigned n, u64 size, bool is64, bool prefetch, struct bus *mmio,
                const struct bus_ops *ops, void *arg)
{
    assert(size >= 16);
    u8 flags = (is64 ? 0x04 : 0) | (prefetch ? 0x08 : 0);
    return add_bar(d, n, size, is64 ? PCI_BAR_MEM64 : PCI_BAR_MEM32, flags, mmio, ops, arg);
}

/* --- INTx --- */

static bool pulls(const struct pci_dev *d)
{
    return d->intx && d->cfg[PCI_INTERRUPT_PIN] && !pci_msix_enabled(d) &&
           !(pci_get16(d, PCI_COMMAND) & PCI_COMMAND_NO_INTX);
}

/* A link is low only when no function pulls it: they are counted. */
static void change_intx(struct pci_dev *d, bool before)
{
    struct pci_bus *b = d->bus;
    bool after = pulls(d);
    if (before == after)
        return;
    unsigned link = pci_link(d->devfn, d->cfg[PCI_INTERRUPT_PIN] - 1);
    b->asserted[link] += after ? 1 : -1;
    irq_set(&b->link[link], b->asserted[link] != 0);
}

void pci_set_intx(void *dev, unsigned pin, int level)
{
    struct pci_dev *d = dev;
    bool before = pulls(d);
    d->intx = level != 0;
    if (d->bus)
        change_intx(d, before);
}

/* --- accesses --- */

u32 pci_read(struct pci_dev *d, unsigned off, unsigned size)
{
    u32 val = 0;
    if (d->reading)
        d->reading(d, off, size);
    for (unsigned i = 0; i < size; i++) {
        u8 byte = d->cfg[off + i];
        if (off + i == PCI_STATUS && d->intx)
            byte |= PCI_STATUS_INTX;
        val |= (u32)byte << (8 * i);
    }
    return val;
}

static void store(struct pci_dev *d, unsigned off, u8 val)
{
    u8 mask = d->wmask[off];
    u8 kept = d->cfg[off] & ~(val & d->w1c[off]);
    d->cfg[off] = (kept & ~mask) | (val & mask);
}

void pci_write(struct pci_dev *d, unsigned off, unsigned size, u32 val)
{
    bool before = pulls(d);
    for (unsigned i = 0; i < size; i++)
        store(d, off + i, val >> (8 * i));
    change_intx(d, before);
    map_bars(d);
    pci_msix_written(d);
    if (d->written)
        d->written(d, off, size);
}

static struct pci_dev *addressed(struct pci_bus *b)
{
    bool bus0 = !(b->address & 0xff0000);
    if (!(b->address & ADDRESS_ENABLE) || !bus0)
        return NULL;
    return b->dev[b->address >> 8 & 0xff];
}

static u64 read_data(void *dev, u64 off, unsigned size)
{
    struct pci_bus *b = dev;
    struct pci_dev *d = addressed(b);
    if (!d || off + size > 4)
        return ~0ull;
    return pci_read(d, (b->address & 0xfc) + off, size);
}

static void write_data(void *dev, u64 off, unsigned size, u64 val)
{
    struct pci_bus *b = dev;
    struct pci_dev *d = addressed(b);
    if (d && off + size <= 4)
        pci_write(d, (b->address & 0xfc) + off, size, val);
}

/* Only dwords reach the address register; smaller accesses are for whoever else lives there. */
static u64 read_address(void *dev, u64 off, unsigned size)
{
    struct pci_bus *b = dev;
    return size == 4 ? b->address : ~0ull;
}

static void write_address(void *dev, u64 off, unsigned size, u64 val)
{
    struct pci_bus *b = dev;
    if (size == 4)
        b->address = val & ADDRESS_BITS;
}

static const struct bus_ops address_ops = {
    .read = read_address, .write = write_address, .max_size = 4};
static const struct bus_ops data_ops = {.read = read_data, .write = write_data, .max_size = 4};

int pci_attach(struct pci_bus *b)
{
    if (bus_add(b->port, 0xcf8, 4, &address_ops, b, "pci") < 0 ||
        bus_add(b->port, 0xcfc, 4, &data_ops, b, "pci") < 0)
        return -1;
    return 0;
}

/* --- the bus --- */

int pci_add(struct pci_bus *b, struct pci_dev *d, unsigned slot, unsigned fn)
{
    if (slot >= PCI_SLOTS || fn >= PCI_FUNCTIONS || b->dev[PCI_DEVFN(slot, fn)])
        return -1;
    d->bus = b;
    d->devfn = PCI_DEVFN(slot, fn);
    memcpy(d->at_reset, d->cfg, sizeof(d->cfg));
    b->dev[d->devfn] = d;
    struct pci_dev *first = b->dev[PCI_DEVFN(slot, 0)];
    if (fn && first) {
        first->cfg[PCI_HEADER_TYPE] |= HEADER_MULTI;
        first->at_reset[PCI_HEADER_TYPE] |= HEADER_MULTI;
    }
    return 0;
}

void pci_init(struct pci_bus *b, struct bus *port, struct bus *mmio, const struct irq *link)
{
    *b = (struct pci_bus){.port = port, .mmio = mmio};
    memcpy(b->link, link, sizeof(b->link));
    /* An 82441FX by name: every system has a driver that asks nothing of it. */
    pci_dev_init(&b->host, "host bridge", 0x8086, 0x1237, 0x060000, 2, 0);
    pci_add(b, &b->host, 0, 0);
}

static void reset_dev(struct pci_dev *d)
{
    bool before = pulls(d);
    d->intx = 0;
    memcpy(d->cfg, d->at_reset, sizeof(d->cfg));
    pci_msix_reset(d);
    change_intx(d, before);
    map_bars(d);
    if (d->written)
        d->written(d, 0, sizeof(d->cfg));
}

void pci_reset(struct pci_bus *b)
{
    b->address = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(b->dev); i++)
        if (b->dev[i])
            reset_dev(b->dev[i]);
}

/* --- firmware's work --- */

/* Takes `size` bytes, aligned to their size, from *at up. */
static int take(u64 *at, u64 end, u64 size, u64 *base)
{
    *base = align_up(*at, size);
    if (*base < *at || *base > end || size > end - *base)
        return -1;
    *at = *base + size;
    return 0;
}

static int assign_dev(struct pci_dev *d, u64 *io, u64 io_end, u64 *mem, u64 mem_end)
{
    for (unsigned n = 0; n < ARRAY_SIZE(d->bar); n++) {
        const struct pci_bar *bar = &d->bar[n];
        u64 base;
        if (bar->type == PCI_BAR_NONE || bar->type == PCI_BAR_UPPER)
            continue;
        bool is_io = bar->type == PCI_BAR_IO;
        if (take(is_io ? io : mem, is_io ? io_end : mem_end, bar->size, &base))
            return -1;
        pci_write(d, bar_offset(n), 4, (u32)base);
        if (bar->type == PCI_BAR_MEM64)
            pci_write(d, bar_offset(n + 1), 4, base >> 32);
    }
    pci_write(d, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEM);
    return 0;
}

int pci_assign(struct pci_bus *b, u64 io, u64 io_end, u64 mem, u64 mem_end, const u8 *line)
{
    for (unsigned i = 0; i < ARRAY_SIZE(b->dev); i++) {
        struct pci_dev *d = b->dev[i];
        if (!d)
            continue;
        if (assign_dev(d, &io, io_end, &mem, mem_end))
            return -1;
        if (d->cfg[PCI_INTERRUPT_PIN])
            pci_write(d, PCI_INTERRUPT_LINE, 1,
                      line[pci_link(d->devfn, d->cfg[PCI_INTERRUPT_PIN] - 1)]);
    }
    return 0;
}

/* --- state --- */

/* What the guest cannot write is this machine's, not the file's. */
static void dev_state(struct pci_dev *d, struct state *s)
{
    u8 cfg[256];
    bool before = pulls(d);
    u8 intx = d->intx;
    memcpy(cfg, d->cfg, sizeof(cfg));
    u8 devfn = d->devfn;
    state_val(s, devfn);
    state_bytes(s, cfg, sizeof(cfg));
    state_val(s, intx);
    pci_msix_state(d, s);
    if (!s->loading || s->failed)
        return;
    if (devfn != d->devfn || memcmp(cfg, d->cfg, 4) || intx > 1) {
        state_fail(s, "pci: another device than \"%s\" was saved", d->name);
        return;
    }
    for (unsigned i = 0; i < sizeof(cfg); i++) {
        u8 mask = d->wmask[i] | d->w1c[i];
        d->cfg[i] = (d->cfg[i] & ~mask) | (cfg[i] & mask);
    }
    d->intx = intx;
    change_intx(d, before);
    map_bars(d);
    if (d->written)
        d->written(d, 0, sizeof(d->cfg));
}

void pci_state(struct pci_bus *b, struct state *s)
{
    state_section(s, "pci", 2);
    state_val(s, b->address);
    if (s->loading)
        b->address &= ADDRESS_BITS;
    for (unsigned i = 0; i < ARRAY_SIZE(b->dev); i++)
        if (b->dev[i])
            dev_state(b->dev[i], s);
}
