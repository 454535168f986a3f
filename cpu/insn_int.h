/*
 * insn_int.h - C bodies of the integer instructions, by subject.
 *
 * A binder returns the body for a decoded instruction, specialised by operand form and size where
 * that pays, or NULL if the instruction is not of its kind. It may rewrite fields of d->i that the
 * body reads differently (said at the body).
 */
#ifndef POPF_INSN_INT_H
#define POPF_INSN_INT_H

#include "cpu/cpu.h"

cpu_insn_fn *insn_bind_alu(struct x86_decoded *d);   /* insn_alu.c: ADD..CMP TEST INC DEC NEG NOT */
cpu_insn_fn *insn_bind_shift(struct x86_decoded *d); /* insn_shift.c: ROL..SAR SHLD SHRD */
cpu_insn_fn *insn_bind_muldiv(struct x86_decoded *d); /* insn_muldiv.c */
cpu_insn_fn *insn_bind_bit(struct x86_decoded *d);    /* insn_bit.c: BT* BS* counts, BMI, CRC32 */
cpu_insn_fn *insn_bind_bcd(struct x86_decoded *d);    /* insn_bcd.c */
cpu_insn_fn *insn_bind_mov(struct x86_decoded *d);    /* insn_mov.c: moves, stack, conversions */
cpu_insn_fn *insn_bind_atomic(struct x86_decoded *d); /* insn_atomic.c: XCHG XADD CMPXCHG* */
cpu_insn_fn *insn_bind_flow(struct x86_decoded *d);   /* insn_flow.c: near control, conditions */
cpu_insn_fn *insn_bind_string(struct x86_decoded *d); /* insn_string.c: strings, IN, OUT */

cpu_insn_fn insn_ud; /* throws #UD */

#endif
