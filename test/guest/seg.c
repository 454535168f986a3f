/*
 * seg.c - segmentation: limits, types, LAR and its kin, accessed bits, LDT and TR loads, and in
 * long mode what is left of it: FS and GS bases, SWAPGS, ignored limits (SDM vol. 3A, 3.4, 5.3
 * to 5.11; vol. 2, LAR, LSL, VERR, ARPL, LLDT, LTR, SWAPGS).
 */
#include "guest.h"

#define SEL_T   (SEL_FREE + 0x00) /* the descriptor under test */
#define SEL_LD  (SEL_FREE + 0x10) /* LDT descriptor (16 bytes in long mode) */
#define SEL_TS2 (SEL_FREE + 0x20) /* another TSS */

/* --- LAR, LSL, VERR, VERW over every type, DPL, CPL and RPL --- */

SNIP(do_lar, "xor %ecx, %ecx", "lar %eax, %ecx; setz %dl");
SNIP(do_lsl, "xor %ecx, %ecx", "lsl %eax, %ecx; setz %dl");
SNIP(do_verr, "", "verr %ax; setz %dl");
SNIP(do_verw, "", "verw %ax; setz %dl");

enum { LAR, LSL, VERR, VERW };

static bool sees(unsigned op, unsigned type, unsigned dpl, unsigned cpl, unsigned rpl)
{
    const u32 lar = IS64 ? 0x1a04 : 0x1a3e, lsl = IS64 ? 0x0a04 : 0x0a0e;
    bool app = type & 0x10, code = app && type & 8, conforming = code && type & 4;
    if (!conforming && (cpl > dpl || rpl > dpl))
        return false;
    switch (op) {
    case LAR:
        return app || (lar >> type & 1);
    case LSL:
        return app || (lsl >> type & 1);
    case VERR:
        return app && (!code || type & 2);
    default:
        return app && !code && type & 2;
    }
}

static void test_lar(void)
{
    static const struct snip *const snip[] = {&do_lar, &do_lsl, &do_verr, &do_verw};
    static const char *const name[] = {"LAR", "LSL", "VERR", "VERW"};
    for (unsigned op = 0; op < 4; op++) {
        unsigned bad = 0;
        for (unsigned n = 0; n < 32 * 4 * 2 * 4 * 2; n++) {
            unsigned type = n & 31, dpl = n >> 5 & 3, rpl = n >> 7 & 3, cpl = n >> 9 & 1 ? 3 : 0;
            bool present = n >> 10 & 1;
            struct ctx c;
            u64 d = make_desc(0x12345678, 0x54321, ATTR_G | type | dpl << 5 | (present ? 0x80 : 0));
            gdt[SEL_T / 8] = d;
            gdt[SEL_T / 8 + 1] = 0;
            ctx_init(&c, snip[op], cpl);
            c.gpr[AX] = SEL_T | rpl;
            run(&c);
            bool want = sees(op, type, dpl, cpl, rpl), got = c.gpr[DX] & 1;
            u32 value = !want ? 0 : op == LAR ? d >> 32 & 0xf0ff00 : op == LSL ? 0x54321fff : 0;
            if (op == LAR && want)
                value = d >> 32 & 0xffff00; /* bits 16-19 are undefined */
            u32 mask = op == LAR ? 0xf0ff00 : ~0u;
            if (c.vec != VEC_DONE || got != want ||
                (op < 2 && (c.gpr[CX] & mask) != (value & mask)))
                if (bad++ < 3)
                    print("%s type %x DPL %u CPL %u RPL %u: vector %lu ZF %d ECX %lx\n", name[op],
                          type, dpl, cpl, rpl, c.vec, got, c.gpr[CX]);
        }
        ok(!bad, "%s over types and privileges: %u wrong", name[op], bad);
    }
    struct ctx c;
    ctx_init(&c, &do_lar, 0);
    c.gpr[AX] = 0;
    run(&c);
    expect("LAR of null", c.gpr[DX] & 1, 0);
    ctx_init(&c, &do_lsl, 0);
    c.gpr[AX] = 0x3f8;
    run(&c);
    expect("LSL behind the GDT", c.gpr[DX] & 1, 0);
}

/* --- LDTR, TR --- */

SNIP(do_lldt, "", "lldt %ax");
SNIP(do_ltr, "", "ltr %ax");
SNIP(do_mov_es, "", "mov %eax, %es");
static u64 ldt[4];

static void load(const char *name, const struct snip *s, u16 sel, unsigned vec, u32 err)
{
    struct ctx c;
    ctx_init(&c, s, 0);
    c.gpr[AX] = sel;
    run(&c);
    ok(c.vec == vec && (vec == VEC_DONE || c.err == err), "%s: %lu %lx", name, c.vec, c.err);
}

static void test_system(void)
{
    ldt[1] = make_desc(0, 0xfffff, 0xc000 | 0x92);
    gdt[SEL_LD / 8] = make_desc((u32)(word)ldt, sizeof(ldt) - 1, 0x82);
    gdt[SEL_LD / 8 + 1] = 0;
    load("LLDT", &do_lldt, SEL_LD, VEC_DONE, 0);
    load("selector in the LDT", &do_mov_es, 0x0c, VEC_DONE, 0);
    expect("its accessed bit", ldt[1] >> 40 & 1, 1);
    load("selector behind the LDT", &do_mov_es, 0x24, GP, 0x24);
    load("LLDT null", &do_lldt, 0, VEC_DONE, 0);
    load("selector in no LDT", &do_mov_es, 0x0c, GP, 0x0c);
    load("LLDT of data", &do_lldt, SEL_DATA0, GP, SEL_DATA0);
    load("LLDT with TI", &do_lldt, 0x0c, GP, 0x0c);
    gdt[SEL_LD / 8] &= ~BIT(47);
    load("LLDT absent", &do_lldt, SEL_LD, NP, SEL_LD);

    gdt[SEL_TS2 / 8] = make_desc((u32)(word)&tss, sizeof(tss) - 1, 0x89);
    gdt[SEL_TS2 / 8 + 1] = 0;
    load("LTR", &do_ltr, SEL_TS2, VEC_DONE, 0);
    expect("makes the TSS busy", gdt[SEL_TS2 / 8] >> 40 & 0xf, 0xb);
    load("LTR of a busy TSS", &do_ltr, SEL_TS2, GP, SEL_TS2);
    load("LTR null", &do_ltr, 0, GP, 0);
    load("LTR of an LDT", &do_ltr, SEL_LD, GP, SEL_LD);
    gdt[SEL_TS2 / 8] = make_desc((u32)(word)&tss, sizeof(tss) - 1, 0x09);
    load("LTR absent", &do_ltr, SEL_TS2, NP, SEL_TS2);
    load_tr();
}

static void test_accessed(void)
{
    gdt[SEL_T / 8] = make_desc(0, 0xfffff, 0xc000 | 0x92);
    load("MOV ES", &do_mov_es, SEL_T, VEC_DONE, 0);
    expect("sets the accessed bit", gdt[SEL_T / 8] >> 40 & 0xff, 0x93);
    gdt[SEL_T / 8] = make_desc(0, 0xfffff, 0xc000 | 0x12);
    load("MOV ES, absent", &do_mov_es, SEL_T, NP, SEL_T);
    expect("does not", gdt[SEL_T / 8] >> 40 & 0xff, 0x12);
    load("MOV ES, null", &do_mov_es, 3, VEC_DONE, 0);
}

#if !IS64
/* --- limits: every kind of segment, offset and size (5.3) --- */

SNIP(rd1, "mov %eax, %es", "mov %es:(%ebx), %cl");
SNIP(rd2, "mov %eax, %es", "mov %es:(%ebx), %cx");
SNIP(rd4, "mov %eax, %es", "mov %es:(%ebx), %ecx");
SNIP(wr1, "mov %eax, %es", "mov %cl, %es:(%ebx)");
SNIP(wr2, "mov %eax, %es", "mov %cx, %es:(%ebx)");
SNIP(wr4, "mov %eax, %es", "mov %ecx, %es:(%ebx)");

static bool within(unsigned type, bool big, u32 limit, u32 off, unsigned size)
{
    u64 last = (u64)off + size - 1, top = big ? 0xffffffffu : 0xffff;
    if (type & 8 || !(type & 4))
        return last <= limit;
    return off > limit && last <= top;
}

static void test_limits(void)
{
    static const struct snip *const rd[] = {&rd1, &rd2, &rd4}, *const wr[] = {&wr1, &wr2, &wr4};
    static const u32 limits[] = {0, 0xfff, 0x1fff, 0xfffe};
    static const u8 types[] = {0x11, 0x13, 0x15, 0x17, 0x1b, 0x1f, 0x19};
    unsigned bad = 0, tried = 0;
    for (unsigned n = 0; n < ARRAY_SIZE(types) * 2 * 2 * ARRAY_SIZE(limits); n++) {
        unsigned type = types[n % ARRAY_SIZE(types)], rest = n / ARRAY_SIZE(types);
        bool big = rest & 1, gran = rest >> 1 & 1;
        u32 raw = limits[rest >> 2], limit = gran ? (raw & 0xf) << 12 | 0xfff : raw;
        gdt[SEL_T / 8] = make_desc(0x800000, gran ? raw & 0xf : raw,
                                   0x80 | type | (big ? ATTR_DB : 0) | (gran ? ATTR_G : 0));
        for (int d = -5; d <= 3; d++)
            for (unsigned k = 0; k < 12; k++) {
                unsigned size = k % 3, edge = k / 3 % 2;
                bool write = k / 6;
                u32 off = (edge ? big ? 0xffffffff : 0xffff : limit) + (u32)d;
                bool readable = !(type & 8) || type & 2, writable = !(type & 8) && type & 2;
                struct ctx c;
                ctx_init(&c, write ? wr[size] : rd[size], 0);
                c.gpr[AX] = SEL_T;
                c.gpr[BX] = off;
                run(&c);
                tried++;
                bool fits = within(type, big, limit, off, 1u << size);
                bool want = readable && fits && (!write || writable);
                u32 err = readable ? 0 : SEL_T; /* execute-only: the load itself faults */
                if (want ? c.vec != VEC_DONE : c.vec != GP || c.err != err)
                    if (bad++ < 5)
                        print("type %x B %d limit %x offset %x size %u write %d: %lu %lx\n", type,
                              big, limit, off, 1u << size, write, c.vec, c.err);
            }
    }
    ok(!bad, "limits and types in %u accesses: %u wrong", tried, bad);
}

/* A base that makes the linear address wrap. */
static void test_wrap(void)
{
    static u32 word_at = 0xfeedface;
    struct ctx c;
    gdt[SEL_T / 8] = make_desc(0xfffff000, 0xfffff, 0xc000 | ATTR_DATA);
    ctx_init(&c, &rd4, 0);
    c.gpr[AX] = SEL_T;
    c.gpr[BX] = (word)&word_at + 0x1000;
    run(&c);
    expect("linear addresses wrap at 4 GiB", c.gpr[CX], word_at);
}

/* --- ARPL --- */

SNIP(do_arpl, "", "arpl %cx, %ax; setz %dl");

static void test_arpl(void)
{
    unsigned bad = 0;
    for (unsigned n = 0; n < 16; n++) {
        struct ctx c;
        ctx_init(&c, &do_arpl, n & 1 ? 3 : 0);
        c.gpr[AX] = 0x1230 | n >> 2;
        c.gpr[CX] = 0x4560 | (n & 3);
        run(&c);
        bool raise = (n >> 2) < (n & 3);
        bad += c.vec != VEC_DONE || (c.gpr[DX] & 1) != raise ||
               c.gpr[AX] != (0x1230u | (raise ? n & 3 : n >> 2));
    }
    ok(!bad, "ARPL: %u of 16 wrong", bad);
}

/* --- segment registers in ring 3 --- */

SNIP(load_es, "mov %eax, %es", "nop");
SNIP(load_ss, "", "mov %eax, %ss; nop");

static void privilege(const char *name, const struct snip *s, unsigned attr, u16 rpl, unsigned vec)
{
    struct ctx c;
    gdt[SEL_T / 8] = make_desc(0, 0xfffff, 0xc000 | attr);
    ctx_init(&c, s, 3);
    c.gpr[AX] = SEL_T | rpl;
    run(&c);
    ok(c.vec == vec && (vec == VEC_DONE || c.err == SEL_T), "%s: %lu %lx", name, c.vec, c.err);
}

static void test_privilege(void)
{
    privilege("data of DPL 3", &load_es, 0x93 | ATTR_DPL(3), 3, VEC_DONE);
    privilege("data of DPL 3, RPL 0", &load_es, 0x93 | ATTR_DPL(3), 0, VEC_DONE);
    privilege("data of DPL 2", &load_es, 0x93 | ATTR_DPL(2), 3, GP);
    privilege("readable code of DPL 3", &load_es, 0x9b | ATTR_DPL(3), 3, VEC_DONE);
    privilege("readable code of DPL 0", &load_es, 0x9b, 3, GP);
    privilege("readable conforming code of DPL 0", &load_es, 0x9f, 3, VEC_DONE);
    privilege("stack of DPL 3", &load_ss, 0x93 | ATTR_DPL(3), 3, VEC_DONE);
    privilege("stack with RPL 0", &load_ss, 0x93 | ATTR_DPL(3), 0, GP);
    privilege("stack of DPL 0", &load_ss, 0x93, 3, GP);
    privilege("read-only stack", &load_ss, 0x91 | ATTR_DPL(3), 3, GP);
    struct ctx c;
    ctx_init(&c, &load_ss, 3);
    c.gpr[AX] = 0;
    run(&c);
    ok(c.vec == GP && c.err == 0, "null stack: %lu %lx", c.vec, c.err);
}

/* --- 16-bit stack segment: only SP counts --- */

SNIP(push_16, "mov $0x55550000, %esp", "push %eax; mov %esp, %ecx");
static u8 small_stack[65536 * 2] __attribute__((aligned(65536)));

static void test_stack16(void)
{
    struct ctx c;
    gdt[SEL_T / 8] = make_desc((u32)small_stack, 0xffff, ATTR_DATA | ATTR_DPL(3));
    ctx_init(&c, &push_16, 3);
    c.ss = SEL_T | 3;
    c.gpr[AX] = 0x13572468;
    run(&c);
    ok(c.vec == VEC_DONE && c.gpr[CX] == 0x5555fffc && *(u32 *)(small_stack + 0xfffc) == 0x13572468,
       "PUSH on a 16-bit stack wraps SP, keeps the upper half: %lu ESP %lx", c.vec, c.gpr[CX]);
    c.gpr[SP] = 2;
    c.ip = push_16.at;
    run(&c);
    ok(c.vec == SS_ || (c.vec == VEC_DONE && (c.gpr[CX] & 0xffff) == 0xfffe),
       "PUSH across the end of a 16-bit stack: %lu", c.vec);
}

/* --- the descriptor is read at every load, however often the selector has been loaded --- */

SNIP(mov_fs, "mov %eax, %fs", "mov %fs:(%ebx), %ecx");
SNIP(pop_fs, "push %eax; pop %fs", "mov %fs:(%ebx), %ecx");
SNIP(mov_es, "mov %eax, %es", "mov %es:(%ebx), %ecx");
SNIP(pop_es, "push %eax; pop %es", "mov %es:(%ebx), %ecx");
SNIP(pop_mem, "push %eax; push %edx; popl (%esp); pop %ecx", "nop");
static u32 cells[2] = {0x1111, 0x2222};

#define LOADS 64 /* so many that a translator takes an interest */

static void read_again(const char *name, const struct snip *s, u64 desc, u32 at, unsigned vec,
                       u32 val)
{
    struct ctx c;
    gdt[SEL_T / 8] = desc;
    ctx_init(&c, s, 0);
    c.gpr[AX] = desc ? SEL_T : 0;
    c.gpr[BX] = at;
    run(&c);
    if (c.vec != vec || (vec == VEC_DONE && c.gpr[CX] != val))
        ok(false, "%s: vector %lu ECX %lx", name, c.vec, c.gpr[CX]);
}

static void test_reload(const char *name, const struct snip *s)
{
    unsigned before = failures();
    u32 at = (u32)(word)cells;
    for (unsigned n = 0; n < LOADS; n++) {
        u64 flat = make_desc(0, 0xfffff, ATTR_G | ATTR_DB | ATTR_DATA);
        read_again(name, s, flat, at + 4 * (n & 1), VEC_DONE, cells[n & 1]);
        u64 based = make_desc(at + 4 * (n & 1), 0xfffff, ATTR_G | ATTR_DB | ATTR_DATA);
        read_again(name, s, based, 0, VEC_DONE, cells[n & 1]);
        u64 small = make_desc(at, 4 + 3 * (n & 1), ATTR_DB | ATTR_DATA);
        read_again(name, s, small, 4, n & 1 ? VEC_DONE : GP, cells[1]);
        read_again(name, s, flat & ~BIT(47), at, NP, 0);
        read_again(name, s, 0, at, GP, 0);
    }
    ok(failures() == before, "%s, %u times", name, LOADS);
}

static void test_pop_mem(void)
{
    unsigned bad = 0;
    for (unsigned n = 0; n < LOADS; n++) {
        struct ctx c;
        ctx_init(&c, &pop_mem, 0);
        c.gpr[DX] = 0x5a5a0000 + n;
        run(&c);
        bad += c.vec != VEC_DONE || c.gpr[CX] != 0x5a5a0000 + n;
    }
    ok(!bad, "POP to where ESP points when it has been raised: %u wrong", bad);
}

static void own_tests(void)
{
    test_reload("MOV FS reads the descriptor", &mov_fs);
    test_reload("POP FS reads the descriptor", &pop_fs);
    test_reload("MOV ES reads the descriptor", &mov_es);
    test_reload("POP ES reads the descriptor", &pop_es);
    test_pop_mem();
    test_limits();
    test_wrap();
    test_arpl();
    test_privilege();
    test_stack16();
}
#else
/* --- long mode (3.4.4) --- */

#define NONCANON 0x0000800000000000ul
static u64 cell[4];
SNIP(rd_fs, "", "mov %fs:(%rbx), %rcx");
SNIP(rd_gs, "", "mov %gs:(%rbx), %rcx");
SNIP(rd_ds, "mov %eax, %ds", "mov %ds:(%rbx), %rcx; mov $0x10, %eax; mov %eax, %ds");
SNIP(swap_gs, "", "swapgs");
SNIP(wr_fs, "", "wrfsbase %rbx");
SNIP(wr_fs32, "", "wrfsbase %ebx");
SNIP(rd_gs_base, "", "rdgsbase %rcx");
SNIP(null_ss, "mov %ss, %edx; xor %eax, %eax", "mov %eax, %ss; push %rbx; pop %rcx; mov %edx, %ss");
SNIP_BITS(compat_es, "32", "mov %eax, %es", "mov %es:(%ebx), %ecx");

static void read_by(const char *name, const struct snip *s, u64 at, u64 want)
{
    struct ctx c;
    ctx_init(&c, s, 0);
    c.gpr[BX] = at;
    c.gpr[AX] = SEL_T;
    run(&c);
    ok(c.vec == VEC_DONE && c.gpr[CX] == want, "%s: %lu %lx", name, c.vec, c.gpr[CX]);
}

static void test_bases(void)
{
    cell[0] = 0x1111;
    cell[1] = 0x2222;
    wrmsr(MSR_FS_BASE, (word)cell - 0x1000);
    wrmsr(MSR_GS_BASE, (word)cell + 8);
    wrmsr(MSR_KERNEL_GS_BASE, (word)cell);
    read_by("FS base", &rd_fs, 0x1000, 0x1111);
    read_by("GS base", &rd_gs, 0, 0x2222);
    __asm__ volatile("swapgs");
    read_by("SWAPGS", &rd_gs, 0, 0x1111);
    expect("and the old base", rdmsr(MSR_KERNEL_GS_BASE), (word)cell + 8);
    __asm__ volatile("swapgs");
    gdt[SEL_T / 8] = make_desc((u32)(word)cell, 0, ATTR_DATA);
    __asm__ volatile("mov %0, %%fs" : : "r"(SEL_T));
    expect("MOV FS loads 32 bits of base", rdmsr(MSR_FS_BASE), (word)cell);
    read_by("no limit in 64-bit mode", &rd_fs, 8, 0x2222);
    gdt[SEL_T / 8] = make_desc(0x10000000, 0, ATTR_DATA);
    read_by("no base nor limit for DS", &rd_ds, (word)cell, 0x1111);
    expect("#GP, FS base non-canonical", (u32)try_wrmsr(MSR_FS_BASE, NONCANON), GP);
    expect("#GP, GS base non-canonical", (u32)try_wrmsr(MSR_GS_BASE, ~NONCANON & ~0xfffful << 44),
           GP);
    expect("#GP, kernel GS base non-canonical", (u32)try_wrmsr(MSR_KERNEL_GS_BASE, BIT(63)), GP);
    wrmsr(MSR_FS_BASE, 0xffff800000000000);
    expect("negative FS base", rdmsr(MSR_FS_BASE), 0xffff800000000000);
    struct ctx c;
    ctx_init(&c, &rd_fs, 0);
    c.gpr[BX] = 0x7fffffffffff;
    run(&c);
    ok(c.vec == PF && c.cr2 == 0xffffffffffffffff, "base + offset: %lu %lx", c.vec, c.cr2);
    ctx_init(&c, &rd_fs, 0);
    c.gpr[BX] = BIT(63);
    run(&c);
    ok(c.vec == GP, "#GP, base + offset is not canonical: %lu", c.vec);
    wrmsr(MSR_FS_BASE, 0);
}

static void test_fsgsbase(void)
{
    struct ctx c;
    write_cr4(read_cr4() | CR4_FSGSBASE);
    ctx_init(&c, &wr_fs, 3);
    c.gpr[BX] = 0x123456789abc;
    run(&c);
    ok(c.vec == VEC_DONE && rdmsr(MSR_FS_BASE) == 0x123456789abc, "WRFSBASE in ring 3");
    ctx_init(&c, &wr_fs32, 3);
    c.gpr[BX] = 0xffffffff89abcdef;
    run(&c);
    expect("WRFSBASE of 32 bits", rdmsr(MSR_FS_BASE), 0x89abcdef);
    ctx_init(&c, &rd_gs_base, 3);
    run(&c);
    expect("RDGSBASE", c.gpr[CX], rdmsr(MSR_GS_BASE));
    write_cr4(read_cr4() & ~(word)CR4_FSGSBASE);
    wrmsr(MSR_FS_BASE, 0);
}

static void own_tests(void)
{
    struct ctx c;
    test_bases();
    test_fsgsbase();
    ctx_init(&c, &null_ss, 0);
    c.gpr[BX] = 0x5a5a;
    run(&c);
    ok(c.vec == VEC_DONE && c.gpr[CX] == 0x5a5a, "a null SS is usable in ring 0: %lu", c.vec);

    gdt[SEL_T / 8] = make_desc((u32)(word)cell, 7, ATTR_DB | ATTR_DATA | ATTR_DPL(3));
    ctx_init(&c, &compat_es, 3);
    c.cs = SEL_CODE3_32;
    c.gpr[AX] = SEL_T | 3;
    c.gpr[BX] = 4;
    run(&c);
    ok(c.vec == VEC_DONE && c.gpr[CX] == 0, "compatibility mode: base and limit hold: %lu", c.vec);
    ctx_init(&c, &compat_es, 3);
    c.cs = SEL_CODE3_32;
    c.gpr[AX] = SEL_T | 3;
    c.gpr[BX] = 5;
    run(&c);
    ok(c.vec == GP && c.err == 0, "compatibility mode: #GP at the limit: %lu", c.vec);
}
#endif

int main(void)
{
    test_lar();
    test_system();
    test_accessed();
    own_tests();
    return 0;
}
