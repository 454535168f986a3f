/*
 * direct.h - user code as an operating system runs it, with interrupts on and in pages of its own:
 * what the guests direct_mem.c and direct_insn.c share. 64-bit.
 */
#ifndef POPF_TEST_DIRECT_H
#define POPF_TEST_DIRECT_H

#include "guest.h"

extern u64 boot_pml4[512], boot_pd[2048];

/* Bits of an entry. */
#define P  BIT(0)
#define W  BIT(1)
#define U  BIT(2)
#define A  BIT(5)
#define D  BIT(6)
#define PS BIT(7)
#define NX BIT(63)

#define CODE  0x380000400000ul
#define CODE2 (CODE + PAGE) /* the page behind it */
#define DATA  (CODE + 32 * PAGE)
#define STACK (CODE + 64 * PAGE)

static u8 code_frame[2][4096] __attribute__((aligned(4096)));
static u8 stack_frame[4096] __attribute__((aligned(4096)));
static u8 frame[24][4096] __attribute__((aligned(4096), unused));
static struct ctx c;

/* --- pages --- */

static u64 table[48][512] __attribute__((aligned(4096)));
static unsigned ntables;

static u64 *next_level(u64 *entry)
{
    if (!(*entry & P))
        *entry = (u64)table[ntables++] | P | W | U;
    return (u64 *)(*entry & 0xffffffffff000ull);
}

/* Of the table below `root` with the entry for va. */
static u64 *pde_in(u64 *root, u64 va)
{
    u64 *t = next_level(&root[va >> 39 & 511]);
    t = next_level(&t[va >> 30 & 511]);
    return &t[va >> 21 & 511];
}

static u64 *pte_in(u64 *root, u64 va)
{
    return &next_level(pde_in(root, va))[va >> 12 & 511];
}

static volatile u64 *pte(u64 va)
{
    return pte_in(boot_pml4, va);
}

static void map(u64 va, const void *to, u64 flags)
{
    *pte(va) = (u64)to | flags;
    invlpg((void *)va);
}

static inline void reload_cr3(void)
{
    write_cr3(read_cr3());
}

/* --- code --- */

/* A snippet's bytes, and INT VEC_DONE behind it. */
static size_t size_of(const struct snip *s)
{
    return s->end + 2 - s->start;
}

/* User code at `at`, as it was when nothing had been run there. */
static void aim(const struct snip *s, u64 at)
{
    ctx_init(&c, s, 3);
    c.ip = at;
    c.flags |= FL_IF;
    c.gpr[SP] = STACK + PAGE - 256;
}

/* The snippet alone in the page CODE. */
static void load_code(const struct snip *s)
{
    memset(code_frame[0], 0xf4, PAGE);
    memcpy(code_frame[0], (void *)s->start, size_of(s));
    aim(s, CODE);
}

/* Where the instruction of interest is, and what is behind it. */
static inline u64 insn_of(const struct snip *s)
{
    return CODE + (s->at - s->start);
}

static inline u64 behind(const struct snip *s)
{
    return CODE + (s->end - s->start);
}

static inline u64 go(const struct snip *s, u64 bx)
{
    load_code(s);
    c.gpr[BX] = bx;
    run(&c);
    return c.gpr[AX];
}

/* Again, as what is in the page has been left. */
static inline u64 again(const struct snip *s, u64 bx)
{
    aim(s, CODE);
    c.gpr[BX] = bx;
    run(&c);
    return c.gpr[AX];
}

static inline bool faulted(unsigned vec, u64 err, u64 cr2)
{
    return c.vec == vec && c.err == err && (vec != PF || c.cr2 == cr2);
}

static inline void expect_fault(const char *name, unsigned vec, u64 err, u64 cr2)
{
    ok(faulted(vec, err, cr2), "%s: vector %lu, error code %lx, CR2 %lx, RIP %lx", name, c.vec,
       c.err, c.cr2, c.ip);
}

static void start_user(void)
{
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    map(CODE, code_frame[0], P | U);
    map(CODE2, code_frame[1], P | U);
    map(STACK, stack_frame, P | U | W | NX);
    c = (struct ctx){0};
}

#endif
