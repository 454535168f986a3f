/*
 * test_event.c - exceptions and interrupts: delivery in every mode, nesting, priorities, debug.
 */
#include "guest.h"

/* --- frames --- */

static void test_real_mode(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_real_mode(g);
    c->seg[CS].sel = 0x123;
    put32(g, EXC_GP * 4, 0x04560010);
    cpu_set_flags(c, FLAG_IF | FLAG_TF | FLAG_CF);
    raise_exc(g, EXC_GP, true, 0);
    assert_int_equal(c->reg[RSP], AT_STACK0 - 6); /* no error code */
    assert_int_equal(get16(g, AT_STACK0 - 6), AT_CODE);
    assert_int_equal(get16(g, AT_STACK0 - 4), 0x123);
    assert_int_equal(get16(g, AT_STACK0 - 2), FLAG_IF | FLAG_TF | FLAG_CF | FLAG_ONE);
    assert_int_equal(c->seg[CS].base, 0x4560);
    assert_int_equal(c->reg[X86_SLOT_RIP], 0x10);
    assert_int_equal(cpu_flags(c), FLAG_CF | FLAG_ONE);
    guest_free(g);
}

static void test_real_mode_limit(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_real_mode(g);
    c->idtr.limit = 8 * 4 + 3; /* up to #DF */
    put32(g, EXC_DF * 4, 0x0777);
    raise_exc(g, EXC_GP, true, 0);
    assert_int_equal(c->reg[X86_SLOT_RIP], 0x0777);
    enter_real_mode(g);
    c->idtr.limit = 3;
    raise_exc(g, EXC_UD, false, 0);
    assert_int_equal(c->activity, CPU_SHUTDOWN);
    assert_false(c->exc.pending);
    guest_free(g);
}

struct prot_row {
    u8 cpl, gate; /* access byte */
    u16 cs;
    bool err;
    u8 size; /* of a slot */
    bool inner;
    u8 new_cpl;
    bool keeps_if;
};

static const struct prot_row prot_rows[] = {
    {0, 0x8e, SEL_CODE0, true, 4, false, 0, false}, {0, 0x8f, SEL_CODE0, false, 4, false, 0, true},
    {3, 0x8e, SEL_CODE0, true, 4, true, 0, false},  {3, 0x8f, SEL_CODE0, false, 4, true, 0, true},
    {3, 0x86, SEL_CODE0, true, 2, true, 0, false},  {0, 0x87, SEL_CODE0, false, 2, false, 0, true},
    {3, 0x8e, SEL_CONF, false, 4, false, 3, false}, /* conforming: no change of level */
    {3, 0x8e, SEL_CODE3, true, 4, false, 3, false},
};

static u32 slot(struct guest *g, u64 sp, unsigned size, unsigned n)
{
    return size == 2 ? get16(g, sp + n * 2) : get32(g, sp + n * 4);
}

static void check_prot_row(const struct prot_row *r, unsigned n)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, r->cpl);
    set_gate(g, EXC_GP, r->cs, AT_HANDLER, r->gate, 0);
    cpu_set_flags(c, FLAG_IF | FLAG_NT | FLAG_ZF | FLAG_TF);
    u64 sp = c->reg[RSP], top = r->inner ? AT_STACK0 : sp;
    u16 cs = c->seg[CS].sel, ss = c->seg[SS].sel;
    raise_exc(g, EXC_GP, r->err, 0x1234);

    unsigned slots = 3 + r->err + (r->inner ? 2 : 0), at = 0;
    u64 now = c->reg[RSP];
    if (now != top - slots * r->size || c->cpl != r->new_cpl)
        fail_msg("row %u: sp %llx cpl %u", n, (unsigned long long)now, c->cpl);
    if (r->err)
        assert_int_equal(slot(g, now, r->size, at++), 0x1234);
    assert_int_equal(slot(g, now, r->size, at++), AT_CODE);
    assert_int_equal(slot(g, now, r->size, at++), cs);
    u32 fl = FLAG_IF | FLAG_NT | FLAG_ZF | FLAG_TF | FLAG_ONE | FLAG_RF;
    assert_int_equal(slot(g, now, r->size, at++), r->size == 2 ? fl & 0xffff : fl);
    if (r->inner) {
        assert_int_equal(slot(g, now, r->size, at++), sp);
        assert_int_equal(slot(g, now, r->size, at++), ss);
        assert_int_equal(c->seg[SS].sel, SEL_DATA0);
    }
    assert_int_equal(c->seg[CS].sel, (r->cs & ~3) | r->new_cpl);
    assert_int_equal(c->reg[X86_SLOT_RIP], AT_HANDLER);
    assert_int_equal(cpu_flags(c), FLAG_ZF | FLAG_ONE | (r->keeps_if ? FLAG_IF : 0));
    guest_free(g);
}

static void test_protected(void **state)
{
    for (unsigned n = 0; n < ARRAY_SIZE(prot_rows); n++)
        check_prot_row(&prot_rows[n], n);
}

static void test_from_v86(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_v86(g, 0);
    set_gate(g, EXC_GP, SEL_CODE0, AT_HANDLER, 0x8e, 0);
    raise_exc(g, EXC_GP, true, 0);
    static const u32 expected[] = {
        0,         0x10,      AT_CODE >> 4, FLAG_VM | FLAG_RF | FLAG_ONE, AT_STACK3, 0, 0x10 * ES,
        0x10 * DS, 0x10 * FS, 0x10 * GS,
    };
    assert_int_equal(c->reg[RSP], AT_STACK0 - sizeof(expected));
    for (unsigned n = 0; n < ARRAY_SIZE(expected); n++)
        assert_int_equal(get32(g, c->reg[RSP] + 4 * n), expected[n]);
    assert_false(cpu_v86(c));
    assert_int_equal(c->cpl, 0);
    static const u8 data[] = {ES, DS, FS, GS};
    for (unsigned n = 0; n < ARRAY_SIZE(data); n++)
        assert_int_equal(c->seg[data[n]].attr, SEG_UNUSABLE);
    /* A handler that would not run at level 0 cannot be entered from V86. */
    enter_v86(g, 0);
    set_gate(g, EXC_UD, SEL_CODE3, AT_HANDLER, 0x8e, 0);
    c->exc = (struct cpu_exc){.pending = true, .vec = EXC_UD};
    assert_true(attempt(g, cpu_deliver));
    assert_threw(g, EXC_GP, SEL_CODE3 & ~3);
    guest_free(g);
}

struct long_row {
    u8 cpl, ist;
    bool err;
    u64 top;
};

static void test_long(void **state)
{
    static const struct long_row rows[] = {
        {0, 0, true, AT_STACK0 - 0x100}, {0, 0, false, AT_STACK0 - 0x100}, {3, 0, true, AT_STACK0},
        {3, 1, false, AT_IST1 & ~0xf},   {0, 1, true, AT_IST1 & ~0xf},
    };
    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
        struct guest *g = guest_new();
        struct cpu *c = g->c;
        enter_long(g, rows[n].cpl);
        c->reg[RSP] += 5; /* is aligned down only on the new frame's way */
        u64 sp = c->reg[RSP];
        u16 cs = c->seg[CS].sel, ss = c->seg[SS].sel;
        set_gate(g, EXC_PF, SEL_CODE64, AT_HANDLER, 0x8e, rows[n].ist);
        raise_exc(g, EXC_PF, rows[n].err, 7);
        u64 now = c->reg[RSP], at = now;
        assert_int_equal(now, rows[n].top - 8 * (5 + rows[n].err));
        if (rows[n].err) {
            assert_int_equal(get64(g, at), 7);
            at += 8;
        }
        assert_int_equal(get64(g, at), AT_CODE);
        assert_int_equal(get64(g, at + 8), cs);
        assert_int_equal(get64(g, at + 16), FLAG_RF | FLAG_ONE);
        assert_int_equal(get64(g, at + 24), sp);
        assert_int_equal(get64(g, at + 32), ss);
        assert_int_equal(c->cpl, 0);
        assert_int_equal(c->seg[SS].sel, rows[n].cpl ? 0 : ss);
        assert_int_equal(c->mode, X86_MODE64);
        guest_free(g);
    }
}

/* --- errors on the way --- */

struct bad_row {
    bool longm;
    bool soft;
    u8 cpl, gate;
    u16 cs;
    u32 off;
    u8 vec;  /* what comes */
    u32 err; /* with EXT for what is not soft */
};

#define IDT_ERR (0x40 * 8 + 2)

static const struct bad_row bad_rows[] = {
    {false, true, 3, 0x8e, SEL_CODE0, 0, EXC_GP, IDT_ERR}, /* DPL */
    {false, true, 3, 0x6e, SEL_CODE0, 0, EXC_NP, IDT_ERR}, /* not present */
    {false, false, 3, 0x0e, SEL_CODE0, 0, EXC_NP, IDT_ERR | 1},
    {false, false, 0, 0x8c, SEL_CODE0, 0, EXC_GP, IDT_ERR | 1}, /* a call gate */
    {false, false, 0, 0x9e, SEL_CODE0, 0, EXC_GP, IDT_ERR | 1}, /* S */
    {false, true, 0, 0x8e, 0, 0, EXC_GP, 0},
    {false, false, 0, 0x8e, 0, 0, EXC_GP, 1},
    {false, true, 0, 0x8e, SEL_DATA0, 0, EXC_GP, SEL_DATA0},
    {false, true, 0, 0x8e, SEL_CODE3, 0, EXC_GP, SEL_CODE3 & ~3},
    {false, true, 0, 0x8e, SEL_BEYOND, 0, EXC_GP, SEL_BEYOND},
    {false, false, 0, 0x8e, SEL_NOCODE, 0, EXC_NP, SEL_NOCODE | 1},
    {false, true, 0, 0x8e, SEL_CODE0_16, 0x10000, EXC_GP, 0},
    {false, true, 0, 0x85, SEL_TSS, 0, EXC_GP, SEL_TSS},     /* task gate: busy */
    {false, true, 0, 0x85, SEL_DATA0, 0, EXC_GP, SEL_DATA0}, /* no TSS */
    {false, true, 0, 0x85, SEL_TSS2 | 4, 0, EXC_GP, SEL_TSS2 | 4},
    {true, true, 3, 0x8e, SEL_CODE64, 0, EXC_GP, IDT_ERR},
    {true, true, 0, 0x86, SEL_CODE64, 0, EXC_GP, IDT_ERR}, /* no 16-bit gates */
    {true, true, 0, 0x85, SEL_TSS2, 0, EXC_GP, IDT_ERR},
    {true, true, 0, 0x8e, SEL_CODE0, 0, EXC_GP, SEL_CODE0}, /* not 64-bit */
    {true, false, 0, 0x0e, SEL_CODE64, 0, EXC_NP, IDT_ERR | 1},
};

static void test_bad_gates(void **state)
{
    for (unsigned n = 0; n < ARRAY_SIZE(bad_rows); n++) {
        const struct bad_row *r = &bad_rows[n];
        struct guest *g = guest_new();
        struct cpu *c = g->c;
        if (r->longm)
            enter_long(g, r->cpl);
        else
            enter_protected(g, r->cpl);
        set_gate(g, 0x40, r->cs, r->off, r->gate, 0);
        u64 sp = c->reg[RSP];
        c->exc = (struct cpu_exc){.pending = true, .soft = r->soft, .ext = !r->soft, .vec = 0x40};
        if (!attempt(g, cpu_deliver))
            fail_msg("row %u was delivered", n);
        cpu_exc_merge(c);
        if (c->exc.vec != r->vec || c->exc.err != r->err)
            fail_msg("row %u: %u, %x", n, c->exc.vec, c->exc.err);
        assert_int_equal(c->reg[RSP], sp);
        assert_int_equal(c->reg[X86_SLOT_RIP], AT_CODE);
        assert_int_equal(c->cpl, r->cpl);
        guest_free(g);
    }
}

/* A stack named by the TSS that is not good. */
static void test_bad_inner_stack(void **state)
{
    static const struct {
        u16 ss;
        u8 vec;
        u32 err;
    } rows[] = {
        {0, EXC_TS, 0},
        {SEL_DATA3, EXC_TS, SEL_DATA3 & ~3},
        {SEL_DATA0 | 3, EXC_TS, SEL_DATA0},
        {SEL_RO, EXC_TS, SEL_RO},
        {SEL_BEYOND, EXC_TS, SEL_BEYOND},
        {SEL_ABSENT, EXC_SS, SEL_ABSENT},
    };
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
        enter_protected(g, 3);
        set_gate(g, 0x40, SEL_CODE0, AT_HANDLER, 0xee, 0);
        put16(g, AT_TSS + 8, rows[n].ss);
        assert_true(execute(g, insn_int, (struct x86_insn){.imm = 0x40}));
        assert_threw(g, rows[n].vec, rows[n].err);
        assert_int_equal(c->reg[X86_SLOT_RIP], AT_CODE);
    }
    enter_protected(g, 3);
    c->tr.limit = 8;
    assert_true(execute(g, insn_int, (struct x86_insn){.imm = 0x40}));
    assert_threw(g, EXC_TS, SEL_TSS);
    enter_protected(g, 3);
    set_desc(g, SEL_DATA0, make_desc(0, AT_STACK0 - 5, 0x92, 0x4));
    put32(g, AT_TSS + 4, AT_STACK0);
    assert_true(execute(g, insn_int, (struct x86_insn){.imm = 0x40}));
    assert_threw(g, EXC_SS, SEL_DATA0);
    guest_free(g);
}

static void test_bad_long_stack(void **state)
{
    struct guest *g = guest_new();
    enter_long(g, 3);
    set_gate(g, 0x40, SEL_CODE64, AT_HANDLER, 0xee, 0);
    put64(g, AT_TSS + 4, 0x8000000000000000);
    assert_true(execute(g, insn_int, (struct x86_insn){.imm = 0x40}));
    assert_threw(g, EXC_SS, 0);
    put64(g, AT_TSS + 4, 0x200010 + 8); /* not mapped */
    assert_true(execute(g, insn_int, (struct x86_insn){.imm = 0x40}));
    assert_threw(g, EXC_PF, PF_W);
    assert_int_equal(g->c->cr2, 0x200008);
    guest_free(g);
}

/* --- double faults (SDM vol. 3A, table 6-5) --- */

static void test_merge_table(void **state)
{
    static const struct {
        s16 first;
        u8 second;
        int expected; /* vector; -1: shutdown */
    } rows[] = {
        {EXC_UD, EXC_GP, EXC_GP}, {EXC_NMI, EXC_PF, EXC_PF}, {EXC_GP, EXC_UD, EXC_UD},
        {EXC_GP, EXC_NP, EXC_DF}, {EXC_DE, EXC_GP, EXC_DF},  {EXC_GP, EXC_PF, EXC_PF},
        {EXC_PF, EXC_GP, EXC_DF}, {EXC_PF, EXC_PF, EXC_DF},  {EXC_PF, EXC_UD, EXC_UD},
        {EXC_DF, EXC_GP, -1},     {EXC_DF, EXC_PF, -1},      {EXC_DF, EXC_AC, EXC_AC},
        {-1, EXC_GP, EXC_GP},     {EXC_TS, EXC_SS, EXC_DF},  {EXC_AC, EXC_GP, EXC_GP},
    };
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
        c->activity = CPU_RUNNING;
        c->delivering = rows[n].first;
        c->delivering_ext = true;
        c->exc =
            (struct cpu_exc){.pending = true, .vec = rows[n].second, .has_err = true, .err = 0x10};
        cpu_exc_merge(c);
        int got = c->exc.pending ? c->exc.vec : -1;
        if (got != rows[n].expected)
            fail_msg("row %u: %d", n, got);
        assert_int_equal(c->activity, got < 0 ? CPU_SHUTDOWN : CPU_RUNNING);
        if (got == EXC_DF)
            assert_int_equal(c->exc.err, 0);
        if (got == EXC_GP)
            assert_int_equal(c->exc.err, rows[n].first < 0 ? 0x10 : 0x11);
    }
    guest_free(g);
}

static void test_double_fault(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_long(g, 0);
    set_gate(g, EXC_DF, SEL_CODE64, AT_HANDLER, 0x8e, 1);
    raise_exc(g, EXC_GP, true, 0x50); /* its gate is not present */
    assert_int_equal(c->reg[X86_SLOT_RIP], AT_HANDLER);
    assert_int_equal(c->reg[RSP], (AT_IST1 & ~0xf) - 48);
    assert_int_equal(get64(g, c->reg[RSP]), 0);
    set_gate(g, EXC_DF, SEL_CODE64, AT_HANDLER, 0, 1);
    raise_exc(g, EXC_GP, true, 0);
    assert_int_equal(c->activity, CPU_SHUTDOWN);
    guest_free(g);
}

/* --- INT n --- */

static void test_soft_int(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, 3);
    set_gate(g, EXC_BP, SEL_CODE0, AT_HANDLER, 0xee, 0);
    set_gate(g, EXC_DB, SEL_CODE0, AT_HANDLER, 0x8e, 0);
    set_gate(g, EXC_OF, SEL_CODE0, AT_HANDLER, 0x8e, 0);
    assert_false(execute(g, insn_int3, (struct x86_insn){0}));
    assert_int_equal(get32(g, c->reg[RSP]), AT_CODE + 2); /* the next instruction */
    assert_int_equal(get32(g, c->reg[RSP] + 8), FLAG_ONE);
    enter_protected(g, 3); /* INTO asks for DPL 3, INT1 does not */
    assert_false(execute(g, insn_into, (struct x86_insn){0}));
    assert_int_equal(c->reg[X86_SLOT_RIP], AT_CODE + 2);
    cpu_set_flags(c, FLAG_OF);
    assert_true(execute(g, insn_into, (struct x86_insn){0}));
    assert_threw(g, EXC_GP, EXC_OF * 8 + 2);
    enter_protected(g, 3);
    assert_false(execute(g, insn_int1, (struct x86_insn){0}));
    assert_int_equal(get32(g, c->reg[RSP]), AT_CODE + 2);
    assert_int_equal(c->cpl, 0);
    guest_free(g);
}

struct v86_int_row {
    bool vme, redirect; /* bit clear */
    u8 iopl;
    u32 flags; /* more of them */
    enum { TO_GP, TO_MONITOR, TO_IVT } to;
    u16 pushed; /* FLAGS, if to the IVT */
    u32 after;
};

/* SDM vol. 3A, table 20-2. */
static void test_v86_int(void **state)
{
    static const struct v86_int_row rows[] = {
        {false, false, 0, 0, TO_GP, 0, 0},
        {false, false, 3, 0, TO_MONITOR, 0, 0},
        {true, false, 0, 0, TO_GP, 0, 0},
        {true, false, 3, 0, TO_MONITOR, 0, 0},
        {true, true, 3, FLAG_IF, TO_IVT, 0x3202, FLAG_VM | FLAG_IOPL | FLAG_ONE},
        {true, true, 0, FLAG_IF | FLAG_VIF, TO_IVT, 0x3202, FLAG_VM | FLAG_IF | FLAG_ONE},
        {true, true, 0, FLAG_IF, TO_IVT, 0x3002, FLAG_VM | FLAG_IF | FLAG_ONE},
    };
    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
        const struct v86_int_row *r = &rows[n];
        struct guest *g = guest_new();
        struct cpu *c = g->c;
        enter_v86(g, r->iopl);
        c->cr4 = r->vme ? CR4_VME : 0;
        c->eflags |= r->flags;
        set_gate(g, 0x40, SEL_CODE0, AT_HANDLER, 0xee, 0);
        put8(g, AT_TSS + 0x68 + 8, r->redirect ? 0xfe : 0xff);
        put32(g, 0x40 * 4, 0x06660022);
        bool threw = execute(g, insn_int, (struct x86_insn){.imm = 0x40});
        assert_int_equal(threw, r->to == TO_GP);
        if (threw) {
            assert_threw(g, EXC_GP, 0);
        } else if (r->to == TO_MONITOR) {
            assert_int_equal(c->reg[X86_SLOT_RIP], AT_HANDLER);
            assert_int_equal(c->cpl, 0);
        } else {
            assert_int_equal(c->reg[X86_SLOT_RIP], 0x22);
            assert_int_equal(c->seg[CS].base, 0x6660);
            assert_int_equal(get16(g, AT_STACK3 - 2), r->pushed);
            assert_int_equal(get16(g, AT_STACK3 - 4), AT_CODE >> 4);
            assert_int_equal(get16(g, AT_STACK3 - 6), 0x12);
            assert_int_equal(cpu_flags(c), r->after);
        }
        guest_free(g);
    }
}

/* --- between instructions --- */

static void serve(struct guest *g)
{
    attempt(g, cpu_service_events);
    settle(g);
}

static void test_priorities(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, 0);
    set_gate(g, EXC_DB, SEL_CODE0, 0x6100, 0x8e, 0);
    set_gate(g, EXC_NMI, SEL_CODE0, 0x6200, 0x8e, 0);
    set_gate(g, 0x50, SEL_CODE0, 0x6300, 0x8e, 0);
    g->vector = 0x50;
    cpu_set_flags(c, FLAG_IF);
    c->db_pending = DR6_BS;
    cpu_event_set(c, EV_NMI | EV_INTR);
    serve(g);
    assert_int_equal(c->reg[X86_SLOT_RIP], 0x6100);
    assert_int_equal(c->dr[6], DR6_FIXED | DR6_BS);
    cpu_set_flags(c, FLAG_IF);
    serve(g);
    assert_int_equal(c->reg[X86_SLOT_RIP], 0x6200);
    assert_true(c->nmi_blocked);
    cpu_event_set(c, EV_NMI); /* waits for IRET */
    cpu_set_flags(c, FLAG_IF);
    serve(g);
    assert_int_equal(c->reg[X86_SLOT_RIP], 0x6300);
    assert_false(c->eflags & FLAG_IF);
    serve(g);
    assert_int_equal(c->reg[X86_SLOT_RIP], 0x6300);
    c->reg[RSP] += 12; /* to the NMI handler's frame */
    assert_false(execute(g, insn_iret, (struct x86_insn){.opsize = 4}));
    assert_false(c->nmi_blocked);
    serve(g);
    assert_int_equal(c->reg[X86_SLOT_RIP], 0x6200);
    guest_free(g);
}

/* A CPU that has not looked yet remembers two; while the handler runs one more is latched. */
static void test_nmis_in_a_row(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, 0);
    set_gate(g, EXC_NMI, SEL_CODE0, 0x6200, 0x8e, 0);
    for (unsigned n = 0; n < 3; n++)
        cpu_nmi_raise(c);
    serve(g);
    assert_int_equal(c->reg[X86_SLOT_RIP], 0x6200);
    for (unsigned n = 0; n < 3; n++)
        cpu_nmi_raise(c);
    for (unsigned handlers = 2; handlers; handlers--) {
        assert_false(execute(g, insn_iret, (struct x86_insn){.opsize = 4}));
        assert_false(c->nmi_blocked);
        serve(g);
        assert_int_equal(c->nmi_blocked, handlers == 2);
    }
    assert_false(cpu_nmi_take(c));
    cpu_nmi_raise(c);
    cpu_nmi_raise(c);
    assert_true(cpu_nmi_take(c));
    assert_false(cpu_nmi_take(c));
    guest_free(g);
}

static void test_shadows_and_if(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, 0);
    set_gate(g, 0x50, SEL_CODE0, AT_HANDLER, 0x8e, 0);
    g->vector = 0x50;
    cpu_event_set(c, EV_INTR);
    assert_false(cpu_event_pending(c));
    serve(g);
    assert_int_equal(c->reg[X86_SLOT_RIP], AT_CODE);
    assert_false(execute(g, insn_sti, (struct x86_insn){0}));
    assert_true(c->shadow);
    serve(g);
    assert_int_equal(c->reg[X86_SLOT_RIP], AT_CODE + 2);
    c->shadow = false;
    assert_false(execute(g, insn_sti, (struct x86_insn){0}));
    assert_false(c->shadow); /* IF was set: no new shadow */
    assert_false(execute(g, insn_cli, (struct x86_insn){0}));
    serve(g);
    assert_int_equal(c->reg[X86_SLOT_RIP], AT_CODE + 6);
    assert_false(execute(g, insn_sti, (struct x86_insn){0}));
    c->shadow = false;
    g->vector = -1; /* gone away */
    serve(g);
    assert_int_equal(c->reg[X86_SLOT_RIP], AT_CODE + 8);
    g->vector = 0x50;
    serve(g);
    assert_int_equal(c->reg[X86_SLOT_RIP], AT_HANDLER);
    assert_int_equal(get32(g, c->reg[RSP]), AT_CODE + 8);
    guest_free(g);
}

static void test_wake(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, 0);
    set_gate(g, 0x50, SEL_CODE0, AT_HANDLER, 0x8e, 0);
    g->vector = 0x50;
    c->activity = CPU_HALTED;
    cpu_event_set(c, EV_INTR);
    assert_false(cpu_wakeable(c));
    cpu_set_flags(c, FLAG_IF);
    assert_true(cpu_wakeable(c));
    serve(g);
    assert_int_equal(c->activity, CPU_RUNNING);
    assert_int_equal(c->reg[X86_SLOT_RIP], AT_HANDLER);

    c->activity = CPU_WAIT_SIPI;
    cpu_event_clear(c, EV_INTR);
    cpu_event_set(c, EV_NMI);
    assert_false(cpu_wakeable(c));
    serve(g);
    assert_int_equal(c->reg[X86_SLOT_RIP], AT_HANDLER);
    cpu_event_set(c, EV_INIT);
    assert_true(cpu_wakeable(c));
    serve(g);
    assert_int_equal(g->inits, 1);
    assert_int_equal(c->reg[X86_SLOT_RIP], 0xfff0);
    c->activity = CPU_WAIT_SIPI;
    atomic_store(&c->sipi_vector, 0x9f);
    cpu_event_set(c, EV_SIPI);
    assert_true(cpu_wakeable(c));
    c->nmi_blocked = true;
    serve(g);
    assert_int_equal(c->activity, CPU_RUNNING);
    assert_int_equal(c->seg[CS].base, 0x9f000);
    guest_free(g);
}

/* --- debug --- */

static void check_code_bp(struct cpu *c)
{
    cpu_check_code_breakpoint(c, AT_CODE);
}

/* Right after MOV SS Intel's processors pass over it. */
static void test_breakpoint_after_mov_ss(void **state)
{
    static const char *const cpus[] = {"vendor=GenuineIntel", "vendor=AuthenticAMD"};
    for (unsigned amd = 0; amd < 2; amd++) {
        struct guest *g = guest_new_cpu(cpus[amd]);
        struct cpu *c = g->c;
        enter_protected(g, 0);
        c->dr[0] = AT_CODE;
        c->dr[7] = DR7_FIXED | 2;
        c->shadow_ss = true;
        assert_int_equal(attempt(g, check_code_bp), amd);
        c->shadow_ss = false;
        assert_true(attempt(g, check_code_bp));
        guest_free(g);
    }
}

static void test_breakpoints(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, 0);
    c->dr[0] = AT_CODE;
    c->dr[1] = 0x7004;
    c->dr[2] = 0x7010;
    c->dr[3] = 0x3f8;
    /* 0: code; 1: 4-byte write; 2: 2-byte access; 3: 1-byte I/O */
    c->dr[7] = DR7_FIXED | 0xaa | 0xdull << 20 | 0x7ull << 24 | 0x2ull << 28;
    c->dr[6] = DR6_FIXED | 8 | DR6_BS;
    assert_true(attempt(g, check_code_bp));
    assert_threw(g, EXC_DB, 0);
    assert_int_equal(c->dr[6], DR6_FIXED | 1 | DR6_BS); /* BS is left to software */
    c->eflags |= FLAG_RF;
    assert_false(attempt(g, check_code_bp));

    static const struct {
        u64 la;
        u8 size;
        bool write;
        u32 hit;
    } rows[] = {
        {0x7004, 1, true, 2}, {0x7000, 8, true, 2},  {0x7007, 1, true, 2},  {0x7000, 4, true, 0},
        {0x7008, 4, true, 0}, {0x7004, 4, false, 0}, {0x7011, 1, false, 4}, {0x700c, 8, true, 4},
    };
    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
        c->db_pending = 0;
        cpu_note_data_breakpoint(c, rows[n].la, rows[n].size, rows[n].write);
        if (c->db_pending != rows[n].hit)
            fail_msg("row %u: %x", n, c->db_pending);
    }
    c->db_pending = 0;
    cpu_note_io_breakpoint(c, 0x3f8, 1);
    assert_int_equal(c->db_pending, 0);
    c->cr4 |= CR4_DE;
    cpu_note_io_breakpoint(c, 0x3f6, 4);
    assert_int_equal(c->db_pending, 8);
    assert_true(cpu_page_watched(c, 0x7000));
    assert_false(cpu_page_watched(c, AT_CODE)); /* code breakpoints do not count */
    guest_free(g);
}

static void trap_step(struct cpu *c)
{
    cpu_debug_trap(c, DR6_BS);
}

static void test_traps_and_mov_ss(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, 0);
    set_gate(g, EXC_DB, SEL_CODE0, AT_HANDLER, 0x8e, 0);
    c->shadow = c->shadow_ss = true; /* after MOV SS that hit a watchpoint */
    c->db_pending = 2;
    assert_false(attempt(g, trap_step));
    assert_int_equal(c->db_pending, 2); /* the step is lost, the breakpoint is not */
    c->shadow = c->shadow_ss = false;
    c->dr[7] = DR7_FIXED | DR7_GD;
    assert_true(attempt(g, trap_step));
    assert_true(c->exc.trap);
    assert_int_equal(c->dr[6], DR6_FIXED | DR6_BS | 2);
    settle(g);
    assert_int_equal(get32(g, c->reg[RSP] + 8), FLAG_ONE); /* no RF for traps */
    assert_int_equal(c->dr[7], DR7_FIXED);
    guest_free(g);
}

/* MOV SS with a watchpoint, then INT1: one #DB. INT n clears TF before a step can be reported. */
static void test_int1_and_steps(void **state)
{
    struct guest *g = guest_new();
    struct cpu *c = g->c;
    enter_protected(g, 0);
    set_gate(g, EXC_DB, SEL_CODE0, AT_HANDLER, 0x8e, 0);
    c->db_pending = 2;
    c->dr[6] = DR6_FIXED;
    assert_false(execute(g, insn_int1, (struct x86_insn){0}));
    assert_int_equal(c->db_pending, 0);
    assert_int_equal(c->dr[6], DR6_FIXED | 2);
    set_gate(g, 0x40, SEL_CODE0, AT_HANDLER, 0x8e, 0);
    cpu_set_flags(c, FLAG_TF);
    assert_false(execute(g, insn_int, (struct x86_insn){.imm = 0x40}));
    assert_false(attempt(g, trap_step));
    assert_true(attempt(g, trap_step));
    guest_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_mode),
        cmocka_unit_test(test_real_mode_limit),
        cmocka_unit_test(test_protected),
        cmocka_unit_test(test_from_v86),
        cmocka_unit_test(test_long),
        cmocka_unit_test(test_bad_gates),
        cmocka_unit_test(test_bad_inner_stack),
        cmocka_unit_test(test_bad_long_stack),
        cmocka_unit_test(test_merge_table),
        cmocka_unit_test(test_double_fault),
        cmocka_unit_test(test_soft_int),
        cmocka_unit_test(test_v86_int),
        cmocka_unit_test(test_priorities),
        cmocka_unit_test(test_shadows_and_if),
        cmocka_unit_test(test_wake),
        cmocka_unit_test(test_breakpoints),
        cmocka_unit_test(test_breakpoint_after_mov_ss),
        cmocka_unit_test(test_nmis_in_a_row),
        cmocka_unit_test(test_traps_and_mov_ss),
        cmocka_unit_test(test_int1_and_steps),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
