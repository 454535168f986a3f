#include "pv/hypercall.h"

#define ICR_MODE(icr) ((icr) >> 8 & 7)
#define ICR_LOGICAL   BIT(11)
#define ICR_SHORTHAND (BIT(18) | BIT(19))

static s64 send_one(struct lapic_bus *bus, u32 id, u32 icr)
{
    struct lapic_msg m = {
        .mode = ICR_MODE(icr),
        .vector = (u8)icr,
        .dest32 = true,
        .dest = id,
    };
    return lapic_bus_deliver(bus, &m);
}

/*
 * arg: low and high half of a bitmap of APIC ids, the id that its bit 0 stands for, ICR bits 31:0.
 * Returns how many CPUs were reached.
 */
static s64 send_ipi(const struct kvm_call *call, struct lapic_bus *bus)
{
    unsigned width = call->wide ? 64 : 32;
    u64 first = (u32)call->arg[2];
    u32 icr = (u32)call->arg[3];
    s64 reached = 0;
    bool plain = ICR_MODE(icr) == APIC_FIXED || ICR_MODE(icr) == APIC_NMI;

    if (icr & (ICR_LOGICAL | ICR_SHORTHAND) || !plain)
        return -KVM_EINVAL;
    for (unsigned bit = 0; bit < 2 * width && first + bit < LAPIC_MAX; bit++)
        if (call->arg[bit / width] >> bit % width & 1)
            reached += send_one(bus, (u32)(first + bit), icr);
    return reached;
}

u64 kvm_hypercall(const struct kvm_call *call, struct lapic_bus *bus)
{
    if (call->cpl != 0)
        return (u64)-KVM_EPERM;
    switch (call->nr) {
    case KVM_HC_VAPIC_POLL_IRQ: /* interrupts come by themselves */
        return 0;
    case KVM_HC_SEND_IPI:
        return (u64)send_ipi(call, bus);
    default:
        return (u64)-KVM_ENOSYS;
    }
}
