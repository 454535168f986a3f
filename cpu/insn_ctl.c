/*
 * insn_ctl.c - bodies of instructions that read and write the CPU's own registers (SDM vol. 2).
 *
 * #UD for what does not exist comes before #GP for want of privilege.
 */
#include "cpu/insn_ctl.h"

#include <sched.h>
#include <sys/random.h>

#include "cpu/cpu_cpuid.h"
#include "cpu/cpu_ctl.h"
#include "cpu/cpu_mem.h"
#include "cpu/cpu_paging.h"

static inline void need_cpl0(struct cpu *c)
{
    if (unlikely(c->cpl != 0))
        cpu_throw_gp(c, 0);
}

/* Writes of 2 bytes keep the rest of the register; of 4 clear the upper half. */
static void set_reg(struct cpu *c, unsigned n, unsigned size, u64 v)
{
    c->reg[n] = size == 2 ? (c->reg[n] & ~0xffffull) | (u16)v : size == 4 ? (u32)v : v;
}

/* MOV CR and MOV DR move all of a register: 64 bits in 64-bit code, 32 elsewhere. */
static inline u64 whole(const struct cpu *c, u64 v)
{
    return c->mode == X86_MODE64 ? v : (u32)v;
}

static void set_edx_eax(struct cpu *c, u64 v)
{
    c->reg[RAX] = (u32)v;
    c->reg[RDX] = v >> 32;
}

static u64 edx_eax(const struct cpu *c)
{
    return (u32)c->reg[RAX] | c->reg[RDX] << 32;
}

/* --- control and debug registers --- */

static u64 read_cr8(struct cpu *c)
{
    cpu_leave(c);
    return c->world->cr8_read(c);
}

static void write_cr8(struct cpu *c, u64 val)
{
    if (val & ~0xfull)
        cpu_throw_gp(c, 0);
    cpu_leave(c);
    c->world->cr8_write(c, val);
    c->cr8_known = val + 1;
}

static void check_cr_number(struct cpu *c, unsigned n)
{
    bool ok = n == 0 || n == 2 || n == 3 || n == 4 || (n == 8 && c->mode == X86_MODE64);
    if (!ok)
        cpu_throw_ud(c);
    need_cpl0(c);
}

void insn_mov_from_cr(struct cpu *c, const struct x86_insn *i)
{
    check_cr_number(c, i->reg);
    u64 val = i->reg == 0   ? c->cr0
              : i->reg == 2 ? c->cr2
              : i->reg == 3 ? c->cr3
              : i->reg == 4 ? c->cr4
                            : read_cr8(c);
    c->reg[i->rm] = whole(c, val);
}

void insn_mov_to_cr(struct cpu *c, const struct x86_insn *i)
{
    check_cr_number(c, i->reg);
    u64 val = whole(c, c->reg[i->rm]);
    switch (i->reg) {
    case 0:
        cpu_write_cr0(c, val);
        break;
    case 2:
        c->cr2 = val;
        break;
    case 3:
        cpu_write_cr3(c, val);
        break;
    case 4:
        cpu_write_cr4(c, val);
        break;
    default:
        write_cr8(c, val);
    }
}

static void check_dr_number(struct cpu *c, unsigned n)
{
    need_cpl0(c);
    if (n > 7 || ((n == 4 || n == 5) && c->cr4 & CR4_DE))
        cpu_throw_ud(c);
}

void insn_mov_from_dr(struct cpu *c, const struct x86_insn *i)
{
    check_dr_number(c, i->reg);
    u64 val = cpu_read_dr(c, i->reg);
    c->reg[i->rm] = whole(c, val);
}

void insn_mov_to_dr(struct cpu *c, const struct x86_insn *i)
{
    check_dr_number(c, i->reg);
    cpu_write_dr(c, i->reg, whole(c, c->reg[i->rm]));
}

void insn_clts(struct cpu *c, const struct x86_insn *i)
{
    need_cpl0(c);
    c->cr0 &= ~(u64)CR0_TS;
}

/* The four low bits only; PE can be set but not cleared. */
void insn_lmsw(struct cpu *c, const struct x86_insn *i)
{
    const u64 mask = CR0_PE | CR0_MP | CR0_EM | CR0_TS;
    need_cpl0(c);
    u64 msw = i->prefix & X86_PFX_MEM ? cpu_ld16(c, i->seg, cpu_ea(c, i)) : c->reg[i->rm];
    cpu_write_cr0(c, (c->cr0 & ~mask) | (msw & mask) | (c->cr0 & CR0_PE));
}

void insn_smsw(struct cpu *c, const struct x86_insn *i)
{
    if (c->cpl != 0 && c->cr4 & CR4_UMIP)
        cpu_throw_gp(c, 0);
    if (i->prefix & X86_PFX_MEM)
        cpu_st16(c, i->seg, cpu_ea(c, i), c->cr0);
    else
        set_reg(c, i->rm, i->opsize, c->cr0);
}

/* --- TLB and caches --- */

/* No segment check, and a non-canonical address is no translation's. */
void insn_invlpg(struct cpu *c, const struct x86_insn *i)
{
    need_cpl0(c);
    cpu_tlb_flush_page(c, (cpu_ea(c, i) + c->seg[i->seg].base) & c->la_mask);
}

void insn_invpcid(struct cpu *c, const struct x86_insn *i)
{
    enum { ADDRESS, CONTEXT, ALL, ALL_NONGLOBAL };
    need_cpl0(c);
    u64 ea = cpu_ea(c, i), type = whole(c, c->reg[i->reg]);
    gva_t la = cpu_la(c, i->seg, ea, 16, false);
    u64 desc[2];
    cpu_read_slow(c, la, desc, sizeof(desc));
    bool own_only = type <= CONTEXT && !(c->cr4 & CR4_PCIDE);
    if (type > ALL_NONGLOBAL || desc[0] & ~CR3_PCID || (own_only && desc[0]) ||
        (type == ADDRESS && !x86_canonical(desc[1])))
        cpu_throw_gp(c, 0);
    if (type == ADDRESS)
        cpu_tlb_flush_page(c, desc[1]);
    else if (type == ALL)
        cpu_tlb_flush(c);
    else
        cpu_tlb_flush_nonglobal(c);
}

void insn_invd(struct cpu *c, const struct x86_insn *i)
{
    need_cpl0(c);
}

void insn_wbinvd(struct cpu *c, const struct x86_insn *i)
{
    need_cpl0(c);
}

/* Checked as a read of one byte; what is not RAM is not read. */
void insn_clflush(struct cpu *c, const struct x86_insn *i)
{
    gva_t la = cpu_la(c, i->seg, cpu_ea(c, i), 1, false);
    if (!cpu_rd_fast(c, la, 1))
        cpu_ptr_slow(c, la, 1, false);
}

void insn_clflushopt(struct cpu *c, const struct x86_insn *i)
{
    insn_clflush(c, i);
}

void insn_clwb(struct cpu *c, const struct x86_insn *i)
{
    insn_clflush(c, i);
}

/* --- MSRs, time, identity --- */

void insn_rdmsr(struct cpu *c, const struct x86_insn *i)
{
    u64 val;
    need_cpl0(c);
    if (cpu_msr_read(c, c->reg[RCX], &val))
        cpu_throw_gp(c, 0);
    set_edx_eax(c, val);
}

void insn_wrmsr(struct cpu *c, const struct x86_insn *i)
{
    need_cpl0(c);
    if (cpu_msr_write(c, c->reg[RCX], edx_eax(c)))
        cpu_throw_gp(c, 0);
}

static void check_tsd(struct cpu *c)
{
    if (c->cpl != 0 && c->cr4 & CR4_TSD)
        cpu_throw_gp(c, 0);
}

void insn_rdtsc(struct cpu *c, const struct x86_insn *i)
{
    check_tsd(c);
    set_edx_eax(c, cpu_tsc(c));
}

void insn_rdtscp(struct cpu *c, const struct x86_insn *i)
{
    check_tsd(c);
    set_edx_eax(c, cpu_tsc(c));
    c->reg[RCX] = (u32)c->tsc_aux;
}

void insn_rdpid(struct cpu *c, const struct x86_insn *i)
{
    c->reg[i->rm] = (u32)c->tsc_aux;
}

/* There are no performance counters: whatever ECX names does not exist. */
void insn_rdpmc(struct cpu *c, const struct x86_insn *i)
{
    cpu_throw_gp(c, 0);
}

/* CPUID.1:EDX.APIC follows the enable bit of IA32_APIC_BASE (SDM vol. 3A, 10.4.3). */
static bool apic_off(struct cpu *c)
{
    u64 base;
    cpu_leave(c);
    return c->world->msr_read && c->world->msr_read(c, MSR_IA32_APIC_BASE, &base) == 0 &&
           !(base & BIT(11));
}

void insn_cpuid(struct cpu *c, const struct x86_insn *i)
{
    u32 r[4];
    cpu_cpuid(c, c->reg[RAX], c->reg[RCX], r);
    if ((u32)c->reg[RAX] == 1 && apic_off(c))
        r[3] &= ~(u32)BIT(9);
    c->reg[RAX] = r[0];
    c->reg[RBX] = r[1];
    c->reg[RCX] = r[2];
    c->reg[RDX] = r[3];
}

void insn_hlt(struct cpu *c, const struct x86_insn *i)
{
    need_cpl0(c);
    c->activity = CPU_HALTED;
}

/* --- EFLAGS.AC, FS and GS --- */

static void set_ac(struct cpu *c, u32 ac)
{
    if (!cpu_has(c, X86_F_SMAP) || c->cpl != 0)
        cpu_throw_ud(c);
    c->eflags = (c->eflags & ~FLAG_AC) | ac;
    cpu_select_tlb(c);
}

void insn_clac(struct cpu *c, const struct x86_insn *i)
{
    set_ac(c, 0);
}

void insn_stac(struct cpu *c, const struct x86_insn *i)
{
    set_ac(c, FLAG_AC);
}

static void check_fsgsbase(struct cpu *c)
{
    if (c->mode != X86_MODE64 || !(c->cr4 & CR4_FSGSBASE))
        cpu_throw_ud(c);
}

static void read_base(struct cpu *c, const struct x86_insn *i, unsigned seg)
{
    check_fsgsbase(c);
    set_reg(c, i->rm, i->opsize == 8 ? 8 : 4, c->seg[seg].base);
}

static void write_base(struct cpu *c, const struct x86_insn *i, unsigned seg)
{
    check_fsgsbase(c);
    u64 base = i->opsize == 8 ? c->reg[i->rm] : (u32)c->reg[i->rm];
    if (!x86_canonical(base))
        cpu_throw_gp(c, 0);
    c->seg[seg].base = base;
}

void insn_rdfsbase(struct cpu *c, const struct x86_insn *i)
{
    read_base(c, i, FS);
}

void insn_rdgsbase(struct cpu *c, const struct x86_insn *i)
{
    read_base(c, i, GS);
}

void insn_wrfsbase(struct cpu *c, const struct x86_insn *i)
{
    write_base(c, i, FS);
}

void insn_wrgsbase(struct cpu *c, const struct x86_insn *i)
{
    write_base(c, i, GS);
}

void insn_swapgs(struct cpu *c, const struct x86_insn *i)
{
    if (c->mode != X86_MODE64)
        cpu_throw_ud(c);
    need_cpl0(c);
    u64 base = c->seg[GS].base;
    c->seg[GS].base = c->kernel_gs_base;
    c->kernel_gs_base = base;
}

/* --- random numbers --- */

static bool host_rdrand(u64 *v)
{
    bool ok;
    __asm__ volatile("rdrand %0" : "=r"(*v), "=@ccc"(ok));
    return ok;
}

static bool host_rdseed(u64 *v)
{
    bool ok;
    __asm__ volatile("rdseed %0" : "=r"(*v), "=@ccc"(ok));
    return ok;
}

/* Never reports failure as long as the host's kernel has random numbers. */
static void random_reg(struct cpu *c, const struct x86_insn *i, bool host, bool (*get)(u64 *))
{
    u64 v = 0;
    bool ok = false;
    for (unsigned n = 0; host && !ok && n < 10; n++)
        ok = get(&v);
    if (!ok) {
        cpu_leave(c);
        ok = getrandom(&v, sizeof(v), GRND_NONBLOCK) == sizeof(v);
    }
    set_reg(c, i->rm, i->opsize, ok ? v : 0);
    c->aflags = aflags_pack(ok ? FLAG_CF : 0);
}

void insn_rdrand(struct cpu *c, const struct x86_insn *i)
{
    random_reg(c, i, __builtin_cpu_supports("rdrnd"), host_rdrand);
}

void insn_rdseed(struct cpu *c, const struct x86_insn *i)
{
    random_reg(c, i, __builtin_cpu_supports("rdseed"), host_rdseed);
}

/* --- what is not offered --- */

void insn_rdpkru(struct cpu *c, const struct x86_insn *i)
{
    cpu_throw_ud(c);
}

void insn_wrpkru(struct cpu *c, const struct x86_insn *i)
{
    cpu_throw_ud(c);
}

void insn_monitor(struct cpu *c, const struct x86_insn *i)
{
    cpu_throw_ud(c);
}

void insn_mwait(struct cpu *c, const struct x86_insn *i)
{
    cpu_throw_ud(c);
}

/* --- calls to the monitor --- */

void insn_vmcall(struct cpu *c, const struct x86_insn *i)
{
    if (!c->world->hypercall)
        cpu_throw_ud(c);
    cpu_leave(c);
    if (c->world->hypercall(c))
        cpu_throw_ud(c);
}

void insn_vmmcall(struct cpu *c, const struct x86_insn *i)
{
    insn_vmcall(c, i);
}

/* --- order and hints --- */

void insn_serialize(struct cpu *c, const struct x86_insn *i)
{
    atomic_thread_fence(memory_order_seq_cst);
}

void insn_lfence(struct cpu *c, const struct x86_insn *i)
{
    __asm__ volatile("" : : : "memory");
}

void insn_mfence(struct cpu *c, const struct x86_insn *i)
{
    atomic_thread_fence(memory_order_seq_cst);
}

/* Stores before it may be non-temporal ones, done by the host's own instruction. */
void insn_sfence(struct cpu *c, const struct x86_insn *i)
{
    __asm__ volatile("sfence" : : : "memory");
}

/*
 * A guest that spins may wait for a CPU whose thread the host has not scheduled: after a few
 * microseconds the thread makes room.
 */
void insn_pause(struct cpu *c, const struct x86_insn *i)
{
    const unsigned loop = 64, patience = 100; /* instructions from one to the next; how many */
    c->pauses = c->insns - c->pause_at <= loop ? c->pauses + 1 : 0;
    c->pause_at = c->insns;
    if (c->pauses < patience) {
        __asm__ volatile("pause");
        return;
    }
    c->pauses = 0;
    cpu_leave(c);
    sched_yield();
}

void insn_nop(struct cpu *c, const struct x86_insn *i)
{
}

void insn_prefetch(struct cpu *c, const struct x86_insn *i)
{
}
