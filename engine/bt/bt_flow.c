/*
 * bt_flow.c - the stack, LEA, near control flow, and the ways out of a block.
 */
#include "engine/bt/bt_tr.h"

/* --- LEA --- */

static bool emit_lea_insn(struct tr *t)
{
    const struct x86_insn *i = &t->op->i;
    if (i->opsize == 2 || i->adsize == 2)
        return false;
    bt_ea(t, 0);
    unsigned dst = is_homed(i->reg) ? T0 : host_reg(i->reg);
    if (i->opsize == 4 && i->adsize == 8) {
        e8(&t->e, 0x44 | (dst >> 3 & 1)), e8(&t->e, 0x89); /* mov dst32, r14d */
        e8(&t->e, 0xc0 | (T0 & 7) << 3 | (dst & 7));
    } else if (dst != T0) {
        emit_mov(&t->e, dst, T0);
    }
    if (is_homed(i->reg))
        bt_store_home(t, i->reg, T0);
    return true;
}

/* --- the stack --- */

/* RSP is looked at once per block; where it is not aligned the body is called, and the block left.
 */
static void stack_align(struct tr *t)
{
    struct emit *e = &t->e;
    if (t->sp_aligned)
        return;
    bt_save_flags(t);
    e8(e, 0x41), e8(e, 0xf6), e8(e, 0xc7), e8(e, t->word - 1); /* test r15b, word - 1 */
    struct cold *k = bt_cold(t, COLD_BODY);
    k->saved = t->flags_live;
    k->body_only = true;
    k->body = emit_jcc(e, JNZ, e->p);
    t->sp_aligned = true;
}

/* lea r15, [r15 + by] */
void bt_adjust_sp(struct tr *t, s32 by)
{
    emit_mem_sized(&t->e, t->word, 0x8d, GSP, GSP, by);
}

/* For the slot under the stack pointer. */
static void emit_push_lookup(struct tr *t)
{
    stack_align(t);
    bt_stack_operand(t, -t->word, true);
}

/* For the one at it. */
static void emit_pop_lookup(struct tr *t)
{
    stack_align(t);
    bt_stack_operand(t, 0, false);
}

/* OP reg, the operand that was looked up, a word */
static void emit_word(struct tr *t, unsigned op, unsigned reg)
{
    bt_access(t);
    emit_mem_index(&t->e, t->word, op, reg, t->areg, T1, t->adisp);
}

/* The memory operand, a word of the stack's width, into T0. */
static void emit_operand_word(struct tr *t)
{
    bt_operand(t, t->word, false, ANY_ALIGN);
    emit_word(t, 0x8b, T0);
}

/* The slot has been looked up. */
static void store_from_gs(struct tr *t, u32 off)
{
    bt_combine(t);
    emit_load(&t->e, T1, off);
    bt_access(t);
    emit_mem_sized(&t->e, t->word, 0x89, T1, T0, 0);
}

void bt_push_gs(struct tr *t, u32 off)
{
    emit_push_lookup(t);
    store_from_gs(t, off);
    bt_adjust_sp(t, -t->word);
    bt_cold_resume(t);
}

void bt_push_sel(struct tr *t, u32 off)
{
    struct emit *e = &t->e;
    emit_push_lookup(t);
    bt_combine(t);
    e8(e, 0x65), e8(e, 0x44), e8(e, 0x0f), e8(e, 0xb7), e8(e, 0x2c), e8(e, 0x25); /* movzx r13d, */
    e32(e, off);
    bt_access(t);
    if (t->word == 4)
        e8(e, 0x66); /* the slot's upper half stays */
    emit_mem_sized(e, t->word, 0x89, T1, T0, 0);
    bt_adjust_sp(t, -t->word);
    bt_cold_resume(t);
}

void bt_top_t0(struct tr *t)
{
    emit_pop_lookup(t);
    emit_word(t, 0x8b, T0);
}

static bool emit_push(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    const struct x86_row *row = x86_row(&d->i);
    bool imm = row->operand[0] == X86_O_I, mem = d->i.prefix & X86_PFX_MEM;
    if (d->i.opsize != t->word || (mem && d->i.adsize == 2))
        return false;
    unsigned reg = row->operand[0] == X86_O_Z ? d->i.reg : d->i.rm;
    if (mem) {
        emit_operand_word(t);
        emit_store(&t->e, T0, GS_WORD(BT_TARGET));
    }
    emit_push_lookup(t);
    if (imm) {
        bt_access(t);
        e8(&t->e, 0x42 | (t->word & 8) | t->areg >> 3), e8(&t->e, 0xc7); /* mov [], imm32 */
        emit_sib(&t->e, 0, t->areg, T1, 0, t->adisp);
        e32(&t->e, (u32)d->i.imm);
    } else if (mem || is_homed(reg)) {
        bt_t1_used(t);
        store_from_gs(t, mem ? GS_WORD(BT_TARGET) : GS_REG(reg));
    } else {
        emit_word(t, 0x89, host_reg(reg));
    }
    bt_adjust_sp(t, -t->word);
    bt_cold_resume(t);
    return true;
}

/* To memory: an address off RSP is computed after RSP has been raised. */
static bool emit_pop_mem(struct tr *t)
{
    const struct x86_insn *i = &t->d.i;
    if (i->adsize != t->word)
        return false;
    bt_top_t0(t);
    emit_store(&t->e, T0, GS_WORD(BT_TARGET));
    bt_forget_temps(t);
    bt_ea(t, i->base == RSP ? t->word : 0);
    bt_linear(t, t->word, true);
    bt_lookup(t, t->word, true, ANY_ALIGN);
    bt_t1_used(t);
    store_from_gs(t, GS_WORD(BT_TARGET));
    bt_adjust_sp(t, t->word);
    bt_cold_resume(t);
    return true;
}

static bool emit_pop(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    if (d->i.opsize != t->word)
        return false;
    if (d->i.prefix & X86_PFX_MEM)
        return emit_pop_mem(t);
    unsigned reg = x86_row(&d->i)->operand[0] == X86_O_Z ? d->i.reg : d->i.rm;
    unsigned h = is_homed(reg) ? T1 : host_reg(reg);
    emit_pop_lookup(t);
    if (h == T1)
        bt_t1_used(t);
    emit_word(t, 0x8b, h);
    if (reg != RSP)
        bt_adjust_sp(t, t->word);
    if (is_homed(reg))
        emit_store(&t->e, h, GS_REG(reg));
    bt_cold_resume(t);
    t->sp_aligned = t->sp_aligned && reg != RSP;
    return true;
}

static bool emit_leave_insn(struct tr *t)
{
    if (t->d.i.opsize != t->word)
        return false;
    t->areg = RBP;
    bt_lookup(t, t->word, false, ANY_ALIGN);
    bt_t1_used(t);
    emit_mov(&t->e, T0, RBP);
    bt_access(t);
    emit_mem_index(&t->e, t->word, 0x8b, RBP, RBP, T1, 0);
    emit_mem_sized(&t->e, t->word, 0x8d, GSP, T0, t->word);
    bt_cold_resume(t);
    t->sp_aligned = false;
    return true;
}

void bt_track_sp(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    const struct x86_row *row = x86_row(&d->i);
    bool z = bt_has_operand(row, X86_O_Z) && d->i.reg == RSP;
    bool g = bt_has_operand(row, X86_O_G) && d->i.reg == RSP;
    bool rm = d->modrm_at && !(d->i.prefix & X86_PFX_MEM) && d->i.rm == RSP;
    if (!z && !g && !rm)
        return;
    switch (d->op) {
    case X86_PUSH:
    case X86_POP:
    case X86_CMP:
    case X86_TEST:
        return; /* POP RSP: emit_pop() knows */
    case X86_ADD:
    case X86_SUB:
        if (rm && row->operand[1] == X86_O_I && d->i.opsize == t->word &&
            !(d->i.imm & (t->word - 1)))
            return;
        break;
    case X86_AND:
        if (rm && row->operand[1] == X86_O_I && d->i.opsize == t->word)
            return; /* clears bits */
        break;
    case X86_LEA:
        if (d->i.base == RSP && d->i.index == X86_SLOT_ZERO && d->i.opsize == t->word &&
            d->i.adsize == t->word && !(d->i.disp & (t->word - 1)))
            return;
        break;
    case X86_MOV:
        if (rm && !g && bt_has_operand(row, X86_O_G))
            break; /* to RSP */
        if (g && !(d->i.prefix & X86_PFX_MEM) && row->operand[0] == X86_O_E && !rm)
            return; /* from RSP */
        break;
    default:
        break;
    }
    t->sp_aligned = false;
}

/* --- leaving the block --- */

#define TARGET_IN_T0 INT32_MIN /* of an indirect branch, instead of an offset */

void bt_lookup_rip(struct tr *t, u8 *miss)
{
    struct emit *e = &t->e;
    if (t->bt->set->count)
        emit_count(e, T1, GS_WORD(BT_LOOKUPS));
    if (BT_USER(t->view))
        emit_gs(e, 0x03, T0, GS_WORD(BT_SALT)); /* add r14, salt */
    emit_rorx(e, T1, T0, 16);
    emit_rr(e, 0x31, T0, T1);                                        /* xor r13, r14 */
    e8(e, 0x45), e8(e, 0x0f), e8(e, 0xb7), e8(e, 0xed);              /* movzx r13d, r13w */
    emit_rr(e, 0x01, T1, T1);                                        /* add r13, r13 */
    e8(e, 0x65), e8(e, 0x4e), e8(e, 0x3b), e8(e, 0x34), e8(e, 0xed); /* cmp r14, gs:[r13 * 8 + ] */
    e32(e, (u32)BT_TAGS(t->view));
    u8 *hit = emit_jcc(e, JZ, e->p);
    if (BT_USER(t->view))
        emit_gs(e, 0x2b, T0, GS_WORD(BT_SALT)); /* sub */
    emit_jmp(e, miss);
    emit_patch(hit, e->p);
    e8(e, 0x65), e8(e, 0x42), e8(e, 0xff), e8(e, 0x24), e8(e, 0xed); /* jmp gs:[r13 * 8 + ] */
    e32(e, (u32)BT_CODES(t->view));
}

/* All flags into cpu.aflags, for whoever is entered by the jump table. */
static void emit_flags_home(struct tr *t)
{
    t->flags_live = true;
    bt_save_flags(t);
}

void bt_far(struct tr *t, struct cold *k)
{
    t->flags_saved = k->saved;
    emit_flags_home(t);
    if (k->offset != TARGET_IN_T0)
        bt_rip(t, T0, k->offset);
    bt_lookup_rip(t, STUB(t, BT_STUB_GOTO));
}

static bool in_page(s64 offset)
{
    return offset >= 0 && offset < (s64)PAGE_SIZE;
}

/* Out of line: to the same page, or another. */
static struct cold *cold_exit(struct tr *t, s64 offset)
{
    struct cold *k = bt_cold(t, in_page(offset) ? COLD_EXIT : COLD_FAR);
    k->offset = (s32)offset;
    return k;
}

/* Where a jump from here to an offset in the page can go, if that is known; else NULL. */
static const u8 *known_target(struct tr *t, s64 offset)
{
    int i = bt_region_at(t, offset);
    if (i >= 0)
        return t->r.near[i];
    struct block *b = bt_block_at(t, offset);
    if (!b || !b->near[t->mode] || t->bt->keep) /* kept: it need not be there next time */
        return NULL;
    bool back = offset <= t->at;
    u32 at = back ? b->check[t->mode] : b->near[t->mode];
    return at ? t->bt->code + at : NULL;
}

/* The rel32 at `site`, just emitted, leads to `offset`. */
static void connect(struct tr *t, u8 *site, s64 offset)
{
    int i = in_page(offset) ? bt_region_at(t, offset) : -1;
    const u8 *to = in_page(offset) ? known_target(t, offset) : NULL;
    if (to) {
        emit_patch(site, to);
    } else if (i >= 0) {
        assert(t->nfixups < FIXUPS_MAX);
        t->fixup[t->nfixups++] = (struct fixup){.site = site, .to = (u8)i};
    } else {
        cold_exit(t, offset)->body = site;
    }
}

/* The flags that the code at `offset` wants are in the host's. */
static void flags_for(struct tr *t, s64 offset)
{
    if (in_page(offset) && t->flags_saved && bt_live_at(t, offset))
        bt_want_flags(t);
}

static bool is_next(const struct tr *t, s64 offset)
{
    return !t->slow && in_page(offset) && t->bi + 1 < t->r.n &&
           bt_region_at(t, offset) == (int)t->bi + 1;
}

void bt_goto(struct tr *t, s64 offset)
{
    flags_for(t, offset);
    if (is_next(t, offset))
        return;
    connect(t, emit_jmp(&t->e, t->e.p), offset);
}

static s64 branch_offset(const struct tr *t)
{
    s64 to = (s64)t->next + (s64)t->op->i.imm;
    return t->word == 4 ? (s32)to : to;
}

static bool emit_jcc_insn(struct tr *t)
{
    unsigned cc = t->d.op - X86_JO;
    s64 taken = branch_offset(t), not = t->next;
    if (is_next(t, taken) && !is_next(t, not )) {
        cc ^= 1;
        s64 other = taken;
        taken = not, not = other;
    }
    connect(t, emit_jcc(&t->e, cc, t->e.p), taken);
    bt_goto(t, not );
    return true;
}

/* LOOP, LOOPE, LOOPNE, JRCXZ: short jumps over a long one. RCX counts in the host's. */
static bool emit_loop_insn(struct tr *t)
{
    struct emit *e = &t->e;
    const struct x86_insn *i = &t->d.i;
    if (i->adsize == 2)
        return false;
    if (t->flags_live)
        bt_want_flags(t);
    if (i->adsize == 4)
        e8(e, 0x67);
    e8(e, t->d.bytes[t->d.opcode_at]), e8(e, 2); /* to the long one */
    e8(e, 0xeb), e8(e, 5);                       /* behind it */
    connect(t, emit_jmp(e, e->p), branch_offset(t));
    bt_goto(t, t->next);
    return true;
}

static void emit_branch_word(struct tr *t, enum bt_branch kind, u16 imm)
{
    if (t->word == 8)
        emit_gs_imm32(&t->e, GS_WORD(BT_BRANCH), BT_BRANCH_WORD(t->at, kind, imm));
}

/* T0 = RIP; flags are saved. */
static void emit_goto_t0(struct tr *t)
{
    bt_lookup_rip(t, STUB(t, BT_STUB_GOTO));
}

/*
 * Behind a host CALL: T0 = where the guest returned to, the flags in cpu.aflags. The address that
 * was pushed tells whether it is here.
 */
static void emit_return_site(struct tr *t)
{
    struct emit *e = &t->e;
    e8(e, 0x41), e8(e, 0x5d);              /* pop r13 */
    e8(e, 0x4d), e8(e, 0x39), e8(e, 0xf5); /* cmp r13, r14 */
    struct cold *k = bt_cold(t, COLD_RETURN);
    k->body = emit_jcc(e, JNZ, e->p);
    emit_lea(e, T1, T1, -(s32)t->next);
    emit_store(e, T1, GS_WORD(BT_VBASE));
    t->flags_saved = true;
    bt_goto(t, t->next);
}

/* The return address on the guest's stack and, in T1, on the prediction stack. */
static void emit_push_return(struct tr *t)
{
    emit_push_lookup(t);
    bt_combine(t);
    bt_rip(t, T1, t->next);
    bt_access(t);
    emit_mem_sized(&t->e, t->word, 0x89, T1, T0, 0);
    bt_adjust_sp(t, -t->word);
    e8(&t->e, 0x41), e8(&t->e, 0x55); /* push r13 */
}

static bool emit_call_near(struct tr *t)
{
    s64 to = branch_offset(t);
    if (!in_page(to))
        t->flags_live = true;
    emit_push_return(t);
    if (in_page(to))
        flags_for(t, to);
    else
        emit_flags_home(t);
    e8(&t->e, 0xe8), e32(&t->e, 0);
    connect(t, t->e.p - 4, to);
    emit_return_site(t);
    return true;
}

static bool emit_ret(struct tr *t)
{
    u16 imm = (u16)t->op->i.imm;
    t->flags_live = true;
    emit_pop_lookup(t);
    emit_word(t, 0x8b, T0);
    bt_adjust_sp(t, t->word + imm);
    emit_branch_word(t, BT_BRANCH_RET, imm);
    emit_flags_home(t);
    e8(&t->e, 0xc3);
    return true;
}

static bool emit_jmp_ind(struct tr *t)
{
    const struct x86_insn *i = &t->op->i;
    t->flags_live = true;
    if (i->prefix & X86_PFX_MEM) {
        if (i->adsize == 2)
            return false;
        emit_operand_word(t);
    } else {
        emit_mov(&t->e, T0, bt_reg(t, i->rm, T0));
    }
    emit_branch_word(t, BT_BRANCH_JMP, 0);
    emit_flags_home(t);
    emit_goto_t0(t);
    return true;
}

static bool emit_call_ind(struct tr *t)
{
    const struct x86_insn *i = &t->op->i;
    bool mem = i->prefix & X86_PFX_MEM;
    t->flags_live = true;
    if (mem && i->adsize == 2)
        return false;
    if (mem)
        emit_operand_word(t);
    else if (i->rm == RSP || is_homed(i->rm))
        emit_mov(&t->e, T0, bt_reg(t, i->rm, T0));
    if (mem || i->rm == RSP || is_homed(i->rm))
        emit_store(&t->e, T0, GS_WORD(BT_TARGET));
    emit_push_return(t);
    if (mem || i->rm == RSP || is_homed(i->rm))
        emit_load(&t->e, T0, GS_WORD(BT_TARGET));
    else
        emit_mov(&t->e, T0, i->rm);
    emit_branch_word(t, BT_BRANCH_CALL, 0);
    /* call over the return site, to a look-up of this site's own, which sends the flags home: the
     * slot may have been in a group that was looked up before something changed them */
    e8(&t->e, 0xe8), e32(&t->e, 0);
    u8 *site = t->e.p - 4;
    struct cold *k = bt_cold(t, COLD_FAR);
    k->body = site;
    k->offset = TARGET_IN_T0;
    emit_return_site(t);
    return true;
}

/* A near branch of the usual width; others are left to their bodies. */
static bool emit_branch(struct tr *t)
{
    if (t->d.i.opsize != t->word)
        return false;
    switch (t->d.op) {
    case X86_JMP_NEAR:
        bt_goto(t, branch_offset(t));
        return true;
    case X86_CALL_NEAR:
        return emit_call_near(t);
    case X86_RET_NEAR:
        return emit_ret(t);
    case X86_JMP_NEAR_IND:
        return emit_jmp_ind(t);
    case X86_CALL_NEAR_IND:
        return emit_call_ind(t);
    case X86_LOOP:
    case X86_LOOPE:
    case X86_LOOPNE:
    case X86_JRCXZ:
        return emit_loop_insn(t);
    default:
        return emit_jcc_insn(t);
    }
}

bool bt_flow(struct tr *t)
{
    switch (t->d.op) {
    case X86_LEA:
        return emit_lea_insn(t);
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
    case X86_LOOP:
    case X86_LOOPE:
    case X86_LOOPNE:
    case X86_JRCXZ:
        return t->ended = emit_branch(t);
    default:
        return false;
    }
}

/* --- events --- */

void bt_leave_if(struct tr *t, unsigned cc)
{
    struct cold *k = bt_cold(t, COLD_POLL);
    k->offset = t->next;
    k->body = emit_jcc(&t->e, cc, t->e.p);
}

void bt_poll(struct tr *t, u32 live, u16 at)
{
    struct emit *e = &t->e;
    struct cold *k = bt_cold(t, COLD_POLL);
    k->offset = at;
    if (!live) {
        e8(e, 0x65), e8(e, 0x83), e8(e, 0x3c), e8(e, 0x25); /* cmp dword gs:[poll], 0 */
        e32(e, GS_CPU(poll)), e8(e, 0);
        k->body = emit_jcc(e, JNZ, e->p);
        return;
    }
    k->rcx_in_t1 = true;
    emit_mov(e, T1, RCX);
    e8(e, 0x65), e8(e, 0x8b), e8(e, 0x0c), e8(e, 0x25), e32(e, GS_CPU(poll)); /* mov ecx, [] */
    e8(e, 0xe3), e8(e, 5);                                                    /* jrcxz */
    k->body = emit_jmp(e, e->p);
    emit_mov(e, RCX, T1);
}
