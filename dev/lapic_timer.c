/*
 * lapic_timer.c - the local APIC's timer: one-shot, periodic, TSC deadline (SDM vol. 3, 11.5.4).
 */
#include "dev/lapic_priv.h"

/* A periodic timer of a nanosecond must not keep the host busy: it fires this often at most. */
#define TIMER_MIN_PERIOD 50000u

u32 lapic_timer_mode(const struct lapic *l)
{
    return l->lvt[LVT_TIMER] & LVT_TIMER_MODE;
}

/* Divide configuration, bits 3, 1 and 0: 0 is by 2, ... 6 by 128, 7 by 1. In ns per count. */
static u64 timer_unit(const struct lapic *l)
{
    unsigned v = (l->tdcr & 3) | (l->tdcr >> 1 & 4);

    static_assert(LAPIC_TIMER_HZ == NSEC_PER_SEC, "one count is one ns");
    return 1ull << ((v + 1) & 7);
}

u64 lapic_timer_period(const struct lapic *l)
{
    return l->tmict * timer_unit(l);
}

/* A periodic count that has wrapped: let count_start name the beginning of the present period. */
static void timer_wrap(struct lapic *l, u64 now)
{
    u64 period = lapic_timer_period(l);

    l->count_start += (now - l->count_start) / period * period;
}

u32 lapic_timer_count(const struct lapic *l)
{
    u64 elapsed, period = lapic_timer_period(l);

    if (!l->counting)
        return 0;
    elapsed = clock_now(l->cfg.clock) - l->count_start;
    if (lapic_timer_mode(l) == TIMER_PERIODIC)
        elapsed %= period;
    return elapsed >= period ? 0 : l->tmict - (u32)(elapsed / timer_unit(l));
}

void lapic_timer_stop(struct lapic *l)
{
    l->counting = false;
    l->tsc_deadline = 0;
    timer_cancel(&l->timer);
}

void lapic_timer_start(struct lapic *l, u32 count)
{
    lapic_timer_stop(l);
    l->tmict = count;
    if (!count)
        return;
    l->counting = true;
    l->count_start = clock_now(l->cfg.clock);
    timer_set(&l->timer, l->count_start + lapic_timer_period(l));
}

void lapic_timer_fired(void *arg)
{
    struct lapic *l = arg;
    u64 now = clock_now(l->cfg.clock);

    l->tsc_deadline = 0;
    if (lapic_timer_mode(l) != TIMER_PERIODIC) {
        l->counting = false;
    } else if (l->counting) {
        timer_wrap(l, now);
        timer_set(&l->timer,
                  max_u64(l->count_start + lapic_timer_period(l), now + TIMER_MIN_PERIOD));
    }
    lapic_fire_lvt(l, LVT_TIMER);
}

void lapic_timer_settle(struct lapic *l)
{
    if (!l->timer.armed || l->timer.deadline > clock_now(l->cfg.clock))
        return;
    timer_cancel(&l->timer);
    lapic_timer_fired(l);
}

void lapic_timer_set_mode(struct lapic *l, u32 old)
{
    u32 mode = lapic_timer_mode(l);

    if (mode == old)
        return;
    if (mode >= TIMER_DEADLINE || old >= TIMER_DEADLINE) {
        lapic_timer_stop(l);
        l->tmict = 0;
    } else if (l->counting) {
        if (old == TIMER_PERIODIC)
            timer_wrap(l, clock_now(l->cfg.clock));
        timer_set(&l->timer, l->count_start + lapic_timer_period(l));
    }
}

void lapic_timer_set_divider(struct lapic *l, u32 tdcr)
{
    lapic_timer_settle(l);
    u32 done = l->tmict - lapic_timer_count(l);

    l->tdcr = tdcr;
    if (!l->counting)
        return;
    l->count_start = clock_now(l->cfg.clock) - done * timer_unit(l);
    timer_set(&l->timer, clock_now(l->cfg.clock) + lapic_timer_period(l) - done * timer_unit(l));
}

static void deadline_arm(struct lapic *l)
{
    timer_cancel(&l->timer);
    if (!l->tsc_deadline)
        return;
    if (l->tsc_deadline <= l->cfg.ops->tsc_now(l->cfg.arg))
        lapic_timer_fired(l);
    else
        timer_set(&l->timer, l->cfg.ops->tsc_to_ns(l->cfg.arg, l->tsc_deadline));
}

void lapic_deadline_write(struct lapic *l, u64 tsc)
{
    if (lapic_timer_mode(l) != TIMER_DEADLINE || !hw_enabled(l))
        return;
    l->tsc_deadline = tsc;
    deadline_arm(l);
}

void lapic_tsc_changed(struct lapic *l)
{
    if (l->tsc_deadline)
        deadline_arm(l);
}
