/*
 * cpu_stack.c - stacks used before they become SS:RSP: those of an inner privilege level, and the
 * current one while something after the push or pop may still fault.
 */
#include "cpu/cpu_far.h"
#include "cpu/cpu_mem.h"

void cpu_stack_current(const struct cpu *c, struct cpu_stack *s)
{
    *s = (struct cpu_stack){
        .sp = c->reg[RSP],
        .mask = cpu_sp_mask(c),
        .ss = c->seg[SS],
        .cpl = c->cpl,
    };
}

static u64 width_mask(const struct seg *ss)
{
    return ss->attr & SEG_DB ? 0xffffffffull : 0xffffull;
}

/* SDM vol. 3A, 7.2.1: SSn:ESPn of the current TSS. */
void cpu_stack_from_tss(struct cpu *c, struct cpu_stack *s, unsigned cpl)
{
    bool wide = (c->tr.attr & SEG_TYPE) == SYS_TSS32_BUSY;
    u32 off = wide ? 4 + 8 * cpl : 2 + 4 * cpl;
    if (off + (wide ? 5 : 3) > c->tr.limit)
        cpu_throw(c, EXC_TS, sel_err(c->tr.sel));
    gva_t at = c->tr.base + off;
    u64 sp = cpu_sys_read(c, cpu_sys_la(c, at), wide ? 4 : 2);
    u16 sel = (u16)cpu_sys_read(c, cpu_sys_la(c, at + (wide ? 4 : 2)), 2);

    struct desc d;
    cpu_check_ss(c, sel, cpl, EXC_TS, &d);
    cpu_desc_accessed(c, &d);
    *s = (struct cpu_stack){.sp = sp, .err = sel_err(sel), .cpl = (u8)cpl, .switched = true};
    cpu_seg_from_desc(&s->ss, sel, d.lo);
    s->mask = width_mask(&s->ss);
}

static void set_null_ss(struct seg *ss, u16 sel, unsigned cpl)
{
    *ss = (struct seg){.sel = sel, .attr = SEG_UNUSABLE | cpl << SEG_DPL_SHIFT};
}

/* SDM vol. 3A, 6.14.4, 7.7. */
void cpu_stack_from_tss64(struct cpu *c, struct cpu_stack *s, unsigned cpl, unsigned ist)
{
    u32 off = ist ? 36 + 8 * (ist - 1) : 4 + 8 * cpl;
    if (off + 7 > c->tr.limit)
        cpu_throw(c, EXC_TS, sel_err(c->tr.sel));
    *s = (struct cpu_stack){
        .sp = cpu_sys_read(c, c->tr.base + off, 8),
        .mask = ~0ull,
        .cpl = (u8)cpl,
        .switched = cpl < c->cpl,
    };
    if (s->switched)
        set_null_ss(&s->ss, (u16)cpl, cpl);
}

void cpu_stack_outer(struct cpu *c, struct cpu_stack *s, u16 sel, u64 sp, unsigned cpl,
                     bool ss_null_ok)
{
    *s = (struct cpu_stack){.sp = sp, .mask = ~0ull, .cpl = (u8)cpl, .switched = true};
    if (sel_null(sel) && ss_null_ok) {
        set_null_ss(&s->ss, sel, cpl);
        return;
    }
    struct desc d;
    cpu_check_ss(c, sel, cpl, EXC_GP, &d);
    cpu_desc_accessed(c, &d);
    cpu_seg_from_desc(&s->ss, sel, d.lo);
    s->mask = width_mask(&s->ss);
}

/* True if [off, off+size) lies in the segment (SDM vol. 3A, 5.3). */
static bool fits(const struct cpu *c, const struct seg *s, u64 off, unsigned size)
{
    if (s->attr & SEG_UNUSABLE)
        return false;
    u64 last = off + size - 1;
    if (cpu_protected(c) && s->attr & SEG_EXPDOWN)
        return off > s->limit && last <= width_mask(s);
    return last <= s->limit || s->limit == UINT32_MAX; /* cpu_seg_derive() */
}

static gva_t locate(struct cpu *c, const struct cpu_stack *s, unsigned size)
{
    u64 off = s->sp & s->mask;
    if (s->mask == ~0ull) {
        if (!x86_canonical(off) || !x86_canonical(off + size - 1))
            cpu_throw(c, EXC_SS, s->err);
        return off;
    }
    if (!fits(c, &s->ss, off, size))
        cpu_throw(c, EXC_SS, s->err);
    return (u32)(s->ss.base + off);
}

void cpu_stack_skip(struct cpu_stack *s, s64 bytes)
{
    s->sp = (s->sp & ~s->mask) | ((s->sp + (u64)bytes) & s->mask);
}

void cpu_stack_push(struct cpu *c, struct cpu_stack *s, unsigned size, u64 val)
{
    cpu_stack_skip(s, -(s64)size);
    gva_t la = locate(c, s, size);
    if (s->cpl < 3 && c->cpl == 3)
        cpu_sys_write(c, la, size, val); /* with the rights of the level being entered */
    else
        cpu_st(c, X86_SEG_FLAT, la, size, val);
}

u64 cpu_stack_pop(struct cpu *c, struct cpu_stack *s, unsigned size)
{
    u64 val = cpu_ld(c, X86_SEG_FLAT, locate(c, s, size), size);
    cpu_stack_skip(s, size);
    return val;
}

void cpu_stack_commit(struct cpu *c, const struct cpu_stack *s)
{
    if (s->switched) {
        c->seg[SS] = s->ss;
        if (!(s->ss.attr & SEG_UNUSABLE))
            c->seg[SS].attr |= SEG_ACCESSED;
        /* As 64-bit code has it; for any other cpu_update_mode() is about to derive them. */
        c->seg[SS].rd_end = c->seg[SS].wr_end = UINT64_MAX;
    }
    c->reg[RSP] = s->mask == 0xffffffffull ? (u32)s->sp : s->sp;
}
