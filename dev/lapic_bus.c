/*
 * lapic_bus.c - messages between local APICs, and from devices (SDM vol. 3, 11.6 and 11.11).
 */
#include "dev/lapic_priv.h"

void lapic_bus_init(struct lapic_bus *b)
{
    *b = (struct lapic_bus){0};
}

static bool match_logical(const struct lapic *l, u32 dest)
{
    u32 id = l->cfg.apic_id;
    u8 ldr = (u8)(l->ldr >> 24);

    if (x2apic_mode(l))
        return dest >> 16 == id >> 4 && (dest & 1u << (id & 15));
    if (dest > 0xff)
        return false;
    if (l->dfr >> 28 == 0xf) /* flat */
        return ldr & dest;
    return (dest >> 4 == 0xf || dest >> 4 == ldr >> 4) && (ldr & dest & 0xf);
}

static bool match(const struct lapic *l, const struct lapic_msg *m)
{
    if (!hw_enabled(l) || l == m->except)
        return false;
    if (m->all || m->dest == (m->dest32 ? 0xffffffff : 0xff))
        return true;
    if (m->logical)
        return match_logical(l, m->dest);
    return m->dest == (x2apic_mode(l) ? l->cfg.apic_id : l->xapic_id);
}

/* Among the addressed, the one of lowest priority; equals take turns. */
static struct lapic *arbitrate(struct lapic_bus *b, const struct lapic_msg *m)
{
    struct lapic *best = NULL;

    for (unsigned i = 0; i < b->n; i++) {
        struct lapic *l = b->lapic[(b->rotate + i) % b->n];

        if (sw_enabled(l) && match(l, m) && (!best || lapic_ppr(l) < lapic_ppr(best)))
            best = l;
    }
    b->rotate = b->n ? (b->rotate + 1) % b->n : 0;
    return best;
}

bool lapic_bus_deliver(struct lapic_bus *b, const struct lapic_msg *m)
{
    bool taken = false;

    if (m->mode == APIC_LOWEST || (m->mode == APIC_FIXED && m->lowest)) {
        struct lapic *l = arbitrate(b, m);
        return l && lapic_accept(l, APIC_FIXED, m->vector, m->level);
    }
    for (unsigned i = 0; i < b->n; i++)
        if (match(b->lapic[i], m))
            taken |= lapic_accept(b->lapic[i], m->mode, m->vector, m->level);
    return taken;
}

/* SDM "Message Address Register Format" and "Message Data Register Format". */
bool lapic_bus_msi(struct lapic_bus *b, u64 addr, u32 data)
{
    struct lapic_msg m = {
        .mode = bits(data, 8, 3),
        .vector = (u8)data,
        .level = data & BIT(15),
        .logical = addr & BIT(2),
        .lowest = addr & BIT(3),
        .dest = bits(addr, 12, 8),
    };

    if (addr >> 20 != 0xfee || m.mode == APIC_SIPI)
        return false;
    return lapic_bus_deliver(b, &m);
}

void lapic_send_ipi(struct lapic *l, u32 icr, u32 dest)
{
    unsigned shorthand = bits(icr, 18, 2);
    struct lapic_msg m = {
        .mode = bits(icr, 8, 3),
        .vector = (u8)icr,
        .logical = icr & ICR_LOGICAL,
        .dest32 = x2apic_mode(l),
        .all = shorthand >= 2,
        .except = shorthand == 3 ? l : NULL,
        .dest = dest,
    };

    if (m.mode == APIC_REMOTE_READ || m.mode == APIC_EXTINT)
        return;
    /* INIT level de-assert set the arbitration ids of old CPUs and does nothing now. */
    if (m.mode == APIC_INIT && (icr & ICR_LEVEL) && !(icr & ICR_ASSERT))
        return;
    if (m.mode <= APIC_LOWEST && m.vector < 16) {
        lapic_error(l, ESR_SEND_VECTOR);
        return;
    }
    if (shorthand != 1)
        lapic_bus_deliver(l->bus, &m);
    else if (m.mode == APIC_FIXED || m.mode == APIC_NMI)
        lapic_accept(l, m.mode, m.vector, false);
}
