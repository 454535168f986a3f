/*
 * test_task.c - hardware task switches.
 */
#include "guest.h"

static struct x86_insn far_to(u16 sel)
{
    return (struct x86_insn){.imm = 0xf4f4f4f4 | (u64)sel << 32, .opsize = 4};
}

struct tss_values {
    u32 cr3, eip, eflags, esp;
    u16 es, cs, ss, ds, fs, gs, ldt;
    u16 trap;
};

static const struct tss_values good = {
    .eip = 0x7000,
    .eflags = FLAG_ZF | FLAG_ONE,
    .esp = 0xb000,
    .es = SEL_DATA0,
    .cs = SEL_CODE0,
    .ss = SEL_DATA0,
    .ds = SEL_DATA0,
    .fs = SEL_RO,
    .ldt = 0,
};

static void put_tss(struct guest *g, gpa_t at, const struct tss_values *v)
{
    put32(g, at + 28, v->cr3);
    put32(g, at + 32, v->eip);
    put32(g, at + 36, v->eflags);
    for (unsigned n = 0; n < 8; n++)
        put32(g, at + 40 + 4 * n, n == RSP ? v->esp : 0x1000 + n);
    const u16 sel[] = {v->es, v->cs, v->ss, v->ds, v->fs, v->gs, v->ldt};
    for (unsigned n = 0; n < ARRAY_SIZE(sel); n++)
        put16(g, at + 72 + 4 * n, sel[n]);
    put16(g, at + 100, v->trap);
}

static struct guest *start(unsigned cpl, const struct tss_values *v)
{
    struct guest *g = guest_new();
    enter_protected(g, cpl);
    put_tss(g, AT_TSS2, v);
    for (unsigned n = 0; n < 8; n++)
        if (n != RSP)
            g->c->reg[n] = 0x2000 + n;
    return g;
}

static bool busy(struct guest *g, u16 sel)
{
    return get_desc(g, sel) & DESC_BUSY;
}

static void check_new_task(struct guest *g)
{
    struct cpu *c = g->c;
    assert_int_equal(c->tr.sel, SEL_TSS2);
    assert_int_equal(c->tr.base, AT_TSS2);
    assert_int_equal(c->reg[X86_SLOT_RIP], 0x7000);
    assert_int_equal(c->reg[RSP], 0xb000);
    assert_int_equal(c->reg[RDI], 0x1007);
    assert_int_equal(c->seg[FS].sel, SEL_RO);
    assert_int_equal(c->seg[GS].attr, SEG_UNUSABLE);
    assert_true(c->cr0 & CR0_TS);
    assert_true(busy(g, SEL_TSS2));
}

static void check_saved(struct guest *g, u32 eip, u32 eflags)
{
    assert_int_equal(get32(g, AT_TSS + 32), eip);
    assert_int_equal(get32(g, AT_TSS + 36), eflags);
    assert_int_equal(get32(g, AT_TSS + 40), 0x2000);
    assert_int_equal(get32(g, AT_TSS + 56), AT_STACK0 - 0x100);
    assert_int_equal(get16(g, AT_TSS + 76), SEL_CODE0);
    assert_int_equal(get16(g, AT_TSS + 84), SEL_DATA0);
}

static void test_jmp(void **state)
{
    struct guest *g = start(0, &good);
    g->c->dr[7] = DR7_FIXED | 0x1ff;
    assert_false(execute(g, insn_jmp_far, far_to(SEL_TSS2)));
    check_new_task(g);
    check_saved(g, AT_CODE + 2, FLAG_ONE);
    assert_false(busy(g, SEL_TSS));
    assert_int_equal(cpu_flags(g->c), FLAG_ZF | FLAG_ONE);
    assert_int_equal(g->c->dr[7], DR7_FIXED | 0xaa); /* the local ones are gone */
    assert_int_equal(get16(g, AT_TSS2), 0);
    guest_free(g);
}

static void test_call_and_iret(void **state)
{
    struct guest *g = start(0, &good);
    struct cpu *c = g->c;
    assert_false(execute(g, insn_call_far, far_to(SEL_TSS2)));
    check_new_task(g);
    assert_true(busy(g, SEL_TSS));
    assert_int_equal(cpu_flags(c), FLAG_ZF | FLAG_ONE | FLAG_NT);
    assert_int_equal(get16(g, AT_TSS2), SEL_TSS);
    c->reg[RBX] = 0x77;
    assert_false(execute(g, insn_iret, (struct x86_insn){.opsize = 4}));
    assert_int_equal(c->tr.sel, SEL_TSS);
    assert_int_equal(c->reg[X86_SLOT_RIP], AT_CODE + 2);
    assert_int_equal(c->reg[RBX], 0x2003);
    assert_false(busy(g, SEL_TSS2));
    assert_true(busy(g, SEL_TSS));
    assert_int_equal(get32(g, AT_TSS2 + 52), 0x77);
    assert_int_equal(get32(g, AT_TSS2 + 36), FLAG_ZF | FLAG_ONE); /* NT not saved */
    assert_int_equal(get32(g, AT_TSS2 + 32), 0x7002);
    /* It goes on after its IRET when called again. */
    assert_false(execute(g, insn_call_far, far_to(SEL_TSS2)));
    assert_int_equal(c->reg[X86_SLOT_RIP], 0x7002);
    guest_free(g);
}

static void test_task_gate(void **state)
{
    struct guest *g = start(3, &good);
    assert_true(execute(g, insn_call_far, far_to(SEL_TSS2 | 3))); /* DPL 0 */
    assert_threw(g, EXC_GP, SEL_TSS2);
    assert_false(execute(g, insn_call_far, far_to(SEL_TASKGATE | 3)));
    check_new_task(g);
    assert_int_equal(g->c->cpl, 0);
    guest_free(g);
}

static void test_16_bit(void **state)
{
    struct guest *g = start(0, &good);
    struct cpu *c = g->c;
    put16(g, AT_TSS16 + 14, 0x7100);
    put16(g, AT_TSS16 + 16, FLAG_CF);
    for (unsigned n = 0; n < 8; n++)
        put16(g, AT_TSS16 + 18 + 2 * n, 0xb000 + n);
    static const u16 sel[] = {SEL_DATA0, SEL_CODE0_16, SEL_DATA0_16, SEL_DATA0};
    for (unsigned n = 0; n < 4; n++)
        put16(g, AT_TSS16 + 34 + 2 * n, sel[n]);
    assert_false(execute(g, insn_jmp_far, far_to(SEL_TSS16)));
    assert_int_equal(c->tr.sel, SEL_TSS16);
    assert_int_equal(c->reg[X86_SLOT_RIP], 0x7100);
    assert_int_equal(c->reg[RSP], 0xb004);
    assert_int_equal(c->mode, X86_MODE16);
    assert_int_equal(c->seg[FS].attr, SEG_UNUSABLE);
    c->reg[RAX] = 0x5555;
    assert_false(execute(g, insn_jmp_far, far_to(SEL_TSS)));
    assert_int_equal(get16(g, AT_TSS16 + 18), 0x5555);
    assert_int_equal(get16(g, AT_TSS16 + 14), 0x7102);
    assert_int_equal(c->reg[X86_SLOT_RIP], AT_CODE + 2);
    guest_free(g);
}

/* Refused before anything changes. */
static void test_refused(void **state)
{
    static const struct {
        u64 desc;
        u8 vec;
        u32 err;
    } rows[] = {
        {0x8b, EXC_GP, SEL_TSS2},
        {0x09, EXC_NP, SEL_TSS2},
        {0x89 | 0x66ull << 8, EXC_TS, SEL_TSS2}, /* limit too small */
    };
    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
        struct guest *g = start(0, &good);
        u32 limit = rows[n].desc >> 8 ? (u32)(rows[n].desc >> 8) : 0x67;
        set_desc(g, SEL_TSS2, make_desc(AT_TSS2, limit, (u8)rows[n].desc, 0));
        assert_true(execute(g, insn_jmp_far, far_to(SEL_TSS2)));
        assert_threw(g, rows[n].vec, rows[n].err);
        assert_int_equal(g->c->tr.sel, SEL_TSS);
        assert_int_equal(g->c->reg[X86_SLOT_RIP], AT_CODE);
        assert_true(busy(g, SEL_TSS));
        guest_free(g);
    }
    struct guest *g = start(0, &good); /* a bad link */
    g->c->eflags |= FLAG_NT;
    put16(g, AT_TSS, SEL_TSS2); /* not busy */
    assert_true(execute(g, insn_iret, (struct x86_insn){.opsize = 4}));
    assert_threw(g, EXC_TS, SEL_TSS2);
    guest_free(g);
}

/* Found wrong in the new task: reported there (SDM vol. 3A, table 7-1). */
static void test_bad_new_state(void **state)
{
    static const struct {
        u16 cs, ss, ds, ldt;
        u32 eip;
        u8 vec;
        u32 err;
    } rows[] = {
        {0, SEL_DATA0, 0, 0, 0x7000, EXC_TS, 0},
        {SEL_DATA0, SEL_DATA0, 0, 0, 0x7000, EXC_TS, SEL_DATA0},
        {SEL_CODE0 | 3, SEL_DATA3, 0, 0, 0x7000, EXC_TS, SEL_CODE0},
        {SEL_NOCODE, SEL_DATA0, 0, 0, 0x7000, EXC_NP, SEL_NOCODE},
        {SEL_CODE0, 0, 0, 0, 0x7000, EXC_TS, 0},
        {SEL_CODE0, SEL_RO, 0, 0, 0x7000, EXC_TS, SEL_RO},
        {SEL_CODE0, SEL_DATA3, 0, 0, 0x7000, EXC_TS, SEL_DATA3 & ~3},
        {SEL_CODE0, SEL_ABSENT, 0, 0, 0x7000, EXC_SS, SEL_ABSENT},
        {SEL_CODE0, SEL_DATA0, SEL_XO, 0, 0x7000, EXC_TS, SEL_XO},
        {SEL_CODE0, SEL_DATA0, SEL_ABSENT, 0, 0x7000, EXC_NP, SEL_ABSENT},
        {SEL_CODE0, SEL_DATA0, 0, SEL_DATA0, 0x7000, EXC_TS, SEL_DATA0},
        {SEL_CODE0_16, SEL_DATA0, 0, 0, 0x10000, EXC_GP, 0},
    };
    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
        struct tss_values v = good;
        v.cs = rows[n].cs;
        v.ss = rows[n].ss;
        v.ds = rows[n].ds;
        v.ldt = rows[n].ldt;
        v.eip = rows[n].eip;
        struct guest *g = start(0, &v);
        assert_true(execute(g, insn_jmp_far, far_to(SEL_TSS2)));
        if (g->c->exc.vec != rows[n].vec || g->c->exc.err != rows[n].err)
            fail_msg("row %u: %u %x", n, g->c->exc.vec, g->c->exc.err);
        assert_true(g->c->exc.trap);
        assert_int_equal(g->c->reg[X86_SLOT_RIP], rows[n].eip);
        assert_int_equal(g->c->tr.sel, SEL_TSS2);
        guest_free(g);
    }
}

static void test_exception_task(void **state)
{
    struct guest *g = start(0, &good);
    struct cpu *c = g->c;
    set_gate(g, EXC_PF, SEL_TSS2, 0, 0x85, 0);
    raise_exc(g, EXC_PF, true, 2);
    assert_int_equal(c->tr.sel, SEL_TSS2);
    assert_int_equal(c->reg[RSP], 0xb000 - 4);
    assert_int_equal(get32(g, 0xb000 - 4), 2);
    check_saved(g, AT_CODE, FLAG_ONE | FLAG_RF);
    assert_true(c->eflags & FLAG_NT);
    assert_int_equal(get16(g, AT_TSS2), SEL_TSS);
    assert_int_equal(c->delivering, -1);
    guest_free(g);
}

/* An error code that does not fit on the new task's stack: #SS there, within the delivery of #PF.
 */
static void test_exception_task_bad_stack(void **state)
{
    struct tss_values v = good;
    v.ss = SEL_DATA0_16;
    v.esp = 0x1;
    struct guest *g = start(0, &v);
    set_gate(g, EXC_PF, SEL_TSS2, 0, 0x85, 0);
    g->c->exc = (struct cpu_exc){.pending = true, .vec = EXC_PF, .has_err = true, .err = 2};
    assert_true(attempt(g, cpu_deliver));
    assert_threw(g, EXC_SS, 0);
    assert_int_equal(g->c->reg[X86_SLOT_RIP], 0x7000);
    assert_true(g->c->exc.trap);
    cpu_exc_merge(g->c);
    assert_int_equal(g->c->exc.vec, EXC_DF);
    guest_free(g);
}

static void test_to_v86_and_trap(void **state)
{
    struct tss_values v = good;
    v.eflags = FLAG_VM | FLAG_ONE;
    v.cs = 0x700;
    v.ss = 0x900;
    v.ds = 0x1234;
    v.trap = 1;
    struct guest *g = start(0, &v);
    struct cpu *c = g->c;
    assert_false(execute(g, insn_jmp_far, far_to(SEL_TSS2)));
    assert_true(cpu_v86(c));
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->seg[DS].base, 0x12340);
    assert_int_equal(c->mode, X86_MODE16);
    assert_int_equal(c->db_pending, DR6_BT);
    assert_true(attempt(g, cpu_service_events));
    assert_threw(g, EXC_DB, 0);
    assert_true(c->dr[6] & DR6_BT);
    guest_free(g);
}

static void test_conforming_user(void **state)
{
    struct tss_values v = good;
    v.cs = SEL_CONF | 3;
    v.ss = v.ds = v.es = v.fs = SEL_DATA3;
    struct guest *g = start(0, &v);
    assert_false(execute(g, insn_call_far, far_to(SEL_TSS2)));
    assert_int_equal(g->c->cpl, 3);
    assert_int_equal(g->c->seg[CS].sel, SEL_CONF | 3);
    guest_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jmp),
        cmocka_unit_test(test_call_and_iret),
        cmocka_unit_test(test_task_gate),
        cmocka_unit_test(test_16_bit),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bad_new_state),
        cmocka_unit_test(test_exception_task),
        cmocka_unit_test(test_exception_task_bad_stack),
        cmocka_unit_test(test_to_v86_and_trap),
        cmocka_unit_test(test_conforming_user),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
