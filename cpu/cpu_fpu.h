/*
 * cpu_fpu.h - x87, MMX, SSE, AVX and AVX-512 on the host's own units.
 *
 * An instruction whose row says X86_HOST is re-emitted once into a stub in executable memory, its
 * memory operand pointed at a host address and its general registers moved to fixed ones, and the
 * stub is called with the guest's FP state loaded in the host's registers. The state stays loaded
 * from the first such instruction until cpu_leave(): code compiled without -mgeneral-regs-only,
 * and libc, may only be called after it.
 *
 * Unmasked SIMD and x87 exceptions reach a stub as SIGFPE. cpu_fpu_new() installs handlers for
 * SIGFPE, SIGILL and SIGSEGV, once per process, that turn faults in stubs into the guest's and
 * pass all others on to the handlers found there. Who installs a handler for these later must
 * pass on what is not his.
 */
#ifndef POPF_CPU_FPU_H
#define POPF_CPU_FPU_H

#include "cpu/cpu.h"

/* Allocated by cpu_new(); NULL and *e when executable memory cannot be had. */
struct cpu_fpu *cpu_fpu_new(struct cpu *c, struct err *e);
void cpu_fpu_free(struct cpu_fpu *f);

/* RESET values; INIT leaves FP state alone. */
void cpu_fpu_reset(struct cpu *c);

/*
 * Prepares a decoded X86_HOST instruction for c's current mode: returns a handle that
 * cpu_fpu_exec() finds through insn->imm, or 0 if it must be #UD under this model. Handles belong
 * to one CPU. Stubs are shared by equal encodings and are dropped only together: when the stub
 * memory is full, cpu_fpu_generation() changes and every handle from before is dead.
 */
u64 cpu_fpu_bind(struct cpu *c, const struct x86_decoded *d);
u32 cpu_fpu_generation(const struct cpu *c);

/*
 * Executes; i->imm holds the handle. Checks CR0.EM/TS, CR4.OSFXSR, XCR0, pending #MF, alignment.
 * With a dead handle it unwinds with nothing pending: the engine must decode anew.
 */
cpu_insn_fn cpu_fpu_exec;

/* C bodies of the instructions that move state. */
cpu_insn_fn insn_fxsave, insn_fxrstor, insn_xsave, insn_xsaveopt, insn_xsavec, insn_xsaves,
    insn_xrstor, insn_xrstors, insn_ldmxcsr, insn_stmxcsr, insn_wait, insn_xgetbv, insn_xsetbv;

/*
 * The architectural FP state as an XSAVE image in standard format with the model's layout, for
 * snapshots, the debugger and other engines. `buf` is cpu_fpu_size() bytes.
 */
unsigned cpu_fpu_size(const struct cpu *c);
void cpu_fpu_get(struct cpu *c, void *buf);
int cpu_fpu_set(struct cpu *c, const void *buf); /* -1: the image is not loadable */

/* Host features, found once per machine model: XCR0 bits the host has enabled and popf offers. */
u64 cpu_fpu_host_xcr0(void);

#endif
