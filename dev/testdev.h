/*
 * testdev.h - what test guests of the kvm-unit-tests suite expect beside the debug-exit port, as
 * QEMU's pc-testdev has it; only there when the user asks for debug-exit:
 *   ports 0xe0..0xe3        storage: what was written reads back
 *   ports 0xe4..0xe7        "flush this page": nothing to do
 *   ports 0x2000..0x2017    raises (odd value) or lowers (even) the interrupt line of that number
 *   MMIO 0xff000000, 64 KiB storage
 */
#ifndef POPF_TESTDEV_H
#define POPF_TESTDEV_H

#include "dev/irq.h"
#include "mem/bus.h"

#define TESTDEV_LINES     24
#define TESTDEV_MMIO      0xff000000ull
#define TESTDEV_MMIO_SIZE 0x10000ull

struct testdev {
    struct irq line[TESTDEV_LINES];
    u8 port[4];
    u8 mmio[TESTDEV_MMIO_SIZE];
};

/* The wires are the machine's inputs by number. */
void testdev_init(struct testdev *t, const struct irq line[TESTDEV_LINES]);

/* 0, or -1 if a bus is full. */
int testdev_attach(struct testdev *t, struct bus *port, struct bus *mmio);

#endif
