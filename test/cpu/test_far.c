/*
 * test_far.c - far CALL, JMP, RET; IRET; fast system calls; the flags register.
 */
#include "guest.h"

static struct x86_insn far_to(u16 sel, u32 off, unsigned opsize)
{
    return (struct x86_insn){.imm = off | (u64)sel << 32, .opsize = (u8)opsize};
}

/* --- JMP and CALL --- */

struct direct_row {
    bool longm;
    u8 cpl;
    u16 sel;
    u32 off;
    int vec;
    u32 err;
    u16 cs; /* what CS becomes */
};

static const struct direct_row direct_rows[] = {
    {false, 0, SEL_CODE0, 0x7777, -1, 0, SEL_CODE0},
    {false, 3, SEL_CODE3, 0x7777, -1, 0, SEL_CODE3},
    {false, 3, SEL_CONF, 0x7777, -1, 0, SEL_CONF | 3},
    {false, 0, SEL_CODE0_16, 0xffff, -1, 0, SEL_CODE0_16},
    {false, 0, SEL_CODE0_16, 0x10000, EXC_GP, 0, 0},
    {false, 0, 0, 0, EXC_GP, 0, 0},
    {false, 0, 3, 0, EXC_GP, 0, 0},
    {false, 0, SEL_BEYOND, 0, EXC_GP, SEL_BEYOND, 0},
    {false, 0, SEL_CODE0 | 4, 0, EXC_GP, SEL_CODE0 | 4, 0},
    {false, 0, SEL_CODE0 | 3, 0, EXC_GP, SEL_CODE0, 0}, /* RPL */
    {false, 0, SEL_CODE3, 0, EXC_GP, SEL_CODE3 & ~3, 0},
    {false, 3, SEL_CODE0, 0, EXC_GP, SEL_CODE0, 0},
    {false, 0, SEL_DATA0, 0, EXC_GP, SEL_DATA0, 0},
    {false, 0, SEL_NOCODE, 0, EXC_NP, SEL_NOCODE, 0},
    {false, 0, SEL_LDT, 0, EXC_GP, SEL_LDT, 0},
    {false, 0, SEL_TSS, 0, EXC_GP, SEL_TSS, 0},     /* busy */
    {true, 0, SEL_CODE0, 0x7777, -1, 0, SEL_CODE0}, /* to compatibility mode */
    {true, 0, SEL_CODE64, 0x7777, -1, 0, SEL_CODE64},
    {true, 0, SEL_TSS2, 0, EXC_GP, SEL_TSS2, 0}, /* no tasks in long mode */
    {true, 0, SEL_TASKGATE, 0, EXC_GP, SEL_TASKGATE, 0},
};

static void check_direct(const struct direct_row *r, unsigned n, bool call)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    if (r->longm)
        enter_long(g, r->cpl);
    else
        enter_protected(g, r->cpl);
    u64 sp = c->reg[RSP];
    u16 old = c->seg[CS].sel;
    bool threw = execute(g, call ? insn_call_far : insn_jmp_far, far_to(r->sel, r->off, 4));
    if (threw != (r->vec >= 0))
        fail_msg("row %u", n);
    if (threw) {
        assert_threw(g, r->vec, r->err);
        assert_int_equal(c->reg[RSP], sp);
        assert_int_equal(c->seg[CS].sel, old);
        assert_int_equal(c->reg[X86_SLOT_RIP], AT_CODE);
    } else {
        assert_int_equal(c->seg[CS].sel, r->cs);
        assert_int_equal(c->reg[X86_SLOT_RIP], r->off);
        assert_int_equal(c->reg[RSP], call ? sp - 8 : sp);
        assert_int_equal(c->cpl, r->cpl);
        if (call) {
            assert_int_equal(get32(g, sp - 4), old);
            assert_int_equal(get32(g, sp - 8), AT_CODE + 2);
        }
    }
    guest_free(g);
}

static void test_direct(void **state)
{
    for (unsigned n = 0; n < ARRAY_SIZE(direct_rows); n++) {
        check_direct(&direct_rows[n], n, false);
        check_direct(&direct_rows[n], n, true);
    }
}

static void test_modes_after_jmp(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_long(g, 0);
    assert_false(execute(g, insn_jmp_far, far_to(SEL_CODE0, AT_CODE, 4)));
    assert_int_equal(c->mode, X86_MODE32);
    assert_int_equal(c->la_mask, 0xffffffff);
    assert_false(execute(g, insn_jmp_far, far_to(SEL_CODE64, AT_CODE, 4)));
    assert_int_equal(c->mode, X86_MODE64);
    enter_protected(g, 0);
    c->efer = 0;
    cpu_update_mode(c);
    assert_false(execute(g, insn_jmp_far, far_to(SEL_CODE0_16, AT_CODE, 4)));
    assert_int_equal(c->mode, X86_MODE16);
    guest_free(g);
}

static void test_real(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_real_mode(g);
    assert_false(execute(g, insn_call_far, far_to(0x700, 0x20, 2)));
    assert_int_equal(c->seg[CS].base, 0x7000);
    assert_int_equal(c->reg[X86_SLOT_RIP], 0x20);
    assert_int_equal(get16(g, AT_STACK0 - 2), 0);
    assert_int_equal(get16(g, AT_STACK0 - 4), AT_CODE + 2);
    assert_false(execute(g, insn_ret_far, (struct x86_insn){.opsize = 2, .imm = 6}));
    assert_int_equal(c->reg[X86_SLOT_RIP], AT_CODE + 2);
    assert_int_equal(c->reg[RSP], AT_STACK0 + 6);
    assert_true(execute(g, insn_jmp_far, far_to(0x700, 0x10000, 4)));
    assert_threw(g, EXC_GP, 0);
    guest_free(g);
}

/* --- call gates --- */

static void test_gate_inner(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, 3);
    u64 sp = c->reg[RSP];
    put32(g, sp, 0x11111111);
    put32(g, sp + 4, 0x22222222);
    assert_false(execute(g, insn_call_far, far_to(SEL_GATE32 | 3, 0xf4f4f4f4, 4)));
    static const u32 frame[] = {AT_CODE + 2, SEL_CODE3, 0x11111111, 0x22222222};
    assert_int_equal(c->reg[RSP], AT_STACK0 - 24);
    for (unsigned n = 0; n < ARRAY_SIZE(frame); n++)
        assert_int_equal(get32(g, AT_STACK0 - 24 + 4 * n), frame[n]);
    assert_int_equal(get32(g, AT_STACK0 - 8), sp);
    assert_int_equal(get32(g, AT_STACK0 - 4), SEL_DATA3);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->seg[CS].sel, SEL_CODE0);
    assert_int_equal(c->reg[X86_SLOT_RIP], AT_HANDLER);

    /* And back: parameters are dropped from both stacks, DS of level 0 is lost. */
    cpu_load_seg(c, DS, SEL_DATA0);
    cpu_load_seg(c, ES, SEL_DATA3);
    assert_false(execute(g, insn_ret_far, (struct x86_insn){.opsize = 4, .imm = 8}));
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->reg[RSP], sp + 8);
    assert_int_equal(c->seg[SS].sel, SEL_DATA3);
    assert_int_equal(c->seg[DS].sel, 0);
    assert_int_equal(c->seg[DS].attr, SEG_UNUSABLE);
    assert_int_equal(c->seg[ES].sel, SEL_DATA3);
    assert_int_equal(c->reg[X86_SLOT_RIP], AT_CODE + 2);
    guest_free(g);
}

static void test_gate16(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, 3);
    u64 sp = c->reg[RSP];
    put16(g, sp, 0x3333);
    assert_false(execute(g, insn_call_far, far_to(SEL_GATE16 | 3, 0, 4)));
    static const u16 frame[] = {AT_CODE + 2, SEL_CODE3, 0x3333};
    for (unsigned n = 0; n < ARRAY_SIZE(frame); n++)
        assert_int_equal(get16(g, AT_STACK0 - 10 + 2 * n), frame[n]);
    assert_int_equal(get16(g, AT_STACK0 - 4), sp & 0xffff);
    assert_int_equal(get16(g, AT_STACK0 - 2), SEL_DATA3);
    guest_free(g);
}

static void test_gate_same_and_jmp(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, 0);
    u64 sp = c->reg[RSP];
    assert_false(execute(g, insn_call_far, far_to(SEL_GATE32, 0, 4)));
    assert_int_equal(c->reg[RSP], sp - 8);
    assert_int_equal(c->reg[X86_SLOT_RIP], AT_HANDLER);
    enter_protected(g, 0);
    assert_false(execute(g, insn_jmp_far, far_to(SEL_GATE32, 0, 4)));
    assert_int_equal(c->reg[RSP], sp);
    assert_int_equal(c->reg[X86_SLOT_RIP], AT_HANDLER);
    enter_protected(g, 3); /* JMP cannot go to an inner level */
    assert_true(execute(g, insn_jmp_far, far_to(SEL_GATE32 | 3, 0, 4)));
    assert_threw(g, EXC_GP, SEL_CODE0);
    guest_free(g);
}

static void test_bad_gates(void **state)
{
    static const struct {
        u64 gate;
        u16 rpl;
        u8 vec;
        u32 err;
    } rows[] = {
        {0, 3, EXC_GP, SEL_GATE32},
        {0xcc, 3, EXC_GP, SEL_GATE32}, /* DPL 2 */
        {0x6c, 3, EXC_NP, SEL_GATE32},
        {0xec | (u64)SEL_DATA0 << 16, 3, EXC_GP, SEL_DATA0},
        {0xec | (u64)SEL_NOCODE << 16, 3, EXC_NP, SEL_NOCODE},
        {0xec, 3, EXC_GP, 0},
    };
    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
        struct guest *g = guest_new();
        enter_protected(g, 3);
        u16 cs = (u16)(rows[n].gate >> 16);
        if (!cs && n != 5)
            cs = SEL_CODE0;
        set_desc(g, SEL_GATE32, make_gate(cs, AT_HANDLER, (u8)rows[n].gate, 0));
        assert_true(execute(g, insn_call_far, far_to(SEL_GATE32 | rows[n].rpl, 0, 4)));
        if (g->c->exc.vec != rows[n].vec || g->c->exc.err != rows[n].err)
            fail_msg("row %u: %u %x", n, g->c->exc.vec, g->c->exc.err);
        guest_free(g);
    }
}

static void test_gate64(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_long(g, 3);
    set_desc(g, SEL_GATE32, make_gate(SEL_CODE64, AT_HANDLER, 0xec, 0));
    set_desc(g, SEL_GATE32 + 8, 0);
    u64 sp = c->reg[RSP];
    c->reg[RBX] = 0x7000;
    put32(g, 0x7000, 0);
    put16(g, 0x7004, SEL_GATE32 | 3);
    struct x86_insn mem = {.prefix = X86_PFX_MEM,
                           .base = RBX,
                           .index = X86_SLOT_ZERO,
                           .seg = X86_SEG_FLAT,
                           .opsize = 4,
                           .adsize = 8};
    assert_false(execute(g, insn_call_far_ind, mem));
    assert_int_equal(c->reg[RSP], AT_STACK0 - 32);
    assert_int_equal(get64(g, AT_STACK0 - 32), AT_CODE + 2);
    assert_int_equal(get64(g, AT_STACK0 - 24), SEL_CODE64_3);
    assert_int_equal(get64(g, AT_STACK0 - 16), sp);
    assert_int_equal(get64(g, AT_STACK0 - 8), SEL_DATA3);
    assert_int_equal(c->seg[SS].sel, 0);
    assert_int_equal(c->cpl, 0);
    assert_false(execute(g, insn_ret_far, (struct x86_insn){.opsize = 8}));
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->reg[RSP], sp);
    set_desc(g, SEL_GATE32, make_gate(SEL_CODE0, AT_HANDLER, 0xec, 0)); /* not 64-bit code */
    assert_true(execute(g, insn_call_far_ind, mem));
    assert_threw(g, EXC_GP, SEL_CODE0);
    set_desc(g, SEL_GATE32 + 8, 1ull << 40); /* a type in the upper half */
    assert_true(execute(g, insn_call_far_ind, mem));
    assert_threw(g, EXC_GP, SEL_GATE32);
    guest_free(g);
}

/* --- IRET --- */

struct iret_row {
    bool longm;
    u8 cpl;
    u64 rip;
    u16 cs, ss;
    u32 flags;
    int vec;
    u32 err;
    u32 after; /* RFLAGS, of 0 before */
};

static const struct iret_row iret_rows[] = {
    {false, 0, 0x7000, SEL_CODE0, 0, FLAG_IF | FLAG_IOPL | FLAG_RF, -1, 0,
     FLAG_IF | FLAG_IOPL | FLAG_RF},
    {false, 0, 0x7000, SEL_CODE3, SEL_DATA3, FLAG_IF | FLAG_ZF, -1, 0, FLAG_IF | FLAG_ZF},
    {false, 3, 0x7000, SEL_CODE3, 0, FLAG_IF | FLAG_IOPL | FLAG_ID | FLAG_VIF | FLAG_VM, -1, 0,
     FLAG_ID},
    {false, 0, 0x7000, 0, 0, 0, EXC_GP, 0, 0},
    {false, 0, 0x7000, SEL_DATA0, 0, 0, EXC_GP, SEL_DATA0, 0},
    {false, 0, 0x7000, SEL_NOCODE, 0, 0, EXC_NP, SEL_NOCODE, 0},
    {false, 3, 0x7000, SEL_CODE0, 0, 0, EXC_GP, SEL_CODE0, 0}, /* inwards */
    {false, 0, 0x7000, SEL_CODE0 | 3, SEL_DATA3, 0, EXC_GP, SEL_CODE0, 0},
    {false, 0, 0x7000, SEL_CODE3, 0, 0, EXC_GP, 0, 0},
    {false, 0, 0x7000, SEL_CODE3, SEL_DATA0, 0, EXC_GP, SEL_DATA0, 0},
    {false, 0, 0x7000, SEL_CODE3, SEL_BEYOND | 3, 0, EXC_GP, SEL_BEYOND, 0},
    {false, 0, 0x10000, SEL_CODE0_16, 0, 0, EXC_GP, 0, 0},
    {true, 0, 0x7000, SEL_CODE64, SEL_DATA0, FLAG_IF, -1, 0, FLAG_IF},
    {true, 0, 0x7000, SEL_CODE64, 0, FLAG_IF, -1, 0, FLAG_IF}, /* a null SS */
    {true, 0, 0x7000, SEL_CODE64_3, SEL_DATA3, FLAG_IF, -1, 0, FLAG_IF},
    {true, 0, 0x7000, SEL_CODE64_3, 3, 0, EXC_GP, 0, 0},  /* but not at level 3 */
    {true, 0, 0x7000, SEL_CODE3, SEL_DATA3, 0, -1, 0, 0}, /* compatibility mode */
    {true, 0, 0x7000, SEL_CODE0, 0, 0, EXC_GP, 0, 0},     /* nor there */
    {true, 0, 0x800000000000, SEL_CODE64, SEL_DATA0, 0, EXC_GP, 0, 0},
    {true, 0, 0x7000, SEL_CODE64, SEL_DATA3, 0, EXC_GP, SEL_DATA3 & ~3, 0},
    {true, 0, 0x7000, SEL_CODE64, SEL_DATA0, FLAG_VM | FLAG_ZF, -1, 0, FLAG_ZF},
};

static void put_slots(struct guest *g, u64 at, unsigned size, const u64 *val, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        mem_write(&g->m, at + k * size, &val[k], size);
}

static void check_iret_row(const struct iret_row *r, unsigned n)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    if (r->longm)
        enter_long(g, r->cpl);
    else
        enter_protected(g, r->cpl);
    unsigned size = r->longm ? 8 : 4;
    u64 sp = c->reg[RSP];
    u64 frame[] = {r->rip, r->cs, r->flags, AT_STACK3 - 0x40, r->ss};
    put_slots(g, sp, size, frame, 5);
    bool threw = execute(g, insn_iret, (struct x86_insn){.opsize = (u8)size});
    if (threw != (r->vec >= 0))
        fail_msg("row %u: threw %d: %u %x", n, threw, c->exc.vec, c->exc.err);
    if (threw) {
        if (c->exc.vec != r->vec || c->exc.err != r->err)
            fail_msg("row %u: %u %x", n, c->exc.vec, c->exc.err);
        assert_int_equal(c->reg[RSP], sp);
        assert_int_equal(c->cpl, r->cpl);
        guest_free(g);
        return;
    }
    bool outer = (r->cs & 3) > r->cpl;
    assert_int_equal(c->reg[X86_SLOT_RIP], r->rip);
    assert_int_equal(c->cpl, r->cs & 3);
    assert_int_equal(c->reg[RSP], outer || r->longm ? AT_STACK3 - 0x40 : sp + 12);
    if (cpu_flags(c) != (r->after | FLAG_ONE))
        fail_msg("row %u: flags %x", n, cpu_flags(c));
    if (outer && !r->longm) /* DS was level 0's */
        assert_int_equal(c->seg[DS].attr, SEG_UNUSABLE);
    guest_free(g);
}

static void test_iret(void **state)
{
    for (unsigned n = 0; n < ARRAY_SIZE(iret_rows); n++)
        check_iret_row(&iret_rows[n], n);
}

static void test_iret_real(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_real_mode(g);
    static const u64 frame[] = {0x10, 0x600, 0xffc18028 | FLAG_CF};
    put_slots(g, AT_STACK0, 4, frame, 3);
    assert_false(execute(g, insn_iret, (struct x86_insn){.opsize = 4}));
    assert_int_equal(c->seg[CS].base, 0x6000);
    assert_int_equal(c->reg[RSP], AT_STACK0 + 12);
    assert_int_equal(cpu_flags(c), FLAG_CF | FLAG_RF | FLAG_ONE);
    enter_real_mode(g);
    put_slots(g, AT_STACK0, 2, (const u64[]){0x10, 0x600, 0x7002}, 3);
    assert_false(execute(g, insn_iret, (struct x86_insn){.opsize = 2}));
    assert_int_equal(c->reg[RSP], AT_STACK0 + 6);
    assert_int_equal(cpu_flags(c), 0x7002 | FLAG_RF);
    guest_free(g);
}

static void test_iret_to_v86(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, 0);
    static const u64 frame[] = {0x20, 0x700, FLAG_VM | FLAG_IF, 0xfff0, 0x900, 0x11, 0x22,
                                0x33, 0x44};
    put_slots(g, c->reg[RSP], 4, frame, 9);
    assert_false(execute(g, insn_iret, (struct x86_insn){.opsize = 4}));
    assert_true(cpu_v86(c));
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->mode, X86_MODE16);
    assert_int_equal(c->seg[CS].base, 0x7000);
    assert_int_equal(c->seg[SS].base, 0x9000);
    assert_int_equal(c->reg[RSP], 0xfff0);
    static const u16 sel[] = {[ES] = 0x11, [DS] = 0x22, [FS] = 0x33, [GS] = 0x44};
    static const u8 data[] = {ES, DS, FS, GS};
    for (unsigned n = 0; n < ARRAY_SIZE(data); n++)
        assert_int_equal(c->seg[data[n]].sel, sel[data[n]]);
    guest_free(g);
}

static void test_iret_in_v86(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_v86(g, 0);
    put_slots(g, AT_STACK3, 2, (const u64[]){0x44, 0x700, FLAG_IF | FLAG_IOPL}, 3);
    assert_true(execute(g, insn_iret, (struct x86_insn){.opsize = 2}));
    assert_threw(g, EXC_GP, 0);
    c->cr4 = CR4_VME;
    assert_false(execute(g, insn_iret, (struct x86_insn){.opsize = 2}));
    assert_int_equal(cpu_flags(c), FLAG_VM | FLAG_VIF | FLAG_ONE);
    assert_int_equal(c->reg[X86_SLOT_RIP], 0x44);
    enter_v86(g, 0);
    c->eflags |= FLAG_VIP;
    assert_true(execute(g, insn_iret, (struct x86_insn){.opsize = 2}));
    assert_threw(g, EXC_GP, 0);
    guest_free(g);
    g = guest_new();
    enter_v86(g, 3);
    put_slots(g, AT_STACK3, 2, (const u64[]){0x44, 0x700, FLAG_IF}, 3);
    assert_false(execute(g, insn_iret, (struct x86_insn){.opsize = 2}));
    assert_int_equal(cpu_flags(g->c), FLAG_VM | FLAG_IF | FLAG_IOPL | FLAG_ONE);
    guest_free(g);
}

/* --- SYSCALL, SYSENTER --- */

static void test_syscall(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_long(g, 3);
    c->star = (u64)0x1b << 48 | (u64)SEL_CODE64 << 32;
    c->lstar = 0xffffffff81000000;
    c->sfmask = FLAG_IF | FLAG_TF;
    cpu_set_flags(c, FLAG_IF | FLAG_CF);
    assert_false(execute(g, insn_syscall, (struct x86_insn){0}));
    assert_int_equal(c->reg[RCX], AT_CODE + 2);
    assert_int_equal(c->reg[R11], FLAG_IF | FLAG_CF | FLAG_ONE);
    assert_int_equal(c->reg[X86_SLOT_RIP], 0xffffffff81000000);
    assert_int_equal(cpu_flags(c), FLAG_CF | FLAG_ONE);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->seg[CS].sel, SEL_CODE64);
    assert_int_equal(c->seg[CS].attr, 0xa09b);
    assert_int_equal(c->seg[SS].sel, SEL_CODE64 + 8);
    assert_int_equal(c->seg[SS].attr, 0xc093);

    c->reg[RCX] = 0x800000000000; /* at level 0, the user's stack still loaded */
    assert_true(execute(g, insn_sysret, (struct x86_insn){.opsize = 8}));
    assert_threw(g, EXC_GP, 0);
    assert_int_equal(c->cpl, 0);
    c->reg[RCX] = AT_CODE;
    c->reg[R11] = FLAG_IF | FLAG_RF | FLAG_VM | FLAG_ID;
    assert_false(execute(g, insn_sysret, (struct x86_insn){.opsize = 8}));
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->seg[CS].sel, 0x2b);
    assert_int_equal(c->seg[CS].attr, 0xa0fb);
    assert_int_equal(c->seg[SS].sel, 0x23);
    assert_int_equal(cpu_flags(c), FLAG_IF | FLAG_ID | FLAG_ONE);
    assert_true(execute(g, insn_sysret, (struct x86_insn){.opsize = 8}));
    assert_threw(g, EXC_GP, 0);
    c->efer &= ~EFER_SCE;
    assert_true(execute(g, insn_syscall, (struct x86_insn){0}));
    assert_threw(g, EXC_UD, 0);
    guest_free(g);
}

/* AMD's have it in 32-bit code too, with rules of its own outside long mode. */
static void test_syscall_amd(void **state)
{
    struct guest *g = guest_new_cpu("vendor=AuthenticAMD");
    struct cpu *c = g->c;
    enter_protected(g, 3);
    c->star = (u64)0x1b << 48 | (u64)SEL_CODE0 << 32 | 0x12345678;
    assert_true(execute(g, insn_syscall, (struct x86_insn){0}));
    assert_threw(g, EXC_UD, 0);
    c->efer |= EFER_SCE;
    cpu_set_flags(c, FLAG_IF | FLAG_CF);
    assert_false(execute(g, insn_syscall, (struct x86_insn){0}));
    assert_int_equal(c->reg[RCX], AT_CODE + 2);
    assert_int_equal(c->reg[X86_SLOT_RIP], 0x12345678);
    assert_int_equal(cpu_flags(c), FLAG_CF | FLAG_ONE);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->seg[CS].attr, 0xc09b);
    assert_false(execute(g, insn_sysret, (struct x86_insn){.opsize = 4}));
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->seg[CS].sel, 0x1b);
    assert_int_equal(c->seg[CS].attr, 0xc0fb);
    assert_int_equal(cpu_flags(c), FLAG_IF | FLAG_CF | FLAG_ONE);
    assert_true(execute(g, insn_sysret, (struct x86_insn){.opsize = 4}));
    assert_threw(g, EXC_GP, 0);
    guest_free(g);

    g = guest_new_cpu("vendor=AuthenticAMD");
    c = g->c;
    enter_long(g, 3);
    c->sysenter_cs = SEL_CODE64;
    assert_true(execute(g, insn_sysenter, (struct x86_insn){0}));
    assert_threw(g, EXC_UD, 0);
    c->star = (u64)SEL_CODE64 << 32;
    c->cstar = 0xffffffff81000000;
    c->seg[CS].attr = (c->seg[CS].attr & ~SEG_L) | SEG_DB;
    cpu_update_mode(c);
    assert_int_equal(c->mode, X86_MODE32);
    assert_false(execute(g, insn_syscall, (struct x86_insn){0}));
    assert_int_equal(c->reg[X86_SLOT_RIP], 0xffffffff81000000);
    assert_int_equal(c->mode, X86_MODE64);
    guest_free(g);
}

/* A selector that becomes null on the way out leaves the base alone. */
static void test_iret_keeps_bases(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_long(g, 0);
    cpu_load_seg(c, GS, SEL_DATA0);
    c->seg[GS].base = 0xffff888012345000;
    put_slots(g, c->reg[RSP], 8,
              (const u64[]){AT_CODE, SEL_CODE64_3, FLAG_IF, AT_STACK3, SEL_DATA3}, 5);
    assert_false(execute(g, insn_iret, (struct x86_insn){.opsize = 8}));
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->seg[GS].sel, 0);
    assert_true(c->seg[GS].attr & SEG_UNUSABLE);
    assert_true(c->seg[GS].base == 0xffff888012345000);
    guest_free(g);
}

/* A single step is reported by TF as SYSCALL and SYSRET leave it. */
static void test_syscall_steps(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_long(g, 3);
    c->sfmask = FLAG_TF;
    cpu_set_flags(c, FLAG_TF);
    assert_false(execute(g, insn_syscall, (struct x86_insn){0}));
    assert_true(c->no_step);
    c->no_step = false;
    assert_false(execute(g, insn_sysret, (struct x86_insn){.opsize = 4}));
    assert_int_equal(c->db_pending, DR6_BS);
    assert_int_equal(c->mode, X86_MODE32);
    assert_true(cpu_event_pending(c));
    guest_free(g);
}

static void test_sysenter(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, 3);
    assert_true(execute(g, insn_sysenter, (struct x86_insn){0}));
    assert_threw(g, EXC_GP, 0);
    c->sysenter_cs = SEL_CODE0 | 3;
    c->sysenter_esp = 0x123456789;
    c->sysenter_eip = 0x987654321;
    cpu_set_flags(c, FLAG_IF | FLAG_ZF);
    assert_false(execute(g, insn_sysenter, (struct x86_insn){0}));
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->reg[RSP], 0x23456789);
    assert_int_equal(c->reg[X86_SLOT_RIP], 0x87654321);
    assert_int_equal(c->seg[CS].sel, SEL_CODE0);
    assert_int_equal(c->seg[CS].attr, 0xc09b);
    assert_int_equal(c->seg[SS].sel, SEL_CODE0 + 8);
    assert_int_equal(cpu_flags(c), FLAG_ZF | FLAG_ONE);
    c->reg[RCX] = AT_STACK3;
    c->reg[RDX] = AT_CODE;
    assert_false(execute(g, insn_sysexit, (struct x86_insn){.opsize = 4}));
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->seg[CS].sel, (SEL_CODE0 + 16) | 3);
    assert_int_equal(c->seg[SS].sel, (SEL_CODE0 + 24) | 3);
    assert_int_equal(c->reg[RSP], AT_STACK3);
    assert_int_equal(c->reg[X86_SLOT_RIP], AT_CODE);
    assert_true(execute(g, insn_sysexit, (struct x86_insn){.opsize = 4}));
    assert_threw(g, EXC_GP, 0);
    guest_free(g);
}

/* --- the flags register --- */

struct popf_row {
    enum { REAL, PROT0, PROT3, V86 } mode;
    u8 iopl;
    bool vme;
    u8 opsize;
    u32 before, val;
    bool gp;
    u32 after;
};

#define V86_3 (FLAG_VM | FLAG_IOPL)

static const struct popf_row popf_rows[] = {
    {REAL, 0, false, 2, 0, 0xffff, false, 0x7fd5},
    {REAL, 0, false, 4, FLAG_RF, 0xffffffff, false, 0x7fd5 | FLAG_AC | FLAG_ID},
    {PROT0, 0, false, 4, FLAG_VIF, 0xffffffff, false, 0x7fd5 | FLAG_AC | FLAG_ID | FLAG_VIF},
    {PROT0, 0, false, 4, FLAG_VIF | FLAG_IF, 0, false, FLAG_VIF},
    {PROT3, 0, false, 4, FLAG_IF, 0, false, FLAG_IF}, /* silently kept: the machine's name */
    {PROT3, 0, false, 4, 0, FLAG_IF | FLAG_IOPL | FLAG_NT, false, FLAG_NT},
    {PROT3, 3, false, 4, 0, FLAG_IF, false, FLAG_IF | FLAG_IOPL},
    {V86, 3, false, 2, 0, FLAG_IF, false, FLAG_IF | V86_3},
    {V86, 3, false, 4, 0, 0, false, V86_3},
    {V86, 0, false, 2, 0, FLAG_IF, true, FLAG_VM},
    {V86, 0, true, 4, 0, FLAG_IF, true, FLAG_VM},
    {V86, 0, true, 2, FLAG_IF, FLAG_CF, false, FLAG_VM | FLAG_IF | FLAG_CF},
    {V86, 0, true, 2, 0, FLAG_IF | FLAG_IOPL, false, FLAG_VM | FLAG_VIF},
    {V86, 0, true, 2, FLAG_VIP, FLAG_IF, true, FLAG_VM | FLAG_VIP},
    {V86, 0, true, 2, 0, FLAG_TF, true, FLAG_VM},
};

static struct guest *enter_row(unsigned mode, unsigned iopl, u32 flags)
{
    struct guest *g = guest_new();
    if (mode == REAL)
        enter_real_mode(g);
    else if (mode == V86)
        enter_v86(g, iopl);
    else
        enter_protected(g, mode == PROT3 ? 3 : 0);
    g->c->eflags |= flags | iopl << 12;
    return g;
}

static void test_popf(void **state)
{
    for (unsigned n = 0; n < ARRAY_SIZE(popf_rows); n++) {
        const struct popf_row *r = &popf_rows[n];
        struct guest *g = enter_row(r->mode, r->iopl, r->before);
        struct cpu *c = g->c;
        c->cr4 = r->vme ? CR4_VME : 0;
        u64 sp = c->reg[RSP];
        put32(g, sp, r->val);
        bool threw = execute(g, insn_popf, (struct x86_insn){.opsize = r->opsize});
        if (threw != r->gp || cpu_flags(c) != (r->after | FLAG_ONE))
            fail_msg("row %u: %d, %x", n, threw, cpu_flags(c));
        if (threw)
            assert_threw(g, EXC_GP, 0);
        assert_int_equal(c->reg[RSP], threw ? sp : sp + r->opsize);
        guest_free(g);
    }
}

static void test_pushf(void **state)
{
    static const struct {
        u8 mode, iopl;
        bool vme;
        u8 opsize;
        u32 flags;
        bool gp;
        u32 pushed;
    } rows[] = {
        {PROT0, 0, false, 4, FLAG_RF | FLAG_IF | FLAG_ID, false, FLAG_IF | FLAG_ID},
        {V86, 3, false, 4, FLAG_RF | FLAG_IF, false, FLAG_IF | FLAG_IOPL},
        {V86, 0, false, 2, FLAG_IF, true, 0},
        {V86, 0, true, 4, FLAG_IF, true, 0},
        {V86, 0, true, 2, FLAG_IF, false, FLAG_IOPL},
        {V86, 0, true, 2, FLAG_VIF, false, FLAG_IOPL | FLAG_IF},
    };
    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
        struct guest *g = enter_row(rows[n].mode, rows[n].iopl, rows[n].flags);
        g->c->cr4 = rows[n].vme ? CR4_VME : 0;
        bool threw = execute(g, insn_pushf, (struct x86_insn){.opsize = rows[n].opsize});
        assert_int_equal(threw, rows[n].gp);
        u64 sp = g->c->reg[RSP];
        u32 got = rows[n].opsize == 2 ? get16(g, sp) : get32(g, sp);
        if (!threw && got != (rows[n].pushed | FLAG_ONE))
            fail_msg("row %u: %x", n, got);
        guest_free(g);
    }
}

static void test_cli_sti(void **state)
{
    static const struct {
        u8 mode, iopl;
        u32 cr4, flags;
        bool sti, gp;
        u32 after; /* of IF and VIF */
    } rows[] = {
        {REAL, 0, 0, FLAG_IF, false, false, 0},
        {PROT0, 0, 0, 0, true, false, FLAG_IF},
        {PROT3, 0, 0, FLAG_IF, false, true, FLAG_IF},
        {PROT3, 3, 0, FLAG_IF, false, false, 0},
        {PROT3, 0, CR4_PVI, FLAG_IF | FLAG_VIF, false, false, FLAG_IF},
        {PROT3, 0, CR4_PVI, 0, true, false, FLAG_VIF},
        {PROT3, 0, CR4_PVI, FLAG_VIP, true, true, 0},
        {PROT3, 0, CR4_VME, 0, true, true, 0},
        {V86, 3, 0, 0, true, false, FLAG_IF},
        {V86, 0, 0, 0, true, true, 0},
        {V86, 0, CR4_VME, 0, true, false, FLAG_VIF},
        {V86, 0, CR4_PVI, 0, true, true, 0},
    };
    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
        struct guest *g = enter_row(rows[n].mode, rows[n].iopl, rows[n].flags);
        g->c->cr4 = rows[n].cr4;
        bool threw = execute(g, rows[n].sti ? insn_sti : insn_cli, (struct x86_insn){0});
        u32 got = cpu_flags(g->c) & (FLAG_IF | FLAG_VIF);
        if (threw != rows[n].gp || got != rows[n].after)
            fail_msg("row %u: %d %x", n, threw, got);
        guest_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_direct),      cmocka_unit_test(test_modes_after_jmp),
        cmocka_unit_test(test_real),        cmocka_unit_test(test_gate_inner),
        cmocka_unit_test(test_gate16),      cmocka_unit_test(test_gate_same_and_jmp),
        cmocka_unit_test(test_bad_gates),   cmocka_unit_test(test_gate64),
        cmocka_unit_test(test_iret),        cmocka_unit_test(test_iret_real),
        cmocka_unit_test(test_iret_to_v86), cmocka_unit_test(test_iret_in_v86),
        cmocka_unit_test(test_syscall_amd), cmocka_unit_test(test_iret_keeps_bases),
        cmocka_unit_test(test_syscall),     cmocka_unit_test(test_syscall_steps),
        cmocka_unit_test(test_sysenter),    cmocka_unit_test(test_popf),
        cmocka_unit_test(test_pushf),       cmocka_unit_test(test_cli_sti),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
