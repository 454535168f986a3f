/*
 * cpu_cpuid.h - the CPU model: what CPUID tells the guest, and so what must work.
 *
 * The model is the host's CPU less what popf does not offer (VMX, SVM, TSX, AMX, MPX, PKU without
 * the host's, SGX, PT, PMU, MONITOR) and with what makes a guest quick (no Meltdown and its kin,
 * constant TSC with its frequency, KVM's paravirtual leaves). Immutable once built; shared by all
 * CPUs of a machine.
 */
#ifndef POPF_CPU_CPUID_H
#define POPF_CPU_CPUID_H

#include "cpu/cpu.h"

enum cpu_vendor { CPU_VENDOR_HOST, CPU_VENDOR_INTEL, CPU_VENDOR_AMD };

#define CPU_FEATURE_WORDS 2
#define CPU_PHYS_BITS_MIN 36
#define CPU_PHYS_BITS_MAX 52

struct cpu_model_config {
    u64 tsc_hz;      /* guest TSC frequency */
    u64 apic_bus_hz; /* local APIC timer frequency */
    unsigned ncpus;
    bool kvm_leaves;  /* 0x40000000: paravirtual clock */
    bool hide_avx512; /* further cut-downs, for tests */
    bool hide_avx;
    enum cpu_vendor vendor;
    unsigned phys_bits; /* MAXPHYADDR; 0: the host's */
    /* Features by their number (cpu_feature_at): to be left out; to be there or else an error. */
    u64 off[CPU_FEATURE_WORDS], on[CPU_FEATURE_WORDS];
};

/*
 * Changes *cfg as a user says: words with commas between, "host", "-FEATURE", "+FEATURE" (takes an
 * earlier minus back), "vendor=AuthenticAMD", "vendor=GenuineIntel", "phys-bits=36". 0, or -1.
 */
int cpu_model_parse(struct cpu_model_config *cfg, const char *text, struct err *e);

/* A feature that can be left out; name as in QEMU and Linux. */
struct cpu_feature {
    const char *name;
    u32 leaf;
    u8 subleaf, reg, bit; /* reg: 0 EAX ... 3 EDX */
};

/* By number, from 0; NULL behind the last. */
const struct cpu_feature *cpu_feature_at(unsigned n);

/* All names, with blanks between. */
const char *cpu_feature_names(void);

struct cpu_model *cpu_model_new(const struct cpu_model_config *cfg, struct err *e);
void cpu_model_free(struct cpu_model *m);

/* CPUID as executed by c, with what depends on its state (APIC id, OSXSAVE, XCR0 sizes). */
void cpu_cpuid(const struct cpu *c, u32 leaf, u32 subleaf, u32 out[4]); /* EAX EBX ECX EDX */

/* Static leaves, for engines that hand the model to hardware: fills up to max, returns how many. */
struct cpu_cpuid_entry {
    u32 leaf, subleaf;
    bool has_subleaf;
    u32 eax, ebx, ecx, edx;
};
unsigned cpu_model_entries(const struct cpu_model *m, struct cpu_cpuid_entry *e, unsigned max);

bool cpu_has(const struct cpu *c, enum x86_feature f);

/* Valid bits of registers under the model. */
u64 cpu_cr4_valid(const struct cpu *c);
u64 cpu_efer_valid(const struct cpu *c);
u64 cpu_xcr0_valid(const struct cpu *c);
unsigned cpu_phys_bits(const struct cpu *c); /* MAXPHYADDR */
u64 cpu_model_tsc_hz(const struct cpu *c);

/* MSR IA32_ARCH_CAPABILITIES; 0 where CPUID does not offer the MSR (AMD). */
u64 cpu_model_arch_capabilities(const struct cpu *c);

/* "GenuineIntel", "AuthenticAMD", ... as in leaf 0; valid as long as the model. */
const char *cpu_model_vendor(const struct cpu_model *m);
bool cpu_model_is_amd(const struct cpu_model *m); /* AMD or Hygon */

/* XCR0 bits of the model, for those that have no struct cpu yet. */
u64 cpu_model_xcr0(const struct cpu_model *m);

#endif
