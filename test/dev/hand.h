/*
 * hand.h - what the transcript tests stand on: a clock driven by hand, wires that remember, and a
 * bus on which every access is one line.
 */
#ifndef POPF_TEST_HAND_H
#define POPF_TEST_HAND_H

#include "base/clock.h"
#include "base/state.h"
#include "dev/irq.h"
#include "mem/bus.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

struct hand {
    struct clock clock; /* first: hand_now() casts */
    u64 now;
    struct bus port, mmio;
};

static inline u64 hand_now(struct clock *c)
{
    return ((struct hand *)c)->now;
}

#define HAND(h)                                                                                    \
    struct hand h = {.clock = {.now = hand_now}, .port = {.name = "port"}, .mmio = {.name = "mmio"}}

/* Time passes; every timer fires at its own time. */
static inline void hand_until(struct hand *h, u64 ns)
{
    while (clock_next(&h->clock) <= ns) {
        h->now = max_u64(h->now, clock_next(&h->clock));
        clock_run(&h->clock);
    }
    h->now = ns;
}

static inline void hand_pass(struct hand *h, u64 ns)
{
    hand_until(h, h->now + ns);
}

/* A wire that remembers its level and counts its rises. */
struct wire {
    int level;
    unsigned rises;
};

static inline void wire_set(void *to, unsigned pin, int level)
{
    struct wire *w = to;
    w->rises += level && !w->level;
    w->level = level;
}

static inline struct irq wire_irq(struct wire *w)
{
    return (struct irq){.set = wire_set, .to = w};
}

static inline unsigned wire_taken(struct wire *w)
{
    unsigned n = w->rises;
    w->rises = 0;
    return n;
}

#define OUT8(h, port_, v)  bus_write(&(h)->port, (port_), 1, (v))
#define OUT16(h, port_, v) bus_write(&(h)->port, (port_), 2, (v))
#define OUT32(h, port_, v) bus_write(&(h)->port, (port_), 4, (v))

static inline u8 IN8(struct hand *h, u16 port)
{
    return bus_read(&h->port, port, 1);
}

static inline u16 IN16(struct hand *h, u16 port)
{
    return bus_read(&h->port, port, 2);
}

static inline u32 IN32(struct hand *h, u16 port)
{
    return bus_read(&h->port, port, 4);
}

/* Saves with `save`, then loads the bytes with `load`; the argument is X_state(dev, s). */
#define SAVE_LOAD(call_save, call_load)                                                            \
    do {                                                                                           \
        struct state out_, *s = &out_;                                                             \
        state_init_save(s);                                                                        \
        call_save;                                                                                 \
        assert_false(s->failed);                                                                   \
        struct state in_;                                                                          \
        state_init_load(&in_, out_.buf, out_.len);                                                 \
        s = &in_;                                                                                  \
        call_load;                                                                                 \
        assert_false(s->failed);                                                                   \
        assert_int_equal(in_.pos, in_.len);                                                        \
        state_init_load(&in_, out_.buf, out_.len - 1);                                             \
        call_load;                                                                                 \
        assert_true(s->failed);                                                                    \
        state_init_load(&in_, out_.buf, out_.len);                                                 \
        call_load;                                                                                 \
        assert_false(s->failed);                                                                   \
        state_free(&out_);                                                                         \
    } while (0)

#endif
