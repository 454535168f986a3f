/*
 * pit.h - the 8254 interval timer and the port 0x61 round its channel 2.
 *
 * Source: Intel 8254 data sheet (231164). Ports: 0x40-0x43, 0x61.
 *
 * Time is counted in CLKs of 1193182 Hz since the clock's zero, so that periods never drift. A
 * count is in the counter at once; the data sheet's one CLK of delay is not shown. In mode 3 a new
 * count takes effect at the end of the whole cycle, not of the half.
 */
#ifndef POPF_PIT_H
#define POPF_PIT_H

#include "base/clock.h"
#include "base/state.h"
#include "dev/irq.h"
#include "mem/bus.h"

#define PIT_HZ 1193182ull

struct pit_channel {
    u8 mode; /* 0-5 */
    u8 bcd;
    u8 rw; /* 1 LSB, 2 MSB, 3 LSB then MSB */
    u8 gate;
    u8 loaded;     /* a count was written since the control word */
    u8 running;    /* the counter counts: not stopped by the gate nor awaiting a trigger */
    u8 null_count; /* what was written last is not in the counter yet */
    u8 write_msb;  /* the LSB of a 16-bit count has been written... */
    u8 write_lsb;  /* ...and is this */
    u8 read_msb;   /* the next read gives the MSB */
    u8 latched;    /* bytes of `latch` still to be read, as a mask: 1 LSB, 2 MSB */
    u8 status_latched;
    u8 status;
    u16 latch;
    u32 count;   /* CLKs, 1-65536: the count being counted */
    u32 next;    /* modes 2, 3: takes over at tick `switch_at`; modes 1, 5: at the trigger; or 0 */
    u64 start;   /* absolute tick at which the counter held `count` */
    u64 stopped; /* ticks counted when the counter was stopped */
    u64 switch_at;
};

struct pit {
    struct pit_channel ch[3];
    u8 port61; /* bits 0-3 as written */
    u8 muted;
    struct irq out0; /* channel 0's OUT */
    struct timer timer;
    struct clock *clock;
};

void pit_init(struct pit *p, struct clock *clock, struct irq out0);
void pit_reset(struct pit *p);

/* 0, or -1 if the bus is full. */
int pit_attach(struct pit *p, struct bus *port);

/* Takes channel 0's OUT off its wire, or puts it back: HPET legacy replacement. */
void pit_mute(struct pit *p, bool muted);

void pit_state(struct pit *p, struct state *s);

#endif
