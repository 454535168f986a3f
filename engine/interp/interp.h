/*
 * interp.h - the reference engine: decodes once per physical page, runs a block at a time.
 *
 * A block is a run of decoded instructions that starts at a guest-physical address, lies in one
 * page and ends with the first instruction that may change where or how execution goes on. Each is
 * kept as the C body to call and its operands (struct op). Blocks are private to a vCPU, allocated
 * from one arena, and all dropped together when it is full.
 *
 * Finding the next block: a small table keyed by linear address and mode (jump), then by physical
 * address (block hash), then decoding. A block is good while its page's code generation stands.
 */
#ifndef POPF_INTERP_H
#define POPF_INTERP_H

#include "cpu/cpu.h"
#include "cpu/cpu_insn.h"
#include "engine/engine.h"

struct op {
    cpu_insn_fn *fn;
    struct x86_insn i;
};
static_assert(sizeof(struct op) == 32, "two decoded instructions to a cache line");

#define BLOCK_OPS_MAX 64

struct block {
    gpa_t gpa;
    u64 page; /* index for mem_code_gen() */
    u32 gen;  /* the page's code generation when decoded */
    u16 nops;
    u16 bytes;
    u8 mode;      /* enum x86_mode */
    bool ends;    /* the last instruction may change where or how execution goes on */
    u8 heat;      /* times run, for engines that translate what comes back */
    bool marked;  /* a debugger's breakpoint may be here (cpu_debug.h) */
    bool crosses; /* one instruction that goes on in another page: */
    u32 gen2;
    u64 page2;
    gpa_t gpa2;
    /* For the translator: its translations by enum tlb_mode, as offsets in its code. 0: none */
    u32 near[3], check[3], far[3];
    u16 live[3]; /* flags that its near entry wants in the host's */
    bool late;   /* its ops are not decoded but for their length: interp_bind() */
    struct op op[];
};

/* RIP -> block, for the linear address space and mode it was found in. */
struct jump_entry {
    gva_t la;
    u32 epoch;      /* cpu.map_epoch */
    u16 user_epoch; /* likewise, and 0 for CPL 0..2 */
    u8 mode;
    struct block *block;
};

#define JUMP_BITS 12

struct interp_cpu {
    struct jump_entry jump[1u << JUMP_BITS];
    u64 *hash; /* open addressing; bits of the hash above the block's address */
    unsigned hash_bits, hash_used;
    unsigned fills; /* how often the arena was full */
    u8 *arena;
    size_t arena_size, arena_used;
    size_t arena_limit; /* all is dropped when so much is used; grows to arena_size */
    u32 fpu_gen;        /* generation of FP stubs that the ops refer to */
    u32 marks;          /* cpu_debug_marks() when the blocks were decoded */

    /* Asked before a block is decoded, with where it begins: a block made otherwise, or NULL. */
    struct block *(*other)(struct cpu *c, struct interp_cpu *ic, gpa_t gpa, u64 page,
                           const u8 *host);

    const struct block *running; /* for counting after a fault */
    u64 budget;                  /* instructions left in this run(); 0 = no bound */

    u64 decoded, lookups, flushes, exceptions; /* statistics */
};

struct interp {
    struct engine engine;
    struct engine_config cfg;
    size_t arena_size; /* bytes per vCPU */
};

/*
 * interp_cache.c: decoded blocks get `first` bytes, and when those have been full some times, up to
 * `most`. What is not used takes no memory.
 */
int interp_cache_init(struct interp_cpu *ic, size_t first, size_t most, struct err *e);
void interp_cache_free(struct interp_cpu *ic);
void interp_cache_flush(struct interp_cpu *ic);

/* The block at CS:RIP, decoded if need be. Throws #PF, #GP. */
struct block *interp_find(struct cpu *c, struct interp_cpu *ic);

/* The block that begins at a physical address, if it is known and good, and does not cross a page.
 */
struct block *interp_peek(struct cpu *c, struct interp_cpu *ic, gpa_t gpa, enum x86_mode mode);

/*
 * Adds a block like this one, whose nops instructions are that long each (0: one that raises an
 * exception) and are decoded when they are executed. There must be room for it.
 */
bool interp_has_room(const struct interp_cpu *ic, unsigned nblocks, unsigned nops);
struct block *interp_add_late(struct cpu *c, struct interp_cpu *ic, const struct block *like,
                              const u8 *length);
/* Decodes its instructions now, for whoever looks at them. */
void interp_bind(struct cpu *c, struct block *b);
/* The same by one of them, which has this in `scale` while it is not decoded. */
#define INTERP_LATE 0xff
void interp_bind_insn(struct cpu *c, const struct x86_insn *i);
/* Handles of FP instructions may be dead: true if so, and all blocks are dropped. */
bool interp_drop_dead(struct cpu *c, struct interp_cpu *ic);

/* interp.c, for engines that build on this one: one round of the loop but for running blocks
 * (events, exceptions, single steps): true if blocks may be run now. May throw. */
bool interp_prepare(struct cpu *c, struct interp_cpu *ic);
void interp_run_block(struct cpu *c, struct interp_cpu *ic, struct block *b);
/* After an unwind: RIP back to the instruction that threw. */
void interp_settle(struct cpu *c, struct interp_cpu *ic);
/* True if run() is to return *res. */
bool interp_leave(struct cpu *c, struct engine_result *res);

#endif
