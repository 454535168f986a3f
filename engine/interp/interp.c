/*
 * interp.c - the interpreter's loop, and its place behind the engine contract.
 *
 * Everything that can go wrong in an instruction unwinds to one setjmp in run(): faults of the
 * guest become pending exceptions, which the loop delivers before it goes on.
 */
#include "engine/interp/interp.h"

#include <stdio.h>
#include <stdlib.h>

#include "cpu/cpu_debug.h"
#include "cpu/cpu_event.h"
#include "cpu/cpu_fpu.h"
#include "cpu/cpu_mem.h"

/* --- one instruction at a time: TF, breakpoints, shadows, code outside RAM --- */

static void step_once(struct cpu *c, struct interp_cpu *ic)
{
    struct block *b = interp_find(c, ic);
    if (!b) {
        cpu_insn_step(c);
        return;
    }
    const struct op *op = &b->op[0];
    c->insn = &op->i;
    c->reg[X86_SLOT_RIP] += op->i.len;
    op->fn(c, &op->i);
    c->insn = NULL;
    c->insns++;
}

/* --trace insns: before each instruction. */
static void trace_insn(struct cpu *c, struct interp_cpu *ic)
{
    struct block *b = interp_find(c, ic);
    const u64 *r = c->reg;
    if (b)
        interp_bind(c, b);
    cpu_leave(c);
    log_emit(c->log,
             "cpu%u: %04x:%llx %s fl %x ax %llx cx %llx dx %llx bx %llx sp %llx bp %llx si %llx "
             "di %llx",
             c->id, c->seg[CS].sel, (unsigned long long)r[X86_SLOT_RIP],
             b && b->op[0].i.len ? x86_op_name(x86_row(&b->op[0].i)->op) : "?", cpu_flags(c),
             (unsigned long long)r[RAX], (unsigned long long)r[RCX], (unsigned long long)r[RDX],
             (unsigned long long)r[RBX], (unsigned long long)r[RSP], (unsigned long long)r[RBP],
             (unsigned long long)r[RSI], (unsigned long long)r[RDI]);
}

/* With all that hangs on single instructions (SDM vol. 3B, 17.3 and vol. 3A, 6.8.3). */
static void step(struct cpu *c, struct interp_cpu *ic)
{
    if (unlikely(c->debug))
        cpu_debug_step(c);
    if (unlikely(log_wants(c->log, TRACE_INSN)))
        trace_insn(c, ic);
    bool trap = c->eflags & FLAG_TF, resume = c->eflags & FLAG_RF;
    if (!resume)
        cpu_check_code_breakpoint(c, (c->reg[X86_SLOT_RIP] + c->seg[CS].base) & c->la_mask);
    bool shadow = c->shadow || c->shadow_ss;
    c->shadow = false;
    c->shadow_ss = false;
    if (resume) /* holds for one instruction; IRET and POPF may set it anew */
        c->eflags &= ~FLAG_RF;
    if (shadow || resume)
        cpu_update_mode(c);
    step_once(c, ic);
    if (trap)
        c->db_pending |= DR6_BS;
    if (c->db_pending && !c->shadow_ss)
        cpu_debug_trap(c, 0);
}

/* --- the loop --- */

void interp_run_block(struct cpu *c, struct interp_cpu *ic, struct block *b)
{
    const struct op *op = b->op, *end = op + b->nops;
    ic->running = b;
    do {
        c->insn = &op->i;
        c->reg[X86_SLOT_RIP] += op->i.len;
        op->fn(c, &op->i);
        op++;
    } while (op < end && likely(!c->code_stale));
    c->insn = NULL;
    c->insns += (u64)(op - b->op);
}

/* Blocks until an event, a halt or the end of the budget. */
static void run_blocks(struct cpu *c, struct interp_cpu *ic, u64 stop_at)
{
    while (likely(!cpu_event_pending(c)) && c->activity == CPU_RUNNING && c->insns < stop_at) {
        struct block *b = interp_find(c, ic);
        c->code_stale = false;
        cpu_clear_rf(c);
        /* In 16- and 32-bit code a block must also lie within CS.limit, to its last byte. */
        if (unlikely(!b) || (unlikely(c->mode != X86_MODE64) &&
                             unlikely(c->reg[X86_SLOT_RIP] + b->bytes - 1 > c->seg[CS].limit))) {
            cpu_insn_step(c);
            continue;
        }
        interp_run_block(c, ic, b);
    }
}

/* An exception has unwound to run(): put RIP back to the instruction that raised it. */
void interp_settle(struct cpu *c, struct interp_cpu *ic)
{
    if (c->insn) {
        if (unlikely(c->insn->scale == INTERP_LATE))
            interp_bind_insn(c, c->insn);
        cpu_fix_noncanonical(c, c->insn);
        if (!c->exc.pending || !c->exc.trap)
            c->reg[X86_SLOT_RIP] -= c->insn->len;
        c->insn = NULL;
    }
    ic->exceptions += c->exc.pending;
}

bool interp_leave(struct cpu *c, struct engine_result *res)
{
    u32 ev = atomic_load_explicit(&c->events, memory_order_relaxed);
    if (c->activity == CPU_SHUTDOWN) {
        res->exit = EXIT_SHUTDOWN;
        res->at.rip = c->reg[X86_SLOT_RIP];
        return true;
    }
    if (unlikely(c->debug) && cpu_debug_leave(c)) {
        res->exit = EXIT_DEBUG;
        res->at.rip = c->reg[X86_SLOT_RIP];
        return true;
    }
    if (ev & EV_EXIT) {
        cpu_event_clear(c, EV_EXIT);
        res->exit = EXIT_INTERRUPTED;
        return true;
    }
    if (c->activity != CPU_RUNNING && !cpu_wakeable(c)) {
        res->exit = EXIT_HALT;
        return true;
    }
    return false;
}

bool interp_prepare(struct cpu *c, struct interp_cpu *ic)
{
    if (unlikely(c->debug))
        cpu_debug_prepare(c);
    if (c->exc.pending) {
        cpu_exc_merge(c);
        if (c->exc.pending)
            cpu_deliver(c);
        return false;
    }
    if (atomic_load_explicit(&c->events, memory_order_relaxed) & EV_FLUSH) {
        cpu_event_clear(c, EV_FLUSH);
        cpu_tlb_flush(c);
    }
    if (cpu_event_pending(c) && !c->shadow && !c->shadow_ss) {
        cpu_service_events(c);
        if (c->exc.pending)
            return false;
    }
    if (c->activity != CPU_RUNNING)
        return false;
    if (c->shadow || c->shadow_ss || cpu_event_pending(c) || log_wants(c->log, TRACE_INSN)) {
        step(c, ic);
        return false;
    }
    return true;
}

static void run(struct engine *en, struct cpu *c, u64 max_insns, struct engine_result *res)
{
    struct interp_cpu *ic = c->engine;
    *res = (struct engine_result){.exit = EXIT_BUDGET};
    ic->budget = max_insns ? c->insns + max_insns : UINT64_MAX;
    if (__builtin_setjmp(c->unwind))
        interp_settle(c, ic);
    while (!interp_leave(c, res)) {
        if (c->insns >= ic->budget)
            break;
        if (max_insns == 1 && !c->exc.pending && c->activity == CPU_RUNNING)
            cpu_event_set(c, EV_SLOW); /* exactly one */
        if (interp_prepare(c, ic))
            run_blocks(c, ic, ic->budget);
    }
    cpu_leave(c);
    if (max_insns == 1)
        cpu_update_mode(c); /* EV_SLOW as the guest's state has it */
}

/* --- the contract --- */

static struct engine *create(const struct engine_config *cfg, struct err *e)
{
    struct interp *en = calloc(1, sizeof(*en));
    if (!en) {
        err_set(e, "out of memory creating the interpreter");
        return NULL;
    }
    en->engine.ops = &engine_interp;
    en->cfg = *cfg;
    /* A boot of Linux keeps some 100,000 instructions hot: 6 MiB; more CPUs share the sum. */
    en->arena_size = max_u64(6 * MiB / (cfg->ncpus ? cfg->ncpus : 1), 1 * MiB);
    return &en->engine;
}

static void destroy(struct engine *en)
{
    free(en);
}

static int cpu_attach(struct engine *en, struct cpu *c, struct err *e)
{
    struct interp_cpu *ic = calloc(1, sizeof(*ic));
    if (!ic)
        return err_set(e, "out of memory creating a virtual CPU");
    size_t arena = ((struct interp *)en)->arena_size;
    if (interp_cache_init(ic, arena, arena, e) < 0) {
        free(ic);
        return -1;
    }
    ic->fpu_gen = cpu_fpu_generation(c);
    c->engine = ic;
    return 0;
}

static void cpu_detach(struct engine *en, struct cpu *c)
{
    struct interp_cpu *ic = c->engine;
    interp_cache_free(ic);
    free(ic);
    c->engine = NULL;
}

/* The loop looks at cpu.events before each block: setting them was enough. */
static void kick(struct engine *en, struct cpu *c)
{
}

static void same_state(struct engine *en, struct cpu *c)
{
}

static void stats(struct engine *en, struct cpu *c, void (*line)(void *arg, const char *text),
                  void *arg)
{
    const struct interp_cpu *ic = c->engine;
    char text[160];
    snprintf(text, sizeof(text),
             "cpu%u: %llu instructions, %llu decoded, %llu look-ups by physical address, "
             "%llu exceptions, %llu cache flushes",
             c->id, (unsigned long long)c->insns, (unsigned long long)ic->decoded,
             (unsigned long long)ic->lookups, (unsigned long long)ic->exceptions,
             (unsigned long long)ic->flushes);
    line(arg, text);
}

const struct engine_ops engine_interp = {
    .name = "interp",
    .create = create,
    .destroy = destroy,
    .cpu_attach = cpu_attach,
    .cpu_detach = cpu_detach,
    .run = run,
    .kick = kick,
    .get_state = same_state,
    .put_state = same_state,
    .stats = stats,
};
