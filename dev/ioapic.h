/*
 * ioapic.h - the I/O APIC (Intel 82093AA data sheet; version 0x20 with the EOI register of later
 * chipsets): 24 inputs, each with a redirection entry that says which message its interrupt makes.
 *
 * Wire it with bus_add(mmio, IOAPIC_DEFAULT_BASE, IOAPIC_SIZE, &ioapic_bus_ops, io, "ioapic"), its
 * inputs through struct irq {ioapic_set, io, pin}, and lapic_bus.eoi = ioapic_eoi. An input has one
 * wire: devices that share it (PCI INTx) are OR-ed by whoever owns the wire.
 */
#ifndef POPF_IOAPIC_H
#define POPF_IOAPIC_H

#include "base/base.h"
#include "base/state.h"
#include "dev/lapic.h"
#include "mem/bus.h"

#define IOAPIC_DEFAULT_BASE 0xfec00000ull
#define IOAPIC_SIZE         0x1000
#define IOAPIC_PINS         24

struct ioapic {
    struct lapic_bus *bus;
    u8 initial_id;
    u8 id;
    u8 regsel;
    u32 level; /* the wires; 1 is asserted, whatever the entry's polarity says */
    u64 redir[IOAPIC_PINS];
};

extern const struct bus_ops ioapic_bus_ops;

/* id is 0..15 and should differ from the LAPICs'; messages go out on `bus`. */
void ioapic_init(struct ioapic *io, struct lapic_bus *bus, u8 id);

/* All entries masked. The wires keep their levels. */
void ioapic_reset(struct ioapic *io);

/* An input changed; fits struct irq. Pins out of range are ignored. */
void ioapic_set(void *io, unsigned pin, int level);

/* The EOI of a level-triggered vector; fits lapic_bus.eoi. */
void ioapic_eoi(void *io, u8 vector);

void ioapic_state(struct ioapic *io, struct state *s);

#endif
