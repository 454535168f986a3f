/* x86_table.c - the rows of x86_table.def as arrays: what everyone sees, what the decoder needs. */
#include "x86/x86_table.h"

#define KIND(o)  ((o)&0xff)
#define WIDTH(o) (((o) >> 8) & 0xff)
#define IMM(o)   (((o) >> 16) & 0xff)
#define IS(o, k) (KIND(o) == X86_O_##k)

#define PASS(...)     __VA_ARGS__
#define PAD(...)      PASS(__VA_ARGS__, NONE, NONE, NONE, NONE)
#define CALL(f, ...)  f(__VA_ARGS__)
#define APPLY(f, ops) CALL(f, PAD ops)
#define LIST(a, b, c, d, ...)                                                                      \
    {                                                                                              \
        KIND(a), KIND(b), KIND(c), KIND(d)                                                         \
    }
#define WIDTHS(a, b, c, d, ...)                                                                    \
    {                                                                                              \
        WIDTH(a), WIDTH(b), WIDTH(c), WIDTH(d)                                                     \
    }
#define ANY_OF(f, a, b, c, d) (f(a) || f(b) || f(c) || f(d))

/* The operand that ModRM.rm names. */
#define IS_RM_MEM(o) (IS(o, E) || IS(o, M) || IS(o, W) || IS(o, Q) || IS(o, KM) || IS(o, VSIB))
#define IS_RM_REG(o) (IS(o, R) || IS(o, U) || IS(o, N) || IS(o, KR) || IS(o, STI))
#define IS_MODRM_REG(o)                                                                            \
    (IS(o, G) || IS(o, S) || IS(o, C) || IS(o, D) || IS(o, V) || IS(o, P) || IS(o, K))
#define RM_AT(a, b, c, d, ...)                                                                     \
    (IS_RM_MEM(a) ? 0 : IS_RM_MEM(b) ? 1 : IS_RM_MEM(c) ? 2 : IS_RM_MEM(d) ? 3 : 4)
#define MEM_ACCESS(acc, at)                                                                        \
    ((at) > 3 ? 0                                                                                  \
              : ((acc) >> 2 * ((at)&3) & 1 ? X86_MEM_READ : 0) |                                   \
                    ((acc) >> 2 * ((at)&3) & 2 ? X86_MEM_WRITE : 0))
#define WRITTEN(acc)                                                                               \
    (((acc) >> 1 & 1) | ((acc) >> 3 & 1) << 1 | ((acc) >> 5 & 1) << 2 | ((acc) >> 7 & 1) << 3)

const struct x86_row x86_rows[] = {
#define ROW(space_, map_, opc, sel, mn, ops, acc, fl, attr_, feat, ev)                             \
    {                                                                                              \
        .op = X86_##mn,                                                                            \
        .attr = ((attr_)&ATTR_PUBLIC) | MEM_ACCESS(acc_##acc, APPLY(RM_AT, ops)),                  \
        .feature = X86_F_##feat,                                                                   \
        .operand = APPLY(LIST, ops),                                                               \
        .width = APPLY(WIDTHS, ops),                                                               \
        .written = WRITTEN(acc_##acc),                                                             \
        .flags_read = (fl_##fl) & 0xffff,                                                          \
        .flags_written = (fl_##fl) >> 16 & 0xffff,                                                 \
        .flags_undef = (fl_##fl) >> 32 & 0xffff,                                                   \
    },
#include "x86/x86_table.def"
#undef ROW
};

const unsigned x86_row_count = ARRAY_SIZE(x86_rows);

/* Kinds that are memory alone or a register alone say so in the selector. */
#define IS_M(o)                (IS(o, M) || IS(o, VSIB))
#define ALL_M(a, b, c, d, ...) ANY_OF(IS_M, a, b, c, d)
#define ALL_R(a, b, c, d, ...) ANY_OF(IS_RM_REG, a, b, c, d)
#define IMPLIED(ops, attr_)                                                                        \
    ((APPLY(ALL_M, ops) ? MEM : 0) | (APPLY(ALL_R, ops) && !((attr_)&MODREG) ? REG : 0) |          \
     ((attr_)&NO64 ? SEL(KEY_64, 0) : 0) | ((attr_)&ONLY64 ? SEL(KEY_64, KEY_64) : 0))

#define IS_MODRM(o)                (IS_RM_MEM(o) || IS_RM_REG(o) || IS_MODRM_REG(o))
#define ANY_MODRM(a, b, c, d, ...) ANY_OF(IS_MODRM, a, b, c, d)
#define HAS_MODRM(sel, ops)        (((sel) >> 32 & (KEY_REG | 0xff)) != 0 || APPLY(ANY_MODRM, ops))

#define IS_Z(o)                IS(o, Z)
#define ANY_Z(a, b, c, d, ...) ANY_OF(IS_Z, a, b, c, d)

#define IMM_OF(o)                 (IS(o, VSIB) ? 0 : IMM(o))
#define ANY_IMM(a, b, c, d, ...)  (IMM_OF(a) | IMM_OF(b) | IMM_OF(c) | IMM_OF(d))
#define VSIB_OF(o)                (IS(o, VSIB) ? IMM(o) : 0)
#define ANY_VSIB(a, b, c, d, ...) (VSIB_OF(a) | VSIB_OF(b) | VSIB_OF(c) | VSIB_OF(d))

#define IS_SIZED(o)                                                                                \
    (IS(o, E) || IS(o, G) || IS(o, Z) || IS(o, ACC) || IS(o, X) || IS(o, Y) || IS(o, O))
#define BYTE_FIRST(a, ...)     (IS_SIZED(a) && WIDTH(a) == 1)
#define IS_Y(o)                (KIND(o) && WIDTH(o) == X86_W_Y)
#define IS_N(o)                (KIND(o) && WIDTH(o) == X86_W_N)
#define ANY_Y(a, b, c, d, ...) ANY_OF(IS_Y, a, b, c, d)
#define ANY_N(a, b, c, d, ...) ANY_OF(IS_N, a, b, c, d)
#define OSZ(ops, attr_)                                                                            \
    ((attr_) & (X86_AVX | X86_AVX512 | X86_SSE) ? OSZ_VL                                           \
     : (attr_)&X86_MMX                          ? OSZ_MMX                                          \
     : ((attr_)&BYTE) || APPLY(BYTE_FIRST, ops) ? OSZ_BYTE                                         \
     : (attr_)&CAP4                             ? OSZ_CAP4                                         \
     : ((attr_)&NATIVE) || APPLY(ANY_N, ops)    ? OSZ_NATIVE                                       \
     : APPLY(ANY_Y, ops) && !((attr_)&VSIZE)    ? OSZ_Y                                            \
                                                : OSZ_V)

#define IS_VVVV(o)            (IS(o, H) || IS(o, B) || IS(o, KH))
#define IS_KH(o)              IS(o, KH)
#define IS_K(o)               IS(o, K)
#define IS_G(o)               IS(o, G)
#define IS_GB(o)              (IS(o, G) && WIDTH(o) == 1)
#define IS_EB(o)              (IS(o, E) && WIDTH(o) == 1)
#define IS_SREG(o)            IS(o, S)
#define IS_CR(o)              IS(o, C)
#define IS_DR(o)              IS(o, D)
#define IS_SEGREG(o)          IS(o, SEG)
#define IS_REG_EXT(o)         IS(o, V)
#define IS_REG_3BIT(o)        (IS(o, S) || IS(o, P))
#define IS_RM_EXT(o)          (IS(o, W) || IS(o, U))
#define IS_RM_3BIT(o)         (IS(o, Q) || IS(o, N) || IS(o, KM) || IS(o, KR) || IS(o, STI))
#define USE(name, a, b, c, d) (ANY_OF(IS_##name, a, b, c, d) ? USES_##name : 0)
#define USES(a, b, c, d, ...)                                                                      \
    (USE(VVVV, a, b, c, d) | USE(KH, a, b, c, d) | USE(K, a, b, c, d) | USE(G, a, b, c, d) |       \
     USE(GB, a, b, c, d) | USE(EB, a, b, c, d) | USE(SREG, a, b, c, d) | USE(CR, a, b, c, d) |     \
     USE(DR, a, b, c, d) | USE(SEGREG, a, b, c, d) | USE(REG_EXT, a, b, c, d) |                    \
     USE(REG_3BIT, a, b, c, d) | USE(RM_EXT, a, b, c, d) | USE(RM_3BIT, a, b, c, d))

const struct x86_enc x86_encs[] = {
#define ROW(space_, map_, opc, sel, mn, ops, acc, fl, attr_, feat, ev)                             \
    {                                                                                              \
        .mask = ((sel) | IMPLIED(ops, attr_)) >> 32,                                               \
        .value = (u32)((sel) | IMPLIED(ops, attr_)),                                               \
        .evex = (ev),                                                                              \
        .space = (space_) + (map_),                                                                \
        .opcode = (opc),                                                                           \
        .span = APPLY(ANY_Z, ops) ? 8 : 1,                                                         \
        .modrm = HAS_MODRM(sel, ops),                                                              \
        .imm = APPLY(ANY_IMM, ops),                                                                \
        .vsib = APPLY(ANY_VSIB, ops),                                                              \
        .osz = OSZ(ops, attr_),                                                                    \
        .modreg = ((attr_)&MODREG) != 0,                                                           \
        .distinct = ((attr_)&DISTINCT) != 0,                                                       \
        .mem = APPLY(RM_AT, ops),                                                                  \
        .uses = APPLY(USES, ops),                                                                  \
    },
#include "x86/x86_table.def"
#undef ROW
};
