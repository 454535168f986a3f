/*
 * test_msr.c - RDMSR and WRMSR of everything that the CPU keeps itself (SDM vol. 4).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu/cpu_ctl.h"
#include "cpu/insn_ctl.h"
#include "fake.h"

#define NONCANONICAL 0xaaaaaaaaaaaaaaaaull
#define KERNEL       0xffff888012345678ull

/* Writes that are taken, and what then is read; and writes that are #GP and change nothing. */
static const struct {
    u32 msr;
    u64 val;
    bool ok;
    u64 read; /* if other than val */
} t[] = {
    {MSR_IA32_SYSENTER_CS, 0x1234, true},
    {MSR_IA32_SYSENTER_ESP, KERNEL, true},
    {MSR_IA32_SYSENTER_ESP, NONCANONICAL, false},
    {MSR_IA32_SYSENTER_EIP, KERNEL, true},
    {MSR_IA32_SYSENTER_EIP, NONCANONICAL, false},
    {MSR_STAR, 0x0023001000000000, true},
    {MSR_LSTAR, KERNEL, true},
    {MSR_LSTAR, NONCANONICAL, false},
    {MSR_CSTAR, KERNEL, true},
    {MSR_CSTAR, NONCANONICAL, false},
    {MSR_SFMASK, 0xffffffff, true},
    {MSR_SFMASK, BIT(32), false},
    {MSR_FS_BASE, KERNEL, true},
    {MSR_FS_BASE, NONCANONICAL, false},
    {MSR_GS_BASE, KERNEL, true},
    {MSR_GS_BASE, NONCANONICAL, false},
    {MSR_KERNEL_GS_BASE, KERNEL, true},
    {MSR_KERNEL_GS_BASE, NONCANONICAL, false},
    {MSR_TSC_AUX, 0xffffffff, true},
    {MSR_TSC_AUX, BIT(32), false},
    {MSR_IA32_MISC_ENABLE, 0x400c50809, true, 0x400c51809}, /* 7, 11 and 12 are read-only */
    {MSR_IA32_MISC_ENABLE, 0x89, true, 0x1809},
    {MSR_IA32_XSS, 0, true},
    {MSR_IA32_XSS, BIT(8), false},
    {MSR_IA32_DEBUGCTL, 3, true},
    {MSR_IA32_DEBUGCTL, BIT(2), false},
    {MSR_IA32_FEATURE_CONTROL, 5, false},
    {MSR_IA32_MCG_STATUS, 7, true},
    {MSR_IA32_MCG_STATUS, 8, false},

    {MSR_IA32_PAT, 0x0007040600070406, true},
    {MSR_IA32_PAT, 0x0706050401000707, true},
    {MSR_IA32_PAT, 0x02, false},
    {MSR_IA32_PAT, 0x03ull << 56, false},
    {MSR_IA32_PAT, 0x08ull << 24, false},
    {MSR_IA32_MTRRCAP, 0x508, false},
    {MSR_IA32_MTRR_DEF_TYPE, 0xc06, true},
    {MSR_IA32_MTRR_DEF_TYPE, 0x007, false},
    {MSR_IA32_MTRR_DEF_TYPE, 0x1006, false},
    {0x200, 0x80000006, true},
    {0x200, 0x80000002, false},
    {0x200, 0x80000106, false},
    {0x200, BIT(40), false},
    {0x201, 0xff80000800, true},
    {0x201, 0xff80000400, false},
    {0x201, BIT(40), false},
    {0x20f, 0xffff000800, true},
    {0x210, 0, false}, /* eight ranges */
    {0x250, 0x0606060606060606, true},
    {0x250, 0x0606060606060607, false},
    {0x258, 0x0101040405050606, true},
    {0x259, 0x0606060606060606, true},
    {0x25a, 0, false},
    {0x268, 0x0505050505050505, true},
    {0x26f, 0, true},
    {0x26f, 0x02ull << 56, false},
    {0x270, 0, false},

    {MSR_IA32_SPEC_CTRL, 7, true},
    {MSR_IA32_SPEC_CTRL, 8, false},
    {MSR_IA32_BIOS_SIGN_ID, 0, true, BIT(32)},
    {MSR_IA32_PLATFORM_ID, 0, false},
    {MSR_IA32_ARCH_CAPABILITIES, 0, false},

    {MSR_IA32_MCG_CAP, 0, false},
    {MSR_IA32_MCG_CTL, ~0ull, true},
    {MSR_IA32_MCG_CTL, 1, false},
    {0x400, ~0ull, true},
    {0x400, 0, true},
    {0x400, ~BIT(10), true},
    {0x400, NONCANONICAL, false},
    {0x401, 0, true},
    {0x401, 1, false},
    {0x402, NONCANONICAL, true},
    {0x403, NONCANONICAL, true},
    {0x427, 1, true},  /* MISC of bank 9 */
    {0x428, 0, false}, /* there is no bank 10 */
    {0x47f, 0, false},
    {0x480, 0, false}, /* VMX is not offered */

    {MSR_IA32_APIC_BASE, 0xfee00900, true, 0x1234}, /* the world's */
    {0x10000000, 0, false},
};

static void test_table(void **state)
{
    struct fake f;
    fake_init(&f);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        u64 before = 0, after = 0;
        int readable = cpu_msr_read(f.c, t[i].msr, &before);
        int r = cpu_msr_write(f.c, t[i].msr, t[i].val);
        if ((r == 0) != t[i].ok)
            fail_msg("WRMSR %#x = %#llx: %d", t[i].msr, (unsigned long long)t[i].val, r);
        assert_int_equal(cpu_msr_read(f.c, t[i].msr, &after), readable);
        u64 want = !t[i].ok ? before : t[i].read ? t[i].read : t[i].val;
        if (readable == 0 && after != want)
            fail_msg("RDMSR %#x after %#llx: %#llx", t[i].msr, (unsigned long long)t[i].val,
                     (unsigned long long)after);
    }
    fake_free(&f);
}

static void test_readable(void **state)
{
    static const struct {
        u32 msr;
        u64 val;
    } r[] = {
        {MSR_IA32_MTRRCAP, 0x508},
        {MSR_IA32_MCG_CAP, 0x10a},
        {MSR_IA32_PLATFORM_ID, 0},
        {MSR_IA32_FEATURE_CONTROL, 1},
        {MSR_IA32_BIOS_SIGN_ID, BIT(32)},
        {MSR_IA32_PAT, 0x0007040600070406},
        {MSR_IA32_MISC_ENABLE, 0x1801},
        {MSR_EFER, 0},
        {0x1db, 0},
        {0x34, 0},
    };
    static const u32 not [] = {MSR_IA32_PRED_CMD,
                               MSR_IA32_FLUSH_CMD,
                               MSR_IA32_BIOS_UPDT_TRIG,
                               0xc0010015,
                               0x428,
                               0x479,
                               0x480,
                               0x40000000,
                               0xffffffff};
    struct fake f;
    u64 v;
    fake_init(&f);
    for (unsigned i = 0; i < ARRAY_SIZE(r); i++) {
        assert_int_equal(cpu_msr_read(f.c, r[i].msr, &v), 0);
        assert_int_equal(v, r[i].val);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(not ); i++)
        assert_int_equal(cpu_msr_read(f.c, not [i], &v), -1);
    assert_int_equal(cpu_msr_read(f.c, MSR_IA32_ARCH_CAPABILITIES, &v), 0);
    assert_int_equal(v, 0xabc); /* the model's */
    fake_free(&f);
}

static void test_efer(void **state)
{
    struct fake f;
    fake_init(&f);
    struct cpu *c = f.c;
    assert_int_equal(cpu_msr_write(c, MSR_EFER, EFER_SCE | EFER_LME | EFER_NXE), 0);
    assert_int_equal(cpu_msr_write(c, MSR_EFER, BIT(12)), -1); /* SVME */
    assert_int_equal(cpu_msr_write(c, MSR_EFER, BIT(1)), -1);
    assert_int_equal(cpu_msr_write(c, MSR_EFER, EFER_LME | EFER_LMA), 0);
    assert_int_equal(c->efer, EFER_LME); /* LMA cannot be written */
    c->cr4 = CR4_PAE;
    c->cr0 |= CR0_PE;
    cpu_write_cr0(c, c->cr0 | CR0_PG);
    assert_true(cpu_long(c));
    assert_int_equal(cpu_msr_write(c, MSR_EFER, 0), -1); /* LME while paging */
    assert_int_equal(cpu_msr_write(c, MSR_EFER, EFER_LME | EFER_NXE), 0);
    assert_int_equal(c->efer, EFER_LME | EFER_LMA | EFER_NXE);
    fake_free(&f);
}

/* NXE changes which entries are valid. */
static void test_nxe_flushes(void **state)
{
    struct fake f;
    fake_init(&f);
    struct cpu *c = f.c;
    poke64(&f, 0x3000, 0x4003 | PTE_NX);
    poke64(&f, 0x4000, 0x83);
    c->cr0 |= CR0_PE | CR0_PG;
    c->cr4 = CR4_PAE;
    c->cr3 = 0x3000;
    c->efer = EFER_LME | EFER_LMA | EFER_NXE;
    fake_mode(&f, X86_MODE64, 0);
    assert_int_equal(TRY(c, cpu_ld8(c, X86_SEG_FLAT, 0)), -1);
    assert_int_equal(cpu_msr_write(c, MSR_EFER, EFER_LME), 0);
    assert_int_equal(TRY(c, cpu_ld8(c, X86_SEG_FLAT, 0)), EXC_PF);
    assert_int_equal(c->exc.err, PF_P | PF_RSVD);
    fake_free(&f);
}

static void test_tsc(void **state)
{
    struct fake f;
    u64 v, adjust;
    fake_init(&f);
    struct cpu *c = f.c;
    assert_int_equal(cpu_msr_write(c, MSR_IA32_TSC, 1ull << 60), 0);
    cpu_msr_read(c, MSR_IA32_TSC, &v);
    assert_true(v >= 1ull << 60 && v - (1ull << 60) < BIT(36));
    cpu_msr_read(c, MSR_IA32_TSC_ADJUST, &adjust);
    assert_true(adjust == c->tsc_offset);
    assert_int_equal(cpu_msr_write(c, MSR_IA32_TSC_ADJUST, adjust + (1ull << 61)), 0);
    cpu_msr_read(c, MSR_IA32_TSC, &v);
    assert_true(v >= 3ull << 60 && v - (3ull << 60) < BIT(36));
    /* A reset takes back what the guest did, and leaves the machine's own offset. */
    c->tsc_offset += 77;
    cpu_reset(c, false);
    assert_int_equal(c->tsc_offset, 77);
    assert_int_equal(c->tsc_adjust, 0);
    fake_free(&f);
}

/* Registers that CPUID does not offer do not exist. */
static void test_features(void **state)
{
    struct fake f;
    u64 v;
    fake_init(&f);
    assert_int_equal(cpu_msr_write(f.c, MSR_IA32_PRED_CMD, 1), 0);
    assert_int_equal(cpu_msr_write(f.c, MSR_IA32_PRED_CMD, 2), -1);
    assert_int_equal(cpu_msr_write(f.c, MSR_IA32_FLUSH_CMD, 1), 0);
    f.leaf7_edx = 0;
    assert_int_equal(cpu_msr_write(f.c, MSR_IA32_PRED_CMD, 1), -1);
    assert_int_equal(cpu_msr_write(f.c, MSR_IA32_FLUSH_CMD, 1), -1);
    assert_int_equal(cpu_msr_read(f.c, MSR_IA32_SPEC_CTRL, &v), -1);
    assert_int_equal(cpu_msr_write(f.c, MSR_IA32_SPEC_CTRL, 0), -1);
    assert_int_equal(cpu_msr_read(f.c, MSR_IA32_ARCH_CAPABILITIES, &v), -1);
    f.leaf7_edx = 1u << 26; /* IBRS alone */
    assert_int_equal(cpu_msr_write(f.c, MSR_IA32_SPEC_CTRL, 1), 0);
    assert_int_equal(cpu_msr_write(f.c, MSR_IA32_SPEC_CTRL, 2), -1);
    fake_free(&f);
}

static void test_amd(void **state)
{
    struct fake f;
    u64 v;
    fake_init(&f);
    f.amd = true;
    assert_int_equal(cpu_msr_read(f.c, 0xc0010015, &v), 0); /* HWCR: TscFreqSel */
    assert_int_equal(v, BIT(24));
    assert_int_equal(cpu_msr_read(f.c, 0xc0010010, &v), 0); /* SYSCFG */
    assert_int_equal(cpu_msr_read(f.c, 0x8b, &v), 0);
    assert_int_equal(v, 0x01000065);
    assert_int_equal(cpu_msr_read(f.c, MSR_IA32_PLATFORM_ID, &v), -1);
    assert_int_equal(cpu_msr_read(f.c, MSR_IA32_FEATURE_CONTROL, &v), -1);
    fake_free(&f);
}

static void test_instructions(void **state)
{
    struct fake f;
    fake_init(&f);
    struct cpu *c = f.c;
    struct x86_insn i = {0};
    c->reg[RCX] = 0xffffffff00000000 | MSR_LSTAR; /* ECX only, EAX only, EDX only */
    c->reg[RAX] = 0xdeadbeef81000000;
    c->reg[RDX] = 0xdeadbeefffffffff;
    assert_int_equal(TRY(c, insn_wrmsr(c, &i)), -1);
    assert_true(c->lstar == 0xffffffff81000000);
    assert_int_equal(TRY(c, insn_rdmsr(c, &i)), -1);
    assert_int_equal(c->reg[RAX], 0x81000000);
    assert_int_equal(c->reg[RDX], 0xffffffff);
    c->reg[RCX] = 0x12345;
    assert_int_equal(TRY(c, insn_rdmsr(c, &i)), EXC_GP);
    assert_int_equal(TRY(c, insn_wrmsr(c, &i)), EXC_GP);
    assert_int_equal(c->reg[RAX], 0x81000000);
    assert_int_equal(f.log[0].what, 'R');
    assert_int_equal(f.log[1].what, 'W');
    fake_free(&f);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table), cmocka_unit_test(test_readable),
        cmocka_unit_test(test_efer),  cmocka_unit_test(test_nxe_flushes),
        cmocka_unit_test(test_tsc),   cmocka_unit_test(test_features),
        cmocka_unit_test(test_amd),   cmocka_unit_test(test_instructions),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
