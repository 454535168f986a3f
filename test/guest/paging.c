/*
 * paging.c - translation, access rights, error codes, accessed and dirty bits, flushes (SDM vol.
 * 3A, chapter 4). The 32-bit guest does 32-bit and PAE paging, the 64-bit one 4-level paging.
 *
 * The kernel runs on supervisor pages mapped to themselves. TEST is a page whose entries are set to
 * every combination; right() says what 4.6 and 4.7 make of it. USER holds copies of the snippets
 * and a stack for ring 3. Nothing here depends on a stale translation: entries are flushed when
 * changed.
 */
#include "guest.h"

#define P  BIT(0)
#define W  BIT(1)
#define U  BIT(2)
#define A  BIT(5)
#define D  BIT(6)
#define PS BIT(7)
#define G  BIT(8)
#define NX BIT(63)

#define ERR_P    1u
#define ERR_W    2u
#define ERR_U    4u
#define ERR_RSVD 8u
#define ERR_I    16u

#if IS64
#define TEST 0x8000000000ul /* PML4 entry 1 */
#define USER 0x10000000000ul
#define EBX  "%rbx"
#else
#define TEST 0x40000000ul
#define USER 0x80000000ul
#define EBX  "%ebx"
#endif

struct mode {
    const char *name;
    unsigned levels;
    bool nx, wide; /* entries of 8 bytes */
};

static const struct mode modes[] = {
#if IS64
    {"4-level", 4, true, true},
#else
    {"32-bit", 2, false, false},
    {"PAE", 3, true, true},
#endif
};

typedef u64 page_t[512] __attribute__((aligned(4096)));
static page_t root, kernel_pdpt, kernel_pd[4], test_tab[4], user_tab[4], user_page, data_page[2];
static page_t root2; /* another address space: TEST is data_page[1] */
static page_t test2_tab[4];
static const struct mode *m;
static bool have_smep, have_smap, have_nx;
static unsigned phys_bits;

#define BIG_PHYS 0x1000000ul /* 16 MiB: where large pages lead */

/* --- entries --- */

static void put(void *table, unsigned index, u64 e)
{
    if (m->wide)
        ((volatile u64 *)table)[index] = e;
    else
        ((volatile u32 *)table)[index] = (u32)e;
}

static u64 get(void *table, unsigned index)
{
    return m->wide ? ((volatile u64 *)table)[index] : ((volatile u32 *)table)[index];
}

static unsigned index_of(word la, unsigned level)
{
    unsigned bits = m->wide ? 9 : 10;
    return (unsigned)((u64)la >> (12 + bits * (level - 1))) & ((1u << bits) - 1);
}

/* The table of `level` (1: page table) on the way to an address of TEST's region. */
static void *table_of(page_t *tabs, void *top, unsigned level)
{
    return level == m->levels ? top : tabs[level - 1];
}

static void *test_table(unsigned level)
{
    return table_of(test_tab, root, level);
}

/* A PAE root entry has neither W nor U (table 4-8). */
static u64 link_flags(unsigned level)
{
    return !IS64 && level == 3 ? P : P | W | U;
}

/* Maps the page at la through tabs, every level with full rights, to phys. */
static void map(page_t *tabs, void *top, word la, u64 leaf)
{
    for (unsigned l = m->levels; l > 1; l--)
        put(table_of(tabs, top, l), index_of(la, l),
            (word)table_of(tabs, top, l - 1) | link_flags(l));
    put(table_of(tabs, top, 1), index_of(la, 1), leaf);
}

static void set(unsigned level, u64 e)
{
    put(test_table(level), index_of(TEST, level), e);
    invlpg((void *)TEST);
}

static u64 entry(unsigned level)
{
    return get(test_table(level), index_of(TEST, level));
}

static void map_kernel(void *top)
{
    const u64 big = m->wide ? 2u << 20 : 4u << 20;
    for (unsigned n = 0; n < (m->wide ? 512u * 4 : 64u); n++) {
        if (!m->wide)
            put(top, n, n * big | PS | P | W);
        else
            kernel_pd[n / 512][n % 512] = n * big | PS | P | W;
    }
    for (unsigned n = 0; m->wide && n < 4; n++) {
        kernel_pdpt[n] = (word)kernel_pd[n] | link_flags(3);
        if (!IS64 && n == 0)
            put(top, 0, kernel_pdpt[0]);
    }
    if (IS64)
        put(top, 0, (word)kernel_pdpt | P | W);
}

/* --- accesses --- */

enum access { READ, WRITE, FETCH, ACCESSES };
static const char *const access_name[] = {"read", "write", "fetch"};

SNIP(do_read, "", "mov (" EBX "), %eax");
SNIP(do_write, "", "mov %eax, (" EBX ")");
SNIP(do_fetch, "", "call *" EBX);
SNIP(do_rmw, "", "addl $1, (" EBX ")");
SNIP(do_rep, "cld", "rep stosb");
SNIP(do_cmpxchg, "", "lock cmpxchg %ecx, (" EBX ")");
static const struct snip *const access_snip[] = {&do_read, &do_write, &do_fetch};

/* Runs a snippet with rBX = at; in ring 3 from its copy in USER. */
static void go(struct ctx *c, const struct snip *s, unsigned ring, word at, word flags)
{
    word keep[3] = {c->gpr[AX], c->gpr[CX], c->gpr[DI]};
    ctx_init(c, s, ring);
    c->gpr[AX] = keep[0];
    c->gpr[CX] = keep[1];
    c->gpr[DI] = keep[2];
    c->gpr[BX] = at;
    c->flags |= flags;
    if (ring) {
        memcpy(user_page, (void *)s->start, s->end + 2 - s->start);
        c->ip = USER;
        c->gpr[SP] = USER + 4096 - 16;
    }
    run(c);
}

/* PAE's root entries, which are loaded with CR3. */
static bool is_pdpte(unsigned level)
{
    return !IS64 && level == 3;
}

/* --- the model: 4.6.1 (rights), 4.7 (error codes) --- */

struct cr {
    bool wp, smep, smap, ac, nxe;
};

/* What an access does: -1, or the page fault's error code. e[]: the entries, leaf first. */
static int model(const u64 *e, unsigned n, unsigned leaf, unsigned acc, bool user,
                 const struct cr *cr)
{
    unsigned err = (acc == WRITE ? ERR_W : 0) | (user ? ERR_U : 0);
    if (acc == FETCH && ((m->wide && cr->nxe) || cr->smep))
        err |= ERR_I;
    bool w = true, u = true, nx = false;
    for (unsigned l = n; l-- > 0;) {
        if (!(e[l] & P))
            return (int)err;
        if (e[l] & NX && !cr->nxe)
            return (int)(err | ERR_P | ERR_RSVD);
        if (is_pdpte(leaf + l))
            continue; /* it has neither W nor U */
        w &= !!(e[l] & W);
        u &= !!(e[l] & U);
        nx |= !!(e[l] & NX);
    }
    bool bad = acc == FETCH && nx;
    if (user)
        bad |= !u || (acc == WRITE && !w);
    else if (acc == FETCH)
        bad |= u && cr->smep;
    else
        bad |= (acc == WRITE && !w && cr->wp) || (u && cr->smap && !cr->ac);
    return bad ? (int)(err | ERR_P) : -1;
}

static unsigned wrong, tried;

static void complain(const char *what, const struct ctx *c, int want, unsigned acc, unsigned ring,
                     const u64 *e, unsigned n, const struct cr *cr)
{
    if (wrong++ >= 5)
        return;
    print("%s: %s of ring %u: vector %lu err %lx CR2 %lx, want %x; WP %d SMEP %d SMAP %d AC %d NXE "
          "%d;",
          what, access_name[acc], ring, c->vec, c->err, c->cr2, (u32)want, cr->wp, cr->smep,
          cr->smap, cr->ac, cr->nxe);
    for (unsigned l = n; l-- > 0;)
        print(" %llx", (unsigned long long)e[l]);
    print("\n");
}

/* One access; entries of levels top..leaf are e[], leaf first, written to the tables already. */
static void try_access(unsigned acc, unsigned ring, const u64 *e, unsigned n, unsigned leaf,
                       const struct cr *cr)
{
    struct ctx c = {.gpr[AX] = 0x81cd}; /* so that writes do not spoil what fetches execute */
    int want = model(e, n, leaf, acc, ring == 3, cr);
    invlpg((void *)TEST);
    go(&c, access_snip[acc], ring, TEST, cr->ac ? FL_AC : 0);
    tried++;
    bool good = want < 0 ? c.vec == VEC_DONE : c.vec == PF && c.err == (word)want && c.cr2 == TEST;
    if (good && want >= 0 && acc == FETCH)
        good = c.ip == TEST;
    if (!good) {
        complain("access", &c, want, acc, ring, e, n, cr);
        return;
    }
    u64 got = entry(leaf);
    bool dirty = got & D, accessed = got & A;
    if (want < 0 ? !accessed || dirty != (acc == WRITE) : dirty)
        complain("A and D", &c, (int)(got & 0xff), acc, ring, e, n, cr);
    for (unsigned l = leaf + 1; want < 0 && l <= m->levels; l++)
        if (!(entry(l) & A) && (IS64 || l < 3))
            complain("A of an upper level", &c, (int)l, acc, ring, e, n, cr);
}

static void set_cr(const struct cr *cr)
{
    word cr4 = read_cr4() & ~(word)(CR4_SMEP | CR4_SMAP);
    write_cr0(cr->wp ? read_cr0() | CR0_WP : read_cr0() & ~(word)CR0_WP);
    write_cr4(cr4 | (cr->smep ? CR4_SMEP : 0) | (cr->smap ? CR4_SMAP : 0));
    if (have_nx)
        wrmsr(MSR_EFER, cr->nxe ? rdmsr(MSR_EFER) | EFER_NXE : rdmsr(MSR_EFER) & ~(u64)EFER_NXE);
}

/* All accesses with e[] as TEST's entries from `leaf` up. */
static void all_accesses(u64 *e, unsigned leaf, const struct cr *cr)
{
    unsigned n = m->levels - leaf + 1;
    for (unsigned acc = 0; acc < ACCESSES; acc++)
        for (unsigned ring = 0; ring <= 3; ring += 3) {
            for (unsigned l = 0; l < n; l++)
                put(test_table(leaf + l), index_of(TEST, leaf + l), e[l]);
            try_access(acc, ring, e, n, leaf, cr);
        }
}

/* Bits 0-3 of n: P, W, U, NX. */
static u64 flags_of(unsigned n)
{
    return (n & 7) | (n & 8 ? NX : 0);
}

static unsigned combinations(const struct cr *cr)
{
    return m->nx && cr->nxe ? 16 : 8;
}

/* Full rights in all entries down to a leaf at `leaf`. */
static void full(u64 *e, unsigned leaf)
{
    u64 target = leaf == 1 ? (word)data_page[0] : leaf == 3 ? 0 : BIG_PHYS;
    e[0] = target | P | W | U | (leaf > 1 ? PS : 0);
    for (unsigned l = leaf + 1; l <= m->levels; l++)
        e[l - leaf] = (word)test_table(l - 1) | link_flags(l);
}

/* Every pair of a 4 KiB leaf and the next entry; otherwise every single entry. */
static void sweep(unsigned leaf, const struct cr *cr)
{
    u64 e[4], base[4];
    unsigned n = m->levels - leaf + 1, combos = combinations(cr);
    full(base, leaf);
    for (unsigned top = 1; top < n && !is_pdpte(leaf + top); top++)
        for (unsigned a = 0; a < combos; a++)
            for (unsigned b = 0; b < combos; b++) {
                if ((top > 1 || leaf > 1) && a != 7 && b != 7)
                    continue;
                memcpy(e, base, sizeof(e));
                e[0] = (e[0] & ~(7ull | NX)) | flags_of(b);
                e[top] = (e[top] & ~(7ull | NX)) | flags_of(a);
                all_accesses(e, leaf, cr);
            }
    memcpy(e, base, sizeof(e));
    for (unsigned b = 0; b < combos; b++) {
        e[0] = (base[0] & ~(7ull | NX)) | flags_of(b);
        all_accesses(e, leaf, cr);
    }
}

static void restore(void)
{
    static const struct cr plain = {.wp = true, .nxe = true};
    u64 e[4];
    full(e, 1);
    for (unsigned l = 1; l <= m->levels; l++)
        set(l, e[l - 1]);
    set_cr(&plain);
}

static void test_rights(unsigned leaf, const char *size)
{
    wrong = tried = 0;
    for (unsigned n = 0; n < 16; n++) {
        struct cr cr = {n & 1, n & 2, n & 4, n & 8, true};
        if ((cr.smep && !have_smep) || (cr.smap && !have_smap) || (cr.ac && !cr.smap))
            continue;
        set_cr(&cr);
        sweep(leaf, &cr);
    }
    restore();
    ok(!wrong, "%s, %s pages: rights, error codes, A and D in %u accesses, %u wrong", m->name, size,
       tried, wrong);
}

/* --- reserved bits (tables 4-4 to 4-20) --- */

static void reserved(const char *name, unsigned leaf, unsigned level, u64 bits, bool nxe)
{
    struct cr cr = {.wp = true, .nxe = nxe};
    u64 e[4];
    unsigned bad = 0;
    set_cr(&cr);
    full(e, leaf);
    e[level - leaf] |= bits;
    for (unsigned l = leaf; l <= m->levels; l++)
        set(l, e[l - leaf]);
    for (unsigned acc = 0; acc < ACCESSES; acc++)
        for (unsigned ring = 0; ring <= 3; ring += 3) {
            struct ctx c = {0};
            unsigned want = ERR_P | ERR_RSVD | (acc == WRITE ? ERR_W : 0) | (ring ? ERR_U : 0) |
                            (acc == FETCH && m->wide && nxe ? ERR_I : 0);
            go(&c, access_snip[acc], ring, TEST, 0);
            bad += c.vec != PF || c.err != want || c.cr2 != TEST;
        }
    restore();
    ok(!bad, "%s: reserved, %s: %u of 6 accesses wrong", m->name, name, bad);
}

static void test_reserved(void)
{
    u64 high = phys_bits < 52 ? BIT(51) | BIT(phys_bits) : 0;
    if (!m->wide) {
        reserved("bit 21 of a 4 MiB page", 2, 2, BIT(21), true);
        return;
    }
    if (high) {
        reserved("physical address bits of a PTE", 1, 1, high, true);
        reserved("physical address bits of a PDE", 1, 2, BIT(phys_bits), true);
        reserved("physical address bits of a 2 MiB page", 2, 2, BIT(51), true);
    }
    reserved("bit 13 of a 2 MiB page", 2, 2, BIT(13), true);
    reserved("bit 20 of a 2 MiB page", 2, 2, BIT(20), true);
    if (have_nx) {
        reserved("NX of a PTE without EFER.NXE", 1, 1, NX, false);
        reserved("NX of a PDE without EFER.NXE", 1, 2, NX, false);
    }
    if (IS64) {
        reserved("PS of a PML4E", 1, 4, PS, true);
        reserved("bit 29 of a 1 GiB page", 3, 3, BIT(29), true);
        reserved("bit 13 of a 1 GiB page", 3, 3, BIT(13), true);
    } else {
        reserved("bit 52 of a PTE", 1, 1, BIT(52), true);
        reserved("bit 62 of a PDE", 1, 2, BIT(62), true);
    }
}

/* Bits that paging ignores. */
static void test_ignored(void)
{
    struct ctx c = {0};
    u64 e[4];
    full(e, 1);
    set(1, e[0] | 0xe00 | (IS64 ? 0x7ffull << 52 : 0) | G);
    set(2, e[1] | 0xf00 | (IS64 ? 0x7ffull << 52 : 0));
    go(&c, &do_write, 3, TEST, 0);
    ok(c.vec == VEC_DONE, "%s: ignored bits: vector %lu err %lx", m->name, c.vec, c.err);
    restore();
    write_cr4(read_cr4() | CR4_PGE); /* and drop what was global */
    write_cr4(read_cr4() & ~(word)CR4_PGE);
}

/* --- data across pages (6.15, interrupt 14; vol. 1, 4.1.1) --- */

static u32 load(word la)
{
    return *(volatile u32 *)la;
}

static void test_crossing(void)
{
    struct ctx c = {0};
    u64 leaf = P | W | U;
    put(test_table(1), index_of(TEST, 1) + 1, (word)data_page[1] | leaf);
    invlpg((void *)(TEST + 4096));
    memset(data_page, 0x11, sizeof(data_page));
    memset(data_page[1], 0x22, 4096);
    expect("two pages, apart in memory", load(TEST + 4094), 0x22221111);

    put(test_table(1), index_of(TEST, 1) + 1, 0);
    invlpg((void *)(TEST + 4096));
    go(&c, &do_read, 3, TEST + 4093, 0);
    ok(c.vec == PF && c.err == ERR_U && c.cr2 == TEST + 4096, "read into an absent page: CR2 %lx",
       c.cr2 - TEST);
    c.gpr[AX] = 0xffffffff;
    go(&c, &do_write, 3, TEST + 4093, 0);
    ok(c.vec == PF && c.err == (ERR_U | ERR_W) && c.cr2 == TEST + 4096,
       "write into an absent page: CR2 %lx", c.cr2 - TEST);
    expect("and nothing was written before it", data_page[0][511], 0x1111111111111111);
    go(&c, &do_rmw, 0, TEST + 4094, 0);
    ok(c.vec == PF && c.err == ERR_W && c.cr2 == TEST + 4096,
       "read-modify-write is a write: error code %lx", c.err);
    expect("nor by it", data_page[0][511], 0x1111111111111111);
    put(test_table(1), index_of(TEST, 1) + 1, (word)data_page[1] | P | U);
    invlpg((void *)(TEST + 4096));
    go(&c, &do_write, 3, TEST + 4095, 0);
    ok(c.vec == PF && c.err == (ERR_P | ERR_U | ERR_W) && c.cr2 == TEST + 4096,
       "write into a read-only page: %lx", c.err);
    expect("and nothing was written", data_page[0][511], 0x1111111111111111);

    /* An instruction whose second byte is on an absent page. */
    put(test_table(1), index_of(TEST, 1) + 1, 0);
    invlpg((void *)(TEST + 4096));
    ((u8 *)data_page)[4095] = 0xb8;
    go(&c, &do_fetch, 3, TEST + 4095, 0);
    ok(c.vec == PF && c.cr2 == TEST + 4096 && c.ip == TEST + 4095 && !(c.err & ERR_W),
       "instruction into an absent page: CR2 %lx IP %lx", c.cr2 - TEST, c.ip - TEST);
    ((u8 *)data_page)[4094] = 0xcd;
    ((u8 *)data_page)[4095] = 0x81;
    go(&c, &do_fetch, 3, TEST + 4094, 0);
    ok(c.vec == VEC_DONE, "instruction that ends with the page: %lu", c.vec);

    /* A string instruction gets as far as it can, and goes on from there. */
    c.gpr[AX] = 0x33;
    c.gpr[DI] = TEST + 4090;
    c.gpr[CX] = 12;
    go(&c, &do_rep, 3, 0, 0);
    ok(c.vec == PF && c.cr2 == TEST + 4096 && c.gpr[CX] == 6 && c.gpr[DI] == TEST + 4096,
       "REP STOSB stops at the page: rCX %lx rDI %lx", c.gpr[CX], c.gpr[DI] - TEST);
    put(test_table(1), index_of(TEST, 1) + 1, (word)data_page[1] | leaf);
    run(&c);
    ok(c.vec == VEC_DONE && ((u8 *)data_page)[4095] == 0x33 && ((u8 *)data_page)[4101] == 0x33 &&
           ((u8 *)data_page)[4102] == 0x22,
       "and is restarted: %lu", c.vec);
}

/* Accesses close together, in one page or in two, off a register that has just been written. */
static void test_together(void)
{
    volatile u8 *v = (volatile u8 *)data_page;
    unsigned bad = 0;
    memset(data_page, 0, sizeof(data_page));
    for (word n = 0; n + 3 * sizeof(word) <= sizeof(data_page); n += 4) {
#if IS64
        __asm__ volatile(
            "movslq %k[n], %%r14; mov %[n], (%[v],%%r14); mov %[n], 8(%[v],%%r14);"
            "mov %[n], 16(%[v],%%r14); movslq %k[n], %%r13; cmp (%[v],%%r13), %[n]; jne 1f;"
            "cmp 8(%[v],%%r13), %[n]; jne 1f; cmp 16(%[v],%%r13), %[n]; je 2f; 1: incl %[bad]; 2:"
            : [bad] "+m"(bad)
            : [v] "r"(v), [n] "r"(n)
            : "memory", "cc", "r13", "r14");
#else
        __asm__ volatile(
            "mov %[n], %%eax; mov %[n], (%[v],%%eax); mov %[n], 4(%[v],%%eax);"
            "mov %[n], 8(%[v],%%eax); mov %[n], %%eax; cmp (%[v],%%eax), %[n]; jne 1f;"
            "cmp 4(%[v],%%eax), %[n]; jne 1f; cmp 8(%[v],%%eax), %[n]; je 2f; 1: incl %[bad]; 2:"
            : [bad] "+m"(bad)
            : [v] "r"(v), [n] "r"(n)
            : "memory", "cc", "eax");
#endif
        bad += *(volatile word *)(v + n) != n || *(volatile word *)(v + n + 2 * sizeof(word)) != n;
    }
    ok(!bad, "accesses close together, across pages too: %u wrong", bad);
}

#if !IS64
/* Register plus displacement is beyond 4 GiB, or below 0, for accesses that are close together; and
 * with the register changed between them. */
static void test_wrapped(void)
{
    volatile u32 *v = (volatile u32 *)data_page;
    const volatile u32 *u = (const volatile u32 *)USER;
    unsigned over = 0, changed = 0, under = 0;
    u32 base, sum;
    for (u32 n = 0; n < 200; n++) {
        v[0] = n, v[1] = 2 * n, v[2] = 3 * n, v[3] = 0;
        __asm__ volatile("mov 0x70000000(%1), %0; add 0x70000004(%1), %0; add 0x70000008(%1), %0;"
                         "mov %0, 0x7000000c(%1); incl 0x7000000c(%1)"
                         : "=&r"(sum)
                         : "r"((u32)v - 0x70000000)
                         : "memory", "cc");
        over += v[3] != 6 * n + 1;
        base = (u32)v - 0x70000000;
        __asm__ volatile(
            "mov 0x70000000(%1), %0; add $0x70000000, %1; add 4(%1), %0; add 8(%1), %0;"
            "mov %0, 12(%1); sub $0x10000000, %1; incl 0x1000000c(%1)"
            : "=&r"(sum), "+r"(base)
            :
            : "memory", "cc");
        changed += v[3] != 6 * n + 1;
        __asm__ volatile("mov -0x80000000(%1), %0; add -0x7ffffffc(%1), %0; add -0x7ffffff8(%1), %0"
                         : "=&r"(sum)
                         : "r"(USER - 0x80000000)
                         : "memory", "cc");
        under += sum != u[0] + u[1] + u[2];
    }
    ok(!over && !changed && !under, "addresses that wrap around: %u, %u and %u wrong", over,
       changed, under);
}
#endif

/* LOCK CMPXCHG writes even if it does not store (vol. 2, CMPXCHG). */
static void test_cmpxchg(void)
{
    struct ctx c = {.gpr[AX] = 1};
    u64 e[4];
    full(e, 1);
    set(1, e[0] & ~W);
    data_page[0][0] = 2;
    go(&c, &do_cmpxchg, 3, TEST, 0);
    ok(c.vec == PF && c.err == (ERR_P | ERR_W | ERR_U),
       "CMPXCHG that fails needs write access: %lu %lx", c.vec, c.err);
    restore();
}

/* --- freshness: what flushes must drop (4.10.4) --- */

static void touch(void)
{
    (void)load(TEST);
}

static void remap(unsigned page, u64 flags)
{
    put(test_table(1), index_of(TEST, 1), (word)data_page[page] | P | W | U | flags);
}

static void test_flush(void)
{
    memset(data_page, 0, sizeof(data_page));
    data_page[0][0] = 1;
    data_page[1][0] = 2;
    remap(0, 0);
    write_cr3(read_cr3());
    touch();
    remap(1, 0);
    invlpg((void *)(TEST + 100));
    expect("INVLPG", load(TEST), 2);
    remap(0, 0);
    write_cr3(read_cr3());
    expect("MOV to CR3", load(TEST), 1);
    remap(1, 0);
    write_cr0(read_cr0() & ~(word)CR0_WP);
    write_cr0(read_cr0() | CR0_WP);
    invlpg((void *)TEST);
    expect("CR0 and INVLPG", load(TEST), 2);

    write_cr4(read_cr4() | CR4_PGE);
    remap(0, G);
    invlpg((void *)TEST);
    touch();
    remap(1, G);
    write_cr4(read_cr4() & ~(word)CR4_PGE);
    expect("CR4.PGE drops global pages", load(TEST), 2);
    write_cr4(read_cr4() | CR4_PGE);
    touch();
    remap(0, G);
    invlpg((void *)TEST);
    expect("INVLPG drops a global page", load(TEST), 1);
    write_cr4(read_cr4() & ~(word)CR4_PGE);

    /* A large page is flushed by an address anywhere in it. */
    volatile u32 *big = (volatile u32 *)BIG_PHYS;
    *big = 77;
    set(2, BIG_PHYS | PS | P | W | U);
    touch();
    set(2, (word)test_tab[0] | P | W | U);
    invlpg((void *)(TEST + 0x180000));
    expect("INVLPG within a large page", load(TEST), 1);
    restore();
}

/* The walker honours W and U changed to less rights after a flush, and a page made absent. */
static void test_revoke(void)
{
    struct ctx c = {0};
    restore();
    go(&c, &do_write, 3, TEST, 0);
    set(1, (word)data_page[0] | P | U);
    go(&c, &do_write, 3, TEST, 0);
    ok(c.vec == PF && c.err == 7, "write access revoked: %lu %lx", c.vec, c.err);
    set(1, (word)data_page[0] | P | W);
    go(&c, &do_read, 3, TEST, 0);
    ok(c.vec == PF && c.err == 5, "user access revoked: %lu %lx", c.vec, c.err);
    set(1, 0);
    go(&c, &do_read, 3, TEST, 0);
    ok(c.vec == PF && c.err == 4, "page taken away: %lu %lx", c.vec, c.err);
    restore();
}

/* --- code changed through another mapping (vol. 3A, 11.6) --- */

static void test_alias(void)
{
    struct ctx c = {0};
    volatile u8 *alias = (volatile u8 *)data_page[0];        /* the kernel's mapping */
    static const u8 code[] = {0xb8, 1, 0, 0, 0, 0xcd, 0x81}; /* mov $1, %eax; int $0x81 */
    unsigned bad = 0;
    memcpy(data_page[0], code, sizeof(code));
    for (unsigned n = 0; n < 50; n++) {
        alias[1] = (u8)n;
        go(&c, &do_fetch, 3, TEST, 0);
        bad += c.vec != VEC_DONE || c.gpr[AX] != n;
    }
    ok(!bad, "code changed through an alias: %u of 50 wrong", bad);
}

/* --- address spaces --- */

static void make_second_space(void)
{
    memcpy(root2, root, sizeof(root));
    map(test2_tab, root2, TEST, (word)data_page[1] | P | W | U);
}

static void test_spaces(void)
{
    unsigned bad = 0;
    word one = read_cr3(), two = (word)root2;
    restore();
    make_second_space();
    data_page[0][0] = 1;
    data_page[1][0] = 2;
    for (unsigned n = 0; n < 10; n++) {
        write_cr3(two);
        bad += load(TEST) != 2;
        write_cr3(one);
        bad += load(TEST) != 1;
    }
    ok(!bad, "two address spaces: %u of 20 wrong", bad);
}

#if IS64
static void invpcid(u64 type, u64 pcid, word la)
{
    struct {
        u64 pcid, la;
    } d = {pcid, la};
    __asm__ volatile("invpcid %0, %1" : : "m"(d), "r"(type) : "memory");
}

SNIP(do_invpcid, "", "invpcid (%rbx), %rax");

static void bad_invpcid(const char *name, u64 type, u64 pcid, u64 la)
{
    static u64 d[2];
    struct ctx c = {.gpr[AX] = type};
    d[0] = pcid;
    d[1] = la;
    go(&c, &do_invpcid, 0, (word)d, 0);
    ok(c.vec == GP && c.err == 0, "#GP, INVPCID %s: %lu", name, c.vec);
}

static void test_invpcid(word one, word two)
{
    static const char *const name[] = {"address", "one context", "all", "all but global"};
    for (unsigned type = 0; type < 4; type++) {
        put(test2_tab[0], index_of(TEST, 1), (word)data_page[1] | P | W | U);
        invpcid(2, 0, 0);
        write_cr3(two | BIT(63));
        touch();
        write_cr3(one | BIT(63));
        put(test2_tab[0], index_of(TEST, 1), (word)data_page[0] | P | W | U);
        invpcid(type, type < 2 ? 2 : 0, type ? 0 : TEST);
        write_cr3(two | BIT(63));
        bool good = load(TEST) == 1;
        write_cr3(one | BIT(63));
        ok(good && load(TEST) == 1, "INVPCID, %s", name[type]);
    }
    bad_invpcid("type 4", 4, 0, 0);
    bad_invpcid("descriptor bit 12", 1, 0x1000, 0);
    bad_invpcid("non-canonical address", 0, 0, 0x800000000000);
    struct ctx c = {0};
    go(&c, &do_invpcid, 3, USER, 0);
    ok(c.vec == GP, "#GP, INVPCID in ring 3: %lu", c.vec);
}

/* 4.10.1: PCIDs; 4.10.4.1: bit 63 of MOV to CR3. */
static void test_pcid(void)
{
    if (!cpu_has(1, 2, 17)) {
        skip("PCID", "not offered");
        return;
    }
    unsigned bad = 0;
    write_cr4(read_cr4() | CR4_PCIDE);
    word one = (word)root | 1, two = (word)root2 | 2;
    write_cr3(one);
    for (unsigned n = 0; n < 10; n++) {
        write_cr3(two | (n ? BIT(63) : 0));
        bad += load(TEST) != 2;
        write_cr3(one | BIT(63));
        bad += load(TEST) != 1;
    }
    ok(!bad, "PCIDs kept apart: %u of 20 wrong", bad);
    expect("bit 63 of CR3 reads as zero", read_cr3(), one);
    if (cpu_has(7, 1, 10))
        test_invpcid(one, two);
    else
        skip("INVPCID", "not offered");
    write_cr3((word)root);
    write_cr4(read_cr4() & ~(word)CR4_PCIDE);
    write_cr3((word)root | 8); /* PWT */
    expect("#GP, CR4.PCIDE with CR3[11:0] not 0", try_cr(4, read_cr4() | CR4_PCIDE), GP);
    write_cr3((word)root);
    expect("#GP, CR3 bit 63 without PCIDE", try_cr(3, (word)root | BIT(63)), GP);
}

static void own_tests(void)
{
    struct ctx c = {0};
    test_pcid();
    go(&c, &do_read, 3, 0x7ffffffffffd, 0);
    ok(c.vec == GP, "across the canonical edge: %lu", c.vec);
    go(&c, &do_read, 0, 0xffff800000000000, 0);
    ok(c.vec == PF && c.err == 0 && c.cr2 == 0xffff800000000000, "first of the upper half: %lx",
       c.cr2);
    go(&c, &do_read, 0, 0xfffffffffffffffe, 0);
    ok(c.vec == GP || c.vec == PF, "around the end: %lu", c.vec);
    expect("#GP, PG off in long mode's 64-bit code", try_cr(0, read_cr0() & ~(word)CR0_PG), GP);
    expect("#GP, PAE off in long mode", try_cr(4, read_cr4() & ~(word)CR4_PAE), GP);
    expect("#GP, CR3 above the physical address width", try_cr(3, BIT(phys_bits) | (word)root), GP);
}
#else
static void own_tests(void)
{
    /* 4.4.1: PDPTEs are checked when CR3 is loaded. */
    if (!m->wide)
        return;
    u64 good = root2[0];
    root2[0] |= W;
    expect("#GP, reserved bit 1 in a PDPTE", try_cr(3, (word)root2), GP);
    root2[0] = good | BIT(63);
    expect("#GP, reserved bit 63 in a PDPTE", try_cr(3, (word)root2), GP);
    root2[0] = good;
    root2[3] = 2; /* not present: not checked */
    expect("an absent PDPTE is not checked", (u32)try_cr(3, (word)root2), (u32)-1);
    root2[3] = 0;
}
#endif

/* SMAP holds for the processor's own accesses whatever AC says (4.6.1, implicit accesses). */
SNIP(load_ldt_sel, "mov $0x0c, %eax", "mov %eax, %es");

static void test_implicit(void)
{
    struct ctx c;
    if (!have_smap)
        return;
    restore();
    data_page[0][1] = make_desc(0, 0xfffff, ATTR_DATA | 0xc000);
    gdt[SEL_LDT / 8] = make_desc((u32)TEST, 0xfff, 0x82);
    gdt[SEL_LDT / 8 + 1] = IS64 ? (u64)TEST >> 32 : 0;
    __asm__ volatile("lldt %w0" : : "r"(SEL_LDT));
    for (unsigned n = 0; n < 4; n++) {
        struct cr cr = {.wp = true, .nxe = true, .smap = n & 1, .ac = n & 2};
        set_cr(&cr);
        ctx_init(&c, &load_ldt_sel, 0);
        c.flags |= cr.ac ? FL_AC : 0;
        run(&c);
        if (cr.smap)
            ok(c.vec == PF && c.err == ERR_P && c.cr2 == TEST + 8,
               "%s: descriptor on a user page, SMAP, AC %d: %lu %lx", m->name, cr.ac, c.vec, c.err);
        else
            ok(c.vec == VEC_DONE, "%s: descriptor on a user page, AC %d: %lu %lx", m->name, cr.ac,
               c.vec, c.err);
    }
    __asm__ volatile("lldt %w0" : : "r"(0));
    restore();
    ctx_init(&c, &do_read, 0);
}

static void enter_mode(void)
{
    if (!IS64)
        write_cr0(read_cr0() & ~(word)CR0_PG);
    memset(root, 0, sizeof(root));
    map_kernel(root);
    map(user_tab, root, USER, (word)user_page | P | W | U);
    map(test_tab, root, TEST, (word)data_page[0] | P | W | U);
    ((u8 *)data_page[0])[0] = 0xcd; /* fetches find INT 0x81 */
    ((u8 *)data_page[0])[1] = 0x81;
    *(volatile u16 *)BIG_PHYS = 0x81cd;
    *(volatile u16 *)0 = 0x81cd; /* what a 1 GiB page shows */
    if (!IS64)
        write_cr4((read_cr4() & ~(word)CR4_PAE) | CR4_PSE | (m->wide ? CR4_PAE : 0));
    write_cr3((word)root);
    write_cr0(read_cr0() | CR0_PG | CR0_WP);
    restore();
}

static void keep_fetch_target(void)
{
    ((u8 *)data_page[0])[0] = 0xcd;
    ((u8 *)data_page[0])[1] = 0x81;
    *(volatile u16 *)BIG_PHYS = 0x81cd;
}

int main(void)
{
    u32 r[4];
    have_smep = cpu_has(7, 1, 7);
    have_smap = cpu_has(7, 1, 20);
    have_nx = cpu_has(0x80000001, 3, 20);
    cpuid(0x80000008, 0, r);
    phys_bits = r[0] & 0xff;
    for (m = modes; m < modes + ARRAY_SIZE(modes); m++) {
        enter_mode();
        test_rights(1, "4 KiB");
        keep_fetch_target();
        test_rights(2, m->wide ? "2 MiB" : "4 MiB");
        if (IS64)
            test_rights(3, "1 GiB");
        keep_fetch_target();
        test_reserved();
        test_ignored();
        test_crossing();
        test_together();
#if !IS64
        test_wrapped();
#endif
        test_cmpxchg();
        test_flush();
        test_revoke();
        test_alias();
        test_spaces();
        own_tests();
        test_implicit();
    }
    return 0;
}
