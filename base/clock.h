/*
 * clock.h - guest time and the timers that devices set on it.
 *
 * A clock counts nanoseconds since the machine was created, less the time it was paused, so that a
 * paused machine sees no jump. The machine drives it from a host thread; tests drive it by hand.
 * All of a clock's timers are set, cancelled and fired under one lock: the machine's device lock.
 */
#ifndef POPF_CLOCK_H
#define POPF_CLOCK_H

#include "base/base.h"

struct timer;

struct clock {
    /* Nanoseconds of guest time. Supplied by the owner; must not go backwards. */
    u64 (*now)(struct clock *c);
    /* Told that the earliest deadline has become earlier. May be NULL (tests poll). */
    void (*rearm)(struct clock *c);
    struct timer *first; /* sorted by deadline */
};

struct timer {
    struct clock *clock;
    void (*fire)(void *arg);
    void *arg;
    u64 deadline; /* ns; meaningful while armed */
    bool armed;
    struct timer *next;
};

#define CLOCK_NEVER UINT64_MAX

static inline u64 clock_now(struct clock *c)
{
    return c->now(c);
}

void timer_init(struct timer *t, struct clock *c, void (*fire)(void *arg), void *arg);

/* Fires once, when the clock reaches `deadline` (ns); replaces an earlier setting. */
void timer_set(struct timer *t, u64 deadline);

void timer_cancel(struct timer *t);

/* The earliest deadline, or CLOCK_NEVER. */
u64 clock_next(const struct clock *c);

/* Fires, in order, every timer whose deadline has passed. A timer may set itself again. */
void clock_run(struct clock *c);

/* a * b / c without overflow in between; c != 0 and the result must fit. */
static inline u64 muldiv64(u64 a, u64 b, u64 c)
{
    return (u64)((u128)a * b / c);
}

#endif
