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
        emit_zero_extend(&t->e, T0);
    if (is_temp(i->reg))
        emit_store(&t->e, T0, GS_REG(i->reg));
    else
        emit_mov(&t->e, i->reg, T0);
}

/* --- the stack --- */

/* T0 = host address of the slot under the stack pointer. */
static void emit_push_lookup(struct tr *t)
{
    emit_mem_sized(&t->e, t->word, 0x8d, T0, RSP, -t->word);
    bt_lookup(t, t->word, true);
}

static void emit_adjust_sp(struct tr *t, unsigned from, s32 by)
{
    emit_mem_sized(&t->e, t->word, 0x8d, RSP, from, by);
}

/* T0 = host address of the slot that `reg` points to. */
static void emit_pop_lookup(struct tr *t, unsigned reg)
{
    emit_mov(&t->e, T0, reg);
    bt_lookup(t, t->word, false);
}

/* The memory operand, a word of the stack's width, into BT_TARGET. False: left to the body. */
static bool emit_operand_word(struct tr *t)
{
    if (t->op->i.adsize == 2)
        return false;
    bt_ea(t);
    bt_segment(t, t->word, false);
    bt_lookup(t, t->word, false);
    emit_mem_sized(&t->e, t->word, 0x8b, T0, T0, 0);
    emit_store(&t->e, T0, GS_WORD(BT_TARGET));
    return true;
}

/* PUSH */
static bool emit_push(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    const struct x86_row *row = x86_row(&d->i);
    bool imm = row->operand[0] == X86_O_I, mem = d->i.prefix & X86_PFX_MEM;
    if (d->i.opsize != t->word || (mem && !emit_operand_word(t)))
        return false;
    unsigned reg = row->operand[0] == X86_O_Z ? d->i.reg : d->i.rm;
    emit_push_lookup(t);
    if (mem) {
        emit_load(&t->e, T1, GS_WORD(BT_TARGET));
        emit_mem_sized(&t->e, t->word, 0x89, T1, T0, 0);
    } else if (imm) {
        e8(&t->e, 0x41 | (t->word & 8)), e8(&t->e, 0xc7), e8(&t->e, 0x06); /* mov [r14], imm32 */
        e32(&t->e, (u32)d->i.imm);
    } else {
        unsigned h = bt_temp(t, reg, T1);
        emit_mem_sized(&t->e, t->word, 0x89, h, T0, 0);
    }
    emit_adjust_sp(t, RSP, -t->word);
    bt_cold_resume(t);
    return true;
}

static bool emit_pop(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    if (d->i.opsize != t->word || d->i.prefix & X86_PFX_MEM)
        return false;
    unsigned reg = x86_row(&d->i)->operand[0] == X86_O_Z ? d->i.reg : d->i.rm;
    emit_pop_lookup(t, RSP);
    emit_adjust_sp(t, RSP, t->word);
    unsigned h = is_temp(reg) ? T1 : reg;
    emit_mem_sized(&t->e, t->word, 0x8b, h, T0, 0); /* after RSP: POP RSP keeps what was read */
    if (is_temp(reg))
        emit_store(&t->e, h, GS_REG(reg));
    bt_cold_resume(t);
    return true;
}

static bool emit_leave_insn(struct tr *t)
{
    if (t->d.i.opsize != t->word)
        return false;
    emit_pop_lookup(t, RBP);
    emit_adjust_sp(t, RBP, t->word);
    emit_mem_sized(&t->e, t->word, 0x8b, RBP, T0, 0);
    bt_cold_resume(t);
    return true;
}

/* --- leaving the block --- */

/* Out through bt_jump_to, RIP in T0. */
static void emit_goto_t0(struct tr *t)
{
    bt_want_flags(t);
    emit_jmp(&t->e, STUB(t, BT_STUB_JUMP_TO));
}

/* To an offset relative to this page. Within the page it can be joined to its target later. */
void bt_exit(struct tr *t, s64 offset)
{
    bt_want_flags(t);
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

/* Indirect: notes how to undo it (bt.c). */
static void emit_goto_indirect(struct tr *t, enum bt_branch kind, u16 imm)
{
    if (t->word == 8) {
        e8(&t->e, 0x65), e8(&t->e, 0xc7), e8(&t->e, 0x04), e8(&t->e, 0x25); /* mov dword gs:[], */
        e32(&t->e, GS_WORD(BT_BRANCH));
        e32(&t->e, BT_BRANCH_WORD(t->next - t->op->i.len, kind, imm));
    }
    emit_goto_t0(t);
}

/* Pushes the address of the next instruction. */
static void emit_push_return(struct tr *t)
{
    emit_push_lookup(t);
    bt_rip(t, T1, t->next);
    emit_mem_sized(&t->e, t->word, 0x89, T1, T0, 0);
}

static bool emit_call(struct tr *t)
{
    emit_push_return(t);
    emit_adjust_sp(t, RSP, -t->word);
    bt_exit(t, branch_offset(t));
    return true;
}

static bool emit_ret(struct tr *t)
{
    emit_pop_lookup(t, RSP);
    emit_mem_sized(&t->e, t->word, 0x8b, T0, T0, 0);
    emit_adjust_sp(t, RSP, t->word + (s32)(u16)t->op->i.imm);
    emit_goto_indirect(t, BT_BRANCH_RET, (u16)t->op->i.imm);
    return true;
}

/* T0 = the branch target in a register. */
static void emit_target_reg(struct tr *t)
{
    unsigned rm = t->op->i.rm;
    if (is_temp(rm))
        emit_load(&t->e, T0, GS_REG(rm));
    else
        emit_mov(&t->e, T0, rm);
}

static bool emit_jmp_ind(struct tr *t)
{
    const struct x86_insn *i = &t->op->i;
    if (i->prefix & X86_PFX_MEM) {
        if (i->adsize == 2)
            return false;
        bt_ea(t);
        bt_segment(t, t->word, false);
        bt_lookup(t, t->word, false);
        emit_mem_sized(&t->e, t->word, 0x8b, T0, T0, 0);
    } else {
        emit_target_reg(t);
    }
    emit_goto_indirect(t, BT_BRANCH_JMP, 0);
    return true;
}

static bool emit_call_ind(struct tr *t)
{
    bool mem = t->op->i.prefix & X86_PFX_MEM;
    if (mem && !emit_operand_word(t))
        return false;
    emit_push_return(t);
    if (mem)
        emit_load(&t->e, T0, GS_WORD(BT_TARGET));
    else
        emit_target_reg(t);
    emit_adjust_sp(t, RSP, -t->word);
    emit_goto_indirect(t, BT_BRANCH_CALL, 0);
    return true;
}

/* A near branch of the usual width; others are left to their bodies. */
static bool emit_branch(struct tr *t)
{
    if (t->d.i.opsize != t->word)
        return false;
    switch (t->d.op) {
    case X86_JMP_NEAR:
        bt_exit(t, branch_offset(t));
        return true;
    case X86_CALL_NEAR:
        return emit_call(t);
    case X86_RET_NEAR:
        return emit_ret(t);
    case X86_JMP_NEAR_IND:
        return emit_jmp_ind(t);
    case X86_CALL_NEAR_IND:
        return emit_call_ind(t);
    default:
        return emit_jcc_insn(t);
    }
}

bool bt_flow(struct tr *t)
{
    switch (t->d.op) {
    case X86_LEA:
        if (t->d.i.opsize == 2 || t->d.i.adsize == 2)
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
    case X86_JO ... X86_JNLE:
    case X86_CALL_NEAR:
    case X86_RET_NEAR:
    case X86_JMP_NEAR_IND:
    case X86_CALL_NEAR_IND:
        return t->ended = emit_branch(t);
    default:
        return false;
    }
}
