/* gen_state.c - registers, memory and FP state that sequences start from. */
#include <string.h>

#include "gen.h"

/* --- a pool of vector operands: integers and floating point of all formats --- */

static u64 rnd_double(struct rng *r)
{
    static const u64 special[] = {0,
                                  0x8000000000000000, /* -0 */
                                  0x3ff0000000000000, /* 1 */
                                  0xbff0000000000000,
                                  0x7ff0000000000000, /* infinity */
                                  0xfff0000000000000,
                                  0x7ff8000000000000, /* quiet, signalling NaN */
                                  0x7ff0000000000001,
                                  0x0000000000000001, /* denormal */
                                  0x000fffffffffffff,
                                  0x0010000000000000, /* least normal */
                                  0x7fefffffffffffff, /* largest */
                                  0x41dfffffffc00000, /* 2^31 - 1 */
                                  0x43e0000000000000, /* 2^63 */
                                  0x3fe0000000000000,
                                  0x4008000000000000};
    u64 v = rnd(r);
    if (v & 1)
        return special[v >> 1 & 15];
    return (v & 0x800fffffffffffff) | (u64)(0x3f0 + (v >> 52 & 31)) << 52;
}

static u32 rnd_float(struct rng *r)
{
    static const u32 special[] = {0,          0x80000000, 0x3f800000, 0xbf800000,
                                  0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001,
                                  0x00000001, 0x007fffff, 0x00800000, 0x7f7fffff,
                                  0x4effffff, 0x4f000000, 0x3f000000, 0x40400000};
    u32 v = (u32)rnd(r);
    if (v & 1)
        return special[v >> 1 & 15];
    return (v & 0x807fffff) | (0x70 + (v >> 23 & 31)) << 23;
}

static void fill_pool(struct gen *g)
{
    for (unsigned at = 0; at < sizeof g->pool; at += 8) {
        u64 v = rnd_value(&g->rng);
        switch (at / 512 % 4) {
        case 0:
            v = rnd_double(&g->rng);
            break;
        case 1:
            v = rnd_float(&g->rng) | (u64)rnd_float(&g->rng) << 32;
            break;
        case 2:
            v = rnd(&g->rng);
            break;
        }
        memcpy(g->pool + at, &v, 8);
    }
}

void gen_init(struct gen *g, const struct gen_caps *caps, u64 seed)
{
    *g = (struct gen){.rng = {seed}, .caps = *caps, .next_start = CODE};
    fill_pool(g);
}

static const u8 *from_pool(struct gen *g, unsigned size)
{
    return g->pool + 8 * pick(&g->rng, (sizeof g->pool - size) / 8);
}

/* --- general registers --- */

static u64 pick_stack(struct gen *g, bool m64)
{
    struct rng *r = &g->rng;
    switch (pick(r, 32)) {
    case 0:
        return STACK - 24 + pick(r, 48);
    case 1:
        return STACK + PAGE_SIZE - pick(r, 32);
    case 2:
        return DATA + pick(r, DATA_SIZE);
    case 3:
        return m64 ? rnd_value(r) : (u32)rnd_value(r);
    case 4:
    case 5:
        return STACK + 0x400 + pick(r, 0x800);
    default:
        return STACK + 0x400 + 8 * pick(r, 0x100);
    }
}

static void set_role(struct gen *g, struct test_case *t, unsigned n)
{
    struct rng *r = &g->rng;
    u32 die = pick(r, 16);
    u64 v = rnd_value(r);
    t->role[n] = ROLE_VALUE;
    if (die < 5) {
        t->role[n] = ROLE_POINTER;
        v = DATA + 64 * pick(r, DATA_SIZE / 64) + (one_in(r, 4) ? pick(r, 64) : 0);
    } else if (die < 8) {
        t->role[n] = ROLE_SMALL;
        v = pick(r, 32);
    } else if (die == 8) {
        t->role[n] = ROLE_CODE;
    }
    t->r.reg[n] = t->m64 ? v : (u32)v;
}

static void set_pointer(struct gen *g, struct test_case *t, unsigned n)
{
    if (one_in(&g->rng, 4))
        return;
    t->role[n] = ROLE_POINTER;
    t->r.reg[n] = DATA + pick(&g->rng, DATA_SIZE);
}

static void set_registers(struct gen *g, struct test_case *t)
{
    for (unsigned n = 0; n < (t->m64 ? 16 : 8); n++)
        set_role(g, t, n);
    set_pointer(g, t, RSI);
    set_pointer(g, t, RDI);
    if (one_in(&g->rng, 2)) {
        t->role[RCX] = ROLE_SMALL;
        t->r.reg[RCX] = pick(&g->rng, 32);
    }
    if (one_in(&g->rng, 2)) {
        t->role[RBP] = ROLE_POINTER;
        t->r.reg[RBP] = STACK + 0x400 + 8 * pick(&g->rng, 0x100);
    }
    t->role[RSP] = ROLE_POINTER;
    t->r.reg[RSP] = pick_stack(g, t->m64);
}

static void set_flags(struct gen *g, struct test_case *t)
{
    struct rng *r = &g->rng;
    u64 f = FLAG_ONE | FLAG_IF | (rnd(r) & FLAGS_ARITH);
    f |= one_in(r, 4) ? FLAG_DF : 0;
    f |= one_in(r, 16) ? FLAG_NT : 0;
    f |= one_in(r, 16) ? FLAG_ID : 0;
    f |= one_in(r, 64) ? FLAG_AC : 0;
    t->r.rflags = f;
}

static void set_segments(struct gen *g, struct test_case *t)
{
    t->r.sel[SS] = SEL_DS;
    t->r.sel[CS] = t->m64 ? SEL_CS64 : SEL_CS32;
    t->r.fs_base = t->r.gs_base = 0;
    t->r.sel[DS] = t->r.sel[ES] = t->m64 ? 0 : SEL_DS;
    t->r.sel[FS] = t->r.sel[GS] = 0;
    if (!g->caps.fsgsbase)
        return;
    if (t->m64) {
        t->r.fs_base = 0x40;
        t->r.gs_base = PAGE_SIZE - 8;
    } else {
        t->r.sel[FS] = SEL_LDT(1);
        t->r.sel[GS] = SEL_LDT(2);
        t->r.fs_base = t->r.gs_base = DATA;
    }
}

/* --- memory --- */

static void set_memory(struct gen *g, struct test_case *t)
{
    for (unsigned at = 0; at < MEM_SIZE; at += 256)
        memcpy(t->mem + at, from_pool(g, 256), 256);
    for (unsigned n = 0; n < 64; n++) {
        u64 v = rnd_value(&g->rng);
        memcpy(t->mem + 8 * pick(&g->rng, MEM_SIZE / 8), &v, 8);
    }
}

/* --- FP state (layout: SDM vol. 1, table 10-2, 13.4) --- */

static void put16(u8 *p, u16 v)
{
    memcpy(p, &v, 2);
}

/* Extended precision: as a double precision number would be, or odd encodings. */
static void set_st(struct gen *g, u8 *p)
{
    static const u16 exponents[] = {0,      0x7fff, 0x3fff, 0x8000, 0xffff, 0xbfff,
                                    0x4000, 0x3ffe, 0x401e, 0x403e, 0x0001, 0x7ffe};
    u64 v = rnd(&g->rng), m = rnd_value(&g->rng);
    u16 e = v & 3 ? (u16)(0x3fff - 16 + (v >> 8 & 31)) : exponents[(v >> 8) % 12];
    if (v & 12)
        m |= BIT(63);
    memcpy(p, &m, 8);
    put16(p + 8, e | (v & 16 ? 0x8000 : 0));
}

static void set_x87(struct gen *g, u8 *f)
{
    struct rng *r = &g->rng;
    u16 cw = 0x37f, sw = (u16)(rnd(r) & 0x4700);
    if (one_in(r, 3))
        cw = (u16)(0x40 | (rnd(r) & 0xf00) | 0x3f);
    if (one_in(r, 4))
        cw &= (u16)~pick(r, 64);
    sw |= (u16)(pick(r, 8) << 11);
    if (one_in(r, 8))
        sw |= (u16)pick(r, 64) & (cw & 0x3f); /* flags, none of them unmasked */
    if (one_in(r, 64))
        sw |= (u16)pick(r, 128);
    if (sw & ~cw & 0x3f)
        sw |= 0x8080;
    put16(f, cw);
    put16(f + 2, sw);
    put16(f + 4, one_in(r, 2) ? (u16)pick(r, 256) : one_in(r, 2) ? 0xff : 0);
    memset(f + 6, 0, 18);
    for (unsigned n = 0; n < 8; n++) {
        memset(f + 32 + 16 * n, 0, 16);
        set_st(g, f + 32 + 16 * n);
    }
}

static void set_mxcsr(struct gen *g, u8 *f)
{
    struct rng *r = &g->rng;
    u32 mxcsr = 0x1f80;
    if (one_in(r, 3))
        mxcsr = (u32)(rnd(r) & 0xffff) & g->caps.mxcsr_mask;
    if (one_in(r, 2))
        mxcsr |= 0x1f80;
    memcpy(f + 24, &mxcsr, 4);
    memcpy(f + 28, &g->caps.mxcsr_mask, 4);
}

/* Offsets for gathers and scatters: dwords in 6, 14, ..., quadwords in 7, 15, ... */
static void small_vector(struct gen *g, unsigned n, u8 z[64])
{
    for (unsigned at = 0; at < 64; at += n & 1 ? 8 : 4) {
        u64 v = pick(&g->rng, 0x400);
        if (one_in(&g->rng, 64))
            v = rnd_value(&g->rng);
        memcpy(z + at, &v, n & 1 ? 8 : 4);
    }
}

static void set_vector(struct gen *g, unsigned n, u8 *f)
{
    const struct gen_caps *c = &g->caps;
    u8 z[64];
    if ((n & 6) == 6)
        small_vector(g, n, z);
    else
        memcpy(z, from_pool(g, 64), 64);
    if (n < 16)
        memcpy(f + 160 + 16 * n, z, 16);
    if (n < 16 && c->at_ymm)
        memcpy(f + c->at_ymm + 16 * n, z + 16, 16);
    if (n < 16 && c->at_zmm_hi256)
        memcpy(f + c->at_zmm_hi256 + 32 * n, z + 32, 32);
    if (n >= 16 && c->at_hi16_zmm)
        memcpy(f + c->at_hi16_zmm + 64 * (n - 16), z, 64);
}

static void set_fpu(struct gen *g, struct test_case *t)
{
    memset(t->fpu + 416, 0, 576 - 416);
    memcpy(t->fpu + 512, &g->caps.xcr0, 8);
    set_x87(g, t->fpu);
    set_mxcsr(g, t->fpu);
    for (unsigned n = 0; n < 32; n++)
        set_vector(g, n, t->fpu);
    for (unsigned n = 0; n < 8 && g->caps.at_opmask; n++) {
        u64 k = rnd_value(&g->rng);
        memcpy(t->fpu + g->caps.at_opmask + 8 * n, &k, 8);
    }
}

void gen_state(struct gen *g, struct test_case *t, bool m64)
{
    t->seed = g->rng.s;
    t->m64 = m64;
    t->n = 0;
    t->uses_fpu = false;
    memset(t->r.reg, 0, sizeof t->r.reg);
    memset(t->role, 0, sizeof t->role);
    set_registers(g, t);
    set_flags(g, t);
    set_segments(g, t);
    if (one_in(&g->rng, 16))
        set_memory(g, t);
    if (one_in(&g->rng, 4))
        set_fpu(g, t);
}
