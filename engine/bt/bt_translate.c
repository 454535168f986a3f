/*
 * bt_translate.c - one block of 64-bit guest code into host code.
 *
 * An instruction is emitted in one of three ways: copied, with registers R13..R15 replaced by
 * temporaries and its memory operand by [R14], the host address; by hand (stack, control flow); or
 * as a call of its C body. The first two leave for the body, out of line, when the software TLB
 * does not have the page. Nothing of the guest's state is changed before the last such exit.
 */
#include "engine/bt/bt_tr.h"

void bt_body_args(struct tr *t, const struct op *op, u32 next, const u8 *resume)
{
    struct emit *e = &t->e;
    bt_rip(t, T2, next);
    e8(e, 0x49), e8(e, 0xbe), e64(e, (u64)op);
    e8(e, 0x4c), e8(e, 0x8d), e8(e, 0x3d); /* lea r15, [rip + ...] */
    e32(e, (u32)(resume - (e->p + 4)));
}

static void emit_body(struct tr *t, bool last)
{
    bt_want_flags(t);
    t->fpu_level = 0;
    if (last) {
        bt_body_args(t, t->op, t->next, t->e.p);
        emit_jmp(&t->e, STUB(t, BT_STUB_BODY_END));
        t->ended = true;
        return;
    }
    bt_body_args(t, t->op, t->next, t->e.p);
    u8 *lea = t->e.p - 4;
    emit_jmp(&t->e, STUB(t, BT_STUB_BODY));
    emit_patch(lea, t->e.p);
}

static enum bt_stub body_stub(const struct cold *k)
{
    if (k->fpu)
        return k->saved ? BT_STUB_BODY_FPU_SAVED : BT_STUB_BODY_FPU;
    return k->saved ? BT_STUB_BODY_SAVED : BT_STUB_BODY;
}

static void emit_cold(struct tr *t)
{
    for (unsigned n = 0; n < t->ncold; n++) {
        struct cold *k = &t->cold[n];
        if (k->wrote) {
            emit_patch(k->wrote, t->e.p);
            bt_rip(t, T2, k->next);
            emit_jmp(&t->e, STUB(t, k->wrote_saved ? BT_STUB_WROTE_SAVED : BT_STUB_WROTE));
        }
        for (unsigned s = 0; s < k->nsites; s++)
            emit_patch(k->site[s], t->e.p);
        if (k->resume) {
            bt_body_args(t, k->op, k->next, k->resume);
            emit_jmp(&t->e, STUB(t, body_stub(k)));
            continue;
        }
        /* It ended the block: after its body RIP says where to go. */
        bt_body_args(t, k->op, k->next, t->e.p);
        emit_jmp(&t->e, STUB(t, k->saved ? BT_STUB_BODY_END_SAVED : BT_STUB_BODY_END));
    }
}

/* --- a block --- */

/* Undefined flags count as written, except where processors leave them as they were: as the
 * interpreter does, and programs may have come to rely on. */
static u32 flags_written(const struct x86_row *row)
{
    switch (row->op) {
    case X86_BT ... X86_BTC:
    case X86_BSF:
    case X86_BSR:
    case X86_DIV:
    case X86_IDIV:
        return row->flags_written;
    default:
        return row->attr & X86_FLAGS_MAYBE ? 0 : row->flags_written | row->flags_undef;
    }
}

/* Flags that matter before each instruction; after the block all may. */
static void find_live(struct tr *t)
{
    u32 live = t->live[t->b->nops] = FLAGS_ARITH;
    for (unsigned n = t->b->nops; n-- > 0;) {
        const struct x86_insn *i = &t->b->op[n].i;
        if (!i->len) {
            live = FLAGS_ARITH;
        } else {
            const struct x86_row *row = x86_row(i);
            live = (live & ~flags_written(row)) | (row->flags_read & FLAGS_ARITH);
        }
        t->live[n] = live;
    }
}

static void emit_prologue(struct tr *t)
{
    struct emit *e = &t->e;
    /* From far: R14 = RIP, the page's base follows from it. */
    emit_lea(e, T0, T0, -(s32)(t->b->gpa & PAGE_MASK));
    emit_store(e, T0, GS_WORD(BT_VBASE));
    assert(e->p - t->start == BT_PROLOGUE);
}

/* Near entry: looks for events and counts. Where flags matter at entry, with what leaves them. */
static void emit_check_keeping_flags(struct tr *t, unsigned count)
{
    struct emit *e = &t->e;
    e8(e, 0x65), e8(e, 0x44), e8(e, 0x8b), e8(e, 0x2c), e8(e, 0x25); /* mov r13d, gs:[events] */
    e32(e, offsetof(struct cpu, events));
    e8(e, 0x65), e8(e, 0xc4), e8(e, 0x62), e8(e, 0x12), e8(e, 0xf5);    /* pext r14d, r13d, */
    e8(e, 0x34), e8(e, 0x25), e32(e, offsetof(struct cpu, event_mask)); /* gs:[mask] */
    emit_mov(e, T1, RCX);
    emit_mov(e, RCX, T0);
    e8(e, 0xe3), e8(e, 0); /* jrcxz go */
    u8 *go = e->p;
    emit_mov(e, RCX, T1);
    bt_rip(t, T0, (s64)(t->b->gpa & PAGE_MASK));
    emit_store(e, T0, GS_REG(X86_SLOT_RIP));
    emit_jmp(e, STUB(t, BT_STUB_LEAVE));
    go[-1] = (u8)(e->p - go);
    emit_mov(e, RCX, T1);
    emit_load(e, T2, offsetof(struct cpu, insns));
    emit_lea(e, T2, T2, (s32)count);
    emit_store(e, T2, offsetof(struct cpu, insns));
}

static void emit_check(struct tr *t, unsigned count)
{
    struct emit *e = &t->e;
    e8(e, 0x65), e8(e, 0x44), e8(e, 0x8b), e8(e, 0x34), e8(e, 0x25); /* mov r14d, gs:[events] */
    e32(e, offsetof(struct cpu, events));
    e8(e, 0x65), e8(e, 0x44), e8(e, 0x85), e8(e, 0x34), e8(e, 0x25); /* test r14d, gs:[mask] */
    e32(e, offsetof(struct cpu, event_mask));
    u8 *go = emit_jcc(e, JNZ ^ 1, e->p);
    bt_rip(t, T0, (s64)(t->b->gpa & PAGE_MASK));
    emit_store(e, T0, GS_REG(X86_SLOT_RIP));
    emit_jmp(e, STUB(t, BT_STUB_LEAVE));
    emit_patch(go, e->p);
    e8(e, 0x65), e8(e, 0x48), e8(e, 0x83), e8(e, 0x04), e8(e, 0x25); /* add gs:[insns], count */
    e32(e, offsetof(struct cpu, insns));
    e8(e, count);
}

/* Before an instruction that is copied without a look-up, or done by hand. */
static void settle_flags(struct tr *t)
{
    if (!t->flags_live)
        t->flags_saved = false; /* whatever was saved is overwritten before it is read */
    else if (bt_uses_flags(t))
        bt_want_flags(t);
}

u8 *bt_translate(struct cpu *c, struct bt_cpu *bt, struct block *b)
{
    u8 *entry = bt->at;
    struct tr t = {.e.p = entry,
                   .start = entry,
                   .c = c,
                   .bt = bt,
                   .b = b,
                   .next = b->gpa & PAGE_MASK,
                   .word = b->mode == X86_MODE64 ? 8 : 4};
    const u8 *code = mem_ptr(c->mem, b->gpa), *end = code + PAGE_SIZE - t.next;
    find_live(&t);
    emit_prologue(&t);
    if (t.live[0])
        emit_check_keeping_flags(&t, b->nops);
    else
        emit_check(&t, b->nops);
    for (unsigned n = 0; n < b->nops && !t.ended; n++) {
        t.op = &b->op[n];
        bool last = n + 1 == b->nops;
        if (!t.op->i.len || x86_decode(code, (unsigned)(end - code), b->mode, &t.d) != X86_OK ||
            t.d.i.len != t.op->i.len) {
            emit_body(&t, true); /* raises an exception */
            break;
        }
        code += t.op->i.len;
        t.next += t.op->i.len;
        t.flags_live = t.live[n] != 0;
        t.live_after = t.live[n + 1] != 0;
        settle_flags(&t);
        if (!bt_flow(&t) && !bt_copy(&t) && !bt_simd(&t))
            emit_body(&t, last && b->ends);
        else if (t.ended && t.ncold < BLOCK_OPS_MAX && t.cold[t.ncold].op == t.op)
            t.ncold++;
    }
    if (!t.ended)
        bt_exit(&t, t.next);
    emit_cold(&t);
    bt_simd_cold(&t);
    if (mem_code_gen(c->mem, b->page) != b->gen)
        return NULL; /* another CPU has just changed the page: this may mix old and new code */
    bt->at = (u8 *)align_up((u64)t.e.p, 16);
    bt->translated++;
    bt->bytes += (u64)(t.e.p - entry);
    return entry;
}
