#include "dev/pic.h"

#define ICW1_IC4  0x01
#define ICW1_SNGL 0x02
#define ICW1_INIT 0x10
#define ICW4_AEOI 0x02
#define ICW4_SFNM 0x10
#define OCW3      0x08

enum { WAIT_ICW1 = 1 };

/* The input of highest priority in `set`, or -1. */
static int first(const struct pic *c, u8 set)
{
    for (unsigned i = 0; i < 8; i++) {
        unsigned n = (c->top + i) & 7;
        if (set & (1u << n))
            return (int)n;
    }
    return -1;
}

static unsigned rank(const struct pic *c, int n)
{
    return (n - c->top) & 7;
}

/*
 * The level in service that holds others off and that a non-specific EOI ends. In special mask mode
 * a masked one does neither.
 */
static int in_service(const struct pic *c)
{
    return first(c, c->smm ? c->isr & ~c->imr : c->isr);
}

/* The input that the chip would have acknowledged now, or -1. */
static int request(const struct pic *c)
{
    if (c->expect)
        return -1;
    int want = first(c, c->irr & ~c->imr);
    if (want < 0)
        return -1;
    int busy = in_service(c);
    if (busy < 0 || rank(c, want) < rank(c, busy))
        return want;
    /* Special fully nested mode: the slave may interrupt itself. */
    bool nest = c->master && (c->icw4 & ICW4_SFNM) && want == busy && want == PIC_CASCADE;
    return nest ? want : -1;
}

/*
 * The slave's INT asks again whenever anything has changed, so that no request is lost between two
 * edges; one that was withdrawn stays latched in the master, whence the spurious IRQ15.
 */
static void update(struct pic_pair *p)
{
    if (request(&p->chip[1]) >= 0)
        p->chip[0].irr |= 1u << PIC_CASCADE;
    irq_set(&p->intr, request(&p->chip[0]) >= 0);
}

static void end(struct pic *c, int n, bool rotate)
{
    if (n < 0)
        return;
    c->isr &= ~(1u << n);
    if (rotate)
        c->top = (n + 1) & 7;
}

/* INTA or a poll reached the chip. Returns the input, or -1 when there was no request. */
static int acknowledge(struct pic *c)
{
    int n = request(c);
    if (n < 0)
        return -1;
    c->isr |= 1u << n;
    if (!(c->elcr & (1u << n)))
        c->irr &= ~(1u << n);
    if (c->icw4 & ICW4_AEOI)
        end(c, n, c->rotate);
    return n;
}

bool pic_pending(const struct pic_pair *p)
{
    return request(&p->chip[0]) >= 0;
}

int pic_ack(struct pic_pair *p)
{
    struct pic *c = &p->chip[0];
    int n = acknowledge(c);
    if (n == PIC_CASCADE) {
        c = &p->chip[1];
        n = acknowledge(c);
    }
    update(p);
    return c->base + (n < 0 ? 7 : n);
}

void pic_set(void *pair, unsigned pin, int level)
{
    struct pic_pair *p = pair;
    if (pin >= 16 || pin == PIC_CASCADE)
        return;
    struct pic *c = &p->chip[pin >> 3];
    u8 bit = 1u << (pin & 7);
    bool rise = level && !(c->level & bit);
    c->level = level ? c->level | bit : c->level & ~bit;
    if (c->elcr & bit)
        c->irr = level ? c->irr | bit : c->irr & ~bit;
    else if (rise)
        c->irr |= bit;
    update(p);
}

/* ICW1: the edge latches are cleared, so an edge input must rise again. LTIM gives way to the ELCR.
 */
static void start_init(struct pic *c, u8 val)
{
    c->icw1 = val;
    c->irr = c->level & c->elcr;
    c->imr = 0;
    c->isr = 0;
    c->top = 0;
    c->smm = 0;
    c->rotate = 0;
    c->poll = 0;
    c->ris = 0;
    c->icw4 = 0;
    c->expect = 2;
}

static void write_icw(struct pic *c, u8 val)
{
    switch (c->expect) {
    case 2:
        c->base = val & 0xf8;
        c->expect = (c->icw1 & ICW1_SNGL) ? 4 : 3;
        break;
    case 3:
        c->icw3 = val;
        c->expect = 4;
        break;
    default:
        c->icw4 = val;
        c->expect = 0;
        return;
    }
    if (c->expect == 4 && !(c->icw1 & ICW1_IC4))
        c->expect = 0;
}

static void write_ocw2(struct pic *c, u8 val)
{
    bool rotate = val & 0x80;
    bool specific = val & 0x40;
    bool eoi = val & 0x20;
    int n = val & 7;
    if (eoi)
        end(c, specific ? n : in_service(c), rotate);
    else if (specific && rotate)
        c->top = (n + 1) & 7;
    else if (!specific)
        c->rotate = rotate;
}

static void write_ocw3(struct pic *c, u8 val)
{
    if (val & 0x40)
        c->smm = (val >> 5) & 1;
    if (val & 0x04)
        c->poll = 1;
    if (val & 0x02)
        c->ris = val & 1;
}

static void write_reg(void *dev, u64 off, unsigned size, u64 val)
{
    struct pic *c = dev;
    u8 v = (u8)val;
    if (off == 1 && c->expect > WAIT_ICW1)
        write_icw(c, v);
    else if (off == 1)
        c->imr = v;
    else if (v & ICW1_INIT)
        start_init(c, v);
    else if (v & OCW3)
        write_ocw3(c, v);
    else
        write_ocw2(c, v);
    update(c->pair);
}

static u64 read_reg(void *dev, u64 off, unsigned size)
{
    struct pic *c = dev;
    if (c->poll) {
        c->poll = 0;
        int n = acknowledge(c);
        update(c->pair);
        return n < 0 ? 0 : 0x80 | n;
    }
    if (off == 1)
        return c->imr;
    return c->ris ? c->isr : c->irr;
}

static u64 read_elcr(void *dev, u64 off, unsigned size)
{
    struct pic_pair *p = dev;
    return p->chip[off].elcr;
}

static void write_elcr(void *dev, u64 off, unsigned size, u64 val)
{
    struct pic_pair *p = dev;
    struct pic *c = &p->chip[off];
    c->elcr = val & c->elcr_mask;
    c->irr = (c->irr & ~c->elcr) | (c->level & c->elcr);
    update(p);
}

static const struct bus_ops reg_ops = {.read = read_reg, .write = write_reg, .max_size = 1};
static const struct bus_ops elcr_ops = {.read = read_elcr, .write = write_elcr, .max_size = 1};

int pic_attach(struct pic_pair *p, struct bus *port)
{
    if (bus_add(port, 0x20, 2, &reg_ops, &p->chip[0], "pic") < 0 ||
        bus_add(port, 0xa0, 2, &reg_ops, &p->chip[1], "pic2") < 0 ||
        bus_add(port, 0x4d0, 2, &elcr_ops, p, "elcr") < 0)
        return -1;
    return 0;
}

void pic_reset(struct pic_pair *p)
{
    /* IRQ 0, 1, 2, 8 and 13 are edge-triggered for ever. */
    static const u8 elcr_mask[2] = {0xf8, 0xde};

    for (unsigned i = 0; i < 2; i++)
        p->chip[i] = (struct pic){.pair = p,
                                  .master = i == 0,
                                  .elcr_mask = elcr_mask[i],
                                  .level = p->chip[i].level,
                                  .expect = WAIT_ICW1};
    update(p);
}

void pic_init(struct pic_pair *p, struct irq intr)
{
    *p = (struct pic_pair){.intr = intr};
    pic_reset(p);
}

static void chip_state(struct pic *c, struct state *s)
{
    state_val(s, c->level);
    state_val(s, c->irr);
    state_val(s, c->imr);
    state_val(s, c->isr);
    state_val(s, c->elcr);
    state_val(s, c->icw1);
    state_val(s, c->base);
    state_val(s, c->icw3);
    state_val(s, c->icw4);
    state_val(s, c->expect);
    state_val(s, c->top);
    state_val(s, c->smm);
    state_val(s, c->rotate);
    state_val(s, c->poll);
    state_val(s, c->ris);
    if (s->loading && (c->expect > 4 || c->top > 7 || (c->base & 7) || (c->elcr & ~c->elcr_mask)))
        state_fail(s, "pic: a register is out of range");
}

void pic_state(struct pic_pair *p, struct state *s)
{
    state_section(s, "pic", 1);
    for (unsigned i = 0; i < 2; i++)
        chip_state(&p->chip[i], s);
    if (s->loading && s->failed)
        pic_reset(p);
    else if (s->loading)
        update(p);
}
