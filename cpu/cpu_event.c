/*
 * cpu_event.c - what is due between instructions, exception classes, and debug conditions
 * (SDM vol. 3A, 6.9, 6.15; vol. 3B, chapter 17). Delivery itself is in cpu_deliver.c.
 */
#include "cpu/cpu_event.h"

#include "cpu/cpu_cpuid.h"
#include "cpu/cpu_debug.h"
#include "cpu/cpu_far.h"
#include "cpu/cpu_mem.h"

/* --- double and triple faults (SDM vol. 3A, tables 6-4 and 6-5) --- */

enum exc_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum exc_class class_of(unsigned vec)
{
    static const u8 class[32] = {
        [EXC_DE] = CONTRIBUTORY, [EXC_TS] = CONTRIBUTORY, [EXC_NP] = CONTRIBUTORY,
        [EXC_SS] = CONTRIBUTORY, [EXC_GP] = CONTRIBUTORY, [EXC_PF] = PAGE_FAULT,
        [EXC_DF] = DOUBLE_FAULT,
    };
    return vec < ARRAY_SIZE(class) ? class[vec] : BENIGN;
}

static bool names_selector(unsigned vec)
{
    return vec == EXC_TS || vec == EXC_NP || vec == EXC_SS || vec == EXC_GP;
}

static void shut_down(struct cpu *c)
{
    c->exc.pending = false;
    c->activity = CPU_SHUTDOWN;
    if (log_wants(c->log, TRACE_FAULT)) {
        cpu_leave(c);
        log_trace(c->log, TRACE_FAULT, "cpu%u: triple fault at %04x:%llx", c->id, c->seg[CS].sel,
                  (unsigned long long)c->reg[X86_SLOT_RIP]);
    }
}

void cpu_exc_merge(struct cpu *c)
{
    if (c->delivering < 0)
        return;
    enum exc_class first = class_of((unsigned)c->delivering), second = class_of(c->exc.vec);
    c->delivering = -1;
    if (c->delivering_ext && names_selector(c->exc.vec))
        c->exc.err |= 1;
    if (first == DOUBLE_FAULT && second != BENIGN) {
        shut_down(c);
    } else if ((first == CONTRIBUTORY && second == CONTRIBUTORY) ||
               (first == PAGE_FAULT && second != BENIGN)) {
        bool trap = c->exc.trap;
        c->exc = (struct cpu_exc){.pending = true, .vec = EXC_DF, .has_err = true, .trap = trap};
    }
}

/* --- between instructions --- */

static void take_init(struct cpu *c)
{
    cpu_event_clear(c, EV_INIT | EV_SIPI);
    cpu_leave(c);
    cpu_reset(c, true);
    c->no_step = false;
    if (c->world->init)
        c->world->init(c);
}

void cpu_nmi_raise(struct cpu *c)
{
    u32 ev = atomic_load(&c->events);
    while (!atomic_compare_exchange_weak(&c->events, &ev, ev | (ev & EV_NMI ? EV_NMI2 : EV_NMI)))
        ;
    atomic_store_explicit(&c->poll, 1, memory_order_relaxed);
}

bool cpu_nmi_take(struct cpu *c)
{
    u32 ev = atomic_load(&c->events);
    while (!atomic_compare_exchange_weak(&c->events, &ev, ev & ~(ev & EV_NMI2 ? EV_NMI2 : EV_NMI)))
        ;
    return ev & EV_NMI2;
}

void cpu_nmi_unblock(struct cpu *c)
{
    if (!c->nmi_blocked)
        return;
    c->nmi_blocked = false;
    if (atomic_load_explicit(&c->events, memory_order_relaxed) & EV_NMI2)
        cpu_event_clear(c, EV_NMI2);
}

static void take_nmi(struct cpu *c)
{
    cpu_nmi_take(c);
    c->nmi_blocked = true;
    c->activity = CPU_RUNNING;
    c->exc = (struct cpu_exc){.pending = true, .ext = true, .vec = EXC_NMI};
    cpu_deliver(c);
}

static void take_interrupt(struct cpu *c)
{
    cpu_leave(c);
    int vec = c->world->intr_ack(c);
    if (vec < 0)
        return;
    c->activity = CPU_RUNNING;
    c->exc = (struct cpu_exc){.pending = true, .ext = true, .vec = (u8)vec};
    cpu_deliver(c);
}

void cpu_service_events(struct cpu *c)
{
    u32 ev = atomic_load(&c->events);
    if (ev & EV_INIT) {
        take_init(c);
        return;
    }
    if (ev & EV_SIPI) {
        cpu_event_clear(c, EV_SIPI);
        if (c->activity == CPU_WAIT_SIPI)
            cpu_sipi(c, atomic_load(&c->sipi_vector));
    }
    if (c->activity == CPU_WAIT_SIPI || c->activity == CPU_SHUTDOWN)
        return;
    if (c->db_pending && !c->shadow_ss)
        cpu_debug_trap(c, 0);
    if (c->shadow)
        return;
    if (ev & EV_NMI && !c->nmi_blocked)
        take_nmi(c);
    else if (ev & EV_INTR && c->eflags & FLAG_IF)
        take_interrupt(c);
}

bool cpu_wakeable(const struct cpu *c)
{
    u32 ev = atomic_load(&c->events);
    if (ev & EV_INIT)
        return true;
    if (c->activity == CPU_WAIT_SIPI)
        return ev & EV_SIPI;
    if (c->activity == CPU_SHUTDOWN)
        return false;
    return (ev & EV_NMI && !c->nmi_blocked) || (ev & EV_INTR && c->eflags & FLAG_IF) ||
           c->db_pending;
}

/* --- debug conditions (SDM vol. 3B, 17.2 and 17.3) --- */

enum { BP_EXEC, BP_WRITE, BP_IO, BP_ACCESS }; /* R/Wn of DR7 */

static bool bp_enabled(const struct cpu *c, unsigned n)
{
    return c->dr[7] >> (2 * n) & 3;
}

static unsigned bp_kind(const struct cpu *c, unsigned n)
{
    return c->dr[7] >> (16 + 4 * n) & 3;
}

static unsigned bp_len(const struct cpu *c, unsigned n)
{
    static const u8 len[4] = {1, 2, 8, 4};
    return len[c->dr[7] >> (18 + 4 * n) & 3];
}

/* True if breakpoint n's range and [at, at+size) meet. */
static bool bp_meets(const struct cpu *c, unsigned n, u64 at, u64 size)
{
    u64 len = bp_len(c, n), base = c->dr[n] & ~(len - 1);
    return base - at < size || at - base < len;
}

/* #DB says in DR6 which conditions were met: B0-B3 anew, the others stay until software clears
 * them. */
static void set_dr6(struct cpu *c, u32 bits)
{
    c->dr[6] = (c->dr[6] & ~0xfull) | bits | DR6_FIXED;
}

void cpu_check_code_breakpoint(struct cpu *c, gva_t la)
{
    u32 hit = 0;
    if (c->eflags & FLAG_RF)
        return;
    /* Right after MOV or POP to SS: Intel's processors pass over it (SDM vol. 3B, 17.3.1.1), AMD's
     * do not. */
    if (c->shadow_ss && !cpu_model_is_amd(c->model))
        return;
    for (unsigned n = 0; n < 4; n++)
        if (bp_enabled(c, n) && bp_kind(c, n) == BP_EXEC && c->dr[n] == la)
            hit |= 1u << n;
    if (hit) {
        set_dr6(c, hit);
        cpu_throw(c, EXC_DB, 0);
    }
}

static void note(struct cpu *c, unsigned n)
{
    c->db_pending |= 1u << n;
    cpu_event_set(c, EV_SLOW);
}

void cpu_note_data_breakpoint(struct cpu *c, gva_t la, unsigned size, bool write)
{
    if (unlikely(c->debug))
        cpu_debug_note(c, la, size, write);
    for (unsigned n = 0; n < 4; n++) {
        unsigned kind = bp_kind(c, n);
        bool right = kind == BP_ACCESS || (kind == BP_WRITE && write);
        if (right && bp_enabled(c, n) && bp_meets(c, n, la, size))
            note(c, n);
    }
}

void cpu_note_io_breakpoint(struct cpu *c, u16 port, unsigned size)
{
    if (!(c->cr4 & CR4_DE))
        return;
    for (unsigned n = 0; n < 4; n++)
        if (bp_enabled(c, n) && bp_kind(c, n) == BP_IO && bp_meets(c, n, port, size))
            note(c, n);
}

bool cpu_page_watched(const struct cpu *c, gva_t page)
{
    if (unlikely(c->debug) && cpu_debug_watched(c, page))
        return true;
    if (likely(!(c->dr[7] & 0xff)))
        return false;
    for (unsigned n = 0; n < 4; n++)
        if (bp_enabled(c, n) && bp_kind(c, n) & BP_WRITE &&
            bp_meets(c, n, align_down(page, PAGE_SIZE), PAGE_SIZE))
            return true;
    return false;
}

void cpu_debug_trap(struct cpu *c, u32 dr6_bits)
{
    dr6_bits |= c->db_pending;
    c->db_pending = 0;
    if (c->no_step)
        dr6_bits &= ~DR6_BS;
    c->no_step = false;
    if (c->shadow_ss) { /* after MOV SS: breakpoints wait for the next instruction, a step is lost
                         */
        c->db_pending = dr6_bits & ~DR6_BS;
        return;
    }
    if (!dr6_bits)
        return;
    set_dr6(c, dr6_bits);
    c->activity = CPU_RUNNING;
    c->exc = (struct cpu_exc){.pending = true, .vec = EXC_DB, .trap = true};
    cpu_unwind(c);
}
