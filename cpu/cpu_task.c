/*
 * cpu_task.c - hardware task switches (SDM vol. 3A, 7.2, 7.3).
 */
#include "cpu/cpu_ctl.h"
#include "cpu/cpu_far.h"
#include "cpu/cpu_fpu.h"
#include "cpu/cpu_mem.h"
#include "cpu/cpu_paging.h"

/* A TSS's dynamic part in one form for both widths. */
struct task {
    u32 eip, eflags;
    u32 gpr[8];
    u16 sel[6];
    u16 ldt;
    u32 cr3; /* 32-bit only */
    bool trap;
};

/* Offsets in a TSS (SDM vol. 3A, figures 7-2 and 7-10). */
struct layout {
    u8 size; /* of EIP and registers */
    u8 cr3;  /* 0: none */
    u8 eip, eflags, gpr, sel;
    u8 sel_step, nsel;
    u8 ldt;
    u8 limit; /* smallest */
};

static const struct layout tss16 = {
    .size = 2,
    .eip = 14,
    .eflags = 16,
    .gpr = 18,
    .sel = 34,
    .sel_step = 2,
    .nsel = 4,
    .ldt = 42,
    .limit = 43,
};
static const struct layout tss32 = {
    .size = 4,
    .cr3 = 28,
    .eip = 32,
    .eflags = 36,
    .gpr = 40,
    .sel = 72,
    .sel_step = 4,
    .nsel = 6,
    .ldt = 96,
    .limit = 103,
};

#define TSS32_TRAP 100

static const struct layout *layout_of(u32 attr)
{
    return attr & 8 ? &tss32 : &tss16;
}

static u32 get(struct cpu *c, u64 base, unsigned off, unsigned size)
{
    return (u32)cpu_sys_read(c, cpu_sys_la(c, base + off), size);
}

static void put(struct cpu *c, u64 base, unsigned off, unsigned size, u32 val)
{
    cpu_sys_write(c, cpu_sys_la(c, base + off), size, val);
}

static void read_task(struct cpu *c, u64 base, const struct layout *l, struct task *t)
{
    *t = (struct task){0};
    t->eip = get(c, base, l->eip, l->size);
    t->eflags = get(c, base, l->eflags, l->size);
    for (unsigned n = 0; n < 8; n++)
        t->gpr[n] = get(c, base, l->gpr + n * l->size, l->size);
    for (unsigned n = 0; n < l->nsel; n++)
        t->sel[n] = (u16)get(c, base, l->sel + n * l->sel_step, 2);
    t->ldt = (u16)get(c, base, l->ldt, 2);
    if (l->cr3) {
        t->cr3 = get(c, base, l->cr3, 4);
        t->trap = get(c, base, TSS32_TRAP, 2) & 1;
    }
}

static void save_task(struct cpu *c, const struct layout *l, u32 flags)
{
    u64 base = c->tr.base;
    put(c, base, l->eip, l->size, (u32)c->reg[X86_SLOT_RIP]);
    put(c, base, l->eflags, l->size, flags);
    for (unsigned n = 0; n < 8; n++)
        put(c, base, l->gpr + n * l->size, l->size, (u32)c->reg[n]);
    for (unsigned n = 0; n < l->nsel; n++)
        put(c, base, l->sel + n * l->sel_step, 2, c->seg[n].sel);
}

void cpu_task_check(struct cpu *c, u16 sel, bool busy, unsigned vec, struct desc *d)
{
    if (sel & 4)
        cpu_throw(c, vec, sel_err(sel));
    cpu_need_desc(c, sel, vec, d);
    unsigned type = desc_attr(d->lo) & (SEG_S | SEG_TYPE);
    bool ok = busy ? type == SYS_TSS16_BUSY || type == SYS_TSS32_BUSY
                   : type == SYS_TSS16_AVAIL || type == SYS_TSS32_AVAIL;
    if (!ok)
        cpu_throw(c, vec, sel_err(sel));
    if (!(d->lo & DESC_P))
        cpu_throw(c, EXC_NP, sel_err(sel));
    if (desc_limit(d->lo) < layout_of(desc_attr(d->lo))->limit)
        cpu_throw(c, EXC_TS, sel_err(sel));
}

/* --- the new task's context --- */

static NORETURN void task_fault(struct cpu *c, unsigned vec, u16 sel)
{
    cpu_throw(c, vec, sel_err(sel));
}

/* Reads a descriptor that must be code or data. */
static void task_desc(struct cpu *c, u16 sel, struct desc *d)
{
    if (sel_null(sel) || !cpu_read_desc(c, sel, d) || !(desc_attr(d->lo) & SEG_S))
        task_fault(c, EXC_TS, sel);
}

static void task_ldt(struct cpu *c, u16 sel)
{
    struct desc d;
    c->ldtr = (struct seg){.sel = sel, .attr = SEG_UNUSABLE};
    if (sel_null(sel))
        return;
    bool ok = !(sel & 4) && cpu_read_desc(c, sel, &d) &&
              (desc_attr(d.lo) & (SEG_S | SEG_TYPE | SEG_P)) == (SYS_LDT | SEG_P);
    if (!ok)
        task_fault(c, EXC_TS, sel);
    cpu_seg_from_desc(&c->ldtr, sel, d.lo);
}

static void task_cs(struct cpu *c, u16 sel)
{
    struct desc d;
    task_desc(c, sel, &d);
    u32 attr = desc_attr(d.lo);
    unsigned rpl = sel & 3, dpl = desc_dpl(d.lo);
    if (!(attr & SEG_CODE) || (attr & SEG_CONFORM ? dpl > rpl : dpl != rpl))
        task_fault(c, EXC_TS, sel);
    if (!(attr & SEG_P))
        task_fault(c, EXC_NP, sel);
    cpu_desc_accessed(c, &d);
    cpu_set_cs(c, sel, rpl, d.lo);
}

static void task_ss(struct cpu *c, u16 sel)
{
    struct desc d;
    task_desc(c, sel, &d);
    u32 attr = desc_attr(d.lo);
    if (attr & SEG_CODE || !(attr & SEG_WRITABLE) || (sel & 3) != c->cpl ||
        desc_dpl(d.lo) != c->cpl)
        task_fault(c, EXC_TS, sel);
    if (!(attr & SEG_P))
        task_fault(c, EXC_SS, sel);
    cpu_desc_accessed(c, &d);
    cpu_set_seg(c, SS, sel, d.lo);
}

static void task_data(struct cpu *c, unsigned seg, u16 sel)
{
    struct desc d;
    if (sel_null(sel))
        return;
    task_desc(c, sel, &d);
    u32 attr = desc_attr(d.lo);
    unsigned dpl = desc_dpl(d.lo);
    bool conforming = (attr & (SEG_CODE | SEG_CONFORM)) == (SEG_CODE | SEG_CONFORM);
    if ((attr & SEG_CODE && !(attr & SEG_READABLE)) ||
        (!conforming && (dpl < c->cpl || dpl < (sel & 3))))
        task_fault(c, EXC_TS, sel);
    if (!(attr & SEG_P))
        task_fault(c, EXC_NP, sel);
    cpu_desc_accessed(c, &d);
    cpu_set_seg(c, seg, sel, d.lo);
}

static void load_segments(struct cpu *c, const struct task *t)
{
    if (cpu_v86(c)) {
        c->cpl = 3;
        for (unsigned n = ES; n <= GS; n++)
            cpu_set_seg_real(c, n, t->sel[n]);
        return;
    }
    task_cs(c, t->sel[CS]);
    task_ss(c, t->sel[SS]);
    static const u8 data[] = {ES, DS, FS, GS};
    for (unsigned n = 0; n < ARRAY_SIZE(data); n++)
        task_data(c, data[n], t->sel[data[n]]);
}

/* Selectors are in place, their hidden parts not yet: nothing may be used through them. */
static void load_registers(struct cpu *c, const struct task *t, u32 extra_flags)
{
    c->reg[X86_SLOT_RIP] = t->eip;
    cpu_put_flags(c, t->eflags | extra_flags);
    for (unsigned n = 0; n < 8; n++)
        c->reg[n] = t->gpr[n];
    for (unsigned n = ES; n <= GS; n++)
        c->seg[n] = (struct seg){.sel = t->sel[n], .attr = SEG_UNUSABLE};
    c->cpl = cpu_v86(c) ? 3 : t->sel[CS] & 3;
}

/* The busy bits of both tasks' descriptors, and the link (SDM vol. 3A, table 7-2). */
static void mark_busy(struct cpu *c, u16 old, struct desc *d, u64 base, enum cpu_task_cause cause)
{
    struct desc prev;
    if (cause == TASK_CALL || cause == TASK_EVENT)
        put(c, base, 0, 2, old);
    if (cause != TASK_IRET)
        cpu_desc_busy(c, d, true);
    if ((cause == TASK_JMP || cause == TASK_IRET) && !sel_null(old) && cpu_read_desc(c, old, &prev))
        cpu_desc_busy(c, &prev, false);
}

static void trace(struct cpu *c, u16 old, u16 sel, const struct task *t)
{
    if (likely(!log_wants(c->log, TRACE_CPU)))
        return;
    cpu_leave(c);
    log_trace(c->log, TRACE_CPU, "cpu%u: task %04x -> %04x at %04x:%x", c->id, old, sel, t->sel[CS],
              t->eip);
}

static void load_cr3(struct cpu *c, u32 cr3)
{
    if (c->paging == PAGING_PAE && !cpu_load_pdptes(c, cr3))
        task_fault(c, EXC_GP, 0);
    cpu_write_cr3(c, cr3);
}

/* What can still fault: segments, and the error code that goes on the new task's stack. */
static void finish(struct cpu *c, const struct layout *to, const struct task *t, const u32 *err)
{
    if (to->cr3 && c->cr0 & CR0_PG)
        load_cr3(c, t->cr3);
    task_ldt(c, t->ldt);
    load_segments(c, t);
    cpu_update_mode(c);
    if (err)
        cpu_push(c, to->size, *err);
    cpu_check_rip(c, t->eip);
    if (t->trap) {
        c->db_pending |= DR6_BT;
        cpu_event_set(c, EV_SLOW);
    }
}

/*
 * A fault from here on is the new task's own, at its first instruction. Thrown from inside an
 * instruction, it would get RIP put back to where that was; so it is caught, and marked.
 */
static void finish_in_new_task(struct cpu *c, const struct layout *to, const struct task *t,
                               const u32 *err)
{
    void *outer[ARRAY_SIZE(c->unwind)];
    cpu_copy(outer, c->unwind, sizeof(outer));
    if (__builtin_setjmp(c->unwind)) {
        cpu_copy(c->unwind, outer, sizeof(outer));
        cpu_update_mode(c);
        c->exc.trap = true;
        cpu_unwind(c);
    }
    finish(c, to, t, err);
    cpu_copy(c->unwind, outer, sizeof(outer));
}

void cpu_task_switch(struct cpu *c, u16 sel, struct desc *d, enum cpu_task_cause cause, u32 flags,
                     const u32 *err)
{
    const struct layout *to = layout_of(desc_attr(d->lo));
    u64 base = desc_base(d->lo);
    bool nested = cause == TASK_CALL || cause == TASK_EVENT;
    u16 old = c->tr.sel;
    struct task t;

    if (c->tr.limit < layout_of(c->tr.attr)->limit)
        cpu_throw(c, EXC_TS, sel_err(old));
    read_task(c, base, to, &t);
    save_task(c, layout_of(c->tr.attr), flags);
    mark_busy(c, old, d, base, cause);
    trace(c, old, sel, &t);

    d->lo |= DESC_BUSY;
    cpu_set_tr(c, sel, d);
    c->cr0 |= CR0_TS;
    cpu_fpu_off(c);
    c->dr[7] &= ~0x155ull; /* local breakpoints: L0-L3, LE */
    load_registers(c, &t, nested ? FLAG_NT : 0);
    cpu_update_mode(c);
    finish_in_new_task(c, to, &t, err);
}
