/*
 * bt_mem.c - memory operands: the software TLB looked up by emitted code.
 */
#include "engine/bt/bt_tr.h"

/* --- flags across a check --- */

void bt_save_flags(struct tr *t)
{
    if (!t->flags_live || t->flags_saved)
        return;
    t->flags_saved = true;
    emit_mov(&t->e, T2, RAX);
    e8(&t->e, 0x9f);                                   /* lahf */
    e8(&t->e, 0x0f), e8(&t->e, 0x90), e8(&t->e, 0xc0); /* seto al */
    e8(&t->e, 0x65), e8(&t->e, 0x66), e8(&t->e, 0x89); /* mov gs:[aflags], ax */
    e8(&t->e, 0x04), e8(&t->e, 0x25);
    e32(&t->e, offsetof(struct cpu, aflags));
    emit_mov(&t->e, RAX, T2);
}

void bt_want_flags(struct tr *t)
{
    if (!t->flags_saved)
        return;
    t->flags_saved = false;
    emit_mov(&t->e, T2, RAX);
    e8(&t->e, 0x65), e8(&t->e, 0x0f), e8(&t->e, 0xb7); /* movzx eax, gs:[aflags] */
    e8(&t->e, 0x04), e8(&t->e, 0x25);
    e32(&t->e, offsetof(struct cpu, aflags));
    e8(&t->e, 0x04), e8(&t->e, 0x7f); /* add al, 7f */
    e8(&t->e, 0x9e);                  /* sahf */
    emit_mov(&t->e, RAX, T2);
}

/* --- memory operands --- */

/* Made at the first exit, after bt_save_flags(). */
static struct cold *cold_for(struct tr *t)
{
    struct cold *k = &t->cold[t->ncold];
    if (k->op != t->op)
        *k = (struct cold){
            .op = t->op, .next = t->next, .saved = t->flags_live, .fpu = t->fpu_level != 0};
    return k;
}

void bt_cold_jump_cc(struct tr *t, unsigned cc)
{
    struct cold *k = cold_for(t);
    assert(k->nsites < ARRAY_SIZE(k->site));
    k->site[k->nsites++] = emit_jcc(&t->e, cc, t->e.p);
}

void bt_cold_jump(struct tr *t)
{
    bt_cold_jump_cc(t, JNZ);
}

/* The instruction is done: its out-of-line part comes back here. */
void bt_cold_resume(struct tr *t)
{
    if (t->ncold < BLOCK_OPS_MAX && t->cold[t->ncold].op == t->op)
        t->cold[t->ncold++].resume = t->e.p;
}

/* T0 checked against the software TLB: T1 = its entry. `aligned`: a misaligned address is a miss.
 */
static void emit_tag_check(struct tr *t, unsigned size, bool aligned, bool write)
{
    struct emit *e = &t->e;
    bt_save_flags(t);
    emit_mov(e, T1, T0);
    e8(e, 0x49), e8(e, 0xc1), e8(e, 0xef), e8(e, TLB_BITS); /* shr r15, TLB_BITS */
    emit_rr(e, 0x31, T0, T1);                               /* xor r15, r14: tlb_slot() */
    e8(e, 0x49), e8(e, 0xc1), e8(e, 0xef), e8(e, 7); /* shr r15, 7: page number * 32 and more */
    e8(e, 0x41), e8(e, 0x81), e8(e, 0xe7);           /* and r15d, slots * 32 */
    e32(e, (TLB_SIZE - 1) * sizeof(struct tlb_entry));
    static_assert(sizeof(struct tlb_entry) == 32, "the shift by 7 above");
    emit_gs(e, 0x03, T1, offsetof(struct cpu, tlb));
    if (aligned)
        emit_mov(e, T2, T0);
    else
        emit_lea(e, T2, T0, (s32)size - 1);
    e8(e, 0x49), e8(e, 0x81), e8(e, 0xe5); /* and r13, -4096: the page of the last byte */
    e32(e, ~(u32)PAGE_MASK | (aligned ? size - 1 : 0)); /* low bits match no tag */
    emit_mem(e, 0x3b, T2, T1,
             write ? offsetof(struct tlb_entry, wr) : offsetof(struct tlb_entry, rd));
    bt_cold_jump(t);
}

static void emit_code_test(struct tr *t)
{
    e8(&t->e, 0x49), e8(&t->e, 0x83), e8(&t->e, 0x7d), e8(&t->e, 0), e8(&t->e, 0);
    /* cmp qword [r13], 0 */
}

static void emit_lookup(struct tr *t, unsigned size, bool aligned, bool write)
{
    emit_tag_check(t, size, aligned, write);
    if (write) {
        emit_mem(&t->e, 0x8b, T2, T1, offsetof(struct tlb_entry, code));
        emit_code_test(t);
        bt_cold_jump(t);
    }
    emit_mem(&t->e, 0x03, T0, T1, offsetof(struct tlb_entry, addend));
}

void bt_lookup(struct tr *t, unsigned size, bool write)
{
    emit_lookup(t, size, false, write);
}

void bt_lookup_aligned(struct tr *t, unsigned size, bool write)
{
    emit_lookup(t, size, true, write);
}

void bt_lookup_store(struct tr *t, unsigned size)
{
    if (!t->c->mem->shared || size > 16) {
        bt_lookup(t, size, true);
        return;
    }
    emit_tag_check(t, size, false, true);
    emit_mem(&t->e, 0x8b, T2, T1, offsetof(struct tlb_entry, code));
    emit_store(&t->e, T2, GS_WORD(BT_CODE));
    emit_mem(&t->e, 0x03, T0, T1, offsetof(struct tlb_entry, addend));
}

void bt_stored(struct tr *t)
{
    if (!t->c->mem->shared)
        return;
    t->flags_live = t->live_after;
    bt_save_flags(t);
    emit_load(&t->e, T2, GS_WORD(BT_CODE));
    emit_code_test(t);
    struct cold *k = &t->cold[t->ncold]; /* there since the tag check */
    k->wrote = emit_jcc(&t->e, JNZ, t->e.p);
    k->wrote_saved = t->flags_saved;
}

/* A guest register into a host register that may hold it: itself, or the temporary. */
unsigned bt_temp(struct tr *t, unsigned reg, unsigned temp)
{
    if (!is_temp(reg))
        return reg;
    emit_load(&t->e, temp, GS_REG(reg));
    return temp;
}

/* T0 = RIP of `offset` in this page. */
void bt_rip(struct tr *t, unsigned dst, s64 offset)
{
    emit_load(&t->e, dst, GS_WORD(BT_VBASE));
    emit_lea(&t->e, dst, dst, (s32)offset);
    if (t->word == 4)
        emit_zero_extend(&t->e, dst);
}

/* lea T0, [base + index * scale + disp] */
void bt_lea_sib(struct tr *t, unsigned base, unsigned index, unsigned scale, s32 disp)
{
    struct emit *e = &t->e;
    e8(e, 0x48 | (T0 >> 3) << 2 | (index >> 3 & 1) << 1 | (base >> 3 & 1));
    e8(e, 0x8d);
    e8(e, 0x80 | (T0 & 7) << 3 | 4);
    e8(e, scale << 6 | (index & 7) << 3 | (base & 7));
    e32(e, (u32)disp);
}

/* T0 = effective address of the ModRM operand (no segment). Keeps the flags. */
void bt_ea(struct tr *t)
{
    const struct x86_insn *i = &t->op->i;
    struct emit *e = &t->e;
    if (i->base == X86_SLOT_RIP) {
        bt_rip(t, T0, (s64)t->next + i->disp);
    } else if (i->index != X86_SLOT_ZERO) {
        unsigned index = bt_temp(t, i->index, T1);
        unsigned base = T0;
        if (i->base == X86_SLOT_ZERO) {
            e8(e, 0x41), e8(e, 0xbe), e32(e, 0); /* mov r14d, 0 */
        } else {
            base = bt_temp(t, i->base, T0);
        }
        bt_lea_sib(t, base, index, i->scale, i->disp);
    } else if (i->base != X86_SLOT_ZERO) {
        emit_lea(e, T0, bt_temp(t, i->base, T0), i->disp);
    } else {
        e8(e, 0x49), e8(e, 0xc7), e8(e, 0xc6), e32(e, (u32)i->disp); /* mov r14, disp32 */
    }
    if (i->adsize == 4)
        emit_zero_extend(e, T0);
}

/* In 32-bit code translations are entered only while CS, DS, ES and SS are flat (bt.c). */
static bool is_flat(const struct tr *t)
{
    unsigned seg = t->op->i.seg;
    return seg == X86_SEG_FLAT || (t->word == 4 && seg < FS && seg != CS); /* CS: no writing */
}

static u32 seg_field(const struct tr *t, u32 field)
{
    return offsetof(struct cpu, seg) + t->op->i.seg * sizeof(struct seg) + field;
}

/* FS and GS of 32-bit code: the body has its say on whatever is beyond the quick limit. */
static void emit_limit_check(struct tr *t, unsigned size, bool write)
{
    struct emit *e = &t->e;
    bt_save_flags(t);
    emit_lea(e, T2, T0, (s32)size);
    emit_gs(e, 0x3b, T2,
            seg_field(t, write ? offsetof(struct seg, wr_end) : offsetof(struct seg, rd_end)));
    bt_cold_jump_cc(t, 7); /* above */
}

void bt_segment(struct tr *t, unsigned size, bool write)
{
    if (is_flat(t))
        return;
    if (t->word == 4)
        emit_limit_check(t, size, write);
    emit_load(&t->e, T1, seg_field(t, offsetof(struct seg, base)));
    bt_lea_sib(t, T0, T1, 0, 0);
    if (t->word == 4)
        emit_zero_extend(&t->e, T0);
}
