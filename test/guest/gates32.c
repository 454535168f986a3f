/*
 * gates32.c - control transfers of 32-bit protected mode: far CALL, JMP and RET, call gates,
 * interrupt and trap gates, IRET, SYSENTER (SDM vol. 3A, 5.8, 6.12; vol. 2, CALL, JMP, RET, IRET,
 * INT n).
 */
#include "guest.h"

#define SEL_C1      (SEL_FREE + 0x00) /* code, DPL 1 */
#define SEL_CONF    (SEL_FREE + 0x08) /* conforming code, DPL 0 */
#define SEL_CONF3   (SEL_FREE + 0x10) /* conforming code, DPL 3 */
#define SEL_G0      (SEL_FREE + 0x18) /* gates of DPL 3: to ring 0, two parameters */
#define SEL_G1      (SEL_FREE + 0x20) /* to ring 1 */
#define SEL_G16     (SEL_FREE + 0x28) /* 16-bit gate to 16-bit code of ring 0, three parameters */
#define SEL_GPRIV   (SEL_FREE + 0x30) /* gate of DPL 0 */
#define SEL_GNP     (SEL_FREE + 0x38) /* absent */
#define SEL_GCONF   (SEL_FREE + 0x40) /* to conforming code */
#define SEL_GNULL   (SEL_FREE + 0x48) /* to a null selector */
#define SEL_GDATA   (SEL_FREE + 0x50) /* to data */
#define SEL_D1      (SEL_FREE + 0x58) /* data, DPL 1 */
#define SEL_C16     (SEL_FREE + 0x60) /* 16-bit code of ring 0 at `low` */
#define SEL_NPCODE  (SEL_FREE + 0x68)
#define SEL_GNPCODE (SEL_FREE + 0x70)
#define SEL_G3      (SEL_FREE + 0x78) /* gate of DPL 3 to ring 3 */

/* Where transfers lead: a trap that ends run(). */
SNIP(target, "", "nop");
SNIP(target_ret8, "", "lret $8");
SNIP_BITS(target16, "16", "", "nop");

static u64 make_gate(unsigned sel, u32 off, unsigned type, unsigned dpl, unsigned params)
{
    return (off & 0xffff) | (u64)sel << 16 | (u64)params << 32 |
           (u64)(0x80 | dpl << 5 | type) << 40 | (u64)(off & 0xffff0000u) << 32;
}

static void make_descriptors(void)
{
    const u32 big = 0xc000, flat = 0xfffff;
    u32 to = target.start;
    gdt[SEL_C1 / 8] = make_desc(0, flat, big | ATTR_CODE | ATTR_DPL(1));
    gdt[SEL_CONF / 8] = make_desc(0, flat, big | 0x9f);
    gdt[SEL_CONF3 / 8] = make_desc(0, flat, big | 0x9f | ATTR_DPL(3));
    gdt[SEL_D1 / 8] = make_desc(0, flat, big | ATTR_DATA | ATTR_DPL(1));
    gdt[SEL_C16 / 8] = make_desc(target16.start, 0xffff, ATTR_CODE);
    gdt[SEL_NPCODE / 8] = make_desc(0, flat, big | 0x1b);
    gdt[SEL_G0 / 8] = make_gate(SEL_CODE0, to, GATE_CALL, 3, 2);
    gdt[SEL_G1 / 8] = make_gate(SEL_C1, to, GATE_CALL, 3, 0);
    gdt[SEL_G16 / 8] = make_gate(SEL_C16, 0, GATE_CALL16, 3, 3);
    gdt[SEL_GPRIV / 8] = make_gate(SEL_CODE0, to, GATE_CALL, 0, 0);
    gdt[SEL_GNP / 8] = make_gate(SEL_CODE0, to, GATE_CALL, 3, 0) & ~BIT(47);
    gdt[SEL_GCONF / 8] = make_gate(SEL_CONF, to, GATE_CALL, 3, 0);
    gdt[SEL_GNULL / 8] = make_gate(0, to, GATE_CALL, 3, 0);
    gdt[SEL_GDATA / 8] = make_gate(SEL_DATA0, to, GATE_CALL, 3, 0);
    gdt[SEL_GNPCODE / 8] = make_gate(SEL_NPCODE, to, GATE_CALL, 3, 0);
    gdt[SEL_G3 / 8] = make_gate(SEL_CODE3_32, to, GATE_CALL, 3, 0);
    tss.ss1 = SEL_D1 | 1;
    tss.esp1 = (u32)kernel_stack_top - 4096;
}

/* Far CALL and JMP through a pointer in memory: EBX. */
static struct {
    u32 off;
    u16 sel;
} __attribute__((packed)) far_ptr;
SNIP(far_call, "", "lcall *(%ebx)");
SNIP(far_jmp, "", "ljmp *(%ebx)");
SNIP(far_call2, "push $0x11; push $0x22", "lcall *(%ebx)");
SNIP(far_call16, "pushw $0x11; pushw $0x22; pushw $0x33", "lcall *(%ebx)");
SNIP(far_ret, "", "lret");
SNIP(do_iret, "", "iret");

static void transfer(struct ctx *c, const struct snip *s, unsigned ring, u16 sel)
{
    far_ptr.off = target.start;
    far_ptr.sel = sel;
    ctx_init(c, s, ring);
    c->gpr[BX] = (word)&far_ptr;
    run(c);
}

/* --- direct transfers and gates: who may go where (5.8.1, 5.8.4) --- */

static const struct {
    const char *name;
    const struct snip *s;
    u8 ring;
    u16 sel;
    u16 cs; /* reached with this CS, or 0: */
    u8 vec;
    u16 err;
} transfers[] = {
    {"CALL to code of the same ring", &far_call, 0, SEL_CODE0, SEL_CODE0},
    {"JMP to code of the same ring", &far_jmp, 3, SEL_CODE3_32, SEL_CODE3_32},
    {"CALL to more privileged code", &far_call, 3, SEL_CODE0, 0, GP, SEL_CODE0},
    {"JMP to less privileged code", &far_jmp, 0, SEL_CODE3_32, 0, GP, SEL_CODE3_32 & ~3},
    {"CALL with RPL above CPL", &far_call, 0, SEL_CODE0 | 3, 0, GP, SEL_CODE0},
    {"CALL with RPL below CPL", &far_call, 3, SEL_CODE3_32 & ~3, SEL_CODE3_32},
    {"CALL to conforming code: CPL stays", &far_call, 3, SEL_CONF, SEL_CONF | 3},
    {"JMP to conforming code: CPL stays", &far_jmp, 3, SEL_CONF, SEL_CONF | 3},
    {"JMP from conforming code's ring 0", &far_jmp, 0, SEL_CONF, SEL_CONF},
    {"JMP to conforming code of less privilege", &far_jmp, 0, SEL_CONF3, 0, GP, SEL_CONF3},
    {"CALL to data", &far_call, 0, SEL_DATA0, 0, GP, SEL_DATA0},
    {"CALL to null", &far_call, 0, 0, 0, GP, 0},
    {"CALL to absent code", &far_call, 0, SEL_NPCODE, 0, NP, SEL_NPCODE},
    {"CALL behind the GDT", &far_call, 0, 0x3f8, 0, GP, 0x3f8},

    {"CALL through a gate to ring 0", &far_call, 3, SEL_G0, SEL_CODE0},
    {"CALL through a gate in ring 0", &far_call, 0, SEL_G0, SEL_CODE0},
    {"CALL through a gate to ring 1", &far_call, 3, SEL_G1, SEL_C1 | 1},
    {"CALL through a gate to less privilege", &far_call, 0, SEL_G1, 0, GP, SEL_C1},
    {"CALL through a gate of DPL 0", &far_call, 3, SEL_GPRIV, 0, GP, SEL_GPRIV},
    {"CALL through a gate of DPL 0 with RPL 3", &far_call, 0, SEL_GPRIV | 3, 0, GP, SEL_GPRIV},
    {"CALL through an absent gate", &far_call, 3, SEL_GNP, 0, NP, SEL_GNP},
    {"CALL through a gate to conforming code", &far_call, 3, SEL_GCONF, SEL_CONF | 3},
    {"CALL through a gate to null", &far_call, 3, SEL_GNULL, 0, GP, 0},
    {"CALL through a gate to data", &far_call, 3, SEL_GDATA, 0, GP, SEL_DATA0},
    {"CALL through a gate to absent code", &far_call, 3, SEL_GNPCODE, 0, NP, SEL_NPCODE},
    {"CALL through a gate of the same ring", &far_call, 3, SEL_G3, SEL_CODE3_32},
    {"JMP through a gate in ring 0", &far_jmp, 0, SEL_G0, SEL_CODE0},
    {"JMP through a gate to more privilege", &far_jmp, 3, SEL_G0, 0, GP, SEL_CODE0},
    {"JMP through a gate to conforming code", &far_jmp, 3, SEL_GCONF, SEL_CONF | 3},
    {"JMP through a gate of the same ring", &far_jmp, 3, SEL_G3, SEL_CODE3_32},
};

static void test_transfers(void)
{
    for (unsigned n = 0; n < ARRAY_SIZE(transfers); n++) {
        struct ctx c;
        transfer(&c, transfers[n].s, transfers[n].ring, transfers[n].sel);
        bool good = transfers[n].cs
                        ? c.vec == VEC_DONE && c.cs == transfers[n].cs && c.ip == target.end + 2
                        : c.vec == transfers[n].vec && c.err == transfers[n].err &&
                              c.ip == transfers[n].s->at;
        ok(good, "%s: vector %lu error code %lx CS %lx", transfers[n].name, c.vec, c.err, c.cs);
    }
}

/* --- the frame of a gate (5.8.5), and back --- */

static void test_frames(void)
{
    struct ctx c;
    transfer(&c, &far_call2, 3, SEL_G0);
    const u32 *s = (const u32 *)c.gpr[SP];
    ok(c.gpr[SP] == (word)kernel_stack_top - 24 && s[0] == far_call2.end && s[1] == SEL_CODE3_32,
       "gate: return address on the new stack: %x:%x", s[1], s[0]);
    ok(s[2] == 0x22 && s[3] == 0x11, "gate: two parameters copied: %x %x", s[2], s[3]);
    ok(s[5] == SEL_DATA3 && *(u32 *)s[4] == 0x22, "gate: old stack %x:%x", s[5], s[4]);

    transfer(&c, &far_call16, 3, SEL_G16);
    const u16 *h = (const u16 *)c.gpr[SP];
    ok(c.vec == VEC_DONE && c.cs == SEL_C16, "16-bit gate: CS %lx", c.cs);
    ok(h[0] == (u16)far_call16.end && h[1] == SEL_CODE3_32 && h[2] == 0x33 && h[3] == 0x22 &&
           h[4] == 0x11 && h[6] == SEL_DATA3,
       "16-bit gate: frame %x %x %x %x %x %x %x", h[0], h[1], h[2], h[3], h[4], h[5], h[6]);

    gdt[SEL_G0 / 8] = make_gate(SEL_CODE0, target_ret8.start, GATE_CALL, 3, 2);
    ctx_init(&c, &far_call2, 3);
    word sp = c.gpr[SP];
    transfer(&c, &far_call2, 3, SEL_G0);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE3_32 && c.ip == far_call2.end + 2 && c.gpr[SP] == sp,
       "LRET 8 to ring 3 drops the parameters on both stacks: vector %lu ESP %ld", c.vec,
       (long)(c.gpr[SP] - sp));
    gdt[SEL_G0 / 8] = make_gate(SEL_CODE0, target.start, GATE_CALL, 3, 2);

    /* No room on the inner stack. */
    word esp0 = tss.esp1;
    gdt[SEL_D1 / 8] = make_desc(0, 0xff, 0x4000 | ATTR_DATA | ATTR_DPL(1));
    tss.esp1 = 8;
    transfer(&c, &far_call, 3, SEL_G1);
    ok(c.vec == SS_ && c.err == SEL_D1 && c.ip == far_call.at,
       "no room for a gate's frame: %lu %lx", c.vec, c.err);
    make_descriptors();
    tss.esp1 = esp0;
    tss.ss1 = SEL_DATA0;
    transfer(&c, &far_call, 3, SEL_G1);
    ok(c.vec == TS && c.err == SEL_DATA0, "#TS, wrong inner stack: %lu %lx", c.vec, c.err);
    make_descriptors();
}

/* --- far RET and IRET --- */

/* Runs RET or IRET in a ring with this frame on its stack. */
static void with_frame(struct ctx *c, const struct snip *s, unsigned ring, const u32 *f, unsigned n)
{
    ctx_init(c, s, ring);
    c->flags = FL_ONE;
    c->gpr[SP] -= 4 * n;
    memcpy((void *)c->gpr[SP], f, 4 * n);
    run(c);
}

static void test_returns(void)
{
    struct ctx c;
    u32 sp3;
    ctx_init(&c, NULL, 3);
    sp3 = c.gpr[SP];
    const u32 outer[] = {target.start, SEL_CODE3_32, sp3, SEL_DATA3};
    with_frame(&c, &far_ret, 0, outer, 4);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE3_32 && c.gpr[SP] == sp3 && c.ss == SEL_DATA3,
       "LRET to ring 3: CS %lx ESP %lx", c.cs, c.gpr[SP]);
    ok(c.ds == 0 && c.es == 0 && c.fs == 0 && c.gs == 0,
       "and data segments of ring 0 become null: %lx %lx %lx %lx", c.ds, c.es, c.fs, c.gs);

    const u32 inner[] = {target.start, SEL_CODE0, sp3, SEL_DATA3};
    with_frame(&c, &far_ret, 3, inner, 4);
    ok(c.vec == GP && c.err == SEL_CODE0 && c.ip == far_ret.at, "LRET to more privilege: %lu %lx",
       c.vec, c.err);
    const u32 null[] = {target.start, 0};
    with_frame(&c, &far_ret, 3, null, 2);
    ok(c.vec == GP && c.err == 0, "LRET to null: %lu %lx", c.vec, c.err);
    const u32 absent[] = {target.start, SEL_NPCODE};
    with_frame(&c, &far_ret, 0, absent, 2);
    ok(c.vec == NP && c.err == SEL_NPCODE, "LRET to absent code: %lu %lx", c.vec, c.err);
    const u32 bad_ss[] = {target.start, SEL_CODE3_32, sp3, SEL_DATA0};
    with_frame(&c, &far_ret, 0, bad_ss, 4);
    ok(c.vec == GP && c.err == SEL_DATA0, "LRET with a wrong stack: %lu %lx", c.vec, c.err);
    const u32 null_ss[] = {target.start, SEL_CODE3_32, sp3, 0};
    with_frame(&c, &far_ret, 0, null_ss, 4);
    ok(c.vec == GP && c.err == 0, "LRET with a null stack: %lu %lx", c.vec, c.err);
    const u32 conf[] = {target.start, SEL_CONF | 3, sp3, SEL_DATA3};
    with_frame(&c, &far_ret, 0, conf, 4);
    ok(c.vec == VEC_DONE && c.cs == (SEL_CONF | 3), "LRET to conforming code in ring 3: %lu",
       c.vec);
}

/* Flags that IRET and POPF may change (vol. 2, IRET, POPF). */
SNIP(do_popf, "pushl $0x7fd7", "popf");
SNIP(do_popf_id, "pushf; xorl $0x200000, (%esp)", "popf");

static void test_flags(void)
{
    struct ctx c;
    u32 sp3;
    ctx_init(&c, NULL, 3);
    sp3 = c.gpr[SP];
    const u32 same[] = {target.start, SEL_CODE3_32, 0x7ed7 | FL_RF | FL_AC | FL_ID | FL_VIF};
    with_frame(&c, &do_iret, 3, same, 3);
    expect("IRET in ring 3 keeps IF, IOPL, VIF", c.flags & (FL_IF | FL_IOPL | FL_VIF), 0);
    expect("and sets the others", c.flags & (FL_AC | FL_ID | FL_DF | FL_OF | FL_NT),
           FL_AC | FL_ID | FL_DF | FL_OF | FL_NT);
    const u32 down[] = {target.start, SEL_CODE3_32, FL_ONE | FL_IF | FL_IOPL | FL_VIF, sp3,
                        SEL_DATA3};
    with_frame(&c, &do_iret, 0, down, 5);
    expect("IRET in ring 0 sets IF, IOPL, VIF", c.flags & (FL_IF | FL_IOPL | FL_VIF),
           FL_IF | FL_IOPL | FL_VIF);
    ok(c.ds == 0 && c.gs == 0, "IRET to ring 3 clears ring 0's data segments");
    const u32 cpl3if[] = {target.start, SEL_CODE3_32, FL_ONE | FL_IF};
    ctx_init(&c, &do_iret, 3);
    c.flags |= FL_IOPL;
    c.gpr[SP] -= 12;
    memcpy((void *)c.gpr[SP], cpl3if, 12);
    run(&c);
    ok((c.flags & (FL_IF | FL_IOPL)) == (FL_IF | FL_IOPL),
       "IRET in ring 3 with IOPL 3 sets IF, keeps IOPL: %lx", c.flags);

    ctx_init(&c, &do_popf, 3);
    c.flags = FL_ONE;
    run(&c);
    expect("POPF in ring 3 keeps IF and IOPL, says nothing", c.flags & (FL_IF | FL_IOPL), 0);
    ctx_init(&c, &do_popf, 0);
    run(&c);
    expect("POPF in ring 0 sets them", c.flags & (FL_IF | FL_IOPL), FL_IF | FL_IOPL);
    ctx_init(&c, &do_popf_id, 3);
    run(&c);
    expect("POPF changes ID", c.flags & FL_ID, FL_ID);

    const u32 inner[] = {target.start, SEL_CODE0, FL_ONE};
    with_frame(&c, &do_iret, 3, inner, 3);
    ok(c.vec == GP && c.err == SEL_CODE0, "IRET to more privilege: %lu %lx", c.vec, c.err);
    const u32 data[] = {target.start, SEL_DATA0, FL_ONE};
    with_frame(&c, &do_iret, 0, data, 3);
    ok(c.vec == GP && c.err == SEL_DATA0, "IRET to data: %lu %lx", c.vec, c.err);
    const u32 limit[] = {0xffffffff, SEL_C16, FL_ONE};
    with_frame(&c, &do_iret, 0, limit, 3);
    ok(c.vec == GP && c.err == 0 && c.ip == do_iret.at, "IRET behind the limit: %lu %lx", c.vec,
       c.err);
}

/* --- interrupt and trap gates (6.12.1.3) --- */

static volatile word seen_flags, seen_cs;

static void on_int(struct frame *f)
{
    word fl, cs;
    __asm__ volatile("pushf; pop %0; mov %%cs, %1" : "=r"(fl), "=r"(cs));
    seen_flags = fl;
    seen_cs = cs;
}

SNIP(int_30, "", "int $0x30");

static word stub_of(unsigned vec)
{
    return (idt[vec * 2] & 0xffff) | (idt[vec * 2 + 1] & 0xffff0000);
}

static void test_idt_gates(void)
{
    struct ctx c;
    word stub = stub_of(0x30);
    handler[0x30] = on_int;
    ctx_init(&c, &int_30, 3);
    c.flags |= FL_IF | FL_NT | FL_AC;
    run(&c);
    expect("interrupt gate clears IF and NT, keeps AC", seen_flags & (FL_IF | FL_NT | FL_AC),
           FL_AC);
    expect("and IRET brings them back", c.flags & (FL_IF | FL_NT | FL_AC), FL_IF | FL_NT | FL_AC);
    set_gate(0x30, SEL_CODE0, stub, GATE_TRAP, 3, 0);
    ctx_init(&c, &int_30, 3);
    c.flags |= FL_IF;
    run(&c);
    expect("trap gate keeps IF", seen_flags & FL_IF, FL_IF);
    handler[0x30] = NULL;

    set_gate(0x30, SEL_CONF, target.start, GATE_INT, 3, 0);
    ctx_init(&c, &int_30, 3);
    run(&c);
    ok(c.vec == VEC_DONE && c.cs == (SEL_CONF | 3), "conforming handler runs in ring 3: %lu %lx",
       c.vec, c.cs);
    const u32 *s = (const u32 *)c.gpr[SP];
    ok(s[0] == int_30.end && s[1] == SEL_CODE3_32, "on the same stack");

    set_gate(0x30, SEL_C1, target.start, GATE_INT, 3, 0);
    ctx_init(&c, &int_30, 3);
    run(&c);
    s = (const u32 *)c.gpr[SP];
    ok(c.cs == (SEL_C1 | 1) && c.ss == (SEL_D1 | 1) && c.gpr[SP] == tss.esp1 - 20 &&
           s[1] == SEL_CODE3_32 && s[4] == SEL_DATA3,
       "handler in ring 1: CS %lx SS %lx", c.cs, c.ss);

    set_gate(0x30, SEL_C16, 0, GATE_INT16, 3, 0);
    ctx_init(&c, &int_30, 3);
    run(&c);
    const u16 *h = (const u16 *)c.gpr[SP];
    ok(c.cs == SEL_C16 && h[0] == (u16)int_30.end && h[1] == SEL_CODE3_32 && h[4] == SEL_DATA3,
       "16-bit interrupt gate: frame %x %x %x %x %x", h[0], h[1], h[2], h[3], h[4]);
    reset_gate(0x30);
}

/* --- SYSENTER, SYSEXIT (vol. 2) --- */

SNIP(do_sysenter, "", "sysenter");
SNIP(do_sysexit, "", "sysexit");

static void test_sysenter(void)
{
    struct ctx c;
    wrmsr(MSR_SYSENTER_CS, 0);
    ctx_init(&c, &do_sysenter, 3);
    run(&c);
    ok(c.vec == GP && c.err == 0, "#GP, SYSENTER with a null SYSENTER_CS: %lu", c.vec);
    wrmsr(MSR_SYSENTER_CS, SEL_CODE0);
    wrmsr(MSR_SYSENTER_ESP, (u32)kernel_stack_top - 2048);
    wrmsr(MSR_SYSENTER_EIP, target.start);
    ctx_init(&c, &do_sysenter, 3);
    c.flags |= FL_IF | FL_DF;
    run(&c);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE0 && c.gpr[SP] == (word)kernel_stack_top - 2048 &&
           c.ip == target.end + 2,
       "SYSENTER: CS %lx ESP %lx", c.cs, c.gpr[SP]);
    expect("clears IF, keeps DF", c.flags & (FL_IF | FL_DF), FL_DF);
    ctx_init(&c, &do_sysexit, 0);
    c.gpr[DX] = target.start;
    struct ctx u;
    ctx_init(&u, NULL, 3);
    c.gpr[CX] = u.gpr[SP];
    run(&c);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE3_32 && c.ss == SEL_DATA3 && c.gpr[SP] == u.gpr[SP],
       "SYSEXIT: CS %lx SS %lx", c.cs, c.ss);
    ctx_init(&c, &do_sysexit, 3);
    run(&c);
    ok(c.vec == GP && c.err == 0, "#GP, SYSEXIT in ring 3: %lu", c.vec);
}

int main(void)
{
    make_descriptors();
    test_transfers();
    test_frames();
    test_returns();
    test_flags();
    test_idt_gates();
    test_sysenter();
    return 0;
}
