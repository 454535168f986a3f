/*
 * insn_bcd.c - AAA AAS AAM AAD DAA DAS: gone from 64-bit code, so computed as the manual has it
 * (SDM vol. 2A). The flags it leaves undefined follow the ALU's result, as Intel's CPUs do: an
 * adjustment is an addition or subtraction to AL.
 */
#include "cpu/insn_int.h"
#include "cpu/insn_ops.h"

static u32 szp(u8 v)
{
    return (v ? 0 : FLAG_ZF) | (v & 0x80 ? FLAG_SF : 0) | (__builtin_popcount(v) & 1 ? 0 : FLAG_PF);
}

/* DAA, DAS */
static void decimal(struct cpu *c, bool sub)
{
    u32 fl = aflags_unpack(c->aflags), out = 0;
    u8 al = (u8)c->reg[RAX], old = al;
    if ((al & 15) > 9 || fl & FLAG_AF) {
        out |= FLAG_AF;
        if (sub ? al < 6 : al > 0xf9)
            out |= FLAG_CF;
        al += sub ? -6 : 6;
    }
    out |= fl & FLAG_CF;
    if (old > 0x99 || fl & FLAG_CF) {
        al += sub ? -0x60 : 0x60;
        out |= FLAG_CF;
    }
    *reg8(c, RAX) = al;
    c->aflags = aflags_pack(out | szp(al));
}

static void insn_daa(struct cpu *c, const struct x86_insn *i)
{
    decimal(c, false);
}

static void insn_das(struct cpu *c, const struct x86_insn *i)
{
    decimal(c, true);
}

/* AAA, AAS */
static void ascii(struct cpu *c, bool sub)
{
    u16 ax = (u16)c->reg[RAX];
    u32 out = 0;
    if ((ax & 15) > 9 || aflags_unpack(c->aflags) & FLAG_AF) {
        ax += sub ? -0x106 : 0x106;
        out = FLAG_AF | FLAG_CF;
    }
    ax &= 0xff0f;
    reg_set(c, RAX, 2, ax);
    c->aflags = aflags_pack(out | szp((u8)ax));
}

static void insn_aaa(struct cpu *c, const struct x86_insn *i)
{
    ascii(c, false);
}

static void insn_aas(struct cpu *c, const struct x86_insn *i)
{
    ascii(c, true);
}

static void insn_aam(struct cpu *c, const struct x86_insn *i)
{
    u8 base = (u8)i->imm, al = (u8)c->reg[RAX];
    if (!base)
        cpu_throw(c, EXC_DE, 0);
    reg_set(c, RAX, 2, (al / base) << 8 | al % base);
    c->aflags = aflags_pack(szp(al % base));
}

static void insn_aad(struct cpu *c, const struct x86_insn *i)
{
    u8 al = (u8)c->reg[RAX], tens = (u8)((c->reg[RAX] >> 8 & 0xff) * (u8)i->imm);
    u16 fl;
    __asm__("addb %[b], %[a]" FLAGS_SAVE : [a] "+q"(al), "=&a"(fl) : [b] "q"(tens) : "cc");
    reg_set(c, RAX, 2, al);
    c->aflags = fl;
}

cpu_insn_fn *insn_bind_bcd(struct x86_decoded *d)
{
    switch (d->op) {
    case X86_AAA:
        return insn_aaa;
    case X86_AAS:
        return insn_aas;
    case X86_AAM:
        return insn_aam;
    case X86_AAD:
        return insn_aad;
    case X86_DAA:
        return insn_daa;
    case X86_DAS:
        return insn_das;
    default:
        return NULL;
    }
}
