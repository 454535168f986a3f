/*
 * cpu_cpuid.c - the CPU model (Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E).
 *
 * A leaf is the host's, cut down to a list of bits known to work, plus bits that popf's own C
 * bodies make true on every host. Leaves that describe what popf does not have are zero.
 */
#include <cpuid.h>
#include <stdlib.h>

#include "base/clock.h"
#include "cpu/cpu_cpuid.h"
#include "cpu/cpu_fpu.h"

#define ENTRIES_MAX 64
#define EFER_AIBRSE (1u << 21) /* AMD: automatic IBRS */

enum { EAX, EBX, ECX, EDX };

struct cpu_model {
    struct cpu_model_config cfg;
    struct cpu_cpuid_entry entry[ENTRIES_MAX];
    unsigned n;
    u64 features[(X86_F_COUNT + 63) / 64];
    u64 xcr0, cr4_valid, efer_valid;
    u32 max_basic, max_ext;
    u32 xs_offset[64], xs_size[64]; /* extended state components, standard format */
    u64 xs_align;                   /* components aligned to 64 bytes in the compacted format */
    unsigned phys_bits;
    char vendor[13];
    bool amd;
    bool foreign; /* the vendor is not the host's */
};

/* --- what is let through, and what is added --- */

struct mask {
    u32 leaf, subleaf;
    u32 allow[4]; /* of the host's bits */
    u32 force[4]; /* true on every host, since popf does it in software */
};

#define B(n) (1u << (n))

/* Leaf 1 ECX: SSE3 PCLMULQDQ SSSE3 FMA CX16 PCID SSE4.1 SSE4.2 x2APIC MOVBE POPCNT TSC-deadline AES
 * XSAVE OSXSAVE (the host's, for cut_down()) AVX F16C RDRAND hypervisor. */
#define L1_ECX                                                                                     \
    (B(0) | B(1) | B(9) | B(12) | B(13) | B(17) | B(19) | B(20) | B(21) | B(22) | B(23) | B(24) |  \
     B(25) | B(26) | B(27) | B(28) | B(29) | B(30) | B(31))
/* Leaf 1 EDX: not PSN, DS, ACPI, TM, PBE; HTT is computed. */
#define L1_EDX                                                                                     \
    (B(0) | B(1) | B(2) | B(3) | B(4) | B(5) | B(6) | B(7) | B(8) | B(9) | B(11) | B(12) | B(13) | \
     B(14) | B(15) | B(16) | B(17) | B(19) | B(23) | B(24) | B(25) | B(26) | B(27))
/* Leaf 7 EBX: FSGSBASE TSC_ADJUST BMI1 AVX2 FDP_EXCPTN_ONLY SMEP BMI2 ERMS INVPCID ZERO_FCS_FDS
 * AVX512F DQ RDSEED ADX SMAP IFMA CLFLUSHOPT CLWB CD SHA BW VL. */
#define L7_EBX                                                                                     \
    (B(0) | B(1) | B(3) | B(5) | B(6) | B(7) | B(8) | B(9) | B(10) | B(13) | B(16) | B(17) |       \
     B(18) | B(19) | B(20) | B(21) | B(23) | B(24) | B(28) | B(29) | B(30) | B(31))
/* Leaf 7 ECX: VBMI UMIP VBMI2 GFNI VAES VPCLMULQDQ VNNI BITALG VPOPCNTDQ RDPID MOVDIRI MOVDIR64B.
 * No PKU: the guest's PKRU would also govern the monitor's own accesses. */
#define L7_ECX                                                                                     \
    (B(1) | B(2) | B(6) | B(8) | B(9) | B(10) | B(11) | B(12) | B(14) | B(22) | B(27) | B(28))
/* Leaf 7 EDX: FSRM VP2INTERSECT SERIALIZE FP16 */
#define L7_EDX      (B(4) | B(8) | B(14) | B(23))
#define L7_EDX_SPEC (B(26) | B(27) | B(29) | B(31)) /* SPEC_CTRL STIBP ARCH_CAPABILITIES SSBD */
/* Leaf 7.2 EDX: BHI_CTRL, so that Linux sets one bit and does without its loop on every entry. */
#define L7_2_EDX_SPEC B(4)

static const struct mask masks[] = {
    {0x1,
     0,
     {~0u, 0x0000ff00, L1_ECX, L1_EDX},
     {0, 0, B(17) | B(21) | B(24) | B(31),
      B(0) | B(1) | B(2) | B(3) | B(4) | B(5) | B(6) | B(7) | B(8) | B(9) | B(11) | B(12) | B(13) |
          B(14) | B(15) | B(16) | B(17) | B(19)}},
    {0x2, 0, {~0u, ~0u, ~0u, ~0u}, {0}},
    {0x6, 0, {0}, {B(2)}}, /* ARAT */
    {0x7,
     0,
     {0, L7_EBX, L7_ECX, L7_EDX},
     {2, B(0) | B(1) | B(7) | B(9) | B(10) | B(20), B(2), B(4)}},
    /* AVX_VNNI AVX512_BF16; fast zero-length MOVSB, STOSB, CMPSB */
    {0x7, 1, {B(4) | B(5) | B(10) | B(11) | B(12), 0, 0, 0}, {0}},
    {0x7, 2, {0}, {0}},
    {0x80000001,
     0,
     {~0u, 0, B(0) | B(5) | B(8), B(11) | B(20) | B(26) | B(27) | B(29)},
     {0, 0, B(0) | B(8), B(11) | B(20) | B(26) | B(27) | B(29)}},
    {0x80000002, 0, {~0u, ~0u, ~0u, ~0u}, {0}},
    {0x80000003, 0, {~0u, ~0u, ~0u, ~0u}, {0}},
    {0x80000004, 0, {~0u, ~0u, ~0u, ~0u}, {0}},
    {0x80000005, 0, {~0u, ~0u, ~0u, ~0u}, {0}},
    {0x80000006, 0, {~0u, ~0u, ~0u, ~0u}, {0}},
    {0x80000007, 0, {0}, {0, 0, 0, B(8)}}, /* invariant TSC */
};

/* Bits that go with AVX and with AVX-512. */
static const struct mask avx_bits[] = {
    {0x1, 0, {0, 0, B(12) | B(28) | B(29), 0}, {0}},
    {0x7, 0, {0, B(5), B(9) | B(10), 0}, {0}},
    {0x7, 1, {B(4), 0, 0, 0}, {0}},
};
#define AVX512_EBX (B(16) | B(17) | B(21) | B(28) | B(30) | B(31))
#define AVX512_ECX (B(1) | B(6) | B(11) | B(12) | B(14))
static const struct mask avx512_bits[] = {
    {0x7, 0, {0, AVX512_EBX, AVX512_ECX, B(8) | B(23)}, {0}},
    {0x7, 1, {B(5), 0, 0, 0}, {0}},
};

/*
 * ARCH_CAPABILITIES (SDM vol. 4, table 2-2): a translated or interpreted guest does not speculate
 * in its own kernel's address space the way these attacks need, and where it runs on hardware the
 * host answers for it. So: no Meltdown, L1TF, MDS, TAA, SSB and the rest; enhanced IBRS.
 */
#define ARCH_CAPABILITIES                                                                          \
    (BIT(0) /* RDCL_NO */ | BIT(1) /* IBRS_ALL */ | BIT(3) /* SKIP_L1DFL_VMENTRY */ |              \
     BIT(4) /* SSB_NO */ | BIT(5) /* MDS_NO */ | BIT(6) /* IF_PSCHANGE_MC_NO */ |                  \
     BIT(8) /* TAA_NO */ | BIT(13) /* SBDR_SSDP_NO */ | BIT(14) /* FBSDP_NO */ |                   \
     BIT(15) /* PSDP_NO */ | BIT(20) /* BHI_NO */ | BIT(24) /* PBRSB_NO */ |                       \
     BIT(26) /* GDS_NO */ | BIT(27) /* RFDS_NO */ | BIT(62) /* ITS_NO */)

/* --- entries --- */

static struct cpu_cpuid_entry *add(struct cpu_model *m, u32 leaf, u32 subleaf, bool has_subleaf)
{
    assert(m->n < ENTRIES_MAX);
    struct cpu_cpuid_entry *e = &m->entry[m->n++];
    *e = (struct cpu_cpuid_entry){.leaf = leaf, .subleaf = subleaf, .has_subleaf = has_subleaf};
    return e;
}

static struct cpu_cpuid_entry *find(struct cpu_model *m, u32 leaf, u32 subleaf)
{
    for (unsigned i = 0; i < m->n; i++)
        if (m->entry[i].leaf == leaf &&
            (!m->entry[i].has_subleaf || m->entry[i].subleaf == subleaf))
            return &m->entry[i];
    return NULL;
}

static void host_cpuid(u32 leaf, u32 subleaf, u32 out[4])
{
    out[EAX] = out[EBX] = out[ECX] = out[EDX] = 0;
    if (__get_cpuid_max(leaf & 0x80000000u, NULL) >= leaf)
        __cpuid_count(leaf, subleaf, out[EAX], out[EBX], out[ECX], out[EDX]);
}

static void put(struct cpu_cpuid_entry *e, const u32 r[4])
{
    e->eax = r[EAX];
    e->ebx = r[EBX];
    e->ecx = r[ECX];
    e->edx = r[EDX];
}

static void get(const struct cpu_cpuid_entry *e, u32 r[4])
{
    r[EAX] = e->eax;
    r[EBX] = e->ebx;
    r[ECX] = e->ecx;
    r[EDX] = e->edx;
}

static void add_masked(struct cpu_model *m, const struct mask *k)
{
    u32 r[4];
    host_cpuid(k->leaf, k->subleaf, r);
    for (unsigned i = 0; i < 4; i++)
        r[i] = (r[i] & k->allow[i]) | k->force[i];
    put(add(m, k->leaf, k->subleaf, k->leaf == 7), r);
}

static void hide(struct cpu_model *m, const struct mask *k, unsigned n)
{
    for (; n; n--, k++) {
        struct cpu_cpuid_entry *e = find(m, k->leaf, k->subleaf);
        e->eax &= ~k->allow[EAX];
        e->ebx &= ~k->allow[EBX];
        e->ecx &= ~k->allow[ECX];
        e->edx &= ~k->allow[EDX];
    }
}

static unsigned log2_ceil(unsigned v)
{
    unsigned n = 0;
    while ((1u << n) < v)
        n++;
    return n;
}

/* --- processor state (leaf 0xD) --- */

static u32 standard_size(const struct cpu_model *m, u64 xcr0)
{
    u32 size = 512 + 64;
    for (unsigned i = 2; i < 63; i++)
        if (xcr0 & BIT(i) && m->xs_offset[i] + m->xs_size[i] > size)
            size = m->xs_offset[i] + m->xs_size[i];
    return size;
}

static u32 compacted_size(const struct cpu_model *m, u64 xcr0)
{
    u32 size = 512 + 64;
    for (unsigned i = 2; i < 63; i++) {
        if (!(xcr0 & BIT(i)))
            continue;
        if (m->xs_align & BIT(i))
            size = (u32)align_up(size, 64);
        size += m->xs_size[i];
    }
    return size;
}

static void add_xsave(struct cpu_model *m)
{
    u32 r[4];
    if (!(find(m, 1, 0)->ecx & B(26)))
        return;
    for (unsigned i = 2; i < 63; i++) {
        if (!(m->xcr0 & BIT(i)))
            continue;
        host_cpuid(0xd, i, r);
        m->xs_size[i] = r[EAX];
        m->xs_offset[i] = r[EBX];
        m->xs_align |= r[ECX] & 2 ? BIT(i) : 0;
    }
    put(add(m, 0xd, 0, true), (u32[4]){(u32)m->xcr0, standard_size(m, 3), standard_size(m, m->xcr0),
                                       (u32)(m->xcr0 >> 32)});
    /* XSAVEOPT, XSAVEC, XGETBV with ECX = 1 and XSAVES (XSS = 0) are C bodies. */
    put(add(m, 0xd, 1, true), (u32[4]){0xf, 0, 0, 0});
    for (unsigned i = 2; i < 63; i++)
        if (m->xcr0 & BIT(i))
            put(add(m, 0xd, i, true),
                (u32[4]){m->xs_size[i], m->xs_offset[i], m->xs_align & BIT(i) ? 2 : 0, 0});
}

/* --- caches and topology: one package, ncpus cores, one thread each --- */

/* Leaf 4: the host's caches; L3 is shared by all cores. */
static void add_caches(struct cpu_model *m)
{
    unsigned shift = log2_ceil(m->cfg.ncpus);
    u32 cores = (1u << (shift > 6 ? 6 : shift)) - 1, threads = (1u << shift) - 1, r[4];
    for (unsigned i = 0; i < 8; i++) {
        host_cpuid(4, i, r);
        if (!(r[EAX] & 0x1f))
            break;
        bool l3 = bits(r[EAX], 5, 3) >= 3;
        r[EAX] = (r[EAX] & 0x3ff) | cores << 26 | (l3 ? threads << 14 : 0);
        put(add(m, 4, i, true), r);
    }
    put(add(m, 4, 8, true), (u32[4]){0});
}

static void add_topology(struct cpu_model *m)
{
    u32 n = m->cfg.ncpus, shift = log2_ceil(n);
    struct cpu_cpuid_entry *one = find(m, 1, 0);
    one->ebx |= (1u << shift & 0xff) << 16;
    one->edx |= n > 1 ? B(28) : 0;
    static const u32 leaves[] = {0xb, 0x1f};
    for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++) {
        put(add(m, leaves[i], 0, true), (u32[4]){0, 1, 1 << 8, 0});         /* thread */
        put(add(m, leaves[i], 1, true), (u32[4]){shift, n, 2 << 8 | 1, 0}); /* core */
    }
}

/* --- frequencies --- */

/*
 * Leaf 15H says TSC = crystal * num / den, the crystal being the APIC timer's clock. Linux
 * multiplies crystal kHz by num in 32 bits: the best fraction with a small enough numerator.
 */
static void add_tsc(struct cpu_model *m)
{
    u64 tsc = m->cfg.tsc_hz, bus = m->cfg.apic_bus_hz;
    if (!tsc || !bus || bus > UINT32_MAX)
        return;
    u64 num_max = UINT32_MAX / (bus / 1000 + 1), best_num = 0, best_den = 1, best_err = UINT64_MAX;
    for (u64 den = 1; den <= 4000 && best_err; den++) {
        u64 num = (tsc * den + bus / 2) / bus;
        if (!num || num > num_max)
            continue;
        u64 got = muldiv64(bus, num, den), err = got > tsc ? got - tsc : tsc - got;
        if (err < best_err) {
            best_err = err;
            best_num = num;
            best_den = den;
        }
    }
    if (!best_num)
        return;
    put(add(m, 0x15, 0, false), (u32[4]){(u32)best_den, (u32)best_num, (u32)bus, 0});
    u32 mhz = (u32)(tsc / 1000000) & 0xffff;
    put(add(m, 0x16, 0, false), (u32[4]){mhz, mhz, 100, 0});
}

/* KVM's leaves (Linux, Documentation/virt/kvm/x86/cpuid.rst). */
static void add_kvm(struct cpu_model *m)
{
    if (!m->cfg.kvm_leaves)
        return;
    put(add(m, 0x40000000, 0, false), (u32[4]){0x40000010, 0x4b4d564b, 0x564b4d56, 0x4d});
    /* CLOCKSOURCE, NOP_IO_DELAY, CLOCKSOURCE2, CLOCKSOURCE_STABLE */
    put(add(m, 0x40000001, 0, false), (u32[4]){B(0) | B(1) | B(3) | B(24), 0, 0, 0});
    put(add(m, 0x40000010, 0, false),
        (u32[4]){(u32)(m->cfg.tsc_hz / 1000), (u32)(m->cfg.apic_bus_hz / 1000), 0, 0});
}

/* --- leaves 0x80000001 and up that differ by vendor --- */

static void add_extended(struct cpu_model *m)
{
    u32 r[4], shift = log2_ceil(m->cfg.ncpus);
    host_cpuid(0x80000008, 0, r);
    u32 phys = m->cfg.phys_bits ? m->cfg.phys_bits : r[EAX] & 0xff;
    m->phys_bits = phys < 32 ? CPU_PHYS_BITS_MIN : phys > 52 ? CPU_PHYS_BITS_MAX : phys;
    r[EAX] = m->phys_bits | 48 << 8;
    r[EDX] = 0;
    if (!m->amd) {
        r[EBX] = r[ECX] = 0;
        put(add(m, 0x80000008, 0, false), r);
        return;
    }
    /* RstrFpErrPtrs; IBPB IBRS STIBP and always-on, preferred, same mode; SSBD; SSB_NO; BTC_NO */
    r[EBX] = B(2) | B(12) | B(14) | B(15) | B(16) | B(17) | B(18) | B(19) | B(24) | B(26) | B(29);
    r[ECX] = shift << 12 | (m->cfg.ncpus - 1);
    put(add(m, 0x80000008, 0, false), r);
    struct cpu_cpuid_entry *e = find(m, 0x80000001, 0);
    e->ecx |= m->cfg.ncpus > 1 ? B(1) : 0;                /* CmpLegacy */
    e->edx |= (find(m, 1, 0)->edx & 0x0183f3ffu) | B(22); /* the same bits, and MMX extensions */
    /* LFENCE serializes, null selectors clear the base, automatic IBRS, SRSO_NO; TSA_*_NO */
    put(add(m, 0x80000021, 0, false), (u32[4]){B(2) | B(6) | B(8) | B(29), 0, B(1) | B(2), 0});
    m->efer_valid |= EFER_AIBRSE;
}

/* --- features that rows ask for; ORDER FEATURE --- */

struct feature_bit {
    u32 leaf;
    u8 subleaf, reg, bit;
};

static const struct feature_bit feature_bits[X86_F_COUNT] = {
    [X86_F_FPU] = {1, 0, EDX, 0},
    [X86_F_TSC] = {1, 0, EDX, 4},
    [X86_F_MSR] = {1, 0, EDX, 5},
    [X86_F_CX8] = {1, 0, EDX, 8},
    [X86_F_SEP] = {1, 0, EDX, 11},
    [X86_F_CMOV] = {1, 0, EDX, 15},
    [X86_F_CLFSH] = {1, 0, EDX, 19},
    [X86_F_MMX] = {1, 0, EDX, 23},
    [X86_F_FXSR] = {1, 0, EDX, 24},
    [X86_F_SSE] = {1, 0, EDX, 25},
    [X86_F_SSE2] = {1, 0, EDX, 26},
    [X86_F_SSE3] = {1, 0, ECX, 0},
    [X86_F_PCLMULQDQ] = {1, 0, ECX, 1},
    [X86_F_MONITOR] = {1, 0, ECX, 3},
    [X86_F_SSSE3] = {1, 0, ECX, 9},
    [X86_F_FMA] = {1, 0, ECX, 12},
    [X86_F_CX16] = {1, 0, ECX, 13},
    [X86_F_SSE4_1] = {1, 0, ECX, 19},
    [X86_F_SSE4_2] = {1, 0, ECX, 20},
    [X86_F_MOVBE] = {1, 0, ECX, 22},
    [X86_F_POPCNT] = {1, 0, ECX, 23},
    [X86_F_AES] = {1, 0, ECX, 25},
    [X86_F_XSAVE] = {1, 0, ECX, 26},
    [X86_F_AVX] = {1, 0, ECX, 28},
    [X86_F_F16C] = {1, 0, ECX, 29},
    [X86_F_RDRAND] = {1, 0, ECX, 30},
    [X86_F_FSGSBASE] = {7, 0, EBX, 0},
    [X86_F_BMI1] = {7, 0, EBX, 3},
    [X86_F_AVX2] = {7, 0, EBX, 5},
    [X86_F_BMI2] = {7, 0, EBX, 8},
    [X86_F_INVPCID] = {7, 0, EBX, 10},
    [X86_F_RDSEED] = {7, 0, EBX, 18},
    [X86_F_ADX] = {7, 0, EBX, 19},
    [X86_F_SMAP] = {7, 0, EBX, 20},
    [X86_F_CLFLUSHOPT] = {7, 0, EBX, 23},
    [X86_F_CLWB] = {7, 0, EBX, 24},
    [X86_F_SHA] = {7, 0, EBX, 29},
    [X86_F_PKU] = {7, 0, ECX, 3},
    [X86_F_GFNI] = {7, 0, ECX, 8},
    [X86_F_VAES] = {7, 0, ECX, 9},
    [X86_F_VPCLMULQDQ] = {7, 0, ECX, 10},
    [X86_F_RDPID] = {7, 0, ECX, 22},
    [X86_F_MOVDIRI] = {7, 0, ECX, 27},
    [X86_F_MOVDIR64B] = {7, 0, ECX, 28},
    [X86_F_SERIALIZE] = {7, 0, EDX, 14},
    [X86_F_AVX512F] = {7, 0, EBX, 16},
    [X86_F_AVX512DQ] = {7, 0, EBX, 17},
    [X86_F_AVX512_IFMA] = {7, 0, EBX, 21},
    [X86_F_AVX512CD] = {7, 0, EBX, 28},
    [X86_F_AVX512BW] = {7, 0, EBX, 30},
    [X86_F_AVX512VL] = {7, 0, EBX, 31},
    [X86_F_AVX512_VBMI] = {7, 0, ECX, 1},
    [X86_F_AVX512_VBMI2] = {7, 0, ECX, 6},
    [X86_F_AVX512_VNNI] = {7, 0, ECX, 11},
    [X86_F_AVX512_BITALG] = {7, 0, ECX, 12},
    [X86_F_AVX512_VPOPCNTDQ] = {7, 0, ECX, 14},
    [X86_F_AVX512_FP16] = {7, 0, EDX, 23},
    [X86_F_AVX512_BF16] = {7, 1, EAX, 5},
    [X86_F_AVX512_VP2INTERSECT] = {7, 0, EDX, 8},
    [X86_F_AVX_VNNI] = {7, 1, EAX, 4},
    [X86_F_XSAVEOPT] = {0xd, 1, EAX, 0},
    [X86_F_XSAVEC] = {0xd, 1, EAX, 1},
    [X86_F_XSAVES] = {0xd, 1, EAX, 3},
    [X86_F_LAHF64] = {0x80000001, 0, ECX, 0},
    [X86_F_LZCNT] = {0x80000001, 0, ECX, 5},
    [X86_F_PREFETCHW] = {0x80000001, 0, ECX, 8},
    [X86_F_SYSCALL] = {0x80000001, 0, EDX, 11},
    [X86_F_RDTSCP] = {0x80000001, 0, EDX, 27},
};

static void derive_features(struct cpu_model *m)
{
    m->features[0] = BIT(X86_F_BASE);
    for (unsigned f = 1; f < X86_F_COUNT; f++) {
        const struct feature_bit *b = &feature_bits[f];
        const struct cpu_cpuid_entry *e = b->leaf ? find(m, b->leaf, b->subleaf) : NULL;
        u32 r[4];
        if (!e)
            continue;
        get(e, r);
        if (r[b->reg] >> b->bit & 1)
            m->features[f / 64] |= BIT(f % 64);
    }
}

/* Bits of CR4 and EFER that hang on features. */
static void derive_registers(struct cpu_model *m)
{
    const struct cpu_cpuid_entry *one = find(m, 1, 0), *seven = find(m, 7, 0);
    m->cr4_valid = CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE |
                   CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    m->cr4_valid |= one->ecx & B(17) ? CR4_PCIDE : 0;
    m->cr4_valid |= one->ecx & B(26) ? CR4_OSXSAVE : 0;
    m->cr4_valid |= seven->ebx & B(0) ? CR4_FSGSBASE : 0;
    m->cr4_valid |= seven->ebx & B(7) ? CR4_SMEP : 0;
    m->cr4_valid |= seven->ebx & B(20) ? CR4_SMAP : 0;
    m->cr4_valid |= seven->ecx & B(2) ? CR4_UMIP : 0;
    if (!(find(m, 0x80000001, 0)->edx & B(20)))
        m->efer_valid &= ~(u64)EFER_NXE;
}

/* --- what the user wants to be different --- */

static u32 *entry_reg(struct cpu_cpuid_entry *e, unsigned reg)
{
    return reg == EAX ? &e->eax : reg == EBX ? &e->ebx : reg == ECX ? &e->ecx : &e->edx;
}

static bool listed(const u64 *set, unsigned n)
{
    return set[n / 64] >> n % 64 & 1;
}

/* Takes the features out that are not wanted; once more when later leaves have been added. */
static void leave_out(struct cpu_model *m)
{
    const struct cpu_feature *f;
    for (unsigned n = 0; (f = cpu_feature_at(n)); n++) {
        struct cpu_cpuid_entry *e = listed(m->cfg.off, n) ? find(m, f->leaf, f->subleaf) : NULL;
        if (e)
            *entry_reg(e, f->reg) &= ~(1u << f->bit);
    }
    struct cpu_cpuid_entry *one = find(m, 1, 0);
    if (!(one->ecx & B(26)) || !(one->ecx & B(28)))
        m->cfg.hide_avx = true;
    if (!(find(m, 7, 0)->ebx & B(16)))
        m->cfg.hide_avx512 = true;
    if (!(find(m, 7, 0)->edx & B(26)))
        find(m, 7, 2)->edx &= ~L7_2_EDX_SPEC;
}

static int check_wanted(struct cpu_model *m, struct err *e)
{
    const struct cpu_feature *f;
    for (unsigned n = 0; (f = cpu_feature_at(n)); n++) {
        struct cpu_cpuid_entry *entry = find(m, f->leaf, f->subleaf);
        bool there = entry && *entry_reg(entry, f->reg) >> f->bit & 1;
        if (listed(m->cfg.on, n) && !there)
            return err_set(e,
                           "--cpu: +%s: this host does not offer it, or something that it needs "
                           "has been left out",
                           f->name);
    }
    return 0;
}

/* A family that goes with the vendor (Zen 2, Cascade Lake), where the host's does not. */
static void disguise(struct cpu_model *m)
{
    static const char brand[48] = "popf virtual CPU";
    if (!m->foreign)
        return;
    find(m, 1, 0)->eax = m->amd ? 0x00830f10 : 0x00050657;
    *find(m, 2, 0) = (struct cpu_cpuid_entry){.leaf = 2};
    for (unsigned i = 0; i < 3; i++) {
        u32 r[4];
        cpu_copy(r, brand + 16 * i, sizeof r);
        put(find(m, 0x80000002 + i, 0), r);
    }
}

/* --- the public side --- */

static void cut_down(struct cpu_model *m)
{
    u64 host = cpu_fpu_host_xcr0();
    m->xcr0 = host;
    if (m->cfg.hide_avx)
        m->xcr0 &= XCR0_X87 | XCR0_SSE;
    if (m->cfg.hide_avx512)
        m->xcr0 &= XCR0_X87 | XCR0_SSE | XCR0_AVX;
    struct cpu_cpuid_entry *one = find(m, 1, 0);
    if (!(one->ecx & B(27))) /* the host's kernel has not enabled it (OSXSAVE) */
        one->ecx &= ~B(26);
    one->ecx &= ~B(27);
    if (!(m->xcr0 & XCR0_AVX))
        hide(m, avx_bits, ARRAY_SIZE(avx_bits));
    if (!(m->xcr0 & XCR0_ZMM_HI256))
        hide(m, avx512_bits, ARRAY_SIZE(avx512_bits));
}

static void identify(struct cpu_model *m)
{
    static const char *const vendors[] = {
        [CPU_VENDOR_INTEL] = "GenuineIntel", [CPU_VENDOR_AMD] = "AuthenticAMD"};
    u32 r[4];
    host_cpuid(0, 0, r);
    u32 host[3] = {r[EBX], r[EDX], r[ECX]}, name[3];
    cpu_copy(name, m->cfg.vendor == CPU_VENDOR_HOST ? (const char *)host : vendors[m->cfg.vendor],
             sizeof name);
    r[EBX] = name[0];
    r[EDX] = name[1];
    r[ECX] = name[2];
    for (unsigned i = 0; i < 4; i++) {
        m->vendor[i] = (char)(r[EBX] >> 8 * i);
        m->vendor[4 + i] = (char)(r[EDX] >> 8 * i);
        m->vendor[8 + i] = (char)(r[ECX] >> 8 * i);
    }
    m->amd = r[EBX] == 0x68747541 /* Auth */ || r[EBX] == 0x6f677948 /* Hygo */;
    m->foreign = host[0] != r[EBX] || host[1] != r[EDX] || host[2] != r[ECX];
    m->efer_valid = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    m->max_basic = 0x1f;
    m->max_ext = m->amd ? 0x80000021 : 0x80000008;
    put(add(m, 0, 0, false), (u32[4]){m->max_basic, r[EBX], r[ECX], r[EDX]});
    put(add(m, 0x80000000, 0, false),
        (u32[4]){m->max_ext, m->amd ? r[EBX] : 0, m->amd ? r[ECX] : 0, m->amd ? r[EDX] : 0});
}

struct cpu_model *cpu_model_new(const struct cpu_model_config *cfg, struct err *e)
{
    if (cfg->ncpus < 1 || cfg->ncpus > 255) {
        err_set(e, "CPU model: %u CPUs asked for; 1 to 255 are possible", cfg->ncpus);
        return NULL;
    }
    struct cpu_model *m = calloc(1, sizeof *m);
    if (!m) {
        err_set(e, "CPU model: out of memory");
        return NULL;
    }
    m->cfg = *cfg;
    identify(m);
    for (unsigned i = 0; i < ARRAY_SIZE(masks); i++)
        add_masked(m, &masks[i]);
    disguise(m);
    if (!m->amd) {
        find(m, 7, 0)->edx |= L7_EDX_SPEC;
        find(m, 7, 2)->edx |= L7_2_EDX_SPEC;
    }
    leave_out(m);
    cut_down(m);
    add_xsave(m);
    if (!(m->amd && m->foreign))
        add_caches(m);
    add_topology(m);
    add_tsc(m);
    add_kvm(m);
    add_extended(m);
    leave_out(m);
    derive_features(m);
    derive_registers(m);
    if (check_wanted(m, e)) {
        free(m);
        return NULL;
    }
    return m;
}

void cpu_model_free(struct cpu_model *m)
{
    free(m);
}

/* What depends on the CPU's state. */
static void patch(const struct cpu *c, u32 leaf, u32 subleaf, u32 out[4])
{
    const struct cpu_model *m = c->model;
    switch (leaf) {
    case 1:
        out[EBX] |= (c->id & 0xff) << 24;
        out[ECX] |= c->cr4 & CR4_OSXSAVE ? B(27) : 0;
        break;
    case 0xb:
    case 0x1f:
        out[ECX] = (out[ECX] & ~0xffu) | (subleaf & 0xff);
        out[EDX] = c->id;
        break;
    case 0xd:
        if (subleaf == 0 && out[EAX])
            out[EBX] = standard_size(m, c->xcr0);
        else if (subleaf == 1 && out[EAX])
            out[EBX] = compacted_size(m, c->xcr0 | c->xss);
        break;
    default:
        break;
    }
}

/* A leaf out of range is the highest basic leaf on Intel, zeros on AMD. */
static u32 clamp(const struct cpu_model *m, u32 leaf)
{
    bool known = leaf >= 0x80000000u   ? leaf <= m->max_ext
                 : leaf >= 0x40000000u ? m->cfg.kvm_leaves && leaf <= 0x40000010u
                                       : leaf <= m->max_basic;
    return known || m->amd ? leaf : m->max_basic;
}

void cpu_cpuid(const struct cpu *c, u32 leaf, u32 subleaf, u32 out[4])
{
    leaf = clamp(c->model, leaf);
    out[EAX] = out[EBX] = out[ECX] = out[EDX] = 0;
    const struct cpu_cpuid_entry *e = find((struct cpu_model *)c->model, leaf, subleaf);
    if (e)
        get(e, out);
    patch(c, leaf, subleaf, out);
}

unsigned cpu_model_entries(const struct cpu_model *m, struct cpu_cpuid_entry *e, unsigned max)
{
    unsigned n = m->n < max ? m->n : max;
    cpu_copy(e, m->entry, n * sizeof *e);
    return n;
}

bool cpu_has(const struct cpu *c, enum x86_feature f)
{
    return f < X86_F_COUNT && c->model->features[f / 64] >> f % 64 & 1;
}

u64 cpu_cr4_valid(const struct cpu *c)
{
    return c->model->cr4_valid;
}

u64 cpu_efer_valid(const struct cpu *c)
{
    return c->model->efer_valid;
}

u64 cpu_model_xcr0(const struct cpu_model *m)
{
    return m->xcr0;
}

u64 cpu_xcr0_valid(const struct cpu *c)
{
    return c->model->xcr0;
}

unsigned cpu_phys_bits(const struct cpu *c)
{
    return c->model->phys_bits;
}

u64 cpu_model_tsc_hz(const struct cpu *c)
{
    return c->model->cfg.tsc_hz;
}

u64 cpu_model_arch_capabilities(const struct cpu *c)
{
    return c->model->amd ? 0 : ARCH_CAPABILITIES;
}

const char *cpu_model_vendor(const struct cpu_model *m)
{
    return m->vendor;
}

bool cpu_model_is_amd(const struct cpu_model *m)
{
    return m->amd;
}
