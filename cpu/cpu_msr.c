/*
 * cpu_msr.c - RDMSR and WRMSR (SDM vol. 4; AMD's in APM vol. 2, appendix A).
 *
 * Registers that only hold a value are rows of a table. Those with rules of their own follow, by
 * subject; each group's function says whether the register was one of its own. What nobody here
 * knows belongs to the machine (struct cpu_world) or does not exist.
 */
#include "cpu/cpu_cpuid.h"
#include "cpu/cpu_ctl.h"
#include "cpu/cpu_mem.h"

#define MC_BANKS 10

#define MSR_EBL_CR_POWERON     0x2a
#define MSR_SMI_COUNT          0x34
#define MSR_LASTBRANCH_FIRST   0x1db /* ... LASTINTTOIP 0x1de */
#define MSR_LASTBRANCH_LAST    0x1de
#define MSR_IA32_MC_LAST       0x47f /* room for 32 banks */
#define MSR_MTRR_PHYS_LAST     0x20f
#define MSR_MTRR_FIX16K_1      0x259
#define MSR_MTRR_FIX4K_7       0x26f
#define MSR_AMD_PERF_CTL0      0xc0010000u
#define MSR_AMD_PERF_CTR3      0xc0010007u
#define MSR_AMD_SYSCFG         0xc0010010u
#define MSR_AMD_HWCR           0xc0010015u
#define MSR_AMD_NB_CFG         0xc001001fu
#define MSR_AMD_PATCH_LOADER   0xc0010020u
#define MSR_AMD_INT_PENDING    0xc0010055u
#define MSR_AMD_MMIO_CONF_BASE 0xc0010058u
#define MSR_AMD_TSEG_ADDR      0xc0010112u
#define MSR_AMD_TSEG_MASK      0xc0010113u
#define MSR_AMD_VM_CR          0xc0010114u
#define MSR_AMD_VM_HSAVE_PA    0xc0010117u
#define MSR_AMD_LS_CFG         0xc0011020u
#define MSR_AMD_DC_CFG         0xc0011022u
#define MSR_AMD_DE_CFG         0xc0011029u
#define MSR_AMD_BU_CFG2        0xc001102au

#define HWCR_TSC_FREQ_SEL BIT(24)
#define DE_CFG_LFENCE     BIT(1) /* LFENCE serializes */

/* What a handler says: the register is not one of its group, or the access is done or is #GP. */
enum answer { NOT_MINE, DONE, FAULT };

static enum answer answer(bool ok)
{
    return ok ? DONE : FAULT;
}

static u32 cpuid(const struct cpu *c, u32 leaf, unsigned reg)
{
    u32 r[4];
    cpu_cpuid(c, leaf, 0, r);
    return r[reg];
}

static bool is_amd(const struct cpu *c)
{
    u32 ebx = cpuid(c, 0, 1);
    return ebx == 0x68747541 || ebx == 0x6f677948; /* "Auth"enticAMD, "Hygo"nGenuine */
}

static u64 beyond_phys(const struct cpu *c)
{
    return ~(BIT(cpu_phys_bits(c)) - 1);
}

/* --- registers that hold a value --- */

struct plain {
    u32 msr;
    u16 at;         /* offset in struct cpu */
    bool canonical; /* holds a linear address */
    u64 rsvd;       /* bits that must be 0 */
};

#define PLAIN(msr, field, canonical, rsvd)                                                         \
    {                                                                                              \
        msr, offsetof(struct cpu, field), canonical, rsvd                                          \
    }

static const struct plain plain_msrs[] = {
    PLAIN(MSR_IA32_SYSENTER_CS, sysenter_cs, false, 0),
    PLAIN(MSR_IA32_SYSENTER_ESP, sysenter_esp, true, 0),
    PLAIN(MSR_IA32_SYSENTER_EIP, sysenter_eip, true, 0),
    PLAIN(MSR_IA32_MCG_STATUS, mcg_status, false, ~7ull),
    PLAIN(MSR_IA32_DEBUGCTL, debugctl, false, ~3ull), /* LBR, BTF */
    PLAIN(MSR_STAR, star, false, 0),
    PLAIN(MSR_LSTAR, lstar, true, 0),
    PLAIN(MSR_CSTAR, cstar, true, 0),
    PLAIN(MSR_SFMASK, sfmask, false, ~0xffffffffull),
    PLAIN(MSR_FS_BASE, seg[FS].base, true, 0),
    PLAIN(MSR_GS_BASE, seg[GS].base, true, 0),
    PLAIN(MSR_KERNEL_GS_BASE, kernel_gs_base, true, 0),
};

static const struct plain *find_plain(u32 msr)
{
    for (unsigned i = 0; i < ARRAY_SIZE(plain_msrs); i++)
        if (plain_msrs[i].msr == msr)
            return &plain_msrs[i];
    return NULL;
}

static enum answer read_plain(struct cpu *c, u32 msr, u64 *val)
{
    const struct plain *p = find_plain(msr);
    if (!p)
        return NOT_MINE;
    *val = *(const u64 *)((const u8 *)c + p->at);
    return DONE;
}

static enum answer write_plain(struct cpu *c, u32 msr, u64 val)
{
    const struct plain *p = find_plain(msr);
    if (!p)
        return NOT_MINE;
    if (val & p->rsvd || (p->canonical && !x86_canonical(val)))
        return FAULT;
    *(u64 *)((u8 *)c + p->at) = val;
    return DONE;
}

/* --- modes and time --- */

static bool write_efer(struct cpu *c, u64 val)
{
    u64 old = c->efer;
    if (val & ~(cpu_efer_valid(c) | EFER_LMA))
        return false;
    if (c->cr0 & CR0_PG && (old ^ val) & EFER_LME)
        return false;
    c->efer = (val & ~(u64)EFER_LMA) | (old & EFER_LMA); /* LMA is the CPU's */
    if ((old ^ val) & EFER_NXE)
        cpu_tlb_flush(c);
    if (c->efer != old)
        cpu_update_mode(c);
    return true;
}

/* IA32_TSC and IA32_TSC_ADJUST move together (SDM vol. 3B, 17.17.3). */
static void adjust_tsc(struct cpu *c, u64 delta)
{
    c->tsc_offset += delta;
    c->tsc_adjust += delta;
}

static bool has_tsc_aux(const struct cpu *c)
{
    return cpu_has(c, X86_F_RDTSCP) || cpu_has(c, X86_F_RDPID);
}

static enum answer read_base(struct cpu *c, u32 msr, u64 *val)
{
    switch (msr) {
    case MSR_EFER:
        *val = c->efer;
        return DONE;
    case MSR_IA32_TSC:
        *val = cpu_tsc(c);
        return DONE;
    case MSR_IA32_TSC_ADJUST:
        *val = c->tsc_adjust;
        return answer(cpuid(c, 7, 1) & BIT(1));
    case MSR_TSC_AUX:
        *val = c->tsc_aux;
        return answer(has_tsc_aux(c));
    case MSR_IA32_XSS:
        *val = c->xss;
        return answer(cpu_has(c, X86_F_XSAVES));
    case MSR_IA32_MISC_ENABLE:
        *val = c->misc_enable;
        return DONE;
    case MSR_IA32_FEATURE_CONTROL:
        *val = c->feature_control;
        return answer(!is_amd(c));
    default:
        return NOT_MINE;
    }
}

static enum answer write_base(struct cpu *c, u32 msr, u64 val)
{
    const u64 misc_read_only = BIT(7) | BIT(11) | BIT(12);
    switch (msr) {
    case MSR_EFER:
        return answer(write_efer(c, val));
    case MSR_IA32_TSC:
        adjust_tsc(c, val - cpu_tsc(c));
        return DONE;
    case MSR_IA32_TSC_ADJUST:
        if (!(cpuid(c, 7, 1) & BIT(1)))
            return FAULT;
        adjust_tsc(c, val - c->tsc_adjust);
        return DONE;
    case MSR_TSC_AUX:
        if (val >> 32 || !has_tsc_aux(c))
            return FAULT;
        c->tsc_aux = val;
        return DONE;
    case MSR_IA32_XSS:
        return answer(val == 0 && cpu_has(c, X86_F_XSAVES));
    case MSR_IA32_MISC_ENABLE:
        c->misc_enable = (val & ~misc_read_only) | (c->misc_enable & misc_read_only);
        return DONE;
    case MSR_IA32_FEATURE_CONTROL:
        return FAULT; /* locked at reset */
    default:
        return NOT_MINE;
    }
}

/* --- memory types --- */

/* UC, WC, WT, WP, WB; in the PAT also UC-. */
static bool valid_type(u64 type, bool pat)
{
    return type == 0 || type == 1 || (type >= 4 && type <= 6) || (pat && type == 7);
}

static bool valid_types(u64 val, bool pat)
{
    for (unsigned i = 0; i < 8; i++)
        if (!valid_type(bits(val, 8 * i, 8), pat))
            return false;
    return true;
}

/* The fixed-range register of an MSR, in the order 64K, 16K, 16K, 4K...; NULL if it is none. */
static u64 *mtrr_fixed(struct cpu *c, u32 msr)
{
    if (msr == MSR_IA32_MTRR_FIX64K)
        return &c->mtrr_fixed[0];
    if (msr >= MSR_IA32_MTRR_FIX16K_0 && msr <= MSR_MTRR_FIX16K_1)
        return &c->mtrr_fixed[1 + msr - MSR_IA32_MTRR_FIX16K_0];
    if (msr >= MSR_IA32_MTRR_FIX4K_0 && msr <= MSR_MTRR_FIX4K_7)
        return &c->mtrr_fixed[3 + msr - MSR_IA32_MTRR_FIX4K_0];
    return NULL;
}

/* PHYSBASE0, PHYSMASK0, PHYSBASE1, ... */
static u64 *mtrr_variable(struct cpu *c, u32 msr)
{
    if (msr < MSR_IA32_MTRR_PHYSBASE0 || msr > MSR_MTRR_PHYS_LAST)
        return NULL;
    unsigned n = (msr - MSR_IA32_MTRR_PHYSBASE0) / 2;
    return msr & 1 ? &c->mtrr_mask[n] : &c->mtrr_base[n];
}

static enum answer read_types(struct cpu *c, u32 msr, u64 *val)
{
    const u64 *held = mtrr_fixed(c, msr);
    if (!held)
        held = mtrr_variable(c, msr);
    if (held)
        *val = *held;
    else if (msr == MSR_IA32_MTRRCAP)
        *val = ARRAY_SIZE(c->mtrr_base) | BIT(8) | BIT(10); /* fixed ranges, WC */
    else if (msr == MSR_IA32_MTRR_DEF_TYPE)
        *val = c->mtrr_def_type;
    else if (msr == MSR_IA32_PAT)
        *val = c->pat;
    else
        return NOT_MINE;
    return DONE;
}

static enum answer store_if(bool ok, u64 *held, u64 val)
{
    if (ok)
        *held = val;
    return answer(ok);
}

static enum answer write_types(struct cpu *c, u32 msr, u64 val)
{
    u64 *fixed = mtrr_fixed(c, msr), *variable = mtrr_variable(c, msr);
    if (fixed)
        return store_if(valid_types(val, false), fixed, val);
    if (variable && msr & 1)
        return store_if(!(val & (beyond_phys(c) | 0x7ff)), variable, val);
    if (variable)
        return store_if(!(val & (beyond_phys(c) | 0xf00)) && valid_type(val & 0xff, false),
                        variable, val);
    switch (msr) {
    case MSR_IA32_MTRR_DEF_TYPE:
        return store_if(!(val & ~0xcffull) && valid_type(val & 0xff, false), &c->mtrr_def_type,
                        val);
    case MSR_IA32_PAT:
        return store_if(valid_types(val, true), &c->pat, val);
    case MSR_IA32_MTRRCAP:
        return FAULT;
    default:
        return NOT_MINE;
    }
}

/* --- machine check: banks that never report anything --- */

static bool is_bank(u32 msr)
{
    return msr >= MSR_IA32_MC0_CTL && msr <= MSR_IA32_MC_LAST;
}

static enum answer read_mce(struct cpu *c, u32 msr, u64 *val)
{
    if (msr == MSR_IA32_MCG_CAP) {
        *val = MC_BANKS | BIT(8); /* MCG_CTL_P */
    } else if (msr == MSR_IA32_MCG_CTL) {
        *val = c->mcg_ctl;
    } else if (is_bank(msr)) {
        unsigned n = msr - MSR_IA32_MC0_CTL;
        if (n >= ARRAY_SIZE(c->mc_bank))
            return FAULT;
        *val = c->mc_bank[n];
    } else {
        return NOT_MINE;
    }
    return DONE;
}

static bool write_bank(struct cpu *c, unsigned n, u64 val)
{
    if (n >= ARRAY_SIZE(c->mc_bank))
        return false;
    /* CTL is all or nothing, except that Linux clears a bit of it for old chips' sake. */
    if (n % 4 == 0 && val != 0 && (val | BIT(10) | BIT(0)) != ~0ull)
        return false;
    if (n % 4 == 1 && val != 0) /* STATUS can only be cleared */
        return false;
    c->mc_bank[n] = val;
    return true;
}

static enum answer write_mce(struct cpu *c, u32 msr, u64 val)
{
    if (is_bank(msr))
        return answer(write_bank(c, msr - MSR_IA32_MC0_CTL, val));
    if (msr == MSR_IA32_MCG_CTL)
        return store_if(val == 0 || val == ~0ull, &c->mcg_ctl, val);
    return msr == MSR_IA32_MCG_CAP ? FAULT : NOT_MINE;
}

/* --- speculation and microcode --- */

/* Bits of IA32_SPEC_CTRL that CPUID offers; 0: no such register. */
static u64 spec_ctrl_valid(const struct cpu *c)
{
    u32 edx = cpuid(c, 7, 3), amd = cpuid(c, 0x80000008, 1);
    u64 valid = 0;
    if (edx & BIT(26) || amd & BIT(14))
        valid |= BIT(0); /* IBRS */
    if (edx & BIT(26))
        valid |= BIT(10); /* BHI_DIS_S: leaf 7.2 */
    if (edx & BIT(27) || amd & BIT(15))
        valid |= BIT(1); /* STIBP */
    if (edx & BIT(31) || amd & BIT(24))
        valid |= BIT(2); /* SSBD */
    if (amd & BIT(28))
        valid |= BIT(7); /* PSFD */
    return valid;
}

static enum answer read_spec(struct cpu *c, u32 msr, u64 *val)
{
    switch (msr) {
    case MSR_IA32_SPEC_CTRL:
        *val = c->spec_ctrl;
        return answer(spec_ctrl_valid(c));
    case MSR_IA32_ARCH_CAPABILITIES:
        *val = cpu_model_arch_capabilities(c);
        return answer(cpuid(c, 7, 3) & BIT(29));
    case MSR_IA32_BIOS_SIGN_ID: /* AMD: PATCH_LEVEL */
        *val = c->bios_sign_id ? c->bios_sign_id : is_amd(c) ? 0x01000065 : BIT(32);
        return DONE;
    case MSR_IA32_PLATFORM_ID:
        *val = 0;
        return answer(!is_amd(c));
    case MSR_IA32_PRED_CMD:
    case MSR_IA32_FLUSH_CMD:
    case MSR_IA32_BIOS_UPDT_TRIG:
        return FAULT; /* write-only */
    default:
        return NOT_MINE;
    }
}

static enum answer write_spec(struct cpu *c, u32 msr, u64 val)
{
    u64 valid = 0;
    switch (msr) {
    case MSR_IA32_SPEC_CTRL:
        valid = spec_ctrl_valid(c);
        return store_if(valid && !(val & ~valid), &c->spec_ctrl, val);
    case MSR_IA32_PRED_CMD:
        valid = cpuid(c, 7, 3) & BIT(26) || cpuid(c, 0x80000008, 1) & BIT(12);
        return answer(valid && !(val & ~1ull));
    case MSR_IA32_FLUSH_CMD:
        return answer(cpuid(c, 7, 3) & BIT(28) && !(val & ~1ull));
    case MSR_IA32_BIOS_SIGN_ID:   /* cleared before CPUID loads it: it stays loaded */
    case MSR_IA32_BIOS_UPDT_TRIG: /* no update is ever newer */
        return DONE;
    case MSR_IA32_ARCH_CAPABILITIES:
    case MSR_IA32_PLATFORM_ID:
        return FAULT;
    default:
        return NOT_MINE;
    }
}

/* --- registers that systems look at without asking CPUID --- */

static enum answer read_legacy(struct cpu *c, u32 msr, u64 *val)
{
    *val = 0;
    if (msr == MSR_SMI_COUNT || msr == MSR_EBL_CR_POWERON)
        return answer(!is_amd(c));
    if (msr >= MSR_LASTBRANCH_FIRST && msr <= MSR_LASTBRANCH_LAST)
        return DONE;
    if (msr < 0xc0010000u || msr > 0xc001ffffu || !is_amd(c))
        return NOT_MINE;
    switch (msr) {
    case MSR_AMD_HWCR:
        *val = HWCR_TSC_FREQ_SEL;
        return DONE;
    case MSR_AMD_DE_CFG:
        *val = DE_CFG_LFENCE;
        return DONE;
    case MSR_AMD_VM_CR:
        *val = BIT(4); /* SVMDIS */
        return DONE;
    case MSR_AMD_PERF_CTL0 ... MSR_AMD_PERF_CTR3: /* every AMD CPU has them; they do not count */
    case MSR_AMD_SYSCFG:
    case MSR_AMD_NB_CFG:
    case MSR_AMD_INT_PENDING:
    case MSR_AMD_MMIO_CONF_BASE:
    case MSR_AMD_TSEG_ADDR:
    case MSR_AMD_TSEG_MASK:
    case MSR_AMD_VM_HSAVE_PA:
    case MSR_AMD_LS_CFG:
    case MSR_AMD_DC_CFG:
    case MSR_AMD_BU_CFG2:
        return DONE;
    default:
        return NOT_MINE;
    }
}

static enum answer write_legacy(struct cpu *c, u32 msr, u64 val)
{
    if (msr < 0xc0010000u || msr > 0xc001ffffu || !is_amd(c))
        return NOT_MINE;
    switch (msr) {
    case MSR_AMD_PERF_CTL0 ... MSR_AMD_PERF_CTR3:
    case MSR_AMD_HWCR: /* caches, monitor, C-states: nothing to do */
    case MSR_AMD_PATCH_LOADER:
    case MSR_AMD_NB_CFG:
    case MSR_AMD_LS_CFG:
    case MSR_AMD_DC_CFG:
    case MSR_AMD_DE_CFG:
    case MSR_AMD_BU_CFG2:
        return DONE;
    case MSR_AMD_SYSCFG:
        return answer(val == 0);
    default:
        return NOT_MINE;
    }
}

/* --- all of them --- */

static enum answer read_world(struct cpu *c, u32 msr, u64 *val)
{
    cpu_leave(c);
    return answer(c->world->msr_read && c->world->msr_read(c, msr, val) == 0);
}

static enum answer write_world(struct cpu *c, u32 msr, u64 val)
{
    cpu_leave(c);
    c->cr8_known = 0; /* the local APIC's task priority is one of them */
    return answer(c->world->msr_write && c->world->msr_write(c, msr, val) == 0);
}

static void trace(struct cpu *c, const char *what, u32 msr, u64 val, enum answer a)
{
    if (likely(!log_wants(c->log, TRACE_MSR)))
        return;
    cpu_leave(c);
    log_emit(c->log, "cpu%u: %s %#x = %#llx%s at %#llx", c->id, what, msr, (unsigned long long)val,
             a == DONE ? "" : " #GP", (unsigned long long)c->reg[X86_SLOT_RIP]);
}

int cpu_msr_read(struct cpu *c, u32 msr, u64 *val)
{
    static enum answer (*const readers[])(struct cpu *, u32, u64 *) = {
        read_plain, read_base, read_types, read_mce, read_spec, read_legacy, read_world,
    };
    enum answer a = NOT_MINE;
    *val = 0;
    for (unsigned i = 0; a == NOT_MINE; i++)
        a = readers[i](c, msr, val);
    trace(c, "rdmsr", msr, *val, a);
    return a == DONE ? 0 : -1;
}

int cpu_msr_write(struct cpu *c, u32 msr, u64 val)
{
    static enum answer (*const writers[])(struct cpu *, u32, u64) = {
        write_plain, write_base, write_types, write_mce, write_spec, write_legacy, write_world,
    };
    enum answer a = NOT_MINE;
    for (unsigned i = 0; a == NOT_MINE; i++)
        a = writers[i](c, msr, val);
    trace(c, "wrmsr", msr, val, a);
    return a == DONE ? 0 : -1;
}
