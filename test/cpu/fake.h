/*
 * fake.h - one CPU with a little memory and no colleagues: for tests of single files of cpu/.
 *
 * RAM at [0, 16 MiB) and [4 GiB, 4 GiB + 8 MiB), ROM in the megabyte below 4 GiB. The CPU model,
 * the world and everything else that cpu/ calls are stubs that note what they were asked.
 */
#ifndef FAKE_H
#define FAKE_H

#include "cpu/cpu.h"
#include "cpu/cpu_mem.h"

#define FAKE_ROM  0xfff00000ull
#define FAKE_HIGH (4 * GiB)
#define FAKE_LOG  32

struct fake_access {
    char what; /* 'r' and 'w': MMIO; 'R' and 'W': MSR */
    u64 addr;
    unsigned size;
    u64 val;
};

struct fake {
    struct mem mem;
    struct cpu *c;
    struct fake_access log[FAKE_LOG];
    unsigned nlog;
    u64 mmio_value;
    u64 cr8;
    u64 apic_base; /* or'ed to what IA32_APIC_BASE reads as */

    /* the model */
    unsigned phys_bits;
    bool no_1g, amd;
    u64 cr4_valid, efer_valid, xcr0_valid;
    u32 leaf7_edx, leaf80000008_ebx;

    /* a watched page, and the last hit noted */
    gva_t watched;
    gva_t hit_la;
    unsigned hit_size, hits;
    bool hit_write;
    unsigned leaves; /* calls of cpu_leave() */
};

void fake_init(struct fake *f);
void fake_free(struct fake *f);

/* Flat segments, CS as the mode wants it; CR0.PE set. Call fake_mode() after changing CRs. */
void fake_segments(struct fake *f, enum x86_mode mode);
void fake_mode(struct fake *f, enum x86_mode mode, unsigned cpl);

static inline void poke64(struct fake *f, gpa_t gpa, u64 v)
{
    *(u64 *)mem_ptr(&f->mem, gpa) = v;
}

static inline u64 look64(struct fake *f, gpa_t gpa)
{
    return *(u64 *)mem_ptr(&f->mem, gpa);
}

static inline void poke32(struct fake *f, gpa_t gpa, u32 v)
{
    *(u32 *)mem_ptr(&f->mem, gpa) = v;
}

static inline u32 look32(struct fake *f, gpa_t gpa)
{
    return *(u32 *)mem_ptr(&f->mem, gpa);
}

/* Executes the statement; the vector that it threw, or -1. */
#define TRY(c, stmt)                                                                               \
    ({                                                                                             \
        volatile int vec_ = -1;                                                                    \
        (c)->exc.pending = false;                                                                  \
        if (__builtin_setjmp((c)->unwind) == 0) {                                                  \
            stmt;                                                                                  \
        } else {                                                                                   \
            vec_ = (c)->exc.vec;                                                                   \
        }                                                                                          \
        vec_;                                                                                      \
    })

#endif
