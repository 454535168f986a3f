/*
 * task.c - hardware task switches: by JMP, CALL, IRET and task gates, busy bits, NT and the link,
 * faults on the way, 16-bit TSSs, the T bit (SDM vol. 3A, chapter 7).
 */
#include "guest.h"

#define SEL_A     (SEL_FREE + 0x00) /* the other task's TSS */
#define SEL_GATE  (SEL_FREE + 0x08) /* task gate to it, DPL 3 */
#define SEL_A16   (SEL_FREE + 0x10) /* a 16-bit TSS */
#define SEL_SMALL (SEL_FREE + 0x18) /* a TSS with a limit that is too small */
#define SEL_ABS   (SEL_FREE + 0x20) /* absent */
#define SEL_C16   (SEL_FREE + 0x28) /* 16-bit code at task16 */

#define SEL_GUARD (SEL_FREE + 0x30)

#define TSS_BYTES 104

struct tss16 {
    u16 link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss,
        ds, ldt;
} __attribute__((packed));

static struct tss other __attribute__((aligned(16)));
static struct tss16 other16;
static u8 other_stack[4096] __attribute__((aligned(16)));
static struct tss guard;
static u8 guard_stack[4096] __attribute__((aligned(16)));

/* The other task: what it does, and then a trap that ends run(). */
SNIP(task_body, "", "nop");
SNIP(task_iret, "inc %ebx", "iret; inc %ebx");
SNIP(task_ud, "", "ud2");
SNIP_BITS(task16, "16", "", "nop");
SNIP(jmp_task, "mov $0x1234, %ecx", "ljmp *(%ebx)");
SNIP(call_task, "mov $0x1234, %ecx", "lcall *(%ebx)");
SNIP(int_task, "", "int $0x40");

static struct {
    u32 off;
    u16 sel;
} __attribute__((packed)) far_ptr;

static unsigned type_of(unsigned sel)
{
    return gdt[sel / 8] >> 40 & 0xf;
}

static void setup(const struct snip *body)
{
    memset(&other, 0, TSS_BYTES);
    other.eip = body->start;
    other.eflags = FL_ONE;
    other.esp = (u32)other_stack + sizeof(other_stack);
    other.cs = SEL_CODE0;
    other.ss = other.ds = other.es = other.fs = other.gs = SEL_DATA0;
    other.eax = 0xa0a0;
    other.ebx = 0xb0b0;
    other.edi = 0xd0d0;
    other.iomap = TSS_BYTES;
    gdt[SEL_A / 8] = make_desc((u32)&other, TSS_BYTES - 1, 0x89);
    gdt[SEL_GATE / 8] = (u64)SEL_A << 16 | (u64)(0x85 | 3 << 5) << 40;
    gdt[SEL_SMALL / 8] = make_desc((u32)&other, TSS_BYTES - 2, 0x89);
    gdt[SEL_ABS / 8] = make_desc((u32)&other, TSS_BYTES - 1, 0x09);
    gdt[SEL_C16 / 8] = make_desc(task16.start, 0xffff, ATTR_CODE);
    tss.link = 0;
    load_tr();
}

static u16 task_register(void)
{
    u16 sel;
    __asm__ volatile("str %0" : "=r"(sel));
    return sel;
}

static void transfer(struct ctx *c, const struct snip *s, unsigned ring, u16 sel)
{
    far_ptr.off = 0xdeadbeef; /* ignored */
    far_ptr.sel = sel;
    ctx_init(c, s, ring);
    c->gpr[BX] = (word)&far_ptr;
    run(c);
}

static void test_jmp(void)
{
    struct ctx c;
    setup(&task_body);
    transfer(&c, &jmp_task, 0, SEL_A);
    ok(c.vec == VEC_DONE && c.ip == task_body.end + 2 && c.gpr[AX] == 0xa0a0 && c.gpr[DI] == 0xd0d0,
       "JMP to a TSS: vector %lu EAX %lx", c.vec, c.gpr[AX]);
    expect("TR", task_register(), SEL_A);
    ok(type_of(SEL_TSS) == 9 && type_of(SEL_A) == 0xb, "busy bits: %x %x", type_of(SEL_TSS),
       type_of(SEL_A));
    ok(tss.eip == jmp_task.end && tss.ecx == 0x1234 && tss.cs == SEL_CODE0,
       "the old task is saved: %x", tss.eip);
    expect("CR0.TS is set", read_cr0() & CR0_TS, CR0_TS);
    ok(!(c.flags & FL_NT) && other.link == 0, "not nested");
    __asm__ volatile("clts");
}

static void test_call(void)
{
    struct ctx c;
    setup(&task_body);
    transfer(&c, &call_task, 0, SEL_A);
    ok(c.vec == VEC_DONE && c.flags & FL_NT && (u16)other.link == SEL_TSS,
       "CALL nests: NT, link %x", other.link);
    ok(type_of(SEL_TSS) == 0xb && type_of(SEL_A) == 0xb, "busy bits: %x %x", type_of(SEL_TSS),
       type_of(SEL_A));
    setup(&task_iret);
    transfer(&c, &call_task, 0, SEL_A);
    ok(c.vec == VEC_DONE && c.ip == call_task.end + 2 && c.gpr[CX] == 0x1234 && !(c.flags & FL_NT),
       "IRET with NT comes back: vector %lu at %lx", c.vec, c.ip);
    ok(other.eip == task_iret.at + 1 && other.ebx == 0xb0b1 && !(other.eflags & FL_NT),
       "and saves the other: EIP %lx EBX %x NT %d", other.eip - task_iret.at, other.ebx,
       !!(other.eflags & FL_NT));
    ok(type_of(SEL_TSS) == 0xb && type_of(SEL_A) == 9, "busy bits: %x %x", type_of(SEL_TSS),
       type_of(SEL_A));
    expect("TR", task_register(), SEL_TSS);
}

static void test_gates(void)
{
    struct ctx c;
    setup(&task_body);
    transfer(&c, &call_task, 3, SEL_GATE);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE0, "CALL through a task gate from ring 3: %lu", c.vec);
    setup(&task_iret);
    transfer(&c, &call_task, 3, SEL_GATE);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE3_32 && c.ip == call_task.end + 2,
       "and back: %lu CS %lx", c.vec, c.cs);
    setup(&task_body);
    transfer(&c, &call_task, 3, SEL_A);
    ok(c.vec == GP && c.err == SEL_A, "#GP, TSS of DPL 0 from ring 3: %lu %lx", c.vec, c.err);

    setup(&task_iret);
    set_gate(0x40, SEL_A, 0, GATE_TASK, 3, 0);
    ctx_init(&c, &int_task, 3);
    c.gpr[BX] = 5;
    run(&c);
    ok(c.vec == VEC_DONE && c.ip == int_task.end + 2 && c.gpr[BX] == 5,
       "INT n to a task and back: %lu", c.vec);
    expect("the handler task ran", other.ebx, 0xb0b1);
    reset_gate(0x40);

    /* An exception with an error code leaves it on the new task's stack. */
    setup(&task_body);
    set_gate(GP, SEL_A, 0, GATE_TASK, 3, 0);
    SNIP(do_hlt, "", "hlt");
    ctx_init(&c, &do_hlt, 3);
    run(&c);
    u32 *s = (u32 *)(other_stack + sizeof(other_stack)) - 1;
    ok(c.vec == VEC_DONE && c.gpr[SP] == (word)s && *s == 0,
       "#GP to a task: error code on its stack");
    ok(tss.eip == do_hlt.at && tss.eflags & FL_RF, "the fault's EIP and RF are in the old TSS");
    reset_gate(GP);
}

/* --- errors (table 7-1) --- */

static void refuse(const char *name, const struct snip *s, u16 sel, unsigned vec, u32 err)
{
    struct ctx c;
    transfer(&c, s, 0, sel);
    ok(c.vec == vec && c.err == err && c.ip == s->at && task_register() == SEL_TSS, "%s: %lu %lx",
       name, c.vec, c.err);
}

/* What is found wrong after the switch is the new task's fault. Its segments may not be usable
 * then, so #TS goes to a third task (6.15, interrupt 10). */
static void fault_in(const char *name, unsigned vec, u32 err)
{
    struct ctx c;
    const u32 *top = (u32 *)(guard_stack + sizeof(guard_stack));
    guard = other;
    guard.eip = task_body.start;
    guard.cs = SEL_CODE0;
    guard.ldt = 0;
    guard.ss = guard.ds = guard.es = guard.fs = guard.gs = SEL_DATA0;
    guard.esp = (u32)top;
    gdt[SEL_GUARD / 8] = make_desc((u32)&guard, TSS_BYTES - 1, 0x89);
    set_gate(vec, SEL_GUARD, 0, GATE_TASK, 0, 0);
    transfer(&c, &jmp_task, 0, SEL_A);
    reset_gate(vec);
    ok(c.vec == VEC_DONE && task_register() == SEL_GUARD && top[-1] == err &&
           (u16)guard.link == SEL_A,
       "%s: %lu, error code %x, from task %x", name, c.vec, top[-1], guard.link);
    setup(&task_body);
}

static void test_errors(void)
{
    setup(&task_body);
    refuse("#GP, JMP to a busy TSS", &jmp_task, SEL_TSS, GP, SEL_TSS);
    refuse("#GP, CALL to a busy TSS", &call_task, SEL_TSS, GP, SEL_TSS);
    refuse("#TS, limit below 67h", &jmp_task, SEL_SMALL, TS, SEL_SMALL);
    refuse("#NP, absent TSS", &jmp_task, SEL_ABS, NP, SEL_ABS);
    gdt[SEL_GATE / 8] &= ~BIT(47);
    refuse("#NP, absent task gate", &jmp_task, SEL_GATE, NP, SEL_GATE);
    setup(&task_body);

    other.cs = SEL_DATA0;
    fault_in("#TS, CS is data", TS, SEL_DATA0);
    other.ss = SEL_CODE0;
    fault_in("#TS, SS is code", TS, SEL_CODE0);
    other.ds = 0x3f8;
    fault_in("#TS, DS behind the GDT", TS, 0x3f8);
    other.ldt = SEL_DATA0;
    fault_in("#TS, no LDT", TS, SEL_DATA0);
    other.cs = 0;
    fault_in("#TS, CS null", TS, 0);

    struct ctx c;
    other.eip = task_ud.start;
    transfer(&c, &jmp_task, 0, SEL_A);
    ok(c.vec == UD && c.ip == task_ud.at && task_register() == SEL_A, "#UD in the new task: %lu",
       c.vec);
    setup(&task_body);

    /* IRET with NT and a bad link. */
    tss.link = SEL_DATA0;
    ctx_init(&c, &task_iret, 0);
    c.ip = task_iret.at;
    c.flags |= FL_NT;
    run(&c);
    ok(c.vec == TS && c.err == SEL_DATA0, "#TS, IRET to what is no TSS: %lu %lx", c.vec, c.err);
    tss.link = SEL_A; /* not busy */
    ctx_init(&c, &task_iret, 0);
    c.ip = task_iret.at;
    c.flags |= FL_NT;
    run(&c);
    ok(c.vec == TS && c.err == SEL_A, "#TS, IRET to a TSS that is not busy: %lu %lx", c.vec, c.err);
    setup(&task_body);
}

/* --- T bit, 16-bit TSS, ring 3 and V86 tasks --- */

static void test_variants(void)
{
    struct ctx c;
    setup(&task_body);
    other.t = 1;
    write_dr6(0xffff0ff0);
    transfer(&c, &jmp_task, 0, SEL_A);
    ok(c.vec == DB && c.ip == task_body.start && read_dr6() & DR6_BT, "T bit: #DB with DR6.BT: %lu",
       c.vec);
    __asm__ volatile("clts");

    setup(&task_body);
    other16 = (struct tss16){.ip = 0,
                             .flags = FL_ONE,
                             .ax = 0x1616,
                             .sp = 0x800,
                             .cs = SEL_C16,
                             .ss = SEL_DATA0,
                             .ds = SEL_DATA0,
                             .es = SEL_DATA0};
    other16.sp = 0xf000;
    gdt[SEL_A16 / 8] = make_desc((u32)&other16, sizeof(other16) - 1, 0x81);
    transfer(&c, &call_task, 0, SEL_A16);
    ok(c.vec == VEC_DONE && c.cs == SEL_C16 && (u16)c.gpr[AX] == 0x1616 && other16.link == SEL_TSS,
       "16-bit TSS: %lu CS %lx EAX %lx", c.vec, c.cs, c.gpr[AX]);
    ok(c.fs == 0 && c.gs == 0, "FS and GS are null: %lx %lx", c.fs, c.gs);

    setup(&task_body);
    other.cs = SEL_CODE3_32;
    other.ss = other.ds = other.es = other.fs = other.gs = SEL_DATA3;
    other.esp0 = (u32)kernel_stack_top - 2048;
    other.ss0 = SEL_DATA0;
    transfer(&c, &jmp_task, 0, SEL_A);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE3_32 && c.ss == SEL_DATA3, "a task of ring 3: %lu",
       c.vec);

    setup(&task_body);
    memcpy((void *)0x6000, "\xcd\x81", 2);
    other.eflags = FL_ONE | FL_VM | FL_IOPL;
    other.cs = 0x600;
    other.eip = 0;
    other.ss = 0x700;
    other.esp = 0x100;
    other.ds = other.es = other.fs = other.gs = 0x123;
    other.esp0 = (u32)kernel_stack_top - 2048;
    other.ss0 = SEL_DATA0;
    transfer(&c, &jmp_task, 0, SEL_A);
    ok(c.vec == VEC_DONE && c.flags & FL_VM && c.cs == 0x600 && c.ds == 0x123,
       "a V86 task: %lu CS %lx", c.vec, c.cs);
    setup(&task_body);
}

int main(void)
{
    test_jmp();
    test_call();
    test_gates();
    test_errors();
    test_variants();
    return 0;
}
