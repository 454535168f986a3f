/*
 * direct_insn.c - instructions of user code that show or change what is the system's, system calls,
 * and state that is kept over entries of the kernel. bt may execute such code directly
 * (engine/direct/direct.h), and must not show the host.
 */
#include "direct.h"

#define LDT_SEL  SEL_LDT
#define RFL_USER (FL_ONE | FL_IF)

/* --- instructions that show the system's state --- */

SNIP(sldt, "", "sldt %eax");
SNIP(str_, "", "str %eax");
SNIP(smsw, "", "smsw %rax");
SNIP(sgdt, "lea -64(%rsp), %rbx", "sgdt (%rbx); mov 2(%rbx), %rax; movzwl (%rbx), %ecx");
SNIP(sidt, "lea -64(%rsp), %rbx", "sidt (%rbx); mov 2(%rbx), %rax; movzwl (%rbx), %ecx");
SNIP(lsl, "mov $-1, %eax; mov $0x50, %ecx", "lsl %ecx, %eax");
SNIP(lar, "mov $-1, %eax; mov $0x2b, %ecx", "lar %ecx, %eax");
SNIP(lar_free, "mov $-1, %eax; mov $0x7b, %ecx", "lar %ecx, %eax; setz %dl");
SNIP(verr, "xor %eax, %eax; mov $0x33, %ecx", "verr %cx; setz %al");
SNIP(verw, "xor %eax, %eax; mov $0x2b, %ecx", "verw %cx; setz %al");
SNIP(rdpid, "", "rdpid %rax");
SNIP(rdtscp, "", "rdtscp");
SNIP(from_cs, "", "mov %cs, %eax");
SNIP(from_ss, "", "mov %ss, %eax");
SNIP(from_ds, "", "mov %ds, %eax");
SNIP(from_fs, "", "push %fs; pop %rax");
SNIP(to_ds, "mov $0x33, %ecx", "mov %ecx, %ds; mov %ds, %eax");
SNIP(to_gs, "pushq $0x33", "pop %gs; mov %gs, %eax");
SNIP(to_ss, "mov $0x33, %ecx", "mov %ecx, %ss; mov %ss, %eax");
SNIP(vmcall, "mov $0x1234, %eax", "vmcall");
SNIP(vmmcall, "mov $0x1234, %eax", "vmmcall");

static u64 cr4_umip(bool on)
{
    u64 old = read_cr4();
    write_cr4(on ? old | CR4_UMIP : old & ~(word)CR4_UMIP);
    return old;
}

static void shows(const char *name, const struct snip *s, u64 want)
{
    u64 got = go(s, 0);
    ok(c.vec == VEC_DONE && got == want, "%s: vector %lu, %lx, want %llx", name, c.vec, got,
       (unsigned long long)want);
}

static void test_shown(void)
{
    if (cpu_has(7, 2, 2))
        cr4_umip(false);
    gdt[LDT_SEL / 8] = make_desc(0x200000, 0x3f, 0x82 | ATTR_DPL(3));
    gdt[LDT_SEL / 8 + 1] = 0;
    gdt[0x78 / 8] = make_desc(0, 0xfffff, ATTR_CODE); /* the kernel's: LAR may not see it */
    __asm__ volatile("lldt %w0" : : "r"(LDT_SEL));
    shows("SLDT", &sldt, LDT_SEL);
    shows("STR", &str_, SEL_TSS);
    shows("SMSW", &smsw, read_cr0());
    shows("SGDT", &sgdt, (u64)gdt);
    expect("its limit", c.gpr[CX], sizeof(gdt) - 1);
    shows("SIDT", &sidt, (u64)idt);
    expect("its limit", c.gpr[CX], sizeof(idt) - 1);
    shows("LSL of an LDT", &lsl, 0x3f);
    shows("LAR of the user's code", &lar, 0xaffb00);
    go(&lar_free, 0);
    ok(c.gpr[AX] == 0xffffffff && !(c.gpr[DX] & 1), "LAR of the kernel's code");
    shows("VERR", &verr, 1);
    shows("VERW of code", &verw, 0);
    shows("MOV from CS", &from_cs, SEL_CODE3_64);
    shows("MOV from SS", &from_ss, SEL_DATA3);
    shows("MOV from DS", &from_ds, SEL_DATA3);
    __asm__ volatile("mov %0, %%fs" : : "r"(SEL_DATA3B));
    shows("PUSH FS", &from_fs, SEL_DATA3B);
    shows("MOV to DS", &to_ds, SEL_DATA3B);
    shows("POP GS", &to_gs, SEL_DATA3B);
    shows("MOV to SS", &to_ss, SEL_DATA3B);
    expect("and SS in the frame", c.ss, SEL_DATA3B);
    __asm__ volatile("mov %0, %%fs; mov %0, %%gs" : : "r"(SEL_DATA0));
    if (cpu_has(0x80000001, 3, 27)) {
        wrmsr(0xc0000103, 0x4242);
        go(&rdtscp, 0);
        expect("RDTSCP shows TSC_AUX", c.gpr[CX], 0x4242);
    }
    if (cpu_has(7, 2, 22))
        shows("RDPID", &rdpid, 0x4242);
    if (cpu_has(7, 2, 2)) {
        u64 old = cr4_umip(true);
        for (unsigned n = 0; n < 5; n++) {
            const struct snip *const s[] = {&sldt, &str_, &smsw, &sgdt, &sidt};
            go(s[n], 0);
            expect_fault("the same with CR4.UMIP", GP, 0, 0);
        }
        write_cr4(old);
    }
}

SNIP(do_cpuid, "mov %ebx, %eax; xor %ecx, %ecx", "cpuid");
SNIP(do_xgetbv, "xor %ecx, %ecx", "xgetbv");
SNIP(do_rdtsc, "", "lfence; rdtsc; lfence");

static void test_cpuid(void)
{
    unsigned bad = 0;
    for (u32 leaf = 0; leaf < 16; leaf++) {
        u32 r[4];
        cpuid(leaf, 0, r);
        go(&do_cpuid, leaf);
        if (leaf != 0xd && leaf != 6) /* XCR0's own size, and what a kernel may count */
            bad += r[0] != c.gpr[AX] || r[1] != c.gpr[BX] || r[2] != c.gpr[CX] || r[3] != c.gpr[DX];
    }
    ok(!bad, "CPUID is the same as in the kernel, %u leaves are not", bad);
    go(&do_xgetbv, 0);
    ok(c.vec == UD, "XGETBV with CR4.OSXSAVE = 0: vector %lu", c.vec);
    if (cpu_has(1, 2, 26)) {
        write_cr4(read_cr4() | CR4_OSXSAVE);
        __asm__ volatile("xsetbv" : : "a"(3), "d"(0), "c"(0));
        shows("XGETBV", &do_xgetbv, 3);
    }
    bad = 0;
    u64 last = rdtsc();
    for (unsigned n = 0; n < 50; n++) {
        go(&do_rdtsc, 0);
        u64 user = (u32)c.gpr[AX] | c.gpr[DX] << 32, kernel = rdtsc();
        bad += user < last || kernel < user;
        last = kernel;
    }
    ok(!bad, "RDTSC of user and kernel go on together, %u do not", bad);
}

/* --- flags --- */

SNIP(set_ac, "pushf; orl $0x40000, (%rsp); popf", "pushf; pop %rax");
SNIP(set_id, "pushf; xorl $0x200000, (%rsp); popf", "pushf; pop %rax");
SNIP(set_iopl, "pushf; orl $0x3000, (%rsp); popf", "pushf; pop %rax");
SNIP(clear_if, "pushf; andl $~0x200, (%rsp); popf", "pushf; pop %rax");
SNIP(set_df, "std", "pushf; pop %rax");
SNIP(set_nt, "pushf; orl $0x4000, (%rsp); popf", "pushf; pop %rax");
SNIP(set_tf, "pushf; orl $0x100, (%rsp); popf", "nop");
SNIP(get_flags, "", "pushf; pop %rax");
SNIP(unaligned, "pushf; orl $0x40000, (%rsp); popf", "mov 1(%rsp), %eax");

static void flag(const char *name, const struct snip *s, u64 set, u64 cleared)
{
    u64 pushed = go(s, 0) & ~0x8d5ul;
    ok(c.vec == VEC_DONE && pushed == ((RFL_USER | set) & ~cleared) &&
           (c.flags & ~0x8d5ul) == pushed,
       "%s: pushed %lx, in the frame %lx", name, pushed, c.flags);
    go(&get_flags, 0);
}

static void test_flags(void)
{
    flag("PUSHF", &get_flags, 0, 0);
    flag("POPF sets AC", &set_ac, FL_AC, 0);
    flag("PUSHF after it", &get_flags, 0, 0);
    flag("POPF sets ID", &set_id, FL_ID, 0);
    flag("PUSHF after that", &get_flags, 0, 0);
    flag("POPF leaves IOPL", &set_iopl, 0, 0);
    flag("POPF leaves IF", &clear_if, 0, 0);
    flag("STD", &set_df, FL_DF, 0);
    flag("POPF sets NT", &set_nt, FL_NT, 0);
    go(&set_tf, 0);
    ok(c.vec == DB && c.ip == insn_of(&set_tf) + 1 && c.flags & FL_TF && read_dr6() & DR6_BS,
       "POPF sets TF: vector %lu at +%lx, DR6 %lx", c.vec, c.ip - CODE, read_dr6());
    write_dr6(0);
    go(&get_flags, 0);
    expect("and nothing traps after it", c.vec, VEC_DONE);
    write_cr0(read_cr0() | CR0_AM);
    go(&unaligned, 0);
    ok(c.vec == AC && c.ip == insn_of(&unaligned), "alignment check: vector %lu", c.vec);
    write_cr0(read_cr0() & ~(word)CR0_AM);
}

/* --- traps and faults --- */

SNIP(int3, "", "int3");
SNIP(int_3, "", ".byte 0xcd, 3");
SNIP(int_4, "", ".byte 0xcd, 4");
SNIP(int_80, "mov $0x1122334455667788, %rax", "int $0x80");
SNIP(int_21, "", "int $0x21");
SNIP(icebp, "", ".byte 0xf1");
SNIP(ud2, "", "ud2");
SNIP(bad_op, "", ".byte 0x0f, 0xff, 0xc0");
SNIP(hlt_, "", "hlt");
SNIP(cli_, "", "cli");
SNIP(in_, "", "in $0x60, %al");
SNIP(div_zero, "xor %ecx, %ecx; xor %edx, %edx", "div %ecx");
SNIP(fp_error, "fninit; pushq $0x372; fldcw (%rsp); fld1; fldz", "fdivrp; fwait");
SNIP(sse_error, "pushq $0x1d80; ldmxcsr (%rsp); xorps %xmm0, %xmm0; cvtsi2ss %esp, %xmm1",
     "divss %xmm0, %xmm1");
SNIP(sysenter_, "", "sysenter");
SNIP(xbegin, "", ".byte 0xc7, 0xf8, 0, 0, 0, 0; .byte 0x0f, 1, 0xd5");
SNIP(rdfsbase_, "", "rdfsbase %rax");

/* after: RIP in the frame is behind the instruction. */
static void traps(const char *name, const struct snip *s, unsigned vec, bool after, u64 err)
{
    for (unsigned n = 0; n < 2; n++) {
        go(s, 0);
        ok(c.vec == vec && c.ip == (after ? behind(s) : insn_of(s)) && c.err == err,
           "%s: vector %lu at +%lx, error code %lx", name, c.vec, c.ip - CODE, c.err);
    }
}

static void test_traps(void)
{
    traps("INT3", &int3, BP_, true, 0);
    traps("INT 3", &int_3, BP_, true, 0);
    traps("INT 4", &int_4, OF, true, 0);
    traps("INT 80h", &int_80, 0x80, true, 0);
    expect("RAX of that", c.gpr[AX], 0x1122334455667788);
    traps("INT 21h", &int_21, 0x21, true, 0);
    set_gate(0x21, SEL_CODE0, 0x100000, GATE_INT, 0, 0);
    traps("INT 21h, the gate's DPL 0", &int_21, GP, false, 0x21 * 8 + 2);
    reset_gate(0x21);
    traps("INT1", &icebp, DB, true, 0);
    traps("UD2", &ud2, UD, false, 0);
    traps("UD0", &bad_op, UD, false, 0);
    traps("HLT", &hlt_, GP, false, 0);
    traps("CLI", &cli_, GP, false, 0);
    traps("IN", &in_, GP, false, 0);
    traps("SYSENTER without its MSRs", &sysenter_, GP, false, 0);
    traps("DIV by zero", &div_zero, DE, false, 0);
    go(&fp_error, 0);
    ok(c.vec == MF, "an unmasked x87 exception: vector %lu", c.vec);
    __asm__ volatile("fninit");
    traps("an unmasked SSE exception", &sse_error, XM, false, 0);
    static const u32 mxcsr = 0x1f80;
    __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
    traps("RDFSBASE without CR4.FSGSBASE", &rdfsbase_, UD, false, 0);
    go(&vmcall, 0);
    u64 vec = c.vec, ax = c.gpr[AX];
    go(&vmmcall, 0);
    ok(vec != VEC_DONE || ax == c.gpr[AX], "VMCALL and VMMCALL: %lu %lx, %lu %lx", vec, ax, c.vec,
       c.gpr[AX]);
    if (!cpu_has(7, 1, 11))
        traps("XBEGIN, which is not offered", &xbegin, UD, false, 0);
}

/* --- many sensitive instructions on a page, and some that change --- */

SNIP(
    many, "xor %edx, %edx",
    "sldt %eax; add %eax, %edx; sldt %eax; add %eax, %edx; mov %ds, %eax; add %eax, %edx; mov %ss, "
    "%eax; add %eax, %edx; mov %cs, %eax; add %eax, %edx; sldt %eax; add %eax, %edx; mov %edx, "
    "%eax");
SNIP(three, "xor %edx, %edx",
     "sldt %eax; add %eax, %edx; mov %ds, %eax; add %eax, %edx; mov %cs, %eax; add %edx, %eax; jmp "
     "*%rbx");
SNIP(three_done, "mov %eax, %edx",
     "sldt %eax; add %eax, %edx; mov %ds, %eax; add %eax, %edx; mov %cs, %eax; add %edx, %eax");
SNIP(loads_imm, "mov $0xd08cd88c, %eax; movabs $0xd8000f01e0000f00, %rcx", "mov $0xcd, %dl");

#define THREE (LDT_SEL + SEL_DATA3 + SEL_CODE3_64)

static void test_many(void)
{
    if (cpu_has(7, 2, 2))
        cr4_umip(false);
    shows("six on a page", &many, 3 * LDT_SEL + 2 * SEL_DATA3 + SEL_CODE3_64);
    unsigned bad = 0;
    for (unsigned n = 0; n < 5; n++) {
        memset(code_frame[1], 0xf4, PAGE);
        memcpy(code_frame[1] + 0x40, (void *)three_done.start, size_of(&three_done));
        bad += go(&three, CODE2 + 0x40) != 2 * THREE;
        bad += again(&three, CODE2 + 0x40) != 2 * THREE;
    }
    ok(!bad, "three on each of two pages, %u wrong", bad);
    go(&loads_imm, 0);
    ok(c.vec == VEC_DONE && c.gpr[AX] == 0xd08cd88c && (c.gpr[DX] & 0xff) == 0xcd,
       "immediates that look like some");
    static const u8 more[] = {0x0f, 0, 0xc0, 0x01, 0xc2, 0xcd, 0x81}; /* sldt %eax; add; int */
    for (unsigned n = 0; n < 5; n++) { /* one that stays, and one that comes */
        load_code(&sldt);
        run(&c);
        memcpy(code_frame[0] + 3, n & 1 ? "\x8c\xd8\xcd\x81" : "\x90\x90\xcd\x81", 4);
        bad += again(&sldt, 0) != (n & 1 ? SEL_DATA3 : LDT_SEL);
        memcpy(code_frame[0], more, sizeof(more));
        bad += again(&sldt, 0) != LDT_SEL;
    }
    ok(!bad, "sensitive code that comes and goes, %u wrong", bad);
}

/* --- instructions across pages --- */

/* MOV $imm32, %eax whose last two bytes are on the second page, then INT 81h. */
static u64 across(const u8 *bytes, unsigned first, unsigned all, bool fresh)
{
    if (fresh)
        memset(code_frame[0], 0x90, PAGE);
    memcpy(code_frame[0] + PAGE - first, bytes, first);
    memcpy(code_frame[1], bytes + first, all - first);
    aim(&str_, CODE2 - first);
    run(&c);
    return c.gpr[AX];
}

static void test_across(void)
{
    static const u8 one[] = {0xb8, 1, 2, 3, 4, 0xcd, 0x81};
    static const u8 nop[] = {0x0f, 0x1f, 0xc0, 0xcd, 0x81}, ldt[] = {0x0f, 0x00, 0xc0, 0xcd, 0x81};
    unsigned bad = 0;
    memset(code_frame[1], 0xf4, PAGE);
    bad += across(one, 3, sizeof(one), true) != 0x04030201;
    for (unsigned n = 0; n < 10; n++) {
        code_frame[1][0] = (u8)n;
        aim(&str_, CODE2 - 3);
        run(&c);
        bad += c.gpr[AX] != (0x04000201 | n << 16);
    }
    memcpy(frame[1], code_frame[1], PAGE);
    frame[1][1] = 0x77;
    map(CODE2, frame[1], P | U);
    aim(&str_, CODE2 - 3);
    run(&c);
    bad += c.gpr[AX] != 0x77090201;
    ok(!bad, "an instruction across pages, the second changed, %u wrong", bad);
    map(CODE2, frame[1], P | U | NX);
    aim(&str_, CODE2 - 3);
    run(&c);
    expect_fault("the second NX", PF, 0x15, CODE2);
    expect("RIP of that", c.ip, CODE2 - 3);
    map(CODE2, frame[1], 0);
    aim(&str_, CODE2 - 3);
    run(&c);
    expect_fault("the second absent", PF, 0x14, CODE2);
    map(CODE2, code_frame[1], P | U);
    aim(&str_, CODE2 - 3);
    run(&c);
    expect("and back", c.gpr[AX], 0x04090201);
    bad = 0;
    for (unsigned n = 0; n < 6; n++) {
        across(nop, 1, sizeof(nop), n == 0);
        memcpy(code_frame[1], n & 1 ? ldt + 1 : nop + 1, sizeof(ldt) - 1);
        aim(&str_, CODE2 - 1);
        c.gpr[AX] = 0x1234;
        run(&c);
        bad += c.gpr[AX] != (n & 1 ? LDT_SEL : 0x1234);
    }
    ok(!bad, "sensitive by its second page, rewritten, %u wrong", bad);
    memcpy(frame[2], ldt + 1, sizeof(ldt) - 1);
    memcpy(code_frame[1], nop + 1, sizeof(nop) - 1);
    for (unsigned n = 0; n < 6; n++) {
        map(CODE2, n & 1 ? frame[2] : code_frame[1], P | U);
        aim(&str_, CODE2 - 1);
        c.gpr[AX] = 0x1234;
        run(&c);
        bad += c.gpr[AX] != (n & 1 ? LDT_SEL : 0x1234);
    }
    ok(!bad, "sensitive by its second page, exchanged, %u wrong", bad);
    map(CODE2, code_frame[1], P | U);
}

/* --- 32-bit code in the same page --- */

/* In 64-bit code 06 58 is #UD and POP, 40 a prefix. */
static const u8 both_ways[] = {
    0x6a, SEL_CODE3_32, /* push $CS */
    0x68, 0,
    0,    0,
    0,          /* push $at */
    0x48, 0xcb, /* lretq */
    0x31, 0xc0,
    0x40, 0x40, /* 9: xor %eax, %eax; inc %eax; inc %eax */
    0x89, 0xc2,
    0x06, 0x58,         /* mov %eax, %edx; push %es; pop %eax */
    0x6a, SEL_CODE3_64, /* push $CS */
    0x68, 0,
    0,    0,
    0,    0xcb, /* push $at; lret */
    0x48, 0x01,
    0xd0, 0x90, /* 25: add %rdx, %rax */
    0xcd, VEC_DONE,
};

static void test_32bit(void)
{
    unsigned bad = 0;
    u8 *code = frame[3];
    memset(code, 0xf4, PAGE);
    memcpy(code, both_ways, sizeof(both_ways));
    *(u32 *)(code + 3) = (u32)(u64)code + 9;
    *(u32 *)(code + 20) = (u32)(u64)code + 25;
    for (unsigned n = 0; n < 5; n++) {
        aim(&str_, (u64)code); /* mapped to itself, below 4 GiB */
        c.gpr[SP] = (u64)frame[4] + 2048;
        run(&c);
        bad += c.vec != VEC_DONE || c.gpr[AX] != SEL_DATA3 + 2 || c.ip != (u64)code + 31;
    }
    ok(!bad, "to 32-bit code and back: vector %lu, RAX %lx, %u wrong", c.vec, c.gpr[AX], bad);
}

/* --- SYSCALL --- */

SNIP(entry_of_syscall, "", "int $0x82");
SNIP(do_syscall, "", "syscall");

static void test_syscall(void)
{
    unsigned bad = 0;
    wrmsr(MSR_STAR, (u64)SEL_CODE0 << 32 | (u64)SEL_CODE3_32 << 48);
    wrmsr(MSR_LSTAR, entry_of_syscall.start);
    wrmsr(MSR_SFMASK, FL_DF | FL_CF | FL_IF);
    for (unsigned n = 0; n < 20; n++) {
        struct ctx want;
        load_code(&do_syscall);
        for (unsigned k = 0; k < 16; k++)
            if (k != SP)
                c.gpr[k] = 0x9e3779b97f4a7c15 * (16 * n + k + 1);
        if (n == 7)
            c.gpr[AX] = ~0ul;
        c.flags |= n & 1 ? FL_CF | FL_DF : FL_ZF | FL_OF;
        want = c;
        want.gpr[CX] = CODE + 2;
        want.gpr[11] = want.flags;
        run(&c);
        bad += c.vec != 0x82 || c.ip != entry_of_syscall.end || c.cs != SEL_CODE0;
        for (unsigned k = 0; k < 16; k++)
            bad += c.gpr[k] != want.gpr[k];
        bad += c.flags != (want.flags & ~(u64)(FL_DF | FL_CF | FL_IF));
    }
    ok(!bad, "registers at SYSCALL's entry, %u wrong", bad);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(u64)EFER_SCE);
    load_code(&do_syscall);
    c.gpr[CX] = 5;
    c.gpr[11] = 6;
    run(&c);
    ok(c.vec == UD && c.gpr[CX] == 5 && c.gpr[11] == 6, "SYSCALL without EFER.SCE: %lu", c.vec);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
}

/* --- what is kept --- */

SNIP(wrfsbase_, "mov %rbx, %rcx; add $8, %rcx",
     "wrfsbase %rbx; wrgsbase %rcx; mov %fs:0, %rax; add "
     "%gs:0, %rax");
SNIP(fs_load, "", "mov %fs:(%rbx), %rax");
SNIP(load_fp, "fninit; fldpi; fld1; fldl2e",
     "movdqu (%rbx), %xmm0; movdqu 16(%rbx), %xmm7; movdqu 32(%rbx), %xmm15; ldmxcsr 48(%rbx); "
     "fldcw 52(%rbx)");
SNIP(store_fp, "add $64, %rbx",
     "movdqu %xmm0, (%rbx); movdqu %xmm7, 16(%rbx); movdqu %xmm15, 32(%rbx); stmxcsr 48(%rbx); "
     "fnstcw 52(%rbx); fstpt 56(%rbx); fstpt 66(%rbx); fstpt 76(%rbx)");
SNIP(load_ymm, "", "vmovdqu (%rbx), %ymm3; vmovdqu 32(%rbx), %ymm12");
SNIP(store_ymm, "", "vmovdqu %ymm3, 64(%rbx); vmovdqu %ymm12, 96(%rbx)");

SNIP(set_base, "", "wrfsbase %rbx; movl $5, (%rsi); mov (%rdi), %eax; rdfsbase %rbx");

/* Bases that no process of the host's may be given, and then pages that have not been touched. */
static void test_high_bases(void)
{
    static const u64 base[] = {0xffff800000000000, ~0ul, 0x7ffffffff800, 0x7fffffffffff, 0};
    unsigned bad = 0;
    for (unsigned n = 0; n < ARRAY_SIZE(base); n++) {
        map(DATA + PAGE, frame[7], P | W | U | NX);
        map(DATA + 20 * PAGE, frame[8], P | W | U | NX);
        wrmsr(MSR_FS_BASE, 0);
        *(volatile u32 *)frame[7] = 0;
        *(volatile u32 *)frame[8] = n + 9;
        load_code(&set_base);
        c.gpr[BX] = base[n];
        c.gpr[SI] = DATA + PAGE;
        c.gpr[DI] = DATA + 20 * PAGE;
        run(&c);
        bad += c.vec != VEC_DONE || c.gpr[BX] != base[n] || c.gpr[AX] != n + 9 ||
               *(volatile u32 *)frame[7] != 5 || rdmsr(MSR_FS_BASE) != base[n];
        go(&get_flags, 0);
        bad += c.vec != VEC_DONE || rdmsr(MSR_FS_BASE) != base[n];
    }
    ok(!bad, "WRFSBASE with any base, %u wrong", bad);
}

static void test_bases(void)
{
    if (!cpu_has(7, 1, 0)) {
        skip("WRFSBASE", "not offered");
        return;
    }
    u64 *data = (u64 *)frame[5];
    data[0] = 100;
    data[1] = 11;
    data[2] = 7;
    map(DATA, frame[5], P | W | U | NX);
    write_cr4(read_cr4() | CR4_FSGSBASE);
    ok(go(&wrfsbase_, DATA) == 111, "WRFSBASE and WRGSBASE: vector %lu, %lx", c.vec, c.gpr[AX]);
    ok(rdmsr(MSR_FS_BASE) == DATA && rdmsr(MSR_GS_BASE) == DATA + 8, "the kernel sees them");
    wrmsr(MSR_FS_BASE, DATA + 16);
    ok(go(&fs_load, 0) == 7, "user code sees the kernel's");
    wrmsr(MSR_FS_BASE, 0xffff800000000000);
    ok(go(&fs_load, DATA + 16 - 0xffff800000000000) == 7, "a base in the upper half");
    wrmsr(MSR_FS_BASE, 0);
    wrmsr(MSR_GS_BASE, 0);
    test_high_bases();
    write_cr4(read_cr4() & ~(word)CR4_FSGSBASE);
}

static void test_fpu(void)
{
    if (cmdline_number("sanitized", 0)) { /* CONTRIBUTING says what they do to vector registers */
        ok(1, "x87 and SSE are kept # SKIP in a build with sanitizers");
        return;
    }
    u32 *d = (u32 *)frame[6];
    for (unsigned n = 0; n < 12; n++)
        d[n] = 0x01010101 * (n + 1);
    d[12] = 0x1fc0; /* MXCSR.DAZ */
    d[13] = 0x27f;  /* FCW: 53 bits */
    map(DATA, frame[6], P | W | U | NX);
    go(&load_fp, DATA);
    bool good = c.vec == VEC_DONE;
    reload_cr3();
    go(&get_flags, 0);
    go(&store_fp, DATA);
    good &= c.vec == VEC_DONE && !memcmp(d, d + 16, 54);
    static const u8 st[30] = {0xbb, 0xf0, 0x17, 0x5c, 0x29, 0x3b, 0xaa, 0xb8, 0xff, 0x3f,
                              0,    0,    0,    0,    0,    0,    0,    0x80, 0xff, 0x3f,
                              0x35, 0xc2, 0x68, 0x21, 0xa2, 0xda, 0x0f, 0xc9, 0x00, 0x40};
    unsigned wrong = 0;
    for (unsigned n = 0; n < 30; n++)
        wrong += ((u8 *)d)[64 + 56 + n] != st[n];
    ok(good && wrong < 2, "x87 and SSE are kept: %u", wrong); /* log2(e) may be rounded */
    if (!cpu_has(1, 2, 28)) {
        skip("AVX", "not offered");
        return;
    }
    go(&load_ymm, DATA);
    ok(c.vec == UD, "AVX that XCR0 does not enable: vector %lu", c.vec);
    __asm__ volatile("xsetbv" : : "a"(7), "d"(0), "c"(0));
    go(&load_ymm, DATA);
    good = c.vec == VEC_DONE;
    reload_cr3();
    go(&get_flags, 0);
    go(&store_ymm, DATA);
    ok(good && c.vec == VEC_DONE && !memcmp(d, d + 16, 64), "AVX is kept");
    shows("XGETBV", &do_xgetbv, 7);
}

int main(void)
{
    start_user();
    test_shown();
    test_cpuid();
    test_flags();
    test_traps();
    test_many();
    test_across();
    test_32bit();
    test_syscall();
    test_bases();
    test_fpu();
    return 0;
}
