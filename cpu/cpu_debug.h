/*
 * cpu_debug.h - a debugger's breakpoints, watchpoints and steps, apart from the guest's own
 * (DR0-DR7, TF), which it neither sees nor touches.
 *
 * Guest memory is not patched. An engine that keeps decoded code makes a breakpoint's address the
 * start of a block ("marked"), and calls cpu_debug_reach() when it comes to one: the rest is
 * checked by cpu_debug_step(), before the one instruction that is then stepped. Marks know offsets
 * in pages only, since blocks are kept by physical address; the exact check is made with the linear
 * address. Watched pages stay out of the TLB, as with the guest's own data breakpoints.
 *
 * run() then ends with EXIT_DEBUG; RIP is at the breakpoint, or behind the instruction that touched
 * what is watched.
 */
#ifndef POPF_CPU_DEBUG_H
#define POPF_CPU_DEBUG_H

#include "cpu/cpu.h"

enum cpu_debug_kind {
    CPU_DEBUG_EXEC,
    CPU_DEBUG_WRITE,
    CPU_DEBUG_READ,
    CPU_DEBUG_ACCESS,
};

struct cpu_debug_point {
    gva_t la;
    u32 len; /* bytes, from 1 */
    u8 kind; /* enum cpu_debug_kind */
    u8 tag;  /* the debugger's own */
};

#define CPU_DEBUG_POINTS 512

/* What all CPUs of a machine look at. It changes only while they stand. */
struct cpu_debug_set {
    unsigned n;
    bool watches; /* some point is not CPU_DEBUG_EXEC */
    struct cpu_debug_point point[CPU_DEBUG_POINTS];
    /* The marks that decoded code has, or will have: changed by cpu_debug_mark() only. */
    u32 marks; /* a generation; 0 is no marks at all */
    u64 mark[PAGE_SIZE / 64];
};

enum cpu_debug_why { CPU_DEBUG_NONE, CPU_DEBUG_STEPPED, CPU_DEBUG_AT_BREAK, CPU_DEBUG_AT_WATCH };

/* Of one CPU: written by whoever may write struct cpu. */
struct cpu_debug {
    const struct cpu_debug_set *set;

    enum cpu_debug_why why;     /* run() is to end */
    struct cpu_debug_point hit; /* CPU_DEBUG_AT_BREAK, CPU_DEBUG_AT_WATCH */

    bool stepping;
    bool started;   /* the step's first instruction has been tried */
    gva_t lo, hi;   /* more steps while the linear RIP is in here */
    u64 rip, insns; /* before the instruction */
    bool reached;   /* a marked block is next: it is stepped */
    bool passing;   /* within a step: marks do not count */
};

/* Brings the marks up to date: true if they changed (flush the TLBs of all CPUs then). */
bool cpu_debug_mark(struct cpu_debug_set *set);

/* How a CPU is to go on. Leaves c->debug->why empty. */
void cpu_debug_continue(struct cpu *c);
void cpu_debug_start_step(struct cpu *c, gva_t lo, gva_t hi);

/* --- for cpu/ and engines; c->debug is not NULL --- */

static inline bool cpu_debug_marked(const struct cpu *c, unsigned offset)
{
    return c->debug->set->mark[offset >> 6] >> (offset & 63) & 1;
}

static inline u32 cpu_debug_marks(const struct cpu *c)
{
    return c->debug ? c->debug->set->marks : 0;
}

/* Does this CPU have to go step by step? */
static inline bool cpu_debug_slow(const struct cpu *c)
{
    return c->debug->stepping || c->debug->reached || c->debug->why != CPU_DEBUG_NONE;
}

/* A marked block is about to be run: unwinds, so that it is stepped; returns if that is happening.
 */
void cpu_debug_reach(struct cpu *c);

/* Before anything else is looked at between instructions. */
void cpu_debug_prepare(struct cpu *c);

/* Before each stepped instruction: unwinds at a breakpoint. */
void cpu_debug_step(struct cpu *c);

/* True if run() is to end with EXIT_DEBUG. */
bool cpu_debug_leave(struct cpu *c);

/* Data was accessed: notes hits. */
void cpu_debug_note(struct cpu *c, gva_t la, unsigned size, bool write);

/* True if a watchpoint lies on the page. */
bool cpu_debug_watched(const struct cpu *c, gva_t page);

#endif
