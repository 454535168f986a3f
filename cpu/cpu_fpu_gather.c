/*
 * cpu_fpu_gather.c - memory operands that are accessed element by element: AVX and AVX-512 masks,
 * MASKMOVQ/MASKMOVDQU, gathers and scatters.
 *
 * Masked operands. As long as all of the operand is plain RAM the stub runs on it and the host's
 * own masking does the rest. Otherwise the processor is made to say which bytes it wants:
 *   - a load runs on a copy laid across the edge of an inaccessible page, with the bytes that the
 *     guest may not read on the far side: the host suppresses or raises the fault as the manual
 *     has it for that very instruction;
 *   - a store runs twice, over zeros and over ones: bytes that come out equal were written.
 *
 * Sources: Intel SDM vol. 1, 15.6.4 (fault suppression); vol. 2C, VGATHER*, VPMASKMOV; vol. 2B,
 * MASKMOVDQU.
 */
#include "cpu/cpu_fpu_priv.h"

/* --- trying --- */

/* Not inlined: __builtin_setjmp() takes the frame as it is. */
__attribute__((noinline)) bool cpu_fpu_try(struct cpu *c, void (*fn)(struct cpu *c, void *arg),
                                           void *arg)
{
    void *outer[ARRAY_SIZE(c->unwind)];
    struct cpu_exc exc = c->exc;
    u64 cr2 = c->cr2;
    volatile bool ok = false;
    for (unsigned n = 0; n < ARRAY_SIZE(outer); n++)
        outer[n] = c->unwind[n];
    if (__builtin_setjmp(c->unwind) == 0) {
        fn(c, arg);
        ok = true;
    }
    for (unsigned n = 0; n < ARRAY_SIZE(outer); n++)
        c->unwind[n] = outer[n];
    if (!ok) {
        c->exc = exc;
        c->cr2 = cr2;
    }
    return ok;
}

/* The part of an operand that lies in one page. */
struct part {
    u64 ea;
    unsigned seg, size;
    u8 *buf;
};

static void read_part(struct cpu *c, void *arg)
{
    struct part *p = arg;
    cpu_fpu_copy_in(c, p->seg, p->ea, p->buf, p->size);
}

/* By single bytes: they are always aligned. */
static void touch_part(struct cpu *c, void *arg)
{
    struct part *p = arg;
    cpu_fpu_probe_write(c, p->seg, p->ea, 1);
    cpu_fpu_probe_write(c, p->seg, p->ea + p->size - 1, 1);
}

/*
 * Alignment. An operand that must be aligned but is not faults only if the mask lets through any
 * of it; the same holds for what EFLAGS.AC checks, elements that stand alone and MASKMOV's halves.
 * The processor is asked, by an inaccessible address. True if there was no access: all is done.
 */
static bool settle_alignment(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s,
                             u64 ea, gva_t la)
{
    unsigned size = s->kind == STUB_MASKMOV ? 8 : s->size;
    bool strict = unlikely(c->tlb == c->tlbs[TLB_STRICT]) && size <= 8 && la & (size - 1u) &&
                  !(s->quirks & QUIRK_NO_AC) && x86_canonical(la);
    bool must = s->flags & STUB_ALIGN && la & (s->size - 1u);
    if (likely(!strict && !must))
        return false;
    unsigned fault = cpu_fpu_call(c, s, c->fpu->guard + (la & 63));
    if (!fault)
        return true;
    if (fault != (STUB_FAULT | EXC_PF) && fault != (STUB_FAULT | EXC_GP))
        cpu_fpu_raise(c, fault);
    if (strict)
        cpu_la(c, i->seg, ea, size, s->flags & STUB_WRITE); /* the segment comes first */
    cpu_throw(c, strict ? EXC_AC : EXC_GP, 0);
}

/*
 * An operand that is canonical in part only: what the mask lets through of the rest faults before
 * any page does. The processor is asked, by the guest's address: at either end of what is canonical
 * no process of the host's has anything. True if there was no access: all is done.
 */
static bool settle_canonical(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s,
                             u64 ea, gva_t la)
{
    bool starts = x86_canonical(la);
    if (c->mode != X86_MODE64 || starts == x86_canonical(la + s->size - 1))
        return false;
    unsigned fault = cpu_fpu_call(c, s, (u8 *)la);
    if (fault == (STUB_FAULT | EXC_GP))
        cpu_ld8(c, i->seg, starts ? ea + s->size - 1 : ea);
    else if (fault && fault != (STUB_FAULT | EXC_PF))
        cpu_fpu_raise(c, fault);
    return !fault;
}

/* --- masked loads --- */

/* Where to put the operand so that exactly the parts that cannot be read are inaccessible. */
static u8 *lay_across(struct cpu_fpu *f, const struct part part[2], const bool ok[2])
{
    u8 *page = f->guard + PAGE_SIZE, *at;
    if (ok[0]) { /* the second part lies in the page behind */
        at = page + PAGE_SIZE - part[0].size;
        cpu_copy(at, f->bounce, part[0].size);
    } else if (part[1].size && ok[1]) { /* the first part lies in the page before */
        at = page - part[0].size;
        cpu_copy(page, f->bounce + part[0].size, part[1].size);
    } else {
        at = f->guard + PAGE_SIZE - 64; /* aligned for whatever the operand is */
    }
    return at;
}

static void masked_load_slow(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s,
                             u64 ea)
{
    struct cpu_fpu *f = c->fpu;
    gva_t la = ea + c->seg[i->seg].base;
    unsigned first = (unsigned)min_u64(s->size, PAGE_SIZE - (la & PAGE_MASK));
    struct part part[2] = {{ea, i->seg, first, f->bounce},
                           {c->mode == X86_MODE64 ? ea + first : (u32)(ea + first), i->seg,
                            s->size - first, f->bounce + first}};
    bool ok[2];
    u32 ac = c->eflags & FLAG_AC; /* the question is only what can be read */
    c->eflags &= ~FLAG_AC;
    cpu_update_mode(c);
    ok[0] = cpu_fpu_try(c, read_part, &part[0]);
    ok[1] = cpu_fpu_try(c, read_part, &part[1]);
    c->eflags |= ac;
    cpu_update_mode(c);
    u8 *at = ok[0] && ok[1] ? f->bounce : lay_across(f, part, ok);
    unsigned fault = cpu_fpu_call(c, s, at);
    if (fault == (STUB_FAULT | EXC_PF)) {
        /* The guest's own fault; if another CPU has just mapped the page, simply again. */
        cpu_la(c, i->seg, ea, s->size, false); /* the segment comes first */
        cpu_ld8(c, i->seg, ea + (f->fault_addr - (u64)at) % s->size);
        cpu_unwind(c);
    }
    if (fault)
        cpu_fpu_raise(c, fault);
}

static void masked_load(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s, u64 ea)
{
    const struct seg *sg = &c->seg[i->seg];
    gva_t la = (ea + sg->base) & c->la_mask;
    if (settle_alignment(c, i, s, ea, la) || settle_canonical(c, i, s, ea, la))
        return;
    u8 *p = ea + s->size <= sg->rd_end ? cpu_rd_fast(c, la, s->size) : NULL;
    if (unlikely(!p)) {
        masked_load_slow(c, i, s, ea);
        return;
    }
    unsigned fault = cpu_fpu_call(c, s, p);
    if (unlikely(fault))
        cpu_fpu_raise(c, fault);
}

/* --- masked stores --- */

/* Calls fn for each run of written bytes. */
static void each_run(struct cpu *c, const u8 *zeros, const u8 *ones, struct part *p, unsigned size,
                     void (*fn)(struct cpu *c, void *arg))
{
    u64 ea = p->ea;
    for (unsigned at = 0, n; at < size; at += n) {
        n = 1;
        if (zeros[at] != ones[at])
            continue;
        while (at + n < size && zeros[at + n] == ones[at + n])
            n++;
        u64 mask = c->mode == X86_MODE64 ? ~0ull : 0xffffffff;
        *p = (struct part){(ea + at) & mask, p->seg, n, (u8 *)zeros + at};
        fn(c, p);
    }
}

static void write_run(struct cpu *c, void *arg)
{
    struct part *p = arg;
    cpu_fpu_copy_out(c, p->seg, p->ea, p->buf, p->size);
}

struct stores {
    const u8 *zeros, *ones;
    unsigned seg, size;
    u64 ea;
};

static void touch_all(struct cpu *c, void *arg)
{
    struct stores *st = arg;
    struct part p = {.ea = st->ea, .seg = st->seg};
    each_run(c, st->zeros, st->ones, &p, st->size, touch_part);
}

static void masked_store_slow(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s,
                              u64 ea)
{
    u8 *zeros = c->fpu->bounce, *ones = zeros + 64;
    cpu_fill(zeros, 0, 64);
    cpu_fill(ones, 0xff, 64);
    unsigned fault = cpu_fpu_call(c, s, zeros);
    if (fault || (fault = cpu_fpu_call(c, s, ones)))
        cpu_fpu_raise(c, fault);
    struct stores st = {zeros, ones, i->seg, s->size, ea};
    if (!cpu_fpu_try(c, touch_all, &st)) {
        cpu_la(c, i->seg, ea, s->size, true); /* the segment comes first */
        touch_all(c, &st);
    }
    struct part p = {.ea = ea, .seg = i->seg};
    each_run(c, zeros, ones, &p, s->size, write_run);
}

static void masked_store(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s, u64 ea)
{
    const struct seg *sg = &c->seg[i->seg];
    gva_t la = (ea + sg->base) & c->la_mask;
    if (settle_alignment(c, i, s, ea, la) || settle_canonical(c, i, s, ea, la))
        return;
    if (s->quirks & QUIRK_WHOLE)
        cpu_fpu_probe_write(c, i->seg, ea, s->size);
    struct tlb_entry *t = cpu_tlb_at(c, la);
    bool in_page = ea + s->size <= sg->wr_end && cpu_in_page(la, s->size);
    if (in_page && t->wr != (la & ~PAGE_MASK)) {
        struct part whole = {ea, i->seg, s->size, NULL};
        cpu_fpu_try(c, touch_part, &whole); /* fills the TLB if it can be written at all */
    }
    if (!in_page || t->wr != (la & ~PAGE_MASK)) {
        masked_store_slow(c, i, s, ea);
        return;
    }
    unsigned fault = cpu_fpu_call(c, s, (u8 *)(la + t->addend));
    if (unlikely(fault))
        cpu_fpu_raise(c, fault);
    cpu_wrote(c, t->code, la, s->size);
}

void cpu_fpu_masked(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s, u64 ea)
{
    if (s->flags & STUB_WRITE)
        masked_store(c, i, s, ea);
    else
        masked_load(c, i, s, ea);
}

/* --- gathers and scatters: in the image, which is up to date after every element --- */

/* Where byte `at` (0..63) of vector register n lies. Elements do not straddle the pieces. */
static u8 *vreg(struct cpu_fpu *f, unsigned n, unsigned at)
{
    if (n >= 16)
        return f->image + f->offset[7] + 64 * (n - 16) + at;
    if (at < 16)
        return f->image + IMG_XMM + 16 * n + at;
    if (at < 32)
        return f->image + f->offset[2] + 16 * n + at - 16;
    return f->image + f->offset[6] + 32 * n + at - 32;
}

static u64 get_elem(const u8 *p, unsigned size)
{
    return size == 8 ? *(const u64 *)p : *(const u32 *)p;
}

static void put_elem(u8 *p, unsigned size, u64 v)
{
    if (size == 8)
        *(u64 *)p = v;
    else
        *(u32 *)p = (u32)v;
}

static u8 *opmask(struct cpu_fpu *f, unsigned n)
{
    return f->image + f->offset[5] + 8 * n;
}

static bool mask_bit(struct cpu_fpu *f, const struct fpu_stub *s, unsigned k)
{
    if (s->evex)
        return *(u64 *)opmask(f, s->mask) >> k & 1;
    return get_elem(vreg(f, s->mask, k * s->elem), s->elem) >> (8 * s->elem - 1) & 1;
}

static void clear_mask_bit(struct cpu_fpu *f, const struct fpu_stub *s, unsigned k)
{
    if (s->evex)
        *(u64 *)opmask(f, s->mask) &= ~BIT(k);
    else
        put_elem(vreg(f, s->mask, k * s->elem), s->elem, 0);
}

static void zero_from(struct cpu_fpu *f, unsigned n, unsigned at)
{
    unsigned end = f->features & XCR0_ZMM_HI256 ? 64 : 32;
    for (; at < end; at += 4)
        put_elem(vreg(f, n, at), 4, 0);
}

static u64 element_ea(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s, unsigned k)
{
    u64 index = get_elem(vreg(c->fpu, i->index, k * s->index), s->index);
    if (s->index == 4)
        index = (u64)(s32)index;
    return (c->reg[i->base] + (index << i->scale) + (s64)i->disp) & size_mask(i->adsize);
}

/* Elements are never checked for alignment (SDM vol. 2C, VGATHER*, VSCATTER*: EFLAGS.AC). */
static u64 load_elem(struct cpu *c, unsigned seg, u64 ea, unsigned size)
{
    u64 v = 0;
    if (likely(!(c->eflags & FLAG_AC)))
        return cpu_ld(c, seg, ea, size);
    for (unsigned n = 0; n < size; n++)
        v |= (u64)cpu_ld8(c, seg, ea + n) << 8 * n;
    return v;
}

static void store_elem(struct cpu *c, unsigned seg, u64 ea, unsigned size, u64 v)
{
    if (likely(!(c->eflags & FLAG_AC))) {
        cpu_st(c, seg, ea, size, v);
        return;
    }
    cpu_fpu_probe_write(c, seg, ea, 1);
    cpu_fpu_probe_write(c, seg, ea + size - 1, 1);
    for (unsigned n = 0; n < size; n++)
        cpu_st8(c, seg, ea + n, (u8)(v >> 8 * n));
}

/* VEX masks count by their sign bits; even a gather that faults leaves whole elements behind. */
static void spread_mask(struct cpu_fpu *f, const struct fpu_stub *s)
{
    for (unsigned k = 0; k < s->vl / s->elem; k++) {
        u8 *p = vreg(f, s->mask, k * s->elem);
        put_elem(p, s->elem, mask_bit(f, s, k) ? ~0ull : 0);
    }
    zero_from(f, s->mask, s->vl);
}

/* VZEROALL, VZEROUPPER outside 64-bit code, where there are only eight registers. */
void cpu_fpu_zero(struct cpu *c, bool all)
{
    cpu_leave(c);
    for (unsigned n = 0; n < 8; n++)
        zero_from(c->fpu, n, all ? 0 : 16);
}

void cpu_fpu_gather(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s)
{
    struct cpu_fpu *f = c->fpu;
    unsigned n = s->vl / (s->elem > s->index ? s->elem : s->index);
    bool scatter = s->kind == STUB_SCATTER;
    cpu_leave(c);
    u64 used = XCR0_SSE | XCR0_AVX;
    if (s->evex)
        used |= XCR0_OPMASK | XCR0_ZMM_HI256 | XCR0_HI16_ZMM;
    img_put64(f, IMG_XSTATE_BV, img64(f, IMG_XSTATE_BV) | (used & f->features));
    if (!s->evex)
        spread_mask(f, s);
    for (unsigned k = 0; k < n; k++) {
        if (!mask_bit(f, s, k))
            continue;
        u64 ea = element_ea(c, i, s, k);
        u8 *data = vreg(f, i->reg, k * s->elem);
        if (scatter)
            store_elem(c, i->seg, ea, s->elem, get_elem(data, s->elem));
        else
            put_elem(data, s->elem, load_elem(c, i->seg, ea, s->elem));
        clear_mask_bit(f, s, k);
        if (!scatter)
            zero_from(f, i->reg, s->vl); /* even if the next faults */
    }
    if (!scatter)
        zero_from(f, i->reg, n * s->elem);
    if (s->evex)
        *(u64 *)opmask(f, s->mask) = 0;
    else
        zero_from(f, s->mask, 0);
}
