/*
 * cpu_insn.h - from a decoded instruction to the C body that executes it.
 */
#ifndef POPF_CPU_INSN_H
#define POPF_CPU_INSN_H

#include "cpu/cpu.h"

/*
 * The body for a decoded instruction under c's CPU model; never NULL (what does not exist gets a
 * body that throws #UD). May rewrite d->i for the body's use: keep the result, not the original.
 */
cpu_insn_fn *cpu_insn_bind(struct cpu *c, struct x86_decoded *d);

/*
 * Fetches, decodes and executes the one instruction at CS:RIP, without any cache: for tests, and
 * for engines that meet one instruction they cannot do. c->unwind must be set.
 */
void cpu_insn_step(struct cpu *c);

/* Decodes at CS:RIP into *d; throws #PF, #GP for over-long ones. False: #UD. */
bool cpu_insn_fetch(struct cpu *c, struct x86_decoded *d);

#endif
