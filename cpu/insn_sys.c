/*
 * insn_sys.c - descriptor tables, selectors, segment registers; I/O permission (SDM vol. 2; vol.
 * 3A, chapters 2 and 5).
 */
#include "cpu/insn_sys.h"

#include "cpu/cpu_far.h"
#include "cpu/insn_ops.h"

/* An operand `off` bytes past the ModRM operand's address. */
static u64 ea_plus(const struct cpu *c, const struct x86_insn *i, unsigned off)
{
    return (cpu_ea(c, i) + off) & size_mask(i->adsize);
}

static void need_cpl0(struct cpu *c)
{
    if (c->cpl != 0)
        cpu_throw_gp(c, 0);
}

static void need_protected(struct cpu *c)
{
    if (cpu_realish(c))
        cpu_throw_ud(c);
}

/* CR4.UMIP: only the kernel may see where its tables are. */
static void need_umip(struct cpu *c)
{
    if (c->cr4 & CR4_UMIP && c->cpl != 0)
        cpu_throw_gp(c, 0);
}

/* --- GDTR, IDTR --- */

static void load_table(struct cpu *c, const struct x86_insn *i, struct dtable *t)
{
    need_cpl0(c);
    u16 limit = cpu_ld16(c, i->seg, cpu_ea(c, i));
    u64 base = cpu_ld(c, i->seg, ea_plus(c, i, 2), c->mode == X86_MODE64 ? 8 : 4);
    if (c->mode != X86_MODE64 && i->opsize == 2)
        base &= 0xffffff;
    if (!x86_canonical(base))
        cpu_throw_gp(c, 0);
    *t = (struct dtable){.base = base, .limit = limit};
}

static void store_table(struct cpu *c, const struct x86_insn *i, const struct dtable *t)
{
    need_umip(c);
    /* The base first: a fault in the middle leaves less behind. All of it even with 16-bit
     * operands, as processors since the 386 do. */
    cpu_st(c, i->seg, ea_plus(c, i, 2), c->mode == X86_MODE64 ? 8 : 4, t->base);
    cpu_st16(c, i->seg, cpu_ea(c, i), t->limit);
}

void insn_lgdt(struct cpu *c, const struct x86_insn *i)
{
    load_table(c, i, &c->gdtr);
}

void insn_lidt(struct cpu *c, const struct x86_insn *i)
{
    load_table(c, i, &c->idtr);
}

void insn_sgdt(struct cpu *c, const struct x86_insn *i)
{
    store_table(c, i, &c->gdtr);
}

void insn_sidt(struct cpu *c, const struct x86_insn *i)
{
    store_table(c, i, &c->idtr);
}

/* --- LDTR, TR --- */

/* A selector goes to memory as 16 bits whatever the operand size, to a register zero-extended. */
static void store_sel(struct cpu *c, const struct x86_insn *i, u16 sel)
{
    if (i->prefix & X86_PFX_MEM)
        cpu_st16(c, i->seg, cpu_ea(c, i), sel);
    else
        reg_set(c, i->rm, i->opsize, sel);
}

void insn_lldt(struct cpu *c, const struct x86_insn *i)
{
    need_protected(c);
    need_cpl0(c);
    cpu_load_ldt(c, (u16)rm_get(c, i, 2));
}

void insn_ltr(struct cpu *c, const struct x86_insn *i)
{
    need_protected(c);
    need_cpl0(c);
    cpu_load_tr(c, (u16)rm_get(c, i, 2));
}

void insn_sldt(struct cpu *c, const struct x86_insn *i)
{
    need_protected(c);
    need_umip(c);
    store_sel(c, i, c->ldtr.sel);
}

void insn_str(struct cpu *c, const struct x86_insn *i)
{
    need_protected(c);
    need_umip(c);
    store_sel(c, i, c->tr.sel);
}

/* --- LAR, LSL, VERR, VERW, ARPL --- */

static void set_zf(struct cpu *c, bool zf)
{
    set_flags_masked(c, FLAG_ZF, zf ? FLAG_ZF : 0);
}

static bool is_conforming(u32 attr)
{
    const u32 bits = SEG_S | SEG_CODE | SEG_CONFORM;
    return (attr & bits) == bits;
}

/* The descriptor, if it may be seen with CPL and the selector's RPL. */
static bool visible(struct cpu *c, u16 sel, struct desc *d)
{
    if (sel_null(sel) || !cpu_read_desc(c, sel, d))
        return false;
    unsigned dpl = desc_dpl(d->lo);
    return is_conforming(desc_attr(d->lo)) || (c->cpl <= dpl && (sel & 3) <= dpl);
}

/* System types of which LAR (LSL) tells, a bit each; the 16-bit ones do not exist in long mode. */
static bool type_in(const struct cpu *c, u64 desc, u32 legacy, u32 longm)
{
    u32 attr = desc_attr(desc);
    return attr & SEG_S || (cpu_long(c) ? longm : legacy) >> (attr & SEG_TYPE) & 1;
}

#define T(type)        (1u << SYS_##type)
#define TYPES_LSL_LONG (T(LDT) | T(TSS32_AVAIL) | T(TSS32_BUSY))
#define TYPES_LSL      (TYPES_LSL_LONG | T(TSS16_AVAIL) | T(TSS16_BUSY))
#define TYPES_LAR_LONG (TYPES_LSL_LONG | T(CALL32))
#define TYPES_LAR      (TYPES_LSL | T(CALL16) | T(CALL32) | T(TASK_GATE))

void insn_lar(struct cpu *c, const struct x86_insn *i)
{
    struct desc d;
    need_protected(c);
    u16 sel = (u16)rm_get(c, i, 2);
    bool ok = visible(c, sel, &d) && type_in(c, d.lo, TYPES_LAR, TYPES_LAR_LONG);
    if (ok)
        reg_set(c, i->reg, i->opsize, d.lo >> 32 & 0x00ffff00);
    set_zf(c, ok);
}

void insn_lsl(struct cpu *c, const struct x86_insn *i)
{
    struct desc d;
    need_protected(c);
    u16 sel = (u16)rm_get(c, i, 2);
    bool ok = visible(c, sel, &d) && type_in(c, d.lo, TYPES_LSL, TYPES_LSL_LONG);
    if (ok)
        reg_set(c, i->reg, i->opsize, desc_limit(d.lo));
    set_zf(c, ok);
}

void insn_verr(struct cpu *c, const struct x86_insn *i)
{
    struct desc d;
    need_protected(c);
    bool ok = visible(c, (u16)rm_get(c, i, 2), &d);
    u32 attr = ok ? desc_attr(d.lo) : 0;
    set_zf(c, attr & SEG_S && (!(attr & SEG_CODE) || attr & SEG_READABLE));
}

void insn_verw(struct cpu *c, const struct x86_insn *i)
{
    struct desc d;
    need_protected(c);
    bool ok = visible(c, (u16)rm_get(c, i, 2), &d);
    u32 attr = ok ? desc_attr(d.lo) : 0;
    set_zf(c, attr & SEG_S && !(attr & SEG_CODE) && attr & SEG_WRITABLE);
}

void insn_arpl(struct cpu *c, const struct x86_insn *i)
{
    need_protected(c);
    u16 dst = (u16)rm_get(c, i, 2), rpl = c->reg[i->reg] & 3;
    bool raise = (dst & 3) < rpl;
    if (raise)
        rm_set(c, i, 2, (dst & ~3u) | rpl);
    set_zf(c, raise);
}

/* --- segment registers --- */

/* MOV and POP to SS: nothing comes between this and the next instruction (SDM vol. 3A, 6.8.3). */
static void shadow_after_ss(struct cpu *c)
{
    c->shadow = c->shadow_ss = true;
    cpu_event_set(c, EV_SLOW);
}

void insn_mov_from_sreg(struct cpu *c, const struct x86_insn *i)
{
    if (i->reg > GS)
        cpu_throw_ud(c);
    store_sel(c, i, c->seg[i->reg].sel);
}

void insn_mov_to_sreg(struct cpu *c, const struct x86_insn *i)
{
    if (i->reg > GS || i->reg == CS)
        cpu_throw_ud(c);
    cpu_load_seg(c, i->reg, (u16)rm_get(c, i, 2));
    if (i->reg == SS)
        shadow_after_ss(c);
}

void insn_push_sreg(struct cpu *c, const struct x86_insn *i)
{
    struct cpu_stack s;
    u64 sel = c->seg[i->reg].sel;
    if (i->opsize == 8) {
        cpu_push(c, 8, sel);
        return;
    }
    /* Only 16 bits are written; with 32-bit operands the rest of the slot stays (SDM, PUSH). */
    cpu_stack_current(c, &s);
    cpu_stack_skip(&s, 2 - (s64)i->opsize);
    cpu_stack_push(c, &s, 2, sel);
    cpu_stack_commit(c, &s);
}

void insn_pop_sreg(struct cpu *c, const struct x86_insn *i)
{
    struct cpu_stack s;
    cpu_stack_current(c, &s);
    u16 sel = cpu_stack_pop_sel(c, &s, i->opsize);
    cpu_load_seg(c, i->reg, sel);
    cpu_stack_commit(c, &s);
    if (i->reg == SS)
        shadow_after_ss(c);
}

static void load_far(struct cpu *c, const struct x86_insn *i, unsigned seg)
{
    u64 off = cpu_ld(c, i->seg, cpu_ea(c, i), i->opsize);
    u16 sel = cpu_ld16(c, i->seg, ea_plus(c, i, i->opsize));
    cpu_load_seg(c, seg, sel);
    reg_set(c, i->reg, i->opsize, off);
}

void insn_les(struct cpu *c, const struct x86_insn *i)
{
    load_far(c, i, ES);
}

void insn_lds(struct cpu *c, const struct x86_insn *i)
{
    load_far(c, i, DS);
}

void insn_lss(struct cpu *c, const struct x86_insn *i)
{
    load_far(c, i, SS);
}

void insn_lfs(struct cpu *c, const struct x86_insn *i)
{
    load_far(c, i, FS);
}

void insn_lgs(struct cpu *c, const struct x86_insn *i)
{
    load_far(c, i, GS);
}

/* --- BOUND --- */

void insn_bound(struct cpu *c, const struct x86_insn *i)
{
    unsigned width = 8 * i->opsize;
    s64 index = sext(c->reg[i->reg], width);
    s64 low = sext(cpu_ld(c, i->seg, cpu_ea(c, i), i->opsize), width);
    if (index < low) /* before the upper bound is read */
        cpu_throw(c, EXC_BR, 0);
    s64 high = sext(cpu_ld(c, i->seg, ea_plus(c, i, i->opsize), i->opsize), width);
    if (index > high)
        cpu_throw(c, EXC_BR, 0);
}

/* --- I/O permission --- */

void cpu_check_io(struct cpu *c, u16 port, unsigned size)
{
    if (!cpu_protected(c) || (!cpu_v86(c) && c->cpl <= cpu_iopl(c)))
        return;
    bool wide = (c->tr.attr & SEG_TYPE) == SYS_TSS32_BUSY;
    if (!wide || c->tr.limit < 103)
        cpu_throw_gp(c, 0);
    u32 map = (u32)cpu_sys_read(c, cpu_sys_la(c, c->tr.base + 102), 2);
    u32 at = map + port / 8u;
    if (at + 1 > c->tr.limit) /* two bytes are always read */
        cpu_throw_gp(c, 0);
    u32 denied = (u32)cpu_sys_read(c, cpu_sys_la(c, c->tr.base + at), 2) >> (port & 7);
    if (denied & ((1u << size) - 1))
        cpu_throw_gp(c, 0);
}
