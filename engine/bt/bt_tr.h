/*
 * bt_tr.h - the translation of one region: what the translator's files share.
 *
 * bt_translate.c is the pipeline; bt_region.c which blocks, and which flags live between them;
 * bt_mem.c memory operands and flags across look-ups; bt_copy.c instructions that are copied with
 * other registers; bt_simd.c the same for FP and SIMD; bt_flow.c the stack and control flow;
 * bt_int.c and bt_string.c more of the integer ones; bt_sys.c and bt_sys.S system instructions.
 */
#ifndef POPF_BT_TR_H
#define POPF_BT_TR_H

#include "cpu/cpu_mem.h"
#include "engine/bt/bt_emit.h"

#define T0  14 /* address */
#define T1  13 /* what to add to it; free between accesses */
#define GSP 15 /* the guest's stack pointer */

#define JZ  4
#define JNZ 5

#define STUB(t, n) ((t)->bt->code + (n)*BT_STUB_SIZE)

#define REGION_BLOCKS 24
#define COLD_MAX      2048
#define FIXUPS_MAX    128
#define GUESTS_MAX    4

enum cold_kind {
    COLD_ACCESS, /* an access that the shadow table does not have, or that may leave its page */
    COLD_BODY,   /* the body instead */
    COLD_EXIT,   /* to another place of the page, not translated yet */
    COLD_POLL,   /* something has happened */
    COLD_FAR,    /* direct, to another page */
    COLD_RETURN, /* a return went elsewhere */
    COLD_FPU,    /* FP state is not loaded */
    COLD_SLOW,   /* a group's accesses are not in one page */
    COLD_REP,    /* the body, after a host fault in a repeated instruction */
};

/* Accesses that share a look-up (bt_group.c). */
#define GROUPS_MAX 8
struct group {
    u32 key;
    s32 lo, hi; /* bytes from the root */
    s32 plus;   /* of all of their base registers, from the root, if they are `based` */
    u16 n;
    bool write, used;
    bool based; /* without indexes, and their base registers are equal */
    bool ready; /* looked up by what has been emitted */
};

struct access {
    s8 group; /* -1: none */
    s32 off;  /* from the root */
};

/* Something out of line, emitted behind the region. */
struct cold {
    u8 kind, areg, size, level;
    bool write, fpu, saved, body_only, masked, shared, rcx_in_t1;
    bool leaves;          /* the block, behind the body: it would skip what others count on */
    bool changes, shadow; /* its site is to say so */
    u16 at, next;         /* offsets of the instruction and of the one behind */
    s32 offset;           /* of an exit's target */
    const struct op *op;
    u8 *miss, *cross, *body; /* rel32s that come here: entry is 0; not aligned; to the body */
    u8 *retry, *aligned;     /* where to go back to */
    u8 *access;              /* the instruction that may fault */
    u8 *resume;              /* NULL: the block ends here */
    s32 ahead;               /* areg is this many bytes before the access */
    u8 blk, insn;            /* COLD_SLOW: where in the region */
};

struct region {
    struct block *blk[REGION_BLOCKS];
    unsigned n;
    u32 in[REGION_BLOCKS], out[REGION_BLOCKS]; /* flags that live on entry, and at the end */
    bool loop[REGION_BLOCKS];                  /* something jumps back to it: it polls */
    bool grouped[REGION_BLOCKS];               /* has a slow version too */
    u8 *near[REGION_BLOCKS];
};

struct fixup {
    u8 *site;
    u8 to; /* block of the region */
};

struct tr {
    struct emit e;
    struct cpu *c;
    struct bt_cpu *bt;
    struct region r;
    unsigned bi; /* the current block's index */
    struct block *b;
    const struct op *op;
    struct x86_decoded d;
    u8 mode; /* enum tlb_mode */
    u8 view;
    u8 word;         /* bytes of a stack slot and of a branch target: 8, or 4 in 32-bit code */
    u16 at, next;    /* offsets in the page of the current instruction and behind it */
    bool flags_live; /* arithmetic flags as they are before the current instruction matter */
    /* They have been put into cpu.aflags and the host's are not they. Put back only where something
     * wants them: a row of pops needs no more than one save. */
    bool flags_saved;
    u32 live[BLOCK_OPS_MAX + 1]; /* flags live before each instruction, and after the last */
    bool live_after;             /* flags matter after the current instruction */
    u8 areg;                     /* T1 + this + adisp is the host address: bt_operand() */
    s32 adisp;
    bool sp_aligned; /* RSP is known to be a multiple of `word` */
    u8 fpu_level; /* enum cpu_fpu_level known to be ready here; 0 after a body, and at any label */
    bool x87_page_noted;
    bool ended;
    bool in_shadow;          /* emitting what follows STI: bt_shadow() */
    unsigned ncold, op_cold; /* the current instruction's begin at op_cold */
    struct cold cold[COLD_MAX];
    struct x86_decoded decoded[BLOCK_OPS_MAX];
    unsigned insn;                          /* index of the current instruction in its block */
    struct access access[BLOCK_OPS_MAX][2]; /* [0] the ModRM operand, [1] the stack */
    unsigned ngroups;
    struct group group[GROUPS_MAX];
    bool slow;        /* out of line: nothing follows */
    bool grouped;     /* this version of the block shares look-ups */
    u8 t_home[2];     /* guest register in memory whose value is in T0, in T1; 0: none */
    s8 t1_group;      /* whose addend is in T1 */
    unsigned t1_insn; /* after this instruction */
    struct block *guest[GUESTS_MAX]; /* blocks outside the region that the code depends on */
    unsigned nguests;                /* GUESTS_MAX + 1: more */
    struct {
        u32 op[REGION_BLOCKS][BLOCK_OPS_MAX]; /* offset of each one's code; 0: none */
        u32 slow, cold;                       /* where blocks without groups, cold parts begin */
    } dump;                                   /* for bt_dump() */
    unsigned nfixups;
    struct fixup fixup[FIXUPS_MAX];
};

/* Guest registers that are in memory, not in a host register. */
static inline bool is_homed(unsigned reg)
{
    return reg >= 13 && reg <= 15;
}

/* The host register of a guest register that is in one. */
static inline unsigned host_reg(unsigned reg)
{
    return reg == RSP ? GSP : reg;
}

/* bt_region.c */

void bt_find_region(struct tr *t, struct block *b);
/* It ends its block, but execution goes on with the next instruction unless something has happened.
 */
bool bt_goes_on(enum x86_op op);
/* Index in the region of the block at an offset in the page, or -1. */
int bt_region_at(const struct tr *t, s64 offset);
/* The block at an offset of this page, if there is one, in the region or not. */
struct block *bt_block_at(const struct tr *t, s64 offset);
/* Flags that the code at an offset of this page wants. */
u32 bt_live_at(struct tr *t, s64 offset);
/* Flags live before each instruction of a block, given those after it; returns those before it. */
u32 bt_block_live(const struct block *b, u32 out, u32 *live);

/* bt_group.c */

/* Finds the groups of t->decoded[]; true if there are any. */
bool bt_find_groups(struct tr *t, unsigned nops);

/* bt_mem.c */

/*
 * Before code that clobbers the host's flags: saves them if they matter and are not saved yet.
 * Before code that wants the guest's flags in the host's: puts them back if they are not there.
 * Both use T1.
 */
void bt_save_flags(struct tr *t);
void bt_want_flags(struct tr *t);
void bt_restore_flags(struct tr *t); /* from cpu.aflags, whatever is known */

/* The current instruction reads flags, or writes some of those that matter but not all. */
static inline bool bt_uses_flags(const struct tr *t)
{
    const struct x86_row *row = x86_row(&t->d.i);
    bool writes = row->flags_written | row->flags_undef;
    return row->flags_read & FLAGS_ARITH || (writes && t->flags_live);
}

struct cold *bt_cold(struct tr *t, enum cold_kind kind);
/* Jcc to the current instruction's body: nothing of the guest's may have changed yet. */
void bt_body_if(struct tr *t, unsigned cc);
/* The instruction is done: its out-of-line parts come back here. */
void bt_cold_resume(struct tr *t);

/*
 * The ModRM operand's linear address is in t->areg: a register of the guest's, or T0. Keeps the
 * flags if they matter. Uses T1.
 */
void bt_address(struct tr *t, unsigned size, bool write);
/* The same when T0 is the operand's effective address already. */
void bt_linear(struct tr *t, unsigned size, bool write);
/* The operand's segment has base 0 and no limit. */
bool bt_is_flat(const struct tr *t);
/*
 * T1 = what to add to t->areg, of which an access of `size` bytes follows, or off to the body.
 * Flags that matter are saved. ALIGNED: known to be in one page; MUST_ALIGN: an operand that is not
 * aligned to its size, a power of 2, is the body's.
 */
enum bt_align { ANY_ALIGN, ALIGNED, MUST_ALIGN };
void bt_lookup(struct tr *t, unsigned size, bool write, enum bt_align align);
/* The ModRM operand, address and look-up; shared with others where that pays. */
void bt_operand(struct tr *t, unsigned size, bool write, enum bt_align align);
/* The same for the word at RSP + disp. */
void bt_stack_operand(struct tr *t, s32 disp, bool write);
/* T1 is not what bt_operand() left in it. */
static inline void bt_t1_used(struct tr *t)
{
    t->t1_group = -1;
    t->t_home[1] = 0;
}
/* A label follows that may be reached with anything in T0 and T1. */
static inline void bt_forget_temps(struct tr *t)
{
    t->t_home[0] = 0;
    bt_t1_used(t);
}
/* The segment needs no base and no limit. */
bool bt_seg_is_flat(const struct tr *t, unsigned seg);
/* After that: T0 = the sum, T1 is free. */
void bt_combine(struct tr *t);
/* The next instruction emitted makes the access. */
void bt_access(struct tr *t);
/* The ModRM operand's effective address plus `more` in T0, without segment. Keeps the flags. Uses
 * T1. */
void bt_ea(struct tr *t, s32 more);

/* A guest register in a host register: its own, or `temp`, loaded. */
unsigned bt_reg(struct tr *t, unsigned reg, unsigned temp);
/* `temp`, which holds the new value of a guest register that is in memory, is stored there. */
void bt_store_home(struct tr *t, unsigned reg, unsigned temp);
/* dst = RIP of `offset` in this page. Keeps the flags. */
void bt_rip(struct tr *t, unsigned dst, s64 offset);

/* bt_copy.c: emits the instruction by copying it; false if it cannot be copied. */
bool bt_copy(struct tr *t);
bool bt_copyable(const struct x86_decoded *d);
bool bt_high_byte(const struct x86_decoded *d);
bool bt_operand_written(const struct x86_row *row, enum x86_operand kind);
bool bt_has_operand(const struct x86_row *row, enum x86_operand kind);

/* bt_simd.c: FP, SIMD and others; false: call the body. */
bool bt_simd(struct tr *t);

/* bt_int.c, bt_string.c: other integer instructions, string instructions; false: call the body. */
bool bt_int(struct tr *t);
bool bt_string(struct tr *t);
/* Guest RSI and RDI become addresses of the guest again; the host has faulted. COLD_REP */
void bt_rep_undo(struct tr *t);

/* bt_sys.c: system instructions; false: call the body. May end the block. */
bool bt_sys(struct tr *t);

/* bt_translate.c */

/* The current instruction's body, flags as they are. */
void bt_call_body(struct tr *t, enum bt_stub stub);
/*
 * Interrupts wait until the instruction behind the current one is done (STI): is that one known?
 * Then it is emitted with the current block, and so is what ends the block.
 */
bool bt_can_shadow(const struct tr *t);
void bt_shadow(struct tr *t);

/* bt_flow.c: stack, LEA and control flow; false: call the body. May end the block. */
bool bt_flow(struct tr *t);
/* On at an offset relative to this page, which may lie outside it. */
void bt_goto(struct tr *t, s64 offset);
void bt_far(struct tr *t, struct cold *k); /* out of line: COLD_FAR */
void bt_lookup_rip(struct tr *t,
                   u8 *miss); /* jumps to RIP = T0 by the jump table; flags are saved */
/* Pushes a word from gs:[off], which may be under GS_WORD(BT_TARGET). */
void bt_push_gs(struct tr *t, u32 off);
/* Pushes a selector from gs:[off] as PUSH of a segment register does. */
void bt_push_sel(struct tr *t, u32 off);
/* T0 = the word on top of the stack, which bt_adjust_sp() takes off it. */
void bt_top_t0(struct tr *t);
void bt_adjust_sp(struct tr *t, s32 by);
/* Jumps out of line to leave for the next instruction. */
void bt_leave_if(struct tr *t, unsigned cc);
void bt_poll(struct tr *t, u32 live, u16 at); /* leaves for `at` if cpu.poll is set */
/* After bt_lookup() and friends: did this instruction leave RSP a multiple of the word? */
void bt_track_sp(struct tr *t);

/* bt_dump.c: if the region just translated to what begins here is what --bt-dump wants. */
void bt_dump(struct tr *t, const u8 *start);

#endif
