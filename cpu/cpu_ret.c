/*
 * cpu_ret.c - far RET and IRET (SDM vol. 2, RET and IRET; vol. 3A, 5.8.6, 6.12.1, 7.3, 20.3).
 */
#include "cpu/cpu_event.h"
#include "cpu/cpu_far.h"
#include "cpu/cpu_mem.h"

static bool is_code64(const struct cpu *c, u64 desc)
{
    return cpu_long(c) && desc & DESC_L;
}

/* Loads CS:RIP of real or V86 mode. */
static void to_real(struct cpu *c, u16 sel, u64 rip, const struct cpu_stack *s)
{
    u32 limit = cpu_v86(c) ? 0xffff : c->seg[CS].limit;
    if (rip > limit)
        cpu_throw_gp(c, 0);
    cpu_set_seg_real(c, CS, sel);
    c->reg[X86_SLOT_RIP] = rip;
    cpu_stack_commit(c, s);
}

/* The code segment a return goes to. */
static void check_return_cs(struct cpu *c, u16 sel, struct desc *d)
{
    cpu_need_desc(c, sel, EXC_GP, d);
    u32 attr = desc_attr(d->lo);
    unsigned rpl = sel & 3, dpl = desc_dpl(d->lo);
    bool ok = (attr & SEG_S) && (attr & SEG_CODE) && rpl >= c->cpl &&
              (attr & SEG_CONFORM ? dpl <= rpl : dpl == rpl);
    if (cpu_long(c) && attr & SEG_L && attr & SEG_DB)
        ok = false;
    if (!ok)
        cpu_throw_gp(c, sel_err(sel));
    if (!(attr & SEG_P))
        cpu_throw(c, EXC_NP, sel_err(sel));
}

/*
 * Data segments that the outer level may not use become null (SDM vol. 3A, 5.8.6). The manual
 * speaks of the selector: processors leave the hidden base alone, and 64-bit code goes on using
 * that of FS and GS.
 */
static void drop_inner_segments(struct cpu *c)
{
    static const u8 data[] = {ES, DS, FS, GS};
    for (unsigned n = 0; n < ARRAY_SIZE(data); n++) {
        struct seg *s = &c->seg[data[n]];
        bool conforming = (s->attr & (SEG_CODE | SEG_CONFORM)) == (SEG_CODE | SEG_CONFORM);
        unsigned dpl = (s->attr & SEG_DPL) >> SEG_DPL_SHIFT;
        if (!(s->attr & SEG_UNUSABLE) && dpl < c->cpl && !conforming) {
            s->sel = 0;
            s->attr = SEG_UNUSABLE; /* the limits for quick checks follow by cpu_update_mode() */
        }
    }
}

/* Everything has been checked. */
static void commit_return(struct cpu *c, u16 sel, struct desc *cs, u64 rip,
                          const struct cpu_stack *s)
{
    bool outer = (sel & 3) > c->cpl;
    cpu_set_cs(c, sel, sel & 3, cs->lo);
    c->reg[X86_SLOT_RIP] = rip;
    cpu_stack_commit(c, s);
    if (outer)
        drop_inner_segments(c);
}

/* Pops SS:RSP from s, and makes s the stack so named. */
static void pop_stack(struct cpu *c, struct cpu_stack *s, unsigned size, unsigned cpl,
                      const struct desc *cs)
{
    u64 sp = cpu_stack_pop(c, s, size);
    u16 ss = cpu_stack_pop_sel(c, s, size);
    cpu_stack_outer(c, s, ss, sp, cpl, is_code64(c, cs->lo) && cpl < 3);
    if (is_code64(c, cs->lo))
        s->mask = ~0ull;
    else if (s->mask == 0xffff)
        s->sp = (c->reg[RSP] & ~0xffffull) | (sp & 0xffff);
}

void cpu_far_ret(struct cpu *c, unsigned opsize, u16 imm)
{
    struct cpu_stack s;
    struct desc cs;
    cpu_stack_current(c, &s);
    /* CS is read first: the processor's order, as CR2 shows. */
    struct cpu_stack top = s;
    cpu_stack_skip(&s, opsize);
    u16 sel = cpu_stack_pop_sel(c, &s, opsize);
    u64 rip = cpu_stack_pop(c, &top, opsize);
    cpu_stack_skip(&s, imm);
    if (cpu_realish(c)) {
        to_real(c, sel, rip, &s);
        cpu_update_mode(c);
        return;
    }
    check_return_cs(c, sel, &cs);
    if ((sel & 3) > c->cpl) {
        pop_stack(c, &s, opsize, sel & 3, &cs);
        cpu_stack_skip(&s, imm);
    } else if (is_code64(c, cs.lo)) {
        s.mask = ~0ull;
    }
    if (!is_code64(c, cs.lo))
        rip = (u32)rip;
    cpu_check_target(c, cs.lo, rip);
    cpu_desc_accessed(c, &cs);
    commit_return(c, sel, &cs, rip, &s);
    cpu_update_mode(c);
}

/* --- IRET --- */

/* Replaces the bits of `mask` in RFLAGS by those of fl. */
static void merge_flags(struct cpu *c, u32 fl, u32 mask)
{
    cpu_put_flags(c, (cpu_flags(c) & ~mask) | (fl & mask));
}

/* What protected mode's IRET and POPF may change at cpl, before IOPL and CPL 0 are looked at. */
#define FLAGS_USER16 (FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT)
#define FLAGS_USER32 (FLAGS_USER16 | FLAG_RF | FLAG_AC | FLAG_ID)

static u32 iret_mask(const struct cpu *c, unsigned opsize)
{
    u32 mask = opsize == 2 ? FLAGS_USER16 : FLAGS_USER32;
    if (c->cpl <= cpu_iopl(c))
        mask |= FLAG_IF;
    if (c->cpl == 0)
        mask |= FLAG_IOPL | (opsize == 2 ? 0 : FLAG_VIF | FLAG_VIP);
    return mask;
}

static void iret_real(struct cpu *c, unsigned opsize)
{
    struct cpu_stack s;
    cpu_stack_current(c, &s);
    u64 rip = cpu_stack_pop(c, &s, opsize);
    u16 sel = (u16)cpu_stack_pop(c, &s, opsize);
    u32 fl = (u32)cpu_stack_pop(c, &s, opsize);
    u32 mask = FLAGS_USER32 | FLAG_IF | (cpu_v86(c) ? 0 : FLAG_IOPL);
    to_real(c, sel, rip, &s);
    merge_flags(c, fl, opsize == 2 ? mask & 0xffff : mask);
}

/* V86 with IOPL below 3 under CR4.VME: IF is virtual (SDM vol. 3A, 20.3). */
static void iret_vme(struct cpu *c)
{
    struct cpu_stack s;
    cpu_stack_current(c, &s);
    u64 rip = cpu_stack_pop(c, &s, 2);
    u16 sel = (u16)cpu_stack_pop(c, &s, 2);
    u32 fl = (u32)cpu_stack_pop(c, &s, 2);
    if ((fl & FLAG_IF && c->eflags & FLAG_VIP) || fl & FLAG_TF)
        cpu_throw_gp(c, 0);
    to_real(c, sel, rip, &s);
    merge_flags(c, fl | (fl & FLAG_IF ? FLAG_VIF : 0), FLAGS_USER16 | FLAG_VIF);
}

static void iret_v86(struct cpu *c, unsigned opsize)
{
    if (cpu_iopl(c) == 3)
        iret_real(c, opsize);
    else if (opsize == 2 && c->cr4 & CR4_VME)
        iret_vme(c);
    else
        cpu_throw_gp(c, 0);
}

/* EFLAGS.NT: back to the task that the current TSS links to. */
static void iret_task(struct cpu *c)
{
    struct desc d;
    if (cpu_long(c))
        cpu_throw_gp(c, 0);
    u16 link = (u16)cpu_sys_read(c, cpu_sys_la(c, c->tr.base), 2);
    cpu_task_check(c, link, true, EXC_TS, &d);
    cpu_task_switch(c, link, &d, TASK_IRET, cpu_flags(c) & ~FLAG_NT, NULL);
}

/* From CPL 0 to V86 mode: RIP, CS and EFLAGS have been popped from s. */
static void to_v86(struct cpu *c, u64 rip, u16 cs, u32 fl, struct cpu_stack *s)
{
    u32 sp = (u32)cpu_stack_pop(c, s, 4);
    u16 sel[6] = {[CS] = cs};
    static const u8 order[] = {SS, ES, DS, FS, GS};
    for (unsigned n = 0; n < ARRAY_SIZE(order); n++)
        sel[order[n]] = (u16)cpu_stack_pop(c, s, 4);
    if (rip > 0xffff)
        cpu_throw_gp(c, 0);
    c->cpl = 3;
    cpu_put_flags(c, fl);
    for (unsigned n = ES; n <= GS; n++)
        cpu_set_seg_real(c, n, sel[n]);
    c->reg[X86_SLOT_RIP] = rip;
    c->reg[RSP] = sp;
}

static void iret_protected(struct cpu *c, unsigned opsize)
{
    struct cpu_stack s;
    struct desc cs;
    cpu_stack_current(c, &s);
    /* The processor's order: RFLAGS, CS, RIP. */
    struct cpu_stack top = s, mid = s;
    cpu_stack_skip(&mid, opsize);
    cpu_stack_skip(&s, 2 * (s64)opsize);
    u32 fl = (u32)cpu_stack_pop(c, &s, opsize);
    u16 sel = cpu_stack_pop_sel(c, &mid, opsize);
    u64 rip = cpu_stack_pop(c, &top, opsize);
    if (fl & FLAG_VM && c->cpl == 0 && opsize == 4 && !cpu_long(c)) {
        to_v86(c, rip, sel, fl, &s);
        return;
    }
    check_return_cs(c, sel, &cs);
    if ((sel & 3) > c->cpl || c->mode == X86_MODE64)
        pop_stack(c, &s, opsize, sel & 3, &cs);
    else if (is_code64(c, cs.lo))
        s.mask = ~0ull;
    if (!is_code64(c, cs.lo))
        rip = (u32)rip;
    cpu_check_target(c, cs.lo, rip);
    cpu_desc_accessed(c, &cs);
    u32 mask = iret_mask(c, opsize); /* by the old CPL and IOPL */
    merge_flags(c, fl, mask);
    commit_return(c, sel, &cs, rip, &s);
}

void cpu_iret(struct cpu *c, unsigned opsize)
{
    cpu_nmi_unblock(c); /* even if IRET faults (SDM vol. 3A, 6.7.1) */
    if (cpu_v86(c))
        iret_v86(c, opsize);
    else if (!cpu_protected(c))
        iret_real(c, opsize);
    else if (c->eflags & FLAG_NT)
        iret_task(c);
    else
        iret_protected(c, opsize);
    cpu_update_mode(c);
}
