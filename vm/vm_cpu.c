/*
 * A virtual CPU's thread: it runs guest code until the machine is held, and sleeps while the guest
 * is halted. Also what the local APIC asks of its CPU, and registers from outside.
 */
#include "vm/vm.h"

#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cpu/cpu_ctl.h"
#include "cpu/cpu_event.h"
#include "cpu/cpu_mem.h"
#include "cpu/cpu_seg.h"
#include "dev/pic.h"

static void futex(_Atomic u32 *f, int op, u32 val)
{
    syscall(SYS_futex, f, op | FUTEX_PRIVATE_FLAG, val, NULL, NULL, 0);
}

/*
 * The event is set before `sleeping` is read; the sleeper sets `sleeping` before it looks at its
 * events: one of the two sees the other (both are sequentially consistent).
 */
void vm_cpu_event(struct vcpu *v, u32 events)
{
    cpu_event_set(v->cpu, events);
    if (v->has_thread && pthread_equal(v->thread, pthread_self()))
        return; /* it looks before it goes on */
    if (atomic_exchange(&v->sleeping, 0))
        futex(&v->sleeping, FUTEX_WAKE, 1);
    else
        v->vm->ops->kick(v->vm->engine, v->cpu);
}

/* HLT, or a CPU that waits for its SIPI. */
static void sleep_halted(struct vcpu *v)
{
    struct popf *vm = v->vm;
    atomic_fetch_add_explicit(&v->halts, 1, memory_order_relaxed);
    for (;;) {
        atomic_store(&v->sleeping, 1);
        if (cpu_wakeable(v->cpu) || atomic_load(&vm->hold))
            break;
        futex(&v->sleeping, FUTEX_WAIT, 1);
    }
    atomic_store(&v->sleeping, 0);
}

/* Waits here while the machine is held. False: it has ended. */
static bool park(struct vcpu *v)
{
    struct popf *vm = v->vm;
    if (likely(!atomic_load(&vm->hold) && !atomic_load(&v->held)))
        return true;
    pthread_mutex_lock(&vm->lock);
    if (++vm->parked == vm->cfg.cpus)
        vm_clock_poke(vm); /* a reset waits for this */
    pthread_cond_broadcast(&vm->changed);
    while ((atomic_load(&vm->hold) || atomic_load(&v->held)) && vm->life == VM_ON)
        pthread_cond_wait(&vm->changed, &vm->lock);
    bool on = vm->life == VM_ON;
    if (on)
        vm->parked--;
    pthread_mutex_unlock(&vm->lock);
    return on;
}

static void triple_fault(struct vcpu *v, u64 rip)
{
    struct popf_outcome how = {.end = POPF_END_TRIPLE_FAULT, .cpu = v->cpu->id};
    vm_cpu_get_regs(v, &how.regs);
    how.regs.rip = rip;
    snprintf(how.text, sizeof(how.text),
             "the guest triple-faulted on CPU %u at CS:RIP %#x:%#llx (CR2 %#llx)", v->cpu->id,
             how.regs.cs.sel, (unsigned long long)rip, (unsigned long long)how.regs.cr2);
    vm_end(v->vm, &how);
}

static void handle(struct vcpu *v, const struct engine_result *res)
{
    struct popf *vm = v->vm;
    switch (res->exit) {
    case EXIT_INTERRUPTED:
        break;
    case EXIT_HALT:
        log_trace(&vm->log, TRACE_EXIT, "cpu%u: halt", v->cpu->id);
        sleep_halted(v);
        break;
    case EXIT_SHUTDOWN:
        if (!vm_debug_triple_fault(v))
            triple_fault(v, res->at.rip);
        break;
    case EXIT_DEBUG:
        vm_debug_hit(v);
        break;
    case EXIT_BUDGET:
        vm_end_text(vm, POPF_END_BUDGET, "CPU %u has executed %llu instructions", v->cpu->id,
                    (unsigned long long)v->cpu->insns);
        break;
    case EXIT_ERROR:
        vm_end_text(vm, POPF_END_ERROR, "%s", res->err.msg);
        break;
    }
}

/* What is left of max_insns, or 0 for no bound; false: nothing is left. */
static bool budget(const struct vcpu *v, u64 *left)
{
    u64 max = v->vm->cfg.max_insns;
    *left = max ? max - v->cpu->insns : 0;
    return !max || v->cpu->insns < max;
}

void *vm_cpu_thread(void *arg)
{
    struct vcpu *v = arg;
    struct popf *vm = v->vm;
    while (park(v)) {
        struct engine_result res = {.exit = EXIT_BUDGET};
        u64 left;
        if (budget(v, &left))
            vm->ops->run(vm->engine, v->cpu, left, &res);
        handle(v, &res);
    }
    return NULL;
}

/* --- the local APIC's side; dev_lock is held --- */

static void on_intr(void *arg, bool pending)
{
    struct vcpu *v = arg;
    if (pending)
        vm_cpu_event(v, EV_INTR);
    else
        cpu_event_clear(v->cpu, EV_INTR);
}

static void on_nmi(void *arg)
{
    struct vcpu *v = arg;
    cpu_nmi_raise(v->cpu);
    vm_cpu_event(v, 0);
}

static void on_init(void *arg)
{
    struct vcpu *v = arg;
    atomic_store(&v->sipi, false);
    vm_cpu_event(v, EV_INIT);
}

static void on_sipi(void *arg, u8 vector)
{
    struct vcpu *v = arg;
    log_trace(&v->vm->log, TRACE_INTR, "cpu%u: SIPI, vector %#x", v->cpu->id, vector);
    atomic_store(&v->cpu->sipi_vector, vector);
    atomic_store(&v->sipi, true);
    vm_cpu_event(v, EV_SIPI);
}

static int on_extint_ack(void *arg)
{
    const struct vcpu *v = arg;
    return pic_ack(&v->vm->pc.pic);
}

static u64 on_tsc_now(void *arg)
{
    const struct vcpu *v = arg;
    return cpu_tsc(v->cpu);
}

static u64 on_tsc_to_ns(void *arg, u64 tsc)
{
    return vm_clock_tsc_to_ns(arg, tsc);
}

const struct lapic_ops vm_cpu_lapic_ops = {
    .intr = on_intr,
    .nmi = on_nmi,
    .init = on_init,
    .sipi = on_sipi,
    .extint_ack = on_extint_ack,
    .tsc_now = on_tsc_now,
    .tsc_to_ns = on_tsc_to_ns,
};

/* --- making one --- */

int vm_cpu_init(struct popf *vm, unsigned id, struct err *e)
{
    struct vcpu *v = &vm->vcpu[id];
    v->vm = vm;
    v->cpu = cpu_new(id, &vm->mem, vm->model, &vm_world, v, &vm->log, e);
    if (!v->cpu)
        return -1;
    if (vm->ops->cpu_attach(vm->engine, v->cpu, e)) {
        cpu_free(v->cpu);
        v->cpu = NULL;
        return -1;
    }
    u32 r[4];
    cpu_cpuid(v->cpu, 1, 0, r);
    struct lapic_config cfg = {
        .apic_id = id,
        .bsp = id == 0,
        .x2apic = r[2] >> 21 & 1,
        .tsc_deadline = r[2] >> 24 & 1,
        .phys_bits = (u8)cpu_phys_bits(v->cpu),
        .clock = &vm->clk.clock,
        .ops = &vm_cpu_lapic_ops,
        .arg = v,
    };
    lapic_init(&v->lapic, &vm->pc.lapics, &cfg);
    kvmclock_init(&v->kvmclock, &vm->mem, vm->tsc_hz, true);
    return 0;
}

void vm_cpu_free(struct vcpu *v)
{
    if (!v->cpu)
        return;
    v->vm->ops->cpu_detach(v->vm->engine, v->cpu);
    cpu_free(v->cpu);
}

/* --- registers from outside; the CPU stands --- */

static struct popf_segment seg_out(const struct seg *s)
{
    return (struct popf_segment){
        .base = s->base, .limit = s->limit, .attr = s->attr, .sel = s->sel};
}

static void seg_in(struct seg *s, const struct popf_segment *p)
{
    s->base = p->base;
    s->limit = p->limit;
    s->attr = p->attr;
    s->sel = p->sel;
}

void vm_cpu_get_regs(struct vcpu *v, struct popf_regs *r)
{
    struct cpu *c = v->cpu;
    v->vm->ops->get_state(v->vm->engine, c);
    *r = (struct popf_regs){
        .rip = c->reg[X86_SLOT_RIP],
        .rflags = cpu_flags(c),
        .cr0 = c->cr0,
        .cr2 = c->cr2,
        .cr3 = c->cr3,
        .cr4 = c->cr4,
        .cr8 = lapic_cr8(&v->lapic),
        .efer = c->efer,
        .es = seg_out(&c->seg[ES]),
        .cs = seg_out(&c->seg[CS]),
        .ss = seg_out(&c->seg[SS]),
        .ds = seg_out(&c->seg[DS]),
        .fs = seg_out(&c->seg[FS]),
        .gs = seg_out(&c->seg[GS]),
        .ldtr = seg_out(&c->ldtr),
        .tr = seg_out(&c->tr),
        .gdt_base = c->gdtr.base,
        .idt_base = c->idtr.base,
        .gdt_limit = c->gdtr.limit,
        .idt_limit = c->idtr.limit,
    };
    memcpy(r->gpr, c->reg, sizeof(r->gpr));
}

/* The combinations without which the modes make no sense (SDM vol. 3A, 2.5 and 4.1.1). */
static int check_regs(const struct cpu *c, const struct popf_regs *r, struct err *e)
{
    bool pe = r->cr0 & CR0_PE, pg = r->cr0 & CR0_PG, pae = r->cr4 & CR4_PAE;
    bool lme = r->efer & EFER_LME, lma = r->efer & EFER_LMA;
    if (r->cr0 >> 32 || (pg && !pe))
        return err_set(e, "CR0 %#llx is not a valid value", (unsigned long long)r->cr0);
    if (r->cr4 & ~cpu_cr4_valid(c))
        return err_set(e, "CR4 %#llx has bits that this CPU does not know",
                       (unsigned long long)r->cr4);
    if ((r->efer & ~(cpu_efer_valid(c) | EFER_LMA)) || lma != (lme && pg) || (lma && !pae))
        return err_set(e, "EFER %#llx does not go with CR0 and CR4", (unsigned long long)r->efer);
    if (r->cr8 > 15)
        return err_set(e, "CR8 %#llx is above 15", (unsigned long long)r->cr8);
    return 0;
}

static unsigned cpl_of(const struct popf_regs *r)
{
    if (!(r->cr0 & CR0_PE))
        return 0;
    return r->rflags & FLAG_VM ? 3 : (r->ss.attr & SEG_DPL) >> SEG_DPL_SHIFT;
}

int vm_cpu_set_regs(struct vcpu *v, const struct popf_regs *r, struct err *e)
{
    struct cpu *c = v->cpu;
    if (check_regs(c, r, e))
        return -1;
    v->vm->ops->get_state(v->vm->engine, c);
    memcpy(c->reg, r->gpr, sizeof(r->gpr));
    c->reg[X86_SLOT_RIP] = r->rip;
    c->cr0 = r->cr0 | CR0_ET;
    c->cr2 = r->cr2;
    c->cr3 = r->cr3;
    c->cr4 = r->cr4;
    c->efer = r->efer;
    seg_in(&c->seg[ES], &r->es);
    seg_in(&c->seg[CS], &r->cs);
    seg_in(&c->seg[SS], &r->ss);
    seg_in(&c->seg[DS], &r->ds);
    seg_in(&c->seg[FS], &r->fs);
    seg_in(&c->seg[GS], &r->gs);
    c->gdtr = (struct dtable){.base = r->gdt_base, .limit = r->gdt_limit};
    c->idtr = (struct dtable){.base = r->idt_base, .limit = r->idt_limit};
    c->cpl = (u8)cpl_of(r);
    if ((c->cr0 & CR0_PG) && (c->cr4 & CR4_PAE) && !cpu_long(c))
        mem_read(&v->vm->mem, c->cr3 & 0xffffffe0u, c->pdpte, sizeof(c->pdpte));
    cpu_set_flags(c, (u32)r->rflags);
    cpu_tlb_flush(c);
    cpu_update_mode(c);
    lapic_set_cr8(&v->lapic, r->cr8);
    v->vm->ops->put_state(v->vm->engine, c);
    return 0;
}
