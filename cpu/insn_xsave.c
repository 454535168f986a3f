/*
 * insn_xsave.c - instructions that move FP state as a whole, and its control registers.
 *
 * All of them work on the image (cpu_fpu_priv.h): it is brought up to date first, and loaded again
 * by the next FP instruction. Nothing is committed before all that can fault has been read.
 *
 * Sources: Intel SDM vol. 1, chapter 13 (XSAVE), 10.5 (FXSAVE); vol. 2, the instructions.
 */
#include "cpu/cpu_ctl.h"
#include "cpu/cpu_fpu_priv.h"

#define XCOMP_COMPACT BIT(63)

/* --- parts of an area --- */

/* Outside 64-bit code there are eight vector registers, and the rest of a component is left alone.
 */
static unsigned part_len(const struct cpu *c, unsigned n)
{
    if (c->mode == X86_MODE64)
        return c->fpu->len[n];
    switch (n) {
    case 2:
        return 8 * 16;
    case 6:
        return 8 * 32;
    case 7:
        return 0;
    default:
        return c->fpu->len[n];
    }
}

static unsigned xmm_len(const struct cpu *c)
{
    return c->mode == X86_MODE64 ? 16 * 16 : 8 * 16;
}

/* Offset of component n in an area; comp is XCOMP_BV if it is compacted, else 0. */
static unsigned part_at(const struct cpu_fpu *f, unsigned n, u64 comp)
{
    if (!comp)
        return f->offset[n];
    unsigned at = IMG_EXTENDED;
    for (unsigned k = 2; k <= n; k++) {
        if (!(comp & BIT(k)))
            continue;
        if (f->align & BIT(k))
            at = (unsigned)align_up(at, 64);
        if (k < n)
            at += f->len[k];
    }
    return at;
}

static unsigned area_end(const struct cpu_fpu *f, u64 which, u64 comp)
{
    unsigned end = IMG_EXTENDED;
    for (unsigned n = 2; n < ARRAY_SIZE(f->offset); n++)
        if (which & BIT(n) && part_at(f, n, comp) + f->len[n] > end)
            end = part_at(f, n, comp) + f->len[n];
    return end;
}

/* FIP and FDP as 64-bit offsets, or as 32-bit ones with selectors (SDM vol. 1, table 10-2). */
static void pointers_out(const struct cpu_fpu *f, bool wide, u8 area[24])
{
    if (wide)
        return; /* as the image has them */
    *(u32 *)(area + IMG_FIP) = (u32)f->fip;
    *(u32 *)(area + IMG_FIP + 4) = f->no_fcs ? 0 : f->fcs;
    *(u32 *)(area + IMG_FDP) = (u32)f->fdp;
    *(u32 *)(area + IMG_FDP + 4) = f->no_fcs ? 0 : f->fds;
}

/* The image's x87 part has been replaced by what a guest's area says. */
static void pointers_in(struct cpu_fpu *f, bool wide)
{
    cpu_fpu_take_pointers(f);
    f->fcs = f->fds = 0;
    if (wide)
        return;
    f->fcs = (u16)(f->fip >> 32);
    f->fds = (u16)(f->fdp >> 32);
    f->fip = (u32)f->fip;
    f->fdp = (u32)f->fdp;
    img_put64(f, IMG_FIP, f->fip);
    img_put64(f, IMG_FDP, f->fdp);
}

static void x87_out(struct cpu *c, const struct x86_insn *i, u64 ea)
{
    const struct cpu_fpu *f = c->fpu;
    u8 head[IMG_MXCSR] __attribute__((aligned(8)));
    cpu_copy(head, f->image, sizeof head);
    head[5] = 0;
    pointers_out(f, i->opsize == 8, head);
    cpu_fpu_copy_out(c, i->seg, ea, head, sizeof head);
    cpu_fpu_copy_out(c, i->seg, ea + IMG_ST, f->image + IMG_ST, 8 * 16);
}

static void x87_in(struct cpu *c, const struct x86_insn *i)
{
    struct cpu_fpu *f = c->fpu;
    cpu_copy(f->image, f->stage, IMG_MXCSR);
    cpu_copy(f->image + IMG_ST, f->stage + IMG_ST, 8 * 16);
    pointers_in(f, i->opsize == 8);
}

static u32 stage32(const struct cpu_fpu *f, unsigned at)
{
    return *(const u32 *)(f->stage + at);
}

/* A non-canonical address comes first: the access will find it. */
static bool misaligned(const struct cpu *c, const struct x86_insn *i, u64 ea, unsigned align)
{
    u64 la = ea + c->seg[i->seg].base;
    return la & (align - 1) && (c->mode != X86_MODE64 || x86_canonical(la));
}

static void check_aligned(struct cpu *c, const struct x86_insn *i, u64 ea, unsigned align)
{
    if (misaligned(c, i, ea, align))
        cpu_throw_gp(c, 0);
}

/* --- FXSAVE, FXRSTOR --- */

static u64 fx_begin(struct cpu *c, const struct x86_insn *i)
{
    if (c->cr0 & (CR0_EM | CR0_TS))
        cpu_throw(c, EXC_NM, 0);
    u64 ea = cpu_ea(c, i);
    if (c->tlb == c->tlbs[TLB_STRICT] && misaligned(c, i, ea, 4))
        cpu_throw(c, EXC_AC, 0); /* comes first (SDM vol. 2A, FXSAVE) */
    check_aligned(c, i, ea, 16);
    return ea;
}

void insn_fxsave(struct cpu *c, const struct x86_insn *i)
{
    struct cpu_fpu *f = c->fpu;
    u64 ea = fx_begin(c, i);
    cpu_fpu_probe_write(c, i->seg, ea + 511, 1); /* the order in which processors look */
    cpu_fpu_probe_write(c, i->seg, ea, 512);
    cpu_leave(c);
    x87_out(c, i, ea);
    if (!(c->cr4 & CR4_OSFXSR))
        return;
    cpu_fpu_copy_out(c, i->seg, ea + IMG_MXCSR, f->image + IMG_MXCSR, 8);
    cpu_fpu_copy_out(c, i->seg, ea + IMG_XMM, f->image + IMG_XMM, xmm_len(c));
}

void insn_fxrstor(struct cpu *c, const struct x86_insn *i)
{
    struct cpu_fpu *f = c->fpu;
    u64 ea = fx_begin(c, i);
    cpu_fpu_copy_in(c, i->seg, ea, f->stage, 512);
    bool sse = c->cr4 & CR4_OSFXSR;
    if (sse && stage32(f, IMG_MXCSR) & ~f->mxcsr_mask)
        cpu_throw_gp(c, 0);
    cpu_leave(c);
    x87_in(c, i);
    u64 loaded = XCR0_X87;
    if (sse) {
        img_put32(f, IMG_MXCSR, stage32(f, IMG_MXCSR));
        cpu_copy(f->image + IMG_XMM, f->stage + IMG_XMM, xmm_len(c));
        loaded |= XCR0_SSE;
    }
    img_put64(f, IMG_XSTATE_BV, img64(f, IMG_XSTATE_BV) | loaded);
}

/* --- XSAVE and its kin --- */

static u64 xs_begin(struct cpu *c, const struct x86_insn *i, u64 *rfbm)
{
    if (!(c->cr4 & CR4_OSXSAVE))
        cpu_throw_ud(c);
    if (c->cr0 & CR0_TS)
        cpu_throw(c, EXC_NM, 0);
    u64 ea = cpu_ea(c, i);
    check_aligned(c, i, ea, 64);
    *rfbm = ((u32)c->reg[RAX] | c->reg[RDX] << 32) & c->xcr0 & c->fpu->features;
    return ea;
}

static u64 in_use(struct cpu *c)
{
    cpu_leave(c);
    return img64(c->fpu, IMG_XSTATE_BV) & c->fpu->features;
}

/* Components from 2 on. */
static void parts_out(struct cpu *c, unsigned seg, u64 ea, u64 which, u64 comp)
{
    const struct cpu_fpu *f = c->fpu;
    for (unsigned n = 2; n < ARRAY_SIZE(f->offset); n++)
        if (which & BIT(n))
            cpu_fpu_copy_out(c, seg, ea + part_at(f, n, comp), f->image + f->offset[n],
                             part_len(c, n));
}

/* XSAVE writes every requested component, XSAVEOPT those in use (SDM vol. 1, 13.7, 13.9). */
static void xsave_standard(struct cpu *c, const struct x86_insn *i, bool opt)
{
    const struct cpu_fpu *f = c->fpu;
    u64 rfbm, ea = xs_begin(c, i, &rfbm), used = in_use(c);
    u64 which = opt ? rfbm & used : rfbm;
    cpu_fpu_probe_write(c, i->seg, ea, area_end(f, which, 0));
    u64 old = cpu_ld64(c, i->seg, ea + IMG_XSTATE_BV);
    if (which & XCR0_X87)
        x87_out(c, i, ea);
    if (rfbm & (XCR0_SSE | XCR0_AVX))
        cpu_fpu_copy_out(c, i->seg, ea + IMG_MXCSR, f->image + IMG_MXCSR, 8);
    if (which & XCR0_SSE)
        cpu_fpu_copy_out(c, i->seg, ea + IMG_XMM, f->image + IMG_XMM, xmm_len(c));
    parts_out(c, i->seg, ea, which, 0);
    cpu_st64(c, i->seg, ea + IMG_XSTATE_BV, (old & ~rfbm) | (used & rfbm));
}

/* XSAVEC, XSAVES (SDM vol. 1, 13.10, 13.11). XSS has no bits, so that they are the same. */
static void xsave_compact(struct cpu *c, const struct x86_insn *i)
{
    const struct cpu_fpu *f = c->fpu;
    u64 rfbm, ea = xs_begin(c, i, &rfbm), used = in_use(c);
    if (img32(f, IMG_MXCSR) != MXCSR_INIT)
        used |= XCR0_SSE;
    u64 which = rfbm & used, comp = rfbm | XCOMP_COMPACT;
    cpu_fpu_probe_write(c, i->seg, ea, area_end(f, which, comp));
    if (which & XCR0_X87)
        x87_out(c, i, ea);
    if (which & XCR0_SSE) {
        cpu_fpu_copy_out(c, i->seg, ea + IMG_MXCSR, f->image + IMG_MXCSR, 8);
        cpu_fpu_copy_out(c, i->seg, ea + IMG_XMM, f->image + IMG_XMM, xmm_len(c));
    }
    parts_out(c, i->seg, ea, which, comp);
    cpu_st64(c, i->seg, ea + IMG_XSTATE_BV, which);
    cpu_st64(c, i->seg, ea + IMG_XCOMP_BV, comp);
}

void insn_xsave(struct cpu *c, const struct x86_insn *i)
{
    xsave_standard(c, i, false);
}

void insn_xsaveopt(struct cpu *c, const struct x86_insn *i)
{
    xsave_standard(c, i, true);
}

void insn_xsavec(struct cpu *c, const struct x86_insn *i)
{
    xsave_compact(c, i);
}

void insn_xsaves(struct cpu *c, const struct x86_insn *i)
{
    if (c->cpl)
        cpu_throw_gp(c, 0);
    xsave_compact(c, i);
}

/* --- XRSTOR --- */

/* #GP for a header that the manual forbids (SDM vol. 1, 13.8, 13.12). */
static void check_header(struct cpu *c, const u64 h[8], bool must_compact)
{
    u64 valid = c->xcr0 & c->fpu->features;
    bool bad = false;
    if (h[1] & XCOMP_COMPACT) {
        u64 comp = h[1] & ~XCOMP_COMPACT;
        bad = (comp & ~valid) || (h[0] & ~comp);
        for (unsigned n = 2; n < 8; n++)
            bad |= h[n] != 0;
    } else {
        bad = must_compact || (h[0] & ~valid) || h[1] || h[2];
    }
    if (bad)
        cpu_throw_gp(c, 0);
}

/* Reads into the stage, in standard layout, the components that will be loaded. */
static void stage_parts(struct cpu *c, unsigned seg, u64 ea, u64 which, u64 comp)
{
    struct cpu_fpu *f = c->fpu;
    cpu_fpu_copy_in(c, seg, ea, f->stage, IMG_XMM);
    if (which & XCR0_SSE)
        cpu_fpu_copy_in(c, seg, ea + IMG_XMM, f->stage + IMG_XMM, xmm_len(c));
    for (unsigned n = 2; n < ARRAY_SIZE(f->offset); n++)
        if (which & BIT(n))
            cpu_fpu_copy_in(c, seg, ea + part_at(f, n, comp), f->stage + f->offset[n],
                            part_len(c, n));
}

static void load_x87(struct cpu *c, const struct x86_insn *i, bool present)
{
    if (present)
        x87_in(c, i);
    else
        cpu_fpu_image_init(c->fpu, XCR0_X87);
}

/* Component n from the stage, or zeros. Outside 64-bit code the upper registers stay. */
static bool load_part(struct cpu *c, unsigned n, bool present)
{
    struct cpu_fpu *f = c->fpu;
    unsigned at = n == 1 ? IMG_XMM : f->offset[n], len = n == 1 ? xmm_len(c) : part_len(c, n);
    unsigned whole = n == 1 ? 16 * 16 : f->len[n];
    if (present)
        cpu_copy(f->image + at, f->stage + at, len);
    else
        cpu_fill(f->image + at, 0, len);
    return present || len < whole;
}

static void commit(struct cpu *c, const struct x86_insn *i, u64 rfbm, u64 present)
{
    struct cpu_fpu *f = c->fpu;
    u64 bv = img64(f, IMG_XSTATE_BV) & ~rfbm;
    if (rfbm & XCR0_X87) {
        load_x87(c, i, present & XCR0_X87);
        bv |= present & XCR0_X87;
    }
    for (unsigned n = 1; n < ARRAY_SIZE(f->offset); n++)
        if (rfbm & BIT(n) && load_part(c, n, present & BIT(n)))
            bv |= BIT(n);
    img_put64(f, IMG_XSTATE_BV, bv);
}

static void restore(struct cpu *c, const struct x86_insn *i, bool must_compact)
{
    struct cpu_fpu *f = c->fpu;
    u64 rfbm, ea = xs_begin(c, i, &rfbm), h[8];
    cpu_fpu_copy_in(c, i->seg, ea + IMG_XSTATE_BV, h, sizeof h);
    check_header(c, h, must_compact);
    u64 comp = h[1], present = h[0] & rfbm;
    stage_parts(c, i->seg, ea, present, comp);
    /* The compacted format has MXCSR as a part of SSE; the standard one loads it for AVX too. */
    bool load_mxcsr = rfbm & (comp ? XCR0_SSE : XCR0_SSE | XCR0_AVX);
    u32 mxcsr = comp && !(present & XCR0_SSE) ? MXCSR_INIT : stage32(f, IMG_MXCSR);
    if (load_mxcsr && mxcsr & ~f->mxcsr_mask)
        cpu_throw_gp(c, 0);
    cpu_leave(c);
    if (load_mxcsr)
        img_put32(f, IMG_MXCSR, mxcsr);
    commit(c, i, rfbm, present);
}

void insn_xrstor(struct cpu *c, const struct x86_insn *i)
{
    restore(c, i, false);
}

void insn_xrstors(struct cpu *c, const struct x86_insn *i)
{
    if (c->cpl)
        cpu_throw_gp(c, 0);
    restore(c, i, true);
}

/* --- control --- */

static unsigned mxcsr_need(const struct x86_insn *i)
{
    return i->prefix & X86_PFX_VEX ? NEED_AVX : NEED_SSE;
}

void insn_ldmxcsr(struct cpu *c, const struct x86_insn *i)
{
    struct cpu_fpu *f = c->fpu;
    cpu_fpu_check(c, mxcsr_need(i));
    u32 v = cpu_ld32(c, i->seg, cpu_ea(c, i));
    if (v & ~f->mxcsr_mask)
        cpu_throw_gp(c, 0);
    cpu_fpu_off(c);
    if (f->resident)
        __asm__ volatile("ldmxcsr %0" : : "m"(v));
    else
        img_put32(f, IMG_MXCSR, v);
}

void insn_stmxcsr(struct cpu *c, const struct x86_insn *i)
{
    u32 v;
    cpu_fpu_check(c, mxcsr_need(i));
    if (c->fpu->resident)
        __asm__ volatile("stmxcsr %0" : "=m"(v));
    else
        v = img32(c->fpu, IMG_MXCSR);
    cpu_st32(c, i->seg, cpu_ea(c, i), v);
}

void insn_wait(struct cpu *c, const struct x86_insn *i)
{
    if ((c->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
        cpu_throw(c, EXC_NM, 0);
    if (cpu_fpu_status(c) & FSW_ES)
        cpu_throw(c, EXC_MF, 0);
}

void insn_xgetbv(struct cpu *c, const struct x86_insn *i)
{
    if (!(c->cr4 & CR4_OSXSAVE))
        cpu_throw_ud(c);
    u64 v = c->xcr0;
    if ((u32)c->reg[RCX] == 1) {
        u64 used = in_use(c);
        if (img32(c->fpu, IMG_MXCSR) != MXCSR_INIT)
            used |= XCR0_SSE;
        v &= used;
    } else if ((u32)c->reg[RCX]) {
        cpu_throw_gp(c, 0);
    }
    c->reg[RAX] = (u32)v;
    c->reg[RDX] = v >> 32;
}

void insn_xsetbv(struct cpu *c, const struct x86_insn *i)
{
    if (!(c->cr4 & CR4_OSXSAVE))
        cpu_throw_ud(c);
    if (c->cpl || (u32)c->reg[RCX])
        cpu_throw_gp(c, 0);
    cpu_write_xcr0(c, (u32)c->reg[RAX] | c->reg[RDX] << 32);
}
