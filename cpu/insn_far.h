/*
 * insn_far.h - C bodies: far transfers, interrupts by instruction, fast system calls, the flags
 * register.
 */
#ifndef POPF_INSN_FAR_H
#define POPF_INSN_FAR_H

#include "cpu/cpu.h"

cpu_insn_fn insn_call_far, insn_call_far_ind, insn_jmp_far, insn_jmp_far_ind, insn_ret_far,
    insn_iret;
cpu_insn_fn insn_int, insn_int3, insn_into, insn_int1;
cpu_insn_fn insn_syscall, insn_sysret, insn_sysenter, insn_sysexit;
cpu_insn_fn insn_pushf, insn_popf, insn_cli, insn_sti;

#endif
