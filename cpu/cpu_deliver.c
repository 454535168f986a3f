/*
 * cpu_deliver.c - exceptions and interrupts through the IVT and the IDT (SDM vol. 3A, 6.12 to 6.14,
 * 20.2, 20.3; vol. 2, INT n).
 *
 * Errors met on the way are thrown with plain error codes: cpu_exc_merge() adds the EXT bit.
 * Nothing of the interrupted program's state changes before the last thing that can fault.
 */
#include "cpu/cpu_event.h"
#include "cpu/cpu_far.h"
#include "cpu/cpu_mem.h"

/* Error code that names an IDT entry. */
static u32 idt_err(const struct cpu_exc *e)
{
    return e->vec * 8u + 2;
}

static bool is_fault(const struct cpu_exc *e)
{
    bool trap = e->trap && !e->has_err; /* a fault in a new task's context is marked trap, too */
    return !trap && !e->soft && !e->ext && e->vec != EXC_DB && e->vec != EXC_DF && e->vec != EXC_MC;
}

/* EFLAGS as they are pushed: RF is set by faults, so that the instruction's code breakpoint does
 * not come again (SDM vol. 3B, 17.3.1.1); a trap or interrupt finds it set in the middle of a
 * repeated string instruction only. */
static u32 saved_flags(const struct cpu *c, const struct cpu_exc *e)
{
    u32 fl = cpu_flags(c);
    if (is_fault(e))
        fl |= FLAG_RF;
    else if (e->soft)
        fl &= ~FLAG_RF;
    return fl;
}

/* --- real mode --- */

static void push_real_frame(struct cpu *c, struct cpu_stack *s, u16 flags)
{
    cpu_stack_push(c, s, 2, flags);
    cpu_stack_push(c, s, 2, c->seg[CS].sel);
    cpu_stack_push(c, s, 2, c->reg[X86_SLOT_RIP]);
}

static void enter_real(struct cpu *c, u32 vector, const struct cpu_stack *s)
{
    cpu_stack_commit(c, s);
    cpu_set_seg_real(c, CS, (u16)(vector >> 16));
    c->reg[X86_SLOT_RIP] = vector & 0xffff;
}

static void deliver_real(struct cpu *c, const struct cpu_exc *e)
{
    struct cpu_stack s;
    if (e->vec * 4u + 3 > c->idtr.limit)
        cpu_throw_gp(c, idt_err(e));
    u32 vector = (u32)cpu_sys_read(c, cpu_sys_la(c, c->idtr.base + e->vec * 4u), 4);
    cpu_stack_current(c, &s);
    push_real_frame(c, &s, (u16)cpu_flags(c));
    enter_real(c, vector, &s);
    cpu_put_flags(c, cpu_flags(c) & ~(FLAG_IF | FLAG_TF | FLAG_RF | FLAG_AC));
}

/* --- protected mode --- */

struct idt_gate {
    u64 off;
    u16 sel;
    u8 type; /* with the S bit */
    u8 ist;
    bool wide; /* 32-bit */
};

/* Reads and checks the gate; entries of long mode take 16 bytes. */
static void read_gate(struct cpu *c, const struct cpu_exc *e, struct idt_gate *g)
{
    unsigned size = cpu_long(c) ? 16 : 8;
    u32 at = e->vec * size;
    if (at + size - 1 > c->idtr.limit)
        cpu_throw_gp(c, idt_err(e));
    u64 lo = cpu_sys_read(c, cpu_sys_la(c, c->idtr.base + at), 8);
    u64 hi = cpu_long(c) ? cpu_sys_read(c, c->idtr.base + at + 8, 8) : 0;
    u64 off = (lo & 0xffff) | (lo >> 32 & 0xffff0000);
    g->type = lo >> 40 & 0x1f;
    g->wide = g->type & 8;
    g->off = cpu_long(c) ? off | hi << 32 : g->wide ? off : off & 0xffff;
    g->sel = (u16)(lo >> 16);
    g->ist = lo >> 32 & 7;

    bool wide_ok = g->type == SYS_INT32 || g->type == SYS_TRAP32;
    bool legacy_ok = g->type == SYS_INT16 || g->type == SYS_TRAP16 || g->type == SYS_TASK_GATE;
    if (!wide_ok && (cpu_long(c) || !legacy_ok))
        cpu_throw_gp(c, idt_err(e));
    if (e->soft && desc_dpl(lo) < c->cpl)
        cpu_throw_gp(c, idt_err(e));
    if (!(lo & DESC_P))
        cpu_throw(c, EXC_NP, idt_err(e));
}

/* The handler's code segment. Returns the privilege it will run with. */
static unsigned check_handler(struct cpu *c, const struct idt_gate *g, struct desc *cs)
{
    cpu_need_desc(c, g->sel, EXC_GP, cs);
    u32 attr = desc_attr(cs->lo);
    unsigned dpl = desc_dpl(cs->lo);
    bool ok = attr & SEG_S && attr & SEG_CODE && dpl <= c->cpl;
    if (cpu_long(c) && (!(attr & SEG_L) || attr & SEG_DB))
        ok = false;
    if (!ok)
        cpu_throw_gp(c, sel_err(g->sel));
    if (!(attr & SEG_P))
        cpu_throw(c, EXC_NP, sel_err(g->sel));
    unsigned cpl = attr & SEG_CONFORM ? c->cpl : dpl;
    if (cpu_v86(c) && cpl != 0)
        cpu_throw_gp(c, sel_err(g->sel));
    return cpl;
}

static void push_v86_segments(struct cpu *c, struct cpu_stack *s, unsigned size)
{
    static const u8 order[] = {GS, FS, DS, ES};
    for (unsigned n = 0; n < ARRAY_SIZE(order); n++)
        cpu_stack_push(c, s, size, c->seg[order[n]].sel);
}

static void push_frame(struct cpu *c, const struct cpu_exc *e, struct cpu_stack *s, unsigned size,
                       bool with_stack)
{
    if (with_stack) {
        cpu_stack_push(c, s, size, c->seg[SS].sel);
        cpu_stack_push(c, s, size, c->reg[RSP]);
    }
    cpu_stack_push(c, s, size, saved_flags(c, e));
    cpu_stack_push(c, s, size, c->seg[CS].sel);
    cpu_stack_push(c, s, size, c->reg[X86_SLOT_RIP]);
    if (e->has_err)
        cpu_stack_push(c, s, size, e->err);
}

static void enter(struct cpu *c, const struct idt_gate *g, unsigned cpl, struct desc *cs,
                  const struct cpu_stack *s)
{
    bool v86 = cpu_v86(c);
    bool keep_if = g->type == SYS_TRAP16 || g->type == SYS_TRAP32;
    cpu_desc_accessed(c, cs);
    cpu_set_cs(c, g->sel, cpl, cs->lo);
    cpu_stack_commit(c, s);
    c->reg[X86_SLOT_RIP] = g->off;
    u32 clear = FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | (keep_if ? 0 : FLAG_IF);
    cpu_put_flags(c, cpu_flags(c) & ~clear);
    if (v86) {
        static const u8 data[] = {ES, DS, FS, GS};
        for (unsigned n = 0; n < ARRAY_SIZE(data); n++)
            cpu_set_seg_null(c, data[n], 0);
    }
}

static void deliver_task(struct cpu *c, const struct cpu_exc *e, const struct idt_gate *g)
{
    struct desc d;
    cpu_task_check(c, g->sel, false, EXC_GP, &d);
    cpu_task_switch(c, g->sel, &d, TASK_EVENT, saved_flags(c, e), e->has_err ? &e->err : NULL);
}

static void deliver_protected(struct cpu *c, const struct cpu_exc *e)
{
    struct idt_gate g;
    struct desc cs;
    struct cpu_stack s;
    read_gate(c, e, &g);
    if (g.type == SYS_TASK_GATE) {
        deliver_task(c, e, &g);
        return;
    }
    unsigned cpl = check_handler(c, &g, &cs), size = g.wide ? 4 : 2;
    bool inner = cpl < c->cpl;
    if (inner)
        cpu_stack_from_tss(c, &s, cpl);
    else
        cpu_stack_current(c, &s);
    cpu_check_target(c, cs.lo, g.off);
    if (cpu_v86(c))
        push_v86_segments(c, &s, size);
    push_frame(c, e, &s, size, inner);
    enter(c, &g, cpl, &cs, &s);
}

/* --- long mode --- */

static void deliver_long(struct cpu *c, const struct cpu_exc *e)
{
    struct idt_gate g;
    struct desc cs;
    struct cpu_stack s;
    read_gate(c, e, &g);
    unsigned cpl = check_handler(c, &g, &cs);
    if (cpl < c->cpl || g.ist) {
        cpu_stack_from_tss64(c, &s, cpl, g.ist);
    } else {
        cpu_stack_current(c, &s);
        s.sp &= s.mask;
        s.mask = ~0ull;
    }
    cpu_check_target(c, cs.lo, g.off);
    s.sp &= ~0xfull;
    push_frame(c, e, &s, 8, true);
    enter(c, &g, cpl, &cs, &s);
}

/* --- all modes --- */

static void trace(struct cpu *c, const struct cpu_exc *e)
{
    enum trace cat = e->ext || e->soft ? TRACE_INTR : TRACE_FAULT;
    if (likely(!log_wants(c->log, cat)))
        return;
    cpu_leave(c);
    log_trace(c->log, cat, "cpu%u: %s %u err %x cr2 %llx at %04x:%llx cpl %u sp %04x:%llx", c->id,
              e->ext    ? "interrupt"
              : e->soft ? "int"
                        : "exception",
              e->vec, e->err, (unsigned long long)c->cr2, c->seg[CS].sel,
              (unsigned long long)c->reg[X86_SLOT_RIP], c->cpl, c->seg[SS].sel,
              (unsigned long long)c->reg[RSP]);
}

/* For the double-fault table external interrupts and NMI are benign whatever their vector; what
 * INT n meets is not nested at all (SDM vol. 3A, 6.13, 6.15). */
static s16 delivering(const struct cpu_exc *e)
{
    return e->soft ? -1 : e->ext ? EXC_NMI : e->vec;
}

void cpu_deliver(struct cpu *c)
{
    struct cpu_exc e = c->exc;
    c->exc.pending = false;
    c->delivering = delivering(&e);
    c->delivering_ext = !e.soft;
    if (!e.soft && !e.ext && !e.trap)
        c->db_pending = 0; /* the instruction will run, and hit its breakpoints, again */
    trace(c, &e);

    if (!cpu_protected(c))
        deliver_real(c, &e);
    else if (cpu_long(c))
        deliver_long(c, &e);
    else
        deliver_protected(c, &e);

    if (e.vec == EXC_DB && !e.soft && !e.ext)
        c->dr[7] &= ~(u64)DR7_GD;
    c->delivering = -1;
    c->shadow = c->shadow_ss = false;
    c->no_step = false;
    cpu_update_mode(c);
}

/* --- INT n --- */

/* CR4.VME: does the TSS's redirection bitmap send INT n to protected mode? (SDM vol. 3A, 20.3.2) */
static bool goes_to_monitor(struct cpu *c, unsigned vec)
{
    if ((c->tr.attr & SEG_TYPE) != SYS_TSS32_BUSY || c->tr.limit < 103)
        cpu_throw_gp(c, 0);
    u32 map = (u32)cpu_sys_read(c, cpu_sys_la(c, c->tr.base + 102), 2);
    u32 at = map - 32 + vec / 8;
    if (map < 32 || at > c->tr.limit)
        cpu_throw_gp(c, 0);
    return cpu_sys_read(c, cpu_sys_la(c, c->tr.base + at), 1) >> (vec & 7) & 1;
}

/* INT n in V86 mode through the virtual machine's own IVT at linear address 0, with its rights. */
static void v86_vector(struct cpu *c, unsigned vec)
{
    struct cpu_stack s;
    u32 fl = cpu_flags(c), clear = FLAG_TF | FLAG_RF;
    u32 pushed = fl;
    if (cpu_iopl(c) < 3) {
        pushed = (fl & ~FLAG_IF) | FLAG_IOPL | (fl & FLAG_VIF ? FLAG_IF : 0);
        clear |= FLAG_VIF;
    } else {
        clear |= FLAG_IF;
    }
    u32 vector = cpu_ld32(c, X86_SEG_FLAT, vec * 4);
    cpu_stack_current(c, &s);
    push_real_frame(c, &s, (u16)(pushed & ~FLAG_NT));
    enter_real(c, vector, &s);
    cpu_put_flags(c, fl & ~clear);
    cpu_update_mode(c);
}

void cpu_soft_int(struct cpu *c, unsigned vec, bool int3_or_into)
{
    bool stepped = c->eflags & FLAG_TF;
    if (cpu_v86(c) && !int3_or_into) {
        if (c->cr4 & CR4_VME && !goes_to_monitor(c, vec)) {
            v86_vector(c, vec);
            c->no_step = stepped;
            return;
        }
        if (cpu_iopl(c) < 3)
            cpu_throw_gp(c, 0);
    }
    c->exc = (struct cpu_exc){.pending = true, .soft = true, .vec = (u8)vec};
    cpu_deliver(c);
    c->no_step = stepped;
}
