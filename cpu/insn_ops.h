/*
 * insn_ops.h - what the C bodies of integer instructions share: operands and host flags.
 *
 * Arithmetic is done by the host's own instruction, and its flags are taken with LAHF and SETO:
 * exact, the undefined ones included. A body that leaves some flags alone loads the guest's first.
 */
#ifndef POPF_INSN_OPS_H
#define POPF_INSN_OPS_H

#include "cpu/cpu_mem.h"

/* Around a host instruction: AX holds flags in the form of cpu.aflags. */
#define FLAGS_LOAD "addb $0x7f, %%al\n\tsahf\n\t"
#define FLAGS_SAVE "\n\tlahf\n\tseto %%al"

static inline u8 *reg8(struct cpu *c, unsigned n)
{
    return (u8 *)&c->reg[n & 15] + (n >> 4);
}

static inline u64 reg_get(struct cpu *c, unsigned n, unsigned size)
{
    switch (size) {
    case 1:
        return *reg8(c, n);
    case 2:
        return (u16)c->reg[n];
    case 4:
        return (u32)c->reg[n];
    default:
        return c->reg[n];
    }
}

/* A 32-bit write clears the upper half; narrower ones keep the rest. */
static inline void reg_set(struct cpu *c, unsigned n, unsigned size, u64 v)
{
    switch (size) {
    case 1:
        *reg8(c, n) = (u8)v;
        break;
    case 2:
        *(u16 *)&c->reg[n] = (u16)v;
        break;
    case 4:
        c->reg[n] = (u32)v;
        break;
    default:
        c->reg[n] = v;
    }
}

/* The ModRM.rm operand, register or memory. */
static inline u64 rm_get(struct cpu *c, const struct x86_insn *i, unsigned size)
{
    if (i->prefix & X86_PFX_MEM)
        return cpu_ld(c, i->seg, cpu_ea(c, i), size);
    return reg_get(c, i->rm, size);
}

static inline void rm_set(struct cpu *c, const struct x86_insn *i, unsigned size, u64 v)
{
    if (i->prefix & X86_PFX_MEM)
        cpu_st(c, i->seg, cpu_ea(c, i), size, v);
    else
        reg_set(c, i->rm, size, v);
}

static inline bool insn_locked(const struct x86_insn *i)
{
    return i->prefix & X86_PFX_LOCK;
}

/* Bit 0 of the word that aflags_*() index: see FLAGS_SAVE. */
static inline bool flag_cf(const struct cpu *c)
{
    return c->aflags >> 8 & 1;
}

static inline bool flag_zf(const struct cpu *c)
{
    return c->aflags >> 14 & 1;
}

static inline void set_flags_masked(struct cpu *c, u32 mask, u32 fl)
{
    c->aflags = aflags_pack((aflags_unpack(c->aflags) & ~mask) | (fl & mask));
}

/* Condition codes by their encoding (SDM vol. 1, appendix B.1). */
static inline bool condition(const struct cpu *c, unsigned cc)
{
    u16 a = c->aflags;
    bool r;
    switch (cc >> 1) {
    case 0:
        r = a & 1;
        break;
    case 1:
        r = a & 0x0100;
        break;
    case 2:
        r = a & 0x4000;
        break;
    case 3:
        r = a & 0x4100;
        break;
    case 4:
        r = a & 0x8000;
        break;
    case 5:
        r = a & 0x0400;
        break;
    case 6:
        r = (a >> 15 ^ a) & 1;
        break;
    default:
        r = ((a >> 15 ^ a) & 1) || (a & 0x4000);
    }
    return r ^ (cc & 1);
}

#endif
