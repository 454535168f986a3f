#include "cpu/cpu_debug.h"

static gva_t pc_of(const struct cpu *c)
{
    return (c->reg[X86_SLOT_RIP] + c->seg[CS].base) & c->la_mask;
}

/* --- the debugger's side --- */

static void mark_of(const struct cpu_debug_set *set, u64 *mark)
{
    for (unsigned i = 0; i < ARRAY_SIZE(set->mark); i++)
        mark[i] = 0;
    for (unsigned i = 0; i < set->n; i++) {
        unsigned off = set->point[i].la & PAGE_MASK;
        if (set->point[i].kind == CPU_DEBUG_EXEC)
            mark[off >> 6] |= BIT(off & 63);
    }
}

bool cpu_debug_mark(struct cpu_debug_set *set)
{
    u64 mark[ARRAY_SIZE(set->mark)];
    bool same = true;
    mark_of(set, mark);
    for (unsigned i = 0; i < ARRAY_SIZE(mark); i++) {
        same = same && mark[i] == set->mark[i];
        set->mark[i] = mark[i];
    }
    if (!same && !++set->marks)
        set->marks = 1;
    return !same;
}

void cpu_debug_continue(struct cpu *c)
{
    struct cpu_debug *d = c->debug;
    *d = (struct cpu_debug){.set = d->set};
    cpu_update_mode(c);
}

void cpu_debug_start_step(struct cpu *c, gva_t lo, gva_t hi)
{
    struct cpu_debug *d = c->debug;
    *d = (struct cpu_debug){.set = d->set, .stepping = true, .lo = lo, .hi = hi};
    cpu_update_mode(c);
}

/* --- the CPU's side --- */

static void stop(struct cpu *c, enum cpu_debug_why why, const struct cpu_debug_point *hit)
{
    if (c->debug->why == CPU_DEBUG_NONE) {
        c->debug->why = why;
        c->debug->hit = *hit;
    }
    cpu_event_set(c, EV_SLOW);
}

void cpu_debug_reach(struct cpu *c)
{
    if (c->debug->passing)
        return;
    c->debug->reached = true;
    cpu_event_set(c, EV_SLOW);
    cpu_unwind(c);
}

void cpu_debug_prepare(struct cpu *c)
{
    struct cpu_debug *d = c->debug;
    d->passing = false;
    /* An interrupt would carry every step off to its handler. */
    if (d->stepping && c->activity == CPU_RUNNING) {
        c->shadow = true;
        cpu_event_set(c, EV_SLOW);
    }
}

void cpu_debug_step(struct cpu *c)
{
    struct cpu_debug *d = c->debug;
    gva_t la = pc_of(c);
    bool first = d->stepping && !d->started; /* from where a breakpoint may be */
    for (unsigned i = 0; !first && i < d->set->n; i++) {
        const struct cpu_debug_point *p = &d->set->point[i];
        if (p->kind == CPU_DEBUG_EXEC && p->la == la) {
            stop(c, CPU_DEBUG_AT_BREAK, p);
            cpu_unwind(c);
        }
    }
    d->passing = true;
    d->started = true;
    d->rip = c->reg[X86_SLOT_RIP];
    d->insns = c->insns;
    if (d->reached) {
        d->reached = false;
        cpu_update_mode(c);
    }
}

bool cpu_debug_leave(struct cpu *c)
{
    struct cpu_debug *d = c->debug;
    if (d->why != CPU_DEBUG_NONE)
        return true;
    if (!d->stepping || !d->started || c->exc.pending)
        return false;
    bool same = c->reg[X86_SLOT_RIP] == d->rip;
    if (same && c->insns == d->insns)
        return false; /* unwound before anything was done */
    if (same && c->eflags & FLAG_RF && c->activity == CPU_RUNNING)
        return false; /* between two iterations of a string instruction */
    if (pc_of(c) - d->lo < d->hi - d->lo)
        return false;
    d->why = CPU_DEBUG_STEPPED;
    return true;
}

static bool meets(const struct cpu_debug_point *p, gva_t la, u64 size)
{
    return p->kind != CPU_DEBUG_EXEC && (la - p->la < p->len || p->la - la < size);
}

void cpu_debug_note(struct cpu *c, gva_t la, unsigned size, bool write)
{
    const struct cpu_debug_set *set = c->debug->set;
    for (unsigned i = 0; set->watches && i < set->n; i++) {
        const struct cpu_debug_point *p = &set->point[i];
        if (meets(p, la, size) && p->kind != (write ? CPU_DEBUG_READ : CPU_DEBUG_WRITE)) {
            c->code_stale = true; /* the block ends here */
            stop(c, CPU_DEBUG_AT_WATCH, p);
        }
    }
}

bool cpu_debug_watched(const struct cpu *c, gva_t page)
{
    const struct cpu_debug_set *set = c->debug->set;
    for (unsigned i = 0; set->watches && i < set->n; i++)
        if (meets(&set->point[i], align_down(page, PAGE_SIZE), PAGE_SIZE))
            return true;
    return false;
}
