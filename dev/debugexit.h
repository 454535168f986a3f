/*
 * debugexit.h - the opt-in port by which a test guest ends its machine.
 *
 * A write of v ends it with the exit status (v << 1) | 1: never 0, which is left to power-off.
 * Test suites expect it at port 0xf4.
 */
#ifndef POPF_DEBUGEXIT_H
#define POPF_DEBUGEXIT_H

#include "mem/bus.h"

#define DEBUGEXIT_PORT 0xf4

struct debugexit {
    void (*end)(void *arg, u32 status); /* notes it: the machine stops after the instruction */
    void *arg;
};

void debugexit_init(struct debugexit *d, void (*end)(void *arg, u32 status), void *arg);

/* Claims four ports. 0, or -1 if the bus is full. */
int debugexit_attach(struct debugexit *d, struct bus *port, u16 base);

#endif
