/*
 * cpu_ctl.c - control and debug registers, XCR0, the time-stamp counter.
 *
 * SDM vol. 2 (MOV to control and debug registers, XSETBV), vol. 3A 2.5, 4.10, 9.8.5.
 */
#include "cpu/cpu_ctl.h"

#include "cpu/cpu_cpuid.h"
#include "cpu/cpu_fpu.h"
#include "cpu/cpu_mem.h"
#include "cpu/cpu_paging.h"

#define CR0_KNOWN                                                                                  \
    (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD |     \
     CR0_PG)

static void trace(struct cpu *c, const char *name, u64 val)
{
    if (likely(!log_wants(c->log, TRACE_CPU)))
        return;
    cpu_leave(c);
    log_emit(c->log, "cpu%u: %s = %#llx at %#llx", c->id, name, (unsigned long long)val,
             (unsigned long long)c->reg[X86_SLOT_RIP]);
}

static bool pae_paging(u64 cr0, u64 cr4, u64 efer)
{
    return cr0 & CR0_PG && cr4 & CR4_PAE && !(efer & EFER_LME);
}

/* --- CR0 --- */

/* IA-32e mode can be neither entered nor left from here. */
static bool long_forbids(const struct cpu *c, u64 old, u64 val)
{
    bool on = !(old & CR0_PG) && val & CR0_PG && c->efer & EFER_LME;
    bool off = old & CR0_PG && !(val & CR0_PG);
    u32 tss = c->tr.attr & SEG_TYPE;
    if (on && (!(c->cr4 & CR4_PAE) || c->seg[CS].attr & SEG_L || tss == SYS_TSS16_AVAIL ||
               tss == SYS_TSS16_BUSY))
        return true;
    return off && (c->cr4 & CR4_PCIDE || c->mode == X86_MODE64);
}

void cpu_write_cr0(struct cpu *c, u64 val)
{
    u64 old = c->cr0;
    if (val >> 32 || (val & CR0_PG && !(val & CR0_PE)) || (val & CR0_NW && !(val & CR0_CD)) ||
        long_forbids(c, old, val))
        cpu_throw_gp(c, 0);
    val = (val & CR0_KNOWN) | CR0_ET;
    u64 changed = old ^ val;
    if (!changed)
        return;
    if (pae_paging(val, c->cr4, c->efer) && changed & (CR0_PG | CR0_CD | CR0_NW) &&
        !cpu_load_pdptes(c, c->cr3))
        cpu_throw_gp(c, 0);

    c->cr0 = val;
    cpu_fpu_off(c);
    if (changed & CR0_PG) {
        c->efer &= ~(u64)EFER_LMA;
        if (val & CR0_PG && c->efer & EFER_LME)
            c->efer |= EFER_LMA;
    }
    if (changed & (CR0_PG | CR0_PE | CR0_WP))
        cpu_tlb_flush(c);
    if (changed & (CR0_PG | CR0_PE | CR0_AM))
        cpu_update_mode(c);
    trace(c, "CR0", val);
}

/* --- CR3 --- */

void cpu_write_cr3(struct cpu *c, u64 val)
{
    if (cpu_long(c)) {
        u64 rsvd = ~(BIT(cpu_phys_bits(c)) - 1);
        if (c->cr4 & CR4_PCIDE)
            rsvd &= ~CR3_NOFLUSH;
        if (val & rsvd)
            cpu_throw_gp(c, 0);
    } else {
        val = (u32)val;
        if (pae_paging(c->cr0, c->cr4, c->efer) && !cpu_load_pdptes(c, val))
            cpu_throw_gp(c, 0);
    }
    /* The TLBs hold one PCID's translations: another one's are dropped, asked for or not. */
    bool noflush = c->cr4 & CR4_PCIDE && val & CR3_NOFLUSH;
    val &= ~CR3_NOFLUSH;
    bool same = noflush && val == c->cr3;
    c->cr3 = val;
    if (!same && c->cr4 & CR4_PCIDE)
        cpu_tlb_switch(c, val, noflush);
    else if (!same)
        cpu_tlb_flush_nonglobal(c);
    trace(c, "CR3", val);
}

/* --- CR4 --- */

void cpu_write_cr4(struct cpu *c, u64 val)
{
    u64 changed = c->cr4 ^ val;
    if (val & ~cpu_cr4_valid(c))
        cpu_throw_gp(c, 0);
    if (cpu_long(c) && !(val & CR4_PAE))
        cpu_throw_gp(c, 0);
    if (changed & val & CR4_PCIDE && (!cpu_long(c) || c->cr3 & CR3_PCID))
        cpu_throw_gp(c, 0);
    if (pae_paging(c->cr0, val, c->efer) && changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP) &&
        !cpu_load_pdptes(c, c->cr3))
        cpu_throw_gp(c, 0);

    c->cr4 = val;
    cpu_fpu_off(c);
    if (changed & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE))
        cpu_tlb_flush(c);
    if (changed)
        cpu_update_mode(c);
    trace(c, "CR4", val);
}

/* --- XCR0 --- */

static bool xcr0_consistent(u64 val)
{
    const u64 zmm = XCR0_OPMASK | XCR0_ZMM_HI256 | XCR0_HI16_ZMM;
    if (!(val & XCR0_X87))
        return false;
    if (val & XCR0_AVX && !(val & XCR0_SSE))
        return false;
    return !(val & zmm) || ((val & zmm) == zmm && val & XCR0_AVX);
}

void cpu_write_xcr0(struct cpu *c, u64 val)
{
    if (val & ~cpu_xcr0_valid(c) || !xcr0_consistent(val))
        cpu_throw_gp(c, 0);
    cpu_leave(c); /* the state in the host's registers belongs to the old value */
    c->xcr0 = val;
    cpu_fpu_off(c);
    trace(c, "XCR0", val);
}

/* --- debug registers --- */

/* DR4 and DR5 are DR6 and DR7 unless CR4.DE; with DR7.GD any access is a #DB (vol. 3B, 17.2). */
static unsigned dr_number(struct cpu *c, unsigned n)
{
    if (n > 7)
        cpu_throw_ud(c);
    if (n == 4 || n == 5) {
        if (c->cr4 & CR4_DE)
            cpu_throw_ud(c);
        n += 2;
    }
    if (c->dr[7] & DR7_GD) {
        c->dr[6] |= DR6_BD;
        cpu_throw(c, EXC_DB, 0);
    }
    return n;
}

u64 cpu_read_dr(struct cpu *c, unsigned n)
{
    return c->dr[dr_number(c, n)];
}

void cpu_write_dr(struct cpu *c, unsigned n, u64 val)
{
    n = dr_number(c, n);
    if (n >= 6 && val >> 32)
        cpu_throw_gp(c, 0);
    bool watched = c->dr[7] & 0xff;
    if (n == 6)
        c->dr[6] = (val & (0xf | DR6_BD | DR6_BS | DR6_BT)) | DR6_FIXED;
    else if (n == 7)
        c->dr[7] = (val & 0xffff23ff) | DR7_FIXED;
    else
        c->dr[n] = val;
    /* Watched pages are those that the TLB does not hold. */
    if (n != 6 && (watched || c->dr[7] & 0xff)) {
        cpu_tlb_flush(c);
        cpu_update_mode(c);
    }
}

/* --- time --- */

u64 cpu_tsc(const struct cpu *c)
{
    u64 host = __builtin_ia32_rdtsc();
    if (c->tsc_ratio)
        host = (u64)((u128)host * c->tsc_ratio >> 32);
    return host + c->tsc_offset;
}

u64 cpu_tsc_to_host(const struct cpu *c, u64 tsc)
{
    u64 scaled = tsc - c->tsc_offset;
    if (!c->tsc_ratio)
        return scaled;
    /* Rounded up, so that the guest's counter has reached tsc by then. */
    u128 host = (((u128)scaled << 32) + c->tsc_ratio - 1) / c->tsc_ratio;
    return host > UINT64_MAX ? UINT64_MAX : (u64)host;
}
