/*
 * x86_table.h - private to x86/: the words that rows of x86_table.def are written in, and what the
 * decoder keeps of a row besides struct x86_row.
 *
 * Sources: Intel SDM vol. 2A (2.1 to 2.7), vol. 2D (A.2 abbreviations).
 */
#ifndef POPF_X86_TABLE_H
#define POPF_X86_TABLE_H

#include "x86/x86_insn.h"

/* Opcode spaces: each has 256 opcodes. */
enum {
    SPACE_LEG,      /* + map 0..3 */
    SPACE_VEX = 3,  /* + map 1..3 */
    SPACE_EVEX = 6, /* + map 1..6 */
    SPACE_COUNT = 6 + 7,
};

/*
 * A row is chosen by a key made of the bytes read so far: (key & mask) == value. Selectors are
 * (mask, value) pairs that rows combine with |.
 */
#define KEY_PFX   8 /* two bits: 0 none, 1 = 66, 2 = F3, 3 = F2; F3 and F2 hide 66 */
#define KEY_W     (1u << 10)
#define KEY_L     11 /* two bits */
#define KEY_64    (1u << 13)
#define KEY_REG   (1u << 14) /* ModRM.mod is 3 */
#define KEY_REX_B (1u << 15)
#define KEY_LNOT0 (1u << 16)

#define SEL(mask, value) ((u64)(mask) << 32 | (u64)(value))
#define ANY              SEL(0, 0)
#define NP               SEL(3u << KEY_PFX, 0)
#define P66              SEL(3u << KEY_PFX, 1u << KEY_PFX)
#define PF3              SEL(3u << KEY_PFX, 2u << KEY_PFX)
#define PF2              SEL(3u << KEY_PFX, 3u << KEY_PFX)
#define N23              SEL(2u << KEY_PFX, 0)  /* neither F2 nor F3 */
#define G(n)             SEL(7u << 3, (n) << 3) /* ModRM.reg */
#define RM(n)            SEL(7u, (n))
#define MEM              SEL(KEY_REG, 0)
#define REG              SEL(KEY_REG, KEY_REG)
#define W0               SEL(KEY_W, 0)
#define W1               SEL(KEY_W, KEY_W)
#define L0               SEL(3u << KEY_L, 0)
#define L1               SEL(3u << KEY_L, 1u << KEY_L)
#define L2               SEL(3u << KEY_L, 2u << KEY_L)
#define LNOT0            SEL(KEY_LNOT0, KEY_LNOT0)
#define NOB              SEL(KEY_REX_B, 0) /* REX.B = 0 */

/* Kinds of immediate. */
enum {
    IMM_NONE,
    IMM_IB,    /* sign-extended byte */
    IMM_UB,    /* zero-extended byte */
    IMM_IW,    /* zero-extended word */
    IMM_IZ,    /* 2 or 4 bytes, sign-extended */
    IMM_IV,    /* 2, 4 or 8 bytes */
    IMM_JZ,    /* as IZ, but 4 bytes in 64-bit code */
    IMM_PTR,   /* offset of 2 or 4 bytes, selector */
    IMM_MOFFS, /* an address */
    IMM_ENTER, /* word, byte */
};

/* Index register of a VSIB operand: as wide as the vector, or half. */
enum { VSIB_FULL = 1, VSIB_HALF };

/* clang-format off */
/* Operands by their names in the opcode maps: kind, width, immediate (or VSIB index). */
#define OPND(kind, width, imm) (X86_O_##kind | (width) << 8 | (imm) << 16)
enum {
    NONE = 0,
    Eb = OPND(E, 1, 0), Ew = OPND(E, 2, 0), Ed = OPND(E, 4, 0),
    Ev = OPND(E, X86_W_V, 0), Ey = OPND(E, X86_W_Y, 0), Ez = OPND(E, X86_W_Z, 0),
    EvMw = OPND(E, X86_W_RV_M2, 0),
    EdMb = OPND(E, X86_W_RD_M1, 0), EdMw = OPND(E, X86_W_RD_M2, 0),
    Gb = OPND(G, 1, 0), Gw = OPND(G, 2, 0), Gd = OPND(G, 4, 0), Gv = OPND(G, X86_W_V, 0),
    Gy = OPND(G, X86_W_Y, 0), Gn = OPND(G, X86_W_N, 0), Ga = OPND(G, X86_W_ADDR, 0),
    M = OPND(M, X86_W_ANY, 0), Mw = OPND(M, 2, 0), Md = OPND(M, 4, 0),
    Mq = OPND(M, 8, 0), Mt = OPND(M, 10, 0), Mdq = OPND(M, 16, 0), Mqq = OPND(M, 32, 0),
    Moq = OPND(M, 64, 0), Mv = OPND(M, X86_W_V, 0), My = OPND(M, X86_W_Y, 0),
    Mp = OPND(M, X86_W_FAR, 0), Ma = OPND(M, X86_W_PAIR, 0), Ms = OPND(M, X86_W_DTR, 0),
    Mx = OPND(M, X86_W_V, 0), Menv = OPND(M, X86_W_ENV, 0), Msave = OPND(M, X86_W_FSAVE, 0),
    Mfx = OPND(M, X86_W_FXSAVE, 0),
    Rv = OPND(R, X86_W_V, 0), Ry = OPND(R, X86_W_Y, 0), Rd = OPND(R, 4, 0),
    Rn = OPND(R, X86_W_N, 0),
    By = OPND(B, X86_W_Y, 0),
    Ib = OPND(I, 1, IMM_IB), Ub = OPND(I, 1, IMM_UB), Iw = OPND(I, 2, IMM_IW),
    Iz = OPND(I, X86_W_Z, IMM_IZ), Iv = OPND(I, X86_W_V, IMM_IV), Iwb = OPND(I, 2, IMM_ENTER),
    Jb = OPND(J, 1, IMM_IB), Jz = OPND(J, X86_W_Z, IMM_JZ), Ap = OPND(A, X86_W_FAR, IMM_PTR),
    Ob = OPND(O, 1, IMM_MOFFS), Ov = OPND(O, X86_W_V, IMM_MOFFS),
    Sw = OPND(S, 2, 0), Cn = OPND(C, X86_W_N, 0), Dn = OPND(D, X86_W_N, 0),
    Zb = OPND(Z, 1, 0), Zv = OPND(Z, X86_W_V, 0),
    AL = OPND(ACC, 1, 0), AX = OPND(ACC, 2, 0), rAX = OPND(ACC, X86_W_V, 0),
    CLb = OPND(CL, 1, 0), DXw = OPND(DX, 2, 0), One = OPND(ONE, 1, 0), SEG = OPND(SEG, 2, 0),
    Xb = OPND(X, 1, 0), Xv = OPND(X, X86_W_V, 0), Yb = OPND(Y, 1, 0), Yv = OPND(Y, X86_W_V, 0),
    Fv = OPND(F, X86_W_V, 0),
    ST0 = OPND(ST, 10, 0), STi = OPND(STI, 10, 0),
    Pq = OPND(P, 8, 0), Qq = OPND(Q, 8, 0), Qd = OPND(Q, 4, 0), Nq = OPND(N, 8, 0),
    Vx = OPND(V, X86_W_V, 0), Vh = OPND(V, X86_W_HALF, 0), Vdq = OPND(V, 16, 0),
    Vq = OPND(V, 8, 0), Vd = OPND(V, 4, 0),
    Vf = OPND(V, X86_W_QUARTER, 0),
    Wx = OPND(W, X86_W_V, 0), Wh = OPND(W, X86_W_HALF, 0), Wf = OPND(W, X86_W_QUARTER, 0),
    We = OPND(W, X86_W_EIGHTH, 0), Wdup = OPND(W, X86_W_DUP, 0), Wdq = OPND(W, 16, 0),
    Wqq = OPND(W, 32, 0), Wq = OPND(W, 8, 0), Wd = OPND(W, 4, 0), Ww = OPND(W, 2, 0),
    Wb = OPND(W, 1, 0),
    Hx = OPND(H, X86_W_V, 0), Hdq = OPND(H, 16, 0),
    Ux = OPND(U, X86_W_V, 0), Udq = OPND(U, 16, 0),
    Lx = OPND(L, X86_W_V, IMM_UB),
    /* opmasks */
    Kq = OPND(K, 8, 0), KMb = OPND(KM, 1, 0), KMw = OPND(KM, 2, 0), KMd = OPND(KM, 4, 0),
    KMq = OPND(KM, 8, 0), KRq = OPND(KR, 8, 0), KHq = OPND(KH, 8, 0),
    /* gather, scatter: element width, index width */
    VMd = OPND(VSIB, 4, VSIB_FULL), VMq = OPND(VSIB, 8, VSIB_FULL), VMqh = OPND(VSIB, 8, VSIB_HALF),
};

/* How operands are accessed: two bits each (1 read, 2 written), the first in the lowest bits. */
enum {
    acc_n = 0,
    acc_r = 0x55,
    acc_w = 0x56,
    acc_x = 0x57,
    acc_ww = 0x5a,
    acc_xx = 0x5f,
    acc_wn = 0x02, /* LEA */
    acc_xrx = 0x77, /* VEX gathers: the mask is cleared */
};

/* Flags read, written, undefined. */
#define FL(r, w, u) ((u64)(r) | (u64)(w) << 16 | (u64)(u) << 32)
enum {
    C_ = FLAG_CF, P_ = FLAG_PF, A_ = FLAG_AF, Z_ = FLAG_ZF, S_ = FLAG_SF, O_ = FLAG_OF,
    D_ = FLAG_DF, ALL_ = FLAGS_ARITH,
};
#define fl_none    FL(0, 0, 0)
#define fl_arith   FL(0, ALL_, 0)
#define fl_adc     FL(C_, ALL_, 0)
#define fl_logic   FL(0, ALL_ & ~A_, A_)
#define fl_inc     FL(0, ALL_ & ~C_, 0)
#define fl_mul     FL(0, C_ | O_, P_ | A_ | Z_ | S_)
#define fl_div     FL(0, 0, ALL_)
#define fl_rol1    FL(0, C_ | O_, 0)
#define fl_rol     FL(0, C_, O_)
#define fl_rcl1    FL(C_, C_ | O_, 0)
#define fl_rcl     FL(C_, C_, O_)
#define fl_shl1    FL(0, ALL_ & ~A_, A_)
#define fl_shl     FL(0, C_ | P_ | Z_ | S_, A_ | O_)
#define fl_bt      FL(0, C_, P_ | A_ | S_ | O_)
#define fl_bsf     FL(0, Z_, C_ | P_ | A_ | S_ | O_)
#define fl_tzcnt   FL(0, C_ | Z_, P_ | A_ | S_ | O_)
#define fl_aaa     FL(A_, A_ | C_, O_ | S_ | Z_ | P_)
#define fl_aam     FL(0, S_ | Z_ | P_, O_ | A_ | C_)
#define fl_daa     FL(A_ | C_, S_ | Z_ | P_ | A_ | C_, O_)
#define fl_adcx    FL(C_, C_, 0)
#define fl_adox    FL(O_, O_, 0)
#define fl_andn    FL(0, S_ | Z_ | O_ | C_, A_ | P_)
#define fl_bextr   FL(0, Z_ | C_ | O_, S_ | A_ | P_)
#define fl_wz      FL(0, Z_, 0)
#define fl_rc      FL(C_, 0, 0)
#define fl_rz      FL(Z_, 0, 0)
#define fl_ro      FL(O_, 0, 0)
#define fl_rs      FL(S_, 0, 0)
#define fl_rp      FL(P_, 0, 0)
#define fl_rcz     FL(C_ | Z_, 0, 0)
#define fl_rso     FL(S_ | O_, 0, 0)
#define fl_rzso    FL(Z_ | S_ | O_, 0, 0)
#define fl_wc      FL(0, C_, 0)
#define fl_cmc     FL(C_, C_, 0)
#define fl_wd      FL(0, D_, 0)
#define fl_rd      FL(D_, 0, 0)
#define fl_cmps    FL(D_, ALL_, 0)
#define fl_lahf    FL(S_ | Z_ | A_ | P_ | C_, 0, 0)
#define fl_sahf    FL(0, S_ | Z_ | A_ | P_ | C_, 0)
#define fl_rall    FL(ALL_ | D_, 0, 0)
#define fl_wall    FL(0, ALL_ | D_, 0)
#define fl_rwall   FL(ALL_ | D_, ALL_ | D_, 0)

/* Attributes for the decoder alone, above those of struct x86_row. */
#define ATTR_PUBLIC 0x00ffffffu
#define BYTE        0x01000000u /* the operand size is 1 (set where the first operand is no byte) */
#define CAP4        0x02000000u /* the operand size is at most 4 */
#define NATIVE      0x04000000u /* the operand size is 4, in 64-bit code 8 */
#define MODREG      0x08000000u /* ModRM.mod is taken as 3 */
#define VSIZE       0x20000000u /* the ordinary operand size, though an operand goes by W alone */
#define DISTINCT    0x10000000u /* destination, index and mask must differ: #UD */

/* Short names for attributes of rows. */
enum {
    ENDS = X86_ENDS_BLOCK, LOCK = X86_LOCKABLE, NO64 = X86_NO64, ONLY64 = X86_ONLY64,
    DEF64 = X86_DEF64, FORCE64 = X86_DEF64 | X86_FORCE64, PRIV = X86_PRIV, STRING = X86_STRING,
    SYS = X86_WRITES_CR, MAYBE = X86_FLAGS_MAYBE,
    FP = X86_HOST | X86_X87, FPNW = X86_HOST | X86_X87 | X86_NOWAIT,
    MM = X86_HOST | X86_MMX, SS_ = X86_HOST | X86_SSE, SSA = X86_HOST | X86_SSE | X86_ALIGNED,
    MMS = X86_HOST | X86_MMX | X86_SSE, MMSA = MMS | X86_ALIGNED,
    AV = X86_HOST | X86_AVX, AVA = AV | X86_ALIGNED, AVX_ = X86_AND_AVX,
    AK = X86_HOST | X86_AVX512, /* opmask, scalar */
    AE = AK | X86_NEEDS_VL, AEA = AE | X86_ALIGNED, A512 = X86_AND_AVX512,
};

/* EVEX column (SDM vol. 2A, 2.7): broadcast of 2-, 4-, 8-byte elements; rounding; masking; and
 * N of disp8*N where it is not the size of the memory operand. */
enum {
    BC2 = 1, BC4 = 2, BC8 = 3, BC_MASK = 3,
    ER = 0x04,
    SAE = 0x08,
    K = 0x10,    /* may be masked */
    KZ = 0x30,   /* ... with zeroing */
    EV_Z = 0x20,
    KREQ = 0x50, /* must be masked */
    EV_KREQ = 0x40,
    N1 = 0x100, N2 = 0x200, N4 = 0x400, N8 = 0x800,
};

/* clang-format on */

/* How the operand size comes about. */
enum { OSZ_V, OSZ_BYTE, OSZ_CAP4, OSZ_NATIVE, OSZ_Y, OSZ_MMX, OSZ_VL };

/* What the decoder knows of a row. */
struct x86_enc {
    u32 mask, value; /* of the key */
    u16 evex;
    u8 space, opcode;
    u8 span;   /* opcodes it covers: 1, or 8 with the register in the low bits */
    u8 modrm;  /* has a ModRM byte */
    u8 imm;    /* IMM_x */
    u8 vsib;   /* VSIB_x or 0 */
    u8 osz;    /* OSZ_x */
    u8 modreg; /* MODREG */
    u8 distinct;
    u8 mem;   /* operand that ModRM.rm names, 0..3, or 4 */
    u16 uses; /* USES_x */
};

/* What a row's operands are, as far as the decoder asks. */
#define USES_VVVV     0x0001
#define USES_KH       0x0002 /* ... as an opmask */
#define USES_K        0x0004 /* reg is an opmask */
#define USES_G        0x0008 /* reg is a general register */
#define USES_GB       0x0010 /* reg may be AH..BH */
#define USES_EB       0x0020 /* rm may be AH..BH */
#define USES_SREG     0x0040
#define USES_CR       0x0080
#define USES_DR       0x0100
#define USES_SEGREG   0x0200 /* segment register named by the opcode */
#define USES_REG_EXT  0x0400 /* reg: one of 32 vector registers */
#define USES_REG_3BIT 0x0800 /* reg: extensions do not count (MMX, segments) */
#define USES_RM_EXT   0x1000 /* rm: likewise */
#define USES_RM_3BIT  0x2000 /* rm: MMX, opmask, ST(i) */

extern const struct x86_enc x86_encs[];

/* The generated index: per opcode a run of candidates, in the order of the table. */
struct x86_candidate {
    u32 mask, value;
    u16 row;
};
struct x86_slot {
    u16 first;
    u8 count;
    u8 modrm;
};

#endif
