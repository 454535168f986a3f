/*
 * x86_insn.h - a decoded instruction, and the table that says what there is to know about it.
 *
 * x86_table.def has one row per encoding: (map, opcode, prefix, ModRM.reg, ...) with its mnemonic,
 * operands and attributes. Out of the rows come the decoder, the interpreter's binding, the
 * translator's choices and the tests.
 *
 * Sources: Intel SDM vol. 2 (chapter 2 formats, appendix A opcode maps); AMD64 APM vol. 3.
 */
#ifndef POPF_X86_INSN_H
#define POPF_X86_INSN_H

#include "x86/x86.h"

#define X86_INSN_MAX 15 /* bytes; longer is #GP */

/* Width of code, from CS.L and CS.D. */
enum x86_mode { X86_MODE16, X86_MODE32, X86_MODE64 };

/* Slots of the register file an address is made of: 0..15 are the GPRs. */
#define X86_SLOT_ZERO 16 /* always 0 */
#define X86_SLOT_RIP  17 /* address of the next instruction */

/* Segment of a memory operand: ES..GS, or this: 64-bit code, base 0 and no limit. */
#define X86_SEG_FLAT 6

/* A byte register AH, CH, DH or BH is 16 + its number 0..3 (in `reg` and `rm`). */
#define X86_HIGH_BYTE 16

/* struct x86_insn.prefix */
#define X86_PFX_LOCK  0x01
#define X86_PFX_REP   0x02 /* F3 */
#define X86_PFX_REPNE 0x04 /* F2 */
#define X86_PFX_MEM   0x08 /* the ModRM operand is memory (or the instruction has a moffs) */
#define X86_PFX_66    0x10
#define X86_PFX_REX   0x20 /* any REX */
#define X86_PFX_VEX   0x40 /* VEX or EVEX encoded */
#define X86_PFX_SEG   0x80 /* a segment override was given */

/* What executing needs; 24 bytes, kept once per cached instruction. */
struct x86_insn {
    u64 imm;   /* sign-extended to 64 bits, but what is unsigned by nature (ports, vectors,
                * counts, RET n, SIMD control bytes) zero-extended; far pointer:
                * offset | selector << 32; ENTER: size | level << 16; moffs: the address */
    s32 disp;  /* sign-extended */
    u16 row;   /* index into x86_rows */
    u8 len;    /* bytes, 1..15 */
    u8 opsize; /* effective operand size in bytes: 1, 2, 4, 8; for vectors 8, 16, 32, 64 */
    u8 adsize; /* effective address size in bytes: 2, 4, 8 */
    u8 prefix; /* X86_PFX_x */
    u8 seg;    /* segment of the memory operand, after defaults and overrides; string
                * instructions: of the source; in 64-bit code FS, GS or X86_SEG_FLAT */
    u8 base;   /* slot; X86_SLOT_ZERO if none */
    u8 index;  /* slot; X86_SLOT_ZERO if none. VSIB: number of the vector register */
    u8 scale;  /* 0..3 */
    u8 reg;    /* ModRM.reg with extensions, or the register in the opcode's low bits
                * (PUSH r, MOV r, imm, XCHG, BSWAP); segment, control, debug register number */
    u8 rm;     /* ModRM.rm with extensions where it is a register */
};
static_assert(sizeof(struct x86_insn) == 24, "struct x86_insn is kept by the hundred thousand");

/* The rest, which the binder and the translator look at once. */
struct x86_decoded {
    struct x86_insn i;
    u16 op;       /* enum x86_op */
    u8 bytes[16]; /* the instruction, zero-filled */
    u8 modrm_at;  /* offset of the ModRM byte, 0 if there is none */
    u8 opcode_at; /* offset of the (last) opcode byte */
    u8 disp_at, disp_len;
    u8 imm_at, imm_len;
    u8 rex;  /* 0x40..0x4f or 0 */
    u8 map;  /* 0 one-byte, 1 = 0F, 2 = 0F38, 3 = 0F3A (VEX, EVEX likewise), 5, 6 */
    u8 vex;  /* 0 none, 2 or 3 = VEX bytes, 4 = EVEX */
    u8 vvvv; /* register number, 0..31 */
    u8 vl;   /* vector length in bytes: 16, 32, 64 (0: not a vector instruction) */
    u8 evex_aaa, evex_z, evex_b;
    u8 vsib;      /* size in bytes of the vector index register, 0 if not VSIB */
    u16 mem_size; /* bytes of memory the ModRM operand names; 0: none or variable. VSIB
                   * and broadcast: one element */
    u8 width[4];  /* row->width resolved: bytes of each operand; FXSAVE: 0 (mem_size has it) */
};

enum x86_status {
    X86_OK,
    X86_UD,       /* no such instruction in this mode: #UD */
    X86_TOO_LONG, /* more than 15 bytes: #GP(0) */
    X86_MORE,     /* the bytes given end before the instruction does */
};

/*
 * Decodes the instruction at the start of code[0..avail). Bytes past the instruction are not
 * looked at, so that a caller can decode up to a page's end and go on only if X86_MORE says so.
 * LOCK on what cannot be locked is X86_UD. The decoder knows all instructions; whether the guest's
 * CPU model has one is asked of the row's feature.
 */
enum x86_status x86_decode(const u8 *code, unsigned avail, enum x86_mode mode,
                           struct x86_decoded *out);

/* One mnemonic each: X86_ADD, X86_MOV, ... in the order of x86_ops.def. */
enum x86_op {
#define OP(name) X86_##name,
#include "x86/x86_ops.def"
#undef OP
    X86_OP_COUNT
};

/* "ADD", for traces. */
const char *x86_op_name(enum x86_op op);

/* Attributes of a row. */
#define X86_ENDS_BLOCK  0x0001 /* control flow, or changes how what follows is decoded/executed */
#define X86_HOST        0x0002 /* FP or SIMD: executed by re-emitting it on the host */
#define X86_LOCKABLE    0x0004
#define X86_NO64        0x0008 /* #UD in 64-bit code */
#define X86_ONLY64      0x0010
#define X86_ALIGNED     0x0020 /* memory operand must be aligned to its size (SSE 16-byte forms) */
#define X86_X87         0x0040 /* needs CR0.EM = TS = 0; a pending #MF is reported first */
#define X86_MMX         0x0080
#define X86_MEM_READ    0x0100   /* the ModRM memory operand is read */
#define X86_MEM_WRITE   0x0200   /* ... is written */
#define X86_DEF64       0x0400   /* operand size defaults to 64 in 64-bit code (PUSH, CALL, ...) */
#define X86_FORCE64     0x0800   /* ... and a 66 prefix does not change it */
#define X86_PRIV        0x1000   /* #GP(0) unless CPL 0 */
#define X86_STRING      0x2000   /* REP makes it repeat */
#define X86_WRITES_CR   0x4000   /* changes privileged state: translators call the C body */
#define X86_SSE         0x8000   /* legacy SSE: needs CR4.OSFXSR = 1, CR0.EM = TS = 0 */
#define X86_AVX         0x10000  /* VEX vector: needs CR4.OSXSAVE, XCR0.SSE and AVX, CR0.TS = 0 */
#define X86_AVX512      0x20000  /* EVEX or opmask: ... and XCR0 bits 5 to 7 */
#define X86_NEEDS_VL    0x40000  /* needs AVX512VL besides the row's feature if vl < 64 */
#define X86_FLAGS_MAYBE 0x80000  /* a zero count (shift, rotate, REP) leaves all flags alone */
#define X86_NOWAIT      0x100000 /* x87 control: a pending #MF is not reported first */
#define X86_AND_AVX     0x200000 /* needs AVX besides the row's feature */
#define X86_AND_AVX512  0x400000 /* needs AVX512F besides the row's feature */

/* CPUID feature that must be offered, else #UD; ORDER FEATURE with the model (cpu_cpuid.c). */
enum x86_feature {
    X86_F_BASE,
#define FEATURE(name) X86_F_##name,
#include "x86/x86_features.def"
#undef FEATURE
    X86_F_COUNT
};

/* Operand kinds, as in the manuals' opcode maps (SDM vol. 2D, A.2). */
enum x86_operand {
    X86_O_NONE,
    X86_O_E,   /* ModRM.rm: general register or memory */
    X86_O_G,   /* ModRM.reg: general register */
    X86_O_M,   /* ModRM.rm: memory only */
    X86_O_R,   /* ModRM.rm: general register only */
    X86_O_I,   /* immediate */
    X86_O_J,   /* relative branch */
    X86_O_A,   /* far pointer */
    X86_O_O,   /* moffs */
    X86_O_S,   /* ModRM.reg: segment register */
    X86_O_C,   /* ModRM.reg: control register */
    X86_O_D,   /* ModRM.reg: debug register */
    X86_O_Z,   /* register in the opcode's low three bits */
    X86_O_ACC, /* AL, AX, EAX, RAX */
    X86_O_CL,
    X86_O_DX,
    X86_O_ONE,  /* the constant 1 */
    X86_O_X,    /* DS:rSI */
    X86_O_Y,    /* ES:rDI */
    X86_O_SEG,  /* segment register named by the opcode (PUSH ES); number in `reg` */
    X86_O_F,    /* flags register */
    X86_O_V,    /* ModRM.reg: vector register */
    X86_O_W,    /* ModRM.rm: vector register or memory */
    X86_O_U,    /* ModRM.rm: vector register only */
    X86_O_H,    /* VEX.vvvv: vector register */
    X86_O_B,    /* VEX.vvvv: general register */
    X86_O_L,    /* imm8[7:4]: vector register */
    X86_O_P,    /* ModRM.reg: MMX register */
    X86_O_Q,    /* ModRM.rm: MMX register or memory */
    X86_O_N,    /* ModRM.rm: MMX register only */
    X86_O_K,    /* ModRM.reg: opmask register */
    X86_O_KM,   /* ModRM.rm: opmask register or memory */
    X86_O_KR,   /* ModRM.rm: opmask register only */
    X86_O_KH,   /* VEX.vvvv: opmask register */
    X86_O_ST,   /* ST(0) */
    X86_O_STI,  /* ST(i), ModRM.rm */
    X86_O_VSIB, /* memory with a vector index */
};

#define X86_OPERANDS_MAX 4

/* Widths in struct x86_row that are no plain numbers of bytes; x86_decoded.width resolves them. */
enum x86_width {
    X86_W_V = 0,    /* the effective operand size; vectors: the vector length */
    X86_W_Z = 0x80, /* ... but at most 4 */
    X86_W_Y,        /* 8 with W in 64-bit code, else 4; 66 has no say */
    X86_W_N,        /* 8 in 64-bit code, else 4 */
    X86_W_ADDR,     /* the address size */
    X86_W_FAR,      /* far pointer: 2 + operand size */
    X86_W_PAIR,     /* BOUND: twice the operand size */
    X86_W_DTR,      /* 2 + 4, in 64-bit code 2 + 8 */
    X86_W_HALF,     /* of the vector length */
    X86_W_QUARTER,
    X86_W_EIGHTH,
    X86_W_DUP,    /* VMOVDDUP: 8, or the vector length if it is above 16 */
    X86_W_RV_M2,  /* register: operand size; memory: 2 bytes */
    X86_W_RD_M1,  /* register: 4 bytes; memory: 1 */
    X86_W_RD_M2,  /* register: 4 bytes; memory: 2 */
    X86_W_ENV,    /* FLDENV: 14 or 28 */
    X86_W_FSAVE,  /* 94 or 108 */
    X86_W_FXSAVE, /* 512 */
    X86_W_ANY,    /* no access, or a size the decoder does not know (XSAVE) */
};

struct x86_row {
    u16 op; /* enum x86_op */
    u32 attr;
    u8 feature;                   /* enum x86_feature */
    u8 operand[X86_OPERANDS_MAX]; /* enum x86_operand, destination first */
    u8 width[X86_OPERANDS_MAX];   /* bytes, or X86_W_x */
    u16 written;                  /* operands written: bit per operand */
    u16 flags_read;               /* FLAGS_ARITH | FLAG_DF bits */
    u16 flags_written;            /* given a defined value */
    u16 flags_undef;              /* given an undefined value */
};

extern const struct x86_row x86_rows[];
extern const unsigned x86_row_count;

static inline const struct x86_row *x86_row(const struct x86_insn *i)
{
    return &x86_rows[i->row];
}

#endif
