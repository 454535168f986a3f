/*
 * insn_muldiv.c - MUL IMUL DIV IDIV, on the host's own (flags that are undefined come out alike).
 */
#include "cpu/insn_int.h"
#include "cpu/insn_ops.h"

/* rDX:rAX (AX for bytes) and the flags, around a host instruction that has rAX as operand too. */
struct wide {
    u64 lo, hi;
    u16 fl;
};

#define WIDEN(op, bits, sfx)                                                                       \
    static void op##_##bits(struct wide *w, u##bits b)                                             \
    {                                                                                              \
        u64 lo = w->lo, hi = w->hi, fl = w->fl;                                                    \
        __asm__("movq %[fl], %%rax\n\t" FLAGS_LOAD "movq %[lo], %%rax\n\t" #op sfx " %[b]\n\t"     \
                "movq %%rax, %[lo]\n\t"                                                            \
                "lahf\n\tseto %%al\n\tmovq %%rax, %[fl]"                                           \
                : [lo] "+&r"(lo), "+&d"(hi), [fl] "+&r"(fl)                                        \
                : [b] "q"(b)                                                                       \
                : "rax", "cc");                                                                    \
        w->lo = lo;                                                                                \
        w->hi = hi;                                                                                \
        w->fl = (u16)fl;                                                                           \
    }
#define EACH_SIZE(op) WIDEN(op, 8, "b") WIDEN(op, 16, "w") WIDEN(op, 32, "l") WIDEN(op, 64, "q")
EACH_SIZE(mul)
EACH_SIZE(imul)
EACH_SIZE(div)
EACH_SIZE(idiv)

#define BY_SIZE(op, size, w, b)                                                                    \
    do {                                                                                           \
        switch (size) {                                                                            \
        case 1:                                                                                    \
            op##_8(w, b);                                                                          \
            break;                                                                                 \
        case 2:                                                                                    \
            op##_16(w, b);                                                                         \
            break;                                                                                 \
        case 4:                                                                                    \
            op##_32(w, b);                                                                         \
            break;                                                                                 \
        default:                                                                                   \
            op##_64(w, b);                                                                         \
        }                                                                                          \
    } while (0)

static void commit(struct cpu *c, unsigned size, const struct wide *w)
{
    c->aflags = w->fl;
    if (size == 1) {
        reg_set(c, RAX, 2, w->lo); /* AX: product, or AH remainder and AL quotient */
        return;
    }
    reg_set(c, RAX, size, w->lo);
    reg_set(c, RDX, size, w->hi);
}

static struct wide begin(const struct cpu *c)
{
    return (struct wide){c->reg[RAX], c->reg[RDX], c->aflags};
}

static void insn_mul(struct cpu *c, const struct x86_insn *i)
{
    u64 b = rm_get(c, i, i->opsize);
    struct wide w = begin(c);
    BY_SIZE(mul, i->opsize, &w, b);
    commit(c, i->opsize, &w);
}

static void insn_imul1(struct cpu *c, const struct x86_insn *i)
{
    u64 b = rm_get(c, i, i->opsize);
    struct wide w = begin(c);
    BY_SIZE(imul, i->opsize, &w, b);
    commit(c, i->opsize, &w);
}

/* The host would deliver SIGFPE where the guest gets #DE: so ask first whether the quotient fits.
 */
static bool div_fits(const struct cpu *c, unsigned size, u64 b)
{
    unsigned n = 8 * size;
    if (size == 8)
        return b > c->reg[RDX];
    u64 a = size == 1 ? (u16)c->reg[RAX]
                      : (c->reg[RDX] & size_mask(size)) << n | (c->reg[RAX] & size_mask(size));
    return b && a / b <= size_mask(size);
}

/* |quotient| computed without sign; it may reach 2^(n-1) only if negative. */
static bool idiv_fits(const struct cpu *c, unsigned size, u64 b)
{
    unsigned n = 8 * size;
    s128 a;
    if (size == 8)
        a = (s128)((u128)c->reg[RDX] << 64 | c->reg[RAX]);
    else if (size == 1)
        a = (s16)c->reg[RAX];
    else
        a = sext((c->reg[RDX] & size_mask(size)) << n | (c->reg[RAX] & size_mask(size)), 2 * n);
    s64 d = sext(b, n);
    if (!d)
        return false;
    u128 ua = a < 0 ? -(u128)a : (u128)a;
    u64 ud = d < 0 ? -(u64)d : (u64)d;
    if ((u64)(ua >> 64) >= ud)
        return false; /* the quotient would not fit in 64 bits */
    u64 q = (u64)(ua / ud);
    u64 limit = 1ull << (n - 1);
    return (a < 0) != (d < 0) ? q <= limit : q < limit;
}

static void insn_div(struct cpu *c, const struct x86_insn *i)
{
    u64 b = rm_get(c, i, i->opsize);
    if (!div_fits(c, i->opsize, b))
        cpu_throw(c, EXC_DE, 0);
    struct wide w = begin(c);
    BY_SIZE(div, i->opsize, &w, b);
    commit(c, i->opsize, &w);
}

static void insn_idiv(struct cpu *c, const struct x86_insn *i)
{
    u64 b = rm_get(c, i, i->opsize);
    if (!idiv_fits(c, i->opsize, b))
        cpu_throw(c, EXC_DE, 0);
    struct wide w = begin(c);
    BY_SIZE(idiv, i->opsize, &w, b);
    commit(c, i->opsize, &w);
}

/* Truncating multiply: two- and three-operand IMUL. */
#define IMUL(bits, sfx)                                                                            \
    static inline u##bits trunc_##bits(struct cpu *c, u##bits a, u##bits b)                        \
    {                                                                                              \
        u16 fl = c->aflags;                                                                        \
        __asm__(FLAGS_LOAD "imul" sfx " %[b], %[a]" FLAGS_SAVE                                     \
                : [a] "+r"(a), "+a"(fl)                                                            \
                : [b] "r"(b)                                                                       \
                : "cc");                                                                           \
        c->aflags = fl;                                                                            \
        return a;                                                                                  \
    }
IMUL(16, "w")
IMUL(32, "l")
IMUL(64, "q")

static void truncating(struct cpu *c, const struct x86_insn *i, u64 a, u64 b)
{
    u64 r = i->opsize == 8   ? trunc_64(c, a, b)
            : i->opsize == 4 ? trunc_32(c, a, b)
                             : trunc_16(c, a, b);
    reg_set(c, i->reg, i->opsize, r);
}

static void insn_imul2(struct cpu *c, const struct x86_insn *i)
{
    u64 b = rm_get(c, i, i->opsize);
    truncating(c, i, c->reg[i->reg], b);
}

static void insn_imul3(struct cpu *c, const struct x86_insn *i)
{
    truncating(c, i, rm_get(c, i, i->opsize), i->imm);
}

cpu_insn_fn *insn_bind_muldiv(struct x86_decoded *d)
{
    switch (d->op) {
    case X86_MUL:
        return insn_mul;
    case X86_IMUL1:
        return insn_imul1;
    case X86_IMUL2:
        return insn_imul2;
    case X86_IMUL3:
        return insn_imul3;
    case X86_DIV:
        return insn_div;
    case X86_IDIV:
        return insn_idiv;
    default:
        return NULL;
    }
}
