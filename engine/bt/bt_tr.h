/*
 * bt_tr.h - the translation of one block: what the translator's files share.
 *
 * bt_translate.c is the pipeline; bt_mem.c memory operands and flags across checks; bt_copy.c
 * instructions that are copied with other registers; bt_simd.c the same for FP and SIMD; bt_flow.c
 * the stack and control flow.
 */
#ifndef POPF_BT_TR_H
#define POPF_BT_TR_H

#include "cpu/cpu_mem.h"
#include "engine/bt/bt_emit.h"

#define T0 14 /* address; then host address */
#define T1 15
#define T2 13

#define JNZ 5

#define STUB(t, n) ((t)->bt->code + (n)*BT_STUB_SIZE)

/* An out-of-line part: calls the body of an op, then goes on at `resume`. */
struct cold {
    u8 *site[5]; /* rel32s of the jumps that come here */
    unsigned nsites;
    const struct op *op;
    u8 *resume;
    u32 next;   /* offset in the page after the instruction */
    bool saved; /* flags are in cpu.aflags */
    bool fpu;   /* code behind it counts on FP state in the host's registers */
    /* Behind the store: it went to a page with code (bt_stored). */
    u8 *wrote;
    bool wrote_saved;
};

/* An out-of-line part that gets the FP state, or else calls the body and leaves. */
struct fpu_check {
    u8 *site, *resume;
    const struct op *op;
    u32 next;
    u8 level;
    bool saved, rcx_in_t2;
};

struct tr {
    struct emit e;
    const u8 *start;
    struct cpu *c;
    struct bt_cpu *bt;
    struct block *b;
    const struct op *op;
    struct x86_decoded d;
    unsigned next;   /* offset in the page after the current instruction */
    bool flags_live; /* arithmetic flags as they are before the current instruction matter */
    /* They have been put into cpu.aflags and the host's are not they. Put back only where something
     * wants them: a row of pops needs no more than one save and one restore. */
    bool flags_saved;
    struct cold cold[BLOCK_OPS_MAX];
    unsigned ncold;
    u32 live[BLOCK_OPS_MAX + 1]; /* flags live before each instruction, and after the last */
    bool live_after;             /* flags matter after the current instruction */
    struct fpu_check fpu_check[BLOCK_OPS_MAX];
    unsigned nfpu_checks;
    u8 fpu_level; /* enum cpu_fpu_level known to be ready here; 0 after a body, and at any label */
    bool x87_page_noted;
    bool ended;
    u8 word; /* bytes of a stack slot and of a branch target: 8, or 4 in 32-bit code */
};

static inline bool is_temp(unsigned reg)
{
    return reg >= 13 && reg <= 15;
}

/* bt_mem.c */

/*
 * Before code that clobbers the host's flags: saves them if they matter and are not saved yet.
 * Before code that wants the guest's flags in the host's: puts them back if they are not there. Use
 * T2.
 */
void bt_save_flags(struct tr *t);
void bt_want_flags(struct tr *t);

/* The current instruction reads flags, or writes some of those that matter but not all. */
static inline bool bt_uses_flags(const struct tr *t)
{
    const struct x86_row *row = x86_row(&t->d.i);
    bool writes = row->flags_written | row->flags_undef;
    return row->flags_read & FLAGS_ARITH || (writes && t->flags_live);
}

/* JNZ to the current instruction's out-of-line part: nothing of the guest's may have changed yet.
 */
void bt_cold_jump(struct tr *t);
void bt_cold_jump_cc(struct tr *t, unsigned cc); /* on another condition */
/* The instruction is done: its out-of-line part, if there is one, comes back here. */
void bt_cold_resume(struct tr *t);

/* T0 = effective address of the ModRM operand, without segment base. Keeps the flags. Uses T1. */
void bt_ea(struct tr *t);
/* T0 += the operand's segment base, within its limit, for an access of `size` bytes. Keeps the
 * flags if they matter. Uses T1 and T2. */
void bt_segment(struct tr *t, unsigned size, bool write);
/*
 * T0 = linear address of `size` bytes -> host address, or off to the body. Leaves T1 and T2 free,
 * and the flags as they were if they matter.
 */
void bt_lookup(struct tr *t, unsigned size, bool write);

/*
 * The same for a store of up to 16 bytes that bt_stored() follows. bt_lookup() asks *before* the
 * store whether the page has code; with several CPUs another one may decode from it just then, so
 * it must be asked after it (mem.h). T0 is left alone in between.
 */
void bt_lookup_store(struct tr *t, unsigned size);
void bt_stored(struct tr *t);
/* The same; an operand that is not aligned to its size, a power of 2, is left to the body. */
void bt_lookup_aligned(struct tr *t, unsigned size, bool write);

/* A guest register in a host register: itself, or `temp`, loaded. */
unsigned bt_temp(struct tr *t, unsigned reg, unsigned temp);
/* dst = RIP of `offset` in this page. */
void bt_rip(struct tr *t, unsigned dst, s64 offset);
/* lea T0, [base + index * scale + disp] */
void bt_lea_sib(struct tr *t, unsigned base, unsigned index, unsigned scale, s32 disp);

/* bt_copy.c: emits the instruction by copying it; false if it cannot be copied. */
bool bt_copy(struct tr *t);
bool bt_operand_written(const struct x86_row *row, enum x86_operand kind);
bool bt_has_operand(const struct x86_row *row, enum x86_operand kind);

/* bt_simd.c: FP, SIMD and others; false: call the body. */
bool bt_simd(struct tr *t);
void bt_simd_cold(struct tr *t); /* after the block */

/* R14 = op, R13 = RIP after it, R15 = where to go on. */
void bt_body_args(struct tr *t, const struct op *op, u32 next, const u8 *resume);

/* bt_flow.c: stack, LEA and control flow; false: call the body. May end the block. */
bool bt_flow(struct tr *t);
/* Leaves the block for an offset relative to its page. */
void bt_exit(struct tr *t, s64 offset);

#endif
