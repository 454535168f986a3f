/*
 * test_seg.c - loading segment registers, LDTR and TR; the instructions that look at descriptors.
 */
#include "guest.h"

static struct x86_insn to_sreg(unsigned seg)
{
    return (struct x86_insn){.reg = (u8)seg, .rm = RAX, .opsize = 2};
}

struct load_row {
    u8 seg, cpl;
    u16 sel;
    int vec; /* -1: loads */
    u32 err;
};

/* SDM vol. 2, MOV, "Protected Mode Exceptions". */
static const struct load_row load_rows[] = {
    {DS, 0, SEL_DATA0, -1, 0},
    {DS, 0, 0, -1, 0},
    {DS, 0, 3, -1, 0},
    {DS, 0, SEL_DATA3, -1, 0},
    {DS, 3, SEL_DATA3, -1, 0},
    {DS, 3, SEL_DATA0, EXC_GP, SEL_DATA0},
    {DS, 0, SEL_DATA0 | 3, EXC_GP, SEL_DATA0},
    {ES, 0, SEL_BEYOND, EXC_GP, SEL_BEYOND},
    {ES, 0, SEL_DATA0 | 4, EXC_GP, SEL_DATA0 | 4},
    {FS, 0, SEL_ABSENT, EXC_NP, SEL_ABSENT},
    {FS, 0, SEL_RO, -1, 0},
    {GS, 0, SEL_XO, EXC_GP, SEL_XO},
    {GS, 0, SEL_CODE0, -1, 0},
    {GS, 3, SEL_CONF | 3, -1, 0},
    {GS, 3, SEL_CODE0 | 3, EXC_GP, SEL_CODE0},
    {DS, 0, SEL_TSS2, EXC_GP, SEL_TSS2},
    {SS, 0, SEL_DATA0, -1, 0},
    {SS, 0, 0, EXC_GP, 0},
    {SS, 0, SEL_DATA3, EXC_GP, SEL_DATA3 & 0xfffc},
    {SS, 0, SEL_DATA0 | 3, EXC_GP, SEL_DATA0},
    {SS, 0, SEL_RO, EXC_GP, SEL_RO},
    {SS, 0, SEL_CODE0, EXC_GP, SEL_CODE0},
    {SS, 0, SEL_ABSENT, EXC_SS, SEL_ABSENT},
    {SS, 0, SEL_BEYOND, EXC_GP, SEL_BEYOND},
    {SS, 3, SEL_DATA3, -1, 0},
    {SS, 3, SEL_DATA0, EXC_GP, SEL_DATA0},
};

static void test_load_protected(void **state)
{
    for (unsigned n = 0; n < ARRAY_SIZE(load_rows); n++) {
        const struct load_row *r = &load_rows[n];
        struct guest *g = guest_new();
        enter_protected(g, r->cpl);
        u16 before = g->c->seg[r->seg].sel;
        g->c->reg[RAX] = r->sel;
        bool threw = execute(g, insn_mov_to_sreg, to_sreg(r->seg));
        if (threw != (r->vec >= 0))
            fail_msg("row %u: threw %d", n, threw);
        if (threw) {
            assert_threw(g, r->vec, r->err);
            assert_int_equal(g->c->seg[r->seg].sel, before);
        } else {
            assert_int_equal(g->c->seg[r->seg].sel, r->sel);
            assert_int_equal(!!(g->c->seg[r->seg].attr & SEG_UNUSABLE), (r->sel & 0xfffc) == 0);
            if (r->sel & 0xfffc)
                assert_true(get_desc(g, r->sel) & DESC_ACCESSED);
        }
        guest_free(g);
    }
}

static void test_quick_limits(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, 0);
    assert_int_equal(c->seg[DS].rd_end, UINT64_MAX);
    assert_int_equal(c->seg[DS].wr_end, UINT64_MAX);
    assert_int_equal(c->seg[CS].rd_end, UINT64_MAX);
    assert_int_equal(c->seg[CS].wr_end, 0);
    c->reg[RAX] = SEL_RO;
    assert_false(execute(g, insn_mov_to_sreg, to_sreg(DS)));
    assert_int_equal(c->seg[DS].rd_end, UINT64_MAX);
    assert_int_equal(c->seg[DS].wr_end, 0);
    c->reg[RAX] = SEL_DOWN;
    assert_false(execute(g, insn_mov_to_sreg, to_sreg(DS)));
    assert_int_equal(c->seg[DS].rd_end, 0);
    assert_int_equal(c->seg[DS].wr_end, 0);
    c->reg[RAX] = 0;
    assert_false(execute(g, insn_mov_to_sreg, to_sreg(ES)));
    assert_int_equal(c->seg[ES].rd_end, 0);
    c->reg[RAX] = SEL_DATA0_16;
    assert_false(execute(g, insn_mov_to_sreg, to_sreg(ES)));
    assert_int_equal(c->seg[ES].wr_end, 0x10000);
    enter_long(g, 0);
    assert_int_equal(c->seg[ES].wr_end, UINT64_MAX);
    assert_int_equal(c->seg[X86_SEG_FLAT].wr_end, UINT64_MAX);
    guest_free(g);
}

static void test_null_ss_long(void **state)
{
    static const struct {
        u8 cpl;
        u16 sel;
        bool ok;
    } rows[] = {{0, 0, true}, {0, 3, false}, {3, 3, false}, {3, 0, false}};
    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
        struct guest *g = guest_new();
        enter_long(g, rows[n].cpl);
        g->c->reg[RAX] = rows[n].sel;
        bool threw = execute(g, insn_mov_to_sreg, to_sreg(SS));
        assert_int_equal(threw, !rows[n].ok);
        if (threw)
            assert_threw(g, EXC_GP, 0);
        guest_free(g);
    }
}

static void test_real_and_v86(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_real_mode(g);
    c->seg[DS].limit = 0xffffffff; /* "unreal": a load leaves it */
    c->reg[RAX] = 0x1234;
    assert_false(execute(g, insn_mov_to_sreg, to_sreg(DS)));
    assert_int_equal(c->seg[DS].base, 0x12340);
    assert_int_equal(c->seg[DS].limit, 0xffffffff);
    assert_int_equal(c->seg[DS].rd_end, UINT64_MAX);
    enter_v86(g, 0);
    assert_false(execute(g, insn_mov_to_sreg, to_sreg(DS)));
    assert_int_equal(c->seg[DS].limit, 0xffff);
    assert_int_equal(c->seg[DS].attr, 0xf3);
    assert_int_equal(c->seg[DS].wr_end, 0x10000);
    guest_free(g);
}

static void test_ss_shadow_and_cs(void **state)
{
    struct guest *g = guest_new();
    enter_protected(g, 0);
    g->c->reg[RAX] = SEL_DATA0;
    assert_false(execute(g, insn_mov_to_sreg, to_sreg(DS)));
    assert_false(g->c->shadow);
    assert_false(execute(g, insn_mov_to_sreg, to_sreg(SS)));
    assert_true(g->c->shadow && g->c->shadow_ss);
    assert_true(execute(g, insn_mov_to_sreg, to_sreg(CS)));
    assert_threw(g, EXC_UD, 0);
    guest_free(g);
}

static void test_push_pop_sreg(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, 0);
    u64 sp = c->reg[RSP];
    put32(g, sp - 4, 0xaaaaaaaa);
    assert_false(execute(g, insn_push_sreg, (struct x86_insn){.reg = DS, .opsize = 4}));
    assert_int_equal(c->reg[RSP], sp - 4);
    assert_int_equal(get32(g, sp - 4), 0xaaaa0000 | SEL_DATA0);
    put32(g, sp - 4, 0x55550000 | SEL_RO);
    assert_false(execute(g, insn_pop_sreg, (struct x86_insn){.reg = ES, .opsize = 4}));
    assert_int_equal(c->seg[ES].sel, SEL_RO);
    assert_int_equal(c->reg[RSP], sp);
    put32(g, sp, SEL_ABSENT);
    assert_true(execute(g, insn_pop_sreg, (struct x86_insn){.reg = ES, .opsize = 4}));
    assert_threw(g, EXC_NP, SEL_ABSENT);
    assert_int_equal(c->reg[RSP], sp);
    assert_int_equal(c->seg[ES].sel, SEL_RO);
    guest_free(g);
}

/* 16-bit stacks wrap within 64 KiB and leave the upper half of ESP alone. */
static void test_stack_width(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_real_mode(g);
    c->reg[RSP] = 0x12340000;
    cpu_push(c, 2, 0xbeef);
    assert_int_equal(c->reg[RSP], 0x1234fffe);
    assert_int_equal(get16(g, 0xfffe), 0xbeef);
    assert_int_equal(cpu_pop(c, 2), 0xbeef);
    assert_int_equal(c->reg[RSP], 0x12340000);
    enter_protected(g, 0);
    c->reg[RSP] = 0xffffffff00008000;
    cpu_push(c, 4, 1);
    assert_int_equal(c->reg[RSP], 0x7ffc);
    guest_free(g);
}

static void push8(struct cpu *c)
{
    cpu_push(c, 8, 1);
}

static void test_stack_faults(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_long(g, 0);
    c->reg[RSP] = 0x0000800000000010;
    assert_true(attempt(g, push8));
    assert_threw(g, EXC_SS, 0);
    assert_int_equal(c->reg[RSP], 0x0000800000000010);
    enter_protected(g, 0);
    c->seg[SS].limit = 0x7fff;
    cpu_seg_derive(c);
    c->reg[RSP] = 0x8004;
    assert_true(attempt(g, push8));
    assert_threw(g, EXC_SS, 0);
    guest_free(g);
}

static void test_ltr_lldt(void **state)
{
    static const struct {
        cpu_insn_fn *fn;
        u16 sel;
        int vec;
        u32 err;
    } rows[] = {
        {insn_ltr, SEL_TSS2, -1, 0},
        {insn_ltr, SEL_TSS16, -1, 0},
        {insn_ltr, 0, EXC_GP, 0},
        {insn_ltr, SEL_TSS, EXC_GP, SEL_TSS}, /* busy */
        {insn_ltr, SEL_TSS2 | 4, EXC_GP, SEL_TSS2 | 4},
        {insn_ltr, SEL_DATA0, EXC_GP, SEL_DATA0},
        {insn_ltr, SEL_BEYOND, EXC_GP, SEL_BEYOND},
        {insn_lldt, SEL_LDT, -1, 0},
        {insn_lldt, 0, -1, 0},
        {insn_lldt, SEL_TSS2, EXC_GP, SEL_TSS2},
        {insn_lldt, SEL_LDT | 4, EXC_GP, SEL_LDT | 4},
    };
    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
        struct guest *g = guest_new();
        enter_protected(g, 0);
        g->c->reg[RAX] = rows[n].sel;
        bool threw = execute(g, rows[n].fn, (struct x86_insn){.rm = RAX, .opsize = 2});
        if (threw != (rows[n].vec >= 0))
            fail_msg("row %u", n);
        if (threw)
            assert_threw(g, rows[n].vec, rows[n].err);
        else if (rows[n].fn == insn_ltr)
            assert_true(get_desc(g, rows[n].sel) & DESC_BUSY);
        guest_free(g);
    }
}

static void test_ldt_is_used(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, 0);
    put64(g, AT_LDT + 0x10, make_desc(0x7000, 0xff, 0x92, 0x4));
    c->reg[RAX] = SEL_LDT;
    assert_false(execute(g, insn_lldt, (struct x86_insn){.rm = RAX, .opsize = 2}));
    c->reg[RAX] = 0x14;
    assert_false(execute(g, insn_mov_to_sreg, to_sreg(DS)));
    assert_int_equal(c->seg[DS].base, 0x7000);
    assert_int_equal(c->seg[DS].rd_end, 0x100);
    guest_free(g);
}

static void test_cpl_and_mode_of_system_insns(void **state)
{
    static cpu_insn_fn *const priv[] = {insn_ltr, insn_lldt, insn_lgdt, insn_lidt};
    static cpu_insn_fn *const prot[] = {insn_ltr, insn_lldt, insn_sldt, insn_str, insn_lar,
                                        insn_lsl, insn_verr, insn_verw, insn_arpl};
    static cpu_insn_fn *const umip[] = {insn_sldt, insn_str, insn_sgdt, insn_sidt};
    struct x86_insn reg = {.rm = RAX, .opsize = 4, .seg = DS};
    struct x86_insn mem = {.prefix = X86_PFX_MEM,
                           .base = RBX,
                           .index = X86_SLOT_ZERO,
                           .seg = DS,
                           .opsize = 4,
                           .adsize = 4};
    struct guest *g = guest_new();
    g->c->reg[RBX] = 0x7000;
    enter_protected(g, 3);
    for (unsigned n = 0; n < ARRAY_SIZE(priv); n++) {
        assert_true(execute(g, priv[n], n < 2 ? reg : mem));
        assert_threw(g, EXC_GP, 0);
    }
    for (unsigned n = 0; n < ARRAY_SIZE(umip); n++)
        assert_false(execute(g, umip[n], mem));
    g->c->cr4 |= CR4_UMIP;
    for (unsigned n = 0; n < ARRAY_SIZE(umip); n++) {
        assert_true(execute(g, umip[n], mem));
        assert_threw(g, EXC_GP, 0);
    }
    enter_v86(g, 3);
    for (unsigned n = 0; n < ARRAY_SIZE(prot); n++) {
        assert_true(execute(g, prot[n], reg));
        assert_threw(g, EXC_UD, 0);
    }
    guest_free(g);
}

static void test_tables(void **state)
{
    struct x86_insn mem = {.prefix = X86_PFX_MEM,
                           .base = RBX,
                           .index = X86_SLOT_ZERO,
                           .seg = DS,
                           .opsize = 4,
                           .adsize = 4};
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, 0);
    c->reg[RBX] = 0x7000;
    put16(g, 0x7000, 0x1ff);
    put32(g, 0x7002, 0x12345678);
    assert_false(execute(g, insn_lidt, mem));
    assert_int_equal(c->idtr.base, 0x12345678);
    assert_int_equal(c->idtr.limit, 0x1ff);
    mem.opsize = 2;
    assert_false(execute(g, insn_lidt, mem));
    assert_int_equal(c->idtr.base, 0x345678);
    c->idtr.base = 0x87654321;
    assert_false(execute(g, insn_sidt, mem));
    assert_int_equal(get32(g, 0x7002), 0x87654321);
    enter_long(g, 0);
    mem.opsize = mem.adsize = 8;
    mem.seg = X86_SEG_FLAT;
    put64(g, 0x7002, 0x0000800000000000);
    assert_true(execute(g, insn_lgdt, mem));
    assert_threw(g, EXC_GP, 0);
    put64(g, 0x7002, 0xffff800000000000);
    assert_false(execute(g, insn_lgdt, mem));
    assert_int_equal(c->gdtr.base, 0xffff800000000000);
    guest_free(g);
}

static bool zf(struct guest *g)
{
    return cpu_flags(g->c) & FLAG_ZF;
}

static void test_lar_lsl_ver(void **state)
{
    static const struct {
        cpu_insn_fn *fn;
        u8 cpl;
        u16 sel;
        bool zf;
        u32 val;
    } rows[] = {
        {insn_lar, 0, SEL_CODE0, true, 0x00c09b00}, /* in use: accessed */
        {insn_lar, 0, SEL_ABSENT, true, 0x00c01200},
        {insn_lar, 3, SEL_DATA0, false, 0},
        {insn_lar, 3, SEL_CONF, true, 0x00c09e00},
        {insn_lar, 0, 0, false, 0},
        {insn_lar, 0, SEL_BEYOND, false, 0},
        {insn_lar, 0, SEL_GATE32, true, 0x0000ec00},
        {insn_lar, 0, SEL_TASKGATE, true, 0x0000e500},
        {insn_lsl, 0, SEL_CODE0, true, 0xffffffff},
        {insn_lsl, 0, SEL_DATA0_16, true, 0xffff},
        {insn_lsl, 0, SEL_TSS2, true, 0x67},
        {insn_lsl, 0, SEL_GATE32, false, 0},
        {insn_lsl, 0, SEL_DATA0 | 3, false, 0},
        {insn_verr, 0, SEL_DATA0, true, 0},
        {insn_verr, 0, SEL_XO, false, 0},
        {insn_verr, 3, SEL_CONF | 3, true, 0},
        {insn_verr, 0, SEL_TSS2, false, 0},
        {insn_verw, 0, SEL_DATA0, true, 0},
        {insn_verw, 0, SEL_RO, false, 0},
        {insn_verw, 0, SEL_CODE0, false, 0},
        {insn_verw, 3, SEL_DATA0 | 3, false, 0},
    };
    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
        struct guest *g = guest_new();
        enter_protected(g, rows[n].cpl);
        g->c->reg[RAX] = rows[n].sel;
        g->c->reg[RCX] = 0x1111;
        struct x86_insn i = {.rm = RAX, .reg = RCX, .opsize = 4};
        assert_false(execute(g, rows[n].fn, i));
        if (zf(g) != rows[n].zf)
            fail_msg("row %u: ZF", n);
        bool result = rows[n].fn == insn_lar || rows[n].fn == insn_lsl;
        u64 got = g->c->reg[RCX];
        if (rows[n].fn == insn_lar)
            got &= ~0xf0000ull; /* undefined */
        if (got != (result && rows[n].zf ? rows[n].val : 0x1111))
            fail_msg("row %u: %llx", n, (unsigned long long)g->c->reg[RCX]);
        guest_free(g);
    }
}

static void test_arpl_bound(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, 0);
    c->reg[RAX] = 0xffff0010;
    c->reg[RCX] = 3;
    struct x86_insn i = {.rm = RAX, .reg = RCX, .opsize = 2};
    assert_false(execute(g, insn_arpl, i));
    assert_true(zf(g));
    assert_int_equal(c->reg[RAX], 0xffff0013);
    assert_false(execute(g, insn_arpl, i));
    assert_false(zf(g));

    struct x86_insn b = {.prefix = X86_PFX_MEM,
                         .base = RBX,
                         .index = X86_SLOT_ZERO,
                         .seg = DS,
                         .opsize = 4,
                         .adsize = 4,
                         .reg = RDX};
    c->reg[RBX] = 0x7000;
    put32(g, 0x7000, (u32)-5);
    put32(g, 0x7004, 7);
    static const struct {
        s32 v;
        bool ok;
    } rows[] = {{-5, true}, {7, true}, {0, true}, {-6, false}, {8, false}};
    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
        c->reg[RDX] = (u32)rows[n].v;
        assert_int_equal(execute(g, insn_bound, b), !rows[n].ok);
        if (!rows[n].ok)
            assert_threw(g, EXC_BR, 0);
    }
    guest_free(g);
}

static void test_far_pointers(void **state)
{
    struct x86_insn mem = {.prefix = X86_PFX_MEM,
                           .base = RBX,
                           .index = X86_SLOT_ZERO,
                           .seg = DS,
                           .opsize = 4,
                           .adsize = 4,
                           .reg = RDX};
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, 0);
    c->reg[RBX] = 0x7000;
    put32(g, 0x7000, 0xcafe0000);
    put16(g, 0x7004, SEL_RO);
    assert_false(execute(g, insn_lfs, mem));
    assert_int_equal(c->seg[FS].sel, SEL_RO);
    assert_int_equal(c->reg[RDX], 0xcafe0000);
    put32(g, 0x7000, 1);
    assert_true(execute(g, insn_lss, mem)); /* read-only */
    assert_threw(g, EXC_GP, SEL_RO);
    assert_int_equal(c->reg[RDX], 0xcafe0000);
    assert_int_equal(c->seg[SS].sel, SEL_DATA0);
    guest_free(g);
}

static void check_port(struct cpu *c)
{
    cpu_check_io(c, 0x3fd, (unsigned)c->reg[RAX]);
}

static void test_io_permission(void **state)
{
    static const struct {
        bool v86;
        u8 cpl, iopl, size;
        u8 map; /* byte of the ports 0x3f8..0x3ff, the next one is all ones */
        bool ok;
    } rows[] = {
        {false, 0, 0, 1, 0xff, true},  {false, 3, 3, 1, 0xff, true},  {false, 3, 0, 1, 0xff, false},
        {false, 3, 0, 1, 0xdf, true},  {false, 3, 0, 2, 0xdf, false}, {false, 3, 0, 2, 0x9f, true},
        {false, 3, 0, 4, 0x1f, false}, {true, 3, 3, 1, 0xff, false},  {true, 3, 3, 1, 0xdf, true},
    };
    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
        struct guest *g = guest_new();
        if (rows[n].v86)
            enter_v86(g, rows[n].iopl);
        else
            enter_protected(g, rows[n].cpl);
        g->c->eflags |= (u32)rows[n].iopl << 12;
        g->c->tr.limit = 0x200;
        put8(g, AT_TSS + 0x88 + 0x7f, rows[n].map);
        put8(g, AT_TSS + 0x88 + 0x80, 0xff);
        g->c->reg[RAX] = rows[n].size;
        if (attempt(g, check_port) == rows[n].ok)
            fail_msg("row %u", n);
        if (!rows[n].ok)
            assert_threw(g, EXC_GP, 0);
        guest_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_load_protected),
        cmocka_unit_test(test_quick_limits),
        cmocka_unit_test(test_null_ss_long),
        cmocka_unit_test(test_real_and_v86),
        cmocka_unit_test(test_ss_shadow_and_cs),
        cmocka_unit_test(test_push_pop_sreg),
        cmocka_unit_test(test_stack_width),
        cmocka_unit_test(test_stack_faults),
        cmocka_unit_test(test_ltr_lldt),
        cmocka_unit_test(test_ldt_is_used),
        cmocka_unit_test(test_cpl_and_mode_of_system_insns),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_lar_lsl_ver),
        cmocka_unit_test(test_arpl_bound),
        cmocka_unit_test(test_far_pointers),
        cmocka_unit_test(test_io_permission),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
