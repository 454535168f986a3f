/*
 * sysctl92.h - the two reset switches of a PC's chip set: system control port A (0x92) with the
 * fast A20 gate, and the reset control register (0xcf9).
 *
 * Source: Intel 82371SB (PIIX3), 2.5.5 (RC) and 2.6 (port 92). Attach it after the PCI bus: the
 * byte 0xcf9 lies within the dword 0xcf8.
 */
#ifndef POPF_SYSCTL92_H
#define POPF_SYSCTL92_H

#include "base/state.h"
#include "mem/bus.h"

struct sysctl92_wires {
    void (*reset)(void *arg);        /* a reset was asked for: note it, and act later */
    void (*a20)(void *arg, bool on); /* port 0x92's A20 bit; may be NULL */
    void *arg;
};

struct sysctl92 {
    u8 port92;
    u8 rc; /* 0xcf9 */
    struct sysctl92_wires wires;
};

void sysctl92_init(struct sysctl92 *c, struct sysctl92_wires wires);
void sysctl92_reset(struct sysctl92 *c);

/* 0, or -1 if the bus is full. */
int sysctl92_attach(struct sysctl92 *c, struct bus *port);

void sysctl92_state(struct sysctl92 *c, struct state *s);

#endif
