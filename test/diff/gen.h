/*
 * gen.h - makes test cases: encodings of table rows, sequences of them, states to start from.
 *
 * A case holds addresses of its own code symbolically (labels, roles of registers), so that it can
 * be shrunk; gen_place() turns it into bytes and register values.
 */
#ifndef POPF_DIFF_GEN_H
#define POPF_DIFF_GEN_H

#include "layout.h"
#include "rng.h"

#define INSNS_MAX 32

/* What in an encoding hangs on where it lies. */
enum fix {
    FIX_NONE,
    FIX_REL, /* relative branch to a label */
    FIX_FAR, /* absolute offset of a label */
    FIX_RIP, /* disp32 relative to RIP */
};

struct insn {
    u8 b[16];
    u8 len;
    u16 row;
    u8 fix, fix_at, fix_len;
    u8 label;    /* index of an instruction; the case's n: its end */
    u32 address; /* FIX_RIP */
};

/* What registers hold at first. */
enum role { ROLE_VALUE, ROLE_SMALL, ROLE_POINTER, ROLE_CODE /* the end's address */ };

struct test_case {
    u64 seed;
    bool m64;
    unsigned n;
    struct insn in[INSNS_MAX];
    u8 role[16];
    struct regs r;
    bool uses_fpu;
    u8 mem[MEM_SIZE];
    u8 fpu[FPU_MAX] __attribute__((aligned(64)));

    /* by gen_place() */
    u32 start, end;
    unsigned bytes;
    u8 code[INSNS_MAX * 16 + 16];
};

/* What the host and the guest can do. */
struct gen_caps {
    u64 xcr0;
    unsigned fpu_size;
    bool fsgsbase;
    u32 mxcsr_mask;
    unsigned at_opmask, at_zmm_hi256, at_hi16_zmm, at_ymm; /* offsets in XSAVE images */
};

/* A memory operand, as it is encoded. */
struct memop {
    u8 mod, rm, sib;
    bool has_sib;
    u8 b, x, v2; /* extension bits: 0 or 1 */
    u8 disp_len;
    s32 disp;
    bool rip;
    u32 address;
    bool p67;
    u8 seg; /* prefix byte or 0 */
};

struct gen {
    struct rng rng;
    struct memop last; /* the sequence's latest, of general purpose, if has_last */
    bool has_last;
    struct gen_caps caps;
    u8 pool[8192]; /* vector operands are cut from this */
    u32 next_start;
};

void gen_init(struct gen *g, const struct gen_caps *caps, u64 seed);

/* Registers, memory and FP state. */
void gen_state(struct gen *g, struct test_case *t, bool m64);

/*
 * Appends an encoding of the row; variant selects between register and memory forms, sizes and
 * prefixes, and any 16 in a row go through all. False: the row has no encoding in this mode.
 */
bool gen_insn(struct gen *g, struct test_case *t, unsigned row, unsigned variant);

/* Settles branch targets; loops end. To be called when all instructions are there. */
void gen_branches(struct gen *g, struct test_case *t);

/* Gives the code a place and computes what hangs on it. */
void gen_place(struct test_case *t, u32 start);
u32 gen_next_start(struct gen *g);

#endif
