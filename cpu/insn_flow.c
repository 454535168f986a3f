/*
 * insn_flow.c - near control transfers and conditions: Jcc JMP CALL RET LOOP JRCXZ SETcc CMOVcc.
 */
#include "cpu/cpu_seg.h"
#include "cpu/insn_int.h"
#include "cpu/insn_ops.h"

/* A branch target, cut to the operand size and checked: outside the limit, or not canonical, is
 * #GP(0) at the branch. */
static inline u64 target(struct cpu *c, const struct x86_insn *i, u64 rip)
{
    if (likely(c->mode == X86_MODE64)) {
        if (unlikely(!x86_canonical(rip)))
            cpu_throw_gp(c, 0);
        return rip;
    }
    rip = i->opsize == 2 ? (u16)rip : (u32)rip;
    if (unlikely(rip > c->seg[CS].limit))
        cpu_throw_gp(c, 0);
    return rip;
}

static inline void jump_rel(struct cpu *c, const struct x86_insn *i)
{
    c->reg[X86_SLOT_RIP] = target(c, i, c->reg[X86_SLOT_RIP] + i->imm);
}

#define JCC(name, cc)                                                                              \
    static void jcc_##name(struct cpu *c, const struct x86_insn *i)                                \
    {                                                                                              \
        if (condition(c, cc))                                                                      \
            jump_rel(c, i);                                                                        \
    }
#define SETCC(name, cc)                                                                            \
    static void set_##name(struct cpu *c, const struct x86_insn *i)                                \
    {                                                                                              \
        rm_set(c, i, 1, condition(c, cc));                                                         \
    }
#define CMOVCC(name, cc)                                                                           \
    static void cmov##name(struct cpu *c, const struct x86_insn *i)                                \
    {                                                                                              \
        u64 v = rm_get(c, i, i->opsize); /* read, and 32-bit destinations cleared, in any case */  \
        if (!condition(c, cc))                                                                     \
            v = c->reg[i->reg];                                                                    \
        reg_set(c, i->reg, i->opsize, v);                                                          \
    }
#define EACH_CONDITION(X)                                                                          \
    X(o, 0)                                                                                        \
    X(no, 1)                                                                                       \
    X(b, 2)                                                                                        \
    X(nb, 3)                                                                                       \
    X(z, 4)                                                                                        \
    X(nz, 5)                                                                                       \
    X(be, 6)                                                                                       \
    X(nbe, 7)                                                                                      \
    X(s, 8)                                                                                        \
    X(ns, 9)                                                                                       \
    X(p, 10)                                                                                       \
    X(np, 11)                                                                                      \
    X(l, 12)                                                                                       \
    X(nl, 13)                                                                                      \
    X(le, 14)                                                                                      \
    X(nle, 15)
EACH_CONDITION(JCC)
EACH_CONDITION(SETCC)
EACH_CONDITION(CMOVCC)

#define ENTRY_J(name, cc)    [cc] = jcc_##name,
#define ENTRY_SET(name, cc)  [cc] = set_##name,
#define ENTRY_CMOV(name, cc) [cc] = cmov##name,
static cpu_insn_fn *const jcc[16] = {EACH_CONDITION(ENTRY_J)};
static cpu_insn_fn *const setcc[16] = {EACH_CONDITION(ENTRY_SET)};
static cpu_insn_fn *const cmovcc[16] = {EACH_CONDITION(ENTRY_CMOV)};

static void insn_jmp_near(struct cpu *c, const struct x86_insn *i)
{
    jump_rel(c, i);
}

static void insn_jmp_near_ind(struct cpu *c, const struct x86_insn *i)
{
    c->reg[X86_SLOT_RIP] = target(c, i, rm_get(c, i, i->opsize));
}

static inline void call(struct cpu *c, const struct x86_insn *i, u64 to)
{
    to = target(c, i, to);
    cpu_push(c, i->opsize, c->reg[X86_SLOT_RIP]);
    c->reg[X86_SLOT_RIP] = to;
}

/* In 64-bit code processors store the return address before they look at the target. */
static void call_ind_64(struct cpu *c, const struct x86_insn *i)
{
    u64 to = rm_get(c, i, i->opsize), sp = c->reg[RSP] - i->opsize;
    cpu_st(c, X86_SEG_FLAT, sp, i->opsize, c->reg[X86_SLOT_RIP]);
    to = target(c, i, to);
    c->reg[RSP] = sp;
    c->reg[X86_SLOT_RIP] = to;
}

static void insn_call_near(struct cpu *c, const struct x86_insn *i)
{
    call(c, i, c->reg[X86_SLOT_RIP] + i->imm);
}

static void insn_call_near_ind(struct cpu *c, const struct x86_insn *i)
{
    call(c, i, rm_get(c, i, i->opsize));
}

/* The same for 64-bit code, without the questions about the stack's width. */
static void call_near_64(struct cpu *c, const struct x86_insn *i)
{
    u64 rip = c->reg[X86_SLOT_RIP], sp = c->reg[RSP] - 8, to = rip + i->imm;
    if (unlikely(!x86_canonical(to)))
        cpu_throw_gp(c, 0);
    cpu_st64(c, X86_SEG_FLAT, sp, rip);
    c->reg[RSP] = sp;
    c->reg[X86_SLOT_RIP] = to;
}

static void ret_near_64(struct cpu *c, const struct x86_insn *i)
{
    u64 to = cpu_ld64(c, X86_SEG_FLAT, c->reg[RSP]);
    if (unlikely(!x86_canonical(to)))
        cpu_throw_gp(c, 0);
    c->reg[RSP] += 8 + (u16)i->imm;
    c->reg[X86_SLOT_RIP] = to;
}

static void insn_ret_near(struct cpu *c, const struct x86_insn *i)
{
    u64 mask = cpu_sp_mask(c), sp = c->reg[RSP] & mask;
    u64 to = cpu_ld(c, c->mode == X86_MODE64 ? X86_SEG_FLAT : SS, sp, i->opsize);
    to = target(c, i, to);
    cpu_set_sp(c, sp + i->opsize + (u16)i->imm);
    c->reg[X86_SLOT_RIP] = to;
}

/* LOOPcc and JRCXZ count in CX, ECX or RCX by the address size. */
static void loop(struct cpu *c, const struct x86_insn *i, bool also)
{
    u64 n = (c->reg[RCX] - 1) & size_mask(i->adsize);
    u64 to = n && also ? target(c, i, c->reg[X86_SLOT_RIP] + i->imm) : c->reg[X86_SLOT_RIP];
    reg_set(c, RCX, i->adsize, n);
    c->reg[X86_SLOT_RIP] = to;
}

static void insn_loop(struct cpu *c, const struct x86_insn *i)
{
    loop(c, i, true);
}

static void insn_loope(struct cpu *c, const struct x86_insn *i)
{
    loop(c, i, flag_zf(c));
}

static void insn_loopne(struct cpu *c, const struct x86_insn *i)
{
    loop(c, i, !flag_zf(c));
}

static void insn_jrcxz(struct cpu *c, const struct x86_insn *i)
{
    if (!(c->reg[RCX] & size_mask(i->adsize)))
        jump_rel(c, i);
}

cpu_insn_fn *insn_bind_flow(struct x86_decoded *d)
{
    if (d->op >= X86_JO && d->op <= X86_JNLE)
        return jcc[d->op - X86_JO];
    if (d->op >= X86_SETO && d->op <= X86_SETNLE)
        return setcc[d->op - X86_SETO];
    if (d->op >= X86_CMOVO && d->op <= X86_CMOVNLE)
        return cmovcc[d->op - X86_CMOVO];
    switch (d->op) {
    case X86_JMP_NEAR:
        return insn_jmp_near;
    case X86_JMP_NEAR_IND:
        return insn_jmp_near_ind;
    case X86_CALL_NEAR:
        return d->i.opsize == 8 ? call_near_64 : insn_call_near;
    case X86_CALL_NEAR_IND:
        return d->i.opsize == 8 ? call_ind_64 : insn_call_near_ind;
    case X86_RET_NEAR:
        return d->i.opsize == 8 ? ret_near_64 : insn_ret_near;
    case X86_LOOP:
        return insn_loop;
    case X86_LOOPE:
        return insn_loope;
    case X86_LOOPNE:
        return insn_loopne;
    case X86_JRCXZ:
        return insn_jrcxz;
    default:
        return NULL;
    }
}
