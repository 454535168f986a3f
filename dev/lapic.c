/*
 * lapic.c - the local APIC's registers and what they hold: vectors, local interrupts, modes.
 */
#include "dev/lapic_priv.h"

#include <string.h>

/* Version 0x14, six LVT entries, EOI-broadcast suppression. */
#define VERSION (0x14u | (LVT_N - 1) << 16 | 1u << 24)

enum { RD = 1, WR = 2, X2 = 4, XAPIC_ONLY = 8 };

/* What the guest may do to each register. The bits not in `mask` are reserved: an xAPIC drops
 * them, an x2APIC gives #GP. A row of zeros is a register that does not exist. */
static const struct reg {
    u8 how;
    u32 mask;
} regs[R_N] = {
    /* clang-format off */
    [R_ID]       = {RD | WR | XAPIC_ONLY, 0xff000000}, /* x2APIC: read-only, see x2apic_how() */
    [R_VERSION]  = {RD, 0},
    [R_TPR]      = {RD | WR, 0xff},
    [R_APR]      = {RD | XAPIC_ONLY, 0},
    [R_PPR]      = {RD, 0},
    [R_EOI]      = {WR, 0},
    [R_RRD]      = {RD | XAPIC_ONLY, 0},
    [R_LDR]      = {RD | WR | XAPIC_ONLY, 0xff000000},
    [R_DFR]      = {RD | WR | XAPIC_ONLY, 0xf0000000},
    [R_SVR]      = {RD | WR, 0x13ff},
    [R_ISR ... R_ISR + 7] = {RD, 0},
    [R_TMR ... R_TMR + 7] = {RD, 0},
    [R_IRR ... R_IRR + 7] = {RD, 0},
    [R_ESR]      = {RD | WR, 0},
    [R_ICR]      = {RD | WR, 0x000cdfff},
    [R_ICR2]     = {RD | WR | XAPIC_ONLY, 0xff000000},
    [R_LVT + LVT_TIMER]   = {RD | WR, 0x000710ff},
    [R_LVT + LVT_THERMAL] = {RD | WR, 0x000117ff},
    [R_LVT + LVT_PERF]    = {RD | WR, 0x000117ff},
    [R_LVT + LVT_LINT0]   = {RD | WR, 0x0001f7ff},
    [R_LVT + LVT_LINT1]   = {RD | WR, 0x0001f7ff},
    [R_LVT + LVT_ERROR]   = {RD | WR, 0x000110ff},
    [R_TMICT]    = {RD | WR, 0xffffffff},
    [R_TMCCT]    = {RD, 0},
    [R_TDCR]     = {RD | WR, 0x0b},
    [R_SELF_IPI] = {WR | X2, 0xff},
    /* clang-format on */
};

static_assert(R_LVT + LVT_N == R_TMICT, "the LVT ends where the timer's registers begin");

/* --- vectors --- */

static int highest(const u32 *map)
{
    for (int i = 7; i >= 0; i--)
        if (map[i])
            return i * 32 + 31 - __builtin_clz(map[i]);
    return -1;
}

static void set_bit(u32 *map, u8 v, bool on)
{
    u32 bit = 1u << (v & 31);

    map[v >> 5] = on ? map[v >> 5] | bit : map[v >> 5] & ~bit;
}

static bool test_bit(const u32 *map, u8 v)
{
    return map[v >> 5] >> (v & 31) & 1;
}

u8 lapic_ppr(const struct lapic *l)
{
    int isrv = highest(l->isr);

    return isrv >= 0 && isrv >> 4 > l->tpr >> 4 ? isrv & 0xf0 : l->tpr;
}

/* SDM "Arbitration Priority": what the Pentium compared; kept for whoever still reads it. */
static u8 apr(const struct lapic *l)
{
    int isrv = highest(l->isr), irrv = highest(l->irr);
    int top = isrv > irrv ? isrv : irrv;

    return top >= 0 && top >> 4 > l->tpr >> 4 ? top & 0xf0 : l->tpr;
}

/* The vector in IRR that the CPU should take now, or -1. */
static int deliverable(const struct lapic *l)
{
    int v = hw_enabled(l) ? highest(l->irr) : -1;

    return v >= 0 && v >> 4 > lapic_ppr(l) >> 4 ? v : -1;
}

/* Without its APIC a CPU's LINT0 is plain INTR; only the BSP's is wired to anything then. */
static bool extint_wanted(const struct lapic *l)
{
    u32 lvt = l->lvt[LVT_LINT0];

    if (!hw_enabled(l))
        return l->cfg.bsp && l->lint[0];
    return l->extint_once || (l->lint[0] && !(lvt & LVT_MASKED) && bits(lvt, 8, 3) == APIC_EXTINT);
}

static void update(struct lapic *l)
{
    bool pending = extint_wanted(l) || deliverable(l) >= 0;

    if (pending == l->intr_out)
        return;
    l->intr_out = pending;
    l->cfg.ops->intr(l->cfg.arg, pending);
}

static void pend(struct lapic *l, u8 vector, bool level)
{
    set_bit(l->irr, vector, true);
    set_bit(l->tmr, vector, level);
    update(l);
}

void lapic_error(struct lapic *l, u32 bit)
{
    u32 lvt = l->lvt[LVT_ERROR];

    l->esr_pending |= bit;
    if (l->esr_fired)
        return;
    l->esr_fired = true;
    if (lvt & LVT_MASKED)
        return;
    if ((u8)lvt < 16)
        l->esr_pending |= ESR_RECV_VECTOR;
    else
        pend(l, (u8)lvt, false);
}

static void reset_regs(struct lapic *l);

/* A message arrived, from the bus or from the LVT. True if it was taken. */
bool lapic_accept(struct lapic *l, unsigned mode, u8 vector, bool level)
{
    const struct lapic_config *c = &l->cfg;

    switch (mode) {
    case APIC_FIXED:
    case APIC_LOWEST:
        if (!sw_enabled(l))
            return false;
        if (vector < 16) {
            lapic_error(l, ESR_RECV_VECTOR);
            return false;
        }
        pend(l, vector, level);
        return true;
    case APIC_NMI:
        c->ops->nmi(c->arg);
        return true;
    case APIC_INIT:
        reset_regs(l);
        c->ops->init(c->arg);
        return true;
    case APIC_SIPI:
        c->ops->sipi(c->arg, vector);
        return true;
    case APIC_EXTINT:
        l->extint_once = true;
        update(l);
        return true;
    default: /* SMI: there is no SMM; remote read is gone since the P6 */
        return false;
    }
}

int lapic_ack(struct lapic *l)
{
    int v = -1;

    if (extint_wanted(l)) {
        l->extint_once = false;
        if (l->cfg.ops->extint_ack)
            v = l->cfg.ops->extint_ack(l->cfg.arg);
    }
    if (v < 0 && (v = deliverable(l)) >= 0) {
        set_bit(l->irr, (u8)v, false);
        set_bit(l->isr, (u8)v, true);
    }
    update(l);
    return v;
}

void lapic_set_tpr(struct lapic *l, u8 tpr)
{
    l->tpr = tpr;
    update(l);
}

/* --- local interrupts --- */

void lapic_fire_lvt(struct lapic *l, unsigned i)
{
    u32 lvt = l->lvt[i];
    unsigned mode = i == LVT_TIMER || i == LVT_ERROR ? APIC_FIXED : bits(lvt, 8, 3);
    bool level = i == LVT_LINT0 && mode == APIC_FIXED && (lvt & LVT_LEVEL);

    /* ExtINT is no event but a level: extint_wanted() looks at the wire. */
    if (lvt & LVT_MASKED || mode == APIC_EXTINT)
        return;
    if (level && (lvt & LVT_REMOTE_IRR))
        return;
    if (mode != APIC_FIXED && mode != APIC_NMI && mode != APIC_INIT)
        return;
    if (lapic_accept(l, mode, (u8)lvt, level) && level)
        l->lvt[i] |= LVT_REMOTE_IRR;
}

static void set_lint(struct lapic *l, unsigned pin, bool level)
{
    bool rise = level && !l->lint[pin];

    l->lint[pin] = level;
    if (rise && hw_enabled(l))
        lapic_fire_lvt(l, LVT_LINT0 + pin);
    else if (rise && pin == 1 && l->cfg.bsp)
        l->cfg.ops->nmi(l->cfg.arg);
    update(l);
}

void lapic_bus_lint(void *bus, unsigned pin, int level)
{
    struct lapic_bus *b = bus;

    for (unsigned i = 0; i < b->n; i++)
        set_lint(b->lapic[i], pin & 1, level != 0);
}

/* LINT0 as a level-triggered fixed interrupt: the EOI frees it, and it may come again. */
static void eoi_lint0(struct lapic *l, u8 vector)
{
    u32 lvt = l->lvt[LVT_LINT0];

    if (!(lvt & LVT_REMOTE_IRR) || (u8)lvt != vector)
        return;
    l->lvt[LVT_LINT0] &= ~LVT_REMOTE_IRR;
    if (l->lint[0])
        lapic_fire_lvt(l, LVT_LINT0);
}

static void eoi(struct lapic *l)
{
    int v = highest(l->isr);

    if (v < 0)
        return;
    set_bit(l->isr, (u8)v, false);
    if (test_bit(l->tmr, (u8)v)) {
        eoi_lint0(l, (u8)v);
        if (!(l->svr & SVR_SUPPRESS_EOI) && l->bus->eoi)
            l->bus->eoi(l->bus->eoi_arg, (u8)v);
    }
    update(l);
}

/* --- registers --- */

static u32 read_id(const struct lapic *l)
{
    return x2apic_mode(l) ? l->cfg.apic_id : (u32)l->xapic_id << 24;
}

static u32 read_ldr(const struct lapic *l)
{
    u32 id = l->cfg.apic_id;

    return x2apic_mode(l) ? (id >> 4) << 16 | 1u << (id & 15) : l->ldr;
}

static u64 read_reg(const struct lapic *l, unsigned r)
{
    switch (r) {
    case R_ID:
        return read_id(l);
    case R_VERSION:
        return VERSION;
    case R_TPR:
        return l->tpr;
    case R_APR:
        return apr(l);
    case R_PPR:
        return lapic_ppr(l);
    case R_LDR:
        return read_ldr(l);
    case R_DFR:
        return l->dfr;
    case R_SVR:
        return l->svr;
    case R_ISR ... R_ISR + 7:
        return l->isr[r - R_ISR];
    case R_TMR ... R_TMR + 7:
        return l->tmr[r - R_TMR];
    case R_IRR ... R_IRR + 7:
        return l->irr[r - R_IRR];
    case R_ESR:
        return l->esr;
    case R_ICR:
        return l->icr;
    case R_ICR2:
        return l->icr >> 32;
    case R_LVT ... R_LVT + LVT_N - 1:
        return l->lvt[r - R_LVT];
    case R_TMICT:
        return l->tmict;
    case R_TMCCT:
        return lapic_timer_count(l);
    case R_TDCR:
        return l->tdcr;
    default:
        return 0;
    }
}

static void write_svr(struct lapic *l, u32 val)
{
    l->svr = val;
    if (!(val & SVR_ENABLED))
        for (unsigned i = 0; i < LVT_N; i++)
            l->lvt[i] |= LVT_MASKED;
    update(l);
}

static void write_lvt(struct lapic *l, unsigned i, u32 val)
{
    u32 old = l->lvt[i];

    if (i == LVT_TIMER)
        lapic_timer_settle(l);
    val = (val & ~LVT_READ_ONLY) | (old & LVT_READ_ONLY);
    if (!(l->svr & SVR_ENABLED))
        val |= LVT_MASKED;
    if (!(val & LVT_LEVEL))
        val &= ~LVT_REMOTE_IRR;
    l->lvt[i] = val;
    if (i == LVT_TIMER)
        lapic_timer_set_mode(l, old & LVT_TIMER_MODE);
    if (i == LVT_LINT0 && l->lint[0] && (val & LVT_LEVEL))
        lapic_fire_lvt(l, LVT_LINT0);
    update(l);
}

static void write_esr(struct lapic *l)
{
    l->esr = l->esr_pending;
    l->esr_pending = 0;
    l->esr_fired = false;
}

static void write_icr(struct lapic *l, u64 val)
{
    l->icr = val & ~(u64)ICR_STATUS; /* IPIs arrive at once: never "send pending" */
    lapic_send_ipi(l, (u32)val, x2apic_mode(l) ? val >> 32 : val >> 56);
}

/* The value has no reserved bits set. */
static void write_reg(struct lapic *l, unsigned r, u64 val)
{
    switch (r) {
    case R_ID:
        l->xapic_id = (u8)(val >> 24);
        break;
    case R_TPR:
        lapic_set_tpr(l, (u8)val);
        break;
    case R_EOI:
        eoi(l);
        break;
    case R_LDR:
        l->ldr = (u32)val;
        break;
    case R_DFR:
        l->dfr = (u32)val | 0x0fffffff;
        break;
    case R_SVR:
        write_svr(l, (u32)val);
        break;
    case R_ESR:
        write_esr(l);
        break;
    case R_ICR:
        write_icr(l, val);
        break;
    case R_ICR2:
        l->icr = (u32)l->icr | val << 32;
        break;
    case R_LVT ... R_LVT + LVT_N - 1:
        write_lvt(l, r - R_LVT, (u32)val);
        break;
    case R_TMICT:
        if (lapic_timer_mode(l) <= TIMER_PERIODIC)
            lapic_timer_start(l, (u32)val);
        break;
    case R_TDCR:
        lapic_timer_set_divider(l, (u32)val);
        break;
    case R_SELF_IPI:
        lapic_send_ipi(l, 1u << 18 | (u32)val, 0);
        break;
    }
}

static u32 writable_bits(const struct lapic *l, unsigned r)
{
    u32 mask = regs[r].mask;

    if (r == R_LVT + LVT_TIMER && !l->cfg.tsc_deadline)
        mask &= ~TIMER_DEADLINE;
    return mask;
}

u64 lapic_mmio_read(struct lapic *l, u64 off, unsigned size)
{
    unsigned r = (off & 0xfff) >> 4;

    if (r >= R_N || !regs[r].how || (regs[r].how & X2)) {
        lapic_error(l, ESR_ILLEGAL_REG);
        return 0;
    }
    if (off & 0xf || !(regs[r].how & RD))
        return 0;
    return (u32)read_reg(l, r) & size_mask(size);
}

void lapic_mmio_write(struct lapic *l, u64 off, unsigned size, u64 val)
{
    unsigned r = (off & 0xfff) >> 4;

    if (r >= R_N || !regs[r].how || (regs[r].how & X2)) {
        lapic_error(l, ESR_ILLEGAL_REG);
        return;
    }
    if (off & 0xf || size != 4 || !(regs[r].how & WR))
        return;
    val &= writable_bits(l, r);
    if (r == R_ICR)
        val |= l->icr & ~0xffffffffull;
    write_reg(l, r, val);
}

/* SDM "x2APIC Register Address Space": APR, RRD, DFR and the ICR's upper half are gone, LDR and ID
 * cannot be written. */
static unsigned x2apic_how(unsigned r)
{
    if (r == R_ID || r == R_LDR)
        return RD;
    return r < R_N && !(regs[r].how & XAPIC_ONLY) ? regs[r].how : 0;
}

static int x2apic_read(struct lapic *l, unsigned r, u64 *val)
{
    if (!x2apic_mode(l) || !(x2apic_how(r) & RD))
        return -1;
    *val = read_reg(l, r);
    return 0;
}

static int x2apic_write(struct lapic *l, unsigned r, u64 val)
{
    u64 allowed;

    if (!x2apic_mode(l) || !(x2apic_how(r) & WR))
        return -1;
    allowed = writable_bits(l, r) | (r == R_ICR ? ~0xffffffffull : 0);
    if (val & ~allowed)
        return -1;
    if (r == R_LVT + LVT_TIMER && (val & LVT_TIMER_MODE) == LVT_TIMER_MODE)
        return -1;
    write_reg(l, r, val);
    return 0;
}

/* --- modes --- */

static void reset_regs(struct lapic *l)
{
    lapic_timer_stop(l);
    l->tpr = 0;
    l->ldr = 0;
    l->dfr = 0xffffffff;
    l->svr = 0xff;
    l->esr = l->esr_pending = 0;
    l->esr_fired = false;
    l->icr = 0;
    l->tmict = l->tdcr = 0;
    l->extint_once = false;
    for (unsigned i = 0; i < LVT_N; i++)
        l->lvt[i] = LVT_MASKED;
    memset(l->isr, 0, sizeof(l->isr));
    memset(l->tmr, 0, sizeof(l->tmr));
    memset(l->irr, 0, sizeof(l->irr));
    update(l);
}

/* The bits of IA32_APIC_BASE that are not reserved. */
static u64 base_bits(const struct lapic *l)
{
    u64 addr = ((1ull << l->cfg.phys_bits) - 1) & ~PAGE_MASK;

    return addr | APIC_BASE_BSP | APIC_BASE_EN | (l->cfg.x2apic ? APIC_BASE_EXTD : 0);
}

/* SDM "x2APIC State Transitions": xAPIC -> x2APIC -> disabled -> xAPIC, and xAPIC <-> disabled. */
static int write_base(struct lapic *l, u64 val)
{
    bool en = val & APIC_BASE_EN, extd = val & APIC_BASE_EXTD;
    u8 tpr = l->tpr;

    if (val & ~base_bits(l) || (extd && !en))
        return -1;
    if (x2apic_mode(l) ? en && !extd : extd && !hw_enabled(l))
        return -1;
    if (extd && !x2apic_mode(l))
        l->xapic_id = (u8)l->cfg.apic_id;
    l->base = val;
    if (!en) {
        /* The state is lost, and set again as after power-up; CR8 goes on working. */
        reset_regs(l);
        l->xapic_id = (u8)l->cfg.apic_id;
        l->tpr = tpr;
    }
    update(l);
    return 0;
}

int lapic_msr_read(struct lapic *l, u32 msr, u64 *val)
{
    if (msr == MSR_APIC_BASE) {
        *val = l->base;
        return 0;
    }
    if (msr == MSR_TSC_DEADLINE && l->cfg.tsc_deadline) {
        *val = l->tsc_deadline;
        return 0;
    }
    if (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST)
        return x2apic_read(l, msr - MSR_X2APIC_FIRST, val);
    return -1;
}

int lapic_msr_write(struct lapic *l, u32 msr, u64 val)
{
    if (msr == MSR_APIC_BASE)
        return write_base(l, val);
    if (msr == MSR_TSC_DEADLINE && l->cfg.tsc_deadline) {
        lapic_deadline_write(l, val);
        return 0;
    }
    if (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST)
        return x2apic_write(l, msr - MSR_X2APIC_FIRST, val);
    return -1;
}

void lapic_init(struct lapic *l, struct lapic_bus *b, const struct lapic_config *cfg)
{
    assert(b->n < LAPIC_MAX && cfg->apic_id < 255 && cfg->phys_bits >= 32 && cfg->phys_bits < 64);
    *l = (struct lapic){.cfg = *cfg, .bus = b};
    timer_init(&l->timer, cfg->clock, lapic_timer_fired, l);
    b->lapic[b->n++] = l;
    lapic_reset(l);
}

void lapic_reset(struct lapic *l)
{
    l->base = LAPIC_DEFAULT_BASE | APIC_BASE_EN | (l->cfg.bsp ? APIC_BASE_BSP : 0);
    l->xapic_id = (u8)l->cfg.apic_id;
    reset_regs(l);
}

void lapic_setup_virtual_wire(struct lapic *l)
{
    write_svr(l, SVR_ENABLED | 0x0f);
    write_lvt(l, LVT_LINT0, (l->cfg.bsp ? 0 : LVT_MASKED) | APIC_EXTINT << 8);
    write_lvt(l, LVT_LINT1, APIC_NMI << 8);
}

/* --- save and restore --- */

static void state_regs(struct lapic *l, struct state *s)
{
    state_val(s, l->base);
    state_val(s, l->xapic_id);
    state_val(s, l->tpr);
    state_val(s, l->ldr);
    state_val(s, l->dfr);
    state_val(s, l->svr);
    state_val(s, l->esr);
    state_val(s, l->esr_pending);
    state_val(s, l->icr);
    state_val(s, l->lvt);
    state_val(s, l->isr);
    state_val(s, l->tmr);
    state_val(s, l->irr);
    state_val(s, l->tmict);
    state_val(s, l->tdcr);
    state_val(s, l->count_start);
    state_val(s, l->tsc_deadline);
}

/* A bool from a damaged file may be neither 0 nor 1. */
static void state_flag(struct state *s, bool *flag)
{
    u8 v = *flag;

    state_val(s, v);
    *flag = v & 1;
}

static bool state_sane(const struct lapic *l)
{
    u32 low = l->isr[0] | l->tmr[0] | l->irr[0];

    if (l->base & ~base_bits(l) || (x2apic_mode(l) && !hw_enabled(l)))
        return false;
    for (unsigned i = 0; i < LVT_N; i++)
        if (l->lvt[i] & ~writable_bits(l, R_LVT + i))
            return false;
    if (l->svr & ~regs[R_SVR].mask || l->tdcr & ~regs[R_TDCR].mask || low & 0xffff)
        return false;
    if (l->counting && (!l->tmict || lapic_timer_mode(l) >= TIMER_DEADLINE))
        return false;
    return !l->tsc_deadline || lapic_timer_mode(l) == TIMER_DEADLINE;
}

void lapic_state(struct lapic *l, struct state *s)
{
    u64 now = clock_now(l->cfg.clock);

    state_section(s, "lapic", 1);
    state_regs(l, s);
    state_flag(s, &l->esr_fired);
    state_flag(s, &l->lint[0]);
    state_flag(s, &l->lint[1]);
    state_flag(s, &l->extint_once);
    state_flag(s, &l->counting);
    if (!s->loading)
        return;
    timer_cancel(&l->timer);
    if (!s->failed && !state_sane(l))
        state_fail(s, "lapic %u: impossible register values", l->cfg.apic_id);
    if (s->failed) {
        lapic_reset(l);
        return;
    }
    if (l->counting)
        timer_set(&l->timer, max_u64(l->count_start + lapic_timer_period(l), now));
    lapic_tsc_changed(l);
    l->intr_out = !(extint_wanted(l) || deliverable(l) >= 0); /* tell it whatever it was */
    update(l);
}
