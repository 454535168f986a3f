/*
 * cpu_insn.c - which C body executes which instruction, and one instruction executed alone.
 */
#include "cpu/cpu_insn.h"

#include "cpu/cpu_cpuid.h"
#include "cpu/cpu_fpu.h"
#include "cpu/cpu_mem.h"
#include "cpu/insn_ctl.h"
#include "cpu/insn_far.h"
#include "cpu/insn_int.h"
#include "cpu/insn_sys.h"

void insn_ud(struct cpu *c, const struct x86_insn *i)
{
    cpu_throw_ud(c);
}

/* Bodies that need no binding to operand forms. */
static cpu_insn_fn *const body[X86_OP_COUNT] = {
    /* insn_sys.c */
    [X86_LGDT] = insn_lgdt,
    [X86_LIDT] = insn_lidt,
    [X86_SGDT] = insn_sgdt,
    [X86_SIDT] = insn_sidt,
    [X86_LLDT] = insn_lldt,
    [X86_SLDT] = insn_sldt,
    [X86_LTR] = insn_ltr,
    [X86_STR] = insn_str,
    [X86_LAR] = insn_lar,
    [X86_LSL] = insn_lsl,
    [X86_VERR] = insn_verr,
    [X86_VERW] = insn_verw,
    [X86_ARPL] = insn_arpl,
    [X86_MOV_FROM_SREG] = insn_mov_from_sreg,
    [X86_MOV_TO_SREG] = insn_mov_to_sreg,
    [X86_PUSH_SREG] = insn_push_sreg,
    [X86_POP_SREG] = insn_pop_sreg,
    [X86_LES] = insn_les,
    [X86_LDS] = insn_lds,
    [X86_LSS] = insn_lss,
    [X86_LFS] = insn_lfs,
    [X86_LGS] = insn_lgs,
    [X86_BOUND] = insn_bound,
    /* insn_far.c */
    [X86_CALL_FAR] = insn_call_far,
    [X86_CALL_FAR_IND] = insn_call_far_ind,
    [X86_JMP_FAR] = insn_jmp_far,
    [X86_JMP_FAR_IND] = insn_jmp_far_ind,
    [X86_RET_FAR] = insn_ret_far,
    [X86_IRET] = insn_iret,
    [X86_SYSCALL] = insn_syscall,
    [X86_SYSRET] = insn_sysret,
    [X86_SYSENTER] = insn_sysenter,
    [X86_SYSEXIT] = insn_sysexit,
    [X86_INT] = insn_int,
    [X86_INT3] = insn_int3,
    [X86_INTO] = insn_into,
    [X86_INT1] = insn_int1,
    [X86_PUSHF] = insn_pushf,
    [X86_POPF] = insn_popf,
    [X86_CLI] = insn_cli,
    [X86_STI] = insn_sti,
    /* insn_ctl.c */
    [X86_MOV_FROM_CR] = insn_mov_from_cr,
    [X86_MOV_TO_CR] = insn_mov_to_cr,
    [X86_MOV_FROM_DR] = insn_mov_from_dr,
    [X86_MOV_TO_DR] = insn_mov_to_dr,
    [X86_CLTS] = insn_clts,
    [X86_LMSW] = insn_lmsw,
    [X86_SMSW] = insn_smsw,
    [X86_INVLPG] = insn_invlpg,
    [X86_INVPCID] = insn_invpcid,
    [X86_INVD] = insn_invd,
    [X86_WBINVD] = insn_wbinvd,
    [X86_RDMSR] = insn_rdmsr,
    [X86_WRMSR] = insn_wrmsr,
    [X86_RDTSC] = insn_rdtsc,
    [X86_RDTSCP] = insn_rdtscp,
    [X86_RDPMC] = insn_rdpmc,
    [X86_HLT] = insn_hlt,
    [X86_CPUID] = insn_cpuid,
    [X86_CLAC] = insn_clac,
    [X86_STAC] = insn_stac,
    [X86_RDFSBASE] = insn_rdfsbase,
    [X86_RDGSBASE] = insn_rdgsbase,
    [X86_WRFSBASE] = insn_wrfsbase,
    [X86_WRGSBASE] = insn_wrgsbase,
    [X86_SWAPGS] = insn_swapgs,
    [X86_RDPID] = insn_rdpid,
    [X86_RDRAND] = insn_rdrand,
    [X86_RDSEED] = insn_rdseed,
    [X86_RDPKRU] = insn_rdpkru,
    [X86_WRPKRU] = insn_wrpkru,
    [X86_MONITOR] = insn_monitor,
    [X86_MWAIT] = insn_mwait,
    [X86_VMCALL] = insn_vmcall,
    [X86_VMMCALL] = insn_vmmcall,
    [X86_SERIALIZE] = insn_serialize,
    [X86_CLFLUSH] = insn_clflush,
    [X86_CLFLUSHOPT] = insn_clflushopt,
    [X86_CLWB] = insn_clwb,
    [X86_LFENCE] = insn_lfence,
    [X86_MFENCE] = insn_mfence,
    [X86_SFENCE] = insn_sfence,
    [X86_PAUSE] = insn_pause,
    [X86_NOP] = insn_nop,
    [X86_PREFETCH] = insn_prefetch,
    /* cpu_fpu.h */
    [X86_FWAIT] = insn_wait,
    [X86_FXSAVE] = insn_fxsave,
    [X86_FXRSTOR] = insn_fxrstor,
    [X86_XSAVE] = insn_xsave,
    [X86_XSAVEOPT] = insn_xsaveopt,
    [X86_XSAVEC] = insn_xsavec,
    [X86_XSAVES] = insn_xsaves,
    [X86_XRSTOR] = insn_xrstor,
    [X86_XRSTORS] = insn_xrstors,
    [X86_LDMXCSR] = insn_ldmxcsr,
    [X86_STMXCSR] = insn_stmxcsr,
    [X86_XGETBV] = insn_xgetbv,
    [X86_XSETBV] = insn_xsetbv,
    [X86_UD0] = insn_ud,
    [X86_UD1] = insn_ud,
    [X86_UD2] = insn_ud,
};

/* Without the feature, TZCNT and LZCNT are BSF and BSR with a meaningless prefix. */
static void downgrade(const struct cpu *c, struct x86_decoded *d)
{
    if (d->op == X86_TZCNT && !cpu_has(c, X86_F_BMI1))
        d->op = X86_BSF;
    else if (d->op == X86_LZCNT && !cpu_has(c, X86_F_LZCNT))
        d->op = X86_BSR;
}

static cpu_insn_fn *bind_host(struct cpu *c, struct x86_decoded *d)
{
    d->i.imm = cpu_fpu_bind(c, d);
    return d->i.imm ? cpu_fpu_exec : insn_ud;
}

cpu_insn_fn *cpu_insn_bind(struct cpu *c, struct x86_decoded *d)
{
    static cpu_insn_fn *(*const binder[])(struct x86_decoded *) = {
        insn_bind_alu,    insn_bind_mov,    insn_bind_flow,   insn_bind_shift, insn_bind_bit,
        insn_bind_string, insn_bind_muldiv, insn_bind_atomic, insn_bind_bcd,
    };
    const struct x86_row *row = x86_row(&d->i);
    downgrade(c, d);
    if (d->op != X86_BSF && d->op != X86_BSR && !cpu_has(c, row->feature))
        return insn_ud;
    if (row->attr & X86_HOST)
        return bind_host(c, d);
    if (body[d->op])
        return body[d->op];
    for (unsigned n = 0; n < ARRAY_SIZE(binder); n++) {
        cpu_insn_fn *fn = binder[n](d);
        if (fn)
            return fn;
    }
    return insn_ud;
}

bool cpu_insn_fetch(struct cpu *c, struct x86_decoded *d)
{
    u8 buf[16];
    unsigned have = 0;
    gva_t la = (c->reg[X86_SLOT_RIP] + c->seg[CS].base) & c->la_mask;
    if (c->mode == X86_MODE64 && !x86_canonical(la))
        cpu_throw_gp(c, 0);
    for (;;) {
        unsigned room = X86_INSN_MAX - have;
        have += cpu_fetch_slow(c, (la + have) & c->la_mask, buf + have, room);
        switch (x86_decode(buf, have, c->mode, d)) {
        case X86_MORE:
            if (have < X86_INSN_MAX)
                break;
            cpu_throw_gp(c, 0);
        case X86_TOO_LONG:
            cpu_throw_gp(c, 0);
        case X86_UD:
            return false;
        case X86_OK:
            if (c->mode != X86_MODE64 && c->reg[X86_SLOT_RIP] + d->i.len - 1 > c->seg[CS].limit)
                cpu_throw_gp(c, 0);
            return true;
        }
    }
}

void cpu_insn_step(struct cpu *c)
{
    struct x86_decoded d;
    if (!cpu_insn_fetch(c, &d))
        cpu_throw_ud(c);
    cpu_insn_fn *fn = cpu_insn_bind(c, &d);
    c->step = d.i;
    c->insn = &c->step;
    c->reg[X86_SLOT_RIP] += d.i.len;
    fn(c, &c->step);
    c->insn = NULL;
    c->insns++;
}
