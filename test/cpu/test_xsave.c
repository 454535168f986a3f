/*
 * test_xsave.c - FXSAVE, XSAVE and their kin: layouts, round trips, every #GP.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "fpu_rig.h"

#define AREA 0x40000u /* guest address of the area; RSI */

/* [rsi] forms; 64-bit ones have REX.W */
#define FXSAVE     RUN(r, 0x0f, 0xae, 0x06)
#define FXSAVE64   RUN(r, 0x48, 0x0f, 0xae, 0x06)
#define FXRSTOR    RUN(r, 0x0f, 0xae, 0x0e)
#define FXRSTOR64  RUN(r, 0x48, 0x0f, 0xae, 0x0e)
#define LDMXCSR    RUN(r, 0x0f, 0xae, 0x16)
#define STMXCSR    RUN(r, 0x0f, 0xae, 0x1e)
#define XSAVE      RUN(r, 0x0f, 0xae, 0x26)
#define XSAVE64    RUN(r, 0x48, 0x0f, 0xae, 0x26)
#define XRSTOR     RUN(r, 0x0f, 0xae, 0x2e)
#define XRSTOR64   RUN(r, 0x48, 0x0f, 0xae, 0x2e)
#define XSAVEOPT64 RUN(r, 0x48, 0x0f, 0xae, 0x36)
#define XSAVEC64   RUN(r, 0x48, 0x0f, 0xc7, 0x26)
#define XSAVES64   RUN(r, 0x48, 0x0f, 0xc7, 0x2e)
#define XRSTORS64  RUN(r, 0x48, 0x0f, 0xc7, 0x1e)
#define XGETBV     RUN(r, 0x0f, 0x01, 0xd0)
#define XSETBV     RUN(r, 0x0f, 0x01, 0xd1)

struct fixture {
    struct rig rig;
    u8 *area;
};

static int setup(void **state)
{
    struct fixture *f = aligned_alloc(64, align_up(sizeof *f, 64));
    rig_init(&f->rig);
    f->area = rig_ptr(&f->rig, AREA);
    memset(f->area, 0, 8192);
    f->rig.c->reg[RSI] = AREA;
    f->rig.c->reg[RAX] = f->rig.c->reg[RDX] = ~0ull;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    rig_free(&f->rig);
    free(f);
    return 0;
}

static u64 get64(const u8 *p)
{
    return *(const u64 *)p;
}

static void put64(u8 *p, u64 v)
{
    *(u64 *)p = v;
}

static void put32(u8 *p, u32 v)
{
    *(u32 *)p = v;
}

/* Every component in use, each byte telling where it is. */
static void fill(struct rig *r, struct rig_image *im)
{
    memset(im, 0, sizeof *im);
    for (unsigned k = 1; k < 16; k++) { /* not the gaps between components */
        unsigned at = k == 1 ? 160 : rig_offset(r, k), len = k == 1 ? 256 : rig_len(r, k);
        for (unsigned n = at; n < at + len; n++)
            im->b[n] = (u8)(n * 7 + (n >> 8) + 1);
    }
    for (unsigned n = 0; n < 8; n++) {
        memset(im->b + 32 + 16 * n, 0, 16);
        put64(im->b + 32 + 16 * n, BIT(63) | n);
        im->b[32 + 16 * n + 9] = 0x3f;
    }
    *(u16 *)im->b = 0x27f;
    im->b[4] = 0xff;
    put32(im->b + 24, 0x1fa0);
    put64(im->b + 512, cpu_xcr0_valid(r->c));
    assert_int_equal(rig_set(r, im), 0);
    rig_get(r, im);
}

static void clear(struct rig *r)
{
    struct rig_image im;
    memset(&im, 0, sizeof im);
    put32(im.b + 24, 0x1f80);
    assert_int_equal(rig_set(r, &im), 0);
}

static void assert_state(struct rig *r, const struct rig_image *want)
{
    struct rig_image im;
    rig_get(r, &im);
    assert_memory_equal(im.b, want->b, 6);
    assert_memory_equal(im.b + 24, want->b + 24, 392);
    assert_memory_equal(im.b + 576, want->b + 576, cpu_fpu_size(r->c) - 576);
}

/* --- FXSAVE --- */

static void test_fxsave(void **state)
{
    struct fixture *f = *state;
    struct rig *r = &f->rig;
    struct rig_image im;
    fill(r, &im);
    memset(f->area, 0xcc, 1024);
    assert_int_equal(FXSAVE64, -1);
    assert_memory_equal(f->area, im.b, 6);
    assert_memory_equal(f->area + 24, im.b + 24, 392);
    assert_int_equal(f->area[512], 0xcc);
    clear(r);
    assert_int_equal(FXRSTOR64, -1);
    struct rig_image now;
    rig_get(r, &now);
    assert_memory_equal(now.b + 24, im.b + 24, 392);
    /* not in compatibility mode: XMM8 to XMM15 */
    rig_mode(r, X86_MODE32);
    memset(f->area, 0xcc, 1024);
    assert_int_equal(FXSAVE, -1);
    assert_int_equal(f->area[160 + 128], 0xcc);
    assert_memory_equal(f->area + 160, im.b + 160, 128);
}

static void test_fxsave_faults(void **state)
{
    struct fixture *f = *state;
    struct rig *r = &f->rig;
    struct rig_image im;
    fill(r, &im);
    r->c->reg[RSI] = AREA + 8;
    assert_int_equal(FXSAVE, EXC_GP);
    assert_int_equal(FXRSTOR, EXC_GP);
    r->c->reg[RSI] = AREA;
    assert_int_equal(FXSAVE64, -1);
    put32(f->area + 24, 0x80000000);
    assert_int_equal(FXRSTOR64, EXC_GP);
    r->c->cr0 |= CR0_TS;
    assert_int_equal(FXSAVE, EXC_NM);
    assert_int_equal(FXRSTOR, EXC_NM);
    r->c->cr0 = (r->c->cr0 & ~(u64)CR0_TS) | CR0_EM;
    assert_int_equal(FXSAVE, EXC_NM);
    r->c->cr0 &= ~(u64)CR0_EM;
    r->c->reg[RSI] = AREA + 4096 - 256;
    rig_page(r, AREA + 4096, 0);
    memset(f->area + 4096 - 256, 0xcc, 256);
    assert_int_equal(FXSAVE, EXC_PF);
    assert_int_equal(f->area[4096 - 256], 0xcc);
    assert_int_equal(FXRSTOR, EXC_PF);
    assert_state(r, &im);
}

/* The pointers are the guest's: RIP of its instruction, never a host address. */
static void test_pointers(void **state)
{
    struct fixture *f = *state;
    struct rig *r = &f->rig;
    put32(f->area + 1024, 0x3f800000);
    put32(f->area + 1028, 0);
    put64(f->area + 1032, 0x37b);
    r->c->reg[RSI] = AREA + 1024;
    RUN(r, 0xdb, 0xe3);
    assert_int_equal(RUN(r, 0xd9, 0x6e, 0x08), -1); /* fldcw: zero divide unmasked */
    assert_int_equal(RUN(r, 0xd9, 0x06), -1);       /* fld dword [rsi] */
    assert_int_equal(RUN(r, 0xd8, 0x76, 0x04), -1); /* fdiv dword [rsi+4] */
    r->c->reg[RSI] = AREA;
    assert_int_equal(FXSAVE64, -1);
    assert_int_equal(get64(f->area + 8), RIG_RIP);
    assert_int_equal(get64(f->area + 16), AREA + 1028);
    assert_int_equal(*(u16 *)(f->area + 6), 0x076);
    /* what a guest loads comes back, too */
    put64(f->area + 8, 0x123456789abc);
    put64(f->area + 16, 0xffff800012345678);
    assert_int_equal(FXRSTOR64, -1);
    assert_int_equal(RUN(r, 0x0f, 0x58, 0xc1), -1); /* loaded into the host and saved again */
    memset(f->area, 0, 512);
    assert_int_equal(FXSAVE64, -1);
    assert_int_equal(get64(f->area + 8), 0x123456789abc);
    assert_int_equal(get64(f->area + 16), 0xffff800012345678);
    assert_int_equal(FXSAVE, -1);
    assert_int_equal(*(u32 *)(f->area + 8), 0x56789abc);
    assert_int_equal(*(u32 *)(f->area + 16), 0x12345678);
}

/* --- XSAVE --- */

static bool has_xsave(struct rig *r)
{
    return cpu_has(r->c, X86_F_XSAVE);
}

static void test_standard(void **state)
{
    struct fixture *f = *state;
    struct rig *r = &f->rig;
    struct rig_image im;
    if (!has_xsave(r)) {
        print_message("# skipped: this host does not offer it\n");
        return;
    }
    fill(r, &im);
    f->area[520] = 0x5a; /* XSAVE leaves the rest of the header alone */
    put64(f->area + 512, BIT(40));
    assert_int_equal(XSAVE64, -1);
    assert_int_equal(get64(f->area + 512), BIT(40) | cpu_xcr0_valid(r->c));
    assert_int_equal(f->area[520], 0x5a);
    assert_memory_equal(f->area + 24, im.b + 24, 392);
    assert_memory_equal(f->area + 576, im.b + 576, cpu_fpu_size(r->c) - 576);
    put64(f->area + 512, cpu_xcr0_valid(r->c));
    put64(f->area + 520, 0);
    clear(r);
    assert_int_equal(XRSTOR64, -1);
    assert_state(r, &im);
    /* a component that the area says is initial; and MXCSR, which is loaded all the same */
    put64(f->area + 512, XCR0_X87);
    assert_int_equal(XRSTOR64, -1);
    struct rig_image now;
    rig_get(r, &now);
    for (unsigned n = 160; n < 416; n++)
        assert_int_equal(now.b[n], 0);
    for (unsigned n = 576; n < cpu_fpu_size(r->c); n++)
        assert_int_equal(now.b[n], 0);
    assert_int_equal(*(u32 *)(now.b + 24), 0x1fa0);
    assert_memory_equal(now.b + 32, im.b + 32, 128);
    assert_int_equal(get64(now.b + 512) & ~1ull, 0);
}

/* The requested-feature bitmap: what is not asked for stays. */
static void test_rfbm(void **state)
{
    struct fixture *f = *state;
    struct rig *r = &f->rig;
    struct rig_image im;
    if (!has_xsave(r)) {
        print_message("# skipped: this host does not offer it\n");
        return;
    }
    fill(r, &im);
    memset(f->area, 0xcc, 512);
    r->c->reg[RAX] = XCR0_SSE;
    r->c->reg[RDX] = 0;
    assert_int_equal(XSAVE64, -1);
    assert_int_equal(f->area[0], 0xcc);
    assert_int_equal(f->area[32], 0xcc);
    assert_int_equal(f->area[416], 0xcc);
    assert_memory_equal(f->area + 160, im.b + 160, 256);
    assert_int_equal(*(u32 *)(f->area + 24), 0x1fa0);
    assert_int_equal(get64(f->area + 512), XCR0_SSE);
    clear(r);
    r->c->reg[RAX] = 0;
    assert_int_equal(XRSTOR64, -1);
    struct rig_image now;
    rig_get(r, &now);
    assert_int_equal(now.b[160] | now.b[161], 0);
    assert_int_equal(*(u32 *)(now.b + 24), 0x1f80);
}

static void test_compact(void **state)
{
    struct fixture *f = *state;
    struct rig *r = &f->rig;
    struct rig_image im;
    u32 out[4];
    if (!cpu_has(r->c, X86_F_XSAVEC) || !cpu_has(r->c, X86_F_XSAVES)) {
        print_message("# skipped: this host does not offer it\n");
        return;
    }
    u64 all = cpu_xcr0_valid(r->c);
    for (unsigned n = 0; n < 2; n++) {
        fill(r, &im);
        memset(f->area, 0xcc, 8192);
        assert_int_equal(n ? XSAVES64 : XSAVEC64, -1);
        assert_int_equal(get64(f->area + 512), all);
        assert_int_equal(get64(f->area + 520), all | BIT(63));
        cpu_cpuid(r->c, 0xd, 1, out);
        assert_int_equal(f->area[out[1]], 0xcc);
        assert_int_not_equal(f->area[out[1] - 1], 0xcc);
        memset(f->area + 528, 0, 48);
        clear(r);
        assert_int_equal(n ? XRSTORS64 : XRSTOR64, -1);
        assert_state(r, &im);
    }
    /* AVX-512 without what lies between: offsets close up */
    if (all & XCR0_ZMM_HI256) {
        memset(f->area, 0, 8192);
        r->c->reg[RAX] = XCR0_HI16_ZMM;
        assert_int_equal(XSAVEC64, -1);
        assert_memory_equal(f->area + 576, im.b + rig_offset(r, 7), 1024);
        assert_int_equal(get64(f->area + 520), XCR0_HI16_ZMM | BIT(63));
    }
}

/* XSAVEOPT and XSAVEC do not write what is in its initial configuration. */
static void test_init_optimization(void **state)
{
    struct fixture *f = *state;
    struct rig *r = &f->rig;
    if (!cpu_has(r->c, X86_F_XSAVEC) || !cpu_has(r->c, X86_F_XSAVEOPT)) {
        print_message("# skipped: this host does not offer it\n");
        return;
    }
    clear(r);
    memset(f->area, 0xcc, 8192);
    put64(f->area + 512, ~0ull);
    assert_int_equal(XSAVEOPT64, -1);
    assert_int_equal(get64(f->area + 512), ~cpu_xcr0_valid(r->c));
    assert_int_equal(f->area[0], 0xcc);
    assert_int_equal(f->area[160], 0xcc);
    assert_int_equal(f->area[576], 0xcc);
    assert_int_equal(*(u32 *)(f->area + 24), 0x1f80);
    assert_int_equal(XSAVEC64, -1);
    assert_int_equal(get64(f->area + 512), 0);
    assert_int_equal(get64(f->area + 520), cpu_xcr0_valid(r->c) | BIT(63));
    assert_int_equal(XSAVE64, -1); /* this one does */
    assert_int_equal(*(u16 *)f->area, 0x37f);
    assert_int_equal(f->area[160], 0);
    r->c->reg[RCX] = 1;
    assert_int_equal(XGETBV, -1);
    assert_int_equal(r->c->reg[RAX], 0);
    /* In use once touched: pcmpeqd xmm0, xmm0 */
    assert_int_equal(RUN(r, 0x66, 0x0f, 0x76, 0xc0), -1);
    assert_int_equal(XGETBV, -1);
    assert_true(r->c->reg[RAX] & XCR0_SSE);
}

static void expect_gp(struct rig *r)
{
    assert_int_equal(XRSTOR64, EXC_GP);
}

static void test_header_faults(void **state)
{
    struct fixture *f = *state;
    struct rig *r = &f->rig;
    struct rig_image im;
    u8 *h = f->area + 512;
    if (!has_xsave(r)) {
        print_message("# skipped: this host does not offer it\n");
        return;
    }
    fill(r, &im);
    assert_int_equal(XSAVE64, -1);
    u64 all = get64(h);
    put64(h, BIT(62));
    expect_gp(r);
    put64(h, all | BIT(9));
    expect_gp(r);
    put64(h, all);
    put64(h + 8, 1); /* XCOMP_BV without its top bit */
    expect_gp(r);
    put64(h + 8, 0);
    put64(h + 16, 1);
    expect_gp(r);
    put64(h + 16, 0);
    put32(f->area + 24, 0xffff0000);
    expect_gp(r);
    r->c->reg[RAX] = XCR0_X87; /* MXCSR is not looked at */
    assert_int_equal(XRSTOR64, -1);
    r->c->reg[RAX] = ~0ull;
    put32(f->area + 24, 0x1fa0);
    if (cpu_has(r->c, X86_F_XSAVEC)) {
        put64(h + 8, BIT(63) | (all & 3)); /* XSTATE_BV beyond XCOMP_BV */
        if (all & ~3ull)
            expect_gp(r);
        put64(h + 8, BIT(63) | BIT(62) | all);
        expect_gp(r);
        put64(h + 8, BIT(63) | all);
        put64(h + 56, 1);
        expect_gp(r);
        put64(h + 56, 0);
        put64(h + 8, 0);
        assert_int_equal(XRSTORS64, EXC_GP); /* must be compacted */
        r->c->cpl = 3;
        assert_int_equal(XSAVES64, EXC_GP);
        r->c->cpl = 0;
    }
    r->c->reg[RSI] = AREA + 32;
    expect_gp(r);
    assert_int_equal(XSAVE64, EXC_GP);
    r->c->reg[RSI] = AREA;
    r->c->cr0 |= CR0_TS;
    assert_int_equal(XSAVE64, EXC_NM);
    assert_int_equal(XRSTOR64, EXC_NM);
    r->c->cr0 &= ~(u64)CR0_TS;
    r->c->cr4 &= ~(u64)CR4_OSXSAVE;
    assert_int_equal(XSAVE64, EXC_UD);
    assert_int_equal(XRSTOR64, EXC_UD);
    assert_int_equal(XGETBV, EXC_UD);
    assert_int_equal(XSETBV, EXC_UD);
    r->c->cr4 |= CR4_OSXSAVE;
    assert_state(r, &im);
}

/* A page fault in the middle of a restore has loaded nothing, of a save written nothing. */
static void test_page_faults(void **state)
{
    struct fixture *f = *state;
    struct rig *r = &f->rig;
    struct rig_image im;
    if (!has_xsave(r) || cpu_fpu_size(r->c) <= 576) {
        print_message("# skipped: this host does not offer it\n");
        return;
    }
    fill(r, &im);
    r->c->reg[RSI] = AREA + 4096 - 640;
    rig_page(r, AREA + 4096, 0);
    assert_int_equal(XSAVE64, EXC_PF);
    assert_int_equal(r->c->cr2, AREA + 4096);
    assert_int_equal(f->area[4096 - 640], 0);
    put64(f->area + 4096 - 640 + 512, cpu_xcr0_valid(r->c));
    assert_int_equal(XRSTOR64, EXC_PF);
    assert_state(r, &im);
}

/* --- 32-bit code: eight registers, the others stay --- */

static void test_mode32(void **state)
{
    struct fixture *f = *state;
    struct rig *r = &f->rig;
    struct rig_image im, now;
    if (!has_xsave(r)) {
        print_message("# skipped: this host does not offer it\n");
        return;
    }
    fill(r, &im);
    rig_mode(r, X86_MODE32);
    memset(f->area, 0xcc, 8192);
    put64(f->area + 512, 0);
    assert_int_equal(XSAVE, -1);
    assert_memory_equal(f->area + 160, im.b + 160, 128);
    assert_int_equal(f->area[160 + 128], 0xcc);
    memset(f->area + 512, 0, 64);
    assert_int_equal(XRSTOR, -1); /* everything to its initial state */
    rig_get(r, &now);
    for (unsigned n = 160; n < 160 + 128; n++)
        assert_int_equal(now.b[n], 0);
    assert_memory_equal(now.b + 160 + 128, im.b + 160 + 128, 128);
}

/* --- control --- */

static void test_mxcsr(void **state)
{
    struct fixture *f = *state;
    struct rig *r = &f->rig;
    put32(f->area, 0x1f9f);
    assert_int_equal(LDMXCSR, -1);
    put32(f->area, 0);
    assert_int_equal(STMXCSR, -1);
    assert_int_equal(*(u32 *)f->area, 0x1f9f);
    put32(f->area, 0x10000);
    assert_int_equal(LDMXCSR, EXC_GP);
    r->c->cr0 |= CR0_TS;
    assert_int_equal(LDMXCSR, EXC_NM);
    assert_int_equal(STMXCSR, EXC_NM);
    r->c->cr4 &= ~(u64)CR4_OSFXSR;
    assert_int_equal(LDMXCSR, EXC_UD);
}

static void test_xcr0(void **state)
{
    struct fixture *f = *state;
    struct rig *r = &f->rig;
    struct cpu *c = r->c;
    if (!has_xsave(r)) {
        print_message("# skipped: this host does not offer it\n");
        return;
    }
    c->reg[RCX] = 0;
    c->reg[RDX] = 0;
    c->reg[RAX] = 3;
    assert_int_equal(XSETBV, -1);
    c->reg[RAX] = 0;
    assert_int_equal(XGETBV, -1);
    assert_int_equal(c->reg[RAX], 3);
    c->reg[RAX] = 2;
    assert_int_equal(XSETBV, EXC_GP); /* without x87 */
    c->reg[RAX] = 5;
    assert_int_equal(XSETBV, EXC_GP); /* AVX without SSE */
    c->reg[RAX] = 3 | BIT(17) | BIT(18);
    assert_int_equal(XSETBV, EXC_GP); /* AMX */
    c->reg[RAX] = 3;
    c->reg[RDX] = 1;
    assert_int_equal(XSETBV, EXC_GP);
    c->reg[RDX] = 0;
    c->cpl = 3;
    assert_int_equal(XSETBV, EXC_GP);
    c->cpl = 0;
    c->reg[RCX] = 2;
    assert_int_equal(XSETBV, EXC_GP);
    assert_int_equal(XGETBV, EXC_GP);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        T(test_fxsave),
        T(test_fxsave_faults),
        T(test_pointers),
        T(test_standard),
        T(test_rfbm),
        T(test_compact),
        T(test_init_optimization),
        T(test_header_faults),
        T(test_page_faults),
        T(test_mode32),
        T(test_mxcsr),
        T(test_xcr0),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
