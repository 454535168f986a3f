#include "dev/pit.h"

#define NEVER     UINT64_MAX
#define MIN_TICKS 24       /* 20 us: faster rates than this are thinned out for the host's sake */
#define REFRESH   15085ull /* ns between two toggles of port 0x61 bit 4 */

static u64 ticks_now(const struct pit *p)
{
    return muldiv64(clock_now(p->clock), PIT_HZ, NSEC_PER_SEC);
}

/* The first nanosecond at which ticks_now() is `tick` or more. */
static u64 tick_ns(u64 tick)
{
    return muldiv64(tick, NSEC_PER_SEC, PIT_HZ) + 1;
}

static bool periodic(const struct pit_channel *c)
{
    return c->mode == 2 || c->mode == 3;
}

static bool triggered(const struct pit_channel *c)
{
    return c->mode == 1 || c->mode == 5;
}

/* Ticks since the counter held its count; a count that was to take over by now does. */
static u64 elapsed(struct pit_channel *c, u64 now)
{
    if (!c->running)
        return c->stopped;
    u64 t = now - c->start;
    if (periodic(c) && c->next && t >= c->switch_at) {
        c->start += c->switch_at;
        t -= c->switch_at;
        c->count = c->next;
        c->next = 0;
        c->null_count = 0;
    }
    return t;
}

static bool out(const struct pit_channel *c, u64 t)
{
    bool idle = !c->loaded || (!c->running && c->mode != 0);
    if (idle)
        return c->mode != 0;
    switch (c->mode) {
    case 0:
    case 1:
        return t >= c->count;
    case 2:
        return t % c->count != c->count - 1;
    case 3:
        return t % c->count < (c->count + 1) / 2;
    default:
        return t != c->count;
    }
}

/* The tick, counted as elapsed() does, of the first rise of OUT after t. */
static u64 next_rise(const struct pit_channel *c, u64 t)
{
    if (!c->loaded || !c->running)
        return NEVER;
    if (periodic(c)) {
        u64 n = t / c->count + 1;
        if (c->count < MIN_TICKS)
            n = (t + MIN_TICKS) / c->count + 1;
        u64 rise = n * c->count;
        return c->next ? min_u64(rise, c->switch_at) : rise;
    }
    u64 rise = c->count + (c->mode >= 4);
    return rise > t ? rise : NEVER;
}

static u16 to_bcd(u32 v)
{
    return (v / 1000 % 10) << 12 | (v / 100 % 10) << 8 | (v / 10 % 10) << 4 | v % 10;
}

/* What a program reads from the counter. */
static u16 counter(const struct pit_channel *c, u64 t)
{
    u32 modulus = c->bcd ? 10000 : 65536;
    u32 v;
    if (c->mode == 2) {
        v = c->count - t % c->count;
    } else if (c->mode == 3) {
        u32 half = (c->count + 1) / 2, at = t % c->count;
        v = (c->count & ~1u) - 2 * (at < half ? at : at - half);
    } else {
        v = (c->count % modulus + modulus - t % modulus) % modulus;
    }
    return c->bcd ? to_bcd(v) : v;
}

static void arm(struct pit *p)
{
    struct pit_channel *c = &p->ch[0];
    u64 rise = next_rise(c, elapsed(c, ticks_now(p)));
    if (rise == NEVER)
        timer_cancel(&p->timer);
    else
        timer_set(&p->timer, tick_ns(c->start + rise));
}

/* The wire shows OUT as it is now, and the timer is set for its next rise. */
static void refresh_out(struct pit *p)
{
    struct pit_channel *c = &p->ch[0];
    if (!p->muted)
        irq_set(&p->out0, out(c, elapsed(c, ticks_now(p))));
    arm(p);
}

/*
 * OUT has risen, perhaps more than once while the host was busy: one edge stands for all, and the
 * next is where it would have been. That OUT falls in between is not shown at its own time.
 */
static void fire(void *arg)
{
    struct pit *p = arg;
    if (!p->muted) {
        irq_set(&p->out0, 0);
        irq_set(&p->out0, 1);
    }
    arm(p);
}

void pit_mute(struct pit *p, bool muted)
{
    p->muted = muted;
    if (muted)
        irq_set(&p->out0, 0);
    else
        refresh_out(p);
}

/* The counter takes the count and, if nothing holds it, runs. */
static void start(struct pit_channel *c, u64 now)
{
    if (c->next)
        c->count = c->next;
    c->next = 0;
    c->null_count = 0;
    c->start = now;
    c->stopped = 0;
    c->running = 1;
}

static u32 decode_count(const struct pit_channel *c, u16 v)
{
    if (!c->bcd)
        return v ? v : 65536;
    u32 n = (v >> 12) * 1000 + (v >> 8 & 15) * 100 + (v >> 4 & 15) * 10 + (v & 15);
    return n ? n : 10000;
}

static void load(struct pit_channel *c, u16 v, u64 now)
{
    u32 n = decode_count(c, v);
    u64 t = elapsed(c, now);
    bool first = !c->loaded;
    c->loaded = 1;
    c->null_count = 1;
    c->next = n;
    if (triggered(c)) {
        if (first) /* shown until the trigger */
            c->count = n;
    } else if (periodic(c) && !first && c->running) {
        c->switch_at = (t / c->count + 1) * c->count;
    } else {
        start(c, now);
        c->running = c->gate;
    }
}

static void write_count(struct pit *p, struct pit_channel *c, u8 v)
{
    u64 now = ticks_now(p);
    if (c->rw == 1) {
        load(c, v, now);
    } else if (c->rw == 2) {
        load(c, v << 8, now);
    } else if (!c->write_msb) {
        c->write_lsb = v;
        c->write_msb = 1;
        if (c->mode == 0 && c->loaded) { /* the first byte stops the counter; OUT goes low */
            c->stopped = 0;
            c->running = 0;
        }
    } else {
        c->write_msb = 0;
        load(c, c->write_lsb | v << 8, now);
    }
}

static void latch_count(struct pit_channel *c, u64 now)
{
    if (c->latched)
        return;
    c->latch = counter(c, elapsed(c, now));
    c->latched = c->rw;
}

static void latch_status(struct pit_channel *c, u64 now)
{
    if (c->status_latched)
        return;
    u64 t = elapsed(c, now);
    c->status = out(c, t) << 7 | c->null_count << 6 | c->rw << 4 | c->mode << 1 | c->bcd;
    c->status_latched = 1;
}

static void read_back(struct pit *p, u8 v)
{
    u64 now = ticks_now(p);
    for (unsigned i = 0; i < 3; i++) {
        if (!(v & (2u << i)))
            continue;
        if (!(v & 0x20))
            latch_count(&p->ch[i], now);
        if (!(v & 0x10))
            latch_status(&p->ch[i], now);
    }
}

static void write_control(struct pit *p, u8 v)
{
    unsigned n = v >> 6;
    if (n == 3) {
        read_back(p, v);
        return;
    }
    struct pit_channel *c = &p->ch[n];
    if (!(v & 0x30)) {
        latch_count(c, ticks_now(p));
        return;
    }
    u8 mode = v >> 1 & 7;
    *c = (struct pit_channel){.mode = mode > 5 ? mode - 4 : mode,
                              .bcd = v & 1,
                              .rw = v >> 4 & 3,
                              .gate = c->gate,
                              .count = c->count,
                              .null_count = 1};
}

static void write_reg(void *dev, u64 off, unsigned size, u64 val)
{
    struct pit *p = dev;
    if (off == 3)
        write_control(p, val);
    else
        write_count(p, &p->ch[off], val);
    bool channel0 = off == 0 || (off == 3 && val < 0x40 && (val & 0x30));
    if (channel0)
        refresh_out(p);
}

static u8 read_latch(struct pit_channel *c)
{
    u8 which = c->latched & 1 ? 1 : 2;
    c->latched &= ~which;
    return which == 1 ? c->latch : c->latch >> 8;
}

static u64 read_reg(void *dev, u64 off, unsigned size)
{
    struct pit *p = dev;
    if (off == 3)
        return 0xff;
    struct pit_channel *c = &p->ch[off];
    if (c->status_latched) {
        c->status_latched = 0;
        return c->status;
    }
    if (c->latched)
        return read_latch(c);
    u16 v = counter(c, elapsed(c, ticks_now(p)));
    bool msb = c->rw == 2 || (c->rw == 3 && c->read_msb);
    c->read_msb = c->rw == 3 && !c->read_msb;
    return msb ? v >> 8 : v & 0xff;
}

static void set_gate(struct pit_channel *c, bool gate, u64 now)
{
    bool rise = gate && !c->gate;
    u64 t = elapsed(c, now);
    c->gate = gate;
    if (!c->loaded)
        return;
    if (rise && (triggered(c) || periodic(c))) {
        start(c, now);
    } else if (rise && !c->running && !(c->mode == 0 && c->write_msb)) {
        c->start = now - c->stopped;
        c->running = 1;
    } else if (!gate && c->running && !triggered(c)) {
        c->stopped = t;
        c->running = 0;
    }
}

static u64 read_61(void *dev, u64 off, unsigned size)
{
    struct pit *p = dev;
    struct pit_channel *c = &p->ch[2];
    u8 toggle = clock_now(p->clock) / REFRESH & 1;
    return p->port61 | toggle << 4 | out(c, elapsed(c, ticks_now(p))) << 5;
}

static void write_61(void *dev, u64 off, unsigned size, u64 val)
{
    struct pit *p = dev;
    p->port61 = val & 0x0f;
    set_gate(&p->ch[2], val & 1, ticks_now(p));
}

static const struct bus_ops reg_ops = {.read = read_reg, .write = write_reg, .max_size = 1};
static const struct bus_ops port61_ops = {.read = read_61, .write = write_61, .max_size = 1};

int pit_attach(struct pit *p, struct bus *port)
{
    if (bus_add(port, 0x40, 4, &reg_ops, p, "pit") < 0 ||
        bus_add(port, 0x61, 1, &port61_ops, p, "port61") < 0)
        return -1;
    return 0;
}

void pit_reset(struct pit *p)
{
    for (unsigned i = 0; i < 3; i++)
        p->ch[i] = (struct pit_channel){.rw = 3, .gate = i != 2, .count = 65536, .null_count = 1};
    p->port61 = 0;
    p->muted = 0;
    timer_cancel(&p->timer);
    irq_set(&p->out0, 0);
}

void pit_init(struct pit *p, struct clock *clock, struct irq out0)
{
    *p = (struct pit){.clock = clock, .out0 = out0};
    timer_init(&p->timer, clock, fire, p);
    pit_reset(p);
}

/*
 * Times are saved as ages, so that the clock of the machine restored may have another zero. Beyond
 * thirty years they are capped: sums with them must not overflow.
 */
static void age_val(struct state *s, u64 *ticks)
{
    state_val(s, *ticks);
    *ticks = min_u64(*ticks, 1ull << 50);
}

static void channel_state(struct pit_channel *c, struct state *s, u64 now)
{
    u64 age = now - c->start;
    state_val(s, c->mode);
    state_val(s, c->bcd);
    state_val(s, c->rw);
    state_val(s, c->gate);
    state_val(s, c->loaded);
    state_val(s, c->running);
    state_val(s, c->null_count);
    state_val(s, c->write_msb);
    state_val(s, c->write_lsb);
    state_val(s, c->read_msb);
    state_val(s, c->latched);
    state_val(s, c->status_latched);
    state_val(s, c->status);
    state_val(s, c->latch);
    state_val(s, c->count);
    state_val(s, c->next);
    age_val(s, &age);
    age_val(s, &c->stopped);
    age_val(s, &c->switch_at);
    if (!s->loading)
        return;
    c->start = now - age;
    bool flags = (c->bcd | c->gate | c->loaded | c->running | c->null_count) > 1;
    bool range = c->mode > 5 || !c->rw || c->rw > 3 || c->latched > 3 || !c->count ||
                 c->count > 65536 || c->next > 65536;
    if (flags || range || (periodic(c) && c->next && !c->switch_at))
        state_fail(s, "pit: a register is out of range");
}

void pit_state(struct pit *p, struct state *s)
{
    state_section(s, "pit", 1);
    u64 now = ticks_now(p);
    for (unsigned i = 0; i < 3; i++)
        channel_state(&p->ch[i], s, now);
    state_val(s, p->port61);
    state_val(s, p->muted);
    if (!s->loading)
        return;
    p->port61 &= 0x0f;
    if (s->failed)
        pit_reset(p);
    else
        refresh_out(p);
}
