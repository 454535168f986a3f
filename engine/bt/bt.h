/*
 * bt.h - the binary translator: guest code is rewritten, block by block, and run as it is.
 *
 * It stands on the interpreter: blocks are found and decoded by it (interp.h), run by it the first
 * few times, and translated when they come back. Every instruction that is not emitted calls the
 * interpreter's C body; so does every emitted memory access that misses the software TLB: the
 * out-of-line part of an instruction is always "call its body, go on after it". 16-bit code, and
 * 32-bit code whose segments are not flat, is interpreted.
 *
 * In emitted code
 *   RAX..R12, RSP and the arithmetic flags of the host are the guest's;
 *   R13, R14, R15 are the translator's, and the guest's are in cpu.reg[];
 *   GS points to struct cpu; there is no stack.
 * A block is translated for a physical page, so it knows only its offset: emitted[BT_VBASE] holds
 * what RIP is at the page's start.
 */
#ifndef POPF_BT_H
#define POPF_BT_H

#include "engine/interp/interp.h"

/* Indices into cpu.emitted[]. ORDER BT_WORD: bt_entry.S has them too. */
enum bt_word {
    BT_HOST_RSP, /* the monitor's stack while emitted code runs */
    BT_VBASE,    /* RIP at the start of the current block's page */
    BT_RESUME,   /* where to go on after a C body */
    BT_SCRATCH,
    BT_LINK,   /* struct bt_link of the exit taken, 0 if none */
    BT_JTAB,   /* table of jump targets for the current privilege */
    BT_SELF,   /* struct cpu * */
    BT_BRANCH, /* the indirect branch taken last: BT_BRANCH_WORD */
    BT_TARGET, /* of an indirect call, while its return address is pushed; value of a PUSH */
    BT_CODE,   /* the word of mem.code_map for the page being written */
};

/* A direct exit that can be joined to its target in the same page. */
struct bt_link {
    u8 *site;   /* the rel32 to patch; it goes to the next instruction while not joined */
    gpa_t page; /* of both ends */
};

/* RIP -> emitted code. `neg` is -RIP, so that a comparison needs no flags. */
struct bt_jump {
    u64 neg;
    u8 *code;
};
#define BT_JUMP_BITS 16
#define BT_JUMPS     (1u << BT_JUMP_BITS)

/*
 * An indirect branch has been committed by the time that its target turns out not to be canonical:
 * what it takes to undo it, in one word.
 */
#define BT_BRANCH_WORD(at, kind, imm) ((u32)(at) | (u32)(kind) << 12 | (u32)(imm) << 16)
enum bt_branch { BT_BRANCH_NONE, BT_BRANCH_JMP, BT_BRANCH_CALL, BT_BRANCH_RET };

/* Who looks up a RIP: CPL 0..2 or 3, in 64- or 32-bit code. */
#define BT_VIEWS 4

struct bt_cpu {
    struct interp_cpu interp; /* first: the interpreter finds itself in cpu.engine */
    u8 *code, *code_end;      /* emitted code, writable and executable */
    u8 *at;                   /* free from here */
    struct bt_link *link;
    unsigned nlinks, links_max;
    u8 **joined; /* sites that have been patched */
    unsigned njoined;
    struct bt_jump *jump[BT_VIEWS];
    u32 *filled[BT_VIEWS]; /* which entries are used */
    unsigned nfilled[BT_VIEWS];
    u8 hot;         /* runs before a block is translated */
    u32 epoch;      /* cpu.map_epoch that the jump tables are for */
    u32 code_epoch; /* mem.code_epoch that the links are for */
    u64 flushes_seen;
    u64 translated, bytes, entered; /* statistics */
};

#define BT_CODE_SIZE (16 * MiB)

/* 0 if this host can run translations; else -1 and in *e what is missing. */
int bt_usable(struct err *e);

/* bt_entry.S: enters emitted code; comes back when it leaves, with all state in struct cpu. */
void bt_enter(struct cpu *c, const u8 *code);
/* Targets of emitted jumps. Names of code, not functions to call. */
extern const u8 bt_leave[], bt_body[], bt_body_saved[], bt_body_end[], bt_body_end_saved[],
    bt_jump_to[], bt_body_fpu[], bt_body_fpu_saved[], bt_fpu[], bt_fpu_saved[], bt_wrote_code[],
    bt_wrote_code_saved[];

/* At the start of the code cache: jumps to those, within a rel32's reach. */
enum bt_stub {
    BT_STUB_JUMP_TO,
    BT_STUB_LEAVE,
    BT_STUB_BODY,
    BT_STUB_BODY_SAVED,
    BT_STUB_BODY_END,
    BT_STUB_BODY_END_SAVED,
    BT_STUB_WROTE,
    BT_STUB_WROTE_SAVED,
    BT_STUB_BODY_FPU,
    BT_STUB_BODY_FPU_SAVED,
    BT_STUB_FPU,
    BT_STUB_FPU_SAVED,
    BT_STUBS
};
#define BT_STUB_SIZE 16

/* A translation starts with this many bytes that set BT_VBASE from R14 = RIP; joined jumps skip
 * them. */
#define BT_PROLOGUE 16

/* bt_simd.c, called from bt_entry.S. */
bool bt_fpu_enter(struct cpu *c, const struct op *op);

/* Called by emitted code: a store through host address `host` went to a page with code (BT_CODE).
 */
void bt_wrote(struct cpu *c, u64 host);

/* Room that no translation of a block exceeds. */
#define BT_BLOCK_ROOM (64 * KiB)

/*
 * bt_translate.c: emits code for a block, for which there must be BT_BLOCK_ROOM. NULL if the
 * guest's code was changed meanwhile: the block is stale.
 */
u8 *bt_translate(struct cpu *c, struct bt_cpu *bt, struct block *b);

#endif
