/*
 * test_paging.c - the page walker: every format, right and reserved bit (SDM vol. 3A, chapter 4).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>

#include "cpu/cpu_ctl.h"
#include "fake.h"

/* Tables of one linear address, whatever the format: where its entry is, by level. */
#define PT   0x10000
#define PD   0x11000
#define PDPT 0x12000
#define PML4 0x13000
#define LA   0x40403000ull /* 32-bit: PDE 0x101, PTE 3; PAE: PDPTE 1, PDE 2, PTE 3 */
#define NONE UINT32_MAX    /* no fault */

enum format { F_32_4K, F_32_4M, F_PAE_4K, F_PAE_2M, F_4L_4K, F_4L_2M, F_4L_1G, FORMATS };

static const char *const format_name[] = {
    [F_32_4K] = "32-bit 4K",  [F_32_4M] = "32-bit 4M",  [F_PAE_4K] = "PAE 4K",
    [F_PAE_2M] = "PAE 2M",    [F_4L_4K] = "4-level 4K", [F_4L_2M] = "4-level 2M",
    [F_4L_1G] = "4-level 1G",
};

static bool is32(enum format m)
{
    return m <= F_32_4M;
}

static bool is4l(enum format m)
{
    return m >= F_4L_4K;
}

/* Address of the entry of a level, 1 = page table. */
static gpa_t entry_at(enum format m, unsigned level)
{
    if (is32(m))
        return level == 2 ? PD + 0x101 * 4 : PT + 3 * 4;
    static const gpa_t at[] = {[1] = PT + 3 * 8, [2] = PD + 2 * 8, [3] = PDPT + 8, [4] = PML4};
    return at[level];
}

static unsigned leaf_level(enum format m)
{
    static const u8 level[] = {
        [F_32_4K] = 1, [F_32_4M] = 2, [F_PAE_4K] = 1, [F_PAE_2M] = 2,
        [F_4L_4K] = 1, [F_4L_2M] = 2, [F_4L_1G] = 3,
    };
    return level[m];
}

static unsigned top_level(enum format m)
{
    return is32(m) || !is4l(m) ? 2 : 4;
}

/* What the leaf maps LA to; the byte at LA lies at frame + (LA within the page). */
static gpa_t target(enum format m)
{
    static const gpa_t gpa[] = {
        [F_32_4K] = 0x5000, [F_32_4M] = 0x403000, [F_PAE_4K] = 0x5000,  [F_PAE_2M] = 0x203000,
        [F_4L_4K] = 0x5000, [F_4L_2M] = 0x203000, [F_4L_1G] = 0x403000,
    };
    return gpa[m];
}

static u64 frame(enum format m)
{
    static const u64 size[] = {PAGE_SIZE, 4 * MiB, PAGE_SIZE, 2 * MiB, PAGE_SIZE, 2 * MiB, GiB};
    return target(m) & ~(size[m] - 1);
}

static void put(struct fake *f, enum format m, unsigned level, u64 e)
{
    if (is32(m))
        poke32(f, entry_at(m, level), e);
    else
        poke64(f, entry_at(m, level), e);
}

static u64 get(struct fake *f, enum format m, unsigned level)
{
    return is32(m) ? look32(f, entry_at(m, level)) : look64(f, entry_at(m, level));
}

/* Tables for LA with `upper` in the entries above the leaf's, `leaf` in the leaf's. */
static void build(struct fake *f, enum format m, u64 upper, u64 leaf)
{
    static const gpa_t next[] = {[2] = PT, [3] = PD, [4] = PDPT};
    unsigned last = leaf_level(m);
    for (unsigned level = top_level(m); level > last; level--)
        put(f, m, level, next[level] | upper);
    put(f, m, last, frame(m) | leaf | (last > 1 ? PTE_PS : 0));
    if (!is32(m) && !is4l(m))
        poke64(f, PDPT + 8, PD | PTE_P);
}

struct regs {
    bool wp, nxe, smep, smap, ac;
    unsigned cpl;
};

static void enter(struct fake *f, enum format m, struct regs r)
{
    struct cpu *c = f->c;
    c->cr0 = CR0_PE | CR0_PG | CR0_ET | (r.wp ? CR0_WP : 0);
    c->cr4 = CR4_PSE | (is32(m) ? 0 : CR4_PAE) | (r.smep ? CR4_SMEP : 0) | (r.smap ? CR4_SMAP : 0);
    c->efer = (is4l(m) ? EFER_LME | EFER_LMA : 0) | (r.nxe ? EFER_NXE : 0);
    c->cr3 = is4l(m) ? PML4 : is32(m) ? PD : PDPT;
    for (unsigned i = 0; i < 4; i++)
        c->pdpte[i] = is32(m) || is4l(m) ? 0 : look64(f, PDPT + 8 * i);
    c->eflags = r.ac ? FLAG_AC : 0;
    fake_mode(f, is4l(m) ? X86_MODE64 : X86_MODE32, r.cpl);
}

/* access: 0, PF_W or PF_I. The page-fault error code, or NONE. */
static u32 access_la(struct fake *f, gva_t la, u32 access)
{
    struct cpu *c = f->c;
    c->cr2 = 0;
    int vec = access & PF_W   ? TRY(c, cpu_st8(c, X86_SEG_FLAT, la, 0x5a))
              : access & PF_I ? TRY(c, cpu_code_page(c, la))
                              : TRY(c, cpu_ld8(c, X86_SEG_FLAT, la));
    if (vec < 0)
        return NONE;
    assert_int_equal(vec, EXC_PF);
    assert_int_equal(c->cr2, la);
    return c->exc.err;
}

/* --- rights: section 4.6, said once more in its own words --- */

struct rights {
    bool user, writable, nx;
};

static bool permitted(struct regs r, struct rights page, u32 access)
{
    if (r.cpl < 3 && access == 0)
        return !page.user || !r.smap || r.ac;
    if (r.cpl < 3 && access == PF_W) {
        if (page.user && r.smap && !r.ac)
            return false;
        return page.writable || !r.wp;
    }
    if (r.cpl < 3)
        return !(page.user && r.smep) && !(r.nxe && page.nx);
    if (!page.user)
        return false;
    if (access == PF_W)
        return page.writable;
    return access == 0 || !(r.nxe && page.nx);
}

static u32 expected(enum format m, struct regs r, struct rights page, u32 access)
{
    if (permitted(r, page, access))
        return NONE;
    u32 err = PF_P | (access & PF_W) | (r.cpl == 3 ? PF_U : 0);
    if (access == PF_I && (r.smep || (!is32(m) && r.nxe)))
        err |= PF_I;
    return err;
}

static u64 entry_bits(unsigned v, bool nx)
{
    return PTE_P | (v & 1 ? PTE_W : 0) | (v & 2 ? PTE_U : 0) | (nx && v & 4 ? PTE_NX : 0);
}

static void rights_case(struct fake *f, enum format m, struct regs r, unsigned up, unsigned leaf)
{
    static const u32 accesses[] = {0, PF_W, PF_I};
    bool nx = !is32(m) && r.nxe;
    bool one_level = leaf_level(m) == top_level(m);
    build(f, m, entry_bits(up, nx), entry_bits(leaf, nx));
    unsigned both = one_level ? leaf : up & leaf, either = one_level ? leaf : up | leaf;
    struct rights page = {.user = both & 2, .writable = both & 1, .nx = nx && either & 4};
    for (unsigned a = 0; a < 3; a++) {
        enter(f, m, r);
        u32 want = expected(m, r, page, accesses[a]);
        u32 got = access_la(f, LA, accesses[a]);
        if (got != want)
            fail_msg("%s cpl %u wp %d nxe %d smep %d smap %d ac %d upper %u leaf %u access %#x: "
                     "error code %#x, expected %#x",
                     format_name[m], r.cpl, r.wp, r.nxe, r.smep, r.smap, r.ac, up, leaf,
                     accesses[a], got, want);
    }
}

static void test_rights(void **state)
{
    struct fake f;
    fake_init(&f);
    for (enum format m = 0; m < FORMATS; m++)
        for (unsigned v = 0; v < 64; v++) {
            struct regs r = {v & 1, v & 2, v & 4, v & 8, v & 16, v & 32 ? 3 : 0};
            for (unsigned up = 0; up < 8; up++)
                for (unsigned leaf = 0; leaf < 8; leaf++)
                    rights_case(&f, m, r, up, leaf);
        }
    fake_free(&f);
}

/* --- what a translation yields --- */

#define RWU (PTE_P | PTE_W | PTE_U)

static void test_addresses(void **state)
{
    struct fake f;
    fake_init(&f);
    for (enum format m = 0; m < FORMATS; m++) {
        build(&f, m, RWU, RWU);
        enter(&f, m, (struct regs){0});
        gpa_t gpa = 0;
        assert_true(cpu_translate(f.c, LA + 0x123, &gpa));
        assert_int_equal(gpa, target(m) + 0x123);
        assert_int_equal(get(&f, m, leaf_level(m)) & (PTE_A | PTE_D), 0); /* a look, no access */
        poke64(&f, target(m) + 8, 0x1234567890abcdef);
        assert_int_equal(access_la(&f, LA + 8, 0), NONE);
        assert_true(cpu_ld64(f.c, X86_SEG_FLAT, LA + 8) == 0x1234567890abcdef);
        assert_true(cpu_code_page(f.c, LA)->gpa == target(m));
    }
    fake_free(&f);
}

static void test_not_present(void **state)
{
    struct fake f;
    fake_init(&f);
    for (enum format m = 0; m < FORMATS; m++)
        for (unsigned level = leaf_level(m); level <= top_level(m); level++) {
            build(&f, m, RWU, RWU);
            /* Without P no other bit means anything. */
            put(&f, m, level, ~1ull);
            enter(&f, m, (struct regs){.cpl = 3, .nxe = true});
            assert_int_equal(access_la(&f, LA, 0), PF_U);
            assert_int_equal(access_la(&f, LA, PF_W), PF_U | PF_W);
            assert_int_equal(access_la(&f, LA, PF_I), PF_U | (is32(m) ? 0 : PF_I));
        }
    build(&f, F_PAE_4K, RWU, RWU);
    poke64(&f, PDPT + 8, PD);
    enter(&f, F_PAE_4K, (struct regs){0});
    assert_int_equal(access_la(&f, LA, 0), 0);
    fake_free(&f);
}

/* --- reserved bits: tables 4-4 to 4-20 --- */

static const struct {
    enum format m;
    u8 level, first, last; /* bits that are reserved ... */
    bool nxe;
    bool free; /* ... or, on the contrary, are not */
} reserved[] = {
    {F_32_4M, 2, 21, 21},
    {F_32_4M, 2, 9, 12, .free = true},
    {F_32_4K, 2, 8, 11, .free = true},
    {F_PAE_4K, 1, 40, 62, true},
    {F_PAE_4K, 1, 63, 63},
    {F_PAE_4K, 2, 40, 62, true},
    {F_PAE_4K, 2, 63, 63},
    {F_PAE_4K, 1, 7, 11, .free = true},
    {F_PAE_2M, 2, 13, 20, true},
    {F_PAE_2M, 2, 40, 62, true},
    {F_PAE_2M, 2, 8, 12, .free = true},
    {F_4L_4K, 1, 40, 51, true},
    {F_4L_4K, 1, 52, 62, .free = true},
    {F_4L_4K, 2, 40, 51, true},
    {F_4L_4K, 3, 40, 51, true},
    {F_4L_4K, 4, 40, 51, true},
    {F_4L_4K, 4, 7, 7, true},
    {F_4L_4K, 1, 63, 63},
    {F_4L_4K, 2, 63, 63},
    {F_4L_4K, 3, 63, 63},
    {F_4L_4K, 4, 63, 63},
    {F_4L_4K, 4, 52, 62, .free = true},
    {F_4L_2M, 2, 13, 20, true},
    {F_4L_2M, 2, 40, 51, true},
    {F_4L_1G, 3, 13, 29, true},
    {F_4L_1G, 3, 40, 51, true},
    {F_4L_1G, 3, 8, 12, .free = true},
};

static void test_reserved(void **state)
{
    struct fake f;
    fake_init(&f);
    for (unsigned n = 0; n < ARRAY_SIZE(reserved); n++)
        for (unsigned bit = reserved[n].first; bit <= reserved[n].last; bit++) {
            enum format m = reserved[n].m;
            build(&f, m, RWU, RWU);
            put(&f, m, reserved[n].level, get(&f, m, reserved[n].level) | BIT(bit));
            enter(&f, m, (struct regs){.nxe = reserved[n].nxe, .cpl = 3});
            u32 want = reserved[n].free ? NONE : PF_P | PF_RSVD | PF_U;
            u32 got = access_la(&f, LA, 0);
            if (got != want)
                fail_msg("%s level %u bit %u: error code %#x, expected %#x", format_name[m],
                         reserved[n].level, bit, got, want);
            assert_int_equal(access_la(&f, LA, PF_W), want == NONE ? NONE : want | PF_W);
        }
    fake_free(&f);
}

/* PSE-36: bits 20:13 are physical 39:32, those above MAXPHYADDR reserved. */
static void test_pse36(void **state)
{
    struct fake f;
    gpa_t gpa;
    fake_init(&f);
    put(&f, F_32_4M, 2, 1u << 13 | RWU | PTE_PS);
    enter(&f, F_32_4M, (struct regs){0});
    assert_true(cpu_translate(f.c, LA, &gpa));
    assert_int_equal(gpa, FAKE_HIGH + 0x3000);
    assert_int_equal(access_la(&f, LA, PF_W), NONE);

    f.phys_bits = 36;
    for (unsigned bit = 13; bit <= 21; bit++) {
        f.c->paging_key = 0;
        put(&f, F_32_4M, 2, BIT(bit) | RWU | PTE_PS);
        enter(&f, F_32_4M, (struct regs){0});
        assert_int_equal(access_la(&f, LA, 0), bit < 17 ? NONE : PF_P | PF_RSVD);
    }
    fake_free(&f);
}

/* Without CR4.PSE a PDE's PS is ignored; without 1G pages a PDPTE's is reserved. */
static void test_no_large(void **state)
{
    struct fake f;
    fake_init(&f);
    build(&f, F_32_4K, RWU | PTE_PS, RWU);
    enter(&f, F_32_4K, (struct regs){0});
    f.c->cr4 &= ~(u64)CR4_PSE;
    cpu_update_mode(f.c);
    gpa_t gpa;
    assert_true(cpu_translate(f.c, LA, &gpa));
    assert_int_equal(gpa, 0x5000);

    f.no_1g = true;
    build(&f, F_4L_1G, RWU, RWU);
    enter(&f, F_4L_1G, (struct regs){0});
    assert_int_equal(access_la(&f, LA, 0), PF_P | PF_RSVD);
    fake_free(&f);
}

/* --- A and D --- */

static void test_accessed_dirty(void **state)
{
    struct fake f;
    fake_init(&f);
    for (enum format m = 0; m < FORMATS; m++) {
        unsigned last = leaf_level(m);
        build(&f, m, RWU, RWU);
        enter(&f, m, (struct regs){0});
        assert_int_equal(access_la(&f, LA, 0), NONE);
        for (unsigned level = last; level <= top_level(m); level++)
            assert_int_equal(get(&f, m, level) & (PTE_A | PTE_D), PTE_A);
        /* The read is cached: the first write must still find its way to D. */
        assert_int_equal(access_la(&f, LA, PF_W), NONE);
        assert_int_equal(get(&f, m, last) & (PTE_A | PTE_D), PTE_A | PTE_D);
        for (unsigned level = last + 1; level <= top_level(m); level++)
            assert_int_equal(get(&f, m, level) & (PTE_A | PTE_D), PTE_A);
        /* A fetch sets A alone. */
        build(&f, m, RWU, RWU);
        cpu_tlb_flush(f.c);
        assert_int_equal(access_la(&f, LA, PF_I), NONE);
        assert_int_equal(get(&f, m, last) & (PTE_A | PTE_D), PTE_A);
    }
    fake_free(&f);
}

/* A denied access leaves the leaf as it was. */
static void test_fault_sets_nothing(void **state)
{
    struct fake f;
    fake_init(&f);
    for (enum format m = 0; m < FORMATS; m++) {
        build(&f, m, RWU, PTE_P | PTE_U);
        enter(&f, m, (struct regs){.cpl = 3});
        assert_int_equal(access_la(&f, LA, PF_W), PF_P | PF_W | PF_U);
        assert_int_equal(get(&f, m, leaf_level(m)) & (PTE_A | PTE_D), 0);
    }
    fake_free(&f);
}

/* --- tables where no RAM is --- */

static void test_tables_nowhere(void **state)
{
    struct fake f;
    fake_init(&f);
    for (enum format m = 0; m < FORMATS; m++) {
        build(&f, m, RWU, RWU);
        enter(&f, m, (struct regs){.cpl = 3});
        f.c->cr3 = 0xe0000000;
        f.c->pdpte[1] = 0xe0000000 | PTE_P;
        u32 got = access_la(&f, LA, PF_W);
        assert_true(is32(m) ? got != 0 : got == (PF_P | PF_W | PF_U | PF_RSVD));
    }
    /* Tables in ROM: A cannot be set, and the access goes ahead. */
    u32 *rom = (u32 *)mem_ptr(&f.mem, FAKE_ROM);
    rom[LA >> 22] = RWU | PTE_PS;
    enter(&f, F_32_4M, (struct regs){0});
    f.c->cr3 = FAKE_ROM;
    assert_int_equal(access_la(&f, LA, PF_W), NONE);
    assert_int_equal(rom[LA >> 22], RWU | PTE_PS);
    fake_free(&f);
}

/* Code decoded from a page that is a page table, too: setting A makes it stale. */
static void test_code_in_table(void **state)
{
    struct fake f;
    fake_init(&f);
    build(&f, F_4L_4K, RWU, RWU);
    enter(&f, F_4L_4K, (struct regs){0});
    mem_code_mark(&f.mem, PT >> PAGE_SHIFT, mem_chunks(0, 64));
    u32 gen = mem_code_gen(&f.mem, PT >> PAGE_SHIFT);
    assert_int_equal(access_la(&f, LA, 0), NONE);
    assert_int_not_equal(mem_code_gen(&f.mem, PT >> PAGE_SHIFT), gen);
    assert_true(f.c->code_stale);
    fake_free(&f);
}

/* --- flushing --- */

static void test_invlpg(void **state)
{
    struct fake f;
    fake_init(&f);
    for (enum format m = 0; m < FORMATS; m++) {
        build(&f, m, RWU, RWU);
        enter(&f, m, (struct regs){0});
        assert_int_equal(access_la(&f, LA, PF_W), NONE);
        assert_int_equal(access_la(&f, LA, PF_I), NONE);
        u32 epoch = f.c->map_epoch;
        put(&f, m, leaf_level(m), 0);
        assert_int_equal(access_la(&f, LA, PF_W), NONE); /* still cached */
        /* Any address of the page will do. */
        cpu_tlb_flush_page(f.c, leaf_level(m) > 1 ? LA + 0x100000 : LA + 0xfff);
        assert_int_equal(access_la(&f, LA, PF_W), PF_W);
        assert_int_equal(access_la(&f, LA, PF_I), 0);
        assert_int_not_equal(f.c->map_epoch, epoch);
    }
    fake_free(&f);
}

static void test_global(void **state)
{
    struct fake f;
    fake_init(&f);
    for (enum format m = 0; m < FORMATS; m++)
        for (unsigned pge = 0; pge < 2; pge++)
            for (unsigned g = 0; g < 2; g++) {
                build(&f, m, RWU, RWU | (g ? PTE_G : 0));
                enter(&f, m, (struct regs){0});
                f.c->cr4 |= pge ? CR4_PGE : 0;
                cpu_tlb_flush(f.c);
                assert_int_equal(access_la(&f, LA, 0), NONE);
                put(&f, m, leaf_level(m), 0);
                cpu_write_cr3(f.c, f.c->cr3);
                assert_int_equal(access_la(&f, LA, 0), pge && g ? NONE : 0);
                cpu_write_cr4(f.c, f.c->cr4 ^ CR4_PGE); /* takes them all */
                assert_int_equal(access_la(&f, LA, 0), 0);
            }
    fake_free(&f);
}

/* A slot that held a global page and then another one must be flushed with the latter. */
static void test_slot_reuse(void **state)
{
    struct fake f;
    fake_init(&f);
    gva_t other = LA + TLB_SIZE * PAGE_SIZE; /* same slot */
    build(&f, F_32_4K, RWU, RWU | PTE_G);
    poke32(&f, PD + (other >> 22) * 4, (PT + 0x5000) | RWU);
    poke32(&f, PT + 0x5000 + (other >> 12 & 1023) * 4, 0x6000 | RWU);
    enter(&f, F_32_4K, (struct regs){0});
    f.c->cr4 |= CR4_PGE;
    assert_int_equal(access_la(&f, LA, 0), NONE);
    assert_int_equal(access_la(&f, other, 0), NONE);
    poke32(&f, PT + 0x5000 + (other >> 12 & 1023) * 4, 0);
    cpu_write_cr3(f.c, f.c->cr3);
    assert_int_equal(access_la(&f, other, 0), 0);
    assert_int_equal(access_la(&f, LA, 0), NONE);
    fake_free(&f);
}

/* Loads CR3 with what it holds; the epoch of user code positions after it. */
static u16 reload(struct fake *f)
{
    cpu_write_cr3(f->c, f->c->cr3);
    return f->c->user_epoch;
}

/* Positions in user code outlive a flush only if all of their pages are where they were. */
static void test_user_code(void **state)
{
    struct fake f;
    fake_init(&f);
    for (enum format m = 0; m < FORMATS; m++) {
        unsigned leaf = leaf_level(m);
        build(&f, m, RWU, RWU);
        enter(&f, m, (struct regs){.cpl = 3, .nxe = m >= F_PAE_4K});
        cpu_tlb_flush(f.c);
        u16 was = reload(&f);
        assert_int_equal(access_la(&f, LA, PF_I), NONE);
        assert_int_equal(reload(&f), was);
        u64 e = get(&f, m, leaf);
        put(&f, m, leaf, e & ~(u64)PTE_U);
        u16 now = reload(&f);
        assert_int_not_equal(now, was);
        put(&f, m, leaf, e);
        assert_int_equal(access_la(&f, LA, PF_I), NONE);
        assert_int_equal(reload(&f), now);
        put(&f, m, leaf, e ^ (leaf == 1 ? 0x8000 : leaf == 2 ? 4 * MiB : GiB));
        assert_int_not_equal(reload(&f), now);
        put(&f, m, leaf, e);
        assert_int_not_equal(reload(&f), was);
    }
    fake_free(&f);
}

/* One that was exchanged without a flush has positions in the old page. */
static void test_user_code_exchanged(void **state)
{
    struct fake f;
    fake_init(&f);
    build(&f, F_32_4K, RWU, RWU);
    enter(&f, F_32_4K, (struct regs){.cpl = 3});
    cpu_tlb_flush(f.c);
    u16 was = reload(&f);
    assert_int_equal(access_la(&f, LA, PF_I), NONE);
    put(&f, F_32_4K, 1, 0x7000 | RWU);
    f.c->itlb[1][LA >> PAGE_SHIFT & (ITLB_SIZE - 1)].tag = TLB_NONE; /* lost */
    assert_int_equal(access_la(&f, LA, PF_I), NONE);
    assert_int_not_equal(reload(&f), was);
    fake_free(&f);
}

/* More pages than are listed. */
static void test_user_code_much(void **state)
{
    struct fake f;
    fake_init(&f);
    build(&f, F_32_4K, RWU, RWU);
    for (unsigned n = 0; n < 2 * CONTEXT_PAGES; n++)
        poke32(&f, PT + 4 * n, (0x5000 + n * PAGE_SIZE) | RWU);
    enter(&f, F_32_4K, (struct regs){.cpl = 3});
    gva_t base = LA & ~0x3fffffull;
    for (unsigned pages = 1; pages < 2 * CONTEXT_PAGES; pages++) {
        cpu_tlb_flush(f.c);
        u16 was = reload(&f);
        for (unsigned n = 0; n < 2 * pages; n++)
            assert_int_equal(access_la(&f, base + n % pages * PAGE_SIZE, PF_I), NONE);
        assert_int_equal(reload(&f) == was, pages <= CONTEXT_PAGES);
    }
    fake_free(&f);
}

static unsigned used_slots(const struct tlb_index *x)
{
    unsigned n = 0;
    for (unsigned w = 0; w < TLB_SIZE / 64; w++)
        n += (unsigned)__builtin_popcountll(x->used[w]);
    return n;
}

/* Fill more than everything, flush, and see that the index has stayed in step. */
static void test_index(void **state)
{
    struct fake f;
    fake_init(&f);
    build(&f, F_4L_1G, RWU, RWU);
    enter(&f, F_4L_1G, (struct regs){0});
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 3 * TLB_SIZE; i++)
            cpu_ld8(f.c, X86_SEG_FLAT, GiB + i * PAGE_SIZE);
        assert_int_equal(used_slots(&f.c->tlb_index[TLB_KERNEL]), TLB_SIZE);
        cpu_tlb_flush(f.c);
        assert_int_equal(used_slots(&f.c->tlb_index[TLB_KERNEL]), 0);
        for (unsigned i = 0; i < TLB_SIZE; i++)
            assert_true(f.c->tlb[i].rd == TLB_NONE && f.c->tlb[i].wr == TLB_NONE);
    }
    fake_free(&f);
}

/* --- another CPU changes the entry all the time --- */

struct race {
    _Atomic u64 *pte;
    _Atomic bool stop;
};

/* Counts in bits that the walker must carry over (62:52 are software's), and clears A and D. */
static void *count(void *arg)
{
    struct race *r = arg;
    for (unsigned i = 0; i < 2000; i++) {
        atomic_fetch_add(r->pte, BIT(52));
        atomic_fetch_and(r->pte, ~(PTE_A | PTE_D));
    }
    atomic_store(&r->stop, true);
    return NULL;
}

static void test_race(void **state)
{
    struct fake f;
    fake_init(&f);
    for (unsigned round = 0; round < 20; round++) {
        build(&f, F_4L_4K, RWU, RWU);
        enter(&f, F_4L_4K, (struct regs){0});
        struct race r = {.pte = (_Atomic u64 *)mem_ptr(&f.mem, entry_at(F_4L_4K, 1))};
        pthread_t t;
        assert_int_equal(pthread_create(&t, NULL, count, &r), 0);
        while (!atomic_load(&r.stop)) {
            cpu_tlb_flush(f.c);
            assert_int_equal(access_la(&f, LA, PF_W), NONE);
        }
        pthread_join(t, NULL);
        assert_int_equal(atomic_load(r.pte) >> 52, 2000); /* none was lost */
    }
    fake_free(&f);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rights),         cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_not_present),    cmocka_unit_test(test_reserved),
        cmocka_unit_test(test_pse36),          cmocka_unit_test(test_no_large),
        cmocka_unit_test(test_accessed_dirty), cmocka_unit_test(test_fault_sets_nothing),
        cmocka_unit_test(test_tables_nowhere), cmocka_unit_test(test_code_in_table),
        cmocka_unit_test(test_user_code),      cmocka_unit_test(test_user_code_exchanged),
        cmocka_unit_test(test_user_code_much), cmocka_unit_test(test_invlpg),
        cmocka_unit_test(test_global),         cmocka_unit_test(test_slot_reuse),
        cmocka_unit_test(test_index),          cmocka_unit_test(test_race),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
