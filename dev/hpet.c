#include "dev/hpet.h"

#define CONFIG_ENABLE 0x1
#define CONFIG_LEGACY 0x2

#define TN_LEVEL      BIT(1)
#define TN_ENABLE     BIT(2)
#define TN_PERIODIC   BIT(3)
#define TN_CAN_PERIOD BIT(4)
#define TN_CAN_64     BIT(5)
#define TN_SET        BIT(6)
#define TN_32         BIT(8)
#define TN_ROUTE      (31ull << 9)
#define TN_WRITABLE   (TN_LEVEL | TN_ENABLE | TN_PERIODIC | TN_SET | TN_32 | TN_ROUTE)

/* Revision 1, three timers, 64 bits, legacy routing, vendor 8086h, period in femtoseconds. */
#define CAPABILITIES (0x8086a201ull | (HPET_PERIOD_NS * 1000000ull) << 32)

#define MIN_TICKS 2000 /* 20 us: faster periods than this are thinned out for the host's sake */

static u64 counter_now(const struct hpet *h)
{
    if (!(h->config & CONFIG_ENABLE))
        return h->counter;
    return h->counter + clock_now(h->clock) / HPET_PERIOD_NS;
}

static unsigned number(const struct hpet_timer *t)
{
    return t - t->hpet->timer;
}

static u64 width(const struct hpet_timer *t)
{
    return t->config & TN_32 ? 0xffffffff : ~0ull;
}

/* --- interrupts --- */

static const struct irq *wire(const struct hpet_timer *t)
{
    const struct hpet *h = t->hpet;
    unsigned n = number(t);
    if ((h->config & CONFIG_LEGACY) && n < 2)
        return &h->wires.legacy[n];
    return &h->wires.pin[(t->config & TN_ROUTE) >> 9];
}

/* A wire that no interrupt was ever routed to is not this chip's to drive. */
static bool drives(const struct hpet_timer *t)
{
    unsigned pin = (t->config & TN_ROUTE) >> 9;
    bool legacy = (t->hpet->config & CONFIG_LEGACY) && number(t) < 2;
    return legacy || (t->hpet->wires.route_cap >> pin & 1);
}

static bool active(const struct hpet_timer *t)
{
    const struct hpet *h = t->hpet;
    return (h->config & CONFIG_ENABLE) && (t->config & TN_ENABLE) && (t->config & TN_LEVEL) &&
           (h->status >> number(t) & 1);
}

static void drive(const struct hpet_timer *t, bool level)
{
    if (drives(t))
        irq_set(wire(t), level);
}

/* Wires are let go before the routing changes, and taken up after. */
static void release(struct hpet *h)
{
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        if (active(&h->timer[i]))
            drive(&h->timer[i], 0);
}

static void assert_wires(struct hpet *h)
{
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        if (active(&h->timer[i]))
            drive(&h->timer[i], 1);
}

static void interrupt(struct hpet_timer *t)
{
    struct hpet *h = t->hpet;
    if (t->config & TN_LEVEL) {
        h->status |= BIT(number(t));
        if (active(t))
            drive(t, 1);
    } else if (t->config & TN_ENABLE) {
        drive(t, 1);
        drive(t, 0);
    }
}

/* --- comparators --- */

/* The timer would do nothing that anybody could see. */
static bool silent(const struct hpet_timer *t)
{
    return !(t->config & (TN_ENABLE | TN_LEVEL));
}

static bool repeats(const struct hpet_timer *t)
{
    return (t->config & TN_PERIODIC) && (t->period & width(t));
}

static void arm_at(struct hpet_timer *t, u64 now, u64 delta)
{
    struct hpet *h = t->hpet;
    u64 ns = clock_now(h->clock);
    t->match = now + delta;
    if (delta > (CLOCK_NEVER - ns) / HPET_PERIOD_NS - 1)
        timer_cancel(&t->timer); /* centuries away */
    else
        timer_set(&t->timer, ns - ns % HPET_PERIOD_NS + delta * HPET_PERIOD_NS);
}

/* A periodic comparator that the counter has passed moves on by whole periods. */
static void advance(struct hpet_timer *t, u64 now)
{
    u64 late = (now - t->match) + (t->period < MIN_TICKS ? MIN_TICKS : 0);
    u64 period = t->period & width(t);
    u64 n = late / period + 1;
    t->comparator = (t->comparator + n * period) & width(t);
    arm_at(t, now, n * period - (now - t->match));
}

static void arm(struct hpet_timer *t)
{
    struct hpet *h = t->hpet;
    timer_cancel(&t->timer);
    if (!(h->config & CONFIG_ENABLE) || (silent(t) && !repeats(t)))
        return;
    u64 now = counter_now(h);
    arm_at(t, now, (t->comparator - now) & width(t));
}

static void fire(void *arg)
{
    struct hpet_timer *t = arg;
    u64 now = counter_now(t->hpet);
    interrupt(t);
    if (repeats(t))
        advance(t, now);
    else if (t->config & TN_32) /* again when the low half has come round */
        arm_at(t, now, (width(t) - ((now - t->match) & width(t))) + 1);
}

static void arm_all(struct hpet *h)
{
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        arm(&h->timer[i]);
}

/* --- registers --- */

static void write_config(struct hpet *h, u64 val)
{
    u64 now = clock_now(h->clock) / HPET_PERIOD_NS;
    u64 changed = (h->config ^ val) & (CONFIG_ENABLE | CONFIG_LEGACY);
    release(h);
    h->config ^= changed;
    if (changed & CONFIG_ENABLE)
        h->counter += h->config & CONFIG_ENABLE ? -now : now;
    if ((changed & CONFIG_LEGACY) && h->wires.legacy_route)
        h->wires.legacy_route(h->wires.arg, h->config & CONFIG_LEGACY);
    assert_wires(h);
    if (changed & CONFIG_ENABLE)
        arm_all(h);
}

static void write_counter(struct hpet *h, u64 val)
{
    h->counter += val - counter_now(h);
    arm_all(h);
}

static void write_status(struct hpet *h, u64 val)
{
    release(h);
    h->status &= ~val;
    assert_wires(h);
}

static void write_timer_config(struct hpet_timer *t, u64 val)
{
    u64 route = (val & TN_ROUTE) >> 9;
    val &= TN_WRITABLE;
    if (!(t->hpet->wires.route_cap >> route & 1)) /* not allowed: the field keeps its value */
        val = (val & ~TN_ROUTE) | (t->config & TN_ROUTE);
    release(t->hpet);
    t->config = val;
    if (!(val & TN_LEVEL))
        t->hpet->status &= ~BIT(number(t));
    t->comparator &= width(t);
    assert_wires(t->hpet);
    arm(t);
}

static void write_comparator(struct hpet_timer *t, u64 val)
{
    val &= width(t);
    if (t->config & TN_PERIODIC)
        t->period = val;
    if (!(t->config & TN_PERIODIC) || (t->config & TN_SET))
        t->comparator = val;
    t->config &= ~TN_SET;
    arm(t);
}

static struct hpet_timer *timer_at(struct hpet *h, u64 reg)
{
    bool inside = reg >= 0x100 && reg < 0x100 + 0x20 * HPET_TIMERS;
    return inside ? &h->timer[(reg - 0x100) >> 5] : NULL;
}

static u64 read_timer(const struct hpet_timer *t, u64 reg)
{
    switch (reg) {
    case 0x00:
        return (t->config & ~TN_SET) | TN_CAN_PERIOD | TN_CAN_64 |
               (u64)t->hpet->wires.route_cap << 32;
    case 0x08:
        return t->comparator;
    default:
        return 0;
    }
}

static u64 read_reg64(struct hpet *h, u64 reg)
{
    struct hpet_timer *t = timer_at(h, reg);
    if (t)
        return read_timer(t, reg & 0x1f);
    switch (reg) {
    case 0x000:
        return CAPABILITIES;
    case 0x010:
        return h->config;
    case 0x020:
        return h->status;
    case 0x0f0:
        return counter_now(h);
    default:
        return 0;
    }
}

static void write_reg64(struct hpet *h, u64 reg, u64 val)
{
    struct hpet_timer *t = timer_at(h, reg);
    if (t && (reg & 0x1f) == 0x00)
        write_timer_config(t, val);
    else if (t && (reg & 0x1f) == 0x08)
        write_comparator(t, val);
    else if (reg == 0x010)
        write_config(h, val);
    else if (reg == 0x020)
        write_status(h, val);
    else if (reg == 0x0f0)
        write_counter(h, val);
}

static u64 read_reg(void *dev, u64 off, unsigned size)
{
    return read_reg64(dev, off & ~7ull) >> (8 * (off & 7));
}

/* What the half that a 32-bit write does not touch is written with. */
static u64 other_half(struct hpet *h, u64 reg)
{
    struct hpet_timer *t = timer_at(h, reg);
    if (reg == 0x020) /* writing ones clears */
        return 0;
    if (t && (reg & 0x1f) == 0x08 && (t->config & TN_PERIODIC) && !(t->config & TN_SET))
        return t->period;
    if (t && (reg & 0x1f) == 0x00)
        return t->config;
    return read_reg64(h, reg);
}

/* Software is to use 32 or 64 bits, aligned (2.3.1); other writes are dropped. */
static void write_reg(void *dev, u64 off, unsigned size, u64 val)
{
    struct hpet *h = dev;
    u64 reg = off & ~7ull;
    if (size < 4 || off % size)
        return;
    if (size == 4) {
        u64 kept = other_half(h, reg);
        val = off & 4 ? (kept & 0xffffffff) | val << 32 : (kept & ~0xffffffffull) | val;
    }
    write_reg64(h, reg, val);
}

static const struct bus_ops reg_ops = {.read = read_reg, .write = write_reg, .max_size = 8};

int hpet_attach(struct hpet *h, struct bus *mmio, u64 base)
{
    return bus_add(mmio, base, 0x400, &reg_ops, h, "hpet") < 0 ? -1 : 0;
}

static unsigned lowest_route(const struct hpet *h)
{
    return h->wires.route_cap ? (unsigned)__builtin_ctz(h->wires.route_cap) : 0;
}

void hpet_reset(struct hpet *h)
{
    release(h);
    bool legacy = h->config & CONFIG_LEGACY;
    h->config = 0;
    h->status = 0;
    h->counter = 0;
    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        struct hpet_timer *t = &h->timer[i];
        timer_cancel(&t->timer);
        t->config = (u64)lowest_route(h) << 9;
        t->comparator = ~0ull;
        t->period = 0;
        t->match = 0;
    }
    if (legacy && h->wires.legacy_route)
        h->wires.legacy_route(h->wires.arg, false);
}

void hpet_init(struct hpet *h, struct clock *clock, const struct hpet_wires *wires)
{
    *h = (struct hpet){.clock = clock, .wires = *wires};
    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        h->timer[i].hpet = h;
        timer_init(&h->timer[i].timer, clock, fire, &h->timer[i]);
    }
    hpet_reset(h);
}

static void timer_state(struct hpet_timer *t, struct state *s)
{
    state_val(s, t->config);
    state_val(s, t->comparator);
    state_val(s, t->period);
    if (!s->loading)
        return;
    u64 route = (t->config & TN_ROUTE) >> 9;
    bool allowed = (t->hpet->wires.route_cap >> route & 1) || route == lowest_route(t->hpet);
    if ((t->config & ~TN_WRITABLE) || !allowed || (t->comparator & ~width(t)))
        state_fail(s, "hpet: a register is out of range");
}

/* Whether legacy replacement holds PIT and RTC off their wires is part of their own states. */
void hpet_state(struct hpet *h, struct state *s)
{
    state_section(s, "hpet", 1);
    u64 counter = counter_now(h);
    if (s->loading)
        release(h);
    state_val(s, h->config);
    state_val(s, h->status);
    state_val(s, counter);
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        timer_state(&h->timer[i], s);
    if (!s->loading)
        return;
    if ((h->config & ~(u64)(CONFIG_ENABLE | CONFIG_LEGACY)) || h->status >> HPET_TIMERS)
        state_fail(s, "hpet: a register is out of range");
    if (s->failed) {
        h->config = 0;
        hpet_reset(h);
        return;
    }
    u64 now = clock_now(h->clock) / HPET_PERIOD_NS;
    h->counter = h->config & CONFIG_ENABLE ? counter - now : counter;
    assert_wires(h);
    arm_all(h);
}
