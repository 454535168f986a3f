/*
 * cpu_far.c - far JMP and CALL: code segments, call gates, task gates, TSSs (SDM vol. 3A, 5.8, 7.3;
 * vol. 2, CALL and JMP).
 */
#include "cpu/cpu_far.h"
#include "cpu/cpu_mem.h"

void cpu_set_cs(struct cpu *c, u16 sel, unsigned cpl, u64 desc)
{
    c->cpl = (u8)cpl;
    cpu_seg_from_desc(&c->seg[CS], (u16)((sel & ~3u) | cpl), desc | DESC_ACCESSED);
}

static bool is_code64(const struct cpu *c, u64 desc)
{
    return cpu_long(c) && desc & DESC_L;
}

void cpu_check_target(struct cpu *c, u64 desc, u64 rip)
{
    bool ok = is_code64(c, desc) ? x86_canonical(rip) : rip <= desc_limit(desc);
    if (!ok)
        cpu_throw_gp(c, 0);
}

/* Far transfers in real and V86 mode. */
static void real_target(struct cpu *c, u16 sel, u64 off, const struct cpu_stack *s)
{
    u32 limit = cpu_v86(c) ? 0xffff : c->seg[CS].limit;
    if (off > limit)
        cpu_throw_gp(c, 0);
    cpu_set_seg_real(c, CS, sel);
    c->reg[X86_SLOT_RIP] = off;
    if (s)
        cpu_stack_commit(c, s);
    cpu_update_mode(c);
}

/* Pushes CS and the return address; nothing is committed. */
static void push_return(struct cpu *c, struct cpu_stack *s, unsigned size)
{
    cpu_stack_push(c, s, size, c->seg[CS].sel);
    cpu_stack_push(c, s, size, c->reg[X86_SLOT_RIP]);
}

/* Continues at sel:off, with privilege cpl. Nothing here may fault but the accessed bit. */
static void enter(struct cpu *c, u16 sel, unsigned cpl, struct desc *d, u64 off,
                  const struct cpu_stack *s)
{
    cpu_desc_accessed(c, d);
    cpu_set_cs(c, sel, cpl, d->lo);
    if (s)
        cpu_stack_commit(c, s);
    c->reg[X86_SLOT_RIP] = off;
    cpu_update_mode(c);
}

/* CS.L and CS.D must not both be set in long mode. */
static bool bad_width(const struct cpu *c, u64 desc)
{
    return cpu_long(c) && desc & DESC_L && desc & DESC_DB;
}

/* A code segment named by the instruction itself: no change of privilege. */
static void check_direct(struct cpu *c, u16 sel, const struct desc *d)
{
    unsigned dpl = desc_dpl(d->lo);
    bool ok = desc_attr(d->lo) & SEG_CONFORM ? dpl <= c->cpl : dpl == c->cpl && (sel & 3) <= c->cpl;
    if (!ok || bad_width(c, d->lo))
        cpu_throw_gp(c, sel_err(sel));
    if (!(d->lo & DESC_P))
        cpu_throw(c, EXC_NP, sel_err(sel));
}

static void direct(struct cpu *c, u16 sel, u64 off, unsigned opsize, struct desc *d, bool call)
{
    struct cpu_stack s;
    check_direct(c, sel, d);
    if (!is_code64(c, d->lo))
        off = (u32)off;
    if (call) {
        cpu_stack_current(c, &s);
        push_return(c, &s, opsize);
    }
    cpu_check_target(c, d->lo, off);
    enter(c, sel, c->cpl, d, off, call ? &s : NULL);
}

/* DPL of a gate or TSS against CPL and RPL; presence. */
static void check_system(struct cpu *c, u16 sel, const struct desc *d)
{
    unsigned dpl = desc_dpl(d->lo);
    if (dpl < c->cpl || dpl < (sel & 3))
        cpu_throw_gp(c, sel_err(sel));
    if (!(d->lo & DESC_P))
        cpu_throw(c, EXC_NP, sel_err(sel));
}

/* --- call gates --- */

struct gate {
    u16 sel;
    u8 size;   /* of what is pushed: 2, 4, 8 */
    u8 params; /* copied from the old stack, each `size` bytes */
    u64 off;
};

static void read_gate(struct cpu *c, u16 sel, const struct desc *d, struct gate *g)
{
    u64 off = (d->lo & 0xffff) | (d->lo >> 32 & 0xffff0000);
    bool wide = (desc_attr(d->lo) & SEG_TYPE) == SYS_CALL32;
    g->sel = (u16)(d->lo >> 16);
    g->params = d->lo >> 32 & 0x1f;
    if (cpu_long(c)) {
        if (d->hi >> 40 & 0x1f) /* the type field of the upper half */
            cpu_throw_gp(c, sel_err(sel));
        g->size = 8;
        g->params = 0;
        g->off = off | d->hi << 32;
    } else {
        g->size = wide ? 4 : 2;
        g->off = wide ? off : off & 0xffff;
    }
}

static void check_gate_code(struct cpu *c, const struct gate *g, struct desc *d, bool call)
{
    cpu_need_desc(c, g->sel, EXC_GP, d);
    u32 attr = desc_attr(d->lo);
    unsigned dpl = desc_dpl(d->lo);
    bool inner_ok = call || attr & SEG_CONFORM;
    bool ok = (attr & SEG_S) && (attr & SEG_CODE) && dpl <= c->cpl && (inner_ok || dpl == c->cpl);
    if (cpu_long(c) && (!(attr & SEG_L) || attr & SEG_DB))
        ok = false;
    if (!ok)
        cpu_throw_gp(c, sel_err(g->sel));
    if (!(attr & SEG_P))
        cpu_throw(c, EXC_NP, sel_err(g->sel));
}

/* The parameters lie on the old stack in the order in which they must lie on the new one. */
static void copy_params(struct cpu *c, struct cpu_stack *to, const struct gate *g)
{
    struct cpu_stack from;
    u32 val[31];
    cpu_stack_current(c, &from);
    for (unsigned n = 0; n < g->params; n++)
        val[n] = (u32)cpu_stack_pop(c, &from, g->size);
    for (unsigned n = g->params; n-- > 0;)
        cpu_stack_push(c, to, g->size, val[n]);
}

static void gate_inner(struct cpu *c, const struct gate *g, struct desc *code, unsigned cpl)
{
    struct cpu_stack s;
    if (cpu_long(c))
        cpu_stack_from_tss64(c, &s, cpl, 0);
    else
        cpu_stack_from_tss(c, &s, cpl);
    cpu_check_target(c, code->lo, g->off);
    cpu_stack_push(c, &s, g->size, c->seg[SS].sel);
    cpu_stack_push(c, &s, g->size, c->reg[RSP]);
    copy_params(c, &s, g);
    push_return(c, &s, g->size);
    enter(c, g->sel, cpl, code, g->off, &s);
}

static void gate_same(struct cpu *c, const struct gate *g, struct desc *code, bool call)
{
    struct cpu_stack s;
    cpu_check_target(c, code->lo, g->off);
    cpu_stack_current(c, &s);
    if (cpu_long(c)) /* 64-bit code is entered: RSP counts in full */
        s.mask = ~0ull;
    if (call)
        push_return(c, &s, g->size);
    enter(c, g->sel, c->cpl, code, g->off, call ? &s : NULL);
}

static void through_gate(struct cpu *c, u16 sel, const struct desc *d, bool call)
{
    struct gate g;
    struct desc code;
    check_system(c, sel, d);
    read_gate(c, sel, d, &g);
    check_gate_code(c, &g, &code, call);
    unsigned dpl = desc_dpl(code.lo);
    if (call && !(desc_attr(code.lo) & SEG_CONFORM) && dpl < c->cpl)
        gate_inner(c, &g, &code, dpl);
    else
        gate_same(c, &g, &code, call);
}

/* --- tasks --- */

static void to_task(struct cpu *c, u16 sel, bool call)
{
    struct desc d;
    cpu_task_check(c, sel, false, EXC_GP, &d);
    cpu_task_switch(c, sel, &d, call ? TASK_CALL : TASK_JMP, cpu_flags(c), NULL);
}

static void system_target(struct cpu *c, u16 sel, struct desc *d, bool call)
{
    unsigned type = desc_attr(d->lo) & SEG_TYPE;
    if (type == SYS_CALL32 || (type == SYS_CALL16 && !cpu_long(c))) {
        through_gate(c, sel, d, call);
        return;
    }
    bool tss = type == SYS_TSS16_AVAIL || type == SYS_TSS32_AVAIL;
    if (cpu_long(c) || !(tss || type == SYS_TASK_GATE))
        cpu_throw_gp(c, sel_err(sel));
    check_system(c, sel, d);
    to_task(c, tss ? sel : (u16)(d->lo >> 16), call);
}

static void far_transfer(struct cpu *c, u16 sel, u64 off, unsigned opsize, bool call)
{
    struct desc d;
    cpu_need_desc(c, sel, EXC_GP, &d);
    u32 attr = desc_attr(d.lo);
    if (!(attr & SEG_S))
        system_target(c, sel, &d, call);
    else if (attr & SEG_CODE)
        direct(c, sel, off, opsize, &d, call);
    else
        cpu_throw_gp(c, sel_err(sel));
}

void cpu_far_jmp(struct cpu *c, u16 sel, u64 off, unsigned opsize)
{
    if (cpu_realish(c))
        real_target(c, sel, off, NULL);
    else
        far_transfer(c, sel, off, opsize, false);
}

void cpu_far_call(struct cpu *c, u16 sel, u64 off, unsigned opsize)
{
    struct cpu_stack s;
    if (!cpu_realish(c)) {
        far_transfer(c, sel, off, opsize, true);
        return;
    }
    cpu_stack_current(c, &s);
    push_return(c, &s, opsize);
    real_target(c, sel, off, &s);
}
