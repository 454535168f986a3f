/*
 * gates64.c - control transfers of long mode: SYSCALL and SYSRET, SYSENTER and SYSEXIT, call gates,
 * far CALL, JMP and RET between 64-bit and compatibility mode, IRET (SDM vol. 2; vol. 3A, 5.8,
 * 6.14; AMD's ways where the CPU shown is AMD's: APM vol. 3).
 */
#include "guest.h"

#define SEL_GATE  (SEL_FREE + 0x00) /* 64-bit call gate, DPL 3 (16 bytes) */
#define SEL_GATE0 (SEL_FREE + 0x10) /* DPL 0 */
#define SEL_GBAD  (SEL_FREE + 0x20) /* to 32-bit code */
#define SEL_CONF  (SEL_FREE + 0x30) /* conforming 64-bit code */
#define SEL_LD    (SEL_FREE + 0x38) /* code with L and D: reserved */
#define SEL_ODD   (SEL_FREE + 0x40) /* gate whose upper half has a type */

#define NONCANON 0x0000800000000000ul

SNIP(target, "", "nop");
SNIP_BITS(target32, "32", "", "nop");

static bool amd;

static void make_gate(unsigned sel, unsigned to, u64 off, unsigned dpl, u32 odd)
{
    gdt[sel / 8] =
        (off & 0xffff) | (u64)to << 16 | (u64)(0x8c | dpl << 5) << 40 | (off >> 16 & 0xffff) << 48;
    gdt[sel / 8 + 1] = off >> 32 | (u64)odd << 40;
}

/* --- SYSCALL, SYSRET --- */

SNIP(do_syscall, "", "syscall");
SNIP_BITS(do_syscall32, "32", "", "syscall");
SNIP(do_sysret64, "", "sysretq");
SNIP(do_sysret32, "", "sysretl");

static void test_syscall(void)
{
    struct ctx c;
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(u64)EFER_SCE);
    ctx_init(&c, &do_syscall, 3);
    run(&c);
    ok(c.vec == UD && c.ip == do_syscall.at, "#UD, SYSCALL without EFER.SCE: %lu", c.vec);
    ctx_init(&c, &do_sysret64, 0);
    run(&c);
    ok(c.vec == UD, "#UD, SYSRET without EFER.SCE: %lu", c.vec);

    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (u64)SEL_CODE3_32 << 48 | (u64)SEL_CODE0 << 32);
    wrmsr(MSR_LSTAR, target.start);
    wrmsr(MSR_CSTAR, target.start);
    wrmsr(MSR_SFMASK, FL_DF | FL_CF | FL_AC);
    ctx_init(&c, &do_syscall, 3);
    c.flags |= FL_IF | FL_DF | FL_CF | FL_ZF | FL_AC;
    word sp = c.gpr[SP];
    run(&c);
    ok(c.vec == VEC_DONE && c.ip == target.end + 2 && c.cs == SEL_CODE0 && c.ss == SEL_DATA0,
       "SYSCALL: vector %lu CS %lx SS %lx", c.vec, c.cs, c.ss);
    expect("RCX is the return address", c.gpr[CX], do_syscall.end);
    expect("R11 is RFLAGS", c.gpr[11], FL_ONE | FL_IF | FL_DF | FL_CF | FL_ZF | FL_AC);
    expect("RFLAGS are masked", c.flags, FL_ONE | FL_IF | FL_ZF);
    expect("RSP stays", c.gpr[SP], sp);
    ctx_init(&c, &do_syscall, 0);
    run(&c);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE0, "SYSCALL from ring 0: %lu", c.vec);

    ctx_init(&c, &do_syscall32, 3);
    c.cs = SEL_CODE3_32;
    run(&c);
    if (amd)
        ok(c.vec == VEC_DONE && (u32)c.gpr[CX] == do_syscall32.end,
           "SYSCALL from compatibility mode");
    else
        ok(c.vec == UD && c.ip == do_syscall32.at, "#UD, SYSCALL from compatibility mode: %lu",
           c.vec);
}

static void test_sysret(void)
{
    struct ctx c;
    ctx_init(&c, &do_sysret64, 0);
    c.gpr[CX] = target.start;
    c.gpr[11] = FL_ONE | FL_IF | FL_ZF | FL_RF | FL_VM;
    run(&c);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE3_64 && (c.ss & ~3ul) == (SEL_DATA3 & ~3),
       "SYSRET to 64-bit mode: CS %lx SS %lx", c.cs, c.ss);
    expect("RFLAGS from R11, without RF and VM", c.flags, FL_ONE | FL_IF | FL_ZF);
    ctx_init(&c, &do_sysret32, 0);
    c.gpr[CX] = 0xdead00000000 | target32.start;
    c.gpr[11] = FL_ONE;
    run(&c);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE3_32 && c.ip == target32.end + 2,
       "SYSRET to compatibility mode: CS %lx", c.cs);
    ctx_init(&c, &do_sysret64, 3);
    run(&c);
    ok(c.vec == GP && c.err == 0 && c.ip == do_sysret64.at, "#GP, SYSRET in ring 3: %lu", c.vec);
    ctx_init(&c, &do_sysret64, 0);
    c.gpr[CX] = NONCANON;
    c.gpr[11] = FL_ONE;
    run(&c);
    if (amd)
        ok(c.vec == GP && c.cs == SEL_CODE3_64, "SYSRET to a non-canonical address: #GP there");
    else
        ok(c.vec == GP && c.cs == SEL_CODE0 && c.ip == do_sysret64.at,
           "SYSRET to a non-canonical address: #GP in ring 0: %lu CS %lx", c.vec, c.cs);
    expect("#GP, non-canonical LSTAR", (u32)try_wrmsr(MSR_LSTAR, NONCANON), GP);
    expect("#GP, non-canonical CSTAR", (u32)try_wrmsr(MSR_CSTAR, NONCANON), GP);
    expect("#GP, SFMASK above 32 bits", (u32)try_wrmsr(MSR_SFMASK, BIT(32)), GP);
}

/* --- SYSENTER, SYSEXIT: on AMD's CPUs in legacy mode only --- */

SNIP(do_sysenter, "", "sysenter");
SNIP(do_sysexit, "", "sysexitl");
SNIP(do_sysexit64, "", "sysexitq");

static void test_sysenter(void)
{
    struct ctx c;
    if (amd) {
        ctx_init(&c, &do_sysenter, 3);
        run(&c);
        ok(c.vec == UD, "#UD, SYSENTER in long mode: %lu", c.vec);
        return;
    }
    wrmsr(MSR_SYSENTER_CS, SEL_CODE0);
    wrmsr(MSR_SYSENTER_ESP, (word)kernel_stack_top - 1024);
    wrmsr(MSR_SYSENTER_EIP, target.start);
    ctx_init(&c, &do_sysenter, 3);
    c.flags |= FL_IF;
    run(&c);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE0 && c.ss == SEL_DATA0 &&
           c.gpr[SP] == (word)kernel_stack_top - 1024 && !(c.flags & FL_IF),
       "SYSENTER: CS %lx RSP %lx", c.cs, c.gpr[SP]);
    struct ctx u;
    ctx_init(&u, NULL, 3);
    ctx_init(&c, &do_sysexit64, 0);
    c.gpr[DX] = target.start;
    c.gpr[CX] = u.gpr[SP];
    run(&c);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE3_64 && c.ss == SEL_DATA3B && c.gpr[SP] == u.gpr[SP],
       "SYSEXIT to 64-bit mode: CS %lx SS %lx", c.cs, c.ss);
    ctx_init(&c, &do_sysexit, 0);
    c.gpr[DX] = target32.start;
    c.gpr[CX] = u.gpr[SP];
    run(&c);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE3_32 && c.ip == target32.end + 2,
       "SYSEXIT to compatibility mode: CS %lx", c.cs);
    ctx_init(&c, &do_sysexit64, 0);
    c.gpr[DX] = NONCANON;
    run(&c);
    ok(c.vec == GP && c.cs == SEL_CODE0, "#GP, SYSEXIT to a non-canonical address: %lu", c.vec);
    expect("#GP, non-canonical SYSENTER_EIP", (u32)try_wrmsr(MSR_SYSENTER_EIP, NONCANON), GP);
    expect("#GP, non-canonical SYSENTER_ESP", (u32)try_wrmsr(MSR_SYSENTER_ESP, NONCANON), GP);
}

/* --- far transfers --- */

static struct {
    u32 off;
    u16 sel;
} __attribute__((packed)) far_ptr;
SNIP(far_call, "", "lcall *(%rbx)");
SNIP(far_jmp, "", "ljmp *(%rbx)");
SNIP_BITS(far_call32, "32", "", "lcall *(%ebx)");

static void transfer(struct ctx *c, const struct snip *s, unsigned ring, u16 sel, word to)
{
    far_ptr.off = (u32)to;
    far_ptr.sel = sel;
    ctx_init(c, s, ring);
    c->gpr[BX] = (word)&far_ptr;
    run(c);
}

static void test_transfers(void)
{
    struct ctx c;
    transfer(&c, &far_jmp, 3, SEL_CODE3_32, target32.start);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE3_32 && c.ip == target32.end + 2,
       "JMP to compatibility mode: CS %lx", c.cs);
    transfer(&c, &far_jmp, 0, SEL_CODE0_32, target32.start);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE0_32, "the same in ring 0: %lu CS %lx", c.vec, c.cs);
    transfer(&c, &far_call, 3, SEL_CODE3_64, target.start);
    ok(c.vec == VEC_DONE && ((u32 *)c.gpr[SP])[0] == (u32)far_call.end &&
           ((u32 *)c.gpr[SP])[1] == SEL_CODE3_64,
       "CALL m16:32 pushes 32-bit words");
    transfer(&c, &far_jmp, 0, SEL_LD, target.start);
    ok(c.vec == GP && c.err == SEL_LD, "#GP, code with L and D: %lu %lx", c.vec, c.err);
    transfer(&c, &far_jmp, 3, SEL_CODE0, target.start);
    ok(c.vec == GP && c.err == SEL_CODE0, "#GP, JMP to ring 0: %lu %lx", c.vec, c.err);
    transfer(&c, &far_jmp, 3, SEL_CONF, target.start);
    ok(c.vec == VEC_DONE && c.cs == (SEL_CONF | 3), "JMP to conforming code: %lu CS %lx", c.vec,
       c.cs);
    transfer(&c, &far_jmp, 0, SEL_TSS, 0);
    ok(c.vec == GP && c.err == SEL_TSS, "#GP, JMP to a TSS: %lu %lx", c.vec, c.err);

    transfer(&c, &far_call, 3, SEL_GATE, 0);
    const u64 *s = (const u64 *)c.gpr[SP];
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE0 && c.gpr[SP] == (word)kernel_stack_top - 32,
       "CALL through a gate: CS %lx", c.cs);
    ok(s[0] == far_call.end && s[1] == SEL_CODE3_64 && s[3] == SEL_DATA3, "its frame: %lx:%lx",
       s[1], s[0]);
    expect("SS of the new ring is null", c.ss & ~3ul, 0);
    ctx_init(&c, &far_call32, 3);
    c.cs = SEL_CODE3_32;
    far_ptr.sel = SEL_GATE;
    c.gpr[BX] = (word)&far_ptr;
    run(&c);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE0 && ((u64 *)c.gpr[SP])[1] == SEL_CODE3_32,
       "the same from compatibility mode: %lu", c.vec);
    transfer(&c, &far_jmp, 0, SEL_GATE, 0);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE0, "JMP through a gate in ring 0: %lu", c.vec);
    transfer(&c, &far_call, 3, SEL_GATE0, 0);
    ok(c.vec == GP && c.err == SEL_GATE0, "#GP, gate of DPL 0: %lu %lx", c.vec, c.err);
    transfer(&c, &far_call, 3, SEL_GBAD, 0);
    ok(c.vec == GP && c.err == SEL_CODE0_32, "#GP, gate to 32-bit code: %lu %lx", c.vec, c.err);
    transfer(&c, &far_call, 3, SEL_ODD, 0);
    ok(c.vec == GP && c.err == SEL_ODD, "#GP, type bits in the upper half: %lu %lx", c.vec, c.err);
    make_gate(SEL_GATE, SEL_CODE0, NONCANON, 3, 0);
    transfer(&c, &far_call, 3, SEL_GATE, 0);
    ok(c.vec == GP && c.err == 0, "#GP, gate to a non-canonical address: %lu %lx", c.vec, c.err);
    make_gate(SEL_GATE, SEL_CODE0, target.start, 3, 0);
    tss.sp[0] = NONCANON + 0x1000;
    set_gate(SS_, SEL_CODE0, (idt[SS_ * 2] & 0xffff) | (idt[SS_ * 2] >> 32 & 0xffff0000), GATE_INT,
             3, 1);
    tss.ist[0] = (word)kernel_stack_top;
    transfer(&c, &far_call, 3, SEL_GATE, 0);
    ok(c.vec == SS_ && c.err == 0, "#SS, non-canonical RSP0: %lu %lx", c.vec, c.err);
    reset_gate(SS_);
    tss.sp[0] = (word)kernel_stack_top;
}

/* --- RET FAR, IRET --- */

SNIP(far_ret, "", "lretq");
SNIP(far_ret32, "", "lretl");
SNIP(do_iret, "", "iretq");
SNIP_BITS(do_iret32, "32", "", "iret");

static void with_frame(struct ctx *c, const struct snip *s, unsigned ring, const u64 *f, unsigned n,
                       word flags)
{
    ctx_init(c, s, ring);
    c->flags |= flags;
    c->gpr[SP] -= 8 * n;
    memcpy((void *)c->gpr[SP], f, 8 * n);
    run(c);
}

static void test_returns(void)
{
    struct ctx c, u;
    ctx_init(&u, NULL, 3);
    const word sp = u.gpr[SP];
    const u64 outer[] = {target.start, SEL_CODE3_64, sp, SEL_DATA3};
    with_frame(&c, &far_ret, 0, outer, 4, 0);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE3_64 && c.gpr[SP] == sp, "LRETQ to ring 3: %lu", c.vec);
    const u64 compat[] = {target32.start, SEL_CODE3_32, sp, SEL_DATA3};
    with_frame(&c, &far_ret, 0, compat, 4, 0);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE3_32, "LRETQ to compatibility mode: %lu", c.vec);
    const u64 noncanon[] = {NONCANON, SEL_CODE3_64};
    with_frame(&c, &far_ret, 3, noncanon, 2, 0);
    ok(c.vec == GP && c.err == 0 && c.ip == far_ret.at,
       "#GP, LRETQ to a non-canonical address: %lu", c.vec);
    const u64 null_ss[] = {target.start, SEL_CODE3_64, sp, 3};
    with_frame(&c, &far_ret, 0, null_ss, 4, 0);
    ok(c.vec == GP && c.err == 0, "#GP, null SS in ring 3: %lu", c.vec);

    const u64 iret3[] = {target.start, SEL_CODE3_64, FL_ONE | FL_IF, sp, SEL_DATA3};
    with_frame(&c, &do_iret, 0, iret3, 5, 0);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE3_64 && c.flags & FL_IF, "IRETQ to ring 3: %lu", c.vec);
    const u64 iret32[] = {target32.start, SEL_CODE3_32, FL_ONE, sp, SEL_DATA3};
    with_frame(&c, &do_iret, 0, iret32, 5, 0);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE3_32, "IRETQ to compatibility mode: %lu", c.vec);
    u64 same[] = {target.start, SEL_CODE0, FL_ONE, 0, 0};
    same[3] = sp - 256;
    with_frame(&c, &do_iret, 0, same, 5, 0);
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE0 && c.gpr[SP] == sp - 256 && c.ss == 0,
       "IRETQ within ring 0 pops RSP and a null SS: RSP %lx SS %lx", c.gpr[SP], c.ss);
    with_frame(&c, &do_iret, 0, same, 5, FL_NT);
    ok(c.vec == GP && c.err == 0, "#GP, IRETQ with NT: %lu", c.vec);
    const u64 far_away[] = {NONCANON, SEL_CODE3_64, FL_ONE, sp, SEL_DATA3};
    with_frame(&c, &do_iret, 0, far_away, 5, 0);
    ok(c.vec == GP && c.err == 0 && c.cs == SEL_CODE0, "#GP, IRETQ to a non-canonical address: %lu",
       c.vec);
    const u64 vm[] = {target.start, SEL_CODE3_64, FL_ONE | FL_VM, sp, SEL_DATA3};
    with_frame(&c, &do_iret, 0, vm, 5, 0);
    ok(c.vec == VEC_DONE && !(c.flags & FL_VM), "IRETQ does not set VM: %lu", c.vec);
    const u64 inner[] = {target.start, SEL_CODE0, FL_ONE, sp, SEL_DATA0};
    with_frame(&c, &do_iret, 3, inner, 5, 0);
    ok(c.vec == GP && c.err == SEL_CODE0, "#GP, IRETQ to ring 0: %lu %lx", c.vec, c.err);
    const u64 null3[] = {target.start, SEL_CODE3_64, FL_ONE, sp, 0};
    with_frame(&c, &do_iret, 0, null3, 5, 0);
    ok(c.vec == GP && c.err == 0, "#GP, IRETQ to ring 3 with a null SS: %lu %lx", c.vec, c.err);
}

/* --- interrupts from compatibility mode: 64-bit frames, and the way back --- */

SNIP_BITS(int_30_32, "32", "mov $0x12345678, %eax", "int $0x30");
static volatile u64 frame_sp;

static void on_int(struct frame *f)
{
    frame_sp = (word)&f->ip;
}

static void test_compat(void)
{
    struct ctx c;
    handler[0x30] = on_int;
    ctx_init(&c, &int_30_32, 3);
    c.cs = SEL_CODE3_32;
    run(&c);
    handler[0x30] = NULL;
    ok(c.vec == VEC_DONE && c.cs == SEL_CODE3_32 && c.gpr[AX] == 0x12345678 &&
           frame_sp == (word)kernel_stack_top - 40,
       "INT n from compatibility mode and back: %lu", c.vec);
}

int main(void)
{
    u32 r[4];
    cpuid(0, 0, r);
    amd = r[1] == 0x68747541 || r[1] == 0x6f677948;
    make_gate(SEL_GATE, SEL_CODE0, target.start, 3, 0);
    make_gate(SEL_GATE0, SEL_CODE0, target.start, 0, 0);
    make_gate(SEL_GBAD, SEL_CODE0_32, target.start, 3, 0);
    make_gate(SEL_ODD, SEL_CODE0, target.start, 3, 1);
    gdt[SEL_CONF / 8] = make_desc(0, 0xfffff, 0x9f | ATTR_G | ATTR_L);
    gdt[SEL_LD / 8] = make_desc(0, 0xfffff, ATTR_CODE | ATTR_G | ATTR_L | ATTR_DB);
    test_syscall();
    test_sysret();
    test_sysenter();
    test_transfers();
    test_returns();
    test_compat();
    return 0;
}
