/*
 * test_ctl.c - control, debug and extended control registers, TSC, and the instructions on them
 * (SDM vol. 2: MOV CR, MOV DR, LMSW, SMSW, INVPCID, XSETBV; vol. 3A 2.5, 9.8.5).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu/cpu_ctl.h"
#include "cpu/insn_ctl.h"
#include "fake.h"

#define PE_PG   (CR0_PE | CR0_PG)
#define NOTHING -1

/* A CPU in 32-bit protected mode without paging, CPL 0. */
static void setup(struct fake *f)
{
    fake_init(f);
    f->c->cr0 = CR0_PE | CR0_ET;
    fake_mode(f, X86_MODE32, 0);
}

static void setup_long(struct fake *f, enum x86_mode mode)
{
    fake_init(f);
    f->c->cr0 = PE_PG | CR0_ET;
    f->c->cr4 = CR4_PAE;
    f->c->efer = EFER_LME | EFER_LMA;
    fake_mode(f, mode, 0);
}

/* --- CR0 --- */

static void test_cr0_values(void **state)
{
    static const struct {
        u64 val;
        int vec;
    } t[] = {
        {CR0_PE, NOTHING},
        {0, NOTHING},
        {CR0_PG, EXC_GP}, /* PG without PE */
        {PE_PG, NOTHING},
        {CR0_PE | CR0_NW, EXC_GP}, /* NW without CD */
        {CR0_PE | CR0_NW | CR0_CD, NOTHING},
        {CR0_PE | CR0_CD, NOTHING},
        {CR0_PE | BIT(32), EXC_GP},
        {CR0_PE | BIT(63), EXC_GP},
        {CR0_PE | BIT(20), NOTHING}, /* reserved bits of the lower half are ignored */
    };
    struct fake f;
    setup(&f);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        cpu_write_cr0(f.c, CR0_PE);
        u64 before = f.c->cr0;
        assert_int_equal(TRY(f.c, cpu_write_cr0(f.c, t[i].val)), t[i].vec);
        if (t[i].vec != NOTHING)
            assert_int_equal(f.c->cr0, before);
        else
            assert_int_equal(f.c->cr0, ((t[i].val | CR0_ET) & ~BIT(20)));
    }
    fake_free(&f);
}

static void test_long_mode(void **state)
{
    struct fake f;
    setup(&f);
    struct cpu *c = f.c;
    c->efer = EFER_LME;
    assert_int_equal(TRY(c, cpu_write_cr0(c, PE_PG)), EXC_GP); /* CR4.PAE is clear */
    cpu_write_cr4(c, CR4_PAE);
    c->seg[CS].attr |= SEG_L;
    assert_int_equal(TRY(c, cpu_write_cr0(c, PE_PG)), EXC_GP);
    c->seg[CS].attr &= ~SEG_L;
    c->tr.attr = SEG_P | SYS_TSS16_BUSY;
    assert_int_equal(TRY(c, cpu_write_cr0(c, PE_PG)), EXC_GP);
    c->tr.attr = SEG_P | SYS_TSS32_BUSY;
    assert_int_equal(c->efer, EFER_LME);
    assert_int_equal(TRY(c, cpu_write_cr0(c, PE_PG)), NOTHING);
    assert_int_equal(c->efer, EFER_LME | EFER_LMA);
    assert_int_equal(c->mode, X86_MODE32); /* compatibility mode until CS says otherwise */

    assert_int_equal(TRY(c, cpu_write_cr4(c, 0)), EXC_GP); /* PAE must stay */
    c->seg[CS].attr = (c->seg[CS].attr & ~SEG_DB) | SEG_L;
    cpu_update_mode(c);
    assert_int_equal(c->mode, X86_MODE64);
    assert_true(c->la_mask == ~0ull);
    assert_int_equal(TRY(c, cpu_write_cr0(c, CR0_PE)), EXC_GP); /* not from 64-bit code */
    c->seg[CS].attr = (c->seg[CS].attr & ~SEG_L) | SEG_DB;
    cpu_update_mode(c);
    c->cr4 |= CR4_PCIDE;
    assert_int_equal(TRY(c, cpu_write_cr0(c, CR0_PE)), EXC_GP);
    c->cr4 &= ~(u64)CR4_PCIDE;
    assert_int_equal(TRY(c, cpu_write_cr0(c, CR0_PE)), NOTHING);
    assert_int_equal(c->efer, EFER_LME);
    fake_free(&f);
}

/* --- PDPTEs: loaded with PG, with CR3 and with some bits of CR4; reserved bits are #GP --- */

static void test_pdptes(void **state)
{
    struct fake f;
    setup(&f);
    struct cpu *c = f.c;
    for (unsigned i = 0; i < 4; i++) {
        poke64(&f, 0x1020 + 8 * i, 0x2001 + 0x1000 * i);
        poke64(&f, 0x3000 + 8 * i, 0);
    }
    cpu_write_cr4(c, CR4_PAE);
    cpu_write_cr3(c, 0x1020);
    assert_int_equal(c->pdpte[0], 0); /* no paging yet */
    cpu_write_cr0(c, PE_PG);
    assert_int_equal(c->pdpte[3], 0x5001);
    cpu_write_cr3(c, 0x3000);
    assert_int_equal(c->pdpte[3], 0);

    static const struct {
        u8 bit;
        bool rsvd;
    } t[] = {{1, true}, {2, true},  {3, false},  {4, false}, {5, true},
             {8, true}, {9, false}, {39, false}, {40, true}, {63, true}};
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        poke64(&f, 0x1020, 0x2001 | BIT(t[i].bit));
        cpu_write_cr3(c, 0x3000);
        assert_int_equal(TRY(c, cpu_write_cr3(c, 0x1020)), t[i].rsvd ? EXC_GP : NOTHING);
        assert_int_equal(c->cr3, t[i].rsvd ? 0x3000 : 0x1020);
        assert_int_equal(c->pdpte[1], t[i].rsvd ? 0 : 0x3001);
    }
    /* Not present: no bit of it matters. A table that is not in RAM reads as all ones. */
    poke64(&f, 0x1020, ~1ull);
    assert_int_equal(TRY(c, cpu_write_cr3(c, 0x1020)), NOTHING);
    assert_int_equal(TRY(c, cpu_write_cr3(c, 0xe0000000)), EXC_GP);
    poke64(&f, 0x1020, 0x2001 | BIT(5));
    assert_int_equal(TRY(c, cpu_write_cr4(c, CR4_PAE | CR4_PGE)), EXC_GP);
    assert_int_equal(c->cr4, CR4_PAE);
    assert_int_equal(TRY(c, cpu_write_cr0(c, PE_PG | CR0_CD)), EXC_GP);
    fake_free(&f);
}

/* --- CR3 --- */

static void test_cr3(void **state)
{
    struct fake f;
    setup_long(&f, X86_MODE64);
    struct cpu *c = f.c;
    assert_int_equal(TRY(c, cpu_write_cr3(c, BIT(39) | 0xfff)), NOTHING);
    assert_true(c->cr3 == (BIT(39) | 0xfff));
    for (unsigned bit = 40; bit < 64; bit++)
        assert_int_equal(TRY(c, cpu_write_cr3(c, 0x1000 | BIT(bit))), EXC_GP);
    c->cr3 = 0x1000;
    cpu_write_cr4(c, CR4_PAE | CR4_PCIDE);
    assert_int_equal(TRY(c, cpu_write_cr3(c, 0x2005 | CR3_NOFLUSH)), NOTHING);
    assert_int_equal(c->cr3, 0x2005); /* bit 63 is an order, not a value */
    fake_free(&f);
}

/* --- CR4 --- */

static void test_cr4(void **state)
{
    struct fake f;
    setup(&f);
    struct cpu *c = f.c;
    assert_int_equal(TRY(c, cpu_write_cr4(c, CR4_VMXE)), EXC_GP);
    assert_int_equal(TRY(c, cpu_write_cr4(c, CR4_LA57)), EXC_GP);
    assert_int_equal(TRY(c, cpu_write_cr4(c, BIT(31))), EXC_GP);
    assert_int_equal(TRY(c, cpu_write_cr4(c, BIT(40))), EXC_GP);
    assert_int_equal(TRY(c, cpu_write_cr4(c, CR4_PCIDE)), EXC_GP); /* outside long mode */
    assert_int_equal(TRY(c, cpu_write_cr4(c, CR4_PSE | CR4_PGE | CR4_DE)), NOTHING);
    fake_free(&f);

    setup_long(&f, X86_MODE64);
    f.c->cr3 = 0x1001;
    assert_int_equal(TRY(f.c, cpu_write_cr4(f.c, CR4_PAE | CR4_PCIDE)), EXC_GP);
    f.c->cr3 = 0x1000;
    assert_int_equal(TRY(f.c, cpu_write_cr4(f.c, CR4_PAE | CR4_PCIDE)), NOTHING);
    f.c->cr3 = 0x1001;
    assert_int_equal(TRY(f.c, cpu_write_cr4(f.c, CR4_PAE | CR4_PCIDE | CR4_PGE)), NOTHING);
    fake_free(&f);
}

/* --- XCR0 --- */

static void test_xcr0(void **state)
{
    const u64 zmm = XCR0_OPMASK | XCR0_ZMM_HI256 | XCR0_HI16_ZMM;
    const u64 avx = XCR0_X87 | XCR0_SSE | XCR0_AVX;
    const struct {
        u64 val;
        int vec;
    } t[] = {
        {XCR0_X87, NOTHING},
        {0, EXC_GP},
        {XCR0_SSE, EXC_GP},
        {XCR0_X87 | XCR0_AVX, EXC_GP},
        {avx, NOTHING},
        {avx | zmm, NOTHING},
        {avx | XCR0_OPMASK, EXC_GP},
        {XCR0_X87 | XCR0_SSE | zmm, EXC_GP},
        {avx | XCR0_PKRU, EXC_GP}, /* not offered */
        {avx | BIT(63), EXC_GP},
    };
    struct fake f;
    setup(&f);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        assert_int_equal(TRY(f.c, cpu_write_xcr0(f.c, t[i].val)), t[i].vec);
        if (t[i].vec == NOTHING)
            assert_int_equal(f.c->xcr0, t[i].val);
    }
    fake_free(&f);
}

/* --- debug registers --- */

static void test_dr(void **state)
{
    struct fake f;
    setup(&f);
    struct cpu *c = f.c;
    cpu_write_dr(c, 0, 0x1234);
    assert_int_equal(cpu_read_dr(c, 0), 0x1234);
    cpu_write_dr(c, 6, 0xffffffff);
    assert_int_equal(cpu_read_dr(c, 6), 0xffffefff);
    cpu_write_dr(c, 6, 0);
    assert_int_equal(cpu_read_dr(c, 4), 0xffff0ff0);
    cpu_write_dr(c, 5, 0xffffdfff);
    assert_int_equal(cpu_read_dr(c, 7), 0xffff07ff);
    assert_true(atomic_load(&c->events) & EV_SLOW);
    cpu_write_dr(c, 7, 0);
    assert_int_equal(cpu_read_dr(c, 7), 0x400);
    assert_false(atomic_load(&c->events) & EV_SLOW);
    assert_int_equal(TRY(c, cpu_write_dr(c, 6, BIT(32))), EXC_GP);
    assert_int_equal(TRY(c, cpu_write_dr(c, 7, BIT(63))), EXC_GP);

    cpu_write_cr4(c, CR4_DE);
    assert_int_equal(TRY(c, cpu_read_dr(c, 4)), EXC_UD);
    assert_int_equal(TRY(c, cpu_write_dr(c, 5, 0)), EXC_UD);
    cpu_write_dr(c, 7, DR7_GD);
    assert_int_equal(TRY(c, cpu_read_dr(c, 4)), EXC_UD); /* before GD */
    assert_int_equal(TRY(c, cpu_read_dr(c, 0)), EXC_DB);
    assert_int_equal(c->dr[6], 0xffff0ff0 | DR6_BD);
    assert_int_equal(TRY(c, cpu_write_dr(c, 7, 0)), EXC_DB);
    fake_free(&f);
}

/* A page becomes watched while it is in the TLB. */
static void test_dr_watch(void **state)
{
    struct fake f;
    setup(&f);
    cpu_ld8(f.c, DS, 0x5000);
    f.watched = 0x5000;
    cpu_write_dr(f.c, 0, 0x5000);
    cpu_write_dr(f.c, 7, 1);
    cpu_ld8(f.c, DS, 0x5000);
    assert_int_equal(f.hits, 1);
    fake_free(&f);
}

/* --- time --- */

static void test_tsc(void **state)
{
    struct fake f;
    setup(&f);
    struct cpu *c = f.c;
    c->tsc_offset = 0;
    u64 host = __builtin_ia32_rdtsc(), tsc = cpu_tsc(c);
    assert_true(tsc >= host && tsc - host < BIT(32));
    c->tsc_ratio = BIT(31); /* half as fast */
    c->tsc_offset = 1000;
    host = __builtin_ia32_rdtsc();
    tsc = cpu_tsc(c);
    assert_true(tsc >= host / 2 + 1000 && tsc - host / 2 < BIT(32));
    static const u64 ratios[] = {0, 1ull << 31, 1ull << 32, 0x123456789, 0xdeadbeef};
    for (unsigned i = 0; i < ARRAY_SIZE(ratios); i++) {
        c->tsc_ratio = ratios[i];
        c->tsc_offset = -5000ull;
        u64 at = cpu_tsc_to_host(c, 1000000);
        u64 there = ratios[i] ? (u64)((u128)at * ratios[i] >> 32) : at;
        assert_in_range(there + c->tsc_offset, 1000000, 1000002);
    }
    c->tsc_ratio = 1;
    assert_true(cpu_tsc_to_host(c, 1ull << 62) == UINT64_MAX); /* never, rather than wrapped */
    fake_free(&f);
}

/* --- instructions --- */

static int run(struct fake *f, cpu_insn_fn *fn, struct x86_insn i)
{
    i.adsize = f->c->mode == X86_MODE64 ? 8 : 4;
    i.index = X86_SLOT_ZERO;
    if (!i.opsize)
        i.opsize = 4;
    return TRY(f->c, fn(f->c, &i));
}

/* Privileged ones are #GP(0) at every CPL but 0. */
static void test_privilege(void **state)
{
    static cpu_insn_fn *const fn[] = {
        insn_mov_from_cr, insn_mov_to_cr, insn_mov_from_dr, insn_mov_to_dr, insn_clts,
        insn_lmsw,        insn_invlpg,    insn_invpcid,     insn_invd,      insn_wbinvd,
        insn_rdmsr,       insn_wrmsr,     insn_hlt,
    };
    struct fake f;
    setup(&f);
    for (unsigned cpl = 1; cpl <= 3; cpl++) {
        fake_mode(&f, X86_MODE32, cpl);
        for (unsigned i = 0; i < ARRAY_SIZE(fn); i++) {
            assert_int_equal(run(&f, fn[i], (struct x86_insn){0}), EXC_GP);
            assert_int_equal(f.c->exc.err, 0);
        }
    }
    fake_free(&f);
}

static void test_mov_cr(void **state)
{
    struct fake f;
    setup(&f);
    struct cpu *c = f.c;
    for (unsigned n = 0; n < 16; n++) {
        bool there = n == 0 || n == 2 || n == 3 || n == 4;
        assert_int_equal(run(&f, insn_mov_from_cr, (struct x86_insn){.reg = n, .rm = RBX}),
                         there ? NOTHING : EXC_UD);
    }
    /* A number that does not exist is #UD before CPL is looked at. */
    fake_mode(&f, X86_MODE32, 3);
    assert_int_equal(run(&f, insn_mov_to_cr, (struct x86_insn){.reg = 1}), EXC_UD);
    fake_free(&f);

    setup_long(&f, X86_MODE64);
    c = f.c;
    c->reg[RBX] = 0xffffffff80000000;
    assert_int_equal(run(&f, insn_mov_to_cr, (struct x86_insn){.reg = 2, .rm = RBX}), NOTHING);
    assert_true(c->cr2 == 0xffffffff80000000);
    assert_int_equal(run(&f, insn_mov_from_cr, (struct x86_insn){.reg = 2, .rm = R9}), NOTHING);
    assert_true(c->reg[R9] == 0xffffffff80000000);
    c->reg[RBX] = 9;
    assert_int_equal(run(&f, insn_mov_to_cr, (struct x86_insn){.reg = 8, .rm = RBX}), NOTHING);
    assert_int_equal(f.cr8, 9);
    assert_int_equal(run(&f, insn_mov_from_cr, (struct x86_insn){.reg = 8, .rm = RCX}), NOTHING);
    assert_int_equal(c->reg[RCX], 9);
    c->reg[RBX] = 16;
    assert_int_equal(run(&f, insn_mov_to_cr, (struct x86_insn){.reg = 8, .rm = RBX}), EXC_GP);
    fake_free(&f);
}

static void test_msw(void **state)
{
    struct fake f;
    setup(&f);
    struct cpu *c = f.c;
    c->reg[RBX] = CR0_MP | CR0_TS | 0xfff0;
    assert_int_equal(run(&f, insn_lmsw, (struct x86_insn){.rm = RBX, .opsize = 2}), NOTHING);
    assert_int_equal(c->cr0, CR0_PE | CR0_MP | CR0_TS | CR0_ET); /* PE cannot be cleared */
    assert_int_equal(run(&f, insn_clts, (struct x86_insn){0}), NOTHING);
    assert_int_equal(c->cr0, CR0_PE | CR0_MP | CR0_ET);
    c->reg[RCX] = 0xaaaaaaaabbbbbbbb;
    run(&f, insn_smsw, (struct x86_insn){.rm = RCX, .opsize = 2});
    assert_true(c->reg[RCX] == 0xaaaaaaaabbbb0013);
    run(&f, insn_smsw, (struct x86_insn){.rm = RCX, .opsize = 4});
    assert_int_equal(c->reg[RCX], 0x13);
    c->cr4 |= CR4_UMIP;
    fake_mode(&f, X86_MODE32, 3);
    assert_int_equal(run(&f, insn_smsw, (struct x86_insn){.rm = RCX}), EXC_GP);
    fake_free(&f);
}

static void test_invpcid(void **state)
{
    static const struct {
        u64 type, pcid, la;
        bool pcide;
        int vec;
    } t[] = {
        {0, 0, 0x1000, false, NOTHING},
        {0, 1, 0x1000, false, EXC_GP}, /* PCID without CR4.PCIDE */
        {0, 1, 0x1000, true, NOTHING},
        {0, 0x1000, 0x1000, true, EXC_GP}, /* reserved bits of the descriptor */
        {0, 0, 0x800000000000, true, EXC_GP},
        {1, 5, 0x800000000000, true, NOTHING}, /* no address in these */
        {1, 5, 0, false, EXC_GP},
        {2, 5, 0, false, NOTHING},
        {3, 0, 0, false, NOTHING},
        {3, BIT(63), 0, false, EXC_GP},
        {4, 0, 0, true, EXC_GP},
        {BIT(32), 0, 0, true, EXC_GP},
    };
    struct fake f;
    setup_long(&f, X86_MODE64);
    struct cpu *c = f.c;
    poke64(&f, 0x3000, 0x4003); /* PML4 -> PDPT -> 1G page at 0 */
    poke64(&f, 0x4000, 0x83);
    c->cr3 = 0x3000;
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        c->cr4 = CR4_PAE | (t[i].pcide ? CR4_PCIDE : 0);
        poke64(&f, 0x5008, t[i].pcid);
        poke64(&f, 0x5010, t[i].la);
        c->reg[RDX] = t[i].type;
        c->reg[RBX] = 0x5008;
        struct x86_insn in = {.reg = RDX, .base = RBX, .seg = X86_SEG_FLAT, .prefix = X86_PFX_MEM};
        if (run(&f, insn_invpcid, in) != t[i].vec)
            fail_msg("row %u: not %d", i, t[i].vec);
    }
    fake_free(&f);
}

static void test_user_rights(void **state)
{
    struct fake f;
    setup(&f);
    struct cpu *c = f.c;
    fake_mode(&f, X86_MODE32, 3);
    assert_int_equal(run(&f, insn_rdtsc, (struct x86_insn){0}), NOTHING);
    c->tsc_aux = 7;
    assert_int_equal(run(&f, insn_rdtscp, (struct x86_insn){0}), NOTHING);
    assert_int_equal(c->reg[RCX], 7);
    c->cr4 |= CR4_TSD;
    assert_int_equal(run(&f, insn_rdtsc, (struct x86_insn){0}), EXC_GP);
    assert_int_equal(run(&f, insn_rdtscp, (struct x86_insn){0}), EXC_GP);
    fake_mode(&f, X86_MODE32, 0);
    assert_int_equal(run(&f, insn_rdtsc, (struct x86_insn){0}), NOTHING);
    assert_int_equal(run(&f, insn_rdpmc, (struct x86_insn){0}), EXC_GP);
    assert_int_equal(run(&f, insn_monitor, (struct x86_insn){0}), EXC_UD);
    assert_int_equal(run(&f, insn_vmcall, (struct x86_insn){0}), EXC_UD);
    fake_free(&f);
}

static void test_bases(void **state)
{
    struct fake f;
    setup_long(&f, X86_MODE64);
    struct cpu *c = f.c;
    struct x86_insn rb = {.rm = RBX, .opsize = 8};
    assert_int_equal(run(&f, insn_rdfsbase, rb), EXC_UD); /* CR4.FSGSBASE */
    c->cr4 |= CR4_FSGSBASE;
    c->reg[RBX] = 0xffff888000001234;
    assert_int_equal(run(&f, insn_wrgsbase, rb), NOTHING);
    assert_int_equal(run(&f, insn_wrfsbase, (struct x86_insn){.rm = RBX, .opsize = 4}), NOTHING);
    assert_true(c->seg[GS].base == 0xffff888000001234);
    assert_true(c->seg[FS].base == 0x1234);
    c->reg[RBX] = BIT(50);
    assert_int_equal(run(&f, insn_wrfsbase, rb), EXC_GP);
    c->kernel_gs_base = 42;
    assert_int_equal(run(&f, insn_swapgs, (struct x86_insn){0}), NOTHING);
    assert_int_equal(c->seg[GS].base, 42);
    assert_true(c->kernel_gs_base == 0xffff888000001234);
    fake_mode(&f, X86_MODE64, 3);
    assert_int_equal(run(&f, insn_swapgs, (struct x86_insn){0}), EXC_GP);
    fake_mode(&f, X86_MODE32, 0); /* compatibility mode */
    assert_int_equal(run(&f, insn_swapgs, (struct x86_insn){0}), EXC_UD);
    assert_int_equal(run(&f, insn_rdgsbase, rb), EXC_UD);
    fake_free(&f);
}

static void test_smap(void **state)
{
    struct fake f;
    setup(&f);
    struct cpu *c = f.c;
    cpu_write_cr4(c, CR4_SMAP);
    assert_ptr_equal(c->tlb, c->tlbs[TLB_KERNEL_SMAP]);
    run(&f, insn_stac, (struct x86_insn){0});
    assert_true(cpu_flags(c) & FLAG_AC);
    assert_ptr_equal(c->tlb, c->tlbs[TLB_KERNEL]);
    run(&f, insn_clac, (struct x86_insn){0});
    assert_ptr_equal(c->tlb, c->tlbs[TLB_KERNEL_SMAP]);
    fake_mode(&f, X86_MODE32, 3);
    assert_int_equal(run(&f, insn_stac, (struct x86_insn){0}), EXC_UD);
    assert_ptr_equal(c->tlb, c->tlbs[TLB_USER]);
    fake_free(&f);
}

static void test_random(void **state)
{
    struct fake f;
    setup(&f);
    struct cpu *c = f.c;
    u64 seen = 0;
    for (unsigned i = 0; i < 64; i++) {
        c->reg[RBX] = 0xaaaaaaaaaaaaaaaa;
        c->aflags = aflags_pack(FLAG_ZF | FLAG_OF);
        run(&f, i & 1 ? insn_rdrand : insn_rdseed, (struct x86_insn){.rm = RBX, .opsize = 2});
        assert_int_equal(cpu_flags(c) & FLAGS_ARITH, FLAG_CF);
        assert_int_equal(c->reg[RBX] >> 16, 0xaaaaaaaaaaaa);
        seen |= c->reg[RBX] & 0xffff;
    }
    assert_int_equal(seen, 0xffff);
    run(&f, insn_rdrand, (struct x86_insn){.rm = RBX, .opsize = 4});
    assert_int_equal(c->reg[RBX] >> 32, 0);
    fake_free(&f);
}

static void test_hlt_cpuid(void **state)
{
    struct fake f;
    setup(&f);
    struct cpu *c = f.c;
    c->reg[RAX] = 0xffffffff00000001;
    run(&f, insn_cpuid, (struct x86_insn){0});
    assert_int_equal(c->reg[RAX], 0x806f8);
    assert_false(c->reg[RDX] & BIT(9)); /* the APIC is off */
    f.apic_base = BIT(11);
    c->reg[RAX] = 1;
    run(&f, insn_cpuid, (struct x86_insn){0});
    assert_true(c->reg[RDX] & BIT(9));
    f.nlog = 0;
    run(&f, insn_hlt, (struct x86_insn){0});
    assert_int_equal(c->activity, CPU_HALTED);
    /* CLFLUSH is checked as a read, and reads no device. */
    c->reg[RBX] = 0xe0000000;
    struct x86_insn in = {.base = RBX, .seg = DS, .prefix = X86_PFX_MEM};
    assert_int_equal(run(&f, insn_clflush, in), NOTHING);
    assert_int_equal(f.nlog, 0);
    c->seg[DS].attr |= SEG_UNUSABLE;
    cpu_update_mode(c);
    assert_int_equal(run(&f, insn_clflush, in), EXC_GP);
    fake_free(&f);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cr0_values), cmocka_unit_test(test_long_mode),
        cmocka_unit_test(test_pdptes),     cmocka_unit_test(test_cr3),
        cmocka_unit_test(test_cr4),        cmocka_unit_test(test_xcr0),
        cmocka_unit_test(test_dr),         cmocka_unit_test(test_dr_watch),
        cmocka_unit_test(test_tsc),        cmocka_unit_test(test_privilege),
        cmocka_unit_test(test_mov_cr),     cmocka_unit_test(test_msw),
        cmocka_unit_test(test_invpcid),    cmocka_unit_test(test_user_rights),
        cmocka_unit_test(test_bases),      cmocka_unit_test(test_smap),
        cmocka_unit_test(test_random),     cmocka_unit_test(test_hlt_cpuid),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
