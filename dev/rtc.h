/*
 * rtc.h - the MC146818 real-time clock with 128 bytes of CMOS RAM, as a PC has it.
 *
 * Source: Motorola MC146818A data sheet; the PC's use of the RAM: IBM AT technical reference.
 * Ports: 0x70 (index, bit 7 masks NMIs), 0x71 (data).
 *
 * Seconds tick on the machine's clock and follow the wall clock when the two have parted by more
 * than a second (a machine that was paused shows the right time again). What the guest sets is kept
 * as an offset from the wall clock.
 */
#ifndef POPF_RTC_H
#define POPF_RTC_H

#include "base/clock.h"
#include "base/state.h"
#include "dev/irq.h"
#include "mem/bus.h"

struct rtc {
    u8 ram[128]; /* registers 0-9 and the century are current only while the time stands still */
    u8 index;
    u8 nmi_masked; /* port 0x70 bit 7: for the machine to read */
    u8 muted;

    struct clock *clock;
    u64 (*wall)(void *arg); /* seconds since 1970-01-01 UTC */
    void *arg;
    s64 offset;    /* what the guest's time is ahead of the wall clock's, in seconds */
    s64 base_sec;  /* the guest's time, seconds since 1970... */
    s64 base_ns;   /* ...at this time of the clock, where a second began */
    u64 seen;      /* ns: register C is right up to here */
    s64 alarm_sec; /* the next alarm after `seen`, or RTC_NO_ALARM */

    struct irq irq; /* IRQ8 */
    struct timer timer;
};

#define RTC_NO_ALARM INT64_MAX

void rtc_init(struct rtc *r, struct clock *clock, u64 (*wall)(void *arg), void *arg,
              struct irq irq);

/* RESET#: interrupts off; time and RAM stay. */
void rtc_reset(struct rtc *r);

/* 0, or -1 if the bus is full. */
int rtc_attach(struct rtc *r, struct bus *port);

/* Fills in the RAM bytes that tell firmware the memory's size: bytes below and above 4 GiB. */
void rtc_set_memory(struct rtc *r, u64 below_4g, u64 above_4g);

/* CMOS byte 0x0f: what the BIOS does after a reset. */
static inline u8 rtc_shutdown_byte(const struct rtc *r)
{
    return r->ram[0x0f];
}

/* Takes IRQ8 off its wire, or puts it back: HPET legacy replacement. */
void rtc_mute(struct rtc *r, bool muted);

void rtc_state(struct rtc *r, struct state *s);

#endif
