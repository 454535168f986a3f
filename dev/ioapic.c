#include "dev/ioapic.h"

enum { IOREGSEL = 0x00, IOWIN = 0x10, EOIR = 0x40 };

enum { IOAPIC_ID = 0, IOAPIC_VER = 1, IOAPIC_ARB = 2, IOAPIC_REDTBL = 0x10 };

#define VERSION (0x20u | (IOAPIC_PINS - 1) << 16)

#define REDIR_LOGICAL    BIT(11)
#define REDIR_STATUS     BIT(12)
#define REDIR_REMOTE_IRR BIT(14)
#define REDIR_LEVEL      BIT(15)
#define REDIR_MASKED     BIT(16)
#define REDIR_READ_ONLY  (REDIR_STATUS | REDIR_REMOTE_IRR)
#define REDIR_BITS       0xff0000000001ffffull

static bool send(struct ioapic *io, u64 entry)
{
    struct lapic_msg m = {
        .mode = bits(entry, 8, 3),
        .vector = (u8)entry,
        .level = entry & REDIR_LEVEL,
        .logical = entry & REDIR_LOGICAL,
        .dest = entry >> 56,
    };

    return m.mode != APIC_REMOTE_READ && m.mode != APIC_SIPI && lapic_bus_deliver(io->bus, &m);
}

/* Remote IRR is set only for a message that somebody took: no EOI would ever clear it. */
static void service_level(struct ioapic *io, unsigned pin)
{
    u64 e = io->redir[pin];

    if (!(e & REDIR_LEVEL) || e & (REDIR_MASKED | REDIR_REMOTE_IRR) || !(io->level >> pin & 1))
        return;
    /* NMI, INIT and ExtINT are edges whatever the entry says: they have no EOI either. */
    if (send(io, e) && bits(e, 8, 3) <= APIC_LOWEST)
        io->redir[pin] |= REDIR_REMOTE_IRR;
}

void ioapic_set(void *dev, unsigned pin, int level)
{
    struct ioapic *io = dev;
    bool was;

    if (pin >= IOAPIC_PINS)
        return;
    was = io->level >> pin & 1;
    io->level = level ? io->level | 1u << pin : io->level & ~(1u << pin);
    if (!level)
        return;
    /* 82093AA, "Interrupt Mask": an edge on a masked input is lost, a level is not. */
    if (io->redir[pin] & REDIR_LEVEL)
        service_level(io, pin);
    else if (!was && !(io->redir[pin] & REDIR_MASKED))
        send(io, io->redir[pin]);
}

void ioapic_eoi(void *dev, u8 vector)
{
    struct ioapic *io = dev;

    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        if ((u8)io->redir[i] != vector || !(io->redir[i] & REDIR_REMOTE_IRR))
            continue;
        io->redir[i] &= ~REDIR_REMOTE_IRR;
        service_level(io, i);
    }
}

static void write_redir(struct ioapic *io, unsigned index, u32 val)
{
    unsigned pin = index / 2;
    u64 *e = &io->redir[pin];

    if (index & 1)
        *e = (u32)*e | (u64)(val & 0xff000000) << 32;
    else
        *e = (*e & (~0xffffffffull | REDIR_READ_ONLY)) | (val & REDIR_BITS & ~REDIR_READ_ONLY);
    /* Going through edge mode is how kernels clear a stuck remote IRR. */
    if (!(*e & REDIR_LEVEL))
        *e &= ~REDIR_REMOTE_IRR;
    service_level(io, pin);
}

static u32 read_reg(const struct ioapic *io)
{
    unsigned index = io->regsel - IOAPIC_REDTBL;

    if (io->regsel == IOAPIC_ID || io->regsel == IOAPIC_ARB)
        return (u32)io->id << 24;
    if (io->regsel == IOAPIC_VER)
        return VERSION;
    if (index < 2 * IOAPIC_PINS)
        return (u32)(io->redir[index / 2] >> (index & 1) * 32);
    return 0;
}

static void write_reg(struct ioapic *io, u32 val)
{
    unsigned index = io->regsel - IOAPIC_REDTBL;

    if (io->regsel == IOAPIC_ID)
        io->id = val >> 24 & 15;
    else if (index < 2 * IOAPIC_PINS)
        write_redir(io, index, val);
}

static u64 mmio_read(void *dev, u64 off, unsigned size)
{
    struct ioapic *io = dev;

    if (off == IOREGSEL)
        return io->regsel;
    return off == IOWIN ? read_reg(io) : 0;
}

static void mmio_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct ioapic *io = dev;

    if (off == IOREGSEL)
        io->regsel = (u8)val;
    else if (off == IOWIN && size == 4)
        write_reg(io, (u32)val);
    else if (off == EOIR)
        ioapic_eoi(io, (u8)val);
}

const struct bus_ops ioapic_bus_ops = {.read = mmio_read, .write = mmio_write, .max_size = 4};

void ioapic_init(struct ioapic *io, struct lapic_bus *bus, u8 id)
{
    *io = (struct ioapic){.bus = bus, .initial_id = id & 15};
    ioapic_reset(io);
}

void ioapic_reset(struct ioapic *io)
{
    io->id = io->initial_id;
    io->regsel = 0;
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        io->redir[i] = REDIR_MASKED;
}

void ioapic_state(struct ioapic *io, struct state *s)
{
    state_section(s, "ioapic", 1);
    state_val(s, io->id);
    state_val(s, io->regsel);
    state_val(s, io->level);
    state_val(s, io->redir);
    if (!s->loading)
        return;
    for (unsigned i = 0; i < IOAPIC_PINS && !s->failed; i++)
        if (io->redir[i] & ~REDIR_BITS || io->redir[i] & REDIR_STATUS)
            state_fail(s, "ioapic: impossible entry for pin %u", i);
    if (s->failed)
        ioapic_reset(io);
    io->id &= 15;
    io->level &= (1u << IOAPIC_PINS) - 1;
}
