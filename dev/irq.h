/*
 * irq.h - an interrupt wire: what a device raises without knowing what it is wired to.
 *
 * Level-signalled: set(…, 1) while the device wants attention, set(…, 0) when it no longer does; an
 * edge-triggered input notices the rise. Setting a level twice is harmless.
 */
#ifndef POPF_IRQ_H
#define POPF_IRQ_H

#include "base/base.h"

struct irq {
    void (*set)(void *to, unsigned pin, int level);
    void *to;
    unsigned pin;
};

static inline void irq_set(const struct irq *i, int level)
{
    if (i->set)
        i->set(i->to, i->pin, level);
}

static inline void irq_pulse(const struct irq *i)
{
    irq_set(i, 1);
    irq_set(i, 0);
}

#endif
