/*
 * cpu_shadow.h - the shadow page table that translated code indexes: per guest page what to add to
 * a guest-linear address to get the host address of its RAM.
 *
 * One table of SHADOW_SLOTS entries of 8 bytes, reserved behind struct cpu (cpu_window()) and
 * filled on demand, serves reads and writes of every kind of access (enum tlb_mode but TLB_STRICT).
 * The entry of page number p for a kind is at p + kind * SHADOW_KIND_STEP, modulo SHADOW_SLOTS.
 * 0: not known. An access through the entry of another page that shares it hits nothing that is
 * mapped (mem/va.h). So emitted code tests for 0 and for an access that leaves its page, and leaves
 * the rest to SIGSEGV.
 *
 * A write entry is only there while no code has been decoded from the page, by any CPU.
 */
#ifndef POPF_CPU_SHADOW_H
#define POPF_CPU_SHADOW_H

#include "cpu/cpu.h"
#include "mem/va.h"

#define SHADOW_BITS      29
#define SHADOW_SLOTS     (1u << SHADOW_BITS)
#define SHADOW_SIZE      (8ull * SHADOW_SLOTS) /* bytes: what a 32-bit offset can reach */
#define SHADOW_KIND_STEP (VA_STRIDE >> PAGE_SHIFT)
static_assert(VA_PERIOD == 1ull << (SHADOW_BITS + PAGE_SHIFT), "addresses a period apart share");

/* ORDER TLB_MODE */
static inline unsigned shadow_kind(enum tlb_mode m, bool write)
{
    return (unsigned)m * 2 + write;
}

static inline u32 shadow_slot(u64 la, unsigned kind)
{
    return (u32)((la >> PAGE_SHIFT) + kind * SHADOW_KIND_STEP) & (SHADOW_SLOTS - 1);
}

#define SHADOW_MODES  3
#define SHADOW_FILLED 16384u /* pages known per mode; one more, and all are forgotten */

struct shadow_fill {
    u32 page; /* low SHADOW_BITS of the page number */
    u8 meta;  /* as in struct tlb_index */
};

struct shadow {
    _Atomic u64 *table;
    /* Those of global pages come first. Some may have been emptied since. */
    struct shadow_fill filled[SHADOW_MODES][SHADOW_FILLED];
    unsigned n[SHADOW_MODES], nglobal[SHADOW_MODES];
    /* By page of mem: SHADOW_BITS of the page number through which it can be written, plus 1;
     * SHADOW_SEVERAL. */
    _Atomic u32 *writer;
    u64 npages;
    _Atomic bool drop_writers; /* another CPU has asked for all write entries to go */
    u64 *touched;              /* a bit per host page of the table that has been written to */
    unsigned ntouched, touched_max;
    u64 fills, flushes; /* statistics */
};
#define SHADOW_SEVERAL UINT32_MAX

/* Gives the CPU a shadow table; its memory (c->mem) must be complete. */
int cpu_shadow_init(struct cpu *c, struct err *e);
void cpu_shadow_free(struct cpu *c);

/*
 * Makes the entry for an access of the current kind by the CPU's own thread. Throws #PF and the
 * like. False: it has to be made by C code (crosses a page, MMIO, ROM, watched, alignment checked,
 * a write to a page with code).
 */
bool cpu_shadow_fill(struct cpu *c, gva_t la, unsigned size, bool write, bool walk);

/*
 * `c` may not write to this page of mem by its entries any more: true if it could. From the CPU's
 * own thread, or another: then it is only so once emitted code has been left and
 * cpu_shadow_catch_up() called.
 */
bool cpu_shadow_drop_writer(struct cpu *c, u64 page, bool own);

/* By the CPU's own thread, before emitted code is entered after an event. */
void cpu_shadow_catch_up(struct cpu *c);

/* For cpu_tlb.c: drops what in_scope() says. */
enum shadow_scope { SHADOW_ALL, SHADOW_NONGLOBAL, SHADOW_PAGE };
void cpu_shadow_flush(struct cpu *c, enum shadow_scope scope, gva_t la);

#endif
