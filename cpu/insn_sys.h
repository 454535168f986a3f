/*
 * insn_sys.h - C bodies: descriptor tables, selectors, segment registers; I/O permission.
 */
#ifndef POPF_INSN_SYS_H
#define POPF_INSN_SYS_H

#include "cpu/cpu.h"

cpu_insn_fn insn_lgdt, insn_lidt, insn_sgdt, insn_sidt, insn_lldt, insn_sldt, insn_ltr, insn_str;
cpu_insn_fn insn_lar, insn_lsl, insn_verr, insn_verw, insn_arpl;
cpu_insn_fn insn_mov_from_sreg, insn_mov_to_sreg, insn_push_sreg, insn_pop_sreg;
cpu_insn_fn insn_les, insn_lds, insn_lss, insn_lfs, insn_lgs, insn_bound;

/* IOPL and the TSS's I/O permission bitmap for `size` ports: throws #GP(0) (SDM vol. 1, 19.5). */
void cpu_check_io(struct cpu *c, u16 port, unsigned size);

#endif
