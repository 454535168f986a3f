#include "base/clock.h"

void timer_init(struct timer *t, struct clock *c, void (*fire)(void *arg), void *arg)
{
    *t = (struct timer){.clock = c, .fire = fire, .arg = arg};
}

void timer_cancel(struct timer *t)
{
    if (!t->armed)
        return;
    struct timer **p = &t->clock->first;
    while (*p != t)
        p = &(*p)->next;
    *p = t->next;
    t->armed = false;
}

void timer_set(struct timer *t, u64 deadline)
{
    struct clock *c = t->clock;
    timer_cancel(t);
    t->deadline = deadline;
    t->armed = true;
    struct timer **p = &c->first;
    while (*p && (*p)->deadline <= deadline)
        p = &(*p)->next;
    t->next = *p;
    *p = t;
    if (c->first == t && c->rearm)
        c->rearm(c);
}

u64 clock_next(const struct clock *c)
{
    return c->first ? c->first->deadline : CLOCK_NEVER;
}

void clock_run(struct clock *c)
{
    u64 now = clock_now(c);
    while (c->first && c->first->deadline <= now) {
        struct timer *t = c->first;
        c->first = t->next;
        t->armed = false;
        t->fire(t->arg);
    }
}
