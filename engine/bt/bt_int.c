/*
 * bt_int.c - integer instructions that take more than a copy: division, bit tests that reach beyond
 * their operand, MOV with an absolute address.
 */
#include "engine/bt/bt_tr.h"

/* Prefix 66 and REX of an instruction of `size` bytes that names reg and rm. */
static void emit_prefixes(struct tr *t, unsigned size, unsigned reg, unsigned rm)
{
    if (size == 2)
        e8(&t->e, 0x66);
    e8(&t->e, 0x40 | (size & 8) | (reg >> 3 & 1) << 2 | (rm >> 3 & 1));
}

/* --- DIV, IDIV --- */

/* T1 = the memory operand. */
static void load_operand(struct tr *t, unsigned size)
{
    struct emit *e = &t->e;
    bt_address(t, size, false);
    bt_lookup(t, size, false, ANY_ALIGN);
    bt_combine(t);
    bt_access(t);
    e8(e, 0x45 | (size & 8));
    if (size < 4)
        e8(e, 0x0f);
    e8(e, size == 1 ? 0xb6 : size == 2 ? 0xb7 : 0x8b);
    emit_base_disp(e, T1, T0, 0);
}

/* Division by zero is tested for; if the quotient is too large the host faults (SIGFPE). */
static bool emit_div(struct tr *t)
{
    struct emit *e = &t->e;
    const struct x86_insn *i = &t->d.i;
    bool mem = i->prefix & X86_PFX_MEM, byte = i->opsize == 1;
    if (mem ? i->adsize == 2 : i->rm >= X86_HIGH_BYTE)
        return false;
    unsigned rm = T1;
    if (mem) {
        load_operand(t, i->opsize);
    } else {
        bt_save_flags(t);
        rm = bt_reg(t, i->rm, T1);
    }
    emit_prefixes(t, i->opsize, rm, rm);
    e8(e, byte ? 0x84 : 0x85), e8(e, 0xc0 | (rm & 7) << 3 | (rm & 7)); /* test */
    bt_body_if(t, JZ);
    bt_access(t);
    emit_prefixes(t, i->opsize, 0, rm);
    e8(e, byte ? 0xf6 : 0xf7), e8(e, 0xc0 | (t->d.op == X86_DIV ? 6 : 7) << 3 | (rm & 7));
    bt_cold_resume(t);
    return true;
}

/* --- BT and its like, memory and a register --- */

/* T1 = the index in words of `size` bytes that the operand begins at. */
static void emit_word_index(struct tr *t, unsigned size, unsigned index)
{
    struct emit *e = &t->e;
    unsigned bits = size == 8 ? 6 : size == 4 ? 5 : 4;
    e8(e, 0x4c | (index >> 3 & 1)); /* r13 = index, sign-extended */
    if (size == 8)
        e8(e, 0x8b);
    else if (size == 4)
        e8(e, 0x63);
    else
        e8(e, 0x0f), e8(e, 0xbf);
    e8(e, 0xc0 | (T1 & 7) << 3 | (index & 7));
    e8(e, 0x49), e8(e, 0xc1), e8(e, 0xfd), e8(e, bits); /* sar r13, bits */
}

/* Flags but CF matter: they are put back, RAX and not T1 put by. */
static void want_flags_keeping_t1(struct tr *t)
{
    struct emit *e = &t->e;
    t->flags_saved = false;
    emit_store(e, RAX, GS_WORD(BT_SCRATCH));
    e8(e, 0x65), e8(e, 0x0f), e8(e, 0xb7); /* movzx eax, gs:[aflags] */
    e8(e, 0x04), e8(e, 0x25), e32(e, GS_CPU(aflags));
    e8(e, 0x04), e8(e, 0x7f); /* add al, 7f */
    e8(e, 0x9e);              /* sahf */
    emit_load(e, RAX, GS_WORD(BT_SCRATCH));
}

static bool emit_bit(struct tr *t)
{
    struct emit *e = &t->e;
    const struct x86_insn *i = &t->d.i;
    unsigned size = i->opsize;
    bool write = t->d.op != X86_BT;
    if (!(i->prefix & X86_PFX_MEM) || !bt_has_operand(x86_row(i), X86_O_G) || i->adsize != t->word)
        return false;
    bt_save_flags(t);
    bt_ea(t, 0);
    emit_word_index(t, size, bt_reg(t, i->reg, T1));
    e8(e, 0x47 | (t->word & 8)), e8(e, 0x8d); /* lea r14, [r14 + r13 * size] */
    emit_sib(e, T0, T0, T1, size == 8 ? 3 : size == 4 ? 2 : 1, 0);
    bt_linear(t, size, write);
    bt_lookup(t, size, write, ANY_ALIGN);
    bt_combine(t);
    unsigned index = bt_reg(t, i->reg, T1);
    if (index != T1)
        emit_mov(e, T1, index);
    e8(e, 0x41), e8(e, 0x83), e8(e, 0xe5), e8(e, 8 * size - 1); /* and r13d, */
    if (t->flags_live)
        want_flags_keeping_t1(t);
    bt_access(t);
    if (i->prefix & X86_PFX_LOCK)
        e8(e, 0xf0);
    emit_prefixes(t, size, T1, T0);
    e8(e, 0x0f), e8(e, t->d.bytes[t->d.opcode_at]);
    emit_base_disp(e, T1, T0, 0);
    bt_cold_resume(t);
    return true;
}

/* --- MOV with an absolute address --- */

static bool emit_moffs(struct tr *t)
{
    struct emit *e = &t->e;
    const struct x86_insn *i = &t->d.i;
    bool store = x86_row(i)->operand[0] == X86_O_O;
    if (!bt_has_operand(x86_row(i), X86_O_O) || i->adsize == 2)
        return false;
    e8(e, 0x49), e8(e, 0xb8 | (T0 & 7)), e64(e, i->imm); /* movabs r14, */
    bt_linear(t, i->opsize, store);
    bt_lookup(t, i->opsize, store, ANY_ALIGN);
    bt_access(t);
    if (i->opsize == 2)
        e8(e, 0x66);
    unsigned op = (store ? 0x88 : 0x8a) | (i->opsize != 1);
    emit_mem_index(e, i->opsize, op, RAX, T0, T1, 0);
    bt_cold_resume(t);
    return true;
}

bool bt_int(struct tr *t)
{
    switch (t->d.op) {
    case X86_DIV:
    case X86_IDIV:
        return emit_div(t);
    case X86_BT ... X86_BTC:
        return emit_bit(t);
    case X86_MOV:
        return emit_moffs(t);
    default:
        return false;
    }
}
