/*
 * bt.h - the binary translator: guest code is rewritten, a region at a time, and run as it is.
 *
 * It stands on the interpreter: blocks are found and decoded by it (interp.h), run by it the first
 * few times, and translated when they come back, with what they lead to in the same page. Every
 * instruction that is not emitted calls the interpreter's C body. 16-bit code, and 32-bit code
 * whose segments are not flat, is interpreted.
 *
 * In emitted code
 *   RAX..R12 but RSP, and the arithmetic flags of the host, are the guest's; guest RSP is in R15,
 *   guest R13..R15 are in cpu.reg[]; R13 and R14 are the translator's;
 *   GS points to cpu_window(), so that struct cpu is at negative offsets and the shadow table
 *   (cpu_shadow.h) at 0;
 *   RSP is a stack of return predictions of the current view: a guest CALL pushes the guest's
 * return address and is a host CALL; a guest RET is a host RET to behind that CALL, where the
 * address that the guest returns to is compared with the one pushed. When it runs over, its guard
 * page makes the SIGSEGV handler begin it anew; when it runs out, there is bt_cpu.sentinel. Code is
 * translated for a physical page, a mode and the kind of its accesses (the view), so it knows only
 * its offset: emitted[BT_VBASE] holds what RIP is at the page's start.
 *
 * Three ways into a block's code:
 *   near   within the page: the flags that are live are in the host's;
 *   check  near, with a look at cpu.poll first: every loop has one;
 *   far    from elsewhere, through the view's jump table: R14 = RIP (+ salt), all flags in
 * cpu.aflags.
 */
#ifndef POPF_BT_H
#define POPF_BT_H

#include "cpu/cpu_shadow.h"
#include "engine/interp/interp.h"

/* Indices into cpu.emitted[]. */
enum bt_word {
    BT_HOST_RSP, /* the monitor's stack while emitted code runs */
    BT_ESP,      /* the view's prediction stack while the monitor runs */
    BT_VBASE,    /* RIP at the start of the current block's page */
    BT_R14,      /* R14 on entry */
    BT_RESUME,   /* where to enter */
    BT_LINK,     /* struct bt_exit * that was taken, 0 if none */
    BT_SELF,     /* struct cpu * */
    BT_BRANCH,   /* the indirect branch taken last: BT_BRANCH_WORD */
    BT_TARGET,   /* of an indirect call, while its return address is pushed; value of a PUSH */
    BT_IN_CODE,  /* 1 while emitted code runs: other CPUs wait for it to be 0 */
    BT_SALT,     /* of the user views' jump table: the address space */
    BT_ARRIVE,   /* of bits BT_ARRIVE_x */
    BT_SCRATCH,
    BT_VIEW,                    /* the view that emitted code is in, or was last */
    BT_VIEW_ESP,                /* by view: its prediction stack while another view runs */
    BT_GROUP = BT_VIEW_ESP + 6, /* GROUPS_MAX words */
    BT_LEFT = BT_GROUP + 8,     /* times that a body did not come back to emitted code */
    BT_BLOCKS,                  /* blocks run, if they are counted */
    BT_LOOKUPS,                 /* look-ups in jump tables, likewise */
    BT_WORDS
};

/* User code that the kernel returns to is asked about (bt_direct.c); and is there. */
#define BT_ARRIVE_ASK  1
#define BT_ARRIVE_HERE 2

/*
 * An indirect branch has been committed by the time that its target turns out not to be canonical:
 * what it takes to undo it, in one word.
 */
#define BT_BRANCH_WORD(at, kind, imm) ((u32)(at) | (u32)(kind) << 12 | (u32)(imm) << 16)
enum bt_branch { BT_BRANCH_NONE, BT_BRANCH_JMP, BT_BRANCH_CALL, BT_BRANCH_RET };

/* Data behind the CALL of a stub. */

/* An instruction to be done by its body. */
struct bt_site {
    u32 op;     /* struct op, from the start of the interpreter's arena */
    s32 retry;  /* from here: where the access is tried again, once the shadow table knows the page
                 */
    u16 resume; /* from there: behind the instruction */
    u16 next;   /* offset in the page behind the instruction */
    u8 size;    /* of the access; level of FP state wanted */
    u8 flags;   /* SITE_x */
} __attribute__((packed));
enum {
    SITE_WRITE = 1,
    SITE_FPU = 2, /* the code behind counts on the FP state */
    SITE_LEAVE = 4,
    SITE_MASKED = 8,  /* the access need not take place */
    SITE_NEXT = 16,   /* its body may change more than registers and memory */
    SITE_SHADOW = 32, /* no interrupt may be taken right before it */
};

/* An exit to an offset of the same page. */
struct bt_exit {
    s32 patch;  /* the rel32 that can be pointed to its target, from here; 0: none */
    s32 offset; /* of the target from the page's start */
    u16 from;   /* offset of what leaves: an exit backwards is joined to a check */
} __attribute__((packed));

/* Modes of access (enum tlb_mode but TLB_STRICT), in 32- and 64-bit code. */
#define BT_VIEWS 6
static_assert(BT_WORDS <= ARRAY_SIZE(((struct cpu *)0)->emitted), "words enough");
static inline unsigned bt_view(unsigned tlb_mode, bool is64)
{
    return tlb_mode + (is64 ? 3 : 0);
}
#define BT_VIEW64(tlb_mode) ((tlb_mode) + 3)
/* Entry points are 16 bytes apart as a rule, and many functions' low bits are alike: folded. */
static inline unsigned bt_jump_slot(u64 tag)
{
    return (u16)(tag ^ tag >> 16);
}
#define BT_SECOND_SLOT(slot) ((slot) ^ 1) /* where bt_stub_goto looks, too */
#define BT_USER(view)        ((view) % 3 == TLB_USER)

/*
 * A view's jump table, in the room below struct cpu: by bt_jump_slot() of RIP (+ salt), that and
 * far entry, side by side. And its prediction stack, a guard page first.
 */
#define BT_JUMPS      65536u
#define BT_VIEW_SIZE  (2 * 8ull * BT_JUMPS)
#define BT_TAGS(v)    ((s64)(v) * (s64)BT_VIEW_SIZE - (s64)(CPU_SPAN + CPU_ROOM)) /* from GS */
#define BT_CODES(v)   (BT_TAGS(v) + 8)
#define BT_STACK_SIZE (16 * KiB)
#define BT_STACK(v)                                                                                \
    ((s64)(BT_VIEWS * BT_VIEW_SIZE + (v) * (BT_STACK_SIZE + PAGE_SIZE)) -                          \
     (s64)(CPU_SPAN + CPU_ROOM))
#define BT_STACK_BASE(v) (BT_STACK(v) + (s64)PAGE_SIZE + (s64)BT_STACK_SIZE - 64)
static_assert(BT_VIEWS * (BT_VIEW_SIZE + BT_STACK_SIZE + PAGE_SIZE) <= CPU_ROOM,
              "it is all there is");

/* Where a host SIGSEGV may come from: offsets in the code of an access and of what to do instead.
 */
struct bt_fault {
    u32 at, cold;
};

struct tr;

/* bt_settings.c: the configuration, and what the environment says for tests. */
struct bt_settings {
    u8 hot;           /* runs before a block is translated */
    bool one_block;   /* regions of one block */
    bool count;       /* emitted code counts blocks and look-ups */
    size_t code_size; /* bytes of emitted code per CPU */
    bool dump;        /* show the translation of ... */
    u64 dump_at;
    const char *kept_in;
    int perf_map; /* file descriptor; -1: none */
    bool gdb_jit;
    bool no_direct, always_direct, no_filter;
};

/* What stays that began at a place have gained. */
struct bt_guess {
    u32 place; /* physical, but for what the table's index says */
    s32 gain;  /* ns, a running mean */
};
#define BT_GUESSES 1024

/* bt_direct.c: user code that is executed directly. */
struct bt_direct {
    struct direct *_Atomic d; /* NULL: not yet */
    struct direct_hosts *hosts;
    bool off, always;  /* always: for tests */
    u16 user_epoch;    /* of the streak */
    unsigned streak;   /* samples */
    s64 account;       /* processor time gained, ns */
    unsigned losses;   /* stays in a row that gained nothing */
    unsigned pauses;   /* since the account was full */
    u8 *known;         /* two bits by page of mem: code that computes; NULL: none yet */
    unsigned pause;    /* samples until the next try */
    unsigned declined; /* arrivals in a row from which a stay would gain nothing */
    u64 declines;      /* in all */
    unsigned away;     /* blocks that may yet be interpreted, in a page that must not run there */
    struct bt_guess *away_from; /* before that */
    struct bt_guess *regret;    /* of where an arrival was declined, and no other has been since */
    struct bt_guess guess[BT_GUESSES];
};
#define BT_CODE_SIZE     (64 * MiB)
#define BT_CODE_SIZE_MIN (1 * MiB)
#define BT_CODE_SIZE_MAX (1024 * MiB) /* a rel32 reaches as far */
/* What a code cache fills with is decoded in half as much again (Debian's boot: 1.6). */
#define BT_ARENA(code_size) ((code_size) / 2 * 3)

void bt_settings_init(struct bt_settings *s, const struct engine_bt_config *cfg);

/* For bt_stats.c. */
struct bt_counts {
    u64 unjoined, unknown, events, bodies; /* why emitted code was left */
    u64 crossing, no_entry;                /* misses that filled nothing */
    u64 inside, running;                   /* TSC ticks: in emitted code, in run(); if `count` */
    u64 began;                             /* 0: not in emitted code */
};

/*
 * Blocks that were translated before all were dropped: they need not prove anew that they come
 * back. By physical address; a bit may stand for others, too.
 */
#define BT_KNOWN_BITS 16
struct bt_known {
    u8 now[1u << (BT_KNOWN_BITS - 3)], before[1u << (BT_KNOWN_BITS - 3)];
};
void bt_known_add(struct bt_known *k, gpa_t gpa);   /* has been translated */
bool bt_known(const struct bt_known *k, gpa_t gpa); /* had been when all was dropped last */
void bt_known_next(struct bt_known *k);             /* all is dropped */

/* bt_map.c: memory for code. The two addresses are one where the host allows that. */
struct bt_code {
    u8 *write, *run;
    size_t size;
};
int bt_code_map(struct bt_code *m, size_t size, struct err *e);
void bt_code_unmap(struct bt_code *m);

/* The block that bt_cross() found last behind an exit, and what that is good for. */
#define BT_CROSSINGS 64u
struct bt_crossing {
    const struct bt_exit *exit;
    u64 rip, epochs, flushes; /* map_epoch and code_epoch; interp_cpu.flushes and user_epoch */
    struct block *block;
};

struct bt_cpu {
    struct interp_cpu interp; /* first: the interpreter finds itself in cpu.engine */
    struct cpu *cpu;
    struct bt *engine;
    struct bt_code map;
    u8 *code, *code_end;    /* emitted code, where it is written */
    u8 *at;                 /* free from here */
    struct bt_fault *fault; /* sorted */
    unsigned nfaults;
    struct tr *tr;         /* the translation under way */
    struct keep_cpu *keep; /* bt_keep.h; NULL: nothing is kept */
    u16 *filled[BT_VIEWS]; /* entries of the jump tables that are used */
    unsigned nfilled[BT_VIEWS];
    const struct bt_settings *set;
    u32 epoch;      /* cpu.map_epoch that the jump tables are for */
    u32 code_epoch; /* mem.code_epoch likewise */
    u64 flushes_seen;
    struct bt_known known;
    struct bt_direct direct;
    struct gdbjit *gdbjit; /* NULL: gdb is told nothing */
    struct bt_crossing crossing[BT_CROSSINGS];
    void *sigstack;
    size_t sigstack_size;
    pthread_t thread; /* that has it as its alternate stack */
    bool has_thread;
    /* Statistics. */
    u64 regions, translated, bytes, entered, misses, bodies, faults, forgotten;
    struct bt_counts count;
    u32 *body_count; /* by row of the instruction table */
};

#define BT_FAULTS_MAX (1u << 19)

/* 0 if this host can run translations; else -1 and in *e what is missing. */
int bt_usable(struct err *e);

/* bt_entry.S: enters emitted code; comes back when it leaves, with all state in struct cpu. */
void bt_enter(void);
/* What emitted code calls, with data behind the call, or jumps to. Not functions. */
extern const u8 bt_stub_body[], bt_stub_body_saved[], bt_stub_next[], bt_stub_next_saved[],
    bt_stub_jump[], bt_stub_jump_saved[], bt_stub_miss[], bt_stub_fpu[], bt_stub_fpu_saved[],
    bt_stub_exit[], bt_stub_exit_saved[], bt_stub_goto[], bt_stub_cross[], bt_stub_cross_saved[];
/* bt_sys.S: likewise */
extern const u8 bt_sys_syscall[], bt_sys_sysret[], bt_sys_popf[], bt_sys_sysenter[],
    bt_sys_sysexit[], bt_sys_load_es[], bt_sys_load_ds[], bt_sys_load_fs[], bt_sys_load_gs[];

/*
 * At the start of the code cache: jumps to those, within a rel32's reach. Those that take a struct
 * bt_site are jumped to with R13 pointing to it, exits are called in front of their struct bt_exit.
 */
enum bt_stub {
    BT_STUB_BODY, /* the body, then on at `resume` */
    BT_STUB_BODY_SAVED,
    BT_STUB_NEXT, /* the same for what ends a block but goes on with the next instruction */
    BT_STUB_NEXT_SAVED,
    BT_STUB_JUMP, /* the body, then on where RIP says */
    BT_STUB_JUMP_SAVED,
    BT_STUB_MISS, /* R14 = linear address that the shadow table does not have */
    BT_STUB_FPU,
    BT_STUB_FPU_SAVED,
    BT_STUB_EXIT,
    BT_STUB_EXIT_SAVED,
    BT_STUB_GOTO,  /* jumped to: R14 = RIP, flags in cpu.aflags: not where the jump table has it */
    BT_STUB_CROSS, /* jumped to with R13 = an exit to an instruction that goes on in the next page
                    */
    BT_STUB_CROSS_SAVED,
    BT_STUB_SYSCALL,
    BT_STUB_SYSRET,
    BT_STUB_SYSENTER,
    BT_STUB_SYSEXIT,
    BT_STUB_POPF, /* called, as are the next */
    BT_STUB_LOAD_ES,
    BT_STUB_LOAD_DS,
    BT_STUB_LOAD_FS,
    BT_STUB_LOAD_GS,
    BT_STUB_SENTINEL, /* from here on one for each view, and a look-up of R14 = RIP */
    BT_STUB_LOOKUP = BT_STUB_SENTINEL + BT_VIEWS,
    BT_STUBS = BT_STUB_LOOKUP + BT_VIEWS
};
#define BT_STUB_SIZE 128

/* RIP behind the instruction. */
static inline u64 bt_site_rip(const struct cpu *c, const struct bt_site *s)
{
    return (c->emitted[BT_VBASE] + s->next) & (c->mode == X86_MODE64 ? ~0ull : 0xffffffffull);
}

/* --- bt_call.c: what emitted code counts on --- */

/* A slot of the view's jump table: tag and far entry; what no RIP of that slot looks like. */
u64 *bt_slot(const struct bt_cpu *bt, unsigned view, unsigned slot);
u64 bt_no_tag(unsigned slot);
/* RIP (+ salt) leads to this far entry. */
void bt_remember(struct bt_cpu *bt, unsigned view, u64 tag, const u8 *code);
/* No return is predicted any more. */
void bt_reset_stack(struct bt_cpu *bt, unsigned view);
/* Heeds what has changed since translations were last entered. */
void bt_catch_up(struct cpu *c, struct bt_cpu *bt);
/* The CPU is in a state that translations are made for. */
bool bt_translatable(const struct cpu *c);
/* Its view; -1: alignment is checked. */
int bt_view_of(const struct cpu *c);
/* Emitted code goes on in this view. */
void bt_enter_view(struct cpu *c, unsigned view);

/* Called by bt_entry.S: where to go on in emitted code, or NULL to leave. */
const u8 *bt_body(struct cpu *c, const struct bt_site *s);
const u8 *bt_next(struct cpu *c, const struct bt_site *s);
const u8 *bt_jump(struct cpu *c, const struct bt_site *s);
const u8 *bt_miss(struct cpu *c, const struct bt_site *s, u64 la);
const u8 *bt_cross(struct cpu *c, const struct bt_exit *x);
const u8 *bt_fpu(struct cpu *c, const struct bt_site *s); /* bt_simd.c */

void bt_stats(const struct bt_cpu *bt, void (*line)(void *arg, const char *text), void *arg);

/* bt_perfmap.c: a file descriptor; -1 and *e on failure. */
int bt_perfmap_open(struct err *e);
void bt_perfmap_add(int fd, const u8 *code, u64 size, u64 rip, unsigned view);

/* bt_gdbjit.c: the same for gdb. A CPU's names, NULL without memory; all of them go with its
 * translations. */
struct gdbjit *bt_gdbjit_new(void);
void bt_gdbjit_add(struct gdbjit *g, const u8 *code, u64 size, u64 rip, unsigned view);
void bt_gdbjit_drop(struct gdbjit *g);
void bt_gdbjit_free(struct gdbjit *g);
/* A translation has been made, from guest code at RIP, for whoever wants to know. */
void bt_tell_names(struct bt_cpu *bt, const u8 *code, u64 size, unsigned view);

/* An event is about to be taken: whose time was it? */
void bt_direct_sample(struct cpu *c, struct bt_cpu *bt);
/* CPL 3 code in this page of mem is known to stay long: BT_ARRIVE is set. */
bool bt_direct_knows(struct cpu *c, struct bt_cpu *bt, u64 page);
void bt_direct_free(struct bt_cpu *bt);
/* BT_ARRIVE is set. True: events are to be looked at, or *e is set; else the block at RIP is to be
 * run here. */
bool bt_direct_run(struct cpu *c, struct bt_cpu *bt, struct err *e);

/* Room that no translation of a region exceeds. */
#define BT_REGION_ROOM (256 * KiB)

/*
 * bt_translate.c: emits code for a block and its region, for which there must be BT_REGION_ROOM.
 * False if the guest's code was changed meanwhile: the block is stale.
 */
bool bt_translate(struct cpu *c, struct bt_cpu *bt, struct block *b);
/* Makes the other ways into a translated block. */
void bt_make_entries(struct cpu *c, struct bt_cpu *bt, struct block *b);
/* The view's stubs. */
void bt_make_stubs(struct bt_cpu *bt);
struct tr *bt_tr_new(void);
void bt_tr_free(struct tr *t);

#endif
