/*
 * insn_shift.c - ROL ROR RCL RCR SHL SHR SAR, SHLD SHRD.
 *
 * OF after rotating by more than one is undefined; Intel's processors leave it alone if the
 * operand is a register and the count an immediate.
 *
 * The count is masked to 5 (6) bits; a masked count of zero changes nothing, flags included, which
 * the host's instruction does by itself once the guest's flags are loaded.
 */
#include "cpu/insn_int.h"
#include "cpu/insn_ops.h"

#define SHIFT(op, bits, sfx)                                                                       \
    static u##bits shift_##op##_##bits(struct cpu *c, u##bits a, u8 n)                             \
    {                                                                                              \
        u16 fl = c->aflags;                                                                        \
        __asm__(FLAGS_LOAD #op sfx " %%cl, %[a]" FLAGS_SAVE                                        \
                : [a] "+q"(a), "+a"(fl)                                                            \
                : "c"(n)                                                                           \
                : "cc");                                                                           \
        c->aflags = fl;                                                                            \
        return a;                                                                                  \
    }                                                                                              \
    static void op##_ri_##bits(struct cpu *c, const struct x86_insn *i)                            \
    {                                                                                              \
        u##bits a = reg_get(c, i->rm, bits / 8);                                                   \
        reg_set(c, i->rm, bits / 8, shift_##op##_##bits(c, a, i->imm));                            \
    }                                                                                              \
    static void op##_rc_##bits(struct cpu *c, const struct x86_insn *i)                            \
    {                                                                                              \
        u##bits a = reg_get(c, i->rm, bits / 8);                                                   \
        reg_set(c, i->rm, bits / 8, shift_##op##_##bits(c, a, c->reg[RCX]));                       \
    }                                                                                              \
    static inline void op##_mem_##bits(struct cpu *c, const struct x86_insn *i, u8 n)              \
    {                                                                                              \
        struct cpu_rmw m;                                                                          \
        cpu_rmw_begin(c, &m, i->seg, cpu_ea(c, i), bits / 8, false);                               \
        *(volatile u##bits##_any *)m.p =                                                           \
            shift_##op##_##bits(c, *(volatile u##bits##_any *)m.p, n);                             \
        cpu_rmw_end(c, &m);                                                                        \
    }                                                                                              \
    static void op##_mi_##bits(struct cpu *c, const struct x86_insn *i)                            \
    {                                                                                              \
        op##_mem_##bits(c, i, i->imm);                                                             \
    }                                                                                              \
    static void op##_mc_##bits(struct cpu *c, const struct x86_insn *i)                            \
    {                                                                                              \
        op##_mem_##bits(c, i, c->reg[RCX]);                                                        \
    }

#define EACH_SIZE(op) SHIFT(op, 8, "b") SHIFT(op, 16, "w") SHIFT(op, 32, "l") SHIFT(op, 64, "q")
EACH_SIZE(rol)
EACH_SIZE(ror)
EACH_SIZE(rcl)
EACH_SIZE(rcr)
EACH_SIZE(shl)
EACH_SIZE(shr)
EACH_SIZE(sar)

/* ROL and ROR of a register by an immediate above one, on a host that leaves OF alone then. */
#define ROTATE(op, bits)                                                                           \
    static void op##_rk_##bits(struct cpu *c, const struct x86_insn *i)                            \
    {                                                                                              \
        u16 of = c->aflags & 1;                                                                    \
        op##_ri_##bits(c, i);                                                                      \
        c->aflags = (c->aflags & ~1) | of;                                                         \
    }
#define EACH_ROTATE(op) ROTATE(op, 8) ROTATE(op, 16) ROTATE(op, 32) ROTATE(op, 64)
EACH_ROTATE(rol)
EACH_ROTATE(ror)
static cpu_insn_fn *const rotate_keeping_of[2][4] = {
    {rol_rk_8, rol_rk_16, rol_rk_32, rol_rk_64},
    {ror_rk_8, ror_rk_16, ror_rk_32, ror_rk_64},
};

/* Does the host leave OF alone? CF and OF would both be 0. */
static bool host_keeps_of(void)
{
    u16 fl = aflags_pack(FLAG_OF);
    u32 v = 0;
    __asm__(FLAGS_LOAD "roll $2, %[v]" FLAGS_SAVE : [v] "+r"(v), "+a"(fl) : : "cc");
    return fl & 1;
}

static bool rotate_keeps_of(const struct x86_decoded *d)
{
    u8 n = d->i.imm & (d->i.opsize == 8 ? 63 : 31);
    return d->op <= X86_ROR && x86_row(&d->i)->operand[1] == X86_O_I &&
           !(d->i.prefix & X86_PFX_MEM) && n > 1 && host_keeps_of();
}

#define ROW(op, bits)                                                                              \
    {                                                                                              \
        op##_ri_##bits, op##_rc_##bits, op##_mi_##bits, op##_mc_##bits                             \
    }
#define SIZES(op)                                                                                  \
    {                                                                                              \
        ROW(op, 8), ROW(op, 16), ROW(op, 32), ROW(op, 64)                                          \
    }
static cpu_insn_fn *const shift[][4][4] = {/* ORDER SHIFT */
                                           SIZES(rol), SIZES(ror), SIZES(rcl), SIZES(rcr),
                                           SIZES(shl), SIZES(shr), SIZES(sar)};
static_assert(X86_SAR - X86_ROL == 6, "x86_ops.def has another order of shifts");

/* Double shifts. 16-bit with a count above 16 is undefined: the host's answer is taken. */
#define DOUBLE(op, bits, sfx)                                                                      \
    static u64 double_##op##_##bits(struct cpu *c, u##bits a, u##bits b, u8 n)                     \
    {                                                                                              \
        u16 fl = c->aflags;                                                                        \
        __asm__(FLAGS_LOAD #op sfx " %%cl, %[b], %[a]" FLAGS_SAVE                                  \
                : [a] "+r"(a), "+a"(fl)                                                            \
                : [b] "r"(b), "c"(n)                                                               \
                : "cc");                                                                           \
        c->aflags = fl;                                                                            \
        return a;                                                                                  \
    }
DOUBLE(shld, 16, "w")
DOUBLE(shld, 32, "l")
DOUBLE(shld, 64, "q")
DOUBLE(shrd, 16, "w")
DOUBLE(shrd, 32, "l")
DOUBLE(shrd, 64, "q")

static u64 double_shift(struct cpu *c, bool right, unsigned size, u64 a, u64 b, u8 n)
{
    switch (size) {
    case 2:
        return right ? double_shrd_16(c, a, b, n) : double_shld_16(c, a, b, n);
    case 4:
        return right ? double_shrd_32(c, a, b, n) : double_shld_32(c, a, b, n);
    default:
        return right ? double_shrd_64(c, a, b, n) : double_shld_64(c, a, b, n);
    }
}

static void double_body(struct cpu *c, const struct x86_insn *i, bool right)
{
    u8 n = x86_row(i)->operand[2] == X86_O_CL ? c->reg[RCX] : i->imm;
    u64 b = reg_get(c, i->reg, i->opsize);
    if (!(i->prefix & X86_PFX_MEM)) {
        u64 a = reg_get(c, i->rm, i->opsize);
        reg_set(c, i->rm, i->opsize, double_shift(c, right, i->opsize, a, b, n));
        return;
    }
    struct cpu_rmw m;
    cpu_rmw_begin(c, &m, i->seg, cpu_ea(c, i), i->opsize, false);
    u64 a = 0;
    cpu_copy(&a, m.p, i->opsize);
    a = double_shift(c, right, i->opsize, a, b, n);
    cpu_copy(m.p, &a, i->opsize);
    cpu_rmw_end(c, &m);
}

static void insn_shld(struct cpu *c, const struct x86_insn *i)
{
    double_body(c, i, false);
}

static void insn_shrd(struct cpu *c, const struct x86_insn *i)
{
    double_body(c, i, true);
}

cpu_insn_fn *insn_bind_shift(struct x86_decoded *d)
{
    if (d->op == X86_SHLD)
        return insn_shld;
    if (d->op == X86_SHRD)
        return insn_shrd;
    if (d->op < X86_ROL || d->op > X86_SAR)
        return NULL;
    u8 count = x86_row(&d->i)->operand[1];
    if (count == X86_O_ONE)
        d->i.imm = 1;
    if (rotate_keeps_of(d))
        return rotate_keeping_of[d->op - X86_ROL][__builtin_ctz(d->i.opsize)];
    unsigned form = (d->i.prefix & X86_PFX_MEM ? 2 : 0) + (count == X86_O_CL);
    return shift[d->op - X86_ROL][__builtin_ctz(d->i.opsize)][form];
}
