/*
 * bt_copy.c - instructions that are copied: registers that are elsewhere replaced, a memory operand
 * moved to the host's address.
 */
#include "engine/bt/bt_tr.h"

/* --- copying an instruction with other registers --- */

/* Prefixes, REX and opcode; `low` replaces the register in the opcode's low bits if not negative.
 */
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
    if (op == 0x82 && !d->map)
        op = 0x80; /* its alias, gone from 64-bit code */
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
    if (t->d.bytes[t->d.opcode_at] == 0x82 && !t->d.map)
        t->d.bytes[t->d.opcode_at] = 0x80; /* its alias, gone from 64-bit code */
    for (unsigned n = 0; n < t->d.i.len; n++)
        e8(&t->e, t->d.bytes[n]);
}

bool bt_operand_written(const struct x86_row *row, enum x86_operand kind)
{
    for (unsigned n = 0; n < X86_OPERANDS_MAX; n++)
        if (row->operand[n] == kind && row->written >> n & 1)
            return true;
    return false;
}

bool bt_has_operand(const struct x86_row *row, enum x86_operand kind)
{
    for (unsigned n = 0; n < X86_OPERANDS_MAX; n++)
        if (row->operand[n] == kind)
            return true;
    return false;
}

/* The ModRM.reg operand is a general register (not an opcode extension). */
static bool has_g(const struct tr *t)
{
    return bt_has_operand(x86_row(&t->d.i), X86_O_G);
}

bool bt_high_byte(const struct x86_decoded *d)
{
    const struct x86_insn *i = &d->i;
    bool e = !(i->prefix & X86_PFX_MEM) && d->modrm_at && i->rm >= X86_HIGH_BYTE;
    return e || i->reg >= X86_HIGH_BYTE;
}

/* Its ModRM or opcode can stay: every register named is where the guest has it. */
static bool in_place(const struct tr *t, unsigned reg)
{
    return !is_homed(reg) && reg != RSP;
}

/* A register in the opcode, or only implicit ones. */
static void copy_no_modrm(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    unsigned g = d->i.reg;
    bool z = bt_has_operand(x86_row(&d->i), X86_O_Z);
    if (!z || in_place(t, g)) {
        emit_verbatim(t);
        return;
    }
    bool store = is_homed(g) && bt_operand_written(x86_row(&d->i), X86_O_Z);
    unsigned h = store && d->op == X86_MOV && d->i.opsize >= 4 ? T0 : bt_reg(t, g, T0);
    if (!is_homed(g))
        h = host_reg(g);
    emit_opcode(t, (d->rex & 8) | 1, (int)h);
    emit_imm(t);
    if (store)
        bt_store_home(t, g, T0);
}

/* 40..4f of 32-bit code, which are REX now: FF /0 and /1 instead. */
static void copy_inc_dec(struct tr *t)
{
    unsigned h = host_reg(t->d.i.reg);
    if (t->d.i.prefix & X86_PFX_66)
        e8(&t->e, 0x66);
    e8(&t->e, 0x40 | h >> 3);
    e8(&t->e, 0xff);
    e8(&t->e, 0xc0 | (t->d.op == X86_DEC) << 3 | (h & 7));
}

/* The operand is written in full, without having been read. */
static bool write_only(const struct x86_decoded *d, enum x86_operand kind)
{
    const struct x86_row *row = x86_row(&d->i);
    if (d->i.opsize < 4 || row->operand[0] != kind)
        return false;
    return d->op == X86_MOV || d->op == X86_MOVZX || d->op == X86_MOVSX || d->op == X86_MOVSXD ||
           d->op == X86_IMUL3;
}

/* Registers only. */
static void copy_registers(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    const struct x86_row *row = x86_row(&d->i);
    unsigned g = d->i.reg, rm = d->i.rm;
    if (t->word == 4 && (d->op == X86_INC || d->op == X86_DEC) && !d->modrm_at) {
        copy_inc_dec(t);
        return;
    }
    if (!d->modrm_at) {
        copy_no_modrm(t);
        return;
    }
    if ((!has_g(t) || in_place(t, g)) && in_place(t, rm)) {
        emit_verbatim(t);
        return;
    }
    bool g_homed = has_g(t) && is_homed(g), rm_homed = is_homed(rm);
    bool g_written = g_homed && bt_operand_written(row, X86_O_G);
    bool rm_written = rm_homed && bt_operand_written(row, X86_O_E);
    bool both = rm_homed && g_homed && rm == g;
    unsigned temp_g = g_homed && t->t_home[0] == g && !(rm_homed && t->t_home[0] == rm) ? T0 : T1;
    unsigned temp_rm = both ? temp_g : rm_homed && g_homed ? T0 + T1 - temp_g : T0;
    if (rm_homed && !g_homed && t->t_home[1] == rm)
        temp_rm = T1;
    unsigned hg = host_reg(g), hrm = host_reg(rm);
    if (g_homed)
        hg = g_written && write_only(d, X86_O_G) && !both ? temp_g : bt_reg(t, g, temp_g);
    if (rm_homed)
        hrm = rm_written && write_only(d, X86_O_E) && !both ? temp_rm : bt_reg(t, rm, temp_rm);
    unsigned ext = d->bytes[d->modrm_at] >> 3 & 7;
    unsigned field = has_g(t) ? hg : ext;
    emit_opcode(t, (d->rex & 8) | (field >> 3 & 1) << 2 | (hrm >> 3 & 1), -1);
    e8(&t->e, 0xc0 | (field & 7) << 3 | (hrm & 7));
    emit_imm(t);
    if (g_written || (both && rm_written))
        bt_store_home(t, g, hg);
    if (rm_written && !both)
        bt_store_home(t, rm, hrm);
}

/* temp = ModRM.reg, which is in memory or the second byte of a register. Keeps the flags. */
static void load_g(struct tr *t, unsigned temp)
{
    unsigned g = t->d.i.reg;
    if (g < X86_HIGH_BYTE)
        emit_load(&t->e, temp, GS_REG(g));
    else
        emit_rorx(&t->e, temp, g - X86_HIGH_BYTE, 8);
}

static void store_g(struct tr *t, unsigned temp)
{
    struct emit *e = &t->e;
    unsigned g = t->d.i.reg;
    if (g < X86_HIGH_BYTE) {
        emit_store(e, temp, GS_REG(g));
        return;
    }
    g -= X86_HIGH_BYTE;
    emit_rorx(e, g, g, 8);
    e8(e, 0x44), e8(e, 0x88), e8(e, 0xc0 | (temp & 7) << 3 | g); /* mov g8, temp8 */
    emit_rorx(e, g, g, 56);
}

/* With a memory operand. */
static void copy_memory(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    const struct x86_row *row = x86_row(&d->i);
    bool write = row->attr & X86_MEM_WRITE;
    bool pair = d->op == X86_CMPXCHG8B || d->op == X86_CMPXCHG16B;
    bt_operand(t, d->mem_size, write, pair ? MUST_ALIGN : ANY_ALIGN);
    unsigned g = d->i.reg;
    bool g_homed = has_g(t) && (is_homed(g) || g >= X86_HIGH_BYTE);
    bool wants = bt_uses_flags(t) && t->flags_saved;
    bool combined = g_homed || wants; /* they need T1 */
    if (combined)
        bt_combine(t);
    if (wants)
        bt_want_flags(t);
    unsigned ext = d->bytes[d->modrm_at] >> 3 & 7;
    unsigned field = has_g(t) ? host_reg(g) : ext;
    if (g_homed) {
        bt_t1_used(t);
        load_g(t, field = T1);
    }
    bt_access(t);
    unsigned base = combined ? T0 : t->areg;
    unsigned rex = (d->rex & 8) | (field >> 3 & 1) << 2 | (base >> 3 & 1);
    emit_opcode(t, combined ? rex : rex | (T1 >> 3) << 1, -1);
    if (combined)
        emit_base_disp(&t->e, field, base, 0);
    else
        emit_sib(&t->e, field, base, T1, 0, t->adisp);
    emit_imm(t);
    if (g_homed && bt_operand_written(row, X86_O_G))
        store_g(t, T1);
    bt_cold_resume(t);
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
    case X86_CMPXCHG8B:
    case X86_CMPXCHG16B:
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

bool bt_copyable(const struct x86_decoded *d)
{
    if ((!copyable(d->op) && !copyable_bit(d)) || d->vex)
        return false;
    bool rep = d->i.prefix & (X86_PFX_REP | X86_PFX_REPNE) && d->op != X86_TZCNT &&
               d->op != X86_LZCNT && d->op != X86_POPCNT;
    if (rep || bt_has_operand(x86_row(&d->i), X86_O_O))
        return false;
    return !(d->i.prefix & X86_PFX_MEM) || (d->mem_size && d->i.adsize != 2);
}

bool bt_copy(struct tr *t)
{
    const struct x86_decoded *d = &t->d;
    if (!bt_copyable(d))
        return false;
    if (d->i.prefix & X86_PFX_MEM) {
        copy_memory(t);
        return true;
    }
    if (bt_high_byte(d)) { /* only possible without REX: then no register is above 7 */
        if ((has_g(t) && d->i.reg == RSP) || d->i.rm == RSP) /* ESP needs one now */
            return false;
        emit_verbatim(t);
        return true;
    }
    copy_registers(t);
    return true;
}
