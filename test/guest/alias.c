/*
 * alias.c - addresses that a translator may mistake for each other: pages at the distances at which
 * entries of its tables are shared, and accesses off one register on both sides of a page's end.
 * Everything is done often enough to be translated.
 */
#include "guest.h"

extern u64 boot_pml4[512];

#define ROUNDS 300u

/* --- pages anywhere --- */

static u64 table[40][512] __attribute__((aligned(4096)));
static unsigned ntables;

static u64 *next_level(u64 *entry)
{
    if (!(*entry & 1))
        *entry = (u64)table[ntables++] | 7;
    return (u64 *)(*entry & 0xffffffffff000ull);
}

static void map(u64 va, void *frame)
{
    u64 *t = next_level(&boot_pml4[va >> 39 & 511]);
    t = next_level(&t[va >> 30 & 511]);
    t = next_level(&t[va >> 21 & 511]);
    t[va >> 12 & 511] = (u64)frame | 7;
    __asm__ volatile("invlpg (%0)" : : "r"(va) : "memory");
}

/* --- far apart --- */

#define PERIOD BIT(41)
#define STRIDE 0x4612345000ull   /* mem/va.h */
#define BASE   0x380000400000ull /* nothing else is in this 512 GiB, nor in the others */

static u8 frame[16][4096] __attribute__((aligned(4096)));

static const u64 far_page[] = {
    BASE,
    BASE + PERIOD,
    BASE + 2 * PERIOD,
    BASE - PERIOD,
    BASE + STRIDE,
    BASE + 2 * STRIDE,
    BASE + 3 * STRIDE,
    BASE - STRIDE,
    BASE - 2 * STRIDE,
    BASE + PERIOD - STRIDE,
    BASE + PERIOD + STRIDE,
    BASE + 0xffff800000000000ull,
    BASE + 0xffff800000000000ull - STRIDE,
    BASE + 0xffff800000000000ull + PERIOD + STRIDE,
};
#define NFAR ARRAY_SIZE(far_page)

static volatile u64 *word_of(unsigned n)
{
    return (volatile u64 *)(far_page[n] + 8 * (n + 1));
}

static void test_far(void)
{
    unsigned wrong = 0;
    for (unsigned n = 0; n < NFAR; n++)
        map(far_page[n], frame[n]);
    for (unsigned n = 0; n < NFAR; n++)
        *word_of(n) = 1000 * n;
    for (unsigned r = 0; r < ROUNDS; r++)
        for (unsigned n = 0; n < NFAR; n++) {
            /* Read one, write another: both kinds of entry, in turn. */
            unsigned other = (n + r) % NFAR;
            wrong += *word_of(n) != 1000 * n + r;
            wrong += *word_of(other) - 1000 * other > r + 1;
            *word_of(n) = 1000 * n + r + 1;
        }
    ok(!wrong, "pages that may share entries, %u rounds, %u wrong", ROUNDS, wrong);
    wrong = 0;
    for (unsigned n = 0; n < NFAR; n++)
        wrong += *(u64 *)&frame[n][8 * (n + 1)] != 1000 * n + ROUNDS;
    ok(!wrong, "all that was written is where it belongs");
}

SNIP(do_load, "", "mov 8(%rbx), %rax");
SNIP(do_load_bp, "", "mov 8(%rbp), %rax");

static unsigned vector_of(const struct snip *load, u64 at)
{
    struct ctx c = {0};
    ctx_init(&c, load, 0);
    c.gpr[BX] = c.gpr[BP] = at;
    run(&c);
    return (unsigned)c.vec;
}

/* Not canonical, though the page number's low bits are those of a page that is there. */
static void test_noncanonical(void)
{
    static const u64 off[] = {BIT(47), BIT(60), BIT(63), 0xffffull << 48};
    unsigned wrong = 0;
    for (unsigned r = 0; r < ROUNDS; r++) {
        wrong += vector_of(&do_load, BASE) != VEC_DONE;
        wrong += vector_of(&do_load_bp, BASE) != VEC_DONE;
        for (unsigned n = 0; n < ARRAY_SIZE(off); n++) {
            wrong += vector_of(&do_load, BASE + off[n]) != GP;
            wrong += vector_of(&do_load_bp, BASE + off[n]) != SS_;
        }
    }
    ok(!wrong, "addresses that are not canonical fault, %u did not", wrong);
}

/* --- near together --- */

/* Eight words off one register are added to, and their sum returned. */
static __attribute__((noinline)) u64 bump(u8 *p)
{
    u64 sum = 0;
    __asm__ volatile("addq $1, (%1)\n\t"
                     "addq $1, 8(%1)\n\t"
                     "addq $1, 16(%1)\n\t"
                     "addq $1, 24(%1)\n\t"
                     "movq 32(%1), %0\n\t"
                     "addq 40(%1), %0\n\t"
                     "addq 48(%1), %0\n\t"
                     "addq 56(%1), %0\n\t"
                     "addq (%1), %0\n\t"
                     "addq 24(%1), %0\n\t"
                     "movq %0, 56(%1)\n\t"
                     : "=&r"(sum)
                     : "r"(p)
                     : "memory", "cc");
    return sum;
}

/* The same by single bytes, of which none can cross a page. */
static u64 slow_word(const u8 *p)
{
    u64 v = 0;
    for (unsigned n = 8; n-- > 0;)
        v = v << 8 | *(const volatile u8 *)(p + n);
    return v;
}

static void slow_put(u8 *p, u64 v)
{
    for (unsigned n = 0; n < 8; n++, v >>= 8)
        *(volatile u8 *)(p + n) = (u8)v;
}

static u64 slow_bump(u8 *p)
{
    u64 sum = 0;
    for (unsigned n = 0; n < 4; n++)
        slow_put(p + 8 * n, slow_word(p + 8 * n) + 1);
    for (unsigned n = 4; n < 8; n++)
        sum += slow_word(p + 8 * n);
    sum += slow_word(p) + slow_word(p + 24);
    slow_put(p + 56, sum);
    return sum;
}

#define NEAR (BASE + 0x40000000ull)

static void test_near(void)
{
    unsigned wrong = 0;
    map(NEAR, frame[14]); /* not in the order of their frames */
    map(NEAR + PAGE, frame[3]);
    map(NEAR + 2 * PAGE, frame[9]);
    u8 *twin = (u8 *)NEAR + 2 * PAGE;
    for (unsigned at = PAGE - 80; at < PAGE + 16; at++) {
        u8 *p = (u8 *)NEAR + at;
        for (unsigned n = 0; n < 8; n++) {
            slow_put(p + 8 * n, 77 * n + at);
            slow_put(twin + 8 * n, 77 * n + at);
        }
        for (unsigned r = 0; r < 40; r++)
            wrong += bump(p) != slow_bump(twin);
        for (unsigned n = 0; n < 8; n++)
            wrong += slow_word(p + 8 * n) != slow_word(twin + 8 * n);
    }
    ok(!wrong, "words off one register across a page's end, %u wrong", wrong);
}

/* --- a stack across a page's end --- */

__attribute__((noinline)) u64 sum_to(u64 n)
{
    volatile u64 a = n, b = 2 * n, c = 3 * n;
    return n ? sum_to(n - 1) + a + b - c + n : 0;
}

static u64 on_stack(u64 sp, u64 n)
{
    u64 sum, kept;
    __asm__ volatile("mov %%rsp, %1\n\t"
                     "mov %2, %%rsp\n\t"
                     "push %1\n\t"
                     "push %1\n\t"
                     "mov %3, %%rdi\n\t"
                     "call sum_to\n\t"
                     "pop %1\n\t"
                     "pop %%rsp\n\t"
                     : "=&a"(sum), "=&b"(kept)
                     : "r"(sp), "r"(n)
                     : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
    return sum;
}

static void test_stack(void)
{
    unsigned wrong = 0;
    for (unsigned at = 0; at < 256; at += 8)
        for (unsigned r = 0; r < 20; r++)
            wrong += on_stack(NEAR + 2 * PAGE + at, 30) != 465;
    ok(!wrong, "a stack across a page's end, %u wrong", wrong);
}

int main(void)
{
    test_far();
    test_noncanonical();
    test_near();
    test_stack();
    return 0;
}
