/*
 * What a virtual CPU asks of its machine: ports, MMIO, MSRs, interrupts. Everything here runs on
 * the CPU's own thread and takes the one device lock.
 */
#include "vm/vm.h"

#include "pv/hypercall.h"

static struct vcpu *enter(struct cpu *c, _Atomic u64 *counter)
{
    struct vcpu *v = c->world_arg;
    if (counter) /* its only writer: no locked add needed */
        atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
                              memory_order_relaxed);
    pthread_mutex_lock(&v->vm->dev_lock);
    return v;
}

static void leave(struct vcpu *v)
{
    pthread_mutex_unlock(&v->vm->dev_lock);
}

static _Atomic u64 *counter_of(struct cpu *c, size_t offset)
{
    return (_Atomic u64 *)((char *)c->world_arg + offset);
}

#define ENTER(c, which) enter((c), counter_of((c), offsetof(struct vcpu, which)))

static u64 port_read(struct cpu *c, u16 port, unsigned size)
{
    struct vcpu *v = ENTER(c, port_io);
    u64 val = bus_read(&v->vm->pc.port, port, size);
    leave(v);
    return val;
}

static void port_write(struct cpu *c, u16 port, unsigned size, u64 val)
{
    struct vcpu *v = ENTER(c, port_io);
    bus_write(&v->vm->pc.port, port, size, val);
    int com = vm_pc_com_at(port);
    if (com >= 0)
        vm_serial_feed(v->vm, (unsigned)com);
    leave(v);
    if (com >= 0)
        vm_serial_wait_room(v->vm);
}

static u64 mmio_read(struct cpu *c, gpa_t gpa, unsigned size)
{
    struct vcpu *v = ENTER(c, mmio);
    u64 val = lapic_claims(&v->lapic, gpa) ? lapic_mmio_read(&v->lapic, gpa & PAGE_MASK, size)
                                           : bus_read(&v->vm->pc.mmio, gpa, size);
    leave(v);
    return val;
}

static void mmio_write(struct cpu *c, gpa_t gpa, unsigned size, u64 val)
{
    struct vcpu *v = ENTER(c, mmio);
    if (lapic_claims(&v->lapic, gpa))
        lapic_mmio_write(&v->lapic, gpa & PAGE_MASK, size, val);
    else
        bus_write(&v->vm->pc.mmio, gpa, size, val);
    leave(v);
}

static bool is_apic_msr(u32 msr)
{
    return msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE ||
           (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST);
}

static int msr_read(struct cpu *c, u32 msr, u64 *val)
{
    struct vcpu *v = ENTER(c, msrs);
    int rc = is_apic_msr(msr) ? lapic_msr_read(&v->lapic, msr, val)
                              : kvmclock_msr_read(&v->kvmclock, msr, val);
    leave(v);
    return rc;
}

static int msr_write(struct cpu *c, u32 msr, u64 val)
{
    struct vcpu *v = ENTER(c, msrs);
    int rc;
    if (is_apic_msr(msr)) {
        rc = lapic_msr_write(&v->lapic, msr, val);
    } else {
        struct kvmclock_time t = vm_clock_pair(v);
        rc = kvmclock_msr_write(&v->kvmclock, msr, val, &t);
    }
    leave(v);
    return rc;
}

static u64 cr8_read(struct cpu *c)
{
    struct vcpu *v = enter(c, NULL);
    u64 val = lapic_cr8(&v->lapic);
    leave(v);
    return val;
}

static void cr8_write(struct cpu *c, u64 val)
{
    struct vcpu *v = enter(c, NULL);
    lapic_set_cr8(&v->lapic, val);
    leave(v);
}

static int intr_ack(struct cpu *c)
{
    struct vcpu *v = ENTER(c, interrupts);
    int vec = lapic_ack(&v->lapic);
    leave(v);
    log_trace(&v->vm->log, TRACE_INTR, "cpu%u: interrupt, vector %d", c->id, vec);
    return vec;
}

/* VMCALL and VMMCALL, whichever vendor's. */
static int hypercall(struct cpu *c)
{
    u64 mask = c->mode == X86_MODE64 ? UINT64_MAX : UINT32_MAX;
    struct kvm_call call = {
        .nr = c->reg[RAX] & mask,
        .arg = {c->reg[RBX] & mask, c->reg[RCX] & mask, c->reg[RDX] & mask, c->reg[RSI] & mask},
        .wide = c->mode == X86_MODE64,
        .cpl = c->cpl,
    };
    struct vcpu *v = enter(c, NULL);
    c->reg[RAX] = kvm_hypercall(&call, &v->vm->pc.lapics) & mask;
    leave(v);
    return 0;
}

/* The LAPIC has reset itself when the message came. Taking INIT drops a pending SIPI, but not one
 * that came behind it. */
static void init_taken(struct cpu *c)
{
    struct vcpu *v = c->world_arg;
    if (atomic_load(&v->sipi))
        cpu_event_set(c, EV_SIPI);
}

const struct cpu_world vm_world = {
    .port_read = port_read,
    .port_write = port_write,
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .msr_read = msr_read,
    .msr_write = msr_write,
    .cr8_read = cr8_read,
    .cr8_write = cr8_write,
    .intr_ack = intr_ack,
    .hypercall = hypercall,
    .init = init_taken,
};
