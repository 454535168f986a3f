/*
 * direct_mem.c - memory as user code sees it when it runs for long: translations that change, A and
 * D bits, code that changes, the ends of the address space. bt may execute such code directly, with
 * the host's MMU in the TLB's place (engine/direct/direct.h), and must not show it.
 */
#include "direct.h"

SNIP(nothing, "", "nop");
SNIP(load, "", "mov (%rbx), %rax");
SNIP(load4, "", "mov (%rbx), %eax");
SNIP(store, "mov $0x5a, %eax", "mov %rax, (%rbx)");
SNIP(call, "", "call *%rbx");
SNIP(add_to, "", "addl $1, (%rbx)");
SNIP(cmpxchg, "xor %eax, %eax; mov $7, %ecx", "lock cmpxchg %ecx, (%rbx)");
SNIP(load_bp, "mov %rbx, %rbp", "mov (%rbp), %rax");
SNIP(pop_far, "mov %rbx, %rsp", "pop %rax");
SNIP(jump, "", "jmp *%rbx");
SNIP(selectors, "", "mov %cs, %eax; mov %ss, %ecx; mov %ds, %edx");

#define ROUNDS 20u

static void fill(void *p, u32 v)
{
    for (unsigned n = 0; n < PAGE / 4; n++)
        ((volatile u32 *)p)[n] = v;
}

static void number_frames(void)
{
    for (unsigned n = 0; n < ARRAY_SIZE(frame); n++)
        fill(frame[n], n);
}

/* --- translations that change --- */

static void test_changes(void)
{
    unsigned bad = 0;
    map(DATA, frame[1], P | W | U | NX);
    go(&load4, DATA);
    for (unsigned n = 0; n < ROUNDS; n++) {
        map(DATA, frame[1 + n % 7], P | W | U | NX);
        bad += again(&load4, DATA) != 1 + n % 7;
    }
    ok(!bad, "a page changed and INVLPG, %u wrong", bad);
    for (unsigned n = 0; n < ROUNDS; n++) {
        *pte(DATA) = (u64)frame[1 + n % 7] | P | W | U | NX;
        reload_cr3();
        bad += again(&load4, DATA) != 1 + n % 7;
    }
    ok(!bad, "a page changed and CR3 loaded, %u wrong", bad);
    for (unsigned n = 0; n < ROUNDS; n++) { /* more than are remembered one by one */
        for (unsigned k = 0; k < 300; k++)
            map(DATA + k % 24 * PAGE, frame[(k + n) % 24], P | W | U | NX);
        for (unsigned k = 0; k < 24; k++)
            bad += again(&load4, DATA + k * PAGE) != (k + n) % 24;
    }
    ok(!bad, "many pages changed at once, %u wrong", bad);
}

/* As many loads of CR3 as a translator might count in 16 bits. */
static void test_many_loads(void)
{
    unsigned bad = 0;
    for (unsigned k = 0; k < 4; k++) {
        map(DATA, frame[1], P | W | U | NX);
        bad += go(&load4, DATA) != 1;
        *pte(DATA) = (u64)frame[2] | P | W | U | NX;
        for (unsigned n = 0; n < 65534 + k; n++)
            reload_cr3();
        bad += again(&load4, DATA) != 2;
    }
    ok(!bad, "a page changed and CR3 loaded 65,536 times, %u wrong", bad);
}

static u64 other_root[8][512] __attribute__((aligned(4096)));

static void test_pcid(void)
{
    unsigned bad = 0;
    u64 *entry[8];
    if (!cpu_has(1, 2, 17)) {
        skip("PCID", "not offered");
        return;
    }
    load_code(&load4);
    for (unsigned n = 0; n < 8; n++) {
        memcpy(other_root[n], boot_pml4, PAGE);
        other_root[n][0x60] = 0;
        entry[n] = pte_in(other_root[n], 0x300000000000);
        *entry[n] = (u64)frame[n] | P | W | U | NX;
    }
    write_cr4(read_cr4() | CR4_PCIDE);
    for (unsigned n = 0; n < 200; n++) {
        unsigned k = (n * 5 + n / 8) % (n < 100 ? 3 : 8), now = (k + n / 40) % 24;
        bool noflush = (*entry[k] & 0xffffffffff000) == (u64)frame[now];
        *entry[k] = (*entry[k] & 0xfff) | (u64)frame[now] | NX;
        write_cr3((u64)other_root[k] | (k + 1) | (noflush ? BIT(63) : 0));
        bad += again(&load4, 0x300000000000) != now;
    }
    ok(!bad, "address spaces with PCIDs, NOFLUSH where nothing has changed, %u wrong", bad);
    write_cr3((u64)boot_pml4);
    write_cr4(read_cr4() & ~(word)CR4_PCIDE);
}

/* --- large pages --- */

#define LARGE (CODE + (1ul << 30))
#define BIG   0x1000000ul /* 16 MiB, and the 2 MiB behind */

static void test_large(void)
{
    u64 *pde = pde_in(boot_pml4, LARGE);
    unsigned bad = 0;
    fill((void *)(BIG + 0x5000), 15);
    fill((void *)(BIG + 0x100000), 16);
    fill((void *)(BIG + 0x205000), 25);
    fill((void *)(BIG + 0x300000), 26);
    *pde = BIG | P | W | U | PS;
    bad += go(&load4, LARGE + 0x5000) != 15 || again(&load4, LARGE + 0x100000) != 16;
    *pde = (BIG + 0x200000) | P | W | U | PS;
    invlpg((void *)(LARGE + 0x1ff000)); /* any address of the page */
    bad += again(&load4, LARGE + 0x5000) != 25 || again(&load4, LARGE + 0x100000) != 26;
    ok(!bad, "a large page moved, %u wrong", bad);
    u64 *t = table[ntables++];
    for (unsigned n = 0; n < 512; n++)
        t[n] = (BIG + n * PAGE) | P | W | U;
    t[5] = (u64)frame[9] | P | W | U;
    *pde = (u64)t | P | W | U;
    invlpg((void *)(LARGE + 0x5000));
    bad += again(&load4, LARGE + 0x5000) != 9 || again(&load4, LARGE + 0x100000) != 16;
    ok(!bad, "a large page split, %u wrong", bad);
    *pde = BIG | P | W | U | PS;
    reload_cr3();
    again(&load4, LARGE + 0x5000);
    ok((*pde & (A | D)) == A, "a large page read: A, not D");
    go(&store, LARGE + 0x5000);
    ok((*pde & (A | D)) == (A | D) && *(volatile u64 *)(BIG + 0x5000) == 0x5a, "and written: D");
    *pde = 0;
    invlpg((void *)LARGE);
    again(&store, LARGE + 0x100000);
    expect_fault("and gone", PF, 6, LARGE + 0x100000);
}

/* --- rights --- */

static void one_right(const char *name, const struct snip *s, u64 flags, u64 err)
{
    fill(frame[3], 0x81cd81cd);
    map(DATA, frame[3], P | W | U); /* used with all rights, then with fewer */
    go(&add_to, DATA);
    fill(frame[3], 0x81cd81cd);
    go(&call, DATA);
    map(DATA, frame[3], flags);
    go(s, DATA);
    ok(faulted(PF, err, DATA) && c.ip == (s == &call ? DATA : insn_of(s)),
       "%s: vector %lu, error code %lx, CR2 %lx", name, c.vec, c.err, c.cr2);
}

static void test_rights(void)
{
    one_right("write to a page made read-only", &store, P | U, 7);
    one_right("read and write to it", &add_to, P | U, 7);
    one_right("LOCK CMPXCHG that fails, to it", &cmpxchg, P | U, 7);
    one_right("run what was made NX", &call, P | W | U | NX, 0x15);
    one_right("read the supervisor's", &load, P | W, 5);
    one_right("write the supervisor's", &store, P | W, 7);
    one_right("run the supervisor's", &call, P | W, 0x15);
    one_right("read what is absent", &load, 0, 4);
    one_right("write what is absent", &store, 0, 6);
    one_right("run what is absent", &call, 0, 0x14);
    map(DATA, frame[3], P | U | A);
    ok(go(&load4, DATA) == 0x81cd81cd && c.vec == VEC_DONE, "read a page made read-only");
    map(DATA, frame[3], P | W | U | NX | A);
    go(&add_to, DATA);
    ok(c.vec == VEC_DONE && *(volatile u32 *)frame[3] == 0x81cd81ce, "write a page made NX");
}

/* --- A and D --- */

static bool has_ad(unsigned n, u64 want)
{
    return (*pte(DATA + n * PAGE) & (A | D)) == want;
}

/* Sixteen pages whose A and D are the bits of their numbers. */
static void pages_with_ad(void)
{
    for (unsigned n = 0; n < 16; n++)
        map(DATA + n * PAGE, frame[n], P | W | U | NX | (n & 1 ? A : 0) | (n & 2 ? D : 0));
}

static void one_ad(const char *name, const struct snip *s, unsigned page, u64 set)
{
    unsigned bad = 0;
    pages_with_ad();
    go(s, DATA + page * PAGE);
    for (unsigned n = 0; n < 16; n++)
        bad += !has_ad(n, (n & 1 ? A : 0) | (n & 2 ? D : 0) | (n == page ? set : 0));
    ok(!bad && c.vec == VEC_DONE, "A and D, %s: %u pages wrong", name, bad);
}

SNIP(move_page, "mov $4096, %ecx; mov %rbx, %rsi; lea 0x2000(%rbx), %rdi", "rep movsb");

static void test_ad(void)
{
    for (unsigned page = 0; page < 4; page++) {
        one_ad("nothing is done", &nothing, page, 0);
        one_ad("read", &load, page, A);
        one_ad("written", &store, page, A | D);
        one_ad("read and written", &add_to, page, A | D);
        one_ad("LOCK CMPXCHG that fails", &cmpxchg, page, A | D);
    }
    unsigned bad = 0;
    pages_with_ad();
    go(&move_page, DATA + 4 * PAGE);
    ok(has_ad(4, A) && has_ad(5, A) && has_ad(6, A | D) && has_ad(8, 0), "A and D, REP MOVSB");
    pages_with_ad();
    for (unsigned n = 0; n < 16; n++)
        go(&load, DATA + n * PAGE);
    for (unsigned n = 0; n < 16; n++)
        bad += !has_ad(n, A | (n & 2 ? D : 0));
    for (unsigned n = 0; n < 16; n += 3)
        go(&store, DATA + n * PAGE);
    for (unsigned n = 0; n < 16; n++)
        bad += !has_ad(n, A | (n & 2 || n % 3 == 0 ? D : 0));
    ok(!bad, "A and D, all read, some written: %u wrong", bad);
    *pte(CODE) &= ~(A | D);
    pde_in(boot_pml4, DATA)[0] &= ~A;
    reload_cr3();
    again(&store, DATA + 5 * PAGE);
    ok((*pte(CODE) & (A | D)) == A, "A, and no D, of a page of code");
    ok(*pde_in(boot_pml4, DATA) & A, "A of the table that leads there");
    u64 *pde = pde_in(boot_pml4, LARGE + (1ul << 29)); /* its pages have A set already */
    u64 *t = next_level(pde);
    t[0] = (u64)frame[20] | P | U | A | NX;
    *pde &= ~A;
    reload_cr3();
    ok(go(&load4, LARGE + (1ul << 29)) == 20 && *pde & A, "A of a table whose pages have theirs");
}

/* Data just behind the page of the code: it looks like an instruction that goes on there. */
static void test_data_behind(void)
{
    unsigned size = (unsigned)size_of(&load), at = PAGE - size;
    map(CODE2, frame[4], P | W | U);
    fill(frame[4], 4);
    memset(code_frame[0], 0xf4, PAGE);
    memcpy(code_frame[0] + at, (void *)load.start, size);
    aim(&load, CODE + at);
    c.gpr[BX] = CODE2;
    run(&c);
    ok(c.vec == VEC_DONE && (u32)c.gpr[AX] == 4 && (*pte(CODE2) & (A | D)) == A,
       "a word read just behind the code's page");
    size = (unsigned)size_of(&add_to);
    at = PAGE - size;
    memcpy(code_frame[0] + at, (void *)add_to.start, size);
    for (unsigned n = 0; n < 5; n++) {
        aim(&add_to, CODE + at);
        c.gpr[BX] = CODE2;
        run(&c);
    }
    ok(c.vec == VEC_DONE && *(volatile u32 *)frame[4] == 9 && (*pte(CODE2) & (A | D)) == (A | D),
       "and written");
    map(CODE2, code_frame[1], P | U);
}

/* --- code that changes --- */

/* RSI: the 32 bits to change; RDI: the code. */
SNIP(rewrite, "mov $100, %ecx; xor %edx, %edx",
     "1: mov %ecx, (%rsi); call *%rdi; add %eax, %edx; dec %ecx; jnz 1b");
SNIP(rewrite_self, "mov $100, %ecx; xor %edx, %edx",
     "1: mov %ecx, 2f+1(%rip); jmp 2f; 2: mov $0, %eax; add %eax, %edx; dec %ecx; jnz 1b");

static void test_code(void)
{
    static const u8 code[] = {0xb8, 0, 0, 0, 0, 0xc3}; /* mov $n, %eax; ret */
    unsigned bad = 0;
    memset(frame[5], 0xcc, PAGE);
    memcpy(frame[5] + 0x100, code, sizeof(code));
    map(DATA, frame[5], P | U);
    map(DATA + PAGE, frame[5], P | W | U | NX);
    for (unsigned n = 0; n < 3; n++) {
        load_code(&rewrite);
        c.gpr[SI] = DATA + PAGE + 0x101;
        c.gpr[DI] = DATA + 0x100;
        run(&c);
        bad += c.vec != VEC_DONE || c.gpr[DX] != 5050;
    }
    ok(!bad, "code rewritten through another mapping, %u wrong", bad);
    map(DATA, frame[5], P | W | U);
    load_code(&rewrite);
    c.gpr[SI] = DATA + 0x101;
    c.gpr[DI] = DATA + 0x100;
    run(&c);
    ok(c.vec == VEC_DONE && c.gpr[DX] == 5050, "code rewritten in place: %lu", c.gpr[DX]);
    map(CODE, code_frame[0], P | W | U);
    go(&rewrite_self, 0);
    ok(c.vec == VEC_DONE && c.gpr[DX] == 5050, "code that rewrites itself: %lu", c.gpr[DX]);
    map(CODE, code_frame[0], P | U);
    for (unsigned n = 0; n < ROUNDS; n++) {
        *(volatile u32 *)(frame[5] + 0x101) = n;
        bad += go(&call, DATA + 0x100) != n;
    }
    ok(!bad, "code rewritten by the kernel, %u wrong", bad);
    static const u8 other[] = {0x31, 0xc0, 0xc3}; /* xor %eax, %eax; ret */
    memcpy(frame[6] + 0x100, other, sizeof(other));
    map(DATA, frame[6], P | U);
    bad += again(&call, DATA + 0x100) != 0;
    map(DATA, frame[5], P | U);
    bad += again(&call, DATA + 0x100) != ROUNDS - 1;
    ok(!bad, "pages of code exchanged, %u wrong", bad);
}

/* --- accesses across pages --- */

static void test_across(void)
{
    fill(frame[7], 0x77777777);
    fill(frame[8], 0x88888888);
    map(DATA, frame[8], P | W | U | NX);
    map(DATA + PAGE, frame[7], P | W | U | NX);
    ok(go(&load, DATA + PAGE - 4) == 0x7777777788888888, "a word across pages: %lx", c.gpr[AX]);
    ok(has_ad(0, A) && has_ad(1, A), "sets their A");
    go(&store, DATA + PAGE - 1);
    ok(frame[8][PAGE - 1] == 0x5a && !frame[7][0] && !frame[7][6] && frame[7][7] == 0x77 &&
           has_ad(0, A | D) && has_ad(1, A | D),
       "written: D");
    map(DATA + PAGE, frame[7], P | U | NX);
    go(&store, DATA + PAGE - 2);
    expect_fault("written, the second read-only", PF, 7, DATA + PAGE);
    ok(frame[8][PAGE - 2] == 0x88 && frame[8][PAGE - 1] == 0x5a, "nothing has been written");
    map(DATA + PAGE, frame[7], 0);
    go(&load, DATA + PAGE - 7);
    expect_fault("read, the second absent", PF, 4, DATA + PAGE);
    map(DATA, frame[7], 0);
    go(&load, DATA + PAGE - 7);
    expect_fault("read, both absent", PF, 4, DATA + PAGE - 7);
}

/* --- the ends of the address space --- */

static void at_address(u64 va, void *to)
{
    fill(to, 0xabcd);
    ((volatile u16 *)to)[8] = 0x81cd;
    map(va, to, P | W | U);
    go(&load4, va);
    bool good = c.vec == VEC_DONE && c.gpr[AX] == 0xabcd && (*pte(va) & (A | D)) == A;
    go(&store, va + 8);
    good &= c.vec == VEC_DONE && ((volatile u32 *)to)[2] == 0x5a && *pte(va) & D;
    go(&call, va + 16);
    good &= c.vec == VEC_DONE && c.ip == va + 18;
    ok(good, "read, written and run at %lx: vector %lu, error code %lx, CR2 %lx", va, c.vec, c.err,
       c.cr2);
    map(va, to, 0);
    go(&load4, va);
    expect_fault("and absent", PF, 4, va);
}

/* One page that is run at two addresses, and wants more breakpoints for them than there are. */
static void test_contention(void)
{
    u64 at[] = {CODE, CODE + 96 * PAGE};
    unsigned bad = 0;
    load_code(&selectors);
    map(at[1], code_frame[0], P | U);
    for (unsigned n = 0; n < 4 * ROUNDS; n++) {
        aim(&selectors, at[n & 1]);
        run(&c);
        bad += c.vec != VEC_DONE || c.gpr[AX] != SEL_CODE3_64 || c.gpr[CX] != SEL_DATA3 ||
               c.gpr[DX] != SEL_DATA3;
    }
    map(at[1], NULL, 0);
    ok(!bad, "selectors shown at two addresses of a page in turn, %u wrong", bad);
}

static void test_low(void)
{
    u64 was = boot_pd[0], *t = table[ntables++];
    for (unsigned n = 0; n < 512; n++)
        t[n] = n * PAGE | P | W | U | A | D;
    boot_pd[0] = (u64)t | P | W | U;
    reload_cr3();
    for (unsigned n = 0; n < 18; n += n < 2 ? 1 : n)
        at_address(n * PAGE, frame[10]);
    boot_pd[0] = was;
    reload_cr3();
}

static void test_ends(void)
{
    at_address(0x7fffffffd000, frame[10]);
    at_address(0x7fffffffe000, frame[10]);
    at_address(0x7ffffffff000, frame[11]);
    at_address(0xffff800000000000, frame[10]);
    at_address(0xfffffffffffff000, frame[10]);
    at_address(0xffffffffff600000, frame[10]);
    map(0x7ffffffff000, frame[11], P | W | U);
    go(&load, 0x7ffffffffffc);
    expect_fault("across the end of the lower half", GP, 0, 0);
    go(&load, 0x800000000000);
    expect_fault("behind it", GP, 0, 0);
    go(&load_bp, 0x800000000000);
    expect_fault("by RBP", SS_, 0, 0);
    go(&load, 0xffff7ffffffffff8);
    expect_fault("before the upper half", GP, 0, 0);
    go(&pop_far, 0x8000000000000000);
    expect_fault("POP", SS_, 0, 0);
    go(&jump, 0x800000000000);
    expect_fault("jump behind the lower half", GP, 0, 0);
    expect("RIP of that", c.ip, insn_of(&jump));
    go(&jump, 0xffff900000000000);
    expect_fault("jump to the upper half", PF, 0x14, 0xffff900000000000);
    go(&call, 0xffffffffff600000);
    known(faulted(PF, 0x14, 0xffffffffff600000), "call of Linux' vsyscall page, absent",
          "direct execution without seccomp filters: the host's kernel answers it");
}

/* --- pages anywhere: there is no room that is not the guest's --- */

static u64 any_address(u64 *seed)
{
    *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
    return *seed >> 18 & 0x7ffffffff000ull;
}

static void test_everywhere(void)
{
    static u64 pdpt[512] __attribute__((aligned(4096))), pd[512] __attribute__((aligned(4096)));
    unsigned bad = 0;
    u64 seed = 4;
    for (unsigned n = 0; n < 512; n++) {
        pdpt[n] = (u64)pd | P | W | U;
        pd[n] = n % 8 << 21 | P | W | U | PS;
    }
    memcpy(other_root[0], boot_pml4, PAGE);
    for (unsigned n = 1; n < 256; n++)
        if (!other_root[0][n])
            other_root[0][n] = (u64)pdpt | P | W | U;
    write_cr3((u64)other_root[0]);
    load_code(&load4);
    for (unsigned n = 0; n < 200; n++) {
        u64 va = any_address(&seed) | BIT(46);
        bad += again(&load4, va) != *(volatile u32 *)(va & 0xffffff) &&
               other_root[0][va >> 39] == (u64)pdpt;
    }
    write_cr3((u64)boot_pml4);
    ok(!bad, "all addresses are mapped, %u wrong", bad);
}

int main(void)
{
    start_user();
    number_frames();
    test_changes();
    test_many_loads();
    test_pcid();
    test_large();
    test_rights();
    number_frames();
    test_ad();
    test_data_behind();
    test_code();
    test_across();
    test_contention();
    test_low();
    test_ends();
    test_everywhere();
    return 0;
}
