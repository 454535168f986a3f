/*
 * fuzz_apic.c - four LAPICs and an I/O APIC under a guest that writes anything anywhere, a clock
 * that jumps, wires that flicker, and a snapshot taken, damaged and restored in between.
 *
 * The input is a sequence of operations of 8 bytes: kind and CPU, register or pin, size, then a
 * value.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "dev/ioapic.h"
#include "dev/lapic.h"

#define NCPU 4

struct board;

struct cpu {
    struct board *board;
    struct lapic lapic;
    bool intr;
};

struct board {
    struct clock clock;
    u64 now;
    s64 tsc_offset;
    struct lapic_bus bus;
    struct cpu cpu[NCPU];
    struct ioapic io;
    struct bus mmio;
};

struct op {
    u8 kind; /* bits 0-3: what, bits 4-5: which CPU */
    u8 size;
    u16 where;
    u32 value;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static u64 now(struct clock *c)
{
    return container_of(c, struct board, clock)->now;
}

static void on_intr(void *arg, bool pending)
{
    ((struct cpu *)arg)->intr = pending;
}

static void on_event(void *arg)
{
}

static void on_sipi(void *arg, u8 vector)
{
}

static int on_extint(void *arg)
{
    lapic_bus_lint(&((struct cpu *)arg)->board->bus, 0, 0);
    return 0x20;
}

static u64 tsc_now(void *arg)
{
    struct board *b = ((struct cpu *)arg)->board;

    return b->now * 3 + b->tsc_offset;
}

static u64 tsc_to_ns(void *arg, u64 tsc)
{
    struct board *b = ((struct cpu *)arg)->board;

    return (tsc - b->tsc_offset) / 3 + 1;
}

static const struct lapic_ops ops = {
    .intr = on_intr,
    .nmi = on_event,
    .init = on_event,
    .sipi = on_sipi,
    .extint_ack = on_extint,
    .tsc_now = tsc_now,
    .tsc_to_ns = tsc_to_ns,
};

static void build(struct board *b)
{
    *b = (struct board){.clock.now = now, .now = 1};
    lapic_bus_init(&b->bus);
    b->bus.eoi = ioapic_eoi;
    b->bus.eoi_arg = &b->io;
    for (unsigned i = 0; i < NCPU; i++) {
        struct lapic_config c = {i, i == 0, true, true, 46, &b->clock, &ops, &b->cpu[i]};

        b->cpu[i].board = b;
        lapic_init(&b->cpu[i].lapic, &b->bus, &c);
        lapic_setup_virtual_wire(&b->cpu[i].lapic);
    }
    ioapic_init(&b->io, &b->bus, NCPU);
    bus_add(&b->mmio, IOAPIC_DEFAULT_BASE, IOAPIC_SIZE, &ioapic_bus_ops, &b->io, "ioapic");
}

/* What the CPU and the owner rely on. */
static void check(const struct board *b)
{
    for (unsigned i = 0; i < NCPU; i++) {
        const struct lapic *l = &b->cpu[i].lapic;
        u64 base = l->base & (APIC_BASE_EN | APIC_BASE_EXTD);

        if (b->cpu[i].intr != l->intr_out || base == APIC_BASE_EXTD)
            abort();
        if (l->counting && (!l->tmict || !l->timer.armed))
            abort();
        if ((l->isr[0] | l->irr[0]) & 0xffff)
            abort();
    }
}

static void snapshot(struct board *b, const struct op *op)
{
    struct state s, in;

    state_init_save(&s);
    for (unsigned i = 0; i < NCPU; i++)
        lapic_state(&b->cpu[i].lapic, &s);
    ioapic_state(&b->io, &s);
    if (s.failed)
        abort();
    if (op->value)
        s.buf[op->where % s.len] ^= (u8)op->value;
    state_init_load(&in, s.buf, s.len);
    for (unsigned i = 0; i < NCPU; i++)
        lapic_state(&b->cpu[i].lapic, &in);
    ioapic_state(&b->io, &in);
    if (in.failed && !op->value)
        abort(); /* what was saved must load */
    state_free(&s);
}

static void advance(struct board *b, u64 ns)
{
    u64 end = b->now + ns;

    for (unsigned i = 0; i < 8 && clock_next(&b->clock) <= end; i++) {
        b->now = max_u64(b->now, clock_next(&b->clock));
        clock_run(&b->clock);
    }
    b->now = end;
    clock_run(&b->clock);
}

static void set_tsc(struct board *b, s64 offset)
{
    b->tsc_offset = offset;
    for (unsigned i = 0; i < NCPU; i++)
        lapic_tsc_changed(&b->cpu[i].lapic);
}

static void access_lapic(struct lapic *l, const struct op *op)
{
    unsigned size = 1u << (op->size & 3);

    if (op->size & 0x80)
        lapic_mmio_read(l, op->where & 0xfff, size);
    else
        lapic_mmio_write(l, op->where & 0xff0, 4, op->value);
}

/* Values of 64 bits: what is wide in the registers behind an MSR comes from `size`. */
static void access_msr(struct lapic *l, u32 msr, const struct op *op)
{
    u64 v = op->value | (u64)(op->size & 0x7f) << 32;

    if (op->size & 0x80)
        lapic_msr_read(l, msr, &v);
    else
        lapic_msr_write(l, msr, v);
}

static void access_ioapic(struct board *b, const struct op *op)
{
    bus_write(&b->mmio, IOAPIC_DEFAULT_BASE, 4, op->where);
    bus_write(&b->mmio, IOAPIC_DEFAULT_BASE + (op->size & 0x40 ? 0x40 : 0x10), 4, op->value);
    bus_read(&b->mmio, IOAPIC_DEFAULT_BASE + (op->size & 0x1f), 1u << (op->size & 3));
}

static void step(struct board *b, const struct op *op)
{
    struct lapic *l = &b->cpu[op->kind >> 4 & 3].lapic;

    switch (op->kind & 15) {
    case 0 ... 2:
        access_lapic(l, op);
        break;
    case 3:
    case 4:
        access_msr(l, MSR_X2APIC_FIRST + (op->where & 0xff), op);
        break;
    case 5:
        access_msr(l, op->where & 1 ? MSR_APIC_BASE : MSR_TSC_DEADLINE, op);
        break;
    case 6:
        /* The mode changes that a random base would seldom make. */
        lapic_msr_write(l, MSR_APIC_BASE, LAPIC_DEFAULT_BASE | (op->value & 0xd00));
        break;
    case 7:
        access_ioapic(b, op);
        break;
    case 8:
        ioapic_set(&b->io, op->where & 31, op->value & 1);
        break;
    case 9:
        lapic_bus_lint(&b->bus, op->where, op->value & 1);
        break;
    case 10:
        lapic_bus_msi(&b->bus, 0xfee00000 | op->where << 2, op->value);
        break;
    case 11:
        if (lapic_ack(l) > 255)
            abort();
        break;
    case 12:
        advance(b, op->value);
        break;
    case 13:
        set_tsc(b, (s64)(s32)op->value << (op->size & 31));
        break;
    case 14:
        lapic_set_cr8(l, op->value);
        break;
    case 15:
        snapshot(b, op);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct board b;
    struct op op;

    build(&b);
    for (; size >= sizeof(op); data += sizeof(op), size -= sizeof(op)) {
        memcpy(&op, data, sizeof(op));
        step(&b, &op);
        check(&b);
    }
    return 0;
}
