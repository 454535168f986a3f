/*
 * cpu_seg.c - segment registers, descriptors, and the stack of the current mode.
 */
#include "cpu/cpu_far.h"
#include "cpu/cpu_mem.h"
#include "cpu/cpu_paging.h"
#include "cpu/cpu_seg.h"
#include "cpu/cpu_shadow.h"

/* --- descriptors --- */

/* In long mode the system descriptors that hold an address take 16 bytes (SDM vol. 3A, 3.5, 5.8).
 */
static bool is_wide(const struct cpu *c, u64 lo)
{
    if (!cpu_long(c) || desc_attr(lo) & SEG_S)
        return false;
    unsigned type = desc_attr(lo) & SEG_TYPE;
    return type == SYS_LDT || type == SYS_TSS32_AVAIL || type == SYS_TSS32_BUSY ||
           type == SYS_CALL32;
}

bool cpu_read_desc(struct cpu *c, u16 sel, struct desc *d)
{
    u64 base = c->gdtr.base;
    u32 limit = c->gdtr.limit, off = sel & 0xfff8;
    if (sel & 4) {
        if (c->ldtr.attr & SEG_UNUSABLE)
            return false;
        base = c->ldtr.base;
        limit = c->ldtr.limit;
    }
    if (off + 7 > limit)
        return false;
    d->at = cpu_sys_la(c, base + off);
    d->lo = cpu_sys_read(c, d->at, 8);
    d->hi = 0;
    if (is_wide(c, d->lo)) {
        if (off + 15 > limit)
            return false;
        d->hi = cpu_sys_read(c, cpu_sys_la(c, base + off + 8), 8);
    }
    return true;
}

void cpu_need_desc(struct cpu *c, u16 sel, unsigned vec, struct desc *d)
{
    if (sel_null(sel) || !cpu_read_desc(c, sel, d))
        cpu_throw(c, vec, sel_err(sel));
}

/*
 * Sets and clears bits of the access byte as the processor does, by a locked access: another CPU
 * may be loading the same segment, or switching to the same task.
 */
static void change_access_byte(struct cpu *c, struct desc *d, u8 set, u8 clear)
{
    gva_t la = cpu_sys_la(c, d->at + 5);
    struct walk w;
    if (!cpu_walk(c, la, PF_W | (c->cr4 & CR4_SMAP ? WALK_SMAP : 0), &w))
        cpu_throw_pf(c, la, w.err);
    const struct mem_region *r = mem_find(c->mem, w.gpa);
    if (!r || r->rom) {
        cpu_sys_write(c, la, 1, (d->lo >> 40 & 0xff & (u8)~clear) | set);
        return;
    }
    _Atomic u8 *p = (_Atomic u8 *)(r->host + (w.gpa - r->gpa));
    if (set)
        atomic_fetch_or(p, set);
    if (clear)
        atomic_fetch_and(p, (u8)~clear);
    cpu_wrote(c, &c->mem->code_map[mem_page(r, w.gpa)], la, 1);
}

void cpu_desc_accessed(struct cpu *c, struct desc *d)
{
    if (likely(d->lo & DESC_ACCESSED))
        return;
    change_access_byte(c, d, SEG_ACCESSED, 0);
    d->lo |= DESC_ACCESSED;
}

void cpu_desc_busy(struct cpu *c, struct desc *d, bool busy)
{
    u8 bit = SYS_TSS16_AVAIL ^ SYS_TSS16_BUSY;
    change_access_byte(c, d, busy ? bit : 0, busy ? 0 : bit);
    d->lo = busy ? d->lo | DESC_BUSY : d->lo & ~DESC_BUSY;
}

/* --- hidden parts --- */

static void derive(struct cpu *c, struct seg *s)
{
    if (c->mode == X86_MODE64) {
        s->rd_end = s->wr_end = UINT64_MAX;
        return;
    }
    s->rd_end = s->wr_end = 0;
    /* With a limit of 4 GiB processors let accesses wrap (SDM vol. 3A, 5.3: implementation). */
    u64 end = s->limit == UINT32_MAX ? UINT64_MAX : (u64)s->limit + 1;
    if (s->attr & SEG_UNUSABLE)
        return;
    if (!cpu_protected(c)) { /* types of protected mode's leftovers do not matter */
        s->rd_end = s->wr_end = end;
        return;
    }
    if (!(s->attr & SEG_P))
        return;
    if (s->attr & SEG_CODE) {
        s->rd_end = s->attr & SEG_READABLE ? end : 0;
    } else if (!(s->attr & SEG_EXPDOWN)) {
        s->rd_end = end;
        s->wr_end = s->attr & SEG_WRITABLE ? end : 0;
    }
}

void cpu_seg_derive(struct cpu *c)
{
    for (unsigned n = ES; n <= GS; n++)
        derive(c, &c->seg[n]);
    struct seg *flat = &c->seg[X86_SEG_FLAT];
    flat->base = 0;
    flat->limit = UINT32_MAX;
    flat->rd_end = flat->wr_end = UINT64_MAX;
}

void cpu_seg_from_desc(struct seg *s, u16 sel, u64 desc)
{
    s->sel = sel;
    s->base = desc_base(desc);
    s->limit = desc_limit(desc);
    s->attr = desc_attr(desc);
}

void cpu_set_seg(struct cpu *c, unsigned seg, u16 sel, u64 desc)
{
    cpu_seg_from_desc(&c->seg[seg], sel, desc | DESC_ACCESSED);
    derive(c, &c->seg[seg]);
}

void cpu_set_seg_null(struct cpu *c, unsigned seg, u16 sel)
{
    struct seg *s = &c->seg[seg];
    s->sel = sel;
    s->base = 0;
    s->limit = 0;
    s->attr = SEG_UNUSABLE | (seg == SS ? (u32)c->cpl << SEG_DPL_SHIFT : 0);
    derive(c, s);
}

void cpu_set_seg_real(struct cpu *c, unsigned seg, u16 sel)
{
    struct seg *s = &c->seg[seg];
    s->sel = sel;
    s->base = (u64)sel << 4;
    if (cpu_protected(c)) { /* V86 */
        s->limit = 0xffff;
        s->attr = SEG_P | SEG_DPL | SEG_S | SEG_WRITABLE | SEG_ACCESSED;
    } else if (s->attr & SEG_UNUSABLE) {
        s->limit = 0xffff;
        s->attr = SEG_P | SEG_S | SEG_WRITABLE | SEG_ACCESSED;
    }
    derive(c, s);
}

/* --- data and stack segments (SDM vol. 3A, 5.6, 5.7; vol. 2, MOV) --- */

void cpu_check_ss(struct cpu *c, u16 sel, unsigned cpl, unsigned vec, struct desc *d)
{
    cpu_need_desc(c, sel, vec, d);
    u32 attr = desc_attr(d->lo);
    bool stack = (attr & (SEG_S | SEG_CODE | SEG_WRITABLE)) == (SEG_S | SEG_WRITABLE);
    if ((sel & 3) != cpl || !stack || desc_dpl(d->lo) != cpl)
        cpu_throw(c, vec, sel_err(sel));
    if (!(attr & SEG_P))
        cpu_throw(c, EXC_SS, sel_err(sel));
}

void cpu_check_data(struct cpu *c, u16 sel, unsigned cpl, unsigned vec, struct desc *d)
{
    cpu_need_desc(c, sel, vec, d);
    u32 attr = desc_attr(d->lo);
    bool code = attr & SEG_CODE;
    if (!(attr & SEG_S) || (code && !(attr & SEG_READABLE)))
        cpu_throw(c, vec, sel_err(sel));
    bool conforming = code && attr & SEG_CONFORM;
    unsigned dpl = desc_dpl(d->lo);
    if (!conforming && (dpl < cpl || dpl < (sel & 3)))
        cpu_throw(c, vec, sel_err(sel));
    if (!(attr & SEG_P))
        cpu_throw(c, EXC_NP, sel_err(sel));
}

static void load_ss(struct cpu *c, u16 sel)
{
    struct desc d;
    if (sel_null(sel)) {
        if (c->mode != X86_MODE64 || c->cpl == 3 || (sel & 3) != c->cpl)
            cpu_throw_gp(c, 0);
        cpu_set_seg_null(c, SS, sel);
        return;
    }
    cpu_check_ss(c, sel, c->cpl, EXC_GP, &d);
    cpu_desc_accessed(c, &d);
    cpu_set_seg(c, SS, sel, d.lo);
}

/* For emitted code, which compares the descriptor with d->lo before it does the same again. */
static void know(struct cpu *c, unsigned seg, const struct desc *d)
{
    const struct seg *s = &c->seg[seg];
    if (!c->shadow_table || c->mode != X86_MODE32 || c->cpl || s->sel & 4 || d->at & 7)
        return;
    if (d->lo)
        cpu_shadow_fill(c, d->at, 8, false, false);
    c->seg_known[seg_known_slot(s->sel)] =
        (struct seg_known){.key = s->sel | SEG_KNOWN,
                           .flat = !s->base && s->rd_end == UINT64_MAX && s->wr_end == UINT64_MAX,
                           .raw = d->lo,
                           .seg = *s};
}

void cpu_load_seg(struct cpu *c, unsigned seg, u16 sel)
{
    struct desc d = {0};
    if (cpu_realish(c)) {
        cpu_set_seg_real(c, seg, sel);
        return;
    }
    if (seg == SS) {
        load_ss(c, sel);
        return;
    }
    if (sel_null(sel)) {
        cpu_set_seg_null(c, seg, sel);
    } else {
        cpu_check_data(c, sel, c->cpl, EXC_GP, &d);
        cpu_desc_accessed(c, &d);
        cpu_set_seg(c, seg, sel, d.lo);
    }
    know(c, seg, &d);
}

/* --- LDTR and TR --- */

/* Base of a 16-byte descriptor; the hidden part of LDTR or TR. */
static void set_system(struct cpu *c, struct seg *s, u16 sel, const struct desc *d)
{
    cpu_seg_from_desc(s, sel, d->lo);
    if (cpu_long(c))
        s->base |= d->hi << 32;
    s->rd_end = s->wr_end = (u64)s->limit + 1;
}

static void check_system_base(struct cpu *c, u16 sel, const struct desc *d)
{
    if (cpu_long(c) && !x86_canonical(desc_base(d->lo) | d->hi << 32))
        cpu_throw_gp(c, sel_err(sel));
}

void cpu_load_ldt_as(struct cpu *c, u16 sel, unsigned bad, unsigned absent)
{
    struct desc d;
    if (sel_null(sel)) {
        c->ldtr = (struct seg){.sel = sel, .attr = SEG_UNUSABLE};
        return;
    }
    if (sel & 4)
        cpu_throw(c, bad, sel_err(sel));
    cpu_need_desc(c, sel, bad, &d);
    if ((desc_attr(d.lo) & (SEG_S | SEG_TYPE)) != SYS_LDT)
        cpu_throw(c, bad, sel_err(sel));
    if (!(desc_attr(d.lo) & SEG_P))
        cpu_throw(c, absent, sel_err(sel));
    check_system_base(c, sel, &d);
    set_system(c, &c->ldtr, sel, &d);
}

void cpu_load_ldt(struct cpu *c, u16 sel)
{
    cpu_load_ldt_as(c, sel, EXC_GP, EXC_NP);
}

void cpu_set_tr(struct cpu *c, u16 sel, const struct desc *d)
{
    set_system(c, &c->tr, sel, d);
}

void cpu_load_tr(struct cpu *c, u16 sel)
{
    struct desc d;
    if (sel & 4)
        cpu_throw_gp(c, sel_err(sel));
    cpu_need_desc(c, sel, EXC_GP, &d);
    unsigned type = desc_attr(d.lo) & (SEG_S | SEG_TYPE);
    if (type != SYS_TSS32_AVAIL && (type != SYS_TSS16_AVAIL || cpu_long(c)))
        cpu_throw_gp(c, sel_err(sel));
    if (!(desc_attr(d.lo) & SEG_P))
        cpu_throw(c, EXC_NP, sel_err(sel));
    check_system_base(c, sel, &d);
    cpu_desc_busy(c, &d, true);
    cpu_set_tr(c, sel, &d);
}

/* --- code and stack of the current mode --- */

void cpu_check_rip(struct cpu *c, u64 rip)
{
    bool ok = c->mode == X86_MODE64 ? x86_canonical(rip) : rip <= c->seg[CS].limit;
    if (!ok)
        cpu_throw_gp(c, 0);
}

/* In 64-bit code SS has no base and no limit, but what is not canonical is #SS all the same. */
static unsigned stack_seg(struct cpu *c, u64 sp, unsigned size)
{
    if (c->mode != X86_MODE64)
        return SS;
    if (unlikely(!x86_canonical(sp) || !x86_canonical(sp + size - 1)))
        cpu_throw(c, EXC_SS, 0);
    return X86_SEG_FLAT;
}

void cpu_push(struct cpu *c, unsigned size, u64 val)
{
    u64 sp = (c->reg[RSP] - size) & cpu_sp_mask(c);
    cpu_st(c, stack_seg(c, sp, size), sp, size, val);
    cpu_set_sp(c, sp);
}

u64 cpu_pop(struct cpu *c, unsigned size)
{
    u64 sp = c->reg[RSP] & cpu_sp_mask(c);
    u64 val = cpu_ld(c, stack_seg(c, sp, size), sp, size);
    cpu_set_sp(c, sp + size);
    return val;
}
