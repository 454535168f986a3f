/*
 * bt_flow.c - the stack, LEA, near control flow, and the ways out of a block.
 */
#include "engine/bt/bt_tr.h"

/* LEA computes in T0 and moves. */
static void emit_lea_insn(struct tr *t)
{
    const struct x86_insn *i = &t->op->i;
    bt_ea(t);
    if (i->opsize == 4)
        e8(&t->e, 0x45), e8(&t->e, 0x89), e8(&t->e, 0xf6); /* mov r14d, r14d */
    if (is_temp(i->reg))
        emit_store(&t->e, T0, GS_REG(i->reg));
    else
        emit_mov(&t->e, i->reg, T0);
}

/* --- the stack --- */

static void emit_push_lookup(struct tr *t)
{
    emit_lea(&t->e, T0, RSP, -8);
    bt_lookup(t, 8, true);
}

/* PUSH r64, PUSH imm */
static bool emit_push(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    const struct x86_row *row = x86_row(&d->i);
    bool imm = row->operand[0] == X86_O_I;
    if (d->i.opsize != 8 || d->i.prefix & X86_PFX_MEM)
        return false;
    unsigned reg = row->operand[0] == X86_O_Z ? d->i.reg : d->i.rm;
    emit_push_lookup(t);
    if (imm) {
        e8(&t->e, 0x49), e8(&t->e, 0xc7), e8(&t->e, 0x06); /* mov qword [r14], imm32 */
        e32(&t->e, (u32)d->i.imm);
    } else {
        unsigned h = bt_temp(t, reg, T1);
        emit_mem(&t->e, 0x89, h, T0, 0);
    }
    emit_lea(&t->e, RSP, RSP, -8);
    bt_cold_resume(t);
    return true;
}

static bool emit_pop(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    if (d->i.opsize != 8 || d->i.prefix & X86_PFX_MEM)
        return false;
    unsigned reg = x86_row(&d->i)->operand[0] == X86_O_Z ? d->i.reg : d->i.rm;
    emit_mov(&t->e, T0, RSP);
    bt_lookup(t, 8, false);
    emit_lea(&t->e, RSP, RSP, 8);
    if (is_temp(reg)) {
        emit_mem(&t->e, 0x8b, T1, T0, 0);
        emit_store(&t->e, T1, GS_REG(reg));
    } else {
        emit_mem(&t->e, 0x8b, reg, T0, 0);
    }
    bt_cold_resume(t);
    return true;
}

static bool emit_leave_insn(struct tr *t)
{
    if (t->d.i.opsize != 8)
        return false;
    emit_mov(&t->e, T0, RBP);
    bt_lookup(t, 8, false);
    emit_lea(&t->e, RSP, RBP, 8);
    emit_mem(&t->e, 0x8b, RBP, T0, 0);
    bt_cold_resume(t);
    return true;
}

/* --- leaving the block --- */

/* Out through bt_jump_to, RIP in T0. */
static void emit_goto_t0(struct tr *t)
{
    emit_jmp(&t->e, STUB(t, BT_STUB_JUMP_TO));
}

/* To an offset relative to this page. Within the page it can be joined to its target later. */
void bt_exit(struct tr *t, s64 offset)
{
    struct bt_cpu *bt = t->bt;
    if (offset >= 0 && offset < (s64)PAGE_SIZE && bt->nlinks < bt->links_max) {
        struct bt_link *l = &bt->link[bt->nlinks++];
        l->page = t->b->gpa & ~PAGE_MASK;
        l->site = emit_jmp(&t->e, t->e.p + 5);
        bt_rip(t, T0, offset);
        emit_store(&t->e, T0, GS_REG(X86_SLOT_RIP));
        e8(&t->e, 0x49), e8(&t->e, 0xbf), e64(&t->e, (u64)l); /* mov r15, link */
        emit_store(&t->e, T1, GS_WORD(BT_LINK));
        emit_jmp(&t->e, STUB(t, BT_STUB_LEAVE));
        return;
    }
    bt_rip(t, T0, offset);
    emit_goto_t0(t);
}

static s64 branch_offset(const struct tr *t)
{
    return (s64)t->next + (s64)t->op->i.imm;
}

static bool emit_jcc_insn(struct tr *t)
{
    u8 *taken = emit_jcc(&t->e, t->d.op - X86_JO, t->e.p);
    bt_exit(t, t->next);
    emit_patch(taken, t->e.p);
    bt_exit(t, branch_offset(t));
    return true;
}

static bool emit_call(struct tr *t)
{
    emit_push_lookup(t);
    bt_rip(t, T1, t->next);
    emit_mem(&t->e, 0x89, T1, T0, 0);
    emit_lea(&t->e, RSP, RSP, -8);
    bt_exit(t, branch_offset(t));
    return true;
}

static bool emit_ret(struct tr *t)
{
    emit_mov(&t->e, T0, RSP);
    bt_lookup(t, 8, false);
    emit_mem(&t->e, 0x8b, T0, T0, 0);
    emit_lea(&t->e, RSP, RSP, 8 + (s32)(u16)t->op->i.imm);
    emit_goto_t0(t);
    return true;
}

static bool emit_jmp_ind(struct tr *t)
{
    const struct x86_insn *i = &t->op->i;
    if (i->prefix & X86_PFX_MEM) {
        bt_ea(t);
        bt_segment(t);
        bt_lookup(t, 8, false);
        emit_mem(&t->e, 0x8b, T0, T0, 0);
    } else if (is_temp(i->rm)) {
        emit_load(&t->e, T0, GS_REG(i->rm));
    } else {
        emit_mov(&t->e, T0, i->rm);
    }
    emit_goto_t0(t);
    return true;
}

static bool emit_call_ind(struct tr *t)
{
    const struct x86_insn *i = &t->op->i;
    if (i->prefix & X86_PFX_MEM)
        return false;
    emit_push_lookup(t);
    bt_rip(t, T1, t->next);
    emit_mem(&t->e, 0x89, T1, T0, 0);
    if (is_temp(i->rm))
        emit_load(&t->e, T0, GS_REG(i->rm));
    else
        emit_mov(&t->e, T0, i->rm);
    emit_lea(&t->e, RSP, RSP, -8);
    emit_goto_t0(t);
    return true;
}

bool bt_flow(struct tr *t)
{
    switch (t->d.op) {
    case X86_LEA:
        if (t->d.i.opsize == 2)
            return false;
        emit_lea_insn(t);
        return true;
    case X86_NOP:
    case X86_PREFETCH:
        return true;
    case X86_PUSH:
        return emit_push(t);
    case X86_POP:
        return emit_pop(t);
    case X86_LEAVE:
        return emit_leave_insn(t);
    case X86_JMP_NEAR:
        bt_exit(t, branch_offset(t));
        return t->ended = true;
    case X86_JO ... X86_JNLE:
        return t->ended = emit_jcc_insn(t);
    case X86_CALL_NEAR:
        return t->ended = emit_call(t);
    case X86_RET_NEAR:
        return t->ended = emit_ret(t);
    case X86_JMP_NEAR_IND:
        return t->ended = emit_jmp_ind(t);
    case X86_CALL_NEAR_IND:
        return t->ended = emit_call_ind(t);
    default:
        return false;
    }
}

