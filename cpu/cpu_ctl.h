/*
 * cpu_ctl.h - control, debug and model-specific registers.
 */
#ifndef POPF_CPU_CTL_H
#define POPF_CPU_CTL_H

#include "cpu/cpu.h"

/* As MOV to CRn does, all checks and side effects (TLB, mode, PDPTEs) included. Throw #GP. */
void cpu_write_cr0(struct cpu *c, u64 val);
void cpu_write_cr3(struct cpu *c, u64 val);
void cpu_write_cr4(struct cpu *c, u64 val);

/* The same for a debug register (0..7; 4 and 5 alias 6 and 7 unless CR4.DE: #UD). */
u64 cpu_read_dr(struct cpu *c, unsigned n);
void cpu_write_dr(struct cpu *c, unsigned n, u64 val);

/* 0, or -1 for #GP(0). Do not throw. */
int cpu_msr_read(struct cpu *c, u32 msr, u64 *val);
int cpu_msr_write(struct cpu *c, u32 msr, u64 val);

void cpu_write_xcr0(struct cpu *c, u64 val);

/* The guest's time-stamp counter now, and the host TSC value at which it will be `tsc`. */
u64 cpu_tsc(const struct cpu *c);
u64 cpu_tsc_to_host(const struct cpu *c, u64 tsc);

#endif
