/*
 * insn_atomic.c - XCHG XADD CMPXCHG CMPXCHG8B CMPXCHG16B. The memory forms are done with the
 * host's locked instruction whether or not the guest said LOCK: XCHG always locks, and for the
 * others it is allowed and simplest.
 */
#include "cpu/insn_int.h"
#include "cpu/insn_ops.h"

static u64 mem_xchg(void *p, unsigned size, u64 v)
{
    switch (size) {
    case 1:
        return __atomic_exchange_n((u8 *)p, (u8)v, __ATOMIC_SEQ_CST);
    case 2:
        return __atomic_exchange_n((u16 *)p, (u16)v, __ATOMIC_SEQ_CST);
    case 4:
        return __atomic_exchange_n((u32 *)p, (u32)v, __ATOMIC_SEQ_CST);
    default:
        return __atomic_exchange_n((u64 *)p, v, __ATOMIC_SEQ_CST);
    }
}

static void insn_xchg(struct cpu *c, const struct x86_insn *i)
{
    unsigned size = i->opsize;
    u64 r = reg_get(c, i->reg, size);
    if (i->prefix & X86_PFX_MEM) {
        struct cpu_rmw m;
        cpu_rmw_begin(c, &m, i->seg, cpu_ea(c, i), size, true);
        u64 old = mem_xchg(m.p, size, r);
        cpu_rmw_end(c, &m);
        reg_set(c, i->reg, size, old);
        return;
    }
    u64 old = reg_get(c, i->rm, size);
    reg_set(c, i->rm, size, r);
    reg_set(c, i->reg, size, old);
}

/* Flags of a + b, or of a - b, of this size. */
#define ARITH(op, bits, sfx)                                                                       \
    static u64 op##_##bits(struct cpu *c, u##bits a, u##bits b)                                    \
    {                                                                                              \
        u16 fl;                                                                                    \
        __asm__(#op sfx " %[b], %[a]" FLAGS_SAVE : [a] "+q"(a), "=a"(fl) : [b] "q"(b) : "cc");     \
        c->aflags = fl;                                                                            \
        return a;                                                                                  \
    }
#define ARITHS(op)                                                                                 \
    ARITH(op, 8, "b")                                                                              \
    ARITH(op, 16, "w")                                                                             \
    ARITH(op, 32, "l")                                                                             \
    ARITH(op, 64, "q")                                                                             \
    static u64 arith_##op(struct cpu *c, unsigned size, u64 a, u64 b)                              \
    {                                                                                              \
        return size == 1   ? op##_8(c, a, b)                                                       \
               : size == 2 ? op##_16(c, a, b)                                                      \
               : size == 4 ? op##_32(c, a, b)                                                      \
                           : op##_64(c, a, b);                                                     \
    }
ARITHS(add)
ARITHS(sub)

static u64 mem_xadd(void *p, unsigned size, u64 v)
{
    switch (size) {
    case 1:
        return __atomic_fetch_add((u8 *)p, (u8)v, __ATOMIC_SEQ_CST);
    case 2:
        return __atomic_fetch_add((u16 *)p, (u16)v, __ATOMIC_SEQ_CST);
    case 4:
        return __atomic_fetch_add((u32 *)p, (u32)v, __ATOMIC_SEQ_CST);
    default:
        return __atomic_fetch_add((u64 *)p, v, __ATOMIC_SEQ_CST);
    }
}

static void insn_xadd(struct cpu *c, const struct x86_insn *i)
{
    unsigned size = i->opsize;
    u64 b = reg_get(c, i->reg, size);
    if (i->prefix & X86_PFX_MEM) {
        struct cpu_rmw m;
        cpu_rmw_begin(c, &m, i->seg, cpu_ea(c, i), size, true);
        u64 old = mem_xadd(m.p, size, b);
        arith_add(c, size, old, b);
        cpu_rmw_end(c, &m);
        reg_set(c, i->reg, size, old);
        return;
    }
    u64 old = reg_get(c, i->rm, size);
    u64 sum = arith_add(c, size, old, b);
    reg_set(c, i->reg, size, old);
    reg_set(c, i->rm, size, sum);
}

/* Returns what was there; stores v if that equals cmp. */
static u64 mem_cmpxchg(void *p, unsigned size, u64 cmp, u64 v)
{
#define CASE(bytes, type)                                                                          \
    case bytes: {                                                                                  \
        type old = (type)cmp;                                                                      \
        __atomic_compare_exchange_n((type *)p, &old, (type)v, false, __ATOMIC_SEQ_CST,             \
                                    __ATOMIC_SEQ_CST);                                             \
        return old;                                                                                \
    }
    switch (size) {
        CASE(1, u8)
        CASE(2, u16)
        CASE(4, u32)
    default:
        CASE(8, u64)
    }
#undef CASE
}

static void insn_cmpxchg(struct cpu *c, const struct x86_insn *i)
{
    unsigned size = i->opsize;
    u64 acc = reg_get(c, RAX, size), src = reg_get(c, i->reg, size), old;
    if (i->prefix & X86_PFX_MEM) {
        struct cpu_rmw m;
        cpu_rmw_begin(c, &m, i->seg, cpu_ea(c, i), size, true);
        old = mem_cmpxchg(m.p, size, acc, src);
        arith_sub(c, size, acc, old);
        cpu_rmw_end(c, &m);
    } else {
        old = reg_get(c, i->rm, size);
        arith_sub(c, size, acc, old);
        if (old == acc)
            reg_set(c, i->rm, size, src);
    }
    /* The accumulator is written only on failure: a 32-bit success keeps RAX's upper half. */
    if (old != acc)
        reg_set(c, RAX, size, old);
}

static void insn_cmpxchg8b(struct cpu *c, const struct x86_insn *i)
{
    struct cpu_rmw m;
    cpu_rmw_begin(c, &m, i->seg, cpu_ea(c, i), 8, true);
    u64 cmp = (u64)(u32)c->reg[RDX] << 32 | (u32)c->reg[RAX];
    u64 new = (u64)(u32)c->reg[RCX] << 32 | (u32)c->reg[RBX];
    u64 old = mem_cmpxchg(m.p, 8, cmp, new);
    cpu_rmw_end(c, &m);
    set_flags_masked(c, FLAG_ZF, old == cmp ? FLAG_ZF : 0);
    if (old != cmp) {
        c->reg[RAX] = (u32)old;
        c->reg[RDX] = old >> 32;
    }
}

static void insn_cmpxchg16b(struct cpu *c, const struct x86_insn *i)
{
    u64 ea = cpu_ea(c, i);
    if ((ea + c->seg[i->seg].base) & 15)
        cpu_throw_gp(c, 0);
    struct cpu_rmw m;
    cpu_rmw_begin(c, &m, i->seg, ea, 16, true);
    u64 lo = c->reg[RAX], hi = c->reg[RDX];
    bool ok;
    __asm__ volatile("lock cmpxchg16b %[m]"
                     : [m] "+m"(*(u128 *)m.p), "+a"(lo), "+d"(hi), "=@ccz"(ok)
                     : "b"(c->reg[RBX]), "c"(c->reg[RCX])
                     : "memory");
    cpu_rmw_end(c, &m);
    set_flags_masked(c, FLAG_ZF, ok ? FLAG_ZF : 0);
    if (!ok) {
        c->reg[RAX] = lo;
        c->reg[RDX] = hi;
    }
}

cpu_insn_fn *insn_bind_atomic(struct x86_decoded *d)
{
    switch (d->op) {
    case X86_XCHG:
        if (x86_row(&d->i)->operand[0] == X86_O_Z || x86_row(&d->i)->operand[1] == X86_O_Z)
            d->i.rm = RAX; /* 90+r: the other operand is the accumulator */
        return insn_xchg;
    case X86_XADD:
        return insn_xadd;
    case X86_CMPXCHG:
        return insn_cmpxchg;
    case X86_CMPXCHG8B:
        return insn_cmpxchg8b;
    case X86_CMPXCHG16B:
        return insn_cmpxchg16b;
    default:
        return NULL;
    }
}
