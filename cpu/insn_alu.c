/*
 * insn_alu.c - ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NEG NOT, in every form and size.
 *
 * For each operation and size the host's instruction is wrapped once (alu_OP_SIZE); the forms
 * (register or memory destination; register, memory or immediate source; LOCK) come from one macro.
 */
#include "cpu/insn_int.h"
#include "cpu/insn_ops.h"

#define U(bits) u##bits

/* Operands the binder has brought into one of these forms; `reg` is always the other register. */
enum form { FORM_RR, FORM_RM, FORM_MR, FORM_RI, FORM_MI, FORM_LOCK_MR, FORM_LOCK_MI, FORMS };

#define ALU2(op, insn, bits, sfx, pre)                                                             \
    static inline u##bits alu_##op##_##bits(struct cpu *c, u##bits a, u##bits b)                   \
    {                                                                                              \
        u16 fl = c->aflags;                                                                        \
        __asm__(pre insn sfx " %[b], %[a]" FLAGS_SAVE                                              \
                : [a] "+q"(a), "+a"(fl)                                                            \
                : [b] "q"(b)                                                                       \
                : "cc");                                                                           \
        c->aflags = fl;                                                                            \
        return a;                                                                                  \
    }                                                                                              \
    static inline void alu_lock_##op##_##bits(struct cpu *c, void *p, u##bits b)                   \
    {                                                                                              \
        u16 fl = c->aflags;                                                                        \
        __asm__ volatile(pre "lock " insn sfx " %[b], %[m]" FLAGS_SAVE                             \
                         : [m] "+m"(*(u##bits *)p), "+a"(fl)                                       \
                         : [b] "q"(b)                                                              \
                         : "cc", "memory");                                                        \
        c->aflags = fl;                                                                            \
    }
/* CF in; everything out */
#define WITH_CF "btw $8, %%ax\n\t"

#define FORMS2(op, bits)                                                                           \
    static void op##_rr_##bits(struct cpu *c, const struct x86_insn *i)                            \
    {                                                                                              \
        u##bits a = reg_get(c, i->rm, bits / 8), b = reg_get(c, i->reg, bits / 8);                 \
        reg_set(c, i->rm, bits / 8, alu_##op##_##bits(c, a, b));                                   \
    }                                                                                              \
    static void op##_rm_##bits(struct cpu *c, const struct x86_insn *i)                            \
    {                                                                                              \
        u##bits b = cpu_ld##bits(c, i->seg, cpu_ea(c, i));                                         \
        u##bits a = reg_get(c, i->reg, bits / 8);                                                  \
        reg_set(c, i->reg, bits / 8, alu_##op##_##bits(c, a, b));                                  \
    }                                                                                              \
    static inline void op##_mem_##bits(struct cpu *c, const struct x86_insn *i, u##bits b)         \
    {                                                                                              \
        struct cpu_rmw m;                                                                          \
        cpu_rmw_begin(c, &m, i->seg, cpu_ea(c, i), bits / 8, false);                               \
        *(volatile u##bits##_any *)m.p = alu_##op##_##bits(c, *(volatile u##bits##_any *)m.p, b);  \
        cpu_rmw_end(c, &m);                                                                        \
    }                                                                                              \
    static inline void op##_lock_##bits(struct cpu *c, const struct x86_insn *i, u##bits b)        \
    {                                                                                              \
        struct cpu_rmw m;                                                                          \
        cpu_rmw_begin(c, &m, i->seg, cpu_ea(c, i), bits / 8, true);                                \
        alu_lock_##op##_##bits(c, m.p, b);                                                         \
        cpu_rmw_end(c, &m);                                                                        \
    }                                                                                              \
    static void op##_mr_##bits(struct cpu *c, const struct x86_insn *i)                            \
    {                                                                                              \
        op##_mem_##bits(c, i, reg_get(c, i->reg, bits / 8));                                       \
    }                                                                                              \
    static void op##_ri_##bits(struct cpu *c, const struct x86_insn *i)                            \
    {                                                                                              \
        u##bits a = reg_get(c, i->rm, bits / 8);                                                   \
        reg_set(c, i->rm, bits / 8, alu_##op##_##bits(c, a, i->imm));                              \
    }                                                                                              \
    static void op##_mi_##bits(struct cpu *c, const struct x86_insn *i)                            \
    {                                                                                              \
        op##_mem_##bits(c, i, i->imm);                                                             \
    }                                                                                              \
    static void op##_lmr_##bits(struct cpu *c, const struct x86_insn *i)                           \
    {                                                                                              \
        op##_lock_##bits(c, i, reg_get(c, i->reg, bits / 8));                                      \
    }                                                                                              \
    static void op##_lmi_##bits(struct cpu *c, const struct x86_insn *i)                           \
    {                                                                                              \
        op##_lock_##bits(c, i, i->imm);                                                            \
    }

/* CMP and TEST: the same without a destination. */
#define CMP2(op, insn, bits, sfx)                                                                  \
    static inline void alu_##op##_##bits(struct cpu *c, u##bits a, u##bits b)                      \
    {                                                                                              \
        u16 fl;                                                                                    \
        __asm__(insn sfx " %[b], %[a]" FLAGS_SAVE : "=a"(fl) : [a] "q"(a), [b] "q"(b) : "cc");     \
        c->aflags = fl;                                                                            \
    }                                                                                              \
    static void op##_rr_##bits(struct cpu *c, const struct x86_insn *i)                            \
    {                                                                                              \
        alu_##op##_##bits(c, reg_get(c, i->rm, bits / 8), reg_get(c, i->reg, bits / 8));           \
    }                                                                                              \
    static void op##_rm_##bits(struct cpu *c, const struct x86_insn *i)                            \
    {                                                                                              \
        u##bits b = cpu_ld##bits(c, i->seg, cpu_ea(c, i));                                         \
        alu_##op##_##bits(c, reg_get(c, i->reg, bits / 8), b);                                     \
    }                                                                                              \
    static void op##_mr_##bits(struct cpu *c, const struct x86_insn *i)                            \
    {                                                                                              \
        u##bits a = cpu_ld##bits(c, i->seg, cpu_ea(c, i));                                         \
        alu_##op##_##bits(c, a, reg_get(c, i->reg, bits / 8));                                     \
    }                                                                                              \
    static void op##_ri_##bits(struct cpu *c, const struct x86_insn *i)                            \
    {                                                                                              \
        alu_##op##_##bits(c, reg_get(c, i->rm, bits / 8), i->imm);                                 \
    }                                                                                              \
    static void op##_mi_##bits(struct cpu *c, const struct x86_insn *i)                            \
    {                                                                                              \
        alu_##op##_##bits(c, cpu_ld##bits(c, i->seg, cpu_ea(c, i)), i->imm);                       \
    }

/* One operand; INC and DEC keep CF, NOT keeps all flags (the others overwrite all six). */
#define ALU1(op, insn, bits, sfx)                                                                  \
    static inline u##bits alu_##op##_##bits(struct cpu *c, u##bits a)                              \
    {                                                                                              \
        u16 fl = c->aflags;                                                                        \
        __asm__(FLAGS_LOAD insn sfx " %[a]" FLAGS_SAVE : [a] "+q"(a), "+a"(fl) : : "cc");          \
        c->aflags = fl;                                                                            \
        return a;                                                                                  \
    }                                                                                              \
    static void op##_r_##bits(struct cpu *c, const struct x86_insn *i)                             \
    {                                                                                              \
        reg_set(c, i->rm, bits / 8, alu_##op##_##bits(c, reg_get(c, i->rm, bits / 8)));            \
    }                                                                                              \
    static void op##_m_##bits(struct cpu *c, const struct x86_insn *i)                             \
    {                                                                                              \
        struct cpu_rmw m;                                                                          \
        cpu_rmw_begin(c, &m, i->seg, cpu_ea(c, i), bits / 8, false);                               \
        *(volatile u##bits##_any *)m.p = alu_##op##_##bits(c, *(volatile u##bits##_any *)m.p);     \
        cpu_rmw_end(c, &m);                                                                        \
    }                                                                                              \
    static void op##_lm_##bits(struct cpu *c, const struct x86_insn *i)                            \
    {                                                                                              \
        struct cpu_rmw m;                                                                          \
        cpu_rmw_begin(c, &m, i->seg, cpu_ea(c, i), bits / 8, true);                                \
        u16 fl = c->aflags;                                                                        \
        __asm__ volatile(FLAGS_LOAD "lock " insn sfx " %[m]" FLAGS_SAVE                            \
                         : [m] "+m"(*(u##bits *)m.p), "+a"(fl)                                     \
                         :                                                                         \
                         : "cc", "memory");                                                        \
        c->aflags = fl;                                                                            \
        cpu_rmw_end(c, &m);                                                                        \
    }

#define EACH_SIZE(X, ...)                                                                          \
    X(__VA_ARGS__, 8, "b") X(__VA_ARGS__, 16, "w") X(__VA_ARGS__, 32, "l") X(__VA_ARGS__, 64, "q")

#define DEFINE2(op, insn, pre, bits, sfx)                                                          \
    ALU2(op, insn, bits, sfx, pre)                                                                 \
    FORMS2(op, bits)
#define DEFINE_CMP(op, insn, bits, sfx) CMP2(op, insn, bits, sfx)
#define DEFINE1(op, insn, bits, sfx)    ALU1(op, insn, bits, sfx)

EACH_SIZE(DEFINE2, add, "add", "")
EACH_SIZE(DEFINE2, or, "or", "")
EACH_SIZE(DEFINE2, adc, "adc", WITH_CF)
EACH_SIZE(DEFINE2, sbb, "sbb", WITH_CF)
EACH_SIZE(DEFINE2, and, "and", "")
EACH_SIZE(DEFINE2, sub, "sub", "")
EACH_SIZE(DEFINE2, xor, "xor", "")
EACH_SIZE(DEFINE_CMP, cmp, "cmp")
EACH_SIZE(DEFINE_CMP, test, "test")
EACH_SIZE(DEFINE1, inc, "inc")
EACH_SIZE(DEFINE1, dec, "dec")
EACH_SIZE(DEFINE1, neg, "neg")
EACH_SIZE(DEFINE1, not, "not")

#define ROW2(op, bits)                                                                             \
    {                                                                                              \
        [FORM_RR] = op##_rr_##bits, [FORM_RM] = op##_rm_##bits, [FORM_MR] = op##_mr_##bits,        \
        [FORM_RI] = op##_ri_##bits, [FORM_MI] = op##_mi_##bits, [FORM_LOCK_MR] = op##_lmr_##bits,  \
        [FORM_LOCK_MI] = op##_lmi_##bits,                                                          \
    }
#define ROW_CMP(op, bits)                                                                          \
    {                                                                                              \
        [FORM_RR] = op##_rr_##bits, [FORM_RM] = op##_rm_##bits, [FORM_MR] = op##_mr_##bits,        \
        [FORM_RI] = op##_ri_##bits, [FORM_MI] = op##_mi_##bits,                                    \
    }
#define SIZES(ROW, op)                                                                             \
    {                                                                                              \
        ROW(op, 8), ROW(op, 16), ROW(op, 32), ROW(op, 64)                                          \
    }

static cpu_insn_fn *const two[X86_TEST - X86_ADD + 1][4][FORMS] =
    {/* ORDER ALU */
     SIZES(ROW2, add), SIZES(ROW2, or),  SIZES(ROW2, adc),    SIZES(ROW2, sbb),    SIZES(ROW2, and),
     SIZES(ROW2, sub), SIZES(ROW2, xor), SIZES(ROW_CMP, cmp), SIZES(ROW_CMP, test)};
static_assert(X86_ADD == 0 && X86_TEST == 8, "x86_ops.def has another order of ALU operations");

#define ROW1(op, bits)                                                                             \
    {                                                                                              \
        op##_r_##bits, op##_m_##bits, op##_lm_##bits                                               \
    }
static cpu_insn_fn *const one[4][4][3] = {SIZES(ROW1, not ), SIZES(ROW1, neg), SIZES(ROW1, inc),
                                          SIZES(ROW1, dec)};
static_assert(X86_DEC - X86_NOT == 3, "x86_ops.def has another order of NOT NEG INC DEC");

static enum form form_of(struct x86_decoded *d)
{
    struct x86_insn *i = &d->i;
    const struct x86_row *row = x86_row(i);
    bool mem = i->prefix & X86_PFX_MEM, lock = i->prefix & X86_PFX_LOCK;
    if (row->operand[1] == X86_O_I) {
        if (row->operand[0] == X86_O_ACC)
            i->rm = RAX;
        return mem ? (lock ? FORM_LOCK_MI : FORM_MI) : FORM_RI;
    }
    if (row->operand[0] == X86_O_G) {
        if (mem)
            return FORM_RM;
        u8 t = i->rm; /* the destination is always in rm */
        i->rm = i->reg;
        i->reg = t;
        return FORM_RR;
    }
    return mem ? (lock ? FORM_LOCK_MR : FORM_MR) : FORM_RR;
}

cpu_insn_fn *insn_bind_alu(struct x86_decoded *d)
{
    unsigned size = __builtin_ctz(d->i.opsize);
    if (d->op <= X86_TEST) /* X86_ADD is the first of all */
        return two[d->op - X86_ADD][size][form_of(d)];
    if (d->op >= X86_NOT && d->op <= X86_DEC) {
        bool mem = d->i.prefix & X86_PFX_MEM;
        if (x86_row(&d->i)->operand[0] == X86_O_Z)
            d->i.rm = d->i.reg;
        return one[d->op - X86_NOT][size][mem ? (d->i.prefix & X86_PFX_LOCK ? 2 : 1) : 0];
    }
    return NULL;
}
