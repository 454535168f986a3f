/*
 * test_fpu.c - FP and SIMD instructions through stubs against the bare CPU; faults; x87
 * environment; masked accesses, gathers and scatters.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "cpu/cpu_fpu_priv.h"
#include "fpu_insns.h"
#include "fpu_native.h"
#include "fpu_rig.h"

#define BUF_LEN 8192u
#define BUF     0x40000u /* guest address */

static void assert_same(const char *text, const char *what, const u8 *a, const u8 *b, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        if (a[k] != b[k])
            fail_msg("%s: %s differ at %u: %02x, bare CPU %02x", text, what, k, a[k], b[k]);
}

static void compare(struct rig *r, const char *text, struct native *s, const u8 *host, u64 reg_rsi)
{
    struct rig_image im;
    rig_get(r, &im);
    assert_same(text, "x87", im.b, s->image.b, 6);
    assert_same(text, "MXCSR", im.b + 24, s->image.b + 24, 4);
    assert_same(text, "ST", im.b + 32, s->image.b + 32, 128);
    assert_same(text, "XMM", im.b + 160, s->image.b + 160, 256);
    assert_same(text, "upper", im.b + 576, s->image.b + 576, cpu_fpu_size(r->c) - 576);
    assert_same(text, "memory", rig_ptr(r, BUF), host, BUF_LEN);
    r->c->reg[RSI] = s->reg[RSI] = reg_rsi;
    r->c->reg[RDI] = s->reg[RDI] = reg_rsi;
    assert_same(text, "GPRs", (u8 *)r->c->reg, (u8 *)s->reg, 15 * 8);
    u32 fl = s->flags & FLAGS_ARITH;
    if ((cpu_flags(r->c) & FLAGS_ARITH) != fl)
        fail_msg("%s: flags %x, bare CPU %x", text, cpu_flags(r->c) & FLAGS_ARITH, fl);
}

static void one_case(struct rig *r, const char *text, const u8 *code, unsigned len, u8 *host,
                     unsigned offset)
{
    struct native s;
    struct cpu *c = r->c;
    rnd_image(r, &s.image);
    assert_int_equal(rig_set(r, &s.image), 0);
    rnd_fill(rig_ptr(r, BUF), BUF_LEN);
    memcpy(host, rig_ptr(r, BUF), BUF_LEN);
    for (unsigned n = 0; n < 15; n++)
        s.reg[n] = c->reg[n] = rnd();
    s.reg[RCX] = c->reg[RCX] = rnd() & 15;
    s.reg[RSP] = c->reg[RSP];
    s.reg[RSI] = s.reg[RDI] = (u64)host + offset;
    c->reg[RSI] = c->reg[RDI] = BUF + offset;
    s.flags = 0x202 | (rnd() & FLAGS_ARITH);
    c->aflags = aflags_pack((u32)s.flags);
    int want = try_native(&s, code, len, cpu_xcr0_valid(c));
    int vec = rig_run(r, code, len);
    if (vec != want)
        fail_msg("%s: vector %d, bare CPU %d", text, vec, want);
    if (vec == -1)
        compare(r, text, &s, host, c->reg[RSI]);
}

static void test_bare(void **state)
{
    struct rig r;
    unsigned missing = 0, done = 0;
    rig_init(&r);
    u8 *host = mmap(NULL, BUF_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    native_init();
    assert_true(host != MAP_FAILED);
    for (const u8 *p = __start_test_insns; p < __stop_test_insns;) {
        const u8 *code = p + 1;
        const char *text = (const char *)code + *p;
        struct x86_decoded d;
        enum x86_status st = x86_decode(code, *p, X86_MODE64, &d);
        if (st != X86_OK)
            fail_msg("%s: not decoded (%d)", text, st);
        u64 handle = cpu_fpu_bind(r.c, &d);
        if (!handle && cpu_has(r.c, x86_row(&d.i)->feature))
            fail_msg("%s: not bound", text);
        bool aligned = x86_row(&d.i)->attr & X86_ALIGNED;
        for (unsigned n = 0; handle && n < 6; n++)
            one_case(&r, text, code, *p, host,
                     aligned || n < 3 ? 4096 - 512 + 64 * n : 4096 - (n == 3 ? 1 : 3 * n));
        missing += !handle;
        done += handle != 0;
        p = (const u8 *)text + strlen(text) + 1;
    }
    print_message("# %u instructions compared, %u not on this host\n", done, missing);
    assert_true(done > 100);
    rig_free(&r);
}

/* --- random encodings --- */

/* Bytes that may be an FP or SIMD instruction, its memory operand based on RSI. */
static unsigned rnd_code(u8 *p)
{
    static const u8 prefixes[] = {0, 0x66, 0xf3, 0xf2};
    static const u8 evex_maps[] = {1, 2, 3, 5, 6};
    u64 v = rnd();
    unsigned n = 0, kind = v & 7, map = 1 + (v >> 3) % 3;
    memset(p, 0, 16);
    if (kind < 3) { /* EVEX */
        p[n++] = 0x62;
        p[n++] = (v >> 8 & 0xf0) | evex_maps[(v >> 16) % 5];
        p[n++] = (v >> 24 & 0xfb) | 4;
        p[n++] = (u8)(v >> 32);
    } else if (kind < 5) { /* VEX */
        p[n++] = 0xc4;
        p[n++] = (v >> 8 & 0xe0) | map;
        p[n++] = (u8)(v >> 16);
    } else {
        if (prefixes[v >> 8 & 3])
            p[n++] = prefixes[v >> 8 & 3];
        if (v & 0x400)
            p[n++] = 0x40 | (v >> 16 & 15);
        if (kind < 7) {
            p[n++] = 0x0f;
            if (map > 1)
                p[n++] = map == 2 ? 0x38 : 0x3a;
        }
    }
    p[n++] = kind == 7 ? 0xd8 | (v >> 40 & 7) : (u8)(v >> 40);
    p[n++] = (v >> 48 & 0x38) | (v >> 63 ? 0xc0 | (v >> 56 & 7) : v >> 62 & 1 ? 0x46 : 0x06);
    p[n] = (u8)rnd() & 31; /* displacement or immediate */
    p[n + 1] = (u8)rnd();
    return n + 2;
}

/* The bare CPU's runner keeps R15 and RSP for itself; RSI and RDI are addresses and differ. */
static bool uses_reserved_gpr(const struct x86_decoded *d)
{
    const struct x86_row *row = x86_row(&d->i);
    for (unsigned k = 0; k < X86_OPERANDS_MAX; k++) {
        unsigned n = row->operand[k] == X86_O_G                                 ? d->i.reg
                     : row->operand[k] == X86_O_B                               ? d->vvvv
                     : row->operand[k] == X86_O_E || row->operand[k] == X86_O_R ? d->i.rm
                                                                                : 0;
        if (n == RSP || n == R15 || n == RSI || n == RDI)
            return true;
    }
    return false;
}

static bool comparable(struct rig *r, const struct x86_decoded *d)
{
    if (!(x86_row(&d->i)->attr & X86_HOST) || !cpu_has(r->c, x86_row(&d->i)->feature))
        return false;
    if (d->vsib || d->op == X86_FNSTENV || d->op == X86_FLDENV || d->op == X86_FNSAVE ||
        d->op == X86_FRSTOR)
        return false;
    if (d->i.prefix & X86_PFX_MEM && d->i.base != RSI)
        return false;
    return !uses_reserved_gpr(d);
}

static void test_random(void **state)
{
    struct rig r;
    u8 code[16];
    char text[64];
    rig_init(&r);
    u8 *host = mmap(NULL, BUF_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    native_init();
    assert_true(host != MAP_FAILED);
    const char *more = getenv("POPF_TEST_ROUNDS");
    unsigned rounds = more ? (unsigned)atoi(more) : 40000, done = 0;
    for (unsigned n = 0; n < rounds; n++) {
        struct x86_decoded d;
        rnd_code(code);
        if (x86_decode(code, 15, X86_MODE64, &d) != X86_OK || !comparable(&r, &d))
            continue;
        int at = snprintf(text, sizeof text, "%s:", x86_op_name(d.op));
        for (unsigned k = 0; k < d.i.len; k++)
            at += snprintf(text + at, sizeof text - at, " %02x", code[k]);
        unsigned offset = rnd() & 1 ? 2048 : rnd() & 1 ? 4096 - 8 : 2048 + (rnd() & 63);
        one_case(&r, text, code, d.i.len, host, offset);
        done++;
    }
    print_message("# %u random encodings compared\n", done);
    assert_true(more || done > 1000);
    munmap(host, BUF_LEN);
    rig_free(&r);
}

/* --- faults --- */

static void put_xmm(struct rig *r, unsigned n, u32 a, u32 b, u32 c, u32 d)
{
    struct rig_image im;
    rig_get(r, &im);
    memcpy(im.b + 160 + 16 * n, (u32[]){a, b, c, d}, 16);
    *(u64 *)(im.b + 512) |= 2;
    assert_int_equal(rig_set(r, &im), 0);
}

static void put_mxcsr(struct rig *r, u32 v)
{
    struct rig_image im;
    rig_get(r, &im);
    memcpy(im.b + 24, &v, 4);
    assert_int_equal(rig_set(r, &im), 0);
}

static u32 get_mxcsr(struct rig *r)
{
    struct rig_image im;
    rig_get(r, &im);
    return *(u32 *)(im.b + 24);
}

static void test_xm(void **state)
{
    struct rig r;
    struct rig_image before, after;
    rig_init(&r);
    put_xmm(&r, 0, 0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000);
    put_xmm(&r, 1, 0, 0, 0, 0);
    put_mxcsr(&r, 0x1f80 & ~0x200u); /* divide by zero unmasked */
    rig_get(&r, &before);
    assert_int_equal(RUN(&r, 0x0f, 0x5e, 0xc1), EXC_XM); /* divps xmm0, xmm1 */
    assert_int_equal(get_mxcsr(&r) & 0x3f, 4);
    rig_get(&r, &after);
    assert_memory_equal(before.b + 160, after.b + 160, 256);
    r.c->cr4 &= ~(u64)CR4_OSXMMEXCPT;
    assert_int_equal(RUN(&r, 0x0f, 0x5e, 0xc1), EXC_UD);
    put_mxcsr(&r, 0x1f80);
    assert_int_equal(RUN(&r, 0x0f, 0x5e, 0xc1), -1);
    rig_get(&r, &after);
    assert_int_equal(*(u32 *)(after.b + 160), 0x7f800000);
    rig_free(&r);
}

static void test_mf(void **state)
{
    struct rig r;
    rig_init(&r);
    *(u16 *)rig_ptr(&r, BUF) = 0x37b; /* zero divide unmasked */
    r.c->reg[RSI] = BUF;
    assert_int_equal(RUN(&r, 0xdb, 0xe3), -1);       /* fninit */
    assert_int_equal(RUN(&r, 0xd9, 0x2e), -1);       /* fldcw [rsi] */
    assert_int_equal(RUN(&r, 0xd9, 0xe8), -1);       /* fld1 */
    assert_int_equal(RUN(&r, 0xd9, 0xee), -1);       /* fldz */
    assert_int_equal(RUN(&r, 0xde, 0xf9), -1);       /* fdivp: now pending */
    assert_int_equal(RUN(&r, 0xd9, 0xe8), EXC_MF);   /* fld1 */
    assert_int_equal(RUN(&r, 0x9b), EXC_MF);         /* wait */
    assert_int_equal(RUN(&r, 0x0f, 0x77), EXC_MF);   /* emms */
    assert_int_equal(RUN(&r, 0xd9, 0x2e), EXC_MF);   /* fldcw */
    assert_int_equal(RUN(&r, 0x0f, 0x58, 0xc1), -1); /* addps does not care */
    assert_int_equal(RUN(&r, 0xdf, 0xe0), -1);       /* fnstsw ax */
    assert_int_equal(r.c->reg[RAX] & 0x80ff, 0x8084);
    assert_int_equal(RUN(&r, 0xdb, 0xe2), -1); /* fnclex */
    assert_int_equal(RUN(&r, 0x9b), -1);
    assert_int_equal(RUN(&r, 0xd9, 0xe8), -1);
    /* pending again, and cleared by FNINIT */
    assert_int_equal(RUN(&r, 0xd9, 0xee), -1);
    assert_int_equal(RUN(&r, 0xde, 0xf9), -1);
    assert_int_equal(RUN(&r, 0x9b), EXC_MF);
    assert_int_equal(RUN(&r, 0xdb, 0xe3), -1);
    assert_int_equal(RUN(&r, 0x9b), -1);
    rig_free(&r);
}

/* An unmasked invalid operation keeps FISTP from storing, across a page edge as well. */
static void test_store_suppressed(void **state)
{
    struct rig r;
    rig_init(&r);
    *(u16 *)rig_ptr(&r, BUF) = 0x37e;
    for (unsigned n = 0; n < 2; n++) {
        gva_t at = BUF + (n ? 4094 : 128);
        static const u8 old[4] = {0x55, 0xaa, 0x5a, 0xa5};
        memcpy(rig_ptr(&r, at), old, 4);
        r.c->reg[RSI] = BUF;
        RUN(&r, 0xdb, 0xe3);
        RUN(&r, 0xd9, 0x2e);
        RUN(&r, 0xd9, 0xeb);                             /* fldpi */
        RUN(&r, 0xd9, 0xc0);                             /* fld st(0) */
        *(u32 *)rig_ptr(&r, BUF + 4) = 0x7f000000;       /* 1.7e38 */
        assert_int_equal(RUN(&r, 0xd8, 0x4e, 0x04), -1); /* fmul dword [rsi+4] */
        r.c->reg[RSI] = at;
        assert_int_equal(RUN(&r, 0xdb, 0x1e), -1); /* fistp dword [rsi] */
        assert_memory_equal(rig_ptr(&r, at), old, 4);
        assert_int_equal(RUN(&r, 0x9b), EXC_MF);
    }
    rig_free(&r);
}

static void test_enabled(void **state)
{
    struct rig r;
    rig_init(&r);
    struct cpu *c = r.c;
    bool avx = cpu_xcr0_valid(c) & XCR0_AVX, avx512 = cpu_xcr0_valid(c) & XCR0_ZMM_HI256;
#define FLD1   RUN(&r, 0xd9, 0xe8)
#define EMMS   RUN(&r, 0x0f, 0x77)
#define ADDPS  RUN(&r, 0x0f, 0x58, 0xc1)
#define VADDPS RUN(&r, 0xc5, 0xf4, 0x58, 0xc1)
#define VPADDD RUN(&r, 0x62, 0xf1, 0x75, 0x48, 0xfe, 0xc1)
#define WAIT   RUN(&r, 0x9b)
    c->cr0 |= CR0_TS;
    assert_int_equal(FLD1, EXC_NM);
    assert_int_equal(EMMS, EXC_NM);
    assert_int_equal(ADDPS, EXC_NM);
    assert_int_equal(WAIT, EXC_NM);
    assert_int_equal(VADDPS, avx ? EXC_NM : RIG_MISSING);
    c->cr0 &= ~(u64)CR0_MP;
    assert_int_equal(WAIT, -1);
    c->cr0 = (c->cr0 & ~(u64)CR0_TS) | CR0_EM;
    assert_int_equal(FLD1, EXC_NM);
    assert_int_equal(EMMS, EXC_UD);
    assert_int_equal(ADDPS, EXC_UD);
    assert_int_equal(VADDPS, avx ? -1 : RIG_MISSING);
    c->cr0 &= ~(u64)CR0_EM;
    c->cr4 &= ~(u64)CR4_OSFXSR;
    assert_int_equal(ADDPS, EXC_UD);
    assert_int_equal(EMMS, -1);
    assert_int_equal(FLD1, -1);
    c->cr4 |= CR4_OSFXSR;
    if (avx) {
        c->xcr0 = 3;
        assert_int_equal(VADDPS, EXC_UD);
        c->xcr0 = 7;
        assert_int_equal(VADDPS, -1);
        assert_int_equal(VPADDD, avx512 ? EXC_UD : RIG_MISSING);
        c->xcr0 = cpu_xcr0_valid(c);
        assert_int_equal(VPADDD, avx512 ? -1 : RIG_MISSING);
        c->cr4 &= ~(u64)CR4_OSXSAVE;
        assert_int_equal(VADDPS, EXC_UD);
        rig_real_mode(&r);
        assert_int_equal(VADDPS, EXC_UD);
    }
    rig_free(&r);
}

/* Alignment and page faults leave everything as it was. */
static void test_memory_faults(void **state)
{
    struct rig r;
    struct rig_image before, after;
    rig_init(&r);
    rnd_image(&r, &before);
    assert_int_equal(rig_set(&r, &before), 0);
    rig_get(&r, &before);
    r.c->reg[RSI] = BUF + 8;
    assert_int_equal(RUN(&r, 0x0f, 0x58, 0x06), EXC_GP); /* addps xmm0, [rsi] */
    assert_int_equal(RUN(&r, 0x0f, 0x28, 0x06), EXC_GP); /* movaps */
    rig_page(&r, BUF + 4096, 0);
    r.c->reg[RSI] = BUF + 4096 - 8;
    assert_int_equal(RUN(&r, 0x0f, 0x10, 0x06), EXC_PF); /* movups xmm0, [rsi] */
    assert_int_equal(r.c->cr2, BUF + 4096);
    assert_int_equal(RUN(&r, 0x0f, 0x11, 0x06), EXC_PF); /* movups [rsi], xmm0 */
    r.c->reg[RSI] = BUF + 4096 - 2;
    assert_int_equal(RUN(&r, 0xd9, 0x1e), EXC_PF); /* fstp dword [rsi]: not popped */
    assert_int_equal(RUN(&r, 0xdd, 0x36), EXC_PF); /* fnsave: not initialized */
    rig_page(&r, BUF + 4096, PTE_P | PTE_U);       /* read-only, and CR0.WP */
    assert_int_equal(RUN(&r, 0xd9, 0x1e), EXC_PF);
    rig_get(&r, &after);
#ifndef __SANITIZE_ADDRESS__ /* whose run-time clears shadow memory with them at every throw */
    assert_memory_equal(before.b, after.b, cpu_fpu_size(r.c));
#endif
    rig_free(&r);
}

static void test_mmio(void **state)
{
    struct rig r;
    struct rig_image im;
    rig_init(&r);
    for (unsigned n = 0; n < 16; n++)
        r.mmio[n] = (u8)(n + 1);
    r.c->reg[RSI] = RIG_MMIO;
    rig_page(&r, RIG_MMIO, PTE_P | PTE_W);
    assert_int_equal(RUN(&r, 0x0f, 0x28, 0x1e), -1); /* movaps xmm3, [rsi] */
    rig_get(&r, &im);
    assert_memory_equal(im.b + 160 + 48, r.mmio, 16);
    r.c->reg[RSI] = RIG_MMIO + 64;
    assert_int_equal(RUN(&r, 0x0f, 0x11, 0x1e), -1); /* movups [rsi], xmm3 */
    assert_memory_equal(r.mmio, r.mmio + 64, 16);
    assert_true(r.mmio_reads && r.mmio_writes);
    rig_free(&r);
}

/* --- the x87 environment --- */

static void fp_op(struct rig *r)
{
    r->c->reg[RSI] = BUF + 0x100;
    *(u32 *)rig_ptr(r, BUF + 0x100) = 0;
    RUN(r, 0xdb, 0xe3);
    RUN(r, 0xd9, 0xe8);
    RUN(r, 0xd8, 0x36); /* fdiv dword [rsi]: masked zero divide */
}

static void test_env(void **state)
{
    struct rig r;
    rig_init(&r);
    fp_op(&r);
    u8 *p = rig_ptr(&r, BUF);
    memset(p, 0xcc, 256);
    r.c->reg[RDI] = BUF;
    assert_int_equal(RUN(&r, 0xd9, 0x37), -1); /* fnstenv [rdi] */
    assert_int_equal(*(u32 *)(p + 12), RIG_RIP);
    assert_int_equal(*(u16 *)p, 0x37f);
    assert_int_equal(*(u16 *)(p + 4), 0x3804);
    assert_int_equal(p[28], 0xcc);
    rig_mode(&r, X86_MODE32);
    memset(p, 0xcc, 256);
    assert_int_equal(RUN(&r, 0x66, 0xd9, 0x37), -1); /* 16-bit protected */
    assert_int_equal(*(u16 *)(p + 2), 0x3804);
    assert_int_equal(*(u16 *)(p + 4), 0xbfff); /* ST(0), which is register 7, holds infinity */
    assert_int_equal(*(u16 *)(p + 6), RIG_RIP);
    assert_int_equal(p[14], 0xcc);
    rig_free(&r);
}

static void test_env_real(void **state)
{
    struct rig r;
    rig_init(&r);
    rig_real_mode(&r);
    u8 *p = rig_ptr(&r, 0x10800);
    r.c->reg[RSI] = 0x700;
    *(u32 *)rig_ptr(&r, 0x10700) = 0;
    *(u16 *)rig_ptr(&r, 0x10710) = 0x37b; /* unmasked: FDP and FOP count on every processor */
    r.c->reg[RBX] = 0x710;
    r.c->reg[RDI] = 0x800;
    RUN(&r, 0xdb, 0xe3);
    r.c->reg[RBX] = 0x710;
    assert_int_equal(RUN(&r, 0xd9, 0x2f), -1);
    assert_int_equal(RUN(&r, 0xd9, 0xe8), -1);
    assert_int_equal(RUN(&r, 0xd8, 0x34), -1); /* fdiv dword [si] */
    memset(p, 0xcc, 256);
    assert_int_equal(RUN(&r, 0xd9, 0x35), -1); /* fnstenv [di] */
    u32 ip = 0x10000 + RIG_RIP;
    assert_int_equal(*(u16 *)(p + 6), (u16)ip);
    assert_int_equal(*(u16 *)(p + 8), ip >> 16 << 12 | 0x034);
    assert_int_equal(*(u16 *)(p + 10), 0x0700);
    assert_int_equal(*(u16 *)(p + 12), 1 << 12);
    assert_int_equal(p[14], 0xcc);
    memset(p, 0xcc, 256);
    assert_int_equal(RUN(&r, 0x66, 0xd9, 0x35), -1);
    assert_int_equal(*(u32 *)(p + 12), 0xffff0000u | (u16)ip);
    assert_int_equal(*(u32 *)(p + 16), ip >> 16 << 12 | 0x034);
    assert_int_equal(*(u32 *)(p + 20), 0xffff0700u);
    assert_int_equal(*(u32 *)(p + 24), 1 << 12);
    /* and back */
    RUN(&r, 0xdb, 0xe3);
    assert_int_equal(RUN(&r, 0x66, 0xd9, 0x25), -1); /* fldenv [di] */
    u8 copy[28];
    memcpy(copy, p, 28);
    memset(p, 0, 28);
    assert_int_equal(RUN(&r, 0x66, 0xd9, 0x35), -1);
    assert_memory_equal(copy, p, 28);
    rig_free(&r);
}

static void test_save_restore(void **state)
{
    struct rig r;
    struct rig_image a, b;
    for (unsigned small = 0; small < 2; small++) {
        rig_init(&r);
        rnd_image(&r, &a);
        assert_int_equal(rig_set(&r, &a), 0);
        if (small)
            rig_mode(&r, X86_MODE32);
        r.c->reg[RSI] = BUF + 4090; /* across a page */
        u8 *p = rig_ptr(&r, BUF);
        memset(p, 0xcc, BUF_LEN);
        assert_int_equal(small ? RUN(&r, 0x66, 0xdd, 0x36) : RUN(&r, 0xdd, 0x36), -1);
        assert_int_equal(p[4089], 0xcc);
        assert_int_equal(p[4090 + (small ? 94 : 108)], 0xcc);
        rig_get(&r, &b);
        assert_int_equal(b.b[4], 0); /* empty */
        assert_int_equal(small ? RUN(&r, 0x66, 0xdd, 0x26) : RUN(&r, 0xdd, 0x26), -1);
        rig_get(&r, &b);
        assert_memory_equal(a.b, b.b, 6);
        assert_memory_equal(a.b + 32, b.b + 32, 128);
        rig_free(&r);
    }
}

/* --- masked operands --- */

static bool has_avx(struct rig *r)
{
    return cpu_has(r->c, X86_F_AVX2);
}

static bool has_avx512(struct rig *r)
{
    return cpu_has(r->c, X86_F_AVX512BW) && cpu_has(r->c, X86_F_AVX512VL);
}

static void put_k(struct rig *r, unsigned n, u64 v)
{
    struct rig_image im;
    rig_get(r, &im);
    *(u64 *)(im.b + rig_offset(r, 5) + 8 * n) = v;
    *(u64 *)(im.b + 512) |= XCR0_OPMASK;
    assert_int_equal(rig_set(r, &im), 0);
}

static void test_masked_avx(void **state)
{
    struct rig r;
    struct rig_image im;
    rig_init(&r);
    if (!has_avx(&r)) {
        rig_free(&r);
        {
            print_message("# skipped: this host does not offer it\n");
            return;
        }
    }
    u8 *p = rig_ptr(&r, BUF);
    rnd_fill(p, BUF_LEN);
    rig_page(&r, BUF + 4096, 0);
    r.c->reg[RSI] = BUF + 4096 - 8;
    put_xmm(&r, 1, ~0u, ~0u, 0, 0); /* the first two elements are in the mapped page */
    assert_int_equal(RUN(&r, 0xc4, 0xe2, 0x71, 0x2c, 0x16), -1); /* vmaskmovps xmm2,xmm1,[rsi] */
    rig_get(&r, &im);
    assert_memory_equal(im.b + 160 + 32, p + 4096 - 8, 8);
    assert_int_equal(*(u64 *)(im.b + 160 + 40), 0);
    assert_int_equal(RUN(&r, 0xc4, 0xe2, 0x71, 0x2e, 0x16), -1); /* vmaskmovps [rsi],xmm1,xmm2 */
    put_xmm(&r, 1, ~0u, 0, ~0u, 0);
    assert_int_equal(RUN(&r, 0xc4, 0xe2, 0x71, 0x2c, 0x16), EXC_PF);
    assert_int_equal(r.c->cr2 & ~PAGE_MASK, BUF + 4096);
    put_xmm(&r, 3, 1, 2, 3, 4);
    assert_int_equal(RUN(&r, 0xc4, 0xe2, 0x71, 0x2e, 0x1e), EXC_PF);
    assert_memory_equal(im.b + 160 + 32, p + 4096 - 8, 8); /* nothing was written */
    /* all in the missing page, nothing asked for */
    put_xmm(&r, 1, 0, 0, 0, 0);
    r.c->reg[RSI] = BUF + 4096 + 64;
    assert_int_equal(RUN(&r, 0xc4, 0xe2, 0x71, 0x2c, 0x16), -1);
    assert_int_equal(RUN(&r, 0xc4, 0xe2, 0x71, 0x2e, 0x16), -1);
    rig_free(&r);
}

static void test_masked_avx512(void **state)
{
    struct rig r;
    rig_init(&r);
    if (!has_avx512(&r)) {
        rig_free(&r);
        {
            print_message("# skipped: this host does not offer it\n");
            return;
        }
    }
    u8 *p = rig_ptr(&r, BUF);
    rnd_fill(p, BUF_LEN);
    rig_page(&r, BUF, 0);
    r.c->reg[RSI] = BUF + 4096 - 10;
    put_k(&r, 1, 0x0c00); /* bytes 10 and 11: in the second page */
    /* vmovdqu8 zmm2{k1}{z}, [rsi] */
    assert_int_equal(RUN(&r, 0x62, 0xf1, 0x7f, 0xc9, 0x6f, 0x16), -1);
    struct rig_image im;
    rig_get(&r, &im);
    assert_int_equal(*(u16 *)(im.b + 160 + 32 + 10), *(u16 *)(p + 4096));
    assert_int_equal(*(u64 *)(im.b + 160 + 32), 0);
    p[4096] = p[4097] = 0;
    /* vmovdqu8 [rsi]{k1}, zmm2 */
    assert_int_equal(RUN(&r, 0x62, 0xf1, 0x7f, 0x49, 0x7f, 0x16), -1);
    assert_int_equal(*(u16 *)(p + 4096), *(u16 *)(im.b + 160 + 32 + 10));
    put_k(&r, 1, 0x0e00); /* byte 9 as well */
    assert_int_equal(RUN(&r, 0x62, 0xf1, 0x7f, 0xc9, 0x6f, 0x16), EXC_PF);
    assert_int_equal(r.c->cr2 & ~PAGE_MASK, BUF);
    assert_int_equal(RUN(&r, 0x62, 0xf1, 0x7f, 0x49, 0x7f, 0x16), EXC_PF);
    /* vpermw zmm2{k1}, zmm1, [rsi] uses every element: no suppression */
    put_k(&r, 1, 0x0c00);
    assert_int_equal(RUN(&r, 0x62, 0xf2, 0xf5, 0x49, 0x8d, 0x16), EXC_PF);
    rig_free(&r);
}

static void test_maskmovdqu(void **state)
{
    struct rig r;
    rig_init(&r);
    u8 *p = rig_ptr(&r, BUF);
    memset(p, 0xcc, BUF_LEN);
    put_xmm(&r, 1, 0x04030201, 0x08070605, 0x0c0b0a09, 0x100f0e0d);
    put_xmm(&r, 2, 0x80008000, 0, 0, 0x80000000); /* bytes 1, 3, 15 */
    r.c->reg[RDI] = BUF + 4096 - 8;
    assert_int_equal(RUN(&r, 0x66, 0x0f, 0xf7, 0xca), -1); /* maskmovdqu xmm1, xmm2 */
    p += 4096 - 8;
    for (unsigned n = 0; n < 16; n++)
        assert_int_equal(p[n], n == 1 || n == 3 || n == 15 ? n + 1 : 0xcc);
    memset(p, 0xcc, 16);
    rig_page(&r, BUF + 4096, 0);
    assert_int_equal(RUN(&r, 0x66, 0x0f, 0xf7, 0xca), EXC_PF);
    assert_int_equal(p[1], 0xcc);
    put_xmm(&r, 2, 0x80008000, 0, 0, 0);
    assert_int_equal(RUN(&r, 0x66, 0x0f, 0xf7, 0xca), -1);
    assert_int_equal(p[1], 2);
    rig_free(&r);
}

/* A gather that faults in the middle has done what came before, and goes on afterwards. */
static void test_gather_fault(void **state)
{
    struct rig r;
    struct rig_image im;
    rig_init(&r);
    if (!has_avx(&r)) {
        rig_free(&r);
        {
            print_message("# skipped: this host does not offer it\n");
            return;
        }
    }
    u8 *p = rig_ptr(&r, BUF);
    rnd_fill(p, BUF_LEN);
    put_xmm(&r, 15, 0, 4, 4096, 8);      /* indices */
    put_xmm(&r, 14, ~0u, ~0u, ~0u, ~0u); /* mask */
    put_xmm(&r, 13, 1, 2, 3, 4);
    r.c->reg[RSI] = BUF;
    rig_page(&r, BUF + 4096, 0);
    /* vpgatherdd xmm13, [rsi + xmm15], xmm14 */
    assert_int_equal(RUN(&r, 0xc4, 0x22, 0x09, 0x90, 0x2c, 0x3e), EXC_PF);
    assert_int_equal(r.c->cr2, BUF + 4096);
    rig_get(&r, &im);
    const u32 *dst = (u32 *)(im.b + 160 + 16 * 13), *mask = (u32 *)(im.b + 160 + 16 * 14);
    assert_memory_equal(dst, p, 8);
    assert_int_equal(dst[2], 3);
    assert_int_equal(mask[0] | mask[1], 0);
    assert_int_equal(mask[2] & mask[3], ~0u);
    rig_page(&r, BUF + 4096, PTE_P);
    assert_int_equal(RUN(&r, 0xc4, 0x22, 0x09, 0x90, 0x2c, 0x3e), -1);
    rig_get(&r, &im);
    assert_int_equal(dst[2], *(u32 *)(p + 4096));
    assert_int_equal(dst[3], *(u32 *)(p + 8));
    assert_int_equal(mask[0] | mask[1] | mask[2] | mask[3], 0);
    rig_free(&r);
}

/* --- other modes, housekeeping --- */

static void test_mode32(void **state)
{
    struct rig r;
    struct rig_image im;
    rig_init(&r);
    rig_mode(&r, X86_MODE32);
    r.c->reg[RAX] = 0x12345678;
    assert_int_equal(RUN(&r, 0x66, 0x0f, 0x6e, 0xd0), -1); /* movd xmm2, eax */
    rig_get(&r, &im);
    assert_int_equal(*(u64 *)(im.b + 160 + 32), 0x12345678);
    if (has_avx(&r)) {
        r.c->reg[RAX] = 0xdeadbeef12345678; /* the upper half must not be seen */
        /* vmovd xmm2, eax with W set: ignored outside 64-bit code */
        assert_int_equal(RUN(&r, 0xc4, 0xe1, 0xf9, 0x6e, 0xd0), -1);
        rig_get(&r, &im);
        assert_int_equal(*(u64 *)(im.b + 160 + 32), 0x12345678);
    }
    rig_mode(&r, X86_MODE16);
    r.c->reg[RBX] = 0x100;
    r.c->reg[RSI] = 0x10000 - 0x80;
    *(u32 *)rig_ptr(&r, 0x80) = 0x3f800000;
    assert_int_equal(RUN(&r, 0xdb, 0xe3), -1); /* fninit */
    assert_int_equal(RUN(&r, 0xd9, 0x00), -1); /* fld dword [bx+si], wraps at 64 KiB */
    r.c->reg[RBX] = 0x200;
    assert_int_equal(RUN(&r, 0xdd, 0x1f), -1); /* fstp qword [bx] */
    assert_int_equal(*(u64 *)rig_ptr(&r, 0x200), 0x3ff0000000000000);
    rig_free(&r);
}

/* Equal encodings share a stub; a full store starts anew and old handles are refused. */
static void test_stubs(void **state)
{
    struct rig r;
    rig_init(&r);
    struct x86_decoded d, e;
    assert_int_equal(x86_decode((u8[]){0x0f, 0x58, 0x06}, 3, X86_MODE64, &d), X86_OK);
    assert_int_equal(x86_decode((u8[]){0x64, 0x0f, 0x58, 0x47, 0x10}, 5, X86_MODE64, &e), X86_OK);
    u64 first = cpu_fpu_bind(r.c, &d);
    assert_true(first);
    assert_int_equal(first, cpu_fpu_bind(r.c, &e)); /* addps xmm0, fs:[rdi+16] */
    u32 gen = cpu_fpu_generation(r.c);
    for (unsigned n = 0; n < 65536 && gen == cpu_fpu_generation(r.c); n++) {
        u8 code[] = {0x66, 0x0f, 0x70, 0xc0 | (n >> 8 & 63), (u8)n};
        u8 code2[] = {0xf2, 0x0f, 0x70, 0xc0 | (n >> 8 & 63), (u8)n};
        assert_int_equal(x86_decode(n & 0x4000 ? code2 : code, 5, X86_MODE64, &e), X86_OK);
        assert_true(cpu_fpu_bind(r.c, &e));
    }
    assert_int_not_equal(gen, cpu_fpu_generation(r.c));
    d.i.imm = first;
    r.c->reg[RSI] = BUF;
    assert_int_equal(rig_call(&r, cpu_fpu_exec, &d), -3); /* unwound: decode again */
    d.i.imm = cpu_fpu_bind(r.c, &d);
    assert_int_equal(rig_call(&r, cpu_fpu_exec, &d), -1);
    rig_free(&r);
}

/* After cpu_leave() the host's own FP environment is as the C ABI wants it. */
static void test_leave(void **state)
{
    struct rig r;
    u16 cw, sw;
    u32 mxcsr;
    rig_init(&r);
    r.c->reg[RSI] = BUF;
    *(u32 *)rig_ptr(&r, BUF) = 0xdf80;
    assert_int_equal(RUN(&r, 0x0f, 0xae, 0x16), -1); /* ldmxcsr: flush to zero */
    assert_int_equal(RUN(&r, 0xdb, 0xe3), -1);
    assert_int_equal(RUN(&r, 0xd9, 0xe8), -1);
    *(u16 *)rig_ptr(&r, BUF) = 0xf7f;
    assert_int_equal(RUN(&r, 0xd9, 0x2e), -1);
    __asm__ volatile("fnstcw %0; fnstsw %1; stmxcsr %2" : "=m"(cw), "=m"(sw), "=m"(mxcsr));
    assert_int_equal(cw, 0x37f);
    assert_int_equal(sw, 0);
    assert_int_equal(mxcsr & ~0x3fu, 0x1f80);
    assert_int_equal(get_mxcsr(&r), 0xdf80);
    rig_free(&r);
}

/* A host without XSAVE keeps the state by FXSAVE. */
static void test_fxsave_host(void **state)
{
    static const struct cpu_model_config cfg = {
        .tsc_hz = 1000000000u, .apic_bus_hz = 1000000000u, .ncpus = 1, .hide_avx = true};
    struct rig r;
    struct rig_image a, b;
    rig_init_model(&r, &cfg);
    r.c->fpu->has_xsave = r.c->fpu->has_xsaveopt = false;
    cpu_fpu_reset(r.c);
    rig_get(&r, &a);
    assert_int_equal(*(u64 *)(a.b + 512), 3);
    put_xmm(&r, 1, 0x3f800000, 0, 0, 0);
    assert_int_equal(RUN(&r, 0x0f, 0x58, 0xc9), -1); /* addps xmm1, xmm1 */
    assert_int_equal(RUN(&r, 0xdb, 0xe3), -1);
    assert_int_equal(RUN(&r, 0xd9, 0xe8), -1);
    rig_get(&r, &b);
    assert_int_equal(*(u32 *)(b.b + 160 + 16), 0x40000000);
    assert_int_equal(b.b[4], 0x80);
    assert_int_equal(*(u64 *)(b.b + 32), BIT(63));
    assert_int_equal(*(u64 *)(b.b + 8), RIG_RIP);
    rig_free(&r);
}

/* No image that a guest or a file can bring makes the monitor fault. */
static void test_bad_image(void **state)
{
    struct rig r;
    struct rig_image im;
    rig_init(&r);
    rnd_image(&r, &im);
    *(u32 *)(im.b + 24) = 0xffffffff;
    assert_int_equal(rig_set(&r, &im), -1);
    rnd_image(&r, &im);
    im.b[512 + 7] = 0x80;
    assert_int_equal(rig_set(&r, &im), -1);
    rnd_image(&r, &im);
    im.b[520 + 7] = 0x80;
    assert_int_equal(rig_set(&r, &im), -1);
    for (unsigned n = 0; n < 200; n++) {
        rnd_image(&r, &im);
        for (unsigned k = 0; k < 24; k++)
            im.b[k] = (u8)rnd();
        for (unsigned k = 32; k < 160; k++)
            im.b[k] = (u8)rnd();
        assert_int_equal(rig_set(&r, &im), 0);
        int vec = RUN(&r, 0xd9, 0xe8);
        assert_true(vec == -1 || vec == EXC_MF);
    }
    rig_free(&r);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bare),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_xm),
        cmocka_unit_test(test_mf),
        cmocka_unit_test(test_store_suppressed),
        cmocka_unit_test(test_enabled),
        cmocka_unit_test(test_memory_faults),
        cmocka_unit_test(test_mmio),
        cmocka_unit_test(test_env),
        cmocka_unit_test(test_env_real),
        cmocka_unit_test(test_save_restore),
        cmocka_unit_test(test_masked_avx),
        cmocka_unit_test(test_masked_avx512),
        cmocka_unit_test(test_maskmovdqu),
        cmocka_unit_test(test_gather_fault),
        cmocka_unit_test(test_mode32),
        cmocka_unit_test(test_stubs),
        cmocka_unit_test(test_leave),
        cmocka_unit_test(test_fxsave_host),
        cmocka_unit_test(test_bad_image),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
