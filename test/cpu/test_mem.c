/*
 * test_mem.c - accesses beyond the fast path: page crossings, MMIO, ROM, code tracking, watched
 * pages, alignment, segment limits, read-modify-write.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/state.h"
#include "fake.h"

#define PD   0x11000
#define PT   0x10000
#define RWU  (PTE_P | PTE_W | PTE_U)
#define MMIO 0xe0000000ull

/* 32-bit paging: [0, 4 MiB) by 4K pages, identity; tests change single entries. */
static void setup(struct fake *f, unsigned cpl)
{
    fake_init(f);
    for (u32 i = 0; i < 1024; i++)
        poke32(f, PT + 4 * i, i << PAGE_SHIFT | RWU);
    poke32(f, PD, PT | RWU);
    poke32(f, PD + 4 * 1023, PT | RWU); /* the last 4 MiB are the first again */
    f->c->cr0 = CR0_PE | CR0_PG | CR0_WP;
    f->c->cr3 = PD;
    fake_mode(f, X86_MODE32, cpl);
}

static void map(struct fake *f, u32 page, u32 pte)
{
    poke32(f, PT + 4 * page, pte);
    cpu_tlb_flush(f->c);
}

static u8 *ram(struct fake *f, gpa_t gpa)
{
    return mem_ptr(&f->mem, gpa);
}

/* --- page crossings --- */

static void test_crossing(void **state)
{
    struct fake f;
    setup(&f, 3);
    map(&f, 0x41, 0x200000 | RWU); /* pages that are not neighbours */
    u64 v = 0x8877665544332211;
    for (unsigned size = 2; size <= 64; size++)
        for (unsigned first = 1; first < size; first++) {
            u8 in[64], out[64];
            for (unsigned i = 0; i < size; i++)
                in[i] = size + first + i;
            gva_t la = 0x41000 - first;
            assert_int_equal(TRY(f.c, cpu_write_slow(f.c, la, in, size)), -1);
            assert_memory_equal(ram(&f, la), in, first);
            assert_memory_equal(ram(&f, 0x200000), in + first, size - first);
            cpu_read_slow(f.c, la, out, size);
            assert_memory_equal(in, out, size);
        }
    cpu_st64(f.c, DS, 0x40ffd, v);
    assert_int_equal(cpu_ld32(f.c, DS, 0x40fff), 0x66554433);
    fake_free(&f);
}

/* Either page can be what faults, and then nothing has been written. */
static void test_crossing_faults(void **state)
{
    struct fake f;
    setup(&f, 3);
    cpu_st64(f.c, DS, 0x40ffc, 0x1111111111111111);
    map(&f, 0x41, 0x41000 | PTE_P | PTE_U);
    assert_int_equal(TRY(f.c, cpu_st64(f.c, DS, 0x40ffc, 0)), EXC_PF);
    assert_int_equal(f.c->cr2, 0x41000);
    assert_int_equal(f.c->exc.err, PF_P | PF_W | PF_U);
    assert_int_equal(look32(&f, 0x40ffc), 0x11111111);
    assert_int_equal(cpu_ld64(f.c, DS, 0x40ffc), 0x1111111111111111);
    assert_int_equal(TRY(f.c, cpu_ptr_slow(f.c, 0x40ffc, 8, true)), EXC_PF);

    map(&f, 0x41, 0x41000 | RWU);
    map(&f, 0x40, 0);
    assert_int_equal(TRY(f.c, cpu_st64(f.c, DS, 0x40ffc, 0)), EXC_PF);
    assert_int_equal(f.c->cr2, 0x40ffc);
    assert_int_equal(f.c->exc.err, PF_W | PF_U);
    assert_int_equal(look32(&f, 0x41000), 0x11111111);
    fake_free(&f);
}

/* From the last byte of 4 GiB on to address 0; a segment of all 4 GiB lets it. */
static void test_wrap(void **state)
{
    struct fake f;
    setup(&f, 0);
    u32 v = 0x44332211;
    cpu_write_slow(f.c, 0xfffffffe, &v, 4);
    assert_int_equal(*(u16_any *)ram(&f, 0x3ffffe), 0x2211);
    assert_int_equal(*(u16 *)ram(&f, 0), 0x4433);
    assert_int_equal(cpu_ld32(f.c, DS, 0xfffffffe), v);
    f.c->seg[DS].limit = f.c->seg[SS].limit = 0xfffffffe;
    cpu_update_mode(f.c);
    assert_int_equal(TRY(f.c, cpu_ld32(f.c, DS, 0xfffffffe)), EXC_GP);
    assert_int_equal(TRY(f.c, cpu_ld32(f.c, SS, 0xfffffffe)), EXC_SS);
    fake_free(&f);
}

/* Page 0 is a page like any other: an empty TLB does not hold it. */
static void test_page_zero(void **state)
{
    struct fake f;
    setup(&f, 0);
    map(&f, 0, 0x5000 | RWU);
    poke32(&f, 0x5000, 0xabcd);
    assert_int_equal(cpu_ld32(f.c, DS, 0), 0xabcd);
    map(&f, 0, 0);
    assert_int_equal(TRY(f.c, cpu_ld32(f.c, DS, 0)), EXC_PF);
    assert_int_equal(TRY(f.c, cpu_st8(f.c, DS, 1, 0)), EXC_PF);
    assert_int_equal(TRY(f.c, cpu_code_page(f.c, 0)), EXC_PF);
    fake_free(&f);
}

/* --- MMIO and ROM --- */

static void check_log(struct fake *f, unsigned n, char what, u64 addr, unsigned size, u64 val)
{
    assert_true(f->nlog > n);
    assert_int_equal(f->log[n].what, what);
    assert_int_equal(f->log[n].addr, addr);
    assert_int_equal(f->log[n].size, size);
    assert_int_equal(f->log[n].val, val);
}

static void test_mmio(void **state)
{
    struct fake f;
    setup(&f, 0);
    map(&f, 0x40, MMIO | RWU);
    map(&f, 0x41, (MMIO + 0x1000) | RWU);
    assert_int_equal(cpu_ld32(f.c, DS, 0x40010), 0x55667788);
    check_log(&f, 0, 'r', MMIO + 0x10, 4, f.mmio_value);
    cpu_st8(f.c, DS, 0x40013, 0xa5);
    check_log(&f, 1, 'w', MMIO + 0x13, 1, 0xa5);
    assert_int_equal(f.leaves, 2);

    /* Naturally aligned pieces, in order. */
    f.nlog = 0;
    cpu_st64(f.c, DS, 0x40022, 0x8877665544332211);
    assert_int_equal(f.nlog, 3);
    check_log(&f, 0, 'w', MMIO + 0x22, 2, 0x2211);
    check_log(&f, 1, 'w', MMIO + 0x24, 4, 0x66554433);
    check_log(&f, 2, 'w', MMIO + 0x28, 2, 0x8877);

    /* Across pages. */
    f.nlog = 0;
    cpu_ld32(f.c, DS, 0x40ffd);
    assert_int_equal(f.nlog, 3);
    check_log(&f, 0, 'r', MMIO + 0xffd, 1, f.mmio_value);
    check_log(&f, 2, 'r', MMIO + 0x1000, 1, f.mmio_value);
    assert_null(cpu_ptr_slow(f.c, 0x40000, 4, false));
    assert_null(cpu_ptr_slow(f.c, 0x40000, 4, true));
    fake_free(&f);
}

static void test_rom(void **state)
{
    struct fake f;
    setup(&f, 0);
    map(&f, 0x40, FAKE_ROM | RWU);
    poke32(&f, FAKE_ROM, 0x600d);
    assert_int_equal(cpu_ld32(f.c, DS, 0x40000), 0x600d);
    cpu_st32(f.c, DS, 0x40000, 0xbad);
    check_log(&f, 0, 'w', FAKE_ROM, 4, 0xbad);
    assert_int_equal(cpu_ld32(f.c, DS, 0x40000), 0x600d);
    assert_null(cpu_ptr_slow(f.c, 0x40000, 4, true));
    assert_non_null(cpu_ptr_slow(f.c, 0x40000, 4, false));
    assert_non_null(cpu_code_page(f.c, 0x40000));
    fake_free(&f);
}

/* --- code --- */

static void test_code_tracking(void **state)
{
    struct fake f;
    setup(&f, 0);
    mem_code_mark(&f.mem, 0x40, mem_chunks(0x100, 16));
    u32 gen = mem_code_gen(&f.mem, 0x40);
    cpu_st32(f.c, DS, 0x40200, 1); /* beside it */
    cpu_st32(f.c, DS, 0x40204, 1);
    assert_false(f.c->code_stale);
    assert_int_equal(mem_code_gen(&f.mem, 0x40), gen);
    cpu_st32(f.c, DS, 0x40104, 1);
    assert_true(f.c->code_stale);
    assert_int_equal(mem_code_gen(&f.mem, 0x40), gen + 1);

    /* By a crossing store, and by the read-modify-write of the second page's start. */
    f.c->code_stale = false;
    mem_code_mark(&f.mem, 0x41, mem_chunks(0, 1));
    cpu_st32(f.c, DS, 0x40ffd, 1);
    assert_true(f.c->code_stale);
    f.c->code_stale = false;
    mem_code_mark(&f.mem, 0x41, mem_chunks(0, 1));
    struct cpu_rmw m;
    cpu_rmw_begin(f.c, &m, DS, 0x40fff, 2, true);
    cpu_rmw_end(f.c, &m);
    assert_true(f.c->code_stale);
    fake_free(&f);
}

static void test_code_page(void **state)
{
    struct fake f;
    setup(&f, 0);
    map(&f, 0x40, MMIO | RWU);
    u8 buf[16];
    memset(ram(&f, 0x41ff8), 0x90, 8);
    assert_int_equal(cpu_fetch_slow(f.c, 0x41ff8, buf, 15), 8);
    assert_int_equal(buf[7], 0x90);
    assert_null(cpu_code_page(f.c, 0x40000));
    f.mmio_value = 0xc3;
    assert_int_equal(cpu_fetch_slow(f.c, 0x40001, buf, 1), 1);
    assert_int_equal(buf[0], 0xc3);

    const struct itlb_entry *e = cpu_code_page(f.c, 0x41000);
    assert_int_equal(e->gpa, 0x41000);
    assert_int_equal(e->page, 0x41);
    assert_ptr_equal(e->host, ram(&f, 0x41000));
    /* Data pages may go without code positions becoming void; code pages may not. */
    cpu_ld8(f.c, DS, 0x50000);
    u32 epoch = f.c->map_epoch;
    cpu_tlb_flush_page(f.c, 0x50000);
    assert_int_equal(f.c->map_epoch, epoch);
    cpu_tlb_flush_page(f.c, 0x41000);
    assert_int_not_equal(f.c->map_epoch, epoch);
    /* ... nor those of pages that have left the ITLB meanwhile. */
    cpu_code_page(f.c, 0x41000);
    cpu_code_page(f.c, 0x41000 + ITLB_SIZE * PAGE_SIZE);
    epoch = f.c->map_epoch;
    cpu_tlb_flush_page(f.c, 0x41000);
    assert_int_not_equal(f.c->map_epoch, epoch);
    fake_free(&f);
}

/* --- watched pages --- */

static void test_watch(void **state)
{
    struct fake f;
    setup(&f, 0);
    f.watched = 0x40000;
    f.c->dr[7] |= 1;
    for (unsigned i = 0; i < 3; i++) {
        cpu_st16(f.c, DS, 0x40010, 1);
        cpu_ld32(f.c, DS, 0x40020);
    }
    assert_int_equal(f.hits, 6);
    assert_int_equal(f.hit_la, 0x40020);
    assert_int_equal(f.hit_size, 4);
    assert_false(f.hit_write);
    cpu_ld32(f.c, DS, 0x41000);
    cpu_ld32(f.c, DS, 0x41000);
    assert_int_equal(f.hits, 6);
    struct cpu_rmw m;
    cpu_rmw_begin(f.c, &m, DS, 0x40030, 8, false);
    cpu_rmw_end(f.c, &m);
    assert_int_equal(f.hits, 7);
    assert_true(f.hit_write);
    assert_null(cpu_ptr_slow(f.c, 0x40000, 16, true)); /* not in the TLB: by bounce buffer */
    fake_free(&f);
}

/* --- alignment --- */

static void test_alignment(void **state)
{
    static const u8 checked[] = {[2] = 2, [4] = 4, [8] = 8};
    struct fake f;
    setup(&f, 3);
    f.c->cr0 |= CR0_AM;
    cpu_set_flags(f.c, FLAG_AC);
    assert_ptr_equal(f.c->tlb, f.c->tlbs[TLB_STRICT]);
    u8 buf[64];
    for (unsigned size = 1; size <= 8; size *= 2)
        for (unsigned off = 0; off < 8; off++) {
            bool bad = checked[size] && off % checked[size];
            for (unsigned again = 0; again < 2; again++) {
                assert_int_equal(TRY(f.c, cpu_read_slow(f.c, 0x40000 + off, buf, size)),
                                 bad ? EXC_AC : -1);
                assert_int_equal(TRY(f.c, cpu_write_slow(f.c, 0x40000 + off, buf, size)),
                                 bad ? EXC_AC : -1);
            }
            assert_true(!bad || (f.c->exc.has_err && f.c->exc.err == 0));
        }
    assert_int_equal(TRY(f.c, cpu_ld32(f.c, DS, 0x40001)), EXC_AC);
    /* The supervisor is not checked, nor are its accesses on the user's behalf. */
    assert_int_equal(TRY(f.c, cpu_sys_read(f.c, 0x40001, 4)), -1);
    cpu_set_flags(f.c, 0);
    assert_int_equal(TRY(f.c, cpu_ld32(f.c, DS, 0x40001)), -1);
    fake_free(&f);
}

/* --- implicit supervisor accesses --- */

static void test_system(void **state)
{
    struct fake f;
    setup(&f, 3);
    map(&f, 0x40, 0x40000 | PTE_P | PTE_W);
    assert_int_equal(TRY(f.c, cpu_ld8(f.c, DS, 0x40000)), EXC_PF);
    cpu_sys_write(f.c, 0x40008, 8, 0x1122334455667788);
    assert_true(cpu_sys_read(f.c, 0x40008, 8) == 0x1122334455667788);
    assert_int_equal(cpu_sys_read(f.c, 0x40009, 1), 0x77);
    map(&f, 0x40, 0x40000 | PTE_P);
    assert_int_equal(TRY(f.c, cpu_sys_write(f.c, 0x40008, 4, 0)), EXC_PF);
    assert_int_equal(f.c->exc.err, PF_P | PF_W); /* no U: it was the supervisor */

    /* SMAP holds even with EFLAGS.AC. */
    f.c->cr4 |= CR4_SMAP;
    cpu_set_flags(f.c, FLAG_AC);
    fake_mode(&f, X86_MODE32, 0);
    assert_int_equal(TRY(f.c, cpu_ld8(f.c, DS, 0x50000)), -1);
    assert_int_equal(TRY(f.c, cpu_sys_read(f.c, 0x50000, 1)), EXC_PF);
    assert_int_equal(f.c->exc.err, PF_P);
    cpu_set_flags(f.c, 0);
    assert_int_equal(TRY(f.c, cpu_ld8(f.c, DS, 0x50000)), EXC_PF);
    fake_free(&f);
}

/* --- segments --- */

static void limits(struct fake *f, u32 attr, u32 limit)
{
    f->c->seg[FS].attr = f->c->seg[SS].attr = attr;
    f->c->seg[FS].limit = f->c->seg[SS].limit = limit;
}

static int check(struct fake *f, unsigned seg, u64 ea, unsigned size, bool write)
{
    return TRY(f->c, cpu_seg_check(f->c, seg, ea, size, write));
}

static void test_segments(void **state)
{
    const u32 data = SEG_P | SEG_S | SEG_WRITABLE | SEG_DB, down = data | SEG_EXPDOWN;
    struct fake f;
    setup(&f, 0);
    limits(&f, data, 0xfff);
    assert_int_equal(check(&f, FS, 0xffc, 4, true), -1);
    assert_int_equal(check(&f, FS, 0xffd, 4, true), EXC_GP);
    assert_int_equal(check(&f, SS, 0xffd, 4, true), EXC_SS);
    assert_int_equal(check(&f, FS, 0xfffffffd, 4, false), EXC_GP);
    limits(&f, data & ~SEG_WRITABLE, 0xfff);
    assert_int_equal(check(&f, FS, 0, 1, false), -1);
    assert_int_equal(check(&f, FS, 0, 1, true), EXC_GP);

    limits(&f, down, 0xfff);
    assert_int_equal(check(&f, FS, 0xfff, 1, false), EXC_GP);
    assert_int_equal(check(&f, FS, 0x1000, 4, true), -1);
    assert_int_equal(check(&f, FS, 0xfffffffc, 4, true), -1);
    assert_int_equal(check(&f, FS, 0xfffffffd, 4, true), EXC_GP);
    limits(&f, down & ~SEG_DB, 0xfff);
    assert_int_equal(check(&f, SS, 0xfffe, 2, true), -1);
    assert_int_equal(check(&f, SS, 0xffff, 2, true), EXC_SS);

    limits(&f, SEG_P | SEG_S | SEG_CODE, 0xfff);
    assert_int_equal(check(&f, FS, 0, 1, false), EXC_GP);
    limits(&f, SEG_P | SEG_S | SEG_CODE | SEG_READABLE, 0xfff);
    assert_int_equal(check(&f, FS, 0, 1, false), -1);
    assert_int_equal(check(&f, FS, 0, 1, true), EXC_GP);
    assert_int_equal(check(&f, FS, 0x1000, 1, false), EXC_GP);
    limits(&f, data | SEG_UNUSABLE, 0xffffffff);
    assert_int_equal(check(&f, FS, 0, 1, false), EXC_GP);
    assert_int_equal(check(&f, SS, 0, 1, false), EXC_SS);
    assert_int_equal(f.c->exc.err, 0);
    fake_free(&f);
}

/* Real mode: a limit, and no types. */
static void test_real_segments(void **state)
{
    struct fake f;
    fake_init(&f);
    cpu_reset(f.c, false);
    assert_int_equal(check(&f, DS, 0xfffe, 2, true), -1);
    assert_int_equal(check(&f, DS, 0xffff, 2, true), EXC_GP);
    assert_int_equal(check(&f, SS, 0xffff, 2, true), EXC_SS);
    assert_int_equal(check(&f, CS, 0x100, 2, true), -1);
    fake_free(&f);
}

/* --- canonical addresses --- */

static void setup64(struct fake *f)
{
    fake_init(f);
    for (unsigned i = 0; i < 512; i++)
        poke64(f, 0x12000 + 8 * i, i % 8 * 2 * MiB | RWU | PTE_PS);
    for (unsigned i = 0; i < 512; i++)
        poke64(f, 0x13000 + 8 * i, 0x12000 | RWU);
    for (unsigned i = 0; i < 512; i++)
        poke64(f, 0x14000 + 8 * i, 0x13000 | RWU);
    f->c->cr0 = CR0_PE | CR0_PG | CR0_WP;
    f->c->cr4 = CR4_PAE;
    f->c->efer = EFER_LME | EFER_LMA;
    f->c->cr3 = 0x14000;
    fake_mode(f, X86_MODE64, 0);
}

static void test_canonical(void **state)
{
    static const struct {
        u64 la;
        unsigned size;
        bool ok;
    } t[] = {
        {0x00007ffffffffff8, 8, true},  {0x00007ffffffffffc, 8, false},
        {0x0000800000000000, 1, false}, {0xffff7fffffffffff, 1, false},
        {0xffff7fffffffffff, 2, false}, {0xffff800000000000, 8, true},
        {0xfffffffffffffff8, 8, true},  {0xfffffffffffffffc, 8, true}, /* wraps */
        {0x1000000000000000, 4, false},
    };
    struct fake f;
    setup64(&f);
    u8 buf[8] = {0};
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        assert_int_equal(TRY(f.c, cpu_read_slow(f.c, t[i].la, buf, t[i].size)),
                         t[i].ok ? -1 : EXC_GP);
        assert_int_equal(TRY(f.c, cpu_write_slow(f.c, t[i].la, buf, t[i].size)),
                         t[i].ok ? -1 : EXC_GP);
        assert_true(t[i].ok || f.c->exc.noncanonical);
    }
    assert_int_equal(TRY(f.c, cpu_code_page(f.c, 0x800000000000)), EXC_GP);
    fake_free(&f);
}

static void test_stack_canonical(void **state)
{
    static const struct {
        u8 prefix, seg, base;
        u8 vec;
    } t[] = {
        {X86_PFX_MEM, X86_SEG_FLAT, RSP, EXC_SS},
        {X86_PFX_MEM, X86_SEG_FLAT, RBP, EXC_SS},
        {X86_PFX_MEM, X86_SEG_FLAT, RAX, EXC_GP},
        {X86_PFX_MEM, X86_SEG_FLAT, R13, EXC_GP},
        {X86_PFX_MEM, FS, RBP, EXC_GP},
        {0, X86_SEG_FLAT, RSP, EXC_GP}, /* no operand in memory, and no stack instruction */
    };
    struct fake f;
    setup64(&f);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        struct x86_insn in = {.prefix = t[i].prefix,
                              .seg = t[i].seg,
                              .base = t[i].base,
                              .index = X86_SLOT_ZERO,
                              .adsize = 8};
        f.c->reg[t[i].base] = BIT(60);
        assert_int_equal(TRY(f.c, cpu_ld8(f.c, X86_SEG_FLAT, BIT(60))), EXC_GP);
        cpu_fix_noncanonical(f.c, &in);
        assert_int_equal(f.c->exc.vec, t[i].vec);
        assert_true(f.c->exc.has_err && f.c->exc.err == 0);
    }
    fake_free(&f);
}

/* --- read-modify-write --- */

static void rmw_add(struct fake *f, u64 ea, bool lock)
{
    struct cpu_rmw m;
    cpu_rmw_begin(f->c, &m, DS, ea, 4, lock);
    u32 v;
    memcpy(&v, m.p, 4);
    v += 0x01010101;
    memcpy(m.p, &v, 4);
    cpu_rmw_end(f->c, &m);
}

static bool split_lock_free(struct fake *f)
{
    if (pthread_mutex_trylock(&f->mem.split_lock))
        return false;
    pthread_mutex_unlock(&f->mem.split_lock);
    return true;
}

static void test_rmw(void **state)
{
    struct fake f;
    setup(&f, 0);
    map(&f, 0x41, 0x200000 | RWU);
    for (unsigned lock = 0; lock < 2; lock++)
        for (gva_t la = 0x40ffa; la < 0x41003; la++) {
            u32 v = 0x40302010, got = 0;
            cpu_write_slow(f.c, la, &v, 4);
            rmw_add(&f, la, lock);
            cpu_read_slow(f.c, la, &got, 4);
            assert_int_equal(got, 0x41312111);
            assert_true(split_lock_free(&f));
        }
    /* 16 bytes across. */
    struct cpu_rmw m;
    cpu_rmw_begin(f.c, &m, DS, 0x40ff8, 16, true);
    memset(m.p, 0x77, 16);
    assert_false(split_lock_free(&f));
    cpu_rmw_end(f.c, &m);
    assert_true(cpu_ld64(f.c, DS, 0x41000) == 0x7777777777777777);
    assert_true(split_lock_free(&f));
    fake_free(&f);
}

/* Write permission is asked for before anything is read, and no lock is left behind. */
static void test_rmw_faults(void **state)
{
    struct fake f;
    setup(&f, 3);
    map(&f, 0x41, 0x41000 | PTE_P | PTE_U);
    struct cpu_rmw m;
    assert_int_equal(TRY(f.c, cpu_rmw_begin(f.c, &m, DS, 0x41000, 4, true)), EXC_PF);
    assert_int_equal(f.c->exc.err, PF_P | PF_W | PF_U);
    assert_int_equal(TRY(f.c, cpu_rmw_begin(f.c, &m, DS, 0x40ffe, 4, true)), EXC_PF);
    assert_int_equal(f.c->cr2, 0x41000);
    assert_true(split_lock_free(&f));
    fake_free(&f);
}

static void test_rmw_mmio(void **state)
{
    struct fake f;
    setup(&f, 0);
    map(&f, 0x40, MMIO | RWU);
    map(&f, 0x41, FAKE_ROM | RWU);
    f.mmio_value = 0x11223344;
    rmw_add(&f, 0x40010, true);
    assert_int_equal(f.nlog, 2);
    check_log(&f, 0, 'r', MMIO + 0x10, 4, 0x11223344);
    check_log(&f, 1, 'w', MMIO + 0x10, 4, 0x12233445);
    f.nlog = 0;
    poke32(&f, FAKE_ROM, 0x600d);
    rmw_add(&f, 0x41000, false);
    check_log(&f, 0, 'w', FAKE_ROM, 4, 0x0101610e);
    assert_int_equal(look32(&f, FAKE_ROM), 0x600d);
    fake_free(&f);
}

/* --- the monitor's view --- */

static void test_peek(void **state)
{
    struct fake f;
    setup(&f, 0);
    map(&f, 0x41, 0x200000 | RWU);
    map(&f, 0x42, 0);
    u8 buf[32];
    memset(ram(&f, 0x40ff0), 1, 16);
    memset(ram(&f, 0x200000), 2, 16);
    assert_true(cpu_peek(f.c, 0x40ff0, buf, 32));
    assert_int_equal(buf[15], 1);
    assert_int_equal(buf[16], 2);
    assert_int_equal(look32(&f, PT + 4 * 0x41) & PTE_A, 0);
    assert_false(cpu_peek(f.c, 0x41ff0, buf, 32));
    fake_free(&f);
}

/* --- saved state --- */

static void test_state(void **state)
{
    struct fake f, g;
    struct state s, l;
    setup64(&f);
    fake_init(&g);
    for (unsigned i = 0; i < 16; i++)
        f.c->reg[i] = i * 0x0101010101010101;
    f.c->reg[X86_SLOT_RIP] = 0x1234;
    cpu_set_flags(f.c, FLAG_CF | FLAG_IF | FLAG_OF);
    f.c->lstar = 0xffffffff81000000;
    f.c->nmi_blocked = true;
    cpu_event_set(f.c, EV_NMI);
    state_init_save(&s);
    cpu_state(f.c, &s);
    assert_false(s.failed);

    state_init_load(&l, s.buf, s.len);
    cpu_state(g.c, &l);
    assert_false(l.failed);
    assert_memory_equal(g.c->reg, f.c->reg, sizeof(f.c->reg));
    assert_int_equal(cpu_flags(g.c), FLAG_CF | FLAG_IF | FLAG_OF | FLAG_ONE);
    assert_int_equal(g.c->mode, X86_MODE64);
    assert_true(g.c->lstar == f.c->lstar && g.c->cr3 == f.c->cr3);
    assert_true(g.c->nmi_blocked);
    assert_true(atomic_load(&g.c->events) & EV_NMI);

    /* Cut short or damaged anywhere: refused or taken, never fatal. */
    for (size_t len = 0; len < s.len; len += 7) {
        state_init_load(&l, s.buf, len);
        cpu_state(g.c, &l);
        assert_true(l.failed);
    }
    for (size_t at = 0; at < s.len; at++) {
        s.buf[at] ^= 0xff;
        state_init_load(&l, s.buf, s.len);
        cpu_state(g.c, &l);
        s.buf[at] ^= 0xff;
        assert_true(g.c->cpl <= 3 && g.c->activity <= CPU_SHUTDOWN);
    }
    state_free(&s);
    fake_free(&f);
    fake_free(&g);
}

/* --- RESET, INIT, SIPI --- */

static void test_reset(void **state)
{
    struct fake f;
    setup64(&f);
    struct cpu *c = f.c;
    c->lstar = 5;
    c->id = 1;
    cpu_reset(c, true);
    assert_int_equal(c->cr0, CR0_ET);
    assert_int_equal(c->lstar, 5);
    assert_int_equal(c->activity, CPU_WAIT_SIPI);
    assert_int_equal(c->mode, X86_MODE16);
    cpu_sipi(c, 0x9a);
    assert_int_equal(c->seg[CS].sel, 0x9a00);
    assert_int_equal(c->seg[CS].base, 0x9a000);
    assert_int_equal(c->reg[X86_SLOT_RIP], 0);
    assert_int_equal(c->activity, CPU_RUNNING);

    c->id = 0;
    cpu_reset(c, false);
    assert_int_equal(c->activity, CPU_RUNNING);
    assert_int_equal(c->lstar, 0);
    assert_int_equal(c->cr0, 0x60000010);
    assert_int_equal(c->reg[X86_SLOT_RIP], 0xfff0);
    assert_int_equal(c->seg[CS].base, 0xffff0000);
    assert_int_equal(c->reg[RDX], 0x806f8);
    assert_int_equal(cpu_flags(c), 2);
    /* The first fetch is from the ROM's last 16 bytes. */
    assert_int_equal(cpu_code_page(c, 0xfffffff0)->gpa, 0xfffff000);
    fake_free(&f);
}

static void test_events(void **state)
{
    struct fake f;
    fake_init(&f);
    struct cpu *c = f.c;
    cpu_event_set(c, EV_INTR);
    assert_false(cpu_event_pending(c));
    cpu_set_flags(c, FLAG_IF);
    assert_true(cpu_event_pending(c));
    cpu_set_flags(c, 0);
    assert_false(cpu_event_pending(c));
    cpu_event_clear(c, EV_INTR);
    cpu_set_flags(c, FLAG_TF);
    assert_true(cpu_event_pending(c)); /* step by step */
    cpu_set_flags(c, 0);
    assert_false(cpu_event_pending(c));
    c->nmi_blocked = true;
    cpu_update_mode(c);
    cpu_event_set(c, EV_NMI);
    assert_false(cpu_event_pending(c));
    c->nmi_blocked = false;
    cpu_set_flags(c, 0);
    assert_true(cpu_event_pending(c));
    fake_free(&f);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crossing),
        cmocka_unit_test(test_crossing_faults),
        cmocka_unit_test(test_wrap),
        cmocka_unit_test(test_page_zero),
        cmocka_unit_test(test_mmio),
        cmocka_unit_test(test_rom),
        cmocka_unit_test(test_code_tracking),
        cmocka_unit_test(test_code_page),
        cmocka_unit_test(test_watch),
        cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_system),
        cmocka_unit_test(test_segments),
        cmocka_unit_test(test_real_segments),
        cmocka_unit_test(test_canonical),
        cmocka_unit_test(test_stack_canonical),
        cmocka_unit_test(test_rmw),
        cmocka_unit_test(test_rmw_faults),
        cmocka_unit_test(test_rmw_mmio),
        cmocka_unit_test(test_peek),
        cmocka_unit_test(test_state),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_events),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
