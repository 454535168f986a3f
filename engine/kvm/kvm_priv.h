/*
 * kvm_priv.h - what the files of the KVM engine share.
 *
 * The facts about KVM's interface are those of Linux, Documentation/virt/kvm/api.rst.
 */
#ifndef POPF_KVM_PRIV_H
#define POPF_KVM_PRIV_H

#include <linux/kvm.h>
#include <signal.h>
#include <sys/types.h>

#include "engine/engine.h"
#include "engine/kvm/kvm.h"

/* Makes KVM_RUN return. Its handler is empty; a real-time signal, so that few others want it. */
#define KVM_KICK_SIGNAL (SIGRTMIN + 7)

/* Who has the current registers. */
enum kvm_owner {
    OWNER_CPU,  /* struct cpu: KVM must be told before it runs */
    OWNER_BOTH, /* the two agree */
    OWNER_KVM,  /* KVM */
};

struct kvm_msr_field {
    u32 msr;
    u16 at; /* offset in struct cpu */
};

#define KVM_MSR_FIELDS_MAX 16

struct kvm_stats {
    u64 exits, io, mmio, msr, halts, windows, interrupts, emulated;
};

struct kvm_vcpu {
    struct kvm_engine *en;
    struct cpu *c;
    int fd;
    struct kvm_run *run; /* shared with KVM */
    size_t run_size;
    enum kvm_owner owner;

    /* The last exit's instruction is only finished by the next KVM_RUN (IN, MMIO, RDMSR...). */
    bool io_pending;
    /* run->ready_for_interrupt_injection speaks of the registers that KVM has now. */
    bool window_known;
    bool apic_base_moved; /* the guest wrote IA32_APIC_BASE: CPUID shows its enable bit */
    u64 cr8;              /* as last agreed with the world */
    u64 tsc_offset;       /* as last told to KVM */

    /* The thread to be signalled, from before events are looked at until KVM_RUN is back. */
    _Atomic pid_t tid;

    u64 xcr0;  /* XCR0 bits that the guest may have; 0: no XSAVE in its CPUID */
    u8 *xsave; /* xsave_size bytes, for KVM_GET_XSAVE */
    u32 xsave_size;
    struct kvm_msr_field msr[KVM_MSR_FIELDS_MAX]; /* those of kvm_state.c's list that KVM has */
    unsigned nmsrs;

    struct kvm_stats stats;
};

struct kvm_engine {
    struct engine engine;
    struct engine_config cfg;
    int kvm, vm;
    bool slots_made;
    bool shadow;                  /* KVM_CAP_INTR_SHADOW */
    bool readonly_mem;            /* KVM_CAP_READONLY_MEM */
    bool exit_on_emulation;       /* failed emulation exits in user mode, too, and queues no #UD */
    u32 xsave2_size;              /* KVM_CAP_XSAVE2: bytes of KVM_GET_XSAVE2, or 0 */
    struct kvm_cpuid2 *supported; /* KVM_GET_SUPPORTED_CPUID */
    struct engine *interp;        /* executes what KVM's emulator cannot */
    struct kvm_vcpu **vcpu;       /* [cfg.ncpus], by cpu.id: c->engine is the interpreter's */
};

#define KVM_CPUID_MAX 256 /* leaves that KVM may list */

/* kvm_state.c: CPUID. */
struct kvm_cpuid2 *kvm_cpuid_new(void); /* room for KVM_CPUID_MAX leaves; NULL: out of memory */
int kvm_cpuid_set(struct kvm_vcpu *v, struct err *e); /* the model, as far as KVM goes along */

/* kvm_state.c: struct cpu <-> KVM. 0, or -1 and *e. */
int kvm_state_probe(struct kvm_vcpu *v, struct err *e); /* once, after KVM_SET_CPUID2 */
int kvm_state_read(struct kvm_vcpu *v, struct err *e);  /* does nothing unless OWNER_KVM */
int kvm_state_write(struct kvm_vcpu *v, struct err *e); /* does nothing unless OWNER_CPU */
int kvm_state_tsc(struct kvm_vcpu *v, struct err *e);   /* passes on a changed tsc_offset */
int kvm_state_apic_base(struct kvm_vcpu *v, struct err *e);
u64 kvm_state_rip(struct kvm_vcpu *v);

/* True if KVM keeps this MSR: what KVM refuses there is #GP. */
bool kvm_state_has_msr(u32 msr);

/* kvm_run.c */
void kvm_run_loop(struct kvm_vcpu *v, u64 max_insns, struct engine_result *res);

#endif
