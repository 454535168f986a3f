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

/*
 * For engines that emit X86_HOST instructions into their own code, where they run on the resident
 * state and no signal may come: only while cpu.fpu_off[level] is 0, which says that the state is
 * resident, that CR0, CR4 and XCR0 allow the level's instructions, and that all x87 and SIMD
 * exceptions are masked. It ends with cpu_leave() and with what changes those registers.
 */
enum cpu_fpu_level {
    FPU_NONE,
    FPU_SSE, /* x87 and MMX as well */
    FPU_AVX,
    FPU_AVX512,
};

/* Loads the state if the level is allowed; true if fpu_off[level] is 0 now. */
bool cpu_fpu_ready(struct cpu *c, enum cpu_fpu_level level);

/* CR0, CR4, XCR0 or the masks of exceptions may be others now. */
static inline void cpu_fpu_off(struct cpu *c)
{
    for (unsigned n = 0; n < sizeof c->fpu_off; n++)
        c->fpu_off[n] = 1;
}

struct cpu_fpu_plan {
    enum cpu_fpu_level level;
    u8 size; /* of the memory operand */
    bool write, aligned;
    bool masked;  /* may touch less of it, and does not fault for the rest */
    bool x87_ptr; /* it must be noted in cpu.x87_last */
    bool control; /* may unmask exceptions */
    u16 fop;
};

/* What to heed when a decoded X86_HOST instruction is emitted for c's current mode; false: its C
 * body must run. True only for encodings that have run, so that the host does not find them
 * undefined. */
bool cpu_fpu_plan(const struct cpu *c, const struct x86_decoded *d, struct cpu_fpu_plan *p);

/* Which host registers stand for the general registers that an instruction names, and those whose
 * sum is the host address of its memory operand (no index: 0; then `mem` is neither RSP, RBP, R12
 * nor R13). */
struct cpu_fpu_regs {
    u8 reg, rm, vvvv, mem, index;
    s32 disp; /* to be added; only with an index */
};

/* The instruction with these registers, as 64-bit code: its length, at most 16. Good for integer
 * instructions with VEX or mandatory prefixes too. */
unsigned cpu_fpu_encode(const struct x86_decoded *d, bool mode64, const struct cpu_fpu_regs *r,
                        u8 *out);

/* cpu.x87_last: offset in the page of the instruction, this bit, FOP. */
#define X87_LAST_SET BIT(12)
#define X87_LAST_FOP 13

/* FDP, FOP and FDS change only with unmasked exceptions; FCS and FDS do not exist. */
bool cpu_fpu_exc_ptrs(const struct cpu *c);
u32 cpu_fpu_mxcsr_mask(const struct cpu *c);

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
