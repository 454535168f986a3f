/*
 * insn_ctl.h - C bodies of the instructions on control, debug and model-specific registers, time,
 * caches and the TLB. insn_x executes mnemonic X (x86_ops.def).
 */
#ifndef POPF_INSN_CTL_H
#define POPF_INSN_CTL_H

#include "cpu/cpu.h"

cpu_insn_fn insn_mov_from_cr, insn_mov_to_cr, insn_mov_from_dr, insn_mov_to_dr;
cpu_insn_fn insn_clts, insn_lmsw, insn_smsw;
cpu_insn_fn insn_invlpg, insn_invpcid, insn_invd, insn_wbinvd;
cpu_insn_fn insn_rdmsr, insn_wrmsr, insn_rdtsc, insn_rdtscp, insn_rdpmc, insn_rdpid;
cpu_insn_fn insn_hlt, insn_cpuid, insn_clac, insn_stac, insn_swapgs;
cpu_insn_fn insn_rdfsbase, insn_rdgsbase, insn_wrfsbase, insn_wrgsbase;
cpu_insn_fn insn_rdrand, insn_rdseed, insn_rdpkru, insn_wrpkru;
cpu_insn_fn insn_monitor, insn_mwait, insn_vmcall, insn_vmmcall, insn_serialize;
cpu_insn_fn insn_clflush, insn_clflushopt, insn_clwb;
cpu_insn_fn insn_nop, insn_pause, insn_prefetch, insn_lfence, insn_mfence, insn_sfence;

#endif
