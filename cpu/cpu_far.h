/*
 * cpu_far.h - what far transfers, event delivery and task switches share: descriptor checks that
 * name their exception, stacks that are used before they become SS:RSP, and the transfers
 * themselves.
 *
 * Sources: SDM vol. 3A, chapters 5 (protection), 6 (interrupts), 7 (tasks); vol. 2, CALL, RET,
 * IRET.
 */
#ifndef POPF_CPU_FAR_H
#define POPF_CPU_FAR_H

#include "cpu/cpu.h"
#include "cpu/cpu_seg.h"

/* Bits of a descriptor's first 8 bytes. */
#define DESC_ACCESSED BIT(40)
#define DESC_BUSY     BIT(41) /* of a TSS */
#define DESC_P        BIT(47)
#define DESC_L        BIT(53)
#define DESC_DB       BIT(54)

/* All of RFLAGS that can be set. */
#define FLAGS_ALL                                                                                  \
    (FLAGS_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM |         \
     FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID)

static inline bool sel_null(u16 sel)
{
    return (sel & 0xfffc) == 0;
}

/* The error code that names a selector; EXT is added by cpu_exc_merge(). */
static inline u32 sel_err(u16 sel)
{
    return sel & 0xfffc;
}

/* Linear addresses of system structures do not depend on the code being run, but on the mode. */
static inline gva_t cpu_sys_la(const struct cpu *c, u64 la)
{
    return cpu_long(c) ? la : (u32)la;
}

/* RFLAGS without the consequences: cpu_update_mode() is still to come. */
static inline void cpu_put_flags(struct cpu *c, u32 fl)
{
    c->aflags = aflags_pack(fl);
    c->eflags = fl & FLAGS_ALL & ~FLAGS_ARITH;
}

/* --- descriptors (cpu_seg.c) --- */

/* Reads a descriptor or throws vec: with error code 0 for null selectors. */
void cpu_need_desc(struct cpu *c, u16 sel, unsigned vec, struct desc *d);

/* All checks of a stack or data segment for privilege cpl. `vec` is #GP or #TS. */
void cpu_check_ss(struct cpu *c, u16 sel, unsigned cpl, unsigned vec, struct desc *d);
void cpu_check_data(struct cpu *c, u16 sel, unsigned cpl, unsigned vec, struct desc *d);

/* In memory and in *d. */
void cpu_desc_accessed(struct cpu *c, struct desc *d);
void cpu_desc_busy(struct cpu *c, struct desc *d, bool busy);

void cpu_seg_from_desc(struct seg *s, u16 sel, u64 desc);
void cpu_set_seg_null(struct cpu *c, unsigned seg, u16 sel);
void cpu_set_tr(struct cpu *c, u16 sel, const struct desc *d);
void cpu_load_ldt_as(struct cpu *c, u16 sel, unsigned bad, unsigned absent);

/* --- stacks (cpu_stack.c) --- */

/* A stack that is pushed on or popped from while SS:RSP still stand. */
struct cpu_stack {
    u64 sp, mask;  /* only the bits in mask count as offset */
    struct seg ss; /* rd_end, wr_end not valid */
    u16 err;       /* error code of its #SS */
    u8 cpl;        /* whose rights its accesses have */
    bool switched; /* ss is to be loaded by commit */
};

/* The current one. */
void cpu_stack_current(const struct cpu *c, struct cpu_stack *s);

/* The one that the TSS names for privilege cpl. Throws #TS, #SS. */
void cpu_stack_from_tss(struct cpu *c, struct cpu_stack *s, unsigned cpl);

/* The same in long mode: a null SS; ist 1..7 takes RSP from there. */
void cpu_stack_from_tss64(struct cpu *c, struct cpu_stack *s, unsigned cpl, unsigned ist);

/* In long mode, for privilege cpl, with what IRET or RET popped. The SS may be null if ss_null_ok.
 */
void cpu_stack_outer(struct cpu *c, struct cpu_stack *s, u16 sel, u64 sp, unsigned cpl,
                     bool ss_null_ok);

void cpu_stack_push(struct cpu *c, struct cpu_stack *s, unsigned size, u64 val);
u64 cpu_stack_pop(struct cpu *c, struct cpu_stack *s, unsigned size);

/* A selector takes up `size` bytes; processors read two of them. */
static inline u16 cpu_stack_pop_sel(struct cpu *c, struct cpu_stack *s, unsigned size)
{
    u16 sel = (u16)cpu_stack_pop(c, s, 2);
    s->sp = (s->sp & ~s->mask) | ((s->sp + size - 2) & s->mask);
    return sel;
}
void cpu_stack_skip(struct cpu_stack *s, s64 bytes);

/* Makes it SS:RSP. c->cpl must be the new one already. */
void cpu_stack_commit(struct cpu *c, const struct cpu_stack *s);

/* --- transfers (cpu_far.c, cpu_ret.c) --- */

/* Loads CS from a checked descriptor and sets CPL: then comes cpu_update_mode(). */
void cpu_set_cs(struct cpu *c, u16 sel, unsigned cpl, u64 desc);

/* #GP(0) if rip is not within the code segment to be. */
void cpu_check_target(struct cpu *c, u64 desc, u64 rip);

void cpu_far_jmp(struct cpu *c, u16 sel, u64 off, unsigned opsize);
void cpu_far_call(struct cpu *c, u16 sel, u64 off, unsigned opsize);
void cpu_far_ret(struct cpu *c, unsigned opsize, u16 imm);
void cpu_iret(struct cpu *c, unsigned opsize);

/* --- tasks (cpu_task.c) --- */

enum cpu_task_cause { TASK_JMP, TASK_CALL, TASK_IRET, TASK_EVENT };

/* Checks that sel names a TSS (available, or busy for IRET) to switch to. `vec` for what it is not.
 */
void cpu_task_check(struct cpu *c, u16 sel, bool busy, unsigned vec, struct desc *d);

/*
 * Switches to the task of a checked TSS. `flags` is what the old task's EFLAGS are saved as;
 * *err is pushed on the new task's stack. What throws before the new task's registers are in place
 * leaves the old task; what throws afterwards is marked exc.trap so that RIP is not put back.
 */
void cpu_task_switch(struct cpu *c, u16 sel, struct desc *d, enum cpu_task_cause cause, u32 flags,
                     const u32 *err);

#endif
