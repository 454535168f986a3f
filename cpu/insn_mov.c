/*
 * insn_mov.c - moves, the stack, conversions, and single flags: whatever only carries values about.
 */
#include "cpu/cpu_seg.h"
#include "cpu/insn_int.h"
#include "cpu/insn_ops.h"

/* --- MOV, by size and form --- */

#define MOV(bits)                                                                                  \
    static void mov_rr_##bits(struct cpu *c, const struct x86_insn *i)                             \
    {                                                                                              \
        reg_set(c, i->rm, bits / 8, reg_get(c, i->reg, bits / 8));                                 \
    }                                                                                              \
    static void mov_rm_##bits(struct cpu *c, const struct x86_insn *i)                             \
    {                                                                                              \
        reg_set(c, i->reg, bits / 8, cpu_ld##bits(c, i->seg, cpu_ea(c, i)));                       \
    }                                                                                              \
    static void mov_mr_##bits(struct cpu *c, const struct x86_insn *i)                             \
    {                                                                                              \
        cpu_st##bits(c, i->seg, cpu_ea(c, i), reg_get(c, i->reg, bits / 8));                       \
    }                                                                                              \
    static void mov_ri_##bits(struct cpu *c, const struct x86_insn *i)                             \
    {                                                                                              \
        reg_set(c, i->rm, bits / 8, i->imm);                                                       \
    }                                                                                              \
    static void mov_mi_##bits(struct cpu *c, const struct x86_insn *i)                             \
    {                                                                                              \
        cpu_st##bits(c, i->seg, cpu_ea(c, i), i->imm);                                             \
    }                                                                                              \
    static void mov_load_##bits(struct cpu *c, const struct x86_insn *i)                           \
    {                                                                                              \
        reg_set(c, RAX, bits / 8, cpu_ld##bits(c, i->seg, i->imm));                                \
    }                                                                                              \
    static void mov_store_##bits(struct cpu *c, const struct x86_insn *i)                          \
    {                                                                                              \
        cpu_st##bits(c, i->seg, i->imm, reg_get(c, RAX, bits / 8));                                \
    }
MOV(8)
MOV(16)
MOV(32)
MOV(64)

enum { MOV_RR, MOV_RM, MOV_MR, MOV_RI, MOV_MI, MOV_LOAD, MOV_STORE, MOV_FORMS };
#define MOV_ROW(bits)                                                                              \
    {                                                                                              \
        mov_rr_##bits, mov_rm_##bits, mov_mr_##bits, mov_ri_##bits, mov_mi_##bits,                 \
            mov_load_##bits, mov_store_##bits                                                      \
    }
static cpu_insn_fn *const mov[4][MOV_FORMS] = {MOV_ROW(8), MOV_ROW(16), MOV_ROW(32), MOV_ROW(64)};

static cpu_insn_fn *bind_mov(struct x86_decoded *d)
{
    struct x86_insn *i = &d->i;
    const struct x86_row *row = x86_row(i);
    cpu_insn_fn *const *form = mov[__builtin_ctz(i->opsize)];
    bool mem = i->prefix & X86_PFX_MEM;
    if (row->operand[0] == X86_O_O)
        return form[MOV_STORE];
    if (row->operand[1] == X86_O_O)
        return form[MOV_LOAD];
    if (row->operand[1] == X86_O_I) {
        if (row->operand[0] == X86_O_Z)
            i->rm = i->reg;
        return form[mem ? MOV_MI : MOV_RI];
    }
    if (row->operand[0] == X86_O_G) {
        if (mem)
            return form[MOV_RM];
        u8 t = i->rm; /* the destination is always in rm */
        i->rm = i->reg;
        i->reg = t;
        return form[MOV_RR];
    }
    return form[mem ? MOV_MR : MOV_RR];
}

/* --- extensions: MOVZX, MOVSX, MOVSXD; opsize is the destination's --- */

#define EXTEND(name, from, type)                                                                   \
    static void name##_m(struct cpu *c, const struct x86_insn *i)                                  \
    {                                                                                              \
        u64 v = (u64)(s64)(type)cpu_ld##from(c, i->seg, cpu_ea(c, i));                             \
        reg_set(c, i->reg, i->opsize, v);                                                          \
    }                                                                                              \
    static void name##_r(struct cpu *c, const struct x86_insn *i)                                  \
    {                                                                                              \
        reg_set(c, i->reg, i->opsize, (u64)(s64)(type)reg_get(c, i->rm, from / 8));                \
    }
EXTEND(movzx8, 8, u8)
EXTEND(movzx16, 16, u16)
EXTEND(movsx8, 8, s8)
EXTEND(movsx16, 16, s16)
EXTEND(movsxd, 32, s32)

static cpu_insn_fn *bind_extend(struct x86_decoded *d)
{
    bool mem = d->i.prefix & X86_PFX_MEM, byte = x86_row(&d->i)->width[1] == 1;
    if (d->op == X86_MOVZX)
        return byte ? (mem ? movzx8_m : movzx8_r) : (mem ? movzx16_m : movzx16_r);
    return byte ? (mem ? movsx8_m : movsx8_r) : (mem ? movsx16_m : movsx16_r);
}

/* Without REX.W it reads as many bytes as it writes. */
static void insn_movsxd(struct cpu *c, const struct x86_insn *i)
{
    if (i->opsize == 8)
        (i->prefix & X86_PFX_MEM ? movsxd_m : movsxd_r)(c, i);
    else
        reg_set(c, i->reg, i->opsize, rm_get(c, i, i->opsize));
}

static u64 swap(u64 v, unsigned size)
{
    return size == 2 ? __builtin_bswap16((u16)v)
                     : (size == 4 ? __builtin_bswap32((u32)v) : __builtin_bswap64(v));
}

static void insn_movbe(struct cpu *c, const struct x86_insn *i)
{
    u64 ea = cpu_ea(c, i);
    if (x86_row(i)->operand[0] == X86_O_G)
        reg_set(c, i->reg, i->opsize, swap(cpu_ld(c, i->seg, ea, i->opsize), i->opsize));
    else
        cpu_st(c, i->seg, ea, i->opsize, swap(c->reg[i->reg], i->opsize));
}

/* BSWAP of a 16-bit register is undefined; Intel's and AMD's CPUs clear it. */
static void insn_bswap(struct cpu *c, const struct x86_insn *i)
{
    reg_set(c, i->reg, i->opsize, i->opsize == 2 ? 0 : swap(c->reg[i->reg], i->opsize));
}

/* MOVNTI, MOVDIRI */
static void insn_movnti(struct cpu *c, const struct x86_insn *i)
{
    cpu_st(c, i->seg, cpu_ea(c, i), i->opsize, c->reg[i->reg]);
}

/* 64 bytes from [rm] to ES:[reg], which must be aligned. */
static void insn_movdir64b(struct cpu *c, const struct x86_insn *i)
{
    u8 buf[64];
    gva_t from = cpu_la(c, i->seg, cpu_ea(c, i), 64, false);
    cpu_read_slow(c, from, buf, 64);
    u64 ea = c->reg[i->reg] & size_mask(i->adsize);
    gva_t to = cpu_la(c, c->mode == X86_MODE64 ? X86_SEG_FLAT : ES, ea, 64, true);
    if (to & 63)
        cpu_throw_gp(c, 0);
    cpu_write_slow(c, to, buf, 64);
}

static void lea64(struct cpu *c, const struct x86_insn *i)
{
    c->reg[i->reg] = cpu_ea(c, i);
}

static void insn_lea(struct cpu *c, const struct x86_insn *i)
{
    reg_set(c, i->reg, i->opsize, cpu_ea(c, i));
}

static void insn_xlat(struct cpu *c, const struct x86_insn *i)
{
    u64 ea = (c->reg[RBX] + (u8)c->reg[RAX]) & size_mask(i->adsize);
    *reg8(c, RAX) = cpu_ld8(c, i->seg, ea);
}

/* CBW, CWDE, CDQE */
static void insn_cbw(struct cpu *c, const struct x86_insn *i)
{
    reg_set(c, RAX, i->opsize, (u64)sext(c->reg[RAX], 4 * i->opsize));
}

/* CWD, CDQ, CQO */
static void insn_cwd(struct cpu *c, const struct x86_insn *i)
{
    reg_set(c, RDX, i->opsize, (u64)(sext(c->reg[RAX], 8 * i->opsize) >> 63));
}

/* --- the stack --- */

static void push_64(struct cpu *c, const struct x86_insn *i)
{
    u64 sp = c->reg[RSP] - 8;
    cpu_st64(c, X86_SEG_FLAT, sp, c->reg[i->rm]);
    c->reg[RSP] = sp;
}

static void pop_64(struct cpu *c, const struct x86_insn *i)
{
    u64 v = cpu_ld64(c, X86_SEG_FLAT, c->reg[RSP]);
    c->reg[RSP] += 8;
    c->reg[i->rm] = v; /* after RSP: POP RSP keeps what was read */
}

static void push_reg(struct cpu *c, const struct x86_insn *i)
{
    cpu_push(c, i->opsize, c->reg[i->rm]);
}

static void push_imm(struct cpu *c, const struct x86_insn *i)
{
    cpu_push(c, i->opsize, i->imm);
}

static void push_mem(struct cpu *c, const struct x86_insn *i)
{
    cpu_push(c, i->opsize, cpu_ld(c, i->seg, cpu_ea(c, i), i->opsize));
}

static void pop_reg(struct cpu *c, const struct x86_insn *i)
{
    reg_set(c, i->rm, i->opsize, cpu_pop(c, i->opsize));
}

/* An address made of rSP uses its value after the pop (SDM vol. 2B, POP). */
static void pop_mem(struct cpu *c, const struct x86_insn *i)
{
    u64 old = c->reg[RSP];
    u64 sp = old & cpu_sp_mask(c);
    u64 v = cpu_ld(c, c->mode == X86_MODE64 ? X86_SEG_FLAT : SS, sp, i->opsize);
    u64 ea = cpu_ea(c, i);
    if (i->base == RSP)
        ea = (ea + i->opsize) & size_mask(i->adsize);
    cpu_st(c, i->seg, ea, i->opsize, v);
    cpu_set_sp(c, sp + i->opsize);
}

static cpu_insn_fn *bind_stack(struct x86_decoded *d)
{
    const struct x86_row *row = x86_row(&d->i);
    bool mem = d->i.prefix & X86_PFX_MEM, pop = d->op == X86_POP;
    if (row->operand[0] == X86_O_I)
        return push_imm;
    if (mem)
        return pop ? pop_mem : push_mem;
    if (row->operand[0] == X86_O_Z)
        d->i.rm = d->i.reg;
    if (d->i.opsize == 8)
        return pop ? pop_64 : push_64;
    return pop ? pop_reg : push_reg;
}

/* A fault in the middle leaves RSP alone, so that the instruction starts again. */
static void insn_pusha(struct cpu *c, const struct x86_insn *i)
{
    unsigned size = i->opsize;
    u64 mask = cpu_sp_mask(c), sp = c->reg[RSP];
    for (unsigned n = 0; n < 8; n++)
        cpu_st(c, SS, (sp - (n + 1) * size) & mask, size, n == RSP ? sp : c->reg[n]);
    cpu_set_sp(c, sp - 8 * size);
}

static void insn_popa(struct cpu *c, const struct x86_insn *i)
{
    unsigned size = i->opsize;
    u64 mask = cpu_sp_mask(c), sp = c->reg[RSP], v[8];
    for (unsigned n = 0; n < 8; n++)
        v[7 - n] = cpu_ld(c, SS, (sp + n * size) & mask, size);
    for (unsigned n = 0; n < 8; n++)
        if (n != RSP)
            reg_set(c, n, size, v[n]);
    cpu_set_sp(c, sp + 8 * size);
}

/* SDM vol. 2A, ENTER. */
static void insn_enter(struct cpu *c, const struct x86_insn *i)
{
    unsigned size = i->opsize, level = i->imm >> 16 & 31;
    unsigned ss = c->mode == X86_MODE64 ? X86_SEG_FLAT : SS;
    u64 mask = cpu_sp_mask(c), sp = c->reg[RSP] - size, bp = c->reg[RBP];
    cpu_st(c, ss, sp & mask, size, bp);
    u64 frame = sp;
    for (unsigned n = 1; n < level; n++) {
        bp -= size;
        sp -= size;
        cpu_st(c, ss, sp & mask, size, cpu_ld(c, ss, bp & mask, size));
    }
    if (level) {
        sp -= size;
        cpu_st(c, ss, sp & mask, size, frame);
    }
    sp -= (u16)i->imm;
    /* The new top of the stack must be writable: a probe that changes nothing. */
    struct cpu_rmw m;
    cpu_rmw_begin(c, &m, ss, sp & mask, size, false);
    cpu_rmw_end(c, &m);
    reg_set(c, RBP, mask == 0xffff ? 2 : size, frame);
    cpu_set_sp(c, sp);
}

static void insn_leave(struct cpu *c, const struct x86_insn *i)
{
    unsigned size = i->opsize;
    u64 sp = c->reg[RBP] & cpu_sp_mask(c);
    u64 bp = cpu_ld(c, c->mode == X86_MODE64 ? X86_SEG_FLAT : SS, sp, size);
    cpu_set_sp(c, sp + size);
    reg_set(c, RBP, size, bp);
}

/* --- single flags --- */

static void insn_lahf(struct cpu *c, const struct x86_insn *i)
{
    *reg8(c, X86_HIGH_BYTE | RAX) = (u8)(c->aflags >> 8 & 0xd5) | FLAG_ONE;
}

static void insn_sahf(struct cpu *c, const struct x86_insn *i)
{
    c->aflags = (c->aflags & 0xff) | (*reg8(c, X86_HIGH_BYTE | RAX) & 0xd5) << 8 | 0x200;
}

static void insn_cmc(struct cpu *c, const struct x86_insn *i)
{
    c->aflags ^= 0x100;
}

static void insn_clc(struct cpu *c, const struct x86_insn *i)
{
    c->aflags &= ~0x100;
}

static void insn_stc(struct cpu *c, const struct x86_insn *i)
{
    c->aflags |= 0x100;
}

static void insn_cld(struct cpu *c, const struct x86_insn *i)
{
    c->eflags &= ~FLAG_DF;
}

static void insn_std(struct cpu *c, const struct x86_insn *i)
{
    c->eflags |= FLAG_DF;
}

static void insn_salc(struct cpu *c, const struct x86_insn *i)
{
    *reg8(c, RAX) = flag_cf(c) ? 0xff : 0;
}

cpu_insn_fn *insn_bind_mov(struct x86_decoded *d)
{
    switch (d->op) {
    case X86_MOV:
        return bind_mov(d);
    case X86_MOVZX:
    case X86_MOVSX:
        return bind_extend(d);
    case X86_MOVSXD:
        return insn_movsxd;
    case X86_MOVBE:
        return insn_movbe;
    case X86_BSWAP:
        return insn_bswap;
    case X86_MOVNTI:
    case X86_MOVDIRI:
        return insn_movnti;
    case X86_MOVDIR64B:
        return insn_movdir64b;
    case X86_LEA:
        return d->i.opsize == 8 ? lea64 : insn_lea;
    case X86_XLAT:
        return insn_xlat;
    case X86_CBW:
        return insn_cbw;
    case X86_CWD:
        return insn_cwd;
    case X86_PUSH:
    case X86_POP:
        return bind_stack(d);
    case X86_PUSHA:
        return insn_pusha;
    case X86_POPA:
        return insn_popa;
    case X86_ENTER:
        return insn_enter;
    case X86_LEAVE:
        return insn_leave;
    case X86_LAHF:
        return insn_lahf;
    case X86_SAHF:
        return insn_sahf;
    case X86_CMC:
        return insn_cmc;
    case X86_CLC:
        return insn_clc;
    case X86_STC:
        return insn_stc;
    case X86_CLD:
        return insn_cld;
    case X86_STD:
        return insn_std;
    case X86_SALC:
        return insn_salc;
    default:
        return NULL;
    }
}
