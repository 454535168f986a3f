/*
 * hypercall.h - what VMCALL and VMMCALL do: the calls that KVM's guests know (Linux
 * Documentation/virt/kvm/x86/hypercalls.rst). CPUID offers none of them; a guest that calls all the
 * same is answered as KVM answers.
 */
#ifndef POPF_HYPERCALL_H
#define POPF_HYPERCALL_H

#include "base/base.h"
#include "dev/lapic.h"

#define KVM_HC_VAPIC_POLL_IRQ 1u
#define KVM_HC_SEND_IPI       10u

/* Failures are returned negated. */
#define KVM_EPERM  1
#define KVM_EINVAL 22
#define KVM_ENOSYS 1000

/* Registers as the guest had them; in 32- and 16-bit code their low halves. */
struct kvm_call {
    u64 nr;     /* RAX */
    u64 arg[4]; /* RBX, RCX, RDX, RSI */
    bool wide;  /* 64-bit code: bitmaps are of 64 bits each, not of 32 */
    unsigned cpl;
};

/* Returns the new RAX (in 32-bit code: EAX). */
u64 kvm_hypercall(const struct kvm_call *call, struct lapic_bus *bus);

#endif
