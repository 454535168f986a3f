/*
 * test_cpuid.c - the CPU model: what it must say, must not say, and that its parts agree.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "fpu_rig.h"

enum { EAX, EBX, ECX, EDX };

static const struct cpu_model_config config = {
    .tsc_hz = 2599998000u, .apic_bus_hz = 1000000000u, .ncpus = 3, .kvm_leaves = true};

static void start(struct rig *r, const struct cpu_model_config *cfg)
{
    rig_init_model(r, cfg);
}

static u32 leaf(struct rig *r, u32 n, u32 sub, unsigned reg)
{
    u32 out[4];
    cpu_cpuid(r->c, n, sub, out);
    return out[reg];
}

static bool bit(struct rig *r, u32 n, u32 sub, unsigned reg, unsigned b)
{
    return leaf(r, n, sub, reg) >> b & 1;
}

static void test_present(void **state)
{
    static const struct {
        u32 leaf;
        u8 reg, bit;
    } must[] = {
        {1, EDX, 0},           {1, EDX, 4},           {1, EDX, 5},           {1, EDX, 6},
        {1, EDX, 8},           {1, EDX, 9},           {1, EDX, 11},          {1, EDX, 13},
        {1, EDX, 15},          {1, EDX, 16},          {1, EDX, 24},          {1, EDX, 26},
        {1, ECX, 17},          {1, ECX, 21},          {1, ECX, 24},          {1, ECX, 31},
        {7, EBX, 0},           {7, EBX, 7},           {7, EBX, 9},           {7, EBX, 10},
        {7, EBX, 20},          {7, ECX, 2},           {7, EDX, 4},           {6, EAX, 2},
        {0x80000001, ECX, 0},  {0x80000001, EDX, 11}, {0x80000001, EDX, 20}, {0x80000001, EDX, 26},
        {0x80000001, EDX, 27}, {0x80000001, EDX, 29}, {0x80000007, EDX, 8},
    };
    struct rig r;
    start(&r, &config);
    for (unsigned n = 0; n < ARRAY_SIZE(must); n++)
        if (!bit(&r, must[n].leaf, 0, must[n].reg, must[n].bit))
            fail_msg("leaf %x reg %u bit %u is clear", must[n].leaf, must[n].reg, must[n].bit);
    rig_free(&r);
}

/* MONITOR VMX TM2 PDCM DCA; DS ACPI TM PBE; HLE RTM MPX PQM PT SGX; PKU OSPKE WAITPKG SHSTK LA57
 * KL ENQCMD; PCONFIG TSXLDTRK UINTR IBT AMX; SVM, FFXSR, TOPOEXT, XOP, FMA4 */
static void test_absent(void **state)
{
    static const struct {
        u32 leaf;
        u8 reg, bit;
    } never[] = {
        {1, ECX, 2},           {1, ECX, 3},           {1, ECX, 5},           {1, ECX, 6},
        {1, ECX, 8},           {1, ECX, 15},          {1, ECX, 18},          {1, EDX, 18},
        {1, EDX, 21},          {1, EDX, 22},          {1, EDX, 29},          {1, EDX, 31},
        {7, EBX, 2},           {7, EBX, 4},           {7, EBX, 11},          {7, EBX, 12},
        {7, EBX, 14},          {7, EBX, 15},          {7, EBX, 25},          {7, ECX, 3},
        {7, ECX, 4},           {7, ECX, 5},           {7, ECX, 7},           {7, ECX, 16},
        {7, ECX, 23},          {7, ECX, 24},          {7, ECX, 29},          {7, ECX, 30},
        {7, ECX, 31},          {7, EDX, 5},           {7, EDX, 15},          {7, EDX, 16},
        {7, EDX, 18},          {7, EDX, 20},          {7, EDX, 22},          {7, EDX, 24},
        {7, EDX, 25},          {7, EDX, 30},          {0x80000001, ECX, 2},  {0x80000001, ECX, 11},
        {0x80000001, ECX, 16}, {0x80000001, ECX, 22}, {0x80000001, EDX, 25}, {6, EAX, 7},
        {6, EAX, 0},           {0x40000001, EAX, 4},  {0x40000001, EAX, 5},  {0x40000001, EAX, 7},
    };
    struct rig r;
    start(&r, &config);
    for (unsigned n = 0; n < ARRAY_SIZE(never); n++)
        if (bit(&r, never[n].leaf, 0, never[n].reg, never[n].bit))
            fail_msg("leaf %x reg %u bit %u is set", never[n].leaf, never[n].reg, never[n].bit);
    static const u32 zero[] = {3,    5,    8,    9,    0xa,  0xc,  0xe,  0xf,  0x10, 0x12,
                               0x14, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e};
    for (unsigned n = 0; n < ARRAY_SIZE(zero); n++)
        for (unsigned k = 0; k < 4; k++)
            assert_int_equal(leaf(&r, zero[n], 0, k), 0);
    rig_free(&r);
}

static void test_xsave_sizes(void **state)
{
    struct rig r;
    start(&r, &config);
    struct cpu *c = r.c;
    u64 all = cpu_xcr0_valid(c);
    if (!cpu_has(c, X86_F_XSAVE)) {
        rig_free(&r);
        {
            print_message("# skipped: this host does not offer it\n");
            return;
        }
    }
    assert_int_equal(leaf(&r, 0xd, 0, EAX), all);
    assert_int_equal(all & ~0xe7ull, 0);
    assert_int_equal(leaf(&r, 0xd, 0, ECX), cpu_fpu_size(c));
    c->xcr0 = 3;
    assert_int_equal(leaf(&r, 0xd, 0, EBX), 576);
    assert_int_equal(leaf(&r, 0xd, 1, EBX), 576);
    c->xcr0 = all;
    assert_int_equal(leaf(&r, 0xd, 0, EBX), leaf(&r, 0xd, 0, ECX));
    u32 end = 576, sum = 576;
    for (unsigned n = 2; n < 64; n++) {
        u32 size = leaf(&r, 0xd, n, EAX), at = leaf(&r, 0xd, n, EBX);
        assert_int_equal(size != 0, all >> n & 1);
        end = at + size > end ? at + size : end;
        sum += size;
    }
    assert_int_equal(end, cpu_fpu_size(c));
    assert_in_range(leaf(&r, 0xd, 1, EBX), sum, sum + 64 * 8);
    assert_int_equal(leaf(&r, 0xd, 1, ECX), 0); /* no supervisor states */
    assert_int_equal(bit(&r, 1, 0, ECX, 27), (c->cr4 & CR4_OSXSAVE) != 0);
    c->cr4 &= ~(u64)CR4_OSXSAVE;
    assert_false(bit(&r, 1, 0, ECX, 27));
    rig_free(&r);
}

static void test_topology(void **state)
{
    struct rig r;
    start(&r, &config); /* 3 CPUs: APIC ids of 2 bits */
    r.c->id = 2;
    assert_int_equal(leaf(&r, 1, 0, EBX) >> 24, 2);
    assert_int_equal(leaf(&r, 1, 0, EBX) >> 16 & 0xff, 4);
    assert_true(bit(&r, 1, 0, EDX, 28));
    for (unsigned n = 0; n < 2; n++) {
        u32 l = n ? 0x1f : 0xb;
        assert_int_equal(leaf(&r, l, 0, EAX), 0);
        assert_int_equal(leaf(&r, l, 0, EBX), 1);
        assert_int_equal(leaf(&r, l, 0, ECX), 0x100);
        assert_int_equal(leaf(&r, l, 1, EAX), 2);
        assert_int_equal(leaf(&r, l, 1, EBX), 3);
        assert_int_equal(leaf(&r, l, 1, ECX), 0x201);
        assert_int_equal(leaf(&r, l, 2, EBX), 0);
        assert_int_equal(leaf(&r, l, 2, ECX), 2);
        assert_int_equal(leaf(&r, l, 1, EDX), 2);
    }
    for (unsigned n = 0; n < 4 && leaf(&r, 4, n, EAX) & 31; n++) {
        assert_int_equal(leaf(&r, 4, n, EAX) >> 26, 3);
        assert_int_equal(leaf(&r, 4, n, EAX) >> 14 & 0xfff,
                         (leaf(&r, 4, n, EAX) >> 5 & 7) >= 3 ? 3 : 0);
    }
    rig_free(&r);
}

static void test_frequencies(void **state)
{
    struct rig r;
    start(&r, &config);
    u64 den = leaf(&r, 0x15, 0, EAX), num = leaf(&r, 0x15, 0, EBX), hz = leaf(&r, 0x15, 0, ECX);
    assert_int_equal(hz, config.apic_bus_hz);
    u64 tsc = hz * num / den;
    assert_in_range(tsc, config.tsc_hz - config.tsc_hz / 20000,
                    config.tsc_hz + config.tsc_hz / 20000); /* 50 ppm */
    assert_true(hz / 1000 * num <= UINT32_MAX);             /* Linux multiplies in 32 bits */
    assert_int_equal(leaf(&r, 0x16, 0, EAX), 2599);
    assert_int_equal(leaf(&r, 0x40000000, 0, EBX), 0x4b4d564b);
    assert_int_equal(leaf(&r, 0x40000001, 0, EAX), 1 | 2 | 8 | 1 << 24);
    assert_int_equal(leaf(&r, 0x40000010, 0, EAX), 2599998);
    assert_int_equal(leaf(&r, 0x40000010, 0, EBX), 1000000);
    assert_int_equal(cpu_model_tsc_hz(r.c), config.tsc_hz);
    rig_free(&r);
}

static void test_ranges(void **state)
{
    struct rig r;
    struct cpu_model_config cfg = config;
    cfg.kvm_leaves = false;
    start(&r, &cfg);
    u32 a[4], b[4] = {0};
    u32 max = leaf(&r, 0, 0, EAX);
    assert_true(max >= 0x16);
    if (!cpu_model_is_amd(r.model))
        cpu_cpuid(r.c, max, 0, b);
    cpu_cpuid(r.c, max + 1, 0, a);
    assert_memory_equal(a, b, sizeof a);
    cpu_cpuid(r.c, 0x40000000, 0, a);
    assert_memory_equal(a, b, sizeof a);
    cpu_cpuid(r.c, 0xffffffff, 0, a);
    assert_memory_equal(a, b, sizeof a);
    assert_int_equal(leaf(&r, 0x80000008, 0, EAX) & 0xff, cpu_phys_bits(r.c));
    assert_int_equal(leaf(&r, 0x80000008, 0, EAX) >> 8 & 0xff, 48);
    rig_free(&r);
}

/* The model and what hangs on it. */
static void test_registers(void **state)
{
    struct rig r;
    start(&r, &config);
    u64 cr4 = cpu_cr4_valid(r.c);
    assert_int_equal(cr4 & (CR4_VMXE | CR4_LA57 | CR4_PKE), 0);
    assert_int_equal(!!(cr4 & CR4_OSXSAVE), cpu_has(r.c, X86_F_XSAVE));
    assert_int_equal(!!(cr4 & CR4_VME), bit(&r, 1, 0, EDX, 1));
    assert_int_equal(cpu_efer_valid(r.c) & 0xfff, EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE);
    u64 caps = cpu_model_arch_capabilities(r.c);
    assert_int_equal(caps != 0, bit(&r, 7, 0, EDX, 29));
    if (caps) {
        assert_true(caps & BIT(0));                       /* RDCL_NO: no page-table isolation */
        assert_true(caps & BIT(1));                       /* IBRS_ALL: no retpolines */
        assert_false(caps & (BIT(2) | BIT(7) | BIT(19))); /* RSBA, TSX_CTRL, RRSBA */
    }
    assert_int_equal(strlen(cpu_model_vendor(r.model)), 12);
    rig_free(&r);
}

static void test_cut_down(void **state)
{
    struct rig r;
    struct cpu_model_config cfg = config;
    cfg.hide_avx512 = true;
    start(&r, &cfg);
    assert_int_equal(cpu_xcr0_valid(r.c) & ~7ull, 0);
    assert_false(cpu_has(r.c, X86_F_AVX512F) || cpu_has(r.c, X86_F_AVX512_FP16) ||
                 cpu_has(r.c, X86_F_AVX512_BF16));
    rig_free(&r);
    cfg.hide_avx = true;
    start(&r, &cfg);
    assert_int_equal(cpu_xcr0_valid(r.c), 3);
    assert_int_equal(cpu_fpu_size(r.c), 576);
    assert_false(cpu_has(r.c, X86_F_AVX) || cpu_has(r.c, X86_F_FMA) || cpu_has(r.c, X86_F_VAES) ||
                 cpu_has(r.c, X86_F_AVX_VNNI));
    assert_int_equal(RUN(&r, 0x0f, 0x58, 0xc1), -1);
    rig_free(&r);
}

/* Every feature a row can ask for is mapped to a bit: on one that has them all they would be true.
 * Here: those that any x86-64 processor has. */
static void test_features(void **state)
{
    struct rig r;
    start(&r, &config);
    assert_true(cpu_has(r.c, X86_F_BASE) && cpu_has(r.c, X86_F_SSE2) && cpu_has(r.c, X86_F_CMOV) &&
                cpu_has(r.c, X86_F_LAHF64));
    assert_false(cpu_has(r.c, X86_F_MONITOR) || cpu_has(r.c, X86_F_PKU));
    struct cpu_cpuid_entry e[64];
    unsigned n = cpu_model_entries(r.model, e, 64);
    assert_in_range(n, 20, 63);
    for (unsigned a = 0; a < n; a++)
        for (unsigned b = a + 1; b < n; b++)
            assert_false(e[a].leaf == e[b].leaf && e[a].subleaf == e[b].subleaf);
    assert_int_equal(cpu_model_entries(r.model, e, 3), 3);
    rig_free(&r);
    struct cpu_model_config cfg = config;
    struct err err;
    cfg.ncpus = 0;
    assert_null(cpu_model_new(&cfg, &err));
    cfg.ncpus = 256;
    assert_null(cpu_model_new(&cfg, &err));
}

static struct cpu_model_config parsed(const char *text)
{
    struct cpu_model_config cfg = config;
    struct err err;
    assert_int_equal(cpu_model_parse(&cfg, text, &err), 0);
    return cfg;
}

static void test_asked_for(void **state)
{
    struct rig r;
    struct cpu_model_config cfg = parsed("host,-x2apic,-pcid,-xsave,-nx,-kvm,phys-bits=40");
    start(&r, &cfg);
    assert_false(bit(&r, 1, 0, ECX, 21) || bit(&r, 1, 0, ECX, 17) || bit(&r, 1, 0, ECX, 26));
    assert_false(bit(&r, 1, 0, ECX, 28) || bit(&r, 7, 0, EBX, 5)); /* AVX goes with XSAVE */
    assert_false(cpu_has(r.c, X86_F_XSAVE) || cpu_has(r.c, X86_F_XSAVEC));
    assert_false(cpu_cr4_valid(r.c) & (CR4_PCIDE | CR4_OSXSAVE) || cpu_efer_valid(r.c) & EFER_NXE);
    assert_int_equal(cpu_phys_bits(r.c), 40);
    assert_int_not_equal(leaf(&r, 0x40000000, 0, EBX), 0x4b4d564b);
    rig_free(&r);

    cfg = parsed("-sse4_1,-tsc_deadline,+sse4.1");
    start(&r, &cfg);
    assert_true(bit(&r, 1, 0, ECX, 19) && !bit(&r, 1, 0, ECX, 24));
    rig_free(&r);

    struct err err;
    cfg = parsed("-avx,+avx2");
    assert_null(cpu_model_new(&cfg, &err));
    static const char *const wrong[] = {
        "",           "x2apic",       "-",        "+nosuch",      "host,",        "vendor=Cyrix",
        "phys-bits=", "phys-bits=35", "-x2apic ", "phys-bits=53", "phys-bits=4x", "vendor"};
    for (unsigned n = 0; n < ARRAY_SIZE(wrong); n++)
        if (!cpu_model_parse(&cfg, wrong[n], &err))
            fail_msg("\"%s\" was taken", wrong[n]);
}

static void test_vendors(void **state)
{
    struct rig r;
    struct cpu_model_config cfg = parsed("vendor=AuthenticAMD");
    start(&r, &cfg);
    assert_int_equal(leaf(&r, 0, 0, EBX), 0x68747541);
    assert_int_equal(leaf(&r, 0, 0, ECX), 0x444d4163);
    assert_true(cpu_model_is_amd(r.model));
    assert_int_equal(leaf(&r, 0x80000000, 0, EBX), 0x68747541);
    assert_int_equal(leaf(&r, 7, 0, EDX) >> 29 & 1, 0); /* no ARCH_CAPABILITIES */
    rig_free(&r);
    cfg = parsed("vendor=GenuineIntel");
    start(&r, &cfg);
    assert_string_equal(cpu_model_vendor(r.model), "GenuineIntel");
    assert_false(cpu_model_is_amd(r.model));
    rig_free(&r);
}

/* Each name of the list is one, and is found. */
static void test_feature_names(void **state)
{
    const char *p = cpu_feature_names();
    for (unsigned n = 0; cpu_feature_at(n); n++) {
        const char *name = cpu_feature_at(n)->name;
        assert_memory_equal(p, name, strlen(name));
        p += strlen(name) + 1;
        char text[40];
        snprintf(text, sizeof text, "-%s", name);
        struct cpu_model_config cfg = parsed(text);
        assert_true(cfg.off[n / 64] == BIT(n % 64));
    }
    assert_int_equal(p[-1], 0);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_present),     cmocka_unit_test(test_absent),
        cmocka_unit_test(test_xsave_sizes), cmocka_unit_test(test_topology),
        cmocka_unit_test(test_frequencies), cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_registers),   cmocka_unit_test(test_cut_down),
        cmocka_unit_test(test_features),    cmocka_unit_test(test_asked_for),
        cmocka_unit_test(test_vendors),     cmocka_unit_test(test_feature_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
