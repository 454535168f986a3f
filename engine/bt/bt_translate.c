/*
 * bt_translate.c - one block of 64-bit guest code into host code.
 *
 * An instruction is emitted in one of three ways: copied, with registers R13..R15 replaced by
 * temporaries and its memory operand by [R14], the host address; by hand (stack, control flow); or
 * as a call of its C body. The first two leave for the body, out of line, when the software TLB
 * does not have the page. Nothing of the guest's state is changed before the last such exit.
 */
#include "engine/bt/bt_emit.h"

#include "cpu/cpu_mem.h"

#define T0 14 /* address; then host address */
#define T1 15
#define T2 13

#define JNZ 5

#define STUB(t, n) ((t)->bt->code + (n) * BT_STUB_SIZE)

/* An out-of-line part: calls the body of an op, then goes on at `resume`. */
struct cold {
    u8 *site[3]; /* rel32s of the jumps that come here */
    unsigned nsites;
    const struct op *op;
    u8 *resume;
    u32 next; /* offset in the page after the instruction */
    bool saved; /* flags are in cpu.aflags */
};

struct tr {
    struct emit e;
    const u8 *start;
    struct cpu *c;
    struct bt_cpu *bt;
    struct block *b;
    const struct op *op;
    struct x86_decoded d;
    unsigned next;   /* offset in the page after the current instruction */
    bool flags_live; /* arithmetic flags as they are before the current instruction matter */
    struct cold cold[BLOCK_OPS_MAX];
    unsigned ncold;
    u32 live[BLOCK_OPS_MAX]; /* flags live before each instruction */
    bool ended;
};

static bool is_temp(unsigned reg)
{
    return reg >= 13 && reg <= 15;
}

/* --- flags across a check --- */

static void save_flags(struct tr *t)
{
    emit_mov(&t->e, T2, RAX);
    e8(&t->e, 0x9f); /* lahf */
    e8(&t->e, 0x0f), e8(&t->e, 0x90), e8(&t->e, 0xc0); /* seto al */
    e8(&t->e, 0x65), e8(&t->e, 0x66), e8(&t->e, 0x89); /* mov gs:[aflags], ax */
    e8(&t->e, 0x04), e8(&t->e, 0x25);
    e32(&t->e, offsetof(struct cpu, aflags));
    emit_mov(&t->e, RAX, T2);
}

static void restore_flags(struct tr *t)
{
    emit_mov(&t->e, T2, RAX);
    e8(&t->e, 0x65), e8(&t->e, 0x0f), e8(&t->e, 0xb7); /* movzx eax, gs:[aflags] */
    e8(&t->e, 0x04), e8(&t->e, 0x25);
    e32(&t->e, offsetof(struct cpu, aflags));
    e8(&t->e, 0x04), e8(&t->e, 0x7f); /* add al, 7f */
    e8(&t->e, 0x9e);                  /* sahf */
    emit_mov(&t->e, RAX, T2);
}

/* --- memory operands --- */

static struct cold *cold_for(struct tr *t)
{
    struct cold *k = &t->cold[t->ncold];
    if (k->op != t->op)
        *k = (struct cold){.op = t->op, .next = t->next, .saved = t->flags_live};
    return k;
}

static void cold_jump(struct tr *t)
{
    struct cold *k = cold_for(t);
    k->site[k->nsites++] = emit_jcc(&t->e, JNZ, t->e.p);
}

/* The instruction is done: its out-of-line part comes back here. */
static void cold_resume(struct tr *t)
{
    if (t->ncold < BLOCK_OPS_MAX && t->cold[t->ncold].op == t->op)
        t->cold[t->ncold++].resume = t->e.p;
}

/*
 * T0 = linear address -> host address, or off to the body. Leaves T1 and T2 free, and the flags as
 * they were if they matter.
 */
static void emit_lookup(struct tr *t, unsigned size, bool write)
{
    struct emit *e = &t->e;
    if (t->flags_live)
        save_flags(t);
    emit_mov(e, T1, T0);
    e8(e, 0x49), e8(e, 0xc1), e8(e, 0xef), e8(e, 7); /* shr r15, 7: page number * 32 and more */
    e8(e, 0x41), e8(e, 0x81), e8(e, 0xe7);           /* and r15d, slots * 32 */
    e32(e, (TLB_SIZE - 1) * sizeof(struct tlb_entry));
    static_assert(sizeof(struct tlb_entry) == 32, "the shift by 7 above");
    emit_gs(e, 0x03, T1, offsetof(struct cpu, tlb));
    emit_lea(e, T2, T0, (s32)size - 1);
    e8(e, 0x49), e8(e, 0x81), e8(e, 0xe5); /* and r13, -4096: the page of the last byte */
    e32(e, ~(u32)PAGE_MASK);
    emit_mem(e, 0x3b, T2, T1,
             write ? offsetof(struct tlb_entry, wr) : offsetof(struct tlb_entry, rd));
    cold_jump(t);
    if (write) { /* is there code on the page? */
        emit_mem(e, 0x8b, T2, T1, offsetof(struct tlb_entry, code));
        e8(e, 0x49), e8(e, 0x83), e8(e, 0x7d), e8(e, 0), e8(e, 0); /* cmp qword [r13], 0 */
        cold_jump(t);
    }
    emit_mem(e, 0x03, T0, T1, offsetof(struct tlb_entry, addend));
    if (t->flags_live)
        restore_flags(t);
}

/* A guest register into a host register that may hold it: itself, or the temporary. */
static unsigned in_temp(struct tr *t, unsigned reg, unsigned temp)
{
    if (!is_temp(reg))
        return reg;
    emit_load(&t->e, temp, GS_REG(reg));
    return temp;
}

/* T0 = RIP of `offset` in this page. */
static void emit_rip(struct tr *t, unsigned dst, s64 offset)
{
    emit_load(&t->e, dst, GS_WORD(BT_VBASE));
    emit_lea(&t->e, dst, dst, (s32)offset);
}

/* lea T0, [base + index * scale + disp] */
static void emit_lea_sib(struct tr *t, unsigned base, unsigned index, unsigned scale, s32 disp)
{
    struct emit *e = &t->e;
    e8(e, 0x48 | (T0 >> 3) << 2 | (index >> 3 & 1) << 1 | (base >> 3 & 1));
    e8(e, 0x8d);
    e8(e, 0x80 | (T0 & 7) << 3 | 4);
    e8(e, scale << 6 | (index & 7) << 3 | (base & 7));
    e32(e, (u32)disp);
}

/* T0 = effective address of the ModRM operand (no segment). Keeps the flags. */
static void emit_ea(struct tr *t)
{
    const struct x86_insn *i = &t->op->i;
    struct emit *e = &t->e;
    if (i->base == X86_SLOT_RIP) {
        emit_rip(t, T0, (s64)t->next + i->disp);
    } else if (i->index != X86_SLOT_ZERO) {
        unsigned index = in_temp(t, i->index, T1);
        unsigned base = T0;
        if (i->base == X86_SLOT_ZERO) {
            e8(e, 0x41), e8(e, 0xbe), e32(e, 0); /* mov r14d, 0 */
        } else {
            base = in_temp(t, i->base, T0);
        }
        emit_lea_sib(t, base, index, i->scale, i->disp);
    } else if (i->base != X86_SLOT_ZERO) {
        emit_lea(e, T0, in_temp(t, i->base, T0), i->disp);
    } else {
        e8(e, 0x49), e8(e, 0xc7), e8(e, 0xc6), e32(e, (u32)i->disp); /* mov r14, disp32 */
    }
    if (i->adsize == 4)
        e8(e, 0x45), e8(e, 0x89), e8(e, 0xf6); /* mov r14d, r14d */
}

static void emit_segment(struct tr *t)
{
    const struct x86_insn *i = &t->op->i;
    if (i->seg == X86_SEG_FLAT)
        return;
    emit_load(&t->e, T1, offsetof(struct cpu, seg) + i->seg * sizeof(struct seg) +
                             offsetof(struct seg, base));
    emit_lea_sib(t, T0, T1, 0, 0);
}

/* --- copying an instruction with other registers --- */

/* Prefixes, REX and opcode; `low` replaces the register in the opcode's low bits if not negative. */
static void emit_opcode(struct tr *t, unsigned rex, int low)
{
    const struct x86_decoded *d = &t->d;
    struct emit *e = &t->e;
    if (d->i.prefix & X86_PFX_LOCK)
        e8(e, 0xf0);
    if (d->i.prefix & X86_PFX_66)
        e8(e, 0x66);
    if (d->i.prefix & X86_PFX_REP)
        e8(e, 0xf3);
    if (d->i.prefix & X86_PFX_REPNE)
        e8(e, 0xf2);
    e8(e, 0x40 | rex);
    if (d->map)
        e8(e, 0x0f);
    if (d->map == 2)
        e8(e, 0x38);
    if (d->map == 3)
        e8(e, 0x3a);
    unsigned op = d->bytes[d->opcode_at];
    e8(e, low < 0 ? op : (op & 0xf8) | (low & 7));
}

static void emit_imm(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    for (unsigned n = 0; n < d->imm_len; n++)
        e8(&t->e, d->bytes[d->imm_at + n]);
}

static void emit_verbatim(struct tr *t)
{
    for (unsigned n = 0; n < t->d.i.len; n++)
        e8(&t->e, t->d.bytes[n]);
}

static bool operand_written(const struct x86_row *row, enum x86_operand kind)
{
    for (unsigned n = 0; n < X86_OPERANDS_MAX; n++)
        if (row->operand[n] == kind && row->written >> n & 1)
            return true;
    return false;
}

static bool has_operand(const struct x86_row *row, enum x86_operand kind)
{
    for (unsigned n = 0; n < X86_OPERANDS_MAX; n++)
        if (row->operand[n] == kind)
            return true;
    return false;
}

/* The ModRM.reg operand is a general register (not an opcode extension). */
static bool has_g(const struct tr *t)
{
    return has_operand(x86_row(&t->d.i), X86_O_G);
}

static bool high_byte(const struct tr *t)
{
    const struct x86_insn *i = &t->d.i;
    bool e = !(i->prefix & X86_PFX_MEM) && t->d.modrm_at && i->rm >= X86_HIGH_BYTE;
    return e || i->reg >= X86_HIGH_BYTE;
}

/* Registers only. */
static void copy_registers(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    const struct x86_row *row = x86_row(&d->i);
    unsigned g = d->i.reg, rm = d->i.rm;
    if (!d->modrm_at) { /* register in the opcode, or only implicit ones */
        bool z = has_operand(row, X86_O_Z);
        if (!z || !is_temp(g)) {
            emit_verbatim(t);
            return;
        }
        emit_load(&t->e, T0, GS_REG(g));
        emit_opcode(t, (d->rex & 8) | 1, T0);
        emit_imm(t);
        if (operand_written(row, X86_O_Z))
            emit_store(&t->e, T0, GS_REG(g));
        return;
    }
    bool g_temp = has_g(t) && is_temp(g), rm_temp = is_temp(rm);
    if (!g_temp && !rm_temp) {
        emit_verbatim(t);
        return;
    }
    unsigned hg = g, hrm = rm;
    if (g_temp)
        emit_load(&t->e, hg = T1, GS_REG(g));
    if (rm_temp && g_temp && rm == g)
        hrm = T1;
    else if (rm_temp)
        emit_load(&t->e, hrm = T0, GS_REG(rm));
    unsigned ext = d->bytes[d->modrm_at] >> 3 & 7;
    unsigned field = has_g(t) ? hg : ext;
    emit_opcode(t, (d->rex & 8) | (field >> 3 & 1) << 2 | (hrm >> 3 & 1), -1);
    e8(&t->e, 0xc0 | (field & 7) << 3 | (hrm & 7));
    emit_imm(t);
    if (g_temp && (operand_written(row, X86_O_G) || hrm == T1))
        emit_store(&t->e, T1, GS_REG(g));
    if (hrm == T0)
        emit_store(&t->e, T0, GS_REG(rm));
}

/* With a memory operand, which has become [T0]. */
static void copy_memory(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    const struct x86_row *row = x86_row(&d->i);
    emit_ea(t);
    emit_segment(t);
    emit_lookup(t, d->mem_size, row->attr & X86_MEM_WRITE);
    unsigned g = d->i.reg;
    bool g_temp = has_g(t) && is_temp(g);
    unsigned ext = d->bytes[d->modrm_at] >> 3 & 7;
    unsigned field = has_g(t) ? g : ext;
    if (g_temp)
        emit_load(&t->e, field = T1, GS_REG(g));
    emit_opcode(t, (d->rex & 8) | (field >> 3 & 1) << 2 | 1, -1);
    e8(&t->e, (field & 7) << 3 | (T0 & 7));
    static_assert((T0 & 7) == 6, "[r14] needs neither SIB nor displacement");
    emit_imm(t);
    if (g_temp && operand_written(row, X86_O_G))
        emit_store(&t->e, T1, GS_REG(g));
    cold_resume(t);
}

/* LEA computes in T0 and moves. */
static void emit_lea_insn(struct tr *t)
{
    const struct x86_insn *i = &t->op->i;
    emit_ea(t);
    if (i->opsize == 4)
        e8(&t->e, 0x45), e8(&t->e, 0x89), e8(&t->e, 0xf6); /* mov r14d, r14d */
    if (is_temp(i->reg))
        emit_store(&t->e, T0, GS_REG(i->reg));
    else
        emit_mov(&t->e, i->reg, T0);
}

static bool copyable(u16 op)
{
    switch (op) {
    case X86_ADD ... X86_CMP:
    case X86_TEST:
    case X86_NOT:
    case X86_NEG:
    case X86_INC:
    case X86_DEC:
    case X86_MUL:
    case X86_IMUL1:
    case X86_IMUL2:
    case X86_IMUL3:
    case X86_ROL ... X86_SAR:
    case X86_SHLD:
    case X86_SHRD:
    case X86_BSF:
    case X86_BSR:
    case X86_TZCNT:
    case X86_LZCNT:
    case X86_POPCNT:
    case X86_MOV:
    case X86_MOVSX:
    case X86_MOVSXD:
    case X86_MOVZX:
    case X86_MOVBE:
    case X86_BSWAP:
    case X86_XCHG:
    case X86_XADD:
    case X86_CMPXCHG:
    case X86_CBW:
    case X86_CWD:
    case X86_CMC:
    case X86_CLC:
    case X86_STC:
    case X86_SETO ... X86_SETNLE:
    case X86_CMOVO ... X86_CMOVNLE:
        return true;
    default:
        return false;
    }
}

/* Bit tests reach beyond their memory operand unless the index is an immediate. */
static bool copyable_bit(const struct x86_decoded *d)
{
    if (d->op < X86_BT || d->op > X86_BTC)
        return false;
    return !(d->i.prefix & X86_PFX_MEM) || x86_row(&d->i)->operand[1] == X86_O_I;
}

static bool emit_copy(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    if ((!copyable(d->op) && !copyable_bit(d)) || d->vex)
        return false;
    const struct x86_row *row = x86_row(&d->i);
    if (has_operand(row, X86_O_O) || (d->i.prefix & (X86_PFX_REP | X86_PFX_REPNE) &&
                                      d->op != X86_TZCNT && d->op != X86_LZCNT &&
                                      d->op != X86_POPCNT))
        return false;
    if (d->i.prefix & X86_PFX_MEM) {
        if (high_byte(t) || !d->mem_size)
            return false;
        copy_memory(t);
        return true;
    }
    if (high_byte(t)) { /* only possible without REX: then no register is above 7 */
        emit_verbatim(t);
        return true;
    }
    copy_registers(t);
    return true;
}

/* --- the stack --- */

static void emit_push_lookup(struct tr *t)
{
    emit_lea(&t->e, T0, RSP, -8);
    emit_lookup(t, 8, true);
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
        unsigned h = in_temp(t, reg, T1);
        emit_mem(&t->e, 0x89, h, T0, 0);
    }
    emit_lea(&t->e, RSP, RSP, -8);
    cold_resume(t);
    return true;
}

static bool emit_pop(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    if (d->i.opsize != 8 || d->i.prefix & X86_PFX_MEM)
        return false;
    unsigned reg = x86_row(&d->i)->operand[0] == X86_O_Z ? d->i.reg : d->i.rm;
    emit_mov(&t->e, T0, RSP);
    emit_lookup(t, 8, false);
    emit_lea(&t->e, RSP, RSP, 8);
    if (is_temp(reg)) {
        emit_mem(&t->e, 0x8b, T1, T0, 0);
        emit_store(&t->e, T1, GS_REG(reg));
    } else {
        emit_mem(&t->e, 0x8b, reg, T0, 0);
    }
    cold_resume(t);
    return true;
}

static bool emit_leave_insn(struct tr *t)
{
    if (t->d.i.opsize != 8)
        return false;
    emit_mov(&t->e, T0, RBP);
    emit_lookup(t, 8, false);
    emit_lea(&t->e, RSP, RBP, 8);
    emit_mem(&t->e, 0x8b, RBP, T0, 0);
    cold_resume(t);
    return true;
}

/* --- leaving the block --- */

/* Out through bt_jump_to, RIP in T0. */
static void emit_goto_t0(struct tr *t)
{
    emit_jmp(&t->e, STUB(t, BT_STUB_JUMP_TO));
}

/* To an offset relative to this page. Within the page it can be joined to its target later. */
static void emit_exit(struct tr *t, s64 offset)
{
    struct bt_cpu *bt = t->bt;
    if (offset >= 0 && offset < (s64)PAGE_SIZE && bt->nlinks < bt->links_max) {
        struct bt_link *l = &bt->link[bt->nlinks++];
        l->page = t->b->gpa & ~PAGE_MASK;
        l->site = emit_jmp(&t->e, t->e.p + 5);
        emit_rip(t, T0, offset);
        emit_store(&t->e, T0, GS_REG(X86_SLOT_RIP));
        e8(&t->e, 0x49), e8(&t->e, 0xbf), e64(&t->e, (u64)l); /* mov r15, link */
        emit_store(&t->e, T1, GS_WORD(BT_LINK));
        emit_jmp(&t->e, STUB(t, BT_STUB_LEAVE));
        return;
    }
    emit_rip(t, T0, offset);
    emit_goto_t0(t);
}

static s64 branch_offset(const struct tr *t)
{
    return (s64)t->next + (s64)t->op->i.imm;
}

static bool emit_jcc_insn(struct tr *t)
{
    u8 *taken = emit_jcc(&t->e, t->d.op - X86_JO, t->e.p);
    emit_exit(t, t->next);
    emit_patch(taken, t->e.p);
    emit_exit(t, branch_offset(t));
    return true;
}

static bool emit_call(struct tr *t)
{
    emit_push_lookup(t);
    emit_rip(t, T1, t->next);
    emit_mem(&t->e, 0x89, T1, T0, 0);
    emit_lea(&t->e, RSP, RSP, -8);
    emit_exit(t, branch_offset(t));
    return true;
}

static bool emit_ret(struct tr *t)
{
    emit_mov(&t->e, T0, RSP);
    emit_lookup(t, 8, false);
    emit_mem(&t->e, 0x8b, T0, T0, 0);
    emit_lea(&t->e, RSP, RSP, 8 + (s32)(u16)t->op->i.imm);
    emit_goto_t0(t);
    return true;
}

static bool emit_jmp_ind(struct tr *t)
{
    const struct x86_insn *i = &t->op->i;
    if (i->prefix & X86_PFX_MEM) {
        emit_ea(t);
        emit_segment(t);
        emit_lookup(t, 8, false);
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
    emit_rip(t, T1, t->next);
    emit_mem(&t->e, 0x89, T1, T0, 0);
    if (is_temp(i->rm))
        emit_load(&t->e, T0, GS_REG(i->rm));
    else
        emit_mov(&t->e, T0, i->rm);
    emit_lea(&t->e, RSP, RSP, -8);
    emit_goto_t0(t);
    return true;
}

/* By hand, or copied; false: call the body. */
static bool emit_insn(struct tr *t)
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
        emit_exit(t, branch_offset(t));
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
        return emit_copy(t);
    }
}

/* R14 = op, R13 = RIP after it, R15 = where to go on. */
static void emit_body_args(struct tr *t, const struct op *op, u32 next, const u8 *resume)
{
    struct emit *e = &t->e;
    emit_rip(t, T2, next);
    e8(e, 0x49), e8(e, 0xbe), e64(e, (u64)op);
    e8(e, 0x4c), e8(e, 0x8d), e8(e, 0x3d); /* lea r15, [rip + ...] */
    e32(e, (u32)(resume - (e->p + 4)));
}

static void emit_body(struct tr *t, bool last)
{
    if (last) {
        emit_body_args(t, t->op, t->next, t->e.p);
        emit_jmp(&t->e, STUB(t, BT_STUB_BODY_END));
        t->ended = true;
        return;
    }
    emit_body_args(t, t->op, t->next, t->e.p);
    u8 *lea = t->e.p - 4;
    emit_jmp(&t->e, STUB(t, BT_STUB_BODY));
    emit_patch(lea, t->e.p);
}

static void emit_cold(struct tr *t)
{
    for (unsigned n = 0; n < t->ncold; n++) {
        struct cold *k = &t->cold[n];
        for (unsigned s = 0; s < k->nsites; s++)
            emit_patch(k->site[s], t->e.p);
        if (k->resume) {
            emit_body_args(t, k->op, k->next, k->resume);
            emit_jmp(&t->e, STUB(t, k->saved ? BT_STUB_BODY_SAVED : BT_STUB_BODY));
            continue;
        }
        /* It ended the block: after its body RIP says where to go. */
        emit_body_args(t, k->op, k->next, t->e.p);
        emit_jmp(&t->e, STUB(t, k->saved ? BT_STUB_BODY_END_SAVED : BT_STUB_BODY_END));
    }
}

/* --- a block --- */

static u32 flags_written(const struct x86_row *row)
{
    return row->attr & X86_FLAGS_MAYBE ? 0 : row->flags_written | row->flags_undef;
}

/* Flags that matter before each instruction; after the block all may. */
static void find_live(struct tr *t)
{
    u32 live = FLAGS_ARITH;
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

/* Near entry: counts, and looks for events. */
static void emit_check(struct tr *t, unsigned count)
{
    struct emit *e = &t->e;
    t->flags_live = t->live[0] != 0;
    if (t->flags_live)
        save_flags(t);
    e8(e, 0x65), e8(e, 0x44), e8(e, 0x8b), e8(e, 0x34), e8(e, 0x25); /* mov r14d, gs:[events] */
    e32(e, offsetof(struct cpu, events));
    e8(e, 0x65), e8(e, 0x44), e8(e, 0x85), e8(e, 0x34), e8(e, 0x25); /* test r14d, gs:[mask] */
    e32(e, offsetof(struct cpu, event_mask));
    u8 *go = emit_jcc(e, JNZ ^ 1, e->p);
    if (t->flags_live)
        restore_flags(t);
    emit_rip(t, T0, (s64)(t->b->gpa & PAGE_MASK));
    emit_store(e, T0, GS_REG(X86_SLOT_RIP));
    emit_jmp(e, STUB(t, BT_STUB_LEAVE));
    emit_patch(go, e->p);
    e8(e, 0x65), e8(e, 0x48), e8(e, 0x83), e8(e, 0x04), e8(e, 0x25); /* add gs:[insns], count */
    e32(e, offsetof(struct cpu, insns));
    e8(e, count);
    if (t->flags_live)
        restore_flags(t);
}

u8 *bt_translate(struct cpu *c, struct bt_cpu *bt, struct block *b)
{
    if (bt->code_end - bt->at < 64 * 1024)
        return NULL;
    u8 *entry = bt->at;
    struct tr t = {.e.p = entry, .start = entry, .c = c, .bt = bt, .b = b, .next = b->gpa & PAGE_MASK};
    const u8 *code = mem_ptr(c->mem, b->gpa), *end = code + PAGE_SIZE - t.next;
    find_live(&t);
    emit_prologue(&t);
    emit_check(&t, b->nops);
    for (unsigned n = 0; n < b->nops && !t.ended; n++) {
        t.op = &b->op[n];
        bool last = n + 1 == b->nops;
        if (!t.op->i.len ||
            x86_decode(code, (unsigned)(end - code), X86_MODE64, &t.d) != X86_OK ||
            t.d.i.len != t.op->i.len) {
            emit_body(&t, true); /* raises an exception */
            break;
        }
        code += t.op->i.len;
        t.next += t.op->i.len;
        t.flags_live = t.live[n] != 0;
        if (!emit_insn(&t))
            emit_body(&t, last && b->ends);
        else if (t.ended && t.ncold < BLOCK_OPS_MAX && t.cold[t.ncold].op == t.op)
            t.ncold++;
    }
    if (!t.ended)
        emit_exit(&t, t.next);
    emit_cold(&t);
    bt->at = (u8 *)align_up((u64)t.e.p, 16);
    bt->translated++;
    bt->bytes += (u64)(t.e.p - entry);
    return entry;
}
