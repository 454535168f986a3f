/*
 * bt_mem.c - memory operands: the shadow table looked up by emitted code.
 */
#include "engine/bt/bt_tr.h"

/* --- flags across a look-up --- */

void bt_save_flags(struct tr *t)
{
    if (!t->flags_live || t->flags_saved)
        return;
    struct emit *e = &t->e;
    bt_t1_used(t);
    t->flags_saved = true;
    emit_mov(e, T1, RAX);
    e8(e, 0x9f);                           /* lahf */
    e8(e, 0x0f), e8(e, 0x90), e8(e, 0xc0); /* seto al */
    e8(e, 0x65), e8(e, 0x66), e8(e, 0x89); /* mov gs:[aflags], ax */
    e8(e, 0x04), e8(e, 0x25), e32(e, GS_CPU(aflags));
    emit_mov(e, RAX, T1);
}

void bt_restore_flags(struct tr *t)
{
    struct emit *e = &t->e;
    bt_t1_used(t);
    emit_mov(e, T1, RAX);
    e8(e, 0x65), e8(e, 0x0f), e8(e, 0xb7); /* movzx eax, gs:[aflags] */
    e8(e, 0x04), e8(e, 0x25), e32(e, GS_CPU(aflags));
    e8(e, 0x04), e8(e, 0x7f); /* add al, 7f */
    e8(e, 0x9e);              /* sahf */
    emit_mov(e, RAX, T1);
}

void bt_want_flags(struct tr *t)
{
    if (!t->flags_saved)
        return;
    t->flags_saved = false;
    bt_restore_flags(t);
}

/* --- out of line --- */

struct cold *bt_cold(struct tr *t, enum cold_kind kind)
{
    assert(t->ncold < COLD_MAX);
    struct cold *k = &t->cold[t->ncold++];
    *k = (struct cold){.kind = kind,
                       .op = t->op,
                       .at = t->at,
                       .next = t->next,
                       .saved = t->flags_saved,
                       .fpu = t->fpu_level != 0,
                       .shadow = t->in_shadow};
    return k;
}

void bt_body_if(struct tr *t, unsigned cc)
{
    struct cold *k = bt_cold(t, COLD_BODY);
    k->saved = t->flags_live;
    k->body = emit_jcc(&t->e, cc, t->e.p);
}

void bt_cold_resume(struct tr *t)
{
    for (unsigned n = t->op_cold; n < t->ncold; n++)
        t->cold[n].resume = t->e.p;
}

/* --- addresses --- */

unsigned bt_reg(struct tr *t, unsigned reg, unsigned temp)
{
    if (!is_homed(reg))
        return host_reg(reg);
    u8 *home = &t->t_home[temp == T1];
    if (*home == reg)
        return temp;
    if (temp == T1)
        bt_t1_used(t);
    emit_load(&t->e, temp, GS_REG(reg));
    *home = (u8)reg;
    return temp;
}

void bt_store_home(struct tr *t, unsigned reg, unsigned temp)
{
    emit_store(&t->e, temp, GS_REG(reg));
    if (t->t_home[temp != T1] == reg) /* the other one is out of date */
        t->t_home[temp != T1] = 0;
    t->t_home[temp == T1] = (u8)reg;
}

void bt_rip(struct tr *t, unsigned dst, s64 offset)
{
    emit_load(&t->e, dst, GS_WORD(BT_VBASE));
    emit_mem_sized(&t->e, t->word, 0x8d, dst, dst, (s32)offset); /* lea */
}

static void emit_mov_imm(struct tr *t, unsigned reg, s32 imm)
{
    struct emit *e = &t->e;
    e8(e, 0x48 | (reg >> 3 & 1)), e8(e, 0xc7), e8(e, 0xc0 | (reg & 7)), e32(e, (u32)imm);
}

/* lea T0, [base + index * 2^scale + disp] of `width` bytes */
static void emit_lea_sib(struct tr *t, unsigned width, unsigned base, unsigned index,
                         unsigned scale, s32 disp)
{
    struct emit *e = &t->e;
    e8(e, 0x40 | (width & 8) | (T0 >> 3) << 2 | (index >> 3 & 1) << 1 | (base >> 3 & 1));
    e8(e, 0x8d);
    emit_sib(e, T0, base, index, scale, disp);
}

/* The same without a base. */
static void emit_lea_scaled(struct tr *t, unsigned width, unsigned index, unsigned scale, s32 disp)
{
    struct emit *e = &t->e;
    e8(e, 0x40 | (width & 8) | (T0 >> 3) << 2 | (index >> 3 & 1) << 1);
    e8(e, 0x8d);
    e8(e, (T0 & 7) << 3 | 4);
    e8(e, scale << 6 | (index & 7) << 3 | 5);
    e32(e, (u32)disp);
}

void bt_ea(struct tr *t, s32 more)
{
    const struct x86_insn *i = &t->op->i;
    unsigned width = i->adsize;
    s32 disp = i->disp + more;
    if (i->base == X86_SLOT_RIP) {
        s64 sum = (s64)disp + t->next;
        emit_load(&t->e, T0, GS_WORD(BT_VBASE));
        if (sum != (s32)sum)
            emit_lea(&t->e, T0, T0, t->next);
        emit_mem_sized(&t->e, width, 0x8d, T0, T0, sum == (s32)sum ? (s32)sum : disp);
    } else if (i->index != X86_SLOT_ZERO) {
        unsigned index = bt_reg(t, i->index, T1);
        if (i->base == X86_SLOT_ZERO)
            emit_lea_scaled(t, width, index, i->scale, disp);
        else
            emit_lea_sib(t, width, bt_reg(t, i->base, T0), index, i->scale, disp);
    } else if (i->base != X86_SLOT_ZERO) {
        emit_mem_sized(&t->e, width, 0x8d, T0, bt_reg(t, i->base, T0), disp);
    } else {
        emit_mov_imm(t, T0, disp);
        if (width == 4)
            emit_zero_extend(&t->e, T0);
    }
    t->t_home[0] = 0;
}

/* In 32-bit code translations are entered only while CS, DS, ES and SS are flat (bt.c). */
bool bt_seg_is_flat(const struct tr *t, unsigned seg)
{
    return seg == X86_SEG_FLAT || (t->word == 4 && seg < FS && seg != CS); /* CS: no writing */
}

bool bt_is_flat(const struct tr *t)
{
    return bt_seg_is_flat(t, t->op->i.seg);
}

static u32 seg_field(const struct tr *t, u32 field)
{
    return GS_CPU(seg) + t->op->i.seg * sizeof(struct seg) + field;
}

/* FS and GS of 32-bit code: the body has its say on whatever is beyond the quick limit. */
static void emit_limit_check(struct tr *t, unsigned size, bool write)
{
    struct emit *e = &t->e;
    bt_save_flags(t);
    emit_lea(e, T1, T0, (s32)size);
    emit_gs(e, 0x3b, T1,
            seg_field(t, write ? offsetof(struct seg, wr_end) : offsetof(struct seg, rd_end)));
    bt_body_if(t, 7); /* above */
}

void bt_address(struct tr *t, unsigned size, bool write)
{
    t->adisp = 0;
    const struct x86_insn *i = &t->op->i;
    if (bt_is_flat(t) && i->base < 16 && i->index == X86_SLOT_ZERO && !i->disp &&
        !is_homed(i->base) && i->adsize == t->word) {
        t->areg = host_reg(i->base);
        return;
    }
    bt_ea(t, 0);
    bt_linear(t, size, write);
}

void bt_linear(struct tr *t, unsigned size, bool write)
{
    t->adisp = 0;
    t->areg = T0;
    if (bt_is_flat(t))
        return;
    if (t->word == 4)
        emit_limit_check(t, size, write);
    emit_load(&t->e, T1, seg_field(t, offsetof(struct seg, base)));
    emit_lea_sib(t, t->word, T0, T1, 0, 0);
}

/* --- the look-up --- */

static u8 align_mask(unsigned size)
{
    unsigned n = 1;
    while (n < size)
        n *= 2;
    return (u8)(n - 1);
}

/* The operand is [RSP + a multiple of its size] while RSP is known to be aligned. */
static bool on_aligned_stack(const struct tr *t, unsigned size)
{
    const struct x86_insn *i = &t->op->i;
    return t->sp_aligned && i->prefix & X86_PFX_MEM && i->base == RSP &&
           i->index == X86_SLOT_ZERO && size <= t->word && !(i->disp & (s32)align_mask(size)) &&
           bt_is_flat(t);
}

/* T1 = the table's entry for the page of register `a`; JZ where there is none: its rel32. */
static u8 *emit_table(struct tr *t, unsigned a, bool write)
{
    struct emit *e = &t->e;
    bt_t1_used(t);
    e8(e, 0xc4), e8(e, 0x43 | (a & 8 ? 0 : 0x20)); /* rorx r13, a, 12 */
    e8(e, 0xfb), e8(e, 0xf0), e8(e, 0xc0 | (T1 & 7) << 3 | (a & 7)), e8(e, PAGE_SHIFT);
    e8(e, 0x65), e8(e, 0x67), e8(e, 0x4e), e8(e, 0x8b); /* mov r13, gs:[r13d * 8 + kind] */
    e8(e, 0x2c), e8(e, 0xed), e32(e, (u32)(8 * SHADOW_KIND_STEP * shadow_kind(t->mode, write)));
    e8(e, 0x4d), e8(e, 0x85), e8(e, 0xed); /* test r13, r13 */
    return emit_jcc(e, JZ, e->p);
}

static struct cold *cold_access(struct tr *t, unsigned size, bool write)
{
    struct cold *k = bt_cold(t, COLD_ACCESS);
    k->saved = t->flags_live;
    k->areg = t->areg;
    k->size = (u8)size;
    k->write = write;
    return k;
}

void bt_lookup(struct tr *t, unsigned size, bool write, enum bt_align align)
{
    struct emit *e = &t->e;
    unsigned a = t->areg;
    t->adisp = 0;
    bt_save_flags(t);
    struct cold *k = cold_access(t, size, write);
    k->body_only = align == MUST_ALIGN;
    if (align == ANY_ALIGN && on_aligned_stack(t, size))
        align = ALIGNED;
    if (size > 1 && align != ALIGNED) {
        e8(e, 0x40 | (a >> 3 & 1)), e8(e, 0xf6), e8(e, 0xc0 | (a & 7)); /* test a8, mask */
        e8(e, align_mask(size));
        k->cross = emit_jcc(e, JNZ, e->p);
    }
    k->aligned = k->retry = e->p;
    k->miss = emit_table(t, a, write);
}

/* --- shared --- */

static u32 group_word(const struct tr *t, const struct group *g)
{
    return GS_WORD(BT_GROUP + (unsigned)(g - t->group));
}

/*
 * 32-bit code's addresses wrap around at 4 GiB, so that register plus displacement, in 64 bits, may
 * be 4 GiB off. Where all accesses have the same in the register they are off by the same: what is
 * added to the register itself makes up for it.
 */
static bool from_base(const struct tr *t, const struct group *g)
{
    return t->word == 4 && g->based;
}

/*
 * The first of a group: T0 = where the group begins, for sure in one page with its end; T1 = what
 * to add, kept for the others: to T0, or to `base` (host's) if that is what they add to.
 */
static void emit_leader(struct tr *t, struct group *g, u8 *start, unsigned size, s32 ahead,
                        unsigned base)
{
    struct emit *e = &t->e;
    for (unsigned n = t->op_cold; n < t->ncold; n++)
        t->cold[n].leaves = true; /* the look-up is behind it */
    struct cold *slow = bt_cold(t, COLD_SLOW);
    slow->blk = (u8)t->bi;
    slow->insn = (u8)t->insn;
    emit_lea(e, T1, T0, g->hi - g->lo - 1);
    emit_rr(e, 0x31, T0, T1);                                      /* xor r13, r14 */
    e8(e, 0x41), e8(e, 0xf7), e8(e, 0xc5), e32(e, (u32)PAGE_SIZE); /* test r13d, PAGE_SIZE */
    slow->body = emit_jcc(e, JNZ, e->p);
    t->areg = T0;
    t->adisp = ahead;
    struct cold *k = cold_access(t, size, g->write);
    k->ahead = ahead;
    k->shared = true;
    k->retry = start;
    k->miss = emit_table(t, T0, g->write);
    if (from_base(t, g)) {
        emit_rr(e, 0x01, T0, T1);   /* add r13, r14 */
        emit_rr(e, 0x29, base, T1); /* sub r13, base */
        t->areg = (u8)base;
    }
    emit_store(e, T1, group_word(t, g));
    g->ready = true;
}

/* T1 = what to add. The access can only fail through another page's entry. */
static void emit_follower(struct tr *t, const struct group *g, unsigned size)
{
    if (t->t1_group != (s8)(g - t->group) || t->t1_insn + 1 != t->insn)
        emit_load(&t->e, T1, group_word(t, g));
    struct cold *k = bt_cold(t, COLD_ACCESS);
    k->size = (u8)size;
    k->write = g->write;
    k->shared = true;
}

static void remember_t1(struct tr *t, const struct group *g)
{
    t->t1_group = (s8)(g - t->group);
    t->t1_insn = t->insn;
}

static struct group *group_of(struct tr *t, unsigned which)
{
    s8 g = t->access[t->insn][which].group;
    return t->grouped && g >= 0 ? &t->group[g] : NULL;
}

void bt_operand(struct tr *t, unsigned size, bool write, enum bt_align align)
{
    const struct x86_insn *i = &t->op->i;
    struct group *g = group_of(t, 0);
    if (!g || align == MUST_ALIGN) {
        bt_address(t, size, write);
        bt_lookup(t, size, write, align);
        return;
    }
    s32 ahead = t->access[t->insn][0].off - g->lo;
    if (!g->ready) {
        bt_save_flags(t);
        bt_forget_temps(t);
        u8 *start = t->e.p;
        bt_ea(t, -ahead);
        emit_leader(t, g, start, size, ahead, host_reg(i->base & 15));
    } else if (from_base(t, g)) {
        t->areg = (u8)host_reg(i->base);
        t->adisp = ahead;
        emit_follower(t, g, size);
    } else {
        bool based =
            t->word == 8 && i->base < 16 && !is_homed(i->base) && i->index == X86_SLOT_ZERO;
        if (based) {
            t->areg = (u8)host_reg(i->base);
            t->adisp = i->disp;
        } else {
            bt_ea(t, 0);
            t->areg = T0;
            t->adisp = 0;
        }
        emit_follower(t, g, size);
    }
    remember_t1(t, g);
}

void bt_stack_operand(struct tr *t, s32 disp, bool write)
{
    struct group *g = group_of(t, 1);
    struct emit *e = &t->e;
    if (!g) {
        t->areg = GSP;
        if (disp)
            emit_mem_sized(e, t->word, 0x8d, t->areg = T0, GSP, disp);
        bt_lookup(t, t->word, write, ALIGNED);
        return;
    }
    s32 ahead = t->access[t->insn][1].off - g->lo;
    if (!g->ready) {
        bt_save_flags(t);
        bt_forget_temps(t);
        u8 *start = e->p;
        emit_mem_sized(e, t->word, 0x8d, T0, GSP, disp - ahead);
        emit_leader(t, g, start, t->word, ahead, GSP);
    } else {
        t->areg = GSP;
        t->adisp = from_base(t, g) ? ahead : disp;
        if (t->word == 4 && !g->based) {
            emit_mem_sized(e, 4, 0x8d, t->areg = T0, GSP, disp);
            t->adisp = 0;
        }
        emit_follower(t, g, t->word);
    }
    remember_t1(t, g);
}

void bt_combine(struct tr *t)
{
    emit_mem_index(&t->e, 8, 0x8d, T0, t->areg, T1, t->adisp);
}

void bt_access(struct tr *t)
{
    t->cold[t->ncold - 1].access = t->e.p;
}
