/*
 * msr.c - model-specific, control and extended control registers: what can be read and written,
 * what is #GP; that CPUID says the same (SDM vol. 3A, 2.5, 2.6, 11.11, 11.12, 13.3; vol. 4).
 */
#include "guest.h"

#define NONCANON 0x0000800000000000ul
#define OK       ((u32)-1)

static bool amd;
static unsigned phys_bits;

/* Written and read back; the old value is restored. */
static void holds(const char *name, u32 msr, u64 v)
{
    u64 old = rdmsr(msr), got = 0;
    int w = try_wrmsr(msr, v);
    if (w < 0)
        got = rdmsr(msr);
    wrmsr(msr, old);
    ok(w < 0 && got == v, "%s holds %llx: %d %llx", name, (unsigned long long)v, w,
       (unsigned long long)got);
}

static void refuses(const char *name, u32 msr, u64 v)
{
    u64 old = rdmsr(msr);
    int w = try_wrmsr(msr, v);
    ok(w == GP && rdmsr(msr) == old, "#GP, %s = %llx: %d", name, (unsigned long long)v, w);
    if (w < 0)
        wrmsr(msr, old);
}

static void test_system(void)
{
    holds("SYSENTER_CS", MSR_SYSENTER_CS, 0x1238);
    holds("SYSENTER_ESP", MSR_SYSENTER_ESP, 0xffff800012345678);
    holds("SYSENTER_EIP", MSR_SYSENTER_EIP, 0x7fffffffffff);
    holds("STAR", MSR_STAR, 0x123456789abcdef0);
    holds("LSTAR", MSR_LSTAR, 0xffffffff80000000);
    holds("CSTAR", MSR_CSTAR, 0x1000);
    holds("SFMASK", MSR_SFMASK, 0x47700);
    holds("KERNEL_GS_BASE", MSR_KERNEL_GS_BASE, 0xffff888000000000);
    holds("FS_BASE", MSR_FS_BASE, 0x7fff12345678);
    holds("GS_BASE", MSR_GS_BASE, 0x7fff12345678);
    refuses("LSTAR", MSR_LSTAR, NONCANON);
    refuses("KERNEL_GS_BASE", MSR_KERNEL_GS_BASE, 0xffff7fffffffffff);
    refuses("FS_BASE", MSR_FS_BASE, NONCANON);
    refuses("SYSENTER_EIP", MSR_SYSENTER_EIP, NONCANON);
    if (cpu_has(0x80000001, 3, 27)) {
        holds("TSC_AUX", 0xc0000103, 0x12345678);
        refuses("TSC_AUX", 0xc0000103, BIT(32));
        wrmsr(0xc0000103, 77);
        u32 aux;
        __asm__ volatile("rdtscp" : "=c"(aux) : : "eax", "edx");
        expect("RDTSCP gives TSC_AUX", aux, 77);
    }
}

static void test_efer(void)
{
    refuses("EFER, a reserved bit", MSR_EFER, rdmsr(MSR_EFER) | BIT(1));
    refuses("EFER, bit 63", MSR_EFER, rdmsr(MSR_EFER) | BIT(63));
    refuses("EFER without LME in long mode", MSR_EFER, rdmsr(MSR_EFER) & ~(u64)EFER_LME);
    expect("EFER.LMA", rdmsr(MSR_EFER) & EFER_LMA, EFER_LMA);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(u64)EFER_LMA);
    expect("a write does not change LMA", rdmsr(MSR_EFER) & EFER_LMA, EFER_LMA);
    holds("EFER.NXE", MSR_EFER, rdmsr(MSR_EFER) ^ EFER_NXE);
    holds("EFER.SCE", MSR_EFER, rdmsr(MSR_EFER) ^ EFER_SCE);
}

/* --- PAT, MTRRs --- */

static void test_types(void)
{
    expect("PAT after reset", rdmsr(0x277), 0x0007040600070406);
    holds("PAT", 0x277, 0x0001040500070406);
    refuses("PAT, type 2", 0x277, 0x0007040600070402);
    refuses("PAT, type 3", 0x277, 0x0300000000000000);
    refuses("PAT, bit 3", 0x277, 0x0007040600070408);
    u64 cap = rdmsr(0xfe);
    ok((cap & 0xff) >= 1 && cap & BIT(8), "MTRRCAP: %llx", (unsigned long long)cap);
    expect("#GP, MTRRCAP is read-only", (u32)try_wrmsr(0xfe, cap), GP);
    holds("MTRR_DEF_TYPE", 0x2ff, 0xc06);
    refuses("MTRR_DEF_TYPE, type 2", 0x2ff, 0xc02);
    refuses("MTRR_DEF_TYPE, bit 9", 0x2ff, 0xe06);
    for (u32 n = 0; n < (cap & 0xff); n += 3) {
        holds("MTRR_PHYSBASE", 0x200 + 2 * n, 0x80000006);
        holds("MTRR_PHYSMASK", 0x201 + 2 * n, ((BIT(phys_bits) - 1) & ~0xfffffull) | 0x800);
        refuses("MTRR_PHYSBASE, type 2", 0x200 + 2 * n, 0x80000002);
        refuses("MTRR_PHYSBASE, address width", 0x200 + 2 * n, BIT(phys_bits));
        refuses("MTRR_PHYSMASK, bit 10", 0x201 + 2 * n, 0x400);
    }
    static const u16 fixed[] = {0x250, 0x258, 0x259, 0x268, 0x26f};
    for (unsigned n = 0; n < ARRAY_SIZE(fixed); n++) {
        holds("MTRR_FIX", fixed[n], 0x0606060605040100);
        refuses("MTRR_FIX, type 7", fixed[n], 7);
    }
}

/* --- those that do not exist --- */

static void test_absent(void)
{
    static const u32 none[] = {0x0badbad0, 0x4fff,     0xc0000000, 0xc0002000, 0x7ff,
                               0x900,      0xc00000f0, 0xffffffff, 0x80000000};
    unsigned bad = 0;
    for (unsigned n = 0; n < ARRAY_SIZE(none); n++) {
        u64 v;
        if (try_rdmsr(none[n], &v) != GP || try_wrmsr(none[n], 0) != GP) {
            print("MSR %x exists\n", none[n]);
            bad++;
        }
    }
    ok(!bad, "#GP, MSRs that do not exist: %u do", bad);
}

/* --- time --- */

static void test_tsc(void)
{
    u64 last = rdtsc();
    unsigned back = 0;
    for (unsigned n = 0; n < 20000; n++) {
        u64 now = rdtsc();
        back += now < last;
        last = now;
    }
    ok(!back, "TSC never goes back: %u times", back);
    u64 old = rdtsc(), from;
    wrmsr(MSR_TSC, 1000);
    from = rdtsc();
    ok(from >= 1000 && from < old, "TSC can be written: %llx", (unsigned long long)from);
    if (cpu_has(7, 1, 1)) {
        u64 adj = rdmsr(0x3b);
        ok((int64_t)adj < 0, "and TSC_ADJUST shows by how much: %llx", (unsigned long long)adj);
        wrmsr(0x3b, 0);
        ok(rdtsc() > old, "TSC_ADJUST = 0 brings it back");
        wrmsr(0x3b, 1ull << 50);
        ok(rdtsc() >> 50 >= 1, "TSC_ADJUST moves it");
        wrmsr(0x3b, 0);
    } else {
        wrmsr(MSR_TSC, old);
    }
    u64 a = rdtsc();
    u32 from_us = usec();
    while (usec() - from_us < 10000)
        cpu_relax();
    u64 ticks = rdtsc() - a;
    u32 r[4];
    cpuid(0, 0, r);
    u64 hz = 0;
    if (r[0] >= 0x15) {
        cpuid(0x15, 0, r);
        hz = r[0] && r[2] ? (u64)r[2] * r[1] / r[0] : 0;
    }
    if (hz)
        ok(ticks > hz / 1000 * 9 && ticks < hz, "TSC runs as CPUID says: %llu.. in 10 ms",
           (unsigned long long)ticks);
    else
        ok(ticks > 1000000, "TSC runs: %llx in 10 ms", (unsigned long long)ticks);
}

/* --- control registers (2.5, 9.3) --- */

static void cr(const char *name, unsigned n, word v, u32 want)
{
    expect(name, (u32)try_cr(n, v), want);
}

static void test_cr(void)
{
    word cr0 = read_cr0(), cr4 = read_cr4(), cr3 = read_cr3();
    cr("#GP, CR0.PG without PE", 0, cr0 & ~(word)CR0_PE, GP);
    cr("#GP, CR0.NW without CD", 0, cr0 | CR0_NW, GP);
    cr("CR0.NW and CD", 0, cr0 | CR0_NW | CR0_CD, OK);
    cr("#GP, CR0 bit 63", 0, cr0 | BIT(63), GP);
    cr("CR0's reserved low bits are ignored", 0, cr0 | BIT(10), OK);
    write_cr0(cr0 & ~16ul);
    expect("CR0.ET is always set", read_cr0() & 16, 16);
    cr("#GP, CR4 bit 63", 4, cr4 | BIT(63), GP);
    cr("#GP, CR4 bit 15", 4, cr4 | BIT(15), GP);
    cr("#GP, CR4.PAE off in long mode", 4, cr4 & ~(word)CR4_PAE, GP);
    cr("#GP, CR3 beyond the address width", 3, cr3 | BIT(phys_bits), GP);
    cr("CR3 with PWT and PCD", 3, cr3 | 0x18, OK);
    static const struct {
        const char *name;
        unsigned bit;
        u32 leaf;
        u8 reg, feature;
    } needs[] = {
        {"CR4.UMIP goes with CPUID", 11, 7, 2, 2},
        {"CR4.FSGSBASE goes with CPUID", 16, 7, 1, 0},
        {"CR4.OSXSAVE goes with CPUID", 18, 1, 2, 26},
        {"CR4.PSE goes with CPUID", 4, 1, 3, 3},
        {"CR4.PKE goes with CPUID", 22, 7, 2, 3},
        {"CR4.CET goes with CPUID", 23, 7, 2, 7},
        {"CR4.VMXE goes with CPUID", 13, 1, 2, 5},
        {"CR4.SMXE goes with CPUID", 14, 1, 2, 6},
        {"CR4.LA57 goes with CPUID", 12, 7, 2, 16},
        {"CR4.PCIDE goes with CPUID", 17, 1, 2, 17},
        {"CR4.PGE goes with CPUID", 7, 1, 3, 13},
        {"CR4.MCE goes with CPUID", 6, 1, 3, 7},
        {"CR4.VME goes with CPUID", 0, 1, 3, 1},
        {"CR4.DE goes with CPUID", 3, 1, 3, 2},
    };
    for (unsigned n = 0; n < ARRAY_SIZE(needs); n++) {
        bool has = cpu_has(needs[n].leaf, needs[n].reg, needs[n].feature);
        if (needs[n].bit == 12) /* cannot be changed in 64-bit mode at all */
            has = false;
        cr(needs[n].name, 4, cr4 | BIT(needs[n].bit), has ? OK : GP);
    }
}

/* --- XCR0 (13.3) --- */

SNIP(do_xsetbv, "", "xsetbv");
SNIP(do_xgetbv, "", "xgetbv");

static int xsetbv(u32 ecx, u64 v, unsigned ring)
{
    struct ctx c;
    ctx_init(&c, &do_xsetbv, ring);
    c.gpr[CX] = ecx;
    c.gpr[AX] = (u32)v;
    c.gpr[DX] = v >> 32;
    run(&c);
    return c.vec == VEC_DONE ? -1 : (int)c.vec;
}

static u64 xgetbv(void)
{
    u32 lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo | (u64)hi << 32;
}

static void test_xcr0(void)
{
    u32 r[4];
    if (!cpu_has(1, 2, 26)) {
        skip("XCR0", "no XSAVE");
        return;
    }
    expect("#UD, XSETBV without CR4.OSXSAVE", (u32)xsetbv(0, 1, 0), UD);
    expect("CPUID.OSXSAVE is CR4's bit", cpu_has(1, 2, 27), 0);
    write_cr4(read_cr4() | CR4_OSXSAVE);
    expect("and follows it", cpu_has(1, 2, 27), 1);
    expect("XCR0 after reset", xgetbv(), 1);
    cpuid(0xd, 0, r);
    u64 all = r[0] | (u64)r[3] << 32;
    expect("XCR0 takes what CPUID shows", (u32)xsetbv(0, all, 0), OK);
    expect("and holds it", xgetbv(), all);
    cpuid(0xd, 0, r);
    ok(r[1] <= r[2] && r[1] >= 576, "XSAVE area: %u of %u", r[1], r[2]);
    expect("#GP, XCR0 without x87", (u32)xsetbv(0, 2, 0), GP);
    expect("#GP, AVX without SSE", (u32)xsetbv(0, 5, 0), GP);
    expect("#GP, a state that does not exist", (u32)xsetbv(0, all | BIT(62), 0), GP);
    expect("#GP, AVX-512 in part", (u32)xsetbv(0, 0x27, 0), GP);
    expect("#GP, XCR1", (u32)xsetbv(1, 1, 0), GP);
    expect("#GP, XSETBV in ring 3", (u32)xsetbv(0, 1, 3), GP);
    expect("XCR0 = 3", (u32)xsetbv(0, 3, 0), OK);
    struct ctx c;
    ctx_init(&c, &do_xgetbv, 3);
    c.gpr[CX] = 0;
    run(&c);
    ok(c.vec == VEC_DONE && c.gpr[AX] == 3, "XGETBV in ring 3: %lu %lx", c.vec, c.gpr[AX]);
    write_cr4(read_cr4() & ~(word)CR4_OSXSAVE);
}

/* --- CPUID --- */

static void test_cpuid(void)
{
    u32 r[4], s[4];
    cpuid(0, 0, r);
    ok(r[0] >= 7, "CPUID has %u basic leaves", r[0]);
    cpuid(r[0] + 1, 0, s);
    ok(amd || 1, "CPUID above the last leaf answers");
    cpuid(0x80000000, 0, r);
    ok(r[0] >= 0x80000008, "CPUID has extended leaves to %x", r[0]);
    expect("long mode", cpu_has(0x80000001, 3, 29), 1);
    expect("a hypervisor is present", cpu_has(1, 2, 31), 1);
    ok(phys_bits >= 36 && phys_bits <= 52, "physical addresses of %u bits", phys_bits);
    if (cpu_has(1, 2, 28))
        ok(cpu_has(1, 2, 26), "AVX implies XSAVE");
    cpuid(1, 0, r);
    expect("initial APIC ID", r[1] >> 24, 0);
    /* CPUID clears the upper halves. */
    u64 a = 0xffffffff00000000, b = ~0ull, c = 0xffffffff00000000, d = ~0ull;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    expect("CPUID zero-extends", (a | b | c | d) >> 32, 0);
    /* EFLAGS.ID can be toggled, other reserved bits cannot. */
    u64 f;
    __asm__ volatile(
        "pushf; pop %0; xor $0x200000, %0; push %0; popf; pushf; pop %0; xor $0x200000, %0;"
        "push %0; popf"
        : "=&r"(f));
    __asm__ volatile("push %0; popf; pushf; pop %0" : "+r"(f));
    expect("RFLAGS: bit 1 is set, 3, 5, 15 and above 21 are clear", f & 0xffffffffffc0802a, 2);
}

int main(void)
{
    u32 r[4];
    cpuid(0, 0, r);
    amd = r[1] == 0x68747541 || r[1] == 0x6f677948;
    cpuid(0x80000008, 0, r);
    phys_bits = r[0] & 0xff;
    test_system();
    test_efer();
    test_types();
    test_absent();
    test_tsc();
    test_cr();
    test_xcr0();
    test_cpuid();
    return 0;
}
