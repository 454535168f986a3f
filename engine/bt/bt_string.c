/*
 * bt_string.c - MOVS, STOS, LODS, SCAS and CMPS, forward (EFLAGS.DF = 0), with the address size of
 * the code; REP MOVS and REP STOS while they stay in a page.
 */
#include "engine/bt/bt_tr.h"

#define JA 7

/* What is not flat, of another address size, or goes backwards is the body's. */
static bool emit_forward(struct tr *t, bool source)
{
    struct emit *e = &t->e;
    if (t->d.i.adsize != t->word || (source && !bt_is_flat(t)))
        return false;
    bt_save_flags(t);
    e8(e, 0x65), e8(e, 0xf7), e8(e, 0x04), e8(e, 0x25); /* test dword gs:[eflags], DF */
    e32(e, GS_CPU(eflags)), e32(e, FLAG_DF);
    bt_body_if(t, JNZ);
    return true;
}

static void look_up(struct tr *t, unsigned reg, bool write)
{
    t->areg = (u8)reg;
    bt_lookup(t, t->d.i.opsize, write, ANY_ALIGN);
}

/* OP reg, [areg + T1] of the operand's size; `op` is the byte operation's. */
static void emit_access(struct tr *t, unsigned op, unsigned reg)
{
    unsigned size = t->d.i.opsize;
    bt_access(t);
    if (size == 2)
        e8(&t->e, 0x66);
    emit_mem_index(&t->e, size, op | (size != 1), reg, t->areg, T1, 0);
}

static void emit_advance(struct tr *t, unsigned reg)
{
    emit_mem_sized(&t->e, t->word, 0x8d, reg, reg, t->d.i.opsize); /* lea */
}

/* A second look-up loses T0 when it misses: the first is done again, too. */
static void retry_from_first(struct tr *t, const u8 *first)
{
    t->cold[t->ncold - 1].retry = (u8 *)first;
}

static bool emit_lods(struct tr *t)
{
    if (!emit_forward(t, true))
        return false;
    look_up(t, RSI, false);
    emit_access(t, 0x8a, RAX);
    emit_advance(t, RSI);
    return true;
}

static bool emit_stos(struct tr *t)
{
    if (!emit_forward(t, false))
        return false;
    look_up(t, RDI, true);
    emit_access(t, 0x88, RAX);
    emit_advance(t, RDI);
    return true;
}

static bool emit_scas(struct tr *t)
{
    if (!emit_forward(t, false))
        return false;
    look_up(t, RDI, false);
    emit_access(t, 0x3a, RAX);
    t->flags_saved = false;
    emit_advance(t, RDI);
    return true;
}

static bool emit_movs(struct tr *t)
{
    if (!emit_forward(t, true))
        return false;
    const u8 *first = t->e.p;
    look_up(t, RSI, false);
    emit_access(t, 0x8a, T0);
    look_up(t, RDI, true);
    retry_from_first(t, first);
    emit_access(t, 0x88, T0);
    emit_advance(t, RSI);
    emit_advance(t, RDI);
    return true;
}

/* ES:RDI is read first. */
static bool emit_cmps(struct tr *t)
{
    if (!emit_forward(t, true))
        return false;
    const u8 *first = t->e.p;
    look_up(t, RDI, false);
    emit_access(t, 0x8a, T0);
    look_up(t, RSI, false);
    retry_from_first(t, first);
    emit_access(t, 0x38, T0);
    t->flags_saved = false;
    emit_advance(t, RSI);
    emit_advance(t, RDI);
    return true;
}

/* --- REP --- */

/* [reg, reg + T1) leaves its page: the body. */
static void check_page(struct tr *t, unsigned reg)
{
    struct emit *e = &t->e;
    e8(e, 0x41), e8(e, 0x89), e8(e, 0xc0 | reg << 3 | (T0 & 7));   /* mov r14d, reg */
    e8(e, 0x41), e8(e, 0x81), e8(e, 0xe6), e32(e, (u32)PAGE_MASK); /* and r14d, */
    emit_rr(e, 0x01, T1, T0);                                      /* add r14, r13 */
    e8(e, 0x41), e8(e, 0x81), e8(e, 0xfe), e32(e, (u32)PAGE_SIZE); /* cmp r14d, */
    bt_body_if(t, JA);
}

static void add(struct tr *t, unsigned op, unsigned reg, unsigned by)
{
    emit_rr(&t->e, op, by, reg);
}

enum { ADD = 0x01, SUB = 0x29 };

/* T0 and T1 are what has been added to RSI and RDI; T0 = 0 for STOS. */
static void to_guest(struct tr *t)
{
    bool source = t->d.op == X86_MOVS;
    add(t, SUB, RDI, T1);
    if (source)
        add(t, SUB, RSI, T0);
    if (t->word == 4) {
        emit_zero_extend(&t->e, RDI);
        if (source)
            emit_zero_extend(&t->e, RSI);
    }
}

void bt_rep_undo(struct tr *t)
{
    emit_rr(&t->e, SUB, T1, RDI);
    emit_rr(&t->e, SUB, T0, RSI);
}

static bool emit_rep(struct tr *t)
{
    struct emit *e = &t->e;
    bool source = t->d.op == X86_MOVS;
    unsigned size = t->d.i.opsize, scale = (unsigned)__builtin_ctz(size);
    if (!emit_forward(t, source))
        return false;
    emit_rr(e, 0x85, RCX, RCX);
    u8 *none = emit_jcc(e, JZ, e->p);
    e8(e, 0x48), e8(e, 0x81), e8(e, 0xf9), e32(e, (u32)PAGE_SIZE); /* cmp rcx, */
    bt_body_if(t, JA);
    e8(e, 0x4c), e8(e, 0x8d), e8(e, 0x2c), e8(e, scale << 6 | RCX << 3 | 5), e32(e, 0); /* lea */
    check_page(t, RDI);
    if (source)
        check_page(t, RSI);
    const u8 *first = e->p;
    if (source) {
        t->areg = RSI;
        bt_lookup(t, size, false, ALIGNED);
        emit_mov(e, T0, T1);
        emit_access(t, 0x8a, T1); /* its fault comes before the destination's */
    }
    t->areg = RDI;
    bt_lookup(t, size, true, ALIGNED);
    retry_from_first(t, first);
    if (source)
        add(t, ADD, RSI, T0);
    else
        emit_rr(e, 0x31, T0, T0); /* xor */
    add(t, ADD, RDI, T1);
    bt_cold(t, COLD_REP);
    bt_access(t);
    e8(e, 0xf3);
    if (size == 2)
        e8(e, 0x66);
    if (size == 8)
        e8(e, 0x48);
    e8(e, (source ? 0xa4 : 0xaa) | (size != 1));
    to_guest(t);
    emit_patch(none, e->p);
    for (unsigned n = t->op_cold; n < t->ncold; n++)
        t->cold[n].changes = true; /* the body may stop half-way */
    return true;
}

/* --- by instruction --- */

static bool emit_one(struct tr *t)
{
    bool rep = t->d.i.prefix & (X86_PFX_REP | X86_PFX_REPNE);
    switch (t->d.op) {
    case X86_MOVS:
        return rep ? emit_rep(t) : emit_movs(t);
    case X86_STOS:
        return rep ? emit_rep(t) : emit_stos(t);
    case X86_LODS:
        return !rep && emit_lods(t);
    case X86_SCAS:
        return !rep && emit_scas(t);
    case X86_CMPS:
        return !rep && emit_cmps(t);
    default:
        return false;
    }
}

bool bt_string(struct tr *t)
{
    if (!emit_one(t))
        return false;
    bt_cold_resume(t);
    return true;
}
