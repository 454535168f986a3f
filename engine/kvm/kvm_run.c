/*
 * kvm_run.c - a virtual CPU's loop over KVM_RUN: what goes in before, what comes out after.
 *
 * How a kick is not lost: each round first clears immediate_exit and publishes the thread, then
 * looks at the events, then enters. An event set before that look is seen by it; one set after it
 * comes with immediate_exit set (KVM_RUN returns at once) and, if a thread is published, a signal
 * (KVM_RUN returns from the guest).
 */
#include "engine/kvm/kvm_priv.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cpu/cpu_ctl.h"
#include "cpu/cpu_event.h"
#include "engine/interp/interp.h"

static bool handle(struct kvm_vcpu *v, int error, struct engine_result *res);

/* An exit that ends run(). False, as all functions here that have set *res. */
static bool fail(struct engine_result *res)
{
    res->exit = EXIT_ERROR;
    return false;
}

/* --- entering --- */

static void set_immediate_exit(struct kvm_vcpu *v, u8 on)
{
    __atomic_store_n(&v->run->immediate_exit, on, __ATOMIC_SEQ_CST);
}

static void publish(struct kvm_vcpu *v, pid_t tid)
{
    set_immediate_exit(v, 0);
    atomic_store(&v->tid, tid);
}

/* KVM_RUN; returns 0 or the errno. */
static int enter(struct kvm_vcpu *v)
{
    struct cpu *c = v->c;
    int error = ioctl(v->fd, KVM_RUN, 0) < 0 ? errno : 0;
    v->owner = OWNER_KVM;
    v->io_pending = false;
    v->window_known = true;
    v->stats.exits++;
    if (v->run->cr8 != v->cr8) { /* a raised TPR does not exit by itself */
        v->cr8 = v->run->cr8;
        c->world->cr8_write(c, v->cr8);
    }
    return error;
}

/*
 * Lets KVM finish the instruction of the last exit without executing another, so that its registers
 * are those between two instructions. A string instruction may exit several times on the way.
 */
static bool settle(struct kvm_vcpu *v, struct engine_result *res)
{
    int error;
    do {
        set_immediate_exit(v, 1);
        error = enter(v);
        if (error != EINTR && !handle(v, error, res))
            return false;
    } while (error != EINTR && v->c->activity == CPU_RUNNING && v->owner == OWNER_KVM);
    return true;
}

static bool settle_if_pending(struct kvm_vcpu *v, struct engine_result *res)
{
    return !v->io_pending || settle(v, res);
}

static bool make_current(struct kvm_vcpu *v, struct engine_result *res)
{
    if (!settle_if_pending(v, res))
        return false;
    return kvm_state_read(v, &res->err) == 0 || fail(res);
}

/* --- ports, MMIO, MSRs --- */

static void do_io(struct kvm_vcpu *v)
{
    struct cpu *c = v->c;
    const struct kvm_run *run = v->run;
    unsigned size = run->io.size;
    u8 *p = (u8 *)run + run->io.data_offset;
    log_trace(c->log, TRACE_EXIT, "cpu%u: kvm exit: %s port %#x, %u x %u bytes", c->id,
              run->io.direction == KVM_EXIT_IO_OUT ? "out" : "in", run->io.port, run->io.count,
              size);
    v->io_pending = true;
    v->stats.io++;
    for (u32 i = 0; i < run->io.count; i++, p += size) {
        u64 val = 0;
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            memcpy(&val, p, size);
            c->world->port_write(c, run->io.port, size, val);
        } else {
            val = c->world->port_read(c, run->io.port, size);
            memcpy(p, &val, size);
        }
    }
}

/* The part of an access of `len` bytes at gpa that the world takes: 1, 2, 4 or 8 bytes. */
static unsigned mmio_piece(gpa_t gpa, unsigned len)
{
    if (len == 1 || len == 2 || len == 4 || len == 8)
        return len;
    unsigned size = 4;
    while (size > len || gpa & (size - 1))
        size >>= 1;
    return size;
}

static void do_mmio(struct kvm_vcpu *v)
{
    struct cpu *c = v->c;
    struct kvm_run *run = v->run;
    gpa_t gpa = run->mmio.phys_addr;
    unsigned len = run->mmio.len <= 8 ? run->mmio.len : 8, size;
    log_trace(c->log, TRACE_EXIT, "cpu%u: kvm exit: %s %#llx, %u bytes", c->id,
              run->mmio.is_write ? "write" : "read", (unsigned long long)gpa, len);
    v->io_pending = true;
    v->stats.mmio++;
    for (unsigned at = 0; at < len; at += size) {
        u64 val = 0;
        size = mmio_piece(gpa + at, len - at);
        if (run->mmio.is_write) {
            memcpy(&val, run->mmio.data + at, size);
            c->world->mmio_write(c, gpa + at, size, val);
        } else {
            val = c->world->mmio_read(c, gpa + at, size);
            memcpy(run->mmio.data + at, &val, size);
        }
    }
}

static void do_rdmsr(struct kvm_vcpu *v)
{
    u32 msr = v->run->msr.index;
    u64 val = 0;
    v->io_pending = true;
    v->stats.msr++;
    v->run->msr.error = kvm_state_has_msr(msr) || cpu_msr_read(v->c, msr, &val) < 0;
    v->run->msr.data = val;
}

static bool do_wrmsr(struct kvm_vcpu *v, struct engine_result *res)
{
    u32 msr = v->run->msr.index;
    v->io_pending = true;
    v->stats.msr++;
    v->run->msr.error = kvm_state_has_msr(msr) || cpu_msr_write(v->c, msr, v->run->msr.data) < 0;
    if (msr == MSR_IA32_APIC_BASE)
        v->apic_base_moved = true;
    /* IA32_TSC and IA32_TSC_ADJUST move the counter. */
    return kvm_state_tsc(v, &res->err) == 0 || fail(res);
}

/* --- what KVM's emulator cannot do --- */

/*
 * One instruction by the interpreter, or all of them (0). Its cached code is dropped first: guest
 * code that runs under KVM changes memory without telling.
 */
static void interpret(struct kvm_vcpu *v, u64 max_insns, struct engine_result *res)
{
    interp_cache_flush(v->c->engine);
    v->stats.emulated++;
    engine_interp.run(v->en->interp, v->c, max_insns, res);
    v->owner = OWNER_CPU;
}

static bool emulation_failed(struct kvm_vcpu *v, struct engine_result *res)
{
    struct cpu *c = v->c;
    u32 suberror = v->run->internal.suberror;
    if (!make_current(v, res))
        return false;
    u64 insns = c->insns, rip = c->reg[X86_SLOT_RIP];
    log_trace(c->log, TRACE_EXIT, "cpu%u: kvm exit: gives up (suberror %u) at %04x:%llx", c->id,
              suberror, c->seg[CS].sel, (unsigned long long)rip);
    /* Without KVM_CAP_EXIT_ON_EMULATION_FAILURE it has raised #UD as well. */
    if (suberror == KVM_INTERNAL_ERROR_EMULATION && !v->en->exit_on_emulation)
        c->exc.pending = false;
    interpret(v, 1, res);
    if (res->exit != EXIT_BUDGET && res->exit != EXIT_HALT) /* a halt is seen by the loop */
        return false;
    if (c->insns != insns || c->reg[X86_SLOT_RIP] != rip || c->activity != CPU_RUNNING)
        return true;
    err_set(&res->err,
            "KVM cannot go on at %04x:%llx (internal error %u), and neither can the interpreter; "
            "use --engine interp",
            c->seg[CS].sel, (unsigned long long)rip, suberror);
    return fail(res);
}

/* --- exits --- */

/*
 * What cpu_wakeable() asks of a halted CPU is brought up to date; the rest stays with KVM. A
 * software KVM may come to HLT with an NMI that it has not found the time to deliver.
 */
static void halted(struct kvm_vcpu *v)
{
    struct cpu *c = v->c;
    struct kvm_vcpu_events ev = {0};
    bool known = ioctl(v->fd, KVM_GET_VCPU_EVENTS, &ev) == 0;
    c->eflags = (c->eflags & ~FLAG_IF) | (v->run->if_flag ? FLAG_IF : 0);
    c->nmi_blocked = known && ev.nmi.masked;
    c->db_pending = 0;
    v->stats.halts++;
    if (!ev.nmi.pending || c->nmi_blocked)
        c->activity = CPU_HALTED;
}

static bool run_failed(struct kvm_vcpu *v, int error, struct engine_result *res)
{
    unsigned long long rip = kvm_state_rip(v);
    errno = error;
    if (error == EFAULT)
        err_set(&res->err,
                "KVM cannot reach guest memory (CPU %u at %#llx): is the host out of memory?",
                v->c->id, rip);
    else
        err_errno(&res->err, "KVM_RUN of CPU %u at %#llx", v->c->id, rip);
    return fail(res);
}

static bool strange(struct kvm_vcpu *v, struct engine_result *res)
{
    const struct kvm_run *run = v->run;
    unsigned long long rip = kvm_state_rip(v);
    if (run->exit_reason == KVM_EXIT_FAIL_ENTRY)
        err_set(&res->err,
                "the processor refuses the state of CPU %u at %#llx (hardware reason %#llx)",
                v->c->id, rip, (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
    else if (run->exit_reason == KVM_EXIT_UNKNOWN)
        err_set(&res->err, "KVM does not know how to handle hardware exit %#llx of CPU %u at %#llx",
                (unsigned long long)run->hw.hardware_exit_reason, v->c->id, rip);
    else
        err_set(&res->err, "KVM stopped CPU %u at %#llx for a reason unknown here (exit %u)",
                v->c->id, rip, run->exit_reason);
    return fail(res);
}

static void trace_exit(struct kvm_vcpu *v)
{
    if (log_wants(v->c->log, TRACE_EXIT))
        log_emit(v->c->log, "cpu%u: kvm exit %u at %#llx, IF %u", v->c->id, v->run->exit_reason,
                 (unsigned long long)kvm_state_rip(v), v->run->if_flag);
}

/* After KVM_RUN: true to go on, false if *res says why not. */
static bool handle(struct kvm_vcpu *v, int error, struct engine_result *res)
{
    if (error == EINTR || error == EAGAIN)
        return true;
    if (error)
        return run_failed(v, error, res);
    trace_exit(v);
    switch (v->run->exit_reason) {
    case KVM_EXIT_IO:
        do_io(v);
        return true;
    case KVM_EXIT_MMIO:
        do_mmio(v);
        return true;
    case KVM_EXIT_X86_RDMSR:
        do_rdmsr(v);
        return true;
    case KVM_EXIT_X86_WRMSR:
        return do_wrmsr(v, res);
    case KVM_EXIT_HLT:
        halted(v);
        return true;
    case KVM_EXIT_SHUTDOWN:
        v->c->activity = CPU_SHUTDOWN;
        return true;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        v->stats.windows++;
        return true;
    case KVM_EXIT_INTR:
    case KVM_EXIT_NMI:
    case KVM_EXIT_SET_TPR: /* enter() has passed it on */
        return true;
    case KVM_EXIT_DEBUG:
        res->exit = EXIT_DEBUG;
        res->at.rip = v->run->debug.arch.pc;
        return false;
    case KVM_EXIT_INTERNAL_ERROR:
        return emulation_failed(v, res);
    default:
        return strange(v, res);
    }
}

/* --- events --- */

static bool take_init(struct kvm_vcpu *v, struct engine_result *res)
{
    struct cpu *c = v->c;
    if (!make_current(v, res)) /* INIT keeps FP state and MSRs */
        return false;
    cpu_event_clear(c, EV_INIT | EV_SIPI);
    cpu_reset(c, true);
    v->owner = OWNER_CPU;
    if (c->world->init)
        c->world->init(c);
    return true;
}

static bool take_sipi(struct kvm_vcpu *v, struct engine_result *res)
{
    struct cpu *c = v->c;
    cpu_event_clear(c, EV_SIPI);
    if (c->activity != CPU_WAIT_SIPI)
        return true;
    if (!make_current(v, res))
        return false;
    cpu_sipi(c, atomic_load(&c->sipi_vector));
    v->owner = OWNER_CPU;
    return true;
}

/* KVM holds an NMI back itself while they are blocked. */
static bool inject_nmi(struct kvm_vcpu *v, struct engine_result *res)
{
    struct cpu *c = v->c;
    do {
        if (ioctl(v->fd, KVM_NMI, 0) < 0) {
            err_errno(&res->err, "KVM_NMI of CPU %u", c->id);
            return fail(res);
        }
    } while (cpu_nmi_take(c));
    if (c->activity == CPU_HALTED && !c->nmi_blocked)
        c->activity = CPU_RUNNING;
    return true;
}

/* May an interrupt be injected now? KVM injects what it is given, whatever IF says. */
static bool window_open(struct kvm_vcpu *v)
{
    if (v->c->activity == CPU_HALTED)
        return v->c->eflags & FLAG_IF;
    return v->run->ready_for_interrupt_injection && v->run->if_flag;
}

static bool inject_interrupt(struct kvm_vcpu *v, struct engine_result *res)
{
    struct cpu *c = v->c;
    if (!v->window_known && c->activity == CPU_RUNNING && !settle(v, res))
        return false;
    if (v->owner == OWNER_CPU || c->activity == CPU_SHUTDOWN || !window_open(v))
        return true;
    int vector = c->world->intr_ack(c);
    if (vector < 0)
        return true;
    struct kvm_interrupt irq = {.irq = (u32)vector};
    if (ioctl(v->fd, KVM_INTERRUPT, &irq) < 0) {
        err_errno(&res->err, "KVM_INTERRUPT of CPU %u", c->id);
        return fail(res);
    }
    log_trace(c->log, TRACE_INTR, "cpu%u: interrupt %#x", c->id, (unsigned)vector);
    v->run->ready_for_interrupt_injection = 0; /* one at a time */
    v->owner = OWNER_KVM;
    v->stats.interrupts++;
    c->activity = CPU_RUNNING;
    return true;
}

static bool move_apic_base(struct kvm_vcpu *v, struct engine_result *res)
{
    if (!settle_if_pending(v, res))
        return false;
    return v->owner == OWNER_CPU || kvm_state_apic_base(v, &res->err) == 0 || fail(res);
}

static bool interrupt_due(const struct kvm_vcpu *v)
{
    return atomic_load(&v->c->events) & EV_INTR;
}

/* --- the loop --- */

/* Does run() end here? As in the interpreter's. */
static bool leave(struct kvm_vcpu *v, struct engine_result *res)
{
    struct cpu *c = v->c;
    if (c->activity == CPU_SHUTDOWN) {
        res->exit = EXIT_SHUTDOWN;
        res->at.rip = kvm_state_rip(v);
        return true;
    }
    if (atomic_load(&c->events) & EV_EXIT) {
        if (!settle_if_pending(v, res))
            return true;
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

/* Tells KVM all that it must know before the guest goes on. */
static bool prepare(struct kvm_vcpu *v, struct engine_result *res)
{
    struct cpu *c = v->c;
    u32 events = atomic_load(&c->events);
    if (events & EV_FLUSH) /* KVM follows the host's mappings by itself */
        cpu_event_clear(c, EV_FLUSH);
    if (events & EV_INIT && !take_init(v, res))
        return false;
    if (events & EV_SIPI && !take_sipi(v, res))
        return false;
    if (c->activity == CPU_WAIT_SIPI)
        return true;
    /* tsc_offset is the machine's: it moves it while CPUs are paused. */
    if (kvm_state_write(v, &res->err) || kvm_state_tsc(v, &res->err))
        return fail(res);
    if (events & EV_NMI && !inject_nmi(v, res))
        return false;
    if (interrupt_due(v) && !inject_interrupt(v, res))
        return false;
    if (v->apic_base_moved && !move_apic_base(v, res))
        return false;
    v->run->request_interrupt_window = interrupt_due(v);
    v->cr8 = v->run->cr8 = c->world->cr8_read(c) & 15;
    return true;
}

/* The kick signal must reach the thread that runs the guest. */
static void unblock_signal(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, KVM_KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static bool round_once(struct kvm_vcpu *v, pid_t tid, struct engine_result *res)
{
    publish(v, tid);
    if (leave(v, res) || !prepare(v, res))
        return false;
    if (v->c->activity != CPU_RUNNING || v->owner == OWNER_CPU)
        return true; /* not yet */
    int error = enter(v);
    atomic_store(&v->tid, 0);
    return handle(v, error, res);
}

void kvm_run_loop(struct kvm_vcpu *v, u64 max_insns, struct engine_result *res)
{
    pid_t tid = gettid();
    *res = (struct engine_result){.exit = EXIT_BUDGET};
    /* KVM cannot count; the interpreter can. It also has the debugger's breakpoints (all CPUs have
     * a debugger, or none). */
    if (max_insns == 1 || v->c->debug) {
        if (make_current(v, res))
            interpret(v, max_insns, res);
        return;
    }
    unblock_signal();
    while (round_once(v, tid, res))
        ;
    atomic_store(&v->tid, 0);
}
