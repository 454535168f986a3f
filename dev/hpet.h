/*
 * hpet.h - the high precision event timer: a 64-bit counter of 10 ns and three comparators.
 *
 * Source: IA-PC HPET specification 1.0a. 1 KiB of MMIO, at 0xfed00000 on a PC.
 *
 * A comparator matches when the counter reaches it, not when it is already past: as on the chip, a
 * guest that sets one too late waits for the counter to come round.
 */
#ifndef POPF_HPET_H
#define POPF_HPET_H

#include "base/clock.h"
#include "base/state.h"
#include "dev/irq.h"
#include "mem/bus.h"

#define HPET_TIMERS    3
#define HPET_PERIOD_NS 10

struct hpet_wires {
    struct irq pin[32];   /* inputs of the I/O APIC by number */
    u32 route_cap;        /* which of them a comparator may be routed to */
    struct irq legacy[2]; /* legacy replacement: comparator 0 is IRQ0, 1 is IRQ8 */
    /* Legacy replacement goes on or off: PIT and RTC leave their wires. May be NULL. */
    void (*legacy_route)(void *arg, bool on);
    void *arg;
};

struct hpet_timer {
    struct hpet *hpet;
    u64 config;     /* without the capability bits */
    u64 comparator; /* in periodic mode the next match */
    u64 period;     /* periodic mode: what was last written */
    u64 match;      /* counter value, past its width, at which the timer fires; if it is armed */
    struct timer timer;
};

struct hpet {
    u64 config;  /* bit 0 enabled, bit 1 legacy replacement */
    u64 status;  /* level-triggered interrupts active */
    u64 counter; /* while halted; while running, the counter at clock time 0 (modulo 2^64) */
    struct hpet_timer timer[HPET_TIMERS];
    struct hpet_wires wires;
    struct clock *clock;
};

void hpet_init(struct hpet *h, struct clock *clock, const struct hpet_wires *wires);
void hpet_reset(struct hpet *h);

/* Claims 1 KiB at base. 0, or -1 if the bus is full. */
int hpet_attach(struct hpet *h, struct bus *mmio, u64 base);

void hpet_state(struct hpet *h, struct state *s);

#endif
